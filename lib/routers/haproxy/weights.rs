//! The weights that make a share, the servers of a side in the proportion that they had.

use super::share;

const MAX_WEIGHT: u32 = 256;

/// The weights of both sides, in the order of their servers, that come nearest to green's share. `blue` and `green`
/// are the weights that the servers have among themselves, each 1 to 256, at least one a side.
pub(super) fn for_share(blue: &[u32], green: &[u32], share: f64) -> [Vec<u32>; 2] {
    if share <= 0.0 {
        return [blue.to_vec(), vec![0; green.len()]];
    }
    if share >= 1.0 {
        return [vec![0; blue.len()], green.to_vec()];
    }
    let alike = |weights: &[u32]| weights.iter().all(|w| *w == weights[0]);
    if alike(blue) && alike(green) {
        let (b, g) = each(share, blue.len(), green.len());
        return [vec![b; blue.len()], vec![g; green.len()]];
    }
    in_proportion(blue, green, share)
}

/// The weights of a single server of each side, where all of a side are alike.
fn each(green: f64, blues: usize, greens: usize) -> (u32, u32) {
    let (blues, greens) = (blues as f64, greens as f64);
    let mut best = (f64::INFINITY, (1, 1));
    // Totals of a hundred first, so that 5 % is 95 and 5 and reads well.
    for total in (100..=100).chain(2..=MAX_WEIGHT + 1) {
        for g in guesses(green * blues * f64::from(total) / (greens * (1.0 - green) + green * blues)) {
            let b = total.saturating_sub(g);
            if g == 0 || b == 0 || g > MAX_WEIGHT || b > MAX_WEIGHT {
                continue;
            }
            let share = f64::from(g) * greens / (f64::from(g) * greens + f64::from(b) * blues);
            let off = (share - green).abs();
            if off < best.0 - 1e-9 {
                best = (off, (b, g));
            }
        }
    }
    best.1
}

/// The same where they are not: every scale of blue's weights is tried, with the scale of green's that fits it. The
/// share counts first; among those that are as good as it gets, the truest proportions.
fn in_proportion(blue: &[u32], green: &[u32], share_asked: f64) -> [Vec<u32>; 2] {
    let greatest = |weights: &[u32]| f64::from(weights.iter().copied().max().unwrap_or(1).max(1));
    let sum = |weights: &[u32]| weights.iter().map(|w| f64::from(*w)).sum::<f64>();
    let mut best: Option<(f64, [Vec<u32>; 2])> = None;
    for top in 1..=MAX_WEIGHT {
        let blues = scaled(blue, f64::from(top) / greatest(blue));
        let wanted = share_asked / (1.0 - share_asked) * sum(&blues);
        let scale = wanted / sum(green).max(1.0);
        if scale * greatest(green) > f64::from(MAX_WEIGHT) + 0.5 {
            continue;
        }
        let greens = scaled(green, scale);
        let got = sum(&greens) / (sum(&greens) + sum(&blues));
        let smaller = share_asked.min(1.0 - share_asked);
        let off = (got - share_asked).abs() / smaller + bent(blue, &blues).max(bent(green, &greens));
        if best.as_ref().is_none_or(|(known, _)| off < known - 1e-9) {
            best = Some((off, [blues, greens]));
        }
    }
    best.map_or_else(|| [blue.to_vec(), vec![0; green.len()]], |(_, weights)| weights)
}

/// Weights times a scale, each 1 to 256.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 256")]
fn scaled(weights: &[u32], scale: f64) -> Vec<u32> {
    let one = |weight: &u32| (f64::from(*weight) * scale).round().clamp(1.0, f64::from(MAX_WEIGHT)) as u32;
    weights.iter().map(one).collect()
}

/// The weight that fits one more server of a side whose others, with the weights `was` among themselves, have `is`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 256")]
pub(super) fn fitting(own: u32, was: &[u32], is: &[u32]) -> u32 {
    let (was, is): (u32, u32) = (was.iter().sum(), is.iter().sum());
    if is == 0 {
        return 0;
    }
    let exact = f64::from(own) * f64::from(is) / f64::from(was.max(1));
    exact.round().clamp(1.0, f64::from(MAX_WEIGHT)) as u32
}

