//! What one look says, and many looks together.

mod late;

use super::super::samples::{Bin, Given, Point, Requests};
use super::super::{known_metrics, trigger_fits};
use super::*;
use crate::yaml;

/// A plan's promote section with some triggers and whatever else.
fn plan(triggers: &str, rest: &str) -> Promote {
    let text = format!(
        "router: {{kind: haproxy, target: s}}\nsides: {{blue: {{url: \"http://b\"}}, green: {{url: \"http://g\"}}}}\n\
         probe: {{rate: 10/s}}\nsteps: [{{weight: 5%, bake: 100s}}, {{weight: 100%}}]\n{rest}\nrollback_when: {triggers}\n"
    );
    read(&text)
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    yaml::parse(text)
        .unwrap()
        .read(&|_: &str| None::<String>)
        .unwrap_or_else(|p| panic!("{}: {text}", p.message))
}

const BAKE: i64 = 100_000;

/// What a side did, evenly over a time.
struct Did {
    requests: u64,
    errors: u64,
    latency: f64,
}

fn did(requests: u64, errors: u64, latency: f64) -> Did {
    Did { requests, errors, latency }
}

impl Did {
    fn over(&self, judge: &Judge<'_>, from_ms: i64, to_ms: i64) -> Requests {
        let mut sorter = super::super::Sorter::new(judge.since_ms, judge.cut.bin_ms, 1_000_000);
        for n in 0..self.requests {
            let at = from_ms + (to_ms - from_ms) * n as i64 / self.requests as i64;
            let spread = 1.0 + 0.01 * (n * 7 % 13) as f64;
            sorter.add(
                at,
                Some(self.latency * spread),
                n * self.errors / self.requests == (n + 1) * self.errors / self.requests,
            );
        }
        sorter.finish()
    }
}

/// A source that has seen that over the whole bake, looked at once.
fn look_once(plan: &Promote, source: &str, blue: &Did, green: &Did) -> Looked {
    let mut judge = Judge::begin(plan, 0, BAKE);
    let requests = [blue.over(&judge, 0, BAKE), green.over(&judge, 0, BAKE)];
    let given = Given { source: source.into(), requests: Some(requests), ..Given::default() };
    judge.look(&Batch { at_ms: BAKE, given: vec![given] })
}

fn verdict(trigger: &str, blue: &Did, green: &Did) -> (Verdict, String, String) {
    let plan = plan(&format!("[{trigger}]"), "");
    let looked = look_once(&plan, "probe", blue, green);
    let record = &looked.metrics[0];
    (record.verdict, record.outcome.clone(), record.message.clone())
}

#[test]
fn triggers_on_requests_fire_pass_or_stay_undecided() {
    use Verdict::{Fail, NoData, Pass, TooFewSamples};
    let good = || did(200, 0, 10.0);
    let rate = "{metric: error_rate, is: '> 0.1%'}";
    let p95 = "{metric: latency_p95, is: '> 12ms'}";
    let worse = "{metric: latency_p95, worse_than_baseline_by: 20%}";
    let more = "{metric: error_rate, worse_than_baseline_by: 50%}";
    for (text, green, blue, expected, outcome) in [
        (rate, good(), did(0, 0, 1.0), Pass, "pass"),
        (rate, did(200, 1, 10.0), good(), Fail, "fires"),
        (rate, did(49, 0, 10.0), good(), TooFewSamples, "too_few_samples"),
        (rate, did(49, 4, 10.0), good(), TooFewSamples, "too_few_samples"),
        (rate, did(20, 5, 10.0), good(), Fail, "fires"),
        (rate, did(0, 0, 1.0), good(), NoData, "no_data"),
        (p95, good(), good(), Pass, "pass"),
        (p95, did(200, 0, 13.0), good(), Fail, "fires"),
        (p95, did(200, 150, 10.0), good(), Pass, "pass"),
        (p95, did(60, 11, 10.0), good(), TooFewSamples, "too_few_samples"),
        (p95, did(200, 200, 10.0), good(), NoData, "no_data"),
        (worse, good(), good(), Pass, "pass"),
        (worse, did(200, 0, 11.0), good(), Pass, "pass"),
        (worse, did(200, 0, 15.0), good(), Fail, "fires"),
        (worse, good(), did(0, 0, 1.0), NoData, "one_side_empty"),
        (worse, did(0, 0, 1.0), good(), NoData, "one_side_empty"),
        (worse, good(), did(49, 0, 1.0), TooFewSamples, "too_few_samples"),
        (worse, good(), did(120, 0, 10.0), TooFewSamples, "unequal_sizes"),
        (worse, did(200, 60, 10.0), good(), TooFewSamples, "unequal_sizes"),
        (worse, good(), did(200, 60, 10.0), Pass, "pass"),
        (more, did(200, 1, 1.0), good(), Pass, "pass"),
        (more, did(200, 20, 1.0), good(), Fail, "fires"),
        (more, good(), good(), Pass, "pass"),
        ("{metric: latency_max, is: '> 10s'}", good(), good(), Pass, "pass"),
        ("{metric: latency_p50, is: '> 9ms'}", good(), good(), Fail, "fires"),
        ("{metric: latency_mean, worse_than_baseline_by: 20%}", did(200, 0, 15.0), good(), Fail, "fires"),
        ("{metric: latency_max, worse_than_baseline_by: 20%}", did(200, 0, 15.0), good(), Fail, "fires"),
    ] {
        let (seen, named, message) = verdict(text, &blue, &green);
        assert_eq!((seen, named.as_str()), (expected, outcome), "{text}: {message}");
        assert!(!message.is_empty());
    }
    let (.., message) = verdict(p95, &good(), &did(200, 3, 10.0));
    assert!(message.contains("3 failed requests left out"), "{message}");
}

