//! The demo's own files: its plan is valid, its shop and its traffic driver do what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use trapkey::plan::{Loaded, Strategy};

use crate::support::postgres::Postgres;
use crate::support::{self, free_port, wait_until};

#[test]
fn the_plan_of_the_demo_is_valid() {
    let set: BTreeMap<String, String> = [
        ("VERSION", "1.10"),
        ("PREVIOUS", "1.0"),
        ("OLD", "green"),
        ("NEW", "blue"),
        ("OLD_URL", "http://127.0.0.1:2"),
        ("NEW_URL", "http://127.0.0.1:1"),
        ("ENTRY", "http://127.0.0.1:3"),
        ("HAPROXY_SOCKET", "/tmp/haproxy.sock"),
        ("DATABASE_URL", "postgres://shop:secret@127.0.0.1:4/shop"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let loaded = Loaded::read(&root().join("demo/release.yaml"), set).unwrap();
    let plan = loaded.plan;
    assert_eq!(plan.release.version, "1.10");
    let promote = plan.promote.unwrap();
    assert_eq!(promote.strategy, Strategy::Canary);
    let steps: Vec<String> = promote.steps.iter().map(|s| s.weight.to_string()).collect();
    assert_eq!(steps, ["5 %", "25 %", "50 %", "100 %"]);
    assert_eq!(promote.sides.green.url.value, "http://127.0.0.1:1");
    // Enough samples for a judgement must fit into the shortest bake.
    let shortest = promote.steps.iter().filter_map(|s| s.bake).min().unwrap();
    assert!(promote.probe.rate.0 * shortest.0.as_secs_f64() >= 2.0 * promote.min_samples.unwrap() as f64);
    assert!(Path::new(&root().join("demo").join(&promote.hooks.deploy[0].value)).exists());
    assert!(!plan.preflight.unwrap().checks.is_empty());
    assert_eq!(plan.snapshot.unwrap().sources.len(), 3);
    assert!(!plan.verify.unwrap().baseline.unwrap().probes.is_empty());
}

#[test]
fn the_shop_answers_and_keeps_its_orders() {
    let shop = Shop::open("demo_orders", &[]);
    let mut line = shop.connect();
    let page = ask(&mut line, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!((page.status, page.release.as_str()), (200, "7.1"));
    assert!(page.body.contains("Brass key"), "{}", page.body);
    assert_eq!(ask(&mut line, "GET /health HTTP/1.1\r\nHost: shop\r\n\r\n").status, 200);
    let first = ask(&mut line, &order("{\"item\":\"Rim lock\",\"total_cents\":5900}"));
    assert_eq!((first.status, first.body.as_str()), (201, "{\"id\":1}\n"));
    for bad in ["", "{}", "{\"item\":\"\",\"total_cents\":1}", "{\"item\":\"x\",\"total_cents\":0}", "[1"] {
        let answer = ask(&mut line, &order(bad));
        assert_eq!((answer.status, answer.release.as_str()), (400, "7.1"), "{bad}");
    }
    assert_eq!(ask(&mut line, "GET /orders/count HTTP/1.1\r\nHost: shop\r\n\r\n").body, "{\"orders\":1}\n");
    assert_eq!(ask(&mut line, "GET /nothing HTTP/1.1\r\nHost: shop\r\n\r\n").status, 404);
    assert_eq!(ask(&mut line, "DELETE / HTTP/1.1\r\nHost: shop\r\n\r\n").status, 405);
    // The order is in the table itself, with what was ordered.
    let mut db = postgres::Client::connect(&shop.database, postgres::NoTls).unwrap();
    let row = db.query_one("SELECT item, total_cents FROM orders", &[]).unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), ("Rim lock".into(), 5900));
}

#[test]
fn the_shop_is_ill_while_its_table_is_locked_away_and_well_again_afterwards() {
    let shop = Shop::open("demo_ill", &[]);
    let mut line = shop.connect();
    let health = "GET /health HTTP/1.1\r\nHost: shop\r\n\r\n";
    assert_eq!(ask(&mut line, health).status, 200);
    let name = "demo_ill";
    let admin = shop.server.url("postgres");
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    Postgres::execute(&admin, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    Postgres::execute(&admin, &end);
    wait_until("the shop to be ill", || ask(&mut line, health).status == 503);
    assert_eq!(ask(&mut line, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n").status, 200);
    Postgres::execute(&admin, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    wait_until("the shop to be well again", || ask(&mut line, health).status == 200);
}

#[test]
fn the_shop_fails_exactly_the_asked_share_and_never_its_health() {
    let shop = Shop::open("demo_share", &["--fail-share", "3%"]);
    let mut line = shop.connect();
    let mut failures = Vec::new();
    for n in 1..=1000 {
        match ask(&mut line, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n").status {
            200 => {}
            500 => failures.push(n),
            other => panic!("status {other}"),
        }
        if n % 10 == 0 {
            assert_eq!(ask(&mut line, "GET /health HTTP/1.1\r\nHost: shop\r\n\r\n").status, 200);
        }
    }
    assert_eq!(failures.len(), 30);
    assert_eq!(failures[..3], [34, 67, 100]);
}

#[test]
fn the_shop_is_slow_when_asked_to_be() {
    let shop = Shop::open("demo_slow", &["--delay", "80ms"]);
    let mut line = shop.connect();
    let started = Instant::now();
    assert_eq!(ask(&mut line, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n").status, 200);
    assert!(started.elapsed() >= Duration::from_millis(80));
    // Health is not slowed, or this would not end.
    let shop = Shop::open("demo_slower", &["--delay", "600s"]);
    assert_eq!(ask(&mut shop.connect(), "GET /health HTTP/1.1\r\nHost: shop\r\n\r\n").status, 200);
}

#[test]
fn the_shop_keeps_connections_and_takes_requests_in_pieces_or_together() {
    let shop = Shop::open("demo_wire", &[]);
    let mut line = shop.connect();
    // A head in three pieces, slower than the shop's own glance at its clock.
    for piece in ["GET / HT", "TP/1.1\r\nHos", "t: shop\r\n\r\n"] {
        line.get_mut().write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(read_answer(&mut line).unwrap().status, 200);
    // Two requests in one packet are answered in their order.
    let two = format!(
        "{}GET /nothing HTTP/1.1\r\nHost: shop\r\n\r\n",
        order("{\"item\":\"Sign\",\"total_cents\":1}")
    );
    line.get_mut().write_all(two.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut line).unwrap().status, 201);
    let second = read_answer(&mut line).unwrap();
    assert_eq!((second.status, second.keep_alive), (404, true));
    // Whoever asks for a close gets one.
    let last = ask(&mut line, "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    assert!(!last.keep_alive);
    assert_eq!(line.read(&mut [0; 1]).unwrap(), 0);
    let mut line = shop.connect();
    assert_eq!(ask(&mut line, "this is no request\r\n\r\n").status, 400);
}

#[test]
fn a_shop_that_closes_answers_everything_that_reached_it() {
    let mut shop = Shop::open("demo_close", &["--delay", "10ms"]);
    let answered = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let customers: Vec<_> = (0..8)
        .map(|_| {
            let (port, answered, ended) = (shop.port, Arc::clone(&answered), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut line: Option<BufReader<TcpStream>> = None;
                loop {
                    // Nobody listens any more: this customer comes too late, and nothing is lost.
                    let Some(mut open) = line.take().or_else(|| connect(port).ok()) else { return };
                    let answer = ask(&mut open, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
                    assert_eq!(answer.status, 200);
                    answered.fetch_add(1, Ordering::SeqCst);
                    if answer.keep_alive {
                        line = Some(open);
                    } else {
                        assert!(ended.load(Ordering::SeqCst), "closed without a reason");
                        return;
                    }
                }
            })
        })
        .collect();
    wait_until("some answers", || answered.load(Ordering::SeqCst) > 100);
    ended.store(true, Ordering::SeqCst);
    shop.terminate();
    for customer in customers {
        customer.join().unwrap();
    }
    let status = shop.process.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(connect(shop.port).is_err());
}

#[test]
fn the_traffic_driver_keeps_its_rate_and_counts_what_failed() {
    let shop = Shop::open("demo_traffic", &["--fail-share", "10%"]);
    let folder = support::folder();
    let record = folder.path().join("requests.csv");
    let ended = support::run(
        Command::new(example("traffic"))
            .args(["--to", &format!("127.0.0.1:{}", shop.port), "--rate", "200/s", "--during", "2s"])
            .args(["--connections", "8", "--renew", "20", "--timeout", "170s", "--record"])
            .arg(&record),
    );
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(summary["requests"], 400);
    assert_eq!(summary["failed"], 40);
    assert_eq!(summary["errors"]["status"], 40);
    assert_eq!(summary["releases"]["7.1"]["requests"], 400);
    let lines: Vec<String> = std::fs::read_to_string(&record).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 401);
    let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count(",POST,"), count(",500,7.1,")), (40, 40));
    // Every order that was confirmed is stored, and no other.
    let mut db = postgres::Client::connect(&shop.database, postgres::NoTls).unwrap();
    let stored: i64 = db.query_one("SELECT count(*) FROM orders", &[]).unwrap().get(0);
    assert_eq!(stored, i64::try_from(count(",POST,201,")).unwrap());
    // They were due at 200 a second, and none was sent before.
    let times =
        |line: &String| -> Vec<u64> { line.split(',').take(2).map(|us| us.parse().unwrap()).collect() };
    let times: Vec<Vec<u64>> = lines[1..].iter().map(times).collect();
    assert!(times.iter().all(|one| one[1] >= one[0]), "{times:?}");
    let due: BTreeSet<u64> = times.iter().map(|one| one[0]).collect();
    assert_eq!((due.len(), due.last().unwrap() - due.first().unwrap()), (400, 1_995_000));
}

#[test]
fn the_traffic_driver_counts_latency_from_the_moment_a_request_was_due() {
    let mut shop = Shop::open("demo_stall", &[]);
    // Nothing is answered from the first request on; the system takes the connections all the same.
    shop.signal("-STOP");
    let driver = Command::new(example("traffic"))
        .args([
            "--timeout",
            "170s",
            "--to",
            &format!("127.0.0.1:{}", shop.port),
            "--rate",
            "100/s",
            "--during",
            "3s",
            "--connections",
            "4",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the first request", || waiting_bytes(shop.port) > 0);
    std::thread::sleep(Duration::from_secs(2));
    shop.signal("-CONT");
    let output = driver.wait_with_output().unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary["requests"].as_u64(), summary["failed"].as_u64()), (Some(300), Some(0)));
    // Two thirds of the requests were due while the shop stood still; only one of each connection was sent.
    let p95 = summary["p95_ms"].as_f64().unwrap();
    assert!(p95 >= 1500.0, "{p95}");
    shop.terminate();
}

/// How many bytes have come for a port of this machine that nobody has read yet.
fn waiting_bytes(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let here = format!("0100007F:{port:04X}");
    let all = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Those that listen count connections there.
    let open = all.filter(|words| words.get(1) == Some(&here.as_str()) && words.get(3) != Some(&"0A"));
    open.map(|words| u64::from_str_radix(words[4].split_once(':').unwrap().1, 16).unwrap()).sum()
}

/// A running shop with a database of its own.
struct Shop {
    port: u16,
    process: Child,
    database: String,
    server: Arc<Postgres>,
}

impl Shop {
    fn open(database: &str, flags: &[&str]) -> Self {
        let server = Postgres::shared();
        let database = server.database(database);
        Postgres::execute(
            &database,
            "CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL, total_cents bigint NOT NULL, \
             created_at timestamptz NOT NULL DEFAULT now())",
        );
        let port = free_port();
        let process = Command::new(example("shop"))
            .args(["--port", &port.to_string(), "--version", "7.1"])
            .args(flags)
            .env("DATABASE_URL", &database)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the shop", || connect(port).is_ok());
        Self { port, process, database, server }
    }

    fn connect(&self) -> BufReader<TcpStream> {
        connect(self.port).unwrap()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn terminate(&mut self) {
        self.signal("-TERM");
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // It may have ended already, as some tests want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the shop said.
struct Answer {
    status: u16,
    release: String,
    keep_alive: bool,
    body: String,
}

fn connect(port: u16) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(170)))?;
    Ok(BufReader::new(stream))
}

fn ask(line: &mut BufReader<TcpStream>, message: &str) -> Answer {
    line.get_mut().write_all(message.as_bytes()).unwrap();
    read_answer(line).unwrap()
}

fn read_answer(line: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if line.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let header = |name: &str| {
        head.lines()
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map_or_else(|| panic!("no {name} in {head}"), |(_, value)| value.to_owned())
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    line.read_exact(&mut body)?;
    Ok(Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        release: header("x-release"),
        keep_alive: header("connection") == "keep-alive",
        body: String::from_utf8(body).unwrap(),
    })
}

fn order(body: &str) -> String {
    format!("POST /order HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An example beside the binaries; `cargo test` builds both.
fn example(name: &str) -> PathBuf {
    let path = support::binary("preflight").parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    path
}

/// What a demo leaves behind, as small as it can be: 1.1 promoted, then 1.2 rolled back at second 20.
struct Left {
    folder: tempfile::TempDir,
    requests: Vec<String>,
}

impl Left {
    fn new() -> Self {
        let folder = support::folder();
        // Ten requests a second: 1.0 until second 5, 1.1 afterwards; 1.2 has every tenth from 17 to 20.
        let requests = (0..250_u64)
            .map(|n| {
                let at = START + n * 100_000;
                let on_bad = (170..=200).contains(&n) && n % 10 == 0;
                let release = match n {
                    _ if on_bad => "1.2",
                    0..50 => "1.0",
                    _ => "1.1",
                };
                match n {
                    190 => line(at, "GET", 500, release, "status"),
                    _ if n % 10 == 3 => line(at, "POST", 201, release, ""),
                    _ => line(at, "GET", 200, release, ""),
                }
            })
            .collect();
        let left = Self { folder, requests };
        let us = |seconds: u64| START + seconds * 1_000_000;
        let file = |name: &str, text: &str| std::fs::write(left.folder.path().join(name), text).unwrap();
        file("marks.tsv", &format!("good\t{}\nbad\t{}\nend\t{}\n", us(1), us(12), us(25)));
        file("timings.tsv", "good\tpromote run\t0\t0\t9000\nbad\tpromote run\t1\t1\t4000\n");
        for (name, version, verdict, outcome) in
            [("good", "1.1", "pass", "promoted"), ("bad", "1.2", "fail", "rolled_back")]
        {
            let site = left.folder.path().join(name);
            std::fs::create_dir(&site).unwrap();
            let write = |tool: &str, verdict: &str, body: serde_json::Value| {
                let mut document = serde_json::json!({
                    "schema": format!("trapkey/{tool}/v1"), "tool": {"name": tool, "version": "0.1.0"},
                    "release": {"service": "shop", "version": version, "environment": "demo"},
                    "plan": null, "needs": [], "verdict": verdict, "summary": "said so", "findings": [],
                    "run": {"started_at": time(us(1)), "finished_at": time(us(2)), "host": "h"},
                });
                let fields = document.as_object_mut().unwrap();
                fields.extend(body.as_object().unwrap().clone());
                std::fs::write(site.join(format!("{tool}.json")), document.to_string()).unwrap();
            };
            let rolled_back = name == "bad";
            let step = |weight: f64, reached: bool| {
                serde_json::json!({"weight": weight, "bake_s": 5.0, "ended_at": null, "verdict": null,
                    "began_at": reached.then(|| time(us(17)))})
            };
            let side = serde_json::json!({"url": "http://127.0.0.1:1"});
            let mut promotion = serde_json::json!({
                "epoch": 1, "strategy": "canary", "blue": side, "green": side, "outcome": outcome,
                "router": {"kind": "haproxy", "target": "s", "by_hand": []},
                "steps": [step(0.05, true), step(1.0, !rolled_back)],
                "shifts": [{"why": "step 1", "at": time(us(17)), "asked": 0.05, "read_back": 0.05,
                    "set_ms": 1.0, "probed": null}],
                "judgements": [], "series": [], "decisions": [], "hooks": [], "weight": 0.0,
            });
            if rolled_back {
                promotion["rollback"] = serde_json::json!({"decided_at": time(us(20)),
                    "read_back_at": time(us(20)), "drained_at": null, "took_ms": 3.0});
            }
            write("promote", verdict, serde_json::json!({"promotion": promotion}));
            let counts = serde_json::json!({"total": 1, "passed": 1, "closing": 0, "warnings": 0});
            let body = serde_json::json!({"live": "blue", "after_rollback": rolled_back,
                "comparisons": [], "counts": counts});
            write("verify", "pass", body);
            let body = serde_json::json!({"outcome": outcome, "headline": "so it went", "outputs": []});
            write("report", "pass", body);
            for name in ["report.html", "runbook.md", "junit.xml", "summary.md"] {
                std::fs::write(site.join(name), "x").unwrap();
            }
        }
        left
    }

    fn claims(&self, orders: u64) -> support::Ended {
        let head = "due_us,sent_us,done_us,method,status,release,retried,error";
        let text = format!("{head}\n{}\n", self.requests.join("\n"));
        std::fs::write(self.folder.path().join("requests.csv"), text).unwrap();
        support::run(
            Command::new(example("claims"))
                .args(["--orders", &orders.to_string(), "--seconds", "25", "--site"])
                .arg(self.folder.path()),
        )
    }
}

/// The first moment of the recorded traffic, in µs since 1970.
const START: u64 = 1_800_000_000_000_000;

fn time(us: u64) -> String {
    jiff::Timestamp::from_microsecond(us.try_into().unwrap()).unwrap().to_string()
}

fn line(at: u64, method: &str, status: u16, release: &str, error: &str) -> String {
    format!("{at},{at},{},{method},{status},{release},0,{error}", at + 5000)
}

#[test]
fn the_claims_hold_on_a_demo_that_went_as_it_should() {
    let left = Left::new();
    let ended = left.claims(25);
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(!ended.stdout.contains('✗'), "{}", ended.stdout);
    let claims = support::json(&left.folder.path().join("claims.json"));
    assert_eq!(claims["held"], true);
    // The last request on 1.2 was sent at the verdict and took 5 ms.
    assert_eq!(claims["verdict_to_last_request_ms"], 5.0);
    assert_eq!((claims["requests"].as_u64(), claims["failed"].as_u64()), (Some(250), Some(1)));
}

#[test]
fn each_claim_fails_when_it_is_not_so() {
    let spoilt = |spoil: &dyn Fn(&mut Left), orders: u64, named: &str| {
        let mut left = Left::new();
        spoil(&mut left);
        let ended = left.claims(orders);
        assert_eq!(ended.code, 1, "{named}: {}{}", ended.stdout, ended.stderr);
        let broken: Vec<&str> = ended.stdout.lines().filter(|l| l.starts_with('✗')).collect();
        assert!(broken.len() == 1 && broken[0].contains(named), "{named}: {broken:#?}");
        assert_eq!(support::json(&left.folder.path().join("claims.json"))["held"], false);
    };
    let at = |n: u64| START + n * 100_000;
    spoilt(&|_| {}, 24, "25 orders were confirmed, the database holds 24");
    spoilt(&|l| l.requests[30] = line(at(30), "GET", 503, "1.0", "status"), 25, "1 of 110 requests failed");
    spoilt(&|l| l.requests[115] = line(at(115), "GET", 200, "1.0", ""), 25, "1.1 answered 9 of");
    spoilt(&|l| l.requests[180] = line(at(180), "GET", 0, "", "closed"), 25, "1 of them not on 1.2");
    spoilt(&|l| l.requests[150] = line(at(150), "GET", 500, "1.2", "status"), 25, "1 outside the first step");
    spoilt(&|l| l.requests[215] = line(at(215), "GET", 200, "1.2", ""), 25, "after the verdict (below 1 s)");
    let gone = |l: &mut Left| std::fs::remove_file(l.folder.path().join("bad/junit.xml")).unwrap();
    spoilt(&gone, 25, "missing: junit.xml");
}

#[test]
fn the_action_hands_its_arguments_on_as_they_are() {
    let folder = support::folder();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let tool = bin.join("promote");
    std::fs::write(
        &tool,
        "#!/bin/sh\nprintf '<%s>' \"$@\"\necho verdict=fail >>\"$GITHUB_OUTPUT\"\nexit 1\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&tool, mode).unwrap();
    let outputs = folder.path().join("outputs");
    let action = |tool: &str| {
        support::run(
            Command::new(root().join("scripts/action"))
                .env("ACTION_TOOL", tool)
                .env("ACTION_ARGS", "run\r\n\n--note\nit's $(id) `id` \"a  b\" *; true\n")
                .env("ACTION_SET", "VERSION=1 2\n")
                .env("ACTION_BIN_DIR", &bin)
                .env("GITHUB_OUTPUT", &outputs),
        )
    };
    let ended = action("promote");
    let expected = "<run><--note><it's $(id) `id` \"a  b\" *; true><--set><VERSION=1 2>";
    assert_eq!((ended.code, ended.stdout.as_str()), (1, expected), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(&outputs).unwrap(), "verdict=fail\n", "the tool has the word");
    for wrong in ["", "rm", "../promote", "verify"] {
        assert_eq!(action(wrong).code, 2, "{wrong}");
    }
}
