//! `snapshot`: backs up every source of the plan, proves that it reads back, and brings it back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::evidence::{
    self, Finding, Need, PreflightBody, SnapshotBody, SnapshotRecord, SourceRecord, VERSION, Verdict,
    sha256_hex,
};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::{self, SourceSpec};
use crate::repository::{self, FORMAT, Label, Manifest, Part, Reader};
use crate::routers;
use crate::sources::{self, Context, Extra, Source};
use crate::units::{show_duration, show_size};
use crate::world::talk::{Mark, Talk};
use crate::world::{self, talk};

mod hooks;
mod intake;
mod look;

pub use hooks::guard_if_asked;
pub use look::{Wish, check, list, restore};

use hooks::Scope;
use intake::{Intake, Seen};

/// How old preflight.json may be where the plan says nothing.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(3600);

/// A source of the plan, ready.
struct Ready<'a> {
    spec: &'a SourceSpec,
    source: Box<dyn Source>,
}

/// What one source became.
struct Taken {
    part: Part,
    extra: Extra,
    took: Duration,
}

/// Backs up every source into one snapshot, reads all of it back, and writes snapshot.json.
///
/// Errors: 2 for a plan without sources or with wrong settings; 5 without a passed preflight, or when
/// another snapshot is being written; 4 when anything could not be read, stored or proven. After any
/// error the store lists no snapshot of this call.
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
    let store = store_of(job)?;
    let begun = Instant::now();
    let repository = repository::open(&section.store.value, &store, true)?;
    let mut writer = repository.begin()?;
    let weights = live_weights(job);
    let context = Context { store: &store, live_weights: weights.as_deref() };
    let ticker = job.talk().ticker();
    let created_at = world::now();
    let taken = hooks.around(Scope::Snapshot(section), || {
        let mut taken = Vec::new();
        for Ready { spec, source } in &ready {
            let started = Instant::now();
            ticker.set(&format!("{}: reading", spec.name));
            let mut seen =
                |bytes: u64| ticker.set(&format!("{}: {} read", spec.name, show_size(bytes as f64)));
            let mut intake = Intake::new(writer.as_mut(), &section.store.shown, &mut seen);
            let extra = hooks.around(Scope::Source(spec), || source.back_up(&context, &mut intake))?;
            let part = Part {
                name: spec.name.clone(),
                kind: spec.kind.clone(),
                target: spec.target.as_ref().map(ToString::to_string).unwrap_or_default(),
                entries: intake.entries,
            };
            taken.push(Taken { part, extra, took: started.elapsed() });
        }
        Ok(taken)
    })?;
    // What is frozen is thawed now; another snapshot may freeze while this one is proven.
    let mut findings = hooks.close();
    stop_if_asked()?;
    let (parts, rest): (Vec<_>, Vec<_>) = taken.into_iter().map(|t| (t.part, (t.extra, t.took))).unzip();
    let manifest = Manifest { format: FORMAT.into(), created_at, label: label(job), sources: parts };
    ticker.set("making it durable");
    let reader = writer.seal(&manifest)?;
    let backup_ms = begun.elapsed().as_secs_f64() * 1e3;
    let proving = Instant::now();
    let mut records = Vec::new();
    for ((ready, part), (extra, took)) in ready.iter().zip(&manifest.sources).zip(rest) {
        let started = Instant::now();
        ticker.set(&format!("{}: reading back", part.name));
        let record = prove(ready, part, extra, reader.as_ref())?;
        findings.push(finding(&record, took, started.elapsed()));
        records.push(record);
    }
    stop_if_asked()?;
    drop(reader);
    let committed = writer.commit()?;
    drop(ticker);
    let record = SnapshotRecord {
        store: section.store.shown.clone(),
        files: records.iter().map(|r| r.files).sum(),
        bytes: records.iter().map(|r| r.bytes).sum(),
        sources: records,
        added_bytes: committed.added_bytes,
        proven_at: Some(world::now()),
        backup_ms,
        proof_ms: proving.elapsed().as_secs_f64() * 1e3,
        restore_command: restore_command(&committed.id, &store),
        id: committed.id,
    };
    tell(job.talk(), &record, &findings);
    let summary = format!(
        "{} of {} in {} files backed up and read back as {}",
        plural(record.sources.len(), "source"),
        show_size(record.bytes as f64),
        record.files,
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

/// The folder of the plan's store, absolute.
///
/// Errors (2): the plan has no `snapshot` section.
pub fn store_of(job: &Job) -> Result<PathBuf, Fault> {
    let store = &section(job)?.store.value;
    // The plan's folder is there, the store may not be yet.
    let folder = job.loaded.folder.canonicalize().unwrap_or_else(|_| job.loaded.folder.clone());
    let path = folder.join(store);
    Ok(std::path::absolute(&path).unwrap_or(path))
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

fn label(job: &Job) -> Label {
    Label {
        service: job.release.service.clone(),
        version: job.release.version.clone(),
        environment: job.release.environment.clone(),
        host: world::host_name(),
        tool: VERSION.into(),
    }
}

/// Reads a source back from the store, byte by byte, and lets it prove more if it can.
fn prove(ready: &Ready<'_>, part: &Part, extra: Extra, reader: &dyn Reader) -> Result<SourceRecord, Fault> {
    let stored = reader.manifest().sources.iter().find(|p| p.name == part.name);
    // What was read from the source, as it was counted and hashed on the way in, against the store.
    if stored.map(|p| &p.entries) != Some(&part.entries) {
        return Err(Fault::infrastructure(format!("source `{}` reads back differently", part.name))
            .help("do not trust this disk"));
    }
    for (_, content) in part.contents() {
        let mut seen = Seen::default();
        reader.read(content, &mut seen).map_err(|fault| stop_if_asked().err().unwrap_or(fault))?;
        if seen.size != content.size {
            return Err(Fault::infrastructure(format!("source `{}` reads back shorter", part.name)));
        }
    }
    let more = ready.source.prove(&intake::Back { part, reader })?;
    let (files, bytes) = part.totals();
    let mut proof =
        format!("{} of {} read back and compared by SHA-256", plural(files, "file"), show_size(bytes as f64));
    if let Some(more) = more {
        proof = format!("{proof}; {more}");
    }
    let entries = serde_json::to_vec(&part.entries)
        .map_err(|e| Fault::infrastructure("the manifest cannot be written").cause(e))?;
    Ok(SourceRecord {
        name: part.name.clone(),
        kind: part.kind.clone(),
        target: part.target.clone(),
        files,
        bytes,
        sha256: sha256_hex(&entries),
        proven: true,
        proof,
        tables: extra.tables,
        details: extra.details,
    })
}

fn finding(record: &SourceRecord, read: Duration, proven: Duration) -> Finding {
    let name = format!("{} backed up and read back", record.name);
    let mut finding = Finding::new(name, &record.kind, Verdict::Pass, world::now()).says(&record.proof);
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
    finding
}

fn tell(talk: &Talk, record: &SnapshotRecord, findings: &[Finding]) {
    for finding in findings {
        talk.line(Mark::Good, &format!("{}: {}", finding.name, finding.message));
    }
    talk.line(
        Mark::Good,
        &format!(
            "snapshot {}: {} in {}, {} new; stored in {}, proven in {}",
            evidence::short(&record.id),
            show_size(record.bytes as f64),
            plural(record.files, "file"),
            show_size(record.added_bytes as f64),
            show_duration(record.backup_ms / 1e3),
            show_duration(record.proof_ms / 1e3)
        ),
    );
    talk.line(Mark::Step, &format!("the way back: {}", record.restore_command));
}

fn restore_command(id: &str, store: &Path) -> String {
    format!("snapshot restore {id} --store {} --to restored", quoted(&store.display().to_string()))
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
    talk::data(format!("{value:#}\n").as_bytes())
        .map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restore_command_survives_a_shell() {
        for path in ["/srv/snapshots", "/srv/a b", "/srv/it's", "/srv/$(reboot)", "/srv/`x`;y"] {
            let command = restore_command("abc", Path::new(path));
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
