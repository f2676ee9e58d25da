//! Flagger's Canary and MetricTemplate. Source: its `docs/gitbook/usage/metrics.md` and `how-it-works.md`.

use serde_json::Value;

use super::{
    Draft, Metric, Trigger, fill, fresh_name, go_seconds, items, number, quoted, quoted_with_variables, span,
    step_within, text, variable,
};

/// Flagger looks as often where the canary does not say.
const INTERVAL: f64 = 60.0;

pub(super) fn read(documents: &[Value], draft: &mut Draft) -> Result<(), String> {
    let of_kind = |kind: &'static str| {
        documents.iter().filter(move |document| document.get("kind").and_then(text).as_deref() == Some(kind))
    };
    let templates: Vec<&Value> = of_kind("MetricTemplate").collect();
    let canary = of_kind("Canary").next();
    if canary.is_none() && templates.is_empty() {
        return Err("it has neither a Canary nor a MetricTemplate".into());
    }
    for other in documents {
        let Some(kind) = other.get("kind").and_then(text) else { continue };
        let is_read = kind == "MetricTemplate" || canary.is_some_and(|canary| std::ptr::eq(canary, other));
        if !is_read {
            draft.notes.push(format!("the document of kind {kind}"));
        }
    }
    let Some(canary) = canary else {
        for template in templates {
            let name = template.pointer("/metadata/name").and_then(text).unwrap_or_default();
            of_template(template, &Use { name: &name, ..Use::default() }, draft);
        }
        return Ok(());
    };
    draft.name = canary.pointer("/metadata/name").and_then(text);
    let null = Value::Null;
    let analysis =
        canary.pointer("/spec/analysis").or_else(|| canary.pointer("/spec/canaryAnalysis")).unwrap_or(&null);
    let interval =
        analysis.get("interval").and_then(text).and_then(|text| go_seconds(&text)).unwrap_or(INTERVAL);
    draft.interval = Some(span(interval));
    steps(analysis, interval, draft);
    let namespace = canary.pointer("/metadata/namespace").and_then(text);
    let threshold = analysis.get("threshold").and_then(number);
    for metric in items(analysis.get("metrics").unwrap_or(&null)) {
        one(metric, &templates, (namespace.as_deref(), interval, threshold), draft);
    }
    for (key, why) in [
        ("webhooks", "make hooks (`deploy`, `retire`) or checks in `verify` of them"),
        ("alerts", "see `report.notify`"),
        ("match", "see `split` of the router: headers and cookies"),
        ("sessionAffinity", "see `split` of the router"),
        ("mirror", "traffic is not mirrored"),
        ("primaryReadyThreshold", "no pods are watched"),
        ("canaryReadyThreshold", "no pods are watched"),
    ] {
        if analysis.get(key).is_some() {
            draft.notes.push(format!("`{key}`: {why}"));
        }
    }
    for key in ["progressDeadlineSeconds", "autoscalerRef", "skipAnalysis", "service"] {
        if canary.get("spec").and_then(|spec| spec.get(key)).is_some() {
            draft.notes.push(format!("`{key}`"));
        }
    }
    Ok(())
}

/// How traffic moves.
fn steps(analysis: &Value, interval: f64, draft: &mut Draft) {
    let null = Value::Null;
    let mut weights: Vec<f64> =
        items(analysis.get("stepWeights").unwrap_or(&null)).filter_map(number).collect();
    if let (true, Some(step)) =
        (weights.is_empty(), analysis.get("stepWeight").and_then(number).filter(|step| *step >= 1.0))
    {
        let most = analysis.get("maxWeight").and_then(number).unwrap_or(100.0).min(100.0);
        let count = (most / step).floor();
        weights = (1..=100)
            .map(|number| f64::from(number) * step)
            .take_while(|weight| *weight <= count * step)
            .collect();
    }
    weights.retain(|weight| *weight > 0.0 && *weight < 100.0);
    weights.dedup();
    if weights.windows(2).any(|pair| pair[0] >= pair[1]) {
        draft.notes.push("`stepWeights`: they do not rise".into());
        weights.clear();
    }
    let bake = analysis
        .get("iterations")
        .and_then(number)
        .filter(|_| weights.is_empty())
        .map(|times| span(times * interval));
    if let Some(bake) = bake {
        draft.notes.push("`iterations` without a weight: all traffic moves at the end; a step of 10 % takes their time here".into());
        draft.steps.push(("10%".into(), Some(bake)));
    }
    draft.steps.extend(weights.iter().map(|weight| (format!("{weight}%"), Some(span(interval)))));
    if !draft.steps.is_empty() {
        draft.steps.push(("100%".into(), None));
    }
    if analysis.get("stepWeightPromotion").is_some() {
        draft.notes.push("`stepWeightPromotion`: there is no second rollout to the old pods".into());
    }
}

