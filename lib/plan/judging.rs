//! The part of the plan that says what is judged: figures, triggers, and the rules of the verdict.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Expect, Raw};
use crate::expectation::Expectation;
use crate::severity::Severity;
use crate::units::{Share, Span, Target, Text, Unit};

/// A source of figures besides the plan's own probe and the router's counters.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricSpec {
    /// Its name: what triggers call the metric, or, where the kind reads single requests, what they
    /// call the source. Unique; letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Which kind of source.
    pub kind: String,
    /// Where the figures are.
    #[serde(default)]
    pub target: Option<Target>,
    /// Settings of its kind.
    #[serde(default)]
    pub with: Raw,
    /// What its numbers count; a bare number when absent.
    #[serde(default)]
    pub unit: MetricUnit,
    /// Which way is worse; higher when absent.
    #[serde(default)]
    pub worse: Worse,
    /// How a plain threshold sums up the values of a window; their mean when absent.
    #[serde(default)]
    pub aggregate: Aggregate,
    /// The time between two values; 15 s when absent.
    #[serde(default)]
    pub step: Option<Span>,
    /// The time that one value covers: `{{ window }}` in a query. One step when absent. Where it is longer
    /// than a step, values share data and tell less than as many that do not.
    #[serde(default)]
    pub window: Option<Span>,
    /// How long after its moment a value is final: later ones are not asked for yet. One step when
    /// absent.
    #[serde(default)]
    pub delay: Option<Span>,
    /// Whether values that never change are sound. A figure that stands still is taken for a dead
    /// source otherwise, unless it is 0.
    #[serde(default)]
    pub may_be_constant: bool,
    /// Time for one answer; 10 s when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Further attempts within an interval after a failed one; 2 when absent.
    #[serde(default)]
    pub retries: Option<u32>,
}

/// What the numbers of a source count.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MetricUnit {
    /// Anything that is counted.
    #[default]
    Number,
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
    /// Shares in 0..=1.
    Share,
    /// Shares in 0..=100.
    Percent,
    /// Bytes.
    Bytes,
}

impl MetricUnit {
    /// The dimension, for thresholds.
    pub fn dimension(self) -> Unit {
        match self {
            Self::Number => Unit::Plain,
            Self::S | Self::Ms | Self::Us | Self::Ns => Unit::Duration,
            Self::Share | Self::Percent => Unit::Share,
            Self::Bytes => Unit::Bytes,
        }
    }

    /// What a number is multiplied with to become what Trapkey records: ms for durations, a share in
    /// 0..=1, anything else as it is.
    pub fn factor(self) -> f64 {
        match self {
            Self::S => 1e3,
            Self::Us => 1e-3,
            Self::Ns => 1e-6,
            Self::Percent => 1e-2,
            Self::Number | Self::Ms | Self::Share | Self::Bytes => 1.0,
        }
    }

    /// The unit of the recorded figure, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Number => "",
            Self::S | Self::Ms | Self::Us | Self::Ns => "ms",
            Self::Share | Self::Percent => "%",
            Self::Bytes => "B",
        }
    }
}

/// Which way is worse.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Worse {
    /// Errors, latency, memory.
    #[default]
    Higher,
    /// Orders, logins, throughput.
    Lower,
    /// Any change.
    Either,
}

/// How a plain threshold sums up the values of a window.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// Their mean.
    #[default]
    Mean,
    /// Their median.
    Median,
    /// The greatest.
    Max,
    /// The smallest.
    Min,
    /// The newest.
    Last,
    /// Their sum.
    Sum,
}

/// What ends the release. Exactly one of `is`, `worse_than_baseline_by` and `burn_rate`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// `error_rate`, `latency_p50`, `latency_p95`, `latency_p99`, `latency_mean`, `latency_max`, or
    /// the name of one of `metrics`.
    pub metric: String,
    /// Only this source of single requests: `probe`, the router's kind, or the name of one of
    /// `metrics`. Every source that has the metric when absent; one that fires is enough.
    #[serde(default)]
    pub source: Option<String>,
    /// A plain threshold on green: `> 0.1%`.
    #[serde(default)]
    pub is: Option<Expectation>,
    /// Green against blue at the same time: worse by more than this share, and not by chance.
    #[serde(default)]
    pub worse_than_baseline_by: Option<Share>,
    /// … and worse by this much in any case (`5ms`, `0.1%`, `3`), so that a share of next to nothing is
    /// no alarm; 0.1 % for shares, 1 ms for latencies, 0 for bare numbers when absent.
    #[serde(default)]
    #[schemars(with = "Option<Text>")]
    pub at_least: Option<String>,
    /// Green's errors against what a service level objective allows, over several windows at once.
    #[serde(default)]
    pub burn_rate: Option<BurnRate>,
    /// How long a plain threshold must be crossed at every look before it fires; at once when absent.
    #[serde(default, rename = "for")]
    pub hold: Option<Span>,
    /// A plain threshold looks at this much of the newest time; at all since the step began when absent.
    #[serde(default)]
    pub over: Option<Span>,
    /// Whether it ends the release by itself; when false it only counts in the judge's `score`.
    #[serde(default = "yes")]
    pub critical: bool,
    /// What it weighs in the judge's `score`; 1 when absent.
    #[serde(default)]
    pub weight: Option<f64>,
    /// With `judge: {kind: kayenta}`: how Kayenta treats this metric (`direction`, `nan_strategy`,
    /// `outliers`, `effect_size`, `critical`, `must_have_data`, `muted`, `groups`).
    #[serde(default)]
    pub kayenta: Raw,
}

