//! A small HTTP/1.1 server: one request on each connection, and everything about it is bounded.
//!
//! Whoever has said nothing yet holds a place, and no thread. Where places are short, those give way that have
//! waited longest without a head, of whoever holds most of them: a crowd of idle connections keeps nobody out.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::signal;
use crate::caught::caught;
use crate::fault::Fault;
use crate::redact::redact_json;

mod guests;

use guests::{Guest, Heard, Leaving, gives_way};

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// From the beginning of a connection to the last byte of its request.
    pub time: Duration,
    /// Answers that are made at once.
    pub at_once: usize,
    /// Connections that have not said their request yet; of those the oldest give way.
    pub waiting: usize,
    /// The same of one peer.
    pub per_peer: usize,
}

/// How often it is looked whether a signal asks to stop.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// The same while a request waits for another one to be answered.
const BETWEEN_TURNS: Duration = Duration::from_millis(5);
/// So many are let in before those who are in are heard again.
const LET_IN_AT_ONCE: usize = 32;
/// Connections that were answered, and are listened to for a moment more.
const LEAVING: usize = 64;

/// What a client asks for, before its body is read.
#[derive(Clone, Debug)]
pub struct Head {
    /// `GET`, `POST`, ….
    pub method: String,
    /// The path, without what follows a `?`.
    pub path: String,
    /// Where the client is.
    pub peer: Option<IpAddr>,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header that is given once; none where it is not, or is given twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.all(name);
        let first = all.next()?;
        all.next().is_none().then_some(first)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What a client is answered: a status, and a JSON document that is redacted on its way out.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The document.
    pub body: Value,
    /// One more header, where a status asks for it.
    pub header: Option<(&'static str, String)>,
}

impl Answer {
    /// An answer with a document.
    pub fn new(status: u16, body: Value) -> Self {
        Self { status, body, header: None }
    }

    /// A refusal in one sentence.
    pub fn refusal(status: u16, why: impl Into<String>) -> Self {
        Self::new(status, json!({"error": why.into()}))
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }
}

/// What answers.
pub trait Desk: Sync {
    /// Whether a client may ask that, before its body is read.
    ///
    /// Errors: what it is answered instead.
    fn admit(&self, head: &Head) -> Result<(), Answer>;
    /// Whether a request that was admitted goes before those that only look.
    fn goes_first(&self, head: &Head) -> bool;
    /// The answer to a request that was admitted.
    fn answer(&self, head: &Head, body: &[u8]) -> Answer;
}

/// Serves until a signal asks to stop; what was begun is answered.
///
/// Errors (4): nothing can be accepted any more.
pub fn serve(listener: &TcpListener, limits: Limits, desk: &dyn Desk) -> Result<(), Fault> {
    let broken = |e: io::Error| Fault::infrastructure("no connection can be accepted any more").cause(e);
    // Somebody may be gone again between the look and the accept.
    listener.set_nonblocking(true).map_err(broken)?;
    let limits = Limits { waiting: limits.waiting.min(files_left()), ..limits };
    let busy = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mut room = Room { limits, desk, guests: Vec::new(), whole: VecDeque::new(), leaving: Vec::new() };
        loop {
            let stops = signal::stop_asked();
            if stops {
                room.close();
                if room.is_done() {
                    return Ok(());
                }
            }
            let comes = room.await_word((!stops).then_some(listener)).map_err(broken)?;
            room.hear_all();
            if comes && !stops {
                room.let_in(listener);
            }
            room.send_away_the_late();
            while let Some(whole) = room.next_whole(busy.load(Ordering::SeqCst)) {
                answer_aside(scope, desk, limits, &busy, whole);
            }
        }
    })
}

/// How many connections may wait, by how many files this process may open: most are for what answers.
fn files_left() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 4).unwrap_or(usize::MAX).max(8)
}

/// A request that is whole.
struct Whole {
    stream: TcpStream,
    head: Head,
    body: Vec<u8>,
}

