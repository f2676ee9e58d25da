//! Kayenta's canary config. Source: its `docs/canary-config.md` and its judge's defaults.

use serde_json::Value;

use super::{
    Draft, Metric, Trigger, fill, fresh_name, items, number, quoted, quoted_with_variables, text, variable,
};
use crate::metrics::template;

/// The thresholds of a score where the config has none: those that Spinnaker begins with.
const USUAL: (f64, f64) = (95.0, 75.0);

pub(super) fn read(documents: &[Value], draft: &mut Draft) -> Result<(), String> {
    let whole = documents.first().ok_or("it is empty")?;
    // What is asked for by itself has the config inside, and the thresholds beside it.
    let config = whole.get("canaryConfig").filter(|inside| inside.is_object()).unwrap_or(whole);
    let metrics = config
        .get("metrics")
        .and_then(Value::as_array)
        .ok_or("it has no list `metrics`, so it is no canary config")?;
    draft.name = config.get("name").and_then(text);
    let judge = config.pointer("/judge/name").and_then(text);
    if let Some(judge) = judge.filter(|judge| judge != "NetflixACAJudge-v1.0") {
        draft.notes.push(format!("the judge `{judge}`: what is printed is for NetflixACAJudge-v1.0"));
    }
    for metric in metrics {
        one(config, metric, draft);
    }
    rules(config, whole, draft);
    Ok(())
}

fn one(config: &Value, metric: &Value, draft: &mut Draft) {
    let shown = metric.get("name").and_then(text).unwrap_or_else(|| "without a name".into());
    let null = Value::Null;
    let query = metric.get("query").unwrap_or(&null);
    // Configurations of the first years name the service alone.
    let service = metric.get("serviceName");
    let kind =
        query.get("type").or_else(|| query.get("@type")).or(service).and_then(text).unwrap_or_default();
    let translated = match kind.as_str() {
        "prometheus" => prometheus(config, query),
        "datadog" => datadog(query),
        "graphite" => graphite(query),
        "" => Err("it does not say whose query it is, by `query.type` or `serviceName`".into()),
        other => Err(format!("there is no kind of source for `{other}` that its query could be handed to")),
    };
    let (kind, target, expression, mut notes) = match translated {
        Ok(found) => found,
        Err(why) => {
            draft.notes.push(format!("the metric `{shown}`: {why}"));
            return;
        }
    };
    if let Some(scope) = metric.get("scopeName").and_then(text).filter(|scope| scope != "default") {
        notes.push(format!("its scope `{scope}`: what blue and green are called there is up to the query"));
    }
    let name = fresh_name(&shown, &draft.metrics);
    let (trigger, worse) = classified(metric, &name, &mut notes);
    let found = Metric {
        name,
        kind,
        target: Some(target),
        with: vec![("query", quoted_with_variables(&expression))],
        more: vec![("worse", worse), ("step", "60s".into())],
        notes,
    };
    draft.add(found, &expression, trigger);
}

