//! Envoy by file-based route discovery: weights edited inside the user's own routes, read back from
//! the running Envoy.
//!
//! Envoy reloads a route file when another file is renamed onto it, skips an update whose content is
//! the same, and keeps the old routes when it rejects one. So every split carries a stamp inside the
//! routes themselves (`metadata`), and it is in force when the admin address shows that stamp.
//! Measured with Envoy 1.40.
//!
//! A cluster without a healthy host keeps its share: Envoy answers its users with 503, or, below its panic
//! threshold, sends them to hosts that it holds for down. No other cluster gets them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::routes::{Says, TOTAL, field, list, name_of, parts};
use self::view::Clusters;
use super::{
    By, Counters, Kind, Live, Order, OtherWay, Router, Side, SideCount, Split, same_share, take_back, weights,
};
use crate::fault::Fault;
use crate::units::show_duration;
use crate::world::http::{Client, Request, join};
use crate::world::{self, files};
use crate::yaml::Problem;

mod routes;
mod view;
mod ways;

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
    /// The names of both clusters in those of counters, once they are known.
    counted_as: Option<[String; 2]>,
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
        client: Client::new(order.timeout),
        timeout: order.timeout,
        counted_as: None,
        settings,
    }))
}

const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A configuration dump of thousands of routes is some megabytes.
const MAX_DUMP: u64 = 64 * 1024 * 1024;
/// It has no more values: some 10,000 routes have a tenth of them.
const MOST_VALUES: usize = 2_000_000;
const TYPE: &str = "RouteConfiguration";

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
        crate::bounds::json(&answer.body, MOST_VALUES)
            .map_err(|e| failed(format!("its answer is no JSON: {e}")))
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
        let text = files::read_text(&self.file).map_err(|e| odd(e.to_string()))?;
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

    /// What the file says of the split, and the file with another one: as it lies there, and as it should.
    fn edited(&self, green: f64, stamp: &str) -> Result<(Result<Says, Fault>, String, String), Fault> {
        let (before, mut file) = self.on_disk()?;
        let Some(resource) = self.resource(&mut file) else {
            let why = format!("it has no resource `{}` of type {TYPE}", self.settings.routes);
            return Err(self.unfit(&why, "the route file"));
        };
        let says = self.settings.says(resource, &self.by).map_err(|why| self.unfit(&why, "the route file"));
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
        files::write_through_watched(&self.file, text.as_bytes(), mode)
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

    fn count(&mut self) -> Result<Counters, Fault> {
        if self.counted_as.is_none() {
            let clusters = self.clusters()?;
            let name = |side| counted_as(clusters.counted_as(self.cluster(side)));
            self.counted_as = Some([name(Side::Blue), name(Side::Green)]);
        }
        let [blue, green] = self.counted_as.clone().unwrap_or_default();
        let counted_as = |side| if side == Side::Blue { &blue } else { &green };
        let pattern = |side| regex::escape(counted_as(side));
        let filter = format!(
            "^cluster\\.({}|{})\\.upstream_rq_(completed|5xx|active|retry)$|^http\\..+\\.(no_cluster|rds\\.{}\\.config_reload)$",
            pattern(Side::Blue),
            pattern(Side::Green),
            regex::escape(&self.settings.routes)
        );
        let stats = self.stats(&filter)?;
        let side = |side: Side| {
            let number = |what: &str| {
                let name = format!("cluster.{}.upstream_rq_{what}", counted_as(side));
                stats.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value)
            };
            // An attempt that failed was answered with 5xx, or it was tried again; measured for connections that fail
            // or are cut off, for time limits, full queues and clusters without a healthy host. Only an answer that
            // breaks off after it has begun is told by no counter that is not moved by these as well.
            let retried = number("retry");
            SideCount {
                requests: number("completed") + retried,
                errors: number("5xx") + retried,
                mean_ms: None,
                max_ms: None,
                current: number("active"),
                ..SideCount::default()
            }
        };
        // Listeners that take our routes, and how often these led to a cluster that is not there.
        let ours = format!(".rds.{}.config_reload", self.settings.routes);
        let listeners = stats.iter().filter_map(|(name, _)| name.strip_suffix(&ours));
        let missing = listeners.map(|listener| format!("{listener}.no_cluster"));
        let nobody = missing
            .filter_map(|name| stats.iter().find(|(known, _)| *known == name))
            .map(|(_, number)| number)
            .sum();
        let dump = self.ask("/config_dump?mask=last_updated")?;
        let bootstrap = |config: &&Value| {
            config.get("@type").and_then(Value::as_str).is_some_and(|t| t.ends_with("BootstrapConfigDump"))
        };
        let started = list(&dump, "configs").iter().find(bootstrap);
        let instance = started.and_then(|s| field(s, "last_updated")).and_then(Value::as_str);
        let instance = instance.unwrap_or_default().to_owned();
        Ok(Counters {
            blue: side(Side::Blue),
            green: side(Side::Green),
            nobody,
            instance,
            ..Counters::default()
        })
    }
}

impl Envoy {
    /// What it says of its clusters.
    fn clusters(&self) -> Result<Clusters, Fault> {
        // Versions that do not know the filter answer with all of them.
        let ours =
            format!("^({}|{})$", regex::escape(&self.settings.blue), regex::escape(&self.settings.green));
        self.clusters_of(&format!("/clusters?format=json&filter={}", encoded(&ours)))
    }

