//! Carries out what the machine asks for, one action after another, each on disk before and after.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::bake::{Scene, Watch, look};
use super::begin::{self, look_at};
use super::machine::{Action, Event, Hook, State, next};
use super::record::{Record, between_ms, phase};
use super::shift::{Entry, shift};
use crate::evidence::{Decision, HookRecord, Outcome, PromoteBody, RollbackRecord, Verdict};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::Promote;
use crate::routers::{Router, Side, Split, same_share};
use crate::state::{Ask, Asked, Folder, Lock};
use crate::units::{Text, show_duration, show_share};
use crate::world::shell::Order;
use crate::world::talk::{Mark, Ticker};
use crate::world::{self, ci, signal};

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
    folder: Folder,
    _lock: Lock,
    version: u64,
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

/// How often a forward shift is tried before the release goes back.
const FORWARD_TRIES: u32 = 3;
/// How often a rollback is tried before people are called.
const BACK_TRIES: u32 = 5;
/// How long blue may take to answer before a rollback is held back.
const BLUE_PATIENCE: Duration = Duration::from_secs(2);

impl<'a> Driver<'a> {
    /// Takes a record over. `version` is the one on disk, 0 when it was never written.
    pub(super) fn new(
        job: &'a Job,
        mode: Mode,
        router: Box<dyn Router>,
        folder: Folder,
        lock: Lock,
        version: u64,
        record: Record,
    ) -> Result<Self, Fault> {
        Ok(Self {
            job,
            plan: begin::section(job)?,
            mode,
            entry: begin::entry(job)?,
            router,
            folder,
            _lock: lock,
            version,
            record,
            watch: None,
            ticker: job.talk().ticker(),
            clock: Clock::start(),
            unwritten: None,
        })
    }

