//! `judge: kayenta`: the classification and the score of Kayenta's NetflixACAJudge-v1.0, for those who
//! come from there.
//!
//! Each metric of the canary is compared with the same metric of the baseline by the 98 % interval of the
//! rank-sum test, and classified; the shares of passing metrics are weighed by group into a score of 0 to
//! 100. Classifications, group scores, score and class are Kayenta's, case by case. What a release may
//! make of them is `Judgement::decides`, which passes on less.
//!
//! Where this differs from Kayenta:
//! - `decides` is `no_data` where Kayenta passes on nothing seen: a group without data scores 100 there,
//!   and a metric with no values at all passes under `replace`. Also where data is missing from a critical
//!   metric or from half of all metrics, which there is a plain failure.
//! - `decides` is `error` where a metric could not be classified; Kayenta leaves it out of the score.
//! - `decides` is `fail` for a marginal score: only a pass passes. `class` tells the two apart.
//! - Both thresholds must be given; without any, every score passes there.
//! - Settings that make no sense are an error: thresholds beyond 0 to 100, weights above 100 in all, a
//!   group left with a weight of 0 because the others take all 100, weights of groups without a metric.
//! - A metric that names no group is in the group `all`; Kayenta leaves it out of the score.
//! - Two samples of one single value each get noise of 1e-5 of that value, so that they can be ranked. It
//!   is random in Kayenta. Here it lies evenly, so that the same data is judged the same; one value on
//!   each side is an error, the outcome being a matter of chance there.
//! - An infinite value is an error; Kayenta goes on with it.
//!
//! What remains of Kayenta's dangers: it looks at ranks, so that a rare disaster passes (three values in
//! ten as before are enough); it knows no least number of samples; and where one mean is zero there is no
//! ratio, and `allowed_increase` does not protect from an alarm.

mod interval;
mod score;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use interval::Shift;

use super::normal;
use super::quantiles::quantile;
use crate::evidence::Verdict;

/// The interval of the shift is at this confidence.
const CONFIDENCE: f64 = 0.98;

/// The interval must be clear of zero by this share of the estimated shift.
const TOLERANCE: f64 = 0.25;

/// What samples of one single value are spread by, as a share of it.
const NOISE: f64 = 1e-5;

/// The group of metrics that name none.
const NO_GROUP: &str = "all";

/// The score that a canary needs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A score of this or more passes; above 0, up to 100.
    pub pass: f64,
    /// A score of this or more is marginal: not good enough to go on, not bad enough to be sure.
    pub marginal: f64,
    /// What each group counts, in percent of the score. Groups that are not named share the rest.
    #[serde(default)]
    pub groups: BTreeMap<String, f64>,
}

/// How one metric is compared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricConfig {
    /// Which deviation is a failure; either when absent.
    pub direction: Direction,
    /// What becomes of values that are NaN; they are removed when absent.
    pub nan_strategy: NanStrategy,
    /// What becomes of outliers; they are kept when absent.
    pub outliers: Outliers,
    /// How great a deviation has to be.
    pub effect_size: EffectSize,
    /// When it fails by the critical effect, or has no data, the score is 0.
    pub critical: bool,
    /// Without data it counts as failed, unless it is critical.
    pub must_have_data: bool,
    /// It is classified and shown, and counts for nothing.
    pub muted: bool,
    /// The groups it counts in; `all` when absent.
    pub groups: Vec<String>,
}

/// Which deviation of the canary is a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Only a higher value.
    Increase,
    /// Only a lower value.
    Decrease,
    /// Both.
    #[default]
    Either,
}

/// What becomes of values that are NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NanStrategy {
    /// They are left out.
    #[default]
    Remove,
    /// They become 0: no data of errors is no errors.
    Replace,
}

/// What becomes of outliers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outliers {
    /// Whether they stay.
    pub strategy: OutlierStrategy,
    /// Values further from the quartiles than so many times their distance are outliers, if they are
    /// outside of the 1st and the 99th percentile too; 3 when absent.
    pub factor: f64,
}

impl Default for Outliers {
    fn default() -> Self {
        Self { strategy: OutlierStrategy::Keep, factor: 3.0 }
    }
}

/// Whether outliers stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutlierStrategy {
    /// They stay.
    #[default]
    Keep,
    /// They are left out.
    Remove,
}

