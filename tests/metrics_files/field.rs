//! Logs in the formats that people have, by the shapes of public examples: what the same requests are in each.

use std::path::Path;
use std::time::Duration;

use trapkey::metrics::SideOf;

use super::{open, requests, sides, window};
use crate::support::answering::{Answering, Reply};
use crate::support::folder;

/// 2026-11-21T08:00:00Z.
const BEGIN: i64 = 1_795_248_000_000;

const BLUE: usize = 0;
const GREEN: usize = 1;

/// What a format does not have.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each format lacks something else")]
struct Lacks {
    /// The retried request is not in the log.
    retry: bool,
    /// Moments are whole seconds.
    thousandths: bool,
    /// There is no latency of single requests.
    latency: bool,
    /// How long the failed attempt took.
    failed_latency: bool,
}

const NONE: Lacks = Lacks { retry: false, thousandths: false, latency: false, failed_latency: false };
const NO_RETRY: Lacks = Lacks { retry: true, ..NONE };
const SECONDS: Lacks = Lacks { thousandths: true, ..NONE };
const SECONDS_NO_RETRY: Lacks = Lacks { retry: true, ..SECONDS };
const HAPROXY: Lacks = Lacks { failed_latency: true, ..NONE };

/// A request of a side: when, whether it went well, how long it took in ms.
type Seen = (usize, i64, bool, Option<f64>);

/// What happened, in every file alike: one request before the window, two errors of green at most (one of them
/// hidden by another attempt), one client that left, one answer that no side gave, one name that a client made up.
fn expected(lacks: Lacks) -> Vec<Seen> {
    let mut all: Vec<Seen> = vec![
        (BLUE, 1000, true, Some(12.0)),
        (GREEN, 2000, true, Some(20.0)),
        (GREEN, 3000, false, Some(7.0)),
        (BLUE, 4000, true, Some(3.0)),
        (GREEN, 5000, true, Some(40.0)),
        (BLUE, 8000, true, Some(8.0)),
    ];
    if !lacks.retry {
        all.push((GREEN, 9000, false, Some(5.0).filter(|_| !lacks.failed_latency)));
        all.push((BLUE, 9000, true, Some(25.0)));
    }
    for seen in &mut all {
        seen.3 = seen.3.filter(|_| !lacks.latency);
    }
    all
}

