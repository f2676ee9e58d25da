//! Keeps secrets out of everything that leaves the program.
//!
//! What is a secret is known by where it came from: the variable of the environment, of a `--set` or of the plan's list
//! `secret` whose name says so ([`names_a_secret`]), the password, the token or a parameter of a URL, a header that
//! authorizes, the passphrase of a store. All of the environment is looked at, for hooks and commands inherit it and may
//! print what the plan never names.
//!
//! It is hidden in every form that programs print it in (`redact::forms`), in free text alone: what a document's readers go by
//! (`redact::structure`) stays as it is, also where a secret is the same word.
//!
//! How much is hidden depends on how long a secret is, so that a password such as `pass` does not blacken every text:
//!
//! | characters | hidden |
//! | --- | --- |
//! | 8 and more; 4 to 7 with digits and letters, or with signs | wherever they stand |
//! | 4 to 7 letters, or 4 to 7 digits; 1 to 3 with a letter or a sign | where they stand as a word |
//! | 1 to 3 digits | where they stand as a value: alone on a line, in quotes, after `=`, before `@` |
//!
//! `true`, `off`, `none`, `1` and the like are switches, whatever the variable is called.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};

use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, Anchored};
use regex::{Captures, Regex};

mod forms;
mod names;
mod structure;

pub use forms::is_unseen;
pub use structure::redact_json;

const HIDDEN: &str = "***";

static KNOWN: LazyLock<RwLock<Arc<Known>>> = LazyLock::new(RwLock::default);

/// Variables that the plan calls secret, whatever their names say.
static MARKED: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// A user and a password in a URL, or what stands alone there.
static URL_USER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/:@?#'\x22<>]*)(?::(?P<secret>[^\s/@]*(?:@[^\s/@]*)*))?@").ok()
});

/// A parameter of a URL.
static PARAMETER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?:[?&;#]|&amp;)(?P<name>[A-Za-z0-9_.\[\]-]+)=(?P<secret>[^&?\s#\x22'<>;`\p{Cc}]+)").ok()
});

/// `name=value`, as connection strings and shells write it.
static SETTING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)(?P<gap>\s*)=(?P<more>\s*)(?P<secret>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s&;,'"`]+)"#).ok()
});

/// `name: value`, as a plan is written.
static ENTRY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"["']?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)["']?\s*:\s+(?P<secret>'[^']*'|"(?:[^"\\]|\\.)*"|[^\s,}\]\[{#][^\s,}\]#]*)"#).ok()
});

/// What authorizes in a header.
static SCHEME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?P<scheme>bearer|basic|token)\s+(?P<secret>[A-Za-z0-9._~+/=-]{8,})").ok()
});

/// How a secret is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// Wherever it stands.
    Anywhere,
    /// As a word of its own.
    Word,
    /// As a value of its own.
    Value,
}

impl Care {
    fn of(secret: &str) -> Self {
        let length = secret.chars().count();
        let word = secret.chars().all(char::is_alphabetic) || secret.bytes().all(|b| b.is_ascii_digit());
        match length {
            8.. => Self::Anywhere,
            4.. if !word => Self::Anywhere,
            1..4 if secret.bytes().all(|b| b.is_ascii_digit()) => Self::Value,
            _ => Self::Word,
        }
    }

    /// Whether a secret of that kind is hidden where it stands.
    fn counts(self, text: &str, part: &Range<usize>) -> bool {
        let before = text[..part.start].chars().next_back();
        let after = text[part.end..].chars().next();
        match self {
            Self::Anywhere => true,
            Self::Word => ![before, after].into_iter().flatten().any(char::is_alphanumeric),
            Self::Value => {
                let quote = |c: char| "\"'`".contains(c);
                let begins = before.is_none_or(|c| c == '=' || c == '\n' || quote(c))
                    || (before == Some(':') && after == Some('@'));
                let ends = after.is_none_or(|c| quote(c) || "\r\n&@;,".contains(c))
                    || (before == Some('=') && after == Some(' '));
                begins && ends
            }
        }
    }
}

