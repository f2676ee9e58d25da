//! The way is tried before anything moves: router, front door, both sides, snapshot store, baseline and state are
//! read, and nothing is changed.
//!
//! What `promote` would refuse is critical here, and the same functions of [`begin`] say so. What only a later job
//! would miss is a warning.

use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::begin::{self, look_at};
use super::orders::{checked_course, print, print_json};
use super::record::{Markers, Record, course_of, moment, phase};
use super::{Call, goes_on, in_the_way, store};
use crate::evidence::{BaselineBody, Counts, Finding, Verdict, name_release};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::plan::{BaselineSpec, Promote, Snapshot};
use crate::routers::{Live, OtherWay, Side};
use crate::severity::Severity;
use crate::state::Saved;
use crate::tools::snapshot::{Place, Seen};
use crate::tools::verify::BASELINE_MAX_AGE;
use crate::units::{Span, show_duration, show_share};
use crate::world;

pub(super) mod front_door;
mod kept;
pub(super) mod twins;

use kept::Runner;
use twins::Lead;
pub(in crate::tools) use twins::apart as sides_apart;

/// One part of the way, as it was tried.
pub(in crate::tools) struct Tried {
    /// What was seen, and what to do.
    pub finding: Finding,
    /// How `promote` would end on it.
    pub exit: Exit,
}

/// A part of the way.
#[derive(Clone, Copy)]
struct Part {
    name: &'static str,
    expected: &'static str,
}

const ROUTER: Part = Part { name: "promote: router", expected: "it answers, and this job may steer it" };
const KNOWN: Part =
    Part { name: "promote: green by the router", expected: "it knows green, or the deploy hook brings it" };
const WAYS: Part = Part {
    name: "promote: other ways",
    expected: "nothing else of the router leads to a side that a hook takes down",
};
const STEPS: Part = Part { name: "promote: steps", expected: "the router can represent every step" };
const TRAFFIC: Part = Part { name: "promote: traffic", expected: "all of it is on blue" };
const VIEW: Part = Part { name: "promote: blue by the router", expected: "enough of its servers are up" };
const DOOR: Part = Part { name: "promote: front door", expected: "requests through the router reach blue" };
const SIDES: Part = Part { name: "promote: two sides", expected: "blue and green are two" };
const BLUE: Part = Part { name: "promote: blue", expected: "it is healthy, and says which release it is" };
const GREEN: Part =
    Part { name: "promote: green", expected: "it is healthy, or the deploy hook brings it up" };
const STORE: Part = Part { name: "promote: snapshot store", expected: "it can be read, and opens" };
const BASELINE: Part = Part { name: "promote: baseline", expected: "`verify` can compare with it" };
const STATE: Part = Part { name: "promote: state", expected: "it can be read and written, and is free" };
const KEPT: Part = Part { name: "promote: places", expected: "what a later job needs outlives this one" };

/// What came of a part.
enum Came {
    /// As it should be.
    Good(String),
    /// Nothing to worry about, and nothing that could be shown either.
    Fine(String),
    /// `promote` would refuse it.
    Refused(Fault),
    /// A later job would miss it.
    Warned(Fault),
    /// A person should know it, and may well mean it so.
    Noted(Fault),
    /// It was not looked at.
    NotLooked(String),
}

impl Came {
    fn of(result: Result<String, Fault>) -> Self {
        result.map_or_else(Self::Refused, Self::Good)
    }
}

/// When a part was begun.
#[derive(Clone, Copy)]
struct Begun {
    at: Timestamp,
    since: Instant,
}

impl Begun {
    fn now() -> Self {
        Self { at: world::now(), since: Instant::now() }
    }

