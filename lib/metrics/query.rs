//! Queries of a plan: one that tells the sides apart, or one for each side.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::Deserializer;

use super::{Ask, Order, Trouble, template};
use crate::yaml::{Node, Problem, Value};

/// A query as it stands in a plan: a text, or `{blue: …, green: …}`.
#[derive(Clone, Debug)]
pub(super) struct Written(Node);

/// A query for each side, with places for the window; the same twice where there are no sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    blue: String,
    green: String,
}

/// What tells the sides apart.
const OF_A_SIDE: &[&str] = &["side", "release", "address"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Each {
    blue: String,
    green: String,
}

impl Written {
    /// The texts for blue and green.
    ///
    /// Errors: neither a text nor one for each side, or a variable that is not set.
    pub(super) fn texts(&self, order: &Order<'_>) -> Result<[String; 2], Problem> {
        if matches!(self.0.value, Value::Mapping(_)) {
            let each: Each = self.0.read(order.variables)?;
            if !order.sides {
                let message = "there are no sides here, and so no query for each";
                return Err(Problem::at(self.0.place, message).help("write one text"));
            }
            return Ok([each.blue, each.green]);
        }
        let text: String = self.0.read(order.variables)?;
        Ok([text.clone(), text])
    }

    /// The query, checked.
    ///
    /// Errors: as [`Self::texts`] and [`Query::new`].
    pub(super) fn query(&self, order: &Order<'_>, key: &str) -> Result<Query, Problem> {
        Query::new(order, key, self.texts(order)?)
    }
}

impl Query {
    /// A query whose texts stand under the setting `key`.
    ///
    /// Errors: it is empty, names what is not known, or is the same for both sides: a series that is
    /// compared with itself never differs.
    pub(super) fn new(order: &Order<'_>, key: &str, texts: [String; 2]) -> Result<Self, Problem> {
        for text in &texts {
            template::check(text).map_err(|message| order.problem(key, message))?;
            if text.trim().is_empty() {
                return Err(order.problem(key, format!("`{key}` is empty")));
            }
        }
        // A block of YAML ends with a line break.
        let [blue, green] = texts.map(|text| text.trim().to_owned());
        let named = OF_A_SIDE.iter().find(|hole| template::names(&blue, hole));
        match named {
            Some(hole) if !order.sides => {
                let message = format!("there are no sides here, and so nothing to fill in for `{hole}`");
                return Err(order.problem(key, message));
            }
            None if order.sides && blue == green => {
                let message =
                    format!("`{key}` asks for the same on both sides: each would be compared with itself");
                return Err(order.problem(key, message).help(
                    "name `{{ side }}`, `{{ release }}` or `{{ address }}` in it, or write one for each: {blue: …, green: …}",
                ));
            }
            _ => {}
        }
        Ok(Self { blue, green })
    }

    /// Whether it names one of these, for both sides.
    pub(super) fn names_any(&self, holes: &[&str]) -> bool {
        [&self.blue, &self.green].iter().all(|text| holes.iter().any(|hole| template::names(text, hole)))
    }

    /// The query for one side and one window.
    ///
    /// Errors: it names what is not known of this side, or a release that would end a text in it.
    pub(super) fn fill(&self, ask: &Ask<'_>) -> Result<String, Trouble> {
        let text = if ask.side.word == "green" { &self.green } else { &self.blue };
        let names = |hole| template::names(text, hole);
        let side = if ask.side.word.is_empty() { "this side" } else { ask.side.word };
        let unknown = |hole: &str| {
            Trouble::refused(format!("the query names `{{{{ {hole} }}}}`, and that of {side} is not known"))
        };
        match ask.side.release.as_deref() {
            None | Some("") if names("release") => return Err(unknown("release")),
            // It comes out of an answer, and goes into a query.
            Some(release) if names("release") && !is_plain(release) => {
                let message =
                    format!("the release of {side} has characters that have a meaning in queries: {release}");
                return Err(Trouble::refused(message));
            }
            _ => {}
        }
        if names("side") && ask.side.word.is_empty() {
            return Err(unknown("side"));
        }
        if names("address") && ask.side.address().is_empty() {
            return Err(unknown("address"));
        }
        template::fill(text, ask).map_err(Trouble::refused)
    }

    /// The same for people; as it stands in the plan where it cannot be filled in.
    pub(super) fn show(&self, ask: &Ask<'_>) -> String {
        let text = if ask.side.word == "green" { &self.green } else { &self.blue };
        crate::redact::redact(&template::fill(text, ask).unwrap_or_else(|_| text.clone()))
    }
}

fn is_plain(release: &str) -> bool {
    // Where it is a part of an address, it leads nowhere else.
    release.chars().all(|c| c.is_ascii_alphanumeric() || "._-+:/@~".contains(c))
        && !release.split('/').any(|part| part == "..")
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for Written {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Query".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            {
                "type": "object",
                "properties": { "blue": { "type": "string" }, "green": { "type": "string" } },
                "required": ["blue", "green"],
                "additionalProperties": false
            }
        ]})
    }
}
