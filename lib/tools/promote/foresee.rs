//! `promote plan --on FILE`: what this plan would have done on a recorded series.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use jiff::Timestamp;

use super::bake::verdict_of;
use super::machine::{Course, Look};
use super::record::course_of;
use super::samples;
use super::{begin, orders};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::judge::{Batch, Decision, Given, Judge, Point, Sorter, bin_ms};
use crate::plan::{Promote, Undecided};
use crate::units::{show_duration, show_share};
use crate::world::files::read_bounded;

/// The largest file in bytes that is read.
const MOST: u64 = 1 << 30;

/// How often the triggers are looked at where the plan does not say, in ms.
const INTERVAL_MS: i64 = 5_000;

/// One row of a recorded series.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    at_ms: i64,
    /// 0 for blue, 1 for green.
    side: usize,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// A value of a metric.
    Value { metric: String, value: f64 },
    /// A request at a source.
    Request { source: String, latency_ms: Option<f64>, ok: bool },
}

/// Prints what the plan's triggers would have done on a recorded series, step by step.
///
/// The file is the samples of an earlier promotion (`promote.samples.jsonl.gz`) or a CSV with a header:
/// `time,side,metric,value` for values of the plan's metrics, `time,side,latency_ms,ok` (and `source`,
/// `probe` when absent) for requests; times are RFC 3339 or seconds since 1970.
///
/// Ends with 0 when the release would go through, 1 when it would be rolled back, 3 when the series
/// does not decide it.
/// Errors (2): the file is none of these; the line is named.
pub fn foresee(job: &Job, file: &Path) -> Result<Exit, Fault> {
    begin::validate(job)?;
    let plan = begin::section(job)?;
    let place = file.display().to_string();
    let bytes = read_bounded(file, MOST)
        .map_err(|e| Fault::usage("the series cannot be read").place(&place).cause(e))?;
    let wrong = |why: String| {
        Fault::usage("the series cannot be used").place(&place).cause(why).help(
            "a CSV with the header `time,side,metric,value` or `time,side,latency_ms,ok`, or the samples of an \
             earlier promotion",
        )
    };
    let rows = if bytes.starts_with(&[0x1f, 0x8b]) {
        from_samples(&bytes).map_err(wrong)?
    } else {
        from_csv(plan, &bytes).map_err(wrong)?
    };
    let Some(first) = rows.first() else { return Err(wrong("it has no rows".into())) };
    let last_ms = rows.last().map_or(first.at_ms, |row| row.at_ms);
    let course = course_of(plan);
    let seen = walk(plan, &course, &rows);
    let mut text =
        format!("{} rows over {}\n", rows.len(), show_duration((last_ms - first.at_ms) as f64 / 1e3));
    for line in &seen.lines {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&format!("{}\n", seen.end));
    orders::print(&text)?;
    Ok(seen.exit)
}

/// What would have been.
struct Foreseen {
    lines: Vec<String>,
    end: String,
    exit: Exit,
}

/// Takes the plan's steps through the series, one after another in its own time.
fn walk(plan: &Promote, course: &Course, rows: &[Row]) -> Foreseen {
    let mut lines = Vec::new();
    let start = rows.first().map_or(0, |row| row.at_ms);
    let last = rows.last().map_or(start, |row| row.at_ms);
    let mut now = start;
    let present = Present::of(rows);
    for (number, step) in course.steps.iter().enumerate() {
        let name = format!("step {} ({})", number + 1, show_share(step.weight));
        if step.bake_ms == 0 {
            lines.push(format!("{name}: at {}, not watched", after(start, now)));
            continue;
        }
        let (at, look, said) = bake(plan, course, (rows, &present), now, step.bake_ms, last);
        lines.push(format!("{name}: from {} to {}: {said}", after(start, now), after(start, at)));
        match look {
            Look::Good => now = at,
            Look::Bad => {
                let end = format!("would be rolled back {} after its beginning", after(start, at));
                return Foreseen { lines, end, exit: Exit::Closed };
            }
            Look::Unknown => {
                let end = format!(
                    "the series ends {} after its beginning, and nothing is decided",
                    after(start, at)
                );
                return Foreseen { lines, end, exit: Exit::Undecided };
            }
        }
    }
    Foreseen { lines, end: "would go through".into(), exit: Exit::Pass }
}

