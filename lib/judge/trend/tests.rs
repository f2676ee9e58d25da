//! What must hold for any series.

use super::*;

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
