//! What all access logs have in common: whose request it was, and whether it went well.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;

use super::log::{Log, Window, show_line};
use super::{Ask, SideOf, Source, Trouble, UserRequest};
use crate::units::{Target, clipped, listed};

/// One kind of log.
pub(super) trait Grammar: Send {
    /// When a line was written, in ms since 1970; none when it is not understood.
    fn time(&self, line: &[u8]) -> Option<i64>;

    /// The same, and what the line says of requests: none when a side has no part in it.
    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64>;

    /// What is looked at, for people.
    fn show(&self) -> String;
}

/// A request that a side was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attempt<'l> {
    /// The side as the log calls it.
    pub(super) side: std::borrow::Cow<'l, str>,
    /// Whether it went well; none when it is not to be counted.
    pub(super) ok: Option<bool>,
    /// How long it took, in ms.
    pub(super) latency_ms: Option<f64>,
}

/// What to do with requests whose client did not wait for the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientClosed {
    /// Nobody knows how they would have ended: they do not count.
    #[default]
    LeaveOut,
    /// They count as errors.
    Error,
    /// They count as good ones.
    Ok,
}

/// Which statuses are errors.
#[derive(Clone, Debug)]
pub(super) struct Statuses {
    errors: [bool; 1000],
    client_closed: ClientClosed,
}

impl Statuses {
    /// From `5xx`, or a list of codes and classes.
    ///
    /// Errors: in words.
    pub(super) fn new(errors: Option<&Target>, client_closed: ClientClosed) -> Result<Self, String> {
        let mut found = [false; 1000];
        let words = errors.map_or_else(|| vec!["5xx".into()], Target::words);
        for word in words {
            let text = word.value.trim();
            let (low, high) = match text.strip_suffix("xx").unwrap_or(text).parse::<usize>() {
                Ok(class @ 1..=9) if text.ends_with("xx") => (class * 100, class * 100 + 99),
                Ok(code @ 100..=999) if !text.ends_with("xx") => (code, code),
                _ => return Err(format!("`{text}` is no status; write 5xx, or codes such as 502")),
            };
            found[low..=high].fill(true);
        }
        Ok(Self { errors: found, client_closed })
    }

    /// Whether a status is a good one; none when it is not to be counted.
    ///
    /// 499 is nginx's and Traefik's word for a client that did not wait, 0 Envoy's and Caddy's.
    pub(super) fn ok(&self, status: u16) -> Option<bool> {
        match (status, self.client_closed) {
            (0 | 499, ClientClosed::LeaveOut) => None,
            (0 | 499, how) => Some(how == ClientClosed::Ok),
            (status, _) => Some(!self.errors.get(usize::from(status)).is_some_and(|error| *error)),
        }
    }
}

/// An access log as a source.
pub(super) struct Access<G> {
    log: Log,
    grammar: G,
    /// What the plan says blue and green are called in the log; nothing for their own addresses.
    given: [Vec<String>; 2],
    /// Whether a line was ever that of a side.
    fitted: bool,
}

impl<G: Grammar> Access<G> {
    pub(super) fn new(log: Log, grammar: G, blue: Option<&Target>, green: Option<&Target>) -> Self {
        let words = |target: Option<&Target>| {
            target.map(Target::words).unwrap_or_default().into_iter().map(|word| word.value).collect()
        };
        Self { log, grammar, given: [words(blue), words(green)], fitted: false }
    }
}

