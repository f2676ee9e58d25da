//! YAML with places: every value knows its line and column, scalars keep their text until a type
//! is asked for, and `${NAME}` is filled in on the way.
//!
//! Why not a ready deserializer: kinds read their own `with` block long after the plan was parsed,
//! `version: 1.10` must stay `1.10`, `NO` must stay `NO`, and an error must show its line all the same.

use std::collections::{HashMap, HashSet};
use std::fmt;

use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use crate::fault::Fault;

/// The largest plan in bytes that is read at all.
pub const MAX_BYTES: u64 = 1024 * 1024;
const MAX_NODES: usize = 50_000;
const MAX_DEPTH: usize = 64;

/// The name under which [`crate::units::Text`] asks for a value together with its source text.
pub(crate) const TEXT_TOKEN: &str = "$trapkey::Text";
/// The name under which a field asks for the bare [`Node`].
const NODE_TOKEN: &str = "$trapkey::Node";
/// A text whose variables are handed over beside it: see [`parted`].
const PARTED_TOKEN: &str = "$trapkey::Parted";

/// A position in the plan, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A value of the plan and where it stands.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// What a [`Node`] is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A scalar as it was written; `plain` when it had no quotes.
    Scalar {
        /// The text without quotes, variables not yet filled in.
        text: String,
        /// Whether it stood without quotes, so that `5` may be a number.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in their order.
    Mapping(Vec<(Node, Node)>),
}

impl Default for Value {
    fn default() -> Self {
        Self::Scalar { text: String::new(), plain: true }
    }
}

/// What is wrong with a plan, and where.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Where, once it is known.
    pub place: Option<Place>,
    /// What was found and what was expected.
    pub message: String,
    /// The next step, where one can be named.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at a place.
    pub fn at(place: Place, message: impl Into<String>) -> Self {
        Self { place: Some(place), message: message.into(), help: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn or_at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// The error as the user sees it: file, line, column, the line itself and a caret.
    pub fn into_fault(self, path: &str, source: &str) -> Fault {
        let mut fault = Fault::usage("the plan does not validate").cause(&self.message);
        fault.place = Some(match self.place {
            Some(place) => format!("{path}:{}:{}{}", place.line, place.column, excerpt(source, place)),
            None => path.to_owned(),
        });
        fault.help = self.help;
        fault
    }
}

fn excerpt(source: &str, place: Place) -> String {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let Some(line) = source.lines().nth(place.line.saturating_sub(1)) else { return String::new() };
    let number = place.line.to_string();
    let gap = " ".repeat(number.len());
    // What is hidden is hidden before anything is cut off.
    let (line, column) = crate::redact::source_line(line, place.column);
    // A window around the caret, so that a line of a megabyte does not drown the message.
    let start = column.saturating_sub(60);
    let shown: String = line.chars().skip(start).take(110).collect();
    let caret = " ".repeat(column.saturating_sub(1).saturating_sub(start));
    format!("\n{number} | {shown}\n{gap} | {caret}^")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { place: None, message: message.to_string(), help: None }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        unknown("key", field, expected.iter().copied())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        unknown("value", variant, expected.iter().copied())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("the key `{field}` is missing here"))
    }
}

