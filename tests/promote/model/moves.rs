//! Everything that may happen next: the answers to what a job asks, and what people, machines and time do.

use std::collections::HashSet;
use std::sync::Mutex;

use trapkey::tools::promote::conduct::{Why, went_back};
use trapkey::tools::promote::machine::{Hook, Look, State};

use super::Promotion;
use super::defects::Defect;
use super::hands::{Answer, Call, Entry, Run};
use super::world::{About, Command, Job, Lease, Pc, Process, Record, Router, Rule, Wish, World, percent};

/// What a job finds that comes alone.
type Seen = (Record, Router, Option<About>, bool, bool);

/// Worlds from which a job that runs alone was seen to come to an end.
pub(super) type Ends = Mutex<HashSet<Seen>>;

/// Takes a move: whose, what, and where it leads.
type Add<'a> = dyn FnMut(usize, &'static str, World) + 'a;

impl Promotion {
    pub(super) fn every_move(&self, w: &World, add: &mut Add<'_>) {
        for j in 0..2 {
            self.moves(w, j, &mut |what, to| add(j, what, to));
        }
        self.surroundings(w, add);
    }

    fn run<'a>(&'a self, w: &World, job: &'a Job) -> (Run<'a>, Option<bool>) {
        Run::of(self, job, w.told.aborted)
    }

    pub(super) fn waits_for_a_hook(&self, job: &Job) -> bool {
        job.runs() && Run::of(self, job, false).0.call == Some(Call::LeftHook)
    }

    /// Everything that may happen next to one job, the good course first.
    fn moves(&self, w: &World, j: usize, add: &mut dyn FnMut(&'static str, World)) {
        let job = &w.jobs[j];
        let mut to = |what: &'static str, change: &dyn Fn(&mut World)| {
            let mut to = w.clone();
            change(&mut to);
            self.settle(to, j, &mut |to| add(what, to));
        };
        match &job.pc {
            Pc::Idle => self.starts(w, j, add),
            // Nothing can be written: another one may not take it.
            Pc::Take if w.full => to("cannot take the lease", &|w| w.end(j)),
            Pc::Take => {
                to("takes the lease", &|w| take(w, j, Lease::Written));
                if w.faults > 0 && self.kinds.disks {
                    to("takes the lease and cannot write it", &|w| {
                        w.faults -= 1;
                        take(w, j, Lease::Unwritten);
                    });
                }
            }
            Pc::Claim => to("claims the record", &|w| Self::claim(w, j)),
            Pc::LooksFirst => to("looks at the router first", &|w| Self::look_first(w, j)),
            Pc::Begins { swapped } => to("begins a promotion", &|w| self.begin(w, j, *swapped)),
            Pc::Runs(..) => self.answers(w, j, add),
        }
    }

    fn starts(&self, w: &World, j: usize, add: &mut dyn FnMut(&'static str, World)) {
        if self.alone && w.jobs[1 - j].pc != Pc::Idle {
            return;
        }
        let taken = w.jobs[1 - j].has_it() && !w.unlocked;
        if taken && self.defect != Defect::TakesWithoutWatching {
            return;
        }
        for (command, what) in [
            (Command::Step, "is called to go on"),
            (Command::Begin, "is called to begin"),
            (Command::Abort, "is called to abort"),
            (Command::Undo, "is called to undo"),
            (Command::Supersede, "is called to supersede"),
            (Command::Accept, "is called to accept it as it stands"),
            (Command::Skip, "is called to end the bake"),
        ] {
            let more = w.ids < self.promotions;
            let state = w.stored.as_ref().map(|record| &record.state);
            let makes_sense = match (command, state) {
                (Command::Begin, state) => more && state.is_none_or(State::finished),
                (_, None) => false,
                (Command::Step, Some(state)) => !state.finished(),
                (Command::Abort, Some(state)) => self.people && !state.finished() && !state.serves(),
                (Command::Undo, Some(state)) => self.people && state.can_be_undone(),
                (Command::Supersede, Some(state)) => {
                    self.people && more && !state.finished() && !state.serves()
                }
                // Elsewhere it is refused at once.
                (Command::Accept, Some(state)) => {
                    self.kinds.wishes
                        && matches!(
                            state,
                            State::Baking { .. } | State::Shifting { .. } | State::Frozen { .. }
                        )
                }
                (Command::Skip, Some(state)) => self.kinds.wishes && matches!(state, State::Baking { .. }),
            };
            if makes_sense {
                let mut w = w.clone();
                let record = w.stored.clone();
                let job = &mut w.jobs[j];
                *job = Job { command, pc: Pc::Take, fresh: true, lease_fresh: true, ..Job::idle() };
                if let Some(record) = record {
                    job.record = record;
                }
                add(what, w);
            }
        }
    }

    /// Under the lease the record is written anew, and what was called for begins.
    fn claim(w: &mut World, j: usize) {
        let job = &mut w.jobs[j];
        if !job.fresh || !job.may() || w.full {
            return w.end(j);
        }
        let job = &mut w.jobs[j];
        (job.wrote, w.jobs[1 - j].fresh, w.jobs[1 - j].wrote) = (true, false, false);
        let job = &mut w.jobs[j];
        let state = job.record.state.clone();
        let entry = match job.command {
            Command::Begin => {
                job.pc = Pc::LooksFirst;
                return;
            }
            _ if state.finished() => return w.end(j),
            Command::Step => Entry::GoOn,
            Command::Abort | Command::Supersede if state.serves() && !state.can_be_undone() => {
                return w.end(j);
            }
            Command::Abort | Command::Supersede => Entry::CallOff,
            Command::Undo if !state.can_be_undone() => return w.end(j),
            Command::Undo => Entry::Undo,
            Command::Accept => Entry::Grant(Wish::Accept),
            Command::Skip => Entry::Grant(Wish::Skip),
        };
        job.pc = Pc::Runs(entry, Vec::new());
    }

    /// A promotion begins only where all users are on blue. Which side that is, is the plan's to say.
    fn look_first(w: &mut World, j: usize) {
        let swapped = match &w.stored {
            Some(record) => record.swapped != (record.state == State::Promoted),
            None => w.router.live == 100,
        };
        let seen = w.router.read(&Record { swapped, ..w.jobs[j].record.clone() });
        if seen != Some(0) || w.router.told != w.router.live {
            return w.end(j);
        }
        w.jobs[j].pc = Pc::Begins { swapped };
    }

    fn begin(&self, w: &mut World, j: usize, swapped: bool) {
        let job = &w.jobs[j];
        if !job.fresh || !job.may() || w.full {
            return w.end(j);
        }
        let epoch = w.stored.as_ref().map_or(0, |record| record.epoch) + 1;
        let record = Record { id: w.ids + 1, epoch, swapped, state: State::first(&self.course), base: None };
        w.begin(j, record.clone());
        let job = &mut w.jobs[j];
        (job.record, job.command) = (record, Command::Step);
        job.pc = Pc::Runs(Entry::Turn, Vec::new());
    }

    /// Lets a job go on to what it asks the world next: what is only between it and itself is no step.
    fn settle(&self, mut w: World, j: usize, add: &mut dyn FnMut(World)) {
        if !w.jobs[j].runs() || w.broken.is_some() {
            return add(w);
        }
        let job = w.jobs[j].clone();
        let (run, ended) = self.run(&w, &job);
        if let Some(well) = ended {
            let back = matches!(run.record.state, State::RolledBack { .. });
            if well && back && job.command == Command::Supersede && !run.unwritten {
                // Within the same call and lease.
                w.jobs[j].record = run.record.clone();
                (w.jobs[j].pc, w.jobs[j].command) = (Pc::LooksFirst, Command::Begin);
            } else {
                w.end(j);
            }
            return add(w);
        }
        if let Some((record, unwritten)) = run.turned.clone() {
            let job = &mut w.jobs[j];
            (job.record, job.unwritten) = (record, unwritten);
            job.pc = Pc::Runs(Entry::Turn, Vec::new());
        }
        let Some(call) = run.call.clone() else { return add(w) };
        if only_looks(&call) {
            return self.answers(&w, j, &mut |_, to| add(to));
        }
        let Some(answers) = self.quiet(&call, &run) else { return add(w) };
        for answer in answers {
            let mut w = w.clone();
            answered(&mut w, j, answer);
            self.settle(w, j, add);
        }
    }

    /// The answers that depend on nothing that others do.
    fn quiet(&self, call: &Call, run: &Run<'_>) -> Option<Vec<Answer>> {
        let state = &run.record.state;
        Some(match call {
            Call::LooksOnce | Call::RetireWaits => vec![Answer::Is(false), Answer::Is(true)],
            Call::Now if matches!(state, State::KeepingBlue { until_ms: Some(_) }) => {
                vec![Answer::Ms(10), Answer::Ms(0)]
            }
            Call::Now => vec![Answer::Ms(0)],
            Call::Clock if matches!(state, State::Shifting { step: 1.. }) => {
                vec![Answer::Is(false), Answer::Is(true)]
            }
            Call::Clock | Call::TooLong => vec![Answer::Is(false)],
            Call::Health { .. } if !self.kinds.wishes => vec![Answer::Is(true), Answer::Is(false)],
            Call::Look => {
                [(Look::Good, 10), (Look::Good, 5), (Look::Bad, 5), (Look::Unknown, 10), (Look::Unknown, 20)]
                    .map(|(look, at_ms)| Answer::Looked(look, at_ms))
                    .to_vec()
            }
            _ => return None,
        })
    }

    /// The answers that the world has for what a job asks.
    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    fn answers(&self, w: &World, j: usize, add: &mut dyn FnMut(&'static str, World)) {
        let job = &w.jobs[j];
        let (run, _) = self.run(w, job);
        let Some(call) = run.call.clone() else { return };
        let record = &run.record;
        let mut to = |what: &'static str, answer: Answer, change: &dyn Fn(&mut World)| {
            let mut to = w.clone();
            change(&mut to);
            answered(&mut to, j, answer);
            self.settle(to, j, &mut |to| add(what, to));
        };
        let nothing = |_: &mut World| {};
        let fault = |kind: bool| kind && w.faults > 0;
        let (disks, routers) = (fault(self.kinds.disks), fault(self.kinds.routers));
        let still = job.may()
            || (self.defect == Defect::UnwrittenIsHeld && job.lease == Lease::Unfenced)
            || self.defect == Defect::TouchesWithoutLooking;
        match call {
            Call::Abort => {
                let asked = w.told.abort.is_some_and(|about| match self.defect {
                    Defect::AbortByNumber => about.epoch == record.epoch,
                    _ => about == record.about(),
                });
                to("looks for an abort", Answer::Is(asked), &|w| {
                    if asked && w.told.abort != Some(record.about()) {
                        w.break_rule(Rule::AbortOfAnother);
                    }
                });
            }
            Call::Wish(asked) => {
                let wish = asked.or(w.told.wish);
                let granted = wish.filter(|wish| Self::may(w, record, *wish));
                to("looks what is asked of it", Answer::Granted(granted), &|w| {
                    // It is heeded once.
                    w.told.wish = w.told.wish.filter(|_| asked.is_some());
                    let stood_still = matches!(record.state, State::Frozen { .. });
                    if granted == Some(Wish::Accept) && stood_still && w.told.abort == Some(record.about()) {
                        w.told.abort = None;
                    }
                });
            }
            Call::Health { blue } => {
                to("looks at a side", Answer::Is(!w.is_sick(record, blue)), &nothing);
            }
            Call::LastLook => {
                to("looks once more", Answer::Is(w.is_sick(record, false)), &nothing);
            }
            Call::Gate => to("looks at the gate", Answer::Is(w.told.paused), &nothing),
            Call::Renewed => match job.lease {
                Lease::Written if !job.overdue => to("has its lease", Answer::Done, &nothing),
                Lease::Unwritten | Lease::Unfenced if self.defect == Defect::UnwrittenIsHeld => {
                    to("has its lease", Answer::Done, &nothing);
                }
                Lease::Unwritten => {
                    to("can write its lease now", Answer::Done, &|w| {
                        w.jobs[j].lease = Lease::Written;
                        w.jobs[1 - j].lease_fresh = false;
                    });
                    to("cannot write its lease", Answer::Away, &nothing);
                }
                _ => to("finds that its lease is over", Answer::Lost, &nothing),
            },
            Call::StillMine if still => to("still has the lease", Answer::Done, &|w| {
                w.jobs[j].looked = w.jobs[j].may();
                if w.jobs[j].has_it() {
                    restored(w, j);
                }
            }),
            Call::StillMine => to("finds that its lease is over", Answer::Lost, &nothing),
            Call::Journal if !job.may() => to("may not write the journal", Answer::Lost, &nothing),
            Call::Journal if w.full => to("cannot write the journal", Answer::Away, &nothing),
            Call::Journal => {
                to("writes the journal", Answer::Done, &nothing);
                // In a folder there is no place for it where the state was lost; in a bucket there is.
                if w.unlocked {
                    to("has no place for the journal", Answer::Away, &nothing);
                }
                if disks {
                    to("cannot write the journal", Answer::Away, &|w| w.faults -= 1);
                }
            }
            Call::Save(_) if w.full => to("cannot write the record", Answer::Away, &nothing),
            // A record that was removed is written anew, under the lease.
            Call::Save(_) if !job.may() || !(job.fresh || w.stored.is_none()) => {
                to("may not write the record", Answer::Lost, &nothing);
            }
            Call::Save(event) => {
                to("writes the record", Answer::Done, &|w| {
                    if w.stored.is_none() {
                        restored(w, j);
                    }
                    let before = w.stored.as_ref().filter(|stored| stored.id == record.id);
                    if let Some(rule) = before.and_then(|stored| run.breaks(&stored.state, event.as_ref())) {
                        w.break_rule(rule);
                    }
                    w.write(j, record.clone(), event.as_ref());
                });
                if disks {
                    to("cannot write the record", Answer::Away, &|w| w.faults -= 1);
                    to("loses the reply to its record", Answer::Away, &|w| {
                        w.faults -= 1;
                        w.write(j, record.clone(), event.as_ref());
                    });
                }
            }
            Call::Live { awaited } => {
                let looks_again = matches!(record.state, State::Shifting { .. });
                let due = match self.defect {
                    Defect::NeverReconciles => record.state.settled(&self.course).map(percent),
                    Defect::LooksAgainWithTheWeightOn if looks_again => Some(10),
                    _ => w.router.read(record),
                };
                to("reads the router", due.map_or(Answer::Away, Answer::Share), &nothing);
                if fault(self.kinds.hands) {
                    to("finds it rearranged by people", Answer::Rearranged(0), &|w| {
                        w.faults -= 1;
                        w.router.rearrange(record);
                    });
                    let share = due.unwrap_or_default();
                    to("finds servers taken out by people", Answer::Rearranged(share), &|w| w.faults -= 1);
                    to("finds all of blue taken out", Answer::Awaited, &|w| w.faults -= 1);
                    to("finds blue back in service", Answer::Returned, &|w| w.faults -= 1);
                    to("finds users on neither side", Answer::Astray, &|w| w.faults -= 1);
                }
                if routers {
                    to("cannot read the router", Answer::Away, &|w| w.faults -= 1);
                    if awaited {
                        to("waits for the router", Answer::Awaited, &|w| w.faults -= 1);
                    }
                }
            }
            Call::BeganAnew => {
                to("asks which process it is", Answer::InForce(w.router.instance), &nothing);
            }
            Call::Tell { share, why } => {
                let passed = matches!(why, Why::Step(step) if run.seen.open != Some(step));
                to("tells the router", Answer::Done, &|w| {
                    if passed {
                        w.break_rule(Rule::GatePassed);
                    }
                    w.shift(j, record, share, true);
                });
                if routers {
                    let forgets = self.defect == Defect::WayBackIsTakenBack && why == Why::Rollback;
                    let before = w.router.told;
                    let tells = |w: &mut World, at_once: bool| {
                        w.faults -= 1;
                        w.shift(j, record, share, at_once);
                        if forgets {
                            w.router.told = before;
                        }
                    };
                    to("tells the router and hears nothing", Answer::Away, &|w| tells(w, true));
                    to("tells a router that follows later", Answer::Done, &|w| tells(w, false));
                    to("cannot reach the router", Answer::Away, &|w| w.faults -= 1);
                }
            }
            Call::ReadBack(share) if w.router.read(record) == Some(share) => {
                to("reads back what it asked", Answer::InForce(w.router.instance), &nothing);
            }
            Call::ReadBack(_) => {
                to("reads back another share", Answer::NotInForce(false), &nothing);
                to("waits, and reads back another share", Answer::NotInForce(true), &nothing);
            }
            Call::Drain { .. } => {
                to("drains a side", Answer::Done, &|w| w.drains(j));
                if routers {
                    to("cannot drain a side", Answer::Away, &|w| w.faults -= 1);
                }
            }
            // It looks at the side first: one that has users again is left as it is.
            Call::Close { blue }
                if w.router.has_users(record, blue) && self.defect != Defect::NeverReconciles =>
            {
                to("finds users on the side again", Answer::Away, &|w| w.jobs[j].looked = false);
            }
            Call::Close { blue } => {
                to("takes a side out of service", Answer::Done, &|w| {
                    if blue && w.told.accepted.is_some() && !run.seen.well {
                        w.break_rule(Rule::Unwell);
                    }
                    w.take_out(j, record, blue);
                });
                if routers {
                    to("cannot take a side out of service", Answer::Away, &|w| w.faults -= 1);
                }
            }
            Call::LeftHook => {
                let other = w.other_hook(j, record.id);
                let aborted = w.told.abort == Some(record.about()) && !went_back(&record.state);
                if !other || self.defect == Defect::OrphanIsNotSeen {
                    to("sees no hook", Answer::Is(false), &nothing);
                } else if aborted {
                    to("sees that a hook is at work", Answer::Is(true), &nothing);
                }
                // Else it waits until the hook has ended.
            }
            Call::ReadyHook => to("has a hook ready", Answer::Done, &|w| w.jobs[j].hook = Process::Ready),
            Call::StartHook(hook) => {
                to("starts a hook", Answer::Done, &|w| {
                    if hook == Hook::Retire {
                        let cases = [
                            (self.kinds.retires && !run.seen.unneeded, Rule::RetireEarly),
                            (!run.seen.all_on_green, Rule::RetireWithUsers),
                            (w.told.undone.is_some(), Rule::RetireAfterUndo),
                        ];
                        cases
                            .into_iter()
                            .filter(|(breaks, _)| *breaks)
                            .for_each(|(_, rule)| w.break_rule(rule));
                    }
                    w.start_hook(j, record.id, hook);
                });
            }
            Call::EndHook => {
                for ok in [true, false] {
                    to("its hook ends", Answer::Is(ok), &|w| w.jobs[j].hook = Process::None);
                }
            }
            Call::Theirs => {
                let theirs = w.stored.as_ref().filter(|_| self.defect != Defect::LeavesALateSet);
                let same = |stored: &Record| {
                    let own = (stored.id, stored.swapped) == (record.id, record.swapped);
                    own || self.defect == Defect::PutsRightWhatIsNotItsOwn
                };
                // Where nobody decides any more, its patience ends.
                let decides = |stored: &Record| {
                    stored.state.due(&self.course).is_some() || w.jobs[1 - j].pc != Pc::Idle
                };
                let answer = theirs
                    .filter(|stored| decides(stored))
                    .map(|stored| (job.wrote, same(stored), stored.state.clone()));
                let another = theirs.is_some_and(|stored| stored.about() != record.about());
                to("reads the record of the other", Answer::Theirs(answer.clone()), &|w| {
                    if another && answer.as_ref().is_some_and(|(_, same, _)| *same) {
                        w.break_rule(Rule::NotItsOwn);
                    }
                });
            }
            Call::PutRight(share) => to("puts it right", Answer::Is(true), &|w| {
                // It may have been stopped since it read, for as long as another promotion takes: what no router
                // can refuse it is as late as a first touch can be.
                let own = w.stored.as_ref().is_some_and(|stored| stored.about() == record.about());
                w.router.tell(record, share, true);
                let due = w.stored.as_ref().and_then(|stored| stored.state.due(&self.course));
                let rightly = own && due.map(percent) == Some(share);
                // The record may have gone on since it was read; it is read once more.
                (w.late, w.jobs[j].touched_late) = (!rightly, !rightly);
            }),
            // It waits until the gate opens, or somebody aborts.
            Call::WaitAtTheGate => {
                if !w.told.paused || w.told.abort == Some(record.about()) {
                    to("has waited at the gate", Answer::Done, &nothing);
                }
            }
            Call::WaitForTheirs => {
                let state = w.stored.as_ref().map(|record| &record.state);
                let waits = state.is_some_and(|state| {
                    state.due(&self.course).is_none() && !matches!(state, State::Frozen { .. })
                });
                // It waits until the other job has decided, or is gone.
                if !waits || w.jobs[1 - j].pc == Pc::Idle {
                    // It asks for the same again: how often it has asked makes no difference.
                    let mut w = w.clone();
                    if let Pc::Runs(_, script) = &mut w.jobs[j].pc {
                        script.pop();
                    }
                    self.settle(w, j, &mut |to| add("has waited", to));
                }
            }
            Call::LooksOnce | Call::Now | Call::Clock | Call::TooLong | Call::Look | Call::RetireWaits => {
                unreachable!("it is quiet")
            }
        }
    }

    /// What people, machines and time do.
    fn surroundings(&self, w: &World, add: &mut Add<'_>) {
        let mut to = |j: usize, what: &'static str, change: &dyn Fn(&mut World)| {
            let mut to = w.clone();
            change(&mut to);
            add(j, what, to);
        };
        if self.people {
            let under_way = w.stored.as_ref().filter(|r| !r.state.finished() && !r.state.serves());
            let about = under_way.map(Record::about);
            if about.is_some() && w.told.asking.is_none() && w.told.abort != about {
                to(2, "somebody looks what there is to abort", &|w| w.told.asking = about);
            }
            if let Some(about) = w.told.asking {
                to(2, "somebody asks for an abort", &|w| {
                    (w.told.abort, w.told.asking) = (Some(about), None);
                });
            }
            if under_way.is_some_and(|_| !self.course.hooks.is_empty() || self.kinds.wishes) {
                to(2, "somebody pauses or resumes", &|w| w.told.paused = !w.told.paused);
            }
            // A wish is left where a job works; to an idle one people say it themselves.
            let works = w.jobs.iter().any(Job::runs);
            if self.kinds.wishes && under_way.is_some() && works && w.told.wish.is_none() {
                to(2, "somebody asks to accept it", &|w| w.told.wish = Some(Wish::Accept));
                to(2, "somebody asks to end the bake", &|w| w.told.wish = Some(Wish::Skip));
            }
        }
        if w.told.orphan.is_some() {
            to(2, "a hook that outlived its job ends", &|w| w.told.orphan = None);
        }
        if w.router.told != w.router.live {
            to(2, "the router follows", &|w| w.router.follow());
        }
        if w.told.back && !w.out_of_hand() && w.told_green().is_some_and(|green| green > 0) {
            to(2, "the way back is found to be lost", &|w| w.break_rule(Rule::WayBackLost));
        }
        if w.full {
            to(2, "there is room on the disk again", &|w| w.full = false);
        }
        if w.faults == 0 {
            return;
        }
        for j in 0..2 {
            let job = &w.jobs[j];
            if job.pc == Pc::Idle || !self.kinds.jobs {
                continue;
            }
            to(j, "is killed", &|w| {
                w.faults -= 1;
                w.die(j);
            });
            if job.has_it() {
                to(j, "is stopped for longer than its lease", &|w| {
                    w.faults -= 1;
                    w.jobs[j].overdue = true;
                });
            }
        }
        if self.kinds.routers {
            to(2, "the router restarts on its first configuration", &|w| {
                w.faults -= 1;
                w.router.instance += 1;
                let blue_alone = if w.stored.as_ref().is_some_and(|record| record.swapped) { 100 } else { 0 };
                (w.router.live, w.router.told, w.router.out) = (blue_alone, blue_alone, [false; 2]);
            });
        }
        if self.kinds.wishes {
            for (side, what) in
                [(0, "the first side falls sick, or is well again"), (1, "the second one does")]
            {
                to(2, what, &|w| {
                    w.faults -= 1;
                    w.sick[side] = !w.sick[side];
                });
            }
        }
        if self.kinds.full && !w.full {
            to(2, "the disk is full", &|w| {
                w.faults -= 1;
                w.full = true;
            });
        }
        if self.kinds.losses && w.stored.is_some() {
            to(2, "the state is lost", &|w| {
                w.faults -= 1;
                (w.stored, w.told.abort, w.told.paused, w.unlocked) = (None, None, false, true);
                for job in &mut w.jobs {
                    (job.fresh, job.lease_fresh, job.wrote) = (false, false, false);
                }
            });
        }
    }

    /// Whether what somebody asks may be, as `promote accept` and `promote skip` see it.
    fn may(w: &World, record: &Record, wish: Wish) -> bool {
        let frozen = matches!(record.state, State::Frozen { .. });
        let left = w.told.abort == Some(record.about()) && !frozen;
        let held = w.told.paused || w.is_sick(record, false) || left;
        match (wish, &record.state) {
            (Wish::Skip, State::Baking { .. }) => !held,
            (Wish::Accept, State::Baking { .. } | State::Shifting { step: 1.. } | State::Frozen { .. }) => {
                !held && w.router.green(record) > 0 && (frozen || w.is_sick(record, true))
            }
            _ => false,
        }
    }

    /// Whether a job that runs alone, with no more faults, comes to an end with the router as it says.
    pub(super) fn ends_alone(&self, world: &World) -> bool {
        let Some(stored) = world.stored.clone() else { return true };
        let out_of_hand = world.out_of_hand();
        let key = (stored, world.router, world.told.abort, world.told.aborted, out_of_hand);
        if key.0.state.finished() || self.ends.lock().unwrap().contains(&key) {
            return true;
        }
        let mut w = world.clone();
        (w.faults, w.told.paused, w.told.asking, w.told.orphan, w.broken) = (0, false, None, None, None);
        (w.full, w.unlocked, w.sick, w.told.wish) = (false, false, [false; 2], None);
        w.jobs = [Job::idle(), Job::idle()];
        w.router.follow();
        for _ in 0..600 {
            let stands = w.stored.as_ref().expect("nobody loses it");
            if w.jobs[0].pc == Pc::Idle && stands.state.finished() {
                // While blue is taken down nobody moves traffic any more. A router that restarts then, or a late
                // touch whose job died at once, is found after the end: `still_holds` names it.
                let lost = stands.base != Some(w.router.instance) || out_of_hand;
                let forgot = stands.state == State::Promoted && lost;
                let as_recorded = forgot || stands.state.due(&self.course).map(percent) == Some(w.green());
                let kept_its_word = !world.told.aborted || w.green() == 0;
                let good = as_recorded && (forgot || w.is_served()) && kept_its_word;
                if good {
                    self.ends.lock().unwrap().insert(key);
                }
                return good;
            }
            let mut first = None;
            self.moves(&w, 0, &mut |_, to| {
                first.get_or_insert(to);
            });
            match first {
                Some(next) if next.broken.is_none() => w = next,
                _ => return false,
            }
        }
        false
    }
}