/// How a canary uses a template.
#[derive(Clone, Copy, Default)]
struct Use<'a> {
    name: &'a str,
    namespace: Option<&'a str>,
    metric: Option<&'a Value>,
    interval: Option<f64>,
    threshold: Option<f64>,
}

fn one(
    metric: &Value,
    templates: &[&Value],
    (namespace, interval, threshold): (Option<&str>, f64, Option<f64>),
    draft: &mut Draft,
) {
    let name = metric.get("name").and_then(text).unwrap_or_else(|| "without a name".into());
    let every = metric.get("interval").and_then(text).and_then(|text| go_seconds(&text)).unwrap_or(interval);
    let (least, most) = range(metric);
    let builtin = metric.get("templateRef").is_none() && metric.get("query").is_none();
    if builtin {
        let (metric_name, condition) = match (name.as_str(), least, most) {
            ("request-success-rate", Some(least), _) => {
                ("error_rate", format!("> {}%", (1e6 - least * 1e4).round() / 1e4))
            }
            ("request-duration", _, Some(most)) => ("latency_p99", format!("> {most}ms")),
            (other, ..) => {
                draft.notes.push(format!(
                    "the metric `{other}`: Flagger has no such query of its own, or it has no threshold"
                ));
                return;
            }
        };
        let mut keys =
            vec![("metric", metric_name.to_owned()), ("is", quoted(&condition)), ("over", span(every))];
        let mut notes = vec!["it was a query of the mesh's Prometheus; it is judged by requests of Trapkey's own, and by those of the router".to_owned()];
        hold(threshold, interval, &mut keys, &mut notes);
        draft.triggers.push(Trigger { keys, notes });
        return;
    }
    let used = Use { name: &name, namespace, metric: Some(metric), interval: Some(every), threshold };
    if let Some(query) = metric.get("query").and_then(text) {
        let inline = serde_json::json!({"spec": {"provider": {"type": "prometheus"}, "query": query}});
        return of_template(&inline, &used, draft);
    }
    let wanted = metric.pointer("/templateRef/name").and_then(text).unwrap_or_default();
    match templates
        .iter()
        .find(|template| template.pointer("/metadata/name").and_then(text).as_ref() == Some(&wanted))
    {
        Some(template) => of_template(template, &used, draft),
        None => draft.notes.push(format!(
            "the metric `{name}`: its template `{wanted}` is not in the file; put it there, behind `---`"
        )),
    }
}

fn range(metric: &Value) -> (Option<f64>, Option<f64>) {
    let least = metric.pointer("/thresholdRange/min").and_then(number);
    let most = metric.pointer("/thresholdRange/max").and_then(number);
    let old = metric.get("threshold").and_then(number);
    match metric.get("name").and_then(text).as_deref() {
        Some("request-success-rate") => (least.or(old), most),
        _ => (least, most.or(old)),
    }
}

