//! Nothing old is ever near: what is of another release, or of another attempt, is put aside, and nothing is lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Ended, folder, json, run, tool};

const PLAN: &str = "version: 1
service: shop
release: {version: \"${VERSION}\"}
preflight: {checks: [{name: wanted, kind: file, target: \"flag-${VERSION}\", expect: {exists: true}}]}
snapshot:
  store: store
  encryption: {none_needed_because: a test}
  sources: [{name: config, kind: files, target: cfg}]
";

fn place() -> tempfile::TempDir {
    let place = folder();
    std::fs::write(place.path().join("release.yaml"), PLAN).unwrap();
    std::fs::create_dir(place.path().join("cfg")).unwrap();
    std::fs::write(place.path().join("cfg/a"), "a").unwrap();
    std::fs::write(place.path().join("flag-1.0"), "").unwrap();
    place
}

fn call(place: &Path, version: &str, words: &[&str]) -> Ended {
    run(tool(words[0], place).args(&words[1..]).env("VERSION", version))
}

fn good(place: &Path, version: &str, words: &[&str]) {
    let ended = call(place, version, words);
    assert_eq!(ended.code, 0, "{version} {words:?}: {}", ended.stderr);
}

/// The folders of what was put aside, the oldest first.
fn aside(place: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(place.join("evidence/earlier"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    all
}

fn version_of(file: &Path) -> String {
    json(file)["release"]["version"].as_str().unwrap().to_owned()
}

#[test]
fn the_first_tool_of_a_release_puts_documents_and_pages_of_another_aside() {
    let place = place();
    let evidence = place.path().join("evidence");
    for words in [&["preflight"][..], &["snapshot", "create"], &["report"]] {
        good(place.path(), "1.0", words);
    }
    std::fs::write(evidence.join("a-note-of-ours.txt"), "stays").unwrap();
    let before = std::fs::read(evidence.join("snapshot.json")).unwrap();
    assert_eq!(call(place.path(), "2.0", &["preflight"]).code, 1);
    let ended = call(place.path(), "2.0", &["report"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let page = std::fs::read_to_string(evidence.join("report.html")).unwrap();
    assert!(page.contains("2.0") && page.contains("kept its gate closed"), "{page}");
    assert!(std::fs::read_to_string(evidence.join("junit.xml")).unwrap().contains("<failure"));
    assert!(!evidence.join("snapshot.json").exists() && evidence.join("a-note-of-ours.txt").exists());
    let all = aside(place.path());
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].file_name().unwrap().to_string_lossy().ends_with("-shop-1.0"), "{all:?}");
    for name in [
        "preflight.json",
        "snapshot.json",
        "report.json",
        "report.html",
        "junit.xml",
        "summary.md",
        "runbook.md",
    ] {
        assert!(all[0].join(name).exists(), "{name}");
    }
    assert_eq!(std::fs::read(all[0].join("snapshot.json")).unwrap(), before);
    // Who still works on the older release does so where its documents are, and touches nothing of the newer one.
    let newer = std::fs::read(evidence.join("preflight.json")).unwrap();
    let check = call(place.path(), "1.0", &["report", "check"]);
    assert_eq!(check.code, 0, "{}", check.stderr);
    let report = call(place.path(), "1.0", &["report"]);
    assert_eq!(report.code, 0, "{}", report.stderr);
    assert!(report.stderr.contains("works on the evidence of shop 1.0"), "{}", report.stderr);
    assert_eq!(version_of(&all[0].join("report.json")), "1.0");
    assert_eq!(version_of(&evidence.join("report.json")), "2.0");
    assert_eq!(std::fs::read(evidence.join("preflight.json")).unwrap(), newer);
    // A later tool of the newer release finds nothing of the older one to go on with.
    assert_eq!(call(place.path(), "2.0", &["snapshot", "create"]).code, 5);
}

#[test]
fn another_attempt_at_the_same_release_has_nothing_of_the_one_before() {
    let place = place();
    let evidence = place.path().join("evidence");
    for words in [&["preflight"][..], &["snapshot", "create"], &["report"]] {
        good(place.path(), "1.0", words);
    }
    std::fs::remove_file(place.path().join("flag-1.0")).unwrap();
    assert_eq!(call(place.path(), "1.0", &["preflight"]).code, 1);
    assert!(!evidence.join("snapshot.json").exists() && !evidence.join("report.html").exists());
    // The newer one, which failed, is the one that is told of.
    assert_eq!(call(place.path(), "1.0", &["report"]).code, 0);
    assert_eq!(json(&evidence.join("report.json"))["outcome"], "stopped");
    assert_eq!(call(place.path(), "1.0", &["snapshot", "create"]).code, 5);
    assert_eq!(aside(place.path()).len(), 1);
    // One that is killed in the middle leaves no open gate behind.
    std::fs::write(place.path().join("flag-1.0"), "").unwrap();
    good(place.path(), "1.0", &["preflight"]);
    let plan = PLAN.replace(
        "{name: wanted,",
        "{name: slow, kind: command, target: [sh, -c, \"touch began; sleep 60\"]}, {name: wanted,",
    );
    std::fs::write(place.path().join("release.yaml"), plan).unwrap();
    let mut job = tool("preflight", place.path()).env("VERSION", "1.0").spawn().unwrap();
    crate::support::wait_until("the slow check", || place.path().join("began").exists());
    job.kill().unwrap();
    job.wait().unwrap();
    assert!(!evidence.join("preflight.json").exists());
}

#[test]
fn many_jobs_at_once_lose_no_document() {
    let place = place();
    let versions: Vec<String> = (0..8).map(|n| format!("3.{n}")).collect();
    std::thread::scope(|scope| {
        for version in &versions {
            let place = place.path();
            scope.spawn(move || assert_eq!(call(place, version, &["preflight"]).code, 1));
        }
    });
    let mut found = BTreeSet::new();
    for folder in aside(place.path()).into_iter().chain([place.path().join("evidence")]) {
        let file = folder.join("preflight.json");
        if file.exists() {
            let document: Value = json(&file);
            found.insert(document["release"]["version"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), versions);
    let parts =
        aside(place.path()).into_iter().filter(|p| p.file_name().unwrap().to_string_lossy().starts_with('.'));
    assert_eq!(parts.count(), 0);
}

#[test]
fn what_cannot_be_put_aside_stays_and_is_said() {
    let place = place();
    for words in [&["preflight"][..], &["snapshot", "create"]] {
        good(place.path(), "1.0", words);
    }
    let evidence = place.path().join("evidence");
    std::fs::write(evidence.join("earlier"), "a file of that name").unwrap();
    let before = super::documents_of(&evidence);
    let ended = call(place.path(), "2.0", &["preflight"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("evidence/earlier"), "{}", ended.stderr);
    let after = super::documents_of(&evidence);
    assert_eq!(before["snapshot.json"], after["snapshot.json"]);
}
