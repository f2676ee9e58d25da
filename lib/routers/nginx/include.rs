//! The include file: what Trapkey writes for a share, and what a file that is there says.
//!
//! Where the weights of one upstream are the split, a side without share is not in it. nginx never takes the only
//! server of an upstream out of service; beside a server that is `down` it does (`max_fails` is 1 when absent), and
//! then nobody is left for `fail_timeout`: one reset connection made every request of the next ten seconds a 502. For
//! the same reason a server that is alone on its side has `max_fails=0` while both sides have users: otherwise one
//! failure of it gives all users to the other side.

use super::super::weights::exact;
use super::super::{By, Key, Side, same_share};
use super::servers::{Server, Sides, weighed};
use super::syntax::{self, Broken, Directive};
use crate::units::show_share;

/// What the include file is made of, beside the share.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) upstream: String,
    pub(super) sides: Sides,
    /// Further lines inside the upstreams, as the plan has them.
    pub(super) lines: Vec<String>,
    pub(super) by: By,
    /// Whether each side has an upstream of its own, also where requests are split each by itself.
    pub(super) apart: bool,
    /// How the names of its variables begin; nginx has one of each name for all services.
    pub(super) variables: String,
}

/// What the status location answers: `trapkey STAMP SHARE`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stamp {
    pub(super) id: String,
    pub(super) green: f64,
}

impl Stamp {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        if words.next()? != "trapkey" {
            return None;
        }
        let id = words.next()?.to_owned();
        let green: f64 = words.next()?.parse().ok()?;
        (words.next().is_none() && (0.0..=1.0).contains(&green)).then_some(Self { id, green })
    }
}

/// How a file of Trapkey's begins; whoever wrote it by the printed command has written it too.
const OURS: &str = "# Written by Trapkey";

impl Shape {
    /// A variable of the include file: of `split`, `$trapkey_split`.
    pub(super) fn variable(&self, what: &str) -> String {
        format!("${}_{what}", self.variables)
    }

    /// All of them.
    pub(super) fn all_variables(&self) -> [String; 4] {
        ["split", "upstream", "key", "bucket"].map(|what| self.variable(what))
    }

    /// Whether the weights of one upstream are the split; otherwise `$trapkey_upstream` names one of two.
    pub(super) fn weighed(&self) -> bool {
        weighed(&self.by, self.apart)
    }

    /// The name of the upstream of a side, where each has one.
    pub(super) fn upstream_of(&self, side: Side) -> String {
        format!("{}_{}", self.upstream, side.word())
    }

    /// The include file for a share.
    pub(super) fn render(&self, green: f64, stamp: &str) -> String {
        let share = show_share(green);
        self.with_head(green, stamp, &format!("{OURS}; the next shift overwrites it. Green has {share}."))
    }

    /// The include file that gives a side everything, as people write it by the printed command.
    pub(super) fn by_hand(&self, side: Side) -> String {
        let green = if side == Side::Green { 1.0 } else { 0.0 };
        let head = format!("{OURS}'s command for use by hand; the next shift overwrites it.");
        self.with_head(green, "by-hand", &head)
    }

    fn with_head(&self, green: f64, stamp: &str, head: &str) -> String {
        let body = if self.weighed() { self.weighed_upstream(green) } else { self.named_upstreams(green) };
        let split = self.variable("split");
        format!("{head}\n{body}map \"\" {split} {{ default \"trapkey {stamp} {green}\"; }}\n")
    }

    fn block(&self, name: &str, servers: &[String]) -> String {
        let inside: String = servers.iter().chain(&self.lines).map(|line| format!("    {line}\n")).collect();
        format!("upstream {name} {{\n{inside}}}\n")
    }

    fn weighed_upstream(&self, green: f64) -> String {
        let (blue, green) = self.sides.weights(exact(green));
        let between = !blue.is_empty() && !green.is_empty();
        let servers = |side: &[Server], weights: &[u64]| -> Vec<String> {
            let lone = between && side.len() == 1;
            side.iter().zip(weights).map(|(server, weight)| server.line(*weight, lone)).collect()
        };
        let all = [servers(&self.sides.blue, &blue), servers(&self.sides.green, &green)].concat();
        self.block(&self.upstream, &all)
    }

    /// Two upstreams, and the name of one of them for each request.
    fn named_upstreams(&self, green: f64) -> String {
        let upstream = |side: Side| {
            let servers = self.sides.side(side).iter();
            let lines: Vec<String> = servers.map(|server| server.line(server.weight, false)).collect();
            self.block(&self.upstream_of(side), &lines)
        };
        let upstreams = upstream(Side::Blue) + &upstream(Side::Green);
        format!("{upstreams}{}", self.names(green))
    }

