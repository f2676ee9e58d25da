//! Applies the plan's retention to the snapshots of this service and environment, then removes what no
//! snapshot needs any more.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::inside::Inside;
use super::look::{print, table, tagged};
use super::restore::BEFORE_RESTORE;
use super::retention::{Fate, decide};
use super::store::Place;
use super::{SNAPSHOT_MAX_AGE, TAG, host_of, plural, section, to_stdout};
use crate::evidence::{Body, SnapshotBody, SnapshotState, short};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::plan;
use crate::repository::restic::{Id, Known, Pruning, Repository, Snapshot, Thrift};
use crate::tools::promote;
use crate::units::{parse_share, show_size};
use crate::world;
use crate::world::talk::Mark;

/// How much is pruned.
#[derive(Clone, Debug, clap::Args)]
pub struct Cut {
    /// Show what would stay and what would go, and why; touch nothing, not even a lock
    #[arg(long)]
    pub dry_run: bool,
    /// How much of the store may be data that nobody needs, before packs are written anew for it
    #[arg(long, value_name = "SHARE", default_value = "5%")]
    pub max_unused: String,
}

impl Cut {
    fn thrift(&self) -> Result<Thrift, Fault> {
        let max_unused = parse_share(&self.max_unused).map_err(|why| {
            Fault::usage(why)
                .place("--max-unused")
                .help("0% writes every pack anew that has anything unneeded")
        })?;
        Ok(Thrift { max_unused, ..Thrift::default() })
    }
}

/// What becomes of one snapshot.
struct Row {
    known: Known,
    /// Why it stays; empty where it goes.
    reasons: Vec<String>,
}

/// Forgets the snapshots of this service and environment that the plan's retention does not keep, and
/// removes what only they needed.
///
/// Errors: 2 for a plan without a retention; 5 where the retention would keep nothing, while somebody
/// else uses the store, and when anything that stays is damaged; 4 when the store or the promote state
/// cannot be reached, or nothing may be removed.
pub fn prune(job: &Job, cut: &Cut) -> Result<Exit, Fault> {
    let thrift = cut.thrift()?;
    let retention = retention(job)?;
    let place = Place::of(job)?;
    let repository = place.open()?;
    let mut rows = Vec::new();
    let mut choose = || {
        rows = choose(job, &repository.without_locks(), retention)?;
        // What is going to happen is seen before it happens.
        if !job.call.json {
            print(&shown(&rows, cut.dry_run))?;
        }
        Ok(rows.iter().filter(|row| row.reasons.is_empty()).map(|row| row.known.id).collect())
    };
    let pruning = if cut.dry_run {
        let gone: Vec<Id> = choose()?;
        repository.without_locks().plan_without(&gone, thrift)?
    } else {
        // Only from the first pack on: before, the table is written.
        let mut ticker = None;
        let seen = &mut |done, of| {
            let ticker = ticker.get_or_insert_with(|| job.talk().ticker());
            ticker.set(&format!("pruning: {done} of {of} packs"));
        };
        repository.forget_and_prune(&mut choose, thrift, seen).map_err(|fault| not_removed(fault, &place))?
    };
    if job.call.json {
        to_stdout(&document(job, &place, &repository, cut, &rows, &pruning))?;
    }
    job.talk().line(Mark::Good, &sentence(job, cut, &rows, &pruning));
    Ok(Exit::Pass)
}

fn retention(job: &Job) -> Result<&plan::Retention, Fault> {
    section(job)?.retention.as_ref().ok_or_else(|| {
        Fault::usage("the plan does not say which snapshots are kept")
            .place(&job.loaded.reference.path)
            .help("add to `snapshot`, for example, `retention: {keep_last: 10, keep_daily: 14}`")
    })
}

/// Decides over every snapshot of this service and environment; newest first. Changes nothing.
fn choose(job: &Job, repository: &Repository, retention: &plan::Retention) -> Result<Vec<Row>, Fault> {
    let (known, _) = repository.known()?;
    let own: Vec<Known> = known.into_iter().filter(|known| is_own(job, known)).collect();
    // What was taken before a restore counts by itself: it never takes the place of a way back.
    let (before, usual): (Vec<Known>, Vec<Known>) = own.iter().cloned().partition(is_before_restore);
    let now = world::now();
    let group = |of: &[Known]| {
        let group: Vec<_> = of.iter().map(|known| (known.id, &known.snapshot)).collect();
        decide(&group, retention, now)
    };
    let mut fates = group(&usual);
    if !fates.is_empty() && fates.iter().all(|(_, fate)| *fate == Fate::Forget) {
        return Err(Fault::refused(format!("the retention would keep no snapshot of {}", host_of(job)))
            .place(&job.loaded.reference.path)
            .cause(format!("none of {} is kept by any of its rules", plural(fates.len(), "snapshot")))
            .help("add `keep_last`, so that something always stays"));
    }
    fates.extend(group(&before));
    let guards = Guards::of(job, repository, &usual, now)?;
    let mut own: std::collections::HashMap<Id, Known> =
        own.into_iter().map(|known| (known.id, known)).collect();
    let row = |(id, fate): (Id, Fate)| {
        let known = own.remove(&id)?;
        let mut reasons = match fate {
            Fate::Keep(reasons) => reasons,
            Fate::Forget => Vec::new(),
        };
        reasons.extend(guards.reasons(&known));
        Some(Row { known, reasons })
    };
    let mut rows: Vec<Row> = fates.into_iter().filter_map(row).collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.known.snapshot.time), row.known.id));
    Ok(rows)
}

