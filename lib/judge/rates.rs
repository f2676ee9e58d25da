//! Exact statistics of error rates.

/// Nothing was asked, so there is no rate: silence is not health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTraffic;

/// The upper bound of the error rate at a one-sided confidence such as 0.99.
///
/// `errors` of `requests` in one window; the result is a share in 0..=1.
/// Errors: [`NoTraffic`] when `requests` is 0.
/// Source: Clopper & Pearson, Biometrika 26 (1934).
pub fn error_rate_upper(errors: u64, requests: u64, confidence: f64) -> Result<f64, NoTraffic> {
    if requests == 0 {
        return Err(NoTraffic);
    }
    if errors >= requests {
        return Ok(1.0);
    }
    Ok(where_beta_reaches(confidence, errors as f64 + 1.0, (requests - errors) as f64))
}

/// The lower bound of the error rate at a one-sided confidence such as 0.99.
///
/// Errors: [`NoTraffic`] when `requests` is 0.
/// Source: Clopper & Pearson, Biometrika 26 (1934).
pub fn error_rate_lower(errors: u64, requests: u64, confidence: f64) -> Result<f64, NoTraffic> {
    if requests == 0 {
        return Err(NoTraffic);
    }
    let errors = errors.min(requests);
    if errors == 0 {
        return Ok(0.0);
    }
    Ok(where_beta_reaches(1.0 - confidence, errors as f64, (requests - errors) as f64 + 1.0))
}

/// The probability that `b` has so many hits or more of all that there are, when `a` and `b` do not
/// differ: Fisher's exact test, one-sided. Each is (hits, of how many).
///
/// 1 when either side has nothing.
/// Source: Fisher, Journal of the Royal Statistical Society 98 (1935).
pub fn fisher_more(a: (u64, u64), b: (u64, u64)) -> f64 {
    let (hits_a, of_a) = (a.0.min(a.1), a.1);
    let (hits_b, of_b) = (b.0.min(b.1), b.1);
    let hits = hits_a + hits_b;
    if of_a == 0 || of_b == 0 || hits_b == hits.saturating_sub(of_a) {
        return 1.0;
    }
    let table = Table { of_a, of_b, hits };
    // Summed from the thin end, where terms shrink: the other end could begin with an underflow.
    if hits_b as f64 > hits as f64 * of_b as f64 / (of_a as f64 + of_b as f64) {
        table.sum_up(hits_b).min(1.0)
    } else {
        (1.0 - table.sum_down(hits_b - 1)).clamp(0.0, 1.0)
    }
}

/// The margins of a table: the hits spread over both sides by chance.
struct Table {
    of_a: u64,
    of_b: u64,
    hits: u64,
}

impl Table {
    /// The probability of exactly `k` hits on b.
    fn exactly(&self, k: u64) -> f64 {
        let all = ln_choose(self.of_a + self.of_b, self.hits);
        (ln_choose(self.of_b, k) + ln_choose(self.of_a, self.hits - k) - all).exp()
    }

    /// What the probability is multiplied with from `k` hits on b to `k + 1`.
    fn growth(&self, k: u64) -> f64 {
        let (of_a, of_b, left, k) = (self.of_a as f64, self.of_b as f64, (self.hits - k) as f64, k as f64);
        (of_b - k) * left / ((k + 1.0) * (of_a - left + 1.0))
    }

    fn sum_up(&self, from: u64) -> f64 {
        let mut term = self.exactly(from);
        let mut sum = term;
        for k in from..self.hits.min(self.of_b) {
            term *= self.growth(k);
            sum += term;
            if term <= sum * 1e-17 {
                break;
            }
        }
        sum
    }

    fn sum_down(&self, from: u64) -> f64 {
        let mut term = self.exactly(from);
        let mut sum = term;
        for k in (self.hits.saturating_sub(self.of_a)..from).rev() {
            term /= self.growth(k);
            sum += term;
            if term <= sum * 1e-17 {
                break;
            }
        }
        sum
    }
}

fn ln_choose(n: u64, k: u64) -> f64 {
    let ln_factorial = |x: u64| libm::lgamma(x as f64 + 1.0);
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// The x in 0..=1 where the regularised incomplete beta function I_x(a, b) reaches `share`.
fn where_beta_reaches(share: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    // More halvings than a number has bits change nothing.
    for _ in 0..200 {
        let middle = low.midpoint(high);
        if middle <= low || middle >= high {
            break;
        }
        if incomplete_beta(middle, a, b) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    low.midpoint(high)
}

/// The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction.
///
/// Source: Press et al., Numerical Recipes, 3rd edition (2007), section 6.4.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let ln_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * libm::log1p(-x);
    let front = ln_front.exp();
    // The fraction converges fast on this side of the mean; the other side is its mirror.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

#[expect(clippy::many_single_char_names, reason = "the names of the source")]
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let off_zero = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / off_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    // About the root of the greater parameter is needed: enough for 10^9 requests.
    for m in 1..100_000 {
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
