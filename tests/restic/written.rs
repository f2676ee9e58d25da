//! What we write, restic checks, restores, continues and prunes.

use super::*;

#[test]
fn restic_checks_and_restores_what_we_wrote_byte_for_byte() {
    let lab = Lab::new();
    lab.corpus();
    let repository = lab.init();
    let id = lab.backup(&repository);
    lab.restic(&["check", "--read-data"]);
    let listed: Value = serde_json::from_str(&lab.restic(&["snapshots", "--json"])).unwrap();
    assert_eq!(listed[0]["id"], id.to_string());
    assert_eq!(listed[0]["paths"][0], lab.path("src").display().to_string());
    assert_eq!(listed.as_array().unwrap().len(), 1);
    lab.restic(&["restore", "latest", "--target", lab.path("out").to_str().unwrap()]);
    let src = lab.path("src");
    let out = lab.path("out").join(src.strip_prefix("/").unwrap());
    assert_eq!(picture(&out), picture(&src));
    let dumped = lab.restic(&["dump", "latest", src.join("a.txt").to_str().unwrap()]);
    assert_eq!(dumped, "some text\n");
}

#[test]
fn restic_goes_on_from_our_snapshot_and_we_from_its() {
    let lab = Lab::new();
    lab.corpus();
    let repository = lab.init();
    let first = lab.backup(&repository);
    let src = lab.path("src");
    let lines = lab.restic_json(&["backup", "--parent", &first.to_string(), src.to_str().unwrap()]);
    let summary = lines.iter().find(|line| line["message_type"] == "summary").unwrap();
    assert_eq!((&summary["files_new"], &summary["files_changed"]), (&0.into(), &0.into()), "{summary}");
    assert_eq!((&summary["dirs_changed"], &summary["data_blobs"]), (&0.into(), &0.into()), "{summary}");
    assert!(summary["files_unmodified"].as_u64().unwrap() > 40);
    let paths = [src.display().to_string()];
    let second = repository.newest_of(&trapkey::world::host_name(), &paths).unwrap().unwrap();
    assert!(second != first && second.to_string().starts_with(summary["snapshot_id"].as_str().unwrap()));
    std::fs::write(src.join("a.txt"), "other text\n").unwrap();
    let sealed = lab.sealed(&repository, Spec { parent: Some(second), ..lab.spec() }).unwrap();
    let done = sealed.snapshot().summary.clone().unwrap();
    assert_eq!((done.files_new, done.files_changed), (0, 1));
    assert_eq!(done.data_blobs, 1);
    sealed.commit().unwrap();
    lab.restic(&["check", "--read-data"]);
}
