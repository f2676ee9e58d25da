//! What jobs act on: the record, the leases, the router, what people ask, and the processes of hooks.

use stateright::Property;
use trapkey::tools::promote::conduct::{going_back, went_back};
use trapkey::tools::promote::machine::{Course, Event, Hook, State};

use super::Promotion;
use super::hands::{Answer, Entry};

/// What a promotion remembers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Record {
    /// No two promotions have the same.
    pub id: u8,
    /// Its number; it begins anew where the state is lost.
    pub epoch: u8,
    /// Green is the first of the two sides, not the second.
    pub swapped: bool,
    pub state: State,
    /// Which process of the router took the share that is on record.
    pub base: Option<u8>,
}

/// Which promotion somebody means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct About {
    pub id: u8,
    pub epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lease {
    /// It has none, or another job has taken it.
    None,
    /// It could not be written.
    Unwritten,
    /// It was never written, and another job has taken it.
    Unfenced,
    Written,
}

/// What a job was called to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Command {
    Begin,
    Step,
    Abort,
    Undo,
    Supersede,
    Accept,
    Skip,
}

/// What somebody asks of a promotion that goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Wish {
    /// To close it as it stands.
    Accept,
    /// To end the bake.
    Skip,
}

/// Where a job goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Pc {
    Idle,
    /// It has read the lease and the record.
    Take,
    /// It has the lease, and writes the record under its own number.
    Claim,
    /// It looks at the router before it begins a promotion.
    LooksFirst,
    Begins {
        swapped: bool,
    },
    /// `conduct`, with the answers since its last turn began.
    Runs(Entry, Vec<Answer>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Job {
    pub command: Command,
    pub pc: Pc,
    /// The record as this turn began with it.
    pub record: Record,
    /// A write has failed while traffic went back.
    pub unwritten: bool,
    pub lease: Lease,
    /// It was stopped for longer than its lease.
    pub overdue: bool,
    /// The record still is what it has read or written.
    pub fresh: bool,
    /// The lease still is what it has read.
    pub lease_fresh: bool,
    /// The record is of its own hand.
    pub wrote: bool,
    /// It has seen that the lease is its own, and has not touched the router since.
    pub looked: bool,
    /// It has touched the router after its lease was over, and has not put that right.
    pub touched_late: bool,
    pub hook: Process,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Router {
    /// The second side's share, in percent, as requests meet it.
    pub live: u8,
    /// The same as it was told last.
    pub told: u8,
    /// The sides that are out of service.
    pub out: [bool; 2],
    /// Which process it is.
    pub instance: u8,
}

/// The hook of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Process {
    #[default]
    None,
    /// Its process is there, and waits for the word to begin.
    Ready,
    Runs,
}

/// What people have asked, and what has been done in this promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Told {
    pub abort: Option<About>,
    /// Somebody has read which promotion stands there, and is about to ask.
    pub asking: Option<About>,
    pub paused: bool,
    /// What somebody asks of the job that works.
    pub wish: Option<Wish>,
    /// It was closed as it stands, by somebody; where it stood still before.
    pub accepted: Option<bool>,
    /// A bake was ended early.
    pub skipped: bool,
    /// It was undone; while the old side was to be taken down.
    pub undone: Option<bool>,
    /// A hook of this promotion that outlived its job.
    pub orphan: Option<u8>,
    /// An abort is on record.
    pub aborted: bool,
    /// The router was told to take everybody back.
    pub back: bool,
    /// How often each step was recorded as in force, and each hook was started.
    pub shifted: [u8; 2],
    pub hooks: [u8; 4],
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct World {
    pub stored: Option<Record>,
    pub ids: u8,
    pub router: Router,
    pub told: Told,
    pub faults: u8,
    /// The first and the second side are not well.
    pub sick: [bool; 2],
    /// Nothing can be written.
    pub full: bool,
    /// The lease was removed with the state: its holder does not know, and anybody may take it.
    pub unlocked: bool,
    pub jobs: [Job; 2],
    /// What the router does comes from a job that had lost its lease meanwhile.
    pub late: bool,
    /// Such a job has left or died without putting that right.
    pub orphaned: bool,
    pub broken: Option<Rule>,
}

/// Rules that a move breaks, not a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Rule {
    Reopened,
    Rogue,
    MoreAfterAnAbort,
    Robbed,
    HookTwice,
    TwoHooks,
    StepTwice,
    AbortOfAnother,
    NotItsOwn,
    WayBackLost,
    GatePassed,
    Unwell,
    AbortUnheard,
    RetireEarly,
    RetireWithUsers,
    RetireAfterUndo,
    HandsAreNoReason,
    OldBake,
    Astray,
}

