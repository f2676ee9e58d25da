//! nginx (open source): an include file, swapped whole, a reload, and proof that the running
//! configuration is the new one.
//!
//! `nginx -s reload` returns 0 even when the master rejects the file, and `nginx -T` prints the file,
//! not what runs. So every split carries a stamp that a status location answers with, and a split is
//! in force when no answer carries an older stamp any more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{By, Counters, Key, Kind, Live, Order, Router, Side, Split, take_back};
use crate::fault::Fault;
use crate::units::{show_duration, show_share};
use crate::world::http::{Client, Request};
use crate::world::{self, files, shell};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "nginx",
    about: "nginx by an include file and a reload, its stamp read back; splits by request, user or match",
    target: "the include file that Trapkey writes, inside `http { … }`",
    example: "{kind: nginx, target: /etc/nginx/trapkey/shop.conf, with: {upstream: shop, blue: 10.0.0.11:8080, green: 10.0.0.12:8080, status: \"http://127.0.0.1/trapkey-split\"}}",
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of an nginx router.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The name of the upstream that the include file defines; with `split` by user or match it defines
    /// two, `NAME_blue` and `NAME_green`, and `$trapkey_upstream` names one of them.
    upstream: String,
    /// `host:port` of the old side.
    blue: String,
    /// `host:port` of the new side.
    green: String,
    /// A URL that answers with `$trapkey_split`: `location = /trapkey-split { return 200 $trapkey_split; }`.
    status: String,
    /// Tests the configuration; `nginx -t` when absent.
    #[serde(default = "test_command")]
    test: Vec<String>,
    /// Reloads it; `nginx -s reload` when absent.
    #[serde(default = "reload_command")]
    reload: Vec<String>,
    /// Further lines inside the upstream, such as `keepalive 32;`.
    #[serde(default)]
    lines: Vec<String>,
    /// How long old workers may go on answering after a reload; 10 s when absent.
    #[serde(default)]
    settle: Option<crate::units::Span>,
}

fn test_command() -> Vec<String> {
    ["nginx", "-t"].map(str::to_owned).to_vec()
}

fn reload_command() -> Vec<String> {
    ["nginx", "-s", "reload"].map(str::to_owned).to_vec()
}

struct Nginx {
    file: PathBuf,
    folder: PathBuf,
    settings: Settings,
    by: By,
    timeout: Duration,
    client: Client,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    if let By::User(Key::Header(name)) | By::Match(Key::Header(name), _) = order.split
        && name.contains('_')
    {
        let why = format!("nginx drops headers with an underscore such as `{name}`, unless told otherwise");
        return Err(Problem::at(place, why));
    }
    for word in [&settings.upstream, &settings.blue, &settings.green] {
        // Anything else could end the directive and begin another one.
        if word.is_empty() || !word.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:[]/".contains(c)) {
            return Err(Problem::at(place, format!("`{word}` is no name or address for an nginx upstream")));
        }
    }
    if settings.blue == settings.green {
        return Err(Problem::at(place, "blue and green are the same address"));
    }
    Ok(Box::new(Nginx {
        file: order.folder.join(&order.target.value),
        folder: order.folder.to_path_buf(),
        by: order.split.clone(),
        client: Client::new(order.timeout, 0),
        timeout: order.timeout,
        settings,
    }))
}

/// How many answers in a row must carry the new stamp before the old workers count as gone.
const AGREEING: u32 = 12;
/// The greatest configuration that is looked through.
const MAX_CONFIGURATION: usize = 32 * 1024 * 1024;
const BETWEEN: Duration = Duration::from_millis(15);
/// How long a reload by somebody else is waited for before what answers counts as what runs.
const RELOAD_UNDER_WAY: Duration = Duration::from_millis(500);

/// What the status location answers: `trapkey STAMP SHARE`.
#[derive(Clone, Debug, PartialEq)]
struct Stamp {
    id: String,
    green: f64,
}

