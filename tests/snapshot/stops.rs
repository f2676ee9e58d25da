//! What stops a snapshot: failing commands, full disks, signals, other writers. Nothing partial stays.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use trapkey::evidence::{SourceRecord, Verdict};
use trapkey::plan::Loaded;
use trapkey::sources::intact;

use super::{Place, is_root, noise, walk};
use crate::support::{binary, run, tool};

/// A source that gives a lot and then waits; it says when, and who it is.
const SLOW: &str = "{name: slow, kind: command, target: [./slow]}";
const SLOW_SCRIPT: &str =
    "echo $$ > pid; head -c 1200000 /dev/urandom; touch started; while [ -e pid ]; do sleep 0.1; done";

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

fn slow() -> Place {
    let place = Place::new(SLOW);
    place.script("slow", SLOW_SCRIPT);
    place
}

#[test]
fn a_failing_or_silent_command_leaves_no_snapshot() {
    let place = Place::new(
        "{name: fine, kind: command, target: [echo, fine]}\n{name: bad, kind: command, target: [./bad]}",
    );
    for (script, word) in [
        ("head -c 1200000 /dev/urandom; echo half done >&2; exit 3", "exit 3"),
        ("kill -9 $$", "was ended by a signal"),
        ("exit 0", "printed nothing"),
    ] {
        place.script("bad", script);
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 4);
        assert!(ended.stderr.contains(word) && ended.stderr.contains("`bad`"), "{}", ended.stderr);
        let document = place.document();
        assert_eq!(
            (&document["verdict"], &document["snapshot"]),
            (&"error".into(), &serde_json::Value::Null)
        );
        place.assert_nothing_kept();
    }
    place.plan("{name: gone, kind: command, target: [./not-there]}", "");
    assert_eq!(place.call(&["create"]).code, 4);
    place.plan("{name: late, kind: command, target: [sleep, '600'], timeout: 200ms}", "");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("did not end within its time"), "{}", ended.stderr);
    place
        .plan("{name: quiet, kind: command, target: ['true'], with: {allow_empty: true, file: nothing}}", "");
    place.create();
}

#[test]
fn a_file_size_limit_in_the_middle_leaves_no_snapshot() {
    let place = Place::new("{name: data, kind: files, target: data}");
    place.write("data/large.bin", &noise(900_000, 3));
    // 64 blocks of 512 bytes; the signal is ignored, so that the write itself fails with EFBIG.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" create"]).arg(binary("snapshot"));
    let ended = run(command.current_dir(place.folder.path()));
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
    assert_eq!(place.document()["verdict"], "error");
    place.assert_nothing_kept();
    place.create();
}

#[test]
fn a_full_disk_in_the_middle_leaves_no_snapshot() {
    let place = Place::new("{name: data, kind: files, target: data}");
    place.write("data/large.bin", &noise(9_000_000, 4));
    std::fs::create_dir(place.path("store")).unwrap();
    let script = "mount -t tmpfs -o size=3m tmpfs store || exit 77\n\
                  \"$0\" create; code=$?\n\
                  \"$0\" list --json || exit 78\n\
                  find store -type f\n\
                  exit $code";
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["-m"][..] } else { &["-rm"][..] });
    command.args(["sh", "-c", script]).arg(binary("snapshot")).current_dir(place.folder.path());
    let ended = run(&mut command);
    if !is_root() && ended.code != 4 && !ended.stderr.contains("error:") {
        assert!(ended.stderr.contains("unshare") || ended.code == 77, "{}", ended.stderr);
        let said = writeln!(std::io::stderr(), "NOT TESTED: an unprivileged user may not mount here");
        assert!(said.is_ok());
        return;
    }
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    assert!(ended.stderr.contains("the disk is full"), "{}", ended.stderr);
    assert!(ended.stdout.contains("\"snapshots\": []"), "{}", ended.stdout);
    let mut files: Vec<&str> = ended.stdout.lines().filter(|line| line.starts_with("store/")).collect();
    files.retain(|file| !file.starts_with("store/data/") && !file.starts_with("store/keys/"));
    assert_eq!(files, ["store/config"]);
    assert_eq!(place.document()["verdict"], "error");
}

