//! `promote status`: where the newest promotion stands, and what the router really does.

use schemars::JsonSchema;
use serde::Serialize;

use super::machine::State;
use super::orders::{newest, print, print_json};
use super::record::{Record, moment, phase, phase_without_share};
use super::{say, store, well};
use crate::evidence::{Outcome, Promotion, name_release};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::routers::{Live, same_share};
use crate::state::Ask;
use crate::units::show_share;
use crate::world::ci;

/// What `promote status --json` prints: the promotion as its document has it, and what the router does now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The promotion, by the record.
    #[serde(flatten)]
    pub promotion: Promotion,
    /// The router, now.
    pub router_now: RouterNow,
}

/// What the router does now, as it says itself.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RouterNow {
    /// Whether it could be reached from here.
    pub reached: bool,
    /// Green's share of the traffic, in 0..=1; null where it could not be reached.
    pub green: Option<f64>,
    /// Whether that is another share than the one that the record holds for in force; null where one of both is not
    /// known, or the weight is on its way.
    pub differs: Option<bool>,
    /// The difference in words, or why it could not be reached.
    pub says: Option<String>,
}

/// What is told where the router and the record are not of one mind.
const ANOTHER_SHARE: &str = "the record knows another share: somebody, a restart or another program has changed the \
                             router since; the next look of a job takes users back to blue, or puts the record's share in force";

impl RouterNow {
    fn of(record: &Record, live: &Result<Live, String>) -> Self {
        match live {
            Ok(live) => {
                let differs = record.state.due(&record.course).map(|due| differ(record, due, live.green));
                let says = (differs == Some(true)).then(|| what_follows(&record.state).to_owned());
                Self { reached: true, green: Some(live.green), differs, says }
            }
            Err(why) => Self { reached: false, green: None, differs: None, says: Some(why.clone()) },
        }
    }
}

/// Whether the router has another share than what is due. It may only be able to give one near to that: what it was
/// read back with when the weight was set.
fn differ(record: &Record, due: f64, now: f64) -> bool {
    let read_back = record.promotion.shifts.iter().rev().find(|shift| same_share(shift.asked, due));
    !same_share(now, due) && !read_back.is_some_and(|shift| same_share(now, shift.read_back))
}

fn what_follows(state: &State) -> &'static str {
    if state.finished() {
        "the record knows another share: somebody, a restart or another program has changed the router since; the \
         promotion is over, and nobody puts it back"
    } else {
        ANOTHER_SHARE
    }
}

/// Says where the newest promotion stands; the step outputs tell a later step the same.
///
/// Reads the live router where it can be reached, and changes nothing.
pub fn status(job: &Job) -> Result<Exit, Fault> {
    let found = newest(job)?;
    tell_outputs(found.as_ref().map(|saved| &saved.record))?;
    let Some(saved) = found else {
        if job.call.json {
            print("null\n")?;
        } else {
            let place = job.state_place();
            print(&format!(
                "nothing was ever promoted to {}, by the state in {}\n",
                job.release.environment,
                place.display()
            ))?;
        }
        return Ok(Exit::Pass);
    };
    let record = saved.record;
    let live = well::live(job, &record);
    let now = RouterNow::of(&record, &live);
    if job.call.json {
        print_json(&Status { promotion: record.promotion, router_now: now })?;
        return Ok(Exit::Pass);
    }
    let mut text = String::new();
    for (depth, line) in told(job, &record, &now, live.as_ref().ok())? {
        text.push_str(&format!("{}{}\n", "  ".repeat(depth), line.replace('\n', "\n    ")));
    }
    print(&text)?;
    Ok(Exit::Pass)
}