/// Flagger goes back after so many failed checks, wherever they were.
fn hold(
    threshold: Option<f64>,
    interval: f64,
    keys: &mut Vec<(&'static str, String)>,
    notes: &mut Vec<String>,
) {
    if let Some(threshold) = threshold.filter(|threshold| *threshold > 1.0) {
        keys.push(("for", span((threshold - 1.0) * interval)));
        notes.push(format!(
            "`threshold: {threshold}` counted failed checks in all; here so many in a row end it, by `for`"
        ));
    }
}

fn of_template(template: &Value, used: &Use<'_>, draft: &mut Draft) {
    let leave =
        |draft: &mut Draft, why: String| draft.notes.push(format!("the metric `{}`: {why}", used.name));
    let provider = template.pointer("/spec/provider/type").and_then(text).unwrap_or_default();
    let address = template.pointer("/spec/provider/address").and_then(text);
    let Some(query) = template.pointer("/spec/query").and_then(text) else {
        return leave(draft, "its template has no query".into());
    };
    let (kind, usual) = match provider.as_str() {
        "prometheus" => ("prometheus", "http://127.0.0.1:9090 # change this: the address of Prometheus"),
        "datadog" => ("datadog", "https://api.datadoghq.com # change this: that of your site"),
        "graphite" => ("graphite", "http://127.0.0.1:8080 # change this: the address of Graphite"),
        other => {
            return leave(
                draft,
                format!("there is no kind of source for `{other}` that its query could be handed to"),
            );
        }
    };
    let mut notes = Vec::new();
    if template.pointer("/spec/provider/secretRef").is_some() {
        notes.push("`secretRef`: give credentials by the environment; see `preflight explain`".into());
    }
    if template.pointer("/spec/provider/insecureSkipVerify").is_some() {
        notes.push("`insecureSkipVerify`: certificates are checked".into());
    }
    let null = Value::Null;
    let variables = used.metric.and_then(|metric| metric.get("templateVariables")).unwrap_or(&null);
    let mut side = false;
    let query = fill(&query, ("{{", "}}"), &mut |name| match name {
        "target" | "service" | "ingress" | "route" => {
            side = true;
            "{{ side }}".to_owned()
        }
        "interval" => "{{ window }}".to_owned(),
        "namespace" => used.namespace.map_or_else(|| variable("namespace"), str::to_owned),
        other => {
            let bare = other.strip_prefix("variables.").unwrap_or(other).trim_start_matches('.');
            variables.get(bare).and_then(text).unwrap_or_else(|| {
                notes.push(format!(
                    "`{bare}` was a variable of the template: set the variable {}",
                    bare.to_ascii_uppercase()
                ));
                variable(bare)
            })
        }
    });
    if side {
        notes.push("the name of the canary is `{{ side }}` now, `blue` or `green`".into());
    }
    let every = used.interval.unwrap_or(INTERVAL);
    let name = fresh_name(used.name, &draft.metrics);
    let (least, most) = used.metric.map_or((None, None), range);
    let mut trigger_notes = Vec::new();
    let condition = match (least, most) {
        (None, Some(most)) => Some((format!("> {most}"), "higher")),
        (Some(least), None) => Some((format!("< {least}"), "lower")),
        (Some(least), Some(most)) => {
            trigger_notes
                .push(format!("its lower bound {least}: write a second metric with `worse: lower` for it"));
            Some((format!("> {most}"), "higher"))
        }
        (None, None) => None,
    };
    let mut keys = vec![("metric", quoted(&name))];
    let worse = if let Some((condition, worse)) = condition {
        keys.extend([("is", quoted(&condition)), ("over", span(every))]);
        hold(used.threshold, every, &mut keys, &mut trigger_notes);
        worse
    } else {
        trigger_notes.push("it has no threshold in the file: it is compared with blue; change this".into());
        keys.push(("worse_than_baseline_by", "10%".into()));
        "higher"
    };
    let found = Metric {
        name,
        kind,
        target: Some(address.map_or_else(|| usual.to_owned(), |address| quoted(&address))),
        with: vec![("query", quoted_with_variables(query.trim()))],
        more: vec![("worse", worse.to_owned()), ("step", step_within(every)), ("window", span(every))],
        notes,
    };
    draft.add(found, &query, Trigger { keys, notes: trigger_notes });
}
