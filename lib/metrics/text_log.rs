//! `text_log`: every request in an access log of text lines: Apache's, Traefik's, Envoy's, those of AWS's balancers.

use std::borrow::Cow;

use jiff::fmt::strtime;
use schemars::JsonSchema;
use serde::Deserialize;

use super::access::{Access, Attempt, ClientClosed, Grammar, Statuses, Whose};
use super::attempts::{Attempts, ended, number, status};
use super::framing::Framing;
use super::log::Log;
use super::moment::{self, Finest, LOCAL_TIME, whole};
use super::nginx_log::disorder_ms;
use super::pattern::{Piece, Shape, split, split_end, trim};
use super::{Ask, Gives, Kind, Order, SideOf, Source, Trouble, UserRequest, template};
use crate::units::{Share, Span, Target};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "text_log",
    about: "every request in an access log of text lines: Apache, Traefik, Envoy, ALB",
    target: "the path of the log, relative to the plan; with `{{ side }}` in it, each side has a log of its own",
    example: "{name: users, kind: text_log, target: /var/log/traefik/access.log, with: {format: traefik}}",
    gives: Gives::Requests,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of an access log of text lines.
///
/// Latencies are taken in the unit that the format writes them in. A request that is logged with its beginning counts
/// when it was answered, where the format says how long it took. Values that a client writes are never read as
/// something else: in Envoy's and Traefik's lines what follows them is read from the end. Lines may stand there as
/// syslog, `journalctl` or a container engine writes them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// `common`, `combined` or `vhost_combined` (Apache's), with further directives behind them, such as
    /// `combined %D "%{BALANCER_WORKER_NAME}e"`; `traefik`; `envoy` or `istio` (their defaults); `alb` or `elb`
    /// (AWS's); or the text of Apache's `LogFormat` or of Envoy's `text_format`.
    format: String,
    /// The directive whose value tells the side, such as `%{X-Release}o` or `%UPSTREAM_CLUSTER%`; when absent
    /// `%{BALANCER_WORKER_NAME}e`, `%{BALANCER_WORKER_ROUTE}e` or `%v` in Apache's, `%UPSTREAM_HOST%` in Envoy's, and the
    /// server or the target that is named in the others.
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
    /// Which statuses are errors: `5xx`, or a list of codes and classes; 5xx when absent.
    #[serde(default)]
    errors: Option<Target>,
    /// What becomes of requests whose client did not wait (499, 0, or 460 of AWS's): `leave_out`, `error` or `ok`; they
    /// are left out when absent.
    #[serde(default)]
    client_closed: ClientClosed,
    /// Which time is the latency, where the format has both: `upstream`, that of the side (`%RESP(X-ENVOY-UPSTREAM-
    /// SERVICE-TIME)%`, `target_processing_time`), or `request`, that of the whole request; when absent the side's in
    /// AWS's logs and the whole request's in the others.
    #[serde(default)]
    latency: Option<Latency>,
    /// By how much a line may be older than one before it; 5 s when absent.
    #[serde(default)]
    disorder: Option<Span>,
}

/// Which time is the latency.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Latency {
    /// That of the side.
    Upstream,
    /// That of the whole request.
    Request,
}

const COMMON: &str = "%h %l %u %t \"%r\" %>s %b";
const COMBINED: &str = "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"";
const VHOST: &str = "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"";
const ENVOY: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"";
const ISTIO: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|node| node.place).unwrap_or_default();
    let wrong = |message: String| Problem::at(place, message);
    let Some(target) = order.target else {
        return Err(wrong("the key `target` is missing: the path of the log".into()));
    };
    let path = target.one().map_err(&wrong)?;
    let disorder_ms = disorder_ms(settings.disorder);
    let line = || Line::new(&settings).map_err(|(message, help)| wrong(message).help(help));
    let whose =
        Whose { blue: settings.blue.as_ref(), green: settings.green.as_ref(), others: settings.others };
    if !template::names(&path.value, "side") {
        let line = line()?;
        if line.side.is_none() {
            let help = "add what tells it to the format, as `combined %D \"%{BALANCER_WORKER_NAME}e\"` does, and to the \
                        server's own; or give each side a log of its own: `target: access-{{ side }}.log`";
            return Err(wrong("this format does not say which side answered".into()).help(help));
        }
        return Ok(Box::new(Access::new(Log::new(path, order.folder, disorder_ms), line, &whose)));
    }
    let of = |number: usize, word: &str| -> Result<_, Problem> {
        let path = template::fill_side(path, word).map_err(&wrong)?;
        Ok(Access::new(Log::new(&path, order.folder, disorder_ms), line()?, &whose).only(number))
    };
    Ok(Box::new(OfEach([of(0, "blue")?, of(1, "green")?])))
}