impl Stamp {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        if words.next()? != "trapkey" {
            return None;
        }
        let id = words.next()?.to_owned();
        let green: f64 = words.next()?.parse().ok()?;
        (words.next().is_none() && (0.0..=1.0).contains(&green)).then_some(Self { id, green })
    }
}

/// The include file for a share.
fn render(settings: &Settings, by: &By, green: f64, stamp: &str) -> String {
    match by {
        By::Requests => render_weights(settings, green, stamp),
        By::User(_) | By::Match(..) => render_named(settings, by, green, stamp),
    }
}

fn render_weights(settings: &Settings, green: f64, stamp: &str) -> String {
    let (blue_weight, green_weight) = weights(green);
    let server = |address: &str, weight: u32| match weight {
        // A weight of 0 is not allowed; such a server is down.
        0 => format!("    server {address} down;\n"),
        n => format!("    server {address} weight={n};\n"),
    };
    let more: String = settings.lines.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "# Written by Trapkey; the next shift overwrites it. Green has {}.\nupstream {} {{\n{}{}{more}}}\nmap \"\" $trapkey_split {{ default \"trapkey {stamp} {green}\"; }}\n",
        show_share(green),
        settings.upstream,
        server(&settings.blue, blue_weight),
        server(&settings.green, green_weight),
    )
}

/// Two upstreams, and the name of one of them for each request.
fn render_named(settings: &Settings, by: &By, green: f64, stamp: &str) -> String {
    let more: String = settings.lines.iter().map(|line| format!("    {line}\n")).collect();
    let name = |side: Side| format!("{}_{}", settings.upstream, side.word());
    let upstream =
        |side: Side, address: &str| format!("upstream {} {{\n    server {address};\n{more}}}\n", name(side));
    let (blue, green_name) = (name(Side::Blue), name(Side::Green));
    // Those whom the key does not tell apart change sides last.
    let others = if green >= 1.0 { &green_name } else { &blue };
    let (By::User(key) | By::Match(key, _)) = by else { return String::new() };
    let mut text = match key {
        Key::Header(name) => {
            format!("map $http_{} $trapkey_key {{ default $http_{0}; }}\n", name.replace('-', "_"))
        }
        // `$cookie_…` would take a name in any case, and none with a dash.
        Key::Cookie(name) => format!(
            "map $http_cookie $trapkey_key {{ default \"\"; \"~(?:^|; ?){name}=(?<trapkey_cookie>[^;]+)\" $trapkey_cookie; }}\n"
        ),
    };
    if let By::Match(_, value) = by {
        let matching = if green > 0.0 { &green_name } else { &blue };
        // A regular expression, because plain words are compared in any case.
        text += &format!(
            "map $trapkey_key $trapkey_upstream {{ default {others}; \"~^{value}$\" {matching}; }}\n"
        );
    } else {
        let bucket = bucket(green);
        let own = if green > 0.0 && green < 1.0 { format!("{bucket} {green_name}; ") } else { String::new() };
        text += &format!("split_clients $trapkey_key $trapkey_bucket {{ {own}* {others}; }}\n");
        text +=
            &format!("map $trapkey_key $trapkey_upstream {{ default $trapkey_bucket; \"\" {others}; }}\n");
    }
    format!(
        "# Written by Trapkey; the next shift overwrites it. Green has {}.\n{}{}{text}map \"\" $trapkey_split {{ default \"trapkey {stamp} {green}\"; }}\n",
        show_share(green),
        upstream(Side::Blue, &settings.blue),
        upstream(Side::Green, &settings.green),
    )
}

/// A share as `split_clients` takes it: the first buckets, so that green only grows by new users.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
fn bucket(green: f64) -> String {
    let parts = (green.clamp(0.0, 1.0) * 10_000.0).round() as u32;
    format!("{}.{:02}%", parts / 100, parts % 100)
}

