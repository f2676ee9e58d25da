//! The plan's metrics of what is live: read whole before anything is asked, asked all at once, then
//! judged.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::evidence::{Finding, MetricVerified, Promotion, Verdict};
use crate::fault::Fault;
use crate::judge::Allowed;
use crate::judge::trend::{Limit, Season, Worse as Bad};
use crate::metrics::{self, DEFAULT_STEP, DEFAULT_TIMEOUT, Gives, Source};
use crate::plan::{
    AnomalySpec, Before, CompareSpec, Expected, LevelSpec, Loaded, TrendSpec, VerifyMetric, Worse,
};
use crate::units::{Share, Span, Unit, show_duration, show_share};
use crate::world::now;
use crate::world::talk::Talk;
use crate::yaml::Problem;

mod ask;
mod decide;
mod figure;

use ask::{Orders, Part};
use figure::Figure;

/// The newest window where the plan does not say.
const OVER: Duration = Duration::from_secs(600);
/// Further attempts after a failed one, where the plan does not say.
const RETRIES: u32 = 2;
/// How much worse a level may be where the plan does not say.
const WORSE_BY: f64 = 0.05;
/// How unlikely a step must be where the plan does not say.
const P_BELOW: f64 = 0.01;
/// From how long before the usual is learned where the plan does not say.
const HISTORY: Duration = Duration::from_secs(14 * 86_400);
/// Fewest seasons of history.
const SEASONS: u32 = 3;
/// Values of a trend where the plan gives no step, and windows in which a step is looked for.
const TREND_VALUES: u32 = 500;
const LEVEL_WINDOWS: u32 = 40;

/// A metric of the plan, opened, with its defaults filled in.
pub(super) struct Metric {
    spec: VerifyMetric,
    source: Box<dyn Source>,
    step: Duration,
    /// The time that one value covers.
    covers: Duration,
    delay: Duration,
    over: Duration,
    timeout: Duration,
    attempts: u32,
    conditions: Vec<Condition>,
}

/// One thing that is asked of a metric; each becomes one finding.
struct Condition {
    /// The word behind the metric's name: `p95`, `compare`.
    asked: String,
    /// As people read it.
    threshold: String,
    is: Is,
}

enum Is {
    Expect(Figure, Expected),
    Compare(Before, Allowed),
    Trend { limit: Limit, within: Duration, over: Duration, step: Duration },
    Anomaly { season: Season, history: Duration, step: Duration },
    Level { over: Duration, p_below: f64, allowed: Allowed },
}

impl Condition {
    /// Whether it looks at the newest window.
    fn of_newest(&self) -> bool {
        matches!(self.is, Is::Expect(..) | Is::Compare(..) | Is::Anomaly { .. })
    }
}

/// When traffic moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// When it began to.
    pub(super) from: Timestamp,
    /// Since when it stands where it is.
    pub(super) to: Timestamp,
}

impl Moved {
    /// By the shifts of a promotion; none where nothing moved.
    pub(super) fn of(promotion: &Promotion) -> Option<Self> {
        let (first, last) = (promotion.shifts.first()?, promotion.shifts.last()?);
        Some(Self { from: first.at, to: last.at })
    }
}

/// Reads the metrics of a plan and opens their sources. Touches nothing.
///
/// Errors (2): as [`validate`].
pub(super) fn prepare(specs: &[VerifyMetric], loaded: &Loaded) -> Result<Vec<Metric>, Fault> {
    specs.iter().map(|spec| read(spec, loaded)).collect()
}

/// Whether the metrics of a plan can be read. Touches nothing.
///
/// Errors (2): an unknown kind or figure, one that gives no series, settings that do not validate or make
/// no sense together, a metric of which nothing is asked.
pub(in crate::tools) fn validate(specs: &[VerifyMetric], loaded: &Loaded) -> Result<(), Fault> {
    prepare(specs, loaded).map(drop)
}

