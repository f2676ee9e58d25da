//! A private folder for what has to be a file for a while.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder that only its owner can enter. It goes away with this value, whatever happened; only when
/// the process is killed (`kill -9`) it stays behind, as `.trapkey-…`.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// A new one in the system's folder for temporary files (`TMPDIR`).
    pub fn new() -> io::Result<Self> {
        Self::inside(&std::env::temp_dir())
    }

    /// A new one in this folder.
    pub fn inside(parent: &Path) -> io::Result<Self> {
        let folder = std::path::absolute(parent)?.join(format!(".trapkey-{:016x}", super::unique()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new, empty file in it, for its owner alone.
    pub fn file(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let path = self.folder.join(name);
        let file = crate::bounds::fresh(&path, 0o600)?;
        Ok((path, file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about a folder that cannot be removed; it is private.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_and_goes_away_with_everything_in_it() {
        let scratch = Scratch::new().unwrap();
        let (path, _) = scratch.file("copy.db").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(scratch.folder()), mode(&path)), (0o700, 0o600));
        assert!(scratch.file("copy.db").is_err(), "a file that is there is never taken over");
        let folder = scratch.folder().to_path_buf();
        drop(scratch);
        assert!(!folder.exists());
    }
}
