//! Trends, seasons, shifts and predictions: against scipy, and in the situations they are for.

#![expect(clippy::float_cmp, reason = "what is meant to be the very same")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use trapkey::evidence::Verdict;
use trapkey::judge::trend::{
    Change, ChangePoint, Crossing, Intercept, Limit, Point, Season, Undecided, Worse, change_point,
    median_and_mad, predict, seasonal_anomalies, theil_sen,
};

const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

/// The table that scipy makes.
fn table() -> Vec<Value> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = home.join(".needs/bin/python");
    let run = Command::new(&python)
        .arg(home.join("tests/judge_trend/table.py"))
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; `scripts/install-needs test` puts it there", python.display()));
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "`scripts/install-needs test` brings scipy:\n{errors}");
    serde_json::from_slice(&run.stdout).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

/// Equal to 1e-9 of the figure itself, or of what was subtracted to get it.
fn near(seen: f64, expected: f64, scale: f64) -> bool {
    (seen - expected).abs() <= 1e-9 * expected.abs() + 1e-14 * scale
}

fn of(values: impl IntoIterator<Item = (f64, f64)>) -> Vec<Point> {
    values.into_iter().map(|(t, value)| Point::new(t, value)).collect()
}

/// Even figures in -1..1, the same on every run.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

fn likely(points: &[Point]) -> ChangePoint {
    match change_point(points).unwrap() {
        Change::Likely(change) => change,
        Change::Constant { value } => panic!("constant at {value}"),
    }
}

#[test]
fn slopes_and_spreads_are_those_of_scipy() {
    let table = table();
    assert!(table.len() > 180, "only {} cases", table.len());
    let (mut repeated, mut constant, mut without) = (0, 0, 0);
    for case in &table {
        let (x, y) = (numbers(&case["x"]), numbers(&case["y"]));
        let points = of(x.iter().copied().zip(y.iter().copied()));
        let height = y.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let reach = x.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        for (word, method) in [("joint", Intercept::Joint), ("separate", Intercept::Separate)] {
            let expected = case[word].as_array().unwrap();
            let seen = theil_sen(&points, case["confidence"].as_f64().unwrap(), method).unwrap();
            let slope = expected[0].as_f64().unwrap();
            assert!(near(seen.slope, slope, 0.0), "{seen:?}\n{case}");
            let scale = height + slope.abs() * reach;
            assert!(near(seen.intercept, expected[1].as_f64().unwrap(), scale), "{seen:?}\n{case}");
            let interval = expected[2].as_f64().zip(expected[3].as_f64());
            assert_eq!(seen.interval.is_some(), interval.is_some(), "{seen:?}\n{case}");
            if let (Some(seen), Some(expected)) = (seen.interval, interval) {
                assert!(near(seen.0, expected.0, 0.0) && near(seen.1, expected.1, 0.0), "{seen:?}\n{case}");
            }
            assert_eq!(seen.constant, y.iter().all(|v| v == &y[0]));
            constant += usize::from(seen.constant);
            without += usize::from(seen.interval.is_none());
        }
        let (median, mad) = median_and_mad(&y).unwrap();
        assert!(near(median, case["median"].as_f64().unwrap(), height), "{median}\n{case}");
        assert!(near(mad, case["mad"].as_f64().unwrap(), height), "{mad}\n{case}");
        repeated += usize::from(x.windows(2).any(|two| two[0] == two[1]));
    }
    assert!(repeated > 5 && constant > 10 && without > 0, "{repeated} {constant} {without}");
}

#[test]
fn a_line_does_not_care_for_the_order_of_points_nor_for_a_fifth_of_wild_ones() {
    let mut die = noise(5);
    let mut points = of((0..200).map(|i| {
        let wild = if i % 5 == 0 { 1e6 * die() } else { 0.0 };
        (f64::from(i), 3.0 + 0.5 * f64::from(i) + 0.1 * die() + wild)
    }));
    let line = theil_sen(&points, 0.99, Intercept::Joint).unwrap();
    assert!((line.slope - 0.5).abs() < 0.01 && (line.intercept - 3.0).abs() < 0.5, "{line:?}");
    let (low, high) = line.interval.unwrap();
    assert!(low < 0.5 && 0.5 < high && high - low < 0.05, "{line:?}");
    points.reverse();
    points.swap(3, 90);
    assert_eq!(theil_sen(&points, 0.99, Intercept::Joint).unwrap(), line);
}

