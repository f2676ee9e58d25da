//! What syslog, journald and container engines put around a server's lines.

use std::borrow::Cow;

use serde::Deserialize;

use super::access::{Attempt, Grammar};

/// How far is looked for the end of what stands before a message.
const LONGEST: usize = 300;

/// The message in a line that something else has written down: `<134>Nov 21 08:00:00 lb haproxy[9]: …`, RFC 5424,
/// journald's and Docker's JSON, what Kubernetes keeps, `name-1  | …`. None where there is nothing around it.
pub(super) fn message(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    if line.first() == Some(&b'{') {
        return in_json(line).map(Cow::Owned);
    }
    by_container(line).or_else(|| by_syslog(line)).map(Cow::Borrowed)
}

/// journald's and Docker's JSON, each known by a key of its own.
#[derive(Deserialize)]
struct Framed {
    #[serde(rename = "MESSAGE")]
    journald: Option<Message>,
    log: Option<String>,
    stream: Option<String>,
}

/// journald writes what is no text as a list of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Bytes(Vec<u8>),
}

fn in_json(line: &[u8]) -> Option<Vec<u8>> {
    let framed: Framed = serde_json::from_slice(line).ok()?;
    match (framed.journald, framed.log, framed.stream) {
        (Some(Message::Text(text)), ..) => Some(text.into_bytes()),
        (Some(Message::Bytes(bytes)), ..) => Some(bytes),
        (None, Some(text), Some(_)) => Some(text.trim_end_matches(['\n', '\r']).as_bytes().to_vec()),
        _ => None,
    }
}

/// `2026-11-21T08:00:00.1Z stdout F …` and `name-1  | …`.
fn by_container(line: &[u8]) -> Option<&[u8]> {
    let start = &line[..line.len().min(LONGEST)];
    for kept in [&b" stdout F "[..], b" stderr F "] {
        if let Some(at) = memchr::memmem::find(start, kept).filter(|at| !start[..*at].contains(&b' ')) {
            return Some(&line[at + kept.len()..]);
        }
    }
    let at = memchr::memmem::find(start, b" | ")?;
    let name = start[..at].trim_ascii_end();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (!name.is_empty() && name.iter().all(plain)).then(|| &line[at + 3..])
}

/// What stands behind `TAG[PID]: `, `TAG: `, or the header of RFC 5424.
fn by_syslog(line: &[u8]) -> Option<&[u8]> {
    let rest = match line.split_first()? {
        (b'<', after) => {
            let end = memchr::memchr(b'>', &after[..after.len().min(4)])?;
            &after[end + 1..]
        }
        _ => line,
    };
    if let Some(after) = rest.strip_prefix(b"1 ") {
        return by_rfc_5424(after);
    }
    let start = &rest[..rest.len().min(LONGEST)];
    let mut from = 0;
    loop {
        let at = from + memchr::memmem::find(&start[from..], b": ")?;
        let header = &start[..at];
        // A header has no quotes and no braces, and the only brackets in it are those around the process.
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"'{}()[]|".contains(byte) || *byte == b' ';
        let without_process = match header.strip_suffix(b"]") {
            Some(inside) => {
                let open = memchr::memrchr(b'[', inside)?;
                let digits = inside[open + 1..].iter().all(u8::is_ascii_digit);
                if digits { &inside[..open] } else { header }
            }
            None => header,
        };
        if !without_process.iter().all(plain) {
            return None;
        }
        // The name of the program is the last word, and a time or a host stands before it.
        let word = without_process.rsplit(|byte| *byte == b' ').next()?;
        if word.len() < without_process.len() && word.iter().any(u8::is_ascii_alphabetic) {
            return Some(&rest[at + 2..]);
        }
        from = at + 2;
    }
}

