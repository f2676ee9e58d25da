//! What happens between two steps: a lock taken away, packs pruned, a snapshot forgotten just then.

use std::sync::Mutex;

use trapkey::repository::restic::{Backend, Kind, Name};

use super::*;

/// What is done before or after one call.
type Deed = Box<dyn FnOnce(&Local) + Send>;

/// A store in which something is done to the files at one moment, once.
struct Meddled {
    inner: Arc<Local>,
    /// Before a file of this kind is written (true) or removed (false), and after so many of these.
    moment: (Kind, bool, usize),
    deed: Mutex<Option<Deed>>,
    after: bool,
    seen: Mutex<usize>,
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    fn now(&self, name: Name, put: bool) -> Option<Deed> {
        let (kind, wanted, number) = self.moment;
        if put != wanted || !matches!(name, Name::File(this, _) if this == kind) {
            return None;
        }
        let mut seen = self.seen.lock().unwrap();
        *seen += 1;
        if *seen > number { self.deed.lock().unwrap().take() } else { None }
    }
    fn around(&self, name: Name, put: bool, call: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
        let Some(deed) = self.now(name, put) else { return call() };
        if self.after {
            let done = call();
            deed(&self.inner);
            return done;
        }
        deed(&self.inner);
        call()
    }
}

impl Backend for Meddled {
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
        self.around(name, true, || self.inner.put(name, parts))
    }
    fn sweep(&self) -> Result<(), Fault> {
        self.inner.sweep()
    }
    fn remove(&self, name: Name) -> Result<(), Fault> {
        self.around(name, false, || self.inner.remove(name))
    }
}

impl Lab {
    fn meddled(&self, moment: (Kind, bool, usize), after: bool, deed: Deed) -> Repository {
        let (inner, deed, seen) = (self.backend(), Mutex::new(Some(deed)), Mutex::new(0));
        Repository::open(Arc::new(Meddled { inner, moment, deed, after, seen }), &word()).unwrap()
    }

    fn is_whole_and_restores(&self, id: Id) {
        let health = check(&self.open());
        assert!(health.damaged.is_empty(), "{:?}", health.damaged);
        self.restore(&self.open(), id, "whole");
        std::fs::remove_dir_all(self.path("whole")).unwrap();
    }
}

fn remove_all(store: &Local, kind: Kind) {
    for (id, _) in store.list(kind).unwrap() {
        store.remove(Name::File(kind, id)).unwrap();
    }
}

/// What somebody does who takes the process for dead: its locks go, and a prune removes what no snapshot
/// needs.
fn taken_for_dead() -> Deed {
    Box::new(|store| {
        remove_all(store, Kind::Lock);
        let theirs = Repository::open(Arc::new(Local::new(store.place())), &word()).unwrap();
        theirs.prune(Thrift { max_unused: 0.0, join_small: false }, &mut |_, _| {}).unwrap();
    })
}

#[test]
fn a_snapshot_is_withdrawn_when_others_pruned_what_it_needs_just_before_or_after_it_was_listed() {
    for after in [false, true] {
        let lab = Lab::new();
        lab.write("src/a.bin", &noise(300_000, 1));
        let first = lab.backup(&lab.init());
        lab.write("src/b.bin", &noise(200_000, 2));
        // After the lock was looked at, and before the snapshot is there: what only it needs goes.
        let deed: Deed =
            if after { Box::new(|store| remove_all(store, Kind::Lock)) } else { taken_for_dead() };
        let meddled = lab.meddled((Kind::Snapshot, true, 0), after, deed);
        let fault = lab.sealed(&meddled, lab.spec()).and_then(Sealed::commit).unwrap_err();
        assert_eq!(fault.what, "the lock of the repository was lost");
        let listed = lab.open().snapshots().unwrap();
        assert_eq!(listed.whole.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first]);
        lab.is_whole_and_restores(first);
        lab.restic(&["check", "--read-data"]);
        // The next one succeeds.
        let again = lab.backup(&lab.open());
        lab.is_whole_and_restores(again);
    }
}

#[test]
fn a_snapshot_that_cannot_be_withdrawn_is_named() {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(300_000, 1));
    let repository = lab.init();
    let folder = lab.path("repo/snapshots");
    let deed: Deed = Box::new(move |store| {
        remove_all(store, Kind::Lock);
        // In the place of the snapshot nothing can be removed any more.
        let (id, _) = store.list(Kind::Snapshot).unwrap()[0];
        std::fs::remove_file(folder.join(id.to_string())).unwrap();
        std::fs::create_dir(folder.join(id.to_string())).unwrap();
    });
    let meddled = lab.meddled((Kind::Snapshot, true, 0), true, deed);
    let fault = lab.sealed(&meddled, lab.spec()).and_then(Sealed::commit).unwrap_err();
    assert_eq!(fault.what, "the lock of the repository was lost");
    let name = lab.path("repo/snapshots").read_dir().unwrap().next().unwrap().unwrap().file_name();
    assert!(fault.help.unwrap().contains(&name.to_str().unwrap()[..8]));
    drop(repository);
}

