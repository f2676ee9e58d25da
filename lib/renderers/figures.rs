//! The figures of a promotion: its steps as a table, its course as charts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::chart::{Chart, Key, Layer, MarkLine, Picture, value_ticks};
use super::words::{Mark, clock, count, figure, lasted, metric, ms, seconds};
use crate::evidence::{FrontDoor, Interval, Judgement, MetricRecord, Promotion, SideInterval, Verdict};
use crate::severity::Severity;
use crate::units::{parse_duration, parse_share, show_duration, show_number, show_share};

/// One step of the plan.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StepRow {
    number: usize,
    asked: String,
    observed: Option<String>,
    planned: Option<String>,
    lasted: Option<String>,
    requests: Option<String>,
    errors: Option<String>,
    latency: Option<String>,
    mark: Option<Mark>,
}

/// One judgement, metric by metric.
#[derive(Clone, Debug, Serialize)]
pub(super) struct JudgementRow {
    at: String,
    step: usize,
    mark: Mark,
    summary: String,
    metrics: Vec<MetricRow>,
}

/// One metric of a judgement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MetricRow {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) mark: Mark,
    pub(super) green: Option<String>,
    pub(super) blue: Option<String>,
    pub(super) threshold: String,
    pub(super) samples: String,
    pub(super) message: String,
}

/// Some neighbouring intervals as one line of the table behind the pictures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SpanRow {
    until: String,
    weight: String,
    observed: Option<String>,
    blue_requests: String,
    blue_errors: String,
    blue_latency: Option<String>,
    green_requests: String,
    green_errors: String,
    green_latency: Option<String>,
}

/// The course of a promotion.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Course {
    pub(super) charts: Vec<Chart>,
    pub(super) spans: Vec<SpanRow>,
    /// Where the interval figures come from: `probe`, `haproxy`.
    pub(super) source: Option<String>,
    /// `p95` or `mean`.
    pub(super) latency: Option<&'static str>,
}

/// How many points a line has at most, and the table rows.
const POINTS: usize = 96;

/// The judgement that decided: the last one that failed, or the last one at all.
pub(super) fn deciding(promotion: &Promotion) -> Option<&crate::evidence::Judgement> {
    let judgements = &promotion.judgements;
    judgements.iter().rfind(|j| j.verdict == Verdict::Fail).or_else(|| judgements.last())
}

/// The metric of a name in the deciding judgement, with a figure for green.
pub(super) fn decisive<'a>(promotion: &'a Promotion, named: &str) -> Option<&'a MetricRecord> {
    let of = |j: &'a crate::evidence::Judgement| {
        let mut all = j.metrics.iter().filter(|m| m.metric == named && m.green.is_some());
        let failed = all.clone().find(|m| m.verdict == Verdict::Fail);
        let first = all.next();
        // Without a failure the source that saw the worst speaks, the first one among equals.
        let worst =
            all.fold(first, |worst, m| if m.green > worst.and_then(|w| w.green) { Some(m) } else { worst });
        failed.or(worst)
    };
    deciding(promotion).and_then(of).or_else(|| promotion.judgements.iter().rev().find_map(of))
}

/// One source of intervals: the one that was judged by, then one with quantiles, then any.
fn source_of(promotion: &Promotion) -> Option<String> {
    let has = |name: &str| promotion.series.iter().any(|i| i.source == name);
    let judged =
        ["latency_p95", "error_rate"].iter().filter_map(|m| decisive(promotion, m)).map(|m| &m.source);
    let quantiles = promotion.series.iter().find(|i| i.green.p95.is_some() || i.blue.p95.is_some());
    judged
        .chain(quantiles.map(|i| &i.source))
        .chain(promotion.series.first().map(|i| &i.source))
        .find(|name| has(name))
        .cloned()
}

/// The intervals of the chosen source.
pub(super) fn intervals(promotion: &Promotion) -> Vec<&Interval> {
    let source = source_of(promotion);
    promotion.series.iter().filter(|i| Some(&i.source) == source.as_ref()).collect()
}

