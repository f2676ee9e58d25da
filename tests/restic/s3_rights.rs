//! Keys that may only add, buckets that keep what is removed, and what all this costs in requests.

use std::collections::BTreeMap;

use trapkey::repository::restic::Cached;

use super::s3::{Afar, whole};
use super::*;
use crate::support::faults::Fate;

fn counted(afar: &Afar) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for request in afar.faults.take_seen() {
        *counts.entry(request).or_insert(0) += 1;
    }
    counts
}

fn sum(counts: &BTreeMap<String, u32>) -> u32 {
    counts.values().sum()
}

#[test]
fn a_key_that_may_only_add_backs_up_and_removes_nothing() {
    for locks_too in [false, true] {
        let afar = Afar::new();
        afar.some();
        let repository = afar.init();
        let first = afar.lab.backup(&repository);
        afar.faults.now(move |line| {
            let lock = line.contains("/locks/");
            if line.starts_with("DELETE") && (locks_too || !lock) {
                Fate::Error(403, "AccessDenied")
            } else {
                Fate::Pass
            }
        });
        afar.lab.write("src/new.bin", &noise(400_000, 8));
        std::fs::remove_file(afar.lab.path("src/large.bin")).unwrap();
        let second = afar.lab.backup(&repository);
        afar.restores(&repository, second, "out");
        whole(&repository);
        let before = afar.bucket.keys();
        let thrift = Thrift { max_unused: 0.0, join_small: true };
        let forget = repository.forget(&[first]).unwrap_err();
        assert_eq!(forget.what, "the store does not let this key remove anything", "{forget}");
        let text = forget.to_string();
        assert!(text.contains("s3:DeleteObject") && text.contains("nothing was changed"), "{text}");
        assert!(repository.retag(second, vec!["x".into()]).is_err());
        assert!(repository.rebuild_index().is_err());
        let nothing = repository.prune(thrift, &mut |_, _| {});
        if locks_too {
            assert!(nothing.is_err(), "a lock of a backup that may still run stays");
        } else {
            assert!(nothing.unwrap().is_empty(), "there is nothing to prune yet");
        }
        // Only locks have come.
        let after: Vec<_> = afar.bucket.keys().into_iter().filter(|key| !key.contains("/locks/")).collect();
        assert_eq!(after, before.into_iter().filter(|key| !key.contains("/locks/")).collect::<Vec<_>>());
        // Whoever may remove goes on.
        afar.faults.now(|_| Fate::Pass);
        repository.unlock(true).unwrap();
        repository.forget(&[first]).unwrap();
        afar.faults.now(|line| {
            if line.starts_with("DELETE") && line.contains("/data/") {
                Fate::Error(403, "AccessDenied")
            } else {
                Fate::Pass
            }
        });
        let before = afar.stored("data/").len();
        let denied = repository.prune(thrift, &mut |_, _| {}).unwrap_err();
        assert_eq!(denied.what, "the store does not let this key remove anything", "{denied}");
        assert_eq!(afar.stored("data/").len(), before);
        afar.faults.now(|_| Fate::Pass);
        afar.restic(&["check", "--read-data"]);
        repository.prune(thrift, &mut |_, _| {}).unwrap();
        afar.restores(&repository, second, "out2");
        afar.restic(&["check", "--read-data"]);
    }
}

#[test]
fn a_bucket_that_keeps_versions_lets_us_prune_and_keeps_them() {
    let afar = Afar::new();
    afar.some();
    let repository = afar.init();
    let body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(afar.bucket.send("PUT", "?versioning", body).0, 200);
    let first = afar.lab.backup(&repository);
    std::fs::remove_file(afar.lab.path("src/large.bin")).unwrap();
    let second = afar.lab.backup(&repository);
    let packs = afar.stored("data/");
    repository.forget(&[first]).unwrap();
    repository.prune(Thrift { max_unused: 0.0, join_small: true }, &mut |_, _| {}).unwrap();
    let gone: Vec<_> = packs.into_iter().filter(|key| !afar.stored("data/").contains(key)).collect();
    assert!(!gone.is_empty());
    let (_, versions) = afar.bucket.send("GET", "?versions", b"");
    let versions = String::from_utf8(versions).unwrap();
    assert!(gone.iter().all(|key| versions.contains(key.as_str())), "the versions stay");
    whole(&repository);
    afar.restores(&repository, second, "out");
    afar.restic(&["check", "--read-data"]);
}

