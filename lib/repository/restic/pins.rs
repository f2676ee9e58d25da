//! Pins: snapshots that must stay.
//!
//! restic knows only tags, and a snapshot with other tags is another file with another id, by which the
//! id in earlier documents would be gone. So a pin is a second file: the same tree, time and paths, the
//! tag [`PINNED`], and as `original` the id that is pinned; the pinned one stays as it is. Writing it
//! takes no right to remove. `restic forget --keep-tag pinned` keeps the second file, and with it all
//! data; whoever asks for the first id by then is given the second.

use super::backend::{Kind, Name};
use super::id::Id;
use super::locks::Held;
use super::snapshot::Snapshot;
use super::{Repository, Snapshots, read_snapshot};
use crate::fault::Fault;

/// The tag of a pin.
pub const PINNED: &str = "pinned";
/// How the tag begins that says why.
const WHY: &str = "why=";

/// A snapshot as people know it: together with its pin, where it has one.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its id.
    pub id: Id,
    /// What it says of itself.
    pub snapshot: Snapshot,
    /// The file that pins it: a second one, or its own where nothing but the pin is left.
    pub pin: Option<Pin>,
}

/// What pins a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The file.
    pub id: Id,
    /// Why, where somebody said so.
    pub why: Option<String>,
}

impl Pin {
    fn of(id: Id, snapshot: &Snapshot) -> Option<Self> {
        let why = snapshot.tags.iter().find_map(|tag| tag.strip_prefix(WHY));
        is_pinned(snapshot).then(|| Self { id, why: why.map(str::to_owned) })
    }
}

impl Known {
    /// Whether an id means this snapshot: its own, that of its pin, or one that it had before its tags
    /// were changed.
    pub fn is(&self, id: Id) -> bool {
        self.id == id
            || self.pin.as_ref().is_some_and(|pin| pin.id == id)
            || self.snapshot.original == Some(id)
    }
}

/// A snapshot that cannot be read, and why.
pub type Unreadable = (Id, String);

fn is_pinned(snapshot: &Snapshot) -> bool {
    snapshot.tags.iter().any(|tag| tag == PINNED)
}

/// Puts each pin to the snapshot that it pins; oldest first.
pub(super) fn fold(whole: Vec<(Id, Snapshot)>) -> Vec<Known> {
    let trees: std::collections::HashMap<Id, Id> = whole.iter().map(|(id, s)| (*id, s.tree)).collect();
    let mut known: Vec<Known> = Vec::with_capacity(whole.len());
    let mut pins: Vec<(Id, Known)> = Vec::new();
    for (id, snapshot) in whole {
        let pin = Pin::of(id, &snapshot);
        // Only what has the same content stands for the other one.
        let of = snapshot.original.filter(|of| *of != id && trees.get(of) == Some(&snapshot.tree));
        let this = Known { id, snapshot, pin };
        match of.filter(|_| this.pin.is_some()) {
            Some(of) => pins.push((of, this)),
            None => known.push(this),
        }
    }
    for (of, pin) in pins {
        // What a pin pins may itself be the pin of another one.
        match known.iter_mut().find(|known| known.is(of)) {
            Some(known) => known.pin = known.pin.take().or(pin.pin),
            // Two that each claim to pin the other: shown rather than lost from sight.
            None => known.push(pin),
        }
    }
    known.sort_by_key(|known| (known.snapshot.time, known.id));
    known
}

/// The one that is meant by `latest`, or by the unique beginning of an id.
pub(super) enum Meant {
    One(Id),
    None,
    Several,
}

/// Looks for the beginning of an id: among the ids themselves first, then among those of pins and those
/// that snapshots had before.
pub(super) fn meant(known: &[Known], beginning: &str) -> Meant {
    let beginning = beginning.to_ascii_lowercase();
    let fits = |id: Id| beginning.len() >= 6 && id.to_string().starts_with(&beginning);
    let own: Vec<&Known> = known.iter().filter(|known| fits(known.id)).collect();
    let found = if own.is_empty() {
        let other = |known: &&Known| {
            known.snapshot.original.is_some_and(fits) || known.pin.as_ref().is_some_and(|pin| fits(pin.id))
        };
        known.iter().filter(other).collect()
    } else {
        own
    };
    match found.split_first() {
        None => Meant::None,
        // Several files with one content are one snapshot.
        Some((first, rest)) if rest.iter().all(|other| same(first, other)) => Meant::One(first.id),
        Some(_) => Meant::Several,
    }
}

fn same(a: &Known, b: &Known) -> bool {
    let original = |known: &Known| known.snapshot.original.unwrap_or(known.id);
    a.snapshot.tree == b.snapshot.tree && original(a) == original(b)
}

impl Repository {
    /// Every snapshot that can be read with its pin, oldest first, and those that cannot be read.
    pub fn known(&self) -> Result<(Vec<Known>, Vec<Unreadable>), Fault> {
        let Snapshots { whole, damaged } = self.snapshots()?;
        Ok((fold(whole), damaged))
    }

