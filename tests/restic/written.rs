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
    // The system's folder for temporary files may change meanwhile: others work there.
    assert!(summary["dirs_changed"].as_u64() <= Some(1) && summary["data_blobs"] == 0, "{summary}");
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

#[test]
fn restic_forgets_and_prunes_what_we_wrote_and_the_rest_stays_whole() {
    let lab = Lab::new();
    lab.corpus();
    let repository = lab.init();
    let first = lab.backup(&repository);
    std::fs::remove_file(lab.path("src/large.bin")).unwrap();
    std::fs::remove_file(lab.path("src/again.bin")).unwrap();
    std::fs::remove_file(lab.path("src/hard")).unwrap();
    let second = lab.backup(&repository);
    lab.restic(&["forget", &first.to_string(), "--prune", "--max-unused", "0"]);
    lab.restic(&["check", "--read-data"]);
    assert!(check(&repository).damaged.is_empty());
    lab.restore(&repository, second, "out");
    let src = lab.path("src");
    assert_eq!(picture(&lab.path("out").join(src.strip_prefix("/").unwrap())), picture(&src));
}

#[test]
fn several_sources_and_streams_make_one_snapshot_with_a_manifest() {
    let lab = Lab::new();
    lab.write("src/config/a.txt", b"a");
    lab.write("src/site/large", &noise(4_000_000, 9));
    // A file that was written a moment before is read again, and this is about those that are not.
    std::thread::sleep(Duration::from_millis(50));
    let repository = lab.init();
    let spec = Spec { manifest: Some("SHA256SUMS".into()), ..lab.spec() };
    let make = |spec: Spec| {
        let mut archive = repository.begin(spec).unwrap();
        archive.folder(Path::new("config"), &lab.path("src/config"), &everything).unwrap();
        archive.folder(Path::new("web/site"), &lab.path("src/site"), &everything).unwrap();
        let dump = noise(6_000_000, 5);
        let streamed = archive
            .stream(Path::new("web/db.dump"), &mut |sink| {
                for part in dump.chunks(77_777) {
                    sink.write_all(part).unwrap();
                }
                Ok(())
            })
            .unwrap();
        assert_eq!((streamed.size, streamed.sha256), (6_000_000, Id::of(&dump)));
        archive.bytes(Path::new("note.txt"), b"by hand").unwrap();
        let taken = archive.bytes(Path::new("web"), b"").unwrap_err();
        assert!(taken.what.contains("two sources want the same place"));
        let sealed = archive.seal().unwrap();
        let proof = sealed.prove(&mut |_| {}).unwrap();
        let summary = sealed.snapshot().summary.clone().unwrap();
        (sealed.commit().unwrap(), summary, proof)
    };
    let (first, _, proof) = make(spec.clone());
    assert!(proof.packs == 2 && proof.blobs > 8 && proof.bytes > 10_000_000, "{proof:?}");
    // Nothing is new, so nothing is written but the snapshot.
    let (second, summary, proof) = make(Spec { parent: Some(first), ..spec });
    assert_eq!(proof.packs, 0);
    assert_eq!((summary.files_unmodified, summary.data_blobs), (2, 0), "{summary:?}");
    lab.restic(&["check", "--read-data"]);
    for id in [first, second] {
        let out = lab.path(&format!("out-{}", id.short()));
        lab.restic(&["restore", &id.to_string(), "--target", out.to_str().unwrap()]);
        let sums =
            Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(&out).output().unwrap();
        let said = String::from_utf8_lossy(&sums.stdout);
        assert!(sums.status.success() && said.lines().count() == 4, "{said}");
        assert!(said.contains("web/site/large: OK") && said.contains("web/db.dump: OK"), "{said}");
    }
}

