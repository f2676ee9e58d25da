//! The quantities of a plan (`90s`, `5%`, `8GiB`, `500/s`), the texts that remember where they came
//! from.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::yaml::TEXT_TOKEN;

/// A duration in a plan: `250ms`, `90s`, `5m`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A share in a plan: `5%`, or `0.05`. Inside, a number in 0..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

/// A size in a plan: `8GiB`, `500MB`, `1024`. Inside, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A rate in a plan: `500/s`, `30/m`. Inside, events per second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// A text of the plan after `${…}` was filled in, and as it stands in the file. What people see is
/// the latter, so that values from the environment are shown by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// What to work with.
    pub value: String,
    /// What to show.
    pub shown: String,
}

/// What a check looks at: one text, or a command as a list of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A URL, `host:port`, a path, a name.
    One(Text),
    /// Argv, no shell.
    Words(Vec<Text>),
}

/// The dimension of an observed number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A bare number.
    Plain,
    /// Seconds inside; written `250ms`, `14d`.
    Duration,
    /// A share in 0..=1; written `5%` or `0.05`.
    Share,
    /// Bytes; written `8GiB`.
    Bytes,
    /// Events per second; written `500/s`.
    Rate,
    /// A text, compared by equality, order of versions, or a regular expression.
    Text,
    /// `true` or `false`.
    Flag,
}

/// What a check saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// A number with its dimension.
    Number(f64, Unit),
    /// A text.
    Text(String),
    /// A yes or no.
    Flag(bool),
}

const DURATIONS: &[(&str, f64)] =
    &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];
const SIZES: &[(&str, f64)] = &[
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1.0),
];

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".-+_".contains(c))).unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    number.is_finite().then(|| (number, text[end..].trim()))
}

fn with_units(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = split_unit(text)?;
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| number * factor)
}

/// Seconds of a duration such as `90s` or `1h30m`.
pub fn parse_duration(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let unit_end =
            rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |n| digits + n);
        match with_units(&rest[..unit_end], DURATIONS) {
            Some(seconds) if digits > 0 && seconds >= 0.0 => total += seconds,
            _ => return Err(format!("`{text}` is not a duration; write 250ms, 90s, 5m, 2h or 7d")),
        }
        rest = rest[unit_end..].trim_start();
    }
    if text.is_empty() || total > 3.2e9 {
        return Err(format!("`{text}` is not a duration; write 250ms, 90s, 5m, 2h or 7d"));
    }
    Ok(total)
}

/// A share in 0..=1 from `5%` or `0.05`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let share = match split_unit(text) {
        Some((number, "%")) => number / 100.0,
        Some((number, "")) if number <= 1.0 => number,
        _ => return Err(format!("`{text}` is not a share; write 5% or 0.05")),
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("`{text}` lies outside 0% to 100%")) }
}

/// Bytes from `8GiB`, `500MB` or `1024`.
pub fn parse_size(text: &str) -> Result<f64, String> {
    match split_unit(text) {
        Some((number, "")) if number >= 0.0 => Ok(number),
        _ => with_units(text, SIZES)
            .filter(|n| *n >= 0.0)
            .ok_or_else(|| format!("`{text}` is not a size; write 8GiB, 500MB or 1024")),
    }
}

/// Events per second from `500/s`, `30/m` or `10/h`.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = match split_unit(text) {
        Some((number, "/s")) => number,
        Some((number, "/m" | "/min")) => number / 60.0,
        Some((number, "/h")) => number / 3600.0,
        _ => return Err(format!("`{text}` is not a rate; write 500/s or 30/m")),
    };
    if rate > 0.0 { Ok(rate) } else { Err(format!("`{text}` is not a rate above 0")) }
}

macro_rules! from_text {
    ($type:ident, $parse:expr, $name:literal, $about:literal, $pattern:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": ["string", "number"], "description": $about, "pattern": $pattern })
            }
        }
    };
}

from_text!(
    Span,
    |t: &str| parse_duration(t).map(|s| Span(Duration::from_secs_f64(s))),
    "Duration",
    "A duration: 250ms, 90s, 5m, 2h, 7d",
    r"^(\s*[0-9.]+\s*(us|ms|s|m|h|d|w))+$|\$\{"
);
from_text!(
    Share,
    |t: &str| parse_share(t).map(Share),
    "Share",
    "A share: 5% or 0.05",
    r"^[0-9.]+\s*%?$|\$\{"
);
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive")]
fn whole_size(text: &str) -> Result<Size, String> {
    parse_size(text).map(|n| Size(n as u64))
}
from_text!(Size, whole_size, "Size", "A size: 8GiB, 500MB, 1024", r"^[0-9.]+\s*([KMGT]iB|[kKMGT]?B)?$|\$\{");
from_text!(
    Rate,
    |t: &str| parse_rate(t).map(Rate),
    "Rate",
    "A rate: 500/s, 30/m",
    r"^[0-9.]+\s*/(s|m|min|h)$|\$\{"
);

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = parse_duration(text)?;
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_duration(self.0.as_secs_f64()))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_share(self.0))
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

