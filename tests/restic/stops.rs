//! A store that fails at any moment: what was there is still whole, and the next run finishes.

use std::sync::atomic::{AtomicUsize, Ordering};

use trapkey::repository::restic::{Backend, Kind, Name};

use super::*;

/// A store that refuses every change after so many, and may say beforehand that nothing is removed.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) inner: Arc<Local>,
    pub(crate) left: AtomicUsize,
    pub(crate) append_only: bool,
}

impl Limited {
    fn spend(&self) -> Result<(), Fault> {
        let spent = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| Fault::infrastructure("the store answers no more"))
    }
}

impl Backend for Limited {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn prepare(&self) -> Result<(), Fault> {
        self.inner.prepare()
    }
    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        self.inner.list(kind)
    }
    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        self.inner.length(name)
    }
    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        self.inner.read(name, offset, length, into)
    }
    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        self.spend()?;
        self.inner.put(name, parts)
    }
    fn sweep(&self) -> Result<(), Fault> {
        self.spend()?;
        self.inner.sweep()
    }
    fn remove(&self, name: Name) -> Result<(), Fault> {
        self.spend()?;
        match name {
            Name::File(Kind::Lock, _) => self.inner.remove(name),
            _ if self.append_only => Err(Fault::infrastructure("removed").cause("Permission denied")),
            _ => self.inner.remove(name),
        }
    }
    fn may_remove(&self, kind: Kind) -> Result<(), Fault> {
        if self.append_only && kind != Kind::Lock {
            return Err(Fault::refused("nothing may be removed from this store"));
        }
        Ok(())
    }
}

impl Lab {
    fn failing_after(&self, changes: usize) -> Repository {
        let failing = Limited { inner: self.backend(), left: AtomicUsize::new(changes), append_only: false };
        Repository::open(Arc::new(failing), &word()).unwrap()
    }

    fn all_restore(&self, repository: &Repository, pictures: &BTreeMap<Id, BTreeMap<PathBuf, String>>) {
        let health = check(repository);
        assert!(health.damaged.is_empty(), "{:?}", health.damaged);
        for (id, picture_then) in pictures {
            let out = format!("out-{}", id.short());
            self.restore(repository, *id, &out);
            let src = self.path("src");
            assert_eq!(&picture(&self.path(&out).join(src.strip_prefix("/").unwrap())), picture_then);
            std::fs::remove_dir_all(self.path(&out)).unwrap();
        }
    }
}

#[test]
fn a_backup_that_is_stopped_anywhere_leaves_no_snapshot_and_harms_none() {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(300_000, 1));
    let repository = lab.init();
    let first = lab.backup(&repository);
    let pictures = BTreeMap::from([(first, picture(&lab.path("src")))]);
    for changes in 0.. {
        lab.write("src/b.bin", &noise(200_000, 2));
        let failing = lab.failing_after(changes);
        let done = lab.sealed(&failing, lab.spec()).and_then(Sealed::commit);
        let listed = repository.snapshots().unwrap().whole.len();
        repository.unlock(true).unwrap();
        lab.all_restore(&repository, &pictures);
        let Err(fault) = done else {
            // Lock, two packs, an index, the snapshot.
            assert_eq!((listed, changes), (2, 5));
            break;
        };
        assert!(fault.what.contains("answers no more") && listed == 1, "{changes}: {fault}");
    }
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn a_prune_that_is_stopped_anywhere_loses_nothing_and_the_next_one_finishes() {
    prune_stopped_after_changes((0..).step_by(2));
}

#[test]
fn a_prune_that_is_stopped_anywhere_else_loses_nothing_and_the_next_one_finishes() {
    prune_stopped_after_changes((1..).step_by(2));
}

fn prune_stopped_after_changes(all: impl Iterator<Item = usize>) {
    let thrift = Thrift { max_unused: 0.0, join_small: false };
    let mut stopped = 0;
    for changes in all {
        let lab = Lab::new();
        lab.write("src/a.bin", &noise(300_000, 1));
        lab.write("src/b.bin", &noise(200_000, 2));
        let repository = lab.init();
        let first = lab.backup(&repository);
        std::fs::remove_file(lab.path("src/a.bin")).unwrap();
        lab.write("src/sub/c.bin", &noise(100_000, 3));
        let second = lab.backup(&repository);
        let pictures = BTreeMap::from([(second, picture(&lab.path("src")))]);
        repository.forget(&[first]).unwrap();
        let done = lab.failing_after(changes).prune(thrift, &mut |_, _| {});
        repository.unlock(true).unwrap();
        lab.all_restore(&repository, &pictures);
        if changes % 4 < 2 {
            lab.restic(&["check", "--read-data"]);
        }
        repository.prune(thrift, &mut |_, _| {}).unwrap();
        lab.all_restore(&repository, &pictures);
        // Of the first pack b.bin is left, and of the second c.bin; and one with folders.
        assert_eq!(lab.stored("data").len(), 3);
        assert!(repository.plan_prune(thrift).unwrap().is_empty());
        if done.is_ok() {
            break;
        }
        stopped += 1;
    }
    assert!(stopped >= 3, "{stopped}");
}

#[test]
fn a_pack_that_was_lost_is_stored_anew_by_the_next_backup() {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(300_000, 1));
    let repository = lab.init();
    let first = lab.backup(&repository);
    let data =
        lab.stored("data").into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    std::fs::remove_file(data).unwrap();
    assert!(!check(&repository).damaged.is_empty());
    let sealed = lab.sealed(&repository, Spec { parent: Some(first), ..lab.spec() }).unwrap();
    assert_eq!(sealed.snapshot().summary.as_ref().unwrap().data_blobs, 1);
    sealed.commit().unwrap();
    // The index still names the lost pack, but what was in it is elsewhere now.
    repository.rebuild_index().unwrap();
    assert!(check(&repository).damaged.is_empty());
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn a_snapshot_gets_other_tags_and_remembers_its_first_id() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let first = lab.backup(&repository);
    let second = repository.retag(first, vec!["pinned".into()]).unwrap();
    let third = repository.retag(second, vec!["pinned".into(), "proven".into()]).unwrap();
    let listed: Value =
        serde_json::from_str(&lab.restic(&["snapshots", "--json", "--tag", "proven"])).unwrap();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["original"]),
        (&third.to_string().into(), &first.to_string().into())
    );
    assert_eq!(repository.snapshots().unwrap().whole.len(), 1);
    lab.restic(&["tag", "--add", "theirs", "latest"]);
    let tags = repository.snapshots().unwrap().whole.remove(0).1.tags;
    assert_eq!(tags, ["pinned", "proven", "theirs"]);
}
