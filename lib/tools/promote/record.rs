//! What a promotion remembers between two calls, and how it becomes the evidence.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::machine::{Course, Hook, State, Step, Stuck};
use super::say::{self, KeptFlags};
use super::way_back::Began;
use crate::evidence::{
    Decision, DocumentVerdict, Finding, Need, Outcome, PlanRef, Promotion, Release, StepRecord, Used,
    Verdict, name_release,
};
use crate::job::Job;
use crate::plan::{Kept, Promote, Strategy, Undecided};
use crate::routers::{Before, Counters};
use crate::units::{show_duration, show_share};
use crate::world;

/// The record of an environment's newest promotion.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// By chance: no two promotions have the same, also where their numbers began anew.
    #[serde(default)]
    pub id: Option<String>,
    /// What is released.
    pub release: Release,
    /// Under which plan.
    pub plan: PlanRef,
    /// What is kept of that plan, so that whoever takes it back needs neither its variables nor its file.
    #[serde(default)]
    pub kept: Option<Kept>,
    /// Where and by which flags it was begun.
    #[serde(default)]
    pub kept_flags: Option<KeptFlags>,
    /// With which values of the plan's variables.
    #[serde(default)]
    pub used: Used,
    /// On which evidence.
    pub needs: Vec<Need>,
    /// The id of the snapshot that it began with.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The release that served before, and its way back.
    #[serde(default)]
    pub served_before: Option<Began>,
    /// What does not change.
    pub course: Course,
    /// Where it stands.
    pub state: State,
    /// What the router had counted when the watched step began.
    pub base: Option<Counters>,
    /// What it had counted when an interval was last put on record.
    #[serde(default)]
    pub counted: Option<Counters>,
    /// What the release header says on blue and on green.
    pub markers: Markers,
    /// When the promotion began.
    pub began_at: Timestamp,
    /// The clocks when this was written.
    #[serde(default)]
    pub clocks: Option<Clocks>,
    /// Which counting the watched step is in: it begins anew with each change of weight.
    #[serde(default)]
    pub counting: u64,
    /// What people had set on the router when it began, and since: it is left, or given back.
    #[serde(default)]
    pub before: Before,
    /// All of blue was taken out by people at the last look.
    #[serde(default)]
    pub blue_is_out: bool,
    /// What of blue's weights people have taken, in words: they are left so until the promotion is resumed.
    #[serde(default)]
    pub spared: Option<String>,
    /// How often the weight of the watched step was put back.
    #[serde(default)]
    pub put_back: u32,
    /// Since when the old side had no more requests than it may, while it waits to be retired.
    #[serde(default)]
    pub quiet: Option<Quiet>,
    /// Who has accepted it as it stands, and why.
    #[serde(default)]
    pub accepted: Option<String>,
    /// The evidence so far.
    pub promotion: Promotion,
}

/// Since when the old side is quiet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quiet {
    /// Since when, in ms.
    pub since_ms: i64,
    /// What it had counted then.
    pub requests: u64,
    /// The start of the router that counted it.
    pub instance: String,
}

/// What the release header says on each side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Markers {
    /// On the old side.
    pub blue: Option<String>,
    /// On the new side; known once it is up.
    pub green: Option<String>,
}

/// The clocks of the machine that wrote a record: what has passed since tells whether the wall clock
/// was set meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clocks {
    /// Which start of which machine.
    pub boot: String,
    /// How long it had run, in ms.
    pub uptime_ms: i64,
    /// Its wall clock, in ms.
    pub wall_ms: i64,
}

/// A difference between the clocks that is no setting of one of them, in ms.
const CLOCKS_DRIFT_MS: i64 = 2_000;

impl Clocks {
    /// The clocks of this machine, now.
    pub(super) fn read() -> Self {
        Self {
            boot: world::clock(),
            uptime_ms: millis(world::uptime()),
            wall_ms: world::now().as_millisecond(),
        }
    }

