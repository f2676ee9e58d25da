//! What stands before a step, and what comes after the last one: calendars, limits, previews, a kept
//! old side, a release that takes another one's place.

use super::*;

const KEPT: &str = "  keep_old: 1h\n";

#[test]
fn in_a_freeze_nothing_moves_and_the_next_opening_is_told() {
    let freeze = "  calendar: {time_zone: Europe/Berlin, freeze: [{from: 2020-01-01, to: 2099-12-31, because: audit}]}\n";
    let stage = Stage::new(SHORT, freeze);
    let output = stage.path().join("outputs");
    let started = run(tool("promote", stage.path()).arg("start").env("GITHUB_OUTPUT", &output));
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert_eq!(stage.phase(), "holding");
    assert_eq!((stage.haproxy.server("green"), stage.green.served()), ((0, 0), 0));
    assert!(std::fs::read_to_string(&output).unwrap().contains("state=waiting\n"));
    let waits_for = stage.promotion()["waits_for"].as_str().unwrap().to_owned();
    assert!(waits_for.contains("step 1 (10 % on green) waits: changes are frozen (audit)"), "{waits_for}");
    // A way back is never closed.
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn a_gate_that_opens_soon_lets_the_release_on_by_itself() {
    let now = jiff::Timestamp::now();
    let opens = now + jiff::SignedDuration::from_secs(2);
    let to = opens.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let opens: jiff::Timestamp = format!("{to}Z").parse().unwrap();
    let freeze = format!("  calendar: {{time_zone: UTC, freeze: [{{from: 2020-01-01T00:00, to: {to}}}]}}\n");
    let stage = Stage::new(SHORT, &freeze);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
    let first = &stage.promotion()["shifts"][0]["at"];
    let first: jiff::Timestamp = first.as_str().unwrap().parse().unwrap();
    assert!(first >= opens, "it moved inside of the freeze: {first}");
}

#[test]
fn hours_for_changes_that_are_over_hold_the_next_step_and_not_the_judge() {
    // The hours are over when the first step is in force: a freeze that has begun since.
    let freeze = "  calendar: {time_zone: UTC, freeze: [{from: \"${FROM:-2098-01-01}\", to: 2099-01-01, because: audit}]}\n";
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", freeze);
    // A variable that is another one now is refused, unless the plan lets it differ.
    let path = stage.path().join("release.yaml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "may_differ: [FROM]\n").unwrap();
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!((stage.phase(), stage.haproxy.server("green").0), ("baking".into(), 10));
    stage.end_the_bake();
    let job = stage.spawn(&["run", "--set", "FROM=2020-01-01"]);
    stage.wait_for_the_hold("changes are frozen (audit)");
    assert_eq!((stage.phase(), stage.haproxy.server("green").0), ("baking".into(), 10));
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("error_rate"));
}

#[test]
fn a_way_that_takes_too_long_goes_back() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "  max_duration: 1s\n");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("it takes longer than `max_duration` allows, 1 s"), "{reason}");
}

#[test]
fn a_preview_that_does_not_pass_gives_green_nothing() {
    let preview = |port: u16, status: u16| {
        format!(
            "  preview: [{{name: front page, kind: http, target: \"http://127.0.0.1:{port}/\", expect: {{status: {status}}}}}]\n"
        )
    };
    let stage = Stage::new(SHORT, "");
    stage.write(SHORT, &preview(stage.green.port, 418));
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("the preview does not pass: front page"), "{}", ended.stderr);
    stage.assert_all_blue();
    assert_eq!(stage.promotion()["preview"][0]["verdict"], "fail");
    assert!(stage.promotion()["shifts"].as_array().unwrap().iter().all(|s| s["why"] == "rollback"));
    stage.write(SHORT, &preview(stage.green.port, 200));
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(stage.promotion()["preview"][0]["verdict"], "pass");
}

