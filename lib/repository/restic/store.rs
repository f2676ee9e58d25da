//! The encrypted files of an opened repository: JSON files whole, packs blob by blob.

use std::collections::HashMap;
use std::sync::Arc;

use super::backend::{self, Backend, Kind, Name};
use super::codec;
use super::crypto::{Key, OVERHEAD};
use super::id::Id;
use super::index::{self, Index, Packed, Place};
use super::pack::{self, Blob, BlobKind};
use crate::fault::Fault;
use crate::world::clock::{Clock, System};

/// No file of this kind is longer than this, as it lies there and when it is unpacked.
fn most(kind: Kind) -> u64 {
    match kind {
        Kind::Lock => 64 * 1024,
        Kind::Snapshot => 16 * 1024 * 1024,
        Kind::Key | Kind::Index | Kind::Pack => 512 * 1024 * 1024,
    }
}

/// A backend and the key to it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) key: Key,
    pub(super) version: u32,
    /// By which locks are kept and watched.
    pub(super) clock: Arc<dyn Clock>,
    /// What tells others on this machine whether the holder of a lock lives.
    pub(super) process: String,
}

/// Room that is used again from blob to blob.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) sealed: Vec<u8>,
    pub(super) packed: Vec<u8>,
    pub(super) plain: Vec<u8>,
    pub(super) read: Vec<u8>,
}

impl Store {
    /// The store of this process.
    pub(super) fn new(backend: Arc<dyn Backend>, key: Key, version: u32) -> Self {
        let process = backend.process();
        Self { backend, key, version, clock: System::shared(), process }
    }

    /// Reads a JSON file.
    pub(super) fn load(&self, kind: Kind, id: Id) -> Result<Vec<u8>, Fault> {
        let name = Name::File(kind, id);
        let sealed = backend::read_whole(&*self.backend, name, most(kind))?;
        let damaged = |why: String| backend::damaged(&*self.backend, name, why);
        if Id::of(&sealed) != id {
            return Err(damaged("its bytes have another SHA-256 than its name".into()));
        }
        let mut plain = Vec::new();
        self.key
            .decrypt(&sealed, &mut plain)
            .ok_or_else(|| damaged("it was not written with the key of this repository".into()))?;
        codec::unpack_json(plain, most(kind)).map_err(damaged)
    }

    /// Writes a JSON file and returns its name.
    pub(super) fn save(&self, kind: Kind, json: &[u8]) -> Result<Id, Fault> {
        let packed;
        let plain = if self.version == 1 {
            json
        } else {
            packed = codec::pack_json(json).map_err(|e| Fault::infrastructure("zstd failed").cause(e))?;
            &packed
        };
        let mut sealed = Vec::new();
        self.key.encrypt(plain, &mut sealed)?;
        let id = Id::of(&sealed);
        self.backend.put(Name::File(kind, id), &[&sealed])?;
        Ok(id)
    }

    /// One index file.
    pub(super) fn load_index(&self, id: Id) -> Result<Vec<Packed>, Fault> {
        let json = self.load(Kind::Index, id)?;
        index::parse(&json).map_err(|why| backend::damaged(&*self.backend, Name::File(Kind::Index, id), why))
    }

    /// Tells that all these files are going to be read.
    pub(super) fn ahead(&self, kind: Kind, files: &[(Id, u64)]) {
        if self.backend.remote() {
            let files: Vec<_> = files.iter().map(|(id, bytes)| (Name::File(kind, *id), *bytes)).collect();
            self.backend.ahead(&files);
        }
    }

