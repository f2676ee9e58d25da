//! Brings a snapshot back: into a folder, in place, or a database into a live one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::inside::{self, Inside};
use super::look::tagged;
use super::store::Place;
use super::{host_of, plural, to_stdout};
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::repository::restic::{
    How, Id, Node, NodeKind, Opened, Progress, Repository, Restored, Snapshot, UNFINISHED,
};
use crate::sources::ReadBack;
use crate::units::{show_duration, show_size};
use crate::world::talk::{Mark, Step, Talk, Ticker};
use crate::world::{self, files};

mod in_place;
mod into;

pub use in_place::in_place;
pub use into::into;
pub(super) use into::{inside_of, planned};

/// What a snapshot has that was taken of what a restore in place was about to replace.
pub(super) const BEFORE_RESTORE: &str = "before-restore";

/// What is to be brought back, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Wish {
    /// Its id (or the beginning of it), or `latest`: the newest that was not taken before a restore
    #[arg(default_value = "latest")]
    pub id: String,
    /// The place that it goes to.
    #[command(flatten)]
    pub goal: Goal,
    /// Only this source; may be given several times
    #[arg(long = "source", value_name = "NAME")]
    pub sources: Vec<String>,
    /// Only this file or folder, by its path in the snapshot: SOURCE/PATH
    #[arg(long, value_name = "PATH", conflicts_with_all = ["sources", "in_place", "into", "into_env"])]
    pub file: Option<PathBuf>,
    /// With --in-place: remove what belongs to a source of files and is not in the snapshot
    #[arg(long, conflicts_with_all = ["to", "into", "into_env"])]
    pub delete: bool,
    /// With --into: also into a database that holds something
    #[arg(long, conflicts_with_all = ["to", "in_place"])]
    pub force: bool,
    /// Let everything belong to whoever restores, also as root
    #[arg(long)]
    pub no_owners: bool,
}

/// The place that a restore goes to.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Goal {
    /// Into this folder, which must be empty or new; each source gets a folder in it
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,
    /// Where the plan says that it came from, after a snapshot of what is there now
    #[arg(long)]
    pub in_place: bool,
    /// A database (--source) into this one: a URL without a password, or a path
    #[arg(long, value_name = "URL")]
    pub into: Option<String>,
    /// The same with the name of an environment variable that holds the URL
    #[arg(long, value_name = "VARIABLE")]
    pub into_env: Option<String>,
}

impl Goal {
    /// Whether the plan says where it goes to, or how.
    pub fn needs_plan(&self) -> bool {
        self.to.is_none()
    }
}

impl Wish {
    /// The parts of the snapshot that are meant; everything when empty.
    fn from(&self) -> Vec<PathBuf> {
        let mut named: Vec<PathBuf> = Vec::new();
        for path in self.file.iter().cloned().chain(self.sources.iter().map(PathBuf::from)) {
            if !named.contains(&path) {
                named.push(path);
            }
        }
        named
    }

    fn how(&self, from: Option<PathBuf>, into_existing: bool) -> How {
        let whole = !self.no_owners && is_root();
        How { from, look: false, into_existing, owners: whole, devices: whole, sparse: true }
    }
}

/// Brings a snapshot, some sources or one file of it into a folder, and compares every file with the
/// snapshot's manifest.
///
/// Errors: 2 for an unknown snapshot or source, or a folder that holds something else; 4 for damaged
/// data or a folder that cannot be written.
pub fn restore(place: &Place, wish: &Wish, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let Some(to) = &wish.goal.to else {
        return Err(Fault::usage("there is no folder to restore to").help("name it with --to"));
    };
    not_into_the_store(place, to)?;
    let started = std::time::Instant::now();
    let repository = place.open()?;
    let id = chosen(&repository, &wish.id, None)?;
    let opened = repository.read(id)?;
    if let (false, Some(inside)) = (wish.sources.is_empty(), Inside::of(&opened)?) {
        wish.sources.iter().try_for_each(|source| inside.part(source).map(drop))?;
    }
    let ticker = talk.ticker();
    let done = into_folder(&opened, to, wish, &ticker, talk)?;
    drop(ticker);
    warn(&done, talk);
    if json {
        to_stdout(&json!({
            "store": place.shown,
            "id": id.to_string(),
            "to": to.display().to_string(),
            "files": done.files,
            "bytes": done.bytes,
            "kept": done.kept,
            "warnings": done.warnings,
        }))?;
    }
    talk.line(
        Mark::Good,
        &format!(
            "restored {} ({} old) to {}: {} of {}, every byte verified, in {}",
            short(&id.to_string()),
            show_duration(age(opened.snapshot())),
            to.display(),
            plural(done.files, "file"),
            show_size(done.bytes as f64),
            show_duration(started.elapsed().as_secs_f64())
        ),
    );
    Ok(Exit::Pass)
}

