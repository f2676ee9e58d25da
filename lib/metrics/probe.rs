//! Own requests to one or more sides: open loop, interleaved, late answers counted as late.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::plan::{ProbeSpec, Redirects};
use crate::world::http::{Client, Request};
use crate::world::now;

/// Requests that may be under way on one side at once.
pub const MAX_WORKERS: usize = 32;

/// Requests that may wait for a worker on one side; more are given up as missed.
const MAX_WAITING: usize = 10_000;

/// How late the clock of the asking machine may wake before a request says more about this machine
/// than about the side, and is given up as missed.
const MAX_OVERSLEEP: Duration = Duration::from_millis(100);

/// So many requests go over one connection, then it is closed and the next one opens another: a balancer
/// of connections would otherwise show one server of many for a whole bake. Names are resolved again with
/// each connection.
pub const REQUESTS_PER_CONNECTION: u32 = 4;

/// A connection that is older than this is used once more and closed, however few requests it has carried.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(10);

/// How much of an answer's body is read. The rest is left, and the connection with it.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// One request and what came of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was due.
    pub at: Timestamp,
    /// From the moment it was due to the last byte of the answer, in ms.
    pub latency_ms: f64,
    /// Answered 2xx, or 3xx where that is a success, within the time limit.
    pub ok: bool,
    /// The status, where there was an answer.
    pub status: Option<u16>,
    /// The value of the release header, where the answer had one.
    pub version: Option<String>,
    /// The value of the header that names the server, where there is such a header.
    pub server: Option<String>,
    /// Why there was no answer.
    pub why: Option<String>,
}

/// What a probe makes of an answer: the headers that it reads, and what a redirect is.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// The one that names the release.
    pub release: String,
    /// The one that names the server which answered, of several behind one address.
    pub server: Option<String>,
    /// What an answer 3xx is.
    pub redirects: Redirects,
}

impl Headers {
    /// Those of a plan's probe.
    pub fn of(spec: &ProbeSpec) -> Self {
        let lower = |name: &String| name.to_ascii_lowercase();
        Self {
            release: lower(&spec.header),
            server: spec.server_header.as_ref().map(lower),
            redirects: spec.redirects,
        }
    }

    /// Whether an answer of that status is a success.
    fn good(&self, status: u16) -> bool {
        (200..300).contains(&status) || (self.redirects == Redirects::Success && (300..400).contains(&status))
    }
}

impl From<&str> for Headers {
    fn from(release: &str) -> Self {
        Self { release: release.to_ascii_lowercase(), ..Self::default() }
    }
}

/// How far one side's requests kept to their timetable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Requests that were due so far.
    pub due: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that were given up, because this machine overslept or every worker was busy for
    /// longer than the time limit.
    pub missed: u64,
    /// The greatest delay of this machine's own clock, in ms.
    pub overslept_ms: f64,
}

impl Lag {
    /// The share of due requests that were sent, in 0..=1; 1 before the first was due.
    pub fn achieved(&self) -> f64 {
        if self.due == 0 { 1.0 } else { self.sent as f64 / self.due as f64 }
    }
}

/// Whether a request may go over a connection that an earlier one left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It may, as a browser's does.
    Kept,
    /// It asks to close it. A router that balances connections, not requests, would
    /// otherwise send every request of one client to the same side.
    New,
}

/// Asks every side at the same moments until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    sides: Vec<Arc<Side>>,
    stop: Arc<Stop>,
    clock: Option<JoinHandle<()>>,
}

/// How a sampler asks.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Requests per second to each URL.
    pub rate: f64,
    /// Time for one answer.
    pub timeout: Duration,
    /// The response headers that are read.
    pub headers: Headers,
    /// What becomes of a connection.
    pub connection: Connection,
    /// Whether the moments lie by chance, with the rate that was asked. Requests at even distances fall into step with a
    /// router's round robin and with users who come as evenly, and then meet one side alone.
    pub scattered: bool,
}

/// What one side's workers share.
#[derive(Debug)]
struct Side {
    url: String,
    headers: Headers,
    timeout: Duration,
    connection: Connection,
    state: Mutex<State>,
    due: Condvar,
    counts: Counts,
    stop: Arc<Stop>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Due>,
    /// Clients with their connections; the one used last is taken first, so that few connections
    /// are used often and none grows old.
    clients: Vec<Asker>,
    done: Vec<Sample>,
    under_way: Vec<Due>,
    workers: usize,
    idle: usize,
}

/// A client with one connection at most, and how that was used.
#[derive(Debug)]
struct Asker {
    client: Client,
    carried: u32,
    opened: Instant,
}

impl Asker {
    fn new(timeout: Duration) -> Self {
        Self { client: Client::new(timeout), carried: 0, opened: Instant::now() }
    }

    /// What the next request does with the connection.
    fn next(&mut self) -> Connection {
        if self.carried == 0 {
            self.opened = Instant::now();
        }
        self.carried += 1;
        if self.carried < REQUESTS_PER_CONNECTION && self.opened.elapsed() < MAX_CONNECTION_AGE {
            return Connection::Kept;
        }
        self.carried = 0;
        Connection::New
    }
}

