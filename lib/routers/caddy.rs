//! Caddy by its admin API: the upstreams of one reverse proxy, changed only if they are still those read.
//!
//! A weight is how often an upstream stands in the list, the sides evenly mixed, for that is true of
//! every version (2.6 has no `weighted_round_robin`, and later ones serve it in blocks). A change takes
//! 2 ms and requests meet it at once; it is a reload, so idle keep-alive connections are closed.
//! The `ETag` of what was read comes behind the body, as a trailer.
//!
//! Caddy skips an upstream that it holds for unhealthy, and gives its users to the others. How often an upstream
//! failed users is told by `/reverse_proxy/upstreams`, what its own checks say only by a metric that is up to ten
//! seconds old. Each change begins anew with everybody healthy.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use self::view::{Checks, Heard};
use super::ways::{Addresses, Ways};
use super::{Counters, Kind, Live, Order, OtherWay, Router, Side, Split, same_share, weights};
use crate::fault::Fault;
use crate::units::{show_duration, show_share};
use crate::yaml::Problem;

mod view;

pub(super) static KIND: Kind = Kind {
    name: "caddy",
    about: "Caddy by its admin API; a change by somebody else in between is refused, not overwritten",
    target: "the address of the admin API",
    example: "{kind: caddy, target: \"http://127.0.0.1:2019\", with: {id: shop, blue: 10.0.0.11:8080, green: 10.0.0.12:8080}}",
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of a Caddy router: exactly one of `id` and `path`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The `@id` of the `reverse_proxy` handler.
    #[serde(default)]
    id: Option<String>,
    /// Its path in the configuration, such as `apps/http/servers/srv0/routes/0/handle/0`, where it has
    /// no `@id` (a Caddyfile cannot give one).
    #[serde(default)]
    path: Option<String>,
    /// `host:port` of the old side.
    blue: String,
    /// `host:port` of the new side.
    green: String,
}

struct Caddy {
    /// `host:port` of the admin API.
    address: String,
    /// Where the handler is: `/id/…` or `/config/…`.
    at: String,
    blue: String,
    green: String,
    timeout: Duration,
    /// When this process changed it last.
    changed: Option<Instant>,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    order.split.only_requests("Caddy").map_err(|why| Problem::at(place, why))?;
    let plain = |word: &str, more: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let at = match (&settings.id, &settings.path) {
        (Some(id), None) if plain(id, "_-.") => format!("/id/{id}"),
        (None, Some(path)) if plain(path, "_-./") => {
            let path = path.trim_matches('/');
            format!("/config/{}", path.strip_prefix("config/").unwrap_or(path))
        }
        (Some(word), None) | (None, Some(word)) => {
            return Err(Problem::at(place, format!("`{word}` is no id or path of a Caddy handler")));
        }
        _ => return Err(Problem::at(place, "the handler needs an `id` or a `path`, and not both")),
    };
    for word in [&settings.blue, &settings.green] {
        if !plain(word, "_-.:[]") || !word.contains(':') {
            return Err(Problem::at(place, format!("`{word}` is no host:port of a Caddy upstream")));
        }
    }
    if settings.blue == settings.green {
        return Err(Problem::at(place, "blue and green are the same address"));
    }
    let target = order.target.value.trim();
    let address = target.strip_prefix("http://").unwrap_or(target).trim_end_matches('/');
    if !plain(address, "_-.:[]") {
        let why = format!("`{target}` is no address of an admin API; write http://127.0.0.1:2019");
        return Err(Problem::at(place, why));
    }
    let with_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(Box::new(Caddy {
        address: if with_port { address.to_owned() } else { format!("{address}:2019") },
        at,
        blue: settings.blue,
        green: settings.green,
        timeout: order.timeout,
        changed: None,
    }))
}

/// The longest list of upstreams: shares in steps of half a percent, and finer ones where they fit.
const MOST: u32 = 200;
/// The longest list that keeps the share of strangers to the letter.
const LONGEST: usize = 2000;
/// The greatest answer that is read.
const MAX_REPLY: usize = 16 * 1024 * 1024;
/// Balancing that makes how often an upstream is listed its share.
const FAIR: [&str; 3] = ["round_robin", "random", "cookie"];

/// An answer of the admin API.
#[derive(Debug, PartialEq)]
struct Reply {
    status: u16,
    etag: Option<String>,
    body: Vec<u8>,
}

