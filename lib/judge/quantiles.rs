//! Quantiles of a sample, and where the true ones lie.

use super::binomial::{at_most, more_than, smallest};

/// A quantile of a sample, or of two compared, and where the true one lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantileEstimate {
    /// What the sample has.
    pub value: f64,
    /// The lower end at the confidence asked for; None where the sample is too small to have one.
    pub low: Option<f64>,
    /// The upper end at the confidence asked for; None where the sample is too small to have one.
    pub high: Option<f64>,
}

/// The quantile `q` in 0..=1 of an ascending sample; None for an empty one.
///
/// Linear between the two nearest order statistics, what R calls type 7 and numpy and Excel use.
/// Source: Hyndman & Fan, The American Statistician 50 (1996), definition 7.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = last as f64 * q.clamp(0.0, 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = (at.floor() as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (at - below as f64))
}

/// The median of an ascending sample; None for an empty one.
pub fn median(sorted: &[f64]) -> Option<f64> {
    quantile(sorted, 0.5)
}

/// The quantile `q` of an ascending sample, and where the true one lies at a two-sided confidence
/// such as 0.95, whatever the distribution. None for an empty sample.
///
/// The ends are order statistics: so many lie below the quantile as a binomial variable says.
/// Source: Conover, Practical Nonparametric Statistics, 3rd edition (1999), section 3.2.
pub fn quantile_interval(sorted: &[f64], q: f64, confidence: f64) -> Option<QuantileEstimate> {
    let value = quantile(sorted, q)?;
    let beyond = beyond_each_end(confidence);
    Some(QuantileEstimate { value, low: low_end(sorted, q, beyond), high: high_end(sorted, q, beyond) })
}

/// By how much the quantile `q` of `b` exceeds that of `a`, both ascending, at a two-sided confidence
/// such as 0.95. None if a sample is empty.
///
/// The ends combine one end of each sample, each at the root of the one-sided confidence: the samples
/// are independent, so both hold together with the confidence asked for. That is conservative, the
/// interval is somewhat wider than it had to be.
pub fn quantile_difference(a: &[f64], b: &[f64], q: f64, confidence: f64) -> Option<QuantileEstimate> {
    let ends = Ends::of(a, b, q, confidence)?;
    Some(QuantileEstimate {
        value: ends.value_b - ends.value_a,
        low: ends.low_b.zip(ends.high_a).map(|(b, a)| b - a),
        high: ends.high_b.zip(ends.low_a).map(|(b, a)| b - a),
    })
}

/// How many times the quantile `q` of `a` that of `b` is, both ascending and of positive values such
/// as latencies, at a two-sided confidence such as 0.95; combined like [`quantile_difference`].
///
/// None if a sample is empty or holds a negative value, and if the quantile of `a` is 0. An end is
/// None too where it would divide by 0.
pub fn quantile_ratio(a: &[f64], b: &[f64], q: f64, confidence: f64) -> Option<QuantileEstimate> {
    let ends = Ends::of(a, b, q, confidence)?;
    if a[0] < 0.0 || b[0] < 0.0 || ends.value_a <= 0.0 {
        return None;
    }
    let ratio = |(b, a): (f64, f64)| (a > 0.0).then_some(b / a);
    Some(QuantileEstimate {
        value: ends.value_b / ends.value_a,
        low: ends.low_b.zip(ends.high_a).and_then(ratio),
        high: ends.high_b.zip(ends.low_a).and_then(ratio),
    })
}

/// The ends of two intervals that hold together.
struct Ends {
    value_a: f64,
    low_a: Option<f64>,
    high_a: Option<f64>,
    value_b: f64,
    low_b: Option<f64>,
    high_b: Option<f64>,
}

impl Ends {
    fn of(a: &[f64], b: &[f64], q: f64, confidence: f64) -> Option<Self> {
        // 1 - sqrt(1 - beyond), without cancellation.
        let beyond = -libm::expm1(0.5 * libm::log1p(-beyond_each_end(confidence)));
        Some(Self {
            value_a: quantile(a, q)?,
            low_a: low_end(a, q, beyond),
            high_a: high_end(a, q, beyond),
            value_b: quantile(b, q)?,
            low_b: low_end(b, q, beyond),
            high_b: high_end(b, q, beyond),
        })
    }
}

/// NaN for a confidence that is none.
fn beyond_each_end(confidence: f64) -> f64 {
    if confidence > 0.0 && confidence < 1.0 { (1.0 - confidence) / 2.0 } else { f64::NAN }
}

/// The greatest order statistic above which the quantile is, but for the probability `beyond`.
fn low_end(sorted: &[f64], q: f64, beyond: f64) -> Option<f64> {
    let n = sorted.len() as u64;
    if !sensible(q, beyond) {
        return None;
    }
    let below = smallest(n, |k| at_most(k, n, q) >= beyond);
    sorted.get(usize::try_from(below.checked_sub(1)?).ok()?).copied()
}

/// The smallest order statistic below which the quantile is, but for the probability `beyond`.
fn high_end(sorted: &[f64], q: f64, beyond: f64) -> Option<f64> {
    let n = sorted.len() as u64;
    if !sensible(q, beyond) {
        return None;
    }
    let up_to = smallest(n, |k| more_than(k, n, q) <= beyond);
    sorted.get(usize::try_from(up_to).ok()?).copied()
}

fn sensible(q: f64, beyond: f64) -> bool {
    q > 0.0 && q < 1.0 && beyond > 0.0 && beyond < 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_type_seven() {
        let sample = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert_eq!(quantile(&sample, 0.0), Some(1.0));
        assert_eq!(quantile(&sample, 0.25), Some(2.0));
        assert_eq!(median(&sample), Some(4.0));
        assert!(quantile(&sample, 0.95).is_some_and(|q| (q - 14.4).abs() < 1e-12));
        assert_eq!(quantile(&sample, 1.0), Some(16.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
