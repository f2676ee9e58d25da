//! `json_log`: every request in an access log of JSON lines, such as Caddy's, Traefik's and Envoy's.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::access::{Access, Attempt, ClientClosed, Grammar, Statuses, Whose};
use super::attempts::{self, Attempts, Tried};
use super::log::Log;
use super::moment::{self, Finest, whole};
use super::nginx_log::disorder_ms;
use super::{Gives, Kind, Order, Source};
use crate::units::{Share, Span, Target};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "json_log",
    about: "every request in an access log of JSON lines",
    target: "the path of the log, relative to the plan",
    example: "{name: users, kind: json_log, target: /var/log/traefik/access.log, with: {preset: traefik}}",
    gives: Gives::Requests,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of an access log of JSON lines.
///
/// A place in a line is a key of its object, or a JSON pointer such as `/resp_headers/X-Release/0`.
/// Moments are RFC 3339 or numbers since 1970 whose unit (s, ms, us, ns) is told by their size. A line
/// with neither side nor status is no request, and left out. Rotated files beside the log are read as
/// far as they are not packed. A window that begins before the log does is
/// refused, and never taken for silence: an older line, a rotated file that was finished before, or the
/// age of the log itself must show that it reaches back.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The places of a server's own log, `nginx`, `traefik`, `caddy` or `envoy`; what is given beside it takes
    /// precedence.
    #[serde(default)]
    preset: Option<Preset>,
    /// Where the moment stands.
    #[serde(default)]
    time: Option<String>,
    /// Whether the moment is the one when the request came (`start`; then `duration` is needed) or the
    /// one when it was answered (`end`, when absent).
    #[serde(default)]
    time_is: Option<TimeIs>,
    /// Where it stands how long the whole request took.
    #[serde(default)]
    duration: Option<String>,
    /// Where the side stands; the first of several that is there.
    #[serde(default)]
    side: Option<Target>,
    /// Where the status stands.
    #[serde(default)]
    status: Option<String>,
    /// Where nginx's `$upstream_status` stands, the statuses of all attempts: `502, 200`.
    #[serde(default)]
    upstream_status: Option<String>,
    /// Which attempts count where the side is a list of several (`a, b` or JSON's `["a", "b"]`): `all`, each for
    /// the side that made it, or `last`, the one that answered the user; all when absent.
    #[serde(default)]
    attempts: Attempts,
    /// Where the latency stands; `duration` when absent.
    #[serde(default)]
    latency: Option<String>,
    /// What `duration` and `latency` count: `s`, `ms`, `us` or `ns`; ms when absent. A text with a unit of its own,
    /// such as `0.012s`, is taken by that.
    #[serde(default)]
    latency_unit: Option<LatencyUnit>,
    /// What blue is called in the log: one or more addresses or values; its own address, its release or
    /// the word `blue` when absent.
    #[serde(default)]
    blue: Option<Target>,
    /// What green is called in the log.
    #[serde(default)]
    green: Option<Target>,
    /// Which share of the requests may be those of neither side, such as `50%`; 20 % when absent. With more,
    /// nothing passes: a server of a side may have been forgotten.
    #[serde(default)]
    others: Option<Share>,
    /// Which statuses are errors: `5xx`, or a list of codes and classes; 5xx when absent.
    #[serde(default)]
    errors: Option<Target>,
    /// What becomes of requests whose client did not wait (499, or 0): `leave_out`, `error` or `ok`; they
    /// are left out when absent.
    #[serde(default)]
    client_closed: ClientClosed,
    /// By how much a line may be older than one before it; 5 s when absent.
    #[serde(default)]
    disorder: Option<Span>,
}

