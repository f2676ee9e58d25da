//! `promote approve`: signs an approval and leaves it where the gate finds it.

use std::path::Path;

use super::approval::{self, Order, Wanted};
use super::record::Record;
use super::{begin, orders, say, store};
use crate::evidence::{
    self, Approval, ApprovalBody, ApprovalRecord, Body, Need, Outcome, PromoteBody, Release, Used,
    name_release,
};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::plan::Promote;
use crate::signature::SigningKey;
use crate::units::{Span, show_share};
use crate::world;
use crate::world::files::{unwritable, write_atomic};
use crate::world::talk::Mark;

/// What somebody approves, as the command line says it.
#[derive(Clone, Debug)]
pub struct Approve<'a> {
    /// The role.
    pub role: &'a str,
    /// The step, from 1; the next one that asks the role when absent.
    pub step: Option<usize>,
    /// The private key; the one of `--sign-key` when absent.
    pub key: Option<&'a Path>,
    /// Why.
    pub reason: Option<String>,
    /// How long it counts.
    pub expires_in: Option<Span>,
}

/// Signs an approval of a step of the promotion that is under way.
///
/// Errors: no key, or no step that asks the role (2); nothing is under way, or under another plan, or
/// the key may not approve for the role (5); it cannot be left beside the state (4).
pub fn approve(job: &Job, asked: Approve<'_>) -> Result<Exit, Fault> {
    let plan = begin::section(job)?;
    let about = About::of(job)?;
    // It is about what is under way, and not about what the plan would begin here and now.
    let job = &Job { release: about.release.clone(), used: about.used.clone(), ..job.clone() };
    let step = match asked.step {
        Some(step) => step,
        None => next_step(&about, plan, asked.role),
    };
    if !asks(plan, step, asked.role) {
        return Err(nobody_asks(plan, asked.role, asked.step));
    }
    let key = match asked.key {
        Some(path) => SigningKey::read(path)?,
        None => job.call.sign.clone().ok_or_else(|| {
            Fault::usage("an approval needs a key that signs it")
                .help("name it with --key FILE: `openssl genpkey -algorithm ed25519 -out ann.pem` makes one")
        })?,
    };
    let now = world::now();
    let expires_at = asked.expires_in.and_then(|span| now.checked_add(span.0).ok());
    let epoch = about.epoch;
    let order = Order {
        epoch,
        promotion: about.id.clone(),
        role: asked.role.into(),
        step: Some(step),
        reason: asked.reason,
        expires_at,
        needs: about.needs.clone(),
    };
    let bytes = approval::write(job, order, &key)?;
    if let Some(trust) = &job.call.trust {
        let wanted = about.wanted(plan, asked.role, step, now);
        let checked = approval::check(&bytes, trust, &wanted).and_then(|approved| {
            let mut others = about.approvals.iter().filter(|a| a.step == step && a.role != asked.role);
            match others.find(|other| plan.distinct && other.who == approved.who) {
                Some(other) => Err(one_person(&approved.who, &other.role)),
                None => Ok(()),
            }
        });
        checked.map_err(|cause| {
            Fault::refused("this approval would not count")
                .cause(cause)
                .help("see `promote.approvers` in the plan and the folder of --trust")
        })?;
    }
    let file = ApprovalBody::file(asked.role, step);
    let path = job.evidence().join(&file);
    write_atomic(&path, &bytes).map_err(|e| unwritable(&path, &e))?;
    if about.by_state {
        store(job)?.keep(&kept_name(epoch, asked.role, step), &bytes)?;
    }
    let share = about.weights.get(step - 1).map(|weight| show_share(*weight)).unwrap_or_default();
    let look = say::command(job, "step");
    let next = match &job.call.trust {
        _ if !about.by_state => format!(
            "the promote state is not here: bring {} into the evidence folder of the job that goes on, or post it to \
             `promote listen`",
            path.display()
        ),
        Some(_) => format!("it counts from the next look on: {look}"),
        None => format!("not checked, for no --trust says whose keys count: the next look does: {look}"),
    };
    job.talk().line(
        Mark::Good,
        &format!(
            "{} approved step {step} ({share} on green) of {}; {next}",
            asked.role,
            name_release(&about.release)
        ),
    );
    Ok(Exit::Pass)
}

