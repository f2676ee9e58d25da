//! The interval of the shift between two samples, as Kayenta and R compute it: by inverting the rank-sum
//! test with its normal approximation.

use crate::judge::normal;

/// Both search for a root until they are within this, in the unit of the values.
const TOLERANCE: f64 = 1e-4;

/// They give up after so many steps and take what they have.
const STEPS: usize = 1001;

/// By how much the values of the canary exceed those of the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// The lower end of the interval, in units of the metric.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The typical shift.
    pub estimate: f64,
}

/// The shift of `canary` against `baseline` with its interval at `confidence`. None where at some shift
/// all values are tied, so that there is no interval. Both samples must be finite and not empty.
///
/// The interval is that of R's `wilcox.test(canary, baseline, conf.int = TRUE, exact = FALSE)`: ties and
/// continuity are corrected for, and its ends are found to within 1e-4 of a unit. So is the estimate,
/// where Kayenta corrects for continuity as well and R does not. Samples too small for the confidence
/// have the least and the greatest difference as their interval.
pub(super) fn shift(baseline: &[f64], canary: &[f64], confidence: f64) -> Option<Shift> {
    let samples = Samples::of(baseline, canary);
    let (from, to) = (samples.least(), samples.greatest());
    let (at_from, at_to) = (samples.statistic(from)?, samples.statistic(to)?);
    let end = |quantile: f64| -> Option<f64> {
        if at_from - quantile <= 0.0 {
            Some(from)
        } else if at_to - quantile >= 0.0 {
            Some(to)
        } else {
            let ends = ((from, at_from - quantile), (to, at_to - quantile));
            root(ends, |shift| samples.statistic(shift).map(|z| z - quantile))
        }
    };
    let quantile = normal::quantile((1.0 - confidence) / 2.0);
    Some(Shift {
        low: end(-quantile)?,
        high: end(quantile)?,
        estimate: root(((from, at_from), (to, at_to)), |shift| samples.statistic(shift))?,
    })
}

/// The probability that a value of the canary exceeds one of the baseline, ties counted as half.
pub(super) fn exceeds(baseline: &[f64], canary: &[f64]) -> f64 {
    Samples::of(baseline, canary).won(0.0).0 / (baseline.len() as f64 * canary.len() as f64)
}

/// Two samples, ascending.
struct Samples {
    baseline: Vec<f64>,
    canary: Vec<f64>,
}

impl Samples {
    fn of(baseline: &[f64], canary: &[f64]) -> Self {
        let ascending = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        Self { baseline: ascending(baseline), canary: ascending(canary) }
    }

    fn least(&self) -> f64 {
        self.canary[0] - self.baseline[self.baseline.len() - 1]
    }

    fn greatest(&self) -> f64 {
        self.canary[self.canary.len() - 1] - self.baseline[0]
    }

    /// The rank-sum statistic of the canary, moved down by `shift`, in standard deviations; None when all
    /// values are tied then.
    fn statistic(&self, shift: f64) -> Option<f64> {
        let (n, m) = (self.canary.len() as f64, self.baseline.len() as f64);
        let (won, ties) = self.won(shift);
        let above = won - n * m / 2.0;
        let correction = if above == 0.0 { 0.0 } else { 0.5 * above.signum() };
        let deviation = (n * m / 12.0 * ((n + m + 1.0) - ties / ((n + m) * (n + m - 1.0)))).sqrt();
        (deviation > 0.0).then(|| (above - correction) / deviation)
    }

    /// In how many pairs the canary, moved down by `shift`, exceeds the baseline, ties counted as half;
    /// and the sum of t³ - t over the groups of t tied values. Subtracting keeps the order, so that one
    /// walk along both samples is enough.
    fn won(&self, shift: f64) -> (f64, f64) {
        let (mut x, mut y) = (0, 0);
        let (mut won, mut ties) = (0.0, 0.0);
        loop {
            let next = match (self.canary.get(x).map(|v| v - shift), self.baseline.get(y)) {
                (Some(a), Some(b)) => a.min(*b),
                (Some(a), None) => a,
                (None, Some(b)) => *b,
                (None, None) => return (won, ties),
            };
            let of_canary = self.canary[x..].iter().take_while(|v| **v - shift <= next).count();
            let of_baseline = self.baseline[y..].iter().take_while(|v| **v <= next).count();
            let same = (of_canary + of_baseline) as f64;
            won += of_canary as f64 * (y as f64 + of_baseline as f64 / 2.0);
            ties += same * same * same - same;
            (x, y) = (x + of_canary, y + of_baseline);
        }
    }
}

/// One place of the search and the value there.
type Place = (f64, f64);

/// Where a function is zero between two places, by Brent's method with the very steps of R's `uniroot`.
/// On a step function the result depends on them: it is where the step is, to within the tolerance.
/// Source: Brent, Algorithms for Minimization without Derivatives (1973), chapter 4.
fn root((from, to): (Place, Place), value: impl Fn(f64) -> Option<f64>) -> Option<f64> {
    for end in [from, to] {
        if end.1 == 0.0 {
            return Some(end.0);
        }
    }
    // `best` is the best so far, `other` lies across the root, `last` was best before.
    let (mut last, mut best, mut other) = (from, to, from);
    for _ in 0..STEPS {
        let stride = best.0 - last.0;
        if other.1.abs() < best.1.abs() {
            (last, best, other) = (best, other, best);
        }
        let near = 2.0 * f64::EPSILON * best.0.abs() + TOLERANCE / 2.0;
        let half = (other.0 - best.0) / 2.0;
        if half.abs() <= near || best.1 == 0.0 {
            break;
        }
        let mut step = half;
        if stride.abs() >= near && last.1.abs() > best.1.abs() {
            step = interpolated(last, best, other, stride, near).unwrap_or(half);
        }
        if step.abs() < near {
            step = near.copysign(step);
        }
        last = best;
        best.0 += step;
        best.1 = value(best.0)?;
        if (best.1 > 0.0 && other.1 > 0.0) || (best.1 < 0.0 && other.1 < 0.0) {
            other = last;
        }
    }
    Some(best.0)
}

/// The step of the inverse interpolation, of second degree where there are three places; None where it
/// leads too far.
#[expect(clippy::float_cmp, reason = "the very same place")]
fn interpolated(last: Place, best: Place, other: Place, stride: f64, near: f64) -> Option<f64> {
    let across = other.0 - best.0;
    let by_last = best.1 / last.1;
    let (mut p, mut q) = if last.0 == other.0 {
        (across * by_last, 1.0 - by_last)
    } else {
        let (q, by_other) = (last.1 / other.1, best.1 / other.1);
        let p = by_last * (across * q * (q - by_other) - (best.0 - last.0) * (by_other - 1.0));
        (p, (q - 1.0) * (by_other - 1.0) * (by_last - 1.0))
    };
    if p > 0.0 {
        q = -q;
    } else {
        p = -p;
    }
    (p < 0.75 * across * q - (near * q).abs() / 2.0 && p < (stride * q / 2.0).abs()).then(|| p / q)
}
