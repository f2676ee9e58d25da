//! Reads packs in their order, verifies blobs and writes files; several at once.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Notes;
use super::plan::{self, Piece, Plan};
use super::target::Target;
use crate::fault::Fault;
use crate::repository::restic::archiver::Progress;
use crate::repository::restic::backend::{self, Kind, Name};
use crate::repository::restic::index::Place;
use crate::repository::restic::opened::Opened;
use crate::repository::restic::packer::lock;
use crate::repository::restic::store::{Scratch, Store};
use crate::world::signal;

/// Blobs that lie this near to each other are read at once.
const GAP: u32 = 64 * 1024;
/// At most so many bytes are read at once, or one blob.
const AT_ONCE: u32 = 4 * 1024 * 1024;
/// Files that are written in several pieces are kept open up to this many.
const OPEN: usize = 200;
/// Runs of zeros from this many bytes on become holes.
const HOLE: usize = 64 * 1024;

/// Where one file stands.
#[derive(Default)]
struct State {
    begun: bool,
    written: u32,
    opened: Option<Arc<File>>,
}

struct Work<'a> {
    opened: &'a Opened,
    plan: &'a Plan,
    target: &'a Target,
    progress: &'a Progress,
    notes: &'a Notes,
    states: Vec<Mutex<State>>,
    open: AtomicUsize,
    /// The runs of pieces that are read at once.
    runs: Vec<std::ops::Range<usize>>,
    next: AtomicUsize,
    failed: Mutex<Option<Fault>>,
}

/// Writes all files of a plan.
pub(super) fn write(
    opened: &Opened,
    plan: &Plan,
    target: &Target,
    progress: &Progress,
    notes: &Notes,
) -> Result<(), Fault> {
    progress.files.fetch_add(plan.kept + plan.links.len() as u64, Ordering::Relaxed);
    progress.bytes.fetch_add(plan.kept_bytes, Ordering::Relaxed);
    let work = Work {
        opened,
        plan,
        target,
        progress,
        notes,
        states: plan.files.iter().map(|_| Mutex::default()).collect(),
        open: AtomicUsize::new(0),
        runs: runs(&plan.pieces),
        next: AtomicUsize::new(0),
        failed: Mutex::new(None),
    };
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work.until_done());
        }
    });
    match work.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

fn runs(pieces: &[Piece]) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for at in 1..=pieces.len() {
        let first = &pieces[start];
        let goes_on = pieces.get(at).is_some_and(|piece| {
            let end = pieces[at - 1].blob.offset + pieces[at - 1].blob.length;
            piece.pack == first.pack
                && piece.blob.offset.saturating_sub(end) <= GAP
                && piece.blob.offset + piece.blob.length - first.blob.offset <= AT_ONCE
        });
        if !goes_on {
            runs.push(start..at);
            start = at;
        }
    }
    runs
}

