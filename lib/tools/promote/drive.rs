//! Carries out what the machine asks for, one action after another, each on disk before and after.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::bake::Watch;
use super::begin::{self};
use super::machine::{Action, Event, State, next};
use super::record::{Record, phase};
use super::shift::Entry;
use crate::evidence::PromoteBody;
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::Promote;
use crate::routers::Router;
use crate::state::{Ask, Asked, Lease, Store};
use crate::units::show_share;
use crate::world::talk::{Mark, Ticker};
use crate::world::{self, ci, signal};

mod acts;
mod notes;

use notes::note;

/// Whether the job stays while a step is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It stays to the end.
    Hold,
    /// It looks once and leaves.
    Once,
}

/// A promotion under way, and the right to go on with it.
pub(super) struct Driver<'a> {
    job: &'a Job,
    plan: &'a Promote,
    mode: Mode,
    entry: Entry,
    router: Box<dyn Router>,
    lease: Lease,
    record: Record,
    watch: Option<Watch>,
    ticker: Ticker,
    clock: Clock,
    /// The first thing that could not be written while traffic had to move back.
    unwritten: Option<Fault>,
}

/// The wall clock of the start, and the time that has passed since: a clock that is set in the middle
/// of a bake makes it neither shorter nor longer.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Timestamp,
    from: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { began: world::now(), from: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.from.elapsed()).unwrap_or(SignedDuration::MAX);
        self.began.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn ms(&self) -> i64 {
        self.now().as_millisecond()
    }
}

impl<'a> Driver<'a> {
    /// Takes a record over, under the lease that gives the right to.
    pub(super) fn new(
        job: &'a Job,
        mode: Mode,
        router: Box<dyn Router>,
        lease: Lease,
        record: Record,
    ) -> Result<Self, Fault> {
        Ok(Self {
            job,
            plan: begin::section(job)?,
            mode,
            entry: begin::entry(job)?,
            router,
            lease,
            record,
            watch: None,
            ticker: job.talk().ticker(),
            clock: Clock::start(),
            unwritten: None,
        })
    }

    fn store(&self) -> &Store {
        self.lease.store()
    }

    /// Writes the first record of a promotion.
    pub(super) fn begun(&mut self) -> Result<(), Fault> {
        self.record.decided(
            world::now(),
            &ci::actor(),
            format!("began with {} steps", self.record.course.steps.len()),
        );
        for ask in [Ask::Abort, Ask::Pause] {
            self.store().forget(ask)?;
        }
        self.lease.journal(
            &json!({"at": world::now(), "epoch": self.record.promotion.epoch, "begins": self.record.release}),
        )?;
        self.save()
    }

    /// A job that comes back to a promotion: the live router is held against the record, a hook that
    /// may have begun is lost, and a frozen promotion is looked at again.
    pub(super) fn come_back(&mut self) -> Result<(), Fault> {
        if matches!(self.record.state, State::Frozen { .. }) {
            return self.apply(&Event::Woken);
        }
        // It takes the place of whatever else is due, a lost hook's end among it.
        if self.abort_asked().is_some() {
            return Ok(());
        }
        if let State::Baking { since_ms, .. } = self.record.state
            && self.clock.ms() < since_ms
        {
            self.apply(&Event::ClockWentBack { at_ms: self.clock.ms() })?;
        }
        if let Some(event) = self.reconcile()? {
            return self.apply(&event);
        }
        match &self.record.state {
            State::Deploying { begun: true }
            | State::RunningAfter { begun: true }
            | State::RunningOnRollback { begun: true, .. } => self.apply(&Event::HookLost),
            _ => Ok(()),
        }
    }

    /// Calls the promotion off, unless it is over or on its way back; whether or not the request could
    /// be left on disk.
    pub(super) fn call_off(&mut self, asked: &Asked) -> Result<(), Fault> {
        self.apply(&Event::Aborted { reason: called_off(asked) })
    }

