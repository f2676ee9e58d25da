//! Watching a step: samples of both sides and the router's counters, judged over the whole window
//! since the step began.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::machine::Look;
use super::record::Record;
use crate::evidence::{Interval, Judgement, MetricRecord, SideInterval, Verdict};
use crate::judge::{SideFigures, judge_trigger, quantile};
use crate::metrics::probe::{Sample, Sampler};
use crate::plan::{Promote, Trigger};
use crate::routers::{Counters, MEAN_OF_LAST, SideCount};
use crate::world::http::join;

/// What is measured while a step is watched.
pub(super) struct Watch {
    sampler: Sampler,
    /// By how much the driver's clock is ahead of the one that the samples carry, in ms.
    ahead_ms: i64,
    /// Blue and green, since the last interval that was put on record.
    recent: [Window; 2],
    recorded_at: i64,
}

/// What was seen of one side. Requests and errors are all counted; of the latencies a bounded number
/// is kept, evenly spread, so that days of watching fit into memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    requests: u64,
    errors: u64,
    latencies: Vec<f64>,
    /// One latency of so many is kept.
    stride: u64,
    /// The greatest latency, kept or not.
    #[serde(default)]
    max_ms: Option<f64>,
}

/// The greatest number of latencies that are kept for each side.
const KEPT: usize = 1 << 16;

/// The greatest number of latencies that are saved for each side.
const SAVED: usize = 1 << 11;

impl Default for Window {
    fn default() -> Self {
        Self { requests: 0, errors: 0, latencies: Vec::new(), stride: 1, max_ms: None }
    }
}

impl Window {
    /// Requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// The same in less space, for the state on disk.
    pub(super) fn packed(&self) -> Self {
        let mut packed = self.clone();
        while packed.latencies.len() > SAVED {
            packed.thin_out();
        }
        for latency in &mut packed.latencies {
            *latency = (*latency * 1e3).round() / 1e3;
        }
        packed
    }

    /// Every other latency is dropped.
    fn thin_out(&mut self) {
        let mut keep = false;
        self.latencies.retain(|_| {
            keep = !keep;
            keep
        });
        self.stride *= 2;
    }

    fn add(&mut self, latency_ms: f64, ok: bool) {
        self.requests += 1;
        if ok {
            self.max_ms = Some(self.max_ms.map_or(latency_ms, |max| max.max(latency_ms)));
        }
        if !ok {
            self.errors += 1;
        } else if (self.requests - self.errors).is_multiple_of(self.stride) {
            self.latencies.push(latency_ms);
        }
        if self.latencies.len() >= KEPT {
            self.thin_out();
        }
    }

    fn figures(&self) -> SideFigures {
        let kept = SideFigures::of(self.latencies.iter().map(|ms| (*ms, true)));
        // A record of before has no greatest one.
        let max = self.max_ms.or(kept.max);
        SideFigures { requests: self.requests, errors: self.errors, max, ..kept }
    }
}

/// The greatest number of intervals that one step puts on record for each source.
const INTERVALS_PER_STEP: i64 = 120;

/// A probe that sends fewer of its requests than this did not measure what was asked.
const ACHIEVED: f64 = 0.9;

impl Watch {
    /// Begins to ask both sides.
    /// `recorded_at` is when an interval was last put on record, in ms.
    pub(super) fn begin(plan: &Promote, now: Timestamp, recorded_at: i64) -> Self {
        let urls = [&plan.sides.blue, &plan.sides.green].map(|side| join(&side.url.value, &plan.probe.path));
        let timeout = plan.probe.timeout.map_or(Duration::from_secs(5), |t| t.0);
        Self {
            sampler: Sampler::start(&urls, plan.probe.rate.0, timeout, &plan.probe.header),
            ahead_ms: now.as_millisecond() - crate::world::now().as_millisecond(),
            recent: Default::default(),
            recorded_at,
        }
    }

    /// A new step: what was seen before does not count for it.
    pub(super) fn next_step(&mut self, since_ms: i64) {
        self.recent = Default::default();
        self.recorded_at = since_ms;
    }

    fn gather(&mut self, since_ms: i64, watched: &mut [Window; 2]) {
        for (side, samples) in self.sampler.take().into_iter().enumerate().take(2) {
            for Sample { at, latency_ms, ok, .. } in samples {
                if at.as_millisecond().saturating_add(self.ahead_ms) >= since_ms {
                    watched[side].add(latency_ms, ok);
                    self.recent[side].add(latency_ms, ok);
                }
            }
        }
    }
}

/// One look at a step.
pub(super) struct Looked {
    /// What came of it.
    pub look: Look,
    /// The judgement for the record.
    pub judgement: Judgement,
}

