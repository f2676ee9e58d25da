//! What backups cost, beside restic, borg and tar: `scripts/bench snapshot` runs this, as Markdown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use trapkey::repository::restic::{
    How, Id, Local, NodeKind, Passphrase, Progress, ReadData, Repository, Spec,
};

#[path = "bench_snapshot/corpus.rs"]
mod corpus;
#[path = "bench_snapshot/peers.rs"]
mod peers;

use corpus::{Corpus, SIZES, Size};
use peers::{Cost, PEERS, Peer, Step};

/// The engine in a process of its own, so that its time and memory can be measured.
const DO: &str = "TRAPKEY_BENCH_DO";
const WORD: &str = "a pass phrase for the bench";

fn main() -> ExitCode {
    if let Ok(step) = env::var(DO) {
        ours(&step);
        return ExitCode::SUCCESS;
    }
    let missing: Vec<&str> = PEERS.iter().filter_map(Peer::missing).collect();
    if !missing.is_empty() {
        println!("missing: {}: run scripts/install-needs bench", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let short = env::var_os("TRAPKEY_BENCH_SHORT").is_some();
    let wanted =
        env::var("TRAPKEY_BENCH_SIZE").unwrap_or_else(|_| if short { "short" } else { "0.2" }.into());
    hashing(short);
    for name in wanted.split(',') {
        let Some(size) = SIZES.iter().find(|size| size.name == name) else {
            println!("no size `{name}`: there are 0.2, 2.5, 8, many, file and short");
            return ExitCode::FAILURE;
        };
        let rounds = env::var("TRAPKEY_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
        table(Size { rounds: rounds.unwrap_or(size.rounds), ..*size });
    }
    ExitCode::SUCCESS
}

/// Whether the processor's own instructions are at work.
fn hashing(short: bool) {
    let bytes = vec![7; 64 << 20];
    let times = if short { 1 } else { 16 };
    let best = (0..3)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..times {
                std::hint::black_box(Id::of(std::hint::black_box(&bytes)));
            }
            began.elapsed()
        })
        .min()
        .unwrap();
    println!("SHA-256 of 1 GiB, best of 3: {:.2} s\n", best.as_secs_f64() * 16.0 / f64::from(times));
}

/// One size: every step of every tool, one tool after the other in each round.
fn table(size: Size) {
    let (folder, place) = folder(size);
    let home = folder.path();
    let corpus = Corpus::make(&home.join("corpus"), size);
    for peer in &PEERS {
        peer.prepare(home);
    }
    let mut costs = vec![vec![Vec::new(); Step::ALL.len()]; PEERS.len()];
    for round in 0..size.rounds {
        for peer in &PEERS {
            peer.begin(home);
        }
        for (number, step) in Step::ALL.iter().enumerate() {
            if *step == Step::Changed {
                corpus.change(round);
            }
            for (peer, costs) in PEERS.iter().zip(&mut costs) {
                if let Some(cost) = peer.run(*step, home) {
                    costs[number].push(cost);
                }
                if *step == Step::Restore && peer.name == "Trapkey" && round == 0 {
                    same(&corpus.at, &home.join("back"));
                }
                let _ = fs::remove_dir_all(home.join("back"));
            }
        }
    }
    show(size, place, &costs);
    // For a profiler.
    if env::var_os("TRAPKEY_BENCH_KEEP").is_some() {
        println!("kept: {}", folder.keep().display());
    }
}

/// In memory where there is room for the corpus, what is restored, and four repositories; else on disk.
fn folder(size: Size) -> (tempfile::TempDir, &'static str) {
    let needed = size.bytes as u64 * 36 / 10;
    let free = |path: &str| rustix::fs::statvfs(path).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024;
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("trapkey-bench-");
        builder
    };
    if let Ok(at) = env::var("TRAPKEY_BENCH_FOLDER") {
        return (builder().tempdir_in(at).unwrap(), "in the folder that was named");
    }
    if needed < 10_000_000_000 && needed < free("/dev/shm") && needed * 3 / 2 < available {
        return (builder().tempdir_in("/dev/shm").unwrap(), "in memory");
    }
    (builder().tempdir().unwrap(), "on disk")
}

