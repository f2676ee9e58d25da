//! Brings a snapshot back into a folder.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store::Place;
use super::{inside, plural, to_stdout};
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::repository::restic::{How, Id, Node, NodeKind, Opened, Progress, Restored};
use crate::units::{show_duration, show_size};
use crate::world::talk::{Mark, Step, Talk, Ticker};
use crate::world::{self, files};

/// What is to be brought back, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Wish {
    /// Its id (or the beginning of it), or `latest`
    #[arg(default_value = "latest")]
    pub id: String,
    /// The folder, which must be empty or new; each source gets a folder in it
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// Only this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Only this file or folder, by its path in the snapshot: SOURCE/PATH
    #[arg(long, value_name = "PATH", conflicts_with = "source")]
    pub file: Option<PathBuf>,
    /// Let everything belong to whoever restores, also as root
    #[arg(long)]
    pub no_owners: bool,
}

impl Wish {
    /// The part of the snapshot that is meant.
    fn from(&self) -> Option<PathBuf> {
        self.source.as_ref().map(PathBuf::from).or_else(|| self.file.clone())
    }
}

/// Brings a snapshot, one source or one file of it into a folder, and compares every file with the
/// snapshot's manifest.
///
/// Errors: 2 for an unknown snapshot or source, or a folder that holds something else; 4 for damaged
/// data or a folder that cannot be written.
pub fn restore(place: &Place, wish: &Wish, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let started = std::time::Instant::now();
    let repository = place.open()?;
    let id = repository.find(&wish.id)?;
    let opened = repository.read(id)?;
    if let (Some(source), Some(inside)) = (&wish.source, inside::Inside::of(&opened)?) {
        inside.part(source)?;
    }
    let ticker = talk.ticker();
    let done = into_folder(&opened, wish, &ticker, talk)?;
    drop(ticker);
    for warning in &done.warnings {
        talk.line(Mark::Warn, warning);
    }
    if done.devices_left_out > 0 {
        talk.line(Mark::Warn, &format!("{} left out", plural(done.devices_left_out, "device")));
    }
    if json {
        to_stdout(&json!({
            "store": place.shown,
            "id": id.to_string(),
            "to": wish.to.display().to_string(),
            "files": done.files,
            "bytes": done.bytes,
            "kept": done.kept,
            "warnings": done.warnings,
        }))?;
    }
    let age = world::now().duration_since(opened.snapshot().time).as_secs_f64().max(0.0);
    talk.line(
        Mark::Good,
        &format!(
            "restored {} ({} old) to {}: {} of {}, every byte verified, in {}",
            short(&id.to_string()),
            show_duration(age),
            wish.to.display(),
            plural(done.files, "file"),
            show_size(done.bytes as f64),
            show_duration(started.elapsed().as_secs_f64())
        ),
    );
    Ok(Exit::Pass)
}

fn into_folder(opened: &Opened, wish: &Wish, ticker: &Ticker, talk: &Talk) -> Result<Restored, Fault> {
    let from = wish.from();
    let sums = opened.sums(inside::SUMS.as_ref())?;
    let unfinished = Unfinished::begin(&wish.to, opened.id(), from.as_deref())?;
    if unfinished.resumed {
        talk.line(Mark::Step, "an interrupted restore goes on");
    }
    let how = How {
        from: from.clone(),
        into_existing: unfinished.resumed,
        owners: !wish.no_owners && is_root(),
        devices: !wish.no_owners && is_root(),
        sparse: true,
    };
    let target = target(opened, &wish.to, from.as_deref())?;
    let total = opened.snapshot().summary.as_ref().map(|s| s.total_bytes_processed);
    let step = Step { of_bytes: total.filter(|_| from.is_none()), ..Step::new("restoring") };
    let progress = Progress::default();
    let done = std::thread::scope(|scope| {
        let count = || (progress.files.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed));
        let _watch = ticker.watch(scope, step, count);
        opened.restore(&target, &how, &progress)
    })?;
    if let Some(sums) = sums {
        ticker.set("comparing with the manifest");
        compare(opened, &target, from.as_deref(), &sums)?;
    }
    unfinished.end()?;
    Ok(done)
}

