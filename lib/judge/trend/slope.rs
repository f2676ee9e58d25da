//! The line through a series, by Theil and Sen: the median of the slopes between all pairs of points.

use super::{Point, Undecided, middle, usable};
use crate::judge::normal;
use crate::judge::quantiles::median;

/// The fewest points of a line.
pub const MIN_FOR_SLOPE: usize = 2;

/// A longer series is thinned evenly to at most this many points. Up to it the slopes are exact, of all
/// pairs.
pub const MAX_POINTS: usize = 10_000;

/// So many slopes are held at once; of more, only those near the wanted ranks.
const SLOPES_AT_ONCE: usize = 2_000_000;

/// So many pairs are drawn to find out where the wanted ranks lie.
const DRAWN: usize = 1 << 16;

/// How the line is put to its height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// The median of what remains of the values when the slope is taken off: as many points above the
    /// line as below it.
    Joint,
    /// Through the median time and the median value.
    Separate,
}

/// A line through a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// The median slope, in units of the series per second.
    pub slope: f64,
    /// The value of the line at t = 0, in units of the series.
    pub intercept: f64,
    /// The confidence interval of the slope, in units of the series per second. None where so many
    /// times and values are repeated that the method has none.
    pub interval: Option<(f64, f64)>,
    /// Points that were looked at.
    pub points: usize,
    /// Points that were left out to keep the series at `MAX_POINTS`.
    pub left_out: usize,
    /// All values are the same: the slope is 0, and nothing was seen that could have moved it.
    pub constant: bool,
}

impl Trend {
    /// The height of the line at `t` seconds.
    pub fn at(&self, t: f64) -> f64 {
        self.intercept + self.slope * t
    }
}

/// The Theil-Sen line of the points, with an interval of its slope at `confidence` (0.95 for 95 %).
///
/// It stands up to 29 % of the points being wild. The interval is Sen's, which takes the points to
/// scatter independently around the line; a series that wanders has a wider one in truth. Pairs at the
/// same time have no slope and do not count.
///
/// Needs `MIN_FOR_SLOPE` points at two or more different times. A series of more than `MAX_POINTS` is
/// thinned evenly (`left_out`). Exact for the rest, in O(n²) time and bounded memory: some 0.2 s for
/// 10,000 points, 16 MB.
/// Sources: Sen, Journal of the American Statistical Association 63 (1968), eq. 2.6; the ranks are
/// rounded as scipy.stats.theilslopes does.
#[expect(clippy::float_cmp, reason = "the very same value")]
pub fn theil_sen(points: &[Point], confidence: f64, intercept: Intercept) -> Result<Trend, Undecided> {
    if !(confidence > 0.0 && confidence < 1.0) {
        return Err(Undecided::Setting("the confidence of a slope must lie between 0 and 1"));
    }
    let all = usable(points, MIN_FOR_SLOPE)?;
    let used = thinned(&all);
    let pairs = pairs_in_time(&used);
    if pairs == 0 {
        return Err(Undecided::OneMoment);
    }
    let ranks = interval_ranks(&used, pairs, confidence);
    let mut wanted = vec![(pairs - 1) / 2, pairs / 2];
    wanted.extend(ranks.iter().flat_map(|(low, high)| [*low, *high]));
    let found = slopes_at(&used, pairs, &wanted);
    let slope = half_way(found[0], found[1]);
    if !found.iter().all(|slope| slope.is_finite()) {
        return Err(Undecided::OutOfRange);
    }
    let height = match intercept {
        Intercept::Joint => middle(used.iter().map(|p| p.value - slope * p.t)),
        Intercept::Separate => {
            middle(used.iter().map(|p| p.value)) - slope * middle(used.iter().map(|p| p.t))
        }
    };
    Ok(Trend {
        slope,
        intercept: height,
        interval: ranks.map(|_| (found[2], found[3])),
        points: used.len(),
        left_out: all.len() - used.len(),
        constant: used.windows(2).all(|two| two[0].value == two[1].value),
    })
}

/// Every k-th point, so that at most `MAX_POINTS` remain; the newest is always among them.
fn thinned(points: &[Point]) -> Vec<Point> {
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let mut kept: Vec<Point> = points.iter().rev().step_by(step).copied().collect();
    kept.reverse();
    kept
}

/// How many pairs were measured at different times.
#[expect(clippy::float_cmp, reason = "the very same moment")]
fn pairs_in_time(ordered: &[Point]) -> usize {
    let of = |n: usize| n * (n - 1) / 2;
    of(ordered.len()) - ordered.chunk_by(|a, b| a.t == b.t).map(|same| of(same.len())).sum::<usize>()
}

