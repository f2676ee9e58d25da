//! CloudWatch: a server that keeps metrics and verifies signatures, and answers as AWS documents them.

use serde_json::{Value, json};

use super::*;
use crate::support::answering::{Answering, Asked, Reply};
use crate::support::s3::{KEY, Server};
use metrics::TroubleKind;
use trapkey::world::http::{Client, Request};

const MINUTE: Duration = Duration::from_secs(60);
const METRIC: &str =
    "namespace: Shop\nmetric: latency\nstat: Maximum\ndimensions: {Side: \"{{ side }}\", Service: shop}";

fn metric(target: &str, with: &str) -> String {
    let with: String = with.lines().map(|line| format!("    {line}\n")).collect();
    format!("- name: m\n  kind: cloudwatch\n  target: {target}\n  step: 60s\n  with:\n{with}")
}

/// Asks the server as the owner of the account, whose signature it does not look at.
fn as_owner(port: u16, service: &str, headers: &[(&str, &str)], body: String) -> String {
    let line = format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=00"
    );
    let owner = [("authorization", line.as_str())];
    let headers = headers.iter().chain(&owner);
    let request = Request {
        method: "POST".into(),
        url: format!("http://127.0.0.1:{port}/"),
        headers: headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        body: Some(body.into_bytes()),
        keep: 64 * 1024,
    };
    let answer = Client::new(Duration::from_secs(10)).send(&request).unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{text}");
    text
}

fn put(port: u16, side: &str, values: &[(i64, f64)]) {
    let dimensions = json!([{"Name": "Side", "Value": side}, {"Name": "Service", "Value": "shop"}]);
    let data: Vec<Value> = values
        .iter()
        .map(|(at, value)| json!({"MetricName": "latency", "Dimensions": dimensions, "Timestamp": at, "Value": value}))
        .collect();
    let headers = [
        ("content-type", "application/x-amz-json-1.0"),
        ("x-amz-target", "GraniteServiceVersion20100801.PutMetricData"),
    ];
    as_owner(port, "monitoring", &headers, json!({"Namespace": "Shop", "MetricData": data}).to_string());
}

/// A new user that may do one thing; its key and secret.
fn user(port: u16, name: &str, action: &str) -> (String, String) {
    let iam = |parameters: &[(&str, &str)]| {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters).append_pair("UserName", name).append_pair("Version", "2010-05-08");
        as_owner(port, "iam", &[("content-type", "application/x-www-form-urlencoded")], form.finish())
    };
    let rights = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]});
    iam(&[("Action", "CreateUser")]);
    iam(&[("Action", "PutUserPolicy"), ("PolicyName", "one"), ("PolicyDocument", &rights.to_string())]);
    let text = iam(&[("Action", "CreateAccessKey")]);
    let of =
        |tag: &str| text.split(&format!("<{tag}>")).nth(1).unwrap().split('<').next().unwrap().to_owned();
    (of("AccessKeyId"), of("SecretAccessKey"))
}

#[test]
fn a_server_of_cloudwatch_takes_the_signature_and_gives_the_metric_of_each_side() {
    let server = Server::start("cloudwatch,iam,sts", true);
    // It forgets what is older than two weeks.
    let first = ago(600_000) / 60_000 * 60;
    put(server.port, "blue", &[(first, 1.0), (first + 60, 2.0)]);
    put(server.port, "green", &[(first, 3.0), (first + 10, 5.0), (first + 60, 4.0), (first + 120, 9.0)]);
    let url = format!("http://127.0.0.1:{}", server.port);
    let look = |with: &str, key: &str, secret: &str, word: &'static str| {
        let variables =
            [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_REGION", "us-east-1")];
        let mut source = open_with(&metric(&url, with), &variables, true).unwrap();
        ask(&mut *source, &side(word), first * 1000, (first + 120) * 1000, MINUTE)
    };
    let pairs =
        |points: Vec<Point>| points.iter().map(|p| (p.at_ms / 1000 - first, p.value)).collect::<Vec<_>>();
    let (key, secret) = user(server.port, "judge", "cloudwatch:GetMetricData");
    assert_eq!(pairs(look(METRIC, &key, &secret, "blue").unwrap()), [(0, 1.0), (60, 2.0)]);
    assert_eq!(pairs(look(METRIC, &key, &secret, "green").unwrap()), [(0, 5.0), (60, 4.0)]);
    assert_eq!(look(&METRIC.replace("latency", "none"), &key, &secret, "green"), Ok(Vec::new()));

    let wrong = "another-secret-with-forty-characters-000";
    let (other, its) = user(server.port, "somebody", "s3:GetObject");
    for (key, secret, words) in [
        (&key, wrong, "SignatureDoesNotMatch"),
        (&other, its.as_str(), "is not authorized to perform: cloudwatch:GetMetricData"),
    ] {
        let trouble = look(METRIC, key, secret, "green").unwrap_err();
        assert_eq!(trouble.what, TroubleKind::Refused);
        assert!(trouble.message.contains(words) && !trouble.message.contains(secret), "{trouble:?}");
    }
}