/// What a look needs to know.
pub(super) struct Scene<'a> {
    /// The plan's promote section.
    pub plan: &'a Promote,
    /// The step, from 0.
    pub step: usize,
    /// Its beginning, in ms.
    pub since_ms: i64,
    /// How long it is watched, in ms.
    pub bake_ms: i64,
    /// Green's share, asked.
    pub weight: f64,
    /// The moment.
    pub now: Timestamp,
    /// What the router counts now, where it counts.
    pub counters: Option<Counters>,
    /// Why it did not say what it counted, where it should have.
    pub lost: Option<String>,
}

/// Looks at the whole window since the step began, and puts the newest interval on record.
pub(super) fn look(watch: &mut Watch, record: &mut Record, scene: &Scene<'_>) -> Looked {
    watch.gather(scene.since_ms, &mut record.watched);
    // Without a base the counters since the router's start would be judged: releases of long ago.
    let mut unjudged =
        scene.lost.as_ref().map(|why| format!("the router does not say what it counted: {why}"));
    if record.base.is_none() && scene.counters.is_some() {
        record.base.clone_from(&scene.counters);
        unjudged = Some(
            "what the router had counted when the step began is not known; it counts from now on".into(),
        );
    }
    let base = record.base.clone().filter(|b| same_instance(b, scene.counters.as_ref())).unwrap_or_default();
    let min = scene.plan.min_samples.unwrap_or(50).max(1);
    let probes = [0, 1].map(|side| record.watched[side].figures());
    let window_ms = (scene.now.as_millisecond() - scene.since_ms) as f64;
    let open = watch.sampler.overdue(OVERDUE);
    let open = [0, 1].map(|side| open.get(side).map_or(&[][..], Vec::as_slice));
    let kept_pace = watch.sampler.lag().iter().all(|lag| lag.achieved() >= ACHIEVED);
    let mut metrics = Vec::new();
    let mut look = Look::Good;
    for trigger in &scene.plan.rollback_when {
        let mut of_trigger = vec![probe_record(trigger, &probes, open, window_ms, min, kept_pace)];
        if let Some(counters) = scene.counters.as_ref().filter(|_| router_counts(&trigger.metric)) {
            let [blue, green] = [since(base.blue, counters.blue), since(base.green, counters.green)];
            of_trigger.push(judge_trigger(trigger, &scene.plan.router.kind, &green, &blue, min));
        }
        look = worse(look, look_of(&of_trigger));
        metrics.extend(of_trigger);
    }
    put_on_record(watch, record, scene, &base);
    if unjudged.is_some() {
        look = worse(look, Look::Unknown);
    }
    let judgement = judgement(scene, look, metrics, unjudged);
    Looked { look, judgement }
}

/// Requests without an answer after this long count with their age: their true latency is greater.
const OVERDUE: Duration = Duration::from_secs(1);

fn probe_record(
    trigger: &Trigger,
    probes: &[SideFigures; 2],
    open: [&[f64]; 2],
    window_ms: f64,
    min: u64,
    kept_pace: bool,
) -> MetricRecord {
    let [blue, green] = [0, 1].map(|side| {
        let mut figures = probes[side].clone();
        // They are no errors yet, and as good answers they would make the error rate smaller.
        if trigger.metric.starts_with("latency_") {
            with_open(&mut figures, open[side].iter().copied().filter(|age| *age <= window_ms));
        }
        figures
    });
    let unanswered = green.requests - probes[1].requests;
    let mut record = judge_trigger(trigger, "probe", &green, &blue, min);
    if unanswered > 0 {
        record.message.push_str(&format!(", {unanswered} still without an answer counted with their age"));
    }
    if record.verdict == Verdict::Pass && !kept_pace {
        record.verdict = Verdict::TooFewSamples;
        record.message = "this machine could not send the probes at the rate that the plan asks for".into();
    }
    record
}

fn with_open(figures: &mut SideFigures, ages: impl Iterator<Item = f64>) {
    let before = figures.latencies_ms.len() as f64;
    let sum = figures.mean.map_or(0.0, |mean| mean * before);
    let ages: Vec<f64> = ages.collect();
    if ages.is_empty() {
        return;
    }
    figures.requests += ages.len() as u64;
    figures.mean = Some((sum + ages.iter().sum::<f64>()) / (before + ages.len() as f64));
    figures.latencies_ms.extend(&ages);
    figures.latencies_ms.sort_by(f64::total_cmp);
    // The greatest one may be among those that were not kept.
    let last = figures.latencies_ms.last().copied();
    figures.max = figures.max.into_iter().chain(last).max_by(f64::total_cmp);
}

