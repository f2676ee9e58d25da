//! The folder that is restored to: every step into it is taken without following a link.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, mkdirat, mknodat, openat, openat2,
    renameat, statat, symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::plan::{File, Folder, Look, Piece, Special};
use super::{How, Notes};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::node::NodeKind;
use crate::world::{self, files};

/// What is not whole yet has a name that begins so.
pub const UNFINISHED: &str = ".trapkey-unfinished-";

#[derive(Debug)]
pub(super) struct Target {
    root: OwnedFd,
    at: PathBuf,
    owners: bool,
    into_existing: bool,
    pub(super) sparse: bool,
    run: u64,
}

impl Target {
    pub(super) fn open(at: &Path, how: &How) -> Result<Self, Fault> {
        let unwritable = |e: io::Error| files::unwritable(at, &e);
        match fs::read_dir(at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(at).map_err(unwritable)?;
            }
            Err(e) => return Err(unwritable(e)),
            Ok(mut entries) => {
                if entries.next().is_some() && !how.into_existing {
                    return Err(Fault::usage("the folder to restore to is not empty")
                        .place(at.display().to_string())
                        .help("name an empty or a new folder, or say that it may hold something"));
                }
            }
        }
        let root = openat(CWD, at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| unwritable(e.into()))?;
        Ok(Self {
            root,
            at: at.to_path_buf(),
            owners: how.owners,
            into_existing: how.into_existing,
            sparse: how.sparse,
            run: world::unique(),
        })
    }

    /// The fault for something below it.
    pub(super) fn failed(&self, inside: &Path, errno: Errno) -> Fault {
        files::unwritable(&self.at.join(inside), &errno.into())
    }

    /// Opens a folder below; no step follows a link.
    pub(super) fn folder(&self, inside: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if inside.as_os_str().is_empty() {
            return rustix::io::fcntl_dupfd_cloexec(&self.root, 0);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.root, inside, flags, Mode::empty(), resolve) {
            // Old kernels and some containers do not have it.
            Err(Errno::NOSYS | Errno::PERM) => self.folder_step_by_step(inside, flags),
            opened => opened,
        }
    }

    fn folder_step_by_step(&self, inside: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut here = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for step in inside {
            here = openat(&here, step, flags, Mode::empty())?;
        }
        Ok(here)
    }

    fn parent(&self, inside: &Path) -> Result<(OwnedFd, Vec<u8>), Fault> {
        let above = inside.parent().unwrap_or(Path::new(""));
        let folder = self.folder(above).map_err(|e| self.failed(above, e))?;
        Ok((folder, inside.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default()))
    }

    /// Makes a folder, or takes the one that is there and removes what an interrupted restore left in it.
    pub(super) fn make_folder(&self, inside: &Path) -> Result<(), Fault> {
        let failed = |e| self.failed(inside, e);
        if !inside.as_os_str().is_empty() {
            let (parent, name) = self.parent(inside)?;
            match mkdirat(&parent, &name[..], Mode::RWXU) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) if self.into_existing => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        if !self.into_existing {
            return Ok(());
        }
        let folder = self.folder(inside).map_err(failed)?;
        for entry in rustix::fs::Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_bytes().starts_with(UNFINISHED.as_bytes()) {
                unlinkat(&folder, entry.file_name(), AtFlags::empty()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The name of something that is not whole yet.
    pub(super) fn unfinished(&self, number: usize) -> String {
        format!("{UNFINISHED}{:016x}-{number}", self.run)
    }

    /// Whether a file is there already, byte for byte.
    pub(super) fn has(&self, inside: &Path, file: &File, pieces: &[Piece]) -> bool {
        if !self.into_existing {
            return false;
        }
        let same = || -> io::Result<bool> {
            let above = inside.parent().unwrap_or(Path::new(""));
            let folder = self.folder(above)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut there = fs::File::from(openat(&folder, &*file.name, flags, Mode::empty())?);
            let meta = there.metadata()?;
            let time = (file.look.mtime.seconds, i64::from(file.look.mtime.nanoseconds));
            if !meta.is_file() || meta.len() != file.size || (meta.mtime(), meta.mtime_nsec()) != time {
                return Ok(false);
            }
            let wanted = (self.mode(&file.look).bits(), file.look.uid, file.look.gid);
            let owner_differs = self.owners && (meta.uid(), meta.gid()) != (wanted.1, wanted.2);
            if meta.mode() & 0o7777 != wanted.0 || owner_differs {
                return Ok(false);
            }
            let mut bytes = Vec::new();
            for piece in pieces {
                bytes.resize(piece.blob.plain_length() as usize, 0);
                there.read_exact(&mut bytes)?;
                if Id::of(&bytes) != piece.blob.id {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        // Whatever goes wrong here: it is restored.
        same().unwrap_or(false)
    }

    /// Creates what is going to be a file.
    pub(super) fn create(folder: BorrowedFd<'_>, unfinished: &str) -> rustix::io::Result<fs::File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(folder, unfinished, flags, Mode::RUSR | Mode::WUSR).map(Into::into)
    }

    /// Opens it again.
    pub(super) fn reopen(folder: BorrowedFd<'_>, unfinished: &str) -> rustix::io::Result<fs::File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(folder, unfinished, flags, Mode::empty()).map(Into::into)
    }

    /// Gives a whole file its look and its name.
    pub(super) fn finish_file(
        &self,
        folder: BorrowedFd<'_>,
        opened: &fs::File,
        unfinished: &str,
        file: &File,
        notes: (&Notes, &Path),
    ) -> rustix::io::Result<()> {
        self.dress(opened.as_fd(), &file.look, notes)?;
        renameat(folder, unfinished, folder, &*file.name)
    }

    /// Gives a folder its look.
    pub(super) fn finish_folder(&self, folder: &Folder, notes: &Notes) -> Result<(), Fault> {
        let failed = |e| self.failed(&folder.path, e);
        let opened = self.folder(&folder.path).map_err(failed)?;
        self.dress(opened.as_fd(), &folder.look, (notes, &folder.path)).map_err(failed)
    }

    fn dress(
        &self,
        opened: BorrowedFd<'_>,
        look: &Look,
        (notes, path): (&Notes, &Path),
    ) -> rustix::io::Result<()> {
        // The owner first, for that clears other things.
        if self.owners {
            fchown(opened, Some(Uid::from_raw(look.uid)), Some(Gid::from_raw(look.gid)))?;
        }
        for attribute in &*look.attributes {
            if let Err(errno) = fsetxattr(opened, &*attribute.name, &attribute.value, XattrFlags::empty()) {
                notes.warn(path, &format!("extended attribute `{}`", attribute.name), &errno);
            }
        }
        fchmod(opened, self.mode(look))?;
        futimens(opened, &times(look))
    }

    fn mode(&self, look: &Look) -> Mode {
        // Whoever restores without owners does not get programs that run as somebody else.
        Mode::from_raw_mode(if self.owners { look.bits } else { look.bits & 0o1777 })
    }

    /// Makes a link, a pipe or a device, with its look.
    pub(super) fn special(&self, inside: &Path, special: &Special, notes: &Notes) -> Result<(), Fault> {
        let path = inside.join(OsStr::from_bytes(&special.name));
        let failed = |e| self.failed(&path, e);
        let folder = self.folder(inside).map_err(failed)?;
        let unfinished = self.unfinished(usize::MAX);
        Self::make_special(&folder, &unfinished, special)
            .and_then(|()| self.dress_special(&folder, &unfinished, special, (notes, &path)))
            .and_then(|()| renameat(&folder, &*unfinished, &folder, &*special.name))
            .map_err(failed)
    }

    fn make_special(folder: &OwnedFd, name: &str, special: &Special) -> rustix::io::Result<()> {
        let kind = match special.kind {
            NodeKind::Symlink => return symlinkat(&*special.linktarget, folder, name),
            NodeKind::Fifo => FileType::Fifo,
            NodeKind::Device => FileType::BlockDevice,
            _ => FileType::CharacterDevice,
        };
        mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, special.device)
    }

    fn dress_special(
        &self,
        folder: &OwnedFd,
        name: &str,
        special: &Special,
        (notes, path): (&Notes, &Path),
    ) -> rustix::io::Result<()> {
        let look = &special.look;
        if self.owners {
            let owner = (Some(Uid::from_raw(look.uid)), Some(Gid::from_raw(look.gid)));
            chownat(folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        for attribute in &*look.attributes {
            // By the opened folder, and the last step is not followed.
            let place = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
            if let Err(errno) = lsetxattr(place, &*attribute.name, &attribute.value, XattrFlags::empty()) {
                notes.warn(path, &format!("extended attribute `{}`", attribute.name), &errno);
            }
        }
        if special.kind != NodeKind::Symlink {
            // It was made a moment ago under a name of ours, and is no link.
            chmodat(folder, name, self.mode(look), AtFlags::empty())?;
        }
        utimensat(folder, name, &times(look), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Gives a file another name.
    pub(super) fn hard_link(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        let failed = |e| self.failed(to, e);
        let ((from, from_name), (folder, name)) = (self.parent(from)?, self.parent(to)?);
        let unfinished = self.unfinished(usize::MAX);
        linkat(&from, &from_name[..], &folder, &*unfinished, AtFlags::empty()).map_err(failed)?;
        renameat(&folder, &*unfinished, &folder, &name[..]).map_err(failed)?;
        // Where both were the same file already, a rename does nothing and leaves the other name.
        match unlinkat(&folder, &*unfinished, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let there = statat(&folder, &name[..], AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if there.st_nlink < 2 { Err(failed(Errno::MLINK)) } else { Ok(()) }
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        syncfs(&self.root).map_err(|e| self.failed(Path::new(""), e))
    }
}

fn times(look: &Look) -> Timestamps {
    let time = Timespec { tv_sec: look.mtime.seconds, tv_nsec: i64::from(look.mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}
