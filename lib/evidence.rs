//! The documents, the chain, the digests.
//!
//! Every document opens with the same [`Head`]; what a tool alone has to say follows beside it. The
//! shapes here are the public contract: `docs/schemas/` is generated from them.

use std::path::Path;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::bounds;
use crate::fault::{Exit, Fault};
use crate::severity::Severity;
use crate::signature::{self, Distrust, Purpose, Signature, Signer, SigningKey, Trust};

mod bodies;
pub mod used;
pub use bodies::*;
pub use used::{Used, Values};

pub use crate::signature::hex;

/// The largest document in bytes that is read.
pub const MAX_DOCUMENT: u64 = 64 * 1024 * 1024;

/// The most values that a document may have: some hundred times those of a long release, and some 100 MiB of
/// memory.
const MAX_VALUES: usize = 1_000_000;

/// No signature is longer.
const MAX_SIGNATURE: usize = 4096;

/// The version of all five tools.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What every document opens with.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Head {
    /// `trapkey/TOOL/v1`.
    pub schema: String,
    /// Who wrote it.
    pub tool: ToolRef,
    /// What is released; null only where the plan could not be read.
    pub release: Option<Release>,
    /// The plan; null only where it could not be read.
    pub plan: Option<PlanRef>,
    /// The values of the plan's variables that it was made with, by digest.
    #[serde(default)]
    pub variables: Used,
    /// The documents that were consumed, by digest.
    pub needs: Vec<Need>,
    /// When, where and by whom.
    pub run: Run,
    /// What came of it.
    pub verdict: DocumentVerdict,
    /// The same in one sentence.
    pub summary: String,
    /// Every single observation.
    pub findings: Vec<Finding>,
    /// Who signed it, where it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// A document: the head, and what one tool alone has to say.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Document<B> {
    /// What every document has.
    #[serde(flatten)]
    pub head: Head,
    /// What this tool has to say.
    #[serde(flatten)]
    pub body: B,
}

/// What belongs to one kind of document.
pub trait Body: Serialize + DeserializeOwned + JsonSchema + Clone {
    /// The word in the schema's name: `preflight` for `trapkey/preflight/v1`.
    const NAME: &'static str;
    /// The tool that writes it.
    const TOOL: &'static str;
    /// The file in the evidence folder.
    const FILE: &'static str;
    /// Whose signature counts.
    const SIGNED_FOR: Purpose = Purpose::Evidence;

    /// The schema's name.
    fn schema() -> String {
        format!("trapkey/{}/v1", Self::NAME)
    }
}

/// Who wrote a document.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct ToolRef {
    /// `preflight`, `snapshot`, `promote`, `verify` or `report`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What is released, where.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Release {
    /// The service.
    pub service: String,
    /// The new version.
    pub version: String,
    /// The version that served before, where the plan names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Where it goes.
    pub environment: String,
    /// The commit, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The files that are released.
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
}

/// A released file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Artifact {
    /// Its path in the plan.
    pub name: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// The plan by digest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct PlanRef {
    /// Its path as given.
    pub path: String,
    /// The SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
}

/// A consumed document by digest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Need {
    /// Its file in the evidence folder.
    pub path: String,
    /// Its schema.
    pub schema: String,
    /// The SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
}

/// When, where and by whom.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// The start, RFC 3339 in UTC.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// The end.
    #[schemars(with = "String")]
    pub finished_at: Timestamp,
    /// The machine's name.
    pub host: String,
    /// The CI job, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<Ci>,
}

/// A CI job.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Ci {
    /// `github`, `gitlab`, `jenkins` or `generic`.
    pub provider: String,
    /// The page of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Who started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// What a document says as a whole.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum DocumentVerdict {
    /// The gate is open.
    Pass,
    /// The gate is closed.
    Fail,
    /// No data, too few samples; or still under way.
    Undecided,
    /// Something outside did not work, or the tool refused.
    Error,
}

impl DocumentVerdict {
    /// The word in the document.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Undecided => "undecided",
            Self::Error => "error",
        }
    }
}

/// What one finding says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As expected. The only one that opens a gate.
    Pass,
    /// Not as expected.
    Fail,
    /// Nothing was seen.
    NoData,
    /// Too little was seen.
    TooFewSamples,
    /// It could not be looked at.
    Error,
    /// It was not looked at, because something that it needs did not pass.
    Skipped,
}

impl Verdict {
    /// The word in the document.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NoData => "no_data",
            Self::TooFewSamples => "too_few_samples",
            Self::Error => "error",
            Self::Skipped => "skipped",
        }
    }
}

