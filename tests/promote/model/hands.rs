//! `conduct` in the model: it is run from the beginning of its turn with the answers that it has had, until it
//! asks for the next one.

use trapkey::routers::Side as Half;
use trapkey::tools::promote::conduct::{
    self, Clock, Failure, Hands, LeftHook, Live, NotInForce, Theirs, Why, going_back, went_back,
};
use trapkey::tools::promote::machine::{Action, Course, Event, Hook, Look, State, next};

use super::defects::Defect;
use super::world::{Job, Pc, Record, Rule, Wish, percent};
use super::{Kinds, Promotion};

/// Where a run of `conduct` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Entry {
    GoOn,
    CallOff,
    Undo,
    /// With what somebody asks of it.
    Grant(Wish),
    /// At the head of a turn.
    Turn,
}

/// What a job asks of the world.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Abort,
    /// What was left for it; or whether this may be.
    Wish(Option<Wish>),
    LooksOnce,
    Now,
    Clock,
    TooLong,
    Gate,
    WaitAtTheGate,
    Renewed,
    StillMine,
    Journal,
    Save(Option<Event>),
    Live {
        awaited: bool,
    },
    BeganAnew,
    Tell {
        share: u8,
        why: Why,
    },
    ReadBack(u8),
    Drain {
        blue: bool,
    },
    Close {
        blue: bool,
    },
    Health {
        blue: bool,
    },
    Look,
    /// Whether requests through the front door all meet green.
    LastLook,
    /// Whether the old side must stay yet.
    RetireWaits,
    LeftHook,
    ReadyHook,
    StartHook(Hook),
    EndHook,
    Theirs,
    PutRight(u8),
    WaitForTheirs,
}

/// What the world says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Answer {
    Done,
    /// The lease is another job's, or over.
    Lost,
    /// A place cannot be reached, read or written.
    Away,
    Is(bool),
    Ms(i64),
    Share(u8),
    /// The router does not answer, and is waited for.
    Awaited,
    /// People have taken servers out or brought some back, and this is its share now.
    Rearranged(u8),
    /// Blue is back, after people had taken all of it out.
    Returned,
    /// Users are given to somebody who is on neither side.
    Astray,
    /// What may be granted of what somebody asks.
    Granted(Option<Wish>),
    /// The share is in force by this process of the router.
    InForce(u8),
    /// It is not; whether that was waited for.
    NotInForce(bool),
    Looked(Look, i64),
    Theirs(Option<(bool, bool, State)>),
}

/// Why a run ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// It has asked, and there is no answer yet.
    Asks,
    Lost,
    Away,
}

impl Failure for Halt {
    fn is_infrastructure(&self) -> bool {
        *self == Self::Away
    }

    fn line(&self) -> String {
        why()
    }
}

pub(super) fn why() -> String {
    "x".into()
}

/// What a job has seen since its turn began.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Seen {
    /// What was odd in its last look at the router.
    look: Option<Saw>,
    /// The router gives green everything.
    pub all_on_green: bool,
    /// The gate before this step is open.
    pub open: Option<usize>,
    /// Requests through the front door all meet green.
    pub well: bool,
    /// Nobody needs the old side.
    pub unneeded: bool,
    /// It has listened for an abort since it told the router.
    heard: bool,
    /// What it told the router is not in force.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saw {
    Rearranged,
    Returned,
    Astray,
}

/// Whether users who are given to a stranger are a reason to go back.
fn is_judged(state: &State) -> bool {
    matches!(
        state,
        State::Deploying { .. }
            | State::Holding
            | State::CheckingGreen
            | State::Baking { .. }
            | State::RetiringBlue
    )
}