#[derive(Debug, Default)]
struct Counts {
    due: AtomicU64,
    sent: AtomicU64,
    missed: AtomicU64,
    finished: AtomicU64,
    overslept_us: AtomicU64,
}

/// A request that is due.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Timestamp,
    moment: Instant,
}

#[derive(Debug, Default)]
struct Stop {
    asking: Mutex<bool>,
    changed: Condvar,
    leave: AtomicBool,
}

impl Sampler {
    /// Begins to ask: `rate_per_side` requests per second to each URL, each with `timeout` to be
    /// answered. `headers` names the response header with the version that answered.
    pub fn start(
        urls: &[String],
        rate_per_side: f64,
        timeout: Duration,
        headers: impl Into<Headers>,
    ) -> Self {
        let headers = headers.into();
        let manner =
            Manner { rate: rate_per_side, timeout, headers, connection: Connection::Kept, scattered: false };
        Self::begin(urls, &manner)
    }

    /// The same in a manner of one's own.
    pub fn begin(urls: &[String], manner: &Manner) -> Self {
        let stop = Arc::new(Stop::default());
        let sides: Vec<Arc<Side>> = urls
            .iter()
            .map(|url| {
                Arc::new(Side {
                    url: url.clone(),
                    headers: manner.headers.clone(),
                    timeout: manner.timeout,
                    connection: manner.connection,
                    state: Mutex::default(),
                    due: Condvar::new(),
                    counts: Counts::default(),
                    stop: Arc::clone(&stop),
                })
            })
            .collect();
        let clock = {
            let (sides, stop) = (sides.clone(), Arc::clone(&stop));
            let rate = if manner.rate.is_finite() && manner.rate > 0.0 { manner.rate } else { 1.0 };
            let every = (1.0 / rate).clamp(1e-6, 86_400.0);
            let scattered = manner.scattered;
            std::thread::Builder::new()
                .name("probe clock".into())
                .spawn(move || tick(&sides, &stop, every, scattered))
                .ok()
        };
        Self { sides, stop, clock }
    }

    /// What was finished since the last call, for each URL in the order of [`Self::start`].
    pub fn take(&self) -> Vec<Vec<Sample>> {
        self.sides.iter().map(|side| std::mem::take(&mut lock(&side.state).done)).collect()
    }

    /// The ages in ms of requests that are due for at least `after` and have no answer yet, for each
    /// URL. A hanging side is seen by them long before the time limit of a request.
    pub fn overdue(&self, after: Duration) -> Vec<Vec<f64>> {
        let ages = |side: &Arc<Side>| {
            let state = lock(&side.state);
            let all = state.under_way.iter().chain(&state.waiting).map(|due| due.moment.elapsed());
            all.filter(|age| *age >= after).map(|age| age.as_secs_f64() * 1e3).collect()
        };
        self.sides.iter().map(ages).collect()
    }

    /// How far each side's requests kept to their timetable, since the start.
    pub fn lag(&self) -> Vec<Lag> {
        self.sides.iter().map(|side| side.counts.lag()).collect()
    }

    /// Asks no further, and waits until what is under way has come back, at most for the time limit
    /// of one request.
    pub fn finish(&self) {
        self.stop.ask_no_further();
        let limit = self.sides.iter().map(|s| s.timeout).max().unwrap_or_default();
        let until = Instant::now() + limit + MAX_OVERSLEEP;
        while !self.sides.iter().all(|side| side.quiet()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.leave.store(true, Ordering::SeqCst);
        self.stop.ask_no_further();
        for side in &self.sides {
            // The lock makes sure that no worker is between looking at the flag and going to sleep.
            drop(lock(&side.state));
            side.due.notify_all();
        }
        if let Some(clock) = self.clock.take() {
            // It ends at once. Workers are not waited for: one may hang until its time limit.
            let _ = clock.join();
        }
    }
}

impl Stop {
    fn ask_no_further(&self) {
        *lock(&self.asking) = true;
        self.changed.notify_all();
    }

