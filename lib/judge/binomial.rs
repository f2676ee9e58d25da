//! The binomial and the hypergeometric distribution.
//!
//! Points are computed as deviations from the expected number, not as differences of great
//! logarithms: so they keep their digits at 10^9 requests too.
//! Source: Loader, Fast and accurate computation of binomial probabilities (2000).

use std::f64::consts::PI;

/// The probability that at most `k` of `n` hit, each with probability `p`.
pub(super) fn at_most(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        1.0
    } else if (k as f64) < n as f64 * p {
        sum_down(k, n, p).min(1.0)
    } else {
        (1.0 - sum_up(k + 1, n, p)).clamp(0.0, 1.0)
    }
}

/// The probability that more than `k` of `n` hit, each with probability `p`.
pub(super) fn more_than(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        0.0
    } else if (k as f64) < n as f64 * p {
        (1.0 - sum_down(k, n, p)).clamp(0.0, 1.0)
    } else {
        sum_up(k + 1, n, p).min(1.0)
    }
}

/// The probability with which at most `k` of `n` hit only with probability `share`; `k` below `n`.
pub(super) fn where_at_most(k: u64, n: u64, share: f64) -> f64 {
    let slope = |p: f64| -((n - k) as f64) * exactly(k, n, p) / (1.0 - p);
    solve(k as f64 / n as f64, share, true, |p| at_most(k, n, p), slope)
}

/// The probability with which `k` or more of `n` hit only with probability `share`; `k` above 0.
pub(super) fn where_at_least(k: u64, n: u64, share: f64) -> f64 {
    let slope = |p: f64| k as f64 * exactly(k, n, p) / p;
    solve(k as f64 / n as f64, share, false, |p| more_than(k - 1, n, p), slope)
}

