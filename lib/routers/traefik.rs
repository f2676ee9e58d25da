//! Traefik by its file provider: a weighted service in a file of its own, read back from the API.
//!
//! Traefik answers nothing to a file that it rejects, and one broken file in the watched directory
//! holds up all of them. So what counts is the service that the API names as running. API and requests
//! change together (measured with 3.7: within 2 ms), keep-alive connections and streams live on, and
//! a service that is left out of the split loses its sticky users with the next request.
//!
//! Traefik does not look after a service that no router leads to, and takes every server for UP from a load until
//! its first health check has ended. So a side that has health checks is led to by a router that no request meets,
//! and looked at for as long as a check takes, before it gets its first users.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::text::{Kept, OURS, no_request, rule, share_in};
use self::view::{Seen, errors};
use super::{
    By, Counters, Key, Kind, Live, Order, OtherWay, Router, Side, Split, same_share, take_back, weights,
};
use crate::fault::Fault;
use crate::units::{show_duration, show_share};
use crate::world::http::{Answer, Client, Request, is_url, join};
use crate::world::{files, signal};
use crate::yaml::Problem;

mod metrics;
mod text;
mod view;
mod ways;

pub(super) static KIND: Kind = Kind {
    name: "traefik",
    about: "Traefik by its file provider, the running split read from its API; matches headers and cookies",
    target: "the file that Trapkey writes, in the directory that Traefik watches",
    example: "{kind: traefik, target: /etc/traefik/dynamic/shop-split.yml, with: {api: \"http://127.0.0.1:8080\", service: shop, blue: shop-blue, green: shop-green}}",
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of a Traefik router.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The address of Traefik's API (`api: {}` in its static configuration).
    api: String,
    /// The name of the weighted service that the file defines.
    service: String,
    /// The service of the old side; of the file provider when no `@provider` is named.
    blue: String,
    /// The service of the new side.
    green: String,
    /// The name of a cookie that keeps users on their side; none when absent.
    #[serde(default)]
    sticky: Option<String>,
    /// The router of the file provider that uses the service; needed with `split: {by: match}`, for
    /// the rule of green's own router is made from it.
    #[serde(default)]
    router: Option<String>,
    /// The address of its Prometheus metrics, for counts per side; none are taken when absent.
    #[serde(default)]
    metrics: Option<String>,
    /// How long Traefik may take to load the file; 5 s when absent. It must exceed
    /// `providersThrottleDuration`, which is 2 s by default.
    #[serde(default)]
    settle: Option<crate::units::Span>,
}

struct Traefik {
    file: PathBuf,
    settings: Settings,
    /// The key and value that take a request to green.
    matched: Option<(Key, String)>,
    client: Client,
    /// When a file of this process' was loaded last.
    loaded: Option<Instant>,
    /// The most that was nobody's failure, of which start: an attempt that was tried again lowers it.
    nobody: (String, u64),
}

/// The weighted service as it runs.
struct Running {
    blue: u64,
    green: u64,
    /// What else gets users: names and weights.
    strangers: Vec<(String, u64)>,
    /// Green's share by its own router.
    matched: Option<f64>,
    /// The whole of it.
    service: Value,
}

impl Running {
    /// Green's share; null when no side has any weight.
    #[expect(clippy::cast_precision_loss, reason = "weights")]
    fn green(&self) -> Option<f64> {
        let (blue, green) = (self.blue as f64, self.green as f64);
        (blue + green > 0.0).then(|| self.matched.unwrap_or(green / (blue + green)))
    }

