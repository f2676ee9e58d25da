//! Connections that were open before a rollback: nobody stays on the bad side longer than the drain
//! limit, or the router says that it cannot see to it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Side as Half, Split};

use super::*;

/// A client that keeps its connection; one that the server closed while it was idle is opened again
/// and counted apart.
struct Kept {
    address: String,
    stream: BufReader<TcpStream>,
    reopened: u32,
}

impl Kept {
    fn open(address: &str) -> Self {
        Self { address: address.to_owned(), stream: connect(address), reopened: 0 }
    }

    /// The release that answers the next request.
    fn version(&mut self) -> String {
        self.ask().unwrap_or_else(|_| {
            self.stream = connect(&self.address);
            self.reopened += 1;
            self.ask().unwrap()
        })
    }

    fn ask(&mut self) -> std::io::Result<String> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")?;
        let (version, length) = head(&mut self.stream)?;
        self.stream.read_exact(&mut vec![0; length])?;
        Ok(version)
    }
}

fn connect(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    BufReader::new(stream)
}

/// The release and the length that an answer's head names.
fn head(stream: &mut BufReader<TcpStream>) -> std::io::Result<(String, usize)> {
    let (mut version, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("x-release:") {
            value.trim().clone_into(&mut version);
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            return Ok((version, length));
        }
    }
}

/// The long answer of a side, as it comes in.
struct Long {
    stream: BufReader<TcpStream>,
    asked: Instant,
    length: usize,
    read: usize,
}

/// A side sends a piece of the long answer, and no further one for a while.
const PIECE: (usize, Duration) = (8192, Duration::from_millis(50));

impl Long {
    fn ask(address: &str) -> Self {
        let (mut stream, asked) = (connect(address), Instant::now());
        stream.get_mut().write_all(b"GET /stream HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
        let (version, length) = head(&mut stream).unwrap();
        assert_eq!(version, "1.1");
        Self { stream, asked, length, read: 0 }
    }

    /// Reads so many bytes, or all that there are; false when the answer was cut before.
    fn reads(&mut self, bytes: usize) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        while self.read < bytes.min(self.length) {
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(more) => self.read += more,
            }
        }
        true
    }

    /// Whether more comes in that was sent from now on: more than a side can have sent up to now.
    fn flows(&mut self) -> bool {
        let pieces = self.asked.elapsed().as_millis() / PIECE.1.as_millis() + 2;
        self.reads(usize::try_from(pieces).unwrap() * PIECE.0)
    }

    /// Whether it ends before its end.
    fn is_cut(&mut self) -> bool {
        !self.reads(self.length)
    }
}

/// What became of those who were on green when it was closed.
struct After {
    /// What `retire` said.
    retired: Result<u64, String>,
    /// The long answer from green.
    long: Long,
    /// Requests of the kept-alive client that met green, of fifty.
    on_green: usize,
    /// How often its idle connection had been closed.
    reopened: u32,
}

const DRAIN: Duration = Duration::from_secs(1);

fn roll_back(server: &dyn RealRouter, folder: &Path, blue: &Side, green: &Side) -> (After, Box<dyn Router>) {
    let text = plan(&server.router(blue.port, green.port), blue, green, SHORT, "");
    std::fs::write(folder.join("release.yaml"), text).unwrap();
    let loaded = Loaded::read(&folder.join("release.yaml"), BTreeMap::new()).unwrap();
    let mut router = routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap();
    router.set(Split { green: 1.0, close_idle_side: false }).unwrap();
    let address = server.url().replace("http://", "");
    let mut kept = Kept::open(&address);
    assert_eq!(kept.version(), "1.1");
    let mut long = Long::ask(&address);
    assert!(long.flows(), "the long answer comes in pieces");
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    // The long answer takes twenty seconds: nobody waits for its end.
    let retired = router.retire(Half::Green, DRAIN).map_err(|fault| fault.to_string());
    let on_green = (0..50).filter(|_| kept.version() == "1.1").count();
    let after = After { retired, long, on_green, reopened: kept.reopened };
    (after, router)
}

#[test]
fn nobody_stays_on_the_bad_side_beyond_the_drain_limit_unless_the_router_says_so() {
    for kind in routers::ALL {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let server = router::start(kind.name, folder.path(), blue.port, green.port);
        let (mut after, router) = roll_back(server.as_ref(), folder.path(), &blue, &green);
        assert_eq!(after.on_green, 0, "{}: a kept-alive client is still on green", kind.name);
        let flows = after.long.flows();
        // An answer that goes on is never passed over in silence.
        let told = after.retired.is_err() || !router.sees_open_requests();
        assert!(!flows || told, "{}: {:?}", kind.name, after.retired);
        match kind.name {
            "haproxy" => assert_eq!((&after.retired, flows), (&Ok(1), false)),
            "envoy" => {
                let said = after.retired.unwrap_err();
                assert!(said.contains("1 requests are still open on green"), "{said}");
                assert!(flows, "Envoy ends no request by a route change");
            }
            "nginx" => assert!(flows, "an old worker serves on what it has begun"),
            _ => {}
        }
        super::figure(&format!(
            "{}: long answer {} the drain limit; idle connections closed {}",
            kind.name,
            if flows { "outlives" } else { "is cut at" },
            after.reopened
        ));
    }
}

#[test]
fn nginx_cuts_long_answers_where_its_workers_have_a_time_limit() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let mut nginx = Nginx::start(folder.path(), blue.port, green.port);
    let text = std::fs::read_to_string(&nginx.config).unwrap();
    std::fs::write(&nginx.config, format!("worker_shutdown_timeout 1s;\n{text}")).unwrap();
    nginx.restart();
    let (mut after, _) = roll_back(&nginx, folder.path(), &blue, &green);
    assert_eq!(after.on_green, 0);
    assert!(after.long.is_cut());
}

#[test]
fn envoy_retires_a_side_as_soon_as_its_last_answer_has_ended() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let server = router::start("envoy", folder.path(), blue.port, green.port);
    let text = plan(&server.router(blue.port, green.port), &blue, &green, SHORT, "");
    std::fs::write(folder.path().join("release.yaml"), text).unwrap();
    let loaded = Loaded::read(&folder.path().join("release.yaml"), BTreeMap::new()).unwrap();
    let mut router = routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap();
    router.set(Split { green: 1.0, close_idle_side: false }).unwrap();
    green.answers.delay_ms.store(1500, Ordering::SeqCst);
    let before = green.served();
    let address = server.url().replace("http://", "");
    let mut slow = connect(&address);
    slow.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    wait_until("the request to be under way", || green.served() > before);
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    // It might take ten minutes, and no test waits for as long.
    assert_eq!(router.retire(Half::Green, Duration::from_secs(600)).unwrap(), 0);
    assert_eq!(head(&mut slow).unwrap().0, "1.1", "and the answer came whole");
}
