//! What each tool alone has to say, beside the head that all documents share.
//!
//! Times are RFC 3339 in UTC, durations milliseconds (`…_ms`) or seconds (`…_s`), shares and weights
//! numbers in 0..=1, latencies milliseconds.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Body, Verdict};
use crate::signature::Purpose;

macro_rules! body {
    ($type:ty, $name:literal, $tool:literal) => {
        impl Body for $type {
            const NAME: &'static str = $name;
            const TOOL: &'static str = $tool;
            const FILE: &'static str = concat!($name, ".json");
        }
    };
}

/// preflight.json: the checks are the findings; this counts them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PreflightBody {
    /// How many checks there were, and how they ended.
    pub counts: Counts,
}
body!(PreflightBody, "preflight", "preflight");

/// How many checks there were, and how they ended.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub total: usize,
    /// As expected.
    pub passed: usize,
    /// Critical ones that did not pass, for whatever reason.
    pub closing: usize,
    /// Others that did not pass.
    pub warnings: usize,
}

impl Counts {
    /// Counts findings.
    pub fn of(findings: &[super::Finding]) -> Self {
        let passed = findings.iter().filter(|f| f.verdict == Verdict::Pass).count();
        let closing = findings.iter().filter(|f| f.closes()).count();
        Self { total: findings.len(), passed, closing, warnings: findings.len() - passed - closing }
    }

    /// `20 of 21 checks passed, 1 warning`.
    pub fn sentence(&self) -> String {
        let mut text = format!("{} of {} checks passed", self.passed, self.total);
        if self.closing > 0 {
            text.push_str(&format!(", {} critical did not", self.closing));
        }
        match self.warnings {
            0 => {}
            1 => text.push_str(", 1 warning"),
            n => text.push_str(&format!(", {n} warnings")),
        }
        text
    }
}

/// snapshot.json: what was backed up, and the proof that it can be read back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotBody {
    /// The snapshot; null when none was kept.
    pub snapshot: Option<SnapshotRecord>,
}
body!(SnapshotBody, "snapshot", "snapshot");

/// One snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotRecord {
    /// Its id in the repository; restic knows it by the same.
    pub id: String,
    /// Where it lies.
    pub store: String,
    /// The id of the repository there.
    pub repository: String,
    /// When it was begun, RFC 3339 in UTC.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// `whole`, or `partial` where a source went without something, as the plan allows it.
    pub state: SnapshotState,
    /// Why the store has no passphrase of its own, where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_encrypted_because: Option<String>,
    /// What is in it.
    pub sources: Vec<SourceRecord>,
    /// Files in all sources.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that the repository did not have before, as the sources gave them.
    pub added_bytes: u64,
    /// The same as they lie there, compressed and encrypted.
    pub stored_bytes: u64,
    /// The packs that were written, each read back and compared.
    pub packs_proven: u64,
    /// When everything had been read back and compared.
    #[schemars(with = "Option<String>")]
    pub proven_at: Option<Timestamp>,
    /// How long reading and storing took.
    pub backup_ms: f64,
    /// How long reading back and comparing took.
    pub proof_ms: f64,
    /// The exact command that restores it.
    pub restore_command: String,
    /// The same with plain restic, which asks for the passphrase where it is not in `RESTIC_PASSWORD`.
    pub restic_command: String,
}

/// Whether everything is in a snapshot, or in a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// All that the plan names.
    #[default]
    Whole,
    /// Something is missing, and the plan allows it.
    Partial,
}

