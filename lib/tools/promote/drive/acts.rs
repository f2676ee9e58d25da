//! The acts: what is done for each action of the machine, and the event that comes of it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::super::bake::{Bake, Looked, Scene, Watch, count_on, look};
use super::super::begin::{self, Says, look_at};
use super::super::machine::{Action, Event, Hook, Look, State, next};
use super::super::record::{Record, millis, phase};
use super::super::samples::{self, Of};
use super::super::shift::shift;
use super::notes::note_rollback;
use super::{Driver, Mode, going_back};
use crate::checks;
use crate::evidence::HookRecord;
use crate::fault::{Exit, Fault};
use crate::plan::Undecided;
use crate::routers::{Live, Side, Split, same_share};
use crate::state::{Ask, Asked, Saved};
use crate::units::{Text, show_duration, show_share};
use crate::world::clock::System;
use crate::world::left_behind::LeftBehind;
use crate::world::shell::Order;
use crate::world::talk::Mark;
use crate::world::{self, signal};

/// How often a forward shift is tried before the release goes back.
const FORWARD_TRIES: u32 = 3;
/// How often a rollback is tried before people are called.
const BACK_TRIES: u32 = 5;
/// How long the router may be away in a restart, where the plan does not say.
const ROUTER_BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait before the router is asked again.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// How long a hook may clean up after TERM, before it is killed.
const HOOK_GRACE: Duration = Duration::from_secs(10);
/// How many probes of a side every short call makes at least.
const FRESH: u64 = 10;
/// How many preview checks run at once.
const PREVIEWS_AT_ONCE: usize = 8;
/// How long a late job waits for the record to say what must be in force.
const LATE_PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing may be known before that is a reason to go back, where the plan does not say, in ms.
const UNDECIDED_FOR_MS: i64 = 600_000;
/// How long blue may take to answer well before a rollback is held back: longer than a busy machine needs,
/// for a rollback that is held back leaves users on green.
const BLUE_PATIENCE: Duration = Duration::from_secs(5);

impl<'a> Driver<'a> {
    pub(super) fn perform(&mut self, action: Action) -> Result<Option<Event>, Fault> {
        if !matches!(action, Action::Bake { .. } | Action::Wait | Action::Keep { .. })
            && !self.traffic_first()
        {
            let (epoch, id) = (self.record.promotion.epoch, &self.record.id);
            let does = json!({"at": world::now(), "epoch": epoch, "promotion": id, "does": describe(action)});
            let noted = self.lease.journal(&does);
            self.bear(noted)?;
        }
        match action {
            Action::Run(hook) => self.run_hook(hook),
            Action::Wait => self.wait_for_gate(),
            Action::Keep { until_ms } => self.keep(until_ms),
            Action::CheckHealth(side) => self.check_health(side).map(Some),
            Action::Shift { weight, rollback } => self.shift(weight, rollback).map(Some),
            Action::Bake { step, since_ms, until_ms, .. } => self.bake(step, since_ms, until_ms),
            Action::Retire(side) => self.retire(side).map(Some),
        }
    }

    /// Looks at the gate before the first step, and a little later again.
    fn wait_for_gate(&mut self) -> Result<Option<Event>, Fault> {
        let gate = self.gate(0);
        self.show_gate(gate.as_ref())?;
        let Some(gate) = gate else { return Ok(Some(Event::GateOpened)) };
        self.ticker.set(&gate.why);
        signal::sleep(self.interval().min(Duration::from_secs(1)));
        Ok(None)
    }

    /// Begins to keep the old side, or ends it.
    fn keep(&mut self, until_ms: Option<i64>) -> Result<Option<Event>, Fault> {
        if until_ms.is_none() {
            return Ok(Some(Event::KeepBegins { at_ms: self.clock.ms() }));
        }
        // The old side is about to be taken down: nobody may be on it.
        Ok(Some(self.reconcile()?.unwrap_or(Event::KeepOver)))
    }

    /// A hook of a job that was killed is over now, and how it ended is not known.
    pub(super) fn lost_hook(&mut self) -> Option<Event> {
        self.see_out_hook().then_some(Event::HookLost)
    }