    /// Tells that all folders in these packs are going to be read.
    pub(super) fn ahead_of_trees<'a>(&self, packs: impl Iterator<Item = (Id, &'a [Blob])>) {
        if self.backend.remote() {
            let trees = packs.filter(|(_, blobs)| blobs.iter().any(|blob| blob.kind == BlobKind::Tree));
            let files: Vec<_> = trees.map(|(id, blobs)| (id, pack::whole_length(blobs))).collect();
            self.ahead(Kind::Pack, &files);
        }
    }

    /// Everything that the index files say. Of a blob that lies in several packs the place counts that
    /// is in a pack which is there in its full length.
    pub(super) fn index(&self) -> Result<Index, Fault> {
        let (whole, doubtful) = self.sorted_index()?;
        for (pack, blobs) in doubtful {
            whole.add(pack, &blobs);
        }
        Ok(whole)
    }

    /// The same without packs that are not there or have another length: what is lost is stored anew
    /// by the next backup.
    pub(super) fn trusted_index(&self) -> Result<Index, Fault> {
        self.sorted_index().map(|(whole, _)| whole)
    }

    /// What lies in packs that are there in their full length, and the other packs.
    fn sorted_index(&self) -> Result<(Index, HashMap<Id, Vec<Blob>>), Fault> {
        let mut packs: HashMap<Id, Vec<Blob>> = HashMap::new();
        let files = self.backend.list(Kind::Index)?;
        self.ahead(Kind::Index, &files);
        for (id, _) in files {
            for (pack, blobs) in self.load_index(id)? {
                let all = packs.entry(pack).or_default();
                if all.is_empty() {
                    *all = blobs;
                    continue;
                }
                all.extend(blobs);
                all.sort_by_key(|blob| (blob.offset, blob.id));
                all.dedup();
            }
        }
        let whole = Index::default();
        for (id, length) in self.backend.list(Kind::Pack)? {
            if packs.get(&id).is_some_and(|blobs| pack::whole_length(blobs) == length)
                && let Some(blobs) = packs.remove(&id)
            {
                whole.add(id, &blobs);
            }
        }
        Ok((whole, packs))
    }

    /// The blobs that a pack says it has, from its end.
    pub(super) fn header(&self, pack: Id, length: u64) -> Result<Vec<Blob>, Fault> {
        let name = Name::File(Kind::Pack, pack);
        let damaged = |why: String| backend::damaged(&*self.backend, name, why);
        let Some(end) = length.checked_sub(4) else { return Err(damaged("it is empty".into())) };
        let mut bytes = Vec::new();
        self.backend.read(name, end, 4, &mut bytes)?;
        let last = bytes.as_slice().try_into().unwrap_or_default();
        let (offset, header) = pack::header_place(length, last).map_err(damaged)?;
        self.backend.read(name, offset, header, &mut bytes)?;
        self.parse_header(&bytes, length).map_err(damaged)
    }

    fn parse_header(&self, sealed: &[u8], length: u64) -> Result<Vec<Blob>, String> {
        let mut plain = Vec::new();
        self.key.decrypt(sealed, &mut plain).ok_or("its header is not what was written")?;
        let blobs = pack::parse_header(&plain)?;
        if pack::whole_length(&blobs) != length {
            return Err(format!("it has {length} bytes where {} belong", pack::whole_length(&blobs)));
        }
        Ok(blobs)
    }

    /// The blobs of a pack whose bytes are all at hand.
    pub(super) fn header_of(&self, whole: &[u8]) -> Result<Vec<Blob>, String> {
        let last = whole.last_chunk::<4>().ok_or("it is empty")?;
        let (offset, header) = pack::header_place(whole.len() as u64, *last)?;
        let start = usize::try_from(offset).map_err(|e| e.to_string())?;
        let sealed = whole.get(start..start + header).ok_or("its header lies outside")?;
        self.parse_header(sealed, whole.len() as u64)
    }

    /// Decrypts, decompresses and verifies one blob into `scratch.plain`.
    ///
    /// Errors: what is wrong with it.
    pub(super) fn open_blob(
        &self,
        sealed: &[u8],
        blob: &Blob,
        scratch: &mut Scratch,
    ) -> Result<(), &'static str> {
        self.open_unnamed(sealed, blob, scratch)?;
        if Id::of(&scratch.plain) != blob.id {
            return Err("its plain bytes have another SHA-256");
        }
        Ok(())
    }

    /// The same, but whoever calls compares the plain bytes.
    fn open_unnamed(&self, sealed: &[u8], blob: &Blob, scratch: &mut Scratch) -> Result<(), &'static str> {
        let first = if blob.uncompressed == 0 { &mut scratch.plain } else { &mut scratch.packed };
        self.key.decrypt(sealed, first).ok_or("it is not what was written")?;
        if blob.uncompressed != 0 {
            codec::decompress(&scratch.packed, blob.uncompressed as usize, &mut scratch.plain)
                .ok_or("it does not decompress to its length")?;
        }
        Ok(())
    }

    /// Reads and verifies one blob into `scratch.plain`.
    pub(super) fn read_blob(&self, place: &Place, scratch: &mut Scratch) -> Result<(), Fault> {
        let Place { pack, blob } = place;
        let name = Name::File(Kind::Pack, *pack);
        let mut sealed = std::mem::take(&mut scratch.read);
        let (offset, length) = (u64::from(blob.offset), blob.length as usize);
        let mut read = match blob.kind {
            BlobKind::Tree => self.backend.read_tree(name, offset, length, &mut sealed),
            BlobKind::Data => self.backend.read(name, offset, length, &mut sealed),
        };
        let mut opened = read.is_ok().then(|| self.open_blob(&sealed, blob, scratch));
        if matches!(opened, Some(Err(_))) && self.backend.remote() {
            // It may have been damaged on the way only.
            read = self.backend.read(name, offset, length, &mut sealed);
            opened = read.is_ok().then(|| self.open_blob(&sealed, blob, scratch));
        }
        scratch.read = sealed;
        read?;
        opened.unwrap_or(Ok(())).map_err(|why| {
            let why = format!("the {} blob {}: {why}", blob.kind.word(), blob.id);
            backend::damaged(&*self.backend, name, why)
        })
    }

    /// Finds, reads and verifies one blob into `scratch.plain`.
    pub(super) fn blob(
        &self,
        index: &Index,
        kind: BlobKind,
        id: &Id,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        let place = index.find(kind, id).ok_or_else(|| self.unknown(kind, id))?;
        self.read_blob(&place, scratch)
    }

    /// The fault for a blob that no index knows.
    pub(super) fn unknown(&self, kind: BlobKind, id: &Id) -> Fault {
        Fault::infrastructure("a part of a snapshot is missing in the repository")
            .place(self.backend.place())
            .cause(format!("no index names the {} blob {id}", kind.word()))
            .help("`check` says which files are hit; if an index file was lost, `restic rebuild-index` makes a new one")
    }

    /// The fault for a write to a repository of version 1.
    pub(super) fn must_be_writable(&self) -> Result<(), Fault> {
        if self.version == 2 {
            return Ok(());
        }
        Err(Fault::refused("a repository of restic's format version 1 is only read")
            .place(self.backend.place())
            .help("`restic migrate upgrade_repo_v2` makes it one of version 2"))
    }
}

