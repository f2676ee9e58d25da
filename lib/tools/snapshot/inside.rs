//! What a snapshot says of itself, kept inside it: whoever has nothing but the store still knows which
//! release it belongs to and what is where.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::evidence::{SnapshotState, TableRecord};
use crate::fault::Fault;
use crate::repository::restic::{NodeKind, Opened};

/// Its file in the snapshot.
pub(super) const FILE: &str = "trapkey.json";
/// The SHA-256 of every file, as `sha256sum` writes it.
pub(super) const SUMS: &str = "SHA256SUMS";
/// What else may be in such a file.
pub(super) const FORMAT: &str = "trapkey/inside/v1";
/// No such file is longer than this.
const MAX: u64 = 16 * 1024 * 1024;

/// What a snapshot says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inside {
    /// `trapkey/inside/v1`.
    pub format: String,
    /// The service that was backed up.
    pub service: String,
    /// The version that was about to be released.
    pub version: String,
    /// The environment.
    pub environment: String,
    /// The machine that the tool ran on.
    pub host: String,
    /// The version of the tool.
    pub tool: String,
    /// Its sources.
    pub sources: Vec<Part>,
}

/// One source in a snapshot; its files are in the folder of its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the plan.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What was backed up, secrets left out.
    pub target: String,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The SHA-256 over its lines in `SHA256SUMS`.
    pub sha256: String,
    /// Whether all of it is there.
    pub state: SnapshotState,
    /// What is missing or was noticed.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Rows and sums per table.
    #[serde(default)]
    pub tables: Vec<TableRecord>,
    /// What its kind adds.
    #[serde(default)]
    pub details: Value,
}

impl Inside {
    /// Reads it; none where the snapshot was made by something else.
    ///
    /// Errors (4): it is damaged, or of a newer format.
    pub fn of(opened: &Opened) -> Result<Option<Self>, Fault> {
        let Some(node) = opened.find(Path::new(FILE))? else { return Ok(None) };
        if node.kind != NodeKind::File || node.size > MAX {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        opened.dump(Path::new(FILE), &mut bytes)?;
        let place = || format!("{FILE} in the snapshot {}", opened.id());
        let inside: Self = serde_json::from_slice(&bytes).map_err(|e| {
            Fault::infrastructure("what a snapshot says of itself cannot be read").place(place()).cause(e)
        })?;
        if inside.format != FORMAT {
            return Err(Fault::infrastructure("a snapshot is of an unknown format")
                .place(place())
                .cause(format!("`{}`; this version knows `{FORMAT}`", inside.format))
                .help("use the Trapkey that made it, or restore it with plain restic"));
        }
        Ok(Some(inside))
    }

    /// One source.
    ///
    /// Errors (2): there is none of this name.
    pub fn part(&self, name: &str) -> Result<&Part, Fault> {
        self.sources.iter().find(|part| part.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.sources.iter().map(|part| part.name.as_str()).collect();
            Fault::usage(format!("the snapshot has no source `{name}`"))
                .help(format!("it has {}", names.join(", ")))
        })
    }
}
