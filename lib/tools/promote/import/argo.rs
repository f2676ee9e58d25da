//! Argo Rollouts' AnalysisTemplate. Source: its `docs/features/analysis.md`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Draft, Metric, Trigger, fill, fresh_name, go_seconds, items, number, quoted, quoted_with_variables, span,
    step_within, text, turned, variable,
};

pub(super) fn read(documents: &[Value], draft: &mut Draft) -> Result<(), String> {
    let mut found = 0;
    for document in documents {
        let kind = document.get("kind").and_then(text).unwrap_or_default();
        let spec = match kind.as_str() {
            "AnalysisTemplate" | "ClusterAnalysisTemplate" | "AnalysisRun" => document.get("spec"),
            _ => {
                if !kind.is_empty() {
                    draft.notes.push(format!("the document of kind {kind}"));
                }
                continue;
            }
        };
        let Some(spec) = spec else { continue };
        found += 1;
        draft.name = draft.name.take().or_else(|| document.pointer("/metadata/name").and_then(text));
        let arguments = arguments(spec, draft);
        for metric in items(spec.get("metrics").unwrap_or(&Value::Null)) {
            one(metric, &arguments, draft);
        }
        for key in ["templates", "dryRun", "measurementRetention"] {
            if spec.get(key).is_some() {
                draft.notes.push(format!("`{key}`"));
            }
        }
    }
    if found == 0 { Err("it has no AnalysisTemplate".into()) } else { Ok(()) }
}

/// The arguments that have a value.
fn arguments(spec: &Value, draft: &mut Draft) -> BTreeMap<String, Option<String>> {
    let mut all = BTreeMap::new();
    for argument in items(spec.get("args").unwrap_or(&Value::Null)) {
        let Some(name) = argument.get("name").and_then(text) else { continue };
        if argument.get("valueFrom").is_some() {
            draft.notes.push(format!(
                "the argument `{name}` came from elsewhere: set the variable {}",
                name.to_ascii_uppercase().replace('-', "_")
            ));
        }
        all.insert(name, argument.get("value").and_then(text));
    }
    all
}

/// Whether an argument says which version is meant.
fn tells_the_version(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["service", "canary", "hash", "pod", "version", "revision", "rollout", "deployment", "workload", "app"]
        .iter()
        .any(|part| name.contains(part))
}

