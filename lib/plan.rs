//! release.yaml: its shape, its variables, and the checks of the whole file.
//!
//! The plan knows no kind by name: it carries the uniform fields and keeps the rest (`with`) as it
//! stands for the kind's own file, which denies unknown keys.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::calendar::Calendar;
use crate::evidence::used::Origin;
use crate::evidence::{PlanRef, Values, sha256_hex};
use crate::expectation::Expectation;
use crate::fault::Fault;
use crate::severity::Severity;
use crate::units::{Rate, Share, Span, Target, Text, with_variables};
use crate::yaml::{self, Node, Problem};

/// The plan as the user wrote it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The version of this format; 1 is the only one.
    pub version: u32,
    /// The service that is released.
    pub service: String,
    /// Names of variables whose values are secret, whatever they are called: of the plan, and of the environment that hooks
    /// and commands inherit.
    #[serde(default)]
    pub secret: Vec<String>,
    /// Where releases go, by name.
    #[serde(default)]
    pub environments: BTreeMap<String, Environment>,
    /// What is released.
    pub release: ReleaseSpec,
    /// Defaults for every check.
    #[serde(default)]
    pub defaults: Defaults,
    /// How connections are trusted, by host: `db.corp.example`, `10.0.0.11:8443`, `*.corp.example` or `*`.
    #[serde(default)]
    pub connections: BTreeMap<String, Connection>,
    /// The checks before anything moves.
    #[serde(default)]
    pub preflight: Option<Preflight>,
    /// The way back.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
    /// How traffic moves.
    #[serde(default)]
    pub promote: Option<Promote>,
    /// The checks afterwards.
    #[serde(default)]
    pub verify: Option<Verify>,
    /// What is rendered, and for whom.
    #[serde(default)]
    pub report: ReportSpec,
    /// Variables that may have another value in each job: a run id, a host, a port. All others must be the same from
    /// `preflight` to `report`.
    #[serde(default)]
    pub may_differ: Vec<String>,
}

/// One environment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Where users reach the service.
    #[serde(default)]
    pub url: Option<Text>,
}

/// What is released.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSpec {
    /// The version, as text: `1.10` stays `1.10`.
    #[schemars(with = "Text")]
    pub version: String,
    /// The version that serves now, for the report.
    #[serde(default)]
    #[schemars(with = "Option<Text>")]
    pub previous: Option<String>,
    /// The commit; taken from the CI system when absent.
    #[serde(default)]
    pub commit: Option<String>,
    /// Files whose SHA-256 names what is released.
    #[serde(default)]
    pub artifacts: Vec<Text>,
}

/// Defaults for every check that does not say otherwise.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Time for one attempt; 10 s when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Further attempts after a failed one; 0 when absent.
    #[serde(default)]
    pub retries: Option<u32>,
    /// Pause before the first further attempt, doubled each time; 500 ms when absent.
    #[serde(default)]
    pub retry_delay: Option<Span>,
    /// How many checks run at once; 16 when absent.
    #[serde(default)]
    pub parallel: Option<usize>,
}

/// One check: the same fields whatever its kind.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// Its name in every report; unique in its list.
    pub name: String,
    /// Which kind of check.
    pub kind: String,
    /// What it looks at.
    #[serde(default)]
    pub target: Option<Target>,
    /// Settings of its kind.
    #[serde(default)]
    pub with: Raw,
    /// What it must see.
    #[serde(default)]
    pub expect: Expect,
    /// Whether it closes the gate.
    #[serde(default)]
    pub severity: Severity,
    /// Time for one attempt.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Further attempts after a failed one.
    #[serde(default)]
    pub retries: Option<u32>,
    /// Pause before the first further attempt, doubled each time.
    #[serde(default)]
    pub retry_delay: Option<Span>,
    /// Names of checks that must pass first.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Compliance controls that this check gives evidence for, such as `soc2:A1.2`.
    #[serde(default)]
    pub controls: Vec<String>,
}

/// `with`: kept as it stands until its kind reads it.
#[derive(Clone, Debug, Default)]
pub struct Raw(pub Option<Node>);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(|node| Raw(Some(node)))
    }
}

impl JsonSchema for Raw {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "With".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

/// `expect`: names and comparisons in their order, each with its place.
#[derive(Clone, Debug, Default)]
pub struct Expect(pub Option<Node>);

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(|node| Expect(Some(node)))
    }
}

impl JsonSchema for Expect {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Expect".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = Expectation::json_schema(generator);
        json_schema!({ "type": "object", "additionalProperties": {
            "anyOf": [value, { "type": "array", "items": { "type": ["string", "number", "boolean"] } }]
        }})
    }
}

/// One line of `expect` with its place in the plan.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What is observed.
    pub name: String,
    /// What it must be.
    pub is: Expectation,
    /// Where it stands.
    pub place: yaml::Place,
}

impl Expect {
    /// The lines, comparisons parsed and variables filled in.
    pub fn lines(&self, variables: &dyn yaml::Variables) -> Result<Vec<Expected>, Problem> {
        let Some(node) = self.0.as_ref().filter(|n| !n.is_null()) else { return Ok(Vec::new()) };
        if !matches!(node.value, yaml::Value::Mapping(_)) {
            return Err(Problem::at(node.place, "expected a block of names and comparisons"));
        }
        node.entries()
            .map(|(name, place, value)| {
                let is = match &value.value {
                    yaml::Value::Sequence(_) => {
                        let items: Vec<String> = value.read(variables)?;
                        Expectation::any_of(&items).map_err(|m| Problem::at(value.place, m))?
                    }
                    _ => value.read(variables).map_err(|mut problem: Problem| {
                        problem.place.get_or_insert(value.place);
                        problem
                    })?,
                };
                Ok(Expected { name: name.to_owned(), is, place })
            })
            .collect()
    }
}