/// Requests and errors of both sides over all intervals of one source.
#[derive(Clone, Debug)]
pub(super) struct Total {
    pub(super) source: String,
    pub(super) green: (u64, u64),
    pub(super) blue: (u64, u64),
}

/// The totals of every source that saw green, the one with the greatest share of errors first: what
/// users met must not hide behind probes that met nothing.
pub(super) fn totals(promotion: &Promotion) -> Vec<Total> {
    let mut all: Vec<Total> = Vec::new();
    for interval in &promotion.series {
        if !all.iter().any(|t| t.source == interval.source) {
            all.push(Total { source: interval.source.clone(), green: (0, 0), blue: (0, 0) });
        }
        let Some(total) = all.iter_mut().find(|t| t.source == interval.source) else { continue };
        for (sum, side) in [(&mut total.green, &interval.green), (&mut total.blue, &interval.blue)] {
            *sum = (sum.0.saturating_add(side.requests), sum.1.saturating_add(side.errors));
        }
    }
    all.retain(|total| total.green.0 > 0);
    let share = |(requests, errors): (u64, u64)| errors as f64 / requests as f64;
    all.sort_by(|a, b| share(b.green).total_cmp(&share(a.green)));
    all
}

/// The steps as a table.
pub(super) fn steps(promotion: &Promotion) -> Vec<StepRow> {
    let all = intervals(promotion);
    promotion
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let number = index + 1;
            let mine: Vec<_> = match step.began_at {
                None => Vec::new(),
                Some(from) => all
                    .iter()
                    .filter(|i| i.at > from && step.ended_at.is_none_or(|to| i.at <= to))
                    .copied()
                    .collect(),
            };
            let requests = mine.iter().fold(0_u64, |all, i| all.saturating_add(i.green.requests));
            let errors = mine.iter().fold(0_u64, |all, i| all.saturating_add(i.green.errors));
            let judged = promotion.judgements.iter().rfind(|j| j.step == number);
            let latency = judged
                .and_then(|j| j.metrics.iter().find(|m| m.metric == "latency_p95").and_then(|m| m.green));
            let shift = promotion.shifts.iter().rfind(|s| s.why == format!("step {number}"));
            StepRow {
                number,
                asked: show_share(step.weight),
                observed: shift.map(|s| show_share(s.read_back)),
                planned: (step.bake_s > 0.0).then(|| show_duration(step.bake_s)),
                lasted: step
                    .began_at
                    .zip(step.ended_at)
                    .filter(|(from, to)| seconds(*from, *to) > 0.0)
                    .map(|(from, to)| lasted(from, to)),
                requests: (requests > 0).then(|| count(requests)),
                errors: (requests > 0).then(|| show_share(errors as f64 / requests as f64)),
                latency: latency.map(ms),
                mark: step.verdict.map(|v| Mark::of(v, Severity::Critical)),
            }
        })
        .collect()
}

/// Every judgement; of more than forty, the failed ones and the last of each step.
pub(super) fn judgements(promotion: &Promotion) -> Vec<JudgementRow> {
    let all = &promotion.judgements;
    let last: BTreeMap<usize, usize> = all.iter().enumerate().map(|(at, j)| (j.step, at)).collect();
    let keep = |at: usize, verdict: Verdict, step: usize| {
        all.len() <= 40 || verdict == Verdict::Fail || last.get(&step) == Some(&at)
    };
    all.iter()
        .enumerate()
        .filter(|(at, j)| keep(*at, j.verdict, j.step))
        .map(|(_, j)| JudgementRow {
            at: clock(j.at),
            step: j.step,
            mark: Mark::of(j.verdict, Severity::Critical),
            summary: j.summary.clone(),
            metrics: j
                .metrics
                .iter()
                .map(|m| with_servers(metric_row(m), j))
                .chain(j.front_door.as_ref().map(|door| at_the_door(door, j.verdict)))
                .collect(),
        })
        .collect()
}