/// Whole weights for a share in steps of 0.01 %, as small as they can be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
fn weights(green: f64) -> (u32, u32) {
    let green = (green.clamp(0.0, 1.0) * 10_000.0).round() as u32;
    let blue = 10_000 - green;
    let divisor = gcd(blue, green).max(1);
    (blue / divisor, green / divisor)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Nginx {
    fn shown(&self) -> String {
        self.file.display().to_string()
    }

    fn stamp(&self) -> Result<Stamp, Fault> {
        let mut request = Request::get(&self.settings.status);
        // An old worker keeps an open connection; a new one is always given to a running worker.
        request.headers.push(("connection".into(), "close".into()));
        let odd = |cause: String| {
            Fault::infrastructure("nginx does not say which split it runs")
                .place(&self.settings.status)
                .cause(cause)
                .help("add `location = /trapkey-split { return 200 $trapkey_split; }` to a server and name its URL in `with.status`")
        };
        let answer = self.client.send(&request).map_err(|e| odd(e.why))?;
        let text = String::from_utf8_lossy(&answer.body);
        Stamp::parse(&text).ok_or_else(|| odd(format!("it answered {} with other words", answer.status)))
    }

    fn run(&self, what: &str, argv: &[String]) -> Result<(), Fault> {
        let mut order = shell::Order::new(argv.to_vec(), &self.folder);
        order.timeout = self.timeout;
        // Half a change is worse than a late end, and a way back must work after a signal too.
        order.through_signals = true;
        let failed = |cause: String| {
            Fault::infrastructure(format!("nginx could not {what}"))
                .place(argv.join(" "))
                .cause(cause)
                .help("run that command by hand; the job's user needs the right to it")
        };
        let ran = order.run().map_err(|e| failed(e.to_string()))?;
        if ran.exit == Some(0) { Ok(()) } else { Err(failed(format!("{}: {}", ran.how(), ran.last_words()))) }
    }

    /// Whether the configuration names the upstream of each request by `$trapkey_upstream`.
    fn fits(&self, running: &Stamp) -> Result<(), Fault> {
        let text = std::fs::read_to_string(&self.file).map_err(|e| files::unwritable(&self.file, &e))?;
        let name = |side: Side| format!("upstream {}_{} {{", self.settings.upstream, side.word());
        let sides = text.contains(&name(Side::Blue)) && text.contains(&name(Side::Green));
        let used = text.contains(" $trapkey_upstream {") && self.names_upstream() != Some(false);
        if sides && used {
            return Ok(());
        }
        Err(Fault::usage("nginx's configuration does not fit the `split`")
            .place(self.shown())
            .cause(if sides && !used {
                "no `proxy_pass` takes its upstream from `$trapkey_upstream`"
            } else {
                "the include file defines no `$trapkey_upstream`"
            })
            .help(format!(
                "say `proxy_pass http://$trapkey_upstream;` (or grpc_pass, uwsgi_pass …), put this into the include file, and reload nginx:\n{}",
                render(&self.settings, &self.by, running.green, &running.id)
            )))
    }

    /// Whether the configuration on disk passes requests to `$trapkey_upstream`; nothing when the
    /// test command cannot print it.
    fn names_upstream(&self) -> Option<bool> {
        self.settings.test.iter().find(|word| *word == "-t")?;
        let print = |word: &String| if word == "-t" { "-T".to_owned() } else { word.clone() };
        let mut order = shell::Order::new(self.settings.test.iter().map(print).collect(), &self.folder);
        order.timeout = self.timeout;
        order.keep = MAX_CONFIGURATION;
        let ran = order.run().ok().filter(|ran| ran.exit == Some(0) && !ran.cut)?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let passes = |line: &str| {
            let line = line.trim_start();
            !line.starts_with('#') && line.contains("_pass ") && line.contains("$trapkey_upstream")
        };
        Some(text.lines().any(passes))
    }

    fn settle(&self) -> Duration {
        self.settings.settle.map_or(Duration::from_secs(10), |s| s.0)
    }

    /// Waits until no answer carries another stamp.
    fn wait_for(&self, id: &str) -> Result<(), Fault> {
        let until = Instant::now() + self.settle();
        let mut agreeing = 0;
        loop {
            // A connection may break while workers change; one broken answer is not the end.
            let seen = self.stamp();
            agreeing = if seen.as_ref().is_ok_and(|stamp| stamp.id == id) { agreeing + 1 } else { 0 };
            if agreeing >= AGREEING {
                return Ok(());
            }
            if Instant::now() >= until {
                seen?;
                return Err(Fault::infrastructure(
                    "nginx took the reload but still runs the old configuration",
                )
                .place(self.shown())
                .cause(format!(
                    "{} after the reload an answer carries another stamp",
                    show_duration(self.settle().as_secs_f64())
                ))
                .help(
                    "look at nginx's error log: a reload that the master rejects ends with 0 all the same",
                ));
            }
            std::thread::sleep(BETWEEN);
        }
    }

    /// What a stamp says of the split. The sides change places from release to release: a file that
    /// was written with them the other way round speaks of the other one.
    fn live(&self, stamp: &Stamp, text: &str) -> Live {
        let Settings { blue, green, .. } = &self.settings;
        let over = Settings { blue: green.clone(), green: blue.clone(), ..self.settings.clone() };
        let wrote = |settings: &Settings| text == render(settings, &self.by, stamp.green, &stamp.id);
        let share = if wrote(&over) && !wrote(&self.settings) { 1.0 - stamp.green } else { stamp.green };
        Live::of(share, json!({"stamp": stamp.id, "green": share}))
    }

    fn swap(&self, text: &str) -> Result<(), Fault> {
        write_like(&self.file, text.as_bytes()).map_err(|e| files::unwritable(&self.file, &e))
    }
}

/// Replaces a file and keeps its permission bits, for nginx may run as another user.
fn write_like(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map(|m| m.permissions().mode() & 0o777).ok();
    files::write_atomic_with_mode(path, bytes, mode)
}

impl Router for Nginx {
    fn check(&mut self) -> Result<(), Fault> {
        if !self.file.exists() {
            let text = render(&self.settings, &self.by, 0.0, "first");
            return Err(Fault::usage("the include file does not exist yet")
                .place(self.shown())
                .cause("Trapkey changes a split that runs; it does not take over a service that it has never seen")
                .help(format!("put this into it, include it inside `http {{ … }}`, and reload nginx:\n{text}")));
        }
        self.run("test its configuration", &self.settings.test)?;
        let running = self.stamp()?;
        if self.by != By::Requests {
            self.fits(&running)?;
        }
        Ok(())
    }

    fn nearest(&self, green: f64) -> f64 {
        let (b, g) = weights(green);
        f64::from(g) / f64::from(b + g)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let green = self.nearest(split.green);
        let id = format!("{:016x}", world::unique());
        let text = render(&self.settings, &self.by, green, &id);
        let before = std::fs::read_to_string(&self.file).map_err(|e| files::unwritable(&self.file, &e))?;
        let in_file = |stamp: &Stamp| before == render(&self.settings, &self.by, green, &stamp.id);
        if self.stamp().is_ok_and(|running| super::same_share(running.green, green) && in_file(&running)) {
            return Ok(());
        }
        self.swap(&text)?;
        if let Err(refused) = self.run("accept the new configuration", &self.settings.test) {
            // nginx would not start on it.
            take_back(&self.file, &text, || self.swap(&before))?;
            let by_others = || self.run("test its configuration", &self.settings.test).is_err();
            if split.is_way_back() && by_others() {
                // It starts on nothing for a reason of somebody else's: when that is mended, users go back.
                take_back(&self.file, &before, || self.swap(&text))?;
            }
            return Err(refused);
        }
        let done = self.run("reload", &self.settings.reload).and_then(|()| self.wait_for(&id));
        if done.is_err() && !split.is_way_back() {
            // What lies on disk must be what runs, or the next reload by anybody would switch traffic.
            take_back(&self.file, &text, || self.swap(&before))?;
        }
        done
    }

    fn read(&mut self) -> Result<Live, Fault> {
        let text = std::fs::read_to_string(&self.file).map_err(|e| files::unwritable(&self.file, &e))?;
        let in_file = |stamp: &Stamp| text.contains(&format!("trapkey {} ", stamp.id));
        let until = Instant::now() + RELOAD_UNDER_WAY;
        let mut agreeing = 0;
        let mut last = self.stamp()?;
        loop {
            let next = self.stamp()?;
            agreeing = if next.id == last.id { agreeing + 1 } else { 0 };
            last = next;
            if in_file(&last) && agreeing == 0 {
                // Old workers are still answering: wait until they do not.
                self.wait_for(&last.id)?;
                return Ok(self.live(&last, &text));
            }
            // What runs is not what lies on disk: somebody's reload may be under way.
            if agreeing >= 3 && (in_file(&last) || Instant::now() >= until) {
                return Ok(self.live(&last, &text));
            }
            if Instant::now() >= until + self.settle() {
                return Err(Fault::infrastructure("nginx answers with different splits")
                    .place(&self.settings.status)
                    .cause(format!(
                        "no three answers in a row agree within {}",
                        show_duration(self.settle().as_secs_f64())
                    ))
                    .help("does more than one nginx answer at that address?"));
            }
            if !in_file(&last) {
                std::thread::sleep(BETWEEN);
            }
        }
    }

    fn drain(&mut self, _: Side, limit: Duration) -> Result<u64, Fault> {
        // A side without share is `down` in the running configuration. What is left are requests of
        // workers that are shutting down; nginx ends them by `worker_shutdown_timeout`.
        let until = Instant::now() + limit.min(self.settle());
        let running = self.stamp()?;
        while Instant::now() < until {
            if self.stamp()?.id != running.id {
                return Err(Fault::infrastructure(
                    "nginx was reloaded by somebody else while a side was retired",
                )
                .place(self.shown()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(0)
    }

    fn sees_open_requests(&self) -> bool {
        false
    }

    fn counters(&mut self) -> Result<Option<Counters>, Fault> {
        Ok(None)
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let (to, from, share) = match side {
            Side::Blue => (&self.settings.blue, &self.settings.green, 0),
            Side::Green => (&self.settings.green, &self.settings.blue, 1),
        };
        let (to, from) = (regex::escape(to).replace('/', "\\/"), regex::escape(from).replace('/', "\\/"));
        let reload = format!("{} && {}", self.settings.test.join(" "), self.settings.reload.join(" "));
        if self.by != By::Requests {
            let upstream = format!("{}_{}", self.settings.upstream, side.word());
            return vec![
                format!(
                    "sed -i -E 's/^map [^ ]+ \\$trapkey_upstream .*/map \"\" $trapkey_upstream {{ default {upstream}; }}/; s/trapkey [^ ]+ [0-9.]+/trapkey by-hand {share}/' {}",
                    self.file.display()
                ),
                reload,
            ];
        }
        vec![
            // The stamp is changed too: what runs must not say that it is what was before.
            format!(
                "sed -i -E 's/^( *server {from}) .*/\\1 down;/; s/^( *server {to}) .*/\\1 weight=1;/; s/trapkey [^ ]+ [0-9.]+/trapkey by-hand {share}/' {}",
                self.file.display()
            ),
            reload,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_small_weights_and_takes_a_side_without_share_down() {
        assert_eq!(weights(0.05), (19, 1));
        assert_eq!(weights(0.25), (3, 1));
        assert_eq!(weights(1.0), (0, 1));
        assert_eq!(weights(0.000_1), (9999, 1));
    }

    #[test]
    fn reads_only_its_own_stamp() {
        assert_eq!(Stamp::parse("trapkey ab12 0.05\n"), Some(Stamp { id: "ab12".into(), green: 0.05 }));
        for text in ["", "ok", "trapkey ab12", "trapkey ab12 NaN", "trapkey ab12 2", "trapkey a 0.1 more"] {
            assert_eq!(Stamp::parse(text), None, "{text:?}");
        }
    }
}