#[test]
fn a_kept_old_side_can_be_gone_back_to_and_a_finished_release_stays_finished() {
    let hook = format!("  hooks: {{retire: [sh, -c, \"echo down >> retired.txt\"]}}\n{KEPT}");
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", &hook);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
    assert_eq!((stage.phase().as_str(), &stage.promotion()["outcome"]), ("keeping_blue", &"promoted".into()));
    assert!(stage.promotion()["next_at"].is_string(), "until when it is kept");
    // A step changes nothing, the document stays byte for byte.
    let document = || std::fs::read(stage.path().join("evidence/promote.json")).unwrap();
    let before = document();
    let step = stage.promote(&["step"]);
    assert_eq!(step.code, 0, "{}", step.stderr);
    assert_eq!(document(), before);
    assert!(!stage.path().join("retired.txt").exists(), "it is kept for an hour");
    let refused = stage.promote(&["abort"]);
    assert_eq!(refused.code, 5);
    assert!(refused.stderr.contains("goes back to it: promote undo --plan "), "{}", refused.stderr);
    let undone = stage.promote(&["undo", "--reason", "support is called"]);
    assert_eq!(undone.code, 1, "{}", undone.stderr);
    stage.assert_all_blue();
    let promotion = stage.promotion();
    assert_eq!(promotion["outcome"], "rolled_back");
    assert!(promotion["reason"].as_str().unwrap().contains("support is called"), "{}", promotion["reason"]);
    assert_eq!(stage.promote(&["undo"]).code, 5);
    stage.assert_all_blue();
}

#[test]
fn an_old_side_that_is_sick_is_not_gone_back_to() {
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", KEPT);
    assert_eq!(stage.promote(&["run"]).code, 0);
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    let undone = stage.promote(&["undo"]);
    assert_eq!(undone.code, 1, "{}", undone.stderr);
    assert_eq!(stage.promotion()["outcome"], "frozen");
    assert!(stage.haproxy.server("green").0 > 0, "users stay where they are served");
}

