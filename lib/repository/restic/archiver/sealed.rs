//! A snapshot that lies in the repository whole, but is not listed yet.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::fault::Fault;
use crate::repository::restic::backend::{self, Kind, Name};
use crate::repository::restic::id::Id;
use crate::repository::restic::index::Index;
use crate::repository::restic::locks::Held;
use crate::repository::restic::opened::Reading;
use crate::repository::restic::packer::Files;
use crate::repository::restic::snapshot::Snapshot;
use crate::repository::restic::store::{Scratch, Store};
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

    /// Reads everything that was written back from the store, and verifies every byte of it; `seen`
    /// hears the bytes so far.
    ///
    /// Errors (4): something reads back differently than it was written.
    pub fn prove(&self, seen: &mut dyn FnMut(u64)) -> Result<Proof, Fault> {
        let mut proof = Proof::default();
        let mut scratch = Scratch::default();
        let mut whole = Vec::new();
        for id in &self.files.packs {
            if signal::stop_asked() {
                return Err(super::crew::interrupted());
            }
            let name = Name::File(Kind::Pack, *id);
            let missing = || backend::missing(&*self.store.backend, name);
            let length = self.store.backend.length(name)?.ok_or_else(missing)?;
            let length = usize::try_from(length).map_err(|_| missing())?;
            self.store.backend.read(name, 0, length, &mut whole)?;
            proof.blobs += self.prove_pack(*id, &whole, &mut scratch).map_err(|why| {
                backend::damaged(&*self.store.backend, name, why)
                    .help("it was written a moment ago: do not trust this store")
            })?;
            proof.packs += 1;
            proof.bytes += whole.len() as u64;
            seen(proof.bytes);
        }
        for id in &self.files.indexes {
            self.store.load_index(*id)?;
        }
        Ok(proof)
    }

    /// Writes the bytes of one file of it, read back from the store, into `out`.
    ///
    /// Errors: as [`Opened::dump`](super::super::Opened::dump).
    pub fn dump(&self, path: &Path, out: &mut dyn Write) -> Result<u64, Fault> {
        Reading { store: &self.store, index: &self.index, tree: self.snapshot.tree }.dump(path, out)
    }

    fn prove_pack(&self, id: Id, whole: &[u8], scratch: &mut Scratch) -> Result<u64, String> {
        if Id::of(whole) != id {
            return Err("its bytes have another SHA-256 than its name".into());
        }
        let blobs = self.store.header_of(whole)?;
        for blob in &blobs {
            let start = blob.offset as usize;
            let sealed = whole.get(start..start + blob.length as usize).ok_or("a blob lies outside")?;
            self.store
                .open_blob(sealed, blob, scratch)
                .map_err(|why| format!("the blob {}: {why}", blob.id))?;
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
        let id = self.store.save(Kind::Snapshot, &json)?;
        // Had this machine been suspended just then, others may have removed what it needs.
        if let Err(fault) = self.held.still_holds() {
            self.store.backend.remove(Name::File(Kind::Snapshot, id))?;
            return Err(fault);
        }
        Ok(id)
    }
}