/// One bake: when it ends, how, and what was said.
fn bake(
    plan: &Promote,
    course: &Course,
    rows: (&[Row], &Present<'_>),
    since_ms: i64,
    bake_ms: i64,
    last_ms: i64,
) -> (i64, Look, String) {
    let interval = plan.interval.map_or(INTERVAL_MS, |s| super::record::millis(s.0)).max(1);
    let mut judge = Judge::begin(plan, since_ms, bake_ms);
    let until = since_ms.saturating_add(bake_ms);
    let mut at = since_ms;
    let mut said = "nothing was seen".to_owned();
    loop {
        let before = at;
        at = if at < until { (at + interval).min(until) } else { at + interval };
        // The series must reach up to the look: what it does not have is not known.
        if at > last_ms.saturating_add(interval) {
            return (before, Look::Unknown, said);
        }
        let from = if before == since_ms { i64::MIN } else { before };
        let looked = judge.look(&batch(plan, rows, (from.max(since_ms - 1), at), since_ms, bake_ms));
        said = format!("{}: {}", verdict_of(&looked).word(), looked.summary);
        let bears = course.undecided_ms;
        let blind = looked.blind_since_ms.is_some_and(|since| at - since >= bears);
        match looked.decision {
            Decision::Fail => return (at, Look::Bad, said),
            Decision::Pass if at >= until => return (at, Look::Good, said),
            Decision::Undecided
                if plan.judge.undecided == Undecided::RollBack
                    && (blind || at >= until.saturating_add(bears)) =>
            {
                return (at, Look::Bad, format!("stayed undecided: {said}"));
            }
            _ => {}
        }
    }
}

/// What a look at `to` would have had new since `from`, a moment that was seen.
fn batch(
    plan: &Promote,
    (rows, present): (&[Row], &Present<'_>),
    (from, to): (i64, i64),
    since_ms: i64,
    bake_ms: i64,
) -> Batch {
    let begin = rows.partition_point(|row| row.at_ms <= from);
    let end = rows.partition_point(|row| row.at_ms <= to);
    let mut given: Vec<Given> = Vec::new();
    let mut sorters: Vec<(String, [Sorter; 2])> = Vec::new();
    for spec in plan.metrics.iter().filter(|spec| present.metrics.contains(spec.name.as_str())) {
        given.push(Given {
            source: spec.name.clone(),
            points: Some([Vec::new(), Vec::new()]),
            ..Given::default()
        });
    }
    for row in &rows[begin..end.max(begin)] {
        match &row.what {
            What::Value { metric, value } => {
                let own = given.iter_mut().find(|g| g.source == *metric).and_then(|g| g.points.as_mut());
                if let Some(points) = own {
                    points[row.side].push(Point(row.at_ms, *value));
                }
            }
            What::Request { source, latency_ms, ok } => {
                let known = sorters.iter().position(|(name, _)| name == source);
                let at = known.unwrap_or_else(|| {
                    let sorter = || Sorter::new(since_ms, bin_ms(plan, bake_ms), 1_000_000);
                    sorters.push((source.clone(), [sorter(), sorter()]));
                    sorters.len() - 1
                });
                sorters[at].1[row.side].add(row.at_ms, *latency_ms, *ok);
            }
        }
    }
    let silent = ["probe", plan.router.kind.as_str()]
        .into_iter()
        .chain(plan.metrics.iter().map(|spec| spec.name.as_str()))
        .filter(|name| present.sources.contains(name) && !sorters.iter().any(|(known, _)| known == name));
    given.extend(silent.map(|name| Given {
        source: name.to_owned(),
        requests: Some(<[_; 2]>::default()),
        ..Given::default()
    }));
    given.extend(sorters.into_iter().map(|(source, sides)| Given {
        source,
        requests: Some(sides.map(Sorter::finish)),
        ..Given::default()
    }));
    Batch { at_ms: to, given }
}

/// What a series has anywhere: a source without news at a look is silent, and not absent.
struct Present<'a> {
    metrics: BTreeSet<&'a str>,
    sources: BTreeSet<&'a str>,
}

impl<'a> Present<'a> {
    fn of(rows: &'a [Row]) -> Self {
        let mut present = Self { metrics: BTreeSet::new(), sources: BTreeSet::new() };
        for row in rows {
            match &row.what {
                What::Value { metric, .. } => present.metrics.insert(metric),
                What::Request { source, .. } => present.sources.insert(source),
            };
        }
        present
    }
}

fn after(start_ms: i64, at_ms: i64) -> String {
    show_duration((at_ms - start_ms) as f64 / 1e3)
}

/// The samples of an earlier promotion, all steps one after another. Windows stand for their requests:
/// each is put at even distances within its own.
fn from_samples(bytes: &[u8]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    samples::for_each_line(bytes, |line| {
        let length = line.bin_ms.max(1);
        for given in &line.batch.given {
            for (side, points) in given.points.iter().flat_map(|sides| sides.iter().enumerate()) {
                rows.extend(points.iter().map(|point| Row {
                    at_ms: point.0,
                    side,
                    what: What::Value { metric: given.source.clone(), value: point.1 },
                }));
            }
            for (side, requests) in given.requests.iter().flat_map(|sides| sides.iter().enumerate()) {
                for bin in &requests.bins {
                    let begin = line.since_ms + i64::from(bin.window) * length;
                    let end = (begin + length).min(line.batch.at_ms).max(begin);
                    let all = bin.requests.max(bin.latencies.len() as u64 + bin.errors);
                    for n in 0..all {
                        let share = n as f64 / all as f64;
                        #[expect(clippy::cast_possible_truncation, reason = "within a window")]
                        let at_ms = begin + ((end - begin) as f64 * share) as i64;
                        let ok = n >= bin.errors;
                        let kept = usize::try_from(n - bin.errors.min(n)).unwrap_or(usize::MAX);
                        let latency_ms = if ok { bin.latencies.get(kept).copied() } else { None };
                        let source = given.source.clone();
                        rows.push(Row { at_ms, side, what: What::Request { source, latency_ms, ok } });
                    }
                }
            }
        }
        Ok(())
    })?;
    rows.sort_by_key(|row| row.at_ms);
    Ok(rows)
}

fn from_csv(plan: &Promote, bytes: &[u8]) -> Result<Vec<Row>, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes.take(MOST));
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |name: &str| header.iter().position(|h| h == name);
    let (Some(time), Some(side)) = (column("time"), column("side")) else {
        return Err("its first line has no `time` and `side`".into());
    };
    let values = column("metric").zip(column("value"));
    let requests = column("latency_ms").zip(column("ok"));
    if values.is_none() == requests.is_none() {
        return Err("its first line needs either `metric` and `value`, or `latency_ms` and `ok`".into());
    }
    let source = column("source");
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| e.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |at: usize| record.get(at).unwrap_or_default();
        let wrong = |what: &str, text: &str| format!("line {line}: `{text}` is no {what}");
        let at_ms = moment(cell(time)).ok_or_else(|| wrong("time", cell(time)))?;
        let side = match cell(side) {
            "blue" => 0,
            "green" => 1,
            other => return Err(format!("line {line}: `{other}` is neither `blue` nor `green`")),
        };
        let number = |text: &str| text.parse::<f64>().map_err(|_| wrong("number", text));
        let what = if let Some((metric, value)) = values {
            let spec = plan.metrics.iter().find(|spec| spec.name == cell(metric));
            let spec =
                spec.ok_or_else(|| format!("line {line}: the plan has no metric `{}`", cell(metric)))?;
            let value = number(cell(value))? * spec.unit.factor();
            What::Value { metric: spec.name.clone(), value }
        } else {
            let (latency, ok) = requests.unwrap_or_default();
            let latency_ms = match cell(latency) {
                "" => None,
                text => Some(number(text)?)
                    .filter(|ms| *ms >= 0.0 && ms.is_finite())
                    .ok_or_else(|| wrong("latency", text))
                    .map(Some)?,
            };
            let ok = match cell(ok) {
                "true" | "1" => true,
                "false" | "0" => false,
                other => return Err(wrong("`true` or `false`", other)),
            };
            let source = source.map_or("probe", cell);
            let source = if source.is_empty() { "probe" } else { source };
            let known = source == "probe"
                || source == plan.router.kind
                || plan.metrics.iter().any(|spec| spec.name == source);
            if !known {
                return Err(format!("line {line}: the plan has no source of requests `{source}`"));
            }
            What::Request { source: source.to_owned(), latency_ms, ok }
        };
        rows.push(Row { at_ms, side, what });
    }
    rows.sort_by_key(|row| row.at_ms);
    Ok(rows)
}

/// RFC 3339, or seconds since 1970.
fn moment(text: &str) -> Option<i64> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_millisecond());
    }
    let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite() && s.abs() < 1e11)?;
    #[expect(clippy::cast_possible_truncation, reason = "within the range of times")]
    Some((seconds * 1e3).round() as i64)
}