/// What requests through the front door met, as a row among the metrics.
fn at_the_door(door: &FrontDoor, verdict: Verdict) -> MetricRow {
    let users = door.users_on_green.map(|n| format!(", users on green: {}", count(n)));
    let unsigned = door.unsigned.as_ref().map(|said| format!(" ({said})"));
    MetricRow {
        name: "front door".into(),
        source: "our requests".into(),
        mark: Mark::of(verdict, Severity::Critical),
        green: Some(count(door.green)),
        blue: Some(count(door.blue)),
        threshold: format!("answered by neither: {}{}", count(door.nobody), unsigned.unwrap_or_default()),
        samples: count(door.requests),
        message: format!(
            "{} requests at the front door: green answered {}, blue {}, neither {}{}",
            count(door.requests),
            count(door.green),
            count(door.blue),
            count(door.nobody),
            users.unwrap_or_default()
        ),
    }
}

/// The samples of a probe say how many servers of green they come from, where that is known.
fn with_servers(mut row: MetricRow, judgement: &Judgement) -> MetricRow {
    if let Some(servers) = judgement.servers.filter(|_| row.source == "probe") {
        row.samples = format!("{} from {}", row.samples, of_servers(servers.green));
    }
    row
}

fn of_servers(number: u64) -> String {
    if number == 1 { "1 server".into() } else { format!("{} servers", count(number)) }
}

/// One metric as a row.
pub(super) fn metric_row(m: &MetricRecord) -> MetricRow {
    MetricRow {
        name: metric(&m.metric),
        source: m.source.clone(),
        mark: Mark::of(m.verdict, Severity::Critical),
        green: m.green.map(|v| figure(v, &m.unit)),
        blue: m.blue.map(|v| figure(v, &m.unit)),
        threshold: m.threshold.clone(),
        samples: count(m.green_samples),
        message: m.message.clone(),
    }
}

/// The charts and the table behind them.
pub(super) fn course(promotion: &Promotion) -> Course {
    let series = intervals(promotion);
    let Some((from, to)) = range(promotion, &series) else {
        return Course { charts: Vec::new(), spans: Vec::new(), source: None, latency: None };
    };
    // A little more than the last moment, so that what happened then can be seen.
    let span = (seconds(from, to) * 1.02).max(1.0);
    let buckets = buckets(&series);
    let p95 = series.iter().any(|i| i.green.p95.is_some() || i.blue.p95.is_some());
    let mean = series.iter().any(|i| i.green.mean.is_some() || i.blue.mean.is_some());
    let latency = if p95 { Some("p95") } else { mean.then_some("mean") };
    let charts = [
        traffic(promotion, from, span),
        latency.and_then(|which| latencies(promotion, &buckets, which, from, span)),
        errors(promotion, &buckets, from, span),
    ];
    Course {
        charts: charts.into_iter().flatten().collect(),
        spans: buckets.iter().map(|b| b.row(latency)).collect(),
        source: source_of(promotion),
        latency,
    }
}

fn range(promotion: &Promotion, series: &[&Interval]) -> Option<(Timestamp, Timestamp)> {
    let moments = || {
        let rollback = promotion
            .rollback
            .iter()
            .flat_map(|r| [Some(r.decided_at), r.read_back_at, r.drained_at].into_iter().flatten());
        let steps = promotion.steps.iter().flat_map(|s| [s.began_at, s.ended_at]).flatten();
        promotion.shifts.iter().map(|s| s.at).chain(series.iter().map(|i| i.at)).chain(rollback).chain(steps)
    };
    Some((moments().min()?, moments().max()?))
}