/// A server whose log is known.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Preset {
    /// nginx's own names: `log_format shop escape=json '{"msec":"$msec","upstream_addr":"$upstream_addr",
    /// "status":"$status","upstream_status":"$upstream_status",
    /// "upstream_response_time":"$upstream_response_time"}'`.
    Nginx,
    /// `accessLog: {format: json}`: `StartUTC` and `Duration` (ns), `ServiceAddr`, `DownstreamStatus`,
    /// `OriginDuration`. Of a retried request it holds the last attempt.
    Traefik,
    /// `ts`, `status`, `duration` (s), and the side at `upstream` (`log_append upstream
    /// {http.reverse_proxy.upstream.hostport}`, from Caddy 2.8 on) or in the response header `X-Upstream`
    /// (`header_down X-Upstream {http.reverse_proxy.upstream.hostport}`, and the same by `header` in
    /// `handle_errors`: without it an answer that Caddy gives for a dead side names nobody). Of a client
    /// that did not wait it does not tell the side.
    Caddy,
    /// `json_format: {start_time: "%START_TIME%", duration: "%DURATION%", response_code:
    /// "%RESPONSE_CODE%", upstream_host: "%UPSTREAM_HOST%"}`, which are Istio's names too. Of a retried
    /// request it holds the last attempt. It writes every ten seconds: `delay: 11s`, or less with
    /// `--file-flush-interval-msec`.
    Envoy,
}

/// Which moment of a request a line has.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum TimeIs {
    /// When it came.
    Start,
    /// When it was answered.
    End,
}

/// What a latency counts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum LatencyUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl LatencyUnit {
    fn to_ms(self) -> f64 {
        match self {
            Self::S => 1e3,
            Self::Ms => 1.0,
            Self::Us => 1e-3,
            Self::Ns => 1e-6,
        }
    }
}

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|node| node.place).unwrap_or_default();
    let wrong = |message: String| Problem::at(place, message);
    let Some(target) = order.target else {
        return Err(wrong("the key `target` is missing: the path of the log".into()));
    };
    let log = Log::new(target.one().map_err(&wrong)?, order.folder, disorder_ms(settings.disorder));
    let (blue, green, others) = (settings.blue.clone(), settings.green.clone(), settings.others);
    let line = Line::new(settings).map_err(wrong)?;
    let whose = Whose { blue: blue.as_ref(), green: green.as_ref(), others };
    Ok(Box::new(Access::new(log, line, &whose)))
}

/// Where things stand in a line.
struct Line {
    wanted: Wanted,
    sides: Vec<String>,
    has_latency: bool,
    start: bool,
    to_ms: f64,
    attempts: Attempts,
    statuses: Statuses,
}

/// Values of a line by number; the sides come last.
const TIME: usize = 0;
const STATUS: usize = 1;
const DURATION: usize = 2;
const LATENCY: usize = 3;
const OWN_STATUS: usize = 4;
const SIDE: usize = 5;
/// Places where a side may stand.
const MAX_SIDES: usize = 4;

type Found = [Option<Scalar>; SIDE + MAX_SIDES];

