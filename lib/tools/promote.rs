//! Performs the actions that the machine asks for: takes a release to all traffic, or back.
//!
//! [`machine`] decides what is due, [`conduct`] what is asked before and after it; both purely. `drive` acts.
//! What lies between them is on disk before and after every action, so that a job that is killed at any
//! moment is followed by one that goes on.

pub mod approval;
mod approve;
mod bake;
mod begin;
mod by_state;
pub mod conduct;
mod drive;
mod dry_run;
pub mod flags;
mod foresee;
mod forward;
mod front;
mod import;
mod listen;
pub mod machine;
mod orders;
mod readers;
mod record;
mod replay;
mod samples;
pub(super) mod say;
mod shift;
mod sight;
mod status;
mod way_back;
mod ways_out;

use std::sync::Arc;
use std::time::Duration;

use crate::evidence::{Found, Need, Outcome, PromoteBody, name_release};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::plan::Part;
use crate::routers::{Router, Side, same_share};
use crate::state::{Held, Holder, Lease, Store};
use crate::units::show_share;
pub use crate::world::shell::gate_if_asked;
use crate::world::talk::Mark;
use crate::world::{self, ci, signal};

pub use approve::{Approve, approve};
pub(super) use begin::judged;
pub use by_state::{approve_anywhere, begin_or_go_on, go_on, go_on_elsewhere, judge, open};
use drive::Driver;
pub use drive::Mode;
pub use dry_run::plan_live;
pub(super) use dry_run::{not_tried, sides_apart, try_all};
pub use foresee::foresee;
pub use forward::{accept, skip};
pub use import::{Origin, import};
pub use listen::listen;
use machine::State;
pub use orders::{abort, pause, plan, resume, rollback, undo};
use record::Record;
pub use replay::replay;
pub use status::{Status, status};
pub(super) use way_back::{WayBack, ways_back};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Begin, or go on.
    Begin,
    /// Begin; another release that is under way is called off and rolled back first.
    Supersede,
    /// Go on; nothing begins.
    GoOn,
}

fn store(job: &Job) -> Result<Arc<Store>, Fault> {
    Store::open(&job.state_place(), &job.release.environment).map(Arc::new)
}

/// How long the lease on the state lasts when nobody renews it, unless the plan says otherwise.
const LEASE: Duration = Duration::from_secs(30);

/// Takes the lease on an environment's state.
fn take(job: &Job, store: &Arc<Store>) -> Result<Held<Record>, Fault> {
    Lease::take(store, &holder(job), lasts(job)).map_err(|fault| not_taken(job, store, fault, false))
}

/// The same for whoever takes users back: also on a disk that takes no writes.
fn take_to_go_back(job: &Job, store: &Arc<Store>) -> Result<Held<Record>, Fault> {
    Lease::take_to_go_back(store, &holder(job), lasts(job))
        .map_err(|fault| not_taken(job, store, fault, true))
}

fn lasts(job: &Job) -> Duration {
    begin::section(job).ok().and_then(|plan| plan.lease).map_or(LEASE, |span| span.0)
}

/// What people can do without the lease.
fn not_taken(job: &Job, store: &Store, fault: Fault, goes_back: bool) -> Fault {
    match fault.exit {
        Exit::Refused if fault.what.contains("holds this environment") => {
            fault.help(format!("wait for it, or call it off: {}", say::command(job, "abort")))
        }
        Exit::Infrastructure => {
            // Where the record cannot be read either, the plan alone says too little.
            let record = store.load::<Record>().ok().flatten().map(|saved| saved.record);
            match record.filter(|record| !record.state.finished() && (goes_back || !record.state.serves())) {
                Some(record) => ways_out::with_by_hand(job, &record, fault),
                None => fault,
            }
        }
        _ => fault,
    }
}

fn holder(job: &Job) -> Holder {
    Holder {
        release: name_release(&job.release),
        host: world::host_name(),
        pid: std::process::id(),
        since: world::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        actor: ci::actor(),
        url: ci::job().and_then(|j| j.url),
    }
}

