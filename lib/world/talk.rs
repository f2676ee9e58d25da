//! What a person sees while a tool works: on stderr, redacted, coloured only where wanted.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::redact::redact;

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
        Self { quiet, color, terminal }
    }

    /// A line, unless quiet was asked for.
    pub fn line(&self, mark: Mark, text: &str) {
        if !self.quiet {
            self.print(mark, text);
        }
    }

    /// An error, also when quiet was asked for.
    pub fn error(&self, text: &str) {
        let text = redact(text);
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
        let text = redact(text);
        if self.color {
            say(&format!("\x1b[{color}m{sign}\x1b[0m {text}"));
        } else {
            say(&format!("{sign} {text}"));
        }
    }

    /// One line that changes on a terminal; elsewhere nothing, for a log wants whole lines.
    pub fn ticker(&self) -> Ticker {
        if self.quiet || !self.terminal {
            return Ticker(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Ticker(Some(bar))
    }
}

/// A line that changes while something goes on.
#[derive(Debug)]
pub struct Ticker(Option<ProgressBar>);

impl Ticker {
    /// Shows something else.
    pub fn set(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(redact(text));
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line to stderr; a closed stderr is nobody's fault.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes data to stdout.
///
/// Errors: stdout is closed or full.
pub fn data(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
