//! How many samples a comparison needs to see what it is to see.

use super::comparison::{OF_REQUESTS, OF_SERIES, least_windows};
use super::normal::quantile;
use crate::evidence::TestRecord;

/// What a comparison has: single requests, or the values of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Single requests, window by window.
    Requests,
    /// Values of a series, each a window of its own.
    Series,
}

impl Of {
    /// The part of the stated rate of false alarms that the shift of its windows may spend.
    pub fn share(self) -> f64 {
        match self {
            Self::Requests => OF_REQUESTS[0],
            Self::Series => OF_SERIES[0],
        }
    }
}

/// Windows a side below which a comparison with that rate of false alarms passes nothing.
pub fn fewest_windows(false_alarms: f64, of: Of) -> usize {
    least_windows(false_alarms * of.share() / 3.0)
}

/// Requests a side to tell a rate of `worse` from one of `base` with a power, one-sided at `alpha`.
///
/// Source: Fleiss, Levin & Paik, Statistical Methods for Rates and Proportions (2003), formula 4.14.
pub fn rate_samples(base: f64, worse: f64, alpha: f64, power: f64) -> f64 {
    let (p, q) = (base.clamp(0.0, 1.0), worse.clamp(0.0, 1.0));
    if q <= p {
        return f64::INFINITY;
    }
    let (za, zb) = (-quantile(alpha), quantile(power));
    let middle = p.midpoint(q);
    let root = za * (2.0 * middle * (1.0 - middle)).sqrt() + zb * (p * (1.0 - p) + q * (1.0 - q)).sqrt();
    (root / (q - p)).powi(2).ceil()
}

/// The smallest rate above `base` that so many requests a side tell from it with a power.
pub fn rate_in_sight(base: f64, requests: f64, alpha: f64, power: f64) -> Option<f64> {
    let enough = |rate: f64| rate_samples(base, rate, alpha, power) <= requests;
    if !enough(1.0) {
        return None;
    }
    let (mut low, mut high) = (base, 1.0);
    for _ in 0..60 {
        let middle = low.midpoint(high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Windows a side at which a shift of `deviations` standard deviations of a window is seen with a power,
/// one-sided at `alpha`.
///
/// Source: Noether, Journal of the American Statistical Association 82 (1987).
pub fn windows_for(deviations: f64, alpha: f64, power: f64) -> f64 {
    let p = 1.0 - super::normal::upper_tail(deviations / std::f64::consts::SQRT_2);
    let z = -quantile(alpha) + quantile(power);
    if p <= 0.5 { f64::INFINITY } else { (z * z / (6.0 * (p - 0.5).powi(2))).ceil() }
}

/// The shift, in standard deviations of a window, that so many windows a side see with a power.
pub fn deviations_in_sight(windows: f64, alpha: f64, power: f64) -> Option<f64> {
    let enough = |deviations: f64| windows_for(deviations, alpha, power) <= windows;
    if !enough(40.0) {
        return None;
    }
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Windows a side at which a shift is seen, by the interval that was found with those that are there.
pub(super) fn windows(test: &TestRecord, shift: f64, alpha: f64, power: f64) -> u64 {
    let (Some(low), Some(high), Some(there)) = (test.effect_low, test.effect_high, test.windows) else {
        return u64::MAX;
    };
    // The interval of a shift is about 2 z deviations times the root of 2/n wide.
    let z = -quantile((1.0 - test.confidence) / 2.0);
    let deviation = (high - low) / (2.0 * z) / (2.0 / there.max(1) as f64).sqrt();
    if deviation <= 0.0 {
        return 0;
    }
    let needed = windows_for(shift / deviation, alpha, power);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and bounded")]
    if needed < 1e9 { needed as u64 } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rarer_events_and_smaller_changes_need_more() {
        // 0.1 % against 0.5 %, one-sided 1 %, power 80 %.
        let needed = rate_samples(0.001, 0.005, 0.01, 0.8);
        assert!((3500.0..3900.0).contains(&needed), "{needed}");
        assert!(rate_samples(0.001, 0.002, 0.01, 0.8) > 5.0 * needed);
        assert!(rate_samples(0.001, 0.001, 0.01, 0.8).is_infinite());
        let seen = rate_in_sight(0.001, needed, 0.01, 0.8).unwrap();
        assert!((seen - 0.005).abs() < 1e-5, "{seen}");
        assert_eq!(rate_in_sight(0.5, 3.0, 0.01, 0.8), None);
    }

    #[test]
    fn a_clearer_shift_needs_fewer_windows() {
        assert!(windows_for(1.0, 0.01, 0.8) > windows_for(2.0, 0.01, 0.8));
        assert!(windows_for(0.0, 0.01, 0.8).is_infinite());
        let seen = deviations_in_sight(20.0, 0.01, 0.8).unwrap();
        assert!((windows_for(seen, 0.01, 0.8) - 20.0).abs() < 1.5);
        assert_eq!(deviations_in_sight(2.0, 0.01, 0.8), None);
    }
}