#[test]
fn counters_tell_rates_and_means_and_nothing_else() {
    let counts = |errors, mean: Option<f64>| Requests {
        bins: vec![Bin { window: 0, requests: 90, errors, latencies: vec![] }],
        mean,
        ..Requests::default()
    };
    let of = |trigger: &str, green: Requests| {
        let plan = plan(&format!("[{trigger}]"), "");
        let mut judge = Judge::begin(&plan, 0, BAKE);
        let given = Given {
            source: "haproxy".into(),
            requests: Some([counts(0, Some(9.0)), green]),
            ..Given::default()
        };
        let looked = judge.look(&Batch { at_ms: 5_000, given: vec![given] });
        looked.metrics[0].verdict
    };
    let mean = "{metric: latency_mean, is: '> 50ms'}";
    assert_eq!(of(mean, counts(0, Some(49.0))), Verdict::Pass);
    assert_eq!(of(mean, counts(0, Some(51.0))), Verdict::Fail);
    assert_eq!(of(mean, counts(0, Some(f64::NAN))), Verdict::Error);
    assert_eq!(of(mean, counts(0, Some(f64::INFINITY))), Verdict::Error);
    assert_eq!(of(mean, counts(0, None)), Verdict::NoData);
    assert_eq!(of("{metric: error_rate, is: '> 5%'}", counts(9, None)), Verdict::Fail);
    assert_eq!(of("{metric: latency_p95, is: '> 5ms'}", counts(0, Some(1.0))), Verdict::NoData);
    assert_eq!(
        of("{metric: latency_p95, is: '> 5ms', source: haproxy}", counts(0, Some(1.0))),
        Verdict::NoData
    );
}

#[test]
fn refuses_triggers_that_cannot_be_judged_or_fire_on_health() {
    let orders: MetricSpec = read("{name: orders, kind: prometheus, worse: lower}");
    let heap: MetricSpec = read("{name: heap, kind: prometheus, unit: bytes}");
    let series = [&orders, &heap];
    for (text, says) in [
        ("{metric: latency_p59, is: '> 1s'}", "did you mean `latency_p50`?"),
        ("{metric: error_rate, is: '> 100ms'}", "is not a share"),
        ("{metric: latency_p95, is: '> 5%'}", "is not a duration"),
        ("{metric: latency_p95, is: '> 120'}", "is not a duration"),
        ("{metric: heap, is: '> 120ms'}", "is not a size"),
        ("{metric: error_rate, is: '<= 0.1%'}", "would fire while all is well"),
        ("{metric: error_rate, is: '~ .*'}", "would fire while all is well"),
        ("{metric: orders, is: '> 10'}", "would fire while all is well"),
        ("{metric: orders, is: '< 10', source: probe}", "`source` means nothing"),
        ("{metric: error_rate}", "needs one of"),
        ("{metric: error_rate, worse_than_baseline_by: 5%, for: 5s}", "`for` goes with"),
        ("{metric: error_rate, is: '> 5%', at_least: 1%}", "`at_least` goes with"),
        ("{metric: error_rate, worse_than_baseline_by: 5%, at_least: 5ms}", "`at_least`"),
        ("{metric: latency_p95, burn_rate: {objective: 99%}}", "a rate of errors"),
        ("{metric: error_rate, burn_rate: {objective: 100%}}", "an `objective` lies"),
        (
            "{metric: error_rate, burn_rate: {objective: 99%, windows: [{long: 5m, short: 1h, above: 2}]}}",
            "`short` window is shorter",
        ),
        ("{metric: error_rate, is: '> 5%', weight: -1}", "`weight`"),
    ] {
        let refused = trigger_fits(&read(text), &series).unwrap_err();
        assert!(refused.contains(says), "{text}: {refused}");
    }
    for name in known_metrics().iter().copied().chain(["orders", "heap"]) {
        let text = format!("{{metric: {name}, worse_than_baseline_by: 5%}}");
        assert_eq!(trigger_fits(&read(&text), &series), Ok(()), "{text}");
    }
    for text in [
        "{metric: orders, is: '< 10', over: 5m, for: 30s}",
        "{metric: error_rate, burn_rate: {objective: 99.9%}, for: 1m}",
        "{metric: heap, worse_than_baseline_by: 10%, at_least: 5MiB, critical: false, weight: 2}",
    ] {
        assert_eq!(trigger_fits(&read(text), &series), Ok(()), "{text}");
    }
}

