//! `promote plan --from-kayenta`, `--from-argo`, `--from-flagger`: the plan that what others judge canaries by becomes.
//!
//! What translates is in the plan that is printed; what does not is said line by line, in its comments and on stderr.

mod argo;
mod flagger;
mod kayenta;

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use super::orders;
use crate::fault::{Exit, Fault};
use crate::units::clipped;
use crate::world::files::read_bounded;
use crate::world::talk;
use crate::yaml::{self, Node};

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Kayenta's canary config, in JSON.
    Kayenta,
    /// Argo's AnalysisTemplate, in YAML.
    Argo,
    /// Flagger's Canary and MetricTemplate, in YAML.
    Flagger,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Kayenta => "Kayenta's canary config",
            Self::Argo => "Argo's AnalysisTemplate",
            Self::Flagger => "Flagger's Canary and MetricTemplate",
        }
    }
}

/// The largest file in bytes that is read.
const MOST: u64 = 1024 * 1024;

/// Prints the plan that a configuration of another tool becomes.
///
/// Errors (2): the file cannot be read, is none of that tool's, or nothing of it translates.
pub fn import(origin: Origin, file: &Path) -> Result<Exit, Fault> {
    let place = file.display().to_string();
    let wrong =
        |why: String| Fault::usage(format!("{} cannot be read", origin.name())).place(&place).cause(why);
    let bytes = read_bounded(file, MOST).map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is no text".into()))?;
    let draft = draft(origin, &text).map_err(wrong)?;
    let left_out = draft.left_out();
    if draft.triggers.is_empty() {
        return Err(Fault::usage(format!("nothing of {} translates", origin.name()))
            .place(&place)
            .cause(left_out.join("; "))
            .help("write the plan by hand: `preflight init` prints one to begin with"));
    }
    for line in &left_out {
        talk::note(&format!("not translated: {line}"));
    }
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    orders::print(&draft.plan(&name))?;
    Ok(Exit::Pass)
}

/// The draft of a plan.
///
/// Errors: in words.
fn draft(origin: Origin, text: &str) -> Result<Draft, String> {
    let documents = documents(text)?;
    let mut draft = Draft { origin: origin.name(), ..Draft::default() };
    match origin {
        Origin::Kayenta => kayenta::read(&documents, &mut draft)?,
        Origin::Argo => argo::read(&documents, &mut draft)?,
        Origin::Flagger => flagger::read(&documents, &mut draft)?,
    }
    Ok(draft)
}

/// The documents of a file of YAML or JSON.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(vec![value]);
    }
    let mut found = Vec::new();
    let mut part = String::new();
    for line in text.lines().chain(["---"]) {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            if part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
                let node = yaml::parse_foreign(&part).map_err(|problem| problem.message)?;
                found.push(value_of(&node));
            }
            part.clear();
        } else {
            part.push_str(line);
            part.push('\n');
        }
    }
    Ok(found)
}

fn value_of(node: &Node) -> Value {
    match &node.value {
        yaml::Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null") => {
            Value::Null
        }
        yaml::Value::Scalar { text, plain: true } if text == "true" || text == "false" => {
            Value::Bool(text == "true")
        }
        yaml::Value::Scalar { text, plain } => {
            let number = text.parse::<serde_json::Number>().ok().filter(|_| *plain);
            number.map_or_else(|| Value::String(text.clone()), Value::Number)
        }
        yaml::Value::Sequence(items) => Value::Array(items.iter().map(value_of).collect()),
        yaml::Value::Mapping(_) => Value::Object(
            node.entries().map(|(key, _, value)| (key.to_owned(), value_of(value))).collect::<Map<_, _>>(),
        ),
    }
}

/// A scalar as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// A number, also where it stands in quotes.
fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    number.is_finite().then_some(number)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A plan that is being made.
#[derive(Debug, Default)]
struct Draft {
    origin: &'static str,
    /// What the other tool calls the whole.
    name: Option<String>,
    interval: Option<String>,
    /// Weight and bake.
    steps: Vec<(String, Option<String>)>,
    metrics: Vec<Metric>,
    triggers: Vec<Trigger>,
    /// The block `judge`, as YAML.
    judge: Option<String>,
    /// What does not translate.
    notes: Vec<String>,
}

