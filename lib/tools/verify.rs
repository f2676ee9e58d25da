//! `verify`: did it hold? Checks, probes against the baseline, metrics, the live side and the data.

use std::time::Duration;

use crate::checks::{self, PARALLEL, Prepared};
use crate::evidence::{
    BaselineBody, Body, Comparison, Counts, DocumentVerdict, Finding, Found, Need, Outcome, PreflightBody,
    PromoteBody, Promotion, SnapshotBody, Verdict, VerifyBody, verdict_of,
};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::sources;
use crate::units::Span;
use crate::world::talk::Mark;

use super::promote::say;
use super::{part, tell};

mod compare;
mod live;
mod measure;
pub(super) mod metrics;

/// How old a baseline may be where the plan does not say.
pub(super) const BASELINE_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Measures every probe of the plan and writes baseline.json.
///
/// Undecided (3) when a probe got too few answers or could not keep its rate.
/// Errors: usage (2) when the plan has no probes or one of them does not validate.
pub fn baseline(job: &Job) -> Result<Exit, Fault> {
    let verify = job.loaded.plan.verify.as_ref();
    let Some(spec) = verify.and_then(|v| v.baseline.as_ref()).filter(|b| !b.probes.is_empty()) else {
        return Err(Fault::usage("the plan has no `verify.baseline.probes`")
            .place(&job.loaded.reference.path)
            .help("add for example `verify: {baseline: {probes: [{name: home, url: \"https://…/\"}]}}`"));
    };
    let probes = measure::prepare(&spec.probes, &job.loaded)?;
    job.make_room::<BaselineBody>()?;
    let mut findings = Vec::new();
    let mut records = Vec::new();
    for probe in &probes {
        let measured = measure::measure(probe, job.talk());
        let interrupted = measured.interrupted(probe);
        let finding = interrupted.unwrap_or_else(|| measured.enough(probe));
        tell(job.talk(), &finding);
        findings.push(finding);
        records.push(measured.record);
    }
    let counts = Counts::of(&findings);
    let verdict = verdict_of(&findings);
    let summary = match verdict {
        DocumentVerdict::Pass => {
            let probes = if records.len() == 1 { "probe" } else { "probes" };
            format!("{} {probes} recorded as the baseline", records.len())
        }
        _ => format!("no sound baseline: {}", counts.sentence()),
    };
    let body = BaselineBody { probes: records };
    conclude(job, Conclusion { needs: Vec::new(), verdict, summary, findings, body, outputs: Vec::new() })
}

/// Runs the gate: the live side, the plan's checks, the probes against the baseline, the metrics, the
/// data.
///
/// Errors: refused (5) when preflight.json, snapshot.json, promote.json or baseline.json is needed and
/// missing, stale, of another release or plan, not fit, or not what the others were made from; usage (2) when a check, probe or metric does not
/// validate.
pub fn run(job: &Job) -> Result<Exit, Fault> {
    let evidence = Evidence::read(job)?;
    let mut gate = Gate::prepare(job)?;
    job.begin_run::<VerifyBody>()?;
    let mut findings: Vec<Finding> = Vec::new();
    let mut see = |found: Vec<Finding>, told: bool| {
        if !told {
            for finding in &found {
                tell(job.talk(), finding);
            }
        }
        findings.extend(found);
    };
    if let Some(promotion) = evidence.promotion() {
        see(part("live side", "live", || vec![live::serves(job, promotion)]), false);
    }
    see(gate.run_checks(job), true);
    let mut comparisons = Ok(Vec::new());
    see(
        part("probes", "baseline", || match gate.compare(job, evidence.baseline.as_ref()) {
            Ok((compared, records)) => {
                comparisons = Ok(records);
                compared
            }
            Err(fault) => {
                comparisons = Err(fault);
                Vec::new()
            }
        }),
        false,
    );
    let comparisons = comparisons?;
    let moved = evidence.promotion().and_then(metrics::Moved::of);
    let (mut metrics, asked) = (Vec::new(), std::mem::take(&mut gate.metrics));
    see(
        part("metrics", "metrics", || {
            let (judged, records) = metrics::run(asked, moved, job.talk());
            metrics = records;
            judged
        }),
        false,
    );
    if let (Some(spec), Some(snapshot)) = (&job.loaded.plan.snapshot, &evidence.snapshot) {
        let recorded =
            snapshot.document.body.snapshot.iter().flat_map(|s| s.sources.clone()).collect::<Vec<_>>();
        see(part("data", "data", || sources::intact(&spec.sources, &job.loaded, &recorded)), false);
    }
    let counts = Counts::of(&findings);
    let looked = findings.iter().any(|f| f.verdict != Verdict::Skipped);
    let verdict = if looked { verdict_of(&findings) } else { DocumentVerdict::Undecided };
    let side = evidence.promotion().map(live::side);
    let summary = match (looked, side) {
        (false, _) => "nothing could be checked".into(),
        (true, Some(side)) => format!("{}; {side} is live", counts.sentence()),
        (true, None) => counts.sentence(),
    };
    let body = VerifyBody {
        live: side.map(str::to_owned),
        after_rollback: side == Some("blue"),
        comparisons,
        metrics,
        counts,
    };
    let needs = evidence.needs();
    conclude(job, Conclusion { needs, verdict, summary, findings, body, outputs: Vec::new() })
}