/// A series every 5 s, as a source would give it at each look.
fn of_series(spec: &str, trigger: &str, sides: [&[f64]; 2]) -> MetricRecord {
    let plan = plan(&format!("[{trigger}]"), &format!("metrics: [{spec}]"));
    let mut judge = Judge::begin(&plan, 0, BAKE);
    let points = sides.map(|side| {
        let point = |(n, value): (usize, &f64)| Point(5_000 * n as i64, *value);
        side.iter().enumerate().map(point).collect::<Vec<_>>()
    });
    let given = Given { source: "orders".into(), points: Some(points), ..Given::default() };
    let longest = sides[1].len().max(sides[0].len());
    let at_ms = if longest == 0 { BAKE } else { 5_000 * longest as i64 };
    let looked = judge.look(&Batch { at_ms, given: vec![given] });
    looked.metrics.into_iter().next().unwrap()
}

fn varied(n: usize, around: f64) -> Vec<f64> {
    (0..n).map(|n| around * (1.0 + 0.01 * (n * 7 % 13) as f64)).collect()
}

#[test]
fn what_is_wrong_with_a_series_has_a_name_and_none_passes() {
    let spec = "{name: orders, kind: prometheus, step: 5s, worse: lower}";
    let worse = "{metric: orders, worse_than_baseline_by: 5%}";
    let is = "{metric: orders, is: '< 50'}";
    let good = varied(20, 100.0);
    let with = |at: usize, value: f64| {
        let mut series = good.clone();
        series[at] = value;
        series
    };
    for (trigger, blue, green, verdict, outcome) in [
        (worse, good.clone(), good.clone(), Verdict::Pass, "pass"),
        (worse, vec![], vec![], Verdict::NoData, "no_data"),
        (worse, good.clone(), vec![], Verdict::NoData, "one_side_empty"),
        (worse, vec![], good.clone(), Verdict::NoData, "one_side_empty"),
        (worse, good.clone(), with(3, f64::NAN), Verdict::Error, "not_a_number"),
        (worse, with(3, f64::NAN), good.clone(), Verdict::Error, "not_a_number"),
        (worse, good.clone(), with(3, f64::INFINITY), Verdict::Error, "infinite"),
        (worse, good.clone(), vec![106.0; 20], Verdict::NoData, "constant"),
        (worse, vec![100.0; 20], good.clone(), Verdict::NoData, "constant"),
        (worse, vec![0.0; 20], vec![0.0; 20], Verdict::Pass, "pass"),
        (worse, good[..2].to_vec(), good[..2].to_vec(), Verdict::TooFewSamples, "too_few_samples"),
        (worse, good[..4].to_vec(), good[..4].to_vec(), Verdict::TooFewSamples, "too_few_windows"),
        (worse, good.clone(), varied(20, 80.0), Verdict::Fail, "fires"),
        (worse, good.clone(), varied(20, 120.0), Verdict::Pass, "pass"),
        (is, vec![], good.clone(), Verdict::Pass, "pass"),
        (is, vec![], varied(20, 40.0), Verdict::Fail, "fires"),
        (is, vec![], with(3, f64::NAN), Verdict::Error, "not_a_number"),
        (is, vec![], vec![60.0; 20], Verdict::NoData, "constant"),
    ] {
        let record = of_series(spec, trigger, [&blue, &green]);
        let seen = (record.verdict, record.outcome.as_str());
        assert_eq!(seen, (verdict, outcome), "{trigger} {blue:?} {green:?}: {}", record.message);
    }
    let patient = "{name: orders, kind: prometheus, step: 5s, worse: lower, may_be_constant: true}";
    let record = of_series(patient, worse, [&[100.0; 20], &[100.0; 20]]);
    assert_eq!(record.verdict, Verdict::Pass, "{}", record.message);
    // Green ends long before blue: either it is late, or values are missing.
    let record = of_series(spec, worse, [&good, &good[..10]]);
    assert_eq!(record.outcome, "late_data", "{}", record.message);
    // Values are missing in the middle.
    let plan = plan(&format!("[{worse}]"), &format!("metrics: [{spec}]"));
    let mut judge = Judge::begin(&plan, 0, BAKE);
    let whole: Vec<Point> = good.iter().enumerate().map(|(n, v)| Point(5_000 * n as i64, *v)).collect();
    let holes = whole.iter().enumerate().filter(|(n, _)| *n > 17 || n % 2 == 0).map(|(_, p)| *p).collect();
    let given = Given { source: "orders".into(), points: Some([whole, holes]), ..Given::default() };
    let looked = judge.look(&Batch { at_ms: BAKE, given: vec![given] });
    assert_eq!(looked.metrics[0].outcome, "unequal_sizes");
    // An error of the source.
    let given = Given { source: "orders".into(), trouble: Some("bad query".into()), ..Given::default() };
    let looked = judge.look(&Batch { at_ms: BAKE + 1, given: vec![given] });
    assert_eq!(
        (looked.metrics[0].verdict, looked.metrics[0].outcome.as_str()),
        (Verdict::Error, "query_error")
    );
}

