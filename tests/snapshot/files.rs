//! The source `files` through the binary: what goes in comes out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::{Place, is_root, noise};
use crate::support::{binary, run, wait_for};

/// Path, kind, mode, mtime, and contents or link target of everything below a folder.
pub(super) type Seen = Vec<(Vec<u8>, u32, i64, i64, Vec<u8>)>;

pub(super) fn seen(root: &Path) -> Seen {
    fn visit(root: &Path, at: &Path, out: &mut Seen) {
        let meta = std::fs::symlink_metadata(at).unwrap();
        let content = if meta.is_symlink() {
            std::fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec()
        } else if meta.is_file() {
            std::fs::read(at).unwrap()
        } else {
            Vec::new()
        };
        // Links have no mode of their own.
        let mode = if meta.is_symlink() { 0o120_000 } else { meta.mode() };
        let path = at.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        out.push((path, mode, meta.mtime(), meta.mtime_nsec(), content));
        if meta.is_dir() {
            std::fs::read_dir(at).unwrap().flatten().for_each(|entry| visit(root, &entry.path(), out));
        }
    }
    let mut out = Seen::new();
    visit(root, root, &mut out);
    out.sort();
    out
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn odd_tree(place: &Place) {
    place.write("deploy/app.yaml", b"replicas: 3\n");
    place.write("deploy/empty", b"");
    place.write("deploy/large.bin", &noise(1_600_000, 1));
    place.write("deploy/a b/it's \"odd\"\nname", b"x");
    place.write("deploy/-rf", b"dash");
    place.write("deploy/..hidden", b"dots");
    std::fs::create_dir(place.path("deploy/empty folder")).unwrap();
    std::fs::write(place.path("deploy").join(OsStr::from_bytes(b"not-\xff\xfe-utf8")), b"bytes").unwrap();
    symlink("app.yaml", place.path("deploy/current")).unwrap();
    symlink("/etc/nowhere", place.path("deploy/dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), place.path("deploy/odd-link")).unwrap();
    place.write("deploy/run.sh", b"#!/bin/sh\n");
    mode(&place.path("deploy/run.sh"), 0o750);
    mode(&place.path("deploy/app.yaml"), 0o604);
    place.write("deploy/locked/inside", b"y");
    mode(&place.path("deploy/locked/inside"), 0o400);
    mode(&place.path("deploy/locked"), 0o555);
    for (path, date) in
        [("deploy/empty", "1969-12-31 23:59:58.5 UTC"), ("deploy/a b", "2001-02-03 04:05:06.789 UTC")]
    {
        let touched = Command::new("touch").arg("-d").arg(date).arg(place.path(path)).status().unwrap();
        assert!(touched.success());
    }
}

#[test]
fn a_restored_folder_is_identical_to_the_byte_mode_time_and_link() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    odd_tree(&place);
    let before = seen(&place.path("deploy"));
    assert_eq!(before.len(), 16);
    let document = place.create();
    assert_eq!(document["verdict"], "pass");
    assert_eq!(document["snapshot"]["sources"][0]["proven"], true);
    assert_eq!(document["snapshot"]["files"], 9);
    let id = document["snapshot"]["id"].as_str().unwrap();
    place.good(&["restore", id, "--to", "back"]);
    assert_eq!(seen(&place.path("back/config")), before);
    assert_eq!(seen(&place.path("deploy")), before);
    // A folder that cannot be written into would keep the test's folder from going away.
    mode(&place.path("deploy/locked"), 0o755);
    mode(&place.path("back/config/locked"), 0o755);
}

#[test]
fn the_restore_command_of_the_document_works_as_it_stands() {
    let place = Place::new("{name: config, kind: files, target: deploy/app.yaml}");
    place.write("deploy/app.yaml", b"replicas: 3\n");
    let document = place.create();
    let command = document["snapshot"]["restore_command"].as_str().unwrap();
    let folder = binary("snapshot").parent().unwrap().display().to_string();
    let ended = run(Command::new("sh")
        .args(["-c", command])
        .current_dir(place.folder.path())
        .env("PATH", format!("{folder}:/usr/bin:/bin")));
    assert_eq!(ended.code, 0, "{command}: {}", ended.stderr);
    assert_eq!(std::fs::read(place.path("restored/config/app.yaml")).unwrap(), b"replicas: 3\n");
}

#[test]
fn one_source_can_be_restored_alone_and_without_a_plan() {
    let place = Place::new("{name: one, kind: files, target: one}\n{name: two, kind: files, target: two}");
    place.write("one/a", b"1");
    place.write("two/b", b"2");
    place.create();
    std::fs::remove_file(place.path("release.yaml")).unwrap();
    place.good(&["restore", "latest", "--store", "store", "--source", "two", "--to", "back"]);
    assert_eq!(std::fs::read(place.path("back/two/b")).unwrap(), b"2");
    assert!(!place.path("back/one").exists());
    place.good(&["check", "--store", "store"]);
    assert!(place.good(&["list", "--store", "store"]).stdout.contains("one two"));
    place.good(&["restore", "--store", "store", "--file", "one/a", "--to", "single"]);
    assert_eq!(std::fs::read(place.path("single/a")).unwrap(), b"1");
    let wrong = place.call(&["restore", "--store", "store", "--source", "three", "--to", "other"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("it has one, two"), "{}", wrong.stderr);
}

#[test]
fn include_and_exclude_choose_and_the_store_is_never_inside_itself() {
    let place =
        Place::new("{name: all, kind: files, target: ., with: {include: ['*.yaml'], exclude: [secret/]}}");
    place.write("deploy/app.yaml", b"1");
    place.write("deploy/app.log", b"2");
    place.write("deploy/secret/key.yaml", b"3");
    place.create();
    place.good(&["restore", "--to", "back"]);
    assert!(place.path("back/all/deploy/app.yaml").exists());
    assert!(!place.path("back/all/deploy/app.log").exists());
    assert!(!place.path("back/all/deploy/secret").exists());
    std::fs::remove_dir_all(place.path("back")).unwrap();
    place.plan("{name: all, kind: files, target: .}", "");
    let document = place.create();
    assert_eq!(document["snapshot"]["sources"][0]["details"]["left_out"], "the snapshot store itself");
    place.good(&["restore", "--to", "back"]);
    assert!(!place.path("back/all/store").exists());
}

#[test]
fn an_unreadable_file_fails_the_whole_snapshot() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/fine", b"1");
    place.write("deploy/private", b"2");
    mode(&place.path("deploy/private"), 0o000);
    let mut command = if is_root() {
        // Root without the capability that reads everything.
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"])
            .arg(binary("snapshot"));
        command
    } else {
        Command::new(binary("snapshot"))
    };
    let ended = run(command.arg("create").current_dir(place.folder.path()));
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("config/private") && ended.stderr.contains("ermission denied"),
        "{}",
        ended.stderr
    );
    assert_eq!(place.document()["verdict"], "error");
    place.assert_nothing_kept();
}

#[test]
fn a_pipe_comes_back_as_a_pipe_and_a_socket_is_left_out_and_told() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/fine", b"1");
    assert!(Command::new("mkfifo").arg(place.path("deploy/pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(place.path("deploy/socket")).unwrap();
    let document = place.create();
    assert_eq!(document["snapshot"]["sources"][0]["details"]["sockets_left_out"], 1);
    place.good(&["restore", "--to", "back"]);
    assert!(place.path("back/config/pipe").metadata().unwrap().file_type().is_fifo());
    assert!(!place.path("back/config/socket").exists());
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/growing.log", &noise(1_000_000, 2));
    let path = place.path("deploy/growing.log");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = std::sync::Arc::clone(&stop);
        move || {
            let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                std::io::Write::write_all(&mut file, b"another line\n").unwrap();
            }
        }
    });
    // On a busy machine the writer may get no turn while the file is read; then it has not changed.
    let mut unchanged = 0;
    let ended = wait_for("a file that changes while it is read", || {
        let ended = place.call(&["create"]);
        unchanged += usize::from(ended.code == 0);
        (ended.code != 0).then_some(ended)
    });
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    writer.join().unwrap();
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("changed while it was backed up"), "{}", ended.stderr);
    assert!(ended.stderr.contains("config/growing.log"), "{}", ended.stderr);
    if unchanged == 0 {
        place.assert_nothing_kept();
    } else {
        assert_eq!(place.listed(), unchanged);
        place.good(&["check", "--read-data"]);
    }
}

