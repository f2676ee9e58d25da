//! JSON values as YAML in block style, which diffs line by line.

use serde_json::Value;

use crate::yaml;

/// An object as YAML that reads back as the same object, here and with other readers.
///
/// Where it would not (a reader here has limits of size), it is written as JSON, which is YAML too.
pub(super) fn write(object: &Value) -> String {
    let mut text = String::new();
    put(&mut text, object, 0);
    if read(&text).as_ref() == Some(object) { text } else { format!("{object:#}\n") }
}

/// Reads what [`write`] has written.
pub(super) fn read(text: &str) -> Option<Value> {
    if text.starts_with('{') {
        return serde_json::from_str(text).ok();
    }
    value(&yaml::parse_foreign(text).ok()?)
}

fn value(node: &yaml::Node) -> Option<Value> {
    match &node.value {
        yaml::Value::Scalar { text, plain: true } => {
            Some(serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()))
        }
        yaml::Value::Scalar { text, plain: false } => Some(text.clone().into()),
        yaml::Value::Sequence(items) => items.iter().map(value).collect(),
        yaml::Value::Mapping(entries) => {
            let pair = |(key, node): &(yaml::Node, yaml::Node)| match &key.value {
                yaml::Value::Scalar { text, .. } => Some((text.clone(), value(node)?)),
                _ => None,
            };
            entries.iter().map(pair).collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
        }
    }
}

/// Writes a value; the cursor stands at the beginning of a line, or behind `- `.
fn put(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (number, (key, value)) in fields.iter().enumerate() {
                if number > 0 || out.ends_with('\n') {
                    indent(out, depth);
                }
                out.push_str(&scalar(key));
                out.push(':');
                below(out, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                if number > 0 || out.ends_with('\n') {
                    indent(out, depth);
                }
                out.push_str("- ");
                put(out, item, depth + 1);
            }
        }
        Value::String(text) => string(out, text, depth),
        other => {
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

/// Writes the value of a key.
fn below(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            put(out, value, depth + 1);
        }
        // As `kubectl` does: the items of a list stand below the key, not further in.
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            put(out, value, depth);
        }
        Value::String(text) => {
            out.push(' ');
            string(out, text, depth + 1);
        }
        other => {
            out.push(' ');
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// A text of several lines as a literal block, every other in one line.
fn string(out: &mut String, text: &str, depth: usize) {
    if !fits_a_block(text) {
        out.push_str(&scalar(text));
        out.push('\n');
        return;
    }
    let kept = text.trim_end_matches('\n');
    out.push_str(match text.len() - kept.len() {
        0 => "|-\n",
        1 => "|\n",
        _ => "|+\n",
    });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            indent(out, depth.max(1));
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// Whether a literal block holds it, for every reader: several lines, nothing but what is printed, and no
/// blanks at the beginning that would be taken for indentation.
fn fits_a_block(text: &str) -> bool {
    let first = text.chars().next();
    text.trim_end_matches('\n').contains('\n')
        && !first.is_some_and(char::is_whitespace)
        && text.chars().all(|c| c == '\n' || c == '\t' || printed(c))
        && text.split('\n').all(|line| line.is_empty() || !line.trim_matches([' ', '\t']).is_empty())
}

/// Whether every reader of YAML takes the character as it is.
fn printed(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// A text on one line: plain where no reader could take it for anything else, otherwise in quotes.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if printed(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fn is_plain(text: &str) -> bool {
    // `y`, `no` and `off` are truth values to YAML 1.1, which Kubernetes reads.
    const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_written_as_people_write_it() {
        let object = json!({"apiVersion": "apps/v1", "metadata": {"name": "web", "labels": {}},
            "data": {"shop.conf": "listen 80\n\n  deep\n", "no": "yes", "n": 5, "s": "5", "list": []},
            "items": [{"a": 1, "b": [true, null, "x y"]}, "last", [1.5, [2]]], "tail": "a\nb"});
        let expected = "apiVersion: apps/v1\nmetadata:\n  name: web\n  labels: {}\ndata:\n  shop.conf: |\n    listen 80\n\n      \
                        deep\n  \"no\": \"yes\"\n  \"n\": 5\n  s: \"5\"\n  list: []\nitems:\n- a: 1\n  b:\n  - true\n  - null\n  - \"x y\"\n- \
                        last\n- - 1.5\n  - - 2\ntail: |-\n  a\n  b\n";
        assert_eq!(write(&object), expected);
        assert_eq!(read(expected), Some(object));
    }

    /// Texts that some reader of YAML would take for something else.
    pub(super) const NASTY: &[&str] = &[
        "",
        " ",
        "a ",
        " a",
        "~",
        "null",
        "True",
        "NO",
        "0x1f",
        "1e3",
        "1_000",
        "012",
        "2026-01-01",
        "- a",
        "a: b",
        "a #b",
        "#a",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "{a",
        "[a",
        "\"a",
        "'a",
        "a\n",
        "\na",
        " a\nb",
        "a\nb\n\n\n",
        "a\n \nb",
        "a\n\tb",
        "\ta\nb",
        "a\r\nb",
        "a\u{0}b",
        "a\u{7f}",
        "a\u{85}b",
        "a\u{2028}b",
        "a\nb\u{a0}c",
        "é ü 漢 😀",
        "---",
        "...",
        "a\n---\nb",
        "<<",
        "=",
        "?",
        "key: |",
        "a\n\n",
        "\\",
        "\\n",
        "${HOME}",
        ".inf",
        "-.NaN",
        "1:20",
        "a\u{feff}b",
    ];

    #[test]
    fn hostile_texts_read_back_as_keys_and_values() {
        for nasty in NASTY {
            let object =
                json!({"a": nasty, "list": [nasty, {"deep": [nasty]}], "map": {"b": {*nasty: nasty}}});
            let text = write(&object);
            assert!(*nasty == "<<" || !text.starts_with('{'), "{nasty:?} fell back to JSON");
            assert_eq!(read(&text), Some(object), "{nasty:?}:\n{text}");
        }
    }

    #[test]
    fn what_is_too_large_for_a_reader_here_is_written_as_json() {
        let object = json!({"a": (0..60_000).collect::<Vec<_>>()});
        let text = write(&object);
        assert!(text.starts_with('{'));
        assert_eq!(read(&text), Some(object));
    }
}