#[test]
fn a_longer_series_is_thinned_evenly_and_says_so() {
    // The least that is thinned; every second point stays, the newest among them.
    let points = of((0..10_001).map(|i| (f64::from(i), f64::from(i) * 2.0)));
    let line = theil_sen(&points[..10_001], 0.95, Intercept::Joint).unwrap();
    assert_eq!((line.points, line.left_out), (5001, 5000));
    assert!((line.slope - 2.0).abs() < 1e-12 && line.intercept.abs() < 1e-6, "{line:?}");
}

#[test]
fn what_is_no_series_is_named_and_never_a_pass() {
    let line = |points: &[Point]| theil_sen(points, 0.95, Intercept::Joint).unwrap_err();
    let good = |n: u32| of((0..n).map(|i| (f64::from(i), f64::from(i))));
    let mut bad = good(20);
    bad[7].value = f64::NAN;
    let mut endless = good(20);
    endless[3].t = f64::INFINITY;
    let season = Season::of_a_day(Worse::Higher);
    let seen = [
        (line(&[]), Undecided::NoData, Verdict::NoData),
        (line(&good(1)), Undecided::TooFew { points: 1, needed: 2 }, Verdict::TooFewSamples),
        (line(&of([(4.0, 1.0), (4.0, 2.0)])), Undecided::OneMoment, Verdict::TooFewSamples),
        (line(&bad), Undecided::NotANumber { at: 7 }, Verdict::Error),
        (line(&endless), Undecided::NotANumber { at: 3 }, Verdict::Error),
        (change_point(&[]).unwrap_err(), Undecided::NoData, Verdict::NoData),
        (
            change_point(&good(15)).unwrap_err(),
            Undecided::TooFew { points: 15, needed: 16 },
            Verdict::TooFewSamples,
        ),
        (change_point(&bad).unwrap_err(), Undecided::NotANumber { at: 7 }, Verdict::Error),
        (
            predict(&good(7), Limit::Below(9.0)).unwrap_err(),
            Undecided::TooFew { points: 7, needed: 8 },
            Verdict::TooFewSamples,
        ),
        (seasonal_anomalies(&good(20), &[], &season).unwrap_err(), Undecided::NoData, Verdict::NoData),
        (
            seasonal_anomalies(&good(20), &bad, &season).unwrap_err(),
            Undecided::NotANumber { at: 7 },
            Verdict::Error,
        ),
        (seasonal_anomalies(&[], &bad, &season).unwrap_err(), Undecided::NoData, Verdict::NoData),
        (median_and_mad(&[]).unwrap_err(), Undecided::NoData, Verdict::NoData),
        (line(&of([(0.0, 1e200), (1.0, -1e200)])), Undecided::OutOfRange, Verdict::Error),
        (line(&of([(0.0, 1e100), (1e-300, 0.0)])), Undecided::OutOfRange, Verdict::Error),
    ];
    for (seen, expected, verdict) in seen {
        assert_eq!(seen, expected);
        assert_eq!(seen.verdict(), verdict);
        assert!(!seen.message().is_empty());
    }
    for confidence in [0.0, 1.0, f64::NAN] {
        let seen = theil_sen(&good(5), confidence, Intercept::Joint).unwrap_err();
        assert!(matches!(seen, Undecided::Setting(_)), "{seen:?}");
    }
    assert!(matches!(predict(&good(9), Limit::Below(f64::NAN)), Err(Undecided::Setting(_))));
    let flat = Season { phases: 0, ..season };
    assert!(matches!(seasonal_anomalies(&good(20), &good(1), &flat), Err(Undecided::Setting(_))));
}

/// A disk in percent, an hour apart: 1 % a day, with noise.
fn disk(hours: u32, at_start: f64) -> Vec<Point> {
    let mut die = noise(11);
    of((0..hours).map(|h| {
        let t = 1.7e9 + f64::from(h) * HOUR;
        (t, at_start + f64::from(h) / 24.0 + 0.3 * die())
    }))
}

#[test]
fn a_disk_that_fills_up_is_full_in_so_many_days() {
    // Three days from 77 %: 80 % now, and 90 % in ten days.
    let seen = predict(&disk(73, 77.0), Limit::Below(90.0)).unwrap();
    let Crossing::In { seconds, earliest, latest } = seen.crossing else { panic!("{seen:?}") };
    assert!((seconds / DAY - 10.0).abs() < 0.8, "{seen:?}");
    assert!(earliest < seconds && earliest > 8.0 * DAY, "{seen:?}");
    assert!(latest.is_some_and(|t| t > seconds && t < 12.0 * DAY), "{seen:?}");
    assert!((seen.level - 80.0).abs() < 0.2 && seen.scatter > 0.1 && seen.scatter < 1.0, "{seen:?}");
    assert_eq!(seen.crossing.verdict(14.0 * DAY), Verdict::Fail);
    assert_eq!(seen.crossing.verdict(7.0 * DAY), Verdict::Pass);
}

