//! What a person sees while a tool works: on stderr, redacted, coloured only where wanted.
//!
//! All that the tools print goes out here, whoever wrote it: headers, certificates, reasons, names of keys and answers of
//! servers end up in lines that a CI system reads too, and obeys. [`harmless`] takes that from them.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::caught::caught;
use crate::plain::{harmless, harmless_json, harmless_line};
use crate::redact::redact;
use crate::units::{show_duration, show_size};

mod stage;

use stage::say;
pub(super) use stage::stays;
pub use stage::{AtWork, Heartbeat};

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// On a terminal without `NO_COLOR`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a line is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Something went well.
    Good,
    /// Something is worth a look.
    Warn,
    /// Something went wrong.
    Bad,
    /// A step on the way.
    Step,
}

/// The voice of a tool.
#[derive(Clone, Debug)]
pub struct Talk {
    quiet: bool,
    color: bool,
    terminal: bool,
    progress: Progress,
}

impl Talk {
    /// A voice on stderr.
    pub fn new(quiet: bool, color: Color) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let color = match color {
            Color::Auto => terminal && wanted,
            Color::Always => true,
            Color::Never => false,
        };
        Self { quiet, color, terminal, progress: Progress::Auto }
    }

    /// The same voice with another way to show progress.
    #[must_use]
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// A line, unless quiet was asked for.
    pub fn line(&self, mark: Mark, text: &str) {
        if !self.quiet {
            self.print(mark, text);
        }
    }

    /// An error, also when quiet was asked for.
    pub fn error(&self, text: &str) {
        let text = harmless(&redact(text));
        let label = if self.color { "\x1b[31;1merror:\x1b[0m" } else { "error:" };
        say(&format!("{label} {text}"));
    }

    fn print(&self, mark: Mark, text: &str) {
        let (sign, color) = match mark {
            Mark::Good => ("✓", "32"),
            Mark::Warn => ("!", "33"),
            Mark::Bad => ("✗", "31"),
            Mark::Step => ("·", "36"),
        };
        let text = harmless(&redact(text));
        if self.color {
            say(&format!("\x1b[{color}m{sign}\x1b[0m {text}"));
        } else {
            say(&format!("{sign} {text}"));
        }
    }

    /// One line that changes on a terminal; elsewhere what a [`Talk::heartbeat`] says, for a log wants whole
    /// lines. With progress as JSON, a line for each step at most twice a second, quiet or not.
    pub fn ticker(&self) -> Ticker {
        if self.progress == Progress::Json {
            return Ticker(Some(Show::Lines(Mutex::default())));
        }
        if self.quiet || self.progress == Progress::None {
            return Ticker(None);
        }
        if !self.terminal {
            return Ticker(Some(Show::Beats(AtWork::on(""))));
        }
        Ticker(Some(Show::Bar(stage::bar())))
    }

    /// A line in a log whenever nothing was said for that long, until what it returns is dropped: a job that
    /// is silent looks like one that hangs, and some CI systems end it. Nothing on a terminal, where something
    /// moves, nothing where quiet or another progress was asked for, and nothing for 0.
    pub fn heartbeat(&self, every: Duration) -> Option<Heartbeat> {
        let wanted = !self.quiet && !self.terminal && self.progress == Progress::Auto && !every.is_zero();
        let talk = self.clone();
        wanted.then(|| Heartbeat::every(every, move |text| talk.line(Mark::Step, text)))
    }
}

/// How far something is shown while it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// A line that changes, on a terminal.
    #[default]
    Auto,
    /// Lines of JSON on stderr.
    Json,
    /// Not at all.
    None,
}

/// How often a step is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Something that takes its time.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is done, in a few words.
    pub what: String,
    /// Its bytes, where they are known before.
    pub of_bytes: Option<u64>,
    /// When it began.
    pub started: Instant,
}

impl Step {
    /// A step that begins now.
    pub fn new(what: &str) -> Self {
        Self { what: what.to_owned(), of_bytes: None, started: Instant::now() }
    }

    /// Bytes a second so far, and the seconds that are left where the whole is known.
    fn pace(&self, bytes: u64) -> (f64, Option<f64>) {
        let rate = bytes as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let left = self.of_bytes.filter(|_| rate > 0.0).map(|all| all.saturating_sub(bytes) as f64 / rate);
        (rate, left)
    }