    /// The strangers in words.
    #[expect(clippy::cast_precision_loss, reason = "weights")]
    fn strangers(&self) -> Vec<String> {
        let others = self.strangers.iter().map(|(_, weight)| weight);
        let all = (self.blue + self.green + others.sum::<u64>()) as f64;
        let words = |(name, weight): &(String, u64)| {
            format!("the service `{name}` gets {}", show_share(*weight as f64 / all))
        };
        self.strangers.iter().map(words).collect()
    }
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let mut settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    let matched = match order.split {
        By::Match(key, value) => Some((key.clone(), value.clone())),
        other => {
            other.only_requests("Traefik").map_err(|why| Problem::at(place, why))?;
            None
        }
    };
    if matched.is_some() && settings.router.is_none() {
        return Err(Problem::at(
            place,
            "`split` by match needs `with.router`: the router that uses the service",
        ));
    }
    let words = [Some(&settings.service), settings.sticky.as_ref()];
    let routers = settings.router.as_deref().map(|name| name.trim_end_matches("@file"));
    let services =
        [&settings.blue, &settings.green].map(|name| name.split_once('@').unwrap_or((name, "file")));
    let plain = |word: &str| {
        // Anything else could end the value and begin another key, or leave the API's path.
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    let names = words.into_iter().flatten().map(String::as_str).chain(routers);
    for word in names.chain(services.iter().flat_map(|(name, provider)| [*name, *provider])) {
        if !plain(word) {
            return Err(Problem::at(
                place,
                format!("`{word}` is no name of a Traefik service, router or cookie"),
            ));
        }
    }
    if services[0] == services[1] {
        return Err(Problem::at(place, "blue and green are the same service"));
    }
    for url in [Some(&settings.api), settings.metrics.as_ref()].into_iter().flatten() {
        if !is_url(url) {
            return Err(Problem::at(place, format!("`{url}` is no http address")));
        }
    }
    settings.router = routers.map(str::to_owned);
    let file = order.folder.join(&order.target.value);
    if !file.extension().is_some_and(|e| ["yml", "yaml"].iter().any(|known| e == *known)) {
        return Err(Problem::at(place, "Traefik reads only files that end in .yml or .yaml (`target`)"));
    }
    Ok(Box::new(Traefik {
        file,
        settings,
        matched,
        client: Client::new(order.timeout),
        loaded: None,
        nobody: <(String, u64)>::default(),
    }))
}

/// The longest first health check that is waited for before a side gets users.
const LONGEST_CHECK: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(20);
/// How much of an answer is read.
const KEEP: u64 = 16 * 1024 * 1024;

/// A name with its provider, as the API wants it.
fn qualified(name: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@file") }
}

impl Traefik {
    fn shown(&self) -> String {
        self.file.display().to_string()
    }

    fn settle(&self) -> Duration {
        self.settings.settle.map_or(Duration::from_secs(5), |s| s.0)
    }

    fn services(&self) -> (String, String) {
        (qualified(&self.settings.blue), qualified(&self.settings.green))
    }

    fn side(&self, side: Side) -> String {
        qualified(if side == Side::Blue { &self.settings.blue } else { &self.settings.green })
    }

    fn fetch(&self, url: &str) -> Result<Answer, Fault> {
        let mut request = Request::get(url);
        request.keep = KEEP;
        self.client.send(&request).map_err(|e| {
            Fault::infrastructure("Traefik does not answer").place(url).cause(e.why).help(
                "is it running, and is its API on in the static configuration (`api: {}`, or `api: {insecure: true}` on a port that only you reach)?",
            )
        })
    }

    /// Asks the API; null when it does not know the thing.
    fn ask(&self, path: &str) -> Result<Option<Value>, Fault> {
        let url = join(&self.settings.api, path);
        let answer = self.fetch(&url)?;
        let odd = |cause: String| {
            Fault::infrastructure("this is not the answer of Traefik's API")
                .place(&url)
                .cause(cause)
                .help("`with.api` must be the address below which `/api/http/services` answers")
        };
        let value = serde_json::from_slice::<Value>(&answer.body).ok().filter(Value::is_object);
        match (answer.status, value) {
            (200, Some(value)) => Ok(Some(value)),
            // Its own 404 has a message; that of any other server has none.
            (404, Some(value)) if value["message"].as_str().is_some_and(|m| m.contains("not found")) => {
                Ok(None)
            }
            (200, None) => Err(odd("it answered 200 without a JSON object".into())),
            (status, _) => Err(odd(format!("it answered {status}"))),
        }
    }

