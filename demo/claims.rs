//! Holds the claims of the demo against what was recorded: every request, and both evidence folders.
//!
//! Reads `requests.csv`, `marks.tsv`, `timings.tsv`, `good/` and `bad/` of the demo's folder, prints
//! each claim with its figure, a summary of ten lines and the paths of the reports, and writes
//! `claims.json`. Exits 1 when a claim does not hold.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use trapkey::evidence::{
    self, Document, DocumentVerdict, MetricRecord, Outcome, PromoteBody, Promotion, ReportBody, VerifyBody,
};

/// Within this time after the verdict nobody may be served by the bad side any more.
const LAST_ON_GREEN_MS: f64 = 1000.0;
/// Within this time after the verdict the router must say that the bad side gets nothing.
const READ_BACK_MS: f64 = 5000.0;
/// The files that a report consists of.
const FILES: &[&str] = &["report.html", "runbook.md", "junit.xml", "summary.md", "report.json"];

/// Holds the claims of the demo against what was recorded.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
struct Options {
    /// The demo's folder
    #[arg(long)]
    site: PathBuf,
    /// How many orders the database holds
    #[arg(long)]
    orders: u64,
    /// How long the demo took
    #[arg(long)]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            // A closed stderr is nobody's fault.
            let _ = writeln!(io::stderr(), "error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let recorded = Recorded::read(&options.site)?;
    let mut claims = Vec::new();
    claims.extend(good_claims(&recorded));
    let last_on_green_ms = recorded.last_on_green_ms();
    claims.extend(bad_claims(&recorded, last_on_green_ms));
    claims.push(order_claim(&recorded, options.orders));
    claims.extend(file_claims(&options.site));
    let held = claims.iter().all(|c| c.holds);
    let figures = json!({
        "held": held,
        "claims": claims.iter().map(|c| json!({"holds": c.holds, "claim": c.text})).collect::<Vec<_>>(),
        "requests": recorded.requests.len(),
        "failed": recorded.requests.iter().filter(|r| r.failed).count(),
        "verdict_to_last_request_ms": last_on_green_ms,
        "verdict_to_read_back_ms": recorded.bad.promotion().and_then(|p| p.rollback.as_ref()?.took_ms),
        "seconds": options.seconds,
    });
    let path = options.site.join("claims.json");
    fs::write(&path, format!("{figures:#}\n")).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut told: Vec<String> =
        claims.iter().map(|c| format!("{} {}", if c.holds { "✓" } else { "✗" }, c.text)).collect();
    told.push(String::new());
    told.extend(summary(&recorded, options.seconds));
    told.push(String::new());
    for release in ["good", "bad"] {
        for file in ["report.html", "runbook.md", "junit.xml"] {
            told.push(options.site.join(release).join(file).display().to_string());
        }
    }
    writeln!(io::stdout(), "{}", told.join("\n")).map_err(|e| e.to_string())?;
    Ok(held)
}

/// Something that the demo promises, and whether it is so.
struct Claim {
    holds: bool,
    text: String,
}

fn claim(holds: bool, text: impl Into<String>) -> Claim {
    Claim { holds, text: text.into() }
}

/// One request of the traffic.
struct Request {
    sent_us: i64,
    done_us: i64,
    latency_ms: f64,
    release: String,
    order_confirmed: bool,
    failed: bool,
}

/// What one release left behind.
struct Left {
    promote: Document<PromoteBody>,
    verify: Document<VerifyBody>,
    report: Document<ReportBody>,
    began_us: i64,
    ended_us: i64,
    /// Tool, milliseconds.
    took: Vec<(String, u64)>,
}

impl Left {
    fn promotion(&self) -> Option<&Promotion> {
        self.promote.body.promotion.as_ref()
    }
}

struct Recorded {
    requests: Vec<Request>,
    good: Left,
    bad: Left,
}

impl Recorded {
    fn read(site: &Path) -> Result<Self, String> {
        let requests = lines(&site.join("requests.csv"))?
            .iter()
            .skip(1)
            .map(|line| request(line).ok_or_else(|| format!("requests.csv: `{line}` is no record")))
            .collect::<Result<Vec<_>, _>>()?;
        let marks = lines(&site.join("marks.tsv"))?;
        let mark = |name: &str| {
            marks
                .iter()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('\t')?.parse().ok())
                .ok_or_else(|| format!("marks.tsv has no mark `{name}`"))
        };
        let (good, bad, end) = (mark("good")?, mark("bad")?, mark("end")?);
        let timings = lines(&site.join("timings.tsv"))?;
        Ok(Self {
            requests,
            good: left(site, "good", good, bad, &timings)?,
            bad: left(site, "bad", bad, end, &timings)?,
        })
    }