fn conclude<B: crate::evidence::Body>(job: &Job, conclusion: Conclusion<B>) -> Result<Exit, Fault> {
    let line = format!("{}: {}: {}", B::NAME, conclusion.verdict.word(), conclusion.summary);
    let mark = if conclusion.verdict == DocumentVerdict::Pass { Mark::Good } else { Mark::Bad };
    let exit = job.conclude(conclusion)?;
    job.talk().line(mark, &line);
    Ok(exit)
}

/// The documents that this gate consumes.
struct Evidence {
    promote: Option<Found<PromoteBody>>,
    snapshot: Option<Found<SnapshotBody>>,
    baseline: Option<Found<BaselineBody>>,
}

impl Evidence {
    /// Reads what the plan calls for, and refuses (5) what does not fit.
    fn read(job: &Job) -> Result<Self, Fault> {
        let plan = &job.loaded.plan;
        let promote = plan.promote.as_ref().map(|_| job.need::<PromoteBody>(None)).transpose()?;
        if let Some(promote) = &promote {
            finished(job, promote)?;
        }
        let preflight = plan.preflight.as_ref().map(|_| job.need::<PreflightBody>(None)).transpose()?;
        if let Some(preflight) = &preflight {
            preflight.passed()?;
            promote.iter().try_for_each(|promote| promote.comes_from(&preflight.need))?;
        }
        let snapshot = plan.snapshot.as_ref().map(|_| job.need::<SnapshotBody>(None)).transpose()?;
        if let Some(snapshot) = &snapshot {
            snapshot.passed()?;
            preflight.iter().try_for_each(|preflight| snapshot.comes_from(&preflight.need))?;
            if let Some(promote) = &promote {
                promote.comes_from(&snapshot.need)?;
            }
        }
        let spec = plan.verify.as_ref().and_then(|v| v.baseline.as_ref());
        let max_age = |age: Option<Span>| age.map_or(BASELINE_MAX_AGE, |span| span.0);
        let baseline =
            spec.map(|spec| job.need::<BaselineBody>(Some(max_age(spec.max_age)))).transpose().map_err(|f| {
                f.help("run `verify baseline` before `promote`, while the old version serves, and pass its file on")
            })?;
        if let Some(baseline) = &baseline {
            baseline.passed()?;
            promote.iter().try_for_each(|promote| recorded_before(baseline, promote))?;
        }
        Ok(Self { promote, snapshot, baseline })
    }

    fn promotion(&self) -> Option<&Promotion> {
        self.promote.as_ref()?.document.body.promotion.as_ref()
    }

    fn needs(&self) -> Vec<Need> {
        [
            self.promote.as_ref().map(|f| &f.need),
            self.snapshot.as_ref().map(|f| &f.need),
            self.baseline.as_ref().map(|f| &f.need),
        ]
        .into_iter()
        .flatten()
        .cloned()
        .collect()
    }
}

