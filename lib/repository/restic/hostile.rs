//! Tests: whoever has the key may have made the repository to harm whoever reads it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::archiver::{Progress, Spec};
use super::check::ReadData;
use super::id::Id;
use super::index::{self, Index};
use super::node::{Attribute, Node, NodeKind};
use super::pack::{Blob, BlobKind};
use super::packer::Packer;
use super::store::Scratch;
use super::{How, Kind, Local, Name, Passphrase, Repository, Thrift, mode, tree};
use crate::fault::Fault;

struct Lab {
    folder: tempfile::TempDir,
    repository: Repository,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(Local::new(folder.path().join("repo")));
        let word = Passphrase::new("word").unwrap();
        let repository = Repository::init(backend, &word, Duration::ZERO).unwrap();
        Self { folder, repository }
    }

    /// A snapshot whose trees are exactly these bytes; the last one is the root.
    fn with_trees(&self, make: impl FnOnce(&mut dyn FnMut(BlobKind, &[u8]) -> Id) -> Id) -> Id {
        let store = &self.repository.store;
        let packer = Packer::new(Arc::clone(store), Arc::new(Index::default()));
        let mut scratch = Scratch::default();
        let root = make(&mut |kind, bytes| packer.save(kind, bytes, &mut scratch).unwrap());
        packer.flush().unwrap();
        self.snapshot(root)
    }

    fn snapshot(&self, tree: Id) -> Id {
        let json = format!("{{\"time\":\"2026-01-01T00:00:00Z\",\"tree\":\"{tree}\",\"paths\":[\"/x\"]}}");
        self.repository.store.save(Kind::Snapshot, json.as_bytes()).unwrap()
    }

    fn restore(&self, id: Id) -> Result<super::Restored, Fault> {
        let how = How { owners: false, devices: true, ..How::default() };
        self.repository.read(id)?.restore(&self.folder.path().join("deep/out"), &how, &Progress::default())
    }

    fn damage(&self) -> String {
        let health = self.repository.check(ReadData::All, &|_, _| {}).unwrap();
        health.damaged.iter().map(|damage| format!("{damage:?}\n")).collect()
    }
}

fn file(name: &str, content: Id) -> Node {
    Node { name: name.into(), mode: 0o644, content: Some(vec![content]), ..Node::default() }
}

fn folder(name: &str, subtree: Id) -> Node {
    Node { name: name.into(), kind: NodeKind::Dir, subtree: Some(subtree), ..Node::default() }
}

#[test]
fn names_that_lead_elsewhere_are_refused_before_anything_is_written() {
    for name in ["..", ".", "", "a/b", "/etc/passwd", "../../escape", "nul\\u0000"] {
        let lab = Lab::new();
        let id = lab.with_trees(|save| {
            let content = save(BlobKind::Data, b"evil");
            let honest = String::from_utf8(tree::to_json(&[file("PLACE", content)])).unwrap();
            save(BlobKind::Tree, honest.replace("PLACE", name).as_bytes())
        });
        let fault = lab.restore(id).unwrap_err();
        assert!(fault.cause.as_ref().unwrap().contains("a folder cannot be read"), "{name}: {fault}");
        assert!(!lab.folder.path().join("escape").exists());
        assert_eq!(std::fs::read_dir(lab.folder.path().join("deep/out")).unwrap().count(), 0);
        assert!(lab.damage().contains("a folder cannot be read"));
        assert!(lab.repository.prune(Thrift::default(), &mut |_, _| {}).is_err());
    }
}

