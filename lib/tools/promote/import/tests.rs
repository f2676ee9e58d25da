//! Configurations in the shapes that are published: what they become is a plan that is taken.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::plan::Loaded;

fn field(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/imports").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The plan as the loader takes it, all that can be said of it without the world included.
fn taken(text: &str) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("release.yaml");
    std::fs::write(&path, text).unwrap();
    let loaded =
        Loaded::read(&path, BTreeMap::new()).unwrap_or_else(|fault| panic!("{}\n{text}", fault.line()));
    let promote = loaded.plan.promote.as_ref().unwrap();
    super::super::begin::judged(promote, &loaded).unwrap_or_else(|fault| panic!("{}\n{text}", fault.line()));
    loaded
}

/// Every line that is not translated stands in the plan as a comment.
fn made(origin: Origin, text: &str) -> (Loaded, String, Vec<String>) {
    let draft = draft(origin, text).unwrap_or_else(|why| panic!("{why}"));
    let left_out = draft.left_out();
    let plan = draft.plan("their.yaml");
    for line in &left_out {
        assert!(plan.contains(&format!("\n# - {line}\n")), "{line}\n{plan}");
    }
    (taken(&plan), plan, left_out)
}

/// File, metrics and triggers that it becomes, and what is said not to translate.
const KAYENTA: &[(&str, usize, usize, &[&str])] = &[
    ("kayenta-filter-template.json", 2, 2, &["`namespace` was a parameter", "thresholds"]),
    ("kayenta-promql.json", 2, 2, &["`location` was a parameter"]),
    ("kayenta-effect-sizes.json", 3, 3, &[]),
    (
        "kayenta-stackdriver.json",
        1,
        1,
        &["`cpu`: there is no kind of source for `stackdriver`", "the weight of the group `system`"],
    ),
    ("kayenta-adhoc-graphite.json", 1, 1, &["`apdex`: there is no kind of source for `newrelic`"]),
    ("kayenta-datadog.json", 1, 1, &["the judge `dredd-v1.0`"]),
];

const ARGO: &[(&str, usize, usize, &[&str])] = &[
    ("argo-success-rate.yaml", 1, 1, &["`{{args.service-name}}` said which version", "`failureLimit: 3`"]),
    ("argo-failure-condition.yaml", 2, 2, &["`initialDelay`", "`count`"]),
    (
        "argo-mixed-providers.yaml",
        2,
        2,
        &[
            "`smoke`: a Kubernetes job",
            "`webmetric`: a web request",
            "`nr`: there is no kind of source for `newRelic`",
        ],
    ),
    ("argo-conditions.yaml", 4, 4, &["`both`: its condition is more than one comparison"]),
    (
        "argo-cluster-two-documents.yaml",
        2,
        2,
        &["the document of kind Rollout", "the argument `api-token` came from elsewhere"],
    ),
    ("argo-names-no-version.yaml", 1, 1, &["`all`: its query names neither version"]),
];

const FLAGGER: &[(&str, usize, usize, &[&str])] = &[
    ("flagger-builtin.yaml", 0, 2, &["`webhooks`", "`threshold: 5`"]),
    (
        "flagger-templates.yaml",
        3,
        4,
        &["its lower bound 1", "the metric `gone`: its template `nowhere` is not in the file"],
    ),
    ("flagger-template-alone.yaml", 1, 1, &["it has no threshold in the file"]),
    ("flagger-inline-query.yaml", 1, 1, &["`match`", "`iterations` without a weight"]),
    ("flagger-step-weights.yaml", 0, 1, &["`mirror`"]),
    (
        "flagger-cloudwatch.yaml",
        1,
        2,
        &["`aws-errors`: there is no kind of source for `cloudwatch`", "`secretRef`"],
    ),
];

#[test]
fn what_others_judge_by_becomes_a_plan_that_is_taken() {
    let all = [(Origin::Kayenta, KAYENTA), (Origin::Argo, ARGO), (Origin::Flagger, FLAGGER)];
    let mut files = 0;
    for (origin, cases) in all {
        for (file, metrics, triggers, said) in cases {
            let (loaded, plan, left_out) = made(origin, &field(file));
            let promote = loaded.plan.promote.as_ref().unwrap();
            let found = (promote.metrics.len(), promote.rollback_when.len());
            assert_eq!(found, (*metrics, *triggers), "{file}: {plan}");
            for said in *said {
                assert!(left_out.iter().any(|line| line.contains(said)), "{file}: {said}\n{left_out:#?}");
            }
            files += 1;
        }
    }
    let there =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/imports")).unwrap().count();
    assert_eq!(files + 1, there, "each file is tried, and one says what they are");
}

