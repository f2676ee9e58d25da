//! `snapshot`: backs up every source of the plan, proves that it reads back, and brings it back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::caught::{broke, caught};
use crate::evidence::{
    self, Finding, Need, PreflightBody, SnapshotBody, SnapshotRecord, SnapshotState, SourceRecord, VERSION,
    Verdict,
};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::{self, Prove, SourceSpec};
use crate::repository::restic::{Archive, Notes, Proof, Repository, Sealed, Spec};
use crate::routers;
use crate::severity::Severity;
use crate::sources::{self, Context, Source};
use crate::units::{show_duration, show_size};
use crate::world::talk::{Mark, Step, Talk, Ticker};
use crate::world::{self, talk};

mod diff;
pub mod drill;
mod hooks;
mod inside;
mod intake;
mod keys;
mod look;
pub mod passphrase;
mod pins;
mod prune;
mod restore;
pub mod retention;
mod store;
mod unlock;

pub use diff::diff;
pub use drill::{Rehearsal, drill};
pub use hooks::guard_if_asked;
pub use inside::{Inside, Part};
pub use keys::{KeyCommand, key};
pub use look::{Depth, check, list, show};
pub use pins::{pin, unpin};
pub use prune::{Cut, prune};
pub use restore::{Wish, in_place, into, restore};
pub use store::Place;
pub(in crate::tools) use store::Seen;
pub use unlock::unlock;

use hooks::Scope;
use intake::{Back, Intake};

/// How old preflight.json may be where the plan says nothing.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);
/// How old snapshot.json may be for a promotion to begin with it, where the plan says nothing.
const SNAPSHOT_MAX_AGE: Duration = Duration::from_secs(86_400);
/// Every snapshot of ours has it, and is proven: what was not is not listed.
pub const TAG: &str = "trapkey";
/// So many notes of a source are kept.
const NOTES: usize = 100;

/// A source of the plan, ready.
struct Ready<'a> {
    spec: &'a SourceSpec,
    source: Box<dyn Source>,
}

/// A source that was read.
struct Taken {
    part: Part,
    took: Duration,
    /// Whether it ended early, which the plan forgives: there may be nothing that it could prove.
    failed: bool,
}

/// Backs up every source into one snapshot, reads what is new back, and writes snapshot.json.
///
/// Errors: 2 for a plan without sources, with wrong settings or without a passphrase; 5 without a passed
/// preflight, or while the store is locked; 4 when anything could not be read, stored or proven. After
/// any error the store lists no snapshot of this call.
pub fn create(job: &Job) -> Result<Exit, Fault> {
    let section = section(job)?;
    if section.sources.is_empty() {
        return Err(Fault::usage("the plan's `snapshot` has no sources")
            .place(&job.loaded.reference.path)
            .help("name at least one; a snapshot of nothing is no way back"));
    }
    let ready = prepare(job, section)?;
    let hooks = hooks::open(job, section)?;
    let needs = preflight(job)?;
    job.make_room::<SnapshotBody>()?;
    let place = Place::of(job)?;
    let begun = Instant::now();
    let ticker = job.talk().ticker();
    ticker.set("opening the store");
    let (repository, made) = place.open_or_make(section.encryption.is_some())?;
    if made {
        job.talk().line(Mark::Step, &format!("made a new store at {}", place.shown));
    }
    let spec = spec_of(job, section, &repository)?;
    let created_at = spec.time;
    let mut archive = repository.begin(spec)?;
    let taken = hooks.around(Scope::Snapshot(section), || {
        let mut taken = Vec::new();
        for ready in &ready {
            let scope = Scope::Source(ready.spec);
            taken.push(hooks.around(scope, || read(job, ready, &place, &mut archive, &ticker))?);
        }
        Ok(taken)
    })?;
    // What is frozen is thawed now; another snapshot may freeze while this one is proven.
    let mut findings = hooks.close();
    stop_if_asked()?;
    let inside = inside_of(job, taken.iter().map(|taken| taken.part.clone()).collect());
    let json = serde_json::to_vec_pretty(&inside)
        .map_err(|e| Fault::infrastructure("what is in the snapshot cannot be written").cause(e))?;
    archive.bytes(inside::FILE.as_ref(), &json)?;
    ticker.set("making it durable");
    let sealed = archive.seal()?;
    let backup_ms = begun.elapsed().as_secs_f64() * 1e3;
    let proving = Instant::now();
    let summary = sealed.snapshot().summary.clone();
    let proof = prove_packs(&sealed, section.prove, &ticker)?;
    let mut records = Vec::new();
    for (ready, taken) in ready.iter().zip(taken) {
        let started = Instant::now();
        ticker.set(&format!("{}: proving", taken.part.name));
        let back = Back { name: &taken.part.name, sealed: &sealed };
        let more = if taken.failed {
            Some("it ended early, and its own proof was left out".into())
        } else {
            ready.source.prove(&back)?
        };
        let record = record(taken.part, section.prove, &proof, more, taken.failed);
        findings.extend(findings_of(&record, taken.took, started.elapsed()));
        records.push(record);
    }
    stop_if_asked()?;
    let id = sealed.commit()?.to_string();
    drop(ticker);
    let partial = records.iter().any(|record| record.state == SnapshotState::Partial);
    let record = SnapshotRecord {
        store: place.shown.clone(),
        repository: repository.config().id.to_string(),
        created_at,
        state: if partial { SnapshotState::Partial } else { SnapshotState::Whole },
        not_encrypted_because: section.encryption.as_ref().map(|e| e.none_needed_because.clone()),
        files: records.iter().map(|r| r.files).sum(),
        bytes: records.iter().map(|r| r.bytes).sum(),
        sources: records,
        added_bytes: summary.as_ref().map_or(0, |s| s.data_added),
        stored_bytes: summary.as_ref().map_or(0, |s| s.data_added_packed),
        packs_proven: proof.packs,
        proven_at: Some(world::now()),
        backup_ms,
        proof_ms: proving.elapsed().as_secs_f64() * 1e3,
        restore_command: restore_command(&id, &place),
        restic_command: restic_command(&id, &place, section.encryption.is_some()),
        id,
    };
    tell(job.talk(), &record, &findings);
    let summary = format!(
        "{} of {} in {}{} backed up and read back as {}",
        plural(record.sources.len(), "source"),
        show_size(record.bytes as f64),
        plural(record.files, "file"),
        if partial { ", in part," } else { "" },
        evidence::short(&record.id)
    );
    let outputs = vec![("snapshot", record.id.clone())];
    let verdict = evidence::verdict_of(&findings);
    job.conclude(Conclusion {
        needs,
        verdict,
        summary,
        findings,
        body: SnapshotBody { snapshot: Some(record) },
        outputs,
    })
}

