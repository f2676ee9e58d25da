//! The comparisons of `expect`: `200`, `<= 100ms`, `~ ^ok`, `in 200, 204`.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::units::{Observed, Unit, parse_operand};

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

type MakeCompare = fn() -> Compare;

/// One line of `expect`: `200`, `<= 100ms`, `~ ^ok`, `in 200, 204`.
#[derive(Clone, Debug)]
pub struct Expectation {
    text: String,
    compare: Compare,
    operands: Vec<String>,
}

/// `1.10` is newer than `1.9`: dotted numbers compare part by part.
fn version_order(a: &str, b: &str) -> Option<std::cmp::Ordering> {
    let parts = |t: &str| -> Option<Vec<u64>> {
        t.trim_start_matches(['v', 'V']).split('.').map(|p| p.parse().ok()).collect()
    };
    let (mut a, mut b) = (parts(a)?, parts(b)?);
    let length = a.len().max(b.len());
    a.resize(length, 0);
    b.resize(length, 0);
    Some(a.cmp(&b))
}

impl Expectation {
    /// Reads `<= 100ms`, `~ ^ok`, `in 200, 204`, `!= 0`, or a bare value (equals).
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let operators: [(&str, MakeCompare); 7] = [
            ("<=", || Compare::LessOrEqual),
            (">=", || Compare::GreaterOrEqual),
            ("!=", || Compare::NotEqual),
            ("==", || Compare::Equal),
            ("<", || Compare::Less),
            (">", || Compare::Greater),
            ("=", || Compare::Equal),
        ];
        let (compare, operands) = if let Some(pattern) = trimmed.strip_prefix('~') {
            let regex = Regex::new(pattern.trim()).map_err(|e| format!("not a regular expression: {e}"))?;
            (Compare::Matches(regex), vec![pattern.trim().to_owned()])
        } else if let Some(list) = trimmed.strip_prefix("in ") {
            let list = list.trim().trim_start_matches('[').trim_end_matches(']');
            (Compare::In, list.split(',').map(|item| item.trim().to_owned()).collect())
        } else if let Some((sign, make)) = operators.iter().find(|(sign, _)| trimmed.starts_with(sign)) {
            (make(), vec![trimmed[sign.len()..].trim().to_owned()])
        } else {
            (Compare::Equal, vec![trimmed.to_owned()])
        };
        if operands.iter().any(String::is_empty) && !matches!(compare, Compare::Equal | Compare::NotEqual) {
            return Err(format!("`{text}` compares with nothing"));
        }
        Ok(Self { text: trimmed.to_owned(), compare, operands })
    }

    /// The text as the plan has it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same as a lower bound, where the plan gives a bare value: a bare minimum is a minimum, so
    /// `min_version: "1.2"` is met by a server that speaks only 1.3.
    #[must_use]
    pub fn or_at_least(self) -> Self {
        if matches!(self.compare, Compare::Equal) && !self.text.starts_with('=') {
            return Self { text: format!(">= {}", self.text), compare: Compare::GreaterOrEqual, ..self };
        }
        self
    }

    /// Whether this comparison makes sense for a quantity of this dimension.
    pub fn fits(&self, unit: Unit) -> Result<(), String> {
        if matches!(self.compare, Compare::Matches(_)) {
            return Ok(());
        }
        for operand in &self.operands {
            match unit {
                Unit::Text => {}
                Unit::Flag if matches!(operand.as_str(), "true" | "false") => {}
                Unit::Flag => return Err(format!("`{operand}` is not true or false")),
                _ => drop(parse_operand(operand, unit)?),
            }
        }
        Ok(())
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
        if let Compare::Matches(regex) = &self.compare {
            return match observed {
                Observed::Text(text) => regex.is_match(text),
                other => regex.is_match(&other.to_string()),
            };
        }
        let each = |operand: &String| -> Option<std::cmp::Ordering> {
            match observed {
                Observed::Number(n, _) => {
                    let operand = parse_operand(operand, observed.unit()).ok()?;
                    n.partial_cmp(&operand)
                }
                Observed::Flag(flag) => operand.parse::<bool>().ok().map(|o| flag.cmp(&o)),
                Observed::Text(text) if text == operand => Some(std::cmp::Ordering::Equal),
                Observed::Text(text) => version_order(text, operand).or_else(|| {
                    // Texts that are no versions are ordered by nothing, only equal or not.
                    matches!(self.compare, Compare::Equal | Compare::NotEqual | Compare::In)
                        .then(|| text.as_str().cmp(operand))
                }),
            }
        };
        let first = || self.operands.first().and_then(each);
        match &self.compare {
            Compare::Equal => first().is_some_and(std::cmp::Ordering::is_eq),
            Compare::NotEqual => first().is_some_and(std::cmp::Ordering::is_ne),
            Compare::Less => first().is_some_and(std::cmp::Ordering::is_lt),
            Compare::LessOrEqual => first().is_some_and(std::cmp::Ordering::is_le),
            Compare::Greater => first().is_some_and(std::cmp::Ordering::is_gt),
            Compare::GreaterOrEqual => first().is_some_and(std::cmp::Ordering::is_ge),
            Compare::In => self.operands.iter().any(|o| each(o).is_some_and(std::cmp::Ordering::is_eq)),
            Compare::Matches(_) => false,
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
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
            "description": "A value (equals) or `<` `<=` `>` `>=` `!=` `~` (regular expression) `in` and a value with its unit"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_with_units_and_never_passes_on_nan() {
        let met =
            |text: &str, observed: Observed| Expectation::parse(text).is_ok_and(|e| e.met_by(&observed));
        assert!(met("<= 100ms", Observed::Number(0.1, Unit::Duration)));
        assert!(!met("<= 100ms", Observed::Number(0.1001, Unit::Duration)));
        assert!(met("200", Observed::Number(200.0, Unit::Plain)));
        assert!(met("in 200, 204", Observed::Number(204.0, Unit::Plain)));
        assert!(met("~ ^o.k$", Observed::Text("o k".into())));
        assert!(met(">= 1.2", Observed::Text("1.10".into())));
        assert!(!met("> apple", Observed::Text("pear".into())));
        assert!(met("!= error", Observed::Text("fine".into())));
        let least = |text: &str| Expectation::parse(text).map(Expectation::or_at_least);
        assert!(least("1.2").is_ok_and(|e| e.met_by(&Observed::Text("1.3".into()))));
        assert!(least("1.2").is_ok_and(|e| !e.met_by(&Observed::Text("1.1".into()))));
        assert!(least("== 1.2").is_ok_and(|e| !e.met_by(&Observed::Text("1.3".into()))));
        assert!(met("true", Observed::Flag(true)));
        for text in ["<= 1", ">= 1", "!= 1", "1", "in 1, 2"] {
            assert!(!met(text, Observed::Number(f64::NAN, Unit::Plain)), "{text}");
        }
        assert!(Expectation::parse("<= 100").is_ok_and(|e| e.fits(Unit::Duration).is_err()));
        assert!(Expectation::parse("~ (").is_err());
    }
}