/// The ranks, from 0, of the slopes that bound the interval.
#[expect(clippy::float_cmp, reason = "a tie is the very same value")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and the number of pairs"
)]
fn interval_ranks(ordered: &[Point], pairs: usize, confidence: f64) -> Option<(usize, usize)> {
    let term = |n: usize| (n * (n - 1) * (2 * n + 5)) as f64;
    let mut values: Vec<f64> = ordered.iter().map(|p| p.value).collect();
    values.sort_by(f64::total_cmp);
    let ties_in_time: f64 = ordered.chunk_by(|a, b| a.t == b.t).map(|same| term(same.len())).sum();
    let ties: f64 = values.chunk_by(|a, b| a == b).map(|same| term(same.len())).sum();
    let variance = (term(ordered.len()) - ties_in_time - ties) / 18.0;
    if variance < 0.0 {
        return None;
    }
    let beyond = if confidence > 0.5 { 1.0 - confidence } else { confidence };
    let reach = -normal::quantile(beyond / 2.0) * variance.sqrt();
    let middle = pairs as f64;
    let high = f64::midpoint(middle, reach).round_ties_even() as usize;
    let low = f64::midpoint(middle, -reach).round_ties_even() - 1.0;
    Some((low.max(0.0) as usize, high.min(pairs - 1)))
}

/// The slopes at the wanted ranks, from 0 and in any order.
///
/// Of very many slopes only those between two drawn bounds are held; ranks outside of them are all but
/// impossible. After three such draws all slopes are held, 400 MB for `MAX_POINTS`.
fn slopes_at(ordered: &[Point], pairs: usize, wanted: &[usize]) -> Vec<f64> {
    let lowest = wanted.iter().copied().min().unwrap_or_default();
    let highest = wanted.iter().copied().max().unwrap_or_default();
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..3 {
        if pairs <= SLOPES_AT_ONCE {
            break;
        }
        let bounds = bracket(ordered, pairs, (lowest, highest), &mut dice);
        if let Some(mut seen) = gather(ordered, bounds, 3 * SLOPES_AT_ONCE)
            && seen.holds(lowest)
            && seen.holds(highest)
        {
            return wanted.iter().map(|rank| seen.at(*rank)).collect();
        }
    }
    let everything = (f64::NEG_INFINITY, f64::INFINITY);
    let seen = gather(ordered, everything, pairs);
    seen.map(|mut seen| wanted.iter().map(|rank| seen.at(*rank)).collect()).unwrap_or_default()
}

/// Bounds between which the slopes at both ranks lie almost surely: six standard errors around their
/// share of a draw.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the draw, and to the points"
)]
fn bracket(ordered: &[Point], pairs: usize, ranks: (usize, usize), dice: &mut u64) -> (f64, f64) {
    let mut roll = |below: usize| {
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        ((u128::from(*dice) * below as u128) >> 64) as usize
    };
    let mut drawn = Vec::with_capacity(DRAWN);
    while drawn.len() < DRAWN {
        let (first, second) = (ordered[roll(ordered.len())], ordered[roll(ordered.len())]);
        if first.t < second.t {
            drawn.push(between(first, second));
        }
    }
    drawn.sort_by(f64::total_cmp);
    let share = |rank: usize| rank as f64 / pairs as f64 * DRAWN as f64;
    let margin = 3.0 * (DRAWN as f64).sqrt() + 2.0;
    let (from, to) = (share(ranks.0) - margin, share(ranks.1) + margin);
    let low = if from < 0.0 { f64::NEG_INFINITY } else { drawn[(from as usize).min(DRAWN - 1)] };
    let high = drawn.get(to as usize).copied().unwrap_or(f64::INFINITY);
    (low, high)
}

/// The slope between two points, the second of them later.
fn between(first: Point, second: Point) -> f64 {
    (second.value - first.value) / (second.t - first.t)
}

/// All slopes, by where they lie to two bounds.
struct Gathered {
    below: usize,
    at_low: usize,
    low: f64,
    inside: Vec<f64>,
    at_high: usize,
    high: f64,
}

impl Gathered {
    /// Whether the slope at this rank is known.
    fn holds(&self, rank: usize) -> bool {
        (self.below..self.below + self.at_low + self.inside.len() + self.at_high).contains(&rank)
    }

    /// The slope at a rank that it holds.
    fn at(&mut self, rank: usize) -> f64 {
        let rank = rank - self.below;
        if rank < self.at_low {
            return self.low;
        }
        let rank = rank - self.at_low;
        if rank < self.inside.len() {
            return *self.inside.select_nth_unstable_by(rank, f64::total_cmp).1;
        }
        self.high
    }
}

/// The slopes within the bounds; None when more than `limit` lie strictly between. The same slope many
/// times over is no burden where it is a bound.
#[expect(clippy::float_cmp, reason = "the very same slope")]
fn gather(ordered: &[Point], (low, high): (f64, f64), limit: usize) -> Option<Gathered> {
    let mut seen = Gathered { below: 0, at_low: 0, low, inside: Vec::new(), at_high: 0, high };
    for (i, first) in ordered.iter().enumerate() {
        let later = &ordered[i + 1..];
        for second in &later[later.partition_point(|p| p.t <= first.t)..] {
            let slope = between(*first, *second);
            if slope < low {
                seen.below += 1;
            } else if slope == low {
                seen.at_low += 1;
            } else if slope < high {
                seen.inside.push(slope);
            } else if slope == high {
                seen.at_high += 1;
            }
        }
        if seen.inside.len() > limit {
            return None;
        }
    }
    Some(seen)
}

fn half_way(a: f64, b: f64) -> f64 {
    median(&[a, b]).unwrap_or(a)
}
