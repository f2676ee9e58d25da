//! What restic writes, we check, restore, continue and prune.

use super::*;

fn restic_backs_up(lab: &Lab, init: &[&str], backup: &[&str]) -> (Repository, Id) {
    lab.corpus();
    lab.restic(&[&["init"], init].concat());
    lab.restic(&[&["backup", lab.path("src").to_str().unwrap()], backup].concat());
    let repository = lab.open();
    let id = repository.find("latest").unwrap();
    (repository, id)
}

fn is_whole_and_restores(lab: &Lab, repository: &Repository, id: Id) {
    let health = lab.check(repository);
    assert!(health.damaged.is_empty(), "{:?}", health.damaged);
    assert_eq!(health.packs_read as usize, health.packs);
    assert!(health.packs > 1 && health.folders > 5);
    lab.restore(repository, id, "out");
    let src = lab.path("src");
    assert_eq!(picture(&lab.path("out").join(src.strip_prefix("/").unwrap())), picture(&src));
}

#[test]
fn a_compressed_repository_is_checked_and_restored() {
    let lab = Lab::new();
    let (repository, id) = restic_backs_up(&lab, &[], &["--compression", "max", "--tag", "release"]);
    is_whole_and_restores(&lab, &repository, id);
    let listed = repository.snapshots().unwrap();
    assert_eq!(listed.whole[0].1.tags, ["release"]);
    let mut text = Vec::new();
    repository.read(id).unwrap().dump(&lab.path("src/a.txt"), &mut text).unwrap();
    assert_eq!(text, b"some text\n");
}

#[test]
fn an_uncompressed_repository_is_checked_and_restored() {
    let lab = Lab::new();
    let (repository, id) = restic_backs_up(&lab, &[], &["--compression", "off"]);
    is_whole_and_restores(&lab, &repository, id);
}

#[test]
fn a_repository_of_version_1_is_read_and_never_written() {
    let lab = Lab::new();
    let (repository, id) = restic_backs_up(&lab, &["--repository-version", "1"], &[]);
    assert_eq!(repository.config().version, 1);
    is_whole_and_restores(&lab, &repository, id);
    let before = lab.stored("");
    let mut faults = vec![
        repository.begin(lab.spec()).unwrap_err(),
        repository.forget(&[id]).unwrap_err(),
        repository.prune(Thrift::default(), &mut |_, _| {}).unwrap_err(),
        repository.rebuild_index().unwrap_err(),
    ];
    for fault in faults.drain(..) {
        assert!(fault.what.contains("version 1 is only read"), "{fault}");
        assert!(fault.help.unwrap().contains("restic migrate"));
    }
    assert_eq!(lab.stored(""), before);
}

#[test]
fn our_trees_are_those_of_restic_to_the_byte() {
    let lab = Lab::new();
    let (repository, theirs) = restic_backs_up(&lab, &[], &[]);
    let ours = lab.sealed(&repository, lab.spec()).unwrap().snapshot().tree;
    let theirs = repository.read(theirs).unwrap().snapshot().tree;
    // Folders whose content is cut alike have the same id; with large files the cuts differ.
    let src = lab.path("src");
    let id = |tree: Id, path: &str| {
        let mut spec = lab.spec();
        spec.parent = None;
        let listed = repository.snapshots().unwrap().whole;
        let (snapshot, _) = listed.iter().find(|(_, s)| s.tree == tree).unwrap();
        repository.read(*snapshot).unwrap().find(&src.join(path)).unwrap().unwrap().subtree
    };
    lab.sealed(&repository, lab.spec()).unwrap().commit().unwrap();
    assert_ne!(ours, theirs);
    for folder in ["deep", "many", "nothing"] {
        assert_eq!(id(ours, folder), id(theirs, folder), "{folder}");
    }
}

#[test]
fn we_prune_what_restic_wrote_and_restic_goes_on() {
    let lab = Lab::new();
    let (repository, first) = restic_backs_up(&lab, &[], &[]);
    std::fs::remove_file(lab.path("src/large.bin")).unwrap();
    std::fs::remove_file(lab.path("src/again.bin")).unwrap();
    std::fs::remove_file(lab.path("src/hard")).unwrap();
    lab.restic(&["backup", lab.path("src").to_str().unwrap()]);
    repository.forget(&[first]).unwrap();
    let strict = Thrift { max_unused: 0.0, join_small: false };
    let plan = repository.plan_prune(strict).unwrap();
    assert!(plan.freed_bytes > 4_900_000 && !plan.is_empty());
    assert_eq!(repository.prune(strict, &mut |_, _| {}).unwrap(), plan);
    assert!(repository.plan_prune(strict).unwrap().is_empty());
    lab.restic(&["check", "--read-data"]);
    is_whole_and_restores(&lab, &repository, repository.find("latest").unwrap());
    lab.restic(&["backup", lab.path("src").to_str().unwrap()]);
    lab.restic(&["check", "--read-data"]);
}
