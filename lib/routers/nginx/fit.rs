//! What nginx's configuration does with the upstream, as `nginx -T` prints it: every file of it, with its path.

use std::collections::{HashMap, HashSet};

use super::super::Side;
use super::super::ways::{Addresses, Ways};
use super::syntax::{self, Directive};

/// How `nginx -T` heads each file.
const HEAD: &str = "# configuration file ";

/// The greatest depth of includes that is followed; nginx itself fails on a circle.
const DEEPEST: usize = 16;

/// A file of the configuration.
struct File {
    path: String,
    text: String,
    directives: Vec<Directive>,
}

/// Every file of a configuration; the first one is the main one.
pub(super) struct Configuration {
    files: Vec<File>,
}

/// A directive, the file that it is in, and its block with all includes followed.
struct Placed<'a> {
    file: &'a File,
    directive: &'a Directive,
    block: Vec<Placed<'a>>,
}

impl Placed<'_> {
    fn place(&self) -> String {
        format!("{}:{}", self.file.path, self.directive.line)
    }
}

/// What is asked of a configuration.
pub(super) struct Question<'a> {
    /// The path of the include file, every symbolic link followed.
    pub(super) include: &'a str,
    /// What is in it.
    pub(super) text: &'a str,
    /// The names of the upstreams that it defines.
    pub(super) upstreams: &'a [String],
    /// What a `*_pass` must name: an upstream, or a variable.
    pub(super) passes_to: &'a str,
    /// The variables that it may define.
    pub(super) variables: &'a [String],
    /// Whether a cache may answer in the place of both sides.
    pub(super) cache_allowed: bool,
}

/// Why a configuration does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) place: Option<String>,
    pub(super) why: String,
    pub(super) help: String,
}

impl Configuration {
    /// What `nginx -T` has printed.
    ///
    /// Errors: in words, where that is no configuration.
    pub(super) fn parse(printed: &str) -> Result<Self, String> {
        let mut files: Vec<(String, String)> = Vec::new();
        for line in printed.split_inclusive('\n') {
            let head = line.trim_end().strip_prefix(HEAD).and_then(|rest| rest.strip_suffix(':'));
            match (head, files.last_mut()) {
                (Some(path), _) if path.starts_with('/') => files.push((path.to_owned(), String::new())),
                (_, Some((_, text))) => text.push_str(line),
                (_, None) => {}
            }
        }
        let read = |(path, text): (String, String)| match syntax::parse(&text) {
            Ok(directives) => Ok(File { path, text, directives }),
            Err(broken) => Err(format!("{path}:{}: {}", broken.line, broken.why)),
        };
        let files: Vec<File> = files.into_iter().map(read).collect::<Result<_, _>>()?;
        if files.is_empty() { Err("it printed no file".into()) } else { Ok(Self { files }) }
    }

    /// The file that nginx logs its own errors to.
    pub(super) fn error_log(&self) -> Option<&str> {
        let main = self.follow(&self.files[0], 0);
        let log = main.iter().rev().find(|placed| placed.directive.name() == "error_log")?;
        let path = log.directive.argument();
        path.starts_with('/').then_some(path)
    }

    /// What is wrong, the most fundamental first.
    pub(super) fn misfit(&self, question: &Question<'_>) -> Option<Misfit> {
        let main = self.follow(&self.files[0], 0);
        let inside: Vec<&Placed<'_>> = main
            .iter()
            .filter(|placed| placed.directive.name() == "http")
            .flat_map(|http| &http.block)
            .collect();
        defined_elsewhere(&inside, question).or_else(|| {
            let variables = Variables::of(&main, question.passes_to);
            let mut seen = Seen::default();
            let caches = Caches::default().within(inside.iter().copied());
            for placed in inside {
                visit(placed, &caches, &variables, question, &mut seen);
            }
            seen.misfit(question)
        })
    }

    /// What else leads to the servers of a side, or to a side's own upstream: `sides` are the names of these, where each
    /// side has one.
    pub(super) fn ways(
        &self,
        question: &Question<'_>,
        sides: &[(Side, String)],
        known: &mut Addresses,
    ) -> Ways {
        let mut ways = Ways::default();
        let main = self.follow(&self.files[0], 0);
        let mut upstreams = HashSet::new();
        gather_upstreams(&main, &mut upstreams);
        let look = Look { question, sides, upstreams: &upstreams };
        for placed in &main {
            look.lead(placed, known, &mut ways);
        }
        ways
    }

    fn follow<'a>(&'a self, file: &'a File, depth: usize) -> Vec<Placed<'a>> {
        self.placed(file, &file.directives, depth)
    }

