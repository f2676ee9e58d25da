//! The workers of a backup: they read, hash, compress, encrypt and store, in bounded memory.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::ahead::Look;
use super::cutter::MIN;
use super::holes::{Holes, Part};
use super::intake::Intake;
use super::parent::Parent;
use crate::bounds;
use crate::caught::{broke, caught};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::pack::BlobKind;
use crate::repository::restic::packer::{Packer, lock};
use crate::repository::restic::store::Scratch;
use crate::world::signal;

/// Bytes of pieces that wait for a worker.
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Files that wait for a worker.
const WAITING_FILES: usize = 1024;

/// How far a backup is; may be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files that are done.
    pub files: AtomicU64,
    /// Bytes that were read, or known from the parent.
    pub bytes: AtomicU64,
}

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Its pieces.
    pub(super) pieces: Vec<Id>,
    /// Its bytes.
    pub(super) size: u64,
    /// Its SHA-256, when that was asked for.
    pub(super) sha256: Option<Id>,
    /// Whether it changed while it was read.
    pub(super) changed: bool,
}

/// A file that is to be read.
#[derive(Debug)]
pub(super) struct Job {
    path: PathBuf,
    seen: Option<Identity>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Option<Id>>,
    missing: usize,
    /// What else is known, once the reading is over.
    read: Option<Content>,
    failed: Option<Arc<io::Error>>,
}

/// What makes a file the same file with the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Job {
    pub(super) fn file(path: PathBuf, seen: Identity) -> Arc<Self> {
        Arc::new(Self { path, seen: Some(seen), state: Mutex::default(), done: Condvar::new() })
    }

    /// Whether the file was seen like this.
    pub(super) fn saw(&self, meta: &Metadata) -> bool {
        self.seen == Some(Identity::of(meta))
    }

    /// The same file to be read once more under another name, as it was seen under the first.
    pub(super) fn again(&self, path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, seen: self.seen, state: Mutex::default(), done: Condvar::new() })
    }

    /// Bytes that come from elsewhere.
    pub(super) fn stream() -> Arc<Self> {
        let path = PathBuf::new();
        Arc::new(Self { path, seen: None, state: Mutex::default(), done: Condvar::new() })
    }

    /// Waits until the content is stored.
    ///
    /// Errors: the file could not be read. None when the backup failed elsewhere.
    pub(super) fn wait(&self, crew: &Crew) -> Option<Result<Content, Arc<io::Error>>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(failed) = &state.failed {
                return Some(Err(Arc::clone(failed)));
            }
            if state.missing == 0 && state.read.is_some() {
                let pieces = std::mem::take(&mut state.pieces).into_iter().flatten().collect();
                // Hard links ask for the same content again.
                let content = Content { pieces, ..state.read.clone().unwrap_or_default() };
                state.pieces = content.pieces.iter().copied().map(Some).collect();
                return Some(Ok(content));
            }
            if crew.has_failed() {
                return None;
            }
            // Woken by the last piece; the limit is for a failure elsewhere.
            let waited = self.done.wait_timeout(state, std::time::Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn expect_piece(&self) -> usize {
        let mut state = lock(&self.state);
        state.pieces.push(None);
        state.missing += 1;
        state.pieces.len() - 1
    }

    pub(super) fn piece(&self, at: usize, id: Id) {
        let mut state = lock(&self.state);
        state.pieces[at] = Some(id);
        state.missing -= 1;
        if state.missing == 0 && state.read.is_some() {
            self.done.notify_all();
        }
    }

    pub(super) fn end(&self, read: Content) {
        let mut state = lock(&self.state);
        state.read = Some(read);
        if state.missing == 0 {
            self.done.notify_all();
        }
    }

    fn fail(&self, error: io::Error) {
        lock(&self.state).failed = Some(Arc::new(error));
        self.done.notify_all();
    }
}

struct Piece {
    job: Arc<Job>,
    at: usize,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    looks: VecDeque<Arc<Look>>,
    files: VecDeque<Arc<Job>>,
    closed: bool,
    failed: Option<Fault>,
}

enum Task {
    Piece(Piece),
    Look(Arc<Look>),
    File(Arc<Job>),
}

/// What the workers share.
pub(super) struct Crew<'a> {
    pub(super) packer: &'a Packer,
    parent: &'a Parent,
    pub(super) progress: &'a Progress,
    pub(super) seed: u64,
    pub(super) digests: bool,
    queue: Mutex<Queue>,
    work: Condvar,
    room: Condvar,
}

