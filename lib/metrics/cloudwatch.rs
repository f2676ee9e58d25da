//! Amazon CloudWatch, by GetMetricData.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::{Query, Written};
use super::remote::{Number, Remote, Series, Server, Service, moment, short};
use super::sigv4::{Credentials, Scope, sign};
use super::{Ask, DEFAULT_STEP, Gives, Kind, Order, Point, Source, Trouble};
use crate::redact;
use crate::units::{Text, show_duration};
use crate::world::http::Answer;
use crate::world::now;
use crate::yaml::Problem;

/// See `preflight explain cloudwatch`.
pub(super) static KIND: Kind = Kind {
    name: "cloudwatch",
    about: "Asks Amazon CloudWatch (GetMetricData) for one series of each side. Who asks stands in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
    target: "the endpoint; Amazon's own in the region, or AWS_ENDPOINT_URL_CLOUDWATCH, when absent",
    example: "\
- name: target_latency
  kind: cloudwatch
  unit: s
  step: 60s
  with:
    region: eu-central-1
    namespace: AWS/ApplicationELB
    metric: TargetResponseTime
    stat: p95
    dimensions:
      LoadBalancer: app/shop/50dc6c495c0c9188
      TargetGroup: {blue: targetgroup/shop-blue/73e2d6bc24d8a067, green: targetgroup/shop-green/943f017f100becff}
",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// An answer of more parts is no answer.
const MAX_PAGES: usize = 1_000;
/// How this request calls its one query.
const ID: &str = "m";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// A metric math expression, a SEARCH in it, or a Metrics Insights query, that gives one series. It
    /// names `{{ side }}`, `{{ release }}` or `{{ address }}`, or is written once for each side:
    /// `{blue: …, green: …}`. Instead of `namespace`, `metric`, `dimensions` and `stat`.
    #[serde(default)]
    query: Option<Written>,
    /// The namespace of the metric.
    #[serde(default)]
    namespace: Option<Text>,
    /// The name of the metric.
    #[serde(default)]
    metric: Option<Text>,
    /// Its dimensions; values may name the side, or be written once for each: `{blue: …, green: …}`.
    #[serde(default)]
    dimensions: BTreeMap<String, Written>,
    /// The statistic, such as `Average`, `Sum` or `p95`; Average when absent.
    #[serde(default)]
    stat: Option<Text>,
    /// The region; AWS_REGION or AWS_DEFAULT_REGION when absent.
    #[serde(default)]
    region: Option<Text>,
}

struct CloudWatch {
    server: Server,
    region: String,
    credentials: Credentials,
    asks: Asks,
}

/// What a query is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Expression,
    /// A `Metric` and a `Stat` as GetMetricData has them, in JSON.
    Metric,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.settings()?;
    let step = order.spec.step.map_or(DEFAULT_STEP, |step| step.0);
    if let Err(message) = period(step) {
        return Err(order.problem("", message).help("write `step: 60s`"));
    }
    let region = region(order, settings.region.as_ref())?;
    let credentials = credentials(order)?;
    let server = Server::new("CloudWatch", order, &endpoint(order, &region)?, &BTreeMap::new())?;
    let (asks, query) = wanted(order, &settings)?;
    Ok(Box::new(Remote { service: CloudWatch { server, region, credentials, asks }, query }))
}