/// A log of each side.
struct OfEach([Access<Framing<Line>>; 2]);

impl Source for OfEach {
    fn requests(
        &mut self,
        sides: &[SideOf; 2],
        ask: &Ask<'_>,
        take: &mut dyn FnMut(UserRequest),
    ) -> Result<(), Trouble> {
        let [blue, green] = &mut self.0;
        blue.requests(sides, ask, take)?;
        // What came of blue is void with it.
        green.requests(sides, ask, take).inspect_err(|_| blue.undo())
    }

    fn late(&self) -> std::time::Duration {
        self.0.iter().map(Source::late).max().unwrap_or_default()
    }

    fn doubt(&self) -> Option<String> {
        self.0.iter().find_map(Source::doubt)
    }

    fn query(&self, ask: &Ask<'_>) -> String {
        self.0.each_ref().map(|log| log.query(ask)).join("; ")
    }
}

/// Values of a line by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Time,
    Side,
    Status,
    OwnStatus,
    /// The whole request.
    Duration,
    /// What AWS's balancers split that into, the side's own part between them.
    Before,
    Upstream,
    After,
}

const SLOTS: usize = Slot::After as usize + 1;
type Values<'l> = [&'l [u8]; SLOTS];
type Refusal = (String, String);

/// A part of a format.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Text(String),
    Value { name: String, means: Means, shape: Shape },
}

/// What a directive stands for.
#[derive(Clone, Debug, PartialEq)]
enum Means {
    /// When the request came or was answered.
    Time { began: bool, clock: Clock },
    /// The status that the client got.
    Status,
    /// The one that the side gave.
    OwnStatus,
    /// A time, in so many ms for each of its units.
    Took(Slot, f64),
    /// It tells the side, where nothing else is named.
    Side,
    /// A client writes it, with or without what would end it.
    Client,
    /// Nothing that is needed.
    Other,
}

/// How a moment is written.
#[derive(Clone, Debug, PartialEq)]
enum Clock {
    /// So that it is known at sight.
    Known,
    /// By a format of strftime's.
    By(String),
}

struct Line {
    head: Vec<Piece>,
    /// What stands behind the last value that a client writes, read from the end.
    tail: Vec<Piece>,
    clock: Clock,
    began: bool,
    side: Option<String>,
    /// What `Duration` and `Upstream` count, in ms.
    units: [f64; 2],
    latency: Latency,
    /// 460 says that the client did not wait.
    by_aws: bool,
    statuses: Statuses,
}

impl Line {
    fn new(settings: &Settings) -> Result<Self, Refusal> {
        let format = settings.format.trim();
        let help = "write `combined %D \"%{BALANCER_WORKER_NAME}e\"`, `traefik`, `envoy`, `istio`, `alb`, `elb`, or the text of \
                    Apache's LogFormat or Envoy's text_format";
        let (first, more) = format.split_once(' ').unwrap_or((format, ""));
        let with = |known: &str| format!("{known} {more}").trim_end().to_owned();
        let words = match first {
            "common" => apache(&with(COMMON))?,
            "combined" => apache(&with(COMBINED))?,
            "vhost_combined" | "vhost_common" => apache(&with(VHOST))?,
            "traefik" => traefik(),
            "envoy" => envoy(ENVOY)?,
            "istio" => envoy(ISTIO)?,
            "alb" => aws(true),
            "elb" => aws(false),
            _ if format.starts_with('{') => {
                return Err(("this format is JSON".into(), "use the kind `json_log`".into()));
            }
            _ if format.contains("%REQ(") || format.contains("%START_TIME") || format.contains("_CODE%") => {
                envoy(format)?
            }
            _ if format.contains('%') => apache(format)?,
            _ => return Err((format!("the format `{format}` is not known"), help.into())),
        };
        Self::of(&words, settings)
    }