    /// By how much the wall clock was set between two readings on the same machine, in ms; none when
    /// it was not, or when that cannot be told.
    pub(super) fn set_by(&self, now: &Self) -> Option<i64> {
        if self.boot.is_empty() || self.boot != now.boot {
            return None;
        }
        let by = (now.wall_ms - self.wall_ms) - (now.uptime_ms - self.uptime_ms);
        (by.abs() > CLOCKS_DRIFT_MS).then_some(by)
    }
}

/// The course that a plan describes.
pub(super) fn course_of(plan: &Promote) -> Course {
    let mut steps: Vec<Step> = plan
        .steps
        .iter()
        .map(|step| Step {
            weight: step.weight.0,
            bake_ms: step.bake.map_or(0, |b| millis(b.0)),
            gated: plan.calendar.is_some() || !step.approve.is_empty(),
        })
        .collect();
    if steps.is_empty() && plan.strategy == Strategy::BlueGreen {
        steps.push(Step { weight: 1.0, bake_ms: 0, gated: plan.calendar.is_some() });
    }
    let hooks = [
        (Hook::Deploy, &plan.hooks.deploy),
        (Hook::After, &plan.hooks.after),
        (Hook::OnRollback, &plan.hooks.on_rollback),
        (Hook::Retire, &plan.hooks.retire),
    ];
    Course {
        steps,
        keep_ms: plan.keep_old.map_or(0, |s| millis(s.0)),
        undecided_ms: match plan.judge.undecided {
            Undecided::RollBack => plan.undecided_for.map_or(600_000, |s| millis(s.0)),
            Undecided::Freeze | Undecided::Wait => i64::MAX,
        },
        hooks: hooks.iter().filter(|(_, argv)| !argv.is_empty()).map(|(hook, _)| *hook).collect(),
    }
}

pub(super) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The word for a strategy.
pub(super) fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Canary => "canary",
        Strategy::BlueGreen => "blue_green",
    }
}

/// The steps of a course, none reached yet.
pub(super) fn steps_of(course: &Course) -> Vec<StepRecord> {
    let record = |step: &Step| StepRecord {
        weight: step.weight,
        bake_s: step.bake_ms as f64 / 1e3,
        began_at: None,
        ended_at: None,
        verdict: None,
    };
    course.steps.iter().map(record).collect()
}

impl Record {
    /// A call about this promotion: its documents speak of what is under way, and not of what the plan would begin
    /// here and now.
    pub(super) fn job(&self, job: &Job) -> Job {
        Job { release: self.release.clone(), used: self.used.clone(), ..job.clone() }
    }

    /// The plan's folder when it was begun, where that is still there on this machine.
    pub(super) fn folder(&self) -> Option<&Path> {
        let flags = self.kept_flags.as_ref().filter(|flags| flags.host == world::host_name())?;
        Some(flags.folder.as_path()).filter(|folder| folder.is_dir())
    }

    /// Puts a decision on record.
    pub(super) fn decided(&mut self, at: Timestamp, who: &str, what: impl Into<String>) {
        self.promotion.decisions.push(Decision { at, who: who.into(), what: what.into() });
    }

    /// Whether another record is of the same promotion, on the same router and the same sides of it.
    pub(super) fn steers_the_same(&self, other: &Self) -> bool {
        let router = |record: &Self| {
            let router = &record.promotion.router;
            (router.kind.clone(), router.target.clone(), router.identity.clone())
        };
        let sides = |record: &Self| (record.promotion.blue.url.clone(), record.promotion.green.url.clone());
        self.id == other.id
            && self.promotion.epoch == other.promotion.epoch
            && router(self) == router(other)
            && sides(self) == sides(other)
    }

    /// How it stands, for the document and the people.
    pub(super) fn outcome(&self) -> (Outcome, Option<String>) {
        match &self.state {
            state if state.serves() => (Outcome::Promoted, None),
            State::RolledBack { reason } => (Outcome::RolledBack, Some(reason.clone())),
            State::Frozen { reason, stuck } => {
                let why = match stuck {
                    Stuck::OldSideSick => "the old side is not healthy either, so traffic stays where it is",
                    Stuck::RouterLost => {
                        "the router does not do what it is told, and where traffic goes is not proven"
                    }
                };
                (Outcome::Frozen, Some(format!("{reason}; {why}: people must act")))
            }
            _ => (Outcome::InProgress, None),
        }
    }