/// The secrets that are known.
#[derive(Debug, Default)]
struct Known {
    values: Vec<(String, Care)>,
    search: OnceLock<Search>,
}

/// What looks for the beginnings of all secrets at once, each with the places of its patterns among the values.
#[derive(Debug, Default)]
struct Search {
    /// Those that are hidden wherever they stand.
    anywhere: Option<(NFA, Vec<usize>)>,
    /// The others: short ones, so that few of them end in one place.
    others: Option<(AhoCorasick, Vec<usize>)>,
}

/// What was found last, so that what lies inside of it is not looked at again.
#[derive(Default)]
struct Hidden(Range<usize>);

impl Known {
    /// The same with another one; none where it is known already.
    fn with(&self, secrets: &[Cow<'_, str>]) -> Option<Self> {
        let mut values = self.values.clone();
        for secret in secrets {
            if !secret.is_empty() && !values.iter().any(|(known, _)| known == secret.as_ref()) {
                values.push((secret.clone().into_owned(), Care::of(secret)));
            }
        }
        (values.len() > self.values.len()).then(|| Self { values, search: OnceLock::new() })
    }

    fn search(&self) -> &Search {
        let of = |anywhere: bool| -> Vec<usize> {
            let is = |care: Care| (care == Care::Anywhere) == anywhere;
            self.values
                .iter()
                .enumerate()
                .filter(|(_, (_, care))| is(*care))
                .map(|(number, _)| number)
                .collect()
        };
        let beginnings = |numbers: &[usize]| -> Vec<&str> {
            numbers.iter().map(|number| beginning(&self.values[*number].0)).collect()
        };
        self.search.get_or_init(|| {
            let (anywhere, others) = (of(true), of(false));
            let mut builder = AhoCorasickBuilder::new();
            let short = builder.kind(Some(AhoCorasickKind::ContiguousNFA)).build(beginnings(&others)).ok();
            let long = NFA::new(beginnings(&anywhere)).ok();
            Search {
                anywhere: long.filter(|_| !anywhere.is_empty()).map(|search| (search, anywhere)),
                others: short.filter(|_| !others.is_empty()).map(|search| (search, others)),
            }
        })
    }

    /// Where secrets stand in a text, as they are.
    ///
    /// The work is linear in the text, however many secrets lie in one another: where several end in one place, the
    /// longest covers the others.
    fn places(&self, text: &str, found: &mut dyn FnMut(Range<usize>)) {
        if self.values.is_empty() {
            return;
        }
        let search = self.search();
        if let Some((search, numbers)) = &search.anywhere
            && let Ok(mut state) = search.start_state(Anchored::No)
        {
            let mut hidden = Hidden::default();
            for (at, byte) in text.bytes().enumerate() {
                state = search.next_state(Anchored::No, state, byte);
                if !search.is_match(state) {
                    continue;
                }
                for nth in 0..search.match_len(state) {
                    let pattern = search.match_pattern(state, nth);
                    let length = search.pattern_len(pattern);
                    // Of several that are known by their beginnings alone, a shorter beginning may go on longer.
                    if nth > 0 && length < CUT {
                        break;
                    }
                    let value = &self.values[numbers[pattern.as_usize()]];
                    hidden.look(text, at + 1 - length..at + 1, value, found);
                }
            }
        }
        if let Some((search, numbers)) = &search.others {
            let mut hidden = Hidden::default();
            for place in search.find_overlapping_iter(text) {
                hidden.look(text, place.range(), &self.values[numbers[place.pattern().as_usize()]], found);
            }
        }
    }

    /// The same in base64: the whole piece.
    fn coded(&self, text: &str, found: &mut dyn FnMut(Range<usize>)) {
        for (piece, said) in forms::base64(text) {
            if forms::readings(&said).iter().any(|said| self.is_told_in(said, DEEPEST)) {
                found(piece);
            }
        }
    }

    /// Whether what was read out of base64 has a secret in it, as it is, written in another way, or in base64 once more,
    /// as Docker's configuration in a secret of Kubernetes has it.
    fn is_told_in(&self, said: &str, deep: usize) -> bool {
        let readable = !said.contains(|c: char| c == '\u{fffd}' || (c.is_control() && !c.is_whitespace()));
        let mut inside = false;
        self.places(said, &mut |place| inside |= readable || place.len() >= 4);
        // What is no text has nothing written in it.
        if inside || !readable {
            return inside;
        }
        for view in forms::NESTED.iter().filter_map(|way| way.undo(said)) {
            self.places(&view.text, &mut |_| inside = true);
        }
        let deeper = |said: &str| {
            forms::base64(said)
                .any(|(_, said)| forms::readings(&said).iter().any(|said| self.is_told_in(said, deep - 1)))
        };
        inside || (deep > 0 && deeper(said))
    }

    /// Where secrets stand in a text, in any form.
    fn forms(&self, text: &str) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        if self.values.is_empty() {
            return ranges;
        }
        let look = |text: &str, found: &mut dyn FnMut(Range<usize>)| {
            self.places(text, found);
            self.coded(text, found);
        };
        look(text, &mut |place| ranges.push(place));
        for (way, nested) in
            forms::NESTED.iter().map(|way| (way, true)).chain(forms::PLAIN.iter().map(|w| (w, false)))
        {
            let Some(view) = way.undo(text) else { continue };
            look(&view.text, &mut |place| ranges.push(view.back(&place)));
            if !nested {
                continue;
            }
            for inner in forms::NESTED {
                let Some(deeper) = inner.undo(&view.text) else { continue };
                look(&deeper.text, &mut |place| ranges.push(view.back(&deeper.back(&place))));
            }
        }
        ranges
    }