type Query = (&'static str, String, String, Vec<String>);

/// The names that Kayenta fills in itself.
fn filled(query: &str, notes: &mut Vec<String>) -> String {
    let mut unknown = |name: &str| match name {
        "scope" => "{{ side }}".to_owned(),
        "interval" | "step" => "{{ step }}".to_owned(),
        other => {
            notes.push(format!(
                "`{other}` was a parameter of the scope: set the variable {}",
                other.to_ascii_uppercase()
            ));
            variable(other)
        }
    };
    fill(query, ("${", "}"), &mut unknown)
}

fn prometheus(config: &Value, query: &Value) -> Result<Query, String> {
    let mut notes = vec!["`${scope}` was the name of the baseline's and the canary's scope; it is `{{ side }}` now, `blue` or `green`".to_owned()];
    let address = "http://127.0.0.1:9090 # change this: the address of Prometheus".to_owned();
    let inline = query.get("customInlineTemplate").and_then(text).filter(|inline| !inline.trim().is_empty());
    let template = query.get("customFilterTemplate").and_then(text);
    let template = template.map(|name| {
        let known = config.get("templates").and_then(|all| all.get(&name)).and_then(text);
        known.ok_or_else(|| format!("its template `{name}` is not in the config"))
    });
    let template = inline.or(template.transpose()?).unwrap_or_default();
    let expression = if let Some(whole) = template.strip_prefix("PromQL:") {
        whole.trim().to_owned()
    } else {
        let metric = query.get("metricName").and_then(text).ok_or("its query has no `metricName`")?;
        let mut labels: Vec<String> =
            items(query.get("labelBindings").unwrap_or(&Value::Null)).filter_map(text).collect();
        labels.extend(Some(template.replace('\'', "\"")).filter(|filter| !filter.trim().is_empty()));
        if let Some(kind) = query
            .get("resourceType")
            .and_then(text)
            .filter(|_| !labels.iter().any(|l| l.contains("${scope}")))
        {
            notes.push(format!(
                "Kayenta told the versions apart by the labels of `{kind}`; `side` stands for them here"
            ));
            labels.push("side=\"${scope}\"".into());
        }
        let groups: Vec<String> =
            items(query.get("groupByFields").unwrap_or(&Value::Null)).filter_map(text).collect();
        if !groups.is_empty() {
            notes.push(format!("grouping by {}: one series for each side is compared", groups.join(", ")));
        }
        format!("avg({metric}{{{}}})", labels.join(","))
    };
    let expression = filled(&expression, &mut notes);
    notes.retain(|note| !note.starts_with("`${scope}`") || template::names(&expression, "side"));
    Ok(("prometheus", address, expression, notes))
}

fn datadog(query: &Value) -> Result<Query, String> {
    let mut notes =
        vec!["its scope was a tag of the baseline and the canary; it is `side:{{ side }}` now".to_owned()];
    let custom =
        query.get("customInlineTemplate").or_else(|| query.get("customFilterTemplate")).and_then(text);
    let metric = query.get("metricName").and_then(text);
    let expression = match (custom.filter(|custom| custom.contains("${scope}")), metric) {
        (Some(custom), _) => filled(&custom, &mut notes),
        (None, Some(metric)) => format!("{metric}{{side:{{{{ side }}}}}}"),
        (None, None) => return Err("its query has no `metricName`".into()),
    };
    Ok(("datadog", "https://api.datadoghq.com # change this: that of your site".into(), expression, notes))
}

fn graphite(query: &Value) -> Result<Query, String> {
    let mut notes = vec!["`$scope` is `{{ side }}` now, `blue` or `green`".to_owned()];
    let metric = query.get("metricName").and_then(text).ok_or("its query has no `metricName`")?;
    let mut expression = filled(&metric, &mut notes).replace("$scope", "{{ side }}");
    if expression.contains("$location") {
        notes.push("`$location` was a parameter of the scope: set the variable LOCATION".into());
        expression = expression.replace("$location", &variable("location"));
    }
    Ok(("graphite", "http://127.0.0.1:8080 # change this: the address of Graphite".into(), expression, notes))
}

/// How a metric is classified: its trigger, and which way is worse.
fn classified(metric: &Value, name: &str, notes: &mut Vec<String>) -> (Trigger, String) {
    let null = Value::Null;
    let canary = metric.pointer("/analysisConfigurations/canary").unwrap_or(&null);
    let mut keys: Vec<String> = Vec::new();
    let direction = canary.get("direction").and_then(text).unwrap_or_else(|| "either".into()).to_lowercase();
    let (direction, worse) = match direction.as_str() {
        "increase" => ("increase", "higher"),
        "decrease" => ("decrease", "lower"),
        "either" => ("either", "either"),
        other => {
            notes.push(format!("the direction `{other}` is not known; either is taken"));
            ("either", "either")
        }
    };
    keys.push(format!("direction: {direction}"));
    if let Some(strategy) = canary.get("nanStrategy").and_then(text).map(|word| word.to_lowercase()) {
        match strategy.as_str() {
            "remove" | "replace" => keys.push(format!("nan_strategy: {strategy}")),
            other => notes.push(format!("the NaN strategy `{other}` is not known")),
        }
    }
    for (theirs, ours) in [("critical", "critical"), ("mustHaveData", "must_have_data"), ("muted", "muted")] {
        if canary.get(theirs).is_some_and(|flag| text(flag).as_deref() == Some("true")) {
            keys.push(format!("{ours}: true"));
        }
    }
    if let Some(outliers) = canary.get("outliers").filter(|outliers| outliers.is_object()) {
        let strategy =
            outliers.get("strategy").and_then(text).unwrap_or_else(|| "keep".into()).to_lowercase();
        let strategy = if strategy == "remove" { "remove" } else { "keep" };
        let factor = outliers.get("outlierFactor").and_then(number).filter(|factor| *factor > 0.0);
        let factor = factor.map(|factor| format!(", factor: {factor}")).unwrap_or_default();
        keys.push(format!("outliers: {{strategy: {strategy}{factor}}}"));
    }
    let mut allowed = 0.0;
    if let Some(effect) = canary.get("effectSize").filter(|effect| effect.is_object()) {
        let mut parts = Vec::new();
        let by_cles =
            effect.get("measure").and_then(text).is_some_and(|word| word.eq_ignore_ascii_case("cles"));
        parts.push(format!("measure: {}", if by_cles { "cles" } else { "mean_ratio" }));
        for (theirs, ours) in [
            ("allowedIncrease", "allowed_increase"),
            ("allowedDecrease", "allowed_decrease"),
            ("criticalIncrease", "critical_increase"),
            ("criticalDecrease", "critical_decrease"),
        ] {
            if let Some(limit) = effect.get(theirs).and_then(number) {
                parts.push(format!("{ours}: {limit}"));
                if ours == "allowed_increase" && !by_cles {
                    allowed = (limit - 1.0).clamp(0.0, 10.0);
                }
            }
        }
        keys.push(format!("effect_size: {{{}}}", parts.join(", ")));
    }
    let groups: Vec<String> =
        items(metric.get("groups").unwrap_or(&null)).filter_map(text).map(|group| quoted(&group)).collect();
    if !groups.is_empty() {
        keys.push(format!("groups: [{}]", groups.join(", ")));
    }
    let share = format!("{}%", (allowed * 1e4).round() / 1e2);
    let trigger = Trigger {
        keys: vec![
            ("metric", quoted(name)),
            ("worse_than_baseline_by", share),
            ("kayenta", format!("{{{}}}", keys.join(", "))),
        ],
        notes: Vec::new(),
    };
    (trigger, worse.to_owned())
}

/// Thresholds and weights.
fn rules(config: &Value, whole: &Value, draft: &mut Draft) {
    let given = [
        config.pointer("/classifier/scoreThresholds"),
        whole.pointer("/executionRequest/thresholds"),
        whole.get("thresholds"),
    ];
    let of = |key: &str| given.iter().flatten().find_map(|thresholds| thresholds.get(key).and_then(number));
    let (pass, marginal) = (of("pass"), of("marginal"));
    if pass.is_none() || marginal.is_none() {
        draft.notes.push(format!(
            "the thresholds of the score are not in the config (they come with each run): {} passes, below {} fails; change this",
            USUAL.0, USUAL.1
        ));
    }
    let pass = pass.filter(|pass| *pass > 0.0 && *pass <= 100.0).unwrap_or(USUAL.0);
    let marginal = marginal
        .filter(|marginal| *marginal >= 0.0 && *marginal <= pass)
        .unwrap_or_else(|| USUAL.1.min(pass));
    let null = Value::Null;
    let weights = config.pointer("/classifier/groupWeights").and_then(Value::as_object);
    let mut groups = Vec::new();
    let said = |group: &str| {
        draft
            .triggers
            .iter()
            .any(|trigger| trigger.keys.iter().any(|(_, keys)| keys.contains(&quoted(group))))
    };
    let mut gone = Vec::new();
    let mut kept = Vec::new();
    for (group, weight) in weights.into_iter().flatten() {
        match number(weight).filter(|weight| *weight >= 0.0) {
            Some(weight) if said(group) => kept.push((group, weight)),
            _ => gone.push(group.clone()),
        }
    }
    for group in gone {
        draft.notes.push(format!("the weight of the group `{group}`: none of its metrics is here"));
    }
    let sum: f64 = kept.iter().map(|(_, weight)| weight).sum();
    if sum > 100.0 {
        draft
            .notes
            .push(format!("the weights of the groups are {sum} in all, more than 100: they are left out"));
        kept.clear();
    }
    groups.extend(kept.iter().map(|(group, weight)| format!("{}: {weight}", quoted(group))));
    let groups =
        if groups.is_empty() { String::new() } else { format!(", groups: {{{}}}", groups.join(", ")) };
    draft.judge = Some(format!("{{kind: kayenta, score: {{pass: {pass}, marginal: {marginal}}}{groups}}}"));
    for inside in items(config.get("metrics").unwrap_or(&null))
        .filter(|metric| metric.pointer("/analysisConfigurations/canary/groups").is_some())
    {
        let name = inside.get("name").and_then(text).unwrap_or_default();
        draft.notes.push(format!("the metric `{name}`: groups of its analysis; only those beside it count"));
    }
}
