//! The sources of figures that are asked over HTTP: each against a real server where there is one to
//! be had, otherwise against answers as its vendor documents them; and one contract for all.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use trapkey::fault::Fault;
use trapkey::metrics::{self, Ask, Point, SideOf, Source, Trouble};
use trapkey::plan::Loaded;

mod cloudwatch;
mod contract;
mod http_sources;
mod prometheus;

/// The variables of all sources, as a job would have them.
const VARIABLES: &[(&str, &str)] = &[
    ("PROMETHEUS_TOKEN", "tok-prometheus-0123456789"),
    ("GRAPHITE_AUTH", "c2hvcDp0b2stZ3JhcGhpdGU="),
    ("INFLUX_TOKEN", "tok-influx-0123456789"),
    ("DD_API_KEY", "tok-datadog-api-0123456789"),
    ("DD_APP_KEY", "tok-datadog-app-0123456789"),
    ("AWS_ACCESS_KEY_ID", crate::support::s3::KEY),
    ("AWS_SECRET_ACCESS_KEY", crate::support::s3::SECRET),
    ("AWS_SESSION_TOKEN", "tok-aws-session-0123456789"),
    ("AWS_REGION", "eu-central-1"),
];

/// Opens one of `metrics` as a plan has it, for both sides.
fn try_open(metric: &str) -> Result<Box<dyn Source>, Fault> {
    open_with(metric, VARIABLES, true)
}

fn open_with(metric: &str, variables: &[(&str, &str)], sides: bool) -> Result<Box<dyn Source>, Fault> {
    let folder = crate::support::folder();
    let path = folder.path().join("release.yaml");
    let lines: String = metric.lines().map(|line| format!("    {line}\n")).collect();
    let plan = format!(
        "version: 1\nservice: shop\nrelease: {{version: \"1\"}}\nenvironments: {{production: {{url: \"http://127.0.0.1:9\"}}}}\n\
         promote:\n  strategy: blue_green\n  router: {{kind: haproxy, target: /run/haproxy.sock}}\n  \
         sides: {{blue: {{url: \"http://127.0.0.1:9\"}}, green: {{url: \"http://127.0.0.1:9\"}}}}\n  metrics:\n{lines}"
    );
    std::fs::write(&path, plan).unwrap();
    let set: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = Loaded::read(&path, set)?;
    let specs = &loaded.plan.promote.as_ref().unwrap().metrics;
    assert_eq!(specs.len(), 1, "{metric}");
    metrics::open_for(&specs[0], &loaded, sides).map(|(_, source)| source)
}

fn open(metric: &str) -> Box<dyn Source> {
    try_open(metric).unwrap_or_else(|fault| panic!("{metric}\n{fault:?}"))
}

/// What is wrong with one of `metrics`, in words.
fn refusal(metric: &str) -> String {
    match try_open(metric) {
        Ok(_) => panic!("it was taken:\n{metric}"),
        Err(fault) => format!("{fault:?}"),
    }
}

fn side(word: &'static str) -> SideOf {
    SideOf { word, url: format!("http://10.0.0.1:80{}", word.len()), release: Some(format!("1.4-{word}")) }
}

/// Asks for one side and one window, in ms since 1970.
fn ask(
    source: &mut dyn Source,
    side: &SideOf,
    from: i64,
    to: i64,
    step: Duration,
) -> Result<Vec<Point>, Trouble> {
    let at = |ms| Timestamp::from_millisecond(ms).unwrap();
    source.points(&Ask {
        side,
        from: at(from),
        to: at(to),
        step,
        covers: step,
        limit: Duration::from_secs(300),
    })
}

/// Now, in ms since 1970, and some time ago.
fn ago(ms: i64) -> i64 {
    (Timestamp::now() - SignedDuration::from_millis(ms)).as_millisecond()
}

fn values(points: &[Point]) -> Vec<f64> {
    points.iter().map(|point| point.value).collect()
}

#[test]
fn preflight_tells_of_every_kind_and_its_schema_takes_the_examples() {
    let folder = crate::support::folder();
    let say = |arguments: &[&str]| {
        let ended = crate::support::call("preflight", folder.path(), arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    };
    let (kinds, schema) = (say(&["kinds"]), say(&["schema"]));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let mut one = schema["$defs"]["MetricSpec"].clone();
    one["$defs"] = schema["$defs"].clone();
    let validator = jsonschema::validator_for(&one).unwrap();
    for kind in metrics::ALL {
        assert!(kinds.contains(kind.name) && kinds.contains(kind.about), "{}", kind.name);
        let page = say(&["explain", kind.name]);
        assert!(page.contains(kind.target) && page.contains(kind.example.lines().next().unwrap()), "{page}");
        let whole = as_json(kind.example);
        let list = whole.as_array().cloned().unwrap_or_else(|| vec![whole]);
        for example in &list {
            let wrong: Vec<String> = validator.iter_errors(example).map(|e| e.to_string()).collect();
            assert!(wrong.is_empty(), "{}: {wrong:?}", kind.name);
            let mut odd = example.clone();
            odd["with"]["tokne"] = "x".into();
            assert!(!validator.is_valid(&odd), "{}", kind.name);
        }
    }
}

/// YAML as JSON.
fn as_json(text: &str) -> serde_json::Value {
    fn of(node: &trapkey::yaml::Node) -> serde_json::Value {
        match &node.value {
            trapkey::yaml::Value::Sequence(items) => items.iter().map(of).collect(),
            trapkey::yaml::Value::Mapping(_) => serde_json::Value::Object(
                node.entries().map(|(name, _, value)| (name.to_owned(), of(value))).collect(),
            ),
            trapkey::yaml::Value::Scalar { text, plain: true } if !text.contains('$') => {
                serde_json::from_str(text).unwrap_or_else(|_| text.clone().into())
            }
            trapkey::yaml::Value::Scalar { text, .. } => text.clone().into(),
        }
    }
    of(&trapkey::yaml::parse(text).unwrap())
}