    /// The text without secrets, and without what is one by its shape.
    fn redact(&self, text: &str) -> String {
        let mut ranges = self.forms(text);
        if !ranges.is_empty() {
            let commands = commands_in(text);
            ranges.retain(|range| !commands.iter().any(|c| c.start <= range.start && range.end <= c.end));
        }
        ranges.extend(shapes(text));
        hide(text, ranges)
    }

    /// The same of a command, in which words stay that are open.
    fn redact_command(&self, text: &str, open: &dyn Fn(&str) -> bool) -> String {
        let mut ranges = self.forms(text);
        let stay: Vec<Range<usize>> = words_of(text)
            .filter(|word| {
                let word = &text[word.clone()];
                open(word) || OWN_WORDS.contains(&word.to_ascii_lowercase().as_str())
            })
            .collect();
        ranges.retain(|range| !stay.iter().any(|word| word.start <= range.start && range.end <= word.end));
        ranges.extend(shapes(text));
        hide(text, ranges)
    }
}

/// How often base64 may lie in base64.
const DEEPEST: usize = 3;

impl Hidden {
    /// Tells of a place where a secret stands, or begins.
    fn look(
        &mut self,
        text: &str,
        mut range: Range<usize>,
        (value, care): &(String, Care),
        found: &mut dyn FnMut(Range<usize>),
    ) {
        let hidden = &self.0;
        // Of two that begin alike the longer one may go on behind what is hidden already.
        let goes_on = range.start == hidden.start && range.start + value.len() > hidden.end;
        if hidden.start <= range.start && range.end <= hidden.end && !goes_on {
            return;
        }
        if value.len() > range.len() {
            // As much of a long one as stands there: it may have been cut off.
            let rest = value.as_bytes()[range.len()..].iter().zip(&text.as_bytes()[range.end..]);
            let end = range.end + rest.take_while(|(a, b)| a == b).count();
            range.end = (range.end..=end).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(range.end);
        }
        if care.counts(text, &range) {
            found(range.clone());
            self.0 = range;
        }
    }
}

/// How much is looked for of a secret.
const ENOUGH: usize = 512;

/// A beginning of this length may be one that was cut, between two characters.
const CUT: usize = ENOUGH - 3;

