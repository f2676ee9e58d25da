//! A folder: its entries, sorted by name.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::node::Node;
use super::quoting::quote;

/// How deep folders may lie in each other; more cannot be opened by a path anyway.
pub(super) const MAX_DEPTH: usize = 2048;

#[derive(Deserialize)]
struct Tree {
    // Go writes an empty list as null.
    nodes: Option<Vec<Node>>,
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
    let tree: Tree = serde_json::from_slice(json).map_err(|e| format!("a folder cannot be read: {e}"))?;
    let nodes = tree.nodes.unwrap_or_default();
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
