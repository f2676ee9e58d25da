//! What `promote status` says of the router, and what people are told to do by hand: only what is so.

use super::night::{named, night};
use super::*;

fn status(stage: &Stage) -> String {
    let ended = stage.promote(&["status"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    ended.stdout
}

fn status_json(stage: &Stage) -> Value {
    let ended = stage.promote(&["status", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let status: Value = serde_json::from_str(&ended.stdout).unwrap();
    let schema = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas/status.v1.json"));
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(&status).map(|e| format!("{e} at {}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    status
}

#[test]
fn status_says_what_the_router_does_and_not_what_the_record_remembers() {
    let mut stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert!(status(&stage).contains("step 1 watches 50 % on green"));
    assert!(status(&stage).contains("green 50 % (the router, now)"));
    let now = &status_json(&stage)["router_now"];
    assert_eq!((&now["reached"], &now["green"], &now["differs"]), (&true.into(), &0.5.into(), &false.into()));

    // An operator has given green everything.
    stage.haproxy.ask("set server shop/green weight 100; set server shop/blue weight 0");
    let told = status(&stage);
    assert!(told.contains("green 100 % (the router, now)"), "{told}");
    assert!(told.contains("the record knows another share"), "{told}");
    assert!(!told.contains("50 %"), "the record's share is not what is: {told}");
    let now = &status_json(&stage)["router_now"];
    assert_eq!((&now["green"], &now["differs"]), (&1.0.into(), &true.into()));
    assert_eq!((stage.haproxy.server("green").0, stage.haproxy.server("blue").0), (100, 0), "it only looks");

    stage.haproxy.stop();
    let told = status(&stage);
    assert!(told.contains("the router cannot be reached from here"), "{told}");
    assert!(told.contains("green 50 % by the record"), "{told}");
    let now = status_json(&stage)["router_now"].clone();
    assert_eq!((&now["reached"], &now["green"]), (&false.into(), &Value::Null));
    assert!(now["says"].as_str().is_some_and(|why| !why.is_empty()), "{now}");
}

#[test]
fn status_sees_that_somebody_went_back_by_hand_after_the_end() {
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", "");
    assert_eq!(stage.promote(&["run"]).code, 0);
    assert!(status(&stage).contains("green 100 % (the router, now)"));
    stage.haproxy.ask(
        "set server shop/blue state ready; set server shop/blue weight 100; set server shop/green weight 0",
    );
    let told = status(&stage);
    assert!(
        told.starts_with(
            "shop 1.1 in production: promoted
  green 0 % (the router, now)"
        ),
        "{told}"
    );
    assert!(told.contains("the promotion is over, and nobody puts it back"), "{told}");
}

#[test]
fn a_frozen_release_says_why_and_what_people_can_do() {
    let (stage, elsewhere) = (Stage::new(LONG, ""), folder());
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    assert_eq!(stage.promote(&["abort"]).code, 1);
    assert_eq!(stage.phase(), "frozen");
    let told = status(&stage);
    for words in [
        "stands still: called off by",
        "nothing moves and nobody watches",
        "blue is not well: /health answered 503",
        "green is well now",
        "green is well: closes it with everything on green: promote accept --plan ",
        "blue is not well (/health answered 503): send no users there",
        "green is well; all traffic goes to it by hand:",
    ] {
        assert!(told.contains(words), "`{words}` is missing: {told}");
    }
    assert!(told.contains("set server shop/green state ready"), "{told}");
    assert!(!told.contains("set server shop/green state maint"), "no line leads to the sick side: {told}");
    // What refuses the next release names the ways out.
    let next = stage.promote(&["start", "--set", "VERSION=2.0"]);
    assert_eq!(next.code, 5);
    for words in ["promote status --plan ", "promote abort --plan ", "promote accept --plan ", "--reason '…'"]
    {
        assert!(next.stderr.contains(words), "`{words}` is missing: {}", next.stderr);
    }

    stage.green.answers.health.store(500, Ordering::SeqCst);
    let told = status(&stage);
    assert!(told.contains("neither side is well") && !told.contains("socat"), "{told}");

    // Blue is mended, and the command that is named tries again.
    stage.blue.answers.health.store(200, Ordering::SeqCst);
    let told = status(&stage);
    assert!(told.contains("set server shop/green state maint"), "{told}");
    let line = told.lines().find(|line| line.contains("tries again to go back to blue: ")).unwrap();
    let ended = night(elsewhere.path(), line.split_once(": ").unwrap().1);
    assert_eq!(ended.code, 1, "{line}: {}", ended.stderr);
    stage.assert_all_blue();
}

#[test]
fn no_error_sends_users_to_a_dead_side() {
    let (mut stage, elsewhere) = (Stage::new("[{weight: 100%, bake: 200ms}]", ""), folder());
    assert_eq!(stage.promote(&["run"]).code, 0);
    let late = |words: &str| night(elsewhere.path(), &format!("promote {words} {}", named(&stage)));
    for command in ["abort", "undo"] {
        let refused = late(command);
        assert_eq!(refused.code, 5, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("blue is well now; all traffic goes to it by hand:"),
            "{}",
            refused.stderr
        );
        // The line goes from any folder.
        assert!(
            refused.stderr.contains(&format!("socat stdio {}", stage.haproxy.socket.display())),
            "{}",
            refused.stderr
        );
    }
    let port = stage.blue.port;
    let gone = Side::start("1.0");
    drop(std::mem::replace(&mut stage.blue, gone));
    wait_until("blue to be gone", || TcpStream::connect(("127.0.0.1", port)).is_err());
    for command in ["abort", "undo"] {
        let refused = night(elsewhere.path(), &format!("promote {command} {}", named(&stage)));
        assert_eq!(refused.code, 5, "{}", refused.stderr);
        assert!(refused.stderr.contains("blue is not well (/health did not answer"), "{}", refused.stderr);
        assert!(!refused.stderr.contains("shop/green state maint"), "{}", refused.stderr);
    }
    stage.assert_all_green();
}

#[test]
fn who_comes_second_is_told_what_calls_the_first_off() {
    let hook = "  hooks: {deploy: [sh, -c, \"echo > began; until [ -e go ]; do sleep 0.05; done\"]}\n";
    let (stage, elsewhere) = (Stage::new(LONG, hook), folder());
    let first = stage.spawn(&["run"]);
    wait_until("the hook", || stage.path().join("began").exists());
    let second = stage.promote(&["run"]);
    assert_eq!(second.code, 5);
    let line = second.stderr.lines().find(|line| line.contains("call it off: ")).unwrap();
    let abort = line.split_once("call it off: ").unwrap().1.to_owned();
    std::fs::write(stage.path().join("go"), "").unwrap();
    let aborted = night(elsewhere.path(), &abort);
    assert_eq!(aborted.code, 1, "{abort}: {}", aborted.stderr);
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
}

/// What a later step of a job reads.
fn outputs(stage: &Stage) -> String {
    let file = stage.path().join("outputs.env");
    let _ = std::fs::remove_file(&file);
    let ended = run(tool("promote", stage.path()).arg("status").env("TRAPKEY_OUTPUT", &file));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn status_says_that_nobody_watches_once_the_job_is_killed_and_what_goes_on() {
    let (stage, elsewhere) = (Stage::new(LONG, ""), folder());
    let mut child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let told = status(&stage);
    assert!(
        told.contains(&format!("(process {} on ", child.id())) && told.contains(" watches it, since "),
        "{told}"
    );
    assert!(!told.contains("nobody watches"), "{told}");
    assert_eq!(status_json(&stage)["watched"]["now"], true);
    assert!(outputs(&stage).contains("watched=true\nmissed=false\n"));

    child.kill().unwrap();
    child.wait().unwrap();
    let told = status(&stage);
    assert!(
        told.contains("nobody watches it: the job of ")
            && told.contains("is gone, and has not ended in order"),
        "{told}"
    );
    assert!(told.contains("goes back to blue: promote abort --plan "), "{told}");
    let watched = status_json(&stage)["watched"].clone();
    assert_eq!((&watched["now"], &watched["missed"]), (&false.into(), &true.into()), "{watched}");
    assert!(outputs(&stage).contains("watched=false\nmissed=true\n"));
    // The command that is named goes as it stands.
    let line = told.lines().find(|line| line.contains("goes on, and watches it to its end: ")).unwrap();
    stage.end_the_bake();
    let ended = night(elsewhere.path(), line.split_once(": ").unwrap().1);
    assert_eq!(ended.code, 0, "{line}: {}", ended.stderr);
    stage.assert_all_green();
    assert_eq!(status_json(&stage)["watched"], Value::Null);
    assert!(!outputs(&stage).contains("watched="));
}

#[test]
fn status_tells_a_step_that_is_waited_for_from_one_that_nobody_came_for() {
    let stage = Stage::new(LONG, "  lease: 2s\n");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let told = status(&stage);
    assert!(told.contains("no job is at work on it now: each step is a call of its own"), "{told}");
    let mut state = json(&stage.state());
    state["record"]["promotion"]["next_at"] = "2026-01-02T03:04:05Z".into();
    std::fs::write(stage.state(), state.to_string()).unwrap();
    let told = status(&stage);
    assert!(
        told.contains("nobody watches it: nobody came when a step was due, at 2026-01-02 03:04:05 UTC"),
        "{told}"
    );
    assert!(told.contains("goes on, and watches it to its end: promote run --plan "), "{told}");

    let mut child = stage.spawn(&["run"]);
    wait_until("the job", || status(&stage).contains(" watches it, since "));
    stop(&child);
    wait_until("the end of its lease", || status(&stage).contains("has the lease and has not renewed it"));
    assert_eq!(status_json(&stage)["watched"]["missed"], true);
    child.kill().unwrap();
    child.wait().unwrap();
}
