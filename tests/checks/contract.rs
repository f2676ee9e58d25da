//! What every kind must do: pass, fail, and say so when it cannot look. A kind without cases fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use trapkey::checks;
use trapkey::evidence::{Finding, Verdict};
use trapkey::fault::Fault;
use trapkey::plan::Loaded;

use super::servers::{Authority, OpenSsl, Server, http, silent, tls};
use crate::support::postgres::Postgres;
use crate::support::{folder, free_port};

/// How a case ends.
#[derive(Clone, Debug)]
enum Ends {
    /// With a finding; the message holds this.
    With(Verdict, &'static str),
    /// As an error in the plan, before anything runs.
    Refused(&'static str),
}
use Ends::{Refused, With};
use Verdict::{Error, Fail, NoData, Pass};

/// All that the cases look at.
struct World {
    folder: tempfile::TempDir,
    http: Server,
    silent: Server,
    modern: Server,
    expired: Server,
    plain: Server,
    old: OpenSsl,
    database: String,
    dead: u16,
    _postgres: Arc<Postgres>,
}

impl World {
    fn new() -> Self {
        let folder = folder();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("shop.toml", "port = 80\n");
        write(
            "eval.json",
            r#"{"accuracy": 0.91, "latency_ms": 80, "bias": NaN, "groups": [{"recall": 0.7}]}"#,
        );
        write("broken.json", "{\"accuracy\": ");
        let digest = trapkey::evidence::sha256_hex(b"port = 80\n");
        write("SHA256SUMS", &format!("{digest}  shop.toml\n{}  eval.json\n", "0".repeat(64)));
        let authority = Authority::new();
        write("ca.pem", &authority.pem());
        let good = authority.issue("localhost", (2020, 2120));
        let postgres = Postgres::shared();
        let database = postgres.database("checks_contract");
        Postgres::execute(&database, "CREATE TABLE orders(id int); INSERT INTO orders VALUES (1), (2)");
        Self {
            http: http(|request| match request.path.as_str() {
                "/health" => (
                    200,
                    vec!["content-type: application/json".into(), "x-release: 1.4.2".into()],
                    r#"{"status": "ok", "replicas": {"ready": 3}}"#.into(),
                ),
                "/moved" => (302, vec!["location: /health".into()], String::new()),
                "/echo" => (201, Vec::new(), format!("{} {}", request.method, request.body)),
                "/large" => (200, Vec::new(), "x".repeat(5000)),
                _ => (503, Vec::new(), "down".into()),
            }),
            silent: silent(),
            modern: tls(&good, &[&rustls::version::TLS13]),
            expired: tls(&authority.issue("localhost", (2020, 2021)), &[&rustls::version::TLS12]),
            plain: http(|_| (200, Vec::new(), String::new())),
            old: OpenSsl::start(folder.path(), &good),
            database,
            dead: free_port(),
            _postgres: postgres,
            folder,
        }
    }

    /// One pass, one fail and one broken at least, each in the words of a plan.
    #[expect(clippy::too_many_lines, reason = "a table, one row for each case")]
    fn cases(&self, kind: &str) -> Vec<(String, Ends)> {
        let (http, silent, dead) = (self.http.port, self.silent.port, self.dead);
        let at = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
        let case = |text: String, ends: Ends| (text, ends);
        match kind {
            "http" => vec![
                case(format!("target: {}", at(http, "/health")), With(Pass, "status 200")),
                case(
                    format!(
                        "{{target: {}, expect: {{status: 200, /replicas/ready: \">= 3\", \"header:X-Release\": 1.4.2, body: \"~ ok\", size: \"<= 1KiB\", latency: \"<= 5m\"}}}}",
                        at(http, "/health")
                    ),
                    With(Pass, "/replicas/ready 3"),
                ),
                case(format!("target: {}", at(http, "/moved")), With(Pass, "200")),
                case(
                    format!("{{target: {}, with: {{follow: false}}}}", at(http, "/moved")),
                    With(Fail, "status is 302"),
                ),
                case(
                    format!(
                        "{{target: {}, with: {{method: put, body: hello, headers: {{x-a: b}}}}, expect: {{body: PUT hello}}}}",
                        at(http, "/echo")
                    ),
                    With(Pass, "PUT hello"),
                ),
                case(format!("target: {}", at(http, "/")), With(Fail, "status is 503, expected < 300")),
                // A fast error is no good answer, although only the latency was asked for.
                case(
                    format!("{{target: {}, expect: {{latency: \"<= 5m\"}}}}", at(http, "/")),
                    With(Fail, "status is 503"),
                ),
                case(
                    format!("{{target: {}, expect: {{/nothing: 1}}}}", at(http, "/health")),
                    With(NoData, "the body has nothing there"),
                ),
                case(
                    format!("{{target: {}, with: {{max_body: 1KiB}}, expect: {{body: \"!= y\"}}}}", at(http, "/large")),
                    With(NoData, "larger than `max_body`"),
                ),
                case(format!("target: {}", at(dead, "/")), With(Fail, "no answer")),
                case(format!("{{target: {}, timeout: 200ms}}", at(silent, "/")), With(Fail, "no answer within")),
                case("target: shop.example.com/health".into(), Refused("is not a URL")),
                case(format!("{{target: {}, expect: {{stauts: 200}}}}", at(http, "/")), Refused("unknown name")),
            ],
            "tcp" => vec![
                case(format!("target: \"127.0.0.1:{http}\""), With(Pass, "connected true")),
                case(
                    format!(
                        "{{target: \"127.0.0.1:{http}\", with: {{send: \"GET /health HTTP/1.1\\r\\n\\r\\n\"}}, expect: {{banner: \"~ ^HTTP/1.1 200\"}}}}"
                    ),
                    With(Pass, "banner `HTTP/1.1 200 X`"),
                ),
                case(format!("target: \"127.0.0.1:{dead}\""), With(Fail, "refused")),
                case(format!("{{target: \"127.0.0.1:{dead}\", expect: {{connected: false}}}}"), With(Pass, "false")),
                case(
                    format!("{{target: \"127.0.0.1:{silent}\", timeout: 300ms, expect: {{banner: \"~ .\"}}}}"),
                    With(NoData, "no data on banner"),
                ),
                case("target: 127.0.0.1".into(), Refused("is not host:port")),
            ],
            "dns" => vec![
                case("target: localhost".into(), With(Pass, "count")),
                case("{target: localhost, expect: {addresses: \"~ 127\\\\.0\\\\.0\\\\.1|::1\"}}".into(), With(Pass, "addresses")),
                case("{target: localhost, expect: {count: \"> 50\"}}".into(), With(Fail, "expected > 50")),
                case("target: https://localhost/".into(), Refused("is not a host name")),
            ],
            "tls" => self.tls_cases(),
            "command" => vec![
                case("target: [sh, -c, \"exit 0\"]".into(), With(Pass, "exit 0")),
                case(
                    "{target: [echo, '{\"ready\": 3}'], expect: {/ready: \">= 3\", stdout: \"~ ready\", stderr: \"\"}}".into(),
                    With(Pass, "/ready 3"),
                ),
                case("{target: \"exit 3\", with: {shell: true}, expect: {exit: 3}}".into(), With(Pass, "exit 3")),
                case("{target: [printenv, A], with: {env: {A: b}}, expect: {stdout: b}}".into(), With(Pass, "stdout `b`")),
                case("target: [sh, -c, \"echo no disk >&2; exit 3\"]".into(), With(Fail, "it said: no disk")),
                case("{target: [echo, yes], expect: {stdout: no}}".into(), With(Fail, "stdout is `yes`")),
                // What it says is fine, but it failed.
                case("{target: [sh, -c, \"echo yes; exit 1\"], expect: {stdout: yes}}".into(), With(Fail, "exit is 1")),
                case("{target: [echo, yes], expect: {/a: 1}}".into(), With(NoData, "is not JSON")),
                case("{target: [sleep, \"600\"], timeout: 100ms}".into(), With(Fail, "within its time")),
                case("target: [trapkey-no-such-program]".into(), With(Error, "could not be started")),
                case("target: echo hello".into(), Refused("one text with spaces")),
                case("{target: [echo], with: {shell: true}}".into(), Refused("one text, not a list")),
            ],
            "file" => vec![
                case("target: shop.toml".into(), With(Pass, "exists true")),
                case(
                    "{target: shop.toml, expect: {size: 10B, age: \"<= 1h\", mode: \"~ ^0[0-7]+$\", sha256: \"~ ^[0-9a-f]{64}$\"}}".into(),
                    With(Pass, "size 10 B"),
                ),
                case("{target: none, expect: {exists: false}}".into(), With(Pass, "exists false")),
                case("target: none".into(), With(Fail, "exists is false")),
                case("{target: shop.toml, expect: {size: \"> 1MiB\"}}".into(), With(Fail, "size is 10 B")),
                case("{target: ., expect: {sha256: a}}".into(), With(Error, "cannot be read")),
                case("{target: shop.toml, expect: {size: big}}".into(), Refused("is not a size")),
            ],
            "env" => vec![
                case("target: PATH".into(), With(Pass, "not_empty true")),
                case("{target: PATH, expect: {value: \"~ /\"}}".into(), With(Pass, "value matches")),
                case("{target: TRAPKEY_NO_SUCH, expect: {set: false}}".into(), With(Pass, "set false")),
                case("target: TRAPKEY_NO_SUCH".into(), With(Fail, "is not set")),
                case("{target: PATH, expect: {value: nothing}}".into(), With(Fail, "something else")),
                case("{target: TRAPKEY_NO_SUCH, expect: {value: \"!= x\"}}".into(), With(NoData, "no data on value")),
                case("target: \"${PATH}\"".into(), Refused("not its name")),
            ],
            "disk" => vec![
                case("{target: ., expect: {free: \"> 0B\", free_share: \"> 0%\", used_share: \"<= 100%\"}}".into(), With(Pass, "free")),
                case("{target: ., expect: {free: \">= 9000TiB\"}}".into(), With(Fail, "expected >= 9000TiB")),
                case("target: no/such/path".into(), With(Error, "No such file")),
                case("{target: ., expect: {free_share: \">= 200%\"}}".into(), Refused("outside 0% to 100%")),
            ],
            "memory" => vec![
                case("expect: {available: \"> 0B\", available_share: \"> 0%\"}".into(), With(Pass, "available")),
                case("expect: {available: \">= 9000TiB\"}".into(), With(Fail, "expected >= 9000TiB")),
                case("{target: here}".into(), Refused("has no `target`")),
            ],
            "postgres" => self.postgres_cases(),
            "metrics_file" => vec![
                case(
                    "{target: eval.json, expect: {accuracy: \">= 0.85\", latency_ms: \"<= 100\", groups/0/recall: 0.7}}".into(),
                    With(Pass, "accuracy 0.91"),
                ),
                case("{target: eval.json, expect: {accuracy: \">= 0.95\"}}".into(), With(Fail, "accuracy is 0.91")),
                case("{target: eval.json, expect: {bias: \"<= 0.1\"}}".into(), With(NoData, "`bias` is no number")),
                case("{target: eval.json, expect: {f1: \"~ .*\"}}".into(), With(NoData, "not in the file")),
                case("{target: none.json, expect: {f1: 1}}".into(), With(NoData, "none.json")),
                case("{target: broken.json, expect: {accuracy: 1}}".into(), With(Error, "is not JSON")),
                case("target: eval.json".into(), Refused("expects nothing")),
                case("{target: eval.json, expect: {latency_ms: \"<= 100ms\"}}".into(), Refused("cannot be compared")),
            ],
            "artifact" => vec![
                case("{target: shop.toml, with: {checksums: SHA256SUMS}}".into(), With(Pass, "matches true")),
                case("{target: eval.json, with: {checksums: SHA256SUMS}}".into(), With(Fail, "on record is 000")),
                case("{target: ca.pem, with: {checksums: SHA256SUMS}}".into(), With(Fail, "lists no `ca.pem`")),
                case("{target: shop.toml, with: {checksums: none}}".into(), With(Error, "none")),
                case("target: shop.toml".into(), Refused("nothing says which")),
                case("{target: shop.toml, with: {sha256: abc}}".into(), Refused("64 hexadecimal")),
            ],
            other => panic!("the kind `{other}` has no cases: add some here"),
        }
    }

    fn tls_cases(&self) -> Vec<(String, Ends)> {
        let (modern, expired, old) = (self.modern.port, self.expired.port, self.old.port);
        let with = |port: u16, expect: &str| {
            format!("{{target: \"localhost:{port}\", with: {{ca: ca.pem}}, expect: {{{expect}}}}}")
        };
        vec![
            (
                with(
                    modern,
                    "expires_in: \">= 14d\", version: 1.3, min_version: \">= 1.2\", issuer: \"~ Trapkey test\"",
                ),
                With(Pass, "min_version 1.3"),
            ),
            (with(expired, "expires_in: \"> 0s\""), With(Fail, "chain_valid is false")),
            (with(expired, "chain_valid: false, min_version: 1.2"), With(Pass, "min_version 1.2")),
            (with(old, "min_version: \">= 1.2\""), With(Fail, "min_version is 1.0")),
            (
                format!(
                    "{{target: \"localhost:{modern}\", with: {{ca: ca.pem, server_name: shop.example.com}}}}"
                ),
                With(Fail, "name_matches is false"),
            ),
            // The system does not trust our authority.
            (format!("target: \"localhost:{modern}\""), With(Fail, "chain_valid is false")),
            (with(self.dead, ""), With(Fail, "no connection")),
            (with(self.plain.port, ""), With(Fail, "no handshake")),
            (
                format!(
                    "{{target: \"localhost:{}\", timeout: 300ms, with: {{ca: ca.pem}}}}",
                    self.silent.port
                ),
                With(Fail, ""),
            ),
            (
                format!("{{target: \"localhost:{modern}\", with: {{ca: none.pem}}}}"),
                With(Error, "cannot be read"),
            ),
            (with(modern, "expires_in: 14"), Refused("is not a duration")),
        ]
    }

    fn postgres_cases(&self) -> Vec<(String, Ends)> {
        let url = &self.database;
        let with = |url: &str, rest: &str| format!("{{target: \"{url}\"{rest}}}");
        let wrong = url.replace(crate::support::postgres::PASSWORD, "wrong-pass");
        let gone = url.replace("checks_contract", "no_such_database");
        vec![
            (with(url, ""), With(Pass, "rows 1")),
            (
                with(
                    url,
                    ", with: {query: \"SELECT count(*) FROM orders\"}, expect: {value: 2, latency: \"<= 5m\", server_version: \">= 9\"}",
                ),
                With(Pass, "value `2`"),
            ),
            (with(&format!("{url}?sslmode=disable"), ""), With(Pass, "rows 1")),
            (with(&format!("{url}?sslmode=prefer"), ""), With(Pass, "rows 1")),
            // The test server has no TLS, and nothing less was allowed.
            (with(&format!("{url}?sslmode=require"), ""), With(Fail, "TLS")),
            (with(&format!("{url}?sslmode=verify-full"), ""), With(Fail, "TLS")),
            (
                with(url, ", with: {query: \"SELECT id FROM orders\"}, expect: {rows: \"> 5\"}"),
                With(Fail, "rows is 2"),
            ),
            (with(url, ", with: {query: \"SELECT * FROM nowhere\"}"), With(Fail, "does not exist")),
            (
                with(url, ", timeout: 300ms, with: {query: \"SELECT pg_sleep(600)\"}"),
                With(Fail, "statement timeout"),
            ),
            (
                with(url, ", with: {query: \"SELECT NULL\"}, expect: {value: \"!= 1\"}"),
                With(NoData, "no data on value"),
            ),
            (
                with(url, ", with: {query: \"SELECT 'NaN'::numeric\"}, expect: {value: \"~ .*\"}"),
                With(NoData, "no data on value"),
            ),
            // What the database has is compared as the text that it is.
            (
                with(url, ", with: {query: \"SELECT '1.10'::text\"}, expect: {value: \"1.1\"}"),
                With(Fail, "value is `1.10`, expected 1.1: another text, but the same number"),
            ),
            (
                with(
                    url,
                    ", with: {query: \"SELECT 20260101120000123\"}, expect: {value: 20260101120000124}",
                ),
                With(Fail, "value is `20260101120000123`"),
            ),
            (
                with(url, ", with: {query: \"SELECT 2.50\"}, expect: {value: \"number = 2.5\"}"),
                With(Pass, "value `2.50`"),
            ),
            (
                with(url, ", with: {query: \"SELECT '1.9'\"}, expect: {value: \"version >= 1.10\"}"),
                With(Fail, "value is `1.9`"),
            ),
            (
                with(url, ", with: {query: \"SELECT 2.50\"}, expect: {value: \">= 1.5\"}"),
                Refused("`1.5` may be a number or a version"),
            ),
            (with(&wrong, ""), With(Fail, "password authentication failed")),
            (with(&gone, ""), With(Fail, "does not exist")),
            (with(&format!("postgres://shop@127.0.0.1:{}/x", self.dead), ""), With(Fail, "refused")),
            (
                with(&format!("postgres://shop@127.0.0.1:{}/x", self.silent.port), ", timeout: 300ms"),
                With(Fail, ""),
            ),
            (with("postgres://shop@127.0.0.1:notaport/x", ""), Refused("is not a connection URL")),
        ]
    }
}

/// Runs one check of a plan by itself.
fn run(folder: &Path, kind: &str, body: &str) -> Result<Finding, Fault> {
    let body = match body.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').unwrap().to_owned(),
        // `key: value` in block style goes into the same braces.
        None => body.to_owned(),
    };
    let plan = format!(
        "version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n    - {{name: it, kind: {kind}, {body}}}\n"
    );
    let path = folder.join("release.yaml");
    std::fs::write(&path, plan).unwrap();
    let loaded = Loaded::read(&path, BTreeMap::new())?;
    let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded)?;
    Ok(checks::run(&prepared, 1, &|_| {}).remove(0))
}

