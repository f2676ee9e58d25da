//! Whole weights for a share.

/// Weights (blue, green) for green's share in steps of 0.01 %, as small as they can be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
pub(super) fn exact(green: f64) -> (u32, u32) {
    let green = (green.clamp(0.0, 1.0) * 10_000.0).round() as u32;
    let blue = 10_000 - green;
    let divisor = gcd(blue, green).max(1);
    (blue / divisor, green / divisor)
}

/// The weights (blue, green) with the smallest sum, at most `most`, that come nearest to a share.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and `most`")]
pub(super) fn small(green: f64, most: u32) -> (u32, u32) {
    let green = green.clamp(0.0, 1.0);
    if green <= 0.0 {
        return (1, 0);
    }
    if green >= 1.0 {
        return (0, 1);
    }
    let mut best = (f64::INFINITY, (1, 1));
    for total in 2..=most.max(2) {
        // A share above 0 is never nothing, and one below 1 never everything.
        let g = ((green * f64::from(total)).round() as u32).clamp(1, total - 1);
        let off = (f64::from(g) / f64::from(total) - green).abs();
        if off < best.0 - 1e-9 {
            best = (off, (total - g, g));
        }
    }
    best.1
}

/// Green's share of weights; null when both are 0.
pub(super) fn share(blue: u32, green: u32) -> Option<f64> {
    let (blue, green) = (f64::from(blue), f64::from(green));
    (blue + green > 0.0).then(|| green / (green + blue))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_as_small_as_they_can_be() {
        for (green, weights) in [(0.0, (1, 0)), (0.05, (19, 1)), (0.25, (3, 1)), (0.5, (1, 1)), (1.0, (0, 1))]
        {
            assert_eq!((exact(green), small(green, 200)), (weights, weights), "{green}");
        }
        assert_eq!(exact(0.000_1), (9999, 1));
        assert_eq!(small(1.0 / 3.0, 200), (2, 1));
        assert_eq!(small(0.000_1, 200), (199, 1), "a share above 0 is never nothing");
        assert_eq!(small(0.999_9, 200), (1, 199), "one below 1 is never everything");
        for percent in 1..100 {
            let asked = f64::from(percent) / 100.0;
            let (b, g) = small(asked, 200);
            assert!(share(b, g).is_some_and(|got| (got - asked).abs() < 1e-9), "{percent} %");
        }
        assert_eq!(share(0, 0), None);
    }
}