/// Up to three digits that matter, without trailing zeros: `3.1`, `0.021`, `1204`.
pub fn show_number(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string();
    }
    if number == 0.0 {
        return "0".into();
    }
    let magnitude = number.abs().log10().floor();
    let places = if magnitude >= 2.0 { 0.0 } else { (2.0 - magnitude).min(9.0) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 9")]
    let text = format!("{number:.*}", places as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Seconds as people read them: `3.1 ms`, `12.4 s`, `4 min 12 s`, `2 h 3 min`, `61 d`.
pub fn show_duration(seconds: f64) -> String {
    let s = seconds.abs();
    let sign = if seconds < 0.0 { "-" } else { "" };
    if s < 1.0 {
        return format!("{sign}{} ms", show_number(s * 1e3));
    }
    if s < 60.0 {
        return format!("{sign}{} s", show_number(s));
    }
    if s >= 172_800.0 {
        return format!("{sign}{} d", show_number((s / 86_400.0 * 10.0).floor() / 10.0));
    }
    let (big, small, names) = if s < 3600.0 {
        ((s / 60.0).floor(), (s % 60.0).floor(), ("min", "s"))
    } else {
        ((s / 3600.0).floor(), (s % 3600.0 / 60.0).floor(), ("h", "min"))
    };
    if small == 0.0 {
        format!("{sign}{big} {}", names.0)
    } else {
        format!("{sign}{big} {} {small} {}", names.0, names.1)
    }
}

/// The first of them in a list, and how many more there are: `a, b and 3 more`.
pub fn listed(items: &[impl AsRef<str>], most: usize) -> String {
    let shown: Vec<&str> = items.iter().take(most).map(AsRef::as_ref).collect();
    match items.len() - shown.len() {
        0 => shown.join(", "),
        more if shown.is_empty() => format!("{more} more"),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A text of at most so many characters; what is left out is counted: `abc… (12 more characters)`.
pub fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => {
            let left = text[at..].chars().count();
            let word = if left == 1 { "character" } else { "characters" };
            format!("{}… ({left} more {word})", &text[..at])
        }
    }
}

/// The end of a text, of at most so many characters; what is left out before it is counted.
pub fn ending(text: &str, most: usize) -> String {
    match text.chars().count().saturating_sub(most) {
        0 => text.to_owned(),
        before => {
            let word = if before == 1 { "character" } else { "characters" };
            format!("({before} {word} before) …{}", text.chars().skip(before).collect::<String>())
        }
    }
}

/// A share as people read it: `5 %`, `0.021 %`.
pub fn show_share(share: f64) -> String {
    format!("{} %", show_number(share * 100.0))
}

/// Bytes as people read them: `2.5 GiB`.
pub fn show_size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", show_number(value), units[unit])
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both;
        impl<'de> Visitor<'de> for Both {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                let value = seq.next_element()?.unwrap_or_default();
                let shown = seq.next_element()?.unwrap_or_default();
                Ok(Text { value, shown })
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Text, D::Error> {
                String::deserialize(d).map(Text::from)
            }
        }
        deserializer.deserialize_newtype_struct(TEXT_TOKEN, Both)
    }
}

impl From<String> for Text {
    fn from(value: String) -> Self {
        Self { shown: value.clone(), value }
    }
}

impl From<&str> for Text {
    fn from(value: &str) -> Self {
        Self::from(value.to_owned())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = crate::yaml::Node::deserialize(deserializer)?;
        let variables = |name: &str| VARIABLES.with_borrow(|v| v.as_ref().and_then(|v| v(name)));
        match &node.value {
            crate::yaml::Value::Sequence(_) => node.read(&variables).map(Target::Words),
            _ => node.read(&variables).map(Target::One),
        }
        .map_err(|p| {
            let help = p.help.map(|h| format!(" ({h})")).unwrap_or_default();
            de::Error::custom(format!("{}{help}", p.message))
        })
    }
}

type Lookup = Box<dyn Fn(&str) -> Option<String>>;

thread_local! {
    // `Target` is read in two shapes, so it needs the variables a second time.
    static VARIABLES: std::cell::RefCell<Option<Lookup>> = const { std::cell::RefCell::new(None) };
}

/// Runs `work` with the variables that a [`Target`] inside it may use.
pub(crate) fn with_variables<T>(lookup: Lookup, work: impl FnOnce() -> T) -> T {
    VARIABLES.set(Some(lookup));
    let result = work();
    VARIABLES.set(None);
    result
}