    /// Writes the first record of a promotion.
    pub(super) fn begun(&mut self) -> Result<(), Fault> {
        self.record.decided(
            world::now(),
            &ci::actor(),
            format!("began with {} steps", self.record.course.steps.len()),
        );
        for ask in [Ask::Abort, Ask::Pause] {
            self.folder.forget(ask)?;
        }
        self.folder.journal(
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
        if over { None } else { self.folder.asked(Ask::Abort, self.record.promotion.epoch) }
    }

    /// Goes on until it is finished, frozen, waiting (`Mode::Once`) or asked to stop.
    pub(super) fn drive(&mut self) -> Result<(), Fault> {
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
        self.version = self.folder.swap(self.version, &self.record)?;
        Ok(())
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
        let noted = self.folder.journal(&json!({
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

    fn perform(&mut self, action: Action) -> Result<Option<Event>, Fault> {
        if !matches!(action, Action::Bake { .. }) {
            let epoch = self.record.promotion.epoch;
            let does = json!({"at": world::now(), "epoch": epoch, "does": describe(action)});
            let noted = self.folder.journal(&does);
            self.bear(noted)?;
        }
        match action {
            Action::Run(hook) => self.run_hook(hook).map(Some),
            Action::CheckHealth(side) => Ok(Some(self.check_health(side))),
            Action::Shift { weight, rollback } => Ok(Some(self.shift(weight, rollback))),
            Action::Bake { step, since_ms, until_ms, .. } => self.bake(step, since_ms, until_ms),
            Action::Retire(side) => Ok(Some(self.retire(side))),
        }
    }

    fn run_hook(&mut self, hook: Hook) -> Result<Event, Fault> {
        self.apply(&Event::HookBegins)?;
        let hooks = &self.plan.hooks;
        let words: &[Text] = match hook {
            Hook::Deploy => &hooks.deploy,
            Hook::After => &hooks.after,
            Hook::OnRollback => &hooks.on_rollback,
        };
        let command = words.iter().map(|w| w.shown.as_str()).collect::<Vec<_>>().join(" ");
        let mut order =
            Order::new(words.iter().map(|w| w.value.clone()).collect(), begin::hook_folder(self.job));
        order.timeout = hooks.timeout.map_or(Duration::from_secs(600), |t| t.0);
        order.through_signals = hook == Hook::OnRollback;
        let reason = match &self.record.state {
            State::RunningOnRollback { reason, .. } => reason.clone(),
            _ => String::new(),
        };
        let release = &self.record.release;
        order.env = [
            ("TRAPKEY_HOOK", hook.word().to_owned()),
            ("TRAPKEY_SERVICE", release.service.clone()),
            ("TRAPKEY_VERSION", release.version.clone()),
            ("TRAPKEY_ENVIRONMENT", release.environment.clone()),
            ("TRAPKEY_REASON", reason),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .to_vec();
        let (exit, took, how, output) = match order.run() {
            Ok(ran) => {
                let mut output = String::from_utf8_lossy(&ran.stdout).into_owned();
                output.push_str(&String::from_utf8_lossy(&ran.stderr));
                let how = match ran.last_words() {
                    words if words.is_empty() || ran.exit == Some(0) => ran.how(),
                    words => format!("{}: {words}", ran.how()),
                };
                (ran.exit, ran.took, how, output)
            }
            Err(e) => (None, Duration::ZERO, format!("it could not be started: {e}"), String::new()),
        };
        let skip = output.chars().count().saturating_sub(2000);
        self.record.promotion.hooks.push(HookRecord {
            hook: hook.word().into(),
            command,
            exit,
            duration_ms: took.as_secs_f64() * 1e3,
            output: output.chars().skip(skip).collect(),
        });
        let ok = exit == Some(0);
        let mark = if ok { Mark::Good } else { Mark::Warn };
        self.job
            .talk()
            .line(mark, &format!("hook {}: {how} after {}", hook.word(), show_duration(took.as_secs_f64())));
        Ok(Event::HookEnded { ok, how })
    }

    fn check_health(&mut self, side: Side) -> Event {
        let plan = self.plan;
        let (spec, patience) = match side {
            Side::Blue => (&plan.sides.blue, BLUE_PATIENCE),
            Side::Green => (&plan.sides.green, plan.healthy_within.map_or(Duration::from_secs(60), |s| s.0)),
        };
        let seen = look_at(spec, plan, patience, side == Side::Blue);
        if side == Side::Blue {
            return health(seen);
        }
        let marked = seen.and_then(|seen| {
            let marker = begin::marker(Side::Green, spec, plan).map_err(|fault| fault.line())?;
            if self.record.markers.blue.as_ref() == Some(&marker) {
                return Err(format!(
                    "it says that it is `{marker}`, and so does blue: nobody could tell them apart"
                ));
            }
            Ok((seen, marker))
        });
        health(marked.map(|(seen, marker)| {
            let sentence = format!("{seen}, it is {marker}");
            self.record.promotion.green.version = Some(marker.clone());
            self.record.markers.green = Some(marker);
            sentence
        }))
    }

    /// Puts a weight into force, and tries again a few times where the router did not follow.
    fn shift(&mut self, weight: f64, rollback: bool) -> Event {
        let why = match &self.record.state {
            State::Shifting { step } => format!("step {}", step + 1),
            _ => "rollback".into(),
        };
        let split = Split { green: weight, close_idle_side: rollback };
        let tries = if rollback { BACK_TRIES } else { FORWARD_TRIES };
        let mut last = String::new();
        for attempt in 1..=tries {
            match shift(self.router.as_mut(), &self.entry, &self.record.markers, split, &why) {
                Ok(done) => {
                    if rollback {
                        note_rollback(&mut self.record, &done);
                    }
                    self.record.promotion.weight = weight;
                    self.record.promotion.shifts.push(done);
                    // Counters from here on belong to the new weight; without them the probes judge.
                    self.count_anew();
                    return Event::Shifted { at_ms: self.clock.ms() };
                }
                Err(not) => {
                    last = not.fault.line();
                    // Requests were given their time to meet the split; more of it is more of them
                    // on a side that nobody judges.
                    if (not.waited && !rollback) || self.abort_asked().is_some() {
                        break;
                    }
                }
            }
            if attempt < tries {
                self.job.talk().line(Mark::Warn, &format!("{last}; trying again"));
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Event::ShiftFailed { why: last }
    }

    /// Counters from here on belong to the weight that is in force now.
    fn count_anew(&mut self) {
        self.record.base = self.router.counters().ok().flatten();
        self.record.counted = None;
    }

    fn interval(&self) -> Duration {
        self.plan.interval.map_or(Duration::from_secs(5), |s| s.0).max(Duration::from_millis(100))
    }

    /// Waits for the next look, looks, and says what was seen.
    fn bake(&mut self, step: usize, since_ms: i64, until_ms: i64) -> Result<Option<Event>, Fault> {
        let plan = self.plan;
        if self.watch.is_none() {
            let last = self.record.promotion.series.last().map(|i| i.at.as_millisecond());
            self.watch = Some(Watch::begin(plan, self.clock.now(), last.unwrap_or(since_ms).max(since_ms)));
        }
        let known_step = self.record.promotion.judgements.last().is_some_and(|j| j.step == step + 1);
        if let Some(watch) = self.watch.as_mut().filter(|_| !known_step) {
            watch.next_step(since_ms);
        }
        if !self.wait_for_look(until_ms) {
            return Ok(None);
        }
        if let Some(event) = self.reconcile()? {
            return Ok(Some(event));
        }
        // A router that counts, and does not say what it counted, leaves part of the window unjudged.
        let (counters, lost) = match self.router.counters() {
            Ok(counters) => (counters, None),
            Err(fault) => (None, Some(fault.line())),
        };
        let Some(watch) = self.watch.as_mut() else { return Ok(None) };
        let weight = self.record.course.steps.get(step).map_or(0.0, |s| s.weight);
        let now = self.clock.now();
        let bake_ms = until_ms - since_ms;
        let scene = Scene { plan, step, since_ms, bake_ms, weight, now, counters, lost };
        let looked = look(watch, &mut self.record, &scene);
        let sentence = looked.judgement.summary.clone();
        self.ticker.set(&format!("{} · {sentence}", phase(&self.record.state, &self.record.course)));
        let judgements = &mut self.record.promotion.judgements;
        match judgements.last_mut().filter(|j| j.step == step + 1 && j.verdict == looked.judgement.verdict) {
            Some(last) => *last = looked.judgement,
            None => judgements.push(looked.judgement),
        }
        let paused = self.folder.asked(Ask::Pause, self.record.promotion.epoch).is_some();
        Ok(Some(Event::Looked { look: looked.look, sentence, at_ms: now.as_millisecond(), paused }))
    }

    /// Waits one interval, or until the end of the bake when that comes first; `Mode::Once` waits
    /// only until the probes have enough. False when an abort or a signal came in between.
    fn wait_for_look(&self, until_ms: i64) -> bool {
        let left = u64::try_from(until_ms - self.clock.ms()).unwrap_or(0);
        let wait = match self.mode {
            Mode::Hold if left == 0 => self.interval(),
            Mode::Hold => self.interval().min(Duration::from_millis(left + 1)),
            Mode::Once => {
                let samples = self.plan.min_samples.unwrap_or(50).max(1) as f64;
                // Without enough of them no step would ever be judged good, so it is as long as it is.
                let needed = samples / self.plan.probe.rate.0 * 1.1 + 0.1;
                Duration::from_secs_f64(needed.clamp(0.1, 86_400.0))
            }
        };
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if !signal::sleep(left.min(Duration::from_millis(100)))
                || self.folder.asked(Ask::Abort, self.record.promotion.epoch).is_some()
            {
                return false;
            }
        }
    }

    /// Holds the live router against the record, and repairs it where somebody or a restart changed
    /// it. An event comes back when that is not possible.
    fn reconcile(&mut self) -> Result<Option<Event>, Fault> {
        let Some(weight) = self.record.state.settled(&self.record.course) else { return Ok(None) };
        let live = match self.router.read() {
            Ok(live) => live,
            Err(fault) if matches!(self.record.state, State::Baking { .. }) => {
                return Ok(Some(Event::ShiftFailed { why: fault.line() }));
            }
            Err(fault) => return Err(fault),
        };
        let nearest = self.router.nearest(weight);
        if same_share(live.green, nearest) {
            return Ok(None);
        }
        let found =
            format!("found {} on green where {} was in force", show_share(live.green), show_share(weight));
        if live.green < nearest && !self.router_began_anew() {
            // Somebody took users off green, by the printed way back perhaps: they had a reason.
            return Ok(Some(Event::ShiftFailed { why: format!("{found}: somebody has taken it off green") }));
        }
        let what = format!("{found}, and put it back");
        self.job.talk().line(Mark::Warn, &what);
        let split = Split { green: weight, close_idle_side: weight == 0.0 };
        match shift(self.router.as_mut(), &self.entry, &self.record.markers, split, "reconcile") {
            Ok(done) => {
                self.record.promotion.shifts.push(done);
                self.record.decided(world::now(), "trapkey", what);
                self.count_anew();
                let saved = self.save();
                self.bear(saved)?;
                Ok(None)
            }
            Err(not) => Ok(Some(Event::ShiftFailed { why: not.fault.line() })),
        }
    }

    /// Whether the router is another process than the one that took the weight: a restart or a reload
    /// loses weights, and that is no wish of anybody.
    fn router_began_anew(&mut self) -> bool {
        let before = self.record.base.as_ref().map(|b| b.instance.clone());
        let now = self.router.counters().ok().flatten().map(|c| c.instance);
        matches!((before, now), (Some(before), Some(now)) if before != now)
    }

    fn retire(&mut self, side: Side) -> Event {
        let limit = self.plan.drain.map_or(Duration::from_secs(10), |s| s.0);
        // Nobody is watched any more.
        self.watch = None;
        let started = Instant::now();
        match self.router.retire(side, limit) {
            Ok(cut) => {
                let took = show_duration(started.elapsed().as_secs_f64());
                let what = match cut {
                    _ if !self.router.sees_open_requests() => {
                        format!(
                            "{} had {took} to drain; this router does not show open requests",
                            side.word()
                        )
                    }
                    0 => format!("{} drained in {took}", side.word()),
                    n => format!("{} drained for {took}, then {n} open requests were cut", side.word()),
                };
                self.record.decided(world::now(), "trapkey", what);
                Event::Retired
            }
            Err(fault) => {
                let why = fault.line();
                self.job
                    .talk()
                    .line(Mark::Warn, &format!("{} was not taken out of service: {why}", side.word()));
                Event::RetireFailed { why }
            }
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

fn health(seen: Result<String, String>) -> Event {
    match seen {
        Ok(seen) => Event::Health { ok: true, seen },
        Err(seen) => Event::Health { ok: false, seen },
    }
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

fn describe(action: Action) -> serde_json::Value {
    match action {
        Action::Run(hook) => json!({"run": hook}),
        Action::CheckHealth(side) => json!({"check_health": side}),
        Action::Shift { weight, rollback } => json!({"shift": weight, "rollback": rollback}),
        Action::Bake { step, until_ms, .. } => json!({"bake": step + 1, "until_ms": until_ms}),
        Action::Retire(side) => json!({"retire": side}),
    }
}

fn note_rollback(record: &mut Record, done: &crate::evidence::Shift) {
    if let Some(rollback) = &mut record.promotion.rollback {
        let read_back_at =
            Timestamp::from_nanosecond(done.at.as_nanosecond() + nanos(done.set_ms)).unwrap_or(done.at);
        rollback.read_back_at = Some(read_back_at);
        rollback.took_ms = Some(between_ms(rollback.decided_at, read_back_at));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a duration of a shift")]
fn nanos(ms: f64) -> i128 {
    (ms * 1e6) as i128
}

/// Puts a turn of the way on record: decisions, the steps' times, the rollback.
fn note(record: &mut Record, before: &State, event: &Event, now: Timestamp) {
    let after = record.state.clone();
    let promotion = &mut record.promotion;
    let mut decide =
        |what: String| promotion.decisions.push(Decision { at: now, who: "trapkey".into(), what });
    match (&after, event) {
        (State::CheckingBlue { reason }, Event::Aborted { .. }) => decide(format!("goes back: {reason}")),
        (State::CheckingBlue { reason }, _) if !matches!(before, State::Frozen { .. }) => {
            decide(format!("goes back: {reason}"));
        }
        (State::Frozen { reason, .. }, _) => decide(format!("stands still: {reason}")),
        (State::Shifting { step }, Event::Looked { .. }) => {
            decide(format!(
                "judged step {step} good and goes on to {}",
                share(record.course.steps.get(*step).map(|s| s.weight))
            ));
        }
        (State::Promoted, _) => decide("finished: green serves everything".into()),
        (State::RolledBack { .. }, _) => decide("finished: blue serves everything".into()),
        _ => {}
    }
    if let (State::Shifting { step }, Event::Shifted { .. }) = (before, event)
        && let Some(record) = promotion.steps.get_mut(*step)
    {
        record.began_at = Some(now);
        if !matches!(after, State::Baking { .. }) {
            record.ended_at = Some(now);
            record.verdict = Some(Verdict::Pass);
        }
    }
    let still = |step: &usize| matches!(&after, State::Baking { step: now, .. } if now == step);
    if let State::Baking { step, .. } = before
        && !still(step)
        && let Some(record) = promotion.steps.get_mut(*step)
    {
        record.ended_at = Some(now);
        let looked = promotion.judgements.iter().rev().find(|j| j.step == step + 1).map(|j| j.verdict);
        record.verdict = Some(match event {
            Event::Looked { .. } => looked.unwrap_or(Verdict::NoData),
            Event::ShiftFailed { .. } => Verdict::Error,
            _ => Verdict::Skipped,
        });
    }
    if matches!(after, State::CheckingBlue { .. }) && promotion.rollback.is_none() {
        promotion.rollback =
            Some(RollbackRecord { decided_at: now, read_back_at: None, drained_at: None, took_ms: None });
    }
    if let (State::RetiringGreen { .. }, Event::Retired, Some(rollback)) =
        (before, event, &mut promotion.rollback)
    {
        rollback.drained_at = Some(now);
    }
    if after.finished() || matches!(after, State::Frozen { .. }) {
        let (outcome, reason) = record.outcome();
        record.promotion.outcome = outcome;
        record.promotion.reason = reason;
        if outcome == Outcome::Promoted {
            record.promotion.weight = 1.0;
        }
    }
}

fn share(weight: Option<f64>) -> String {
    weight.map_or_else(|| "the end".into(), show_share)
}
