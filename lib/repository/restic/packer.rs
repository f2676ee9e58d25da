//! Stores blobs: each once, in packs, and names the packs in index files.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::backend::{Kind, Name};
use super::id::Id;
use super::index::{self, BLOBS_PER_FILE, Index, Packed};
use super::pack::{self, Blob, BlobKind};
use super::store::{Scratch, Seen, Store, seal_blob};
use crate::caught::{broke, caught};
use crate::fault::Fault;

/// When a pack and an index file are full.
#[derive(Clone, Copy, Debug)]
struct Limits {
    pack_bytes: usize,
    pack_blobs: usize,
    index_blobs: usize,
}

/// A header stays far below what restic reads.
const LIMITS: Limits = Limits { pack_bytes: pack::TARGET, pack_blobs: 40_000, index_blobs: BLOBS_PER_FILE };

/// Room of so many packs is kept for those to come.
const SPARE: usize = 2;

/// Writes packs; shared by all workers.
#[derive(Debug)]
pub(super) struct Packer {
    shelf: Arc<Shelf>,
    data: Mutex<Open>,
    trees: Mutex<Open>,
    counts: Counts,
    limits: Limits,
}

/// Where full packs go.
#[derive(Debug)]
struct Shelf {
    store: Arc<Store>,
    index: Arc<Index>,
    /// Room of packs that were written, for those to come: to give it back and ask for it again each
    /// time would take more memory, and time.
    spare: Mutex<Vec<Vec<u8>>>,
    done: Mutex<Done>,
    /// When an index file is full; none where whoever calls names the packs.
    naming: Option<usize>,
    flying: Mutex<Flying>,
    landed: Condvar,
}

/// Packs that are on their way to the store.
#[derive(Debug, Default)]
struct Flying {
    packs: usize,
    /// The first one that went wrong.
    fault: Option<Fault>,
}

/// A pack that is not full yet.
#[derive(Debug, Default)]
struct Open {
    bytes: Vec<u8>,
    blobs: Vec<Blob>,
}

#[derive(Debug, Default)]
struct Done {
    /// Packs that no index file names yet.
    unnamed: Vec<Packed>,
    blobs: usize,
    packs: Vec<Id>,
    indexes: Vec<Id>,
}

/// What was stored.
#[derive(Debug, Default)]
struct Counts {
    data_blobs: AtomicU64,
    tree_blobs: AtomicU64,
    plain_bytes: AtomicU64,
    sealed_bytes: AtomicU64,
}

/// What was stored, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) data_blobs: u64,
    pub(super) tree_blobs: u64,
    pub(super) plain_bytes: u64,
    pub(super) sealed_bytes: u64,
}

/// The files that were written.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) packs: Vec<Id>,
    pub(super) indexes: Vec<Id>,
}

impl Packer {
    pub(super) fn new(store: Arc<Store>, index: Arc<Index>) -> Self {
        Self::with(store, index, true, LIMITS)
    }

    /// The same, but whoever calls names the packs.
    pub(super) fn without_index(store: Arc<Store>) -> Self {
        Self::with(store, Arc::default(), false, LIMITS)
    }

    fn with(store: Arc<Store>, index: Arc<Index>, naming: bool, limits: Limits) -> Self {
        let shelf = Shelf {
            store,
            index,
            spare: Mutex::default(),
            done: Mutex::default(),
            naming: naming.then_some(limits.index_blobs),
            flying: Mutex::default(),
            landed: Condvar::new(),
        };
        let (data, trees) = (Mutex::default(), Mutex::default());
        Self { shelf: Arc::new(shelf), data, trees, counts: Counts::default(), limits }
    }

    /// Stores a blob if the repository does not have it, and returns its id.
    pub(super) fn save(&self, kind: BlobKind, plain: &[u8], scratch: &mut Scratch) -> Result<Id, Fault> {
        let seen = Seen::of(plain);
        let id = Id::of(plain);
        if self.shelf.index.claim(kind, id) {
            let store = &self.shelf.store;
            let stored = seal_blob(&store.key, store, (kind, id, seen), plain, scratch).and_then(|blob| {
                self.count(kind, plain.len(), scratch.sealed.len());
                self.append(&scratch.sealed, blob)
            });
            // Others rely on it by now, and a pack that is not written takes blobs of others with it.
            stored.inspect_err(|fault| self.shelf.failed(fault))?;
        }
        Ok(id)
    }

