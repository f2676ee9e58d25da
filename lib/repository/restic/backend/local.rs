//! A repository in a local folder, laid out as restic does it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{Advice, AtFlags, CWD, RenameFlags, fadvise, linkat, renameat_with};
use rustix::io::Errno;

use super::{Backend, Kind, Name};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::world::{self, files};

/// What stands in the name of a file that is not whole yet; restic's has it too.
const TEMPORARY: &str = "-tmp-";

/// Whether a file of this name is one of a store that was not written to its end: its writer was killed.
pub fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    let whole = name.to_str().and_then(|name| name.split_once(TEMPORARY));
    whole.is_some_and(|(name, _)| name == "config" || Id::parse(name).is_some())
}

/// A local folder.
///
/// Folders are made with mode 0700 and files with 0400, as restic makes them. A file is written beside
/// its place under another name, synced, moved there, and the folder synced.
#[derive(Debug)]
pub struct Local {
    at: PathBuf,
    /// Folders below `data` that are known to be there.
    made: Mutex<BTreeSet<PathBuf>>,
}

impl Local {
    /// The folder need not be there yet.
    pub fn new(at: impl Into<PathBuf>) -> Self {
        Self { at: at.into(), made: Mutex::default() }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.at.join(name.to_string())
    }

    /// Makes sure that the folder is there, and that it stays.
    fn make(&self, folder: &Path) -> io::Result<()> {
        // A poisoned lock only means that another thread failed; the set is whole.
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if made.contains(folder) {
            return Ok(());
        }
        if !folder.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            files::sync_folder(&files::parent(folder))?;
        }
        made.insert(folder.to_path_buf());
        Ok(())
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let folder = files::parent(path);
        self.make(&folder)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // restic and we pass over names that are not 64 hexadecimal digits.
        let temporary = folder.join(format!("{name}{TEMPORARY}{:016x}", world::unique()));
        let written = (|| {
            let mut file = crate::bounds::fresh(&temporary, 0o400)?;
            for part in parts {
                file.write_all(part)?;
            }
            file.sync_all()?;
            drop(file);
            match renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE) {
                // Somebody wrote it at the same moment: theirs stays.
                Err(Errno::EXIST) => fs::remove_file(&temporary)?,
                // Some file systems cannot do that.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => move_by_link(&temporary, path)?,
                moved => moved?,
            }
            files::sync_folder(&folder)
        })();
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn list_folder(folder: &Path, found: &mut Vec<(Id, u64)>) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(Id::parse) else { continue };
            match entry.metadata() {
                Ok(meta) if meta.is_file() => found.push((id, meta.len())),
                // Removed between the listing and the look.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

impl Backend for Local {
    fn place(&self) -> String {
        self.at.display().to_string()
    }

    fn prepare(&self) -> Result<(), Fault> {
        let made = (|| {
            self.make(&self.at)?;
            for kind in Kind::ALL {
                self.make(&self.at.join(kind.folder()))?;
            }
            Ok(())
        })();
        made.map_err(|e: io::Error| files::unwritable(&self.at, &e))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        let folder = self.at.join(kind.folder());
        let mut found = Vec::new();
        let listed = (|| {
            if kind != Kind::Pack {
                return Self::list_folder(&folder, &mut found);
            }
            for first in 0..=255 {
                let start = found.len();
                Self::list_folder(&folder.join(format!("{first:02x}")), &mut found)?;
                // In a folder where nobody looks for it.
                let mut at = start;
                while at < found.len() {
                    if found[at].0.0[0] == first {
                        at += 1;
                    } else {
                        found.swap_remove(at);
                    }
                }
            }
            Ok(())
        })();
        listed.map_err(|e: io::Error| unreadable(&folder, &e))?;
        Ok(found)
    }

    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Ok(meta) => crate::bounds::regular(&meta)
                .map(|()| Some(meta.len()))
                .map_err(|not| unreadable(&path, &not)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(unreadable(&path, &e)),
        }
    }

    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        let path = self.path(name);
        let failed = |e: io::Error| unreadable(&path, &e);
        let file = crate::bounds::open(&path).map_err(failed)?;
        let there = file.metadata().map_err(failed)?.len();
        if offset.checked_add(length as u64).is_none_or(|end| end > there) {
            into.clear();
            let short = format!("it has {there} bytes where {length} were expected from {offset} on");
            return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, short)));
        }
        into.resize(length, 0);
        file.read_exact_at(into, offset).map_err(failed)
    }

    fn afresh(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        // The system drops what it has of the file in memory, and has to ask the disk. Where it cannot, in
        // memory is where the file lies.
        if let Ok(file) = crate::bounds::open(&self.path(name)) {
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        self.whole(name, most)
    }

    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        let path = self.path(name);
        if path.exists() {
            return Ok(());
        }
        self.write(&path, parts).map_err(|e| files::unwritable(&path, &e))
    }

    fn sweep(&self) -> Result<(), Fault> {
        let mut folders: Vec<PathBuf> = Kind::ALL.iter().map(|kind| self.at.join(kind.folder())).collect();
        folders.push(self.at.clone());
        folders.extend((0..=255).map(|first| self.at.join(format!("data/{first:02x}"))));
        for folder in folders {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if is_unfinished(&name) {
                    fs::remove_file(entry.path()).map_err(|e| files::unwritable(&entry.path(), &e))?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self, name: Name) -> Result<(), Fault> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(files::unwritable(&path, &e)),
            Ok(()) => files::sync_folder(&files::parent(&path)).map_err(|e| files::unwritable(&path, &e)),
        }
    }
}

