//! The way back, rehearsed: restores the newest snapshot into a scratch place, starts its databases there,
//! runs the plan's checks on them, and measures how long that took and how much would be lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::json;

use super::inside::{self, Inside, Part};
use super::restore::{self, Goal, Stored, Wish, chosen, into_folder};
use super::store::Place;
use super::{plural, section};
use crate::checks::{self, PARALLEL};
use crate::evidence::{self, Counts, DrillBody, DrillRecord, DrilledSource, Finding, SnapshotState, Verdict};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::plan::{DRILL_FOLDER, Loaded, PlanVariables, drill_variable};
use crate::repository::restic::Opened;
use crate::severity::Severity;
use crate::sources::{self, InDrill, Nature, Rehearsed};
use crate::tools::tell;
use crate::units::{show_duration, show_size};
use crate::world::background::Background;
use crate::world::talk::Mark;
use crate::world::{self, files, signal};

mod scratch;

use scratch::Scratch;

/// What is to be drilled, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Rehearsal {
    /// The snapshot: its id (or the beginning of it), or `latest`: the newest of this service and
    /// environment
    #[arg(long, default_value = "latest", value_name = "ID")]
    pub id: String,
    /// The folder that the scratch place is made in [default: the system's temporary folder]
    #[arg(long, env = "TRAPKEY_SCRATCH", value_name = "FOLDER")]
    pub scratch: Option<PathBuf>,
}

/// Clocks of two machines may differ by this much, in seconds.
const CLOCKS: f64 = 60.0;

/// Drills the way back and writes drill.json.
///
/// Errors: 2 for a plan or a check that does not validate; 3 without any snapshot; 4 when the store
/// cannot be read or the drill was interrupted. What went wrong with the restore itself is in the
/// document, and so is the exit code: 1 for an objective or a check that was missed, 4 for what could
/// not be restored.
pub fn drill(job: &Job, rehearsal: &Rehearsal) -> Result<Exit, Fault> {
    let (started_at, talk) = (job.call.started_at, job.talk());
    validate(job)?;
    let parent = rehearsal.scratch.clone().unwrap_or_else(std::env::temp_dir);
    for gone in scratch::sweep(&parent) {
        talk.line(Mark::Warn, &gone);
    }
    let place = Place::of(job)?;
    let begun = Instant::now();
    let repository = place.open()?;
    let id = chosen(&repository, &rehearsal.id, Some(job))?;
    let opened = repository.read(id)?;
    let scratch = Scratch::make(&parent, job)?;
    let mut drill = Drill::new(job, &place, &opened, started_at)?;
    job.begin_run::<DrillBody>()?;
    talk.line(
        Mark::Step,
        &format!("drilling {} in {}", evidence::short(&id.to_string()), scratch.path().display()),
    );
    let ran = drill.run(&opened, &scratch, begun);
    // The servers first: they work in the scratch place.
    drill.servers.clear();
    let removed = scratch.remove();
    if signal::stop_asked() {
        removed?;
        return Err(interrupted());
    }
    if let Err(fault) = ran {
        drill.note(broken("the restore", "drill", &fault));
    }
    if let Err(fault) = removed {
        drill.note(broken("the scratch place is removed", "drill", &fault));
    }
    drill.judge();
    conclude(job, drill)
}

/// Everything that can be wrong with the checks of the drill, found before anything runs.
///
/// Errors (2): as for every other check.
pub fn validate(job: &Job) -> Result<(), Fault> {
    let Some(section) = &job.loaded.plan.snapshot else { return Ok(()) };
    let mut known = BTreeMap::from([(DRILL_FOLDER.to_owned(), "/drill".to_owned())]);
    for spec in &section.sources {
        let order = sources::Order { spec, loaded: &job.loaded };
        let source = sources::prepare(&order).map_err(|problem| job.loaded.fault(problem))?;
        let value = match source.nature() {
            Nature::Dump { drill: InDrill::Runs(address), .. } => address.to_owned(),
            _ => format!("/drill/{}", spec.name),
        };
        known.insert(drill_variable(&spec.name), value);
    }
    prepared(&job.loaded, known).map(drop)
}

