//! What a release is judged by, from the plan to the way back: sources, rules, and the record of it all.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use super::*;
use crate::support::answering::{Answering, Reply};
use crate::support::prometheus::{Exporter, Prometheus};

mod foreseen;
mod logs;
mod replayed;
mod rules;
mod sources;

/// A stage with its own rules instead of the usual ones; `rules` are lines of the promote section.
fn judged(steps: &str, rules: &str) -> Stage {
    let stage = Stage::new(steps, "");
    with_rules(stage.path(), rules);
    stage
}

fn with_rules(folder: &Path, rules: &str) {
    let path = folder.join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let usual = text.lines().find(|line| line.starts_with("  rollback_when:")).unwrap().to_owned();
    std::fs::write(&path, text.replace(&format!("{usual}\n"), rules)).unwrap();
}

/// Orders of a shop on both sides, by a real Prometheus.
struct Orders {
    prometheus: Prometheus,
    /// What green sells, in percent of blue.
    green: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Orders {
    fn start() -> Self {
        let exporter = Exporter::start(&Self::text(0, 100));
        let (green, stop) = (Arc::new(AtomicU32::new(100)), Arc::new(AtomicBool::new(false)));
        let (percent, ended) = (Arc::clone(&green), Arc::clone(&stop));
        let prometheus = Prometheus::start(&[exporter.target()]);
        std::thread::spawn(move || {
            let mut number = 0;
            while !ended.load(Ordering::SeqCst) {
                number += 1;
                exporter.set(&Self::text(number, percent.load(Ordering::SeqCst)));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        prometheus.wait_for("orders_per_minute");
        Self { prometheus, green, stop }
    }

    /// Two shops on each side; they sell a little more and a little less.
    fn text(number: u32, green: u32) -> String {
        let noise = |of: u32| f64::from(number.wrapping_mul(of) % 17) / 10.0;
        let shop = |side: &str, name: &str, level: f64| {
            format!("orders_per_minute{{side=\"{side}\",shop=\"{name}\"}} {level}\n")
        };
        let share = f64::from(green) / 100.0;
        [
            shop("blue", "north", 500.0 + noise(7)),
            shop("blue", "south", 300.0 + noise(11)),
            shop("green", "north", share * 500.0 + noise(13)),
            shop("green", "south", share * 300.0 + noise(5)),
        ]
        .concat()
    }

    /// The plan's metric, by a query.
    fn metric(&self, query: &str) -> String {
        format!(
            "  metrics:\n    - name: orders_per_minute\n      kind: prometheus\n      target: {}\n      worse: lower\n      \
             step: 500ms\n      delay: 500ms\n      timeout: 60s\n      retries: 0\n      with: {{query: '{query}'}}\n",
            self.prometheus.url()
        )
    }

    /// Metric, trigger and the rest of the rules.
    fn rules(&self, more: &str) -> String {
        let metric = self.metric("sum(orders_per_minute{side=\"{{ side }}\"})");
        format!(
            "{metric}  rollback_when:\n    - {{metric: orders_per_minute, worse_than_baseline_by: 5%}}\n    \
             - {{metric: error_rate, is: \"> 5%\"}}\n{more}"
        )
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// The newest judgement's record of a metric at a source.
fn newest(promotion: &Value, metric: &str, source: &str) -> Value {
    let all = promotion["judgements"].as_array().unwrap();
    let metrics = all.last().unwrap()["metrics"].as_array().unwrap();
    metrics.iter().find(|m| m["metric"] == metric && m["source"] == source).cloned().unwrap_or_else(|| {
        panic!("no {metric} at {source}: {metrics:#?}");
    })
}

/// Every verdict on record is reached again.
fn assert_replays(folder: &Path) {
    let again = call("promote", folder, &["replay"]);
    assert_eq!(again.code, 0, "{}{}", again.stdout, again.stderr);
    assert!(again.stdout.contains("every verdict is reached again"), "{}", again.stdout);
    assert!(again.stdout.contains("and so again"), "{}", again.stdout);
}

/// The lines of the samples beside the document.
fn samples(folder: &Path) -> Vec<Value> {
    let bytes = std::fs::read(folder.join("evidence/promote.samples.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Requests of users through the router, one after another.
fn users(url: &str, requests: usize) {
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..requests {
        client.get(url).unwrap();
    }
}