/// One observation, the same whichever check, judge or drill made it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Its name in the plan.
    pub name: String,
    /// The kind of check.
    pub kind: String,
    /// How much it weighs.
    pub severity: Severity,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen, as people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// What should have been seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was seen before (a baseline, the other side), as people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// The figure behind `observed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The unit of `value`: `ms`, `%`, `B`, `1/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How many samples stand behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// One sentence for people.
    pub message: String,
    /// The start, RFC 3339 in UTC.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// How many attempts were made.
    pub attempts: u32,
    /// Passed, but not at the first attempt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
    /// Compliance controls that it gives evidence for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<String>,
    /// What stands behind it: attempts, figures, digests.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub evidence: Value,
}

impl Finding {
    /// A finding with its head filled and everything else empty.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, verdict: Verdict, at: Timestamp) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            severity: Severity::Critical,
            verdict,
            observed: None,
            expected: None,
            baseline: None,
            value: None,
            unit: None,
            samples: None,
            message: String::new(),
            started_at: at,
            duration_ms: 0.0,
            attempts: 1,
            flaky: false,
            controls: Vec::new(),
            evidence: Value::Null,
        }
    }

    /// Sets what people read.
    #[must_use]
    pub fn says(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Whether it keeps the gate from opening.
    pub fn closes(&self) -> bool {
        self.severity == Severity::Critical && self.verdict != Verdict::Pass
    }
}

/// What the findings say together: any critical failure closes, any critical error is an error,
/// anything else critical that did not pass leaves it undecided. An empty list is undecided, for
/// silence is not health.
pub fn verdict_of(findings: &[Finding]) -> DocumentVerdict {
    let critical = || findings.iter().filter(|f| f.severity == Severity::Critical).map(|f| f.verdict);
    if findings.is_empty() {
        DocumentVerdict::Undecided
    } else if critical().any(|v| v == Verdict::Fail) {
        DocumentVerdict::Fail
    } else if critical().any(|v| v == Verdict::Error) {
        DocumentVerdict::Error
    } else if critical().all(|v| v == Verdict::Pass) {
        DocumentVerdict::Pass
    } else {
        DocumentVerdict::Undecided
    }
}

/// The exit code that belongs to a document's verdict.
pub fn exit_of(verdict: DocumentVerdict) -> Exit {
    match verdict {
        DocumentVerdict::Pass => Exit::Pass,
        DocumentVerdict::Fail => Exit::Closed,
        DocumentVerdict::Undecided => Exit::Undecided,
        DocumentVerdict::Error => Exit::Infrastructure,
    }
}

/// The SHA-256 of some bytes in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The bytes of a document as they go to disk: its free text redacted, signed where there is a key, with a newline
/// at the end.
pub fn to_bytes<B: Body>(document: &Document<B>, key: Option<&SigningKey>) -> Result<Vec<u8>, Fault> {
    let broken =
        |e: serde_json::Error| Fault::infrastructure("the evidence document cannot be written").cause(e);
    let mut value = serde_json::to_value(document).map_err(broken)?;
    if let Value::Object(keys) = &mut value {
        // A document that was read and is written again is no longer what was signed.
        keys.shift_remove("signature");
    }
    crate::redact::redact_json(&mut value);
    let write = |signature: Option<&Signature>| {
        let mut value = value.clone();
        if let (Value::Object(keys), Some(signature)) = (&mut value, signature) {
            keys.insert("signature".into(), serde_json::to_value(signature).map_err(broken)?);
        }
        // Documents end up in logs, where a CI system reads along.
        let mut bytes = crate::plain::harmless_json(&serde_json::to_vec_pretty(&value).map_err(broken)?);
        bytes.push(b'\n');
        Ok(bytes)
    };
    match key {
        // What is signed is what was redacted before, to the byte.
        Some(key) => key.sign(|signature| write(Some(signature))),
        None => write(None),
    }
}

/// A document that was read from the folder, with the digest of its bytes.
#[derive(Clone, Debug)]
pub struct Found<B> {
    /// The document.
    pub document: Document<B>,
    /// How the next document names it.
    pub need: Need,
    /// Who signed it, where it is signed.
    pub signer: Option<Signer>,
}

/// What a consumer asks of a document before it uses it.
pub struct Asked<'a> {
    /// The plan in force.
    pub plan: &'a PlanRef,
    /// The release in force.
    pub release: &'a Release,
    /// The moment of use.
    pub now: Timestamp,
    /// The greatest age in seconds, where there is a limit.
    pub max_age: Option<f64>,
    /// The values of the plan's variables.
    pub values: &'a Values,
}

