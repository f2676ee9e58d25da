//! nginx (open source): an include file, swapped whole, a reload, and proof that the running
//! configuration is the new one.
//!
//! `nginx -s reload` returns 0 even when the master rejects the file, and `nginx -T` prints the file,
//! not what runs. So every split carries a stamp that a status location answers with, and a split is
//! in force when no answer carries an older stamp any more.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::fit::{Configuration, Question};
use self::include::{Include, Shape, Stamp};
use self::servers::{Servers, Sides};
use self::syntax::Directive;
use super::servers::Cache;
use super::ways::Addresses;
use super::{By, Counters, Key, Kind, Live, Order, OtherWay, Router, Side, Split, take_back};
use crate::fault::Fault;
use crate::plan::commands;
use crate::units::show_duration;
use crate::world::http::{Client, Request};
use crate::world::{self, files, shell};
use crate::yaml::Problem;

mod fit;
mod include;
mod place;
mod servers;
mod syntax;

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
    /// The name of the upstream that the include file defines; with `apart`, or `split` by user or match, it defines
    /// two, `NAME_blue` and `NAME_green`, and `$trapkey_upstream` names one of them.
    upstream: String,
    /// The server, or the servers, of the old side: `host:port`, and behind it `weight`, `max_fails`, `fail_timeout`
    /// and `max_conns` as nginx has them: `"10.0.0.11:8080 weight=2"`.
    blue: Servers,
    /// The server, or the servers, of the new side.
    green: Servers,
    /// A URL that answers with `$trapkey_split`: `location = /trapkey-split { return 200 $trapkey_split; }`.
    status: String,
    /// Tests the configuration; `nginx -t` when absent. With `-T` in the place of `-t` it must print it.
    #[serde(default = "test_command")]
    test: Vec<String>,
    /// Reloads it; `nginx -s reload` when absent.
    #[serde(default = "reload_command")]
    reload: Vec<String>,
    /// Further lines inside the upstream, such as `keepalive 32;`.
    #[serde(default)]
    lines: Vec<String>,
    /// Gives each side an upstream of its own: any balancing method may stand in `lines`, and a failed request is tried
    /// again on its own side alone. Then `proxy_pass` takes the upstream from `$trapkey_upstream`.
    #[serde(default)]
    apart: bool,
    /// How the names of the include file's variables begin: `trapkey` when absent, hence `$trapkey_split`. nginx has one
    /// variable of a name for all, so of several services behind one nginx each needs its own.
    #[serde(default = "variables")]
    variables: String,
    /// Whether a cache of nginx may answer in front of both sides: `refused` when absent.
    #[serde(default)]
    cache: Cache,
    /// How long old workers may go on answering after a reload; 10 s when absent.
    #[serde(default)]
    settle: Option<crate::units::Span>,
}

fn variables() -> String {
    "trapkey".to_owned()
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
    shape: Shape,
    lines: Vec<Directive>,
    settings: Settings,
    timeout: Duration,
    client: Client,
    /// Why the configuration could not be looked through, where it could not.
    unseen: Option<String>,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    let problem = |why: String| Problem::at(place, why);
    for command in ["test", "reload"].iter().filter_map(|key| order.with.0.as_ref()?.get(key)) {
        commands::fit(commands::texts(command), order.variables)
            .map_err(|unfit| unfit.at(Some(command.place)))?;
    }
    if let By::User(Key::Header(name)) | By::Match(Key::Header(name), _) = order.split
        && name.contains('_')
    {
        return Err(problem(format!(
            "nginx drops headers with an underscore such as `{name}`, unless told otherwise"
        )));
    }
    if !servers::is_address(&settings.upstream) {
        return Err(problem(format!("`{}` is no name for an nginx upstream", settings.upstream)));
    }
    let name = &settings.variables;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) || name.len() > 20 {
        let why = "is no beginning of a variable's name: up to 20 of `a-z`, `0-9` and `_`, a letter first";
        return Err(problem(format!("`{name}` {why}")));
    }
    let sides = Sides::of(&settings.blue, &settings.green).map_err(problem)?;
    let weighed = servers::weighed(order.split, settings.apart);
    let lines = servers::lines(&settings.lines, weighed).map_err(problem)?;
    Ok(Box::new(Nginx {
        file: order.folder.join(&order.target.value),
        folder: order.folder.to_path_buf(),
        shape: Shape {
            upstream: settings.upstream.clone(),
            sides,
            lines: settings.lines.clone(),
            by: order.split.clone(),
            apart: settings.apart,
            variables: settings.variables.clone(),
        },
        lines,
        client: Client::new(order.timeout),
        timeout: order.timeout,
        settings,
        unseen: None,
    }))
}

