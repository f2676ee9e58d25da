//! What must hold for any series.

use super::*;

#[test]
fn normal_quantiles_are_the_known_ones() {
    // scipy.stats.norm.ppf.
    let known = [
        (0.5, 0.0),
        (0.01, -2.326_347_874_040_840_8),
        (0.025, -1.959_963_984_540_054_5),
        (0.975, 1.959_963_984_540_054),
        (0.000_1, -3.719_016_485_455_68),
        (1e-12, -7.034_483_825_301_131),
        (0.3, -0.524_400_512_708_041),
        (0.9, 1.281_551_565_544_600_4),
    ];
    for (p, z) in known {
        let seen = normal_quantile(p);
        assert!((seen - z).abs() <= 4e-15 * z.abs().max(0.5), "{p}: {seen} is not {z}");
    }
    assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
    assert_eq!(normal_quantile(1.0), f64::INFINITY);
    assert!(normal_quantile(-0.1).is_nan() && normal_quantile(f64::NAN).is_nan());
}

#[test]
fn of_very_many_slopes_the_drawn_bounds_give_the_same_as_all_of_them() {
    // 2,500 points have 3.1 million slopes; in steps, so that many are the same.
    let points: Vec<Point> = (0..2500)
        .map(|i| {
            let noise = f64::from((i * 7919) % 101) - 50.0;
            Point::new(f64::from(i / 2) * 15.0, (f64::from(i) * 0.02 + noise * noise / 100.0).floor())
        })
        .collect();
    let seen = theil_sen(&points, 0.95, Intercept::Joint).unwrap();
    let mut slopes = Vec::new();
    for (i, a) in points.iter().enumerate() {
        for b in &points[i + 1..] {
            if b.t > a.t {
                slopes.push((b.value - a.value) / (b.t - a.t));
            }
        }
    }
    assert!(slopes.len() > 3_000_000);
    slopes.sort_by(f64::total_cmp);
    assert_eq!(seen.slope, median(&slopes).unwrap());
    let (low, high) = seen.interval.unwrap();
    let share = |limit: f64| slopes.partition_point(|s| *s < limit) as f64 / slopes.len() as f64;
    assert!(low < seen.slope && seen.slope < high);
    assert!((share(low) - (1.0 - share(high))).abs() < 0.01, "{} {}", share(low), share(high));
}