#[test]
fn a_second_create_succeeds_while_the_first_is_at_work() {
    let place = slow();
    let mut first = place.begin("started");
    // Looking is allowed meanwhile, and shows nothing that is half done.
    assert_eq!(place.listed(), 0);
    place.good(&["check"]);
    place.plan("{name: quick, kind: command, target: [echo, quick]}", "");
    place.create();
    assert_eq!(place.listed(), 1);
    signal("-TERM", &first.id().to_string());
    assert_eq!(first.wait().unwrap().code(), Some(4));
    assert_eq!(place.listed(), 1);
    place.good(&["check", "--read-data"]);
}

#[test]
fn a_signal_in_the_middle_leaves_a_document_and_no_snapshot() {
    let busy = "echo $$ > pid; touch started; exec cat /dev/zero";
    for (name, script) in [("-TERM", SLOW_SCRIPT), ("-INT", SLOW_SCRIPT), ("-TERM", busy)] {
        let place = slow();
        place.script("slow", script);
        let child = place.begin("started");
        signal(name, &child.id().to_string());
        let ended = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains("interrupted"), "{stderr}");
        let document = place.document();
        assert_eq!(document["verdict"], "error");
        assert!(document["summary"].as_str().unwrap().contains("interrupted"));
        place.assert_nothing_kept();
        let pid = std::fs::read_to_string(place.path("pid")).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "the command still runs");
    }
}

#[test]
fn after_a_kill_nothing_is_listed_and_the_next_create_works() {
    let place = slow();
    let mut child = place.begin("started");
    assert_eq!(walk(&place.path("store/locks")).len(), 1, "it was killed too early to prove anything");
    signal("-KILL", &child.id().to_string());
    child.wait().unwrap();
    signal("-KILL", std::fs::read_to_string(place.path("pid")).unwrap().trim());
    assert_eq!(place.listed(), 0);
    place.good(&["check"]);
    place.script("slow", "echo quick");
    let document = place.create();
    assert_eq!(document["snapshot"]["bytes"], 6);
    assert_eq!(walk(&place.path("store/locks")), Vec::<std::path::PathBuf>::new());
    assert_eq!(place.listed(), 1);
    place.good(&["check"]);
}

#[test]
fn wrong_plans_are_usage_errors_with_line_and_next_step() {
    for (source, words) in [
        ("{name: a, kind: fils, target: x}", "did you mean `files`?"),
        ("{name: a, kind: files}", "the key `target` is missing"),
        ("{name: a, kind: files, target: x, with: {exclud: [x]}}", "did you mean `exclude`?"),
        ("{name: a, kind: files, target: x, with: {exclude: ['[']}}", "unclosed character class"),
        ("{name: a, kind: files, target: [x]}", "must be one text"),
        ("{name: a, kind: command, target: 'pg_dump shop'}", "no shell"),
        ("{name: a, kind: command, target: [x], with: {file: ../x}}", "plain file name"),
        ("{name: a, kind: postgres, target: 'postgres://u@h/d?sslmode=maybe'}", "sslmode=maybe"),
        (
            "{name: a, kind: postgres, target: 'postgres://u@h:port/d'}",
            "write postgres://user@host:5432/database",
        ),
        ("{name: a, kind: router_state}", "no `promote.router`"),
    ] {
        let place = Place::new(source);
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 2, "{source}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{source}: {}", ended.stderr);
        assert!(ended.stderr.contains("release.yaml:8:"), "{source}: {}", ended.stderr);
        assert!(!place.path("store").exists(), "{source}");
    }
    let place = Place::new("{name: a, kind: files, target: x}");
    for arguments in [&["create", "--store", "x"][..], &["creat"], &["restore"], &["restore", "--to"]] {
        assert_eq!(place.call(arguments).code, 2, "{arguments:?}");
    }
    let mut without = tool("snapshot", place.folder.path());
    assert_eq!(run(without.args(["list", "--plan", "nowhere.yaml"]).stdin(Stdio::null())).code, 2);
}

