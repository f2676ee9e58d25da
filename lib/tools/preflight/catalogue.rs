//! The kinds for people: tables, and one kind explained from its own schema.

use std::fmt::Write as _;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::checks::{self, Observable};
use crate::fault::Fault;
use crate::units::Unit;
use crate::{metrics, renderers, routers, sources, yaml};

/// One shelf with an entry for each kind.
#[derive(Debug)]
pub struct Shelf {
    /// Its name: `checks`.
    pub name: &'static str,
    /// What its kinds are for.
    pub about: &'static str,
    /// Its kinds.
    pub entries: Vec<Entry>,
}

/// One kind as people see it, whichever shelf it stands on.
#[derive(Debug, Default)]
pub struct Entry {
    /// The word in the plan.
    pub kind: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What `target` is; empty when there is none.
    pub target: &'static str,
    /// What can be expected of it.
    pub observes: &'static [Observable],
    /// What further names can be expected, in words.
    pub open_names: Option<&'static str>,
    /// What is expected where the plan says nothing about it.
    pub presumes: Vec<(&'static str, &'static str)>,
    /// The JSON Schema of `with`.
    pub settings: Value,
    /// It in a plan; empty when a plan does not name it.
    pub example: &'static str,
}

/// Every shelf.
pub fn shelves() -> Vec<Shelf> {
    let checks = checks::ALL.iter().map(|k| Entry {
        kind: k.name,
        about: k.about,
        target: k.target,
        observes: k.observes,
        open_names: k.open_names,
        presumes: k.presumes.iter().map(|p| (p.name, p.is)).collect(),
        settings: whole(k.settings),
        example: k.example,
    });
    let sources = sources::ALL.iter().map(|k| Entry {
        kind: k.name,
        about: k.about,
        target: k.target,
        settings: whole(k.settings),
        example: k.example,
        ..Entry::default()
    });
    let routers = routers::ALL.iter().map(|k| Entry {
        kind: k.name,
        about: k.about,
        target: k.target,
        settings: whole(k.settings),
        example: k.example,
        ..Entry::default()
    });
    let metrics = metrics::ALL.iter().map(|k| Entry {
        kind: k.name,
        about: k.about,
        target: k.target,
        settings: whole(k.settings),
        example: k.example,
        ..Entry::default()
    });
    let outputs = renderers::ALL.iter().map(|k| Entry { kind: k.file, about: k.about, ..Entry::default() });
    vec![
        Shelf {
            name: "checks",
            about: "what `preflight` and `verify` can look at",
            entries: checks.collect(),
        },
        Shelf { name: "sources", about: "what `snapshot` can back up", entries: sources.collect() },
        Shelf { name: "routers", about: "what `promote` can steer", entries: routers.collect() },
        Shelf {
            name: "metrics",
            about: "where the figures of a judgement can come from, besides own requests and what the router counts",
            entries: metrics.collect(),
        },
        Shelf { name: "outputs", about: "what `report` writes", entries: outputs.collect() },
    ]
}

/// A kind's schema that stands by itself: what it refers to comes with it.
fn whole(settings: fn(&mut SchemaGenerator) -> Schema) -> Value {
    let mut generator = SchemaGenerator::default();
    let schema = settings(&mut generator).to_value();
    let definitions = generator.take_definitions(false);
    let named = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let mut schema = named.and_then(|name| definitions.get(name).cloned()).unwrap_or(schema);
    if let Value::Object(map) = &mut schema
        && !definitions.is_empty()
    {
        map.insert("$defs".into(), Value::Object(definitions));
    }
    schema
}

/// The tables for a terminal.
pub fn kinds_as_text() -> String {
    let mut out = String::new();
    for shelf in shelves() {
        let width = shelf.entries.iter().map(|entry| entry.kind.len()).max().unwrap_or(0);
        let _ = writeln!(out, "{}: {}\n", shelf.name, shelf.about);
        for entry in shelf.entries {
            let _ = writeln!(out, "  {:width$}  {}", entry.kind, entry.about);
        }
        out.push('\n');
    }
    out.push_str("`preflight explain KIND` tells all about one of them.\n");
    out
}

