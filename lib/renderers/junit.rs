//! junit.xml: every observation as a test case, in the profile that all CI systems read alike.
//!
//! One flat suite, unique class and name, the same text in `message` and body (an attribute shows line
//! breaks as spaces), `file` is the plan, seconds with three places, always at least one test case.

use std::collections::BTreeMap;

use junit_report::{
    Duration, OffsetDateTime, Report, TestCase, TestCaseBuilder, TestResult, TestSuiteBuilder,
};

use super::escape::{clip, one_line, plain};
use super::{Kind, Story, Templates};
use crate::evidence::{Finding, Verdict};
use crate::fault::Fault;
use crate::severity::Severity;

pub(super) static KIND: Kind = Kind {
    name: "junit",
    about: "every check as a test case, for the test tabs of GitHub, GitLab and Jenkins",
    file: "junit.xml",
    render,
};

/// The longest text of one test case, in characters: GitLab reads at most 30 MB a file.
const LONGEST: usize = 20_000;

fn render(story: &Story, _: &Templates) -> Result<Vec<u8>, Fault> {
    let mut names = Names::default();
    let mut cases = vec![outcome(story, &mut names)];
    cases.extend(story.missing.iter().map(|(file, why)| missing(story, file, why, &mut names)));
    cases.extend(story.findings.iter().map(|(tool, finding)| case(story, tool, finding, &mut names)));
    let skipped = cases.iter().filter(|c| c.is_skipped()).count();
    let mut suite = TestSuiteBuilder::new(&attribute(&format!(
        "{} {} in {}",
        story.release.service, story.release.version, story.release.environment
    )));
    suite.set_timestamp(moment(story.finished_at));
    suite.add_testcases(cases);
    let mut suite = suite.build();
    suite.hostname = attribute(&story.host);
    let mut report = Report::new();
    report.add_testsuite(suite);
    let mut bytes = Vec::new();
    let broken = |e: junit_report::Error| Fault::infrastructure("junit.xml cannot be written").cause(e);
    report.write_xml(&mut bytes).map_err(broken)?;
    Ok(with_skipped(bytes, skipped))
}

/// The suite's count of skipped cases, which the crate does not write. Attribute values are escaped,
/// so the first ` hostname="` is the suite's own.
fn with_skipped(bytes: Vec<u8>, skipped: usize) -> Vec<u8> {
    let mut text =
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    if let Some(at) = text.find(" hostname=\"") {
        text.insert_str(at, &format!(" skipped=\"{skipped}\""));
    }
    text.push('\n');
    text.into_bytes()
}

/// Names that were given out, so that no two cases share class and name.
#[derive(Default)]
struct Names(BTreeMap<(String, String), usize>);

impl Names {
    fn unique(&mut self, class: &str, name: &str) -> String {
        let mut wanted = name.to_owned();
        loop {
            let seen = self.0.entry((class.to_owned(), wanted.clone())).or_insert(0);
            *seen += 1;
            if *seen == 1 {
                return wanted;
            }
            let next = *seen;
            wanted = format!("{name} ({next})");
        }
    }
}

/// The release as a whole: it is always there, and an unfinished one is skipped, not passed.
fn outcome(story: &Story, names: &mut Names) -> TestCase {
    let name = names.unique("release", "the release is promoted");
    let said = match &story.opening.reason {
        Some(reason) => format!("{reason}\n{}", story.opening.headline),
        None => story.opening.headline.clone(),
    };
    let mut case = match (story.opening.outcome, story.opening.badge.tone) {
        ("promoted", "pass") => TestCaseBuilder::success(&name, Duration::ZERO),
        ("in_progress", _) => TestCaseBuilder::skipped_with_cause(&name, "in_progress", &attribute(&said)),
        (outcome, _) => TestCaseBuilder::failure(&name, Duration::ZERO, outcome, &attribute(&said)),
    };
    let said = (story.opening.badge.tone != "pass").then_some(said);
    finish(&mut case, story, "release", said)
}

