//! Every interleaving of two jobs with kills, suspensions, full disks, lost replies, routers that follow late or
//! never, aborts, undos, hooks that outlive their job, lost states and further releases on the other sides.
//!
//! What a job does is not modelled: `machine` and `conduct` run here as they ship, one call of a hand after the
//! other. [`hands`] gives them their answers, [`world`] is what they act on, [`moves`] is everything that may
//! happen next. Between any two calls of a job the other one, people and faults may come.
//!
//! Fencing numbers, versions and the length of leases are kept as what they are compared for: whether a job has
//! the lease, whether its time is over, whether the record is still the one that it has read or written.

use stateright::{Checker, Model, Property};
use trapkey::tools::promote::machine::{Course, Hook, State, Step, Stuck};

use super::figure;

mod defects;
mod hands;
mod moves;
mod world;

use defects::Defect;
use world::{Lease, Pc, Rule, World};

/// A world of one plan, and how much may go wrong in it.
struct Promotion {
    course: Course,
    /// So many faults of machines, disks and routers.
    faults: u8,
    /// So many promotions one after another.
    promotions: u8,
    /// Whether people ask; without it jobs alone.
    people: bool,
    /// One job works at a time.
    alone: bool,
    /// Which kinds of faults.
    kinds: Kinds,
    /// What is wrong on purpose.
    defect: Defect,
    ends: moves::Ends,
}

/// Which faults there are. Each alone keeps an exploration small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a kind of its own")]
struct Kinds {
    /// A job is killed, or stopped for longer than its lease.
    jobs: bool,
    /// A write fails, or its reply is lost.
    disks: bool,
    /// The router cannot be reached, follows late, restarts or is reloaded.
    routers: bool,
    /// The disk is full, until there is room again.
    full: bool,
    /// The state is lost.
    losses: bool,
    /// People accept and skip, and sides fall sick.
    wishes: bool,
    /// The old side must stay for a while before it is taken down.
    retires: bool,
    /// People rearrange the router.
    hands: bool,
}

impl Promotion {
    fn new(hooks: &[Hook], faults: u8) -> Self {
        Self {
            course: course(hooks),
            faults,
            promotions: 1,
            people: true,
            alone: false,
            kinds: NO_FAULTS,
            defect: Defect::None,
            ends: moves::Ends::default(),
        }
    }
}

fn course(hooks: &[Hook]) -> Course {
    let step = |weight, bake_ms| Step { weight, bake_ms, gated: !hooks.is_empty() };
    Course {
        steps: vec![step(0.1, 10), step(1.0, 0)],
        undecided_ms: 10,
        keep_ms: i64::from(!hooks.is_empty()),
        hooks: hooks.to_vec(),
    }
}

/// One move: who, what, and where it leads.
#[derive(Clone, PartialEq)]
struct Move {
    job: usize,
    what: &'static str,
    to: Box<World>,
}

impl std::fmt::Debug for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.job, self.what)
    }
}

impl Model for Promotion {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let first = World::first(self);
        // Blue is sick from the beginning: what nobody looks at then is looked at on the way back.
        let sick = World { sick: [true, false], ..first.clone() };
        if self.kinds.wishes { vec![first, sick] } else { vec![first] }
    }

    fn actions(&self, world: &World, actions: &mut Vec<Move>) {
        if world.broken.is_some() {
            return;
        }
        self.every_move(world, &mut |job, what, to| actions.push(Move { job, what, to: Box::new(to) }));
    }

    fn next_state(&self, _: &World, action: Move) -> Option<World> {
        let mut to = *action.to;
        // Two jobs are alike: which of them is the first makes no difference.
        to.jobs.sort();
        Some(to)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("green never has more than the record allows", |m: &Self, w: &World| {
                w.out_of_hand() || w.green() <= w.allowed(&m.course)
            }),
            Property::always("users always have a side", |_, w: &World| w.out_of_hand() || w.is_served()),
            Property::always("an abort is the end of its promotion", |_, w: &World| {
                !w.told.aborted || w.stored.is_none() || w.goes_back()
            }),
            Property::always(
                "when all have left, the router is as the record says",
                |m: &Self, w: &World| w.is_as_recorded(&m.course),
            ),
            Property::always("nothing wedges", |m: &Self, w: &World| m.ends_alone(w)),
        ];
        for rule in Rule::ALL {
            all.push(rule.property());
        }
        all.extend(self.goals());
        all
    }
}

