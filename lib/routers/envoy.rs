//! Envoy by file-based route discovery: weights edited inside the user's own routes, read back from
//! the running Envoy.
//!
//! Envoy reloads a route file when another file is renamed onto it, skips an update whose content is
//! the same, and keeps the old routes when it rejects one. So every split carries a stamp inside the
//! routes themselves (`metadata`), and it is in force when the admin address shows that stamp.
//! Measured with Envoy 1.40.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{By, Counters, Key, Kind, Live, Order, Router, Side, SideCount, Split, same_share, take_back};
use crate::fault::Fault;
use crate::units::show_duration;
use crate::world::http::{Client, Request, join};
use crate::world::{self, files};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "envoy",
    about: "Envoy by a route file that it watches; splits by request, user or match, and counts per side",
    target: "the route file (JSON) that Envoy's `rds` watches",
    example: "{kind: envoy, target: /etc/envoy/routes.json, with: {admin: \"http://127.0.0.1:9901\", routes: shop, blue: shop-blue, green: shop-green}}",
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of an Envoy router.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The admin address.
    admin: String,
    /// The name of the route configuration (`route_config_name`).
    routes: String,
    /// The cluster of the old side.
    blue: String,
    /// The cluster of the new side.
    green: String,
}

struct Envoy {
    file: PathBuf,
    settings: Settings,
    by: By,
    timeout: Duration,
    client: Client,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    for name in [&settings.blue, &settings.green, &settings.routes] {
        // They go into a regular expression and into a command line.
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:/|".contains(c)) {
            return Err(Problem::at(place, format!("`{name}` is no name of an Envoy cluster or route file")));
        }
    }
    if settings.blue == settings.green {
        return Err(Problem::at(place, "blue and green are the same cluster"));
    }
    Ok(Box::new(Envoy {
        file: order.folder.join(&order.target.value),
        by: order.split.clone(),
        client: Client::new(order.timeout, 0),
        timeout: order.timeout,
        settings,
    }))
}

/// Weights add up to this, always: a user's bucket then stays where it is while green grows.
const TOTAL: u32 = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A configuration dump of thousands of routes is some megabytes.
const MAX_DUMP: u64 = 64 * 1024 * 1024;
const TYPE: &str = "RouteConfiguration";

/// What of the traffic a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    /// The requests that the split is about.
    Split,
    /// All others, where the split is by user or by match: on blue until green has everything.
    Rest,
}

/// Green's part of a route, of [`TOTAL`].
fn wanted(by: &By, carries: Carries, green: f64) -> u32 {
    match (carries, by) {
        (Carries::Split, By::Match(..)) => u32::from(green > 0.0) * TOTAL,
        (Carries::Split, _) => parts(green),
        (Carries::Rest, _) => u32::from(parts(green) == TOTAL) * TOTAL,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
fn parts(green: f64) -> u32 {
    (green.clamp(0.0, 1.0) * f64::from(TOTAL)).round() as u32
}

/// A field of a protobuf message in JSON, written `like_this` or `likeThis`.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| value.get(camel(name)))
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |all, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        format!("{all}{}{tail}", head.to_ascii_uppercase())
    })
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    field(value, name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn field_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let other = camel(name);
    let key = if value.get(name).is_some() { name } else { other.as_str() };
    value.get_mut(key)
}

/// The routes of a route configuration, those of its virtual hosts.
fn routes(configuration: &Value) -> impl Iterator<Item = &Value> {
    list(configuration, "virtual_hosts").iter().flat_map(|host| list(host, "routes"))
}

/// The clusters of a route that splits.
fn clusters(route: &Value) -> &[Value] {
    field(route, "route")
        .and_then(|action| field(action, "weighted_clusters"))
        .map_or(&[], |weighted| list(weighted, "clusters"))
}

fn weight(cluster: &Value) -> u64 {
    field(cluster, "weight").and_then(Value::as_u64).unwrap_or(0)
}

fn name_of(value: &Value) -> &str {
    field(value, "name").and_then(Value::as_str).unwrap_or_default()
}

/// What a route configuration says of the split.
#[derive(Clone, Debug, PartialEq)]
struct Says {
    stamp: Option<String>,
    green: f64,
    raw: Value,
}

