//! How figures, times and verdicts read.

use jiff::Timestamp;
use serde::Serialize;

use crate::evidence::{DocumentVerdict, Finding, Verdict};
use crate::severity::Severity;
use crate::units::{show_duration, show_number, show_share};

/// A verdict as people see it: never by colour alone.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Mark {
    /// `pass`, `warn`, `fail` or `none`: the class of its colour.
    pub(super) tone: &'static str,
    /// A sign that survives black and white.
    pub(super) sign: &'static str,
    /// The word.
    pub(super) word: String,
}

impl Mark {
    pub(super) fn new(tone: &'static str, word: impl Into<String>) -> Self {
        let sign = match tone {
            "pass" => "✓",
            "warn" => "!",
            "fail" => "✗",
            _ => "·",
        };
        Self { tone, sign, word: word.into() }
    }

    pub(super) fn of(verdict: Verdict, severity: Severity) -> Self {
        let tone = match (verdict, severity) {
            (Verdict::Pass, _) => "pass",
            (Verdict::Skipped, _) | (_, Severity::Info) => "none",
            (_, Severity::Warning) | (Verdict::NoData | Verdict::TooFewSamples, _) => "warn",
            (Verdict::Fail | Verdict::Error, Severity::Critical) => "fail",
        };
        let word = if verdict == Verdict::Fail && severity == Severity::Warning {
            "warning".into()
        } else {
            verdict.word().replace('_', " ")
        };
        Self::new(tone, word)
    }

    pub(super) fn of_finding(finding: &Finding) -> Self {
        let mut mark = Self::of(finding.verdict, finding.severity);
        if finding.flaky {
            mark.word.push_str(", flaky");
        }
        mark
    }

    pub(super) fn of_document(verdict: DocumentVerdict) -> Self {
        let tone = match verdict {
            DocumentVerdict::Pass => "pass",
            DocumentVerdict::Undecided => "warn",
            DocumentVerdict::Fail | DocumentVerdict::Error => "fail",
        };
        Self::new(tone, verdict.word())
    }
}

/// `21 Nov 2026, 20:14 UTC`.
pub(super) fn date(at: Timestamp) -> String {
    at.strftime("%-d %b %Y, %H:%M UTC").to_string()
}

/// `21 Nov 2026`.
pub(super) fn day(at: Timestamp) -> String {
    at.strftime("%-d %b %Y").to_string()
}

/// `20:14:31`.
pub(super) fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// Seconds from one moment to a later one; never below 0.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    ((to.as_millisecond() - from.as_millisecond()) as f64 / 1e3).max(0.0)
}

/// `20 h 14 min`.
pub(super) fn lasted(from: Timestamp, to: Timestamp) -> String {
    let seconds = seconds(from, to);
    if seconds == 0.0 { "under 1 ms".into() } else { show_duration(seconds) }
}

/// `1 204 311`, with narrow spaces that do not break.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, c) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// `1 check`, `12 checks`.
pub(super) fn many(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {one}s", count(number)) }
}

/// A figure with its unit: shares for `%`, durations for `ms`.
pub(super) fn figure(value: f64, unit: &str) -> String {
    match unit {
        "%" => show_share(value),
        "ms" => show_duration(value / 1e3),
        "" => show_number(value),
        other => format!("{} {other}", show_number(value)),
    }
}

/// Milliseconds as people read them.
pub(super) fn ms(value: f64) -> String {
    if value == 0.0 { "0 ms".into() } else { show_duration(value / 1e3) }
}

/// `error_rate` becomes `error rate`.
pub(super) fn metric(name: &str) -> String {
    name.replace('_', " ")
}

/// The first letter as a capital.
pub(super) fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// The text with exactly one full stop at its end.
pub(super) fn stop(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}