impl Raw {
    /// Reads the settings of a kind; an absent block reads as an empty one.
    pub fn read<T: serde::de::DeserializeOwned>(
        &self,
        variables: &dyn yaml::Variables,
    ) -> Result<T, Problem> {
        match &self.0 {
            Some(node) => node.read(variables),
            None => Node::default().read(variables),
        }
    }
}

/// The checks before anything moves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preflight {
    /// How old the document may be when a later tool consumes it; 1 h when absent.
    #[serde(default)]
    pub max_age: Option<Span>,
    /// Whether what `promote` will need is tried as well: router, front door, both sides, snapshot store and state;
    /// true when absent. False is for a job that cannot reach them.
    #[serde(default)]
    pub promote: Option<bool>,
    /// The checks.
    #[serde(default)]
    pub checks: Vec<CheckSpec>,
}

/// The way back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The folder of the store, relative to the plan.
    pub store: Text,
    /// How old the document may be when a later tool consumes it; 24 h when absent.
    #[serde(default)]
    pub max_age: Option<Span>,
    /// What is backed up.
    pub sources: Vec<SourceSpec>,
    /// A command (argv, no shell) before the first source is read: freeze, flush, pause.
    #[serde(default)]
    pub before: Vec<Text>,
    /// A command after the last source was read, before the proof: thaw. It runs whatever happened
    /// since `before` began, also when the snapshot was killed.
    #[serde(default)]
    pub after: Vec<Text>,
    /// Time for one of the two; 10 min when absent.
    #[serde(default)]
    pub hook_timeout: Option<Span>,
    /// What is kept.
    #[serde(default)]
    pub retention: Option<Retention>,
    /// Why the store needs no passphrase, where it has none.
    #[serde(default)]
    pub encryption: Option<Encryption>,
    /// What a drill of the way back is held to.
    #[serde(default)]
    pub drill: Drill,
    /// What is read back from the store before a snapshot passes; `new` when absent.
    #[serde(default)]
    pub prove: Prove,
}

/// What is read back from the store before a snapshot passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prove {
    /// What this snapshot added; the rest was read back by an earlier one.
    #[default]
    New,
    /// Everything that the snapshot needs, so that what was damaged since is found now.
    Everything,
}

/// What a drill of the way back is held to.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// The recovery time objective: how long it may take from the beginning of the restore until the
    /// last check has passed; only measured when absent.
    #[serde(default)]
    pub rto: Option<Span>,
    /// The recovery point objective: how old the newest snapshot may be when the drill begins; only
    /// measured when absent.
    #[serde(default)]
    pub rpo: Option<Span>,
    /// The checks of what was restored. Besides the plan's variables they know `${DRILL_FOLDER}`, the
    /// folder with everything that was restored, and for each source `${DRILL_NAME}`, its name in
    /// capitals with `_` for all but letters and digits: the URL of its scratch database, or the folder of
    /// its files.
    #[serde(default)]
    pub checks: LateChecks,
}

/// Checks whose variables are known only once there is something to look at.
#[derive(Clone, Debug, Default)]
pub struct LateChecks(pub Option<Node>);

impl<'de> Deserialize<'de> for LateChecks {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(|node| LateChecks(Some(node)))
    }
}

impl JsonSchema for LateChecks {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "LateChecks".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<CheckSpec>::json_schema(generator)
    }
}

impl LateChecks {
    /// The checks, with these variables.
    pub fn read(&self, variables: &PlanVariables) -> Result<Vec<CheckSpec>, Problem> {
        let Some(node) = self.0.as_ref().filter(|node| !node.is_null()) else { return Ok(Vec::new()) };
        let lookup = variables.clone();
        with_variables(Box::new(move |name| yaml::Variables::get(&lookup, name)), || node.read(variables))
    }
}

/// The folder of everything that a drill restored, in its checks.
pub const DRILL_FOLDER: &str = "DRILL_FOLDER";

/// The variable of a source in the checks of a drill: `DRILL_SHOP_DATA` of `shop-data`.
pub fn drill_variable(source: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("DRILL_{}", source.chars().map(plain).collect::<String>())
}

/// How a store of snapshots is encrypted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// The reason, for whoever asks later. The store then opens with the well-known passphrase
    /// `none-needed`: everybody who can read it can restore from it.
    pub none_needed_because: String,
}

/// One source of a snapshot.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Its name inside the snapshot; unique, letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Which kind of source.
    pub kind: String,
    /// What is backed up.
    #[serde(default)]
    pub target: Option<Target>,
    /// Settings of its kind.
    #[serde(default)]
    pub with: Raw,
    /// Time limit for this source; 1 h when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Whether the snapshot may do without what cannot be read of it; the document then says partial.
    #[serde(default)]
    pub allow_partial: bool,
    /// A command (argv, no shell) before this source is read.
    #[serde(default)]
    pub before: Vec<Text>,
    /// A command after this source was read, whatever happened since `before` began.
    #[serde(default)]
    pub after: Vec<Text>,
    /// Time for one of the two; 10 min when absent.
    #[serde(default)]
    pub hook_timeout: Option<Span>,
}