impl<G: Grammar> Source for Access<G> {
    fn requests(
        &mut self,
        sides: &[SideOf; 2],
        ask: &Ask<'_>,
        take: &mut dyn FnMut(UserRequest),
    ) -> Result<(), Trouble> {
        let mut sides = Sides::new(sides, &self.given)?;
        let (from, to) = (ask.from.as_millisecond(), ask.to.as_millisecond());
        let window = Window { from_ms: from, to_ms: to, until: Instant::now() + ask.limit };
        let grammar = &self.grammar;
        let (mut lines, mut fitting) = (0_u64, 0_u64);
        let mut each = |line: &[u8]| {
            let mut found = Vec::new();
            let at_ms = grammar.read(line, &mut found)?;
            if (from..to).contains(&at_ms) {
                lines += 1;
                for attempt in &found {
                    let Some(side) = sides.of(&attempt.side) else { continue };
                    fitting += 1;
                    if let Some(ok) = attempt.ok {
                        take(UserRequest { side, at_ms, latency_ms: attempt.latency_ms, ok });
                    }
                }
            }
            Some(at_ms)
        };
        self.log.read(window, &|line| grammar.time(line), &mut each)?;
        self.fitted |= fitting > 0;
        if lines > 0 && !self.fitted {
            return Err(Trouble::refused(format!(
                "{}: {}",
                self.log.shown(),
                sides.none_fits(lines, &self.grammar.show())
            )));
        }
        Ok(())
    }

    fn query(&self, _: &Ask<'_>) -> String {
        format!("{}: {}", self.log.shown(), self.grammar.show())
    }
}

/// What the two sides are called in a log.
struct Sides {
    names: [Vec<Name>; 2],
    /// What a name that was met stands for.
    met: HashMap<String, Option<usize>>,
}

/// A name of a side.
#[derive(Clone, Debug)]
struct Name {
    text: String,
    host: String,
    port: Option<u16>,
}

/// Names that are remembered; a log may hold very many.
const MAX_MET: usize = 1024;

impl Sides {
    fn new(sides: &[SideOf; 2], given: &[Vec<String>; 2]) -> Result<Self, Trouble> {
        let names = |side: &SideOf, given: &[String]| -> Vec<Name> {
            if !given.is_empty() {
                return given.iter().map(|text| Name::of(text)).collect();
            }
            let mut own = vec![Name::of(&side.url), Name::of(side.word)];
            own.extend(side.release.iter().filter(|release| !release.is_empty()).map(|text| Name::of(text)));
            own
        };
        let mut found =
            Self { names: [names(&sides[0], &given[0]), names(&sides[1], &given[1])], met: HashMap::new() };
        // The same release on both sides tells nobody apart; the same address is a mistake.
        if given.iter().all(Vec::is_empty) && sides[0].release == sides[1].release {
            found.names.iter_mut().for_each(|names| names.truncate(2));
        }
        let shared = found.names[0].iter().find(|blue| found.names[1].iter().any(|green| green.is(blue)));
        match shared {
            Some(name) => Err(Trouble::refused(format!(
                "blue and green are both `{}` in it: say with `blue:` and `green:` what they are called there",
                show(&name.text)
            ))),
            None => Ok(found),
        }
    }

    /// 0 for blue, 1 for green.
    fn of(&mut self, text: &str) -> Option<usize> {
        if let Some(side) = self.met.get(text) {
            return *side;
        }
        let name = Name::of(text);
        let fits = |side: usize| self.names[side].iter().any(|own| own.is(&name));
        let side = match (fits(0), fits(1)) {
            (true, false) => Some(0),
            (false, true) => Some(1),
            _ => None,
        };
        if self.met.len() >= MAX_MET {
            self.met.clear();
        }
        self.met.insert(text.to_owned(), side);
        side
    }

    fn none_fits(&self, lines: u64, what: &str) -> String {
        let mut met: Vec<String> = self.met.keys().map(|text| show(text)).collect();
        met.sort();
        let own =
            |side: usize| self.names[side].iter().map(|name| show(&name.text)).collect::<Vec<_>>().join(", ");
        let there = if met.is_empty() { "no side at all".to_owned() } else { listed(&met, 5) };
        format!(
            "none of {lines} requests was answered by blue ({}) or green ({}); it names {there} ({what}); say with `blue:` and `green:` what they are called there",
            own(0),
            own(1)
        )
    }
}

fn show(text: &str) -> String {
    clipped(show_line(text.as_bytes()).trim_matches('`'), 60)
}

