//! Tests: verify, with real servers that are healthy, slow, broken or of the wrong version.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use trapkey::evidence::{BaselineBody, Body, Document, VerifyBody, sha256_hex};
use trapkey::metrics::probe::{
    Connection, Headers, MAX_WORKERS, Manner, REQUESTS_PER_CONNECTION, Sampler, once,
};
use trapkey::world::http::Client;

use crate::support::{self, Ended};

/// A small real server whose manners can change while it runs.
struct Shop {
    port: u16,
    manners: Arc<Manners>,
}

#[derive(Default)]
struct Manners {
    delay_ms: AtomicU64,
    /// Every so-many-th request is answered with 500; 0 for none.
    broken: AtomicU64,
    /// The version in the release header is `1.N`.
    version: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
    /// Nothing is answered until it is false again.
    holds: AtomicBool,
    over: AtomicBool,
}

impl Shop {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let manners = Arc::new(Manners::default());
        let shared = Arc::clone(&manners);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let manners = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &manners));
            }
        });
        Self { port, manners }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn set(&self, delay_ms: u64, broken: u64, version: u64) {
        self.manners.delay_ms.store(delay_ms, Ordering::SeqCst);
        self.manners.broken.store(broken, Ordering::SeqCst);
        self.manners.version.store(version, Ordering::SeqCst);
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.manners.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: &TcpStream, manners: &Manners) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut close) = (String::new(), false);
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            close |= line.to_ascii_lowercase().trim() == "connection: close";
            if line.trim().is_empty() {
                break;
            }
        }
        let count = manners.requests.fetch_add(1, Ordering::SeqCst) + 1;
        std::thread::sleep(Duration::from_millis(manners.delay_ms.load(Ordering::SeqCst)));
        while manners.holds.load(Ordering::SeqCst) && !manners.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let broken = manners.broken.load(Ordering::SeqCst);
        let status = if broken > 0 && count.is_multiple_of(broken) { "500 Broken" } else { "200 OK" };
        let version = manners.version.load(Ordering::SeqCst);
        let answer = format!("HTTP/1.1 {status}\r\nX-Release: 1.{version}\r\nContent-Length: 2\r\n\r\nok");
        if (&*stream).write_all(answer.as_bytes()).is_err() || close {
            return;
        }
    }
}

/// What is allowed is far more than a busy machine adds to an answer.
const PLAN: &str = r#"
version: 1
service: shop
environments: {production: {url: "URL"}}
release: {version: "1.1"}
promote:
  router: {kind: haproxy, target: /run/haproxy.sock}
  sides: {blue: {url: "URL"}, green: {url: "URL"}}
  strategy: blue_green
  probe: {requests: 10, timeout: 1m}
verify:
  checks:
    - {name: home answers, kind: http, target: "URL/", expect: {status: 200}, timeout: 1m}
  baseline:
    probes:
      - {name: home, url: "URL/", rate: 100/s, duration: 800ms, timeout: 1m, min_samples: 20, tolerance_at_least: 30s, expect: {error_rate: "<= 5%"}}
"#;

/// A folder with a plan, a server, and the evidence of a promotion.
struct Release {
    folder: tempfile::TempDir,
    shop: Shop,
}

impl Release {
    fn new(plan: &str) -> Self {
        let shop = Shop::open();
        shop.set(2, 0, 0);
        let folder = support::folder();
        std::fs::write(folder.path().join("release.yaml"), plan.replace("URL", &shop.url())).unwrap();
        Self { folder, shop }
    }

    /// One whose baseline was recorded while 1.0 served, and which then ended.
    fn ended(outcome: &str) -> Self {
        let release = Self::new(PLAN);
        let recorded = release.measured(&["baseline"], "baseline.json");
        assert_eq!(recorded.code, 0, "{}", recorded.stderr);
        release.shop.set(2, 0, u64::from(outcome == "promoted"));
        release.promote(outcome);
        release
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join("evidence").join(file)
    }

    fn call(&self, arguments: &[&str]) -> Ended {
        support::call("verify", self.folder.path(), arguments)
    }

    /// Calls it until this machine had the time to measure.
    fn measured(&self, arguments: &[&str], document: &str) -> Ended {
        support::wait_for("a machine with time to measure", || {
            let ended = self.call(arguments);
            let measured = ![1, 3].contains(&ended.code) || !machine_was_busy(&self.path(document));
            measured.then_some(ended)
        })
    }