/// One run of `conduct`.
pub(super) struct Run<'a> {
    pub course: &'a Course,
    defect: Defect,
    script: &'a [Answer],
    at: usize,
    /// The record as it stands now.
    pub record: Record,
    pub unwritten: bool,
    aborted: bool,
    event: Option<Event>,
    /// It has just drained a side.
    drained: bool,
    kinds: Kinds,
    /// What it has seen since its turn began.
    pub seen: Seen,
    /// What it asks next.
    pub call: Option<Call>,
    /// A turn began after all answers were used: what was before it is over.
    pub turned: Option<(Record, bool)>,
}

impl<'a> Run<'a> {
    /// Runs the job as far as its answers go. Nothing where it asks for more; else whether it ended well.
    pub(super) fn of(model: &'a Promotion, job: &'a Job, aborted: bool) -> (Self, Option<bool>) {
        let Pc::Runs(entry, script) = &job.pc else { panic!("it does not run") };
        let mut run = Self {
            course: &model.course,
            defect: model.defect,
            script,
            at: 0,
            record: job.record.clone(),
            unwritten: job.unwritten,
            aborted,
            event: None,
            drained: false,
            kinds: model.kinds,
            seen: Seen::default(),
            call: None,
            turned: None,
        };
        let done = match entry {
            Entry::GoOn => conduct::go_on(&mut run),
            Entry::CallOff => conduct::call_off(&mut run, why()),
            Entry::Undo => conduct::undo(&mut run, why()),
            Entry::Grant(wish) => run.grant(*wish),
            Entry::Turn => conduct::drive(&mut run),
        };
        let done = done.and_then(|()| conduct::put_on_record(&mut run));
        let ended = run.call.is_none().then_some(done.is_ok());
        (run, ended)
    }

