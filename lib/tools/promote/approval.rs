//! An approval: a signed document of its own, that counts for one role in one promotion.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use crate::evidence::{self, Approval, ApprovalBody, DocumentVerdict, Found, Need, Release, name_release};
use crate::fault::Fault;
use crate::job::{Conclusion, Job};
use crate::signature::{Purpose, SigningKey, Trust};
use crate::world::ci;
use crate::world::files::read_bounded;

/// How far the clock of the one who approves may be ahead, in seconds.
const AHEAD: i64 = 300;

/// What somebody approves.
#[derive(Clone, Debug)]
pub struct Order {
    /// The promotion.
    pub epoch: u64,
    /// The same by chance.
    pub promotion: Option<String>,
    /// The role that approves.
    pub role: String,
    /// The step, from 1; none for every step of this promotion that asks the role.
    pub step: Option<usize>,
    /// Why, in the words of the one who approves.
    pub reason: Option<String>,
    /// Until when it counts.
    pub expires_at: Option<Timestamp>,
    /// The evidence that the promotion was begun with.
    pub needs: Vec<Need>,
}

/// What a gate wants an approval of.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The names of the keys that may approve, by role; a role that is not named here is approved by
    /// the key of its own name.
    pub approvers: &'a BTreeMap<String, Vec<String>>,
    /// The release.
    pub release: &'a Release,
    /// The SHA-256 of the plan in hexadecimal.
    pub plan: &'a str,
    /// The promotion.
    pub epoch: u64,
    /// The same by chance.
    pub promotion: Option<&'a str>,
    /// The role.
    pub role: &'a str,
    /// The step, from 1.
    pub step: usize,
    /// The evidence that the promotion was begun with. The state is not signed; this is, and cannot be made again.
    pub needs: Vec<Need>,
    /// The moment of use.
    pub now: Timestamp,
}

/// An approval that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// The role.
    pub role: String,
    /// Who approved: the name of the key in the trust, not what the document says of itself.
    pub who: String,
    /// The id of the key.
    pub key: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// When it was signed.
    pub at: Timestamp,
    /// Until when it counts.
    pub expires_at: Option<Timestamp>,
    /// How the promotion names it.
    pub need: Need,
}

/// The bytes of an approval, signed.
///
/// They go to [`ApprovalBody::file`] of the role. Errors: usage (2) for a role that cannot be the name
/// of a file.
pub fn write(job: &Job, order: Order, key: &SigningKey) -> Result<Vec<u8>, Fault> {
    if !evidence::is_role(&order.role) {
        return Err(Fault::usage("the name of a role is not letters, digits, `_` or `-`"));
    }
    let step = order.step.map_or_else(|| "every step".into(), |step| format!("step {step}"));
    let summary = format!(
        "{} approves {step} of {} (promotion {})",
        order.role,
        name_release(&job.release),
        order.epoch
    );
    let Order { epoch, promotion, role, step, reason, expires_at, needs } = order;
    let approval = Approval { epoch, promotion, step, role, who: ci::actor(), reason, expires_at };
    let document = job.document(&Conclusion {
        needs,
        verdict: DocumentVerdict::Pass,
        summary,
        findings: Vec::new(),
        body: ApprovalBody { approval: Some(approval) },
        outputs: Vec::new(),
    });
    evidence::to_bytes(&document, Some(key))
}

/// The evidence that a promotion was begun with, among what it was made from.
pub fn begun_with(needs: &[Need]) -> Vec<Need> {
    needs.iter().filter(|need| ApprovalBody::role_of(&need.path).is_none()).cloned().collect()
}

/// Whether the evidence that a promotion says to have been begun with is there, signed by a key that counts: what the
/// state says by itself is worth nothing.
///
/// Errors: what is missing or other, in one sentence.
pub fn evidence_is_there(folder: &Path, needs: &[Need], trust: &Trust) -> Result<(), String> {
    for need in needs {
        let file = &need.path;
        let bytes = read_bounded(&folder.join(file), evidence::MAX_DOCUMENT).map_err(|e| {
            format!("`{file}`, which the promotion was begun with, is not in the evidence folder: {e}")
        })?;
        if evidence::sha256_hex(&bytes) != need.sha256 {
            return Err(format!(
                "the `{file}` in the evidence folder is not the one that the promotion was begun with"
            ));
        }
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| format!("`{file}` is not a document: {e}"))?;
        trust
            .verify(&bytes, value.get("signature"), Purpose::Evidence)
            .map_err(|_| format!("`{file}` is not signed by a key that counts"))?;
    }
    Ok(())
}