/// One source inside a snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SourceRecord {
    /// Its name in the plan.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What was backed up, secrets left out.
    pub target: String,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// The SHA-256 over the source's lines in the snapshot's `SHA256SUMS`.
    pub sha256: String,
    /// Whether all of it is there.
    pub state: SnapshotState,
    /// What is missing or was noticed, in sentences; at most a hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether everything was read back and compared.
    pub proven: bool,
    /// How it was proven, in one sentence.
    pub proof: String,
    /// Rows and sums per table, for sources that have them: what `verify` checks after a rollback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableRecord>,
    /// What its kind adds (server version, weights, …).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// Rows and sums of one table at the moment of the snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct TableRecord {
    /// The table.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// The summed column, where the plan names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_of: Option<String>,
    /// Its sum as the database prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
    /// The ever growing column, where the plan names one: rows up to `up_to` must stay as they are,
    /// later ones may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The greatest key at the moment of the snapshot, as the database prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<String>,
}

/// drill.json: whether the way back works, how long it takes, and how much would be lost.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DrillBody {
    /// The drill; null when nothing was restored.
    pub drill: Option<DrillRecord>,
}
body!(DrillBody, "drill", "snapshot");

/// One drill.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DrillRecord {
    /// The snapshot that was restored.
    pub snapshot: String,
    /// Where it lies.
    pub store: String,
    /// When it was begun.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// The version that was about to be released then.
    pub version: String,
    /// How old it was when the drill began, in seconds: what would be lost.
    pub age_s: f64,
    /// The plan's recovery point objective in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_s: Option<f64>,
    /// From the beginning of the restore until the last check had ended; null when the restore did not
    /// come to its end.
    pub recovery_ms: Option<f64>,
    /// The plan's recovery time objective in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_s: Option<f64>,
    /// The part of it for restoring files and comparing them with the manifest.
    pub restore_ms: f64,
    /// The part of it for starting scratch servers, restoring into them and comparing rows and sums.
    pub databases_ms: f64,
    /// The part of it for the plan's checks.
    pub checks_ms: f64,
    /// Files that were restored, each compared with the manifest.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was done with each source.
    pub sources: Vec<DrilledSource>,
    /// How many of the plan's checks there were, and how they ended.
    pub checks: Counts,
}

/// One source in a drill.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct DrilledSource {
    /// Its name in the plan.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether it ran again in a server of its own.
    pub started: bool,
    /// What was done, in one sentence.
    pub done: String,
}

/// baseline.json: how the service behaved before.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct BaselineBody {
    /// One record for each probe of the plan.
    pub probes: Vec<ProbeRecord>,
}
body!(BaselineBody, "baseline", "verify");

/// What one probe measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProbeRecord {
    /// Its name in the plan.
    pub name: String,
    /// What was asked, secrets left out.
    pub url: String,
    /// Requests sent.
    pub requests: u64,
    /// Requests without a good answer (not 2xx or 3xx, no answer, too late).
    pub errors: u64,
    /// How long it was measured, in seconds.
    pub window_s: f64,
    /// Median latency of answered requests in ms; null without any.
    pub p50: Option<f64>,
    /// 95th percentile in ms.
    pub p95: Option<f64>,
    /// 99th percentile in ms.
    pub p99: Option<f64>,
    /// Every latency in ms, rounded to µs, in the order of the requests.
    pub latencies: Vec<f64>,
}

/// promote.json: how traffic moved, who decided what, on which figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PromoteBody {
    /// The promotion; null when nothing was begun.
    pub promotion: Option<Promotion>,
}
body!(PromoteBody, "promote", "promote");

/// How a promotion stands.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Still under way.
    InProgress,
    /// The new side has all traffic.
    Promoted,
    /// The old side has all traffic again.
    RolledBack,
    /// Nothing moves until somebody decides: both sides are sick, or the router cannot be reached.
    Frozen,
}

