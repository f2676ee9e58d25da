//! One error type: what failed, where, why, and what to do next.

use std::fmt;

use crate::redact::redact;

/// How a tool ends; the number is the exit code. The table is a public contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// The gate is open (warnings included), or there was nothing left to do.
    Pass = 0,
    /// The gate is closed: a critical check failed, or the release was rolled back.
    Closed = 1,
    /// A wrong flag, or a plan that does not validate.
    Usage = 2,
    /// No data, too few samples, or a missing approval. Never counted as pass.
    Undecided = 3,
    /// A store, router or API could not be reached or answered wrongly.
    Infrastructure = 4,
    /// Evidence missing, stale or tampered with, or another release holds the environment.
    Refused = 5,
}

impl Exit {
    /// The exit code as the operating system wants it.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// An error as its reader needs it: what failed, where, why, and the next step.
///
/// `what` is a lowercase sentence; `Display` gives all parts on lines of their own, redacted.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The exit code that this error leads to.
    pub exit: Exit,
    /// What failed.
    pub what: String,
    /// File, line and column, socket or URL; with the source line and a caret where there is one.
    pub place: Option<String>,
    /// Why it failed.
    pub cause: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Fault {
    fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), place: None, cause: None, help: None }
    }

    /// The gate is closed (exit 1).
    pub fn closed(what: impl Into<String>) -> Self {
        Self::new(Exit::Closed, what)
    }

    /// The user's input is wrong (exit 2).
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Nothing could be decided (exit 3).
    pub fn undecided(what: impl Into<String>) -> Self {
        Self::new(Exit::Undecided, what)
    }

    /// Something outside did not work (exit 4).
    pub fn infrastructure(what: impl Into<String>) -> Self {
        Self::new(Exit::Infrastructure, what)
    }

    /// Trapkey will not do this (exit 5).
    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(Exit::Refused, what)
    }

    /// Adds where it happened.
    #[must_use]
    pub fn place(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Adds why it happened.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The whole error in one redacted line: `what: cause`.
    pub fn line(&self) -> String {
        let text = match &self.cause {
            Some(cause) => format!("{}: {cause}", self.what),
            None => self.what.clone(),
        };
        redact(&text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", redact(&self.what))?;
        let parts = [("at", &self.place), ("cause", &self.cause), ("help", &self.help)];
        for (label, part) in parts {
            if let Some(text) = part {
                write!(f, "\n  {:<7}", format!("{label}:"))?;
                write!(f, "{}", redact(text).replace('\n', "\n         "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