/// Refuses (5) a promotion that neither went through nor came back.
fn finished(job: &Job, promote: &Found<PromoteBody>) -> Result<(), Fault> {
    let head = &promote.document.head;
    let outcome = promote.document.body.promotion.as_ref().map(|p| p.outcome);
    match (outcome, head.verdict) {
        (Some(Outcome::Promoted), DocumentVerdict::Pass) | (Some(Outcome::RolledBack), _) => Ok(()),
        (Some(Outcome::InProgress), _) => Err(Fault::refused("the promotion is still under way")
            .place("promote.json")
            .cause(&head.summary)
            .help(format!("wait for its end, or go on: {}", say::command(job, "step")))),
        (Some(Outcome::Frozen), _) => Err(Fault::refused("the promotion is frozen")
            .place("promote.json")
            .cause(&head.summary)
            .help(format!(
                "people decide first: {} says what they can do; {} tries again to go back; {} closes it as it stands",
                say::command(job, "status"),
                say::command(job, "abort"),
                say::command_with_reason(job, "accept")
            ))),
        _ => Err(Fault::refused("`promote.json` tells of no finished promotion")
            .place("promote.json")
            .cause(&head.summary)
            .help("run `promote run` first")),
    }
}

/// Refuses (5) a baseline from the time when the new version had traffic already: it would be compared
/// with itself.
fn recorded_before(baseline: &Found<BaselineBody>, promote: &Found<PromoteBody>) -> Result<(), Fault> {
    let promotion = promote.document.body.promotion.as_ref();
    let promoted = promotion.filter(|p| p.outcome == Outcome::Promoted);
    let Some(first) = promoted.and_then(|p| p.shifts.first()) else { return Ok(()) };
    let finished_at = baseline.document.head.run.finished_at;
    if finished_at <= first.at {
        return Ok(());
    }
    Err(Fault::refused("`baseline.json` was recorded when the new version had traffic already")
        .place(BaselineBody::FILE)
        .cause(format!("traffic began to move at {}, the baseline was finished at {finished_at}", first.at))
        .help("put the `baseline.json` from before `promote` back into the evidence folder"))
}

/// The plan's checks, probes and metrics, read whole before the first request is sent.
struct Gate {
    checks: Vec<Prepared>,
    probes: Vec<measure::Probe>,
    metrics: Vec<metrics::Metric>,
}

impl Gate {
    fn prepare(job: &Job) -> Result<Self, Fault> {
        let Some(verify) = &job.loaded.plan.verify else {
            return Ok(Self { checks: Vec::new(), probes: Vec::new(), metrics: Vec::new() });
        };
        let probes = verify.baseline.as_ref().map_or(&[][..], |b| &b.probes);
        Ok(Self {
            checks: checks::prepare(&verify.checks, &job.loaded)?,
            probes: measure::prepare(probes, &job.loaded)?,
            metrics: metrics::prepare(&verify.metrics, &job.loaded)?,
        })
    }

    fn run_checks(&self, job: &Job) -> Vec<Finding> {
        let parallel = job.loaded.plan.defaults.parallel.unwrap_or(PARALLEL);
        let talk = job.talk();
        checks::run(&self.checks, parallel, &|finding| tell(talk, finding))
    }

    fn compare(
        &self,
        job: &Job,
        baseline: Option<&Found<BaselineBody>>,
    ) -> Result<(Vec<Finding>, Vec<Comparison>), Fault> {
        let (mut findings, mut comparisons) = (Vec::new(), Vec::new());
        for probe in &self.probes {
            let records = baseline.iter().flat_map(|b| &b.document.body.probes);
            let before = records.into_iter().find(|r| r.name == probe.name).ok_or_else(|| {
                Fault::refused(format!("`baseline.json` has no probe `{}`", probe.name))
                    .place("baseline.json")
                    .help("run `verify baseline` again")
            })?;
            let measured = measure::measure(probe, job.talk());
            if let Some(finding) = measured.interrupted(probe) {
                findings.push(finding);
                continue;
            }
            let compared = compare::against(probe, before, &measured);
            findings.extend(compared.findings);
            comparisons.push(compared.comparison);
        }
        Ok((findings, comparisons))
    }
}