    fn of(words: &[Word], settings: &Settings) -> Result<Self, Refusal> {
        let value = |fits: &dyn Fn(&str, &Means) -> bool| {
            words.iter().position(|word| matches!(word, Word::Value { name, means, .. } if fits(name, means)))
        };
        let missing = |what: &str, add: &str| {
            (format!("the format has no {what}"), format!("add {add}, to the server's format too"))
        };
        let time = value(&|_, means| matches!(means, Means::Time { .. }))
            .ok_or_else(|| missing("moment", "%t or %START_TIME%"))?;
        let Word::Value { means: Means::Time { began, clock }, .. } = &words[time] else {
            unreachable!("it was found as one")
        };
        let code = value(&|_, means| *means == Means::Status)
            .ok_or_else(|| missing("status", "%>s or %RESPONSE_CODE%"))?;
        let own = value(&|_, means| *means == Means::OwnStatus);
        let took = |slot: Slot| {
            let finest = |word: &Word| match word {
                Word::Value { means: Means::Took(own, unit), .. } if *own == slot => Some(*unit),
                _ => None,
            };
            let units: Vec<(usize, f64)> =
                words.iter().enumerate().filter_map(|(at, word)| Some((at, finest(word)?))).collect();
            units.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))
        };
        let (duration, before, upstream, after) =
            (took(Slot::Duration), took(Slot::Before), took(Slot::Upstream), took(Slot::After));
        let side = match &settings.side {
            Some(given) => {
                let bare = given.trim();
                Some(
                    value(&|name, _| name == bare)
                        .ok_or_else(|| missing(&format!("`{bare}`"), &format!("`{bare}`")))?,
                )
            }
            None => SIDES
                .iter()
                .find_map(|known| value(&|name, _| name == *known))
                .or_else(|| value(&|_, means| *means == Means::Side)),
        };
        let latency = match (settings.latency, before.is_some()) {
            (Some(Latency::Upstream), _) if upstream.is_none() => {
                return Err(missing("time of the side", "it"));
            }
            (Some(Latency::Request), false) if duration.is_none() => {
                return Err(missing("time of the request", "%D or %DURATION%"));
            }
            (Some(latency), _) => latency,
            (None, true) => Latency::Upstream,
            (None, false) => Latency::Request,
        };
        let slots = [
            (Some(time), Slot::Time),
            (Some(code), Slot::Status),
            (side, Slot::Side),
            (own, Slot::OwnStatus),
            (duration.map(|d| d.0), Slot::Duration),
            (before.map(|d| d.0), Slot::Before),
            (upstream.map(|d| d.0), Slot::Upstream),
            (after.map(|d| d.0), Slot::After),
        ];
        let slot = |at: usize| slots.iter().find(|(own, _)| *own == Some(at)).map(|(_, slot)| *slot as usize);
        let piece = |(at, word): (usize, &Word)| match word {
            Word::Text(text) => Piece::text(text),
            Word::Value { shape, .. } => Piece::Value { shape: *shape, slot: slot(at) },
        };
        // What a client writes without a mark that it cannot write itself ends what is read from the beginning.
        let is_open = |word: &Word| matches!(word, Word::Value { means: Means::Client, shape, .. } if *shape != Shape::Escaped);
        let first = words.iter().position(is_open).unwrap_or(words.len());
        let last = words.iter().rposition(is_open).map_or(words.len(), |at| at + 1);
        if let Some(Word::Value { name, .. }) =
            (first..last).find(|at| slot(*at).is_some()).map(|at| &words[at])
        {
            return Err((
                format!("a client may write into what stands around `{name}`, and forge it"),
                "move it to the beginning or to the end of the format, or put what the client writes into quotes".into(),
            ));
        }
        let pieces: Vec<Piece> = words.iter().enumerate().map(piece).collect();
        let mut head = pieces[..first].to_vec();
        trim(&mut head);
        let tail = if slots.iter().any(|(at, _)| at.is_some_and(|at| at >= last)) {
            pieces[last..].to_vec()
        } else {
            Vec::new()
        };
        let name = |at: usize| match &words[at] {
            Word::Value { name, .. } => name.clone(),
            Word::Text(_) => String::new(),
        };
        Ok(Self {
            head,
            tail,
            clock: clock.clone(),
            began: *began,
            side: side.map(name),
            units: [duration, upstream].map(|found| found.map_or(1.0, |(_, unit)| unit)),
            latency,
            by_aws: before.is_some(),
            statuses: Statuses::new(settings.errors.as_ref(), settings.client_closed)
                .map_err(|message| (message, "see `errors`".to_owned()))?,
        })
    }

    fn values<'l>(&self, line: &'l [u8]) -> Option<Values<'l>> {
        let mut found = [&[][..]; SLOTS];
        let fits = split(&self.head, line, &mut found)
            && (self.tail.is_empty() || split_end(&self.tail, line, &mut found));
        fits.then_some(found)
    }

    fn moment(&self, values: &Values<'_>) -> Option<i64> {
        let text = of(values, Slot::Time);
        let at_ms = match &self.clock {
            Clock::Known => moment::of_text(text, Finest::Nanoseconds).ok()?,
            Clock::By(format) => strtime::parse(format, text).ok()?.to_timestamp().ok()?.as_millisecond(),
        };
        let lasted = self.duration(values).filter(|_| self.began).unwrap_or_default();
        at_ms.checked_add(whole(lasted))
    }

    fn duration(&self, values: &Values<'_>) -> Option<f64> {
        if self.by_aws {
            let part = |slot| number(of(values, slot)).map(|took| took * self.units[1]);
            return Some(part(Slot::Before)? + part(Slot::Upstream)? + part(Slot::After)?);
        }
        number(of(values, Slot::Duration)).map(|took| took * self.units[0])
    }
}