fn is_before_restore(known: &Known) -> bool {
    known.snapshot.tags.iter().any(|tag| tag == BEFORE_RESTORE)
}

/// Only what was made for this service and environment, by Trapkey: whatever else lies in the store is
/// not ours to remove.
fn is_own(job: &Job, known: &Known) -> bool {
    let snapshot = &known.snapshot;
    snapshot.hostname == host_of(job)
        && snapshot.tags.iter().any(|tag| tag == TAG)
        // `a.b` in `c` and `a` in `b.c` have the same host name.
        && tagged(snapshot, "service") == Some(&job.release.service)
        && tagged(snapshot, "environment") == Some(&job.release.environment)
}

/// What stays whatever the retention says.
struct Guards {
    newest: Option<Id>,
    newest_whole: Option<Id>,
    /// What the evidence folder names.
    named: Option<(Id, String)>,
    ways_back: Vec<(promote::WayBack, Option<Id>)>,
    /// What is younger may be what a promotion is about to begin with.
    since: Option<Timestamp>,
}

impl Guards {
    /// `own`, oldest first.
    fn of(job: &Job, repository: &Repository, own: &[Known], now: Timestamp) -> Result<Self, Fault> {
        let ways_back = promote::ways_back(job)?.into_iter().map(|way| {
            let id = way.snapshot.as_deref().and_then(Id::parse);
            (way, id)
        });
        let max_age = section(job)?.max_age.map_or(SNAPSHOT_MAX_AGE, |span| span.0);
        // A promotion that has looked at the age already may take a while until it is on record.
        let max_age = max_age + max_age / 8;
        Ok(Self {
            newest: own.last().map(|known| known.id),
            newest_whole: newest_whole(repository, own)?,
            named: named(job)?,
            ways_back: ways_back.collect(),
            since: job.loaded.plan.promote.as_ref().and_then(|_| now.checked_sub(max_age).ok()),
        })
    }

    fn reasons(&self, known: &Known) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(pin) = &known.pin {
            reasons.push(pin.why.as_ref().map_or("pinned".to_owned(), |why| format!("pinned: {why}")));
        }
        if self.newest == Some(known.id) {
            reasons.push("the newest one".into());
        } else if self.newest_whole == Some(known.id) {
            reasons.push("the newest whole one".into());
        }
        reasons.extend(
            self.named.iter().filter(|(id, _)| known.is(*id)).map(|(_, file)| format!("named by {file}")),
        );
        for (way, id) in &self.ways_back {
            let meant = match id {
                Some(id) => known.is(*id),
                None => tagged(&known.snapshot, "version") == Some(&way.version),
            };
            if meant {
                reasons.push(way.needed_by.clone());
            }
        }
        if self.since.is_some_and(|since| documented(&known.snapshot) >= since) {
            reasons.push("young enough for a promotion to begin with".into());
        }
        reasons
    }
}

/// When its document was written at the latest, which its age is counted from: after the backup, and after
/// the proof, which takes no longer.
fn documented(snapshot: &Snapshot) -> Timestamp {
    let Some(summary) = &snapshot.summary else { return snapshot.time };
    let took = summary.backup_end.duration_since(summary.backup_start);
    summary.backup_end.checked_add(took).unwrap_or(summary.backup_end).max(snapshot.time)
}

/// The newest that lacks nothing. One whose description is not there was not made by `create`.
fn newest_whole(repository: &Repository, own: &[Known]) -> Result<Option<Id>, Fault> {
    for known in own.iter().rev() {
        let inside = Inside::of(&repository.read(known.id)?)?;
        let whole = |inside: Inside| inside.sources.iter().all(|part| part.state == SnapshotState::Whole);
        if inside.is_some_and(whole) {
            return Ok(Some(known.id));
        }
    }
    Ok(None)
}

/// What snapshot.json in the evidence folder names.
///
/// Errors (5): it is there and cannot be believed: then nobody knows what the release needs.
fn named(job: &Job) -> Result<Option<(Id, String)>, Fault> {
    let path = job.evidence().join(SnapshotBody::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let snapshot = job.read::<SnapshotBody>()?.document.body.snapshot;
    Ok(snapshot.and_then(|snapshot| Id::parse(&snapshot.id)).map(|id| (id, path.display().to_string())))
}

fn shown(rows: &[Row], dry_run: bool) -> String {
    let head = ["ID", "CREATED", "VERSION", "", "WHY"];
    let goes = if dry_run { "would go" } else { "goes" };
    let row = |row: &Row| {
        let gone = row.reasons.is_empty();
        let why = if gone { "no rule keeps it".to_owned() } else { row.reasons.join("; ") };
        [
            short(&row.known.id.to_string()),
            row.known.snapshot.time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            tagged(&row.known.snapshot, "version").unwrap_or_default().to_owned(),
            if gone { goes } else { "stays" }.to_owned(),
            why,
        ]
    };
    let rows: Vec<[String; 5]> =
        std::iter::once(head.map(str::to_owned)).chain(rows.iter().map(row)).collect();
    table(&rows)
}

fn forgotten(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.reasons.is_empty()).count()
}