    /// Sleeps until a moment. Returns false as soon as asking is over.
    fn sleep_until(&self, moment: Instant) -> bool {
        let mut over = lock(&self.asking);
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if *over || left.is_zero() {
                return !*over;
            }
            over = self.changed.wait_timeout(over, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Counts {
    fn lag(&self) -> Lag {
        Lag {
            due: self.due.load(Ordering::SeqCst),
            sent: self.sent.load(Ordering::SeqCst),
            missed: self.missed.load(Ordering::SeqCst),
            overslept_ms: self.overslept_us.load(Ordering::SeqCst) as f64 / 1e3,
        }
    }
}

/// The clock: hands the same moments to every side.
fn tick(sides: &[Arc<Side>], stop: &Stop, every: f64, scattered: bool) {
    let (start, started_at) = (Instant::now(), now());
    let mut by_chance = 0.0;
    for turn in 0_u32.. {
        let offset = Duration::from_secs_f64(if scattered { by_chance } else { f64::from(turn) * every });
        by_chance += every * gap();
        let moment = start + offset;
        if !stop.sleep_until(moment) {
            return;
        }
        let overslept = moment.elapsed();
        let at = started_at
            .checked_add(SignedDuration::try_from(offset).unwrap_or(SignedDuration::MAX))
            .unwrap_or(Timestamp::MAX);
        // Each side goes first at every other moment.
        let (first, second) = sides.split_at(turn as usize % sides.len().max(1));
        for side in second.iter().chain(first) {
            side.ask(Due { at, moment }, overslept);
        }
    }
}

/// A gap between two requests of users who know nothing of each other, of 1 on average. One request by chance in each
/// slot of time would not do: a router that takes turns would still give it the turn of whoever comes as often.
fn gap() -> f64 {
    let chance = crate::world::unique() as f64 / u64::MAX as f64;
    -(1.0 - chance).max(f64::MIN_POSITIVE).ln()
}

impl Side {
    fn ask(self: &Arc<Self>, due: Due, overslept: Duration) {
        self.counts.due.fetch_add(1, Ordering::SeqCst);
        let micros = u64::try_from(overslept.as_micros()).unwrap_or(u64::MAX);
        self.counts.overslept_us.fetch_max(micros, Ordering::SeqCst);
        let mut state = lock(&self.state);
        if overslept > MAX_OVERSLEEP || state.waiting.len() >= MAX_WAITING {
            self.counts.missed.fetch_add(1, Ordering::SeqCst);
            return;
        }
        state.waiting.push_back(due);
        if state.waiting.len() > state.idle && state.workers < MAX_WORKERS {
            let side = Arc::clone(self);
            let name = "probe".to_owned();
            // Without a further thread the present ones serve the queue, and the lag shows it.
            if std::thread::Builder::new().name(name).spawn(move || side.work()).is_ok() {
                state.workers += 1;
            }
        }
        drop(state);
        self.due.notify_one();
    }

    /// One worker: serves what is due until the sampler is dropped.
    fn work(&self) {
        loop {
            let Some((due, mut asker)) = self.next() else { return };
            if due.moment.elapsed() > self.timeout {
                self.counts.missed.fetch_add(1, Ordering::SeqCst);
                lock(&self.state).clients.push(asker);
                continue;
            }
            self.counts.sent.fetch_add(1, Ordering::SeqCst);
            lock(&self.state).under_way.push(due);
            let connection = if self.connection == Connection::New { Connection::New } else { asker.next() };
            let sample =
                send(&asker.client, Request::get(&self.url), &self.headers, connection, due, self.timeout);
            let mut state = lock(&self.state);
            state.under_way.retain(|other| other.moment != due.moment);
            state.done.push(sample);
            state.clients.push(asker);
            self.counts.finished.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn next(&self) -> Option<(Due, Asker)> {
        let mut state = lock(&self.state);
        loop {
            if self.stop.leave.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(due) = state.waiting.pop_front() {
                let asker = state.clients.pop();
                drop(state);
                return Some((due, asker.unwrap_or_else(|| Asker::new(self.timeout))));
            }
            state.idle += 1;
            state = self.due.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Whether nothing waits and nothing is under way.
    fn quiet(&self) -> bool {
        let counts = &self.counts;
        let settled = counts.finished.load(Ordering::SeqCst) + counts.missed.load(Ordering::SeqCst);
        settled >= counts.due.load(Ordering::SeqCst)
    }
}

/// Sends one request now. `timeout` beyond the client's own limit is the client's affair.
///
/// With [`Connection::New`] the client should be one that sends no others with [`Connection::Kept`].
pub fn once(client: &Client, url: &str, headers: &Headers, connection: Connection) -> Sample {
    once_as(client, url, headers, connection, None)
}

/// The same with a request header, name and value: a user's, or one that takes the request aside.
pub fn once_as(
    client: &Client,
    url: &str,
    headers: &Headers,
    connection: Connection,
    sent: Option<(&str, &str)>,
) -> Sample {
    let due = Due { at: now(), moment: Instant::now() };
    let mut request = Request::get(url);
    request.headers.extend(sent.map(|(name, value)| (name.to_owned(), value.to_owned())));
    send(client, request, headers, connection, due, Duration::MAX)
}

fn send(
    client: &Client,
    mut request: Request,
    headers: &Headers,
    connection: Connection,
    due: Due,
    limit: Duration,
) -> Sample {
    request.keep = MAX_ANSWER;
    if connection == Connection::New {
        request.headers.push(("connection".into(), "close".into()));
    }
    let answer = client.send(&request);
    let latency = due.moment.elapsed();
    let said = |name: &str| answer.as_ref().ok().and_then(|answer| answer.header(name)).map(str::to_owned);
    let (good, status) = match &answer {
        Ok(answer) => (headers.good(answer.status), Some(answer.status)),
        Err(_) => (false, None),
    };
    Sample {
        at: due.at,
        latency_ms: latency.as_secs_f64() * 1e3,
        ok: good && latency <= limit,
        status,
        why: answer.as_ref().err().map(|none| none.why.clone()),
        version: said(&headers.release),
        server: headers.server.as_deref().and_then(said),
    }
}

/// A worker that panicked leaves its figures usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