    fn line(&self, files: u64, bytes: u64) -> String {
        let (rate, left) = self.pace(bytes);
        let files = if files > 0 { format!(" in {files} files") } else { String::new() };
        let of = self.of_bytes.map(|all| format!(" of {}", show_size(all as f64))).unwrap_or_default();
        let left = left.map(|left| format!(", {} left", show_duration(left.ceil()))).unwrap_or_default();
        format!("{}: {}{of}{files}, {}/s{left}", self.what, show_size(bytes as f64), show_size(rate.round()))
    }

    fn json(&self, files: u64, bytes: u64) -> Value {
        let (rate, left) = self.pace(bytes);
        json!({
            "progress": self.what, "files": files, "bytes": bytes, "of_bytes": self.of_bytes,
            "bytes_per_second": rate.round(), "seconds_left": left.map(f64::ceil),
        })
    }
}

#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    /// When the last line was written.
    Lines(Mutex<Option<Instant>>),
    /// What the next beat says.
    Beats(AtWork),
}

/// A line that changes while something goes on.
#[derive(Debug)]
pub struct Ticker(Option<Show>);

impl Ticker {
    /// Shows something else.
    pub fn set(&self, text: &str) {
        match &self.0 {
            Some(Show::Bar(bar)) => bar.set_message(harmless_line(&redact(text))),
            Some(Show::Lines(_)) => say_json(&json!({ "progress": redact(text) })),
            Some(Show::Beats(at_work)) => at_work.now(text),
            None => {}
        }
    }

    /// Shows how far a step is.
    pub fn step(&self, step: &Step, files: u64, bytes: u64) {
        match &self.0 {
            Some(Show::Bar(bar)) => bar.set_message(harmless_line(&redact(&step.line(files, bytes)))),
            Some(Show::Lines(last)) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.is_none_or(|last| last.elapsed() >= LOOK) {
                    *last = Some(Instant::now());
                    let mut line = step.json(files, bytes);
                    line["progress"] = redact(&step.what).into();
                    say_json(&line);
                }
            }
            Some(Show::Beats(at_work)) => at_work.now(&step.line(files, bytes)),
            None => {}
        }
    }

    /// Asks for files and bytes now and then, and shows them, until what it returns is dropped.
    pub fn watch<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        step: Step,
        count: impl Fn() -> (u64, u64) + Send + 'env,
    ) -> Watch {
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        let watch = Watch(Arc::clone(&done));
        if self.0.is_some() {
            scope.spawn(move || {
                let (over, wake) = &*done;
                let mut guard = over.lock().unwrap_or_else(PoisonError::into_inner);
                while !*guard {
                    // What cannot be shown must not end what is shown.
                    let _ = caught(|| {
                        let (files, bytes) = count();
                        self.step(&step, files, bytes);
                    });
                    let waited = wake.wait_timeout(guard, LOOK);
                    guard = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            });
        }
        watch
    }
}

/// Ends the watching when it is dropped.
#[derive(Debug)]
pub struct Watch(Arc<(Mutex<bool>, Condvar)>);

impl Drop for Watch {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(Show::Bar(bar)) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn say_json(line: &Value) {
    say(&String::from_utf8_lossy(&harmless_json(line.to_string().as_bytes())));
}

/// Says one word to whoever started this process, before there is a voice.
pub fn note(text: &str) {
    say(&harmless(&redact(text)));
}

/// Whether what is printed is read by a person at once.
pub fn stdout_is_a_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes a command to the CI system to stderr, which escapes what it is given by itself.
pub(super) fn command(line: &str) {
    say(line);
}

/// Writes text for people to stdout: redacted, and harmless to whatever reads along.
///
/// Errors: stdout is closed or full.
pub fn text(text: &str) -> std::io::Result<()> {
    own(&redact(text))
}

/// Writes text of our own to stdout, with nothing of others in it that could be a secret: examples stay as they are.
///
/// Errors: stdout is closed or full.
pub fn own(text: &str) -> std::io::Result<()> {
    let ends = if text.ends_with('\n') { "\n" } else { "" };
    let lines: Vec<String> = text.lines().map(harmless_line).collect();
    raw(format!("{}{ends}", lines.join("\n")).as_bytes())
}

/// Writes JSON to stdout: the same JSON, and harmless to whatever reads along.
///
/// Errors: stdout is closed or full.
pub fn json(bytes: &[u8]) -> std::io::Result<()> {
    raw(&harmless_json(bytes))
}

/// Writes bytes to stdout as they are: a file out of a snapshot, or what another process of ours reads.
///
/// Errors: stdout is closed or full.
pub fn raw(bytes: &[u8]) -> std::io::Result<()> {
    stays(|| {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    })
}