    /// As `promote accept` and `promote skip` do it.
    fn grant(&mut self, wish: Wish) -> Result<(), Halt> {
        if wish == Wish::Skip {
            conduct::come_back(self)?;
        }
        match self.ask(Call::Wish(Some(wish)))? {
            Answer::Granted(Some(wish)) => conduct::grant(self, &Self::granted(wish)),
            Answer::Granted(None) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn granted(wish: Wish) -> Event {
        match wish {
            Wish::Accept => Event::Accepted { reason: why() },
            Wish::Skip => Event::Skipped { reason: why() },
        }
    }

    /// The rule that a record breaks which is written on this event, after what was seen.
    pub(super) fn breaks(&self, before: &State, event: Option<&Event>) -> Option<Rule> {
        let after = &self.record.state;
        let forward = !went_back(before) && !went_back(after) && before != after;
        let event = event?;
        if matches!(
            event,
            Event::Aborted { .. } | Event::Undone { .. } | Event::HookBegins | Event::HookEnded { .. }
        ) {
            return None;
        }
        match (event, self.seen.look) {
            (Event::Looked { .. }, Some(Saw::Returned)) if forward => Some(Rule::OldBake),
            (_, Some(Saw::Astray)) if forward && is_judged(before) => Some(Rule::Astray),
            (Event::ShiftFailed { .. }, Some(Saw::Rearranged)) if !self.seen.refused => {
                Some(Rule::HandsAreNoReason)
            }
            (Event::Shifted { .. }, _) if forward && !self.seen.heard => Some(Rule::AbortUnheard),
            _ => None,
        }
    }

    fn ask(&mut self, call: Call) -> Result<Answer, Halt> {
        if self.call.is_some() {
            return Err(Halt::Asks);
        }
        let Some(answer) = self.script.get(self.at) else {
            self.call = Some(call);
            return Err(Halt::Asks);
        };
        self.at += 1;
        match answer {
            Answer::Lost => Err(Halt::Lost),
            Answer::Away => Err(Halt::Away),
            other => Ok(other.clone()),
        }
    }

    fn done(&mut self, call: Call) -> Result<(), Halt> {
        self.ask(call).map(drop)
    }

    fn of_a_side(&mut self, call: Call) -> Result<Result<(), Halt>, Halt> {
        match self.ask(call) {
            Ok(_) => Ok(Ok(())),
            Err(Halt::Away) => Ok(Err(Halt::Away)),
            Err(halt) => Err(halt),
        }
    }

    fn is(&mut self, call: Call) -> Result<bool, Halt> {
        Ok(self.ask(call)? == Answer::Is(true))
    }
}

impl Hands for Run<'_> {
    type Fault = Halt;

    fn state(&self) -> &State {
        &self.record.state
    }

    fn course(&self) -> &Course {
        self.course
    }

    fn has_unwritten(&self) -> bool {
        self.unwritten
    }

    fn note_unwritten(&mut self, _: Halt) {
        self.unwritten = true;
    }

    fn enter(&mut self, state: State, event: &Event) {
        self.record.state = state;
        self.event = Some(event.clone());
    }

    fn decide(&self, event: &Event) -> State {
        let before = &self.record.state;
        match (self.defect, event) {
            (Defect::UndoIsLost, Event::Undone { .. }) if matches!(before, State::RunningRetire { .. }) => {
                before.clone()
            }
            (Defect::AbortIsNotTheEnd, Event::Health { .. })
                if self.aborted && matches!(before, State::CheckingBlue { .. }) =>
            {
                State::Shifting { step: 1 }
            }
            (Defect::ForgetsTheShift, Event::Shifted { .. }) if !going_back(before) => before.clone(),
            _ => next(before, event, self.course),
        }
    }

    fn hook_may_have_begun(&self) -> bool {
        self.record.state.hook_may_have_begun() && self.defect != Defect::BegunHookRunsAgain
    }

    fn turn(&mut self) -> Result<(), Halt> {
        if self.call.is_some() {
            return Err(Halt::Asks);
        }
        if self.at > 0 {
            assert_eq!(self.at, self.script.len(), "a turn begins where the last answer led to it");
            self.turned = Some((self.record.clone(), self.unwritten));
            // Nothing of what was answered before is needed any more.
            (self.script, self.at) = (&[], 0);
            self.seen = Seen::default();
        }
        Ok(())
    }

    fn abort_request(&mut self) -> Result<Option<String>, Halt> {
        if self.defect == Defect::AcceptsWithoutListening
            && matches!(self.record.state, State::Accepting { .. })
        {
            return Ok(None);
        }
        let asked = self.is(Call::Abort)?;
        self.seen.heard = true;
        Ok(asked.then(why))
    }

    fn must_stop(&mut self) -> Result<bool, Halt> {
        // A job that stops at a signal is one that leaves; see `looks_once`.
        Ok(false)
    }

    fn wish(&mut self) -> Result<Option<Event>, Halt> {
        if !self.kinds.wishes {
            return Ok(None);
        }
        match self.ask(Call::Wish(None))? {
            Answer::Granted(wish) => Ok(wish.map(Self::granted)),
            other => panic!("{other:?}"),
        }
    }

    fn retire_waits(&mut self) -> Result<bool, Halt> {
        if !self.kinds.retires || self.defect == Defect::RetiresAtOnce {
            return Ok(false);
        }
        let waits = self.is(Call::RetireWaits)?;
        self.seen.unneeded = !waits;
        Ok(waits)
    }

    fn last_look(&mut self) -> Result<Option<String>, Halt> {
        if !self.kinds.wishes || self.defect == Defect::AcceptsUnseen {
            return Ok(None);
        }
        let sick = self.is(Call::LastLook)?;
        self.seen.well = !sick;
        Ok(sick.then(why))
    }

    fn looks_once(&mut self) -> Result<bool, Halt> {
        self.is(Call::LooksOnce)
    }

    fn now_ms(&mut self) -> Result<i64, Halt> {
        match self.ask(Call::Now)? {
            Answer::Ms(ms) => Ok(ms),
            other => panic!("{other:?}"),
        }
    }

    fn clock(&mut self) -> Result<Clock, Halt> {
        let idle_ms = self.is(Call::Clock)?.then_some(3_600_000);
        Ok(Clock::Is { at_ms: 10, idle_ms })
    }

    fn too_long(&mut self) -> Result<Option<String>, Halt> {
        Ok(self.is(Call::TooLong)?.then(why))
    }

    fn gate_is_shut(&mut self, step: usize) -> Result<bool, Halt> {
        let unasked = self.defect == Defect::SkipPassesTheGate
            && matches!(self.record.state, State::Shifting { step: 1.. });
        if step >= self.course.steps.len() || unasked {
            return Ok(false);
        }
        let shut = self.is(Call::Gate)?;
        self.seen.open = (!shut).then_some(step);
        Ok(shut)
    }

    fn show_gate(&mut self, step: Option<usize>) -> Result<bool, Halt> {
        step.map_or(Ok(false), |step| self.gate_is_shut(step))
    }

    fn wait_at_the_gate(&mut self) -> Result<(), Halt> {
        self.done(Call::WaitAtTheGate)
    }

    fn renewed(&mut self) -> Result<(), Halt> {
        self.done(Call::Renewed)
    }

    fn still_mine(&mut self) -> Result<(), Halt> {
        if std::mem::take(&mut self.drained) && self.defect == Defect::ClosesWithoutLooking {
            return Ok(());
        }
        self.done(Call::StillMine)
    }

    fn journal_action(&mut self, _: Action) -> Result<(), Halt> {
        self.done(Call::Journal)
    }

    fn journal_event(&mut self, _: &Event) -> Result<(), Halt> {
        self.done(Call::Journal)
    }

    fn save(&mut self) -> Result<(), Halt> {
        let event = self.event.take();
        if self.defect == Defect::SavesAfterTheSet && matches!(self.record.state, State::Shifting { .. }) {
            return Ok(());
        }
        let begins = matches!(self.record.state, State::RunningOnRollback { begun: true, .. });
        if self.defect == Defect::HookBeginsUnwritten && self.unwritten && begins {
            return Ok(());
        }
        self.done(Call::Save(event))
    }

    fn tell(&mut self, _: &State, _: &Event) {}

    fn write_document(&mut self) -> Result<(), Halt> {
        Ok(())
    }

    fn live(&mut self, awaited: bool) -> Result<Live<Halt>, Halt> {
        let retires = matches!(self.record.state, State::RunningRetire { .. });
        if retires && self.defect == Defect::RetiresWithoutLooking {
            return Ok(Live::Green(1.0));
        }
        let share = |share: u8| f64::from(share) / 100.0;
        let answer = self.ask(Call::Live { awaited });
        self.seen.look = match answer {
            Ok(Answer::Rearranged(_)) => Some(Saw::Rearranged),
            Ok(Answer::Returned) => Some(Saw::Returned),
            Ok(Answer::Astray) => Some(Saw::Astray),
            _ => None,
        };
        self.seen.all_on_green = answer == Ok(Answer::Share(100));
        let due = self.record.state.settled(self.course).unwrap_or_default();
        Ok(match answer {
            Ok(Answer::Share(green)) => Live::Green(share(green)),
            Ok(Answer::Rearranged(green)) if self.defect == Defect::RearrangedIsTakenOff => {
                Live::Green(share(green))
            }
            Ok(Answer::Rearranged(green)) => Live::Rearranged(share(green)),
            Ok(Answer::Returned) if self.defect == Defect::ReturnedIsNothing => Live::Green(due),
            Ok(Answer::Returned) => Live::Returned,
            Ok(Answer::Astray) if self.defect == Defect::AstrayIsNothing => Live::Green(due),
            Ok(Answer::Astray) => Live::Astray(why()),
            Ok(Answer::Awaited) => Live::Awaited,
            Err(Halt::Away) => Live::Lost(Halt::Away),
            Err(halt) => return Err(halt),
            Ok(other) => panic!("{other:?}"),
        })
    }

    fn nearest(&self, share: f64) -> f64 {
        share
    }

    fn router_began_anew(&mut self) -> Result<bool, Halt> {
        match self.ask(Call::BeganAnew)? {
            Answer::InForce(instance) => Ok(self.record.base.is_some_and(|base| base != instance)),
            other => panic!("{other:?}"),
        }
    }

    fn set(&mut self, share: f64, why_set: Why) -> Result<Result<(), NotInForce>, Halt> {
        let share = percent(share);
        (self.seen.heard, self.seen.refused) = (false, true);
        let not = |waited| Ok(Err(NotInForce { why: why(), waited, restarting: false, back: false }));
        match self.ask(Call::Tell { share, why: why_set }) {
            Ok(_) => {}
            Err(Halt::Away) => return not(false),
            Err(halt) => return Err(halt),
        }
        match self.ask(Call::ReadBack(share))? {
            Answer::InForce(instance) => {
                self.record.base = Some(instance);
                (self.seen.refused, self.seen.all_on_green) = (false, share == 100);
                Ok(Ok(()))
            }
            Answer::NotInForce(waited) => not(waited),
            other => panic!("{other:?}"),
        }
    }

    fn wait_for_the_router(&mut self, _: &NotInForce, _: bool) -> Result<(), Halt> {
        Ok(())
    }

    fn drain(&mut self, side: Half) -> Result<Result<(), Halt>, Halt> {
        self.drained = true;
        self.of_a_side(Call::Drain { blue: side == Half::Blue })
    }

    fn close(&mut self, side: Half) -> Result<Result<(), Halt>, Halt> {
        self.of_a_side(Call::Close { blue: side == Half::Blue })
    }

    fn judge_anew(&mut self) -> Result<(), Halt> {
        Ok(())
    }

    fn note_repair(&mut self, _: &str, _: bool) -> Result<(), Halt> {
        Ok(())
    }

    fn say_share(&self, _: f64) -> String {
        String::new()
    }

    fn health(&mut self, side: Half) -> Result<Event, Halt> {
        Ok(Event::Health { ok: self.is(Call::Health { blue: side == Half::Blue })?, seen: why() })
    }

    fn wait_for_the_look(&mut self, _: usize, _: i64, _: i64) -> Result<bool, Halt> {
        Ok(true)
    }

    fn look(&mut self, _: usize, _: i64) -> Result<Option<Event>, Halt> {
        match self.ask(Call::Look)? {
            Answer::Looked(look, at_ms) => {
                Ok(Some(Event::Looked { look, sentence: why(), at_ms, held: false }))
            }
            other => panic!("{other:?}"),
        }
    }

    fn hook_left_behind(&mut self) -> Result<LeftHook, Halt> {
        let at_work = self.is(Call::LeftHook)?;
        Ok(if at_work { LeftHook::AtWork } else { LeftHook::Gone })
    }

    fn ready_hook(&mut self, _: Hook) -> Result<(), Halt> {
        if self.defect == Defect::HookBeginsUnseen { Ok(()) } else { self.done(Call::ReadyHook) }
    }

    fn drop_hook(&mut self) {
        // Nothing comes after it: what the job has ends with it.
    }

    fn run_hook(&mut self, hook: Hook) -> Result<Event, Halt> {
        self.done(Call::StartHook(hook))?;
        Ok(Event::HookEnded { ok: self.is(Call::EndHook)?, how: why() })
    }

    fn theirs(&mut self) -> Result<Option<Theirs>, Halt> {
        match self.ask(Call::Theirs)? {
            Answer::Theirs(found) => Ok(found.map(|(own, same, state)| Theirs {
                // Of one promotion two records with the same state are alike.
                version: u64::from(percent(state.due(self.course).unwrap_or(0.5))),
                own,
                same,
                state,
            })),
            other => panic!("{other:?}"),
        }
    }

    fn put_right(&mut self, share: f64) -> Result<bool, Halt> {
        self.is(Call::PutRight(percent(share)))
    }

    fn wait_for_theirs(&mut self) -> Result<(), Halt> {
        self.done(Call::WaitForTheirs)
    }
}