    /// What runs now.
    fn running(&self) -> Result<Running, Fault> {
        let name = format!("{}@file", self.settings.service);
        let place = join(&self.settings.api, &format!("api/http/services/{name}"));
        let Some(service) = self.ask(&format!("api/http/services/{name}"))? else {
            return Err(Fault::usage(format!("Traefik knows no service `{name}`"))
                .place(place)
                .cause(format!("it has not loaded {}", self.shown()))
                .help(format!(
                    "its static configuration needs the directory, not the file: `providers: {{file: {{directory: {}, watch: true}}}}`; its log tells of a broken file",
                    files::parent(&self.file).display()
                )));
        };
        let odd = |cause: String| {
            Fault::infrastructure(format!("the service `{name}` of Traefik is no split of two sides"))
                .place(&place)
                .cause(cause)
                .help(format!("{} must be the only file that defines it", self.shown()))
        };
        if service["status"] != "enabled" {
            return Err(odd(format!("its status is {}: {}", service["status"], service["error"])));
        }
        let Some(parts) = service["weighted"]["services"].as_array() else {
            return Err(odd(format!("its type is {}, not weighted", service["type"])));
        };
        let (blue, green) = self.services();
        let mut running =
            Running { blue: 0, green: 0, strangers: Vec::new(), matched: None, service: Value::Null };
        for part in parts {
            let weight = part.get("weight").map_or(Some(1), Value::as_u64);
            let (Some(name), Some(weight)) = (part["name"].as_str().map(qualified), weight) else {
                return Err(odd(format!("not understood: {part}")));
            };
            match name {
                name if name == blue => running.blue = weight,
                name if name == green => running.green = weight,
                other if weight > 0 => running.strangers.push((other, weight)),
                _ => {}
            }
        }
        running.matched = if running.green == 0 { self.matched_share(&green)? } else { None };
        running.service = service;
        Ok(running)
    }

    /// Green's share as it runs.
    fn share(&self) -> Result<(f64, Running), Fault> {
        let running = self.running()?;
        let share = running.green().ok_or_else(|| {
            Fault::infrastructure(format!(
                "the service `{}@file` of Traefik is no split of two sides",
                self.settings.service
            ))
            .place(&self.settings.api)
            .cause("no side has any weight")
            .help(format!("{} must be the only file that defines it", self.shown()))
        })?;
        Ok((share, running))
    }

