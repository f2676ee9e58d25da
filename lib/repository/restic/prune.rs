//! Removes what no snapshot needs, in an order that survives a crash at any moment.
//!
//! First the packs that are worth it are written anew without what nobody needs, then an index that
//! names everything that stays, then the old index files go, and only then the packs that no index
//! names any more. All that under an exclusive lock, which is looked after before each step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::backend::{Kind, Name};
use super::check::pack_place;
use super::id::Id;
use super::index::{self, BLOBS_PER_FILE, Index, Packed};
use super::locks::Held;
use super::opened::each_tree;
use super::pack::{self, Blob, BlobKind};
use super::packer::Packer;
use super::store::{Scratch, Store};
use super::{Repository, Snapshots};
use crate::fault::Fault;
use crate::world::signal;

mod forgetting;

/// How much is pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thrift {
    /// The share of unneeded bytes (0 to 1) that may stay, since writing packs anew costs more.
    pub max_unused: f64,
    /// Whether small packs are joined.
    pub join_small: bool,
}

impl Default for Thrift {
    /// As restic: up to 5 % may stay.
    fn default() -> Self {
        Self { max_unused: 0.05, join_small: true }
    }
}

/// What is going to be done, before anything is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruning {
    /// Packs that nobody needs.
    pub remove: Vec<Id>,
    /// Packs that are written anew without what nobody needs.
    pub rewrite: Vec<Id>,
    /// Packs that stay as they are.
    pub keep: usize,
    /// Bytes that are freed.
    pub freed_bytes: u64,
    /// Bytes that nobody needs and that stay all the same.
    pub unused_bytes: u64,
    /// Bytes that snapshots need.
    pub used_bytes: u64,
}

impl Pruning {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.rewrite.is_empty()
    }
}

/// Below this a pack is small.
const SMALL: u64 = pack::TARGET as u64 / 4;
/// Small packs are joined from this many on.
const MANY_SMALL: usize = 8;

/// All that the plan is made of.
struct State {
    indexes: Vec<Id>,
    packs: BTreeMap<Id, Pack>,
    /// Length by pack, whether an index names it or not.
    there: HashMap<Id, u64>,
}

#[derive(Default)]
struct Pack {
    blobs: Vec<Blob>,
    /// The blobs that are needed from here.
    needed: Vec<Blob>,
    length: u64,
}

impl Pack {
    fn needed_bytes(&self) -> u64 {
        self.needed.iter().map(|blob| u64::from(blob.length)).sum()
    }

    fn unused_bytes(&self) -> u64 {
        self.length.saturating_sub(pack::whole_length(&self.needed))
    }
}

impl Repository {
    /// Takes snapshots from the list. What only they need stays until [`Repository::prune`].
    ///
    /// Errors: refused (5) while somebody else uses the repository; 2 for one that is not there.
    pub fn forget(&self, ids: &[Id]) -> Result<(), Fault> {
        self.store.must_be_writable()?;
        self.store.backend.may_remove(Kind::Snapshot)?;
        let held = Held::new(&self.store, true)?;
        for id in ids {
            if self.store.backend.length(Name::File(Kind::Snapshot, *id))?.is_none() {
                return Err(Fault::usage(format!("no snapshot {}", id.short())).place(self.place()));
            }
        }
        for id in ids {
            held.still_holds()?;
            self.store.backend.remove(Name::File(Kind::Snapshot, *id))?;
        }
        Ok(())
    }

    /// Gives a snapshot other tags; it gets another id by that, and remembers its first one.
    ///
    /// Errors: refused (5) while somebody else uses the repository, and for version 1; 4 when the
    /// snapshot is missing or damaged.
    pub fn retag(&self, id: Id, tags: Vec<String>) -> Result<Id, Fault> {
        self.store.must_be_writable()?;
        self.store.backend.may_remove(Kind::Snapshot)?;
        let held = Held::new(&self.store, true)?;
        let mut snapshot = super::read_snapshot(&self.store, id)?;
        snapshot.tags = tags;
        snapshot.original.get_or_insert(id);
        let json = serde_json::to_vec(&snapshot)
            .map_err(|e| Fault::infrastructure("a snapshot cannot be written").cause(e))?;
        let new = self.store.save(Kind::Snapshot, &json)?;
        held.still_holds()?;
        self.store.backend.remove(Name::File(Kind::Snapshot, id))?;
        Ok(new)
    }

    /// What [`Repository::prune`] would do.
    ///
    /// Errors: as there.
    pub fn plan_prune(&self, thrift: Thrift) -> Result<Pruning, Fault> {
        let _held = self.lock(false)?;
        Ok(plan(&self.state(&[])?, thrift))
    }

