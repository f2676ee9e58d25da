//! `preflight` from outside: exit codes, outputs, annotations, bad input, and secrets that stay secret.

use std::path::Path;

use super::servers::{Authority, http, tls};
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::{Ended, call, folder, json, run, tool};

const HEAD: &str = "version: 1\nservice: shop\nrelease: {version: 1.0}\n";

fn plan(folder: &Path, checks: &[&str]) {
    let list: String = checks.iter().map(|check| format!("    - {{{check}}}\n")).collect();
    std::fs::write(folder.join("release.yaml"), format!("{HEAD}preflight:\n  checks:\n{list}")).unwrap();
}

#[test]
fn exit_codes_follow_the_verdict_and_the_document_says_the_same() {
    let cases = [
        ("name: a, kind: command, target: [\"true\"]", 0, "pass"),
        ("name: a, kind: command, target: [\"false\"], severity: warning", 0, "pass"),
        ("name: a, kind: command, target: [\"false\"]", 1, "fail"),
        ("name: a, kind: metrics_file, target: none.json, expect: {a: 1}", 3, "undecided"),
        ("name: a, kind: command, target: [no-such-program]", 4, "error"),
    ];
    for (check, code, verdict) in cases {
        let folder = folder();
        plan(folder.path(), &[check]);
        let ended = call("preflight", folder.path(), &[]);
        assert_eq!(ended.code, code, "{check}: {ended:?}");
        let document = json(&folder.path().join("evidence/preflight.json"));
        assert_eq!(document["verdict"], verdict, "{check}");
        assert_eq!(document["body"], serde_json::Value::Null);
        assert_eq!(document["counts"]["total"], 1);
        assert_eq!(ended.stdout, "", "stdout is data");
    }
}

#[test]
fn run_is_what_no_command_means_and_json_gives_the_document() {
    let folder = folder();
    plan(folder.path(), &["name: a, kind: command, target: [\"true\"]"]);
    let ended = call("preflight", folder.path(), &["run", "--json", "--quiet"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let written = std::fs::read_to_string(folder.path().join("evidence/preflight.json")).unwrap();
    assert_eq!(ended.stdout, written);
}

#[test]
fn a_plan_without_preflight_is_a_usage_error() {
    let folder = folder();
    std::fs::write(folder.path().join("release.yaml"), HEAD).unwrap();
    let ended = call("preflight", folder.path(), &[]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("the plan has no `preflight`"), "{}", ended.stderr);
}

#[test]
fn a_plan_without_checks_is_undecided() {
    let folder = folder();
    std::fs::write(folder.path().join("release.yaml"), format!("{HEAD}preflight: {{checks: []}}\n")).unwrap();
    assert_eq!(call("preflight", folder.path(), &[]).code, 3);
}

fn bad(content: &[u8], words: &[&str]) {
    let folder = folder();
    std::fs::write(folder.path().join("release.yaml"), content).unwrap();
    let ended = call("preflight", folder.path(), &[]);
    assert_eq!(ended.code, 2, "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no `{word}` in {}", ended.stderr);
    }
    assert_eq!(ended.stderr.matches("error:").count(), 1, "one error: {}", ended.stderr);
    assert!(!folder.path().join("evidence/preflight.json").exists());
}

#[test]
fn bad_input_gives_one_error_with_its_place() {
    bad(
        b"version: 1\nservise: shop\n",
        &["unknown key `servise`", "did you mean `service`", "release.yaml:2:1"],
    );
    bad(
        b"version: 1\nservice: shop\nrelease: {version: \"${TRAPKEY_UNSET}\"}\n",
        &["`TRAPKEY_UNSET` is not set", "release.yaml:3:20", "--set"],
    );
    bad(b"version: one\nservice: shop\n", &["a whole number", "release.yaml:1:10"]);
    bad(b"version: 1\nservice: sh\xffop\n", &["not UTF-8", "release.yaml:2"]);
    bad(b"version: 2\nservice: shop\nrelease: {version: 1}\n", &["version 2 is not known"]);
    let mut bomb = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let p = n - 1;
        bomb.push_str(&format!("a{n}: &a{n} [*a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}]\n"));
    }
    bad(bomb.as_bytes(), &["more than 50000 values"]);
}

#[test]
fn a_plan_of_4_tb_is_refused_without_being_read() {
    let folder = folder();
    let file = std::fs::File::create(folder.path().join("release.yaml")).unwrap();
    // Whoever read that would not end.
    file.set_len(1 << 42).unwrap();
    let ended = call("preflight", folder.path(), &[]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("larger than 1 MiB"), "{}", ended.stderr);
}