    fn placed<'a>(&'a self, file: &'a File, directives: &'a [Directive], depth: usize) -> Vec<Placed<'a>> {
        let mut all = Vec::new();
        for directive in directives {
            if directive.name() == "include" && directive.block.is_none() {
                if depth < DEEPEST {
                    let included = self.included(directive.argument());
                    all.extend(included.into_iter().flat_map(|file| self.follow(file, depth + 1)));
                }
                continue;
            }
            let block = self.placed(file, directive.children(), depth);
            all.push(Placed { file, directive, block });
        }
        all
    }

    /// The printed files that an include names; a relative one begins at the main file's folder.
    fn included(&self, pattern: &str) -> Vec<&File> {
        let main = &self.files[0].path;
        let folder = main.rfind('/').map_or("", |at| &main[..=at]);
        let pattern =
            if pattern.starts_with('/') { pattern.to_owned() } else { format!("{folder}{pattern}") };
        self.files.iter().filter(|file| matches(pattern.as_bytes(), file.path.as_bytes())).collect()
    }
}

/// Whether a path is one that a pattern of `include` names: `*`, `?` and `[…]`, none of which is a slash.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return path.is_empty() };
    let one = |fits: &dyn Fn(u8) -> bool, rest: &[u8]| {
        path.split_first().is_some_and(|(byte, others)| fits(*byte) && matches(rest, others))
    };
    match first {
        b'*' => {
            let free = path.iter().take_while(|byte| **byte != b'/').count();
            (0..=free).any(|taken| matches(rest, &path[taken..]))
        }
        b'?' => one(&|byte| byte != b'/', rest),
        b'[' => match rest.iter().skip(1).position(|byte| *byte == b']') {
            Some(length) => {
                let (class, behind) = (&rest[..=length], &rest[length + 2..]);
                one(&|byte| byte != b'/' && in_class(class, byte), behind)
            }
            None => one(&|byte| byte == b'[', rest),
        },
        b'\\' if !rest.is_empty() => one(&|byte| byte == rest[0], &rest[1..]),
        own => one(&|byte| byte == *own, rest),
    }
}

/// Whether a letter is in `a-z`, `abc` or `!abc`.
fn in_class(class: &[u8], byte: u8) -> bool {
    let (not, mut class) = match class.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    while let Some((from, rest)) = class.split_first() {
        if let [b'-', to, behind @ ..] = rest {
            found |= (*from..=*to).contains(&byte);
            class = behind;
        } else {
            found |= *from == byte;
            class = rest;
        }
    }
    found != not
}

/// Whether a file is the include file.
fn is_ours(file: &File, question: &Question<'_>) -> bool {
    let real = std::fs::canonicalize(&file.path).map(|path| path.display().to_string());
    // In a container its path is another one than here, and its text is the same.
    real.is_ok_and(|path| path == question.include) || file.text.trim() == question.text.trim()
}

/// The names of all upstreams, in lowercase.
fn gather_upstreams(placed: &[Placed<'_>], names: &mut HashSet<String>) {
    for Placed { directive, block, .. } in placed {
        if directive.name() == "upstream" {
            names.insert(directive.argument().to_ascii_lowercase());
        }
        gather_upstreams(block, names);
    }
}

/// A look for what leads to a side besides the split.
struct Look<'a> {
    question: &'a Question<'a>,
    /// The upstreams of the sides, where each has one of its own.
    sides: &'a [(Side, String)],
    /// The names of all upstreams: none of them is a host.
    upstreams: &'a HashSet<String>,
}

impl Look<'_> {
    /// Notes whatever of a directive, and of its block, leads to a side.
    fn lead(&self, placed: &Placed<'_>, known: &mut Addresses, ways: &mut Ways) {
        if is_ours(placed.file, self.question) {
            return;
        }
        let directive = placed.directive;
        let name = directive.name();
        let mut add = |side: Side, what: String| ways.add(side, &what, &placed.place());
        match (name, directive.words.as_slice()) {
            (_, [_, target, ..]) if PASSES.iter().any(|(pass, _)| *pass == name) => {
                if let Some(side) = self.passes_to(target, known) {
                    add(side, format!("`{name} {target}`"));
                }
            }
            ("upstream", [_, upstream, ..]) => {
                for server in placed.block.iter().map(|server| server.directive) {
                    let leads = server.name() == "server" && !server.words.iter().any(|word| word == "down");
                    if let Some(side) = known.side(server.argument(), 80).filter(|_| leads) {
                        add(side, format!("the upstream `{upstream}`"));
                    }
                }
            }
            // A value that some `proxy_pass` may use.
            ("set", [_, variable, value]) => {
                if let Some(side) = leads_somewhere(value).and_then(|value| known.side(value, 80)) {
                    add(side, format!("the variable `{variable}`"));
                }
            }
            ("map" | "split_clients" | "geo", [_, .., variable]) => {
                let values = placed.block.iter().filter_map(|entry| entry.directive.words.last());
                for value in values.filter_map(|value| leads_somewhere(value)) {
                    if let Some(side) = known.side(value, 80) {
                        add(side, format!("the variable `{variable}`"));
                    }
                }
            }
            _ => {}
        }
        for inner in &placed.block {
            self.lead(inner, known, ways);
        }
    }

    /// The side that a `*_pass` leads to, otherwise than by the split.
    fn passes_to(&self, target: &str, known: &mut Addresses) -> Option<Side> {
        let name = host(target);
        if let Some((side, _)) = self.sides.iter().find(|(_, own)| name.eq_ignore_ascii_case(own)) {
            return Some(*side);
        }
        if self.upstreams.contains(&name.to_ascii_lowercase()) || target.contains('$') {
            return None;
        }
        known.side(target, 80)
    }
}