/// An unknown name, with the nearest known one and the list of all.
pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Problem {
    let known: Vec<&str> = known.collect();
    let nearest = known
        .iter()
        // `HTTP` means `http`.
        .map(|k| (strsim::damerau_levenshtein(&k.to_lowercase(), &name.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
        .min_by_key(|(distance, _)| *distance);
    let message = format!("unknown {what} `{name}`");
    let list = known.join(", ");
    let help = match nearest {
        Some((_, k)) => format!("did you mean `{k}`? known here: {list}"),
        None => format!("known here: {list}"),
    };
    Problem { place: None, message, help: Some(help) }
}

/// Parses a plan into a tree. Merge keys (`<<`) are filled in, a byte order mark is left out.
///
/// Errors: syntax, a key given twice, a key with a variable, a tag other than YAML's own (an unquoted `!= 0` is
/// one), `>5` (a block of text), more than one document, more than 64 levels, or more than 50,000 values after
/// aliases are expanded (a "YAML bomb").
pub fn parse(text: &str) -> Result<Node, Problem> {
    read_document(text, true)
}

/// The same for a file of another program, whose tags and keys are its own.
///
/// Errors: as for [`parse`], but for tags, `>5` and variables in keys.
pub fn parse_foreign(text: &str) -> Result<Node, Problem> {
    read_document(text, false)
}

fn read_document(text: &str, plan: bool) -> Result<Node, Problem> {
    let options = {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options
    };
    // PowerShell and editors on Windows put it in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { text: plan.then_some(text), ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| not_yaml(text, &e))?;
        builder.take(event, place(span.start))?;
    }
    builder.root.ok_or_else(|| Problem::at(Place { line: 1, column: 1 }, "the file is empty"))
}

fn not_yaml(text: &str, error: &granit_parser::ScanError) -> Problem {
    let at = place(*error.marker());
    let problem = Problem::at(at, format!("not YAML: {}", error.info()));
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or("");
    if line.contains("${") && line.contains(['{', '[']) {
        return problem.help("inside `{ … }` and `[ … ]` a variable needs quotes: \"${NAME}\"");
    }
    match sign_in(line) {
        Some(sign) => problem.help(format!(
            "a value that begins with `{}` needs quotes: \"{sign}\"",
            sign.chars().next().unwrap_or('>')
        )),
        None => problem,
    }
}

/// The value of a line that begins with a sign to which YAML gives a meaning of its own: `> 5` in `size: > 5`.
fn sign_in(line: &str) -> Option<String> {
    // From `: > 5, b: 1}` what stands before the comma.
    let mut after = line.split_once(": ").or_else(|| line.split_once("- "))?.1;
    loop {
        let value = after.trim_start();
        if value.starts_with(['>', '|', '!', '%', '@', '`', '*', '&']) {
            let value = value.split([',', '}', ']']).next().unwrap_or(value).trim_end();
            return Some(value.replace('\\', "\\\\").replace('"', "\\\""));
        }
        after = after.split_once(": ")?.1;
    }
}

fn place(mark: granit_parser::Marker) -> Place {
    Place { line: mark.line(), column: mark.col() + 1 }
}

#[derive(Default)]
struct Builder<'t> {
    /// The plan's text; none for what another program has written.
    text: Option<&'t str>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

struct Open {
    place: Place,
    anchor: usize,
    nodes_before: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>, Option<Node>),
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Problem::at(place, "a second document begins here, a plan is one document"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let plain = match self.own_tag(tag.as_deref(), place)? {
                    Some(tag) => scalar_as(&tag, &text, place)?,
                    None => plain,
                };
                match style {
                    ScalarStyle::Folded => self.no_comparison(&text, place)?,
                    ScalarStyle::Literal if self.text.is_some() && text.trim().is_empty() => {
                        return Err(Problem::at(place, "`|` begins a block of text, and there is none")
                            .help("write \"\" for an empty text"));
                    }
                    _ => {}
                }
                let node = Node { value: Value::Scalar { text: text.into_owned(), plain }, place };
                self.count(1, place)?;
                self.remember(anchor, &node, 1);
                self.put(node)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection_as(tag.as_deref(), "seq", place)?;
                self.open(place, anchor, Content::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection_as(tag.as_deref(), "map", place)?;
                self.open(place, anchor, Content::Mapping(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(Problem::at(place, "an alias inside the value it names"));
                };
                self.count(size, place)?;
                self.put(node)
            }
            _ => Ok(()),
        }
    }

    /// The name of a tag of YAML's own, `str` of `!!str`; tags of other programs' files mean nothing here.
    ///
    /// Errors: any other tag in a plan.
    fn own_tag(&self, tag: Option<&Tag>, place: Place) -> Result<Option<String>, Problem> {
        let (Some(text), Some(tag)) = (self.text, tag) else { return Ok(None) };
        if let Some(name) = tag.core_suffix() {
            return Ok(Some(name.to_owned()));
        }
        let line = text.lines().nth(place.line.saturating_sub(1)).unwrap_or("");
        let example = sign_in(line).filter(|sign| sign.starts_with('!')).unwrap_or_else(|| tag.original());
        Err(Problem::at(place, format!("`{}` is a YAML tag here, not a part of the value", tag.original()))
            .help(format!("a value that begins with `!` needs quotes: \"{example}\"")))
    }

    fn collection_as(&self, tag: Option<&Tag>, own: &str, place: Place) -> Result<(), Problem> {
        match self.own_tag(tag, place)? {
            Some(tag) if tag != own => {
                let what = if own == "seq" { "a list" } else { "a block of keys" };
                Err(Problem::at(place, format!("`!!{tag}` stands before {what}")).help("take the tag out"))
            }
            _ => Ok(()),
        }
    }

    /// `> 5` and `>5` are meant as comparisons; YAML takes them for the beginning of a block of text.
    fn no_comparison(&self, block: &str, place: Place) -> Result<(), Problem> {
        let Some(text) = self.text else { return Ok(()) };
        let (at, sign) = block_header(text, block, place);
        if block.trim().is_empty() || sign.contains(|c: char| c.is_ascii_digit()) {
            let message = format!("`{sign}` begins a block of text in YAML, it compares nothing");
            return Err(Problem::at(at, message)
                .help(format!("a value that begins with `>` needs quotes: \"{sign}\"")));
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(Problem::at(place, format!("more than {MAX_NODES} values, aliases expanded"))
                .help("a plan is written by hand; look for aliases of aliases"));
        }
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
    }

    fn open(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::at(place, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let nodes_before = self.nodes;
        self.count(1, place)?;
        self.open.push(Open { place, anchor, nodes_before, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        let Some(done) = self.open.pop() else { return Ok(()) };
        let value = match done.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping(entries, _) => Value::Mapping(merged(entries)?),
        };
        let node = Node { value, place: done.place };
        self.remember(done.anchor, &node, self.nodes - done.nodes_before);
        self.put(node)
    }

    fn put(&mut self, node: Node) -> Result<(), Problem> {
        match self.open.last_mut().map(|o| &mut o.content) {
            None => self.root = Some(node),
            Some(Content::Sequence(items)) => items.push(node),
            Some(Content::Mapping(entries, waiting)) => {
                if let Some(key) = waiting.take() {
                    entries.push((key, node));
                } else {
                    let name = key_text(&node)?;
                    if self.text.is_some() && name.contains("${") {
                        return Err(Problem::at(node.place, format!("the key `{name}` holds a variable"))
                            .help("variables are filled into values only: write the key out"));
                    }
                    if let Some((first, _)) =
                        entries.iter().find(|(k, _)| key_text(k).is_ok_and(|k| k == name))
                    {
                        let line = first.place.line;
                        let twice = format!("the key `{name}` is given twice, first on line {line}");
                        let problem = Problem::at(node.place, twice);
                        return Err(if is_merge(&node) {
                            problem.help("several blocks are merged by one list: `<<: [*first, *second]`")
                        } else {
                            problem
                        });
                    }
                    *waiting = Some(node);
                }
            }
        }
        Ok(())
    }
}

/// The `>` of a block of text with what stands behind it, and its place; of the block only the place of its first line
/// is known, and where nothing comes after it that of the sign itself.
fn block_header<'t>(text: &'t str, block: &str, place: Place) -> (Place, &'t str) {
    let lines: Vec<&str> = text.lines().take(place.line).collect();
    let sign = |line: &'t str| {
        let at = line.rfind(" #").filter(|at| line[..*at].contains('>')).unwrap_or(line.len());
        let start = line[..at].rfind('>')?;
        Some((line[..start].chars().count() + 1, line[start..at].trim_end()))
    };
    let own = lines.last().filter(|_| block.trim().is_empty());
    let own = own.filter(|line| line.chars().nth(place.column.saturating_sub(1)) == Some('>'));
    let above = lines.iter().rev().skip(1).position(|line| !line.trim().is_empty());
    let number = if own.is_some() { place.line } else { place.line - 1 - above.unwrap_or(0) };
    match lines.get(number.saturating_sub(1)).and_then(|line| sign(line)) {
        Some((column, sign)) => (Place { line: number, column }, sign),
        None => (place, ">"),
    }
}

/// Whether a scalar with a tag of YAML's own counts as one without quotes.
///
/// Errors: it is not what its tag says.
fn scalar_as(tag: &str, text: &str, place: Place) -> Result<bool, Problem> {
    let (fits, what) = match tag {
        "str" => return Ok(false),
        // What a variable holds is read later.
        _ if text.contains("${") => return Ok(true),
        "int" => (text.parse::<i128>().is_ok(), "a whole number"),
        "float" => (text.parse::<f64>().is_ok_and(f64::is_finite), "a number"),
        "bool" => (matches!(text, "true" | "false"), "true or false"),
        "null" => (matches!(text, "" | "~" | "null"), "nothing"),
        _ => (false, "a list or a block of keys"),
    };
    if fits {
        return Ok(true);
    }
    Err(Problem::at(place, format!("`!!{tag} {text}`: expected {what}, as the tag says"))
        .help("take the tag out"))
}

/// `<<` without quotes; in quotes it is a key as any other.
fn is_merge(key: &Node) -> bool {
    matches!(&key.value, Value::Scalar { text, plain: true } if text == "<<")
}

/// The entries with those of the merge key in its place: own keys win, and of a list the earlier block.
///
/// Errors: something else than blocks of keys is to be merged.
fn merged(entries: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, Problem> {
    let Some(at) = entries.iter().position(|(key, _)| is_merge(key)) else { return Ok(entries) };
    let mut entries = entries;
    let after = entries.split_off(at + 1);
    let Some((_, from)) = entries.pop() else { return Ok(after) };
    let blocks = match from.value {
        Value::Sequence(items) => items,
        value => vec![Node { value, place: from.place }],
    };
    let name = |key: &Node| key_text(key).unwrap_or_default().to_owned();
    let mut named: HashSet<String> = entries.iter().chain(&after).map(|(key, _)| name(key)).collect();
    let mut found = Vec::new();
    for block in blocks {
        let Value::Mapping(inner) = block.value else {
            return Err(Problem::at(
                block.place,
                format!("`<<` merges blocks of keys, this is {}", block.what()),
            )
            .help("write `<<: *name`, or `<<: [*first, *second]`"));
        };
        found.extend(inner.into_iter().filter(|(key, _)| named.insert(name(key))));
    }
    entries.extend(found);
    entries.extend(after);
    Ok(entries)
}

fn key_text(node: &Node) -> Result<&str, Problem> {
    match &node.value {
        Value::Scalar { text, .. } => Ok(text),
        _ => Err(Problem::at(node.place, "a key must be a word")),
    }
}

/// Where `${NAME}` finds its values.
pub trait Variables {
    /// The value of a variable, or `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// Fills in `${NAME}` and `${NAME:-default}`; `$${` stands for a literal `${`.
pub fn expand(text: &str, variables: &dyn Variables) -> Result<String, String> {
    expand_with(text, variables, &mut |out, value| out.push_str(value))
}

/// What stands in a [`parted`] text before and after the number of a value.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// A text of a plan in which the values of variables can be told from what the plan itself says.
#[derive(Clone, Debug, Default)]
pub struct Parted {
    /// The text with marks in the place of variables.
    pub marked: String,
    values: Vec<String>,
}

impl From<&str> for Parted {
    fn from(text: &str) -> Self {
        Self { marked: text.to_owned(), values: Vec::new() }
    }
}

impl Parted {
    /// Whether there are variables in it.
    pub fn has_variables(&self) -> bool {
        !self.values.is_empty()
    }

    /// A part of the text with the values in the place of their marks, each as `write` has it.
    pub fn filled(&self, part: &str, write: impl Fn(&str) -> String) -> String {
        if self.values.is_empty() {
            return part.to_owned();
        }
        let mut pieces = part.split(MARKS);
        let mut out = pieces.next().unwrap_or_default().to_owned();
        while let (Some(number), Some(rest)) = (pieces.next(), pieces.next()) {
            let value = number.parse().ok().and_then(|number: usize| self.values.get(number));
            out.push_str(&value.map(|value| write(value)).unwrap_or_default());
            out.push_str(rest);
        }
        out
    }
}

impl<'de> de::Deserialize<'de> for Parted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Parted;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Parted, A::Error> {
                let marked = seq.next_element()?.unwrap_or_default();
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Parted { marked, values })
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Parted, D::Error> {
                let text: String = de::Deserialize::deserialize(d)?;
                Ok(Parted::from(text.as_str()))
            }
        }
        deserializer.deserialize_newtype_struct(PARTED_TOKEN, Parts)
    }
}