    /// Waits for a hook of this promotion that outlived its job: one is at work at a time. One that takes
    /// longer than a hook may is ended. False where a signal or an abort came first.
    fn see_out_hook(&mut self) -> bool {
        let Some(name) = self.hook_at_work() else { return true };
        let Ok(Some(process)) = self.store().document::<String>(&name) else { return true };
        let Some(hook) = LeftBehind::find(&process) else { return true };
        let left = self.hook_limit().saturating_sub(hook.age(&System));
        let what = format!(
            "a hook of a job that was killed is still at work (process {}): it is waited for, at most {}",
            hook.pid,
            show_duration(left.as_secs_f64())
        );
        self.job.talk().line(Mark::Warn, &what);
        self.ticker.set(&what);
        let back = going_back(&self.record.state);
        let go_on = || back || (!signal::stop_asked() && self.abort_asked().is_none());
        if !hook.see_out(&System, left, HOOK_GRACE, &go_on) {
            if !go_on() {
                return false;
            }
            self.job.talk().line(Mark::Warn, &format!("process {} cannot be ended", hook.pid));
        }
        true
    }

    /// Where the process of the hook that is at work is noted, beside the state, until it has ended.
    fn hook_at_work(&self) -> Option<String> {
        self.record.id.as_ref().map(|id| format!("hook.{id}.json"))
    }

    /// How long a hook may take.
    fn hook_limit(&self) -> Duration {
        self.plan.hooks.timeout.map_or(Duration::from_secs(600), |t| t.0)
    }