impl Promotion {
    /// What must come up, so that no rule holds for want of a case.
    fn goals(&self) -> Vec<Property<Self>> {
        let mut goals = vec![
            Property::sometimes("a release is promoted", |_, w: &World| w.stands(&State::Promoted)),
            Property::sometimes("a release is rolled back", |_, w: &World| {
                w.stored.as_ref().is_some_and(|r| matches!(r.state, State::RolledBack { .. }))
            }),
            Property::sometimes("a sick old side freezes it", |_, w: &World| {
                w.stored
                    .as_ref()
                    .is_some_and(|r| matches!(r.state, State::Frozen { stuck: Stuck::OldSideSick, .. }))
            }),
        ];
        let mut goal = |wanted: bool, name, holds: fn(&Self, &World) -> bool| {
            if wanted {
                goals.push(Property::sometimes(name, holds));
            }
        };
        let Kinds { jobs, disks, routers, losses, full, wishes, retires, hands } = self.kinds;
        let (faults, hooks) = (self.faults > 0, !self.course.hooks.is_empty());
        let more = self.promotions > 1;
        goal(self.people, "an abort is on record", |_, w| w.told.aborted);
        goal(self.people, "an abort is left for a job that works", |_, w| {
            w.told.abort.is_some() && w.jobs.iter().any(|job| job.pc != Pc::Idle)
        });
        goal(more, "a further release serves on the other sides", |_, w| {
            w.stored.as_ref().is_some_and(|r| r.swapped && r.state == State::Promoted)
        });
        goal(more && self.people, "an abort of an earlier promotion is left late", |_, w| {
            let now = w.stored.as_ref().map(|r| r.id);
            w.told.abort.is_some_and(|about| Some(about.id) < now)
        });
        goal(faults && jobs, "a job that lost its lease has touched the router", |_, w| w.late);
        goal(faults && jobs && hooks, "a job waits for a hook that outlived another", |m, w| {
            w.told.orphan.is_some() && w.jobs.iter().any(|job| m.waits_for_a_hook(job))
        });
        goal(faults && jobs && more, "a job of an earlier promotion is late", |_, w| {
            let now = w.stored.as_ref().map(|r| r.id);
            w.late
                && w.jobs
                    .iter()
                    .any(|job| job.lease == Lease::None && Some(job.record.id) < now && job.runs())
        });
        goal(faults && disks, "a job works under a lease that is not written", |_, w| {
            w.jobs.iter().any(|job| job.lease == Lease::Unwritten && job.runs())
        });
        goal(faults && routers, "a router follows late", |_, w| w.router.told != w.router.live);
        goal(faults && routers, "a router that has restarted is found", |_, w| {
            w.jobs
                .iter()
                .any(|job| job.runs() && job.record.base.is_some_and(|base| base != w.router.instance))
        });
        goal(faults && full, "the disk is full while traffic goes back", |_, w| {
            w.full && w.jobs.iter().any(|job| job.runs() && job.unwritten)
        });
        goal(wishes, "a release is accepted as it stands", |_, w| {
            w.stands(&State::Promoted) && w.told.accepted == Some(false)
        });
        goal(wishes, "one that stood still is accepted", |_, w| {
            w.stands(&State::Promoted) && w.told.accepted == Some(true)
        });
        goal(wishes && faults, "one that was accepted falls sick and goes back", |_, w| {
            w.told.accepted.is_some() && !w.told.aborted && w.goes_back() && w.sick[1]
        });
        goal(wishes, "one that was accepted is called off", |_, w| {
            w.told.accepted.is_some() && w.told.aborted
        });
        goal(wishes, "a bake is ended early", |_, w| w.told.skipped && w.stands(&State::Promoted));
        goal(wishes, "a bake is ended early while the next step is held", |_, w| {
            w.told.skipped
                && w.told.paused
                && w.stored.as_ref().is_some_and(|r| matches!(r.state, State::Shifting { step: 1.. }))
        });
        goal(retires && self.people, "an undo comes while the old side waits to be taken down", |_, w| {
            w.told.undone == Some(true)
        });
        goal(retires, "a job leaves while the old side waits", |_, w| {
            w.stored.as_ref().is_some_and(|r| r.state == State::RunningRetire { begun: false })
                && w.jobs.iter().all(|job| job.pc == Pc::Idle)
        });
        goal(hands && faults, "a release is promoted over people's hands", |_, w| {
            w.faults == 0 && w.stands(&State::Promoted)
        });
        goal(hands && faults, "a release goes back because of a stranger", |_, w| {
            w.faults == 0 && !w.told.aborted && w.goes_back()
        });
        goal(faults && losses && more, "a state is lost and begun anew", |_, w| {
            w.stored.as_ref().is_some_and(|r| r.id > 1 && r.epoch == 1)
        });
        goals
    }

