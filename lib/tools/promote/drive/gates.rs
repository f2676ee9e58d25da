//! The gates before a step: a pause, the calendar, approvals. A way back has none.

use jiff::Timestamp;

use super::Driver;
use crate::state::Ask;
use crate::units::show_share;

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
        let (gated, weight) = self.record.course.steps.get(step).map(|s| (s.gated, s.weight))?;
        let next = format!("step {} ({} on green)", step + 1, show_share(weight));
        let shut = |why: String, opens_at| Gate { why, opens_at, missing: Vec::new() };
        // Without a gate of its own nothing can wait before the first step.
        if step > 0 || gated {
            let epoch = self.record.promotion.epoch;
            if let Some(asked) = self.store().asked(Ask::Pause, epoch) {
                return Some(shut(format!("{} has paused it before {next}", asked.who), None));
            }
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
    fn take_approvals(&mut self, _step: usize, _roles: &[String]) {}

    /// The roles that a step still waits for.
    fn not_approved(&mut self, step: usize) -> Vec<String> {
        let roles = self.plan.steps.get(step).map_or(&[][..], |s| s.approve.as_slice());
        let open = |driver: &Self| -> Vec<String> {
            let given = &driver.record.promotion.approvals;
            let is_given = |role: &String| given.iter().any(|a| a.step == step + 1 && a.role == *role);
            roles.iter().filter(|role| !is_given(role)).cloned().collect()
        };
        if open(self).is_empty() {
            return Vec::new();
        }
        self.take_approvals(step, &open(self));
        open(self)
    }
}