impl Name {
    /// A text, and the host and port that it may be: with or without scheme, user and path.
    fn of(text: &str) -> Self {
        let text = text.trim();
        let (rest, usual) = match text.split_once("://") {
            Some(("http", rest)) => (rest, Some(80)),
            Some(("https", rest)) => (rest, Some(443)),
            Some((_, rest)) => (rest, None),
            None => (text, None),
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let (host, port) = split_port(rest);
        let host = match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => host.trim_end_matches('.').to_ascii_lowercase(),
        };
        // A user and a password are no part of a name that is shown.
        let text = if text.contains("://") { rest.to_owned() } else { text.to_owned() };
        Self { text, host, port: port.or(usual) }
    }

    /// Whether both mean the same; a name without a port means any.
    fn is(&self, other: &Self) -> bool {
        let same_port = self.port.is_none() || other.port.is_none() || self.port == other.port;
        self.text.eq_ignore_ascii_case(&other.text)
            || (!self.host.is_empty() && self.host == other.host && same_port)
    }
}

fn split_port(text: &str) -> (&str, Option<u16>) {
    if text.parse::<Ipv6Addr>().is_ok() {
        return (text, None);
    }
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host.trim_start_matches('[').trim_end_matches(']'), Some(port)),
        _ => (text.trim_start_matches('[').trim_end_matches(']'), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(word: &'static str, url: &str, release: Option<&str>) -> SideOf {
        SideOf { word, url: url.into(), release: release.map(str::to_owned) }
    }

    #[test]
    fn a_side_is_known_by_address_word_and_release() {
        let both = [
            side("blue", "http://10.0.0.11", Some("1.4.1")),
            side("green", "http://[::ffff:10.0.0.12]:8080/x", Some("1.4.2")),
        ];
        let mut sides = Sides::new(&both, &[vec![], vec![]]).unwrap();
        for (text, expected) in [
            ("10.0.0.11:80", Some(0)),
            ("http://10.0.0.11:80", Some(0)),
            ("10.0.0.11:8080", None),
            ("10.0.0.12:8080", Some(1)),
            ("[::ffff:10.0.0.12]:8080", Some(1)),
            ("10.0.0.12:80", None),
            ("GREEN", Some(1)),
            ("1.4.1", Some(0)),
            ("1.4.2", Some(1)),
            ("1.4.3", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(sides.of(text), expected, "{text}");
        }
    }

    #[test]
    fn sides_that_cannot_be_told_apart_are_refused() {
        let both = [side("blue", "http://lb:80", Some("1")), side("green", "http://LB/", Some("1"))];
        let trouble = Sides::new(&both, &[vec![], vec![]]).err().unwrap();
        assert!(trouble.message.contains("both `lb:80`"), "{}", trouble.message);
        let given = [vec!["10.0.0.1".to_owned()], vec!["10.0.0.2".to_owned(), "10.0.0.3:81".to_owned()]];
        let mut sides = Sides::new(&both, &given).unwrap();
        let found = ["10.0.0.1:80", "10.0.0.2:9", "10.0.0.3:81", "10.0.0.3:80", "lb:80"].map(|t| sides.of(t));
        assert_eq!(found, [Some(0), Some(1), Some(1), None, None]);
    }

    #[test]
    fn statuses_are_codes_and_classes() {
        let of = |words: &[&str], closed| {
            let words = words.iter().map(|word| (*word).into()).collect();
            Statuses::new(Some(&Target::Words(words)), closed)
        };
        let usual = Statuses::new(None, ClientClosed::LeaveOut).unwrap();
        assert_eq!(
            [200, 404, 500, 599, 499, 0].map(|s| usual.ok(s)),
            [Some(true), Some(true), Some(false), Some(false), None, None]
        );
        let own = of(&["502", "4xx"], ClientClosed::Error).unwrap();
        assert_eq!(
            [500, 502, 404, 499].map(|s| own.ok(s)),
            [Some(true), Some(false), Some(false), Some(false)]
        );
        for word in ["", "5x", "xx", "99", "1000", "0xx", "ten"] {
            assert!(of(&[word], ClientClosed::Ok).is_err(), "{word}");
        }
    }
}