/// A weight of which people have left this part; it is another one in any case.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 256")]
pub(super) fn in_part(own: u32, part: f64) -> u32 {
    let exact = (f64::from(own) * part).round().clamp(1.0, f64::from(MAX_WEIGHT)) as u32;
    match exact {
        same if same == own && part < 1.0 => own.saturating_sub(1).max(1),
        same if same == own => (own + 1).min(MAX_WEIGHT),
        other => other,
    }
}

/// How far the servers' shares of their side are off, at most.
fn bent(was: &[u32], is: &[u32]) -> f64 {
    let sum = |weights: &[u32]| weights.iter().map(|w| f64::from(*w)).sum::<f64>().max(1.0);
    let (all, now) = (sum(was), sum(is));
    was.iter().zip(is).map(|(w, i)| (f64::from(*w) / all - f64::from(*i) / now).abs()).fold(0.0, f64::max)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 257")]
fn guesses(exact: f64) -> [u32; 2] {
    let low = exact.clamp(0.0, 300.0).floor() as u32;
    [low, low + 1]
}

/// Green's share of weights.
pub(super) fn share_of([blue, green]: &[Vec<u32>; 2]) -> f64 {
    share(green.iter().sum(), blue.iter().sum()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_weights_for_every_usual_share() {
        let one = |share| for_share(&[100], &[100], share);
        assert_eq!(one(0.05), [vec![95], vec![5]]);
        assert_eq!(one(0.5), [vec![50], vec![50]]);
        assert_eq!(one(0.0), [vec![100], vec![0]]);
        assert_eq!(one(1.0), [vec![0], vec![100]]);
        for (blue, green) in [(1, 1), (2, 2), (4, 1), (1, 3)] {
            for percent in 1..100 {
                let asked = f64::from(percent) / 100.0;
                let got = share_of(&for_share(&vec![1; blue], &vec![7; green], asked));
                assert!((got - asked).abs() < 0.006, "{blue}/{green} {percent} %: {got}");
            }
        }
    }

    #[test]
    fn a_server_that_is_out_follows_its_side() {
        assert_eq!(fitting(200, &[100, 50], &[100, 50]), 200);
        assert_eq!(fitting(200, &[100, 50], &[20, 10]), 40);
        assert_eq!(fitting(1, &[256], &[1]), 1, "none is shut out by rounding");
        assert_eq!(fitting(200, &[100, 50], &[0, 0]), 0);
    }

    #[test]
    fn what_people_leave_of_a_weight_is_another_weight() {
        assert_eq!(in_part(100, 8.0 / 60.0), 13);
        assert_eq!(in_part(100, 0.999), 99);
        assert_eq!(in_part(100, 1.001), 101);
        assert_eq!((in_part(1, 0.5), in_part(256, 2.0)), (1, 256));
    }

    #[test]
    fn servers_keep_the_proportion_that_they_had_and_have_it_again_at_the_end() {
        for (blue, green) in [
            (vec![200, 20], vec![100]),
            (vec![256, 1], vec![1]),
            (vec![3, 2, 1], vec![10, 30]),
            (vec![1], vec![7, 1]),
        ] {
            assert_eq!(for_share(&blue, &green, 0.0)[0], blue);
            assert_eq!(for_share(&blue, &green, 1.0)[1], green);
            for percent in [5, 10, 20, 25, 33, 50, 75, 90] {
                let asked = f64::from(percent) / 100.0;
                let weights = for_share(&blue, &green, asked);
                let off = (share_of(&weights) - asked).abs();
                assert!(off <= 0.1 * asked.min(1.0 - asked), "{blue:?} {green:?} {percent} %: {weights:?}");
                for (was, is) in [(&blue, &weights[0]), (&green, &weights[1])] {
                    assert!(is.iter().all(|w| (1..=256).contains(w)), "{weights:?}");
                    assert!(bent(was, is) < 0.1, "{blue:?} {green:?} {percent} %: {weights:?}");
                }
            }
        }
        // 200 to 20 at 10 %: exactly ten to one.
        let weights = for_share(&[200, 20], &[100], 0.1);
        assert_eq!(weights[0][0], 10 * weights[0][1], "{weights:?}");
    }
}