#[test]
fn the_interval_of_a_prediction_holds_the_truth() {
    // 0.1 a second from 0, with noise of 2 to both sides: 20 is reached at 200 s, 121 s after the last.
    let held = (0..200)
        .filter(|seed| {
            let mut die = noise(500 + seed);
            let points = of((0..80).map(|i| (f64::from(i), 0.1 * f64::from(i) + 2.0 * die())));
            match predict(&points, Limit::Below(20.0)).unwrap().crossing {
                Crossing::In { seconds, earliest, latest } => {
                    assert!(earliest <= seconds && latest.is_none_or(|t| t >= seconds));
                    earliest <= 121.0 && latest.is_none_or(|t| t >= 121.0)
                }
                other => panic!("{other:?}"),
            }
        })
        .count();
    assert!(held >= 190, "{held} of 200");
}

#[test]
fn a_disk_beyond_its_limit_is_so_already_also_by_its_newest_value_alone() {
    let crossing = |points: &[Point]| predict(points, Limit::Below(90.0)).unwrap().crossing;
    assert_eq!(crossing(&disk(73, 88.0)), Crossing::Already);
    let mut points = disk(73, 77.0);
    points[72].value = 90.0;
    assert_eq!(crossing(&points), Crossing::Already);
    assert_eq!(Crossing::Already.verdict(0.0), Verdict::Fail);
}

#[test]
fn a_series_that_is_flat_or_falls_does_not_get_there() {
    let mut die = noise(3);
    let flat = of((0..100).map(|i| (f64::from(i), 5.0 + die())));
    let seen = predict(&flat, Limit::Below(100.0)).unwrap();
    match seen.crossing {
        Crossing::NotOnThisTrend { earliest } => assert!(seen.trend.slope <= 0.0 && earliest.is_some()),
        Crossing::In { latest, earliest, .. } => assert!(latest.is_none() && earliest > 1000.0),
        Crossing::Already => panic!("{seen:?}"),
    }
    let falling = of((0..100).map(|i| (f64::from(i), 5.0 - f64::from(i))));
    let seen = predict(&falling, Limit::Below(100.0)).unwrap();
    assert_eq!(seen.crossing, Crossing::NotOnThisTrend { earliest: None });
    assert_eq!(seen.crossing.verdict(DAY), Verdict::Pass);
    let still = of((0..100).map(|i| (f64::from(i), 5.0)));
    let seen = predict(&still, Limit::Below(100.0)).unwrap();
    assert!(seen.trend.constant);
    assert_eq!(seen.crossing, Crossing::NotOnThisTrend { earliest: None });
}

#[test]
fn a_floor_is_predicted_as_the_mirror_of_a_ceiling() {
    let up = disk(73, 77.0);
    let down: Vec<Point> = up.iter().map(|p| Point::new(p.t, -p.value)).collect();
    let ceiling = predict(&up, Limit::Below(90.0)).unwrap();
    let floor = predict(&down, Limit::Above(-90.0)).unwrap();
    let (
        Crossing::In { seconds: a, earliest: b, latest: c },
        Crossing::In { seconds: d, earliest: e, latest: f },
    ) = (ceiling.crossing, floor.crossing)
    else {
        panic!("{ceiling:?} {floor:?}")
    };
    for (up, down) in [(a, d), (b, e), (c.unwrap(), f.unwrap())] {
        assert!((up - down).abs() < 1e-6 * up, "{up} {down}");
    }
}

#[test]
fn other_units_of_value_and_time_change_nothing_else() {
    let points = disk(73, 77.0);
    let bytes: Vec<Point> = points.iter().map(|p| Point::new(p.t, p.value * 1e10)).collect();
    let hours: Vec<Point> = points.iter().map(|p| Point::new(p.t / HOUR, p.value)).collect();
    let seconds = |points: &[Point], limit| match predict(points, Limit::Below(limit)).unwrap().crossing {
        Crossing::In { seconds, .. } => seconds,
        other => panic!("{other:?}"),
    };
    let expected = seconds(&points, 90.0);
    assert!((seconds(&bytes, 90e10) / expected - 1.0).abs() < 1e-6);
    assert!((seconds(&hours, 90.0) * HOUR / expected - 1.0).abs() < 1e-6);
    let (one, other) = (likely(&points), likely(&bytes));
    assert_eq!((one.at, one.k, one.p_value), (other.at, other.k, other.p_value));
}

