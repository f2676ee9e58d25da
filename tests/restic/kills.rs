//! Killed with -9 at any moment, and disks that are full: what was there is whole, and the next run
//! finishes.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;
use crate::promote::figure;
use crate::snapshot::rounds;

const THRIFT: Thrift = Thrift { max_unused: 0.0, join_small: false };

/// Does one thing with the repository of a lab, until it is killed.
#[test]
#[ignore = "the tests about kills and full disks start it"]
fn does_what_it_is_told() {
    let word_of = |name| std::env::var(name).unwrap();
    let at = PathBuf::from(word_of("TRAPKEY_LAB"));
    let repository = Repository::open(Arc::new(Local::new(at.join("repo"))), &word()).unwrap();
    std::fs::write(at.join("begun"), "").unwrap();
    let src = at.join("src");
    let done = match word_of("TRAPKEY_DO").as_str() {
        "backup" => repository.begin(Spec::new(vec!["/src".into()])).and_then(|mut archive| {
            archive.folder(&src, &src, &everything)?;
            archive.seal()?.commit().map(drop)
        }),
        "prune" => repository.prune(THRIFT, &mut |_, _| {}).map(drop),
        "restore" => {
            let id = Id::parse(&word_of("TRAPKEY_ID")).unwrap();
            let how = How { owners: true, devices: true, into_existing: true, ..How::default() };
            let opened = repository.read(id).unwrap();
            opened.restore(&at.join("out"), &how, &Progress::default()).map(drop)
        }
        other => panic!("{other}"),
    };
    if let Err(fault) = done {
        write!(std::io::stderr(), "{fault}").unwrap();
        panic!("a fault");
    }
}

impl Lab {
    fn telling(&self, what: &str, id: Option<Id>) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "restic::kills::does_what_it_is_told", "--ignored", "--nocapture"])
            .env("TRAPKEY_LAB", self.folder.path())
            .env("TRAPKEY_DO", what)
            .env("TRAPKEY_ID", id.map(|id| id.to_string()).unwrap_or_default())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts it and waits until it has opened the repository.
    fn begun(&self, what: &str, id: Option<Id>) -> Child {
        let _ = std::fs::remove_file(self.path("begun"));
        let child = self.telling(what, id).stderr(Stdio::null()).spawn().unwrap();
        crate::support::wait_until("the repository to be opened", || self.path("begun").exists());
        child
    }

    /// What a snapshot of `src` restores to, at the place that it is restored to.
    fn inside(&self, out: &str) -> PathBuf {
        self.path(out).join(self.path("src").strip_prefix("/").unwrap())
    }

    fn restores_to(&self, repository: &Repository, id: Id, then: &BTreeMap<PathBuf, String>) {
        self.restore(repository, id, "again");
        assert_eq!(&picture(&self.inside("again")), then, "{}", id.short());
        std::fs::remove_dir_all(self.path("again")).unwrap();
    }
}

/// Every whole file that a killed restore left is the one of the source.
fn whole_files(out: &Path, src: &Path) -> usize {
    let mut whole = 0;
    for path in crate::snapshot::walk(out) {
        let inside = path.strip_prefix(out).unwrap();
        if !inside.to_string_lossy().contains(".trapkey-unfinished-") {
            assert!(
                std::fs::read(&path).unwrap() == std::fs::read(src.join(inside)).unwrap(),
                "{}",
                path.display()
            );
            whole += 1;
        }
    }
    whole
}