/// Which snapshots are kept: whatever any of these keeps stays. Days, weeks, months and years are those
/// of UTC.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The newest so many.
    #[serde(default)]
    pub keep_last: Option<u32>,
    /// The newest of each of so many hours that have one.
    #[serde(default)]
    pub keep_hourly: Option<u32>,
    /// The newest of each of so many days that have one.
    #[serde(default)]
    pub keep_daily: Option<u32>,
    /// The newest of each of so many weeks (from Monday on) that have one.
    #[serde(default)]
    pub keep_weekly: Option<u32>,
    /// The newest of each of so many months that have one.
    #[serde(default)]
    pub keep_monthly: Option<u32>,
    /// The newest of each of so many years that have one.
    #[serde(default)]
    pub keep_yearly: Option<u32>,
    /// All that are no older than the newest one by more than this.
    #[serde(default)]
    pub keep_within: Option<Span>,
    /// The newest of each hour within this time before the newest one.
    #[serde(default)]
    pub keep_within_hourly: Option<Span>,
    /// The newest of each day within this time before the newest one.
    #[serde(default)]
    pub keep_within_daily: Option<Span>,
    /// The newest of each week within this time before the newest one.
    #[serde(default)]
    pub keep_within_weekly: Option<Span>,
    /// The newest of each month within this time before the newest one.
    #[serde(default)]
    pub keep_within_monthly: Option<Span>,
    /// The newest of each year within this time before the newest one.
    #[serde(default)]
    pub keep_within_yearly: Option<Span>,
    /// Those with one of these tags; `a,b` stands for both of them.
    #[serde(default)]
    pub keep_tags: Vec<String>,
}

impl Retention {
    /// Whether it keeps nothing at all.
    pub fn names_nothing(&self) -> bool {
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let spans = [
            self.keep_within,
            self.keep_within_hourly,
            self.keep_within_daily,
            self.keep_within_weekly,
            self.keep_within_monthly,
            self.keep_within_yearly,
        ];
        counts.iter().flatten().all(|count| *count == 0)
            && spans.iter().flatten().all(|span| span.0.is_zero())
            && self.keep_tags.is_empty()
    }
}

/// How traffic moves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// In steps, or at once.
    #[serde(default)]
    pub strategy: Strategy,
    /// What moves the traffic.
    pub router: RouterSpec,
    /// The two sides.
    pub sides: Sides,
    /// Own requests to both sides during a bake, and through the router after a shift.
    #[serde(default)]
    pub probe: ProbeSpec,
    /// How often the triggers are looked at during a bake; 5 s when absent.
    #[serde(default)]
    pub interval: Option<Span>,
    /// Fewest samples per side before a metric counts; 50 when absent.
    #[serde(default)]
    pub min_samples: Option<u64>,
    /// How long a bake may stay undecided beyond its end before it rolls back; 10 min when absent.
    #[serde(default)]
    pub undecided_for: Option<Span>,
    /// Commands at the turns of the way.
    #[serde(default)]
    pub hooks: Hooks,
    /// The way, one weight after another.
    #[serde(default)]
    pub steps: Vec<StepSpec>,
    /// Sources of figures besides the probe and the router's counters.
    #[serde(default)]
    pub metrics: Vec<MetricSpec>,
    /// What ends the release.
    #[serde(default)]
    pub rollback_when: Vec<Trigger>,
    /// The rules of the verdict.
    #[serde(default, deserialize_with = "judging::word_or_rules")]
    #[schemars(schema_with = "judging::word_or_rules_schema")]
    pub judge: JudgeSpec,
    /// How long open connections of the old side may end by themselves; 10 s when absent.
    #[serde(default)]
    pub drain: Option<Span>,
    /// How long green may take to become healthy after its deploy; 60 s when absent.
    #[serde(default)]
    pub healthy_within: Option<Span>,
    /// How long the router may be away, in a restart or a reload, before that counts as lost; 30 s when
    /// absent. Nothing moves meanwhile.
    #[serde(default)]
    pub router_back_within: Option<Span>,
    /// The least share of green's servers that the router itself must hold for up; 60% when absent. For a release to
    /// begin, of blue's as well (50% when absent).
    #[serde(default)]
    pub min_up: Option<Share>,
    /// By how much the split that users get may differ from the weight, as a part of the smaller side's share;
    /// 20% when absent: at a weight of 5 %, 4 % to 6 %.
    #[serde(default)]
    pub split_tolerance: Option<Share>,
    /// Whether the retire hook waits while a reload of the router would send users to the old side again, or other ways
    /// of its configuration lead there; otherwise that is a warning.
    #[serde(default)]
    pub retire_needs_durable: bool,
    /// The old side is retired only once it has had so few requests for so long, by the router's counters.
    #[serde(default)]
    pub retire_when: Option<RetireWhen>,
    /// Checks of the idle side by its own address, after its health and before it gets any traffic.
    #[serde(default)]
    pub preview: Vec<CheckSpec>,
    /// How long the whole way may take, from the beginning to all traffic on green; then it goes back.
    #[serde(default)]
    pub max_duration: Option<Span>,
    /// How long the old side is kept after the last step, for `promote undo`; not at all when absent.
    #[serde(default)]
    pub keep_old: Option<Span>,
    /// When traffic may move forward. A way back is never closed.
    #[serde(default)]
    pub calendar: Option<Calendar>,
    /// Who may approve, by role: names of keys in the folder of `--trust`. A role that is not named
    /// here is approved with the key of its own name.
    #[serde(default)]
    pub approvers: BTreeMap<String, Vec<String>>,
    /// Whether the roles of one step must be approved by different people; true when absent. False lets one person who is
    /// in several of them approve alone.
    #[serde(default = "yes")]
    pub distinct: bool,
    /// How long the lease on the promote state lasts when its holder does not renew it; 30 s when
    /// absent. A job that died on another machine holds the environment for up to twice as long.
    #[serde(default)]
    pub lease: Option<Span>,
}

