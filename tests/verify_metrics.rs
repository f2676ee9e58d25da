//! Tests: verify and the metrics of what is live: now, against earlier, and where they are heading.

use serde_json::{Value, json};
use trapkey::evidence::{Document, VerifyBody, sha256_hex};

use crate::support::answering::{Answering, Reply};
use crate::support::prometheus::{Exporter, Prometheus};
use crate::support::{self, Ended};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A folder with a plan whose `verify` has one metric.
struct Watch {
    folder: tempfile::TempDir,
    /// When the series were made, in ms.
    now: i64,
}

impl Watch {
    /// With keys of a metric named `it`, as lines of YAML.
    fn new(metric: &str) -> Self {
        Self::of(&format!("verify:\n  metrics:\n    - name: it\n{}", indented(metric, 6)))
    }

    /// With everything behind the head of the plan.
    fn of(rest: &str) -> Self {
        let folder = support::folder();
        let head = "version: 1\nservice: shop\nrelease: {version: \"1.1\"}\n";
        std::fs::write(folder.path().join("release.yaml"), format!("{head}{rest}")).unwrap();
        Self { folder, now: jiff::Timestamp::now().as_millisecond() }
    }

    /// Writes `series.csv`: a value every `step` over the time up to now, by how long ago it is in ms.
    fn series(self, over: i64, step: i64, value: impl Fn(i64) -> f64) -> Self {
        let mut text = String::from("time,value\n");
        for n in (0..over / step).rev() {
            let ago = n * step;
            text.push_str(&format!("{},{}\n", self.now - ago, value(ago)));
        }
        std::fs::write(self.folder.path().join("series.csv"), text).unwrap();
        self
    }

    /// A promotion that moved all traffic so long ago, in ms: from, to.
    fn promoted(self, from: i64, to: i64) -> Self {
        let plan = std::fs::read(self.folder.path().join("release.yaml")).unwrap();
        let at = |ago: i64| jiff::Timestamp::from_millisecond(self.now - ago).unwrap().to_string();
        let shift = |ago: i64, weight: f64| json!({"why": "step", "at": at(ago), "asked": weight, "read_back": weight, "set_ms": 1.0, "probed": null});
        let document = json!({
            "schema": "trapkey/promote/v1",
            "tool": {"name": "promote", "version": "0.1.0"},
            "release": {"service": "shop", "version": "1.1", "environment": "production", "artifacts": []},
            "plan": {"path": "release.yaml", "sha256": sha256_hex(&plan)},
            "needs": [],
            "run": {"started_at": at(from), "finished_at": at(to), "host": "test"},
            "verdict": "pass", "summary": "promoted", "findings": [],
            "promotion": {
                "epoch": 1, "strategy": "canary",
                "router": {"kind": "command", "target": "edge", "by_hand": []},
                "blue": {"url": "http://127.0.0.1:1", "version": "1.0"},
                "green": {"url": "http://127.0.0.1:2", "version": "1.1"},
                "outcome": "promoted",
                "steps": [], "judgements": [], "series": [], "decisions": [], "hooks": [],
                "shifts": if from > 0 { json!([shift(from, 0.05), shift(to, 1.0)]) } else { json!([]) },
                "weight": 1.0,
            },
        });
        std::fs::create_dir_all(self.folder.path().join("evidence")).unwrap();
        std::fs::write(self.folder.path().join("evidence/promote.json"), document.to_string()).unwrap();
        self
    }

    fn call(&self) -> Ended {
        support::call("verify", self.folder.path(), &[])
    }

    fn run(&self) -> (i32, Value) {
        let ended = self.call();
        let path = self.folder.path().join("evidence/verify.json");
        assert!(path.exists(), "{}", ended.stderr);
        let document = support::json(&path);
        let schema = serde_json::to_value(schemars::schema_for!(Document<VerifyBody>)).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        (ended.code, document)
    }

    /// Exit code, finding and record of one condition.
    fn look(&self, asked: &str) -> (i32, Value, Value) {
        let (code, document) = self.run();
        let name = format!("it: {asked}");
        let found = |list: &str, fits: &dyn Fn(&Value) -> bool| {
            let all = document[list].as_array().unwrap();
            all.iter().find(|one| fits(one)).unwrap_or_else(|| panic!("no `{name}` in {all:#?}")).clone()
        };
        let finding = found("findings", &|f| f["name"] == name.as_str());
        let record = found("metrics", &|m| m["asked"] == asked && m["metric"] == "it");
        assert_eq!(finding["verdict"], record["verdict"]);
        assert_eq!(finding["message"], record["message"]);
        (code, finding, record)
    }

    /// Runs it, and says how it ended and what came of one condition.
    fn outcome(&self, asked: &str) -> (i32, String) {
        let (code, _, record) = self.look(asked);
        (code, record["outcome"].as_str().unwrap().to_owned())
    }
}