/// The snapshot that is meant. `latest` is the newest one, of the job's service and environment where
/// there is a job, that was not taken before a restore: a way back must not lead to where one came from.
///
/// Errors: as [`Repository::find`]; undecided (3) where there is no such snapshot.
pub(super) fn chosen(repository: &Repository, name: &str, job: Option<&Job>) -> Result<Id, Fault> {
    let found = repository.find(name)?;
    if name != "latest" {
        return Ok(found);
    }
    let meant = |snapshot: &Snapshot| {
        job.is_none_or(|job| is_of(job, snapshot)) && !snapshot.tags.iter().any(|tag| tag == BEFORE_RESTORE)
    };
    let all = repository.snapshots()?.whole;
    all.into_iter().rev().find(|(_, snapshot)| meant(snapshot)).map(|(id, _)| id).ok_or_else(|| {
        let of = job.map(|job| format!(" of {}", host_of(job))).unwrap_or_default();
        Fault::undecided(format!("the store has no snapshot{of}"))
            .place(repository.place())
            .help("`snapshot list` shows what there is; name one by its id")
    })
}

/// Whether it was taken by Trapkey for this service and environment.
fn is_of(job: &Job, snapshot: &Snapshot) -> bool {
    snapshot.hostname == host_of(job)
        && tagged(snapshot, "service") == Some(&job.release.service)
        && tagged(snapshot, "environment") == Some(&job.release.environment)
}

/// How old a snapshot is, in seconds.
pub(super) fn age(snapshot: &Snapshot) -> f64 {
    world::now().duration_since(snapshot.time).as_secs_f64().max(0.0)
}

fn warn(done: &Restored, talk: &Talk) {
    for warning in &done.warnings {
        talk.line(Mark::Warn, warning);
    }
    if done.devices_left_out > 0 {
        talk.line(Mark::Warn, &format!("{} left out", plural(done.devices_left_out, "device")));
    }
}

/// Errors (2): the target lies in the store, where restored files would pass for its own.
fn not_into_the_store(place: &Place, to: &Path) -> Result<(), Fault> {
    let Some(store) = place.folder().and_then(|folder| std::fs::canonicalize(folder).ok()) else {
        return Ok(());
    };
    let absolute = std::path::absolute(to).unwrap_or_else(|_| to.to_path_buf());
    let real = absolute.ancestors().find_map(|above| std::fs::canonicalize(above).ok());
    if real.is_some_and(|real| real.starts_with(&store)) {
        return Err(Fault::usage("the folder to restore into lies in the snapshot store")
            .place(to.display().to_string())
            .help("name a folder elsewhere"));
    }
    Ok(())
}

/// Restores into a folder that is new, empty, or left by an interrupted restore of the same.
pub(super) fn into_folder(
    opened: &Opened,
    to: &Path,
    wish: &Wish,
    ticker: &Ticker,
    talk: &Talk,
) -> Result<Restored, Fault> {
    let from = wish.from();
    let sums = opened.sums(inside::SUMS.as_ref())?;
    let unfinished = Unfinished::begin(opened, to, &from)?;
    if unfinished.resumed {
        talk.line(Mark::Step, "an interrupted restore goes on");
    }
    let total = bytes_of(opened, &from)?;
    let progress = Progress::default();
    let parts = if from.is_empty() { vec![None] } else { from.into_iter().map(Some).collect() };
    let mut all = Restored::default();
    for part in parts {
        let target = target(opened, to, part.as_deref())?;
        let how = How { look: target != to, ..wish.how(part.clone(), unfinished.resumed) };
        let step = Step { of_bytes: total, ..Step::new("restoring") };
        let done = watched(opened, &target, &how, (ticker, step, &progress))?;
        if let Some(sums) = &sums {
            ticker.set("comparing with the manifest");
            compare(opened, &target, part.as_deref(), sums)?;
        }
        add(&mut all, done);
    }
    unfinished.end()?;
    Ok(all)
}

/// Restores while the ticker shows how far it is.
fn watched(
    opened: &Opened,
    target: &Path,
    how: &How,
    (ticker, step, progress): (&Ticker, Step, &Progress),
) -> Result<Restored, Fault> {
    let count = || (progress.files.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed));
    let done = std::thread::scope(|scope| {
        let _watch = ticker.watch(scope, step.clone(), count);
        opened.restore(target, how, progress)
    })?;
    let (files, bytes) = count();
    ticker.step(&step, files, bytes);
    Ok(done)
}