/// `TIME HOST NAME PROCESS ID DATA MESSAGE`.
fn by_rfc_5424(mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..5 {
        let space = memchr::memchr(b' ', &rest[..rest.len().min(LONGEST)])?;
        rest = &rest[space + 1..];
    }
    if let Some(after) = rest.strip_prefix(b"- ") {
        return Some(after.strip_prefix(b"\xef\xbb\xbf").unwrap_or(after));
    }
    // Structured data: brackets, in whose quotes a bracket has a backslash before it.
    let mut at = 0;
    while rest.get(at) == Some(&b'[') {
        at += 1;
        while *rest.get(at)? != b']' {
            at += if rest[at] == b'\\' { 2 } else { 1 };
        }
        at += 1;
    }
    let after = rest.get(at..)?.strip_prefix(b" ").filter(|_| at > 0)?;
    Some(after.strip_prefix(b"\xef\xbb\xbf").unwrap_or(after))
}

/// A kind of log, as the server itself or something around it has written it down.
pub(super) struct Framing<G>(pub(super) G);

impl<G: Grammar> Grammar for Framing<G> {
    fn time(&self, line: &[u8]) -> Option<i64> {
        self.0.time(line).or_else(|| self.0.time(&message(line)?))
    }

    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64> {
        if let Some(at) = self.0.read(line, attempts) {
            return Some(at);
        }
        attempts.clear();
        let message = message(line)?;
        let mut found = Vec::new();
        let at = self.0.read(&message, &mut found)?;
        let owned = |attempt: Attempt<'_>| Attempt { side: Cow::Owned(attempt.side.into_owned()), ..attempt };
        attempts.extend(found.into_iter().map(owned));
        Some(at)
    }

    fn is_foreign(&self, line: &[u8]) -> bool {
        let message = message(line).unwrap_or(Cow::Borrowed(line));
        self.0.is_foreign(&message)
    }

    fn zone(&self) -> Option<String> {
        self.0.zone()
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_a_line_is_taken_off() {
        let inner = r#"10.1.1.1:5 [21/Nov/2026:08:00:00.250] in shop/green 1/0/1/2/4 200 9 - - ---- 1/1/0/0/0 0/0 "GET /a: b]: c HTTP/1.1""#;
        let json = inner.replace('"', "\\\"");
        let bytes = format!("{:?}", inner.as_bytes());
        for line in [
            format!("<134>Nov 21 08:00:00 haproxy[93]: {inner}"),
            format!("Nov  1 08:00:00 lb-1 haproxy[93]: {inner}"),
            format!("Nov 21 08:00:00 lb.example.com haproxy: {inner}"),
            format!("2026-11-21T08:00:00.123456+01:00 lb haproxy[93]: {inner}"),
            format!("Sat 2026-11-21 08:00:00 CET lb haproxy[93]: {inner}"),
            format!("1795248000.250000 lb docker/haproxy-1[93]: {inner}"),
            format!("<134>1 2026-11-21T08:00:00.1Z lb haproxy 93 - - {inner}"),
            format!("<134>1 2026-11-21T08:00:00.1Z lb haproxy 93 ID47 [a@1 b=\"x\\]\"][c@2] \u{feff}{inner}"),
            format!("2026-11-21T08:00:00.123456789Z stdout F {inner}"),
            format!("haproxy-1  | {inner}"),
            format!(r#"{{"__REALTIME_TIMESTAMP":"1","MESSAGE":"{json}","_PID":"93"}}"#),
            format!(r#"{{"MESSAGE":{bytes}}}"#),
            format!(r#"{{"log":"{json}\n","stream":"stdout","time":"2026-11-21T08:00:00Z"}}"#),
        ] {
            let found = message(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(String::from_utf8_lossy(&found), inner, "{line}");
        }
    }

    #[test]
    fn where_nothing_stands_around_a_line_nothing_is_taken_off() {
        for line in [
            "",
            ": ",
            "<134>",
            "<1",
            "1 2 3",
            "{}",
            r#"{"log":"a: b"}"#,
            r#"{"msg":"Nov 21 08:00:00 lb haproxy[93]: x"}"#,
            r#"10.0.0.1 - - [21/Nov/2026:08:00:00 +0000] "GET /: HTTP/1.1" 200 2 "a: b""#,
            r#"GET "x y: z"#,
            "<134>1 a b c d",
            "<134>1 a b c d e [x",
        ] {
            assert_eq!(message(line.as_bytes()), None, "{line}");
        }
    }
}