fn traffic(promotion: &Promotion, from: Timestamp, span: f64) -> Option<Chart> {
    let shifts = &promotion.shifts;
    if shifts.is_empty() {
        return None;
    }
    let at = |t: Timestamp| seconds(from, t);
    let asked: Vec<_> = shifts.iter().map(|s| (at(s.at), s.asked)).collect();
    let read: Vec<_> = shifts.iter().map(|s| (at(s.at), s.read_back)).collect();
    let probed: Vec<_> = shifts
        .iter()
        .filter_map(|s| s.probed.as_ref().map(|p| (s, p)))
        .map(|(s, p)| (s, p.green as f64, p.green as f64 + p.blue as f64))
        .filter(|(_, _, all)| *all > 0.0)
        .map(|(s, green, all)| (at(s.at), green / all))
        .collect();
    let every = promotion.series.len().div_ceil(POINTS).max(1);
    let specks: Vec<_> =
        promotion.series.iter().filter_map(|i| i.observed.map(|o| (at(i.at), o))).step_by(every).collect();
    let mut keys = vec![Key { class: "green", text: "asked".into() }];
    keys.push(Key { class: "read", text: "read back from the router".into() });
    if !probed.is_empty() {
        keys.push(Key { class: "probe", text: "met by probes".into() });
    }
    if !specks.is_empty() {
        keys.push(Key { class: "speck", text: "counted by the router".into() });
    }
    let way: Vec<_> = shifts.iter().map(|s| show_share(s.asked)).collect();
    let agree = shifts.iter().all(|s| (s.asked - s.read_back).abs() < 0.005);
    let verdict =
        if agree { "What was read back agrees at every change." } else { "What was read back differs." };
    let highest = shifts.iter().map(|s| s.asked.max(s.read_back)).fold(0.0, f64::max);
    let (top, ticks) = share_axis(highest);
    let picture = Picture {
        id: "traffic",
        title: format!(
            "Share of traffic on green over {}: {}. {verdict}",
            show_duration(span),
            way.join(", then ")
        ),
        caption: "Share of traffic on green".into(),
        keys,
        span,
        top,
        ticks,
        layers: vec![
            Layer::Steps(asked),
            Layer::Specks(specks),
            Layer::Circles(read),
            Layer::Diamonds(probed),
        ],
        limit: None,
        marks: marks(promotion, from),
    };
    Some(picture.draw())
}

/// The whole for a release that came far; a part of it, named as such by its labels, for one that
/// ended at a small share, whose way back would be invisible otherwise.
fn share_axis(highest: f64) -> (f64, Vec<(f64, String)>) {
    let (top, ticks) = if highest > 0.2 || highest <= 0.0 {
        (100.0, vec![0.0, 25.0, 50.0, 75.0, 100.0])
    } else {
        value_ticks(highest * 130.0)
    };
    (top / 100.0, ticks.into_iter().map(|v| (v / 100.0, format!("{}%", show_number(v)))).collect())
}

/// The last judgement of each step, every failed one, and the rollback.
fn marks(promotion: &Promotion, from: Timestamp) -> Vec<MarkLine> {
    let last: BTreeMap<usize, &crate::evidence::Judgement> =
        promotion.judgements.iter().map(|j| (j.step, j)).collect();
    let rollback = promotion.rollback.as_ref().map(|r| MarkLine {
        at: seconds(from, r.decided_at),
        text: "✗ rolled back".into(),
        bad: true,
    });
    let decided = promotion.rollback.as_ref().map(|r| r.decided_at);
    let mut marks: Vec<_> = last
        .into_values()
        // The rollback's own line says it already.
        .filter(|j| decided.is_none_or(|d| j.verdict != Verdict::Fail || seconds(j.at, d) > 1.0))
        .map(|j| {
            let mark = Mark::of(j.verdict, Severity::Critical);
            MarkLine {
                at: seconds(from, j.at),
                text: format!("{} judged, {}", mark.sign, mark.word),
                bad: j.verdict == Verdict::Fail,
            }
        })
        .chain(rollback)
        .collect();
    marks.sort_by(|a, b| a.at.total_cmp(&b.at));
    marks
}

