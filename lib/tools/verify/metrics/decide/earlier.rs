//! Whether a metric is worse than it was: against an earlier window, and by a step of its level.

use std::time::Duration;

use jiff::Timestamp;

use super::super::{LEVEL_WINDOWS, part_of};
use super::{Frame, Judged, Value, show_p, show_span};
use crate::evidence::{TestRecord, Verdict};
use crate::judge::trend::{Point, Undecided};
use crate::judge::{Allowed, MIN_FOR_PERIODS, Stepped, compare_periods, median, stepped};
use crate::plan::{Before, Worse};
use crate::units::show_duration;

impl Frame<'_> {
    /// The newest window against an earlier one.
    pub(super) fn compare(
        &self,
        against: Before,
        allowed: Allowed,
        now: &[Value],
        before: &[Value],
    ) -> Judged {
        let (few, many) = (now.len().min(before.len()), MIN_FOR_PERIODS);
        let counts = format!("{} values now and {} before", now.len(), before.len());
        if few < many {
            return Judged::too_few(format!(
                "{counts}; {many} are needed of each{}",
                self.how_fresh(against)
            ));
        }
        let plain = |values: &[Value]| values.iter().map(|(_, v)| *v).collect::<Vec<f64>>();
        let way = self.metric.spec.worse;
        let Some(compared) =
            compare_periods(&plain(before), &plain(now), self.metric.shared(self.metric.step), way, allowed)
        else {
            return Judged::new(Verdict::Error, "infinite", "the values are too great to compare");
        };
        let when = match against {
            Before::Ago(ago) => format!("{ago} earlier"),
            Before::Release => "before the release".into(),
        };
        let (test, by) = (&compared.record, self.by_how_much(&compared.record));
        let message = format!(
            "{} than {when}: the median is {}, it was {}; a typical value is {by}, {} is allowed ({})",
            if compared.worse { "worse" } else { "not worse" },
            self.show(compared.now),
            self.show(compared.before),
            self.show(compared.tolerance),
            show_p(test.p_value)
        );
        let mut judged = Judged::by(compared.worse, message).with(compared.now, Some(compared.before));
        judged.test = Some(compared.record);
        judged
    }

    /// Where the release is too fresh to compare it.
    fn how_fresh(&self, against: Before) -> String {
        match (against, self.moved) {
            (Before::Release, Some(moved)) => {
                let since = show_span(self.at.duration_since(moved.to));
                format!("; traffic stands where it is since {since}")
            }
            _ => String::new(),
        }
    }

    /// `worse by 17.7 (15.1 to 20.6)`.
    fn by_how_much(&self, test: &TestRecord) -> String {
        let effect = test.effect.unwrap_or_default();
        let word = match (self.metric.spec.worse, effect < 0.0) {
            (Worse::Either, true) => "lower",
            (Worse::Either, false) => "higher",
            (_, true) => "better",
            (_, false) => "worse",
        };
        let ends = if effect < 0.0 {
            test.effect_high.zip(test.effect_low).map(|(high, low)| (-high, -low))
        } else {
            test.effect_low.zip(test.effect_high)
        };
        let interval = ends
            .map(|(low, high)| format!(" ({} to {})", self.show(low), self.show(high)))
            .unwrap_or_default();
        format!("{word} by {}{interval}", self.show(effect.abs()))
    }

    /// Whether the level has stepped to where it is worse.
    pub(super) fn level(&self, over: Duration, p_below: f64, allowed: Allowed, now: &[Value]) -> Judged {
        let window = part_of(over, LEVEL_WINDOWS).max(self.metric.step);
        let (points, shared) = (in_windows(now, window), self.metric.shared(window));
        let found = match stepped(&points, shared, self.metric.spec.worse, p_below, allowed) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let value = now.last().map_or(0.0, |(_, v)| *v);
                return Judged::by(false, format!("all values are {}", self.show(value))).with(value, None);
            }
            Err(why @ Undecided::TooFew { .. }) => {
                let over = show_duration(over.as_secs_f64());
                return Judged::too_few(format!(
                    "{}, each a window of {over} cut into {}",
                    why.message(),
                    LEVEL_WINDOWS
                ));
            }
            Err(why) => return Judged::undecided(why),
        };
        let at = moment(found.change.t);
        let message = self.about_step(&found, at);
        let mut judged = Judged::by(found.worse, message).with(found.change.after, Some(found.change.before));
        judged.test = Some(found.record);
        judged.changed_at = Some(at);
        judged
    }

    fn about_step(&self, found: &Stepped, at: Timestamp) -> String {
        let change = &found.change;
        let (before, after) = (self.show(change.before), self.show(change.after));
        let (p, allowed) = (show_p(found.record.p_value), self.show(found.tolerance));
        if found.worse {
            let relation = self.moved.filter(|m| at >= m.from).map_or(String::new(), |m| {
                format!(", {} after traffic began to move", show_span(at.duration_since(m.from)))
            });
            let clock = at.strftime("%Y-%m-%d %H:%M:%S UTC");
            format!(
                "the level stepped from {before} to {after} at {clock}{relation} ({p}); {allowed} is allowed"
            )
        } else if change.line_fits_better && (change.after - change.before).abs() > found.tolerance {
            format!("no step: it moves slowly, from about {before} to {after}")
        } else {
            format!(
                "no step to the worse: the most likely one is from {before} to {after} ({p}); {allowed} is allowed"
            )
        }
    }
}

/// The medians of windows of this length: neighbouring values are too alike to look for a step in them.
fn in_windows(values: &[Value], window: Duration) -> Vec<Point> {
    let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX).max(1);
    values
        .chunk_by(|a, b| a.0.div_euclid(window) == b.0.div_euclid(window))
        .filter_map(|of| {
            let mut sorted: Vec<f64> = of.iter().map(|(_, v)| *v).collect();
            sorted.sort_by(f64::total_cmp);
            Some(Point::new(of.first()?.0 as f64 / 1e3, median(&sorted)?))
        })
        .collect()
}

fn moment(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a moment in ms, as it came in")]
    let ms = (seconds * 1e3).round() as i64;
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}
