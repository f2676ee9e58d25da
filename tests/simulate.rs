//! How often the judge is wrong: thousands of simulated bakes, each looked at twenty times, judged by
//! Trapkey's rules, by Kayenta's and by plain thresholds.
//!
//! `scripts/simulate [RUNS]` runs it; the table stands in docs/judge.md.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use trapkey::judge::{Batch, Decision, Given, Judge, Sorter, bin_ms};
use trapkey::plan::Promote;

/// A bake of five minutes at ten requests a second and side, looked at every 15 s.
const BAKE_MS: i64 = 300_000;
const REQUESTS: i64 = 3_000;
const LOOKS: i64 = 20;

/// Latencies are lognormal around this median, in ms, with this deviation of their logarithm.
const MEDIAN: f64 = 20.0;
const DEVIATION: f64 = 0.5;
/// Their 95th percentile.
const P95: f64 = 45.5;
/// Errors of a healthy side.
const ERRORS: f64 = 0.001;

fn main() {
    let runs = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(10_000_usize);
    println!(
        "{runs} runs each for no change, {} for a change; {REQUESTS} requests a side, {LOOKS} looks.\n",
        runs.min(2_000)
    );
    let began = Instant::now();
    // One cell alone, for whoever tries something: `Trapkey: p95 | correlated`.
    let only = std::env::args().skip(1).find(|word| word.contains(':'));
    let kept = no_change(runs, only.as_deref());
    if only.is_none() {
        changes(runs.min(2_000));
    }
    if !kept {
        eprintln!("Trapkey fires by chance more often than it states");
        std::process::exit(1);
    }
    eprintln!("simulated for {:.0} s", began.elapsed().as_secs_f64());
}

/// How requests resemble those before them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Likeness {
    /// Not at all.
    None,
    /// Latency wanders with a memory of 50 requests, each side by itself; errors come in bursts of about 20.
    Own,
    /// The same, and both sides are slow at the same times.
    Shared,
}

impl Likeness {
    fn word(self) -> &'static str {
        match self {
            Self::None => "independent",
            Self::Own => "correlated",
            Self::Shared => "correlated, both sides alike",
        }
    }
}

/// What is different on green.
#[derive(Clone, Copy, Debug)]
struct Change {
    name: &'static str,
    errors: f64,
    slower: f64,
    /// The share of requests that take 100 times as long.
    tail: f64,
    /// The trigger that should see it.
    seen_by: Metric,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Errors,
    P95,
}

const NOTHING: Change =
    Change { name: "nothing", errors: ERRORS, slower: 1.0, tail: 0.0, seen_by: Metric::Errors };

const CHANGES: [Change; 6] = [
    Change { name: "errors 0.1 % → 0.5 %", errors: 0.005, ..NOTHING },
    Change { name: "errors 0.1 % → 1 %", errors: 0.01, ..NOTHING },
    Change { name: "p95 +10 %", slower: 1.1, seen_by: Metric::P95, ..NOTHING },
    Change { name: "p95 +20 %", slower: 1.2, seen_by: Metric::P95, ..NOTHING },
    Change { name: "p95 +50 %", slower: 1.5, seen_by: Metric::P95, ..NOTHING },
    Change { name: "1 % of requests 100 times slower", tail: 0.01, seen_by: Metric::P95, ..NOTHING },
];

/// The three judges, each with one trigger.
const JUDGES: [&str; 3] = ["Trapkey", "Kayenta", "threshold"];

fn plan(judge: &str, metric: Metric) -> Promote {
    let trigger = match (judge, metric) {
        ("threshold", Metric::Errors) => "{metric: error_rate, is: '> 0.3%'}".to_owned(),
        ("threshold", Metric::P95) => format!("{{metric: latency_p95, is: '> {:.1}ms'}}", P95 * 1.1),
        (_, Metric::Errors) => "{metric: error_rate, worse_than_baseline_by: 50%, at_least: 0.1%}".to_owned(),
        (_, Metric::P95) => "{metric: latency_p95, worse_than_baseline_by: 5%}".to_owned(),
    };
    let rules =
        if judge == "Kayenta" { "judge: {kind: kayenta, score: {pass: 95, marginal: 75}}\n" } else { "" };
    let text = format!(
        "router: {{kind: haproxy, target: s}}\nsides: {{blue: {{url: \"http://b\"}}, green: {{url: \"http://g\"}}}}\n\
         probe: {{rate: 10/s}}\nsteps: [{{weight: 5%, bake: 5m}}, {{weight: 100%}}]\n{rules}rollback_when: [{trigger}]\n"
    );
    trapkey::yaml::parse(&text).unwrap().read(&|_: &str| None::<String>).unwrap()
}

/// Says whether Trapkey keeps the rate that it states, as far as so many runs can tell.
fn no_change(runs: usize, only: Option<&str>) -> bool {
    let (stated, mut kept) = (0.01_f64, true);
    let bound = stated + 3.0 * (stated * (1.0 - stated) / runs as f64).sqrt();
    println!("| no change at all | requests | fires (stated: at most 1 %) | undecided at the end |");
    println!("| --- | --- | ---: | ---: |");
    for metric in [Metric::Errors, Metric::P95] {
        let name = if metric == Metric::Errors { "error rate" } else { "p95" };
        for likeness in [Likeness::None, Likeness::Own, Likeness::Shared] {
            // Errors of both sides never come together here.
            if metric == Metric::Errors && likeness == Likeness::Shared {
                continue;
            }
            for judge in JUDGES {
                let cell = format!("{judge}: {name} | {}", likeness.word());
                if only.is_some_and(|only| !cell.starts_with(only)) {
                    continue;
                }
                let seen = simulate(&plan(judge, metric), NOTHING, likeness, runs);
                kept &= judge != "Trapkey" || seen.fired <= bound;
                println!("| {cell} | {:.2} % | {:.2} % |", 100.0 * seen.fired, 100.0 * seen.undecided);
            }
        }
    }
    println!();
    kept
}

