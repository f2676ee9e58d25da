//! One probe: requests at a steady rate for a while, and what came back.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::evidence::{Finding, ProbeRecord, Verdict};
use crate::fault::Fault;
use crate::judge::{Metric, SideFigures, metric_of};
use crate::metrics::probe::{Headers, Lag, Sampler};
use crate::plan::{BaselineProbe, Expected, Loaded, Redirects};
use crate::redact::redact;
use crate::severity::Severity;
use crate::units::{show_duration, show_share};
use crate::world::talk::Talk;
use crate::world::{now, signal};
use crate::yaml::Problem;

/// The share of the asked rate that must have been sent, so that the figures mean something.
pub(super) const LEAST_ACHIEVED: f64 = 0.9;

/// A probe of the plan with its defaults filled in.
pub(super) struct Probe {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) shown: String,
    pub(super) rate: f64,
    pub(super) duration: Duration,
    pub(super) timeout: Duration,
    pub(super) redirects: Redirects,
    pub(super) tolerance: f64,
    pub(super) tolerance_at_least_ms: f64,
    pub(super) min_samples: u64,
    pub(super) severity: Severity,
    pub(super) expect: Vec<(Metric, Expected)>,
}

/// Reads the probes of a plan.
///
/// Errors: usage (2): not an HTTP address, or an `expect` that cannot be compared.
pub(super) fn prepare(specs: &[BaselineProbe], loaded: &Loaded) -> Result<Vec<Probe>, Fault> {
    specs.iter().map(|spec| read(spec, loaded)).collect()
}

fn read(spec: &BaselineProbe, loaded: &Loaded) -> Result<Probe, Fault> {
    let url = &spec.url.value;
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        || url.contains(char::is_whitespace)
    {
        return Err(Fault::usage(format!("the probe `{}` has no HTTP address", spec.name))
            .place(&loaded.reference.path)
            .cause(format!("its `url` is `{}`", spec.url.shown))
            .help("write a whole address, such as https://shop.example.com/"));
    }
    let lines = spec.expect.lines(&loaded.variables).map_err(|p| loaded.fault(p))?;
    let expect = lines
        .into_iter()
        .map(|line| {
            let wrong = |message: String| loaded.fault(Problem::at(line.place, message));
            let metric = metric_of(&line.name).map_err(wrong)?;
            line.is.fits(metric.unit()).map_err(wrong)?;
            Ok((metric, line))
        })
        .collect::<Result<_, Fault>>()?;
    let ms = |span: Option<crate::units::Span>, or: f64| span.map_or(or, |s| s.0.as_secs_f64() * 1e3);
    Ok(Probe {
        name: spec.name.clone(),
        url: url.clone(),
        shown: redact(&spec.url.shown),
        rate: spec.rate.map_or(20.0, |r| r.0),
        duration: spec.duration.map_or(Duration::from_secs(5), |s| s.0),
        timeout: spec.timeout.map_or(Duration::from_secs(5), |s| s.0),
        redirects: spec.redirects,
        tolerance: spec.tolerance.map_or(0.25, |s| s.0),
        tolerance_at_least_ms: ms(spec.tolerance_at_least, 5.0),
        min_samples: spec.min_samples.unwrap_or(50).max(1),
        severity: spec.severity,
        expect,
    })
}

/// What a probe measured.
pub(super) struct Measured {
    pub(super) record: ProbeRecord,
    pub(super) figures: SideFigures,
    pub(super) lag: Lag,
    pub(super) started_at: Timestamp,
    pub(super) took_ms: f64,
}