/// What a provider is asked: the kind of source, its address, the query.
type Asked = (&'static str, Option<String>, String);

/// Errors: in words, why there is no such source here.
fn asked(kind: &str, settings: &Value) -> Result<Asked, String> {
    let of = |key: &str| settings.get(key).and_then(text);
    let (kind, target) = match kind {
        "prometheus" => ("prometheus", of("address")),
        "graphite" => ("graphite", of("address")),
        "datadog" => ("datadog", Some("https://api.datadoghq.com".to_owned())),
        "job" => return Err("a Kubernetes job: make a check of kind `command` of it, in `verify`".into()),
        "web" => {
            return Err("a web request: make a check of kind `http` of it, in `verify`, or a metric of kind `command`".into());
        }
        "kayenta" => return Err("Kayenta: read its canary config with `--from-kayenta`".into()),
        other => {
            return Err(format!(
                "there is no kind of source for `{other}` that its query could be handed to"
            ));
        }
    };
    let query = of("query").filter(|query| !query.trim().is_empty()).ok_or("it has no query of its own")?;
    Ok((kind, target, query))
}

fn one(metric: &Value, arguments: &BTreeMap<String, Option<String>>, draft: &mut Draft) {
    let shown = metric.get("name").and_then(text).unwrap_or_else(|| "without a name".into());
    let provider = metric.get("provider").and_then(Value::as_object).and_then(|all| all.iter().next());
    let Some((kind, settings)) = provider else { return leave(draft, &shown, "it has no provider") };
    let (kind, target, query) = match asked(kind, settings) {
        Ok(asked) => asked,
        Err(why) => return leave(draft, &shown, &why),
    };
    let (condition, worse) = match conditions(metric) {
        Ok(found) => found,
        Err(why) => return leave(draft, &shown, &why),
    };
    let mut notes = Vec::new();
    for key in [
        "authentication",
        "headers",
        "insecure",
        "rangeQuery",
        "interval",
        "apiVersion",
        "formula",
        "queries",
    ] {
        if settings.get(key).is_some() {
            notes.push(format!("`{key}` of its provider"));
        }
    }
    let query = filled(&query, true, arguments, &mut notes);
    let target = target.map(|target| filled(&target, false, arguments, &mut notes));
    let every = metric.get("interval").and_then(text).and_then(|text| go_seconds(&text));
    if let Some(every) = every {
        draft.interval.get_or_insert_with(|| span(every));
    }
    let limit = metric.get("consecutiveErrorLimit").and_then(number);
    if let Some(limit) = limit.filter(|limit| *limit >= 1.0 && limit.fract() == 0.0) {
        draft.judge.get_or_insert_with(|| format!("{{consecutive_errors: {limit}}}"));
    }
    let every = every.unwrap_or(60.0);
    let name = fresh_name(&shown, &draft.metrics);
    let trigger = trigger(metric, &name, &condition, every);
    let usual = || "http://127.0.0.1:9090 # change this: the address of Prometheus".to_owned();
    let found = Metric {
        name,
        kind,
        target: Some(target.map_or_else(usual, |target| quoted_with_variables(&target))),
        with: vec![("query", quoted_with_variables(query.trim()))],
        more: vec![("worse", worse.to_owned()), ("step", step_within(every))],
        notes,
    };
    draft.add(found, &query, trigger);
}

/// A text with its arguments: their values, the side where one says which version, or a variable of the plan.
fn filled(
    given: &str,
    is_query: bool,
    arguments: &BTreeMap<String, Option<String>>,
    notes: &mut Vec<String>,
) -> String {
    fill(given, ("{{", "}}"), &mut |name| {
        let bare = name.strip_prefix("args.").or_else(|| name.strip_prefix("inputs.")).unwrap_or(name);
        if let Some(Some(value)) = arguments.get(bare) {
            return value.clone();
        }
        let is_version = is_query && tells_the_version(bare);
        let note = if is_version {
            format!("`{{{{args.{bare}}}}}` said which version; it is `{{{{ side }}}}` now, `blue` or `green`")
        } else {
            format!(
                "`{bare}` was an argument: set the variable {}",
                bare.to_ascii_uppercase().replace('-', "_")
            )
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
        if is_version { "{{ side }}".to_owned() } else { variable(bare) }
    })
}

fn trigger(metric: &Value, name: &str, condition: &str, every: f64) -> Trigger {
    let mut notes = Vec::new();
    let mut keys = vec![("metric", quoted(name)), ("is", quoted(condition)), ("over", span(every))];
    let failures = metric.get("failureLimit").and_then(number).unwrap_or(0.0);
    if failures > 0.0 {
        keys.push(("for", span(failures * every)));
        notes.push(format!(
            "`failureLimit: {failures}` counted failures in all; here so many in a row end it, by `for`"
        ));
    }
    for (key, why) in [
        ("count", "how often it is measured: a step's `bake` says how long"),
        ("initialDelay", "nothing waits at the beginning of a bake"),
        ("inconclusiveLimit", "see `undecided_for`"),
        ("consecutiveSuccessLimit", "a bake lasts as long as it says"),
    ] {
        if metric.get(key).is_some() {
            notes.push(format!("`{key}`: {why}"));
        }
    }
    Trigger { keys, notes }
}

fn leave(draft: &mut Draft, metric: &str, why: &str) {
    draft.notes.push(format!("the metric `{metric}`: {why}"));
}

/// When to go back, and which way is worse.
fn conditions(metric: &Value) -> Result<(String, &'static str), String> {
    let of = |key: &str| {
        metric.get(key).and_then(text).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let (success, failure) = (of("successCondition"), of("failureCondition"));
    let read = |condition: &str| {
        simple(condition).ok_or_else(|| {
            format!("its condition is more than one comparison of the result with a number: {condition}")
        })
    };
    let (operator, limit) = match (&success, &failure) {
        (_, Some(failure)) => read(failure)?,
        (Some(success), None) => {
            let (operator, limit) = read(success)?;
            (
                turned(operator)
                    .ok_or_else(|| format!("its condition does not say which way is worse: {success}"))?,
                limit,
            )
        }
        (None, None) => return Err("it has no condition: everything passed".into()),
    };
    let worse = match operator {
        ">" | ">=" => "higher",
        "<" | "<=" => "lower",
        _ => return Err(format!("its condition does not say which way is worse: {operator} {limit}")),
    };
    Ok((format!("{operator} {limit}"), worse))
}

/// A comparison of the result with a number, with what Argo needs around that taken off: `result[0]`,
/// `len(result) == 0 ||`, `isNaN(…) ||`, `default(…, 0)`, `asFloat(…)`.
fn simple(condition: &str) -> Option<(&'static str, f64)> {
    let mut part = condition;
    for separator in ["||", "&&"] {
        let mut wanted = part.split(separator).map(str::trim).filter(|piece| {
            let bare: String =
                piece.chars().filter(|c| !c.is_whitespace() && *c != '(' && *c != ')' && *c != '!').collect();
            !(bare.starts_with("lenresult")
                || bare.starts_with("isNaNresult")
                || bare.starts_with("isInfresult")
                || bare.contains("==nil")
                || bare.contains("!=nil"))
        });
        part = wanted.next()?;
        if wanted.next().is_some() {
            return None;
        }
    }
    let part =
        part.trim().strip_prefix('(').and_then(|inside| inside.strip_suffix(')')).unwrap_or(part).trim();
    let operators = ["<=", ">=", "<", ">"];
    let (operator, at) = operators
        .iter()
        .filter_map(|operator| Some((*operator, part.find(operator)?)))
        .min_by_key(|(operator, at)| (*at, usize::MAX - operator.len()))?;
    let (left, right) = (part[..at].trim(), part[at + operator.len()..].trim());
    let mut left = left;
    for function in ["default(", "asFloat(", "asInt(", "float64(", "float("] {
        if let Some(inside) = left.strip_prefix(function).and_then(|rest| rest.strip_suffix(')')) {
            left = inside.split(',').next()?.trim();
        }
    }
    (left == "result" || left == "result[0]").then_some(())?;
    Some((operator, right.parse().ok().filter(|limit: &f64| limit.is_finite())?))
}
