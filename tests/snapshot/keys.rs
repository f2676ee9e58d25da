//! Keys and locks: who may open a store, and who keeps others out.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use trapkey::repository::restic::{Passphrase, Repository};

use super::prune::limited;
use crate::restic::Lab;
use crate::snapshot::{Place, walk};
use crate::support::{Ended, run};

/// A store with a passphrase of its own, and a snapshot in it.
struct Vault(Place);

const OLD: &str = "the first passphrase";
const NEW: &str = "another passphrase";

impl Vault {
    fn new() -> Self {
        let place = Place::new("{name: config, kind: files, target: deploy}");
        place.write("deploy/app.yaml", b"replicas: 3\n");
        let text = "version: 1\nservice: shop\nrelease: {version: 1.4.2}\nsnapshot:\n  store: store\n  \
                    sources: [{name: config, kind: files, target: deploy}]\n";
        place.write("release.yaml", text.as_bytes());
        let vault = Self(place);
        vault.good(OLD, None, &["create"]);
        vault
    }

    fn call(&self, passphrase: &str, new: Option<&str>, arguments: &[&str]) -> Ended {
        let mut command = self.0.command();
        command.env("TRAPKEY_PASSPHRASE", passphrase).args(arguments);
        new.map(|new| command.env("TRAPKEY_NEW_PASSPHRASE", new));
        let ended = run(&mut command);
        let shown = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!shown.contains(OLD) && !shown.contains(NEW), "{shown}");
        ended
    }

    fn good(&self, passphrase: &str, new: Option<&str>, arguments: &[&str]) -> Ended {
        let ended = self.call(passphrase, new, arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        ended
    }

    fn keys(&self, passphrase: &str) -> Vec<Value> {
        let listed = self.good(passphrase, None, &["key", "list", "--json"]).stdout;
        serde_json::from_str::<Value>(&listed).unwrap()["keys"].as_array().unwrap().clone()
    }

    fn restic_opens(&self, passphrase: &str) -> bool {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "-r"]).arg(self.0.path("store")).arg("snapshots");
        command.env("RESTIC_PASSWORD", passphrase);
        run(&mut command).code == 0
    }
}

