//! `haproxy_log`: every request or connection in a log of HAProxy.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;

use super::access::{Access, Attempt, ClientClosed, Grammar, Statuses, Whose};
use super::attempts::{Attempts, number, status};
use super::log::Log;
use super::moment::{LOCAL_TIME, local_time, whole, zoned_time};
use super::nginx_log::disorder_ms;
use super::pattern::{Piece, Shape, split, trim};
use super::{Gives, Kind, Order, Source};
use crate::units::{Share, Span, Target};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "haproxy_log",
    about: "every request in a log of HAProxy: httplog, tcplog or a log-format",
    target: "the path of the log, relative to the plan",
    example: "{name: users, kind: haproxy_log, target: /var/log/haproxy.log, with: {backend: shop}}",
    gives: Gives::Requests,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of a log of HAProxy.
///
/// Lines may stand there as HAProxy, a syslog daemon, `journalctl` or a container engine writes them. The side is told
/// by the server's name. A connection to a server that failed and was tried again is an attempt of that server that
/// failed; where HAProxy went on to another server (`+1`), it was one of the other side's, if each side is one server.
/// A request that ended because of the server (termination `S` or `s`) has failed whatever its status says, one that
/// the client left before there was an answer is left out. Lines that name no server (`<NOSRV>`) are left out, and so
/// is what is no request. A log without offsets goes by the clocks of this machine, or of `zone`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// `httplog`, `httpslog`, `tcplog`, `clf` (`option httplog clf`), or the text of `log-format`, in JSON or not;
    /// `httplog` when absent.
    format: Option<String>,
    /// The backend whose requests count; those of every other one are left out. All when absent.
    backend: Option<String>,
    /// What tells the side: `server` or `backend`; the server when absent.
    side: By,
    /// What blue is called there: one or more names; its own address, its release or the word `blue` when
    /// absent.
    blue: Option<Target>,
    /// What green is called there.
    green: Option<Target>,
    /// Which share of the requests may be those of neither side, such as `50%`; 20 % when absent. With more,
    /// nothing passes: a server of a side may have been forgotten.
    others: Option<Share>,
    /// Which attempts count: `all`, those that were tried again as well, or `last`, the one that the user got; all
    /// when absent.
    attempts: Attempts,
    /// Which statuses are errors: `5xx`, or a list of codes and classes; 5xx when absent.
    errors: Option<Target>,
    /// What becomes of requests whose client did not wait: `leave_out`, `error` or `ok`; they are left out when
    /// absent.
    client_closed: ClientClosed,
    /// Which time is the latency: `upstream`, from the connection to the server to the last byte of its answer
    /// (Ta without TR and Tw; Tc where connections are logged), or one of HAProxy's own: `Tr`, `Ta`, `Tt`, `Tc`, `Tw`;
    /// upstream when absent.
    latency: Timer,
    /// The zone of moments without an offset, such as `UTC` or `Europe/Berlin`; that of this machine when absent.
    zone: Option<String>,
    /// By how much a line may be older than one before it; 5 s when absent.
    disorder: Option<Span>,
}

/// What tells the side.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum By {
    /// The server's name.
    #[default]
    Server,
    /// The backend's name.
    Backend,
}

/// Which time is the latency.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
enum Timer {
    /// From the connection to the server to the last byte of its answer.
    #[default]
    #[serde(rename = "upstream")]
    Upstream,
    /// From the request to the first byte of the answer.
    Tr,
    /// From the client's first byte to its last.
    Ta,
    /// From the client's connection to its end.
    Tt,
    /// For the connection to the server.
    Tc,
    /// In the queue.
    Tw,
}

const HTTP: &str =
    "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq";
