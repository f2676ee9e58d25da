//! Writes a snapshot into an empty folder, and never anywhere else.
//!
//! Every folder is opened step by step from the target and no step follows a symbolic link, so that
//! neither the manifest nor another process can lead a write out of the target. A file is written
//! beside its place, verified, and moved there: it appears whole or not at all. Owners are not
//! restored, and therefore no set-user-id and set-group-id bits either.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, fchmod, futimens, mkdirat, openat,
    renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::{Content, Entry, Name, Part, Reader, What};
use crate::fault::Fault;
use crate::world::{self, files, signal};

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes every source of a snapshot (or one) to `target/SOURCE/…`; `seen` hears what is written.
///
/// Errors: 2 for an unknown source or a target that is not empty; 4 for damaged data, a manifest that
/// is not sane, or a target that cannot be written.
pub fn restore(
    reader: &dyn Reader,
    target: &Path,
    source: Option<&str>,
    seen: &mut dyn FnMut(&str, u64),
) -> Result<Restored, Fault> {
    let manifest = reader.manifest();
    manifest.sane()?;
    let parts: Vec<&Part> =
        manifest.sources.iter().filter(|part| source.is_none_or(|name| name == part.name)).collect();
    if parts.is_empty() {
        let known: Vec<&str> = manifest.sources.iter().map(|p| p.name.as_str()).collect();
        return Err(Fault::usage(format!("the snapshot has no source `{}`", source.unwrap_or_default()))
            .help(format!("it has {}", known.join(", "))));
    }
    let root = empty_folder(target)?;
    let mut done = Restored::default();
    for part in parts {
        let failed = |entry: &Entry, errno: Errno| {
            let path = format!("{}/{}/{}", target.display(), part.name, entry.path);
            files::unwritable(Path::new(&path), &errno.into())
        };
        let tree = Tree { root: &root, name: part.name.as_bytes() };
        tree.folder(b"").map_err(|e| files::unwritable(&target.join(&part.name), &e.into()))?;
        for entry in &part.entries {
            if signal::stop_asked() {
                return Err(Fault::infrastructure("the restore was interrupted")
                    .place(target.display().to_string())
                    .help("the files that are there are whole, others are missing; remove them and run it again"));
            }
            match &entry.what {
                What::Folder {} => drop(tree.folder(&entry.path.0).map_err(|e| failed(entry, e))?),
                What::Link { to } => tree.link(entry, to).map_err(|e| failed(entry, e))?,
                What::File(content) => {
                    seen(&format!("{}/{}", part.name, entry.path), done.bytes);
                    tree.file(reader, entry, content, &|e| failed(entry, e))?;
                    done.files += 1;
                    done.bytes += content.size;
                }
            }
        }
        // Modes and times of folders last and deepest first: a folder may be read-only, and writing into it
        // would change its time.
        let mut folders: Vec<&Entry> = part.entries.iter().filter(|e| e.what == What::Folder {}).collect();
        folders.sort_by(|a, b| b.path.cmp(&a.path));
        for entry in folders {
            tree.folder(&entry.path.0).and_then(|fd| finish(&fd, entry)).map_err(|e| failed(entry, e))?;
        }
    }
    Ok(done)
}

fn empty_folder(target: &Path) -> Result<OwnedFd, Fault> {
    let unwritable = |e: std::io::Error| files::unwritable(target, &e);
    match std::fs::read_dir(target) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(unwritable)?;
        }
        Err(e) => return Err(unwritable(e)),
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Fault::usage("the folder to restore to is not empty")
                    .place(target.display().to_string())
                    .help("a restore never overwrites: name an empty or a new folder"));
            }
        }
    }
    openat(CWD, target, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| unwritable(e.into()))
}

/// One source's folder inside the target.
struct Tree<'a> {
    root: &'a OwnedFd,
    name: &'a [u8],
}

impl Tree<'_> {
    /// Opens the folder at a path, making what is missing, without following any link.
    fn folder(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut at = step(self.root, self.name)?;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            at = step(&at, name)?;
        }
        Ok(at)
    }

    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        match path.iter().rposition(|b| *b == b'/') {
            Some(at) => Ok((self.folder(&path[..at])?, &path[at + 1..])),
            None => Ok((self.folder(b"")?, path)),
        }
    }

    fn link(&self, entry: &Entry, to: &Name) -> Result<(), Errno> {
        let (folder, name) = self.parent(&entry.path.0)?;
        symlinkat(to.0.as_slice(), &folder, name)?;
        utimensat(&folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn file(
        &self,
        reader: &dyn Reader,
        entry: &Entry,
        content: &Content,
        failed: &dyn Fn(Errno) -> Fault,
    ) -> Result<(), Fault> {
        let (folder, name) = self.parent(&entry.path.0).map_err(failed)?;
        let temporary = format!(".trapkey-{:016x}.tmp", world::unique());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&folder, temporary.as_str(), flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
        let mut file = File::from(fd);
        let written = reader.read(content, &mut file).map_err(|fault| match fault.place {
            Some(_) => fault,
            // No place: it was not the store but the target.
            None => fault.place(entry.path.to_string()),
        });
        let written = written.and_then(|()| {
            file.flush().and_then(|()| file.sync_data()).map_err(|e| failed(errno(&e)))?;
            finish(&file, entry).map_err(failed)?;
            rename_new(&folder, temporary.as_bytes(), name).map_err(failed)
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(&folder, temporary.as_str(), AtFlags::empty());
        }
        written
    }
}

/// Renames without replacing, where the file system can do that; the target began empty and no path
/// is there twice, so that nothing is lost where it cannot.
fn rename_new(folder: &OwnedFd, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(folder, from, folder, to),
        done => done,
    }
}

fn step(at: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    match mkdirat(at, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    openat(at, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn finish(fd: impl std::os::fd::AsFd, entry: &Entry) -> Result<(), Errno> {
    fchmod(&fd, Mode::from_raw_mode(entry.mode & 0o1777))?;
    futimens(&fd, &times(entry))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1.min(999_999_999)) };
    Timestamps { last_access: time, last_modification: time }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_another_process_plants_leads_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let (target, outside) = (place.path().join("target"), place.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        let root = empty_folder(&target).unwrap();
        let tree = Tree { root: &root, name: b"config" };
        tree.folder(b"etc").unwrap();
        std::os::unix::fs::symlink(&outside, target.join("config/planted")).unwrap();
        assert!(tree.folder(b"planted").is_err());
        assert!(tree.folder(b"planted/deeper").is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
