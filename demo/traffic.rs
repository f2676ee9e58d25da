//! Steady traffic: so many requests a second whatever the answers take, every one on record.
//!
//! The load is open: request number n is due at n/rate seconds, and its latency counts from that
//! moment, so that a service which stalls cannot hide it. Each record is one line of CSV:
//!
//! `due_us,sent_us,done_us,method,status,release,retried,error`, times in µs since 1970.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

mod wire;
use wire::{Broken, Head, Wire};

/// Sends steady traffic until TERM, and tells at the end what came of it.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true)]
struct Options {
    /// Where to, host and port
    #[arg(long, value_name = "HOST:PORT")]
    to: SocketAddr,
    /// Requests per second
    #[arg(long, default_value = "300/s", value_parser = trapkey::units::parse_rate)]
    rate: f64,
    /// The share that orders something; the rest looks at the catalogue
    #[arg(long, default_value = "10%", value_parser = trapkey::units::parse_share)]
    orders: f64,
    /// How many connections
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// After how many requests a connection is given up for a new one
    #[arg(long, default_value_t = 100)]
    renew: u64,
    /// Time for one answer
    #[arg(long, default_value = "5s", value_parser = span)]
    timeout: Duration,
    /// End by itself after this time
    #[arg(long, value_parser = span)]
    during: Option<Duration>,
    /// Where each request is recorded
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn span(text: &str) -> Result<Duration, String> {
    trapkey::units::parse_duration(text).map(Duration::from_secs_f64)
}

/// One request and what came of it.
#[derive(Clone, Debug)]
struct Record {
    due_us: u64,
    sent_us: u64,
    done_us: u64,
    method: &'static str,
    status: u16,
    release: String,
    retried: bool,
    error: &'static str,
}

impl Record {
    fn failed(&self) -> bool {
        !self.error.is_empty()
    }

