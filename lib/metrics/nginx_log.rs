//! `nginx_log`: every request in an access log that nginx writes by a `log_format`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use super::access::{Access, Attempt, ClientClosed, Grammar, Statuses, Whose};
use super::attempts::{Attempts, Tried, each, last, number, status};
use super::log::Log;
use super::moment::{LOCAL_TIME, local_time, whole};
use super::pattern::{Piece, Shape, split, trim};
use super::{Gives, Kind, Order, Source};
use crate::units::{Share, Span, Target};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "nginx_log",
    about: "every request in an access log of nginx",
    target: "the path of the log, relative to the plan",
    example: "{name: users, kind: nginx_log, target: /var/log/nginx/shop.log, with: {format: '$msec \"$request\" $status \"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"'}}",
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
    /// Which share of the requests may be those of neither side, such as `50%`; 20 % when absent. With more,
    /// nothing passes: a server of a side may have been forgotten.
    #[serde(default)]
    others: Option<Share>,
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
    let (blue, green) = (settings.blue.as_ref(), settings.green.as_ref());
    Ok(Box::new(Access::new(log, line, &Whose { blue, green, others: settings.others })))
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
        let words = words(format)?;
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
        let piece = |word: &Word<'_>| match word {
            Word::Text(text) => Piece::text(text),
            Word::Name(name) => {
                Piece::Value { shape: shape(name), slot: slot(name).map(|slot| slot as usize) }
            }
        };
        let mut pieces: Vec<Piece> = words.iter().map(piece).collect();
        trim(&mut pieces);
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

    /// A value as text.
    fn text<'l>(found: &[&'l [u8]; SLOTS], slot: Slot) -> &'l str {
        std::str::from_utf8(found[slot as usize]).unwrap_or_default()
    }

    fn moment(&self, text: &[u8]) -> Option<i64> {
        match self.clock {
            Clock::Msec => number(std::str::from_utf8(text).ok()?).map(|seconds| whole(seconds * 1e3)),
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
        let status = status(Self::text(found, Slot::Status))
            .or_else(|| status(last(Self::text(found, Slot::UpstreamStatus))))?;
        let latency = number(last(Self::text(found, Slot::Latency)));
        attempts.push(Attempt {
            side: String::from_utf8_lossy(side),
            elsewhere: false,
            ok: self.statuses.ok(status),
            latency_ms: latency.map(|seconds| seconds * 1e3),
        });
        Some(())
    }
}

impl Grammar for Line {
    fn time(&self, line: &[u8]) -> Option<i64> {
        let mut found = [&[][..]; SLOTS];
        split(&self.pieces, line, &mut found).then(|| self.moment(found[Slot::Time as usize])).flatten()
    }

    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64> {
        let mut found = [&[][..]; SLOTS];
        if !split(&self.pieces, line, &mut found) {
            return None;
        }
        let moment = self.moment(found[Slot::Time as usize])?;
        if self.by_address {
            let tried = Tried {
                servers: Self::text(&found, Slot::Side),
                statuses: Self::text(&found, Slot::UpstreamStatus),
                times: Self::text(&found, Slot::Latency),
                answered: status(Self::text(&found, Slot::Status)),
            };
            each(tried, (self.attempts, &self.statuses, 1e3), attempts)?;
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

/// How the end of a variable's value is found.
fn shape(name: &str) -> Shape {
    match name {
        "time_local" => Shape::Fixed(LOCAL_TIME),
        "upstream_addr"
        | "upstream_status"
        | "upstream_response_time"
        | "upstream_connect_time"
        | "upstream_header_time"
        | "upstream_response_length"
        | "upstream_bytes_sent"
        | "upstream_bytes_received" => Shape::List,
        _ => Shape::Plain,
    }
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
        [Word::Name(name), Word::Text(text)] if free_text(name) && !text.contains(['"', '[', '\t']) => {
            Some(*name)
        }
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
            others: None,
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
}