fn read(spec: &VerifyMetric, loaded: &Loaded) -> Result<Metric, Fault> {
    let wrong = |cause: String| {
        Fault::usage(format!("the metric `{}` of `verify` cannot be judged", spec.name))
            .place(&loaded.reference.path)
            .cause(cause)
            .help("see `verify.metrics` in docs/plan.md")
    };
    let series = || metrics::ALL.iter().filter(|kind| kind.gives == Gives::Points).map(|kind| kind.name);
    if metrics::kind(&spec.kind).is_some_and(|kind| kind.gives != Gives::Points) {
        return Err(wrong(format!("`{}` gives single requests, no series", spec.kind))
            .help(format!("kinds that give a series: {}", series().collect::<Vec<_>>().join(", "))));
    }
    let (_, source) = metrics::open_for(&spec.source(), loaded, false)?;
    let whole = |span: Option<Span>, or: Duration| span.map_or(or, |s| s.0);
    let step = whole(spec.step, DEFAULT_STEP);
    let over = whole(spec.over, OVER);
    let mut conditions = Vec::new();
    for line in spec.expect.lines(&loaded.variables).map_err(|p| loaded.fault(p))? {
        let place = line.place;
        let at_its_line = |message: String| loaded.fault(Problem::at(place, message));
        let known = Figure::parse(&line.name)
            .ok_or_else(|| loaded.fault(Problem { place: Some(place), ..Figure::unknown(&line.name) }))?;
        line.is.fits(known.dimension(spec.unit)).map_err(at_its_line)?;
        conditions.push(Condition {
            asked: line.name.clone(),
            threshold: line.is.text().to_owned(),
            is: Is::Expect(known, line),
        });
    }
    let more = [
        spec.compare.as_ref().map(|c| compare(c, spec, over, loaded)),
        spec.trend.as_ref().map(|t| trend(t, spec, step)),
        spec.anomaly.as_ref().map(|a| anomaly(a, spec.worse, step)),
        spec.level.as_ref().map(|l| level(l, spec, step)),
    ];
    for condition in more.into_iter().flatten() {
        conditions.push(condition.map_err(wrong)?);
    }
    if conditions.iter().any(Condition::of_newest) {
        longer("over", over, 3, "step", step).map_err(wrong)?;
    }
    if conditions.is_empty() {
        return Err(wrong("nothing is asked of it".into()).help(
            "add `expect`, `compare`, `trend`, `anomaly` or `level`: what nobody looks at guards nothing",
        ));
    }
    Ok(Metric {
        spec: spec.clone(),
        source,
        step,
        covers: whole(spec.window, step),
        delay: whole(spec.delay, step),
        over,
        timeout: whole(spec.timeout, DEFAULT_TIMEOUT),
        attempts: spec.retries.unwrap_or(RETRIES) + 1,
        conditions,
    })
}

fn compare(
    spec: &CompareSpec,
    of: &VerifyMetric,
    over: Duration,
    loaded: &Loaded,
) -> Result<Condition, String> {
    let allowed = allowed("compare", spec.worse_by, spec.at_least.as_ref(), of)?;
    let before = match spec.before {
        Before::Ago(ago) => {
            longer("compare.before", ago.0, 1, "over", over)?;
            format!("{ago} earlier")
        }
        Before::Release if loaded.plan.promote.is_none() => {
            return Err("`compare.before` is `release`, and the plan has no `promote`".into());
        }
        Before::Release => "before the release".into(),
    };
    let threshold = format!("not worse than {before} by more than {}", shown(allowed, of));
    Ok(Condition { asked: "compare".into(), threshold, is: Is::Compare(spec.before, allowed) })
}

fn trend(spec: &TrendSpec, of: &VerifyMetric, step: Duration) -> Result<Condition, String> {
    let text = spec.crosses.text();
    let (above, operand) = match (text.strip_prefix('>'), text.strip_prefix('<')) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => {
            return Err(format!(
                "`trend.crosses` is a limit that begins with `>` or `<`, such as `> 90%`, not `{text}`"
            ));
        }
    };
    let operand = operand.trim_start_matches('=').trim();
    let limit = decide::recorded(operand, of.unit).map_err(|e| format!("`trend.crosses`: {e}"))?;
    let own = spec.step.map_or_else(|| part_of(spec.over.0, TREND_VALUES).max(step), |s| s.0);
    longer("trend.over", spec.over.0, 8, "its step", own)?;
    if spec.within.0.is_zero() {
        return Err("`trend.within` is above 0".into());
    }
    let limit = if above { Limit::Below(limit) } else { Limit::Above(limit) };
    let threshold = format!("not {text} within {}", spec.within);
    let is = Is::Trend { limit, within: spec.within.0, over: spec.over.0, step: own };
    Ok(Condition { asked: "trend".into(), threshold, is })
}

