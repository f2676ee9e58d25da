//! The mistakes that a first user makes: each gives one clear error and leaves good evidence alone.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::side::Side;
use crate::support::{call, folder, json, run, tool, wait_until};

const PLAN: &str = "version: 1\nservice: shop\nrelease: {version: \"${VERSION:-1.0}\"}\nenvironments: {production: {url: \"http://127.0.0.1:9\"}}\npreflight:\n  checks:\n    - {name: a, kind: command, target: [\"true\"]}\n";

fn plan(folder: &Path, text: &str) {
    std::fs::write(folder.join("release.yaml"), text).unwrap();
}

fn document(folder: &Path) -> Value {
    json(&folder.join("evidence/preflight.json"))
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn an_empty_variable_of_the_ci_counts_as_not_set() {
    let folder = folder();
    plan(folder.path(), PLAN);
    let mut command = tool("preflight", folder.path());
    for name in ["PLAN", "ENVIRONMENT", "EVIDENCE", "STATE", "SET", "JSON", "QUIET", "COLOR"] {
        command.env(format!("TRAPKEY_{name}"), "");
    }
    let ended = run(&mut command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(document(folder.path())["release"]["environment"], "production");
    let listed = run(tool("snapshot", folder.path()).env("TRAPKEY_STORE", "").args(["list"]));
    assert!(listed.stderr.contains("the plan has no `snapshot` section"), "{listed:?}");
}

#[test]
fn a_switch_is_turned_by_1_or_yes_too() {
    let folder = folder();
    plan(folder.path(), PLAN);
    let ended = run(tool("preflight", folder.path()).env("TRAPKEY_JSON", "1").env("TRAPKEY_QUIET", "yes"));
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap()["verdict"], "pass");
    let loud = run(tool("preflight", folder.path()).env("TRAPKEY_JSON", "0"));
    assert_eq!((loud.code, loud.stdout.as_str()), (0, ""), "{loud:?}");
}

#[test]
fn variables_come_from_both_places_and_the_command_line_wins() {
    let folder = folder();
    plan(folder.path(), &PLAN.replace("service: shop", "service: ${SERVICE:-shop}"));
    let ended = run(tool("preflight", folder.path())
        .env("TRAPKEY_SET", "VERSION=1.1;SERVICE=store")
        .args(["--set", "VERSION=1;2"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    let release = &document(folder.path())["release"];
    assert_eq!((release["version"].as_str(), release["service"].as_str()), (Some("1;2"), Some("store")));
}

#[test]
fn a_variable_that_the_plan_does_not_name_is_refused_before_a_default_is_released() {
    let folder = folder();
    plan(folder.path(), PLAN);
    let ended = call("preflight", folder.path(), &["--set", "VERSON=1.4.2"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("the plan names no variable `VERSON`"), "{}", ended.stderr);
    assert!(!folder.path().join("evidence/preflight.json").exists());
    // The beginning of a name is not the name.
    assert_eq!(call("preflight", folder.path(), &["--set", "VERS=1"]).code, 2);
    let secret = call("preflight", folder.path(), &["--set", "s3cr3t-value"]);
    assert_eq!(secret.code, 2);
    assert!(!secret.stderr.contains("s3cr3t-value"), "{}", secret.stderr);
}

#[test]
fn preflight_finds_what_is_wrong_in_the_later_sections_of_the_plan() {
    let promote = |router: &str, metric: &str| {
        format!(
            "promote:\n  router: {{kind: {router}, target: a.sock, with: {{backend: b, blue: x, green: y}}}}\n  \
             sides: {{blue: {{url: \"http://127.0.0.1:9\"}}, green: {{url: \"http://127.0.0.1:10\"}}}}\n  \
             steps: [{{weight: 100%, bake: 1s}}]\n  rollback_when: [{{metric: {metric}, is: \"> 1%\"}}]\n"
        )
    };
    let cases = [
        (promote("haprox", "error_rate"), "did you mean `haproxy`"),
        (promote("haproxy", "error_rat"), "did you mean `error_rate`"),
        (
            "snapshot:\n  store: s\n  encryption: {none_needed_because: a test}\n  sources: [{name: a, kind: fils, target: x}]\n".into(),
            "did you mean `files`",
        ),
        ("verify:\n  checks: [{name: a, kind: htp, target: \"http://x\"}]\n".into(), "did you mean `http`"),
    ];
    for (section, words) in cases {
        let folder = folder();
        plan(folder.path(), &format!("{PLAN}{section}"));
        let ended = call("preflight", folder.path(), &[]);
        assert_eq!(ended.code, 2, "{section}: {ended:?}");
        assert!(ended.stderr.contains(words), "{section}: {}", ended.stderr);
    }
    let folder = folder();
    let sound = format!("{PLAN}{}", promote("haproxy", "error_rate"));
    plan(folder.path(), &sound.replacen("preflight:", "preflight:\n  promote: false", 1));
    assert_eq!(call("preflight", folder.path(), &[]).code, 0);
}

#[test]
fn step_outputs_that_cannot_be_written_do_not_cost_the_document() {
    let folder = folder();
    plan(folder.path(), PLAN);
    let ended = run(tool("preflight", folder.path()).env("GITHUB_OUTPUT", "none/such/file"));
    assert_eq!(ended.code, 4, "{ended:?}");
    assert_eq!(ended.stderr.matches("the step outputs cannot be written").count(), 1, "{}", ended.stderr);
    assert_eq!(document(folder.path())["verdict"], "pass");
    // A closed gate stays a closed gate.
    plan(folder.path(), &PLAN.replace("[\"true\"]", "[\"false\"]"));
    let closed = run(tool("preflight", folder.path()).env("GITHUB_OUTPUT", "none/such/file"));
    assert_eq!(closed.code, 1, "{closed:?}");
    assert_eq!(document(folder.path())["verdict"], "fail");
}

#[test]
fn an_evidence_folder_that_is_a_file_gives_one_error() {
    let folder = folder();
    plan(folder.path(), PLAN);
    std::fs::write(folder.path().join("file"), "mine").unwrap();
    let ended = call("preflight", folder.path(), &["--quiet", "--evidence", "file"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("a file stands where a folder is needed"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(folder.path().join("file")).unwrap(), "mine");
}

#[test]
fn json_gives_the_document_of_an_error_too() {
    let folder = folder();
    for arguments in [&["--json"][..], &["--json", "--environment", "moon"]] {
        let ended = call("preflight", folder.path(), arguments);
        assert_eq!(ended.code, 2, "{ended:?}");
        let given: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(given, json(&folder.path().join("evidence/preflight.refused.json")));
        assert_eq!(given["verdict"], "error");
        plan(folder.path(), PLAN);
    }
}

#[test]
fn a_refusal_is_over_when_an_error_takes_its_place() {
    let folder = folder();
    plan(
        folder.path(),
        "version: 1\nservice: s\nrelease: {version: 1}\nsnapshot:\n  store: s\n  encryption: {none_needed_because: a test}\n  sources: [{name: a, kind: command, target: [\"false\"]}]\n",
    );
    std::fs::create_dir(folder.path().join("evidence")).unwrap();
    std::fs::write(folder.path().join("evidence/snapshot.refused.json"), "{}").unwrap();
    let ended = call("snapshot", folder.path(), &["create"]);
    assert_eq!(ended.code, 4, "{ended:?}");
    assert_eq!(json(&folder.path().join("evidence/snapshot.json"))["verdict"], "error");
    assert!(!folder.path().join("evidence/snapshot.refused.json").exists());
}

#[test]
fn the_way_back_names_the_store_whatever_the_folder_of_the_caller() {
    let folder = folder();
    plan(
        folder.path(),
        "version: 1\nservice: s\nrelease: {version: 1}\nsnapshot:\n  store: store\n  encryption: {none_needed_because: a test}\n  sources: [{name: a, kind: command, target: [echo, hi]}]\n",
    );
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let ended = call("snapshot", &elsewhere, &["create", "--plan", "../release.yaml"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let document = json(&elsewhere.join("evidence/snapshot.json"));
    let command = document["snapshot"]["restore_command"].as_str().unwrap();
    let store = folder.path().canonicalize().unwrap().join("store");
    assert!(command.contains(&format!("--store {} --to", store.display())), "{command}");
    assert!(store.join("snapshots").is_dir());
}

#[test]
fn a_signal_leaves_no_child_of_a_check_behind() {
    for _ in 0..5 {
        let folder = folder();
        plan(
            folder.path(),
            &PLAN.replace(
                "[\"true\"]",
                "[sh, -c, \"sleep 600 & echo $! > begun.tmp; mv begun.tmp begun; wait\"], timeout: 10m",
            ),
        );
        let mut child = tool("preflight", folder.path()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the check", || folder.path().join("begun").exists());
        let sleeper = std::fs::read_to_string(folder.path().join("begun")).unwrap();
        signal("-TERM", child.id());
        assert_eq!(child.wait().unwrap().code(), Some(4));
        let status = Path::new("/proc").join(sleeper.trim()).join("status");
        wait_until("the end of the check's child", || {
            // One that was ended and that init did not fetch yet is a zombie.
            std::fs::read_to_string(&status).map_or(true, |text| text.contains("State:\tZ"))
        });
    }
}

#[test]
fn a_baseline_that_was_interrupted_is_none() {
    let side = Side::start("1.0");
    let folder = folder();
    plan(
        folder.path(),
        &format!(
            "version: 1\nservice: s\nrelease: {{version: 1}}\nverify:\n  baseline:\n    probes:\n      - {{name: home, url: \"{}/\", rate: 200/s, duration: 10m}}\n",
            side.url()
        ),
    );
    let mut child = tool("verify", folder.path()).arg("baseline").stderr(Stdio::null()).spawn().unwrap();
    // More than enough samples: it is the signal alone that must not pass.
    wait_until("a hundred answers", || side.served() > 100);
    signal("-INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let document = json(&folder.path().join("evidence/baseline.json"));
    assert_eq!(document["verdict"], "error");
    assert_eq!(document["findings"][0]["message"], "not measured to its end: asked to stop");
}