/// When nobody needs the old side any more.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetireWhen {
    /// Requests that it may still have had in that time.
    pub requests: u64,
    /// For how long.
    #[serde(rename = "for")]
    pub lasting: Span,
}

/// In steps, or at once.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// A small share first, judged, then more.
    #[default]
    Canary,
    /// One switch, judged afterwards.
    BlueGreen,
}

/// What moves the traffic.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterSpec {
    /// Which kind of router.
    pub kind: String,
    /// Its socket, address or file.
    pub target: Text,
    /// Settings of its kind.
    #[serde(default)]
    pub with: Raw,
    /// Where users' requests enter, for the probe of the data plane; the environment's URL when absent.
    #[serde(default)]
    pub entry: Option<Text>,
    /// Time for one answer of the router; 5 s when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// How requests are told apart; each by itself when absent.
    #[serde(default)]
    pub split: SplitSpec,
}

/// How requests are told apart (A/B routing). Exactly one of `header` and `cookie` with the last two.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitSpec {
    /// What a step's weight is a share of.
    #[serde(default)]
    pub by: SplitBy,
    /// The request header that names the user, or that is matched.
    #[serde(default)]
    pub header: Option<String>,
    /// The cookie that names the user, or that is matched.
    #[serde(default)]
    pub cookie: Option<String>,
    /// With `by: match`: the value that takes a request to green.
    #[serde(default)]
    pub value: Option<String>,
}

/// What a step's weight is a share of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// Of requests, each by itself.
    #[default]
    Requests,
    /// Of users, in stable buckets: a user stays on a side for as long as the weight stays.
    User,
    /// Requests that match go to green as soon as the weight is above 0, all others stay on blue
    /// until it is 100 %.
    Match,
}

/// The two sides.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sides {
    /// The old side, which serves now and which a rollback returns to.
    pub blue: Side,
    /// The new side.
    pub green: Side,
}

/// One side.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Its own address, past the router.
    pub url: Text,
    /// The path that answers 2xx when the side is healthy.
    #[serde(default = "health_path")]
    pub health: String,
    /// What the release header says when this side answers; asked from the side itself when absent.
    #[serde(default)]
    #[schemars(with = "Option<Text>")]
    pub release: Option<String>,
}

fn yes() -> bool {
    true
}

fn health_path() -> String {
    "/health".into()
}

/// Own requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeSpec {
    /// The path that is asked for.
    #[serde(default = "root_path")]
    pub path: String,
    /// How many requests per second and side; 10/s when absent.
    #[serde(default = "probe_rate")]
    pub rate: Rate,
    /// Time for one answer; slower ones are errors. 5 s when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// The response header that names the version which answered.
    #[serde(default = "release_header")]
    pub header: String,
    /// The response header that names the server which answered, where several stand behind a side's address.
    #[serde(default)]
    pub server_header: Option<String>,
    /// How many requests through the router prove a shift; 40 when absent.
    #[serde(default)]
    pub requests: Option<u32>,
    /// What an answer 3xx is; `error` when absent: a page that only leads elsewhere has not been served.
    #[serde(default)]
    pub redirects: Redirects,
}

/// What a redirect is that a probe is answered with. Probes never follow one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Redirects {
    /// An error.
    #[default]
    Error,
    /// A success: the path that is asked for is meant to lead elsewhere.
    Success,
}

impl Default for ProbeSpec {
    fn default() -> Self {
        Self {
            path: root_path(),
            rate: probe_rate(),
            timeout: None,
            header: release_header(),
            server_header: None,
            requests: None,
            redirects: Redirects::Error,
        }
    }
}

fn root_path() -> String {
    "/".into()
}

fn probe_rate() -> Rate {
    Rate(10.0)
}

fn release_header() -> String {
    "x-release".into()
}

/// Commands (argv, no shell) at the turns of the way.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Brings green up, before its health is checked.
    #[serde(default)]
    pub deploy: Vec<Text>,
    /// After green has all traffic.
    #[serde(default)]
    pub after: Vec<Text>,
    /// After traffic is back on blue.
    #[serde(default)]
    pub on_rollback: Vec<Text>,
    /// When the old side is not kept any longer: takes it down.
    #[serde(default)]
    pub retire: Vec<Text>,
    /// Time for one hook; 10 min when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
}

/// One step of the way.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// Green's share of the traffic.
    pub weight: Share,
    /// How long it is watched before the next step.
    #[serde(default)]
    pub bake: Option<Span>,
    /// Roles that must approve before this step's weight is put in force.
    #[serde(default)]
    pub approve: Vec<String>,
}

/// The checks afterwards.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The checks, against what is live.
    #[serde(default)]
    pub checks: Vec<CheckSpec>,
    /// The comparison with the recorded baseline.
    #[serde(default)]
    pub baseline: Option<BaselineSpec>,
    /// Metrics of what is live: now, against earlier, and where they are heading.
    #[serde(default)]
    pub metrics: Vec<VerifyMetric>,
}

/// The comparison with the recorded baseline.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaselineSpec {
    /// What is measured.
    pub probes: Vec<BaselineProbe>,
    /// How old the baseline may be; 24 h when absent.
    #[serde(default)]
    pub max_age: Option<Span>,
}

