//! A snapshot that lies in the repository whole, but is not listed yet.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use crate::fault::Fault;
use crate::repository::restic::backend::{self, Kind, Name};
use crate::repository::restic::id::Id;
use crate::repository::restic::index::Index;
use crate::repository::restic::locks::Held;
use crate::repository::restic::opened::{Reading, each_tree};
use crate::repository::restic::pack::{BlobKind, MAX_PACK};
use crate::repository::restic::packer::Files;
use crate::repository::restic::snapshot::Snapshot;
use crate::repository::restic::store::Store;
use crate::world::signal;

use super::Notes;

/// No index file is longer, in bytes.
const MAX_INDEX: u64 = 512 << 20;

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

    /// Reads everything that was written back from the store, past all caches, and compares it: every
    /// pack has the SHA-256 of the bytes whose blobs were decrypted, decompressed and compared before
    /// they were written, and the index names each of them. `seen` hears the bytes so far.
    ///
    /// Errors (4): something reads back differently than it was written.
    pub fn prove(&self, seen: &mut dyn FnMut(u64)) -> Result<Proof, Fault> {
        let proof = self.prove_packs(&self.files.packs, seen)?;
        for id in &self.files.indexes {
            let whole = self.store.backend.afresh(Name::File(Kind::Index, *id), MAX_INDEX)?;
            if Id::of(&whole) != *id {
                let why = "its bytes have another SHA-256 than its name";
                return Err(backend::damaged(&*self.store.backend, Name::File(Kind::Index, *id), why));
            }
        }
        Ok(proof)
    }

    /// The same with every pack that the snapshot needs, also those that were there before.
    ///
    /// Errors (4): something that it needs is missing or damaged.
    pub fn prove_everything(&self, seen: &mut dyn FnMut(u64)) -> Result<Proof, Fault> {
        self.prove(&mut |_| {})?;
        let mut packs = BTreeSet::new();
        let mut need = |kind: BlobKind, id: Id| {
            let unknown = || self.store.unknown(kind, &id);
            packs.insert(self.index.find(kind, &id).ok_or_else(unknown)?.pack);
            Ok::<_, Fault>(())
        };
        each_tree(&self.store, &self.index, [self.snapshot.tree], &mut |id, nodes| {
            need(BlobKind::Tree, id)?;
            for piece in nodes?.iter().filter_map(|node| node.content.as_ref()).flatten() {
                need(BlobKind::Data, *piece)?;
            }
            Ok(())
        })?;
        self.prove_packs(&packs.into_iter().collect::<Vec<_>>(), seen)
    }

    fn prove_packs(&self, packs: &[Id], seen: &mut dyn FnMut(u64)) -> Result<Proof, Fault> {
        let mut proof = Proof::default();
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let (proofs, proven) = channel();
        let mut first = Ok(());
        std::thread::scope(|scope| {
            for _ in 0..super::crew::size() {
                let (proofs, next, failed) = (proofs.clone(), &next, &failed);
                scope.spawn(move || {
                    while let Some(id) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let pack = self.prove_pack(*id);
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
        first.map(|()| proof)
    }

    /// Writes the bytes of one file of it, read back from the store, into `out`.
    ///
    /// Errors: as [`Opened::dump`](super::super::Opened::dump).
    pub fn dump(&self, path: &Path, out: &mut dyn Write) -> Result<u64, Fault> {
        Reading { store: &self.store, index: &self.index, tree: self.snapshot.tree }.dump(path, out)
    }

    /// Returns its blobs and bytes.
    fn prove_pack(&self, id: Id) -> Result<(u64, u64), Fault> {
        if signal::stop_asked() {
            return Err(super::crew::interrupted());
        }
        let name = Name::File(Kind::Pack, id);
        let whole = self.store.backend.afresh(name, MAX_PACK)?;
        let blobs = self.compare(id, &whole).map_err(|why| {
            let help = if self.files.packs.contains(&id) {
                "it was written a moment ago: do not trust this store"
            } else {
                "`check --read-data` says what is hit; with this file moved away, the next snapshot stores \
                 anew what the sources still have"
            };
            backend::damaged(&*self.store.backend, name, why).help(help)
        })?;
        Ok((blobs, whole.len() as u64))
    }

    fn compare(&self, id: Id, whole: &[u8]) -> Result<u64, String> {
        if Id::of(whole) != id {
            return Err("its bytes have another SHA-256 than its name".into());
        }
        let blobs = self.store.header_of(whole)?;
        match blobs.iter().find(|blob| self.index.find(blob.kind, &blob.id).is_none()) {
            Some(blob) => Err(format!("no index names its blob {}", blob.id)),
            None => Ok(blobs.len() as u64),
        }
    }

    /// Lists the snapshot, in one step, and returns its id.
    ///
    /// Errors (4): the lock was lost, so that somebody may have removed what it needs; the store
    /// refused.
    pub fn commit(self) -> Result<Id, Fault> {
        self.held.still_holds()?;
        let json = serde_json::to_vec(&self.snapshot)
            .map_err(|e| Fault::infrastructure("a snapshot cannot be written").cause(e))?;
        let id = self.store.save(Kind::Snapshot, &json)?;
        // Had this machine been suspended just then, others may have removed what it needs.
        if let Err(fault) = self.held.still_holds() {
            let listed = |_| {
                let help = format!("the snapshot {} may lack something: `check`, or forget it", id.short());
                fault.clone().help(help)
            };
            self.store.backend.remove(Name::File(Kind::Snapshot, id)).map_err(listed)?;
            return Err(fault);
        }
        Ok(id)
    }
}