#[test]
fn seven_disasters_of_ten_against_an_even_baseline_fail() {
    let spec = "{name: orders, kind: file, step: 5s}";
    let trigger = "{metric: orders, worse_than_baseline_by: 25%}";
    let canary = [100.0, 100.0, 100.0, 1.0, 100.0, 1.0, 100.0, 100.0, 1.0, 100.0];
    let record = of_series(spec, trigger, [&[1.0; 10], &canary]);
    assert_eq!(record.verdict, Verdict::Fail, "{}", record.message);
    // And over ten looks, each with one value more.
    let plan = plan(&format!("[{trigger}]"), &format!("metrics: [{spec}]"));
    let mut judge = Judge::begin(&plan, 0, 50_000);
    let mut last = None;
    for n in 0..10_i64 {
        let point = |value| vec![Point(5_000 * n, value)];
        let points = Some([point(1.0), point(canary[usize::try_from(n).unwrap()])]);
        let given = Given { source: "orders".into(), points, ..Given::default() };
        last = Some(judge.look(&Batch { at_ms: 5_000 * (n + 1), given: vec![given] }));
    }
    let last = last.unwrap();
    assert_eq!(last.decision, Decision::Fail, "{}", last.summary);
}

#[test]
fn swapping_the_sides_mirrors_the_comparison() {
    let spec = |worse: &str| format!("{{name: orders, kind: file, step: 5s, worse: {worse}}}");
    let trigger = "{metric: orders, worse_than_baseline_by: 10%}";
    for (blue, green) in [(100.0, 130.0), (130.0, 100.0), (100.0, 104.0)] {
        let (blue, green) = (varied(20, blue), varied(20, green));
        let higher = of_series(&spec("higher"), trigger, [&blue, &green]).verdict;
        let swapped = of_series(&spec("lower"), trigger, [&green, &blue]).verdict;
        let either = of_series(&spec("either"), trigger, [&blue, &green]).verdict;
        let either_swapped = of_series(&spec("either"), trigger, [&green, &blue]).verdict;
        assert_eq!(either, either_swapped);
        if higher == Verdict::Fail {
            assert_eq!(either, Verdict::Fail);
            assert_ne!(of_series(&spec("higher"), trigger, [&green, &blue]).verdict, Verdict::Fail);
        }
        // Fewer of what should be many is as bad as more of what should be few.
        assert_eq!(swapped, higher);
    }
}

#[test]
fn another_unit_of_the_same_figures_changes_no_verdict() {
    let spec = "{name: orders, kind: file, step: 5s}";
    let trigger = "{metric: orders, worse_than_baseline_by: 10%}";
    for scale in [1e-6, 1.0, 1024.0] {
        let scaled = |around: f64| varied(20, around).iter().map(|x| x * scale).collect::<Vec<_>>();
        let fails = of_series(spec, trigger, [&scaled(100.0), &scaled(130.0)]);
        let passes = of_series(spec, trigger, [&scaled(100.0), &scaled(105.0)]);
        assert_eq!((fails.verdict, passes.verdict), (Verdict::Fail, Verdict::Pass), "{scale}");
    }
}

