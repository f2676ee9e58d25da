//! Traefik by its file provider: a weighted service in a file of its own, read back from the API.
//!
//! Traefik answers nothing to a file that it rejects, and one broken file in the watched directory
//! holds up all of them. So what counts is the service that the API names as running. API and requests
//! change together (measured with 3.7: within 2 ms), keep-alive connections and streams live on, and
//! a service that is left out of the split loses its sticky users with the next request.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{By, Counters, Key, Kind, Live, Order, Router, Side, Split, same_share, take_back, weights};
use crate::fault::Fault;
use crate::units::{show_duration, show_share};
use crate::world::files;
use crate::world::http::{Client, Request, join};
use crate::yaml::Problem;

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
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Problem::at(place, format!("`{url}` is no http address")));
        }
    }
    settings.router = routers.map(str::to_owned);
    let file = order.folder.join(&order.target.value);
    if !file.extension().is_some_and(|e| ["yml", "yaml"].iter().any(|known| e == *known)) {
        return Err(Problem::at(place, "Traefik reads only files that end in .yml or .yaml (`target`)"));
    }
    Ok(Box::new(Traefik { file, settings, matched, client: Client::new(order.timeout, 0) }))
}

const OURS: &str = "# Written by Trapkey; the next shift overwrites it.";
const SHARE: &str = "# trapkey-split ";
const BETWEEN: Duration = Duration::from_millis(20);
/// How much of an answer is read.
const KEEP: u64 = 16 * 1024 * 1024;

/// The share that a file of ours was written for.
fn share_in(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(SHARE))?.trim().parse().ok()
}

/// A name with its provider, as the API wants it.
fn qualified(name: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("{name}@file") }
}

impl Settings {
    /// The file for weights; `router` is green's own, one line of it.
    fn render(&self, green: f64, (blue_weight, green_weight): (u32, u32), router: Option<&str>) -> String {
        let mut lines = vec![OURS.to_owned(), format!("{SHARE}{green}"), "http:".into()];
        lines.extend(router.map(|line| format!("  routers: {line}")));
        lines.push("  services:".into());
        lines.push(format!("    {}:", self.service));
        lines.push("      weighted:".into());
        lines.extend(
            self.sticky.as_ref().map(|name| format!("        sticky: {{cookie: {{name: \"{name}\"}}}}")),
        );
        lines.push("        services:".into());
        for (name, weight) in [(&self.blue, blue_weight), (&self.green, green_weight)] {
            // Left out rather than 0: nobody sticks to what is not there.
            if weight > 0 {
                lines.push(format!("          - {{name: \"{name}\", weight: {weight}}}"));
            }
        }
        lines.join("\n") + "\n"
    }
}