fn section(job: &Job) -> Result<&plan::Snapshot, Fault> {
    job.loaded.plan.snapshot.as_ref().ok_or_else(|| {
        Fault::usage("the plan has no `snapshot` section")
            .place(&job.loaded.reference.path)
            .help("add `snapshot: {store: snapshots/, sources: […]}`, or name a store with --store")
    })
}

fn prepare<'a>(job: &'a Job, section: &'a plan::Snapshot) -> Result<Vec<Ready<'a>>, Fault> {
    section
        .sources
        .iter()
        .map(|spec| {
            let order = sources::Order { spec, loaded: &job.loaded };
            let source = sources::prepare(&order).map_err(|problem| job.loaded.fault(problem))?;
            if [inside::FILE, inside::SUMS].contains(&spec.name.as_str()) {
                let problem = order.problem("this name is taken by a file that every snapshot has");
                return Err(job.loaded.fault(problem.help("give it another one")));
            }
            Ok(Ready { spec, source })
        })
        .collect()
}

/// The passed preflight, where the plan has one.
fn preflight(job: &Job) -> Result<Vec<Need>, Fault> {
    let Some(section) = &job.loaded.plan.preflight else { return Ok(Vec::new()) };
    let found = job.need::<PreflightBody>(Some(section.max_age.map_or(PREFLIGHT_MAX_AGE, |span| span.0)))?;
    found.passed()?;
    Ok(vec![found.need])
}

/// What restic groups snapshots by: runners come and go, the service stays.
pub(super) fn host_of(job: &Job) -> String {
    format!("{}.{}", job.release.service, job.release.environment)
}

fn spec_of(job: &Job, section: &plan::Snapshot, repository: &Repository) -> Result<Spec, Fault> {
    let hostname = host_of(job);
    let release = &job.release;
    let before = repository.snapshots()?.whole.into_iter().rev().find(|(_, s)| s.hostname == hostname);
    Ok(Spec {
        tags: vec![
            TAG.into(),
            format!("service={}", release.service),
            format!("version={}", release.version),
            format!("environment={}", release.environment),
        ],
        parent: before.map(|(id, _)| id),
        manifest: Some(inside::SUMS.into()),
        hostname,
        ..Spec::new(section.sources.iter().map(|source| format!("/{}", source.name)).collect())
    })
}

/// Asks the router for the live weights.
type LiveWeights<'a> = Box<dyn Fn() -> Result<Value, Fault> + 'a>;