#[test]
fn the_retire_hook_runs_once_when_the_old_side_was_kept_for_long_enough() {
    let hook = "  hooks: {retire: [sh, -c, \"echo down >> retired.txt\"]}\n  keep_old: 1s\n";
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", hook);
    assert_eq!(stage.promote(&["run"]).code, 0);
    let retired = || std::fs::read_to_string(stage.path().join("retired.txt")).unwrap_or_default();
    let before = std::fs::read(stage.path().join("evidence/promote.json")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..2 {
        let step = stage.promote(&["step"]);
        assert_eq!(step.code, 0, "{}", step.stderr);
    }
    assert_eq!((retired().as_str(), stage.phase().as_str()), ("down\n", "promoted"));
    assert_eq!(std::fs::read(stage.path().join("evidence/promote.json")).unwrap(), before);
    let undo = stage.promote(&["undo"]);
    assert_eq!(undo.code, 5);
    assert!(undo.stderr.contains("its old side is not kept any more"), "{}", undo.stderr);
    // Commands that give all traffic to a side that was taken down need that said first.
    assert!(undo.stderr.contains("the retire hook ran: bring blue up again first"), "{}", undo.stderr);
    let abort = stage.promote(&["abort"]);
    assert!(abort.stderr.contains("the retire hook ran: bring blue up again first"), "{}", abort.stderr);
    assert_eq!(call("report", stage.path(), &[]).code, 0);
    let runbook = std::fs::read_to_string(stage.path().join("evidence/runbook.md")).unwrap();
    assert!(runbook.contains("look first whether it still runs"), "{runbook}");
    assert!(!runbook.contains("promote undo"), "{runbook}");
    stage.assert_all_green();
}

#[test]
fn an_old_side_that_serves_again_is_not_taken_down() {
    let hook = "  hooks: {retire: [sh, -c, \"echo down >> retired.txt\"]}\n  keep_old: 1h\n";
    let stage = Stage::new("[{weight: 100%, bake: 200ms}]", hook);
    assert_eq!(stage.promote(&["run"]).code, 0);
    // Somebody goes back by hand.
    stage.haproxy.ask(
        "set server shop/blue state ready; set server shop/blue weight 100; set server shop/green weight 0",
    );
    stage.end_the_keeping();
    let step = stage.promote(&["step"]);
    assert_eq!(step.code, 1, "{}", step.stderr);
    assert!(!stage.path().join("retired.txt").exists());
    stage.assert_all_blue();
}

#[test]
fn a_new_release_takes_the_place_of_one_under_way_only_when_told_and_rolls_it_back_first() {
    let stage = Stage::new(
        "[{weight: 10%, bake: 300ms}, {weight: 100%}]",
        "  hooks: {on_rollback: [sh, -c, \"echo $TRAPKEY_VERSION >> back.txt\"]}\n",
    );
    std::fs::write(
        stage.path().join("release.yaml"),
        std::fs::read_to_string(stage.path().join("release.yaml"))
            .unwrap()
            .replace("bake: 300ms", "bake: \"${BAKE:-10m}\""),
    )
    .unwrap();
    assert_eq!(stage.promote(&["start"]).code, 0);
    let refused = stage.promote(&["run", "--set", "VERSION=2.0"]);
    assert_eq!(refused.code, 5);
    assert!(refused.stderr.contains("shop 1.1 in production is still under way"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--supersede"), "{}", refused.stderr);
    let ended = stage.promote(&["run", "--supersede", "--set", "VERSION=2.0", "--set", "BAKE=300ms"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
    assert_eq!(
        (&stage.promotion()["epoch"], stage.promotion()["outcome"].as_str()),
        (&2.into(), Some("promoted"))
    );
    assert_eq!(
        std::fs::read_to_string(stage.path().join("back.txt")).unwrap(),
        "1.1\n",
        "it was rolled back first"
    );
    let back = stage.journal().iter().any(|l| {
        l["epoch"] == 1
            && l["did"]["event"] == "aborted"
            && l["did"]["reason"].as_str().unwrap().contains("superseded by shop 2.0")
    });
    assert!(back);
}

#[test]
fn a_release_that_cannot_be_rolled_back_is_not_superseded() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    let ended = stage.promote(&["run", "--supersede", "--set", "VERSION=2.0"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("shop 1.1 in production could not be rolled back"), "{}", ended.stderr);
    assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (50, 50));
}

#[test]
fn steps_judge_what_earlier_steps_have_seen_as_well() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let probes = || {
        let judgements = stage.promotion()["judgements"].clone();
        judgements[judgements.as_array().unwrap().len() - 1]["metrics"][0]["green_samples"].as_u64().unwrap()
    };
    let first = probes();
    assert_eq!(stage.promote(&["step"]).code, 0);
    let second = probes();
    assert!(second > first, "{first} and then {second}");
    // What happened between two steps is counted by the router, and judged.
    let client = trapkey::world::http::Client::new(ANSWER);
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    for _ in 0..400 {
        let _ = client.get(&stage.haproxy.url());
    }
    stage.green.answers.fail_every.store(0, Ordering::SeqCst);
    let ended = stage.promote(&["step"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(
        stage.promotion()["reason"].as_str().unwrap().contains("haproxy"),
        "{}",
        stage.promotion()["reason"]
    );
    stage.assert_all_blue();
}

/// Keys as `openssl` makes them: a private one, and the public one in the folder of trust.
pub(super) fn key(stage: &Stage, name: &str, folder: &str) {
    let trust = stage.path().join("trust").join(folder);
    std::fs::create_dir_all(&trust).unwrap();
    let private = stage.path().join(format!("{name}.key"));
    for arguments in [
        vec!["genpkey", "-algorithm", "ed25519", "-out", private.to_str().unwrap()],
        vec![
            "pkey",
            "-in",
            private.to_str().unwrap(),
            "-pubout",
            "-out",
            trust.join(format!("{name}.pem")).to_str().unwrap(),
        ],
    ] {
        assert!(Command::new("openssl").args(&arguments).output().unwrap().status.success());
    }
}

#[test]
fn a_step_waits_for_its_approval_and_only_the_right_key_opens_it() {
    let steps =
        "[{weight: 10%, bake: 10m}, {weight: 50%, bake: 10m, approve: [product_owner]}, {weight: 100%}]";
    let stage = Stage::new(steps, "  approvers: {product_owner: [olga]}\n");
    let without = stage.promote(&["start"]);
    assert_eq!(without.code, 2);
    assert!(without.stderr.contains("nothing says whose keys count"), "{}", without.stderr);
    key(&stage, "ci", "");
    key(&stage, "olga", "approvers");
    key(&stage, "otto", "approvers");
    let signed = ["--trust", "trust", "--sign-key", "ci.key"];
    let promote = |arguments: &[&str]| stage.promote(&[arguments, &signed].concat());
    let started = promote(&["start"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    stage.end_the_bake();
    // The bake is over, and only the approval is missing: that is for people to know.
    let waits = promote(&["step"]);
    assert_eq!(waits.code, 3, "{}", waits.stderr);
    // Also a call that finds nothing new says what it waits for, and when to look again.
    let again = promote(&["step"]);
    assert!(again.stderr.contains("; step 2 (50 % on green) waits for the approval"), "{}", again.stderr);
    // The last line's command runs from any folder; the document's is for the folder that it was begun in.
    let at = |path: &str| stage.path().join(path).display().to_string();
    let here = format!("`promote step --plan {} --environment production", at("release.yaml"));
    let keys = format!(" --trust {} --sign-key {}` is due at 20", at("trust"), at("ci.key"));
    assert!(again.stderr.contains(&here) && again.stderr.contains(&keys), "{}", again.stderr);
    let step = "`promote step --plan release.yaml --environment production --trust trust --sign-key ci.key` is due at 20";
    let summary = stage.document()["summary"].as_str().unwrap().to_owned();
    assert!(summary.contains(step), "{summary}");
    assert!(
        stage.promotion()["waits_for"].as_str().unwrap().contains("waits for the approval of product_owner"),
        "{}",
        stage.promotion()["waits_for"]
    );
    assert_eq!(stage.haproxy.server("green").0, 10);
    for wish in ["accept", "skip"] {
        let early = promote(&[wish, "--reason", "hurry"]);
        assert_eq!(early.code, 5, "{wish}: {}", early.stderr);
        assert!(early.stderr.contains("step 2 waits for the approval of product_owner"), "{}", early.stderr);
    }
    assert_eq!(stage.haproxy.server("green").0, 10);
    // Somebody else's key, and one that is not trusted at all.
    let refused = promote(&["approve", "--role", "product_owner", "--key", "otto.key"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("otto may not approve"), "{}", refused.stderr);
    // Without the trust at hand the signature is made, and the gate still does not open.
    let forged = stage.promote(&["approve", "--role", "product_owner", "--key", "otto.key"]);
    assert_eq!(forged.code, 0, "{}", forged.stderr);
    assert_eq!(promote(&["step"]).code, 3);
    assert_eq!(stage.haproxy.server("green").0, 10);
    let nobody = promote(&["approve", "--role", "intern", "--key", "olga.key"]);
    assert_eq!(nobody.code, 2);
    assert!(nobody.stderr.contains("step 2: product_owner"), "{}", nobody.stderr);
    let approved =
        promote(&["approve", "--role", "product_owner", "--key", "olga.key", "--reason", "figures are fine"]);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    // Who looks in between is not told to wait for what is there already.
    let status = promote(&["status"]).stdout;
    assert!(status.contains("an approval of step 2 by product_owner is there"), "{status}");
    // On a busy machine a call may not get enough probes through, and the next one goes on.
    wait_until("the approved step", || {
        let moved = promote(&["step"]);
        assert_eq!(moved.code, 0, "{}", moved.stderr);
        stage.haproxy.server("green").0 == 50
    });
    assert_eq!(stage.phase(), "baking");
    stage.end_the_bake();
    stage.step_to_the_end(&signed);
    stage.assert_all_green();
    let promotion = stage.promotion();
    assert_eq!(promotion["approvals"][0]["who"], "olga");
    let told: Vec<String> =
        promotion["decisions"].as_array().unwrap().iter().map(|d| d["what"].to_string()).collect();
    assert!(
        told.iter().any(|t| t.contains("approved step 2 as product_owner: figures are fine")),
        "{told:?}"
    );
    assert!(told.iter().any(|t| t.contains("does not count: otto may not approve")), "{told:?}");
    // It is a link of the chain: the report proves it, and a changed one breaks it.
    let check = || call("report", stage.path(), &["check", "--trust", "trust"]);
    let proven = check();
    assert_eq!(proven.code, 0, "{}{}", proven.stdout, proven.stderr);
    let file = stage.path().join("evidence/approval.product_owner.2.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("figures are fine", "figures are FINE")).unwrap();
    assert_eq!(check().code, 5);
}

#[test]
fn an_approval_of_one_step_opens_no_other_and_an_expired_one_none() {
    let steps = "[{weight: 10%, approve: [qa]}, {weight: 50%, bake: 10m, approve: [qa]}, {weight: 100%}]";
    let stage = Stage::new(steps, "");
    key(&stage, "ci", "");
    key(&stage, "qa", "approvers");
    let signed = ["--trust", "trust", "--sign-key", "ci.key"];
    let promote = |arguments: &[&str]| stage.promote(&[arguments, &signed].concat());
    assert_eq!(promote(&["start"]).code, 3, "the first step waits already");
    assert_eq!(stage.phase(), "holding");
    assert_eq!(promote(&["approve", "--role", "qa", "--key", "qa.key", "--expires-in", "1ms"]).code, 0);
    assert_eq!(promote(&["step"]).code, 3);
    assert_eq!(promote(&["approve", "--role", "qa", "--key", "qa.key"]).code, 0);
    let step = promote(&["step"]);
    assert_eq!(step.code, 3, "{}", step.stderr);
    // The first step has no bake: it is watched all the same while the second waits.
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("baking", 10));
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    wait_until("the way back", || {
        let step = promote(&["step"]);
        assert!([1, 3].contains(&step.code), "{}", step.stderr);
        step.code == 1
    });
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("error_rate"));
}

#[test]
fn a_release_that_serves_everything_is_not_taken_back_because_the_router_is_away() {
    let mut stage = Stage::new("[{weight: 100%, bake: 200ms}]", KEPT);
    assert_eq!(stage.promote(&["run"]).code, 0);
    stage.haproxy.stop();
    stage.end_the_keeping();
    let step = stage.promote(&["step"]);
    assert_eq!(step.code, 4, "{}", step.stderr);
    assert_eq!(stage.phase(), "keeping_blue");
}

#[test]
fn a_preview_that_cannot_be_meant_is_found_before_anything_happens() {
    let stage = Stage::new(
        SHORT,
        "  preview: [{name: x, kind: http, target: \"http://127.0.0.1:1/\", expect: {stratus: 200}}]\n",
    );
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(!stage.path().join(".trapkey").exists());
}

#[test]
fn a_job_that_holds_says_to_others_what_it_waits_for() {
    let (stage, job) = paused();
    stage.wait_for_the_hold("paused it before step 2");
    assert_eq!(stage.promote(&["resume"]).code, 0);
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(0));
    assert!(stage.promotion()["waits_for"].is_null());
    stage.assert_all_green();
}

#[test]
fn a_new_release_whose_evidence_does_not_hold_takes_nobodys_place() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let path = stage.path().join("release.yaml");
    let preflight = "preflight: {checks: [{name: here, kind: file, target: release.yaml}]}\n";
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + preflight).unwrap();
    assert_eq!(call("preflight", stage.path(), &[]).code, 0);
    assert_eq!(stage.promote(&["start"]).code, 0);
    // The evidence in the folder is about 1.1.
    let ended = stage.promote(&["run", "--supersede", "--set", "VERSION=2.0"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("baking", 10));
}

const SIGNED: [&str; 4] = ["--trust", "trust", "--sign-key", "ci.key"];

/// A release whose first step wants two roles, and waits.
fn two_roles(more: &str) -> Stage {
    let steps = "[{weight: 10%, bake: 10m, approve: [qa, owner]}, {weight: 100%}]";
    let approvers = format!("  approvers: {{qa: [olga, otto], owner: [olga]}}\n{more}");
    let stage = Stage::new(steps, &approvers);
    let path = stage.path().join("release.yaml");
    let preflight = "preflight: {checks: [{name: here, kind: file, target: release.yaml, expect: {exists: true}}], promote: false}\n";
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + preflight).unwrap();
    key(&stage, "ci", "");
    key(&stage, "olga", "approvers");
    key(&stage, "otto", "approvers");
    assert_eq!(call("preflight", stage.path(), &SIGNED).code, 0);
    let started = stage.promote(&[&["start"][..], &SIGNED].concat());
    assert_eq!(started.code, 3, "{}", started.stderr);
    stage
}

fn approve(stage: &Stage, role: &str, key: &str) -> Ended {
    let key = format!("{key}.key");
    stage.promote(&[&["approve", "--role", role, "--step", "1", "--key", &key][..], &SIGNED].concat())
}

fn step_of(stage: &Stage) -> Ended {
    stage.promote(&[&["step"][..], &SIGNED].concat())
}

/// The next step once everybody has approved; a busy machine may need a second call.
fn goes_on(stage: &Stage) {
    wait_until("the approved step", || {
        let moved = step_of(stage);
        assert_eq!(moved.code, 0, "{}", moved.stderr);
        stage.haproxy.server("green").0 == 10
    });
}

#[test]
fn one_person_in_two_roles_opens_no_gate_of_two_roles_alone() {
    let stage = two_roles("");
    assert_eq!(approve(&stage, "qa", "olga").code, 0);
    assert_eq!(approve(&stage, "owner", "olga").code, 0, "nobody has taken the first one yet");
    let waits = step_of(&stage);
    assert_eq!((waits.code, stage.haproxy.server("green").0), (3, 0), "{}", waits.stderr);
    for words in ["waits for the approval of owner", "olga has approved this step as qa already"] {
        assert!(waits.stderr.contains(words), "{words}: {}", waits.stderr);
    }
    let again = approve(&stage, "owner", "olga");
    assert_eq!(again.code, 5, "{}", again.stderr);
    assert!(again.stderr.contains("olga has approved this step as qa already"), "{}", again.stderr);
    // Another one for the role that both may have: then the first is free for the other.
    assert_eq!(approve(&stage, "qa", "otto").code, 0);
    goes_on(&stage);
    let who: Vec<String> = stage.promotion()["approvals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| format!("{} as {}", a["who"].as_str().unwrap(), a["role"].as_str().unwrap()))
        .collect();
    assert!(who.contains(&"otto as qa".into()) && who.contains(&"olga as owner".into()), "{who:?}");
    // Where the plan lets one person be enough, she is.
    let alone = two_roles("  distinct: false\n");
    assert_eq!(approve(&alone, "qa", "olga").code, 0);
    assert_eq!(approve(&alone, "owner", "olga").code, 0);
    goes_on(&alone);
    // A plan that could never be approved by two is refused before anything happens.
    alone.edit("  distinct: false\n", "");
    alone.edit("qa: [olga, otto]", "qa: [olga]");
    let refused = alone.promote(&[&["plan"][..], &SIGNED].concat());
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot be approved by different people"), "{}", refused.stderr);
}

#[test]
fn an_approval_from_another_machine_needs_the_evidence_folder_and_no_state() {
    let stage = two_roles("");
    stage.edit("\"${VERSION:-1.1}\"", "\"${VERSION:-1.1}\"");
    let elsewhere = folder();
    let copy = |names: &[&str]| {
        for name in names {
            let to = elsewhere.path().join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(stage.path().join(name), to).unwrap();
        }
    };
    copy(&[
        "release.yaml",
        "otto.key",
        "olga.key",
        "ci.key",
        "trust/ci.pem",
        "trust/approvers/olga.pem",
        "trust/approvers/otto.pem",
    ]);
    let there = |role: &str, who: &str| {
        let key = format!("{who}.key");
        call(
            "promote",
            elsewhere.path(),
            &[&["approve", "--role", role, "--key", &key][..], &SIGNED[..2]].concat(),
        )
    };
    let nothing = there("qa", "otto");
    assert_eq!(nothing.code, 5, "{}", nothing.stderr);
    for words in ["the state has no promotion", "`promote.json` is missing", "--state"] {
        assert!(nothing.stderr.contains(words), "{words}: {}", nothing.stderr);
    }
    copy(&["evidence/promote.json"]);
    for (role, who) in [("qa", "otto"), ("owner", "olga")] {
        let approved = there(role, who);
        assert_eq!(approved.code, 0, "{}", approved.stderr);
        assert!(approved.stderr.contains("the promote state is not here"), "{}", approved.stderr);
        let file = format!("evidence/approval.{role}.1.json");
        std::fs::copy(elsewhere.path().join(&file), stage.path().join(&file)).unwrap();
    }
    goes_on(&stage);
}

#[test]
fn no_state_that_somebody_wrote_makes_an_old_approval_count_again() {
    let stage = two_roles("");
    let state = stage.path().join(".trapkey/production/state.json");
    let evidence = stage.path().join("evidence");
    let waiting = std::fs::read(&state).unwrap();
    assert_eq!(approve(&stage, "qa", "otto").code, 0);
    assert_eq!(approve(&stage, "owner", "olga").code, 0);
    goes_on(&stage);
    let old: Vec<(String, Vec<u8>)> = ["qa", "owner"]
        .map(|role| format!("approval.{role}.1.json"))
        .into_iter()
        .map(|file| (file.clone(), std::fs::read(evidence.join(file)).unwrap()))
        .collect();
    let approvals = stage.promotion()["approvals"].clone();
    let begun: serde_json::Value = serde_json::from_slice(&waiting).unwrap();
    assert_eq!(stage.promote(&[&["abort"][..], &SIGNED].concat()).code, 1);
    // The state as it was, behind the document that says how it ended.
    let finished = std::fs::read(&state).unwrap();
    std::fs::write(&state, &waiting).unwrap();
    let set_back = step_of(&stage);
    assert_eq!((set_back.code, stage.haproxy.server("green").0), (5, 0), "{}", set_back.stderr);
    assert!(set_back.stderr.contains("its state was set back since"), "{}", set_back.stderr);
    std::fs::write(&state, finished).unwrap();
    // The next promotion of the same release waits for approvals of its own, whatever the state says.
    assert_eq!(call("preflight", stage.path(), &SIGNED).code, 0);
    assert_eq!(stage.promote(&[&["start"][..], &SIGNED].concat()).code, 3);
    let record = |value: &serde_json::Value| -> String {
        let object = value.as_object().unwrap();
        let holds = |(_, v): &(&String, &serde_json::Value)| v.get("promotion").is_some();
        object.iter().find(holds).map(|(name, _)| name.clone()).unwrap_or_default()
    };
    let fresh: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    let name = record(&fresh);
    let of = |value: &serde_json::Value| if name.is_empty() { value.clone() } else { value[&name].clone() };
    let then = of(&begun);
    for forged in 0..4 {
        let mut value = fresh.clone();
        {
            let now = if name.is_empty() { &mut value } else { &mut value[&name] };
            now["promotion"]["approvals"] = approvals.clone();
            if forged > 0 {
                now["id"] = then["id"].clone();
                now["promotion"]["id"] = then["id"].clone();
                now["promotion"]["epoch"] = then["promotion"]["epoch"].clone();
            }
            if forged > 1 {
                now["needs"] = then["needs"].clone();
            }
            if forged > 2 {
                *now = then.clone();
            }
        }
        std::fs::write(&state, serde_json::to_vec(&value).unwrap()).unwrap();
        for (file, bytes) in &old {
            std::fs::write(evidence.join(file), bytes).unwrap();
            let kept = format!(
                "approval.{}.{}",
                if forged > 0 { 1 } else { 2 },
                file.trim_start_matches("approval.")
            );
            std::fs::write(stage.path().join(".trapkey/production").join(kept), bytes).unwrap();
        }
        let stepped = step_of(&stage);
        assert!([3, 5].contains(&stepped.code), "{forged}: {} {}", stepped.code, stepped.stderr);
        assert_eq!(stage.haproxy.server("green").0, 0, "{forged}: {}", stepped.stderr);
    }
}
