//! One call of one tool: the plan, the release, the evidence folder, and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::evidence::{
    self, Artifact, Asked, Body, Document, DocumentVerdict, Finding, Found, Head, Need, PreflightBody,
    PromoteBody, Release, Run, ToolRef, Used, VERSION, Values, Verdict, used::Origin,
};
use crate::fault::{Exit, Fault};
use crate::plan::Loaded;
use crate::severity::Severity;
use crate::signature::{SigningKey, Trust};
use crate::world::talk::{Mark, Talk};
use crate::world::{self, ci, files};

mod earlier;
mod turn;

use turn::Turn;

/// What the command line says, the same for all five tools.
#[derive(Clone, Debug)]
pub struct Call {
    /// The tool.
    pub tool: &'static str,
    /// The plan's path.
    pub plan: PathBuf,
    /// The environment, where it was named.
    pub environment: Option<String>,
    /// The evidence folder.
    pub evidence: PathBuf,
    /// The place of the promote state, a folder or an `s3://` address; `.trapkey` beside the plan when
    /// absent.
    pub state: Option<PathBuf>,
    /// Variables of the plan.
    pub set: BTreeMap<String, String>,
    /// The names of those that `TRAPKEY_SET` gave.
    pub ambient: BTreeSet<String>,
    /// Whether the document goes to stdout.
    pub json: bool,
    /// The key that signs what is written.
    pub sign: Option<SigningKey>,
    /// The keys whose documents count; every one counts when absent.
    pub trust: Option<Trust>,
    /// The files that those keys were read from, for the commands that people are told.
    pub keys: KeyFiles,
    /// The voice.
    pub talk: Talk,
    /// When it began.
    pub started_at: Timestamp,
}

/// Where the keys of a call were read from.
#[derive(Clone, Debug, Default)]
pub struct KeyFiles {
    /// The file of `--sign-key`.
    pub sign: Option<PathBuf>,
    /// The folder of `--trust`.
    pub trust: Option<PathBuf>,
}

/// One call of one tool, its plan read.
#[derive(Clone, Debug)]
pub struct Job {
    /// What the command line says.
    pub call: Call,
    /// The plan.
    pub loaded: Loaded,
    /// What is released, where.
    pub release: Release,
    /// The values of the plan's variables that this call goes by.
    pub values: Values,
    /// What its documents say of them.
    pub used: Used,
}

/// What a gate decided, ready to be written.
#[derive(Clone, Debug)]
pub struct Conclusion<B> {
    /// The documents that were consumed.
    pub needs: Vec<Need>,
    /// What came of it.
    pub verdict: DocumentVerdict,
    /// The same in one sentence.
    pub summary: String,
    /// Every single observation.
    pub findings: Vec<Finding>,
    /// What this tool alone has to say.
    pub body: B,
    /// Further step outputs.
    pub outputs: Vec<(&'static str, String)>,
}

impl Job {
    /// Reads the plan and names the release.
    ///
    /// Errors (2): the plan does not validate, a variable was given that it does not name, the environment is not in it, an artifact is missing.
    pub fn open(call: Call) -> Result<Self, Fault> {
        let mut job = Self::open_without_artifacts(call)?;
        job.release.artifacts = artifacts(&job.loaded)?;
        Ok(job)
    }

    /// The same for a call in the middle of a release or far from one: where all artifacts are here,
    /// its document is one of the release's.
    ///
    /// Errors (2): those of [`Job::open_without_artifacts`].
    pub fn open_with_artifacts_there(call: Call) -> Result<Self, Fault> {
        let mut job = Self::open_without_artifacts(call)?;
        job.release.artifacts = artifacts(&job.loaded).unwrap_or_default();
        Ok(job)
    }