/// A whole promotion.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Promotion {
    /// The number of this release in its environment, rising by one.
    pub epoch: u64,
    /// The promotion again, by chance: numbers begin anew where the promote state was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `canary` or `blue_green`.
    pub strategy: String,
    /// The router: its kind and where it is, secrets left out.
    pub router: RouterRecord,
    /// The old side.
    pub blue: SideRecord,
    /// The new side.
    pub green: SideRecord,
    /// How it stands.
    pub outcome: Outcome,
    /// Why it was rolled back or frozen, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The plan's steps, and how far each got.
    pub steps: Vec<StepRecord>,
    /// Every change of weight: asked, read back, probed.
    pub shifts: Vec<Shift>,
    /// Every judgement.
    pub judgements: Vec<Judgement>,
    /// What both sides did, interval by interval.
    pub series: Vec<Interval>,
    /// Every decision, by whom.
    pub decisions: Vec<Decision>,
    /// Every hook that ran.
    pub hooks: Vec<HookRecord>,
    /// The rollback, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackRecord>,
    /// Green's share of traffic at the end, asked.
    pub weight: f64,
    /// What stands before the next step, where only that is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What the checks of the idle side saw before it got any traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<super::Finding>,
    /// Every approval that opened a gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalRecord>,
    /// The samples behind the judgements; null while the promotion is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<SamplesRecord>,
    /// When a waiting job should look again; after the promotion, until when the old side is kept.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What a reload or a restart of the router would make of the split, where that is not what is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_reload: Option<AfterReloadRecord>,
    /// What else of the router's configuration leads to the old side: whoever comes that way is cut when it is taken down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_ways: Vec<OtherWayRecord>,
}

/// Something of the router's configuration, besides the split, that leads to the old side.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct OtherWayRecord {
    /// What it is.
    pub name: String,
    /// Where it is: an address, a file with its line, a path in the configuration.
    pub place: String,
}

/// What a reload of the router would make of the split.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct AfterReloadRecord {
    /// Green's share then.
    pub green: f64,
    /// The lines of its configuration that have to change, each with what it says now.
    pub change: Vec<String>,
}

/// An approval that opened a gate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct ApprovalRecord {
    /// The step, from 1.
    pub step: usize,
    /// The role that approved.
    pub role: String,
    /// Who: the name of the key that signed.
    pub who: String,
    /// When the approval was signed.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Why, where they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it counts; null for as long as the promotion lasts.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The document, in the evidence folder.
    pub document: String,
    /// The SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
}

/// The router.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouterRecord {
    /// Its kind.
    pub kind: String,
    /// Where it is, secrets left out.
    pub target: String,
    /// Which router it is and which servers are its sides: a plan that says something else here steers another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<String>,
    /// How one goes back by hand when no Trapkey is at hand: exact commands.
    pub by_hand: Vec<String>,
    /// What a weight is a share of, in words; none where it is requests, each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
}

/// One side.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SideRecord {
    /// Its own address, secrets left out.
    pub url: String,
    /// The version that it serves, as its release header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// One step of the plan, and how far it got.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StepRecord {
    /// Green's share, asked.
    pub weight: f64,
    /// How long it was to be watched, in seconds.
    pub bake_s: f64,
    /// When its weight was in force.
    #[schemars(with = "Option<String>")]
    pub began_at: Option<Timestamp>,
    /// When it was over.
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// What came of it; null when it was not reached or is under way.
    pub verdict: Option<Verdict>,
}

/// One change of weight.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Shift {
    /// Why: `step 2`, `rollback`, `reconcile`.
    pub why: String,
    /// When it was asked for.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Green's share, asked.
    pub asked: f64,
    /// Green's share, read back from the router.
    pub read_back: f64,
    /// How long setting and reading back took.
    pub set_ms: f64,
    /// What requests through the router met; null where none could be asked.
    pub probed: Option<Probed>,
    /// Why none could be asked, on a way back: then what the router reads back counts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
}

/// What requests through the router met.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Probed {
    /// Requests sent.
    pub requests: u64,
    /// Answered by green, by the release header.
    pub green: u64,
    /// Answered by blue.
    pub blue: u64,
    /// Answered without a known release header, or not at all.
    pub unknown: u64,
    /// How long it took.
    pub took_ms: f64,
}