impl Rule {
    pub(super) const ALL: [Self; 19] = [
        Self::Reopened,
        Self::Rogue,
        Self::MoreAfterAnAbort,
        Self::Robbed,
        Self::HookTwice,
        Self::TwoHooks,
        Self::StepTwice,
        Self::AbortOfAnother,
        Self::NotItsOwn,
        Self::WayBackLost,
        Self::GatePassed,
        Self::Unwell,
        Self::AbortUnheard,
        Self::RetireEarly,
        Self::RetireWithUsers,
        Self::RetireAfterUndo,
        Self::HandsAreNoReason,
        Self::OldBake,
        Self::Astray,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Reopened => "a finished release is never opened again",
            Self::Rogue => "only a job that has looked touches the router",
            Self::MoreAfterAnAbort => "after an abort green never gets more",
            Self::Robbed => "nobody loses a lease that is renewed",
            Self::HookTwice => "no hook is started twice",
            Self::TwoHooks => "no two hooks are at work",
            Self::StepTwice => "no step is recorded twice",
            Self::AbortOfAnother => "an abort meets the promotion that was meant",
            Self::NotItsOwn => "a late job puts nothing right that it can see is not its own",
            Self::WayBackLost => "a way back that was ordered stays ordered",
            Self::GatePassed => "no step is taken past a gate that was not seen open",
            Self::Unwell => "an accept closes only once users were seen to be well on green",
            Self::AbortUnheard => "an abort that came meanwhile wins over a shift",
            Self::RetireEarly => "no retire hook runs while somebody may need the old side",
            Self::RetireWithUsers => "no retire hook runs where the old side may have users",
            Self::RetireAfterUndo => "no retire hook runs after an undo",
            Self::HandsAreNoReason => "what people have rearranged is put back, and no reason to go back",
            Self::OldBake => "no bake counts in which the split was not there",
            Self::Astray => "nothing goes forward while users are on neither side",
        }
    }

    pub(super) fn property(self) -> Property<Promotion> {
        // A condition of stateright captures nothing.
        let condition: fn(&Promotion, &World) -> bool = match self {
            Self::Reopened => |_, w| w.broken != Some(Self::Reopened),
            Self::Rogue => |_, w| w.broken != Some(Self::Rogue),
            Self::MoreAfterAnAbort => |_, w| w.broken != Some(Self::MoreAfterAnAbort),
            Self::Robbed => |_, w| w.broken != Some(Self::Robbed),
            Self::HookTwice => |_, w| w.broken != Some(Self::HookTwice),
            Self::TwoHooks => |_, w| w.broken != Some(Self::TwoHooks),
            Self::StepTwice => |_, w| w.broken != Some(Self::StepTwice),
            Self::AbortOfAnother => |_, w| w.broken != Some(Self::AbortOfAnother),
            Self::NotItsOwn => |_, w| w.broken != Some(Self::NotItsOwn),
            Self::WayBackLost => |_, w| w.broken != Some(Self::WayBackLost),
            Self::GatePassed => |_, w| w.broken != Some(Self::GatePassed),
            Self::Unwell => |_, w| w.broken != Some(Self::Unwell),
            Self::AbortUnheard => |_, w| w.broken != Some(Self::AbortUnheard),
            Self::RetireEarly => |_, w| w.broken != Some(Self::RetireEarly),
            Self::RetireWithUsers => |_, w| w.broken != Some(Self::RetireWithUsers),
            Self::RetireAfterUndo => |_, w| w.broken != Some(Self::RetireAfterUndo),
            Self::HandsAreNoReason => |_, w| w.broken != Some(Self::HandsAreNoReason),
            Self::OldBake => |_, w| w.broken != Some(Self::OldBake),
            Self::Astray => |_, w| w.broken != Some(Self::Astray),
        };
        Property::always(self.word(), condition)
    }
}

pub(super) fn percent(share: f64) -> u8 {
    (0..=100_u8).find(|p| (f64::from(*p) / 100.0 - share).abs() < 1e-9).unwrap()
}

fn hook_number(hook: Hook) -> usize {
    [Hook::Deploy, Hook::After, Hook::OnRollback, Hook::Retire].iter().position(|h| *h == hook).unwrap()
}

impl Record {
    pub(super) fn about(&self) -> About {
        About { id: self.id, epoch: self.epoch }
    }

    /// Which of the two sides is green.
    pub(super) fn green(&self) -> usize {
        usize::from(!self.swapped)
    }
}

impl Job {
    pub(super) fn idle() -> Self {
        // What an idle job has read is forgotten, so that worlds that are the same look the same.
        let state = State::RolledBack { reason: String::new() };
        Self {
            command: Command::Step,
            pc: Pc::Idle,
            record: Record { id: 0, epoch: 0, swapped: false, state, base: None },
            unwritten: false,
            lease: Lease::None,
            overdue: false,
            fresh: false,
            lease_fresh: false,
            wrote: false,
            looked: false,
            touched_late: false,
            hook: Process::None,
        }
    }

