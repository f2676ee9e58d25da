//! Once, in order, and by whom it belongs to: hooks that outlive their job or hear of a late abort, a job
//! that wakes up after others, another build in the place of the one that was judged, a router that is away.

use super::*;
use crate::support::wait_for;

/// A script of a hook that logs its beginning and its end, and lasts until the file `go` is there.
const WAITS: &str = "#!/bin/sh\necho \"$TRAPKEY_HOOK begins\" >>log\nwhile [ ! -e go ]; do sleep 0.05; done\necho \"$TRAPKEY_HOOK ends\" >>log\n";
const BRIEF: &str = "#!/bin/sh\necho \"$TRAPKEY_HOOK begins\" >>log\necho \"$TRAPKEY_HOOK ends\" >>log\n";

/// A stage whose hooks are scripts of its own.
fn hooked(steps: &str, hooks: &[(&str, &str)]) -> Stage {
    use std::os::unix::fs::PermissionsExt as _;
    let named: Vec<String> = hooks.iter().map(|(name, _)| format!("{name}: [./{name}.sh]")).collect();
    let stage = Stage::new(steps, &format!("  hooks: {{{}}}\n", named.join(", ")));
    for (name, script) in hooks {
        let path = stage.path().join(format!("{name}.sh"));
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    stage
}

fn log(stage: &Stage) -> Vec<String> {
    let text = std::fs::read_to_string(stage.path().join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Starts `promote` with its talk in a file.
fn talking(stage: &Stage, arguments: &[&str]) -> Child {
    let talk = std::fs::File::create(stage.path().join("talk")).unwrap();
    tool("promote", stage.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(talk)
        .spawn()
        .unwrap()
}

fn wait_for_talk(stage: &Stage, words: &str) {
    wait_until(words, || std::fs::read_to_string(stage.path().join("talk")).unwrap().contains(words));
}

/// Waits until the process of the hook is noted: a job that is killed before that leaves one that nobody finds.
fn wait_for_the_note(stage: &Stage) {
    wait_until("the note of the hook", || {
        let entries = std::fs::read_dir(stage.path().join(".trapkey/production")).unwrap();
        entries.flatten().any(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|ext| ext == "json")
                && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("hook."))
        })
    });
}

fn code(mut child: Child) -> Option<i32> {
    wait_for("the job", || child.try_wait().unwrap()).code()
}

#[test]
fn a_hook_that_outlived_its_job_is_waited_for_before_the_next_one_begins() {
    let stage = hooked(SHORT, &[("deploy", WAITS), ("on_rollback", BRIEF)]);
    let mut killed = stage.spawn(&["run"]);
    wait_until("the hook", || log(&stage) == ["deploy begins"]);
    wait_for_the_note(&stage);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let next = talking(&stage, &["run"]);
    wait_for_talk(&stage, "is still at work");
    assert_eq!(log(&stage), ["deploy begins"]);
    std::fs::write(stage.path().join("go"), "").unwrap();
    assert_eq!(code(next), Some(1), "how the deploy ended is not known, so it goes back");
    assert_eq!(log(&stage), ["deploy begins", "deploy ends", "on_rollback begins", "on_rollback ends"]);
    stage.assert_all_blue();
}

#[test]
fn a_hook_that_outlived_its_job_and_never_ends_is_ended_when_its_time_is_over() {
    let stage = hooked(SHORT, &[("deploy", WAITS), ("on_rollback", BRIEF)]);
    stage.edit("hooks: {", "hooks: {timeout: \"${LIMIT:-10m}\", ");
    stage.edit("version: 1\n", "version: 1\nmay_differ: [LIMIT]\n");
    let mut killed = stage.spawn(&["run"]);
    wait_until("the hook", || log(&stage) == ["deploy begins"]);
    wait_for_the_note(&stage);
    killed.kill().unwrap();
    killed.wait().unwrap();
    // The file `go` never comes.
    assert_eq!(code(stage.spawn(&["run", "--set", "LIMIT=1s"])), Some(1));
    assert_eq!(log(&stage), ["deploy begins", "on_rollback begins", "on_rollback ends"]);
}

#[test]
fn an_abort_that_comes_while_the_retire_hook_runs_is_too_late_and_begins_nothing_again() {
    // As somebody leaves it who has read the record before, and writes after, the job's last look.
    let asks = "#!/bin/sh\necho ran >>log\necho '{\"epoch\": 1, \"who\": \"ann\", \"at\": \"now\"}' >.trapkey/production/abort.json\n";
    let stage = hooked(SHORT, &[("retire", asks)]);
    assert_eq!(code(stage.spawn(&["run"])), Some(0));
    assert_eq!(log(&stage), ["ran"]);
    stage.assert_all_green();
    assert_eq!(stage.outcome(), "promoted");
}

#[test]
fn a_hook_whose_job_is_asked_to_stop_may_clean_up_and_what_it_left_undone_is_told() {
    let cleans = "#!/bin/sh\ntrap 'echo cleaned >>log; exit 1' TERM\necho begins >>log\nwhile :; do sleep 0.05; done\n";
    let stage = hooked(SHORT, &[("retire", cleans)]);
    let job = talking(&stage, &["run"]);
    wait_until("the hook", || log(&stage) == ["begins"]);
    terminate(&job);
    assert_eq!(code(job), Some(4));
    assert_eq!(log(&stage), ["begins", "cleaned"]);
    wait_for_talk(&stage, "the retire hook was ended half way");
    stage.assert_all_green();
    // It is not begun again, and the release is what it was.
    assert_eq!(stage.promote(&["step"]).code, 0);
    assert_eq!(log(&stage), ["begins", "cleaned"]);
}

#[test]
fn an_abort_that_does_not_wait_for_a_long_hook_says_that_it_is_left() {
    let stage = hooked(SHORT, &[("deploy", WAITS), ("on_rollback", BRIEF)]);
    let job = stage.spawn(&["run"]);
    wait_until("the hook", || log(&stage) == ["deploy begins"]);
    let abort = talking(&stage, &["abort"]);
    wait_until("the request", || stage.path().join(".trapkey/production/abort.json").exists());
    terminate(&abort);
    assert_eq!(code(abort), Some(3));
    let talk = std::fs::read_to_string(stage.path().join("talk")).unwrap();
    assert!(talk.contains("the abort is left for the job that works"), "{talk}");
    assert!(!talk.contains("promote abort"), "who has just called it is not told to call it: {talk}");
    std::fs::write(stage.path().join("go"), "").unwrap();
    assert_eq!(code(job), Some(1));
    assert_eq!(log(&stage), ["deploy begins", "deploy ends", "on_rollback begins", "on_rollback ends"]);
    stage.assert_all_blue();
}

#[test]
fn a_job_that_wakes_up_after_two_further_releases_turns_nothing_round() {
    let folder = folder();
    let (a, b) = (Side::start("1.0"), Side::start("1.1"));
    let real = router::start("command", folder.path(), a.port, b.port);
    let script = folder.path().join("route.sh");
    // The first call that gives green its half is held, after the router has taken it.
    let text = std::fs::read_to_string(&script).unwrap();
    let hold = "\n    if [ -e hold ] && [ \"$2\" = 50 ]; then touch held; while [ ! -e go ]; do sleep 0.05; done; fi ;;\n  get)";
    std::fs::write(&script, text.replacen(";;\n  get)", hold, 1)).unwrap();
    std::fs::write(folder.path().join("hold"), "").unwrap();
    let release = |blue: &Side, green: &Side, turned: bool| {
        let block = real.router(blue.port, green.port);
        let block = if turned { turned_round(&block) } else { block };
        std::fs::write(folder.path().join("release.yaml"), plan(&block, blue, green, SHORT, "")).unwrap();
    };
    release(&a, &b, false);
    let late = tool("promote", folder.path())
        .arg("run")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("its call", || folder.path().join("held").exists());
    stop(&late);
    std::fs::remove_file(folder.path().join("hold")).unwrap();
    // By what it wrote its lease is over, and others need watch it for a moment only.
    let lease = folder.path().join(".trapkey/production/lease.json");
    let mut written = json(&lease);
    (written["until_ms"], written["lasts_ms"]) = (0.into(), 200.into());
    std::fs::write(&lease, written.to_string()).unwrap();
    let second = call("promote", folder.path(), &["run"]);
    assert_eq!(second.code, 0, "{}", second.stderr);
    // The next release goes the other way, and is finished.
    a.says("1.2");
    release(&b, &a, true);
    let third = call("promote", folder.path(), &["run", "--set", "VERSION=1.2"]);
    assert_eq!(third.code, 0, "{}", third.stderr);
    let before = real.held();
    std::fs::write(folder.path().join("go"), "").unwrap();
    signal(&late, "-CONT");
    let woken = late.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&woken.stderr).into_owned();
    assert_eq!(woken.status.code(), Some(5), "{told}");
    assert!(told.contains("this job has lost its lease"), "{told}");
    assert_eq!(real.held(), before, "{told}");
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..20 {
        assert_eq!(client.get(&real.url()).unwrap().header("x-release"), Some("1.2"));
    }
}