/// How great a deviation has to be. Each threshold is 1 for `mean_ratio` and 0.5 for `cles` when absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EffectSize {
    /// In what it is measured; `mean_ratio` when absent.
    pub measure: Measure,
    /// High needs an effect of this or more.
    pub allowed_increase: Option<f64>,
    /// Low needs an effect of this or less.
    pub allowed_decrease: Option<f64>,
    /// A critical metric that is high fails critically from this effect on.
    pub critical_increase: Option<f64>,
    /// A critical metric that is low fails critically from this effect down.
    pub critical_decrease: Option<f64>,
}

/// In what an effect is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The mean of the canary as a multiple of that of the baseline; there is none where one is 0, and
    /// then no effect is asked for.
    #[default]
    MeanRatio,
    /// The probability that a value of the canary exceeds one of the baseline, ties counted as half.
    Cles,
}

impl EffectSize {
    /// A threshold, or its default.
    fn or_default(&self, threshold: Option<f64>) -> f64 {
        threshold.unwrap_or(match self.measure {
            Measure::MeanRatio => 1.0,
            Measure::Cles => 0.5,
        })
    }
}

/// A metric and its values on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// How it is compared.
    pub config: MetricConfig,
    /// Values of the baseline, in the metric's unit; NaN where the source had none.
    pub baseline: Vec<f64>,
    /// Values of the canary.
    pub canary: Vec<f64>,
}

/// What became of a metric, in Kayenta's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Classification {
    /// No deviation in the direction that matters.
    Pass,
    /// The canary is higher.
    High,
    /// The canary is lower.
    Low,
    /// One side has no data; it does not count in its group.
    Nodata,
    /// One side has no data and must have; it counts as failed.
    NodataFailMetric,
    /// It could not be classified.
    Error,
}

impl Classification {
    /// Kayenta's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "Pass",
            Self::High => "High",
            Self::Low => "Low",
            Self::Nodata => "Nodata",
            Self::NodataFailMetric => "NodataFailMetric",
            Self::Error => "Error",
        }
    }

    pub(super) fn is_worse(self) -> bool {
        matches!(self, Self::High | Self::Low)
    }
}

/// What became of a metric, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricResult {
    /// Its name.
    pub name: String,
    /// The groups it counts in.
    pub groups: Vec<String>,
    /// What became of it.
    pub classification: Classification,
    /// It is a failure that sets the score to 0.
    pub critical: bool,
    /// It counts for nothing.
    pub muted: bool,
    /// One sentence, where there is something to say.
    pub reason: Option<String>,
    /// The mean of the canary as a multiple of that of the baseline; 1 where they were not compared, None
    /// where one of them is 0.
    pub ratio: Option<f64>,
    /// The effect in the measure of the metric; None where they were not compared or there is none.
    pub effect: Option<f64>,
    /// The shift with its interval, in units of the metric; None where they were not compared.
    pub shift: Option<Shift>,
    /// Values of the baseline that were compared, without NaN and outliers as configured.
    pub baseline: usize,
    /// Values of the canary that were compared.
    pub canary: usize,
}

impl MetricResult {
    /// It passes, with nothing to compare.
    fn passed_without_data(&self) -> bool {
        self.classification == Classification::Pass && (self.baseline == 0 || self.canary == 0)
    }
}

/// The score of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupScore {
    /// Its name.
    pub name: String,
    /// The share of its metrics that pass, in percent; 0 without data.
    pub score: f64,
    /// What it counts, in percent of the whole score.
    pub weight: f64,
    /// None of its metrics has data. In the whole score it counts as 100, as in Kayenta.
    pub no_data: bool,
    /// Metrics in it.
    pub metrics: usize,
}

/// The class of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// At or above the threshold to pass.
    Pass,
    /// At or above the marginal threshold.
    Marginal,
    /// Below both.
    Fail,
}

/// The whole judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The metrics in the order given.
    pub metrics: Vec<MetricResult>,
    /// The groups in order of their names.
    pub groups: Vec<GroupScore>,
    /// 0 to 100, to two decimal places.
    pub score: f64,
    /// The class of the score, as Kayenta has it.
    pub class: Class,
    /// Why the score was set to 0, where it was.
    pub reason: Option<String>,
    /// What a release makes of it: `pass` only when the class is a pass, and rests on data.
    pub decides: Verdict,
    /// One sentence about that.
    pub message: String,
}

/// Judges a canary by its metrics. Settings that make no sense are a sentence.
pub fn judge_kayenta(config: &Config, metrics: &[Metric]) -> Result<Judgement, String> {
    if let Some(problem) = problem(config, metrics) {
        return Err(problem);
    }
    Ok(score::judgement(config, metrics.iter().map(classify).collect()))
}