    /// An abort that is still to be heeded. A frozen promotion has tried already; the next call will
    /// try again.
    fn abort_asked(&self) -> Option<Asked> {
        let state = &self.record.state;
        let over = going_back(state) || state.finished() || matches!(state, State::Frozen { .. });
        if over { None } else { self.store().asked(Ask::Abort, self.record.promotion.epoch) }
    }

    /// Goes on until it is finished, frozen, waiting (`Mode::Once`) or asked to stop.
    ///
    /// A step that cannot be put on record must not stand there with nobody who watches it: then
    /// traffic goes back, and the end tells.
    pub(super) fn drive(&mut self) -> Result<(), Fault> {
        match self.go_on() {
            Err(fault) if fault.exit == Exit::Infrastructure && !self.record.state.finished() => {
                let reason = format!("the promotion cannot be put on record: {}", fault.line());
                self.unwritten.get_or_insert(fault);
                self.apply(&Event::Aborted { reason })?;
                self.go_on()
            }
            other => other,
        }
    }

    fn go_on(&mut self) -> Result<(), Fault> {
        loop {
            if let Some(asked) = self.abort_asked() {
                self.call_off(&asked)?;
            }
            let Some(action) = self.record.state.action(&self.record.course) else { return Ok(()) };
            // On the way back nothing stops half way.
            if signal::stop_asked() && !going_back(&self.record.state) {
                return self.write_document();
            }
            self.ticker.set(&phase(&self.record.state, &self.record.course));
            let Some(event) = self.perform(action)? else { continue };
            // An abort that came meanwhile wins over whatever came of the action, the last one too.
            if self.abort_asked().is_some() {
                continue;
            }
            // A signal cuts waiting short. What was not waited for is no reason to go back.
            if signal::stop_asked() && !going_back(&self.record.state) && cut_short(&event) {
                continue;
            }
            self.apply(&event)?;
            if self.mode == Mode::Once
                && matches!(event, Event::Looked { .. })
                && matches!(self.record.state, State::Baking { .. })
            {
                return Ok(());
            }
        }
    }

    /// Writes the document and says how it ended.
    pub(super) fn conclude(&mut self) -> Result<Exit, Fault> {
        let waiting = match self.record.state.action(&self.record.course) {
            Some(Action::Bake { until_ms, .. }) if self.mode == Mode::Once => Some(until_ms),
            _ => None,
        };
        let interval = i64::try_from(self.interval().as_millis()).unwrap_or(i64::MAX);
        self.record.promotion.next_at = waiting
            .map(|until| until.max(self.clock.ms().saturating_add(interval)))
            .and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let mut conclusion = self.conclusion();
        let state = match (&self.record.state, waiting) {
            (_, Some(_)) => "waiting",
            (State::Promoted, _) => "promoted",
            (State::RolledBack { .. }, _) => "rolled_back",
            (State::Frozen { .. }, _) => "frozen",
            _ => "in_progress",
        };
        conclusion.outputs.push(("state", state.to_owned()));
        conclusion.outputs.push(("weight", show_share(self.record.promotion.weight)));
        if let Some(next_at) = self.record.promotion.next_at {
            conclusion.outputs.push(("next_at", next_at.to_string()));
        }
        let saved = self.save();
        self.bear(saved)?;
        let sentence = conclusion.summary.clone();
        let concluded = self.job.conclude(conclusion);
        let exit = self.bear(concluded)?;
        let mark = match self.record.state {
            State::Promoted => Mark::Good,
            State::RolledBack { .. } | State::Frozen { .. } => Mark::Bad,
            _ => Mark::Step,
        };
        self.job.talk().line(mark, &sentence);
        if let Some(fault) = &self.unwritten {
            self.job.talk().error(&format!("that is so, but not all of it is on record\n{fault}"));
            return Ok(Exit::Infrastructure);
        }
        Ok(if waiting.is_some() { Exit::Pass } else { exit.unwrap_or(Exit::Infrastructure) })
    }

