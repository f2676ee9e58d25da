//! The driver's hands: the router, the disk, the clock and the processes of this machine.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::super::bake::{Bake, Looked, MOST_AT_THE_DOOR, Scene, Watch, count_on, look};
use super::super::begin::{self, Says, look_at};
use super::super::conduct::{Clock, Hands, LeftHook, Live, NotInForce, Theirs, Why, abort_asked, going_back};
use super::super::machine::{Action, Course, Event, Hook, Look, State};
use super::super::record::{Clocks, Record, millis, phase, time_left};
use super::super::samples::{self, Of};
use super::super::shift::{DATA_PLANE_LAG, Terms, min_up, shift};
use super::notes::{note, note_rollback};
use super::own_view::Weighed;
use super::{Driver, Mode, called_off};
use crate::checks;
use crate::evidence::HookRecord;
use crate::fault::Fault;
use crate::plan::Undecided;
use crate::routers::{self, Side, Split};
use crate::state::{Ask, Asked};
use crate::units::{Text, ending, show_duration, show_share};
use crate::world::clock::System;
use crate::world::left_behind::LeftBehind;
use crate::world::shell::{Order, Ready};
use crate::world::talk::Mark;
use crate::world::{self, signal};

/// How long the router may be away in a restart, where the plan does not say.
const ROUTER_BACK_WITHIN: Duration = Duration::from_secs(30);
/// So often a weight is put back in one step; then something else steers the router.
const MOST_PUT_BACK: u32 = 3;
/// How long to wait before the router is asked again.
pub(super) const BETWEEN_TRIES: Duration = Duration::from_millis(200);
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

/// A hook that outlived its job and is waited for.
#[derive(Debug)]
pub(super) struct Waiting {
    hook: LeftBehind,
    until: Instant,
}