    fn between(&self, from_us: i64, to_us: i64) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(move |r| r.sent_us >= from_us && r.sent_us < to_us)
    }

    /// From the verdict to the end of the last answer that the bad side gave; below zero when it gave
    /// none after the verdict.
    fn last_on_green_ms(&self) -> Option<f64> {
        let decided = self.bad.promotion()?.rollback.as_ref()?.decided_at.as_microsecond();
        let bad_version = &self.bad.promote.head.release.as_ref()?.version;
        let last = self.requests.iter().filter(|r| &r.release == bad_version).map(|r| r.done_us).max()?;
        Some((last - decided) as f64 / 1e3)
    }
}

fn left(site: &Path, name: &str, began_us: i64, ended_us: i64, timings: &[String]) -> Result<Left, String> {
    let folder = site.join(name);
    let took = timings
        .iter()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            (cells.first() == Some(&name))
                .then(|| Some((cells.get(1)?.to_string(), cells.get(4)?.parse().ok()?)))?
        })
        .collect();
    Ok(Left {
        promote: evidence::read(&folder, None).map_err(|e| e.to_string())?.document,
        verify: evidence::read(&folder, None).map_err(|e| e.to_string())?.document,
        report: evidence::read(&folder, None).map_err(|e| e.to_string())?.document,
        began_us,
        ended_us,
        took,
    })
}