    /// The same for a call about a release that was begun elsewhere, whose artifacts need not be here.
    ///
    /// Errors (2): those of [`Job::open`], save that for artifacts.
    pub fn open_without_artifacts(call: Call) -> Result<Self, Fault> {
        let loaded = Loaded::read(&call.plan, call.set.clone())?;
        if let Some(name) = call.set.keys().find(|name| !loaded.names_variable(name)) {
            // A typing error here would otherwise release a default, and nobody would notice.
            return Err(Fault::usage(format!("the plan names no variable `{name}`"))
                .place(&loaded.reference.path)
                .help(format!(
                    "correct it in --set or TRAPKEY_SET, or write ${{{name}}} where it is meant"
                )));
        }
        Self::of(call, loaded)
    }

    /// A call under a plan that was read. Its artifacts are not looked at.
    ///
    /// Errors (2): the environment is not in the plan.
    pub fn of(call: Call, loaded: Loaded) -> Result<Self, Fault> {
        crate::world::trust::follow(&loaded);
        let known: Vec<String> = loaded.plan.environments.keys().cloned().collect();
        let environment = choose_environment(&known, call.environment.as_deref(), &loaded.reference.path)?;
        let spec = &loaded.plan.release;
        let release = Release {
            service: loaded.plan.service.clone(),
            version: spec.version.clone(),
            previous: spec.previous.clone(),
            environment,
            commit: spec.commit.clone().or_else(ci::commit),
            artifacts: Vec::new(),
        };
        let mut values = loaded.values(sections_of(call.tool));
        values.from_elsewhere(Origin::TrapkeySet, |name| call.ambient.contains(name));
        let used = values.used();
        Ok(Self { call, loaded, release, values, used })
    }

    /// The voice.
    pub fn talk(&self) -> &Talk {
        &self.call.talk
    }

    /// Where the documents of this release are: the evidence folder, or what was put aside there for another release.
    pub fn evidence(&self) -> PathBuf {
        earlier::home(&self.call.evidence, &self.release)
    }

    /// Says where the documents of this release are, where they were put aside for another one.
    pub fn tell_where(&self) {
        let home = self.evidence();
        if home != self.call.evidence {
            let line = format!(
                "works on the evidence of {} in {}: the folder itself is of another release by now",
                evidence::name_release(&self.release),
                home.display()
            );
            self.talk().line(Mark::Step, &line);
        }
    }

    /// Makes the evidence folder that of this attempt, before the document of a tool is made anew: what is of another
    /// release, and what was made from the document that is about to change, is put aside. A tool that needs documents
    /// of this release makes no room for it: it refuses what is there.
    ///
    /// Errors (4): it cannot be put aside; then nothing has changed.
    pub fn make_room<B: Body>(&self) -> Result<(), Fault> {
        self.begin_run::<B>()?;
        let folder = &self.call.evidence;
        let plan = &self.loaded.plan;
        let is_first = match B::NAME {
            "preflight" | "baseline" => true,
            "snapshot" => plan.preflight.is_none(),
            _ => plan.preflight.is_none() && plan.snapshot.is_none(),
        };
        let there = |name: &str| earlier::has(folder, name);
        let after = |names: &[&str]| names.iter().any(|name| there(name));
        let another = earlier::another(folder, &self.release);
        let keep: &[&str] = match (&another, B::NAME) {
            (Some(_), _) if is_first => &[],
            (Some(_), _) => return Ok(()),
            // An open gate is closed from here on, until it has opened again.
            (None, "preflight") if there("preflight.json") => &["baseline.json", "drill.json"],
            (None, "baseline") if after(&["promote.json", "verify.json"]) => {
                &["preflight.json", "snapshot.json", "drill.json"]
            }
            (None, "snapshot") if after(&["promote.json", "verify.json"]) => {
                &["preflight.json", "baseline.json", "drill.json"]
            }
            (None, "promote") if after(&["promote.json", "verify.json"]) => {
                &["preflight.json", "snapshot.json", "baseline.json", "drill.json"]
            }
            (None, _) => {
                // Where it cannot be written, neither can the document, and that is told.
                let _ = is_first.then(|| earlier::claim(folder, &self.release));
                return Ok(());
            }
        };
        let aside = earlier::begin(folder, &self.release, keep, world::now());
        let aside = aside.map_err(|e| files::unwritable(&folder.join(earlier::FOLDER), &e))?;
        if let Some(aside) = aside {
            let whose = another.map_or_else(
                || "an earlier attempt at this release".into(),
                |release| evidence::name_release(&release),
            );
            let line = format!("put aside what is of {whose}: {}", aside.display());
            self.talk().line(Mark::Step, &line);
        }
        Ok(())
    }

