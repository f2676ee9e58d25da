//! The shipped workflows: what their scripts do with what comes from outside, and with exit codes.

use super::*;
use crate::support::binary;

/// What strangers may send in any field.
const HOSTILE: &str = "$(touch pwned) `touch pwned` \"; touch pwned; ' ${HOME} | & > pwned \\ *";

fn workflow(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/workflows").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The script of a step, as the runner would get it.
fn script(workflow: &str, step: &str) -> String {
    let mut lines = workflow.lines().skip_while(|line| line.trim() != format!("- name: {step}"));
    assert!(lines.next().is_some(), "no step `{step}`");
    let mut lines = lines.skip_while(|line| line.trim() != "run: |");
    let head = lines.next().unwrap();
    let depth = head.len() - head.trim_start().len() + 2;
    let inside = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() >= depth;
    lines.take_while(inside).map(|line| format!("{}\n", line.get(depth..).unwrap_or_default())).collect()
}

/// A script as the runner starts it with `shell: bash`.
fn as_a_step(file: &Path) -> Command {
    let mut command = Command::new("bash");
    command.args(["--noprofile", "--norc", "-e", "-o", "pipefail"]).arg(file);
    command
}

/// A folder with programs that write down how they were called, and end as they are told.
struct Runner {
    folder: tempfile::TempDir,
}

impl Runner {
    fn new() -> Self {
        let runner = Self { folder: folder() };
        let bin = runner.folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for tool in ["preflight", "snapshot", "promote", "verify"] {
            let path = bin.join(tool);
            let text = "#!/bin/sh\nprintf '%s' \"${0##*/}\" >>calls\nprintf '<%s>' \"$@\" >>calls\necho >>calls\n\
                        printf '%s' \"$FAKE_OUTPUTS\" >>\"$GITHUB_OUTPUT\"\nexit \"${FAKE_EXIT:-0}\"\n";
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        runner
    }

    /// Runs a script as GitHub's runner does; returns how it ended and what it called.
    fn run(&self, script: &str, variables: &[(&str, &str)]) -> (Ended, Vec<String>) {
        let folder = self.folder.path();
        let file = folder.join("script.sh");
        std::fs::write(&file, script).unwrap();
        for name in ["calls", "output", "summary"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let ended = run(as_a_step(&file)
            .current_dir(folder)
            .env("GITHUB_WORKSPACE", folder)
            .env("BIN_DIR", folder.join("bin"))
            .env("GITHUB_OUTPUT", folder.join("output"))
            .env("GITHUB_STEP_SUMMARY", folder.join("summary"))
            .env("ENVIRONMENTS", "staging production")
            .env("TRAPKEY_ENVIRONMENT", "production")
            .envs(variables.iter().copied()));
        assert!(!folder.join("pwned").exists(), "a value was run as code");
        let calls = std::fs::read_to_string(folder.join("calls")).unwrap();
        (ended, calls.lines().map(str::to_owned).collect())
    }
}

#[test]
fn no_expression_stands_inside_a_script() {
    for name in ["promote-step.yml", "promote-control.yml", "drill.yml", "../../.github/workflows/deploy.yml"]
    {
        let text = workflow(name);
        let mut inside = None;
        for line in text.lines() {
            let depth = line.len() - line.trim_start().len();
            if inside.is_some_and(|at| depth > at || line.trim().is_empty()) {
                assert!(!line.contains("${{"), "{name}: {line}");
            } else {
                inside = (line.trim() == "run: |").then_some(depth);
            }
        }
    }
}

#[test]
fn a_step_that_waits_for_people_is_a_notice_and_every_other_end_is_as_it_is() {
    let (runner, script) = (Runner::new(), script(&workflow("promote-step.yml"), "Look, and go on or back"));
    for (exit, outputs, expected) in [
        ("0", "state=waiting\n", 0),
        ("1", "state=rolled_back\n", 1),
        ("3", "state=waiting\nwaits_for_approval=product_owner\n", 0),
        ("3", "state=in_progress\n", 3),
        ("3", "state=waiting\nwaits_for_approval=\n", 3),
        ("4", "waits_for_approval=product_owner\n", 4),
        ("5", "", 5),
    ] {
        let (ended, calls) =
            runner.run(&script, &[("FAKE_EXIT", exit), ("FAKE_OUTPUTS", outputs), ("COMMIT", "")]);
        assert_eq!(ended.code, expected, "{exit} {outputs:?}: {}", ended.stderr);
        assert_eq!(ended.stdout.contains("::notice"), exit == "3" && expected == 0);
        assert_eq!(calls, ["promote<step>"]);
    }
}

#[test]
fn the_summary_says_where_it_stands_and_when_to_look_again() {
    let (runner, script) = (Runner::new(), script(&workflow("promote-step.yml"), "Say where it stands"));
    let said = [
        ("SUMMARY", HOSTILE),
        ("STATE", "waiting"),
        ("WEIGHT", "5 %"),
        ("NEXT_AT", "2026-01-02T05:00:00Z"),
        ("MISSING", "product_owner"),
    ];
    let (ended, _) = runner.run(&script, &said);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary = std::fs::read_to_string(runner.folder.path().join("summary")).unwrap();
    assert_eq!(
        summary,
        format!(
            "{HOSTILE}\n\n- state: waiting, 5 % on the new side\n- next look due at 2026-01-02T05:00:00Z\n\
             - waits for the approval of product_owner\n"
        )
    );
}

/// A script, the command, its variables, and what is called.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn control_calls_hand_on_what_came_in_as_it_is() {
    let (runner, text) = (Runner::new(), workflow("promote-control.yml"));
    let (stop, go) = (script(&text, "Look or stop"), script(&text, "Go on"));
    let (approve, known) = (script(&text, "Approve"), script(&text, "Is it understood?"));
    let reason = format!("promote<abort><--reason={HOSTILE}>");
    let role = format!("--role={HOSTILE}");
    let flag = format!("promote<flag><set><--percentage={HOSTILE}><--group=a><--group=*><--><{HOSTILE}>");
    let cases: &[Case<'_>] = &[
        (&stop, "status", &[], &["promote<status>"]),
        (&stop, "validate", &[], &["promote<plan>"]),
        (&stop, "pause", &[], &["promote<pause>"]),
        (&stop, "abort", &[("REASON", HOSTILE)], &[&reason]),
        (&stop, "abort", &[], &["promote<abort><--reason=by workflow>"]),
        (&go, "resume", &[], &["promote<resume>"]),
        (&known, "start", &[("VERSION", "1.4.2")], &[]),
        (&known, "resume", &[("TRAPKEY_TRUST", "/etc/trust")], &[]),
        (&script(&text, "Record the baseline"), "start", &[], &["verify<baseline>"]),
        (&script(&text, "May we?"), "start", &[], &["preflight<>"]),
        (&script(&text, "Make the way back"), "start", &[], &["snapshot<create>"]),
        (&go, "start", &[], &["promote<start>"]),
        (&go, "flag", &[("FLAG", "new"), ("VALUE", "on")], &["promote<flag><set><--on><--><new>"]),
        (&go, "flag", &[("FLAG", HOSTILE), ("VALUE", HOSTILE), ("GROUPS_OF_FLAG", "a *")], &[&flag]),
        (
            &go,
            "flag",
            &[("FLAG", "--on"), ("GROUPS_OF_FLAG", "b")],
            &["promote<flag><set><--group=b><--><--on>"],
        ),
    ];
    for (script, command, variables, expected) in cases {
        let command = format!("trapkey-{command}");
        let all = [&[("COMMAND", command.as_str())][..], variables].concat();
        let (ended, calls) = runner.run(script, &all);
        assert_eq!(ended.code, 0, "{command}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(calls, *expected, "{command}");
    }
    let (ended, calls) = runner.run(&approve, &[("ROLE", HOSTILE), ("TRAPKEY_SIGN_KEY_PEM", "the-key")]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(calls, [format!("promote<approve><{role}><--reason=by workflow>")]);
}

#[test]
fn a_control_call_is_refused_where_it_is_not_understood() {
    let (runner, text) = (Runner::new(), workflow("promote-control.yml"));
    let first = "Which release is it about?";
    let steps = [
        ("Look or stop", "abort"),
        ("Is it understood?", "resume"),
        ("Approve", "approve"),
        (first, "approve"),
    ];
    for (step, command) in steps {
        let script = script(&text, step);
        let command = format!("trapkey-{command}");
        for environment in ["", "prod", "staging production", "*", HOSTILE] {
            let (ended, calls) =
                runner.run(&script, &[("COMMAND", &command), ("TRAPKEY_ENVIRONMENT", environment)]);
            assert_eq!((ended.code, calls.len()), (2, 0), "{step} {environment}: {}", ended.stdout);
        }
        // The keys that count must not lie where the plan comes from; before a way back nothing stands.
        if [first, "Is it understood?"].contains(&step) {
            let inside = runner.folder.path().join("trust").display().to_string();
            for trust in ["trust", "./trust", "../trust", &inside] {
                let all = [("COMMAND", command.as_str()), ("TRAPKEY_TRUST", trust)];
                let (ended, calls) = runner.run(&script, &all);
                assert_eq!((ended.code, calls.len()), (2, 0), "{step} {trust}: {}", ended.stdout);
                assert!(ended.stdout.contains("TRAPKEY_TRUST must be an absolute path"), "{}", ended.stdout);
            }
        }
        if command != "trapkey-approve" {
            for unknown in ["", "trapkey-", "trapkey-undo", HOSTILE] {
                let (ended, calls) = runner.run(&script, &[("COMMAND", unknown)]);
                assert_eq!((ended.code, calls.len()), (2, 0), "{step} {unknown}");
            }
        }
    }
    let known = script(&text, "Is it understood?");
    let (ended, calls) = runner.run(&known, &[("COMMAND", "trapkey-start"), ("VERSION", "unknown")]);
    assert_eq!((ended.code, calls.len()), (2, 0));
}

#[test]
fn an_abort_by_workflow_is_well_when_it_has_rolled_back_and_only_then() {
    let (runner, script) = (Runner::new(), script(&workflow("promote-control.yml"), "Look or stop"));
    for (exit, outputs, expected) in [
        ("1", "state=rolled_back\n", 0),
        ("1", "state=frozen\n", 1),
        ("1", "", 1),
        ("4", "state=rolled_back\n", 4),
        ("5", "", 5),
    ] {
        let all = [("COMMAND", "trapkey-abort"), ("FAKE_EXIT", exit), ("FAKE_OUTPUTS", outputs)];
        assert_eq!(runner.run(&script, &all).0.code, expected, "{exit} {outputs:?}");
    }
}

#[test]
fn the_scheduled_workflow_takes_a_release_to_its_end_with_the_real_tool() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let (text, whole) = (workflow("promote-step.yml"), "ab12".repeat(10));
    let (look, step) = (script(&text, "Is a release under way?"), script(&text, "Look, and go on or back"));
    let round = |script: &str, version: &str, commit: &str| {
        let variables =
            [("VERSION", version), ("COMMIT", commit), ("GITHUB_SHA", "the-commit-of-the-schedule")];
        let (ended, outputs) = for_real(&stage, script, &variables);
        let get = |name: &str| {
            let line = outputs.lines().rev().find_map(|l| l.strip_prefix(&format!("{name}=")));
            line.unwrap_or_default().to_owned()
        };
        (ended, get("due"), get("version"), get("commit"), get("state"))
    };
    let (ended, due, ..) = round(&look, "unknown", "");
    assert_eq!((ended.code, due.as_str()), (0, "false"), "{}", ended.stderr);
    let started =
        run(tool("promote", stage.path()).arg("start").env("VERSION", "7.0").env("GITHUB_SHA", &whole));
    assert_eq!(started.code, 0, "{}", started.stderr);
    stage.end_the_bake();
    let mut states = Vec::new();
    wait_until("the schedule to have nothing to do", || {
        let (ended, due, version, commit, _) = round(&look, "unknown", "");
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        if due == "false" {
            return true;
        }
        assert_eq!((version.as_str(), commit.as_str()), ("7.0", whole.as_str()));
        let (ended, .., state) = round(&step, &version, &commit);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        states.push(state);
        false
    });
    assert_eq!(states.last().map(String::as_str), Some("promoted"), "{states:?}");
    stage.assert_all_green();
}

#[test]
fn an_abort_by_workflow_takes_traffic_back_with_the_real_tool() {
    let stage = Stage::new(LONG, "");
    let script = script(&workflow("promote-control.yml"), "Look or stop");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let call = |command: &str, environments: &str| {
        let variables = [
            ("COMMAND", command),
            ("REASON", "orders drop"),
            ("VERSION", "unknown"),
            ("ENVIRONMENTS", environments),
            ("TRAPKEY_ENVIRONMENT", "production"),
        ];
        for_real(&stage, &script, &variables).0
    };
    assert_eq!(call("trapkey-abort", "staging").code, 2);
    assert_eq!(stage.phase(), "baking");
    let validated = call("trapkey-validate", "production");
    assert!(validated.code == 0 && validated.stdout.contains("50 % on green"), "{}", validated.stdout);
    assert_eq!(call("trapkey-pause", "production").code, 0);
    assert!(call("trapkey-status", "production").stdout.contains("paused"));
    let aborted = call("trapkey-abort", "production");
    assert_eq!(aborted.code, 0, "{}", aborted.stderr);
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().ends_with(": orders drop"));
}

#[test]
fn an_approval_by_workflow_opens_the_gate_with_the_real_tool() {
    let steps = "[{weight: 10%, bake: 10m}, {weight: 100%, approve: [product_owner]}]";
    let stage = Stage::new(steps, "  approvers: {product_owner: [olga]}\n");
    gates::key(&stage, "ci", "");
    gates::key(&stage, "olga", "approvers");
    let signed = ["--trust", "trust", "--sign-key", "ci.key"];
    assert_eq!(stage.promote(&[&["start"], &signed[..]].concat()).code, 0);
    let script = script(&workflow("promote-control.yml"), "Approve");
    let key = std::fs::read_to_string(stage.path().join("olga.key")).unwrap();
    let trust = stage.path().join("trust").display().to_string();
    let variables = [
        ("ROLE", "product_owner"),
        ("REASON", "figures are fine"),
        ("TRAPKEY_SIGN_KEY_PEM", key.as_str()),
        ("VERSION", "unknown"),
        ("ENVIRONMENTS", "production"),
        ("TRAPKEY_ENVIRONMENT", "production"),
        ("TRAPKEY_TRUST", trust.as_str()),
        ("GITHUB_SHA", "another-commit"),
    ];
    let (ended, _) = for_real(&stage, &script, &variables);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.end_the_bake();
    stage.step_to_the_end(&signed);
    stage.assert_all_green();
    assert_eq!(stage.promotion()["approvals"][0]["reason"], "figures are fine");
}

/// A repository with a main branch, a release branch, a pull request and what else a state could name.
struct Repository {
    folder: tempfile::TempDir,
    on_main: String,
    on_release: String,
    of_a_pull: String,
}

impl Repository {
    fn new() -> Self {
        let folder = folder();
        let git = |arguments: &[&str]| {
            let ended = run(Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"])
                .args(arguments)
                .current_dir(folder.path())
                .env("GIT_CONFIG_GLOBAL", "/dev/null"));
            assert_eq!(ended.code, 0, "git {arguments:?}: {}", ended.stderr);
            ended.stdout.trim().to_owned()
        };
        let commit = |text: &str| {
            std::fs::write(folder.path().join("release.yaml"), text).unwrap();
            git(&["add", "release.yaml"]);
            git(&["commit", "--quiet", "--message", text]);
            git(&["rev-parse", "HEAD"])
        };
        git(&["init", "--quiet"]);
        let on_main = commit("begun with");
        let tip = commit("newer");
        git(&["checkout", "--quiet", "-b", "side", &on_main]);
        let on_release = commit("on a release branch");
        git(&["update-ref", "refs/remotes/origin/release/1.4", "HEAD"]);
        git(&["checkout", "--quiet", "--detach", &on_main]);
        let of_a_pull = commit("of a stranger");
        git(&["update-ref", "refs/pull/7/merge", "HEAD"]);
        git(&["tag", "v1.4.2"]);
        // A branch that is called like a commit does not become one.
        git(&["update-ref", &format!("refs/heads/{}", "a".repeat(40)), "HEAD"]);
        git(&["checkout", "--quiet", "--detach", &tip]);
        Self { folder, on_main, on_release, of_a_pull }
    }

    fn plan(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("release.yaml")).unwrap()
    }
}

#[test]
fn only_a_commit_of_a_branch_that_releases_come_from_is_run_with_the_secrets() {
    let (step, control) = (workflow("promote-step.yml"), workflow("promote-control.yml"));
    let name = "Take the plan of the commit that it was begun with";
    let script = script(&step, name);
    assert_eq!(script, self::script(&control, name), "the two workflows go apart");
    for (text, then) in [(&step, "- name: Look, and go on or back"), (&control, "- name: Approve")] {
        assert!(!text.contains("ref:") && text.find(name).unwrap() < text.find(then).unwrap());
    }
    let repository = Repository::new();
    let take = |commit: &str, branches: &str| {
        let file = repository.folder.path().join(".git/script.sh");
        std::fs::write(&file, &script).unwrap();
        run(as_a_step(&file)
            .current_dir(repository.folder.path())
            .env("COMMIT", commit)
            .env("BRANCHES", branches)
            .env("GIT_CONFIG_GLOBAL", "/dev/null"))
    };
    let (short, upper) = (&repository.on_main[..12], repository.of_a_pull.to_uppercase());
    let wrong = [
        "refs/pull/7/merge",
        "v1.4.2",
        "main",
        "HEAD",
        "--help",
        "-",
        short,
        &upper,
        HOSTILE,
        " ",
        "side",
        &"a".repeat(40),
        &"0".repeat(40),
        &"0".repeat(64),
        &repository.of_a_pull,
        &repository.on_release,
        &format!("{}\n", repository.on_main),
        &format!("{}^", repository.on_main),
    ];
    for wrong in wrong {
        let ended = take(wrong, "");
        assert_eq!((ended.code, repository.plan().as_str()), (5, "newer"), "{wrong}: {ended:?}");
        assert!(ended.stdout.starts_with("::error title=Trapkey::the promote state names "), "{wrong}");
    }
    for other in ["main", "release/1.5", "pull/7/merge", "*", "release/*", HOSTILE] {
        assert_eq!(take(&repository.of_a_pull, other).code, 5, "{other}");
    }
    let ended = take(&repository.on_main, "");
    assert_eq!((ended.code, repository.plan().as_str()), (0, "begun with"), "{ended:?}");
    let ended = take(&repository.on_release, "release/1.3 release/1.4");
    assert_eq!((ended.code, repository.plan().as_str()), (0, "on a release branch"), "{ended:?}");
}

#[test]
fn a_state_that_names_no_commit_gives_the_job_none_to_check_out() {
    let stage = Stage::new(LONG, "");
    let whole = "ab12".repeat(10);
    let started = run(tool("promote", stage.path()).arg("start").env("GITHUB_SHA", &whole));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let look = script(&workflow("promote-step.yml"), "Is a release under way?");
    let commit = || {
        let (ended, outputs) = for_real(&stage, &look, &[]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        outputs.lines().find_map(|line| line.strip_prefix("commit=")).map(str::to_owned)
    };
    assert_eq!(commit(), Some(whole.clone()));
    let state = std::fs::read_to_string(stage.state()).unwrap();
    assert!(state.contains(&whole));
    for wrong in ["refs/pull/7/merge", "main", "ab12ab12", "HEAD~3"] {
        std::fs::write(stage.state(), state.replace(&whole, wrong)).unwrap();
        assert_eq!(commit().as_deref(), Some(""), "{wrong}");
    }
}

/// Runs a script with the real tools; returns how it ended and the step outputs.
fn for_real(stage: &Stage, script: &str, variables: &[(&str, &str)]) -> (Ended, String) {
    let (file, output) = (stage.path().join("script.sh"), stage.path().join("output"));
    std::fs::write(&file, script).unwrap();
    std::fs::write(&output, "").unwrap();
    let ended = run(as_a_step(&file)
        .current_dir(stage.path())
        .env_clear()
        .env("GITHUB_WORKSPACE", stage.path().join("checkout"))
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("BIN_DIR", binary("promote").parent().unwrap())
        .env("GITHUB_OUTPUT", &output)
        .envs(variables.iter().copied()));
    (ended, std::fs::read_to_string(&output).unwrap())
}