#[test]
fn what_the_store_did_not_take_is_never_forgiven() {
    // A pack holds blobs of several sources: lost with it is also what `config` gave before.
    let place = Place::new(
        "{name: config, kind: files, target: deploy}\n\
         {name: big, kind: command, target: [./big], allow_partial: true}\n\
         {name: late, kind: command, target: [./late]}",
    );
    place.write("deploy/app.conf", b"not to be lost");
    place.script("big", "mv store/data away; : > store/data; head -c 18000000 /dev/urandom");
    place.script("late", "rm store/data; mv away store/data; echo late");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("store/data/"), "{}", ended.stderr);
    assert!(place.path("away").exists(), "the next source was read all the same");
    std::fs::remove_file(place.path("store/data")).unwrap();
    std::fs::rename(place.path("away"), place.path("store/data")).unwrap();
    assert_eq!(place.listed(), 0);
}

#[test]
fn a_dump_that_fails_may_be_forgiven_whatever_its_kind() {
    for (source, why) in [
        ("{name: db, kind: sqlite, target: gone.db, allow_partial: true}", "there is no database"),
        ("{name: db, kind: postgres, target: 'postgres://u@127.0.0.1:1/d', allow_partial: true}", "reached"),
        (
            "{name: db, kind: command, target: [sh, -c, 'head -c 3000000 /dev/zero; exit 7'], allow_partial: true}",
            "failed",
        ),
    ] {
        let place = Place::new(&format!("{{name: config, kind: files, target: deploy}}\n{source}"));
        place.write("deploy/app.conf", b"settings");
        let document = place.create();
        let [config, db] = [&document["snapshot"]["sources"][0], &document["snapshot"]["sources"][1]];
        assert_eq!((&config["state"], &db["state"]), (&json!("whole"), &json!("partial")), "{source}");
        assert!(db["notes"][0].as_str().unwrap().contains(why), "{source}: {db}");
        // What is not in the snapshot counts for nothing.
        assert_eq!((&db["files"], &db["bytes"]), (&json!(0), &json!(0)), "{source}");
        assert_eq!((&config["proven"], &db["proven"]), (&json!(true), &json!(false)), "{source}");
        // `verify` does not take the silence about its rows for rows that are as they were.
        let records: Vec<SourceRecord> =
            serde_json::from_value(document["snapshot"]["sources"].clone()).unwrap();
        let loaded = Loaded::read(&place.path("release.yaml"), BTreeMap::new()).unwrap();
        let specs = &loaded.plan.snapshot.as_ref().unwrap().sources;
        let said: Vec<Verdict> = intact(specs, &loaded, &records).iter().map(|f| f.verdict).collect();
        let expected = if source.contains("command") { vec![] } else { vec![Verdict::NoData] };
        assert_eq!(said, expected, "{source}");
        place.good(&["restore", "--to", "back"]);
        assert_eq!(std::fs::read(place.path("back/config/app.conf")).unwrap(), b"settings");
    }
}

#[test]
fn those_who_make_the_store_at_the_same_moment_all_succeed() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/app.conf", b"settings");
    // Deriving a key takes its time, in which the others come.
    let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
    let plan = plan.replace("  encryption: {none_needed_because: a test}\n", "");
    place.write("release.yaml", plan.as_bytes());
    let begin = |number: usize| {
        let mut command = tool("snapshot", place.folder.path());
        command.args(["create", "--evidence", &format!("evidence-{number}")]);
        command.env("TRAPKEY_PASSPHRASE", "one and the same").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<_> = (0..4).map(begin).collect();
    for child in all {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(walk(&place.path("store/snapshots")).len(), 4);
    assert_eq!(walk(&place.path("store/keys")).len(), 1);
}
