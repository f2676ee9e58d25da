//! Releases in a row under a steady load: no user may notice one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::support::visitor::{Broken, Visitor};

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
        let port = url.rsplit_once(':').unwrap().1.parse().unwrap();
        let began = Instant::now();
        let threads = (0..CLIENTS)
            .map(|number| {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || user(port, &seen, began, number))
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

fn user(port: u16, seen: &Seen, began: Instant, number: u64) {
    let every = Duration::from_micros(1_000_000 * CLIENTS / RATE);
    let mut due = began + every / u32::try_from(CLIENTS).unwrap() * u32::try_from(number).unwrap();
    let mut visitor = Visitor::default();
    while !seen.stop.load(Ordering::SeqCst) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut again = visitor.keeps_one();
        loop {
            match visitor.ask(port, "/", ANSWER) {
                Ok((200, _)) => {
                    seen.good.fetch_add(1, Ordering::SeqCst);
                    let took = u64::try_from(due.elapsed().as_micros()).unwrap();
                    seen.slowest_us.fetch_max(took, Ordering::SeqCst);
                }
                Ok((status, _)) => seen.fail(format!("answered {status}")),
                Err(Broken::BeforeAnswer) if again => {
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