    fn tried(self, part: Part, came: Came) -> Tried {
        let exit = match &came {
            Came::Refused(fault) => fault.exit,
            _ => Exit::Pass,
        };
        let severity = match &came {
            Came::Good(_) | Came::Refused(_) => Severity::Critical,
            Came::Warned(_) => Severity::Warning,
            Came::Fine(_) | Came::Noted(_) | Came::NotLooked(_) => Severity::Info,
        };
        let verdict = match &came {
            Came::Good(_) | Came::Fine(_) => Verdict::Pass,
            Came::NotLooked(_) => Verdict::Skipped,
            Came::Refused(fault) if fault.exit == Exit::Infrastructure => Verdict::Error,
            Came::Refused(_) | Came::Warned(_) | Came::Noted(_) => Verdict::Fail,
        };
        let mut finding = Finding::new(part.name, "promote", verdict, self.at);
        finding.severity = severity;
        finding.expected = Some(part.expected.into());
        finding.duration_ms = (self.since.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        match came {
            Came::Good(seen) | Came::Fine(seen) => {
                finding.observed = Some(seen.clone());
                finding.message = seen;
            }
            Came::NotLooked(why) => finding.message = format!("not looked at: {why}"),
            Came::Refused(fault) | Came::Warned(fault) | Came::Noted(fault) => {
                finding.observed = Some(fault.cause.clone().unwrap_or_else(|| fault.what.clone()));
                let help = fault.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
                finding.message = format!("{}{help}", fault.line());
                finding.evidence = json!({
                    "what": fault.what, "where": fault.place, "why": fault.cause, "do": fault.help,
                    "exit": fault.exit.code(),
                });
            }
        }
        Tried { finding, exit }
    }
}

/// What is under way in this environment.
enum Under {
    /// Nothing: a release would begin.
    Nothing,
    /// Something that has moved traffic already, or may have: what, in words.
    Way(String),
}

/// Tries every part of the way. Changes nothing.
pub(in crate::tools) fn try_all(job: &Job) -> Vec<Tried> {
    let Some(plan) = &job.loaded.plan.promote else { return Vec::new() };
    let (state, under) = state(job);
    let router = || router(job, plan, &under);
    let green = || {
        let begun = Begun::now();
        let health = look_at(&plan.sides.green, plan, std::time::Duration::ZERO, false);
        (begun, health, begin::marker(Side::Green, &plan.sides.green, plan))
    };
    let snapshots = || {
        let section = job.loaded.plan.snapshot.as_ref()?;
        Some(Begun::now().tried(STORE, snapshot_store(job, section)))
    };
    std::thread::scope(|scope| {
        let router = Beside::begin(scope, &router);
        let green = Beside::begin(scope, &green);
        let snapshots = Beside::begin(scope, &snapshots);
        let (blue, marker) = blue(plan);
        let door = Begun::now().tried(DOOR, front_door(job, plan, marker.as_deref(), &under));
        // In the order in which `promote` comes upon them.
        let mut all = vec![state];
        all.extend(router.end());
        all.push(door);
        let (begun, health, green_says) = green.end();
        all.push(
            Begun::now().tried(SIDES, two_sides(job, plan, marker.as_deref(), green_says.as_deref().ok())),
        );
        all.push(blue);
        let deploys = !plan.hooks.deploy.is_empty();
        all.push(begun.tried(GREEN, green_came(health, green_says, marker.as_deref(), deploys)));
        all.extend(snapshots.end());
        if let Some(spec) = baseline_spec(job) {
            all.push(Begun::now().tried(BASELINE, baseline(job, plan, spec)));
        }
        all.extend(kept(job));
        all
    })
}

/// The same parts where the plan says that they are not to be tried: each is told, none is silently absent.
pub(in crate::tools) fn not_tried(job: &Job, why: &str) -> Vec<Tried> {
    if job.loaded.plan.promote.is_none() {
        return Vec::new();
    }
    let snapshots = job.loaded.plan.snapshot.as_ref().map(|_| STORE);
    let baseline = baseline_spec(job).map(|_| BASELINE);
    let parts = [STATE, ROUTER, KNOWN, STEPS, TRAFFIC, VIEW, WAYS, DOOR, SIDES, BLUE, GREEN].into_iter();
    let parts = parts.chain(snapshots).chain(baseline).chain([KEPT]);
    parts.map(|part| Begun::now().tried(part, Came::NotLooked(why.into()))).collect()
}

/// Tries the way and says what was seen. Changes nothing.
///
/// Exit: 0 when all is well (warnings included), else how `promote` would end on the first part that it would refuse.
/// Errors (2): the plan does not validate.
pub fn plan_live(job: &Job) -> Result<Exit, Fault> {
    checked_course(job)?;
    let all = try_all(job);
    let exit = all.iter().find(|tried| tried.finding.closes()).map_or(Exit::Pass, |tried| tried.exit);
    let findings: Vec<Finding> = all.into_iter().map(|tried| tried.finding).collect();
    if job.call.json {
        print_json(&findings)?;
        return Ok(exit);
    }
    let mut text = format!("{}: {}\n", name_release(&job.release), Counts::of(&findings).sentence());
    for finding in &findings {
        let word = match (finding.verdict, finding.severity) {
            (Verdict::Pass, _) => "ok",
            (Verdict::Skipped, _) => "skipped",
            (_, Severity::Critical) => "fails",
            (_, Severity::Warning) => "warning",
            (_, Severity::Info) => "note",
        };
        let name = finding.name.trim_start_matches("promote: ");
        let told = |key: &str| finding.evidence.get(key).and_then(|text| text.as_str());
        let said = match (told("what"), told("why")) {
            (Some(what), Some(why)) => format!("{what}: {why}"),
            (Some(what), None) => what.to_owned(),
            _ => finding.message.clone(),
        };
        text.push_str(&format!("  {word:<8} {name:<18} {said}\n"));
        for (label, key) in [("at", "where"), ("do", "do")] {
            if let Some(line) = told(key) {
                text.push_str(&format!("  {:<27} {label}: {line}\n", ""));
            }
        }
    }
    print(&text)?;
    Ok(exit)
}

/// Work on a thread of its own, or here where there is none to be had.
struct Beside<'s, T> {
    work: &'s (dyn Fn() -> T + Sync),
    thread: Option<ScopedJoinHandle<'s, T>>,
}