/// What is wrong with the settings.
fn problem(config: &Config, metrics: &[Metric]) -> Option<String> {
    let percent = |x: f64| (0.0..=100.0).contains(&x);
    if !(percent(config.pass) && config.pass > 0.0) {
        return Some("the score to pass must be above 0 and at most 100".into());
    }
    if !(percent(config.marginal) && config.marginal <= config.pass) {
        return Some("the marginal score must be at least 0 and at most the score to pass".into());
    }
    if let Some((name, _)) = config.groups.iter().find(|(_, weight)| !percent(**weight)) {
        return Some(format!("the weight of the group {name} must be between 0 and 100"));
    }
    let sum: f64 = config.groups.values().sum();
    if sum > 100.0 + 1e-9 {
        return Some(format!("the weights of the groups are {sum} in all; 100 is the most"));
    }
    let used: Vec<String> = metrics.iter().flat_map(|m| groups_of(&m.config)).collect();
    if let Some((name, _)) = config.groups.iter().find(|(name, _)| !used.contains(name)) {
        return Some(format!("the group {name} has a weight but no metric"));
    }
    let unweighted = used.iter().find(|name| !config.groups.contains_key(*name));
    if let Some(name) = unweighted.filter(|_| sum > 100.0 - 1e-9) {
        return Some(format!("the group {name} counts for nothing: the other groups weigh 100 in all"));
    }
    metrics.iter().find_map(|metric| metric_problem(&metric.config).map(|p| format!("{}: {p}", metric.name)))
}

fn metric_problem(config: &MetricConfig) -> Option<String> {
    if !(config.outliers.factor.is_finite() && config.outliers.factor > 0.0) {
        return Some("the factor of outliers must be above 0".into());
    }
    let effect = config.effect_size;
    let most = if effect.measure == Measure::Cles { 1.0 } else { f64::MAX };
    let thresholds = [
        ("allowed_increase", effect.allowed_increase),
        ("allowed_decrease", effect.allowed_decrease),
        ("critical_increase", effect.critical_increase),
        ("critical_decrease", effect.critical_decrease),
    ];
    thresholds.iter().find(|(_, value)| value.is_some_and(|x| !(0.0..=most).contains(&x))).map(|(name, _)| {
        let upper = if effect.measure == Measure::Cles { " and at most 1" } else { "" };
        format!("{name} must be at least 0{upper}")
    })
}

fn groups_of(config: &MetricConfig) -> Vec<String> {
    if config.groups.is_empty() { vec![NO_GROUP.to_owned()] } else { config.groups.clone() }
}

/// Classifies one metric.
fn classify(metric: &Metric) -> MetricResult {
    let prepare = |values: &[f64]| without_outliers(without_nan(values, &metric.config), &metric.config);
    let (baseline, canary) = (prepare(&metric.baseline), prepare(&metric.canary));
    let found = classified(&metric.name, &metric.config, &baseline, &canary, CONFIDENCE, TOLERANCE);
    MetricResult {
        name: metric.name.clone(),
        groups: groups_of(&metric.config),
        classification: found.classification,
        critical: found.critical,
        muted: metric.config.muted,
        reason: found.reason,
        ratio: found.ratio,
        effect: found.effect,
        shift: found.shift,
        baseline: baseline.len(),
        canary: canary.len(),
    }
}

fn without_nan(values: &[f64], config: &MetricConfig) -> Vec<f64> {
    match config.nan_strategy {
        NanStrategy::Remove => values.iter().copied().filter(|x| !x.is_nan()).collect(),
        NanStrategy::Replace => values.iter().map(|x| if x.is_nan() { 0.0 } else { *x }).collect(),
    }
}

fn without_outliers(values: Vec<f64>, config: &MetricConfig) -> Vec<f64> {
    if config.outliers.strategy == OutlierStrategy::Keep {
        return values;
    }
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |q| quantile(&sorted, q).unwrap_or_default();
    let reach = config.outliers.factor * (at(0.75) - at(0.25));
    let (low, high) = ((at(0.25) - reach).min(at(0.01)), (at(0.75) + reach).max(at(0.99)));
    values.into_iter().filter(|x| !(*x < low || *x > high)).collect()
}

/// The part of a result that comes from the values.
struct Found {
    classification: Classification,
    critical: bool,
    reason: Option<String>,
    ratio: Option<f64>,
    effect: Option<f64>,
    shift: Option<Shift>,
}