/// Takes a release as far as it goes: to the end (`Mode::Hold`), or to the next wait (`Mode::Once`).
///
/// Exit: 0 promoted, or waiting; 1 rolled back, or both sides are sick; 2 the plan cannot be done by
/// this router; 3 asked to stop; 4 the router is lost; 5 the evidence does not hold, or another
/// release or job has the environment.
pub fn run(job: &Job, call: Call, mode: Mode) -> Result<Exit, Fault> {
    // A plan that was not read whole says too little to begin anything.
    let call = if job.loaded.part == Part::Whole { call } else { Call::GoOn };
    begin::validate(job)?;
    begin::trusts_somebody(job)?;
    let mut router = begin::router(job)?;
    let store = store(job)?;
    if call != Call::GoOn {
        nobody_is_exposed(job, &store, router.as_mut())?;
    }
    let Held { lease, saved } = take(job, &store)?;
    let record = saved.map(|s| s.record);
    let (lease, record) = match record {
        Some(record) if call == Call::Supersede && in_the_way(job, &record) => supersede(job, lease, record)?,
        record => (lease, record),
    };
    let epoch = record.as_ref().map_or(0, |r| r.promotion.epoch);
    let served_before = record.as_ref().and_then(way_back::serving);
    let known = record.as_ref().map(|r| r.before.clone()).unwrap_or_default();
    let goes_on = record.as_ref().map(|record| goes_on(job, record, call)).transpose()?.unwrap_or(false);
    // Its documents name the values that it began with, whoever goes on with it.
    let job = &match &record {
        Some(record) if goes_on => record.job(job),
        _ => job.clone(),
    };
    let mut driver = match record {
        Some(record) if record.state.finished() && goes_on => {
            still_holds(job, &record, router.as_mut())?;
            if let Some(exit) = repeat(job, &record) {
                return Ok(exit);
            }
            // This evidence folder has no document of it yet.
            Driver::new(job, mode, router, lease, record)?
        }
        Some(record) if goes_on => {
            let served = record.state.serves();
            not_set_back(job, &record)?;
            job.bring_back(&record.needs);
            way_back::is_still_there(job, lease.store(), &record)?;
            let mut driver = Driver::new(job, mode, router, lease, record)?;
            driver.come_back()?;
            if served {
                return keep_or_let_go(job, driver);
            }
            driver
        }
        None if call == Call::GoOn => return Err(nothing_begun(job)),
        _ => {
            let needs = begin::evidence(job)?;
            job.make_room::<PromoteBody>()?;
            let mut record = begin::record(job, needs, router.as_mut(), epoch + 1, &known)?;
            record.served_before = served_before;
            let mut driver = Driver::new(job, mode, router, lease, record)?;
            driver.begun()?;
            driver
        }
    };
    driver.drive()?;
    let exit = end(job, &mut driver)?;
    if signal::stop_asked() {
        tell_who_watches(job, driver.record(), mode);
    }
    Ok(exit)
}

/// Where no release is on record, green may have no users: a job whose state was moved away may be at work on it, and
/// would lose the lease to one that can only be refused.
///
/// Errors (5): green has users. What cannot be read is told later, under the lease.
fn nobody_is_exposed(job: &Job, store: &Store, router: &mut dyn Router) -> Result<(), Fault> {
    match (store.load::<Record>(), router.read()) {
        (Ok(None), Ok(live)) => begin::all_on_blue(&live, begin::section(job)?),
        _ => Ok(()),
    }
}

/// Writes the document; of a release that stands still it also says where people see what they can do.
fn end(job: &Job, driver: &mut Driver<'_>) -> Result<Exit, Fault> {
    let exit = driver.conclude()?;
    if let State::Frozen { .. } = driver.record().state {
        let look = say::command(job, "status");
        job.talk()
            .line(Mark::Warn, &format!("this looks at both sides, and says what people can do: {look}"));
    }
    Ok(exit)
}

/// The last line of a job that was asked to stop: who watches now, what users get, and what goes on or back.
fn tell_who_watches(job: &Job, record: &Record, mode: Mode) {
    let green = match ways_out::live(job, record) {
        Ok(live) => format!("the router gives green {}", show_share(live.green)),
        Err(why) => format!("what the router gives green is not known ({why})"),
    };
    let (name, say) = (name_release(&record.release), |verb: &str| say::command(job, verb));
    let over = match &record.state {
        State::RolledBack { .. } => Some((format!("{name} is rolled back"), say("status"))),
        State::Promoted => Some((format!("{name} is promoted"), say("status"))),
        _ => None,
    };
    let line = match (over, &record.state) {
        (Some((over, look)), _) => {
            format!("{over}, and nobody needs to watch it; {green}; this looks: {look}")
        }
        (None, State::Frozen { .. }) => format!(
            "nobody watches {name} now, and it stands still; {green}; this tries again to go back: {}; this says what can \
             be done: {}",
            say("abort"),
            say("status")
        ),
        (None, state) => format!(
            "nobody watches {name} now; {green}; this goes on: {}; this goes back: {}",
            say(if mode == Mode::Hold && !state.serves() { "run" } else { "step" }),
            say(if state.serves() { "undo" } else { "abort" })
        ),
    };
    job.talk().line(Mark::Warn, &format!("asked to stop: {line}"));
}

