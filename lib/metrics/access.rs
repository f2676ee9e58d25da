//! What all access logs have in common: whose request it was, and whether it went well.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use super::framing::Framing;
use super::log::{Log, Told, Window, moment, show_line};
use super::{Ask, SideOf, Source, Trouble, UserRequest};
use crate::units::{Share, Target, clipped, listed, show_duration};

/// One kind of log.
pub(super) trait Grammar: Send {
    /// When a line was written, in ms since 1970; none when it is not understood.
    fn time(&self, line: &[u8]) -> Option<i64>;

    /// The same, and what the line says of requests: none when a side has no part in it.
    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64>;

    /// Whether a line that is not understood is none of this log's requests, and none the worse for it.
    fn is_foreign(&self, _line: &[u8]) -> bool {
        false
    }

    /// The zone whose clocks count, where lines have no offset.
    fn zone(&self) -> Option<String> {
        None
    }

    /// What is looked at, for people.
    fn show(&self) -> String;
}

/// A request that a side was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attempt<'l> {
    /// The side as the log calls it.
    pub(super) side: Cow<'l, str>,
    /// It was made on another server than that one, and the log does not say on which.
    pub(super) elsewhere: bool,
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

/// What a plan says of whose requests a log holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Whose<'p> {
    /// What blue is called in it; its own address, release or word when absent.
    pub(super) blue: Option<&'p Target>,
    /// What green is called in it.
    pub(super) green: Option<&'p Target>,
    /// The share of requests that may be those of neither side.
    pub(super) others: Option<Share>,
}

/// An access log as a source.
pub(super) struct Access<G> {
    log: Log,
    grammar: G,
    /// What the plan says blue and green are called in the log; nothing for their own addresses.
    given: [Vec<String>; 2],
    others: f64,
    /// The side whose requests all of them are.
    only: Option<usize>,
    seen: Tally,
    /// The same before the newest reading.
    before: Tally,
}

/// What was seen of a log since it was opened.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Attempts of a side, and of somebody else.
    fitting: u64,
    others: u64,
    /// The names of the latter.
    names: Vec<String>,
    /// Lines that were not there when the log was read before, and those among them that came later than
    /// is waited for.
    unread: u64,
    too_late: u64,
    /// By how much lines came later than they were read, as far as that is waited for, and at all, in ms.
    late_ms: i64,
    latest_ms: i64,
}

/// The share of requests that may be those of neither side, where the plan does not say.
const OTHERS: f64 = 0.2;
/// So many lines make a share.
const ENOUGH: u64 = 20;
/// Lines that come later than this are counted, and not waited for.
const LATEST_MS: i64 = 60_000;
/// The share of lines that may come later.
const TOO_LATE: f64 = 0.01;
/// So many names of others are shown.
const MOST_NAMES: usize = 5;

impl<G: Grammar> Access<Framing<G>> {
    pub(super) fn new(log: Log, grammar: G, whose: &Whose<'_>) -> Self {
        let words = |target: Option<&Target>| {
            target.map(Target::words).unwrap_or_default().into_iter().map(|word| word.value).collect()
        };
        let others = whose.others.map_or(OTHERS, |share| share.0);
        Self {
            log,
            grammar: Framing(grammar),
            given: [words(whose.blue), words(whose.green)],
            others,
            only: None,
            seen: Tally::default(),
            before: Tally::default(),
        }
    }

    /// The same of a log that is one side's own.
    pub(super) fn only(self, side: usize) -> Self {
        Self { only: Some(side), ..self }
    }

    /// What was read last counts for nothing: it is new the next time.
    pub(super) fn undo(&mut self) {
        self.log.undo();
        self.seen = std::mem::take(&mut self.before);
    }
}

impl<G: Grammar> Access<G> {
    /// Why the zone cannot be the one that the log was written by: its newest line is not of when the file was
    /// written to, by hours or quarters of them.
    fn other_clocks(&self) -> Option<OtherClocks> {
        let zone = self.grammar.zone()?;
        let (newest_ms, written_ms) = self.log.newest(&|line| self.grammar.time(line))?;
        let ahead_ms = newest_ms - written_ms;
        let from_quarter = (ahead_ms.abs() + QUARTER_MS / 2) % QUARTER_MS - QUARTER_MS / 2;
        let is_off = ahead_ms.abs() > QUARTER_MS / 2 && from_quarter.abs() < NEAR_MS;
        is_off.then(|| {
            let why = Trouble::refused(format!(
                "{}: its newest line is of {} by the clocks of {zone}, but it was written at {}: say with `zone:` by which clocks it goes",
                self.log.shown(),
                moment(newest_ms),
                moment(written_ms)
            ));
            OtherClocks { why, is_ahead: ahead_ms > 0 }
        })
    }
}