/// Reads a document from the evidence folder.
///
/// Errors: refused (5) when it is missing, over 64 MiB, not JSON, of another schema, or, with a trust,
/// not signed by a key that counts.
pub fn read<B: Body>(folder: &Path, trust: Option<&Trust>) -> Result<Found<B>, Fault> {
    read_file(folder, B::FILE, trust)
}

/// Reads a document that lies in the evidence folder under a name of its own.
///
/// Errors: as [`read`].
pub fn read_file<B: Body>(folder: &Path, file: &str, trust: Option<&Trust>) -> Result<Found<B>, Fault> {
    let path = folder.join(file);
    let place = path.display().to_string();
    let missing = |e: std::io::Error| {
        let what = if e.kind() == std::io::ErrorKind::NotFound {
            format!("the evidence `{file}` is missing")
        } else {
            format!("the evidence `{file}` cannot be read")
        };
        Fault::refused(what).place(&place).cause(e).help(run_first::<B>())
    };
    let bytes = bounds::whole(&path, MAX_DOCUMENT).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => {
            Fault::refused(format!("the evidence `{file}` is larger than 64 MiB")).place(&place)
        }
        _ => missing(error),
    })?;
    parse(&bytes, file, trust).map_err(|fault| fault.place(place))
}

/// Takes a document from its bytes; `file` is the name that it has in the evidence folder.
///
/// Errors: refused (5) as in [`read`], with that name as its place.
pub fn parse<B: Body>(bytes: &[u8], file: &str, trust: Option<&Trust>) -> Result<Found<B>, Fault> {
    let garbled = |e: &dyn std::fmt::Display| {
        Fault::refused(format!("the evidence `{file}` is not a document of `{}`", B::schema()))
            .place(file)
            .cause(e)
            .help(run_first::<B>())
    };
    // Before anything is believed nothing is kept but these two: a tree of all values takes thirty times the
    // memory of its text.
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| garbled(&e))?;
    let signature = envelope.signature.map(|raw| raw.get().to_owned());
    let signature: Option<Value> = match signature {
        Some(text) if text.len() > MAX_SIGNATURE => return Err(garbled(&"its signature is none")),
        Some(text) => Some(serde_json::from_str(&text).map_err(|e| garbled(&e))?),
        None => None,
    };
    let signer = match trust {
        Some(trust) => Some(
            trust
                .verify(bytes, signature.as_ref(), B::SIGNED_FOR)
                .map_err(|why| distrusted(&why, file, trust).place(file))?,
        ),
        None => signature::claimed(signature.as_ref()),
    };
    let schema = envelope.schema.as_deref().unwrap_or("none");
    if schema != B::schema() {
        let schema = crate::redact::redact(&schema.chars().take(100).collect::<String>());
        return Err(garbled(&format!("its schema is `{schema}`; known here is `{}`", B::schema())));
    }
    // One after the other, so that the head is read by the same code for every kind of document.
    let head: Head = bounds::json(bytes, MAX_VALUES).map_err(|e| garbled(&e))?;
    let document = Document { head, body: serde_json::from_slice(bytes).map_err(|e| garbled(&e))? };
    let need = Need { path: file.into(), schema: B::schema(), sha256: sha256_hex(bytes) };
    Ok(Found { document, need, signer })
}

/// What is read of a document before it is believed; of one that is something else altogether, nothing.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow)]
    schema: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    signature: Option<&'a serde_json::value::RawValue>,
}

fn run_first<B: Body>() -> String {
    format!("run `{}` first, and pass the evidence folder on between jobs", B::TOOL)
}

/// The refusal of a document whose signature does not count.
fn distrusted(why: &Distrust, file: &str, trust: &Trust) -> Fault {
    let trusted = || format!("trusted are {}", trust.names().join(", "));
    match why {
        Distrust::Unsigned => Fault::refused(format!("the evidence `{file}` is not signed"))
            .help("run the tool that writes it with --sign-key, or leave --trust out"),
        Distrust::Changed => Fault::refused(format!("the evidence `{file}` was changed after it was signed"))
            .cause("the signature does not fit the bytes of the file")
            .help("find out who changed it; then run the tool that writes it again"),
        Distrust::Stranger(key) => {
            Fault::refused(format!("the evidence `{file}` is signed by a key that is not trusted"))
                .cause(format!("it names the key {}; {}", crate::redact::redact(key), trusted()))
                .help("sign with a key whose public part is in the folder of --trust, or put it there")
        }
        Distrust::ApproverOnly(name) => Fault::refused(format!(
            "the evidence `{file}` is signed by a key that is not trusted with evidence"
        ))
        .cause(format!("the key of {name} is in `approvers`, and counts for approvals only"))
        .help("sign with the key of the CI job"),
    }
}