    /// Removes what no snapshot needs; `seen` hears how many packs are done, of so many.
    ///
    /// Errors: refused (5) while somebody else uses the repository, for version 1, and when anything
    /// that a snapshot needs is missing or damaged; 4 when the store fails. Nothing that a snapshot
    /// needs is ever gone.
    pub fn prune(&self, thrift: Thrift, seen: &mut dyn FnMut(usize, usize)) -> Result<Pruning, Fault> {
        self.store.must_be_writable()?;
        let held = Held::new(&self.store, true)?;
        let state = self.state(&[])?;
        let plan = plan(&state, thrift);
        if plan.is_empty() {
            return Ok(plan);
        }
        // Before anything is written that would only add to what cannot be removed.
        store_lets_remove(&self.store)?;
        self.carry_out(&held, &state, &plan, seen)?;
        Ok(plan)
    }

    /// Writes the index anew from the packs alone: for a repository that lost index files. Returns the
    /// packs that do not say what is in them; they are named only if an old index knew them.
    ///
    /// Errors: refused (5) while somebody else uses the repository, and for version 1; 4 when the store
    /// fails.
    pub fn rebuild_index(&self) -> Result<Vec<(Id, String)>, Fault> {
        self.store.must_be_writable()?;
        self.store.backend.may_remove(Kind::Index)?;
        let held = Held::new(&self.store, true)?;
        let old: Vec<Id> = self.store.backend.list(Kind::Index)?.into_iter().map(|(id, _)| id).collect();
        // An index that cannot be read is what this is for.
        let readable = old.iter().filter_map(|id| self.store.load_index(*id).ok()).flatten();
        let mut known: HashMap<Id, Vec<Blob>> = readable.collect();
        let (mut named, mut unreadable) = (Vec::new(), Vec::new());
        for (id, length) in self.store.backend.list(Kind::Pack)? {
            match self.store.header(id, length) {
                Ok(blobs) => named.push((id, blobs)),
                Err(fault) => {
                    // Its blobs may be whole: what an old index says of a pack of this length stays.
                    let blobs = known.remove(&id).filter(|blobs| pack::whole_length(blobs) == length);
                    named.extend(blobs.map(|blobs| (id, blobs)));
                    unreadable.push((id, fault.cause.unwrap_or(fault.what)));
                }
            }
        }
        let written = write_index(&self.store, &named, &old)?;
        held.still_holds()?;
        for id in old.iter().filter(|id| !written.contains(id)) {
            self.store.backend.remove(Name::File(Kind::Index, *id))?;
        }
        Ok(unreadable)
    }

    /// How things are, or would be without some snapshots.
    fn state(&self, without: &[Id]) -> Result<State, Fault> {
        let store = &*self.store;
        let Snapshots { mut whole, damaged } = self.snapshots()?;
        whole.retain(|(id, _)| !without.contains(id));
        if let Some((id, why)) = damaged.first() {
            return Err(refused(format!("the snapshot {}: {why}", id.short())).place(self.place()));
        }
        let index = Index::default();
        let mut state = State {
            indexes: Vec::new(),
            packs: BTreeMap::new(),
            there: store.backend.list(Kind::Pack)?.into_iter().collect(),
        };
        let listed = store.backend.list(Kind::Index)?;
        store.ahead(Kind::Index, &listed);
        state.indexes = listed.into_iter().map(|(id, _)| id).collect();
        for id in &state.indexes {
            for (pack, blobs) in store.load_index(*id)? {
                index.add(pack, &blobs);
                let all = &mut state.packs.entry(pack).or_default().blobs;
                all.extend(blobs);
                all.sort_by_key(|blob| (blob.offset, blob.id));
                all.dedup();
            }
        }
        store.ahead_of_trees(state.packs.iter().map(|(id, pack)| (*id, pack.blobs.as_slice())));
        let used = used(store, &index, whole.iter().map(|(_, snapshot)| snapshot.tree))?;
        state.choose(store, &used)?;
        Ok(state)
    }

    fn carry_out(
        &self,
        held: &Held,
        state: &State,
        plan: &Pruning,
        seen: &mut dyn FnMut(usize, usize),
    ) -> Result<(), Fault> {
        let store = &self.store;
        // Packs that are written anew are removed too.
        let all = 2 * plan.rewrite.len() + plan.remove.len();
        let new = rewrite(store, state, plan, &mut |done| seen(done, all))?;
        held.still_holds()?;
        // From here on it is carried through: a stop would leave nothing broken, only work undone.
        let gone: HashSet<&Id> = plan.remove.iter().chain(&plan.rewrite).collect();
        let stays = state.packs.iter().filter(|(id, _)| !gone.contains(id) && state.there.contains_key(id));
        let mut named: Vec<Packed> = stays.map(|(id, pack)| (*id, pack.blobs.clone())).collect();
        named.extend(new);
        let written = write_index(store, &named, &state.indexes)?;
        held.still_holds()?;
        for id in state.indexes.iter().filter(|id| !written.contains(id)) {
            held.still_holds()?;
            store.backend.remove(Name::File(Kind::Index, *id))?;
        }
        for (done, id) in plan.rewrite.iter().chain(&plan.remove).enumerate() {
            held.still_holds()?;
            store.backend.remove(Name::File(Kind::Pack, *id))?;
            seen(plan.rewrite.len() + done + 1, all);
        }
        store.backend.sweep()
    }
}