/// What tells the side in Apache's formats, the best first.
const SIDES: [&str; 3] = ["%{BALANCER_WORKER_NAME}e", "%{BALANCER_WORKER_ROUTE}e", "%UPSTREAM_HOST%"];

fn of<'l>(values: &Values<'l>, slot: Slot) -> &'l str {
    std::str::from_utf8(values[slot as usize]).unwrap_or_default()
}

impl Grammar for Line {
    fn time(&self, line: &[u8]) -> Option<i64> {
        self.moment(&self.values(line)?)
    }

    fn read<'l>(&self, line: &'l [u8], attempts: &mut Vec<Attempt<'l>>) -> Option<i64> {
        let values = self.values(line)?;
        let at_ms = self.moment(&values)?;
        let side = of(&values, Slot::Side);
        if self.side.is_some() && (side.is_empty() || side == "-") {
            return Some(at_ms);
        }
        let own = status(of(&values, Slot::OwnStatus));
        let answered = match of(&values, Slot::Status) {
            "460" if self.by_aws => Some(499),
            // Nobody was answered.
            "-" | "0" => Some(0),
            text => Some(status(text)?),
        };
        let ok = ended(own, answered, Attempts::All, &self.statuses)?;
        let latency_ms = match self.latency {
            Latency::Upstream => number(of(&values, Slot::Upstream)).map(|took| took * self.units[1]),
            Latency::Request => self.duration(&values),
        };
        attempts.push(Attempt { side: Cow::Borrowed(side), elsewhere: false, ok, latency_ms });
        Some(at_ms)
    }

    fn show(&self) -> String {
        self.side.as_ref().map_or_else(|| "a log of each side".into(), |side| format!("side by {side}"))
    }
}

fn text(text: &str) -> Word {
    Word::Text(text.to_owned())
}

fn known(name: &str, means: Means) -> Word {
    Word::Value { name: name.to_owned(), means, shape: Shape::Plain }
}

/// Traefik's `common`, which is not its name for Apache's.
fn traefik() -> Vec<Word> {
    let time = Means::Time { began: true, clock: Clock::Known };
    vec![
        known("host", Means::Other),
        text(" - "),
        known("user", Means::Other),
        text(" ["),
        Word::Value { name: "time".into(), means: time, shape: Shape::Fixed(LOCAL_TIME) },
        text("] \""),
        // Without spaces, so that it cannot hold what follows it.
        known("request", Means::Other),
        text("\" "),
        known("status", Means::Status),
        text(" "),
        known("size", Means::Other),
        text(" "),
        known("headers", Means::Client),
        text(" \""),
        known("router", Means::Other),
        text("\" \""),
        known("server", Means::Side),
        text("\" "),
        known("duration", Means::Took(Slot::Duration, 1.0)),
        text("ms"),
    ]
}