#[test]
fn killed_at_moments_by_chance_nothing_is_lost_and_the_next_run_finishes() {
    let kills = rounds(3, 9);
    let seed = trapkey::world::unique();
    let mut dice = seed;
    let mut next = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % below
    };
    let lab = Lab::new();
    for number in 0..40_u8 {
        lab.write(&format!("src/many/{number}"), &noise(3000 + usize::from(number) * 50, number.into()));
    }
    lab.write("src/large.bin", &noise(1_500_000, 1));
    let repository = lab.init();
    let mut known = BTreeMap::from([(lab.backup(&repository), picture(&lab.path("src")))]);
    // How long each takes when nobody kills it, from the moment that it is begun.
    let mut lengths = [Duration::from_millis(300); 3];
    let (hit, mut done_before) = ([0; 3].map(std::cell::Cell::new), 0);
    // Where every kill came too late, that proves nothing: three more.
    for round in (0_u64..).take_while(|round| *round < kills || hit.iter().all(|n| n.get() == 0_usize)) {
        let what = usize::try_from(round % 3).unwrap();
        // Something new in every round, and something less.
        lab.write("src/changing.bin", &noise(400_000, 1000 + round));
        lab.write(&format!("src/many/{}", round % 40), &noise(2000, 5000 + round));
        let newest = *known.keys().next_back().unwrap();
        if what == 1 {
            known.insert(lab.backup(&repository), picture(&lab.path("src")));
            let forgotten = *known.keys().next().unwrap();
            known.remove(&forgotten);
            repository.forget(&[forgotten]).unwrap();
        }
        let _ = std::fs::remove_dir_all(lab.path("out"));
        let mut child = lab.begun(["backup", "prune", "restore"][what], Some(newest));
        let began = Instant::now();
        let most = u64::try_from(lengths[what].as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(next(most)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            done_before += 1;
            lengths[what] = (lengths[what] * 3 + began.elapsed()) / 4;
        } else {
            hit[what].set(hit[what].get() + 1);
        }
        let context = format!("seed {seed}, round {round}");
        let health = check(&repository);
        assert!(health.damaged.is_empty(), "{context}: {:?}", health.damaged);
        // The list has what was there, and at most the one that was made whole at the last moment.
        let listed = repository.snapshots().unwrap();
        assert!(listed.damaged.is_empty(), "{context}");
        for (id, _) in listed.whole {
            if let std::collections::btree_map::Entry::Vacant(new) = known.entry(id) {
                assert_eq!(what, 0, "{context}");
                new.insert(picture(&lab.path("src")));
            }
        }
        let (id, then) = known.iter().nth(usize::try_from(next(known.len() as u64)).unwrap()).unwrap();
        lab.restores_to(&repository, *id, then);
        let begun = Instant::now();
        match what {
            0 => drop(known.insert(lab.backup(&repository), picture(&lab.path("src")))),
            1 => {
                repository.prune(THRIFT, &mut |_, _| {}).unwrap();
                assert!(repository.plan_prune(THRIFT).unwrap().is_empty(), "{context}");
                assert!(check(&repository).damaged.is_empty(), "{context}");
            }
            _ => {
                if lab.path("out").exists() {
                    std::fs::create_dir_all(lab.path("was")).unwrap();
                    let first = How { owners: true, devices: true, ..How::default() };
                    let was = lab.path("was");
                    repository.read(newest).unwrap().restore(&was, &first, &Progress::default()).unwrap();
                    whole_files(&lab.path("out"), &was);
                    std::fs::remove_dir_all(was).unwrap();
                }
                let how = How { owners: true, devices: true, into_existing: true, ..How::default() };
                let opened = repository.read(newest).unwrap();
                opened.restore(&lab.path("out"), &how, &Progress::default()).unwrap();
                assert_eq!(picture(&lab.inside("out")), known[&newest], "{context}");
                let left = crate::snapshot::walk(&lab.path("out"));
                assert!(left.iter().all(|path| !path.to_string_lossy().contains("unfinished")), "{context}");
            }
        }
        lengths[what] = (lengths[what] * 3 + begun.elapsed()) / 4;
        // Not more than a few are kept, so that a round stays short.
        while known.len() > 5 {
            let first = *known.keys().next().unwrap();
            known.remove(&first);
            repository.forget(&[first]).unwrap();
        }
    }
    for (id, then) in &known {
        lab.restores_to(&repository, *id, then);
    }
    lab.restic(&["check", "--read-data"]);
    let [backups, prunes, restores] = hit.map(std::cell::Cell::into_inner);
    figure(&format!(
        "snapshot: {backups} backups, {prunes} prunes and {restores} restores killed at work, {done_before} \
         done before; all whole, seed {seed}"
    ));
}

