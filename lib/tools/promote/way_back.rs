//! Which snapshots the promote state still needs: nobody may prune the way back of what runs.

use serde::{Deserialize, Serialize};

use super::orders;
use super::record::{Record, phase};
use crate::evidence::{Body, Need, Release, SnapshotBody, name_release};
use crate::fault::Fault;
use crate::job::Job;

/// The snapshot that a release began with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Began {
    /// The release.
    pub release: Release,
    /// The id of the snapshot; none where it was not recorded.
    pub snapshot: Option<String>,
}

/// A snapshot that a release needs as its way back.
#[derive(Clone, Debug)]
pub(in crate::tools) struct WayBack {
    /// Its id; none where the record does not say it: then every snapshot of that version is meant.
    pub snapshot: Option<String>,
    /// The version of the release.
    pub version: String,
    /// Who needs it, in words.
    pub needed_by: String,
}

/// The ways back of the environment's newest promotion and, where that does not serve, of the release
/// that served before. Takes no lease and changes nothing.
///
/// Errors (4): the promote state cannot be read; then nobody knows.
pub(in crate::tools) fn ways_back(job: &Job) -> Result<Vec<WayBack>, Fault> {
    let Some(record) = orders::newest(job)?.map(|saved| saved.record) else { return Ok(Vec::new()) };
    // Another service may share the place, and needs no snapshot of this one.
    if record.release.service != job.release.service {
        return Ok(Vec::new());
    }
    let way = |began: Began, how: &str| WayBack {
        needed_by: format!("the way back of {} ({how})", name_release(&began.release)),
        version: began.release.version,
        snapshot: began.snapshot,
    };
    let mut ways = Vec::new();
    if let Some(before) = record.served_before.clone() {
        ways.push(way(before, "it served before"));
    }
    if let Some(began) = began(&record) {
        ways.push(way(began, &phase(&record.state, &record.course)));
    }
    Ok(ways)
}

/// The release that serves now, as far as a record knows, and its way back.
pub(super) fn serving(record: &Record) -> Option<Began> {
    if record.state.serves() { began(record) } else { record.served_before.clone() }
}

/// The snapshot that a promotion began with; none where it began without one.
fn began(record: &Record) -> Option<Began> {
    record
        .needs
        .iter()
        .any(is_snapshot)
        .then(|| Began { release: record.release.clone(), snapshot: record.snapshot.clone() })
}

/// The id of the snapshot that a promotion begins with.
pub(super) fn of_evidence(job: &Job, needs: &[Need]) -> Option<String> {
    let need = needs.iter().find(|need| is_snapshot(need))?;
    let found = job.read::<SnapshotBody>().ok().filter(|found| found.need == *need)?;
    Some(found.document.body.snapshot?.id)
}

fn is_snapshot(need: &Need) -> bool {
    need.path == SnapshotBody::FILE
}