/// The lines of AWS's application balancer, or of the classic one.
fn aws(application: bool) -> Vec<Word> {
    let mut words = if application { vec![known("type", Means::Other), text(" ")] } else { Vec::new() };
    let values = [
        ("time", Means::Time { began: false, clock: Clock::Known }),
        ("elb", Means::Other),
        ("client", Means::Other),
        ("target", Means::Side),
        ("request_processing_time", Means::Took(Slot::Before, 1e3)),
        ("target_processing_time", Means::Took(Slot::Upstream, 1e3)),
        ("response_processing_time", Means::Took(Slot::After, 1e3)),
        ("elb_status_code", Means::Status),
        ("target_status_code", Means::OwnStatus),
        ("received_bytes", Means::Other),
    ];
    for (name, means) in values {
        words.extend([known(name, means), text(" ")]);
    }
    words
}

/// Takes Apache's `LogFormat` apart.
fn apache(format: &str) -> Result<Vec<Word>, Refusal> {
    let as_written = || "write it as in Apache's configuration".to_owned();
    let format = format.replace("\\\"", "\"");
    let mut words: Vec<Word> = Vec::new();
    let mut rest = format.as_str();
    while let Some(at) = rest.find('%') {
        push_text(&mut words, &rest[..at]);
        let start = &rest[at..];
        let mut inside = start[1..].trim_start_matches(|c: char| c.is_ascii_digit() || "!,<>".contains(c));
        if let Some(after) = start.strip_prefix("%%") {
            push_text(&mut words, "%");
            rest = after;
            continue;
        }
        let mut argument = "";
        if let Some(open) = inside.strip_prefix('{') {
            (argument, inside) = open
                .split_once('}')
                .ok_or_else(|| ("a brace is open in the format".to_owned(), as_written()))?;
        }
        let letters = inside.strip_prefix('^').map_or(1, |_| 3);
        let letter = inside
            .get(..letters)
            .ok_or_else(|| ("a `%` in the format names nothing".to_owned(), as_written()))?;
        rest = &inside[letters..];
        let name =
            if argument.is_empty() { format!("%{letter}") } else { format!("%{{{argument}}}{letter}") };
        let quoted =
            matches!(words.last(), Some(Word::Text(text)) if text.ends_with('"')) && rest.starts_with('"');
        let mut shape = if quoted { Shape::Escaped } else { Shape::Plain };
        let means = match (letter, argument) {
            ("t", "") => {
                push_text(&mut words, "[");
                shape = Shape::Fixed(LOCAL_TIME);
                Means::Time { began: true, clock: Clock::Known }
            }
            ("t", argument) => {
                let (began, format) = argument.strip_prefix("end:").map_or_else(
                    || (true, argument.strip_prefix("begin:").unwrap_or(argument)),
                    |format| (false, format),
                );
                match format {
                    "sec" | "msec" | "usec" => Means::Time { began, clock: Clock::Known },
                    _ if format.contains("%z") && format.contains("%S") || format.contains("%s") => {
                        Means::Time {
                            began,
                            clock: Clock::By(format.replace("usec_frac", "%f").replace("msec_frac", "%f")),
                        }
                    }
                    _ => Means::Other,
                }
            }
            ("s", _) => Means::Status,
            ("D", _) | ("T", "us") => Means::Took(Slot::Duration, 1e-3),
            ("T", "ms") => Means::Took(Slot::Duration, 1.0),
            ("T", _) => Means::Took(Slot::Duration, 1e3),
            ("v" | "V", _) => Means::Side,
            ("r" | "i" | "U" | "q" | "f" | "C" | "m" | "H", _) => Means::Client,
            _ => Means::Other,
        };
        separate(&words, &name)?;
        words.push(Word::Value { name, means, shape });
        if letter == "t" && argument.is_empty() {
            push_text(&mut words, "]");
        }
    }
    push_text(&mut words, rest);
    Ok(words)
}

