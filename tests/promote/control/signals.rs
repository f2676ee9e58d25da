//! INT, TERM and HUP to the real binary: the document is valid, the state goes on, and the last line says what is.

use std::fs::File;

use super::night::night;
use super::*;

/// A job whose terminal is a file. It heeds HUP also where these tests are run by `nohup`.
fn job(stage: &Stage) -> Child {
    let mut job = Command::new("env");
    job.args(["--default-signal=HUP,INT"]).arg(crate::support::binary("promote")).arg("run");
    job.current_dir(stage.path()).env_clear();
    for keep in ["PATH", "HOME", "TMPDIR"] {
        job.envs(std::env::var_os(keep).map(|value| (keep, value)));
    }
    job.stdin(Stdio::null()).stdout(Stdio::null());
    job.stderr(File::create(stage.path().join("terminal")).unwrap()).spawn().unwrap()
}

fn last_line(stage: &Stage) -> String {
    let text = std::fs::read_to_string(stage.path().join("terminal")).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

/// The command that a line names behind some words.
pub(super) fn after<'a>(line: &'a str, words: &str) -> &'a str {
    let (_, rest) = line.split_once(words).unwrap_or_else(|| panic!("no `{words}` in {line}"));
    rest.split(';').next().unwrap().trim()
}

const ALL: [&str; 3] = ["-INT", "-TERM", "-HUP"];

#[test]
fn a_signal_in_a_bake_leaves_what_goes_on_and_says_who_watches() {
    for name in ALL {
        let (stage, elsewhere) = (Stage::new(LONG, ""), folder());
        let child = job(&stage);
        stage.wait_for_phase("baking");
        signal(&child, name);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3), "{name}");
        assert_eq!(stage.document()["verdict"], "undecided", "{name}");
        let line = last_line(&stage);
        assert!(line.contains("nobody watches shop 1.1 in production now"), "{name}: {line}");
        assert!(line.contains("the router gives green 50 %"), "{name}: {line}");
        // Both commands go as they stand, from any folder, with no variable.
        let (on, back) = (after(&line, "this goes on: "), after(&line, "this goes back: "));
        if name == "-HUP" {
            stage.end_the_bake();
            let ended = night(elsewhere.path(), on);
            assert_eq!(ended.code, 0, "{name}: {on}: {}", ended.stderr);
            stage.assert_all_green();
        } else {
            let ended = night(elsewhere.path(), back);
            assert_eq!(ended.code, 1, "{name}: {back}: {}", ended.stderr);
            stage.assert_all_blue();
        }
    }
}

#[test]
fn a_signal_in_a_hook_ends_the_hook_and_says_how_it_stands() {
    for name in ALL {
        let hook = "  hooks: {deploy: [sh, -c, \"echo > began; exec sleep 600\"]}\n";
        let stage = Stage::new(LONG, hook);
        let child = job(&stage);
        wait_until("the hook", || stage.path().join("began").exists());
        signal(&child, name);
        // A hook that was cut off has failed, so that nothing was moved and the release is over.
        let ended = child.wait_with_output().unwrap().status.code();
        assert_eq!(ended, Some(1), "{name}: {}", last_line(&stage));
        assert_eq!(
            (stage.outcome().as_str(), stage.phase().as_str()),
            ("rolled_back", "rolled_back"),
            "{name}"
        );
        let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("the deploy hook failed"), "{name}: {reason}");
        let line = last_line(&stage);
        assert!(
            line.contains("is rolled back, and nobody needs to watch it; the router gives green 0 %"),
            "{line}"
        );
        stage.assert_all_blue();
    }
}

#[test]
fn a_signal_at_a_gate_leaves_the_gate_for_the_next_one() {
    for name in ALL {
        let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
        assert_eq!(stage.promote(&["start"]).code, 0);
        assert_eq!(stage.promote(&["pause"]).code, 0);
        stage.end_the_bake();
        let child = job(&stage);
        stage.wait_for_the_hold("paused it before step 2");
        signal(&child, name);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3), "{name}");
        let line = last_line(&stage);
        assert!(
            line.contains("nobody watches") && line.contains("the router gives green 10 %"),
            "{name}: {line}"
        );
        assert_eq!(stage.promote(&["resume"]).code, 0);
        stage.step_to_the_end(&[]);
        stage.assert_all_green();
    }
}

