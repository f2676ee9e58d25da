//! Cases of Kayenta's own tests and issues, intervals of R, and what a release must not pass on.

use serde_json::Value;

use super::*;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/kayenta.json")).unwrap()
}

/// A sample of the fixture: as it stands, or by its name.
fn values(of: &Value) -> Vec<f64> {
    match of {
        Value::String(name) => sample(name),
        numbers => numbers.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect(),
    }
}

fn sample(name: &str) -> Vec<f64> {
    values(&fixture()[name])
}

fn shift(canary: &[f64], baseline: &[f64], confidence: f64) -> Shift {
    interval::shift(baseline, canary, confidence).unwrap()
}

fn near(seen: f64, expected: f64, error: f64) -> bool {
    (seen - expected).abs() <= error
}

#[test]
fn intervals_are_those_of_r() {
    let fixture = fixture();
    let cases = fixture["intervals"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let seen = shift(&values(&case["canary"]), &values(&case["baseline"]), number("confidence"));
        // The ends are found to within 1e-4; with the same steps they are the same to rounding.
        assert!(near(seen.low, number("low"), 1e-9), "{seen:?}\n{case}");
        assert!(near(seen.high, number("high"), 1e-9), "{seen:?}\n{case}");
    }
}

#[test]
fn estimates_are_those_of_kayenta_which_corrects_for_continuity() {
    let mostly_zero = shift(&sample("mostly_zero_canary"), &sample("mostly_zero_baseline"), 0.95);
    assert!(near(mostly_zero.estimate, 2.627_924_304_515_565_3e-5, 1e-12), "{mostly_zero:?}");
    // What a user of Kayenta saw with its debugger.
    let seven = shift(&[100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 1.0, 1.0, 1.0], &[1.0; 10], 0.98);
    assert!(near(seven.low, 6.825_022_991_538_781e-5, 1e-15), "{seven:?}");
    assert_eq!(seven.high, 99.0);
    assert!(near(seven.estimate, 98.999_929_041_701_93, 1e-12), "{seven:?}");
    // Kayenta's own tests, to within 1e-4; and R, whose estimate is not corrected and lies close by.
    for (canary, baseline, confidence, estimate, error) in [
        ("ties_90_canary", "ties_90_baseline", 0.95, -0.499_939_390_718_032_3, 1e-4),
        ("ties_180_canary", "ties_180_baseline", 0.98, -3.450_440_827_293_15e-5, 1e-4),
        ("around_20", "around_10_too", 0.98, 9.976_588_106_979_22, 0.01),
        ("lognormal_canary", "lognormal_baseline", 0.98, -10.700_135_615_503, 0.1),
    ] {
        let seen = shift(&sample(canary), &sample(baseline), confidence).estimate;
        assert!(near(seen, estimate, error), "{canary}: {seen} is not {estimate}");
    }
}

/// A metric without settings.
fn metric(canary: &[f64], baseline: &[f64]) -> Metric {
    Metric {
        name: "m".into(),
        config: MetricConfig::default(),
        baseline: baseline.to_vec(),
        canary: canary.to_vec(),
    }
}

/// As Kayenta's tests of its classifier have it: at 95 %, with a tolerance of 0.1.
fn found(canary: &[f64], baseline: &[f64], config: &MetricConfig) -> Found {
    classified("m", config, baseline, canary, 0.95, 0.1)
}

fn with(change: impl FnOnce(&mut MetricConfig)) -> MetricConfig {
    let mut config = MetricConfig::default();
    change(&mut config);
    config
}

fn effects(allowed: (f64, f64), critical: (f64, f64)) -> EffectSize {
    EffectSize {
        measure: Measure::MeanRatio,
        allowed_decrease: Some(allowed.0),
        allowed_increase: Some(allowed.1),
        critical_decrease: Some(critical.0),
        critical_increase: Some(critical.1),
    }
}

/// Canary, baseline, settings, and what becomes of it.
type Compared<'a> = (&'a [f64], &'a [f64], MetricConfig, Classification);

