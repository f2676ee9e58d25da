//! Says whether a repository is whole: the structure always, every byte when asked; and which files of
//! which snapshots are hit by what is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::backend::{self, Backend, Kind, Name};
use super::id::Id;
use super::index::Index;
use super::node::{Node, NodeKind};
use super::opened::{each_tree, entries};
use super::pack::{self, Blob, BlobKind, MAX_PACK};
use super::packer::lock;
use super::store::{Scratch, Store};
use super::tree::MAX_DEPTH;
use super::{Repository, Snapshots};
use crate::fault::Fault;
use crate::world::{self, signal};

/// So many files are named for each damage.
const NAMED: usize = 20;

/// Which packs are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReadData {
    /// None: only that they are there, with the right length.
    Nothing,
    /// This share of them (0 to 1), others each time.
    Share(f64),
    /// All.
    All,
}

/// Something in the repository that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file of the repository.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// Which snapshots and files need it: `ID source/path`.
    pub needed_by: Vec<String>,
}

/// What a check saw.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Snapshots that can be read.
    pub snapshots: usize,
    /// Packs that an index names.
    pub packs: usize,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Folders that were read.
    pub folders: u64,
    /// Packs that no index names: an interrupted backup leaves them, and one at work has them too.
    pub packs_unnamed: usize,
    /// What is damaged or missing. Empty means that everything is well.
    pub damaged: Vec<Damage>,
}

/// A blob by kind and id.
type Handle = (BlobKind, Id);

/// What was found, and by whose fault which blob is lost.
#[derive(Default)]
struct Found {
    /// Reasons by object.
    why: BTreeMap<String, Vec<String>>,
    lost: HashMap<Handle, String>,
}

impl Found {
    fn object(&mut self, object: String, why: impl Into<String>) {
        let (why, reasons) = (why.into(), self.why.entry(object).or_default());
        if !reasons.contains(&why) {
            reasons.push(why);
        }
    }

    fn blob(&mut self, object: &str, handle: Handle, why: impl std::fmt::Display) {
        self.object(object.to_owned(), format!("the {} blob {}: {why}", handle.0.word(), handle.1));
        self.lost.insert(handle, object.to_owned());
    }
}

impl Repository {
    /// Checks everything; `seen` hears the bytes that were read so far, of so many.
    ///
    /// Damage is no error: it is what the result tells.
    /// Errors (4): the store cannot be reached.
    pub fn check(&self, data: ReadData, seen: &(dyn Fn(u64, u64) + Sync)) -> Result<Health, Fault> {
        let _held = self.lock(false)?;
        let (store, mut found) = (&*self.store, Found::default());
        // What is needed is listed before what it needs: a backup at work is no damage.
        let Snapshots { whole, damaged } = self.snapshots()?;
        for (id, why) in damaged {
            found.object(Name::File(Kind::Snapshot, id).to_string(), why);
        }
        for (name, why) in self.damaged_papers()? {
            found.object(name.to_string(), why);
        }
        let packs = read_index(store, &mut found)?;
        let there: HashMap<Id, u64> = store.backend.list(Kind::Pack)?.into_iter().collect();
        for (id, blobs) in &packs {
            look_at_pack(*id, blobs, there.get(id).copied(), &mut found);
        }
        let mut health = Health {
            snapshots: whole.len(),
            packs: packs.len(),
            packs_unnamed: there.keys().filter(|id| !packs.contains_key(id)).count(),
            ..Health::default()
        };
        read_packs(store, &packs, &there, data, seen, &mut found, &mut health)?;
        let index = best_index(&packs, &mut found);
        store.ahead_of_trees(packs.iter().map(|(id, blobs)| (*id, blobs.as_slice())));
        let roots = whole.iter().map(|(_, snapshot)| snapshot.tree);
        each_tree(store, &index, roots, &mut |id, nodes| {
            if signal::stop_asked() {
                return Err(interrupted());
            }
            health.folders += 1;
            look_at_tree(&index, id, nodes, &mut found);
            Ok(())
        })?;
        let mut needed = BTreeMap::new();
        if !found.lost.is_empty() {
            for (id, snapshot) in &whole {
                Naming { store, index: &index, lost: &found.lost, needed: &mut needed }
                    .snapshot(*id, snapshot.tree);
            }
        }
        health.damaged = report(found, needed);
        Ok(health)
    }
}

