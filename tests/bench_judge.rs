//! What the judge's rank statistics cost, beside scipy: `scripts/bench` runs this, as Markdown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::{Value, json};
use trapkey::judge::{Alternative, Method, Sample, mann_whitney_of, shift_of};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.needs/bin/python");

fn main() -> ExitCode {
    // One size in a process of its own, so that its peak memory can be read.
    if let Some(folder) = std::env::var_os("TRAPKEY_BENCH_SAMPLES") {
        println!("{}", ours(Path::new(&folder)));
        return ExitCode::SUCCESS;
    }
    if !Path::new(PYTHON).exists() {
        println!("{PYTHON} is missing: run scripts/install-needs");
        return ExitCode::FAILURE;
    }
    let short = std::env::var_os("TRAPKEY_BENCH_SHORT").is_some();
    let sizes: &[usize] = if short { &[1_000, 10_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    println!(
        "| samples a side | latencies | test, shift and interval | peak memory | `mannwhitneyu` alone | a sort alone | peak memory |"
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    for size in sizes {
        for (what, unit) in [("to the nanosecond", 1e6), ("to the 0.01 ms", 1e2)] {
            row(*size, what, unit);
        }
    }
    ExitCode::SUCCESS
}

fn row(size: usize, what: &str, per_ms: f64) {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = 1947;
    for (name, slower) in [("before", 1.0), ("now", 1.01)] {
        let bytes: Vec<u8> =
            (0..size).flat_map(|_| latency(&mut dice, slower, per_ms).to_le_bytes()).collect();
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let ours =
        json_of(Command::new(std::env::current_exe().unwrap()).env("TRAPKEY_BENCH_SAMPLES", folder.path()));
    let runs = if size < 1_000_000 { "9" } else { "5" };
    let peer = json_of(
        Command::new(PYTHON)
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/judge/peer.py"))
            .args([folder.path().join("before"), folder.path().join("now")])
            .arg(runs)
            .env("OMP_NUM_THREADS", "1"),
    );
    let figure = |of: &Value, key: &str| of[key].as_f64().unwrap();
    for key in ["u", "p_value"] {
        let (seen, expected) = (figure(&ours, key), figure(&peer, key));
        assert!((seen - expected).abs() <= 1e-9 * expected, "{size} {what}: {key} {seen}, scipy {expected}");
    }
    println!(
        "| {size} | {what} | {:.2} ms | {:.0} MB | {:.2} ms | {:.2} ms | {:.0} MB |",
        figure(&ours, "ms"),
        figure(&ours, "peak_mb"),
        figure(&peer, "test_ms"),
        figure(&peer, "sort_ms"),
        figure(&peer, "peak_mb"),
    );
}

/// A latency with a long tail, in ms: xorshift, exponential beyond 2 ms.
fn latency(dice: &mut u64, slower: f64, per_ms: f64) -> f64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    let share = (*dice >> 11) as f64 / (1_u64 << 53) as f64;
    ((2.0 - 30.0 * (1.0 - share).ln()) * slower * per_ms).round() / per_ms
}

fn json_of(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ours(folder: &Path) -> Value {
    let read = |name: &str| -> Vec<f64> {
        std::fs::read(folder.join(name))
            .unwrap()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| f64::from_le_bytes(*bytes))
            .collect()
    };
    let (before, now) = (read("before"), read("now"));
    let mut figures = None;
    let mut took: Vec<f64> = (0..9)
        .map(|_| {
            let began = Instant::now();
            let (a, b) = (Sample::of(&before).unwrap(), Sample::of(&now).unwrap());
            let test = mann_whitney_of(&a, &b, Alternative::TwoSided, Method::Auto);
            let shift = shift_of(&a, &b, 0.95).unwrap();
            figures = Some((test, shift));
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    let (test, shift) = figures.unwrap();
    let interval = shift.interval.unwrap();
    assert!(interval.low <= shift.estimate && shift.estimate <= interval.high);
    json!({"ms": took[took.len() / 2], "peak_mb": peak_mb(), "u": test.u, "p_value": test.p_value})
}

/// The most memory that this process has had.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
}
