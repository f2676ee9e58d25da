//! The comparisons of `expect`: `200`, `<= 100ms`, `~ ^ok`, `in 200, 204`, `version >= 1.10`.
//!
//! What a text is compared as is never guessed in a way that passes: its kind knows what it is, or the plan says so
//! (`number`, `version`, `text`), or it can be read in one way only. Otherwise it is equal when it is the same text.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::units::{Decimal, Observed, Unit, parse_operand};
use crate::yaml::Parted;

mod version;

use version::Version;

/// How an expectation compares.
#[derive(Clone, Debug)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Matches(Regex),
    In,
}

/// What the plan says a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Nothing: what it is follows from what was seen.
    Untold,
    Number,
    Version,
    Text,
}

type MakeCompare = fn() -> Compare;

const WORDS: [(&str, Reads); 3] =
    [("number", Reads::Number), ("version", Reads::Version), ("text", Reads::Text)];

const OPERATORS: [(&str, MakeCompare); 7] = [
    ("<=", || Compare::LessOrEqual),
    (">=", || Compare::GreaterOrEqual),
    ("!=", || Compare::NotEqual),
    ("==", || Compare::Equal),
    ("<", || Compare::Less),
    (">", || Compare::Greater),
    ("=", || Compare::Equal),
];

const KNOWN: &str = "`<` `<=` `>` `>=` `=` `!=` `~` `in`";

/// One line of `expect`: `200`, `<= 100ms`, `~ ^ok`, `in 200, 204`.
#[derive(Clone, Debug)]
pub struct Expectation {
    text: String,
    reads: Reads,
    compare: Compare,
    /// Whether there was only a value.
    bare: bool,
    operands: Vec<String>,
}