    fn latency_ms(&self) -> f64 {
        self.done_us.saturating_sub(self.due_us) as f64 / 1e3
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // A closed stderr is nobody's fault.
            let _ = writeln!(io::stderr(), "error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| format!("signals cannot be heard: {e}"))?;
    }
    let sink = match &options.record {
        Some(path) => Some(File::create(path).map_err(|e| format!("{}: {e}", path.display()))?),
        None => None,
    };
    let clock = Clock::start();
    let next = Arc::new(AtomicU64::new(0));
    let (records, incoming) = channel();
    let workers: Vec<_> = (0..options.connections.max(1))
        .map(|_| {
            let (options, stop, next, records) =
                (options.clone(), Arc::clone(&stop), Arc::clone(&next), records.clone());
            std::thread::spawn(move || {
                Worker { options, clock, line: None, served: 0 }.work(&stop, &next, &records);
            })
        })
        .collect();
    drop(records);
    let all = gather(&incoming, sink).map_err(|e| format!("the record cannot be written: {e}"))?;
    for worker in workers {
        worker.join().map_err(|_| "a worker broke".to_owned())?;
    }
    writeln!(io::stdout(), "{:#}", summary(&all)).map_err(|e| e.to_string())
}

/// Wall-clock times that never go back.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Instant,
    began_us: u64,
}

impl Clock {
    fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), began_us: micros(since_1970) }
    }

    fn now_us(self) -> u64 {
        self.began_us + micros(self.began.elapsed())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One connection and the thread that uses it.
struct Worker {
    options: Options,
    clock: Clock,
    line: Option<Wire>,
    served: u64,
}

/// Why one attempt gave no answer.
struct NoAnswer {
    error: &'static str,
    /// The server had closed a connection that lay idle, before this request reached it.
    was_idle: bool,
}

impl Worker {
    fn work(mut self, stop: &AtomicBool, next: &AtomicU64, records: &Sender<Record>) {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_secs_f64(n as f64 / self.options.rate);
            if self.options.during.is_some_and(|limit| due >= limit) || !self.wait_until(due, stop) {
                return;
            }
            let record = self.ask(n, self.clock.began_us + micros(due));
            if records.send(record).is_err() {
                return;
            }
        }
    }

    fn wait_until(&self, due: Duration, stop: &AtomicBool) -> bool {
        loop {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_sub(self.clock.began.elapsed());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn ask(&mut self, n: u64, due_us: u64) -> Record {
        let (method, message) = request(n, self.options.orders, self.options.to);
        let sent_us = self.clock.now_us();
        let mut retried = false;
        let outcome = loop {
            match self.attempt(&message) {
                // An idle connection may be closed by the server at any time. A request that met such a
                // close and may be repeated is repeated, once, and counted apart.
                Err(NoAnswer { was_idle: true, .. }) if method == "GET" && !retried => retried = true,
                outcome => break outcome,
            }
        };
        let done_us = self.clock.now_us();
        let (status, release, error) = match outcome {
            Ok(head) if (200..300).contains(&head.status) => (head.status, head.release, ""),
            Ok(head) => (head.status, head.release, "status"),
            Err(NoAnswer { error, .. }) => (0, String::new(), error),
        };
        let release = release.replace([',', '"', '\n'], "_");
        Record { due_us, sent_us, done_us, method, status, release, retried, error }
    }

    fn attempt(&mut self, message: &[u8]) -> Result<Head, NoAnswer> {
        let (mut line, used) = match self.line.take() {
            Some(line) => (line, true),
            None => (self.connect()?, false),
        };
        if line.send(message).is_err() {
            return Err(NoAnswer { error: "closed", was_idle: used });
        }
        let (head, _) = line.answer().map_err(|broken| match broken {
            Broken::Closed => NoAnswer { error: "closed", was_idle: used },
            Broken::Quiet => NoAnswer { error: "timeout", was_idle: false },
            Broken::Failed(e) if wire::is_timeout(&e) => NoAnswer { error: "timeout", was_idle: false },
            Broken::Failed(_) => NoAnswer { error: "broken", was_idle: false },
        })?;
        self.served += 1;
        if head.keep_alive && !self.served.is_multiple_of(self.options.renew.max(1)) {
            self.line = Some(line);
        }
        Ok(head)
    }

    fn connect(&self) -> Result<Wire, NoAnswer> {
        let timeout = self.options.timeout;
        TcpStream::connect_timeout(&self.options.to, timeout)
            .and_then(|stream| {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Wire::new(stream, Duration::ZERO)
            })
            .map_err(|_| NoAnswer { error: "connect", was_idle: false })
    }
}

/// The n-th request: an order when the whole part of n × share grows there, else a look.
#[expect(clippy::float_cmp, reason = "whole numbers are compared")]
fn request(n: u64, orders: f64, to: SocketAddr) -> (&'static str, Vec<u8>) {
    let count = |n: u64| (n as f64 * orders + 1e-9).floor();
    if count(n) == count(n + 1) {
        let text = format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n");
        return ("GET", text.into_bytes());
    }
    let body = format!("{{\"item\":\"Brass key\",\"total_cents\":{}}}", 1000 + n % 5000);
    let text = format!(
        "POST /order HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ("POST", text.into_bytes())
}

/// Keeps every record and writes it down, at the latest after a fifth of a second.
fn gather(incoming: &Receiver<Record>, sink: Option<File>) -> io::Result<Vec<Record>> {
    let mut all = Vec::new();
    let mut sink = sink.map(BufWriter::new);
    if let Some(sink) = &mut sink {
        writeln!(sink, "due_us,sent_us,done_us,method,status,release,retried,error")?;
    }
    let mut flushed = Instant::now();
    loop {
        match incoming.recv_timeout(Duration::from_millis(200)) {
            Ok(record) => {
                if let Some(sink) = &mut sink {
                    let Record { due_us, sent_us, done_us, method, status, release, retried, error } =
                        &record;
                    writeln!(
                        sink,
                        "{due_us},{sent_us},{done_us},{method},{status},{release},{},{error}",
                        u8::from(*retried)
                    )?;
                }
                all.push(record);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(sink) = sink.as_mut().filter(|_| flushed.elapsed() >= Duration::from_millis(200)) {
            sink.flush()?;
            flushed = Instant::now();
        }
    }
    if let Some(sink) = &mut sink {
        sink.flush()?;
    }
    Ok(all)
}

fn summary(all: &[Record]) -> Value {
    let mut releases: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in all {
        releases.entry(&record.release).or_default().push(record);
    }
    let everything: Vec<&Record> = all.iter().collect();
    let by_release: serde_json::Map<String, Value> = releases
        .into_iter()
        .map(|(release, records)| {
            (if release.is_empty() { "none" } else { release }.to_owned(), figures(&records))
        })
        .collect();
    let mut total = figures(&everything);
    total["retried_after_idle_close"] = json!(all.iter().filter(|r| r.retried).count());
    total["releases"] = Value::Object(by_release);
    total
}

fn figures(records: &[&Record]) -> Value {
    let mut latencies: Vec<f64> = records.iter().filter(|r| r.status != 0).map(|r| r.latency_ms()).collect();
    latencies.sort_by(f64::total_cmp);
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records.iter().filter(|r| r.failed()) {
        *errors.entry(record.error).or_default() += 1;
    }
    json!({
        "requests": records.len(),
        "failed": records.iter().filter(|r| r.failed()).count(),
        "errors": errors,
        "first_us": records.iter().map(|r| r.sent_us).min(),
        "last_us": records.iter().map(|r| r.done_us).max(),
        "p50_ms": quantile(&latencies, 0.50),
        "p95_ms": quantile(&latencies, 0.95),
        "p99_ms": quantile(&latencies, 0.99),
    })
}

/// The smallest value that at least this share of all values does not exceed (nearest rank).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the length")]
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}
