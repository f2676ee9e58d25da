//! What people ask of a promotion that is under way: pause, resume, abort, undo, and back by either; and the plan.

use std::path::Path;
use std::time::{Duration, Instant};

use super::begin;
use super::conduct::going_back;
use super::drive::{Driver, Mode, called_off};
use super::machine::{Course, State};
use super::record::{Record, course_of, phase, strategy_word};
use super::shift::DATA_PLANE_LAG;
use super::{by_state, end, say, sight, store, take_to_go_back, ways_out};
use crate::evidence::name_release;
use crate::evidence::used::refuse_other_values;
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::judge;
use crate::plan::{Loaded, folder_of};
use crate::routers::{self, Side};
use crate::state::{Ask, Asked, Held, Saved, Store};
use crate::units::{show_duration, show_share};
use crate::world::talk::Mark;
use crate::world::{self, ci, signal, talk};

/// How long an abort waits for the job that holds the environment.
const ABORT_PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn print(text: &str) -> Result<(), Fault> {
    talk::text(text).map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
}

/// Prints JSON, its free text redacted.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Fault> {
    let wrong = |e| Fault::infrastructure("the answer cannot be written").cause(e);
    let mut value = serde_json::to_value(value).map_err(wrong)?;
    crate::redact::redact_json(&mut value);
    let text = serde_json::to_string_pretty(&value).map_err(wrong)? + "\n";
    talk::json(text.as_bytes()).map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
}

/// The newest promotion of the environment, where there ever was one.
pub(super) fn newest(job: &Job) -> Result<Option<Saved<Record>>, Fault> {
    store(job)?.load::<Record>()
}

pub(super) fn running(job: &Job) -> Result<Saved<Record>, Fault> {
    newest(job)?.ok_or_else(|| {
        Fault::refused(format!("nothing was ever promoted to {}", job.release.environment))
            .place(job.state_place().display().to_string())
            .help("look at --plan, --environment and --state: another place may have it; `promote start` begins one")
    })
}

/// The way that the plan describes, once all of it that can be checked from here is right.
pub(super) fn checked_course(job: &Job) -> Result<Course, Fault> {
    begin::validate(job)?;
    let section = begin::section(job)?;
    routers::open(&section.router, &job.loaded)?;
    Ok(course_of(section))
}

