//! What could make a judge pass what it should not, or take good for bad: jobs that die, clocks that are
//! set, sources that are slow to answer.

use std::fmt::Write;

use super::clocks::ahead;
use super::*;

const LOG: &str = "  metrics: [{name: users, kind: json_log, target: users.jsonl, delay: 0s, \
                   with: {time: t, side: side, status: status, duration: took}}]\n";
const ERRORS: &str = "  rollback_when: [{metric: error_rate, is: \"> 5%\"}]\n";

fn stage(steps: &str, rules: &str) -> Stage {
    let stage = Stage::new(steps, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let usual = text.lines().find(|line| line.starts_with("  rollback_when:")).unwrap().to_owned();
    std::fs::write(&path, text.replace(&format!("{usual}\n"), rules)).unwrap();
    stage
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Lines of a log: so many requests to each side, of which green fails all or none.
fn lines(at_ms: i64, requests: usize, green: u16) -> String {
    let mut text = String::new();
    for _ in 0..requests {
        writeln!(text, "{{\"t\": {at_ms}, \"side\": \"blue\", \"status\": 200, \"took\": 5}}").unwrap();
        writeln!(text, "{{\"t\": {at_ms}, \"side\": \"green\", \"status\": {green}, \"took\": 5}}").unwrap();
    }
    text
}

/// Whether the newest judgement knows of the hundred requests that users made, once: those that were made at the
/// front door are counted by HAProxy as well, a few of them before their answer is there.
fn has_seen_a_hundred_users(stage: &Stage) {
    let judgement = stage.promotion()["judgements"].as_array().unwrap().last().unwrap().clone();
    let ours = judgement["front_door"]["requests"].as_u64().unwrap();
    let users = seen(stage, "haproxy") - ours;
    assert!((100..=150).contains(&users), "{users} of users, {ours} of ours");
}

/// Requests that a source has seen on both sides, by the newest judgement.
fn seen(stage: &Stage, source: &str) -> u64 {
    let promotion = stage.promotion();
    let judgement = promotion["judgements"].as_array().unwrap().last().unwrap().clone();
    let metrics = judgement["metrics"].as_array().unwrap();
    let metric = metrics.iter().find(|m| m["source"] == source && m["metric"] == "error_rate").unwrap();
    metric["blue_samples"].as_u64().unwrap() + metric["green_samples"].as_u64().unwrap()
}

#[test]
fn a_job_that_dies_between_its_samples_and_its_record_counts_no_request_twice() {
    let stage = Stage::new("[{weight: 50%, bake: 1h}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let state = stage.path().join(".trapkey/production/state.json");
    let before = std::fs::read(&state).unwrap();
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..100 {
        client.get(&stage.haproxy.url()).unwrap();
    }
    assert_eq!(stage.promote(&["step"]).code, 0);
    has_seen_a_hundred_users(&stage);
    // Its samples were on record, and then it was gone.
    std::fs::write(&state, before).unwrap();
    let again = stage.promote(&["step"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    has_seen_a_hundred_users(&stage);
    assert_eq!(stage.promote(&["abort"]).code, 1);
}

#[test]
fn samples_that_were_lost_lose_no_request_that_the_router_counted() {
    let stage = Stage::new("[{weight: 50%, bake: 1h}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..100 {
        client.get(&stage.haproxy.url()).unwrap();
    }
    assert_eq!(stage.promote(&["step"]).code, 0);
    for entry in std::fs::read_dir(stage.path().join(".trapkey/production")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("samples.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(stage.promote(&["step"]).code, 0);
    has_seen_a_hundred_users(&stage);
    assert_eq!(stage.promote(&["abort"]).code, 1);
}

#[test]
fn a_clock_that_was_set_back_hides_no_errors_of_users() {
    let stage = stage("[{weight: 50%, bake: 1h}, {weight: 100%}]", &format!("{LOG}{ERRORS}"));
    let log = stage.path().join("users.jsonl");
    let hour = 3_600_000;
    let old = lines(now_ms() - 2 * hour, 1, 200);
    std::fs::write(&log, &old).unwrap();
    assert_eq!(stage.promote(&["start"]).code, 0);
    let first = stage.promote(&["step"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    // The clock was an hour fast; what users meet is written by the right one.
    std::fs::write(&log, format!("{old}{}", lines(now_ms() - hour, 100, 500))).unwrap();
    let second = ahead(&stage, -60, &["step"]);
    assert_eq!(second.code, 1, "{}", second.stderr);
    stage.assert_all_blue();
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("(users)"), "{reason}");
}

#[test]
fn the_last_step_is_not_taken_before_a_slow_log_was_read() {
    let rules = format!("{LOG}{ERRORS}");
    let stage = stage(LONG, &rules);
    let log = stage.path().join("users.jsonl");
    std::fs::write(&log, lines(now_ms() - 10_000, 1, 200)).unwrap();
    assert_eq!(stage.promote(&["start"]).code, 0);
    // So many that the first look comes before they are read, and the bake is over by then.
    std::fs::write(&log, lines(now_ms() - 10_000, 1, 200) + &lines(now_ms(), 60_000, 500)).unwrap();
    stage.end_the_bake();
    assert_eq!(stage.promote(&["run"]).code, 1);
    stage.assert_all_blue();
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("(users)"), "{reason}");
}

#[test]
fn a_plan_that_can_never_pass_or_never_fire_is_refused_in_words() {
    let file = |more: &str| {
        format!("  metrics: [{{name: orders, kind: file, target: '{{{{ side }}}}.csv'{more}}}]\n")
    };
    let when = |trigger: &str| format!("  rollback_when: [{{{trigger}}}]\n");
    let orders = when("metric: orders, is: \"> 1\"");
    let two = "  metrics: [{name: orders, kind: file, target: '{{ side }}.csv'}, {name: orders, kind: file, target: '{{ side }}-2.csv'}]\n";
    for (rules, says) in [
        (format!("{two}{orders}"), "another metric has the same name"),
        (file(", step: 0s") + &orders, "its `step` is 0"),
        (file(", timeout: 0s") + &orders, "its `timeout` is 0"),
        (file(", retries: 4294967295") + &orders, "its `retries` are 20 at most"),
        (file("") + &when("metric: orders, is: \"> 1\", over: 20s"), "it is 1 min at least"),
        (
            file("") + &when("metric: orders, worse_than_baseline_by: 5%, at_least: -5"),
            "`at_least` is 0 at least",
        ),
        (LOG.to_owned() + &when("metric: users, is: \"> 1\""), "write `metric: error_rate, source: users`"),
        (
            when("metric: latency_p95, is: \"> 1s\", source: haproxy"),
            "haproxy only counts: it has no `latency_p95`",
        ),
        (when("metric: error_rate, is: \"> 1%\", over: 100ms, source: probe"), "it would never pass"),
        (when("metric: error_rate, is: \"> 1%\", over: 0s"), "`over` is longer than 0"),
        (when("metric: error_rate, is: \"> 100%\""), "would not fire although every request failed"),
        (when("metric: error_rate, is: \">= 0%\""), "would fire without a single error"),
    ] {
        let stage = stage("[{weight: 50%, bake: 60s}, {weight: 100%}]", &rules);
        let planned = stage.promote(&["plan"]);
        assert_eq!(planned.code, 2, "{rules}{}", planned.stdout);
        assert!(planned.stderr.contains(says), "{rules}{}", planned.stderr);
    }
}
