//! Puts the trees of a snapshot together, in the order of the walk.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use super::crew::{Content, Crew};
use super::walk::{Entered, Event};
use super::{Notes, Spec, cannot_read};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::node::Node;
use crate::repository::restic::pack::BlobKind;
use crate::repository::restic::packer::{Packer, lock};
use crate::repository::restic::store::Scratch;
use crate::repository::restic::tree;

/// Puts the trees together, in the order of the walk.
pub(super) struct Builder<'a, 'c> {
    pub(super) crew: &'a Crew<'c>,
    pub(super) packer: &'a Packer,
    pub(super) spec: &'a Spec,
    pub(super) notes: &'a Mutex<Notes>,
    pub(super) scratch: Scratch,
    pub(super) stack: Vec<(Entered, Vec<Node>)>,
    pub(super) top: Option<Node>,
    /// New, changed, the same.
    pub(super) folders: [u64; 3],
    pub(super) digests: Vec<(Vec<u8>, Id)>,
    /// Files, and their bytes; a file with several names counts under each.
    pub(super) kept: (u64, u64),
}

impl Builder<'_, '_> {
    pub(super) fn build(&mut self, events: Receiver<Event>) -> Result<(), Fault> {
        for event in events {
            match event {
                Event::Enter(entered) => self.stack.push((*entered, Vec::new())),
                Event::Leave => self.leave()?,
                Event::Leaf(node) => self.add(node),
                Event::Same(node, content, path) => self.keep(node, content, &path),
                Event::File(node, job, path) => match job.wait(self.crew) {
                    // The crew knows why.
                    None => return Ok(()),
                    Some(Ok(content)) => self.file(node, content, &path)?,
                    Some(Err(error)) => self.unreadable(path, &error)?,
                },
                Event::Unreadable(path, error) => self.unreadable(path, &error)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, node: Node) {
        match self.stack.last_mut() {
            Some((_, nodes)) => nodes.push(node),
            None => self.top = Some(node),
        }
    }

    fn leave(&mut self) -> Result<(), Fault> {
        let Some((Entered { mut node, before, if_used }, nodes)) = self.stack.pop() else { return Ok(()) };
        if if_used && nodes.is_empty() {
            return Ok(());
        }
        let id = self.packer.save(BlobKind::Tree, &tree::to_json(&nodes), &mut self.scratch)?;
        node.subtree = Some(id);
        let fate = before.map_or(0, |before| if before == id { 2 } else { 1 });
        self.folders[fate] += 1;
        self.add(node);
        Ok(())
    }

    fn file(&mut self, node: Node, content: Content, path: &Path) -> Result<(), Fault> {
        if content.changed {
            if !self.spec.allow_changes {
                return Err(Fault::infrastructure("a file changed while it was backed up")
                    .place(path.display().to_string())
                    .help("stop what writes to it, or back it up with a tool that gives a whole copy"));
            }
            lock(self.notes).changed.push(path.to_path_buf());
        }
        self.keep(node, content, path);
        Ok(())
    }

    fn keep(&mut self, mut node: Node, content: Content, path: &Path) {
        if let Some(sha256) = content.sha256.filter(|_| self.spec.manifest.is_some()) {
            self.digests.push((path.as_os_str().as_bytes().to_vec(), sha256));
        }
        self.kept.0 += 1;
        self.kept.1 += content.size;
        node.size = content.size;
        node.content = Some(content.pieces);
        self.add(node);
    }

    fn unreadable(&mut self, path: PathBuf, error: &io::Error) -> Result<(), Fault> {
        if !self.spec.allow_partial {
            return Err(cannot_read(&path, error));
        }
        lock(self.notes).unreadable.push((path, error.to_string()));
        Ok(())
    }
}
