//! Against reference values, and what must hold for any figures.

use serde_json::Value;

use super::*;
use crate::evidence::Verdict;

fn reference() -> Value {
    serde_json::from_str(include_str!("../../tests/fixtures/judge.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

/// Equal to within a relative error.
fn near(seen: f64, expected: f64, error: f64) -> bool {
    (seen - expected).abs() <= error * expected.abs().max(1e-300)
}

/// The same figures on every run, without a crate: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Latencies in ms with a long tail, rounded so that ties occur.
    fn latencies(&mut self, n: usize, slower: f64) -> Vec<f64> {
        (0..n).map(|_| ((2.0 - 3.0 * (1.0 - self.roll()).ln() + slower) * 10.0).round() / 10.0).collect()
    }

    fn size(&mut self) -> usize {
        self.roll();
        1 + usize::try_from(self.0 % 60).unwrap()
    }
}

#[test]
fn the_rank_test_agrees_with_scipy() {
    let reference = reference();
    let pairs = reference["pairs"].as_array().unwrap();
    assert!(pairs.len() >= 19);
    for pair in pairs {
        let (a, b) = (numbers(&pair["a"]), numbers(&pair["b"]));
        let test = mann_whitney(&a, &b).unwrap();
        let expected = |key: &str| pair[key].as_f64().unwrap();
        assert!(test.u == expected("u"), "{}: U {}", pair["name"], test.u);
        assert!(near(test.p_value, expected("p_value"), 1e-9), "{}: p {}", pair["name"], test.p_value);
        assert!(near(test.effect, expected("effect"), 1e-12), "{}: {}", pair["name"], test.effect);
        let shift = hodges_lehmann(&a, &b).unwrap();
        assert!((shift - expected("shift")).abs() < 1e-12, "{}: shift {shift}", pair["name"]);
        let mut sorted = b;
        sorted.sort_by(f64::total_cmp);
        for (q, expected) in pair["quantiles_b"].as_object().unwrap() {
            let seen = quantile(&sorted, q.parse().unwrap()).unwrap();
            assert!(near(seen, expected.as_f64().unwrap(), 1e-12), "{} q{q}: {seen}", pair["name"]);
        }
    }
}

#[test]
fn the_bounds_of_an_error_rate_agree_with_scipy() {
    let reference = reference();
    for row in reference["bounds"].as_array().unwrap() {
        let (errors, requests) = (row["errors"].as_u64().unwrap(), row["requests"].as_u64().unwrap());
        let confidence = row["confidence"].as_f64().unwrap();
        let upper = error_rate_upper(errors, requests, confidence).unwrap();
        let lower = error_rate_lower(errors, requests, confidence).unwrap();
        assert!(near(upper, row["upper"].as_f64().unwrap(), 1e-9), "{row} upper {upper}");
        assert!(near(lower, row["lower"].as_f64().unwrap(), 1e-9), "{row} lower {lower}");
    }
    assert_eq!(error_rate_upper(0, 0, 0.99), Err(NoTraffic));
    assert_eq!(error_rate_lower(0, 0, 0.99), Err(NoTraffic));
}

#[test]
fn the_exact_test_agrees_with_scipy() {
    let reference = reference();
    for row in reference["fisher"].as_array().unwrap() {
        let side = |key: &str| (row[key][0].as_u64().unwrap(), row[key][1].as_u64().unwrap());
        let p = fisher_more(side("a"), side("b"));
        assert!(near(p, row["p_value"].as_f64().unwrap(), 1e-9), "{row}: {p}");
    }
    assert_eq!(fisher_more((0, 0), (5, 5)), 1.0);
    assert_eq!(fisher_more((0, 5), (0, 0)), 1.0);
}

#[test]
fn nothing_is_ranked_that_is_empty_or_no_number() {
    for wrong in [vec![], vec![1.0, f64::NAN], vec![f64::INFINITY], vec![f64::NEG_INFINITY, 2.0]] {
        assert_eq!(mann_whitney(&wrong, &[1.0]), None);
        assert_eq!(mann_whitney(&[1.0], &wrong), None);
        assert_eq!(hodges_lehmann(&wrong, &[1.0]), None);
        assert_eq!(hodges_lehmann(&[1.0], &wrong), None);
    }
}

const METHODS: [Method; 4] = [Method::Exact, Method::Asymptotic, Method::Auto, Method::ExactTies];

#[test]
fn swapping_the_sides_mirrors_everything() {
    let mut dice = Dice(7);
    for turn in 0..300 {
        let (n, m) = (dice.size(), dice.size());
        let (a, b) = (dice.latencies(n, 0.0), dice.latencies(m, 1.0));
        let method = METHODS[turn % if n + m <= 50 { 4 } else { 3 }];
        // The exact method that knows no ties rounds half a U down, on either side.
        if method == Method::Exact && mann_whitney(&a, &b).unwrap().u.fract() != 0.0 {
            continue;
        }
        for (one, other) in [
            (Alternative::Less, Alternative::Greater),
            (Alternative::Greater, Alternative::Less),
            (Alternative::TwoSided, Alternative::TwoSided),
        ] {
            let there = mann_whitney_test(&a, &b, one, method).unwrap();
            let back = mann_whitney_test(&b, &a, other, method).unwrap();
            assert!(near(there.p_value, back.p_value, 1e-12), "{n} {m} {there:?} {back:?}");
            assert!(there.u + back.u == (n * m) as f64);
            assert!((there.effect + back.effect - 1.0).abs() < 1e-12);
        }
        let (there, back) = (shift(&a, &b, 0.9).unwrap(), shift(&b, &a, 0.9).unwrap());
        assert_eq!(there.estimate, -back.estimate);
        let mirrored = back.interval.map(|back| Interval { low: -back.high, high: -back.low });
        assert_eq!(there.interval, mirrored);
        assert_eq!(hodges_lehmann(&a, &b), Some(there.estimate));
    }
}

#[test]
fn without_ties_both_exact_methods_agree() {
    let mut dice = Dice(31);
    for _ in 0..60 {
        let (n, m) = (dice.size() / 2 + 1, dice.size() / 2 + 1);
        let a: Vec<f64> = (0..n).map(|_| dice.roll()).collect();
        let b: Vec<f64> = (0..m).map(|_| dice.roll() + 0.1).collect();
        for alternative in [Alternative::Less, Alternative::Greater, Alternative::TwoSided] {
            let p = |method| mann_whitney_test(&a, &b, alternative, method).unwrap().p_value;
            assert!(near(p(Method::ExactTies), p(Method::Exact), 1e-12), "{n} {m}");
        }
    }
}

#[test]
fn what_cannot_be_counted_is_approximated_and_says_so() {
    let many: Vec<f64> = (0..2000).map(f64::from).collect();
    for method in [Method::Exact, Method::ExactTies] {
        let test = mann_whitney_test(&many, &many, Alternative::TwoSided, method).unwrap();
        assert_eq!((test.method, test.p_value, test.effect), (Method::Asymptotic, 1.0, 0.5));
    }
    let few = mann_whitney_test(&[0.5], &many, Alternative::Greater, Method::Auto).unwrap();
    assert_eq!(few.method, Method::Exact);
    assert!(near(few.p_value, 2.0 / 2001.0, 1e-12), "{few:?}");
}

#[test]
fn a_constant_more_shifts_by_that_constant() {
    let mut dice = Dice(37);
    for _ in 0..100 {
        let (n, m) = (dice.size(), dice.size());
        // Eighths, so that no rounding differs.
        let mut eighths = |n: usize| (0..n).map(|_| (dice.roll() * 400.0).round() / 8.0).collect::<Vec<_>>();
        let (a, b) = (eighths(n), eighths(m));
        let more: Vec<f64> = b.iter().map(|x| x + 12.375).collect();
        let (before, after) = (shift(&a, &b, 0.95).unwrap(), shift(&a, &more, 0.95).unwrap());
        assert_eq!(after.estimate, before.estimate + 12.375);
        // Ties across the samples come and go with the constant, and with them the ends.
        assert!(mann_whitney(&a, &more).unwrap().u >= mann_whitney(&a, &b).unwrap().u);
        if let Some(interval) = after.interval {
            assert!(interval.low <= after.estimate && after.estimate <= interval.high);
        }
    }
}

#[test]
fn a_worse_sample_never_looks_better() {
    let mut dice = Dice(41);
    for turn in 0..120 {
        let (n, m) = (dice.size(), dice.size());
        let (a, mut b) = (dice.latencies(n, 0.0), dice.latencies(m, 0.0));
        // Exact where nothing is tied; the approximation's spread changes with the ties.
        let method = if turn % 2 == 0 { Method::Asymptotic } else { Method::Exact };
        let (a, spread): (Vec<f64>, f64) = (a.iter().map(|x| x + 0.05).collect(), 1e-6);
        b.iter_mut().enumerate().for_each(|(i, x)| *x += spread * i as f64);
        let a: Vec<f64> = a.iter().enumerate().map(|(i, x)| x + spread * i as f64).collect();
        let mut before = mann_whitney_test(&a, &b, Alternative::Greater, method).unwrap();
        let mut shifted = hodges_lehmann(&a, &b).unwrap();
        for i in 0..b.len().min(8) {
            b[i] += 0.1 * (1.0 + 20.0 * dice.roll()) + spread * dice.roll();
            let now = mann_whitney_test(&a, &b, Alternative::Greater, method).unwrap();
            assert!(now.u >= before.u && now.p_value <= before.p_value * (1.0 + 1e-12), "{before:?} {now:?}");
            let shift = hodges_lehmann(&a, &b).unwrap();
            assert!(shift >= shifted);
            (before, shifted) = (now, shift);
        }
    }
}

#[test]
fn another_unit_changes_nothing() {
    let mut dice = Dice(11);
    for _ in 0..200 {
        let (n, m) = (dice.size(), dice.size());
        let (a, b) = (dice.latencies(n, 0.0), dice.latencies(m, 2.0));
        // A power of two, so that no rounding differs.
        let scaled = |x: &[f64]| x.iter().map(|v| v * 1024.0).collect::<Vec<_>>();
        // What is counted way by way takes long without optimization.
        for method in &METHODS[..if n + m <= 50 { 4 } else { 3 }] {
            let p = |a: &[f64], b: &[f64]| mann_whitney_test(a, b, Alternative::TwoSided, *method);
            assert_eq!(p(&a, &b), p(&scaled(&a), &scaled(&b)));
        }
        assert_eq!(hodges_lehmann(&a, &b).map(|s| s * 1024.0), hodges_lehmann(&scaled(&a), &scaled(&b)));
        let (one, other) = (
            compare_latency(&a, &b, 0.25, 0.5, 1),
            compare_latency(&scaled(&a), &scaled(&b), 0.25, 512.0, 1),
        );
        assert_eq!(one.verdict, other.verdict);
    }
}

#[test]
fn worse_samples_never_improve_a_verdict() {
    let mut dice = Dice(13);
    let mut turned = 0;
    for _ in 0..60 {
        let before = dice.latencies(80, 0.0);
        let mut now = dice.latencies(60, 0.0);
        let mut failed = false;
        for _ in 0..40 {
            let compared = compare_latency(&before, &now, 0.25, 0.5, 50);
            assert!(!(failed && compared.verdict == Verdict::Pass), "{}", compared.message);
            failed |= compared.verdict == Verdict::Fail;
            now.extend([50.0 + dice.roll(), 60.0, 70.0]);
        }
        turned += u32::from(failed);
        let mut was_worse = false;
        for errors in 0..100 {
            let compared = compare_errors((1, 100), (errors, 100), 50);
            assert!(!(was_worse && compared.verdict == Verdict::Pass), "{}", compared.message);
            was_worse |= compared.verdict == Verdict::Fail;
        }
        assert!(was_worse);
    }
    assert_eq!(turned, 60);
}

#[test]
fn the_shift_and_its_ends_are_the_very_differences() {
    let mut dice = Dice(17);
    let mut of = |n: usize, shape: fn(f64) -> f64| (0..n).map(|_| shape(dice.roll())).collect::<Vec<_>>();
    let tenths: fn(f64) -> f64 = |x| (x * 300.0).round() / 10.0;
    let two: fn(f64) -> f64 = f64::round;
    let heavy: fn(f64) -> f64 = |x| (std::f64::consts::PI * (x - 0.5)).tan();
    let wide: fn(f64) -> f64 = |x| 10_f64.powf(600.0 * x - 300.0);
    let even: fn(f64) -> f64 = |x| x;
    let mixed: fn(f64) -> f64 = |x| if x < 0.6 { 5.0 } else { 1.0 / (x - 0.6) };
    for (a, b) in [
        (of(400, tenths), of(301, tenths)),
        (of(800, even), of(900, even)),
        (of(1000, two), of(999, two)),
        (of(700, heavy), of(600, heavy)),
        (of(700, wide), of(501, wide)),
        (of(600, wide), of(600, two)),
        (of(800, mixed), of(700, mixed)),
        (of(3000, mixed), of(2500, tenths)),
        (of(3, even), of(2000, heavy)),
        (of(2000, tenths), of(3, even)),
    ] {
        let mut all: Vec<f64> = b.iter().flat_map(|b| a.iter().map(move |a| b - a)).collect();
        all.sort_by(f64::total_cmp);
        let shift = shift(&a, &b, 0.95).unwrap();
        let (middle, below) = (all[all.len() / 2], all[(all.len() - 1) / 2]);
        assert_eq!(shift.estimate, below.midpoint(middle));
        let Interval { low, high } = shift.interval.unwrap();
        // Ends are a difference and its mirror.
        let at = all.partition_point(|x| *x < low)..all.partition_point(|x| *x <= low);
        assert!(at.clone().any(|rank| all[all.len() - 1 - rank] == high), "{at:?} {low} {high}");
        assert!(low <= shift.estimate && shift.estimate <= high);
    }
}

#[test]
fn thinned_samples_lead_to_the_same_shift_as_none() {
    let mut dice = Dice(43);
    for per_ms in [1e9, 300.0, 1e3] {
        let mut of = |n: usize, slower: f64| -> Vec<f64> {
            (0..n).map(|_| ((1.0 - 30.0 * dice.roll().ln() + slower) * per_ms).round() / per_ms).collect()
        };
        let (a, b) = (of(20_000, 0.0), of(30_000, 0.25));
        let shift = shift(&a, &b, 0.95).unwrap();
        let Interval { low, high } = shift.interval.unwrap();
        // How many differences are below each figure, and up to it: its rank lies between.
        let ranks = |figure: f64| {
            let mut sorted = b.clone();
            sorted.sort_by(f64::total_cmp);
            a.iter().fold((0, 0), |(below, up_to), a| {
                (
                    below + sorted.partition_point(|b| b - a < figure),
                    up_to + sorted.partition_point(|b| b - a <= figure),
                )
            })
        };
        let pairs: usize = 600_000_000;
        let (below, up_to) = ranks(shift.estimate);
        assert!(below <= pairs / 2 && up_to >= pairs / 2, "{shift:?} {below} {up_to}");
        let test = mann_whitney(&a, &b).unwrap();
        assert!(test.p_value < 0.5 && low < shift.estimate && shift.estimate < high, "{shift:?}");
        let ((below_low, up_to_low), (below_high, up_to_high)) = (ranks(low), ranks(high));
        // The ranks of both ends mirror each other.
        assert!(below_low + below_high < pairs && up_to_low + up_to_high > pairs, "{shift:?}");
        // 1.96 standard deviations of U, nearly without ties.
        let expected = pairs as f64 / 2.0 - 1.959_964 * (pairs as f64 * 50_001.0 / 12.0).sqrt();
        assert!(below_low as f64 <= expected + pairs as f64 * 1e-4);
        assert!(up_to_low as f64 >= expected - pairs as f64 * 1e-4);
    }
}

#[test]
fn nothing_is_shifted_that_has_no_difference() {
    assert_eq!(shift(&[-1e308], &[1e308], 0.95), None);
    assert_eq!(shift(&[1.0], &[2.0], 0.95).unwrap().interval, None);
    for confidence in [0.0, 1.0, -3.0, f64::NAN] {
        assert_eq!(shift(&[1.0; 20], &[2.0; 20], confidence).unwrap().interval, None);
    }
    let same = shift(&[1.0; 20], &[1.0; 30], 0.95).unwrap();
    assert_eq!((same.estimate, same.interval), (0.0, Some(Interval { low: 0.0, high: 0.0 })));
    assert_eq!(shift(&[0.0; 9], &[-0.0; 9], 0.9).unwrap().estimate.to_bits(), 0.0_f64.to_bits());
}

#[test]
fn a_thousand_million_requests_without_an_error_have_bounds() {
    let many = 1_000_000_000;
    let upper = error_rate_upper(0, many, 0.95).unwrap();
    // The rule of three.
    assert!(near(upper, 2.995_732_273_55e-9, 1e-8), "{upper}");
    assert_eq!(error_rate_lower(0, many, 0.95), Ok(0.0));
    let half = error_rate_interval(many / 2, many, 0.95).unwrap();
    assert!(near(half.high - 0.5, 0.5 - half.low, 1e-9) && near(half.high - 0.5, 3.1e-5, 1e-2), "{half:?}");
    assert_eq!(fisher((0, many), (0, many), Alternative::TwoSided), 1.0);
    let p = fisher((0, many), (10, many), Alternative::Greater);
    assert!(near(p, 0.5_f64.powi(10), 1e-6), "{p}");
    assert!(near(fisher((0, many), (10, many), Alternative::TwoSided), 2.0 * p, 1e-12));
    let p = fisher((many / 2, many), (many / 2, many), Alternative::TwoSided);
    assert!(near(p, 1.0, 1e-9), "{p}");
    let worse = fisher((many / 2, many), (many / 2 + 100_000, many), Alternative::Greater);
    // 4.47 standard deviations.
    assert!(worse > 3e-6 && worse < 5e-6, "{worse}");
    let difference = rate_difference((0, many), (0, many), 0.95).unwrap();
    assert_eq!(difference.difference, 0.0);
    assert!(near(difference.interval.high, 3.841_458_8e-9, 1e-6), "{difference:?}");
    assert_eq!(fisher((7, 5), (9, 3), Alternative::Less), 1.0);
    assert_eq!(error_rate_upper(u64::MAX, u64::MAX, 0.95), Ok(1.0));
    assert!(error_rate_upper(0, u64::MAX, 0.95).is_ok_and(|upper| upper < 1e-18));
    assert_eq!(error_rate_interval(1, 0, 0.95), Err(NoTraffic));
    assert_eq!(rate_difference((0, 0), (1, 2), 0.95), Err(NoTraffic));
}

#[test]
fn a_quantile_has_ends_only_where_the_sample_reaches_them() {
    let sample: Vec<f64> = (0..59).map(f64::from).collect();
    assert_eq!(quantile_interval(&sample, 0.95, 0.9).unwrap().high, Some(58.0));
    assert_eq!(quantile_interval(&sample[..58], 0.95, 0.9).unwrap().high, None);
    assert_eq!(quantile_interval(&[], 0.95, 0.9), None);
    for wrong in [0.0, 1.0, f64::NAN] {
        let estimate = quantile_interval(&sample, 0.5, wrong).unwrap();
        assert_eq!((estimate.low, estimate.high), (None, None));
    }
    let zeros = [0.0; 59];
    assert_eq!(quantile_ratio(&zeros, &sample, 0.5, 0.9), None);
    assert_eq!(quantile_ratio(&[-1.0, 2.0], &sample, 0.5, 0.9), None);
    assert_eq!(quantile_difference(&zeros, &sample, 0.5, 0.9).unwrap().value, 29.0);
    let there = quantile_difference(&zeros, &sample, 0.5, 0.9).unwrap();
    let back = quantile_difference(&sample, &zeros, 0.5, 0.9).unwrap();
    assert_eq!((there.low, there.high), (back.high.map(|x| -x), back.low.map(|x| -x)));
}

#[test]
fn the_normal_distribution_ends_where_numbers_end() {
    assert_eq!(normal::quantile(0.5), 0.0);
    assert_eq!(normal::quantile(0.0), f64::NEG_INFINITY);
    assert_eq!(normal::quantile(1.0), f64::INFINITY);
    assert!(normal::quantile(1.1).is_nan() && normal::quantile(f64::NAN).is_nan());
    assert_eq!((normal::upper_tail(f64::INFINITY), normal::upper_tail(f64::NEG_INFINITY)), (0.0, 1.0));
    assert_eq!((normal::upper_tail(0.0), normal::upper_tail(1e300)), (0.5, 0.0));
    for exponent in 1..300 {
        let p = 10_f64.powi(-exponent);
        assert!(near(normal::upper_tail(-normal::quantile(p)), p, 1e-12), "{p}");
    }
}

#[test]
fn a_rare_disaster_fails_although_the_ranks_hardly_move() {
    let canary: Vec<f64> = [vec![100.0; 7], vec![1.0; 3]].concat();
    assert_eq!(compare_latency(&[1.0; 10], &canary, 0.25, 5.0, 10).verdict, Verdict::Fail);
    let rare: Vec<f64> = [vec![1.0; 930], vec![100.0; 70]].concat();
    let compared = compare_latency(&[1.0; 1000], &rare, 0.25, 5.0, 50);
    assert_eq!(compared.shift_ms, Some(0.0));
    assert_eq!(compared.verdict, Verdict::Fail, "{}", compared.message);
    assert!(compared.message.contains("70 of 1000"), "{}", compared.message);
}

#[test]
fn a_certain_but_tolerable_change_passes_and_an_intolerable_one_fails() {
    let mut dice = Dice(19);
    let before = dice.latencies(2000, 20.0);
    let verdict = |slower: f64| {
        let now: Vec<f64> = before.iter().map(|x| x + slower).collect();
        compare_latency(&before, &now, 0.25, 5.0, 50)
    };
    let little = verdict(2.0);
    assert!(little.p_value.unwrap() < 0.01 && little.verdict == Verdict::Pass, "{}", little.message);
    assert_eq!(verdict(10.0).verdict, Verdict::Fail);
    assert_eq!(verdict(-10.0).verdict, Verdict::Pass);
}

#[test]
fn silence_and_too_few_samples_never_pass() {
    let many = [1.0; 60];
    let verdict = |a: &[f64], b: &[f64]| compare_latency(a, b, 0.25, 5.0, 50).verdict;
    assert_eq!(verdict(&[], &many), Verdict::NoData);
    assert_eq!(verdict(&many, &[]), Verdict::NoData);
    assert_eq!(verdict(&many, &[1.0; 49]), Verdict::TooFewSamples);
    assert_eq!(verdict(&many, &[f64::NAN; 60]), Verdict::Error);
    assert_eq!(verdict(&many, &[-1.0; 60]), Verdict::Error);
    assert_eq!(compare_errors((0, 0), (0, 60), 50).verdict, Verdict::NoData);
    assert_eq!(compare_errors((0, 60), (0, 0), 50).verdict, Verdict::NoData);
    assert_eq!(compare_errors((0, 60), (0, 49), 50).verdict, Verdict::TooFewSamples);
    assert_eq!(compare_errors((0, 60), (20, 40), 50).verdict, Verdict::Fail);
    assert_eq!(compare_errors((0, 60), (61, 60), 50).verdict, Verdict::Error);
    // 0.05 points more, on many requests: certain, and no alarm.
    assert_eq!(compare_errors((100, 1_000_000), (600, 1_000_000), 50).verdict, Verdict::Pass);
}