/// The tables in Markdown, as the README has them; a column that a shelf has no use for is left out.
pub fn kinds_as_markdown() -> String {
    let tables = shelves().into_iter().map(|shelf| {
        let has_target = shelf.entries.iter().any(|e| !e.target.is_empty());
        let has_names = shelf.entries.iter().any(|e| !e.observes.is_empty());
        let row = |kind: &str, about: &str, target: &str, names: &str| {
            let mut cells = vec![kind, about];
            cells.extend(has_target.then_some(target));
            cells.extend(has_names.then_some(names));
            format!("| {} |\n", cells.join(" | "))
        };
        let mut out = format!("### {}: {}\n\n", shelf.name, shelf.about);
        out.push_str(&row("kind", "what it does", "`target`", "`expect`"));
        out.push_str(&row("---", "---", "---", "---"));
        for entry in shelf.entries {
            let cell = |text: &str| text.replace('|', "\\|");
            let target = if entry.target.is_empty() { "none" } else { entry.target };
            let mut names: Vec<String> = entry.observes.iter().map(|o| format!("`{}`", o.name)).collect();
            names.extend(entry.open_names.map(str::to_owned));
            let kind = format!("`{}`", entry.kind);
            out.push_str(&row(&kind, &cell(entry.about), &cell(target), &cell(&names.join(", "))));
        }
        out
    });
    tables.collect::<Vec<_>>().join("\n")
}

/// The tables as JSON: all that `explain` knows, of all kinds of all shelves.
pub fn kinds_as_json() -> Value {
    let shelves = shelves().into_iter().map(|shelf| {
        let entries: Vec<Value> = shelf.entries.iter().map(entry_as_json).collect();
        (shelf.name.to_owned(), Value::Array(entries))
    });
    Value::Object(shelves.collect())
}

fn entry_as_json(entry: &Entry) -> Value {
    let observes: Vec<Value> = entry
        .observes
        .iter()
        .map(|o| json!({"name": o.name, "unit": unit_word(o.unit), "about": o.about}))
        .collect();
    let presumes: Vec<Value> =
        entry.presumes.iter().map(|(name, is)| json!({"name": name, "is": is})).collect();
    json!({
        "name": entry.kind,
        "about": entry.about,
        "target": (!entry.target.is_empty()).then_some(entry.target),
        "observes": observes,
        "presumes": presumes,
        "open_names": entry.open_names,
        "settings": entry.settings,
        "example": entry.example,
    })
}

/// One kind: what it does, its target, settings, names, and an example.
///
/// Errors (2): unknown; names the nearest and lists all.
pub fn explain(name: &str) -> Result<String, Fault> {
    let shelves = shelves();
    let pages: Vec<String> = named(&shelves, name)?.iter().map(|(shelf, entry)| page(shelf, entry)).collect();
    Ok(pages.join("\n"))
}

/// The same as JSON, by shelf: a word that two shelves use is there twice.
///
/// Errors (2): unknown; names the nearest and lists all.
pub fn explain_as_json(name: &str) -> Result<Value, Fault> {
    let shelves = shelves();
    let entries = named(&shelves, name)?;
    Ok(Value::Object(entries.iter().map(|(s, e)| (s.name.to_owned(), entry_as_json(e))).collect()))
}

/// The entries of that name. A plan names no outputs, so there is nothing to explain about them.
fn named<'a>(shelves: &'a [Shelf], name: &str) -> Result<Vec<(&'a Shelf, &'a Entry)>, Fault> {
    let all: Vec<(&Shelf, &Entry)> = shelves
        .iter()
        .flat_map(|shelf| shelf.entries.iter().map(move |entry| (shelf, entry)))
        .filter(|(_, entry)| !entry.example.is_empty())
        .collect();
    let found: Vec<_> = all.iter().filter(|(_, entry)| entry.kind == name).copied().collect();
    if found.is_empty() {
        let mut known: Vec<&str> = Vec::new();
        for (_, entry) in &all {
            if !known.contains(&entry.kind) {
                known.push(entry.kind);
            }
        }
        let problem = yaml::unknown("kind", name, known.into_iter());
        let mut fault = Fault::usage(problem.message);
        fault.help = problem.help;
        return Err(fault);
    }
    Ok(found)
}