/// Whether a record is about another release that is not over.
fn in_the_way(job: &Job, record: &Record) -> bool {
    !record.state.finished() && !record.state.serves() && record.release != job.release
}

/// Calls the release that is under way off, for another one to begin.
///
/// Errors: it steers another router, or the new one's evidence does not hold (5); it could not be
/// rolled back (1).
fn supersede(job: &Job, mut lease: Lease, record: Record) -> Result<(Lease, Option<Record>), Fault> {
    if let Some(closed) = stands_as_blue(job, &record)? {
        lease.swap(&closed)?;
        return Ok((lease, Some(closed)));
    }
    orders::same_router(job, &record)?;
    // What could not begin must not cost the one that is under way its place.
    way_back::is_there(job, &begin::evidence(job)?)?;
    let old = record.job(job);
    let mut driver = Driver::new(&old, Mode::Hold, begin::router(job)?, lease, record)?;
    driver.call_off(format!("superseded by {}, which {} began", name_release(&job.release), ci::actor()))?;
    let (lease, record) = driver.into_parts();
    if matches!(record.state, State::RolledBack { .. }) {
        return Ok((lease, Some(record)));
    }
    Err(Fault::closed(format!("{} could not be rolled back", name_release(&record.release)))
        .place(job.state_place().display().to_string())
        .cause(record::phase(&record.state, &record.course))
        .help(format!(
            "{} was not begun; people must act first: {}",
            name_release(&job.release),
            say::command(job, "status")
        )))
}

/// A frozen release whose green side is what the new plan calls blue, and has everything: it is closed as it stands,
/// for there is nothing to go back to and nothing to move.
fn stands_as_blue(job: &Job, record: &Record) -> Result<Option<Record>, Fault> {
    if !matches!(record.state, State::Frozen { .. }) {
        return Ok(None);
    }
    let plan = begin::section(job)?;
    let mut router = begin::router(job)?;
    router.remember(&record.before);
    let (then, now) = (&record.promotion.router, &plan.router);
    let swapped = then.kind == now.kind
        && then.target == now.target.shown
        && orders::same_lines(&router.identity(Side::Green), &then.identity);
    if !swapped || !same_share(router.read()?.green, 0.0) {
        return Ok(None);
    }
    if let Err(seen) = begin::look_at(&plan.sides.blue, plan, Duration::ZERO, false) {
        return Err(Fault::closed("blue, the side that serves now, is not healthy").cause(seen));
    }
    let mut closed = record.clone();
    let what = format!(
        "closed as it stands, for the router gives it everything, and {} begins with it as its blue side",
        name_release(&job.release)
    );
    closed.decided(world::now(), &ci::actor(), what.clone());
    closed.state = State::Promoted;
    closed.accepted = Some(what);
    closed.promotion.weight = 1.0;
    Ok(Some(closed))
}

/// A release that serves everything already: what is left is how long the old side is kept.
fn keep_or_let_go(job: &Job, mut driver: Driver<'_>) -> Result<Exit, Fault> {
    driver.drive()?;
    // The document stands, for later ones name it by digest, as long as it is still true.
    if driver.serves()
        && let Some(exit) = repeat(job, driver.record())
    {
        return Ok(exit);
    }
    driver.conclude()
}