/// The block of the command router with the sides changed over.
fn turned_round(block: &str) -> String {
    let turned = block
        .replace("\"{green}\", \"{blue}\"", "\"{blue}\", \"{green}\"")
        .replace("retire, \"{side}\"", "other, \"{side}\"")
        .replace("sh, get]", "sh, reversed]");
    assert_ne!(turned, *block);
    turned
}

#[test]
fn another_build_in_greens_place_ends_the_release() {
    let stage = Stage::new(LONG, "");
    let job = stage.spawn(&["run"]);
    wait_until("the first looks", || stage.green.served() > 40);
    stage.green.says("1.1-rebuilt");
    assert_eq!(code(job), Some(1));
    stage.assert_all_blue();
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("green answers as `1.1-rebuilt`") && reason.contains("`1.1`"), "{reason}");
}

#[test]
fn a_router_that_is_away_for_a_while_is_waited_for_and_the_release_goes_on() {
    let mut stage = Stage::new("[{weight: 50%, bake: 1s}, {weight: 100%}]", "");
    let paused = stage.promote(&["start"]);
    assert_eq!(paused.code, 0, "{}", paused.stderr);
    assert_eq!(stage.promote(&["pause"]).code, 0);
    let job = talking(&stage, &["run"]);
    stage.wait_for_the_hold("paused");
    stage.haproxy.stop();
    wait_for_talk(&stage, "it may be restarting");
    stage.haproxy.restart();
    assert_eq!(stage.promote(&["resume"]).code, 0);
    assert_eq!(code(job), Some(0));
    stage.assert_all_green();
    let decisions = stage.promotion()["decisions"].to_string();
    assert!(decisions.contains("put it back"), "the weight that the restart has lost: {decisions}");
}