/// A variable that is not empty.
fn variable(order: &Order<'_>, name: &str) -> Option<String> {
    order.variables.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn needed(order: &Order<'_>, name: &str) -> Result<String, Problem> {
    variable(order, name).ok_or_else(|| {
        order.problem("", format!("the variable `{name}` is not set, and CloudWatch needs it"))
            .help("CloudWatch takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with a lent key also AWS_SESSION_TOKEN) and AWS_REGION")
    })
}

fn region(order: &Order<'_>, given: Option<&Text>) -> Result<String, Problem> {
    let given = given.map(|text| text.value.trim().to_owned());
    let known =
        given.or_else(|| variable(order, "AWS_REGION").or_else(|| variable(order, "AWS_DEFAULT_REGION")));
    let region = known.map_or_else(|| needed(order, "AWS_REGION"), Ok)?;
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if region.is_empty() || !region.bytes().all(legal) {
        let problem = order.problem("region", format!("`{region}` is no region"));
        return Err(problem.help("write one such as eu-central-1"));
    }
    Ok(region)
}

fn credentials(order: &Order<'_>) -> Result<Credentials, Problem> {
    let key = needed(order, "AWS_ACCESS_KEY_ID")?;
    let secret = needed(order, "AWS_SECRET_ACCESS_KEY")?;
    let token = variable(order, "AWS_SESSION_TOKEN");
    redact::learn(&secret);
    redact::learn(token.as_deref().unwrap_or_default());
    Ok(Credentials { key, secret, token })
}

fn endpoint(order: &Order<'_>, region: &str) -> Result<Text, Problem> {
    if order.target.is_some() {
        return order.target().cloned();
    }
    let given =
        variable(order, "AWS_ENDPOINT_URL_CLOUDWATCH").or_else(|| variable(order, "AWS_ENDPOINT_URL"));
    // China's regions have a domain of their own.
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    Ok(given.unwrap_or_else(|| format!("https://monitoring.{region}.{domain}")).into())
}

fn wanted(order: &Order<'_>, settings: &Settings) -> Result<(Asks, Query), Problem> {
    let metric = [("namespace", &settings.namespace), ("metric", &settings.metric), ("stat", &settings.stat)];
    if let Some(query) = &settings.query {
        let dimensions = (!settings.dimensions.is_empty()).then_some("dimensions");
        let beside = metric.iter().find(|(_, text)| text.is_some()).map(|(name, _)| *name).or(dimensions);
        if let Some(name) = beside {
            let message =
                format!("`query` and `{name}` stand beside each other, and only one of them is asked");
            return Err(order.problem(name, message).help("a query names its metrics by itself"));
        }
        return Ok((Asks::Expression, query.query(order, "query")?));
    }
    let needed = |name: &str, text: &Option<Text>| {
        text.as_ref().map(|text| text.value.clone()).filter(|text| !text.is_empty()).ok_or_else(|| {
            order
                .problem("", format!("neither `query` nor `{name}` is there"))
                .help("write `query: …`, or `namespace`, `metric`, `dimensions` and `stat`")
        })
    };
    let (namespace, name) = (needed("namespace", &settings.namespace)?, needed("metric", &settings.metric)?);
    let stat = settings.stat.as_ref().map_or("Average", |text| text.value.as_str());
    let mut dimensions = [Vec::new(), Vec::new()];
    for (dimension, written) in &settings.dimensions {
        for (list, value) in dimensions.iter_mut().zip(written.texts(order)?) {
            list.push(json!({"Name": dimension, "Value": value}));
        }
    }
    let texts = dimensions.map(|list| {
        json!({"Metric": {"Namespace": namespace, "MetricName": name, "Dimensions": list}, "Stat": stat})
            .to_string()
    });
    Ok((Asks::Metric, Query::new(order, "dimensions", texts)?))
}

/// The period of a step, in seconds.
///
/// Errors: CloudWatch has none like it.
fn period(step: Duration) -> Result<u64, String> {
    let seconds = step.as_secs();
    let whole = step.subsec_nanos() == 0;
    if whole && (matches!(seconds, 1 | 5 | 10 | 20 | 30) || (seconds > 0 && seconds.is_multiple_of(60))) {
        return Ok(seconds);
    }
    let step = show_duration(step.as_secs_f64());
    Err(format!("a step of {step} is none of CloudWatch's: it has 1, 5, 10, 20 and 30 s, and whole minutes"))
}

impl Service for CloudWatch {
    fn series(&self, query: &str, ask: &Ask<'_>) -> Result<Vec<Series>, Trouble> {
        let until = Instant::now() + ask.limit;
        let request = self.request(query, ask)?;
        let mut all: BTreeMap<String, Series> = BTreeMap::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let limit = show_duration(ask.limit.as_secs_f64());
                return Err(self.server.unreachable(&format!("not all parts of the answer within {limit}")));
            }
            let mut request = request.clone();
            if let Some(token) = &token {
                request["NextToken"] = token.as_str().into();
            }
            let page = self.page(&request, left)?;
            let last = page.next.is_none();
            self.add(page.results, last, &mut all)?;
            match page.next {
                None => return Ok(all.into_values().collect()),
                next if next == token => break,
                next => token = next,
            }
        }
        Err(self.server.babble("an answer whose parts have no end"))
    }
}