/// What is looked for of a secret: of one that is a whole file its beginning, for it may be very long.
fn beginning(value: &str) -> &str {
    let end = (0..=ENOUGH.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
    &value[..end.unwrap_or(0)]
}

/// The text with `***` in the place of these parts.
fn hide(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    if ranges.is_empty() {
        return text.to_owned();
    }
    ranges.sort_by_key(|range| range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut last: Option<usize> = None;
    for range in ranges {
        if range.is_empty() || range.end <= done {
            continue;
        }
        // What overlaps or follows at once is hidden with it.
        if last != Some(range.start) && range.start >= done {
            out.push_str(&text[done..range.start]);
            out.push_str(HIDDEN);
        }
        done = range.end;
        last = Some(done);
    }
    out.push_str(&text[done..]);
    out
}

/// What is a secret by where it stands in a text: in a URL, in a connection string, after `Bearer`.
fn shapes(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    each_shape(text, &mut |place, _| ranges.push(place));
    ranges
}

/// What a shape says of what stands in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sure {
    /// It is a secret.
    Yes,
    /// It may be a plain name, and is hidden in its place alone.
    Here,
}

fn each_shape(text: &str, found: &mut dyn FnMut(Range<usize>, Sure)) {
    let secret = |captures: &Captures<'_>| captures.name("secret").map_or(0..0, |m| m.range());
    if text.contains("://")
        && let Some(pattern) = &*URL_USER
    {
        for captures in pattern.captures_iter(text) {
            let password = captures.name("secret").map_or("", |m| m.as_str());
            if !password.is_empty() {
                found(secret(&captures), Sure::Yes);
            }
            // A token stands alone, or before a password that says nothing; elsewhere it is the name of a user.
            let web = matches!(captures["scheme"].to_ascii_lowercase().as_str(), "http" | "https");
            let user = captures.name("user").map_or(0..0, |m| m.range());
            if web && !user.is_empty() && matches!(password, "" | "x-oauth-basic") {
                let token = user.len() >= 16
                    || (user.len() >= 8 && text[user.clone()].contains(|c: char| c.is_ascii_digit()));
                found(user, if token { Sure::Yes } else { Sure::Here });
            }
        }
    }
    if !text.contains('=') && !text.contains(' ') {
        return;
    }
    if let Some(pattern) = &*PARAMETER {
        for captures in pattern.captures_iter(text) {
            let name = &captures["name"];
            let small = name.to_ascii_lowercase();
            if names::holds_a_secret(name) || names::holds_a_secret(&small) || small == "sig" {
                found(secret(&captures), Sure::Yes);
            }
        }
    }
    if let Some(pattern) = &*SETTING {
        for captures in pattern.captures_iter(text) {
            let (name, value) = (&captures["name"], &captures["secret"]);
            let name = name.rsplit('.').next().unwrap_or(name);
            let apart = !captures["gap"].is_empty() || !captures["more"].is_empty();
            let password = name.to_ascii_lowercase().ends_with("password");
            // Words of prose, and what only names the value.
            let generic = is_generic(name);
            let named = value.starts_with(['$', '…', '{', '<', '%', '(', '=', '>']);
            if names::holds_a_secret(name) && !generic && !named && (password || !apart) && !is_switch(value)
            {
                let mut range = secret(&captures);
                if value.len() >= 2 && value.starts_with(['\'', '"']) && !password {
                    range = range.start + 1..range.end - 1;
                }
                found(range, Sure::Yes);
            }
        }
    }
    if let Some(pattern) = &*SCHEME {
        for captures in pattern.captures_iter(text) {
            let value = &captures["secret"];
            let odd = value.contains(|c: char| c.is_ascii_digit() || c == '=') || value.len() >= 24;
            if odd {
                found(secret(&captures), Sure::Yes);
            }
        }
    }
}

/// Whether a value switches something on or off, and so says nothing that others must not know.
fn is_switch(value: &str) -> bool {
    const SWITCHES: [&str; 16] = [
        "true", "false", "yes", "no", "on", "off", "enabled", "disabled", "none", "null", "auto", "required",
        "optional", "default", "0", "1",
    ];
    let value = value.trim();
    SWITCHES.iter().any(|switch| value.eq_ignore_ascii_case(switch))
}

/// Remembers a value that must never be shown, of whatever length.
pub fn learn(secret: &str) {
    let secret = secret.trim();
    if secret.is_empty() || secret == HIDDEN {
        return;
    }
    let mut all = vec![Cow::Borrowed(secret)];
    all.extend(forms::spellings(secret));
    if secret.contains('\n') {
        // A key or a file of several lines is printed line by line.
        let lines = secret
            .lines()
            .map(str::trim)
            .filter(|line| line.chars().count() >= 8 && !line.starts_with("-----"));
        all.extend(lines.map(Cow::Borrowed));
    }
    all.extend(inside_json(secret).into_iter().map(Cow::Owned));
    let known = Arc::clone(&KNOWN.read().unwrap_or_else(PoisonError::into_inner));
    if known.with(&all).is_none() {
        return;
    }
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(more) = known.with(&all) {
        *known = Arc::new(more);
    }
}

/// The secrets of a document in JSON, such as the key file of a service account.
fn inside_json(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with(['{', '[']) {
        return found;
    }
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return found };
    let mut left = vec![(String::new(), &value)];
    while let Some((name, value)) = left.pop() {
        match value {
            serde_json::Value::String(text) if names::holds_a_secret(&name) => {
                found.extend(
                    text.lines().map(str::trim).filter(|l| l.chars().count() >= 8).map(str::to_owned),
                );
                found.push(text.trim().to_owned());
                // `auth` of Docker's configuration is `user:password`.
                let pair = forms::base64(text)
                    .filter_map(|(_, said)| String::from_utf8(said).ok())
                    .find(|said| said.contains(':'));
                found.extend(
                    pair.and_then(|said| said.split_once(':').map(|(_, password)| password.to_owned())),
                );
            }
            serde_json::Value::Array(items) => left.extend(items.iter().map(|item| (name.clone(), item))),
            serde_json::Value::Object(entries) => {
                left.extend(entries.iter().map(|(name, item)| (name.clone(), item)));
            }
            _ => {}
        }
    }
    found
}

