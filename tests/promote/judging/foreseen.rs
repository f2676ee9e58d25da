//! `promote plan --on`: what a plan would have done.

use super::*;

const STEPS: &str = "[{weight: 10%, bake: 1m}, {weight: 50%, bake: 1m}, {weight: 100%}]";
const RULES: &str = "  metrics:\n    - {name: orders, kind: file, target: \"orders-{{ side }}.csv\", worse: lower, step: 5s}\n  \
                     rollback_when:\n    - {metric: orders, worse_than_baseline_by: 5%}\n";

fn foresee(stage: &Stage, name: &str, text: &str) -> Ended {
    std::fs::write(stage.path().join(name), text).unwrap();
    stage.promote(&["plan", "--on", name])
}

/// A stage that asks nothing: whatever is on it is not touched.
fn desk(rules: &str) -> Stage {
    let stage = judged(STEPS, rules);
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("interval: 100ms", "interval: 5s");
    std::fs::write(&path, text).unwrap();
    stage
}

/// Requests of both sides, ten a second; green fails one in `every` from a second on.
fn requests(seconds: u32, from: u32, every: u32) -> String {
    let mut text = String::from("time,side,latency_ms,ok\n");
    for n in 0..seconds * 10 {
        let at = 1_700_000_000.0 + f64::from(n) / 10.0;
        let latency = 20 + n * 7 % 5;
        let ok = n < from * 10 || !n.is_multiple_of(every);
        text.push_str(&format!("{at},blue,{latency},true\n{at},green,{latency},{ok}\n"));
    }
    text
}

/// Values of both sides, one every five seconds; green has this share of blue's.
fn values(seconds: u32, share: f64) -> String {
    let mut text = String::from("time,side,metric,value\n");
    for n in 0..seconds / 5 {
        let at = jiff::Timestamp::from_second(1_700_000_000 + i64::from(n) * 5).unwrap();
        let noise = |of: u32| f64::from(n * of % 13) / 10.0;
        let (blue, green) = (800.0 + noise(5), share * 800.0 + noise(7));
        text.push_str(&format!("{at},blue,orders,{blue}\n{at},green,orders,{green}\n"));
    }
    text
}

#[test]
fn recorded_requests_tell_what_the_triggers_would_have_done() {
    let stage = desk(
        "  rollback_when: [{metric: error_rate, is: \"> 5%\"}, {metric: latency_p95, is: \"> 500ms\"}]\n",
    );
    let good = foresee(&stage, "good.csv", &requests(130, 1000, 10));
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    assert!(
        good.stdout.contains("would go through") && good.stdout.contains("step 2 (50 %)"),
        "{}",
        good.stdout
    );
    let bad = foresee(&stage, "bad.csv", &requests(130, 70, 2));
    assert_eq!(bad.code, 1, "{}{}", bad.stdout, bad.stderr);
    assert!(
        bad.stdout.contains("would be rolled back") && bad.stdout.contains("error_rate"),
        "{}",
        bad.stdout
    );
    let short = foresee(&stage, "short.csv", &requests(40, 1000, 10));
    assert_eq!(short.code, 3, "{}{}", short.stdout, short.stderr);
    assert!(short.stdout.contains("nothing is decided"), "{}", short.stdout);
    assert!(!stage.path().join("evidence").exists() && !stage.path().join(".trapkey").exists());
    stage.assert_all_blue_untouched();
}

#[test]
fn recorded_values_tell_what_the_triggers_would_have_done() {
    let stage = desk(RULES);
    let good = foresee(&stage, "good.csv", &values(150, 1.0));
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    let bad = foresee(&stage, "bad.csv", &values(150, 0.9));
    assert_eq!(bad.code, 1, "{}{}", bad.stdout, bad.stderr);
    assert!(bad.stdout.contains("worse, and not by chance"), "{}", bad.stdout);
    let short = foresee(&stage, "short.csv", &values(30, 1.0));
    assert_eq!(short.code, 3, "{}{}", short.stdout, short.stderr);
}