impl Expectation {
    /// Reads `<= 100ms`, `~ ^ok`, `in 200, 204`, `!= 0`, a bare value (equals), or one of them behind `number`,
    /// `version` or `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_parted(&Parted::from(text))
    }

    /// The same of a text in which marks stand for the values of variables: what those hold is a value, and neither a
    /// comparison nor a pattern, whatever it looks like.
    fn parse_parted(parted: &Parted) -> Result<Self, String> {
        let plain = |part: &str| parted.filled(part, str::to_owned).trim().to_owned();
        let trimmed = parted.marked.trim();
        let (reads, rest) = told(trimmed);
        let sign: String = rest.chars().take_while(|c| "<>=!~≤≥≠".contains(*c)).collect();
        let after = rest[sign.len()..].trim();
        let begins_anew = after.starts_with(|c| "<>=!~≤≥≠".contains(c)) || after.starts_with("in ");
        if sign == "!=" && begins_anew && reads != Reads::Text {
            return Err(format!(
                "`{}` has two comparisons; there are {KNOWN}, and a text that begins so is written `text != {}`",
                plain(trimmed),
                plain(after)
            ));
        }
        let (compare, operands) = if sign == "~" {
            let pattern = parted.filled(after, regex::escape);
            let regex = Regex::new(&pattern).map_err(|e| format!("not a regular expression: {e}"))?;
            (Compare::Matches(regex), vec![plain(after)])
        } else if let Some((_, make)) = OPERATORS.iter().find(|(known, _)| *known == sign) {
            (make(), vec![plain(after)])
        } else if !sign.is_empty() {
            return Err(format!(
                "`{sign}` is no comparison; there are {KNOWN}, and a text that begins so is written `= {}`",
                plain(trimmed)
            ));
        } else if let Some(list) = rest.strip_prefix("in ") {
            let list = list.trim();
            let list = list.strip_prefix('[').and_then(|l| l.strip_suffix(']')).unwrap_or(list);
            (Compare::In, list.split(',').map(plain).collect())
        } else {
            (Compare::Equal, vec![plain(rest)])
        };
        let bare = sign.is_empty() && !matches!(compare, Compare::In);
        let text = plain(trimmed);
        if bare && parted.has_variables() && Self::parse(&text).map_or(true, |read| !read.bare) {
            return Err("a variable holds a value, and this one begins like a comparison: write the comparison in the \
                        plan, such as `>= ${NAME}`, or `= ${NAME}` where its text is meant"
                .into());
        }
        let made = Self { text, reads, compare, bare, operands };
        made.makes_sense()?;
        Ok(made)
    }

    /// Any of several values, each as it stands.
    ///
    /// Errors: none of them, or one that is a comparison itself.
    pub fn any_of(items: &[String]) -> Result<Self, String> {
        if let Some(item) = items.iter().find(|item| Self::parse(item).map_or(true, |e| !e.bare)) {
            return Err(format!("a list is any of its values, and `{item}` is a comparison"));
        }
        let operands: Vec<String> = items.iter().map(|item| item.trim().to_owned()).collect();
        let text = format!("in {}", operands.join(", "));
        let made = Self { text, reads: Reads::Untold, compare: Compare::In, bare: false, operands };
        made.makes_sense()?;
        Ok(made)
    }

    fn makes_sense(&self) -> Result<(), String> {
        let text = &self.text;
        let nothing = self.operands.is_empty() || self.operands.iter().any(String::is_empty);
        if nothing && !matches!(self.compare, Compare::Equal | Compare::NotEqual) {
            return Err(format!("`{text}` compares with nothing"));
        }
        let wrong = |what: &str, fits: &dyn Fn(&str) -> bool| {
            let operand = self.operands.iter().find(|operand| !fits(operand));
            operand.map_or(Ok(()), |operand| Err(format!("`{operand}` is no {what}")))
        };
        match (self.reads, &self.compare) {
            (Reads::Number | Reads::Version, Compare::Matches(_)) => {
                Err(format!("`{text}`: a regular expression looks at the text"))
            }
            (Reads::Number, _) => wrong("number", &|operand| decimal(operand).is_some()),
            (Reads::Version, _) => wrong("version", &|operand| Version::parse(operand).is_some()),
            (Reads::Text, _) if self.orders() => Err(format!("`{text}`: {NO_ORDER}")),
            _ => Ok(()),
        }
    }

    fn orders(&self) -> bool {
        use Compare::{Greater, GreaterOrEqual, Less, LessOrEqual};
        matches!(self.compare, Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    /// The text as the plan has it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it says what must not be: of several values, none of them may be it.
    pub fn excludes(&self) -> bool {
        matches!(self.compare, Compare::NotEqual)
    }

    /// The same as a lower bound, where the plan gives a bare value: a bare minimum is a minimum, so
    /// `min_version: "1.2"` is met by a server that speaks only 1.3.
    #[must_use]
    pub fn or_at_least(self) -> Self {
        if self.bare {
            let text = format!(">= {}", self.text);
            return Self { text, compare: Compare::GreaterOrEqual, bare: false, ..self };
        }
        self
    }

    /// Whether this comparison makes sense for a quantity of this dimension.
    pub fn fits(&self, unit: Unit) -> Result<(), String> {
        if matches!(self.compare, Compare::Matches(_)) {
            return Ok(());
        }
        let text = &self.text;
        if !matches!(unit, Unit::Text | Unit::Json | Unit::Version)
            && self.reads != Reads::Untold
            && (self.reads, unit) != (Reads::Number, Unit::Plain)
        {
            return Err(format!("`{text}` says what a text is, and this is none"));
        }
        for operand in &self.operands {
            match unit {
                Unit::Text | Unit::Json if self.orders() && self.reads == Reads::Untold => {
                    match ordered(operand) {
                        Ordered::No => return Err(NO_ORDER.into()),
                        Ordered::Either if unit == Unit::Text => return Err(either(text, operand)),
                        _ => {}
                    }
                }
                Unit::Version if self.reads == Reads::Number => {
                    return Err(format!("`{text}` says that it is a number, and it is a version"));
                }
                Unit::Version if self.reads == Reads::Text || Version::parse(operand).is_some() => {}
                Unit::Version => return Err(format!("`{operand}` is no version")),
                Unit::Flag if self.orders() => return Err("true and false have no order".into()),
                Unit::Flag if matches!(operand.as_str(), "true" | "false") => {}
                Unit::Flag => return Err(format!("`{operand}` is not true or false")),
                Unit::Plain if decimal(operand).is_none() => {
                    return Err(format!("`{operand}` is not a number"));
                }
                Unit::Text | Unit::Json | Unit::Plain => {}
                _ => drop(parse_operand(operand, unit)?),
            }
        }
        Ok(())
    }

    /// Why it is not clear whether it compares numbers or versions, of something that is called `name`.
    ///
    /// Nobody else than the plan knows what `/app/version: ">= 1.10"` means when 1.9 is seen.
    pub fn unclear(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        let named = ["version", "release"].iter().any(|word| name.contains(word));
        let ordered = self.orders() && self.reads == Reads::Untold;
        let operand = self.operands.iter().find(|o| decimal(o).is_some() && o.contains('.'))?;
        (named && ordered).then(|| either(&self.text, operand))
    }

    /// Whether a text meets it, whatever may follow its beginning, which alone is known: a pattern is found before
    /// the end of what is known. Nothing that is not there counts, nor does equality.
    pub fn met_by_the_beginning(&self, text: &str) -> bool {
        match &self.compare {
            // A pattern looks no further than one character ahead of its match.
            Compare::Matches(regex) => regex.shortest_match(text).is_some_and(|end| end < text.len()),
            _ => false,
        }
    }

    /// Whether the observation meets it. An observation that cannot be compared (not a number, not
    /// finite) never does.
    pub fn met_by(&self, observed: &Observed) -> bool {
        self.judge(observed).unwrap_or(false)
    }

    /// Whether the observation meets it.
    ///
    /// Errors: why the two cannot be compared, which is never a pass.
    pub fn judge(&self, observed: &Observed) -> Result<bool, String> {
        let first = || match self.operands.first() {
            Some(operand) => self.order(observed, operand),
            None => Err("there is nothing to compare with".into()),
        };
        match &self.compare {
            Compare::Matches(regex) => Ok(match observed {
                Observed::Text(text) | Observed::Version(text) => regex.is_match(text),
                other => regex.is_match(&other.to_string()),
            }),
            Compare::Equal => match first()? {
                None => self.another(observed).map(|()| false),
                order => Ok(order.is_some_and(Ordering::is_eq)),
            },
            Compare::NotEqual => self.differs(observed, first()?),
            Compare::Less => first().map(|order| order.is_some_and(Ordering::is_lt)),
            Compare::LessOrEqual => first().map(|order| order.is_some_and(Ordering::is_le)),
            Compare::Greater => first().map(|order| order.is_some_and(Ordering::is_gt)),
            Compare::GreaterOrEqual => first().map(|order| order.is_some_and(Ordering::is_ge)),
            Compare::In => {
                let mut why = None;
                for operand in &self.operands {
                    match self.order(observed, operand) {
                        Ok(Some(Ordering::Equal)) => return Ok(true),
                        Ok(_) => {}
                        Err(error) => why = Some(error),
                    }
                }
                why.map_or(Ok(false), Err)
            }
        }
    }

    /// Whether they differ.
    fn differs(&self, observed: &Observed, order: Option<Ordering>) -> Result<bool, String> {
        match order {
            None => self.another(observed).map(|()| true),
            Some(order) => Ok(order.is_ne()),
        }
    }

    /// Of a text that is another one.
    ///
    /// Errors: `0.0` is another text than `0`, but no other number: neither `=` nor `!=` is met.
    fn another(&self, observed: &Observed) -> Result<(), String> {
        let (Observed::Text(text), Reads::Untold, Some(operand)) =
            (observed, self.reads, self.operands.first())
        else {
            return Ok(());
        };
        let sign = if self.excludes() { "!=" } else { "=" };
        match (Decimal::parse(text), decimal(operand)) {
            (Some(seen), Some(number)) if seen == number => Err(format!(
                "another text, but the same number; write `number {sign} {operand}` or `text {sign} {operand}`"
            )),
            _ => Ok(()),
        }
    }

    /// How the observation stands to an operand; none where it is only known to be another.
    ///
    /// Errors: why they cannot be compared.
    fn order(&self, observed: &Observed, operand: &str) -> Result<Option<Ordering>, String> {
        let versions = |text: &str| {
            let version =
                |text: &str| Version::parse(text).ok_or_else(|| format!("`{}` is no version", short(text)));
            let (a, b) = (version(text)?, version(operand)?);
            a.order(&b)
                .map(Some)
                .ok_or_else(|| "which of the two is newer is not the same for everybody".into())
        };
        let numbers = |text: &str| {
            let number = |number: Option<Decimal>, text: &str| {
                number.ok_or_else(|| format!("`{}` is no number", short(text)))
            };
            Ok(Some(number(Decimal::parse(text), text)?.cmp(&number(decimal(operand), operand)?)))
        };
        let same = |text: &str| Ok((text == operand).then_some(Ordering::Equal));
        match (observed, self.reads) {
            (Observed::Text(text), Reads::Untold) if self.orders() => match ordered(operand) {
                Ordered::Number => numbers(text),
                Ordered::Version => versions(text),
                Ordered::Either => Err(either(&self.text, operand)),
                Ordered::No => Err(NO_ORDER.into()),
            },
            (Observed::Text(text) | Observed::Version(text), Reads::Text)
            | (Observed::Text(text), Reads::Untold) => same(text),
            (Observed::Exact(number), Reads::Text) => same(number.text()),
            (Observed::Text(text), Reads::Number) => numbers(text),
            (Observed::Exact(number), Reads::Number | Reads::Untold) => numbers(number.text()),
            (Observed::Text(text) | Observed::Version(text), Reads::Version)
            | (Observed::Version(text), Reads::Untold) => versions(text),
            (Observed::Exact(number), Reads::Version) => versions(number.text()),
            (Observed::Number(number, Unit::Plain), Reads::Number | Reads::Untold) => {
                let number = Decimal::of(*number).ok_or_else(|| format!("{number} is no number"))?;
                numbers(number.text())
            }
            (Observed::Number(number, unit), Reads::Untold) => {
                let operand = parse_operand(operand, *unit)?;
                number.partial_cmp(&operand).map(Some).ok_or_else(|| format!("{number} is no number"))
            }
            (Observed::Flag(flag), Reads::Untold) => match operand.parse::<bool>() {
                Ok(operand) => Ok(Some(flag.cmp(&operand))),
                Err(_) => Err(format!("`{operand}` is not true or false")),
            },
            (Observed::Number(..) | Observed::Flag(_) | Observed::Version(_), _) => {
                Err(format!("`{}` says what a text is, and this is none", self.text))
            }
        }
    }
}

const NO_ORDER: &str =
    "texts have no order: compare with `=`, `!=`, `~` or `in`, or with a number or a version";

/// As what an operand orders texts.
enum Ordered {
    /// `5`, and shares such as `0.10`.
    Number,
    /// `1.2.3`, `v2`, `1.0-rc1`.
    Version,
    /// `1.10` is both.
    Either,
    No,
}

fn ordered(operand: &str) -> Ordered {
    let plain = operand.strip_prefix(['+', '-']).unwrap_or(operand);
    let may_be_version = Version::parse(operand).is_some() && plain.contains('.') && !plain.starts_with("0.");
    match decimal(operand) {
        Some(_) if may_be_version => Ordered::Either,
        Some(_) => Ordered::Number,
        None if Version::parse(operand).is_some() => Ordered::Version,
        None => Ordered::No,
    }
}

fn either(text: &str, operand: &str) -> String {
    format!("`{operand}` may be a number or a version; write `number {text}` or `version {text}`")
}

/// `version >= 1.10` says that it is a version. Without a comparison behind it the word is a part of the value.
fn told(text: &str) -> (Reads, &str) {
    for (word, reads) in WORDS {
        let Some(rest) = text.strip_prefix(word).filter(|rest| rest.starts_with(char::is_whitespace)) else {
            continue;
        };
        let rest = rest.trim_start();
        if rest.starts_with(['<', '>', '=', '!', '~', '≤', '≥', '≠']) || rest.starts_with("in ") {
            return (reads, rest);
        }
    }
    (Reads::Untold, text)
}

/// A number of a plan, in which `_` may part the digits.
fn decimal(operand: &str) -> Option<Decimal> {
    let parted = |at: usize| {
        let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        digit(operand.as_bytes().get(at.wrapping_sub(1))) && digit(operand.as_bytes().get(at + 1))
    };
    if operand.match_indices('_').any(|(at, _)| !parted(at)) {
        return None;
    }
    Decimal::parse(&operand.replace('_', ""))
}

/// The beginning of a text, for a message.
fn short(text: &str) -> String {
    let text = crate::redact::redact(text);
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse_parted(&Parted::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Expectation {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Expectation".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number", "boolean"],
            "description": "A value (equals) or `<` `<=` `>` `>=` `!=` `~` (regular expression) `in` and a value with its unit; of a text, `number >= 1.5` and `version >= 1.10` say what it is"
        })
    }
}

#[cfg(test)]
mod tests;