    /// Why something that was to be stored is not: nothing that comes after it is worth anything.
    pub(super) fn fault(&self) -> Option<Fault> {
        lock(&self.shelf.flying).fault.clone()
    }

    /// Takes over a verified blob as it lies in another pack, for a pack of its own kind.
    pub(super) fn take_over(&self, sealed: &[u8], blob: &Blob) -> Result<(), Fault> {
        self.count(blob.kind, blob.plain_length() as usize, sealed.len());
        self.append(sealed, *blob)
    }

    fn count(&self, kind: BlobKind, plain: usize, stored: usize) {
        let blobs = if kind == BlobKind::Data { &self.counts.data_blobs } else { &self.counts.tree_blobs };
        blobs.fetch_add(1, Ordering::Relaxed);
        self.counts.plain_bytes.fetch_add(plain as u64, Ordering::Relaxed);
        self.counts.sealed_bytes.fetch_add(stored as u64, Ordering::Relaxed);
    }

    fn append(&self, sealed: &[u8], mut blob: Blob) -> Result<(), Fault> {
        let mut open = lock(if blob.kind == BlobKind::Data { &self.data } else { &self.trees });
        if open.bytes.capacity() == 0 && blob.kind == BlobKind::Data {
            open.bytes = lock(&self.shelf.spare).pop().unwrap_or_default();
            open.bytes.reserve(pack::TARGET + pack::TARGET / 8);
        }
        // A pack ends at 16 MiB or with the blob that crosses them; blobs are 512 MiB at most.
        blob.offset = u32::try_from(open.bytes.len())
            .map_err(|e| Fault::infrastructure("a pack has become too long").cause(e))?;
        open.bytes.extend_from_slice(sealed);
        open.blobs.push(blob);
        if open.bytes.len() < self.limits.pack_bytes && open.blobs.len() < self.limits.pack_blobs {
            return Ok(());
        }
        let full = std::mem::take(&mut *open);
        drop(open);
        self.write(full)
    }

    /// Ends a pack and hands it over.
    fn write(&self, mut full: Open) -> Result<(), Fault> {
        if full.blobs.is_empty() {
            return Ok(());
        }
        let start = full.bytes.len();
        self.shelf.store.key.encrypt(&pack::header(&full.blobs), &mut full.bytes)?;
        let header = u32::try_from(full.bytes.len() - start)
            .map_err(|e| Fault::infrastructure("the header of a pack has become too long").cause(e))?;
        full.bytes.extend_from_slice(&header.to_le_bytes());
        let id = Id::of(&full.bytes);
        match self.shelf.store.backend.uploads() {
            0 => self.shelf.put(id, full),
            most => Shelf::send(&self.shelf, id, full, most),
        }
    }

    /// Writes what is not written yet: the packs, then the index that names them.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        for open in [&self.data, &self.trees] {
            let rest = std::mem::take(&mut *lock(open));
            self.write(rest)?;
        }
        self.shelf.land()?;
        let rest = {
            let mut written = lock(&self.shelf.done);
            written.blobs = 0;
            std::mem::take(&mut written.unnamed)
        };
        self.shelf.name(&rest)
    }

    /// Writes the rest of the packs and hands them over without naming them in an index.
    pub(super) fn finish_packs(&self) -> Result<Vec<Packed>, Fault> {
        for open in [&self.data, &self.trees] {
            let rest = std::mem::take(&mut *lock(open));
            self.write(rest)?;
        }
        self.shelf.land()?;
        Ok(std::mem::take(&mut lock(&self.shelf.done).unnamed))
    }

    /// What was stored so far.
    pub(super) fn stored(&self) -> Stored {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stored {
            data_blobs: read(&self.counts.data_blobs),
            tree_blobs: read(&self.counts.tree_blobs),
            plain_bytes: read(&self.counts.plain_bytes),
            sealed_bytes: read(&self.counts.sealed_bytes),
        }
    }

    /// The files that were written so far.
    pub(super) fn files(&self) -> Files {
        let written = lock(&self.shelf.done);
        Files { packs: written.packs.clone(), indexes: written.indexes.clone() }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // Nothing may be written any more once the repository is not locked.
        let _ = self.shelf.land();
    }
}