    /// Pins a snapshot; returns the id of the pin. Nothing is removed by it.
    ///
    /// Errors: refused (5) while somebody holds the repository exclusively, for version 1, and when
    /// somebody forgot the snapshot at the same moment; 4 when it is missing or damaged, or the store
    /// cannot be written.
    pub fn pin(&self, id: Id, why: Option<&str>) -> Result<Id, Fault> {
        self.store.must_be_writable()?;
        let held = Held::new(&self.store, false)?;
        let mut snapshot = read_snapshot(&self.store, id)?;
        snapshot.tags.retain(|tag| tag != PINNED && !tag.starts_with(WHY));
        snapshot.tags.push(PINNED.into());
        snapshot.tags.extend(why.map(|why| format!("{WHY}{why}")));
        snapshot.original = Some(id);
        let json = serde_json::to_vec(&snapshot)
            .map_err(|e| Fault::infrastructure("a snapshot cannot be written").cause(e))?;
        held.still_holds()?;
        let pin = self.store.save(Kind::Snapshot, &json)?;
        // Had this machine been suspended just then, others may have removed what it needs.
        let there = held.still_holds().and_then(|()| {
            let there = self.store.backend.length(Name::File(Kind::Snapshot, id))?;
            there.map(|_| pin).ok_or_else(|| {
                Fault::refused("the snapshot was forgotten at the same moment")
                    .place(self.place())
                    .cause(format!("{} is gone", id.short()))
            })
        });
        if there.is_err() {
            self.store.backend.remove(Name::File(Kind::Snapshot, pin))?;
        }
        there
    }

    /// Takes the pin of a snapshot away; retention decides over it again. Where nothing but the pin is
    /// left of it, the snapshot stays, without the tag and under another id, which is returned.
    ///
    /// Errors: refused (5) while somebody else uses the repository, and for version 1; 4 when the pin is
    /// missing or damaged, or may not be removed.
    pub fn unpin(&self, known: &Known) -> Result<Id, Fault> {
        let Some(pin) = &known.pin else { return Ok(known.id) };
        if pin.id != known.id {
            // Any further files that pin it go too.
            let pins: Vec<Id> = self
                .snapshots()?
                .whole
                .into_iter()
                .filter(|(id, s)| *id != known.id && is_pinned(s) && s.original == Some(known.id))
                .filter(|(_, s)| s.tree == known.snapshot.tree)
                .map(|(id, _)| id)
                .collect();
            self.forget(&pins)?;
            return Ok(known.id);
        }
        let mut tags = known.snapshot.tags.clone();
        tags.retain(|tag| tag != PINNED && !tag.starts_with(WHY));
        self.retag(known.id, tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(tree: &str, original: Option<&str>, tags: &[&str]) -> Snapshot {
        let json = serde_json::json!({
            "time": "2026-01-01T00:00:00Z",
            "tree": Id::of(tree.as_bytes()).to_string(),
            "original": original.map(|id| Id::of(id.as_bytes()).to_string()),
            "tags": tags,
        });
        serde_json::from_value(json).unwrap()
    }

    fn id(name: &str) -> Id {
        Id::of(name.as_bytes())
    }

    fn ids(known: &[Known]) -> Vec<(Id, Option<Id>)> {
        known.iter().map(|known| (known.id, known.pin.as_ref().map(|pin| pin.id))).collect()
    }

    #[test]
    fn a_pin_is_shown_with_what_it_pins_and_alone_where_that_is_gone() {
        let first = (id("a"), snapshot("tree", None, &["trapkey"]));
        let pin = (id("p"), snapshot("tree", Some("a"), &["trapkey", PINNED, "why=audit"]));
        let known = fold(vec![pin.clone(), first]);
        assert_eq!(ids(&known), [(id("a"), Some(id("p")))]);
        assert_eq!(known[0].pin.as_ref().unwrap().why.as_deref(), Some("audit"));
        assert!(known[0].is(id("a")) && known[0].is(id("p")) && !known[0].is(id("x")));
        let alone = fold(vec![pin]);
        assert_eq!(ids(&alone), [(id("p"), Some(id("p")))]);
        assert!(alone[0].is(id("a")));
    }

    #[test]
    fn only_a_pin_with_the_same_content_is_folded() {
        let known = fold(vec![
            (id("a"), snapshot("tree", None, &[])),
            (id("other"), snapshot("another tree", Some("a"), &[PINNED])),
            (id("retagged"), snapshot("tree", Some("a"), &["x"])),
            (id("self"), snapshot("tree", Some("self"), &[PINNED])),
        ]);
        let mut expected = [
            (id("a"), None),
            (id("other"), Some(id("other"))),
            (id("retagged"), None),
            (id("self"), Some(id("self"))),
        ];
        expected.sort();
        assert_eq!(ids(&known), expected);
    }

    #[test]
    fn pins_in_a_circle_stay_in_sight() {
        let known = fold(vec![
            (id("a"), snapshot("tree", Some("b"), &[PINNED])),
            (id("b"), snapshot("tree", Some("a"), &[PINNED])),
        ]);
        assert!(!known.is_empty() && known.iter().all(|known| known.pin.is_some()));
    }

    #[test]
    fn an_id_is_found_by_its_beginning_and_an_earlier_one_where_it_is_gone() {
        let beginning = |name: &str| id(name).to_string()[..8].to_owned();
        let one = |known: &[Known], name: &str| match meant(known, &beginning(name)) {
            Meant::One(id) => Some(id),
            Meant::None => None,
            Meant::Several => panic!("several"),
        };
        let known = fold(vec![
            (id("a"), snapshot("tree", None, &[])),
            (id("p"), snapshot("tree", Some("a"), &[PINNED])),
            (id("c"), snapshot("tree of b", Some("b"), &[])),
            (id("d"), snapshot("tree of b", Some("b"), &[])),
        ]);
        assert_eq!(one(&known, "a"), Some(id("a")));
        assert_eq!(one(&known, "p"), Some(id("a")));
        assert_eq!(one(&known, "b"), Some(id("c").min(id("d"))));
        assert_eq!(one(&known, "x"), None);
        assert!(matches!(meant(&known, &id("a").to_string()[..5]), Meant::None));
        let unlike = fold(vec![
            (id("c"), snapshot("one tree", Some("b"), &[])),
            (id("d"), snapshot("another", Some("b"), &[])),
        ]);
        assert!(matches!(meant(&unlike, &beginning("b")), Meant::Several));
    }
}
