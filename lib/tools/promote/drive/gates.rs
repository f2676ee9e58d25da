//! The gates before a step: a pause, the calendar, approvals. A way back has none.

use jiff::Timestamp;

use super::super::approval::{self, Approved};
use super::super::approve;
use super::Driver;
use crate::evidence::{ApprovalBody, ApprovalRecord, MAX_DOCUMENT};
use crate::units::show_share;
use crate::world;
use crate::world::files::{read_bounded, unwritable, write_atomic};
use crate::world::talk::Mark;

/// What keeps a step from being taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    /// In words.
    pub why: String,
    /// When it opens by itself, where that is known.
    pub opens_at: Option<Timestamp>,
    /// Roles that have not approved, where nothing else keeps it shut.
    pub missing: Vec<String>,
}

impl Driver<'_> {
    /// The gate before a step (from 0), where it is shut. Behind the last step no traffic moves, so
    /// there is none.
    pub(super) fn gate(&mut self, step: usize) -> Option<Gate> {
        let weight = self.record.course.steps.get(step).map(|s| s.weight)?;
        let next = format!("step {} ({} on green)", step + 1, show_share(weight));
        let shut = |why: String, opens_at| Gate { why, opens_at, missing: Vec::new() };
        match self.store().paused(self.record.promotion.epoch, self.record.id.as_deref()) {
            Ok(None) => {}
            Ok(Some(asked)) => return Some(shut(format!("{} has paused it before {next}", asked.who), None)),
            Err(fault) => {
                let why = format!("{next} waits: whether it is paused cannot be seen, {}", fault.line());
                return Some(shut(why, None));
            }
        }
        if let Some(words) = &self.record.spared {
            return Some(shut(
                format!("{next} waits: somebody has given blue less on the router ({words})"),
                None,
            ));
        }
        if let Some(closed) = self.plan.calendar.as_ref().and_then(|c| c.closed(self.clock.now())) {
            return Some(shut(format!("{next} waits: {}", closed.why), closed.opens_at));
        }
        let missing = self.not_approved(step);
        if missing.is_empty() {
            return None;
        }
        let why = format!("{next} waits for the approval of {}", missing.join(" and "));
        Some(Gate { why, opens_at: None, missing })
    }

    /// Takes over the approvals of a step that lie beside the state.
    fn take_approvals(&mut self, step: usize, roles: &[String]) {
        let Some(trust) = self.job.call.trust.as_ref() else { return };
        for role in roles {
            for bytes in self.approvals_of(role, step + 1) {
                let wanted = approve::wanted(&self.record, self.plan, role, step + 1, self.clock.now());
                match approval::check(&bytes, trust, &wanted) {
                    Ok(approved) => {
                        self.take_approval(step + 1, approved, &bytes);
                        break;
                    }
                    Err(why) => self.refuse_approval(step + 1, role, &why),
                }
            }
        }
    }

    /// What lies beside the state and in the evidence folder as the approval of a role.
    fn approvals_of(&self, role: &str, step: usize) -> Vec<Vec<u8>> {
        let name = approve::kept_name(self.record.promotion.epoch, role, step);
        let kept = self.store().kept(&name).unwrap_or_default().into_iter().map(|(_, bytes)| bytes);
        let carried = read_bounded(&self.job.evidence().join(ApprovalBody::file(role, step)), MAX_DOCUMENT);
        kept.chain(carried.ok()).collect()
    }

    fn take_approval(&mut self, step: usize, approved: Approved, bytes: &[u8]) {
        let Approved { role, who, reason, at, expires_at, need, .. } = approved;
        // The link of the chain is the document itself: it lies where the report finds it.
        let path = self.job.evidence().join(&need.path);
        if let Err(error) = write_atomic(&path, bytes) {
            self.job.talk().line(Mark::Warn, &unwritable(&path, &error).line());
            return;
        }
        let why = reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
        let what = format!("approved step {step} as {role}{why}");
        self.job.talk().line(Mark::Step, &format!("{who} {what}"));
        self.record.decided(world::now(), &who, what);
        let approvals = &mut self.record.promotion.approvals;
        approvals.retain(|other| other.document != need.path);
        approvals.push(ApprovalRecord {
            step,
            role,
            who,
            at,
            reason,
            expires_at,
            document: need.path.clone(),
            sha256: need.sha256.clone(),
        });
        self.record.needs.retain(|other| other.path != need.path);
        self.record.needs.push(need);
    }

    fn refuse_approval(&mut self, step: usize, role: &str, why: &str) {
        let what = format!("an approval of step {step} as {role} does not count: {why}");
        if self.record.promotion.decisions.iter().all(|d| d.what != what) {
            self.job.talk().line(Mark::Warn, &what);
            self.record.decided(world::now(), "trapkey", what);
        }
    }

    /// The roles that a step still waits for.
    pub(super) fn not_approved(&mut self, step: usize) -> Vec<String> {
        let roles = self.plan.steps.get(step).map_or(&[][..], |s| s.approve.as_slice());
        let open = |driver: &Self| -> Vec<String> {
            let (given, now) = (&driver.record.promotion.approvals, driver.clock.now());
            let lasts = |a: &ApprovalRecord| a.expires_at.is_none_or(|end| end > now);
            let fits = |a: &ApprovalRecord, role: &String| a.step == step + 1 && a.role == *role;
            let is_given = |role: &String| given.iter().any(|a| fits(a, role) && lasts(a));
            roles.iter().filter(|role| !is_given(role)).cloned().collect()
        };
        if open(self).is_empty() {
            return Vec::new();
        }
        self.take_approvals(step, &open(self));
        open(self)
    }
}
