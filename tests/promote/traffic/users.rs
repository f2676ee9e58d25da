//! Users with kept connections, who may meet two releases and no third, and no error.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::ANSWER;
use super::servers::{micros, path};

const CLIENTS: u64 = 8;
/// Whoever is so far behind does not catch up.
const BEHIND: Duration = Duration::from_millis(500);

/// What the users saw.
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) good: AtomicU64,
    /// A kept connection was closed before anything of an answer came: a browser asks again by itself.
    pub(super) again: AtomicU64,
    /// Errors while the harness itself had just ended a server.
    pub(super) by_the_harness: AtomicU64,
    /// All other errors, and answers of a release that is not there any more.
    pub(super) lost: AtomicU64,
    /// The first of these.
    pub(super) scenes: Mutex<Vec<String>>,
    pub(super) slowest_us: AtomicU64,
    /// The releases that users may meet.
    may: [AtomicU32; 2],
    /// Until when an error may come of what the harness did.
    trouble_until: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn allows(&self, release: u32) -> bool {
        self.may.iter().any(|may| may.load(Ordering::SeqCst) == release)
    }

    fn note(&self, why: &str) {
        let now = micros(self.began);
        if now <= self.trouble_until.load(Ordering::SeqCst) {
            self.by_the_harness.fetch_add(1, Ordering::SeqCst);
        } else {
            self.lost(now, why);
        }
    }

    fn lost(&self, now: u64, why: &str) {
        self.lost.fetch_add(1, Ordering::SeqCst);
        let mut scenes = self.scenes.lock().unwrap();
        if scenes.len() < 20 {
            scenes.push(format!("{} ms: {why}", now / 1000));
        }
    }
}

/// Users, at a steady rate whatever the answers take.
pub(super) struct Users {
    pub(super) seen: Arc<Seen>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Users {
    pub(super) fn start(port: u16, rate: u64, release: u32) -> Self {
        let seen = Arc::new(Seen {
            began: Instant::now(),
            good: AtomicU64::new(0),
            again: AtomicU64::new(0),
            by_the_harness: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            scenes: Mutex::default(),
            slowest_us: AtomicU64::new(0),
            may: [AtomicU32::new(release), AtomicU32::new(release)],
            trouble_until: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let every = Duration::from_micros(1_000_000 * CLIENTS / rate);
        let threads = (0..CLIENTS)
            .map(|_| {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || user(port, &seen, every))
            })
            .collect();
        Self { seen, threads }
    }

    /// From now on users may meet these releases.
    pub(super) fn may_meet(&self, old: u32, new: u32) {
        self.seen.may[0].store(old, Ordering::SeqCst);
        self.seen.may[1].store(new, Ordering::SeqCst);
    }

    pub(super) fn now(&self) -> u64 {
        micros(self.seen.began)
    }

    /// The harness is about to end something that may have a request under way.
    pub(super) fn trouble(&self, lasts: Duration) {
        let until = self.now() + u64::try_from(lasts.as_micros()).unwrap();
        self.seen.trouble_until.fetch_max(until, Ordering::SeqCst);
    }

    pub(super) fn good(&self) -> u64 {
        self.seen.good.load(Ordering::SeqCst)
    }

    pub(super) fn finish(self) -> Arc<Seen> {
        self.seen.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.seen
    }
}

fn user(port: u16, seen: &Seen, every: Duration) {
    let mut due = Instant::now();
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !seen.stop.load(Ordering::SeqCst) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        let before: Vec<u32> = seen.may.iter().map(|may| may.load(Ordering::SeqCst)).collect();
        let mut again = kept.is_some();
        loop {
            match ask(port, micros(seen.began), &mut kept) {
                // What was right when it was asked or when it was answered is right.
                Ok((200, Some(met))) if before.contains(&met) || seen.allows(met) => {
                    seen.good.fetch_add(1, Ordering::SeqCst);
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap();
                    seen.slowest_us.fetch_max(took, Ordering::SeqCst);
                }
                // Whatever the harness did: that release is over.
                Ok((200, met)) => {
                    seen.lost(micros(seen.began), &format!("met {met:?} where {before:?} were right"));
                }
                Ok((status, _)) => seen.note(&format!("answered {status}")),
                Err(Broken::BeforeAnswer) if again => {
                    seen.again.fetch_add(1, Ordering::SeqCst);
                    again = false;
                    continue;
                }
                Err(broken) => seen.note(&format!("{broken:?}")),
            }
            break;
        }
        due = (due + every).max(Instant::now().checked_sub(BEHIND).unwrap_or(due));
    }
}

#[derive(Debug)]
enum Broken {
    /// Closed before the first byte of an answer.
    BeforeAnswer,
    /// Anything else.
    #[expect(dead_code, reason = "shown by Debug")]
    Failed(String),
}

/// The status, and the release that signed: 7 for `1.7`.
fn ask(port: u16, now: u64, kept: &mut Option<BufReader<TcpStream>>) -> Result<(u16, Option<u32>), Broken> {
    let failed = |e: std::io::Error| Broken::Failed(e.to_string());
    let mut reader = if let Some(reader) = kept.take() {
        reader
    } else {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        BufReader::new(stream)
    };
    let request = format!("GET {} HTTP/1.1\r\nhost: shop\r\n\r\n", path(now));
    if reader.get_mut().write_all(request.as_bytes()).is_err() {
        return Err(Broken::BeforeAnswer);
    }
    let mut first = String::new();
    match reader.read_line(&mut first) {
        Ok(0) => return Err(Broken::BeforeAnswer),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset && first.is_empty() => {
            return Err(Broken::BeforeAnswer);
        }
        Err(e) => return Err(failed(e)),
        Ok(_) => {}
    }
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let (mut length, mut close, mut release) = (0, false, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).map_err(failed)? == 0 {
            return Err(Broken::Failed("cut in the middle of an answer".into()));
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some(("content-length", n)) => length = n.parse().unwrap_or(0),
            Some(("x-release", version)) => {
                release = version.strip_prefix("1.").and_then(|minor| minor.parse().ok());
            }
            _ => close |= line == "connection: close",
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).map_err(failed)?;
    if !close {
        *kept = Some(reader);
    }
    Ok((status, release))
}