impl JsonSchema for Target {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": ["string", "number"] },
            { "type": "array", "items": { "type": ["string", "number", "boolean"] }, "minItems": 1 }
        ]})
    }
}

impl Target {
    /// The one text, or an error that says what was expected.
    pub fn one(&self) -> Result<&Text, String> {
        match self {
            Self::One(text) => Ok(text),
            Self::Words(_) => Err("`target` must be one text here, not a list".into()),
        }
    }

    /// The words of a command; one text counts as one word.
    pub fn words(&self) -> Vec<Text> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::Words(words) => words.clone(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(text) => f.write_str(&text.shown),
            Self::Words(words) => {
                let words: Vec<&str> = words.iter().map(|w| w.shown.as_str()).collect();
                f.write_str(&words.join(" "))
            }
        }
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n, Unit::Duration) => f.write_str(&show_duration(*n)),
            Self::Number(n, Unit::Share) => f.write_str(&show_share(*n)),
            Self::Number(n, Unit::Bytes) => f.write_str(&show_size(*n)),
            Self::Number(n, Unit::Rate) => write!(f, "{}/s", show_number(*n)),
            // Whole numbers are counts or codes, which are never rounded.
            Self::Number(n, _) if n.fract() == 0.0 && n.abs() < 1e15 => write!(f, "{n}"),
            Self::Number(n, _) => f.write_str(&show_number(*n)),
            Self::Text(text) => f.write_str(text),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl Observed {
    /// The number and its unit for a finding: milliseconds, percent, bytes.
    pub fn figure(&self) -> Option<(f64, &'static str)> {
        match self {
            Self::Number(n, Unit::Duration) => Some((n * 1e3, "ms")),
            Self::Number(n, Unit::Share) => Some((n * 100.0, "%")),
            Self::Number(n, Unit::Bytes) => Some((*n, "B")),
            Self::Number(n, Unit::Rate) => Some((*n, "1/s")),
            Self::Number(n, _) => Some((*n, "")),
            Self::Text(_) | Self::Flag(_) => None,
        }
    }

    pub(crate) fn unit(&self) -> Unit {
        match self {
            Self::Number(_, unit) => *unit,
            Self::Text(_) => Unit::Text,
            Self::Flag(_) => Unit::Flag,
        }
    }
}

pub(crate) fn parse_operand(text: &str, unit: Unit) -> Result<f64, String> {
    match unit {
        Unit::Duration => parse_duration(text),
        Unit::Share => parse_share(text),
        Unit::Bytes => parse_size(text),
        Unit::Rate => parse_rate(text),
        _ => match split_unit(text) {
            Some((number, "")) => Ok(number),
            _ => Err(format!("`{text}` is not a number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let all: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        for (many, most, expected) in [
            (0, 3, ""),
            (3, 3, "0, 1, 2"),
            (4, 3, "0, 1, 2 and 1 more"),
            (9, 1, "0 and 8 more"),
            (9, 0, "9 more"),
        ] {
            assert_eq!(listed(&all[..many], most), expected);
        }
        assert_eq!(clipped("äöü", 3), "äöü");
        assert_eq!(clipped("äöüß", 3), "äöü… (1 more character)");
        assert_eq!(clipped("äöüß", 0), "… (4 more characters)");
        assert_eq!(ending("äöü", 3), "äöü");
        assert_eq!(ending("äöüß", 3), "(1 character before) …öüß");
    }

    #[test]
    fn reads_quantities_and_refuses_what_is_none() {
        assert_eq!(parse_duration("90s"), Ok(90.0));
        assert_eq!(parse_duration("1h30m"), Ok(5400.0));
        assert!((parse_duration("250ms").unwrap_or(0.0) - 0.25).abs() < 1e-12);
        for wrong in ["", "5", "5 parsecs", "-3s", "s", "1h30"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert!(parse_share("5").is_err() && parse_share("101%").is_err() && parse_share("-1%").is_err());
        assert_eq!(parse_size("8GiB"), Ok(8_589_934_592.0));
        assert_eq!(parse_rate("30/m"), Ok(0.5));
        assert!(parse_rate("30").is_err());
    }

    #[test]
    fn shows_figures_as_people_read_them() {
        assert_eq!(show_duration(0.0031), "3.1 ms");
        assert_eq!(show_duration(252.0), "4 min 12 s");
        assert_eq!(show_duration(86_400.0 * 61.0), "61 d");
        assert_eq!(show_share(0.000_21), "0.021 %");
        assert_eq!(show_size(2.5 * 1024.0 * 1024.0 * 1024.0), "2.5 GiB");
        assert_eq!(show_number(1_204_311.0), "1204311");
    }
}