#[test]
fn a_link_and_a_folder_of_the_same_name_lead_nowhere() {
    let lab = Lab::new();
    let outside = lab.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let id = lab.with_trees(|save| {
        let content = save(BlobKind::Data, b"evil");
        let below = save(BlobKind::Tree, &tree::to_json(&[file("victim", content)]));
        let link = Node {
            name: b"x".to_vec(),
            kind: NodeKind::Symlink,
            linktarget: outside.as_os_str().as_encoded_bytes().to_vec(),
            ..Node::default()
        };
        save(BlobKind::Tree, &tree::to_json(&[link, folder("x", below)]))
    });
    assert!(lab.restore(id).unwrap_err().cause.unwrap().contains("two entries `x`"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_folder_that_says_nothing_of_its_content_or_is_a_piece_of_a_file_is_a_fault() {
    let lab = Lab::new();
    let id = lab.with_trees(|save| {
        let node = Node { subtree: None, ..folder("x", Id::of(b"")) };
        save(BlobKind::Tree, &tree::to_json(&[node]))
    });
    assert!(lab.restore(id).unwrap_err().what.contains("says nothing of its content"));
    assert!(lab.damage().contains("says nothing of its content"));
    let lab = Lab::new();
    let id = lab.with_trees(|save| save(BlobKind::Data, &tree::to_json(&[])));
    assert!(lab.restore(id).unwrap_err().cause.unwrap().contains("no index names the tree blob"));
}

#[test]
fn folders_too_deep_are_a_fault_and_not_a_crash() {
    let lab = Lab::new();
    let id = lab.with_trees(|save| {
        let mut below = save(BlobKind::Tree, &tree::to_json(&[]));
        for _ in 0..tree::MAX_DEPTH + 5 {
            below = save(BlobKind::Tree, &tree::to_json(&[folder("d", below)]));
        }
        below
    });
    assert!(lab.restore(id).unwrap_err().what.contains("too deep"));
    assert_eq!(lab.damage(), "");
}

#[test]
fn programs_that_run_as_root_do_not_come_back_to_a_user() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let id = lab.with_trees(|save| {
        let content = save(BlobKind::Data, b"#!/bin/sh");
        let bad = Attribute { name: "nonsense".into(), value: vec![1] };
        let bits = mode::from_unix(NodeKind::File, 0o6755);
        let node = Node { mode: bits, attributes: vec![bad], ..file("su", content) };
        save(BlobKind::Tree, &tree::to_json(&[node]))
    });
    let done = lab.restore(id).unwrap();
    let path = lab.folder.path().join("deep/out/su");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(done.warnings[0].contains("extended attribute `nonsense`"), "{done:?}");
}

#[test]
fn an_index_that_lies_about_places_is_found_out() {
    let lab = Lab::new();
    let store = &lab.repository.store;
    let (mut content, mut root) = (Id::of(b""), Id::of(b""));
    lab.with_trees(|save| {
        content = save(BlobKind::Data, &[7; 1000]);
        let other = save(BlobKind::Data, b"other");
        root = save(BlobKind::Tree, &tree::to_json(&[file("a", content), file("b", other)]));
        root
    });
    let (old, _) = store.backend.list(Kind::Index).unwrap()[0];
    let honest = store.load_index(old).unwrap();
    let lies: [fn(&mut Blob); 5] = [
        |blob| blob.offset += 1,
        |blob| blob.length -= 1,
        |blob| blob.length = 60_000_000,
        |blob| blob.uncompressed = 64 * 1024 * 1024,
        |blob| blob.uncompressed = 0,
    ];
    for lie in lies {
        for (id, _) in store.backend.list(Kind::Index).unwrap() {
            store.backend.remove(Name::File(Kind::Index, id)).unwrap();
        }
        let mut packs = honest.clone();
        for blob in packs.iter_mut().flat_map(|(_, blobs)| blobs).filter(|blob| blob.id == content) {
            lie(blob);
        }
        store.save(Kind::Index, &index::to_json(&packs, &[]).unwrap()).unwrap();
        let id = lab.snapshot(root);
        let fault = lab.restore(id).unwrap_err();
        assert!(fault.cause.as_ref().unwrap().contains("the file `"), "{fault}");
        assert!(lab.damage().contains("/a\""), "{}", lab.damage());
        std::fs::remove_dir_all(lab.folder.path().join("deep")).unwrap();
    }
}

#[test]
fn blobs_that_lie_in_each_other_cannot_make_a_reader_look_outside() {
    let lab = Lab::new();
    let store = &lab.repository.store;
    let mut ids = Vec::new();
    let root = {
        let mut root = Id::of(b"");
        lab.with_trees(|save| {
            ids = vec![save(BlobKind::Data, b"first bytes"), save(BlobKind::Data, b"second")];
            root = save(BlobKind::Tree, &tree::to_json(&[file("a", ids[0]), file("b", ids[1])]));
            root
        });
        root
    };
    let (old, _) = store.backend.list(Kind::Index).unwrap()[0];
    let mut packs = store.load_index(old).unwrap();
    store.backend.remove(Name::File(Kind::Index, old)).unwrap();
    for blob in packs.iter_mut().flat_map(|(_, blobs)| blobs) {
        if blob.id == ids[0] {
            blob.length += 30;
        } else if blob.id == ids[1] {
            (blob.offset, blob.length) = (1, 33);
        }
    }
    store.save(Kind::Index, &index::to_json(&packs, &[]).unwrap()).unwrap();
    let id = lab.snapshot(root);
    assert!(lab.restore(id).unwrap_err().what.contains("damaged"));
    assert!(lab.damage().contains("belong"));
}

#[test]
fn a_snapshot_or_lock_that_is_nonsense_is_named() {
    let lab = Lab::new();
    let store = &lab.repository.store;
    let id = store.save(Kind::Snapshot, b"{\"time\":\"yesterday\"}").unwrap();
    assert_eq!(lab.repository.snapshots().unwrap().damaged[0].0, id);
    assert!(lab.repository.find("latest").unwrap_err().what.contains("cannot be told"));
    let lock = store.save(Kind::Lock, b"{\"pid\":\"x\"}").unwrap();
    let spec = Spec::new(vec!["/x".into()]);
    let fault = lab.repository.begin(spec.clone()).unwrap_err();
    assert!(fault.place.as_ref().unwrap().contains(&lock.to_string()), "{fault}");
    assert_eq!(lab.repository.unlock(true).unwrap(), 1);
    lab.repository.begin(spec).unwrap();
}

#[test]
fn a_flipped_byte_anywhere_in_a_repository_is_found() {
    let lab = Lab::new();
    let source = lab.folder.path().join("src");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), "some text").unwrap();
    let mut archive = lab.repository.begin(Spec::new(vec!["/x".into()])).unwrap();
    archive.folder(Path::new("x"), &source, &|_: &Path, _: NodeKind| true).unwrap();
    archive.seal().unwrap().commit().unwrap();
    let store = &lab.repository.store;
    assert_eq!(lab.damage(), "");
    for kind in [Kind::Pack, Kind::Index, Kind::Snapshot] {
        for (id, length) in store.backend.list(kind).unwrap() {
            let path = lab.folder.path().join("repo").join(Name::File(kind, id).to_string());
            let whole = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            for at in (0..usize::try_from(length).unwrap()).step_by(7) {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << (at % 8);
                std::fs::write(&path, flipped).unwrap();
                assert!(lab.damage().contains(&id.to_string()), "{kind:?} byte {at}");
            }
            std::fs::write(&path, whole).unwrap();
        }
    }
    assert_eq!(lab.damage(), "");
}

