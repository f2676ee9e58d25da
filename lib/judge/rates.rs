//! Exact statistics of error rates.

use super::binomial::{Spread, smallest, where_at_least, where_at_most};
use super::normal;
use super::ranks::Alternative;

/// Nothing was asked, so there is no rate: silence is not health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTraffic;

/// Where a figure lies, at some confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// By how much an error rate differs from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateDifference {
    /// The second rate less the first, in -1..=1.
    pub difference: f64,
    /// Where the true difference lies.
    pub interval: Interval,
}

/// The upper bound of the error rate at a one-sided confidence such as 0.99.
///
/// `errors` of `requests` in one window; the result is a share in 0..=1. More errors than requests
/// count as all.
/// Errors: [`NoTraffic`] when `requests` is 0.
/// Source: Clopper & Pearson, Biometrika 26 (1934).
pub fn error_rate_upper(errors: u64, requests: u64, confidence: f64) -> Result<f64, NoTraffic> {
    if requests == 0 {
        return Err(NoTraffic);
    }
    if errors >= requests {
        return Ok(1.0);
    }
    Ok(where_at_most(errors, requests, 1.0 - confidence))
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
    Ok(where_at_least(errors, requests, 1.0 - confidence))
}

/// Both bounds of the error rate at a two-sided confidence such as 0.95.
///
/// Errors: [`NoTraffic`] when `requests` is 0.
/// Source: Clopper & Pearson, Biometrika 26 (1934).
pub fn error_rate_interval(errors: u64, requests: u64, confidence: f64) -> Result<Interval, NoTraffic> {
    let one_sided = 1.0 - (1.0 - confidence) / 2.0;
    Ok(Interval {
        low: error_rate_lower(errors, requests, one_sided)?,
        high: error_rate_upper(errors, requests, one_sided)?,
    })
}

/// By how much the error rate of `b` exceeds that of `a`, at a two-sided confidence such as 0.95.
/// Each is (errors, requests).
///
/// Errors: [`NoTraffic`] when either has no requests.
/// Source: Newcombe, Statistics in Medicine 17 (1998), method 10, of Wilson's score intervals.
pub fn rate_difference(a: (u64, u64), b: (u64, u64), confidence: f64) -> Result<RateDifference, NoTraffic> {
    let (rate_a, around_a) = wilson(a, confidence)?;
    let (rate_b, around_b) = wilson(b, confidence)?;
    let difference = rate_b - rate_a;
    let interval = Interval {
        low: difference - (rate_b - around_b.low).hypot(around_a.high - rate_a),
        high: difference + (around_b.high - rate_b).hypot(rate_a - around_a.low),
    };
    Ok(RateDifference { difference, interval })
}

/// The rate and Wilson's score interval around it.
///
/// Source: Wilson, Journal of the American Statistical Association 22 (1927).
fn wilson((errors, requests): (u64, u64), confidence: f64) -> Result<(f64, Interval), NoTraffic> {
    if requests == 0 {
        return Err(NoTraffic);
    }
    let errors = errors.min(requests);
    let (n, rate) = (requests as f64, errors as f64 / requests as f64);
    let z = -normal::quantile((1.0 - confidence) / 2.0);
    let squared = z * z;
    let center = (2.0 * n * rate + squared) / (2.0 * (n + squared));
    let reach = z * (4.0 * n * rate * (1.0 - rate) + squared).sqrt() / (2.0 * (n + squared));
    let low = if errors == 0 { 0.0 } else { center - reach };
    let high = if errors == requests { 1.0 } else { center + reach };
    Ok((rate, Interval { low, high }))
}

/// The probability that `b` has so many hits or more of all that there are, when `a` and `b` do not
/// differ: Fisher's exact test, one-sided. Each is (hits, of how many).
///
/// 1 when either side has nothing.
/// Source: Fisher, Journal of the Royal Statistical Society 98 (1935).
pub fn fisher_more(a: (u64, u64), b: (u64, u64)) -> f64 {
    fisher(a, b, Alternative::Greater)
}

/// Fisher's exact test: the probability that hits are spread as they are, or further apart, when `a`
/// and `b` do not differ. `Greater` is a greater share on `b`. Each is (hits, of how many).
///
/// Two-sided, spreads count that are as improbable as this one or more. 1 when either side has
/// nothing, and when none or all are hits.
/// Source: Fisher, Journal of the Royal Statistical Society 98 (1935).
pub fn fisher(a: (u64, u64), b: (u64, u64), alternative: Alternative) -> f64 {
    let (of_a, of_b) = (a.1, b.1);
    let (hits_a, hits_b) = (a.0.min(of_a), b.0.min(of_b));
    let hits = hits_a + hits_b;
    if of_a == 0 || of_b == 0 || hits == 0 || (hits_a == of_a && hits_b == of_b) {
        return 1.0;
    }
    let spread = Spread { of_a, of_b, hits };
    match alternative {
        Alternative::Greater => spread.at_least(hits_b),
        Alternative::Less => spread.at_most(hits_b),
        Alternative::TwoSided => as_improbable(&spread, hits_b),
    }
}

/// The probability of all numbers of hits on b that are as improbable as `hits` or more.
fn as_improbable(spread: &Spread, hits: u64) -> f64 {
    /// Equal probabilities may come out apart by rounding.
    const ROUNDING: f64 = 1.0 + 1e-10;
    let limit = spread.exactly(hits) * ROUNDING;
    let (least, most) = (spread.least(), spread.most());
    // Up to the most probable number the probabilities grow, from there on they shrink.
    let peak = least + smallest(most - least, |k| least + k == most || spread.falls_after(least + k));
    if spread.exactly(peak) <= limit {
        return 1.0;
    }
    let (mut tails, below, above) = (0.0, hits < peak, hits > peak);
    let low = if below {
        Some(hits)
    } else {
        smallest(peak - least, |k| spread.exactly(least + k) > limit).checked_sub(1).map(|k| least + k)
    };
    let high = if above { hits } else { peak + smallest(most - peak, |k| spread.exactly(peak + k) <= limit) };
    if let Some(low) = low {
        tails += spread.at_most(low);
    }
    if above || spread.exactly(high) <= limit {
        tails += spread.at_least(high);
    }
    tails.min(1.0)
}
