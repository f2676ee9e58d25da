//! Carries out what the machine asks for, one action after another, each on disk before and after.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::bake::Watch;
use super::begin::{self};
use super::machine::{Action, Event, Hook, State, next};
use super::record::{Clocks, Record, phase};
use super::samples::{self, FILE, Log, Of};
use super::shift::Entry;
use crate::evidence::{PromoteBody, SamplesRecord};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::Promote;
use crate::routers::Router;
use crate::state::{Ask, Asked, Lease, Store};
use crate::units::{show_duration, show_share};
use crate::world::files::{unwritable, write_atomic};
use crate::world::talk::{Mark, Ticker};
use crate::world::{self, ci, signal};

mod acts;
mod clock;
mod gates;
mod notes;

use clock::Clock;
use gates::Gate;
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
    watch: Option<Watch<'a>>,
    log: Log,
    ticker: Ticker,
    clock: Clock,
    /// Since when the router does not answer, by [`Clock::passed`].
    away_since: Option<Duration>,
    /// A hook that was ended because this job was asked to stop.
    cut_off: Option<Hook>,
    /// The first thing that could not be written while traffic had to move back.
    unwritten: Option<Fault>,
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
            log: Log::new(),
            ticker: job.talk().ticker(),
            clock: Clock::start(),
            away_since: None,
            cut_off: None,
            unwritten: None,
        })
    }

    fn store(&self) -> &Store {
        self.lease.store()
    }

    /// Whether green serves everything for good.
    pub(super) fn serves(&self) -> bool {
        self.record.state.serves()
    }

    /// The record as it stands.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Gives the lease on, and the record as it stands.
    pub(super) fn into_parts(self) -> (Lease, Record) {
        (self.lease, self.record)
    }

    /// Takes an event in that somebody outside has caused.
    pub(super) fn heed(&mut self, event: &Event) -> Result<(), Fault> {
        self.apply(event)
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
        samples::forget_others(self.store(), &Of::record(&self.record))?;
        self.lease.journal(&json!({
            "at": world::now(), "epoch": self.record.promotion.epoch, "promotion": self.record.id,
            "begins": self.record.release,
        }))?;
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
        self.heed_the_clock()?;
        if let Some(event) = self.reconcile()? {
            return self.apply(&event);
        }
        if !self.record.state.hook_may_have_begun() {
            return Ok(());
        }
        match self.lost_hook() {
            // An abort that came meanwhile wins over whatever came of the hook.
            Some(lost) if self.abort_asked().is_none() => self.apply(&lost),
            _ => Ok(()),
        }
    }

    /// Only time that has really passed counts for a bake, and what was judged long ago for no shift.
    fn heed_the_clock(&mut self) -> Result<(), Fault> {
        let now = Clocks::read();
        let before = self.record.clocks.clone();
        if let Some(by_ms) = before.as_ref().and_then(|before| before.set_by(&now)) {
            let by = SignedDuration::from_millis(by_ms);
            let how = show_duration(by.as_secs_f64().abs());
            let way = if by_ms > 0 { "forward" } else { "back" };
            let what =
                format!("this machine's clock was set {way} by {how}: only time that has passed counts");
            self.job.talk().line(Mark::Warn, &what);
            self.record.decided(world::now(), "trapkey", what);
            self.record.began_at = self.record.began_at.checked_add(by).unwrap_or(self.record.began_at);
            self.judge_anew();
            return self.apply(&Event::ClockWasSet { by_ms });
        }
        let at_ms = self.clock.ms();
        match self.record.state {
            State::Baking { since_ms, .. } if at_ms < since_ms => {
                self.judge_anew();
                self.apply(&Event::ClockWentBack { at_ms })
            }
            State::Shifting { step: 1.. }
                if before.is_some_and(|before| at_ms - before.wall_ms > JUDGED_FOR_MS) =>
            {
                let event = self.back_to_look(at_ms)?;
                self.apply(&event)
            }
            _ => Ok(()),
        }
    }

    /// What was seen by another clock says when by that clock: windows would have gaps, or reach back to
    /// before the step.
    fn judge_anew(&mut self) {
        if matches!(self.record.state, State::Baking { .. }) {
            self.record.counting += 1;
            self.watch = None;
        }
    }

    /// Calls the promotion off, unless it is over or on its way back; whether or not the request could
    /// be left on disk.
    pub(super) fn call_off(&mut self, asked: &Asked) -> Result<(), Fault> {
        self.apply(&Event::Aborted { reason: called_off(asked) })
    }

    /// An abort that is still to be heeded: not one that comes too late, for nothing would follow from
    /// it. A frozen promotion has tried already; the next call will try again.
    fn abort_asked(&self) -> Option<Asked> {
        let state = &self.record.state;
        let aborted = next(state, &Event::Aborted { reason: String::new() }, &self.record.course);
        if aborted == *state || matches!(state, State::Frozen { .. }) {
            return None;
        }
        self.store().asked(Ask::Abort, self.record.promotion.epoch)
    }

    /// Goes on until it is finished, frozen, waiting (`Mode::Once`) or asked to stop.
    ///
    /// A step that cannot be put on record must not stand there with nobody who watches it: then
    /// traffic goes back, and the end tells.
    pub(super) fn drive(&mut self) -> Result<(), Fault> {
        match self.go_on() {
            // A release that serves everything is not taken back for a record or a router that is away.
            Err(fault)
                if fault.exit == Exit::Infrastructure
                    && !self.record.state.finished()
                    && !self.record.state.serves() =>
            {
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
            if self.record.state.action(&self.record.course).is_none() {
                return Ok(());
            }
            if !going_back(&self.record.state) {
                self.lease.renewed()?;
                self.heed_the_limit()?;
            }
            let Some(action) = self.record.state.action(&self.record.course) else { return Ok(()) };
            if self.may_leave(action) {
                return Ok(());
            }
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

    /// Whether nothing is left to do for this call, although the promotion is not over.
    fn may_leave(&mut self, action: Action) -> bool {
        match action {
            Action::Keep { until_ms: Some(until) } => self.clock.ms() < until,
            Action::Wait => self.mode == Mode::Once && self.gate(0).is_some(),
            _ => false,
        }
    }

    /// Goes back when the way takes longer than the plan allows.
    fn heed_the_limit(&mut self) -> Result<(), Fault> {
        let Some(limit) = self.plan.max_duration else { return Ok(()) };
        let passed = self.clock.now().duration_since(self.record.began_at);
        if passed.as_secs_f64() <= limit.0.as_secs_f64() {
            return Ok(());
        }
        let event = Event::TooLong { why: format!("it takes longer than `max_duration` allows, {limit}") };
        if next(&self.record.state, &event, &self.record.course) == self.record.state {
            return Ok(());
        }
        self.apply(&event)
    }

    /// What a call that leaves early waits for: the moment to look again, and the gate where one is
    /// all that stands in the way.
    fn waits_for(&mut self) -> Option<(i64, Option<Gate>)> {
        let interval = i64::try_from(self.interval().as_millis()).unwrap_or(i64::MAX);
        let soon = self.clock.ms().saturating_add(interval);
        let at = |gate: &Gate| gate.opens_at.map_or(soon, |at| at.as_millisecond().max(soon));
        match self.record.state.action(&self.record.course)? {
            Action::Keep { until_ms: Some(until) } => Some((until, None)),
            _ if self.mode == Mode::Hold => None,
            Action::Wait => self.gate(0).map(|gate| (at(&gate), Some(gate))),
            Action::Bake { step, until_ms, .. } if until_ms <= self.clock.ms() => {
                let gate = self.gate(step + 1);
                Some((gate.as_ref().map_or(soon, at), gate))
            }
            Action::Bake { until_ms, .. } => Some((until_ms.max(soon), None)),
            _ => None,
        }
    }

    /// Writes the document and says how it ended.
    pub(super) fn conclude(&mut self) -> Result<Exit, Fault> {
        let waits = self.waits_for();
        let waiting = waits.is_some() && !self.record.state.serves();
        self.record.promotion.next_at =
            waits.as_ref().and_then(|(ms, _)| Timestamp::from_millisecond(*ms).ok());
        let gate = waits.and_then(|(_, gate)| gate);
        self.record.promotion.waits_for = gate.as_ref().map(|gate| gate.why.clone());
        let mut conclusion = self.conclusion();
        let state = match &self.record.state {
            _ if waiting => "waiting",
            state if state.serves() => "promoted",
            State::RolledBack { .. } => "rolled_back",
            State::Frozen { .. } => "frozen",
            _ => "in_progress",
        };
        conclusion.outputs.push(("state", state.to_owned()));
        conclusion.outputs.push(("epoch", self.record.promotion.epoch.to_string()));
        let missing = gate.map(|gate| gate.missing).unwrap_or_default();
        if !missing.is_empty() {
            conclusion.outputs.push(("waits_for_approval", missing.join(",")));
        }
        conclusion.outputs.push(("weight", show_share(self.record.promotion.weight)));
        if let Some(next_at) = self.record.promotion.next_at {
            conclusion.outputs.push(("next_at", next_at.to_string()));
        }
        let saved = self.save();
        self.bear(saved)?;
        self.keep_samples(&mut conclusion);
        let sentence = conclusion.summary.clone();
        let concluded = self.job.conclude(conclusion);
        let exit = self.bear(concluded)?;
        let mark = match self.record.state {
            _ if self.record.state.serves() => Mark::Good,
            State::RolledBack { .. } | State::Frozen { .. } => Mark::Bad,
            _ => Mark::Step,
        };
        self.job.talk().line(mark, &sentence);
        if let Some(fault) = &self.unwritten {
            self.job.talk().error(&format!("that is so, but not all of it is on record\n{fault}"));
            return Ok(Exit::Infrastructure);
        }
        if let Some(hook) = self.cut_off.filter(|_| self.record.state.serves()) {
            let hook = hook.word();
            self.job.talk().error(&format!(
                "green serves everything, but the {hook} hook was ended half way, for this job was asked to stop\n  \
                 help: look at what it has left undone; it is not begun again"
            ));
            return Ok(Exit::Infrastructure);
        }
        // Waiting for time is nothing to worry about; waiting for people is theirs to know.
        let patient = waiting && missing.is_empty() && exit == Some(Exit::Undecided);
        Ok(if patient { Exit::Pass } else { exit.unwrap_or(Exit::Infrastructure) })
    }

    /// Takes a failed write upon itself while traffic is on its way back or back already: first the
    /// traffic, then the record. On the way forward nothing moves that is not on record.
    fn bear<T>(&mut self, done: Result<T, Fault>) -> Result<Option<T>, Fault> {
        match done {
            Ok(done) => Ok(Some(done)),
            // A lease that is lost is another job's: it writes now, and this one must not.
            Err(fault) if went_back(&self.record.state) && fault.exit == Exit::Infrastructure => {
                self.job.talk().line(Mark::Warn, &fault.line());
                self.unwritten.get_or_insert(fault);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Puts the samples behind the judgements beside the document. Where that is not possible the
    /// document says so: the verdicts stand without them.
    fn keep_samples(&mut self, conclusion: &mut Conclusion<PromoteBody>) {
        let of = Of::record(&self.record);
        let path = self.job.evidence().join(FILE);
        let kept = self.log.for_evidence(self.store(), &of).and_then(|found| {
            let Some((bytes, record)) = found else { return Ok(None) };
            write_atomic(&path, &bytes).map_err(|e| unwritable(&path, &e))?;
            Ok(Some(record))
        });
        let record = kept.unwrap_or_else(|fault| {
            self.job.talk().line(Mark::Warn, &format!("the samples are not kept: {}", fault.line()));
            let incomplete = Some(fault.line());
            Some(SamplesRecord { file: FILE.into(), sha256: String::new(), looks: 0, incomplete })
        });
        if let Some(promotion) = &mut conclusion.body.promotion {
            promotion.samples = record;
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

    /// Puts on record what stands before the next step, for whoever asks meanwhile.
    fn show_gate(&mut self, gate: Option<&Gate>) -> Result<(), Fault> {
        let waits_for = gate.map(|gate| gate.why.clone());
        if self.record.promotion.waits_for == waits_for {
            return Ok(());
        }
        if let Some(why) = &waits_for {
            self.job.talk().line(Mark::Step, why);
        }
        self.record.promotion.waits_for = waits_for;
        self.save()?;
        self.show_progress();
        Ok(())
    }

    /// Writes the document of a promotion that goes on. The state is safe already, so a page that
    /// cannot be written does not leave a step without anybody who watches it; the end tells.
    fn show_progress(&mut self) {
        // The page of a job that was overtaken would hide that of the one that goes on.
        if self.lease.still_mine().is_err() {
            return;
        }
        if let Err(fault) = self.write_document() {
            self.job.talk().line(Mark::Warn, &fault.line());
        }
    }

    fn save(&mut self) -> Result<(), Fault> {
        // By the clock of this call: a clock that was set since it began is found out by the next one.
        self.record.clocks = Some(Clocks { wall_ms: self.clock.ms(), ..Clocks::read() });
        // The samples first: a verdict that is on record can be reached again. What could not be written
        // waits for the next time, and the end tells.
        let _ = self.log.flush(&self.lease, &Of::record(&self.record));
        self.lease.swap(&self.record)
    }

    /// Whether a write would only hold up the way back: one has failed already, and traffic is not
    /// back yet.
    fn traffic_first(&self) -> bool {
        let back = matches!(self.record.state, State::CheckingBlue { .. } | State::RollingBack { .. });
        back && self.unwritten.is_some()
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
        if !self.traffic_first() {
            let noted = self.lease.journal(&json!({
                "at": now, "epoch": self.record.promotion.epoch, "promotion": self.record.id, "did": event, "state": self.record.state,
            }));
            self.bear(noted)?;
        }
        if !self.traffic_first() {
            let saved = self.save();
            self.bear(saved)?;
        }
        if changed {
            self.tell(&before);
        }
        // The way back is short and must not wait for a page that nobody reads yet; and the document
        // of a release that is done stands, for later ones name it by digest.
        if changed && !going_back(&self.record.state) && !before.serves() {
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

/// How long a judgement lets the next step be taken when nobody was there in between, in ms.
const JUDGED_FOR_MS: i64 = 60_000;

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