/// One judgement of a bake.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// The step, from 1.
    pub step: usize,
    /// The beginning of the judged window.
    #[schemars(with = "String")]
    pub window_from: Timestamp,
    /// What came of it.
    pub verdict: Verdict,
    /// One sentence.
    pub summary: String,
    /// Metric by metric.
    pub metrics: Vec<MetricRecord>,
    /// The weighted score in 0..=100, where the plan asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// How many servers of each side the probes have met, where the plan names the header that tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Servers>,
    /// What requests through the front door met since the counting of the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_door: Option<FrontDoor>,
}

/// What requests through the front door met, and how many users were on green.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct FrontDoor {
    /// How many were asked.
    pub requests: u64,
    /// Answered by blue.
    pub blue: u64,
    /// Answered by green.
    pub green: u64,
    /// Answered by neither, or not at all.
    pub nobody: u64,
    /// What the last of these was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsigned: Option<String>,
    /// Users' requests on green by the router's counters, at least; null where it does not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users_on_green: Option<u64>,
}

/// How many different servers answered for each side, as far as the job that looked has met them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Servers {
    /// Of the old side.
    pub blue: u64,
    /// Of the new side.
    pub green: u64,
}

/// The samples behind all judgements, kept beside the document.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct SamplesRecord {
    /// The file, in the evidence folder: JSON lines, compressed with gzip.
    pub file: String,
    /// The SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
    /// How many looks are in it.
    pub looks: u64,
    /// What is missing, where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

/// How a metric was tested: enough to do it again by hand.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct TestRecord {
    /// `fisher`, `mann_whitney`, `quantile`, `tail`, `kayenta`: the test that the verdict rests on.
    pub name: String,
    /// Its statistic: U, or green's events.
    pub statistic: Option<f64>,
    /// Its one-sided p-value: green is worse.
    pub p_value: Option<f64>,
    /// What the p-value must not exceed at this look, so that all looks together keep the stated rate
    /// of false alarms.
    pub level: Option<f64>,
    /// By how much green is worse: a difference of shares, ms, or the metric's own unit; negative where
    /// green is better.
    pub effect: Option<f64>,
    /// Its interval: the lower end.
    pub effect_low: Option<f64>,
    /// Its interval: the upper end.
    pub effect_high: Option<f64>,
    /// The confidence of the interval, in 0..=1.
    pub confidence: f64,
    /// How much worse green may be, in the unit of the effect.
    pub tolerance: Option<f64>,
    /// Windows of time on green that were compared.
    pub windows: Option<u64>,
    /// How much more than independent requests would, the counts spread from window to window: samples
    /// are divided by it before they are tested. 1 where they are independent.
    pub spread: Option<f64>,
}

/// One metric in a judgement.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MetricRecord {
    /// `error_rate`, `latency_p95`, …
    pub metric: String,
    /// Where the figures come from: `probe`, `haproxy`.
    pub source: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Green's figure (share, or ms); null without data.
    pub green: Option<f64>,
    /// Blue's figure in the same window.
    pub blue: Option<f64>,
    /// `%` for shares (the figures are shares in 0..=1), `ms` for latencies.
    pub unit: String,
    /// The condition as the plan has it.
    pub threshold: String,
    /// Samples on green.
    pub green_samples: u64,
    /// Samples on blue.
    pub blue_samples: u64,
    /// One sentence.
    pub message: String,
    /// What came of it, more closely than the verdict: `pass`, `fires`, `no_data`, `one_side_empty`,
    /// `too_few_samples`, `too_few_windows`, `unequal_sizes`, `not_a_number`, `infinite`, `constant`,
    /// `late_data`, `query_error`, `not_yet` (a threshold is crossed, but not for long enough).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// The query, where the source was asked one; secrets left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// How it was tested, for comparisons of the sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestRecord>,
}

/// What both sides did in one interval.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// Its end.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Green's share of traffic during it, asked.
    pub weight: f64,
    /// Green's share of requests by the router's own counters, where it has them.
    pub observed: Option<f64>,
    /// Where the figures come from: `probe`, `haproxy`.
    pub source: String,
    /// Blue.
    pub blue: SideInterval,
    /// Green.
    pub green: SideInterval,
}

