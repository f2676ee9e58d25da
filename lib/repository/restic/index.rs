//! Which blob lies in which pack: the files in `index`, and all of them in memory.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::id::Id;
use super::pack::{Blob, BlobKind};

/// An index file is written when it names this many blobs, so that it stays below 8 MiB.
pub(super) const BLOBS_PER_FILE: usize = 50_000;

/// One file in `index`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct IndexFile {
    /// Index files that this one took the place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<Id>,
    #[serde(deserialize_with = "or_empty")]
    packs: Vec<IndexPack>,
}

/// Go writes an empty list as null.
fn or_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(list: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexPack {
    id: Id,
    #[serde(deserialize_with = "or_empty")]
    blobs: Vec<IndexBlob>,
}

#[derive(Debug, Serialize, Deserialize)]
struct IndexBlob {
    id: Id,
    #[serde(rename = "type")]
    kind: Word,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uncompressed_length: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Data,
    Tree,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A pack and what is in it.
pub(super) type Packed = (Id, Vec<Blob>);

/// The JSON of an index file with these packs.
pub(super) fn to_json(packs: &[Packed], supersedes: &[Id]) -> serde_json::Result<Vec<u8>> {
    let blob = |blob: &Blob| IndexBlob {
        id: blob.id,
        kind: if blob.kind == BlobKind::Data { Word::Data } else { Word::Tree },
        offset: blob.offset,
        length: blob.length,
        uncompressed_length: blob.uncompressed,
    };
    let packs =
        packs.iter().map(|(id, blobs)| IndexPack { id: *id, blobs: blobs.iter().map(blob).collect() });
    serde_json::to_vec(&IndexFile { supersedes: supersedes.to_vec(), packs: packs.collect() })
}

/// Reads the JSON of an index file.
///
/// Errors: why it is none.
pub(super) fn parse(json: &[u8]) -> Result<Vec<Packed>, String> {
    let file: IndexFile = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let mut packs = Vec::with_capacity(file.packs.len());
    for pack in file.packs {
        let mut blobs = Vec::with_capacity(pack.blobs.len());
        for IndexBlob { id, kind, offset, length, uncompressed_length } in pack.blobs {
            let kind = match kind {
                Word::Data => BlobKind::Data,
                Word::Tree => BlobKind::Tree,
            };
            let blob = Blob { kind, id, offset, length, uncompressed: uncompressed_length };
            blob.sane()?;
            blobs.push(blob);
        }
        packs.push((pack.id, blobs));
    }
    Ok(packs)
}

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The pack.
    pub(super) pack: Id,
    /// The blob in it.
    pub(super) blob: Blob,
}

#[derive(Clone, Copy)]
struct Slot {
    pack: u32,
    offset: u32,
    length: u32,
    uncompressed: u32,
}

/// Packs are numbered from 0; this one means that a blob is on its way into one.
const ON_ITS_WAY: u32 = u32::MAX;

#[derive(Default)]
struct Tables {
    packs: Vec<Id>,
    numbers: HashMap<Id, u32>,
    data: HashMap<Id, Slot>,
    trees: HashMap<Id, Slot>,
}

impl Tables {
    fn of(&self, kind: BlobKind) -> &HashMap<Id, Slot> {
        if kind == BlobKind::Data { &self.data } else { &self.trees }
    }

    fn of_mut(&mut self, kind: BlobKind) -> &mut HashMap<Id, Slot> {
        if kind == BlobKind::Data { &mut self.data } else { &mut self.trees }
    }
}

/// Every blob of a repository. The first place that is known of a blob is the one that counts.
#[derive(Default)]
pub(super) struct Index {
    tables: RwLock<Tables>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Index")
    }
}