/// How the weights that are live are read: through the router of `promote`, where the plan has one.
fn live_weights(job: &Job) -> Option<LiveWeights<'_>> {
    let spec = &job.loaded.plan.promote.as_ref()?.router;
    Some(Box::new(move || {
        let live = routers::open(spec, &job.loaded)?.read()?;
        serde_json::to_value(&live)
            .map_err(|e| Fault::infrastructure("the live weights cannot be recorded").cause(e))
    }))
}

/// Reads one source into the archive.
fn read(
    job: &Job,
    Ready { spec, source }: &Ready<'_>,
    place: &Place,
    archive: &mut Archive,
    ticker: &Ticker,
) -> Result<Taken, Fault> {
    let started = Instant::now();
    let mark = archive.mark();
    let progress = archive.progress();
    let step = Step::new(&format!("{}: reading", spec.name));
    let (files, bytes) = (progress.files.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed));
    let count = move || {
        (progress.files.load(Ordering::Relaxed) - files, progress.bytes.load(Ordering::Relaxed) - bytes)
    };
    let (weights, store) = (live_weights(job), place.folder());
    let context = Context { store: store.as_deref(), live_weights: weights.as_deref() };
    let mut intake = Intake { archive, name: &spec.name, allow_partial: spec.allow_partial };
    let backed_up = std::thread::scope(|scope| {
        let _watch = ticker.watch(scope, step, count);
        let backed_up = caught(|| source.back_up(&context, &mut intake));
        backed_up.unwrap_or_else(|why| Err(broke(&format!("reading `{}`", spec.name), &why)))
    });
    stop_if_asked()?;
    // Only what the source could not give is forgiven, never what the store did not take.
    if let Some(fault) = archive.broken() {
        return Err(fault);
    }
    let mut notes = Vec::new();
    let extra = match backed_up {
        Ok(extra) => extra,
        Err(fault) if spec.allow_partial => {
            notes.push(fault.line());
            sources::Extra::default()
        }
        Err(fault) => return Err(fault),
    };
    let failed = !notes.is_empty();
    let Notes { changed, unreadable, .. } = archive.take_notes();
    notes.extend(unreadable.iter().map(|(path, why)| format!("cannot be read: {}: {why}", path.display())));
    let partial = failed || !unreadable.is_empty();
    notes.extend(changed.iter().map(|path| format!("changed while it was read: {}", path.display())));
    if notes.len() > NOTES {
        let more = notes.len() - NOTES;
        notes.truncate(NOTES);
        notes.push(format!("… and {more} more"));
    }
    let came = archive.since(mark);
    let part = Part {
        name: spec.name.clone(),
        kind: spec.kind.clone(),
        target: spec.target.as_ref().map(ToString::to_string).unwrap_or_default(),
        files: came.files,
        bytes: came.bytes,
        sha256: came.sha256.to_string(),
        state: if partial { SnapshotState::Partial } else { SnapshotState::Whole },
        notes,
        tables: extra.tables,
        details: extra.details,
    };
    Ok(Taken { part, took: started.elapsed(), failed })
}

fn inside_of(job: &Job, sources: Vec<Part>) -> Inside {
    Inside {
        format: inside::FORMAT.into(),
        service: job.release.service.clone(),
        version: job.release.version.clone(),
        environment: job.release.environment.clone(),
        host: world::host_name(),
        tool: VERSION.into(),
        sources,
    }
}

/// Reads what was written, or everything that the snapshot needs, back from the store.
fn prove_packs(sealed: &Sealed, prove: Prove, ticker: &Ticker) -> Result<Proof, Fault> {
    let new = sealed.snapshot().summary.as_ref().map(|s| s.data_added_packed);
    let step = Step { of_bytes: new.filter(|_| prove == Prove::New), ..Step::new("reading back") };
    let mut seen = |bytes| ticker.step(&step, 0, bytes);
    match prove {
        Prove::New => sealed.prove(&mut seen),
        Prove::Everything => sealed.prove_everything(&mut seen),
    }
}

fn record(part: Part, prove: Prove, proof: &Proof, more: Option<String>, failed: bool) -> SourceRecord {
    let read_back = match (proof.packs, prove) {
        (0, _) => "nothing new was to be stored".to_owned(),
        (packs, Prove::New) => {
            format!("all {} of this snapshot read back and compared", plural(packs, "new pack"))
        }
        (packs, Prove::Everything) => {
            format!("all {} that this snapshot needs read back and compared", plural(packs, "pack"))
        }
    };
    let mut proof =
        format!("{} of {}; {read_back}", plural(part.files, "file"), show_size(part.bytes as f64));
    if let Some(more) = more {
        proof = format!("{proof}; {more}");
    }
    SourceRecord {
        name: part.name,
        kind: part.kind,
        target: part.target,
        files: part.files,
        bytes: part.bytes,
        sha256: part.sha256,
        state: part.state,
        notes: part.notes,
        proven: !failed,
        proof,
        tables: part.tables,
        details: part.details,
    }
}