    fn run_hook(&mut self, hook: Hook) -> Result<Option<Event>, Fault> {
        self.lease.still_mine()?;
        // One that may have begun is never begun again, whatever led here.
        if self.record.state.hook_may_have_begun() {
            return Ok(self.lost_hook());
        }
        if !self.see_out_hook() {
            return Ok(None);
        }
        if hook == Hook::Retire
            && let Some(event) = self.reconcile()?
        {
            return Ok(Some(event));
        }
        self.apply(&Event::HookBegins)?;
        let hooks = &self.plan.hooks;
        let words: &[Text] = match hook {
            Hook::Deploy => &hooks.deploy,
            Hook::After => &hooks.after,
            Hook::OnRollback => &hooks.on_rollback,
            Hook::Retire => &hooks.retire,
        };
        let command = words.iter().map(|w| w.shown.as_str()).collect::<Vec<_>>().join(" ");
        let mut order =
            Order::new(words.iter().map(|w| w.value.clone()).collect(), begin::hook_folder(self.job));
        order.timeout = self.hook_limit();
        order.grace = Some(HOOK_GRACE);
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
        let noted = self.hook_at_work();
        let mut note = |pid| {
            let process = serde_json::to_vec(&world::process_of(pid)).unwrap_or_default();
            // Where that cannot be written nobody finds a hook that outlives this job; it runs all the same.
            if let Some(name) = &noted {
                let _ = self.store().keep(name, &process);
            }
        };
        let ran = order.run_noting(&mut note);
        if let Some(name) = &noted {
            // One that stays names a process that is gone.
            let _ = self.store().remove(name);
        }
        let (exit, took, how, output) = match ran {
            Ok(ran) => {
                if ran.interrupted {
                    self.cut_off = Some(hook);
                }
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
        Ok(Some(Event::HookEnded { ok, how }))
    }

    fn check_health(&mut self, side: Side) -> Result<Event, Fault> {
        let plan = self.plan;
        let (spec, patience) = match side {
            Side::Blue => (&plan.sides.blue, BLUE_PATIENCE),
            Side::Green => (&plan.sides.green, plan.healthy_within.map_or(Duration::from_secs(60), |s| s.0)),
        };
        let seen = look_at(spec, plan, patience, side == Side::Blue);
        if side == Side::Blue {
            return Ok(health(seen.and_then(|seen| self.is_the_blue_of_before().map(|()| seen))));
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
        let (seen, marker) = match marked {
            Ok(both) => both,
            Err(seen) => return Ok(Event::Health { ok: false, seen }),
        };
        self.record.promotion.green.version = Some(marker.clone());
        self.record.markers.green = Some(marker.clone());
        self.preview()
            .map(|seen_too| health(seen_too.map(|seen_too| format!("{seen}, it is {marker}{seen_too}"))))
    }

    /// Users go back to what served them before, and to nothing else that answers in its place.
    fn is_the_blue_of_before(&self) -> Result<(), String> {
        let Some(before) = &self.record.markers.blue else { return Ok(()) };
        match begin::says(&self.plan.sides.blue, self.plan) {
            Says::Release(now) if now != *before => {
                Err(format!("it says that it is `{now}`, and this release began with `{before}` on blue"))
            }
            Says::Nothing => Err(format!(
                "it does not say which release it is, and this release began with `{before}` on blue"
            )),
            // Its health is well, and users are to leave green: one lost answer does not keep them there.
            Says::Release(_) | Says::Silent => Ok(()),
        }
    }

    /// Looks at the idle side by the plan's own checks. What does not pass is told.
    fn preview(&mut self) -> Result<Result<String, String>, Fault> {
        let specs = &self.plan.preview;
        if specs.is_empty() {
            return Ok(Ok(String::new()));
        }
        let prepared = checks::prepare(specs, &self.job.loaded)?;
        let findings = checks::run(&prepared, PREVIEWS_AT_ONCE, &|_| ());
        let closing: Vec<String> =
            findings.iter().filter(|f| f.closes()).map(|f| format!("{}: {}", f.name, f.message)).collect();
        let all = findings.len();
        self.record.promotion.preview = findings;
        Ok(if closing.is_empty() {
            Ok(format!(", {all} preview checks are well"))
        } else {
            Err(format!("the preview does not pass: {}", closing.join("; ")))
        })
    }

    /// Puts a weight into force, and tries again a few times where the router did not follow.
    fn shift(&mut self, weight: f64, rollback: bool) -> Result<Event, Fault> {
        let step = match self.record.state {
            State::Shifting { step } => Some(step),
            _ => None,
        };
        // A gate may have closed since the step was judged.
        if let Some(gate) = step.and_then(|step| self.gate(step)) {
            self.job.talk().line(Mark::Step, &gate.why);
            return self.back_to_look(self.clock.ms());
        }
        let why = step.map_or_else(|| "rollback".into(), |step| format!("step {}", step + 1));
        let split = Split { green: weight, close_idle_side: rollback };
        let tries = if rollback { BACK_TRIES } else { FORWARD_TRIES };
        let mut last = String::new();
        let (mut attempt, mut came_back) = (0, false);
        loop {
            attempt += 1;
            self.lease.still_mine()?;
            let done = shift(self.router.as_mut(), &self.entry, &self.record.markers, split, &why);
            self.not_late()?;
            match done {
                Ok(done) => {
                    if rollback {
                        note_rollback(&mut self.record, &done);
                    }
                    self.record.promotion.weight = weight;
                    self.record.promotion.shifts.push(done);
                    // Counters from here on belong to the new weight; without them the probes judge.
                    self.count_anew();
                    let held = step.is_some_and(|step| self.gate(step + 1).is_some());
                    return Ok(Event::Shifted { at_ms: self.clock.ms(), held });
                }
                Err(not) => {
                    let why = not.fault.line();
                    // Requests were given their time to meet the split; more of it is more of them
                    // on a side that nobody judges.
                    let enough = (not.waited && !rollback)
                        || self.abort_asked().is_some()
                        || (signal::stop_asked() && !rollback);
                    let away_before = self.away_since.is_some();
                    let restarts = !not.waited && self.may_come_back();
                    if !restarts && away_before && self.away_since.is_none() && !came_back {
                        // It is back just now, and takes what it is told.
                        (attempt, came_back) = (0, true);
                    }
                    if enough || (attempt >= tries && !restarts) {
                        last = why;
                        break;
                    }
                    if why != last {
                        self.job.talk().line(Mark::Warn, &format!("{why}; trying again"));
                        last = why;
                    }
                }
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        Ok(Event::ShiftFailed { why: last })
    }

    /// Whether the router is away, and for no longer than a restart may take.
    fn may_come_back(&mut self) -> bool {
        if self.router.read().is_ok() {
            self.away_since = None;
            return false;
        }
        self.is_awaited()
    }

    /// The same of a router that has just not answered.
    fn is_awaited(&mut self) -> bool {
        let now = self.clock.passed();
        let since = *self.away_since.get_or_insert(now);
        now.saturating_sub(since) < self.plan.router_back_within.map_or(ROUTER_BACK_WITHIN, |s| s.0)
    }

    /// The split as the router holds it; none while it is away for no longer than a restart may take.
    ///
    /// Errors: the router is lost.
    fn read_router(&mut self) -> Result<Option<Live>, Fault> {
        match self.router.read() {
            Ok(live) => {
                self.away_since = None;
                Ok(Some(live))
            }
            Err(fault) => {
                if self.away_since.is_none() {
                    self.job.talk().line(Mark::Warn, &format!("{}; it may be restarting", fault.line()));
                }
                if self.is_awaited() { Ok(None) } else { Err(fault) }
            }
        }
    }

    /// What comes of a look while the router is away: a short call waits for it, for no other look follows.
    fn await_router(&mut self) -> Option<Event> {
        while self.mode == Mode::Once && self.abort_asked().is_none() && signal::sleep(BETWEEN_TRIES) {
            match self.read_router() {
                Ok(None) => {}
                Ok(Some(_)) => return None,
                Err(fault) => return Some(Event::ShiftFailed { why: fault.line() }),
            }
        }
        None
    }

    /// What is due is to be judged once more. A job that was killed may have put its weight in force
    /// already: that is taken back before the record says that it is not.
    pub(super) fn back_to_look(&mut self, at_ms: i64) -> Result<Event, Fault> {
        let event = Event::LookAgain { at_ms };
        let state = next(&self.record.state, &event, &self.record.course);
        Ok(self.reconcile_with(&state)?.unwrap_or(event))
    }

    /// After the router was touched. Where another job took the lease meanwhile, this touch may have
    /// come after that job's own: what the record says is put in force, for perhaps nobody looks any
    /// more. A record of another promotion, or of other sides, is none of this job's business: its own
    /// router would turn it round.
    ///
    /// Errors (5): another job has the lease, or this one was stopped for longer than it lasts.
    fn not_late(&mut self) -> Result<(), Fault> {
        let Err(lost) = self.lease.still_mine() else { return Ok(()) };
        let until = Instant::now() + LATE_PATIENCE;
        let mut done = None;
        while Instant::now() < until {
            let Ok(Some(Saved { version, fence, record })) = self.store().load::<Record>() else { break };
            if done == Some(version) || fence == self.lease.fence() || !record.steers_the_same(&self.record) {
                break;
            }
            // While the other job is about to set a weight itself, it is waited for.
            match record.state.due(&record.course) {
                Some(green) => {
                    let split = Split { green, close_idle_side: green == 0.0 };
                    if self.router.set(split).is_err() {
                        break;
                    }
                    done = Some(version);
                }
                None if matches!(record.state, State::Frozen { .. }) => break,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Err(lost)
    }

    /// Counters from here on belong to the weight that is in force now.
    fn count_anew(&mut self) {
        self.record.base = self.router.counters().ok().flatten();
        self.record.counted = None;
        self.record.counting += 1;
        self.watch = None;
    }

    pub(super) fn interval(&self) -> Duration {
        self.plan.interval.map_or(Duration::from_secs(5), |s| s.0).max(Duration::from_millis(100))
    }

    /// Waits for the next look, looks, and says what was seen.
    fn bake(&mut self, step: usize, since_ms: i64, until_ms: i64) -> Result<Option<Event>, Fault> {
        let now_ms = self.clock.ms();
        self.watch(Bake { step, since_ms, length_ms: until_ms - since_ms })?.ask(now_ms);
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
        let most = 3 * self.interval();
        let Some(watch) = self.watch.as_mut() else { return Ok(None) };
        let blind = counters.is_none() && lost.is_none() && !watch.reads_requests();
        let weight = self.record.course.steps.get(step).map_or(0.0, |s| s.weight);
        let now = self.clock.now();
        let scene = Scene { weight, now, counters, lost };
        let mut looked = look(watch, &mut self.record, &mut self.log, &scene);
        // A short call does not leave before its sources have answered. What is bad without them does
        // not wait.
        if self.mode == Mode::Once && looked.look != Look::Bad && watch.is_owed_answers() {
            return Ok(None);
        }
        let away = self.away_since.is_some();
        let another = watch.another_release();
        let behind = watch.is_behind(now.as_millisecond(), most);
        if self.mode == Mode::Once && blind {
            self.note_blind_spots();
        }
        if self.log.overdue() {
            // They stay with the job, and wait for the next part.
            let _ = self.log.flush(&self.lease, &Of::record(&self.record));
        }
        let mut sentence = looked.judgement.summary.clone();
        if let Some(why) = behind.filter(|_| looked.look == Look::Good) {
            looked.look = Look::Unknown;
            sentence = why;
        }
        if let Some(why) = another {
            looked.look = Look::Bad;
            sentence = why;
        }
        if away
            && looked.look != Look::Bad
            && let Some(lost) = self.await_router()
        {
            return Ok(Some(lost));
        }
        if away && looked.look == Look::Good {
            looked.look = Look::Unknown;
            sentence = "the router does not answer, it may be restarting".into();
        }
        if let Some(why) = self.nothing_known(&looked, now, until_ms)? {
            looked.look = Look::Bad;
            sentence = why;
        }
        self.ticker.set(&format!("{} · {sentence}", phase(&self.record.state, &self.record.course)));
        let judgements = &mut self.record.promotion.judgements;
        match judgements.last_mut().filter(|j| j.step == step + 1 && j.verdict == looked.judgement.verdict) {
            Some(last) => *last = looked.judgement,
            None => judgements.push(looked.judgement),
        }
        let gate = if now.as_millisecond() >= until_ms { self.gate(step + 1) } else { None };
        self.show_gate(gate.as_ref())?;
        let held = gate.is_some();
        Ok(Some(Event::Looked { look: looked.look, sentence, at_ms: now.as_millisecond(), held }))
    }

    /// What is measured while this counting of a step is watched; what earlier calls have seen of it is
    /// known.
    fn watch(&mut self, bake: Bake) -> Result<&mut Watch<'a>, Fault> {
        let counting = self.record.counting;
        if let Some(watch) = self.watch.take().filter(|watch| watch.is_of(bake.step, counting)) {
            return Ok(self.watch.insert(watch));
        }
        let of = Of::record(&self.record);
        let before = samples::of_counting(self.store(), &of, counting).unwrap_or_else(|fault| {
            // What was seen before is lost, and what comes must suffice: that is no pass.
            self.job.talk().line(Mark::Warn, &fault.to_string());
            self.record.decided(world::now(), "trapkey", fault.line());
            self.record.counting += 1;
            Vec::new()
        });
        count_on(&mut self.record, &before);
        let watch = Watch::begin(self.plan, &self.job.loaded, &self.record, bake, &before, self.clock.now())?;
        Ok(self.watch.insert(watch))
    }

    /// What follows where nothing has been known for longer than the plan bears: the reason to go back,
    /// a pause, or nothing.
    fn nothing_known(&self, looked: &Looked, now: Timestamp, until_ms: i64) -> Result<Option<String>, Fault> {
        let bears = self.plan.undecided_for.map_or(UNDECIDED_FOR_MS, |span| millis(span.0));
        let since = match looked.blind_since_ms {
            Some(since) => since,
            None if looked.look == Look::Unknown => until_ms,
            None => return Ok(None),
        };
        if now.as_millisecond() - since < bears {
            return Ok(None);
        }
        let why = format!(
            "nothing could be decided for {}: {}",
            show_duration((now.as_millisecond() - since) as f64 / 1e3),
            looked.judgement.summary
        );
        match self.plan.judge.undecided {
            // Beyond the end of the bake the machine goes back by itself.
            Undecided::RollBack => return Ok(looked.blind_since_ms.map(|_| why)),
            Undecided::Wait => {}
            Undecided::Freeze => {
                let epoch = self.record.promotion.epoch;
                if self.store().asked(Ask::Pause, epoch).is_none() {
                    let at = now.to_string();
                    self.store()
                        .ask(Ask::Pause, &Asked { epoch, who: "trapkey".into(), at, why: Some(why) })?;
                }
            }
        }
        Ok(None)
    }

    /// Between two short calls only the router's own counters see anything.
    fn note_blind_spots(&mut self) {
        let what = format!(
            "{} counts nothing for each side: between two calls of `promote step` nobody watches, and what is judged are the probes of the calls",
            self.plan.router.kind
        );
        if self.record.promotion.decisions.iter().all(|d| d.what != what) {
            self.job.talk().line(Mark::Warn, &what);
            self.record.decided(world::now(), "trapkey", what);
        }
    }

    /// Waits one interval, or until the end of the bake when that comes first; `Mode::Once` waits
    /// only until the probes have enough. False when an abort or a signal came in between.
    fn wait_for_look(&self, until_ms: i64) -> bool {
        let left = u64::try_from(until_ms - self.clock.ms()).unwrap_or(0);
        let wait = match self.mode {
            Mode::Hold if left == 0 => self.interval(),
            Mode::Hold => self.interval().min(Duration::from_millis(left + 1)),
            Mode::Once => {
                // What earlier calls have seen counts as well; some fresh ones are needed in any case.
                let seen = self.watch.as_ref().map_or(0, Watch::probed);
                let missing = self.plan.min_samples.unwrap_or(50).max(1).saturating_sub(seen).max(FRESH);
                let needed = missing as f64 / self.plan.probe.rate.0 * 1.1 + 0.02;
                Duration::from_secs_f64(needed.clamp(0.02, 86_400.0))
            }
        };
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if !signal::sleep(left.min(Duration::from_millis(100)))
                || self.lease.renewed().is_err()
                || self.store().asked(Ask::Abort, self.record.promotion.epoch).is_some()
            {
                return false;
            }
        }
    }

    /// Holds the live router against the record, and repairs it where somebody or a restart changed
    /// it. An event comes back when that is not possible.
    pub(super) fn reconcile(&mut self) -> Result<Option<Event>, Fault> {
        let state = self.record.state.clone();
        self.reconcile_with(&state)
    }

    fn reconcile_with(&mut self, state: &State) -> Result<Option<Event>, Fault> {
        let Some(weight) = state.settled(&self.record.course) else { return Ok(None) };
        let read = match state {
            State::Baking { .. } => self.read_router(),
            _ => self.router.read().map(Some),
        };
        let found = match read {
            Ok(None) => return Ok(None),
            Ok(Some(live)) => {
                let nearest = self.router.nearest(weight);
                if same_share(live.green, nearest) {
                    return Ok(None);
                }
                let (has, had) = (show_share(live.green), show_share(weight));
                let found = format!("found {has} on green where {had} was in force");
                if live.green < nearest && !self.router_began_anew() {
                    // Somebody took users off green, by the printed way back perhaps: they had a reason.
                    let why = format!("{found}: somebody has taken it off green");
                    return Ok(Some(Event::ShiftFailed { why }));
                }
                found
            }
            Err(fault) if matches!(state, State::Baking { .. }) => {
                return Ok(Some(Event::ShiftFailed { why: fault.line() }));
            }
            // Both sides may be closed. Users went back, so there must be somewhere for them to be.
            Err(fault) if matches!(state, State::RetiringGreen { .. } | State::RunningOnRollback { .. }) => {
                fault.line()
            }
            Err(fault) => return Err(fault),
        };
        let what = format!("{found}, and put it back");
        self.job.talk().line(Mark::Warn, &what);
        let split = Split { green: weight, close_idle_side: weight == 0.0 };
        self.lease.still_mine()?;
        let done = shift(self.router.as_mut(), &self.entry, &self.record.markers, split, "reconcile");
        self.not_late()?;
        match done {
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

    fn retire(&mut self, side: Side) -> Result<Event, Fault> {
        self.lease.still_mine()?;
        if side == Side::Blue {
            // A router that has restarted since has everybody on the side that is about to be closed.
            match self.reconcile() {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(fault) if fault.exit != Exit::Infrastructure => return Err(fault),
                // Nobody can see that no user is on it.
                Err(fault) => return Ok(self.not_retired(side, &fault)),
            }
        }
        let limit = self.plan.drain.map_or(Duration::from_secs(10), |s| s.0);
        // Nobody is watched any more.
        self.watch = None;
        let started = Instant::now();
        let retired = self.router.retire(side, limit);
        self.not_late()?;
        Ok(match retired {
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
            Err(fault) => self.not_retired(side, &fault),
        })
    }

    fn not_retired(&self, side: Side, fault: &Fault) -> Event {
        let why = fault.line();
        self.job.talk().line(Mark::Warn, &format!("{} was not taken out of service: {why}", side.word()));
        Event::RetireFailed { why }
    }
}

fn health(seen: Result<String, String>) -> Event {
    match seen {
        Ok(seen) => Event::Health { ok: true, seen },
        Err(seen) => Event::Health { ok: false, seen },
    }
}

fn describe(action: Action) -> serde_json::Value {
    match action {
        Action::Run(hook) => json!({"run": hook}),
        Action::Wait => json!({"wait": "gate"}),
        Action::Keep { until_ms } => json!({"keep_blue_until_ms": until_ms}),
        Action::CheckHealth(side) => json!({"check_health": side}),
        Action::Shift { weight, rollback } => json!({"shift": weight, "rollback": rollback}),
        Action::Bake { step, until_ms, .. } => json!({"bake": step + 1, "until_ms": until_ms}),
        Action::Retire(side) => json!({"retire": side}),
    }
}