/// A document that the plan asks for: where it is missing nothing is known, and that is no pass.
fn missing(story: &Story, file: &str, why: &str, names: &mut Names) -> TestCase {
    let name = names.unique("release", &attribute(&format!("{file} is there")));
    let mut case = TestCaseBuilder::failure(&name, Duration::ZERO, "missing", &attribute(why));
    finish(&mut case, story, "release", Some(why.to_owned()))
}

fn case(story: &Story, tool: &str, finding: &Finding, names: &mut Names) -> TestCase {
    let class = attribute(&format!("{tool}.{}", finding.kind));
    let name = names.unique(&class, &attribute(&finding.name));
    let time = milliseconds(finding.duration_ms);
    let said = says(finding);
    let (message, word) = (attribute(&said), finding.verdict.word());
    // A release that is under way has not failed.
    let unfinished = tool == "promote" && story.opening.outcome == "in_progress";
    let mut case = match (finding.verdict, finding.severity) {
        (Verdict::Pass, _) => TestCaseBuilder::success(&name, time),
        (Verdict::NoData, _) if unfinished => TestCaseBuilder::skipped_with_cause(&name, word, &message),
        (Verdict::Skipped, _) | (Verdict::NoData, Severity::Info) => {
            TestCaseBuilder::skipped_with_cause(&name, word, &message)
        }
        (Verdict::Error, Severity::Critical) => TestCaseBuilder::error(&name, time, word, &message),
        (_, Severity::Critical) => TestCaseBuilder::failure(&name, time, word, &message),
        // A warning must not turn the job red: it is a passed case that says so.
        (_, Severity::Warning | Severity::Info) => {
            let mut case = TestCaseBuilder::success(&name, time);
            case.set_system_out(&body(&format!("{word}: {said}")));
            case
        }
    };
    finish(&mut case, story, &class, Some(said))
}

/// Class, file, and the text of a case that did not pass.
fn finish(case: &mut TestCaseBuilder, story: &Story, class: &str, said: Option<String>) -> TestCase {
    case.set_classname(class);
    case.set_filepath(&attribute(&story.plan.path));
    let mut case = case.build();
    // The builder gives no text to a skipped case.
    if let TestResult::Error { cause, .. }
    | TestResult::Failure { cause, .. }
    | TestResult::SkippedWithCause { cause, .. } = &mut case.result
    {
        *cause = said.map(|text| body(&text)).filter(|text| !text.trim().is_empty());
    }
    case
}

/// What was seen, what was expected, and the sentence.
fn says(finding: &Finding) -> String {
    let observed = finding.observed.as_ref().map(|o| format!("observed {o}"));
    let expected = finding.expected.as_ref().map(|e| format!("expected {e}"));
    let message = (!finding.message.trim().is_empty()).then(|| finding.message.clone());
    let parts: Vec<String> = [message, observed, expected].into_iter().flatten().collect();
    if parts.is_empty() { finding.verdict.word().replace('_', " ") } else { parts.join("\n") }
}

/// Text for an attribute: one line, because XML readers turn line breaks there into spaces.
fn attribute(text: &str) -> String {
    let text = one_line(&clip(&plain(text), LONGEST));
    if text.is_empty() { "(unnamed)".into() } else { text }
}

/// Text for a CDATA section: `]]>` would end it, so it is split over two.
fn body(text: &str) -> String {
    clip(&plain(text), LONGEST).replace("]]>", "]]]]><![CDATA[>")
}

fn milliseconds(duration: f64) -> Duration {
    if duration.is_finite() && duration > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "a cast from f64 saturates")]
        let rounded = duration.round().min(1e12) as i64;
        Duration::milliseconds(rounded)
    } else {
        Duration::ZERO
    }
}

/// The moment of the suite. RFC 3339 knows the years 0 to 9999, and the crate insists on it.
fn moment(at: jiff::Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_second())
        .ok()
        .filter(|moment| (0..=9999).contains(&moment.year()))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
