//! `conduct` in the model: it is run from the beginning of its turn with the answers that it has had, until it
//! asks for the next one.

use trapkey::routers::Side as Half;
use trapkey::tools::promote::conduct::{
    self, Clock, Failure, Hands, LeftHook, Live, NotInForce, Theirs, Why, going_back,
};
use trapkey::tools::promote::machine::{Action, Course, Event, Hook, Look, State, next};

use super::Promotion;
use super::defects::Defect;
use super::world::{Job, Pc, Record, percent};

/// Where a run of `conduct` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Entry {
    GoOn,
    CallOff,
    Undo,
    /// At the head of a turn.
    Turn,
}

/// What a job asks of the world.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Abort,
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
    Live { awaited: bool },
    BeganAnew,
    Tell { share: u8, why: Why },
    ReadBack(u8),
    Drain { blue: bool },
    Close { blue: bool },
    Health,
    Look,
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
            call: None,
            turned: None,
        };
        let done = match entry {
            Entry::GoOn => conduct::go_on(&mut run),
            Entry::CallOff => conduct::call_off(&mut run, why()),
            Entry::Undo => conduct::undo(&mut run, why()),
            Entry::Turn => conduct::drive(&mut run),
        };
        let done = done.and_then(|()| conduct::put_on_record(&mut run));
        let ended = run.call.is_none().then_some(done.is_ok());
        (run, ended)
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
        }
        Ok(())
    }

    fn abort_request(&mut self) -> Result<Option<String>, Halt> {
        Ok(self.is(Call::Abort)?.then(why))
    }

    fn must_stop(&mut self) -> Result<bool, Halt> {
        // A job that stops at a signal is one that leaves; see `looks_once`.
        Ok(false)
    }

    /// What people ask forward is not in the model: it is what a good look leads to as well.
    fn wish(&mut self) -> Result<Option<Event>, Halt> {
        Ok(None)
    }

    fn retire_waits(&mut self) -> Result<bool, Halt> {
        Ok(false)
    }

    fn last_look(&mut self) -> Result<Option<String>, Halt> {
        Ok(None)
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
        if step < self.course.steps.len() { self.is(Call::Gate) } else { Ok(false) }
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
        Ok(match self.ask(Call::Live { awaited }) {
            Ok(Answer::Share(share)) => Live::Green(f64::from(share) / 100.0),
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
        let not = |waited| Ok(Err(NotInForce { why: why(), waited, restarting: false, back: false }));
        match self.ask(Call::Tell { share, why: why_set }) {
            Ok(_) => {}
            Err(Halt::Away) => return not(false),
            Err(halt) => return Err(halt),
        }
        match self.ask(Call::ReadBack(share))? {
            Answer::InForce(instance) => {
                self.record.base = Some(instance);
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

    fn health(&mut self, _: Half) -> Result<Event, Halt> {
        Ok(Event::Health { ok: self.is(Call::Health)?, seen: why() })
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