fn page(shelf: &Shelf, entry: &Entry) -> String {
    let mut out = format!("{} ({}): {}\n", entry.kind, shelf.name, entry.about);
    let target = if entry.target.is_empty() { "none" } else { entry.target };
    let _ = writeln!(out, "\ntarget: {target}");
    section(&mut out, "with:", &settings_rows(&entry.settings), "nothing");
    if shelf.name == "checks" {
        let mut names: Vec<(String, String)> = entry
            .observes
            .iter()
            .map(|o| (o.name.to_owned(), format!("{} ({})", o.about, unit_word(o.unit))))
            .collect();
        names.extend(entry.open_names.map(|open| ("…".to_owned(), open.to_owned())));
        section(&mut out, "expect:", &names, "nothing");
        let presumed: Vec<(String, String)> =
            entry.presumes.iter().map(|(name, is)| ((*name).to_owned(), (*is).to_owned())).collect();
        section(
            &mut out,
            "expected where the plan says nothing about it:",
            &presumed,
            "nothing: a check of this kind needs an `expect`",
        );
    }
    let _ = write!(out, "\nexample:\n{}", indent(entry.example));
    out
}

fn section(out: &mut String, title: &str, rows: &[(String, String)], none: &str) {
    if rows.is_empty() {
        let _ = writeln!(out, "\n{title} {none}");
        return;
    }
    let _ = writeln!(out, "\n{title}");
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, about) in rows {
        let gap = " ".repeat(width - name.chars().count());
        let _ = writeln!(out, "  {name}{gap}  {about}");
    }
}

fn settings_rows(schema: &Value) -> Vec<(String, String)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    properties
        .into_iter()
        .flatten()
        .map(|(name, setting)| {
            let about = setting.get("description").and_then(Value::as_str).unwrap_or("").replace('\n', " ");
            let needed = required.is_some_and(|r| r.iter().any(|n| n == name.as_str()));
            (name.clone(), if needed { format!("{about} Required.") } else { about })
        })
        .collect()
}

fn unit_word(unit: Unit) -> &'static str {
    match unit {
        Unit::Plain => "number",
        Unit::Duration => "duration",
        Unit::Share => "share",
        Unit::Bytes => "size",
        Unit::Rate => "rate",
        Unit::Text => "text",
        Unit::Version => "version",
        Unit::Json => "a value of JSON",
        Unit::Flag => "true or false",
    }
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "  {line}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_a_plan_names_can_be_explained() {
        for shelf in shelves() {
            for entry in shelf.entries.iter().filter(|e| !e.example.is_empty()) {
                let text = explain(entry.kind).unwrap();
                for part in ["target:", "with:", "example:"] {
                    assert!(text.contains(part), "{}: no {part}", entry.kind);
                }
                for observable in entry.observes {
                    assert!(text.contains(observable.about), "{}", observable.name);
                }
            }
        }
        // A word that two shelves use is explained for both.
        assert!(explain("postgres").unwrap().contains("postgres (checks)"));
        assert!(explain("postgres").unwrap().contains("postgres (sources)"));
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        let fault = explain("htp").unwrap_err();
        assert_eq!(fault.exit, crate::fault::Exit::Usage);
        assert!(fault.help.unwrap().starts_with("did you mean `http`?"));
    }

    #[test]
    fn the_markdown_tables_have_a_row_for_every_kind_and_whole_cells() {
        let text = kinds_as_markdown();
        for shelf in shelves() {
            let table = text.split("### ").find(|part| part.starts_with(shelf.name)).unwrap();
            let bars = |line: &str| line.replace("\\|", "").matches('|').count();
            let head = table.lines().find(|line| line.starts_with('|')).unwrap();
            for entry in &shelf.entries {
                let row =
                    table.lines().find(|line| line.starts_with(&format!("| `{}` |", entry.kind))).unwrap();
                assert_eq!(bars(row), bars(head), "{row}");
            }
        }
    }
}
