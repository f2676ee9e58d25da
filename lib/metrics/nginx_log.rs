//! `nginx_log`: every request in an access log that nginx writes by a `log_format`.

use jiff::Timestamp;
use jiff::civil;
use schemars::JsonSchema;
use serde::Deserialize;

use super::access::{Access, Attempt, ClientClosed, Grammar, Statuses};
use super::log::Log;
use super::moment::whole;
use super::{Gives, Kind, Order, Source};
use crate::units::{Span, Target};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "nginx_log",
    about: "every request in an access log of nginx",
    target: "the path of the log, relative to the plan",
    example: "{name: nginx, kind: nginx_log, target: /var/log/nginx/shop.log, with: {format: '$msec \"$request\" $status \"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"'}}",
    gives: Gives::Requests,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of an access log of nginx.
///
/// The format needs a moment (`$msec`, which is exact, or `$time_iso8601` or `$time_local`, in whole
/// seconds), `$status` or `$upstream_status`, and what tells the side: `$upstream_addr`, or what `side`
/// names. A request that nginx passed on to another side after a failure (`proxy_next_upstream`) has
/// several attempts in these variables: `a, b`. The user sees only the last one, but the failures are
/// failures of the side that gave them, so by default every attempt counts for its own side. Lines that
/// name neither side are left out: nginx's own answers, and those for which it found no server alive.
/// Rotated files beside the log are read as far as they are not packed. A window that begins before the log does is
/// refused, and never taken for silence: an older line, a rotated file that was finished before, or the
/// age of the log itself must show that it reaches back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The text of `log_format`, its pieces joined.
    format: String,
    /// The variable whose value tells the side, such as `$upstream_http_x_release`; `$upstream_addr`
    /// when absent.
    #[serde(default)]
    side: Option<String>,
    /// What blue is called there: one or more addresses or values; its own address, its release or the
    /// word `blue` when absent.
    #[serde(default)]
    blue: Option<Target>,
    /// What green is called there.
    #[serde(default)]
    green: Option<Target>,
    /// Which attempts count: `all`, each for the side that made it, or `last`, the one that answered the
    /// user; all when absent.
    #[serde(default)]
    attempts: Attempts,
    /// Which statuses are errors: `5xx`, or a list of codes and classes; 5xx when absent.
    #[serde(default)]
    errors: Option<Target>,
    /// What becomes of requests whose client did not wait (499): `leave_out`, `error` or `ok`; they are
    /// left out when absent.
    #[serde(default)]
    client_closed: ClientClosed,
    /// Which time is the latency: `upstream` (`$upstream_response_time`) or `request` (`$request_time`);
    /// the former where the format has it, when absent.
    #[serde(default)]
    latency: Option<Latency>,
    /// By how much a line may be older than one before it; 5 s when absent. With `buffer=` in
    /// `access_log` it is as much as `flush=` says, and so is `delay`.
    #[serde(default)]
    disorder: Option<Span>,
}

/// Which attempts count.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Attempts {
    /// Each for the side that made it.
    #[default]
    All,
    /// The one that answered the user.
    Last,
}

/// Which time is the latency.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Latency {
    /// `$upstream_response_time`: from the connection to the side to the last byte of its answer.
    Upstream,
    /// `$request_time`: from the client's first byte to its last.
    Request,
}

/// By how much a line may be older than one before it.
pub(super) const DISORDER_MS: i64 = 5000;

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|node| node.place).unwrap_or_default();
    let wrong = |message: String| Problem::at(place, message);
    let Some(target) = order.target else {
        return Err(wrong("the key `target` is missing: the path of the log".into()));
    };
    let log = Log::new(target.one().map_err(&wrong)?, order.folder, disorder_ms(settings.disorder));
    let statuses = Statuses::new(settings.errors.as_ref(), settings.client_closed).map_err(&wrong)?;
    let line = Line::new(&settings, statuses).map_err(|(message, help)| wrong(message).help(help))?;
    Ok(Box::new(Access::new(log, line, settings.blue.as_ref(), settings.green.as_ref())))
}

/// The same of the plan, in ms.
pub(super) fn disorder_ms(given: Option<Span>) -> i64 {
    given.map_or(DISORDER_MS, |span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX))
}

