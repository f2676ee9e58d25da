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
    let health = check(repository);
    assert!(health.damaged.is_empty(), "{:?}", health.damaged);
    assert_eq!(health.packs_read, health.packs as u64);
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
    let ours = lab.backup(&repository);
    let tree = |snapshot: Id, path: &str| {
        let node = repository.read(snapshot).unwrap().find(&lab.path("src").join(path)).unwrap();
        node.unwrap().subtree.unwrap()
    };
    // Large files are cut elsewhere; folders without them have the same id.
    for folder in ["deep", "many", "nothing", "odd"] {
        assert_eq!(tree(ours, folder), tree(theirs, folder), "{folder}");
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
