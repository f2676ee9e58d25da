//! The order in which one job decides and acts: aborts, the clock, the lease, gates, hooks, repairs, and what
//! a job does that comes late.
//!
//! PURE but for its [`Hands`]. [`machine`](super::machine) says what is due next; this says what is asked before
//! and after it, and what wins over what. The driver's hands are the router, the disk and the processes of this
//! machine. The model checker's hands are a world in which another job, a person or a fault comes between any
//! two of them: what is proved is what ships.
//!
//! Every call of a hand is one step. What was seen before one may not be true any more after it.

use super::machine::{Action, Course, Event, Hook, State, next};
use crate::fault::{Exit, Fault};
use crate::routers::{Side, same_share};

/// How often a forward shift is tried before the release goes back.
const FORWARD_TRIES: u32 = 3;
/// How often a rollback is tried before people are called.
const BACK_TRIES: u32 = 5;
/// How long a judgement lets the next step be taken when nobody was there in between, in ms.
const JUDGED_FOR_MS: i64 = 60_000;

/// Something that could not be done, as far as the order of decisions depends on it.
pub trait Failure {
    /// Whether a place could not be reached, read or written. Everything else ends the job.
    fn is_infrastructure(&self) -> bool;
    /// The same in one line, for the record.
    fn line(&self) -> String;
}

impl Failure for Fault {
    fn is_infrastructure(&self) -> bool {
        self.exit == Exit::Infrastructure
    }

    fn line(&self) -> String {
        Self::line(self)
    }
}

/// What a job finds when it looks at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// It was set while nobody watched, forward or (negative) back.
    WasSet {
        /// By how much, in ms.
        by_ms: i64,
    },
    /// It was not.
    Is {
        /// The moment, in ms.
        at_ms: i64,
        /// How long ago the record was written, in ms, where that is known.
        idle_ms: Option<i64>,
    },
}

/// What the router says of itself.
#[derive(Debug)]
pub enum Live<F> {
    /// It gives green this share.
    Green(f64),
    /// The same, after people have taken servers out of service or brought some back: what it gives now is no wish
    /// of anybody.
    Rearranged(f64),
    /// Blue is in service again after people had taken all of it out: what was seen meanwhile was another split.
    Returned,
    /// It gives users to somebody who is on neither side, in words.
    Astray(String),
    /// It does not answer, and may be restarting.
    Awaited,
    /// It does not answer.
    Lost(F),
}

/// Why a share is given to green.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A step (from 0) is due.
    Step(usize),
    /// Everybody goes back.
    Rollback,
    /// Somebody has accepted it as it stands.
    Accept,
    /// Another share was found than the one that is in force.
    Repair,
}

/// A share that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotInForce {
    /// Why, in words.
    pub why: String,
    /// The router follows, and requests still meet another share: that was waited for already.
    pub waited: bool,
    /// The router is away, for no longer than a restart may take.
    pub restarting: bool,
    /// It was away, and is back since just now.
    pub back: bool,
}

/// The record as another job has left it.
#[derive(Clone, Debug, PartialEq)]
pub struct Theirs {
    /// Tells one record from another.
    pub version: u64,
    /// It was written by this job itself.
    pub own: bool,
    /// It is of the same promotion, on the same router and sides.
    pub same: bool,
    /// Where it stands.
    pub state: State,
}

/// What became of a hook that outlived its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftHook {
    /// There is none, or it has ended.
    Gone,
    /// It is still at work.
    AtWork,
}

/// What a job can ask and do. Each call is one step.
///
/// Errors of all: the job has lost its lease, or what was asked cannot be reached, read or written.
pub trait Hands {
    /// How a call fails.
    type Fault: Failure;

    /// Where the promotion stands, as this job has it.
    fn state(&self) -> &State;
    /// What does not change.
    fn course(&self) -> &Course;
    /// Something could not be written already while traffic went back.
    fn has_unwritten(&self) -> bool;
    /// Notes that; only the first one is told at the end.
    fn note_unwritten(&mut self, fault: Self::Fault);
    /// Takes a state over, for this reason; it is not on disk yet.
    fn enter(&mut self, state: State, event: &Event);

    /// What follows from an event.
    fn decide(&self, event: &Event) -> State {
        next(self.state(), event, self.course())
    }
    /// Whether the hook that is due may have begun.
    fn hook_may_have_begun(&self) -> bool {
        self.state().hook_may_have_begun()
    }

