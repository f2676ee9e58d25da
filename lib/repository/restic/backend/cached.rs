//! What was read of a store afar, kept near: index, snapshots, and the packs that hold folders.
//!
//! Files lie in the cache as they lie in the store, encrypted, under the SHA-256 that is their name;
//! whatever reads back otherwise is thrown away and fetched again. Without a folder for it the same
//! is kept in memory while the process runs, as far as there is room.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use super::{Backend, Kind, Name};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::packer::lock;
use crate::world::{self, files};

/// The kinds of files that are kept.
const KEPT: [Kind; 3] = [Kind::Index, Kind::Snapshot, Kind::Pack];
/// No file is kept that is longer, in bytes.
const LONGEST: u64 = 64 << 20;
/// So many bytes are kept in memory where there is no folder.
const IN_MEMORY: usize = 96 << 20;
/// So many bytes are fetched ahead into memory.
const AHEAD: u64 = 32 << 20;
/// So many files are fetched at the same time.
const AT_ONCE: usize = 8;
/// So many packs are kept open.
const OPEN: usize = 128;
/// The cache of one repository is brought below that, in bytes.
const ROOM: u64 = 2 << 30;
/// What somebody fetched within that time stays, even where our list of the store does not have it.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// The cache of a repository that nobody used for so long goes.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// What a file is touched for, so that it can be seen when the cache was used last.
const USED: &str = "used";

/// A store with a cache before it.
#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn Backend>,
    /// Where the caches of all repositories are.
    root: Option<PathBuf>,
    /// Where this one's is, once that is known; none when it cannot be written.
    folder: OnceLock<Option<PathBuf>>,
    /// Whether the cache failed, and is done without.
    broken: AtomicBool,
    memory: Mutex<Memory>,
    packs: Mutex<Packs>,
}

/// Files that are going to be read, where there is no folder.
#[derive(Debug, Default)]
struct Memory {
    fetched: HashMap<Name, Vec<u8>>,
    wanted: VecDeque<(Name, u64)>,
}

/// Packs that hold folders.
#[derive(Debug, Default)]
struct Packs {
    at_hand: HashMap<Id, Arc<OnceLock<Option<Pack>>>>,
    /// In the order in which they came.
    order: VecDeque<Id>,
    bytes: usize,
}

#[derive(Debug)]
enum Pack {
    File(File),
    Bytes(Vec<u8>),
}

/// Where caches are, as `TRAPKEY_CACHE`, `XDG_CACHE_HOME` and `HOME` say; none without.
///
/// Errors (2): it is no absolute path.
pub fn cache_from(variable: impl Fn(&str) -> Option<String>) -> Result<Option<PathBuf>, Fault> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    match variable("TRAPKEY_CACHE") {
        Some(off) if off == "off" => Ok(None),
        Some(folder) if Path::new(&folder).is_absolute() => Ok(Some(folder.into())),
        Some(_) => Err(Fault::usage("the variable TRAPKEY_CACHE is neither `off` nor an absolute path")
            .help("name a folder that outlives the job, or `off`")),
        None => {
            let home = || variable("HOME").map(|home| Path::new(&home).join(".cache"));
            let base = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
            Ok(base.filter(|base| base.is_absolute()).map(|base| base.join("trapkey")))
        }
    }
}

impl Cached {
    /// A store with its cache below `root`, or in memory.
    pub fn new(inner: Arc<dyn Backend>, root: Option<PathBuf>) -> Self {
        Self {
            inner,
            root,
            folder: OnceLock::new(),
            broken: AtomicBool::new(false),
            memory: Mutex::default(),
            packs: Mutex::default(),
        }
    }

