//! One server or several, as a plan names them, and what may stand in front of them.

use schemars::JsonSchema;
use serde::Deserialize;

/// One server, or several.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum Servers {
    One(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> serde::de::Visitor<'de> for Texts {
            type Value = Servers;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a server, or a list of servers")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Servers, E> {
                Ok(Servers::One(text.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Servers, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Servers::Several(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

impl Servers {
    /// Each of them, as the plan has it.
    pub(super) fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        }
    }
}

/// What is done about a cache in front of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cache {
    /// No promotion begins.
    #[default]
    Refused,
    /// The split holds for what the cache does not answer.
    Allowed,
}