#[test]
fn every_kind_passes_fails_and_says_when_it_cannot_look() {
    let world = World::new();
    let mut wrong = String::new();
    for kind in checks::ALL {
        let cases = world.cases(kind.name);
        let has = |wanted: &dyn Fn(&Ends) -> bool| cases.iter().any(|(_, ends)| wanted(ends));
        assert!(has(&|ends| matches!(ends, With(Pass, _))), "{} has no case that passes", kind.name);
        assert!(has(&|ends| matches!(ends, With(Fail, _))), "{} has no case that fails", kind.name);
        assert!(has(&|ends| matches!(ends, Refused(_) | With(Error, _))), "{} has no broken case", kind.name);
        for (body, ends) in &cases {
            let as_wanted = |found: &Result<Finding, Fault>| match (found, ends) {
                (Ok(finding), With(verdict, words)) => {
                    finding.verdict == *verdict && finding.message.contains(words)
                }
                (Err(fault), Refused(words)) => fault.to_string().contains(words),
                _ => false,
            };
            let mut found = run(world.folder.path(), kind.name, body);
            // On a busy machine a short time may be over before a check has come to its point.
            for longer in ["timeout: 5s", "timeout: 50s"] {
                if !as_wanted(&found) && body.contains("00ms") {
                    let body = ["timeout: 100ms", "timeout: 200ms", "timeout: 300ms"]
                        .iter()
                        .fold(body.clone(), |text, short| text.replace(short, longer));
                    found = run(world.folder.path(), kind.name, &body);
                }
            }
            if !as_wanted(&found) {
                let shown = match &found {
                    Ok(finding) => format!("{:?}: {}", finding.verdict, finding.message),
                    Err(fault) => fault.to_string(),
                };
                let _ = writeln!(wrong, "{} {body}\n  wanted {ends:?}\n  got    {shown}", kind.name);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_example_is_a_plan_that_validates() {
    let folder = folder();
    for kind in checks::ALL {
        let example: String = kind.example.lines().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "    {line}");
            text
        });
        let plan =
            format!("version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n{example}");
        let path = folder.path().join("release.yaml");
        std::fs::write(&path, plan).unwrap();
        let set = [("DATABASE_URL".to_owned(), "postgres://a@b/c".to_owned())].into();
        let loaded = Loaded::read(&path, set).unwrap_or_else(|fault| panic!("{}: {fault}", kind.name));
        let specs = &loaded.plan.preflight.as_ref().unwrap().checks;
        assert_eq!(specs[0].kind, kind.name);
        if let Err(fault) = checks::prepare(specs, &loaded) {
            panic!("{}: {fault}", kind.name);
        }
    }
}