/// One measurement of a baseline.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaselineProbe {
    /// Its name; unique.
    pub name: String,
    /// The URL that is asked.
    pub url: Text,
    /// Requests per second; 20/s when absent.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// For how long; 5 s when absent.
    #[serde(default)]
    pub duration: Option<Span>,
    /// Time for one answer; slower ones are errors. 5 s when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// What an answer 3xx is; `error` when absent.
    #[serde(default)]
    pub redirects: Redirects,
    /// Median latency may be worse by this share; 25% when absent.
    #[serde(default)]
    pub tolerance: Option<Share>,
    /// … and by this much in any case, so that 1 ms against 1.4 ms is no alarm; 5 ms when absent.
    #[serde(default)]
    pub tolerance_at_least: Option<Span>,
    /// Fewest samples on each side; 50 when absent.
    #[serde(default)]
    pub min_samples: Option<u64>,
    /// Plain thresholds on what is live now: error_rate, latency_p50, latency_p95, latency_p99.
    #[serde(default)]
    pub expect: Expect,
    /// Whether it closes the gate.
    #[serde(default)]
    pub severity: Severity,
}

/// What is rendered, and for whom.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportSpec {
    /// What to do when; printed in the runbook.
    #[serde(default)]
    pub contingency: Vec<Contingency>,
    /// Whom to ask.
    #[serde(default)]
    pub contacts: Vec<Contact>,
}

/// One scenario of the runbook.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contingency {
    /// What is seen.
    pub when: String,
    /// What to do, step by step.
    #[serde(rename = "do")]
    pub steps: Vec<String>,
}

/// Whom to ask.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// What they answer for.
    pub role: String,
    /// How to reach them.
    pub reach: String,
}

pub mod commands;
mod connections;
mod judging;
mod kept;

pub use connections::Connection;
pub use kept::{Kept, Known, Part, Sketch, Unseen};

pub use judging::{
    Aggregate, AnomalySpec, Before, BurnRate, BurnWindow, CompareSpec, JudgeKind, JudgeSpec, LevelSpec,
    MetricSpec, MetricUnit, ScoreSpec, TrendSpec, Trigger, Undecided, VerifyMetric, Worse,
};

/// Where `${NAME}` finds its values: `--set` first, then the environment. What a promotion keeps comes before both,
/// or behind them.
#[derive(Clone, Debug, Default)]
pub struct PlanVariables {
    set: Arc<BTreeMap<String, String>>,
    kept: Arc<BTreeMap<String, Option<String>>>,
    kept_first: bool,
}

impl PlanVariables {
    /// Variables given with `--set`, in front of the environment.
    pub fn new(set: BTreeMap<String, String>) -> Self {
        Self { set: Arc::new(set), ..Self::default() }
    }

    /// The same with the values that a promotion keeps: `first` before all others, or only for what is not set.
    #[must_use]
    pub fn keeping(&self, kept: &Kept, first: bool) -> Self {
        Self { set: Arc::clone(&self.set), kept: Arc::new(kept.variables.clone()), kept_first: first }
    }

    /// The same with further ones in front of all.
    #[must_use]
    pub fn with(&self, more: BTreeMap<String, String>) -> Self {
        let mut set = (*self.set).clone();
        set.extend(more);
        Self { set: Arc::new(set), ..self.clone() }
    }

    /// The value of a variable, and where it came from.
    pub fn find(&self, name: &str) -> Option<(Origin, String)> {
        let kept = || self.kept.get(name).cloned().flatten().map(|value| (Origin::Promotion, value));
        if self.kept_first && self.kept.contains_key(name) {
            return kept();
        }
        let set = self.set.get(name).cloned().map(|value| (Origin::Set, value));
        set.or_else(|| std::env::var(name).ok().map(|value| (Origin::Environment, value))).or_else(kept)
    }
}

impl yaml::Variables for PlanVariables {
    fn get(&self, name: &str) -> Option<String> {
        self.find(name).map(|(_, value)| value)
    }
}

/// A plan that was read, with everything that is needed to speak about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The plan.
    pub plan: Plan,
    /// Its path as given.
    pub path: PathBuf,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// Path and digest for the documents.
    pub reference: PlanRef,
    /// Its text, for error messages.
    pub source: String,
    /// Its variables.
    pub variables: PlanVariables,
    /// How much of it was read.
    pub part: Part,
    /// Why `promote` was not read, where it is there and the call could do without.
    pub without_promote: Option<Box<Fault>>,
    /// What of a way back cannot be seen or run from here.
    pub unseen: Unseen,
}

/// The time that one attempt of a check may take.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

impl Loaded {
    /// Reads and checks a plan. Touches nothing but the file.
    ///
    /// Errors (exit 2): not readable, over 1 MiB, not UTF-8, not YAML, wrong type, unknown key,
    /// missing variable, names given twice; each with line, column and the line itself.
    pub fn read(path: &Path, set: BTreeMap<String, String>) -> Result<Self, Fault> {
        let shown = path.display().to_string();
        let source = read_text(path)?;
        crate::redact::learn_environment();
        for (name, value) in &set {
            crate::redact::learn_variable(name, value);
        }
        let variables = PlanVariables::new(set);
        let plan = Self::parse(&source, &variables).map_err(|p| p.into_fault(&shown, &source))?;
        let folder = folder_of(path);
        let reference = PlanRef { path: shown, sha256: sha256_hex(source.as_bytes()) };
        Ok(Self {
            plan,
            path: path.to_path_buf(),
            folder,
            reference,
            source,
            variables,
            part: Part::Whole,
            without_promote: None,
            unseen: Unseen::default(),
        })
    }

    /// What a promotion keeps of it.
    pub fn keep(&self) -> Kept {
        Kept::of(&self.source, &self.variables)
    }