/// The plan's checks of the drill, ready, with what is known of the scratch place.
fn prepared(loaded: &Loaded, known: BTreeMap<String, String>) -> Result<Vec<checks::Prepared>, Fault> {
    let Some(section) = &loaded.plan.snapshot else { return Ok(Vec::new()) };
    let variables: PlanVariables = loaded.variables.with(known);
    let specs = section.drill.checks.read(&variables).map_err(|problem| loaded.fault(problem))?;
    checks::prepare(&specs, &Loaded { variables, ..loaded.clone() })
}

/// A drill under way.
struct Drill<'a> {
    job: &'a Job,
    inside: Inside,
    record: DrillRecord,
    findings: Vec<Finding>,
    servers: Vec<Background>,
    /// What the checks may name.
    known: BTreeMap<String, String>,
    /// Whether everything was restored, so that the time says something.
    whole: bool,
}

impl<'a> Drill<'a> {
    /// Errors: 2 for a snapshot of another program, 4 for one without a manifest.
    fn new(job: &'a Job, place: &Place, opened: &Opened, started_at: Timestamp) -> Result<Self, Fault> {
        let objectives = &section(job)?.drill;
        let inside = restore::inside_of(Inside::of(opened)?)?;
        let created_at = opened.snapshot().time;
        let record = DrillRecord {
            snapshot: opened.id().to_string(),
            store: place.shown.clone(),
            created_at,
            version: inside.version.clone(),
            age_s: started_at.duration_since(created_at).as_secs_f64(),
            rpo_s: objectives.rpo.map(|span| span.0.as_secs_f64()),
            rto_s: objectives.rto.map(|span| span.0.as_secs_f64()),
            ..DrillRecord::default()
        };
        let (findings, servers, known) = (Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Self { job, inside, record, findings, servers, known, whole: false })
    }

    fn note(&mut self, finding: Finding) {
        tell(self.job.talk(), &finding);
        self.findings.push(finding);
    }

    /// Restores, starts, compares and checks. The time counts from `begun`.
    ///
    /// Errors: what could not be restored; the findings say what was.
    fn run(&mut self, opened: &Opened, scratch: &Scratch, begun: Instant) -> Result<(), Fault> {
        self.files(opened, scratch)?;
        self.record.restore_ms = milliseconds(begun);
        let databases = Instant::now();
        for part in self.inside.sources.clone() {
            self.source(opened, scratch, &part)?;
            stop_if_asked()?;
        }
        self.record.databases_ms = milliseconds(databases);
        self.whole = self.findings.iter().all(|finding| !finding.closes());
        let checking = Instant::now();
        let prepared = prepared(&self.job.loaded, self.known.clone())?;
        let parallel = self.job.loaded.plan.defaults.parallel.unwrap_or(PARALLEL);
        let talk = self.job.talk();
        let checked = checks::run(&prepared, parallel, &|finding| tell(talk, finding));
        stop_if_asked()?;
        self.record.checks = Counts::of(&checked);
        self.record.checks_ms = milliseconds(checking);
        // A check that fails says that what was restored is not what is needed.
        self.whole &= checked.iter().all(|finding| !finding.closes());
        self.findings.extend(checked);
        if self.whole {
            self.record.recovery_ms = Some(milliseconds(begun));
        }
        Ok(())
    }

    /// Every file, each compared with the manifest.
    fn files(&mut self, opened: &Opened, scratch: &Scratch) -> Result<(), Fault> {
        let sums = opened.sums(inside::SUMS.as_ref())?;
        if sums.is_none_or(|sums| sums.is_empty()) {
            return Err(Fault::infrastructure("the snapshot has no manifest to compare with")
                .place(opened.id().to_string())
                .help("take a snapshot with `snapshot create`, and drill that"));
        }
        let (at, started, started_at) = (scratch.files(), Instant::now(), world::now());
        let goal = Goal { to: Some(at.clone()), in_place: false, into: None, into_env: None };
        let wish = Wish {
            id: opened.id().to_string(),
            goal,
            sources: Vec::new(),
            file: None,
            delete: false,
            force: false,
            no_owners: false,
        };
        let ticker = self.job.talk().ticker();
        let done = into_folder(opened, &at, &wish, &ticker, self.job.talk())?;
        drop(ticker);
        (self.record.files, self.record.bytes) = (done.files, done.bytes);
        let mut finding = Finding::new("every file is restored", "drill", Verdict::Pass, started_at)
            .says("each was compared with the SHA-256 that the snapshot's manifest has for it");
        finding.observed = Some(format!("{}, {}", plural(done.files, "file"), show_size(done.bytes as f64)));
        finding.expected = Some("all that the manifest names, byte for byte".into());
        finding.value = Some(done.bytes as f64);
        finding.unit = Some("B".into());
        finding.duration_ms = milliseconds(started);
        finding.evidence = json!({ "warnings": done.warnings });
        self.note(finding);
        self.known.insert(DRILL_FOLDER.into(), at.display().to_string());
        Ok(())
    }

