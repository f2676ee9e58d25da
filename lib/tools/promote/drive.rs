//! The driver: a promotion under way, its record, its lease and its router. What is done when is
//! [`conduct`]'s; this has the [`hands`] for it, and tells how it ended.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::bake::Watch;
use super::begin::{self};
use super::conduct;
use super::machine::{Action, Hook, State};
use super::record::{Clocks, Record, phase};
use super::samples::{self, FILE, Log, Of};
use super::say;
use super::shift::Entry;
use crate::evidence::{PromoteBody, SamplesRecord};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::Promote;
use crate::routers::Router;
use crate::state::{Ask, Asked, Lease, Store};
use crate::units::show_share;
use crate::world::files::{unwritable, write_atomic};
use crate::world::shell::Ready;
use crate::world::talk::{Mark, Ticker};
use crate::world::{self, ci};

mod clock;
mod gates;
mod hands;
mod notes;
mod own_view;
mod retire;
mod wishes;

use clock::Clock;
use gates::Gate;
use hands::Waiting;
pub(super) use wishes::word as word_of_wish;

/// How soon it is looked again whether blue may be taken down, in ms.
const RETIRE_AGAIN_MS: i64 = 60_000;

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
    /// The phase that it has shown last.
    phase_shown: String,
    clock: Clock,
    /// What the router said at the last look.
    live: Option<crate::routers::Live>,
    /// Why blue is not taken down yet.
    blue_stays: Option<String>,
    /// The router did not answer at the look before.
    was_away: bool,
    /// People have taken servers out, or brought some back, at the last look.
    rearranged: bool,
    /// Since when the router does not answer, by [`Clock::passed`].
    away_since: Option<Duration>,
    /// How many requests a side that was drained has left, and how long that took.
    drained: Option<(u64, Duration)>,
    /// The hook of this job that is about to begin.
    ready: Option<std::io::Result<Ready>>,
    /// A hook that outlived its job, while it is waited for.
    waiting: Option<Waiting>,
    /// Until when a job that came late looks what it must put right.
    late_until: Option<Instant>,
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
        mut router: Box<dyn Router>,
        lease: Lease,
        record: Record,
    ) -> Result<Self, Fault> {
        router.remember(&record.before);
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
            phase_shown: String::new(),
            clock: Clock::start(),
            live: None,
            blue_stays: None,
            was_away: false,
            rearranged: false,
            away_since: None,
            drained: None,
            ready: None,
            waiting: None,
            late_until: None,
            cut_off: None,
            unwritten: None,
        })
    }

    fn store(&self) -> &Store {
        self.lease.store()
    }

    /// What somebody has asked of this promotion.
    fn asked(&self, ask: Ask) -> Option<Asked> {
        self.store().asked(ask, self.record.promotion.epoch, self.record.id.as_deref())
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

    /// Writes the first record of a promotion.
    pub(super) fn begun(&mut self) -> Result<(), Fault> {
        self.record.decided(
            world::now(),
            &ci::actor(),
            format!("began with {} steps", self.record.course.steps.len()),
        );
        for ask in Ask::ALL {
            self.store().forget(ask)?;
        }
        samples::forget_others(self.store(), &Of::record(&self.record))?;
        // Nothing is begun whose evidence cannot be written.
        self.write_progress()?;
        self.lease.journal(&json!({
            "at": world::now(), "epoch": self.record.promotion.epoch, "promotion": self.record.id,
            "begins": self.record.release,
        }))?;
        self.write_record()
    }

    /// Goes on with a promotion that another call has begun.
    pub(super) fn come_back(&mut self) -> Result<(), Fault> {
        conduct::come_back(self)
    }

    /// Goes on until it is finished, frozen, waiting (`Mode::Once`) or asked to stop.
    pub(super) fn drive(&mut self) -> Result<(), Fault> {
        conduct::drive(self)
    }

    /// Calls the promotion off and takes it back, unless it is over or on its way back; whether or not the
    /// request could be left on disk.
    pub(super) fn call_off(&mut self, reason: String) -> Result<(), Fault> {
        conduct::call_off(self, reason)
    }

    /// Grants what somebody asks of a promotion that nobody works on, where it may be.
    pub(super) fn grant(&mut self, ask: Ask, asked: &Asked) -> Result<Result<(), String>, Fault> {
        if let Err(why) = self.may(ask) {
            return Ok(Err(why));
        }
        let event = self.granted(ask, asked)?;
        conduct::grant(self, &event).map(Ok)
    }

    /// Goes back after a promotion, while the old side is kept.
    pub(super) fn undo(&mut self, reason: String) -> Result<(), Fault> {
        conduct::undo(self, reason)
    }

    /// What a call that leaves early waits for: the moment to look again, and the gate where one is
    /// all that stands in the way.
    fn waits_for(&mut self) -> Option<(i64, Option<Gate>)> {
        let interval = i64::try_from(self.interval().as_millis()).unwrap_or(i64::MAX);
        let soon = self.clock.ms().saturating_add(interval);
        let at = |gate: &Gate| gate.opens_at.map_or(soon, |at| at.as_millisecond().max(soon));
        match self.record.state.action(&self.record.course)? {
            Action::Keep { until_ms: Some(until) } => Some((until, None)),
            Action::Run(Hook::Retire) => Some((self.clock.ms().saturating_add(RETIRE_AGAIN_MS), None)),
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
        self.record.promotion.waits_for =
            gate.as_ref().map(|gate| gate.why.clone()).or_else(|| self.blue_stays.clone());
        self.note_after_reload();
        self.note_other_ways();
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
        conduct::put_on_record(self)?;
        self.job.bring_back(&self.record.needs);
        self.keep_samples(&mut conclusion);
        // Whoever reads it here can run its commands as they stand, in whichever folder this is.
        let sentence = self.record.verdict_with(&|verb| say::command(self.job, verb)).1;
        let concluded = self.job.conclude(conclusion);
        let exit = conduct::bear(self, concluded)?;
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

    /// Puts the samples behind the judgements beside the document. Where that is not possible the
    /// document says so: the verdicts stand without them.
    fn keep_samples(&mut self, conclusion: &mut Conclusion<PromoteBody>) {
        let of = Of::record(&self.record);
        let path = self.job.evidence().join(FILE);
        let kept = self.log.for_evidence(self.store(), &of).and_then(|found| {
            let Some((bytes, record)) = found else { return Ok(None) };
            write_atomic(&path, &bytes).map_err(|e| {
                let fault = unwritable(&path, &e);
                // What the verdicts rest on is missing, and the end must tell.
                self.unwritten.get_or_insert_with(|| fault.clone());
                fault
            })?;
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

    fn write_progress(&mut self) -> Result<(), Fault> {
        let conclusion = self.conclusion();
        self.job.write(&conclusion).map(drop)
    }

    /// Puts on record what stands before the next step, for whoever asks meanwhile.
    fn put_gate_on_record(&mut self, gate: Option<&Gate>) -> Result<(), Fault> {
        let waits_for = gate.map(|gate| gate.why.clone());
        if self.record.promotion.waits_for == waits_for {
            return Ok(());
        }
        if let Some(why) = &waits_for {
            self.job.talk().line(Mark::Step, why);
        }
        self.record.promotion.waits_for = waits_for;
        self.write_record()?;
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
        if let Err(fault) = self.write_progress() {
            self.job.talk().line(Mark::Warn, &fault.line());
        }
    }

    fn write_record(&mut self) -> Result<(), Fault> {
        // By the clock of this call: a clock that was set since it began is found out by the next one.
        self.record.clocks = Some(Clocks { wall_ms: self.clock.ms(), ..Clocks::read() });
        // The samples first: a verdict that is on record can be reached again. What could not be written
        // waits for the next time, and the end tells.
        let _ = self.log.flush(&self.lease, &Of::record(&self.record));
        self.lease.swap(&self.record)
    }

    fn tell_turn(&self, before: &State) {
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
pub(super) fn called_off(asked: &Asked) -> String {
    let why = asked.why.as_ref().map(|w| format!(": {w}")).unwrap_or_default();
    format!("called off by {}{why}", asked.who)
}