    /// Green's share by its own router; it is told by the router's name.
    fn matched_share(&self, green: &str) -> Result<Option<f64>, Fault> {
        if self.matched.is_none() {
            return Ok(None);
        }
        let prefix = self.match_router("");
        let users = self.ask(&format!("api/http/services/{green}"))?.unwrap_or_default();
        let routers = users["usedBy"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in routers {
            let parts =
                name.trim_end_matches("@file").strip_prefix(&prefix).and_then(|n| n.parse::<u32>().ok());
            if let Some(parts) = parts
                && self.ask(&format!("api/http/routers/{name}"))?.is_some_and(|r| r["status"] == "enabled")
            {
                return Ok(Some(f64::from(parts) / 10_000.0));
            }
        }
        Ok(None)
    }

    fn match_router(&self, share: &str) -> String {
        format!("{}-trapkey-match-{share}", self.settings.service)
    }

    /// The file for a share, with what is kept of the one that lies there.
    fn text(&self, green: f64, kept: &Kept) -> Result<String, Fault> {
        let exact = weights::exact(green);
        let mut own = Map::new();
        if let (Some((key, value)), Some(router)) = (&self.matched, &self.settings.router)
            && exact.0 > 0
            && exact.1 > 0
        {
            let found = self.user_router(router)?;
            let mut ours = json!({
                "rule": format!("({}) && {}", found["rule"].as_str().unwrap_or_default(), rule(key, value)),
                "priority": found["priority"].as_i64().unwrap_or(0).saturating_add(1),
                "service": self.settings.green,
            });
            for field in ["entryPoints", "middlewares", "tls", "ruleSyntax"] {
                if let Some(value) = found.get(field).filter(|value| **value != "default") {
                    ours[field] = value.clone();
                }
            }
            own.insert(self.match_router(&format!("{:.0}", green * 10_000.0)), ours);
            return Ok(self.settings.render(green, (1, 0), kept, &own));
        }
        Ok(self.settings.render(green, exact, kept, &own))
    }

    /// The router of the user that leads to our service.
    fn user_router(&self, name: &str) -> Result<Value, Fault> {
        let found = self.ask(&format!("api/http/routers/{name}@file"))?;
        let service = format!("{}@file", self.settings.service);
        found
            .filter(|router| router["service"].as_str().map(qualified) == Some(service.clone()))
            .filter(|router| router["rule"].is_string())
            .ok_or_else(|| {
                Fault::usage(format!("Traefik has no router `{name}@file` that uses `{service}`"))
                    .place(&self.settings.api)
                    .help("`with.router` names the router, in a file of the same provider, whose requests are split")
            })
    }

    fn file(&self) -> Result<String, Fault> {
        files::read_text(&self.file).map_err(|e| files::unwritable(&self.file, &e))
    }

    fn swap(&self, text: &str) -> Result<(), Fault> {
        use std::os::unix::fs::PermissionsExt;
        // Traefik may run as another user. What is being written ends in `.tmp`, which it ignores.
        let mode = std::fs::metadata(&self.file).map(|m| m.permissions().mode() & 0o777).ok();
        files::write_through_watched(&self.file, text.as_bytes(), mode)
            .map_err(|e| files::unwritable(&self.file, &e))
    }

    fn seen(&self, side: Side) -> Result<Seen, Fault> {
        Seen::of(&self.side(side), &|name| self.ask(&format!("api/http/services/{name}")))
    }

    /// How long ago Traefik loaded its files, as far as that can be known: by its metrics any of them, otherwise
    /// the one with the split.
    fn age(&self) -> Option<Duration> {
        let by_metrics = || {
            let (counted, now) = self.metrics().ok()??;
            // Both are cut to whole seconds.
            Some(Duration::try_from_secs_f64(now? - counted.loaded? - 1.0).unwrap_or_default())
        };
        let by_file = || {
            let written = std::fs::metadata(&self.file).ok()?.modified().ok()?;
            Some(SystemTime::now().duration_since(written).unwrap_or_default())
        };
        let ages = [self.loaded.map(|at| at.elapsed()), by_metrics().or_else(by_file)];
        ages.into_iter().flatten().min()
    }

    /// Looks at green before it gets users, or more of them: for as long as its first health check since the last
    /// load takes. Where no router leads to it yet, one that no request meets makes Traefik look after it.
    fn look_before_users(&mut self, before: &str, kept: &Kept, running: &Running) -> Result<(), Fault> {
        let seen = self.seen(Side::Green)?;
        let Some(first) = seen.first_check.filter(|first| *first <= LONGEST_CHECK && !seen.is_dead()) else {
            return self.refuse_dead(&seen);
        };
        if seen.looked_after {
            let age = if seen.is_too_young(Some(Duration::ZERO)) { self.age() } else { None };
            let left = age.map_or(Duration::ZERO, |age| first.saturating_sub(age));
            return self.watch(left).and_then(|seen| self.refuse_dead(&seen));
        }
        let look = format!("{}-trapkey-look", self.settings.service);
        let user =
            running.service["usedBy"][0].as_str().map(|name| self.ask(&format!("api/http/routers/{name}")));
        let user = user.transpose()?.flatten().unwrap_or_default();
        let own = Map::from_iter([(look.clone(), no_request(&self.settings.green, &user["using"]))]);
        let text = self.settings.render(0.0, (1, 0), kept, &own);
        self.swap(&text)?;
        let looked = self
            .wait_until_looked_after(&look)
            .and_then(|()| self.watch(first))
            .and_then(|seen| self.refuse_dead(&seen));
        if looked.is_err() {
            take_back(&self.file, &text, || self.swap(before))?;
        }
        looked
    }

    /// Waits until Traefik looks after green, by the router of that name.
    fn wait_until_looked_after(&mut self, look: &str) -> Result<(), Fault> {
        let until = Instant::now() + self.settle();
        while !self.seen(Side::Green)?.looked_after {
            if Instant::now() >= until {
                let router = self.ask(&format!("api/http/routers/{look}@file"))?;
                return Err(self.not_taken(match router {
                    Some(router) => {
                        format!("its router `{look}` is {}: {}", router["status"], errors(&router))
                    }
                    None => format!("it has no router `{look}`, which lets it look after green"),
                }));
            }
            std::thread::sleep(BETWEEN);
        }
        self.loaded = Some(Instant::now());
        Ok(())
    }

    /// Green after so long, or as soon as it is known to be dead.
    fn watch(&self, length: Duration) -> Result<Seen, Fault> {
        let until = Instant::now() + length;
        loop {
            let seen = self.seen(Side::Green)?;
            if seen.is_dead() || Instant::now() >= until {
                return Ok(seen);
            }
            if !signal::sleep(BETWEEN) {
                return Err(Fault::infrastructure("stopped before green had any more users")
                    .place(self.shown())
                    .cause("a signal came while the first health check of Traefik was waited for"));
            }
        }
    }

    fn refuse_dead(&self, seen: &Seen) -> Result<(), Fault> {
        let Some(why) = seen.why_dead() else { return Ok(()) };
        Err(Fault::infrastructure("Traefik itself holds green for down, so it gets no users")
            .place(join(&self.settings.api, &format!("api/http/services/{}", self.side(Side::Green))))
            .cause(why)
            .help("do path, port and host of its `healthCheck` reach it? the reason stands in Traefik's log"))
    }

    fn not_taken(&self, cause: String) -> Fault {
        Fault::infrastructure("Traefik has not taken the new split").place(self.shown()).cause(cause).help("its log tells of a broken file, and any one in the directory holds up all; does it watch the directory (a mounted file, or a network file system, is not seen to change), and is `with.settle` longer than `providersThrottleDuration`?")
    }

    fn wait_for(&mut self, green: f64) -> Result<(), Fault> {
        let until = Instant::now() + self.settle();
        loop {
            let live = self.share();
            if live.as_ref().is_ok_and(|(share, _)| same_share(*share, green)) {
                self.loaded = Some(Instant::now());
                return Ok(());
            }
            if Instant::now() >= until {
                let (share, _) = live?;
                return Err(self.not_taken(format!(
                    "{} after the file was written it still runs {}",
                    show_duration(self.settle().as_secs_f64()),
                    show_share(share)
                )));
            }
            std::thread::sleep(BETWEEN);
        }
    }

    /// What its metrics say, and its clock in seconds of Unix time; null where none are taken.
    fn metrics(&self) -> Result<Option<(metrics::Counted, Option<f64>)>, Fault> {
        let Some(url) = self.settings.metrics.as_deref() else { return Ok(None) };
        let answer = self.fetch(url)?;
        let text = String::from_utf8_lossy(&answer.body);
        let (blue, green) = self.services();
        let (service, matching) = (qualified(&self.settings.service), self.match_router(""));
        let leads =
            |router: &str, to: &str| qualified(to) == service || router.starts_with(matching.as_str());
        let Some(counted) = metrics::read(&text, [&blue, &green], leads) else {
            return Err(Fault::infrastructure("these are not Traefik's metrics")
                .place(url)
                .cause(format!("it answered {} without process_start_time_seconds", answer.status))
                .help("switch them on in the static configuration: `metrics: {prometheus: {}}`"));
        };
        let now = answer.header("date").and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        Ok(Some((counted, now.map(|now| now.timestamp().as_millisecond() as f64 / 1e3))))
    }
}

impl Traefik {
    /// Whether a service of a side is there, and works.
    fn has(&self, side: Side) -> Result<(), Fault> {
        let name = self.side(side);
        let found = self.ask(&format!("api/http/services/{name}"))?;
        if found.as_ref().is_some_and(|service| service["status"] == "enabled") {
            return Ok(());
        }
        let fault = Fault::usage(format!("Traefik has no working service `{name}` for {}", side.word()))
            .place(&self.settings.api);
        let (own, provider) = name.split_once('@').unwrap_or((&name, "file"));
        Err(if provider == "file" {
            fault.help(format!(
                "define it in another file of the directory:\nhttp:\n  services:\n    {own}: {{loadBalancer: {{servers: [{{url: \"http://10.0.0.11:8080\"}}]}}}}"
            ))
        } else {
            fault.help(format!("the provider `{provider}` must tell Traefik of it: start what it is made of"))
        })
    }
}

impl Router for Traefik {
    fn identity(&self, old: Side) -> Vec<String> {
        vec![
            format!("traefik by {}", self.shown()),
            format!("its API at {}", crate::redact::redact(&self.settings.api)),
            format!("service {}", self.settings.service),
            format!("old side {}", self.side(old)),
            format!("new side {}", self.side(old.other())),
        ]
    }