/// What a line is made of.
struct Line {
    pieces: Vec<Piece>,
    clock: Clock,
    side: String,
    /// Whether the side is `$upstream_addr`, a list with an entry for each attempt.
    by_address: bool,
    attempts: Attempts,
    latency: Option<Latency>,
    statuses: Statuses,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(Vec<u8>),
    Value { shape: Shape, slot: Option<Slot> },
}

/// How the end of a value is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// What comes before the text that follows it.
    Plain,
    /// The same, with `, ` and ` : ` in it.
    List,
    /// `21/Nov/2026:08:00:00 +0000`.
    LocalTime,
}

/// Values that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Time,
    Side,
    Status,
    UpstreamStatus,
    Latency,
}

const SLOTS: usize = 5;

/// How the moment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Msec,
    Iso,
    Local,
}

type Refusal = (String, String);

impl Line {
    fn new(settings: &Settings, statuses: Statuses) -> Result<Self, Refusal> {
        let format = settings.format.trim();
        let bare = |name: &str| name.trim().trim_start_matches('$').trim_matches(['{', '}']).to_owned();
        let side = settings.side.as_deref().map_or_else(|| "upstream_addr".to_owned(), bare);
        let whole = "give the text of `log_format` with $msec, $status, \"$upstream_addr\", \"$upstream_status\" and \"$upstream_response_time\"";
        if format == "combined" {
            return Err(("nginx's `combined` does not say which side answered".into(), whole.into()));
        }
        if !format.contains('$') {
            return Err((format!("`{format}` is a name; the text of the format is needed"), whole.into()));
        }
        if format.starts_with('{') {
            let help = "use the kind `json_log` with `time`, `side`, `status` and `latency`";
            return Err(("this format is JSON".into(), help.into()));
        }
        let mut words = words(format)?;
        let has = |name: &str| words.contains(&Word::Name(name));
        let (time, clock) =
            [("msec", Clock::Msec), ("time_iso8601", Clock::Iso), ("time_local", Clock::Local)]
                .into_iter()
                .find(|(name, _)| has(name))
                .ok_or_else(|| ("the format has no moment".to_owned(), whole.to_owned()))?;
        if !has(&side) {
            return Err((
                format!("the format has no `${side}`, so it does not say which side answered"),
                whole.into(),
            ));
        }
        if !has("status") && !has("upstream_status") {
            return Err(("the format has no `$status`".into(), whole.into()));
        }
        let latency = match settings.latency {
            None if has("upstream_response_time") => Some(Latency::Upstream),
            None if has("request_time") => Some(Latency::Request),
            None => None,
            Some(latency) if has(latency.variable()) => Some(latency),
            Some(latency) => {
                return Err((format!("the format has no `${}`", latency.variable()), whole.into()));
            }
        };
        let slot = |name: &str| match name {
            name if name == time => Some(Slot::Time),
            name if name == side => Some(Slot::Side),
            "status" => Some(Slot::Status),
            "upstream_status" => Some(Slot::UpstreamStatus),
            name if latency.is_some_and(|latency| latency.variable() == name) => Some(Slot::Latency),
            _ => None,
        };
        // What comes after the last value that is needed is of no use, but for its first text.
        let last = words.iter().rposition(|word| matches!(word, Word::Name(name) if slot(name).is_some()));
        words.truncate(last.map_or(0, |last| last + 2));
        let pieces = words
            .iter()
            .map(|word| match word {
                Word::Text(text) => Piece::Text(text.as_bytes().to_vec()),
                Word::Name(name) => Piece::Value { shape: Shape::of(name), slot: slot(name) },
            })
            .collect();
        Ok(Self {
            pieces,
            clock,
            by_address: side == "upstream_addr",
            side,
            attempts: settings.attempts,
            latency,
            statuses,
        })
    }

    /// The values that are needed; false when the line is not of this format.
    fn split<'l>(&self, line: &'l [u8], found: &mut [&'l [u8]; SLOTS]) -> bool {
        let mut rest = line;
        for (number, piece) in self.pieces.iter().enumerate() {
            let (shape, slot) = match piece {
                Piece::Text(text) => match rest.strip_prefix(text.as_slice()) {
                    Some(after) => {
                        rest = after;
                        continue;
                    }
                    None => return false,
                },
                Piece::Value { shape, slot } => (*shape, *slot),
            };
            let follows = match self.pieces.get(number + 1) {
                Some(Piece::Text(text)) => text.as_slice(),
                _ => &[],
            };
            let Some(length) = shape.length(rest, follows) else { return false };
            if let Some(slot) = slot {
                found[slot as usize] = &rest[..length];
            }
            rest = &rest[length..];
        }
        true
    }

