//! Each service as its vendor documents its answers; what it is asked is checked too.

use serde_json::json;

use super::*;
use crate::support::answering::{Answering, Asked, Reply};
use metrics::TroubleKind;

const MINUTE: Duration = Duration::from_secs(60);

/// Opens a source at a service, asks it for green's window `[from, to)` in seconds, and gives what
/// came and what the service was asked last.
fn green(
    service: &Answering,
    kind: &str,
    with: &str,
    (from, to): (i64, i64),
) -> (Result<Vec<Point>, Trouble>, Asked) {
    let mut source = open(&metric(&service.url(), kind, with));
    let points = ask(&mut *source, &side("green"), from * 1000, to * 1000, MINUTE);
    (points, service.asked().pop().unwrap_or_default())
}

fn metric(url: &str, kind: &str, with: &str) -> String {
    let with: String = with.lines().map(|line| format!("    {line}\n")).collect();
    format!("- name: m\n  kind: {kind}\n  target: {url}/base/\n  step: 60s\n  with:\n{with}")
}

/// What stands between two replies: answers one after the other, the last one again and again.
fn replies(all: Vec<Reply>) -> Answering {
    let mut all = all.into_iter().rev().collect::<Vec<_>>();
    Answering::start(move |_| if all.len() > 1 { all.pop().unwrap() } else { all[0].clone() })
}

fn pairs(points: &[Point]) -> Vec<(i64, f64)> {
    points.iter().map(|point| (point.at_ms, point.value)).collect()
}

fn trouble(result: (Result<Vec<Point>, Trouble>, Asked)) -> (TroubleKind, String) {
    let trouble = result.0.unwrap_err();
    (trouble.what, trouble.message)
}

// --- Prometheus and what answers like it --------------------------------------------------------------

const PROM: &str = "query: up{side=\"{{ side }}\", release=\"{{ release }}\", instance=\"{{ address }}\"}\nheaders: {Authorization: \"Bearer ${PROMETHEUS_TOKEN}\", X-Scope-OrgID: shop}";

fn matrix(more: &serde_json::Value) -> serde_json::Value {
    let mut whole = json!({"status": "success", "data": {"resultType": "matrix", "result": [
        {"metric": {"__name__": "up"}, "values": [[60, "1"], [120, "0.5"], [180.0, "NaN"], [240, "+Inf"]]}]}});
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    whole
}

#[test]
fn prometheus_is_asked_on_its_grid_with_the_headers_of_the_plan() {
    let service = replies(vec![Reply::json(matrix(&json!({})))]);
    let (points, asked) = green(&service, "prometheus", PROM, (61, 241));
    // What lies outside of the window is not taken, whatever comes.
    let points = points.unwrap();
    assert_eq!(pairs(&points)[..1], [(120_000, 0.5)]);
    assert!(points[1].value.is_nan() && points[2].value == f64::INFINITY && points.len() == 3);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/base/api/v1/query_range"));
    assert_eq!(
        asked.parameter("query"),
        "up{side=\"green\", release=\"1.4-green\", instance=\"10.0.0.1:805\"}"
    );
    let (start, end, step) = (asked.parameter("start"), asked.parameter("end"), asked.parameter("step"));
    assert_eq!((start.as_str(), end.as_str(), step.as_str()), ("120.000", "240.000", "60.000"));
    assert_eq!(asked.header("authorization"), "Bearer tok-prometheus-0123456789");
    assert_eq!(asked.header("x-scope-orgid"), "shop");
    // A window without a moment of the grid is empty, and nobody is asked.
    let (points, _) = green(&service, "prometheus", PROM, (61, 119));
    assert_eq!((points, service.asked().len()), (Ok(Vec::new()), 1));
}

#[test]
fn an_incomplete_answer_counts_only_where_the_plan_says_so() {
    let warned =
        matrix(&json!({"warnings": ["No StoreAPIs matched for this query", "store 10.1.2.3 timed out"]}));
    for whole in [warned, matrix(&json!({"isPartial": true}))] {
        let service = replies(vec![Reply::json(whole)]);
        let (what, message) = trouble(green(&service, "prometheus", PROM, (0, 300)));
        assert_eq!(what, TroubleKind::Refused, "{message}");
        assert!(
            message.contains("may be incomplete") && message.contains("`allow_partial: true`"),
            "{message}"
        );
        let allowed = format!("{PROM}\nallow_partial: true");
        assert_eq!(green(&service, "prometheus", &allowed, (0, 300)).0.unwrap().len(), 4);
    }
    // What only informs is no warning.
    let service = replies(vec![Reply::json(matrix(&json!({"infos": ["metric might not be a counter"]})))]);
    assert_eq!(green(&service, "prometheus", PROM, (0, 300)).0.unwrap().len(), 4);
}