fn same(a: &Path, b: &Path) {
    let status = Command::new("diff").args(["-r", "-q", "--no-dereference"]).args([a, b]).status().unwrap();
    assert!(status.success(), "what was restored differs from what was backed up");
}

fn show(size: Size, place: &str, costs: &[Vec<Vec<Cost>>]) {
    println!(
        "{} GB in {} files, {} MB of it in one SQL dump, {place}; medians of {} rounds; load at the end {}, on {} processors:\n",
        size.bytes as f64 / 1e9,
        size.files + 1,
        size.dump / 1_000_000,
        size.rounds,
        fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default(),
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    );
    let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
    println!("| wall s / CPU s, peak MB | {} | restic : Trapkey, wall (CPU) | goal |", names.join(" | "));
    println!("| --- |{}", " ---: |".repeat(PEERS.len() + 2));
    for (number, step) in Step::ALL.iter().enumerate() {
        let medians: Vec<Option<Cost>> = costs.iter().map(|tool| Cost::median(&tool[number])).collect();
        let cells: Vec<String> =
            medians.iter().map(|cost| cost.map_or("–".into(), |cost| cost.to_string())).collect();
        let (Some(ours), Some(restic)) = (medians[0], medians[1]) else { continue };
        println!(
            "| {} | {} | {:.2} ({:.2}) | {} |",
            step.name(),
            cells.join(" | "),
            restic.wall / ours.wall,
            restic.cpu / ours.cpu,
            step.goal()
        );
        if let (Some(limit), Some(goal)) = (medians[PEERS.len() - 1], step.limit()) {
            println!(
                "| … Trapkey : {}, wall (CPU) |{} {:.2} ({:.2}) | {goal} |",
                if *step == Step::Restore { "untar" } else { "tar" },
                " |".repeat(PEERS.len()),
                ours.wall / limit.wall,
                ours.cpu / limit.cpu
            );
        }
    }
    println!();
}

/// What a child process does: one step with the engine.
fn ours(step: &str) {
    let path = |name: &str| PathBuf::from(env::var_os(name).expect("a path"));
    let passphrase = Passphrase::new(WORD).unwrap();
    let repository = Repository::open(Arc::new(Local::new(path("REPOSITORY"))), &passphrase).unwrap();
    match step {
        "backup" => backup(&repository, &path("SOURCE")),
        "check" => {
            let health = repository.check(ReadData::All, &|_, _| {}).unwrap();
            assert!(health.damaged.is_empty() && health.packs_read > 0, "{health:?}");
        }
        "restore" => {
            let opened = repository.read(repository.find("latest").unwrap()).unwrap();
            let how = How {
                owners: rustix::process::getuid().is_root(),
                from: Some(path("SOURCE")),
                ..How::default()
            };
            opened.restore(&path("TARGET"), &how, &Progress::default()).unwrap();
        }
        other => panic!("no step {other}"),
    }
}

fn backup(repository: &Repository, source: &Path) {
    let paths = vec![source.display().to_string()];
    let mut spec = Spec::new(paths.clone());
    spec.parent = repository.newest_of(&spec.hostname, &paths).unwrap();
    spec.manifest = Some("SHA256SUMS".into());
    let told = |what: &str, began: Instant| {
        if env::var_os("TRAPKEY_BENCH_TELL").is_some() {
            eprintln!("{what} {:?}", began.elapsed());
        }
    };
    let began = Instant::now();
    let mut archive = repository.begin(spec).unwrap();
    told("begin", began);
    let began = Instant::now();
    archive.folder(source, source, &|_: &Path, _: NodeKind| true).unwrap();
    told("folder", began);
    let began = Instant::now();
    let sealed = archive.seal().unwrap();
    told("seal", began);
    let began = Instant::now();
    sealed.prove(&mut |_| {}).unwrap();
    told("prove", began);
    sealed.commit().unwrap();
}

/// The time between two moments, in seconds.
fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
