//! What went wrong with other tools in the field, each against the real binaries and a real router.

use super::*;

fn reason(stage: &Stage) -> String {
    stage.promotion()["reason"].as_str().unwrap_or_default().to_owned()
}

/// 1. Declared done before traffic had moved.
#[test]
fn a_control_plane_that_says_yes_while_users_stay_is_not_believed() {
    // The users' entry is another backend, with the same blue; the one that is steered serves nobody.
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let more = format!("\nbackend other\n  server blue 127.0.0.1:{}\nbackend shop2", blue.port);
    let mut haproxy = Haproxy::start(folder.path(), blue.port, green.port, "");
    let config = folder.path().join("haproxy.cfg");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("default_backend shop", "default_backend other")
        + more.strip_suffix("\nbackend shop2").unwrap()
        + "\n";
    std::fs::write(&config, text).unwrap();
    haproxy.restart();
    let stage = Stage { folder, blue, green, haproxy };
    stage.write(SHORT, "");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("served by another router than the one that is steered"),
        "{}",
        ended.stderr
    );
    // Where that becomes so in the middle, the requests do not meet what the control plane says.
    let mut stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.haproxy.lead_elsewhere(stage.blue.port);
    stage.haproxy.edit("default_backend shop", "default_backend admin");
    stage.haproxy.restart();
    let ended = stage.promote(&["step"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(reason(&stage).contains("requests do not meet the split"), "{}", reason(&stage));
    assert_eq!(stage.promotion()["outcome"], "rolled_back");
    stage.assert_all_blue();
}

/// 2. An abort that lost its race with the last step.
#[test]
fn an_abort_around_the_last_step_ends_on_blue_or_says_that_it_came_too_late() {
    let (mut back, mut late) = (0, 0);
    for number in 0..rounds(5) {
        let stage = Stage::new("[{weight: 50%, bake: 300ms}, {weight: 100%}]", "");
        let mut child = stage.spawn(&["run"]);
        // The sixth line of the journal is the look that lets the last step be taken, the tenth the end.
        stage.wait_for_lines(5 + usize::try_from(number % 5).unwrap(), &mut child);
        let aborted = stage.promote(&["abort", "--reason", "orders drop"]);
        let ended = child.wait_with_output().unwrap().status.code();
        match aborted.code {
            1 => {
                back += 1;
                stage.assert_all_blue();
                assert!(reason(&stage).contains("orders drop"), "{}", reason(&stage));
                assert!([Some(0), Some(1)].contains(&ended), "{ended:?}");
                assert_eq!(stage.promote(&["step"]).code, 1);
                stage.assert_all_blue();
            }
            5 => {
                late += 1;
                stage.assert_all_green();
                assert!(aborted.stderr.contains("is finished"), "{}", aborted.stderr);
                assert_eq!(ended, Some(0));
            }
            other => panic!("{other}: {}", aborted.stderr),
        }
    }
    figure(&format!("aborts around the last step: {back} ended on blue, {late} were told that it was over"));
}

/// 3. Rolled back onto the broken side.
#[test]
fn nobody_is_thrown_onto_an_old_side_that_is_sick_or_not_the_old_one() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    let frozen = stage.promote(&["abort"]);
    assert_eq!(frozen.code, 1, "{}", frozen.stderr);
    assert!(frozen.stderr.contains("the old side is not healthy either"), "{}", frozen.stderr);
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("frozen", 50));

    // Blue answers and is well, but somebody has deployed something else there meanwhile.
    let mut stage = Stage::new(LONG, "");
    let other = Side::start("0.9");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let first = std::mem::replace(&mut stage.blue, other);
    let address = format!("set server shop/blue addr 127.0.0.1 port {}", stage.blue.port);
    stage.haproxy.ask(&address);
    let state = stage.path().join(".trapkey/production/state.json");
    let replaced = |from: u16, to: u16| {
        stage.edit(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"));
        assert!(state.exists());
    };
    replaced(first.port, stage.blue.port);
    let refused = stage.promote(&["abort"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert_eq!(stage.phase(), "frozen", "{}", reason(&stage));
    let decisions = stage.journal().iter().map(Value::to_string).collect::<String>();
    assert!(decisions.contains("it says that it is `0.9`, and this release began with `1.0`"), "{decisions}");
    assert_eq!(stage.haproxy.server("green").0, 50);
}

/// 4. Wedged releases that only an editor frees.
#[test]
fn a_wedged_release_is_freed_by_a_command_that_the_message_names() {
    // Frozen: the next step looks again.
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.blue.answers.health.store(200, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 1);
    stage.assert_all_blue();

    // The lease of a dead job.
    let stage = Stage::new(LONG, "");
    let mut child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();

    // A state that was cut short: nothing is guessed, and the way out is named.
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let state = stage.path().join(".trapkey/production/state.json");
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    let cut = stage.promote(&["step"]);
    assert_eq!(cut.code, 4, "{}", cut.stderr);
    assert!(cut.stderr.contains("damaged") && cut.stderr.contains("move the file away"), "{}", cut.stderr);
    assert_eq!(stage.haproxy.server("green").0, 50, "nothing was touched");
    std::fs::remove_file(&state).unwrap();
    let again = stage.promote(&["run"]);
    assert_eq!(again.code, 5, "{}", again.stderr);
    assert!(again.stderr.contains("green already has 50 %"), "{}", again.stderr);
    stage.haproxy.ask("set server shop/green weight 0; set server shop/blue weight 100");
    stage.write(SHORT, "");
    assert_eq!(stage.promote(&["run"]).code, 0);
    stage.assert_all_green();
}

/// 5. A new release in the middle of another one.
#[test]
fn a_newer_release_is_refused_by_name_or_takes_over_after_a_rollback() {
    let stage = Stage::new("[{weight: 10%, bake: \"${BAKE:-10m}\"}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let refused = stage.promote(&["start", "--set", "VERSION=2.0"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("shop 1.1 in production is still under way"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--supersede"), "{}", refused.stderr);
    assert_eq!(stage.haproxy.server("green").0, 10);
    let begun = stage.promote(&["run", "--supersede", "--set", "VERSION=2.0", "--set", "BAKE=300ms"]);
    assert_eq!(begun.code, 0, "{}", begun.stderr);
    stage.assert_all_green();
    let journal = stage.journal();
    let at = |what: &str| journal.iter().position(|line| line.to_string().contains(what));
    let rolled_back = journal.iter().position(|line| line["state"]["phase"] == "rolled_back").unwrap();
    let begins = journal.iter().rposition(|line| line["begins"].is_object()).unwrap();
    assert!(at("superseded by shop 2.0").unwrap() < rolled_back && rolled_back < begins);
    assert_eq!(stage.promotion()["epoch"], 2);
}

/// 6. No data, and too little of it.
#[test]
fn no_data_and_low_traffic_never_pass() {
    for (from, to) in [("min_samples: 20", "min_samples: 100000"), ("rate: 100/s", "rate: 1/s")] {
        let stage = Stage::new(SHORT, "");
        stage.edit(from, to);
        stage.edit("undecided_for: 60s", "undecided_for: 1s");
        let ended = stage.promote(&["run"]);
        assert_eq!(ended.code, 1, "{to}: {}", ended.stderr);
        assert!(reason(&stage).contains("stayed undecided"), "{to}: {}", reason(&stage));
        for judgement in stage.promotion()["judgements"].as_array().unwrap() {
            assert_ne!(judgement["verdict"], "pass", "{to}");
        }
        stage.assert_all_blue();
    }
    // Green takes requests and never answers one: no figures are no good figures.
    let stage = Stage::new(SHORT, "");
    stage.green.answers.delay_ms.store(600_000, Ordering::SeqCst);
    stage.edit("requests: 20, timeout: 60s", "requests: 20, timeout: 8s");
    stage.edit("healthy_within: 60s", "healthy_within: 1s");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
}

/// 7. The sticky ratchet: with a choice for each request, every busy user soon meets the new side.
#[test]
fn a_user_with_a_cookie_stays_on_one_side_at_a_small_step_and_leaves_it_after_the_rollback() {
    let stage = Stage::with_backend(LONG, "", "  cookie side insert indirect nocache\n");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let ask = |cookie: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-D", "-"]);
        if let Some(cookie) = cookie {
            curl.args(["-H", &format!("Cookie: side={cookie}")]);
        }
        run(curl.arg(stage.haproxy.url())).stdout
    };
    // Whoever was given a side meets only that one, as often as they come.
    for (cookie, version) in [("b", "x-release: 1.0"), ("g", "x-release: 1.1")] {
        for _ in 0..30 {
            let answer = ask(Some(cookie));
            assert!(answer.contains(version), "{cookie}: {answer}");
        }
    }
    assert_eq!(stage.promote(&["abort"]).code, 1);
    for _ in 0..30 {
        let answer = ask(Some("g"));
        assert!(answer.contains("x-release: 1.0"), "no cookie leads to the new side any more: {answer}");
    }
    stage.assert_all_blue();
}

/// A job whose state was moved away must not lose its lease to a call that can only be refused.
#[test]
fn a_refused_start_on_a_lost_state_takes_no_lease_from_the_job_at_work() {
    let stage = Stage::new(LONG, "");
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let (state, aside) = (stage.path().join(".trapkey"), stage.path().join("aside"));
    std::fs::rename(&state, &aside).unwrap();
    let refused = stage.promote(&["start"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    // By the router, or by the lease where the job has just written it anew.
    let words = ["green already has 50 % of the traffic", "another job holds this environment"];
    assert!(words.iter().any(|words| refused.stderr.contains(words)), "{}", refused.stderr);
    // It watches on, and still goes back.
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", stage.document());
    assert_eq!(stage.outcome(), "rolled_back");
    stage.assert_all_blue();
}
