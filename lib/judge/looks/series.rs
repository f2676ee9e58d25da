//! Triggers on series of values: thresholds and comparisons.

use super::super::comparison::{OF_SERIES, Pair};
use super::super::quantiles::median;
use super::super::samples::Point;
use super::requests::EQUAL_SIZES;
use super::{Judge, Judged, at_least, millis};
use crate::evidence::Verdict;
use crate::plan::{Aggregate, JudgeKind, MetricSpec, Trigger, Worse};
use crate::units::{Observed, Share, Unit, show_duration};

/// Fewest values of a series that a plain threshold is held against.
const MIN_POINTS: usize = 3;
/// A series whose newest value is this many steps overdue is late.
const LATE_STEPS: f64 = 3.0;

impl Judge<'_> {
    pub(super) fn series(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        spec: &MetricSpec,
        points: &[Vec<Point>; 2],
    ) -> Judged {
        let from = trigger.over.map(|over| self.seen.at_ms - millis(over));
        let [blue, green] = [0, 1].map(|side| {
            let all = &points[side];
            &all[from.map_or(0, |from| all.partition_point(|p| p.0 < from))..]
        });
        let mut judged = self.judge_series(key, trigger, spec, [blue, green]);
        judged.figures = [blue, green].map(|side| sum_up(side, spec.aggregate));
        judged.samples = [blue.len() as u64, green.len() as u64];
        judged.unit = spec.unit.word();
        judged
    }

    fn judge_series(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        spec: &MetricSpec,
        [blue, green]: [&[Point]; 2],
    ) -> Judged {
        let compared = trigger.worse_than_baseline_by;
        if compared.is_some() && self.plan.judge.kind == JudgeKind::Kayenta {
            return Judged::new(Verdict::Pass, "pass", "");
        }
        let sides: &[(&str, &[Point])] =
            if compared.is_some() { &[("green", green), ("blue", blue)] } else { &[("green", green)] };
        for (name, side) in sides {
            if let Some(other) = self.unfit(spec, name, side, !blue.is_empty() || !green.is_empty()) {
                return other;
            }
        }
        let show = |figure: f64| show_figure(spec, figure);
        let Some(at_green) = sum_up(green, spec.aggregate) else {
            return Judged::new(Verdict::NoData, "no_data", "green has no values");
        };
        let mut judged = if let Some(is) = &trigger.is {
            let fires = is.met_by(&observed(spec, at_green));
            let message = format!(
                "the {} of {} values on green is {}, fires at {is}",
                aggregate_word(spec.aggregate),
                green.len(),
                show(at_green)
            );
            let (verdict, outcome) = if fires { (Verdict::Fail, "fires") } else { (Verdict::Pass, "pass") };
            Judged::new(verdict, outcome, message)
        } else if let Some(share) = compared {
            self.compare_series(key, trigger, spec, [blue, green], share)
        } else {
            Judged::new(Verdict::Error, "query_error", "the trigger has no condition")
        };
        if judged.verdict == Verdict::Pass {
            let still = |side: &[Point]| {
                side.len() >= MIN_POINTS
                    && side[0].1 != 0.0
                    && side.windows(2).all(|pair| pair[0].1.to_bits() == pair[1].1.to_bits())
            };
            if let Some((name, side)) = sides.iter().find(|(_, side)| !spec.may_be_constant && still(side)) {
                judged.verdict = Verdict::NoData;
                judged.outcome = "constant";
                judged.message = format!(
                    "all {} values on {name} are {}: a source that stands still tells nothing (`may_be_constant: \
                     true` if it may)",
                    side.len(),
                    show(side[0].1)
                );
            }
        }
        judged
    }

    /// Why a side's values cannot be judged.
    fn unfit(&self, spec: &MetricSpec, name: &str, side: &[Point], any: bool) -> Option<Judged> {
        let step = spec.step.map_or(15e3, |s| s.0.as_secs_f64() * 1e3);
        let delay = spec.delay.map_or(step, |d| d.0.as_secs_f64() * 1e3);
        let Some(newest) = side.last() else {
            // Values are final a while after their moment: before that, none is no sign of anything.
            let first_due = self.since_ms as f64 + delay + LATE_STEPS * step;
            if (self.seen.at_ms as f64) < first_due {
                let message = format!("no values on {name} yet");
                return Some(Judged::new(Verdict::TooFewSamples, "too_few_samples", message));
            }
            let outcome = if any { "one_side_empty" } else { "no_data" };
            return Some(Judged::new(Verdict::NoData, outcome, format!("no values were seen on {name}")));
        };
        let wrong = |what: &str, outcome, of: fn(&f64) -> bool| {
            let count = side.iter().filter(|p| of(&p.1)).count();
            (count > 0).then(|| {
                let message = format!("{count} of {} values on {name} are {what}", side.len());
                Judged::new(Verdict::Error, outcome, message)
            })
        };
        let by_number = wrong("not a number", "not_a_number", |v| v.is_nan())
            .or_else(|| wrong("infinite", "infinite", |v| v.is_infinite()));
        if by_number.is_some() {
            return by_number;
        }
        let age = (self.seen.at_ms - newest.0) as f64;
        if age > delay + LATE_STEPS * step {
            let message = format!("the newest value on {name} is {} old", show_duration(age / 1e3));
            return Some(Judged::new(Verdict::NoData, "late_data", message));
        }
        (side.len() < MIN_POINTS).then(|| {
            let message = format!("{} values on {name}, {MIN_POINTS} are needed", side.len());
            Judged::new(Verdict::TooFewSamples, "too_few_samples", message)
        })
    }

    fn compare_series(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        spec: &MetricSpec,
        sides: [&[Point]; 2],
        share: Share,
    ) -> Judged {
        let sign = if spec.worse == Worse::Lower { -1.0 } else { 1.0 };
        let windows = sides.map(|side| side.iter().map(|p| sign * p.1).collect::<Vec<f64>>());
        let middles = [0, 1].map(|side| {
            let mut sorted = windows[side].clone();
            sorted.sort_by(f64::total_cmp);
            median(&sorted).unwrap_or_default()
        });
        let least = at_least(trigger, spec.unit.dimension());
        let tolerances = middles.map(|middle| (middle.abs() * share.0).max(least));
        let progress = self.progress();
        let pair = Pair { windows, requests: None, tolerances, progress };
        let comparison = self.comparison(key, OF_SERIES);
        let needed = comparison.least_windows();
        let counts = [0, 1].map(|side| pair.windows[side].len() as u64);
        let due = comparison.begin(counts, counts[0].min(counts[1]), progress);
        let known = comparison.last().filter(|_| !due).cloned();
        let tested = known.unwrap_or_else(|| comparison.of_values(&pair, spec.worse));
        let show = |figure: f64| show_figure(spec, sign * figure);
        let fires = tested.worse || (spec.worse == Worse::Either && tested.better);
        let says = if fires { "worse, and not by chance" } else { "not worse beyond chance" };
        let message = format!(
            "the median on green is {}, {} on blue; {} more or less is allowed: {says} ({})",
            show(middles[1]),
            show(middles[0]),
            show_figure(spec, tolerances[0]),
            tested.because
        );
        let (verdict, outcome) = if fires { (Verdict::Fail, "fires") } else { (Verdict::Pass, "pass") };
        let mut judged = Judged::new(verdict, outcome, message);
        judged.test = Some(tested.record);
        if !fires {
            let counts = sides.map(<[Point]>::len);
            let (few, many) = (counts[0].min(counts[1]), counts[0].max(counts[1]));
            if (few as f64) < EQUAL_SIZES * many as f64 {
                judged.verdict = Verdict::TooFewSamples;
                judged.outcome = "unequal_sizes";
                judged.message =
                    format!("{} values on blue and {} on green were to be as many", counts[0], counts[1]);
            } else if few < needed {
                judged.verdict = Verdict::TooFewSamples;
                judged.outcome = "too_few_windows";
                judged.message = format!("{few} values a side, {needed} are needed");
            }
        }
        judged
    }
}