/// Sends the requests. A signal ends it early.
pub(super) fn measure(probe: &Probe, talk: &Talk) -> Measured {
    let (started_at, started) = (now(), Instant::now());
    let ticker = talk.ticker();
    ticker.set(&format!("{}: asking for {}", probe.name, show_duration(probe.duration.as_secs_f64())));
    let headers = Headers { redirects: probe.redirects, ..Headers::default() };
    let sampler = Sampler::start(std::slice::from_ref(&probe.url), probe.rate, probe.timeout, headers);
    signal::sleep(probe.duration);
    let window_s = started.elapsed().as_secs_f64();
    sampler.finish();
    let mut taken = sampler.take().into_iter().flatten().collect::<Vec<_>>();
    let lag = sampler.lag().first().copied().unwrap_or_default();
    taken.sort_by_key(|s| s.at);
    // Rounded first, so that the record alone gives the same figures again.
    let answers: Vec<(f64, bool)> =
        taken.iter().map(|s| ((s.latency_ms * 1e3).round() / 1e3, s.ok)).collect();
    let mut figures = SideFigures::of(answers.iter().copied());
    // What was sent and has not come back in time failed too.
    let lost = lag.sent.saturating_sub(figures.requests);
    figures.requests += lost;
    figures.errors += lost;
    let summary = figures.summary();
    let record = ProbeRecord {
        name: probe.name.clone(),
        url: probe.shown.clone(),
        requests: summary.requests,
        errors: summary.errors,
        window_s,
        p50: summary.p50,
        p95: summary.p95,
        p99: summary.p99,
        latencies: answers.iter().filter(|(_, good)| *good).map(|(latency, _)| *latency).collect(),
    };
    Measured { record, figures, lag, started_at, took_ms: started.elapsed().as_secs_f64() * 1e3 }
}

impl Measured {
    /// A signal came before the probe's time was over: what was measured until then decides nothing.
    pub(super) fn interrupted(&self, probe: &Probe) -> Option<Finding> {
        if !signal::stop_asked() {
            return None;
        }
        let mut finding = Finding::new(&probe.name, "baseline", Verdict::Error, self.started_at)
            .says("not measured to its end: asked to stop");
        finding.duration_ms = self.took_ms;
        Some(finding)
    }

    /// Whether enough was asked, and enough answered.
    pub(super) fn enough(&self, probe: &Probe) -> Finding {
        let answered = self.figures.latencies_ms.len() as u64;
        let (verdict, message) = if answered == 0 {
            (Verdict::NoData, format!("none of {} requests was answered well", self.figures.requests))
        } else if answered < probe.min_samples {
            let message = format!("{answered} requests answered well, {} are needed", probe.min_samples);
            (Verdict::TooFewSamples, message)
        } else if let Some(shortfall) = self.shortfall() {
            (Verdict::TooFewSamples, shortfall)
        } else {
            let p = |q: f64| show_duration(self.figures.latency(q).unwrap_or_default() / 1e3);
            let message = format!(
                "{} requests, {} errors, p50 {}, p95 {}, p99 {}",
                self.figures.requests,
                self.figures.errors,
                p(0.5),
                p(0.95),
                p(0.99)
            );
            (Verdict::Pass, message)
        };
        self.finding(probe, verdict).says(message)
    }

    /// A sentence where the asked rate was not kept.
    pub(super) fn shortfall(&self) -> Option<String> {
        let achieved = self.lag.achieved();
        (achieved < LEAST_ACHIEVED).then(|| {
            format!(
                "only {} of the {} requests that were due could be sent; at least {} must be",
                self.lag.sent,
                self.lag.due,
                show_share(LEAST_ACHIEVED)
            )
        })
    }

    /// A finding of this probe, its head filled.
    pub(super) fn finding(&self, probe: &Probe, verdict: Verdict) -> Finding {
        let mut finding = Finding::new(&probe.name, "baseline", verdict, self.started_at);
        finding.severity = probe.severity;
        finding.duration_ms = self.took_ms;
        finding.samples = Some(self.figures.requests);
        if let Some(p50) = self.figures.latency(0.5) {
            finding.observed = Some(show_duration(p50 / 1e3));
            finding.value = Some(p50);
            finding.unit = Some("ms".into());
        }
        finding
    }
}
