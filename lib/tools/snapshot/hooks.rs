//! Freeze and thaw: the hooks `before` and `after` of the whole snapshot and of each source.
//!
//! Both are run by a guard: this program once more, in a session of its own, which holds a pipe from
//! the snapshot. When the pipe closes without a word, the snapshot has died, and the guard thaws. A
//! record on disk stands from before the freeze until after the thaw. The snapshot and its guards share
//! a lock beside it: a record that is found under a free lock was left by a machine that went down or
//! by a thaw that failed, and the next `snapshot create` thaws first.

use std::cell::RefCell;
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, setsid};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::evidence::{Finding, Verdict};
use crate::fault::Fault;
use crate::job::Job;
use crate::plan::{Snapshot, SourceSpec};
use crate::redact::{learn_environment, redact};
use crate::units::{Text, show_duration};
use crate::world::shell::Order;
use crate::world::talk::Mark;
use crate::world::{self, files, shell, signal};

/// The word that starts this program as a guard; no user writes it.
const GUARD: &str = "thaw-guard";
/// Time for one hook where the plan says nothing.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How much longer than its hook a guard may take to answer.
const GRACE: Duration = Duration::from_secs(15);
/// How long the lock is waited for where a snapshot may be at work.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest record that is read.
const MOST: u64 = 64 * 1024;

/// What a pair of hooks stands around.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All sources.
    Snapshot(&'a Snapshot),
    /// One of them.
    Source(&'a SourceSpec),
}

/// The hooks of one call.
pub(super) struct Hooks<'a> {
    job: &'a Job,
    folder: PathBuf,
    findings: RefCell<Vec<Finding>>,
    /// Only one snapshot at a time has anything frozen. Its guards hold it too.
    lock: Option<File>,
}

/// What stands on disk while something is frozen, or may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// `snapshot`, or ``source `NAME` ``.
    scope: String,
    /// The source, where it is one.
    source: Option<String>,
    service: String,
    version: String,
    environment: String,
    /// The thaw as the plan writes it, variables not filled in.
    after: String,
    timeout_ms: u64,
    host: String,
    began_at: Timestamp,
    /// The guard, for [`world::lives`].
    #[serde(default)]
    guard: String,
}

/// What the guard is told; it holds secrets, so it goes through a pipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    record: Record,
    /// Where the record is put; nowhere when there is nothing to thaw.
    path: Option<PathBuf>,
    before: Vec<String>,
    after: Vec<String>,
    folder: PathBuf,
}

/// What the guard answers, one line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    /// The record cannot be written: nothing was begun.
    Refused(String),
    /// `before` ended, or there is none; what comes next is waited for.
    Before(Option<Outcome>),
    /// `after` ended.
    After(Outcome),
}

/// How a hook ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    started: bool,
    good: bool,
    how: String,
    said: String,
    took_ms: f64,
}

/// Something that is frozen; it thaws with [`Frozen::thaw`], or when it is dropped.
struct Frozen {
    guard: Child,
    to_guard: Option<ChildStdin>,
    replies: Receiver<Reply>,
    task: Task,
}

/// Reads what earlier calls left, and thaws first what they left frozen.
///
/// Errors: 5 while another snapshot of the plan has something frozen; 4 when a thaw that is owed fails
/// or is not in the plan any more.
pub(super) fn open<'a>(job: &'a Job, section: &Snapshot) -> Result<Hooks<'a>, Fault> {
    let state = job.state_place();
    let beside_the_plan = state.display().to_string().contains("://");
    let state = if beside_the_plan { job.loaded.at(".trapkey") } else { state };
    let folder = std::path::absolute(state.join("thaw.d")).unwrap_or_else(|_| state.join("thaw.d"));
    let scopes = std::iter::once(Scope::Snapshot(section)).chain(section.sources.iter().map(Scope::Source));
    let any = scopes.into_iter().any(|scope| !scope.before().is_empty() || !scope.after().is_empty());
    let mut hooks = Hooks { job, folder, findings: RefCell::default(), lock: None };
    if !any && !hooks.folder.exists() {
        return Ok(hooks);
    }
    hooks.lock = Some(hooks.lock()?);
    hooks.thaw_what_was_left(section)?;
    Ok(hooks)
}