/// The zone cannot be the one that the log was written by.
struct OtherClocks {
    why: Trouble,
    /// What lies ahead never is right; what lies behind may be a file that somebody else has touched.
    is_ahead: bool,
}

/// Zones are quarters of an hour apart.
const QUARTER_MS: i64 = 900_000;
/// A line is written so soon after its moment.
const NEAR_MS: i64 = 60_000;

impl Tally {
    /// Counts a line that came after the log was read up to its moment.
    fn late(&mut self, by_ms: i64) {
        self.latest_ms = self.latest_ms.max(by_ms);
        if by_ms <= LATEST_MS {
            self.late_ms = self.late_ms.max(by_ms);
        } else {
            self.too_late += 1;
        }
    }

    fn other(&mut self, name: &str) {
        self.others += 1;
        if self.names.len() < MOST_NAMES && !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    /// Why what was seen proves nothing good.
    fn doubt(&self, others: f64) -> Option<String> {
        let all = self.fitting + self.others;
        if self.others >= ENOUGH && self.others as f64 > others * all as f64 {
            let names: Vec<String> = self.names.iter().map(|name| show(name)).collect();
            return Some(format!(
                "{} of {all} requests are neither blue's nor green's, more than {}: it names {}; add what belongs to a side to `blue:` or `green:`, or say with `others:` which share may be somebody else's",
                self.others,
                Share(others),
                listed(&names, MOST_NAMES)
            ));
        }
        (self.too_late >= 3 && self.too_late as f64 > TOO_LATE * self.unread as f64).then(|| {
            let latest = show_duration(self.latest_ms as f64 / 1e3);
            format!("lines come up to {latest} late, so its end is not known: set `delay` to as much")
        })
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
        let other_clocks = self.other_clocks();
        if let Some(OtherClocks { why, is_ahead: true }) = other_clocks {
            return Err(why);
        }
        let (grammar, only) = (&self.grammar, self.only);
        let mut seen = self.seen.clone();
        let mut lines = 0_u64;
        let mut each = |line: &[u8], missed_before: Option<i64>| {
            let mut found = Vec::new();
            let Some(at_ms) = grammar.read(line, &mut found) else {
                return if grammar.is_foreign(line) { Told::Foreign } else { Told::Odd };
            };
            seen.unread += u64::from(missed_before.is_some());
            let late_by = missed_before.map_or(0, |read_to| read_to - at_ms);
            if !(from..to).contains(&at_ms) && late_by <= 0 {
                return Told::At(at_ms);
            }
            lines += 1;
            if late_by > 0 {
                seen.late(late_by);
            }
            for attempt in &found {
                let Some(side) = only.or_else(|| sides.whose(attempt)) else {
                    seen.other(&attempt.side);
                    continue;
                };
                seen.fitting += 1;
                if let Some(ok) = attempt.ok {
                    take(UserRequest { side, at_ms, latency_ms: attempt.latency_ms, ok });
                }
            }
            Told::At(at_ms)
        };
        self.log.read(window, &|line| grammar.time(line), &mut each)?;
        if let Some(OtherClocks { why, .. }) = other_clocks.filter(|_| lines == 0) {
            self.log.undo();
            return Err(why);
        }
        if lines > 0 && seen.fitting == 0 && only.is_none() {
            self.log.undo();
            return Err(Trouble::refused(format!(
                "{}: {}",
                self.log.shown(),
                sides.none_fits(lines, &self.grammar.show())
            )));
        }
        self.before = std::mem::replace(&mut self.seen, seen);
        Ok(())
    }

    fn doubt(&self) -> Option<String> {
        self.seen.doubt(self.others).map(|why| format!("{}: {why}", self.log.shown()))
    }

    fn late(&self) -> Duration {
        Duration::from_millis(self.seen.late_ms.unsigned_abs())
    }

    fn query(&self, _: &Ask<'_>) -> String {
        format!("{}: {}", self.log.shown(), self.grammar.show())
    }
}

/// What the two sides are called in a log.
struct Sides {
    names: [Vec<Name>; 2],
    /// Whether each side is one server.
    single: bool,
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
        let mut found = Self {
            names: [names(&sides[0], &given[0]), names(&sides[1], &given[1])],
            single: given.iter().all(|names| names.len() <= 1),
            met: HashMap::new(),
        };
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

    /// Whose an attempt is. One that was made on another server than the one that is named was the other
    /// side's, where there are two servers in all.
    fn whose(&mut self, attempt: &Attempt<'_>) -> Option<usize> {
        let side = self.of(&attempt.side)?;
        if attempt.elsewhere { self.single.then_some(1 - side) } else { Some(side) }
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
