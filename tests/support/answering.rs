//! A service that is asked over HTTP and answers as a test says: well, wrongly, late or not at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub method: String,
    pub path: String,
    /// What stands behind the `?`, as it stands there.
    pub query: String,
    /// Names in lowercase.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    /// The first header of that name; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// A parameter, of the address or of a form; panics where there is none.
    pub(crate) fn parameter(&self, name: &str) -> String {
        let form = if self.header("content-type").contains("form") { self.body.as_str() } else { "" };
        let all = [self.query.as_str(), form].map(|text| form_urlencoded::parse(text.as_bytes()));
        let found = all.into_iter().flatten().find(|(key, _)| key == name);
        found.unwrap_or_else(|| panic!("no parameter {name}: {self:?}")).1.into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// What a request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status, content type, body.
    Says(u16, &'static str, String),
    /// The same, with one more header.
    SaysWith(u16, &'static str, &'static str, String),
    /// A length that the body does not have: the connection breaks.
    Breaks(String),
    /// Nothing, for ten minutes.
    Hangs,
    /// A byte every 20 ms, for ten minutes.
    Drips,
    /// More than anybody reads.
    Floods,
}

impl Reply {
    /// 200 and JSON.
    pub(crate) fn json(body: impl Into<serde_json::Value>) -> Self {
        Self::Says(200, "application/json", body.into().to_string())
    }
}

type Rule = Box<dyn FnMut(&Asked) -> Reply + Send>;

/// A running service; it stops with the test.
pub(crate) struct Answering {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
}

impl Answering {
    /// Starts a service that answers by a rule.
    pub(crate) fn start(rule: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (Arc::clone(&asked), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (rule, seen, ended) = (Arc::clone(&rule), Arc::clone(&seen), Arc::clone(&ended));
                // A connection that the other side ends is what some tests are about.
                std::thread::spawn(move || drop(serve(&stream, &rule, &seen, &ended)));
            }
        });
        Self { port, asked, stop }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its thread sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(
    stream: &TcpStream,
    rule: &Mutex<Rule>,
    seen: &Mutex<Vec<Asked>>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(asked) = read(&mut reader)? {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
        let reply = (rule.lock().unwrap_or_else(PoisonError::into_inner))(&asked);
        match reply {
            Reply::Says(status, kind, body) => say(writer, status, kind, "", &body)?,
            Reply::SaysWith(status, kind, header, body) => {
                say(writer, status, kind, &format!("{header}\r\n"), &body)?;
            }
            Reply::Breaks(body) => {
                let length = body.len() + 100;
                let head = format!(
                    "HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
                );
                return writer.write_all(format!("{head}{body}").as_bytes());
            }
            Reply::Hangs => wait(ended, TEN_MINUTES),
            Reply::Drips => {
                writer.write_all(
                    b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n",
                )?;
                for _ in 0..TEN_MINUTES {
                    writer.write_all(b" ")?;
                    wait(ended, 1);
                }
            }
            Reply::Floods => {
                const SIZE: usize = 65 * 1024 * 1024;
                let head = format!(
                    "HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: {SIZE}\r\n\r\n"
                );
                writer.write_all(head.as_bytes())?;
                let part = vec![b' '; 1024 * 1024];
                for _ in 0..SIZE / part.len() {
                    writer.write_all(&part)?;
                }
            }
        }
    }
    Ok(())
}

/// In steps of 20 ms.
const TEN_MINUTES: u32 = 30_000;

fn wait(ended: &AtomicBool, times: u32) {
    for _ in 0..times {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn say(mut writer: &TcpStream, status: u16, kind: &str, more: &str, body: &str) -> std::io::Result<()> {
    let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
    let head = format!("HTTP/1.1 {status} x\r\n{kind}{more}content-length: {}\r\n\r\n", body.len());
    writer.write_all(format!("{head}{body}").as_bytes())
}

fn read(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let (path, query) = words.next().map(|t| t.split_once('?').unwrap_or((t, ""))).unwrap_or_default();
    let mut asked = Asked { method, path: path.into(), query: query.into(), ..Asked::default() };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.split_once(':') else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut body = vec![0; asked.header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    asked.body = String::from_utf8(body).unwrap();
    Ok(Some(asked))
}
