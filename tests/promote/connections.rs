//! Connections that were open before a rollback: nobody stays on the bad side longer than the drain
//! limit, or the router says that it cannot see to it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

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
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
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

/// Whether more of an answer still comes in, looked at for a second.
fn flows(stream: &mut BufReader<TcpStream>) -> bool {
    let (until, mut buffer) = (Instant::now() + Duration::from_secs(1), vec![0; 64 * 1024]);
    while Instant::now() < until {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

/// What became of those who were on green when it was closed.
struct After {
    /// What `retire` said.
    retired: Result<u64, String>,
    /// How long it took.
    took: Duration,
    /// Whether the long answer from green still flows.
    flows: bool,
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
    let mut stream = connect(&address);
    stream.get_mut().write_all(b"GET /stream HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    assert_eq!(head(&mut stream).unwrap().0, "1.1");
    assert!(flows(&mut stream), "the long answer comes in pieces");
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    let started = Instant::now();
    let retired = router.retire(Half::Green, DRAIN).map_err(|fault| fault.to_string());
    let took = started.elapsed();
    let on_green = (0..50).filter(|_| kept.version() == "1.1").count();
    let after = After { retired, took, flows: flows(&mut stream), on_green, reopened: kept.reopened };
    (after, router)
}

#[test]
fn nobody_stays_on_the_bad_side_beyond_the_drain_limit_unless_the_router_says_so() {
    for kind in routers::ALL {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let server = router::start(kind.name, folder.path(), blue.port, green.port);
        let (after, router) = roll_back(server.as_ref(), folder.path(), &blue, &green);
        assert_eq!(after.on_green, 0, "{}: a kept-alive client is still on green", kind.name);
        assert!(after.took < DRAIN + Duration::from_secs(1), "{}: {:?}", kind.name, after.took);
        // An answer that goes on is never passed over in silence.
        let told = after.retired.is_err() || !router.sees_open_requests();
        assert!(!after.flows || told, "{}: {:?}", kind.name, after.retired);
        match kind.name {
            "haproxy" => assert_eq!((&after.retired, after.flows), (&Ok(1), false)),
            "envoy" => {
                let said = after.retired.unwrap_err();
                assert!(said.contains("1 requests are still open on green"), "{said}");
                assert!(after.flows, "Envoy ends no request by a route change");
            }
            "nginx" => assert!(after.flows, "an old worker serves on what it has begun"),
            _ => {}
        }
        super::figure(&format!(
            "{}: long answer {} the drain limit; idle connections closed {}",
            kind.name,
            if after.flows { "outlives" } else { "is cut at" },
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
    let (after, _) = roll_back(&nginx, folder.path(), &blue, &green);
    assert_eq!((after.on_green, after.flows), (0, false));
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
    green.answers.delay_ms.store(600, Ordering::SeqCst);
    let address = server.url().replace("http://", "");
    let mut slow = connect(&address);
    slow.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    wait_until("the request to be under way", || router.counters().unwrap().unwrap().green.current == 1);
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    let started = Instant::now();
    assert_eq!(router.retire(Half::Green, Duration::from_secs(5)).unwrap(), 0);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(head(&mut slow).unwrap().0, "1.1", "and the answer came whole");
}