impl<B: Body> Found<B> {
    /// Refuses (5) a document of another plan, another release, or too old.
    pub fn fits(&self, asked: &Asked<'_>) -> Result<(), Fault> {
        let (head, file) = (&self.document.head, &self.need.path);
        let again = format!("run `{}` again for this release", B::TOOL);
        let refuse = |what: String| Fault::refused(what).place(file).help(&again);
        match &head.plan {
            Some(plan) if plan.sha256 == asked.plan.sha256 => {}
            Some(plan) => {
                return Err(refuse(format!("`{file}` was made under another plan")).cause(format!(
                    "its plan has sha256 {}, the plan in force {}",
                    short(&plan.sha256),
                    short(&asked.plan.sha256)
                )));
            }
            None => return Err(refuse(format!("`{file}` names no plan"))),
        }
        match &head.release {
            Some(release) if same_release(release, asked.release) => {}
            Some(release) => {
                return Err(refuse(format!("`{file}` is about another release")).cause(format!(
                    "it speaks of {}, this is {}",
                    name_release(release),
                    name_release(asked.release)
                )));
            }
            None => return Err(refuse(format!("`{file}` names no release"))),
        }
        let differ = head.variables.differ_from(asked.values);
        if !differ.is_empty() {
            let again = format!("give every job the same values, or {again} with these");
            let (what, then) = (format!("`{file}` was made"), format!("in `{file}`"));
            return Err(used::refuse_other_values(&what, &differ, (&then, "here"), &again).place(file));
        }
        let age = (asked.now.as_millisecond() - head.run.finished_at.as_millisecond()) as f64 / 1e3;
        if age < -300.0 {
            return Err(refuse(format!("`{file}` comes from the future"))
                .cause(format!("it was finished at {}, it is {} now", head.run.finished_at, asked.now)));
        }
        if let Some(limit) = asked.max_age.filter(|limit| age > *limit) {
            return Err(refuse(format!("`{file}` is stale")).cause(format!(
                "it is {} old, the plan allows {}",
                crate::units::show_duration(age),
                crate::units::show_duration(limit)
            )));
        }
        Ok(())
    }

    /// Refuses (5) a document that did not pass.
    pub fn passed(&self) -> Result<(), Fault> {
        let (head, file) = (&self.document.head, &self.need.path);
        if head.verdict == DocumentVerdict::Pass {
            return Ok(());
        }
        Err(Fault::refused(format!("`{file}` did not pass: its verdict is `{}`", head.verdict.word()))
            .place(file)
            .cause(&head.summary)
            .help(format!("mend what it names and run `{}` again", B::TOOL)))
    }

    /// Refuses (5) when this document was not made from exactly that parent.
    pub fn comes_from(&self, parent: &Need) -> Result<(), Fault> {
        let again = format!("run `{}` again, on the evidence that stands in the folder now", B::TOOL);
        let file = &self.need.path;
        match self.document.head.needs.iter().find(|need| need.path == parent.path) {
            Some(need) if need.sha256 == parent.sha256 => Ok(()),
            Some(need) => Err(Fault::refused(format!("the link {file} -> {} is broken", parent.path))
                .place(&parent.path)
                .cause(format!(
                    "`{file}` was made from a `{}` with sha256 {}, the one in the folder has {}",
                    parent.path,
                    short(&need.sha256),
                    short(&parent.sha256)
                ))
                .help(again)),
            None => Err(Fault::refused(format!("the link {file} -> {} is missing", parent.path))
                .place(file)
                .cause(format!("`{file}` does not name `{}` among its needs", parent.path))
                .help(again)),
        }
    }
}

/// The first characters of a digest, enough to tell two apart.
pub fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

/// `shop 1.4.2 in production`.
pub fn name_release(release: &Release) -> String {
    format!("{} {} in {}", release.service, release.version, release.environment)
}

