//! The gates before a step: a pause, the calendar, approvals. A way back has none.

use jiff::Timestamp;

use super::super::approval::{self, Approved};
use super::super::approve;
use super::Driver;
use crate::evidence::{ApprovalBody, ApprovalRecord, MAX_DOCUMENT};
use crate::plan::distinct_people;
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

/// An approval that counts, and its bytes.
type Sound = (Approved, Vec<u8>);

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

    /// The approvals that count for a role of a step, each checked anew: what the state says to have been approved is
    /// worth nothing, for the state is not signed.
    fn sound_approvals(&mut self, step: usize, role: &str) -> Vec<Sound> {
        let Some(trust) = self.job.call.trust.as_ref() else { return Vec::new() };
        let mut sound: Vec<Sound> = Vec::new();
        for bytes in self.approvals_of(role, step + 1) {
            let wanted = approve::wanted(&self.record, self.plan, role, step + 1, self.clock.now());
            let checked = approval::check(&bytes, trust, &wanted).and_then(|approved| {
                approval::evidence_is_there(&self.job.evidence(), &wanted.needs, trust).map(|()| approved)
            });
            match checked {
                Ok(approved) if sound.iter().any(|(known, _)| known.who == approved.who) => {}
                Ok(approved) => sound.push((approved, bytes)),
                Err(why) => self.refuse_approval(step + 1, role, &why),
            }
        }
        sound
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
        let given: Vec<(&String, Vec<Sound>)> =
            roles.iter().map(|role| (role, self.sound_approvals(step, role))).collect();
        let people = |all: &[Sound]| all.iter().map(|(a, _)| a.who.clone()).collect::<Vec<_>>();
        let all: Vec<Vec<String>> = given.iter().map(|(_, all)| people(all)).collect();
        let candidates: Vec<Vec<&str>> = all
            .iter()
            .filter(|all| !all.is_empty())
            .map(|all| all.iter().map(String::as_str).collect())
            .collect();
        let mut chosen = distinct_people(&candidates).unwrap_or_default().into_iter();
        let (mut taken, mut missing) = (Vec::<(String, &String)>::new(), Vec::new());
        for (role, sound) in given {
            // Where not all of them can be different people, whoever came first counts.
            let wanted = if sound.is_empty() { None } else { chosen.next() };
            let before =
                |who: &str| taken.iter().find(|(known, _)| known == who).filter(|_| self.plan.distinct);
            let fits = |who: &str| wanted.is_none_or(|wanted| wanted == who) && before(who).is_none();
            let found = sound.iter().find(|(approved, _)| !self.plan.distinct || fits(&approved.who));
            if let Some((approved, bytes)) = found {
                taken.push((approved.who.clone(), role));
                let recorded = |a: &ApprovalRecord| a.sha256 == approved.need.sha256;
                if !self.record.promotion.approvals.iter().any(recorded) {
                    self.take_approval(step + 1, approved.clone(), bytes);
                }
                continue;
            }
            if let Some((who, other)) = sound.iter().find_map(|(approved, _)| before(&approved.who).cloned())
            {
                self.refuse_approval(step + 1, role, &approve::one_person(&who, other));
            }
            missing.push(role.clone());
        }
        missing
    }
}
