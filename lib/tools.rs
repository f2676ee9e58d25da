//! The five tools: each turns a plan and earlier evidence into its own document.

pub mod preflight;
pub mod promote;
pub mod report;
pub mod snapshot;
pub mod verify;

use crate::caught::caught;
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

/// What one part of a gate found; where looking broke, that is an error of this part alone.
fn part(name: &str, kind: &str, look: impl FnOnce() -> Vec<Finding>) -> Vec<Finding> {
    caught(look)
        .unwrap_or_else(|why| vec![Finding::new(name, kind, Verdict::Error, crate::world::now()).says(why)])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_breaks_is_an_error_of_its_own() {
        let good = || vec![Finding::new("it", "http", Verdict::Pass, jiff::Timestamp::UNIX_EPOCH)];
        assert_eq!(part("it", "http", good).len(), 1);
        let found = part("the way", "promote", || panic!("no way"));
        let told: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.verdict, f.closes())).collect();
        assert_eq!(told, [("the way", Verdict::Error, true)]);
        assert!(found[0].message.ends_with(": no way"), "{}", found[0].message);
    }

    #[test]
    fn a_finding_is_marked_by_verdict_severity_and_how_often_it_was_looked_at() {
        for (verdict, severity, flaky, expected) in [
            (Verdict::Pass, Severity::Critical, false, Mark::Good),
            (Verdict::Pass, Severity::Critical, true, Mark::Warn),
            (Verdict::Fail, Severity::Critical, false, Mark::Bad),
            (Verdict::NoData, Severity::Critical, false, Mark::Bad),
            (Verdict::Fail, Severity::Warning, false, Mark::Warn),
            (Verdict::Error, Severity::Info, false, Mark::Warn),
        ] {
            let finding = Finding::new("it", "http", verdict, jiff::Timestamp::UNIX_EPOCH);
            let finding = Finding { severity, flaky, ..finding };
            assert_eq!(mark(&finding), expected, "{verdict:?} {severity:?} {flaky}");
        }
    }
}
