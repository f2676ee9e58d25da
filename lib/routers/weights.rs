//! Whole weights for a share.

/// Weights (blue, green) for green's share in steps of 0.01 %, as small as they can be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
pub(super) fn exact(green: f64) -> (u32, u32) {
    let green = (green.clamp(0.0, 1.0) * 10_000.0).round() as u32;
    let blue = 10_000 - green;
    let divisor = u32::try_from(gcd(blue.into(), green.into())).unwrap_or(1).max(1);
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

/// Green's share of those who are served, where a router does not give the share of a side that cannot serve to
/// the other one; null when nobody is served.
pub(super) fn served(green: f64, blue_serves: bool, green_serves: bool) -> Option<f64> {
    let part = |share: f64, serves: bool| if serves { share } else { 0.0 };
    let (blue, green) = (part(1.0 - green, blue_serves), part(green, green_serves));
    (blue + green > 0.0).then(|| green / (blue + green))
}

/// New weights for both sides beside strangers, whose shares stay as they are: `sides` is what both sides had
/// together. Whole numbers, as small as they can be.
pub(super) fn beside(
    (blue, green): (u32, u32),
    sides: u64,
    strangers: &[u64],
) -> Option<(u64, u64, Vec<u64>)> {
    let new = u64::from(blue) + u64::from(green);
    // Where the sides had nothing, a stranger had everything: nothing is known of its share.
    let sides = if sides == 0 { new } else { sides };
    let (blue, green) = (u64::from(blue).checked_mul(sides)?, u64::from(green).checked_mul(sides)?);
    let strangers: Vec<u64> = strangers.iter().map(|w| w.checked_mul(new)).collect::<Option<_>>()?;
    let divisor = strangers.iter().fold(gcd(blue, green), |all, one| gcd(all, *one)).max(1);
    Some((blue / divisor, green / divisor, strangers.iter().map(|w| w / divisor).collect()))
}

fn gcd(a: u64, b: u64) -> u64 {
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
    #[test]
    fn the_share_of_a_side_that_cannot_serve_is_lost_and_not_the_others() {
        assert_eq!(served(0.2, true, true), Some(0.2));
        assert_eq!(served(0.2, true, false), Some(0.0));
        assert_eq!(served(0.2, false, true), Some(1.0));
        assert_eq!(served(0.0, true, false), Some(0.0));
        assert_eq!(served(1.0, true, false), None);
        assert_eq!(served(0.5, false, false), None);
    }

    #[test]
    fn a_stranger_keeps_its_share_whatever_the_sides_get() {
        assert_eq!(beside((1, 0), 20, &[2]), Some((10, 0, vec![1])));
        assert_eq!(beside((19, 1), 20, &[2, 0]), Some((19, 1, vec![2, 0])));
        assert_eq!(beside((19, 1), 10, &[5]), Some((19, 1, vec![10])));
        assert_eq!(beside((1, 0), 0, &[3]), Some((1, 0, vec![3])), "the sides had nothing");
        assert_eq!(beside((9999, 1), u64::MAX / 2, &[1]), None);
        for (sides, stranger) in [(20, 1), (200, 7), (10_000, 333)] {
            let before = stranger as f64 / (stranger + sides) as f64;
            for green in [0.0, 0.05, 0.5, 1.0] {
                let (b, g, w) = beside(exact(green), sides, &[stranger]).unwrap();
                let after = w[0] as f64 / (b + g + w[0]) as f64;
                assert!((before - after).abs() < 1e-12, "{sides} {stranger} {green}");
            }
        }
    }
}
