//! What is another in one snapshot than in an earlier one: files, and rows and sums of tables.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::inside::{self, Inside};
use super::look::{plain, print};
use super::store::Place;
use super::{plural, to_stdout};
use crate::evidence::{TableRecord, short};
use crate::fault::{Exit, Fault};
use crate::repository::restic::{Id, Node, NodeKind, Opened, mode};
use crate::units::show_size;

/// No folder lies deeper than restic can reach.
const MAX_DEPTH: usize = 2048;

/// One of the two snapshots.
struct Side {
    opened: Opened,
    /// The SHA-256 by path, where the snapshot has a manifest.
    sums: HashMap<Vec<u8>, Id>,
    inside: Option<Inside>,
}

impl Side {
    fn open(opened: Opened) -> Result<Self, Fault> {
        let sums = opened.sums(inside::SUMS.as_ref())?.unwrap_or_default();
        let inside = Inside::of(&opened)?;
        Ok(Self { opened, sums, inside })
    }

    fn entries(&self, tree: Option<Id>) -> Result<Vec<Node>, Fault> {
        tree.map_or(Ok(Vec::new()), |tree| self.opened.entries(tree))
    }

    /// The SHA-256 of a file: from the manifest, or by reading it.
    fn sum(&self, path: &Path) -> Result<Id, Fault> {
        if let Some(sum) = self.sums.get(path.as_os_str().as_bytes()) {
            return Ok(*sum);
        }
        let mut digest = Summing(Sha256::new());
        self.opened.dump(path, &mut digest)?;
        Ok(Id::from_digest(digest.0.finalize().into()))
    }

    /// Files that `create` adds to describe the snapshot; they are another each time.
    fn describes(&self, path: &Path) -> bool {
        self.inside.is_some() && [inside::FILE, inside::SUMS].iter().any(|name| path == Path::new(name))
    }
}

struct Summing(Sha256);

impl Write for Summing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One entry that is another.
struct Change {
    path: PathBuf,
    before: Option<(NodeKind, u64)>,
    after: Option<(NodeKind, u64)>,
    /// What of it, where it is on both sides.
    what: Vec<String>,
}

impl Change {
    fn word(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        }
    }

    fn line(&self) -> String {
        let size = |side: Option<(NodeKind, u64)>| match side {
            Some((NodeKind::File, size)) => Some(show_size(size as f64)),
            _ => None,
        };
        let sizes = match (size(self.before), size(self.after)) {
            (Some(before), Some(after)) if before != after => format!(" {before} -> {after}"),
            (Some(size), _) | (None, Some(size)) => format!(" {size}"),
            (None, None) => String::new(),
        };
        let folder = [self.before, self.after].iter().flatten().all(|(kind, _)| *kind == NodeKind::Dir);
        let slash = if folder { "/" } else { "" };
        let what = if self.what.is_empty() { String::new() } else { format!(" ({})", self.what.join(", ")) };
        let sign = match self.word() {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        format!("{sign} {}{slash}{sizes}{what}", self.path.display())
    }

    fn json(&self) -> Value {
        let side = |side: Option<(NodeKind, u64)>| {
            side.map(
                |(kind, size)| json!({"type": kind.word(), "size": (kind == NodeKind::File).then_some(size)}),
            )
        };
        json!({
            "path": self.path.to_string_lossy(),
            "change": self.word(),
            "before": side(self.before),
            "after": side(self.after),
            "what": self.what,
        })
    }
}

/// Rows and sums of one table on both sides.
struct TableChange {
    source: String,
    table: String,
    before: Option<TableRecord>,
    after: Option<TableRecord>,
}

impl TableChange {
    fn line(&self) -> String {
        let rows = |record: &TableRecord| plural(record.rows, "row");
        let sum = |record: &TableRecord| {
            record
                .sum
                .as_ref()
                .map(|sum| format!(", {} in {}", sum, record.sum_of.as_deref().unwrap_or("sum")))
        };
        let said = |record: &TableRecord| format!("{}{}", rows(record), sum(record).unwrap_or_default());
        let text = match (&self.before, &self.after) {
            (Some(before), Some(after)) => format!("{} -> {}", said(before), said(after)),
            (None, Some(after)) => format!("only in the second: {}", said(after)),
            (Some(before), None) => format!("only in the first: {}", said(before)),
            (None, None) => String::new(),
        };
        format!("table {} of {}: {text}", self.table, self.source)
    }

    fn json(&self) -> Value {
        json!({"source": self.source, "table": self.table, "before": self.before, "after": self.after})
    }
}