fn result(label: &str, status: &str, points: &[(i64, Value)]) -> Value {
    let (at, values): (Vec<i64>, Vec<Value>) = points.iter().cloned().unzip();
    json!({"Id": "m", "Label": label, "StatusCode": status, "Timestamps": at, "Values": values})
}

/// What comes of green's first five minutes.
fn green(service: &Answering, with: &str) -> Result<Vec<Point>, Trouble> {
    ask(&mut *open(&metric(&service.url(), with)), &side("green"), 0, 300_000, MINUTE)
}

fn replies(all: Vec<Value>) -> Answering {
    let mut all = all.into_iter();
    Answering::start(move |_| Reply::Says(200, "application/x-amz-json-1.0", all.next().unwrap().to_string()))
}

#[test]
fn an_answer_in_parts_is_asked_for_until_its_end() {
    let service = replies(vec![
        json!({"MetricDataResults": [result("latency", "PartialData", &[(0, json!(1.5)), (60, json!("NaN"))])], "NextToken": "next/1"}),
        json!({"MetricDataResults": [], "NextToken": "next/2"}),
        json!({"MetricDataResults": [result("latency", "Complete", &[(120, json!(3)), (300, json!(4))])]}),
    ]);
    let points = green(&service, METRIC).unwrap();
    assert_eq!((points.len(), points[0].value, points[2].value), (3, 1.5, 3.0));
    assert!(points[1].value.is_nan());
    let asked = service.asked();
    let tokens: Vec<Value> = asked.iter().map(|a| a.json()["NextToken"].clone()).collect();
    assert_eq!(tokens, [json!(null), json!("next/1"), json!("next/2")]);
    let body = asked[0].json();
    let stat = json!({"Metric": {"Namespace": "Shop", "MetricName": "latency", "Dimensions": [{"Name": "Service", "Value": "shop"}, {"Name": "Side", "Value": "green"}]}, "Stat": "Maximum", "Period": 60});
    assert_eq!(body["MetricDataQueries"], json!([{"Id": "m", "MetricStat": stat}]));
    assert_eq!(
        (&body["StartTime"], &body["EndTime"], &body["ScanBy"]),
        (&json!(0), &json!(300), &json!("TimestampAscending"))
    );
    let signed: fn(&Asked) -> String = |asked| asked.header("authorization").to_owned();
    assert!(signed(&asked[0]).starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY}/")));
    let names = "/eu-central-1/monitoring/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature=";
    assert!(signed(&asked[0]).contains(names), "{asked:?}");
    assert_ne!(signed(&asked[0]), signed(&asked[1]), "each part is signed for itself");
    assert_eq!(asked[0].header("x-amz-security-token"), "tok-aws-session-0123456789");
    assert_eq!(asked[0].header("x-amz-target"), "GraniteServiceVersion20100801.GetMetricData");
    assert_eq!(asked[0].header("host"), format!("127.0.0.1:{}", service.port));

    let circle = Answering::start(|_| Reply::json(json!({"MetricDataResults": [], "NextToken": "again"})));
    let trouble = green(&circle, METRIC).unwrap_err();
    assert_eq!((trouble.what, circle.asked().len()), (TroubleKind::Babble, 2), "{trouble:?}");
}