#[test]
fn a_stream_that_does_not_end_well_leaves_no_snapshot() {
    let lab = Lab::new();
    let repository = lab.init();
    let mut archive = repository.begin(lab.spec()).unwrap();
    let fault = archive
        .stream(Path::new("db.dump"), &mut |sink| {
            sink.write_all(&noise(3_000_000, 1)).unwrap();
            Err(Fault::infrastructure("the dump ended with code 1"))
        })
        .unwrap_err();
    assert_eq!(fault.what, "the dump ended with code 1");
    drop(archive);
    assert!(repository.snapshots().unwrap().whole.is_empty());
    assert!(lab.stored("locks").is_empty());
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn what_cannot_be_read_fails_the_snapshot_unless_that_is_allowed() {
    let lab = Lab::new();
    lab.write("src/good", b"good");
    let src = lab.path("src");
    let repository = lab.init();
    // A file that vanishes between the look and the reading cannot be read, whoever reads.
    let vanish = |inside: &Path, _: NodeKind| {
        if inside == Path::new("gone") {
            std::fs::remove_file(src.join("gone")).unwrap();
        }
        true
    };
    let attempt = |spec: Spec| {
        lab.write("src/gone", b"gone");
        let mut archive = repository.begin(spec).unwrap();
        archive.folder(Path::new("src"), &src, &vanish)?;
        archive.seal()
    };
    let fault = attempt(lab.spec()).unwrap_err();
    assert_eq!(fault.what, "something cannot be backed up");
    assert!(fault.place.unwrap().ends_with("src/gone"));
    assert!(repository.snapshots().unwrap().whole.is_empty());
    let sealed = attempt(Spec { allow_partial: true, ..lab.spec() }).unwrap();
    assert_eq!(sealed.notes().unreadable.len(), 1);
    let id = sealed.commit().unwrap();
    assert!(repository.read(id).unwrap().find(Path::new("src/gone")).unwrap().is_none());
    assert!(repository.read(id).unwrap().find(Path::new("src/good")).unwrap().is_some());
}

#[test]
fn a_file_that_changes_meanwhile_is_noticed_and_named() {
    let lab = Lab::new();
    let src = lab.path("src");
    let repository = lab.init();
    let change = |inside: &Path, _: NodeKind| {
        if inside == Path::new("log") {
            std::fs::write(src.join("log"), "two lines now").unwrap();
        }
        true
    };
    let attempt = |spec: Spec| {
        lab.write("src/log", b"one");
        let mut archive = repository.begin(spec).unwrap();
        archive.folder(Path::new("src"), &src, &change)?;
        archive.seal()
    };
    let fault = attempt(lab.spec()).unwrap_err();
    assert_eq!(fault.what, "a file changed while it was backed up");
    assert!(fault.place.unwrap().ends_with("src/log"));
    let sealed = attempt(Spec { allow_changes: true, ..lab.spec() }).unwrap();
    assert_eq!(sealed.notes().changed, [Path::new("src/log")]);
    let id = sealed.commit().unwrap();
    let mut text = Vec::new();
    repository.read(id).unwrap().dump(Path::new("src/log"), &mut text).unwrap();
    assert_eq!(text, b"two lines now");
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn a_restore_goes_on_where_it_stopped_and_replaces_what_is_different() {
    let lab = Lab::new();
    lab.corpus();
    let repository = lab.init();
    let id = lab.backup(&repository);
    let src = lab.path("src");
    let how = How { from: Some(src.clone()), owners: true, into_existing: true, ..How::default() };
    let opened = repository.read(id).unwrap();
    let out = lab.path("out");
    opened.restore(&out, &how, &Progress::default()).unwrap();
    std::fs::write(out.join("a.txt"), "changed").unwrap();
    std::fs::remove_file(out.join("link")).unwrap();
    std::fs::write(out.join(".trapkey-unfinished-1"), "left behind").unwrap();
    std::fs::write(out.join("many/3.txt"), "FILE 3file 3file 3").unwrap();
    let old = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::open(out.join("many/3.txt")).unwrap().set_modified(old).unwrap();
    let again = opened.restore(&out, &how, &Progress::default()).unwrap();
    assert!(again.kept > 40 && again.kept < again.files, "{again:?}");
    let (mut now, mut then) = (picture(&out), picture(&src));
    // The target itself keeps its look.
    now.remove(Path::new(""));
    then.remove(Path::new(""));
    assert_eq!(now, then);
    let refused = opened.restore(&out, &How::default(), &Progress::default()).unwrap_err();
    assert_eq!(refused.what, "the folder to restore to is not empty");
    let one = How { from: Some(src.join("a.txt")), ..How::default() };
    let done = opened.restore(&lab.path("one"), &one, &Progress::default()).unwrap();
    assert_eq!((done.files, std::fs::read(lab.path("one/a.txt")).unwrap()), (1, b"some text\n".to_vec()));
}

#[test]
fn zeros_become_holes_when_asked() {
    let lab = Lab::new();
    lab.write("src/sparse", &zeros(3_000_000, b"end"));
    lab.write("src/zeros", &zeros(1_000_000, b""));
    let repository = lab.init();
    let id = lab.backup(&repository);
    let how = How { from: Some(lab.path("src")), sparse: true, ..How::default() };
    repository.read(id).unwrap().restore(&lab.path("out"), &how, &Progress::default()).unwrap();
    for name in ["sparse", "zeros"] {
        let (was, is) = (lab.path("src").join(name), lab.path("out").join(name));
        assert_eq!(std::fs::read(&is).unwrap(), std::fs::read(&was).unwrap());
        assert!(std::fs::metadata(&is).unwrap().blocks() * 512 < 200_000, "{name}");
    }
}

#[test]
fn devices_come_back_only_when_asked() {
    let lab = Lab::new();
    let repository = lab.init();
    let mut archive = repository.begin(lab.spec()).unwrap();
    let null = |inside: &Path, _: NodeKind| inside == Path::new("") || inside == Path::new("null");
    archive.folder(Path::new("dev"), Path::new("/dev"), &null).unwrap();
    let id = archive.seal().unwrap().commit().unwrap();
    lab.restic(&["check", "--read-data"]);
    let opened = repository.read(id).unwrap();
    let how = How { from: Some("dev".into()), ..How::default() };
    let without = opened.restore(&lab.path("without"), &how, &Progress::default()).unwrap();
    assert_eq!(without.devices_left_out, 1);
    assert!(!lab.path("without/null").exists());
    let asked = How { devices: true, owners: crate::snapshot::is_root(), ..how };
    let done = opened.restore(&lab.path("out"), &asked, &Progress::default());
    if crate::snapshot::is_root() {
        done.unwrap();
        let now = picture(&lab.path("out"));
        let meta = std::fs::symlink_metadata("/dev/null").unwrap();
        assert!(now[Path::new("null")].ends_with(&format!(" device {:x}", meta.rdev())), "{now:?}");
        assert!(now[Path::new("null")].starts_with(&format!("{:o} ", meta.mode())), "{now:?}");
    } else {
        assert!(done.unwrap_err().place.unwrap().ends_with("out/null"));
    }
}

#[test]
fn folders_that_lead_to_nothing_that_is_wanted_are_left_out() {
    let lab = Lab::new();
    for name in ["src/a/b/keep.txt", "src/a/b/other", "src/c/d/other", "src/e/f/g/keep.txt"] {
        lab.write(name, b"x");
    }
    std::fs::create_dir(lab.path("src/empty")).unwrap();
    let repository = lab.init();
    let mut archive = repository.begin(lab.spec()).unwrap();
    let wanted = |inside: &Path, kind: NodeKind| match kind {
        _ if inside == Path::new("e/f") => Take::No,
        NodeKind::Dir => Take::IfUsed,
        _ => inside.ends_with("keep.txt").into(),
    };
    archive.folder(Path::new("src"), &lab.path("src"), &wanted).unwrap();
    let id = archive.seal().unwrap().commit().unwrap();
    let mut found = Vec::new();
    let opened = repository.read(id).unwrap();
    opened
        .walk(&mut |path, _| {
            found.push(path.display().to_string());
            Ok(true)
        })
        .unwrap();
    drop(opened);
    assert_eq!(found, ["src", "src/a", "src/a/b", "src/a/b/keep.txt"]);
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn another_name_of_a_file_that_changed_since_it_was_read_is_noticed() {
    let lab = Lab::new();
    // So many folders that the last one is looked at late.
    for name in ["a/one", "b/x", "c/x", "d/x", "e/x", "f/x", "g/x", "h/x"] {
        lab.write(&format!("src/{name}"), name.as_bytes());
    }
    lab.write("src/a/one", b"before");
    std::fs::create_dir_all(lab.path("src/z")).unwrap();
    std::fs::hard_link(lab.path("src/a/one"), lab.path("src/z/two")).unwrap();
    let repository = lab.init();
    let src = lab.path("src");
    let attempt = |spec: &Spec, time: u64| {
        lab.write("src/a/one", b"before");
        let change = |inside: &Path, _: NodeKind| {
            if inside == Path::new("b/x") {
                // The first name is read by then, except on a busy machine.
                std::thread::sleep(Duration::from_millis(time));
                std::fs::write(src.join("a/one"), "behind").unwrap();
            }
            true
        };
        let mut archive = repository.begin(spec.clone()).unwrap();
        archive.folder(Path::new("src"), &src, &change)?;
        archive.seal()
    };
    let times = [300, 3000, 30_000];
    let fault = times.iter().find_map(|time| attempt(&lab.spec(), *time).err()).unwrap();
    assert_eq!(fault.what, "a file changed while it was backed up");
    assert!(fault.place.unwrap().ends_with("src/z/two"));
    let spec = Spec { allow_changes: true, ..lab.spec() };
    let mut all = times.iter().map(|time| attempt(&spec, *time).unwrap());
    let sealed = all.find(|sealed| !sealed.notes().changed.is_empty()).unwrap();
    assert_eq!(sealed.notes().changed, [Path::new("src/z/two")]);
    let id = sealed.commit().unwrap();
    // The next one is not fooled by it.
    let next = Spec { parent: Some(id), ..lab.spec() };
    let mut archive = repository.begin(next).unwrap();
    archive.folder(Path::new("src"), &src, &|_: &Path, _: NodeKind| true).unwrap();
    let id = archive.seal().unwrap().commit().unwrap();
    let mut text = Vec::new();
    repository.read(id).unwrap().dump(Path::new("src/z/two"), &mut text).unwrap();
    assert_eq!(text, b"behind");
}

#[test]
fn a_folder_whose_place_a_link_takes_meanwhile_leads_nowhere_else() {
    let lab = Lab::new();
    lab.write("src/d/own", b"own");
    lab.write("elsewhere/secret", b"of somebody else");
    let (src, elsewhere) = (lab.path("src"), lab.path("elsewhere"));
    let repository = lab.init();
    let swap = |inside: &Path, kind: NodeKind| {
        if inside == Path::new("d") && kind == NodeKind::Dir && !src.join("d").is_symlink() {
            std::fs::rename(src.join("d"), src.join("moved")).unwrap();
            std::os::unix::fs::symlink(&elsewhere, src.join("d")).unwrap();
        }
        true
    };
    let mut archive = repository.begin(lab.spec()).unwrap();
    let fault = archive.folder(Path::new("src"), &src, &swap).unwrap_err();
    assert!(fault.cause.unwrap().contains("took its place"));
}