    fn clusters_of(&self, path: &str) -> Result<Clusters, Fault> {
        Clusters::of(&self.ask(path)?).map_err(|cause| {
            Fault::infrastructure("Envoy's admin address does not answer as it should")
                .place(crate::redact::redact(&self.settings.admin))
                .cause(cause)
                .help("is this the address under `admin:` of Envoy's configuration?")
        })
    }

    /// Whether it knows the cluster of a side.
    fn knows(&self, side: Side) -> Result<(), Fault> {
        if self.clusters()?.has(self.cluster(side)) {
            return Ok(());
        }
        Err(Fault::usage(format!("Envoy has no cluster `{}` for {}", self.cluster(side), side.word()))
            .place(crate::redact::redact(&self.settings.admin))
            .help("define it under `clusters`, or name another one in `with`"))
    }

    /// Whether a cluster that has no hosts of its own may serve all the same: it leads to others, or finds its
    /// hosts with each request.
    fn finds_its_hosts_elsewhere(&self, cluster: &str) -> Result<bool, Fault> {
        for resource in ["static_clusters", "dynamic_active_clusters"] {
            let dump = self.ask(&format!("/config_dump?resource={resource}"))?;
            let found = list(&dump, "configs")
                .iter()
                .filter_map(|config| field(config, "cluster"))
                .find(|known| name_of(known) == cluster);
            if let Some(found) = found {
                let kind = field(found, "type").and_then(Value::as_str);
                return Ok(field(found, "cluster_type").is_some() || kind == Some("ORIGINAL_DST"));
            }
        }
        Ok(false)
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
    fn identity(&self, old: Side) -> Vec<String> {
        vec![
            format!("envoy by {}", self.shown()),
            format!("its admin address {}", crate::redact::redact(&self.settings.admin)),
            format!("routes {}", self.settings.routes),
            format!("old side {}", self.cluster(old)),
            format!("new side {}", self.cluster(old.other())),
        ]
    }

    fn green_is_known(&mut self) -> Result<(), Fault> {
        self.knows(Side::Green)
    }

    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        let clusters = self.clusters_of("/clusters?format=json")?;
        let dump = self.ask("/config_dump")?;
        Ok(Some(self.settings.other_ways(&clusters, &dump)))
    }

    fn check(&mut self) -> Result<(), Fault> {
        let (_, mut file) = self.on_disk()?;
        let unfit = self.resource(&mut file).and_then(|ours| self.settings.unfit(ours, &self.by));
        if let Some(why) = unfit {
            return Err(self.unfit(&why, "the route file"));
        }
        let (says, ..) = self.edited(0.0, "")?;
        let says = says?;
        for configuration in self.running()? {
            if let Some(why) = self.settings.unfit(&configuration, &self.by) {
                return Err(self.unfit(&why, "Envoy"));
            }
        }
        let live = self.live()?;
        if !same_share(says.green, live.green) || says.stamp != live.stamp {
            return Err(Fault::infrastructure("the route file is not what Envoy runs")
                .place(self.shown())
                .cause(format!("the file says {}, Envoy {}", says.raw, live.raw))
                .help("was its last change rejected? the reason stands in Envoy's log"));
        }
        self.knows(Side::Blue)
    }

    fn nearest(&self, green: f64) -> f64 {
        f64::from(parts(green)) / f64::from(TOTAL)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let green = self.nearest(split.green);
        let id = format!("{:016x}", world::unique());
        let (says, before, after) = self.edited(green, &id)?;
        // Routes that somebody has set apart are given the way back all the same.
        let says = match says {
            Err(fault) if !split.is_way_back() => return Err(fault),
            says => says.ok(),
        };
        let refused = match self.refusals() {
            Ok(refused) => Some(refused),
            // A way back is written whether or not anybody can see that it is taken.
            Err(_) if split.is_way_back() => None,
            Err(fault) => return Err(fault),
        };
        let same = |says: &Says| same_share(says.green, green);
        if let (Ok(live), Some(says)) = (self.live(), &says)
            && same(&live)
            && same(says)
            && live.stamp == says.stamp
        {
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
        let clusters = self.clusters()?;
        let mut live = Live::of(says.green, says.raw);
        live.strangers = says.strangers;
        for side in [Side::Blue, Side::Green] {
            if !clusters.has_hosts(self.cluster(side))
                && self.finds_its_hosts_elsewhere(self.cluster(side))?
            {
                return Ok(live);
            }
        }
        let [blue, green] = [Side::Blue, Side::Green].map(|side| clusters.side(self.cluster(side)));
        live.effective = weights::served(live.green, blue.serving > 0, green.serving > 0);
        live.sides = Some([blue, green]);
        Ok(live)
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
        let quote =
            |path: &std::path::Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let link = std::fs::read_link(&self.file).ok().zip(std::fs::canonicalize(&self.file).ok());
        let (real, renew) = match link {
            // Envoy sees nothing of what happens behind a link, so the link is renewed.
            Some((leads_to, real)) => {
                let mut new = self.file.clone();
                new.as_mut_os_string().push(".tmp");
                let (file, new, leads_to) = (quote(&self.file), quote(&new), quote(&leads_to));
                (quote(&real), format!(" && ln -sfn {leads_to} {new} && mv -T {new} {file}"))
            }
            None => (quote(&self.file), String::new()),
        };
        // `sed -i` renames, as Envoy wants it; `-z` takes the file as one line.
        vec![format!(
            "sed -i -z -E '{}; {}' {real}{renew}",
            weigh(self.cluster(side), TOTAL),
            weigh(self.cluster(side.other()), 0),
        )]
    }
}