fn yes() -> bool {
    true
}

/// How fast errors use up what an objective allows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BurnRate {
    /// The share of requests that must go well, such as `99.9%`.
    pub objective: Share,
    /// Fires when one of these is exceeded; when absent those of the SRE workbook: 14.4 in 1 h and
    /// 5 m, 6 in 6 h and 30 m, 1 in 3 d and 6 h.
    #[serde(default)]
    pub windows: Vec<BurnWindow>,
}

/// A long window for significance and a short one so that the alarm ends with its cause.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BurnWindow {
    /// The long window.
    pub long: Span,
    /// The short window.
    pub short: Span,
    /// Fires when errors come more than this many times as fast as allowed, in both.
    pub above: f64,
}

/// The rules of the verdict. A bare word is a kind with all its defaults.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeSpec {
    /// Which rules; Trapkey's own when absent.
    #[serde(default)]
    pub kind: JudgeKind,
    /// How often a comparison may fire by chance in one bake, all its looks together; 1% when absent.
    #[serde(default)]
    pub false_alarms: Option<Share>,
    /// How surely a comparison must see what its trigger names before a bake may pass; 80% when a
    /// bake is planned. When it is given, fewer samples than that takes are too few.
    #[serde(default)]
    pub power: Option<Share>,
    /// Weighted score of all triggers, for those that are not critical.
    #[serde(default)]
    pub score: Option<ScoreSpec>,
    /// With `kind: kayenta`: what its groups weigh, in percent; those without share the rest.
    #[serde(default)]
    pub groups: BTreeMap<String, f64>,
    /// Looks in a row at which a source may fail before nothing is known; 4 when absent.
    #[serde(default)]
    pub consecutive_errors: Option<u32>,
    /// What is done while nothing is known: go back after `undecided_for` when absent.
    #[serde(default)]
    pub undecided: Undecided,
}

/// Reads the rules of the verdict, or a bare kind.
pub(super) fn word_or_rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JudgeSpec, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = JudgeSpec;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`trapkey`, `kayenta`, or a mapping with the rules")
        }
        fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<JudgeSpec, E> {
            let kind = JudgeKind::deserialize(StrDeserializer::new(word))?;
            Ok(JudgeSpec { kind, ..JudgeSpec::default() })
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JudgeSpec, A::Error> {
            JudgeSpec::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Either)
}

/// The same for the schema.
pub(super) fn word_or_rules_schema(generator: &mut SchemaGenerator) -> Schema {
    let (word, rules) = (generator.subschema_for::<JudgeKind>(), generator.subschema_for::<JudgeSpec>());
    json_schema!({ "anyOf": [word, rules], "description": "The rules of the verdict, or a bare kind with all its defaults." })
}

/// Which rules judge the comparisons.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// Trapkey's: sequential tests on counts and windows, with a tail guard.
    #[default]
    Trapkey,
    /// Kayenta's: its classification and its score.
    Kayenta,
}

/// When a score is good enough, in 0..=100.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ScoreSpec {
    /// From here on it passes.
    pub pass: f64,
    /// Below this the release ends; between the two nothing is decided.
    pub marginal: f64,
}

/// What is done while nothing is known.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// Go back after `undecided_for`.
    #[default]
    RollBack,
    /// Stand still after `undecided_for`, until people decide.
    Freeze,
    /// Wait for as long as it takes.
    Wait,
}

