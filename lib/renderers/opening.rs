//! The verdict in one sentence: how the release ended, why, and what a reader should know first.

use serde::Serialize;

use super::documents::Documents;
use super::escape::{clip, comparison, one_line};
use super::figures::{Total, totals};
use super::words::{Mark, count, date, lasted, many, ms, sentence, stop};
use crate::evidence::{Body, Counts, DocumentVerdict, Finding, Found, Outcome, Promotion};
use crate::units::show_share;

/// How the report opens.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Opening {
    /// `promoted`, `rolled_back`, `in_progress`, `frozen` or `stopped`.
    pub(super) outcome: &'static str,
    pub(super) badge: Mark,
    /// Why, where it did not go well: it stands first.
    pub(super) reason: Option<String>,
    pub(super) headline: String,
    pub(super) lead: String,
}

/// A gate in front of promote that did not open.
struct Closed<'a> {
    name: &'static str,
    verdict: DocumentVerdict,
    summary: &'a str,
    findings: &'a [Finding],
}

/// Reads the outcome from the documents.
pub(super) fn opening(documents: &Documents) -> Opening {
    let promotion = promotion(documents);
    let mut opening = match promotion {
        Some(promotion) => moved(documents, promotion),
        None => unmoved(documents),
    };
    opening.headline = clip(&one_line(&opening.headline), 300);
    opening.reason = opening.reason.map(|r| clip(&one_line(&r), 1000));
    opening.lead = clip(&one_line(&opening.lead), 2000);
    opening
}

/// The promotion, where one was begun.
pub(super) fn promotion(documents: &Documents) -> Option<&Promotion> {
    documents.promote.as_ref()?.document.body.promotion.as_ref()
}

fn subject(documents: &Documents) -> String {
    format!("{} {}", documents.release.service, documents.release.version)
}

/// `blue 1.4.1`, or `blue` where its version is not known.
pub(super) fn old_side(documents: &Documents) -> String {
    let seen = promotion(documents).and_then(|p| p.blue.version.as_ref());
    match seen.or(documents.release.previous.as_ref()) {
        Some(version) => format!("blue {version}"),
        None => "blue".into(),
    }
}

fn moved(documents: &Documents, promotion: &Promotion) -> Opening {
    let (subject, place) = (subject(documents), &documents.release.environment);
    let share = show_share(promotion.weight);
    let reason = promotion.reason.as_ref().map(|r| sentence(&stop(r)));
    match promotion.outcome {
        Outcome::Promoted => promoted(documents, promotion),
        Outcome::RolledBack => Opening {
            outcome: "rolled_back",
            badge: Mark::new("fail", "Rolled back"),
            reason,
            headline: format!(
                "{subject} was rolled back; {} serves all of {place} again",
                old_side(documents)
            ),
            lead: join([
                back_in(promotion),
                judged(promotion),
                verified(documents),
                missing(documents),
                run_by(documents),
            ]),
        },
        Outcome::Frozen => Opening {
            outcome: "frozen",
            badge: Mark::new("warn", "Frozen"),
            reason,
            headline: format!("{subject} stands still at {share} of {place} until somebody decides"),
            lead: join([progress(promotion), judged(promotion), run_by(documents)]),
        },
        Outcome::InProgress => Opening {
            outcome: "in_progress",
            badge: Mark { tone: "none", sign: "…", word: "In progress".into() },
            reason,
            headline: format!("{subject} has {share} of {place}"),
            lead: join([
                waits(promotion),
                progress(promotion),
                checks(documents),
                judged(promotion),
                run_by(documents),
            ]),
        },
    }
}