#[test]
fn outputs_and_annotations_are_written_before_a_closed_gate_exits() {
    let folder = folder();
    plan(
        folder.path(),
        &[
            "name: database, kind: command, target: [\"false\"]",
            "name: disk, kind: command, target: [\"false\"], severity: warning",
        ],
    );
    let output = folder.path().join("output");
    let ended =
        run(tool("preflight", folder.path()).env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", &output));
    assert_eq!(ended.code, 1);
    let outputs = std::fs::read_to_string(output).unwrap();
    assert!(outputs.contains("verdict=fail\n"), "{outputs}");
    assert!(outputs.contains("evidence=evidence/preflight.json\n"), "{outputs}");
    assert!(outputs.contains("summary=0 of 2 checks passed"), "{outputs}");
    assert!(ended.stderr.contains("::error file=release.yaml,title=database (fail)::"), "{}", ended.stderr);
    assert!(ended.stderr.contains("::warning file=release.yaml,title=disk (fail)::"), "{}", ended.stderr);
}

#[test]
fn an_error_in_the_plan_sets_the_outputs_too() {
    let folder = folder();
    plan(folder.path(), &["name: a, kind: nonsense"]);
    let output = folder.path().join("output");
    let ended = run(tool("preflight", folder.path()).env("GITHUB_OUTPUT", &output));
    assert_eq!(ended.code, 2);
    let outputs = std::fs::read_to_string(output).unwrap();
    assert!(outputs.contains("verdict=error\n"), "{outputs}");
    assert!(folder.path().join("evidence/preflight.refused.json").exists());
}

fn assert_silent_about(secrets: &[&str], ended: &Ended, folder: &Path) {
    let mut texts = vec![ended.stdout.clone(), ended.stderr.clone()];
    let mut folders = vec![folder.join("evidence")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                texts.push(std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    assert!(texts.len() > 2, "there is a document");
    for secret in secrets {
        for text in &texts {
            assert!(!text.contains(secret), "`{secret}` in {text}");
        }
    }
}

#[test]
fn secrets_appear_nowhere() {
    let folder = folder();
    let postgres = Postgres::shared();
    // It repeats what it was sent, as careless servers do.
    let server = http(|request| (200, Vec::new(), request.headers.clone()));
    let url = format!("http://127.0.0.1:{}/", server.port);
    plan(
        folder.path(),
        &[
            "name: db, kind: postgres, target: \"${DATABASE_URL}\", expect: {rows: 7}",
            "name: db refuses, kind: postgres, target: \"${OTHER_URL}\"",
            "name: env differs, kind: env, target: PLAIN_NAME, expect: {value: something-else}",
            "name: env matches, kind: env, target: PLAIN_NAME, expect: {value: \"~ ^quiet\"}",
            &format!(
                "name: token, kind: http, target: \"{url}\", with: {{headers: {{authorization: \"Bearer ${{GITHUB_PAT}}\"}}}}, expect: {{body: nothing}}"
            ),
            "name: said, kind: command, target: [printenv, A], with: {env: {A: \"${API_TOKEN}\"}}, expect: {stdout: x}",
        ],
    );
    let mut command = tool("preflight", folder.path());
    command
        .arg("--json")
        .env("DATABASE_URL", postgres.url("postgres"))
        .env("OTHER_URL", postgres.url("postgres").replace(PASSWORD, "another-pass-9"))
        .env("PLAIN_NAME", "quiet-value-77")
        .env("GITHUB_PAT", "bearer-value-88")
        .env("API_TOKEN", "api-value-99");
    let ended = run(&mut command);
    assert_eq!(ended.code, 1, "{ended:?}");
    let document = json(&folder.path().join("evidence/preflight.json"));
    let verdicts: Vec<_> =
        document["findings"].as_array().unwrap().iter().map(|f| f["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["fail", "fail", "fail", "pass", "fail", "fail"]);
    let secrets = [PASSWORD, "another-pass-9", "quiet-value-77", "bearer-value-88", "api-value-99"];
    assert_silent_about(&secrets, &ended, folder.path());
}

#[test]
fn https_is_checked_against_the_certificates_that_the_system_trusts() {
    let folder = folder();
    let authority = Authority::new();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let server = tls(&authority.issue("localhost", (2020, 2120)), rustls::ALL_VERSIONS);
    plan(
        folder.path(),
        &[&format!(
            "name: a, kind: http, target: \"https://localhost:{}/\", expect: {{body: fine}}",
            server.port
        )],
    );
    let trusted = run(tool("preflight", folder.path()).env("SSL_CERT_FILE", "ca.pem"));
    assert_eq!(trusted.code, 0, "{trusted:?}");
    let unknown = call("preflight", folder.path(), &[]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("invalid peer certificate"), "{}", unknown.stderr);
}

#[test]
fn a_signal_leaves_a_valid_document() {
    let folder = folder();
    plan(
        folder.path(),
        &[
            "name: slow, kind: command, target: [sh, -c, touch begun; sleep 600], timeout: 10m",
            "name: later, kind: command, target: [\"true\"], needs: [slow]",
        ],
    );
    let mut child = tool("preflight", folder.path()).stderr(std::process::Stdio::null()).spawn().unwrap();
    crate::support::wait_until("the slow check", || folder.path().join("begun").exists());
    let ended = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(ended.success());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let document = json(&folder.path().join("evidence/preflight.json"));
    assert_eq!(document["verdict"], "error");
    for finding in document["findings"].as_array().unwrap() {
        let message = finding["message"].as_str().unwrap();
        assert!(message.contains("asked to stop"), "{message}");
    }
}
