//! `promote status`: where the newest promotion stands, and what the router really does.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::machine::State;
use super::orders::{newest, print, print_json};
use super::record::{Record, moment, phase, phase_without_share, time_left};
use super::{say, store, ways_out};
use crate::evidence::{Outcome, Promotion, name_release};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::routers::{Live, same_share};
use crate::state::{Ask, Holder, Over, Worker};
use crate::units::show_share;
use crate::world::{self, ci};

/// What `promote status --json` prints: the promotion as its document has it, and what the router does now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The promotion, by the record.
    #[serde(flatten)]
    pub promotion: Promotion,
    /// The router, now.
    pub router_now: RouterNow,
    /// Who watches it; null where nothing is left to watch.
    pub watched: Option<Watched>,
}

/// Whether somebody watches a promotion that is under way, as far as can be told from here.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Watched {
    /// A job is at work; null where that cannot be told.
    pub now: Option<bool>,
    /// Nobody is, and somebody should be: the job that worked is gone, or does not renew its lease, or nobody came when
    /// a step was due.
    pub missed: bool,
    /// The same in words.
    pub says: String,
}

impl Watched {
    /// Looks at the lease of a promotion; none where nothing moves any more by itself.
    fn of(job: &Job, record: &Record) -> Option<Self> {
        record.state.action(&record.course)?;
        Some(match store(job).and_then(|store| store.worker()) {
            Ok(worker) => Self::by(&worker, record.promotion.next_at, world::now()),
            Err(fault) => Self {
                now: None,
                missed: false,
                says: format!("whether anybody watches it cannot be told: {}", fault.line()),
            },
        })
    }

    fn by(worker: &Worker, due_at: Option<Timestamp>, now: Timestamp) -> Self {
        let (watches, missed, says) = match worker {
            Worker::Works(holder, None) => {
                (true, false, format!("{} watches it, since {}", process(holder), holder.since))
            }
            Worker::Works(holder, Some(Over(at))) => (
                false,
                true,
                format!(
                    "nobody watches it: {} has the lease and has not renewed it, which ended at {}; is that process stopped?",
                    process(holder),
                    moment(*at)
                ),
            ),
            Worker::Gone(holder, over) => {
                let over = over.map(|Over(at)| format!("; its lease ended at {}", moment(at)));
                let what =
                    format!("nobody watches it: {}, is gone, and has not ended in order", process(holder));
                (false, true, what + &over.unwrap_or_default())
            }
            Worker::Nobody => match due_at.filter(|at| *at < now) {
                Some(at) => (
                    false,
                    true,
                    format!("nobody watches it: nobody came when a step was due, at {}", moment(at)),
                ),
                None => (false, false, "no job is at work on it now: each step is a call of its own".into()),
            },
        };
        Self { now: Some(watches), missed, says }
    }
}

/// Who that is, in words.
fn process(holder: &Holder) -> String {
    let url = holder.url.as_ref().map(|url| format!(", {url}")).unwrap_or_default();
    format!("the job of {} (process {} on {}{url})", holder.actor, holder.pid, holder.host)
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
    let watched = found.as_ref().and_then(|saved| Watched::of(job, &saved.record));
    tell_outputs(found.as_ref().map(|saved| &saved.record), watched.as_ref())?;
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
    let live = ways_out::live(job, &record);
    let now = RouterNow::of(&record, &live);
    if job.call.json {
        print_json(&Status { promotion: record.promotion, router_now: now, watched })?;
        return Ok(Exit::Pass);
    }
    let mut text = String::new();
    for (depth, line) in told(job, &record, &now, live.as_ref().ok(), watched.as_ref())? {
        text.push_str(&format!("{}{}\n", "  ".repeat(depth), line.replace('\n', "\n    ")));
    }
    print(&text)?;
    Ok(Exit::Pass)
}

/// So many of the newest decisions are shown.
const DECISIONS: usize = 5;