impl Index {
    /// Takes in a pack.
    pub(super) fn add(&self, pack: Id, blobs: &[Blob]) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(tables.packs.len()).unwrap_or(ON_ITS_WAY);
        let number = *tables.numbers.entry(pack).or_insert(next);
        if number == next {
            tables.packs.push(pack);
        }
        for blob in blobs {
            let slot = Slot {
                pack: number,
                offset: blob.offset,
                length: blob.length,
                uncompressed: blob.uncompressed,
            };
            let there = tables.of_mut(blob.kind).entry(blob.id).or_insert(slot);
            if there.pack == ON_ITS_WAY {
                *there = slot;
            }
        }
    }

    /// Whether somebody has to store this blob now: it is neither there nor on its way. From now on
    /// it is on its way.
    pub(super) fn claim(&self, kind: BlobKind, id: Id) -> bool {
        if self.tables.read().unwrap_or_else(PoisonError::into_inner).of(kind).contains_key(&id) {
            return false;
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = false;
        tables.of_mut(kind).entry(id).or_insert_with(|| {
            new = true;
            Slot { pack: ON_ITS_WAY, offset: 0, length: 0, uncompressed: 0 }
        });
        new
    }

    /// Where a blob lies; none when it is not there, or not yet.
    pub(super) fn find(&self, kind: BlobKind, id: &Id) -> Option<Place> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let slot = tables.of(kind).get(id)?;
        let pack = *tables.packs.get(slot.pack as usize)?;
        let Slot { offset, length, uncompressed, .. } = *slot;
        Some(Place { pack, blob: Blob { kind, id: *id, offset, length, uncompressed } })
    }

    /// A blob that was to be stored and lies nowhere.
    pub(super) fn on_its_way(&self) -> Option<(BlobKind, Id)> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        [BlobKind::Data, BlobKind::Tree].into_iter().find_map(|kind| {
            let lost = tables.of(kind).iter().find(|(_, slot)| slot.pack == ON_ITS_WAY);
            lost.map(|(id, _)| (kind, *id))
        })
    }

    /// Whether all of these are there or on their way.
    pub(super) fn has_all(&self, kind: BlobKind, ids: &[Id]) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter().all(|id| tables.of(kind).contains_key(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: BlobKind, name: &[u8]) -> Blob {
        Blob { kind, id: Id::of(name), offset: 0, length: 40, uncompressed: 0 }
    }

    #[test]
    fn an_index_is_read_as_it_is_written() {
        let packs = vec![(
            Id::of(b"p"),
            vec![blob(BlobKind::Data, b"a"), Blob { uncompressed: 7, ..blob(BlobKind::Tree, b"b") }],
        )];
        let json = to_json(&packs, &[]).unwrap();
        let text = String::from_utf8(json.clone()).unwrap();
        assert!(text.starts_with("{\"packs\":[{\"id\":\""), "{text}");
        assert!(text.contains("\"type\":\"data\",\"offset\":0,\"length\":40}"), "{text}");
        assert!(text.contains("\"uncompressed_length\":7}"), "{text}");
        assert_eq!(parse(&json).unwrap(), packs);
        let superseding = String::from_utf8(to_json(&packs, &[Id::of(b"old")]).unwrap()).unwrap();
        assert!(superseding.starts_with("{\"supersedes\":[\""), "{superseding}");
    }

    #[test]
    fn no_index_makes_the_reader_believe_nonsense() {
        let id = Id::of(b"x");
        let with = |blob: &str| {
            format!("{{\"packs\":[{{\"id\":\"{id}\",\"blobs\":[{{\"id\":\"{id}\",{blob}}}]}}]}}")
        };
        assert!(parse(with("\"type\":\"data\",\"offset\":0,\"length\":32").as_bytes()).is_ok());
        for wrong in [
            "\"type\":\"data\",\"offset\":0,\"length\":31",
            "\"type\":\"data\",\"offset\":0,\"length\":4294967295",
            "\"type\":\"data\",\"offset\":4294967295,\"length\":40",
            "\"type\":\"data\",\"offset\":-1,\"length\":40",
            "\"type\":\"data\",\"offset\":0,\"length\":40,\"uncompressed_length\":4294967295",
            "\"type\":\"disk\",\"offset\":0,\"length\":40",
        ] {
            assert!(parse(with(wrong).as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse(b"[]").is_err());
        assert!(parse(b"{\"packs\":null}").unwrap().is_empty());
    }

    #[test]
    fn a_blob_is_stored_by_one_alone() {
        let index = Index::default();
        let id = Id::of(b"a");
        assert!(index.claim(BlobKind::Data, id));
        assert!(!index.claim(BlobKind::Data, id));
        assert!(index.claim(BlobKind::Tree, id));
        assert_eq!(index.find(BlobKind::Data, &id), None);
        assert_eq!(index.on_its_way(), Some((BlobKind::Data, id)));
        index.add(Id::of(b"p"), &[blob(BlobKind::Data, b"a")]);
        index.add(Id::of(b"q"), &[blob(BlobKind::Data, b"a")]);
        assert_eq!(index.find(BlobKind::Data, &id).unwrap().pack, Id::of(b"p"));
        assert_eq!(index.on_its_way(), Some((BlobKind::Tree, id)));
        index.add(Id::of(b"t"), &[blob(BlobKind::Tree, b"a")]);
        assert_eq!(index.on_its_way(), None);
        assert!(index.has_all(BlobKind::Data, &[id]) && !index.has_all(BlobKind::Data, &[Id::of(b"z")]));
    }
}