/// Neighbouring intervals, put together so that a line stays legible.
struct Bucket {
    at: Timestamp,
    weight: f64,
    observed: Option<f64>,
    blue: SideInterval,
    green: SideInterval,
}

fn buckets(series: &[&Interval]) -> Vec<Bucket> {
    let size = series.len().div_ceil(POINTS).max(1);
    series
        .chunks(size)
        .filter_map(|chunk| {
            let last = chunk.last()?;
            Some(Bucket {
                at: last.at,
                weight: last.weight,
                observed: last.observed,
                blue: together(chunk.iter().map(|i| i.blue)),
                green: together(chunk.iter().map(|i| i.green)),
            })
        })
        .collect()
}

/// Counts are summed; of latencies the worst is kept, so that no peak is smoothed away.
fn together(parts: impl Iterator<Item = SideInterval>) -> SideInterval {
    let worst = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    parts.fold(SideInterval::default(), |sum, part| SideInterval {
        requests: sum.requests.saturating_add(part.requests),
        errors: sum.errors.saturating_add(part.errors),
        p50: worst(sum.p50, part.p50),
        p95: worst(sum.p95, part.p95),
        p99: worst(sum.p99, part.p99),
        mean: worst(sum.mean, part.mean),
        max: worst(sum.max, part.max),
    })
}

fn latency_of(side: &SideInterval, which: &str) -> Option<f64> {
    if which == "p95" { side.p95 } else { side.mean }
}

fn error_share(side: &SideInterval) -> Option<f64> {
    (side.requests > 0).then(|| side.errors as f64 / side.requests as f64)
}

impl Bucket {
    fn row(&self, latency: Option<&str>) -> SpanRow {
        let of = |side: &SideInterval| latency.and_then(|which| latency_of(side, which)).map(ms);
        SpanRow {
            until: clock(self.at),
            weight: show_share(self.weight),
            observed: self.observed.map(show_share),
            blue_requests: count(self.blue.requests),
            blue_errors: count(self.blue.errors),
            blue_latency: of(&self.blue),
            green_requests: count(self.green.requests),
            green_errors: count(self.green.errors),
            green_latency: of(&self.green),
        }
    }
}

/// The figure of a plain threshold such as `> 120ms`; none for a comparison with blue.
fn bound(threshold: &str, parse: fn(&str) -> Result<f64, String>) -> Option<f64> {
    let text = threshold.trim().trim_start_matches(['>', '<', '=']).trim();
    (text.len() < threshold.trim().len()).then(|| parse(text).ok()).flatten()
}

fn threshold_of(
    promotion: &Promotion,
    named: &str,
    parse: fn(&str) -> Result<f64, String>,
) -> Option<(f64, String)> {
    promotion.judgements.iter().rev().flat_map(|j| &j.metrics).filter(|m| m.metric == named).find_map(|m| {
        bound(&m.threshold, parse).map(|value| (value, format!("rolls back at {}", m.threshold)))
    })
}

fn side_keys(promotion: &Promotion) -> Vec<Key> {
    let name = |side: &str, version: &Option<String>| match version {
        Some(version) => format!("{side} {version}"),
        None => side.to_owned(),
    };
    vec![
        Key { class: "green", text: name("green", &promotion.green.version) },
        Key { class: "blue", text: name("blue", &promotion.blue.version) },
    ]
}

fn latencies(
    promotion: &Promotion,
    buckets: &[Bucket],
    which: &'static str,
    from: Timestamp,
    span: f64,
) -> Option<Chart> {
    let name = if which == "p95" { "p95 latency" } else { "Mean latency" };
    let limit = (which == "p95")
        .then(|| threshold_of(promotion, "latency_p95", |t| parse_duration(t).map(|s| s * 1e3)))
        .flatten();
    let of = |side: fn(&Bucket) -> &SideInterval| -> Vec<(f64, Option<f64>)> {
        buckets.iter().map(|b| (seconds(from, b.at), latency_of(side(b), which))).collect()
    };
    let lines =
        Lines { id: "latency", name, unit: "ms", green: of(|b| &b.green), blue: of(|b| &b.blue), limit };
    lines.draw(promotion, span, show_number, ms)
}

