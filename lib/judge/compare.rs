//! What is live now against what was recorded before.

use super::quantiles::{median, quantile};
use super::ranks::{hodges_lehmann, mann_whitney};
use super::rates::{error_rate_upper, fisher_more};
use super::trigger::{above, explosion};
use crate::evidence::Verdict;
use crate::units::{show_duration, show_number, show_share};

/// How unlikely a difference must be before it counts.
const ALPHA: f64 = 0.01;

/// This much more errors than before are no alarm, however many requests there were.
const ERROR_TOLERANCE: f64 = 0.001;

/// Latencies now against latencies before.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyComparison {
    /// What came of it; only `pass` is a pass.
    pub verdict: Verdict,
    /// The Mann-Whitney U statistic of now.
    pub u: Option<f64>,
    /// Its one-sided p-value: now is slower.
    pub p_value: Option<f64>,
    /// The probability that a request now is slower than one before.
    pub effect: Option<f64>,
    /// By how much a typical request is slower now, in ms (Hodges & Lehmann).
    pub shift_ms: Option<f64>,
    /// The tolerated shift in ms.
    pub tolerance_ms: Option<f64>,
    /// One sentence.
    pub message: String,
}

/// Error rates now against before.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorComparison {
    /// What came of it; only `pass` is a pass.
    pub verdict: Verdict,
    /// Fisher's one-sided p-value: now more requests fail.
    pub p_value: Option<f64>,
    /// One sentence.
    pub message: String,
}

/// Whether requests are slower now than before, by more than the plan tolerates.
///
/// Latencies in ms, in any order. It fails when the rank test is significant at 1 % and the typical
/// shift exceeds the tolerance (the greater of `tolerance_share` of the median before and
/// `tolerance_at_least_ms`), so that neither noise nor a certain but tiny change is an alarm. A rank
/// test is blind to rare disasters; so it fails as well when significantly more requests than before
/// take longer than twice the 99th percentile of before.
pub fn compare_latency(
    before: &[f64],
    now: &[f64],
    tolerance_share: f64,
    tolerance_at_least_ms: f64,
    min_samples: u64,
) -> LatencyComparison {
    let undecided = |verdict, message: String| LatencyComparison {
        verdict,
        u: None,
        p_value: None,
        effect: None,
        shift_ms: None,
        tolerance_ms: None,
        message,
    };
    if before.is_empty() || now.is_empty() {
        let which = if before.is_empty() { "the baseline has" } else { "now there are" };
        return undecided(Verdict::NoData, format!("{which} no answered requests"));
    }
    if !before.iter().chain(now).all(|x| x.is_finite() && *x >= 0.0) {
        return undecided(Verdict::Error, "some latencies are not numbers".into());
    }
    if (before.len().min(now.len()) as u64) < min_samples {
        let message = format!(
            "{} answered requests before and {} now; {min_samples} are needed on each side",
            before.len(),
            now.len()
        );
        return undecided(Verdict::TooFewSamples, message);
    }
    let (before, now) = (ascending(before), ascending(now));
    let middle = |sorted: &[f64]| median(sorted).unwrap_or_default();
    let tolerance = (tolerance_share * middle(&before)).max(tolerance_at_least_ms);
    let (Some(test), Some(shift)) = (mann_whitney(&before, &now), hodges_lehmann(&before, &now)) else {
        return undecided(Verdict::Error, "the latencies cannot be ranked".into());
    };
    let shifted = test.p_value < ALPHA && shift > tolerance;
    let tail = explosion(&before, tolerance)
        .filter(|limit| fisher_more(above(&before, *limit), above(&now, *limit)) < ALPHA);
    let medians = format!("median {} before, {} now", ms(middle(&before)), ms(middle(&now)));
    let by = format!("a typical request is {} slower, {} is tolerated", ms(shift), ms(tolerance));
    let (verdict, message) = match (shifted, tail) {
        (true, _) => (Verdict::Fail, format!("slower: {medians}; {by} (p = {})", p_value(test.p_value))),
        (false, Some(limit)) => {
            let (slow, of) = above(&now, limit);
            let p99 = quantile(&before, 0.99).unwrap_or_default();
            let message = format!(
                "a slow tail: {slow} of {of} requests take longer than {}, twice the 99th percentile of \
                 before ({}); {medians}",
                ms(limit),
                ms(p99)
            );
            (Verdict::Fail, message)
        }
        (false, None) if shift > 0.0 => (Verdict::Pass, format!("{medians}; {by}")),
        (false, None) => (Verdict::Pass, format!("not slower: {medians}")),
    };
    LatencyComparison {
        verdict,
        u: Some(test.u),
        p_value: Some(test.p_value),
        effect: Some(test.effect),
        shift_ms: Some(shift),
        tolerance_ms: Some(tolerance),
        message,
    }
}

/// Whether more requests fail now than before: each is (errors, requests).
///
/// It fails when Fisher's exact test is significant at 1 % and the rate is above the one before by
/// more than 0.1 points. Fewer than `min_samples` on a side are `too_few_samples`, unless what
/// there is fails already.
pub fn compare_errors(before: (u64, u64), now: (u64, u64), min_samples: u64) -> ErrorComparison {
    if before.1 == 0 || now.1 == 0 {
        let which = if before.1 == 0 { "in the baseline" } else { "now" };
        let message = format!("no requests were made {which}");
        return ErrorComparison { verdict: Verdict::NoData, p_value: None, message };
    }
    if before.0 > before.1 || now.0 > now.1 {
        let message = "there are more errors than requests".into();
        return ErrorComparison { verdict: Verdict::Error, p_value: None, message };
    }
    let rate = |of: (u64, u64)| of.0 as f64 / of.1 as f64;
    let p = fisher_more(before, now);
    let rates = format!("{} of {} requests failed before, {} of {} now", before.0, before.1, now.0, now.1);
    let (verdict, message) = if p < ALPHA && rate(now) > rate(before) + ERROR_TOLERANCE {
        (Verdict::Fail, format!("more errors: {rates} (p = {})", p_value(p)))
    } else if before.1.min(now.1) < min_samples {
        (Verdict::TooFewSamples, format!("{rates}; {min_samples} are needed on each side"))
    } else {
        let bound = error_rate_upper(now.0, now.1, 0.99).unwrap_or(1.0);
        (Verdict::Pass, format!("{rates} (at most {} with 99 % confidence)", show_share(bound)))
    };
    ErrorComparison { verdict, p_value: Some(p), message }
}

fn ascending(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn ms(value: f64) -> String {
    show_duration(value / 1e3)
}

fn p_value(p: f64) -> String {
    if p < 1e-6 { "below 0.000001".into() } else { show_number(p) }
}