    /// Says that this call of a tool has begun: what a call that began earlier finds is not written from here on.
    ///
    /// Errors (4): it cannot be said.
    pub fn begin_run<B: Body>(&self) -> Result<(), Fault> {
        if ordered_by_the_state::<B>() {
            return Ok(());
        }
        let folder = &self.call.evidence;
        earlier::locked(folder, || turn::take(folder, B::NAME, &self.release, self.call.started_at))
            .and_then(|taken| taken)
            .map_err(|e| files::unwritable(folder, &e))
    }

    /// Refuses (5) where another call of the same tool for the same release has begun later: what that one finds
    /// counts, and what this one found must not take its place.
    pub fn is_the_last<B: Body>(&self) -> Result<(), Fault> {
        let Some(turn) = lost_to::<B>(&self.call, Some(self)) else { return Ok(()) };
        Err(Fault::refused(format!("another `{}` for this release was begun later, and what it says counts", B::TOOL))
            .place(self.evidence().join(B::FILE).display().to_string())
            .cause(format!(
                "that one began at {} on {}, this one at {}: nothing of this one is put on record",
                turn.started_at, turn.host, self.call.started_at
            ))
            .help(format!(
                "go by the other one, or run `{}` again when it has ended; let one job at a time work on a release",
                B::TOOL
            )))
    }

    /// Brings back what a promotion was begun with, where another attempt at its release has taken the place of it.
    pub fn bring_back(&self, needs: &[Need]) {
        let home = self.evidence();
        match earlier::bring_back(&home, needs, world::now()) {
            Ok(true) => {
                let line = "what this promotion was begun with is back in the evidence folder; what had taken its \
                            place is put aside";
                self.talk().line(Mark::Step, line);
            }
            Ok(false) => {}
            // Its documents are where they were put aside, and `report check` names what is missing here.
            Err(error) => {
                self.talk().line(Mark::Warn, &files::unwritable(&home, &error).line());
            }
        }
    }

    /// Puts the pages of an earlier report aside: what could not be proven now must not stand there as if it were.
    pub fn put_pages_aside(&self) {
        let home = self.evidence();
        match earlier::put_pages_aside(&home, world::now()) {
            Ok(Some(aside)) => {
                let line = format!("the pages of an earlier report are put aside: {}", aside.display());
                self.talk().line(Mark::Step, &line);
            }
            Ok(None) => {}
            Err(error) => {
                let why = files::unwritable(&home, &error).line();
                self.talk().line(Mark::Warn, &format!("pages of an earlier report still stand here: {why}"));
            }
        }
    }

    /// The place of the promote state: a folder, or an `s3://` address.
    pub fn state_place(&self) -> PathBuf {
        self.call.state.clone().unwrap_or_else(|| self.loaded.at(".trapkey"))
    }

    /// The address of the environment, where the plan gives one.
    pub fn environment_url(&self) -> Option<&crate::units::Text> {
        self.loaded.plan.environments.get(&self.release.environment)?.url.as_ref()
    }

    /// Reads a document and refuses it (5) unless it is one, signed by a key that counts.
    pub fn read<B: Body>(&self) -> Result<Found<B>, Fault> {
        evidence::read(&self.evidence(), self.call.trust.as_ref())
    }

