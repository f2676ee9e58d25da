//! The words of a plan: how long, over which time, how fast, in the score, and by Kayenta.

use std::time::Instant;

use super::*;

/// The reason of a release that has come back.
fn came_back(stage: &Stage) -> String {
    stage.assert_all_blue();
    assert_replays(stage.path());
    stage.promotion()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_threshold_fires_when_it_was_crossed_for_as_long_as_the_plan_says() {
    let rules = |long: &str| {
        format!("  rollback_when: [{{metric: error_rate, is: \"> 20%\", over: 500ms, for: {long}}}]\n")
    };
    let stage = judged(LONG, &rules("9m"));
    assert_eq!(stage.promote(&["start"]).code, 0);
    // A burst that is over sooner is forgiven …
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    wait_until("the burst to be seen", || {
        assert_eq!(stage.promote(&["step"]).code, 0);
        stage.promotion()["judgements"].to_string().contains("not_yet")
    });
    stage.green.answers.fail_every.store(0, Ordering::SeqCst);
    stage.end_the_bake();
    stage.step_to_the_end(&[]);
    stage.assert_all_green();
    assert_replays(stage.path());
    // … and one that stays is not.
    let stage = judged(LONG, &rules("1500ms"));
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let began = Instant::now();
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    let reason = came_back(&stage);
    assert!(reason.contains("at every look for"), "{reason}");
}

#[test]
fn a_threshold_over_the_newest_time_sees_what_the_whole_bake_hides() {
    let rules = "  rollback_when: [{metric: error_rate, is: \"> 90%\", over: 1s}]\n";
    let stage = judged(LONG, rules);
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    wait_until("a good beginning", || stage.green.served() >= 300);
    let good = stage.green.served();
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    // Over the whole bake ninety percent would take nine bad requests for each good one.
    let all = stage.green.served();
    assert!(all < 10 * good, "{good} good ones of {all}");
    let reason = came_back(&stage);
    assert!(reason.contains("error_rate"), "{reason}");
}

#[test]
fn errors_that_burn_the_objective_in_both_windows_roll_back() {
    let rules = "  rollback_when: [{metric: error_rate, burn_rate: {objective: 99%, windows: [{long: 2s, short: 500ms, above: 10}]}}]\n";
    let stage = judged("[{weight: 50%, bake: 3s}, {weight: 100%}]", rules);
    // Two percent burn twice what 99 % allow.
    stage.green.answers.fail_every.store(50, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_replays(stage.path());
    let stage = judged(LONG, rules);
    stage.green.answers.fail_every.store(4, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let reason = came_back(&stage);
    assert!(reason.contains("times what 99 % allows in 2 s"), "{reason}");
}

#[test]
fn what_is_not_critical_counts_in_the_score_alone() {
    let rules = |pass: u32, marginal: u32| {
        format!(
            "  judge: {{score: {{pass: {pass}, marginal: {marginal}}}}}\n  rollback_when:\n    - {{metric: error_rate, is: \"> 5%\", weight: 3}}\n    \
             - {{metric: latency_p95, is: \"> 100ms\", critical: false, weight: 1}}\n"
        )
    };
    // Slow, but three quarters of the score are there.
    let stage = judged("[{weight: 50%, bake: 1s}, {weight: 100%}]", &rules(70, 50));
    stage.green.answers.delay_ms.store(150, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let last = stage.promotion()["judgements"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["score"], 75.0, "{last:#}");
    assert_eq!(newest(&stage.promotion(), "latency_p95", "probe")["verdict"], "fail");
    assert_replays(stage.path());
    let stage = judged(LONG, &rules(95, 90));
    stage.green.answers.delay_ms.store(150, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let reason = came_back(&stage);
    assert!(reason.contains("score 75 of 100"), "{reason}");
}

#[test]
fn kayenta_s_rules_judge_where_the_plan_says_so() {
    let rules = "  judge: {kind: kayenta, score: {pass: 95, marginal: 75}}\n  rollback_when:\n    - {metric: latency_p50, worse_than_baseline_by: 20%, source: probe}\n    \
                 - {metric: error_rate, is: \"> 5%\"}\n";
    let stage = judged("[{weight: 50%, bake: 5s}, {weight: 100%}]", rules);
    // Much slower than what a busy machine adds, and adds to both.
    stage.edit("rate: 100/s", "rate: 50/s");
    for side in [&stage.blue, &stage.green] {
        side.answers.delay_ms.store(200, Ordering::SeqCst);
    }
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let seen = newest(&stage.promotion(), "latency_p50", "probe");
    assert_eq!(seen["test"]["name"], "kayenta", "{seen:#}");
    assert_replays(stage.path());
    let stage = judged("[{weight: 50%, bake: 10s}, {weight: 100%}]", rules);
    stage.edit("rate: 100/s", "rate: 50/s");
    stage.blue.answers.delay_ms.store(200, Ordering::SeqCst);
    stage.green.answers.delay_ms.store(450, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let reason = came_back(&stage);
    assert!(reason.contains("latency_p50 is High"), "{reason}");
    assert_eq!(newest(&stage.promotion(), "latency_p50", "probe")["outcome"], "high");
}

#[test]
fn the_bare_word_kayenta_is_its_kind_and_says_what_it_needs() {
    let rules = "  judge: kayenta\n  rollback_when: [{metric: latency_p50, worse_than_baseline_by: 20%}]\n";
    let stage = judged(LONG, rules);
    let ended = stage.promote(&["plan"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("judge: {kind: kayenta, score: {pass: 95, marginal: 75}}"),
        "{}",
        ended.stderr
    );
    let stage = judged("[{weight: 50%, bake: 30s}, {weight: 100%}]", &rules.replace("kayenta", "trapkey"));
    let planned = stage.promote(&["plan"]);
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    assert!(
        planned.stdout.contains("what the comparisons can see:\n  in 30 s (step 1):"),
        "{}",
        planned.stdout
    );
    assert!(
        planned.stdout.contains("of 100 good releases at most 1 go back by chance"),
        "{}",
        planned.stdout
    );
    let stage = judged(LONG, &rules.replace("kayenta", "kayentta"));
    let ended = stage.promote(&["plan"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("kayenta") && ended.stderr.contains("release.yaml:"), "{}", ended.stderr);
}