impl Settings {
    fn ours(&self, cluster: &Value) -> bool {
        [self.blue.as_str(), self.green.as_str()].contains(&name_of(cluster))
    }

    /// Whether a route splits between blue and green, and nobody else.
    ///
    /// Errors: it names one of them together with others, or lets the runtime overrule its weights.
    fn splits(&self, route: &Value) -> Result<bool, String> {
        let clusters = clusters(route);
        let ours = clusters.iter().filter(|c| self.ours(c)).count();
        if ours == 0 {
            return Ok(false);
        }
        if ours != 2 || clusters.len() != 2 || name_of(&clusters[0]) == name_of(&clusters[1]) {
            return Err(format!(
                "a route splits between others than `{}` and `{}`: {}",
                self.blue,
                self.green,
                clusters.iter().map(name_of).collect::<Vec<_>>().join(", ")
            ));
        }
        let weighted = field(route, "route").and_then(|action| field(action, "weighted_clusters"));
        if weighted.and_then(|w| field(w, "runtime_key_prefix")).is_some() {
            return Err("a route has `runtime_key_prefix`: the runtime may overrule its weights".into());
        }
        Ok(true)
    }

    /// What a route configuration splits, route by route: what each carries, and green's part of it.
    fn parts(&self, configuration: &Value, by: &By) -> Result<Vec<(Carries, f64)>, String> {
        let mut found = Vec::new();
        for route in routes(configuration) {
            if !self.splits(route)? {
                continue;
            }
            let sum: u64 = clusters(route).iter().map(weight).sum();
            let green = clusters(route).iter().find(|c| name_of(c) == self.green).map_or(0, weight);
            if sum == 0 {
                return Err("a route has no weights".into());
            }
            found.push((carries(route, by), green as f64 / sum as f64));
        }
        let has = |what: Carries| found.iter().any(|(carries, _)| *carries == what);
        if !has(Carries::Split) {
            return Err(format!(
                "no route of `{}` splits as the plan asks between `{}` and `{}`",
                self.routes, self.blue, self.green
            ));
        }
        if *by != By::Requests && !has(Carries::Rest) {
            return Err("no route splits the requests that the key does not tell apart".into());
        }
        Ok(found)
    }

    /// What a route configuration says of the split: all its routes must say the same.
    fn says(&self, configuration: &Value, by: &By) -> Result<Says, String> {
        let found = self.parts(configuration, by)?;
        let own = field(configuration, "metadata")
            .and_then(|metadata| field(metadata, "filter_metadata"))
            .and_then(|metadata| metadata.get("trapkey"));
        let stamp = own.and_then(|o| o.get("stamp")).and_then(Value::as_str).map(str::to_owned);
        let noted = own.and_then(|o| o.get("green")).and_then(Value::as_f64);
        let of = |what: Carries| found.iter().filter(move |(c, _)| *c == what).map(|(_, green)| *green);
        let split = of(Carries::Split).next().unwrap_or(0.0);
        let rest = of(Carries::Rest).next();
        let raw = json!({
            "stamp": stamp,
            "split": of(Carries::Split).collect::<Vec<_>>(),
            "rest": of(Carries::Rest).collect::<Vec<_>>(),
        });
        let green = match (by, rest) {
            // Matching requests are all on green whatever the step is, and only the note knows it.
            (By::Match(..), Some(rest)) if same_share(split, 1.0) && same_share(rest, 0.0) => {
                noted.filter(|noted| *noted > 0.0 && *noted < 1.0).unwrap_or(0.5)
            }
            _ => split,
        };
        let fits = found
            .iter()
            .all(|(carries, is)| same_share(*is, f64::from(wanted(by, *carries, green)) / f64::from(TOTAL)));
        if fits { Ok(Says { stamp, green, raw }) } else { Err(format!("its routes do not agree: {raw}")) }
    }