/// What one side did in one interval.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SideInterval {
    /// Requests.
    pub requests: u64,
    /// Failed ones.
    pub errors: u64,
    /// Median latency in ms, where the source has it.
    pub p50: Option<f64>,
    /// 95th percentile in ms, where the source has it.
    pub p95: Option<f64>,
    /// 99th percentile in ms, where the source has it.
    pub p99: Option<f64>,
    /// Mean in ms, where the source has it.
    pub mean: Option<f64>,
    /// Maximum in ms, where the source has it.
    pub max: Option<f64>,
}

/// A decision.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// By whom: `trapkey`, or the person or job that called.
    pub who: String,
    /// What, in one sentence.
    pub what: String,
}

/// A hook that ran.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HookRecord {
    /// `deploy`, `after` or `on_rollback`.
    pub hook: String,
    /// The command, secrets left out.
    pub command: String,
    /// Its exit status; null when it did not end by itself.
    pub exit: Option<i32>,
    /// How long it took.
    pub duration_ms: f64,
    /// The end of what it printed, secrets left out.
    pub output: String,
}

/// The rollback.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RollbackRecord {
    /// When it was decided.
    #[schemars(with = "String")]
    pub decided_at: Timestamp,
    /// When the router said that green has nothing.
    #[schemars(with = "Option<String>")]
    pub read_back_at: Option<Timestamp>,
    /// When the bad side was fully out of service, its connections drained or closed.
    #[schemars(with = "Option<String>")]
    pub drained_at: Option<Timestamp>,
    /// From the decision to the read-back, in ms.
    pub took_ms: Option<f64>,
}

/// approval.ROLE.STEP.json: what somebody in a role approved; it counts only when it is signed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalBody {
    /// The approval; null when there was none.
    pub approval: Option<Approval>,
}

impl Body for ApprovalBody {
    const NAME: &'static str = "approval";
    const TOOL: &'static str = "promote approve";
    /// One file for each role and step: [`ApprovalBody::file`].
    const FILE: &'static str = "approval.ROLE.STEP.json";
    const SIGNED_FOR: Purpose = Purpose::Approval;
}

impl ApprovalBody {
    /// The file in the evidence folder for a role and a step, from 1.
    pub fn file(role: &str, step: usize) -> String {
        format!("approval.{role}.{step}.json")
    }

    /// The role of a file in the evidence folder; none where it is not an approval's.
    pub fn role_of(file: &str) -> Option<&str> {
        let (role, step) = file.strip_prefix("approval.")?.strip_suffix(".json")?.rsplit_once('.')?;
        (is_role(role) && step.parse::<usize>().is_ok()).then_some(role)
    }
}

/// Whether a text can be the name of a role: letters, digits, `_` and `-`.
pub fn is_role(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// What somebody in a role approved.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Approval {
    /// The promotion: its number in the environment.
    pub epoch: u64,
    /// The promotion again, by chance: numbers begin anew where the promote state was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<String>,
    /// The step, from 1; null for every step of this promotion that asks the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// The role.
    pub role: String,
    /// Who approved, as the calling job or shell says; what counts is whose key signed.
    pub who: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it counts; null for as long as the promotion lasts.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// verify.json: whether it held.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct VerifyBody {
    /// Which side is live: `green` after a promotion, `blue` after a rollback; null without promote.json.
    pub live: Option<String>,
    /// Whether this looked at the old side after a rollback.
    pub after_rollback: bool,
    /// Every probe against its baseline.
    pub comparisons: Vec<Comparison>,
    /// What was asked of every metric, and how it was judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricVerified>,
    /// How many checks there were, and how they ended.
    pub counts: Counts,
}
body!(VerifyBody, "verify", "verify");