const TCP: &str = "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq";
const CLF: &str = "%ci - - [%trg] %{+Q}r %ST %B \"\" \"\" %cp %ms \"%ft\" \"%b\" \"%s\" %TR %Tw %Tc %Tr %Ta %tsc %ac %fc %bc %sc %rc %sq";

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings =
        if order.with.0.is_some() { order.with.read(order.variables)? } else { Settings::default() };
    let place = order.with.0.as_ref().map(|node| node.place).unwrap_or_default();
    let wrong = |message: String| Problem::at(place, message);
    let Some(target) = order.target else {
        return Err(wrong("the key `target` is missing: the path of the log".into()));
    };
    let log = Log::new(target.one().map_err(&wrong)?, order.folder, disorder_ms(settings.disorder));
    let line = Line::new(&settings).map_err(|(message, help)| wrong(message).help(help))?;
    let (blue, green) = (settings.blue.as_ref(), settings.green.as_ref());
    Ok(Box::new(Access::new(log, line, &Whose { blue, green, others: settings.others })))
}

/// Values of a line by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Time,
    Thousandths,
    Backend,
    Server,
    Status,
    State,
    Retries,
    /// TR, or Tq in older versions.
    Request,
    Queue,
    Connect,
    Response,
    Active,
    Total,
}

const SLOTS: usize = Slot::Total as usize + 1;
type Values<'l> = [&'l [u8]; SLOTS];
type Refusal = (String, String);

/// How the moment is written, and which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// By the clocks of the zone.
    Zone,
    /// With an offset.
    Offset,
    /// In seconds since 1970.
    Seconds,
}

struct Line {
    pieces: Vec<Piece>,
    clock: Clock,
    zone: (TimeZone, String),
    /// Whether it logs connections, which have no status.
    connections: bool,
    backend: Option<String>,
    by: By,
    attempts: Attempts,
    latency: Timer,
    statuses: Statuses,
}

impl Line {
    fn new(settings: &Settings) -> Result<Self, Refusal> {
        let format = match settings.format.as_deref().map_or("httplog", str::trim) {
            "httplog" | "httpslog" | "http" | "haproxy" => HTTP.to_owned(),
            "tcplog" | "tcp" => TCP.to_owned(),
            "clf" | "httplog clf" => CLF.to_owned(),
            text => configured(text),
        };
        let help = "write `httplog`, `tcplog`, `clf`, or the text of `log-format` as it stands in HAProxy's configuration";
        if !format.contains('%') {
            return Err((format!("`{format}` is no format of HAProxy's"), help.into()));
        }
        let words = words(&format)?;
        let has =
            |name: &str| words.iter().any(|word| matches!(word, Word::Name { name: own, .. } if own == name));
        let (time, clock) = [
            ("tr", Clock::Zone),
            ("t", Clock::Zone),
            ("trl", Clock::Offset),
            ("trg", Clock::Offset),
            ("Tl", Clock::Offset),
            ("T", Clock::Offset),
            ("Ts", Clock::Seconds),
        ]
        .into_iter()
        .find(|(name, _)| has(name))
        .ok_or_else(|| {
            ("the format has no moment".to_owned(), "add %tr, or %t, to `log-format`".to_owned())
        })?;
        let needed = |there: bool, what: &str| {
            let help = format!("add {what} to `log-format`");
            if there { Ok(()) } else { Err((format!("the format has no {what}"), help)) }
        };
        needed(settings.side == By::Backend || has("s"), "%s")?;
        needed(settings.side == By::Server && settings.backend.is_none() || has("b"), "%b")?;
        needed(has("ST") || has("ts") || has("tsc"), "%ST, nor %ts")?;
        let timer = match settings.latency {
            Timer::Upstream => None,
            Timer::Tr => Some("Tr"),
            Timer::Ta => Some("Ta"),
            Timer::Tt => Some("Tt"),
            Timer::Tc => Some("Tc"),
            Timer::Tw => Some("Tw"),
        };
        if let Some(timer) = timer {
            needed(has(timer), &format!("%{timer}"))?;
        }
        let slot = |name: &str| {
            Some(match name {
                name if name == time => Slot::Time,
                "ms" if clock == Clock::Seconds => Slot::Thousandths,
                "b" => Slot::Backend,
                "s" => Slot::Server,
                "ST" => Slot::Status,
                "ts" | "tsc" => Slot::State,
                "rc" => Slot::Retries,
                "TR" | "Tq" => Slot::Request,
                "Tw" => Slot::Queue,
                "Tc" => Slot::Connect,
                "Tr" => Slot::Response,
                "Ta" => Slot::Active,
                "Tt" => Slot::Total,
                _ => return None,
            })
        };
        let last =
            words.iter().rposition(|word| matches!(word, Word::Name { name, .. } if slot(name).is_some()));
        forgeable(&words[..last.unwrap_or_default()])?;
        let mut pieces = Vec::new();
        for word in &words {
            pieces.push(match word {
                Word::Text(text) => Piece::text(text),
                Word::Name { name, shape } => {
                    Piece::Value { shape: *shape, slot: slot(name).map(|slot| slot as usize) }
                }
            });
        }
        trim(&mut pieces);
        let zone = match settings.zone.as_deref() {
            None => (TimeZone::system(), "this machine".to_owned()),
            Some(name) => {
                let zone = TimeZone::get(name).map_err(|_| {
                    (format!("`{name}` is no zone"), "write a name such as UTC or Europe/Berlin".to_owned())
                })?;
                (zone, name.to_owned())
            }
        };
        Ok(Self {
            pieces,
            clock,
            zone,
            connections: !has("ST"),
            backend: settings.backend.clone(),
            by: settings.side,
            attempts: settings.attempts,
            latency: settings.latency,
            statuses: Statuses::new(settings.errors.as_ref(), settings.client_closed)
                .map_err(|message| (message, "see `errors`".to_owned()))?,
        })
    }