    fn names(&self, green: f64) -> String {
        let (blue, green_name) = (self.upstream_of(Side::Blue), self.upstream_of(Side::Green));
        // Those whom the key does not tell apart change sides last.
        let others = if green >= 1.0 { &green_name } else { &blue };
        let between = green > 0.0 && green < 1.0;
        let own = if between { format!("{} {green_name}; ", bucket(green)) } else { String::new() };
        let (upstream, told_by) = (self.variable("upstream"), self.variable("key"));
        let (By::User(key) | By::Match(key, _)) = &self.by else {
            return format!("split_clients $request_id {upstream} {{ {own}* {others}; }}\n");
        };
        let mut text = match key {
            Key::Header(name) => {
                let header = format!("$http_{}", name.replace('-', "_"));
                format!("map {header} {told_by} {{ default {header}; }}\n")
            }
            // `$cookie_…` would take a name in any case, and none with a dash.
            Key::Cookie(name) => format!(
                "map $http_cookie {told_by} {{ default \"\"; \"~(?:^|; ?){name}=(?<{0}_cookie>[^;]+)\" ${0}_cookie; }}\n",
                self.variables
            ),
        };
        if let By::Match(_, value) = &self.by {
            let matching = if green > 0.0 { &green_name } else { &blue };
            // A regular expression, because plain words are compared in any case.
            text += &format!("map {told_by} {upstream} {{ default {others}; \"~^{value}$\" {matching}; }}\n");
        } else {
            let bucket = self.variable("bucket");
            text += &format!("split_clients {told_by} {bucket} {{ {own}* {others}; }}\n");
            text += &format!("map {told_by} {upstream} {{ default {bucket}; \"\" {others}; }}\n");
        }
        text
    }
}

impl Server {
    /// Its line. One that is alone on its side while both have users is never taken out of service, as nginx does
    /// with the only server of an upstream.
    fn line(&self, weight: u64, never_out: bool) -> String {
        let mut line = format!("server {}", self.address);
        if weight != 1 {
            line += &format!(" weight={weight}");
        }
        for parameter in self.own.iter().filter(|own| !(never_out && own.starts_with("max_fails="))) {
            line += &format!(" {parameter}");
        }
        line + if never_out { " max_fails=0;" } else { ";" }
    }
}

/// A share as `split_clients` takes it: the first buckets, so that green only grows by new users.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
fn bucket(green: f64) -> String {
    let parts = (green.clamp(0.0, 1.0) * 10_000.0).round() as u32;
    format!("{}.{:02}%", parts / 100, parts % 100)
}

/// What lies on disk.
#[derive(Default)]
pub(super) struct Include {
    text: String,
    directives: Vec<Directive>,
}

impl Include {
    /// Errors: where it is no configuration.
    pub(super) fn parse(text: &str) -> Result<Self, Broken> {
        Ok(Self { text: text.to_owned(), directives: syntax::parse(text)? })
    }

    /// Whether Trapkey has written it, or its printed command.
    fn ours(&self) -> bool {
        self.text.starts_with(OURS)
    }

    /// Whether it carries a stamp. The share counts too: two files that people wrote by the printed command, one for
    /// each side, are told apart by it alone.
    pub(super) fn carries(&self, shape: &Shape, stamp: &Stamp) -> bool {
        let same = |own: Stamp| own.id == stamp.id && same_share(own.green, stamp.green);
        let of = |directive: &Directive| Stamp::parse(directive.argument()).is_some_and(same);
        self.defines(&shape.variable("split")).is_some_and(|map| map.children().iter().any(of))
    }

    /// What gives a variable its value.
    pub(super) fn defines(&self, variable: &str) -> Option<&Directive> {
        let gives = |directive: &&Directive| {
            matches!(directive.name(), "map" | "split_clients")
                && directive.words.last().is_some_and(|last| last == variable)
        };
        self.directives.iter().find(gives)
    }

    /// An upstream by its name.
    pub(super) fn upstream(&self, name: &str) -> Option<&Directive> {
        let named = |directive: &&Directive| {
            directive.name() == "upstream" && directive.argument().eq_ignore_ascii_case(name)
        };
        self.directives.iter().find(named)
    }

    /// Its upstreams that are of a shape; with the side of each, where each has its own.
    fn upstreams(&self, shape: &Shape) -> Vec<(Option<Side>, &Directive)> {
        if shape.weighed() {
            return self.upstream(&shape.upstream).map(|upstream| (None, upstream)).into_iter().collect();
        }
        let of = |side| self.upstream(&shape.upstream_of(side)).map(|upstream| (Some(side), upstream));
        [Side::Blue, Side::Green].into_iter().filter_map(of).collect()
    }

    /// Green's share, when a stamp of this file says `stamped`. The sides change places from release to release: a
    /// file that was written with them the other way round speaks of the other one. Where the weights are neither,
    /// somebody has edited them by hand, and they are what will be in force.
    pub(super) fn green(&self, shape: &Shape, stamped: f64) -> f64 {
        let over = 1.0 - stamped;
        if !shape.weighed() {
            let reversed = self.upstreams(shape).iter().any(|(own, upstream)| {
                serving(upstream)
                    .any(|at| shape.sides.find(at.address).is_some_and(|(side, _)| Some(side) != *own))
            });
            return if reversed { over } else { stamped };
        }
        match self.upstream(&shape.upstream).and_then(|upstream| weight_of_green(upstream, &shape.sides)) {
            Some(told) if same_share(told, stamped) => stamped,
            Some(told) if same_share(told, over) => over,
            Some(told) => told,
            None => stamped,
        }
    }