/// One thing that was asked of one metric. Figures are in the metric's recorded unit: ms for durations,
/// shares in 0..=1, anything else as it came.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MetricVerified {
    /// The metric's name in the plan.
    pub metric: String,
    /// What was asked: a line of `expect` such as `p95`, or `compare`, `trend`, `anomaly`, `level`.
    pub asked: String,
    /// The kind of source.
    pub source: String,
    /// What came of it; the finding of the same name says so too.
    pub verdict: Verdict,
    /// The same more closely: `pass`, `fail`, `no_data`, `too_few_samples`, `not_a_number`, `infinite`,
    /// `constant`, `late_data`, `query_error`, `several_series`, `not_answered`, `nothing_moved` (there
    /// was no release to compare with), `interrupted`.
    pub outcome: String,
    /// The query, filled in for the window; secrets left out.
    pub query: Option<String>,
    /// The judged window.
    pub window: Option<MetricWindow>,
    /// What it was held against: the window before, or the history of the season.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<MetricWindow>,
    /// The figure; null where there was none.
    pub value: Option<f64>,
    /// The figure before, or the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// `ms`, `%` for shares, `B`, or nothing.
    pub unit: String,
    /// The condition as the plan has it.
    pub threshold: String,
    /// How it was tested: `mann_whitney`, `theil_sen` (the effect is the slope per day),
    /// `seasonal_mad` (the statistic is how many spreads from the usual), `pettitt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestRecord>,
    /// When the limit of a trend is reached, where the line leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crossing: Option<CrossingRecord>,
    /// When the level changed most.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Timestamp>,
    /// One sentence.
    pub message: String,
}

/// A window of time of one series.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MetricWindow {
    /// Its first moment.
    #[schemars(with = "String")]
    pub from: Timestamp,
    /// The moment after its last.
    #[schemars(with = "String")]
    pub to: Timestamp,
    /// The time between two values as it was asked for, in seconds.
    pub step_s: f64,
    /// How many values came.
    pub samples: u64,
}

/// When a limit is reached, in seconds after the newest value; 0 where it is reached already.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CrossingRecord {
    /// By the line; null where it does not lead there.
    pub after_s: Option<f64>,
    /// By the steepest slope of its interval (95 %) and the upper edge of the scatter; null where not even
    /// that leads there.
    pub earliest_s: Option<f64>,
    /// By the flattest slope; null where that does not lead there.
    pub latest_s: Option<f64>,
}

/// One probe against its baseline.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The probe's name.
    pub probe: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Before, without the single latencies.
    pub before: ProbeSummary,
    /// Now.
    pub now: ProbeSummary,
    /// The Mann-Whitney U statistic of now against before; null without enough samples.
    pub u: Option<f64>,
    /// Its one-sided p-value (now is slower), asymptotic with tie correction.
    pub p_value: Option<f64>,
    /// Effect size: the probability that a request now is slower than one before, 0.5 for no change.
    pub effect: Option<f64>,
    /// The Hodges-Lehmann shift in ms: by how much a typical request is slower now.
    pub shift_ms: Option<f64>,
    /// The shift that the plan tolerates, in ms.
    pub tolerance_ms: Option<f64>,
    /// One sentence.
    pub message: String,
}

/// A probe record without the single latencies.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProbeSummary {
    /// Requests sent.
    pub requests: u64,
    /// Requests without a good answer.
    pub errors: u64,
    /// Median in ms.
    pub p50: Option<f64>,
    /// 95th percentile in ms.
    pub p95: Option<f64>,
    /// 99th percentile in ms.
    pub p99: Option<f64>,
}

/// report.json: what was rendered, and how the whole release ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ReportBody {
    /// How the release ended: `promoted`, `rolled_back`, `in_progress`, `frozen`, `stopped` (a gate
    /// before promote stayed closed).
    pub outcome: String,
    /// The headline of the report.
    pub headline: String,
    /// What was written.
    pub outputs: Vec<Output>,
}
body!(ReportBody, "report", "report");

/// One rendered file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Its path in the evidence folder.
    pub path: String,
    /// The SHA-256 of its bytes in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}
