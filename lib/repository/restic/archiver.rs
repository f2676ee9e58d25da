//! Backs up: several sources make one snapshot, and it is there whole or not at all.
//!
//! Packs come first, then the index that names them, then, when all is well, the snapshot. What an
//! unfinished backup leaves behind belongs to no snapshot; the next one uses it, or `prune` removes it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;
use rustix::process::{getgid, getuid};

use super::id::Id;
use super::index::Index;
use super::locks::Held;
use super::manifest;
use super::meta::{kind_of, node_of};
use super::node::{Moment, Node, NodeKind, mode};
use super::pack::BlobKind;
use super::packer::{Packer, lock};
use super::people::{self, People};
use super::snapshot::{Snapshot, Summary};
use super::store::{Scratch, Store};
use super::tree;
use crate::caught::{broke, caught};
use crate::fault::Fault;
use crate::world;

mod ahead;
mod builder;
mod crew;
mod cutter;
mod holes;
mod intake;
mod layout;
mod parent;
mod sealed;
mod walk;

pub use crew::Progress;
pub use sealed::{Proof, Sealed};
pub use walk::{Filter, Take};

use builder::Builder;
use crew::{Content, Crew, Job};
use intake::Intake;
use layout::{Entry, Layout, steps};
use parent::Parent;
use walk::{Fates, Walk};

/// How many events wait for the builder.
const WAITING: usize = 2048;

/// What a new snapshot says of itself, and what is forgiven.
#[derive(Clone, Debug)]
pub struct Spec {
    /// When it was begun.
    pub time: Timestamp,
    /// The machine; restic groups by it.
    pub hostname: String,
    /// Where the content comes from, as absolute paths; restic groups by them.
    pub paths: Vec<String>,
    /// Any words.
    pub tags: Vec<String>,
    /// Patterns of what is left out, for the record.
    pub excludes: Vec<String>,
    /// The snapshot to compare with; files that are the same are not read again.
    pub parent: Option<Id>,
    /// Whether a file that changed while it was read is only noted. It is kept as it was read.
    pub allow_changes: bool,
    /// Whether what cannot be read is only noted and left out.
    pub allow_partial: bool,
    /// Where in the snapshot the SHA-256 of every file is kept, as `sha256sum` writes it.
    pub manifest: Option<PathBuf>,
}

impl Spec {
    /// A snapshot of these paths, taken here and now, that forgives nothing.
    pub fn new(paths: Vec<String>) -> Self {
        Self {
            time: world::now(),
            hostname: world::host_name(),
            paths,
            tags: Vec::new(),
            excludes: Vec::new(),
            parent: None,
            allow_changes: false,
            allow_partial: false,
            manifest: None,
        }
    }
}

/// What was noted instead of failing.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Files that changed while they were read.
    pub changed: Vec<PathBuf>,
    /// What could not be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Sockets, which are left out.
    pub sockets: u64,
}

/// What one part of a snapshot came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The SHA-256 of its lines in the manifest, in their order; of nothing where the spec names no
    /// manifest.
    pub sha256: Id,
}

/// Where an archive stood at a moment; see [`Archive::since`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    files: u64,
    bytes: u64,
    digests: usize,
}

/// A stream that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streamed {
    /// Its bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: Id,
}

/// A snapshot that is being made. Dropping it leaves no snapshot.
#[derive(Debug)]
pub struct Archive {
    store: Arc<Store>,
    index: Arc<Index>,
    packer: Packer,
    held: Held,
    spec: Spec,
    seed: u64,
    people: People,
    parent: Parent,
    root: Layout,
    progress: Arc<Progress>,
    fates: Fates,
    folders: [u64; 3],
    notes: Mutex<Notes>,
    digests: Vec<(Vec<u8>, Id)>,
    /// Files that are in it by now, and their bytes.
    kept: (u64, u64),
    until: Option<Instant>,
}

impl Archive {
    /// Begins; the repository is locked (shared) until the end.
    pub(super) fn begin(store: &Arc<Store>, seed: u64, spec: Spec) -> Result<Self, Fault> {
        store.must_be_writable()?;
        let held = Held::new(store, false)?;
        let before = spec.parent.map(|id| super::read_snapshot(store, id)).transpose()?;
        let (root, begun) = match before {
            None => (None, Moment::default()),
            Some(snapshot) => (Some(snapshot.tree), snapshot.time.into()),
        };
        let index = Arc::new(store.trusted_index()?);
        let mut parent =
            Parent { store: Arc::clone(store), index: Arc::clone(&index), root, begun, digests: None };
        if let Some(path) = &spec.manifest {
            let known = steps(path)?;
            parent.digests =
                Some(parent.at(&known).map(|node| digests(store, &index, &node)).unwrap_or_default());
        }
        let layout = Layout::new(b"", spec.time.into(), getuid().as_raw(), getgid().as_raw());
        Ok(Self {
            packer: Packer::new(Arc::clone(store), Arc::clone(&index)),
            store: Arc::clone(store),
            index,
            held,
            spec,
            seed,
            people: People::load(),
            parent,
            root: layout,
            progress: Arc::default(),
            fates: Fates::default(),
            folders: [0; 3],
            notes: Mutex::default(),
            digests: Vec::new(),
            kept: (0, 0),
            until: None,
        })
    }