/// A value that is an address: a word alone is no place that anybody passes to.
fn leads_somewhere(value: &str) -> Option<&str> {
    let address =
        value.contains("://") || value.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    address.then_some(value)
}

fn defined_elsewhere(inside: &[&Placed<'_>], question: &Question<'_>) -> Option<Misfit> {
    let ours = |file: &File| is_ours(file, question);
    let named = |placed: &&&Placed<'_>| {
        let name = placed.directive.argument();
        placed.directive.name() == "upstream"
            && question.upstreams.iter().any(|own| own.eq_ignore_ascii_case(name))
    };
    let all: Vec<&&Placed<'_>> = inside.iter().filter(named).collect();
    if let Some(other) = all.iter().find(|placed| !ours(placed.file)) {
        return Some(Misfit {
            place: Some(other.place()),
            why: format!(
                "the upstream `{}` is defined here, and not in the include file",
                other.directive.argument()
            ),
            help: "take this one out, and include Trapkey's file inside `http { … }`".into(),
        });
    }
    if all.is_empty() {
        return Some(Misfit {
            place: None,
            why: "nginx's configuration does not include this file inside `http { … }`".into(),
            help: format!("add `include {};` inside `http {{ … }}`, and reload nginx", question.include),
        });
    }
    // nginx has one variable of a name, and the last definition of it counts.
    let variable = |placed: &&&Placed<'_>| {
        let directive = placed.directive;
        let defines = matches!(directive.name(), "map" | "split_clients" | "geo");
        defines && directive.words.last().is_some_and(|name| question.variables.contains(name))
    };
    let other = inside.iter().filter(variable).find(|placed| !ours(placed.file))?;
    let name = other.directive.words.last().map_or("", String::as_str);
    Some(Misfit {
        place: Some(other.place()),
        why: format!("the variable `{name}` is defined here too, and nginx takes the last definition for every service"),
        help: "give each service variables of its own with `with.variables`, in its include file and in its locations"
            .into(),
    })
}

/// The upstream that a `*_pass` or a value names: what stands between the scheme and the path.
fn host(target: &str) -> &str {
    let target = target.split_once("://").map_or(target, |(_, rest)| rest);
    let end = target.find(['/', ':', '?']).unwrap_or(target.len());
    &target[..end]
}

/// The variables in a word: of `http://$a${b}`, `$a` and `$b`.
fn variables_in(word: &str) -> impl Iterator<Item = String> + '_ {
    word.split('$').skip(1).map(|rest| {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        format!("${name}")
    })
}

/// What variables may hold.
struct Variables {
    /// Those that may name what is passed to.
    ours: HashSet<String>,
    /// Those that hold one of certain words, none of which is a variable.
    known: HashSet<String>,
}