    fn green_is_known(&mut self) -> Result<(), Fault> {
        self.has(Side::Green)
    }

    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        let Some(all) = self.ask("api/rawdata")? else { return Ok(None) };
        let (blue, green) = self.services();
        let split = qualified(&self.settings.service);
        let ours = format!("{}-trapkey-", self.settings.service);
        let split = ways::Services { blue: &blue, green: &green, split: &split };
        Ok(Some(ways::other_ways(&all, &split, |router| router.starts_with(&ours))))
    }

    fn check(&mut self) -> Result<(), Fault> {
        let first = self.settings.render(0.0, (1, 0), &Kept::default(), &Map::new());
        let put = format!(
            "put exactly this into it, and let a router use the service `{}`:\n{first}",
            self.settings.service
        );
        match files::read_text(&self.file) {
            Ok(text) if text.starts_with(OURS) => {}
            Ok(_) => {
                return Err(Fault::usage("the file is not one that Trapkey may overwrite")
                    .place(self.shown())
                    .cause("its first line is not Trapkey's, so it may hold more than the split")
                    .help(format!("give the split a file of its own; {put}")));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Fault::usage("the split's file does not exist yet")
                    .place(self.shown())
                    .cause("Trapkey changes a split that runs; it does not take over a service that it has never seen")
                    .help(put));
            }
            Err(e) => return Err(files::unwritable(&self.file, &e)),
        }
        let (_, running) = self.share()?;
        if let Some(stranger) = running.strangers().first() {
            return Err(Fault::usage("the split of Traefik has more than two sides")
                .place(self.shown())
                .cause(format!("{stranger} and is on neither side, so nobody would judge it"))
                .help("take it out of the file"));
        }
        let cookie = &running.service["weighted"]["sticky"]["cookie"]["name"];
        if let (Some(cookie), None) = (cookie.as_str(), &self.settings.sticky) {
            return Err(Fault::usage(
                "the split of Traefik keeps users by a cookie that the plan does not name",
            )
            .place(self.shown())
            .cause(format!("the service is sticky by the cookie `{cookie}`"))
            .help(format!("say `with: {{sticky: {cookie}}}`, or take `sticky` out of the file")));
        }
        self.has(Side::Blue)?;
        let name = format!("{}@file", self.settings.service);
        let service = self.ask(&format!("api/http/services/{name}"))?.unwrap_or_default();
        if service["usedBy"].as_array().is_none_or(Vec::is_empty) {
            return Err(Fault::usage(format!("no router of Traefik uses the service `{name}`"))
                .place(&self.settings.api)
                .cause("a split that no request meets proves nothing")
                .help(format!(
                    "in another file of the directory:\nhttp:\n  routers:\n    {0}: {{rule: \"Host(`shop.example.com`)\", service: {0}}}",
                    self.settings.service
                )));
        }
        if let (Some(_), Some(router)) = (&self.matched, &self.settings.router) {
            self.user_router(router)?;
        }
        self.counters().map(drop)
    }