impl Line {
    fn new(settings: Settings) -> Result<Self, String> {
        let own = |text: &str| Some(text.to_owned());
        let preset = match settings.preset {
            None => Settings::default(),
            Some(Preset::Nginx) => Settings {
                time: own("msec"),
                side: Some(Target::One("upstream_addr".into())),
                status: own("status"),
                upstream_status: own("upstream_status"),
                latency: own("upstream_response_time"),
                latency_unit: Some(LatencyUnit::S),
                ..Settings::default()
            },
            Some(Preset::Traefik) => Settings {
                time: own("StartUTC"),
                time_is: Some(TimeIs::Start),
                duration: own("Duration"),
                side: Some(Target::One("ServiceAddr".into())),
                status: own("DownstreamStatus"),
                latency: own("OriginDuration"),
                latency_unit: Some(LatencyUnit::Ns),
                ..Settings::default()
            },
            Some(Preset::Caddy) => Settings {
                time: own("ts"),
                duration: own("duration"),
                side: Some(Target::Words(vec!["upstream".into(), "/resp_headers/X-Upstream/0".into()])),
                status: own("status"),
                latency_unit: Some(LatencyUnit::S),
                ..Settings::default()
            },
            Some(Preset::Envoy) => Settings {
                time: own("start_time"),
                time_is: Some(TimeIs::Start),
                duration: own("duration"),
                side: Some(Target::One("upstream_host".into())),
                status: own("response_code"),
                ..Settings::default()
            },
        };
        let missing =
            |name: &str| format!("nothing says where the {name} stands: add `{name}`, or a `preset`");
        let time = settings.time.or(preset.time).ok_or_else(|| missing("time"))?;
        let status = settings.status.or(preset.status).ok_or_else(|| missing("status"))?;
        let sides = settings.side.or(preset.side).ok_or_else(|| missing("side"))?;
        let sides: Vec<String> = sides.words().into_iter().map(|word| word.value).collect();
        if sides.len() > MAX_SIDES {
            return Err(format!("`side` may name {MAX_SIDES} places"));
        }
        let duration = settings.duration.or(preset.duration);
        let latency = settings.latency.or(preset.latency).or_else(|| duration.clone());
        let start = settings.time_is.or(preset.time_is) == Some(TimeIs::Start);
        if start && duration.is_none() {
            return Err("`time_is: start` needs `duration`: a request is counted when it is answered".into());
        }
        let mut wanted = Wanted::default();
        wanted.add(&time, TIME)?;
        wanted.add(&status, STATUS)?;
        if let Some(duration) = &duration {
            wanted.add(duration, DURATION)?;
        }
        if let Some(own) = settings.upstream_status.or(preset.upstream_status) {
            wanted.add(&own, OWN_STATUS)?;
        }
        let has_latency = latency.is_some();
        if let Some(latency) = &latency {
            wanted.add(latency, LATENCY)?;
        }
        for (number, side) in sides.iter().enumerate() {
            wanted.add(side, SIDE + number)?;
        }
        let unit = settings.latency_unit.or(preset.latency_unit).unwrap_or(LatencyUnit::Ms);
        let statuses = Statuses::new(settings.errors.as_ref(), settings.client_closed)?;
        let attempts = settings.attempts;
        Ok(Self { wanted, sides, has_latency, start, to_ms: unit.to_ms(), attempts, statuses })
    }

    fn find(&self, line: &[u8]) -> Option<Found> {
        self.pick(line).or_else(|| self.pick(&repaired(line)?))
    }

    fn pick(&self, line: &[u8]) -> Option<Found> {
        let mut found = Found::default();
        let mut reader = serde_json::Deserializer::from_slice(line);
        let pick = Pick { wanted: Some(&self.wanted), found: &mut found, top: true, list: &[] };
        pick.deserialize(&mut reader).ok()?;
        reader.end().ok()?;
        Some(found)
    }

    fn moment(&self, found: &Found) -> Option<i64> {
        let moment = match found[TIME].as_ref()? {
            Scalar::Number(number) => moment::of_number(*number, Finest::Nanoseconds).ok()?,
            Scalar::Text(text) => moment::of_text(text, Finest::Nanoseconds).ok()?,
        };
        if !self.start {
            return Some(moment);
        }
        moment.checked_add(whole(self.latency(found[DURATION].as_ref())?))
    }

    fn latency(&self, value: Option<&Scalar>) -> Option<f64> {
        let latency = match value? {
            Scalar::Text(text) => with_unit(text).or_else(|| Some(value?.number()? * self.to_ms))?,
            Scalar::Number(number) => number * self.to_ms,
        };
        (latency.is_finite() && latency >= 0.0).then_some(latency)
    }
}