    fn moment(&self, text: &[u8]) -> Option<i64> {
        match self.clock {
            Clock::Msec => number(text).filter(|seconds| *seconds >= 0.0).map(|seconds| whole(seconds * 1e3)),
            Clock::Iso => {
                let moment: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
                Some(moment.as_millisecond())
            }
            Clock::Local => local_time(text),
        }
    }

    /// The one attempt of a request whose side is not told by address.
    fn one<'l>(&self, found: &[&'l [u8]; SLOTS], attempts: &mut Vec<Attempt<'l>>) -> Option<()> {
        let side = found[Slot::Side as usize];
        if side.is_empty() || side == b"-" {
            return Some(());
        }
        let status = status(found[Slot::Status as usize]).or_else(|| {
            items(found[Slot::UpstreamStatus as usize]).last().and_then(|(item, _)| status(item))
        })?;
        let latency = items(found[Slot::Latency as usize]).last().and_then(|(item, _)| number(item));
        attempts.push(Attempt {
            side: String::from_utf8_lossy(side),
            ok: self.statuses.ok(status),
            latency_ms: latency.map(|seconds| seconds * 1e3),
        });
        Some(())
    }

    /// Each attempt of a request for the address that it went to.
    fn each<'l>(&self, found: &[&'l [u8]; SLOTS], attempts: &mut Vec<Attempt<'l>>) -> Option<()> {
        let answered = status(found[Slot::Status as usize]);
        let mut own = items(found[Slot::UpstreamStatus as usize]);
        let mut times = items(found[Slot::Latency as usize]);
        let mut addresses = items(found[Slot::Side as usize]).peekable();
        while let Some((address, after)) = addresses.next() {
            let own = own.next().and_then(|(item, _)| status(item));
            let last = addresses.peek().is_none();
            let time = match self.latency {
                Some(Latency::Upstream) => times.next().and_then(|(item, _)| number(item)),
                Some(Latency::Request) if last => number(found[Slot::Latency as usize]),
                _ => None,
            };
            if address.is_empty() || address == b"-" || (!last && self.attempts == Attempts::Last) {
                continue;
            }
            let ok = match (own, last) {
                (own, true) => self.last(own, answered)?,
                (Some(own), false) => self.statuses.ok(own),
                // There was another attempt because this one failed; after a redirect within nginx nobody
                // can tell.
                (None, false) if after == After::Comma => Some(false),
                (None, false) => None,
            };
            attempts.push(Attempt {
                side: String::from_utf8_lossy(address),
                ok,
                latency_ms: time.map(|seconds| seconds * 1e3),
            });
        }
        Some(())
    }

    /// Whether the attempt that answered the user went well: by the side's own status too, for nginx may
    /// have covered it up (`error_page`).
    #[expect(clippy::option_option, reason = "not understood, not to be counted, or how it went")]
    fn last(&self, own: Option<u16>, answered: Option<u16>) -> Option<Option<bool>> {
        let shown = answered.or(own)?;
        let Some(ok) = self.statuses.ok(shown) else { return Some(None) };
        let covered =
            self.attempts == Attempts::All && own.and_then(|own| self.statuses.ok(own)) == Some(false);
        Some(Some(ok && !covered))
    }
}

impl Grammar for Line {
    fn time(&self, line: &[u8]) -> Option<i64> {
        let mut found = [&[][..]; SLOTS];
        self.split(line, &mut found).then(|| self.moment(found[Slot::Time as usize])).flatten()
    }

    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64> {
        let mut found = [&[][..]; SLOTS];
        if !self.split(line, &mut found) {
            return None;
        }
        let moment = self.moment(found[Slot::Time as usize])?;
        if self.by_address {
            self.each(&found, attempts)?;
        } else {
            self.one(&found, attempts)?;
        }
        Some(moment)
    }

    fn show(&self) -> String {
        let latency = self.latency.map_or_else(String::new, |latency| format!(", ${}", latency.variable()));
        let attempts = match (self.by_address, self.attempts) {
            (true, Attempts::All) => ", every attempt",
            (true, Attempts::Last) => ", the last attempt",
            _ => "",
        };
        format!("side by ${}{latency}{attempts}", self.side)
    }
}

