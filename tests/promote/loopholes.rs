//! Ways around a gate or past the judge that were open once.

use super::gates::key;
use super::*;
use crate::support::command_router::CommandRouter;

/// What promotes with signatures.
const SIGNED: [&str; 4] = ["--trust", "trust", "--sign-key", "ci.key"];

fn signed(stage: &Stage, arguments: &[&str]) -> Ended {
    stage.promote(&[arguments, &SIGNED].concat())
}

/// A hook that has deployed green when the test says so.
const DEPLOYS: &str = "  hooks: {deploy: [sh, -c, \"until [ -e go ]; do sleep 0.05; done\"]}\n";

#[test]
fn a_pause_while_green_is_deployed_holds_the_first_step_too() {
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", DEPLOYS);
    let job = stage.spawn(&["run"]);
    stage.wait_for_phase("deploying");
    let paused = stage.promote(&["pause"]);
    assert_eq!(paused.code, 0, "{}", paused.stderr);
    std::fs::write(stage.path().join("go"), "").unwrap();
    stage.wait_for_the_hold("paused it before step 1");
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("holding", 0));
    assert_eq!(stage.promote(&["resume"]).code, 0);
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(0));
    stage.assert_all_green();
}

#[test]
fn a_paused_first_step_leaves_the_runner_and_can_still_be_called_off() {
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", DEPLOYS);
    let job = stage.spawn(&["start"]);
    stage.wait_for_phase("deploying");
    assert_eq!(stage.promote(&["pause"]).code, 0);
    std::fs::write(stage.path().join("go"), "").unwrap();
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(stage.phase(), "holding");
    assert_eq!(stage.promote(&["step"]).code, 0);
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("holding", 0));
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn an_abort_by_another_service_in_the_same_place_touches_nothing() {
    let stage = Stage::new("[{weight: 50%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let path = stage.path().join("release.yaml");
    let mine = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, mine.replace("service: shop", "service: api")).unwrap();
    for call in [&["abort"][..], &["pause"], &["start", "--supersede"]] {
        let ended = stage.promote(call);
        assert_eq!(ended.code, 5, "{call:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("of another service"), "{call:?}: {}", ended.stderr);
    }
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("baking", 50));
    std::fs::write(&path, mine).unwrap();
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn an_approval_of_a_promotion_before_the_state_was_lost_opens_nothing() {
    let steps = "[{weight: 10%, bake: 200ms, approve: [qa]}, {weight: 100%}]";
    let stage = Stage::new(steps, "");
    key(&stage, "ci", "");
    key(&stage, "qa", "approvers");
    assert_eq!(signed(&stage, &["start"]).code, 3);
    assert_eq!(signed(&stage, &["approve", "--role", "qa", "--key", "qa.key"]).code, 0);
    assert_eq!(signed(&stage, &["abort"]).code, 1);
    // A runner that is set up anew, or a damaged file that was moved away as the message says.
    std::fs::remove_file(stage.path().join(".trapkey/production/state.json")).unwrap();
    let again = signed(&stage, &["start"]);
    assert_eq!(again.code, 3, "{}", again.stderr);
    assert!(again.stderr.contains("is about another promotion"), "{}", again.stderr);
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("holding", 0));
    assert_eq!(signed(&stage, &["approve", "--role", "qa", "--key", "qa.key"]).code, 0);
    assert_eq!(signed(&stage, &["step"]).code, 0);
    assert!(stage.haproxy.server("green").0 >= 10);
}

#[test]
fn an_approval_that_expired_before_its_step_opens_nothing() {
    let steps = "[{weight: 10%, bake: 10m, approve: [qa]}, {weight: 100%, approve: [qa]}]";
    let approve = |stage: &Stage, more: &[&str]| {
        let ended = signed(stage, &[&["approve", "--role", "qa", "--key", "qa.key"][..], more].concat());
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    };
    // A machine that is so slow that it has expired already gets more time.
    let mut seconds = 1;
    let stage = wait_for("an approval that counts while it lasts", || {
        seconds *= 2;
        let stage = Stage::new(steps, "");
        key(&stage, "ci", "");
        key(&stage, "qa", "approvers");
        assert_eq!(signed(&stage, &["start"]).code, 3);
        approve(&stage, &["--step", "1"]);
        approve(&stage, &["--step", "2", "--expires-in", &format!("{seconds}s")]);
        let step = signed(&stage, &["step"]);
        assert!([0, 3].contains(&step.code), "{}", step.stderr);
        (stage.promotion()["approvals"][1]["step"] == 2).then_some(stage)
    });
    std::thread::sleep(Duration::from_secs(seconds));
    stage.end_the_bake();
    let late = signed(&stage, &["step"]);
    assert_eq!(late.code, 3, "{}", late.stderr);
    assert_eq!(stage.haproxy.server("green").0, 10);
    approve(&stage, &["--step", "2"]);
    stage.step_to_the_end(&SIGNED);
    stage.assert_all_green();
    let checked = call("report", stage.path(), &["check", "--trust", "trust"]);
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
}