/// Runs as a guard when the arguments say so.
pub fn guard_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|word| word != GUARD) || arguments.next().is_some() {
        return None;
    }
    guard();
    Some(ExitCode::SUCCESS)
}

impl<'a> Scope<'a> {
    fn before(self) -> &'a [Text] {
        match self {
            Self::Snapshot(section) => &section.before,
            Self::Source(spec) => &spec.before,
        }
    }

    fn after(self) -> &'a [Text] {
        match self {
            Self::Snapshot(section) => &section.after,
            Self::Source(spec) => &spec.after,
        }
    }

    fn timeout(self) -> Duration {
        let given = match self {
            Self::Snapshot(section) => section.hook_timeout,
            Self::Source(spec) => spec.hook_timeout,
        };
        given.map_or(TIMEOUT, |span| span.0)
    }

    fn source(self) -> Option<&'a str> {
        match self {
            Self::Snapshot(_) => None,
            Self::Source(spec) => Some(&spec.name),
        }
    }

    fn name(self) -> String {
        self.source().map_or_else(|| "the snapshot".into(), |name| format!("source `{name}`"))
    }
}

impl Hooks<'_> {
    /// Runs `before`, the work, and in any case `after`.
    ///
    /// Errors: those of the work; 4 when a hook fails. When both the work and `after` fail, the error is
    /// that of the work, and its help says what may still be frozen.
    pub(super) fn around<T>(
        &self,
        scope: Scope<'_>,
        work: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if scope.before().is_empty() && scope.after().is_empty() {
            return work();
        }
        let frozen = self.freeze(scope)?;
        let done = work();
        let reason = done.as_ref().err().map(Fault::line).unwrap_or_default();
        match (done, self.thaw(scope, frozen, &reason)) {
            (done, Ok(())) => done,
            (Ok(_), Err(thaw)) => Err(thaw),
            (Err(fault), Err(thaw)) => {
                let help = fault.help.clone().map(|help| format!("{help}\n")).unwrap_or_default();
                Err(fault.help(format!("{help}besides, {}", thaw.line())))
            }
        }
    }

    /// Nothing is frozen any more: another snapshot may freeze. Returns one finding for each hook that
    /// ran.
    pub(super) fn close(self) -> Vec<Finding> {
        self.findings.into_inner()
    }

    /// Takes the lock. Where its last holder is gone, the guards that still hold it are thawing, and that
    /// is waited for.
    fn lock(&self) -> Result<File, Fault> {
        let unwritable = |e: std::io::Error| files::unwritable(&self.folder, &e);
        std::fs::create_dir_all(&self.folder).map_err(unwritable)?;
        for above in self.folder.ancestors().skip(1).take(2) {
            files::sync_folder(above).map_err(unwritable)?;
        }
        let path = self.folder.join("lock");
        let mut lock = crate::bounds::open_to_add(&path, 0o666).map_err(unwritable)?;
        let started = Instant::now();
        let mut said = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(unwritable(e)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = files::read_bounded(&path, MOST).unwrap_or_default();
            if world::lives(&String::from_utf8_lossy(&holder)) != Some(false) {
                if started.elapsed() > PATIENCE {
                    return Err(at_work(&path));
                }
            } else if !said {
                said = true;
                let note =
                    "an earlier snapshot was ended, and what it froze is being thawed: waiting for that";
                self.job.talk().line(Mark::Warn, note);
            }
            if !signal::sleep(Duration::from_millis(50)) {
                return Err(super::intake::interrupted());
            }
        }
        lock.set_len(0).and_then(|()| lock.write_all(world::process().as_bytes())).map_err(unwritable)?;
        Ok(lock)
    }

    /// The record of what is about to be frozen, and the orders for its guard.
    fn task(&self, scope: Scope<'_>) -> Task {
        let release = &self.job.release;
        let record = Record {
            scope: scope.name(),
            source: scope.source().map(str::to_owned),
            service: release.service.clone(),
            version: release.version.clone(),
            environment: release.environment.clone(),
            after: shown(scope.after()),
            timeout_ms: u64::try_from(scope.timeout().as_millis()).unwrap_or(u64::MAX),
            host: world::host_name(),
            began_at: world::now(),
            guard: String::new(),
        };
        let name = format!("{:016x}.json", world::unique());
        let words = |words: &[Text]| words.iter().map(|word| word.value.clone()).collect();
        let folder = &self.job.loaded.folder;
        Task {
            record,
            path: (!scope.after().is_empty()).then(|| self.folder.join(name)),
            before: words(scope.before()),
            after: words(scope.after()),
            folder: folder.canonicalize().unwrap_or_else(|_| folder.clone()),
        }
    }

    fn freeze(&self, scope: Scope<'_>) -> Result<Frozen, Fault> {
        let mut frozen = Frozen::begin(self.task(scope), self.lock.as_ref()).map_err(|e| {
            Fault::infrastructure("the guard of the hooks cannot be started")
                .cause(e)
                .help("it is this program once more: may it be run, and are there processes left?")
        })?;
        let outcome = match frozen.answer(scope.timeout() + GRACE, true) {
            Some(Reply::Before(outcome)) => outcome,
            Some(Reply::Refused(why)) => {
                return Err(Fault::infrastructure("what is to be thawed cannot be put on record")
                    .place(self.folder.display().to_string())
                    .cause(why)
                    .help("nothing was frozen; make that folder writable"));
            }
            Some(Reply::After(_)) | None => {
                let fault = failed(scope, "before", scope.before(), "its guard was ended");
                self.thaw(scope, frozen, "the guard was ended")?;
                return Err(fault);
            }
        };
        let Some(outcome) = outcome else { return Ok(frozen) };
        self.note(scope, "before", scope.before(), &outcome);
        if outcome.good {
            return Ok(frozen);
        }
        let fault = failed(scope, "before", scope.before(), outcome.why());
        if !outcome.started || scope.after().is_empty() {
            return Err(fault.help("nothing was read and nothing kept; run the hook by hand"));
        }
        // It may have frozen something before it failed.
        match self.thaw(scope, frozen, "`before` failed") {
            Ok(()) => {
                Err(fault.help("`after` was run, nothing was read and nothing kept; run the hook by hand"))
            }
            Err(thaw) => Err(fault.help(format!("besides, {}", thaw.line()))),
        }
    }

    fn thaw(&self, scope: Scope<'_>, frozen: Frozen, reason: &str) -> Result<(), Fault> {
        if scope.after().is_empty() {
            return Ok(());
        }
        let path = frozen.task.path.clone();
        let outcome = frozen.thaw(&redact(reason));
        self.note(scope, "after", scope.after(), &outcome);
        if outcome.good {
            return Ok(());
        }
        let place = path.map(|path| path.display().to_string()).unwrap_or_default();
        Err(failed(scope, "after", scope.after(), outcome.why()).place(place).help(
            "what was frozen may still be: thaw it by hand now. No snapshot was kept; the next one runs the \
             hook again first, unless you remove this record",
        ))
    }

    /// Says how a hook ended, and keeps it for the document.
    fn note(&self, scope: Scope<'_>, hook: &str, words: &[Text], outcome: &Outcome) {
        let (mark, verdict) =
            if outcome.good { (Mark::Good, Verdict::Pass) } else { (Mark::Bad, Verdict::Error) };
        let name = format!("hook {hook} of {}", scope.name());
        let took = show_duration(outcome.took_ms / 1e3);
        self.job.talk().line(mark, &format!("{name}: {} after {took}", outcome.why()));
        let mut finding = Finding::new(name, "hook", verdict, world::now()).says(outcome.why());
        finding.duration_ms = outcome.took_ms;
        finding.evidence = json!({ "command": shown(words), "output": outcome.end() });
        self.findings.borrow_mut().push(finding);
    }

    /// Runs every thaw that an earlier call owes, what was frozen last first.
    fn thaw_what_was_left(&self, section: &Snapshot) -> Result<(), Fault> {
        let mut owed = self.records()?;
        owed.sort_by_key(|(_, record)| std::cmp::Reverse((record.source.is_some(), record.began_at)));
        for (path, record) in owed {
            let release = &self.job.release;
            if (&record.service, &record.environment) == (&release.service, &release.environment) {
                self.thaw_late(section, &path, &record)?;
                remove(&path).map_err(|e| files::unwritable(&path, &e))?;
                continue;
            }
            let note = format!(
                "a thaw of {} in {} is owed; the next snapshot there runs it: {}",
                record.service,
                record.environment,
                path.display()
            );
            self.job.talk().line(Mark::Warn, &note);
        }
        Ok(())
    }

    /// Every record in the folder. We hold the lock, so none of them has a guard.
    fn records(&self) -> Result<Vec<(PathBuf, Record)>, Fault> {
        let unreadable = |path: &Path, why: &dyn std::fmt::Display| {
            Fault::infrastructure("a record of what is frozen cannot be read")
                .place(path.display().to_string())
                .cause(why)
                .help("look whether anything is still frozen, thaw it by hand, and remove this file")
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(|e| unreadable(&self.folder, &e))? {
            let path = entry.map_err(|e| unreadable(&self.folder, &e))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let bytes = files::read_bounded(&path, MOST).map_err(|e| unreadable(&path, &e))?;
                    let record = serde_json::from_slice(&bytes).map_err(|e| unreadable(&path, &e))?;
                    found.push((path, record));
                }
                Some("tmp") => {
                    // It was never put in place, so nothing was begun.
                    let _ = std::fs::remove_file(path);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn thaw_late(&self, section: &Snapshot, path: &Path, record: &Record) -> Result<(), Fault> {
        let scope = match &record.source {
            None => Some(Scope::Snapshot(section)),
            Some(name) => section.sources.iter().find(|spec| spec.name == *name).map(Scope::Source),
        };
        let when = record.began_at.strftime("%Y-%m-%d %H:%M:%SZ");
        let Some(scope) = scope.filter(|scope| !scope.after().is_empty()) else {
            return Err(Fault::refused(format!(
                "{} was left frozen, and the plan has no `after` for it",
                record.scope
            ))
            .place(path.display().to_string())
            .cause(format!("the snapshot of {when} on {} was to end it with: {}", record.host, record.after))
            .help("run that by hand, and remove this file"));
        };
        let note = format!(
            "{} was left frozen by the snapshot of {when} on {}: thawing it first",
            record.scope, record.host
        );
        self.job.talk().line(Mark::Warn, &note);
        let mut task = self.task(scope);
        task.record = Record { timeout_ms: task.record.timeout_ms, ..record.clone() };
        let outcome = task.run("after", &task.after, "an earlier snapshot left it frozen");
        self.note(scope, "after (owed)", scope.after(), &outcome);
        if outcome.good {
            return Ok(());
        }
        Err(failed(scope, "after", scope.after(), outcome.why())
            .place(path.display().to_string())
            .help("an earlier snapshot left it frozen: thaw it by hand, and remove this file"))
    }
}

fn at_work(path: &Path) -> Fault {
    Fault::refused("another snapshot of this plan is at work, and its hooks are not yet through")
        .place(path.display().to_string())
        .help("wait for it: two snapshots would thaw each other's freeze")
}

fn failed(scope: Scope<'_>, hook: &str, words: &[Text], why: impl std::fmt::Display) -> Fault {
    Fault::infrastructure(format!("the hook `{hook}` of {} failed", scope.name()))
        .place(shown(words))
        .cause(why)
}

fn shown(words: &[Text]) -> String {
    words.iter().map(|word| word.shown.as_str()).collect::<Vec<_>>().join(" ")
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    files::sync_folder(&files::parent(path))
}

impl Outcome {
    /// How it ended and what it said last, on one line, secrets left out.
    fn why(&self) -> String {
        let said = redact(&self.said);
        let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
        let line = crate::units::clipped(line, 300);
        if self.good || line.is_empty() { self.how.clone() } else { format!("{}: {line}", redact(&self.how)) }
    }

    /// The end of what it said, secrets left out.
    fn end(&self) -> String {
        crate::units::ending(&redact(&self.said), 2000)
    }
}

impl Task {
    /// Runs one hook to its end. A thaw is never cut short by a signal.
    fn run(&self, hook: &str, argv: &[String], reason: &str) -> Outcome {
        let mut order = Order::new(argv.to_vec(), &self.folder);
        order.timeout = Duration::from_millis(self.record.timeout_ms);
        order.through_signals = hook == "after";
        let record = &self.record;
        order.env = [
            ("TRAPKEY_HOOK", hook),
            ("TRAPKEY_SERVICE", &record.service),
            ("TRAPKEY_VERSION", &record.version),
            ("TRAPKEY_ENVIRONMENT", &record.environment),
            ("TRAPKEY_SOURCE", record.source.as_deref().unwrap_or_default()),
            ("TRAPKEY_REASON", reason),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        match order.run() {
            Ok(ran) => {
                // Before it is cut anywhere; whoever is told knows more secrets, and looks again.
                let said = ran.all_words();
                let took_ms = ran.took.as_secs_f64() * 1e3;
                Outcome { started: true, good: ran.exit == Some(0), how: ran.how(), said, took_ms }
            }
            Err(e) => Outcome {
                started: false,
                good: false,
                how: format!("it could not be started: {e}"),
                said: String::new(),
                took_ms: 0.0,
            },
        }
    }

    /// Puts the record on disk, synced.
    fn put_on_record(&self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        files::write_atomic(path, &serde_json::to_vec_pretty(&self.record)?)
    }

    /// What lies within the freeze of the whole snapshot is thawed first: waits for its guards.
    fn wait_for_the_inner(&self) {
        let Some(folder) = self.path.as_deref().map(files::parent).filter(|_| self.record.source.is_none())
        else {
            return;
        };
        let at_work = |path: &Path| {
            let record = files::read_bounded(path, MOST).ok();
            let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            record.is_some_and(|inner| inner.source.is_some() && world::lives(&inner.guard) == Some(true))
        };
        // Each of them ends by itself: its hooks have a time limit.
        while std::fs::read_dir(&folder).into_iter().flatten().flatten().any(|entry| at_work(&entry.path())) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `after`, and takes the record away when it went well.
    fn thaw(&self, reason: &str) -> Outcome {
        let mut outcome = self.run("after", &self.after, reason);
        if let (true, Some(path)) = (outcome.good, &self.path)
            && let Err(e) = remove(path)
        {
            outcome.good = false;
            outcome.how = format!("it went well, but its record cannot be removed: {e}");
        }
        outcome
    }
}

impl Frozen {
    /// Starts a guard and gives it its task.
    fn begin(task: Task, lock: Option<&File>) -> std::io::Result<Self> {
        // The running program itself, even where a newer one has taken its place on disk.
        let own = Path::new("/proc/self/exe");
        let program = if own.exists() { own.to_path_buf() } else { std::env::current_exe()? };
        let mut command = Command::new(program);
        shell::keep_back(&mut command);
        let mut guard = command
            .arg0("snapshot")
            .arg(GUARD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It says nothing there. What it inherits is the lock, for as long as it lives.
            .stderr(lock.map(File::try_clone).transpose()?.map_or_else(Stdio::null, Stdio::from))
            .spawn()?;
        let mut to_guard = guard.stdin.take();
        let (sender, replies) = channel();
        let from_guard = guard.stdout.take();
        std::thread::spawn(move || {
            for line in from_guard.map(BufReader::new).into_iter().flat_map(BufRead::lines) {
                let reply = line.ok().and_then(|line| serde_json::from_str(&line).ok());
                // Nobody listens any more once the snapshot has given up.
                let Some(Ok(())) = reply.map(|reply: Reply| sender.send(reply)) else { return };
            }
        });
        let mut line = serde_json::to_vec(&task)?;
        line.push(b'\n');
        // A guard that is gone already does not answer, which tells.
        if to_guard.as_mut().is_some_and(|pipe| pipe.write_all(&line).is_err()) {
            to_guard = None;
        }
        Ok(Self { guard, to_guard, replies, task })
    }

    /// What the guard says next; nothing when it is gone or takes longer than `limit`. When we are asked
    /// to stop, and `stoppable`, it is told once.
    fn answer(&mut self, limit: Duration, stoppable: bool) -> Option<Reply> {
        let until = Instant::now() + limit;
        let mut told = !stoppable;
        loop {
            match self.replies.recv_timeout(Duration::from_millis(20)) {
                Ok(reply) => return Some(reply),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !told && signal::stop_asked() {
                told = true;
                // It ends the hook that runs and goes on to the thaw.
                if let Some(pid) = i32::try_from(self.guard.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
    }

    /// Has `after` run, by the guard, or here where the guard is gone.
    fn thaw(mut self, reason: &str) -> Outcome {
        let word = format!("{}\n", reason.replace(['\n', '\r'], " "));
        if let Some(pipe) = self.to_guard.as_mut() {
            // Where it cannot be told it is gone, and does not answer.
            let _ = pipe.write_all(word.as_bytes());
        }
        let limit = Duration::from_millis(self.task.record.timeout_ms) + GRACE;
        if let Some(Reply::After(outcome)) = self.answer(limit, false) {
            return outcome;
        }
        // One that only hangs must not thaw a second time, later.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        self.task.thaw(reason)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Without a word: where it has not thawed yet, it does so now.
        self.to_guard = None;
        let _ = self.guard.wait();
    }
}

/// The life of a guard: the record, `before`, the word or the end of the pipe, `after`.
fn guard() {
    // A signal to the whole group of the snapshot does not reach another session.
    let _ = setsid();
    signal::outlast();
    learn_environment();
    let mut orders = BufReader::new(std::io::stdin());
    let mut line = String::new();
    let read = orders.read_line(&mut line).is_ok();
    let Some(mut task) = serde_json::from_str::<Task>(&line).ok().filter(|_| read) else { return };
    task.record.guard = world::process();
    if let Err(e) = task.put_on_record() {
        return say(&Reply::Refused(e.to_string()));
    }
    if abandoned() {
        // Nothing is begun any more.
        let _ = task.path.as_deref().map(remove);
        return;
    }
    let before = (!task.before.is_empty()).then(|| task.run("before", &task.before, ""));
    let nothing_begun = before.as_ref().is_some_and(|outcome| !outcome.started);
    say(&Reply::Before(before));
    if nothing_begun {
        if let Some(path) = &task.path {
            // One that stays is thawed once more by the next snapshot, which harms less than one too few.
            let _ = remove(path);
        }
        return;
    }
    if task.path.is_none() {
        return;
    }
    line.clear();
    let told = matches!(orders.read_line(&mut line), Ok(1..));
    if !told {
        task.wait_for_the_inner();
    }
    let reason = if told { line.trim() } else { "the snapshot ended before it was done" };
    say(&Reply::After(task.thaw(reason)));
}

/// Whether the snapshot has died: nobody holds the other end of the pipe.
fn abandoned() -> bool {
    let stdin = std::io::stdin();
    let mut ends = [PollFd::new(&stdin, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&now)).is_ok() && ends[0].revents().contains(PollFlags::HUP)
}

fn say(reply: &Reply) {
    let Ok(mut line) = serde_json::to_vec(reply) else { return };
    line.push(b'\n');
    // The snapshot may be gone, which is what a guard is for.
    let _ = world::talk::raw(&line);
}
