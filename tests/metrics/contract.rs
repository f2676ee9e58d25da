//! The contract of every kind that is asked over HTTP. A kind without a fixture here fails.

use serde_json::json;

use super::*;
use crate::support::answering::{Answering, Reply};
use metrics::{Gives, TroubleKind};

/// Kinds that ask nobody over HTTP; their contract stands with them.
const LOCAL: &[&str] = &["command", "file", "json_log", "nginx_log"];

/// One way to ask a kind.
struct Fixture {
    kind: &'static str,
    /// `with`, in one line.
    with: &'static str,
    /// The setting in `with` that tells the sides apart.
    query: &'static str,
    /// A secret that goes along.
    secret: &'static str,
    content_type: &'static str,
    /// What answers with the values 1 and 2, a minute apart, for so many series.
    answer: fn(series: usize) -> String,
}

const FIXTURES: &[Fixture] = &[
    Fixture {
        kind: "prometheus",
        with: "{query: 'up{side=\"{{ side }}\"}', headers: {authorization: \"Bearer ${PROMETHEUS_TOKEN}\"}}",
        query: "'up{side=\"{{ side }}\"}'",
        secret: "tok-prometheus-0123456789",
        content_type: "application/json",
        answer: |series| {
            let one =
                |n: usize| json!({"metric": {"pod": format!("shop-{n}")}, "values": [[60, "1"], [120, "2"]]});
            let all: Vec<_> = (0..series).map(one).collect();
            json!({"status": "success", "data": {"resultType": "matrix", "result": all}}).to_string()
        },
    },
    Fixture {
        kind: "graphite",
        with: "{query: 'shop.{{ side }}.up', headers: {authorization: \"Basic ${GRAPHITE_AUTH}\"}}",
        query: "'shop.{{ side }}.up'",
        secret: "c2hvcDp0b2stZ3JhcGhpdGU=",
        content_type: "application/json",
        answer: |series| {
            let one = |n: usize| json!({"target": format!("shop-{n}"), "datapoints": [[1, 60], [2, 120]]});
            json!((0..series).map(one).collect::<Vec<_>>()).to_string()
        },
    },
    Fixture {
        kind: "datadog",
        with: "{query: 'avg:up{side:{{ side }}}'}",
        query: "'avg:up{side:{{ side }}}'",
        secret: "tok-datadog-app-0123456789",
        content_type: "application/json",
        answer: |series| {
            let one = |n: usize| json!({"scope": format!("shop-{n}"), "pointlist": [[60_000.0, 1.0], [120_000.0, 2.0]]});
            json!({"status": "ok", "series": (0..series).map(one).collect::<Vec<_>>()}).to_string()
        },
    },
    Fixture {
        kind: "influxdb",
        with: "{org: o, token: \"${INFLUX_TOKEN}\", query: 'range({{ from_time }}, {{ to_time }}) {{ side }}'}",
        query: "'range({{ from_time }}, {{ to_time }}) {{ side }}'",
        secret: "tok-influx-0123456789",
        content_type: "text/csv; charset=utf-8",
        answer: |series| {
            let one = |n: usize| {
                format!(
                    "#group,false,false,false,false,true\n#datatype,string,long,dateTime:RFC3339,double,string\n#default,_result,,,,\n,result,table,_time,_value,pod\n,,{n},1970-01-01T00:01:00Z,1,shop-{n}\n,,{n},1970-01-01T00:02:00Z,2,shop-{n}\n\n"
                )
            };
            (0..series).map(one).collect()
        },
    },
    Fixture {
        kind: "influxdb",
        with: "{language: influxql, database: d, token: \"${INFLUX_TOKEN}\", query: 'SELECT {{ from_time }}, {{ to_time }} {{ side }}'}",
        query: "'SELECT {{ from_time }}, {{ to_time }} {{ side }}'",
        secret: "tok-influx-0123456789",
        content_type: "application/json",
        answer: |series| {
            let one = |n: usize| json!({"name": "up", "tags": {"pod": format!("shop-{n}")}, "columns": ["time", "mean"], "values": [[60_000, 1], [120_000, 2]]});
            json!({"results": [{"statement_id": 0, "series": (0..series).map(one).collect::<Vec<_>>()}]})
                .to_string()
        },
    },
    Fixture {
        kind: "cloudwatch",
        with: "{query: 'SEARCH(up {{ side }})'}",
        query: "'SEARCH(up {{ side }})'",
        secret: crate::support::s3::SECRET,
        content_type: "application/x-amz-json-1.0",
        answer: |series| {
            let one = |n: usize| json!({"Id": "m", "Label": format!("shop-{n}"), "StatusCode": "Complete", "Timestamps": [60, 120], "Values": [1.0, 2.0]});
            json!({"MetricDataResults": (0..series).map(one).collect::<Vec<_>>()}).to_string()
        },
    },
];

