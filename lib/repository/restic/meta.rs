//! What the file system knows of an entry, as a node.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use super::node::{Attribute, Moment, Node, NodeKind, mode};
use super::people::People;

/// What an entry is; none for what this system does not tell.
pub(super) fn kind_of(meta: &Metadata) -> Option<NodeKind> {
    let kind = meta.file_type();
    Some(match () {
        () if kind.is_file() => NodeKind::File,
        () if kind.is_dir() => NodeKind::Dir,
        () if kind.is_symlink() => NodeKind::Symlink,
        () if kind.is_block_device() => NodeKind::Device,
        () if kind.is_char_device() => NodeKind::CharDevice,
        () if kind.is_fifo() => NodeKind::Fifo,
        () if kind.is_socket() => NodeKind::Socket,
        () => return None,
    })
}

/// Everything but content, link target and attributes.
pub(super) fn node_of(name: &[u8], kind: NodeKind, meta: &Metadata, people: &People) -> Node {
    let moment = |seconds, nanoseconds: i64| Moment {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
    };
    let mtime = moment(meta.mtime(), meta.mtime_nsec());
    let is_device = matches!(kind, NodeKind::Device | NodeKind::CharDevice);
    Node {
        name: name.to_vec(),
        kind,
        mode: mode::from_unix(kind, meta.mode() & 0o7777),
        mtime,
        atime: mtime,
        ctime: moment(meta.ctime(), meta.ctime_nsec()),
        uid: meta.uid(),
        gid: meta.gid(),
        user: people.user(meta.uid()).to_owned(),
        group: people.group(meta.gid()).to_owned(),
        inode: meta.ino(),
        device_id: meta.dev(),
        size: if kind == NodeKind::File { meta.len() } else { 0 },
        links: match kind {
            NodeKind::Dir | NodeKind::Fifo | NodeKind::Socket => 0,
            _ => meta.nlink(),
        },
        device: if is_device { meta.rdev() } else { 0 },
        ..Node::default()
    }
}

/// The extended attributes of an entry itself, sorted by name; none where the file system has none.
pub(super) fn attributes_of(path: &Path) -> io::Result<Vec<Attribute>> {
    let names = match grow(|buffer| llistxattr(path, buffer)) {
        Err(Errno::NOTSUP | Errno::PERM) => return Ok(Vec::new()),
        names => names?,
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // A name that is no text cannot be said in JSON; restic fails on it too.
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(io::Error::other("it has an extended attribute whose name is no text"));
        };
        match grow(|buffer| lgetxattr(path, name, buffer)) {
            // Removed meanwhile, or a kind that only the system reads.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            value => attributes.push(Attribute { name: name.to_owned(), value: value? }),
        }
    }
    attributes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(attributes)
}

/// Asks with more room until the answer fits; attributes are 64 KiB at most.
fn grow(ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut room = vec![0; 256];
    loop {
        match ask(&mut room) {
            Err(Errno::RANGE) if room.len() < 1 << 20 => room.resize(room.len() * 16, 0),
            Err(errno) => return Err(errno),
            Ok(length) => {
                room.truncate(length);
                return Ok(room);
            }
        }
    }
}
