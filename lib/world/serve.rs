//! A small HTTP/1.1 server: one request on each connection, and everything about it is bounded.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::signal;
use crate::caught::caught;
use crate::fault::Fault;
use crate::redact::redact_json;

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// From the first byte of a request to its last.
    pub time: Duration,
    /// Connections at once; the next one is answered 503.
    pub at_once: usize,
}

/// Bytes of a head, and how many headers it may have.
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;

/// How often it is looked whether a signal asks to stop, in ns.
const BETWEEN_LOOKS_NS: i64 = 100_000_000;

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
    let open = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        while !signal::stop_asked() {
            if !somebody_comes(listener).map_err(broken)? {
                continue;
            }
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                // It was taken back, or there are no file descriptors left: it is tried again.
                Err(_) => {
                    signal::sleep(Duration::from_millis(20));
                    continue;
                }
            };
            if stream.set_nonblocking(false).is_err() {
                continue;
            }
            if open.fetch_add(1, Ordering::SeqCst) >= limits.at_once {
                open.fetch_sub(1, Ordering::SeqCst);
                let busy = Answer::refusal(503, "too many connections at once").with("retry-after", "1");
                let _ = write(&stream, &busy, Duration::from_millis(100));
                continue;
            }
            let open = &open;
            scope.spawn(move || {
                if caught(|| attend(&stream, limits, desk)).is_err() {
                    let sorry = Answer::refusal(500, "answering that broke");
                    let _ = write(&stream, &sorry, Duration::from_millis(100));
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
        Ok(())
    })
}

fn somebody_comes(listener: &TcpListener) -> io::Result<bool> {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let time = Timespec { tv_sec: 0, tv_nsec: BETWEEN_LOOKS_NS };
    match poll(&mut fds, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Takes one request and answers it.
fn attend(stream: &TcpStream, limits: Limits, desk: &dyn Desk) {
    let mut wire = Wire { stream, until: Instant::now() + limits.time, read: Vec::new() };
    let answer = match wire.head() {
        Ok(Some(head)) => match desk.admit(&head).and_then(|()| wire.body(&head, limits.body)) {
            Ok(body) => desk.answer(&head, &body),
            Err(answer) => answer,
        },
        Ok(None) => return,
        Err(answer) => answer,
    };
    // Whoever does not listen any more has lost nothing but the answer.
    if write(stream, &answer, limits.time).is_ok() {
        linger(stream);
    }
}

/// A connection, and until when its request must be whole.
struct Wire<'a> {
    stream: &'a TcpStream,
    until: Instant,
    read: Vec<u8>,
}

impl Wire<'_> {
    /// Reads some more; false at the end.
    fn more(&mut self) -> Result<bool, Answer> {
        let late = || Answer::refusal(408, "the request did not come in time");
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
            return Err(late());
        }
        let mut part = [0_u8; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.read.extend_from_slice(&part[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(late()),
        }
    }

    /// The head; none when the client left before it had said one. The beginning of the body stays.
    fn head(&mut self) -> Result<Option<Head>, Answer> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&self.read) {
                Ok(httparse::Status::Complete(length)) => {
                    let head = whole(&request, self.stream)?;
                    self.read.drain(..length);
                    return Ok(Some(head));
                }
                Ok(httparse::Status::Partial) if self.read.len() > HEAD => {
                    return Err(Answer::refusal(431, "the head of the request is too large"));
                }
                Ok(httparse::Status::Partial) => {}
                Err(httparse::Error::TooManyHeaders) => {
                    return Err(Answer::refusal(431, "the request has too many headers"));
                }
                Err(e) => return Err(Answer::refusal(400, format!("this is no HTTP request: {e}"))),
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn body(&mut self, head: &Head, limit: usize) -> Result<Vec<u8>, Answer> {
        if head.all("transfer-encoding").next().is_some() {
            return Err(Answer::refusal(411, "the body must come with its length, not in pieces"));
        }
        let length = match (head.header("content-length"), head.all("content-length").next()) {
            (Some(text), _) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                // One that is too long for a number is too large for anything.
                text.parse().unwrap_or(usize::MAX)
            }
            (None, None) => 0,
            _ => return Err(Answer::refusal(400, "the length of the body is not understood")),
        };
        if length > limit {
            return Err(Answer::refusal(413, format!("a body may have {limit} bytes")));
        }
        if length > self.read.len()
            && head.header("expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue"))
        {
            let _ = (&mut &*self.stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        while self.read.len() < length {
            if !self.more()? {
                return Err(Answer::refusal(400, "the body ended early"));
            }
        }
        self.read.truncate(length);
        Ok(std::mem::take(&mut self.read))
    }
}

fn whole(request: &httparse::Request<'_, '_>, stream: &TcpStream) -> Result<Head, Answer> {
    let target = request.path.unwrap_or_default();
    let headers = request
        .headers
        .iter()
        .map(|h| Ok((h.name.to_owned(), std::str::from_utf8(h.value)?.trim().to_owned())))
        .collect::<Result<_, std::str::Utf8Error>>()
        .map_err(|_| Answer::refusal(400, "a header is not UTF-8"))?;
    Ok(Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        peer: stream.peer_addr().ok().map(|peer| peer.ip()),
        headers,
    })
}

fn write(mut stream: &TcpStream, answer: &Answer, time: Duration) -> io::Result<()> {
    let mut body = answer.body.clone();
    redact_json(&mut body);
    let body = format!("{body}\n");
    let more = answer.header.as_ref().map(|(n, v)| format!("{n}: {v}\r\n")).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         connection: close\r\n{more}\r\n{body}",
        answer.status,
        reason(answer.status),
        body.len()
    );
    stream.set_write_timeout(Some(time))?;
    stream.write_all(text.as_bytes())
}

/// Reads on for a moment: a connection that is closed on unread bytes would take the answer along.
fn linger(mut stream: &TcpStream) {
    let until = Instant::now() + Duration::from_secs(1);
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut dropped = [0_u8; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        if !matches!(stream.read(&mut dropped), Ok(1..)) {
            return;
        }
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
        503 => "Service Unavailable",
        _ => "Answer",
    }
}