/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html>
#[derive(Debug, Deserialize)]
struct Page {
    #[serde(rename = "MetricDataResults")]
    results: Vec<MetricDataResult>,
    #[serde(default, rename = "NextToken")]
    next: Option<String>,
    #[serde(default, rename = "Messages")]
    messages: Vec<Message>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricDataResult {
    #[serde(default)]
    label: String,
    #[serde(default)]
    status_code: String,
    #[serde(default)]
    timestamps: Vec<Number>,
    #[serde(default)]
    values: Vec<Number>,
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    #[serde(default)]
    code: String,
    #[serde(default)]
    value: String,
}

fn words(messages: &[Message]) -> String {
    short(&messages.iter().map(|m| format!("{}: {}", m.code, m.value)).collect::<Vec<_>>().join("; "))
}

impl CloudWatch {
    fn request(&self, query: &str, ask: &Ask<'_>) -> Result<Value, Trouble> {
        let period = period(ask.step).map_err(|why| self.server.refused(&why))?;
        let query = match self.asks {
            Asks::Expression => json!({"Id": ID, "Expression": query, "Period": period}),
            Asks::Metric => {
                let mut stat: Value = serde_json::from_str(query).map_err(|_| {
                    self.server.refused("a value of `dimensions` ends the text that it stands in")
                })?;
                stat["Period"] = period.into();
                json!({"Id": ID, "MetricStat": stat})
            }
        };
        let seconds = |ms: i64| ms.div_euclid(1000);
        Ok(json!({
            "MetricDataQueries": [query],
            "StartTime": seconds(ask.from.as_millisecond()),
            "EndTime": seconds(ask.to.as_millisecond() + 999),
            "ScanBy": "TimestampAscending",
        }))
    }

    fn page(&self, request: &Value, limit: Duration) -> Result<Page, Trouble> {
        let body = request.to_string().into_bytes();
        let host = self.server.host();
        let headers = [
            ("host", host.as_str()),
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", "GraniteServiceVersion20100801.GetMetricData"),
        ];
        let scope = Scope { region: &self.region, service: "monitoring" };
        let signed = sign(&self.credentials, scope, &headers, &body, now());
        let signed: Vec<(&str, &str)> =
            signed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = self.server.post_raw("/", &signed, body, limit)?;
        if let Some(error) = self.error(&answer) {
            return Err(error);
        }
        let answer = self.server.accept(answer)?;
        let page: Page = self.server.json(&answer)?;
        if !page.messages.is_empty() {
            return Err(self
                .server
                .refused(&format!("the answer may be incomplete: {}", words(&page.messages))));
        }
        Ok(page)
    }

    /// An error by its name: AWS answers most of them with status 400.
    fn error(&self, answer: &Answer) -> Option<Trouble> {
        if answer.status < 400 {
            return None;
        }
        let value: Value = crate::bounds::json(&answer.body, 1000).ok()?;
        let name = value.get("__type")?.as_str()?;
        let name = name.rsplit('#').next().unwrap_or(name);
        let text = ["message", "Message"].iter().find_map(|key| value.get(key)?.as_str()).unwrap_or_default();
        let line = short(&format!("{name}: {text} (status {})", answer.status));
        let again = [
            "Throttl",
            "ServiceUnavailable",
            "InternalFailure",
            "InternalServiceFault",
            "RequestTimeout",
            "LimitExceeded",
        ];
        let again = again.iter().any(|part| name.contains(part));
        Some(if again { self.server.unreachable(&line) } else { self.server.refused(&line) })
    }

    /// Adds one part of an answer to what came before it.
    fn add(
        &self,
        results: Vec<MetricDataResult>,
        last: bool,
        all: &mut BTreeMap<String, Series>,
    ) -> Result<(), Trouble> {
        // One search may give several series of one label.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for result in results {
            let said = words(&result.messages);
            let status = result.status_code.as_str();
            match status {
                "Complete" => {}
                "PartialData" if !last => {}
                "InternalError" => return Err(self.server.unreachable(&format!("InternalError: {said}"))),
                _ => return Err(self.server.refused(&format!("{}: {said}", short(status)))),
            }
            if result.timestamps.len() != result.values.len() {
                return Err(self.server.babble("an answer with another number of timestamps than of values"));
            }
            let number = seen.entry(result.label.clone()).or_default();
            *number += 1;
            let key = if *number > 1 { format!("{} ({number})", result.label) } else { result.label.clone() };
            let series = all.entry(key.clone()).or_insert_with(|| Series { label: key, points: Vec::new() });
            for (at, value) in result.timestamps.iter().zip(&result.values) {
                series.points.push(Point { at_ms: moment(at.0)?, value: value.0 });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_period_that_cloudwatch_has() {
        for (ms, expected) in [(1000, Some(1)), (30_000, Some(30)), (60_000, Some(60)), (300_000, Some(300))]
        {
            assert_eq!(period(Duration::from_millis(ms)).ok(), expected);
        }
        for ms in [0, 500, 15_000, 61_000, 60_500] {
            assert!(period(Duration::from_millis(ms)).is_err(), "{ms}");
        }
    }
}
