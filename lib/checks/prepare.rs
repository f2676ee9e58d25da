//! Everything that can be wrong with the checks of a plan, found before anything runs.

use std::sync::Arc;
use std::time::Duration;

use super::evaluate::Line;
use super::{Check, Kind, Order};
use crate::expectation::Expectation;
use crate::fault::Fault;
use crate::plan::{CheckSpec, DEFAULT_TIMEOUT, Expected, Loaded};
use crate::severity::Severity;
use crate::units::Unit;
use crate::yaml::{self, Node, Place, Problem, Value};

const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A check that is ready to run.
pub struct Prepared {
    pub(super) name: String,
    pub(super) kind: &'static Kind,
    pub(super) severity: Severity,
    pub(super) timeout: Duration,
    pub(super) retries: u32,
    pub(super) retry_delay: Duration,
    /// Indices into the same list.
    pub(super) needs: Vec<usize>,
    pub(super) controls: Vec<String>,
    pub(super) lines: Vec<Line>,
    pub(super) check: Arc<dyn Check>,
}

/// Makes the checks of a plan ready to run. Touches nothing outside.
///
/// Errors (2), each with its place in the plan: an unknown kind, name or setting, a comparison that
/// does not fit what it compares, a missing target, `needs` that name no check or go in a circle.
pub fn prepare(specs: &[CheckSpec], loaded: &Loaded) -> Result<Vec<Prepared>, Fault> {
    let prepared: Vec<Prepared> = specs
        .iter()
        .map(|spec| one(spec, specs, loaded))
        .collect::<Result<_, Problem>>()
        .map_err(|problem| loaded.fault(problem))?;
    match first_in_a_circle(&prepared) {
        None => Ok(prepared),
        Some(index) => {
            let message = format!("the check `{}` needs itself, by way of its `needs`", prepared[index].name);
            let place = place_of(loaded, &specs[index], "needs");
            Err(loaded.fault(Problem { place, message, help: Some("take one of the needs out".into()) }))
        }
    }
}

fn one(spec: &CheckSpec, all: &[CheckSpec], loaded: &Loaded) -> Result<Prepared, Problem> {
    let at = |key: &'static str| move |problem: Problem| problem_at(problem, loaded, spec, key);
    let kind = super::kind(&spec.kind).map_err(at("kind"))?;
    let expected = spec.expect.lines(&loaded.variables).map_err(at("expect"))?;
    for line in &expected {
        check_line(kind, line)?;
    }
    let order = Order { spec, loaded, expected: &expected };
    check_target(kind, &order)?;
    let check = (kind.prepare)(&order).map_err(at("with"))?;
    let lines = lines(kind, &order)?;
    let defaults = &loaded.plan.defaults;
    let timeout = spec.timeout.or(defaults.timeout).map_or(DEFAULT_TIMEOUT, |span| span.0);
    if timeout.is_zero() {
        return Err(order.problem("timeout", "a `timeout` of nothing leaves no time to look"));
    }
    Ok(Prepared {
        name: spec.name.clone(),
        kind,
        severity: spec.severity,
        timeout,
        retries: spec.retries.or(defaults.retries).unwrap_or(0),
        retry_delay: spec.retry_delay.or(defaults.retry_delay).map_or(RETRY_DELAY, |span| span.0),
        needs: needs(&order, all)?,
        controls: spec.controls.clone(),
        lines,
        check: Arc::from(check),
    })
}

fn check_line(kind: &Kind, line: &Expected) -> Result<(), Problem> {
    let unit = kind
        .observes
        .iter()
        .find(|observable| observable.name == line.name)
        .map(|observable| observable.unit)
        .or_else(|| (kind.open_unit)(&line.name));
    let Some(unit) = unit else {
        let known = kind.observes.iter().map(|observable| observable.name);
        let what = format!("name in `expect` of kind `{}`:", kind.name);
        let mut problem = yaml::unknown(&what, &line.name, known);
        if let (Some(open), Some(help)) = (kind.open_names, &mut problem.help) {
            help.push_str("; also ");
            help.push_str(open);
        }
        problem.place = Some(line.place);
        return Err(problem);
    };
    line.is.fits(unit).map_err(|message| {
        Problem::at(line.place, format!("`{}: {}` cannot be compared: {message}", line.name, line.is))
            .help(format!("`{}` is {}", line.name, unit_in_words(unit)))
    })
}

/// The dimension as a reader of the plan says it.
pub(super) fn unit_in_words(unit: Unit) -> &'static str {
    match unit {
        Unit::Plain => "a number",
        Unit::Duration => "a duration, such as 250ms or 14d",
        Unit::Share => "a share, such as 5% or 0.05",
        Unit::Bytes => "a size, such as 8GiB",
        Unit::Rate => "a rate, such as 500/s",
        Unit::Text => "a text",
        Unit::Flag => "true or false",
    }
}