fn indented(text: &str, by: usize) -> String {
    text.trim().lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// Between -1 and 1, the same for the same moment; neighbours know nothing of each other.
#[expect(clippy::cast_precision_loss, reason = "53 bits")]
fn noise(ago: i64) -> f64 {
    let mut x = ago.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    ((x >> 11) as f64 / (1_u64 << 53) as f64).mul_add(2.0, -1.0)
}

#[expect(clippy::cast_precision_loss, reason = "days in ms")]
fn days(ms: i64) -> f64 {
    ms as f64 / DAY as f64
}

const ORDERS: &str = "kind: file
target: series.csv
worse: lower
step: 1m
over: 30m";

#[test]
fn each_line_of_expect_is_a_finding_of_its_own() {
    let expect = "expect: {mean: \">= 100\", last: \"> 0\", p95: \"<= 200\", min: \">= 50\", max: \"< 150\", \
                  median: \"> 100\", samples: \">= 20\", sum: \"> 1000\"}";
    let watch = Watch::new(&format!("{ORDERS}\n{expect}")).series(2 * HOUR, MINUTE, |ago| 120.0 + noise(ago));
    let (code, document) = watch.run();
    assert_eq!(code, 0, "{document:#}");
    assert_eq!(document["findings"].as_array().unwrap().len(), 8);
    assert_eq!(document["metrics"].as_array().unwrap().len(), 8);
    let (_, finding, record) = watch.look("p95");
    assert_eq!((&finding["kind"], &finding["severity"]), (&json!("file"), &json!("critical")));
    assert_eq!(finding["expected"], "<= 200");
    assert!((119.0..=121.0).contains(&finding["value"].as_f64().unwrap()), "{finding:#}");
    assert_eq!(finding["evidence"]["query"], "series.csv");
    assert_eq!(finding["evidence"]["window"], record["window"]);
    let samples = record["window"]["samples"].as_u64().unwrap();
    assert!((29..=30).contains(&samples), "{samples}");
    assert_eq!(record["window"]["step_s"], 60.0);

    let watch = watch.series(2 * HOUR, MINUTE, |ago| 90.0 + noise(ago));
    let (code, finding, record) = watch.look("mean");
    assert_eq!((code, record["outcome"].as_str()), (1, Some("fail")));
    assert!(finding["message"].as_str().unwrap().starts_with("the mean of "), "{finding}");
    assert!(finding["message"].as_str().unwrap().ends_with(", expected >= 100"), "{finding}");
    assert_eq!(watch.outcome("median"), (1, "fail".into()));
    assert_eq!(watch.outcome("last"), (1, "pass".into()));
    let warned =
        Watch::new(&format!("{ORDERS}\nseverity: warning\nexpect: {{mean: \">= 100\", last: \"> 0\"}}"))
            .series(2 * HOUR, MINUTE, |ago| 90.0 + noise(ago));
    assert_eq!(warned.outcome("mean"), (0, "fail".into()));
}

#[test]
fn units_are_those_of_the_plan() {
    let metric =
        "kind: file\ntarget: series.csv\nunit: s\nstep: 1m\nexpect: {mean: \"<= 300ms\", samples: \">= 5\"}";
    let watch = Watch::new(metric).series(HOUR, MINUTE, |ago| 0.25 + noise(ago) / 100.0);
    let (code, finding, record) = watch.look("mean");
    assert_eq!((code, finding["unit"].as_str(), record["unit"].as_str()), (0, Some("ms"), Some("ms")));
    assert!((240.0..=260.0).contains(&finding["value"].as_f64().unwrap()), "{finding}");
    assert!(finding["observed"].as_str().unwrap().ends_with(" ms"), "{finding}");
    let (_, samples, record) = watch.look("samples");
    assert!(samples.get("unit").is_none() && record["unit"] == "", "{samples} {record}");
    let percent = "kind: file\ntarget: series.csv\nunit: percent\nstep: 1m\nexpect: {mean: \"< 90%\"}";
    let (code, finding, _) = Watch::new(percent).series(HOUR, MINUTE, |ago| 80.0 + noise(ago)).look("mean");
    assert_eq!((code, finding["unit"].as_str()), (0, Some("%")));
    assert!((79.0..=81.0).contains(&finding["value"].as_f64().unwrap()), "{finding}");
}

#[test]
fn silence_and_nonsense_have_a_name_and_are_never_a_pass() {
    let metric = format!("{ORDERS}\nexpect: {{mean: \">= -1000\"}}");
    let watch = || Watch::new(&metric);
    // Nothing at all, and nothing in the window.
    assert_eq!(watch().series(0, MINUTE, |_| 1.0).outcome("mean"), (3, "no_data".into()));
    let old = watch();
    let before = format!("time,value\n{},5\n", old.now - DAY);
    std::fs::write(old.folder.path().join("series.csv"), before).unwrap();
    assert_eq!(old.outcome("mean"), (3, "no_data".into()));
    // It was there and is silent for ten minutes.
    let silent =
        watch().series(2 * HOUR, MINUTE, |ago| if ago < 10 * MINUTE { f64::NAN } else { noise(ago) });
    let text = std::fs::read_to_string(silent.folder.path().join("series.csv")).unwrap().replace(",NaN", ",");
    std::fs::write(silent.folder.path().join("series.csv"), text).unwrap();
    let (code, finding, record) = silent.look("mean");
    assert_eq!((code, record["outcome"].as_str()), (3, Some("late_data")), "{finding}");
    assert!(finding["message"].as_str().unwrap().contains("the newest value is 10 min"), "{finding}");
    // One of many is not a number, or infinite.
    for (odd, outcome) in
        [(f64::NAN, "not_a_number"), (f64::INFINITY, "infinite"), (f64::NEG_INFINITY, "infinite")]
    {
        let watch = watch().series(HOUR, MINUTE, |ago| if ago == 7 * MINUTE { odd } else { noise(ago) });
        let (code, finding, record) = watch.look("mean");
        assert_eq!((code, record["outcome"].as_str()), (4, Some(outcome)), "{finding}");
        assert!(finding["message"].as_str().unwrap().starts_with("1 of "), "{finding}");
    }
    // It stands still.
    assert_eq!(watch().series(HOUR, MINUTE, |_| 7.0).outcome("mean"), (3, "constant".into()));
    assert_eq!(watch().series(HOUR, MINUTE, |_| 0.0).outcome("mean"), (0, "pass".into()));
    let still = Watch::new(&format!("{metric}\nmay_be_constant: true")).series(HOUR, MINUTE, |_| 7.0);
    assert_eq!(still.outcome("mean"), (0, "pass".into()));
    let fails = Watch::new(&format!("{ORDERS}\nexpect: {{mean: \"> 9\"}}")).series(HOUR, MINUTE, |_| 7.0);
    assert_eq!(fails.outcome("mean"), (1, "fail".into()));
    // Two values have a newest one, and no mean.
    let few = watch().series(2 * MINUTE, MINUTE, noise);
    assert_eq!(few.outcome("mean"), (3, "too_few_samples".into()));
    // There is no such file, and one that is none.
    let (code, finding, record) = watch().look("mean");
    assert_eq!((code, record["outcome"].as_str()), (4, Some("not_answered")), "{finding}");
    assert_eq!(finding["attempts"], 3);
    let broken = watch();
    std::fs::write(broken.folder.path().join("series.csv"), "time,value\nyesterday,many\n").unwrap();
    assert_eq!(broken.outcome("mean"), (4, "query_error".into()));
}

#[test]
fn a_metric_that_is_worse_than_a_day_earlier_fails() {
    let metric = format!("{ORDERS}\ncompare: {{before: 1d, worse_by: 5%, at_least: 3}}");
    let since = |level: f64| move |ago: i64| if ago < HOUR { level } else { 100.0 } + 2.0 * noise(ago);
    let watch = Watch::new(&metric).series(2 * DAY, MINUTE, since(80.0));
    let (code, finding, record) = watch.look("compare");
    assert_eq!((code, record["outcome"].as_str()), (1, Some("fail")), "{finding}");
    let test = &record["test"];
    assert_eq!(
        (test["name"].as_str(), test["tolerance"].as_f64()),
        (Some("mann_whitney"), test["tolerance"].as_f64())
    );
    assert!((4.9..=5.1).contains(&test["tolerance"].as_f64().unwrap()), "{test}");
    assert!((18.0..=22.0).contains(&test["effect"].as_f64().unwrap()), "{test}");
    assert!(
        test["effect_low"].as_f64().unwrap() > 15.0 && test["effect_high"].as_f64().unwrap() < 25.0,
        "{test}"
    );
    assert!(test["p_value"].as_f64().unwrap() < 0.01, "{test}");
    let (now, before) = (&record["window"], &record["before"]);
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(at(&now["from"]) - at(&before["from"]), DAY);
    assert_eq!(at(&now["to"]) - at(&before["to"]), DAY);
    assert!(finding["baseline"].as_str().unwrap().ends_with(" before"), "{finding}");
    let sentence = finding["message"].as_str().unwrap();
    assert!(
        sentence.contains("a typical value is worse by ") && sentence.contains(" than 24 h earlier: "),
        "{sentence}"
    );
    // Better is no alarm where lower is worse, and is one where any change is.
    assert_eq!(
        Watch::new(&metric).series(2 * DAY, MINUTE, since(120.0)).outcome("compare"),
        (0, "pass".into())
    );
    let either = metric.replace("worse: lower", "worse: either");
    assert_eq!(
        Watch::new(&either).series(2 * DAY, MINUTE, since(120.0)).outcome("compare"),
        (1, "fail".into())
    );
    // A certain difference within the tolerance is none.
    assert_eq!(
        Watch::new(&metric).series(2 * DAY, MINUTE, since(97.0)).outcome("compare"),
        (0, "pass".into())
    );
    // Nothing changed.
    assert_eq!(
        Watch::new(&metric).series(2 * DAY, MINUTE, since(100.0)).outcome("compare"),
        (0, "pass".into())
    );
    // Nothing was there a day ago, or too little is there now.
    assert_eq!(
        Watch::new(&metric).series(2 * HOUR, MINUTE, since(100.0)).outcome("compare"),
        (3, "no_data".into())
    );
    let short = metric.replace("over: 30m", "over: 5m");
    let (code, finding, record) = Watch::new(&short).series(2 * DAY, MINUTE, since(50.0)).look("compare");
    assert_eq!((code, record["outcome"].as_str()), (3, Some("too_few_samples")), "{finding}");
}

const PROMOTE: &str = "promote:
  router: {kind: command, target: edge, with: {set: [\"true\", \"{{green}}\"], get: [echo, \"1\"]}, entry: \"http://127.0.0.1:9\"}
  sides: {blue: {url: \"http://127.0.0.1:1\"}, green: {url: \"http://127.0.0.1:2\"}}
  strategy: blue_green
  probe: {requests: 1, timeout: 200ms}
";

fn after_release(metric: &str) -> Watch {
    let metric = indented(&format!("{ORDERS}\n{metric}"), 6);
    Watch::of(&format!("{PROMOTE}verify:\n  metrics:\n    - name: it\n{metric}"))
}

#[test]
fn a_metric_that_is_worse_than_before_the_release_fails() {
    let compare = "compare: {before: release, worse_by: 10%}";
    // Traffic began to move 50 minutes ago and stood 20 minutes ago; between them nothing is compared.
    let orders = |now: f64| {
        move |ago: i64| match ago {
            ago if ago < 20 * MINUTE => now + noise(ago),
            ago if ago < 50 * MINUTE => 5000.0,
            ago => 100.0 + noise(ago),
        }
    };
    let watch =
        after_release(compare).series(3 * HOUR, MINUTE, orders(70.0)).promoted(50 * MINUTE, 20 * MINUTE);
    let (_, finding, record) = watch.look("compare");
    assert_eq!(record["outcome"], "fail", "{finding}");
    assert!(finding["message"].as_str().unwrap().starts_with("worse than before the release: "), "{finding}");
    assert!((record["value"].as_f64().unwrap() - 70.0).abs() < 1.0, "{record}");
    assert!((record["baseline"].as_f64().unwrap() - 100.0).abs() < 1.0, "{record}");
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(at(&record["before"]["to"]), watch.now - 50 * MINUTE);
    assert_eq!(at(&record["window"]["from"]), watch.now - 20 * MINUTE);
    let length = |window: &Value| at(&window["to"]) - at(&window["from"]);
    assert_eq!(length(&record["window"]), length(&record["before"]));
    let fine =
        after_release(compare).series(3 * HOUR, MINUTE, orders(99.0)).promoted(50 * MINUTE, 20 * MINUTE);
    assert_eq!(fine.look("compare").2["outcome"], "pass");
    // A release of two minutes ago is too fresh.
    let fresh =
        after_release(compare).series(3 * HOUR, MINUTE, orders(70.0)).promoted(9 * MINUTE, 4 * MINUTE);
    let (_, finding, record) = fresh.look("compare");
    assert_eq!(
        (&finding["verdict"], record["outcome"].as_str()),
        (&json!("too_few_samples"), Some("too_few_samples"))
    );
    assert!(
        finding["message"].as_str().unwrap().contains("traffic stands where it is since 4 min"),
        "{finding}"
    );
    // And where nothing moved there is no before.
    let (_, finding, record) =
        after_release(compare).series(3 * HOUR, MINUTE, orders(70.0)).promoted(0, 0).look("compare");
    assert_eq!((&finding["verdict"], record["outcome"].as_str()), (&json!("skipped"), Some("nothing_moved")));
}

const DISK: &str = "kind: file
target: series.csv
unit: percent
step: 10m
trend: {over: 7d, step: 1h, crosses: \"> 90%\", within: 14d}";

#[test]
fn a_disk_that_fills_up_in_five_days_fails() {
    let filling = |ago: i64| 70.0 - 4.0 * days(ago) + 0.5 * noise(ago);
    let watch = Watch::new(DISK).series(7 * DAY, HOUR, filling);
    let (code, finding, record) = watch.look("trend");
    assert_eq!((code, record["outcome"].as_str()), (1, Some("fail")), "{finding}");
    let crossing = &record["crossing"];
    let after = |key: &str| crossing[key].as_f64().unwrap() / 86_400.0;
    assert!((4.8..=5.2).contains(&after("after_s")), "{crossing}");
    assert!(after("earliest_s") <= after("after_s") && after("after_s") <= after("latest_s"), "{crossing}");
    assert!(
        (4.4..=5.0).contains(&after("earliest_s")) && (5.0..=5.6).contains(&after("latest_s")),
        "{crossing}"
    );
    let test = &record["test"];
    assert_eq!(test["name"], "theil_sen");
    assert!((0.038..=0.042).contains(&test["effect"].as_f64().unwrap()), "{test}");
    assert!(finding["message"].as_str().unwrap().starts_with("90 % is reached in "), "{finding}");
    // With less foresight it is no alarm yet, and with room enough neither.
    let soon = DISK.replace("within: 14d", "within: 3d");
    assert_eq!(Watch::new(&soon).series(7 * DAY, HOUR, filling).outcome("trend"), (0, "pass".into()));
    let slow = |ago: i64| 30.0 - 0.5 * days(ago) + 0.5 * noise(ago);
    assert_eq!(Watch::new(DISK).series(7 * DAY, HOUR, slow).outcome("trend"), (0, "pass".into()));
    let steady = |ago: i64| 60.0 + 2.0 * noise(ago);
    assert_eq!(Watch::new(DISK).series(7 * DAY, HOUR, steady).outcome("trend"), (0, "pass".into()));
    // Full already, however slowly.
    let full = |ago: i64| 93.0 + 0.1 * noise(ago);
    let (code, finding, record) = Watch::new(DISK).series(7 * DAY, HOUR, full).look("trend");
    assert_eq!((code, record["crossing"]["after_s"].as_f64()), (1, Some(0.0)), "{finding}");
    assert!(finding["message"].as_str().unwrap().contains("is crossed already"), "{finding}");
    // The same as free space, in bytes, where less is worse.
    let free = "kind: file\ntarget: series.csv\nunit: bytes\nworse: lower\nstep: 10m\n\
                trend: {over: 7d, crosses: \"< 10GiB\", within: 14d}";
    let shrinking = |ago: i64| (60.0 + 10.0 * days(ago) + noise(ago)) * 1024.0_f64.powi(3);
    let (code, finding, record) = Watch::new(free).series(7 * DAY, HOUR, shrinking).look("trend");
    assert_eq!((code, record["outcome"].as_str()), (1, Some("fail")), "{finding}");
    assert!(finding["message"].as_str().unwrap().starts_with("10 GiB is reached in "), "{finding}");
}

#[test]
fn a_line_through_too_little_time_is_no_forecast() {
    let filling = |ago: i64| 70.0 - 4.0 * days(ago) + 0.5 * noise(ago);
    for (over, step) in [(DAY, 10 * MINUTE), (5 * HOUR, HOUR)] {
        let (code, finding, record) = Watch::new(DISK).series(over, step, filling).look("trend");
        assert_eq!((code, record["outcome"].as_str()), (3, Some("too_few_samples")), "{finding}");
    }
    assert_eq!(Watch::new(DISK).series(7 * DAY, HOUR, |_| 50.0).outcome("trend"), (3, "constant".into()));
    // It ended half a day ago.
    let ended = |ago: i64| if ago < 12 * HOUR { f64::NAN } else { filling(ago) };
    let watch = Watch::new(DISK).series(7 * DAY, HOUR, ended);
    let text = std::fs::read_to_string(watch.folder.path().join("series.csv")).unwrap().replace(",NaN", ",");
    std::fs::write(watch.folder.path().join("series.csv"), text).unwrap();
    assert_eq!(watch.outcome("trend"), (3, "late_data".into()));
}

const LOGINS: &str = "kind: file
target: series.csv
worse: lower
step: 5m
over: 30m
anomaly: {history: 14d, season: 1d, phases: 24, limit: 4}";

/// Few at the present hour of every day, many twelve hours away from it.
fn nightly(ago: i64) -> f64 {
    300.0 - 250.0 * (days(ago) * std::f64::consts::TAU).cos() + 10.0 * noise(ago)
}

#[test]
fn a_daily_pattern_at_night_is_no_anomaly() {
    let watch = Watch::new(LOGINS).series(16 * DAY, 15 * MINUTE, nightly);
    let (code, finding, record) = watch.look("anomaly");
    assert_eq!((code, record["outcome"].as_str()), (0, Some("pass")), "{finding}");
    assert_eq!(record["test"]["name"], "seasonal_mad");
    assert!((30.0..=90.0).contains(&record["baseline"].as_f64().unwrap()), "{record}");
    // The same figure at noon, or silence at night, is one.
    let at_noon = |ago: i64| if ago < 40 * MINUTE { 50.0 + noise(ago) } else { nightly(ago + 12 * HOUR) };
    let (code, finding, record) = Watch::new(LOGINS).series(16 * DAY, 15 * MINUTE, at_noon).look("anomaly");
    assert_eq!((code, record["outcome"].as_str()), (1, Some("fail")), "{finding}");
    assert!(record["test"]["statistic"].as_f64().unwrap() < -4.0, "{record}");
    assert!(finding["message"].as_str().unwrap().contains(" spreads below the "), "{finding}");
    assert!(finding["baseline"].as_str().unwrap().ends_with(" is usual"), "{finding}");
    // A peak is none where lower is worse.
    let peak = |ago: i64| if ago < 40 * MINUTE { 900.0 + noise(ago) } else { nightly(ago) };
    assert_eq!(Watch::new(LOGINS).series(16 * DAY, 15 * MINUTE, peak).outcome("anomaly"), (0, "pass".into()));
    // One odd value among many is noise.
    let lone = |ago: i64| if ago == 10 * MINUTE { -500.0 } else { nightly(ago) };
    let (code, finding, record) = Watch::new(LOGINS).series(16 * DAY, 5 * MINUTE, lone).look("anomaly");
    assert_eq!((code, record["outcome"].as_str()), (0, Some("pass")), "{finding}");
    assert!(finding["message"].as_str().unwrap().contains("fewer than half"), "{finding}");
    // Two days do not tell what is usual.
    assert_eq!(
        Watch::new(LOGINS).series(2 * DAY, 5 * MINUTE, nightly).outcome("anomaly"),
        (3, "too_few_samples".into())
    );
}

#[test]
fn a_step_after_the_deploy_fails_and_a_slow_trend_is_none() {
    let level = "level: {over: 2h, p_below: 1%}";
    let worse = |ago: i64| if ago < 35 * MINUTE { 130.0 } else { 100.0 } + 3.0 * noise(ago);
    let metric = format!("{}\n{level}", ORDERS.replace("worse: lower", "worse: higher"));
    let watch = Watch::new(&metric).series(3 * HOUR, MINUTE, worse);
    let (code, finding, record) = watch.look("level");
    assert_eq!((code, record["outcome"].as_str()), (1, Some("fail")), "{finding}");
    let at = record["changed_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert!((at - (watch.now - 35 * MINUTE)).abs() <= 6 * MINUTE, "{record}");
    assert_eq!(record["test"]["name"], "pettitt");
    assert!((27.0..=33.0).contains(&record["test"]["effect"].as_f64().unwrap()), "{record}");
    assert!(record["test"]["p_value"].as_f64().unwrap() < 0.01, "{record}");
    // To the better, or not at all, or slowly: no step to the worse.
    let better = format!("{ORDERS}\n{level}");
    assert_eq!(Watch::new(&better).series(3 * HOUR, MINUTE, worse).outcome("level"), (0, "pass".into()));
    let even = |ago: i64| 100.0 + 3.0 * noise(ago);
    assert_eq!(Watch::new(&metric).series(3 * HOUR, MINUTE, even).outcome("level"), (0, "pass".into()));
    let slowly = |ago: i64| 100.0 - 400.0 * days(ago) + noise(ago);
    let (code, finding, _) = Watch::new(&metric).series(3 * HOUR, MINUTE, slowly).look("level");
    assert_eq!(code, 0, "{finding}");
    assert!(finding["message"].as_str().unwrap().starts_with("no step: it moves slowly"), "{finding}");
    // A certain step within what is allowed is none.
    let within = metric.replace("p_below: 1%", "p_below: 1%, worse_by: 40%");
    assert_eq!(Watch::new(&within).series(3 * HOUR, MINUTE, worse).outcome("level"), (0, "pass".into()));
    let few = Watch::new(&metric).series(20 * MINUTE, MINUTE, worse);
    assert_eq!(few.outcome("level"), (3, "too_few_samples".into()));
    assert_eq!(
        Watch::new(&metric).series(3 * HOUR, MINUTE, |_| 5.0).outcome("level"),
        (3, "constant".into())
    );
    // With a promotion the step is told by it.
    let released =
        after_release(level).series(3 * HOUR, MINUTE, |ago| -worse(ago)).promoted(40 * MINUTE, 38 * MINUTE);
    let (_, finding, record) = released.look("level");
    assert_eq!(record["outcome"], "fail", "{finding}");
    assert!(finding["message"].as_str().unwrap().contains(" after traffic began to move"), "{finding}");
}

#[test]
fn sources_are_asked_at_the_same_time_and_a_hanging_one_holds_up_no_other() {
    // Each of them waits for all the others.
    let meet = "touch met-$0; until [ $(ls met-* | wc -l) -ge 6 ]; do sleep 0.05; done; echo 5";
    let mut text = String::from("verify:\n  metrics:\n");
    for n in 0..6 {
        let one = format!(
            "kind: command\ntarget: [sh, -c, '{meet}', \"{n}\"]\ntimeout: 10m\nexpect: {{last: \"> 0\"}}"
        );
        text.push_str(&format!("    - name: slow{n}\n{}", indented(&one, 6)));
    }
    // Ten minutes are longer than this test may last.
    let hangs = "name: it\nkind: command\ntarget: [sleep, \"600\"]\ntimeout: 300ms\nretries: 1\nexpect: {last: \"> 0\"}";
    text.push_str(&format!("    -\n{}", indented(hangs, 6)));
    let watch = Watch::of(&text);
    let (code, finding, record) = watch.look("last");
    assert_eq!((code, record["outcome"].as_str()), (4, Some("not_answered")), "{finding}");
    assert_eq!(finding["attempts"], 2);
    let document = support::json(&watch.folder.path().join("evidence/verify.json"));
    let passed = document["findings"].as_array().unwrap().iter().filter(|f| f["verdict"] == "pass").count();
    assert_eq!(passed, 6, "{document:#}");
}

#[test]
fn a_slow_source_makes_the_series_of_another_no_older() {
    let slow = indented(
        "name: slow\nkind: command\ntarget: [sh, -c, \"sleep 6; echo 5\"]\ntimeout: 5m\nexpect: {last: \"> 0\"}",
        6,
    );
    let fresh = indented("kind: file\ntarget: series.csv\nstep: 1s\nover: 1m\nexpect: {mean: \"> 0\"}", 6);
    let mut watch = Watch::of(&format!("verify:\n  metrics:\n    -\n{slow}    - name: it\n{fresh}"));
    let begun = watch.now;
    // The series goes on for longer than this test lasts: whenever it is asked for, its newest value is young.
    watch.now = begun + 10 * MINUTE;
    let watch = watch.series(12 * MINUTE, 1000, |ago| 5.0 + noise(ago));
    assert_eq!(watch.outcome("mean"), (0, "pass".into()));
    // It is the slow one that makes it late where its age counts from the end.
    let mut late = Watch::of(&format!("verify:\n  metrics:\n    - name: it\n{fresh}"));
    late.now = begun - 6000;
    let late = late.series(2 * MINUTE, 1000, |ago| 5.0 + noise(ago));
    assert_eq!(late.outcome("mean"), (3, "late_data".into()));
}

#[test]
fn the_schema_of_the_plan_knows_which_kinds_give_a_series() {
    let validator = jsonschema::validator_for(&trapkey::tools::preflight::plan_schema()).unwrap();
    let fits = |metric: &str| {
        let text = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.0}}\nverify: {{metrics: [{{name: it, {metric}}}]}}\n"
        );
        let plan: Value = trapkey::yaml::parse(&text).unwrap().read(&|_: &str| None).unwrap();
        validator.is_valid(&plan)
    };
    let limits = "expect: {p99.9: \"< 5\"}, trend: {over: 7d, crosses: \"> 9\", within: 1d}, anomaly: {}";
    assert!(fits(&format!(
        "kind: file, target: a.csv, {limits}, compare: {{before: release}}, level: {{over: 2h}}"
    )));
    assert!(fits("kind: command, target: [./orders.sh], compare: {before: 1w, worse_by: 5%, at_least: 3}"));
    assert!(!fits(&format!("kind: nginx_log, target: access.log, {limits}")));
    assert!(!fits("kind: file, target: a.csv, compare: {before: earlier}"));
    assert!(!fits("kind: file, target: a.csv, compare: {worse_by: 5%}"));
    assert!(!fits("kind: file, target: a.csv, trend: {over: 7d, crosses: \"> 9\"}"));
    assert!(!fits("kind: file, target: a.csv, with: {colour: red}, level: {over: 2h}"));
    assert!(!fits("kind: file, target: a.csv, level: {over: 2h, colour: red}"));
}

#[test]
fn an_answer_at_the_second_attempt_is_marked_as_flaky() {
    let mut busy = true;
    let server = Answering::start(move |asked| {
        if std::mem::take(&mut busy) {
            return Reply::Says(503, "text/plain", "come again".into());
        }
        let at: f64 = asked.parameter("start").parse().unwrap();
        let one = json!({"metric": {}, "values": [[at, "5"]]});
        Reply::json(json!({"status": "success", "data": {"resultType": "matrix", "result": [one]}}))
    });
    let once = format!(
        "kind: prometheus\ntarget: {}\nwith: {{query: queue}}\nstep: 1m\nover: 3m\ntimeout: 5m\nmay_be_constant: true\n\
         expect: {{last: \"> 0\"}}",
        server.url()
    );
    let (code, finding, _) = Watch::new(&once).look("last");
    assert_eq!((code, &finding["flaky"], &finding["attempts"]), (0, &json!(true), &json!(2)), "{finding}");
}

#[test]
fn a_secret_of_a_source_is_in_no_finding() {
    let metric = "kind: command\ntarget: [sh, -c, \"echo $SHOP_TOKEN >&2; exit 3\"]\n\
                  with: {env: {SHOP_TOKEN: \"${SHOP_TOKEN}\"}}\nexpect: {last: \"> 0\"}";
    let watch = Watch::new(metric);
    let mut command = support::tool("verify", watch.folder.path());
    let ended = support::run(command.env("SHOP_TOKEN", "tok-51-secret-9"));
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    let text = std::fs::read_to_string(watch.folder.path().join("evidence/verify.json")).unwrap();
    assert!(!text.contains("tok-51-secret-9") && !ended.stderr.contains("tok-51-secret-9"), "{text}");
    assert!(text.contains("\"query_error\""), "{text}");
}

#[test]
fn a_plan_that_cannot_be_judged_is_refused_before_anything_is_asked() {
    let file = "kind: file, target: series.csv, step: 1m, over: 30m";
    for (metric, says) in [
        ("kind: fil, target: series.csv, expect: {mean: \"> 1\"}".to_owned(), "did you mean `file`"),
        (file.to_owned(), "nothing is asked of it"),
        (format!("{file}, expect: {{meen: \"> 1\"}}"), "did you mean `mean`"),
        (format!("{file}, expect: {{p100: \"> 1\"}}"), "unknown figure `p100`"),
        (format!("{file}, expect: {{mean: \"> 1s\"}}"), "is not a number"),
        (format!("{file}, unit: ms, expect: {{mean: \"> 1\"}}"), "is not a duration"),
        (format!("{file}, exspect: {{mean: \"> 1\"}}"), "did you mean `expect`"),
        (format!("{file}, compare: {{before: 10m}}"), "compare.before is 10 min, and must be at least over"),
        (format!("{file}, compare: {{before: yesterday}}"), "neither `release` nor a duration"),
        (format!("{file}, compare: {{before: release}}"), "has no `promote`"),
        (format!("{file}, compare: {{before: 1d, at_least: 3ms}}"), "`compare.at_least`"),
        (format!("{file}, trend: {{over: 7d, crosses: \"90\", within: 1d}}"), "begins with `>` or `<`"),
        (format!("{file}, trend: {{over: 7d, crosses: \"> 90%\", within: 1d}}"), "`trend.crosses`"),
        (format!("{file}, trend: {{over: 7m, crosses: \"> 9\", within: 1d}}"), "at least 8 times"),
        (format!("{file}, anomaly: {{history: 2d}}"), "at least 3 times season"),
        (format!("{file}, anomaly: {{limit: 0}}"), "`anomaly.limit`"),
        (format!("{file}, anomaly: {{phases: 0}}"), "`anomaly.phases`"),
        (format!("{file}, level: {{over: 10m}}"), "at least 16 times step"),
        (format!("{file}, level: {{over: 2h, p_below: 30%}}"), "`level.p_below`"),
        ("kind: file, target: series.csv, over: 20s, expect: {mean: \"> 1\"}".into(), "at least 3 times step"),
        ("kind: prometheus, target: \"http://127.0.0.1:1\", with: {query: \"up{side='{{ side }}'}\"}, expect: {mean: \"> 0\"}".into(), "there are no sides here"),
        ("kind: nginx_log, target: access.log, expect: {mean: \"> 1\"}".into(), "kinds that give a series"),
    ] {
        let plan = format!("preflight: {{checks: [{{name: a, kind: command, target: [touch, looked]}}]}}\nverify: {{metrics: [{{name: it, {metric}}}]}}\n");
        let watch = Watch::of(&plan);
        for tool in ["preflight", "verify"] {
            let ended = support::call(tool, watch.folder.path(), &[]);
            assert!(ended.code == 2 || (tool == "verify" && ended.code == 5), "{tool} {metric}: {}", ended.stderr);
            assert!(ended.code == 5 || ended.stderr.contains(says), "{tool} {metric}: {}", ended.stderr);
        }
        assert!(!watch.folder.path().join("looked").exists());
        // Without a preflight `verify` itself says so.
        let alone = Watch::of(&format!("verify: {{metrics: [{{name: it, {metric}}}]}}\n")).call();
        assert_eq!(alone.code, 2, "{metric}: {}", alone.stderr);
        assert!(alone.stderr.contains(says), "{metric}: {}", alone.stderr);
    }
    let twice = format!("verify: {{metrics: [{{name: it, {file}}}, {{name: it, {file}}}]}}\n");
    assert!(Watch::of(&twice).call().stderr.contains("two metrics are named `it`"));
}

#[test]
fn the_examples_of_the_annotated_plan_and_of_the_guide_are_read() {
    let nobody = |text: &str| text.replace("http://prometheus.example.com:9090", "http://127.0.0.1:1");
    let template = include_str!("../templates/release.yaml");
    let block = template.split_once("\n  # metrics:\n").unwrap().1.lines();
    let block = block.map_while(|line| line.strip_prefix("  # ").or_else(|| line.strip_prefix("  #")));
    let block: String = block.map(|line| format!("  {line}\n")).collect();
    let (code, document) = Watch::of(&nobody(&format!("verify:\n  metrics:\n{block}"))).run();
    let asked = |document: &Value| -> Vec<String> {
        let all = document["metrics"].as_array().unwrap().iter();
        all.map(|m| format!("{} {}", m["metric"].as_str().unwrap(), m["asked"].as_str().unwrap())).collect()
    };
    let lines =
        ["mean", "p95", "min", "samples", "compare", "anomaly", "level"].map(|a| format!("orders {a}"));
    let with = |more: &str| lines.iter().cloned().chain([more.to_owned()]).collect::<Vec<_>>();
    assert_eq!((code, asked(&document)), (4, with("disk trend")));
    assert!(
        document["metrics"].as_array().unwrap().iter().all(|m| m["outcome"] == "not_answered"),
        "{document:#}"
    );

    let guide = include_str!("../docs/plan.md").split_once("### `verify.metrics`").unwrap().1;
    let block = guide.lines().skip_while(|line| !line.starts_with("    metrics:"));
    let block = block.map_while(|line| line.strip_prefix("    "));
    let block: String = block.map(|line| format!("  {line}\n")).collect();
    let watch = Watch::of(&nobody(&format!("{PROMOTE}verify:\n{block}"))).promoted(HOUR, HOUR);
    let (_, document) = watch.run();
    let lines = ["mean", "last", "samples", "compare", "anomaly", "level"].map(|a| format!("orders {a}"));
    assert_eq!(asked(&document), lines.into_iter().chain(["disk trend".to_owned()]).collect::<Vec<_>>());
}

#[test]
fn asked_to_stop_it_stops_and_says_so() {
    let slow = "kind: command\ntarget: [sh, -c, \"touch asked; exec sleep 600\"]\ntimeout: 10m\nexpect: {last: \"> 0\"}";
    let watch = Watch::new(slow);
    let mut command = support::tool("verify", watch.folder.path());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    support::wait_until("the source to be asked", || watch.folder.path().join("asked").exists());
    let killed =
        std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let document = support::json(&watch.folder.path().join("evidence/verify.json"));
    assert_eq!(document["findings"][0]["verdict"], "error");
    assert_eq!(document["metrics"][0]["outcome"], "interrupted", "{document:#}");
}

/// A busy machine leaves gaps between scrapes.
const QUEUE: &str = "last_over_time(queue[10m])";

#[test]
fn prometheus_tells_what_is_live() {
    let exporter = Exporter::start("orders_total 0\nqueue{shop=\"a\"} 5\nqueue{shop=\"b\"} 7\n");
    let mut prometheus = Prometheus::start(&[exporter.target()]);
    prometheus.wait_for("queue");
    let url = prometheus.url();
    let metric = |query: &str, more: &str| {
        format!(
            "kind: prometheus\ntarget: {url}\nwith: {{query: '{query}'}}\nstep: 1s\nover: 5s\nmay_be_constant: true\n{more}"
        )
    };
    prometheus.wait_for("last_over_time(queue[10m] offset 7s)");
    let queue = format!("sum({QUEUE})");
    let watch = Watch::new(&metric(&queue, "expect: {mean: \"<= 12\", samples: \">= 4\"}"));
    let (code, finding, record) = watch.look("mean");
    assert_eq!((code, record["value"].as_f64()), (0, Some(12.0)), "{finding}");
    assert_eq!((&finding["kind"], &finding["evidence"]["query"]), (&json!("prometheus"), &json!(queue)));
    assert_eq!(Watch::new(&metric(&queue, "expect: {last: \"> 99\"}")).outcome("last"), (1, "fail".into()));
    // Two series where one is meant, one that is not there, a query that is none, 0 through 0.
    let (code, finding, record) = Watch::new(&metric(QUEUE, "expect: {last: \"> 0\"}")).look("last");
    assert_eq!((code, record["outcome"].as_str()), (4, Some("several_series")), "{finding}");
    assert!(finding["message"].as_str().unwrap().contains("shop=\"a\""), "{finding}");
    for (query, outcome, code) in [
        ("qeue", "no_data", 3),
        ("sum(", "query_error", 4),
        (
            "sum(last_over_time(orders_total[10m])) / sum(last_over_time(orders_total[10m]))",
            "not_a_number",
            4,
        ),
    ] {
        assert_eq!(
            Watch::new(&metric(query, "expect: {last: \">= 0\"}")).outcome("last"),
            (code, outcome.into())
        );
    }
    // It has no yesterday, and no week.
    let compared = Watch::new(&metric(&queue, "compare: {before: 1d}"));
    assert_eq!(compared.outcome("compare"), (3, "no_data".into()));
    let trend = Watch::new(&metric(&queue, "trend: {over: 7d, crosses: \"> 100\", within: 1d}"));
    assert_eq!(trend.outcome("trend").0, 3);
    prometheus.kill();
    let dead = Watch::new(&metric(&queue, "timeout: 1s\nretries: 1\nexpect: {last: \"> 0\"}"));
    assert_eq!(dead.outcome("last"), (4, "not_answered".into()));
}