fn observed(spec: &MetricSpec, figure: f64) -> Observed {
    match spec.unit.dimension() {
        Unit::Duration => Observed::Number(figure / 1e3, Unit::Duration),
        unit => Observed::Number(figure, unit),
    }
}

fn show_figure(spec: &MetricSpec, figure: f64) -> String {
    observed(spec, figure).to_string()
}

fn sum_up(points: &[Point], aggregate: Aggregate) -> Option<f64> {
    let values = || points.iter().map(|p| p.1);
    let n = points.len();
    if n == 0 {
        return None;
    }
    match aggregate {
        Aggregate::Mean => Some(values().sum::<f64>() / n as f64),
        Aggregate::Sum => Some(values().sum()),
        Aggregate::Last => values().next_back(),
        Aggregate::Max => values().max_by(f64::total_cmp),
        Aggregate::Min => values().min_by(f64::total_cmp),
        Aggregate::Median => {
            let mut sorted: Vec<f64> = values().collect();
            sorted.sort_by(f64::total_cmp);
            median(&sorted)
        }
    }
}

fn aggregate_word(aggregate: Aggregate) -> &'static str {
    match aggregate {
        Aggregate::Mean => "mean",
        Aggregate::Sum => "sum",
        Aggregate::Last => "newest",
        Aggregate::Max => "greatest",
        Aggregate::Min => "smallest",
        Aggregate::Median => "median",
    }
}