/// How much is another, in one source or in all.
#[derive(Clone, Copy, Default)]
struct Total {
    added: u64,
    removed: u64,
    changed: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

impl Total {
    fn count(&mut self, change: &Change) {
        let bytes = |side: Option<(NodeKind, u64)>| {
            side.filter(|(kind, _)| *kind == NodeKind::File).map_or(0, |(_, size)| size)
        };
        match change.word() {
            "added" => {
                (self.added, self.bytes_added) = (self.added + 1, self.bytes_added + bytes(change.after));
            }
            "removed" => {
                (self.removed, self.bytes_removed) =
                    (self.removed + 1, self.bytes_removed + bytes(change.before));
            }
            _ => self.changed += 1,
        }
    }

    fn line(&self) -> String {
        format!(
            "{} added ({}), {} removed ({}), {} changed",
            self.added,
            show_size(self.bytes_added as f64),
            self.removed,
            show_size(self.bytes_removed as f64),
            self.changed
        )
    }

    fn json(&self) -> Value {
        json!({
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "bytes_added": self.bytes_added,
            "bytes_removed": self.bytes_removed,
        })
    }
}

/// Shows what is another in the snapshot `b` than in `a`: content, type, mode, owner, link target,
/// attributes; times alone are no difference. Equal folders are not read.
///
/// Errors: 2 for an unknown snapshot; 4 when one is damaged. Differences are no error.
pub fn diff(place: &Place, a: &str, b: &str, json: bool) -> Result<Exit, Fault> {
    let repository = place.open()?;
    let (first, second) = (repository.find(a)?, repository.find(b)?);
    let (a, b) = (Side::open(repository.read(first)?)?, Side::open(repository.read(second)?)?);
    let changes = changes(&a, &b)?;
    let tables = tables(a.inside.as_ref(), b.inside.as_ref());
    let mut total = Total::default();
    let mut sources: BTreeMap<String, Total> = BTreeMap::new();
    for change in &changes {
        total.count(change);
        let source = change.path.iter().next().unwrap_or_default().to_string_lossy().into_owned();
        sources.entry(source).or_default().count(change);
    }
    if json {
        let with_name = |(name, total): (&String, &Total)| {
            let mut value = total.json();
            value["name"] = json!(name);
            value
        };
        to_stdout(&json!({
            "a": first.to_string(),
            "b": second.to_string(),
            "changes": changes.iter().map(Change::json).collect::<Vec<_>>(),
            "tables": tables.iter().map(TableChange::json).collect::<Vec<_>>(),
            "sources": sources.iter().map(with_name).collect::<Vec<_>>(),
            "total": total.json(),
        }))?;
        return Ok(Exit::Pass);
    }
    let mut lines: Vec<String> = changes.iter().map(Change::line).collect();
    lines.extend(tables.iter().map(TableChange::line));
    if sources.len() > 1 {
        lines.extend(sources.iter().map(|(name, total)| format!("{name}: {}", total.line())));
    }
    let same = changes.is_empty() && tables.is_empty();
    let names = format!("{} and {}", short(&first.to_string()), short(&second.to_string()));
    lines.push(if same {
        format!("{names} have the same content")
    } else {
        format!("in all: {}", total.line())
    });
    let text: String = lines.iter().map(|line| format!("{}\n", plain(line))).collect();
    print(&text)?;
    Ok(Exit::Pass)
}

/// Every entry that is another, by path.
fn changes(a: &Side, b: &Side) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    let roots = (Some(a.opened.snapshot().tree), Some(b.opened.snapshot().tree));
    let mut waiting = vec![(PathBuf::new(), 0, roots)];
    while let Some((folder, depth, (before, after))) = waiting.pop() {
        if before == after {
            continue;
        }
        if depth > MAX_DEPTH {
            return Err(Fault::infrastructure("folders of a snapshot lie too deep in each other")
                .place(folder.display().to_string()));
        }
        let mut both: BTreeMap<Vec<u8>, [Option<Node>; 2]> = BTreeMap::new();
        for (at, nodes) in [a.entries(before)?, b.entries(after)?].into_iter().enumerate() {
            for node in nodes {
                let slot = both.entry(node.name.clone()).or_default();
                slot[at] = Some(node);
            }
        }
        for (name, [before, after]) in both {
            let path = folder.join(OsStr::from_bytes(&name));
            if before.is_some() && a.describes(&path) || after.is_some() && b.describes(&path) {
                continue;
            }
            let what = match (&before, &after) {
                (Some(before), Some(after)) => differences((a, before), (b, after), &path)?,
                _ => Vec::new(),
            };
            if before.is_none() || after.is_none() || !what.is_empty() {
                let side = |node: &Option<Node>| node.as_ref().map(|node| (node.kind, node.size));
                changes.push(Change { path: path.clone(), before: side(&before), after: side(&after), what });
            }
            let tree = |node: Option<Node>| node.filter(|node| node.kind == NodeKind::Dir)?.subtree;
            waiting.push((path, depth + 1, (tree(before), tree(after))));
        }
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// What is another of an entry that is on both sides.
fn differences(
    (a, before): (&Side, &Node),
    (b, after): (&Side, &Node),
    path: &Path,
) -> Result<Vec<String>, Fault> {
    if before.kind != after.kind {
        return Ok(vec![format!("{} -> {}", before.kind.word(), after.kind.word())]);
    }
    let mut what = Vec::new();
    if before.kind == NodeKind::File && before.content != after.content {
        // restic cuts files elsewhere: other pieces may be the same bytes.
        if before.size != after.size || a.sum(path)? != b.sum(path)? {
            what.push("content".into());
        }
    }
    if before.linktarget != after.linktarget {
        let target = |node: &Node| Path::new(OsStr::from_bytes(&node.linktarget)).display().to_string();
        what.push(format!("target {} -> {}", target(before), target(after)));
    }
    let bits = |node: &Node| mode::to_unix(node.mode);
    if bits(before) != bits(after) {
        what.push(format!("mode {:04o} -> {:04o}", bits(before), bits(after)));
    }
    let owner = |node: &Node| (node.uid, node.gid);
    if owner(before) != owner(after) {
        let shown = |(uid, gid): (u32, u32)| format!("{uid}:{gid}");
        what.push(format!("owner {} -> {}", shown(owner(before)), shown(owner(after))));
    }
    if before.device != after.device {
        what.push(format!("device {:x} -> {:x}", before.device, after.device));
    }
    if before.attributes != after.attributes {
        what.push("attributes".into());
    }
    Ok(what)
}

/// The tables whose rows or sums are not the same.
fn tables(a: Option<&Inside>, b: Option<&Inside>) -> Vec<TableChange> {
    let mut both: BTreeMap<(String, String), [Option<TableRecord>; 2]> = BTreeMap::new();
    for (at, inside) in [a, b].into_iter().enumerate() {
        for part in inside.iter().flat_map(|inside| &inside.sources) {
            for record in &part.tables {
                both.entry((part.name.clone(), record.table.clone())).or_default()[at] = Some(record.clone());
            }
        }
    }
    let of = |record: &Option<TableRecord>| {
        record.as_ref().map(|record| (record.rows, record.sum_of.clone(), record.sum.clone()))
    };
    both.into_iter()
        .filter(|(_, [before, after])| of(before) != of(after))
        .map(|((source, table), [before, after])| TableChange { source, table, before, after })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::SnapshotState;

    fn inside(tables: &[(&str, u64, Option<&str>)]) -> Inside {
        let record = |(table, rows, sum): &(&str, u64, Option<&str>)| TableRecord {
            table: (*table).into(),
            rows: *rows,
            sum_of: sum.map(|_| "cents".into()),
            sum: sum.map(Into::into),
            key: None,
            up_to: None,
        };
        Inside {
            format: inside::FORMAT.into(),
            service: "shop".into(),
            version: "1".into(),
            environment: "production".into(),
            host: "here".into(),
            tool: "0".into(),
            sources: vec![inside::Part {
                name: "database".into(),
                kind: "postgres".into(),
                target: String::new(),
                files: 1,
                bytes: 1,
                sha256: String::new(),
                state: SnapshotState::Whole,
                notes: Vec::new(),
                tables: tables.iter().map(record).collect(),
                details: Value::Null,
            }],
        }
    }

    #[test]
    fn tables_differ_by_rows_and_sums_and_by_being_there() {
        let a = inside(&[
            ("gone", 1, None),
            ("orders", 10, Some("100")),
            ("same", 5, None),
            ("sums", 3, Some("7")),
        ]);
        let b = inside(&[
            ("new", 2, None),
            ("orders", 12, Some("120")),
            ("same", 5, None),
            ("sums", 3, Some("8")),
        ]);
        let lines: Vec<String> = tables(Some(&a), Some(&b)).iter().map(TableChange::line).collect();
        assert_eq!(
            lines,
            [
                "table gone of database: only in the first: 1 row",
                "table new of database: only in the second: 2 rows",
                "table orders of database: 10 rows, 100 in cents -> 12 rows, 120 in cents",
                "table sums of database: 3 rows, 7 in cents -> 3 rows, 8 in cents",
            ]
        );
        assert!(tables(Some(&a), Some(&a)).is_empty());
        assert!(tables(None, None).is_empty());
    }
}