    /// By the lease and by its own clock.
    pub(super) fn has_it(&self) -> bool {
        self.lease == Lease::Written && !self.overdue
    }

    /// Also where it could not be written, and nobody else has written one.
    pub(super) fn may(&self) -> bool {
        self.has_it() || self.lease == Lease::Unwritten
    }

    pub(super) fn runs(&self) -> bool {
        matches!(self.pc, Pc::Runs(..))
    }
}

impl Router {
    pub(super) fn green(self, record: &Record) -> u8 {
        if record.swapped { 100 - self.live } else { self.live }
    }

    /// The share that the router would tell; none where nothing serves.
    pub(super) fn read(self, record: &Record) -> Option<u8> {
        let live = match (self.live, self.out) {
            (0, [true, _]) | (100, [_, true]) | (_, [true, true]) => return None,
            (_, [true, _]) => 100,
            (_, [_, true]) => 0,
            (live, _) => live,
        };
        Some(if record.swapped { 100 - live } else { live })
    }

    /// Whether a side has users.
    pub(super) fn has_users(self, record: &Record, blue: bool) -> bool {
        let green = self.green(record);
        if blue { green < 100 } else { green > 0 }
    }

    /// Tells it green's share; it follows at once, or later.
    pub(super) fn tell(&mut self, record: &Record, share: u8, at_once: bool) {
        self.told = if record.swapped { 100 - share } else { share };
        if at_once {
            self.follow();
        }
    }

    /// People have brought back what a reload has put on blue alone.
    pub(super) fn rearrange(&mut self, record: &Record) {
        self.told = if record.swapped { 100 } else { 0 };
        (self.live, self.out) = (self.told, [false; 2]);
    }

    pub(super) fn follow(&mut self) {
        self.live = self.told;
        self.out[1] &= self.live == 0;
        self.out[0] &= self.live == 100;
    }
}

impl World {
    pub(super) fn first(model: &Promotion) -> Self {
        Self {
            stored: None,
            ids: 0,
            router: Router { live: 0, told: 0, out: [false; 2], instance: 0 },
            told: Told::default(),
            faults: model.faults,
            sick: [false; 2],
            full: false,
            unlocked: false,
            jobs: [Job::idle(), Job::idle()],
            late: false,
            orphaned: false,
            broken: None,
        }
    }

    /// A job has left. What is of another promotion it must leave as it is.
    pub(super) fn end(&mut self, j: usize) {
        let own = |stored: &Record| stored.about() == self.jobs[j].record.about();
        if !self.stored.as_ref().is_some_and(own) {
            self.orphaned |= self.late && self.jobs[j].touched_late;
        }
        self.jobs[j] = Job::idle();
    }

    /// A job has died. A hook that waits for its word ends with it.
    pub(super) fn die(&mut self, j: usize) {
        if self.jobs[j].hook == Process::Runs {
            self.told.orphan = Some(self.jobs[j].record.id);
        }
        self.orphaned |= self.late && self.jobs[j].touched_late;
        self.jobs[j] = Job::idle();
    }

    pub(super) fn break_rule(&mut self, rule: Rule) {
        self.broken.get_or_insert(rule);
    }

    /// Green's share as requests meet it, by the sides of the promotion on record.
    pub(super) fn green(&self) -> u8 {
        self.stored.as_ref().map_or(0, |record| self.router.green(record))
    }

    /// The same as the router was told last.
    pub(super) fn told_green(&self) -> Option<u8> {
        let told = Router { live: self.router.told, ..self.router };
        self.stored.as_ref().map(|record| told.green(record))
    }

    pub(super) fn allowed(&self, course: &Course) -> u8 {
        self.stored.as_ref().map_or(100, |record| percent(record.state.allowed(course)))
    }

    /// Whether what users meet is not of a job's own doing: one came late, and nobody has come after it yet.
    pub(super) fn out_of_hand(&self) -> bool {
        self.late || self.orphaned
    }

    /// Whether a side of the promotion is not well.
    pub(super) fn is_sick(&self, record: &Record, blue: bool) -> bool {
        self.sick[if blue { 1 - record.green() } else { record.green() }]
    }

    pub(super) fn is_served(&self) -> bool {
        !matches!((self.router.live, self.router.out), (0, [true, _]) | (100, [_, true]))
    }

    pub(super) fn goes_back(&self) -> bool {
        self.stored.as_ref().is_some_and(|record| went_back(&record.state))
    }

    pub(super) fn stands(&self, state: &State) -> bool {
        self.stored.as_ref().is_some_and(|record| record.state == *state)
    }