#[test]
fn no_signal_stops_a_way_back_and_neither_does_a_second_one() {
    for name in ALL {
        let hook = "echo > began; until [ -e go ]; do sleep 0.05; done; echo paged > paged.txt";
        let stage = Stage::new(LONG, &format!("  hooks: {{on_rollback: [sh, -c, \"{hook}\"]}}\n"));
        let child = job(&stage);
        stage.wait_for_phase("baking");
        stage.green.answers.fail_every.store(2, Ordering::SeqCst);
        wait_until("the hook of the way back", || stage.path().join("began").exists());
        signal(&child, name);
        signal(&child, "-TERM");
        // Both have come by the time that the job has answered a third question of ours.
        for _ in 0..3 {
            assert_eq!(stage.promote(&["status"]).code, 0);
        }
        signal(&child, "-INT");
        std::fs::write(stage.path().join("go"), "").unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1), "{name}");
        stage.assert_all_blue();
        assert!(stage.path().join("paged.txt").exists(), "{name}");
        assert_eq!(stage.outcome(), "rolled_back");
        let line = last_line(&stage);
        assert!(line.contains("is rolled back") && line.contains("the router gives green 0 %"), "{line}");
    }
}

#[test]
fn a_terminal_that_closes_says_so_more_than_once_and_the_document_is_written() {
    let stage = Stage::new(LONG, "");
    let child = job(&stage);
    stage.wait_for_phase("baking");
    // The kernel, the shell, and the end of the session.
    for name in ["-HUP", "-HUP", "-TERM", "-HUP"] {
        signal(&child, name);
    }
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
    assert_eq!(stage.document()["verdict"], "undecided");
    assert!(last_line(&stage).contains("nobody watches"), "{}", last_line(&stage));
    stage.end_the_bake();
    stage.step_to_the_end(&[]);
}

#[test]
fn nohup_is_heeded() {
    let stage = Stage::new("[{weight: 50%, bake: 10m}, {weight: 100%}]", "");
    let child = Command::new("env")
        .args(["--ignore-signal=HUP"])
        .arg(crate::support::binary("promote"))
        .arg("run")
        .current_dir(stage.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(stage.path().join("terminal")).unwrap())
        .spawn()
        .unwrap();
    stage.wait_for_phase("baking");
    signal(&child, "-HUP");
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1), "it was watched to its end");
    stage.assert_all_blue();
}

#[test]
fn a_terminal_that_is_gone_does_not_end_a_job() {
    // All of it is done; only a document that was to be handed over is an error.
    for (arguments, code) in [(&["run"][..], 0), (&["run", "--json"], 4)] {
        let stage = Stage::new("[{weight: 10%, bake: 2s}, {weight: 100%}]", "");
        let mut child = tool("promote", stage.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        stage.wait_for_phase("baking");
        // Whoever writes from now on gets SIGPIPE, or is told that the pipe is broken.
        drop((child.stdout.take(), child.stderr.take()));
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), Some(code), "{ended}");
        assert_eq!(stage.outcome(), "promoted");
        stage.assert_all_green();
    }
}

#[test]
fn a_second_signal_of_somebody_who_has_lost_patience_ends_a_job_that_is_not_on_its_way_back() {
    // The deploy hook takes its time to end, and gets it once.
    let hook = "trap '' TERM; echo > began; while :; do sleep 0.05; done";
    let stage = Stage::new(LONG, &format!("  hooks: {{deploy: [sh, -c, \"{hook}\"]}}\n"));
    let child = job(&stage);
    wait_until("the hook", || stage.path().join("began").exists());
    let hook_file = || {
        let folder = std::fs::read_dir(stage.path().join(".trapkey/production")).unwrap();
        folder.flatten().find(|e| e.file_name().to_string_lossy().starts_with("hook."))
    };
    let process = std::fs::read_to_string(hook_file().unwrap().path()).unwrap();
    signal(&child, "-INT");
    let mut child = child;
    wait_until("the end", || {
        // Once the first one was seen, the next one is the second.
        signal_if_there(&child, "-INT");
        child.try_wait().unwrap().is_some()
    });
    let code = child.wait().unwrap().code();
    // It may have come to the end of the hook's grace first, on a machine that was busy enough.
    assert!([Some(130), Some(1)].contains(&code), "{code:?}");
    let pid: String =
        process.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    if let Some(group) = pid.parse::<u32>().ok().filter(|_| code == Some(130)) {
        // The hook that was left behind is ours.
        let _ =
            Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_cancel_of_a_ci_system_is_one_wish_however_many_signals_it_has() {
    let hook = "trap '' TERM; echo > began; while :; do sleep 0.05; done";
    let stage = Stage::new(LONG, &format!("  hooks: {{deploy: [sh, -c, \"{hook}\"]}}\n"));
    let mut child = job(&stage);
    wait_until("the hook", || stage.path().join("began").exists());
    // The second one comes while the hook has its time to clean up.
    for name in ["-INT", "-TERM"] {
        signal(&child, name);
    }
    let ended = child.wait().unwrap();
    assert!(ended.code().is_some_and(|code| code != 130), "{ended}");
    let document = stage.document();
    assert!(document["verdict"] != "pass" && document["promotion"].is_object(), "{document}");
}

fn signal_if_there(child: &Child, name: &str) {
    let _ = Command::new("kill").args([name, &child.id().to_string()]).stderr(Stdio::null()).status();
}