/// How many answers in a row must carry the new stamp before the old workers count as gone.
const AGREEING: u32 = 12;
/// The greatest configuration that is looked through.
const MAX_CONFIGURATION: usize = 32 * 1024 * 1024;
const BETWEEN: Duration = Duration::from_millis(15);
/// How long a reload by somebody else is waited for before what answers counts as what runs.
const RELOAD_UNDER_WAY: Duration = Duration::from_millis(500);
/// How much of the end of nginx's error log is looked at.
const END_OF_LOG: u64 = 64 * 1024;

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
                .help(format!(
                    "add `location = /trapkey-split {{ return 200 {}; }}` to a server and name its URL in `with.status`",
                    self.shape.variable("split")
                ))
        };
        let answer = self.client.send(&request).map_err(|e| odd(e.why))?;
        let text = String::from_utf8_lossy(&answer.body);
        Stamp::parse(&text).ok_or_else(|| odd(format!("it answered {} with other words", answer.status)))
    }

    fn run(&self, what: &str, argv: &[String]) -> Result<(), Fault> {
        const RIGHTS: &str = "run that command by hand; the job's user needs the right to it";
        let mut order = shell::Order::new(argv.to_vec(), &self.folder);
        order.timeout = self.timeout;
        // Half a change is worse than a late end, and a way back must work after a signal too.
        order.through_signals = true;
        let failed = |cause: String, help: &str| {
            Fault::infrastructure(format!("nginx could not {what}"))
                .place(argv.join(" "))
                .cause(cause)
                .help(help)
        };
        let ran = order.run().map_err(|e| failed(e.to_string(), RIGHTS))?;
        if ran.exit == Some(0) {
            return Ok(());
        }
        let said = complaints(&String::from_utf8_lossy(&ran.stderr));
        if said.is_empty() {
            return Err(failed(format!("{}: {}", ran.how(), ran.last_words()), RIGHTS));
        }
        Err(failed(format!("{}: {said}", ran.how()), "mend what it names, and run that command by hand"))
    }

    fn test(&self, what: &str) -> Result<(), Fault> {
        self.run(what, &self.settings.test)
    }

    fn text(&self) -> Result<String, Fault> {
        files::read_text(&self.file).map_err(|e| files::unwritable(&self.file, &e))
    }

    fn include(&self, text: &str) -> Result<Include, Fault> {
        Include::parse(text).map_err(|broken| {
            Fault::usage("the include file is no nginx configuration")
                .place(format!("{}:{}", self.shown(), broken.line))
                .cause(broken.why)
                .help("put it right, and reload nginx")
        })
    }

    /// Whether the include file on disk may be overwritten, and is of the kind that the plan's `split` needs.
    fn fits(&self, include: &Include, running: &Stamp) -> Result<(), Fault> {
        let sides = [Side::Blue, Side::Green].map(|side| self.shape.upstream_of(side));
        let named = sides.iter().all(|name| include.upstream(name).is_some());
        let missing = if self.shape.weighed() {
            include
                .upstream(&self.shape.upstream)
                .is_none()
                .then(|| format!("upstream {}", self.shape.upstream))
        } else if !named || include.defines(&self.shape.variable("upstream")).is_none() {
            Some(self.shape.variable("upstream"))
        } else {
            None
        };
        let split = self.shape.variable("split");
        let missing = missing.or_else(|| include.defines(&split).is_none().then_some(split));
        let Some(missing) = missing else { return Ok(()) };
        let to = self.passes_to();
        Err(Fault::usage("nginx's configuration does not fit the `split`")
            .place(self.shown())
            .cause(format!("the include file defines no `{missing}`"))
            .help(format!(
                "say `proxy_pass http://{to};` (or grpc_pass, uwsgi_pass …), put this into the include file, and reload nginx:\n{}",
                self.shape.render(running.green, &running.id)
            )))
    }

    /// A name with several addresses is several servers to nginx, each with the whole weight.
    fn one_address_each(&self) -> Result<(), Fault> {
        let all = self.shape.sides.blue.iter().chain(&self.shape.sides.green);
        for server in all.filter(|server| !server.address.starts_with("unix:")) {
            // nginx itself has looked the name up; where it is not known here, there is nothing to count.
            let Ok(found) = servers::normal(&server.address).to_socket_addrs() else { continue };
            let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            addresses.sort();
            addresses.dedup();
            if addresses.len() > 1 {
                return Err(Fault::usage("one server of a side is several to nginx")
                    .place(&server.address)
                    .cause(format!(
                        "the name has the addresses {}, and nginx gives each of them the whole weight",
                        addresses.join(", ")
                    ))
                    .help("name the addresses in `with.blue` and `with.green`, or say `apart: true`"));
            }
        }
        Ok(())
    }

    /// What a `*_pass` must name.
    fn passes_to(&self) -> String {
        if self.shape.weighed() { self.shape.upstream.clone() } else { self.shape.variable("upstream") }
    }

    /// The configuration on disk, every file of it.
    ///
    /// Errors: in words, why it cannot be had.
    fn printed(&self) -> Result<Configuration, String> {
        let flag = |word: &&String| matches!(word.as_str(), "-t" | "-tq" | "-qt");
        if self.settings.test.iter().find(flag).is_none() {
            return Err("`with.test` has no `-t` that could be `-T`".into());
        }
        let print = |word: &String| if flag(&word) { "-T".to_owned() } else { word.clone() };
        let mut order = shell::Order::new(self.settings.test.iter().map(print).collect(), &self.folder);
        order.timeout = self.timeout;
        order.keep = MAX_CONFIGURATION;
        let ran = order.run().map_err(|e| e.to_string())?;
        if ran.exit != Some(0) || ran.cut {
            return Err(format!("{}: {}: {}", order.argv.join(" "), ran.how(), ran.last_words()));
        }
        Configuration::parse(&String::from_utf8_lossy(&ran.stdout))
    }

    /// Asks something of the configuration around the include file with this text.
    fn question<T>(&self, text: &str, ask: impl FnOnce(&Question<'_>) -> T) -> T {
        let include = place::real(&self.file).display().to_string();
        let sides = [Side::Blue, Side::Green].map(|side| self.shape.upstream_of(side));
        let upstreams = if self.shape.weighed() { vec![self.shape.upstream.clone()] } else { sides.to_vec() };
        ask(&Question {
            include: &include,
            text,
            upstreams: &upstreams,
            passes_to: &self.passes_to(),
            variables: &self.shape.all_variables(),
            cache_allowed: self.settings.cache == Cache::Allowed,
        })
    }

    /// The addresses of a side's servers.
    fn addresses(&self, side: Side) -> Vec<String> {
        self.shape.sides.side(side).iter().map(|server| server.address.clone()).collect()
    }

    /// Whether what is around the include file leaves the split as it is.
    fn configuration_fits(&self, configuration: &Configuration, text: &str) -> Result<(), Fault> {
        let misfit = self.question(text, |question| configuration.misfit(question));
        match misfit {
            None => Ok(()),
            Some(misfit) => Err(Fault::usage("nginx's configuration does not fit the `split`")
                .place(misfit.place.unwrap_or_else(|| self.shown()))
                .cause(misfit.why)
                .help(misfit.help)),
        }
    }

    fn settle(&self) -> Duration {
        self.settings.settle.map_or(Duration::from_secs(10), |s| s.0)
    }

    /// Waits until no answer carries another stamp. `since` is when the reload was asked for, as nginx's log has it.
    fn wait_for(&self, id: &str, since: &str) -> Result<(), Fault> {
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
                let waited = show_duration(self.settle().as_secs_f64());
                let (log, said) = self.logged(since);
                let cause = format!("{waited} after the reload an answer carries another stamp");
                return Err(Fault::infrastructure(
                    "nginx took the reload but still runs the old configuration",
                )
                .place(self.shown())
                .cause(if said.is_empty() { cause } else { format!("{cause}; its error log says: {said}") })
                .help(format!("look at {log}: a reload that the master rejects ends with 0 all the same")));
            }
            std::thread::sleep(BETWEEN);
        }
    }

    /// Where nginx logs, and the errors that it has logged since a moment, as far as they can be read here.
    fn logged(&self, since: &str) -> (String, String) {
        let configuration = self.printed().ok();
        let Some(path) = configuration.as_ref().and_then(Configuration::error_log) else {
            return ("nginx's error log".into(), String::new());
        };
        let text = end_of(path).unwrap_or_default();
        // Each line begins with its moment: `2026/01/02 03:04:05 [emerg] …`.
        let lines: Vec<&str> =
            text.lines().filter(|line| line.get(..since.len()).is_some_and(|at| at >= since)).collect();
        (format!("nginx's error log, {path}"), complaints(&lines.join("\n")))
    }

    /// What a stamp says of the split, in the light of the file that carries it.
    fn live(&self, stamp: &Stamp, include: &Include) -> Live {
        let in_file = include.carries(&self.shape, stamp);
        let green = if in_file { include.green(&self.shape, stamp.green) } else { stamp.green };
        let mut raw = json!({"stamp": stamp.id, "green": green});
        if let Some(why) = &self.unseen {
            raw["configuration_not_seen"] = why.clone().into();
        }
        let mut live = Live::of(green, raw);
        if in_file {
            live.strangers = include.strangers(&self.shape, &self.shown());
        }
        live
    }

    fn swap(&self, text: &str) -> Result<(), Fault> {
        place::write(&self.file, text.as_bytes()).map_err(|e| files::unwritable(&self.file, &e))
    }

    /// nginx would not start on the new file: puts the one of before back, and tells whose fault it is.
    fn take_refused_back(&self, refused: Fault, split: Split, text: &str, before: &str) -> Result<(), Fault> {
        take_back(&self.file, text, || self.swap(before))?;
        let Err(by_others) = self.test("test its configuration") else { return Err(refused) };
        // It starts on nothing, for a reason of somebody else's.
        let own = by_others.help.clone().unwrap_or_default();
        let mut help = format!("the include file is not the reason: {own}");
        if split.is_way_back() {
            // When that is mended, users go back.
            take_back(&self.file, before, || self.swap(text))?;
            help += "; the include file holds the way back already, and the next reload takes it";
        }
        Err(Fault { help: Some(help), ..by_others })
    }
}