    /// Every sound document of a kind, in the evidence folder and in what was put aside.
    pub fn read_everywhere<B: Body>(&self) -> Vec<Found<B>> {
        let read = |place: PathBuf| evidence::read::<B>(&place, self.call.trust.as_ref()).ok();
        earlier::everywhere(&self.call.evidence).into_iter().filter_map(read).collect()
    }

    /// The same for one that lies there under a name of its own.
    pub fn read_file<B: Body>(&self, file: &str) -> Result<Found<B>, Fault> {
        evidence::read_file(&self.evidence(), file, self.call.trust.as_ref())
    }

    /// Reads a document and refuses it (5) unless it fits this plan and release and is young enough.
    pub fn need<B: Body>(&self, max_age: Option<Duration>) -> Result<Found<B>, Fault> {
        let found = self.read::<B>()?;
        found.fits(&Asked {
            plan: &self.loaded.reference,
            release: &self.release,
            now: world::now(),
            max_age: max_age.map(|d| d.as_secs_f64()),
            values: &self.values,
        })?;
        if B::NAME == PreflightBody::NAME {
            self.not_refused_since(&found)?;
        }
        Ok(found)
    }

    /// Refuses (5) a document whose tool was called again for this release since, and could not go by the plan.
    fn not_refused_since<B: Body>(&self, found: &Found<B>) -> Result<(), Fault> {
        let Ok(refusal) = self.read_file::<B>(&refusal_file::<B>()) else { return Ok(()) };
        let (head, before) = (&refusal.document.head, &found.document.head);
        let same = |a: &Head, b: &Head| a.release == b.release && a.plan == b.plan;
        if head.run.started_at <= before.run.started_at || !same(head, before) {
            return Ok(());
        }
        Err(Fault::refused(format!(
            "`{}` was called again after `{}`, and refused",
            B::TOOL,
            found.need.path
        ))
        .place(refusal.need.path)
        .cause(&head.summary)
        .help(format!("mend what it names, and run `{}` again", B::TOOL)))
    }

    /// The head of a document of this call.
    fn head<B: Body>(&self) -> Head {
        head::<B>(&self.call, Some(self))
    }

    /// Writes the document, the step outputs and the annotations, and says the verdict.
    ///
    /// A gate that passed returns 4 when the step outputs cannot be written; its document stays.
    /// Errors (4): the document cannot be written.
    pub fn conclude<B: Body>(&self, conclusion: Conclusion<B>) -> Result<Exit, Fault> {
        let path = self.write(&conclusion)?;
        let Conclusion { verdict, summary, findings, outputs, .. } = conclusion;
        Ok(self.announce(&path, verdict, &summary, &findings, outputs))
    }