#[test]
fn an_empty_or_a_missing_target_is_no_snapshot() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    assert_eq!(place.call(&["create"]).code, 4);
    std::fs::create_dir(place.path("deploy")).unwrap();
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("has not a single file"), "{}", ended.stderr);
    place.assert_nothing_kept();
    place.plan("{name: config, kind: files, target: deploy, with: {allow_empty: true}}", "");
    place.create();
}

#[test]
fn each_name_of_a_file_counts_in_every_snapshot() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/a", b"content");
    std::fs::hard_link(place.path("deploy/a"), place.path("deploy/b")).unwrap();
    let figures = |document: Value| {
        let source = &document["snapshot"]["sources"][0];
        (source["files"].as_u64().unwrap(), source["bytes"].as_u64().unwrap())
    };
    assert_eq!(figures(place.create()), (2, 14));
    assert_eq!(figures(place.create()), (2, 14));
}

#[test]
fn a_folder_that_is_restored_alone_looks_as_it_did() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/private/key", b"secret");
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for folder in ["deploy/private", "deploy"] {
        mode(&place.path(folder), 0o2750);
        std::fs::File::open(place.path(folder)).unwrap().set_modified(long_ago).unwrap();
    }
    place.create();
    place.good(&["restore", "--source", "config", "--to", "source"]);
    place.good(&["restore", "--file", "config/private", "--to", "folder"]);
    let bits = if crate::snapshot::is_root() { 0o2750 } else { 0o750 };
    for restored in ["source/config", "source/config/private", "folder/private"] {
        let meta = std::fs::metadata(place.path(restored)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, bits, "{restored}");
        assert_eq!(meta.modified().unwrap(), long_ago, "{restored}");
    }
}

#[test]
fn a_folder_that_is_included_is_kept_with_all_that_is_in_it() {
    let place = Place::new(
        "{name: all, kind: files, target: deploy, with: {include: [conf/, '*.yaml'], exclude: ['*.log']}}",
    );
    for file in ["app.yaml", "other.txt", "conf/a", "conf/deep/b", "conf/deep/c.log", "sub/conf/d", "sub/e"] {
        place.write(&format!("deploy/{file}"), b"x");
    }
    place.create();
    place.good(&["restore", "--to", "back"]);
    for (file, kept) in [
        ("app.yaml", true),
        ("conf/a", true),
        ("conf/deep/b", true),
        ("sub/conf/d", true),
        ("other.txt", false),
        ("conf/deep/c.log", false),
        ("sub/e", false),
    ] {
        assert_eq!(place.path(&format!("back/all/{file}")).exists(), kept, "{file}");
    }
}
