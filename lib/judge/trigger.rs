//! What ends a release: one trigger of the plan against the figures of both sides.

use super::rates::{error_rate_lower, fisher_more};
use super::{SideFigures, quantile};
use crate::evidence::{MetricRecord, Verdict};
use crate::expectation::Expectation;
use crate::plan::Trigger;
use crate::units::{Observed, Share, Unit, show_share};
use crate::yaml;

/// How unlikely a difference between the sides must be before it counts. A bake is looked at again
/// and again, so this is stricter than for a single look.
const ALPHA: f64 = 0.001;

/// Errors that count although there are fewer samples than asked for, when they leave no doubt.
const OVERWHELMING_ERRORS: u64 = 5;

/// The confidence with which an early alarm must lie beyond the threshold.
const EARLY_CONFIDENCE: f64 = 0.99;

/// Green may have this much more errors than blue in any case: a share of a small rate is nothing.
const ERROR_GUARD: f64 = 0.001;

/// Green may be this much slower than blue in any case, in ms.
const LATENCY_GUARD_MS: f64 = 1.0;

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
    METRICS.iter().find(|(known, _)| *known == name).map(|(_, metric)| *metric).ok_or_else(|| {
        let problem = yaml::unknown("metric", name, known_metrics().iter().copied());
        problem.help.map_or(problem.message.clone(), |help| format!("{}; {help}", problem.message))
    })
}

/// Whether a trigger can be judged, so that a plan is refused before anything moves.
///
/// Errors: an unknown metric, a comparison without the metric's unit, or one that would fire while
/// all is well.
pub fn trigger_fits(trigger: &Trigger) -> Result<(), String> {
    let metric = metric_of(&trigger.metric)?;
    match (&trigger.is, &trigger.worse_than_baseline_by) {
        (Some(is), None) => {
            is.fits(metric.unit()).map_err(|e| format!("the trigger on `{}`: {e}", trigger.metric))?;
            if !is.text().starts_with('>') {
                return Err(format!(
                    "the trigger on `{}` says when to roll back, so it begins with `>` or `>=`; `{is}` would \
                     fire while all is well",
                    trigger.metric
                ));
            }
            Ok(())
        }
        (None, Some(_)) => Ok(()),
        _ => {
            Err(format!("the trigger on `{}` needs one of `is` and `worse_than_baseline_by`", trigger.metric))
        }
    }
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

    fn word(self) -> &'static str {
        if self == Self::ErrorRate { "%" } else { "ms" }
    }
}

/// One trigger against the figures of both sides in the same window. `fail` means that it fires.
///
/// A side with fewer than `min_samples` gives `too_few_samples`, except that errors which leave no
/// doubt (five or more, and the 99 % lower bound of their rate beyond the threshold) fire at once.
/// Nothing seen gives `no_data`, a figure that is none gives `error`; only `pass` is a pass.
pub fn judge_trigger(
    trigger: &Trigger,
    source: &str,
    green: &SideFigures,
    blue: &SideFigures,
    min_samples: u64,
) -> MetricRecord {
    let metric = metric_of(&trigger.metric).and_then(|metric| trigger_fits(trigger).map(|()| metric));
    let (verdict, message) = match &metric {
        Err(why) => (Verdict::Error, why.clone()),
        Ok(metric) => Case { metric: *metric, trigger, source, green, blue, min_samples }.judge(),
    };
    let figure =
        |side: &SideFigures| metric.as_ref().ok().and_then(|m| m.figure(side)).filter(|f| f.is_finite());
    let samples = |side: &SideFigures| metric.as_ref().map_or(0, |m| m.samples(side));
    MetricRecord {
        metric: trigger.metric.clone(),
        source: source.into(),
        verdict,
        green: figure(green),
        blue: figure(blue),
        unit: metric.as_ref().map_or("", |m| m.word()).into(),
        threshold: condition(trigger),
        green_samples: samples(green),
        blue_samples: samples(blue),
        message,
    }
}

/// The condition as the plan has it.
fn condition(trigger: &Trigger) -> String {
    match (&trigger.is, trigger.worse_than_baseline_by) {
        (Some(is), _) => is.text().to_owned(),
        (None, Some(share)) => format!("worse than blue by {share}"),
        (None, None) => String::new(),
    }
}

struct Case<'a> {
    metric: Metric,
    trigger: &'a Trigger,
    source: &'a str,
    green: &'a SideFigures,
    blue: &'a SideFigures,
    min_samples: u64,
}

