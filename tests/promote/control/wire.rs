//! What arrives on the wire of `promote listen`: strangers, garbage, too much, too slowly.

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

#[test]
fn more_clients_than_it_takes_are_sent_away_and_it_recovers() {
    let (stage, listening) = begun();
    // On a busy machine the first ones are left as too slow before the last ones come.
    wait_until("the last ten to be sent away", || {
        let mut held: Vec<TcpStream> =
            (0..80).map(|_| TcpStream::connect(("127.0.0.1", listening.port)).unwrap()).collect();
        held.iter_mut().rev().take(10).all(|stream| {
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            answer(stream).0 == 503
        })
    });
    wait_until("a free place", || listening.get("/status").0 == 200);
    nothing_happened(&stage, &listening);
}