fn anomaly(spec: &AnomalySpec, worse: Worse, step: Duration) -> Result<Condition, String> {
    let worse = match worse {
        Worse::Higher => Bad::Higher,
        Worse::Lower => Bad::Lower,
        Worse::Either => Bad::Either,
    };
    let day = Season::of_a_day(worse);
    let length = spec.season.map_or(Duration::from_secs(86_400), |s| s.0);
    let phases = spec.phases.unwrap_or(day.phases);
    let limit = spec.limit.unwrap_or(day.limit);
    if !(1..=10_000).contains(&phases) {
        return Err("`anomaly.phases` is between 1 and 10000".into());
    }
    if !(limit.is_finite() && limit > 0.0) {
        return Err("`anomaly.limit` is a number above 0".into());
    }
    let history = spec.history.map_or(HISTORY, |s| s.0);
    longer("anomaly.history", history, SEASONS, "season", length)?;
    let phase = part_of(length, u32::try_from(phases).unwrap_or(u32::MAX));
    let own = spec.step.map_or_else(|| (phase / 4).max(step), |s| s.0);
    longer("a phase of `anomaly`", phase, 1, "its step", own)?;
    let season = Season { length: length.as_secs_f64(), phases, limit, ..day };
    let threshold = format!("within {limit} spreads of what is usual");
    Ok(Condition { asked: "anomaly".into(), threshold, is: Is::Anomaly { season, history, step: own } })
}

fn level(spec: &LevelSpec, of: &VerifyMetric, step: Duration) -> Result<Condition, String> {
    let allowed = allowed("level", spec.worse_by, spec.at_least.as_ref(), of)?;
    let p_below = spec.p_below.map_or(P_BELOW, |p| p.0);
    if !(p_below > 0.0 && p_below <= 0.2) {
        return Err("`level.p_below` is above 0% and at most 20%".into());
    }
    let least = u32::try_from(crate::judge::trend::MIN_FOR_CHANGE).unwrap_or(u32::MAX);
    longer("level.over", spec.over.0, least, "step", step)?;
    let threshold = format!("no step in {} that is worse by more than {}", spec.over, shown(allowed, of));
    Ok(Condition { asked: "level".into(), threshold, is: Is::Level { over: spec.over.0, p_below, allowed } })
}

/// How much worse is allowed, in the recorded unit.
fn allowed(
    what: &str,
    worse_by: Option<Share>,
    at_least: Option<&String>,
    of: &VerifyMetric,
) -> Result<Allowed, String> {
    let at_least = match (at_least, of.unit.dimension()) {
        (Some(text), _) => decide::recorded(text, of.unit).map_err(|e| format!("`{what}.at_least`: {e}"))?,
        (None, Unit::Share) => 0.001,
        (None, Unit::Duration) => 1.0,
        (None, _) => 0.0,
    };
    if at_least < 0.0 {
        return Err(format!("`{what}.at_least` is not below 0"));
    }
    Ok(Allowed { share: worse_by.map_or(WORSE_BY, |s| s.0), at_least })
}

fn shown(allowed: Allowed, of: &VerifyMetric) -> String {
    let share = show_share(allowed.share);
    if allowed.at_least > 0.0 {
        format!("{share} ({} at least)", decide::show(of.unit, allowed.at_least))
    } else {
        share
    }
}

fn longer(what: &str, span: Duration, times: u32, than: &str, other: Duration) -> Result<(), String> {
    if other.is_zero() {
        return Err(format!("`{than}` is above 0"));
    }
    if span >= other.saturating_mul(times) {
        return Ok(());
    }
    let much = if times == 1 { String::new() } else { format!("{times} times ") };
    let show = |d: Duration| show_duration(d.as_secs_f64());
    Err(format!("{what} is {}, and must be at least {much}{than} ({})", show(span), show(other)))
}

