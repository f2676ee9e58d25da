//! What JSON holds at a pointer, as an observation.

use std::borrow::Cow;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Sight;
use crate::units::{Decimal, Observed, Unit};

/// JSON pointers (RFC 6901) begin with `/`; what they find may be of any dimension.
pub(super) fn pointer_unit(name: &str) -> Option<Unit> {
    name.starts_with('/').then_some(Unit::Json)
}

/// A document of JSON whose numbers keep all their digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    /// Reads it; a byte order mark in front does no harm.
    ///
    /// Errors: it is no JSON.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).map(Self)
    }

    /// What stands under a key of an object.
    pub(super) fn get(self, key: &str) -> Option<Self> {
        if !self.0.get().starts_with('{') {
            return None;
        }
        let mut deserializer = serde_json::Deserializer::from_str(self.0.get());
        deserializer.deserialize_map(Under(key)).ok().flatten().map(Self)
    }

    fn item(self, number: &str) -> Option<Self> {
        // As RFC 6901 has it: no zeros in front, no sign.
        let plain = number == "0" || (!number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit()));
        let number: usize = number.parse().ok().filter(|_| plain)?;
        let mut deserializer = serde_json::Deserializer::from_str(self.0.get());
        deserializer.deserialize_seq(Item(number)).ok().flatten().map(Self)
    }

    /// What a pointer finds.
    pub(super) fn at(self, pointer: &str) -> Option<Self> {
        pointer.strip_prefix('/')?.split('/').try_fold(self, |json, piece| {
            let piece = piece.replace("~1", "/").replace("~0", "~");
            if json.0.get().starts_with('[') { json.item(&piece) } else { json.get(&piece) }
        })
    }

    /// What the pointer finds as an observation: nothing for `null` and where there is nothing.
    pub(super) fn observed(self, pointer: &str) -> Option<Observed> {
        match self.at(pointer)?.observation()? {
            Observed::Text(text) if self.is_sample(pointer) => {
                // Prometheus writes the values of samples as texts.
                Some(match Decimal::parse(&text) {
                    Some(number) => Observed::Exact(number),
                    None => text.parse().map_or(Observed::Text(text), |n| Observed::Number(n, Unit::Plain)),
                })
            }
            other => Some(other),
        }
    }

    /// Every value in the list or the object that a pointer finds, however deep; none where it finds a single value.
    pub(super) fn hits(self, pointer: &str) -> Option<Vec<String>> {
        let text = self.at(pointer)?.0.get();
        if !text.starts_with(['[', '{']) {
            return None;
        }
        let whole: Value = serde_json::from_str(text).ok()?;
        let (mut hits, mut left) = (Vec::new(), vec![&whole]);
        while let Some(value) = left.pop() {
            match value {
                Value::Array(items) => left.extend(items),
                Value::Object(entries) => left.extend(entries.values()),
                Value::Null => {}
                Value::String(text) => hits.push(text.clone()),
                other => hits.push(other.to_string()),
            }
        }
        Some(hits)
    }

    /// What the pointer finds, added to what was seen, and whether it finds anything.
    pub(super) fn add(self, sight: Sight, pointer: &str) -> (Sight, bool) {
        let Some(observed) = self.observed(pointer) else { return (sight, false) };
        let sight = sight.saw(pointer, observed);
        let Some(hits) = self.hits(pointer) else { return (sight, true) };
        (hits.into_iter().fold(sight.several(pointer), |sight, hit| sight.line_of(pointer, hit)), true)
    }

    /// It as a number.
    pub(super) fn number(self) -> Option<Decimal> {
        if self.0.get().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            Decimal::parse(self.0.get())
        } else {
            None
        }
    }

    fn observation(self) -> Option<Observed> {
        let text = self.0.get();
        match text.as_bytes().first()? {
            b'n' => None,
            b't' => Some(Observed::Flag(true)),
            b'f' => Some(Observed::Flag(false)),
            b'"' => serde_json::from_str(text).ok().map(Observed::Text),
            // A list or an object is compared by its text.
            b'[' | b'{' => {
                serde_json::from_str::<Value>(text).ok().map(|value| Observed::Text(value.to_string()))
            }
            _ => self.number().map(Observed::Exact),
        }
    }

    /// Whether the pointer names the value of a sample in an answer of Prometheus' query API.
    fn is_sample(self, pointer: &str) -> bool {
        let kind = self.at("/data/resultType").and_then(Self::observation);
        let Some(Observed::Text(kind)) = kind else { return false };
        let pieces: Vec<&str> = pointer.split('/').skip(1).collect();
        matches!(
            (kind.as_str(), pieces.as_slice()),
            ("vector", ["data", "result", _, "value", "1"])
                | ("matrix", ["data", "result", _, "values", _, "1"])
                | ("scalar", ["data", "result", "1"])
        )
    }
}