    /// The folder of this repository, made with the first call.
    fn folder(&self) -> Option<&Path> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(folder) = self.folder.get() {
            return folder.as_deref();
        }
        let root = self.root.as_ref()?;
        let config = self.inner.whole(Name::Config, LONGEST).ok()?;
        self.know(root, &config);
        self.folder.get()?.as_deref()
    }

    /// Names the cache after the repository's `config`, which says by chance which one it is.
    fn know(&self, root: &Path, config: &[u8]) {
        self.folder.get_or_init(|| {
            let folder = root.join(Id::of(config).to_string());
            // A cache that cannot be written is no reason to fail.
            make(&folder).ok()?;
            let _ = touch(&folder);
            forget_unused(root);
            keep_small(&folder);
            Some(folder)
        });
    }

    /// A file from the folder, whose bytes are those that its name says.
    fn near(&self, name: Name) -> Option<Vec<u8>> {
        let path = path(self.folder()?, name)?;
        let bytes = crate::bounds::whole(&path, LONGEST).ok()?;
        if matches!(name, Name::File(_, id) if Id::of(&bytes) == id) {
            return Some(bytes);
        }
        let _ = fs::remove_file(&path);
        None
    }

    fn keep(&self, name: Name, bytes: &[u8]) {
        let Some(path) = self.folder().and_then(|folder| path(folder, name)) else { return };
        if write(&path, bytes).is_err() {
            // A full disk, or no right to write: from now on without.
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Fetches a file from the store and keeps it.
    fn fetch(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        let bytes = self.inner.whole(name, most)?;
        if matches!(name, Name::File(_, id) if bytes.len() as u64 <= LONGEST && Id::of(&bytes) == id) {
            self.keep(name, &bytes);
        }
        Ok(bytes)
    }

    /// From what was fetched ahead into memory; with it comes what is wanted next.
    fn read_on(&self, name: Name) -> Option<Vec<u8>> {
        let batch = {
            let mut memory = lock(&self.memory);
            if let Some(bytes) = memory.fetched.remove(&name) {
                return Some(bytes);
            }
            if memory.wanted.front().is_none_or(|(next, _)| *next != name) {
                return None;
            }
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some((next, length)) = memory.wanted.pop_front() {
                bytes += length;
                batch.push(next);
                if bytes >= AHEAD || batch.len() >= 4 * AT_ONCE {
                    break;
                }
            }
            batch
        };
        let fetched = at_once(&batch, |next| self.inner.whole(*next, LONGEST).ok());
        let mut memory = lock(&self.memory);
        memory.fetched.clear();
        memory
            .fetched
            .extend(batch.into_iter().zip(fetched).filter_map(|(name, bytes)| Some((name, bytes?))));
        memory.fetched.remove(&name)
    }

    /// A pack of folders, whole and verified; none where it is not what its name says.
    fn pack(&self, id: Id) -> Arc<OnceLock<Option<Pack>>> {
        let slot = {
            let mut packs = lock(&self.packs);
            if let Some(slot) = packs.at_hand.get(&id) {
                Arc::clone(slot)
            } else {
                let slot: Arc<OnceLock<_>> = Arc::default();
                packs.at_hand.insert(id, Arc::clone(&slot));
                packs.order.push_back(id);
                slot
            }
        };
        let mut new = 0;
        // Others that want the same pack wait for it here.
        slot.get_or_init(|| {
            let pack = self.open_pack(id);
            new = match &pack {
                Some(Pack::Bytes(bytes)) => bytes.len(),
                _ => 0,
            };
            pack
        });
        let mut packs = lock(&self.packs);
        packs.bytes += new;
        while packs.order.len() > OPEN || packs.bytes > IN_MEMORY && packs.order.len() > 1 {
            let Some(oldest) = packs.order.pop_front() else { break };
            if oldest == id {
                packs.order.push_back(oldest);
                continue;
            }
            if let Some(gone) = packs.at_hand.remove(&oldest)
                && let Some(Some(Pack::Bytes(bytes))) = gone.get()
            {
                packs.bytes -= bytes.len();
            }
        }
        slot
    }

    fn open_pack(&self, id: Id) -> Option<Pack> {
        let name = Name::File(Kind::Pack, id);
        if let Some(path) = self.folder().and_then(|folder| path(folder, name)) {
            if self.near(name).is_none() {
                self.fetch(name, LONGEST).ok()?;
            }
            if let Ok(file) = crate::bounds::open(&path) {
                // So that it is among the last to go.
                let _ = file.set_modified(SystemTime::now());
                return Some(Pack::File(file));
            }
        }
        let bytes = self.inner.whole(name, LONGEST).ok()?;
        (Id::of(&bytes) == id).then_some(Pack::Bytes(bytes))
    }

    /// Removes what the store does not have any more.
    fn tidy(&self, kind: Kind, there: &[(Id, u64)]) {
        let Some(folder) = KEPT.contains(&kind).then(|| self.folder.get()?.as_ref()).flatten() else {
            return;
        };
        let there: HashSet<Id> = there.iter().map(|(id, _)| *id).collect();
        for (path, meta) in entries(&folder.join(kind.folder())) {
            let id = path.file_name().and_then(|name| Id::parse(name.to_str()?));
            if id.is_none_or(|id| !there.contains(&id)) && age(&meta) > FRESH {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Backend for Cached {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn prepare(&self) -> Result<(), Fault> {
        self.inner.prepare()
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        let there = self.inner.list(kind)?;
        self.tidy(kind, &there);
        Ok(there)
    }

    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        self.inner.length(name)
    }

    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        self.inner.read(name, offset, length, into)
    }

    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        // Not kept: whoever reads it next sees what lies in the store.
        self.inner.put(name, parts)
    }

    fn sweep(&self) -> Result<(), Fault> {
        self.inner.sweep()
    }

    fn remove(&self, name: Name) -> Result<(), Fault> {
        self.inner.remove(name)?;
        if let Some(path) = self.folder.get().and_then(Option::as_ref).and_then(|folder| path(folder, name)) {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    fn whole(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        match name {
            Name::Config => {
                let bytes = self.inner.whole(name, most)?;
                if let Some(root) = &self.root {
                    self.know(root, &bytes);
                }
                Ok(bytes)
            }
            Name::File(Kind::Index | Kind::Snapshot, _) => {
                if let Some(bytes) = self.near(name).or_else(|| self.read_on(name)) {
                    return Ok(bytes);
                }
                self.fetch(name, most)
            }
            Name::File(..) => self.inner.whole(name, most),
        }
    }

    fn afresh(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        self.inner.afresh(name, most)
    }

    fn read_tree(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        if let Name::File(Kind::Pack, id) = name {
            let read = match self.pack(id).get() {
                Some(Some(Pack::File(file))) => {
                    into.resize(length, 0);
                    file.read_exact_at(into, offset).is_ok()
                }
                Some(Some(Pack::Bytes(bytes))) => {
                    let start = usize::try_from(offset).unwrap_or(usize::MAX);
                    let part = bytes.get(start..start.saturating_add(length));
                    part.is_some_and(|part| {
                        into.clear();
                        into.extend_from_slice(part);
                        true
                    })
                }
                _ => false,
            };
            if read {
                return Ok(());
            }
        }
        self.inner.read(name, offset, length, into)
    }

    fn ahead(&self, files: &[(Name, u64)]) {
        let files: Vec<_> = files.iter().filter(|(_, length)| *length <= LONGEST).copied().collect();
        let Some(folder) = self.folder() else {
            let small = files.into_iter().filter(|(name, _)| !matches!(name, Name::File(Kind::Pack, _)));
            lock(&self.memory).wanted = small.collect();
            return;
        };
        let missing: Vec<Name> = files
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| path(folder, *name).is_some_and(|path| !path.exists()))
            .collect();
        // What cannot be fetched is told when it is read.
        at_once(&missing, |name| self.fetch(*name, LONGEST).ok().map(drop));
    }

    fn remote(&self) -> bool {
        self.inner.remote()
    }

    fn lock_lease(&self) -> Duration {
        self.inner.lock_lease()
    }

    fn process(&self) -> String {
        self.inner.process()
    }

    fn uploads(&self) -> usize {
        self.inner.uploads()
    }

    fn may_remove(&self, kind: Kind) -> Result<(), Fault> {
        self.inner.may_remove(kind)
    }
}

/// Does it with all of them, some at the same time.
fn at_once<T: Sync, R: Send>(all: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(all.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { return };
                    let result = each(one);
                    lock(&done).insert(at, result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect()
}

fn path(folder: &Path, name: Name) -> Option<PathBuf> {
    match name {
        Name::File(kind, id) if KEPT.contains(&kind) => Some(folder.join(kind.folder()).join(id.to_string())),
        _ => None,
    }
}

fn make(folder: &Path) -> io::Result<()> {
    for kind in KEPT {
        DirBuilder::new().recursive(true).mode(0o700).create(folder.join(kind.folder()))?;
    }
    Ok(())
}

fn touch(folder: &Path) -> io::Result<()> {
    let file = crate::bounds::open_to_add(&folder.join(USED), 0o600)?;
    file.set_modified(SystemTime::now())
}

/// Another process may do the same at the same moment; whoever is last wins, with the same bytes.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = files::parent(path).join(format!("tmp-{:016x}", world::unique()));
    let written = (|| {
        let mut file = crate::bounds::fresh(&temporary, 0o600)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn entries(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).collect()
}

fn age(meta: &fs::Metadata) -> Duration {
    meta.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default()
}

fn forget_unused(root: &Path) {
    for (folder, meta) in entries(root) {
        let ours = meta.is_dir()
            && folder.file_name().is_some_and(|n| n.to_str().is_some_and(|n| Id::parse(n).is_some()));
        if ours && fs::metadata(folder.join(USED)).is_ok_and(|used| age(&used) > UNUSED) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Removes the packs that were not used for longest until the rest has room.
fn keep_small(folder: &Path) {
    let mut packs = entries(&folder.join(Kind::Pack.folder()));
    let mut bytes: u64 = packs.iter().map(|(_, meta)| meta.len()).sum();
    packs.sort_by_key(|(_, meta)| age(meta));
    while bytes > ROOM
        && let Some((path, meta)) = packs.pop()
    {
        bytes -= meta.len();
        let _ = fs::remove_file(path);
    }
}