/// The text with a mark in the place of each variable, and behind it the values: nothing in them can be taken for a part
/// of the text.
fn parted(text: &str, variables: &dyn Variables) -> Result<Vec<String>, String> {
    if text.contains(MARKS) {
        return Err(format!("U+{:04X} is no character of a text", u32::from(MARKS[0])));
    }
    let mut values = Vec::new();
    let marked = expand_with(text, variables, &mut |out, value| {
        out.push_str(&format!("{}{}{}", MARKS[0], values.len(), MARKS[1]));
        values.push(value.to_owned());
    })?;
    values.insert(0, marked);
    Ok(values)
}

fn expand_with(
    text: &str,
    variables: &dyn Variables,
    put: &mut dyn FnMut(&mut String, &str),
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if at > 0 && rest.as_bytes()[at - 1] == b'$' {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(length) = rest[at + 2..].find('}') else {
            return Err("`${` without a closing `}` (write `$${` for a literal one)".into());
        };
        let inside = &rest[at + 2..at + 2 + length];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("`${{{inside}}}` is not a variable: a name has letters, digits and `_`"));
        }
        match (variables.get(name).filter(|v| default.is_none() || !v.is_empty()), default) {
            (Some(value), _) => {
                crate::redact::learn_variable(name, &value);
                put(&mut out, &value);
            }
            (None, Some(default)) => put(&mut out, default),
            (None, None) => {
                return Err(format!(
                    "the variable `{name}` is not set (give it with --set {name}=…, in the environment, or write \
                     `${{{name}:-default}}`)"
                ));
            }
        }
        rest = &rest[at + 2 + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The variables that a text names, each with its default where it has one.
pub fn variables_in(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let literal = at > 0 && rest.as_bytes()[at - 1] == b'$';
        rest = &rest[at + 2..];
        let Some(length) = rest.find('}').filter(|_| !literal) else { continue };
        let inside = &rest[..length];
        found.push(inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default))));
        rest = &rest[length + 1..];
    }
    found
}