#[test]
fn spoiled_indexes_headers_and_files_are_errors_and_never_a_panic() {
    let blobs: Vec<Blob> = (0..20_u8)
        .map(|n| Blob {
            kind: if n % 2 == 0 { BlobKind::Data } else { BlobKind::Tree },
            id: Id([n; 32]),
            offset: u32::from(n) * 100,
            length: 100,
            uncompressed: u32::from(n) * 7,
        })
        .collect();
    let header = super::pack::header(&blobs);
    let json = index::to_json(&[(Id([1; 32]), blobs)], &[Id([2; 32])]).unwrap();
    let packed = super::codec::pack_json(&json).unwrap();
    let mut state = 1_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..3000 {
        let mut spoil = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for _ in 0..=next(4) {
                let (at, other) = (next(bytes.len()), next(bytes.len()));
                match next(4) {
                    0 => bytes[at] ^= 1 << next(8),
                    1 => bytes.swap(at, other),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, u8::try_from(next(256)).unwrap()),
                }
            }
            bytes
        };
        if let Ok(packs) = index::parse(&spoil(&json)) {
            assert!(packs.iter().flat_map(|(_, blobs)| blobs).all(|blob| blob.sane().is_ok()));
        }
        if let Ok(blobs) = super::pack::parse_header(&spoil(&header)) {
            assert!(blobs.iter().all(|blob| blob.sane().is_ok()));
        }
        if let Ok(json) = super::codec::unpack_json(spoil(&packed), 1 << 20) {
            drop(index::parse(&json));
        }
        drop(super::config::Config::parse(&spoil(
            b"{\"version\":2,\"chunker_polynomial\":\"25b468838dcb75\"}",
        )));
        if let Some(name) =
            super::quoting::unquote(&String::from_utf8_lossy(&spoil(b"a\\xff\\u00e9\\U0001f600\\101\\n")))
        {
            drop(super::quoting::quote(&name));
        }
    }
}
