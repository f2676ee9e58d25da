//! Where a metric is heading, and whether it is as usual at this time.

use std::time::Duration;

use super::super::SEASONS;
use super::{Frame, Judged, Value, in_seconds};
use crate::evidence::{CrossingRecord, TestRecord, Verdict};
use crate::judge::trend::{Crossing, Limit, Prediction, Season, predict, seasonal_anomalies};
use crate::units::{show_duration, show_number};

impl Frame<'_> {
    /// Whether a limit will be crossed if it goes on like this.
    pub(super) fn trend(&self, limit: Limit, within: Duration, over: Duration, now: &[Value]) -> Judged {
        let points = in_seconds(now);
        let found = match predict(&points, limit) {
            Ok(found) => found,
            Err(why) => return Judged::undecided(why),
        };
        let line = &found.trend;
        let (Limit::Below(at) | Limit::Above(at)) = limit;
        let (earliest, latest, after) = match found.crossing {
            Crossing::Already => (Some(0.0), Some(0.0), Some(0.0)),
            Crossing::In { seconds, earliest, latest } => (Some(earliest), latest, Some(seconds)),
            Crossing::NotOnThisTrend { earliest } => (earliest, None, None),
        };
        let fails = found.crossing.verdict(within.as_secs_f64()) == Verdict::Fail;
        let message = self.about_crossing(&found, &self.show(at), within);
        let covered = points.last().zip(points.first()).map_or(0.0, |(l, f)| l.t - f.t);
        // What is crossed already needs no history.
        let short = covered < over.as_secs_f64() / 2.0 && found.crossing != Crossing::Already;
        let mut judged = if short {
            Judged::too_few(format!(
                "the values go back {}, and a line through {} needs half of that at least",
                show_duration(covered),
                show_duration(over.as_secs_f64())
            ))
        } else {
            Judged::by(fails, message)
        }
        .with(found.newest, None);
        let of_a_day = |x: f64| Some(x * 86_400.0);
        judged.test = Some(TestRecord {
            name: "theil_sen".into(),
            effect: of_a_day(line.slope),
            effect_low: line.interval.and_then(|(low, _)| of_a_day(low)),
            effect_high: line.interval.and_then(|(_, high)| of_a_day(high)),
            confidence: 0.95,
            tolerance: None,
            windows: Some(line.points as u64),
            ..TestRecord::default()
        });
        judged.crossing = Some(CrossingRecord { after_s: after, earliest_s: earliest, latest_s: latest });
        judged
    }

    fn about_crossing(&self, found: &Prediction, bound: &str, within: Duration) -> String {
        let a_day = found.trend.slope * 86_400.0;
        let moves = match (a_day > 0.0, a_day < 0.0) {
            (true, _) => format!("grows by {} a day", self.show(a_day)),
            (_, true) => format!("falls by {} a day", self.show(-a_day)),
            _ => "stays as it is".into(),
        };
        let newest = self.show(found.newest);
        match found.crossing {
            Crossing::Already => {
                format!("{bound} is crossed already: the newest value is {newest}, and it {moves}")
            }
            Crossing::In { seconds, earliest, latest } => {
                let latest = latest.map_or("or never".into(), |l| format!("to {}", show_duration(l)));
                format!(
                    "{bound} is reached in {} ({} {latest}) if it goes on like this: it is {newest} and {moves}",
                    show_duration(seconds),
                    show_duration(earliest)
                )
            }
            Crossing::NotOnThisTrend { earliest } => {
                let close = earliest.filter(|e| *e <= within.as_secs_f64());
                let but = close.map_or(String::new(), |e| {
                    format!("; the steepest line that fits would be there in {}", show_duration(e))
                });
                format!("{bound} is not on its way: it is {newest} and {moves}{but}")
            }
        }
    }

    /// The newest window against what is usual at this time of the season.
    pub(super) fn anomaly(&self, season: &Season, now: &[Value], history: &[Value]) -> Judged {
        let (newest, past) = (in_seconds(now), in_seconds(history));
        let report = match seasonal_anomalies(&past, &newest, season) {
            Ok(report) => report,
            Err(why) => return Judged::undecided(why),
        };
        let begins = newest.first().map_or(0.0, |p| p.t);
        let covered = begins - past.first().map_or(begins, |p| p.t);
        let wanted = (f64::from(SEASONS) - 1.0 / season.phases as f64) * season.length;
        if covered < wanted {
            return Judged::too_few(format!(
                "the history goes back {}; {} are needed",
                show_duration(covered),
                show_duration(f64::from(SEASONS) * season.length)
            ));
        }
        if report.judged == 0 {
            return Judged::too_few("the history has too few values at this time of the season");
        }
        let spreads = |z: Option<f64>| z.map_or(f64::INFINITY, f64::abs);
        let furthest = report.anomalies.iter().max_by(|a, b| spreads(a.z).total_cmp(&spreads(b.z)));
        let last = newest[newest.len() - 1];
        let phase = |t: f64| report.phases[season.phase(t)];
        let (shown, usual) = furthest.map_or((last, phase(last.t).expected), |a| (a.point, a.expected));
        let spread = phase(shown.t).spread;
        // A lone value out of the pattern is noise; half of them are not.
        let out = report.anomalies.len();
        let fails = out > 0 && 2 * out >= report.judged;
        let z = if spread > 0.0 { (shown.value - usual) / spread } else { f64::INFINITY };
        let far = if z.is_finite() { show_number(z.abs()) } else { "infinitely many".into() };
        let side = if shown.value < usual { "below" } else { "above" };
        let message = match (furthest, fails) {
            (None, _) => format!(
                "as usual at this time: the newest value is {}, {} is usual",
                self.show(shown.value),
                self.show(usual)
            ),
            (Some(_), _) => format!(
                "{out} of {} values are out of the usual{}: the furthest is {}, {far} spreads {side} the {} that is \
                 usual at this time",
                report.judged,
                if fails { "" } else { ", fewer than half" },
                self.show(shown.value),
                self.show(usual)
            ),
        };
        let mut judged = if !fails && !report.unjudged.is_empty() {
            let few = report.unjudged.len();
            Judged::too_few(format!("the history has too few values at the time of {few} of the newest"))
        } else {
            Judged::by(fails, message)
        }
        .with(shown.value, Some(usual));
        judged.test = Some(TestRecord {
            name: "seasonal_mad".into(),
            statistic: Some(z).filter(|z| z.is_finite()),
            effect: Some(shown.value - usual),
            tolerance: Some(season.limit * spread),
            windows: Some(report.judged as u64),
            ..TestRecord::default()
        });
        judged
    }
}