impl<'a> Crew<'a> {
    /// `digests`: the SHA-256 of whole files is wanted.
    pub(super) fn new(
        packer: &'a Packer,
        parent: &'a Parent,
        progress: &'a Progress,
        seed: u64,
        digests: bool,
    ) -> Self {
        Self {
            packer,
            parent,
            progress,
            seed,
            digests,
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// Hands over a file; waits while too many wait.
    pub(super) fn read(&self, job: Arc<Job>) {
        let mut queue = lock(&self.queue);
        while queue.files.len() >= WAITING_FILES && queue.failed.is_none() {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.files.push_back(job);
        drop(queue);
        self.work.notify_one();
    }

    /// Hands over a folder that the walk is going to come to.
    pub(super) fn look(&self, look: Arc<Look>) {
        lock(&self.queue).looks.push_back(look);
        self.work.notify_one();
    }

    /// No more work comes.
    pub(super) fn close(&self) {
        lock(&self.queue).closed = true;
        self.work.notify_all();
    }

    /// Ends everything; the first fault is the one to tell.
    pub(super) fn fail(&self, fault: Fault) {
        lock(&self.queue).failed.get_or_insert(fault);
        self.work.notify_all();
        self.room.notify_all();
    }

    pub(super) fn has_failed(&self) -> bool {
        lock(&self.queue).failed.is_some()
    }

    /// The first fault.
    pub(super) fn fault(&self) -> Option<Fault> {
        lock(&self.queue).failed.clone()
    }

    /// One worker: works until there is nothing left, or something failed.
    pub(super) fn work(&self) {
        let mut scratch = Scratch::default();
        let mut small = Vec::new();
        while let Some(task) = self.next() {
            let done = caught(|| match task {
                Task::Piece(piece) => self.store(&piece, &mut scratch),
                Task::Look(look) => {
                    look.work(self.parent);
                    Ok(())
                }
                Task::File(job) => self.file(&job, &mut small, &mut scratch),
            });
            if let Err(fault) = done.unwrap_or_else(|why| Err(broke("the backup", &why))) {
                self.fail(fault);
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if let Some(piece) = queue.pieces.pop_front() {
                queue.bytes -= piece.bytes.len();
                drop(queue);
                self.room.notify_all();
                return Some(Task::Piece(piece));
            }
            if let Some(look) = queue.looks.pop_front() {
                return Some(Task::Look(look));
            }
            if let Some(job) = queue.files.pop_front() {
                // Waking the walker for each file would cost more than it gives.
                let wake = queue.files.len() == WAITING_FILES / 2;
                drop(queue);
                if wake {
                    self.room.notify_all();
                }
                return Some(Task::File(job));
            }
            if queue.closed {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn store(&self, piece: &Piece, scratch: &mut Scratch) -> Result<(), Fault> {
        let id = self.packer.save(BlobKind::Data, &piece.bytes, scratch)?;
        piece.job.piece(piece.at, id);
        Ok(())
    }

    /// A piece for whoever has time; stored here and now when all are busy.
    pub(super) fn offer(&self, job: &Arc<Job>, bytes: &[u8], scratch: &mut Scratch) -> Result<(), Fault> {
        let at = job.expect_piece();
        let mut queue = lock(&self.queue);
        if queue.bytes + bytes.len() > WAITING_BYTES {
            drop(queue);
            let id = self.packer.save(BlobKind::Data, bytes, scratch)?;
            job.piece(at, id);
            return Ok(());
        }
        queue.bytes += bytes.len();
        drop(queue);
        // Copied outside of the lock.
        let piece = Piece { job: Arc::clone(job), at, bytes: bytes.to_vec() };
        lock(&self.queue).pieces.push_back(piece);
        self.work.notify_one();
        Ok(())
    }

    fn file(&self, job: &Arc<Job>, small: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), Fault> {
        if signal::stop_asked() {
            return Err(interrupted());
        }
        // What goes wrong with the file is for the builder to judge, what goes wrong with the store ends all.
        match open(job) {
            Err(error) => job.fail(error),
            Ok((file, meta)) if meta.len() <= MIN as u64 => self.small(job, &file, small, scratch)?,
            Ok((file, _)) => self.large(job, &file, scratch)?,
        }
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn small(
        &self,
        job: &Job,
        file: &File,
        buffer: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        buffer.clear();
        // A file that grows meanwhile is not followed.
        if let Err(error) = file.take(MIN as u64).read_to_end(buffer) {
            job.fail(error);
            return Ok(());
        }
        let size = buffer.len() as u64;
        let Some(changed) = changed(job, file, size) else { return Ok(()) };
        let mut content = Content { size, changed, ..Content::default() };
        let id = if buffer.is_empty() {
            Id::of(b"")
        } else {
            self.packer.save(BlobKind::Data, buffer, scratch)?
        };
        content.sha256 = Some(id);
        if !buffer.is_empty() {
            let at = job.expect_piece();
            job.piece(at, id);
        }
        self.progress.bytes.fetch_add(size, Ordering::Relaxed);
        job.end(content);
        Ok(())
    }

    fn large(&self, job: &Arc<Job>, file: &File, scratch: &mut Scratch) -> Result<(), Fault> {
        let mut intake = Intake::new(self, Arc::clone(job));
        let mut holes = Holes::new(file);
        let whole = job.seen.map_or(u64::MAX, |seen| seen.size);
        while intake.size < whole && !self.has_failed() {
            if signal::stop_asked() {
                return Err(interrupted());
            }
            let left = match holes.at(intake.size, whole) {
                Part::Hole(length) => {
                    intake.zeros(length, scratch)?;
                    continue;
                }
                Part::Data(length) => length,
            };
            let room = intake.cutter.room();
            let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX)).min(1 << 20);
            let read = match file.read_at(&mut room[..most], intake.size) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    job.fail(error);
                    return Ok(());
                }
            };
            intake.took(read, scratch)?;
        }
        let Some(changed) = changed(job, file, intake.size) else { return Ok(()) };
        intake.end(changed, scratch)
    }
}

fn open(job: &Job) -> io::Result<(File, Metadata)> {
    // Never through a link, and never waiting for a pipe, that took the file's place meanwhile.
    let file = bounds::open_seen(&job.path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// Whether a file is no longer what was seen; none when it cannot be asked.
fn changed(job: &Job, file: &File, size: u64) -> Option<bool> {
    match file.metadata() {
        Err(error) => {
            job.fail(error);
            None
        }
        Ok(after) => Some(job.seen != Some(Identity::of(&after)) || after.len() != size),
    }
}

pub(super) fn interrupted() -> Fault {
    Fault::infrastructure("the backup was interrupted").help("no snapshot was written; run it again")
}

/// How many workers there are: one for each processor, four at most, for each needs memory.
pub(super) fn size() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4))
}