fn changes(runs: usize) {
    for likeness in [Likeness::None, Likeness::Own] {
        println!(
            "| {} requests: found, after which share of the bake (median) | Trapkey | Kayenta | threshold |",
            likeness.word()
        );
        println!("| --- | ---: | ---: | ---: |");
        for change in CHANGES {
            let cells = JUDGES.map(|judge| {
                let seen = simulate(&plan(judge, change.seen_by), change, likeness, runs);
                let delay = seen.delay.map_or("–".into(), |d| format!("{:.0} %", 100.0 * d));
                format!("{:.0} %, {delay}", 100.0 * seen.fired)
            });
            println!("| {} | {} |", change.name, cells.join(" | "));
        }
        println!();
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// The share of runs in which it fired.
    fired: f64,
    /// The share of runs that ended without a verdict.
    undecided: f64,
    /// The share of the bake that was over when it fired, in the middle of those runs.
    delay: Option<f64>,
}

fn simulate(plan: &Promote, change: Change, likeness: Likeness, runs: usize) -> Seen {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut fired, mut undecided) = (Vec::new(), 0_usize);
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= runs {
                return (fired, undecided);
            }
            match bake(plan, change, likeness, run as u64) {
                (Decision::Fail, look) => fired.push(look as f64 / LOOKS as f64),
                (Decision::Undecided, _) => undecided += 1,
                (Decision::Pass, _) => {}
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<(Vec<f64>, usize)> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut delays: Vec<f64> = parts.iter().flat_map(|(fired, _)| fired.iter().copied()).collect();
    delays.sort_by(f64::total_cmp);
    let undecided: usize = parts.iter().map(|(_, undecided)| undecided).sum();
    Seen {
        fired: delays.len() as f64 / runs as f64,
        undecided: undecided as f64 / runs as f64,
        delay: delays.get(delays.len() / 2).copied(),
    }
}

/// One bake: what came of it, and at which look.
fn bake(plan: &Promote, change: Change, likeness: Likeness, seed: u64) -> (Decision, i64) {
    let mut judge = Judge::begin(plan, 0, BAKE_MS);
    let bin = bin_ms(plan, BAKE_MS);
    let mut dice = Dice::new(seed);
    let mut sides = [Side::new(NOTHING, &mut dice), Side::new(change, &mut dice)];
    let mut weather = Walk::new(&mut dice);
    let mut last = Decision::Undecided;
    for look in 1..=LOOKS {
        let (from, to) = ((look - 1) * REQUESTS / LOOKS, look * REQUESTS / LOOKS);
        let mut sorters = [0, 1].map(|_| Sorter::new(0, bin, usize::MAX / 4));
        for n in from..to {
            weather.step(&mut dice);
            for (side, sorter) in sides.iter_mut().zip(&mut sorters) {
                let (latency, ok) = side.request(&mut dice, likeness, &weather);
                sorter.add(n * BAKE_MS / REQUESTS, Some(latency), ok);
            }
        }
        let requests = Some(sorters.map(Sorter::finish));
        let given = Given { source: "probe".into(), requests, ..Given::default() };
        let looked = judge.look(&Batch { at_ms: look * BAKE_MS / LOOKS, given: vec![given] });
        last = looked.decision;
        if last == Decision::Fail {
            return (last, look);
        }
    }
    (last, LOOKS)
}

/// One side's requests.
struct Side {
    change: Change,
    own: Walk,
    in_burst: bool,
}

impl Side {
    fn new(change: Change, dice: &mut Dice) -> Self {
        Self { change, own: Walk::new(dice), in_burst: false }
    }

    fn request(&mut self, dice: &mut Dice, likeness: Likeness, weather: &Walk) -> (f64, bool) {
        self.own.step(dice);
        let fresh = dice.normal();
        // Half of the variance is remembered.
        let z = match likeness {
            Likeness::None => fresh,
            Likeness::Own => (fresh + self.own.at) * 0.5_f64.sqrt(),
            Likeness::Shared => (fresh + weather.at) * 0.5_f64.sqrt(),
        };
        let mut latency = MEDIAN * self.change.slower * (DEVIATION * z).exp();
        if self.change.tail > 0.0 && dice.uniform() < self.change.tail {
            latency *= 100.0;
        }
        let rate = if likeness == Likeness::None {
            self.change.errors
        } else {
            // Half of all errors come in bursts of 20 requests on average, in which every fifth fails.
            let leave = 1.0 / 20.0;
            let share = 0.5 * self.change.errors / 0.2;
            let enter = leave * share / (1.0 - share);
            self.in_burst = if self.in_burst { dice.uniform() >= leave } else { dice.uniform() < enter };
            if self.in_burst { 0.2 } else { 0.5 * self.change.errors }
        };
        (latency, dice.uniform() >= rate)
    }
}

/// A walk that forgets: its correlation falls to a third within fifty steps.
struct Walk {
    at: f64,
}

impl Walk {
    fn new(dice: &mut Dice) -> Self {
        Self { at: dice.normal() }
    }

    fn step(&mut self, dice: &mut Dice) {
        const KEEP: f64 = 0.98;
        self.at = KEEP * self.at + (1.0 - KEEP * KEEP).sqrt() * dice.normal();
    }
}

/// The same figures on every run: splitmix64.
struct Dice {
    state: u64,
    spare: Option<f64>,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1), spare: None }
    }

    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller's method: two at a time.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}