/// What one trigger says over all its sources: one that fires is enough, and one that passes must be
/// there. A source that has seen too little does not stand in the way of one that has seen enough.
fn look_of(records: &[MetricRecord]) -> Look {
    let any = |verdict: Verdict| records.iter().any(|r| r.verdict == verdict);
    if any(Verdict::Fail) {
        Look::Bad
    } else if any(Verdict::Pass) && !any(Verdict::Error) {
        Look::Good
    } else {
        Look::Unknown
    }
}

fn worse(a: Look, b: Look) -> Look {
    match (a, b) {
        (Look::Bad, _) | (_, Look::Bad) => Look::Bad,
        (Look::Unknown, _) | (_, Look::Unknown) => Look::Unknown,
        (Look::Good, Look::Good) => Look::Good,
    }
}

/// The metrics that a router without quantiles can give.
fn router_counts(metric: &str) -> bool {
    matches!(metric, "error_rate" | "latency_mean" | "latency_max")
}

/// Counters begin anew with the router, or when somebody clears them, so a base from before is none.
fn same_instance(base: &Counters, now: Option<&Counters>) -> bool {
    let went_on =
        |base: SideCount, now: SideCount| now.requests >= base.requests && now.errors >= base.errors;
    now.is_some_and(|now| {
        now.instance == base.instance && went_on(base.blue, now.blue) && went_on(base.green, now.green)
    })
}

/// What was counted between two readings. A maximum counts only where it has risen: the router
/// remembers the greatest since its start, not since the step began. A mean counts only where all of
/// the requests behind it belong to the window.
fn since(base: SideCount, now: SideCount) -> SideFigures {
    SideFigures {
        requests: now.requests.saturating_sub(base.requests),
        errors: now.errors.saturating_sub(base.errors),
        latencies_ms: Vec::new(),
        mean: now.mean_ms.filter(|_| {
            let fresh = now.requests.saturating_sub(base.requests);
            fresh >= MEAN_OF_LAST || (fresh > 0 && base.requests == 0)
        }),
        max: now.max_ms.filter(|max| base.max_ms.is_none_or(|before| *max > before)),
    }
}

fn judgement(
    scene: &Scene<'_>,
    look: Look,
    metrics: Vec<MetricRecord>,
    unjudged: Option<String>,
) -> Judgement {
    let all = |verdict: Verdict| metrics.iter().all(|m| m.verdict == verdict || m.verdict == Verdict::Pass);
    let verdict = match look {
        Look::Good => Verdict::Pass,
        Look::Bad => Verdict::Fail,
        Look::Unknown if metrics.iter().any(|m| m.verdict == Verdict::Error) => Verdict::Error,
        Look::Unknown if unjudged.is_some() => Verdict::Error,
        Look::Unknown if all(Verdict::NoData) => Verdict::NoData,
        Look::Unknown => Verdict::TooFewSamples,
    };
    let telling: Vec<&MetricRecord> = match look {
        Look::Bad => metrics.iter().filter(|m| m.verdict == Verdict::Fail).collect(),
        Look::Unknown => metrics.iter().filter(|m| m.verdict != Verdict::Pass).collect(),
        Look::Good => metrics.iter().filter(|m| m.verdict == Verdict::Pass).collect(),
    };
    let mut summary =
        telling.iter().map(|m| format!("{} ({})", m.message, m.source)).collect::<Vec<_>>().join("; ");
    if let (Some(unjudged), Look::Unknown) = (unjudged, look) {
        summary = unjudged;
    }
    if summary.is_empty() {
        summary = "nothing was judged".into();
    }
    Judgement {
        at: scene.now,
        step: scene.step + 1,
        window_from: Timestamp::from_millisecond(scene.since_ms).unwrap_or(scene.now),
        verdict,
        summary,
        metrics,
    }
}

/// Puts an interval on record when enough time has passed since the last one.
fn put_on_record(watch: &mut Watch, record: &mut Record, scene: &Scene<'_>, base: &Counters) {
    let now = scene.now.as_millisecond();
    let spacing = (scene.bake_ms / INTERVALS_PER_STEP).max(200);
    if now - watch.recorded_at < spacing {
        return;
    }
    watch.recorded_at = now;
    let [blue, green] = [0, 1].map(|side| probe_interval(&std::mem::take(&mut watch.recent[side]).figures()));
    if blue.requests + green.requests > 0 {
        record.promotion.series.push(Interval {
            at: scene.now,
            weight: scene.weight,
            observed: None,
            source: "probe".into(),
            blue,
            green,
        });
    }
    let Some(counters) = &scene.counters else { return };
    let before =
        record.counted.take().filter(|b| same_instance(b, Some(counters))).unwrap_or_else(|| base.clone());
    let [blue, green] = [(before.blue, counters.blue), (before.green, counters.green)]
        .map(|(b, n)| counter_interval(&since(b, n)));
    let all = blue.requests + green.requests;
    record.promotion.series.push(Interval {
        at: scene.now,
        weight: scene.weight,
        observed: (all > 0).then(|| green.requests as f64 / all as f64),
        source: scene.plan.router.kind.clone(),
        blue,
        green,
    });
    record.counted = Some(counters.clone());
}