/// The file, the kind, and `with`; what it lacks; by how much its latencies differ from those of the others.
const FORMATS: &[(&str, &str, &str, Lacks, f64)] = &[
    (
        "nginx-ingress.log",
        "nginx_log",
        r#"format: '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id'"#,
        SECONDS,
        0.0,
    ),
    (
        "nginx-timing.log",
        "nginx_log",
        r#"format: '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" rt=$request_time ua="$upstream_addr" us="$upstream_status" uct="$upstream_connect_time" urt="$upstream_response_time"'"#,
        SECONDS,
        0.0,
    ),
    (
        "nginx-ltsv.log",
        "nginx_log",
        r#"format: "time:$time_iso8601\thost:$remote_addr\treq:$request\tstatus:$status\tua:$http_user_agent\tupstream:$upstream_addr\tapptime:$upstream_response_time\tvhost:$host""#,
        SECONDS_NO_RETRY,
        0.0,
    ),
    ("nginx-json.log", "json_log", "preset: nginx, time: time_local", SECONDS, 0.0),
    (
        "nginx-json-unquoted.log",
        "json_log",
        "time: ts, side: backend, status: code, upstream_status: backend_code, latency: backend_time, latency_unit: s",
        NONE,
        0.0,
    ),
    ("nginx-json-cri.log", "json_log", "preset: nginx, time: time_local", SECONDS, 0.0),
    ("haproxy-httplog.log", "haproxy_log", "zone: UTC", HAPROXY, 0.0),
    ("haproxy-rsyslog.log", "haproxy_log", "zone: UTC, backend: shop", HAPROXY, 0.0),
    ("haproxy-rfc5424.log", "haproxy_log", "zone: UTC", HAPROXY, 0.0),
    ("haproxy-iso.log", "haproxy_log", "zone: UTC, latency: Ta", HAPROXY, 0.0),
    ("haproxy-journald.json", "haproxy_log", "zone: UTC", HAPROXY, 0.0),
    ("haproxy-docker.json", "haproxy_log", "zone: UTC", HAPROXY, 0.0),
    ("haproxy-compose.log", "haproxy_log", "zone: UTC", HAPROXY, 0.0),
    ("haproxy-clf.log", "haproxy_log", "format: clf", SECONDS_NO_RETRY, 0.0),
    (
        "haproxy-json.log",
        "haproxy_log",
        r#"format: '{"timestamp":%Ts,"client":"%ci","agent":"%[capture.req.hdr(0),json(utf8s)]","request":%{+Q}r,"backend":"%b","server":"%s","code":%ST,"timers":{"req":%TR,"queue":%Tw,"connect":%Tc,"response":%Tr,"active":%Ta},"end":"%ts","retries":"%rc"}'"#,
        Lacks { thousandths: true, ..HAPROXY },
        0.0,
    ),
    ("haproxy-tcplog.log", "haproxy_log", "format: tcplog, zone: UTC", NO_RETRY, 0.0),
    ("traefik-common.log", "text_log", "format: traefik", SECONDS_NO_RETRY, 0.0),
    ("traefik.json", "json_log", "preset: traefik", NO_RETRY, 0.0),
    ("caddy.json", "json_log", "preset: caddy", NO_RETRY, 0.0),
    ("caddy-header-journald.json", "json_log", "preset: caddy", NO_RETRY, 0.0),
    ("envoy-default.log", "text_log", "format: envoy", NO_RETRY, 0.0),
    ("envoy-default.log", "text_log", "format: envoy, latency: upstream", NO_RETRY, -1.0),
    (
        "envoy.json",
        "json_log",
        "preset: envoy, side: upstream_cluster, blue: shop-blue, green: shop-green",
        NO_RETRY,
        0.0,
    ),
    ("istio.log", "text_log", "format: istio", NO_RETRY, 0.0),
    (
        "istio.log",
        "text_log",
        "format: istio, side: \"%UPSTREAM_CLUSTER%\", blue: outbound|8080|v1|shop.prod.svc.cluster.local, green: outbound|8080|v2|shop.prod.svc.cluster.local",
        NO_RETRY,
        0.0,
    ),
    ("alb.log", "text_log", "format: alb", NO_RETRY, 0.0),
    ("alb.log", "text_log", "format: alb, latency: request", NO_RETRY, 1.0),
    ("elb-classic.log", "text_log", "format: elb", NO_RETRY, 0.0),
    (
        "apache-balancer.log",
        "text_log",
        r#"format: 'combined %D "%{BALANCER_WORKER_NAME}e"'"#,
        SECONDS_NO_RETRY,
        0.0,
    ),
    (
        "apache-vhosts.log",
        "text_log",
        r#"format: '%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %{ms}T', blue: blue.shop.example, green: green.shop.example"#,
        SECONDS_NO_RETRY,
        0.0,
    ),
    ("apache-{{ side }}-access.log", "text_log", "format: common %D", SECONDS_NO_RETRY, 0.0),
    (
        "apache-iso.log",
        "text_log",
        r#"format: '%{%Y-%m-%dT%H:%M:%S%z}t %h "%r" %>s %{ms}T %{X-Release}o', side: "%{X-Release}o", blue: 1.4.1, green: 1.4.2"#,
        SECONDS_NO_RETRY,
        0.0,
    ),
    (
        "kong-file-log.json",
        "json_log",
        "time: started_at, time_is: start, duration: /latencies/request, side: /service/name, status: /response/status, blue: shop-blue, green: shop-green",
        NO_RETRY,
        0.0,
    ),
    (
        "gcp-load-balancer.json",
        "json_log",
        "time: timestamp, time_is: start, duration: /httpRequest/latency, side: /httpRequest/serverIp, status: /httpRequest/status",
        NO_RETRY,
        0.0,
    ),
];