const MINUTE: Duration = Duration::from_secs(60);
/// The time that a source has where it gets no answer.
const LIMIT: Duration = Duration::from_millis(300);

impl Fixture {
    fn metric(&self, url: &str) -> String {
        format!("- {{name: m, kind: {}, target: \"{url}\", step: 60s, with: {}}}\n", self.kind, self.with)
    }

    fn open(&self, url: &str) -> Box<dyn Source> {
        open(&self.metric(url))
    }

    /// What comes from a service that always answers the same.
    fn of(&self, reply: Reply) -> Result<Vec<Point>, Trouble> {
        let service = Answering::start(move |_| reply.clone());
        ask(&mut *self.open(&service.url()), &side("green"), 60_000, 180_000, MINUTE)
    }

    /// What comes of an address within [`LIMIT`].
    fn within_limit(&self, url: &str) -> Trouble {
        let mut source = self.open(url);
        let side = side("green");
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let asked = Ask {
            side: &side,
            from: at(60_000),
            to: at(180_000),
            step: MINUTE,
            covers: MINUTE,
            limit: LIMIT,
        };
        // Who never answers is waited for no longer, or this would not end.
        source.points(&asked).unwrap_err()
    }
}

/// Every fixture, after a look that every kind has one.
fn fixtures() -> &'static [Fixture] {
    for kind in metrics::ALL.iter().filter(|kind| kind.gives == Gives::Points) {
        let known = LOCAL.contains(&kind.name) || FIXTURES.iter().any(|fixture| fixture.kind == kind.name);
        assert!(
            known,
            "the kind `{}` needs a fixture in FIXTURES, or a contract of its own (LOCAL)",
            kind.name
        );
    }
    for fixture in FIXTURES {
        assert!(metrics::kind(fixture.kind).is_some(), "{}", fixture.kind);
    }
    FIXTURES
}

#[test]
fn the_example_of_every_kind_opens() {
    fixtures();
    let of_requests = metrics::ALL
        .iter()
        .filter(|kind| kind.gives == Gives::Requests)
        .map(|kind| kind.name)
        .collect::<Vec<_>>();
    assert_eq!(of_requests, ["nginx_log", "json_log", "haproxy_log", "text_log"]);
    for kind in metrics::ALL.iter().filter(|kind| !LOCAL.contains(&kind.name)) {
        let listed = kind.example.starts_with('-');
        open(&if listed { kind.example.to_owned() } else { format!("- {}", kind.example) });
    }
}

#[test]
fn a_good_answer_gives_its_values_and_an_empty_one_gives_none() {
    for fixture in fixtures() {
        let says = |series| Reply::Says(200, fixture.content_type, (fixture.answer)(series));
        let points = fixture.of(says(1)).unwrap_or_else(|t| panic!("{}: {t:?}", fixture.kind));
        let pairs: Vec<_> = points.iter().map(|point| (point.at_ms, point.value)).collect();
        assert_eq!(pairs, [(60_000, 1.0), (120_000, 2.0)], "{}", fixture.kind);
        assert_eq!(fixture.of(says(0)), Ok(Vec::new()), "{}", fixture.kind);
    }
}