    /// The document's verdict and its sentence. Its commands are run in the folder that the promotion was begun in.
    pub(super) fn verdict(&self) -> (DocumentVerdict, String) {
        self.verdict_with(&|verb| say::command_of(self, verb))
    }

    /// The same with commands as somebody needs them.
    pub(super) fn verdict_with(&self, command: &dyn Fn(&str) -> String) -> (DocumentVerdict, String) {
        let release = name_release(&self.release);
        let (outcome, reason) = self.outcome();
        let reason = reason.unwrap_or_default();
        match (outcome, &self.state) {
            (Outcome::Promoted, _) => {
                let looks = self.promotion.judgements.len();
                let kept = match (&self.state, self.promotion.next_at) {
                    (State::KeepingBlue { .. }, Some(until)) => {
                        let undo = command("undo");
                        format!("; blue is kept until {}, `{undo}` goes back to it", moment(until))
                    }
                    _ => String::new(),
                };
                if let Some(accepted) = &self.accepted {
                    let said = format!("{release}: green serves everything, {accepted}{kept}");
                    return (DocumentVerdict::Pass, said);
                }
                let unseen = match self.steps_without_users().as_slice() {
                    [] => String::new(),
                    steps => format!("; no user's request was on green in step {}", steps.join(", ")),
                };
                (
                    DocumentVerdict::Pass,
                    format!(
                        "{release}: green serves everything after {} steps and {looks} judgements{unseen}{kept}",
                        self.course.steps.len()
                    ),
                )
            }
            (Outcome::RolledBack, _) => {
                (DocumentVerdict::Fail, format!("{release} was rolled back: {reason}"))
            }
            (Outcome::Frozen, State::Frozen { stuck: Stuck::RouterLost, .. }) => {
                (DocumentVerdict::Error, format!("{release} stands still: {reason}"))
            }
            (Outcome::Frozen, _) => (DocumentVerdict::Fail, format!("{release} stands still: {reason}")),
            (Outcome::InProgress, state) => {
                let waits = self.promotion.waits_for.as_ref().map(|why| format!("; {why}"));
                let step = command("step");
                let again = self.promotion.next_at.map(|at| format!("; `{step}` is due at {}", moment(at)));
                let rest = waits.unwrap_or_default() + &again.unwrap_or_default();
                (
                    DocumentVerdict::Undecided,
                    format!("{release} is under way: {}{rest}", phase(state, &self.course)),
                )
            }
        }
    }

    /// The steps, from 1, in which the router counted no user's request on green.
    fn steps_without_users(&self) -> Vec<String> {
        let judged = |step: usize| self.promotion.judgements.iter().rev().find(|j| j.step == step);
        let seen = |step: usize| judged(step)?.front_door.as_ref()?.users_on_green;
        (1..=self.course.steps.len())
            .filter(|step| seen(*step) == Some(0))
            .map(|step| step.to_string())
            .collect()
    }

