//! Freeze and thaw: what was frozen is thawed, whatever happens to the snapshot.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Place, walk};
use crate::support::wait_until;

/// A hook that notes its name and what it was told; what lies in a file of its name it does too.
const HOOK: &str = "echo \"$1 $TRAPKEY_HOOK $TRAPKEY_SOURCE\" >> log\n\
                    echo \"$TRAPKEY_REASON\" >> reasons\n\
                    if [ -e \"$1.do\" ]; then . ./\"$1.do\"; fi";
const BOTH: &str = "before: [./hook, freeze], after: [./hook, thaw]";
/// It goes on for as long as its folder is there.
const SLOW: &str = "touch reading; echo some; while [ -e hook ]; do sleep 0.1; done; echo done";

/// A plan whose snapshot has these keys beside its sources.
fn place(keys: &str, sources: &str) -> Place {
    let place = Place::new("");
    place.script("hook", HOOK);
    plan(&place, keys, sources);
    place
}

fn plan(place: &Place, keys: &str, sources: &str) {
    let text = format!(
        "version: 1\nservice: shop\nrelease: {{version: 1.4.2}}\nsnapshot: {{store: store, encryption: {{none_needed_because: a test}}, {keys}, sources: [{sources}]}}\n"
    );
    place.write("release.yaml", text.as_bytes());
}

/// One source that runs the script `read`.
fn one(keys: &str, script: &str) -> Place {
    let place = place(keys, "{name: data, kind: command, target: [./read]}");
    place.script("read", &format!("echo read >> log\n{script}"));
    place
}

fn log(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("log")).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn records(place: &Place) -> usize {
    walk(&place.path(".trapkey/thaw.d")).iter().filter(|path| !path.ends_with("lock")).count()
}

const ROUND: [&str; 3] = ["freeze before", "read", "thaw after"];

fn wait_for_the_thaw(place: &Place) {
    wait_until("the thaw", || log(place).iter().any(|line| line == "thaw after"));
    wait_until("its record to go", || records(place) == 0);
}

fn kill(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, "--", pid]).status().unwrap().success());
}

