//! Files that are there whole or not at all.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::bounds;
use crate::fault::Fault;

/// Writes a file through a temporary one beside it: synced, renamed, the folder synced.
///
/// A reader sees the old content or the new one, never a part. On error the temporary file is
/// removed and the old content stands.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_with_mode(path, bytes, None)
}

/// The same, with the permission bits of the new file given.
pub fn write_atomic_with_mode(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    let folder = parent(path);
    fs::create_dir_all(&folder)?;
    let temporary = beside(path);
    let written = (|| {
        let mut file = bounds::fresh(&temporary, mode.unwrap_or(0o666))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(&folder)
    })();
    if written.is_err() {
        // The first error is the one to tell; the leftover is removed as far as possible.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The same for a file that may be reached by a symbolic link: the link stays one, and what it leads to is
/// replaced, atomically beside itself.
pub fn write_through(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    if is_link(path) {
        return write_atomic_with_mode(&fs::canonicalize(path)?, bytes, mode);
    }
    write_atomic_with_mode(path, bytes, mode)
}

/// [`write_through`] for a file that somebody watches: whoever watches the folder of a link sees nothing of what
/// happens behind it (Traefik and Envoy do), so the link itself is renewed as well, by a rename.
pub fn write_through_watched(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    if !is_link(path) {
        return write_through(path, bytes, mode);
    }
    // First, for where the folder may not be written to the file must not change either.
    let renewed = beside(path);
    std::os::unix::fs::symlink(fs::read_link(path)?, &renewed)?;
    let done = write_through(path, bytes, mode).and_then(|()| {
        fs::rename(&renewed, path)?;
        sync_folder(&parent(path))
    });
    if done.is_err() {
        // The first error is the one to tell; the leftover is removed as far as possible.
        let _ = fs::remove_file(&renewed);
    }
    done
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_symlink())
}

/// A name of its own beside a file, for what takes its place.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parent(path).join(format!(".{name}.{:016x}.tmp", super::unique()))
}

/// A whole regular file, unless it is larger than `most` bytes.
pub fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    bounds::whole(path, most)
}

/// The largest file of a router, a tool or a person that is read as text.
const MOST_TEXT: u64 = 16 * 1024 * 1024;

/// A whole regular file as text, unless it is larger than 16 MiB.
pub fn read_text(path: &Path) -> io::Result<String> {
    bounds::text(path, MOST_TEXT)
}

/// Makes a rename or a removal in a folder lasting.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    bounds::open_folder(folder)?.sync_all()
}

/// The folder that a path lies in; `.` for a bare name.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The SHA-256 of a regular file in hexadecimal, and its size in bytes.
///
/// Errors: it cannot be read, or somebody asked to stop before its end.
pub fn sha256_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = bounds::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut size = 0;
    loop {
        if super::signal::stop_asked() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "asked to stop before its end"));
        }
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((crate::evidence::hex(&hasher.finalize()), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

/// The error for a file that could not be written, with the usual reasons put into words.
pub fn unwritable(path: &Path, error: &io::Error) -> Fault {
    let help = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: make room and run it again"
        }
        io::ErrorKind::PermissionDenied => "give the job's user the right to write there",
        io::ErrorKind::NotFound => "make the folder first",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "a file stands where a folder is needed: choose another folder"
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: choose another folder",
        _ => "look at the cause, and run it again",
    };
    Fault::infrastructure("a file cannot be written")
        .place(path.display().to_string())
        .cause(error)
        .help(help)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_stays_one_and_what_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link, again] = ["real/split", "link", "again"].map(|name| folder.path().join(name));
        fs::create_dir(folder.path().join("real")).unwrap();
        fs::write(&real, "old").unwrap();
        symlink("real/split", &link).unwrap();
        symlink("link", &again).unwrap();
        for (round, write) in [write_through, write_through_watched].into_iter().enumerate() {
            for path in [&link, &again, &real] {
                let text = format!("{round} {}", path.display());
                write(path, text.as_bytes(), Some(0o640)).unwrap();
                assert_eq!(fs::read_to_string(&real).unwrap(), text);
                assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
                assert_eq!(fs::read_link(&link).unwrap(), Path::new("real/split"));
                assert_eq!(fs::read_link(&again).unwrap(), Path::new("link"));
            }
        }
        let left = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((left(folder.path()), left(real.parent().unwrap())), (3, 1), "nothing is left behind");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("gone/split", &link).unwrap();
        for write in [write_through, write_through_watched] {
            assert_eq!(write(&link, b"x", None).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