#[test]
fn worse_samples_never_improve_a_comparison() {
    let spec = "{name: orders, kind: file, step: 5s}";
    let trigger = "{metric: orders, worse_than_baseline_by: 10%}";
    let blue = varied(20, 100.0);
    let mut green = varied(20, 100.0);
    let mut failed = false;
    for n in 0..20 {
        green[n] *= 1.5;
        let fails = of_series(spec, trigger, [&blue, &green]).verdict == Verdict::Fail;
        assert!(fails || !failed, "after {n} worse values it is better again");
        failed = fails;
    }
    assert!(failed);
}

#[test]
fn a_threshold_fires_once_it_was_crossed_for_as_long_as_the_plan_says() {
    let plan = plan("[{metric: error_rate, is: '> 1%', over: 10s, for: 30s}]", "");
    let mut judge = Judge::begin(&plan, 0, BAKE);
    let mut outcomes = Vec::new();
    for look in 0..16_i64 {
        let (from, to) = (look * 5_000, (look + 1) * 5_000);
        // Bad between 10 s and 20 s, and from 35 s on.
        let bad = (10_000..20_000).contains(&from) || from >= 35_000;
        let green = did(50, if bad { 5 } else { 0 }, 5.0).over(&judge, from, to);
        let requests = Some([did(50, 0, 5.0).over(&judge, from, to), green]);
        let given = Given { source: "probe".into(), requests, ..Given::default() };
        outcomes.push(judge.look(&Batch { at_ms: to, given: vec![given] }).metrics[0].outcome.clone());
    }
    let first = outcomes.iter().position(|o| o == "fires");
    assert_eq!(outcomes[2], "not_yet", "{outcomes:?}");
    assert_eq!(outcomes[6], "pass", "it was over in between: {outcomes:?}");
    assert_eq!(first, Some(13), "{outcomes:?}");
}

#[test]
fn a_burn_rate_needs_both_windows() {
    let plan = plan(
        "[{metric: error_rate, burn_rate: {objective: 99%, windows: [{long: 60s, short: 10s, above: 5}]}}]",
        "",
    );
    let outcome = |bad: &dyn Fn(i64) -> bool| {
        let mut judge = Judge::begin(&plan, 0, BAKE);
        let mut fired = None;
        let mut last = String::new();
        for look in 0..16_i64 {
            let (from, to) = (look * 5_000, (look + 1) * 5_000);
            let green = did(50, if bad(from) { 10 } else { 0 }, 5.0).over(&judge, from, to);
            let requests = Some([did(50, 0, 5.0).over(&judge, from, to), green]);
            let given = Given { source: "probe".into(), requests, ..Given::default() };
            let record = judge.look(&Batch { at_ms: to, given: vec![given] }).metrics.remove(0);
            if record.verdict == Verdict::Fail {
                fired.get_or_insert(to);
            }
            last = record.outcome;
        }
        (fired, last)
    };
    // 20 % errors are twenty times the budget, once they fill a quarter of the long window.
    let (fired, _) = outcome(&|from| from >= 40_000);
    assert!(fired.is_some_and(|at| (50_000..=70_000).contains(&at)), "{fired:?}");
    // A short burst is not enough for the long window, and an old one not for the short window.
    assert_eq!(outcome(&|from| from == 40_000).0, None);
    assert_eq!(outcome(&|from| (20_000..25_000).contains(&from)), (None, "pass".into()));
}

#[test]
fn a_source_that_fails_is_borne_for_a_few_looks() {
    let plan = plan("[{metric: error_rate, is: '> 1%', source: probe}]", "judge: {consecutive_errors: 3}");
    let mut judge = Judge::begin(&plan, 0, BAKE);
    let mut look = |at_ms: i64, trouble: Option<&str>| {
        let requests = did(60, 0, 5.0).over(&judge, at_ms - 5_000, at_ms);
        let given = Given {
            source: "probe".into(),
            requests: trouble.is_none().then(|| [requests.clone(), requests]),
            trouble: trouble.map(str::to_owned),
            ..Given::default()
        };
        judge.look(&Batch { at_ms, given: vec![given] })
    };
    assert_eq!(look(5_000, None).decision, Decision::Pass);
    for (at, blind) in [(10_000, None), (15_000, None), (20_000, Some(10_000)), (25_000, Some(10_000))] {
        let looked = look(at, Some("no answer"));
        assert_eq!((looked.decision, looked.blind_since_ms), (Decision::Undecided, blind));
    }
    assert_eq!(look(30_000, None).blind_since_ms, None);
}

