//! What a restore is going to do, before it does anything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{How, Inodes, Target};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::node::{Attribute, Moment, Node, NodeKind, mode};
use crate::repository::restic::opened::{self, Opened};
use crate::repository::restic::pack::{Blob, BlobKind};
use crate::world::signal;

/// What is set on whatever is restored.
#[derive(Debug)]
pub(super) struct Look {
    /// The twelve lower bits of `st_mode`.
    pub(super) bits: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Moment,
    pub(super) attributes: Box<[Attribute]>,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) look: Look,
    /// Whether the snapshot says how it looks; the target itself keeps its look.
    pub(super) known: bool,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) folder: usize,
    pub(super) name: Box<[u8]>,
    pub(super) size: u64,
    pub(super) look: Look,
    /// How many pieces are to be written; the most that there can be for a file that is kept.
    pub(super) pieces: u32,
}

/// A link, a pipe or a device.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) folder: usize,
    pub(super) name: Box<[u8]>,
    pub(super) kind: NodeKind,
    pub(super) look: Look,
    pub(super) linktarget: Vec<u8>,
    pub(super) device: u64,
}

/// One piece and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) pack: Id,
    pub(super) blob: Blob,
    pub(super) file: u32,
    pub(super) offset: u64,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Each before what is in it; the first is the target.
    pub(super) folders: Vec<Folder>,
    pub(super) files: Vec<File>,
    /// Sorted by pack and offset in it.
    pub(super) pieces: Vec<Piece>,
    /// Further names of files.
    pub(super) links: Vec<(usize, File)>,
    pub(super) specials: Vec<Special>,
    pub(super) kept: u64,
    pub(super) kept_bytes: u64,
    pub(super) devices_left_out: u64,
}

impl Plan {
    pub(super) fn make(opened: &Opened, target: &Target, how: &How) -> Result<Self, Fault> {
        let mut plan = Self::default();
        let mut start = start(opened, how)?;
        let mut nothing = Node::default();
        let (known, top) = match &mut start {
            Start::Folder(_, Some(node)) if how.look => (true, &mut **node),
            _ => (false, &mut nothing),
        };
        plan.folders.push(Folder { path: PathBuf::new(), look: look(top), known });
        let mut inodes = Inodes::new();
        let mut above: Vec<usize> = vec![0];
        if let Start::File(node) = start {
            plan.file(opened, target, 0, *node, &mut inodes)?;
        } else if let Start::Folder(tree, _) = start {
            opened::walk(&opened.store, &opened.index, tree, &mut |path, node| {
                if signal::stop_asked() {
                    return Err(interrupted());
                }
                above.truncate(path.components().count());
                let folder = above.last().copied().unwrap_or_default();
                plan.entry(opened, target, how, folder, path, node.clone(), &mut inodes)?;
                if node.kind == NodeKind::Dir {
                    above.push(plan.folders.len() - 1);
                }
                Ok(true)
            })?;
        }
        plan.pieces.sort_by_key(|piece| (piece.pack, piece.blob.offset, piece.blob.id));
        Ok(plan)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of the walk; it has no life of its own")]
    fn entry(
        &mut self,
        opened: &Opened,
        target: &Target,
        how: &How,
        folder: usize,
        path: &Path,
        mut node: Node,
        inodes: &mut Inodes,
    ) -> Result<(), Fault> {
        match node.kind {
            NodeKind::Dir => {
                self.folders.push(Folder { path: path.to_path_buf(), look: look(&mut node), known: true });
            }
            NodeKind::File => self.file(opened, target, folder, node, inodes)?,
            NodeKind::Device | NodeKind::CharDevice if !how.devices => self.devices_left_out += 1,
            NodeKind::Socket => {}
            _ => self.specials.push(Special {
                folder,
                kind: node.kind,
                look: look(&mut node),
                device: node.device,
                linktarget: std::mem::take(&mut node.linktarget),
                name: node.name.into_boxed_slice(),
            }),
        }
        Ok(())
    }

    fn file(
        &mut self,
        opened: &Opened,
        target: &Target,
        folder: usize,
        mut node: Node,
        inodes: &mut Inodes,
    ) -> Result<(), Fault> {
        let content = node.content.take().unwrap_or_default();
        let file = File {
            folder,
            size: 0,
            pieces: u32::try_from(content.len()).unwrap_or(u32::MAX),
            look: look(&mut node),
            name: std::mem::take(&mut node.name).into_boxed_slice(),
        };
        let at = self.files.len();
        if node.links > 1 && node.inode != 0 {
            let all: Vec<u8> = content.iter().flat_map(|id| id.0).collect();
            // With the content: numbers alone may come from two machines.
            let inode = (node.device_id, node.inode, Id::of(&all));
            if let Some(first) = inodes.get(&inode) {
                self.links.push((*first, file));
                return Ok(());
            }
            inodes.insert(inode, at);
        }
        self.pieces(opened, target, file, &content)
    }

    /// Finds the pieces of a file, unless it is there already.
    fn pieces(
        &mut self,
        opened: &Opened,
        target: &Target,
        mut file: File,
        content: &[Id],
    ) -> Result<(), Fault> {
        let at = self.files.len();
        let number = u32::try_from(at).map_err(|e| Fault::infrastructure("too many files").cause(e))?;
        let first = self.pieces.len();
        for id in content {
            let place = opened.index.find(BlobKind::Data, id).ok_or_else(|| {
                opened.store.unknown(BlobKind::Data, id).place(self.path(&file).display().to_string())
            })?;
            self.pieces.push(Piece { pack: place.pack, blob: place.blob, file: number, offset: file.size });
            file.size += u64::from(place.blob.plain_length());
        }
        if target.has(&self.path(&file), &file, &self.pieces[first..]) {
            self.pieces.truncate(first);
            file.pieces = u32::MAX;
            self.kept += 1;
            self.kept_bytes += file.size;
        }
        self.files.push(file);
        Ok(())
    }

    /// Where a file goes, below the target.
    pub(super) fn path(&self, file: &File) -> PathBuf {
        self.folders[file.folder].path.join(OsStr::from_bytes(&file.name))
    }
}

enum Start {
    File(Box<Node>),
    Folder(Id, Option<Box<Node>>),
}

fn start(opened: &Opened, how: &How) -> Result<Start, Fault> {
    let Some(from) = &how.from else { return Ok(Start::Folder(opened.snapshot.tree, None)) };
    let nothing = || {
        Fault::usage(format!("the snapshot {} has no such file or folder", opened.id.short()))
            .place(from.display().to_string())
    };
    let node = opened.find(from)?.ok_or_else(nothing)?;
    match (node.kind, node.subtree) {
        (NodeKind::File, _) => Ok(Start::File(Box::new(node))),
        (NodeKind::Dir, Some(tree)) => Ok(Start::Folder(tree, Some(Box::new(node)))),
        _ => Err(nothing()),
    }
}

fn look(node: &mut Node) -> Look {
    Look {
        bits: mode::to_unix(node.mode),
        uid: node.uid,
        gid: node.gid,
        mtime: node.mtime,
        attributes: std::mem::take(&mut node.attributes).into_boxed_slice(),
    }
}

pub(super) fn interrupted() -> Fault {
    Fault::infrastructure("the restore was interrupted")
        .help("the files that are there are whole; run it again into the same folder to go on")
}