/// One of `metrics`.
#[derive(Clone, Debug, Default)]
struct Metric {
    name: String,
    kind: &'static str,
    target: Option<String>,
    /// Keys and values, the latter as YAML.
    with: Vec<(&'static str, String)>,
    more: Vec<(&'static str, String)>,
    notes: Vec<String>,
}

/// One of `rollback_when`.
#[derive(Clone, Debug, Default)]
struct Trigger {
    /// Keys and values, the latter as YAML.
    keys: Vec<(&'static str, String)>,
    notes: Vec<String>,
}

/// A text as YAML has it everywhere; `${` stays what it is.
fn quoted(text: &str) -> String {
    Value::String(text.replace("${", "$${")).to_string()
}

/// The same of a text in which variables of the plan stand between `\u{1}` and `\u{2}`.
fn quoted_with_variables(text: &str) -> String {
    quoted(text).replace("\\u0001", "${").replace("\\u0002", "}")
}

/// A variable of the plan, for [`quoted_with_variables`]; its default is its own name.
fn variable(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let mut upper: String = name.chars().map(plain).collect();
    if upper.starts_with(|c: char| c.is_ascii_digit()) || upper.is_empty() {
        upper.insert(0, '_');
    }
    let default: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    format!("\u{1}{upper}:-{default}\u{2}")
}

/// What a source needs besides the query: keys that the environment has.
fn keys_of(kind: &str) -> Vec<(&'static str, String)> {
    match kind {
        "datadog" => [("api_key", "DD_API_KEY"), ("app_key", "DD_APP_KEY")]
            .map(|(key, name)| (key, format!("\"${{{name}:-change-this}}\"")))
            .to_vec(),
        _ => Vec::new(),
    }
}

/// The time between two values where a threshold looks at so many seconds: it needs some of them.
fn step_within(seconds: f64) -> String {
    span((seconds / 5.0).floor().clamp(1.0, 60.0))
}

/// A query with what stands between two marks filled in: the side, the window, a text, or nothing that is known.
fn fill(query: &str, (open, close): (&str, &str), of: &mut dyn FnMut(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = query;
    while let Some((before, after)) = rest.split_once(open) {
        let Some((name, behind)) = after.split_once(close) else { break };
        out.push_str(before);
        out.push_str(&of(name.trim()));
        rest = behind;
    }
    out + rest
}

/// A name that a metric may have and none has yet.
fn fresh_name(name: &str, taken: &[Metric]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let mut bare: String = name.trim().chars().map(plain).collect();
    let own = crate::judge::known_metrics();
    if bare.is_empty() || own.contains(&bare.as_str()) || ["probe", "command"].contains(&bare.as_str()) {
        bare = format!("own-{bare}");
    }
    let mut found = bare.clone();
    for number in 2.. {
        if taken.iter().all(|metric| metric.name != found) {
            break;
        }
        found = format!("{bare}-{number}");
    }
    found
}

/// Seconds as a plan writes them.
fn span(seconds: f64) -> String {
    if seconds.fract() == 0.0 { format!("{seconds}s") } else { format!("{}ms", (seconds * 1e3).round()) }
}

/// A time as Go writes it, such as `1m30s`, in seconds.
fn go_seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let count: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        sum += count
            * match &rest[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (sum > 0.0).then_some(sum)
}

/// A comparison that says when all is well, turned into one that says when to go back.
fn turned(operator: &str) -> Option<&'static str> {
    Some(match operator {
        "<" => ">=",
        "<=" => ">",
        ">" => "<=",
        ">=" => "<",
        _ => return None,
    })
}

impl Draft {
    /// Takes a metric in whose query must tell the sides apart; without that it is left out.
    fn add(&mut self, metric: Metric, query: &str, trigger: Trigger) -> bool {
        let holes = ["side", "release", "address"];
        if !holes.iter().any(|hole| crate::metrics::template::names(query, hole)) {
            self.notes.push(format!(
                "the metric `{}`: its query names neither version, so both sides would have the same values; put `{{{{ side }}}}` (`blue` or `green`) where it should: {}",
                metric.name,
                clipped(query.trim(), 300)
            ));
            return false;
        }
        if let Err(why) = crate::metrics::template::check(query) {
            self.notes.push(format!("the metric `{}`: {why}", metric.name));
            return false;
        }
        self.metrics.push(metric);
        self.triggers.push(trigger);
        true
    }

    /// What does not translate, a line each.
    fn left_out(&self) -> Vec<String> {
        let of_metrics = self.metrics.iter().flat_map(|metric| {
            metric.notes.iter().map(|note| format!("the metric `{}`: {note}", metric.name))
        });
        let of_triggers = self.triggers.iter().flat_map(|trigger| {
            let name = trigger.keys.first().map_or("", |(_, name)| name.trim_matches('"'));
            trigger.notes.iter().map(move |note| format!("the trigger on `{name}`: {note}"))
        });
        let all = self.notes.iter().cloned().chain(of_metrics).chain(of_triggers);
        all.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// The plan.
    fn plan(&self, file: &str) -> String {
        let mut out = String::new();
        let name = self.name.as_ref().map(|name| format!(" ({})", one_line(name))).unwrap_or_default();
        let mut line = |text: &str| {
            let _ = writeln!(out, "{text}");
        };
        line(&format!("# What `promote plan` made of {}{name}, {}.", one_line(file), self.origin));
        line("# Where it says `change this` nothing was there to translate.");
        let left_out = self.left_out();
        if !left_out.is_empty() {
            line("#");
            line("# Not translated:");
            for note in &left_out {
                line(&format!("# - {note}"));
            }
        }
        line("version: 1");
        line(&format!("service: {}", quoted(&self.service())));
        line("release: {version: \"${VERSION:-0.0.0}\"} # change this: the release that is to go out");
        line(
            "environments: {production: {url: \"http://127.0.0.1:8080\"}} # change this: where users come in",
        );
        line("promote:");
        line("  strategy: canary");
        line("  # change this: what splits the traffic; see `preflight kinds`");
        line(
            "  router: {kind: command, target: edge, with: {set: [./set-share, \"{{green}}\"], get: [./get-share]}}",
        );
        line("  sides: # change this: where each version answers by itself");
        line("    blue: {url: \"http://127.0.0.1:8081\"}");
        line("    green: {url: \"http://127.0.0.1:8082\"}");
        if let Some(interval) = &self.interval {
            line(&format!("  interval: {interval}"));
        }
        line("  steps:");
        let usual = [("10%".to_owned(), Some("30m".to_owned())), ("100%".to_owned(), None)];
        if self.steps.is_empty() {
            line("    # change this: how traffic moves");
        }
        for (weight, bake) in if self.steps.is_empty() { &usual[..] } else { &self.steps[..] } {
            let bake = bake.as_ref().map(|bake| format!(", bake: {bake}")).unwrap_or_default();
            line(&format!("    - {{weight: {weight}{bake}}}"));
        }
        if !self.metrics.is_empty() {
            line("  metrics:");
        }
        for metric in &self.metrics {
            line(&format!("    - name: {}", quoted(&metric.name)));
            line(&format!("      kind: {}", metric.kind));
            if let Some(target) = &metric.target {
                line(&format!("      target: {target}"));
            }
            for (key, value) in &metric.more {
                line(&format!("      {key}: {value}"));
            }
            if !metric.with.is_empty() {
                line("      with:");
            }
            for (key, value) in metric.with.iter().chain(&keys_of(metric.kind)) {
                line(&format!("        {key}: {value}"));
            }
        }
        line("  rollback_when:");
        for trigger in &self.triggers {
            let keys: Vec<String> =
                trigger.keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            line(&format!("    - {{{}}}", keys.join(", ")));
        }
        if let Some(judge) = &self.judge {
            line(&format!("  judge: {judge}"));
        }
        out
    }

    /// A name for the service.
    fn service(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.name.as_deref().unwrap_or("shop").chars().map(plain).take(60).collect();
        let name = name.trim_matches('-');
        if name.is_empty() { "shop".to_owned() } else { name.to_owned() }
    }
}

fn one_line(text: &str) -> String {
    clipped(&text.split_whitespace().collect::<Vec<_>>().join(" "), 120)
}

#[cfg(test)]
mod tests;