/// The largest file whose content is taken for a secret, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Remembers what is secret in the environment of this process. Where a variable has the path of a file, as GitLab and Docker
/// hand secrets over, the secret is what stands in it.
pub fn learn_environment() {
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        // What is no text is read in the same way where it is printed.
        let value: &str = &value.to_string_lossy();
        let of_a_file = names::is_the_file_of_a_secret(name);
        if (names_a_secret(name) || of_a_file) && std::fs::metadata(value).is_ok() {
            // Neither a pipe nor what is too large to be one.
            let found = crate::bounds::text(std::path::Path::new(value), MAX_FILE);
            learn(&found.unwrap_or_default());
        } else {
            learn_variable(name, value);
        }
    }
}

/// Remembers a text that stands in a plan itself under a key such as `password`.
pub fn learn_literal(key: &str, text: &str) {
    if names::holds_a_secret(key)
        && !is_generic(key)
        && !key.eq_ignore_ascii_case("cookie")
        && !is_switch(text)
    {
        learn(text);
    }
}

/// Words that are names of other things as well.
fn is_generic(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "key" | "keys" | "pin" | "auth" | "pass" | "private")
}

/// Remembers what is secret in the variable `name`: all of it when its name says so or the plan does, otherwise what is
/// secret in a URL or in a connection string.
pub fn learn_variable(name: &str, value: &str) {
    if is_marked(name) || (names::holds_a_secret(name) && !is_switch(value)) {
        learn(value);
        // `Bearer abc` is shown as neither.
        if let Some((scheme, rest)) = value.trim().split_once(' ')
            && ["bearer", "basic", "token"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
        {
            learn(rest);
        }
    }
    each_shape(value, &mut |place, sure| {
        if sure == Sure::Yes {
            learn_part(&value[place]);
        }
    });
    // A password with a slash that should have been written `%2F`.
    if let Some((_, rest)) =
        value.trim().split_once("://").filter(|_| !value.trim().contains(char::is_whitespace))
        && let Some((login, _)) = rest.rsplit_once('@')
        && let Some((user, password)) = login.split_once(':')
        && !user.contains('/')
        && password.split('/').next().is_some_and(|port| port.is_empty() || port.parse::<u16>().is_err())
    {
        learn_part(password);
    }
}

/// A part of a URL or of a connection string: servers and drivers speak of it as it is, not as it is written there.
fn learn_part(text: &str) {
    let text = text.trim_matches(['\'', '"']);
    if text.is_empty() || is_switch(text) {
        return;
    }
    learn(text);
    learn(&decoded(text));
}

/// A line of a plan, for an error that shows it: what stands in it under a key such as `password` is hidden as well. Returns
/// the column, from 1, where the one that was given stands then.
pub fn source_line(line: &str, column: usize) -> (String, usize) {
    let mut ranges = shapes(line);
    ranges.extend(Arc::clone(&KNOWN.read().unwrap_or_else(PoisonError::into_inner)).forms(line));
    if let Some(pattern) = &*ENTRY {
        for captures in pattern.captures_iter(line) {
            let (name, value) = (&captures["name"], &captures["secret"]);
            let named =
                value.trim_start_matches(['"', '\'']).starts_with(['$', '[', '{', '&', '*', '!', '|', '>']);
            if names::holds_a_secret(name) && !is_generic(name) && !named && !is_switch(value) {
                ranges.push(captures.name("secret").map_or(0..0, |m| m.range()));
            }
        }
    }
    let at = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    // Where the column is inside of what is hidden, the beginning of that is meant.
    let at = ranges
        .iter()
        .filter(|range| range.start < at && at < range.end)
        .map(|range| range.start)
        .min()
        .unwrap_or(at);
    let before = hide(&line[..at], ranges.iter().filter(|range| range.end <= at).cloned().collect());
    let after = ranges.iter().filter(|range| range.start >= at).map(|range| range.start - at..range.end - at);
    (format!("{before}{}", hide(&line[at..], after.collect())), before.chars().count() + 1)
}

/// Remembers that the plan calls these variables secret.
pub fn mark(names: impl IntoIterator<Item = String>) {
    MARKED.write().unwrap_or_else(PoisonError::into_inner).extend(names);
}

fn is_marked(name: &str) -> bool {
    MARKED.read().unwrap_or_else(PoisonError::into_inner).contains(name)
}

/// Whether a variable of that name holds a secret: by its name, or because the plan says so.
pub fn names_a_secret(name: &str) -> bool {
    names::holds_a_secret(name) || is_marked(name)
}

/// Whether the value of a variable must not be written down: its name says so, it has a password in it, or it holds
/// what is known as a secret and is no ordinary word.
pub fn is_secret(name: &str, value: &str) -> bool {
    (names_a_secret(name) && (is_marked(name) || !is_switch(value))) || holds_a_secret(value)
}

/// Whether a text has a secret in it that is there by no accident: a short one, or one that is a word, may as well be
/// the name of something.
pub fn holds_a_secret(text: &str) -> bool {
    if has_credentials(text) {
        return true;
    }
    let known = Arc::clone(&KNOWN.read().unwrap_or_else(PoisonError::into_inner));
    let telling =
        |value: &str| value.chars().count() >= 8 && !value.chars().all(|c| c.is_alphabetic() || c == '-');
    known.forms(text).into_iter().any(|place| telling(&text[place]))
}

/// Whether a text has a password, a token or the like in it, by its shape alone.
pub fn has_credentials(text: &str) -> bool {
    let mut has = false;
    each_shape(text, &mut |_, sure| has |= sure == Sure::Yes);
    has
}

/// The text with `%40` and the like read as what they stand for.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%')
        {
            bytes.push(byte);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text without any known secret, in whatever form, and without passwords and tokens in URLs.
pub fn redact(text: &str) -> String {
    let known = Arc::clone(&KNOWN.read().unwrap_or_else(PoisonError::into_inner));
    known.redact(text)
}

/// Words that the plan itself writes openly: names of backends and servers, hosts, paths.
static OPEN: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Commands that people are given to go a way by hand, as they are shown.
static COMMANDS: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Words of the commands that Trapkey itself makes, whatever is put into them.
const OWN_WORDS: [&str; 40] = [
    "set",
    "server",
    "weight",
    "state",
    "maint",
    "ready",
    "drain",
    "show",
    "servers",
    "backend",
    "map",
    "echo",
    "socat",
    "curl",
    "nginx",
    "reload",
    "printf",
    "cat",
    "mv",
    "kill",
    "sh",
    "sudo",
    "http",
    "https",
    "json",
    "application",
    "content-type",
    "stdio",
    "unix-connect",
    "docker",
    "exec",
    "promote",
    "verify",
    "report",
    "snapshot",
    "preflight",
    "abort",
    "step",
    "status",
    "release.yaml",
];

/// Remembers the words that a plan writes openly in what commands are made of. What is secret there is none of them.
pub fn learn_open(key: &str, text: &str) {
    if names::holds_a_secret(key) {
        return;
    }
    let plain = hide(text, shapes(text));
    let mut open = OPEN.write().unwrap_or_else(PoisonError::into_inner);
    open.extend(words_of(&plain).map(|word| plain[word].to_owned()));
}

/// The same of a text that is no plan's: of its words those that are ordinary ones. Others may be secrets that somebody put
/// into a path.
pub fn learn_ordinary(text: &str) {
    let plain = hide(text, shapes(text));
    let ordinary = |word: &&str| {
        word.chars().count() < 8 || word.chars().all(|c| c.is_alphabetic() || "-_.".contains(c))
    };
    let mut open = OPEN.write().unwrap_or_else(PoisonError::into_inner);
    open.extend(words_of(&plain).map(|word| &plain[word]).filter(ordinary).map(str::to_owned));
}

/// A command for people: secrets are left out, and words stay that the plan itself writes openly or that are ours, also
/// where somebody's password is the same word. It can be run as it stands, and shows no more than the plan does. What
/// is a secret by its place, such as a password in a URL, is left out in any case.
pub fn redact_command(text: &str) -> String {
    let known = Arc::clone(&KNOWN.read().unwrap_or_else(PoisonError::into_inner));
    let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
    known.redact_command(text, &|word| open.contains(word))
}

/// Remembers a command for people, so that it comes out in the same way in whatever text it stands. Gives it as it is
/// shown.
pub fn say_command(text: &str) -> String {
    let shown = redact_command(text);
    if shown != redact(text) {
        COMMANDS.write().unwrap_or_else(PoisonError::into_inner).extend(shown.lines().map(str::to_owned));
    }
    shown
}

/// Where commands for people stand in a text.
fn commands_in(text: &str) -> Vec<Range<usize>> {
    let commands = COMMANDS.read().unwrap_or_else(PoisonError::into_inner);
    let places = |command: &String| {
        let length = command.len();
        text.match_indices(command.as_str()).map(|(at, _)| at..at + length).collect::<Vec<_>>()
    };
    commands.iter().filter(|command| !command.is_empty()).flat_map(places).collect()
}

/// The words of a text: names, hosts and the parts of paths.
fn words_of(text: &str) -> impl Iterator<Item = Range<usize>> {
    let is_part = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_part)?;
        let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |length| start + length);
        at = end;
        Some(start..end)
    })
}

/// The same of a text that was cut off at its end: half a secret is no longer known as one, so the last word goes, and
/// whatever could be the beginning of one.
pub fn redact_cut(text: &str) -> String {
    let known = Arc::clone(&KNOWN.read().unwrap_or_else(PoisonError::into_inner));
    let whole = known.redact(text);
    // Without a blank nobody knows where a word begins.
    let mut kept = whole.trim_end_matches(|c: char| !c.is_whitespace());
    for (value, _) in known.values.iter().filter(|(value, _)| value.contains(char::is_whitespace)) {
        let beginnings = value.char_indices().map(|(at, _)| &value[..at]).skip(1);
        let begun = beginnings.filter(|beginning| kept.ends_with(beginning)).last();
        kept = begun.map_or(kept, |begun| &kept[..kept.len() - begun.len()]);
    }
    kept.to_owned()
}

#[cfg(test)]
mod tests;