#[test]
fn what_is_judged_stays_what_it_was() {
    let (_, plan, _) = made(Origin::Kayenta, &field("kayenta-effect-sizes.json"));
    for line in [
        r#"    - {metric: "errors", worse_than_baseline_by: 10%, kayenta: {direction: increase, nan_strategy: replace, critical: true, must_have_data: true, outliers: {strategy: remove, factor: 2.5}, effect_size: {measure: mean_ratio, allowed_increase: 1.1, critical_increase: 1.5}, groups: ["quality"]}}"#,
        r#"    - {metric: "own-latency_p99", worse_than_baseline_by: 0%, kayenta: {direction: either, effect_size: {measure: cles, allowed_increase: 0.6, allowed_decrease: 0.4}, groups: ["speed \"fast\""]}}"#,
        r#"  judge: {kind: kayenta, score: {pass: 90, marginal: 60}, groups: {"quality": 70, "speed \"fast\"": 30}}"#,
    ] {
        assert!(plan.contains(&format!("{line}\n")), "{line}\n{plan}");
    }
    let (_, plan, _) = made(Origin::Argo, &field("argo-success-rate.yaml"));
    assert!(
        plan.contains("    - {metric: \"success-rate\", is: \"< 0.95\", over: 300s, for: 900s}\n"),
        "{plan}"
    );
    let (_, plan, _) = made(Origin::Argo, &field("argo-conditions.yaml"));
    for condition in ["> 0.05", ">= 500", "< 10", "> 2"] {
        assert!(plan.contains(&format!("is: \"{condition}\"")), "{condition}\n{plan}");
    }
    let (_, plan, _) = made(Origin::Flagger, &field("flagger-builtin.yaml"));
    for line in [
        "    - {metric: error_rate, is: \"> 1%\", over: 60s, for: 240s}",
        "    - {metric: latency_p99, is: \"> 500ms\", over: 30s, for: 240s}",
        "    - {weight: 10%, bake: 60s}",
        "    - {weight: 50%, bake: 60s}",
        "    - {weight: 100%}",
    ] {
        assert!(plan.contains(&format!("{line}\n")), "{line}\n{plan}");
    }
    assert!(!plan.contains("weight: 60%"), "{plan}");
}

#[test]
fn what_is_no_configuration_is_refused_and_hostile_texts_stay_texts() {
    for (origin, text, said) in [
        (Origin::Kayenta, "{}", "no list `metrics`"),
        (Origin::Kayenta, "", "it is empty"),
        (Origin::Kayenta, "[1, 2", "not YAML"),
        (Origin::Argo, "kind: Deployment\n", "no AnalysisTemplate"),
        (Origin::Argo, "a: [", ""),
        (Origin::Flagger, "kind: Service\n", "neither a Canary nor a MetricTemplate"),
    ] {
        let why = draft(origin, text).err().unwrap_or_else(|| panic!("{text}"));
        assert!(why.contains(said), "{text}: {why}");
    }
    let hostile = serde_json::json!({"name": "a\nversion: 2\n# x", "metrics": [{
        "name": "m\"}, {metric: x\n- y", "groups": ["g: {]}\n", "${HOME}"],
        "query": {"type": "prometheus", "customInlineTemplate": "PromQL:sum(x{a=\"${scope}\",b=\"$${HOME} \u{1}PATH\u{2}\"})\n# c"},
        "analysisConfigurations": {"canary": {"direction": "sideways", "nanStrategy": "x: y", "critical": "true"}}}],
        "classifier": {"groupWeights": {"g: {]}\n": 1e9, "x": -1}, "scoreThresholds": {"pass": 1e300, "marginal": "NaN"}}});
    let (loaded, plan, _) = made(Origin::Kayenta, &hostile.to_string());
    assert_eq!(loaded.plan.promote.as_ref().unwrap().metrics.len(), 1, "{plan}");
    assert!(!plan.contains("\nversion: 2"), "{plan}");
}

#[test]
fn a_canary_config_of_the_first_years_names_its_services() {
    let config =
        |metric: &str| format!("{{\"metrics\": [{{\"name\": \"cpu\", \"query\": \"a,:sum\"{metric}}}]}}");
    for (metric, words) in [
        (", \"serviceName\": \"atlas\"", "no kind of source for `atlas`"),
        ("", "it does not say whose query it is"),
    ] {
        let draft = draft(Origin::Kayenta, &config(metric)).unwrap();
        assert!(draft.triggers.is_empty());
        let said = draft.left_out().join("; ");
        assert!(said.contains(words), "{said}");
    }
}