    /// The servers that get users and are on neither side, in words.
    pub(super) fn strangers(&self, shape: &Shape, file: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (_, upstream) in self.upstreams(shape) {
            for at in serving(upstream).filter(|at| shape.sides.find(at.address).is_none()) {
                let (address, name, line) = (at.address, upstream.argument(), at.line);
                found.push(format!("server {address} of upstream {name} ({file}:{line})"));
            }
        }
        found
    }

    /// Why the next shift must not overwrite this file, or could not go by it: the line, and the reason.
    pub(super) fn unfit(&self, shape: &Shape, lines: &[Directive]) -> Option<(usize, String)> {
        let of_ours = |directive: &&Directive| match directive.name() {
            "upstream" => {
                let name = directive.argument();
                let sides = [Side::Blue, Side::Green].map(|side| shape.upstream_of(side));
                sides.iter().chain([&shape.upstream]).any(|own| own.eq_ignore_ascii_case(name))
            }
            "map" | "split_clients" => {
                directive.words.last().is_some_and(|variable| shape.all_variables().contains(variable))
            }
            _ => false,
        };
        if let Some(other) = self.directives.iter().find(|directive| !of_ours(directive)) {
            let why = format!(
                "`{}` would be lost: Trapkey overwrites the whole file, so it needs one of its own",
                other.shown()
            );
            return Some((other.line, why));
        }
        for (_, upstream) in self.upstreams(shape) {
            if let Some((directive, why)) = super::servers::misfit(upstream.children(), shape.weighed()) {
                return Some((directive.line, format!("`{}` {why}", directive.shown())));
            }
            // A file of Trapkey's has what the plan said then.
            let lost = if self.ours() { None } else { lost(upstream, shape, lines) };
            if let Some((directive, place)) = lost {
                let shown = directive.shown();
                let why = format!(
                    "the next shift would drop what `{shown}` says: say it in {place}, or take it out"
                );
                return Some((directive.line, why));
            }
        }
        None
    }
}

/// A server of an upstream that gets users.
struct Serving<'a> {
    address: &'a str,
    weight: u64,
    line: usize,
}

/// The servers of an upstream that get users as long as they are well.
fn serving(upstream: &Directive) -> impl Iterator<Item = Serving<'_>> {
    let has = |server: &Directive, word: &str| server.words.iter().skip(2).any(|own| own == word);
    let servers = upstream.children().iter().filter(|directive| directive.name() == "server");
    servers.filter(move |server| !has(server, "down") && !has(server, "backup")).map(|server| {
        let weight = server.words.iter().find_map(|word| word.strip_prefix("weight=")?.parse().ok());
        Serving { address: server.argument(), weight: weight.unwrap_or(1), line: server.line }
    })
}

/// Green's share by the weights of an upstream; none where neither side is in it.
fn weight_of_green(upstream: &Directive, sides: &Sides) -> Option<f64> {
    let (mut blue, mut green) = (0.0, 0.0);
    for at in serving(upstream) {
        match sides.find(at.address) {
            Some((Side::Blue, _)) => blue += at.weight as f64,
            Some((Side::Green, _)) => green += at.weight as f64,
            None => {}
        }
    }
    (blue + green > 0.0).then(|| green / (blue + green))
}

/// The first directive of an upstream that people wrote which the plan knows nothing of, and the setting for it.
fn lost<'a>(
    upstream: &'a Directive,
    shape: &Shape,
    lines: &[Directive],
) -> Option<(&'a Directive, &'static str)> {
    const LINES: &str = "`with.lines`";
    const SERVERS: &str = "`with.blue` or `with.green`, behind the address of the server";
    let known = |directive: &Directive| lines.iter().any(|own| own.words == directive.words);
    let mut weights: [Option<(u64, u64)>; 2] = [None, None];
    for directive in upstream.children().iter().filter(|directive| !known(directive)) {
        if directive.name() != "server" {
            return Some((directive, LINES));
        }
        let parameters = &directive.words[directive.words.len().min(2)..];
        let Some((side, own)) = shape.sides.find(directive.argument()) else {
            // One that gets users is a stranger, and that is told elsewhere.
            if parameters.iter().any(|word| word == "backup") {
                return Some((directive, LINES));
            }
            continue;
        };
        let in_plan = |word: &String| word == "down" || word.starts_with("weight=") || own.own.contains(word);
        if !parameters.iter().all(in_plan) {
            return Some((directive, SERVERS));
        }
        let here =
            parameters.iter().find_map(|word| word.strip_prefix("weight=")?.parse().ok()).unwrap_or(1_u64);
        let first = weights[usize::from(side == Side::Green)].get_or_insert((here, own.weight));
        if u128::from(first.0) * u128::from(own.weight) != u128::from(here) * u128::from(first.1) {
            return Some((directive, SERVERS));
        }
    }
    None
}

#[cfg(test)]
#[path = "include_tests.rs"]
mod tests;
