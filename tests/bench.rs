//! What a shift costs on each router, a rollback, and a step: `scripts/bench` runs this, as Markdown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    dead_code
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Split, same_share};

use support::side::Side;
use support::{call, folder, json, router, wait_until};

fn main() {
    let short = std::env::var_os("TRAPKEY_BENCH_SHORT").is_some();
    for kind in routers::ALL {
        let times = match kind.name {
            _ if short => 4,
            "haproxy" => 500,
            _ => 40,
        };
        set_and_read_back(kind.name, times);
    }
    rollback(if short { 1 } else { 15 });
    step(if short { 2 } else { 30 });
}

fn row(what: &str, figure: &str, goal: &str) {
    println!("| {what} | {figure} | {goal} |");
}

/// The value below which a share of the samples lies; `at` in 0..=1.
fn quantile(samples: &mut [f64], at: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = ((samples.len() - 1) as f64 * at).round() as usize;
    samples[index]
}

fn write_plan(at: &Path, router: &str, blue: &Side, green: &Side, rest: &str) {
    let text = format!(
        "version: 1\nservice: shop\nrelease: {{version: \"${{VERSION:-1.1}}\"}}\npromote:\n  router: {router}\n  \
         sides:\n    blue: {{url: \"{}\"}}\n    green: {{url: \"{}\"}}\n{rest}",
        blue.url(),
        green.url()
    );
    std::fs::write(at.join("release.yaml"), text).unwrap();
}

fn open(at: &Path) -> Box<dyn Router> {
    let loaded = Loaded::read(&at.join("release.yaml"), BTreeMap::new()).unwrap();
    routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
}

fn set_and_read_back(kind: &str, times: u32) {
    let at = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let real = router::start(kind, at.path(), blue.port, green.port);
    write_plan(at.path(), &real.router(blue.port, green.port), &blue, &green, "  strategy: blue_green\n");
    let mut router = open(at.path());
    router.check().unwrap();
    let mut took: Vec<f64> = (0..times)
        .map(|turn| {
            let share = if turn % 2 == 0 { 0.25 } else { 0.5 };
            let started = Instant::now();
            router.set(Split { green: share, close_idle_side: false }).unwrap();
            let live = router.read().unwrap();
            let took = started.elapsed().as_secs_f64() * 1e3;
            assert!(same_share(live.green, router.nearest(share)), "{kind}: {live:?}");
            took
        })
        .collect();
    let figure = format!("{:.2} ms, p99 {:.2} ms", quantile(&mut took, 0.5), quantile(&mut took, 0.99));
    row(
        &format!("`{kind}`: set a split and read it back, p50 of {times}"),
        &figure,
        if kind == "haproxy" { "below 0.3 ms" } else { "" },
    );
}

const CANARY: &str = "  probe: {path: /, rate: 200/s, requests: 20}\n  interval: 1s\n  min_samples: 20\n  drain: 1s\n  \
                      steps: [{weight: 50%, bake: 1h}, {weight: 100%}]\n  rollback_when: [{metric: error_rate, is: \"> 5%\"}]\n";

/// Users ask on; green turns bad; from the verdict to the router's read-back, and to the last bad
/// answer that a user got.
fn rollback(times: u32) {
    let (mut read_back, mut last_bad) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let at = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let real = router::start("haproxy", at.path(), blue.port, green.port);
        write_plan(at.path(), &real.router(blue.port, green.port), &blue, &green, CANARY);
        let plan = at.path().to_owned();
        let job = std::thread::spawn(move || call("promote", &plan, &["run"]));
        let state = at.path().join(".trapkey/production/state.json");
        wait_until("the bake", || {
            std::fs::read_to_string(&state).is_ok_and(|text| text.contains("\"phase\":\"baking\""))
        });
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let users: Vec<_> = (0..4)
            .map(|_| {
                let (stop, last, url) = (Arc::clone(&stop), Arc::clone(&last), real.url());
                std::thread::spawn(move || {
                    let client = trapkey::world::http::Client::new(Duration::from_secs(2));
                    while !stop.load(Ordering::SeqCst) {
                        if client.get(&url).is_ok_and(|answer| answer.status == 500) {
                            let now = u64::try_from(trapkey::world::now().as_microsecond()).unwrap();
                            last.fetch_max(now, Ordering::SeqCst);
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        green.answers.fail_every.store(1, Ordering::SeqCst);
        assert_eq!(job.join().unwrap().code, 1);
        stop.store(true, Ordering::SeqCst);
        for user in users {
            user.join().unwrap();
        }
        let rollback = json(&at.path().join("evidence/promote.json"))["promotion"]["rollback"].clone();
        read_back.push(rollback["took_ms"].as_f64().unwrap());
        let decided: jiff::Timestamp = rollback["decided_at"].as_str().unwrap().parse().unwrap();
        let last = last.load(Ordering::SeqCst) as f64 - decided.as_microsecond() as f64;
        last_bad.push((last / 1e3).max(0.0));
    }
    for (what, mut samples, goal) in [
        ("from the verdict to the router's read-back", read_back, "below 100 ms"),
        ("from the verdict to the last bad answer that a user got", last_bad, ""),
    ] {
        let figure =
            format!("{:.1} ms, most {:.1} ms", quantile(&mut samples, 0.5), quantile(&mut samples, 1.0));
        row(&format!("`haproxy`: {what}, p50 of {times}"), &figure, goal);
    }
}

/// One `promote step` in the middle of a bake: its process, state, router, and the probes it waits for.
fn step(times: u32) {
    let at = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let real = router::start("haproxy", at.path(), blue.port, green.port);
    write_plan(at.path(), &real.router(blue.port, green.port), &blue, &green, CANARY);
    assert_eq!(call("promote", at.path(), &["start"]).code, 0);
    let mut took: Vec<f64> = (0..times)
        .map(|_| {
            let started = Instant::now();
            let ended = call("promote", at.path(), &["step"]);
            assert_eq!(ended.code, 0, "{}", ended.stderr);
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let probes = 10.0 / 200.0 * 1.1e3 + 20.0;
    row(
        &format!("`promote step` in a bake, p50 of {times}, {probes:.0} ms of it for ten fresh probes"),
        &format!("{:.0} ms, p99 {:.0} ms", quantile(&mut took, 0.5), quantile(&mut took, 0.99)),
        "below 200 ms and the metric queries",
    );
}