/// Takes Envoy's `text_format` apart.
fn envoy(format: &str) -> Result<Vec<Word>, Refusal> {
    let mut words: Vec<Word> = Vec::new();
    let mut rest = format.trim_end_matches("\\n").trim_end();
    while let Some(at) = rest.find('%') {
        push_text(&mut words, &rest[..at]);
        let inside = &rest[at + 1..];
        // An argument may have a `%` of its own.
        let from = match inside.find(['(', '%']) {
            Some(open) if inside[open..].starts_with('(') => {
                inside[open..].find(')').map_or(open, |close| open + close)
            }
            _ => 0,
        };
        let end = inside[from..].find('%').map(|end| from + end);
        let Some(end) = end else {
            return Err((
                "a `%` is open in the format".into(),
                "write it as in Envoy's configuration".into(),
            ));
        };
        let directive = &inside[..end];
        rest = &inside[end + 1..];
        let name = format!("%{directive}%");
        let (bare, argument) = directive
            .split_once('(')
            .map_or((directive, ""), |(bare, more)| (bare, more.split(')').next().unwrap_or("")));
        let means = match (bare, argument) {
            ("START_TIME", "") => Means::Time { began: true, clock: Clock::Known },
            ("START_TIME", "%s" | "%s.%3f" | "%s.%6f" | "%s.%9f" | "%s%3f") => {
                Means::Time { began: true, clock: Clock::Known }
            }
            ("START_TIME", other) => Means::Time { began: true, clock: Clock::By(other.to_owned()) },
            ("RESPONSE_CODE", _) => Means::Status,
            ("DURATION", _) => Means::Took(Slot::Duration, 1.0),
            ("RESP", header) if header.eq_ignore_ascii_case("X-ENVOY-UPSTREAM-SERVICE-TIME") => {
                Means::Took(Slot::Upstream, 1.0)
            }
            // Neither has spaces.
            ("REQ", ":METHOD" | ":PATH" | "X-ENVOY-ORIGINAL-PATH?:PATH" | ":SCHEME") => Means::Other,
            ("REQ" | "TRAILER" | "DYNAMIC_METADATA", _) => Means::Client,
            _ => Means::Other,
        };
        separate(&words, &name)?;
        words.push(known(&name, means));
    }
    push_text(&mut words, rest);
    Ok(words)
}

fn push_text(words: &mut Vec<Word>, more: &str) {
    match words.last_mut() {
        Some(Word::Text(before)) => before.push_str(more),
        _ if more.is_empty() => {}
        _ => words.push(text(more)),
    }
}

