//! The published schemas: they are what the code says, and every document fits its own.

use std::path::Path;

use serde_json::Value;

use super::samples::{ENDS, Sample};
use crate::support::{call, folder, json};

const NAMES: &[&str] = &["preflight", "snapshot", "baseline", "promote", "verify", "report"];

fn published() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas")
}

#[test]
fn the_published_schemas_are_what_the_code_says() {
    let fresh = folder();
    let ended = call("report", fresh.path(), &["schemas", "--to", "out"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mut seen = 0;
    for entry in std::fs::read_dir(fresh.path().join("out")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let generated = std::fs::read_to_string(entry.path()).unwrap();
        let file = std::fs::read_to_string(published().join(&name)).unwrap_or_default();
        assert!(generated == file, "docs/schemas/{name} is behind: run `report schemas --to docs/schemas`");
        seen += 1;
    }
    assert!(seen >= NAMES.len());
}

fn validator(name: &str) -> jsonschema::Validator {
    let schema = json(&published().join(format!("{name}.v1.json")));
    assert_eq!(schema["$id"], format!("urn:trapkey:schema:{name}:v1"));
    assert!(schema["title"].is_string() && schema["description"].is_string());
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn every_document_of_every_outcome_fits_its_schema() {
    let validators: Vec<_> = NAMES.iter().map(|name| (*name, validator(name))).collect();
    let mut checked = 0;
    for (end, _) in ENDS {
        let sample = Sample::of(*end);
        assert_eq!(sample.render().code, 0);
        for (name, validator) in &validators {
            let path = sample.file(&format!("{name}.json"));
            if path.exists() {
                let errors: Vec<_> = validator.iter_errors(&json(&path)).map(|e| e.to_string()).collect();
                assert!(errors.is_empty(), "{end:?} {name}: {errors:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn a_schema_refuses_what_is_not_its_document() {
    let sample = Sample::of(super::samples::End::Promoted);
    let document = json(&sample.file("promote.json"));
    let promote = validator("promote");
    assert!(promote.is_valid(&document));
    assert!(!validator("verify").is_valid(&document), "another document's name");
    let broken: &[(&str, Value)] = &[
        ("/verdict", "perhaps".into()),
        ("/needs/0/sha256", "short".into()),
        ("/promotion/outcome", "lost".into()),
        ("/promotion/steps/0/weight", "5%".into()),
        ("/run/started_at", Value::Null),
    ];
    for (place, value) in broken {
        let mut document = document.clone();
        *document.pointer_mut(place).unwrap() = value.clone();
        assert!(!promote.is_valid(&document), "{place}");
    }
    let mut document = document;
    document["added_later"] = true.into();
    assert!(promote.is_valid(&document), "later versions may add keys");
}