#[test]
fn a_prune_whose_lock_is_taken_away_while_it_writes_packs_stops_and_loses_nothing() {
    prune_whose_lock_is_taken_away((Kind::Pack, true, 0));
}

#[test]
fn a_prune_whose_lock_is_taken_away_while_it_writes_an_index_stops_and_loses_nothing() {
    prune_whose_lock_is_taken_away((Kind::Index, true, 0));
}

#[test]
fn a_prune_whose_lock_is_taken_away_while_old_indexes_go_stops_and_loses_nothing() {
    prune_whose_lock_is_taken_away((Kind::Index, false, 0));
}

#[test]
fn a_prune_whose_lock_is_taken_away_while_packs_go_stops_and_loses_nothing() {
    prune_whose_lock_is_taken_away((Kind::Pack, false, 0));
}

#[test]
fn a_prune_whose_lock_is_taken_away_at_the_last_pack_loses_nothing() {
    prune_whose_lock_is_taken_away((Kind::Pack, false, 1));
}

fn prune_whose_lock_is_taken_away(moment: (Kind, bool, usize)) {
    let thrift = Thrift { max_unused: 0.0, join_small: false };
    for after in [false, true] {
        let lab = Lab::new();
        lab.write("src/a.bin", &noise(300_000, 1));
        lab.write("src/b.bin", &noise(200_000, 2));
        let repository = lab.init();
        let first = lab.backup(&repository);
        std::fs::remove_file(lab.path("src/a.bin")).unwrap();
        lab.write("src/sub/c.bin", &noise(100_000, 3));
        let second = lab.backup(&repository);
        repository.forget(&[first]).unwrap();
        let place = lab.path("src");
        // Somebody takes the lock away and makes a snapshot of what the old index still names.
        let deed: Deed = Box::new(move |store| {
            remove_all(store, Kind::Lock);
            let theirs = Repository::open(Arc::new(Local::new(store.place())), &word()).unwrap();
            let mut archive = theirs.begin(Spec::new(vec!["/src".into()])).unwrap();
            archive.folder(Path::new("src"), &place, &everything).unwrap();
            archive.seal().unwrap().commit().unwrap();
        });
        let done = lab.meddled(moment, after, deed).prune(thrift, &mut |_, _| {});
        // With the last pack it is done, and no index named that one any more.
        if moment == (Kind::Pack, false, 1) {
            done.unwrap();
        } else {
            let fault = done.unwrap_err();
            assert_eq!(fault.what, "the lock of the repository was lost", "{moment:?} {after}");
        }
        let listed = lab.open().snapshots().unwrap().whole;
        assert_eq!(listed.len(), 2);
        for (id, _) in listed {
            lab.is_whole_and_restores(id);
        }
        lab.open().prune(thrift, &mut |_, _| {}).unwrap();
        lab.is_whole_and_restores(second);
        lab.restic(&["check", "--read-data"]);
    }
}

#[test]
fn a_parent_that_was_forgotten_meanwhile_is_told_and_one_that_is_used_is_kept() {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(300_000, 1));
    let repository = lab.init();
    let first = lab.backup(&repository);
    let with_parent = || Spec { parent: Some(first), ..lab.spec() };
    let archive = repository.begin(with_parent()).unwrap();
    let refused = lab.open().forget(&[first]).unwrap_err();
    assert!(refused.what.contains("locked"), "{refused}");
    drop(archive);
    // Between the choice of the parent and the beginning.
    repository.forget(&[first]).unwrap();
    let fault = lab.sealed(&repository, with_parent()).unwrap_err();
    assert!(fault.what.contains("missing") && fault.place.unwrap().contains(&first.to_string()));
    assert!(lab.stored("locks").is_empty());
    let second = lab.backup(&repository);
    lab.is_whole_and_restores(second);
}

#[test]
fn a_snapshot_that_is_restored_is_not_forgotten_and_by_force_is_restored_or_an_error() {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(300_000, 1));
    lab.write("src/b.bin", &noise(200_000, 2));
    let repository = lab.init();
    let id = lab.backup(&repository);
    let opened = repository.read(id).unwrap();
    let other = lab.open();
    assert!(other.forget(&[id]).unwrap_err().what.contains("locked"));
    assert!(other.prune(Thrift::default(), &mut |_, _| {}).unwrap_err().what.contains("locked"));
    // By force the list loses it, and what is open still restores.
    other.unlock(true).unwrap();
    other.forget(&[id]).unwrap();
    opened.restore(&lab.path("one"), &How::default(), &Progress::default()).unwrap();
    let src = lab.path("src");
    assert_eq!(
        std::fs::read(lab.path("one").join(src.strip_prefix("/").unwrap()).join("a.bin")).unwrap(),
        noise(300_000, 1)
    );
    other.prune(Thrift { max_unused: 0.0, join_small: false }, &mut |_, _| {}).unwrap();
    let fault = opened.restore(&lab.path("two"), &How::default(), &Progress::default()).unwrap_err();
    assert!(fault.help.is_some_and(|help| help.contains("another program may have removed it")));
}