fn errors(promotion: &Promotion, buckets: &[Bucket], from: Timestamp, span: f64) -> Option<Chart> {
    let of = |side: fn(&Bucket) -> &SideInterval| -> Vec<(f64, Option<f64>)> {
        buckets.iter().map(|b| (seconds(from, b.at), error_share(side(b)).map(|s| s * 100.0))).collect()
    };
    let limit = threshold_of(promotion, "error_rate", |t| parse_share(t).map(|s| s * 100.0));
    let (green, blue) = (of(|b| &b.green), of(|b| &b.blue));
    let highest = green.iter().chain(&blue).filter_map(|(_, v)| *v).fold(0.0, f64::max);
    // Far below the limit there is only noise to see; the table has the figures.
    if highest <= limit.as_ref().map_or(0.0, |(value, _)| value / 4.0) {
        return None;
    }
    let lines = Lines { id: "errors", name: "Error rate", unit: "%", green, blue, limit };
    lines.draw(promotion, span, show_number, |v| show_share(v / 100.0))
}

struct Lines {
    id: &'static str,
    name: &'static str,
    unit: &'static str,
    green: Vec<(f64, Option<f64>)>,
    blue: Vec<(f64, Option<f64>)>,
    limit: Option<(f64, String)>,
}

impl Lines {
    fn draw(
        self,
        promotion: &Promotion,
        span: f64,
        label: impl Fn(f64) -> String,
        say: impl Fn(f64) -> String,
    ) -> Option<Chart> {
        let values = || self.green.iter().chain(&self.blue).filter_map(|(_, v)| *v);
        let highest = values().fold(f64::NAN, f64::max);
        if !highest.is_finite() {
            return None;
        }
        let extent = |points: &[(f64, Option<f64>)]| {
            let all = || points.iter().filter_map(|(_, v)| *v);
            let (low, high) = (all().fold(f64::NAN, f64::min), all().fold(f64::NAN, f64::max));
            (low.is_finite()).then(|| format!("{} to {}", say(low), say(high)))
        };
        let mut title = self.name.to_owned();
        for (side, points) in [("green", &self.green), ("blue", &self.blue)] {
            if let Some(extent) = extent(points) {
                title = format!("{title}; {side} from {extent}");
            }
        }
        let mut caption = format!("{} in {}", self.name, self.unit);
        let mut limit = self.limit;
        if let Some((value, text)) = &limit {
            title = format!("{title}; {text}");
            if *value > highest.max(f64::MIN_POSITIVE) * 8.0 {
                // Drawn to scale, the lines would lie flat on the ground.
                caption = format!("{caption} ({text}, far above the picture)");
                limit = None;
            }
        }
        let reach = limit.as_ref().map_or(highest, |(value, _)| highest.max(*value));
        let (top, ticks) = value_ticks(reach);
        let picture = Picture {
            id: self.id,
            title: format!("{title}."),
            caption,
            keys: side_keys(promotion),
            span,
            top,
            ticks: ticks.into_iter().map(|v| (v, label(v))).collect(),
            layers: vec![
                Layer::Line { class: "blue", points: self.blue },
                Layer::Line { class: "green", points: self.green },
            ],
            limit,
            marks: Vec::new(),
        };
        Some(picture.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_thresholds_have_a_line() {
        let milliseconds = |t: &str| parse_duration(t).map(|s| s * 1e3);
        assert_eq!(bound("> 120ms", milliseconds), Some(120.0));
        assert_eq!(bound(">= 0.1%", parse_share).map(|s| (s * 1e4).round()), Some(10.0));
        assert_eq!(bound("worse than blue by more than 5 %", milliseconds), None);
        assert_eq!(bound("> many", milliseconds), None);
    }
}
