//! What the values of a metric mean: no I/O and no clock, only what was answered.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::ask::{Answer, Part, Read, Silent};
use super::figure::Figure;
use super::{Condition, Is, Metric, Moved};
use crate::evidence::{CrossingRecord, Finding, MetricVerified, MetricWindow, TestRecord, Verdict};
use crate::judge::trend::{self, Crossing, Limit, Season, Undecided, predict, seasonal_anomalies};
use crate::judge::{Allowed, MIN_FOR_PERIODS, compare_periods, median, stepped};
use crate::metrics::TroubleKind;
use crate::plan::{Before, Expected, MetricUnit, Worse};
use crate::redact::redact;
use crate::units::{Observed, Unit, parse_operand, show_duration, show_number};

/// A series whose newest value is this many steps overdue is late.
const LATE_STEPS: u32 = 3;
/// Fewest values that are called constant.
const MIN_CONSTANT: usize = 3;

/// A value and its moment in ms, in the recorded unit.
type Value = (i64, f64);

/// A metric and what its source answered.
pub(super) struct Frame<'a> {
    pub(super) metric: &'a Metric,
    pub(super) answer: &'a Answer,
    /// When the answers were in.
    pub(super) at: Timestamp,
    pub(super) moved: Option<Moved>,
}

/// What came of one condition.
struct Judged {
    verdict: Verdict,
    outcome: &'static str,
    message: String,
    value: Option<f64>,
    baseline: Option<f64>,
    test: Option<TestRecord>,
    crossing: Option<CrossingRecord>,
    changed_at: Option<Timestamp>,
}

/// Why the values of a window cannot be judged.
struct Unfit {
    verdict: Verdict,
    outcome: &'static str,
    message: String,
}

impl From<Unfit> for Judged {
    fn from(unfit: Unfit) -> Self {
        Self::new(unfit.verdict, unfit.outcome, unfit.message)
    }
}

impl Judged {
    fn new(verdict: Verdict, outcome: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            verdict,
            outcome,
            message,
            value: None,
            baseline: None,
            test: None,
            crossing: None,
            changed_at: None,
        }
    }

    fn by(fails: bool, message: impl Into<String>) -> Self {
        if fails {
            Self::new(Verdict::Fail, "fail", message)
        } else {
            Self::new(Verdict::Pass, "pass", message)
        }
    }

    fn too_few(message: impl Into<String>) -> Self {
        Self::new(Verdict::TooFewSamples, "too_few_samples", message)
    }

    fn undecided(why: Undecided) -> Self {
        match why.verdict() {
            Verdict::NoData => Self::new(Verdict::NoData, "no_data", why.message()),
            Verdict::TooFewSamples => Self::too_few(why.message()),
            _ => Self::new(Verdict::Error, "not_a_number", why.message()),
        }
    }

    fn with(mut self, value: f64, baseline: Option<f64>) -> Self {
        self.value = Some(value);
        self.baseline = baseline;
        self
    }
}

/// The finding of a record.
pub(super) fn finding(
    metric: &Metric,
    condition: &Condition,
    record: &MetricVerified,
    started_at: Timestamp,
) -> Finding {
    let name = format!("{}: {}", record.metric, record.asked);
    let mut finding = Finding::new(name, &record.source, record.verdict, started_at).says(&record.message);
    finding.severity = metric.spec.severity;
    finding.expected = Some(record.threshold.clone());
    finding.samples = record.window.map(|w| w.samples);
    let dimension = condition.dimension(metric.spec.unit);
    if let Some(value) = record.value {
        let observed = observed(dimension, value);
        finding.observed = Some(observed.to_string());
        if let Some((value, unit)) = observed.figure() {
            finding.value = Some(value);
            finding.unit = Some(unit.to_owned()).filter(|unit| !unit.is_empty());
        }
    }
    let word = condition.baseline_word();
    finding.baseline = record.baseline.map(|b| format!("{} {word}", self::observed(dimension, b)));
    finding.evidence = json!({
        "outcome": record.outcome,
        "query": record.query,
        "window": record.window,
        "before": record.before,
        "test": record.test,
    });
    if let Some(keys) = finding.evidence.as_object_mut() {
        keys.retain(|_, value| !value.is_null());
    }
    finding
}