    /// The same configuration with another split.
    fn edit(&self, configuration: &mut Value, by: &By, green: f64, stamp: &str) {
        let hosts = field_mut(configuration, "virtual_hosts").and_then(Value::as_array_mut);
        for host in hosts.into_iter().flatten() {
            let routes = field_mut(host, "routes").and_then(Value::as_array_mut);
            for route in routes.into_iter().flatten() {
                if self.splits(route) != Ok(true) {
                    continue;
                }
                let green = wanted(by, carries(route, by), green);
                let clusters = field_mut(route, "route")
                    .and_then(|action| field_mut(action, "weighted_clusters"))
                    .and_then(|weighted| field_mut(weighted, "clusters"))
                    .and_then(Value::as_array_mut);
                for cluster in clusters.into_iter().flatten() {
                    let part = if name_of(cluster) == self.green { green } else { TOTAL - green };
                    weigh(cluster, part);
                }
            }
        }
        let key = if configuration.get("metadata").is_some() { "metadata" } else { "" };
        if key.is_empty() {
            configuration["metadata"] = json!({});
        }
        let metadata = &mut configuration["metadata"];
        let name =
            if metadata.get("filterMetadata").is_some() { "filterMetadata" } else { "filter_metadata" };
        metadata[name]["trapkey"] = json!({ "stamp": stamp, "green": green });
    }

    /// A pair of routes that does what the plan asks, for those who have none yet.
    fn example(&self, by: &By) -> String {
        let mut weighted = json!({"clusters": [
            {"name": self.blue, "weight": TOTAL}, {"name": self.green, "weight": 0}]});
        let rest = json!({"match": {"prefix": "/"}, "route": {"weighted_clusters": weighted.clone()}});
        let keyed = |header: Value, action: Value| json!([{"match": {"prefix": "/", "headers": [header]}, "route": action}, rest]);
        let cookie =
            |pattern: String| json!({"name": "cookie", "string_match": {"safe_regex": {"regex": pattern}}});
        let routes = match by {
            By::Requests => json!([rest]),
            By::User(key) => {
                weighted["use_hash_policy"] = true.into();
                let (header, policy) = match key {
                    Key::Header(name) => (
                        json!({"name": name, "present_match": true}),
                        json!({"header": {"header_name": name}}),
                    ),
                    Key::Cookie(name) => {
                        (cookie(format!("(^|.*; ?){name}=[^;].*")), json!({"cookie": {"name": name}}))
                    }
                };
                keyed(header, json!({"weighted_clusters": weighted, "hash_policy": [policy]}))
            }
            By::Match(key, value) => {
                let header = match key {
                    Key::Header(name) => json!({"name": name, "string_match": {"exact": value}}),
                    Key::Cookie(name) => cookie(format!("(^|.*; ?){name}={value}(;.*|$)")),
                };
                keyed(header, json!({"weighted_clusters": weighted}))
            }
        };
        serde_json::to_string(&json!({"routes": routes})).unwrap_or_default()
    }
}

/// Name and weight first and side by side, so that the way back by hand finds them.
fn weigh(cluster: &mut Value, part: u32) {
    let mut first = Map::new();
    first.insert("name".into(), name_of(cluster).into());
    first.insert("weight".into(), part.into());
    if let Value::Object(all) = cluster {
        let others = std::mem::take(all);
        first.extend(others.into_iter().filter(|(key, _)| key != "name" && key != "weight"));
        *all = first;
    }
}

/// Whether a route carries what the split is about, or the rest.
fn carries(route: &Value, by: &By) -> Carries {
    let matchers = field(route, "match").map_or(&[][..], |m| list(m, "headers"));
    let on = |name: &str| {
        let name = name.to_owned();
        matchers.iter().filter(move |m| name_of(m).eq_ignore_ascii_case(&name))
    };
    let inverted = |m: &Value| field(m, "invert_match").and_then(Value::as_bool) == Some(true);
    let says = |m: &Value, words: &str| !inverted(m) && m.to_string().contains(words);
    let keyed = match by {
        By::Requests => true,
        By::User(key) => {
            let action = field(route, "route");
            let hashed = action
                .and_then(|a| field(a, "weighted_clusters"))
                .and_then(|w| field(w, "use_hash_policy"))
                .and_then(Value::as_bool)
                == Some(true);
            let policies = action.map_or(&[][..], |a| list(a, "hash_policy"));
            let present =
                |m: &Value| !inverted(m) && field(m, "present_match").and_then(Value::as_bool) == Some(true);
            // A second policy, or a cookie that Envoy makes up itself, would be another key.
            let policy = |kind: &str, name: &str, known: &str| {
                let [only] = policies else { return false };
                let Some(of) = field(only, kind) else { return false };
                let named = field(of, name).and_then(Value::as_str);
                named.is_some_and(|n| n.eq_ignore_ascii_case(known)) && field(of, "ttl").is_none()
            };
            hashed
                && match key {
                    Key::Header(name) => policy("header", "header_name", name) && on(name).any(present),
                    Key::Cookie(name) => {
                        policy("cookie", "name", name) && on("cookie").any(|m| says(m, &format!("{name}=")))
                    }
                }
        }
        By::Match(Key::Header(name), value) => on(name).any(|m| {
            let exact =
                field(m, "string_match").and_then(|s| field(s, "exact")).or_else(|| field(m, "exact_match"));
            !inverted(m) && exact.and_then(Value::as_str) == Some(value)
        }),
        By::Match(Key::Cookie(name), value) => on("cookie").any(|m| says(m, &format!("{name}={value}"))),
    };
    if keyed { Carries::Split } else { Carries::Rest }
}