/// Whether the bytes of an approval are what a gate wants.
///
/// Errors: why they are not, in one sentence.
pub fn check(bytes: &[u8], trust: &Trust, wanted: &Wanted<'_>) -> Result<Approved, String> {
    let file = ApprovalBody::file(wanted.role, wanted.step);
    let found = evidence::parse::<ApprovalBody>(bytes, &file, Some(trust)).map_err(|fault| fault.line())?;
    let approval = fits(&found, wanted)?;
    let signer = found.signer.as_ref().and_then(|signer| Some((signer.name.clone()?, signer.key.clone())));
    let Some((who, key)) = signer else { return Err(format!("`{file}` is not signed")) };
    may_approve(&who, wanted)?;
    Ok(Approved {
        role: approval.role.clone(),
        who,
        key,
        reason: approval.reason.clone(),
        at: found.document.head.run.finished_at,
        expires_at: approval.expires_at,
        need: Need { path: file, ..found.need.clone() },
    })
}

/// Whether it is about this promotion, and still counts.
fn fits<'a>(found: &'a Found<ApprovalBody>, wanted: &Wanted<'_>) -> Result<&'a Approval, String> {
    let (head, file) = (&found.document.head, &found.need.path);
    let Some(approval) = found.document.body.approval.as_ref() else {
        return Err(format!("`{file}` approves nothing"));
    };
    if head.verdict != DocumentVerdict::Pass {
        return Err(format!("`{file}` did not pass: its verdict is `{}`", head.verdict.word()));
    }
    if approval.role != wanted.role {
        return Err(format!("`{file}` is of the role `{}`, asked is `{}`", approval.role, wanted.role));
    }
    match &head.release {
        Some(release) if evidence::same_release(release, wanted.release) => {}
        Some(release) => {
            let (other, this) = (name_release(release), name_release(wanted.release));
            return Err(format!("`{file}` is about another release: it speaks of {other}, this is {this}"));
        }
        None => return Err(format!("`{file}` names no release")),
    }
    if head.plan.as_ref().is_none_or(|plan| plan.sha256 != wanted.plan) {
        return Err(format!("`{file}` was made under another plan"));
    }
    if approval.epoch != wanted.epoch {
        return Err(format!(
            "`{file}` is about promotion {}, this is promotion {}",
            approval.epoch, wanted.epoch
        ));
    }
    if approval.promotion.as_deref() != wanted.promotion {
        return Err(format!("`{file}` is about another promotion, of the same number"));
    }
    if head.needs != wanted.needs {
        return Err(format!("`{file}` was made on other evidence than this promotion was begun with"));
    }
    if let Some(step) = approval.step.filter(|step| *step != wanted.step) {
        return Err(format!("`{file}` is about step {step}, asked is step {}", wanted.step));
    }
    if head.run.finished_at.as_second().saturating_sub(wanted.now.as_second()) > AHEAD {
        return Err(format!("`{file}` comes from the future: it was made at {}", head.run.finished_at));
    }
    if let Some(end) = approval.expires_at.filter(|end| *end <= wanted.now) {
        return Err(format!("`{file}` has expired: it counted until {end}"));
    }
    Ok(approval)
}

/// Whether the holder of that key may approve for the role.
fn may_approve(who: &str, wanted: &Wanted<'_>) -> Result<(), String> {
    let role = wanted.role;
    let by_name = [role.to_owned()];
    let may = wanted.approvers.get(role).map_or(&by_name[..], Vec::as_slice);
    if may.iter().any(|name| name == who) {
        return Ok(());
    }
    Err(format!("{who} may not approve for the role `{role}`: that is for {}", list(may)))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
