//! What may stand between a job and an S3 store, and does not always pass on what it gets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It is passed on, and so is the answer.
    Pass,
    /// 503, `SlowDown`.
    Busy,
    /// 412, as if somebody else had been faster.
    Missed,
    /// It is passed on, and the answer is lost.
    Swallow,
    /// It is answered by what is no S3 store.
    Garbage,
    /// 403, `AccessDenied`.
    Deny,
    /// The conditions are taken out of it, as by a store that does not know them.
    Overwrite,
}

type Rule = Box<dyn FnMut(&str) -> Deed + Send>;

/// A running one; it stops with the test.
pub(crate) struct Meddler {
    pub port: u16,
    rule: Arc<Mutex<Rule>>,
    requests: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Meddler {
    /// Starts one in front of the server at a port; it passes everything on.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Deed::Pass)));
        let (requests, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (shared, count, ended) = (Arc::clone(&rule), Arc::clone(&requests), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                // A connection that breaks is what this is for.
                std::thread::spawn(move || drop(serve(&stream, &shared, server)));
            }
        });
        Self { port, rule, requests, stop }
    }

    /// From now on requests are treated like this; the rule gets the first line, `PUT /bucket/key?…`.
    pub(crate) fn now(&self, rule: impl FnMut(&str) -> Deed + Send + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its thread sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: &TcpStream, rule: &Mutex<Rule>, server: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line);
    }
    let length =
        |line: &String| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
    let mut body = vec![0; lines.iter().find_map(length).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let deed = (rule.lock().unwrap_or_else(PoisonError::into_inner))(&lines[0]);
    let say = |status: &str, text: &str| {
        let head =
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", text.len());
        let mut writer = stream;
        writer.write_all(format!("{head}{text}").as_bytes())
    };
    let error = |status: &str, code: &str| {
        say(status, &format!("<Error><Code>{code}</Code><Message>so it was asked for</Message></Error>"))
    };
    match deed {
        Deed::Busy => error("503 Slow Down", "SlowDown"),
        Deed::Missed => error("412 Precondition Failed", "PreconditionFailed"),
        Deed::Deny => error("403 Forbidden", "AccessDenied"),
        Deed::Garbage => say("200 OK", "<html><body>Welcome to the guest network</body></html>"),
        Deed::Pass | Deed::Swallow | Deed::Overwrite => {
            if deed == Deed::Overwrite {
                // Without its signature the server takes what was changed.
                lines.retain(|line| !line.to_ascii_lowercase().starts_with("if-"));
                let path = lines[0].split(['?', ' ']).nth(1).unwrap_or_default();
                lines[0] = format!("{} {path} HTTP/1.1\r\n", lines[0].split(' ').next().unwrap_or_default());
                lines.push("authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\n".into());
            }
            let mut onward = TcpStream::connect(("127.0.0.1", server))?;
            onward.write_all(format!("{}connection: close\r\n\r\n", lines.concat()).as_bytes())?;
            onward.write_all(&body)?;
            let mut answer = Vec::new();
            onward.read_to_end(&mut answer)?;
            let mut writer = stream;
            if deed == Deed::Swallow { Ok(()) } else { writer.write_all(&answer) }
        }
    }
}