fn document(
    job: &Job,
    place: &Place,
    repository: &Repository,
    cut: &Cut,
    rows: &[Row],
    pruning: &Pruning,
) -> Value {
    let row = |row: &Row| {
        json!({
            "id": row.known.id.to_string(),
            "created_at": row.known.snapshot.time,
            "version": tagged(&row.known.snapshot, "version"),
            "stays": !row.reasons.is_empty(),
            "why": row.reasons,
        })
    };
    json!({
        "store": place.shown,
        "repository": repository.config().id.to_string(),
        "service": job.release.service,
        "environment": job.release.environment,
        "dry_run": cut.dry_run,
        "snapshots": rows.iter().map(row).collect::<Vec<_>>(),
        "forgotten": forgotten(rows),
        "packs_removed": pruning.remove.len(),
        "packs_rewritten": pruning.rewrite.len(),
        "packs_kept": pruning.keep,
        "freed_bytes": pruning.freed_bytes,
        "unused_bytes": pruning.unused_bytes,
        "used_bytes": pruning.used_bytes,
    })
}

fn sentence(job: &Job, cut: &Cut, rows: &[Row], pruning: &Pruning) -> String {
    let gone = forgotten(rows);
    let group = host_of(job);
    let stay = plural(rows.len() - gone, "snapshot");
    if gone == 0 && pruning.is_empty() {
        return format!("nothing to remove: {stay} of {group} and all the data that there is are needed");
    }
    let would = if cut.dry_run { "would be " } else { "" };
    format!(
        "{stay} of {group} {would}kept, {gone} {would}forgotten; {} {would}freed ({} {would}removed, {} written anew)",
        show_size(pruning.freed_bytes as f64),
        plural(pruning.remove.len(), "pack"),
        pruning.rewrite.len(),
    )
}

/// Says what to do about a store that lets nothing be removed.
fn not_removed(fault: Fault, place: &Place) -> Fault {
    let said = fault.cause.as_deref().unwrap_or_default().to_ascii_lowercase();
    let denied = ["permission denied", "not permitted", "accessdenied", "access denied", "403", "read-only"];
    if fault.exit != Exit::Infrastructure || !denied.iter().any(|word| said.contains(word)) {
        return fault;
    }
    Fault { what: "the store does not let this job remove anything".into(), ..fault }.help(format!(
        "an append-only store is pruned with credentials of their own that may remove files of {}; nothing \
         that is needed was touched",
        place.shown
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_as_young_as_its_document() {
        let mut json = json!({"time": "2026-01-01T00:00:00Z", "tree": Id::of(b"tree").to_string()});
        let read = |json: &Value| serde_json::from_value::<Snapshot>(json.clone()).unwrap();
        assert_eq!(documented(&read(&json)).to_string(), "2026-01-01T00:00:00Z");
        json["summary"] = json!({
            "backup_start": "2026-01-01T00:00:00Z", "backup_end": "2026-01-01T06:00:00Z",
            "files_new": 0, "files_changed": 0, "files_unmodified": 0, "dirs_new": 0, "dirs_changed": 0,
            "dirs_unmodified": 0, "data_blobs": 0, "tree_blobs": 0, "data_added": 0,
            "total_files_processed": 0, "total_bytes_processed": 0,
        });
        assert_eq!(documented(&read(&json)).to_string(), "2026-01-01T12:00:00Z");
        // Clocks may go wrong.
        json["summary"]["backup_end"] = json!("2025-01-01T06:00:00Z");
        assert_eq!(documented(&read(&json)).to_string(), "2026-01-01T00:00:00Z");
        json["summary"]["backup_end"] = json!("9999-01-01T06:00:00Z");
        assert_eq!(documented(&read(&json)).to_string(), "9999-01-01T06:00:00Z");
    }

    #[test]
    fn a_store_that_refuses_to_remove_is_told_from_one_that_fails() {
        let place = Place::new("store", std::path::Path::new("/"));
        let fault = |cause: &str| Fault::infrastructure("the file cannot be written").cause(cause);
        for cause in
            ["Operation not permitted (os error 1)", "Permission denied (os error 13)", "403: AccessDenied"]
        {
            assert!(not_removed(fault(cause), &place).help.unwrap().contains("append-only"), "{cause}");
        }
        assert!(not_removed(fault("No space left on device"), &place).help.is_none());
        let refused = Fault::refused("locked").cause("permission denied");
        assert_eq!(not_removed(refused, &place).what, "locked");
    }
}