#[test]
fn a_score_weighs_what_is_not_critical() {
    let triggers = "[{metric: error_rate, is: '> 5%'}, \
         {metric: latency_p50, is: '> 20ms', critical: false, weight: 3}, \
         {metric: latency_max, is: '> 12ms', critical: false}]";
    let plan = plan(triggers, "judge: {score: {pass: 90, marginal: 50}}");
    let decision = |green: &Did| {
        let looked = look_once(&plan, "probe", &did(200, 0, 10.0), green);
        (looked.decision, looked.score.unwrap().round())
    };
    assert_eq!(decision(&did(200, 0, 10.0)), (Decision::Pass, 100.0));
    assert_eq!(decision(&did(200, 0, 12.0)), (Decision::Undecided, 80.0));
    assert_eq!(decision(&did(200, 0, 25.0)), (Decision::Fail, 20.0));
    assert_eq!(decision(&did(200, 20, 10.0)), (Decision::Fail, 80.0));
}

#[test]
fn with_a_power_too_few_samples_do_not_pass() {
    let trigger = "[{metric: error_rate, worse_than_baseline_by: 50%, at_least: 0.2%}]";
    let (blue, green) = (did(400, 0, 10.0), did(400, 0, 10.0));
    let without = plan(trigger, "");
    assert_eq!(look_once(&without, "probe", &blue, &green).decision, Decision::Pass);
    let with = plan(trigger, "judge: {power: 80%}");
    let looked = look_once(&with, "probe", &blue, &green);
    assert_eq!(looked.decision, Decision::Undecided, "{}", looked.summary);
    assert!(looked.summary.contains("are needed to see"), "{}", looked.summary);
}

#[test]
fn nothing_at_all_is_undecided() {
    let plan = plan("[{metric: error_rate, is: '> 1%'}]", "");
    let looked = Judge::begin(&plan, 0, BAKE).look(&Batch { at_ms: 1, given: vec![] });
    assert_eq!(looked.decision, Decision::Undecided);
    assert_eq!(looked.metrics[0].verdict, Verdict::NoData);
}

#[test]
fn kayenta_scores_the_comparisons_and_a_part_of_them_decides_nothing() {
    let triggers = "[{metric: latency_p50, worse_than_baseline_by: 20%}, {metric: error_rate, \
         worse_than_baseline_by: 50%, kayenta: {critical: true}}, {metric: latency_max, is: '> 10s'}]";
    let plan = plan(triggers, "judge: {kind: kayenta, score: {pass: 95, marginal: 40}}");
    assert_eq!(kayenta_fits(&plan), Ok(()));
    let decision = |blue: &Did, green: &Did| {
        let looked = look_once(&plan, "probe", blue, green);
        let outcomes: Vec<String> = looked.metrics.iter().map(|m| m.outcome.clone()).collect();
        (looked.decision, looked.score, outcomes.join(" "))
    };
    let good = || did(400, 0, 10.0);
    let (seen, score, outcomes) = decision(&good(), &good());
    assert_eq!((seen, score), (Decision::Pass, Some(100.0)), "{outcomes}");
    // Half of the score: marginal, and that is nothing to go on with.
    let (seen, score, outcomes) = decision(&good(), &did(400, 0, 15.0));
    assert_eq!((seen, score), (Decision::Undecided, Some(50.0)), "{outcomes}");
    assert!(outcomes.starts_with("high pass"), "{outcomes}");
    let (seen, score, outcomes) = decision(&good(), &did(400, 0, 8.0));
    assert_eq!((seen, score), (Decision::Pass, Some(100.0)), "only higher is worse: {outcomes}");
    let (seen, score, _) = decision(&good(), &did(20, 0, 10.0));
    assert_eq!((seen, score), (Decision::Undecided, None));
    let (seen, ..) = decision(&good(), &did(0, 0, 10.0));
    assert_eq!(seen, Decision::Undecided);
    let without =
        super::tests::plan("[{metric: latency_p50, worse_than_baseline_by: 20%}]", "judge: {kind: kayenta}");
    assert!(kayenta_fits(&without).unwrap_err().contains("needs `score`"));
}

