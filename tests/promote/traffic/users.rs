//! Users with kept connections, who may meet two releases and no third, and no error.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::ANSWER;
use super::servers::{micros, path};
use crate::support::visitor::{Broken, Visitor};

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
    let mut visitor = Visitor::default();
    while !seen.stop.load(Ordering::SeqCst) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        let before: Vec<u32> = seen.may.iter().map(|may| may.load(Ordering::SeqCst)).collect();
        let mut again = visitor.keeps_one();
        loop {
            match ask(port, micros(seen.began), &mut visitor) {
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

/// The status, and the release that signed: 7 for `1.7`.
fn ask(port: u16, now: u64, visitor: &mut Visitor) -> Result<(u16, Option<u32>), Broken> {
    let (status, release) = visitor.ask(port, &path(now), ANSWER)?;
    Ok((status, release.and_then(|version| version.strip_prefix("1.")?.parse().ok())))
}
