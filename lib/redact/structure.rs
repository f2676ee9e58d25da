//! What of a document is free text, and what its readers go by: keys, schemas, verdicts, times, digests, names, the
//! release. Only free text is redacted; a word of the contract that happens to be somebody's password stays.

use serde_json::Value;

use super::{redact, redact_command};

/// Keys whose texts are words, names, times or digests. What is not named here is free text.
const FIXED: &[&str] = &[
    "algorithm",
    "asked",
    "at",
    "check_health",
    "closed",
    "commit",
    "controls",
    "document",
    "environment",
    "file",
    "fingerprint",
    "from",
    "hook",
    "hooks",
    "host",
    "id",
    "identity",
    "instance",
    "key",
    "kind",
    "live",
    "metric",
    "name",
    "outcome",
    "path",
    "phase",
    "probe",
    "promotion",
    "provider",
    "repository",
    "retire",
    "role",
    "run",
    "schema",
    "service",
    "severity",
    "sha256",
    "since",
    "snapshot",
    "source",
    "state",
    "strategy",
    "stuck",
    "sum",
    "sum_of",
    "table",
    "to",
    "unit",
    "up_to",
    "verdict",
    "version",
    "wait",
    "window_from",
];
/// Keys below which nothing is free text: the release, the plan's digest, signatures, and what a promotion goes by when
/// another job takes it up.
const WHOLE: &[&str] = &[
    "base",
    "before",
    "clocks",
    "counted",
    "course",
    "flags",
    "kept",
    "kept_flags",
    "markers",
    "needs",
    "plan",
    "quiet",
    "release",
    "signature",
    "tool",
];
/// Keys below which everything is what others said, whatever its keys are called.
const FREE: &[&str] = &["details", "evidence"];
/// Keys whose texts are commands for people.
const COMMANDS: &[&str] = &["by_hand", "commands"];
/// What a verdict or a weight is called; it is the same wherever it stands.
const WORDS: &[&str] = &[
    "pass",
    "fail",
    "undecided",
    "error",
    "no_data",
    "too_few_samples",
    "skipped",
    "critical",
    "warning",
    "info",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// The document, by its keys.
    Document,
    /// What others said.
    Free,
}

/// Redacts the free text inside a JSON value.
pub fn redact_json(value: &mut Value) {
    walk(value, "", Room::Document);
}

fn walk(value: &mut Value, key: &str, room: Room) {
    match value {
        Value::String(text) if is_fixed(key, text, room) => {}
        Value::String(text) if room == Room::Document && COMMANDS.contains(&key) => {
            *text = redact_command(text);
        }
        Value::String(text) => *text = redact(text),
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, key, room)),
        Value::Object(_) if room == Room::Document && WHOLE.contains(&key) => {}
        Value::Object(entries) => {
            let room = if FREE.contains(&key) { Room::Free } else { room };
            for (key, item) in entries.iter_mut() {
                walk(item, key, room);
            }
            if room == Room::Free && entries.keys().any(|key| !is_plain_key(key)) {
                let old = std::mem::take(entries);
                for (key, item) in old {
                    let shown = if is_plain_key(&key) { key } else { free_name(&redact(&key), entries) };
                    entries.insert(shown, item);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_fixed(key: &str, text: &str, room: Room) -> bool {
    if room == Room::Free {
        let digest = key == "sha256" && text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let time = (key == "at" || key.ends_with("_at")) && text.parse::<jiff::Timestamp>().is_ok();
        return digest || time || (matches!(key, "verdict" | "severity") && WORDS.contains(&text));
    }
    FIXED.contains(&key) || key.ends_with("_at") || WHOLE.contains(&key)
}

/// Whether a key is a word of ours, as far as can be told: a name that came from elsewhere may be anything.
fn is_plain_key(key: &str) -> bool {
    key.len() <= 40 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// The name, or the name with a number where there is one like it already: nothing is lost.
fn free_name(name: &str, entries: &serde_json::Map<String, Value>) -> String {
    let numbered = (2..).map(|number| format!("{name} ({number})"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !entries.contains_key(name)).unwrap_or_else(|| name.to_owned())
}