#[test]
fn users_do_not_go_back_to_something_else_that_answers_in_blues_place() {
    let mut stage = Stage::new("[{weight: 50%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let port = stage.blue.port;
    drop(std::mem::replace(&mut stage.blue, Side::start("1.0")));
    // A front page of a fresh machine, which says of itself nothing.
    let mut listener = None;
    wait_until("the port to be free", || {
        listener = std::net::TcpListener::bind(("127.0.0.1", port)).ok();
        listener.is_some()
    });
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let mut request = [0_u8; 4096];
            let _ = stream.read(&mut request);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 7\r\n\r\nwelcome");
        }
    });
    let ended = stage.promote(&["abort"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(stage.promotion()["outcome"], "frozen");
    assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (50, 50));
    let seen = "it does not say which release it is, and this release began with `1.0` on blue";
    assert!(stage.journal().iter().any(|line| line["did"]["seen"] == seen));
}

#[test]
fn the_old_side_is_not_taken_out_while_nobody_can_see_where_traffic_goes() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let router = CommandRouter::start(folder.path(), blue.port, green.port);
    // The answer fails just when the old side is about to be taken out; taking it out would work.
    let script = folder.path().join("route.sh");
    let text = std::fs::read_to_string(&script).unwrap();
    let state = folder.path().join(".trapkey/production/state.json");
    let text = text.replace(
        "  get)\n",
        &format!(
            "  get)\n    if grep -q '\"phase\":\"retiring_blue\"' {}; then exit 3; fi\n",
            state.display()
        ),
    );
    let text = text.replace("  retire)\n", "  retire)\n    echo \"$2\" >> retired.txt\n");
    std::fs::write(&script, text).unwrap();
    let steps = "[{weight: 100%, bake: 200ms}]";
    let text = plan(&router.router(blue.port, green.port), &blue, &green, steps, "");
    std::fs::write(folder.path().join("release.yaml"), text).unwrap();
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("blue was not taken out of service"), "{}", ended.stderr);
    assert!(!folder.path().join("retired.txt").exists(), "blue was taken out");
}

#[test]
fn sides_that_have_changed_places_by_a_variable_are_not_steered() {
    let stage = Stage::new("[{weight: 50%, bake: 10m}, {weight: 100%}]", "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("blue: blue, green: green", "blue: \"${LIVE:-blue}\", green: \"${IDLE:-green}\"");
    std::fs::write(&path, text).unwrap();
    assert_eq!(stage.promote(&["start"]).code, 0);
    let swapped = ["--set", "LIVE=green", "--set", "IDLE=blue"];
    for call in ["step", "start"] {
        let ended = stage.promote(&[&[call][..], &swapped].concat());
        assert_eq!(ended.code, 5, "{call}: {}", ended.stderr);
        assert!(ended.stderr.contains("other sides of it"), "{call}: {}", ended.stderr);
        assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (50, 50), "{call}");
    }
    // Who goes back goes to where users were when the release began, whatever the sides are called now.
    let aborted = stage.promote(&[&["abort"][..], &swapped].concat());
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    assert!(aborted.stderr.contains("IDLE, LIVE are set to another value"), "{}", aborted.stderr);
    stage.assert_all_blue();
}

#[test]
fn a_kept_old_side_is_not_steered_by_sides_that_have_changed_places() {
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", "  keep_old: 1h\n");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("blue: blue, green: green", "blue: \"${LIVE:-blue}\", green: \"${IDLE:-green}\"");
    std::fs::write(&path, text).unwrap();
    assert_eq!(stage.promote(&["run"]).code, 0);
    let swapped = |call: &str| stage.promote(&[call, "--set", "LIVE=green", "--set", "IDLE=blue"]);
    let step = swapped("step");
    assert_eq!(step.code, 5, "{}", step.stderr);
    stage.assert_all_green();
    let undone = swapped("undo");
    assert_eq!(undone.code, 1, "{}", undone.stderr);
    assert!(undone.stderr.contains("IDLE, LIVE are set to another value"), "{}", undone.stderr);
    stage.assert_all_blue();
}

/// A login page, or a host name that the service does not know: every user gets a redirect, and nobody an error.
#[test]
fn a_green_that_only_leads_elsewhere_is_no_success_unless_the_plan_says_so() {
    let stage = Stage::new(SHORT, "");
    stage.green.answers.status.store(302, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(stage.outcome(), "rolled_back");
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("error_rate"), "{}", stage.promotion());
    stage.assert_all_blue();
    // Where blue does the same nothing begins: each of its answers would count as an error.
    stage.blue.answers.status.store(301, Ordering::SeqCst);
    let refused = stage.promote(&["run"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("it answered 301, and each such answer counts as an error"),
        "{}",
        refused.stderr
    );
    let plan = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, text.replace("probe: {path: /,", "probe: {redirects: success, path: /,")).unwrap();
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
}
