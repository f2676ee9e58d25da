//! The way back holds when the disk is full, when people act, when signals come and sides hang.

use std::time::Instant;

use super::*;

impl Stage {
    fn reason(&self) -> String {
        self.promotion()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// Puts a folder in a file's place; the job may be about to write the file once more.
fn block(place: &Path) {
    wait_until("the folder", || {
        let _ = std::fs::remove_file(place);
        std::fs::create_dir(place).is_ok()
    });
}

#[test]
fn traffic_goes_back_although_nothing_can_be_written() {
    let stage = Stage::new(LONG, "");
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let saved = std::fs::read(stage.state()).unwrap();
    // A folder in a file's place: every write of it fails, as on a full disk.
    let places = [
        stage.state(),
        stage.path().join(".trapkey/production/journal.jsonl"),
        stage.path().join("evidence/promote.json"),
    ];
    for place in &places {
        block(place);
    }
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    let ended = child.wait_with_output().unwrap();
    stage.assert_all_blue();
    assert_eq!(ended.status.code(), Some(4));
    for place in &places {
        std::fs::remove_dir(place).unwrap();
    }
    // The record on disk is that of before: what was taken off green must not come back to it.
    std::fs::write(stage.state(), saved).unwrap();
    stage.green.answers.fail_every.store(0, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 1);
    stage.assert_all_blue();
    assert_eq!(stage.promotion()["outcome"], "rolled_back");
}

#[test]
fn a_step_that_cannot_be_put_on_record_does_not_stand_there_unwatched() {
    let (stage, child) = paused();
    stage.wait_for_the_hold("paused it before step 2");
    block(&stage.state());
    // As `resume` does, which would read the state: the next step is due, and cannot be put on record.
    std::fs::remove_file(stage.path().join(".trapkey/production/pause.json")).unwrap();
    let ended = child.wait_with_output().unwrap();
    stage.assert_all_blue();
    assert_eq!(ended.status.code(), Some(4));
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("cannot be put on record"), "{reason}");
}

#[test]
fn a_page_that_cannot_be_written_leaves_no_step_unwatched() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 50%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(stage.promote(&["pause"]).code, 0);
    stage.end_the_bake();
    let child = stage.spawn(&["run"]);
    stage.wait_for_the_hold("paused it before step 2");
    let page = stage.path().join("evidence/promote.json");
    block(&page);
    assert_eq!(stage.promote(&["resume"]).code, 0);
    wait_until("step 2", || stage.haproxy.server("green").0 == 50);
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(4));
    stage.assert_all_blue();
    std::fs::remove_dir(&page).unwrap();
    assert_eq!(stage.promote(&["step"]).code, 1);
    assert_eq!(stage.promotion()["outcome"], "rolled_back");
}