fn add(all: &mut Restored, done: Restored) {
    all.files += done.files;
    all.bytes += done.bytes;
    all.kept += done.kept;
    all.devices_left_out += done.devices_left_out;
    all.warnings.extend(done.warnings);
}

/// The bytes that are to be restored, where that is known before.
fn bytes_of(opened: &Opened, from: &[PathBuf]) -> Result<Option<u64>, Fault> {
    if from.is_empty() {
        return Ok(opened.snapshot().summary.as_ref().map(|s| s.total_bytes_processed));
    }
    let inside = Inside::of(opened)?;
    let mut total = 0;
    for path in from {
        let part = inside.as_ref().and_then(|i| i.sources.iter().find(|part| Path::new(&part.name) == path));
        total += match part {
            Some(part) => part.bytes,
            None => match opened.find(path)? {
                Some(node) if node.kind == NodeKind::File => node.size,
                _ => return Ok(None),
            },
        };
    }
    Ok(Some(total))
}

/// Where the engine puts it: a folder that is meant alone comes under its own name, too.
fn target(opened: &Opened, to: &Path, from: Option<&Path>) -> Result<PathBuf, Fault> {
    let Some(name) = from.and_then(Path::file_name) else { return Ok(to.to_path_buf()) };
    let node = opened.find(from.unwrap_or(to))?;
    if node.is_none_or(|node| node.kind != NodeKind::Dir) {
        return Ok(to.to_path_buf());
    }
    let target = to.join(name);
    let mut private = std::fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(&target).map_err(|e| files::unwritable(&target, &e))?;
    Ok(target)
}

/// What is in a snapshot below a path (everything without one), by its path below that.
pub(super) fn entries(opened: &Opened, from: Option<&Path>) -> Result<HashMap<PathBuf, NodeKind>, Fault> {
    let root = from.map(|from| from.strip_prefix("/").unwrap_or(from));
    let mut all = HashMap::new();
    opened.walk(&mut |path, node| {
        let below = match root {
            None => path,
            Some(root) if path == root && node.kind != NodeKind::Dir => {
                path.file_name().map_or(path, Path::new)
            }
            Some(root) => match path.strip_prefix(root) {
                Ok(below) => below,
                Err(_) => return Ok(root.starts_with(path)),
            },
        };
        if !below.as_os_str().is_empty() {
            all.insert(below.to_path_buf(), node.kind);
        }
        Ok(true)
    })?;
    Ok(all)
}

/// Reads the files of one source from the store.
pub(super) struct Stored<'a> {
    pub(super) name: &'a str,
    pub(super) opened: &'a Opened,
}

impl ReadBack for Stored<'_> {
    fn read(&self, path: &[u8], out: &mut dyn Write) -> Result<(), Fault> {
        self.opened.dump(&Path::new(self.name).join(OsStr::from_bytes(path)), out).map(drop)
    }
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
    sums: &HashMap<Vec<u8>, Id>,
) -> Result<(), Fault> {
    let root = from.map(|from| from.strip_prefix("/").unwrap_or(from));
    let mut compared = 0;
    opened.walk(&mut |path, node| {
        let inside = match root {
            None => path,
            // A single file lies in the target under its own name.
            Some(root) if path == root && node.kind == NodeKind::File => {
                path.file_name().map_or(path, Path::new)
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
            compared += 1;
        }
        Ok(true)
    })?;
    if root.is_none() && compared < sums.len() {
        return Err(Fault::infrastructure("the snapshot has not all the files that its manifest names")
            .cause(format!("{compared} of {}", sums.len()))
            .help("do not use it; `snapshot check --read-data` says what is damaged"));
    }
    Ok(())
}

fn compare_file(restored: &Path, path: &Path, node: &Node, expected: Option<&Id>) -> Result<(), Fault> {
    let differs = |why: &str| {
        Fault::infrastructure("a restored file is not what the snapshot's manifest says")
            .place(path.display().to_string())
            .cause(why)
            .help("do not use it; `snapshot check --read-data` says what is damaged")
    };
    let expected = expected.ok_or_else(|| differs("the manifest does not name it"))?;
    let there = if let Some([piece]) = node.content.as_deref() {
        *piece
    } else {
        let (digest, _) = files::sha256_file(restored).map_err(|e| {
            Fault::infrastructure("a restored file cannot be read")
                .place(restored.display().to_string())
                .cause(e)
        })?;
        Id::parse(&digest).ok_or_else(|| differs("its SHA-256 cannot be told"))?
    };
    if there == *expected { Ok(()) } else { Err(differs("it has another SHA-256")) }
}

/// What a restore that is at work says beside its target, so that the next one can go on.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Work {
    snapshot: String,
    from: Vec<PathBuf>,
    /// What tells the target from another folder of its name: numbers, and when it was made.
    folder: (u64, u64, Option<u128>),
}

