//! restic's repository format, version 2, written and read by our own engine; version 1 is read.
//!
//! Whoever has a snapshot can restore it with plain `restic`, and the other way round. The format is
//! that of restic's design document; the files here follow its chapters:
//!
//! | file | chapter |
//! | --- | --- |
//! | [`backend`] | where files lie |
//! | `crypto`, `keys`, `codec` | encryption, passphrases, compression |
//! | `config`, `polynomial` | which repository |
//! | `pack`, `packer`, `index` | blobs, packs, index |
//! | `node`, `quoting`, `tree`, `meta`, `people` | folders and what is in them |
//! | `snapshot`, `locks` | snapshots and locks |
//! | `archiver`, `manifest` | backup |
//! | `opened`, `restore` | reading and restore |
//! | `check`, `prune`, `pins` | keeping it whole, and small |

use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Exit, Fault};

mod archiver;
pub mod backend;
mod check;
mod codec;
mod config;
mod crypto;
#[doc(hidden)]
pub mod fuzzing;
mod id;
mod index;
mod keys;
mod locks;
mod manifest;
mod meta;
mod node;
mod opened;
mod pack;
mod packer;
mod people;
mod pins;
mod polynomial;
mod prune;
mod quoting;
mod restore;
mod snapshot;
mod store;
mod tree;

pub use archiver::{Archive, Filter, Mark, Notes, Part, Progress, Proof, Sealed, Spec, Streamed, Take};
pub use backend::{Backend, Cached, Kind, Local, Name, S3, backend_at, cache_from};
pub use check::{Damage, Health, ReadData};
pub use config::Config;
pub use id::Id;
pub use keys::{KeyInfo, Passphrase};
pub use locks::LockInfo;
pub use node::{Attribute, Moment, Node, NodeKind, mode};
pub use opened::Opened;
pub use pack::{Blob, BlobKind};
pub use pins::{Known, PINNED, Pin, Unreadable};
pub use prune::{Pruning, Thrift};
pub use restore::{How, Restored, UNFINISHED};
pub use snapshot::{Snapshot, Summary};

use crypto::Key;
use locks::Held;
use pins::Meant;
use store::Store;

const MAX_CONFIG: u64 = 64 * 1024;

/// How long it takes to try a passphrase, by default: as restic has it.
pub const KEY_WORK: Duration = Duration::from_millis(500);

/// An opened repository.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<Store>,
    config: Config,
    key: Id,
    locking: bool,
}

/// The snapshots of a repository.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// Those that can be read, oldest first.
    pub whole: Vec<(Id, Snapshot)>,
    /// Those that cannot, and why.
    pub damaged: Vec<(Id, String)>,
}

impl Repository {
    /// Makes a new repository of version 2. Trying a passphrase takes about `work` on this machine,
    /// and next to nothing where that is zero: only for a passphrase that is no secret. Of several that
    /// make it at once at most one does, where [`Backend::put`] keeps what is there.
    ///
    /// Errors: refused (5) when there is one already, or somebody else makes it; 4 when the store cannot be written.
    pub fn init(backend: Arc<dyn Backend>, passphrase: &Passphrase, work: Duration) -> Result<Self, Fault> {
        if backend.length(Name::Config)?.is_some() {
            return Err(Fault::refused("there is a repository already").place(backend.place()));
        }
        let before: Vec<Id> = keys_there(&*backend)?;
        let master = if before.is_empty() {
            backend.prepare()?;
            Key::random()?
        } else {
            adopt(&*backend, passphrase, &before)?
        };
        // Each maker has a key of its own, so that nobody needs one that somebody else takes back.
        let key = keys::add(&*backend, &master, passphrase, work)?;
        let json = serde_json::to_vec(&Config::new()?)
            .map_err(|e| Fault::infrastructure("the file `config` cannot be written").cause(e))?;
        let mut sealed = Vec::new();
        master.encrypt(&json, &mut sealed)?;
        // Whoever begins at this moment sees our key, or we see theirs. One that began before may have looked
        // already, and the first file `config` decides.
        let came = keys_there(&*backend)?.iter().any(|id| *id != key && !before.contains(id));
        if came || backend.length(Name::Config)?.is_some() {
            return Err(outrun(&*backend, key));
        }
        // Last: only now it is a repository. One that is there stays as it is.
        backend.put(Name::Config, &[&sealed])?;
        if !stands(&*backend, key, &sealed)? {
            return Err(outrun(&*backend, key));
        }
        let config =
            read_config(&sealed, &master).map_err(|why| backend::damaged(&*backend, Name::Config, why))?;
        keys::clear(&*backend, key, &master, &before, passphrase);
        let store = Arc::new(Store::new(backend, master, config.version));
        Ok(Self { store, config, key, locking: true })
    }