    fn values<'l>(&self, line: &'l [u8]) -> Option<Values<'l>> {
        let mut found = [&[][..]; SLOTS];
        split(&self.pieces, line, &mut found).then_some(found)
    }

    /// When a request ended: it is logged with its beginning.
    fn moment(&self, values: &Values<'_>) -> Option<i64> {
        let text = values[Slot::Time as usize];
        let began = match self.clock {
            Clock::Zone => zoned_time(text, &self.zone.0)?,
            Clock::Offset => local_time(text)?,
            Clock::Seconds => {
                let thousandths = number(of(values, Slot::Thousandths)).unwrap_or_default();
                whole(number(of(values, Slot::Time))? * 1e3 + thousandths)
            }
        };
        let known = [Slot::Active, Slot::Total].into_iter().find_map(|slot| timer(values, slot));
        let parts = [Slot::Request, Slot::Queue, Slot::Connect, Slot::Response];
        let lasted = known.unwrap_or_else(|| parts.into_iter().filter_map(|slot| timer(values, slot)).sum());
        began.checked_add(whole(lasted))
    }

    fn latency(&self, values: &Values<'_>) -> Option<f64> {
        let timer = |slot| timer(values, slot);
        match self.latency {
            Timer::Upstream if self.connections => timer(Slot::Connect),
            Timer::Upstream => {
                let parts = || Some(timer(Slot::Connect).unwrap_or_default() + timer(Slot::Response)?);
                let whole = timer(Slot::Active).or_else(|| timer(Slot::Total));
                // Without the answer's first byte there was none.
                timer(Slot::Response)?;
                let before =
                    timer(Slot::Request).unwrap_or_default() + timer(Slot::Queue).unwrap_or_default();
                whole.map(|whole| (whole - before).max(0.0)).or_else(parts)
            }
            Timer::Tr => timer(Slot::Response),
            Timer::Ta => timer(Slot::Active),
            Timer::Tt => timer(Slot::Total),
            Timer::Tc => timer(Slot::Connect),
            Timer::Tw => timer(Slot::Queue),
        }
    }

    /// How the request ended for its side: by who ended it, and by the status. Source: HAProxy's configuration
    /// manual, "Session state at disconnection".
    #[expect(clippy::option_option, reason = "not understood, not to be counted, or how it went")]
    fn ok(&self, values: &Values<'_>) -> Option<Option<bool>> {
        let state = values[Slot::State as usize];
        let (cause, phase) = (state.first().copied().unwrap_or(b'-'), state.get(1).copied().unwrap_or(b'-'));
        let by_status = || -> Option<Option<bool>> {
            match of(values, Slot::Status) {
                "" if self.connections => Some(Some(true)),
                // Nobody answered, and nobody says why.
                "-1" | "0" => Some(self.statuses.ok(499)),
                text => Some(self.statuses.ok(status(text)?)),
            }
        };
        match cause {
            // The server reset, did not answer in time, or went down.
            b'S' | b's' | b'D' => Some(Some(false)),
            // The client left: while there was no answer, or in the middle of a connection.
            b'C' | b'c' if phase != b'D' && phase != b'L' || self.connections => Some(self.statuses.ok(499)),
            // An operator ended it.
            b'K' => Some(None),
            _ => by_status(),
        }
    }
}