impl Repository {
    /// What is damaged or missing of what one snapshot needs, as far as that can be seen without reading the content
    /// of files: its folders are read, and packs are there with the right length. Takes no lock: a store that cannot
    /// be written can be looked at too.
    ///
    /// Errors: there is no such snapshot, or it is damaged; the store cannot be reached (4).
    pub fn lacks(&self, id: Id) -> Result<Vec<(String, String)>, Fault> {
        let (store, mut all) = (&*self.store, Found::default());
        let tree = super::read_snapshot(store, id)?.tree;
        let packs = read_index(store, &mut all)?;
        let there: HashMap<Id, u64> = store.backend.list(Kind::Pack)?.into_iter().collect();
        for (id, blobs) in &packs {
            look_at_pack(*id, blobs, there.get(id).copied(), &mut all);
        }
        let index = best_index(&packs, &mut all);
        // What others need is no matter of this one.
        let mut own = Found::default();
        each_tree(store, &index, [tree], &mut |id, nodes| {
            if signal::stop_asked() {
                return Err(interrupted());
            }
            let pieces =
                nodes.iter().flat_map(|nodes| nodes.iter()).flat_map(|node| node.content.iter().flatten());
            let needed = pieces.map(|piece| (BlobKind::Data, *piece)).chain([(BlobKind::Tree, id)]);
            for (kind, blob) in needed {
                // A pack that is cut in its end alone, behind its last blob, is not whole either.
                let pack =
                    index.find(kind, &blob).map(|place| Name::File(Kind::Pack, place.pack).to_string());
                if let Some((object, why)) = pack.and_then(|pack| all.why.get_key_value(&pack)) {
                    own.why.insert(object.clone(), why.clone());
                }
            }
            look_at_tree(&index, id, nodes, &mut own);
            Ok(())
        })?;
        Ok(own.why.into_iter().map(|(object, reasons)| (object, reasons.join("; "))).collect())
    }
}

fn interrupted() -> Fault {
    Fault::infrastructure("the check was interrupted")
}

/// The index with the places in whole packs before others. A blob that also lies in a whole pack is not
/// lost: a backup has stored it anew.
fn best_index(packs: &BTreeMap<Id, Vec<Blob>>, found: &mut Found) -> Index {
    let index = Index::default();
    let whole = |id: &Id| !found.why.contains_key(&Name::File(Kind::Pack, *id).to_string());
    let (good, bad): (Vec<_>, Vec<_>) = packs.iter().partition(|(id, _)| whole(id));
    for (id, blobs) in &good {
        index.add(**id, blobs);
    }
    found.lost.retain(|(kind, id), _| index.find(*kind, id).is_none());
    for (id, blobs) in bad {
        index.add(*id, blobs);
    }
    index
}

fn read_index(store: &Store, found: &mut Found) -> Result<BTreeMap<Id, Vec<Blob>>, Fault> {
    let mut packs = BTreeMap::<Id, Vec<Blob>>::new();
    let files = store.backend.list(Kind::Index)?;
    store.ahead(Kind::Index, &files);
    for (id, _) in files {
        match store.load_index(id) {
            Ok(named) => {
                for (pack, blobs) in named {
                    let all = packs.entry(pack).or_default();
                    all.extend(blobs);
                    all.sort_by_key(|blob| (blob.offset, blob.id));
                    all.dedup();
                }
            }
            // Replaced meanwhile.
            Err(_) if store.backend.length(Name::File(Kind::Index, id))?.is_none() => {}
            Err(fault) => {
                found.object(Name::File(Kind::Index, id).to_string(), fault.cause.unwrap_or(fault.what));
            }
        }
    }
    Ok(packs)
}