fn store_lets_remove(store: &Store) -> Result<(), Fault> {
    store.backend.may_remove(Kind::Index)?;
    store.backend.may_remove(Kind::Pack)
}

fn refused(cause: String) -> Fault {
    Fault::refused("the repository is not whole, and nothing is removed from it")
        .cause(cause)
        .help("`check` says what is hit; forget the snapshots that cannot be saved, then prune again")
}

/// Every blob that a snapshot needs.
fn used(
    store: &Store,
    index: &Index,
    roots: impl IntoIterator<Item = Id>,
) -> Result<HashSet<(BlobKind, Id)>, Fault> {
    let mut used = HashSet::new();
    each_tree(store, index, roots, &mut |id, nodes| {
        if signal::stop_asked() {
            return Err(interrupted());
        }
        used.insert((BlobKind::Tree, id));
        let nodes = nodes.map_err(|fault| refused(fault.line()))?;
        for node in nodes {
            used.extend(node.content.iter().flatten().map(|piece| (BlobKind::Data, *piece)));
        }
        Ok(())
    })?;
    Ok(used)
}

fn interrupted() -> Fault {
    Fault::infrastructure("pruning was interrupted").help("nothing is lost; run it again")
}

impl State {
    /// Chooses for every needed blob the pack that it is kept in.
    fn choose(&mut self, store: &Store, used: &HashSet<(BlobKind, Id)>) -> Result<(), Fault> {
        let mut order: Vec<(u64, Id)> = Vec::new();
        for (id, pack) in &mut self.packs {
            let Some(length) = self.there.get(id) else { continue };
            pack.length = *length;
            let needed = pack.blobs.iter().filter(|blob| used.contains(&(blob.kind, blob.id)));
            let bytes: u64 = needed.map(|blob| u64::from(blob.length)).sum();
            if bytes > 0 && *length != pack::whole_length(&pack.blobs) {
                let should = pack::whole_length(&pack.blobs);
                return Err(refused(format!("it has {length} bytes where {should} belong"))
                    .place(pack_place(&*store.backend, *id)));
            }
            order.push((bytes, *id));
        }
        // A blob that is there twice stays where most is needed.
        order.sort_by(|a, b| b.cmp(a));
        let mut missing = used.clone();
        for (_, id) in order {
            if let Some(pack) = self.packs.get_mut(&id) {
                pack.needed =
                    pack.blobs.iter().filter(|b| missing.remove(&(b.kind, b.id))).copied().collect();
            }
        }
        match missing.into_iter().next() {
            None => Ok(()),
            Some((kind, id)) => {
                Err(refused(format!("the {} blob {id} is missing", kind.word())).place(store.backend.place()))
            }
        }
    }
}

/// Decides; does nothing.
fn plan(state: &State, thrift: Thrift) -> Pruning {
    let mut plan = Pruning::default();
    let mut candidates: Vec<(Id, &Pack)> = Vec::new();
    for (id, length) in &state.there {
        match state.packs.get(id) {
            Some(pack) if !pack.needed.is_empty() => candidates.push((*id, pack)),
            _ => {
                plan.freed_bytes += length;
                plan.remove.push(*id);
            }
        }
    }
    plan.used_bytes = candidates.iter().map(|(_, pack)| pack.needed_bytes()).sum();
    plan.unused_bytes = candidates.iter().map(|(_, pack)| pack.unused_bytes()).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count of bytes"
    )]
    let allowed = (thrift.max_unused.clamp(0.0, 1.0) * plan.used_bytes as f64) as u64;
    let small = candidates.iter().filter(|(_, pack)| pack.length < SMALL).count();
    let join = thrift.join_small && small >= MANY_SMALL;
    let share = |pack: &Pack| pack.unused_bytes() as f64 / pack.length.max(1) as f64;
    candidates.sort_by(|a, b| share(b.1).total_cmp(&share(a.1)).then(a.0.cmp(&b.0)));
    for (id, pack) in candidates {
        let mixed = pack.blobs.iter().any(|blob| blob.kind != pack.blobs[0].kind);
        let wasteful = pack.unused_bytes() > 0 && plan.unused_bytes > allowed;
        if mixed || wasteful || join && pack.length < SMALL {
            plan.unused_bytes -= pack.unused_bytes();
            plan.freed_bytes += pack.unused_bytes();
            plan.rewrite.push(id);
        } else {
            plan.keep += 1;
        }
    }
    plan.remove.sort();
    plan.rewrite.sort();
    plan
}