    fn explore(&self, name: &str) -> Explored {
        let started = std::time::Instant::now();
        let model = Self { course: self.course.clone(), ends: moves::Ends::default(), ..*self };
        let checker = model.checker().threads(2).spawn_bfs().join();
        let found = checker.discoveries();
        let (states, all) = (checker.unique_state_count(), checker.state_count());
        figure(&format!(
            "model: {name}, {} faults: {states} states ({all} moves), longest way {}, in {:.1?}",
            self.faults,
            checker.max_depth(),
            started.elapsed()
        ));
        let is_a_goal = |p: &Property<Self>| p.expectation == stateright::Expectation::Sometimes;
        let goals: Vec<&str> = self.properties().iter().filter(|p| is_a_goal(p)).map(|p| p.name).collect();
        for (rule, path) in &found {
            let end = path.clone().into_states().pop();
            assert!(goals.contains(rule), "{rule}: {:#?}\n{end:#?}", path.clone().into_actions());
        }
        for goal in goals {
            assert!(found.contains_key(goal), "{name}: it never came to this: {goal}");
        }
        assert!(checker.is_done());
        Explored { states }
    }
}

struct Explored {
    states: usize,
}

const ALL_HOOKS: &[Hook] = &[Hook::Deploy, Hook::After, Hook::OnRollback, Hook::Retire];
const NO_FAULTS: Kinds = Kinds {
    jobs: false,
    disks: false,
    routers: false,
    full: false,
    losses: false,
    wishes: false,
    retires: false,
    hands: false,
};
const WISHES: Kinds = Kinds { wishes: true, ..NO_FAULTS };
const RETIRES: Kinds = Kinds { retires: true, ..NO_FAULTS };
const HANDS: Kinds = Kinds { hands: true, ..NO_FAULTS };
const FULL: Kinds = Kinds { full: true, ..NO_FAULTS };

/// One more fault where the tests have time.
fn more(usual: u8) -> u8 {
    usual + u8::from(super::rounds(1) > 1)
}

const KILLS: Kinds = Kinds { jobs: true, ..NO_FAULTS };
const WRITES: Kinds = Kinds { disks: true, ..NO_FAULTS };
const ROUTERS: Kinds = Kinds { routers: true, ..NO_FAULTS };
const LOSSES: Kinds = Kinds { losses: true, ..NO_FAULTS };

/// Explores to its end what jobs and people may do.
fn explore(name: &str, hooks: &[Hook], faults: u8, kinds: Kinds, promotions: u8) {
    let explored = Promotion { promotions, kinds, ..Promotion::new(hooks, faults) }.explore(name);
    assert!(explored.states > 1000, "{name}: {}", explored.states);
}