fn look_at_pack(id: Id, blobs: &[Blob], there: Option<u64>, found: &mut Found) {
    let object = Name::File(Kind::Pack, id).to_string();
    let should = pack::whole_length(blobs);
    match there {
        Some(length) if length == should => return,
        Some(length) => found.object(object.clone(), format!("it has {length} bytes where {should} belong")),
        None => found.object(object.clone(), "it is missing"),
    }
    for blob in blobs {
        if u64::from(blob.offset) + u64::from(blob.length) > there.unwrap_or(0) {
            found.lost.insert((blob.kind, blob.id), object.clone());
        }
    }
}

fn look_at_tree(index: &Index, id: Id, nodes: Result<&[Node], Fault>, found: &mut Found) {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(fault) => {
            let object = index
                .find(BlobKind::Tree, &id)
                .map_or_else(|| "index".to_owned(), |place| Name::File(Kind::Pack, place.pack).to_string());
            let handle = (BlobKind::Tree, id);
            if !found.lost.contains_key(&handle) {
                found.blob(&object, handle, fault.cause.unwrap_or(fault.what));
            }
            return;
        }
    };
    for node in nodes {
        for piece in node.content.iter().flatten() {
            if index.find(BlobKind::Data, piece).is_none() {
                found.blob("index", (BlobKind::Data, *piece), "no index names it");
            }
        }
        if node.kind == NodeKind::Dir && node.subtree.is_none() {
            found.blob("index", (BlobKind::Tree, id), "a folder in it says nothing of its content");
        }
    }
}

/// Reads packs whole, several at once.
fn read_packs(
    store: &Store,
    packs: &BTreeMap<Id, Vec<Blob>>,
    there: &HashMap<Id, u64>,
    data: ReadData,
    seen: &(dyn Fn(u64, u64) + Sync),
    found: &mut Found,
    health: &mut Health,
) -> Result<(), Fault> {
    let mut chosen: Vec<(Id, &[Blob], u64)> =
        packs.iter().filter_map(|(id, blobs)| Some((*id, blobs.as_slice(), *there.get(id)?))).collect();
    match data {
        ReadData::Nothing => return Ok(()),
        ReadData::All => {}
        ReadData::Share(share) => {
            let salt = world::unique().to_le_bytes();
            chosen.sort_by_key(|(id, ..)| Id::of(&[&id.0[..], &salt].concat()));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count below the length"
            )]
            let many = (share.clamp(0.0, 1.0) * chosen.len() as f64).ceil() as usize;
            chosen.truncate(many);
        }
    }
    let all: u64 = chosen.iter().map(|(.., length)| length).sum();
    let (next, read, done) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (found, failed) = (Mutex::new(found), Mutex::new(None));
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let (mut scratch, mut bytes) = (Scratch::default(), Vec::new());
                while let Some((id, blobs, length)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if signal::stop_asked() {
                        lock(&failed).get_or_insert(interrupted());
                        return;
                    }
                    read_pack(store, *id, blobs, *length, &found, &mut bytes, &mut scratch);
                    done.fetch_add(1, Ordering::Relaxed);
                    seen(read.fetch_add(*length, Ordering::Relaxed) + length, all);
                }
            });
        }
    });
    health.packs_read = done.into_inner();
    health.bytes_read = read.into_inner();
    let failed = lock(&failed).take();
    failed.map_or(Ok(()), Err)
}