    /// What goes beyond the files of a source.
    fn source(&mut self, opened: &Opened, scratch: &Scratch, part: &Part) -> Result<(), Fault> {
        if part.state == SnapshotState::Partial {
            let mut finding =
                Finding::new(format!("{} is whole", part.name), &part.kind, Verdict::Fail, world::now())
                    .says(part.notes.join("; "));
            finding.severity = Severity::Warning;
            finding.observed = Some("partial".into());
            self.note(finding);
        }
        let mut drilled = DrilledSource {
            name: part.name.clone(),
            kind: part.kind.clone(),
            files: part.files,
            bytes: part.bytes,
            started: false,
            done: "its files were restored and compared".into(),
        };
        let mut value = scratch.files().join(&part.name).display().to_string();
        let (_, source) = match restore::planned(self.job, part) {
            Ok(planned) => planned,
            Err(fault) => {
                self.note(broken(&format!("{} is drilled", part.name), &part.kind, &fault));
                return Ok(());
            }
        };
        match source.nature() {
            Nature::Files(_) | Nature::Record => {}
            Nature::Dump { drill: InDrill::NotStarted(why), .. } => {
                let name = format!("{} runs again", part.name);
                let mut finding = Finding::new(name, &part.kind, Verdict::Skipped, world::now())
                    .says(format!("{why}; its dump was restored and compared, as far as a file goes"));
                finding.severity = Severity::Warning;
                self.note(finding);
                drilled.done = format!("its dump was restored and compared; {why}");
            }
            Nature::Dump { drill: InDrill::Runs(_), .. } => {
                let Some(done) = self.start(opened, scratch, part, &*source)? else { return Ok(()) };
                drilled.started = true;
                drilled.done.clone_from(&done.said);
                value.clone_from(&done.url.value);
                self.servers.extend(done.server);
            }
        }
        self.known.insert(drill_variable(&part.name), value);
        self.record.sources.push(drilled);
        Ok(())
    }

    /// Starts a server for a source and compares what is in it then. None when that failed, which is a
    /// finding; the others are drilled all the same.
    fn start(
        &mut self,
        opened: &Opened,
        scratch: &Scratch,
        part: &Part,
        source: &dyn sources::Source,
    ) -> Result<Option<Rehearsed>, Fault> {
        let (name, started, started_at) = (format!("{} runs again", part.name), Instant::now(), world::now());
        let folder = scratch.server(&part.name)?;
        let ticker = self.job.talk().ticker();
        ticker.set(&format!("{}: restoring into a scratch database", part.name));
        let rehearsed = source.rehearse(&folder, &Stored { name: &part.name, opened }, &part.tables);
        drop(ticker);
        stop_if_asked()?;
        match rehearsed {
            Ok(mut done) => {
                let mut finding = Finding::new(name, &part.kind, Verdict::Pass, started_at).says(&done.said);
                finding.observed =
                    Some(format!("restored in {}", show_duration(started.elapsed().as_secs_f64())));
                finding.expected = Some("a database of its own takes the whole dump".into());
                finding.duration_ms = milliseconds(started);
                self.note(finding);
                for finding in std::mem::take(&mut done.findings) {
                    self.note(finding);
                }
                Ok(Some(done))
            }
            Err(fault) => {
                self.note(broken(&name, &part.kind, &fault));
                Ok(None)
            }
        }
    }

    /// Holds what was measured against the objectives.
    fn judge(&mut self) {
        for finding in [self.recovery_time(), self.recovery_point()] {
            self.note(finding);
        }
    }