    fn nearest(&self, green: f64) -> f64 {
        let (b, g) = weights::exact(green);
        weights::share(b, g).unwrap_or(0.0)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let green = self.nearest(split.green);
        let before = self.file()?;
        let kept = Kept::of(&before, &self.settings);
        // A split without any weight must still be steered; an API that does not answer ends it here.
        let found = match self.share() {
            // A way back is written whether or not anybody can see that it is taken.
            Err(fault) if !split.is_way_back() && self.ask("api/overview").is_err() => return Err(fault),
            found => found.ok(),
        };
        let now = found.as_ref().map(|(share, _)| *share);
        let text = self.text(green, &kept)?;
        let loaded = now.is_some_and(|now| same_share(now, green));
        if loaded && before == text {
            return Ok(());
        }
        let pending = now.zip(share_in(&before)).is_some_and(|(now, file)| !same_share(now, file));
        if let Some((now, running)) = found
            && !split.is_way_back()
            && !pending
            && now < green
        {
            self.look_before_users(&before, &kept, &running)?;
        }
        self.swap(&text)?;
        if pending {
            // What lay there before may still be on its way in: it must have come and gone.
            std::thread::sleep(self.settle());
        }
        let done = self.wait_for(green);
        if done.is_err() && !split.is_way_back() {
            // What lies on disk must be what runs, or Traefik would switch traffic later, unwatched.
            take_back(&self.file, &text, || self.swap(&before))?;
        }
        done
    }