    /// One finding for each preview check, each step that was reached, and one for the end.
    pub(super) fn findings(&self, now: Timestamp) -> Vec<Finding> {
        let preview = self.promotion.preview.iter().cloned();
        let mut findings: Vec<Finding> =
            preview.map(|f| Finding { name: format!("preview: {}", f.name), ..f }).collect();
        for (number, step) in self.promotion.steps.iter().enumerate() {
            let (Some(began), Some(verdict)) = (step.began_at, step.verdict) else { continue };
            let name = format!("step {}: {}", number + 1, show_share(step.weight));
            let mut finding = Finding::new(name, "step", verdict, began);
            let shift = self.promotion.shifts.iter().rev().find(|s| s.why == format!("step {}", number + 1));
            if let Some(shift) = shift {
                finding.observed = Some(show_share(shift.read_back));
                finding.value = Some(shift.read_back * 100.0);
                finding.unit = Some("%".into());
            }
            finding.expected = Some(show_share(step.weight));
            let last = self.promotion.judgements.iter().rev().find(|j| j.step == number + 1);
            let ended = step.ended_at.unwrap_or(now);
            finding.duration_ms = between_ms(began, ended);
            finding.samples = last.and_then(|j| j.metrics.iter().map(|m| m.green_samples).max());
            finding.message = match last {
                Some(judgement) => judgement.summary.clone(),
                None => "in force, read back and probed".into(),
            };
            findings.push(finding);
        }
        let (document, sentence) = self.verdict();
        let verdict = match document {
            DocumentVerdict::Pass => Verdict::Pass,
            DocumentVerdict::Fail => Verdict::Fail,
            DocumentVerdict::Error => Verdict::Error,
            DocumentVerdict::Undecided => Verdict::NoData,
        };
        findings.push(Finding::new("promotion", "promote", verdict, now).says(sentence));
        findings
    }
}

/// A moment, for people.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Milliseconds from one moment to another.
pub(super) fn between_ms(from: Timestamp, to: Timestamp) -> f64 {
    (to.as_nanosecond() - from.as_nanosecond()) as f64 / 1e6
}

/// What is left of a bake, in words.
pub(super) fn time_left(ms: i64) -> String {
    if ms > 0 {
        format!("{} left", show_duration((ms as f64 / 1e3).ceil()))
    } else {
        "its time is over".into()
    }
}

/// Where a promotion stands, in words that name no share: for where the router has another one.
pub(super) fn phase_without_share(state: &State, course: &Course) -> String {
    let of = course.steps.len();
    match state {
        State::Shifting { step } => format!("step {} of {of} is to be put in force", step + 1),
        State::Baking { step, .. } => format!("step {} of {of} is watched", step + 1),
        State::RetiringBlue => "the last step is over, blue is drained".into(),
        State::RunningAfter { .. } => "the last step is over, the after hook runs".into(),
        State::KeepingBlue { .. } => "promoted, blue is kept".into(),
        State::RunningRetire { .. } => "promoted, the retire hook runs".into(),
        State::Promoted => "promoted".into(),
        other => phase(other, course),
    }
}

/// Where a promotion stands, in words.
pub(super) fn phase(state: &State, course: &Course) -> String {
    let share = |step: &usize| course.steps.get(*step).map_or(String::new(), |s| show_share(s.weight));
    match state {
        State::Deploying { .. } => "green is being deployed".into(),
        State::Holding => "waits for the gate before step 1".into(),
        State::CheckingGreen => "green's health is looked at".into(),
        State::Shifting { step } => format!("step {} puts {} on green", step + 1, share(step)),
        State::Baking { step, .. } => {
            let bake = course.steps.get(*step).map_or(0, |s| s.bake_ms);
            format!(
                "step {} watches {} on green for {}",
                step + 1,
                share(step),
                show_duration(bake as f64 / 1e3)
            )
        }
        State::RetiringBlue => "green has everything, blue is drained".into(),
        State::RunningAfter { .. } => "green has everything, the after hook runs".into(),
        State::KeepingBlue { until_ms } => {
            let until = until_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
            let until = until.map(|at| format!(" until {}", moment(at)));
            format!("green serves everything, blue is kept{}", until.unwrap_or_default())
        }
        State::RunningRetire { .. } => "green serves everything, the retire hook runs".into(),
        State::Accepting { reason } => format!("{reason}: all traffic to green"),
        State::CheckingBlue { reason } => format!("going back ({reason}): blue's health is looked at"),
        State::RollingBack { reason } => format!("going back ({reason}): all traffic to blue"),
        State::RetiringGreen { reason } => format!("went back ({reason}): green is drained"),
        State::RunningOnRollback { reason, .. } => format!("went back ({reason}): the rollback hook runs"),
        State::Promoted => "green serves everything".into(),
        State::RolledBack { reason } => format!("rolled back: {reason}"),
        State::Frozen { reason, .. } => format!("stands still: {reason}"),
    }
}