#[test]
fn what_prometheus_gives_besides_numbers_is_no_series_of_them() {
    let scalar = json!({"status": "success", "data": {"resultType": "vector", "result": []}});
    let histogram = json!({"status": "success", "data": {"resultType": "matrix", "result": [
        {"metric": {"job": "shop"}, "histograms": [[60, {"count": "1", "sum": "2", "buckets": []}]]}]}});
    let twice = json!({"status": "success", "data": {"resultType": "matrix", "result": [
        {"metric": {}, "values": [[60, "1"], [60, "2"]]}]}});
    let error = json!({"status": "error", "errorType": "timeout", "error": "query timed out in expression evaluation"});
    let bare = json!({"status": "success"});
    let cases = [
        (200, scalar, TroubleKind::Babble, "the result is a vector"),
        (200, histogram, TroubleKind::Refused, "{job=\"shop\"} has histograms"),
        (200, twice, TroubleKind::Babble, "two values at one moment"),
        (200, error.clone(), TroubleKind::Refused, "query timed out in expression evaluation"),
        (503, error, TroubleKind::Unreachable, "status 503: query timed out in expression evaluation"),
        (200, bare, TroubleKind::Babble, "there is no `data`"),
    ];
    for (status, body, kind, words) in cases {
        let service = replies(vec![Reply::Says(status, "application/json", body.to_string())]);
        let (what, message) = trouble(green(&service, "prometheus", PROM, (0, 300)));
        assert_eq!(what, kind, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn a_release_that_would_end_a_text_in_the_query_is_not_filled_in() {
    let service = replies(vec![Reply::json(matrix(&json!({})))]);
    let mut source = open(&metric(&service.url(), "prometheus", PROM));
    for (release, words) in [
        (Some("1\"} or vector(0) or up{x=\""), "characters that have a meaning in queries"),
        (Some(""), "that of green is not known"),
        (None, "that of green is not known"),
    ] {
        let side = SideOf { release: release.map(str::to_owned), ..side("green") };
        let trouble = ask(&mut *source, &side, 0, 300_000, MINUTE).unwrap_err();
        assert_eq!(trouble.what, TroubleKind::Refused);
        assert!(trouble.message.contains(words), "{trouble:?}");
    }
    assert!(service.asked().is_empty());
}

#[test]
fn a_user_and_a_password_may_stand_in_the_address() {
    let service = replies(vec![Reply::json(matrix(&json!({}))), Reply::Says(400, "text/plain", "no".into())]);
    let url = format!("http://judge:${{PASSWORD}}@127.0.0.1:{}", service.port);
    let variables = [VARIABLES, &[("PASSWORD", "s3cret-word")]].concat();
    let mut source =
        open_with(&metric(&url, "prometheus", PROM).replace("Authorization", "x-more"), &variables, true)
            .unwrap();
    assert_eq!(ask(&mut *source, &side("blue"), 0, 300_000, MINUTE).unwrap().len(), 4);
    assert_eq!(service.asked()[0].header("authorization"), "Basic anVkZ2U6czNjcmV0LXdvcmQ=");
    let trouble = ask(&mut *source, &side("blue"), 0, 300_000, MINUTE).unwrap_err();
    assert!(!trouble.message.contains("s3cret-word"), "{trouble:?}");
}

// --- Graphite ------------------------------------------------------------------------------------------

#[test]
fn graphite_is_asked_by_its_render_api_and_null_is_no_value() {
    let body = r#"[{"target": "summarize(shop.green.orders, \"60s\", \"sum\")", "tags": {"name": "x"},
        "datapoints": [[4.0, 0], [1.5, 60], [null, 120], [0.0, 180], [1e9999, 240], [7, 300]]}]"#;
    let service = replies(vec![Reply::Says(200, "application/json", body.into())]);
    let with = "query: summarize(shop.{{ side }}.orders, \"{{ step }}\", \"sum\")\nheaders: {authorization: \"Basic ${GRAPHITE_AUTH}\"}";
    let (points, asked) = green(&service, "graphite", with, (60, 300));
    assert_eq!(pairs(&points.unwrap()), [(60_000, 1.5), (180_000, 0.0), (240_000, f64::INFINITY)]);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/base/render"));
    assert_eq!(asked.parameter("target"), "summarize(shop.green.orders, \"60s\", \"sum\")");
    assert_eq!((asked.parameter("format"), asked.parameter("noCache")), ("json".into(), "true".into()));
    // Graphite leaves out what lies at `from`.
    assert_eq!((asked.parameter("from"), asked.parameter("until")), ("59".into(), "301".into()));
    assert_eq!(asked.header("authorization"), "Basic c2hvcDp0b2stZ3JhcGhpdGU=");

    let none = replies(vec![Reply::json(json!([]))]);
    assert_eq!(green(&none, "graphite", with, (60, 300)).0, Ok(Vec::new()));
    let two =
        json!([{"target": "shop.green.a", "datapoints": []}, {"target": "shop.green.b", "datapoints": []}]);
    let (what, message) = trouble(green(&replies(vec![Reply::json(two)]), "graphite", with, (60, 300)));
    assert_eq!(what, TroubleKind::SeveralSeries);
    assert!(message.contains("shop.green.a, shop.green.b"), "{message}");
}

// --- Datadog -------------------------------------------------------------------------------------------

fn datadog(series: &serde_json::Value) -> Reply {
    Reply::json(json!({
        "status": "ok", "res_type": "time_series", "resp_version": 1, "query": "avg:shop.latency{side:green}",
        "from_date": 60_000, "to_date": 300_000, "series": series, "values": [], "times": [], "message": "", "group_by": [],
    }))
}

fn datadog_series(scope: &str) -> serde_json::Value {
    json!({
        "unit": null, "query_index": 0, "aggr": "avg", "metric": "shop.latency", "tag_set": [], "expression": "avg:shop.latency{side:green}",
        "scope": scope, "interval": 60, "length": 4, "start": 0, "end": 299_999, "display_name": "shop.latency",
        "pointlist": [[0.0, 1.0], [60_000.0, 98.193_756], [120_000.0, null], [180_000.0, 0.0]], "attributes": {},
    })
}

#[test]
fn datadog_gets_its_keys_in_headers_and_nowhere_else() {
    let service = replies(vec![datadog(&json!([datadog_series("side:green")]))]);
    let with = "query: avg:shop.latency{side:{{ side }}}.rollup(avg, {{ step_seconds }})";
    let (points, asked) = green(&service, "datadog", with, (60, 300));
    assert_eq!(pairs(&points.unwrap()), [(60_000, 98.193_756), (180_000, 0.0)]);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/base/api/v1/query"));
    assert_eq!(asked.parameter("query"), "avg:shop.latency{side:green}.rollup(avg, 60)");
    assert_eq!((asked.parameter("from"), asked.parameter("to")), ("60".into(), "300".into()));
    assert_eq!(asked.header("dd-api-key"), "tok-datadog-api-0123456789");
    assert_eq!(asked.header("dd-application-key"), "tok-datadog-app-0123456789");
    assert!(!asked.query.contains("tok-"), "{asked:?}");

    // The plan may name other variables.
    let other = format!("{with}\napi_key: ${{PROMETHEUS_TOKEN}}");
    assert_eq!(
        green(&service, "datadog", &other, (60, 300)).1.header("dd-api-key"),
        "tok-prometheus-0123456789"
    );
    let without: Vec<_> = VARIABLES.iter().filter(|(name, _)| *name != "DD_APP_KEY").copied().collect();
    let fault = open_with(&metric("http://127.0.0.1:9", "datadog", with), &without, true).err().unwrap();
    assert!(fault.cause.unwrap().contains("the variable `DD_APP_KEY` is not set"));
}

#[test]
fn datadog_says_what_is_wrong_in_three_ways() {
    let with = "query: avg:shop.latency{side:{{ side }}}";
    let says = |status, body: serde_json::Value| Reply::Says(status, "application/json", body.to_string());
    let two = json!([datadog_series("host:a"), datadog_series("host:b")]);
    let cases = [
        (
            says(403, json!({"errors": ["Forbidden"]})),
            TroubleKind::Refused,
            "no rights, status 403: Forbidden",
        ),
        (
            says(400, json!({"errors": ["Error parsing query: unable to parse avg:: Rule 'scope_expr'"]})),
            TroubleKind::Refused,
            "status 400: Error parsing query",
        ),
        (
            says(429, json!({"errors": ["Rate limit of 100 requests in 3600 seconds reached"]})),
            TroubleKind::Unreachable,
            "not now, status 429: Rate limit",
        ),
        (
            says(200, json!({"status": "error", "error": "Query timed out", "series": []})),
            TroubleKind::Refused,
            "Query timed out",
        ),
        (datadog(&two), TroubleKind::SeveralSeries, "2 series where one was meant: host:a, host:b"),
        (says(200, json!({"status": "ok"})), TroubleKind::Babble, "there is no `series`"),
    ];
    for (reply, kind, words) in cases {
        let (what, message) = trouble(green(&replies(vec![reply]), "datadog", with, (60, 300)));
        assert_eq!(what, kind, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(green(&replies(vec![datadog(&json!([]))]), "datadog", with, (60, 300)).0, Ok(Vec::new()));
}

// --- InfluxDB ------------------------------------------------------------------------------------------

const FLUX: &str = "org: shop & sons\ntoken: ${INFLUX_TOKEN}\nquery: |\n  from(bucket: \"b\") |> range(start: {{ from_time }}, stop: {{ to_time }}) |> filter(fn: (r) => r.side == \"{{ side }}\")";

fn csv(body: &str) -> Answering {
    replies(vec![Reply::Says(200, "text/csv; charset=utf-8", body.replace('\n', "\r\n"))])
}

/// As in the description of annotated CSV.
const TABLE: &str = "#group,false,false,true,true,false,false,true,true,true,true
#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string,string,string
#default,mean,,,,,,,,,
,result,table,_start,_stop,_time,_value,_field,_measurement,host,region
,,0,1970-01-01T00:01:00Z,1970-01-01T00:05:00Z,1970-01-01T00:01:00Z,15.43,mem,m,\"A, \"\"first\"\"\",east
,,0,1970-01-01T00:01:00Z,1970-01-01T00:05:00Z,1970-01-01T00:02:00.5Z,,mem,m,\"A, \"\"first\"\"\",east
,,0,1970-01-01T00:01:00Z,1970-01-01T00:05:00Z,1970-01-01T00:03:00Z,+Inf,mem,m,\"A, \"\"first\"\"\",east
,,0,1970-01-01T00:01:00Z,1970-01-01T00:05:00Z,1970-01-01T00:05:00Z,1,mem,m,\"A, \"\"first\"\"\",east
";

#[test]
fn influxdb_is_asked_in_flux_and_its_csv_is_read() {
    let service = csv(TABLE);
    let (points, asked) = green(&service, "influxdb", FLUX, (60, 300));
    assert_eq!(pairs(&points.unwrap()), [(60_000, 15.43), (180_000, f64::INFINITY)]);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/base/api/v2/query"));
    assert_eq!(asked.parameter("org"), "shop & sons");
    assert_eq!(asked.header("authorization"), "Token tok-influx-0123456789");
    assert_eq!(asked.header("accept"), "application/csv");
    let body = asked.json();
    assert_eq!(
        body["query"],
        "from(bucket: \"b\") |> range(start: 1970-01-01T00:01:00Z, stop: 1970-01-01T00:05:00Z) |> filter(fn: (r) => r.side == \"green\")"
    );
    assert_eq!(
        (&body["type"], &body["dialect"]["annotations"]),
        (&json!("flux"), &json!(["datatype", "group", "default"]))
    );
    // No table at all.
    for nothing in ["", "\n"] {
        assert_eq!(green(&csv(nothing), "influxdb", FLUX, (60, 300)).0, Ok(Vec::new()));
    }
}

#[test]
fn tables_of_flux_that_are_no_one_series_of_numbers_are_refused() {
    let second = TABLE.replace("\n,,0,", "\n,,1,").replace(",east", ",west");
    let texts = TABLE.replace("double", "string");
    let yields = format!("{TABLE}\n{}", TABLE.replace("#default,mean", "#default,max"));
    let error = "#datatype,string,string\n#group,true,true\n#default,,\n,error,reference\n,Failed to parse query,897\n";
    let cases = [
        (format!("{TABLE}\n{second}"), TroubleKind::SeveralSeries, "region=\"west\""),
        (yields, TroubleKind::SeveralSeries, "2 series"),
        (texts, TroubleKind::Refused, "the values are of the type string"),
        (error.into(), TroubleKind::Refused, "Failed to parse query"),
        (
            "error,reference\nFailed to parse query,897\n".into(),
            TroubleKind::Refused,
            "Failed to parse query",
        ),
        (format!("{TABLE}\n{error}"), TroubleKind::Refused, "Failed to parse query"),
        (TABLE.replace("_value", "mean"), TroubleKind::Babble, "needs `_time` and `_value`"),
        (TABLE.replace("15.43", "much"), TroubleKind::Babble, "a `_value` is no number"),
        (TABLE[..TABLE.len() - 12].into(), TroubleKind::Babble, "the last line has no end"),
        (format!("{}\n", &TABLE[..TABLE.len() - 12]), TroubleKind::Babble, "another number of columns"),
        (TABLE.replace("00:02:00.5Z,", "00:01:00Z,2"), TroubleKind::Babble, "two values at one moment"),
    ];
    for (body, kind, words) in cases {
        let (what, message) = trouble(green(&csv(&body), "influxdb", FLUX, (60, 300)));
        assert_eq!(what, kind, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    // A label that is called `error` is none.
    let named = TABLE.replace("host", "error");
    assert_eq!(green(&csv(&named), "influxdb", FLUX, (60, 300)).0.unwrap().len(), 2);
    let invalid = json!({"code": "unauthorized", "message": "unauthorized access"});
    let service = replies(vec![Reply::Says(401, "application/json", invalid.to_string())]);
    let (what, message) = trouble(green(&service, "influxdb", FLUX, (60, 300)));
    assert_eq!((what, message.contains("unauthorized access")), (TroubleKind::Refused, true), "{message}");
}

const INFLUXQL: &str = "language: influxql\ndatabase: shop\nretention_policy: week\ntoken: ${INFLUX_TOKEN}\nquery: SELECT mean(ms) FROM checkout WHERE side = '{{ side }}' AND time >= '{{ from_time }}' AND time < '{{ to_time }}' GROUP BY time({{ step }})";

#[test]
fn influxdb_is_asked_in_influxql_and_its_json_is_read() {
    let one = |values: serde_json::Value, columns: serde_json::Value| json!({"results": [{"statement_id": 0, "series": [{"name": "checkout", "tags": {"host": "a"}, "columns": columns, "values": values}]}]});
    let good = one(json!([[60_000, 0.55], [120_000, null], [180_000, 23_422]]), json!(["time", "mean"]));
    let service = replies(vec![Reply::json(good)]);
    let (points, asked) = green(&service, "influxdb", INFLUXQL, (60, 300));
    assert_eq!(pairs(&points.unwrap()), [(60_000, 0.55), (180_000, 23_422.0)]);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/base/query"));
    assert_eq!(
        asked.parameter("q"),
        "SELECT mean(ms) FROM checkout WHERE side = 'green' AND time >= '1970-01-01T00:01:00Z' AND time < '1970-01-01T00:05:00Z' GROUP BY time(60s)"
    );
    assert_eq!(
        (asked.parameter("db"), asked.parameter("rp"), asked.parameter("epoch")),
        ("shop".into(), "week".into(), "ms".into())
    );
    assert_eq!(asked.header("authorization"), "Token tok-influx-0123456789");
    let none = json!({"results": [{"statement_id": 0}]});
    assert_eq!(green(&replies(vec![Reply::json(none)]), "influxdb", INFLUXQL, (60, 300)).0, Ok(Vec::new()));

    let mut partial = one(json!([[60_000, 0.55]]), json!(["time", "mean"]));
    partial["results"][0]["partial"] = true.into();
    let cases = [
        (
            one(json!([[60_000, 1, 2]]), json!(["time", "mean", "max"])),
            TroubleKind::SeveralSeries,
            "column=\"max\", host=\"a\"",
        ),
        (partial, TroubleKind::Refused, "cut off"),
        (
            json!({"results": [{"statement_id": 0, "error": "retention policy not found: week"}]}),
            TroubleKind::Refused,
            "retention policy not found: week",
        ),
        (json!({"error": "error parsing query: found EOF"}), TroubleKind::Refused, "error parsing query"),
        (
            one(json!([["1970-01-01T00:01:00Z", 1]]), json!(["time", "mean"])),
            TroubleKind::Babble,
            "a `time` is no moment",
        ),
        (one(json!([[60_000]]), json!(["time", "mean"])), TroubleKind::Babble, "too few columns"),
        (one(json!([[60_000, "a"]]), json!(["time", "mean"])), TroubleKind::Babble, "`a` is no number"),
        (json!({}), TroubleKind::Babble, "there are no `results`"),
    ];
    for (body, kind, words) in cases {
        let (what, message) =
            trouble(green(&replies(vec![Reply::json(body)]), "influxdb", INFLUXQL, (60, 300)));
        assert_eq!(what, kind, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn settings_of_the_other_language_and_a_query_without_a_window_are_refused() {
    let no = |with: &str| refusal(&metric("http://127.0.0.1:9", "influxdb", with));
    assert!(
        no(&FLUX.replace("org: shop & sons\n", ""))
            .contains("`org` is missing, and a query in Flux needs it")
    );
    assert!(no(&format!("{FLUX}\ndatabase: x")).contains("`database` has no meaning for a query in Flux"));
    assert!(no(&format!("{INFLUXQL}\norg: x")).contains("`org` has no meaning for a query in InfluxQL"));
    assert!(no(&FLUX.replace("{{ to_time }}", "now()")).contains("does not name the window"));
}