    /// What is forgiven, and until when folders may be read, from here on: sources may differ in that.
    pub fn terms(&mut self, allow_changes: bool, allow_partial: bool, until: Option<Instant>) {
        self.spec.allow_changes = allow_changes;
        self.spec.allow_partial = allow_partial;
        self.until = until;
    }

    /// Where it stands now.
    pub fn mark(&self) -> Mark {
        let (files, bytes) = self.kept;
        Mark { files, bytes, digests: self.digests.len() }
    }

    /// What came since then.
    pub fn since(&self, mark: Mark) -> Part {
        let now = self.mark();
        let mut lines = self.digests.get(mark.digests..).unwrap_or_default().to_vec();
        lines.sort();
        Part {
            files: now.files - mark.files,
            bytes: now.bytes - mark.bytes,
            sha256: Id::of(&manifest::text(&lines)),
        }
    }

    /// What was noted since the last time that this was asked.
    pub fn take_notes(&mut self) -> Notes {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// Why the store did not take something: then there will be no snapshot, whatever comes.
    pub fn broken(&self) -> Option<Fault> {
        self.packer.fault()
    }

    /// How far it is; may be read from another thread.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Backs up a file, or a folder with everything in it, to a place in the snapshot. A link is
    /// followed at the source itself and nowhere below.
    ///
    /// Errors: 2 when the place is taken; 4 when anything cannot be read or changed meanwhile (unless
    /// the spec forgives it), or cannot be stored. Then there will be no snapshot.
    pub fn folder(&mut self, at: &Path, source: &Path, filter: &dyn Filter) -> Result<(), Fault> {
        let place = self.free(at)?;
        let unreadable = |e: io::Error| cannot_read(source, &e);
        let source = fs::canonicalize(source).map_err(unreadable)?;
        let meta = fs::symlink_metadata(&source).map_err(unreadable)?;
        let name = place.last().cloned().unwrap_or_default();
        let before = self.parent.at(&place);
        let crew =
            Crew::new(&self.packer, &self.parent, &self.progress, self.seed, self.spec.manifest.is_some());
        let (events, receiver) = sync_channel(WAITING);
        let walk = Walk {
            crew: &crew,
            progress: &self.progress,
            events,
            filter,
            people: &self.people,
            parent: &self.parent,
            fates: &self.fates,
            at: at.strip_prefix("/").unwrap_or(at).to_path_buf(),
            links: HashMap::new(),
            until: self.until,
        };
        let mut builder = Builder {
            crew: &crew,
            packer: &self.packer,
            spec: &self.spec,
            notes: &self.notes,
            scratch: Scratch::default(),
            stack: Vec::new(),
            top: None,
            folders: [0; 3],
            digests: Vec::new(),
            kept: (0, 0),
        };
        std::thread::scope(|scope| {
            for _ in 0..crew::size() {
                scope.spawn(|| crew.work());
            }
            scope.spawn(|| {
                let walked = caught(|| walk.run(&source, &name, &meta, before.as_ref()));
                if let Err(why) = walked {
                    crew.fail(broke("the walk through the source", &why));
                }
                crew.close();
            });
            // Whatever happens here, the others must not wait for it.
            let built = caught(|| builder.build(receiver));
            if let Err(fault) = built.unwrap_or_else(|why| Err(broke("the backup", &why))) {
                crew.fail(fault);
            }
        });
        let Builder { top, folders, digests, kept, .. } = builder;
        if let Some(fault) = crew.fault() {
            return Err(fault);
        }
        self.digests.extend(digests);
        self.kept.0 += kept.0;
        self.kept.1 += kept.1;
        for (sum, new) in self.folders.iter_mut().zip(folders) {
            *sum += new;
        }
        match top {
            Some(node) => self.put(&place, &source, node),
            None => Ok(()),
        }
    }

    /// Takes in a stream as a file: `write` writes to what it is given, and says at the end whether the
    /// stream ended well. If it did not, nothing of it is in the snapshot, and there should be none.
    ///
    /// Errors: 2 when the place is taken; 4 when the bytes cannot be stored; what `write` says.
    pub fn stream(
        &mut self,
        at: &Path,
        write: &mut dyn FnMut(&mut (dyn Write + Send)) -> Result<(), Fault>,
    ) -> Result<Streamed, Fault> {
        let place = self.free(at)?;
        let crew = Crew::new(&self.packer, &self.parent, &self.progress, self.seed, true);
        let job = Job::stream();
        let result = std::thread::scope(|scope| {
            for _ in 1..crew::size() {
                scope.spawn(|| crew.work());
            }
            let mut sink = Sink {
                intake: Intake::new(&crew, Arc::clone(&job)),
                scratch: Scratch::default(),
                fault: None,
            };
            // Whatever happens here, the others must not wait for it.
            let written = caught(|| write(&mut sink)).unwrap_or_else(|why| Err(broke("the source", &why)));
            // A fault of the store reaches the writer as an I/O error only; here is the whole of it.
            let done = sink.fault.take().map_or(written, Err).and_then(|()| {
                let Sink { intake, mut scratch, .. } = sink;
                intake.end(false, &mut scratch)
            });
            if let Err(fault) = done {
                crew.fail(fault);
            }
            crew.close();
            job.wait(&crew)
        });
        if let Some(fault) = crew.fault() {
            return Err(fault);
        }
        let lost = || Fault::infrastructure("a stream was not stored").place(at.display().to_string());
        let content = result.and_then(Result::ok).ok_or_else(lost)?;
        let sha256 = content.sha256.ok_or_else(lost)?;
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        self.kept.0 += 1;
        self.kept.1 += content.size;
        self.fates.new.fetch_add(1, Ordering::Relaxed);
        let streamed = Streamed { size: content.size, sha256 };
        let node = self.made_node(&place, content);
        let shown = at.strip_prefix("/").unwrap_or(at).as_os_str().as_bytes().to_vec();
        self.digests.push((shown, sha256));
        self.put(&place, Path::new(""), node)?;
        Ok(streamed)
    }

    /// Keeps these bytes as a file.
    ///
    /// Errors: as [`Archive::stream`].
    pub fn bytes(&mut self, at: &Path, bytes: &[u8]) -> Result<Streamed, Fault> {
        self.stream(at, &mut |sink| {
            sink.write_all(bytes).map_err(|e| Fault::infrastructure("the store refused").cause(e))
        })
    }

    /// Makes everything durable but the snapshot itself.
    ///
    /// Errors (4): it cannot be stored; 2 when there is nothing in it.
    pub fn seal(mut self) -> Result<Sealed, Fault> {
        if self.root.entries.is_empty() {
            return Err(
                Fault::usage("there is nothing to back up").help("name at least one source with content")
            );
        }
        self.keep_manifest()?;
        let mut scratch = Scratch::default();
        let root = std::mem::replace(&mut self.root, Layout::new(b"", Moment::default(), 0, 0));
        let tree = self.save_layout(root, &mut scratch)?;
        self.packer.flush()?;
        if let Some((kind, id)) = self.index.on_its_way() {
            return Err(Fault::infrastructure("a part of the snapshot was not stored")
                .place(self.store.backend.place())
                .cause(format!("the {} blob {id} lies in no pack", kind.word())));
        }
        let snapshot = self.snapshot(tree);
        let mut notes = std::mem::take(&mut *lock(&self.notes));
        notes.sockets = self.fates.sockets.load(Ordering::Relaxed);
        let files = self.packer.files();
        Ok(Sealed { store: self.store, index: self.index, held: self.held, snapshot, notes, files })
    }

    fn keep_manifest(&mut self) -> Result<(), Fault> {
        let Some(at) = self.spec.manifest.clone() else { return Ok(()) };
        let mut lines = std::mem::take(&mut self.digests);
        lines.sort();
        self.bytes(&at, &manifest::text(&lines)).map(drop)
    }

    fn save_layout(&self, folder: Layout, scratch: &mut Scratch) -> Result<Id, Fault> {
        let mut nodes = Vec::with_capacity(folder.entries.len());
        for entry in folder.entries.into_values() {
            nodes.push(match entry {
                Entry::Node(node) => node,
                Entry::Folder(below) => {
                    let mut node = below.node.clone();
                    node.subtree = Some(self.save_layout(below, scratch)?);
                    node
                }
            });
        }
        self.packer.save(BlobKind::Tree, &tree::to_json(&nodes), scratch)
    }

    fn snapshot(&self, tree: Id) -> Snapshot {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let stored = self.packer.stored();
        let [new, changed, same] = self.folders;
        let summary = Summary {
            backup_start: self.spec.time,
            backup_end: world::now(),
            files_new: read(&self.fates.new),
            files_changed: read(&self.fates.changed),
            files_unmodified: read(&self.fates.same),
            dirs_new: new,
            dirs_changed: changed,
            dirs_unmodified: same,
            data_blobs: i64::try_from(stored.data_blobs).unwrap_or(i64::MAX),
            tree_blobs: i64::try_from(stored.tree_blobs).unwrap_or(i64::MAX),
            data_added: stored.plain_bytes,
            data_added_packed: stored.sealed_bytes,
            total_files_processed: self.kept.0,
            total_bytes_processed: self.kept.1,
        };
        Snapshot {
            time: self.spec.time,
            parent: self.spec.parent,
            tree,
            paths: self.spec.paths.clone(),
            hostname: self.spec.hostname.clone(),
            username: people::own_name(),
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            excludes: self.spec.excludes.clone(),
            tags: self.spec.tags.clone(),
            original: None,
            program_version: format!("trapkey {}", env!("CARGO_PKG_VERSION")),
            summary: Some(summary),
            more: std::collections::BTreeMap::new(),
        }
    }

    fn free(&self, at: &Path) -> Result<Vec<Vec<u8>>, Fault> {
        let place = steps(at)?;
        if self.root.is_taken(&place) {
            return Err(Fault::usage("two sources want the same place in a snapshot")
                .place(at.display().to_string())
                .help("give each its own"));
        }
        Ok(place)
    }

    /// Puts a node in its place. Folders above it that are those above the source look like them.
    fn put(&mut self, place: &[Vec<u8>], source: &Path, node: Node) -> Result<(), Fault> {
        let mut folders = Vec::new();
        let mut above = source.parent();
        let mut alike = true;
        for step in place.iter().rev().skip(1) {
            let mut folder = Layout::new(step, self.spec.time.into(), getuid().as_raw(), getgid().as_raw());
            alike &= above.and_then(Path::file_name).is_some_and(|name| name.as_bytes() == step);
            if let Some(path) = above.filter(|_| alike)
                && let Ok(meta) = fs::symlink_metadata(path)
                && kind_of(&meta) == Some(NodeKind::Dir)
            {
                folder.node = node_of(step, NodeKind::Dir, &meta, &self.people);
            }
            folders.push(folder);
            above = above.and_then(Path::parent);
        }
        folders.reverse();
        self.root.put(place, folders, node)
    }

    /// A file that no file system has.
    fn made_node(&self, place: &[Vec<u8>], content: Content) -> Node {
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let time: Moment = self.spec.time.into();
        Node {
            name: place.last().cloned().unwrap_or_default(),
            mode: mode::from_unix(NodeKind::File, 0o600),
            mtime: time,
            atime: time,
            ctime: time,
            uid,
            gid,
            user: self.people.user(uid).to_owned(),
            group: self.people.group(gid).to_owned(),
            size: content.size,
            links: 1,
            content: Some(content.pieces),
            ..Node::default()
        }
    }
}

fn digests(store: &Store, index: &Index, node: &Node) -> HashMap<Vec<u8>, Id> {
    let mut text = Vec::new();
    let mut scratch = Scratch::default();
    for id in node.content.iter().flatten() {
        // Without it the files are read again.
        if store.blob(index, BlobKind::Data, id, &mut scratch).is_err() {
            return HashMap::new();
        }
        text.extend_from_slice(&scratch.plain);
    }
    let mut known = manifest::parse(&text);
    // A file of one piece has the name of the piece; only those of several have to be remembered.
    known.retain(|_, sha256| !index.has_all(BlobKind::Data, &[*sha256]));
    known.shrink_to_fit();
    known
}

fn cannot_read(path: &Path, error: &io::Error) -> Fault {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => "give the job's user the right to read it, or leave it out",
        io::ErrorKind::NotFound => "correct the path, or make sure that nothing removes files meanwhile",
        _ => "look at the cause, or leave it out",
    };
    Fault::infrastructure("something cannot be backed up")
        .place(path.display().to_string())
        .cause(error)
        .help(help)
}

/// Where a stream is written to.
struct Sink<'a, 'b> {
    intake: Intake<'a, 'b>,
    scratch: Scratch,
    fault: Option<Fault>,
}

impl Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(fault) = self.intake.push(bytes, &mut self.scratch) {
            let line = fault.line();
            self.fault.get_or_insert(fault);
            return Err(io::Error::other(line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