fn of<'l>(values: &Values<'l>, slot: Slot) -> &'l str {
    std::str::from_utf8(values[slot as usize]).unwrap_or_default()
}

/// A timer in ms; -1 says that it did not come to that, and `+` that it went on after the line was written.
fn timer(values: &Values<'_>, slot: Slot) -> Option<f64> {
    let text = of(values, slot);
    number(text.strip_prefix('+').unwrap_or(text))
}

impl Grammar for Line {
    fn time(&self, line: &[u8]) -> Option<i64> {
        self.moment(&self.values(line)?)
    }

    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64> {
        let values = self.values(line)?;
        let at_ms = self.moment(&values)?;
        let (backend, server) = (of(&values, Slot::Backend), of(&values, Slot::Server));
        let side = if self.by == By::Server { server } else { backend };
        let others = self.backend.as_deref().is_some_and(|own| own != backend);
        // `<NOSRV>`, `<STATS>`: HAProxy answered by itself.
        if others || side.is_empty() || side == "-" || server.starts_with('<') {
            return Some(at_ms);
        }
        let ok = self.ok(&values)?;
        let retries = of(&values, Slot::Retries);
        let again: usize = match retries.strip_prefix('+').unwrap_or(retries) {
            "" => 0,
            digits => digits.parse().ok().filter(|tries| *tries < MOST_TRIES)?,
        };
        if self.attempts == Attempts::All {
            let elsewhere = retries.starts_with('+') && self.by == By::Server;
            let failed = Attempt { side: Cow::Borrowed(side), elsewhere, ok: Some(false), latency_ms: None };
            attempts.extend(std::iter::repeat_n(failed, again));
        }
        let latency_ms = self.latency(&values);
        attempts.push(Attempt { side: Cow::Borrowed(side), elsewhere: false, ok, latency_ms });
        Some(at_ms)
    }

    /// What HAProxy says of itself, and what other programs write into the same file.
    fn is_foreign(&self, line: &[u8]) -> bool {
        if self.clock == Clock::Seconds || !matches!(self.pieces.first(), Some(Piece::Value { .. })) {
            return false;
        }
        let Some(at) = memchr::memchr(b'[', line) else { return true };
        let stamped = line[at + 1..].get(..20).is_some_and(|text| zoned_time(text, &TimeZone::UTC).is_some());
        // `… [06/Feb/2009:12:14:14.655] in/1: SSL handshake failure`
        let rest = memchr::memmem::find(&line[at..], b"] ").map_or(&[][..], |end| &line[at + end + 2..]);
        let first = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
        !stamped || first.ends_with(b":")
    }

    fn zone(&self) -> Option<String> {
        (self.clock == Clock::Zone).then(|| self.zone.1.clone())
    }