    fn parse(source: &str, variables: &PlanVariables) -> Result<Plan, Problem> {
        let mut node = yaml::parse(source)?;
        // Keys that begin with `x-` are the user's own, a place for anchors.
        if let yaml::Value::Mapping(entries) = &mut node.value {
            entries.retain(
                |(key, _)| !matches!(&key.value, yaml::Value::Scalar { text, .. } if text.starts_with("x-")),
            );
        }
        commands::learn_marked(&node, variables);
        let lookup = variables.clone();
        let plan: Plan = with_variables(Box::new(move |name| yaml::Variables::get(&lookup, name)), || {
            node.read(variables)
        })?;
        check_whole(&plan, &node)?;
        commands::fit_plan(&node, variables)?;
        check_may_differ(&plan, &node)?;
        if let Some(snapshot) = &plan.snapshot {
            check_drill(snapshot, node.get("snapshot").unwrap_or(&node), variables)?;
        }
        Ok(plan)
    }

    /// Turns a problem of a kind's settings into the error with file and line.
    pub fn fault(&self, problem: Problem) -> Fault {
        problem.into_fault(&self.path.display().to_string(), &self.source)
    }

    /// Whether the plan has `${name}` or `${name:-…}` in it.
    pub fn names_variable(&self, name: &str) -> bool {
        let opening = format!("${{{name}");
        self.source
            .match_indices(&opening)
            .any(|(at, _)| self.source[at + opening.len()..].starts_with(['}', ':']))
    }

    /// The values of the variables that some sections name, of the whole plan where none are given; those that may
    /// differ between jobs are not among them.
    pub fn values(&self, sections: Option<&[&str]>) -> Values {
        let mut values = Values::default();
        // What cannot be parsed was refused when it was read; a text that the state keeps has no source.
        let Ok(mut node) = yaml::parse(&self.source) else { return values };
        node.retain(|key, _| !key.starts_with("x-") && sections.is_none_or(|these| these.contains(&key)));
        // The checks of a drill have variables of their own.
        if let Some(drill) = node.get_mut("snapshot").and_then(|snapshot| snapshot.get_mut("drill")) {
            drill.retain(|key, _| key != "checks");
        }
        let mut defaults: BTreeMap<String, Vec<String>> = BTreeMap::new();
        node.each_text(&mut |text| {
            for (name, default) in yaml::variables_in(text) {
                let known = defaults.entry(name.to_owned()).or_default();
                if let Some(default) = default.map(str::to_owned).filter(|text| !known.contains(text)) {
                    known.push(default);
                }
            }
        });
        for (name, defaults) in defaults {
            if self.plan.may_differ.contains(&name) {
                continue;
            }
            let found = self.variables.find(&name).filter(|(_, v)| defaults.is_empty() || !v.is_empty());
            match found {
                Some((from, value)) => values.insert(name, from, value),
                None if defaults.is_empty() => {}
                None => values.insert(name, Origin::Default, defaults.join("\n")),
            }
        }
        values
    }

