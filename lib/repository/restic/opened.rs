//! An opened snapshot: what is in it, and single files out of it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backend::{self, Kind, Name};
use super::id::Id;
use super::index::Index;
use super::locks::Held;
use super::manifest;
use super::node::{Node, NodeKind};
use super::pack::BlobKind;
use super::snapshot::Snapshot;
use super::store::{Scratch, Store};
use super::tree::{self, MAX_DEPTH};
use crate::fault::Fault;

/// A snapshot that is read. The repository is locked (shared) until it is dropped, unless it was
/// opened without locks.
#[derive(Debug)]
pub struct Opened {
    pub(super) store: Arc<Store>,
    pub(super) index: Arc<Index>,
    pub(super) id: Id,
    pub(super) snapshot: Snapshot,
    /// Held for its sake alone.
    pub(super) _held: Option<Held>,
}

impl Opened {
    /// Its id.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What it says of itself.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Shows everything in it, each folder before what is in it; `see` says whether to go into a folder.
    ///
    /// Errors (4): a folder is missing or damaged; what `see` says.
    pub fn walk(&self, see: &mut dyn FnMut(&Path, &Node) -> Result<bool, Fault>) -> Result<(), Fault> {
        walk(&self.store, &self.index, self.snapshot.tree, see)
    }

    /// What is at a path; none when nothing is.
    ///
    /// Errors (4): a folder above it is missing or damaged.
    pub fn find(&self, path: &Path) -> Result<Option<Node>, Fault> {
        self.reading().find(path)
    }

    /// Writes the bytes of one file, each piece verified before it is handed over.
    ///
    /// Errors: 2 when there is no such file; 4 when a piece is missing or damaged, or `out` refuses.
    pub fn dump(&self, path: &Path, out: &mut dyn Write) -> Result<u64, Fault> {
        self.reading().dump(path, out)
    }

    /// The SHA-256 of every file by its path, as a file of the snapshot says that `sha256sum` wrote;
    /// none when there is no such file.
    ///
    /// Errors (4): it is missing a piece, or damaged.
    pub fn sums(&self, path: &Path) -> Result<Option<HashMap<Vec<u8>, Id>>, Fault> {
        if self.find(path)?.is_none_or(|node| node.kind != NodeKind::File) {
            return Ok(None);
        }
        let mut text = Vec::new();
        self.dump(path, &mut text)?;
        Ok(Some(manifest::parse(&text)))
    }

    /// The entries of one folder of it, by the id of its tree.
    ///
    /// Errors (4): it is missing or damaged.
    pub fn entries(&self, tree: Id) -> Result<Vec<Node>, Fault> {
        entries(&self.store, &self.index, tree, &mut Scratch::default())
    }

    fn reading(&self) -> Reading<'_> {
        Reading { store: &self.store, index: &self.index, tree: self.snapshot.tree }
    }
}

/// A tree, and all that it takes to read it.
pub(super) struct Reading<'a> {
    pub(super) store: &'a Store,
    pub(super) index: &'a Index,
    pub(super) tree: Id,
}

impl Reading<'_> {
    fn find(&self, path: &Path) -> Result<Option<Node>, Fault> {
        let mut tree = Some(self.tree);
        let mut found = None;
        for step in path.strip_prefix("/").unwrap_or(path) {
            let Some(id) = tree else { return Ok(None) };
            let nodes = entries(self.store, self.index, id, &mut Scratch::default())?;
            let Some(node) = nodes.into_iter().find(|node| node.name == step.as_bytes()) else {
                return Ok(None);
            };
            tree = node.subtree;
            found = Some(node);
        }
        Ok(found)
    }

    pub(super) fn dump(&self, path: &Path, out: &mut dyn Write) -> Result<u64, Fault> {
        let shown = || path.display().to_string();
        let node = self
            .find(path)?
            .filter(|node| node.kind == NodeKind::File)
            .ok_or_else(|| Fault::usage("the snapshot has no such file").place(shown()))?;
        let mut scratch = Scratch::default();
        let mut size = 0;
        for id in node.content.iter().flatten() {
            self.store.blob(self.index, BlobKind::Data, id, &mut scratch).map_err(|fault| {
                let cause = fault.cause.clone().unwrap_or_default();
                fault.cause(format!("{cause} (for {})", shown()))
            })?;
            size += scratch.plain.len() as u64;
            out.write_all(&scratch.plain).map_err(|e| {
                Fault::infrastructure("the bytes of a file cannot be written").place(shown()).cause(e)
            })?;
        }
        Ok(size)
    }
}

/// The entries of one folder.
pub(super) fn entries(
    store: &Store,
    index: &Index,
    tree: Id,
    scratch: &mut Scratch,
) -> Result<Vec<Node>, Fault> {
    store.blob(index, BlobKind::Tree, &tree, scratch)?;
    tree::parse(&scratch.plain).map_err(|why| {
        let place =
            index.find(BlobKind::Tree, &tree).map_or(Name::Config, |p| Name::File(Kind::Pack, p.pack));
        backend::damaged(&*store.backend, place, format!("the tree blob {tree}: {why}"))
    })
}

/// Shows everything below a tree.
///
/// Folders that contain themselves cannot be made, since they are named by their SHA-256; the depth is
/// limited all the same.
pub(super) fn walk(
    store: &Store,
    index: &Index,
    tree: Id,
    see: &mut dyn FnMut(&Path, &Node) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut scratch = Scratch::default();
    let first = entries(store, index, tree, &mut scratch)?;
    let mut stack = vec![(PathBuf::new(), first.into_iter())];
    while let Some((folder, nodes)) = stack.last_mut() {
        let Some(node) = nodes.next() else {
            stack.pop();
            continue;
        };
        let path = folder.join(OsStr::from_bytes(&node.name));
        let deeper = see(&path, &node)?;
        if node.kind != NodeKind::Dir || !deeper {
            continue;
        }
        let Some(tree) = node.subtree else {
            return Err(Fault::infrastructure("a folder of a snapshot says nothing of its content")
                .place(path.display().to_string()));
        };
        if stack.len() >= MAX_DEPTH {
            return Err(Fault::infrastructure("folders of a snapshot lie too deep in each other")
                .place(path.display().to_string()));
        }
        let below = entries(store, index, tree, &mut scratch)
            .map_err(|fault| fault.help(format!("this is the folder `{}`", path.display())))?;
        stack.push((path, below.into_iter()));
    }
    Ok(())
}

/// Hears a tree's id and its entries, or why it cannot be read.
type SeeTree<'a> = &'a mut dyn FnMut(Id, Result<&[Node], Fault>) -> Result<(), Fault>;

/// Shows every folder's entries below some trees, each tree once however often it is used.
pub(super) fn each_tree(
    store: &Store,
    index: &Index,
    roots: impl IntoIterator<Item = Id>,
    see: SeeTree<'_>,
) -> Result<(), Fault> {
    let mut scratch = Scratch::default();
    let mut waiting: Vec<Id> = roots.into_iter().collect();
    let mut seen: HashSet<Id> = HashSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        match entries(store, index, id, &mut scratch) {
            Ok(nodes) => {
                waiting.extend(nodes.iter().filter_map(|node| node.subtree).filter(|id| !seen.contains(id)));
                see(id, Ok(&nodes))?;
            }
            Err(fault) => see(id, Err(fault))?,
        }
    }
    Ok(())
}
