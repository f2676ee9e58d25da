//! The JSON Schema of the plan: its shape, and below each check what its kind allows.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::checks::{self, Kind};
use crate::plan::Plan;
use crate::{metrics, routers, sources};

/// The JSON Schema (2020-12) of `release.yaml`, for editors and for `check-jsonschema`.
///
/// `with`, `target` and the names in `expect` of each check depend on its `kind`.
pub fn plan_schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let checks: Vec<Value> =
        checks::ALL.iter().map(|kind| rule(kind, (kind.settings)(&mut generator).to_value())).collect();
    let sources: Vec<Value> = sources::ALL
        .iter()
        .map(|kind| when(kind.name, &with((kind.settings)(&mut generator).to_value())))
        .collect();
    let routers: Vec<Value> = routers::ALL
        .iter()
        .map(|kind| when(kind.name, &with((kind.settings)(&mut generator).to_value())))
        .collect();
    let metrics: Vec<Value> = metrics::ALL
        .iter()
        .map(|kind| when(kind.name, &with((kind.settings)(&mut generator).to_value())))
        .collect();
    let series: Vec<&metrics::Kind> =
        metrics::ALL.iter().filter(|kind| kind.gives == metrics::Gives::Points).copied().collect();
    let live: Vec<Value> = series
        .iter()
        .map(|kind| when(kind.name, &with((kind.settings)(&mut generator).to_value())))
        .collect();
    let mut schema = generator.into_root_schema_for::<Plan>().to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".into(), json!("Trapkey plan"));
        // Keys that begin with `x-` are the user's own, a place for anchors.
        root.insert("patternProperties".into(), json!({ "^x-": true }));
    }
    if let Some(version) = schema.pointer_mut("/properties/version") {
        *version = json!({ "const": 1, "description": "The version of this format." });
    }
    choose(&mut schema, "CheckSpec", &checks::ALL.iter().map(|k| k.name).collect::<Vec<_>>(), checks);
    choose(&mut schema, "SourceSpec", &sources::ALL.iter().map(|k| k.name).collect::<Vec<_>>(), sources);
    choose(&mut schema, "MetricSpec", &metrics::ALL.iter().map(|k| k.name).collect::<Vec<_>>(), metrics);
    choose(&mut schema, "VerifyMetric", &series.iter().map(|k| k.name).collect::<Vec<_>>(), live);
    choose(&mut schema, "RouterSpec", &routers::ALL.iter().map(|k| k.name).collect::<Vec<_>>(), routers);
    schema
}

/// Lets `kind` be one of some names, and the rules decide what else may stand beside it.
fn choose(schema: &mut Value, definition: &str, names: &[&str], rules: Vec<Value>) {
    let Some(spec) = schema.pointer_mut(&format!("/$defs/{definition}")) else { return };
    if let Some(object) = spec.as_object_mut() {
        object.insert("allOf".into(), Value::Array(rules));
    }
    if let Some(kind) = spec.pointer_mut("/properties/kind").and_then(Value::as_object_mut) {
        kind.insert("enum".into(), json!(names));
    }
}

/// The settings of a kind below `with`.
fn with(mut settings: Value) -> Value {
    // The reader takes an empty `with:` for an absent one.
    if let Some(object) = settings.as_object_mut().filter(|object| object.contains_key("properties")) {
        object.insert("type".into(), json!(["object", "null"]));
    }
    if let Some(object) = settings.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
    json!({ "properties": { "with": settings } })
}

fn when(kind: &str, then: &Value) -> Value {
    json!({ "if": { "properties": { "kind": { "const": kind } }, "required": ["kind"] }, "then": then })
}

fn rule(kind: &Kind, settings: Value) -> Value {
    let mut then = with(settings);
    if kind.target.is_empty() {
        then["properties"]["target"] = json!(false);
    } else {
        then["required"] = json!(["target"]);
    }
    if kind.open_names.is_none() {
        let names: Vec<&str> = kind.observes.iter().map(|observable| observable.name).collect();
        then["properties"]["expect"] = json!({ "propertyNames": { "enum": names } });
    }
    if kind.presumes.is_empty() {
        let mut required: Vec<&str> = vec!["expect"];
        required.extend((!kind.target.is_empty()).then_some("target"));
        then["required"] = json!(required);
    }
    when(kind.name, &then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_rule_and_its_settings_refuse_unknown_keys() {
        let schema = plan_schema();
        let rules = schema.pointer("/$defs/CheckSpec/allOf").and_then(Value::as_array).unwrap();
        assert_eq!(rules.len(), checks::ALL.len());
        for rule in rules {
            let with = rule.pointer("/then/properties/with").unwrap();
            assert_eq!(with["additionalProperties"], json!(false), "{rule}");
        }
        assert_eq!(schema["patternProperties"]["^x-"], json!(true));
        assert_eq!(schema["properties"]["version"]["const"], json!(1));
    }
}