fn probe_interval(figures: &SideFigures) -> SideInterval {
    let at = |q: f64| quantile(&figures.latencies_ms, q);
    SideInterval { p50: at(0.5), p95: at(0.95), p99: at(0.99), ..counter_interval(figures) }
}

fn counter_interval(figures: &SideFigures) -> SideInterval {
    SideInterval {
        requests: figures.requests,
        errors: figures.errors,
        mean: figures.mean,
        max: figures.max,
        ..SideInterval::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(verdict: Verdict) -> MetricRecord {
        MetricRecord {
            metric: "error_rate".into(),
            source: "probe".into(),
            verdict,
            green: None,
            blue: None,
            unit: "%".into(),
            threshold: "> 1%".into(),
            green_samples: 0,
            blue_samples: 0,
            message: String::new(),
        }
    }

    #[test]
    fn silence_never_passes_and_one_alarm_is_enough() {
        use Verdict::{Error, Fail, NoData, Pass, TooFewSamples};
        let cases: &[(&[Verdict], Look)] = &[
            (&[], Look::Unknown),
            (&[NoData], Look::Unknown),
            (&[TooFewSamples], Look::Unknown),
            (&[TooFewSamples, Pass], Look::Good),
            (&[Pass, Error], Look::Unknown),
            (&[Pass, Fail], Look::Bad),
            (&[NoData, Fail], Look::Bad),
        ];
        for (verdicts, expected) in cases {
            let records: Vec<MetricRecord> = verdicts.iter().map(|v| record(*v)).collect();
            assert_eq!(look_of(&records), *expected, "{verdicts:?}");
        }
    }

    #[test]
    fn days_of_watching_fit_into_memory_and_no_error_is_left_out() {
        let mut window = Window::default();
        for n in 0..1_000_000_u32 {
            window.add(f64::from(n % 1000), n % 100 != 7);
        }
        assert!(window.latencies.len() < KEPT && window.latencies.len() > KEPT / 4);
        let figures = window.figures();
        assert_eq!((figures.requests, figures.errors), (1_000_000, 10_000));
        let p95 = quantile(&figures.latencies_ms, 0.95).unwrap_or_default();
        assert!((940.0..960.0).contains(&p95), "{p95}");
    }

    #[test]
    fn the_greatest_latency_outlives_the_thinning_and_the_state_on_disk() {
        let mut window = Window::default();
        for n in 0..200_000_u32 {
            window.add(if n == 101_001 { 9_000.0 } else { 5.0 }, true);
        }
        let json = serde_json::to_string(&window.packed()).unwrap();
        let mut window: Window = serde_json::from_str(&json).unwrap();
        window.add(6.0, true);
        assert_eq!(window.figures().max, Some(9_000.0));
    }

    #[test]
    fn counters_that_somebody_cleared_hide_no_error() {
        let count = |requests, errors| Counters {
            green: SideCount { requests, errors, ..SideCount::default() },
            instance: "1".into(),
            ..Counters::default()
        };
        // Cleared, and past the old number of requests since: the errors tell.
        assert!(!same_instance(&count(1000, 50), Some(&count(1200, 40))));
        assert!(same_instance(&count(1000, 50), Some(&count(1200, 50))));
    }

    #[test]
    fn a_mean_over_requests_from_before_the_step_is_none() {
        let count = |requests, mean| SideCount { requests, mean_ms: Some(mean), ..SideCount::default() };
        assert_eq!(since(count(5000, 9.0), count(5100, 9.0)).mean, None);
        assert_eq!(since(count(5000, 9.0), count(5000 + MEAN_OF_LAST, 7.0)).mean, Some(7.0));
        assert_eq!(since(count(0, 0.0), count(100, 7.0)).mean, Some(7.0));
    }

    #[test]
    fn counters_of_an_earlier_start_are_no_base() {
        let count = |requests, instance: &str| Counters {
            green: SideCount { requests, ..SideCount::default() },
            instance: instance.into(),
            ..Counters::default()
        };
        assert!(same_instance(&count(10, "1"), Some(&count(20, "1"))));
        assert!(!same_instance(&count(10, "1"), Some(&count(20, "2"))));
        assert!(!same_instance(&count(10, "1"), Some(&count(5, "1"))));
    }
}