/// Takes an approval that was signed elsewhere, and leaves it where the gate finds it. Returns what was
/// approved, in words.
///
/// Errors (5): there is no trust to hold it against, nothing is under way, or it would not count;
/// it cannot be left beside the state (4).
pub(super) fn receive(job: &Job, bytes: &[u8]) -> Result<String, Fault> {
    let refused = |cause: String| Fault::refused("this approval does not count").cause(cause);
    let trust = job.call.trust.as_ref().ok_or_else(|| {
        refused("nothing says whose keys count".into()).help("start `promote listen` with --trust")
    })?;
    let record = under_way(job)?;
    let found = evidence::parse::<ApprovalBody>(bytes, "the approval", Some(trust))?;
    let Approval { role, step, who, .. } =
        found.document.body.approval.ok_or_else(|| refused("it approves nothing".into()))?;
    let step = step.ok_or_else(|| refused("it names no step".into()))?;
    let plan = begin::section(job)?;
    if !asks(plan, step, &role) {
        return Err(nobody_asks(plan, &role, Some(step)));
    }
    approval::check(bytes, trust, &wanted(&record, plan, &role, step, world::now())).map_err(refused)?;
    store(job)?.keep(&kept_name(record.promotion.epoch, &role, step), bytes)?;
    Ok(format!("approval of step {step} of {} as {role}, written by {who}", name_release(&record.release)))
}

/// The name of an approval beside the state.
pub(super) fn kept_name(epoch: u64, role: &str, step: usize) -> String {
    format!("approval.{epoch}.{role}.{step}.json")
}

/// What the gate before a step (from 1) wants.
pub(super) fn wanted<'a>(
    record: &'a Record,
    plan: &'a Promote,
    role: &'a str,
    step: usize,
    now: jiff::Timestamp,
) -> Wanted<'a> {
    Wanted {
        approvers: &plan.approvers,
        release: &record.release,
        plan: &record.plan.sha256,
        epoch: record.promotion.epoch,
        promotion: record.id.as_deref(),
        role,
        step,
        needs: approval::begun_with(&record.needs),
        now,
    }
}

/// Why a second approval of the same person opens nothing.
pub(super) fn one_person(who: &str, role: &str) -> String {
    format!(
        "{who} has approved this step as {role} already, and the roles of a step want different people (`distinct`)"
    )
}

/// The promotion that is approved: by the state or, where that is not here, by its document.
struct About {
    release: Release,
    plan: String,
    used: Used,
    epoch: u64,
    id: Option<String>,
    needs: Vec<Need>,
    approvals: Vec<ApprovalRecord>,
    weights: Vec<f64>,
    by_state: bool,
}

impl About {
    /// Errors (5): nothing is under way, or under another plan; neither the state nor the document is here.
    fn of(job: &Job) -> Result<Self, Fault> {
        if let Ok(None) = orders::newest(job) {
            return Self::of_document(job);
        }
        let record = under_way(job)?;
        Ok(Self {
            plan: record.plan.sha256.clone(),
            used: record.used.clone(),
            epoch: record.promotion.epoch,
            id: record.id.clone(),
            needs: approval::begun_with(&record.needs),
            approvals: record.promotion.approvals.clone(),
            weights: record.course.steps.iter().map(|step| step.weight).collect(),
            release: record.release,
            by_state: true,
        })
    }