impl Shelf {
    /// Sends a pack on its way; waits while `most` are on theirs.
    ///
    /// Errors: an earlier one could not be written.
    fn send(shelf: &Arc<Self>, id: Id, full: Open, most: usize) -> Result<(), Fault> {
        let mut flying = lock(&shelf.flying);
        while flying.packs >= most && flying.fault.is_none() {
            flying = shelf.landed.wait(flying).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(fault) = &flying.fault {
            return Err(fault.clone());
        }
        flying.packs += 1;
        drop(flying);
        let landing = Landing(Arc::clone(shelf));
        let sent = std::thread::Builder::new().name("upload".into()).spawn(move || {
            let put = caught(|| landing.0.put(id, full));
            if let Err(fault) = put.unwrap_or_else(|why| Err(broke("sending a pack", &why))) {
                landing.0.failed(&fault);
            }
        });
        // A thread that was not started has landed by now.
        sent.map(drop).map_err(|e| Fault::infrastructure("a pack cannot be sent").cause(e))
    }

    /// Waits until no pack is on its way.
    ///
    /// Errors: one could not be written.
    fn land(&self) -> Result<(), Fault> {
        let mut flying = lock(&self.flying);
        while flying.packs > 0 {
            flying = self.landed.wait(flying).unwrap_or_else(PoisonError::into_inner);
        }
        flying.fault.clone().map_or(Ok(()), Err)
    }

    fn failed(&self, fault: &Fault) {
        lock(&self.flying).fault.get_or_insert_with(|| fault.clone());
    }

    /// Writes a pack, and an index file when there is enough for one.
    fn put(&self, id: Id, mut full: Open) -> Result<(), Fault> {
        self.store.backend.put(Name::File(Kind::Pack, id), &[&full.bytes])?;
        full.bytes.clear();
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE {
            spare.push(full.bytes);
        }
        drop(spare);
        // Only now: whoever finds a blob in the index may read it.
        self.index.add(id, &full.blobs);
        let ripe = {
            let mut written = lock(&self.done);
            written.packs.push(id);
            written.blobs += full.blobs.len();
            written.unnamed.push((id, full.blobs));
            if self.naming.is_none_or(|most| written.blobs < most) {
                return Ok(());
            }
            written.blobs = 0;
            std::mem::take(&mut written.unnamed)
        };
        self.name(&ripe)
    }

    fn name(&self, packs: &[Packed]) -> Result<(), Fault> {
        if packs.is_empty() {
            return Ok(());
        }
        let json = index::to_json(packs, &[])
            .map_err(|e| Fault::infrastructure("an index cannot be written").cause(e))?;
        let id = self.store.save(Kind::Index, &json)?;
        lock(&self.done).indexes.push(id);
        Ok(())
    }
}

/// Says at the end that a pack is not on its way any more, however that went.
struct Landing(Arc<Shelf>);

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.0.flying).packs -= 1;
        self.0.landed.notify_all();
    }
}

/// A poisoned lock means that another worker failed, and then nothing is committed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::restic::backend::{Backend, Local};
    use crate::repository::restic::crypto::Key;

    #[test]
    fn very_many_small_blobs_go_to_several_packs_and_index_files() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(Local::new(folder.path()));
        let store = Arc::new(Store::new(backend.clone(), Key::random().unwrap(), 2));
        let limits = Limits { pack_blobs: 400, index_blobs: 500, ..LIMITS };
        let packer = Packer::with(Arc::clone(&store), Arc::default(), true, limits);
        let many: usize = 810;
        std::thread::scope(|scope| {
            for half in 0..2 {
                let packer = &packer;
                scope.spawn(move || {
                    let mut scratch = Scratch::default();
                    // Both store some of the same.
                    for number in (half * many / 2..many / 2 + half * many / 2).chain(0..100) {
                        packer.save(BlobKind::Data, &number.to_le_bytes(), &mut scratch).unwrap();
                    }
                });
            }
        });
        packer.flush().unwrap();
        assert_eq!(packer.stored().data_blobs, many as u64);
        let files = packer.files();
        assert_eq!((files.packs.len(), files.indexes.len()), (3, 2));
        assert_eq!(backend.list(Kind::Index).unwrap().len(), 2);
        let index = store.trusted_index().unwrap();
        let mut scratch = Scratch::default();
        for number in (0..many).step_by(7) {
            let bytes = number.to_le_bytes();
            store.blob(&index, BlobKind::Data, &Id::of(&bytes), &mut scratch).unwrap();
            assert_eq!(scratch.plain, bytes);
        }
    }
}