/// Moves a file to a name that is free, by a second link to it; a file that has the name keeps it.
fn move_by_link(temporary: &Path, path: &Path) -> io::Result<()> {
    match linkat(CWD, temporary, CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::EXIST) => fs::remove_file(temporary),
        // It knows no such links either. Whatever has this name has this content, but for `config`.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => fs::rename(temporary, path),
        Err(e) => Err(e.into()),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            "another program may have removed it meanwhile; otherwise `check` says what is lost"
        }
        io::ErrorKind::PermissionDenied => "give the job's user the right to read it",
        _ => "look at the disk",
    };
    Fault::infrastructure("the repository cannot be read")
        .place(path.display().to_string())
        .cause(error)
        .help(help)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_whole_private_and_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path().join("deep/repo"));
        store.prepare().unwrap();
        let name = Name::File(Kind::Pack, Id::of(b"x"));
        assert_eq!(store.length(name).unwrap(), None);
        store.put(name, &[b"ab", b"cd"]).unwrap();
        store.put(name, &[b"other"]).unwrap();
        let mut bytes = vec![1; 9];
        store.read(name, 1, 2, &mut bytes).unwrap();
        assert_eq!(bytes, b"bc");
        let past = store.read(name, 3, 2, &mut bytes).unwrap_err();
        assert!(past.cause.unwrap().contains("it has 4 bytes"));
        assert!(store.read(name, u64::MAX, 2, &mut bytes).is_err());
        assert_eq!(store.list(Kind::Pack).unwrap(), [(Id::of(b"x"), 4)]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path(name)), 0o400);
        assert_eq!(mode(&store.at.join("data")), 0o700);
        store.remove(name).unwrap();
        store.remove(name).unwrap();
        assert!(store.list(Kind::Pack).unwrap().is_empty());
    }

    #[test]
    fn a_move_by_link_leaves_alone_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second, name) =
            (folder.path().join("a"), folder.path().join("b"), folder.path().join("config"));
        fs::write(&first, "first").unwrap();
        fs::write(&second, "second").unwrap();
        move_by_link(&first, &name).unwrap();
        move_by_link(&second, &name).unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert!(move_by_link(&first, &folder.path().join("c")).is_err());
    }

    #[test]
    fn what_no_repository_writes_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path());
        store.prepare().unwrap();
        let id = Id::of(b"x");
        fs::create_dir(folder.path().join("data/00")).unwrap();
        fs::write(folder.path().join(format!("data/00/{id}")), "in the wrong folder").unwrap();
        fs::write(folder.path().join("index/notes.txt"), "").unwrap();
        fs::create_dir(folder.path().join(format!("index/{id}"))).unwrap();
        let left = folder.path().join(format!("data/00/{id}-tmp-123"));
        fs::write(&left, "cut off").unwrap();
        store.sweep().unwrap();
        assert!(!left.exists() && folder.path().join("index/notes.txt").exists());
        assert!(store.list(Kind::Pack).unwrap().is_empty());
        assert!(store.list(Kind::Index).unwrap().is_empty());
    }
}
