//! What a file in `snapshots` says.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::id::Id;

/// A snapshot, as it lies in the repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was begun.
    pub time: Timestamp,
    /// The snapshot that unchanged files were taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The folder with everything in it.
    pub tree: Id,
    /// Where the content came from, as absolute paths; restic groups by them.
    #[serde(default, deserialize_with = "or_empty")]
    pub paths: Vec<String>,
    /// The machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The user's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The group's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Patterns of what was left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub excludes: Vec<String>,
    /// Any words.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub tags: Vec<String>,
    /// The id that it had before its tags or times were changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// The program that wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// What was done; restic writes and shows it from 0.17 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Fields that are not known here.
    #[serde(flatten, skip_deserializing)]
    pub more: BTreeMap<String, Box<RawValue>>,
}

/// Those that are known.
const FIELDS: [&str; 13] = [
    "time",
    "parent",
    "tree",
    "paths",
    "hostname",
    "username",
    "uid",
    "gid",
    "excludes",
    "tags",
    "original",
    "program_version",
    "summary",
];

/// So many fields that are not known here are kept, and more are refused.
const MOST_UNKNOWN: usize = 100;

impl Snapshot {
    /// Reads its JSON.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let mut snapshot: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let fields: HashMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(json).map_err(|e| e.to_string())?;
        for (key, value) in fields.into_iter().filter(|(key, _)| !FIELDS.contains(&&**key)) {
            if snapshot.more.len() >= MOST_UNKNOWN {
                return Err(format!("it has more than {MOST_UNKNOWN} unknown fields"));
            }
            snapshot.more.insert(key.into_owned(), value.to_owned());
        }
        Ok(snapshot)
    }
}

/// What a backup did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// When it began.
    pub backup_start: Timestamp,
    /// When it ended.
    pub backup_end: Timestamp,
    /// Files that the parent does not have.
    pub files_new: u64,
    /// Files that are not as in the parent.
    pub files_changed: u64,
    /// Files that were not read again.
    pub files_unmodified: u64,
    /// Folders that the parent does not have.
    pub dirs_new: u64,
    /// Folders that are not as in the parent.
    pub dirs_changed: u64,
    /// Folders that are as in the parent.
    pub dirs_unmodified: u64,
    /// Pieces of files that were stored.
    pub data_blobs: i64,
    /// Folders that were stored.
    pub tree_blobs: i64,
    /// Bytes that were stored, before compression.
    pub data_added: u64,
    /// Bytes that were stored, as they lie there.
    #[serde(default)]
    pub data_added_packed: u64,
    /// Files in all.
    pub total_files_processed: u64,
    /// Their bytes.
    pub total_bytes_processed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Go writes an empty list as null.
fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_kept() {
        let json = r#"{"time":"2015-01-02T18:10:50.895208559+01:00","tree":"2da81727b6585232894cfbb8f8bdab8d1eccd3d8f7c92bc934d62e62e618ffdf","paths":null,"hostname":"kasimir","tags":["NL"],"program_version":"restic 0.18","later":1}"#;
        let snapshot = Snapshot::parse(json.as_bytes()).unwrap();
        assert_eq!(snapshot.tags, ["NL"]);
        assert!(snapshot.paths.is_empty() && snapshot.summary.is_none());
        let again = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(again["later"], 1);
        assert_eq!(again["time"], "2015-01-02T17:10:50.895208559Z");
        assert_eq!(again.as_object().unwrap().len(), 7);
    }

    #[test]
    fn every_known_field_is_known_and_very_many_unknown_ones_are_refused() {
        let number = |field: &str| format!("\"{field}\":1");
        let with = |fields: &[String]| {
            let id = Id::of(b"");
            let json = format!(r#"{{"time":"2026-01-01T00:00:00Z","tree":"{id}",{}}}"#, fields.join(","));
            Snapshot::parse(json.as_bytes())
        };
        let many: Vec<String> = (0..100).map(|n| number(&n.to_string())).collect();
        assert_eq!(with(&many).unwrap().more.len(), 100);
        assert!(with(&[many, vec![number("x")]].concat()).unwrap_err().contains("unknown fields"));
        for field in FIELDS {
            // A number stands in none of them but these two.
            assert_eq!(with(&[number(field)]).is_ok(), ["uid", "gid"].contains(&field), "{field}");
        }
    }
}