impl Grammar for Line {
    fn time(&self, line: &[u8]) -> Option<i64> {
        self.moment(&self.find(line)?)
    }

    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64> {
        let mut found = self.find(line)?;
        let side = found[SIDE..].iter_mut().find_map(|side| match side.take()? {
            Scalar::Text(text) if text.is_empty() || text == "-" => None,
            Scalar::Text(text) => Some(text),
            Scalar::Number(number) => Some(number.to_string()),
        });
        if side.is_none() && found[STATUS].is_none() {
            // Not a request: servers tell other things in the same file.
            return self.moment(&found);
        }
        let at_ms = self.moment(&found)?;
        let Some(side) = side else { return Some(at_ms) };
        let text = |slot: usize| found[slot].as_ref().map(Scalar::text).unwrap_or_default();
        if attempts::is_list(&side) || attempts::is_list(&text(OWN_STATUS)) {
            let (statuses, times) = (text(OWN_STATUS), text(LATENCY));
            let answered = attempts::status(attempts::last(&text(STATUS)));
            let tried = Tried { servers: &side, statuses: &statuses, times: &times, answered };
            let mut found = Vec::new();
            attempts::each(tried, (self.attempts, &self.statuses, self.to_ms), &mut found)?;
            let owned = |a: Attempt<'_>| Attempt { side: Cow::Owned(a.side.into_owned()), ..a };
            attempts.extend(found.into_iter().map(owned));
            return Some(at_ms);
        }
        let answered = found[STATUS].as_ref().and_then(Scalar::status);
        let own = found[OWN_STATUS].as_ref().and_then(Scalar::status);
        let ok = attempts::ended(own, answered, self.attempts, &self.statuses)?;
        attempts.push(Attempt {
            elsewhere: false,
            side: Cow::Owned(side),
            ok,
            latency_ms: self.latency(found[LATENCY].as_ref()),
        });
        Some(at_ms)
    }

    fn show(&self) -> String {
        let latency = if self.has_latency { "" } else { ", no latency" };
        format!("side at {}{latency}", self.sides.join(" or "))
    }
}

/// A time that says its own unit, such as `0.012s` or `13.5µs`, in ms.
fn with_unit(text: &str) -> Option<f64> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(at);
    let to_ms = match unit.trim_start() {
        "s" => 1e3,
        "ms" => 1.0,
        "us" | "µs" | "μs" => 1e-3,
        "ns" => 1e-6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * to_ms)
}

/// A value that stands by itself.
#[derive(Clone, Debug, PartialEq)]
enum Scalar {
    Text(String),
    Number(f64),
}

impl Scalar {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
        }
    }

    fn status(&self) -> Option<u16> {
        let number = self.number()?;
        let code = u16::try_from(whole(number)).ok()?;
        (number.fract() == 0.0 && (code == 0 || (100..=999).contains(&code))).then_some(code)
    }
}

/// Places in a line, as a tree.
#[derive(Debug, Default)]
struct Wanted {
    /// What stands here belongs there.
    slots: Vec<usize>,
    below: Vec<(String, Wanted)>,
}

impl Wanted {
    /// A key, or a JSON pointer (RFC 6901).
    fn add(&mut self, place: &str, slot: usize) -> Result<(), String> {
        let keys: Vec<String> = match place.strip_prefix('/') {
            Some(pointer) => {
                pointer.split('/').map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
            }
            None => vec![place.to_owned()],
        };
        if place.is_empty() {
            return Err("a place in a line is a key or a JSON pointer; this one is empty".into());
        }
        let mut here = self;
        for key in keys {
            let at = here.below.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                here.below.push((key, Self::default()));
                here.below.len() - 1
            });
            here = &mut here.below[at].1;
        }
        here.slots.push(slot);
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Self> {
        self.below.iter().find(|(known, _)| known == key).map(|(_, below)| below)
    }
}

/// Picks what is wanted out of a line without keeping the rest.
struct Pick<'w> {
    wanted: Option<&'w Wanted>,
    found: &'w mut Found,
    top: bool,
    /// Where the list belongs that this is an entry of.
    list: &'w [usize],
}