/// Makes an answer on a thread of its own, or here where there is none to be had.
fn answer_aside<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    desk: &'scope dyn Desk,
    limits: Limits,
    busy: &'scope AtomicUsize,
    whole: Whole,
) {
    busy.fetch_add(1, Ordering::SeqCst);
    let slot = Arc::new(Mutex::new(Some(whole)));
    let work = {
        let slot = Arc::clone(&slot);
        move || {
            let whole = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(whole) = whole {
                attend(&whole, limits, desk);
                busy.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    if std::thread::Builder::new().name("answer".into()).spawn_scoped(scope, work.clone()).is_err() {
        work();
    }
}

fn attend(whole: &Whole, limits: Limits, desk: &dyn Desk) {
    let Whole { stream, head, body } = whole;
    // One that breaks must not end those who come after it.
    let answer = caught(|| desk.answer(head, body))
        .unwrap_or_else(|_| Answer::refusal(500, "this broke here; what was asked may be done or not"));
    // Whoever does not listen any more has lost nothing but the answer.
    let told = stream.set_nonblocking(false).and_then(|()| {
        let mut to = stream;
        to.set_write_timeout(Some(limits.time))?;
        to.write_all(text_of(&answer).as_bytes())
    });
    if told.is_ok() {
        linger(stream);
    }
}

/// Everybody who is connected, and is not being answered yet.
struct Room<'a> {
    limits: Limits,
    desk: &'a dyn Desk,
    /// Those whose request is not whole yet, the oldest first.
    guests: Vec<Guest>,
    /// Requests that wait to be answered.
    whole: VecDeque<Whole>,
    /// Those who were answered here.
    leaving: Vec<Leaving>,
}

impl Room<'_> {
    /// Waits until somebody says something, leaves or, where `listener` is given, comes. Whether somebody comes.
    fn await_word(&mut self, listener: Option<&TcpListener>) -> io::Result<bool> {
        let streams = self.guests.iter().map(|g| &g.stream).chain(self.leaving.iter().map(|l| &l.stream));
        let mut fds: Vec<PollFd<'_>> = streams.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        let most = if self.whole.is_empty() { BETWEEN_LOOKS } else { BETWEEN_TURNS };
        let time = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut said: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let comes = listener.is_some() && said.pop() == Some(true);
        let mut said = said.into_iter();
        self.guests.iter_mut().for_each(|guest| guest.speaks = said.next() == Some(true));
        self.leaving.iter_mut().for_each(|leaving| leaving.speaks = said.next() == Some(true));
        Ok(comes)
    }

    fn hear_all(&mut self) {
        for guest in std::mem::take(&mut self.guests) {
            if guest.speaks { self.hear(guest) } else { self.guests.push(guest) }
        }
        let now = Instant::now();
        self.leaving.retain_mut(|leaving| leaving.stays(now));
    }

    /// Takes in what somebody has said by now; who has not said all stays.
    fn hear(&mut self, mut guest: Guest) {
        match guest.hear(self.desk, self.limits.body) {
            Heard::NotAll => self.guests.push(guest),
            Heard::Whole(head, body) => {
                let whole = Whole { stream: guest.stream, head, body };
                let first = |head: &Head| self.desk.goes_first(head);
                let at = if first(&whole.head) {
                    self.whole.iter().take_while(|w| first(&w.head)).count()
                } else {
                    self.whole.len()
                };
                self.whole.insert(at, whole);
                if self.whole.len() > self.limits.waiting
                    && let Some(last) = self.whole.pop_back()
                {
                    self.tell(last.stream, &busy());
                }
            }
            Heard::Wrong(answer) => self.tell(guest.stream, &answer),
            Heard::Gone => {}
        }
    }

    fn let_in(&mut self, listener: &TcpListener) {
        for _ in 0..LET_IN_AT_ONCE {
            match listener.accept() {
                Ok((stream, from)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        // What it has to say may have come along with it.
                        self.hear(Guest::new(stream, from.ip()));
                        self.make_room();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                // There are no files left to open, say.
                Err(_) => {
                    self.leaving.clear();
                    match gives_way(&self.guests, 0, self.limits.per_peer) {
                        Some(at) => self.send_away(at, &busy()),
                        None => drop(signal::sleep(Duration::from_millis(20))),
                    }
                    return;
                }
            }
        }
    }

    fn make_room(&mut self) {
        while let Some(at) = gives_way(&self.guests, self.limits.waiting, self.limits.per_peer) {
            self.send_away(at, &busy());
        }
    }

    /// Answers one who has not said all, and has not said it meanwhile.
    fn send_away(&mut self, at: usize, answer: &Answer) {
        let guest = self.guests.remove(at);
        let before = self.guests.len();
        self.hear(guest);
        if self.guests.len() > before
            && let Some(guest) = self.guests.pop()
        {
            self.tell(guest.stream, answer);
        }
    }

    fn send_away_the_late(&mut self) {
        let late = Answer::refusal(408, "the request did not come in time");
        let until = self.limits.time;
        while let Some(at) = self.guests.iter().position(|guest| guest.since.elapsed() >= until) {
            self.send_away(at, &late);
        }
    }

    /// Nobody else is let in, and whoever has begun no request leaves.
    fn close(&mut self) {
        for guest in std::mem::take(&mut self.guests) {
            self.hear(guest);
        }
        self.guests.retain(Guest::is_admitted);
    }

    fn is_done(&self) -> bool {
        self.guests.is_empty() && self.whole.is_empty()
    }

    /// The request that is to be answered next, while so many are being answered. Those that only look leave some
    /// places to the others.
    fn next_whole(&mut self, busy: usize) -> Option<Whole> {
        let first = self.whole.front().is_some_and(|whole| self.desk.goes_first(&whole.head));
        let most = if first { self.limits.at_once } else { self.limits.at_once * 3 / 4 };
        if busy < most { self.whole.pop_front() } else { None }
    }

    /// Answers here and now: it is short, and fits into what the kernel holds for a connection.
    fn tell(&mut self, stream: TcpStream, answer: &Answer) {
        let written = (&stream).write_all(text_of(answer).as_bytes());
        if written.is_err() || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        if self.leaving.len() >= LEAVING {
            self.leaving.remove(0);
        }
        self.leaving.push(Leaving::new(stream));
    }
}

fn busy() -> Answer {
    Answer::refusal(503, "too many connections at once").with("retry-after", "1")
}

fn text_of(answer: &Answer) -> String {
    let mut body = answer.body.clone();
    redact_json(&mut body);
    let body = format!("{body}\n");
    let more = answer.header.as_ref().map(|(n, v)| format!("{n}: {v}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         connection: close\r\n{more}\r\n{body}",
        answer.status,
        reason(answer.status),
        body.len()
    )
}

/// Reads on for a moment: a connection that is closed on unread bytes would take the answer along.
fn linger(stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() || stream.set_nonblocking(true).is_err() {
        return;
    }
    let Ok(stream) = stream.try_clone() else { return };
    let mut leaving = Leaving::new(stream);
    while leaving.stays(Instant::now()) {
        let mut fds = [PollFd::new(&leaving.stream, PollFlags::IN)];
        let time = Timespec { tv_sec: 0, tv_nsec: BETWEEN_LOOKS.subsec_nanos().into() };
        leaving.speaks = poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Answer",
    }
}