/// Whole milliseconds, at least one.
fn part_of(span: Duration, parts: u32) -> Duration {
    let ms = u64::try_from((span / parts.max(1)).as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ms.max(1))
}

/// Asks all sources at once, and judges what they answer.
pub(super) fn run(
    all: Vec<Metric>,
    moved: Option<Moved>,
    talk: &Talk,
) -> (Vec<Finding>, Vec<MetricVerified>) {
    let (started_at, started) = (now(), Instant::now());
    let ticker = talk.ticker();
    ticker.set(&format!("asking for {} metrics", all.len()));
    let (mut judges, mut orders) = (Vec::new(), Vec::new());
    for mut metric in all {
        let parts = metric.parts(started_at, moved);
        let source = std::mem::replace(&mut metric.source, Box::new(Nothing));
        let (covers, limit, attempts) = (metric.covers, metric.timeout, metric.attempts);
        orders.push(Orders { source, parts, covers, limit, attempts });
        judges.push(metric);
    }
    let answers = ask::all(orders);
    let (mut findings, mut records) = (Vec::new(), Vec::new());
    for (metric, answer) in judges.iter().zip(answers) {
        let frame = decide::Frame { metric, answer: &answer, at: started_at, moved };
        for condition in &metric.conditions {
            let record = frame.judge(condition);
            let mut finding = decide::finding(metric, condition, &record, started_at);
            finding.duration_ms = answer.took.unwrap_or_else(|| started.elapsed()).as_secs_f64() * 1e3;
            finding.attempts = answer.attempts.max(1);
            finding.flaky = finding.verdict == Verdict::Pass && answer.attempts > 1;
            findings.push(finding);
            records.push(record);
        }
    }
    (findings, records)
}

impl Metric {
    /// How many neighbouring values share data where one comes every so often, at least 1.
    fn shared(&self, step: Duration) -> f64 {
        (self.covers.as_secs_f64() / step.as_secs_f64()).max(1.0)
    }

    /// The windows that its conditions need.
    fn parts(&self, at: Timestamp, moved: Option<Moved>) -> Vec<(Part, ask::Span)> {
        let to = back(at, self.delay);
        let mut parts: Vec<(Part, ask::Span)> = Vec::new();
        let mut add = |part: Part, span: ask::Span| {
            if !parts.iter().any(|(known, _)| *known == part) {
                parts.push((part, span));
            }
        };
        let newest = ask::Span { from: back(to, self.over), to, step: self.step };
        for condition in &self.conditions {
            match &condition.is {
                Is::Expect(..) => add(Part::Newest, newest),
                Is::Compare(Before::Ago(ago), _) => {
                    add(Part::Newest, newest);
                    let earlier = ask::Span { from: back(newest.from, ago.0), to: back(to, ago.0), ..newest };
                    add(Part::Before, earlier);
                }
                Is::Compare(Before::Release, _) => {
                    let Some(moved) = moved else { continue };
                    let from = newest.from.max(moved.to).min(to);
                    let length = Duration::try_from(to.duration_since(from)).unwrap_or_default();
                    add(Part::Since, ask::Span { from, ..newest });
                    add(Part::Before, ask::Span { from: back(moved.from, length), to: moved.from, ..newest });
                }
                Is::Trend { over, step, .. } => {
                    add(Part::Trend, ask::Span { from: back(to, *over), to, step: *step });
                }
                Is::Anomaly { history, step, .. } => {
                    add(Part::Newest, newest);
                    let from = back(newest.from, *history);
                    add(Part::History, ask::Span { from, to: newest.from, step: *step });
                }
                Is::Level { over, .. } => {
                    add(Part::Level, ask::Span { from: back(to, *over), to, step: self.step });
                }
            }
        }
        parts
    }
}

/// So long before a moment.
fn back(at: Timestamp, by: Duration) -> Timestamp {
    let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at.as_millisecond().saturating_sub(ms)).unwrap_or(Timestamp::MIN)
}

/// Stands where a source was, once its thread has it.
struct Nothing;

impl Source for Nothing {
    fn query(&self, _ask: &metrics::Ask<'_>) -> String {
        String::new()
    }
}