/// A restore at work.
struct Unfinished {
    file: Option<PathBuf>,
    resumed: bool,
}

impl Unfinished {
    /// Errors (2): the target holds something, and not what an interrupted restore of the same left.
    fn begin(opened: &Opened, target: &Path, from: &[PathBuf]) -> Result<Self, Fault> {
        let used = is_used(target)?;
        let work = Work { snapshot: opened.id().to_string(), from: from.to_vec(), folder: identity(target)? };
        let json = serde_json::to_vec(&work)
            .map_err(|e| Fault::infrastructure("a restore cannot be begun").cause(e))?;
        let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_path_buf());
        let file = absolute.file_name().map(|name| {
            let mut hidden = OsStr::new(".").to_os_string();
            hidden.push(name);
            hidden.push(".trapkey-restore");
            absolute.with_file_name(hidden)
        });
        if used {
            let before = file.as_ref().and_then(|file| files::read_bounded(file, 64 * 1024).ok());
            let same =
                before.is_some_and(|bytes| serde_json::from_slice::<Work>(&bytes).is_ok_and(|w| w == work));
            if !same {
                return Err(not_empty(target, "there is something in it, and not of a restore of the same"));
            }
            refuse_others(opened, target, from)?;
        }
        // Where it cannot be written, the restore goes on all the same: it only cannot be resumed.
        let file = file.filter(|file| files::write_atomic_with_mode(file, &json, Some(0o600)).is_ok());
        Ok(Self { file, resumed: used })
    }

    fn end(self) -> Result<(), Fault> {
        let Some(file) = self.file else { return Ok(()) };
        std::fs::remove_file(&file).map_err(|e| files::unwritable(&file, &e))
    }
}

/// Whether there is anything in the folder, which is made when it is not there.
fn is_used(target: &Path) -> Result<bool, Fault> {
    match std::fs::read_dir(target) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(target).map_err(|e| files::unwritable(target, &e))?;
            Ok(false)
        }
        Err(e) => Err(Fault::usage("the folder to restore into cannot be used")
            .place(target.display().to_string())
            .cause(e)
            .help("name an empty folder, or one that is not there yet")),
    }
}

fn identity(target: &Path) -> Result<(u64, u64, Option<u128>), Fault> {
    let meta = std::fs::metadata(target).map_err(|e| files::unwritable(target, &e))?;
    let made = meta.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    Ok((meta.dev(), meta.ino(), made.map(|span| span.as_nanos())))
}

fn not_empty(target: &Path, why: &str) -> Fault {
    Fault::usage("the folder to restore into is not empty")
        .place(target.display().to_string())
        .cause(why)
        .help("name an empty folder, or one that is not there yet")
}

/// Whoever put something of their own beside what an interrupted restore left, keeps it.
fn refuse_others(opened: &Opened, target: &Path, from: &[PathBuf]) -> Result<(), Fault> {
    let mut known = HashMap::new();
    if from.is_empty() {
        known = entries(opened, None)?;
    }
    for part in from {
        let is_folder = opened.find(part)?.is_some_and(|node| node.kind == NodeKind::Dir);
        let under = part.file_name().filter(|_| is_folder).map(PathBuf::from).unwrap_or_default();
        known.extend(entries(opened, Some(part))?.into_iter().map(|(path, kind)| (under.join(path), kind)));
        known.insert(under, NodeKind::Dir);
    }
    let mut waiting = vec![PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        let at = target.join(&folder);
        let unreadable = |e: io::Error| files::unwritable(&at, &e);
        for entry in std::fs::read_dir(&at).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let inside = folder.join(entry.file_name());
            let ours = entry.file_name().as_bytes().starts_with(UNFINISHED.as_bytes());
            if !ours && !known.contains_key(&inside) {
                let why = format!(
                    "`{}` is not of the snapshot that an interrupted restore left here",
                    inside.display()
                );
                return Err(not_empty(target, &why));
            }
            if entry.file_type().map_err(unreadable)?.is_dir() {
                waiting.push(inside);
            }
        }
    }
    Ok(())
}