#[test]
fn classifications_are_those_of_kayentas_own_tests() {
    use Classification::{High, Low, Pass};
    let plain = MetricConfig::default();
    let only = |direction| with(|c| c.direction = direction);
    let allowed = |low, high| with(|c| c.effect_size = effects((low, high), (1.0, 1.0)));
    let (ten, ten_too) = (sample("around_10"), sample("around_10_too"));
    let (twenty, twenty_too) = (sample("around_20"), sample("around_20_too"));
    let mostly_zero = (sample("mostly_zero_canary"), sample("mostly_zero_baseline"));
    let some = [20.0, 22.0, 21.0, 25.0, 30.0];
    let small = [1.0, 2.2, 1.1, 2.5, 3.0];
    let around_55 = [54.9, 54.5, 55.1, 55.6, 57.4];
    let cases: Vec<Compared> = vec![
        (&ten, &ten_too, plain.clone(), Pass),
        (&twenty, &ten_too, plain.clone(), High),
        (&ten, &twenty_too, plain.clone(), Low),
        (&ten, &twenty_too, only(Direction::Increase), Pass),
        (&twenty, &ten_too, only(Direction::Decrease), Pass),
        (&twenty, &ten_too, only(Direction::Increase), High),
        (&ten, &twenty_too, only(Direction::Decrease), Low),
        (&mostly_zero.0, &mostly_zero.1, plain.clone(), High),
        (&mostly_zero.0, &mostly_zero.1, allowed(1.0, 5.0), Pass),
        (&some, &small, allowed(0.8, 1.2), High),
        (&ten, &twenty_too, allowed(0.8, 1.2), Low),
        (&[10.0, 12.2, 10.1, 12.5, 23.0], &some, allowed(0.5, 1.0), Pass),
        (&[1.0; 3], &[1.0; 2], only(Direction::Decrease), Pass),
        (&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 4.0, 3.0, 2.0, 1.0], only(Direction::Decrease), Pass),
        (&[0.0, 1.0, 1.0, 1.0, 1.0], &[1.0; 5], only(Direction::Decrease), Pass),
        (&[1.0, 1.0, 1.0, 1.0, 10.0], &[1.0; 5], plain.clone(), Pass),
        (&[10.0; 5], &[1.0; 5], plain.clone(), High),
        (&[10.0; 5], &[0.0; 5], plain.clone(), High),
        (&around_55, &[0.0; 5], allowed(0.8, 1.2), High),
        (&[0.0; 5], &around_55, allowed(0.8, 1.2), Low),
        (&[0.0; 5], &[0.0; 5], allowed(0.8, 1.2), Pass),
    ];
    for (canary, baseline, config, expected) in cases {
        let seen = found(canary, baseline, &config);
        assert_eq!(seen.classification, expected, "{canary:?} {baseline:?}");
        assert!(!seen.critical);
    }
    assert_eq!(found(&around_55, &[0.0; 5], &plain).ratio, None);
    assert_eq!(found(&[0.0; 5], &around_55, &plain).ratio, None);
    assert_eq!(found(&[0.0; 5], &[0.0; 5], &plain).ratio, Some(1.0));
}

#[test]
fn effects_by_probability_are_those_of_kayentas_own_tests() {
    let cles = |low, high| {
        with(|c| {
            c.effect_size = EffectSize { measure: Measure::Cles, ..effects((low, high), (0.5, 0.5)) };
        })
    };
    let (canary, baseline) = (sample("lower_canary"), sample("lower_baseline"));
    let low = classified("m", &cles(0.2, 0.8), &baseline, &canary, 0.98, 0.2);
    assert_eq!(low.classification, Classification::Low);
    assert!(low.effect.is_some_and(|x| x > 0.05 && x <= 0.2), "{:?}", low.effect);
    let not_enough = classified("m", &cles(0.01, 0.8), &baseline, &canary, 0.98, 0.2);
    assert_eq!(not_enough.classification, Classification::Pass);
    assert_eq!(interval::exceeds(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0, 2.0, 3.0, 4.0, 5.0]), 0.5);
    assert_eq!(interval::exceeds(&[25.0, 24.0, 26.0], &[2.0, 3.0]), 0.0);
    assert_eq!(interval::exceeds(&[2.0, 3.0], &[25.0, 24.0, 3.0]), (6.0 - 0.5) / 6.0);
}