    /// A turn begins: nothing that was seen before it counts any more.
    fn turn(&mut self) -> Result<(), Self::Fault>;
    /// Whether somebody has asked to call this promotion off, and the reason in words.
    fn abort_request(&mut self) -> Result<Option<String>, Self::Fault>;
    /// What somebody has asked of a promotion that goes forward, where that may be: to end a bake early, or to close
    /// it as it stands.
    fn wish(&mut self) -> Result<Option<Event>, Self::Fault>;
    /// Whether the old side must not be taken down yet.
    fn retire_waits(&mut self) -> Result<bool, Self::Fault>;
    /// Why requests through the front door do not all meet green, looked at once more.
    fn last_look(&mut self) -> Result<Option<String>, Self::Fault>;
    /// Whether this job was asked to stop.
    fn must_stop(&mut self) -> Result<bool, Self::Fault>;
    /// Whether this job looks once and leaves.
    fn looks_once(&mut self) -> Result<bool, Self::Fault>;
    /// What time it is, in ms.
    fn now_ms(&mut self) -> Result<i64, Self::Fault>;
    /// Whether the clock was set since the record was written.
    fn clock(&mut self) -> Result<Clock, Self::Fault>;
    /// Why the way has taken too long, where it has.
    fn too_long(&mut self) -> Result<Option<String>, Self::Fault>;
    /// Whether the gate before a step (from 0) is shut. Behind the last step there is none.
    fn gate_is_shut(&mut self, step: usize) -> Result<bool, Self::Fault>;
    /// The same, for people to see.
    fn show_gate(&mut self, step: Option<usize>) -> Result<bool, Self::Fault>;
    /// Waits a moment before the first gate.
    fn wait_at_the_gate(&mut self) -> Result<(), Self::Fault>;

    /// The lease is renewed as it should be.
    fn renewed(&mut self) -> Result<(), Self::Fault>;
    /// This job may still touch the router, looked up just now.
    fn still_mine(&mut self) -> Result<(), Self::Fault>;
    /// Puts an action in the journal.
    fn journal_action(&mut self, action: Action) -> Result<(), Self::Fault>;
    /// Puts an event in the journal.
    fn journal_event(&mut self, event: &Event) -> Result<(), Self::Fault>;
    /// Writes the record, on top of what this job has read or written.
    fn save(&mut self) -> Result<(), Self::Fault>;
    /// Tells people what has become of it.
    fn tell(&mut self, before: &State, event: &Event);
    /// Writes the document of a promotion that goes on.
    fn write_document(&mut self) -> Result<(), Self::Fault>;

    /// Green's share as the router has it. `awaited`: a router that restarts may be away for a while.
    fn live(&mut self, awaited: bool) -> Result<Live<Self::Fault>, Self::Fault>;
    /// The share that the router can give that is nearest to this.
    fn nearest(&self, share: f64) -> f64;
    /// Whether the router is another process than the one that took the share.
    fn router_began_anew(&mut self) -> Result<bool, Self::Fault>;
    /// Gives green this share, reads it back and meets it by requests.
    fn set(&mut self, share: f64, why: Why) -> Result<Result<(), NotInForce>, Self::Fault>;
    /// Waits a moment before the router is told again; `not` was said for the first time where it is `new`.
    fn wait_for_the_router(&mut self, not: &NotInForce, new: bool) -> Result<(), Self::Fault>;
    /// Lets a side's open requests end.
    fn drain(&mut self, side: Side) -> Result<Result<(), Self::Fault>, Self::Fault>;
    /// Takes a side that was drained out of service.
    fn close(&mut self, side: Side) -> Result<Result<(), Self::Fault>, Self::Fault>;
    /// What was seen holds no more: counting begins anew.
    fn judge_anew(&mut self) -> Result<(), Self::Fault>;
    /// Notes what was found on the router, and that it is put back.
    fn note_repair(&mut self, found: &str, done: bool) -> Result<(), Self::Fault>;
    /// How a share reads, for people.
    fn say_share(&self, share: f64) -> String;