/// What bytes were before they got their name, to see later that they still are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen(u32);

impl Seen {
    pub(super) fn of(plain: &[u8]) -> Self {
        Self(crc32fast::hash(plain))
    }
}

/// Seals one blob into `scratch.sealed` and opens it again: what comes out is what was `seen` before
/// the blob got its name, and what was given.
///
/// Returns what its header says; `offset` is 0.
pub(super) fn seal_blob(
    key: &Key,
    store: &Store,
    (kind, id, seen): (BlobKind, Id, Seen),
    plain: &[u8],
    scratch: &mut Scratch,
) -> Result<Blob, Fault> {
    let too_long = || Fault::infrastructure("a blob is too long").cause(format!("{} bytes", plain.len()));
    let zstd = |e| Fault::infrastructure("zstd failed").cause(e);
    let length =
        u32::try_from(plain.len()).ok().filter(|length| *length <= kind.most()).ok_or_else(too_long)?;
    let mut smaller = codec::is_worth_it(plain, &mut scratch.packed).map_err(zstd)?;
    if smaller {
        codec::compress(plain, &mut scratch.packed).map_err(zstd)?;
        smaller = scratch.packed.len() < plain.len();
    }
    scratch.sealed.clear();
    key.encrypt(if smaller { &scratch.packed } else { plain }, &mut scratch.sealed)?;
    let sealed = u32::try_from(scratch.sealed.len()).map_err(|_| too_long())?;
    let blob = Blob { kind, id, offset: 0, length: sealed, uncompressed: if smaller { length } else { 0 } };
    debug_assert!(scratch.sealed.len() >= OVERHEAD);
    let bytes = std::mem::take(&mut scratch.sealed);
    let opened = store.open_unnamed(&bytes, &blob, scratch).and_then(|()| {
        let same = scratch.plain == plain && Seen::of(&scratch.plain).0 == seen.0;
        if same { Ok(()) } else { Err("its plain bytes are not what was given") }
    });
    scratch.sealed = bytes;
    opened.map_err(|why| {
        Fault::infrastructure("what was about to be written cannot be read back")
            .cause(format!("the {} blob {id}: {why}", kind.word()))
            .help("this machine's memory or processor is at fault: do not trust its backups")
    })?;
    Ok(blob)
}