    /// Opens a repository.
    ///
    /// Errors: refused (5) for a passphrase that does not open it; 4 when there is none, or it is
    /// damaged or of an unknown version.
    pub fn open(backend: Arc<dyn Backend>, passphrase: &Passphrase) -> Result<Self, Fault> {
        if backend.length(Name::Config)?.is_none() {
            return Err(Fault::infrastructure("there is no repository")
                .place(backend.place())
                .cause("the file `config` is missing")
                .help("name the place that was backed up to"));
        }
        let sealed = backend::read_whole(&*backend, Name::Config, MAX_CONFIG);
        let fits =
            |key: &Key| sealed.as_ref().is_ok_and(|sealed| key.decrypt(sealed, &mut Vec::new()).is_some());
        let (key, master) = keys::open(&*backend, passphrase, &fits)?;
        let config =
            read_config(&sealed?, &master).map_err(|why| backend::damaged(&*backend, Name::Config, why))?;
        let store = Arc::new(Store::new(backend, master, config.version));
        Ok(Self { store, config, key, locking: true })
    }

    /// What its file `config` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.store.backend.place()
    }

    /// Every pack that an index names, and what is in it.
    ///
    /// Errors (4): an index cannot be read.
    pub fn packs(&self) -> Result<Vec<(Id, Vec<Blob>)>, Fault> {
        let mut packs = Vec::new();
        for (id, _) in self.store.backend.list(Kind::Index)? {
            packs.extend(self.store.load_index(id)?);
        }
        Ok(packs)
    }

    /// What is wrong with the files that are not encrypted blobs, an index or a snapshot.
    fn damaged_papers(&self) -> Result<Vec<(Name, String)>, Fault> {
        let backend = &*self.store.backend;
        let mut found: Vec<_> =
            keys::damaged(backend)?.into_iter().map(|(id, why)| (Name::File(Kind::Key, id), why)).collect();
        if backend.length(Name::Config)?.is_none() {
            found.push((Name::Config, "it is missing".into()));
            return Ok(found);
        }
        let read = backend::read_whole(backend, Name::Config, MAX_CONFIG)
            .map_err(|fault| fault.cause.unwrap_or(fault.what))
            .and_then(|sealed| read_config(&sealed, &self.store.key));
        found.extend(read.err().map(|why| (Name::Config, why)));
        Ok(found)
    }

    /// Every key.
    pub fn keys(&self) -> Result<Vec<KeyInfo>, Fault> {
        keys::list(&*self.store.backend, self.key)
    }

    /// The key that a passphrase opens it with, if it does.
    pub fn key_of(&self, passphrase: &Passphrase) -> Result<Option<Id>, Fault> {
        let own = |key: &Key| key.parts() == self.store.key.parts();
        match keys::open(&*self.store.backend, passphrase, &own) {
            // The key of another repository opens nothing here.
            Ok((id, key)) => Ok(own(&key).then_some(id)),
            Err(fault) if fault.exit == Exit::Refused => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Lets another passphrase open it too; the new key is tried at once.
    ///
    /// Errors: refused (5) where there are as many keys as are ever tried; 4 when the store fails, or
    /// gives back something else than what was written.
    pub fn add_key(&self, passphrase: &Passphrase, work: Duration) -> Result<Id, Fault> {
        let backend = &*self.store.backend;
        let new = keys::add(backend, &self.store.key, passphrase, work)?;
        if keys::opens(backend, new, passphrase, &self.store.key)? {
            return Ok(new);
        }
        backend.remove(Name::File(Kind::Key, new))?;
        Err(Fault::infrastructure("the new key does not open the repository").place(self.place()))
    }

    /// Takes a passphrase its right. Whoever kept a copy of the key file and knows the passphrase can
    /// still read the repository.
    ///
    /// Errors: refused (5) for the key that is in use; 2 for one that is not there.
    pub fn remove_key(&self, id: Id) -> Result<(), Fault> {
        if id == self.key {
            return Err(Fault::refused("the key that is in use cannot be removed")
                .place(self.place())
                .help("open the repository with another passphrase first"));
        }
        let _held = self.with_own_key()?;
        let name = Name::File(Kind::Key, id);
        if self.store.backend.length(name)?.is_none() {
            return Err(Fault::usage(format!("no key {}", id.short())).place(self.place()));
        }
        self.store.backend.remove(name)
    }

    /// Locks the repository, and sees that the key in use is still there: two who each remove the other's
    /// key would leave none.
    fn with_own_key(&self) -> Result<Held, Fault> {
        self.store.backend.may_remove(Kind::Key)?;
        let held = Held::new(&self.store, true)?;
        if self.store.backend.length(Name::File(Kind::Key, self.key))?.is_some() {
            return Ok(held);
        }
        Err(Fault::refused("the key in use was removed meanwhile")
            .place(self.place())
            .help("open the repository with a passphrase that still counts"))
    }

    /// Puts a new passphrase in the place of the one in use. The new key is tried before the old one
    /// goes; where one with the new passphrase is there from a call that was interrupted, it is taken.
    ///
    /// Errors: refused (5) for the passphrase that is in use, and while somebody else uses the
    /// repository; 4 when the store fails. One of the two always opens the repository.
    pub fn rotate_key(&mut self, passphrase: &Passphrase, work: Duration) -> Result<Id, Fault> {
        let _held = self.with_own_key()?;
        let new = match self.key_of(passphrase)? {
            Some(there) if there == self.key => {
                return Err(Fault::refused("the new passphrase is the one in use")
                    .place(self.place())
                    .help("give another one"));
            }
            Some(there) => there,
            None => self.add_key(passphrase, work)?,
        };
        self.store.backend.remove(Name::File(Kind::Key, self.key))?;
        self.key = new;
        Ok(new)
    }

    /// Every snapshot.
    pub fn snapshots(&self) -> Result<Snapshots, Fault> {
        let mut snapshots = Snapshots::default();
        let files = self.store.backend.list(Kind::Snapshot)?;
        self.store.ahead(Kind::Snapshot, &files);
        for (id, _) in files {
            match read_snapshot(&self.store, id) {
                Ok(snapshot) => snapshots.whole.push((id, snapshot)),
                // Forgotten meanwhile.
                Err(_) if self.store.backend.length(Name::File(Kind::Snapshot, id))?.is_none() => {}
                Err(fault) => snapshots.damaged.push((id, fault.cause.unwrap_or(fault.what))),
            }
        }
        snapshots.whole.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(snapshots)
    }

    /// The newest snapshot of this machine and these paths: the parent of the next one.
    pub fn newest_of(&self, hostname: &str, paths: &[String]) -> Result<Option<Id>, Fault> {
        let same = |s: &Snapshot| s.hostname == hostname && s.paths == paths;
        Ok(self.snapshots()?.whole.into_iter().rev().find(|(_, s)| same(s)).map(|(id, _)| id))
    }

    /// Begins a snapshot; the repository is locked (shared) until it is done or dropped.
    ///
    /// Errors: refused (5) while somebody holds it exclusively, and for version 1; 4 when it cannot be
    /// read.
    pub fn begin(&self, spec: Spec) -> Result<Archive, Fault> {
        Archive::begin(&self.store, self.config.seed(), spec)
    }

    /// The same repository, read without locks: for a store that cannot be written to.
    #[must_use]
    pub fn without_locks(&self) -> Self {
        Self { locking: false, ..self.clone() }
    }

    /// Opens a snapshot to read it.
    ///
    /// Errors: refused (5) while somebody holds the repository exclusively; 4 when the snapshot or the
    /// index is missing or damaged.
    pub fn read(&self, id: Id) -> Result<Opened, Fault> {
        let held = self.lock(false)?;
        // The snapshot first: whatever it needs was in the index before it was there.
        let snapshot = read_snapshot(&self.store, id)?;
        let index = Arc::new(self.store.index()?);
        Ok(Opened { store: Arc::clone(&self.store), index, id, snapshot, _held: held })
    }

    /// The snapshot that is meant: `latest`, or the unique beginning of an id (six characters or more).
    /// Where an id is gone, whatever has the same content and says that it had this id before.
    ///
    /// Errors: 2 when it names none or several; 4 for `latest` where a snapshot is damaged, since that
    /// may be the latest.
    pub fn find(&self, name: &str) -> Result<Id, Fault> {
        let (known, damaged) = self.known()?;
        if name == "latest" {
            if let Some((id, why)) = damaged.first() {
                return Err(Fault::infrastructure("which snapshot is the latest cannot be told")
                    .place(backend::place(&*self.store.backend, Name::File(Kind::Snapshot, *id)))
                    .cause(why)
                    .help("name one by its id"));
            }
            let none = || Fault::infrastructure("the repository has no snapshot").place(self.place());
            return known.last().map(|known| known.id).ok_or_else(none);
        }
        match pins::meant(&known, name) {
            Meant::One(id) => Ok(id),
            Meant::None => Err(Fault::usage(format!("no snapshot `{name}`"))
                .place(self.place())
                .help("give six or more digits of an id that `list` shows")),
            Meant::Several => {
                Err(Fault::usage(format!("several snapshots begin with `{name}`"))
                    .help("give more of the id"))
            }
        }
    }

    fn lock(&self, exclusive: bool) -> Result<Option<Held>, Fault> {
        self.locking.then(|| Held::new(&self.store, exclusive)).transpose()
    }

    /// Every lock.
    pub fn locks(&self) -> Result<Vec<(Id, LockInfo)>, Fault> {
        locks::list(&self.store)
    }

    /// Removes the locks that are stale, or all of them; returns how many.
    pub fn unlock(&self, all: bool) -> Result<usize, Fault> {
        locks::unlock(&self.store, all)
    }
}

/// What the sealed file `config` says.
fn read_config(sealed: &[u8], master: &Key) -> Result<Config, String> {
    let mut json = Vec::new();
    master.decrypt(sealed, &mut json).ok_or("it was not written with the key of this repository")?;
    Config::parse(&json)
}

/// The names of the keys that are there.
fn keys_there(backend: &dyn Backend) -> Result<Vec<Id>, Fault> {
    Ok(backend.list(Kind::Key)?.into_iter().map(|(id, _)| id).collect())
}

/// Whether the file `config` that lies there is this one: no two makers write the same.
///
/// Errors (4): it cannot be read, or is neither this one nor somebody else's.
fn stands(backend: &dyn Backend, key: Id, sealed: &[u8]) -> Result<bool, Fault> {
    let first = backend::read_whole(backend, Name::Config, MAX_CONFIG)?;
    if first == sealed {
        return Ok(true);
    }
    // It may have been damaged on the way only, and then our key is the one that opens it.
    let second = backend.afresh(Name::Config, MAX_CONFIG)?;
    if second == sealed {
        return Ok(true);
    }
    if second == first && keys_there(backend)?.iter().any(|id| *id != key) {
        return Ok(false);
    }
    Err(backend::damaged(backend, Name::Config, "it is read back different from what was written"))
}

/// Takes back the key of a maker that was not the first, and says so.
fn outrun(backend: &dyn Backend, key: Id) -> Fault {
    match backend.remove(Name::File(Kind::Key, key)) {
        Err(fault) => fault,
        Ok(()) => at_once(backend),
    }
}

fn at_once(backend: &dyn Backend) -> Fault {
    Fault::refused("somebody makes a repository here at the same moment")
        .place(backend.place())
        .help("open that one, or try again")
}

/// The master key that an interrupted making of a repository left, or one that is under way.
///
/// Errors: refused (5) where there is more than keys, the passphrase opens none of them, or one is gone meanwhile.
fn adopt(backend: &dyn Backend, passphrase: &Passphrase, before: &[Id]) -> Result<Key, Fault> {
    for kind in [Kind::Snapshot, Kind::Index, Kind::Pack] {
        if !backend.list(kind)?.is_empty() {
            return Err(Fault::refused("there is a repository without its file `config`")
                .place(backend.place())
                .help("restore `config` from a copy, or name another place"));
        }
    }
    keys::open(backend, passphrase, &|_| true).map(|(_, master)| master).map_err(|fault| {
        if fault.exit != Exit::Refused {
            // A maker that was not the first has taken its key back meanwhile.
            return match keys_there(backend) {
                Ok(now) if before.iter().all(|id| now.contains(id)) => fault,
                Ok(_) => at_once(backend),
                Err(unreached) => unreached,
            };
        }
        Fault::refused("somebody began to make a repository here, with another passphrase")
            .place(format!("{}/keys", backend.place()))
            .help("if nobody is at work there, remove this folder, and try again")
    })
}

fn read_snapshot(store: &Store, id: Id) -> Result<Snapshot, Fault> {
    let json = store.load(Kind::Snapshot, id)?;
    let name = Name::File(Kind::Snapshot, id);
    Snapshot::parse(&json).map_err(|why| backend::damaged(&*store.backend, name, why))
}

#[cfg(test)]
mod hostile;