/// A metric that `verify` looks at where it is live. It has no sides, so its query names none. At least
/// one of `expect`, `compare`, `trend`, `anomaly` and `level` is asked of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyMetric {
    /// Its name in every report; unique among the metrics of `verify`.
    pub name: String,
    /// Which kind of source; one that gives a series.
    pub kind: String,
    /// Where the figures are.
    #[serde(default)]
    pub target: Option<Target>,
    /// Settings of its kind.
    #[serde(default)]
    pub with: Raw,
    /// What its numbers count; a bare number when absent.
    #[serde(default)]
    pub unit: MetricUnit,
    /// Which way is worse; higher when absent.
    #[serde(default)]
    pub worse: Worse,
    /// The time between two values; 15 s when absent.
    #[serde(default)]
    pub step: Option<Span>,
    /// The time that one value covers: `{{ window }}` in a query. One step when absent. Where it is longer
    /// than a step, values share data and tell less than as many that do not.
    #[serde(default)]
    pub window: Option<Span>,
    /// How long after its moment a value is final: later ones are not asked for yet. One step when
    /// absent.
    #[serde(default)]
    pub delay: Option<Span>,
    /// Whether values that never change are sound. A figure that stands still is taken for a dead
    /// source otherwise, unless it is 0.
    #[serde(default)]
    pub may_be_constant: bool,
    /// Time for one answer; 10 s when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Further attempts after a failed one; 2 when absent.
    #[serde(default)]
    pub retries: Option<u32>,
    /// The newest window, for `expect`, `compare` and `anomaly`; 10 min when absent.
    #[serde(default)]
    pub over: Option<Span>,
    /// Thresholds on the newest window: `mean`, `median`, `min`, `max`, `last`, `sum`, `samples`, and
    /// quantiles such as `p95`.
    #[serde(default)]
    pub expect: Expect,
    /// The newest window against an earlier one of the same length.
    #[serde(default)]
    pub compare: Option<CompareSpec>,
    /// Whether a limit will be crossed if it goes on like this.
    #[serde(default)]
    pub trend: Option<TrendSpec>,
    /// The newest window against what is usual at this time of the day (or week).
    #[serde(default)]
    pub anomaly: Option<AnomalySpec>,
    /// Whether the level has stepped to where it is worse.
    #[serde(default)]
    pub level: Option<LevelSpec>,
    /// Whether it closes the gate.
    #[serde(default)]
    pub severity: Severity,
}

impl VerifyMetric {
    /// What its source is opened with.
    pub fn source(&self) -> MetricSpec {
        MetricSpec {
            name: self.name.clone(),
            kind: self.kind.clone(),
            target: self.target.clone(),
            with: self.with.clone(),
            unit: self.unit,
            worse: self.worse,
            aggregate: Aggregate::default(),
            step: self.step,
            window: self.window,
            delay: self.delay,
            may_be_constant: self.may_be_constant,
            timeout: self.timeout,
            retries: self.retries,
        }
    }
}

/// The newest window against an earlier one of the same length.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareSpec {
    /// How much earlier (`1d`, `1w`), or `release`: the window that ended when traffic began to move.
    pub before: Before,
    /// A typical value may be worse by this share of the median before; 5% when absent.
    #[serde(default)]
    pub worse_by: Option<Share>,
    /// … and by this much in any case (`5ms`, `0.1%`, `3`); 0.1 % for shares, 1 ms for durations, 0 for
    /// the rest when absent.
    #[serde(default)]
    #[schemars(with = "Option<Text>")]
    pub at_least: Option<String>,
}

/// What the newest window is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The same window, so much earlier.
    Ago(Span),
    /// The window that ended when traffic began to move.
    Release,
}

impl<'de> Deserialize<'de> for Before {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim() == "release" {
            return Ok(Self::Release);
        }
        text.parse().map(Self::Ago).map_err(|_| {
            de::Error::custom(format!("`{text}` is neither `release` nor a duration such as 1d or 1w"))
        })
    }
}

impl JsonSchema for Before {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Before".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let span = Span::json_schema(generator);
        json_schema!({ "anyOf": [{ "const": "release" }, span] })
    }
}

/// Whether a limit will be crossed if it goes on like this.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrendSpec {
    /// The time up to now through which the line is laid.
    pub over: Span,
    /// The time between two of its values; a 500th of `over`, but not less than the metric's own, when
    /// absent.
    #[serde(default)]
    pub step: Option<Span>,
    /// The limit, and the side on which it is bad: `> 90%`, `< 1GiB`.
    pub crosses: Expectation,
    /// It fails when the line gets there within this time.
    pub within: Span,
}

/// The newest window against what is usual at this time of the day (or week).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnomalySpec {
    /// The time before the newest window from which the usual is learned; 14 d when absent.
    #[serde(default)]
    pub history: Option<Span>,
    /// The time after which the pattern repeats itself; 1 d when absent.
    #[serde(default)]
    pub season: Option<Span>,
    /// The equal parts of a season, each with a median and a spread of its own; 24 when absent.
    #[serde(default)]
    pub phases: Option<usize>,
    /// How many spreads (MADs, scaled to the standard deviation) from its median a value may lie; 4 when
    /// absent.
    #[serde(default)]
    pub limit: Option<f64>,
    /// The time between two values of the history; a quarter of a phase, but not less than the metric's
    /// own, when absent.
    #[serde(default)]
    pub step: Option<Span>,
}

/// Whether the level has stepped to where it is worse.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelSpec {
    /// The time up to now in which a step is looked for.
    pub over: Span,
    /// How unlikely such a step must be by chance; 1% when absent.
    #[serde(default)]
    pub p_below: Option<Share>,
    /// The level may become worse by this share of what it was; 5% when absent.
    #[serde(default)]
    pub worse_by: Option<Share>,
    /// … and by this much in any case; as in `compare` when absent.
    #[serde(default)]
    #[schemars(with = "Option<Text>")]
    pub at_least: Option<String>,
}