fn promoted(documents: &Documents, promotion: &Promotion) -> Opening {
    let (subject, place) = (subject(documents), &documents.release.environment);
    let verify = documents.verify.as_ref().map(|v| &v.document.head);
    let doubt = verify.filter(|head| head.verdict != DocumentVerdict::Pass);
    let lead = join([
        kept(documents, promotion),
        progress(promotion),
        checks(documents),
        judged(promotion),
        run_by(documents),
    ]);
    let unknown = missing(documents);
    match doubt {
        None if unknown.is_some() => Opening {
            outcome: "promoted",
            badge: Mark::new("warn", "Promoted, not verified"),
            reason: unknown.map(|why| sentence(&stop(&why))),
            headline: format!("{subject} serves all of {place}, and nobody has verified it"),
            lead,
        },
        None => Opening {
            outcome: "promoted",
            badge: Mark::new("pass", "Promoted"),
            reason: None,
            headline: format!("{subject} serves all of {place}"),
            lead,
        },
        Some(head) => Opening {
            outcome: "promoted",
            badge: Mark::new("fail", "Promoted, not verified"),
            reason: Some(sentence(&stop(&format!("verify says {}: {}", head.verdict.word(), head.summary)))),
            headline: format!("{subject} serves all of {place}, but did not pass verify"),
            lead,
        },
    }
}

fn unmoved(documents: &Documents) -> Opening {
    let (subject, place) = (subject(documents), &documents.release.environment);
    let gates = [
        closed(documents.preflight.as_ref(), "preflight"),
        closed(documents.snapshot.as_ref(), "snapshot"),
        closed(documents.drill.as_ref(), "drill"),
        closed(documents.promote.as_ref(), "promote"),
        closed(documents.verify.as_ref(), "verify"),
    ];
    match gates.into_iter().flatten().next() {
        Some(gate) => Opening {
            outcome: "stopped",
            badge: Mark::new("fail", "Stopped"),
            reason: Some(gate.reason()),
            headline: format!("{subject} was not released to {place}: {}", gate.state()),
            lead: join([checks(documents), untouched(documents), run_by(documents)]),
        },
        None => Opening {
            outcome: "in_progress",
            badge: Mark { tone: "none", sign: "…", word: "In progress".into() },
            reason: None,
            headline: format!("{subject} has not moved into {place} yet"),
            lead: join([checks(documents), untouched(documents), to_come(documents), run_by(documents)]),
        },
    }
}

fn closed<'a, B: Body>(found: Option<&'a Found<B>>, name: &'static str) -> Option<Closed<'a>> {
    let head = &found?.document.head;
    (head.verdict != DocumentVerdict::Pass).then_some(Closed {
        name,
        verdict: head.verdict,
        summary: &head.summary,
        findings: &head.findings,
    })
}

impl Closed<'_> {
    /// What closed it: the first check that did, and how many more.
    fn reason(&self) -> String {
        let mut closing = self.findings.iter().filter(|f| f.closes());
        let Some(first) = closing.next() else { return sentence(&stop(self.summary)) };
        let said = match (&first.observed, &first.expected) {
            (Some(observed), Some(expected)) => format!("{observed}, expected {}", comparison(expected)),
            _ if first.message.is_empty() => first.verdict.word().replace('_', " "),
            _ => first.message.clone(),
        };
        let text = match closing.count() {
            0 => format!("{}: {said}", first.name),
            more => format!("{}: {said} (and {more} more)", first.name),
        };
        // The name stands as in the plan, so that it can be found there.
        stop(&text)
    }

    fn state(&self) -> String {
        match self.verdict {
            DocumentVerdict::Fail => format!("{} kept its gate closed", self.name),
            DocumentVerdict::Undecided => format!("{} is undecided", self.name),
            _ => format!("{} ended with an error", self.name),
        }
    }
}

fn join(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().map(|p| stop(&p)).collect::<Vec<_>>().join(" ")
}

/// What is in the way of the next step, and when a job should look again.
fn waits(promotion: &Promotion) -> Option<String> {
    let again = promotion.next_at.map(|at| format!("the next look is due at {}", date(at)));
    let all: Vec<String> = promotion.waits_for.clone().into_iter().chain(again).collect();
    (!all.is_empty()).then(|| sentence(&all.join("; ")))
}

/// Until when the old side is kept, where it is.
fn kept(documents: &Documents, promotion: &Promotion) -> Option<String> {
    let until = date(promotion.next_at.filter(|until| documents.at < *until)?);
    Some(sentence(&format!(
        "{} is kept until {until}, and the release can be undone until then",
        old_side(documents)
    )))
}