    fn recovery_time(&self) -> Finding {
        let took = self.record.recovery_ms.map(|ms| ms / 1e3);
        let verdict = match (took, self.record.rto_s) {
            (None, _) => Verdict::NoData,
            (Some(took), Some(rto)) if took > rto => Verdict::Fail,
            _ => Verdict::Pass,
        };
        let mut finding = Finding::new("recovery time", "drill", verdict, world::now());
        if took.is_some() && self.record.rto_s.is_none() {
            finding.severity = Severity::Info;
        }
        finding.observed = took.map(show_duration);
        finding.expected = self.record.rto_s.map(|rto| format!("<= {}", show_duration(rto)));
        (finding.value, finding.unit) = (took, Some("s".into()));
        finding.says(match (took, self.record.rto_s) {
            (None, _) => "it did not come to its end, so that nobody knows how long it takes",
            (Some(_), None) => {
                "from the beginning of the restore until the last check; the plan has no `rto`"
            }
            (Some(_), Some(_)) => "from the beginning of the restore until the last check",
        })
    }

    fn recovery_point(&self) -> Finding {
        let age = self.record.age_s;
        let verdict = match self.record.rpo_s {
            _ if age < -CLOCKS => Verdict::Error,
            Some(rpo) if age > rpo => Verdict::Fail,
            _ => Verdict::Pass,
        };
        let mut finding = Finding::new("recovery point", "drill", verdict, world::now());
        if verdict == Verdict::Pass && self.record.rpo_s.is_none() {
            finding.severity = Severity::Info;
        }
        finding.observed = Some(show_duration(age.max(0.0)));
        finding.expected = self.record.rpo_s.map(|rpo| format!("<= {}", show_duration(rpo)));
        (finding.value, finding.unit) = (Some(age), Some("s".into()));
        finding.says(match (verdict, self.record.rpo_s) {
            (Verdict::Error, _) => "the snapshot is of the future: the clocks of two machines do not agree",
            (_, None) => "the age of the snapshot when the drill began; the plan has no `rpo`",
            (_, Some(_)) => "the age of the snapshot when the drill began",
        })
    }
}

/// What could not be done: it never passes.
fn broken(name: &str, kind: &str, fault: &Fault) -> Finding {
    let help = fault.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    Finding::new(name, kind, Verdict::Error, world::now()).says(format!("{}{help}", fault.line()))
}

fn conclude(job: &Job, drill: Drill<'_>) -> Result<Exit, Fault> {
    let Drill { record, findings, .. } = drill;
    let verdict = evidence::verdict_of(&findings);
    let counts = Counts::of(&findings);
    let time = record.recovery_ms.map_or_else(
        || "recovery did not come to its end".to_owned(),
        |ms| format!("recovered in {}", show_duration(ms / 1e3)),
    );
    let summary = format!(
        "{time} from {}, {} old; {}",
        evidence::short(&record.snapshot),
        show_duration(record.age_s.max(0.0)),
        counts.sentence().replace("checks", "findings")
    );
    let outputs = vec![
        ("snapshot", record.snapshot.clone()),
        ("recovery_seconds", record.recovery_ms.map(|ms| format!("{:.3}", ms / 1e3)).unwrap_or_default()),
        ("age_seconds", format!("{:.0}", record.age_s)),
    ];
    let exit = job.conclude(Conclusion {
        needs: Vec::new(),
        verdict,
        summary: summary.clone(),
        findings,
        body: DrillBody { drill: Some(record) },
        outputs,
    })?;
    let mark = if exit == Exit::Pass { Mark::Good } else { Mark::Bad };
    job.talk().line(mark, &format!("drill: {}: {summary}", verdict.word()));
    Ok(exit)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn stop_if_asked() -> Result<(), Fault> {
    if signal::stop_asked() { Err(interrupted()) } else { Ok(()) }
}

fn interrupted() -> Fault {
    Fault::infrastructure("the drill was interrupted")
        .cause("a signal asked to stop")
        .help("the scratch place was removed; run it again")
}

/// Makes a folder that only its owner can look into.
fn private(path: &Path) -> Result<(), Fault> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| files::unwritable(path, &e))
}