    /// Looks whether a side is healthy.
    fn health(&mut self, side: Side) -> Result<Event, Self::Fault>;
    /// Waits for the next look; false where something else goes first.
    fn wait_for_the_look(&mut self, step: usize, since_ms: i64, until_ms: i64) -> Result<bool, Self::Fault>;
    /// Looks at a step; nothing where it must be looked at once more.
    fn look(&mut self, step: usize, until_ms: i64) -> Result<Option<Event>, Self::Fault>;

    /// Looks after a hook of another job of this promotion, for a moment; one that takes too long is ended.
    fn hook_left_behind(&mut self) -> Result<LeftHook, Self::Fault>;
    /// Brings up the process that is to be a hook, and lets others see it. It does not begin.
    fn ready_hook(&mut self, hook: Hook) -> Result<(), Self::Fault>;
    /// Ends that process before it has begun.
    fn drop_hook(&mut self);
    /// Lets it begin, and runs it to its end.
    fn run_hook(&mut self, hook: Hook) -> Result<Event, Self::Fault>;

    /// The record as it stands there now; none where it cannot be read, or this job has waited for long enough.
    fn theirs(&mut self) -> Result<Option<Theirs>, Self::Fault>;
    /// Puts in force what their record says; false where that cannot be done.
    fn put_right(&mut self, share: f64) -> Result<bool, Self::Fault>;
    /// Waits a moment for their record to say more.
    fn wait_for_theirs(&mut self) -> Result<(), Self::Fault>;
}

type Done<H, T = ()> = Result<T, <H as Hands>::Fault>;

/// Whether a promotion is on its way back, which nothing interrupts.
pub fn going_back(state: &State) -> bool {
    matches!(
        state,
        State::CheckingBlue { .. }
            | State::RollingBack { .. }
            | State::RetiringGreen { .. }
            | State::RunningOnRollback { .. }
    )
}

/// Whether a promotion is on its way back, and all users are on blue.
fn is_back(state: &State) -> bool {
    matches!(state, State::RetiringGreen { .. } | State::RunningOnRollback { .. })
}

/// Whether a promotion is on its way back, or at the end of it.
pub fn went_back(state: &State) -> bool {
    going_back(state) || matches!(state, State::RolledBack { .. } | State::Frozen { .. })
}

/// Goes on with a promotion that another call has begun.
pub fn go_on<H: Hands>(hands: &mut H) -> Done<H> {
    come_back(hands)?;
    drive(hands)
}

/// Calls a promotion off, and takes it back.
pub fn call_off<H: Hands>(hands: &mut H, reason: String) -> Done<H> {
    apply(hands, &Event::Aborted { reason })?;
    go_on(hands)
}

/// Goes on with what somebody has asked: a bake is over, or the promotion is closed as it stands.
pub fn grant<H: Hands>(hands: &mut H, wish: &Event) -> Done<H> {
    apply(hands, wish)?;
    drive(hands)
}

/// Goes back after a promotion, while the old side is kept.
pub fn undo<H: Hands>(hands: &mut H, reason: String) -> Done<H> {
    apply(hands, &Event::Undone { reason })?;
    drive(hands)
}

/// A job that comes back to a promotion: the live router is held against the record, a hook that may have begun
/// is lost, and a frozen promotion is looked at again.
pub fn come_back<H: Hands>(hands: &mut H) -> Done<H> {
    if matches!(hands.state(), State::Frozen { .. }) {
        return apply(hands, &Event::Woken);
    }
    // It takes the place of whatever else is due, a lost hook's end among it.
    if abort_asked(hands)?.is_some() {
        return Ok(());
    }
    heed_the_clock(hands)?;
    if let Some(event) = reconcile(hands)? {
        return apply(hands, &event);
    }
    if !hands.hook_may_have_begun() {
        return Ok(());
    }
    match lost_hook(hands)? {
        // An abort that came meanwhile wins over whatever came of the hook.
        Some(lost) if abort_asked(hands)?.is_none() => apply(hands, &lost),
        _ => Ok(()),
    }
}