#[test]
fn what_is_not_complete_has_a_name() {
    let query = "query: SUM(SEARCH('{Shop,Side} Side=\"{{ side }}\" latency', 'Sum', {{ step_seconds }}))";
    let said = |status: &str| {
        let mut result = result("x", status, &[(60, json!(1))]);
        result["Messages"] =
            json!([{"Code": "ArithmeticError", "Value": "One or more data-points have been dropped"}]);
        json!({"MetricDataResults": [result]})
    };
    let two = json!({"MetricDataResults": [result("green a", "Complete", &[]), result("green b", "Complete", &[])]});
    let same =
        json!({"MetricDataResults": [result("green", "Complete", &[]), result("green", "Complete", &[])]});
    let most = json!({"MetricDataResults": [], "Messages": [{"Code": "MaxMetricsExceeded", "Value": "The search returned more than 100 metrics"}]});
    let odd = json!({"MetricDataResults": [{"Id": "m", "Label": "x", "StatusCode": "Complete", "Timestamps": [60], "Values": []}]});
    let cases = [
        (said("PartialData"), TroubleKind::Refused, "PartialData: ArithmeticError: One or more"),
        (said("Forbidden"), TroubleKind::Refused, "Forbidden: ArithmeticError"),
        (said("InternalError"), TroubleKind::Unreachable, "InternalError: ArithmeticError"),
        (two, TroubleKind::SeveralSeries, "2 series where one was meant: green a, green b"),
        (same, TroubleKind::SeveralSeries, "green, green (2)"),
        (most, TroubleKind::Refused, "MaxMetricsExceeded"),
        (odd, TroubleKind::Babble, "another number of timestamps"),
    ];
    for (body, kind, words) in cases {
        let service = replies(vec![body]);
        let trouble = green(&service, query).unwrap_err();
        assert_eq!(trouble.what, kind, "{trouble:?}");
        assert!(trouble.message.contains(words), "{words}: {trouble:?}");
        let asked = service.asked()[0].json();
        let expression = "SUM(SEARCH('{Shop,Side} Side=\"green\" latency', 'Sum', 60))";
        assert_eq!(asked["MetricDataQueries"], json!([{"Id": "m", "Expression": expression, "Period": 60}]));
    }
}

#[test]
fn errors_have_their_name_and_a_busy_service_is_asked_again() {
    let error = |name: &str, text: &str| {
        json!({"__type": format!("com.amazonaws.cloudwatch.v2010_08_01#{name}"), "message": text}).to_string()
    };
    let cases = [
        (
            400,
            error("ThrottlingException", "Rate exceeded"),
            TroubleKind::Unreachable,
            "ThrottlingException: Rate exceeded (status 400)",
        ),
        (
            400,
            error("ValidationError", "Period must not be null"),
            TroubleKind::Refused,
            "ValidationError: Period",
        ),
        (
            403,
            error("ExpiredTokenException", "The security token included in the request is expired"),
            TroubleKind::Refused,
            "ExpiredTokenException",
        ),
        (500, error("InternalFailure", ""), TroubleKind::Unreachable, "InternalFailure"),
    ];
    for (status, body, kind, words) in cases {
        let service =
            Answering::start(move |_| Reply::Says(status, "application/x-amz-json-1.0", body.clone()));
        let trouble = green(&service, METRIC).unwrap_err();
        assert_eq!(trouble.what, kind, "{trouble:?}");
        assert!(trouble.message.contains(words), "{words}: {trouble:?}");
    }
}

#[test]
fn a_metric_is_named_whole_with_a_period_that_cloudwatch_has() {
    let no = |with: &str| refusal(&metric("http://127.0.0.1:9", with));
    assert!(
        no("query: up{{ side }}\nnamespace: Shop")
            .contains("`query` and `namespace` stand beside each other")
    );
    assert!(no("namespace: Shop").contains("neither `query` nor `metric` is there"));
    assert!(no("namespace: Shop\nmetric: m").contains("asks for the same on both sides"));
    assert!(no("query: up{{ side }}\nregion: Frankfurt").contains("`Frankfurt` is no region"));
    let fine = metric("http://127.0.0.1:9", METRIC).replace("  step: 60s\n", "");
    assert!(refusal(&fine).contains("a step of 15 s is none of CloudWatch's"));
    for missing in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
        let some: Vec<_> = VARIABLES.iter().filter(|(name, _)| *name != missing).copied().collect();
        let fault = open_with(&metric("http://127.0.0.1:9", METRIC), &some, true).err().unwrap();
        assert!(fault.cause.unwrap().contains(&format!("the variable `{missing}` is not set")));
    }
    // Without a target it is Amazon's own, or the one that a variable names.
    let service = replies(vec![json!({"MetricDataResults": []})]);
    let url = service.url();
    let own = metric("", METRIC).replace("  target: \n", "");
    let there = [VARIABLES, &[("AWS_ENDPOINT_URL_CLOUDWATCH", url.as_str())]].concat();
    let mut source = open_with(&own, &there, true).unwrap();
    assert_eq!(ask(&mut *source, &side("green"), 0, 300_000, MINUTE), Ok(Vec::new()));
    assert_eq!(service.asked().len(), 1);
    // A dimension may be written once for each side.
    let each = METRIC.replace("\"{{ side }}\"", "{blue: tg/b/73e2, green: tg/g/943f}");
    let service = replies(vec![json!({"MetricDataResults": []})]);
    assert_eq!(green(&service, &each), Ok(Vec::new()));
    assert!(service.asked()[0].body.contains("tg/g/943f"));
}