fn check_target(kind: &Kind, order: &Order<'_>) -> Result<(), Problem> {
    match (&order.spec.target, kind.target) {
        (Some(_), "") => {
            Err(order.problem("target", format!("a check of kind `{}` has no `target`", kind.name)))
        }
        (None, about) if !about.is_empty() => {
            let message = format!("the check `{}` needs a `target`", order.spec.name);
            Err(order.problem("kind", message).help(format!("for kind `{}` it is {about}", kind.name)))
        }
        _ => Ok(()),
    }
}

/// What the plan expects, behind what the kind presumes.
fn lines(kind: &Kind, order: &Order<'_>) -> Result<Vec<Line>, Problem> {
    let mut lines = Vec::new();
    for presumed in kind.presumes {
        if order.asks(presumed.name)
            || presumed.unless.iter().any(|name| order.asks(name) || is_on(order, name))
        {
            continue;
        }
        let is = Expectation::parse(presumed.is).map_err(|message| order.problem("kind", message))?;
        let shown = is.text().to_owned();
        lines.push(Line { name: presumed.name.into(), is, shown, presumed: true });
    }
    for line in order.expected {
        let is = line.is.clone();
        let is = if line.name.starts_with("min_") { is.or_at_least() } else { is };
        let shown = as_written(order.spec, &line.name).unwrap_or_else(|| is.text().to_owned());
        lines.push(Line { name: line.name.clone(), is, shown, presumed: false });
    }
    if lines.is_empty() {
        let message = format!("the check `{}` expects nothing", order.spec.name);
        return Err(order
            .problem("kind", message)
            .help("a check that cannot fail says nothing: add `expect`"));
    }
    Ok(lines)
}

/// Whether a setting of that name is `true`.
fn is_on(order: &Order<'_>, name: &str) -> bool {
    let with = order.spec.with.0.as_ref().and_then(|with| with.get(name));
    with.is_some_and(|node| node.read::<bool>(&order.loaded.variables).is_ok_and(|on| on))
}

/// The comparison as the plan has it, where it holds a variable: such values are shown by name.
fn as_written(spec: &CheckSpec, name: &str) -> Option<String> {
    match &spec.expect.0.as_ref()?.get(name)?.value {
        Value::Scalar { text, .. } if text.contains("${") => Some(text.clone()),
        _ => None,
    }
}

fn needs(order: &Order<'_>, all: &[CheckSpec]) -> Result<Vec<usize>, Problem> {
    let names = || all.iter().map(|spec| spec.name.as_str());
    order
        .spec
        .needs
        .iter()
        .map(|need| {
            names().position(|name| name == need).ok_or_else(|| {
                let mut problem = yaml::unknown("check in `needs`:", need, names());
                problem.place = place_of(order.loaded, order.spec, "needs");
                problem
            })
        })
        .collect()
}

/// A check that comes back to itself along its needs.
fn first_in_a_circle(prepared: &[Prepared]) -> Option<usize> {
    let mut settled = vec![false; prepared.len()];
    let ready = |settled: &[bool]| {
        (0..prepared.len())
            .find(|&index| !settled[index] && prepared[index].needs.iter().all(|&need| settled[need]))
    };
    while let Some(index) = ready(&settled) {
        settled[index] = true;
    }
    // Those left over are in a circle or need one that is: as many steps as there are checks end inside.
    let mut at = settled.iter().position(|settled| !settled)?;
    for _ in prepared {
        at = prepared[at].needs.iter().copied().find(|&need| !settled[need])?;
    }
    Some(at)
}

fn problem_at(mut problem: Problem, loaded: &Loaded, spec: &CheckSpec, key: &str) -> Problem {
    if problem.place.is_none() {
        problem.place = place_of(loaded, spec, key);
    }
    problem
}

/// Where the value under `key` of this check stands, or the check itself.
pub(super) fn place_of(loaded: &Loaded, spec: &CheckSpec, key: &str) -> Option<Place> {
    // Only errors ask for places, so the plan is read a second time rather than carried along.
    let root = yaml::parse(&loaded.source).ok()?;
    let is = |check: &Node, key: &str, wanted: &str| {
        check.get(key).is_some_and(|n| n.read::<String>(&loaded.variables).is_ok_and(|t| t == wanted))
    };
    let sections =
        [root.get("preflight"), root.get("verify"), root.get("snapshot").and_then(|s| s.get("drill"))];
    sections.into_iter().flatten().find_map(|section| {
        let Value::Sequence(checks) = &section.get("checks")?.value else { return None };
        let check = checks.iter().find(|c| is(c, "name", &spec.name) && is(c, "kind", &spec.kind))?;
        Some(check.get(key).map_or(check.place, |node| node.place))
    })
}