/// Goes on until it is finished, frozen, waiting or asked to stop.
///
/// A step that cannot be put on record must not stand there with nobody who watches it: then traffic goes back,
/// and the end tells.
pub fn drive<H: Hands>(hands: &mut H) -> Done<H> {
    match turns(hands) {
        // A release that serves everything is not taken back for a record or a router that is away.
        Err(fault)
            if fault.is_infrastructure()
                && !hands.has_unwritten()
                && !hands.state().finished()
                && !hands.state().serves() =>
        {
            let reason = format!("the promotion cannot be put on record: {}", fault.line());
            hands.note_unwritten(fault);
            apply(hands, &Event::Aborted { reason })?;
            turns(hands)
        }
        // Users are back, and what is left waits until it can be put on record.
        Err(fault) if fault.is_infrastructure() && hands.has_unwritten() && is_back(hands.state()) => {
            hands.note_unwritten(fault);
            Ok(())
        }
        other => other,
    }
}

fn turns<H: Hands>(hands: &mut H) -> Done<H> {
    while turn(hands)? {}
    Ok(())
}

/// One action, what is asked before it, and what follows from it. False where this call has nothing left to do.
fn turn<H: Hands>(hands: &mut H) -> Done<H, bool> {
    hands.turn()?;
    if let Some(reason) = abort_asked(hands)? {
        apply(hands, &Event::Aborted { reason })?;
    }
    if due(hands).is_none() {
        return Ok(false);
    }
    if !going_back(hands.state()) {
        hands.renewed()?;
        heed_the_limit(hands)?;
    }
    if matches!(hands.state(), State::Baking { .. })
        && let Some(wish) = hands.wish()?
    {
        apply(hands, &wish)?;
    }
    let Some(action) = due(hands) else { return Ok(false) };
    if may_leave(hands, action)? {
        return Ok(false);
    }
    // On the way back nothing stops half way.
    if !going_back(hands.state()) && hands.must_stop()? {
        hands.write_document()?;
        return Ok(false);
    }
    let Some(event) = perform(hands, action)? else { return Ok(true) };
    // An abort that came meanwhile wins over whatever came of the action, the last one too.
    if abort_asked(hands)?.is_some() {
        return Ok(true);
    }
    // A signal cuts waiting short. What was not waited for is no reason to go back.
    if cut_short(&event) && !going_back(hands.state()) && hands.must_stop()? {
        return Ok(true);
    }
    apply(hands, &event)?;
    let looked = matches!(event, Event::Looked { .. }) && matches!(hands.state(), State::Baking { .. });
    Ok(!(looked && hands.looks_once()?))
}

fn due<H: Hands>(hands: &H) -> Option<Action> {
    hands.state().action(hands.course())
}

/// Whether an event may come from waiting that a signal ended early.
fn cut_short(event: &Event) -> bool {
    matches!(event, Event::Health { ok: false, .. } | Event::ShiftFailed { .. })
}

/// Whether nothing is left to do for this call, although the promotion is not over.
fn may_leave<H: Hands>(hands: &mut H, action: Action) -> Done<H, bool> {
    match action {
        Action::Keep { until_ms: Some(until) } => Ok(hands.now_ms()? < until),
        Action::Run(Hook::Retire) if !hands.hook_may_have_begun() => hands.retire_waits(),
        Action::Wait => Ok(hands.looks_once()? && hands.gate_is_shut(0)?),
        _ => Ok(false),
    }
}

/// Goes back when the way takes longer than the plan allows.
fn heed_the_limit<H: Hands>(hands: &mut H) -> Done<H> {
    let Some(why) = hands.too_long()? else { return Ok(()) };
    let event = Event::TooLong { why };
    if hands.decide(&event) == *hands.state() {
        return Ok(());
    }
    apply(hands, &event)
}

/// An abort that is still to be heeded: not one that comes too late, for nothing would follow from it. A frozen
/// promotion has tried already; the next call will try again.
pub fn abort_asked<H: Hands>(hands: &mut H) -> Done<H, Option<String>> {
    let aborted = hands.decide(&Event::Aborted { reason: String::new() });
    if aborted == *hands.state() || matches!(hands.state(), State::Frozen { .. }) {
        return Ok(None);
    }
    hands.abort_request()
}

/// Only time that has really passed counts for a bake, and what was judged long ago for no shift.
fn heed_the_clock<H: Hands>(hands: &mut H) -> Done<H> {
    match hands.clock()? {
        Clock::WasSet { by_ms } => {
            hands.judge_anew()?;
            apply(hands, &Event::ClockWasSet { by_ms })
        }
        Clock::Is { at_ms, idle_ms } => match *hands.state() {
            State::Baking { since_ms, .. } if at_ms < since_ms => {
                hands.judge_anew()?;
                apply(hands, &Event::ClockWentBack { at_ms })
            }
            State::Shifting { step: 1.. } if idle_ms.is_some_and(|idle| idle > JUDGED_FOR_MS) => {
                let event = back_to_look(hands, at_ms)?;
                apply(hands, &event)
            }
            _ => Ok(()),
        },
    }
}