/// The rule that a request with this key and value meets.
fn rule(key: &Key, value: &str) -> String {
    match key {
        Key::Header(name) => format!("Header(`{name}`, `{value}`)"),
        Key::Cookie(name) => format!(r"HeaderRegexp(`Cookie`, `(^|;\s*){name}={value}\s*(;|$)`)"),
    }
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

    fn fetch(&self, url: &str) -> Result<(u16, Vec<u8>), Fault> {
        let mut request = Request::get(url);
        request.keep = KEEP;
        let answer = self.client.send(&request).map_err(|e| {
            Fault::infrastructure("Traefik does not answer").place(url).cause(e.why).help(
                "is it running, and is its API on in the static configuration (`api: {}`, or `api: {insecure: true}` on a port that only you reach)?",
            )
        })?;
        Ok((answer.status, answer.body))
    }

    /// Asks the API; null when it does not know the thing.
    fn ask(&self, path: &str) -> Result<Option<Value>, Fault> {
        let url = join(&self.settings.api, path);
        let (status, body) = self.fetch(&url)?;
        let odd = |cause: String| {
            Fault::infrastructure("this is not the answer of Traefik's API")
                .place(&url)
                .cause(cause)
                .help("`with.api` must be the address below which `/api/http/services` answers")
        };
        let value = serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object);
        match (status, value) {
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
    fn running(&self) -> Result<Live, Fault> {
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
        let (mut blues, mut greens) = (0, 0);
        for part in parts {
            let weight =
                part.get("weight").map_or(Some(1), Value::as_u64).and_then(|w| u32::try_from(w).ok());
            let (Some(name), Some(weight)) = (part["name"].as_str().map(qualified), weight) else {
                return Err(odd(format!("not understood: {part}")));
            };
            match name {
                name if name == blue => blues = weight,
                name if name == green => greens = weight,
                other if weight > 0 => {
                    return Err(odd(format!("`{other}` gets traffic and is on neither side")));
                }
                _ => {}
            }
        }
        let Some(share) = weights::share(blues, greens) else {
            return Err(odd("no side has any weight".into()));
        };
        let matched = if greens == 0 { self.matched_share(&green)? } else { None };
        Ok(Live::of(matched.unwrap_or(share), json!({"weighted": parts, "matched": matched})))
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

    /// The file for a share.
    fn text(&self, green: f64) -> Result<String, Fault> {
        let exact = weights::exact(green);
        let (Some((key, value)), Some(router)) = (&self.matched, &self.settings.router) else {
            return Ok(self.settings.render(green, exact, None));
        };
        if exact.0 == 0 || exact.1 == 0 {
            return Ok(self.settings.render(green, exact, None));
        }
        let found = self.user_router(router)?;
        let mut own = json!({
            "rule": format!("({}) && {}", found["rule"].as_str().unwrap_or_default(), rule(key, value)),
            "priority": found["priority"].as_i64().unwrap_or(0).saturating_add(1),
            "service": self.settings.green,
        });
        for field in ["entryPoints", "middlewares", "tls", "ruleSyntax"] {
            if let Some(value) = found.get(field).filter(|value| **value != "default") {
                own[field] = value.clone();
            }
        }
        let name = self.match_router(&format!("{:.0}", green * 10_000.0));
        Ok(self.settings.render(green, (1, 0), Some(&json!({ name: own }).to_string())))
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
        std::fs::read_to_string(&self.file).map_err(|e| files::unwritable(&self.file, &e))
    }

    fn swap(&self, text: &str) -> Result<(), Fault> {
        use std::os::unix::fs::PermissionsExt;
        // Traefik may run as another user. What is being written ends in `.tmp`, which it ignores.
        let mode = std::fs::metadata(&self.file).map(|m| m.permissions().mode() & 0o777).ok();
        files::write_atomic_with_mode(&self.file, text.as_bytes(), mode)
            .map_err(|e| files::unwritable(&self.file, &e))
    }

    fn wait_for(&self, green: f64) -> Result<(), Fault> {
        let until = Instant::now() + self.settle();
        loop {
            let live = self.running();
            if live.as_ref().is_ok_and(|live| same_share(live.green, green)) {
                return Ok(());
            }
            if Instant::now() >= until {
                let live = live?;
                return Err(Fault::infrastructure("Traefik has not taken the new split")
                    .place(self.shown())
                    .cause(format!(
                        "{} after the file was written it still runs {}",
                        show_duration(self.settle().as_secs_f64()),
                        show_share(live.green)
                    ))
                    .help("its log tells of a broken file, and any one in the directory holds up all; does it watch the directory (a mounted file, or a network file system, is not seen to change), and is `with.settle` longer than `providersThrottleDuration`?"));
            }
            std::thread::sleep(BETWEEN);
        }
    }

    fn count(&self, url: &str) -> Result<Counters, Fault> {
        let (status, body) = self.fetch(url)?;
        let text = String::from_utf8_lossy(&body);
        let Some(instance) = text.lines().find_map(|l| l.strip_prefix("process_start_time_seconds ")) else {
            return Err(Fault::infrastructure("these are not Traefik's metrics")
                .place(url)
                .cause(format!("it answered {status} without process_start_time_seconds"))
                .help("switch them on in the static configuration: `metrics: {prometheus: {}}`"));
        };
        let (blue, green) = self.services();
        let mut counters = Counters { instance: instance.trim().to_owned(), ..Counters::default() };
        for (service, code, number) in text.lines().filter_map(counted) {
            let side = match service {
                name if name == blue => &mut counters.blue,
                name if name == green => &mut counters.green,
                _ => continue,
            };
            side.requests += number;
            side.errors += if code.starts_with('5') { number } else { 0 };
        }
        Ok(counters)
    }
}

/// Service, status and number of a line of `traefik_service_requests_total`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count below 2^53")]
fn counted(line: &str) -> Option<(&str, &str, u64)> {
    let (labels, number) = line.strip_prefix("traefik_service_requests_total{")?.rsplit_once("} ")?;
    let label = |name: &str| {
        let rest = labels.split(',').find_map(|l| l.strip_prefix(name)?.strip_prefix("=\""))?;
        rest.strip_suffix('"')
    };
    let number: f64 = number.trim().parse().ok()?;
    Some((label("service")?, label("code")?, (number >= 0.0).then_some(number as u64)?))
}

impl Router for Traefik {
    fn check(&mut self) -> Result<(), Fault> {
        let first = self.settings.render(0.0, (1, 0), None);
        let put = format!(
            "put exactly this into it, and let a router use the service `{}`:\n{first}",
            self.settings.service
        );
        match std::fs::read_to_string(&self.file) {
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
        self.running()?;
        let (blue, green) = self.services();
        for (side, name) in [("blue", &blue), ("green", &green)] {
            let found = self.ask(&format!("api/http/services/{name}"))?;
            if found.as_ref().is_none_or(|service| service["status"] != "enabled") {
                return Err(Fault::usage(format!("Traefik has no working service `{name}` for {side}"))
                    .place(&self.settings.api)
                    .help(format!(
                        "define it in another file of the directory:\nhttp:\n  services:\n    {}: {{loadBalancer: {{servers: [{{url: \"http://10.0.0.11:8080\"}}]}}}}",
                        name.trim_end_matches("@file")
                    )));
            }
        }
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
        // A split without any weight must still be steered; an API that does not answer ends it here.
        let now = match self.running() {
            Ok(live) => Some(live.green),
            // A way back is written whether or not anybody can see that it is taken.
            Err(fault) if !split.is_way_back() && self.ask("api/overview").is_err() => return Err(fault),
            Err(_) => None,
        };
        let text = self.text(green)?;
        let loaded = now.is_some_and(|now| same_share(now, green));
        if loaded && before == text {
            return Ok(());
        }
        let pending = now.zip(share_in(&before)).is_some_and(|(now, file)| !same_share(now, file));
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
        loop {
            let live = self.running()?;
            // A file that has just been swapped is loaded soon; after that, what runs is the truth.
            let file = std::fs::read_to_string(&self.file).ok().and_then(|text| share_in(&text));
            if file.is_none_or(|file| same_share(file, live.green)) || Instant::now() >= until {
                return Ok(live);
            }
            std::thread::sleep(BETWEEN);
        }
    }

    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        let live = self.running()?;
        let left = if side == Side::Green { live.green } else { 1.0 - live.green };
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
        self.settings.metrics.as_deref().map(|url| self.count(url)).transpose()
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let (share, parts) = if side == Side::Blue { (0.0, (1, 0)) } else { (1.0, (0, 1)) };
        let text = self.settings.render(share, parts, None);
        let lines: Vec<String> = text.lines().map(|line| format!("'{line}'")).collect();
        let quote =
            |path: &std::path::Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let mut temporary = self.file.clone();
        temporary.as_mut_os_string().push(".tmp");
        let (file, temporary) = (quote(&self.file), quote(&temporary));
        vec![
            format!(
                "cp -p {file} {temporary} && printf '%s\\n' {} > {temporary} && mv {temporary} {file}",
                lines.join(" ")
            ),
            format!(
                "sleep 3; curl -sS {}",
                join(&self.settings.api, &format!("api/http/services/{}@file", self.settings.service))
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counts_per_service_and_status() {
        let line = r#"traefik_service_requests_total{code="502",method="GET",protocol="http",service="shop-green@file"} 1.2e+06"#;
        assert_eq!(counted(line), Some(("shop-green@file", "502", 1_200_000)));
        for other in [
            "traefik_service_requests_bytes_total{code=\"200\",service=\"a\"} 1",
            "",
            "# HELP x",
            "traefik_service_requests_total{} 1",
        ] {
            assert_eq!(counted(other), None, "{other}");
        }
    }

    #[test]
    fn a_side_without_share_is_left_out_of_the_file() {
        let settings: Settings = serde_json::from_str(
            r#"{"api": "http://x", "service": "shop", "blue": "b", "green": "g@docker", "sticky": "side"}"#,
        )
        .unwrap_or_else(|e| unreachable!("{e}"));
        let text = settings.render(0.05, (19, 1), None);
        assert!(
            text.contains("{name: \"b\", weight: 19}") && text.contains("{name: \"g@docker\", weight: 1}")
        );
        assert!(text.contains("sticky: {cookie: {name: \"side\"}}"), "{text}");
        assert_eq!(share_in(&text), Some(0.05));
        let text = settings.render(0.0, (1, 0), None);
        assert!(!text.contains("g@docker"), "{text}");
    }
}
