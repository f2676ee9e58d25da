//! What comes over the wire: HTTP in all its shapes, unix sockets, and a PostgreSQL server that says what it wants.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trapkey::evidence::Verdict;
use trapkey::world::http::{Client, Request};

use super::connections::look;
use super::servers::Server;
use crate::support::folder;

/// Reads the head of a request; none when there is no more.
fn head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A server with an answer for each path, byte by byte as it is given; it closes after those that begin with `!`.
fn scripted(answers: &'static [(&'static str, &'static [u8])]) -> (Server, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    let server = Server::start(move |mut stream| {
        while let Some(head) = head(&mut stream) {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            log.lock().unwrap().push(head);
            let (_, answer) =
                answers.iter().find(|(known, _)| known.trim_start_matches('!') == path).unwrap();
            if stream.write_all(answer).is_err()
                || answers.iter().any(|(known, _)| *known == format!("!{path}"))
            {
                return;
            }
        }
    });
    (server, heard)
}

const GZIP: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 32\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\xd7\x51\x28\xcf\x2f\xca\x49\x01\0\x3a\x72\xab\xff\x0c\0\0\0";
const ANSWERS: &[(&str, &[u8])] = &[
    ("/length", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    ("/chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n"),
    ("!/close", b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello"),
    ("!/old", b"HTTP/1.0 200 OK\r\n\r\nhello"),
    ("/none", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("/same", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\ncontent-encoding: gzip\r\n\r\n"),
    ("/early", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    ("/packed", GZIP),
    ("/folded", b"HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 5\r\n\r\nhello"),
    ("!/short", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"),
    ("!/cut", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhello"),
    ("!/rubbish", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("!/nothing", b""),
];

#[test]
fn answers_of_every_shape_are_read_whole_or_not_at_all() {
    let (server, heard) = scripted(ANSWERS);
    let client = Client::new(Duration::from_secs(20));
    let ask = |method: &str, path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", server.port);
        client.send(&Request { method: method.into(), ..Request::get(&url) })
    };
    for path in ["/length", "/chunks", "/close", "/old", "/none", "/same", "/early", "/packed", "/folded"] {
        let answer = ask("GET", path).unwrap_or_else(|no| panic!("{path}: {}", no.why));
        let body = match path {
            "/none" | "/same" => "",
            "/packed" => "hello, world",
            _ => "hello",
        };
        assert_eq!(String::from_utf8_lossy(&answer.body), body, "{path}");
        assert_eq!(answer.header("content-encoding").is_some(), path == "/same", "{path}");
    }
    assert_eq!(ask("HEAD", "/same").unwrap().status, 304);
    for path in ["/short", "/cut", "/rubbish", "/nothing"] {
        let no = ask("GET", path).unwrap_err();
        assert!(!no.timed_out, "{path}: {}", no.why);
    }
    let head = heard.lock().unwrap()[0].to_lowercase();
    for line in ["get /length http/1.1", "host: 127.0.0.1:", "user-agent: trapkey/", "accept: */*"] {
        assert!(head.contains(line), "{head}");
    }
}

#[test]
fn a_connection_is_used_again_and_one_that_was_closed_meanwhile_costs_nothing() {
    let connections = Arc::new(Mutex::new(0));
    let count = Arc::clone(&connections);
    // Every connection takes two requests; the third meets a closed door.
    let server = Server::start(move |mut stream| {
        *count.lock().unwrap() += 1;
        for _ in 0..2 {
            if head(&mut stream).is_none() {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let client = Client::new(Duration::from_secs(20));
    let url = format!("http://127.0.0.1:{}/", server.port);
    for _ in 0..6 {
        assert_eq!(client.get(&url).unwrap().body, b"ok");
    }
    assert_eq!(*connections.lock().unwrap(), 3);
}

#[test]
fn a_server_that_drips_is_left_when_the_time_is_up() {
    let server = Server::start(|mut stream| {
        let _ = head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let started = Instant::now();
    let client = Client::new(Duration::from_millis(300));
    let no = client.get(&format!("http://127.0.0.1:{}/", server.port)).unwrap_err();
    assert!(no.timed_out && started.elapsed() >= Duration::from_millis(300), "{}", no.why);
}

#[test]
fn many_headers_credentials_and_unix_sockets() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heads);
    let many = Server::start(move |mut stream| {
        let Some(head) = head(&mut stream) else { return };
        log.lock().unwrap().push(head);
        let lines: String = (0..1500).map(|n| format!("x-header-{n}: {n}\r\n")).collect();
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\n\r\n").as_bytes());
    });
    let folder = folder();
    let socket = folder.path().join("a b.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let local = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            heads.push(head(&mut stream).unwrap());
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nlocal").unwrap();
        }
        heads
    });
    let shown = socket.display().to_string();
    let encoded = shown.replace('/', "%2F").replace(' ', "%20");
    let local_check = |rest: &str| format!("kind: http, {rest}, expect: {{body: local}}");
    let findings = look(
        folder.path(),
        "",
        &[
            format!(
                "kind: http, target: \"http://me%40corp:a%2Fb%3Ac@127.0.0.1:{}/\", expect: {{\"header:x-header-1499\": \"1499\"}}",
                many.port
            ),
            local_check(&format!("target: \"http+unix://{encoded}/health?x=1\"")),
            local_check(
                &format!("target: \"http://unix:{encoded}:/health?x=1\"")
                    .replace("%2F", "/")
                    .replace("%20", " "),
            ),
            local_check("target: \"http://shop.test/health?x=1\", with: {unix_socket: a b.sock}"),
            format!("kind: http, target: \"http+unix://{encoded}.none/\""),
        ],
    );
    let verdicts: Vec<_> = findings.iter().map(|f| (f.verdict, f.message.as_str())).collect();
    assert!(verdicts[..4].iter().all(|(verdict, _)| *verdict == Verdict::Pass), "{verdicts:#?}");
    assert!(verdicts[4].0 == Verdict::Fail && verdicts[4].1.contains("a b.sock.none"), "{verdicts:#?}");
    // `me@corp:a/b:c`
    assert!(heads.lock().unwrap()[0].contains("authorization: Basic bWVAY29ycDphL2I6Yw=="));
    let mut heads = local.join().unwrap();
    heads.sort();
    assert!(heads.iter().all(|head| head.starts_with("GET /health?x=1 HTTP/1.1\r\n")), "{heads:?}");
    let hosts: Vec<_> =
        heads.iter().filter_map(|head| head.lines().find(|line| line.starts_with("host:"))).collect();
    assert_eq!(hosts.iter().filter(|host| **host == "host: shop.test").count(), 1, "{hosts:?}");
}

/// A message of PostgreSQL's protocol.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &length, body].concat()
}

/// A PostgreSQL server without a database: one column with these bytes for every question that is none of a
/// transaction; what it is asked is kept.
fn answers(value: &'static [u8], asked: Arc<Mutex<Vec<String>>>) -> Server {
    Server::start(move |mut stream| {
        let mut length = [0; 4];
        let ready = message(b'Z', b"I");
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut rest).unwrap();
        stream.write_all(&[message(b'R', &[0; 4]), ready.clone()].concat()).unwrap();
        loop {
            let mut head = [0; 5];
            if stream.read_exact(&mut head).is_err() {
                return;
            }
            let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4];
            stream.read_exact(&mut body).unwrap();
            if head[0] == b'X' {
                return;
            }
            let question = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
            let plain = question.starts_with("BEGIN") || question.starts_with("COMMIT");
            asked.lock().unwrap().push(question);
            let column =
                [&[0, 1][..], b"x\0", &[0; 4], &[0; 2], &[0, 0, 0, 25], &[0xff; 2], &[0xff; 4], &[0; 2]]
                    .concat();
            let count = u32::try_from(value.len()).unwrap().to_be_bytes();
            let row = [&[0, 1][..], &count, value].concat();
            let rows = [message(b'T', &column), message(b'D', &row), message(b'C', b"SELECT 1\0")].concat();
            let answer = if plain { message(b'C', b"BEGIN\0") } else { rows };
            stream.write_all(&[answer, ready.clone()].concat()).unwrap();
        }
    })
}

#[test]
fn a_check_leaves_no_setting_behind_and_bytes_that_are_no_text_are_an_error_of_its_own() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let fine = answers(b"42", Arc::clone(&asked));
    let broken = answers(b"caf\xe9", Arc::default());
    let folder = folder();
    let target = |port: u16| format!("target: \"postgres://u@127.0.0.1:{port}/d?sslmode=disable\"");
    // A server that takes connections and says nothing does not hide the one behind it.
    let mute = super::servers::silent();
    let two = format!(
        "target: \"postgres://u@127.0.0.1:{},127.0.0.1:{}/d?sslmode=disable&connect_timeout=1\"",
        mute.port, fine.port
    );
    let findings = look(
        folder.path(),
        "",
        &[
            format!("kind: postgres, {}, expect: {{value: \"42\"}}", target(fine.port)),
            format!("kind: postgres, {}, expect: {{value: \"42\"}}", target(broken.port)),
            format!("kind: postgres, {}, expect: {{server_version: \"> 1\"}}", target(broken.port)),
            format!("kind: postgres, {}", target(broken.port)),
            format!("kind: postgres, {two}, timeout: 1m"),
        ],
    );
    for finding in [&findings[0], &findings[4]] {
        assert_eq!(finding.verdict, Verdict::Pass, "{}", finding.message);
    }
    for finding in &findings[1..4] {
        assert!(
            finding.message.contains("not UTF-8") && finding.verdict != Verdict::Pass,
            "{}",
            finding.message
        );
    }
    // Whatever is set is set in a transaction and ends with it: a pooled connection goes back as it was.
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("BEGIN; SET LOCAL statement_timeout = "), "{asked:?}");
    assert_eq!(asked.last().map(String::as_str), Some("COMMIT"));
    assert!(asked.iter().all(|question| !question.replace("SET LOCAL", "").contains("SET ")), "{asked:?}");
}