/// Whether two documents are about the same release; a tool that is called by hand knows no commit.
pub fn same_release(a: &Release, b: &Release) -> bool {
    a.service == b.service
        && a.version == b.version
        && a.environment == b.environment
        && a.artifacts == b.artifacts
        && (a.commit == b.commit || a.commit.is_none() || b.commit.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERDICTS: &[Verdict] = &[
        Verdict::Pass,
        Verdict::Fail,
        Verdict::NoData,
        Verdict::TooFewSamples,
        Verdict::Error,
        Verdict::Skipped,
    ];

    fn finding(verdict: Verdict, severity: Severity) -> Finding {
        let mut finding = Finding::new("a", "b", verdict, Timestamp::UNIX_EPOCH);
        finding.severity = severity;
        finding
    }

    #[test]
    fn only_a_critical_pass_keeps_the_gate_open() {
        for verdict in VERDICTS {
            assert_eq!(finding(*verdict, Severity::Critical).closes(), *verdict != Verdict::Pass);
            assert!(!finding(*verdict, Severity::Warning).closes());
            assert!(!finding(*verdict, Severity::Info).closes());
        }
    }

    #[test]
    fn a_document_passes_only_when_everything_critical_passed() {
        assert_eq!(verdict_of(&[]), DocumentVerdict::Undecided, "silence is not health");
        let pass = || finding(Verdict::Pass, Severity::Critical);
        for verdict in VERDICTS {
            let expected = match verdict {
                Verdict::Pass => DocumentVerdict::Pass,
                Verdict::Fail => DocumentVerdict::Fail,
                Verdict::Error => DocumentVerdict::Error,
                _ => DocumentVerdict::Undecided,
            };
            assert_eq!(verdict_of(&[pass(), finding(*verdict, Severity::Critical)]), expected);
            assert_eq!(verdict_of(&[pass(), finding(*verdict, Severity::Warning)]), DocumentVerdict::Pass);
        }
        let both = [finding(Verdict::Error, Severity::Critical), finding(Verdict::Fail, Severity::Critical)];
        assert_eq!(verdict_of(&both), DocumentVerdict::Fail, "a failure is graver than an error");
    }

    fn release(commit: Option<&str>) -> Release {
        Release {
            service: "shop".into(),
            version: "1.1".into(),
            previous: None,
            environment: "production".into(),
            commit: commit.map(Into::into),
            artifacts: vec![Artifact { name: "shop.tar".into(), sha256: "a".into() }],
        }
    }

    #[test]
    fn releases_are_the_same_only_when_their_commits_are() {
        assert!(same_release(&release(Some("c0ffee")), &release(Some("c0ffee"))));
        assert!(!same_release(&release(Some("c0ffee")), &release(Some("decaf0"))));
        // A tool that is called by hand knows no commit.
        assert!(same_release(&release(Some("c0ffee")), &release(None)));
    }

    fn found(finished_at: &str, plan: &PlanRef) -> Found<PreflightBody> {
        let at: Timestamp = finished_at.parse().unwrap();
        let head = Head {
            schema: PreflightBody::schema(),
            tool: ToolRef { name: "preflight".into(), version: VERSION.into() },
            release: Some(release(None)),
            plan: Some(plan.clone()),
            variables: Used::default(),
            needs: Vec::new(),
            run: Run { started_at: at, finished_at: at, host: "h".into(), ci: None },
            verdict: DocumentVerdict::Pass,
            summary: String::new(),
            findings: Vec::new(),
            signature: None,
        };
        let need = Need { path: PreflightBody::FILE.into(), schema: String::new(), sha256: String::new() };
        Found { document: Document { head, body: PreflightBody::default() }, need, signer: None }
    }

    #[test]
    fn the_age_is_the_time_since_the_end_of_the_run() {
        let plan = PlanRef { path: "release.yaml".into(), sha256: "p".into() };
        let release = release(None);
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let values = Values::default();
        let asked = Asked { plan: &plan, release: &release, now, max_age: Some(60.0), values: &values };
        for (finished_at, word) in [
            ("2026-01-01T11:59:00.000Z", None),
            ("2026-01-01T11:58:59.999Z", Some("stale")),
            // Clocks of two machines differ a little.
            ("2026-01-01T12:05:00Z", None),
            ("2026-01-01T12:05:00.001Z", Some("future")),
            ("-009999-01-02T01:59:59Z", Some("stale")),
            ("9999-12-30T22:00:00Z", Some("future")),
        ] {
            let told = found(finished_at, &plan).fits(&asked).err().map(|fault| fault.to_string());
            assert_eq!(told.is_some(), word.is_some(), "{finished_at}: {told:?}");
            assert!(told.unwrap_or_default().contains(word.unwrap_or_default()), "{finished_at}");
        }
    }
}