/// Takes the lease where it still is the one that was read. Whoever had it has it no more.
fn take(w: &mut World, j: usize, lease: Lease) {
    if !w.jobs[j].lease_fresh {
        return w.end(j);
    }
    let other = &mut w.jobs[1 - j];
    let robbed = other.has_it() && !w.unlocked;
    w.unlocked = false;
    if lease == Lease::Written {
        other.lease = match other.lease {
            Lease::Unwritten | Lease::Unfenced => Lease::Unfenced,
            Lease::None | Lease::Written => Lease::None,
        };
        other.lease_fresh = false;
    }
    if robbed {
        w.break_rule(Rule::Robbed);
    }
    let job = &mut w.jobs[j];
    (job.lease, job.pc) = (lease, Pc::Claim);
}

/// Calls that change nothing that others see. They are answered as early as they can be: what comes after them is
/// what the job does not know of when it acts, and what would have come before them it would only have heeded.
fn only_looks(call: &Call) -> bool {
    matches!(
        call,
        Call::Abort | Call::Gate | Call::Renewed | Call::StillMine | Call::Journal | Call::BeganAnew
    )
}

/// A lease that was removed is written anew by its holder: whoever has seen that there was none takes it no more.
fn restored(w: &mut World, j: usize) {
    if std::mem::take(&mut w.unlocked) {
        w.jobs[1 - j].lease_fresh = false;
    }
}

fn answered(w: &mut World, j: usize, answer: Answer) {
    if let Pc::Runs(_, script) = &mut w.jobs[j].pc {
        script.push(answer);
    }
}