#[test]
fn a_server_that_the_deploy_hook_has_started_is_nobodys_hook() {
    // With job control each command in the background leads a process group of its own, as a hook does.
    let starts = "#!/bin/bash\nset -m\nsleep 600 >/dev/null 2>&1 &\necho $! >server\n";
    let stage = hooked(SHORT, &[("deploy", starts), ("after", BRIEF)]);
    stage.edit("hooks: {", "hooks: {timeout: 60s, ");
    assert_eq!(code(stage.spawn(&["run"])), Some(0));
    let server = std::fs::read_to_string(stage.path().join("server")).unwrap();
    let ended = Command::new("kill").arg(server.trim()).status().unwrap();
    assert!(ended.success(), "it still runs, until this test ends it");
}

#[test]
fn an_abort_that_comes_while_a_hook_that_outlived_its_job_is_waited_for_wins() {
    let stage = hooked(SHORT, &[("after", WAITS)]);
    let mut killed = stage.spawn(&["run"]);
    wait_until("the hook", || log(&stage) == ["after begins"]);
    wait_for_the_note(&stage);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let next = talking(&stage, &["run"]);
    wait_for_talk(&stage, "is still at work");
    assert_eq!(stage.promote(&["abort"]).code, 1);
    assert_eq!(code(next), Some(1));
    stage.assert_all_blue();
    assert_eq!(log(&stage), ["after begins"], "users went back without waiting for it");
    std::fs::write(stage.path().join("go"), "").unwrap();
    wait_until("the hook to end", || log(&stage).len() == 2);
}