impl Envoy {
    fn shown(&self) -> String {
        self.file.display().to_string()
    }

    fn ask(&self, path: &str) -> Result<Value, Fault> {
        let mut request = Request::get(&join(&self.settings.admin, path));
        request.keep = MAX_DUMP;
        let failed = |cause: String| {
            Fault::infrastructure("Envoy's admin address does not answer as it should")
                .place(crate::redact::redact(&self.settings.admin))
                .cause(cause)
                .help("is Envoy running, and is this the address under `admin:` of its configuration?")
        };
        let answer = self.client.send(&request).map_err(|e| failed(e.why))?;
        if answer.status != 200 {
            return Err(failed(format!("it answered {}", answer.status)));
        }
        serde_json::from_slice(&answer.body).map_err(|e| failed(format!("its answer is no JSON: {e}")))
    }

    /// The route configurations of our name that run; Envoy has one for each way it is subscribed to.
    fn running(&self) -> Result<Vec<Value>, Fault> {
        let dump = self.ask("/config_dump?resource=dynamic_route_configs")?;
        // Without any such routes Envoy answers with an empty object.
        if dump.as_object().is_none_or(|all| !all.is_empty() && !all.contains_key("configs")) {
            return Err(Fault::infrastructure("Envoy's admin address does not answer as it should")
                .place(crate::redact::redact(&self.settings.admin))
                .cause("what it answered is no dump of its configuration")
                .help("is this the address under `admin:` of Envoy's configuration?"));
        }
        let found: Vec<Value> = list(&dump, "configs")
            .iter()
            .filter_map(|config| field(config, "route_config"))
            .filter(|configuration| name_of(configuration) == self.settings.routes)
            .cloned()
            .collect();
        if found.is_empty() {
            return Err(Fault::usage(format!("Envoy has no dynamic routes `{}`", self.settings.routes))
                .place(crate::redact::redact(&self.settings.admin))
                .cause("only routes that a listener takes by `rds` can be changed while it runs")
                .help(format!(
                    "rds: {{route_config_name: {}, config_source: {{resource_api_version: V3, path_config_source: {{path: {}}}}}}}",
                    self.settings.routes,
                    self.shown()
                )));
        }
        Ok(found)
    }