/// Whether a call goes on with the promotion on record; if not, it begins a new one.
///
/// Errors (5): another release is under way, or the plan was changed in the middle.
fn goes_on(job: &Job, record: &Record, call: Call) -> Result<bool, Fault> {
    let same = record.release == job.release;
    if record.state.finished() || record.state.serves() {
        if call == Call::GoOn && !same {
            return Err(nothing_begun(job));
        }
        // The same release on the same evidence has nothing left to do; new evidence is a new start.
        let same_evidence = |needs: Vec<Need>| !needs.is_empty() && record.needs.starts_with(&needs);
        let goes_on = call == Call::GoOn || (same && begin::evidence(job).is_ok_and(same_evidence));
        if goes_on && !record.state.finished() {
            orders::same_router(job, record)?;
        }
        return Ok(goes_on);
    }
    if !same {
        return Err(Fault::refused(format!("{} is still under way", name_release(&record.release)))
            .place(job.state_place().display().to_string())
            .cause(record::phase(&record.state, &record.course))
            .help(out_of_the_way(job, record)));
    }
    if record.plan.sha256 != job.loaded.reference.sha256 {
        return Err(Fault::refused("the plan was changed in the middle of a promotion")
            .place(&job.loaded.reference.path)
            .cause(format!("{} began under another text of the plan", name_release(&record.release)))
            .help(format!(
                "go on with the plan that it began with, or call it off: {}",
                say::command(job, "abort")
            )));
    }
    orders::same_router(job, record)?;
    orders::same_values(job, record)?;
    Ok(true)
}

/// Refuses (5) to go on with a promotion that its own document says is over: somebody has set the state back.
fn not_set_back(job: &Job, record: &Record) -> Result<(), Fault> {
    let is_over = |found: &Found<PromoteBody>| {
        let told = found.document.body.promotion.as_ref();
        told.is_some_and(|p| p.id.is_some() && p.id == record.id && p.outcome == Outcome::RolledBack)
    };
    let all = job.read_everywhere::<PromoteBody>();
    // A way back is never refused.
    let forward = matches!(
        record.state,
        State::Deploying { .. }
            | State::Holding
            | State::CheckingGreen
            | State::Shifting { .. }
            | State::Baking { .. }
    );
    let Some(found) = all.into_iter().find(is_over).filter(|_| forward) else {
        return Ok(());
    };
    let at = found.document.head.run.finished_at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let what = format!("{} was rolled back, and its state was set back since", name_release(&record.release));
    Err(Fault::refused(what)
        .place(job.state_place().display().to_string())
        .cause(format!(
            "`{}` says so since {at}; the state says: {}",
            found.need.path,
            record::phase(&record.state, &record.course)
        ))
        .help(format!("find out who changed it, and call it off: {}", say::command(job, "abort"))))
}

/// How people get a release out of the way of the next one.
fn out_of_the_way(job: &Job, record: &Record) -> String {
    let abort = say::command(job, "abort");
    if let State::Frozen { .. } = record.state {
        return format!(
            "it stands still, and waits for people: {} says why; tries again to go back: {abort}; closes it as it stands: {}",
            say::command(job, "status"),
            say::command_with_reason(job, "accept")
        );
    }
    format!(
        "let it finish, call it off: {abort}; or begin this one with --supersede, which rolls it back first"
    )
}

/// Refuses (5) to repeat that a release serves everything when the router says otherwise.
fn still_holds(job: &Job, record: &Record, router: &mut dyn Router) -> Result<(), Fault> {
    if record.state != State::Promoted {
        return Ok(());
    }
    router.remember(&record.before);
    let live = router.read()?;
    if same_share(live.green, 1.0) {
        return Ok(());
    }
    Err(Fault::refused(format!(
        "{} was promoted, but green has {} now",
        name_release(&record.release),
        show_share(live.green)
    ))
    .place(job.state_place().display().to_string())
    .cause(live.raw)
    .help(format!(
        "somebody moved the traffic since: leave it as it is, or promote anew, beginning with `preflight`; how it stands: {}",
        say::command(job, "status")
    )))
}

/// Says once more what the document of a finished promotion says, where this folder has it.
fn repeat(job: &Job, record: &Record) -> Option<Exit> {
    let found = job.read::<PromoteBody>().ok()?;
    let told = found.document.body.promotion.as_ref().map(|p| (p.epoch, p.outcome));
    if told != Some((record.promotion.epoch, record.outcome().0))
        || found.document.head.release.as_ref() != Some(&record.release)
    {
        return None;
    }
    let at = found.document.head.run.finished_at.strftime("%Y-%m-%d %H:%M:%S UTC");
    job.talk().line(Mark::Step, &format!("finished already, at {at}: {}", found.document.head.summary));
    let state = if record.state.serves() { "promoted" } else { "rolled_back" };
    Some(job.repeat(&found, vec![("state", state.to_owned())]))
}

fn nothing_begun(job: &Job) -> Fault {
    Fault::refused(format!("{} was not begun", name_release(&job.release)))
        .place(job.state_place().display().to_string())
        .help("`promote start` begins it, under the plan and with its variables; look at --environment and --state, too")
}