/// Writes what is needed of some packs into new ones, each blob verified on the way.
fn rewrite(
    store: &Arc<Store>,
    state: &State,
    plan: &Pruning,
    seen: &mut dyn FnMut(usize),
) -> Result<Vec<Packed>, Fault> {
    let packer = Packer::without_index(Arc::clone(store));
    let mut scratch = Scratch::default();
    let mut sealed = Vec::new();
    for (done, id) in plan.rewrite.iter().enumerate() {
        let Some(pack) = state.packs.get(id) else { continue };
        for blob in &pack.needed {
            if signal::stop_asked() {
                return Err(interrupted());
            }
            let name = Name::File(Kind::Pack, *id);
            store.backend.read(name, blob.offset.into(), blob.length as usize, &mut sealed)?;
            store.open_blob(&sealed, blob, &mut scratch).map_err(|why| {
                refused(format!("the {} blob {}: {why}", blob.kind.word(), blob.id))
                    .place(pack_place(&*store.backend, *id))
            })?;
            packer.take_over(&sealed, blob)?;
        }
        seen(done + 1);
    }
    packer.finish_packs()
}

/// Writes index files that name all these packs, and returns their names.
fn write_index(store: &Store, packs: &[Packed], supersedes: &[Id]) -> Result<Vec<Id>, Fault> {
    let mut groups: Vec<&[Packed]> = Vec::new();
    let (mut start, mut blobs) = (0, 0);
    for (at, (_, inside)) in packs.iter().enumerate() {
        blobs += inside.len();
        if blobs >= BLOBS_PER_FILE {
            groups.push(&packs[start..=at]);
            (start, blobs) = (at + 1, 0);
        }
    }
    if start < packs.len() {
        groups.push(&packs[start..]);
    }
    let mut written = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        // Only the last one says what is replaced: then all of them are there.
        let replaced = if at + 1 == groups.len() { supersedes } else { &[] };
        let json = index::to_json(group, replaced)
            .map_err(|e| Fault::infrastructure("an index cannot be written").cause(e))?;
        written.push(store.save(Kind::Index, &json)?);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(state: &mut State, name: &[u8], sizes: &[u32], needed: usize) -> Id {
        let mut blobs = Vec::new();
        let mut offset = 0;
        for (at, length) in sizes.iter().enumerate() {
            let id = Id::of(&[name, &[u8::try_from(at).unwrap()]].concat());
            blobs.push(Blob { kind: BlobKind::Data, id, offset, length: *length, uncompressed: 0 });
            offset += length;
        }
        let (id, length) = (Id::of(name), pack::whole_length(&blobs));
        state.there.insert(id, length);
        let needed = blobs[..needed].to_vec();
        state.packs.insert(id, Pack { blobs, needed, length });
        id
    }

    fn empty() -> State {
        State { indexes: Vec::new(), packs: BTreeMap::new(), there: HashMap::new() }
    }

    #[test]
    fn only_what_is_worth_it_is_written_anew() {
        let mut state = empty();
        let mb = 1 << 20;
        let whole = pack(&mut state, b"whole", &[8 * mb, 8 * mb], 2);
        let little = pack(&mut state, b"little", &[16 * mb, 1000], 1);
        let half = pack(&mut state, b"half", &[8 * mb, 8 * mb], 1);
        let unneeded = pack(&mut state, b"unneeded", &[mb], 0);
        state.there.insert(Id::of(b"unnamed"), 5);
        let done = plan(&state, Thrift::default());
        assert_eq!(done.rewrite, [half]);
        assert_eq!(done.keep, 2);
        let mut removed = vec![unneeded, Id::of(b"unnamed")];
        removed.sort();
        assert_eq!(done.remove, removed);
        assert!(done.unused_bytes > 0 && done.unused_bytes < 2000);
        let strict = plan(&state, Thrift { max_unused: 0.0, join_small: false });
        assert!(strict.rewrite.contains(&little) && !strict.rewrite.contains(&whole));
        assert_eq!(strict.unused_bytes, 0);
    }

    #[test]
    fn small_packs_are_joined_when_there_are_many() {
        let mut state = empty();
        for i in 0..7_u8 {
            pack(&mut state, &[i], &[1000], 1);
        }
        assert!(plan(&state, Thrift::default()).is_empty());
        pack(&mut state, b"one more", &[1000], 1);
        assert_eq!(plan(&state, Thrift::default()).rewrite.len(), 8);
        assert!(plan(&state, Thrift { join_small: false, ..Thrift::default() }).is_empty());
    }
}