#[test]
fn the_same_requests_are_the_same_in_every_format() {
    let place = folder();
    let logs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/logs");
    for file in std::fs::read_dir(&logs).unwrap().flatten() {
        std::fs::copy(file.path(), place.path().join(file.file_name())).unwrap();
    }
    let mut wrong = Vec::new();
    for (file, kind, with, lacks, more) in FORMATS {
        let metric = format!("{{name: x, kind: {kind}, target: \"{file}\", with: {{{with}}}}}");
        let mut source = open(place.path(), &metric).unwrap_or_else(|fault| panic!("{file}: {fault:?}"));
        let both = sides("10.20.0.11:8080", "10.20.0.12:8080");
        let found = match requests(source.as_mut(), &both, BEGIN, BEGIN + 60_000) {
            Ok(found) => found,
            Err(trouble) => {
                wrong.push(format!("{file} ({with}): {}", trouble.message));
                continue;
            }
        };
        let mut found: Vec<Seen> =
            found.iter().map(|r| (r.side, r.at_ms - BEGIN, r.ok, r.latency_ms)).collect();
        found.sort_by_key(|seen| (seen.1 / 1000, seen.2, seen.0));
        let mut expected = expected(*lacks);
        expected.sort_by_key(|seen| (seen.1 / 1000, seen.2, seen.0));
        let near = |a: &Seen, b: &Seen| {
            let slack = if lacks.thousandths { 1000 } else { 2 };
            let latency = match (a.3, b.3) {
                (Some(a), Some(b)) => (a - b - more).abs() < 0.001,
                (None, None) => true,
                _ => false,
            };
            a.0 == b.0 && (a.1 - b.1).abs() <= slack && a.2 == b.2 && latency
        };
        let same = found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| near(a, b));
        if !same {
            wrong.push(format!("{file} ({with}):\n  {found:?}\n  {expected:?}"));
        }
        assert_eq!(source.doubt(), None, "{file}");
    }
    let kinds = ["nginx_log", "json_log", "haproxy_log", "text_log"];
    assert!(FORMATS.len() >= 30 && kinds.iter().all(|kind| FORMATS.iter().any(|format| format.1 == *kind)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The file, the kind (of a service that answers with it, or `file`), and `with`.
const SERIES: &[(&str, &str, &str)] = &[
    ("prometheus-matrix.json", "prometheus", "query: 'up{side=\"{{ side }}\"}'"),
    ("mimir-infos.json", "prometheus", "query: 'up{side=\"{{ side }}\"}'"),
    ("graphite.json", "graphite", "query: \"shop.{{ side }}\""),
    (
        "influxql.json",
        "influxdb",
        "language: influxql, database: shop, query: \"SELECT mean(ms) FROM checkout WHERE side = '{{ side }}' AND time >= '{{ from_time }}' AND time < '{{ to_time }}'\"",
    ),
    (
        "influx-annotated.csv",
        "influxdb",
        "language: flux, org: shop, token: field-t0ken, query: 'from(bucket: \"{{ side }}\") |> range(start: {{ from_time }}, stop: {{ to_time }})'",
    ),
    (
        "datadog.json",
        "datadog",
        "api_key: field-api-k3y, app_key: field-app-k3y, query: \"sum:errors{side:{{ side }}}\"",
    ),
    ("dashboard-export.csv", "file", "time: Time, blue: blue, green: green"),
    ("rows-by-label.csv", "file", "time: timestamp, side: side, value: requests"),
    ("lines.jsonl", "file", "time: ts, side: pool, value: depth"),
    ("pairs-by-side.json", "file", "format: json"),
    ("orders-{{ side }}.csv", "file", "time: t, value: orders"),
];

#[test]
fn the_same_series_is_the_same_in_every_shape() {
    let place = folder();
    let series = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/series");
    for file in std::fs::read_dir(&series).unwrap().flatten() {
        std::fs::copy(file.path(), place.path().join(file.file_name())).unwrap();
    }
    let mut wrong = Vec::new();
    for (file, kind, with) in SERIES {
        let answers = std::fs::read_to_string(series.join(file)).unwrap_or_default();
        let service = Answering::start(move |_| {
            let shape = if answers.starts_with('#') { "text/csv" } else { "application/json" };
            Reply::Says(200, shape, answers.clone())
        });
        let target = if *kind == "file" { (*file).to_owned() } else { service.url() };
        let metric = format!("{{name: x, kind: {kind}, target: \"{target}\", step: 60s, with: {{{with}}}}}");
        let mut source = open(place.path(), &metric).unwrap_or_else(|fault| panic!("{file}: {fault:?}"));
        let side = SideOf { word: "green", url: "http://10.0.0.1:80".into(), release: None };
        let mut ask = window(&side, BEGIN, BEGIN + 300_000);
        (ask.step, ask.covers) = (Duration::from_secs(60), Duration::from_secs(60));
        let found =
            source.points(&ask).map(|all| all.iter().map(|p| (p.at_ms - BEGIN, p.value)).collect::<Vec<_>>());
        if found != Ok(vec![(0, 3.0), (60_000, 5.0), (120_000, 4.0), (240_000, 6.25)]) {
            wrong.push(format!("{file}: {found:?}"));
        }
    }
    assert!(SERIES.len() >= 10 && wrong.is_empty(), "{}", wrong.join("\n"));
}
