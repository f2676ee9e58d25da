//! Releases in a row under a steady load: no user may notice one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;

/// Requests per second through the router.
const RATE: u64 = 2_000;
const CLIENTS: u64 = 20;

/// What the users saw.
#[derive(Debug, Default)]
struct Seen {
    good: AtomicU64,
    /// A kept connection that the server had closed while it was idle: a browser sends such a request
    /// again by itself.
    closed_idle: AtomicU64,
    failed: AtomicU64,
    /// The first failures, for the message.
    failures: Mutex<Vec<String>>,
    slowest_us: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn fail(&self, why: String) {
        self.failed.fetch_add(1, Ordering::SeqCst);
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < 5 {
            failures.push(why);
        }
    }
}

/// Users with kept connections, at a steady rate whatever the answers take.
struct Users {
    seen: Arc<Seen>,
    threads: Vec<std::thread::JoinHandle<()>>,
    began: Instant,
}

impl Users {
    fn start(url: &str) -> Self {
        let seen = Arc::new(Seen::default());
        let address = url.trim_start_matches("http://").to_owned();
        let began = Instant::now();
        let threads = (0..CLIENTS)
            .map(|number| {
                let (seen, address) = (Arc::clone(&seen), address.clone());
                std::thread::spawn(move || user(&address, &seen, began, number))
            })
            .collect();
        Self { seen, threads, began }
    }

    /// Ends the load and says what was seen: requests, kept connections that were closed while idle,
    /// failures, and the requests per second that were really sent.
    fn finish(self) -> (Arc<Seen>, f64) {
        self.seen.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let rate = self.seen.good.load(Ordering::SeqCst) as f64 / self.began.elapsed().as_secs_f64();
        (self.seen, rate)
    }
}

fn user(address: &str, seen: &Seen, began: Instant, number: u64) {
    let every = Duration::from_micros(1_000_000 * CLIENTS / RATE);
    let mut due = began + every / u32::try_from(CLIENTS).unwrap() * u32::try_from(number).unwrap();
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !seen.stop.load(Ordering::SeqCst) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut again = kept.is_some();
        loop {
            match ask(address, &mut kept) {
                Ok(200) => {
                    seen.good.fetch_add(1, Ordering::SeqCst);
                    let took = u64::try_from(due.elapsed().as_micros()).unwrap();
                    seen.slowest_us.fetch_max(took, Ordering::SeqCst);
                }
                Ok(status) => seen.fail(format!("answered {status}")),
                Err(Broken::Idle) if again => {
                    seen.closed_idle.fetch_add(1, Ordering::SeqCst);
                    again = false;
                    continue;
                }
                Err(broken) => seen.fail(format!("{broken:?}")),
            }
            break;
        }
        due += every;
    }
}

#[derive(Debug)]
enum Broken {
    /// Closed before the first byte of an answer.
    Idle,
    /// Anything else.
    #[expect(dead_code, reason = "shown by Debug")]
    Failed(String),
}

fn ask(address: &str, kept: &mut Option<BufReader<TcpStream>>) -> Result<u16, Broken> {
    let failed = |e: std::io::Error| Broken::Failed(e.to_string());
    let mut reader = if let Some(reader) = kept.take() {
        reader
    } else {
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        BufReader::new(stream)
    };
    if reader.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").is_err() {
        return Err(Broken::Idle);
    }
    let mut first = String::new();
    match reader.read_line(&mut first) {
        Ok(0) => return Err(Broken::Idle),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset && first.is_empty() => {
            return Err(Broken::Idle);
        }
        Err(e) => return Err(failed(e)),
        Ok(_) => {}
    }
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let (mut length, mut close) = (0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).map_err(failed)? == 0 {
            return Err(Broken::Failed("cut in the middle of an answer".into()));
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().unwrap_or(0);
        }
        close |= line == "connection: close";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).map_err(failed)?;
    if !close {
        *kept = Some(reader);
    }
    Ok(status)
}

/// So many releases, each promoted and then undone, without a failed request, and with the router's
/// weights at every end as the journal has them.
fn releases_in_a_row(kind: &str, releases: u64) {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let server = router::start(kind, folder.path(), blue.port, green.port);
    let more = "  strategy: blue_green\n  keep_old: 1h\n";
    let text =
        plan(&server.router(blue.port, green.port), &blue, &green, "[{weight: 25%}, {weight: 100%}]", more)
            .replace("drain: 1s", "drain: 200ms");
    std::fs::write(folder.path().join("release.yaml"), text).unwrap();
    let loaded = trapkey::plan::Loaded::read(&folder.path().join("release.yaml"), BTreeMap::new()).unwrap();
    let mut live = trapkey::routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap();
    let users = Users::start(&server.url());
    for number in 0..releases {
        for (command, code, share) in [("run", 0, 1.0), ("undo", 1, 0.0)] {
            let ended = call("promote", folder.path(), &[command, "--set", &format!("VERSION=2.{number}")]);
            assert_eq!(ended.code, code, "{kind}, {command} {number}: {}", ended.stderr);
            let read = live.read().unwrap().green;
            assert!((read - share).abs() < 0.001, "{kind}, {command} {number}: {read}");
            let journal =
                std::fs::read_to_string(folder.path().join(".trapkey/production/journal.jsonl")).unwrap();
            let shift = journal.lines().rev().map(|l| serde_json::from_str::<Value>(l).unwrap());
            let last = shift.into_iter().find_map(|line| line["does"]["shift"].as_f64());
            assert_eq!(last, Some(share), "{kind}, {command} {number}: the journal's last weight");
        }
    }
    let (seen, rate) = users.finish();
    let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
    figure(&format!(
        "{kind}: {releases} promotions and {releases} rollbacks under {rate:.0} requests/s: {} good, {} failed, {} kept connections closed while idle, slowest {:.1} ms",
        count(&seen.good),
        count(&seen.failed),
        count(&seen.closed_idle),
        count(&seen.slowest_us) as f64 / 1e3
    ));
    assert_eq!(count(&seen.failed), 0, "{kind}: {:?}", seen.failures.lock().unwrap());
    assert!(count(&seen.good) > 500, "{kind}: hardly anybody asked");
}

#[test]
fn releases_in_a_row_behind_haproxy_cost_no_request() {
    releases_in_a_row("haproxy", rounds(5));
}

#[test]
fn releases_in_a_row_behind_nginx_cost_no_request() {
    releases_in_a_row("nginx", rounds(5));
}
