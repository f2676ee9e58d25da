//! The scratch place of a drill: private, and gone afterwards, at the latest with the next drill.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::job::Job;
use crate::world::{self, files};

/// How the folder's name begins.
const PREFIX: &str = "trapkey-drill-";
/// Who made it, in it.
const RECORD: &str = "drill.json";
/// How long the server that a killed drill left may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who made a scratch place.
#[derive(Debug, Serialize, Deserialize)]
struct Maker {
    /// As [`world::process`] names it.
    process: String,
    service: String,
    environment: String,
}

/// A scratch place; it is removed when this is dropped.
pub(super) struct Scratch {
    path: PathBuf,
    removed: bool,
}

impl Scratch {
    /// Errors (4): the folder that it is to lie in cannot be written.
    pub(super) fn make(parent: &Path, job: &Job) -> Result<Self, Fault> {
        let parent = std::path::absolute(parent).unwrap_or_else(|_| parent.to_path_buf());
        let path = parent.join(format!("{PREFIX}{:016x}", world::unique()));
        super::private(&path)?;
        let scratch = Self { path, removed: false };
        if rustix::process::geteuid().is_root() {
            // Another user runs the server, and passes through; what is in it is private.
            fs::set_permissions(&scratch.path, fs::Permissions::from_mode(0o711))
                .map_err(|e| files::unwritable(&scratch.path, &e))?;
        }
        let maker = Maker {
            process: world::process(),
            service: job.release.service.clone(),
            environment: job.release.environment.clone(),
        };
        let json = serde_json::to_vec(&maker)
            .map_err(|e| Fault::infrastructure("the scratch place cannot be made").cause(e))?;
        let record = scratch.path.join(RECORD);
        files::write_atomic_with_mode(&record, &json, Some(0o600))
            .map_err(|e| files::unwritable(&record, &e))?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the files of the snapshot go.
    pub(super) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    /// A new private folder for the server of a source.
    pub(super) fn server(&self, source: &str) -> Result<PathBuf, Fault> {
        let path = self.path.join(format!("server-{source}"));
        super::private(&path)?;
        Ok(path)
    }

    /// Errors (4): something stays behind, which is named.
    pub(super) fn remove(mut self) -> Result<(), Fault> {
        self.removed = true;
        remove(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.removed {
            // On the way out of an error, which is the one to tell; the next drill tries again.
            let _ = remove(&self.path);
        }
    }
}

fn remove(path: &Path) -> Result<(), Fault> {
    make_removable(path);
    fs::remove_dir_all(path).map_err(|e| {
        Fault::infrastructure("the scratch place of a drill cannot be removed")
            .place(path.display().to_string())
            .cause(e)
            .help("remove it by hand: it holds what the snapshot held")
    })
}

/// Folders that were restored without the right to write in them.
fn make_removable(folder: &Path) {
    let Ok(meta) = fs::symlink_metadata(folder) else { return };
    if !meta.is_dir() {
        return;
    }
    if meta.mode() & 0o700 != 0o700 {
        // Where it fails, the removal says so.
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        make_removable(&entry.path());
    }
}

/// Removes what drills left here that were killed. Returns a sentence for each.
pub(super) fn sweep(parent: &Path) -> Vec<String> {
    let mut said = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_left(&path) {
            let shown = path.display();
            end_servers(&path);
            said.push(match remove(&path) {
                Ok(()) => format!("removed {shown}, which a killed drill had left"),
                Err(fault) => fault.line(),
            });
        }
    }
    said
}

/// Whether it is of ours, and of a drill that does not live any more.
fn is_left(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let ours = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == own);
    let record = path.join(RECORD);
    let recorded = fs::symlink_metadata(&record).is_ok_and(|meta| meta.is_file() && meta.uid() == own);
    let maker = || serde_json::from_slice::<Maker>(&files::read_bounded(&record, 64 * 1024).ok()?).ok();
    ours && recorded && maker().is_some_and(|maker| world::lives(&maker.process) == Some(false))
}

/// Ends every process that works in the scratch place: servers usually have ended with their drill.
fn end_servers(path: &Path) {
    let Ok(path) = path.canonicalize() else { return };
    let until = Instant::now() + PATIENCE;
    loop {
        let left = workers(&path);
        if left.is_empty() {
            return;
        }
        let late = Instant::now() >= until;
        for pid in left {
            // It may have ended meanwhile.
            let _ = kill_process(pid, if late { Signal::KILL } else { Signal::QUIT });
        }
        if late {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The processes whose folder lies in the scratch place.
fn workers(path: &Path) -> Vec<Pid> {
    let of = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let folder = fs::read_link(entry.path().join("cwd")).ok()?;
        folder.starts_with(path).then(|| Pid::from_raw(pid)).flatten()
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).collect()
}
