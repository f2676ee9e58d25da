//! The include file's place on disk: a symbolic link stays one, owner and permission bits stay as they were.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::world::{self, files};

/// The file behind every symbolic link.
pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Replaces a file whole, as [`files::write_atomic`] does, behind every symbolic link that leads to it. nginx may run
/// as another user: the permission bits stay, and the owner and the group as far as this user may give them.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = real(path);
    let there = fs::metadata(&path).ok();
    let folder = files::parent(&path);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // A pattern of `include` matches no name that begins with a dot.
    let temporary = folder.join(format!(".{name}.{:016x}.tmp", world::unique()));
    let written = (|| {
        let mode = if there.is_some() { 0o600 } else { 0o644 };
        let mut file = crate::bounds::fresh(&temporary, mode)?;
        file.write_all(bytes)?;
        if let Some(there) = there {
            // Only root may give a file away; a group may be one's own.
            let _ = fchown(&file, Some(there.uid()), Some(there.gid()))
                .or_else(|_| fchown(&file, None, Some(there.gid())));
            file.set_permissions(fs::Permissions::from_mode(there.permissions().mode() & 0o7777))?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        files::sync_folder(&folder)
    })();
    if written.is_err() {
        // The first error is the one to tell; the leftover is removed as far as possible.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_a_link_and_its_target_keeps_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        let (there, near) = (folder.path().join("there"), folder.path().join("near"));
        fs::create_dir_all(&there).unwrap();
        fs::create_dir_all(&near).unwrap();
        let target = there.join("shop.conf");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink("../there/shop.conf", near.join("middle.conf")).unwrap();
        let link = near.join("shop.conf");
        std::os::unix::fs::symlink("middle.conf", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::symlink_metadata(near.join("middle.conf")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        // The umask takes nothing away.
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o664);
        assert_eq!(fs::read_dir(&there).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(fs::read_dir(&near).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.conf");
        fs::create_dir(&file).unwrap();
        assert!(write(&file, b"new").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