impl Node {
    /// A text, as it stands in quotes.
    pub fn text(text: &str, place: Place) -> Self {
        Self { value: Value::Scalar { text: text.to_owned(), plain: false }, place }
    }

    /// Calls `look` with the text of every scalar in it, variables not yet filled in.
    pub fn each_text<'a>(&'a self, look: &mut dyn FnMut(&'a str)) {
        match &self.value {
            Value::Scalar { text, .. } => look(text),
            Value::Sequence(items) => items.iter().for_each(|item| item.each_text(look)),
            Value::Mapping(entries) => entries.iter().for_each(|(_, value)| value.each_text(look)),
        }
    }

    /// A variable in it that is not set and has no default.
    pub fn unset(&self, variables: &dyn Variables) -> Option<String> {
        let mut unset = None;
        self.each_text(&mut |text| {
            let missing = variables_in(text)
                .into_iter()
                .find(|(name, default)| default.is_none() && variables.get(name).is_none());
            if let Some((name, _)) = missing {
                unset.get_or_insert_with(|| name.to_owned());
            }
        });
        unset
    }

    /// The value under `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Mapping(entries) => {
                entries.iter_mut().find(|(k, _)| key_text(k).is_ok_and(|k| k == key)).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// Keeps those keys for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Self) -> bool) {
        if let Value::Mapping(entries) = &mut self.value {
            entries.retain(|(key, value)| key_text(key).map_or(true, |key| keep(key, value)));
        }
    }

    /// Reads the tree as `T`; every error carries its place.
    pub fn read<T: de::DeserializeOwned>(&self, variables: &dyn Variables) -> Result<T, Problem> {
        T::deserialize(Reader { node: self, variables })
    }

    /// Whether nothing was written here (`key:` with no value, or `null`).
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// The value under `key`, when this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => {
                entries.iter().find(|(k, _)| key_text(k).is_ok_and(|k| k == key)).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// The item at `number`, from 0, when this is a list that has it.
    pub fn item(&self, number: usize) -> Option<&Node> {
        match &self.value {
            Value::Sequence(items) => items.get(number),
            _ => None,
        }
    }

    /// Keys with their places and values, empty when this is not a mapping.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Place, &Node)> {
        let entries: &[(Node, Node)] = match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        };
        entries.iter().filter_map(|(k, v)| key_text(k).ok().map(|name| (name, k.place, v)))
    }

    fn what(&self) -> String {
        match &self.value {
            Value::Scalar { text, .. } if text.is_empty() || self.is_null() => "nothing".into(),
            Value::Scalar { text, .. } => format!("`{}`", crate::units::clipped(text, 60)),
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) => "a block of keys".into(),
        }
    }
}