/// The processes that a test's snapshot has started as guards, by their parent.
fn guard_of(pid: u32) -> String {
    let found = Command::new("pgrep").args(["-P", &pid.to_string(), "-f", "thaw-guard"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

#[test]
fn each_source_and_the_whole_are_frozen_and_thawed_in_their_order() {
    let place = place(
        "before: [./hook, all], after: [./hook, all], hook_timeout: 1m",
        "{name: a, kind: command, target: [./read], before: [./hook, a], after: [./hook, a]}, \
         {name: b, kind: command, target: [./read], before: [./hook, b]}",
    );
    place.script("read", "echo read >> log; echo data");
    let document = place.create();
    assert_eq!(
        log(&place),
        ["all before", "a before a", "read", "a after a", "b before b", "read", "all after"]
    );
    let findings = document["findings"].as_array().unwrap();
    let hooks: Vec<_> = findings.iter().filter(|f| f["kind"] == "hook").collect();
    assert_eq!(hooks.len(), 5, "{findings:#?}");
    assert_eq!(
        (&hooks[1]["name"], &hooks[1]["verdict"], &hooks[1]["evidence"]["command"]),
        (&json!("hook before of source `a`"), &json!("pass"), &json!("./hook a"))
    );
    assert_eq!((records(&place), document["verdict"].as_str()), (0, Some("pass")));
}

#[test]
fn the_thaw_comes_before_anything_is_committed_and_only_once() {
    let place = one(BOTH, "head -c 3000000 /dev/urandom");
    // While it is frozen nothing is in the store but what is being written.
    place.write("thaw.do", b"ls store/snapshots 2>/dev/null | wc -l > committed");
    place.create();
    assert_eq!(log(&place), ROUND);
    assert_eq!(std::fs::read_to_string(place.path("committed")).unwrap().trim(), "0");
    assert_eq!(std::fs::read_to_string(place.path("reasons")).unwrap(), "\n\n");
}

#[test]
fn a_failing_source_is_thawed_and_the_hook_told_why() {
    let place = one(BOTH, "echo half; exit 3");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("exit 3"), "{}", ended.stderr);
    assert_eq!((log(&place), records(&place)), (ROUND.map(str::to_owned).to_vec(), 0));
    assert!(std::fs::read_to_string(place.path("reasons")).unwrap().contains("the command failed: exit 3"));
    place.assert_nothing_kept();
}

#[test]
fn a_failing_freeze_reads_nothing_and_is_thawed_unless_it_never_began() {
    let place = one(BOTH, "echo data");
    place.write("freeze.do", b"echo 'no such device' >&2; exit 32");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("`before` of the snapshot failed"), "{}", ended.stderr);
    assert!(ended.stderr.contains("exit 32: no such device"), "{}", ended.stderr);
    assert_eq!((log(&place), records(&place)), (vec!["freeze before".into(), "thaw after".into()], 0));
    assert_eq!(place.document()["verdict"], "error");
    place.assert_nothing_kept();
    plan(
        &place,
        "before: [./not-there], after: [./hook, thaw]",
        "{name: data, kind: command, target: [./read]}",
    );
    let ended = place.call(&["create"]);
    assert_eq!((ended.code, log(&place).len(), records(&place)), (4, 2, 0), "{}", ended.stderr);
    assert!(ended.stderr.contains("could not be started"), "{}", ended.stderr);
}

#[test]
fn a_failing_thaw_keeps_no_snapshot_and_is_owed_by_the_next() {
    let place = one(BOTH, "echo data");
    place.write("thaw.do", b"echo 'device busy' >&2; exit 16");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4);
    for words in
        ["`after` of the snapshot failed", "exit 16: device busy", "may still be", ".trapkey/thaw.d/"]
    {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    place.assert_nothing_kept();
    assert_eq!(records(&place), 1);
    // As long as it fails nothing else begins.
    let ended = place.call(&["create"]);
    assert_eq!((ended.code, log(&place).len()), (4, 4), "{}", ended.stderr);
    assert!(ended.stderr.contains("left it frozen"), "{}", ended.stderr);
    std::fs::remove_file(place.path("thaw.do")).unwrap();
    let ended = place.good(&["create"]);
    assert!(ended.stderr.contains("thawing it first"), "{}", ended.stderr);
    let lines = log(&place);
    assert_eq!(
        (&lines[4..], records(&place)),
        (&["thaw after", ROUND[0], ROUND[1], ROUND[2]].map(str::to_owned)[..], 0)
    );
    let document = place.document();
    assert_eq!(document["findings"][0]["name"], "hook after (owed) of the snapshot");
    assert_eq!(place.listed(), 1);
}

#[test]
fn a_source_and_a_thaw_that_fail_are_both_told() {
    let place = one(BOTH, "exit 3");
    place.write("thaw.do", b"exit 16");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("the command failed: exit 3"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("besides, the hook `after` of the snapshot failed: exit 16"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_hook_that_hangs_is_ended_at_its_time() {
    // Nobody waits for ten minutes here. The other hook has the same time, and on a busy machine that must
    // not be too short for it.
    for time in ["1s", "10s", "60s"] {
        let place = one(&format!("{BOTH}, hook_timeout: {time}"), "echo data");
        place.write("freeze.do", b"sleep 600");
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 4, "{}", ended.stderr);
        assert!(ended.stderr.contains("did not end within its time"), "{}", ended.stderr);
        if records(&place) > 0 && time != "60s" {
            continue;
        }
        assert_eq!((log(&place).len(), records(&place)), (2, 0), "{}", ended.stderr);
        std::fs::rename(place.path("freeze.do"), place.path("thaw.do")).unwrap();
        let ended = place.call(&["create"]);
        assert_eq!((ended.code, records(&place)), (4, 1), "{}", ended.stderr);
        place.assert_nothing_kept();
        return;
    }
}

#[test]
fn signals_end_the_reading_and_never_the_thaw() {
    for name in ["-TERM", "-INT"] {
        let place = one(BOTH, SLOW);
        place.write("thaw.do", b"sleep 0.3");
        let child = place.begin("reading");
        kill(name, &child.id().to_string());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(4), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!((log(&place), records(&place)), (ROUND.map(str::to_owned).to_vec(), 0));
        place.assert_nothing_kept();
    }
    // In the middle of the freeze: it is ended, and thawed.
    let place = one(BOTH, "echo data");
    place.write("freeze.do", b"touch freezing; sleep 600");
    let child = place.begin("freezing");
    kill("-TERM", &child.id().to_string());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(4));
    assert_eq!((log(&place), records(&place)), (vec!["freeze before".into(), "thaw after".into()], 0));
}

#[test]
fn a_killed_snapshot_is_thawed_once_by_its_guard() {
    let place = one(BOTH, SLOW);
    let mut child = place.begin("reading");
    kill("-KILL", &child.id().to_string());
    child.wait().unwrap();
    wait_for_the_thaw(&place);
    let reasons = std::fs::read_to_string(place.path("reasons")).unwrap();
    assert!(reasons.contains("the snapshot ended before it was done"), "{reasons}");
    place.script("read", "echo read >> log; echo data");
    let ended = place.good(&["create"]);
    assert!(!ended.stderr.contains("left frozen"), "{}", ended.stderr);
    assert_eq!(log(&place).len(), 6, "{:?}", log(&place));
}

#[test]
fn after_a_kill_what_was_frozen_last_is_thawed_first() {
    let place = place(
        "before: [./hook, all], after: [./hook, all]",
        "{name: a, kind: command, target: [./read], before: [./hook, a], after: [./hook, a]}",
    );
    place.script("read", SLOW);
    place.write("a.do", b"if [ $TRAPKEY_HOOK = after ]; then sleep 0.5; echo a thawed >> log; fi");
    let mut child = begin_in_a_group(&place, "reading");
    kill("-KILL", &format!("-{}", child.id()));
    child.wait().unwrap();
    wait_until("both thaws", || log(&place).iter().any(|line| line == "all after"));
    wait_until("their records to go", || records(&place) == 0);
    assert_eq!(log(&place), ["all before", "a before a", "a after a", "a thawed", "all after"]);
}

#[test]
fn an_environment_may_have_any_name() {
    let place = one(BOTH, "echo data");
    for name in ["thaw", "thaw.d"] {
        place.good(&["create", "--environment", name]);
    }
    assert_eq!(log(&place).len(), 6);
}

/// In a process group of its own, to be killed as a whole.
fn begin_in_a_group(place: &Place, file: &str) -> Child {
    let mut command = place.command();
    let child = command.arg("create").process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    wait_until(file, || place.path(file).exists());
    child.unwrap()
}

#[test]
fn a_killed_process_group_is_thawed_once_by_the_guard() {
    for signals in [&["-KILL"][..], &["-INT", "-TERM", "-KILL"]] {
        let place = one(BOTH, SLOW);
        let mut child = begin_in_a_group(&place, "reading");
        let group = format!("-{}", child.id());
        for name in signals {
            kill(name, &group);
        }
        child.wait().unwrap();
        wait_for_the_thaw(&place);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(log(&place), ROUND);
    }
}

#[test]
fn killed_in_the_middle_of_the_freeze_the_thaw_waits_for_the_freeze_to_end() {
    let place = one(BOTH, "echo data");
    place.write("freeze.do", b"touch freezing; until [ -e go-on ]; do sleep 0.05; done; echo frozen >> log");
    let mut child = begin_in_a_group(&place, "freezing");
    kill("-KILL", &format!("-{}", child.id()));
    child.wait().unwrap();
    // The next snapshot waits for the guard, or it would be thawed in its midst.
    std::fs::write(place.path("freeze.do"), "").unwrap();
    let mut command = place.command();
    let mut next = command.arg("create").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(next.stderr.take().unwrap());
    while !said.contains("is being thawed: waiting") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    assert_eq!(log(&place), ["freeze before"]);
    place.write("go-on", b"");
    stderr.read_to_string(&mut said).unwrap();
    assert!(next.wait().unwrap().success(), "{said}");
    assert_eq!(log(&place), ["freeze before", "frozen", "thaw after", ROUND[0], ROUND[1], ROUND[2]]);
}

#[test]
fn without_snapshot_and_guard_the_next_snapshot_thaws_first_and_says_so() {
    let place = one(BOTH, SLOW);
    let mut child = place.begin("reading");
    let guard = guard_of(child.id());
    assert!(!guard.is_empty() && !guard.contains('\n'), "{guard:?}");
    // As when the machine goes down: the record is all that stays.
    kill("-KILL", &guard);
    kill("-KILL", &child.id().to_string());
    child.wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((log(&place), records(&place)), (vec!["freeze before".into(), "read".into()], 1));
    place.script("read", "echo read >> log; echo data");
    let ended = place.good(&["create"]);
    assert!(ended.stderr.contains("was left frozen by the snapshot of 20"), "{}", ended.stderr);
    assert_eq!(log(&place)[2..], ["thaw after", ROUND[0], ROUND[1], ROUND[2]].map(str::to_owned));
    assert_eq!(records(&place), 0);
}

#[test]
fn where_only_the_guard_was_killed_the_snapshot_thaws_itself() {
    let place = one(BOTH, "touch reading; while [ ! -e go-on ]; do sleep 0.05; done; echo data");
    let child = place.begin("reading");
    kill("-KILL", &guard_of(child.id()));
    place.write("go-on", b"");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!((log(&place), records(&place)), (ROUND.map(str::to_owned).to_vec(), 0));
}

/// A record as a machine leaves it that went down.
fn leave(place: &Place, name: &str, change: &Value) {
    let mut record = json!({
        "scope": "the snapshot", "source": null, "service": "shop", "version": "1.4.1",
        "environment": "production", "after": "./hook thaw", "timeout_ms": 1000, "host": "elsewhere",
        "began_at": "2026-01-02T03:04:05Z",
    });
    for (key, value) in change.as_object().unwrap() {
        record[key] = value.clone();
    }
    place.write(&format!(".trapkey/thaw.d/{name}.json"), record.to_string().as_bytes());
}

#[test]
fn what_is_owed_is_thawed_by_the_plan_and_by_nothing_else() {
    // The inner one first, and what the record says is run by nobody.
    let sources = "{name: data, kind: command, target: [./read], after: [./hook, inner]}";
    let frozen = place(BOTH, sources);
    frozen.script("read", "echo data");
    leave(&frozen, "a", &json!({"after": "touch evil"}));
    leave(&frozen, "b", &json!({"source": "data", "scope": "source `data`"}));
    frozen.create();
    assert_eq!(log(&frozen)[..2], ["inner after data", "thaw after"].map(str::to_owned));
    assert!(!frozen.path("evil").exists());
    // Of another environment: it stays, and is told.
    leave(&frozen, "c", &json!({"environment": "staging"}));
    let ended = frozen.good(&["create"]);
    assert!(ended.stderr.contains("a thaw of shop in staging is owed"), "{}", ended.stderr);
    assert_eq!(records(&frozen), 1);
    // The plan does not know how any more.
    plan(&frozen, "max_age: 1h", "{name: data, kind: command, target: [./read]}");
    leave(&frozen, "d", &json!({"after": "fsfreeze -u /data"}));
    let before = log(&frozen);
    let ended = frozen.call(&["create"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("fsfreeze -u /data") && ended.stderr.contains("run that by hand"),
        "{}",
        ended.stderr
    );
    std::fs::remove_file(frozen.path(".trapkey/thaw.d/d.json")).unwrap();
    frozen.write(".trapkey/thaw.d/e.json", b"{half a rec");
    let ended = frozen.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("thaw.d/e.json"), "{}", ended.stderr);
    assert_eq!(log(&frozen), before);
}

#[test]
fn two_snapshots_with_hooks_do_not_freeze_at_once() {
    let place = one(BOTH, "touch reading; while [ ! -e go-on ]; do sleep 0.05; done; echo data");
    let child = place.begin("reading");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("another snapshot of this plan is at work"), "{}", ended.stderr);
    place.write("go-on", b"");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(log(&place), ROUND);
}

#[test]
fn secrets_of_hooks_stay_out_of_documents_records_and_process_lists() {
    let place = one(
        "before: [./hook, freeze, \"${DB_NAME:-orders}\"], after: [./hook, thaw, \"${DB_NAME:-orders}\"]",
        SLOW,
    );
    place.write("freeze.do", b"echo \"with $DB_PASSWORD\"");
    let mut command = place.command();
    command.env("DB_PASSWORD", "s3cr3t-walrus").arg("create").stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("reading", || place.path("reading").exists());
    let guard = guard_of(child.id());
    let line = std::fs::read_to_string(Path::new("/proc").join(&guard).join("cmdline")).unwrap();
    assert_eq!(line, "snapshot\0thaw-guard\0");
    let record = walk(&place.path(".trapkey/thaw.d")).into_iter().find(|p| p.extension().is_some()).unwrap();
    let record = std::fs::read_to_string(record).unwrap();
    assert!(record.contains("./hook thaw ${DB_NAME:-orders}"), "{record}");
    kill("-TERM", &child.id().to_string());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned() + &place.document().to_string() + &record;
    assert!(!said.contains("walrus"), "{said}");
    assert_eq!(log(&place), ROUND);
}