/// The lines, each with how deep it stands.
fn told(
    job: &Job,
    record: &Record,
    now: &RouterNow,
    live: Option<&Live>,
    watched: Option<&Watched>,
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
    if let State::Baking { step, since_ms } = state {
        let until_ms = since_ms.saturating_add(course.bake_ms(*step));
        say(format!("this step's bake: {}", time_left(until_ms - world::now().as_millisecond())));
    }
    if let Some(why) = &promotion.waits_for {
        say(why.clone());
    }
    for left in approvals_left(job, record)? {
        say(format!("{left} is there; the next look checks it"));
    }
    let under_way = record.outcome().0 == Outcome::InProgress;
    if let Some(watched) = watched.filter(|watched| under_way || watched.now == Some(true)) {
        say(watched.says.clone());
        if watched.missed {
            say(format!("goes on, and watches it to its end: {}", say::command(job, "run")));
        }
    }
    if let Some(at) = promotion.next_at.filter(|_| under_way) {
        say(format!("due at {}: {}", moment(at), say::command(job, "step")));
    }
    if under_way {
        say(format!("goes back to blue: {}", say::command(job, "abort")));
    }
    if state.can_be_undone() {
        say(format!("goes back to blue: {}", say::command(job, "undo")));
    }
    for way in ways_out::ways_out(job, record, live) {
        say(way);
    }
    if let Some(left) = store(job)?.asked(Ask::Abort, epoch, record.id.as_deref()).filter(|_| under_way) {
        say(format!(
            "{} has called it off, and nobody has carried that out yet: {}",
            left.who,
            say::command(job, "step")
        ));
    }
    if under_way && store(job)?.asked(Ask::Pause, epoch, record.id.as_deref()).is_some() {
        say(format!("paused: no further step until {}", say::command(job, "resume")));
    }
    let earlier = promotion.decisions.len().saturating_sub(DECISIONS);
    if earlier > 0 {
        say(format!("{earlier} earlier, see `promote status --json`; the newest:"));
    }
    for decision in &promotion.decisions[earlier..] {
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

/// Whether it is a commit and nothing else: a job checks it out, and the state that it is from is not signed.
/// The name of a branch, of a tag or of somebody's pull request would be another one tomorrow.
fn names_a_commit(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What a job reads that only goes on where there is something to go on with: `due` says so, the
/// rest names the release as it was begun.
fn tell_outputs(record: Option<&Record>, watched: Option<&Watched>) -> Result<(), Fault> {
    let state = match record.map(|r| r.outcome().0) {
        None => "none",
        Some(Outcome::InProgress) => "in_progress",
        Some(Outcome::Promoted) => "promoted",
        Some(Outcome::RolledBack) => "rolled_back",
        Some(Outcome::Frozen) => "frozen",
    };
    let mut outputs =
        vec![("state", state.to_owned()), ("due", record.is_some_and(|r| !r.state.finished()).to_string())];
    if let Some(watched) = watched {
        outputs.push(("watched", watched.now.map_or("unknown".into(), |now| now.to_string())));
        outputs.push(("missed", watched.missed.to_string()));
    }
    if let Some(record) = record {
        outputs.push(("epoch", record.promotion.epoch.to_string()));
        outputs.push(("version", record.release.version.clone()));
        let commit = record.release.commit.as_deref().filter(|commit| names_a_commit(commit));
        outputs.push(("commit", commit.unwrap_or_default().to_owned()));
    }
    ci::outputs(&outputs).map_err(|e| {
        Fault::infrastructure("the step outputs cannot be written")
            .cause(e)
            .help("look at GITHUB_OUTPUT or TRAPKEY_OUTPUT")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_commit_is_told_to_the_job_that_checks_it_out() {
        assert!(names_a_commit(&"a1".repeat(20)) && names_a_commit(&"0f".repeat(32)));
        let wrong = ["", "main", "refs/pull/7/merge", "v1.4.2", "abc1234", "HEAD", "--upload-pack=x", "a\nb"];
        let long = ["A1".repeat(20), "g1".repeat(20), "a1".repeat(19), "a1".repeat(21), " ".repeat(40)];
        for wrong in wrong.iter().map(|w| (*w).to_owned()).chain(long) {
            assert!(!names_a_commit(&wrong), "{wrong:?}");
        }
    }
}
