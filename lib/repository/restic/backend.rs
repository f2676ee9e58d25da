//! Where the files of a repository lie: the few things that a store has to be able to do.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::id::Id;
use crate::fault::Fault;
use crate::world::s3::Access;

mod cached;
mod local;
mod s3;

pub use cached::{Cached, cache_from};
pub use local::{Local, is_unfinished};
pub use s3::S3;

/// The kinds of files that are named by their SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A key, encrypted with a passphrase.
    Key,
    /// A lock.
    Lock,
    /// A snapshot.
    Snapshot,
    /// Which blob lies in which pack.
    Index,
    /// Blobs.
    Pack,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Key, Self::Lock, Self::Snapshot, Self::Index, Self::Pack];

    /// The folder that they lie in.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }
}

/// One file of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// The file `config`.
    Config,
    /// Every other one.
    File(Kind, Id),
}

impl fmt::Display for Name {
    /// The path below the repository: `config`, `index/abcd…`, `data/ab/abcd…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::File(Kind::Pack, id) => write!(f, "data/{id:.2}/{id}"),
            Self::File(kind, id) => write!(f, "{}/{id}", kind.folder()),
        }
    }
}

/// A store. Files are written once, whole, and never changed.
///
/// Errors of all its calls (4): the store cannot be reached, or refuses; the fault names the file.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// Makes what has to be there before the first file; fine when it is there.
    fn prepare(&self) -> Result<(), Fault>;

    /// Every file of a kind with its length in bytes, in no order. Files that no repository names so
    /// are left out.
    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault>;

    /// The length of a file in bytes; none when it is not there.
    fn length(&self, name: Name) -> Result<Option<u64>, Fault>;

    /// Reads exactly `length` bytes from `offset` into `into`, in place of what was there.
    ///
    /// Errors: also when the file ends before.
    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault>;

    /// Writes a whole file of these parts. When this returns, the file is durable; before, nobody sees
    /// any of it. A file that is already there keeps its content.
    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault>;

    /// Removes what interrupted writes left behind; called only while nobody else writes.
    fn sweep(&self) -> Result<(), Fault>;

    /// Removes a file; fine when it is not there.
    fn remove(&self, name: Name) -> Result<(), Fault>;

    /// Reads a whole file that may be at most `most` bytes long.
    ///
    /// Errors: also when it is missing or longer.
    fn whole(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        let shown = || format!("{}/{name}", self.place());
        let missing = || Fault::infrastructure("a file of the repository is missing").place(shown());
        let length = self.length(name)?.ok_or_else(missing)?;
        let bytes = usize::try_from(length).ok().filter(|_| length <= most).ok_or_else(|| {
            Fault::infrastructure("a file of the repository is too long")
                .place(shown())
                .cause(format!("{length} bytes; {most} are the most that make sense"))
        })?;
        let mut whole = Vec::new();
        self.read(name, 0, bytes, &mut whole)?;
        Ok(whole)
    }

    /// The same past all caches, as far as that can be told: to see what really lies there.
    fn afresh(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        self.whole(name, most)
    }

    /// Reads like [`Backend::read`] from a pack of folders, of which more is going to be read.
    fn read_tree(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        self.read(name, offset, length, into)
    }

    /// Tells which files are going to be read whole, with their lengths in bytes, so that they can be
    /// fetched at the same time. What cannot be fetched is told when it is read.
    fn ahead(&self, _files: &[(Name, u64)]) {}

    /// Whether it is on another machine: then there each call takes its time, and the processes of
    /// whoever else uses it cannot be looked at.
    fn remote(&self) -> bool {
        false
    }

    /// How many packs may be on their way to it at the same time, while more are made.
    fn uploads(&self) -> usize {
        0
    }

    /// How long a lock of ours lasts that is not written anew.
    fn lock_lease(&self) -> Duration {
        super::locks::LEASE
    }

    /// What tells others on this machine whether the holder of a lock lives.
    fn process(&self) -> String {
        crate::world::process()
    }

    /// Whether files of this kind may be removed; tried without removing any.
    ///
    /// Errors: refused (5) when they may not.
    fn may_remove(&self, _kind: Kind) -> Result<(), Fault> {
        Ok(())
    }
}

/// The store at a place: a folder `at`, or what `place` addresses. Touches nothing.
///
/// Errors (2): a scheme that is not known, an address that is not understood, a missing variable.
pub fn backend_at(place: &str, at: &Path) -> Result<Arc<dyn Backend>, Fault> {
    backend(place, at, None)
}

/// The same for a short look: a call that is not answered is given up after about `endurance`.
///
/// Errors: as [`backend_at`].
pub fn backend_to_look_at(place: &str, at: &Path, endurance: Duration) -> Result<Arc<dyn Backend>, Fault> {
    backend(place, at, Some(endurance))
}

fn backend(place: &str, at: &Path, endurance: Option<Duration>) -> Result<Arc<dyn Backend>, Fault> {
    match place.split_once("://") {
        None => Ok(Arc::new(Local::new(at))),
        Some(("s3", inside)) => {
            let cache = cache_from(|name| std::env::var(name).ok())?;
            let store = S3::new(inside, &Access::from_environment()?)?;
            let store = match endurance {
                Some(endurance) => store.enduring(endurance),
                None => store,
            };
            Ok(Arc::new(Cached::new(Arc::new(store), cache)))
        }
        Some((scheme, _)) => Err(Fault::usage(format!("stores of the kind `{scheme}://` are not known"))
            .place(crate::redact::redact(place))
            .help("name a local folder, or s3://BUCKET/PREFIX")),
    }
}

/// Reads a whole file that may be at most `most` bytes long.
///
/// Errors (4): it is missing, longer, or cannot be read.
pub(super) fn read_whole(backend: &dyn Backend, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
    backend.whole(name, most)
}

/// A file and where it is, for people.
pub(super) fn place(backend: &dyn Backend, name: Name) -> String {
    format!("{}/{name}", backend.place())
}

pub(super) fn missing(backend: &dyn Backend, name: Name) -> Fault {
    Fault::infrastructure("a file of the repository is missing").place(place(backend, name))
}

/// What is to be done about a damaged file, by its kind.
pub(super) fn damaged(backend: &dyn Backend, name: Name, why: impl fmt::Display) -> Fault {
    let help = match name {
        Name::File(Kind::Index, _) => {
            "look at the disk; `restic rebuild-index` makes a new index from the packs"
        }
        Name::File(Kind::Pack, _) => "look at the disk; `check` with all data read says what is lost",
        _ => "look at the disk, and restore the file from a copy of the repository",
    };
    Fault::infrastructure("a file of the repository is damaged")
        .place(place(backend, name))
        .cause(why)
        .help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_where_restic_looks_for_them() {
        let id = Id::of(b"");
        assert_eq!(Name::Config.to_string(), "config");
        assert_eq!(Name::File(Kind::Pack, id).to_string(), format!("data/e3/{id}"));
        assert_eq!(Name::File(Kind::Snapshot, id).to_string(), format!("snapshots/{id}"));
    }
}