type Judged = (Verdict, String);

impl Case<'_> {
    fn judge(&self) -> Judged {
        let green = match self.side("green", self.green) {
            Ok(figure) => figure,
            Err(other) => return self.overwhelming().unwrap_or(other),
        };
        let (fires, against) = match (&self.trigger.is, self.trigger.worse_than_baseline_by) {
            (Some(is), _) => (is.met_by(&self.metric.observed(green)), format!("fires at {is}")),
            (None, Some(share)) => match self.side("blue", self.blue) {
                Ok(blue) => (self.worse(green, blue, share), self.against_blue(blue, share)),
                Err(other) => return other,
            },
            (None, None) => return (Verdict::Error, "the trigger has no condition".into()),
        };
        let verdict = if fires { Verdict::Fail } else { Verdict::Pass };
        let message =
            format!("{} on green is {}, {against}{}", self.name(), self.show(green), self.left_out());
        (verdict, message)
    }

    fn name(&self) -> &str {
        &self.trigger.metric
    }

    fn show(&self, figure: f64) -> String {
        self.metric.observed(figure).to_string()
    }

    /// The figure of a side, where enough stands behind it.
    fn side(&self, name: &str, side: &SideFigures) -> Result<f64, Judged> {
        if side.requests == 0 {
            return Err((Verdict::NoData, format!("no requests were seen on {name}")));
        }
        if side.errors > side.requests {
            let message = format!("{} counts more failures than requests on {name}", self.source);
            return Err((Verdict::Error, message));
        }
        let samples = self.metric.samples(side);
        let Some(figure) = self.metric.figure(side) else {
            let message = if side.errors == side.requests {
                format!("all {} requests on {name} failed, so there is no latency", side.requests)
            } else {
                format!("{} has no {} of {name}", self.source, self.name())
            };
            return Err((Verdict::NoData, message));
        };
        if !figure.is_finite() || figure < 0.0 || side.latencies_ms.iter().any(|l| !l.is_finite()) {
            return Err((Verdict::Error, format!("{} on {name} is not a number", self.name())));
        }
        if samples < self.min_samples {
            let message =
                format!("{samples} samples on {name}, {} are needed{}", self.min_samples, self.left_out());
            return Err((Verdict::TooFewSamples, message));
        }
        Ok(figure)
    }

    /// Errors so many among few requests that waiting would only make more of them.
    fn overwhelming(&self) -> Option<Judged> {
        let threshold: &Expectation = self.trigger.is.as_ref()?;
        let (errors, requests) = (self.green.errors, self.green.requests);
        if self.metric != Metric::ErrorRate || errors < OVERWHELMING_ERRORS || errors > requests {
            return None;
        }
        let lower = error_rate_lower(errors, requests, EARLY_CONFIDENCE).ok()?;
        threshold.met_by(&self.metric.observed(lower)).then(|| {
            let message = format!(
                "error_rate on green: {errors} of {requests} requests failed, with 99 % confidence at least {}, \
                 fires at {threshold}",
                show_share(lower)
            );
            (Verdict::Fail, message)
        })
    }

    /// Worse than blue by more than the plan allows, and not by chance.
    fn worse(&self, green: f64, blue: f64, share: Share) -> bool {
        let limit = self.limit(blue, share);
        green > limit
            && match self.metric {
                Metric::ErrorRate => {
                    let of = |s: &SideFigures| (s.errors, s.requests);
                    fisher_more(of(self.blue), of(self.green)) < ALPHA
                }
                Metric::Latency(_) => {
                    let of = |s: &SideFigures| above(&s.latencies_ms, limit);
                    fisher_more(of(self.blue), of(self.green)) < ALPHA
                }
                // Counters give no single values to test; the number of samples must do.
                Metric::Mean | Metric::Max => true,
            }
    }

    fn limit(&self, blue: f64, share: Share) -> f64 {
        let guard = if self.metric == Metric::ErrorRate { ERROR_GUARD } else { LATENCY_GUARD_MS };
        blue + (blue * share.0).max(guard)
    }

    fn against_blue(&self, blue: f64, share: Share) -> String {
        format!("{} on blue; up to {} is allowed", self.show(blue), self.show(self.limit(blue, share)))
    }

    fn left_out(&self) -> String {
        match (self.metric, self.green.errors) {
            (Metric::ErrorRate, _) | (_, 0) => String::new(),
            (_, 1) => " (1 failed request left out)".into(),
            (_, n) => format!(" ({n} failed requests left out)"),
        }
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
