//! What ends a release: one trigger of the plan against the figures of both sides.

use super::SideFigures;
use super::quantile;
use crate::plan::{MetricSpec, Trigger, Worse};
use crate::units::{Observed, Unit, parse_operand};
use crate::yaml;

/// What a metric measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Failed requests as a share of all.
    ErrorRate,
    /// A quantile of latency.
    Latency(f64),
    /// The mean latency.
    Mean,
    /// The greatest latency.
    Max,
}

const METRICS: &[(&str, Metric)] = &[
    ("error_rate", Metric::ErrorRate),
    ("latency_p50", Metric::Latency(0.5)),
    ("latency_p95", Metric::Latency(0.95)),
    ("latency_p99", Metric::Latency(0.99)),
    ("latency_mean", Metric::Mean),
    ("latency_max", Metric::Max),
];

/// The names of the metrics that a trigger or an expectation of a probe may use.
pub fn known_metrics() -> &'static [&'static str] {
    &["error_rate", "latency_p50", "latency_p95", "latency_p99", "latency_mean", "latency_max"]
}

/// The metric of that name.
///
/// Errors: the name is unknown; says the nearest known one and all of them.
pub fn metric_of(name: &str) -> Result<Metric, String> {
    metric_among(name, &[])
}

/// Whether a trigger can be judged, so that a plan is refused before anything moves. `series` are the
/// plan's metrics that give a series.
///
/// Errors: an unknown metric, a comparison without the metric's unit, one that would fire while all is
/// well, or a setting that means nothing beside the others.
pub fn trigger_fits(trigger: &Trigger, series: &[&MetricSpec]) -> Result<(), String> {
    let own = series.iter().find(|spec| spec.name == trigger.metric).copied();
    let (unit, worse) = match own {
        Some(spec) => (spec.unit.dimension(), spec.worse),
        None => (metric_among(&trigger.metric, series)?.unit(), Worse::Higher),
    };
    if own.is_some() && trigger.source.is_some() {
        return Err(format!("`{}` is a source of its own, so `source` means nothing", trigger.metric));
    }
    if let Some(text) = &trigger.at_least {
        let least = parse_operand(text, unit).map_err(|e| format!("`at_least`: {e}"))?;
        if !(least.is_finite() && least >= 0.0) {
            return Err("`at_least` is 0 at least".into());
        }
    }
    if trigger.weight.is_some_and(|w| !w.is_finite() || w <= 0.0) {
        return Err("a `weight` is a number above 0".into());
    }
    let only = |given: bool, name: &str, needs: &str| {
        if given { Err(format!("`{name}` goes with `{needs}` only")) } else { Ok(()) }
    };
    only(
        trigger.at_least.is_some() && trigger.worse_than_baseline_by.is_none(),
        "at_least",
        "worse_than_baseline_by",
    )?;
    only(trigger.over.is_some() && trigger.is.is_none(), "over", "is")?;
    if trigger.over.is_some_and(|over| over.0.is_zero()) {
        return Err("`over` is longer than 0".into());
    }
    only(trigger.hold.is_some() && trigger.worse_than_baseline_by.is_some(), "for", "is` or `burn_rate")?;
    match (&trigger.is, &trigger.worse_than_baseline_by, &trigger.burn_rate) {
        (Some(is), None, None) => {
            is.fits(unit)?;
            let alarms: &[char] = match worse {
                Worse::Higher => &['>'],
                Worse::Lower => &['<'],
                Worse::Either => &['>', '<'],
            };
            if !is.text().starts_with(alarms) {
                let begins = alarms.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(" or ");
                return Err(format!(
                    "it says when to roll back, so it begins with {begins}; `{is}` would fire while all is well"
                ));
            }
            let at = |share| is.met_by(&Observed::Number(share, Unit::Share));
            if own.is_none() && unit == Unit::Share && at(0.0) {
                return Err(format!("`{is}` would fire without a single error"));
            }
            if own.is_none() && unit == Unit::Share && !at(1.0) {
                return Err(format!("`{is}` would not fire although every request failed"));
            }
            Ok(())
        }
        (None, Some(_), None) => Ok(()),
        (None, None, Some(burn)) => {
            if own.is_some() || trigger.metric != "error_rate" {
                return Err("`burn_rate` is a rate of errors: write `metric: error_rate`".into());
            }
            if !(burn.objective.0 > 0.0 && burn.objective.0 < 1.0) {
                return Err("an `objective` lies between 0% and 100%, such as 99.9%".into());
            }
            match burn
                .windows
                .iter()
                .find(|w| w.short.0 >= w.long.0 || !(w.above.is_finite() && w.above > 0.0))
            {
                Some(_) => {
                    Err("a `short` window is shorter than its `long` one, and `above` a number above 0"
                        .into())
                }
                None => Ok(()),
            }
        }
        _ => Err("it needs one of `is`, `worse_than_baseline_by` and `burn_rate`".into()),
    }
}

fn metric_among(name: &str, series: &[&MetricSpec]) -> Result<Metric, String> {
    METRICS.iter().find(|(known, _)| *known == name).map(|(_, metric)| *metric).ok_or_else(|| {
        let known = known_metrics().iter().copied().chain(series.iter().map(|spec| spec.name.as_str()));
        let problem = yaml::unknown("metric", name, known);
        problem.help.map_or(problem.message.clone(), |help| format!("{}; {help}", problem.message))
    })
}

impl Metric {
    /// The dimension of its figure.
    pub fn unit(self) -> Unit {
        if self == Self::ErrorRate { Unit::Share } else { Unit::Duration }
    }

    /// Its figure: a share in 0..=1, or ms. None without data.
    pub fn figure(self, of: &SideFigures) -> Option<f64> {
        match self {
            Self::ErrorRate => of.error_rate(),
            Self::Latency(q) => of.latency(q),
            Self::Mean => of.mean,
            Self::Max => of.max,
        }
    }

    /// The figure as comparisons take it: a share, or seconds.
    pub fn observed(self, figure: f64) -> Observed {
        match self {
            Self::ErrorRate => Observed::Number(figure, Unit::Share),
            _ => Observed::Number(figure / 1e3, Unit::Duration),
        }
    }

    /// How many requests stand behind its figure.
    pub fn samples(self, of: &SideFigures) -> u64 {
        match self {
            Self::ErrorRate => of.requests,
            Self::Latency(_) => of.latencies_ms.len() as u64,
            // Counters have no single latencies; what did not fail was answered.
            Self::Mean | Self::Max => of.requests.saturating_sub(of.errors),
        }
    }

    /// Its name in the plan.
    pub fn name(self) -> &'static str {
        METRICS.iter().find(|(_, metric)| *metric == self).map_or("", |(name, _)| name)
    }

    /// The unit of the recorded figure, for people.
    pub fn word(self) -> &'static str {
        if self == Self::ErrorRate { "%" } else { "ms" }
    }
}

/// How many of an ascending sample lie above a limit, of how many.
pub(super) fn above(sorted: &[f64], limit: f64) -> (u64, u64) {
    let up_to = sorted.partition_point(|x| *x <= limit);
    ((sorted.len() - up_to) as u64, sorted.len() as u64)
}

/// The limit beyond which a sample's value counts as an explosion: twice what one in a hundred
/// exceeded before, or more where the tolerance says so.
pub(super) fn explosion(sorted_before: &[f64], tolerance: f64) -> Option<f64> {
    quantile(sorted_before, 0.99).map(|p99| (2.0 * p99).max(p99 + tolerance))
}