fn read_pack(
    store: &Store,
    id: Id,
    blobs: &[Blob],
    length: u64,
    found: &Mutex<&mut Found>,
    bytes: &mut Vec<u8>,
    scratch: &mut Scratch,
) {
    let name = Name::File(Kind::Pack, id);
    let object = name.to_string();
    let lose_all = |why: String| {
        let mut found = lock(found);
        found.object(object.clone(), why);
        for blob in blobs {
            found.lost.insert((blob.kind, blob.id), object.clone());
        }
    };
    let Some(whole) = usize::try_from(length).ok().filter(|_| length <= MAX_PACK) else {
        return lose_all(format!("it has {length} bytes; no pack is so long"));
    };
    if let Err(fault) = store.backend.read(name, 0, whole, bytes) {
        return lose_all(fault.cause.unwrap_or(fault.what));
    }
    // It may have been damaged on the way only.
    if store.backend.remote()
        && Id::of(bytes) != id
        && let Err(fault) = store.backend.read(name, 0, whole, bytes)
    {
        return lose_all(fault.cause.unwrap_or(fault.what));
    }
    if Id::of(bytes) != id {
        lock(found).object(object.clone(), "its bytes have another SHA-256 than its name");
    }
    match store.header_of(bytes) {
        Err(why) => lock(found).object(object.clone(), why),
        Ok(mut inside) => {
            inside.sort_by_key(|blob| (blob.offset, blob.id));
            if inside != blobs {
                lock(found).object(object.clone(), "its header and the index do not agree");
            }
        }
    }
    for blob in blobs {
        let start = blob.offset as usize;
        let opened = match bytes.get(start..start + blob.length as usize) {
            Some(sealed) => store.open_blob(sealed, blob, scratch),
            None => Err("it lies behind the end of the pack"),
        };
        if let Err(why) = opened {
            lock(found).blob(&object, (blob.kind, blob.id), why);
        }
    }
}

/// Finds the files and folders that need what is lost.
struct Naming<'a> {
    store: &'a Store,
    index: &'a Index,
    lost: &'a HashMap<Handle, String>,
    needed: &'a mut BTreeMap<String, BTreeSet<String>>,
}

impl Naming<'_> {
    fn snapshot(&mut self, id: Id, root: Id) {
        let mut scratch = Scratch::default();
        let mut stack = vec![(PathBuf::new(), root)];
        while let Some((folder, tree)) = stack.pop() {
            self.note(id, &folder, (BlobKind::Tree, tree));
            // What cannot be read was noted by now.
            let Ok(nodes) = entries(self.store, self.index, tree, &mut scratch) else { continue };
            for node in nodes {
                let path = folder.join(OsStr::from_bytes(&node.name));
                for piece in node.content.iter().flatten() {
                    self.note(id, &path, (BlobKind::Data, *piece));
                }
                if let Some(below) = node.subtree.filter(|_| path.components().count() < MAX_DEPTH) {
                    stack.push((path, below));
                }
            }
        }
    }

    fn note(&mut self, id: Id, path: &std::path::Path, handle: Handle) {
        if let Some(object) = self.lost.get(&handle) {
            let named = self.needed.entry(object.clone()).or_default();
            if named.len() <= NAMED {
                named.insert(format!("{} /{}", id.short(), path.display()));
            }
        }
    }
}

fn report(found: Found, mut needed: BTreeMap<String, BTreeSet<String>>) -> Vec<Damage> {
    let one = |(object, reasons): (String, Vec<String>)| {
        let mut needed_by: Vec<String> = needed.remove(&object).unwrap_or_default().into_iter().collect();
        if needed_by.len() > NAMED {
            let more = needed_by.len() - NAMED;
            needed_by.truncate(NAMED);
            needed_by.push(format!("and {more} more"));
        }
        let why = match reasons.as_slice() {
            [one, two, three, _, ..] => format!("{one}; {two}; {three}; and {} more", reasons.len() - 3),
            few => few.join("; "),
        };
        Damage { object, why, needed_by }
    };
    found.why.into_iter().map(one).collect()
}

/// The place of a pack, for a fault.
pub(super) fn pack_place(backend: &dyn Backend, id: Id) -> String {
    backend::place(backend, Name::File(Kind::Pack, id))
}