#[test]
fn with_a_cache_an_unchanged_source_costs_few_requests_and_a_damaged_cache_heals() {
    let afar = Afar::new();
    for i in 0..40 {
        afar.lab.write(&format!("src/folder {i}/file"), format!("file {i}").as_bytes());
    }
    let mut parent = Some(afar.lab.backup(&afar.init()));
    for _ in 0..6 {
        afar.lab.write("src/changes", &noise(1000, 1));
        parent = Some(
            afar.lab.sealed(&afar.open(), Spec { parent, ..afar.lab.spec() }).unwrap().commit().unwrap(),
        );
    }
    let run = || {
        afar.faults.take_seen();
        let repository = Repository::open(afar.cached("cache"), &word()).unwrap();
        let id = afar.lab.sealed(&repository, Spec { parent, ..afar.lab.spec() }).unwrap().commit().unwrap();
        (id, counted(&afar))
    };
    let (_, cold) = run();
    // Every index, and every pack of folders that is needed, once; never once for each folder.
    assert!(cold["GET data"] <= 7 && cold["GET index"] <= 7, "{cold:?}");
    let (_, warm) = run();
    let (_, again) = run();
    // The folder for temporary files is in the snapshot, and changes when others use it: then the run before
    // has written an index, which is read from the store once.
    let few = |what: &str| again.get(what).is_none_or(|times| *times <= 1);
    assert!(few("GET data") && few("GET index"), "{again:?}");
    assert!(sum(&again) < 30 && sum(&warm) < sum(&cold), "{warm:?} {again:?}");
    // Damaged, cut and strange files in it are passed over and written anew.
    let files = || {
        let mut files = crate::snapshot::walk(&afar.lab.path("cache"));
        files.retain(|file| !file.ends_with("used"));
        files
    };
    assert!(files().len() >= 10, "{:?}", files());
    for (number, file) in files().into_iter().enumerate() {
        let mut bytes = std::fs::read(&file).unwrap();
        match number % 3 {
            0 => bytes[0] ^= 1,
            1 => bytes.truncate(10),
            _ => bytes.clear(),
        }
        std::fs::write(&file, bytes).unwrap();
    }
    let (id, healed) = run();
    assert!(healed.contains_key("GET data") && healed.contains_key("GET index"));
    let repository = Repository::open(afar.cached("cache"), &word()).unwrap();
    whole(&repository);
    afar.restores(&repository, id, "out");
    assert!(files().iter().all(|file| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        Id::of(&std::fs::read(file).unwrap()).to_string() == name
    }));
    // Nothing in it can be read without the passphrase.
    assert!(
        files()
            .iter()
            .all(|file| !String::from_utf8_lossy(&std::fs::read(file).unwrap()).contains("folder 1"))
    );
    // A place that cannot be written is done without, and so is one that is removed meanwhile.
    afar.lab.write("no-folder", b"");
    let without = Cached::new(Arc::new(afar.plain()), Some(afar.lab.path("no-folder/x")));
    whole(&Repository::open(Arc::new(without), &word()).unwrap());
    std::fs::remove_dir_all(afar.lab.path("cache")).unwrap();
    afar.restores(&repository, id, "out2");
}

#[test]
fn without_a_cache_folders_come_pack_by_pack_and_several_runs_share_one() {
    let afar = Afar::new();
    for i in 0..60 {
        afar.lab.write(&format!("src/folder {i}/file"), format!("file {i}").as_bytes());
    }
    let first = afar.lab.backup(&afar.init());
    afar.faults.take_seen();
    let sealed = afar.lab.sealed(&afar.open(), Spec { parent: Some(first), ..afar.lab.spec() });
    sealed.unwrap().commit().unwrap();
    let counts = counted(&afar);
    assert!(counts["GET data"] <= 2 && sum(&counts) < 30, "{counts:?}");
    std::thread::scope(|scope| {
        for number in 0..6 {
            let afar = &afar;
            scope.spawn(move || {
                let repository = Repository::open(afar.cached("shared"), &word()).unwrap();
                whole(&repository);
                afar.restores(&repository, first, &format!("out-{number}"));
            });
        }
    });
}

#[test]
fn packs_are_sent_while_others_are_made() {
    let afar = Afar::new();
    // More than one pack.
    for i in 0..5 {
        afar.lab.write(&format!("src/{i}.bin"), &noise(4 << 20, 70 + i));
    }
    let repository = afar.init();
    // A store that takes none before there is another one.
    afar.faults.take_seen();
    afar.faults.hold_until_two("PUT data");
    let id = afar.lab.backup(&repository);
    assert!(afar.faults.most_at_once() >= 2);
    whole(&repository);
    afar.restores(&repository, id, "out");
    // One that fails ends the backup, and no snapshot is listed.
    afar.lab.write("src/6.bin", &noise(1 << 20, 99));
    afar.faults.now(|line| {
        if line.starts_with("PUT") && line.contains("/data/") {
            Fate::Error(403, "AccessDenied")
        } else {
            Fate::Pass
        }
    });
    let fault = afar.lab.sealed(&repository, afar.lab.spec()).unwrap_err();
    assert!(fault.what.contains("refuses s3:PutObject"), "{fault}");
    afar.faults.now(|_| Fate::Pass);
    assert_eq!(repository.snapshots().unwrap().whole.len(), 1);
    assert!(afar.stored("locks/").is_empty());
}