    fn show(&self) -> String {
        let by = if self.by == By::Server { "server" } else { "backend" };
        let backend = self.backend.as_ref().map(|own| format!(" of backend {own}")).unwrap_or_default();
        let attempts = if self.attempts == Attempts::All { ", every attempt" } else { ", the last attempt" };
        format!("side by {by}{backend}{attempts}")
    }
}

/// HAProxy tries a request no more often than this.
const MOST_TRIES: usize = 1000;

/// A part of a `log-format`.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Text(String),
    Name { name: String, shape: Shape },
}

/// A `log-format` as it stands in a configuration: without the keyword, quotes and backslashes that belong to that.
fn configured(text: &str) -> String {
    let text = text.strip_prefix("log-format").map_or(text, str::trim);
    for quote in ['"', '\''] {
        if let Some(inside) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return if quote == '"' { inside.replace("\\\"", "\"") } else { inside.to_owned() };
        }
    }
    text.replace("\\ ", " ").replace("\\\"", "\"")
}

/// Takes a `log-format` apart. Values in quotes of its own (`+Q`) have them as text around them.
fn words(format: &str) -> Result<Vec<Word>, Refusal> {
    let mut words: Vec<Word> = Vec::new();
    let push_text = |words: &mut Vec<Word>, text: &str| match words.last_mut() {
        Some(Word::Text(before)) => before.push_str(text),
        _ if text.is_empty() => {}
        _ => words.push(Word::Text(text.to_owned())),
    };
    let odd =
        |what: &str| (format!("{what} in the format"), "write it as in HAProxy's configuration".to_owned());
    let mut rest = format;
    let mut all_quoted = false;
    while let Some(at) = rest.find('%') {
        push_text(&mut words, &rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            push_text(&mut words, "%");
            rest = after;
            continue;
        }
        if let Some(inside) = rest.strip_prefix('(') {
            rest = inside.split_once(')').ok_or_else(|| odd("a parenthesis is open"))?.1;
        }
        let mut flags = "";
        if let Some(inside) = rest.strip_prefix('{') {
            (flags, rest) = inside.split_once('}').ok_or_else(|| odd("a brace is open"))?;
        }
        if flags.contains("json") || flags.contains("cbor") {
            let help = "use the kind `json_log` with `time`, `side`, `status` and `latency`";
            return Err(("this format is encoded as a whole".into(), help.into()));
        }
        let (name, after) = match rest.strip_prefix('[') {
            Some(_) => rest.split_at(closing(rest).ok_or_else(|| odd("a bracket is open"))?),
            None => rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())),
        };
        rest = after;
        if name.is_empty() {
            return Err(odd("a `%` that names nothing"));
        }
        if name == "o" {
            all_quoted = flags.contains("+Q");
            rest = rest.trim_start();
            continue;
        }
        let quoted = flags.contains("+Q") || all_quoted && !flags.contains("-Q") && is_text(name);
        push_text(&mut words, if quoted { "\"" } else { "" });
        if let Some(Word::Name { name: before, shape }) = words.last()
            && !matches!(shape, Shape::Fixed(_) | Shape::Braces)
        {
            let message = format!("nobody can tell where `%{before}` ends and `%{name}` begins");
            return Err((message, "put a space or quotes between them, in `log-format` too".into()));
        }
        let shape = match name {
            "hr" | "hs" => Shape::Braces,
            "Ts" => Shape::Fixed(10),
            "ms" => Shape::Fixed(3),
            "trl" | "trg" | "Tl" | "T" => Shape::Fixed(LOCAL_TIME),
            name if flags.contains("+E") || name.contains("json(") => Shape::Escaped,
            _ => Shape::Plain,
        };
        words.push(Word::Name { name: name.to_owned(), shape });
        push_text(&mut words, if quoted { "\"" } else { "" });
    }
    push_text(&mut words, rest);
    Ok(words)
}

/// The length of an expression in brackets.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' if depth <= 1 => return Some(at + 1),
            b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Values that are quoted where a format says so for all.