fn lines(path: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// `due_us,sent_us,done_us,method,status,release,retried,error`
fn request(line: &str) -> Option<Request> {
    let cells: Vec<&str> = line.split(',').collect();
    let [due, sent, done, method, status, release, _, error] = cells[..] else { return None };
    let (due, done): (i64, i64) = (due.parse().ok()?, done.parse().ok()?);
    Some(Request {
        sent_us: sent.parse().ok()?,
        done_us: done,
        latency_ms: (done - due) as f64 / 1e3,
        release: release.to_owned(),
        order_confirmed: method == "POST" && status == "201",
        failed: !error.is_empty(),
    })
}

fn version(left: &Left) -> &str {
    left.promote.head.release.as_ref().map_or("", |r| r.version.as_str())
}

/// How many of the requests sent in the second before a moment were answered by a version.
fn last_second(recorded: &Recorded, until_us: i64, version: &str) -> (usize, usize) {
    let all: Vec<_> = recorded.between(until_us - 1_000_000, until_us).collect();
    (all.iter().filter(|r| r.release == version).count(), all.len())
}

fn good_claims(recorded: &Recorded) -> Vec<Claim> {
    let good = &recorded.good;
    let new = version(good);
    let all = recorded.between(good.began_us, good.ended_us).count();
    let failed = recorded.between(good.began_us, good.ended_us).filter(|r| r.failed).count();
    let (on_new, of) = last_second(recorded, good.ended_us, new);
    let promoted = good.promotion().is_some_and(|p| p.outcome == Outcome::Promoted)
        && good.promote.head.verdict == DocumentVerdict::Pass;
    vec![
        claim(promoted, format!("good release: {new} was promoted")),
        claim(failed == 0 && all > 0, format!("good release: {failed} of {all} requests failed")),
        claim(
            on_new == of && of > 0,
            format!("good release: {new} answered {on_new} of the last second's {of} requests"),
        ),
        claim(
            good.verify.head.verdict == DocumentVerdict::Pass && !good.verify.body.after_rollback,
            format!("good release: verify says {}", good.verify.head.summary),
        ),
    ]
}

fn bad_claims(recorded: &Recorded, last_on_green_ms: Option<f64>) -> Vec<Claim> {
    let bad = &recorded.bad;
    let (old, new) = (version(&recorded.good), version(bad));
    let Some(promotion) = bad.promotion() else {
        return vec![claim(false, "bad release: promote.json holds no promotion")];
    };
    let rolled_back =
        promotion.outcome == Outcome::RolledBack && bad.promote.head.verdict == DocumentVerdict::Fail;
    let beyond = promotion.steps.iter().skip(1).filter(|s| s.began_at.is_some()).count();
    let mut claims = vec![
        claim(
            rolled_back && beyond == 0 && !promotion.steps.is_empty(),
            format!("bad release: {new} was rolled back in its first step"),
        ),
        failures_claim(recorded, promotion, new),
    ];
    let read_back = promotion.rollback.as_ref().and_then(|r| r.took_ms);
    claims.push(claim(
        read_back.is_some_and(|ms| ms < READ_BACK_MS),
        format!(
            "bad release: the router confirmed the rollback {} after the verdict (below 5 s)",
            show_ms(read_back)
        ),
    ));
    claims.push(claim(
        last_on_green_ms.is_some_and(|ms| ms < LAST_ON_GREEN_MS),
        format!(
            "bad release: the last request on {new} ended {} after the verdict (below 1 s)",
            show_ms(last_on_green_ms)
        ),
    ));
    let (on_old, of) = last_second(recorded, bad.ended_us, old);
    claims.push(claim(
        on_old == of && of > 0,
        format!("bad release: {old} answered {on_old} of the last second's {of} requests"),
    ));
    claims.push(claim(
        bad.verify.head.verdict == DocumentVerdict::Pass && bad.verify.body.after_rollback,
        format!("bad release: verify says {}", bad.verify.head.summary),
    ));
    claims
}

/// Failed requests only from the bad side, and only in the window of its first step.
fn failures_claim(recorded: &Recorded, promotion: &Promotion, new: &str) -> Claim {
    let bad = &recorded.bad;
    let failed: Vec<_> = recorded.between(bad.began_us, bad.ended_us).filter(|r| r.failed).collect();
    let elsewhere = failed.iter().filter(|r| r.release != new).count();
    let from = promotion.shifts.first().map(|s| s.at.as_microsecond());
    let to = promotion.rollback.as_ref().map(|r| r.decided_at.as_microsecond() + 1_000_000);
    let inside = |r: &&&Request| from.is_some_and(|f| r.sent_us >= f) && to.is_some_and(|t| r.done_us <= t);
    let outside = failed.len() - failed.iter().filter(inside).count();
    let all = recorded.between(bad.began_us, bad.ended_us).count();
    claim(
        elsewhere == 0 && outside == 0 && all > 0,
        format!(
            "bad release: {} of {all} requests failed, {elsewhere} of them not on {new}, {outside} outside the first step",
            failed.len()
        ),
    )
}

fn order_claim(recorded: &Recorded, orders: u64) -> Claim {
    let confirmed = recorded.requests.iter().filter(|r| r.order_confirmed).count() as u64;
    claim(
        confirmed == orders && orders > 0,
        format!("both releases: {confirmed} orders were confirmed, the database holds {orders}"),
    )
}

fn file_claims(site: &Path) -> Vec<Claim> {
    ["good", "bad"]
        .iter()
        .map(|release| {
            let missing: Vec<&str> = FILES
                .iter()
                .copied()
                .filter(|file| fs::metadata(site.join(release).join(file)).map_or(true, |m| m.len() == 0))
                .collect();
            let text = if missing.is_empty() {
                format!("{release} release: {} are written", FILES.join(", "))
            } else {
                format!("{release} release: missing: {}", missing.join(", "))
            };
            claim(missing.is_empty(), text)
        })
        .collect()
}

/// Five lines for each release: what was decided, on which figures, how long it took.
fn summary(recorded: &Recorded, seconds: u64) -> Vec<String> {
    let mut told = vec![format!("Two releases in {seconds} s:")];
    for (name, left) in [("good", &recorded.good), ("bad", &recorded.bad)] {
        let tools: Vec<String> =
            left.took.iter().map(|(tool, ms)| format!("{tool} {}", show_ms(Some(*ms as f64)))).collect();
        for line in [
            left.report.body.headline.clone(),
            format!("decided: {}", decided(left)),
            format!("figures: {}", figures(left)),
            format!("traffic: {}", traffic(recorded, left)),
            format!("took: {}", tools.join(", ")),
        ] {
            told.push(format!("  {name:<4} {line}"));
        }
    }
    told
}

fn decided(left: &Left) -> String {
    let Some(promotion) = left.promotion() else { return "nothing".into() };
    match (&promotion.reason, promotion.decisions.last()) {
        (Some(reason), _) => reason.clone(),
        (None, Some(last)) => format!("{} by {}", last.what, last.who),
        (None, None) => left.promote.head.summary.clone(),
    }
}

/// The metrics of the last judgement that had data.
fn figures(left: &Left) -> String {
    let judged = left
        .promotion()
        .and_then(|p| p.judgements.iter().rev().find(|j| j.metrics.iter().any(|m| m.green.is_some())));
    let Some(judgement) = judged else { return "none".into() };
    let shown: Vec<String> = judgement.metrics.iter().filter(|m| m.green.is_some()).map(metric).collect();
    format!("step {}: {}", judgement.step, shown.join("; "))
}

fn metric(metric: &MetricRecord) -> String {
    let show = |figure: Option<f64>| match figure {
        None => "no data".to_owned(),
        Some(share) if metric.unit == "%" => format!("{:.2} %", share * 100.0),
        Some(number) => format!("{number:.1} {}", metric.unit),
    };
    format!(
        "{} by {} green {} blue {} (out at {}; {} samples)",
        metric.metric,
        metric.source,
        show(metric.green),
        show(metric.blue),
        metric.threshold,
        metric.green_samples
    )
}

fn traffic(recorded: &Recorded, left: &Left) -> String {
    let all: Vec<_> = recorded.between(left.began_us, left.ended_us).collect();
    let failed = all.iter().filter(|r| r.failed).count();
    let mut latencies: Vec<f64> = all.iter().map(|r| r.latency_ms).collect();
    latencies.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        latencies.get((latencies.len() * percent / 100).min(latencies.len().saturating_sub(1)))
    };
    format!(
        "{} requests, {failed} failed, p50 {}, p95 {}, p99 {}",
        all.len(),
        show_ms(at(50).copied()),
        show_ms(at(95).copied()),
        show_ms(at(99).copied())
    )
}

fn show_ms(ms: Option<f64>) -> String {
    match ms {
        None => "never".into(),
        Some(ms) if ms.abs() >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        Some(ms) if ms.abs() >= 10.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
    }
}