impl Latency {
    fn variable(self) -> &'static str {
        match self {
            Self::Upstream => "upstream_response_time",
            Self::Request => "request_time",
        }
    }
}

impl Shape {
    fn of(name: &str) -> Self {
        match name {
            "time_local" => Self::LocalTime,
            "upstream_addr"
            | "upstream_status"
            | "upstream_response_time"
            | "upstream_connect_time"
            | "upstream_header_time"
            | "upstream_response_length"
            | "upstream_bytes_sent"
            | "upstream_bytes_received" => Self::List,
            _ => Self::Plain,
        }
    }

    /// How long the value at the beginning of a text is, by what follows it in the format.
    fn length(self, rest: &[u8], follows: &[u8]) -> Option<usize> {
        if self == Self::LocalTime {
            return (rest.len() >= LOCAL_TIME).then_some(LOCAL_TIME);
        }
        let Some(first) = follows.first() else { return Some(rest.len()) };
        let mut from = 0;
        loop {
            let at = from + memchr::memchr(*first, &rest[from..])?;
            let inside = self == Self::List && *first == b' ' && between(rest, at);
            if !inside && rest[at..].starts_with(follows) {
                return Some(at);
            }
            from = at + 1;
        }
    }
}

/// Whether a space belongs to the `, ` or ` : ` of a list.
fn between(rest: &[u8], at: usize) -> bool {
    let comma = at > 0 && rest[at - 1] == b',';
    let before = rest[at..].starts_with(b" : ");
    let after = at > 1 && rest[at - 2..at] == *b" :";
    comma || before || after
}

/// What follows an entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    /// Another server of the same group was tried.
    Comma,
    /// nginx went on elsewhere by itself.
    Colon,
}

/// The entries of `a, b : c`, and what follows each.
fn items(list: &[u8]) -> impl Iterator<Item = (&[u8], After)> {
    let mut rest = Some(list).filter(|list| !list.is_empty());
    std::iter::from_fn(move || {
        let list = rest?;
        let end =
            (0..list.len()).find(|at| list[*at..].starts_with(b", ") || list[*at..].starts_with(b" : "));
        let Some(end) = end else {
            rest = None;
            return Some((list, After::Nothing));
        };
        let (after, length) = if list[end] == b',' { (After::Comma, 2) } else { (After::Colon, 3) };
        rest = Some(&list[end + length..]);
        Some((&list[..end], after))
    })
}

