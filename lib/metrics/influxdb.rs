//! InfluxDB: Flux (`/api/v2/query`, annotated CSV) and InfluxQL (`/query`, JSON).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::query::Written;
use super::remote::{Number, Remote, Series, Server, Service, label, short};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble};
use crate::units::Text;
use crate::world::http::Answer;
use crate::yaml::Problem;

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

/// What the columns of a table of annotated CSV are.
#[derive(Debug, Default)]
struct Columns {
    datatype: Vec<String>,
    group: Vec<String>,
    default: Vec<String>,
    names: Vec<String>,
}

impl Columns {
    fn at(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The cell of a row; its column's default where it is empty.
    fn cell<'a>(&'a self, row: &'a csv::StringRecord, name: &str) -> Option<&'a str> {
        let at = self.at(name)?;
        let cell = row.get(at).filter(|cell| !cell.is_empty());
        cell.or_else(|| self.default.get(at).map(String::as_str)).filter(|cell| !cell.is_empty())
    }

    /// The labels of the group that a row belongs to.
    fn label(&self, row: &csv::StringRecord) -> String {
        let grouped = self.names.iter().enumerate().filter(|(at, name)| {
            self.group.get(*at).is_some_and(|g| g == "true")
                && !matches!(name.as_str(), "_start" | "_stop" | "_time" | "_value")
        });
        label(grouped.map(|(_, name)| (name.as_str(), self.cell(row, name).unwrap_or_default())))
    }
}

impl Influx {
    /// Reads annotated CSV.
    ///
    /// Source: <https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/>.
    fn tables(&self, answer: &Answer) -> Result<Vec<Series>, Trouble> {
        let wrong = |why: &str| self.server.not_understood(answer, why);
        let kind = answer.header("content-type").unwrap_or_default();
        // No rows at all is an empty body, of the right type.
        if !kind.contains("csv") {
            return Err(wrong("Flux answers with CSV"));
        }
        // A number that is cut off is a number too.
        if !answer.body.is_empty() && !answer.body.ends_with(b"\n") {
            return Err(wrong("the last line has no end; it may have been cut off"));
        }
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(answer.body.as_slice());
        let mut columns = Columns::default();
        let mut all: BTreeMap<(String, String), Series> = BTreeMap::new();
        for row in reader.records() {
            let row = row.map_err(|e| wrong(&e.to_string()))?;
            let cells = || row.iter().map(str::to_owned).collect::<Vec<_>>();
            match row.get(0).unwrap_or_default() {
                annotation if annotation.starts_with('#') => {
                    if !columns.names.is_empty() {
                        columns = Columns::default();
                    }
                    match annotation {
                        "#datatype" => columns.datatype = cells(),
                        "#group" => columns.group = cells(),
                        "#default" => columns.default = cells(),
                        _ => {}
                    }
                    continue;
                }
                "error" if columns.names.is_empty() => {
                    columns.names = cells();
                    continue;
                }
                _ => {}
            }
            if columns.names.is_empty() {
                columns.names = cells();
                continue;
            }
            let (Some(_), Some(value)) = (columns.at("_time"), columns.at("_value")) else {
                if let Some(error) = columns.cell(&row, "error") {
                    return Err(self.server.refused(&short(error)));
                }
                let why = format!(
                    "a table has the columns {}, and needs `_time` and `_value`",
                    columns.names.join(", ")
                );
                return Err(wrong(&why));
            };
            let datatype = columns.datatype.get(value).map_or("", String::as_str);
            if !matches!(datatype, "double" | "long" | "unsignedLong" | "") {
                return Err(self
                    .server
                    .refused(&format!("the values are of the type {}, not numbers", short(datatype))));
            }
            let key = (
                columns.cell(&row, "result").unwrap_or_default(),
                columns.cell(&row, "table").unwrap_or_default(),
            );
            let series = all
                .entry((key.0.to_owned(), key.1.to_owned()))
                .or_insert_with(|| Series { label: columns.label(&row), points: Vec::new() });
            if row.len() != columns.names.len() {
                return Err(wrong(
                    "a row has another number of columns than its table; it may have been cut off",
                ));
            }
            let at = columns.cell(&row, "_time").unwrap_or_default();
            let at: Timestamp = at.parse().map_err(|_| wrong("a `_time` is no moment"))?;
            let Some(value) = columns.cell(&row, "_value") else { continue };
            let value: f64 = value.parse().map_err(|_| wrong("a `_value` is no number"))?;
            series.points.push(Point { at_ms: at.as_millisecond(), value });
        }
        Ok(all.into_values().collect())
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
        for series in results.into_iter().flat_map(|r| {
            let partial = r.partial;
            r.series.into_iter().map(move |series| (series, partial))
        }) {
            let (series, partial) = series;
            if partial || series.partial {
                let why = "the answer is cut off (max-row-limit); ask for a longer step";
                return Err(self.server.refused(why));
            }
            self.columns_of(answer, series, &mut all)?;
        }
        Ok(all)
    }

    fn columns_of(&self, answer: &Answer, series: Rows, all: &mut Vec<Series>) -> Result<(), Trouble> {
        let wrong = |why: &str| self.server.not_understood(answer, why);
        let Some(time) = series.columns.iter().position(|name| name == "time") else {
            return Err(wrong("a series has no column `time`"));
        };
        let names: BTreeSet<usize> = (0..series.columns.len()).filter(|at| *at != time).collect();
        for column in names {
            let mut labels: Vec<(&str, &str)> =
                vec![("name", series.name.as_str()), ("column", &series.columns[column])];
            labels.extend(series.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let mut points = Vec::new();
            for row in &series.values {
                let cell = |at: usize| row.get(at).ok_or_else(|| wrong("a row has too few columns"));
                let at_ms = cell(time)?.as_i64().ok_or_else(|| wrong("a `time` is no moment"))?;
                let value = cell(column)?;
                if value.is_null() {
                    continue;
                }
                let Number(value) =
                    serde_json::from_value(value.clone()).map_err(|e| wrong(&e.to_string()))?;
                points.push(Point { at_ms, value });
            }
            all.push(Series { label: label(labels.into_iter()), points });
        }
        Ok(())
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