    fn verify(&self) -> (Ended, Value) {
        let ended = self.measured(&[], "verify.json");
        let document = support::json(&self.path("verify.json"));
        (ended, document)
    }

    fn promote(&self, outcome: &str) {
        let plan = std::fs::read(self.folder.path().join("release.yaml")).unwrap();
        let now = jiff::Timestamp::now().to_string();
        let document = json!({
            "schema": "trapkey/promote/v1",
            "tool": {"name": "promote", "version": "0.1.0"},
            "release": {"service": "shop", "version": "1.1", "environment": "production", "artifacts": []},
            "plan": {"path": "release.yaml", "sha256": sha256_hex(&plan)},
            "needs": [],
            "run": {"started_at": now, "finished_at": now, "host": "test"},
            "verdict": match outcome { "promoted" => "pass", "rolled_back" => "fail", _ => "undecided" },
            "summary": format!("the promotion is {outcome}"),
            "findings": [],
            "promotion": {
                "epoch": 1, "strategy": "canary",
                "router": {"kind": "haproxy", "target": "/run/haproxy.sock", "by_hand": []},
                "blue": {"url": self.shop.url(), "version": "1.0"},
                "green": {"url": self.shop.url(), "version": "1.1"},
                "outcome": outcome,
                "steps": [], "shifts": [], "judgements": [], "series": [], "decisions": [], "hooks": [],
                "weight": if outcome == "promoted" { 1.0 } else { 0.0 },
            },
        });
        std::fs::create_dir_all(self.folder.path().join("evidence")).unwrap();
        std::fs::write(self.path("promote.json"), document.to_string()).unwrap();
    }

    fn change(&self, file: &str, pointer: &str, value: Value) {
        let mut document = support::json(&self.path(file));
        *document.pointer_mut(pointer).unwrap() = value;
        std::fs::write(self.path(file), document.to_string()).unwrap();
    }
}

/// Whether a document says that the machine could not send what was due: nothing is decided then, and
/// nothing is wrong.
pub(crate) fn machine_was_busy(document: &Path) -> bool {
    std::fs::read_to_string(document).is_ok_and(|text| text.contains("requests that were due could be sent"))
}

fn valid<B: Body>(path: &Path) {
    let schema = serde_json::to_value(schemars::schema_for!(Document<B>)).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let document = support::json(path);
    let errors: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

fn finding<'a>(document: &'a Value, name: &str) -> &'a Value {
    let findings = document["findings"].as_array().unwrap();
    findings.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no finding {name}: {document}"))
}

#[test]
fn what_behaves_as_before_passes() {
    let release = Release::ended("promoted");
    let (ended, document) = release.verify();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((&document["verdict"], &document["live"]), (&json!("pass"), &json!("green")));
    assert_eq!(document["after_rollback"], false);
    for name in ["live side serves", "home answers", "home", "home: error_rate"] {
        assert_eq!(finding(&document, name)["verdict"], "pass", "{name}");
    }
    let comparison = &document["comparisons"][0];
    assert!(comparison["p_value"].is_f64() && comparison["shift_ms"].is_f64(), "{comparison}");
    let needs: Vec<&str> =
        document["needs"].as_array().unwrap().iter().map(|n| n["path"].as_str().unwrap()).collect();
    assert_eq!(needs, ["promote.json", "baseline.json"]);
    let promote = std::fs::read(release.path("promote.json")).unwrap();
    assert_eq!(document["needs"][0]["sha256"], sha256_hex(&promote));
    valid::<VerifyBody>(&release.path("verify.json"));
    valid::<BaselineBody>(&release.path("baseline.json"));
}