impl Condition {
    fn dimension(&self, unit: MetricUnit) -> Unit {
        match &self.is {
            Is::Expect(figure, _) => figure.dimension(unit),
            _ => unit.dimension(),
        }
    }

    /// What follows a figure that it was held against.
    fn baseline_word(&self) -> &'static str {
        if matches!(self.is, Is::Anomaly { .. }) { "is usual" } else { "before" }
    }

    /// The windows that it looks at: the one that is judged, and what it is held against.
    fn parts(&self) -> (Part, Option<Part>) {
        match &self.is {
            Is::Expect(..) => (Part::Newest, None),
            Is::Compare(Before::Ago(_), _) => (Part::Newest, Some(Part::Before)),
            Is::Compare(Before::Release, _) => (Part::Since, Some(Part::Before)),
            Is::Trend { .. } => (Part::Trend, None),
            Is::Anomaly { .. } => (Part::Newest, Some(Part::History)),
            Is::Level { .. } => (Part::Level, None),
        }
    }
}

impl Frame<'_> {
    /// What came of one condition.
    pub(super) fn judge(&self, condition: &Condition) -> MetricVerified {
        let (own, before) = condition.parts();
        let read = |part: Part| self.answer.reads.iter().find(|read| read.part == part);
        let judged = self.look(condition);
        let window = |read: &Read| MetricWindow {
            from: read.span.from,
            to: read.span.to,
            step_s: read.span.step.as_secs_f64(),
            samples: read.points.as_ref().map_or(0, |points| points.len() as u64),
        };
        let unit = match condition.dimension(self.metric.spec.unit) {
            Unit::Plain => "",
            _ => self.metric.spec.unit.word(),
        };
        MetricVerified {
            metric: self.metric.spec.name.clone(),
            asked: condition.asked.clone(),
            source: self.metric.spec.kind.clone(),
            verdict: judged.verdict,
            outcome: judged.outcome.into(),
            query: read(own).map(|read| read.query.clone()),
            window: read(own).map(window),
            before: before.and_then(read).map(window),
            value: judged.value.filter(|v| v.is_finite()),
            baseline: judged.baseline.filter(|v| v.is_finite()),
            unit: unit.into(),
            threshold: condition.threshold.clone(),
            test: judged.test,
            crossing: judged.crossing,
            changed_at: judged.changed_at,
            message: redact(&judged.message),
        }
    }

    fn look(&self, condition: &Condition) -> Judged {
        match self.answer.silent {
            Some(Silent::Hangs) => {
                let message = "the source does not answer, and does not give up either";
                return Judged::new(Verdict::Error, "not_answered", message);
            }
            Some(Silent::BrokeOff) => {
                return Judged::new(Verdict::Error, "not_answered", "asking the source broke off");
            }
            Some(Silent::Interrupted) => {
                return Judged::new(Verdict::Error, "interrupted", "not asked to its end: asked to stop");
            }
            None => {}
        }
        let (own, before) = condition.parts();
        let (now, before) = match (self.values(own), before.map(|part| self.values(part))) {
            (Ok(now), None) => (now, Vec::new()),
            (Ok(now), Some(Ok(before))) => (now, before),
            (Err(unfit), _) | (_, Some(Err(unfit))) => return unfit.into(),
        };
        let judged = match &condition.is {
            Is::Expect(figure, line) => self.expect(*figure, line, &now),
            Is::Compare(against, allowed) => self.compare(*against, *allowed, &now, &before),
            Is::Trend { limit, within, over, .. } => self.trend(*limit, *within, *over, &now),
            Is::Anomaly { season, .. } => self.anomaly(season, &now, &before),
            Is::Level { over, p_below, allowed } => self.level(*over, *p_below, *allowed, &now),
        };
        if judged.verdict == Verdict::Pass { self.unless_constant(judged, &now) } else { judged }
    }

    /// The values of a window, or why they cannot be judged.
    fn values(&self, part: Part) -> Result<Vec<Value>, Unfit> {
        let Some(read) = self.answer.reads.iter().find(|read| read.part == part) else {
            // Only the windows around a release may be unknown.
            let message =
                "traffic never moved, so there is no time before the release to compare with".into();
            return Err(Unfit { verdict: Verdict::Skipped, outcome: "nothing_moved", message });
        };
        let points = read.points.as_ref().map_err(|trouble| {
            let outcome = match trouble.what {
                TroubleKind::SeveralSeries => "several_series",
                TroubleKind::Unreachable => "not_answered",
                TroubleKind::Refused | TroubleKind::Babble => "query_error",
            };
            Unfit { verdict: Verdict::Error, outcome, message: trouble.message.clone() }
        })?;
        let factor = self.metric.spec.unit.factor();
        let values: Vec<Value> = points.iter().map(|p| (p.at_ms, p.value * factor)).collect();
        let (span, which) = (show_span(read.span.to.duration_since(read.span.from)), which(part));
        let Some((newest, _)) = values.last() else {
            let message = format!("there are no values {which} ({span})");
            return Err(Unfit { verdict: Verdict::NoData, outcome: "no_data", message });
        };
        let wrong = |words: &str, outcome: &'static str, is: fn(&f64) -> bool| {
            let count = values.iter().filter(|(_, v)| is(v)).count();
            let message = format!("{count} of {} values {which} ({span}) are {words}", values.len());
            (count > 0).then_some(Unfit { verdict: Verdict::Error, outcome, message })
        };
        let by_number = wrong("not a number", "not_a_number", |v| v.is_nan())
            .or_else(|| wrong("infinite", "infinite", |v| v.is_infinite()));
        if let Some(unfit) = by_number {
            return Err(unfit);
        }
        let age = Duration::from_millis(
            u64::try_from(self.at.as_millisecond().saturating_sub(*newest)).unwrap_or_default(),
        );
        let to_the_present = !matches!(part, Part::Before | Part::History);
        if to_the_present && age > self.metric.delay + read.span.step * LATE_STEPS {
            let message = format!(
                "the newest value is {} old, where one comes every {}",
                show_duration(age.as_secs_f64()),
                show_duration(read.span.step.as_secs_f64())
            );
            return Err(Unfit { verdict: Verdict::NoData, outcome: "late_data", message });
        }
        Ok(values)
    }

    fn show(&self, value: f64) -> String {
        show(self.metric.spec.unit, value)
    }

    fn expect(&self, figure: Figure, line: &Expected, now: &[Value]) -> Judged {
        let values: Vec<f64> = now.iter().map(|(_, v)| *v).collect();
        let Some(value) = figure.of(&values).filter(|v| v.is_finite()) else {
            return Judged::new(Verdict::Error, "infinite", "the figure is too great to compute with");
        };
        let observed = observed(figure.dimension(self.metric.spec.unit), value);
        let (met, count) = (line.is.met_by(&observed), values.len());
        let values = if count == 1 { "value" } else { "values" };
        let message = format!("{} of {count} {values} is {observed}, expected {}", line.name, line.is);
        if met && count < figure.least() {
            let least = figure.least();
            return Judged::too_few(format!("{message}; {least} values are needed")).with(value, None);
        }
        Judged::by(!met, message).with(value, None)
    }

    fn compare(&self, against: Before, allowed: Allowed, now: &[Value], before: &[Value]) -> Judged {
        let (few, many) = (now.len().min(before.len()), MIN_FOR_PERIODS);
        let counts = format!("{} values now and {} before", now.len(), before.len());
        if few < many {
            return Judged::too_few(format!(
                "{counts}; {many} are needed of each{}",
                self.how_fresh(against)
            ));
        }
        let plain = |values: &[Value]| values.iter().map(|(_, v)| *v).collect::<Vec<f64>>();
        let way = self.metric.spec.worse;
        let Some(compared) =
            compare_periods(&plain(before), &plain(now), self.metric.shared(self.metric.step), way, allowed)
        else {
            return Judged::new(Verdict::Error, "infinite", "the values are too great to compare");
        };
        let test = &compared.record;
        let effect = test.effect.unwrap_or_default();
        let ends = [test.effect_low, test.effect_high].map(|x| x.map(|x| self.show(x)));
        let interval = match ends {
            [Some(low), Some(high)] => format!(" ({low} to {high})"),
            _ => String::new(),
        };
        let (word, by) = match way {
            Worse::Either if effect < 0.0 => ("lower", self.show(effect)),
            Worse::Either => ("higher", self.show(effect)),
            _ => ("worse", self.show(effect)),
        };
        let when = match against {
            Before::Ago(ago) => format!("{ago} earlier"),
            Before::Release => "before the release".into(),
        };
        let message = format!(
            "{} than {when}: the median is {}, it was {}; a typical value is {word} by {by}{interval}, {} is allowed \
             (p = {})",
            if compared.worse { "worse" } else { "not worse" },
            self.show(compared.now),
            self.show(compared.before),
            self.show(compared.tolerance),
            show_p(test.p_value)
        );
        let mut judged = Judged::by(compared.worse, message).with(compared.now, Some(compared.before));
        judged.test = Some(compared.record);
        judged
    }

    /// Where the release is too fresh to compare it.
    fn how_fresh(&self, against: Before) -> String {
        match (against, self.moved) {
            (Before::Release, Some(moved)) => {
                let since = show_span(self.at.duration_since(moved.to));
                format!("; traffic stands where it is since {since}")
            }
            _ => String::new(),
        }
    }

    fn trend(&self, limit: Limit, within: Duration, over: Duration, now: &[Value]) -> Judged {
        let points = in_seconds(now);
        let found = match predict(&points, limit) {
            Ok(found) => found,
            Err(why) => return Judged::undecided(why),
        };
        let line = &found.trend;
        let (Limit::Below(at) | Limit::Above(at)) = limit;
        let bound = self.show(at);
        let (earliest, latest, after) = match found.crossing {
            Crossing::Already => (Some(0.0), Some(0.0), Some(0.0)),
            Crossing::In { seconds, earliest, latest } => (Some(earliest), latest, Some(seconds)),
            Crossing::NotOnThisTrend { earliest } => (earliest, None, None),
        };
        let fails = found.crossing.verdict(within.as_secs_f64()) == Verdict::Fail;
        let a_day = line.slope * 86_400.0;
        let moves = match (a_day > 0.0, a_day < 0.0) {
            (true, _) => format!("grows by {} a day", self.show(a_day)),
            (_, true) => format!("falls by {} a day", self.show(-a_day)),
            _ => "stays as it is".into(),
        };
        let newest = self.show(found.newest);
        let message = match found.crossing {
            Crossing::Already => {
                format!("{bound} is crossed already: the newest value is {newest}, and it {moves}")
            }
            Crossing::In { seconds, earliest, latest } => {
                let latest = latest.map_or("or never".into(), |l| format!("to {}", show_duration(l)));
                format!(
                    "{bound} is reached in {} ({} {latest}) if it goes on like this: it is {newest} and {moves}",
                    show_duration(seconds),
                    show_duration(earliest)
                )
            }
            Crossing::NotOnThisTrend { earliest } => {
                let close = earliest.filter(|e| *e <= within.as_secs_f64());
                let but = close.map_or(String::new(), |e| {
                    format!("; the steepest line that fits would be there in {}", show_duration(e))
                });
                format!("{bound} is not on its way: it is {newest} and {moves}{but}")
            }
        };
        let covered = points.last().zip(points.first()).map_or(0.0, |(l, f)| l.t - f.t);
        // What is crossed already needs no history.
        let short = covered < over.as_secs_f64() / 2.0 && found.crossing != Crossing::Already;
        let mut judged = if short {
            Judged::too_few(format!(
                "the values go back {}, and a line through {} needs half of that at least",
                show_duration(covered),
                show_duration(over.as_secs_f64())
            ))
        } else {
            Judged::by(fails, message)
        }
        .with(found.newest, None);
        let of_a_day = |x: f64| Some(x * 86_400.0);
        judged.test = Some(TestRecord {
            name: "theil_sen".into(),
            effect: Some(a_day),
            effect_low: line.interval.and_then(|(low, _)| of_a_day(low)),
            effect_high: line.interval.and_then(|(_, high)| of_a_day(high)),
            confidence: 0.95,
            tolerance: None,
            windows: Some(line.points as u64),
            ..TestRecord::default()
        });
        judged.crossing = Some(CrossingRecord { after_s: after, earliest_s: earliest, latest_s: latest });
        judged
    }

    fn anomaly(&self, season: &Season, now: &[Value], history: &[Value]) -> Judged {
        let (newest, past) = (in_seconds(now), in_seconds(history));
        let report = match seasonal_anomalies(&past, &newest, season) {
            Ok(report) => report,
            Err(why) => return Judged::undecided(why),
        };
        let begins = newest.first().map_or(0.0, |p| p.t);
        let covered = begins - past.first().map_or(begins, |p| p.t);
        let wanted = (f64::from(super::SEASONS) - 1.0 / season.phases as f64) * season.length;
        if covered < wanted {
            return Judged::too_few(format!(
                "the history goes back {}; {} are needed",
                show_duration(covered),
                show_duration(f64::from(super::SEASONS) * season.length)
            ));
        }
        if report.judged == 0 {
            return Judged::too_few("the history has too few values at this time of the season");
        }
        let spreads = |z: Option<f64>| z.map_or(f64::INFINITY, f64::abs);
        let furthest = report.anomalies.iter().max_by(|a, b| spreads(a.z).total_cmp(&spreads(b.z)));
        let last = newest[newest.len() - 1];
        let phase = |t: f64| report.phases[season.phase(t)];
        let (shown, usual) = furthest.map_or((last, phase(last.t).expected), |a| (a.point, a.expected));
        let spread = phase(shown.t).spread;
        // A lone value out of the pattern is noise; half of them are not.
        let out = report.anomalies.len();
        let fails = out > 0 && 2 * out >= report.judged;
        let z = if spread > 0.0 { (shown.value - usual) / spread } else { f64::INFINITY };
        let far = if z.is_finite() { show_number(z.abs()) } else { "infinitely many".into() };
        let side = if shown.value < usual { "below" } else { "above" };
        let message = match (furthest, fails) {
            (None, _) => format!(
                "as usual at this time: the newest value is {}, {} is usual",
                self.show(shown.value),
                self.show(usual)
            ),
            (Some(_), _) => format!(
                "{out} of {} values are out of the usual{}: the furthest is {}, {far} spreads {side} the {} that is \
                 usual at this time",
                report.judged,
                if fails { "" } else { ", fewer than half" },
                self.show(shown.value),
                self.show(usual)
            ),
        };
        let mut judged = if !fails && !report.unjudged.is_empty() {
            let few = report.unjudged.len();
            Judged::too_few(format!("the history has too few values at the time of {few} of the newest"))
        } else {
            Judged::by(fails, message)
        }
        .with(shown.value, Some(usual));
        judged.test = Some(TestRecord {
            name: "seasonal_mad".into(),
            statistic: Some(z).filter(|z| z.is_finite()),
            effect: Some(shown.value - usual),
            tolerance: Some(season.limit * spread),
            windows: Some(report.judged as u64),
            ..TestRecord::default()
        });
        judged
    }

    fn level(&self, over: Duration, p_below: f64, allowed: Allowed, now: &[Value]) -> Judged {
        let window = super::part_of(over, super::LEVEL_WINDOWS).max(self.metric.step);
        let (points, shared) = (in_windows(now, window), self.metric.shared(window));
        let found = match stepped(&points, shared, self.metric.spec.worse, p_below, allowed) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let value = now.last().map_or(0.0, |(_, v)| *v);
                return Judged::by(false, format!("all values are {}", self.show(value))).with(value, None);
            }
            Err(why @ Undecided::TooFew { .. }) => {
                let over = show_duration(over.as_secs_f64());
                return Judged::too_few(format!(
                    "{}, each a window of {over} cut into {}",
                    why.message(),
                    super::LEVEL_WINDOWS
                ));
            }
            Err(why) => return Judged::undecided(why),
        };
        let change = &found.change;
        let at = moment(change.t);
        let p = show_p(found.record.p_value);
        let (after, before) = (self.show(change.after), self.show(change.before));
        let relation = self.moved.filter(|m| at >= m.from).map_or(String::new(), |m| {
            format!(", {} after traffic began to move", show_span(at.duration_since(m.from)))
        });
        let clock = at.strftime("%Y-%m-%d %H:%M:%S UTC");
        let message = if found.worse {
            format!(
                "the level stepped from {before} to {after} at {clock}{relation} (p = {p}); {} is allowed",
                self.show(found.tolerance)
            )
        } else if change.line_fits_better && (change.after - change.before).abs() > found.tolerance {
            format!("no step: it moves slowly, from about {before} to {after}")
        } else {
            format!(
                "no step to the worse: the most likely one is from {before} to {after} (p = {p}); {} is allowed",
                self.show(found.tolerance)
            )
        };
        let mut judged = Judged::by(found.worse, message).with(change.after, Some(change.before));
        judged.test = Some(found.record);
        judged.changed_at = Some(at);
        judged
    }

    /// A figure that stands still is taken for a dead source.
    #[expect(clippy::float_cmp, reason = "the very same value")]
    fn unless_constant(&self, judged: Judged, values: &[Value]) -> Judged {
        let still = values.len() >= MIN_CONSTANT
            && values[0].1 != 0.0
            && values.windows(2).all(|two| two[0].1 == two[1].1);
        if self.metric.spec.may_be_constant || !still {
            return judged;
        }
        let message = format!(
            "all {} values are {}: a source that stands still tells nothing (`may_be_constant: true` if it may)",
            values.len(),
            self.show(values[0].1)
        );
        Judged { verdict: Verdict::NoData, outcome: "constant", message, ..judged }
    }
}