impl Hands for Driver<'_> {
    type Fault = Fault;

    fn state(&self) -> &State {
        &self.record.state
    }

    fn course(&self) -> &Course {
        &self.record.course
    }

    fn has_unwritten(&self) -> bool {
        self.unwritten.is_some()
    }

    fn note_unwritten(&mut self, fault: Fault) {
        self.job.talk().line(Mark::Warn, &fault.line());
        self.unwritten.get_or_insert(fault);
    }

    fn enter(&mut self, state: State, event: &Event) {
        let before = std::mem::replace(&mut self.record.state, state);
        signal::steady(going_back(&self.record.state));
        note(&mut self.record, &before, event, world::now());
    }

    fn turn(&mut self) -> Result<(), Fault> {
        signal::steady(going_back(&self.record.state));
        if self.record.state.action(&self.record.course).is_some() {
            let phase = phase(&self.record.state, &self.record.course);
            // What the last look has said stays until there is something else to say.
            if self.phase_shown != phase {
                self.ticker.set(&phase);
                self.phase_shown = phase;
            }
        }
        Ok(())
    }

    fn abort_request(&mut self) -> Result<Option<String>, Fault> {
        Ok(self.asked(Ask::Abort).as_ref().map(called_off))
    }

    fn must_stop(&mut self) -> Result<bool, Fault> {
        Ok(signal::stop_asked())
    }

    fn looks_once(&mut self) -> Result<bool, Fault> {
        Ok(self.mode == Mode::Once)
    }

    fn now_ms(&mut self) -> Result<i64, Fault> {
        Ok(self.clock.ms())
    }

    fn clock(&mut self) -> Result<Clock, Fault> {
        let (before, now) = (self.record.clocks.clone(), Clocks::read());
        let Some(by_ms) = before.as_ref().and_then(|before| before.set_by(&now)) else {
            let at_ms = self.clock.ms();
            return Ok(Clock::Is { at_ms, idle_ms: before.map(|before| at_ms - before.wall_ms) });
        };
        let by = SignedDuration::from_millis(by_ms);
        let how = show_duration(by.as_secs_f64().abs());
        let way = if by_ms > 0 { "forward" } else { "back" };
        let what = format!("this machine's clock was set {way} by {how}: only time that has passed counts");
        self.job.talk().line(Mark::Warn, &what);
        self.record.decided(world::now(), "trapkey", what);
        self.record.began_at = self.record.began_at.checked_add(by).unwrap_or(self.record.began_at);
        Ok(Clock::WasSet { by_ms })
    }

    fn too_long(&mut self) -> Result<Option<String>, Fault> {
        let Some(limit) = self.plan.max_duration else { return Ok(None) };
        let passed = self.clock.now().duration_since(self.record.began_at);
        let over = passed.as_secs_f64() > limit.0.as_secs_f64();
        Ok(over.then(|| format!("it takes longer than `max_duration` allows, {limit}")))
    }

    fn gate_is_shut(&mut self, step: usize) -> Result<bool, Fault> {
        let gate = self.gate(step);
        if let Some(gate) = gate.as_ref().filter(|_| self.record.state == State::Shifting { step }) {
            self.job.talk().line(Mark::Step, &gate.why);
        }
        Ok(gate.is_some())
    }

    fn show_gate(&mut self, step: Option<usize>) -> Result<bool, Fault> {
        let gate = step.and_then(|step| self.gate(step));
        self.put_gate_on_record(gate.as_ref())?;
        if let (State::Holding, Some(gate)) = (&self.record.state, &gate) {
            self.ticker.set(&gate.why);
        }
        Ok(gate.is_some())
    }

    fn wait_at_the_gate(&mut self) -> Result<(), Fault> {
        signal::sleep(self.interval().min(Duration::from_secs(1)));
        Ok(())
    }

    fn renewed(&mut self) -> Result<(), Fault> {
        self.lease.renewed()
    }

    fn still_mine(&mut self) -> Result<(), Fault> {
        self.lease.still_mine()
    }

    fn journal_action(&mut self, action: Action) -> Result<(), Fault> {
        let (epoch, id) = (self.record.promotion.epoch, &self.record.id);
        let does = json!({"at": world::now(), "epoch": epoch, "promotion": id, "does": describe(action)});
        self.lease.journal(&does)
    }

    fn journal_event(&mut self, event: &Event) -> Result<(), Fault> {
        let (epoch, id, state) = (self.record.promotion.epoch, &self.record.id, &self.record.state);
        let did = json!({"at": world::now(), "epoch": epoch, "promotion": id, "did": event, "state": state});
        self.lease.journal(&did)
    }

    fn save(&mut self) -> Result<(), Fault> {
        self.write_record()
    }

    fn tell(&mut self, before: &State, event: &Event) {
        if let Event::RetireFailed { why } = event {
            let side = if *before == State::RetiringBlue { Side::Blue } else { Side::Green };
            let what = format!("{} was not taken out of service: {why}", side.word());
            self.job.talk().line(Mark::Warn, &what);
        }
        if self.record.state == *before {
            return;
        }
        self.tell_turn(before);
        // The way back is short and must not wait for a page that nobody reads yet; and the document
        // of a release that is done stands, for later ones name it by digest.
        if !going_back(&self.record.state) && !before.serves() {
            self.show_progress();
        }
    }

    fn write_document(&mut self) -> Result<(), Fault> {
        self.write_progress()
    }

    fn live(&mut self, awaited: bool) -> Result<Live<Fault>, Fault> {
        let read = |driver: &mut Self| {
            if awaited { driver.read_router() } else { driver.router.read().map(Some) }
        };
        let mut found = read(self);
        let blue_was_out = self.record.blue_is_out;
        let rearranged = match &found {
            Ok(Some(live)) => self.heed_people(&live.clone()),
            _ => false,
        };
        let weighed = match &found {
            Ok(Some(live)) if !rearranged => self.heed_weights(&live.clone()),
            _ => Weighed::No,
        };
        let rearranged = rearranged || weighed == Weighed::Anew;
        self.rearranged = rearranged;
        if rearranged {
            found = read(self);
        }
        Ok(match found {
            Ok(Some(live)) => {
                let (share, strangers) = (live.green, live.strangers.join(", "));
                let blue_is_out = self.is_taken_out(Side::Blue, &live);
                self.live = Some(live);
                match () {
                    () if !strangers.is_empty() => {
                        Live::Astray(format!("the router gives users to {strangers}, on neither side"))
                    }
                    // Nothing is to be put back onto a side that people have taken out.
                    () if blue_is_out => Live::Awaited,
                    () if weighed == Weighed::Left => Live::Awaited,
                    () if blue_was_out || weighed == Weighed::Turned => Live::Returned,
                    () if rearranged => Live::Rearranged(share),
                    () => Live::Green(share),
                }
            }
            Ok(None) => Live::Awaited,
            Err(fault) => Live::Lost(fault),
        })
    }

    fn wish(&mut self) -> Result<Option<Event>, Fault> {
        self.wish_of_people()
    }

    fn retire_waits(&mut self) -> Result<bool, Fault> {
        self.blue_must_stay()
    }

    fn last_look(&mut self) -> Result<Option<String>, Fault> {
        if self.record.accepted.is_some() && self.record.markers.green.is_none() {
            return Ok(None);
        }
        let until = Instant::now() + DATA_PLANE_LAG;
        Ok(self.entry.all_meet(&self.record.markers, Side::Green, until))
    }

    fn nearest(&self, share: f64) -> f64 {
        self.router.nearest(share)
    }

    /// A restart or a reload loses weights, and that is no wish of anybody.
    fn router_began_anew(&mut self) -> Result<bool, Fault> {
        let before = self.record.base.as_ref().map(|b| b.instance.clone());
        let now = self.router.counters().ok().flatten().map(|c| c.instance);
        Ok(matches!((before, now), (Some(before), Some(now)) if before != now))
    }

    fn set(&mut self, share: f64, why: Why) -> Result<Result<(), NotInForce>, Fault> {
        let close_idle_side = match why {
            Why::Step(_) | Why::Accept => false,
            Why::Rollback => true,
            Why::Repair => share == 0.0,
        };
        // People's hands and a router that began anew explain what was found; anything else steers it as well.
        let unexplained = why == Why::Repair && !self.rearranged && !self.router_began_anew()?;
        if unexplained && self.record.put_back >= MOST_PUT_BACK {
            let why = format!(
                "the weight was put back {MOST_PUT_BACK} times in this step, and something else sets it again and again"
            );
            return Ok(Err(NotInForce { why, waited: true, restarting: false, back: false }));
        }
        // Whom people have taken out a moment ago is no part of what is set, nor of what is read back.
        let live = self.router.read();
        if let Ok(live) = &live {
            self.heed_people(live);
        }
        if let Why::Step(_) = why
            && share < 1.0
            && live.is_ok_and(|live| self.is_taken_out(Side::Blue, &live))
        {
            let why = "somebody has taken all of blue out of service".to_owned();
            return Ok(Err(NotInForce { why, waited: true, restarting: false, back: false }));
        }
        let split = Split { green: share, close_idle_side };
        let word = match why {
            Why::Step(step) => format!("step {}", step + 1),
            Why::Rollback => "rollback".into(),
            Why::Accept => "accept".into(),
            Why::Repair => "reconcile".into(),
        };
        let terms = Terms { min_up: self.min_up(), warm_within: self.healthy_within() };
        let shifted = shift(self.router.as_mut(), &self.entry, &self.record.markers, split, terms, &word);
        self.know();
        match shifted {
            Ok(done) => {
                // What a variable leaves out was told before.
                if let Some(why) = done.not_seen.as_ref().filter(|_| self.entry.unseen.is_none()) {
                    self.job.talk().line(Mark::Warn, &format!("{why}: what the router reads back counts"));
                }
                // Green has everything: blue stays as it is, closed or not.
                if share < 1.0 {
                    self.closes(split.close_idle_side.then_some(Side::Green));
                }
                let before = if why == Why::Repair { self.record.put_back } else { 0 };
                self.record.put_back = before + u32::from(unexplained);
                match why {
                    Why::Rollback => {
                        note_rollback(&mut self.record, &done);
                        self.record.promotion.weight = share;
                    }
                    Why::Step(_) | Why::Accept => self.record.promotion.weight = share,
                    Why::Repair => {}
                }
                self.record.promotion.shifts.push(done);
                // Without counters the probes judge.
                self.count_anew();
                Ok(Ok(()))
            }
            Err(not) => {
                let away_before = self.away_since.is_some();
                let restarting = why != Why::Repair && !not.waited && self.may_come_back();
                let back = !restarting && away_before && self.away_since.is_none();
                Ok(Err(NotInForce { why: not.fault.line(), waited: not.waited, restarting, back }))
            }
        }
    }

    fn wait_for_the_router(&mut self, not: &NotInForce, new: bool) -> Result<(), Fault> {
        if new {
            self.job.talk().line(Mark::Warn, &format!("{}; trying again", not.why));
        }
        std::thread::sleep(BETWEEN_TRIES);
        Ok(())
    }

    fn drain(&mut self, side: Side) -> Result<Result<(), Fault>, Fault> {
        // Nobody is watched any more.
        self.watch = None;
        self.closes(Some(side));
        let started = Instant::now();
        let drained = self.router.drain(side, self.drain_limit());
        self.know();
        let left = match drained {
            Ok(left) => left,
            Err(fault) => return Ok(Err(fault)),
        };
        self.drained = Some((left, started.elapsed()));
        Ok(Ok(()))
    }

    fn close(&mut self, side: Side) -> Result<Result<(), Fault>, Fault> {
        let (left, took) = self.drained.take().unwrap_or_default();
        if let Err(fault) = self.router.close(side, left, self.drain_limit()) {
            return Ok(Err(fault));
        }
        let took = show_duration(took.as_secs_f64());
        let what = match left {
            _ if !self.router.sees_open_requests() => {
                format!("{} had {took} to drain; this router does not show open requests", side.word())
            }
            0 => format!("{} drained in {took}", side.word()),
            n => format!("{} drained for {took}, then {n} open requests were cut", side.word()),
        };
        self.record.decided(world::now(), "trapkey", what);
        Ok(Ok(()))
    }

    /// By another clock windows would have gaps, or reach back to before the step.
    fn judge_anew(&mut self) -> Result<(), Fault> {
        if matches!(self.record.state, State::Baking { .. }) {
            self.record.counting += 1;
            self.watch = None;
        }
        Ok(())
    }

    fn note_repair(&mut self, found: &str, done: bool) -> Result<(), Fault> {
        let what = format!("{found}, and put it back");
        if done {
            self.record.decided(world::now(), "trapkey", what);
        } else {
            self.job.talk().line(Mark::Warn, &what);
        }
        Ok(())
    }

    fn say_share(&self, share: f64) -> String {
        show_share(share)
    }

    fn health(&mut self, side: Side) -> Result<Event, Fault> {
        self.check_health(side)
    }

    fn wait_for_the_look(&mut self, step: usize, since_ms: i64, until_ms: i64) -> Result<bool, Fault> {
        let now_ms = self.clock.ms();
        self.watch(Bake { step, since_ms, length_ms: until_ms - since_ms })?.ask(now_ms);
        Ok(self.wait_for_look(until_ms))
    }

    fn look(&mut self, step: usize, until_ms: i64) -> Result<Option<Event>, Fault> {
        // First what is under way at the front door: the router counts it as well.
        if let Some(watch) = self.watch.as_ref().filter(|_| self.mode == Mode::Once) {
            watch.await_the_door();
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
        let share = self.live.as_ref().and_then(|live| live.effective).unwrap_or(weight);
        let before = self.record.counted.as_ref().or(self.record.base.as_ref()).map(|c| &c.instance);
        let anew = counters.as_ref().is_some_and(|now| before.is_some_and(|before| *before != now.instance));
        let gone = self.away_since.is_some() || lost.is_some();
        let away = gone || anew || std::mem::replace(&mut self.was_away, gone);
        self.was_away = gone;
        let scene = Scene { weight, now, share, away, counters, lost };
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
        match self.held_down(weight) {
            Some((Side::Green, why)) if looked.look != Look::Bad => {
                looked.look = Look::Bad;
                sentence = format!("green cannot take its users: {why}");
            }
            Some((Side::Blue, why)) if looked.look == Look::Good => {
                looked.look = Look::Unknown;
                sentence = format!("blue cannot take its users: {why}");
            }
            None if self.record.blue_is_out && looked.look == Look::Good => {
                looked.look = Look::Unknown;
                sentence = "somebody has taken all of blue out of service: there is no way back".into();
            }
            _ => {}
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
        let left = time_left(until_ms - now.as_millisecond());
        let phase = phase(&self.record.state, &self.record.course);
        self.ticker.set(&format!("{phase}, {left} · {sentence}"));
        let judgements = &mut self.record.promotion.judgements;
        match judgements.last_mut().filter(|j| j.step == step + 1 && j.verdict == looked.judgement.verdict) {
            Some(last) => *last = looked.judgement,
            None => judgements.push(looked.judgement),
        }
        Ok(Some(Event::Looked { look: looked.look, sentence, at_ms: now.as_millisecond(), held: false }))
    }

    fn hook_left_behind(&mut self) -> Result<LeftHook, Fault> {
        if self.waiting.is_none() {
            self.waiting = self.find_hook();
        }
        let Some(waiting) = &self.waiting else { return Ok(LeftHook::Gone) };
        let left = waiting.until.saturating_duration_since(Instant::now());
        let moment = left.min(Duration::from_millis(100));
        if !waiting.hook.gone_within(&System, moment) {
            if !left.is_zero() {
                return Ok(LeftHook::AtWork);
            }
            if !waiting.hook.end(&System, HOOK_GRACE) {
                let what = format!("process {} cannot be ended", waiting.hook.pid);
                self.job.talk().line(Mark::Warn, &what);
                return Ok(LeftHook::Gone);
            }
        }
        // There may be another one.
        self.waiting = None;
        Ok(LeftHook::AtWork)
    }

    fn ready_hook(&mut self, hook: Hook) -> Result<(), Fault> {
        let unseen = self.job.loaded.unseen.hook.as_ref().filter(|_| hook == Hook::OnRollback);
        let ready = match unseen {
            Some(variable) => Err(std::io::Error::other(format!("{variable} is not set"))),
            None => self.order_of(hook).ready(),
        };
        if let Ok(ready) = &ready
            && let Some(name) = self.own_hook()
        {
            let process = serde_json::to_vec(&world::process_of(ready.pid())).unwrap_or_default();
            // Where that cannot be written nobody finds a hook that outlives this job; it runs all the same.
            let _ = self.store().keep(&name, &process);
        }
        self.ready = Some(ready);
        Ok(())
    }

    fn drop_hook(&mut self) {
        self.ready = None;
        self.forget_hook();
    }

    fn run_hook(&mut self, hook: Hook) -> Result<Event, Fault> {
        let ran = match self.ready.take() {
            Some(ready) => ready.and_then(Ready::run),
            None => self.order_of(hook).run(),
        };
        self.forget_hook();
        let command = self.words_of(hook).iter().map(|w| w.shown.as_str()).collect::<Vec<_>>().join(" ");
        let (exit, took, how, said) = match ran {
            Ok(ran) => {
                if ran.interrupted {
                    self.cut_off = Some(hook);
                }
                let said = ran.all_words();
                let how = match ran.last_words() {
                    words if words.is_empty() || ran.exit == Some(0) => ran.how(),
                    words => format!("{}: {words}", ran.how()),
                };
                (ran.exit, ran.took, how, said)
            }
            Err(e) => (None, Duration::ZERO, format!("it could not be started: {e}"), String::new()),
        };
        self.record.promotion.hooks.push(HookRecord {
            hook: hook.word().into(),
            command,
            exit,
            duration_ms: took.as_secs_f64() * 1e3,
            // It comes without secrets already, and is cut then.
            output: ending(&said, 2000),
        });
        let ok = exit == Some(0);
        let mark = if ok { Mark::Good } else { Mark::Warn };
        self.job
            .talk()
            .line(mark, &format!("hook {}: {how} after {}", hook.word(), show_duration(took.as_secs_f64())));
        Ok(Event::HookEnded { ok, how })
    }

    fn theirs(&mut self) -> Result<Option<Theirs>, Fault> {
        let until = *self.late_until.get_or_insert_with(|| Instant::now() + LATE_PATIENCE);
        if Instant::now() >= until {
            return Ok(None);
        }
        let found = self.store().load::<Record>().ok().flatten();
        Ok(found.map(|saved| Theirs {
            own: self.lease.wrote(&saved),
            version: saved.version,
            same: saved.record.steers_the_same(&self.record),
            state: saved.record.state,
        }))
    }

    fn put_right(&mut self, share: f64) -> Result<bool, Fault> {
        Ok(self.router.set(Split { green: share, close_idle_side: share == 0.0 }).is_ok())
    }

    fn wait_for_theirs(&mut self) -> Result<(), Fault> {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }
}

impl<'a> Driver<'a> {
    /// A hook of this promotion that outlived its job. It is told, and waited for until it is as old as a hook
    /// may get.
    fn find_hook(&mut self) -> Option<Waiting> {
        let noted = self.store().kept(&self.hooks_at_work()?).unwrap_or_default();
        let hook = noted
            .iter()
            .find_map(|(_, process)| LeftBehind::find(&serde_json::from_slice::<String>(process).ok()?))?;
        let left = self.hook_limit().saturating_sub(hook.age(&System));
        let what = format!(
            "a hook of a job that was killed is still at work (process {}): it is waited for, at most {}",
            hook.pid,
            show_duration(left.as_secs_f64())
        );
        self.job.talk().line(Mark::Warn, &what);
        self.ticker.set(&what);
        Some(Waiting { hook, until: Instant::now() + left })
    }

    /// What the names begin with under which the processes of hooks are noted, beside the state, until they
    /// have ended.
    fn hooks_at_work(&self) -> Option<String> {
        self.record.id.as_ref().map(|id| format!("hook.{id}."))
    }

    /// The name of the hook of this job; each has one of its own, for it may come late.
    fn own_hook(&self) -> Option<String> {
        Some(format!("{}{}.json", self.hooks_at_work()?, self.lease.fence()))
    }

    fn forget_hook(&self) {
        if let Some(name) = self.own_hook() {
            // One that stays names a process that is gone.
            let _ = self.store().remove(&name);
        }
    }

    fn words_of(&self, hook: Hook) -> &'a [Text] {
        let hooks = &self.plan.hooks;
        match hook {
            Hook::Deploy => &hooks.deploy,
            Hook::After => &hooks.after,
            Hook::OnRollback => &hooks.on_rollback,
            Hook::Retire => &hooks.retire,
        }
    }

    fn order_of(&self, hook: Hook) -> Order {
        let words = self.words_of(hook);
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
        order
    }

    /// How long the open requests of a side may take to end.
    fn drain_limit(&self) -> Duration {
        self.plan.drain.map_or(Duration::from_secs(10), |s| s.0)
    }

    /// How long a hook may take.
    fn hook_limit(&self) -> Duration {
        self.plan.hooks.timeout.map_or(Duration::from_secs(600), |t| t.0)
    }

    fn check_health(&mut self, side: Side) -> Result<Event, Fault> {
        let plan = self.plan;
        let (spec, patience) = match side {
            Side::Blue => (&plan.sides.blue, BLUE_PATIENCE),
            Side::Green => (&plan.sides.green, self.healthy_within()),
        };
        let began = Instant::now();
        let seen = match self.job.loaded.unseen.blue.as_ref().filter(|_| side == Side::Blue) {
            // Whoever goes back from a bare shell; that the router vouches for it was seen before.
            Some(variable) => Ok(format!("it is not asked itself, for {variable} is not set")),
            None => look_at(spec, plan, patience, side == Side::Blue),
        };
        let left = patience.saturating_sub(began.elapsed());
        let seen = seen.and_then(|seen| self.router_lets(side, left).map(|()| seen));
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

    /// How long green may take to become healthy.
    fn healthy_within(&self) -> Duration {
        self.plan.healthy_within.map_or(Duration::from_secs(60), |s| s.0)
    }

    /// The least share of a side's servers that the router must hold for up.
    pub(super) fn min_up(&self) -> f64 {
        min_up(self.plan, Side::Green)
    }

    /// Users go back to what served them before, and to nothing else that answers in its place.
    fn is_the_blue_of_before(&self) -> Result<(), String> {
        let Some(before) = &self.record.markers.blue else { return Ok(()) };
        let unseen = &self.job.loaded.unseen;
        if unseen.door.is_some() || unseen.blue.is_some() {
            return Ok(());
        }
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
    fn read_router(&mut self) -> Result<Option<routers::Live>, Fault> {
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
        while self.mode == Mode::Once && matches!(abort_asked(self), Ok(None)) && signal::sleep(BETWEEN_TRIES)
        {
            match self.read_router() {
                Ok(None) => {}
                Ok(Some(_)) => return None,
                Err(fault) => return Some(Event::ShiftFailed { why: fault.line() }),
            }
        }
        None
    }

    /// Counters from here on belong to the weight that is in force now.
    pub(super) fn count_anew(&mut self) {
        self.record.base = self.router.counters().ok().flatten();
        self.record.counted = None;
        self.record.counting += 1;
        self.watch = None;
    }

    pub(super) fn interval(&self) -> Duration {
        self.plan.interval.map_or(Duration::from_secs(5), |s| s.0).max(Duration::from_millis(100))
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
        let now = self.clock.now();
        let watch = Watch::begin(self.plan, &self.job.loaded, &self.entry, &self.record, bake, &before, now)?;
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
                if self.asked(Ask::Pause).is_none() {
                    let (at, promotion) = (now.to_string(), self.record.id.clone());
                    self.store().ask(
                        Ask::Pause,
                        &Asked { epoch, promotion, who: "trapkey".into(), at, why: Some(why) },
                    )?;
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
                let rate = self.plan.probe.rate.0;
                let needed =
                    (missing as f64 / rate).max(FRESH as f64 / rate.min(MOST_AT_THE_DOOR)) * 1.1 + 0.02;
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
                || [Ask::Abort, Ask::Skip, Ask::Accept].into_iter().any(|ask| self.asked(ask).is_some())
            {
                return false;
            }
        }
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