/// A plan with a metric `bad`, one or two others, and what is said of the latter; and a look at so many values of each.
fn kayenta_looks(
    others: &str,
    values: &[(&str, f64, f64, [i64; 2])],
    trouble: Option<&str>,
    at_ms: i64,
) -> Looked {
    let triggers =
        format!("[{{metric: bad, worse_than_baseline_by: 10%, kayenta: {{critical: true}}}}, {others}]");
    let metrics: Vec<String> = ["bad", "other", "third"]
        .map(|name| format!("{{name: {name}, kind: file, target: x, step: 1s, delay: 0s}}"))
        .into_iter()
        .filter(|spec| triggers.contains(&spec[7..spec.find(',').unwrap()]))
        .collect();
    let rules = format!(
        "metrics: [{}]\njudge: {{kind: kayenta, score: {{pass: 95, marginal: 40}}}}",
        metrics.join(", ")
    );
    let plan = plan(&triggers, &rules);
    let side = |number: i64, value: f64| {
        // A little scatter, the same on both sides.
        let at = |n: i64| Point((n + 1) * 1000, value * (1.0 + (n % 7) as f64 / 1000.0));
        (0..number).map(at).collect::<Vec<_>>()
    };
    let mut given: Vec<Given> = values
        .iter()
        .map(|(name, blue, green, [n_blue, n_green])| Given {
            source: (*name).to_owned(),
            points: Some([side(*n_blue, *blue), side(*n_green, *green)]),
            ..Given::default()
        })
        .collect();
    given.extend(trouble.map(|why| Given {
        source: "other".into(),
        trouble: Some(why.into()),
        ..Given::default()
    }));
    Judge::begin(&plan, 0, BAKE).look(&Batch { at_ms, given })
}

#[test]
fn in_kayentas_score_a_critical_metric_that_is_high_ends_it_whatever_else_is_silent() {
    let optional = "{metric: other, worse_than_baseline_by: 10%}";
    let muted = "{metric: other, worse_than_baseline_by: 10%, kayenta: {muted: true}}";
    let needed = "{metric: other, worse_than_baseline_by: 10%, kayenta: {must_have_data: true}}";
    for at_ms in [20_000, BAKE] {
        let n = at_ms / 1000 - 1;
        for (other, values, trouble) in [
            (optional, vec![("other", 1.0, 1.0, [n, 0])], None),
            (optional, vec![("other", 1.0, 1.0, [1, 1])], None),
            (optional, vec![], None),
            (optional, vec![], Some("no answer")),
            (muted, vec![("other", 1.0, 1.0, [n, 0])], None),
            (needed, vec![("other", 1.0, 1.0, [0, 0])], None),
        ] {
            let mut all = vec![("bad", 10.0, 40.0, [n, n])];
            all.extend(values);
            let looked = kayenta_looks(other, &all, trouble, at_ms);
            assert_eq!(
                (looked.decision, looked.score),
                (Decision::Fail, Some(0.0)),
                "{other}: {}",
                looked.summary
            );
            assert_eq!(looked.metrics[0].outcome, "high");
        }
    }
}

#[test]
fn in_kayentas_score_an_optional_metric_without_data_holds_nothing_up_once_the_bake_is_over() {
    let two = "{metric: other, worse_than_baseline_by: 10%}, {metric: third, worse_than_baseline_by: 10%}";
    let looked = |at_ms: i64, others: &str, green_of_other: i64, third: f64| {
        let n = at_ms / 1000 - 1;
        let values = [
            ("bad", 10.0, 10.0, [n, n]),
            ("other", 1.0, 1.0, [n, green_of_other]),
            ("third", 5.0, third, [n, n]),
        ];
        kayenta_looks(others, &values, None, at_ms)
    };
    for silent in [0, 1] {
        let early = looked(20_000, two, silent, 5.0);
        assert_eq!((early.decision, early.score), (Decision::Undecided, None), "{}", early.summary);
        let over = looked(BAKE, two, silent, 5.0);
        assert_eq!((over.decision, over.score), (Decision::Pass, Some(100.0)), "{}", over.summary);
        assert_eq!(over.metrics[1].outcome, "no_data");
    }
    // What must have data fails without it, and half of the score is marginal, which it says.
    let needed = two.replacen("10%}", "10%, kayenta: {must_have_data: true}}", 1);
    let without = looked(BAKE, &needed, 0, 5.0);
    assert_eq!((without.decision, without.score), (Decision::Undecided, Some(66.67)), "{}", without.summary);
    assert!(without.summary.contains("score 66.67 is marginal: 95 passes"), "{}", without.summary);
    let worse = looked(BAKE, two, BAKE / 1000 - 1, 9.0);
    assert_eq!((worse.decision, worse.score), (Decision::Undecided, Some(66.67)), "{}", worse.summary);
    assert!(worse.summary.contains("is marginal"), "{}", worse.summary);
}