fn number(text: &[u8]) -> Option<f64> {
    let plain = !text.is_empty() && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn status(text: &[u8]) -> Option<u16> {
    let digits = text.len() == 3 && text.iter().all(u8::is_ascii_digit);
    let code = digits.then(|| text.iter().fold(0, |code, byte| code * 10 + u16::from(byte - b'0')))?;
    (code == 0 || code >= 100).then_some(code)
}

/// The length of `21/Nov/2026:08:00:00 +0000`.
const LOCAL_TIME: usize = 26;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn local_time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == LOCAL_TIME && text.is_ascii())?;
    let part = |from: usize, to: usize| -> Option<i16> {
        let digits = &text[from..to];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let small = |from: usize, to: usize| part(from, to).and_then(|number| i8::try_from(number).ok());
    let separators = [(2, b'/'), (6, b'/'), (11, b':'), (14, b':'), (17, b':'), (20, b' ')];
    if separators.iter().any(|(at, byte)| text.as_bytes()[*at] != *byte) {
        return None;
    }
    let month = i8::try_from(MONTHS.iter().position(|month| *month == &text[3..6])? + 1).ok()?;
    let date = civil::Date::new(part(7, 11)?, month, small(0, 2)?).ok()?;
    let time = civil::Time::new(small(12, 14)?, small(15, 17)?, small(18, 20)?, 0).ok()?;
    let sign = match &text[21..22] {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let offset = sign * (i64::from(part(22, 24)?) * 3600 + i64::from(part(24, 26)?) * 60);
    let utc = jiff::tz::Offset::UTC.to_timestamp(date.to_datetime(time)).ok()?;
    Some(utc.as_millisecond() - offset * 1000)
}

/// A piece of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'f> {
    Text(&'f str),
    Name(&'f str),
}

/// Values that the client writes and that may have spaces, so that they need a mark at their end.
fn free_text(name: &str) -> bool {
    matches!(name, "request" | "remote_user" | "uri" | "document_uri" | "request_filename" | "request_body")
        || name.starts_with("http_")
        || name.starts_with("cookie_")
}

fn words(format: &str) -> Result<Vec<Word<'_>>, Refusal> {
    let mut words = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            words.push(Word::Text(&rest[..at]));
        }
        let after = &rest[at + 1..];
        let (name, left) = match after.strip_prefix('{') {
            Some(inside) => inside.split_once('}').unwrap_or((inside, "")),
            None => after.split_at(
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
            ),
        };
        if name.is_empty() {
            return Err((
                "a `$` in the format names no variable".into(),
                "write it as in nginx's configuration".into(),
            ));
        }
        if let Some(Word::Name(before)) = words.last() {
            let message = format!("nobody can tell where `${before}` ends and `${name}` begins");
            return Err((message, "put a space or quotes between them, in `log_format` too".into()));
        }
        words.push(Word::Name(name));
        rest = left;
    }
    if !rest.is_empty() {
        words.push(Word::Text(rest));
    }
    let open = words.windows(2).find_map(|pair| match pair {
        [Word::Name(name), Word::Text(text)] if free_text(name) && !text.contains(['"', '[']) => Some(*name),
        _ => None,
    });
    match open {
        Some(name) => Err((
            format!("a client may write spaces into `${name}`, and forge what follows it"),
            format!("put quotes around it, in `log_format` too: \"${name}\""),
        )),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $upstream_addr $upstream_status $upstream_response_time $request_time"#;

    fn settings(format: &str) -> Settings {
        Settings {
            format: format.into(),
            side: None,
            blue: None,
            green: None,
            attempts: Attempts::All,
            errors: None,
            client_closed: ClientClosed::LeaveOut,
            latency: None,
            disorder: None,
        }
    }

    fn line(settings: &Settings) -> Result<Line, Refusal> {
        Line::new(settings, Statuses::new(None, ClientClosed::LeaveOut).unwrap())
    }

    /// Side, how it went and latency of each attempt.
    type Seen = Vec<(String, Option<bool>, Option<f64>)>;

    fn read(settings: &Settings, text: &str) -> Option<(i64, Seen)> {
        let grammar = line(settings).unwrap();
        let mut attempts = Vec::new();
        let at = grammar.read(text.as_bytes(), &mut attempts)?;
        assert_eq!(grammar.time(text.as_bytes()), Some(at));
        Some((at, attempts.into_iter().map(|a| (a.side.into_owned(), a.ok, a.latency_ms)).collect()))
    }

    fn full(tail: &str) -> String {
        format!(r#"127.0.0.1 - - [21/Nov/2026:09:00:01 +0100] "GET /x?a=\x22b\x22 HTTP/1.1" {tail}"#)
    }

    #[test]
    fn a_line_is_read_by_its_format() {
        let text = full(r#"200 2 "-" "curl" 10.0.0.1:80 200 0.012 0.013"#);
        let one =
            |latency| Some((1_795_248_001_000, vec![("10.0.0.1:80".to_owned(), Some(true), Some(latency))]));
        assert_eq!(read(&settings(FULL), &text), one(12.0));
        let by_request = Settings { latency: Some(Latency::Request), ..settings(FULL) };
        assert_eq!(read(&by_request, &text), one(13.0));
        let short = settings("$msec|$status|$upstream_addr");
        let iso = settings("${time_iso8601}x $status $upstream_addr");
        let seen = read(&iso, "2026-11-21T09:00:01+01:00x 200 [::1]:80").unwrap();
        assert_eq!((seen.0, seen.1[0].0.as_str()), (1_795_248_001_000, "[::1]:80"));
        assert_eq!(
            read(&short, "1795248001.123|503|10.0.0.1:80"),
            Some((1_795_248_001_123, vec![("10.0.0.1:80".into(), Some(false), None)]))
        );
    }

    #[test]
    fn every_attempt_counts_for_its_own_side_or_only_the_last() {
        let text = full(r#"200 2 "-" "curl" 10.0.0.2:80, 10.0.0.1:80 502, 200 0.001, 0.012 0.014"#);
        let all: Seen = vec![
            ("10.0.0.2:80".into(), Some(false), Some(1.0)),
            ("10.0.0.1:80".into(), Some(true), Some(12.0)),
        ];
        assert_eq!(read(&settings(FULL), &text).unwrap().1, all);
        let last = Settings { attempts: Attempts::Last, ..settings(FULL) };
        assert_eq!(read(&last, &text).unwrap().1, all[1..]);
        // Without the upstreams' own statuses: a comma follows a failure, a colon may follow anything.
        let bare = settings(r#"$msec $status "$upstream_addr""#);
        let seen = read(&bare, r#"1795248001.123 200 "a:1, b:1 : c:1""#).unwrap().1;
        assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), [Some(false), None, Some(true)]);
    }

    #[test]
    fn an_error_that_nginx_covered_up_is_an_error_of_the_side() {
        let covered = full(r#"200 2 "-" "curl" 10.0.0.1:80 502 0.001 0.002"#);
        assert_eq!(read(&settings(FULL), &covered).unwrap().1[0].1, Some(false));
        let last = Settings { attempts: Attempts::Last, ..settings(FULL) };
        assert_eq!(read(&last, &covered).unwrap().1[0].1, Some(true));
        let gone = full(r#"499 0 "-" "curl" 10.0.0.1:80 - 0.001 0.002"#);
        assert_eq!(read(&settings(FULL), &gone).unwrap().1[0].1, None);
        let own = full(r#"404 0 "-" "curl" - - - 0.002"#);
        assert_eq!(read(&settings(FULL), &own).unwrap().1, []);
    }

    #[test]
    fn a_side_may_be_told_by_any_variable() {
        let by = Settings {
            side: Some("$release_side".into()),
            ..settings("$msec $status $release_side $request_time")
        };
        assert_eq!(
            read(&by, "1795248001.5 500 green 0.5"),
            Some((1_795_248_001_500, vec![("green".into(), Some(false), Some(500.0))]))
        );
        assert_eq!(read(&by, "1795248001.5 500 - 0.5"), Some((1_795_248_001_500, vec![])));
    }

    #[test]
    fn hostile_lines_are_not_understood_and_forge_nothing() {
        let good = full(r#"200 2 "-" "curl" 10.0.0.1:80 200 0.012 0.013"#);
        for text in [
            "",
            "\0\0\0\0",
            "GET / HTTP/1.1",
            "-1.5|200|a",
            &good.replace("21/Nov", "31/Feb"),
            &good.replace("+0100", "*0100"),
            &good.replace(" 200 2 ", " 20x 2 ").replace(" 200 0.012", " - 0.012"),
            &good.replace("Nov", "N\u{e9}v"),
            &good[..good.len() / 2],
        ] {
            assert_eq!(read(&settings(FULL), text), None, "{text}");
        }
        // nginx writes a quote of the client's as \x22, so that a name cannot end its field.
        let name = r"x [21/Nov/2026:00:00:00 +0000] \x22GET / HTTP/1.1\x22 200 2";
        let forged = good.replacen("- - [", &format!("- {name} ["), 1);
        assert_eq!(read(&settings(FULL), &forged), None);
        let agent = good.replace("curl", r"\x22 10.0.0.9:80 500 9.9 9.9");
        assert_eq!(read(&settings(FULL), &agent).unwrap().1, read(&settings(FULL), &good).unwrap().1);
    }

    #[test]
    fn a_format_that_cannot_do_is_refused() {
        for (format, said) in [
            ("combined", "does not say which side"),
            ("main", "is a name"),
            (r#"{"t":"$msec","s":"$status"}"#, "is JSON"),
            (r#"$status "$upstream_addr""#, "no moment"),
            ("$msec $status", "no `$upstream_addr`"),
            (r#"$msec "$upstream_addr""#, "no `$status`"),
            ("$msec$status $upstream_addr", "where `$msec` ends"),
            ("$msec $request $status $upstream_addr", "may write spaces into `$request`"),
            ("$msec $ $status", "names no variable"),
        ] {
            let (message, help) = line(&settings(format)).err().unwrap();
            assert!(message.contains(said) && !help.is_empty(), "{format}: {message}");
        }
        let latency =
            Settings { latency: Some(Latency::Request), ..settings("$msec $status $upstream_addr") };
        assert!(line(&latency).err().unwrap().0.contains("$request_time"));
    }

    #[test]
    fn local_time_has_an_offset() {
        assert_eq!(local_time(b"21/Nov/2026:08:00:00 +0000"), Some(1_795_248_000_000));
        assert_eq!(local_time(b"21/Nov/2026:00:30:00 -0730"), Some(1_795_248_000_000));
        assert_eq!(local_time(b"21/Nov/2026:08:00:60 +0000"), None);
    }
}