/// What is due is to be judged once more. A job that was killed may have put its weight in force already: that is
/// taken back before the record says that it is not.
fn back_to_look<H: Hands>(hands: &mut H, at_ms: i64) -> Done<H, Event> {
    let event = Event::LookAgain { at_ms };
    let state = hands.decide(&event);
    Ok(reconcile_with(hands, &state)?.unwrap_or(event))
}

/// Takes an event in: journal, state, people.
pub fn apply<H: Hands>(hands: &mut H, event: &Event) -> Done<H> {
    let before = hands.state().clone();
    let after = hands.decide(event);
    if after == before && matches!(event, Event::Looked { .. }) {
        // A look that decides nothing is on record in the series; the disk need not hear of it.
        return Ok(());
    }
    hands.enter(after, event);
    if !traffic_first(hands) {
        let noted = hands.journal_event(event);
        bear(hands, noted)?;
    }
    if !traffic_first(hands) {
        put_on_record(hands)?;
    }
    hands.tell(&before, event);
    Ok(())
}

/// Writes the record; see [`bear`].
pub fn put_on_record<H: Hands>(hands: &mut H) -> Done<H> {
    let saved = hands.save();
    bear(hands, saved).map(drop)
}

/// Takes a failed write upon itself while traffic is on its way back or back already: first the traffic, then the
/// record. On the way forward nothing moves that is not on record.
pub fn bear<H: Hands, T>(hands: &mut H, done: Done<H, T>) -> Done<H, Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        // A lease that is lost is another job's: it writes now, and this one must not.
        Err(fault) if went_back(hands.state()) && fault.is_infrastructure() => {
            hands.note_unwritten(fault);
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// Whether a write would only hold up the way back: one has failed already, and traffic is not back yet.
fn traffic_first<H: Hands>(hands: &H) -> bool {
    let back = matches!(hands.state(), State::CheckingBlue { .. } | State::RollingBack { .. });
    back && hands.has_unwritten()
}

/// Carries an action out. Nothing comes of one that was interrupted.
fn perform<H: Hands>(hands: &mut H, action: Action) -> Done<H, Option<Event>> {
    let waits = matches!(action, Action::Bake { .. } | Action::Wait | Action::Keep { .. });
    if !waits && !traffic_first(hands) {
        let noted = hands.journal_action(action);
        bear(hands, noted)?;
    }
    match action {
        Action::Run(hook) => run_hook(hands, hook),
        Action::Wait => {
            if !hands.show_gate(Some(0))? {
                return Ok(Some(Event::GateOpened));
            }
            hands.wait_at_the_gate()?;
            Ok(None)
        }
        Action::Keep { until_ms: None } => Ok(Some(Event::KeepBegins { at_ms: hands.now_ms()? })),
        // The old side is about to be taken down: nobody may be on it.
        Action::Keep { .. } => Ok(Some(reconcile(hands)?.unwrap_or(Event::KeepOver))),
        Action::CheckHealth(side) => hands.health(side).map(Some),
        Action::Shift { weight, rollback } => shift(hands, weight, rollback).map(Some),
        Action::Bake { step, since_ms, until_ms, .. } => bake(hands, step, since_ms, until_ms),
        Action::Retire(side) => retire(hands, side).map(Some),
    }
}

/// A hook of a job that was killed is over now, and how it ended is not known. Nothing where a signal or an abort
/// came first.
fn lost_hook<H: Hands>(hands: &mut H) -> Done<H, Option<Event>> {
    Ok(see_out_hook(hands)?.then_some(Event::HookLost))
}

/// Waits for a hook that outlived its job: one is at work at a time. False where a signal or an abort came first.
fn see_out_hook<H: Hands>(hands: &mut H) -> Done<H, bool> {
    while hands.hook_left_behind()? == LeftHook::AtWork {
        let back = going_back(hands.state());
        if !back && (hands.must_stop()? || abort_asked(hands)?.is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn run_hook<H: Hands>(hands: &mut H, hook: Hook) -> Done<H, Option<Event>> {
    hands.still_mine()?;
    // One that may have begun is never begun again, whatever led here.
    if hands.hook_may_have_begun() {
        return lost_hook(hands);
    }
    if !see_out_hook(hands)? {
        return Ok(None);
    }
    if hook == Hook::Retire
        && let Some(event) = reconcile(hands)?
    {
        return Ok(Some(event));
    }
    // What has not begun need not: nobody will have to wonder what it has left undone.
    if !going_back(hands.state()) && hands.must_stop()? {
        return Ok(None);
    }
    apply(hands, &Event::HookBegins)?;
    if hands.has_unwritten() {
        // Traffic is back by now. A hook whose beginning is not on record would be begun again by the next job.
        hands.save()?;
    }
    // This job may have been stopped since it looked, and another one may be at work. From the next line on that
    // one sees the hook and waits for it; if it was there before, this job has lost its lease.
    hands.ready_hook(hook)?;
    if let Err(lost) = hands.still_mine() {
        hands.drop_hook();
        return Err(lost);
    }
    hands.run_hook(hook).map(Some)
}

/// Puts a weight into force, and tries again a few times where the router did not follow.
fn shift<H: Hands>(hands: &mut H, weight: f64, rollback: bool) -> Done<H, Event> {
    let step = match *hands.state() {
        State::Shifting { step } => Some(step),
        _ => None,
    };
    // A gate may have closed since the step was judged.
    if let Some(step) = step
        && hands.gate_is_shut(step)?
    {
        let at_ms = hands.now_ms()?;
        return back_to_look(hands, at_ms);
    }
    let why = match step {
        Some(step) => Why::Step(step),
        None if rollback => Why::Rollback,
        None => Why::Accept,
    };
    let tries = if rollback { BACK_TRIES } else { FORWARD_TRIES };
    let (mut attempt, mut came_back, mut last) = (0, false, String::new());
    loop {
        attempt += 1;
        hands.still_mine()?;
        let done = hands.set(weight, why);
        not_late(hands)?;
        let Err(not) = done? else {
            let at_ms = hands.now_ms()?;
            let held = match step {
                Some(step) => hands.gate_is_shut(step + 1)?,
                None => false,
            };
            return Ok(Event::Shifted { at_ms, held });
        };
        if not.back && !came_back {
            // It takes what it is told from now on.
            (attempt, came_back) = (0, true);
        }
        // Requests were given their time to meet the split; more of it is more of them on a side that nobody
        // judges.
        let enough =
            (not.waited && !rollback) || abort_asked(hands)?.is_some() || (!rollback && hands.must_stop()?);
        if enough || (attempt >= tries && !not.restarting) {
            return Ok(Event::ShiftFailed { why: not.why });
        }
        hands.wait_for_the_router(&not, not.why != last)?;
        last = not.why;
    }
}

/// After the router was touched. Where another job took the lease meanwhile, this touch may have come after that
/// job's own: what the record says is put in force, for perhaps nobody looks any more. A record of another
/// promotion, or of other sides, is none of this job's business: its own router would turn it round.
///
/// Errors (5): another job has the lease, or this one was stopped for longer than it lasts.
fn not_late<H: Hands>(hands: &mut H) -> Done<H> {
    let Err(lost) = hands.still_mine() else { return Ok(()) };
    let mut done = None;
    while let Some(theirs) = hands.theirs()? {
        if done == Some(theirs.version) || theirs.own || !theirs.same {
            break;
        }
        // While the other job is about to set a weight itself, it is waited for.
        match theirs.state.due(hands.course()) {
            Some(green) => {
                if !hands.put_right(green)? {
                    break;
                }
                done = Some(theirs.version);
            }
            None if matches!(theirs.state, State::Frozen { .. }) => break,
            None => hands.wait_for_theirs()?,
        }
    }
    Err(lost)
}

/// Waits for the next look, looks, and says what was seen.
fn bake<H: Hands>(hands: &mut H, step: usize, since_ms: i64, until_ms: i64) -> Done<H, Option<Event>> {
    if !hands.wait_for_the_look(step, since_ms, until_ms)? {
        return Ok(None);
    }
    if let Some(event) = reconcile(hands)? {
        return Ok(Some(event));
    }
    match hands.look(step, until_ms)? {
        Some(Event::Looked { look, sentence, at_ms, .. }) => {
            let held = hands.show_gate((at_ms >= until_ms).then_some(step + 1))?;
            Ok(Some(Event::Looked { look, sentence, at_ms, held }))
        }
        other => Ok(other),
    }
}

/// Holds the live router against the record, and repairs it where somebody or a restart changed it. An event
/// comes back when that is not possible.
fn reconcile<H: Hands>(hands: &mut H) -> Done<H, Option<Event>> {
    let state = hands.state().clone();
    reconcile_with(hands, &state)
}

fn reconcile_with<H: Hands>(hands: &mut H, state: &State) -> Done<H, Option<Event>> {
    let Some(weight) = state.settled(hands.course()) else { return Ok(None) };
    let baking = matches!(state, State::Baking { .. });
    let live = hands.live(baking)?;
    let found = match live {
        Live::Green(share) | Live::Rearranged(share) => {
            let nearest = hands.nearest(weight);
            if same_share(share, nearest) {
                return Ok(None);
            }
            let (has, had) = (hands.say_share(share), hands.say_share(weight));
            let found = format!("found {has} on green where {had} was in force");
            let taken = share < nearest && matches!(live, Live::Green(_));
            if taken && !hands.router_began_anew()? {
                // Somebody took users off green, by the printed way back perhaps: they had a reason.
                let why = format!("{found}: somebody has taken it off green");
                return Ok(Some(Event::ShiftFailed { why }));
            }
            found
        }
        Live::Returned if baking => {
            hands.judge_anew()?;
            return Ok(Some(Event::PutBack { at_ms: hands.now_ms()? }));
        }
        Live::Awaited | Live::Returned => return Ok(None),
        // Nobody judges what they get. Behind the end of the way, or on the way back, that is for people.
        Live::Astray(why) => return Ok(is_forward(state).then_some(Event::ShiftFailed { why })),
        Live::Lost(fault) if baking => return Ok(Some(Event::ShiftFailed { why: fault.line() })),
        // Both sides may be closed. Users went back, so there must be somewhere for them to be.
        Live::Lost(fault)
            if matches!(state, State::RetiringGreen { .. } | State::RunningOnRollback { .. }) =>
        {
            fault.line()
        }
        Live::Lost(fault) => return Err(fault),
    };
    hands.note_repair(&found, false)?;
    hands.still_mine()?;
    let done = hands.set(weight, Why::Repair);
    not_late(hands)?;
    match done? {
        Ok(()) => {
            hands.note_repair(&found, true)?;
            put_on_record(hands)?;
            // Without its weight no time was a bake, however long nobody looked.
            if baking { Ok(Some(Event::PutBack { at_ms: hands.now_ms()? })) } else { Ok(None) }
        }
        Err(not) => Ok(Some(Event::ShiftFailed { why: not.why })),
    }
}

/// Whether a promotion is on its way to green.
fn is_forward(state: &State) -> bool {
    matches!(
        state,
        State::Deploying { .. }
            | State::Holding
            | State::CheckingGreen
            | State::Baking { .. }
            | State::RetiringBlue
    )
}

fn retire<H: Hands>(hands: &mut H, side: Side) -> Done<H, Event> {
    hands.still_mine()?;
    if side == Side::Blue {
        // A router that has restarted since has everybody on the side that is about to be closed.
        match reconcile(hands) {
            Ok(Some(event)) => return Ok(event),
            Ok(None) => {}
            // Nobody can see that no user is on it.
            Err(fault) if fault.is_infrastructure() => {
                return Ok(Event::RetireFailed { why: fault.line() });
            }
            Err(fault) => return Err(fault),
        }
        // Once more, before anybody says that green serves everything.
        if let Some(why) = hands.last_look()? {
            return Ok(Event::ShiftFailed { why });
        }
    }
    let drained = hands.drain(side);
    not_late(hands)?;
    if let Err(fault) = drained? {
        return Ok(Event::RetireFailed { why: fault.line() });
    }
    // The drain may have taken long enough for another job to give this side users again: what looked at the lease
    // just now is what closes it.
    let closed = hands.close(side);
    not_late(hands)?;
    Ok(match closed? {
        Ok(()) => Event::Retired,
        Err(fault) => Event::RetireFailed { why: fault.line() },
    })
}