/// Between two values there must be something.
fn separate(words: &[Word], name: &str) -> Result<(), Refusal> {
    match words.last() {
        Some(Word::Value { name: before, shape, .. }) if !matches!(shape, Shape::Fixed(_)) => Err((
            format!("nobody can tell where `{before}` ends and `{name}` begins"),
            "put a space or quotes between them, in the server's format too".into(),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Side, how it went and latency of each attempt.
    type Seen = Vec<(String, Option<bool>, Option<f64>)>;

    fn settings(format: &str) -> Settings {
        Settings {
            format: format.into(),
            side: None,
            blue: None,
            green: None,
            others: None,
            errors: None,
            client_closed: ClientClosed::LeaveOut,
            latency: None,
            disorder: None,
        }
    }

    fn read(settings: &Settings, text: &str) -> Option<(i64, Seen)> {
        let grammar = Line::new(settings).unwrap_or_else(|(message, _)| panic!("{message}"));
        let mut found = Vec::new();
        let at = grammar.read(text.as_bytes(), &mut found)?;
        assert_eq!(grammar.time(text.as_bytes()), Some(at));
        Some((at, found.into_iter().map(|a| (a.side.into_owned(), a.ok, a.latency_ms)).collect()))
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside what is read")]
    fn one(at_ms: i64, side: &str, ok: Option<bool>, latency: Option<f64>) -> Option<(i64, Seen)> {
        Some((at_ms, vec![(side.to_owned(), ok, latency)]))
    }

    const AT: i64 = 1_795_248_000_000;

    #[test]
    fn apaches_formats_have_their_units() {
        let line = |tail: &str| {
            format!(
                r#"192.0.2.7 - alice [21/Nov/2026:09:00:00 +0100] "GET /a?b=\"c HTTP/1.1" 503 29 "-" "x \\\" y" {tail}"#
            )
        };
        let worker = r#""%{BALANCER_WORKER_NAME}e""#;
        for (unit, number, ms) in [
            ("%D", "1500", 1.5),
            ("%{us}T", "1500", 1.5),
            ("%{ms}T", "12", 12.0),
            ("%T", "2", 2000.0),
            ("%{s}T", "2", 2000.0),
        ] {
            let format = settings(&format!("combined {unit} {worker}"));
            let found = read(&format, &line(&format!(r#"{number} "http://10.0.0.1:80""#)));
            assert_eq!(found, one(AT + whole(ms), "http://10.0.0.1:80", Some(false), Some(ms)), "{unit}");
        }
        // Of two units the finer one counts.
        let both = settings(r"common %T %D %{X-Release}o");
        let both = Settings { side: Some("%{X-Release}o".into()), ..both };
        let plain = r#"192.0.2.7 - - [21/Nov/2026:08:00:00 +0000] "GET / HTTP/1.1" 200 29 1 1499000 1.4.2"#;
        assert_eq!(read(&both, plain), one(AT + 1499, "1.4.2", Some(true), Some(1499.0)));
        let vhost = settings("vhost_combined");
        let host = line("").replacen("192", "green.example.com:443 192", 1);
        assert_eq!(read(&vhost, &host), one(AT, "green.example.com", Some(false), None));
        let own = settings(r#"%{%Y-%m-%dT%H:%M:%S%z}t %v "%r" %>s %{end:msec}t"#);
        let text = r#"2026-11-21T09:00:00+0100 green "GET / HTTP/1.1" 200 1"#;
        assert_eq!(read(&own, text), one(AT, "green", Some(true), None));
        let end = settings(r"%{end:msec}t %v %>s %D");
        assert_eq!(
            read(&end, "1795248000250 green 200 40000"),
            one(AT + 250, "green", Some(true), Some(40.0))
        );
        let nobody = line(r#"1500 "-""#);
        assert_eq!(read(&settings(&format!("combined %D {worker}")), &nobody), Some((AT + 2, vec![])));
    }

    #[test]
    fn traefiks_lines_are_read_from_both_ends() {
        let line = |agent: &str, tail: &str| {
            format!(
                r#"192.0.2.7 - - [21/Nov/2026:08:00:00 +0000] "GET /a%22b HTTP/1.1" 502 11 "-" "{agent}" 7 {tail}"#
            )
        };
        let forged = r#"x\" 8 \"shop@file\" \"http://10.0.0.9:80\" 9ms"#;
        for agent in ["curl", forged] {
            let line = line(agent, r#""shop@file" "http://10.0.0.2:80" 12ms"#);
            assert_eq!(
                read(&settings("traefik"), &line),
                one(AT + 12, "http://10.0.0.2:80", Some(false), Some(12.0))
            );
        }
        assert_eq!(read(&settings("traefik"), &line("x", r#""-" "-" 0ms"#)), Some((AT, vec![])));
        assert_eq!(read(&settings("traefik"), &line("x", r#""shop@file" "http://10.0"#)), None);
    }

    #[test]
    fn envoys_lines_are_read_from_both_ends() {
        let line = |status: &str, agent: &str, tail: &str| {
            format!(
                r#"[2026-11-21T08:00:00.250Z] "GET /a"b HTTP/2" {status} - 0 2 31 28 "-" "{agent}" "0f-1" "shop:80" {tail}"#
            )
        };
        let forged = r#"x" "id" "shop" "10.0.0.9:80"#;
        for agent in ["curl", forged] {
            let line = line("200", agent, r#""10.0.0.2:8080""#);
            assert_eq!(
                read(&settings("envoy"), &line),
                one(AT + 281, "10.0.0.2:8080", Some(true), Some(31.0))
            );
            let upstream = Settings { latency: Some(Latency::Upstream), ..settings("envoy") };
            assert_eq!(read(&upstream, &line).unwrap().1[0].2, Some(28.0));
        }
        assert_eq!(
            read(&settings("envoy"), &line("0", "x", r#""[::1]:80""#)),
            one(AT + 281, "[::1]:80", None, Some(31.0))
        );
        assert_eq!(read(&settings("envoy"), &line("503", "x", r#""-""#)), Some((AT + 281, vec![])));
        let istio = r#"[2026-11-21T08:00:00.250Z] "GET / HTTP/1.1" 503 UF,URX upstream_reset{a,b} - "TLS error: x" 0 91 4 - "-" "curl" "0f" "shop" "10.0.0.2:80" outbound|80|green|shop.svc 10.0.0.1:1 10.0.0.1:2 10.0.0.3:4 - default"#;
        assert_eq!(read(&settings("istio"), istio), one(AT + 254, "10.0.0.2:80", Some(false), Some(4.0)));
        let by = Settings { side: Some("%UPSTREAM_CLUSTER%".into()), ..settings("istio") };
        assert_eq!(read(&by, istio).unwrap().1[0].0, "outbound|80|green|shop.svc");
        let own = Settings {
            side: Some("%UPSTREAM_CLUSTER%".into()),
            ..settings("%START_TIME(%s.%3f)% %RESPONSE_CODE% %DURATION% %UPSTREAM_CLUSTER% %REQ(USER-AGENT)%")
        };
        assert_eq!(
            read(&own, "1795248000.250 200 5 shop-green a b c"),
            one(AT + 255, "shop-green", Some(true), Some(5.0))
        );
    }

    #[test]
    fn awss_lines_have_seconds() {
        let line = |times: &str, codes: &str, target: &str| {
            format!(
                r#"https 2026-11-21T08:00:00.250123Z app/shop/50dc 192.0.2.7:2817 {target} {times} {codes} 34 366 "GET https://shop:443/ HTTP/1.1" "curl" ECDHE TLSv1.2 arn:x "Root=1" "shop" "-" 0 2026-11-21T07:59:59.9Z "forward" "-" "-" "10.0.0.9:80" "200" "-" "-""#
            )
        };
        let alb = settings("alb");
        let found = read(&alb, &line("0.001 0.048 0.002", "200 200", "10.0.0.2:80"));
        assert_eq!(found, one(AT + 250, "10.0.0.2:80", Some(true), Some(48.0)));
        let whole = Settings { latency: Some(Latency::Request), ..alb.clone() };
        assert_eq!(
            read(&whole, &line("0.001 0.048 0.002", "200 200", "10.0.0.2:80")).unwrap().1[0].2,
            Some(51.0)
        );
        // The target answered well, and the balancer could not pass it on; or it never answered.
        assert_eq!(
            read(&alb, &line("-1 -1 -1", "502 -", "10.0.0.2:80")),
            one(AT + 250, "10.0.0.2:80", Some(false), None)
        );
        assert_eq!(
            read(&alb, &line("-1 -1 -1", "460 -", "10.0.0.2:80")),
            one(AT + 250, "10.0.0.2:80", None, None)
        );
        assert_eq!(read(&alb, &line("-1 -1 -1", "503 -", "-")), Some((AT + 250, vec![])));
        let classic = line("0.001 0.048 0.002", "200 500", "10.0.0.2:80").replacen("https ", "", 1);
        assert_eq!(read(&settings("elb"), &classic), one(AT + 250, "10.0.0.2:80", Some(false), Some(48.0)));
    }

    #[test]
    fn a_format_that_cannot_do_is_refused() {
        for (format, said) in [
            ("main", "is not known"),
            (r#"{"a":"%t"}"#, "is JSON"),
            ("%v %>s", "no moment"),
            ("%t %v", "no status"),
            ("%t%v%>s", "where `%v` ends"),
            ("%t %{Referer}i %>s %{User-Agent}i %v", "forge it"),
            ("%REQ(USER-AGENT)% %START_TIME% %REQ(X)% %RESPONSE_CODE%", "forge it"),
            ("%t %{Referer", "brace is open"),
            ("%START_TIME", "is open"),
            ("%t %>s %", "names nothing"),
        ] {
            let (message, help) = Line::new(&settings(format)).err().unwrap_or_else(|| panic!("{format}"));
            assert!(message.contains(said) && !help.is_empty(), "{format}: {message}");
        }
        assert_eq!(Line::new(&settings("combined %D")).ok().unwrap().side, None);
        let of = Settings { side: Some("%{X}o".into()), ..settings("combined") };
        assert!(Line::new(&of).err().unwrap().0.contains("no `%{X}o`"));
    }
}
