//! The snapshot before: what did not change since is not read again.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::crew::Content;
use crate::repository::restic::id::Id;
use crate::repository::restic::index::Index;
use crate::repository::restic::node::{Moment, Node, NodeKind};
use crate::repository::restic::pack::BlobKind;
use crate::repository::restic::store::{Scratch, Store};
use crate::repository::restic::tree;

/// File systems whose times have parts of seconds, tell changes apart that lie this far from each other.
const FINE: i128 = 20_000_000;
/// The same for those that have none, in nanoseconds.
const COARSE: i128 = 2_000_000_000;

/// A snapshot that is compared with, or none.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) store: Arc<Store>,
    pub(super) index: Arc<Index>,
    /// Its tree.
    pub(super) root: Option<Id>,
    /// When it was begun.
    pub(super) begun: Moment,
    /// SHA-256 of whole files by their path, from the manifest in it; none when no manifest is wanted.
    pub(super) digests: Option<HashMap<Vec<u8>, Id>>,
}

impl Parent {
    /// The entries of a folder, sorted; none when it cannot be read.
    pub(super) fn entries(&self, tree: Id) -> Option<Vec<Node>> {
        let mut scratch = Scratch::default();
        self.store.blob(&self.index, BlobKind::Tree, &tree, &mut scratch).ok()?;
        let mut nodes = tree::parse(&scratch.plain).ok()?;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Some(nodes)
    }

    /// What it has at a place.
    pub(super) fn at(&self, steps: &[Vec<u8>]) -> Option<Node> {
        let mut tree = self.root;
        let mut found = None;
        for step in steps {
            let entries = self.entries(tree?)?;
            let node = entries.into_iter().find(|node| node.name == *step)?;
            tree = node.subtree;
            found = Some(node);
        }
        found
    }

    /// Whether a later change of what it has would show in its times: what was changed while it was made
    /// may have changed once more within the same tick of the file system's clock.
    pub(super) fn is_settled(&self, before: &Node) -> bool {
        let at = |moment: Moment| i128::from(moment.seconds) * 1_000_000_000 + i128::from(moment.nanoseconds);
        let tick = if before.ctime.nanoseconds == 0 { COARSE } else { FINE };
        at(before.ctime) + tick < at(self.begun)
    }

    /// The content of a file, when it is the same as before and all of it is in the repository.
    pub(super) fn content(&self, now: &Node, before: &Node, path: &Path) -> Option<Content> {
        let same = before.kind == NodeKind::File
            && self.is_settled(before)
            && (now.size, now.mtime, now.ctime, now.inode)
                == (before.size, before.mtime, before.ctime, before.inode);
        let pieces = before.content.as_ref().filter(|_| same)?;
        if !self.index.has_all(BlobKind::Data, pieces) {
            return None;
        }
        let sha256 = match (&self.digests, pieces.as_slice()) {
            (None, _) => None,
            (Some(_), []) => Some(Id::of(b"")),
            (Some(_), [one]) => Some(*one),
            // Not in the manifest: it is read again, for its SHA-256 has to be known.
            (Some(digests), _) => Some(*digests.get(path.as_os_str().as_bytes())?),
        };
        Some(Content { pieces: pieces.clone(), size: now.size, sha256, changed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::restic::backend::Local;
    use crate::repository::restic::crypto::Key;

    #[test]
    fn what_changed_in_the_same_tick_as_it_was_read_is_read_again() {
        let store = Store::new(Arc::new(Local::new("nowhere")), Key::random().unwrap(), 2);
        let (store, index) = (Arc::new(store), Arc::default());
        let begun = Moment { seconds: 100, nanoseconds: 500_000_000 };
        let parent = Parent { store, index, root: None, begun, digests: None };
        for (seconds, nanoseconds, same) in [
            (98, 0, true),
            (99, 0, false),
            (100, 0, false),
            (100, 400_000_000, true),
            (100, 490_000_000, false),
            (100, 500_000_001, false),
            (200, 1, false),
        ] {
            let ctime = Moment { seconds, nanoseconds };
            let node = Node { kind: NodeKind::File, content: Some(Vec::new()), ctime, ..Node::default() };
            let content = parent.content(&node, &node, Path::new("f"));
            assert_eq!(content.is_some(), same, "{seconds}.{nanoseconds}");
        }
    }
}
