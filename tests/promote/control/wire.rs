//! What arrives on the wire of `promote listen`: strangers, garbage, too much, too slowly.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use super::*;

/// Fifty per cent on green since a while, and nothing has changed.
fn nothing_happened(stage: &Stage, listening: &Listening) {
    assert_eq!(stage.phase(), "baking");
    assert_eq!(stage.haproxy.server("green").0, 50);
    for left in ["abort.json", "pause.json", "calls.json"] {
        assert!(!stage.path().join(".trapkey/production").join(left).exists(), "{left}");
    }
    assert_eq!(listening.get("/status").0, 200, "it lives: {}", listening.said());
}

fn begun() -> (Stage, Listening) {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let listening = Listening::start(&stage);
    (stage, listening)
}

#[test]
fn whoever_does_not_show_the_token_is_told_nothing_and_moves_nothing() {
    let (stage, listening) = begun();
    let abort = webhook("firing", "OrdersDrop", &[("trapkey", "abort")]);
    let almost = &TOKEN[..TOKEN.len() - 1];
    for token in ["", "x", almost, &format!("{TOKEN}x"), &TOKEN.to_uppercase()] {
        for (method, path) in [
            ("POST", "/abort"),
            ("POST", "/pause"),
            ("POST", "/alertmanager"),
            ("GET", "/status"),
            ("GET", "/validate"),
            ("GET", "/nothing"),
        ] {
            let (status, answer) = listening.call(method, path, token, &abort);
            assert_eq!(status, 401, "{method} {path} {token}");
            assert!(!answer.to_string().contains("shop"), "{answer}");
        }
    }
    let head = "POST /abort HTTP/1.1\r\nContent-Length: 0\r\n";
    for shown in [
        String::new(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("X-Authorization: Bearer {TOKEN}\r\n"),
        // Two of them: a proxy and this server could believe different ones.
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer x\r\n"),
    ] {
        assert_eq!(listening.raw(format!("{head}{shown}\r\n").as_bytes()).0, 401, "{shown}");
    }
    assert_eq!(listening.raw(format!("POST /abort?token={TOKEN} HTTP/1.1\r\n\r\n").as_bytes()).0, 401);
    nothing_happened(&stage, &listening);
    assert!(!listening.said().contains(TOKEN));
}

#[test]
fn garbage_is_refused_by_name_and_the_server_lives() {
    let (stage, listening) = begun();
    for body in [
        "",
        "nonsense",
        "[]",
        "{}",
        "{\"version\":\"3\",\"alerts\":[]}",
        "{\"version\":\"4\",\"alerts\":{}}",
        "\u{0}\u{1}",
    ] {
        assert_eq!(listening.post("/alertmanager", body).0, 400, "{body}");
    }
    let deep = "[".repeat(60_000);
    assert_eq!(listening.post("/alertmanager", &deep).0, 400);
    for body in ["nonsense", "{\"reson\": \"x\"}", "{\"reason\": 7}", "[]"] {
        assert_eq!(listening.post("/abort", body).0, 422, "{body}");
    }
    assert_eq!(listening.get("/abort").0, 405);
    assert_eq!(listening.post("/status", "").0, 405);
    assert_eq!(listening.post("/", "").0, 404);
    assert_eq!(listening.post("/abort/", "").0, 404);
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    for (bytes, expected) in [
        ("\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), 400),
        ("GET\r\n\r\n".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
        (format!("POST /abort HTTP/1.1\r\n{auth}Content-Length: -1\r\n\r\n"), 400),
        (format!("POST /abort HTTP/1.1\r\n{auth}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), 400),
        (format!("POST /abort HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 411),
        (format!("GET /status HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100)), 431),
        (format!("GET /status HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(40_000)), 431),
    ] {
        assert_eq!(listening.raw(bytes.as_bytes()).0, expected, "{}", &bytes[..bytes.len().min(80)]);
    }
    nothing_happened(&stage, &listening);
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let (stage, listening) = begun();
    let padded = |size: usize| {
        let mut text = webhook("firing", "OrdersDrop", &[("severity", "page")]);
        text.push_str(&" ".repeat(size - text.len()));
        text
    };
    assert_eq!(listening.post("/alertmanager", &padded(64 * 1024)).0, 200);
    assert_eq!(listening.post("/alertmanager", &padded(64 * 1024 + 1)).0, 413);
    let head = format!("POST /alertmanager HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n");
    for length in ["99999999999", "99999999999999999999999999"] {
        assert_eq!(listening.raw(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes()).0, 413);
    }
    nothing_happened(&stage, &listening);
}

#[test]
fn slow_clients_are_left_after_five_seconds_and_hold_nobody_up() {
    let (stage, listening) = begun();
    let head =
        format!("POST /abort HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 20\r\n\r\n{{");
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = ["", "POST /abort HT", &head]
        .iter()
        .cycle()
        .take(30)
        .map(|beginning| {
            let mut stream = TcpStream::connect(("127.0.0.1", listening.port)).unwrap();
            stream.write_all(beginning.as_bytes()).unwrap();
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            stream
        })
        .collect();
    // Others are served meanwhile.
    assert_eq!(listening.get("/status").0, 200);
    // One byte now and then does not buy more time.
    let mut dripping = TcpStream::connect(("127.0.0.1", listening.port)).unwrap();
    let drip = std::thread::spawn(move || {
        wait_until("the one that drips to be left", || {
            std::thread::sleep(Duration::from_millis(200));
            dripping.write_all(b"G").is_err()
        });
    });
    for stream in &mut slow {
        assert_eq!(answer(stream).0, 408);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4), "{took:?}");
    drip.join().unwrap();
    nothing_happened(&stage, &listening);
}

/// A connection from an address of its own: 127.0.0.N.
fn from_peer(number: u8, port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    use std::net::{Ipv4Addr, SocketAddrV4};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, number), 0))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// What a process has, by the kernel: `Threads`, `VmRSS`.
fn of_process(listening: &Listening, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", listening.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// People who come again and again, and say so little; until this is dropped.
struct Crowd {
    over: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
    all: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    /// Eight at a time, from `peers` addresses, who keep 64 connections each.
    fn gather(port: u16, peers: u8, say: &'static [u8]) -> Self {
        let (over, came) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let all = (0..8_u8)
            .map(|number| {
                let (over, came) = (over.clone(), came.clone());
                std::thread::spawn(move || {
                    let mut kept = VecDeque::new();
                    while !over.load(Ordering::SeqCst) {
                        let turn = came.fetch_add(1, Ordering::SeqCst);
                        let peer =
                            10 + u8::try_from((turn + usize::from(number)) % usize::from(peers)).unwrap();
                        let Ok(mut stream) = from_peer(peer, port) else { continue };
                        let _ = stream.write_all(say);
                        kept.push_back(stream);
                        if kept.len() > 64 {
                            kept.pop_front();
                        }
                    }
                })
            })
            .collect();
        let crowd = Self { over, came, all };
        crowd.wait_for(400);
        crowd
    }

    /// Waits for so many more to come.
    fn wait_for(&self, more: usize) {
        let until = self.came.load(Ordering::SeqCst) + more;
        wait_until("the crowd", || self.came.load(Ordering::SeqCst) >= until);
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        for one in self.all.drain(..) {
            one.join().unwrap();
        }
    }
}

#[test]
fn no_crowd_keeps_an_abort_out() {
    let (stage, mut listening) = begun();
    let said = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n");
    let before = of_process(&listening, "VmRSS");
    let crowds: [(&str, u8, &[u8]); 5] = [
        ("who say nothing", 1, b""),
        ("who say half a head", 1, b"POST /abort HTTP/1.1\r\nAuthorization: Bear"),
        ("of many peers", 200, b""),
        ("of many peers who say half a head", 200, b"GET /status HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyy"),
        ("who show the wrong token", 3, b"POST /abort HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n"),
    ];
    for (crowd, peers, say) in crowds {
        let here = Crowd::gather(listening.port, peers, say);
        for call in ["pause", "resume"] {
            here.wait_for(100);
            let (status, answer) = listening.raw(format!("POST /{call} HTTP/1.1\r\n{said}").as_bytes());
            assert_eq!(status, 200, "{call} beside those {crowd}: {answer}");
        }
        // Nobody who waits has a thread, and a place is not held for long.
        let threads = of_process(&listening, "Threads");
        assert!(threads < 16, "{threads} threads beside those {crowd}");
    }
    let grown = of_process(&listening, "VmRSS").saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB more");
    let _here = Crowd::gather(listening.port, 1, b"");
    assert_eq!(listening.raw(format!("POST /abort HTTP/1.1\r\n{said}").as_bytes()).0, 202);
    wait_until("the way back", || stage.phase() == "rolled_back");
    stage.assert_all_blue();
    assert_eq!(listening.terminate(), Some(0), "whoever has said nothing holds up no end");
}

#[test]
fn the_oldest_of_whoever_has_most_connections_give_way_and_are_told() {
    let (stage, listening) = begun();
    let quiet = from_peer(9, listening.port).unwrap();
    let mut held: Vec<TcpStream> = (0..150).map(|_| from_peer(8, listening.port).unwrap()).collect();
    // On a busy machine some have waited for too long before the last ones come.
    for stream in &mut held[..10] {
        let (status, told) = answer(stream);
        assert!([408, 503].contains(&status), "{status} {told}");
    }
    assert_eq!(listening.get("/status").0, 200);
    // Those who came last, and whoever came alone, are heard yet.
    for mut stream in [held.pop().unwrap(), quiet] {
        let said = stream.write_all(b"GET /status HTTP/1.1\r\n\r\n").map(|()| answer(&mut stream).0);
        assert!(matches!(said, Ok(401 | 408)), "{said:?}");
    }
    drop(held);
    nothing_happened(&stage, &listening);
}

#[test]
fn whoever_was_admitted_keeps_the_place_while_a_crowd_comes() {
    let (stage, listening) = begun();
    let mut slow = from_peer(9, listening.port).unwrap();
    let body = "{\"reason\": \"orders drop\"}";
    let head = format!(
        "POST /abort HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n",
        body.len()
    );
    slow.write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    let mut go_on = [0; 25];
    slow.read_exact(&mut go_on).unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 Continue"));
    {
        let _here = Crowd::gather(listening.port, 200, b"");
        slow.write_all(body.as_bytes()).unwrap();
        let (status, told) = answer(&mut slow);
        // It had five seconds, and a busy machine may need them for the crowd.
        assert!([202, 408].contains(&status), "{status} {told}");
        if status == 408 {
            assert_eq!(listening.post("/abort", body).0, 202);
        }
    }
    wait_until("the way back", || stage.phase() == "rolled_back");
    stage.assert_all_blue();
}