// A node that is kept as it is: the reader hands it over through this token.
impl<'de> de::Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keep;
        impl Visitor<'_> for Keep {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of a plan")
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Node, E> {
                KEPT.with_borrow_mut(Option::take).ok_or_else(|| E::custom("only a plan holds such values"))
            }
        }
        deserializer.deserialize_newtype_struct(NODE_TOKEN, Keep)
    }
}

thread_local! {
    // Serde has no way to hand over a value of a foreign type, so it travels beside the visitor.
    static KEPT: std::cell::RefCell<Option<Node>> = const { std::cell::RefCell::new(None) };
}

struct Reader<'a> {
    node: &'a Node,
    variables: &'a dyn Variables,
}

impl Reader<'_> {
    fn scalar(&self, expected: &str) -> Result<(String, bool), Problem> {
        match &self.node.value {
            Value::Scalar { text, plain } => {
                let expanded = expand(text, self.variables).map_err(|m| Problem::at(self.node.place, m))?;
                Ok((expanded, *plain))
            }
            _ => Err(self.wrong(expected)),
        }
    }

    fn wrong(&self, expected: &str) -> Problem {
        Problem::at(self.node.place, format!("expected {expected}, found {}", self.node.what()))
    }

    fn number<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Problem> {
        let (text, plain) = self.scalar(expected)?;
        if !plain
            && !text.is_empty()
            && !matches!(&self.node.value, Value::Scalar { text, .. } if text.contains("${"))
        {
            return Err(Problem::at(
                self.node.place,
                format!("expected {expected}, found the text \"{text}\""),
            )
            .help("write the number without quotes"));
        }
        text.replace('_', "").parse().map_err(|_| self.wrong(expected))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            let expected = if stringify!($type).starts_with('f') { "a number" } else { "a whole number" };
            let number = self.number::<$type>(expected)?;
            visitor.$visit::<Problem>(number).map_err(|e| e.or_at(self.node.place))
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
            Value::Scalar { .. } => {
                let place = self.node.place;
                let (text, plain) = self.scalar("a value")?;
                let visited: Result<V::Value, Problem> = match text.as_str() {
                    _ if !plain => visitor.visit_string(text),
                    "" | "~" | "null" => visitor.visit_unit(),
                    "true" => visitor.visit_bool(true),
                    "false" => visitor.visit_bool(false),
                    other => match (other.parse::<u64>(), other.parse::<i64>(), other.parse::<f64>()) {
                        (Ok(n), _, _) => visitor.visit_u64(n),
                        (_, Ok(n), _) => visitor.visit_i64(n),
                        (_, _, Ok(n)) if n.is_finite() => visitor.visit_f64(n),
                        _ => visitor.visit_string(text),
                    },
                };
                visited.map_err(|e| e.or_at(place))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let expected = "true or false";
        match self.scalar(expected)?.0.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.wrong(expected)),
        }
    }

    numbers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64, deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64
    );

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let (text, _) = self.scalar("a text")?;
        if self.node.is_null() {
            return Err(self.wrong("a text"));
        }
        visitor.visit_string(text).map_err(|e: Problem| e.or_at(self.node.place))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let name = key_text(self.node)?;
        visitor.visit_str(name).map_err(|e: Problem| e.or_at(self.node.place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let place = self.node.place;
        match name {
            NODE_TOKEN => {
                KEPT.set(Some(self.node.clone()));
                visitor.visit_str("")
            }
            PARTED_TOKEN => {
                let Value::Scalar { text, .. } = &self.node.value else { return Err(self.wrong("a text")) };
                let parts = parted(text, self.variables).map_err(|m| Problem::at(place, m))?;
                visitor
                    .visit_seq(de::value::SeqDeserializer::<_, Problem>::new(parts.into_iter()))
                    .map_err(|e| e.or_at(place))
            }
            TEXT_TOKEN => {
                let (value, _) = self.scalar("a text")?;
                if self.node.is_null() {
                    return Err(self.wrong("a text"));
                }
                let Value::Scalar { text, .. } = &self.node.value else { return Err(self.wrong("a text")) };
                let both = [value, text.clone()];
                visitor.visit_seq(de::value::SeqDeserializer::<_, Problem>::new(both.into_iter()))
            }
            _ => visitor.visit_newtype_struct(self).map_err(|e: Problem| e.or_at(place)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Sequence(items) => {
                let walk = Items { items: items.iter(), variables: self.variables };
                visitor.visit_seq(walk).map_err(|e| e.or_at(self.node.place))
            }
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Mapping(entries) => {
                let walk = Entries { rest: entries.iter(), value: None, variables: self.variables };
                visitor.visit_map(walk).map_err(|e| e.or_at(self.node.place))
            }
            _ => Err(self.wrong("a block of keys")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        // `promote:` with nothing below it is a block whose keys are all missing.
        if self.node.is_null() {
            let empty = Entries { rest: [].iter(), value: None, variables: self.variables };
            return visitor.visit_map(empty).map_err(|e| e.or_at(self.node.place));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let place = self.node.place;
        let (text, _) = self.scalar("a word")?;
        let word: de::value::StringDeserializer<Problem> = text.into_deserializer();
        visitor.visit_enum(word).map_err(|e| e.or_at(place))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    variables: &'a dyn Variables,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let reader = Reader { node, variables: self.variables };
        seed.deserialize(reader).map(Some).map_err(|e| e.or_at(node.place))
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, (Node, Node)>,
    value: Option<&'a Node>,
    variables: &'a dyn Variables,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        let reader = Reader { node: key, variables: self.variables };
        seed.deserialize(reader).map(Some).map_err(|e| e.or_at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some(node) = self.value.take() else {
            return Err(de::Error::custom("a value was read before its key"));
        };
        let reader = Reader { node, variables: self.variables };
        seed.deserialize(reader).map_err(|e| e.or_at(node.place))
    }
}

#[cfg(test)]
mod tests;
