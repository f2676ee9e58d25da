//! The time of a check is for all that it does: a peer that says a little for ever keeps nobody.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use crate::support::{call, folder, json};

/// A server that says something, and then the same again and again for as long as somebody listens.
fn server(first: &'static [u8], again: &'static [u8], pause: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut said = stream.write_all(first);
                while said.is_ok() {
                    said = stream.write_all(again);
                    std::thread::sleep(pause);
                }
            });
        }
    });
    port
}

/// A kind of check, what its peer says first and then for ever, how often, and the rest of the check.
type Case = (&'static str, &'static [u8], &'static [u8], Duration, &'static str);

/// Kinds that ask nobody who could keep them.
const ALONE: [&str; 7] = ["artifact", "disk", "dns", "env", "file", "memory", "metrics_file"];

#[test]
fn a_peer_that_says_a_little_for_ever_keeps_no_check_of_any_kind() {
    let (slow, flood) = (Duration::from_millis(20), Duration::ZERO);
    let ready: &'static [u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x01Z\0\0\0\x05I";
    let notice: &'static [u8] = b"N\0\0\0\x16SNOTICE\0Mwaits\0\0\0";
    let cases: &[Case] = &[
        ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n", flood, "target: \"http://127.0.0.1:PORT/\""),
        ("http", b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", slow, "target: \"http://127.0.0.1:PORT/\""),
        ("http", b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", slow, "target: \"http://127.0.0.1:PORT/\""),
        (
            "http",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n",
            b"x",
            slow,
            "target: \"http://127.0.0.1:PORT/\", expect: {body: \"~ ^x\"}",
        ),
        ("tls", b"\x16\x03\x03\x40\x00\x02\0\x3f\x00", b"x", slow, "target: \"127.0.0.1:PORT\""),
        ("tls", b"", b"220-and more\r\n", slow, "target: \"127.0.0.1:PORT\", with: {starttls: smtp}"),
        ("tcp", b"", b"x", slow, "target: \"127.0.0.1:PORT\", expect: {banner: \"~ y\"}"),
        ("postgres", ready, notice, slow, "target: \"postgres://u@127.0.0.1:PORT/x?sslmode=disable\""),
        ("postgres", b"", b"S", slow, "target: \"postgres://u@127.0.0.1:PORT/x\""),
        (
            "command",
            b"",
            b"",
            slow,
            "target: [sh, -c, \"sleep 600 & echo $! > sleeper\"], expect: {stdout: \"\"}",
        ),
        ("command", b"", b"", slow, "target: [sh, -c, \"while :; do echo x; sleep 0.02; done\"]"),
    ];
    for kind in trapkey::checks::ALL {
        let tried = cases.iter().any(|(name, ..)| *name == kind.name);
        assert_ne!(tried, ALONE.contains(&kind.name), "{} is tried, or asks nobody", kind.name);
    }
    let checks: String = cases
        .iter()
        .enumerate()
        .map(|(number, (kind, first, again, pause, rest))| {
            let port = server(first, again, *pause).to_string();
            format!(
                "    - {{name: \"{number}\", kind: {kind}, timeout: 300ms, {}}}\n",
                rest.replace("PORT", &port)
            )
        })
        .collect();
    let folder = folder();
    let plan =
        format!("version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n{checks}");
    std::fs::write(folder.path().join("release.yaml"), plan).unwrap();
    let ended = call("preflight", folder.path(), &[]);
    let sleeper = std::fs::read_to_string(folder.path().join("sleeper")).unwrap();
    let _ = std::process::Command::new("kill").arg(sleeper.trim()).status();
    assert_ne!(ended.code, 0, "{ended:?}");
    let document = json(&folder.path().join("evidence/preflight.json"));
    let findings = document["findings"].as_array().unwrap();
    assert_eq!(findings.len(), cases.len());
    for (finding, (kind, ..)) in findings.iter().zip(cases) {
        // Nothing of what they wait for ever ends; a machine with other things to do may be late by some.
        let took = finding["duration_ms"].as_f64().unwrap();
        assert!(took < 60_000.0 && finding["verdict"] != "pass", "{kind}: {finding}");
    }
}
