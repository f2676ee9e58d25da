//! A folder: its entries, sorted by name.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::node::Node;
use super::quoting::quote;

/// How deep folders may lie in each other; more cannot be opened by a path anyway.
pub(super) const MAX_DEPTH: usize = 2048;

/// No entry is written in fewer bytes: its three times alone take as many. Without that, very many
/// short ones would take much more memory than they have bytes.
const SHORTEST: usize = 96;

/// Reads a tree with this many entries at most.
struct Tree(usize);

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Vec<Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Node>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a folder")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Node>, A::Error> {
        let mut nodes = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key != "nodes" {
                map.next_value::<IgnoredAny>()?;
            } else if nodes.replace(map.next_value_seed(Entries(self.0))?).is_some() {
                return Err(A::Error::duplicate_field("nodes"));
            }
        }
        nodes.ok_or_else(|| A::Error::missing_field("nodes"))
    }
}

struct Entries(usize);

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Vec<Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Node>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entries of a folder")
    }

    // Go writes an empty list as null.
    fn visit_unit<E: Error>(self) -> Result<Vec<Node>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Node>, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            if nodes.len() >= self.0 {
                return Err(A::Error::custom("more entries than its bytes can say"));
            }
            nodes.push(node);
        }
        Ok(nodes)
    }
}

/// The bytes of a tree with these entries.
pub(super) fn to_json(nodes: &[Node]) -> Vec<u8> {
    let mut out = String::with_capacity(32 + nodes.len() * 400);
    out.push_str("{\"nodes\":[");
    for (at, node) in nodes.iter().enumerate() {
        if at != 0 {
            out.push(',');
        }
        node.write(&mut out);
    }
    // restic ends a tree with a line break.
    out.push_str("]}\n");
    out.into_bytes()
}

/// Reads a tree. Names are sane and each is there once.
///
/// Errors: why it is none.
pub(super) fn parse(json: &[u8]) -> Result<Vec<Node>, String> {
    let none = |e: serde_json::Error| format!("a folder cannot be read: {e}");
    let mut reader = serde_json::Deserializer::from_slice(json);
    let nodes = Tree(json.len() / SHORTEST + 1).deserialize(&mut reader).map_err(none)?;
    reader.end().map_err(none)?;
    if nodes.is_sorted_by(|a, b| a.name < b.name) {
        return Ok(nodes);
    }
    let mut seen = BTreeSet::new();
    for node in &nodes {
        if !seen.insert(&node.name) {
            return Err(format!("a folder has two entries `{}`", quote(&node.name)));
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::restic::id::Id;
    use crate::repository::restic::node::NodeKind;

    #[test]
    fn an_empty_folder_is_that_of_restic() {
        assert_eq!(to_json(&[]), b"{\"nodes\":[]}\n");
        assert!(parse(b"{\"nodes\":null}").unwrap().is_empty());
        // What restic calls an empty folder.
        assert!(Id::of(&to_json(&[])).to_string().starts_with("ac08ce34"));
    }

    #[test]
    fn an_entry_may_not_be_there_twice() {
        let node = |name: &str| Node { name: name.into(), kind: NodeKind::Dir, ..Node::default() };
        assert_eq!(parse(&to_json(&[node("a"), node("b")])).unwrap().len(), 2);
        assert_eq!(parse(&to_json(&[node("b"), node("a")])).unwrap().len(), 2);
        let twice = parse(&to_json(&[node("a"), node("b"), node("a")])).unwrap_err();
        assert!(twice.contains("two entries `a`"));
    }

    #[test]
    fn very_many_short_entries_are_refused_before_there_is_room_for_them() {
        let short = |many: usize| {
            let all: Vec<String> =
                (0..many).map(|n| format!("{{\"name\":\"{n}\",\"type\":\"dir\"}}")).collect();
            parse(format!("{{\"nodes\":[{}]}}", all.join(",")).as_bytes())
        };
        assert_eq!(short(1).unwrap().len(), 1);
        assert!(short(1000).unwrap_err().contains("more entries than its bytes can say"));
    }

    #[test]
    fn cut_and_flipped_trees_are_errors_and_never_a_panic() {
        let node = Node { name: b"a".to_vec(), content: Some(vec![Id::of(b"x")]), ..Node::default() };
        let json = to_json(&[node]);
        for cut in 0..json.len() - 2 {
            assert!(parse(&json[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..json.len() {
            for bit in 0..8 {
                let mut flipped = json.clone();
                flipped[at] ^= 1 << bit;
                // Either it is an error or a sane folder; what it may not be is a panic.
                if let Ok(nodes) = parse(&flipped) {
                    assert!(nodes.iter().all(|node| Node::name_is_sane(&node.name)));
                }
            }
        }
    }
}