impl Found {
    fn without_comparison(classification: Classification, reason: Option<String>) -> Self {
        Self { classification, critical: false, reason, ratio: Some(1.0), effect: None, shift: None }
    }

    fn error(reason: &str) -> Self {
        let reason = Some(reason.to_owned());
        Self { ratio: None, ..Self::without_comparison(Classification::Error, reason) }
    }
}

fn classified(
    name: &str,
    config: &MetricConfig,
    baseline: &[f64],
    canary: &[f64],
    confidence: f64,
    tolerance: f64,
) -> Found {
    if baseline.is_empty() || canary.is_empty() {
        return without_data(name, config);
    }
    if !baseline.iter().chain(canary).all(|x| x.is_finite()) {
        return Found::error("a value is infinite");
    }
    if ascending(baseline) == ascending(canary) {
        let reason = "the data of canary and baseline is identical".to_owned();
        return Found::without_comparison(Classification::Pass, Some(reason));
    }
    if single(baseline).is_some() && single(baseline) == single(canary) {
        return Found::without_comparison(Classification::Pass, None);
    }
    let (baseline, canary) = match (single(baseline), single(canary)) {
        (Some(_), Some(_)) if baseline.len() == 1 && canary.len() == 1 => {
            return Found::error("one value on each side says nothing");
        }
        (Some(_), Some(_)) => (spread(baseline), spread(canary)),
        _ => (baseline.to_vec(), canary.to_vec()),
    };
    compared(name, config, &baseline, &canary, confidence, tolerance)
}

fn without_data(name: &str, config: &MetricConfig) -> Found {
    if config.nan_strategy == NanStrategy::Replace {
        return Found::without_comparison(Classification::Pass, None);
    }
    let reason = Some(format!("{name} has no data"));
    if config.must_have_data && !config.critical {
        return Found::without_comparison(Classification::NodataFailMetric, reason);
    }
    Found { critical: config.critical, ..Found::without_comparison(Classification::Nodata, reason) }
}

fn compared(
    name: &str,
    config: &MetricConfig,
    baseline: &[f64],
    canary: &[f64],
    confidence: f64,
    tolerance: f64,
) -> Found {
    let Some(shift) = interval::shift(baseline, canary, confidence) else {
        return Found::error("there is no interval: all values are tied");
    };
    let effect = config.effect_size;
    let ratio = mean_ratio(baseline, canary);
    let size = match effect.measure {
        Measure::MeanRatio => ratio,
        Measure::Cles => Some(interval::exceeds(baseline, canary)),
    };
    // Without an effect none is asked for.
    let reaches = |threshold| size.is_none_or(|x| x >= effect.or_default(threshold));
    let falls_to = |threshold| size.is_none_or(|x| x <= effect.or_default(threshold));
    let band = tolerance * shift.estimate.abs();
    let (classification, critical) =
        if config.direction != Direction::Decrease && shift.low > band && reaches(effect.allowed_increase) {
            (Classification::High, config.critical && reaches(effect.critical_increase))
        } else if config.direction != Direction::Increase
            && shift.high < -band
            && falls_to(effect.allowed_decrease)
        {
            (Classification::Low, config.critical && falls_to(effect.critical_decrease))
        } else {
            (Classification::Pass, false)
        };
    let critically = if critical { " (critical)" } else { "" };
    let reason =
        classification.is_worse().then(|| format!("{name} is {}{critically}", classification.word()));
    Found { classification, critical, reason, ratio, effect: size, shift: Some(shift) }
}

/// The mean of the canary as a multiple of that of the baseline; None where one of them is 0.
fn mean_ratio(baseline: &[f64], canary: &[f64]) -> Option<f64> {
    let (below, above) = (mean(baseline), mean(canary));
    (below != 0.0 && above != 0.0).then(|| above / below)
}

/// In two passes, the second for what the first lost by rounding.
fn mean(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let first = values.iter().sum::<f64>() / n;
    first + values.iter().map(|x| x - first).sum::<f64>() / n
}

/// The value that all values are.
#[expect(clippy::float_cmp, reason = "the very same value")]
fn single(values: &[f64]) -> Option<f64> {
    values.iter().all(|x| *x == values[0]).then(|| values[0])
}

/// Values that are all the same, spread like a normal distribution of 1e-5 of the value around it.
fn spread(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    let at = |i: usize| normal::quantile((i as f64 + 0.5) / n);
    values.iter().enumerate().map(|(i, x)| x + x * NOISE * at(i)).collect()
}

fn ascending(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::float_cmp, reason = "a test stops at what it did not expect")]
mod tests;