    fn of_document(job: &Job) -> Result<Self, Fault> {
        let state = job.state_place().display().to_string();
        let nothing = |cause: String| {
            Fault::refused("nothing that could be approved is under way here")
                .place(format!("{state}, {}", job.evidence().join(PromoteBody::FILE).display()))
                .cause(cause)
                .help(
                    "name the promote state with --state, or bring `promote.json` of the waiting promotion into the \
                     evidence folder",
                )
        };
        let found = job
            .read::<PromoteBody>()
            .map_err(|fault| nothing(format!("the state has no promotion, and {}", fault.line())))?;
        let head = found.document.head;
        let promotion = found.document.body.promotion.filter(|p| p.outcome == Outcome::InProgress);
        let promotion = promotion.ok_or_else(|| nothing(format!("`promote.json` says: {}", head.summary)))?;
        let (release, plan) =
            head.release.zip(head.plan).ok_or_else(|| nothing("it names no release".into()))?;
        if plan.sha256 != job.loaded.reference.sha256 {
            return Err(another_plan(job, &release));
        }
        if release.service != job.release.service || release.environment != job.release.environment {
            return Err(nothing(format!("`promote.json` is about {}", name_release(&release))));
        }
        Ok(Self {
            plan: plan.sha256,
            used: head.variables,
            epoch: promotion.epoch,
            id: promotion.id,
            needs: approval::begun_with(&head.needs),
            approvals: promotion.approvals,
            weights: promotion.steps.iter().map(|step| step.weight).collect(),
            release,
            by_state: false,
        })
    }

    fn wanted<'a>(
        &'a self,
        plan: &'a Promote,
        role: &'a str,
        step: usize,
        now: jiff::Timestamp,
    ) -> Wanted<'a> {
        Wanted {
            approvers: &plan.approvers,
            release: &self.release,
            plan: &self.plan,
            epoch: self.epoch,
            promotion: self.id.as_deref(),
            role,
            step,
            needs: self.needs.clone(),
            now,
        }
    }
}

fn another_plan(job: &Job, release: &Release) -> Fault {
    Fault::refused("the plan is not the one that this promotion began with")
        .place(&job.loaded.reference.path)
        .cause(format!("{} began under another text of it", name_release(release)))
        .help("approve under the plan that it began with: an approval is about exactly that plan")
}

fn under_way(job: &Job) -> Result<Record, Fault> {
    let record = orders::running(job)?.record;
    if record.state.finished() || record.state.serves() {
        return Err(orders::finished(job, &record));
    }
    if record.plan.sha256 != job.loaded.reference.sha256 {
        return Err(another_plan(job, &record.release));
    }
    Ok(record)
}

fn asks(plan: &Promote, step: usize, role: &str) -> bool {
    let step = step.checked_sub(1).and_then(|index| plan.steps.get(index));
    step.is_some_and(|step| step.approve.iter().any(|r| r == role))
}

/// The first step that asks the role and has not got its approval; 0 for none.
fn next_step(about: &About, plan: &Promote, role: &str) -> usize {
    let now = world::now();
    let given = |step: usize| {
        let mut all = about.approvals.iter();
        all.any(|a| a.step == step && a.role == role && a.expires_at.is_none_or(|end| end > now))
    };
    (1..=plan.steps.len()).find(|step| asks(plan, *step, role) && !given(*step)).unwrap_or(0)
}

fn nobody_asks(plan: &Promote, role: &str, step: Option<usize>) -> Fault {
    let what = match step {
        Some(step) => format!("step {step} asks no approval of `{role}`"),
        None => format!("no step asks an approval of `{role}` any more"),
    };
    let asking: Vec<String> = (1..)
        .zip(&plan.steps)
        .filter(|(_, step)| !step.approve.is_empty())
        .map(|(number, step)| format!("step {number}: {}", step.approve.join(", ")))
        .collect();
    let help =
        if asking.is_empty() { "no step of the plan asks for an approval".into() } else { asking.join("; ") };
    Fault::usage(what).help(help)
}
