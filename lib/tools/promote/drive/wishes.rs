//! What people ask of a promotion that goes forward: to end a bake early, or to close it as it stands.

use std::time::Duration;

use super::super::begin::look_at;
use super::super::machine::{Event, State};
use super::Driver;
use crate::fault::Fault;
use crate::metrics::probe::{Connection, Headers, once};
use crate::routers::Side;
use crate::state::{Ask, Asked};
use crate::world;
use crate::world::http::{Client, join};
use crate::world::talk::Mark;

/// How many requests show whether green answers, and how many of them may fail.
const ASKED: usize = 20;
const FAILED: usize = 1;
/// How long green may take to show that it is well.
const PATIENCE: Duration = Duration::from_secs(5);

impl Driver<'_> {
    /// A wish that was left for the job that works. It is heeded once, and where it may not be, that is told.
    pub(super) fn wish_of_people(&mut self) -> Result<Option<Event>, Fault> {
        for ask in [Ask::Accept, Ask::Skip] {
            let Some(asked) = self.asked(ask) else { continue };
            self.store().forget(ask)?;
            match self.may(ask) {
                Ok(()) => return self.granted(ask, &asked).map(Some),
                Err(why) => {
                    let what = format!("`promote {}` of {} is not heeded: {why}", word(ask), asked.who);
                    self.job.talk().line(Mark::Warn, &what);
                    self.record.decided(world::now(), "trapkey", what);
                }
            }
        }
        Ok(None)
    }

    /// The event that a wish leads to; who wished is on record.
    ///
    /// Errors (4): an abort of before cannot be taken back.
    pub(super) fn granted(&mut self, ask: Ask, asked: &Asked) -> Result<Event, Fault> {
        let why = asked.why.as_ref().map(|w| format!(": {w}")).unwrap_or_default();
        let who = &asked.who;
        let (what, event) = if ask == Ask::Skip {
            let step = match &self.record.state {
                State::Baking { step, .. } => step + 1,
                _ => 0,
            };
            let reason = format!("the bake of step {step} was ended early by {who}{why}");
            (format!("ends the bake of step {step} early{why}"), Event::Skipped { reason })
        } else {
            let reason = format!("accepted as it stands by {who}{why}");
            self.take_back_the_abort()?;
            self.record.accepted = Some(reason.clone());
            (format!("accepts it as it stands{why}"), Event::Accepted { reason })
        };
        self.record.decided(world::now(), who, what);
        Ok(event)
    }

    /// An abort that has led to where nothing moves is over once that is accepted. One that comes from now on wins.
    fn take_back_the_abort(&self) -> Result<(), Fault> {
        let tried = self.asked(Ask::Abort).filter(|_| matches!(self.record.state, State::Frozen { .. }));
        let Some(tried) = tried else { return Ok(()) };
        let over = Asked { epoch: 0, ..tried.clone() };
        self.store().revise_asked(Ask::Abort, |found| (found.as_ref() == Some(&tried)).then(|| over.clone()))
    }

    /// Whether a wish may be granted.
    ///
    /// Errors, in words: there is nothing to skip or to accept, green is not well, or an approval is missing.
    pub(super) fn may(&mut self, ask: Ask) -> Result<(), String> {
        let (first, last) = match (&self.record.state, ask) {
            (State::Baking { step, .. }, Ask::Skip) => (step + 1, step + 1),
            (State::Baking { step, .. }, Ask::Accept) => (step + 1, self.record.course.steps.len()),
            (State::Shifting { step: step @ 1.. }, Ask::Accept) => (*step, self.record.course.steps.len()),
            (State::Frozen { .. }, Ask::Accept) => (self.reached(), self.record.course.steps.len()),
            (_, Ask::Skip) => return Err("no step is watched now".into()),
            (State::Accepting { .. } | State::CheckingBlue { .. } | State::RollingBack { .. }, _) => {
                return Err("it is on its way already".into());
            }
            _ => return Err("green has no users yet".into()),
        };
        let frozen = matches!(self.record.state, State::Frozen { .. });
        if !frozen && self.asked(Ask::Abort).is_some() {
            return Err("an abort is left, and it wins: `promote step` carries it out".into());
        }
        for step in first..=last {
            let missing = self.not_approved(step);
            if !missing.is_empty() {
                return Err(format!("step {} waits for the approval of {}", step + 1, missing.join(" and ")));
            }
        }
        let seen = look_at(&self.plan.sides.green, self.plan, PATIENCE, false);
        seen.and_then(|_| self.router_lets(Side::Green, Duration::ZERO))
            .and_then(|()| self.green_answers())
            .map_err(|why| format!("green is not well: {why}"))?;
        if ask == Ask::Accept { self.may_stand(frozen) } else { Ok(()) }
    }

    /// What a judge would see at once: whether green answers what the probes ask.
    fn green_answers(&self) -> Result<(), String> {
        let timeout = self.plan.probe.timeout.map_or(PATIENCE, |span| span.0.min(PATIENCE));
        let client = Client::new(timeout);
        let url = join(&self.plan.sides.green.url.value, &self.plan.probe.path);
        let headers = Headers::of(&self.plan.probe);
        let failed = (0..ASKED).filter(|_| !once(&client, &url, &headers, Connection::New).ok).count();
        if failed > FAILED { Err(format!("{failed} of {ASKED} requests to it failed")) } else { Ok(()) }
    }

    /// Whether there is something that may be closed as it stands: users are on green, and there is no other way.
    fn may_stand(&mut self, frozen: bool) -> Result<(), String> {
        let live = self.router.read().map_err(|fault| fault.line())?;
        if live.effective.unwrap_or(live.green) <= 0.0 {
            return Err("the router gives green no users: nothing stands that could be accepted".into());
        }
        let blue = look_at(&self.plan.sides.blue, self.plan, Duration::ZERO, false);
        if !frozen && blue.is_ok() && self.router_lets(Side::Blue, Duration::ZERO).is_ok() {
            return Err(
                "blue is well, so the way goes on and back: `promote skip` ends the bake, `promote abort` goes back"
                    .into(),
            );
        }
        Ok(())
    }

    /// The first step (from 0) that was never in force.
    fn reached(&self) -> usize {
        self.record.promotion.steps.iter().take_while(|step| step.began_at.is_some()).count()
    }
}

/// The command of a wish.
pub(in super::super) fn word(ask: Ask) -> &'static str {
    match ask {
        Ask::Skip => "skip",
        Ask::Accept => "accept",
        Ask::Abort => "abort",
        Ask::Pause => "pause",
    }
}