#[test]
fn a_slower_release_closes_the_gate() {
    let release = Release::ended("promoted");
    // What it took before is on record, and not measured: an answer takes 40 ms at least, whoever is busy.
    let recorded = support::json(&release.path("baseline.json"));
    let answers = recorded["probes"][0]["latencies"].as_array().unwrap().len();
    let before: Vec<f64> =
        (0..answers).map(|n| 2.0 + f64::from(u16::try_from(n % 50).unwrap()) / 100.0).collect();
    release.change("baseline.json", "/probes/0/latencies", json!(before));
    let plan = release.folder.path().join("release.yaml");
    let strict =
        std::fs::read_to_string(&plan).unwrap().replace("tolerance_at_least: 30s", "tolerance_at_least: 5ms");
    std::fs::write(&plan, strict).unwrap();
    release.change("baseline.json", "/plan/sha256", json!(sha256_hex(&std::fs::read(&plan).unwrap())));
    release.promote("promoted");
    release.shop.set(40, 0, 1);
    let (ended, document) = release.verify();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let home = finding(&document, "home");
    assert_eq!(home["verdict"], "fail");
    assert!(home["message"].as_str().unwrap().starts_with("slower: "), "{home}");
    assert!(document["comparisons"][0]["shift_ms"].as_f64().unwrap() > 20.0);
}

#[test]
fn a_release_with_errors_closes_the_gate() {
    let release = Release::ended("promoted");
    release.shop.set(2, 4, 1);
    let (ended, document) = release.verify();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(finding(&document, "home")["message"].as_str().unwrap().starts_with("more errors: "));
    assert_eq!(finding(&document, "home: error_rate")["verdict"], "fail");
    assert_eq!(finding(&document, "live side serves")["verdict"], "fail");
}

#[test]
fn the_wrong_version_live_closes_the_gate() {
    let release = Release::ended("promoted");
    release.shop.set(2, 0, 0);
    let (ended, document) = release.verify();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let live = finding(&document, "live side serves");
    assert_eq!(live["observed"], "10 from 1.0");
    assert_eq!(finding(&document, "home")["verdict"], "pass");
}

#[test]
fn after_a_rollback_blue_must_be_live() {
    let release = Release::ended("rolled_back");
    let (ended, document) = release.verify();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((&document["live"], &document["after_rollback"]), (&json!("blue"), &json!(true)));
    release.shop.set(2, 0, 1);
    assert_eq!(release.verify().0.code, 1);
}

#[test]
fn too_few_answers_are_no_baseline_and_no_pass() {
    let release = Release::new(&PLAN.replace("min_samples: 20", "min_samples: 1000000"));
    let recorded = release.call(&["baseline"]);
    assert_eq!(recorded.code, 3, "{}", recorded.stderr);
    let document = support::json(&release.path("baseline.json"));
    assert_eq!(document["findings"][0]["verdict"], "too_few_samples");
    // Such a baseline is refused later.
    release.promote("promoted");
    let refused = release.call(&[]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("`baseline.json` did not pass"), "{}", refused.stderr);
}

#[test]
fn a_dead_service_is_no_baseline() {
    let dead = format!("http://127.0.0.1:{}", support::free_port());
    let release = Release::new(&PLAN.replace("URL", &dead));
    let recorded = release.call(&["baseline"]);
    assert_eq!(recorded.code, 3, "{}", recorded.stderr);
    assert_eq!(support::json(&release.path("baseline.json"))["findings"][0]["verdict"], "no_data");
}

#[test]
fn evidence_that_does_not_fit_is_refused() {
    let release = Release::ended("promoted");
    let good = std::fs::read(release.path("promote.json")).unwrap();
    let refused = |says: &str| {
        let ended = release.call(&[]);
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert!(!release.path("verify.json").exists());
    };
    for (pointer, value, says) in [
        ("/promotion/outcome", json!("in_progress"), "still under way"),
        ("/promotion/outcome", json!("frozen"), "is frozen"),
        ("/verdict", json!("error"), "tells of no finished promotion"),
        ("/plan/sha256", json!("0"), "under another plan"),
        ("/release/version", json!("9.9"), "about another release"),
        ("/promotion/outcome", json!("finished"), "not a document of"),
        ("/promotion", Value::Null, "tells of no finished promotion"),
    ] {
        release.change("promote.json", pointer, value);
        refused(says);
        std::fs::write(release.path("promote.json"), &good).unwrap();
    }
    release.change("baseline.json", "/run/finished_at", json!("2020-01-01T00:00:00Z"));
    refused("`baseline.json` is stale");
    std::fs::remove_file(release.path("baseline.json")).unwrap();
    refused("verify baseline");
    std::fs::remove_file(release.path("promote.json")).unwrap();
    refused("`promote.json` is missing");
}