impl Work<'_> {
    fn until_done(&self) {
        let mut hands = Hands::default();
        let done = self.empty_files(&mut hands).and_then(|()| {
            while let Some(run) = self.runs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
                if signal::stop_asked() {
                    return Err(plan::interrupted());
                }
                if lock(&self.failed).is_some() {
                    return Ok(());
                }
                self.run(&self.plan.pieces[run.clone()], &mut hands)?;
            }
            Ok(())
        });
        if let Err(fault) = done {
            lock(&self.failed).get_or_insert(fault);
        }
    }

    /// Files without any piece, by the first worker that comes to them.
    fn empty_files(&self, hands: &mut Hands) -> Result<(), Fault> {
        for (at, file) in self.plan.files.iter().enumerate().filter(|(_, file)| file.pieces == 0) {
            let mut state = lock(&self.states[at]);
            if !state.begun {
                state.begun = true;
                let written = self.create(at, hands).and_then(|made| self.finish(at, &made, hands));
                written.map_err(|errno| self.target.failed(&self.plan.path(file), errno))?;
            }
        }
        Ok(())
    }

    fn run(&self, pieces: &[Piece], hands: &mut Hands) -> Result<(), Fault> {
        // An index that was made to harm may have blobs that lie in each other.
        let end = pieces.iter().map(|piece| piece.blob.offset + piece.blob.length).max();
        let (Some(first), Some(end)) = (pieces.first(), end) else { return Ok(()) };
        let name = Name::File(Kind::Pack, first.pack);
        let store: &Store = &self.opened.store;
        let length = end - first.blob.offset;
        let hit = |fault: Fault, piece: &Piece| {
            let path = self.plan.path(&self.plan.files[piece.file as usize]);
            let cause = fault.cause.clone().unwrap_or_default();
            fault.cause(format!("{cause}; the file `{}` needs it", path.display()))
        };
        let mut bytes = std::mem::take(&mut hands.bytes);
        store
            .backend
            .read(name, first.blob.offset.into(), length as usize, &mut bytes)
            .map_err(|fault| hit(fault, first))?;
        let mut before = None;
        for piece in pieces {
            // The same blob for another file, or for another place in the same.
            if before != Some(piece.blob) {
                let start = (piece.blob.offset - first.blob.offset) as usize;
                let sealed = &bytes[start..start + piece.blob.length as usize];
                let opened = store.open_blob(sealed, &piece.blob, &mut hands.scratch);
                if opened.is_err() && store.backend.remote() {
                    // It may have been damaged on the way only.
                    let place = Place { pack: first.pack, blob: piece.blob };
                    store.read_blob(&place, &mut hands.scratch).map_err(|fault| hit(fault, piece))?;
                } else {
                    opened.map_err(|why| {
                        let why = format!("the data blob {}: {why}", piece.blob.id);
                        hit(backend::damaged(&*store.backend, name, why), piece)
                    })?;
                }
                before = Some(piece.blob);
            }
            self.piece(piece, hands)?;
        }
        hands.bytes = bytes;
        Ok(())
    }

    fn piece(&self, piece: &Piece, hands: &mut Hands) -> Result<(), Fault> {
        let at = piece.file as usize;
        let file = &self.plan.files[at];
        let failed = |errno| self.target.failed(&self.plan.path(file), errno);
        let opened = self.opened(at, hands).map_err(failed)?;
        let plain = std::mem::take(&mut hands.scratch.plain);
        let written = if self.target.sparse {
            write_with_holes(&opened, &plain, piece.offset)
        } else {
            opened.write_all_at(&plain, piece.offset)
        };
        self.progress.bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        hands.scratch.plain = plain;
        written.map_err(|e| crate::world::files::unwritable(&self.plan.path(file), &e))?;
        let mut state = lock(&self.states[at]);
        state.written += 1;
        if state.written < file.pieces {
            return Ok(());
        }
        if state.opened.take().is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        drop(state);
        if self.target.sparse {
            opened
                .set_len(file.size)
                .map_err(|e| crate::world::files::unwritable(&self.plan.path(file), &e))?;
        }
        self.finish(at, &opened, hands).map_err(failed)
    }

    /// The opened file, created by the first piece that comes.
    fn opened(&self, at: usize, hands: &mut Hands) -> rustix::io::Result<Arc<File>> {
        let mut state = lock(&self.states[at]);
        if let Some(opened) = &state.opened {
            return Ok(Arc::clone(opened));
        }
        let opened = if state.begun {
            let folder = hands.folder(self, at)?;
            Arc::new(Target::reopen(folder.as_fd(), &self.target.unfinished(at))?)
        } else {
            state.begun = true;
            Arc::new(self.create(at, hands)?)
        };
        if self.plan.files[at].pieces > 1 && self.open.load(Ordering::Relaxed) < OPEN {
            self.open.fetch_add(1, Ordering::Relaxed);
            state.opened = Some(Arc::clone(&opened));
        }
        Ok(opened)
    }

    fn create(&self, at: usize, hands: &mut Hands) -> rustix::io::Result<File> {
        let folder = hands.folder(self, at)?;
        Target::create(folder.as_fd(), &self.target.unfinished(at))
    }

    fn finish(&self, at: usize, opened: &File, hands: &mut Hands) -> rustix::io::Result<()> {
        let file = &self.plan.files[at];
        let folder = hands.folder(self, at)?;
        let path = &self.plan.folders[file.folder].path;
        let notes: (&Notes, &Path) = (self.notes, path);
        self.target.finish_file(folder.as_fd(), opened, &self.target.unfinished(at), file, notes)?;
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What one worker has at hand.
#[derive(Default)]
struct Hands {
    scratch: Scratch,
    bytes: Vec<u8>,
    folder: Option<(usize, Arc<OwnedFd>)>,
}

impl Hands {
    /// The folder of a file; files of the same folder mostly come one after the other.
    fn folder(&mut self, work: &Work<'_>, at: usize) -> rustix::io::Result<Arc<OwnedFd>> {
        let number = work.plan.files[at].folder;
        if let Some((same, folder)) = &self.folder
            && *same == number
        {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(work.target.folder(&work.plan.folders[number].path)?);
        self.folder = Some((number, Arc::clone(&folder)));
        Ok(folder)
    }
}

/// Writes all but long runs of zeros; the file is new, so that they are holes.
fn write_with_holes(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    static ZEROS: [u8; HOLE] = [0; HOLE];
    let mut start = 0;
    for (at, _) in bytes.chunks_exact(HOLE).enumerate().filter(|(_, part)| **part == ZEROS) {
        let hole = at * HOLE;
        file.write_all_at(&bytes[start..hole], offset + start as u64)?;
        start = hole + HOLE;
    }
    file.write_all_at(&bytes[start..], offset + start as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::restic::id::Id;
    use crate::repository::restic::pack::{Blob, BlobKind};

    #[test]
    fn blobs_near_to_each_other_are_read_at_once() {
        let piece = |pack: u8, offset: u32, length: u32| Piece {
            pack: Id([pack; 32]),
            blob: Blob { kind: BlobKind::Data, id: Id::of(b""), offset, length, uncompressed: 0 },
            file: 0,
            offset: 0,
        };
        let pieces = [
            piece(1, 0, 100),
            piece(1, 0, 100),
            piece(1, 100 + GAP, 100),
            piece(1, 300 + 2 * GAP, 100),
            piece(2, 400 + 2 * GAP, 100),
            piece(2, 500 + 2 * GAP, AT_ONCE),
        ];
        assert_eq!(runs(&pieces), [0..3, 3..4, 4..5, 5..6]);
        assert_eq!(runs(&[]), Vec::<std::ops::Range<usize>>::new());
    }
}
