//! InfluxDB: Flux (`/api/v2/query`, annotated CSV) and InfluxQL (`/query`, JSON).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::query::Written;
use super::remote::{Number, Remote, Series, Server, Service, label, short};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble};
use crate::units::Text;
use crate::world::http::Answer;
use crate::yaml::Problem;

mod annotated;

use annotated::No;

/// See `preflight explain influxdb`.
pub(super) static KIND: Kind = Kind {
    name: "influxdb",
    about: "Asks InfluxDB one query for each side, in Flux or InfluxQL.",
    target: "its address, such as `https://influx.example.com:8086`",
    example: "\
- name: checkout_latency
  kind: influxdb
  target: https://influx.example.com:8086
  unit: ms
  step: 30s
  with:
    language: flux
    org: shop
    token: ${INFLUX_TOKEN}
    query: |
      from(bucket: \"shop\")
        |> range(start: {{ from_time }}, stop: {{ to_time }})
        |> filter(fn: (r) => r._measurement == \"checkout\" and r._field == \"ms\" and r.side == \"{{ side }}\")
        |> group()
        |> aggregateWindow(every: {{ step }}, fn: mean, timeSrc: \"_start\", createEmpty: false)
",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The query that gives one series, in its columns `_time` and `_value` (Flux) or in one column
    /// beside `time` (InfluxQL). It names the side (`{{ side }}`, `{{ release }}` or `{{ address }}`), or
    /// is written once for each: `{blue: …, green: …}`. And it names the window: `{{ from_time }}` and
    /// `{{ to_time }}`.
    query: Written,
    /// The language of the query; flux when absent.
    #[serde(default)]
    language: Language,
    /// The organization, for Flux.
    #[serde(default)]
    org: Option<Text>,
    /// The database, for InfluxQL.
    #[serde(default)]
    database: Option<Text>,
    /// The retention policy, for InfluxQL; the database's own when absent.
    #[serde(default)]
    retention_policy: Option<Text>,
    /// The API token, such as `${INFLUX_TOKEN}`.
    #[serde(default)]
    token: Option<Text>,
    /// Request headers.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Language {
    #[default]
    Flux,
    Influxql,
}

enum Dialect {
    Flux { org: String },
    Influxql { database: String, retention_policy: Option<String> },
}

struct Influx {
    server: Server,
    dialect: Dialect,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.settings()?;
    let mut server = Server::new("InfluxDB", order, order.target()?, &settings.headers)?;
    if let Some(token) = &settings.token {
        server.header(order, "token", "authorization", &format!("Token {}", token.value))?;
    }
    let needed = |setting: Option<Text>, name: &str, language: &str| {
        setting.map(|text| text.value).filter(|text| !text.is_empty()).ok_or_else(|| {
            order.problem("", format!("`{name}` is missing, and a query in {language} needs it"))
        })
    };
    let misplaced = |given: bool, name: &str, language: &str| {
        let message = format!("`{name}` has no meaning for a query in {language}");
        if given { Err(order.problem(name, message)) } else { Ok(()) }
    };
    let dialect = match settings.language {
        Language::Flux => {
            misplaced(settings.database.is_some(), "database", "Flux")?;
            misplaced(settings.retention_policy.is_some(), "retention_policy", "Flux")?;
            Dialect::Flux { org: needed(settings.org, "org", "Flux")? }
        }
        Language::Influxql => {
            misplaced(settings.org.is_some(), "org", "InfluxQL")?;
            Dialect::Influxql {
                database: needed(settings.database, "database", "InfluxQL")?,
                retention_policy: settings.retention_policy.map(|text| text.value),
            }
        }
    };
    let query = settings.query.query(order, "query")?;
    if !query.names_any(&["from_time", "from"]) || !query.names_any(&["to_time", "to"]) {
        let message = "`query` does not name the window, and would read all there is";
        return Err(order.problem("query", message).help("write range(start: {{ from_time }}, stop: {{ to_time }}), or in InfluxQL: time >= '{{ from_time }}' AND time < '{{ to_time }}'"));
    }
    Ok(Box::new(Remote { service: Influx { server, dialect }, query }))
}

impl Service for Influx {
    fn series(&self, query: &str, ask: &Ask<'_>) -> Result<Vec<Series>, Trouble> {
        match &self.dialect {
            Dialect::Flux { org } => {
                let mut path = String::from("/api/v2/query?");
                path.push_str(
                    &form_urlencoded::Serializer::new(String::new()).append_pair("org", org).finish(),
                );
                let dialect = json!({"annotations": ["datatype", "group", "default"], "header": true, "delimiter": ","});
                let body = json!({"query": query, "type": "flux", "dialect": dialect});
                let headers = [("content-type", "application/json"), ("accept", "application/csv")];
                let answer = self.server.post(&path, &headers, body.to_string().into(), ask.limit)?;
                self.tables(&answer)
            }
            Dialect::Influxql { database, retention_policy } => {
                let mut parameters = vec![("db", database.as_str()), ("epoch", "ms"), ("q", query)];
                parameters.extend(retention_policy.as_deref().map(|policy| ("rp", policy)));
                let answer = self.server.ask("/query", &parameters, ask.limit)?;
                self.results(&answer)
            }
        }
    }
}

impl Influx {
    /// Reads the answer to Flux.
    fn tables(&self, answer: &Answer) -> Result<Vec<Series>, Trouble> {
        // No rows at all is an empty body, of the right type.
        if !answer.header("content-type").is_some_and(|kind| kind.contains("csv")) {
            return Err(self.server.not_understood(answer, "Flux answers with CSV"));
        }
        annotated::series(&answer.body).map_err(|no| match no {
            No::Refused(why) => self.server.refused(&why),
            No::Babble(why) => self.server.not_understood(answer, &why),
        })
    }

    /// Reads the answer to InfluxQL.
    ///
    /// Source: <https://docs.influxdata.com/influxdb/v1/guides/query_data/>.
    fn results(&self, answer: &Answer) -> Result<Vec<Series>, Trouble> {
        let reply: Reply = self.server.json(answer)?;
        let results = reply.results.unwrap_or_default();
        if let Some(error) = reply.error.as_ref().or_else(|| results.iter().find_map(|r| r.error.as_ref())) {
            return Err(self.server.refused(&short(error)));
        }
        if results.is_empty() {
            return Err(self.server.not_understood(answer, "there are no `results`"));
        }
        let mut all = Vec::new();
        for result in &results {
            for rows in &result.series {
                if result.partial || rows.partial {
                    let why = "the answer is cut off (max-row-limit); ask for a longer step";
                    return Err(self.server.refused(why));
                }
                let parts = rows.columns_as_series();
                all.extend(parts.map_err(|why| self.server.not_understood(answer, &why))?);
            }
        }
        Ok(all)
    }
}

impl Rows {
    /// Each column beside `time` is a series.
    ///
    /// Errors: in words.
    fn columns_as_series(&self) -> Result<Vec<Series>, String> {
        let time = self.columns.iter().position(|name| name == "time");
        let time = time.ok_or("a series has no column `time`")?;
        let values = (0..self.columns.len()).filter(|column| *column != time);
        values
            .map(|column| Ok(Series { label: self.label(column), points: self.points(time, column)? }))
            .collect()
    }

    fn label(&self, column: usize) -> String {
        let own = [("name", self.name.as_str()), ("column", self.columns[column].as_str())];
        let tags = self.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        label(own.into_iter().chain(tags))
    }

    fn points(&self, time: usize, column: usize) -> Result<Vec<Point>, String> {
        let mut points = Vec::new();
        for row in &self.values {
            let cell = |at: usize| row.get(at).ok_or("a row has too few columns");
            let at_ms = cell(time)?.as_i64().ok_or("a `time` is no moment")?;
            let value = cell(column)?;
            if !value.is_null() {
                let Number(value) = Number::deserialize(value).map_err(|e| e.to_string())?;
                points.push(Point { at_ms, value });
            }
        }
        Ok(points)
    }
}

#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    results: Option<Vec<Statement>>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Statement {
    #[serde(default)]
    series: Vec<Rows>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    partial: bool,
}

#[derive(Debug, Deserialize)]
struct Rows {
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    columns: Vec<String>,
    #[serde(default)]
    values: Vec<Vec<serde_json::Value>>,
    #[serde(default)]
    partial: bool,
}
