//! HTTP requests with one time limit from the first byte to the last.
//!
//! hyper speaks HTTP, rustls TLS; what is here is the way to a server: proxies as curl reads them from the
//! environment, unix sockets, trust as the plan says it, connections that are used again.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use hyper::http::{HeaderName, HeaderValue, Method};
use rustls::ClientConfig;

use super::trust::{self, Proof, Trust};
use crate::redact::redact;

mod line;
mod place;
mod proxy;
mod stream;

use line::{Broken, Full, Line};
use place::Place;
pub use place::is_url;
use proxy::Proxy;

const AGENT: &str = concat!("trapkey/", env!("CARGO_PKG_VERSION"));
/// Connections to one server that are kept for the next requests, and for how long.
const MOST_IDLE: usize = 64;
const LONGEST_IDLE: Duration = Duration::from_secs(15);

/// A client with its pool of connections.
#[derive(Clone)]
pub struct Client {
    timeout: Duration,
    /// What counts for one origin before what the plan says of its host.
    own: Option<Arc<Own>>,
    pool: Arc<Pool>,
}

/// What counts for one origin.
#[derive(Debug)]
struct Own {
    origin: Place,
    trust: Trust,
    /// The socket that it is asked through.
    socket: Option<PathBuf>,
}

/// What clones of a client share.
#[derive(Default)]
struct Pool {
    idle: Mutex<HashMap<String, Vec<(Line, Instant)>>>,
    /// Reading certificates takes milliseconds.
    configs: Mutex<HashMap<(String, u16), Arc<ClientConfig>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`, …
    pub method: String,
    /// Where to.
    pub url: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body, where there is one.
    pub body: Option<Vec<u8>>,
    /// How much of the answer's body is kept, in bytes.
    pub keep: u64,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers, names in lowercase.
    pub headers: Vec<(String, String)>,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// From the request's start to the last byte.
    pub latency: Duration,
}

/// Why there was no answer: one line, and whether it was the time limit.
#[derive(Clone, Debug)]
pub struct NoAnswer {
    /// One line, secrets left out.
    pub why: String,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// How long it took to know.
    pub after: Duration,
}

/// The same before it is known how long it took.
struct Why {
    text: String,
    late: bool,
}

impl Why {
    fn new(text: impl std::fmt::Display) -> Self {
        Self { text: text.to_string(), late: false }
    }

    fn late(doing: &str) -> Self {
        Self { text: format!("the time was up while {doing}"), late: true }
    }

    fn of(error: &io::Error, doing: &str) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::late(doing),
            _ => Self::new(line::words(error)),
        }
    }
}

/// One request on its way.
struct Hop<'a> {
    method: Method,
    place: Place,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<&'a [u8]>,
    keep: u64,
    /// What counts for it alone.
    own: Option<&'a Own>,
}

impl Client {
    /// A client whose requests end after `timeout`. It follows no redirects: see [`super::redirect`].
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, own: None, pool: Arc::default() }
    }

    /// The same with a trust of its own for the origin of a URL, before what the plan says of its host, and
    /// with a unix socket that it is asked through. Towards another origin neither of them counts.
    #[must_use]
    pub fn with_own(self, url: &str, trust: Trust, socket: Option<PathBuf>) -> Self {
        let own = Place::of(url).ok().map(|origin| Arc::new(Own { origin, trust, socket }));
        Self { own, pool: Arc::default(), ..self }
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a request and reads the answer.
    pub fn send(&self, request: &Request) -> Result<Answer, NoAnswer> {
        self.send_within(request, self.timeout)
    }

    /// The same, with a time limit of its own.
    pub fn send_within(&self, request: &Request, limit: Duration) -> Result<Answer, NoAnswer> {
        self.send_body(request, request.body.as_deref(), limit)
    }

    /// The same, with a body that is only lent, in place of the request's own.
    pub fn send_body(
        &self,
        request: &Request,
        body: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let started = Instant::now();
        let until = started + limit;
        let asked = Hop::of(request, body, self.own.as_deref()).map_err(Why::new);
        let answer = asked.and_then(|hop| self.exchange(&hop, until));
        match answer {
            Ok(answer) => Ok(Answer { latency: started.elapsed(), ..answer }),
            Err(why) => {
                Err(NoAnswer { why: redact(&why.text), timed_out: why.late, after: started.elapsed() })
            }
        }
    }

    /// A plain GET that keeps up to 64 KiB of the body.
    pub fn get(&self, url: &str) -> Result<Answer, NoAnswer> {
        self.send(&Request::get(url))
    }

    /// One request, over a connection that is there or a new one.
    fn exchange(&self, hop: &Hop<'_>, until: Instant) -> Result<Answer, Why> {
        let place = &hop.place;
        let variable = |name: &str| std::env::var(name).ok();
        let proxy = match &place.socket {
            Some(_) => None,
            None => proxy::of(place.secure, &place.host, &variable).map_err(Why::new)?,
        };
        let key = format!("{} {} {:?} {proxy:?}", place.secure, place.authority, place.socket);
        loop {
            let (mut line, used) = match self.pool.take(&key) {
                Some(line) => (line, true),
                None => (self.connect(hop, proxy.as_ref(), until)?, false),
            };
            let request = hop.request(proxy.as_ref()).map_err(Why::new)?;
            match line.send(request, until) {
                Ok(response) => {
                    let (answer, whole) = read(&mut line, hop, response, until)?;
                    if whole {
                        self.pool.put(key, line);
                    }
                    return Ok(answer);
                }
                Err(Broken::Late) => return Err(Why::late("waiting for the answer")),
                // A server may close a connection at the moment in which it is used again.
                Err(Broken::Closed { unsent, silent, .. })
                    if used && (unsent || silent && [Method::GET, Method::HEAD].contains(&hop.method)) => {}
                Err(Broken::Closed { why, .. }) => return Err(Why::new(why)),
            }
        }
    }

    fn connect(&self, hop: &Hop<'_>, proxy: Option<&Proxy>, until: Instant) -> Result<Line, Why> {
        let secure = |host: &str, port: u16| {
            // A proxy is another host than the one that is asked for.
            let own = hop.own.filter(|_| (host, port) == (&*hop.place.host, hop.place.port));
            let said = trust::towards(host, port);
            let trust = own.map_or(said.clone(), |own| own.trust.or(&said));
            Ok((self.pool.config(&trust, own.is_some(), host, port)?, trust.name(host)?))
        };
        let stream =
            stream::open(&hop.place, proxy, &secure, until).map_err(|e| Why::of(&e, "connecting"))?;
        Line::new(stream).map_err(Why::new)
    }
}

impl Pool {
    fn take(&self, key: &str) -> Option<Line> {
        loop {
            let (mut line, since) = lock(&self.idle).get_mut(key)?.pop()?;
            if since.elapsed() < LONGEST_IDLE && line.is_free() {
                return Some(line);
            }
        }
    }

    fn put(&self, key: String, mut line: Line) {
        if !line.is_free() {
            return;
        }
        let mut idle = lock(&self.idle);
        let lines = idle.entry(key).or_default();
        lines.retain(|(_, since)| since.elapsed() < LONGEST_IDLE);
        if lines.len() < MOST_IDLE {
            lines.push((line, Instant::now()));
        }
    }

    fn config(&self, trust: &Trust, own: bool, host: &str, port: u16) -> Result<Arc<ClientConfig>, String> {
        // A host may be asked for itself and, by a redirect, with nothing of its own.
        let key = (format!("{own} {host}"), port);
        if let Some(config) = lock(&self.configs).get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(trust.client(Proof::Name)?);
        lock(&self.configs).insert(key, Arc::clone(&config));
        Ok(config)
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Hop<'a> {
    fn of(request: &Request, body: Option<&'a [u8]>, own: Option<&'a Own>) -> Result<Self, String> {
        let mut place = Place::of(&request.url)?;
        let own = own.filter(|own| own.origin.same_origin(&place));
        if let Some(socket) = own.and_then(|own| own.socket.clone()) {
            place.socket = Some(socket);
        }
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| "it has no such method")?;
        let mut headers = Vec::new();
        for (name, value) in &request.headers {
            let wrong = || format!("the header `{name}` has a character that no header may have");
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.push((parsed, HeaderValue::from_str(value).map_err(|_| wrong())?));
        }
        let known = headers.iter().any(|(name, _)| name == "authorization");
        if let (Some(user), false) = (&place.user, known) {
            let value = HeaderValue::from_str(&stream::basic(user)).map_err(|error| error.to_string())?;
            headers.push((HeaderName::from_static("authorization"), value));
        }
        Ok(Self { method, place, headers, body, keep: request.keep, own })
    }

    fn request(&self, proxy: Option<&Proxy>) -> Result<hyper::Request<Full>, String> {
        let by_proxy = proxy.filter(|proxy| {
            !self.place.secure && matches!(proxy.kind, proxy::Kind::Http | proxy::Kind::Https)
        });
        let target = if by_proxy.is_some() { self.place.absolute() } else { self.place.path.clone() };
        let mut request = hyper::Request::builder()
            .method(self.method.clone())
            .uri(target)
            .body(Full::of(self.body))
            .map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let mut usual = vec![
            ("host", self.place.authority.clone()),
            ("user-agent", AGENT.to_owned()),
            ("accept", "*/*".to_owned()),
            ("accept-encoding", "gzip".to_owned()),
        ];
        usual.extend(
            by_proxy.and_then(|proxy| Some(("proxy-authorization", stream::basic(proxy.user.as_ref()?)))),
        );
        for (name, value) in usual {
            let value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
            headers.entry(name).or_insert(value);
        }
        Ok(request)
    }
}

/// Reads an answer, and says whether all of it was read.
fn read(
    line: &mut Line,
    hop: &Hop<'_>,
    response: hyper::Response<hyper::body::Incoming>,
    until: Instant,
) -> Result<(Answer, bool), Why> {
    let (head, incoming) = response.into_parts();
    let packed = head.headers.get("content-encoding").is_some_and(|value| {
        ["gzip", "x-gzip"].iter().any(|known| value.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
    });
    let mut body = Vec::new();
    let mut raw = line.body(incoming, until);
    let outcome = if packed && hop.method != Method::HEAD {
        MultiGzDecoder::new(&mut raw).take(hop.keep).read_to_end(&mut body)
    } else {
        (&mut raw).take(hop.keep).read_to_end(&mut body)
    };
    match outcome {
        // An answer that is not there, such as that of a 304, is packed in nothing.
        Err(error)
            if packed && body.is_empty() && raw.ended && error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(Why::of(&error, "reading the answer")),
        Ok(_) => {}
    }
    // What was kept up to the last byte has an end that was not seen yet.
    let whole = raw.ended || (body.len() as u64) < hop.keep && matches!(raw.read(&mut [0]), Ok(0));
    let unpacked = packed && !body.is_empty();
    let headers = head
        .headers
        .iter()
        .filter(|(name, _)| !(unpacked && ["content-encoding", "content-length"].contains(&name.as_str())))
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let status = head.status.as_u16();
    let answer = Answer { status, headers, body, latency: Duration::ZERO };
    Ok((answer, whole && status != 101))
}

impl Request {
    /// A GET that keeps up to 64 KiB of the body.
    pub fn get(url: &str) -> Self {
        Self { method: "GET".into(), url: url.into(), headers: Vec::new(), body: None, keep: 64 * 1024 }
    }
}

impl Answer {
    /// The first header of that name (given in lowercase).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Whether the status is 2xx or 3xx.
    pub fn good(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// A base address and a path, with one slash between them.
pub fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests;