#[test]
fn a_series_that_cannot_be_used_is_refused_with_its_line() {
    let stage = desk(RULES);
    let cases = [
        (
            "time,side,metric,value\n1,blue,orders,1\n2,red,orders,1\n",
            "line 3: `red` is neither `blue` nor `green`",
        ),
        ("time,side,metric,value\nyesterday,blue,orders,1\n", "line 2: `yesterday` is no time"),
        ("time,side,metric,value\n1,blue,sales,1\n", "line 2: the plan has no metric `sales`"),
        ("time,side,metric,value\n1,blue,orders,many\n", "line 2: `many` is no number"),
        ("time,side,metric,value\n1,blue,orders,1\n1,blue,orders\n", "line: 3"),
        ("time,side,latency_ms,ok\n1,blue,-5,true\n", "line 2: `-5` is no latency"),
        ("time,side,latency_ms,ok\n1,blue,NaN,true\n", "line 2: `NaN` is no latency"),
        ("time,side,latency_ms,ok\n1,blue,inf,true\n", "line 2: `inf` is no latency"),
        ("time,side,latency_ms,ok\n1,blue,5,yes\n", "line 2: `yes` is no `true` or `false`"),
        (
            "time,side,latency_ms,ok,source\n1,blue,5,true,nginx\n",
            "line 2: the plan has no source of requests `nginx`",
        ),
        ("time,side\n1,blue\n", "`metric` and `value`, or `latency_ms` and `ok`"),
        ("when,side,metric,value\n", "no `time` and `side`"),
        ("time,side,metric,value\n", "it has no rows"),
        ("", "no `time` and `side`"),
        ("\u{1f}\u{8b}garbage\n", "no `time` and `side`"),
    ];
    for (text, expected) in cases {
        let ended = foresee(&stage, "wrong.csv", text);
        assert_eq!(ended.code, 2, "{text}: {}{}", ended.stdout, ended.stderr);
        assert!(
            ended.stderr.contains(expected) && ended.stderr.contains("wrong.csv"),
            "{text}: {}",
            ended.stderr
        );
    }
    std::fs::write(stage.path().join("broken.gz"), b"\x1f\x8b\x08broken").unwrap();
    let ended = stage.promote(&["plan", "--on", "broken.gz"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let ended = stage.promote(&["plan", "--on", "nowhere.csv"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("nowhere.csv"), "{}", ended.stderr);
}

#[test]
fn samples_of_an_earlier_promotion_are_a_series() {
    let usual =
        "  rollback_when: [{metric: error_rate, is: \"> 5%\"}, {metric: latency_p95, is: \"> 20s\"}]\n";
    let steps = "[{weight: 10%, bake: 1s}, {weight: 50%, bake: 1s}, {weight: 100%}]";
    let on = |stage: &Stage| stage.promote(&["plan", "--on", "evidence/promote.samples.jsonl.gz"]);
    let good = judged(steps, usual);
    assert_eq!(good.promote(&["run"]).code, 0);
    let ended = on(&good);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    let rows = ended.stdout.lines().next().unwrap().to_owned();
    assert!(rows.contains("rows over "), "{rows}");
    // Another rate of the probe would cut the bakes into other bins; what is recorded stays.
    let path = good.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("rate: 100/s", "rate: 15/s")).unwrap();
    let ended = on(&good);
    assert_eq!((ended.code, ended.stdout.lines().next()), (0, Some(rows.as_str())), "{}", ended.stdout);
    // Under stricter rules the same release would not have passed.
    with_rules(good.path(), "  rollback_when: [{metric: latency_p50, is: \"> 0.001ms\"}]\n");
    let ended = on(&good);
    assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
    let bad = judged(steps, usual);
    bad.green.answers.fail_every.store(3, Ordering::SeqCst);
    assert_eq!(bad.promote(&["run"]).code, 1);
    let ended = on(&bad);
    assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("error_rate"), "{}", ended.stdout);
    bad.assert_all_blue();
}