/// Where the engine puts it: a folder that is meant alone comes under its own name, too.
fn target(opened: &Opened, to: &Path, from: Option<&Path>) -> Result<PathBuf, Fault> {
    let Some(name) = from.and_then(Path::file_name) else { return Ok(to.to_path_buf()) };
    let node = opened.find(from.unwrap_or(to))?;
    if node.is_none_or(|node| node.kind != NodeKind::Dir) {
        return Ok(to.to_path_buf());
    }
    let target = to.join(name);
    std::fs::create_dir_all(&target).map_err(|e| files::unwritable(&target, &e))?;
    Ok(target)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Compares every file with the SHA-256 that the manifest has for it.
///
/// The restore has verified each piece by its SHA-256 before it wrote it. A file of one piece has the
/// digest of that piece; of others every byte is read again.
fn compare(
    opened: &Opened,
    target: &Path,
    from: Option<&Path>,
    sums: &std::collections::HashMap<Vec<u8>, Id>,
) -> Result<(), Fault> {
    let root = from.map(|from| from.strip_prefix("/").unwrap_or(from));
    opened.walk(&mut |path, node| {
        let inside = match root {
            None => path,
            // A single file lies in the target under its own name.
            Some(root) if path == root && node.kind == NodeKind::File => {
                path.file_name().map(Path::new).unwrap_or(path)
            }
            Some(root) => match path.strip_prefix(root) {
                Ok(below) => below,
                // On the way to what is meant.
                Err(_) => return Ok(root.starts_with(path)),
            },
        };
        if node.kind == NodeKind::File && path != Path::new(inside::SUMS) {
            let expected = sums.get(path.as_os_str().as_bytes());
            compare_file(&target.join(inside), path, node, expected)?;
        }
        Ok(true)
    })
}

fn compare_file(restored: &Path, path: &Path, node: &Node, expected: Option<&Id>) -> Result<(), Fault> {
    let differs = |why: &str| {
        Fault::infrastructure("a restored file is not what the snapshot's manifest says")
            .place(path.display().to_string())
            .cause(why)
            .help("do not use it; `snapshot check --read-data` says what is damaged")
    };
    let expected = expected.ok_or_else(|| differs("the manifest does not name it"))?;
    let there = match node.content.as_deref() {
        Some([piece]) => *piece,
        _ => {
            let (digest, _) = files::sha256_file(restored).map_err(|e| {
                Fault::infrastructure("a restored file cannot be read")
                    .place(restored.display().to_string())
                    .cause(e)
            })?;
            Id::parse(&digest).ok_or_else(|| differs("its SHA-256 cannot be told"))?
        }
    };
    if there == *expected { Ok(()) } else { Err(differs("it has another SHA-256")) }
}

/// What a restore that is at work says beside its target, so that the next one can go on.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Work {
    snapshot: String,
    from: Option<PathBuf>,
}

/// A restore at work.
struct Unfinished {
    file: Option<PathBuf>,
    resumed: bool,
}

impl Unfinished {
    /// Errors (2): the target holds something, and not what an interrupted restore of the same left.
    fn begin(target: &Path, id: Id, from: Option<&Path>) -> Result<Self, Fault> {
        let work = Work { snapshot: id.to_string(), from: from.map(Path::to_path_buf) };
        let json = serde_json::to_vec(&work)
            .map_err(|e| Fault::infrastructure("a restore cannot be begun").cause(e))?;
        let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_path_buf());
        let file = absolute.file_name().map(|name| {
            let mut hidden = OsStr::new(".").to_os_string();
            hidden.push(name);
            hidden.push(".trapkey-restore");
            absolute.with_file_name(hidden)
        });
        let before = file.as_ref().and_then(|file| files::read_bounded(file, 64 * 1024).ok());
        let same =
            before.is_some_and(|bytes| serde_json::from_slice::<Work>(&bytes).is_ok_and(|w| w == work));
        let resumed = match std::fs::read_dir(target) {
            Ok(mut entries) => {
                let used = entries.next().is_some();
                if used && !same {
                    return Err(Fault::usage("the folder to restore into is not empty")
                        .place(target.display().to_string())
                        .help("name an empty folder, or one that is not there yet"));
                }
                used
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => {
                return Err(Fault::usage("the folder to restore into cannot be used")
                    .place(target.display().to_string())
                    .cause(e)
                    .help("name an empty folder, or one that is not there yet"));
            }
        };
        // Where it cannot be written, the restore goes on all the same: it only cannot be resumed.
        let file = file.filter(|file| {
            let made = file.parent().is_none_or(|parent| std::fs::create_dir_all(parent).is_ok());
            made && files::write_atomic_with_mode(file, &json, Some(0o600)).is_ok()
        });
        Ok(Self { file, resumed })
    }

    fn end(self) -> Result<(), Fault> {
        let Some(file) = self.file else { return Ok(()) };
        std::fs::remove_file(&file).map_err(|e| files::unwritable(&file, &e))
    }
}