/// The last value under a key, as other readers of JSON have it.
struct Under<'k>(&'k str);

impl<'de> Visitor<'de> for Under<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((key, value)) = map.next_entry::<Cow<'_, str>, &RawValue>()? {
            if key == self.0 {
                found = Some(value);
            }
        }
        Ok(found)
    }
}

/// The item of a list at a place, without keeping the others.
struct Item(usize);

impl<'de> Visitor<'de> for Item {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut number = 0;
        while let Some(item) = list.next_element::<&RawValue>()? {
            if number == self.0 {
                found = Some(item);
            }
            number += 1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(json: &str, pointer: &str) -> Option<Observed> {
        Json::read(json.as_bytes()).unwrap().observed(pointer)
    }

    fn exact(text: &str) -> Option<Observed> {
        Decimal::parse(text).map(Observed::Exact)
    }

    #[test]
    fn finds_scalars_and_nothing_where_there_is_nothing() {
        let json = r#" {"a": {"b": [1, "x", true, null, {"c": 1}], "d\u002fe": "é", "~": 2}, "": 3, "a": 4, "a": {"b":
            [10, "x", false, null, {"c" : 1}, []], "d\u002fe": "\u00e9", "~": 2, "": {"": 5}}} "#;
        assert_eq!(at(json, "/a/b/0"), exact("10"));
        assert_eq!(at(json, "/a/b/1"), Some(Observed::Text("x".into())));
        assert_eq!(at(json, "/a/b/2"), Some(Observed::Flag(false)));
        assert_eq!(at(json, "/a/b/3"), None);
        assert_eq!(at(json, "/a/b/4"), Some(Observed::Text("{\"c\":1}".into())));
        assert_eq!(at(json, "/a/d~1e"), Some(Observed::Text("é".into())));
        assert_eq!(at(json, "/a/~0"), exact("2"));
        assert_eq!(at(json, "/"), exact("3"));
        assert_eq!(at(json, "/a//"), exact("5"));
        for nothing in ["/a/x", "/a/b/6", "/a/b/00", "/a/b/+1", "/a/b/-", "/a/b/1/x", "/x"] {
            assert_eq!(at(json, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_a_mark_in_front_does_no_harm() {
        let json = "\u{feff}{\"id\": 9007199254740993, \"n\": -0.30000000000000000000001, \"e\": 1E-3, \"far\": 1e999}";
        assert_eq!(at(json, "/id"), exact("9007199254740993"));
        assert_ne!(at(json, "/id"), exact("9007199254740992"));
        assert_eq!(at(json, "/n"), exact("-0.30000000000000000000001"));
        assert_eq!(at(json, "/e"), exact("0.001"));
        assert_eq!(at(json, "/far"), exact("1e999"));
        assert!(Json::read(b"{\"a\": 1} x").is_err() && Json::read(b"{\"a\": 01}").is_err());
    }

    #[test]
    fn samples_of_prometheus_are_numbers_and_other_texts_are_not() {
        let answer = |kind: &str, result: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
        };
        let vector = answer("vector", r#"[{"metric":{"version":"1.10"},"value":[1700000000.5,"1.50"]}]"#);
        assert_eq!(at(&vector, "/data/result/0/value/1"), exact("1.5"));
        assert_eq!(at(&vector, "/data/result/0/metric/version"), Some(Observed::Text("1.10".into())));
        let matrix = answer("matrix", r#"[{"metric":{},"values":[[1,"1e-3"],[2,"NaN"],[3,"+Inf"]]}]"#);
        assert_eq!(at(&matrix, "/data/result/0/values/0/1"), exact("0.001"));
        let last = |place: &str| at(&matrix, &format!("/data/result/0/values/{place}/1"));
        assert!(matches!(last("1"), Some(Observed::Number(n, _)) if n.is_nan()));
        assert!(matches!(last("2"), Some(Observed::Number(n, _)) if n.is_infinite()));
        assert_eq!(at(&answer("scalar", r#"[1,"2"]"#), "/data/result/1"), exact("2"));
        assert_eq!(at(&answer("string", r#"[1,"2"]"#), "/data/result/1"), Some(Observed::Text("2".into())));
        assert_eq!(at(&answer("vector", r#"["1"]"#), "/data/result/0"), Some(Observed::Text("1".into())));
    }
}