#[test]
fn a_snapshot_that_the_promotion_did_not_use_is_refused() {
    let plan = format!(
        "{PLAN}snapshot: {{store: store, encryption: {{none_needed_because: a test}}, sources: [{{name: f, kind: files, target: data}}]}}\n"
    );
    let release = Release::new(&plan);
    assert_eq!(release.measured(&["baseline"], "baseline.json").code, 0);
    release.shop.set(2, 0, 1);
    release.promote("promoted");
    let missing = release.call(&[]);
    assert_eq!(missing.code, 5, "{}", missing.stderr);
    assert!(missing.stderr.contains("`snapshot.json` is missing"), "{}", missing.stderr);
    std::fs::create_dir(release.folder.path().join("data")).unwrap();
    std::fs::write(release.folder.path().join("data/file"), "kept").unwrap();
    let promote = std::fs::read(release.path("promote.json")).unwrap();
    let made = support::call("snapshot", release.folder.path(), &["create"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    // A new snapshot is a new attempt; here it stands beside the promotion of the one before.
    assert!(!release.path("promote.json").exists());
    std::fs::write(release.path("promote.json"), promote).unwrap();
    let unlinked = release.call(&[]);
    assert_eq!(unlinked.code, 5, "{}", unlinked.stderr);
    assert!(unlinked.stderr.contains("promote.json -> snapshot.json"), "{}", unlinked.stderr);
    let snapshot = std::fs::read(release.path("snapshot.json")).unwrap();
    let need =
        json!({"path": "snapshot.json", "schema": "trapkey/snapshot/v1", "sha256": sha256_hex(&snapshot)});
    release.change("promote.json", "/needs", json!([need]));
    let (ended, document) = release.verify();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(document["needs"][1], need);
}

#[test]
fn a_baseline_without_sound_figures_never_passes() {
    let release = Release::ended("promoted");
    release.change("baseline.json", "/probes/0/latencies", json!([]));
    assert_eq!(release.verify().0.code, 3);
    release.change("baseline.json", "/probes/0/latencies", json!(vec![-1.0; 60]));
    assert_eq!(release.verify().0.code, 4);
    release.change("baseline.json", "/probes", json!([]));
    assert_eq!(release.call(&[]).code, 5);
}

#[test]
fn a_plan_that_cannot_be_compared_is_wrong_usage() {
    for (from, to, says) in [
        ("error_rate: \"<= 5%\"", "error_rat: \"<= 5%\"", "did you mean `error_rate`"),
        ("error_rate: \"<= 5%\"", "error_rate: \"<= 5s\"", "is not a share"),
        ("url: \"URL/\", rate", "url: \"shop:80\", rate", "no HTTP address"),
    ] {
        let release = Release::new(&PLAN.replace(from, to));
        let ended = release.call(&["baseline"]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert_eq!(release.shop.manners.requests.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_plan_with_nothing_to_check_is_undecided() {
    let release = Release::new("version: 1\nservice: shop\nrelease: {version: '1.1'}\n");
    let (ended, document) = release.verify();
    assert_eq!((ended.code, &document["summary"]), (3, &json!("nothing could be checked")));
}

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(600);

#[test]
fn a_hanging_side_does_not_hold_up_the_other() {
    let (fast, slow) = (Shop::open(), Shop::open());
    slow.manners.holds.store(true, Ordering::SeqCst);
    let urls = [fast.url(), slow.url()];
    let sampler = Sampler::start(&urls, 100.0, NEVER, "x-release");
    // All that may be under way on the one hang, and the other goes on and on.
    let hang = || slow.manners.requests.load(Ordering::SeqCst) >= MAX_WORKERS as u64;
    support::wait_until("the slow side to be full", hang);
    let mut answered = Vec::new();
    support::wait_until("the fast side to go on", || {
        let mut taken = sampler.take();
        assert!(taken.pop().unwrap().is_empty(), "the slow side answers nothing");
        answered.append(&mut taken.pop().unwrap());
        answered.len() >= 4 * MAX_WORKERS
    });
    assert!(answered.iter().all(|s| s.ok && s.version.as_deref() == Some("1.0")), "{answered:?}");
    // Requests that hang for ten minutes hold nobody up who has enough.
    drop(sampler);
    let sampler = Sampler::start(&urls, 100.0, Duration::from_millis(300), "x-release");
    let mut lost = Vec::new();
    support::wait_until("requests that hang to be given up", || {
        lost.append(&mut sampler.take().pop().unwrap());
        lost.len() >= 2 * MAX_WORKERS
    });
    assert!(lost.iter().all(|s| !s.ok && s.status.is_none() && s.latency_ms >= 300.0), "{lost:?}");
    sampler.finish();
    support::wait_until("both to have been due as often", || sampler.lag()[0].due == sampler.lag()[1].due);
}

#[test]
fn latency_counts_from_the_moment_a_request_was_due() {
    let shop = Shop::open();
    shop.manners.holds.store(true, Ordering::SeqCst);
    let sampler = Sampler::start(&[shop.url()], 200.0, NEVER, "x-release");
    // More than are sent at once have been due for a while when the side begins to answer.
    let late = 3 * MAX_WORKERS;
    let age = Duration::from_millis(500);
    support::wait_until("requests that wait", || sampler.overdue(age)[0].len() >= late);
    assert_eq!(shop.manners.requests.load(Ordering::SeqCst), MAX_WORKERS as u64);
    shop.manners.holds.store(false, Ordering::SeqCst);
    sampler.finish();
    let samples = sampler.take().remove(0);
    let slow = samples.iter().filter(|s| s.ok && s.latency_ms >= 500.0).count();
    assert!(slow >= late, "{slow} of {}", samples.len());
}

#[test]
fn probes_keep_their_connections_and_single_ones_open_new_ones() {
    let shop = Shop::open();
    let (requests, connections) = (&shop.manners.requests, &shop.manners.connections);
    let sampler = Sampler::start(&[shop.url()], 100.0, NEVER, "x-release");
    support::wait_until("requests", || requests.load(Ordering::SeqCst) >= 3 * MAX_WORKERS as u64);
    sampler.finish();
    drop(sampler);
    let (asked, opened) = (requests.load(Ordering::SeqCst), connections.load(Ordering::SeqCst));
    // Each worker may be in the middle of its connection when it is over.
    let most = asked / u64::from(REQUESTS_PER_CONNECTION) + MAX_WORKERS as u64;
    assert!(opened <= most && opened < asked, "{opened} connections for {asked} requests");
    let client = Client::new(NEVER);
    for _ in 0..10 {
        assert!(once(&client, &shop.url(), &"X-Release".into(), Connection::New).version.is_some());
    }
    assert_eq!(connections.load(Ordering::SeqCst) - opened, 10);
}

#[test]
fn scattered_requests_keep_their_rate_and_no_step() {
    let gaps = |scattered| {
        let manner = Manner {
            rate: 200.0,
            timeout: NEVER,
            headers: "x-release".into(),
            connection: Connection::New,
            scattered,
        };
        let shop = Shop::open();
        let sampler = Sampler::begin(&[shop.url()], &manner);
        let mut moments = Vec::new();
        support::wait_until("samples", || {
            moments.extend(sampler.take().into_iter().flatten().map(|sample| sample.at.as_microsecond()));
            moments.len() >= 40
        });
        moments.sort_unstable();
        // By the timetable, whatever the machine made of it: 5 ms of time each.
        let first = moments[0];
        moments.iter().map(|at| (at - first) % 5_000).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(gaps(false) <= 3, "even distances are even");
    assert!(gaps(true) >= 20, "and scattered ones are not");
}

/// Answers as one of several servers behind a balancer of connections, each of which takes the next one.
#[test]
fn probes_meet_every_server_behind_one_address() {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                loop {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let answer =
                        format!("HTTP/1.1 200 x\r\nx-release: {}\r\ncontent-length: 2\r\n\r\nok", number % 4);
                    if (&stream).write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let headers = Headers { server: Some("x-release".into()), ..Headers::from("x-release") };
    let sampler = Sampler::start(&[url], 100.0, Duration::from_secs(60), headers);
    let mut met = std::collections::BTreeMap::<String, u32>::new();
    support::wait_until("two hundred answers", || {
        for sample in sampler.take().remove(0) {
            assert_eq!(sample.server, sample.version);
            *met.entry(sample.server.unwrap_or_default()).or_default() += 1;
        }
        met.values().sum::<u32>() >= 200
    });
    let all = met.values().sum::<u32>();
    assert!(met.len() == 4 && met.values().all(|own| own * 10 > all), "{met:?}");
}
