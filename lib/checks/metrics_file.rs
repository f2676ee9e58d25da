//! `metrics_file`: figures that another program left in a JSON file.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Check, Kind, Order, Sight, Trouble};
use crate::bounds;
use crate::units::Unit;
use crate::yaml::Problem;

/// See `preflight explain metrics_file`.
pub(super) static KIND: Kind = Kind {
    name: "metrics_file",
    about: "Compares figures in a JSON file, such as the evaluation of a model.",
    target: "a path, relative to the plan",
    example: "\
- name: model quality
  kind: metrics_file
  target: eval.json
  expect:
    accuracy: \">= 0.85\"
    latency_ms: \"<= 100\"
    throughput_rps: \">= 1000\"
    memory_gb: \"<= 8\"
    bias: \"<= 0.1\"
    /groups/0/recall: \">= 0.8\"
",
    observes: &[],
    presumes: &[],
    open_names: Some("the keys of the file and, with `/`, JSON pointers into it; all of them numbers"),
    open_unit: |name| (!name.is_empty()).then_some(Unit::Plain),
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct MetricsFile {
    path: PathBuf,
    asked: Vec<String>,
}

const LARGEST: u64 = 64 * 1024 * 1024;
/// As much as an evaluation of single cases may have, and some 100 MiB of memory at most.
const MOST_VALUES: usize = 1_000_000;

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    let asked = order.expected.iter().map(|line| line.name.clone()).collect();
    Ok(Box::new(MetricsFile { path: order.path()?, asked }))
}

impl Check for MetricsFile {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let place = self.path.display();
        let bytes = bounds::whole(&self.path, LARGEST).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Trouble::nothing(format!("{place}: {error}")),
            _ => Trouble::broken(format!("{place}: {error}")),
        })?;
        let text = String::from_utf8(bytes).map_err(|_| Trouble::broken(format!("{place} is not UTF-8")))?;
        let metrics: Value = bounds::json(without_bare_words(&text).as_bytes(), MOST_VALUES)
            .map_err(|error| Trouble::broken(format!("{place} is not JSON: {error}")))?;
        Ok(sight(&metrics, &self.asked))
    }
}

fn sight(metrics: &Value, asked: &[String]) -> Sight {
    let mut sight = Sight::default();
    let mut missing = Vec::new();
    for name in asked {
        match find(metrics, name).map(Value::as_f64) {
            Some(Some(number)) => sight = sight.number(name, number, Unit::Plain),
            Some(None) => missing.push(format!("`{name}` is no number")),
            None => missing.push(format!("`{name}` is not in the file")),
        }
    }
    if missing.is_empty() { sight } else { sight.note(missing.join(", ")) }
}

/// A top-level key, a JSON pointer, or one without its first slash.
fn find<'a>(metrics: &'a Value, name: &str) -> Option<&'a Value> {
    match metrics.get(name) {
        Some(value) => Some(value),
        None if name.starts_with('/') => metrics.pointer(name),
        None if name.contains('/') => metrics.pointer(&format!("/{name}")),
        None => None,
    }
}

/// Python writes `NaN` and `Infinity`, which JSON does not know; they become `null`, no number.
fn without_bare_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(next) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (quoted, next, word) {
            (false, _, Some(word)) => {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            (true, '\\', _) => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            (_, '"', _) => {
                quoted = !quoted;
                1
            }
            _ => next.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_and_pointers_and_only_numbers() {
        let metrics =
            serde_json::json!({"accuracy": 0.9, "a/b": 1, "g": [{"r": 2}], "text": "0.9", "none": null});
        let asked: Vec<String> = ["accuracy", "a/b", "/g/0/r", "g/0/r", "text", "none", "missing"]
            .iter()
            .map(ToString::to_string)
            .collect();
        let sight = sight(&metrics, &asked);
        let names: Vec<&str> = sight.seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["accuracy", "a/b", "/g/0/r", "g/0/r"]);
        assert_eq!(
            sight.note.as_deref(),
            Some("`text` is no number, `none` is no number, `missing` is not in the file")
        );
    }

    #[test]
    fn words_of_python_become_no_number() {
        let text = r#"{"a": NaN, "b": -Infinity, "c": "NaN \" NaN", "d": [Infinity]}"#;
        let expected = r#"{"a": null, "b": null, "c": "NaN \" NaN", "d": [null]}"#;
        assert_eq!(without_bare_words(text), expected);
    }
}