    /// Says once more what a document that stands already says: step outputs and annotations. The
    /// document itself stays as it is, for later ones name it by digest.
    pub fn repeat<B: Body>(&self, found: &Found<B>, more: Vec<(&'static str, String)>) -> Exit {
        let head = &found.document.head;
        self.announce(&self.evidence().join(B::FILE), head.verdict, &head.summary, &head.findings, more)
    }

    fn announce(
        &self,
        path: &Path,
        verdict: DocumentVerdict,
        summary: &str,
        findings: &[Finding],
        more: Vec<(&'static str, String)>,
    ) -> Exit {
        let exit = evidence::exit_of(verdict);
        let mut outputs = vec![
            ("verdict", verdict.word().to_owned()),
            ("evidence", ci::from_workspace(path).display().to_string()),
            ("summary", summary.to_owned()),
        ];
        outputs.extend(more);
        annotate(findings, &self.loaded.reference.path);
        match write_outputs(&outputs) {
            // The document stands and is true; what later steps would have read is missing.
            Err(fault) if exit == Exit::Pass => {
                self.talk().error(&fault.to_string());
                fault.exit
            }
            Err(fault) => {
                self.talk().error(&fault.to_string());
                exit
            }
            Ok(()) => exit,
        }
    }

    /// A document as it is written, not yet signed.
    pub fn document<B: Body>(&self, conclusion: &Conclusion<B>) -> Document<B> {
        let mut head = self.head::<B>();
        head.needs.clone_from(&conclusion.needs);
        head.verdict = conclusion.verdict;
        head.summary.clone_from(&conclusion.summary);
        head.findings.clone_from(&conclusion.findings);
        Document { head, body: conclusion.body.clone() }
    }

    /// Writes the document alone: for one that is still growing.
    pub fn write<B: Body>(&self, conclusion: &Conclusion<B>) -> Result<PathBuf, Fault> {
        let bytes = evidence::to_bytes(&self.document(conclusion), self.call.sign.as_ref())?;
        let folder = &self.call.evidence;
        let path = earlier::locked(folder, || {
            self.is_the_last::<B>().map_err(|fault| {
                let (verdict, summary) = (conclusion.verdict.word(), &conclusion.summary);
                let cause = fault.cause.clone().unwrap_or_default();
                fault.cause(format!("{cause}; it found: {verdict}: {summary}"))
            })?;
            let home = self.evidence();
            let path = home.join(B::FILE);
            earlier::spare_others(&home, B::FILE, &self.release, world::now())
                .and_then(|()| files::write_atomic(&path, &bytes))
                .map_err(|e| files::unwritable(&path, &e))?;
            // Where the file system knows no locks, a later call may have begun just now.
            self.is_the_last::<B>().inspect_err(|_| {
                if files::read_bounded(&path, evidence::MAX_DOCUMENT).is_ok_and(|there| there == bytes) {
                    // One that stays is older than what the later call writes.
                    let _ = std::fs::remove_file(&path);
                }
            })?;
            Ok(path)
        })
        .map_err(|e| files::unwritable(folder, &e))??;
        drop_earlier_refusal::<B>(&self.call, &path);
        Ok(path)
    }

    /// Gives the written document to stdout when `--json` asks for it.
    pub fn hand_over<B: Body>(&self) -> Result<(), Fault> {
        if !self.call.json {
            return Ok(());
        }
        let path = self.evidence().join(B::FILE);
        let bytes =
            files::read_bounded(&path, evidence::MAX_DOCUMENT).map_err(|e| files::unwritable(&path, &e))?;
        world::talk::json(&bytes).map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
    }
}

/// The sections whose variables a tool goes by; none for the whole plan. A report shows what others have found: it
/// needs neither a database nor a router.
fn sections_of(tool: &str) -> Option<&'static [&'static str]> {
    (tool == "report").then_some(&["version", "service", "environments", "release", "report"])
}

/// The digests of the plan's artifacts.
///
/// Errors (2): one cannot be read.
pub fn artifacts(loaded: &Loaded) -> Result<Vec<Artifact>, Fault> {
    let read = |artifact: &crate::units::Text| {
        let path = loaded.at(&artifact.value);
        let (sha256, _) = files::sha256_file(&path).map_err(|e| {
            Fault::usage(format!("the artifact `{artifact}` cannot be read"))
                .place(path.display().to_string())
                .cause(e)
                .help("build it first, or correct `release.artifacts`; paths are relative to the plan")
        })?;
        Ok(Artifact { name: artifact.value.clone(), sha256 })
    };
    loaded.plan.release.artifacts.iter().map(read).collect()
}

/// The environment that a call is about, among those of the plan at `path`.
///
/// Errors (2): it is not among them, or none is named and there are several.
pub fn choose_environment(known: &[String], named: Option<&str>, path: &str) -> Result<String, Fault> {
    let list = || known.join(", ");
    match named {
        Some(name) if known.is_empty() || known.iter().any(|k| k == name) => Ok(name.to_owned()),
        Some(name) => Err(Fault::usage(format!("the environment `{name}` is not in the plan"))
            .place(path)
            .help(format!("known here: {}", list()))),
        None => match known.len() {
            0 => Ok("production".into()),
            1 => Ok(list()),
            _ => Err(Fault::usage("the plan has several environments")
                .place(path)
                .help(format!("choose one with --environment: {}", list()))),
        },
    }
}

fn head<B: Body>(call: &Call, job: Option<&Job>) -> Head {
    Head {
        schema: B::schema(),
        tool: ToolRef { name: call.tool.into(), version: VERSION.into() },
        release: job.map(|j| j.release.clone()),
        plan: job.map(|j| j.loaded.reference.clone()),
        variables: job.map(|j| j.used.clone()).unwrap_or_default(),
        needs: Vec::new(),
        run: Run {
            started_at: call.started_at,
            finished_at: world::now(),
            host: world::host_name(),
            ci: ci::job(),
        },
        verdict: DocumentVerdict::Error,
        summary: String::new(),
        findings: Vec::new(),
        signature: None,
    }
}

/// An earlier refusal is over once there is a document again; one that came while this call worked
/// is another call's, and stays.
fn drop_earlier_refusal<B: Body>(call: &Call, beside: &Path) {
    let path = files::parent(beside).join(refusal_file::<B>());
    let written = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
    let earlier = written.and_then(|at| Timestamp::try_from(at).ok()).is_some_and(|at| at < call.started_at);
    if earlier {
        // One that cannot be removed is told apart by its own time.
        let _ = std::fs::remove_file(path);
    }
}

/// Whether the lease on the state says who may write such a document: a promotion is carried on by many calls, and an
/// abort that began later leaves the word to the job that works.
fn ordered_by_the_state<B: Body>() -> bool {
    B::NAME == PromoteBody::NAME
}

/// The call of the same tool that began later than this one, where there is one. To be called under the lock.
fn lost_to<B: Body>(call: &Call, job: Option<&Job>) -> Option<Turn> {
    if ordered_by_the_state::<B>() {
        return None;
    }
    let release = job.map(|job| &job.release);
    if let Some(release) = release {
        if turn::is_last(&call.evidence, B::NAME, release) {
            return None;
        }
        if let Some(turn) = turn::lost_to(&call.evidence, B::NAME, release, call.started_at) {
            return Some(turn);
        }
    }
    let document = job.map_or_else(|| call.evidence.clone(), Job::evidence).join(B::FILE);
    turn::written_later(&document, release, call.started_at)
}

fn refusal_file<B: Body>() -> String {
    format!("{}.refused.json", B::NAME)
}

/// Records an error: a document, the step outputs and an annotation, as far as that is possible.
///
/// What was refused (5) or not understood (2) goes to `TOOL.refused.json`, so that it never takes
/// the place of the evidence of a release that is under way.
pub fn record_fault<B: Body + Default>(call: &Call, job: Option<&Job>, fault: &Fault) {
    let mut head = head::<B>(call, job);
    head.verdict = match fault.exit {
        Exit::Closed => DocumentVerdict::Fail,
        Exit::Undecided => DocumentVerdict::Undecided,
        _ => DocumentVerdict::Error,
    };
    head.summary = fault.line();
    let verdict = match fault.exit {
        Exit::Closed => Verdict::Fail,
        Exit::Undecided => Verdict::NoData,
        _ => Verdict::Error,
    };
    head.findings = vec![Finding::new(call.tool, "fault", verdict, world::now()).says(fault.to_string())];
    let summary = head.summary.clone();
    let word = head.verdict.word();
    let document = Document { head, body: B::default() };
    let set_aside = matches!(fault.exit, Exit::Usage | Exit::Refused);
    let name = if set_aside { refusal_file::<B>() } else { B::FILE.to_owned() };
    let path = job.map_or_else(|| call.evidence.clone(), Job::evidence).join(name);
    // The error itself is about to be shown; a second one about its record must not hide it.
    if let Ok(bytes) = evidence::to_bytes(&document, call.sign.as_ref()) {
        let shown = path.display().to_string();
        let written = earlier::locked(&call.evidence, || {
            put_fault_on_record::<B>(call, job, &path, (&bytes, set_aside))
        })
        .and_then(|written| written);
        match written {
            Err(second) => {
                if fault.place.as_ref() != Some(&shown) {
                    call.talk.line(
                        Mark::Bad,
                        &format!("the error below could not be put on record in {shown}: {second}"),
                    );
                }
                if !set_aside {
                    close_the_old_gate::<B>(call, job, &path);
                }
            }
            Ok(()) if !set_aside => drop_earlier_refusal::<B>(call, &path),
            Ok(()) => {}
        }
        if call.json {
            // The exit code tells of the error; a closed stdout is nothing worse.
            let _ = world::talk::json(&bytes);
        }
    }
    let outputs = [
        ("verdict", word.to_owned()),
        ("evidence", ci::from_workspace(&path).display().to_string()),
        ("summary", summary.clone()),
    ];
    if let Err(second) = write_outputs(&outputs) {
        call.talk.line(Mark::Bad, &second.line());
    }
    let place = ci::Place::of_fault(&call.plan, fault.place.as_deref());
    ci::annotate(&[(ci::Level::Error, call.tool.to_owned(), fault.to_string())], Some(&place));
}

/// Writes what an error leaves behind, unless a call that began later has the word. To be called under the lock.
fn put_fault_on_record<B: Body>(
    call: &Call,
    job: Option<&Job>,
    path: &Path,
    (bytes, set_aside): (&[u8], bool),
) -> std::io::Result<()> {
    let release = job.map(|job| &job.release);
    let later =
        if set_aside { turn::written_later(path, release, call.started_at) } else { lost_to::<B>(call, job) };
    if let Some(later) = later {
        let line = format!(
            "the error below is not put on record in {}: another call began later, at {} on {}",
            path.display(),
            later.started_at,
            later.host
        );
        call.talk.line(Mark::Warn, &line);
        return Ok(());
    }
    if let Some(job) = job {
        if set_aside && B::NAME != PreflightBody::NAME {
            // It was refused and did nothing: whoever began before it goes on.
            turn::give_back(&call.evidence, B::NAME, &job.release);
        }
        if !set_aside {
            earlier::spare_others(&files::parent(path), B::FILE, &job.release, world::now())?;
        }
    }
    files::write_atomic(path, bytes)
}

/// Moves an older document of the same kind out of the way of those that would go by it, where the one that says that
/// its gate is closed again could not be written: a name can be changed on a full disk as well.
fn close_the_old_gate<B: Body>(call: &Call, job: Option<&Job>, path: &Path) {
    let own = job.is_some_and(|job| earlier::is_about(path, &job.release));
    if ordered_by_the_state::<B>() || !own {
        return;
    }
    let moved = files::parent(path).join(earlier::superseded(B::FILE));
    let line = match std::fs::rename(path, &moved) {
        Ok(()) => format!("the older {} counts no more; it is {} now", B::FILE, moved.display()),
        Err(error) => format!("the older {} still stands there and counts no more: {error}", path.display()),
    };
    call.talk.line(Mark::Bad, &line);
}

fn write_outputs(outputs: &[(&str, String)]) -> Result<(), Fault> {
    ci::outputs(outputs).map_err(|e| {
        Fault::infrastructure("the step outputs cannot be written")
            .cause(e)
            .help("look at GITHUB_OUTPUT or TRAPKEY_OUTPUT")
    })
}

fn annotate(findings: &[Finding], plan: &str) {
    let notes: Vec<_> = findings
        .iter()
        .filter(|f| f.verdict != Verdict::Pass && f.severity != Severity::Info)
        .map(|f| {
            let level = if f.closes() { ci::Level::Error } else { ci::Level::Warning };
            (level, format!("{} ({})", f.name, f.verdict.word()), f.message.clone())
        })
        .collect();
    ci::annotate(&notes, Some(&ci::Place::file(plan)));
}
