//! What JSON holds at a pointer, as an observation.

use serde_json::Value;

use crate::units::{Observed, Unit};

/// JSON pointers (RFC 6901) begin with `/`; what they find may be of any dimension.
pub(super) fn pointer_unit(name: &str) -> Option<Unit> {
    name.starts_with('/').then_some(Unit::Text)
}

/// What the pointer finds: nothing for `null` and where there is nothing.
pub(super) fn at(json: &Value, pointer: &str) -> Option<Observed> {
    match json.pointer(pointer)? {
        Value::Null => None,
        Value::Bool(flag) => Some(Observed::Flag(*flag)),
        Value::Number(number) => number.as_f64().map(|n| Observed::Number(n, Unit::Plain)),
        Value::String(text) => Some(Observed::Text(text.clone())),
        // A list or an object is compared by its text.
        other => Some(Observed::Text(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_scalars_and_nothing_where_there_is_nothing() {
        let json = serde_json::json!({"a": {"b": [1, "x", true, null, {"c": 1}]}});
        assert_eq!(at(&json, "/a/b/0"), Some(Observed::Number(1.0, Unit::Plain)));
        assert_eq!(at(&json, "/a/b/1"), Some(Observed::Text("x".into())));
        assert_eq!(at(&json, "/a/b/2"), Some(Observed::Flag(true)));
        assert_eq!(at(&json, "/a/b/3"), None);
        assert_eq!(at(&json, "/a/b/4"), Some(Observed::Text("{\"c\":1}".into())));
        assert_eq!(at(&json, "/a/x"), None);
    }
}