impl<'s, T: Send + 's> Beside<'s, T> {
    fn begin(scope: &'s Scope<'s, '_>, work: &'s (dyn Fn() -> T + Sync)) -> Self {
        Self { work, thread: Builder::new().spawn_scoped(scope, work).ok() }
    }

    fn end(self) -> T {
        self.thread.and_then(|thread| thread.join().ok()).unwrap_or_else(self.work)
    }
}

/// The router, its steps, where its traffic is, and what it says of blue.
fn router(job: &Job, plan: &Promote, under: &Under) -> Vec<Tried> {
    let begun = Begun::now();
    let shown = format!("{} at {}", plan.router.kind, plan.router.target.shown);
    let checked = begin::router(job).and_then(|mut router| router.check().map(|()| router));
    let mut router = match checked {
        Ok(router) => router,
        Err(fault) => {
            let rest = [KNOWN, STEPS, TRAFFIC, VIEW, WAYS];
            let skipped = |part| Begun::now().tried(part, Came::NotLooked("it needs the router".into()));
            let mut all = vec![begun.tried(ROUTER, Came::Refused(fault))];
            all.extend(rest.map(skipped));
            return all;
        }
    };
    let checked = begun.tried(ROUTER, Came::Good(format!("{shown} can be steered")));
    let known = Begun::now().tried(
        KNOWN,
        match begin::green_comes(router.as_mut(), plan) {
            Ok(None) => Came::Good("it knows green".into()),
            Ok(Some(fault)) => {
                Came::Fine(format!("not there yet ({}): the deploy hook brings it", fault.line()))
            }
            Err(fault) => Came::Refused(fault),
        },
    );
    let course = course_of(plan);
    let shares: Vec<String> = course.steps.iter().map(|step| show_share(step.weight)).collect();
    let fit = begin::steps_fit(router.as_ref(), &course)
        .map(|()| format!("it can give green {}", shares.join(", ")));
    let steps = Begun::now().tried(STEPS, Came::of(fit));
    let begun = Begun::now();
    let (traffic, view) = match router.read() {
        Ok(live) => (traffic(&live, plan, under), view(&live, plan)),
        Err(fault) => (Came::Refused(fault), Came::NotLooked("it needs the live weights".into())),
    };
    let (traffic, view) = (begun.tried(TRAFFIC, traffic), begun.tried(VIEW, view));
    let ways = Begun::now().tried(WAYS, other_ways(router.other_ways(), plan));
    vec![checked, known, steps, traffic, view, ways]
}