impl Pick<'_> {
    fn keep(self, value: &Scalar) {
        for slot in self.wanted.map(|wanted| wanted.slots.as_slice()).unwrap_or_default() {
            self.found[*slot] = Some(value.clone());
        }
        for slot in self.list {
            let entry = value.text();
            let before = self.found[*slot].take().map(|before| format!("{}, ", before.text()));
            self.found[*slot] = Some(Scalar::Text(before.unwrap_or_default() + &entry));
        }
    }

    /// What stands for no value keeps its place in a list.
    fn keep_nothing(self) {
        if !self.list.is_empty() {
            self.keep(&Scalar::Text("-".into()));
        }
    }
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.wanted.is_none() && self.list.is_empty() {
            return IgnoredAny::deserialize(deserializer).map(drop);
        }
        if self.top { deserializer.deserialize_map(self) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.keep_nothing();
        Ok(())
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.keep_nothing();
        Ok(())
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.keep(&Scalar::Number(number as f64));
        Ok(())
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.keep(&Scalar::Number(number as f64));
        Ok(())
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        self.keep(&Scalar::Number(number));
        Ok(())
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.keep(&Scalar::Text(text.to_owned()));
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(below) = map.next_key_seed(Key(self.wanted))? {
            map.next_value_seed(Pick { wanted: below, found: &mut *self.found, top: false, list: &[] })?;
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let own = self.wanted.map(|wanted| wanted.slots.as_slice()).unwrap_or_default();
        for slot in own {
            self.found[*slot] = None;
        }
        for number in 0_usize.. {
            let below = self.wanted.and_then(|wanted| wanted.get(&number.to_string()));
            let next = Pick { wanted: below, found: &mut *self.found, top: false, list: own };
            if list.next_element_seed(next)?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// A line as nginx writes it where the format has no `escape=json` or no quotes around a number that may be a list
/// or a dash: `\x22`, `502, 200`, `-`. None when there is nothing of that in it.
fn repaired(line: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(line.len() + 16);
    let mut rest = line;
    let mut changed = false;
    while let Some((first, after)) = rest.split_first() {
        out.push(*first);
        rest = after;
        match first {
            b'"' => {
                let (text, escapes) = string(rest)?;
                changed |= escapes;
                let mut bytes = text.iter().copied().peekable();
                while let Some(byte) = bytes.next() {
                    out.push(byte);
                    if byte == b'\\' {
                        match bytes.next()? {
                            b'x' => out.extend(b"u00"),
                            other => out.push(other),
                        }
                    }
                }
                out.push(b'"');
                rest = &rest[text.len() + 1..];
            }
            b':' => {
                let space = rest.iter().take_while(|byte| **byte == b' ').count();
                let bare = &rest[space..];
                if bare.first().is_none_or(|byte| b"\"{[tfn".contains(byte)) {
                    continue;
                }
                let length = bare_value(bare)?;
                let text = bare[..length].trim_ascii();
                if serde_json::from_slice::<serde_json::Number>(text).is_ok() {
                    continue;
                }
                changed = true;
                out.push(b'"');
                out.extend(text);
                out.push(b'"');
                rest = &bare[length..];
            }
            _ => {}
        }
    }
    changed.then_some(out)
}

/// The text of a string behind its first quote, and whether it has an escape that JSON does not know.
fn string(rest: &[u8]) -> Option<(&[u8], bool)> {
    let (mut at, mut odd) = (0, false);
    loop {
        match rest.get(at)? {
            b'"' => return Some((&rest[..at], odd)),
            b'\\' => {
                odd |= rest.get(at + 1) == Some(&b'x');
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// How long a value without quotes is: it ends before the next key, or with its object. It is made of digits and of
/// what separates them.
fn bare_value(rest: &[u8]) -> Option<usize> {
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit() || b".-+eE:, ".contains(byte)).count();
    match rest.get(length)? {
        b'}' => Some(length),
        b'"' => memchr::memrchr(b',', &rest[..length]),
        _ => None,
    }
}

/// Reads a key as what is wanted below it.
struct Key<'w>(Option<&'w Wanted>);

impl<'de, 'w> DeserializeSeed<'de> for Key<'w> {
    type Value = Option<&'w Wanted>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'w> Visitor<'_> for Key<'w> {
    type Value = Option<&'w Wanted>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.and_then(|wanted| wanted.get(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Side, how it went and latency of each request.
    type Seen = Vec<(String, Option<bool>, Option<f64>)>;

    fn read(settings: Settings, line: &str) -> Option<(i64, Seen)> {
        let grammar = Line::new(settings).unwrap();
        let mut attempts = Vec::new();
        let at = grammar.read(line.as_bytes(), &mut attempts)?;
        Some((at, attempts.into_iter().map(|a| (a.side.into_owned(), a.ok, a.latency_ms)).collect()))
    }

    fn own() -> Settings {
        Settings {
            time: Some("/at/0".into()),
            side: Some(Target::Words(vec!["side".into(), "/deep/a~1b".into()])),
            status: Some("status".into()),
            latency: Some("took".into()),
            ..Settings::default()
        }
    }

    #[test]
    fn places_are_keys_and_pointers() {
        let green = |ok| Some((1_795_248_000_500, vec![("green".to_owned(), ok, Some(3.5))]));
        let line = r#"{"x":[{}],"at":[1795248000.5,1],"deep":{"a/b":"green"},"status":"503","took":"3.5"}"#;
        assert_eq!(read(own(), line), green(Some(false)));
        let line = r#"{"side":"green","deep":{"a/b":"blue"},"at":["2026-11-21T08:00:00.5Z"],"status":200,"took":3.5}"#;
        assert_eq!(read(own(), line), green(Some(true)));
        let line = r#"{"side":"green","at":[1795248000500],"status":0,"took":3.5}"#;
        assert_eq!(read(own(), line), green(None));
    }

    #[test]
    fn a_request_is_counted_when_it_is_answered() {
        let start = Settings {
            time_is: Some(TimeIs::Start),
            duration: Some("whole".into()),
            latency_unit: Some(LatencyUnit::Us),
            ..own()
        };
        let line = r#"{"side":"blue","at":[1795248000],"status":200,"took":1000,"whole":2000000}"#;
        assert_eq!(
            read(start.clone(), line),
            Some((1_795_248_002_000, vec![("blue".into(), Some(true), Some(1.0))]))
        );
        let without = Settings { duration: None, ..start };
        assert!(Line::new(without).err().unwrap().contains("needs `duration`"));
    }

    #[test]
    fn hostile_lines_are_not_understood() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for line in [
            "",
            "null",
            "[]",
            "\"text\"",
            "{",
            "{\"a\":1}{",
            "{\"a\":1} x",
            "{\"at\":[-5],\"side\":\"blue\",\"status\":200}",
            "{\"at\":[\"-1\"],\"side\":\"blue\",\"status\":200}",
            "{\"at\":[1795248000],\"side\":\"blue\",\"status\":\"ok\"}",
            "{\"at\":[1795248000],\"side\":\"blue\",\"status\":20000}",
            "{\"at\":[1795248000],\"side\":\"blue\",\"status\":200.5}",
            "{\"at\":[1795248000],\"side\":\"blue\"}",
            "{\"at\":{},\"side\":\"blue\",\"status\":200}",
            &format!("{{\"at\":{deep}}}"),
        ] {
            assert_eq!(read(own(), line), None, "{}", &line[..line.len().min(60)]);
        }
        let ignored = format!(r#"{{"side":"blue","at":[1795248000],"status":200,"took":-1,"more":{deep}}}"#);
        assert_eq!(read(own(), &ignored), Some((1_795_248_000_000, vec![("blue".into(), Some(true), None)])));
        assert_eq!(read(own(), r#"{"at":[1795248000],"msg":"reloaded"}"#), Some((1_795_248_000_000, vec![])));
    }

    #[test]
    fn every_place_that_is_needed_must_be_given() {
        for (settings, said) in [
            (Settings { time: None, ..own() }, "`time`"),
            (Settings { side: None, ..own() }, "`side`"),
            (Settings { status: None, ..own() }, "`status`"),
            (Settings { status: Some(String::new()), ..own() }, "empty"),
        ] {
            let message = Line::new(settings).err().unwrap();
            assert!(message.contains(said), "{message}");
        }
    }
}