#[test]
fn several_series_are_named_and_none_is_chosen() {
    for fixture in fixtures() {
        let trouble = fixture.of(Reply::Says(200, fixture.content_type, (fixture.answer)(12))).unwrap_err();
        assert_eq!(trouble.what, TroubleKind::SeveralSeries, "{}", fixture.kind);
        assert!(trouble.message.contains("12 series where one was meant"), "{trouble:?}");
        assert!(trouble.message.contains("shop-0") && trouble.message.contains("shop-1"), "{trouble:?}");
    }
}

#[test]
fn whoever_does_not_answer_in_time_is_unreachable() {
    let port = crate::support::free_port();
    let (hanging, dripping) = (Answering::start(|_| Reply::Hangs), Answering::start(|_| Reply::Drips));
    for fixture in fixtures() {
        for url in [format!("http://127.0.0.1:{port}"), hanging.url(), dripping.url()] {
            let trouble = fixture.within_limit(&url);
            assert_eq!(trouble.what, TroubleKind::Unreachable, "{} {trouble:?}", fixture.kind);
            assert!(trouble.message.contains(&url), "{trouble:?}");
        }
    }
}

#[test]
fn what_is_no_answer_of_the_service_is_named_by_status_and_type() {
    for fixture in fixtures() {
        let whole = (fixture.answer)(1);
        let cut = whole[..whole.len() / 2].to_owned();
        let page = "<html><body>Welcome to the guest network</body></html>";
        let cases = [
            (Reply::Says(200, "text/html; charset=utf-8", page.into()), "status 200, text/html"),
            (Reply::Says(404, "text/html", page.into()), "status 404 (text/html)"),
            (Reply::Says(500, "text/html", page.into()), "status 500 (text/html)"),
            (Reply::Says(200, "application/json", String::new()), "status 200, application/json, 0 B"),
            (Reply::Says(200, "", String::new()), "status 200, no content type, 0 B"),
            (
                Reply::Says(200, "application/json", "{\"hello\": 1}".into()),
                "status 200, application/json, 12 B",
            ),
            (Reply::Says(200, fixture.content_type, cut), "not understood: status 200"),
            (Reply::Floods, "an answer of more than 16 MiB"),
        ];
        for (reply, words) in cases {
            let case = format!("{} {reply:.100?}", fixture.kind);
            let trouble = fixture.of(reply).map(|points| panic!("{case}: {points:?}")).unwrap_err();
            assert_eq!(trouble.what, TroubleKind::Babble, "{case}: {trouble:?}");
            assert!(
                trouble.message.contains(words) && !trouble.message.contains('\n'),
                "{case}: {trouble:?}"
            );
        }
        let broken = fixture.of(Reply::Breaks(whole)).unwrap_err();
        assert_eq!(broken.what, TroubleKind::Unreachable, "{}: {broken:?}", fixture.kind);
    }
}