#[test]
fn an_abort_works_on_a_full_disk() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let mut full = Command::new("sh");
    full.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" abort"])
        .arg(crate::support::binary("promote"))
        .current_dir(stage.path());
    let aborted = run(&mut full);
    stage.assert_all_blue();
    assert_eq!(aborted.code, 4, "{}", aborted.stderr);
    assert!(aborted.stderr.contains("not all of it is on record"), "{}", aborted.stderr);
    assert_eq!(stage.promote(&["step"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn an_abort_while_the_old_side_is_sick_stands_still_and_ends() {
    let stage = Stage::new(LONG, "");
    let mut child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    stage.blue.answers.health.store(500, Ordering::SeqCst);
    let mut abort = stage.spawn(&["abort"]);
    // It must not try for ever.
    let ended = wait_for("the abort", || abort.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let _ = child.kill();
    child.wait().unwrap();
    assert_eq!(stage.promotion()["outcome"], "frozen");
    assert_eq!(stage.haproxy.server("green").0, 50);
    stage.blue.answers.health.store(200, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn an_abort_during_the_last_hook_still_wins() {
    let hook = "echo > began; until [ -e .trapkey/production/abort.json ]; do sleep 0.05; done";
    let stage = Stage::new(SHORT, &format!("  hooks: {{after: [sh, -c, \"{hook}\"]}}\n"));
    let child = stage.spawn(&["run"]);
    wait_until("the hook", || stage.path().join("began").exists());
    let aborted = stage.promote(&["abort"]);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    assert_eq!(stage.promotion()["outcome"], "rolled_back");
}

#[test]
fn a_hook_that_was_lost_is_no_proof_that_green_has_everything() {
    let mut stage = Stage::new(SHORT, "  hooks: {after: [sh, -c, \"echo $$ > hook.txt; exec sleep 600\"]}\n");
    let mut child = stage.spawn(&["run"]);
    let hook = stage.path().join("hook.txt");
    wait_until("the hook", || std::fs::read_to_string(&hook).is_ok_and(|text| text.ends_with('\n')));
    child.kill().unwrap();
    child.wait().unwrap();
    let pid = std::fs::read_to_string(&hook).unwrap();
    assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
    stage.haproxy.restart();
    assert_eq!(stage.promote(&["step"]).code, 0);
    stage.assert_all_green();
    assert_eq!(stage.promotion()["outcome"], "promoted");
}

#[test]
fn a_signal_is_no_reason_to_call_green_unhealthy() {
    let stage = Stage::new(SHORT, "");
    stage.edit("healthy_within: 60s", "healthy_within: 10m");
    stage.green.answers.health.store(503, Ordering::SeqCst);
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("checking_green");
    terminate(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
    assert_eq!(stage.phase(), "checking_green");
    stage.green.answers.health.store(200, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 0);
}

/// A hook that pages people, and not before the test says so.
const PAGES: &str =
    "  hooks: {on_rollback: [sh, -c, \"until [ -e go ]; do sleep 0.05; done; echo paged > paged.txt\"]}\n";

/// The phases of a way back that has not come to its end.
const GOING_BACK: [&str; 4] = ["checking_blue", "rolling_back", "retiring_green", "running_on_rollback"];

#[test]
fn a_signal_during_a_rollback_cuts_neither_it_nor_its_hook_short() {
    let stage = Stage::new(LONG, PAGES);
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    // Blue answers slowly, so that the signal comes while its health is looked at; on a slow machine it
    // may come as late as in the hook, which waits for it.
    stage.blue.answers.delay_ms.store(150, Ordering::SeqCst);
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    wait_until("the way back", || GOING_BACK.contains(&stage.phase().as_str()));
    terminate(&child);
    std::fs::write(stage.path().join("go"), "").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    assert!(stage.path().join("paged.txt").exists(), "people are called although a signal came");
}

#[test]
fn nginx_goes_back_after_a_signal_too() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let nginx = Nginx::start(folder.path(), blue.port, green.port);
    let text = plan(&nginx.router(blue.port, green.port), &blue, &green, LONG, PAGES);
    std::fs::write(folder.path().join("release.yaml"), &text).unwrap();
    let child = tool("promote", folder.path()).arg("run").stderr(Stdio::null()).spawn().unwrap();
    let phase = || {
        let bytes = std::fs::read(folder.path().join(".trapkey/production/state.json")).unwrap_or_default();
        let state: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        state["record"]["state"]["phase"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("baking", || phase() == "baking");
    blue.answers.delay_ms.store(150, Ordering::SeqCst);
    green.answers.fail_every.store(2, Ordering::SeqCst);
    wait_until("the way back", || GOING_BACK.contains(&phase().as_str()));
    terminate(&child);
    std::fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert!(nginx.names_only(blue.port), "{}", nginx.held());
}

#[test]
fn nginx_that_was_taken_back_by_hand_stays_back() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let nginx = Nginx::start(folder.path(), blue.port, green.port);
    let text = plan(&nginx.router(blue.port, green.port), &blue, &green, LONG, "");
    std::fs::write(folder.path().join("release.yaml"), &text).unwrap();
    assert_eq!(call("promote", folder.path(), &["start"]).code, 0);
    let document = json(&folder.path().join("evidence/promote.json"));
    for command in document["promotion"]["router"]["by_hand"].as_array().unwrap() {
        assert!(
            Command::new("sh").args(["-c", command.as_str().unwrap()]).output().unwrap().status.success()
        );
    }
    // A reload takes its time, and while it is under way old workers answer as well.
    let client = trapkey::world::http::Client::new(ANSWER);
    let on_blue = || {
        client.get(&nginx.url()).is_ok_and(|answer| answer.header("x-release").is_some_and(|by| by == "1.0"))
    };
    wait_until("the reload", || (0..40).all(|_| on_blue()));
    let stepped = call("promote", folder.path(), &["step"]);
    assert_eq!(stepped.code, 1, "{}", stepped.stderr);
    assert!(nginx.names_only(blue.port), "{}", nginx.held());
}

#[test]
fn users_that_people_took_off_green_are_not_put_back_on_it() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.haproxy.ask("set server shop/blue weight 100; set server shop/green state maint");
    let stepped = stage.promote(&["step"]);
    assert_eq!(stepped.code, 1, "{}", stepped.stderr);
    assert!(stage.reason().contains("somebody has taken it off green"), "{}", stage.reason());
    stage.assert_all_blue();
}

#[test]
fn more_on_green_than_the_step_allows_is_taken_down_again() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.haproxy.ask("set server shop/green weight 200");
    assert_eq!(stage.promote(&["step"]).code, 0);
    assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (90, 10));
}

#[test]
fn a_router_with_both_sides_closed_can_still_be_taken_back() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.haproxy.ask("set server shop/blue state maint; set server shop/green state maint");
    let aborted = stage.promote(&["abort"]);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    stage.assert_all_blue();
}

#[test]
fn a_failure_that_is_over_counts_for_the_whole_elapsed_window() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..100 {
        let _ = client.get(&stage.haproxy.url());
    }
    // When the next step looks, green is well again.
    stage.green.answers.fail_every.store(0, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 1);
    assert!(stage.reason().contains("(haproxy)"), "{}", stage.reason());
    stage.assert_all_blue();
}

#[test]
fn what_a_router_counted_before_the_step_is_never_judged() {
    let stage = Stage::new(LONG, "");
    // An earlier release failed on this side.
    stage.haproxy.ask("set server shop/green weight 100");
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..100 {
        let _ = client.get(&stage.haproxy.url());
    }
    stage.green.answers.fail_every.store(0, Ordering::SeqCst);
    stage.haproxy.ask("set server shop/green weight 0");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let mut state = json(&stage.state());
    assert_eq!(state["record"]["state"]["phase"], "baking");
    state["record"]["base"] = Value::Null;
    std::fs::write(stage.state(), state.to_string()).unwrap();
    // The looks on record would tell it too.
    for entry in std::fs::read_dir(stage.state().parent().unwrap()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("samples.") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    // Neither those old failures count, nor does a window count that only the newest probes have seen.
    stage.end_the_bake();
    let stepped = stage.promote(&["step"]);
    assert_eq!((stepped.code, stage.phase().as_str()), (0, "baking"), "{}", stepped.stderr);
    stage.step_to_the_end(&[]);
    stage.assert_all_green();
}

#[test]
fn a_clock_that_was_set_back_wedges_nothing() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let mut state = json(&stage.state());
    let since = state["record"]["state"]["since_ms"].as_i64().unwrap();
    state["record"]["state"]["since_ms"] = (since + 86_400_000).into();
    std::fs::write(stage.state(), state.to_string()).unwrap();
    let stepped = stage.promote(&["step"]);
    assert_eq!(stepped.code, 0, "{}", stepped.stderr);
    assert_eq!(stage.phase(), "baking", "how long it was watched is not known, so it is watched anew");
    stage.end_the_bake();
    stage.step_to_the_end(&[]);
    stage.assert_all_green();
}

#[test]
fn an_abort_under_a_newer_plan_is_about_the_release_that_it_ends() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.edit("backend: shop", "backend: shop  ");
    stage.edit("haproxy.sock", "other.sock");
    // Who goes on is refused, and told what goes back; that goes by what the promotion began with.
    let refused = stage.promote(&["step"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("promote abort --plan "), "{}", refused.stderr);
    let aborted = stage.promote(&["abort", "--set", "VERSION=2.0"]);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    assert!(aborted.stderr.contains("another router"), "{}", aborted.stderr);
    stage.assert_all_blue();
    assert_eq!(stage.document()["release"]["version"], "1.1");
}

#[test]
fn a_green_that_hangs_is_left_long_before_its_time_limit() {
    let stage = Stage::new(LONG, "");
    // A request may take ten minutes before it counts as failed, and no test waits for as long.
    stage.edit("requests: 20, timeout: 60s", "requests: 20, timeout: 10m");
    stage.edit("> 20s", "> 2s");
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let before = stage.green.served();
    wait_until("some probes", || stage.green.served() >= before + 50);
    stage.green.answers.delay_ms.store(600_000, Ordering::SeqCst);
    let started = Instant::now();
    wait_until("green to be left", || stage.haproxy.server("green").0 == 0);
    figure(&format!(
        "a hanging green was left after {:?}, with a time limit of 10 minutes",
        started.elapsed()
    ));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
}

#[test]
fn from_the_verdict_to_the_read_back_is_a_moment() {
    let mut took: Vec<f64> = (0..rounds(3))
        .map(|_| {
            let stage = Stage::new(LONG, "");
            stage.green.answers.fail_every.store(2, Ordering::SeqCst);
            assert_eq!(stage.promote(&["run"]).code, 1);
            // Nothing stands in between but the look at blue.
            let journal = stage.journal();
            let bad = journal.iter().position(|line| line["did"]["look"] == "bad").unwrap();
            let between: Vec<&Value> =
                journal[bad..].iter().map(|line| &line["does"]).filter(|does| does.is_object()).collect();
            assert_eq!(between[0]["check_health"], "blue", "{between:?}");
            assert_eq!((&between[1]["shift"], &between[1]["rollback"]), (&0.0.into(), &true.into()));
            stage.promotion()["rollback"]["took_ms"].as_f64().unwrap()
        })
        .collect();
    took.sort_by(f64::total_cmp);
    let (p50, max) = (took[took.len() / 2], took[took.len() - 1]);
    figure(&format!("rollbacks {}, verdict to read back p50 {p50:.1} ms, max {max:.1} ms", took.len()));
}
