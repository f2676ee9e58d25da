//! Every source of figures that a judgement may use.
//!
//! A source reads; it judges nothing, and invents nothing: no value where there was none, no order
//! where several series came back. The contract, run over every kind by the same tests: an
//! unreachable, hanging or babbling source is a [`Trouble`] within the time limit; several series where
//! one was meant are a [`Trouble`] that shows their labels; NaN and infinite values come through as
//! they are; no secret is in a query that is shown or in an error.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::plan::{Loaded, MetricSpec, Raw};
use crate::units::{Target, Text, listed};
use crate::yaml::{self, Problem};

mod access;
mod attempts;
mod command;
mod file;
mod framing;
mod haproxy_log;
mod json_log;
mod log;
mod moment;
mod nginx_log;
mod pattern;
pub mod probe;
mod series;
pub mod template;
mod text_log;

mod query;
mod remote;
mod sigv4;

mod cloudwatch;
mod datadog;
mod graphite;
mod influxdb;
mod prometheus;

/// Every source of figures that a plan may name.
pub static ALL: &[&Kind] = &[
    &prometheus::KIND,
    &nginx_log::KIND,
    &json_log::KIND,
    &haproxy_log::KIND,
    &text_log::KIND,
    &file::KIND,
    &command::KIND,
    &influxdb::KIND,
    &graphite::KIND,
    &datadog::KIND,
    &cloudwatch::KIND,
];

/// One kind of source.
#[derive(Debug)]
pub struct Kind {
    /// Its name in the plan.
    pub name: &'static str,
    /// What it measures, in one sentence.
    pub about: &'static str,
    /// What `target` is.
    pub target: &'static str,
    /// One of `metrics` that works.
    pub example: &'static str,
    /// What it gives.
    pub gives: Gives,
    /// The JSON Schema of `with`.
    pub settings: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the settings; touches nothing.
    pub open: fn(&Order<'_>) -> Result<Box<dyn Source>, Problem>,
}

/// What a kind of source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Single requests of both sides: error rate and latencies.
    Requests,
    /// A series of values for each side: one metric, under the source's own name.
    Points,
}

/// What a source is opened with.
pub struct Order<'a> {
    /// The source in the plan.
    pub spec: &'a MetricSpec,
    /// Where the figures are.
    pub target: Option<&'a Target>,
    /// Settings of the kind.
    pub with: &'a Raw,
    /// Where `${…}` finds its values.
    pub variables: &'a dyn yaml::Variables,
    /// The folder of the plan.
    pub folder: &'a Path,
    /// Time for one answer.
    pub timeout: Duration,
    /// Whether it is asked for each side; then a query must tell them apart.
    pub sides: bool,
}

impl Order<'_> {
    /// The settings of the kind.
    ///
    /// Errors: an unknown key, a wrong type, a missing variable, each with its place.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.with.read(self.variables)
    }

    /// The target as one text that is not empty.
    pub fn target(&self) -> Result<&Text, Problem> {
        let target = self.target.ok_or_else(|| self.problem("", "`target` is missing"))?;
        let text = target.one().map_err(|message| self.problem("", message))?;
        if text.value.trim().is_empty() {
            return Err(self.problem("", "`target` is empty"));
        }
        Ok(text)
    }

    /// A problem with the setting of that name; with all of them where there is none of it.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let with = self.with.0.as_ref();
        let place = with.and_then(|node| node.get(key)).or(with).map(|node| node.place);
        Problem { place, message: message.into(), help: None }
    }
}

/// A side, as queries name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideOf {
    /// `blue` or `green`; empty where there are no sides.
    pub word: &'static str,
    /// Its own address.
    pub url: String,
    /// What the release header says on it, where that is known.
    pub release: Option<String>,
}

impl SideOf {
    /// Host and port of its address, without scheme, user and path.
    pub fn address(&self) -> String {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned()
    }
}

/// A window of one side: `[from, to)`.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The side.
    pub side: &'a SideOf,
    /// Its first moment.
    pub from: Timestamp,
    /// The moment after its last.
    pub to: Timestamp,
    /// The time between two values.
    pub step: Duration,
    /// The time that one value covers, for queries that count over a window.
    pub covers: Duration,
    /// Time for the whole answer.
    pub limit: Duration,
}

impl Ask<'_> {
    /// How long the window is.
    pub fn window(&self) -> Duration {
        Duration::try_from(self.to.duration_since(self.from)).unwrap_or_default()
    }
}