#[test]
fn critical_effects_are_those_of_kayentas_own_tests() {
    use Classification::{High, Low, Pass};
    let critical = |allowed, critical| {
        with(|c| {
            c.critical = true;
            c.effect_size = effects(allowed, critical);
        })
    };
    let (some, small) = ([20.0, 22.0, 21.0, 25.0, 30.0], [1.0, 2.2, 1.1, 2.5, 3.0]);
    let tenths = [
        0.050_000_000_745_058_06,
        0.050_000_000_745_058_06,
        0.016_666_667_535_901_07,
        0.016_666_667_535_901_07,
        0.016_666_667_535_901_07,
        0.050_000_000_745_058_06,
        0.033_333_335_071_802_14,
        0.050_000_002_607_703_21,
        0.050_000_002_607_703_21,
        0.133_333_336_561_918_26,
    ];
    let lower: (&[f64], &[f64]) = (&[2.0, 2.0, 2.0, 2.0, 3.0], &[10.0, 20.2, 10.1, 20.5, 30.0]);
    let cases: [(Compared, bool); 6] = [
        ((&some, &small, critical((1.0, 1.0), (1.0, 1.2)), High), true),
        ((lower.0, lower.1, critical((1.0, 1.0), (1.2, 1.0)), Low), true),
        ((&some, &small, critical((1.0, 5.0), (1.0, 13.0)), High), false),
        ((&some, &small, critical((1.0, 13.0), (1.0, 15.0)), Pass), false),
        ((&some, &small, with(|c| c.critical = true), High), true),
        ((&tenths, &[0.0; 10], critical((1.0, 1.0), (0.8, 1.2)), High), true),
    ];
    for ((canary, baseline, config, expected), critically) in cases {
        let seen = found(canary, baseline, &config);
        assert_eq!((seen.classification, seen.critical), (expected, critically), "{canary:?} {baseline:?}");
        assert_eq!(seen.reason.is_some_and(|r| r.contains("(critical)")), critically);
    }
}

#[test]
fn missing_data_is_classified_as_in_kayenta() {
    use Classification::{Nodata, NodataFailMetric, Pass};
    let full = [1.0, 2.0, 3.0, 4.0, 5.0];
    let strict = with(|c| c.must_have_data = true);
    let critical = with(|c| c.critical = true);
    let both = with(|c| (c.must_have_data, c.critical) = (true, true));
    let replace = with(|c| c.nan_strategy = NanStrategy::Replace);
    for (config, expected, critically) in [
        (&MetricConfig::default(), Nodata, false),
        (&strict, NodataFailMetric, false),
        (&critical, Nodata, true),
        (&both, Nodata, true),
        (&replace, Pass, false),
    ] {
        for (canary, baseline) in [(&[][..], &full[..]), (&full[..], &[][..]), (&[][..], &[][..])] {
            let seen = found(canary, baseline, config);
            assert_eq!((seen.classification, seen.critical), (expected, critically));
            assert_eq!(seen.reason.is_some(), expected != Pass);
            assert_eq!(seen.ratio, Some(1.0));
        }
    }
}

#[test]
fn the_interval_of_98_percent_must_be_clear_of_a_quarter_of_the_shift() {
    // From -1.2634 around 0.067, moved up: clear of a quarter from (1.2634 + 0.017) / 0.75 = 1.707 on.
    let moved = |by: f64| -> Vec<f64> { sample("around_10").iter().map(|x| x + by).collect() };
    let of = |by: f64| classify(&metric(&moved(by), &sample("around_10_too"))).classification;
    assert_eq!(of(1.70), Classification::Pass);
    assert_eq!(of(1.72), Classification::High);
    // Up to 1.2688; moved down, from (1.2688 - 0.017) / 0.75 = 1.669 on.
    assert_eq!(of(-1.66), Classification::Pass);
    assert_eq!(of(-1.68), Classification::Low);
}