/// What is to be said of a source: that it was proven, and as a warning of its own what is missing.
fn findings_of(record: &SourceRecord, read: Duration, proven: Duration) -> Vec<Finding> {
    let name = format!("{} backed up and read back", record.name);
    let verdict = if record.proven { Verdict::Pass } else { Verdict::Fail };
    let mut finding = Finding::new(name, &record.kind, verdict, world::now()).says(&record.proof);
    if !record.proven {
        // The plan forgives it.
        finding.severity = Severity::Warning;
    }
    finding.observed = Some(format!("{}, {}", plural(record.files, "file"), show_size(record.bytes as f64)));
    finding.expected = Some("everything reads back as it was stored".into());
    finding.value = Some(record.bytes as f64);
    finding.unit = Some("B".into());
    finding.duration_ms = (read + proven).as_secs_f64() * 1e3;
    finding.evidence = json!({
        "target": record.target,
        "sha256": record.sha256,
        "read_ms": read.as_secs_f64() * 1e3,
        "proof_ms": proven.as_secs_f64() * 1e3,
    });
    let mut findings = vec![finding];
    if !record.notes.is_empty() {
        let partial = record.state == SnapshotState::Partial;
        let name = format!("{} is whole", record.name);
        let mut finding = Finding::new(name, &record.kind, Verdict::Fail, world::now());
        finding.severity = Severity::Warning;
        finding.observed = Some(if partial { "partial" } else { "changed while it was read" }.into());
        finding.expected = Some("all of it, as it was at one moment".into());
        findings.push(finding.says(record.notes.join("; ")));
    }
    findings
}

fn tell(talk: &Talk, record: &SnapshotRecord, findings: &[Finding]) {
    for finding in findings {
        let mark = if finding.verdict == Verdict::Pass { Mark::Good } else { Mark::Warn };
        talk.line(mark, &format!("{}: {}", finding.name, finding.message));
    }
    talk.line(
        Mark::Good,
        &format!(
            "snapshot {}: {} in {}, {} new ({} as stored); stored in {}, proven in {}",
            evidence::short(&record.id),
            show_size(record.bytes as f64),
            plural(record.files, "file"),
            show_size(record.added_bytes as f64),
            show_size(record.stored_bytes as f64),
            show_duration(record.backup_ms / 1e3),
            show_duration(record.proof_ms / 1e3)
        ),
    );
    talk.line(Mark::Step, &format!("the way back: {}", record.restore_command));
    talk.line(Mark::Step, &format!("without Trapkey: {}", record.restic_command));
}

fn restore_command(id: &str, place: &Place) -> String {
    format!("snapshot restore {id} --store {} --to restored", quoted(&place.exact))
}

fn restic_command(id: &str, place: &Place, open: bool) -> String {
    let passphrase =
        if open { format!("RESTIC_PASSWORD={} ", passphrase::NONE_NEEDED) } else { String::new() };
    format!("{passphrase}restic -r {} restore {id} --target restored", quoted(&place.for_restic()))
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn plural(count: impl TryInto<u64>, word: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {word}"),
        n => format!("{n} {word}s"),
    }
}

fn stop_if_asked() -> Result<(), Fault> {
    if world::signal::stop_asked() { Err(intake::interrupted()) } else { Ok(()) }
}

fn to_stdout(value: &Value) -> Result<(), Fault> {
    let mut value = value.clone();
    crate::redact::redact_json(&mut value);
    talk::json(format!("{value:#}\n").as_bytes())
        .map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_restore_command_survives_a_shell() {
        for path in ["/srv/snapshots", "/srv/a b", "/srv/it's", "/srv/$(reboot)", "/srv/`x`;y"] {
            let command = restore_command("abc", &Place::new(path, Path::new("/")));
            let script = format!("snapshot() {{ printf '%s\\n' \"$@\"; }}; {command}");
            let order = world::shell::Order::new(vec!["sh".into(), "-c".into(), script], Path::new("."));
            let ran = order.run().unwrap();
            let words = String::from_utf8(ran.stdout).unwrap();
            assert_eq!(
                words.lines().collect::<Vec<_>>(),
                ["restore", "abc", "--store", path, "--to", "restored"]
            );
        }
    }
}