/// Latency in ms each minute, with a step of 20 ms after the deploy at minute 60, and a few spikes.
fn deploy(step: f64) -> Vec<Point> {
    let mut die = noise(23);
    of((0..120).map(|m| {
        let level = if m >= 60 { 100.0 + step } else { 100.0 };
        let spike = if m % 37 == 5 { 900.0 } else { 0.0 };
        (1.7e9 + f64::from(m) * 60.0, level + 8.0 * die() + spike)
    }))
}

#[test]
fn a_step_after_a_deploy_is_found_where_it_is_up_or_down() {
    for step in [20.0, -20.0] {
        let points = deploy(step);
        let change = likely(&points);
        assert!(change.at.abs_diff(60) <= 2, "{change:?}");
        assert_eq!(change.t, points[change.at].t);
        assert!((change.before - 100.0).abs() < 2.5 && (change.after - change.before - step).abs() < 4.0);
        assert!(change.p_value < 1e-9 && change.is_shift(0.01), "{change:?}");
    }
    let without = likely(&deploy(0.0));
    assert!(without.p_value > 0.05 && !without.is_shift(0.05), "{without:?}");
}

#[test]
fn pettitts_statistic_is_that_of_the_definition() {
    // U(t) = sum of the signs of all differences across t.
    let values = [3.0_f64, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0, 8.0, 9.0, 7.0, 9.0, 3.0];
    let u = |t: usize| -> f64 {
        values[..t]
            .iter()
            .flat_map(|a| values[t..].iter().map(move |b| (a - b).signum() * f64::from(a != b)))
            .sum()
    };
    let change = likely(&of(values.iter().enumerate().map(|(i, v)| (i as f64, *v))));
    let most = (1..values.len()).map(|t| u(t).abs()).fold(0.0, f64::max);
    assert_eq!(change.k, most);
    assert_eq!(u(change.at).abs(), most);
    let n = values.len() as f64;
    assert!(
        (change.p_value - (2.0 * (-6.0 * most * most / (n.powi(3) + n * n)).exp()).min(1.0)).abs() < 1e-12
    );
}

#[test]
fn a_clean_step_of_the_fewest_points_is_significant() {
    let points = of((0..16).map(|i| (f64::from(i), f64::from(i / 8))));
    let change = likely(&points);
    assert_eq!((change.at, change.k, change.before, change.after), (8, 64.0, 0.0, 1.0));
    assert!(change.is_shift(0.01), "{change:?}");
}

#[test]
fn a_slow_trend_is_not_taken_for_a_step() {
    let mut die = noise(9);
    let change = likely(&of((0..200).map(|i| (f64::from(i), f64::from(i) * 0.05 + die()))));
    assert!(change.p_value < 1e-6 && change.line_fits_better && !change.is_shift(0.01), "{change:?}");
    let still = of((0..50).map(|i| (f64::from(i), 4.0)));
    assert_eq!(change_point(&still).unwrap(), Change::Constant { value: 4.0 });
}

#[test]
fn false_alarms_of_a_step_are_as_rare_as_they_should_be() {
    let alarms = (0..400)
        .filter(|seed| {
            let mut die = noise(1000 + seed);
            likely(&of((0..60).map(|i| (f64::from(i), die())))).is_shift(0.05)
        })
        .count();
    assert!(alarms <= 25, "{alarms} of 400 at 5 %");
}

/// Requests a second, hourly: 1,000 by day, 50 by night.
fn traffic(from: u32, hours: u32) -> Vec<Point> {
    let mut die = noise(u64::from(from) + 77);
    of((from..from + hours).map(|h| {
        let level = if (8..20).contains(&(h % 24)) { 1000.0 } else { 50.0 };
        (f64::from(h) * HOUR + 1.0, level * (1.0 + 0.05 * die()))
    }))
}