#[test]
fn values_are_prepared_as_in_kayenta() {
    let nan = f64::NAN;
    let replace = with(|c| c.nan_strategy = NanStrategy::Replace);
    assert_eq!(without_nan(&[0.0, 1.0, nan, 1.0, 0.0], &MetricConfig::default()), [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(without_nan(&[nan, 10.1, nan, 40.4], &replace), [0.0, 10.1, 0.0, 40.4]);
    let with_factor = |factor| with(|c| c.outliers = Outliers { strategy: OutlierStrategy::Remove, factor });
    let kept = |values: &[f64], config: &MetricConfig| without_outliers(values.to_vec(), config);
    // The 99th percentile widens the fence, but never as far as the greatest value.
    let one_high = [21.0, 23.0, 24.0, 25.0, 50.0, 29.0, 23.0, 21.0];
    assert_eq!(kept(&one_high, &with_factor(1.5)), [21.0, 23.0, 24.0, 25.0, 29.0, 23.0, 21.0]);
    assert_eq!(kept(&one_high, &MetricConfig::default()), one_high);
    let both_ways = [1.0, 1.0, 1.0, 5.0, -1.0, -1.0, -1.0, -5.0];
    assert_eq!(kept(&both_ways, &with_factor(1.5)), [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]);
    assert_eq!(kept(&both_ways, &with_factor(3.0)), both_ways);
    assert_eq!(kept(&[], &with_factor(3.0)), [] as [f64; 0]);
    // Of 300 values, two and a bit lie beyond the 99th percentile: those two stay that are within.
    let mut many: Vec<f64> = vec![1.0; 295];
    many.extend([2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(kept(&many, &with_factor(3.0)).len(), 297);
    let mirrored: Vec<f64> = many.iter().map(|x| -x).collect();
    assert_eq!(kept(&mirrored, &with_factor(3.0)).len(), 297);
}

fn config(pass: f64, marginal: f64, groups: &[(&str, f64)]) -> Config {
    Config { pass, marginal, groups: groups.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect() }
}

/// A metric with this outcome.
fn result(classification: Classification, group: &str) -> MetricResult {
    let has_data = !matches!(classification, Classification::Nodata | Classification::NodataFailMetric);
    MetricResult {
        name: format!("{} of {group}", classification.word()),
        groups: vec![group.into()],
        classification,
        critical: false,
        muted: false,
        reason: None,
        ratio: None,
        effect: None,
        shift: None,
        baseline: usize::from(has_data) * 10,
        canary: usize::from(has_data) * 10,
    }
}

fn critical(classification: Classification, group: &str) -> MetricResult {
    MetricResult { critical: true, ..result(classification, group) }
}

/// Weights of groups, metrics, and the score.
type Case<'a> = (&'a [(&'a str, f64)], Vec<MetricResult>, f64);

#[test]
fn scores_are_those_of_kayentas_own_tests() {
    use Classification::{High, Low, Nodata, NodataFailMetric, Pass};
    let even = [("1", 50.0), ("2", 50.0)];
    let cases: Vec<Case> = vec![
        (&[], vec![result(Pass, "1")], 100.0),
        (&[], vec![result(High, "1")], 0.0),
        (&[], vec![result(Nodata, "1")], 0.0),
        (&[], vec![result(Pass, "1"), result(Pass, "1"), result(Nodata, "2")], 100.0),
        (&[], vec![result(Pass, "1"), result(High, "1")], 50.0),
        (&[], vec![result(Pass, "1"), result(High, "1"), result(Low, "1")], 33.33),
        (&[("1", 75.0), ("2", 25.0)], vec![result(Pass, "1"), result(Pass, "1"), result(High, "2")], 75.0),
        (&even, vec![result(Pass, "1"), result(High, "1"), result(High, "2")], 25.0),
        (&even, vec![result(Pass, "1"), result(Nodata, "1"), result(High, "2")], 50.0),
        (&[], vec![result(Pass, "1"), critical(High, "1")], 0.0),
        (&[], vec![result(Low, "1"), critical(Pass, "1")], 50.0),
        (&[], vec![result(Pass, "1"), critical(Nodata, "1")], 0.0),
        (
            &[("1", 15.0), ("2", 85.0)],
            vec![result(High, "1"), result(Low, "1"), result(Pass, "1"), result(High, "2")],
            5.0,
        ),
        // And by its source: required data counts as failed; groups without weight share the rest.
        (&[], vec![result(Pass, "1"), result(NodataFailMetric, "1")], 50.0),
        (&[], vec![result(Pass, "1"), result(Nodata, "1")], 0.0),
        (&[], vec![result(Pass, "1"), result(NodataFailMetric, "1"), result(Nodata, "1")], 50.0),
        (&[("1", 60.0)], vec![result(Pass, "1"), result(Pass, "2"), result(High, "3")], 80.0),
    ];
    for (weights, metrics, score) in cases {
        let names: Vec<String> = metrics.iter().map(|m| m.name.clone()).collect();
        let seen = score::judgement(&config(95.0, 75.0, weights), metrics);
        assert_eq!(seen.score, score, "{names:?}");
        let class = if score >= 95.0 {
            Class::Pass
        } else if score >= 75.0 {
            Class::Marginal
        } else {
            Class::Fail
        };
        assert_eq!(seen.class, class);
        assert!(class == Class::Pass || seen.decides != Verdict::Pass, "{names:?}");
    }
}

#[test]
fn thresholds_are_reached_at_their_very_value() {
    let of = |pass, marginal| {
        let metrics = vec![result(Classification::Pass, "1"), result(Classification::High, "1")];
        let seen = score::judgement(&config(pass, marginal, &[]), metrics);
        (seen.class, seen.decides)
    };
    assert_eq!(of(50.0, 20.0), (Class::Pass, Verdict::Pass));
    assert_eq!(of(50.01, 50.0), (Class::Marginal, Verdict::Fail));
    assert_eq!(of(60.0, 50.01), (Class::Fail, Verdict::Fail));
}

#[test]
fn what_kayenta_passes_without_data_a_release_does_not() {
    let lenient = config(10.0, 0.0, &[]);
    let judge = |metrics: &[Metric]| judge_kayenta(&lenient, metrics).unwrap();
    let in_group = |group: &str, config: MetricConfig, canary: &[f64]| Metric {
        name: group.into(),
        config: MetricConfig { groups: vec![group.into()], ..config },
        baseline: vec![1.0, 2.0, 3.0],
        canary: canary.to_vec(),
    };
    let good = || in_group("good", MetricConfig::default(), &[1.0, 2.0, 3.0]);
    assert_eq!(judge(&[good()]).decides, Verdict::Pass);
    // A group without data scores 100.
    let seen = judge(&[good(), good(), in_group("silent", MetricConfig::default(), &[])]);
    assert_eq!((seen.score, seen.class, seen.decides), (100.0, Class::Pass, Verdict::NoData));
    assert!(seen.message.contains("silent"), "{}", seen.message);
    // Empty data under `replace` passes.
    let replace = with(|c| c.nan_strategy = NanStrategy::Replace);
    let seen = judge(&[good(), in_group("errors", replace.clone(), &[])]);
    assert_eq!((seen.score, seen.class, seen.decides), (100.0, Class::Pass, Verdict::NoData));
    // But zeros where the source had points without a value are what was asked for.
    let none = Metric { baseline: vec![f64::NAN; 3], ..in_group("errors", replace, &[f64::NAN; 3]) };
    assert_eq!(judge(&[good(), none]).decides, Verdict::Pass);
    // A metric that cannot be judged is left out of the score, also a critical one.
    let broken = in_group("broken", with(|c| c.critical = true), &[f64::INFINITY]);
    let seen = judge(&[good(), broken]);
    assert_eq!((seen.score, seen.class, seen.decides), (100.0, Class::Pass, Verdict::Error));
    // Half of the metrics without data; a critical one without; none at all; none but muted ones.
    let silent = |config| in_group("silent", config, &[]);
    assert_eq!(judge(&[good(), silent(MetricConfig::default())]).decides, Verdict::NoData);
    assert_eq!(judge(&[good(), good(), silent(with(|c| c.critical = true))]).decides, Verdict::NoData);
    assert_eq!(judge(&[]).decides, Verdict::NoData);
    let muted = Metric { config: with(|c| c.muted = true), ..good() };
    assert_eq!(judge(&[muted]).decides, Verdict::NoData);
    // Required data is a failure among others.
    let seen = judge(&[good(), in_group("good", with(|c| c.must_have_data = true), &[])]);
    assert_eq!((seen.score, seen.decides), (50.0, Verdict::Pass));
    // One optional metric of a group may be silent.
    let seen = judge(&[good(), good(), in_group("good", MetricConfig::default(), &[])]);
    assert_eq!((seen.score, seen.decides), (100.0, Verdict::Pass));
}

#[test]
fn a_muted_metric_is_classified_and_counts_for_nothing() {
    let bad = Metric {
        config: with(|c| (c.muted, c.critical) = (true, true)),
        ..metric(&[20.0, 22.0, 21.0, 25.0, 30.0], &[1.0, 2.2, 1.1, 2.5, 3.0])
    };
    let seen = judge_kayenta(&config(95.0, 75.0, &[]), &[bad, metric(&[1.0, 2.0], &[2.0, 1.0])]).unwrap();
    assert_eq!(seen.metrics[0].classification, Classification::High);
    assert_eq!((seen.score, seen.decides), (100.0, Verdict::Pass));
}

#[test]
fn a_rare_disaster_passes_as_it_does_in_kayenta() {
    // Seven of ten requests a hundred times slower, and three as before.
    let canary = |bad: usize| [vec![100.0; bad], vec![1.0; 10 - bad]].concat();
    let strict = with(|c| c.effect_size = effects((1.0, 1.05), (1.0, 1.1)));
    let of = |bad| classify(&Metric { config: strict.clone(), ..metric(&canary(bad), &[1.0; 10]) });
    let seen = of(7);
    assert_eq!(seen.classification, Classification::Pass);
    assert_eq!(seen.ratio, Some(70.3));
    assert_eq!(of(8).classification, Classification::High);
    // Errors now and then where there were none.
    assert_eq!(
        classify(&metric(&[0.0, 1.0, 2.0, 1.0, 0.0, 0.0], &[0.0; 6])).classification,
        Classification::Pass
    );
}

#[test]
fn a_baseline_of_zeros_has_no_ratio_and_is_judged_by_ranks_alone() {
    // As its issue 799 has it: errors of the canary alone, NaN where there were none.
    let high = |config| classify(&Metric { config, ..metric(&[1.0, 4.0, 2.0, 3.0, 1.0], &[0.0; 5]) });
    let seen = high(MetricConfig::default());
    assert_eq!((seen.classification, seen.ratio, seen.effect), (Classification::High, None, None));
    // However great the allowed increase: where there is no ratio, none is asked for.
    assert_eq!(
        high(with(|c| c.effect_size.allowed_increase = Some(1000.0))).classification,
        Classification::High
    );
    let mut errors = vec![f64::NAN; 25];
    for (at, n) in [(0, 1.0), (5, 2.0), (10, 1.0), (15, 2.0), (20, 1.0)] {
        errors[at] = n;
    }
    let none = vec![f64::NAN; 25];
    let of = |strategy| {
        classify(&Metric { config: with(|c| c.nan_strategy = strategy), ..metric(&errors, &none) })
            .classification
    };
    assert_eq!(of(NanStrategy::Remove), Classification::Nodata);
    assert_eq!(of(NanStrategy::Replace), Classification::Pass);
}

#[test]
fn samples_of_one_value_each_are_judged_the_same_every_time() {
    let of = |canary: &[f64], baseline: &[f64]| classify(&metric(canary, baseline));
    assert_eq!(of(&[10.0; 2], &[1.0; 2]).classification, Classification::High);
    assert_eq!(of(&[1.0; 30], &[10.0; 7]).classification, Classification::Low);
    assert_eq!(of(&[10.0], &[1.0]).classification, Classification::Error);
    assert_eq!(of(&[10.0; 5], &[1.0; 5]), of(&[10.0; 5], &[1.0; 5]));
    assert!(of(&[10.0; 5], &[1.0; 5]).ratio.is_some_and(|r| near(r, 10.0, 1e-3)));
}

#[test]
fn the_other_way_round_and_in_other_units_it_is_the_mirror() {
    let (a, b) = (sample("around_10"), sample("around_20_too"));
    let (low, high) = (classify(&metric(&a, &b)), classify(&metric(&b, &a)));
    assert_eq!((low.classification, high.classification), (Classification::Low, Classification::High));
    let (low, high) = (low.shift.unwrap(), high.shift.unwrap());
    assert!(near(low.low, -high.high, 2e-4) && near(low.high, -high.low, 2e-4), "{low:?} {high:?}");
    let thousand = |values: &[f64]| -> Vec<f64> { values.iter().map(|x| x * 1000.0).collect() };
    let greater = classify(&metric(&thousand(&a), &thousand(&b))).shift.unwrap();
    assert!(near(greater.low, low.low * 1000.0, 0.2), "{greater:?} {low:?}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let good = metric(&[1.0], &[1.0]);
    let refused =
        |config: Config, metric: &Metric| judge_kayenta(&config, std::slice::from_ref(metric)).unwrap_err();
    for (pass, marginal) in
        [(0.0, 0.0), (101.0, 1.0), (50.0, 60.0), (50.0, -1.0), (f64::NAN, 1.0), (50.0, f64::NAN)]
    {
        assert!(refused(config(pass, marginal, &[]), &good).contains("score"));
    }
    assert!(refused(config(95.0, 75.0, &[("all", -1.0)]), &good).contains("weight of the group all"));
    assert!(refused(config(95.0, 75.0, &[("all", 60.0), ("b", 60.0)]), &good).contains("120 in all"));
    assert!(refused(config(95.0, 75.0, &[("b", 60.0)]), &good).contains("no metric"));
    let two = [good.clone(), Metric { config: with(|c| c.groups = vec!["b".into()]), ..good.clone() }];
    let forgotten = judge_kayenta(&config(95.0, 75.0, &[("b", 100.0)]), &two).unwrap_err();
    assert!(forgotten.contains("the group all counts for nothing"), "{forgotten}");
    let factor = Metric { config: with(|c| c.outliers.factor = 0.0), ..good.clone() };
    assert!(refused(config(95.0, 75.0, &[]), &factor).contains("factor"));
    let effect = Metric { config: with(|c| c.effect_size.allowed_increase = Some(f64::NAN)), ..good.clone() };
    assert!(refused(config(95.0, 75.0, &[]), &effect).contains("allowed_increase"));
    let share = with(|c| {
        c.effect_size.measure = Measure::Cles;
        c.effect_size.critical_decrease = Some(1.2);
    });
    assert!(refused(config(95.0, 75.0, &[]), &Metric { config: share, ..good }).contains("at most 1"));
}

#[test]
fn the_plan_needs_both_thresholds_and_knows_its_keys() {
    let config = |text: &str| serde_json::from_str::<Config>(text);
    assert!(config(r#"{"pass": 95}"#).is_err() && config(r#"{"marginal": 75}"#).is_err());
    assert!(config(r#"{"pass": 95, "marginal": 75, "weights": {}}"#).is_err());
    assert_eq!(config(r#"{"pass": 95, "marginal": 75, "groups": {"a": 60}}"#).unwrap().groups["a"], 60.0);
    let metric = |text: &str| serde_json::from_str::<MetricConfig>(text);
    assert_eq!(metric("{}").unwrap(), MetricConfig::default());
    assert!(metric(r#"{"directon": "increase"}"#).is_err());
    let full = metric(
        r#"{"direction": "increase", "nan_strategy": "replace", "outliers": {"strategy": "remove"},
            "effect_size": {"measure": "cles", "allowed_increase": 0.6}, "critical": true,
            "must_have_data": true, "muted": false, "groups": ["latency"]}"#,
    )
    .unwrap();
    assert_eq!(full.outliers, Outliers { strategy: OutlierStrategy::Remove, factor: 3.0 });
    assert_eq!(full.effect_size.or_default(full.effect_size.allowed_decrease), 0.5);
    assert!(schemars::schema_for!(Config).to_value().to_string().contains("marginal"));
}