/// The lines of nginx's output that say why, without their time and process; empty where there is none.
fn complaints(output: &str) -> String {
    let grave = |line: &str| -> Option<String> {
        let at = ["[emerg]", "[alert]", "[crit]"].iter().filter_map(|level| line.find(level)).min()?;
        let (level, said) = line[at..].trim().split_once(' ')?;
        // In its log process and thread come next: `12#12:`.
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let said = match said.split_once(": ") {
            Some((who, rest)) if who.split_once('#').is_some_and(|(a, b)| number(a) && number(b)) => rest,
            _ => said,
        };
        Some(format!("{level} {said}"))
    };
    let mut found: Vec<String> = Vec::new();
    for line in output.lines().filter_map(grave) {
        if !found.contains(&line) {
            found.push(line);
        }
    }
    // Half a secret would no longer be recognised as one: first out, then cut.
    crate::units::clipped(&crate::redact::redact(&found.join("; ")), 1000)
}

/// The end of a file.
fn end_of(path: &str) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = crate::bounds::open(std::path::Path::new(path))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END_OF_LOG)))?;
    let mut bytes = Vec::new();
    file.take(END_OF_LOG).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Now, as nginx's log has it.
fn log_time() -> String {
    jiff::Zoned::now().strftime("%Y/%m/%d %H:%M:%S").to_string()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Router for Nginx {
    /// The commands by which it is tested and reloaded, and the address of its stamp, may be mended in the middle.
    fn identity(&self, old: Side) -> Vec<String> {
        let by = if self.shape.weighed() { "by their weights" } else { "each by an upstream of its own" };
        vec![
            format!("nginx by {}", self.shown()),
            format!("upstream {}, the sides {by}", self.shape.upstream),
            format!("variables {}", self.shape.variables),
            format!("old side {}", self.addresses(old).join(", ")),
            format!("new side {}", self.addresses(old.other()).join(", ")),
        ]
    }

    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        let Ok(configuration) = self.printed() else { return Ok(None) };
        let text = self.text().unwrap_or_default();
        let mut known = Addresses::of(&self.addresses(Side::Blue), &self.addresses(Side::Green), 80);
        let named = |side: Side| (side, self.shape.upstream_of(side));
        let sides =
            if self.shape.weighed() { Vec::new() } else { vec![named(Side::Blue), named(Side::Green)] };
        Ok(Some(self.question(&text, |question| configuration.ways(question, &sides, &mut known)).all()))
    }

    fn check(&mut self) -> Result<(), Fault> {
        if !self.file.exists() {
            let text = self.shape.render(0.0, "first");
            return Err(Fault::usage("the include file does not exist yet")
                .place(self.shown())
                .cause("Trapkey changes a split that runs; it does not take over a service that it has never seen")
                .help(format!("put this into it, include it inside `http {{ … }}`, and reload nginx:\n{text}")));
        }
        let text = self.text()?;
        let include = self.include(&text)?;
        if let Some((line, why)) = include.unfit(&self.shape, &self.lines) {
            return Err(Fault::usage("the include file does not fit the plan")
                .place(format!("{}:{line}", self.shown()))
                .cause(why)
                .help("change that, and reload nginx"));
        }
        self.test("test its configuration")?;
        let running = self.stamp()?;
        self.fits(&include, &running)?;
        match self.printed() {
            Ok(configuration) => self.configuration_fits(&configuration, &text)?,
            // It passes its test, so this is no reason to refuse; what is told of the router says so.
            Err(why) => self.unseen = Some(why),
        }
        if self.shape.weighed() { self.one_address_each() } else { Ok(()) }
    }

    fn nearest(&self, green: f64) -> f64 {
        let (b, g) = super::weights::exact(green);
        f64::from(g) / f64::from(b + g)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let green = self.nearest(split.green);
        let id = format!("{:016x}", world::unique());
        let text = self.shape.render(green, &id);
        let before = match self.text() {
            // Somebody has removed it; the way back puts it there again.
            Err(_) if split.is_way_back() && !self.file.exists() => String::new(),
            there => there?,
        };
        let in_file = |stamp: &Stamp| before == self.shape.render(green, &stamp.id);
        if self.stamp().is_ok_and(|running| super::same_share(running.green, green) && in_file(&running)) {
            return Ok(());
        }
        self.swap(&text)?;
        if let Err(refused) = self.test("accept the new configuration") {
            return self.take_refused_back(refused, split, &text, &before);
        }
        let since = log_time();
        let done = self.run("reload", &self.settings.reload).and_then(|()| self.wait_for(&id, &since));
        if done.is_err() && !split.is_way_back() {
            // What lies on disk must be what runs, or the next reload by anybody would switch traffic.
            take_back(&self.file, &text, || self.swap(&before))?;
        }
        done
    }

    fn read(&mut self) -> Result<Live, Fault> {
        // One that somebody has broken or removed carries no stamp; a way back must not end at it.
        let include = Include::parse(&self.text().unwrap_or_default()).unwrap_or_default();
        let until = Instant::now() + RELOAD_UNDER_WAY;
        let mut agreeing = 0;
        let mut last = self.stamp()?;
        loop {
            let next = self.stamp()?;
            agreeing = if next.id == last.id { agreeing + 1 } else { 0 };
            last = next;
            let in_file = include.carries(&self.shape, &last);
            if in_file && agreeing == 0 {
                // Old workers are still answering: wait until they do not.
                self.wait_for(&last.id, &log_time())?;
                return Ok(self.live(&last, &include));
            }
            // What runs is not what lies on disk: somebody's reload may be under way.
            if agreeing >= 3 && (in_file || Instant::now() >= until) {
                return Ok(self.live(&last, &include));
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
            if !in_file {
                std::thread::sleep(BETWEEN);
            }
        }
    }

    fn drain(&mut self, _: Side, limit: Duration) -> Result<u64, Fault> {
        // A side without share has no server in the running configuration, or no name for it. What is left are
        // requests of workers that are shutting down; nginx ends them by `worker_shutdown_timeout`.
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

    /// The whole file is written, whatever is in it: a side without share has no line there that could be changed. Its
    /// stamp is another one, for what runs must not say that it is what was before. The shell writes through a link.
    fn by_hand(&self, side: Side) -> Vec<String> {
        let words = |words: &[String]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = self.shape.by_hand(side).lines().map(quoted).collect();
        vec![
            format!("printf '%s\\n' {} > {}", lines.join(" "), quoted(&self.shown())),
            format!("{} && {}", words(&self.settings.test), words(&self.settings.reload)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_nginx_says_the_reason_is_shown() {
        let output = "nginx: [warn] conflicting server name \"a\"\nnginx: [emerg] unknown directive \"x\" in /etc/nginx/other.conf:3\nnginx: configuration file /etc/nginx/nginx.conf test failed\n";
        assert_eq!(complaints(output), "[emerg] unknown directive \"x\" in /etc/nginx/other.conf:3");
        let log = "2026/11/30 09:00:00 [emerg] 12#12: bind() to 0.0.0.0:80 failed\n2026/11/30 09:00:01 [emerg] 12#12: bind() to 0.0.0.0:80 failed";
        assert_eq!(complaints(log), "[emerg] bind() to 0.0.0.0:80 failed");
        assert_eq!(complaints("all is well"), "");
    }
}
