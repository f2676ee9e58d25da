//! The release as its readers want it told: computed once, rendered by every output.

use jiff::Timestamp;
use serde::Serialize;

use super::documents::Documents;
use super::escape::{clip, comparison as comparison_sign, link, one_line, plain, shell_word};
use super::figures::{self, Course, JudgementRow, MetricRow, StepRow};
use super::judged::{self, Judged};
use super::opening::{Opening, clip_commit, counts, heads, old_side, opening, promotion};
use super::words::{Mark, clock, count, date, day, lasted, many, metric, ms};
use crate::evidence::{
    ApprovalBody, Body, Comparison, Document, Finding, Found, Judgement, OtherWayRecord, Outcome, Promotion,
    SnapshotRecord, SnapshotState, VERSION, Verdict, short,
};
use crate::fault::Fault;
use crate::severity::Severity;
use crate::units::{show_share, show_size};

/// The longest text of a document that goes into a table, in characters.
const LONGEST: usize = 600;

/// Everything that the outputs tell, as texts that still have to be escaped.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    pub(super) opening: Opening,
    pub(super) release: ReleaseRow,
    pub(super) made_at: String,
    pub(super) tiles: Vec<Tile>,
    pub(super) course: Option<Course>,
    pub(super) steps: Vec<StepRow>,
    pub(super) judgements: Vec<JudgementRow>,
    pub(super) judged: Option<Judged>,
    pub(super) gates: Vec<Gate>,
    pub(super) comparisons: Vec<ComparisonRow>,
    pub(super) changes: Vec<Change>,
    pub(super) timeline: Vec<Moment>,
    pub(super) approvals: Vec<ApprovalRow>,
    pub(super) hooks: Vec<HookRow>,
    pub(super) back: Option<WayBack>,
    pub(super) after_reload: Option<Reload>,
    pub(super) other_ways: Vec<OtherWay>,
    pub(super) contingency: Vec<Scenario>,
    pub(super) contacts: Vec<ContactRow>,
    pub(super) chain: Vec<Link>,
    pub(super) plan: PlanRow,
    pub(super) version: &'static str,
    /// The documents that the plan asks for, and that are not there: file and sentence.
    #[serde(skip)]
    pub(super) missing: Vec<(String, String)>,
    /// What JUnit reports, with full texts.
    #[serde(skip)]
    pub(super) findings: Vec<(&'static str, Finding)>,
    #[serde(skip)]
    pub(super) host: String,
    #[serde(skip)]
    pub(super) finished_at: Timestamp,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ReleaseRow {
    pub(super) service: String,
    pub(super) version: String,
    pub(super) environment: String,
    url: Option<String>,
    run_url: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PlanRow {
    pub(super) path: String,
    pub(super) sha256: String,
    short: String,
}

/// One figure at the top.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tile {
    label: String,
    value: String,
    note: Option<String>,
    tone: &'static str,
}

/// One document's observations; what did not pass comes first.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Gate {
    tool: &'static str,
    title: &'static str,
    mark: Mark,
    summary: String,
    pub(super) rows: Vec<Row>,
    /// Rows behind a fold, where there are very many.
    folded: Vec<Row>,
    passed: usize,
    total: usize,
    baseline: bool,
    samples: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    mark: Mark,
    name: String,
    kind: String,
    controls: Vec<String>,
    observed: Option<String>,
    expected: Option<String>,
    baseline: Option<String>,
    samples: Option<String>,
    message: Option<String>,
    attempts: u32,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ComparisonRow {
    probe: String,
    mark: Mark,
    before_p50: Option<String>,
    now_p50: Option<String>,
    before_p95: Option<String>,
    now_p95: Option<String>,
    before_errors: String,
    now_errors: String,
    shift: Option<String>,
    tolerance: Option<String>,
    samples: String,
    message: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Change {
    label: &'static str,
    text: Option<String>,
    /// What stands in a code face: a digest or a commit.
    code: Option<String>,
    /// The whole of it, for a tooltip.
    whole: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Moment {
    at: String,
    who: String,
    what: String,
}

/// Who let a step through, by which key.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ApprovalRow {
    step: String,
    role: String,
    who: String,
    /// The id of the key that signed.
    key: Option<String>,
    at: String,
    reason: String,
    document: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct HookRow {
    hook: String,
    command: String,
    mark: Mark,
    took: String,
    output: String,
}

/// What a reload of the router would undo, and the lines that prevent it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reload {
    router: String,
    green: String,
    change: Vec<String>,
}

fn reload(promotion: &Promotion) -> Option<Reload> {
    let after = promotion.after_reload.as_ref()?;
    Some(Reload {
        router: one_line(&promotion.router.kind),
        green: show_share(after.green),
        change: after.change.iter().map(|line| one_line(line)).collect(),
    })
}

/// Something of the router's configuration, besides the split, that leads to the old side.
#[derive(Clone, Debug, Serialize)]
pub(super) struct OtherWay {
    name: String,
    place: String,
}

fn other_ways(promotion: &Promotion) -> Vec<OtherWay> {
    let one = |way: &OtherWayRecord| OtherWay { name: one_line(&way.name), place: one_line(&way.place) };
    promotion.other_ways.iter().map(one).collect()
}

/// How to go back: sentences and exact commands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WayBack {
    ways: Vec<Way>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Way {
    about: String,
    commands: String,
    note: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Scenario {
    when: String,
    steps: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ContactRow {
    role: String,
    reach: String,
}

/// One document of the chain.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Link {
    name: &'static str,
    file: String,
    sha256: String,
    short: String,
    note: String,
    mark: Mark,
    needs: Vec<String>,
    /// `signed by ci`, `not signed`.
    signed: String,
}

impl Story {
    /// Tells the story of some documents.
    ///
    /// Errors (4): a document that does not survive its own format.
    pub fn of(documents: Documents) -> Result<Self, Fault> {
        let documents = documents.redacted()?;
        let moved = promotion(&documents);
        let finished_at = heads(&documents).iter().map(|h| h.run.finished_at).max().unwrap_or(documents.at);
        let host = heads(&documents).last().map_or_else(String::new, |h| one_line(&h.run.host));
        Ok(Self {
            opening: opening(&documents),
            release: release(&documents),
            made_at: date(documents.at),
            tiles: tiles(&documents),
            course: moved.map(figures::course).filter(|c| !c.charts.is_empty()),
            steps: moved.map(figures::steps).unwrap_or_default(),
            judgements: moved.map(figures::judgements).unwrap_or_default(),
            judged: moved.and_then(|promotion| judged::judged(&documents, promotion)),
            gates: gates(&documents),
            comparisons: comparisons(&documents),
            changes: changes(&documents),
            timeline: timeline(&documents),
            approvals: moved.map(|p| approvals(&documents, p)).unwrap_or_default(),
            hooks: moved.map(hooks).unwrap_or_default(),
            back: way_back(&documents),
            after_reload: moved.and_then(reload),
            other_ways: moved.map(other_ways).unwrap_or_default(),
            contingency: contingency(&documents),
            contacts: contacts(&documents),
            chain: chain(&documents),
            plan: PlanRow {
                path: one_line(&documents.plan.path),
                sha256: documents.plan.sha256.clone(),
                short: short(&documents.plan.sha256),
            },
            version: VERSION,
            missing: documents.missing.iter().map(|m| (text(&m.file), text(&m.why))).collect(),
            findings: findings(&documents),
            host,
            finished_at,
        })
    }

    /// How the release ended: `promoted`, `rolled_back`, `in_progress`, `frozen` or `stopped`.
    pub fn outcome(&self) -> &'static str {
        self.opening.outcome
    }

    /// The verdict in one sentence.
    pub fn headline(&self) -> &str {
        &self.opening.headline
    }

    /// Why, where it did not go well.
    pub fn reason(&self) -> Option<&str> {
        self.opening.reason.as_deref()
    }
}

fn text(of: &str) -> String {
    clip(plain(of).trim(), LONGEST)
}

fn some_text(of: Option<&String>) -> Option<String> {
    of.map(|t| text(t)).filter(|t| !t.is_empty())
}

fn release(documents: &Documents) -> ReleaseRow {
    let run = heads(documents).into_iter().rev().find_map(|h| h.run.ci.as_ref()?.url.clone());
    ReleaseRow {
        service: text(&documents.release.service),
        version: text(&documents.release.version),
        environment: text(&documents.release.environment),
        url: documents.url.as_deref().and_then(link),
        run_url: run.as_deref().and_then(link),
    }
}

fn tiles(documents: &Documents) -> Vec<Tile> {
    let mut tiles = match promotion(documents) {
        Some(promotion) => vec![
            Some(traffic_tile(promotion)),
            error_tile(promotion),
            latency_tile(promotion),
            rollback_tile(promotion),
        ],
        None => vec![checks_tile(documents), closing_tile(documents)],
    };
    tiles.push(snapshot_tile(documents));
    if promotion(documents).is_some() {
        tiles.push(checks_tile(documents));
    }
    tiles.into_iter().flatten().take(4).collect()
}

fn traffic_tile(promotion: &Promotion) -> Tile {
    let note = promotion.shifts.last().map(|shift| {
        let router = format!("router says {}", show_share(shift.read_back));
        match &shift.probed {
            Some(probed) => format!("{router}, probes {} of {}", probed.green, probed.green + probed.blue),
            None if shift.not_seen.is_some() => format!("{router}; no request through it could tell"),
            None => router,
        }
    });
    Tile { label: "Traffic on green".into(), value: show_share(promotion.weight), note, tone: "none" }
}

fn error_tile(promotion: &Promotion) -> Option<Tile> {
    if promotion.outcome == Outcome::RolledBack
        && let Some(metric) = figures::decisive(promotion, "error_rate")
    {
        return Some(metric_tile(&format!("Errors on green ({})", metric.source), metric));
    }
    let worst = figures::totals(promotion).into_iter().next()?;
    let rate = |(requests, errors): (u64, u64)| show_share(errors as f64 / requests as f64);
    let blue = (worst.blue.0 > 0).then(|| format!("blue {}", rate(worst.blue)));
    let limit = figures::decisive(promotion, "error_rate").map(|m| format!("rolls back at {}", m.threshold));
    Some(Tile {
        label: format!("Errors on green ({})", worst.source),
        value: rate(worst.green),
        note: together([blue, limit]),
        tone: "none",
    })
}

fn latency_tile(promotion: &Promotion) -> Option<Tile> {
    let found = ["latency_p95", "latency_p99", "latency_p50", "latency_mean"]
        .iter()
        .find_map(|name| figures::decisive(promotion, name))?;
    let name = found.metric.trim_start_matches("latency_");
    Some(metric_tile(&format!("{name} on green ({})", found.source), found))
}

fn metric_tile(label: &str, record: &crate::evidence::MetricRecord) -> Tile {
    let MetricRow { green, blue, mark, threshold, .. } = figures::metric_row(record);
    Tile {
        label: label.into(),
        value: green.unwrap_or_else(|| mark.word.clone()),
        note: together([blue.map(|b| format!("blue {b}")), Some(format!("rolls back at {threshold}"))]),
        tone: if mark.tone == "fail" { "fail" } else { "none" },
    }
}

fn together(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Vec<_> = parts.into_iter().flatten().filter(|p| !p.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn rollback_tile(promotion: &Promotion) -> Option<Tile> {
    let rollback = promotion.rollback.as_ref()?;
    let took = rollback.took_ms?;
    let drained =
        rollback.drained_at.map(|at| format!("green drained in {}", lasted(rollback.decided_at, at)));
    Some(Tile {
        label: "Back on blue in".into(),
        value: ms(took),
        note: together([Some("decision to read-back".into()), drained]),
        tone: "none",
    })
}

fn snapshot_of(documents: &Documents) -> Option<&SnapshotRecord> {
    documents.snapshot.as_ref()?.document.body.snapshot.as_ref()
}

fn snapshot_tile(documents: &Documents) -> Option<Tile> {
    let snapshot = snapshot_of(documents)?;
    let proven = snapshot.proven_at;
    Some(Tile {
        label: "Snapshot".into(),
        value: if proven.is_some() { "proven".into() } else { "not proven".into() },
        note: together([
            Some(short(&snapshot.id)),
            Some(show_size(snapshot.bytes as f64)),
            proven.map(|at| format!("read back {}", clock(at))),
        ]),
        tone: if proven.is_some() { "none" } else { "fail" },
    })
}

fn checks_tile(documents: &Documents) -> Option<Tile> {
    let counts = counts(documents)?;
    let closing = (counts.closing > 0).then(|| format!("{} critical did not", counts.closing));
    let warnings = (counts.warnings > 0).then(|| many(counts.warnings as u64, "warning"));
    Some(Tile {
        label: "Checks passed".into(),
        value: format!("{} of {}", counts.passed, counts.total),
        note: together([closing, warnings]),
        tone: if counts.closing > 0 { "fail" } else { "none" },
    })
}

fn closing_tile(documents: &Documents) -> Option<Tile> {
    let preflight = &documents.preflight.as_ref()?.document;
    Some(Tile {
        label: "Preflight took".into(),
        value: lasted(preflight.head.run.started_at, preflight.head.run.finished_at),
        note: Some(many(preflight.head.findings.len() as u64, "check")),
        tone: "none",
    })
}

/// More rows than this, and those that passed go behind a fold.
const UNFOLDED: usize = 60;

fn gates(documents: &Documents) -> Vec<Gate> {
    let mut gates: Vec<Gate> = [
        gate(documents.preflight.as_ref(), "preflight", "Before the release"),
        gate(documents.snapshot.as_ref(), "snapshot", "The way back"),
        gate(documents.drill.as_ref(), "drill", "The way back, rehearsed"),
        promote_gate(documents),
        gate(documents.verify.as_ref(), "verify", "After the release"),
    ]
    .into_iter()
    .flatten()
    .collect();
    // The same columns everywhere, so that they stand below each other.
    let any = |has: fn(&Gate) -> bool| gates.iter().any(has);
    let (baseline, samples) = (any(|g| g.baseline), any(|g| g.samples));
    for gate in &mut gates {
        (gate.baseline, gate.samples) = (baseline, samples);
    }
    gates
}

fn gate<B: Body>(found: Option<&Found<B>>, tool: &'static str, title: &'static str) -> Option<Gate> {
    let head = &found?.document.head;
    let rows: Vec<_> = head.findings.iter().map(row).collect();
    let mark = Mark::of_document(head.verdict);
    (!rows.is_empty()).then(|| fold(tool, title, mark, text(&head.summary), rows))
}

fn promote_gate(documents: &Documents) -> Option<Gate> {
    let head = &documents.promote.as_ref()?.document.head;
    let rows: Vec<_> = promote_findings(documents).iter().map(row).collect();
    let title = "While traffic moved";
    (!rows.is_empty())
        .then(|| fold("promote", title, Mark::of_document(head.verdict), text(&head.summary), rows))
}

/// The metrics of the judgement that decided, then what promote found itself.
fn promote_findings(documents: &Documents) -> Vec<Finding> {
    let Some(found) = &documents.promote else { return Vec::new() };
    let mut findings = promotion(documents).and_then(figures::deciding).map(judged).unwrap_or_default();
    findings.extend(found.document.head.findings.iter().cloned());
    findings
}

fn judged(judgement: &Judgement) -> Vec<Finding> {
    judgement
        .metrics
        .iter()
        .map(|m| {
            let MetricRow { green, blue, threshold, .. } = figures::metric_row(m);
            let mut finding =
                Finding::new(metric(&m.metric), &m.source, m.verdict, judgement.at).says(&m.message);
            finding.observed = green;
            finding.expected = Some(healthy(&threshold));
            finding.baseline = blue.map(|b| format!("blue {b}"));
            finding.samples = Some(m.green_samples);
            if judgement.verdict == Verdict::Pass && m.verdict == Verdict::NoData {
                // Another source decided; this one had nothing to say, such as a router without users.
                finding.severity = Severity::Info;
            }
            finding
        })
        .collect()
}

/// What a threshold that ends the release asks of a healthy one: `> 120ms` becomes `≤ 120ms`.
fn healthy(threshold: &str) -> String {
    for (sign, opposite) in [(">=", "<"), ("<=", ">"), (">", "≤"), ("<", "≥")] {
        if let Some(rest) = threshold.trim().strip_prefix(sign) {
            return format!("{opposite} {}", rest.trim());
        }
    }
    format!("not {threshold}")
}

fn fold(tool: &'static str, title: &'static str, mark: Mark, summary: String, mut rows: Vec<Row>) -> Gate {
    let total = rows.len();
    let passed = rows.iter().filter(|r| r.mark.tone == "pass").count();
    let rank = |r: &Row| match r.mark.tone {
        "fail" => 0,
        "warn" => 1,
        "none" => 2,
        _ => 3,
    };
    rows.sort_by_key(rank);
    let folded =
        if total > UNFOLDED { rows.split_off((total - passed).max(10).min(total)) } else { Vec::new() };
    let any = |has: fn(&Row) -> bool| rows.iter().chain(&folded).any(has);
    let (baseline, samples) = (any(|r| r.baseline.is_some()), any(|r| r.samples.is_some()));
    Gate { tool, title, mark, summary, rows, folded, passed, total, baseline, samples }
}

fn row(finding: &Finding) -> Row {
    let mark = Mark::of_finding(finding);
    let message = text(&finding.message);
    let observed = some_text(finding.observed.as_ref());
    // The sentence is for what did not pass, and for what has no figure.
    let wanted = !message.is_empty() && (mark.tone != "pass" || observed.is_none());
    Row {
        name: text(&finding.name),
        kind: text(&finding.kind),
        controls: finding.controls.iter().map(|c| text(c)).collect(),
        message: wanted.then_some(message).filter(|m| Some(m) != observed.as_ref()),
        observed,
        expected: some_text(finding.expected.as_ref()).map(|e| comparison_sign(&e)),
        baseline: some_text(finding.baseline.as_ref()),
        samples: finding.samples.map(count),
        attempts: finding.attempts,
        mark,
    }
}

fn comparisons(documents: &Documents) -> Vec<ComparisonRow> {
    documents.verify.iter().flat_map(|v| &v.document.body.comparisons).map(comparison).collect()
}

fn comparison(c: &Comparison) -> ComparisonRow {
    ComparisonRow {
        probe: text(&c.probe),
        mark: Mark::of(c.verdict, Severity::Critical),
        before_p50: c.before.p50.map(ms),
        now_p50: c.now.p50.map(ms),
        before_p95: c.before.p95.map(ms),
        now_p95: c.now.p95.map(ms),
        before_errors: count(c.before.errors),
        now_errors: count(c.now.errors),
        shift: c.shift_ms.map(|s| if s >= 0.0 { format!("+{}", ms(s)) } else { ms(s) }),
        tolerance: c.tolerance_ms.map(ms),
        samples: format!("{} / {}", count(c.before.requests), count(c.now.requests)),
        message: text(&c.message),
    }
}

fn changes(documents: &Documents) -> Vec<Change> {
    let release = &documents.release;
    let seen = promotion(documents);
    let before = seen.and_then(|p| p.blue.version.clone()).or_else(|| release.previous.clone());
    let version = match before.filter(|b| *b != release.version) {
        Some(before) => format!("{} → {}", text(&before), text(&release.version)),
        None => text(&release.version),
    };
    let plain = |label, text: String| Change { label, text: Some(text), code: None, whole: None };
    let mut changes = vec![plain("Version", version)];
    if let Some(commit) = &release.commit {
        let (code, whole) = (Some(clip_commit(&text(commit))), Some(text(commit)));
        changes.push(Change { label: "Commit", text: None, code, whole });
    }
    changes.extend(release.artifacts.iter().map(|artifact| Change {
        label: "Artifact",
        text: Some(text(&artifact.name)),
        code: Some(format!("sha256:{}", short(&artifact.sha256))),
        whole: Some(artifact.sha256.clone()),
    }));
    if let Some(promotion) = seen {
        let way = promotion.strategy.replace('_', "/");
        changes.push(plain("Strategy", format!("{} over {}", text(&way), text(&promotion.router.kind))));
        if let Some(split) = &promotion.router.split {
            changes.push(plain("Split", text(split)));
        }
        changes.push(Change {
            label: "Router",
            text: None,
            code: Some(text(&promotion.router.target)),
            whole: None,
        });
    }
    changes
}

fn timeline(documents: &Documents) -> Vec<Moment> {
    let mut moments: Vec<(Timestamp, String, String)> = Vec::new();
    let mut gate = |who: &str, head: &crate::evidence::Head| {
        let what = format!("{}: {}", head.verdict.word(), text(&head.summary));
        moments.push((head.run.finished_at, who.to_owned(), what));
    };
    if let Some(found) = &documents.preflight {
        gate("preflight", &found.document.head);
    }
    if let Some(found) = &documents.snapshot {
        gate("snapshot", &found.document.head);
    }
    if let Some(found) = &documents.drill {
        gate("drill", &found.document.head);
    }
    if let Some(found) = &documents.verify {
        gate("verify", &found.document.head);
    }
    match promotion(documents) {
        Some(promotion) => {
            moments.extend(promotion.decisions.iter().map(|d| (d.at, text(&d.who), text(&d.what))));
        }
        None => {
            if let Some(found) = &documents.promote {
                gate("promote", &found.document.head);
            }
        }
    }
    moments.sort_by_key(|(at, ..)| *at);
    shorten(&mut moments);
    let days: std::collections::BTreeSet<String> = moments.iter().map(|(at, ..)| day(*at)).collect();
    let show = |at: Timestamp| {
        if days.len() > 1 { format!("{}, {}", at.strftime("%-d %b"), clock(at)) } else { clock(at) }
    };
    moments.into_iter().map(|(at, who, what)| Moment { at: show(at), who, what }).collect()
}

/// Of very many moments, the first and the last; what is left out is counted.
fn shorten(moments: &mut Vec<(Timestamp, String, String)>) {
    const FIRST: usize = 20;
    const LAST: usize = 40;
    if moments.len() > FIRST + LAST {
        let left = moments.len() - FIRST - LAST;
        let at = moments[FIRST].0;
        let note = format!("{} more, all in promote.json", many(left as u64, "decision"));
        moments.splice(FIRST..FIRST + left, [(at, "…".to_owned(), note)]);
    }
}

fn approvals(documents: &Documents, promotion: &Promotion) -> Vec<ApprovalRow> {
    let key = |sha256: &str| {
        let found = documents.approvals.iter().find(|f| f.need.sha256 == sha256)?;
        found.signer.as_ref().map(|signer| text(&signer.key))
    };
    let step = |number: usize| match promotion.steps.get(number.wrapping_sub(1)) {
        Some(step) => format!("{number} ({})", show_share(step.weight)),
        None => number.to_string(),
    };
    let row = |a: &crate::evidence::ApprovalRecord| ApprovalRow {
        step: step(a.step),
        role: text(&a.role),
        who: text(&a.who),
        key: key(&a.sha256),
        at: date(a.at),
        reason: a.reason.as_deref().map_or_else(String::new, text),
        document: text(&a.document),
    };
    promotion.approvals.iter().map(row).collect()
}

fn hooks(promotion: &Promotion) -> Vec<HookRow> {
    promotion
        .hooks
        .iter()
        .map(|h| HookRow {
            hook: text(&h.hook),
            command: text(&h.command),
            mark: match h.exit {
                Some(0) => Mark::new("pass", "exit 0"),
                Some(code) => Mark::new("fail", format!("exit {code}")),
                None => Mark::new("fail", "did not end"),
            },
            took: ms(h.duration_ms),
            output: clip(plain(&h.output).trim(), 4000),
        })
        .collect()
}

fn way_back(documents: &Documents) -> Option<WayBack> {
    let mut ways = Vec::new();
    if let Some(promotion) = promotion(documents) {
        let old = old_side(documents);
        let plan = shell_word(&one_line(&documents.plan.path));
        let place = shell_word(&one_line(&documents.release.environment));
        let state = places(documents);
        if matches!(promotion.outcome, Outcome::InProgress | Outcome::Frozen) {
            ways.push(Way {
                about: format!("Roll back now: all traffic returns to {old}."),
                commands: format!("promote abort --plan {plan} --environment {place}{state}"),
                note: Some(where_to_run(&documents.plan.path)),
            });
        }
        if let (Outcome::Promoted, Some(until)) =
            (promotion.outcome, promotion.next_at.filter(|until| documents.at < *until))
        {
            ways.push(Way {
                about: format!(
                    "{old} is kept until {}. Until then all traffic returns to it by:",
                    date(until)
                ),
                commands: format!("promote undo --plan {plan} --environment {place}{state}"),
                note: Some(where_to_run(&documents.plan.path)),
            });
        }
        if !promotion.router.by_hand.is_empty() && promotion.outcome != Outcome::RolledBack {
            ways.push(Way {
                about: format!("By hand at the router: all traffic returns to {old}."),
                commands: commands(&promotion.router.by_hand),
                note: Some(match promotion.next_at {
                    Some(until) if promotion.outcome == Outcome::Promoted && until <= documents.at => {
                        format!(
                            "{old} was kept until {} only: look first whether it still runs and is healthy.",
                            date(until)
                        )
                    }
                    _ if promotion.outcome == Outcome::Frozen => format!(
                        "Look at its health first, now: the release stands still, {}. Where {old} is not well, leave users where \
                         they are; `promote status` looks at both sides, and `promote accept` closes it as it stands.",
                        text(promotion.reason.as_deref().unwrap_or("and people must act"))
                    ),
                    _ => format!("Look at its health first: it needs {old} to be running still, and well."),
                }),
            });
        } else if !promotion.router.by_hand.is_empty() {
            ways.push(Way {
                about: format!("{old} serves all traffic. Should the router have to be set again by hand:"),
                commands: commands(&promotion.router.by_hand),
                note: Some(format!("Look at its health first: it sends all traffic to {old}.")),
            });
        }
    }
    if let Some(snapshot) = snapshot_of(documents).filter(|s| !s.restore_command.trim().is_empty()) {
        let proven = match snapshot.proven_at {
            Some(at) => format!("read back and compared at {}", date(at)),
            None => "not proven".into(),
        };
        let names: Vec<_> = snapshot.sources.iter().map(|s| text(&s.name)).collect();
        ways.push(Way {
            about: format!("Restore the data from snapshot {} ({proven}).", short(&snapshot.id)),
            commands: commands(&restores(snapshot)),
            note: together([
                (snapshot.state == SnapshotState::Partial)
                    .then(|| "PARTIAL: something is missing in it".into()),
                (!names.is_empty()).then(|| format!("Holds {}", clip(&names.join(", "), 300))),
                Some(many(snapshot.files, "file")),
                Some(show_size(snapshot.bytes as f64)),
            ]),
        });
    }
    (!ways.is_empty()).then_some(WayBack { ways })
}

/// Where such a command runs, and what it needs.
fn where_to_run(plan: &str) -> String {
    let place = if plan.starts_with('/') {
        "It runs from any folder of the machine that the plan is on".to_owned()
    } else {
        format!("Run it in the folder in which the plan is {}", one_line(plan))
    };
    format!("{place}. It needs no variable of the plan but secret ones.")
}

/// The flags of commands that people are told, where the state and the evidence are not in their usual places.
pub(super) fn places(documents: &Documents) -> String {
    let flag = |name: &str, place: &Option<String>| {
        place.as_ref().map(|place| format!(" {name} {}", shell_word(&one_line(place)))).unwrap_or_default()
    };
    flag("--state", &documents.state) + &flag("--evidence", &documents.evidence)
}

/// With Trapkey, and with plain restic.
fn restores(snapshot: &SnapshotRecord) -> Vec<String> {
    let with_restic = (!snapshot.restic_command.trim().is_empty())
        .then(|| format!("# or, without Trapkey:\n{}", plain(&snapshot.restic_command)));
    [Some(snapshot.restore_command.clone()), with_restic].into_iter().flatten().collect()
}

/// Commands stay whole: a cut command is worse than a long one.
fn commands(lines: &[String]) -> String {
    lines.iter().map(|l| plain(l).trim().to_owned()).collect::<Vec<_>>().join("\n")
}

fn contingency(documents: &Documents) -> Vec<Scenario> {
    let all = documents.contingency.iter();
    all.map(|c| Scenario { when: text(&c.when), steps: c.steps.iter().map(|s| text(s)).collect() }).collect()
}

fn contacts(documents: &Documents) -> Vec<ContactRow> {
    documents.contacts.iter().map(|c| ContactRow { role: text(&c.role), reach: text(&c.reach) }).collect()
}

fn chain(documents: &Documents) -> Vec<Link> {
    let approvals = documents.approvals.iter().map(|f| {
        let role =
            |d: &Document<ApprovalBody>| d.body.approval.as_ref().map_or_else(String::new, |a| text(&a.role));
        Some(chain_link(f, "approval", role))
    });
    let before = [
        documents.preflight.as_ref().map(|f| chain_link(f, "preflight", |d| findings_note(d, "check"))),
        documents.snapshot.as_ref().map(|f| {
            chain_link(f, "snapshot", |d| {
                d.body.snapshot.as_ref().map_or_else(|| "none kept".into(), |s| show_size(s.bytes as f64))
            })
        }),
        documents.drill.as_ref().map(|f| chain_link(f, "drill", |d| findings_note(d, "finding"))),
        documents
            .baseline
            .as_ref()
            .map(|f| chain_link(f, "baseline", |d| many(d.body.probes.len() as u64, "probe"))),
    ];
    let after = [
        documents.promote.as_ref().map(|f| {
            chain_link(f, "promote", |d| {
                d.body
                    .promotion
                    .as_ref()
                    .map_or_else(|| "nothing begun".into(), |p| many(p.steps.len() as u64, "step"))
            })
        }),
        documents.verify.as_ref().map(|f| chain_link(f, "verify", |d| findings_note(d, "check"))),
    ];
    before.into_iter().chain(approvals).chain(after).flatten().collect()
}

fn findings_note<B>(document: &Document<B>, one: &str) -> String {
    many(document.head.findings.len() as u64, one)
}

fn chain_link<B: Body>(found: &Found<B>, name: &'static str, note: impl Fn(&Document<B>) -> String) -> Link {
    let head = &found.document.head;
    Link {
        name,
        file: text(&found.need.path),
        sha256: found.need.sha256.clone(),
        short: short(&found.need.sha256),
        note: format!("{}, {}", note(&found.document), lasted(head.run.started_at, head.run.finished_at)),
        mark: Mark::of_document(head.verdict),
        needs: head.needs.iter().map(|n| text(&n.path)).collect(),
        signed: found.signer.as_ref().map_or_else(|| "not signed".into(), |signer| text(&signer.to_string())),
    }
}

fn findings(documents: &Documents) -> Vec<(&'static str, Finding)> {
    fn of<B: Body>(found: Option<&Found<B>>, tool: &'static str) -> Vec<(&'static str, Finding)> {
        found
            .map(|f| f.document.head.findings.iter().map(|x| (tool, x.clone())).collect())
            .unwrap_or_default()
    }
    let mut all = of(documents.preflight.as_ref(), "preflight");
    all.extend(of(documents.snapshot.as_ref(), "snapshot"));
    all.extend(of(documents.drill.as_ref(), "drill"));
    all.extend(promote_findings(documents).into_iter().map(|finding| ("promote", finding)));
    all.extend(of(documents.verify.as_ref(), "verify"));
    all
}
