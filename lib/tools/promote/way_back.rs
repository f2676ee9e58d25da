//! Which snapshots the promote state still needs, and whether the one that a release begins with is there, whole.

use serde::{Deserialize, Serialize};

use super::machine::State;
use super::orders;
use super::record::{Record, phase};
use crate::evidence::{Body, Need, Release, SnapshotBody, name_release, short};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::repository::restic::{Id, Kind, Name, Repository};
use crate::state::{Ask, Store};
use crate::tools::snapshot::{Place, Seen};

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

/// Whether the snapshot that a release begins with is in its store, and opens where this job has the passphrase.
///
/// Errors: it is not there, or is another store's (5); the store cannot be reached (4).
pub(super) fn is_there(job: &Job, needs: &[Need]) -> Result<(), Fault> {
    let Some(need) = needs.iter().find(|need| is_snapshot(need)) else { return Ok(()) };
    let found = job.read::<SnapshotBody>()?;
    match found.document.body.snapshot.filter(|_| found.need == *need) {
        Some(record) => find(job, &record.id, Some(&record.repository)),
        None => Err(Fault::refused(format!("`{}` names no snapshot", SnapshotBody::FILE))
            .place(job.evidence().join(SnapshotBody::FILE).display().to_string())
            .help("run `snapshot create` again")),
    }
}

/// The same once more for a promotion that goes on and has certainly moved nothing yet: between its beginning and
/// its first step may lie a day, and a prune. One that was called off is never held up.
pub(super) fn is_still_there(job: &Job, store: &Store, record: &Record) -> Result<(), Fault> {
    let waits = matches!(record.state, State::Deploying { .. } | State::Holding | State::CheckingGreen);
    let called_off = || store.asked(Ask::Abort, record.promotion.epoch, record.id.as_deref()).is_some();
    match &record.snapshot {
        Some(id) if waits && record.promotion.shifts.is_empty() && !called_off() => find(job, id, None),
        _ => Ok(()),
    }
}

/// Finds a snapshot in the plan's store, of that repository where it is known.
fn find(job: &Job, id: &str, repository: Option<&str>) -> Result<(), Fault> {
    let place = Place::of(job)?;
    let none_needed = job.loaded.plan.snapshot.as_ref().is_some_and(|s| s.encryption.is_some());
    let lost = |cause: String| {
        Fault::refused(format!("the snapshot {} that this release relies on is not there", short(id)))
            .place(place.shown.clone())
            .cause(cause)
            .help("run `snapshot create` again, and begin with its evidence; a store in a CI checkout is lost with it")
    };
    let unseen = |fault: Fault| {
        let what = format!("the snapshot {} that this release relies on cannot be looked for", short(id));
        let help = fault.help.clone().unwrap_or_else(|| "let this job reach the snapshot store".into());
        let mut told = Fault::refused(what).place(place.shown.clone()).cause(fault.line()).help(help);
        if fault.exit == Exit::Infrastructure {
            told.exit = Exit::Infrastructure;
        }
        told
    };
    match place.look(none_needed).map_err(unseen)? {
        Seen::Nothing => Err(lost("there is no snapshot store".into())),
        Seen::Closed(backend) => {
            let there = match Id::parse(id) {
                Some(id) => backend.length(Name::File(Kind::Snapshot, id)).map_err(unseen)?,
                None => None,
            };
            let by_name = "no file of its name is in the store, which this job has no passphrase for";
            there.ok_or_else(|| lost(by_name.into()))?;
            for (kind, what) in [(Kind::Index, "index"), (Kind::Pack, "pack")] {
                if backend.list(kind).map_err(unseen)?.is_empty() {
                    return Err(lost(format!("the store has no {what} any more")));
                }
            }
            Ok(())
        }
        Seen::Open(opened) => opens(&opened, id, repository).map_err(unseen)?.map_err(lost),
    }
}

/// Whether an opened store has a snapshot whose folders can be read and whose packs are there; otherwise why not.
fn opens(opened: &Repository, id: &str, repository: Option<&str>) -> Result<Result<(), String>, Fault> {
    let own = opened.config().id.to_string();
    if let Some(theirs) = repository.filter(|theirs| *theirs != own) {
        let theirs = short(theirs);
        return Ok(Err(format!("the store is {}, and the snapshot was made in {theirs}", short(&own))));
    }
    match opened.find(id) {
        Ok(id) => {
            let lacks = opened.lacks(id)?;
            let more = lacks.len().saturating_sub(1);
            let and = if more == 0 { String::new() } else { format!(", and {more} more like it") };
            Ok(lacks
                .into_iter()
                .next()
                .map_or(Ok(()), |(object, why)| Err(format!("it cannot be restored: {object}: {why}{and}"))))
        }
        Err(fault) if fault.exit == Exit::Usage => {
            let damaged = opened.snapshots()?.damaged;
            let damaged = damaged.into_iter().find(|(damaged, _)| damaged.to_string() == id);
            Ok(Err(damaged.map_or("the store has no snapshot of that id".into(), |(_, why)| {
                format!("its file in the store is damaged: {why}")
            })))
        }
        Err(fault) => Err(fault),
    }
}

fn is_snapshot(need: &Need) -> bool {
    need.path == SnapshotBody::FILE
}
