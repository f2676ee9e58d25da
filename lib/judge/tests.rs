//! Against reference values, and what must hold for any figures.

use serde_json::Value;

use super::*;
use crate::evidence::Verdict;
use crate::plan::Trigger;

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

fn trigger(text: &str) -> Trigger {
    let lookup = |_: &str| None;
    crate::yaml::parse(text).unwrap().read(&lookup).unwrap()
}

fn figures(requests: u64, errors: u64, latency: f64) -> SideFigures {
    SideFigures::of((0..requests).map(|i| (latency + (i % 7) as f64 * 0.1, i >= errors)))
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
        assert!(near(upper, row["upper"].as_f64().unwrap(), 1e-8), "{row} upper {upper}");
        assert!(near(lower, row["lower"].as_f64().unwrap(), 1e-8), "{row} lower {lower}");
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
        assert!(near(p, row["p_value"].as_f64().unwrap(), 1e-7), "{row}: {p}");
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

#[test]
fn swapping_the_sides_mirrors_the_effect() {
    let mut dice = Dice(7);
    for _ in 0..300 {
        let (n, m) = (dice.size(), dice.size());
        let (a, b) = (dice.latencies(n, 0.0), dice.latencies(m, 1.0));
        let (there, back) = (mann_whitney(&a, &b).unwrap(), mann_whitney(&b, &a).unwrap());
        assert!((there.effect + back.effect - 1.0).abs() < 1e-12);
        assert!(there.u + back.u == (n * m) as f64);
        let (there, back) = (hodges_lehmann(&a, &b).unwrap(), hodges_lehmann(&b, &a).unwrap());
        assert!((there + back).abs() < 1e-12, "{there} {back}");
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
        assert_eq!(mann_whitney(&a, &b), mann_whitney(&scaled(&a), &scaled(&b)));
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
fn the_shift_is_exact_for_large_samples_too() {
    let mut dice = Dice(17);
    let (a, b) = (dice.latencies(400, 0.0), dice.latencies(301, 0.7));
    let mut all: Vec<f64> = b.iter().flat_map(|b| a.iter().map(move |a| b - a)).collect();
    all.sort_by(f64::total_cmp);
    assert_eq!(hodges_lehmann(&a, &b), median(&all));
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
