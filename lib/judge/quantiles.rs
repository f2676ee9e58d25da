//! Quantiles of a sample.

/// The quantile `q` in 0..=1 of an ascending sample; None for an empty one.
///
/// Linear between the two nearest order statistics, what R calls type 7 and numpy and Excel use.
/// Source: Hyndman & Fan, The American Statistician 50 (1996), definition 7.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = last as f64 * q.clamp(0.0, 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = (at.floor() as usize).min(last);
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (at - below as f64))
}

/// The median of an ascending sample; None for an empty one.
pub fn median(sorted: &[f64]) -> Option<f64> {
    quantile(sorted, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_type_seven() {
        let sample = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert_eq!(quantile(&sample, 0.0), Some(1.0));
        assert_eq!(quantile(&sample, 0.25), Some(2.0));
        assert_eq!(median(&sample), Some(4.0));
        assert!(quantile(&sample, 0.95).is_some_and(|q| (q - 14.4).abs() < 1e-12));
        assert_eq!(quantile(&sample, 1.0), Some(16.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