/// What else leads to the sides: whoever comes that way is cut where a hook takes a side down.
fn other_ways(found: Result<Option<Vec<OtherWay>>, Fault>, plan: &Promote) -> Came {
    let kind = &plan.router.kind;
    let ways = match found {
        Ok(Some(ways)) => ways,
        Ok(None) => return Came::Fine(format!("{kind} does not show what else leads to the sides")),
        Err(fault) => {
            return Came::Fine(format!("what else leads to the sides is not known: {}", fault.line()));
        }
    };
    let to = |side: Side| {
        let lines: Vec<String> = ways.iter().filter(|way| way.side == side).map(OtherWay::line).collect();
        (!lines.is_empty()).then(|| format!("to {} also lead {}", side.word(), lines.join(", ")))
    };
    let (blue, green) = (to(Side::Blue), to(Side::Green));
    let (retires, deploys) = (!plan.hooks.retire.is_empty(), !plan.hooks.deploy.is_empty());
    let cut = (retires && blue.is_some()) || (deploys && green.is_some());
    let said = [blue.clone(), green.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ");
    if said.is_empty() {
        return Came::Good("nothing else leads to the sides".into());
    }
    let mut help = Vec::new();
    if blue.is_some() {
        help.push(if plan.retire_needs_durable && retires {
            "lead them elsewhere before the end: the retire hook waits for that"
        } else {
            "lead them elsewhere before blue is taken down"
        });
    }
    if green.is_some() {
        help.push(
            "users of those to green meet the new version as soon as it is deployed, and nothing while it is",
        );
    }
    let fault = Fault::usage("other ways of the router lead to the sides").cause(said).help(help.join("; "));
    if cut { Came::Warned(fault) } else { Came::Noted(fault) }
}

fn traffic(live: &Live, plan: &Promote, under: &Under) -> Came {
    let seen = format!("green has {}: {}", show_share(live.green), live.raw);
    match under {
        Under::Way(who) => Came::NotLooked(format!("{who} ({seen})")),
        Under::Nothing => Came::of(begin::all_on_blue(live, plan).map(|()| seen)),
    }
}

fn view(live: &Live, plan: &Promote) -> Came {
    match live.side(Side::Blue) {
        None => Came::Fine(format!("{} has no view of its own", plan.router.kind)),
        Some(blue) => {
            let seen = format!("{} of {} servers are up", blue.serving, blue.of);
            Came::of(begin::router_serves_blue(live, plan).map(|()| seen))
        }
    }
}

/// Blue by its own address, and what it says that it is.
fn blue(plan: &Promote) -> (Tried, Option<String>) {
    let begun = Begun::now();
    let seen = begin::blue_is_healthy(plan).and_then(|health| {
        let marker = begin::marker(Side::Blue, &plan.sides.blue, plan)?;
        Ok((health, marker))
    });
    match seen {
        Ok((health, marker)) => {
            let how =
                if plan.sides.blue.release.is_some() { "by the plan it is" } else { "it says that it is" };
            (begun.tried(BLUE, Came::Good(format!("{health}, {how} {marker}"))), Some(marker))
        }
        Err(fault) => (begun.tried(BLUE, Came::Refused(fault)), None),
    }
}

fn front_door(job: &Job, plan: &Promote, blue: Option<&str>, under: &Under) -> Came {
    if let Under::Way(who) = under {
        return Came::NotLooked(who.clone());
    }
    let Some(blue) = blue else { return Came::NotLooked("it needs what blue says that it is".into()) };
    let markers = Markers { blue: Some(blue.to_owned()), green: None };
    Came::of(begin::entry(job).and_then(|entry| {
        let mut router = begin::router(job)?;
        let seen = front_door::by_this_router(router.as_mut(), &entry, &markers, plan)?;
        Ok(format!("{}: {seen}", entry.url))
    }))
}

/// Whether the two sides are two, as far as addresses and what they say can tell.
fn two_sides(job: &Job, plan: &Promote, blue: Option<&str>, green: Option<&str>) -> Came {
    if let Err(fault) = twins::apart_by_address(&plan.sides, &job.loaded) {
        return Came::Refused(fault);
    }
    let told_apart = blue.zip(green).filter(|(blue, green)| blue != green);
    match (twins::lead(&plan.sides), told_apart) {
        (Lead::ToTwo, _) => Came::Good("they have different addresses".into()),
        (Lead::Unknown, _) => {
            Came::Fine("their names are not both resolved here, so only their release headers tell".into())
        }
        (Lead::ToOne(shared), Some((blue, green))) => {
            Came::Good(format!("both names lead to {shared}, and it answers as {blue} and as {green}"))
        }
        (Lead::ToOne(shared), None) => Came::Warned(
            Fault::usage("blue and green may be one and the same side")
                .cause(format!("both names lead to {shared}, and what answers does not tell them apart yet"))
                .help("give each side its own address, unless that server tells them apart by the name"),
        ),
    }
}

/// What a look at green comes to.
fn green_came(
    health: Result<String, String>,
    says: Result<String, Fault>,
    blue: Option<&str>,
    deploys: bool,
) -> Came {
    let health = match health {
        Ok(health) => health,
        Err(seen) if deploys => {
            return Came::Fine(format!("not there yet ({seen}): the deploy hook brings it up"));
        }
        Err(seen) => {
            return Came::Refused(
                Fault::closed("green is not healthy, and the plan has no deploy hook that brings it up")
                    .cause(seen)
                    .help("deploy green first, give `promote.hooks.deploy`, or set `preflight.promote: false` where it is deployed between preflight and promote"),
            );
        }
    };
    match says {
        Err(fault) if deploys => Came::Noted(fault),
        Err(fault) => Came::Refused(fault),
        Ok(green) if blue == Some(green.as_str()) && deploys => {
            Came::Fine(format!("{health}, it is {green} like blue until the deploy hook has run"))
        }
        Ok(green) if blue == Some(green.as_str()) => Came::Refused(
            Fault::closed(format!("green says that it is `{green}`, and so does blue"))
                .cause("nobody could tell them apart, and the plan has no deploy hook that would change that")
                .help("deploy the new version to green first, or give `promote.hooks.deploy`"),
        ),
        Ok(green) => Came::Good(format!("{health}, it is {green}")),
    }
}

/// The store, opened where this job has the passphrase.
fn snapshot_store(job: &Job, section: &Snapshot) -> Came {
    let none_needed = section.encryption.is_some();
    let looked = Place::of(job).and_then(|place| {
        place.is_not_contradicted(none_needed)?;
        place.look(none_needed).map(|seen| (seen, place.shown))
    });
    match looked {
        Ok((Seen::Open(_), shown)) => Came::Good(format!("{shown} opens")),
        Ok((Seen::Nothing, shown)) => {
            Came::Fine(format!("there is no store at {shown} yet: `snapshot create` makes it"))
        }
        Ok((Seen::Closed(_), shown)) => Came::NotLooked(format!(
            "there is a store at {shown}, and this job has no passphrase: `snapshot create` will open it"
        )),
        Err(fault) => Came::Refused(fault),
    }
}

fn baseline_spec(job: &Job) -> Option<&BaselineSpec> {
    let spec = job.loaded.plan.verify.as_ref()?.baseline.as_ref();
    spec.filter(|spec| !spec.probes.is_empty())
}

/// Whether `verify` could compare with the baseline that is there when the last step is over.
fn baseline(job: &Job, plan: &Promote, spec: &BaselineSpec) -> Came {
    const HELP: &str =
        "run `verify baseline` before `promote`, while the old version serves: `verify` refuses without it";
    let max_age = spec.max_age.map_or(BASELINE_MAX_AGE, |span| span.0);
    let found = match job.need::<BaselineBody>(Some(max_age)).and_then(|f| f.passed().map(|()| f)) {
        Ok(found) => found,
        Err(fault) => return Came::Warned(fault.help(HELP)),
    };
    let recorded = &found.document.body.probes;
    let missing = spec.probes.iter().find(|probe| recorded.iter().all(|r| r.name != probe.name));
    if let Some(probe) = missing {
        return Came::Warned(
            Fault::refused(format!("`baseline.json` has no probe `{}`", probe.name)).help(HELP),
        );
    }
    let at = found.document.head.run.finished_at;
    let way_ms: i64 = course_of(plan).steps.iter().map(|step| step.bake_ms).sum();
    let over = world::now().checked_add(SignedDuration::from_millis(way_ms)).unwrap_or(Timestamp::MAX);
    let good_until = SignedDuration::try_from(max_age).ok().and_then(|age| at.checked_add(age).ok());
    if good_until.is_some_and(|until| over > until) {
        return Came::Warned(
            Fault::refused("the baseline will be too old when `verify` compares with it")
                .cause(format!(
                    "it was recorded at {} and counts for {}; the steps alone take {}",
                    moment(at),
                    Span(max_age),
                    show_duration(way_ms as f64 / 1e3)
                ))
                .help("raise `verify.baseline.max_age` beyond the length of the way"),
        );
    }
    Came::Good(format!("{} probes, recorded at {}", recorded.len(), moment(at)))
}

/// The promote state: what is under way by it, and whether it can be written.
fn state(job: &Job) -> (Tried, Under) {
    let begun = Begun::now();
    let (came, under) = match store(job).and_then(|store| Ok((store.load::<Record>()?, store))) {
        Err(fault) => (Came::Refused(fault), Under::Way("the state does not tell what is under way".into())),
        Ok((saved, store)) => {
            let (free, under) = is_free(job, saved, supersedes());
            let written = || store.may_write().map(|()| format!("{} can be read and written", store.shown()));
            let came = free.and_then(|free| written().map(|written| format!("{written}, {free}")));
            (Came::of(came), under)
        }
    };
    (begun.tried(STATE, came), under)
}

/// Whether a release may begin or go on by the state.
fn is_free(job: &Job, saved: Option<Saved<Record>>, supersedes: bool) -> (Result<String, Fault>, Under) {
    let Some(record) = saved.map(|saved| saved.record) else {
        return (Ok("and nothing was ever promoted by it".into()), Under::Nothing);
    };
    let name = name_release(&record.release);
    if record.state.finished() || record.state.serves() {
        return (
            Ok(format!("the last was {name}: {}", phase(&record.state, &record.course))),
            Under::Nothing,
        );
    }
    let under = Under::Way(format!("{name} is under way: {}", phase(&record.state, &record.course)));
    match goes_on(job, &record, Call::Begin) {
        Ok(_) => (Ok(format!("{name} is under way and goes on")), under),
        Err(_) if supersedes && in_the_way(job, &record) => {
            (Ok(format!("{name} is under way and will be superseded")), under)
        }
        Err(fault) => (Err(fault), under),
    }
}

/// Whether `promote` is told to supersede, as far as this job can know.
fn supersedes() -> bool {
    let given = std::env::var("TRAPKEY_SUPERSEDE").unwrap_or_default();
    ["1", "y", "yes", "t", "true", "on"].contains(&given.to_ascii_lowercase().as_str())
}

/// The folders that later jobs need, and whether this runner leaves them there.
fn kept(job: &Job) -> Vec<Tried> {
    let Some(runner) = Runner::of(&|name| std::env::var(name).ok()) else {
        return vec![
            Begun::now().tried(KEPT, Came::Fine("no CI runner that cleans its checkout is about".into())),
        ];
    };
    let state = job.state_place();
    let state = Some(state).filter(|place| !place.to_string_lossy().contains("://"));
    let snapshots = job.loaded.plan.snapshot.as_ref().and_then(|_| Place::of(job).ok()?.folder());
    let places = [
        (
            "promote: state is kept",
            state,
            "the promote state is lost with this job",
            "name a folder outside of the checkout, or s3://BUCKET/PREFIX, with --state or TRAPKEY_STATE; only a release that begins and ends in this one job can do without",
        ),
        (
            "promote: store is kept",
            snapshots,
            "the snapshot store is lost with this job",
            "let `snapshot.store` be a folder outside of the checkout, or s3://BUCKET/PREFIX",
        ),
        (
            "promote: evidence is kept",
            Some(job.evidence()),
            "the evidence is lost with this job",
            "upload the folder as an artifact, and fetch it in the next job",
        ),
    ];
    let mut all = Vec::new();
    for (name, folder, what, help) in places {
        let Some(folder) = folder else { continue };
        let Some(why) = runner.loses(&folder) else { continue };
        let fault = Fault::refused(what).place(folder.display().to_string()).cause(why).help(help);
        // Evidence in the checkout is the rule, and the jobs hand it on.
        let came = if name == "promote: evidence is kept" { Came::Noted(fault) } else { Came::Warned(fault) };
        all.push(Begun::now().tried(Part { name, ..KEPT }, came));
    }
    if all.is_empty() {
        all.push(Begun::now().tried(KEPT, Came::Good("none of them lies where this runner cleans".into())));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Loaded;
    use crate::routers::SideView;

    fn loaded(min_up: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("release.yaml");
        let text = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1}}\npromote:\n  strategy: blue_green\n  \
             router: {{kind: haproxy, target: s}}\n  sides: {{blue: {{url: \"http://b\"}}, green: {{url: \"http://g\"}}}}\n{min_up}"
        );
        std::fs::write(&path, text).unwrap();
        Loaded::read(&path, [].into()).unwrap()
    }

    fn seen(came: Came) -> (Verdict, Severity, Exit, String) {
        let Tried { finding, exit } = Begun::now().tried(TRAFFIC, came);
        (finding.verdict, finding.severity, exit, finding.message)
    }

    #[test]
    fn what_the_router_says_of_traffic_and_of_blue_decides_as_it_does_for_promote() {
        let view = |serving, of, closed| SideView {
            serving,
            of,
            down: vec!["blue2: DOWN (L4CON)".into()],
            closed,
            ..SideView::default()
        };
        let live = |green, strangers: &[&str], blue| Live {
            sides: Some([blue, SideView::default()]),
            strangers: strangers.iter().map(|s| (*s).to_owned()).collect(),
            ..Live::of(green, json!({}))
        };
        let (plain, strict) = (loaded(""), loaded("  min_up: 100%\n"));
        let (plan, all) = (plain.plan.promote.as_ref().unwrap(), strict.plan.promote.as_ref().unwrap());
        let of_traffic = |live: &Live| seen(traffic(live, plan, &Under::Nothing));
        assert_eq!(of_traffic(&live(0.0, &[], view(2, 2, false))).0, Verdict::Pass);
        assert_eq!(of_traffic(&live(0.05, &[], view(2, 2, false))).2, Exit::Refused);
        let strange = of_traffic(&live(0.0, &["old3 has weight 100"], view(2, 2, false)));
        assert_eq!((strange.0, strange.2), (Verdict::Fail, Exit::Usage));
        assert!(strange.3.contains("old3 has weight 100"), "{}", strange.3);
        let under = Under::Way("shop 1 is under way".into());
        assert_eq!(seen(traffic(&live(0.05, &[], view(2, 2, false)), plan, &under)).0, Verdict::Skipped);

        let of_blue = |live: &Live, plan: &Promote| seen(super::view(live, plan));
        // One of two is half of them.
        assert_eq!(of_blue(&live(0.0, &[], view(1, 2, false)), plan).0, Verdict::Pass);
        let down = of_blue(&live(0.0, &[], view(1, 2, false)), all);
        assert_eq!((down.0, down.2), (Verdict::Fail, Exit::Closed));
        assert!(down.3.contains("1 of 2 servers up: blue2: DOWN (L4CON)"), "{}", down.3);
        assert_eq!(of_blue(&live(0.0, &[], view(0, 2, false)), plan).2, Exit::Closed);
        let nothing = of_blue(&Live::of(0.0, json!({})), plan);
        assert_eq!((nothing.0, nothing.1), (Verdict::Pass, Severity::Info));
    }

    #[test]
    fn green_is_judged_by_whether_a_hook_still_brings_it_up() {
        let well = || Ok("healthy".to_owned());
        let sick = || Err("/health answered 503".to_owned());
        let says = |release: &str| Ok(release.to_owned());
        let mute = || Err(Fault::usage("green does not say which release it is"));
        let came = |health, release, deploys| {
            let (verdict, severity, exit, _) = seen(green_came(health, release, Some("1.0"), deploys));
            (verdict, severity, exit)
        };
        let fine = (Verdict::Pass, Severity::Critical, Exit::Pass);
        assert_eq!(came(well(), says("1.1"), false), fine);
        assert_eq!(came(well(), says("1.1"), true), fine);
        let known = (Verdict::Pass, Severity::Info, Exit::Pass);
        assert_eq!(came(sick(), mute(), true), known);
        assert_eq!(came(well(), says("1.0"), true), known);
        assert_eq!(came(well(), mute(), true), (Verdict::Fail, Severity::Info, Exit::Pass));
        let closed = (Verdict::Fail, Severity::Critical, Exit::Closed);
        assert_eq!(came(sick(), mute(), false), closed);
        assert_eq!(came(well(), says("1.0"), false), closed);
        assert_eq!(came(well(), mute(), false), (Verdict::Fail, Severity::Critical, Exit::Usage));
    }

    #[test]
    fn other_ways_are_a_warning_where_a_hook_would_cut_their_users() {
        let way =
            |side| OtherWay { side, name: "the backend `admin`".into(), place: "10.0.0.11:8080".into() };
        let came = |more: &str, ways: Option<Vec<OtherWay>>| {
            let loaded = loaded(more);
            let (verdict, severity, exit, said) =
                seen(other_ways(Ok(ways), loaded.plan.promote.as_ref().unwrap()));
            assert_eq!(exit, Exit::Pass);
            (verdict, severity, said)
        };
        let (retire, deploy) = ("  hooks: {retire: [x]}\n", "  hooks: {deploy: [x]}\n");
        for (more, ways, verdict, severity) in [
            ("", None, Verdict::Pass, Severity::Info),
            ("", Some(vec![]), Verdict::Pass, Severity::Critical),
            ("", Some(vec![way(Side::Blue)]), Verdict::Fail, Severity::Info),
            (retire, Some(vec![way(Side::Blue)]), Verdict::Fail, Severity::Warning),
            (retire, Some(vec![way(Side::Green)]), Verdict::Fail, Severity::Info),
            (deploy, Some(vec![way(Side::Green)]), Verdict::Fail, Severity::Warning),
        ] {
            let (is, how, said) = came(more, ways.clone());
            assert_eq!((is, how), (verdict, severity), "{more}: {ways:?}");
            let told = said.contains("the backend `admin` (10.0.0.11:8080)");
            assert_eq!(told, ways.is_some_and(|ways| !ways.is_empty()), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_an_error_and_what_is_not_as_it_must_be_a_failure() {
        let refused = |fault| seen(Came::Refused(fault));
        assert_eq!(refused(Fault::infrastructure("x")).0, Verdict::Error);
        for fault in [Fault::closed("x"), Fault::usage("x"), Fault::refused("x")] {
            assert_eq!(refused(fault).0, Verdict::Fail);
        }
        let told = refused(Fault::usage("what").cause("why").help("do that"));
        assert_eq!(told.3, "what: why; do that");
    }
}
