//! One side of a release: a small HTTP server that names its version, and can be made sick.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A running side; it stops with the test.
pub(crate) struct Side {
    pub port: u16,
    pub answers: Arc<Answers>,
}

/// What a side answers; may be changed while it runs.
#[derive(Default)]
pub(crate) struct Answers {
    /// Every so many requests one fails with 500; 0 for none.
    pub fail_every: AtomicU32,
    /// How long an answer takes, in ms.
    pub delay_ms: AtomicU32,
    /// The status of `/health`.
    pub health: AtomicU16,
    /// The status of everything else that does not fail.
    pub status: AtomicU16,
    /// Requests so far, health left out.
    pub served: AtomicU64,
    /// The release that it names.
    version: Mutex<String>,
    stop: AtomicBool,
}

impl Side {
    /// Starts a side that names `version` in `x-release`.
    pub(crate) fn start(version: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let version = Mutex::new(version.to_owned());
        let answers = Arc::new(Answers {
            health: AtomicU16::new(200),
            status: AtomicU16::new(200),
            version,
            ..Answers::default()
        });
        let shared = Arc::clone(&answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { port, answers }
    }

    /// From now on it names another release.
    pub(crate) fn says(&self, version: &str) {
        version.clone_into(&mut self.answers.version.lock().unwrap());
    }

    /// Its own address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests so far, health left out.
    pub(crate) fn served(&self) -> u64 {
        self.answers.served.load(Ordering::SeqCst)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.answers.stop.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its thread sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: &TcpStream, answers: &Answers) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut close = false;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            close |= line.to_ascii_lowercase().starts_with("connection: close");
            if line == "\r\n" {
                break;
            }
        }
        if first.contains(" /stream ") {
            answers.served.fetch_add(1, Ordering::SeqCst);
            let version = answers.version.lock().unwrap().clone();
            return long_answer(writer, &version);
        }
        let version = answers.version.lock().unwrap().clone();
        let health = first.contains(" /health ");
        let status = if health { answers.health.load(Ordering::SeqCst) } else { status(answers) };
        std::thread::sleep(Duration::from_millis(answers.delay_ms.load(Ordering::SeqCst).into()));
        let last = if close { "connection: close\r\n" } else { "" };
        let text =
            format!("HTTP/1.1 {status} x\r\nx-release: {version}\r\n{last}content-length: 2\r\n\r\nok");
        if writer.write_all(text.as_bytes()).is_err() || close {
            return;
        }
    }
}

/// An answer of twenty seconds: a piece every 50 ms.
fn long_answer(mut writer: &TcpStream, version: &str) {
    const PIECES: usize = 400;
    let piece = [b'x'; 8192];
    let length = PIECES * piece.len();
    let head = format!("HTTP/1.1 200 x\r\nx-release: {version}\r\ncontent-length: {length}\r\n\r\n");
    let mut sent = writer.write_all(head.as_bytes());
    for _ in 0..PIECES {
        if sent.is_err() {
            return;
        }
        sent = writer.write_all(&piece);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn status(answers: &Answers) -> u16 {
    let number = answers.served.fetch_add(1, Ordering::SeqCst) + 1;
    let every = u64::from(answers.fail_every.load(Ordering::SeqCst));
    if every > 0 && number.is_multiple_of(every) { 500 } else { answers.status.load(Ordering::SeqCst) }
}