fn is_text(name: &str) -> bool {
    name.starts_with('[')
        || matches!(name, "r" | "f" | "ft" | "b" | "s" | "hrl" | "hsl" | "HM" | "HP" | "HU" | "HQ" | "HV")
}

/// A client may write what it likes into a header, and forge what follows it: before the last value that is needed
/// such a thing must be quoted so that it cannot.
fn forgeable(words: &[Word]) -> Result<(), Refusal> {
    for pair in words.windows(2) {
        let [Word::Name { name, shape }, Word::Text(text)] = pair else { continue };
        let safe = *shape == Shape::Escaped && text.starts_with('"') || name == "r" && text.starts_with('"');
        if (name == "r" || name.starts_with("[capture.") || name.starts_with("[req.")) && !safe {
            return Err((
                format!("a client may write into `%{name}`, and forge what follows it"),
                "move it to the end of `log-format`, or write it as \"%[…,json(utf8s)]\" in quotes".into(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Side, whether it was elsewhere, how it went and latency of each attempt.
    type Seen = Vec<(String, bool, Option<bool>, Option<f64>)>;

    fn utc() -> Settings {
        Settings { zone: Some("UTC".into()), ..Settings::default() }
    }

    fn read(settings: &Settings, text: &str) -> Option<(i64, Seen)> {
        let grammar = Line::new(settings).unwrap_or_else(|(message, _)| panic!("{message}"));
        let mut found = Vec::new();
        let at = grammar.read(text.as_bytes(), &mut found)?;
        assert_eq!(grammar.time(text.as_bytes()), Some(at));
        Some((
            at,
            found.into_iter().map(|a| (a.side.into_owned(), a.elsewhere, a.ok, a.latency_ms)).collect(),
        ))
    }

    fn http(middle: &str) -> String {
        format!(
            r#"192.0.2.7:40112 [21/Nov/2026:08:00:00.250] www~ {middle} {{agent #22x#22|y}} {{}} "GET /a#22b HTTP/1.1""#
        )
    }

    const AT: i64 = 1_795_248_000_250;

    #[test]
    fn a_request_is_read_with_its_timers() {
        let line = http("shop/green 10/5/30/69/150 200 2750 - - ---- 1/1/1/1/0 0/0");
        let of = |latency| Settings { latency, ..utc() };
        for (latency, ms) in [
            (Timer::Upstream, 135.0),
            (Timer::Tr, 69.0),
            (Timer::Ta, 150.0),
            (Timer::Tc, 30.0),
            (Timer::Tw, 5.0),
        ] {
            let one = vec![("green".to_owned(), false, Some(true), Some(ms))];
            assert_eq!(read(&of(latency), &line), Some((AT + 150, one)), "{latency:?}");
        }
        let asap = http("shop/green 10/5/30/69/+150 200 +2750 - - ---- 1/1/1/1/0 0/0");
        assert_eq!(read(&utc(), &asap), read(&utc(), &line));
        let v6 = line.replace("192.0.2.7:40112", "2001:db8::7:40112");
        assert_eq!(read(&utc(), &v6), read(&utc(), &line));
        let unix = line.replace("192.0.2.7:40112", "unix:1");
        assert_eq!(read(&utc(), &unix), read(&utc(), &line));
        let zone = Settings { zone: Some("Asia/Kolkata".into()), ..Settings::default() };
        assert_eq!(read(&zone, &line).unwrap().0, AT + 150 - 19_800_000);
    }

    #[test]
    fn how_it_ended_is_told_by_state_and_status() {
        for (state, status, ok) in [
            ("----", "200", Some(true)),
            ("----", "404", Some(true)),
            ("----", "503", Some(false)),
            ("--NI", "200", Some(true)),
            // The server's: refused, no answer, cut off in the middle, gone down.
            ("SC--", "503", Some(false)),
            ("sC--", "503", Some(false)),
            ("SH--", "502", Some(false)),
            ("sH--", "504", Some(false)),
            ("SD--", "200", Some(false)),
            ("sD--", "200", Some(false)),
            ("DD--", "200", Some(false)),
            ("PH--", "502", Some(false)),
            // The client's: before the answer it says nothing, in its middle it was one.
            ("CC--", "503", None),
            ("CH--", "-1", None),
            ("cH--", "408", None),
            ("CD--", "200", Some(true)),
            ("CD--", "500", Some(false)),
            ("KD--", "200", None),
            ("LR--", "302", Some(true)),
        ] {
            let line = http(&format!("shop/green 0/0/1/2/3 {status} 9 - - {state} 1/1/1/1/0 0/0"));
            let found = read(&utc(), &line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(found.1[0].2, ok, "{state} {status}");
        }
    }

    #[test]
    fn attempts_that_were_made_again_have_failed() {
        let failed = |elsewhere| ("green".to_owned(), elsewhere, Some(false), None);
        let last = ("green".to_owned(), false, Some(true), Some(3.0));
        let line = |retries| http(&format!("shop/green 0/0/1/2/3 200 9 - - ---- 1/1/1/1/{retries} 0/0"));
        assert_eq!(read(&utc(), &line("2")).unwrap().1, [failed(false), failed(false), last.clone()]);
        assert_eq!(read(&utc(), &line("+1")).unwrap().1, [failed(true), last.clone()]);
        assert_eq!(read(&utc(), &line("+0")).unwrap().1, std::slice::from_ref(&last));
        let only = Settings { attempts: Attempts::Last, ..utc() };
        assert_eq!(read(&only, &line("3")).unwrap().1, [last]);
        let gone = http("shop/green 0/0/-1/-1/3004 503 217 - - SC-- 1/1/0/0/3 0/0");
        assert_eq!(read(&utc(), &gone).unwrap().1, vec![failed(false); 4]);
    }

    #[test]
    fn haproxys_own_answers_and_other_backends_are_left_out() {
        for middle in [
            "www/<NOSRV> -1/-1/-1/-1/0 400 0 - - PR-- 1/1/0/0/0 0/0",
            "shop/<NOSRV> 0/0/-1/-1/0 503 0 - - SC-- 1/1/0/0/0 0/0",
            "stats/<STATS> 0/0/0/0/0 200 9 - - LR-- 1/1/0/0/0 0/0",
        ] {
            assert_eq!(read(&utc(), &http(middle)).unwrap().1, [], "{middle}");
        }
        let of = Settings { backend: Some("shop".into()), ..utc() };
        let line = |backend| http(&format!("{backend}/green 0/0/1/2/3 200 9 - - ---- 1/1/1/1/0 0/0"));
        assert_eq!(read(&of, &line("blog")).unwrap().1, []);
        assert_eq!(read(&of, &line("shop")).unwrap().1.len(), 1);
        let by = Settings { side: By::Backend, ..utc() };
        assert_eq!(read(&by, &line("shop-green")).unwrap().1[0].0, "shop-green");
    }

    #[test]
    fn connections_end_well_unless_the_server_ended_them() {
        let tcp = Settings { format: Some("tcplog".into()), ..utc() };
        let line = |state| {
            format!("192.0.2.7:4 [21/Nov/2026:08:00:00.250] db shop/green 1/7/5007 212 {state} 0/0/0/0/0 0/0")
        };
        let one = |ok| Some((AT + 5007, vec![("green".to_owned(), false, ok, Some(7.0))]));
        assert_eq!(read(&tcp, &line("--")), one(Some(true)));
        assert_eq!(read(&tcp, &line("SD")), one(Some(false)));
        assert_eq!(read(&tcp, &line("sC")), one(Some(false)));
        assert_eq!(read(&tcp, &line("CD")), one(None));
        let counted = Settings { client_closed: ClientClosed::Ok, ..tcp };
        assert_eq!(read(&counted, &line("cD")), one(Some(true)));
    }

    #[test]
    fn a_log_format_of_ones_own_is_read_in_json_or_not() {
        let own = |format: &str| Settings { format: Some(format.into()), ..utc() };
        let json = own(
            r#"log-format '{"at":%Ts.%ms,"ua":"%[capture.req.hdr(0),json(utf8s)]","srv":"%s","st":%ST,"ta":%Ta,"tr":%Tr,"end":"%ts","rc":"%rc","r":%{+Q}r}'"#,
        );
        let line = r#"{"at":1795248000.250,"ua":"a \"srv\":\"blue\" \\","srv":"green","st":200,"ta":8,"tr":5,"end":"--","rc":"0","r":"GET /a#22b\ HTTP/1.1"}"#;
        let green = vec![("green".to_owned(), false, Some(true), Some(8.0))];
        assert_eq!(read(&json, line), Some((AT + 8, green.clone())));
        let bare = own(r"[%trl]\ %b/%s\ %ST\ %Tr\ %tsc\ %hr\ %[src]");
        assert_eq!(
            read(&bare, "[21/Nov/2026:09:00:00 +0100] shop/green 200 8 ---- 192.0.2.7"),
            Some((AT - 242, green.clone()))
        );
        let clf = own("clf");
        let line = r#"192.0.2.7 - - [21/Nov/2026:08:00:00 +0000] "GET /x HTTP/1.1" 503 217 "" "" 41652 945 "in" "shop" "green" 0 0 -1 -1 3005 SC-- 1 1 0 0 0 0 0 "" "" "#;
        assert_eq!(read(&clf, line), Some((AT + 2755, vec![("green".to_owned(), false, Some(false), None)])));
        for (format, said) in [
            ("main", "no format of HAProxy's"),
            ("%s %ST", "no moment"),
            ("%tr %ST", "no %s"),
            ("%tr %s", "no %ST, nor %ts"),
            ("%tr %s%ST", "where `%s` ends"),
            ("%tr %r %s %ST", "may write into `%r`"),
            ("%tr \"%[capture.req.hdr(0)]\" %s %ST", "may write into"),
            ("%{+json}o %tr %s %ST", "encoded as a whole"),
            ("%tr % %s %ST", "names nothing"),
            ("%tr %[src %s %ST", "bracket is open"),
        ] {
            let (message, help) = Line::new(&own(format)).err().unwrap();
            assert!(message.contains(said) && !help.is_empty(), "{format}: {message}");
        }
        let none = Settings { latency: Timer::Tt, ..utc() };
        assert!(Line::new(&none).err().unwrap().0.contains("%Tt"));
        let nowhere = Settings { zone: Some("Mars/Olympus".into()), ..utc() };
        assert!(Line::new(&nowhere).err().unwrap().0.contains("no zone"));
    }

    #[test]
    fn what_is_no_request_is_told_from_what_is_damaged() {
        let grammar = Line::new(&utc()).unwrap();
        let good = http("shop/green 0/0/1/2/3 200 9 - - ---- 1/1/1/1/0 0/0");
        for line in [
            "Proxy shop started.",
            "Server shop/green is DOWN, reason: Layer4 timeout, check duration: 2001ms.",
            "Connect from 192.0.2.7:4 to 192.0.2.1:80 (www/HTTP)",
            "192.0.2.7:4 [21/Nov/2026:08:00:00.250] www/1: SSL handshake failure",
            "session opened for user root [by root]",
        ] {
            assert!(grammar.time(line.as_bytes()).is_none() && grammar.is_foreign(line.as_bytes()), "{line}");
        }
        for line in [
            &good[..70],
            &good.replace("Nov", "Nop"),
            &good.replace(" 200 9 ", " 2x0 9 "),
            &good.replace("/0 0/0", "/x 0/0"),
            &good.replace("/0 0/0", "/99999 0/0"),
        ] {
            let mut found = Vec::new();
            assert!(grammar.read(line.as_bytes(), &mut found).is_none(), "{line}");
        }
        assert!(!grammar.is_foreign(&good.as_bytes()[..70]));
    }
}