impl Reply {
    /// An answer that ends with its connection; the `ETag` may stand before or behind the body.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let end = find(bytes, b"\r\n\r\n").ok_or("it does not answer in HTTP")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let status = head
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .ok_or("it does not answer in HTTP")?;
        let rest = &bytes[end + 4..];
        let (body, trailer) = if header(&head, "transfer-encoding") == Some("chunked") {
            unchunked(rest).ok_or("its answer breaks off")?
        } else {
            let length = header(&head, "content-length").and_then(|n| n.parse::<usize>().ok());
            let body = rest.get(..length.unwrap_or(rest.len())).ok_or("its answer breaks off")?;
            (body.to_vec(), String::new())
        };
        let etag = header(&head, "etag").or_else(|| header(&trailer, "etag")).map(str::to_owned);
        Ok(Self { status, etag, body })
    }

    /// What Caddy says of an error, or the beginning of what came.
    fn said(&self) -> String {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = value["error"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(&self.body).trim().to_owned(), str::to_owned);
        let text = crate::units::clipped(&crate::redact::redact(&text), 300);
        format!("{}: {text}", self.status)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The body and the trailer of a chunked answer; null when it breaks off.
fn unchunked(mut rest: &[u8]) -> Option<(Vec<u8>, String)> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some((body, String::from_utf8_lossy(rest).into_owned()));
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// The handler as it runs.
struct Handler {
    object: Value,
    etag: String,
    /// How often each side stands among the upstreams.
    blue: u32,
    green: u32,
    /// What else stands there.
    strangers: Vec<Value>,
}

impl Handler {
    /// The strangers in words.
    fn strangers(&self) -> Vec<String> {
        let all = f64::from(self.blue + self.green) + self.strangers.len() as f64;
        let mut words: Vec<String> = Vec::new();
        for upstream in &self.strangers {
            let times = self.strangers.iter().filter(|other| other["dial"] == upstream["dial"]).count();
            let dial = crate::redact::redact(upstream["dial"].as_str().unwrap_or("one without an address"));
            let word = format!("the upstream {dial} gets {}", show_share(times as f64 / all));
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }
}

impl Caddy {
    fn url(&self) -> String {
        format!("http://{}{}", self.address, self.at)
    }

    fn exchange(&self, method: &str, path: &str, more: &str, body: &str) -> io::Result<Vec<u8>> {
        let until = Instant::now() + self.timeout;
        let left = || match until.saturating_duration_since(Instant::now()) {
            left if left.is_zero() => Err(io::Error::from(io::ErrorKind::TimedOut)),
            left => Ok(left),
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        // `localhost` may have two addresses, and Caddy listens on one.
        let stream = self.address.to_socket_addrs()?.find_map(|address| {
            let connected = left().and_then(|left| TcpStream::connect_timeout(&address, left));
            connected.map_err(|e| last = e).ok()
        });
        let Some(mut stream) = stream else { return Err(last) };
        stream.set_write_timeout(Some(self.timeout))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nte: trailers\r\n{more}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut reply = Vec::new();
        let mut buffer = [0_u8; 16 * 1024];
        loop {
            stream.set_read_timeout(Some(left()?))?;
            let read = match stream.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if read == 0 {
                return Ok(reply);
            }
            reply.extend_from_slice(&buffer[..read]);
            if reply.len() > MAX_REPLY {
                return Err(io::Error::other("the answer does not end"));
            }
        }
    }

    fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> Result<Reply, Fault> {
        let silent = |cause: String| {
            Fault::infrastructure("Caddy's admin API does not answer")
                .place(format!("http://{}{path}", self.address))
                .cause(cause)
                .help("is Caddy running, and is `admin` on at that address (the default is localhost:2019)?")
        };
        let until = Instant::now() + self.timeout;
        let answered = loop {
            let answered = self.exchange(method, path, more, body);
            // Caddy opens its admin API anew with every change: a connection of that moment is cut, and nothing
            // was read of it. What only reads is asked again.
            let cut = match &answered {
                Ok(bytes) => bytes.is_empty(),
                Err(e) => matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
            };
            if method != "GET" || !cut || Instant::now() >= until {
                break answered;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let bytes = answered.map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                silent(format!("no answer within {}", show_duration(self.timeout.as_secs_f64())))
            }
            _ => silent(e.to_string()),
        })?;
        Reply::parse(&bytes).map_err(|why| silent(why.clone()))
    }

    /// Reads the handler that runs.
    fn handler(&self) -> Result<Handler, Fault> {
        let reply = self.ask("GET", &self.at, "", "")?;
        let object = serde_json::from_slice::<Value>(&reply.body).ok();
        let example = format!(
            "give the handler an id in the configuration: {{\"@id\": \"shop\", \"handler\": \"reverse_proxy\", \"upstreams\": [{{\"dial\": \"{}\"}}], \"load_balancing\": {{\"selection_policy\": {{\"policy\": \"round_robin\"}}}}}}, or name its path in `with.path`: curl http://{}/config/",
            self.blue, self.address
        );
        let odd = |cause: String| {
            Fault::infrastructure("this is not the answer of Caddy's admin API")
                .place(self.url())
                .cause(cause)
        };
        let missing = |object: &Value| {
            let said = object["error"].as_str().unwrap_or_default();
            // 2.6 answers 400 to a path that leads nowhere, and null to one that ends early.
            said.contains("unknown object ID")
                || said.contains("invalid traversal path")
                || said.contains("index out of bounds")
        };
        let object = match (reply.status, object) {
            (200, Some(object)) if object.is_object() => object,
            (200, Some(Value::Null)) => return Err(self.no_handler("nothing is there".into(), example)),
            (200, _) => return Err(odd("it answered 200 without a JSON object".into())),
            (_, Some(error)) if missing(&error) => return Err(self.no_handler(reply.said(), example)),
            _ => return Err(odd(format!("it answered {}", reply.said()))),
        };
        // Whatever else has a handler in its answers, this marks the configuration of Caddy.
        let Some(etag) = reply.etag.filter(|etag| etag.starts_with('"') && etag.is_ascii()) else {
            return Err(odd("it names no ETag of what it answers".into()).help(
                "Caddy 2.6 or later does; without it, a change by somebody else would be overwritten",
            ));
        };
        if object["handler"] != "reverse_proxy" {
            return Err(self.no_handler(format!("its handler is {}", object["handler"]), example));
        }
        let (mut blue, mut green, mut strangers) = (0, 0, Vec::new());
        for upstream in object["upstreams"].as_array().into_iter().flatten() {
            match upstream["dial"].as_str() {
                Some(dial) if dial == self.blue => blue += 1,
                Some(dial) if dial == self.green => green += 1,
                _ => strangers.push(upstream.clone()),
            }
        }
        Ok(Handler { object, etag, blue, green, strangers })
    }

    /// What Caddy has heard of its upstreams, as far as its checks of the handler ask for it.
    fn heard(&self, checks: &Checks) -> Result<Heard, Fault> {
        let mut heard = Heard::default();
        if checks.passive.is_some() {
            let reply = self.ask("GET", "/reverse_proxy/upstreams", "", "")?;
            heard.fails = view::fails(&reply.body);
        }
        if checks.active {
            let reply = self.ask("GET", "/metrics", "", "")?;
            heard.healthy = view::healthy(&String::from_utf8_lossy(&reply.body));
        }
        Ok(heard)
    }

    /// Refuses to write into a handler that has neither side, and somebody else: a path leads to another one when a
    /// route was put in front of it.
    fn is_ours(&self, handler: &Handler) -> Result<(), Fault> {
        if handler.blue + handler.green > 0 || handler.strangers.is_empty() {
            return Ok(());
        }
        let others: Vec<&str> = handler.strangers.iter().filter_map(|u| u["dial"].as_str()).collect();
        Err(Fault::infrastructure("the reverse proxy there is another one now: neither side is among its upstreams")
            .place(self.url())
            .cause(format!("it sends its requests to {}", others.join(", ")))
            .help("nothing is written there; give the handler an `@id` and name it in `with.id`: a path leads elsewhere once a route is put in front"))
    }

    fn no_handler(&self, cause: String, help: String) -> Fault {
        Fault::usage("Caddy has no reverse proxy there").place(self.url()).cause(cause).help(help)
    }

    /// The list for weights: the sides evenly mixed, each upstream with the settings that it has, and what is on
    /// neither side with the share that it has.
    fn upstreams(&self, handler: &Handler, blue: u32, green: u32) -> Value {
        let known = handler.object["upstreams"].as_array().map_or(&[] as &[Value], Vec::as_slice);
        let upstream = |dial: &str| {
            // A side that was left out gets the settings of the other one.
            let mut like = known
                .iter()
                .find(|u| u["dial"] == dial)
                .or_else(|| known.first())
                .cloned()
                .unwrap_or_else(|| json!({}));
            like["dial"] = dial.into();
            like
        };
        let (times, others) = repeated(blue + green, handler.blue + handler.green, handler.strangers.len());
        let sides = mixed(blue, green)
            .into_iter()
            .map(|side| upstream(if side == Side::Blue { &self.blue } else { &self.green }));
        let sides: Vec<Value> = sides.collect();
        let sides = std::iter::repeat_n(sides, times).flatten();
        let strangers = std::iter::repeat_n(&handler.strangers, others).flatten().cloned();
        with_each_id_once(sides.chain(strangers).collect(), known)
    }
}

/// Later versions take no `@id` twice, and earlier ones find only one of them: it stays with the first of the
/// upstream that it belongs to.
fn with_each_id_once(mut upstreams: Vec<Value>, known: &[Value]) -> Value {
    let mut met: Vec<Value> = Vec::new();
    for upstream in &mut upstreams {
        let Some(id) = upstream.get("@id").cloned() else { continue };
        let is_its_own = known.iter().any(|old| old["@id"] == id && old["dial"] == upstream["dial"]);
        if !is_its_own || met.contains(&id) {
            if let Value::Object(fields) = upstream {
                fields.shift_remove("@id");
            }
        } else {
            met.push(id);
        }
    }
    upstreams.into()
}

/// Why a handler does not go by how often an upstream is listed, and what to do; null where it does.
fn cannot_be_split(handler: &Value) -> Option<(String, &'static str)> {
    if !handler["dynamic_upstreams"].is_null() {
        return Some((
            "its upstreams are dynamic, so the list has no say".into(),
            "take `dynamic_upstreams` out of the handler and list the two sides",
        ));
    }
    let mut policy = &handler["load_balancing"]["selection_policy"];
    loop {
        let name = policy["policy"].as_str().unwrap_or("random");
        if !FAIR.contains(&name) {
            return Some((
                format!("it balances by `{name}`, which does not go by how often an upstream is listed"),
                "use the selection policy `round_robin`, or `cookie` for sticky users",
            ));
        }
        // Users without a cookie are given one by the fallback.
        if !policy["fallback"].is_object() {
            return None;
        }
        policy = &policy["fallback"];
    }
}

/// How often the list of the sides and that of the strangers stand in the whole one, so that strangers keep their
/// share: `new` and `old` are the lengths of the sides' lists.
fn repeated(new: u32, old: u32, strangers: usize) -> (usize, usize) {
    if strangers == 0 || old == 0 || new == 0 {
        return (1, 1);
    }
    let (mut times, mut rest) = (new, old);
    while rest > 0 {
        (times, rest) = (rest, times % rest);
    }
    let (times, others) = ((old / times) as usize, (new / times) as usize);
    let length = times * new as usize + others * strangers;
    // As near as a list that long can be.
    if length > LONGEST { (1, (new / old).max(1) as usize) } else { (times, others) }
}

/// So many of each side, as evenly mixed as can be, the side with more of them first.
fn mixed(blue: u32, green: u32) -> Vec<Side> {
    let total = blue + green;
    let (fewer, side) = if green <= blue { (green, Side::Green) } else { (blue, Side::Blue) };
    let mut owed = 0;
    (0..total)
        .map(|_| {
            owed += fewer;
            if owed >= total {
                owed -= total;
                side
            } else {
                side.other()
            }
        })
        .collect()
}

impl Caddy {
    /// Notes whatever in a part of the configuration dials a side, but for the handler that is split.
    fn dialled(&self, value: &Value, path: &str, known: &mut Addresses, ways: &mut Ways) {
        let own = self.at.strip_prefix("/id/").map_or_else(
            || self.at.strip_prefix("/config/") == Some(path),
            |id| value["@id"] == id && value["handler"] == "reverse_proxy",
        );
        if own {
            return;
        }
        let inside = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
        match value {
            Value::Object(fields) => {
                let dial = fields.get("dial").into_iter();
                // `layer4` has a list of them.
                let dials =
                    dial.flat_map(|dial| dial.as_array().map_or(std::slice::from_ref(dial), Vec::as_slice));
                for address in dials.filter_map(Value::as_str) {
                    let plain = address.strip_prefix("tcp/").unwrap_or(address);
                    if let Some(side) = known.side(plain, 80) {
                        let handler = path.split_once("/upstreams/").map_or(path, |(handler, _)| handler);
                        ways.add(side, &format!("the upstream {address}"), handler);
                    }
                }
                fields.iter().for_each(|(key, inner)| self.dialled(inner, &inside(key), known, ways));
            }
            Value::Array(all) => {
                let each = all.iter().enumerate();
                each.for_each(|(at, inner)| self.dialled(inner, &inside(&at.to_string()), known, ways));
            }
            _ => {}
        }
    }
}

impl Router for Caddy {
    fn identity(&self, old: Side) -> Vec<String> {
        let [first, second] =
            if old == Side::Blue { [&self.blue, &self.green] } else { [&self.green, &self.blue] };
        vec![format!("caddy at {}", self.url()), format!("old side {first}"), format!("new side {second}")]
    }

    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        let reply = self.ask("GET", "/config/", "", "")?;
        let Ok(all) = serde_json::from_slice::<Value>(&reply.body) else { return Ok(None) };
        let sides = [&self.blue, &self.green].map(std::slice::from_ref);
        let (mut known, mut ways) = (Addresses::of(sides[0], sides[1], 80), Ways::default());
        self.dialled(&all, "", &mut known, &mut ways);
        Ok(Some(ways.all()))
    }

    fn check(&mut self) -> Result<(), Fault> {
        let handler = self.handler()?;
        let cannot = |cause: String, help: &str| {
            Err(Fault::usage("this reverse proxy of Caddy cannot be split")
                .place(self.url())
                .cause(cause)
                .help(help))
        };
        if let Some(stranger) = handler.strangers().first() {
            return Err(Fault::usage("the handler has an upstream on neither side")
                .place(self.url())
                .cause(format!("{stranger}, and nobody would judge it"))
                .help("name it in `with.blue` or `with.green`, or take it out"));
        }
        if let Some((cause, help)) = cannot_be_split(&handler.object) {
            return cannot(cause, help);
        }
        if weights::share(handler.blue, handler.green).is_none() {
            return cannot("it has no upstream".into(), "list the old side among its `upstreams`");
        }
        Ok(())
    }

    fn nearest(&self, green: f64) -> f64 {
        let (b, g) = weights::small(green, MOST);
        weights::share(b, g).unwrap_or(0.0)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let handler = self.handler()?;
        self.is_ours(&handler)?;
        let (blue, green) = weights::small(split.green, MOST);
        let share = self.nearest(split.green);
        if weights::share(handler.blue, handler.green).is_some_and(|now| same_share(now, share)) {
            return Ok(());
        }
        let body = self.upstreams(&handler, blue, green).to_string();
        let unchanged = format!("if-match: {}\r\n", handler.etag);
        // PATCH replaces what is there; a handler without the list gets one by PUT.
        let method = if handler.object["upstreams"].is_null() { "PUT" } else { "PATCH" };
        let reply = self.ask(method, &format!("{}/upstreams", self.at), &unchanged, &body)?;
        self.changed = Some(Instant::now());
        match reply.status {
            200 => Ok(()),
            412 => Err(Fault::infrastructure("somebody else changed Caddy's configuration meanwhile")
                .place(self.url())
                .cause(reply.said())
                .help("nothing was changed; find out who steers it as well, and run it again")),
            _ => Err(Fault::infrastructure(format!("Caddy refused to give green {}", show_share(share)))
                .place(self.url())
                .cause(reply.said())
                .help("it still runs what it ran before; look at its log")),
        }
    }

    fn read(&mut self) -> Result<Live, Fault> {
        let handler = self.handler()?;
        self.is_ours(&handler)?;
        let Some(green) = weights::share(handler.blue, handler.green) else {
            return Err(Fault::infrastructure("the reverse proxy of Caddy has no upstream")
                .place(self.url())
                .help("somebody took both sides out: put one back by hand"));
        };
        let raw = json!({"blue": handler.blue, "green": handler.green, "etag": handler.etag});
        let mut live = Live::of(green, raw);
        live.strangers = handler.strangers();
        let checks = Checks::of(&handler.object);
        if checks.is_any() {
            let heard = self.heard(&checks)?;
            let side = |dial: &str, times: u32| checks.side(&heard, dial, times > 0);
            let is_young = checks.active && self.changed.is_some_and(|at| at.elapsed() < view::RENEWED);
            if let (Some(blue), Some(other)) =
                (side(&self.blue, handler.blue), side(&self.green, handler.green))
                && !(is_young && blue.down.is_empty() && other.down.is_empty())
            {
                // The users of one that is skipped are given to the others.
                live.effective = match (blue.serving, other.serving) {
                    (0, 0) => None,
                    (0, _) => Some(1.0),
                    (_, 0) => Some(0.0),
                    _ => Some(green),
                };
                live.sides = Some([blue, other]);
            }
        }
        Ok(live)
    }

    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        let handler = self.handler()?;
        let left = if side == Side::Blue { handler.blue } else { handler.green };
        if left > 0 {
            return Err(Fault::infrastructure(format!("{} still stands among the upstreams", side.word()))
                .place(self.url())
                .help("does somebody else steer this router as well?"));
        }
        // Caddy lets requests under way end, and forgets to count those of an upstream that it dropped.
        std::thread::sleep(limit);
        Ok(0)
    }

    fn sees_open_requests(&self) -> bool {
        false
    }

    fn counters(&mut self) -> Result<Option<Counters>, Fault> {
        Ok(None)
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let dial = if side == Side::Blue { &self.blue } else { &self.green };
        vec![
            format!(
                "curl -fsS -X PATCH -H 'content-type: application/json' -d '[{{\"dial\": \"{dial}\"}}]' '{}/upstreams'",
                self.url()
            ),
            format!("curl -fsS '{}/upstreams'", self.url()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_etag_behind_the_body() {
        let answer = "HTTP/1.1 200 OK\r\nTrailer: ETag\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\nEtag: \"/config/a 1f\"\r\n\r\n";
        let reply = Reply::parse(answer.as_bytes());
        let etag = Some("\"/config/a 1f\"".to_owned());
        assert_eq!(reply, Ok(Reply { status: 200, etag, body: b"{}\n".to_vec() }));
        for broken in [
            "",
            "hello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        ] {
            assert!(Reply::parse(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_id_stays_with_the_first_of_its_own_upstream() {
        let known = [json!({"@id": "a", "dial": "a:1"}), json!({"dial": "x:1"})];
        let copy = |dial: &str| json!({"@id": "a", "dial": dial, "max_requests": 1});
        let list = with_each_id_once(vec![copy("b:1"), copy("a:1"), copy("a:1")], &known);
        let without = |dial: &str| json!({"dial": dial, "max_requests": 1});
        assert_eq!(list, json!([without("b:1"), copy("a:1"), without("a:1")]));
    }

    #[test]
    fn what_does_not_go_by_the_list_is_refused_in_a_fallback_too() {
        let handler = |policy: Value| json!({"load_balancing": {"selection_policy": policy}});
        let cookie = |fallback: Value| json!({"policy": "cookie", "name": "side", "fallback": fallback});
        for fine in [
            json!({}),
            handler(json!({"policy": "round_robin"})),
            handler(cookie(json!({"policy": "round_robin"}))),
            handler(cookie(Value::Null)),
        ] {
            assert_eq!(cannot_be_split(&fine), None, "{fine}");
        }
        for (odd, why) in [
            (handler(json!({"policy": "weighted_round_robin", "weights": [3, 1]})), "weighted_round_robin"),
            (handler(json!({"policy": "first"})), "first"),
            (handler(cookie(json!({"policy": "ip_hash"}))), "ip_hash"),
            (handler(cookie(cookie(json!({"policy": "uri_hash"})))), "uri_hash"),
            (json!({"dynamic_upstreams": {"source": "a", "name": "shop"}}), "dynamic"),
        ] {
            let said = cannot_be_split(&odd).map(|(why, _)| why).unwrap_or_default();
            assert!(said.contains(why), "{odd}: {said}");
        }
    }

    #[test]
    fn strangers_keep_their_share() {
        assert_eq!(repeated(1, 20, 2), (20, 1));
        assert_eq!(repeated(20, 1, 1), (1, 20));
        assert_eq!(repeated(20, 20, 3), (1, 1));
        assert_eq!(repeated(4, 6, 1), (3, 2));
        assert_eq!(repeated(5, 20, 0), (1, 1));
        assert_eq!(repeated(1, 0, 1), (1, 1));
        assert_eq!(repeated(200, 199, 1), (1, 1), "a list of some ten thousand would be needed");
    }

    #[test]
    fn mixes_the_sides_evenly() {
        use Side::{Blue as B, Green as G};
        assert_eq!(mixed(3, 1), [B, B, B, G]);
        assert_eq!(mixed(3, 2), [B, B, G, B, G]);
        assert_eq!(mixed(1, 1), [B, G]);
        assert_eq!((mixed(1, 0), mixed(0, 1)), (vec![B], vec![G]));
        for (blue, green) in [(19, 1), (1, 3), (133, 67)] {
            let all = mixed(blue, green);
            let greens = all.iter().filter(|side| **side == G).count();
            assert_eq!((all.len(), greens), ((blue + green) as usize, green as usize));
        }
    }
}