/// The lines, each with how deep it stands.
fn told(
    job: &Job,
    record: &Record,
    now: &RouterNow,
    live: Option<&Live>,
) -> Result<Vec<(usize, String)>, Fault> {
    let (state, course, promotion) = (&record.state, &record.course, &record.promotion);
    let differs = now.differs == Some(true);
    let stands = if differs { phase_without_share(state, course) } else { phase(state, course) };
    let mut lines = vec![(0, format!("{}: {stands}", name_release(&record.release)))];
    let mut say = |line: String| lines.push((1, line));
    let epoch = promotion.epoch;
    match (now.green, &now.says) {
        (Some(green), says) => {
            say(format!("green {} (the router, now), epoch {epoch}", show_share(green)));
            if let Some(says) = says {
                say(says.clone());
            }
        }
        (None, why) => {
            say(format!("green {} by the record, epoch {epoch}", show_share(promotion.weight)));
            say(format!("the router cannot be reached from here: {}", why.as_deref().unwrap_or_default()));
        }
    }
    for stranger in live.map_or(&[][..], |live| &live.strangers) {
        say(format!("on neither side, and it gets users: {stranger}"));
    }
    if let Some(why) = &promotion.waits_for {
        say(why.clone());
    }
    for left in approvals_left(job, record)? {
        say(format!("{left} is there; the next look checks it"));
    }
    let under_way = record.outcome().0 == Outcome::InProgress;
    if let Some(at) = promotion.next_at.filter(|_| under_way) {
        say(format!("due at {}: {}", moment(at), say::command(job, "step")));
    }
    if under_way {
        say(format!("goes back to blue: {}", say::command(job, "abort")));
    }
    if state.can_be_undone() {
        say(format!("goes back to blue: {}", say::command(job, "undo")));
    }
    for way in well::ways_out(job, record, live) {
        say(way);
    }
    if let Some(left) = store(job)?.asked(Ask::Abort, epoch, record.id.as_deref()).filter(|_| under_way) {
        say(format!(
            "{} has called it off, and nobody has carried that out yet: {}",
            left.who,
            say::command(job, "step")
        ));
    }
    if store(job)?.asked(Ask::Pause, epoch, record.id.as_deref()).is_some() {
        say(format!("paused: no further step until {}", say::command(job, "resume")));
    }
    for decision in promotion.decisions.iter().rev().take(5).rev() {
        say(format!("{}  {}: {}", moment(decision.at), decision.who, decision.what));
    }
    Ok(lines)
}

/// The approvals that were left for a promotion under way, and that no gate has looked at yet.
fn approvals_left(job: &Job, record: &Record) -> Result<Vec<String>, Fault> {
    if record.promotion.waits_for.is_none() {
        return Ok(Vec::new());
    }
    let beginning = format!("approval.{}.", record.promotion.epoch);
    let given =
        |role: &str, step: usize| record.promotion.approvals.iter().any(|a| a.role == role && a.step == step);
    // Whoever may only read the state may not list: the rest of the status is true all the same.
    let found = store(job)?.kept(&beginning).unwrap_or_default();
    let left = found.into_iter().filter_map(|(name, _)| {
        let (role, step) = name.strip_prefix(&beginning)?.strip_suffix(".json")?.rsplit_once('.')?;
        let step = step.parse().ok()?;
        (!given(role, step)).then(|| format!("an approval of step {step} by {role}"))
    });
    Ok(left.collect())
}

/// What a job reads that only goes on where there is something to go on with: `due` says so, the
/// rest names the release as it was begun.
fn tell_outputs(record: Option<&Record>) -> Result<(), Fault> {
    let state = match record.map(|r| r.outcome().0) {
        None => "none",
        Some(Outcome::InProgress) => "in_progress",
        Some(Outcome::Promoted) => "promoted",
        Some(Outcome::RolledBack) => "rolled_back",
        Some(Outcome::Frozen) => "frozen",
    };
    let mut outputs =
        vec![("state", state.to_owned()), ("due", record.is_some_and(|r| !r.state.finished()).to_string())];
    if let Some(record) = record {
        outputs.push(("epoch", record.promotion.epoch.to_string()));
        outputs.push(("version", record.release.version.clone()));
        outputs.push(("commit", record.release.commit.clone().unwrap_or_default()));
    }
    ci::outputs(&outputs).map_err(|e| {
        Fault::infrastructure("the step outputs cannot be written")
            .cause(e)
            .help("look at GITHUB_OUTPUT or TRAPKEY_OUTPUT")
    })
}