    /// A path of the plan, relative to the plan's folder.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// The folder that the relative paths of a plan start from.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The format, and the names that every document bears.
fn check_text(plan: &Plan, root: &Node) -> Result<(), Problem> {
    let place_of = |section: &str| root.get(section).map_or(root.place, |n| n.place);
    if let Some(name) = plan.secret.iter().find(|name| !is_variable(name)) {
        return Err(Problem::at(place_of("secret"), format!("`{name}` is no name of a variable"))
            .help("`secret` is a list of names, such as [SMTP_LOGIN], without ${…}"));
    }
    if plan.version != 1 {
        return Err(Problem::at(place_of("version"), format!("version {} is not known; 1 is", plan.version)));
    }
    for (what, text) in [("service", &plan.service), ("release", &plan.release.version)] {
        if text.trim().is_empty() || text.contains(['\n', '\r', '\0']) {
            return Err(Problem::at(place_of(what), format!("`{what}` needs a name on one line")));
        }
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Names that must be unique and numbers that must fit together.
fn check_whole(plan: &Plan, root: &Node) -> Result<(), Problem> {
    let place_of = |section: &str| root.get(section).map_or(root.place, |n| n.place);
    check_text(plan, root)?;
    connections::check(plan, root)?;
    for (section, checks) in [
        ("preflight", plan.preflight.as_ref().map(|p| &p.checks)),
        ("verify", plan.verify.as_ref().map(|v| &v.checks)),
    ] {
        unique(checks.into_iter().flatten().map(|c| c.name.as_str()), place_of(section), "check")?;
    }
    if let Some(snapshot) = &plan.snapshot {
        unique(snapshot.sources.iter().map(|s| s.name.as_str()), place_of("snapshot"), "source")?;
        for source in &snapshot.sources {
            let plain = source.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !plain || source.name.starts_with('.') || source.name.is_empty() {
                let message =
                    format!("the source name `{}` must be of letters, digits, `-`, `_`, `.`", source.name);
                return Err(Problem::at(place_of("snapshot"), message));
            }
        }
        check_retention(snapshot.retention.as_ref(), root.get("snapshot").unwrap_or(root))?;
    }
    if let Some(verify) = plan.verify.as_ref().and_then(|v| v.baseline.as_ref()) {
        unique(verify.probes.iter().map(|p| p.name.as_str()), place_of("verify"), "baseline probe")?;
    }
    if let Some(verify) = &plan.verify {
        unique(verify.metrics.iter().map(|m| m.name.as_str()), place_of("verify"), "metric")?;
    }
    if let Some(promote) = &plan.promote {
        check_promote(promote, root.get("promote").unwrap_or(root))?;
    }
    Ok(())
}

/// What may differ must be there to differ, and must not be what names the release.
fn check_may_differ(plan: &Plan, root: &Node) -> Result<(), Problem> {
    let names_in = |node: &Node, found: &mut Vec<String>| {
        node.each_text(&mut |text| {
            found.extend(yaml::variables_in(text).into_iter().map(|(name, _)| name.to_owned()));
        });
    };
    let (mut all, mut steering) = (Vec::new(), Vec::new());
    names_in(root, &mut all);
    for section in ["service", "release"] {
        root.get(section).iter().for_each(|node| names_in(node, &mut steering));
    }
    let written = root.get("may_differ");
    for (number, name) in plan.may_differ.iter().enumerate() {
        let place = written.and_then(|node| node.item(number)).map_or(root.place, |node| node.place);
        if !all.contains(name) {
            return Err(Problem::at(place, format!("the plan names no variable `{name}` that could differ"))
                .help("write its name alone, without `${` and `}`"));
        }
        if steering.contains(name) {
            return Err(Problem::at(place, format!("`{name}` says what is released, and must not differ")));
        }
    }
    Ok(())
}

/// The checks of a drill are read late; what is wrong with them is said at once.
fn check_drill(snapshot: &Snapshot, section: &Node, variables: &PlanVariables) -> Result<(), Problem> {
    let Some(node) = section.get("drill") else { return Ok(()) };
    for (key, span) in [("rto", snapshot.drill.rto), ("rpo", snapshot.drill.rpo)] {
        if span.is_some_and(|span| span.0.is_zero()) {
            let place = node.get(key).map_or(node.place, |n| n.place);
            return Err(Problem::at(place, format!("an `{key}` of nothing cannot be kept")));
        }
    }
    let mut known = BTreeMap::from([(DRILL_FOLDER.to_owned(), "/drill".to_owned())]);
    for source in &snapshot.sources {
        let name = drill_variable(&source.name);
        if known.insert(name.clone(), format!("/drill/{}", source.name)).is_some() {
            let message = format!("the checks of the drill could not tell by `${{{name}}}` what is meant");
            return Err(Problem::at(section.place, message)
                .help(format!("give the source `{}` another name", source.name)));
        }
    }
    let checks = snapshot.drill.checks.read(&variables.with(known))?;
    let place = node.get("checks").map_or(node.place, |n| n.place);
    unique(checks.iter().map(|check| check.name.as_str()), place, "check")
}

/// A retention that would keep nothing is a mistake, not an order to remove everything.
fn check_retention(retention: Option<&Retention>, section: &Node) -> Result<(), Problem> {
    let Some(retention) = retention else { return Ok(()) };
    let written = section.get("retention");
    let place = written.map_or(section.place, |node| node.place);
    if retention.names_nothing() {
        return Err(Problem::at(place, "`retention` names nothing that is to be kept")
            .help("for example retention: {keep_last: 10, keep_within: 30d}"));
    }
    if retention.keep_tags.iter().any(|tags| tags.split(',').any(|tag| tag.trim().is_empty())) {
        let place = written.and_then(|node| node.get("keep_tags")).map_or(place, |node| node.place);
        return Err(Problem::at(place, "`keep_tags` has an empty tag, which no snapshot has"));
    }
    Ok(())
}

fn unique<'a>(names: impl Iterator<Item = &'a str>, place: yaml::Place, what: &str) -> Result<(), Problem> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if name.trim().is_empty() {
            return Err(Problem::at(place, format!("a {what} has no name")));
        }
        if !seen.insert(name) {
            return Err(Problem::at(place, format!("two {what}s are named `{name}`")));
        }
    }
    Ok(())
}

fn check_promote(promote: &Promote, section: &Node) -> Result<(), Problem> {
    let place_of = |key: &str| section.get(key).map_or(section.place, |n| n.place);
    for list in ["allow", "freeze"] {
        let windows =
            promote.calendar.iter().flat_map(|c| if list == "allow" { &c.allow } else { &c.freeze });
        let written = section.get("calendar").and_then(|c| c.get(list));
        for (number, window) in windows.enumerate() {
            if let Some(wrong) = window.wrong() {
                let place = written.and_then(|w| w.item(number)).map_or(place_of("calendar"), |n| n.place);
                return Err(Problem::at(place, wrong));
            }
        }
    }
    check_roles(promote, section)?;
    check_distinct(promote, section)?;
    check_steps(promote, section)
}

/// Different people for the roles of one step: who for which role, where there are enough of them.
pub fn distinct_people<'a>(candidates: &[Vec<&'a str>]) -> Option<Vec<&'a str>> {
    fn choose<'a>(left: &[Vec<&'a str>], taken: &mut Vec<&'a str>) -> bool {
        let Some((first, rest)) = left.split_first() else { return true };
        for person in first {
            if taken.contains(person) {
                continue;
            }
            taken.push(person);
            if choose(rest, taken) {
                return true;
            }
            taken.pop();
        }
        false
    }
    let mut taken = Vec::new();
    choose(candidates, &mut taken).then_some(taken)
}

/// Whether different people could approve the roles of each step.
fn check_distinct<'a>(promote: &'a Promote, section: &Node) -> Result<(), Problem> {
    if !promote.distinct {
        return Ok(());
    }
    for (number, step) in promote.steps.iter().enumerate() {
        let may = |role: &'a String| match promote.approvers.get(role) {
            Some(names) => names.iter().map(String::as_str).collect(),
            None => vec![role.as_str()],
        };
        let candidates: Vec<Vec<&str>> = step.approve.iter().map(may).collect();
        if distinct_people(&candidates).is_none() {
            let written = section.get("steps").and_then(|s| s.item(number));
            let message = format!(
                "the roles {} of one step cannot be approved by different people",
                step.approve.join(" and ")
            );
            return Err(Problem::at(written.map_or(section.place, |n| n.place), message)
                .help("name more keys in `approvers`, or let one person be enough with `distinct: false`"));
        }
    }
    Ok(())
}