#[test]
fn a_refusal_is_told_from_what_is_worth_another_attempt() {
    use TroubleKind::{Refused, Unreachable};
    for fixture in fixtures() {
        for (status, kind) in [
            (400, Refused),
            (401, Refused),
            (403, Refused),
            (404, Refused),
            (408, Unreachable),
            (422, Refused),
            (429, Unreachable),
            (500, Refused),
            (502, Unreachable),
            (503, Unreachable),
            (504, Unreachable),
        ] {
            let trouble =
                fixture.of(Reply::Says(status, "text/plain", "so it\nwas asked for".into())).unwrap_err();
            assert_eq!(trouble.what, kind, "{} {status}: {trouble:?}", fixture.kind);
            let words = format!("status {status}: so it was asked for");
            assert!(trouble.message.contains(&words), "{}: {trouble:?}", fixture.kind);
        }
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Answering::start(|_| Reply::json(json!({})));
    for fixture in fixtures() {
        let to: &'static str = format!("location: {}/login?state=secret-state", other.url()).leak();
        let trouble = fixture.of(Reply::SaysWith(302, "text/html", to, String::new())).unwrap_err();
        assert_eq!(trouble.what, TroubleKind::Refused, "{}: {trouble:?}", fixture.kind);
        assert!(
            trouble.message.contains(&other.url()) && !trouble.message.contains("secret-state"),
            "{trouble:?}"
        );
    }
    assert!(other.asked().is_empty());
}

#[test]
fn no_secret_is_in_an_error_or_in_a_query_that_is_shown() {
    for fixture in fixtures() {
        // A service that repeats all that it was sent.
        for status in [200, 400, 403, 500] {
            let service = Answering::start(move |asked| {
                let all = format!("{asked:?} {}", fixture.secret);
                Reply::Says(
                    status,
                    "application/json",
                    json!({"error": all, "message": all, "errors": [all]}).to_string(),
                )
            });
            let mut source = fixture.open(&service.url());
            let trouble = ask(&mut *source, &side("green"), 60_000, 180_000, MINUTE).unwrap_err();
            for (name, value) in
                VARIABLES.iter().filter(|(name, _)| !matches!(*name, "AWS_REGION" | "AWS_ACCESS_KEY_ID"))
            {
                assert!(!trouble.message.contains(value), "{} {name}: {trouble:?}", fixture.kind);
            }
            let asked = service.asked().pop().unwrap();
            assert!(!asked.query.contains("tok-"), "{asked:?}");
        }
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let green = side("green");
        let asked = Ask {
            side: &green,
            from: at(60_000),
            to: at(180_000),
            step: MINUTE,
            covers: MINUTE,
            limit: LIMIT,
        };
        let queried =
            fixture.metric("http://127.0.0.1:9").replace("{{ side }}", "{{ side }} ${PROMETHEUS_TOKEN}");
        let shown = open(&queried).query(&asked);
        assert!(shown.contains("green ***") && !shown.contains("tok-"), "{shown}");
    }
}

#[test]
fn a_query_that_is_the_same_for_both_sides_is_refused() {
    for fixture in fixtures() {
        let metric = fixture.metric("http://127.0.0.1:9");
        let with = |query: &str| metric.replace(fixture.query, query);
        let same = fixture.query.replace("{{ side }}", "x");
        let each = |green: &str| with(&format!("{{blue: {same}, green: {green}}}"));
        for plan in [with(&same), each(&same)] {
            let words = refusal(&plan);
            assert!(
                words.contains("asks for the same on both sides") && words.contains("{{ side }}"),
                "{words}"
            );
        }
        open(&each(&fixture.query.replace("{{ side }}", "y")));
        for (query, expected) in [
            (fixture.query.replace("side", "sied"), "`{{ sied }}` is not known"),
            (fixture.query.replace("{{ side }}", "{{ side"), "has no `}}`"),
            ("' '".to_owned(), "`query` is empty"),
            ("{blue: x}".to_owned(), "the key `green` is missing"),
            ("[x]".to_owned(), "expected a text"),
        ] {
            let words = refusal(&with(&query));
            assert!(words.contains(expected), "{expected}: {words}");
        }
        // What has no sides has no query for each, and no side to fill in.
        let words = |plan: &str| format!("{:?}", open_with(plan, VARIABLES, false).err().unwrap());
        assert!(words(&metric).contains("there are no sides here"));
        assert!(words(&each(&same)).contains("there are no sides here"));
        let mut source = open_with(&with(&same), VARIABLES, false).unwrap();
        let nobody = SideOf { word: "", url: String::new(), release: None };
        let trouble = ask(&mut *source, &nobody, 60_000, 180_000, MINUTE).unwrap_err();
        assert_eq!(trouble.what, TroubleKind::Unreachable, "{trouble:?}");
    }
}

#[test]
fn an_address_that_is_none_and_a_setting_that_is_unknown_are_refused() {
    for fixture in fixtures() {
        let metric = fixture.metric("ADDRESS");
        for (address, expected) in [
            ("prometheus", "`prometheus` is not a URL"),
            ("ftp://x", "is not a URL"),
            ("http://x/?a=b", "has parameters"),
            ("", "`target` is empty"),
        ] {
            let words = refusal(&metric.replace("ADDRESS", address));
            assert!(words.contains(expected) && words.contains("metric `m`"), "{expected}: {words}");
        }
        let words = refusal(&metric.replace("with: {", "with: {tokne: x, "));
        assert!(words.contains("unknown key `tokne`"), "{words}");
    }
}
