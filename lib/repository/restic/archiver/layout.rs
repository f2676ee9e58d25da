//! What a snapshot looks like from above: several sources, each at its own place, in one tree.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::fault::Fault;
use crate::repository::restic::node::{Moment, Node, NodeKind, mode};
use crate::repository::restic::quoting::quote;

/// A folder that is put together here.
#[derive(Debug)]
pub(super) struct Layout {
    /// Itself; its subtree is not known yet.
    pub(super) node: Node,
    /// What is in it, by name.
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
}

/// Something in such a folder.
#[derive(Debug)]
pub(super) enum Entry {
    /// A folder that is put together here.
    Folder(Layout),
    /// Something whole.
    Node(Node),
}

/// The steps of a place in a snapshot.
///
/// Errors (2): it is empty, or leads outside.
pub(super) fn steps(at: &Path) -> Result<Vec<Vec<u8>>, Fault> {
    let mut steps = Vec::new();
    for component in at.components() {
        match component {
            Component::Normal(name) if Node::name_is_sane(name.as_bytes()) => {
                steps.push(name.as_bytes().to_vec());
            }
            Component::RootDir | Component::CurDir => {}
            _ => return Err(wrong(at, "it leads outside")),
        }
    }
    if steps.is_empty() { Err(wrong(at, "it is empty")) } else { Ok(steps) }
}

fn wrong(at: &Path, cause: &str) -> Fault {
    Fault::usage("nothing can be put at this place of a snapshot")
        .place(at.display().to_string())
        .cause(cause)
}

impl Layout {
    /// An empty folder.
    pub(super) fn new(name: &[u8], time: Moment, uid: u32, gid: u32) -> Self {
        let node = Node {
            name: name.to_vec(),
            kind: NodeKind::Dir,
            mode: mode::from_unix(NodeKind::Dir, 0o755),
            mtime: time,
            atime: time,
            ctime: time,
            uid,
            gid,
            ..Node::default()
        };
        Self { node, entries: BTreeMap::new() }
    }

    /// Whether something is at this place, above it, or below it.
    pub(super) fn is_taken(&self, steps: &[Vec<u8>]) -> bool {
        let Some((first, rest)) = steps.split_first() else { return true };
        match self.entries.get(first) {
            None => false,
            Some(Entry::Node(_)) => true,
            Some(Entry::Folder(folder)) => folder.is_taken(rest),
        }
    }

    /// Puts something at a place; `folders` are what is above it where that is new, the outermost first.
    pub(super) fn put(&mut self, steps: &[Vec<u8>], folders: Vec<Self>, node: Node) -> Result<(), Fault> {
        let Some((first, above)) = steps.split_last() else {
            return Err(wrong(Path::new(""), "it is empty"));
        };
        let mut here = self;
        for (step, new) in above.iter().zip(folders) {
            let entry = here.entries.entry(step.clone()).or_insert_with(|| Entry::Folder(new));
            let Entry::Folder(folder) = entry else {
                return Err(wrong(Path::new(&quote(step)), "it is taken"));
            };
            here = folder;
        }
        here.entries.insert(first.clone(), Entry::Node(node));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stand_beside_each_other_and_never_in_each_other() {
        let folder = |name: &[u8]| Layout::new(name, Moment::default(), 0, 0);
        let mut root = folder(b"");
        let place = |at: &str| steps(Path::new(at)).unwrap();
        root.put(&place("/a/b"), vec![folder(b"a")], Node::default()).unwrap();
        root.put(&place("a/c"), vec![folder(b"a")], Node::default()).unwrap();
        for taken in ["a", "a/b", "a/b/c", "a/c"] {
            assert!(root.is_taken(&place(taken)), "{taken}");
        }
        assert!(!root.is_taken(&place("a/d")) && !root.is_taken(&place("b")));
        for wrong in ["", "/", "..", "a/../b"] {
            assert!(steps(Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}