impl Variables {
    fn of(main: &[Placed<'_>], passes_to: &str) -> Self {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        gather(main, &mut values);
        let known = |words: &Vec<String>| words.iter().all(|word| !word.contains('$'));
        let known = values.iter().filter(|(_, words)| known(words)).map(|(name, _)| name.clone()).collect();
        let mut ours = HashSet::new();
        if passes_to.starts_with('$') {
            ours.insert(passes_to.to_owned());
        }
        loop {
            let names = |word: &String| {
                host(word).eq_ignore_ascii_case(passes_to)
                    || variables_in(word).any(|name| ours.contains(&name))
            };
            let more: Vec<String> = values
                .iter()
                .filter(|(name, words)| !ours.contains(*name) && words.iter().any(names))
                .map(|(name, _)| name.clone())
                .collect();
            if more.is_empty() {
                return Self { ours, known };
            }
            ours.extend(more);
        }
    }
}

/// Which words each variable may be given, anywhere.
fn gather(placed: &[Placed<'_>], values: &mut HashMap<String, Vec<String>>) {
    for Placed { directive, block, .. } in placed {
        let words = &directive.words;
        match (directive.name(), words.as_slice()) {
            ("set", [_, name, value]) => values.entry(name.clone()).or_default().push(value.clone()),
            ("map" | "split_clients" | "geo", [_, .., name]) => {
                let last = block.iter().filter_map(|entry| entry.directive.words.last());
                values.entry(name.clone()).or_default().extend(last.cloned());
            }
            _ => {}
        }
        gather(block, values);
    }
}

/// The caches in force at a place, by their family: where they are said, and their key.
#[derive(Clone, Default)]
struct Caches {
    of: HashMap<&'static str, (Option<String>, String)>,
}

/// Which directive passes requests on, and how the ones about its cache begin.
const PASSES: [(&str, &str); 6] = [
    ("proxy_pass", "proxy"),
    ("fastcgi_pass", "fastcgi"),
    ("uwsgi_pass", "uwsgi"),
    ("scgi_pass", "scgi"),
    ("grpc_pass", "grpc"),
    ("memcached_pass", "memcached"),
];

impl Caches {
    /// What holds within a block: its own, or else what is around it.
    fn within<'a>(&self, block: impl Iterator<Item = &'a Placed<'a>>) -> Self {
        let mut inner = self.clone();
        for placed in block {
            let name = placed.directive.name();
            for (_, family) in PASSES {
                let Some(rest) = name.strip_prefix(family) else { continue };
                let own = inner.of.entry(family).or_default();
                match rest {
                    "_cache" if placed.directive.argument() == "off" => own.0 = None,
                    "_cache" => own.0 = Some(placed.place()),
                    "_cache_key" => placed.directive.argument().clone_into(&mut own.1),
                    _ => {}
                }
            }
        }
        inner
    }
}

/// What was met on the way through the configuration.
#[derive(Default)]
struct Seen {
    /// Something passes to the upstream.
    used: bool,
    /// Something passes to what cannot be told.
    perhaps: bool,
    /// The first cache in front of it: where it is said.
    cached: Option<String>,
}

impl Seen {
    fn misfit(self, question: &Question<'_>) -> Option<Misfit> {
        let to = question.passes_to;
        if !self.used && !self.perhaps {
            let what = if to.starts_with('$') {
                format!("no `proxy_pass` takes its upstream from `{to}`")
            } else {
                format!("no `proxy_pass`, `grpc_pass` or the like passes requests to the upstream `{to}`")
            };
            let help = format!(
                "say `proxy_pass http://{to};` in the location that serves users (or grpc_pass, uwsgi_pass …)"
            );
            return Some(Misfit { place: None, why: what, help });
        }
        let place = self.cached.filter(|_| !question.cache_allowed)?;
        Some(Misfit {
            place: Some(place),
            why: format!("a cache answers requests in front of `{to}`, in the place of both sides: users of one side are given answers of the other"),
            help: "turn it off for this location, put the variable that names the side into its key (with `apart: true` or a `split` by user or match), or say `cache: allowed` in `with`: then the split holds for what the cache does not answer".into(),
        })
    }
}

fn visit(
    placed: &Placed<'_>,
    caches: &Caches,
    variables: &Variables,
    question: &Question<'_>,
    seen: &mut Seen,
) {
    let directive = placed.directive;
    if let Some((_, family)) = PASSES.iter().find(|(name, _)| *name == directive.name()) {
        let target = directive.argument();
        let names: Vec<String> = variables_in(target).collect();
        if host(target).eq_ignore_ascii_case(question.passes_to)
            || names.iter().any(|name| variables.ours.contains(name))
        {
            seen.used = true;
            if let Some((Some(place), key)) = caches.of.get(family) {
                // A key that names the side keeps an answer for each. Without a key of its own `proxy_cache` has
                // `$scheme$proxy_host$request_uri`, and `$proxy_host` is then the upstream's name.
                let key = if key.is_empty() && *family == "proxy" { "$proxy_host" } else { key };
                let names_the_side = |name: String| name == "$proxy_host" || variables.ours.contains(&name);
                let told_apart = question.passes_to.starts_with('$') && variables_in(key).any(names_the_side);
                if !told_apart {
                    seen.cached.get_or_insert(place.clone());
                }
            }
        } else if names.iter().any(|name| !variables.known.contains(name)) {
            seen.perhaps = true;
        }
    }
    let inner = caches.within(placed.block.iter());
    for child in &placed.block {
        visit(child, &inner, variables, question, seen);
    }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