#[test]
fn what_the_router_adds_for_a_side_is_not_held_against_what_the_side_says() {
    let stage = Stage::new(SHORT, "");
    for (side, port) in [("blue", stage.blue.port), ("green", stage.green.port)] {
        let url = format!("{side}: {{url: \"http://127.0.0.1:{port}\"");
        let release = if side == "blue" { "1.0" } else { "1.1" };
        stage.edit(&url, &format!("{url}, release: \"{release}\""));
    }
    let job = stage.spawn(&["run"]);
    wait_until("the first looks", || stage.green.served() > 40);
    assert_eq!(code(job), Some(0));
    stage.assert_all_green();
}

#[test]
fn every_judgement_says_how_many_servers_the_probes_have_met() {
    let stage = Stage::new(SHORT, "");
    assert_eq!(stage.promote(&["run"]).code, 0);
    assert_eq!(stage.promotion()["judgements"][0]["servers"], Value::Null, "no header tells them apart");
    let stage = Stage::new(SHORT, "");
    stage.edit("probe: {path: /,", "probe: {path: /, server_header: X-Release,");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let judgements = stage.promotion()["judgements"].clone();
    let last = judgements.as_array().unwrap().last().unwrap()["servers"].clone();
    assert_eq!((&last["blue"], &last["green"]), (&1.into(), &1.into()), "{judgements}");
}

#[test]
fn a_hook_gets_its_environment_as_it_is_and_nothing_that_is_no_program_runs() {
    let stage = Stage::new(SHORT, "  hooks: {deploy: [sh, -c, \"cat; env > env.txt; echo $$ > pid.txt\"]}\n");
    let mut job = tool("promote", stage.path());
    // A shell in between would drop what is no name of its own.
    job.arg("run").env("spring.datasource.url", "jdbc").env("INPUT_MY-INPUT", "x");
    let ended = job.output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let seen = std::fs::read_to_string(stage.path().join("env.txt")).unwrap();
    for line in ["spring.datasource.url=jdbc", "INPUT_MY-INPUT=x", "TRAPKEY_HOOK=deploy"] {
        // `sh` itself keeps them for its children or not; the hook's own process has them.
        let kept = seen.lines().any(|found| found == line);
        assert!(kept || line.contains(['.', '-']), "{line}: {seen}");
    }

    // A deploy script that was cut to nothing has deployed nothing.
    let stage = Stage::new(SHORT, "  hooks: {deploy: [./deploy.sh]}\n");
    let script = stage.path().join("deploy.sh");
    std::fs::write(&script, "").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("could not be started"), "{}", ended.stderr);
    stage.assert_all_blue();
}

#[test]
fn the_gate_of_a_hook_opens_at_its_word_alone() {
    let folder = crate::support::folder();
    let gate = |word: &str| {
        let script = format!("echo $$ > pid; cat; touch {word}-ran");
        let mut gate = tool("promote", folder.path());
        let mut gate = gate
            .args(["hook-gate", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = gate.id();
        let mut pipe = gate.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, format!("{word}\n").as_bytes()).unwrap();
        drop(pipe);
        (pid, gate.wait().unwrap().code())
    };
    let (pid, code) = gate("go");
    assert_eq!(code, Some(0));
    let same = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    assert_eq!(same.trim(), pid.to_string(), "it keeps its number");
    assert!(folder.path().join("go-ran").exists());
    for word in ["no", ""] {
        assert_eq!(gate(word).1, Some(127));
        assert!(!folder.path().join(format!("{word}-ran")).exists());
    }
}

#[test]
fn a_state_that_is_lost_under_a_job_leads_back_and_one_file_of_it_is_written_anew() {
    for lost in ["", "state.json", "lease.json"] {
        let stage = Stage::new(LONG, "");
        let mut job = stage.spawn(&["run"]);
        let page = stage.path().join("evidence/promote.json");
        wait_until("its page", || page.exists() && stage.promotion()["weight"] == 0.5);
        let state = stage.path().join(".trapkey/production");
        if lost.is_empty() {
            std::fs::remove_dir_all(&state).unwrap();
        } else {
            std::fs::remove_file(state.join(lost)).unwrap();
        }
        // Whatever it can still write, users do not stay on a green that fails.
        stage.green.answers.fail_every.store(2, Ordering::SeqCst);
        let code = wait_for("the job", || job.try_wait().unwrap()).code();
        assert!([Some(1), Some(4)].contains(&code), "{lost}: {code:?}");
        stage.assert_all_blue();
        assert_eq!(stage.phase(), "rolled_back", "{lost}");
    }
}