/// The probability in 0..=1 with which a tail, which grows or falls with it, is `share`.
///
/// Newton's method on the logarithm of the tail, which is concave, kept between bounds that close in.
fn solve(from: f64, share: f64, falls: bool, tail: impl Fn(f64) -> f64, slope: impl Fn(f64) -> f64) -> f64 {
    if !(share > 0.0 && share < 1.0) {
        return if (share >= 1.0) == falls { 0.0 } else { 1.0 };
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut p = if from > 0.0 && from < 1.0 { from } else { 0.5 };
    for _ in 0..200 {
        let seen = tail(p);
        if (seen < share) == falls {
            high = p;
        } else {
            low = p;
        }
        let mut next = p + (share / seen).ln() * seen / slope(p);
        if !(next > low && next < high) {
            next = low.midpoint(high);
        }
        if (next - p).abs() <= 1e-14 * p || next <= low || next >= high {
            return next.clamp(low, high);
        }
        p = next;
    }
    p
}

/// The probability that exactly `k` of `n` hit.
fn exactly(k: u64, n: u64, p: f64) -> f64 {
    ln_point(k as f64, n as f64, p, 1.0 - p).exp()
}

/// Of `k` or fewer: terms that shrink, because `k` is below the mean.
fn sum_down(k: u64, n: u64, p: f64) -> f64 {
    let odds = (1.0 - p) / p;
    let shrink = |k: u64| k as f64 / (n - k + 1) as f64 * odds;
    sum((1..=k).rev().map(shrink), exactly(k, n, p))
}

/// Of `k` or more: terms that shrink, because `k` is above the mean.
fn sum_up(k: u64, n: u64, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let shrink = |k: u64| (n - k) as f64 / (k + 1) as f64 * odds;
    sum((k..n).map(shrink), exactly(k, n, p))
}

/// Of a term and those after it, given what each is multiplied with, while they count.
fn sum(ratios: impl Iterator<Item = f64>, first: f64) -> f64 {
    let (mut term, mut sum) = (first, first);
    for ratio in ratios {
        term *= ratio;
        sum += term;
        if term <= sum * 1e-18 {
            break;
        }
    }
    sum
}

/// The smallest number in 0..=`n` for which `reached` holds; it must hold from there on. `n` if none.
pub(super) fn smallest(n: u64, reached: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low + (high - low) / 2;
        if reached(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The hits of `b` when `hits` of all are spread over `of_a` and `of_b` by chance.
pub(super) struct Spread {
    pub(super) of_a: u64,
    pub(super) of_b: u64,
    pub(super) hits: u64,
}

impl Spread {
    /// The fewest hits that b can have.
    pub(super) fn least(&self) -> u64 {
        self.hits.saturating_sub(self.of_a)
    }

    /// The most hits that b can have.
    pub(super) fn most(&self) -> u64 {
        self.hits.min(self.of_b)
    }

    /// What b has on average.
    pub(super) fn mean(&self) -> f64 {
        self.hits as f64 * (self.of_b as f64 / (self.of_a as f64 + self.of_b as f64))
    }

    /// The probability of exactly `k` hits on b, `least()..=most()`.
    pub(super) fn exactly(&self, k: u64) -> f64 {
        let (of_a, of_b, hits, k) = (self.of_a as f64, self.of_b as f64, self.hits as f64, k as f64);
        let all = of_a + of_b;
        let (p, q) = (hits / all, (all - hits) / all);
        (ln_point(k, of_b, p, q) + ln_point(hits - k, of_a, p, q) - ln_point(hits, all, p, q)).exp()
    }

    /// The probability of `from` hits or more on b.
    pub(super) fn at_least(&self, from: u64) -> f64 {
        // Summed from the thin end, where terms shrink: the other end could begin with an underflow.
        if from <= self.least() {
            1.0
        } else if from as f64 > self.mean() {
            self.sum_up(from).min(1.0)
        } else {
            (1.0 - self.sum_down(from - 1)).clamp(0.0, 1.0)
        }
    }

    /// The probability of `to` hits or fewer on b.
    pub(super) fn at_most(&self, to: u64) -> f64 {
        if to >= self.most() {
            1.0
        } else if (to as f64) < self.mean() {
            self.sum_down(to).min(1.0)
        } else {
            (1.0 - self.sum_up(to + 1)).clamp(0.0, 1.0)
        }
    }

    /// What the probability is multiplied with from `k` hits on b to `k + 1`.
    fn growth(&self, k: u64) -> f64 {
        let (of_a, of_b, left, k) = (self.of_a as f64, self.of_b as f64, (self.hits - k) as f64, k as f64);
        (of_b - k) * left / ((k + 1.0) * (of_a - left + 1.0))
    }

    /// Whether `k` hits on b are as probable as `k + 1` or more.
    pub(super) fn falls_after(&self, k: u64) -> bool {
        self.growth(k) <= 1.0
    }

    fn sum_up(&self, from: u64) -> f64 {
        sum((from..self.most()).map(|k| self.growth(k)), self.exactly(from))
    }

    fn sum_down(&self, from: u64) -> f64 {
        sum((self.least()..from).rev().map(|k| 1.0 / self.growth(k)), self.exactly(from))
    }
}

/// The logarithm of the probability of exactly `k` of `n`, each with probability `p`; `q` is the rest.
/// The numbers need not be whole.
fn ln_point(k: f64, n: f64, p: f64, q: f64) -> f64 {
    if n <= 0.0 {
        return 0.0;
    }
    if k <= 0.0 || k >= n {
        // All on one side: nothing else is needed than a power.
        let (share, rest) = if k <= 0.0 { (q, p) } else { (p, q) };
        return n * if rest < 0.5 { libm::log1p(-rest) } else { share.ln() };
    }
    let l = n - k;
    let near = beyond_stirling(n) - beyond_stirling(k) - beyond_stirling(l);
    // From the smaller probability: the other one has lost digits.
    let gap = if p <= 0.5 { k - n * p } else { n * q - l };
    near - deviance(k, gap) - deviance(l, -gap) - 0.5 * ((2.0 * PI).ln() + k.ln() + libm::log1p(-k / n))
}

/// What Stirling's formula lacks of the logarithm of a factorial.
fn beyond_stirling(n: f64) -> f64 {
    if n < 16.0 {
        return libm::lgamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln();
    }
    let squared = n * n;
    (1.0 / 12.0
        - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / squared) / squared) / squared)
            / squared)
        / n
}

/// `x ln(x / expected) + expected - x` for an expected number that is `gap` below `x`, without
/// cancellation where both are close.
fn deviance(x: f64, gap: f64) -> f64 {
    let both = 2.0 * x - gap;
    if gap.abs() >= 0.1 * both {
        return x * (x / (x - gap)).ln() - gap;
    }
    let v = gap / both;
    let mut sum = gap * v;
    let mut power = 2.0 * x * v;
    for odd in 1..1000 {
        power *= v * v;
        let next = sum + power / f64::from(2 * odd + 1);
        if (next - sum).abs() <= 1e-18 * sum {
            break;
        }
        sum = next;
    }
    sum
}
