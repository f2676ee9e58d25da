//! The binomial and the hypergeometric distribution, and the beta distribution behind them.
//!
//! Points are computed as deviations from the expected number, not as differences of great
//! logarithms: so they keep their digits at 10^9 requests too.
//! Source: Loader, Fast and accurate computation of binomial probabilities (2000).

use std::f64::consts::PI;

/// The probability that at most `k` of `n` hit, each with probability `p`.
pub(super) fn at_most(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    beta_tails(p, k as f64 + 1.0, (n - k) as f64).1
}

/// The probability that more than `k` of `n` hit, each with probability `p`.
pub(super) fn more_than(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 0.0;
    }
    beta_tails(p, k as f64 + 1.0, (n - k) as f64).0
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
        let mut term = self.exactly(from);
        let mut sum = term;
        for k in from..self.most() {
            term *= self.growth(k);
            sum += term;
            if term <= sum * 1e-18 {
                break;
            }
        }
        sum
    }

    fn sum_down(&self, from: u64) -> f64 {
        let mut term = self.exactly(from);
        let mut sum = term;
        for k in (self.least()..from).rev() {
            term /= self.growth(k);
            sum += term;
            if term <= sum * 1e-18 {
                break;
            }
        }
        sum
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
    near - deviance(k, n * p) - deviance(l, n * q) - 0.5 * ((2.0 * PI).ln() + k.ln() + libm::log1p(-k / n))
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

/// `x ln(x / expected) + expected - x`, without cancellation where both are close.
fn deviance(x: f64, expected: f64) -> f64 {
    if (x - expected).abs() >= 0.1 * (x + expected) {
        return x * (x / expected).ln() + expected - x;
    }
    let v = (x - expected) / (x + expected);
    let mut sum = (x - expected) * v;
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

/// The x in 0..=1 which a beta variable stays below with probability `share`, both parameters 1 at least.
pub(super) fn beta_quantile(share: f64, a: f64, b: f64) -> f64 {
    solve(share, a, b, false)
}

/// The x in 0..=1 which a beta variable exceeds with probability `share`, both parameters 1 at least.
pub(super) fn beta_upper_quantile(share: f64, a: f64, b: f64) -> f64 {
    solve(share, a, b, true)
}

/// Newton's method on the logarithm of the tail, which is concave, kept between bounds that close in.
fn solve(share: f64, a: f64, b: f64, upper: bool) -> f64 {
    if share.is_nan() {
        return f64::NAN;
    }
    if share <= 0.0 || share >= 1.0 {
        return if (share >= 1.0) == upper { 0.0 } else { 1.0 };
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut x = a / (a + b);
    for _ in 0..200 {
        let (below, above) = beta_tails(x, a, b);
        let (tail, sign) = if upper { (above, -1.0) } else { (below, 1.0) };
        if (tail < share) == upper {
            high = x;
        } else {
            low = x;
        }
        let slope = sign * front(x, a, b) / (x * (1.0 - x)) / tail;
        let step = (share / tail).ln() / slope;
        let mut next = x + step;
        if !(next > low && next < high) {
            next = low.midpoint(high);
        }
        if (next - x).abs() <= 1e-14 * x || next <= low || next >= high {
            return next.clamp(low, high);
        }
        x = next;
    }
    x
}

/// The probability that a beta variable is below `x`, and above.
///
/// Source: Press et al., Numerical Recipes, 3rd edition (2007), section 6.4.
fn beta_tails(x: f64, a: f64, b: f64) -> (f64, f64) {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { (0.0, 1.0) } else { (1.0, 0.0) };
    }
    // The fraction converges fast on this side of the mean; the other side is its mirror.
    if x < (a + 1.0) / (a + b + 2.0) {
        let below = (front(x, a, b) * beta_fraction(x, a, b) / a).min(1.0);
        (below, 1.0 - below)
    } else {
        let above = (front(x, a, b) * beta_fraction(1.0 - x, b, a) / b).min(1.0);
        (1.0 - above, above)
    }
}

/// `x^a (1 - x)^b / B(a, b)`.
fn front(x: f64, a: f64, b: f64) -> f64 {
    ln_point(a, a + b, x, 1.0 - x).exp() * (a * b / (a + b))
}

#[expect(clippy::many_single_char_names, reason = "the names of the source")]
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let off_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / off_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    // About the root of the greater parameter is needed.
    for m in 1..10_000_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = result;
        for term in [even, odd] {
            d = 1.0 / off_zero(1.0 + term * d);
            c = off_zero(1.0 + term / c);
            result *= c * d;
        }
        if (result - before).abs() <= 1e-16 * result.abs() {
            break;
        }
    }
    result
}
