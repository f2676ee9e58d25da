//! Looks at folders before the walk comes to them: whichever worker has time lists a folder, asks
//! for the metadata of all that is in it, and reads what the parent has there.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::parent::Parent;
use crate::caught::caught;
use crate::repository::restic::id::Id;
use crate::repository::restic::node::Node;
use crate::repository::restic::packer::lock;

/// An entry's name and metadata.
pub(super) type Seen = (OsString, io::Result<Metadata>);

/// What is in a folder.
pub(super) struct Looked {
    /// In the order of their names.
    pub(super) entries: io::Result<Vec<Seen>>,
    /// What the parent has there, sorted; none when it has nothing that can be read.
    pub(super) before: Option<Vec<Node>>,
}

/// A folder that somebody is going to look at.
pub(super) struct Look {
    path: PathBuf,
    tree: Option<Id>,
    stage: Mutex<Stage>,
    done: Condvar,
}

enum Stage {
    Waiting,
    Busy,
    Done(Looked),
    Taken,
}

impl Look {
    /// A folder, and the tree that the parent has there.
    pub(super) fn new(path: PathBuf, tree: Option<Id>) -> Arc<Self> {
        Arc::new(Self { path, tree, stage: Mutex::new(Stage::Waiting), done: Condvar::new() })
    }

    /// Looks, unless somebody does or did already.
    pub(super) fn work(&self, parent: &Parent) {
        {
            let mut stage = lock(&self.stage);
            if !matches!(*stage, Stage::Waiting) {
                return;
            }
            *stage = Stage::Busy;
        }
        // Whoever waits for it must not wait for ever.
        let looked = caught(|| look(&self.path, self.tree, parent))
            .unwrap_or_else(|why| Looked { entries: Err(io::Error::other(why)), before: None });
        *lock(&self.stage) = Stage::Done(looked);
        self.done.notify_all();
    }

    /// What was seen; looks here and now when nobody did.
    pub(super) fn take(&self, parent: &Parent) -> Looked {
        let mut stage = lock(&self.stage);
        loop {
            match std::mem::replace(&mut *stage, Stage::Taken) {
                Stage::Done(looked) => return looked,
                Stage::Busy => {
                    *stage = Stage::Busy;
                    stage = self.done.wait(stage).unwrap_or_else(PoisonError::into_inner);
                }
                Stage::Waiting | Stage::Taken => {
                    drop(stage);
                    return look(&self.path, self.tree, parent);
                }
            }
        }
    }
}

fn look(path: &Path, tree: Option<Id>, parent: &Parent) -> Looked {
    // A parent that cannot be read is no parent: everything is read anew.
    let before = tree.and_then(|tree| parent.entries(tree));
    Looked { entries: list(path), before }
}

fn list(folder: &Path) -> io::Result<Vec<Seen>> {
    let seen = |entry: fs::DirEntry| (entry.file_name(), entry.metadata());
    let mut entries = fs::read_dir(folder)?.map(|entry| entry.map(seen)).collect::<io::Result<Vec<_>>>()?;
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    // A link that took its place since it was seen leads to what nobody asked for.
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::Error::other("something else took its place"));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::restic::backend::Local;
    use crate::repository::restic::crypto::Key;
    use crate::repository::restic::store::Store;

    #[test]
    fn a_folder_is_looked_at_once_by_whoever_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let backend = Arc::new(Local::new(folder.path().join("repo")));
        let store = Arc::new(Store::new(backend, Key::random().unwrap(), 2));
        let parent = Parent {
            store,
            index: Arc::default(),
            root: None,
            begun: crate::repository::restic::node::Moment::default(),
            digests: None,
        };
        let names = |looked: Looked| {
            let names: Vec<_> = looked.entries.unwrap().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["a", "b", "c"]);
            assert!(looked.before.is_none());
        };
        let early = Look::new(folder.path().to_path_buf(), Some(Id::of(b"unknown")));
        early.work(&parent);
        fs::write(folder.path().join("d"), "too late to be seen").unwrap();
        early.work(&parent);
        names(early.take(&parent));
        fs::remove_file(folder.path().join("d")).unwrap();
        let late = Look::new(folder.path().to_path_buf(), None);
        names(late.take(&parent));
        late.work(&parent);
        let missing = Look::new(folder.path().join("missing"), None);
        missing.work(&parent);
        assert!(missing.take(&parent).entries.is_err());
        std::thread::scope(|scope| {
            let both = Look::new(folder.path().to_path_buf(), None);
            let other = Arc::clone(&both);
            let parent = &parent;
            scope.spawn(move || other.work(parent));
            names(both.take(parent));
        });
    }
}
