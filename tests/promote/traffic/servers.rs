//! Servers that die and come back on their port, and that know who may not send them users any more.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{free_port, wait_for};

/// Nobody has taken it out.
const NOT_HELD: u64 = u64::MAX;

/// A server of a side; it stops with the test.
pub(super) struct Server {
    pub(super) name: String,
    pub(super) port: u16,
    known: Arc<Known>,
    life: Option<Life>,
}

/// What is true of a server whether it lives or not.
struct Known {
    /// The release of its side: `7` says that it is `1.7`.
    release: Arc<AtomicU32>,
    /// Since when an operator holds it, in µs of the clock of the users.
    held_since: AtomicU64,
    /// Users' requests that were sent after that.
    while_held: AtomicU64,
}

/// One life of a server.
struct Life {
    over: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    listens: std::thread::JoinHandle<()>,
}

impl Server {
    pub(super) fn start(name: &str, release: &Arc<AtomicU32>) -> Self {
        let known = Arc::new(Known {
            release: Arc::clone(release),
            held_since: AtomicU64::new(NOT_HELD),
            while_held: AtomicU64::new(0),
        });
        let mut server = Self { name: name.to_owned(), port: free_port(), known, life: None };
        server.revive();
        server
    }

    pub(super) fn lives(&self) -> bool {
        self.life.is_some()
    }

    /// Its process ends: what it had open is cut.
    pub(super) fn die(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.over.store(true, Ordering::SeqCst);
        // Wakes the listener, so that its thread sees the end.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        life.listens.join().unwrap();
        for stream in life.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// It is started again.
    pub(super) fn revive(&mut self) {
        let listener = wait_for("the port of a server", || TcpListener::bind(("127.0.0.1", self.port)).ok());
        let over = Arc::new(AtomicBool::new(false));
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (ended, kept, known) = (Arc::clone(&over), Arc::clone(&streams), Arc::clone(&self.known));
        let listens = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let _ = stream.set_nodelay(true);
                let mut open = kept.lock().unwrap();
                // Those that have ended have no peer any more.
                open.retain(|stream| stream.peer_addr().is_ok());
                open.extend(stream.try_clone());
                let known = Arc::clone(&known);
                std::thread::spawn(move || serve(&stream, &known));
            }
        });
        self.life = Some(Life { over, streams, listens });
    }

    /// From now on no user may meet it.
    pub(super) fn hold(&self, now_us: u64) {
        self.known.held_since.store(now_us, Ordering::SeqCst);
    }

    /// From now on users may meet it again.
    pub(super) fn let_go(&self) {
        self.known.held_since.store(NOT_HELD, Ordering::SeqCst);
    }

    /// How many users' requests it got that were sent while an operator held it.
    pub(super) fn while_held(&self) -> u64 {
        self.known.while_held.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

/// The path of a user's request that is sent now.
pub(super) fn path(now_us: u64) -> String {
    format!("/user/{now_us}")
}

fn serve(mut stream: &TcpStream, known: &Known) {
    let mut buffer = [0_u8; 4096];
    let mut filled = 0;
    loop {
        let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else {
            match stream.read(&mut buffer[filled..]) {
                Ok(read) if read > 0 => filled += read,
                _ => break,
            }
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        buffer.copy_within(end + 4..filled, 0);
        filled -= end + 4;
        if let Some(sent) = head.strip_prefix("get /user/") {
            let sent: u64 = sent.split(' ').next().and_then(|us| us.parse().ok()).unwrap();
            if sent > known.held_since.load(Ordering::SeqCst) {
                known.while_held.fetch_add(1, Ordering::SeqCst);
            }
        }
        let close = head.contains("http/1.0") || head.contains("\r\nconnection: close");
        let last = if close { "connection: close\r\n" } else { "" };
        let release = known.release.load(Ordering::SeqCst);
        let text = format!("HTTP/1.1 200 x\r\nx-release: 1.{release}\r\n{last}content-length: 2\r\n\r\nok");
        if stream.write_all(text.as_bytes()).is_err() || close {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// The agents of all servers: who asks says its name.
pub(super) struct Agents {
    pub(super) port: u16,
    says: Arc<Mutex<BTreeMap<String, &'static str>>>,
}

impl Agents {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::<Mutex<BTreeMap<String, &'static str>>>::default();
        let said = Arc::clone(&says);
        // Ends with the program.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let mut name = String::new();
                let _ = BufReader::new(&stream).read_line(&mut name);
                let word = said.lock().unwrap().get(name.trim()).copied().unwrap_or("up");
                let _ = stream.write_all(format!("{word}\n").as_bytes());
            }
        });
        Self { port, says }
    }

    pub(super) fn say(&self, name: &str, word: &'static str) {
        self.says.lock().unwrap().insert(name.to_owned(), word);
    }

    pub(super) fn says(&self, name: &str) -> &'static str {
        self.says.lock().unwrap().get(name).copied().unwrap_or("up")
    }
}

/// µs since the users began.
pub(super) fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap()
}