    pub(super) fn is_as_recorded(&self, course: &Course) -> bool {
        let quiet = self.jobs.iter().all(|job| job.pc == Pc::Idle);
        let Some(record) = self.stored.as_ref().filter(|record| quiet && record.state.finished()) else {
            return true;
        };
        self.orphaned
            || record.base != Some(self.router.instance)
            || record.state.due(course).map(percent) == Some(self.green())
    }

    /// A record is on disk.
    pub(super) fn write(&mut self, j: usize, record: Record, event: Option<&Event>) {
        self.jobs[1 - j].fresh = false;
        self.jobs[1 - j].wrote = false;
        (self.jobs[j].fresh, self.jobs[j].wrote) = (true, true);
        let before = self.stored.replace(record);
        let (Some(before), Some(now)) = (before, self.stored.clone()) else { return };
        if before.id != now.id {
            return;
        }
        if before.state.finished() && before.state != now.state {
            self.break_rule(Rule::Reopened);
        }
        match (&before.state, event) {
            (State::Shifting { step }, Some(Event::Shifted { .. })) => {
                self.told.shifted[*step] += 1;
                if self.told.shifted[*step] > 1 {
                    self.break_rule(Rule::StepTwice);
                }
            }
            (State::Shifting { step }, Some(Event::LookAgain { .. })) => {
                self.told.shifted[step.saturating_sub(1)] = 0;
            }
            (_, Some(Event::Aborted { .. })) if went_back(&now.state) => self.told.aborted = true,
            (before, Some(Event::Accepted { .. })) => {
                // Where it stood still, the abort of before was tried, and is over.
                let stood_still = matches!(before, State::Frozen { .. });
                (self.told.accepted, self.told.back) = (Some(stood_still), false);
                self.told.aborted &= !stood_still;
            }
            (_, Some(Event::Skipped { .. })) => self.told.skipped = true,
            (before, Some(Event::Undone { .. })) => {
                self.told.undone = Some(matches!(before, State::RunningRetire { .. }));
            }
            _ => {}
        }
    }

    /// A new promotion is on record.
    pub(super) fn begin(&mut self, j: usize, record: Record) {
        let Told { asking, orphan, .. } = self.told.clone();
        self.told = Told { asking, orphan, ..Told::default() };
        self.ids = record.id;
        self.write(j, record, None);
    }

    /// A job is about to touch the router.
    pub(super) fn touches(&mut self, j: usize, retires: bool) {
        if !self.jobs[j].looked {
            self.break_rule(Rule::Rogue);
        }
        let late = !self.jobs[j].may();
        self.jobs[j].looked = false;
        self.jobs[j].touched_late |= late;
        // A side that is taken out of service leaves the share as it is.
        self.late = late || (self.late && retires);
        self.orphaned &= self.late;
    }

    /// Gives green a share; whether the router follows at once.
    pub(super) fn shift(&mut self, j: usize, record: &Record, share: u8, at_once: bool) {
        let more = share > self.router.green(record);
        self.touches(j, false);
        if more && self.told.aborted && !self.out_of_hand() && !going_back(&record.state) {
            self.break_rule(Rule::MoreAfterAnAbort);
        }
        self.router.tell(record, share, at_once);
        let on_record = self.stored.as_ref().is_some_and(|r| matches!(r.state, State::RollingBack { .. }));
        if on_record && matches!(record.state, State::RollingBack { .. }) {
            self.told.back |= !self.late;
        }
    }

    /// A drain touches no side that has users.
    pub(super) fn drains(&mut self, j: usize) {
        if !self.jobs[j].looked {
            self.break_rule(Rule::Rogue);
        }
        self.jobs[j].looked = false;
    }

    pub(super) fn take_out(&mut self, j: usize, record: &Record, blue: bool) {
        self.touches(j, true);
        let green = record.green();
        self.router.out[if blue { 1 - green } else { green }] = true;
    }

    /// Whether another job of the promotion has a hook, or had one that outlived it.
    pub(super) fn other_hook(&self, j: usize, id: u8) -> bool {
        let other = &self.jobs[1 - j];
        self.told.orphan == Some(id) || (other.hook != Process::None && other.record.id == id)
    }

    pub(super) fn start_hook(&mut self, j: usize, id: u8, hook: Hook) {
        let count = &mut self.told.hooks[hook_number(hook)];
        *count = (*count + 1).min(2);
        if *count > 1 {
            self.break_rule(Rule::HookTwice);
        }
        let other = &self.jobs[1 - j];
        if self.told.orphan == Some(id) || (other.hook == Process::Runs && other.record.id == id) {
            self.break_rule(Rule::TwoHooks);
        }
        self.jobs[j].hook = Process::Runs;
    }
}
