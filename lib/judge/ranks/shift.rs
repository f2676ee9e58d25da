//! By how much one sample exceeds another: the shift of Hodges and Lehmann.

use super::exact::Arrangements;
use super::sample::{Pooled, Sample};
use super::select::differences;
use crate::judge::normal;
use crate::judge::rates::Interval;

/// From here on the rank test behind an interval is asymptotic, as in R.
const EXACT_BELOW: usize = 50;

/// By how much a typical value of the second sample exceeds one of the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// The median of all pairwise differences.
    pub estimate: f64,
    /// Where the true shift lies, at the confidence asked for; None where the samples are too small
    /// for such a confidence.
    pub interval: Option<Interval>,
    /// Whether the interval is exact: both samples below 50 values, and no value twice.
    pub exact: bool,
}

/// By how much a typical value of `b` exceeds one of `a`: the median of all pairwise differences.
/// None when a sample is empty or holds a value that is not finite, or a difference is not finite.
///
/// Exact for any size without forming the pairs, O((n + m) log (n + m)).
/// Source: Hodges & Lehmann, Annals of Mathematical Statistics 34 (1963).
pub fn hodges_lehmann(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (Sample::of(a)?, Sample::of(b)?);
    let found = differences(&a, &b, &middle(&a, &b))?;
    Some(found[0].midpoint(found[1]))
}

/// By how much a typical value of `b` exceeds one of `a`, and where the true shift lies at a
/// two-sided confidence such as 0.95.
///
/// None when a sample is empty or holds a value that is not finite, or a difference is not finite.
pub fn shift(a: &[f64], b: &[f64], confidence: f64) -> Option<Shift> {
    shift_of(&Sample::of(a)?, &Sample::of(b)?, confidence)
}

/// [`shift`] of samples that are in order already.
///
/// The ends are those pairwise differences at which the rank test is just not significant: exactly
/// counted below 50 untied values a side, else by the normal approximation with corrections for ties
/// and continuity, as in R's `wilcox.test`.
/// Source: Hollander & Wolfe, Nonparametric Statistical Methods, 2nd edition (1999), section 4.3.
pub fn shift_of(a: &Sample, b: &Sample, confidence: f64) -> Option<Shift> {
    let pooled = Pooled::of(a, b);
    let exact = a.len() < EXACT_BELOW && b.len() < EXACT_BELOW && !pooled.tied();
    let rank = if confidence > 0.0 && confidence < 1.0 {
        let beyond = (1.0 - confidence) / 2.0;
        if exact { exact_rank(&pooled, beyond) } else { asymptotic_rank(&pooled, beyond) }
    } else {
        None
    };
    let mut wanted = middle(a, b).to_vec();
    if let Some(rank) = rank {
        wanted.extend([rank, pairs(a, b) + 1 - rank]);
    }
    let found = differences(a, b, &wanted)?;
    let interval = rank.map(|_| Interval { low: found[2], high: found[3] });
    Some(Shift { estimate: found[0].midpoint(found[1]), interval, exact })
}

fn pairs(a: &Sample, b: &Sample) -> u64 {
    // Samples are below 2^32 values.
    a.len() as u64 * b.len() as u64
}

/// The ranks of the one or two differences in the middle.
fn middle(a: &Sample, b: &Sample) -> [u64; 2] {
    let pairs = pairs(a, b);
    [pairs.div_ceil(2), pairs / 2 + 1]
}

/// The rank of the difference at the lower end, from 1; None if even the least is too likely.
fn exact_rank(pooled: &Pooled, beyond: f64) -> Option<u64> {
    let arrangements = Arrangements::of(pooled.in_a, pooled.in_b)?;
    let beyond = beyond - 10.0 * f64::EPSILON;
    let mut rank = 0;
    while arrangements.share_up_to(rank) < beyond {
        rank += 1;
    }
    u64::try_from(rank).ok().filter(|rank| *rank > 0)
}

fn asymptotic_rank(pooled: &Pooled, beyond: f64) -> Option<u64> {
    let pairs = pooled.pairs() as f64;
    let rank = (pairs / 2.0 - 0.5 + normal::quantile(beyond) * pooled.deviation()).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most half of the pairs")]
    (rank >= 1.0).then_some((rank as u64).min(u64::try_from(pooled.pairs().div_ceil(2)).ok()?))
}