    fn read(&mut self) -> Result<Live, Fault> {
        let until = Instant::now() + self.settle();
        let (green, running) = loop {
            let (share, running) = self.share()?;
            // A file that has just been swapped is loaded soon; after that, what runs is the truth.
            let file = files::read_text(&self.file).ok().and_then(|text| share_in(&text));
            if file.is_none_or(|file| same_share(file, share)) || Instant::now() >= until {
                break (share, running);
            }
            std::thread::sleep(BETWEEN);
        };
        let raw = json!({"weighted": running.service["weighted"]["services"], "matched": running.matched});
        let mut live = Live::of(green, raw);
        live.strangers = running.strangers();
        let [blue, other] = [self.seen(Side::Blue)?, self.seen(Side::Green)?];
        let sides = [&blue, &other];
        let some_down = sides.iter().any(|seen| seen.why_down().is_some());
        let age = if sides.iter().any(|seen| seen.first_check.is_some()) { self.age() } else { None };
        // That all are up is no view where Traefik looks after nobody, or has not yet looked.
        let no_view = sides.iter().all(|seen| seen.is_silent())
            || (!some_down && sides.iter().any(|seen| seen.is_too_young(age)));
        if !no_view {
            live.effective = weights::served(green, !blue.is_dead(), !other.is_dead());
            live.sides = Some([blue.view(), other.view()]);
        }
        Ok(live)
    }

    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        let (green, _) = self.share()?;
        let left = if side == Side::Green { green } else { 1.0 - green };
        if !same_share(left, 0.0) {
            return Err(Fault::infrastructure(format!("{} still has {}", side.word(), show_share(left)))
                .place(&self.settings.api)
                .help("does somebody else steer this router as well?"));
        }
        // Traefik lets requests under way end, and counts them per entry point only.
        std::thread::sleep(limit);
        Ok(0)
    }

    fn sees_open_requests(&self) -> bool {
        false
    }

    fn counters(&mut self) -> Result<Option<Counters>, Fault> {
        let Some((metrics::Counted { mut counters, .. }, _)) = self.metrics()? else { return Ok(None) };
        counters.sticky = self.settings.sticky.is_some();
        // What was tried again has failed on a side and not at the router: what was known stays known.
        if self.nobody.0 == counters.instance {
            counters.nobody = counters.nobody.max(self.nobody.1);
        }
        self.nobody = (counters.instance.clone(), counters.nobody);
        Ok(Some(counters))
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let (share, parts) = if side == Side::Blue { (0.0, (1, 0)) } else { (1.0, (0, 1)) };
        let kept = self.file().map_or_else(|_| Kept::default(), |text| Kept::of(&text, &self.settings));
        let text = self.settings.render(share, parts, &kept, &Map::new());
        let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let lines: Vec<String> = text.lines().map(quote).collect();
        let beside = |path: &std::path::Path| quote(&format!("{}.tmp", path.display()));
        let file = quote(&self.shown());
        // Where it is a link, what it leads to is swapped; the link is renewed, for Traefik sees nothing else.
        let link = std::fs::read_link(&self.file).ok().zip(std::fs::canonicalize(&self.file).ok());
        let (real, temporary, renew) = match &link {
            Some((leads_to, real)) => {
                let (new, leads_to) = (beside(&self.file), quote(&leads_to.display().to_string()));
                let renew = format!(" && ln -sfn {leads_to} {new} && mv -T {new} {file}");
                (quote(&real.display().to_string()), beside(real), renew)
            }
            None => (file.clone(), beside(&self.file), String::new()),
        };
        vec![
            format!(
                "cp -p {real} {temporary} && printf '%s\\n' {} > {temporary} && mv {temporary} {real}{renew}",
                lines.join(" ")
            ),
            format!(
                "sleep 3; curl -sS {}",
                join(&self.settings.api, &format!("api/http/services/{}@file", self.settings.service))
            ),
        ]
    }
}
