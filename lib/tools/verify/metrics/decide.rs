//! What the values of a metric mean: no I/O and no clock, only what was answered.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

mod earlier;
mod outlook;

use super::ask::{Answer, Part, Read, Silent};
use super::figure::Figure;
use super::{Condition, Is, Metric, Moved};
use crate::evidence::{CrossingRecord, Finding, MetricVerified, MetricWindow, TestRecord, Verdict};
use crate::judge::trend::{self, Undecided};
use crate::metrics::TroubleKind;
use crate::plan::{Before, Expected, MetricUnit};
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
    /// When it was asked: another source that is slow makes no series old.
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
            _ if why == Undecided::OutOfRange => Self::new(Verdict::Error, "infinite", why.message()),
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
    finding.samples =
        record.window.map(|w| w.samples).filter(|n| *n > 0 || record.verdict == Verdict::NoData);
    let dimension = condition.dimension(metric.spec.unit);
    if let Some(value) = record.value {
        let observed = observed(dimension, value);
        finding.observed = Some(match record.crossing.and_then(|c| c.after_s) {
            Some(after) if after > 0.0 => format!("{observed}, at the limit in {}", show_duration(after)),
            _ => observed.to_string(),
        });
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
                let why = self.answer.broke.as_deref().unwrap_or("asking the source broke off");
                return Judged::new(Verdict::Error, "not_answered", why);
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
        let message = format!("{} is {observed}, expected {}", figure.words(&line.name, count), line.is);
        if met && count < figure.least() {
            let least = figure.least();
            return Judged::too_few(format!("{message}; {least} values are needed")).with(value, None);
        }
        Judged::by(!met, message).with(value, None)
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

fn show_span(span: jiff::SignedDuration) -> String {
    show_duration(span.as_secs_f64())
}

/// `p = 0.0021`.
fn show_p(p: Option<f64>) -> String {
    match p {
        Some(p) if p < 1e-6 => "p below 0.000001".into(),
        Some(p) => format!("p = {}", show_number(p)),
        None => "p is unknown".into(),
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
