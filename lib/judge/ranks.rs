//! Rank statistics of two samples: robust against outliers, blind to the shape of the distribution.

mod exact;
mod sample;
mod select;
mod shift;
mod ties;

pub use sample::Sample;
pub use shift::{Shift, hodges_lehmann, shift, shift_of};

use super::normal::upper_tail;
use exact::Arrangements;
use sample::Pooled;

/// What the second sample may be other than the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alternative {
    /// Its values tend to be greater.
    Greater,
    /// Its values tend to be less.
    Less,
    /// Either; the p-value is twice that of the nearer side.
    TwoSided,
}

/// How the p-value of the rank test is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Every arrangement of the ranks counted, as if there were no ties.
    Exact,
    /// The normal approximation, with corrections for ties and continuity.
    Asymptotic,
    /// `Exact` when a sample has 8 values or fewer and nothing is tied, `Asymptotic` otherwise.
    Auto,
    /// Every way counted of dealing these very values, ties and all, to the two samples: valid for
    /// any small samples.
    ExactTies,
}

/// The Mann-Whitney test of two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MannWhitney {
    /// The U statistic of the second sample: pairs in which it is greater, ties counted as half.
    pub u: f64,
    /// The probability of such a U, or one further out, when nothing differs.
    pub p_value: f64,
    /// The probability that a value of the second sample is greater than one of the first, ties
    /// counted as half; 0.5 when nothing differs.
    pub effect: f64,
    /// How the p-value was computed: never `Auto`, and `Asymptotic` too where there were too many
    /// arrangements to count.
    pub method: Method,
}

/// Whether the values of `b` tend to be greater than those of `a`: one-sided, asymptotic.
///
/// None when a sample is empty or holds a value that is not finite.
pub fn mann_whitney(a: &[f64], b: &[f64]) -> Option<MannWhitney> {
    mann_whitney_test(a, b, Alternative::Greater, Method::Asymptotic)
}

/// Whether the values of `b` are other than those of `a`. O(n log n).
///
/// The p-value is 1 when all values are the same. None when a sample is empty or holds a value that
/// is not finite.
pub fn mann_whitney_test(
    a: &[f64],
    b: &[f64],
    alternative: Alternative,
    method: Method,
) -> Option<MannWhitney> {
    Some(mann_whitney_of(&Sample::of(a)?, &Sample::of(b)?, alternative, method))
}

/// [`mann_whitney_test`] of samples that are in order already.
///
/// The figures and the choice of `Auto` are those of `scipy.stats.mannwhitneyu(b, a)`.
/// Source: Mann & Whitney, Annals of Mathematical Statistics 18 (1947); ties as in Hollander & Wolfe.
pub fn mann_whitney_of(a: &Sample, b: &Sample, alternative: Alternative, method: Method) -> MannWhitney {
    let pooled = Pooled::of(a, b);
    let small = a.len().min(b.len()) <= 8 && !pooled.tied();
    let method = if method == Method::Auto && small { Method::Exact } else { method };
    let counted = match method {
        Method::Exact => exact(&pooled, alternative).map(|p| (p, method)),
        Method::ExactTies => ties::p_value(a, b, alternative).map(|p| (p, method)),
        Method::Asymptotic | Method::Auto => None,
    };
    let (p_value, method) = counted.unwrap_or_else(|| (asymptotic(&pooled, alternative), Method::Asymptotic));
    MannWhitney { u: pooled.u(), p_value, effect: pooled.u() / pooled.pairs() as f64, method }
}

/// Twice the U whose upper tail is asked for, and what the tail is multiplied with.
fn extreme(pooled: &Pooled, alternative: Alternative) -> (u128, f64) {
    let (greater, less) = (pooled.twice_u, 2 * pooled.pairs() - pooled.twice_u);
    match alternative {
        Alternative::Greater => (greater, 1.0),
        Alternative::Less => (less, 1.0),
        Alternative::TwoSided => (greater.max(less), 2.0),
    }
}

fn exact(pooled: &Pooled, alternative: Alternative) -> Option<f64> {
    let (twice_u, sides) = extreme(pooled, alternative);
    let arrangements = Arrangements::of(pooled.in_a, pooled.in_b)?;
    let at_least = usize::try_from(twice_u / 2).ok()?;
    Some((sides * arrangements.share_from(at_least)).min(1.0))
}

fn asymptotic(pooled: &Pooled, alternative: Alternative) -> f64 {
    let deviation = pooled.deviation();
    if deviation <= 0.0 {
        return 1.0;
    }
    let (twice_u, sides) = extreme(pooled, alternative);
    let pairs = pooled.pairs();
    let above = if twice_u >= pairs { (twice_u - pairs) as f64 } else { -((pairs - twice_u) as f64) };
    (sides * upper_tail((above / 2.0 - 0.5) / deviation)).min(1.0)
}