    /// Takes a failed write upon itself while traffic is on its way back or back already: first the
    /// traffic, then the record. On the way forward nothing moves that is not on record.
    fn bear<T>(&mut self, done: Result<T, Fault>) -> Result<Option<T>, Fault> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(fault) if went_back(&self.record.state) => {
                self.job.talk().line(Mark::Warn, &fault.line());
                self.unwritten.get_or_insert(fault);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    fn conclusion(&mut self) -> Conclusion<PromoteBody> {
        let (outcome, reason) = self.record.outcome();
        self.record.promotion.outcome = outcome;
        self.record.promotion.reason = reason;
        let (verdict, summary) = self.record.verdict();
        Conclusion {
            needs: self.record.needs.clone(),
            verdict,
            summary,
            findings: self.record.findings(world::now()),
            body: PromoteBody { promotion: Some(self.record.promotion.clone()) },
            outputs: Vec::new(),
        }
    }

    fn write_document(&mut self) -> Result<(), Fault> {
        let conclusion = self.conclusion();
        self.job.write(&conclusion).map(drop)
    }

    /// Writes the document of a promotion that goes on. The state is safe already, so a page that
    /// cannot be written does not leave a step without anybody who watches it; the end tells.
    fn show_progress(&mut self) {
        if let Err(fault) = self.write_document() {
            self.job.talk().line(Mark::Warn, &fault.line());
        }
    }

    fn save(&mut self) -> Result<(), Fault> {
        self.lease.swap(&self.record)
    }

    /// Takes an event in: journal, state, people.
    fn apply(&mut self, event: &Event) -> Result<(), Fault> {
        let before = self.record.state.clone();
        let now = world::now();
        self.record.state = next(&before, event, &self.record.course);
        let changed = self.record.state != before;
        if !changed && matches!(event, Event::Looked { .. }) {
            // A look that decides nothing is on record in the series; the disk need not hear of it.
            return Ok(());
        }
        note(&mut self.record, &before, event, now);
        let noted = self.lease.journal(&json!({
            "at": now, "epoch": self.record.promotion.epoch, "did": event, "state": self.record.state,
        }));
        self.bear(noted)?;
        let saved = self.save();
        self.bear(saved)?;
        if changed {
            self.tell(&before);
        }
        // The way back is short and must not wait for a page that nobody reads yet.
        if changed && !going_back(&self.record.state) {
            self.show_progress();
        }
        Ok(())
    }

    fn tell(&self, before: &State) {
        let talk = self.job.talk();
        match &self.record.state {
            State::CheckingBlue { reason } if !matches!(before, State::Frozen { .. }) => {
                talk.line(Mark::Bad, &format!("going back: {reason}"));
            }
            State::Baking { .. } | State::Shifting { .. } | State::Deploying { .. } | State::RetiringBlue => {
                talk.line(Mark::Step, &phase(&self.record.state, &self.record.course));
            }
            _ => {}
        }
    }
}

/// Why, in words, somebody called it off.
fn called_off(asked: &Asked) -> String {
    let why = asked.why.as_ref().map(|w| format!(": {w}")).unwrap_or_default();
    format!("called off by {}{why}", asked.who)
}

/// Whether an event may come from waiting that a signal ended early.
fn cut_short(event: &Event) -> bool {
    matches!(event, Event::Health { ok: false, .. } | Event::ShiftFailed { .. })
}

/// Whether a promotion is on its way back, or at the end of it.
fn went_back(state: &State) -> bool {
    going_back(state) || matches!(state, State::RolledBack { .. } | State::Frozen { .. })
}

/// Whether a promotion is on its way back, which nothing interrupts.
fn going_back(state: &State) -> bool {
    matches!(
        state,
        State::CheckingBlue { .. }
            | State::RollingBack { .. }
            | State::RetiringGreen { .. }
            | State::RunningOnRollback { .. }
    )
}
