//! What `preflight` prints and writes beside the gate: schemas, tables, the annotated plan.

use serde_json::Value;
use trapkey::checks;
use trapkey::evidence::{Document, PreflightBody};
use trapkey::tools::preflight::{ANNOTATED_PLAN, plan_schema};
use trapkey::yaml;

use crate::support::{call, folder, json};

fn as_json(plan: &str) -> Value {
    yaml::parse(plan).unwrap().read(&|_: &str| Some("postgres://a@b/c".to_owned())).unwrap()
}

#[test]
fn the_annotated_plan_validates_here_and_against_its_schema() {
    let folder = folder();
    let written = call("preflight", folder.path(), &["init"]);
    assert_eq!(written.code, 0, "{written:?}");
    let path = folder.path().join("release.yaml");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ANNOTATED_PLAN);
    let loaded = trapkey::plan::Loaded::read(&path, [].into()).unwrap();
    let plan = &loaded.plan;
    for specs in [&plan.preflight.as_ref().unwrap().checks, &plan.verify.as_ref().unwrap().checks] {
        if let Err(fault) = checks::prepare(specs, &loaded) {
            panic!("{fault}");
        }
    }
    let used: Vec<&str> =
        plan.preflight.as_ref().unwrap().checks.iter().map(|check| check.kind.as_str()).collect();
    for kind in checks::ALL {
        assert!(used.contains(&kind.name), "the annotated plan shows no `{}`", kind.name);
    }
    let validator = jsonschema::validator_for(&plan_schema()).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&as_json(ANNOTATED_PLAN))
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn the_annotated_plan_names_every_key_that_a_plan_may_have() {
    let schema = plan_schema();
    let mut missing = Vec::new();
    let definitions = schema["$defs"].as_object().unwrap().values();
    for shape in definitions.chain([&schema]) {
        for name in shape["properties"].as_object().into_iter().flat_map(|map| map.keys()) {
            // A key, or a word of a comment that explains it.
            let word = regex::Regex::new(&format!(r"(?m)(\b{name}:|#.*\b{name}\b)")).unwrap();
            if !word.is_match(ANNOTATED_PLAN) {
                missing.push(name.clone());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn init_never_writes_over_a_plan() {
    let folder = folder();
    let path = folder.path().join("mine.yaml");
    std::fs::write(&path, "mine").unwrap();
    let ended = call("preflight", folder.path(), &["init", "--plan", "mine.yaml"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("there is a plan already"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(call("preflight", folder.path(), &["init", "--plan", "no/such/folder.yaml"]).code, 4);
}

#[test]
fn the_schema_refuses_what_the_plan_refuses() {
    let validator = jsonschema::validator_for(&plan_schema()).unwrap();
    let plan = |check: &str| {
        as_json(&format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.0}}\nx-mine: 1\npreflight: {{checks: [{{name: a, {check}}}]}}\n"
        ))
    };
    let fine = [
        "kind: http, target: \"https://x\", with: {follow: false, max_body: 2MiB}, expect: {/a: 1}",
        "kind: memory",
        "kind: command, target: [a, b]",
        "kind: file, target: x, expect: {exists: true}",
    ];
    let wrong = [
        "kind: htpt, target: x",
        "kind: http",
        "kind: http, target: \"https://x\", with: {folow: false}",
        "kind: file, target: x, expect: {sise: 1}",
        "kind: memory, target: x",
        "kind: metrics_file, target: x",
        "kind: file, target: x, severity: deadly",
        "kind: file, target: x, retries: many",
        "kind: file, target: x, colour: red",
    ];
    for check in fine {
        let plan = plan(check);
        let errors: Vec<String> = validator.iter_errors(&plan).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{check}: {errors:?}");
    }
    for check in wrong {
        assert!(!validator.is_valid(&plan(check)), "{check}");
    }
}

#[test]
fn the_document_validates_against_its_schema() {
    let folder = folder();
    let plan = "version: 1\nservice: shop\nrelease: {version: 1.0}\npreflight:\n  checks:\n    \
                - {name: a, kind: file, target: release.yaml, controls: [\"soc2:A1.2\"]}\n    \
                - {name: b, kind: file, target: none, retries: 1, retry_delay: 1ms}\n    \
                - {name: c, kind: file, target: release.yaml, needs: [b]}\n";
    std::fs::write(folder.path().join("release.yaml"), plan).unwrap();
    assert_eq!(call("preflight", folder.path(), &[]).code, 1);
    let schema = schemars::schema_for!(Document<PreflightBody>).to_value();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let document = json(&folder.path().join("evidence/preflight.json"));
    let errors: Vec<String> =
        validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let mut broken = document;
    broken["verdict"] = "fine".into();
    assert!(!validator.is_valid(&broken));
}

#[test]
fn kinds_explain_and_schema_are_data_on_stdout() {
    let folder = folder();
    let out = |arguments: &[&str]| {
        let ended = call("preflight", folder.path(), arguments);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{arguments:?}");
        ended.stdout
    };
    assert!(out(&["kinds"]).contains("metrics_file"));
    assert!(out(&["kinds", "--markdown"]).contains("| `postgres` |"));
    let kinds: Value = serde_json::from_str(&out(&["kinds", "--json"])).unwrap();
    assert_eq!(kinds["checks"].as_array().unwrap().len(), checks::ALL.len());
    assert!(out(&["explain", "tls"]).contains("min_version"));
    let schema: Value = serde_json::from_str(&out(&["schema"])).unwrap();
    assert_eq!(schema, plan_schema());
    let unknown = call("preflight", folder.path(), &["explain", "postgers"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean `postgres`?"), "{}", unknown.stderr);
}