/// Roles are part of file names, and a list of approvers that no step asks for would guard nothing.
fn check_roles(promote: &Promote, section: &Node) -> Result<(), Problem> {
    let plain = |role: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        !role.is_empty() && role.chars().all(fits)
    };
    let wrong = |role: &str| format!("the role `{role}` must be of letters, digits, `-` and `_`");
    for (number, step) in promote.steps.iter().enumerate() {
        let written = section.get("steps").and_then(|s| s.item(number));
        if let Some(asks) = written.and_then(|step| step.get("approve")).filter(|_| step.approve.is_empty()) {
            return Err(Problem::at(asks.place, "`approve` asks nobody")
                .help("name the roles that must approve, or leave `approve` out"));
        }
        if let Some(role) = step.approve.iter().find(|role| !plain(role)) {
            return Err(Problem::at(written.map_or(section.place, |n| n.place), wrong(role)));
        }
    }
    let asked: Vec<&str> = promote.steps.iter().flat_map(|s| &s.approve).map(String::as_str).collect();
    let written = section.get("approvers");
    for (role, place, _) in written.iter().flat_map(|n| n.entries()) {
        if !plain(role) {
            return Err(Problem::at(place, wrong(role)));
        }
        if !asked.contains(&role) {
            let roles = if asked.is_empty() { "none".to_owned() } else { asked.join(", ") };
            return Err(Problem::at(place, format!("no step asks for the approval of `{role}`"))
                .help(format!("roles that steps ask for: {roles}")));
        }
        if promote.approvers.get(role).is_some_and(Vec::is_empty) {
            return Err(Problem::at(place, format!("nobody may approve as `{role}`"))
                .help("name keys of the folder of --trust, or leave the role out: then the key of its own name counts"));
        }
    }
    Ok(())
}

fn check_steps(promote: &Promote, section: &Node) -> Result<(), Problem> {
    let place_of = |key: &str| section.get(key).map_or(section.place, |n| n.place);
    let item_of = |key: &str, number: usize| {
        section.get(key).and_then(|n| n.item(number)).map_or(place_of(key), |n| n.place)
    };
    if promote.lease.is_some_and(|span| span.0 < Duration::from_secs(1)) {
        return Err(Problem::at(place_of("lease"), "a `lease` lasts one second at least"));
    }
    unique(promote.preview.iter().map(|c| c.name.as_str()), place_of("preview"), "check")?;
    let mut before = 0.0;
    for (number, step) in promote.steps.iter().enumerate() {
        if step.weight.0 <= before {
            let message = format!("the step of {} does not go up from {}", step.weight, Share(before));
            return Err(Problem::at(item_of("steps", number), message)
                .help("steps rise, each above the one before, up to 100%"));
        }
        before = step.weight.0;
    }
    let all = (before - 1.0).abs() < 1e-9;
    if !promote.steps.is_empty() && !all {
        return Err(Problem::at(
            item_of("steps", promote.steps.len() - 1),
            format!("the last step is {}, not 100%", Share(before)),
        )
        .help("add `- {weight: 100%}`: a release that never ends leaves two versions behind"));
    }
    if promote.strategy == Strategy::Canary && promote.steps.is_empty() {
        return Err(Problem::at(place_of("strategy"), "`strategy: canary` needs `steps`")
            .help("for example steps: [{weight: 5%, bake: 10m}, {weight: 100%}]"));
    }
    if promote.rollback_when.is_empty() && promote.steps.iter().any(|s| s.bake.is_some()) {
        return Err(Problem::at(
            place_of("steps"),
            "a step has a bake, but `rollback_when` names nothing to judge it by",
        )
        .help("for example rollback_when: [{metric: error_rate, is: \"> 0.1%\"}]"));
    }
    if promote.strategy == Strategy::Canary && promote.steps.iter().all(|s| s.bake.is_none()) {
        return Err(Problem::at(
            place_of("steps"),
            "no step of the canary has a bake: nothing would ever be judged",
        )
        .help("give the steps a bake, or use `strategy: blue_green`"));
    }
    for (number, trigger) in promote.rollback_when.iter().enumerate() {
        let conditions =
            [trigger.is.is_some(), trigger.worse_than_baseline_by.is_some(), trigger.burn_rate.is_some()];
        if conditions.iter().filter(|given| **given).count() != 1 {
            let message = format!(
                "the trigger on `{}` needs one of `is`, `worse_than_baseline_by` and `burn_rate`",
                trigger.metric
            );
            return Err(Problem::at(item_of("rollback_when", number), message));
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Fault> {
    let shown = path.display().to_string();
    let unreadable = |e: std::io::Error| {
        Fault::usage("the plan cannot be read")
            .place(&shown)
            .cause(e)
            .help("name it with --plan FILE, or make one with `preflight init`")
    };
    let bytes = bounds::whole(path, yaml::MAX_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::IsADirectory => {
            Fault::usage("the plan is a folder").place(&shown).help("name the file with --plan FILE")
        }
        std::io::ErrorKind::FileTooLarge => Fault::usage("the plan is larger than 1 MiB")
            .place(&shown)
            .help("a plan is written by hand; is this the right file?"),
        _ => unreadable(error),
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let before = &e.as_bytes()[..at];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        Fault::usage("the plan is not UTF-8")
            .place(format!("{shown}:{line}"))
            .cause(format!("byte {at} begins no character"))
            .help("save the file as UTF-8")
    })
}