#[test]
fn a_key_is_added_listed_and_removed_and_restic_agrees() {
    let vault = Vault::new();
    let added = vault.good(OLD, Some(NEW), &["key", "add", "--json"]);
    let added: Value = serde_json::from_str(&added.stdout).unwrap();
    assert_eq!(added["changed"], true);
    let keys = vault.keys(OLD);
    assert_eq!(keys.len(), 2);
    assert_eq!(keys.iter().filter(|key| key["in_use"] == true).count(), 1);
    assert!(vault.restic_opens(OLD) && vault.restic_opens(NEW));
    // Once more changes nothing.
    let again: Value =
        serde_json::from_str(&vault.good(OLD, Some(NEW), &["key", "add", "--json"]).stdout).unwrap();
    assert_eq!((&again["changed"], &again["key"]), (&false.into(), &added["key"]));
    let table = vault.good(NEW, None, &["key", "list"]).stdout;
    assert_eq!(table.lines().count(), 3, "{table}");
    let used = vault.keys(NEW).into_iter().find(|key| key["in_use"] == true).unwrap();
    assert_eq!(used["id"], added["key"]);
    let own = added["key"].as_str().unwrap();
    let refused = vault.call(NEW, None, &["key", "remove", own]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    vault.good(OLD, None, &["key", "remove", &own[..8]]);
    assert!(vault.restic_opens(OLD) && !vault.restic_opens(NEW));
    assert_eq!(vault.call(NEW, None, &["list"]).code, 5);
}

#[test]
fn the_last_key_and_unknown_ones_are_not_removed() {
    let vault = Vault::new();
    let only = vault.keys(OLD)[0]["id"].as_str().unwrap().to_owned();
    let refused = vault.call(OLD, None, &["key", "remove", &only]);
    assert_eq!(refused.code, 5);
    assert!(refused.stderr.contains("the last key cannot be removed"), "{}", refused.stderr);
    for unknown in ["ffffffff", "abc", ""] {
        assert_eq!(vault.call(OLD, None, &["key", "remove", unknown]).code, 2, "{unknown}");
    }
    assert_eq!(vault.call(OLD, None, &["key", "add"]).code, 2, "there is no new passphrase");
    assert!(vault.restic_opens(OLD));
}

#[test]
fn a_rotated_store_opens_with_the_new_passphrase_alone_and_everything_is_there() {
    let vault = Vault::new();
    vault.good(OLD, Some(NEW), &["key", "rotate"]);
    assert!(vault.restic_opens(NEW) && !vault.restic_opens(OLD));
    let keys = vault.keys(NEW);
    assert!(keys.len() == 1 && keys[0]["in_use"] == true, "{keys:?}");
    assert_eq!(vault.call(OLD, None, &["list"]).code, 5);
    vault.good(NEW, None, &["check", "--read-data"]);
    vault.good(NEW, None, &["restore", "--to", "out"]);
    assert!(walk(&vault.0.path("store/locks")).is_empty());
    let same = vault.call(NEW, Some(NEW), &["key", "rotate"]);
    assert_eq!(same.code, 5, "{}", same.stderr);
    assert!(same.stderr.contains("is the one in use"), "{}", same.stderr);
    assert_eq!(vault.keys(NEW).len(), 1);
}

#[test]
fn the_passphrase_that_everybody_knows_is_new_only_where_the_plan_says_so() {
    let vault = Vault::new();
    for command in ["add", "rotate"] {
        for more in [&[][..], &["--store", "store"]] {
            let arguments = [&["key", command], more].concat();
            let refused = vault.call(OLD, Some("none-needed"), &arguments);
            assert_eq!(refused.code, 5, "{}", refused.stderr);
            assert!(refused.stderr.contains("none_needed_because"), "{}", refused.stderr);
        }
    }
    assert!(!vault.restic_opens("none-needed"));
    let plan = std::fs::read_to_string(vault.0.path("release.yaml")).unwrap();
    let open = plan.replace("  sources", "  encryption: {none_needed_because: a test}\n  sources");
    vault.0.write("release.yaml", open.as_bytes());
    vault.good(OLD, Some("none-needed"), &["key", "rotate"]);
    assert!(vault.restic_opens("none-needed"));
    vault.0.good(&["list"]);
}

#[test]
fn a_rotation_that_is_stopped_anywhere_leaves_a_passphrase_that_opens_and_goes_on() {
    let (old, new) = (crate::restic::word(), Passphrase::new(NEW).unwrap());
    for changes in 0.. {
        let lab = Lab::new();
        lab.write("src/a", b"a");
        let repository = lab.init();
        let id = lab.backup(&repository);
        let done = limited(&lab, changes, false).rotate_key(&new, Duration::ZERO);
        if done.is_ok() {
            assert!(changes >= 3, "{changes}");
            assert!(Repository::open(lab.backend(), &old).is_err());
            break;
        }
        let mut opened = Repository::open(lab.backend(), &old).unwrap();
        opened.unlock(true).unwrap();
        opened.rotate_key(&new, Duration::ZERO).unwrap();
        assert!(Repository::open(lab.backend(), &old).is_err());
        let opened = Repository::open(lab.backend(), &new).unwrap();
        assert_eq!(opened.keys().unwrap().len(), 1, "after {changes} changes");
        lab.restore(&opened, id, "out");
    }
}

#[test]
fn two_who_each_remove_the_key_of_the_other_leave_one() {
    let lab = Lab::new();
    let first = lab.init();
    let new = Passphrase::new(NEW).unwrap();
    first.add_key(&new, Duration::ZERO).unwrap();
    let second = Repository::open(lab.backend(), &new).unwrap();
    let key =
        |repository: &Repository| repository.keys().unwrap().into_iter().find(|key| key.current).unwrap().id;
    let (of_first, of_second) = (key(&first), key(&second));
    first.remove_key(of_second).unwrap();
    let refused = second.remove_key(of_first).unwrap_err();
    assert!(refused.what.contains("removed meanwhile"), "{refused}");
    assert!(Repository::open(lab.backend(), &crate::restic::word()).is_ok());
}

#[test]
fn unlock_removes_the_lock_of_a_dead_process_and_names_its_holder() {
    let place = Place::new("{name: slow, kind: command, target: [./slow.sh], with: {file: x}}");
    place.script("slow.sh", "touch began; while [ -e slow.sh ]; do sleep 0.1; done");
    let mut child = place.begin("began");
    let (pid, locks) = (child.id().to_string(), place.path("store/locks"));
    assert_eq!(walk(&locks).len(), 1);
    let alive: Value = serde_json::from_str(&place.good(&["unlock", "--json"]).stdout).unwrap();
    assert_eq!((&alive["removed"], &alive["locks"][0]["removed"]), (&0.into(), &false.into()));
    assert_eq!(walk(&locks).len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = place.good(&["unlock"]);
    assert!(ended.stderr.contains(&format!("held shared by process {pid} of ")), "{}", ended.stderr);
    assert!(ended.stderr.contains("1 lock removed"), "{}", ended.stderr);
    assert!(walk(&locks).is_empty());
    assert!(place.good(&["unlock"]).stderr.contains("there is no lock"));
}

#[test]
fn unlock_all_removes_also_the_lock_of_who_still_works_and_one_that_cannot_be_read() {
    let place = Place::new("{name: slow, kind: command, target: [./slow.sh], with: {file: x}}");
    place.script("slow.sh", "touch began; while [ ! -e go ]; do sleep 0.05; done; echo done");
    let child = place.begin("began");
    let locks = place.path("store/locks");
    place.write(&format!("store/locks/{}", "a".repeat(64)), b"nonsense");
    let refused = place.call(&["unlock"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("unlock --all"), "{}", refused.stderr);
    place.good(&["unlock", "--all"]);
    assert!(walk(&locks).is_empty());
    place.write("go", b"");
    // Whoever lost the lock keeps nothing.
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.listed(), 0);
}

#[test]
fn a_passphrase_that_its_command_prints_before_it_fails_is_never_shown() {
    let vault = Vault::new();
    for command in [
        format!("sh -c 'echo {NEW}; exit 3'"),
        format!("sh -c 'set -x; echo {NEW}; exit 3'"),
        format!("sh -c 'echo {NEW}; echo cannot decrypt {NEW} >&2; exit 3'"),
    ] {
        let mut call = vault.0.command();
        call.env("TRAPKEY_PASSPHRASE_COMMAND", &command).args(["create"]);
        let ended = run(&mut call);
        assert_eq!(ended.code, 4, "{}", ended.stderr);
        assert!(ended.stderr.contains("the command that gives the passphrase failed"), "{}", ended.stderr);
        let document = std::fs::read_to_string(vault.0.path("evidence/snapshot.json")).unwrap();
        for shown in [&ended.stdout, &ended.stderr, &document] {
            assert!(!shown.contains(NEW), "{command}: {shown}");
        }
    }
}
