//! What goes on record at each turn: decisions, the steps' times, the rollback.

use jiff::Timestamp;

use super::super::machine::{Event, State};
use super::super::record::{Record, between_ms};
use crate::evidence::{Decision, Outcome, RollbackRecord, Verdict};
use crate::units::show_share;

pub(super) fn note_rollback(record: &mut Record, done: &crate::evidence::Shift) {
    if let Some(rollback) = &mut record.promotion.rollback {
        let read_back_at =
            Timestamp::from_nanosecond(done.at.as_nanosecond() + nanos(done.set_ms)).unwrap_or(done.at);
        rollback.read_back_at = Some(read_back_at);
        rollback.took_ms = Some(between_ms(rollback.decided_at, read_back_at));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a duration of a shift")]
fn nanos(ms: f64) -> i128 {
    (ms * 1e6) as i128
}

/// Puts a turn of the way on record: decisions, the steps' times, the rollback.
pub(super) fn note(record: &mut Record, before: &State, event: &Event, now: Timestamp) {
    let after = record.state.clone();
    let promotion = &mut record.promotion;
    let mut decide =
        |what: String| promotion.decisions.push(Decision { at: now, who: "trapkey".into(), what });
    match (&after, event) {
        (State::CheckingBlue { reason }, Event::Aborted { .. }) => decide(format!("goes back: {reason}")),
        (State::CheckingBlue { reason }, _) if !matches!(before, State::Frozen { .. }) => {
            decide(format!("goes back: {reason}"));
        }
        (State::Frozen { reason, .. }, _) => decide(format!("stands still: {reason}")),
        (State::Shifting { step }, Event::Looked { .. }) => {
            decide(format!(
                "judged step {step} good and goes on to {}",
                share(record.course.steps.get(*step).map(|s| s.weight))
            ));
        }
        (State::Promoted, _) => decide("finished: green serves everything".into()),
        (State::RolledBack { .. }, _) => decide("finished: blue serves everything".into()),
        _ => {}
    }
    if let (State::Shifting { step }, Event::Shifted { .. }) = (before, event)
        && let Some(record) = promotion.steps.get_mut(*step)
    {
        record.began_at = Some(now);
        if !matches!(after, State::Baking { .. }) {
            record.ended_at = Some(now);
            record.verdict = Some(Verdict::Pass);
        }
    }
    let still = |step: &usize| matches!(&after, State::Baking { step: now, .. } if now == step);
    if let State::Baking { step, .. } = before
        && !still(step)
        && let Some(record) = promotion.steps.get_mut(*step)
    {
        record.ended_at = Some(now);
        let looked = promotion.judgements.iter().rev().find(|j| j.step == step + 1).map(|j| j.verdict);
        record.verdict = Some(match event {
            Event::Looked { .. } => looked.unwrap_or(Verdict::NoData),
            Event::ShiftFailed { .. } => Verdict::Error,
            _ => Verdict::Skipped,
        });
    }
    if matches!(after, State::CheckingBlue { .. }) && promotion.rollback.is_none() {
        promotion.rollback =
            Some(RollbackRecord { decided_at: now, read_back_at: None, drained_at: None, took_ms: None });
    }
    if let (State::RetiringGreen { .. }, Event::Retired, Some(rollback)) =
        (before, event, &mut promotion.rollback)
    {
        rollback.drained_at = Some(now);
    }
    if after.finished() || matches!(after, State::Frozen { .. }) {
        let (outcome, reason) = record.outcome();
        record.promotion.outcome = outcome;
        record.promotion.reason = reason;
        if outcome == Outcome::Promoted {
            record.promotion.weight = 1.0;
        }
    }
}

fn share(weight: Option<f64>) -> String {
    weight.map_or_else(|| "the end".into(), show_share)
}
