//! `promote replay`: every verdict is reached again from the samples, or it is told that it is not.

use super::super::bucket::Fleet;
use super::*;
use crate::support::side::Side;

const SLOW: &str = "  rollback_when:\n    - {metric: error_rate, is: \"> 5%\"}\n    - {metric: latency_p95, is: \"> 20s\"}\n    \
                    - {metric: latency_p50, worse_than_baseline_by: 50%, at_least: 10s}\n";

fn fail(side: &Side, every: u32) {
    side.answers.fail_every.store(every, Ordering::SeqCst);
}

/// A release that its errors have brought back.
fn brought_back() -> Stage {
    let stage = judged(LONG, SLOW);
    fail(&stage.green, 4);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage
}

#[test]
fn a_run_is_replayed_step_by_step() {
    let stage = judged("[{weight: 10%, bake: 1s}, {weight: 50%, bake: 1s}, {weight: 100%}]", SLOW);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_replays(stage.path());
    let promotion = stage.promotion();
    let looks = samples(stage.path()).len();
    assert_eq!(promotion["samples"]["looks"], looks);
    let again = stage.promote(&["replay", "--json"]);
    let told: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&told["same"], &told["looks"]), (&true.into(), &looks.into()));
    assert_eq!(
        told["judgements"].as_array().unwrap().len(),
        promotion["judgements"].as_array().unwrap().len()
    );
    // Neither the record nor the router is touched.
    assert_eq!(stage.promotion(), promotion);
    assert_replays(brought_back().path());
}

#[test]
fn a_chain_of_steps_on_other_machines_is_replayed() {
    let steps = "[{weight: 10%, bake: 1s}, {weight: 50%, bake: 1s}, {weight: 100%}]";
    for bad in [false, true] {
        let fleet = Fleet::new(steps, "");
        with_rules(fleet.stage.path(), SLOW);
        let first = fleet.runner();
        assert_eq!(fleet.promote(first.path(), &["start"]).code, 0);
        if bad {
            fail(&fleet.stage.green, 3);
        }
        let mut calls = 0;
        let last = wait_for("the end of the chain", || {
            // Each call on a machine of its own: it has the plan, and the store.
            let runner = fleet.runner();
            let ended = fleet.promote(runner.path(), &["step"]);
            calls += 1;
            let outcome = json(&runner.path().join("evidence/promote.json"))["promotion"]["outcome"].clone();
            if outcome == "promoted" || outcome == "rolled_back" {
                assert_eq!(ended.code, i32::from(bad), "{}", ended.stderr);
                return Some(runner);
            }
            assert_eq!(ended.code, 0, "{}", ended.stderr);
            None
        });
        // No call takes two steps.
        assert!(bad || calls >= 2, "{calls}");
        assert_replays(last.path());
        let seen = samples(last.path());
        assert!(seen.len() >= calls, "{} looks in {calls} calls", seen.len());
        // No probe is judged twice.
        let mut moments: Vec<i64> = seen.iter().map(|line| line["at_ms"].as_i64().unwrap()).collect();
        let all = moments.len();
        moments.dedup();
        assert_eq!(moments.len(), all);
    }
}

#[test]
fn a_job_that_was_killed_in_a_bake_and_the_call_after_it_are_replayed() {
    for bad in [false, true] {
        // A bad one does not wait for the end of its bake.
        let stage = judged(if bad { LONG } else { "[{weight: 50%, bake: 4s}, {weight: 100%}]" }, SLOW);
        let mut child = stage.spawn(&["run"]);
        // On a slow machine a good one may come to its end before it is killed.
        wait_until("some looks", || stage.green.served() >= 100);
        child.kill().unwrap();
        child.wait().unwrap();
        if bad {
            fail(&stage.green, 2);
        }
        wait_until("the end", || {
            let ended = stage.promote(&["step"]);
            assert!([0, 1].contains(&ended.code), "{}", ended.stderr);
            ["promoted", "rolled_back"].contains(&stage.outcome().as_str())
        });
        assert_eq!(stage.outcome(), if bad { "rolled_back" } else { "promoted" });
        assert_replays(stage.path());
    }
}

#[test]
fn a_byte_that_was_flipped_in_the_samples_is_refused() {
    let stage = brought_back();
    let path = stage.path().join("evidence/promote.samples.jsonl.gz");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ended = stage.promote(&["replay"]);
    assert_eq!(ended.code, 5, "{}", ended.stdout);
    assert!(ended.stderr.contains("promote.samples.jsonl.gz"), "{}", ended.stderr);
    assert!(ended.stderr.contains("are not those that `promote.json` names"), "{}", ended.stderr);
}

#[test]
fn samples_that_somebody_edited_with_their_digest_do_not_reach_the_verdicts() {
    let stage = brought_back();
    let mut lines = samples(stage.path());
    for line in &mut lines {
        for given in line["given"].as_array_mut().unwrap() {
            let Some(sides) = given["requests"].as_array_mut() else { continue };
            for bin in sides.iter_mut().flat_map(|side| side["bins"].as_array_mut().unwrap()) {
                bin.as_object_mut().unwrap().remove("e");
            }
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text.as_bytes()).unwrap();
    let bytes = packer.finish().unwrap();
    let mut document = stage.document();
    document["promotion"]["samples"]["sha256"] = trapkey::evidence::sha256_hex(&bytes).into();
    std::fs::write(stage.path().join("evidence/promote.samples.jsonl.gz"), bytes).unwrap();
    std::fs::write(stage.path().join("evidence/promote.json"), document.to_string()).unwrap();
    let ended = stage.promote(&["replay"]);
    assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("not every verdict is reached again"), "{}", ended.stdout);
    assert!(ended.stdout.contains("error_rate (probe)"), "{}", ended.stdout);
}

#[test]
fn without_samples_it_is_clear_what_is_missing() {
    let stage = brought_back();
    std::fs::remove_file(stage.path().join("evidence/promote.samples.jsonl.gz")).unwrap();
    let ended = stage.promote(&["replay"]);
    assert_eq!(ended.code, 5, "{}", ended.stdout);
    assert!(ended.stderr.contains("pass the file on together with promote.json"), "{}", ended.stderr);
    let mut document = stage.document();
    document["promotion"].as_object_mut().unwrap().remove("samples");
    std::fs::write(stage.path().join("evidence/promote.json"), document.to_string()).unwrap();
    let ended = stage.promote(&["replay"]);
    assert_eq!(ended.code, 5, "{}", ended.stdout);
    assert!(ended.stderr.contains("names no samples"), "{}", ended.stderr);
}

#[test]
fn what_was_released_need_not_be_at_hand_and_another_plan_is_refused() {
    let stage = judged("[{weight: 50%, bake: 1s}, {weight: 100%}]", SLOW);
    let path = stage.path().join("release.yaml");
    let plan = std::fs::read_to_string(&path).unwrap();
    let plan = plan.replace("version: \"${VERSION:-1.1}\"", "version: \"1.1\", artifacts: [shop.tar]");
    std::fs::write(&path, &plan).unwrap();
    std::fs::write(stage.path().join("shop.tar"), "what is released").unwrap();
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    std::fs::remove_file(stage.path().join("shop.tar")).unwrap();
    assert_replays(stage.path());
    std::fs::write(&path, plan.replace("> 20s", "> 19s")).unwrap();
    let refused = stage.promote(&["replay"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("promote plan --on"), "{}", refused.stderr);
}
