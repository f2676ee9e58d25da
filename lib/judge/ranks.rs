//! Rank statistics of two samples: robust against outliers, blind to the shape of the distribution.

/// The Mann-Whitney test of two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MannWhitney {
    /// The U statistic of the second sample: pairs in which it is greater, ties counted as half.
    pub u: f64,
    /// One-sided: the probability of such a U or a greater one when nothing differs.
    pub p_value: f64,
    /// The probability that a value of the second sample is greater than one of the first, ties
    /// counted as half; 0.5 when nothing differs.
    pub effect: f64,
}

/// Whether the values of `b` tend to be greater than those of `a`. O(n log n).
///
/// The p-value is asymptotic, with corrections for ties and continuity; it is 1 when all values are
/// the same. None when a sample is empty or holds a value that is not finite.
/// Source: Mann & Whitney, Annals of Mathematical Statistics 18 (1947); ties as in Hollander & Wolfe.
#[expect(clippy::float_cmp, reason = "a tie is the very same value")]
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<MannWhitney> {
    if a.is_empty() || b.is_empty() || !a.iter().chain(b).all(|x| x.is_finite()) {
        return None;
    }
    let (na, nb) = (a.len() as f64, b.len() as f64);
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|x| (*x, false)).chain(b.iter().map(|x| (*x, true))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    // Twice the sum of b's ranks: whole numbers, so that the order of summing changes nothing.
    let (mut twice_ranks, mut ties, mut before) = (0.0, 0.0, 0_usize);
    for same in all.chunk_by(|x, y| x.0 == y.0) {
        let count = same.len() as f64;
        let twice_rank = 2.0 * before as f64 + count + 1.0;
        twice_ranks += twice_rank * same.iter().filter(|x| x.1).count() as f64;
        ties += count * count * count - count;
        before += same.len();
    }
    let u = twice_ranks / 2.0 - nb * (nb + 1.0) / 2.0;
    let n = na + nb;
    let variance = na * nb / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)));
    let p_value = if variance > 0.0 { upper_tail((u - na * nb / 2.0 - 0.5) / variance.sqrt()) } else { 1.0 };
    Some(MannWhitney { u, p_value, effect: u / (na * nb) })
}

/// The probability that a standard normal variable exceeds `z`.
fn upper_tail(z: f64) -> f64 {
    (0.5 * libm::erfc(z / std::f64::consts::SQRT_2)).clamp(0.0, 1.0)
}

/// By how much a typical value of `b` exceeds one of `a`: the median of all pairwise differences.
/// None when a sample is empty or holds a value that is not finite.
///
/// Exact for any size without forming the pairs: the differences are counted below a limit that is
/// halved in, O(64 (n + m)) after sorting.
/// Source: Hodges & Lehmann, Annals of Mathematical Statistics 34 (1963).
pub fn hodges_lehmann(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() || !a.iter().chain(b).all(|x| x.is_finite()) {
        return None;
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let pairs = a.len() as u128 * b.len() as u128;
    let upper = difference_at(&a, &b, pairs / 2 + 1);
    let lower = if pairs.is_multiple_of(2) { difference_at(&a, &b, pairs / 2) } else { upper };
    Some(lower + (upper - lower) / 2.0)
}

/// The `rank`-th smallest difference (from 1) of a value of `b` and one of `a`.
fn difference_at(a: &[f64], b: &[f64], rank: u128) -> f64 {
    let (mut low, mut high) = (ordered(f64::NEG_INFINITY), ordered(f64::INFINITY));
    while low < high {
        // Rounded down, also below zero: rounded towards zero it would never end.
        let middle = low + (high - low) / 2;
        if differences_up_to(a, b, unordered(middle)) >= rank {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    unordered(low)
}

/// How many differences are at most `limit`. Rounding keeps the order, so the pointer never goes back.
fn differences_up_to(a: &[f64], b: &[f64], limit: f64) -> u128 {
    let (mut count, mut reached) = (0, 0);
    for from in a {
        while reached < b.len() && b[reached] - from <= limit {
            reached += 1;
        }
        count += reached as u128;
    }
    count
}

/// Whole numbers in the order of the floating-point numbers that they stand for.
fn ordered(x: f64) -> i128 {
    let bits = x.to_bits().cast_signed();
    i128::from(if bits < 0 { bits ^ i64::MAX } else { bits })
}

#[expect(clippy::cast_possible_truncation, reason = "between two values that `ordered` made")]
fn unordered(x: i128) -> f64 {
    let bits = x as i64;
    f64::from_bits((if bits < 0 { bits ^ i64::MAX } else { bits }).cast_unsigned())
}
