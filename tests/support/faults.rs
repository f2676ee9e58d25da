//! Everything that may go wrong between a job and its store, byte by byte: answers that are cut, late,
//! lost or changed, uploads that are damaged, and stores that refuse.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is passed on, and so is the answer.
    Pass,
    /// A status and a code, instead of passing it on.
    Error(u16, &'static str),
    /// 503 `SlowDown` that asks to come again after so many seconds.
    SlowDown(u32),
    /// Half of the answer's body, then the connection ends.
    Cut,
    /// An answer of the same length with other bytes in it.
    Other,
    /// It is passed on, and the answer is lost.
    Lost,
    /// The upload's bytes are changed on their way.
    DamagedUp,
    /// No answer for ten minutes.
    Hang,
    /// The connection ends at once, and nothing was passed on.
    Reset,
    /// The conditions are taken out of it, as by a store that passes over them.
    Unconditional,
    /// The answer says another time, by so many seconds.
    Clock(i64),
    /// An answer of no S3 store.
    Garbage,
}

type Rule = Box<dyn FnMut(&str) -> Fate + Send>;

/// A proxy with faults; it stops with the test.
pub(crate) struct Faults {
    pub port: u16,
    rule: Arc<Mutex<Rule>>,
    /// What was asked for, in short and by its path.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    flying: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Faults {
    /// Starts one before the server at a port; it passes everything on.
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Fate::Pass)));
        let faults = Self {
            port,
            rule,
            seen: Arc::default(),
            flying: Arc::default(),
            most: Arc::default(),
            stop: Arc::default(),
        };
        let (rule, seen, stop) =
            (Arc::clone(&faults.rule), Arc::clone(&faults.seen), Arc::clone(&faults.stop));
        let (flying, most) = (Arc::clone(&faults.flying), Arc::clone(&faults.most));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (rule, seen, stop) = (Arc::clone(&rule), Arc::clone(&seen), Arc::clone(&stop));
                let (flying, most) = (Arc::clone(&flying), Arc::clone(&most));
                std::thread::spawn(move || {
                    most.fetch_max(flying.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // A connection that breaks is what this is for.
                    drop(serve(&stream, &rule, &seen, &stop, server));
                    flying.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        faults
    }

    /// From now on requests are treated like this; the rule gets the first line, `PUT /bucket/key?…`.
    pub(crate) fn now(&self, rule: impl FnMut(&str) -> Fate + Send + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }

    /// From now on each `every`th request whose first line begins so meets this fate.
    pub(crate) fn every(&self, every: u32, begins: &'static str, fate: Fate) {
        let mut count = 0;
        self.now(move |line| {
            if !line.starts_with(begins) {
                return Fate::Pass;
            }
            count += 1;
            if count % every == 0 { fate } else { Fate::Pass }
        });
    }

    /// The requests so far, `GET data`, `PUT locks`, …; counts from here on anew.
    pub(crate) fn take_seen(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.into_iter().map(|(short, _)| short).collect()
    }

    /// From now on requests of a kind, such as `PUT data`, get no answer until two of them, about two
    /// things, are there at the same time. Where they never are, they are refused.
    pub(crate) fn hold_until_two(&self, kind: &'static str) {
        let seen = Arc::clone(&self.seen);
        let mut met = false;
        self.now(move |line| {
            let came = || {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let paths = seen.iter().filter(|(short, _)| short == kind).map(|(_, path)| path.clone());
                paths.collect::<BTreeSet<_>>().len() >= 2
            };
            let began = Instant::now();
            while short(line) == kind && !met && began.elapsed() < super::PATIENCE {
                met = came();
                std::thread::sleep(Duration::from_millis(10));
            }
            if met || short(line) != kind { Fate::Pass } else { Fate::Error(403, "NeverTwo") }
        });
    }

    /// How many requests were under way at the same time, at most.
    pub(crate) fn most_at_once(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its thread sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

const UNSIGNED: &str = "authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\n";

fn serve(
    stream: &TcpStream,
    rule: &Mutex<Rule>,
    seen: &Mutex<Vec<(String, String)>>,
    stop: &AtomicBool,
    server: u16,
) -> std::io::Result<()> {
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
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((short(&lines[0]), path(&lines[0])));
    let fate = (rule.lock().unwrap_or_else(PoisonError::into_inner))(&lines[0]);
    let mut writer = stream;
    let mut say = |status: &str, more: &str, text: &str| {
        let head =
            format!("HTTP/1.1 {status}\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n", text.len());
        writer.write_all(format!("{head}{text}").as_bytes())
    };
    let xml = |code: &str| {
        format!(
            "<Error><Code>{code}</Code><Message>so it was asked for</Message><Region>eu-west-9</Region></Error>"
        )
    };
    match fate {
        Fate::Error(status, code) => return say(&format!("{status} x"), "", &xml(code)),
        Fate::SlowDown(after) => {
            return say("503 Slow Down", &format!("retry-after: {after}\r\n"), &xml("SlowDown"));
        }
        Fate::Garbage => return say("200 OK", "", "<html><body>Welcome to the guest network</body></html>"),
        Fate::Reset => {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(());
        }
        Fate::Hang => {
            for _ in 0..30_000 {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            return Ok(());
        }
        Fate::DamagedUp => {
            if let Some(byte) = body.last_mut() {
                *byte ^= 1;
            }
        }
        Fate::Unconditional => {
            // Without its signature the server takes what was changed.
            lines.retain(|line| !line.to_ascii_lowercase().starts_with("if-"));
            let mut words = lines[0].split(' ');
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let kept: Vec<&str> = query.split('&').filter(|p| !p.starts_with("X-Amz-")).collect();
            lines[0] = format!("{method} {path}?{} HTTP/1.1\r\n", kept.join("&"));
            lines.push(UNSIGNED.into());
        }
        _ => {}
    }
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut onward = TcpStream::connect(("127.0.0.1", server))?;
    onward.write_all(format!("{}connection: close\r\n\r\n", lines.concat()).as_bytes())?;
    onward.write_all(&body)?;
    let mut answer = Vec::new();
    onward.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    match fate {
        Fate::Lost => return Ok(()),
        Fate::Cut => answer.truncate(head + (answer.len() - head) / 2),
        Fate::Other => {
            let middle = head + (answer.len() - head) / 2;
            if let Some(byte) = answer.get_mut(middle) {
                *byte ^= 0x55;
            }
        }
        Fate::Clock(seconds) => {
            let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            let date = time.strftime("%a, %d %b %Y %H:%M:%S GMT");
            let text = String::from_utf8_lossy(&answer[..head]).into_owned();
            let kept: Vec<&str> = text
                .split("\r\n")
                .filter(|l| !l.is_empty() && !l.to_ascii_lowercase().starts_with("date:"))
                .collect();
            let new = format!("{}\r\ndate: {date}\r\n\r\n", kept.join("\r\n"));
            answer.splice(..head, new.into_bytes());
        }
        _ => {}
    }
    writer.write_all(&answer)
}

/// The thing that it is about.
fn path(line: &str) -> String {
    line.split([' ', '?']).nth(1).unwrap_or_default().to_owned()
}

/// The method, and the kind of file that it is about.
fn short(line: &str) -> String {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let kinds = ["data", "index", "snapshots", "locks", "keys", "config"];
    let target = target.replace("%2F", "/");
    let listed = target.contains("list-type");
    let kind = kinds
        .into_iter()
        .find(|kind| target.contains(&format!("/{kind}")) || target.contains(&format!("={kind}/")));
    format!("{}{} {}", method, if listed { " list" } else { "" }, kind.unwrap_or("?"))
}
