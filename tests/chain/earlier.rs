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

/// A check that says when it has begun, waits for its word, and passes for the run `good` alone.
const SCRIPT: &str =
    "touch began-$RUN; until [ -e go-$RUN ]; do sleep 0.02; done; case $RUN in good*) ;; *) exit 1; esac";

fn waiting(place: &Path, tool_name: &str) {
    let section = if tool_name == "preflight" { "preflight" } else { "verify" };
    let plan = format!(
        "version: 1\nservice: shop\nrelease: {{version: \"1.0\"}}\n{section}:\n  checks:\n    - {{name: waits, kind: command, \
         target: [sh, -c, {SCRIPT:?}], timeout: 10m}}\n"
    );
    std::fs::write(place.join("release.yaml"), plan).unwrap();
}

fn begin(place: &Path, tool_name: &str, name: &str) -> std::process::Child {
    let mut command = tool(tool_name, place);
    command.env("RUN", name).stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let job = command.spawn().unwrap();
    crate::support::wait_until("the check", || place.join(format!("began-{name}")).exists());
    job
}

fn end(place: &Path, name: &str, job: std::process::Child) -> (i32, String) {
    std::fs::write(place.join(format!("go-{name}")), "").unwrap();
    let ended = job.wait_with_output().unwrap();
    (ended.status.code().unwrap(), String::from_utf8(ended.stderr).unwrap())
}

/// Two runs of one release at once: what the one that began later says is what counts, however each of them ends.
#[test]
fn what_began_earlier_never_takes_the_place_of_what_began_later() {
    for tool_name in ["preflight", "verify"] {
        let place = folder();
        let path = place.path();
        waiting(path, tool_name);
        let document = path.join(format!("evidence/{tool_name}.json"));
        let verdict = || json(&document)["verdict"].as_str().unwrap().to_owned();
        // The later one fails, and ends first.
        let earlier = begin(path, tool_name, "good-1");
        let later = begin(path, tool_name, "bad-1");
        assert_eq!(end(path, "bad-1", later).0, 1);
        let (code, said) = end(path, "good-1", earlier);
        assert_eq!((code, verdict().as_str()), (5, "fail"), "{said}");
        assert!(
            said.contains("was begun later, and what it says counts") && said.contains("pass: 1 of 1"),
            "{said}"
        );
        // It ends last.
        let earlier = begin(path, tool_name, "good-2");
        let later = begin(path, tool_name, "bad-2");
        assert_eq!(end(path, "good-2", earlier).0, 5);
        assert_ne!(std::fs::read(&document).ok().map(|_| verdict()), Some("pass".to_owned()));
        assert_eq!((end(path, "bad-2", later).0, verdict().as_str()), (1, "fail"));
        // It is killed, or what it wrote is put aside by a third: the gate stays closed.
        let earlier = begin(path, tool_name, "good-3");
        let mut later = begin(path, tool_name, "bad-3");
        later.kill().unwrap();
        later.wait().unwrap();
        assert_eq!(end(path, "good-3", earlier).0, 5);
        assert_ne!(std::fs::read(&document).ok().map(|_| verdict()), Some("pass".to_owned()));
        std::fs::write(path.join("go-bad-3"), "").unwrap();
        // The folder comes from elsewhere without what runs have said of themselves, but for the times in documents.
        let earlier = begin(path, tool_name, "good-4");
        let later = begin(path, tool_name, "bad-4");
        assert_eq!(end(path, "bad-4", later).0, 1);
        std::fs::remove_dir_all(path.join("evidence/.runs")).unwrap();
        assert_eq!((end(path, "good-4", earlier).0, verdict().as_str()), (5, "fail"));
        // Nothing of all that is in the way of the next one.
        let next = begin(path, tool_name, "good-5");
        let (code, said) = end(path, "good-5", next);
        assert_eq!((code, verdict().as_str()), (0, "pass"), "{said}");
    }
}

/// The same of snapshots: both are in the store, and the evidence is of the one that began last.
#[test]
fn of_two_snapshots_at_once_the_one_that_began_last_is_the_evidence() {
    let place = folder();
    let path = place.path();
    let plan = format!(
        "version: 1\nservice: shop\nrelease: {{version: \"1.0\"}}\nsnapshot:\n  store: store\n  \
         encryption: {{none_needed_because: a test}}\n  sources:\n    - {{name: dump, kind: command, target: [sh, -c, {:?}]}}\n",
        format!("{SCRIPT}; echo $RUN")
    );
    std::fs::write(path.join("release.yaml"), plan).unwrap();
    let create = |name: &str| {
        let mut command = tool("snapshot", path);
        command.arg("create").env("RUN", name).stderr(std::process::Stdio::piped());
        let job = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        crate::support::wait_until("the source", || path.join(format!("began-{name}")).exists());
        job
    };
    let (earlier, later) = (create("good-1"), create("good-2"));
    let (code, said) = end(path, "good-2", later);
    assert_eq!(code, 0, "{said}");
    let before = std::fs::read(path.join("evidence/snapshot.json")).unwrap();
    let (code, said) = end(path, "good-1", earlier);
    assert_eq!(code, 5, "{said}");
    assert_eq!(std::fs::read(path.join("evidence/snapshot.json")).unwrap(), before);
}

/// A gate whose evidence cannot be written is closed, and says so; what it said before counts no more.
#[test]
fn on_a_full_disk_no_gate_is_open_and_nothing_half_is_left() {
    let place = place();
    let evidence = place.path().join("evidence");
    for words in [&["preflight"][..], &["snapshot", "create"], &["report"]] {
        good(place.path(), "1.0", words);
    }
    for words in [&["report"][..], &["snapshot", "create"], &["preflight"]] {
        let mut full = std::process::Command::new("sh");
        // No file can grow any more; names can be made, changed and removed.
        let script = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
        full.args(["-c", script, "sh"]).arg(crate::support::binary(words[0])).args(&words[1..]);
        let ended = run(full
            .current_dir(place.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("VERSION", "1.0"));
        assert_eq!(ended.code, 4, "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("cannot be written"), "{}", ended.stderr);
        let document = evidence.join(format!("{}.json", words[0]));
        assert!(!document.exists() || json(&document)["verdict"] != "pass", "{words:?}");
    }
    // Nobody goes on from there.
    assert_eq!(call(place.path(), "1.0", &["snapshot", "create"]).code, 5);
    let names =
        std::fs::read_dir(&evidence).unwrap().chain(std::fs::read_dir(evidence.join(".runs")).unwrap());
    let left: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "tmp" || end == "part"))
        .collect();
    assert_eq!(left, [""; 0]);
    // With room again everything goes on.
    for words in [&["preflight"][..], &["snapshot", "create"], &["report"]] {
        good(place.path(), "1.0", words);
    }
}