/// A value of a series, in the source's own unit. It may be NaN or infinite: the judge names that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its moment, in ms since 1970.
    pub at_ms: i64,
    /// The value.
    pub value: f64,
}

/// One request of a user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UserRequest {
    /// 0 for blue, 1 for green.
    pub side: usize,
    /// When it was answered, in ms since 1970.
    pub at_ms: i64,
    /// How long the answer took, in ms, where the source says.
    pub latency_ms: Option<f64>,
    /// Whether it went well.
    pub ok: bool,
}

/// Why a source gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble.
    pub what: TroubleKind,
    /// One line: what, where, why; secrets left out.
    pub message: String,
}

/// What kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// No answer: unreachable, too late, cut short. Worth another attempt.
    Unreachable,
    /// It answered that it cannot: a wrong query, no rights, a server error.
    Refused,
    /// It answered what cannot be understood.
    Babble,
    /// Several series where one was meant.
    SeveralSeries,
}

impl Trouble {
    /// No answer.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { what: TroubleKind::Unreachable, message: message.into() }
    }
    /// It refuses.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { what: TroubleKind::Refused, message: message.into() }
    }
    /// It cannot be understood.
    pub fn babble(message: impl Into<String>) -> Self {
        Self { what: TroubleKind::Babble, message: message.into() }
    }
    /// Several series, by their labels; the first ten are shown.
    pub fn several(labels: &[String]) -> Self {
        let message = format!(
            "{} series where one was meant: {}; sum them up, or say in the query which one is meant",
            labels.len(),
            listed(labels, 10)
        );
        Self { what: TroubleKind::SeveralSeries, message }
    }
}

/// A source of figures.
pub trait Source: Send {
    /// The values of one side in a window, ascending in time, each moment once. An empty list is "no
    /// data": it is for the judge to say what that means.
    ///
    /// Errors: see [`Trouble`].
    fn points(&mut self, _ask: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
        Err(Trouble::refused("this kind gives single requests, no series"))
    }

    /// Hands over every request of both sides in a window (`ask.side` is of no meaning here), in the
    /// order in which they stand; with them those of earlier windows that were not there yet.
    ///
    /// Errors: see [`Trouble`].
    fn requests(
        &mut self,
        _sides: &[SideOf; 2],
        _ask: &Ask<'_>,
        _take: &mut dyn FnMut(UserRequest),
    ) -> Result<(), Trouble> {
        Err(Trouble::refused("this kind gives a series, no single requests"))
    }

    /// Why what it has given proves nothing good, although it may prove something bad.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// By how much more than was waited for requests have come late so far.
    fn late(&self) -> Duration {
        Duration::ZERO
    }

    /// The query for a window as people may see it: filled in, secrets left out.
    fn query(&self, ask: &Ask<'_>) -> String;
}

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.name == name).copied()
}

/// Opens a source of the plan. Touches nothing.
///
/// Errors (2): an unknown kind (the nearest known one is named), or settings that do not validate.
pub fn open(spec: &MetricSpec, loaded: &Loaded) -> Result<(&'static Kind, Box<dyn Source>), Fault> {
    open_for(spec, loaded, true)
}

/// The same, for each side or for what has no sides: what is live.
///
/// Errors (2): as [`open`].
pub fn open_for(
    spec: &MetricSpec,
    loaded: &Loaded,
    sides: bool,
) -> Result<(&'static Kind, Box<dyn Source>), Fault> {
    let Some(kind) = kind(&spec.kind) else {
        return Err(loaded.fault(yaml::unknown("metric kind", &spec.kind, ALL.iter().map(|k| k.name))));
    };
    let order = Order {
        spec,
        target: spec.target.as_ref(),
        with: &spec.with,
        variables: &loaded.variables,
        folder: &loaded.folder,
        timeout: spec.timeout.map_or(DEFAULT_TIMEOUT, |t| t.0),
        sides,
    };
    let source = (kind.open)(&order).map_err(|mut problem| {
        problem.message = format!("metric `{}`: {}", spec.name, problem.message);
        // Without a `with` there is no line to show.
        problem.place = problem.place.filter(|_| spec.with.0.is_some());
        loaded.fault(problem)
    })?;
    Ok((kind, source))
}

/// Time for one answer where the plan does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two values where the plan does not say.
pub const DEFAULT_STEP: Duration = Duration::from_secs(15);