    /// What runs.
    fn live(&self) -> Result<Says, Fault> {
        let mut all = Vec::new();
        for configuration in self.running()? {
            all.push(self.settings.says(&configuration, &self.by).map_err(|why| self.unfit(&why, "Envoy"))?);
        }
        match all.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => Ok(first.clone()),
            _ => Err(Fault::infrastructure("Envoy's listeners run different splits")
                .place(crate::redact::redact(&self.settings.admin))
                .cause(all.iter().map(|says| says.raw.to_string()).collect::<Vec<_>>().join(" and "))
                .help("do all of them watch the same route file?")),
        }
    }

    fn unfit(&self, why: &str, whose: &str) -> Fault {
        Fault::usage(format!("{whose} has no routes that can be split as the plan asks"))
            .place(self.shown())
            .cause(why)
            .help(format!("the virtual host needs: {}", self.settings.example(&self.by)))
    }

    /// The file as it lies there: its text, and its JSON.
    fn on_disk(&self) -> Result<(String, Value), Fault> {
        let odd = |cause: String| {
            Fault::usage("the route file cannot be used")
                .place(self.shown())
                .cause(cause)
                .help("it must be there before the first release, as JSON: {\"resources\": [{\"@type\": \"type.googleapis.com/envoy.config.route.v3.RouteConfiguration\", …}]}")
        };
        let text = std::fs::read_to_string(&self.file).map_err(|e| odd(e.to_string()))?;
        let json = serde_json::from_str(&text).map_err(|e| odd(format!("it is no JSON: {e}")))?;
        Ok((text, json))
    }

    /// The route configuration of our name inside the file.
    fn resource<'a>(&self, file: &'a mut Value) -> Option<&'a mut Value> {
        file.get_mut("resources")?.as_array_mut()?.iter_mut().find(|resource| {
            let of_type = resource.get("@type").and_then(Value::as_str).is_some_and(|t| t.ends_with(TYPE));
            of_type && name_of(resource) == self.settings.routes
        })
    }

    /// What the file says of the split, and the file with another one.
    fn edited(&self, green: f64, stamp: &str) -> Result<(Says, String, String), Fault> {
        let (before, mut file) = self.on_disk()?;
        let Some(resource) = self.resource(&mut file) else {
            let why = format!("it has no resource `{}` of type {TYPE}", self.settings.routes);
            return Err(self.unfit(&why, "the route file"));
        };
        let says =
            self.settings.says(resource, &self.by).map_err(|why| self.unfit(&why, "the route file"))?;
        self.settings.edit(resource, &self.by, green, stamp);
        file["version_info"] = stamp.into();
        if let Value::Object(map) = &mut file {
            map.shift_remove("versionInfo");
        }
        let mut after = serde_json::to_string_pretty(&file).unwrap_or_default();
        after.push('\n');
        Ok((says, before, after))
    }

    /// How many updates of our routes Envoy has rejected or could not read so far.
    fn refusals(&self) -> Result<u64, Fault> {
        let filter = format!("rds\\.{}\\.update_(rejected|failure)$", regex::escape(&self.settings.routes));
        Ok(self.stats(&filter)?.iter().map(|(_, value)| value).sum())
    }

    fn stats(&self, filter: &str) -> Result<Vec<(String, u64)>, Fault> {
        let stats = self.ask(&format!("/stats?format=json&filter={}", encoded(filter)))?;
        let number = |stat: &Value| Some((name_of(stat).to_owned(), stat.get("value")?.as_u64()?));
        Ok(list(&stats, "stats").iter().filter_map(number).collect())
    }

    fn swap(&self, text: &str) -> Result<(), Fault> {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&self.file).map(|m| m.permissions().mode() & 0o777).ok();
        files::write_atomic_with_mode(&self.file, text.as_bytes(), mode)
            .map_err(|e| files::unwritable(&self.file, &e))
    }

    /// Waits until every listener runs the stamp.
    fn wait_for(&self, stamp: &str, refused_before: u64) -> Result<(), Fault> {
        let until = Instant::now() + self.timeout;
        loop {
            let of = |configuration: &Value| self.settings.says(configuration, &self.by).ok()?.stamp;
            if self.running()?.iter().all(|c| of(c).as_deref() == Some(stamp)) {
                return Ok(());
            }
            if self.refusals()? > refused_before {
                return Err(Fault::infrastructure("Envoy rejected the route file")
                    .place(self.shown())
                    .cause("it counts the update under update_rejected or update_failure, and keeps the old routes")
                    .help("the reason stands in its log, after `Filesystem config update`"));
            }
            if Instant::now() >= until {
                return Err(Fault::infrastructure("Envoy does not take up the route file")
                    .place(self.shown())
                    .cause(format!(
                        "{} after the swap it runs the old routes, and has rejected nothing",
                        show_duration(self.timeout.as_secs_f64())
                    ))
                    .help("is this the file that its `rds` watches? where the file is a mount or a link, give `watched_directory` and mount the folder"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn cluster(&self, side: Side) -> &str {
        match side {
            Side::Blue => &self.settings.blue,
            Side::Green => &self.settings.green,
        }
    }

    fn count(&self) -> Result<Counters, Fault> {
        let pattern = |side| regex::escape(&counted_as(self.cluster(side)));
        let filter = format!(
            "^cluster\\.({}|{})\\.upstream_rq_(completed|5xx|active)$",
            pattern(Side::Blue),
            pattern(Side::Green)
        );
        let stats = self.stats(&filter)?;
        let side = |side: Side| {
            let number = |what: &str| {
                let name = format!("cluster.{}.upstream_rq_{what}", counted_as(self.cluster(side)));
                stats.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
            };
            SideCount {
                requests: number("completed"),
                errors: number("5xx"),
                mean_ms: None,
                max_ms: None,
                current: number("active"),
            }
        };
        let dump = self.ask("/config_dump?mask=last_updated")?;
        let bootstrap = |config: &&Value| {
            config.get("@type").and_then(Value::as_str).is_some_and(|t| t.ends_with("BootstrapConfigDump"))
        };
        let started = list(&dump, "configs").iter().find(bootstrap);
        let instance = started.and_then(|s| field(s, "last_updated")).and_then(Value::as_str);
        let instance = instance.unwrap_or_default().to_owned();
        Ok(Counters { blue: side(Side::Blue), green: side(Side::Green), instance, ..Counters::default() })
    }
}

/// A cluster's name inside the name of a counter.
fn counted_as(cluster: &str) -> String {
    cluster.replace(':', "_")
}

/// A text for a URL's query.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Router for Envoy {
    fn check(&mut self) -> Result<(), Fault> {
        let (says, ..) = self.edited(0.0, "")?;
        let live = self.live()?;
        if !same_share(says.green, live.green) || says.stamp != live.stamp {
            return Err(Fault::infrastructure("the route file is not what Envoy runs")
                .place(self.shown())
                .cause(format!("the file says {}, Envoy {}", says.raw, live.raw))
                .help("was its last change rejected? the reason stands in Envoy's log"));
        }
        Ok(())
    }

    fn nearest(&self, green: f64) -> f64 {
        f64::from(parts(green)) / f64::from(TOTAL)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let green = self.nearest(split.green);
        let id = format!("{:016x}", world::unique());
        let (says, before, after) = self.edited(green, &id)?;
        let refused = match self.refusals() {
            Ok(refused) => Some(refused),
            // A way back is written whether or not anybody can see that it is taken.
            Err(_) if split.is_way_back() => None,
            Err(fault) => return Err(fault),
        };
        let same = |says: &Says| same_share(says.green, green);
        if self.live().is_ok_and(|live| same(&live) && same(&says) && live.stamp == says.stamp) {
            return Ok(());
        }
        self.swap(&after)?;
        let done = self.wait_for(&id, refused.unwrap_or(u64::MAX));
        // Where Envoy has refused it, it must not start on it either.
        let is_refused = || refused.zip(self.refusals().ok()).is_some_and(|(before, now)| now > before);
        if done.is_err() && (!split.is_way_back() || is_refused()) {
            // What lies on disk must be what runs, or the next start would switch traffic.
            take_back(&self.file, &after, || self.swap(&before))?;
        }
        done
    }

    fn read(&mut self) -> Result<Live, Fault> {
        let says = self.live()?;
        Ok(Live::of(says.green, says.raw))
    }

    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        let until = Instant::now() + limit;
        loop {
            let counters = self.count()?;
            let left = match side {
                Side::Blue => counters.blue.current,
                Side::Green => counters.green.current,
            };
            if left == 0 {
                return Ok(0);
            }
            if Instant::now() >= until {
                return Err(Fault::infrastructure(format!("{left} requests are still open on {}", side.word()))
                    .place(crate::redact::redact(&self.settings.admin))
                    .cause(format!(
                        "{} were not enough for them, and Envoy ends no request that a route change leaves behind",
                        show_duration(limit.as_secs_f64())
                    ))
                    .help(format!(
                        "stop {} to cut them, or give its routes a `max_stream_duration`",
                        side.word()
                    )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn counters(&mut self) -> Result<Option<Counters>, Fault> {
        self.count().map(Some)
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let weigh = |name: &str, weight: u32| {
            let name = regex::escape(name).replace('/', "\\/");
            format!("s/(\"name\": *\"{name}\",\\s*\"weight\": *)[0-9]+/\\1{weight}/g")
        };
        // `sed -i` renames, as Envoy wants it; `-z` takes the file as one line.
        vec![format!(
            "sed -i -z -E '{}; {}' {}",
            weigh(self.cluster(side), TOTAL),
            weigh(self.cluster(side.other()), 0),
            self.file.display()
        )]
    }
}
