//! One probe now against the same probe before.

use super::measure::{Measured, Probe};
use crate::evidence::{Comparison, Finding, ProbeRecord, ProbeSummary, Verdict};
use crate::judge::{Metric, compare_errors, compare_latency};
use crate::plan::Expected;
use crate::units::show_duration;

/// The comparison, and the findings that follow from it.
pub(super) struct Compared {
    pub(super) findings: Vec<Finding>,
    pub(super) comparison: Comparison,
}

/// Errors and latencies now against before, then the plain thresholds.
pub(super) fn against(probe: &Probe, before: &ProbeRecord, now: &Measured) -> Compared {
    let errors = compare_errors(
        (before.errors, before.requests),
        (now.record.errors, now.record.requests),
        probe.min_samples,
    );
    let latency = compare_latency(
        &before.latencies,
        &now.record.latencies,
        probe.tolerance,
        probe.tolerance_at_least_ms,
        probe.min_samples,
    );
    let mut parts = vec![(errors.verdict, errors.message), (latency.verdict, latency.message)];
    parts.extend(now.shortfall().map(|why| (Verdict::TooFewSamples, why)));
    let (verdict, message) = together(&parts);
    let mut finding = now.finding(probe, verdict).says(&message);
    finding.baseline = before.p50.map(|p50| show_duration(p50 / 1e3));
    finding.expected = latency.tolerance_ms.map(|t| format!("at most {} slower", show_duration(t / 1e3)));
    let mut findings = vec![finding];
    findings.extend(probe.expect.iter().map(|(metric, line)| threshold(probe, *metric, line, now)));
    let comparison = Comparison {
        probe: probe.name.clone(),
        verdict,
        before: ProbeSummary {
            requests: before.requests,
            errors: before.errors,
            p50: before.p50,
            p95: before.p95,
            p99: before.p99,
        },
        now: now.figures.summary(),
        u: latency.u,
        p_value: latency.p_value,
        effect: latency.effect,
        shift_ms: latency.shift_ms,
        tolerance_ms: latency.tolerance_ms,
        message,
    };
    Compared { findings, comparison }
}

/// The gravest of several verdicts, and the sentences that belong to it; all of them when all pass.
fn together(parts: &[(Verdict, String)]) -> (Verdict, String) {
    let gravity = [
        Verdict::Fail,
        Verdict::Error,
        Verdict::NoData,
        Verdict::TooFewSamples,
        Verdict::Skipped,
        Verdict::Pass,
    ];
    let worst = gravity.into_iter().find(|v| parts.iter().any(|(p, _)| p == v)).unwrap_or(Verdict::NoData);
    let said: Vec<&str> = parts.iter().filter(|(p, _)| *p == worst).map(|(_, m)| m.as_str()).collect();
    (worst, said.join("; "))
}

/// One plain threshold on what is live now.
fn threshold(probe: &Probe, metric: Metric, line: &Expected, now: &Measured) -> Finding {
    let samples = metric.samples(&now.figures);
    let figure = metric.figure(&now.figures).filter(|f| f.is_finite());
    let observed = figure.map(|f| metric.observed(f));
    let met = observed.as_ref().is_some_and(|o| line.is.met_by(o));
    let verdict = match figure {
        None => Verdict::NoData,
        Some(_) if !met => Verdict::Fail,
        Some(_) if samples < probe.min_samples => Verdict::TooFewSamples,
        Some(_) => Verdict::Pass,
    };
    let mut finding = now.finding(probe, verdict);
    finding.name = format!("{}: {}", probe.name, line.name);
    finding.expected = Some(line.is.text().to_owned());
    finding.observed = observed.as_ref().map(ToString::to_string);
    (finding.value, finding.unit) = observed
        .as_ref()
        .and_then(crate::units::Observed::figure)
        .map_or((None, None), |(value, unit)| (Some(value), Some(unit.to_owned())));
    finding.samples = Some(samples);
    let seen = finding.observed.clone().unwrap_or_else(|| "not known: no request was answered".into());
    finding.says(format!("{} is {seen} in {samples} samples, expected {}", line.name, line.is))
}
