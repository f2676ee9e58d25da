//! Several at once, locks and keys: ours and restic's keep out of each other's way.

use super::*;

#[test]
fn restic_keeps_away_while_we_hold_a_lock_and_we_while_it_does() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let archive = repository.begin(lab.spec()).unwrap();
    let said = lab.restic_fails(&["prune"]);
    assert!(said.contains("already locked by PID"), "{said}");
    assert!(said.contains(&std::process::id().to_string()), "{said}");
    lab.restic(&["backup", lab.path("src").to_str().unwrap()]);
    let refused = repository.prune(Thrift::default(), &mut |_, _| {}).unwrap_err();
    assert!(refused.what.contains("locked") && refused.cause.unwrap().contains("held shared by process"));
    drop(archive);
    assert!(lab.stored("locks").is_empty());
    // restic that is fed by a pipe holds its lock as long as the pipe is open.
    let mut command = lab.restic_command(&["backup", "--stdin"]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::support::wait_until("restic's lock", || !repository.locks().unwrap().is_empty());
    let info = repository.locks().unwrap().remove(0).1;
    assert_eq!((info.pid, info.exclusive), (i32::try_from(child.id()).unwrap(), false));
    assert!(repository.forget(&[]).unwrap_err().what.contains("locked"));
    let id = lab.backup(&repository);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"from a pipe").unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    repository.forget(&[id]).unwrap();
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn the_lock_of_a_dead_process_holds_nobody_up() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let mut command = lab.restic_command(&["backup", "--stdin"]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::support::wait_until("restic's lock", || !repository.locks().unwrap().is_empty());
    assert_eq!(repository.unlock(false).unwrap(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(repository.locks().unwrap().len(), 1);
    repository.prune(Thrift::default(), &mut |_, _| {}).unwrap();
    assert!(repository.locks().unwrap().is_empty());
}

#[test]
fn a_snapshot_whose_lock_was_taken_away_is_not_committed() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let sealed = lab.sealed(&repository, lab.spec()).unwrap();
    lab.restic(&["unlock", "--remove-all"]);
    let fault = sealed.commit().unwrap_err();
    assert_eq!(fault.what, "the lock of the repository was lost");
    assert!(repository.snapshots().unwrap().whole.is_empty());
}

#[test]
fn two_backups_at_once_both_succeed() {
    let lab = Lab::new();
    lab.corpus();
    let repository = lab.init();
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| lab.backup(&lab.open())), scope.spawn(|| lab.backup(&repository))];
        for one in both {
            one.join().unwrap();
        }
    });
    assert_eq!(repository.snapshots().unwrap().whole.len(), 2);
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn keys_are_added_rotated_and_removed_and_restic_knows_them() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let mut repository = lab.init();
    lab.backup(&repository);
    let other = Passphrase::new("another word").unwrap();
    let added = repository.add_key(&other, Duration::ZERO).unwrap();
    assert_eq!(repository.keys().unwrap().len(), 2);
    let refused = Repository::open(lab.backend(), &other).unwrap().remove_key(added).unwrap_err();
    assert!(refused.what.contains("in use"));
    repository.remove_key(added).unwrap();
    let wrong = Repository::open(lab.backend(), &other).unwrap_err();
    assert_eq!(wrong.what, "the passphrase does not open the repository");
    assert!(!format!("{wrong}").contains("another word"));
    let before = repository.keys().unwrap()[0].id;
    let new = repository.rotate_key(&other, Duration::ZERO).unwrap();
    let keys = repository.keys().unwrap();
    assert_eq!((keys.len(), keys[0].id, keys[0].current), (1, new, true));
    assert_ne!(new, before);
    assert!(Repository::open(lab.backend(), &word()).is_err());
    let said = lab.restic_fails(&["snapshots"]);
    assert!(said.contains("wrong password"), "{said}");
    let mut command = lab.restic_command(&["snapshots"]);
    assert!(command.env("RESTIC_PASSWORD", "another word").output().unwrap().status.success());
}

#[test]
fn a_place_is_made_a_repository_once() {
    let lab = Lab::new();
    let missing = Repository::open(lab.backend(), &word()).unwrap_err();
    assert_eq!(missing.what, "there is no repository");
    lab.init();
    let twice = Repository::init(lab.backend(), &word(), Duration::ZERO).unwrap_err();
    assert_eq!(twice.what, "there is a repository already");
    let fault = lab.open().begin(Spec { parent: Some(Id::of(b"")), ..lab.spec() }).unwrap_err();
    assert!(fault.what.contains("missing"), "{fault}");
    assert!(lab.stored("locks").is_empty());
    let empty = lab.open().begin(lab.spec()).unwrap().seal().unwrap_err();
    assert!(empty.what.contains("nothing to back up"));
}

#[test]
fn what_an_interrupted_making_left_is_taken_up_by_the_next_with_the_same_passphrase() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    drop(lab.init());
    let config = lab.path("repo/config");
    std::fs::remove_file(&config).unwrap();
    let backend = || std::sync::Arc::new(Local::new(lab.path("repo")));
    let other = Passphrase::new("another one").unwrap();
    let refused = Repository::init(backend(), &other, std::time::Duration::ZERO).unwrap_err();
    assert!(refused.what.contains("with another passphrase"), "{refused}");
    let repository = lab.init();
    assert_eq!(lab.stored("keys").len(), 1);
    lab.backup(&repository);
    lab.restic(&["check", "--read-data"]);
    // With data in it, only a copy of `config` helps.
    std::fs::remove_file(&config).unwrap();
    let same = word();
    let refused = Repository::init(backend(), &same, std::time::Duration::ZERO).unwrap_err();
    assert!(refused.what.contains("without its file `config`"), "{refused}");
}