fn progress(promotion: &Promotion) -> Option<String> {
    let began = promotion.steps.iter().filter(|s| s.began_at.is_some()).count();
    let first = promotion.shifts.first()?.at;
    let last = promotion.steps.iter().filter_map(|s| s.ended_at).max();
    let last = last.into_iter().chain(promotion.series.last().map(|i| i.at)).max().unwrap_or(first);
    let over = lasted(first, last);
    let all = promotion.steps.len();
    Some(if promotion.outcome == Outcome::Promoted || began == all {
        format!("{} over {over}", sentence(&many(all as u64, "step")))
    } else {
        format!("Step {began} of {all}, {over} under way")
    })
}

/// All checks of preflight and verify.
pub(super) fn counts(documents: &Documents) -> Option<Counts> {
    let preflight = documents.preflight.as_ref().map(|p| &p.document.head.findings);
    let verify = documents.verify.as_ref().map(|v| &v.document.head.findings);
    let all: Vec<Finding> = [preflight, verify].into_iter().flatten().flatten().cloned().collect();
    (!all.is_empty()).then(|| Counts::of(&all))
}

fn checks(documents: &Documents) -> Option<String> {
    counts(documents).map(|c| c.sentence())
}

fn judged(promotion: &Promotion) -> Option<String> {
    let each = |total: &Total| {
        let (requests, errors) = total.green;
        let failed = if errors == 0 { "none".into() } else { count(errors) };
        format!("of {} seen by {} {failed} failed", many(requests, "request"), total.source)
    };
    let all: Vec<String> = totals(promotion).iter().map(each).collect();
    (!all.is_empty()).then(|| format!("On green, {}", all.join(", ")))
}

fn back_in(promotion: &Promotion) -> Option<String> {
    let rollback = promotion.rollback.as_ref()?;
    let took = rollback.took_ms?;
    Some(format!("From the decision to the router's confirmation it took {}", ms(took)))
}

fn verified(documents: &Documents) -> Option<String> {
    let verify = &documents.verify.as_ref()?.document;
    let what =
        if verify.head.verdict == DocumentVerdict::Pass { "confirms it" } else { "does not confirm it" };
    Some(format!("Verify {what}: {}", verify.head.summary))
}

/// What the plan asks for, and what is not there.
fn missing(documents: &Documents) -> Option<String> {
    let all: Vec<&str> = documents.missing.iter().map(|missing| missing.why.as_str()).collect();
    (!all.is_empty()).then(|| sentence(&all.join("; ")))
}

fn to_come(documents: &Documents) -> Option<String> {
    (!documents.to_come.is_empty()).then(|| format!("Not there yet: {}", documents.to_come.join(", ")))
}

fn untouched(documents: &Documents) -> Option<String> {
    documents.promote.is_none().then(|| "No traffic was moved: there is no record of a promotion".into())
}

/// Who started it, for which commit.
fn run_by(documents: &Documents) -> Option<String> {
    let who = promotion(documents).and_then(|p| p.decisions.iter().find(|d| d.who != "trapkey"));
    let ci = heads(documents).into_iter().find_map(|h| h.run.ci.clone()?.actor);
    let who = who.map(|d| d.who.clone()).or(ci);
    let commit = documents.release.commit.as_ref().map(|c| clip_commit(c));
    match (who, commit) {
        (Some(who), Some(commit)) => Some(format!("Started by {who} for commit {commit}")),
        (Some(who), None) => Some(format!("Started by {who}")),
        (None, Some(commit)) => Some(format!("Made from commit {commit}")),
        (None, None) => None,
    }
}

/// The first characters of a commit.
pub(super) fn clip_commit(commit: &str) -> String {
    commit.chars().take(12).collect()
}

/// The heads of all documents, in the order of the release.
pub(super) fn heads(documents: &Documents) -> Vec<&crate::evidence::Head> {
    [
        documents.baseline.as_ref().map(|d| &d.document.head),
        documents.preflight.as_ref().map(|d| &d.document.head),
        documents.snapshot.as_ref().map(|d| &d.document.head),
        documents.drill.as_ref().map(|d| &d.document.head),
        documents.promote.as_ref().map(|d| &d.document.head),
        documents.verify.as_ref().map(|d| &d.document.head),
    ]
    .into_iter()
    .flatten()
    .collect()
}
