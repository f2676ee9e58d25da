//! Writes a snapshot into a folder, and never anywhere else.
//!
//! Packs are read in their order, each once, and every blob is verified before a byte of it is
//! written. A file is written beside its place and moved there when it is whole. Nothing follows a
//! symbolic link below the target, so that neither a hostile tree nor another process can lead a write
//! out of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::archiver::Progress;
use super::id::Id;
use super::opened::Opened;
use super::packer::lock;
use crate::fault::Fault;

mod plan;
mod target;
mod workers;

use plan::Plan;
use target::Target;
pub use target::UNFINISHED;

/// What is restored, and how.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
#[derive(Clone, Debug)]
pub struct How {
    /// Only this folder's content, or this file, put directly into the target.
    pub from: Option<PathBuf>,
    /// Whether the target gets the look of the folder `from`; without it, it keeps its own.
    pub look: bool,
    /// Whether the target may hold something. What has the same name is replaced unless it is the same
    /// already; so an interrupted restore goes on.
    pub into_existing: bool,
    /// Whether files belong to their owners; only root can do that. Without it they belong to whoever
    /// restores, and lose set-user-id and set-group-id.
    pub owners: bool,
    /// Whether devices are made; only root can do that.
    pub devices: bool,
    /// Whether long runs of zeros become holes; the format does not say which files had some.
    pub sparse: bool,
}

impl Default for How {
    /// Everything, into a new or empty folder, for whoever restores; with holes, for a file full of
    /// them may be longer than the disk.
    fn default() -> Self {
        Self { from: None, look: false, into_existing: false, owners: false, devices: false, sparse: true }
    }
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files that are there now.
    pub files: u64,
    /// Their bytes; a file with several names counts once.
    pub bytes: u64,
    /// Files of these that were there already, compared byte for byte.
    pub kept: u64,
    /// Devices that were not made, since nobody asked.
    pub devices_left_out: u64,
    /// What could not be set, where the file system or the rights do not allow it; the first hundred.
    pub warnings: Vec<String>,
}

impl Opened {
    /// Restores into `target`, which is made when it is not there.
    ///
    /// Errors: 2 when the target is not empty, or the snapshot has no `from`; 4 when anything is damaged
    /// or cannot be written. Files that are there by then are whole.
    pub fn restore(&self, target: &Path, how: &How, progress: &Progress) -> Result<Restored, Fault> {
        let target = Target::open(target, how)?;
        let plan = Plan::make(self, &target, how)?;
        let notes = Notes::default();
        for folder in &plan.folders {
            target.make_folder(&folder.path)?;
        }
        workers::write(self, &plan, &target, progress, &notes)?;
        for (at, file) in &plan.links {
            target.hard_link(&plan.path(&plan.files[*at]), &plan.path(file))?;
        }
        for special in &plan.specials {
            target.special(&plan.folders[special.folder].path, special, &notes)?;
        }
        // Deepest first: a folder may be read-only, and writing into it would change its time.
        for folder in plan.folders.iter().rev().filter(|folder| folder.known) {
            target.finish_folder(folder, &notes)?;
        }
        target.sync()?;
        Ok(Restored {
            files: (plan.files.len() + plan.links.len()) as u64,
            bytes: plan.files.iter().map(|file| file.size).sum(),
            kept: plan.kept,
            devices_left_out: plan.devices_left_out,
            warnings: std::mem::take(&mut *lock(&notes.warnings)),
        })
    }
}

/// What could not be set.
#[derive(Debug, Default)]
struct Notes {
    warnings: Mutex<Vec<String>>,
}

impl Notes {
    fn warn(&self, path: &Path, what: &str, why: &dyn std::fmt::Display) {
        let mut warnings = lock(&self.warnings);
        if warnings.len() < 100 {
            warnings.push(format!("{}: {what}: {why}", path.display()));
        }
    }
}

/// What makes two names the same file.
type Inode = (u64, u64, Id);
type Inodes = HashMap<Inode, usize>;