/// Runs what it is told with a small file system in the place of a folder of the lab; then does the rest
/// of the script. None when this user may not mount.
fn on_a_small_disk(
    lab: &Lab,
    folder: &str,
    size: &str,
    what: &str,
    id: Option<Id>,
    script: &str,
) -> Option<String> {
    let at = lab.path(folder);
    std::fs::create_dir_all(&at).unwrap();
    let script = format!(
        "cp -a {folder} aside && mount -t tmpfs -o size={size} tmpfs {folder} || exit 77\n\
         cp -a aside/. {folder}/ || exit 78\n{script}"
    );
    let told = lab.telling(what, id);
    let mut command = Command::new("unshare");
    command.args(if crate::snapshot::is_root() { &["-m"][..] } else { &["-rm"][..] });
    command.args(["sh", "-c", &script]).arg(told.get_program()).args(told.get_args());
    command.envs(told.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.current_dir(lab.folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !crate::snapshot::is_root() && matches!(output.status.code(), Some(1 | 77)) {
        let said = writeln!(std::io::stderr(), "NOT TESTED: an unprivileged user may not mount here");
        assert!(said.is_ok());
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    Some(said)
}

/// Fails as it should, and leaves what is on the disk then in `after`.
const FAILS: &str = "\"$0\" \"$@\" && exit 79\ncp -a repo after";

#[test]
fn a_backup_onto_a_full_disk_is_a_clear_error_and_loses_nothing() {
    backup_onto_a_full_disk("700k");
}

#[test]
fn a_backup_onto_a_disk_that_is_soon_full_is_a_clear_error_and_loses_nothing() {
    backup_onto_a_full_disk("5m");
}

#[test]
fn a_backup_onto_a_disk_that_is_full_at_the_end_is_a_clear_error_and_loses_nothing() {
    backup_onto_a_full_disk("6100k");
}

fn backup_onto_a_full_disk(size: &str) {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(300_000, 1));
    let first = lab.backup(&lab.init());
    let then = picture(&lab.path("src"));
    lab.write("src/large.bin", &noise(6_000_000, 2));
    let Some(said) = on_a_small_disk(&lab, "repo", size, "backup", None, FAILS) else { return };
    assert!(said.contains("No space left on device") && said.contains("the disk is full"), "{said}");
    let after = Repository::open(Arc::new(Local::new(lab.path("after"))), &word()).unwrap();
    let health = check(&after);
    assert!(health.damaged.is_empty() && health.snapshots == 1, "{size}: {health:?}");
    assert!(crate::snapshot::walk(&lab.path("after")).iter().all(|p| !p.to_string_lossy().contains("-tmp-")));
    lab.restores_to(&after, first, &then);
    // With more room the next run finishes, and uses what is there.
    let second = lab.backup(&after);
    lab.restores_to(&after, second, &picture(&lab.path("src")));
    for folder in ["after", "aside"] {
        std::fs::remove_dir_all(lab.path(folder)).unwrap();
    }
}

/// No room for a lock.
#[test]
fn a_prune_on_a_full_disk_is_a_clear_error_and_loses_nothing() {
    prune_on_a_full_disk(0);
}

#[test]
fn a_prune_without_room_for_a_pack_is_a_clear_error_and_loses_nothing() {
    prune_on_a_full_disk(100);
}

#[test]
fn a_prune_without_room_for_the_end_of_a_pack_is_a_clear_error_and_loses_nothing() {
    prune_on_a_full_disk(2900);
}

/// So many KiB are left.
fn prune_on_a_full_disk(left: u32) {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(3_000_000, 1));
    lab.write("src/b.bin", &noise(3_000_000, 2));
    let repository = lab.init();
    let first = lab.backup(&repository);
    std::fs::remove_file(lab.path("src/a.bin")).unwrap();
    let second = lab.backup(&repository);
    let then = picture(&lab.path("src"));
    repository.forget(&[first]).unwrap();
    let script = format!(
        "dd if=/dev/zero of=repo/filler bs=1k count=100000 2>/dev/null; truncate -s -{left}k repo/filler\n{FAILS}"
    );
    let Some(said) = on_a_small_disk(&lab, "repo", "9m", "prune", None, &script) else { return };
    assert!(said.contains("No space left on device") && said.contains("the disk is full"), "{said}");
    let after = Repository::open(Arc::new(Local::new(lab.path("after"))), &word()).unwrap();
    let health = check(&after);
    assert!(health.damaged.is_empty() && health.snapshots == 1, "{left}: {health:?}");
    lab.restores_to(&after, second, &then);
    after.prune(THRIFT, &mut |_, _| {}).unwrap();
    assert!(after.plan_prune(THRIFT).unwrap().is_empty());
    lab.restores_to(&after, second, &then);
    for folder in ["after", "aside"] {
        std::fs::remove_dir_all(lab.path(folder)).unwrap();
    }
}

#[test]
fn a_restore_onto_a_full_disk_is_a_clear_error_and_goes_on_when_there_is_room() {
    let lab = Lab::new();
    for number in 0..8 {
        lab.write(&format!("src/{number}.bin"), &noise(500_000, number));
    }
    let repository = lab.init();
    let id = lab.backup(&repository);
    let script = "\"$0\" \"$@\" && exit 79\ncp -a out after";
    let Some(said) = on_a_small_disk(&lab, "out", "2m", "restore", Some(id), script) else { return };
    assert!(said.contains("No space left on device") && said.contains("the disk is full"), "{said}");
    let after = lab.path("after");
    lab.restore(&repository, id, "was");
    let whole = whole_files(&after, &lab.path("was"));
    assert!((1..8).contains(&whole), "{whole}");
    let how = How { owners: true, devices: true, into_existing: true, ..How::default() };
    let done = repository.read(id).unwrap().restore(&after, &how, &Progress::default()).unwrap();
    assert_eq!((done.files, done.kept), (8, whole as u64));
    assert_eq!(picture(&lab.inside("after")), picture(&lab.path("src")));
}