/// The same with jobs alone: with people as well there are too many orders to come to an end.
fn explore_jobs(name: &str, hooks: &[Hook], faults: u8, kinds: Kinds, promotions: u8) {
    let model = Promotion { promotions, people: false, kinds, ..Promotion::new(hooks, faults) };
    let explored = model.explore(name);
    assert!(explored.states > 1000, "{name}: {}", explored.states);
}

#[test]
fn every_order_of_two_jobs_keeps_the_rules() {
    explore("two jobs", &[], 0, NO_FAULTS, 1);
    explore("two jobs and hooks", ALL_HOOKS, 0, NO_FAULTS, 1);
}

#[test]
fn every_order_of_two_promotions_on_changed_sides_keeps_the_rules() {
    explore("two promotions", &[], 0, NO_FAULTS, 2);
}

#[test]
fn every_order_with_a_kill_or_a_suspension_keeps_the_rules() {
    explore("kills and suspensions", &[], 1, KILLS, 1);
}

#[test]
fn every_order_with_a_write_that_fails_keeps_the_rules() {
    explore("writes that fail", &[], 1, WRITES, 1);
}

#[test]
fn every_order_with_a_router_that_fails_keeps_the_rules() {
    explore("routers that fail", &[], more(1), ROUTERS, 1);
}

#[test]
fn every_order_with_people_who_accept_and_skip_keeps_the_rules() {
    let alone = Promotion { alone: true, kinds: WISHES, ..Promotion::new(&[], 1) };
    let explored = alone.explore("accepts and skips, one job, and a side that falls sick");
    assert!(explored.states > 1000, "{}", explored.states);
    if more(0) > 0 {
        explore("accepts and skips", &[], 0, WISHES, 1);
        explore("accepts and skips, and a side that falls sick", &[], 1, WISHES, 1);
        explore("accepts and skips, and sides that fall sick", &[], 2, WISHES, 1);
        let both = Kinds { jobs: true, ..WISHES };
        explore("accepts and skips, kills and sick sides", &[], 1, both, 1);
    }
}

#[test]
fn every_order_with_people_who_rearrange_the_router_keeps_the_rules() {
    explore("people's hands on the router", &[], more(1), HANDS, 1);
}

#[test]
fn every_order_with_an_old_side_that_must_stay_keeps_the_rules() {
    explore("a retire hook that waits", &[Hook::Retire], 0, RETIRES, 1);
    let both = |kinds| Kinds { retires: true, ..kinds };
    explore_jobs("a retire hook that waits, and a kill", &[Hook::Retire], 1, both(KILLS), 1);
    explore_jobs("a retire hook that waits, and routers that fail", &[Hook::Retire], 1, both(ROUTERS), 1);
    if more(0) > 0 {
        explore("a retire hook that waits, people and a kill", &[Hook::Retire], 1, both(KILLS), 1);
    }
}

#[test]
fn every_order_with_hooks_and_a_kill_keeps_the_rules() {
    explore_jobs("hooks and kills", ALL_HOOKS, 1, KILLS, 1);
}

#[test]
fn every_order_with_hooks_and_a_disk_that_is_full_keeps_the_rules() {
    explore_jobs("hooks and a full disk", ALL_HOOKS, 1, FULL, 1);
}

#[test]
fn every_order_with_hooks_and_a_write_that_fails_keeps_the_rules() {
    explore_jobs("hooks and writes that fail", ALL_HOOKS, 1, WRITES, 1);
}

#[test]
fn every_order_with_a_lost_state_keeps_the_rules() {
    explore_jobs("lost states", &[], 1, LOSSES, 2);
    if more(0) > 0 {
        explore("lost states and people", &[], 1, LOSSES, 2);
    }
}

#[test]
fn every_order_of_two_promotions_and_a_kill_keeps_the_rules() {
    explore_jobs("two promotions and kills", &[], 1, KILLS, 2);
}