#[test]
fn a_quiet_night_is_no_anomaly_a_spike_in_it_is() {
    let season = Season::of_a_day(Worse::Either);
    let history = traffic(0, 24 * 14);
    let mut newest = traffic(24 * 14, 24);
    let quiet = seasonal_anomalies(&history, &newest, &season).unwrap();
    assert_eq!((quiet.verdict(), quiet.judged), (Verdict::Pass, 24), "{:?}", quiet.anomalies);
    assert!(
        (quiet.phases[3].expected - 50.0).abs() < 3.0 && (quiet.phases[12].expected - 1000.0).abs() < 50.0
    );
    // By day, 500 would be nothing to wonder about from below.
    newest[3].value = 500.0;
    let spike = seasonal_anomalies(&history, &newest, &season).unwrap();
    assert_eq!(spike.verdict(), Verdict::Fail);
    assert_eq!(spike.anomalies.len(), 1);
    assert_eq!(spike.anomalies[0].at, 3);
    assert!(spike.anomalies[0].z.is_some_and(|z| z > 20.0), "{spike:?}");
}

#[test]
fn only_the_worse_side_is_an_anomaly() {
    let history = traffic(0, 24 * 14);
    let mut newest = traffic(24 * 14, 24);
    newest[12].value = 100.0;
    newest[2].value = 400.0;
    let at = |worse| -> Vec<usize> {
        let report = seasonal_anomalies(&history, &newest, &Season::of_a_day(worse)).unwrap();
        report.anomalies.iter().map(|a| a.at).collect()
    };
    assert_eq!(at(Worse::Higher), [2]);
    assert_eq!(at(Worse::Lower), [12]);
    assert_eq!(at(Worse::Either), [2, 12]);
}

#[test]
fn a_phase_that_never_varied_has_a_floor_under_its_spread() {
    let day = |value: f64| of((0..24 * 7).map(move |h| (f64::from(h) * HOUR, value)));
    let new = |value| [Point::new(24.0 * 7.0 * HOUR, value)];
    let season = Season::of_a_day(Worse::Higher);
    let seen = |history: &[Point], value, season: &Season| {
        seasonal_anomalies(history, &new(value), season).unwrap().anomalies
    };
    // 1 % of 200 four times over.
    assert!(seen(&day(200.0), 207.9, &season).is_empty());
    assert_eq!(seen(&day(200.0), 208.1, &season).len(), 1);
    // Nothing but zeros: whatever is not zero is infinitely far, unless the plan says how much is nothing.
    assert_eq!(seen(&day(0.0), 1.0, &season)[0].z, None);
    assert!(seen(&day(0.0), 0.0, &season).is_empty());
    assert!(seen(&day(0.0), 1.0, &Season { floor: 0.5, ..season }).is_empty());
    assert_eq!(seen(&day(0.0), 3.0, &Season { floor: 0.5, ..season })[0].z, Some(6.0));
}

#[test]
fn an_hour_that_happened_to_be_still_is_judged_by_the_noise_of_the_others() {
    // Every hour but the first scatters by 10 to both sides.
    let mut die = noise(31);
    let history = of((0..24 * 10).map(|h| {
        let off = if h % 24 == 0 { 0.0 } else { 10.0 * die() };
        (f64::from(h) * HOUR, 100.0 + off)
    }));
    let season = Season { floor_share: 0.0, ..Season::of_a_day(Worse::Either) };
    let seen = |value| {
        let newest = [Point::new(24.0 * 10.0 * HOUR, value)];
        seasonal_anomalies(&history, &newest, &season).unwrap()
    };
    let report = seen(104.0);
    assert_eq!((report.phases[0].mad, report.verdict()), (0.0, Verdict::Pass), "{:?}", report.phases[0]);
    assert!(report.phases[0].spread > 1.0 && report.phases[0].spread < 3.0, "{:?}", report.phases[0]);
    assert_eq!(seen(115.0).verdict(), Verdict::Fail);
}

#[test]
fn a_phase_without_enough_history_keeps_the_rest_from_passing() {
    let season = Season::of_a_day(Worse::Higher);
    // Four days: four points in each hour.
    let seen = seasonal_anomalies(&traffic(0, 24 * 4), &traffic(24 * 4, 24), &season).unwrap();
    assert_eq!((seen.verdict(), seen.judged, seen.unjudged.len()), (Verdict::TooFewSamples, 0, 24));
    let seen = seasonal_anomalies(&traffic(0, 24 * 4 + 12), &traffic(24 * 4 + 12, 24), &season).unwrap();
    assert_eq!((seen.verdict(), seen.judged), (Verdict::TooFewSamples, 12));
}

#[test]
fn phases_go_round_also_before_the_epoch() {
    let season = Season::of_a_day(Worse::Either);
    for (t, phase) in [(0.0, 0), (3599.0, 0), (3600.0, 1), (DAY - 1.0, 23), (DAY, 0), (-1.0, 23), (-HOUR, 23)]
    {
        assert_eq!(season.phase(t), phase, "{t}");
    }
}