/// Where the values of a window lie.
fn which(part: Part) -> &'static str {
    match part {
        Part::Newest | Part::Trend | Part::Level => "in the window up to now",
        Part::Since => "since the release",
        Part::Before => "in the window before",
        Part::History => "in the history",
    }
}

fn in_seconds(values: &[Value]) -> Vec<trend::Point> {
    values.iter().map(|(at, value)| trend::Point::new(*at as f64 / 1e3, *value)).collect()
}

/// The medians of windows of this length: neighbouring values are too alike to look for a step in them.
fn in_windows(values: &[Value], window: Duration) -> Vec<trend::Point> {
    let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX).max(1);
    values
        .chunk_by(|a, b| a.0.div_euclid(window) == b.0.div_euclid(window))
        .filter_map(|of| {
            let mut sorted: Vec<f64> = of.iter().map(|(_, v)| *v).collect();
            sorted.sort_by(f64::total_cmp);
            Some(trend::Point::new(of.first()?.0 as f64 / 1e3, median(&sorted)?))
        })
        .collect()
}

fn moment(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a moment in ms, as it came in")]
    let ms = (seconds * 1e3).round() as i64;
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn show_span(span: jiff::SignedDuration) -> String {
    show_duration(span.as_secs_f64())
}

fn show_p(p: Option<f64>) -> String {
    match p {
        Some(p) if p < 1e-6 => "below 0.000001".into(),
        Some(p) => show_number(p),
        None => "unknown".into(),
    }
}

/// A recorded figure as comparisons and people take it.
fn observed(dimension: Unit, figure: f64) -> Observed {
    match dimension {
        Unit::Duration => Observed::Number(figure / 1e3, Unit::Duration),
        unit => Observed::Number(figure, unit),
    }
}

/// A recorded figure of a metric as people read it.
pub(super) fn show(unit: MetricUnit, figure: f64) -> String {
    observed(unit.dimension(), figure).to_string()
}

/// What a plan says in the metric's dimension, in the recorded unit.
///
/// Errors: in words.
pub(super) fn recorded(text: &str, unit: MetricUnit) -> Result<f64, String> {
    let number = parse_operand(text, unit.dimension())?;
    Ok(if unit.dimension() == Unit::Duration { number * 1e3 } else { number })
}
