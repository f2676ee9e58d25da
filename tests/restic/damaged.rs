//! Damage is found and named, nothing that is damaged is restored, and nothing is removed then.

use super::*;

/// Changes a file of the repository, which is read-only.
pub(super) fn spoil(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn written() -> (Lab, Repository, Id) {
    let lab = Lab::new();
    lab.write("src/one.bin", &noise(400_000, 1));
    lab.write("src/two.bin", &noise(300_000, 2));
    lab.write("src/sub/three.txt", b"three");
    let repository = lab.init();
    let id = lab.backup(&repository);
    (lab, repository, id)
}

/// The pack with data, which is the larger one.
fn data_pack(lab: &Lab) -> PathBuf {
    lab.stored("data").into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

fn tree_pack(lab: &Lab) -> PathBuf {
    lab.stored("data").into_iter().min_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

fn needed_by(health: &Health) -> String {
    health.damaged.iter().flat_map(|damage| damage.needed_by.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_flipped_bit_in_any_part_of_a_pack_is_found_and_the_file_named() {
    let (lab, repository, id) = written();
    let pack = data_pack(&lab);
    let length = usize::try_from(std::fs::metadata(&pack).unwrap().len()).unwrap();
    for at in [0, 20, length / 4, length / 2, length - 100, length - 5, length - 1] {
        spoil(&pack, |bytes| bytes[at] ^= 1);
        let health = check(&repository);
        let name = pack.file_name().unwrap().to_str().unwrap();
        assert!(health.damaged.iter().any(|damage| damage.object.ends_with(name)), "byte {at}");
        let content = at < 700_000;
        if content {
            let named = needed_by(&health);
            assert_eq!(
                named.matches(".bin").count() + named.matches("three.txt").count(),
                1,
                "{at}: {named}"
            );
            assert!(named.contains(&id.short()));
            let out = lab.path(&format!("out-{at}"));
            let fault = repository
                .read(id)
                .unwrap()
                .restore(&out, &How::default(), &Progress::default())
                .unwrap_err();
            assert_eq!(fault.what, "a file of the repository is damaged");
            assert!(fault.cause.unwrap().contains("the file `"));
        }
        spoil(&pack, |bytes| bytes[at] ^= 1);
    }
    assert!(check(&repository).damaged.is_empty());
}

#[test]
fn a_truncated_or_missing_pack_is_found_without_reading_data_and_nothing_is_pruned() {
    let (lab, repository, _) = written();
    let quick = || repository.check(ReadData::Nothing, &|_, _| {}).unwrap();
    assert!(quick().damaged.is_empty());
    let pack = data_pack(&lab);
    let whole = std::fs::read(&pack).unwrap();
    spoil(&pack, |bytes| bytes.truncate(bytes.len() / 2));
    let health = quick();
    assert!(health.damaged[0].why.contains("belong"), "{health:?}");
    assert!(needed_by(&health).contains(".bin"));
    let refused = repository.prune(Thrift::default(), &mut |_, _| {}).unwrap_err();
    assert!(refused.what.contains("nothing is removed"), "{refused}");
    std::fs::remove_file(&pack).unwrap();
    let health = quick();
    assert_eq!(health.damaged[0].why, "it is missing");
    for file in ["one.bin", "two.bin", "three.txt"] {
        assert!(needed_by(&health).contains(file), "{health:?}");
    }
    assert!(
        repository
            .prune(Thrift::default(), &mut |_, _| {})
            .unwrap_err()
            .cause
            .unwrap()
            .contains("is missing")
    );
    std::fs::write(&pack, whole).unwrap();
    assert!(check(&repository).damaged.is_empty());
}

#[test]
fn a_share_of_the_data_is_read_when_that_is_asked() {
    let (lab, repository, _) = written();
    for number in 0..6 {
        lab.write(&format!("src/{number}.bin"), &noise(1000, 50 + number));
        lab.backup(&repository);
    }
    let read = |data| repository.check(data, &|_, _| {}).unwrap().packs_read;
    let all = read(ReadData::All);
    assert_eq!(all, 14);
    assert_eq!(
        (read(ReadData::Share(0.5)), read(ReadData::Share(0.01)), read(ReadData::Share(9.0))),
        (7, 1, 14)
    );
    assert_eq!((read(ReadData::Share(0.0)), read(ReadData::Nothing)), (0, 0));
}

#[test]
fn a_damaged_folder_is_named_and_stops_a_prune() {
    let (lab, repository, id) = written();
    spoil(&tree_pack(&lab), |bytes| bytes[40] ^= 0x80);
    let health = repository.check(ReadData::Nothing, &|_, _| {}).unwrap();
    assert!(needed_by(&health).contains(&format!("{} /", id.short())), "{health:?}");
    assert!(
        repository.prune(Thrift::default(), &mut |_, _| {}).unwrap_err().what.contains("nothing is removed")
    );
    assert!(
        repository
            .read(id)
            .unwrap()
            .restore(&lab.path("out"), &How::default(), &Progress::default())
            .is_err()
    );
}

#[test]
fn a_lost_index_is_a_clear_fault_and_made_anew_from_the_packs() {
    let (lab, repository, id) = written();
    for file in lab.stored("index") {
        std::fs::remove_file(file).unwrap();
    }
    let fault = repository
        .read(id)
        .unwrap()
        .restore(&lab.path("out"), &How::default(), &Progress::default())
        .unwrap_err();
    assert!(fault.cause.unwrap().contains("no index names the tree blob"));
    let health = repository.check(ReadData::Nothing, &|_, _| {}).unwrap();
    assert!(!health.damaged.is_empty() && health.packs_unnamed == 2, "{health:?}");
    assert!(repository.prune(Thrift::default(), &mut |_, _| {}).is_err());
    assert_eq!(lab.stored("data").len(), 2);
    assert!(repository.rebuild_index().unwrap().is_empty());
    assert!(check(&repository).damaged.is_empty());
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn every_other_damaged_file_is_a_clear_fault() {
    for (folder, opens) in [("index", true), ("snapshots", true), ("keys", false), ("config", false)] {
        let (lab, _, _) = written();
        let file = lab.stored(folder).pop().unwrap_or_else(|| lab.path("repo/config"));
        for length in [0, 1, 31, 32, 33, 60] {
            spoil(&file, |bytes| bytes.truncate(length));
            let opened = Repository::open(lab.backend(), &word());
            if !opens {
                let fault = opened.unwrap_err();
                assert!(fault.what.contains("damaged"), "{folder} {length}: {fault}");
                continue;
            }
            let health = check(&opened.unwrap());
            assert!(
                health.damaged.iter().any(|damage| damage.object.starts_with(folder)),
                "{folder} {length}"
            );
        }
    }
}

#[test]
fn what_an_unfinished_backup_leaves_harms_nothing_and_goes_with_a_prune() {
    let (lab, repository, id) = written();
    lab.write("src/new.bin", &noise(200_000, 7));
    drop(lab.sealed(&repository, lab.spec()).unwrap());
    assert_eq!(repository.snapshots().unwrap().whole.len(), 1);
    assert_eq!(lab.stored("data").len(), 4);
    assert!(check(&repository).damaged.is_empty());
    std::fs::remove_file(lab.stored("index").pop().unwrap()).unwrap();
    repository.rebuild_index().unwrap();
    let done = repository.prune(Thrift { max_unused: 0.0, join_small: false }, &mut |_, _| {}).unwrap();
    assert_eq!((done.remove.len(), lab.stored("data").len()), (2, 2));
    lab.restic(&["check", "--read-data"]);
    lab.restore(&repository, id, "out");
}

#[test]
fn a_restore_never_leaves_its_target_through_links_that_are_there() {
    let (lab, repository, id) = written();
    std::fs::create_dir(lab.path("outside")).unwrap();
    std::fs::create_dir(lab.path("out")).unwrap();
    std::os::unix::fs::symlink(lab.path("outside"), lab.path("out/sub")).unwrap();
    let how = How { from: Some(lab.path("src")), into_existing: true, ..How::default() };
    let opened = repository.read(id).unwrap();
    let fault = opened.restore(&lab.path("out"), &how, &Progress::default()).unwrap_err();
    assert!(fault.place.unwrap().ends_with("out/sub"));
    assert_eq!(std::fs::read_dir(lab.path("outside")).unwrap().count(), 0);
    // A link in the place of a file is replaced, not followed.
    std::fs::remove_file(lab.path("out/sub")).unwrap();
    lab.write("outside/victim", b"untouched");
    for name in ["out/one.bin", "out/two.bin"] {
        let _ = std::fs::remove_file(lab.path(name));
        std::os::unix::fs::symlink(lab.path("outside/victim"), lab.path(name)).unwrap();
    }
    opened.restore(&lab.path("out"), &how, &Progress::default()).unwrap();
    assert_eq!(std::fs::read(lab.path("outside/victim")).unwrap(), b"untouched");
    assert_eq!(std::fs::read(lab.path("out/one.bin")).unwrap(), noise(400_000, 1));
    assert!(!std::fs::symlink_metadata(lab.path("out/one.bin")).unwrap().is_symlink());
}
