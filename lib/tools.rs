//! The five tools: each turns a plan and earlier evidence into its own document.

pub mod preflight;
pub mod promote;
pub mod report;
pub mod snapshot;
pub mod verify;

use crate::evidence::{Finding, Verdict};
use crate::severity::Severity;
use crate::units::show_duration;
use crate::world::talk::{Mark, Talk};

/// One line for one finding, as it comes.
fn tell(talk: &Talk, finding: &Finding) {
    let word = match finding.verdict {
        Verdict::Pass => String::new(),
        other => format!("{}: ", other.word().replace('_', " ")),
    };
    let time = show_duration(finding.duration_ms / 1e3);
    talk.line(mark(finding), &format!("{} · {word}{} [{time}]", finding.name, finding.message));
}

/// What held only at a second look is worth a look too.
fn mark(finding: &Finding) -> Mark {
    match (finding.verdict, finding.severity) {
        (Verdict::Pass, _) if finding.flaky => Mark::Warn,
        (Verdict::Pass, _) => Mark::Good,
        (_, Severity::Critical) => Mark::Bad,
        (_, Severity::Warning | Severity::Info) => Mark::Warn,
    }
}
