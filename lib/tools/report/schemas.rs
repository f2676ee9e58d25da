//! The JSON Schemas of the documents, as `docs/schemas/` publishes them.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::evidence::{
    ApprovalBody, BaselineBody, Body, Document, DrillBody, PreflightBody, PromoteBody, ReportBody,
    SnapshotBody, VerifyBody,
};
use crate::fault::Fault;
use crate::tools::promote::Status;

/// A published schema.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its file: `preflight.v1.json`.
    pub file: String,
    /// Its text, indented, with a line break at the end.
    pub text: String,
}

/// The schema of every document.
///
/// Errors (4): a schema cannot be written as JSON.
pub fn all() -> Result<Vec<Published>, Fault> {
    [
        document::<PreflightBody>("what preflight saw before anything moved"),
        document::<SnapshotBody>("what was backed up, and the proof that it can be read back"),
        document::<DrillBody>("whether the way back works, how long it takes, how much would be lost"),
        document::<BaselineBody>("how the service behaved before the release"),
        document::<PromoteBody>("how traffic moved, who decided what, on which figures"),
        document::<ApprovalBody>("what somebody in a role approved"),
        document::<VerifyBody>("whether the release held"),
        document::<ReportBody>("what was rendered, and how the release ended"),
    ]
    .into_iter()
    .chain([status()])
    .map(|(name, schema)| published(&name, &schema))
    .collect()
}

/// A schema as a file of `docs/schemas/`.
///
/// Errors (4): it cannot be written as JSON.
pub fn published(name: &str, schema: &Value) -> Result<Published, Fault> {
    let mut text = serde_json::to_string_pretty(schema)
        .map_err(|e| Fault::infrastructure("a schema cannot be written").cause(e))?;
    text.push('\n');
    Ok(Published { file: format!("{name}.v1.json"), text })
}

/// What `promote status --json` prints; no document, for it changes with every look.
fn status() -> (String, Value) {
    let about = "what `promote status --json` prints: the promotion, and what the router does now; `null` where nothing \
                 was ever promoted. Readers must accept keys that are not named here.";
    let generated = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Option<Status>>();
    let mut schema = opened("status", "promote status --json", about, generated.to_value());
    sharpen("", &mut schema);
    ("status".into(), schema)
}

fn document<B: Body>(about: &str) -> (String, Value) {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let generated = generator.into_root_schema_for::<Document<B>>().to_value();
    let about = format!(
        "{}: {about}. Written by `{}`. Readers must accept keys that are not named here.",
        B::schema(),
        B::TOOL
    );
    let mut schema = opened(B::NAME, B::FILE, &about, generated);
    if let Some(name) = schema.pointer_mut("/properties/schema") {
        *name = json!({ "description": "The name of this schema.", "const": B::schema() });
    }
    sharpen("", &mut schema);
    (B::NAME.to_owned(), schema)
}

/// A schema with the head of a published one.
fn opened(name: &str, title: &str, about: &str, generated: Value) -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("$id".into(), json!(format!("urn:trapkey:schema:{name}:v1")));
    schema.insert("title".into(), json!(title));
    schema.insert("description".into(), json!(about));
    if let Value::Object(rest) = generated {
        for (key, value) in rest {
            if !matches!(key.as_str(), "$schema" | "title" | "description") {
                schema.insert(key, value);
            }
        }
    }
    Value::Object(schema)
}

/// Says what a name implies: moments are RFC 3339, digests 64 hexadecimal digits.
fn sharpen(name: &str, schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let text = map.get("type").is_some_and(|t| *t == "string" || *t == json!(["string", "null"]));
            if text && (name == "at" || name == "window_from" || name.ends_with("_at")) {
                map.insert("format".into(), json!("date-time"));
            }
            if text && name == "sha256" {
                map.insert("pattern".into(), json!("^[0-9a-f]{64}$"));
            }
            for (key, value) in map.iter_mut() {
                sharpen(key, value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| sharpen(name, item)),
        _ => {}
    }
}