#[test]
fn what_cannot_be_there_yet_is_no_lack_of_data() {
    let series =
        "metrics: [{name: orders, kind: file, target: x, step: 15s}]\njudge: {consecutive_errors: 1}";
    let on_series = plan("[{metric: orders, is: '> 1'}]", series);
    let mut judge = Judge::begin(&on_series, 0, BAKE);
    let mut look = |at_ms| {
        let points = Some([vec![], vec![]]);
        let given = Given { source: "orders".into(), points, ..Given::default() };
        let looked = judge.look(&Batch { at_ms, given: vec![given] });
        (looked.metrics[0].verdict, looked.blind_since_ms)
    };
    // The first value is final 30 s after the beginning, and late after 60 s.
    for at in [1_000, 30_000, 59_000] {
        assert_eq!(look(at), (Verdict::TooFewSamples, None), "{at}");
    }
    assert_eq!(look(60_000), (Verdict::NoData, Some(60_000)));
    // Kayenta compares windows of time, and needs some that are over.
    let by_kayenta = plan(
        "[{metric: latency_p50, worse_than_baseline_by: 20%}]",
        "judge: {kind: kayenta, score: {pass: 95, marginal: 75}, consecutive_errors: 1}",
    );
    for (at_ms, expected) in
        [(3_000, Verdict::TooFewSamples), (9_000, Verdict::TooFewSamples), (60_000, Verdict::Pass)]
    {
        let mut judge = Judge::begin(&by_kayenta, 0, BAKE);
        let requests = did(200, 0, 10.0).over(&judge, 0, at_ms);
        let requests = Some([requests.clone(), requests]);
        let given = Given { source: "probe".into(), requests, ..Given::default() };
        let looked = judge.look(&Batch { at_ms, given: vec![given] });
        assert_eq!(
            (looked.metrics[0].verdict, looked.blind_since_ms),
            (expected, None),
            "{}",
            looked.summary
        );
    }
}

#[test]
fn whoever_takes_over_says_what_the_one_before_would_have_said() {
    let triggers = "[{metric: latency_p95, worse_than_baseline_by: 5%}, {metric: error_rate, \
         worse_than_baseline_by: 50%}, {metric: error_rate, is: '> 1%', over: 10s, for: 20s}, \
         {metric: orders, worse_than_baseline_by: 5%}]";
    let plan = plan(triggers, "metrics: [{name: orders, kind: file, step: 500ms}]\nundecided_for: 1s");
    let look = |judge: &Judge<'_>, number: i64| {
        let (from, to) = (number * 500, (number + 1) * 500);
        let slow = 10.0 + 0.002 * (number * number % 97) as f64;
        let requests = Some([
            did(30, (number % 3).unsigned_abs(), 10.0).over(judge, from, to),
            did(30, (number % 2).unsigned_abs(), slow).over(judge, from, to),
        ]);
        let value = |n: i64| vec![Point(from, 100.0 + (n * 7 % 13) as f64)];
        let points = Some([value(number), value(number + 5)]);
        let given = |source: &str| Given { source: source.into(), ..Given::default() };
        let mut given = vec![Given { requests, ..given("probe") }, Given { points, ..given("orders") }];
        if number % 11 == 10 {
            given[1] = Given { source: "orders".into(), trouble: Some("away".into()), ..Given::default() };
        }
        Batch { at_ms: to, given }
    };
    let mut first = Judge::begin(&plan, 0, BAKE);
    let batches: Vec<Batch> = (0..150).map(|n| look(&first, n)).collect();
    for until in [1, 40, 97, 149] {
        let mut second = Judge::begin(&plan, 0, BAKE);
        second.remember(batches[..until].iter(), batches[until].at_ms);
        let mut before = Judge::begin(&plan, 0, BAKE);
        for batch in &batches[..until] {
            before.look(batch);
        }
        let (one, two) = (before.look(&batches[until]), second.look(&batches[until]));
        assert_eq!((one.decision, one.blind_since_ms), (two.decision, two.blind_since_ms), "{until}");
        let told = |looked: &Looked| serde_json::to_value(&looked.metrics).unwrap();
        assert_eq!(told(&one), told(&two), "{until}");
        first = before;
    }
    assert!(first.comparisons.len() >= 3);
}