/// Prints what the plan would do. Touches nothing.
pub fn plan(job: &Job) -> Result<Exit, Fault> {
    let course = checked_course(job)?;
    let section = begin::section(job)?;
    if job.call.json {
        print_json(&course)?;
        return Ok(Exit::Pass);
    }
    let mut text = format!(
        "{} by {} on {} {}\n",
        name_release(&job.release),
        strategy_word(section.strategy),
        section.router.kind,
        section.router.target.shown
    );
    if let Some(split) = routers::By::of(&section.router.split).ok().and_then(|by| by.words()) {
        text.push_str(&format!("  splits {split}\n"));
    }
    for check in &section.preview {
        text.push_str(&format!("  looks at green before it gets traffic: {}\n", check.name));
    }
    let total: i64 = course.steps.iter().map(|s| s.bake_ms).sum();
    for (number, step) in course.steps.iter().enumerate() {
        let bake = if step.bake_ms > 0 {
            format!("watched for {}", show_duration(step.bake_ms as f64 / 1e3))
        } else {
            "not watched".into()
        };
        let roles = section.steps.get(number).map_or(&[][..], |s| s.approve.as_slice());
        let gate = if roles.is_empty() {
            String::new()
        } else {
            format!(", after the approval of {}", roles.join(" and "))
        };
        text.push_str(&format!(
            "  step {}: {} on green{gate}, {bake}\n",
            number + 1,
            show_share(step.weight)
        ));
    }
    for trigger in &section.rollback_when {
        let condition = judge::condition(trigger);
        text.push_str(&format!("  goes back when {} {condition}\n", trigger.metric));
    }
    if let Some(closed) = section.calendar.as_ref().and_then(|c| c.closed(world::now())) {
        let opens = closed
            .opens_at
            .map_or("not within a month".into(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string());
        text.push_str(&format!("  no step now: {}; the next may be taken {opens}\n", closed.why));
    }
    if let Some(limit) = section.max_duration {
        text.push_str(&format!("  goes back when it takes longer than {limit}\n"));
    }
    if let Some(keep) = section.keep_old {
        let then = if section.hooks.retire.is_empty() {
            "; then nothing takes it down, for there is no `hooks.retire`"
        } else {
            "; then the retire hook takes it down"
        };
        text.push_str(&format!("  keeps blue for {keep} afterwards, for `promote undo`{then}\n"));
    }
    let samples = section.min_samples.unwrap_or(50) as f64;
    text.push_str(&format!(
        "  at least {samples} samples a side: {} of probes at {}/s\n  in all {} of watching\n",
        show_duration(samples / section.probe.rate.0),
        section.probe.rate.0,
        show_duration(total as f64 / 1e3)
    ));
    let sight = sight::in_sight(section, &course);
    if !sight.lines.is_empty() {
        text.push_str("what the comparisons can see:\n");
    }
    for line in &sight.lines {
        text.push_str(&format!("  {line}\n"));
    }
    for warning in &sight.warnings {
        text.push_str(&format!("  too short: {warning}\n"));
    }
    print(&text)?;
    Ok(Exit::Pass)
}

/// Holds a promotion before its next step. It is still judged, and still goes back when it must.
pub fn pause(job: &Job) -> Result<Exit, Fault> {
    let record = running(job)?.record;
    same_service(job, &record)?;
    if record.state.finished() || record.state.serves() {
        return Err(finished(job, &record));
    }
    let store = store(job)?;
    can_be_held(job, &record, &store)?;
    leave(&store, Ask::Pause, &asked(&record, None), &record)?;
    job.talk().line(
        Mark::Good,
        &format!(
            "{} is paused: no further step until {}",
            name_release(&record.release),
            say::command(job, "resume")
        ),
    );
    Ok(Exit::Pass)
}

/// Lets a paused promotion go on.
pub fn resume(job: &Job) -> Result<Exit, Fault> {
    let record = running(job)?.record;
    same_service(job, &record)?;
    if record.state.finished() || record.state.serves() {
        return Err(finished(job, &record));
    }
    let store = store(job)?;
    can_be_held(job, &record, &store)?;
    let was = store.asked(Ask::Pause, record.promotion.epoch, record.id.as_deref()).is_some();
    store.forget(Ask::Pause)?;
    let name = name_release(&record.release);
    let line =
        if was { format!("{name} may go on") } else { format!("{name} was not paused, and may go on") };
    job.talk().line(Mark::Good, &line);
    Ok(Exit::Pass)
}

/// Whether a pause means anything: not where nothing goes on, nor where it goes back.
///
/// Errors (5): it stands still, goes back, or was called off.
fn can_be_held(job: &Job, record: &Record, store: &Store) -> Result<(), Fault> {
    let name = name_release(&record.release);
    if let State::Frozen { .. } = record.state {
        return Err(Fault::refused(format!("{name} stands still: there is no step to hold or to let go"))
            .cause(record.outcome().1.unwrap_or_default())
            .help(format!("this says what people can do: {}", say::command(job, "status"))));
    }
    let left = store.asked(Ask::Abort, record.promotion.epoch, record.id.as_deref());
    let goes_back = match left {
        Some(left) => format!("it was called off by {}", left.who),
        None if going_back(&record.state) => phase(&record.state, &record.course),
        None => return Ok(()),
    };
    Err(Fault::refused(format!("{name} goes back, and nothing holds that up"))
        .cause(goes_back)
        .help(format!("where no job is at work on it, this carries it out: {}", say::command(job, "step"))))
}

/// Calls a promotion off: all traffic to the old side. Waits for the job that holds the environment
/// to do it, or does it itself.
pub fn abort(job: &Job, why: Option<String>) -> Result<Exit, Fault> {
    let record = running(job)?.record;
    let asked = asked(&record, why);
    call_off(job, &record, &asked)
}

/// Takes all traffic to the old side, whichever way that is now: by an abort while the promotion is under way, by an
/// undo after it.
pub fn rollback(job: &Job, why: Option<String>) -> Result<Exit, Fault> {
    if running(job)?.record.state.serves() { undo(job, why) } else { abort(job, why) }
}

/// Whether a promotion can still be called off under this plan.
///
/// Errors: it serves everything already, or steers another router than the plan's (5); the router cannot be steered
/// from here (2).
pub(super) fn may_be_called_off(job: &Job, record: &Record) -> Result<(), Fault> {
    if record.state.serves() {
        let fault = finished(job, record);
        let by_hand = || ways_out::by_hand(job, record);
        return Err(if record.state.can_be_undone() { fault } else { fault.help(by_hand()) });
    }
    same_router(job, record)?;
    somebody_vouches_for_blue(job, record)
}

/// Whether the router itself holds blue for up, or users are answered by it now, where it cannot be asked from here.
///
/// Errors (2): neither can be seen, and without the variable nobody knows.
fn somebody_vouches_for_blue(job: &Job, record: &Record) -> Result<(), Fault> {
    let Some(variable) = &job.loaded.unseen.blue else { return Ok(()) };
    let live = ways_out::live(job, record);
    let blue = live.as_ref().ok().and_then(|live| live.side(Side::Blue));
    if blue.is_some_and(|blue| blue.serving > 0 && !blue.closed) {
        return Ok(());
    }
    let door = begin::entry(job).ok().filter(|entry| entry.unseen.is_none());
    let met = door.map(|entry| entry.probe(&record.markers, Instant::now() + DATA_PLANE_LAG));
    if blue.is_none() && met.is_some_and(|met| met.blue > 0 && met.unknown == 0) {
        return Ok(());
    }
    Err(Fault::usage("whether blue is well cannot be seen from here")
        .place(&job.loaded.reference.path)
        .cause(format!("the variable `{variable}` is not set, and neither the router nor the front door shows that blue is up"))
        .help(format!(
            "set {variable} and run it again; or look at blue yourself: {}",
            ways_out::by_hand(job, record)
        )))
}

/// Tells what a way back goes without, for a variable that is not set.
fn tell_what_is_not_seen(job: &Job) {
    let unseen = &job.loaded.unseen;
    let what = [
        (&unseen.blue, "blue is not asked for its health: that it serves by the router's own view counts"),
        (&unseen.door, "the front door is not asked: what the router reads back counts"),
        (&unseen.hook, "the on_rollback hook is not run"),
    ];
    for (variable, what) in what {
        if let Some(variable) = variable {
            job.talk().line(Mark::Warn, &format!("{variable} is not set: {what}"));
        }
    }
}

/// Leaves an abort that cannot be carried out from here, for whoever can.
///
/// Errors: nobody works, and why not from here.
fn leave_for_others(job: &Job, record: &Record, asked: &Asked, fault: Fault) -> Result<Exit, Fault> {
    let store = store(job)?;
    leave(&store, Ask::Abort, asked, record)?;
    let work = match take_to_go_back(job, &store) {
        Err(held) if held.exit == Exit::Refused => held.cause,
        _ => None,
    };
    if let Some(working) = work {
        job.talk().line(Mark::Warn, &fault.line());
        job.talk().line(Mark::Step, &left_for(&working));
        return Ok(Exit::Undecided);
    }
    let step = say::command(job, "step");
    job.talk().line(
        Mark::Warn,
        &format!("nobody works on it; the abort is left, and the next job goes back: {step}"),
    );
    Err(fault)
}

/// Calls a promotion off in the name of whoever asked.
pub(super) fn call_off(job: &Job, record: &Record, asked: &Asked) -> Result<Exit, Fault> {
    match may_be_called_off(job, record) {
        Ok(()) => {}
        Err(fault) if fault.exit == Exit::Usage && !record.state.finished() => {
            return leave_for_others(job, record, asked, fault);
        }
        Err(fault) => return Err(fault),
    }
    let store = store(job)?;
    // It is left for the job that works now, and for every later one. Where it cannot be written, the
    // abort is carried out all the same as soon as nobody else works.
    let mut left = false;
    if !record.state.finished() {
        match leave(&store, Ask::Abort, asked, record) {
            Ok(()) => left = true,
            Err(fault) if fault.exit == Exit::Refused => return Err(fault),
            Err(fault) => job.talk().line(Mark::Warn, &fault.line()),
        }
    }
    // The document is about the release that is called off, whatever the plan says by now.
    let job = &record.job(job);
    let until = Instant::now() + ABORT_PATIENCE;
    loop {
        match take_to_go_back(job, &store) {
            Ok(Held { lease, saved }) => {
                let Some(saved) = saved.filter(|s| is_the_same(&s.record, record)) else {
                    return Err(another_has_begun());
                };
                if saved.record.state.serves() && !saved.record.state.can_be_undone() {
                    return Err(finished(job, &saved.record));
                }
                let router = begin::router(job)?;
                tell_what_is_not_seen(job);
                let mut driver = Driver::new(job, Mode::Hold, router, lease, saved.record)?;
                driver.call_off(called_off(asked))?;
                return end(job, &mut driver);
            }
            Err(held) if Instant::now() >= until || signal::stop_asked() => {
                let working = held.cause.clone().filter(|_| left && held.exit == Exit::Refused);
                let Some(working) = working else { return Err(held) };
                job.talk().line(Mark::Step, &left_for(&working));
                return Ok(Exit::Undecided);
            }
            Err(held) if held.exit == Exit::Refused => {
                if store
                    .load::<Record>()
                    .is_ok_and(|now| now.is_some_and(|n| !is_the_same(&n.record, record)))
                {
                    return Err(another_has_begun());
                }
                std::thread::sleep(store.patience());
            }
            Err(fault) => return Err(fault),
        }
    }
}

pub(super) fn is_the_same(one: &Record, other: &Record) -> bool {
    (one.promotion.epoch, &one.id) == (other.promotion.epoch, &other.id)
}

pub(super) fn another_has_begun() -> Fault {
    Fault::refused("another promotion has begun meanwhile")
        .help("look at it with `promote status`, under the same --plan, --environment and --state")
}

/// Leaves a request for a promotion, as long as it is the one on record: who comes late must not put it in the
/// place of what was asked of another one since.
///
/// Errors: another promotion has begun (5); it cannot be written (4).
pub(super) fn leave(store: &Store, ask: Ask, asked: &Asked, record: &Record) -> Result<(), Fault> {
    let still = || {
        let now = store.load::<Record>().ok().flatten();
        now.is_none_or(|now| is_the_same(&now.record, record))
    };
    if store.ask_while(ask, asked, still)? { Ok(()) } else { Err(another_has_begun()) }
}

/// Goes back after a promotion, while the old side is kept: all traffic to the old side.
///
/// Exit 1: it was rolled back. Errors (5): it is still under way, or the old side is not kept any more.
pub fn undo(job: &Job, why: Option<String>) -> Result<Exit, Fault> {
    let Held { lease, saved } = take_to_go_back(job, &store(job)?)?;
    let Some(record) = saved.map(|saved| saved.record) else {
        drop(lease);
        return running(job).map(|_| Exit::Pass);
    };
    same_service(job, &record)?;
    if !record.state.serves() {
        return Err(not_to_undo(
            &record,
            "it did not end with all traffic on green",
            &not_ended(job, &record),
        ));
    }
    if !record.state.can_be_undone() {
        let cause = match record.course.keep_ms {
            0 => "its old side is not kept any more, for the plan has no `keep_old`",
            _ => "its old side is not kept any more: the time of `keep_old` is over",
        };
        return Err(not_to_undo(&record, cause, &ways_out::by_hand(job, &record)));
    }
    same_router(job, &record)?;
    somebody_vouches_for_blue(job, &record)?;
    tell_what_is_not_seen(job);
    let job = &record.job(job);
    let asked = asked(&record, why);
    let reason = match &asked.why {
        Some(why) => format!("undone by {}: {why}", asked.who),
        None => format!("undone by {}", asked.who),
    };
    let mut driver = Driver::new(job, Mode::Hold, begin::router(job)?, lease, record)?;
    driver.undo(reason)?;
    end(job, &mut driver)
}

/// What people do about a promotion that has not ended with everything on green.
fn not_ended(job: &Job, record: &Record) -> String {
    if record.state.finished() {
        return format!("blue serves everything already; look at it: {}", say::command(job, "status"));
    }
    format!("call off what is under way: {}", say::command(job, "abort"))
}

fn not_to_undo(record: &Record, cause: &str, help: &str) -> Fault {
    Fault::refused(format!("{} cannot be undone", name_release(&record.release)))
        .cause(format!("{cause}: {}", phase(&record.state, &record.course)))
        .help(help)
}

/// Refuses (5) what a plan of one service asks of the promotion of another one: two services may share
/// a router, and the sides of one say nothing about those of the other.
pub(super) fn same_service(job: &Job, record: &Record) -> Result<(), Fault> {
    if record.release.service == job.release.service {
        return Ok(());
    }
    Err(Fault::refused(format!("{} is of another service than this plan", name_release(&record.release)))
        .place(job.state_place().display().to_string())
        .cause(format!("the plan is about {}", job.release.service))
        .help("call it under its own plan, and give each service a place of its own with --state"))
}

/// Refuses (5) to steer another router than the one that a promotion moved, or other sides of it: the
/// same plan names other ones where its variables are others.
pub(super) fn steers_the_same(job: &Job, record: &Record) -> Result<(), Fault> {
    same_service(job, record)?;
    let (now, then) = (&begin::section(job)?.router, &record.promotion.router);
    // A record shows its target without secrets, and which text is one depends on who looks: the identity tells.
    let same_place = now.kind == then.kind && same_text(&now.target.shown, &then.target);
    // The lines name files by the folder that they are called from.
    let identity = |folder: &Path| {
        let loaded = Loaded { folder: folder.to_path_buf(), ..job.loaded.clone() };
        routers::open(now, &loaded).map(|router| router.identity(Side::Blue))
    };
    let as_then = identity(&folder_of(Path::new(&record.plan.path)))?;
    let here = say::whole(&job.loaded.folder);
    let same_files = match record.folder() {
        Some(folder) if folder != here => identity(folder)? == identity(&here)?,
        _ => true,
    };
    if same_place && same_files && same_lines(&as_then, &then.identity) {
        return Ok(());
    }
    let differs = as_then
        .iter()
        .zip(&then.identity)
        .find(|(now, then)| !same_lines(&[(*now).clone()], &[(*then).clone()]));
    let cause = match differs {
        Some((now, then)) if same_place => format!("it began with `{then}`, and the plan says `{now}`"),
        _ => format!("it began on {} {}", then.kind, then.target),
    };
    Err(Fault::refused("the plan names another router, or other sides of it, than this promotion steers")
        .place(&job.loaded.reference.path)
        .cause(crate::redact::redact(&cause)))
}

/// The same, with what people can do about it.
pub(super) fn same_router(job: &Job, record: &Record) -> Result<(), Fault> {
    steers_the_same(job, record).map_err(|fault| {
        if fault.exit != Exit::Refused || fault.help.is_some() {
            return fault;
        }
        let back = say::command(job, if record.state.serves() { "undo" } else { "abort" });
        if by_state::may_go_by_the_state(record) {
            return fault.help(format!("go back by what the state knows of it: {back}"));
        }
        // What it needs besides the state is in the plan's file alone.
        fault.help(format!(
            "bring back the plan that it began with, sha256 {}, and go back: {back}\n{}",
            record.plan.sha256,
            ways_out::by_hand_of_then(record)
        ))
    })
}

/// Refuses (5) to go on with other values of the plan's variables than a promotion began with. A way back never asks.
pub(super) fn same_values(job: &Job, record: &Record) -> Result<(), Fault> {
    let differ = record.used.differ_from(&job.values);
    if differ.is_empty() {
        return Ok(());
    }
    let again =
        format!("go on with the values that it began with, or call it off: {}", say::command(job, "abort"));
    let what = format!("{} was begun", name_release(&record.release));
    Err(refuse_other_values(&what, &differ, ("then", "here"), &again)
        .place(job.state_place().display().to_string()))
}

/// Whether two routers say the same of themselves. What was left out of the record for being secret cannot be
/// compared.
pub(super) fn same_lines(now: &[String], then: &[String]) -> bool {
    now.len() == then.len() && now.iter().zip(then).all(|(now, then)| same_text(now, then))
}

/// Whether a text is the same as one on record, as far as both can be seen.
fn same_text(now: &str, then: &str) -> bool {
    now == then || [now, then].iter().any(|text| text.contains("***")) || crate::redact::redact(now) == then
}

/// What is told of an abort that the job at work has not heeded yet.
fn left_for(working: &str) -> String {
    format!(
        "the abort is left for the job that works ({working}): it goes back as soon as the hook or the call that it is \
         in has ended, and so does whoever takes over; `promote status` tells"
    )
}

pub(super) fn asked(record: &Record, why: Option<String>) -> Asked {
    let (epoch, promotion) = (record.promotion.epoch, record.id.clone());
    Asked { epoch, promotion, who: ci::actor(), at: world::now().to_string(), why }
}

pub(super) fn finished(job: &Job, record: &Record) -> Fault {
    let mut fault = Fault::refused(format!(
        "{} is finished: {}",
        name_release(&record.release),
        phase(&record.state, &record.course)
    ));
    if record.state.can_be_undone() {
        fault = fault
            .help(format!("the old side is kept, and this goes back to it: {}", say::command(job, "undo")));
    } else {
        fault = fault.help(format!(
            "it cannot be held or closed any more; look at it: {}",
            say::command(job, "status")
        ));
    }
    fault
}
