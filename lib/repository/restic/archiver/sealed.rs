//! A snapshot that lies in the repository whole, but is not listed yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use crate::fault::Fault;
use crate::repository::restic::backend::{self, Kind, Name};
use crate::repository::restic::id::Id;
use crate::repository::restic::index::Index;
use crate::repository::restic::locks::Held;
use crate::repository::restic::packer::Files;
use crate::repository::restic::snapshot::Snapshot;
use crate::repository::restic::store::Store;
use crate::world::signal;

use super::Notes;

/// Whole, durable, and not listed. Dropping it leaves no snapshot.
#[derive(Debug)]
pub struct Sealed {
    pub(super) store: Arc<Store>,
    pub(super) index: Arc<Index>,
    pub(super) held: Held,
    pub(super) snapshot: Snapshot,
    pub(super) notes: Notes,
    pub(super) files: Files,
}

/// What was read back from the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Packs.
    pub packs: u64,
    /// Blobs in them.
    pub blobs: u64,
    /// Bytes, as they lie there.
    pub bytes: u64,
}

impl Sealed {
    /// What will be listed.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What was noted instead of failing.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Reads everything that was written back from the store, and compares it: the header of every
    /// pack says what the index says, and every blob is authentic, so that it is the one that was
    /// decrypted, decompressed and compared before its pack was written.
    /// `seen` hears the bytes so far.
    ///
    /// Errors (4): something reads back differently than it was written.
    pub fn prove(&self, seen: &mut dyn FnMut(u64)) -> Result<Proof, Fault> {
        let mut proof = Proof::default();
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let (proofs, proven) = channel();
        let mut first = Ok(());
        std::thread::scope(|scope| {
            for _ in 0..super::crew::size() {
                let (proofs, next, failed) = (proofs.clone(), &next, &failed);
                scope.spawn(move || {
                    let mut whole = Vec::new();
                    while let Some(id) = self.files.packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let pack = self.prove_pack(*id, &mut whole);
                        failed.fetch_or(pack.is_err(), Ordering::Relaxed);
                        // Nobody listens any more: it failed elsewhere.
                        if proofs.send(pack).is_err() || failed.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            drop(proofs);
            for pack in proven {
                match pack {
                    Ok((blobs, bytes)) => {
                        proof.packs += 1;
                        proof.blobs += blobs;
                        proof.bytes += bytes;
                        seen(proof.bytes);
                    }
                    Err(fault) if first.is_ok() => first = Err(fault),
                    Err(_) => {}
                }
            }
        });
        first?;
        for id in &self.files.indexes {
            self.store.load_index(*id)?;
        }
        Ok(proof)
    }

    /// Returns its blobs and bytes.
    fn prove_pack(&self, id: Id, whole: &mut Vec<u8>) -> Result<(u64, u64), Fault> {
        if signal::stop_asked() {
            return Err(super::crew::interrupted());
        }
        let name = Name::File(Kind::Pack, id);
        let missing = || backend::missing(&*self.store.backend, name);
        let length = self.store.backend.length(name)?.ok_or_else(missing)?;
        let bytes = usize::try_from(length).map_err(|_| missing())?;
        self.store.backend.read(name, 0, bytes, whole)?;
        let blobs = self.compare(whole).map_err(|why| {
            backend::damaged(&*self.store.backend, name, why)
                .help("it was written a moment ago: do not trust this store")
        })?;
        Ok((blobs, length))
    }

    /// No byte of a pack is left out: there are blobs, their header, and its length.
    fn compare(&self, whole: &[u8]) -> Result<u64, String> {
        let blobs = self.store.header_of(whole)?;
        for blob in &blobs {
            let start = blob.offset as usize;
            let sealed = whole.get(start..start + blob.length as usize).ok_or("a blob lies outside")?;
            if !self.store.key.authenticates(sealed) {
                return Err(format!("the blob {}: it is not what was written", blob.id));
            }
            if self.index.find(blob.kind, &blob.id).is_none() {
                return Err(format!("no index names its blob {}", blob.id));
            }
        }
        Ok(blobs.len() as u64)
    }

    /// Lists the snapshot, in one step, and returns its id.
    ///
    /// Errors (4): the lock was lost, so that somebody may have removed what it needs; the store
    /// refused.
    pub fn commit(self) -> Result<Id, Fault> {
        self.held.still_holds()?;
        let json = serde_json::to_vec(&self.snapshot)
            .map_err(|e| Fault::infrastructure("a snapshot cannot be written").cause(e))?;
        self.store.save(Kind::Snapshot, &json)
    }
}
