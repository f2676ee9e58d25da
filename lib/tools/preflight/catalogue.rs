//! The kinds for people: tables, and one kind explained from its own schema.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::checks::{self, Kind};
use crate::fault::Fault;
use crate::units::Unit;

/// One shelf with a row for each kind.
#[derive(Debug)]
pub struct Shelf {
    /// Its name: `checks`.
    pub name: &'static str,
    /// What its kinds are for.
    pub about: &'static str,
    /// Its kinds.
    pub rows: Vec<Row>,
}

/// One kind in a table.
#[derive(Debug)]
pub struct Row {
    /// The word in the plan.
    pub kind: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What `target` is; empty when there is none.
    pub target: &'static str,
    /// What can be expected of it.
    pub observes: Vec<String>,
}

/// Every shelf that the tables show.
pub fn shelves() -> Vec<Shelf> {
    vec![Shelf {
        name: "checks",
        about: "what `preflight` and `verify` can look at",
        rows: checks::ALL.iter().map(|kind| row(kind)).collect(),
    }]
}

fn row(kind: &Kind) -> Row {
    let mut observes: Vec<String> = kind.observes.iter().map(|o| format!("`{}`", o.name)).collect();
    observes.extend(kind.open_names.map(str::to_owned));
    Row { kind: kind.name, about: kind.about, target: kind.target, observes }
}

/// The tables for a terminal.
pub fn kinds_as_text() -> String {
    let mut out = String::new();
    for shelf in shelves() {
        let width = shelf.rows.iter().map(|row| row.kind.len()).max().unwrap_or(0);
        let _ = writeln!(out, "{}: {}\n", shelf.name, shelf.about);
        for row in shelf.rows {
            let _ = writeln!(out, "  {:width$}  {}", row.kind, row.about);
        }
        out.push('\n');
    }
    out.push_str("`preflight explain KIND` tells all about one of them.\n");
    out
}

/// The tables in Markdown, as the README has them.
pub fn kinds_as_markdown() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut tables = Vec::new();
    for shelf in shelves() {
        let mut out = format!(
            "### {}: {}\n\n| kind | what it does | `target` | `expect` |\n| --- | --- | --- | --- |\n",
            shelf.name, shelf.about
        );
        for row in shelf.rows {
            let target = if row.target.is_empty() { "none" } else { row.target };
            let observes = row.observes.join(", ");
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                row.kind,
                cell(row.about),
                cell(target),
                cell(&observes)
            );
        }
        tables.push(out);
    }
    tables.join("\n")
}

/// The tables as JSON: all that `explain` knows, of all kinds.
pub fn kinds_as_json() -> Value {
    let checks: Vec<Value> = checks::ALL
        .iter()
        .map(|kind| {
            let observes: Vec<Value> = kind
                .observes
                .iter()
                .map(|o| json!({"name": o.name, "unit": unit_word(o.unit), "about": o.about}))
                .collect();
            let presumes: Vec<Value> =
                kind.presumes.iter().map(|p| json!({"name": p.name, "is": p.is})).collect();
            json!({
                "name": kind.name,
                "about": kind.about,
                "target": (!kind.target.is_empty()).then_some(kind.target),
                "observes": observes,
                "presumes": presumes,
                "open_names": kind.open_names,
                "settings": settings(kind),
                "example": kind.example,
            })
        })
        .collect();
    json!({ "checks": checks })
}

fn settings(kind: &Kind) -> Value {
    (kind.settings)(&mut schemars::SchemaGenerator::default()).to_value()
}

/// One kind: what it does, its target, settings, names, and an example.
///
/// Errors (2): unknown; names the nearest and lists all.
pub fn explain(name: &str) -> Result<String, Fault> {
    let kind = checks::kind(name).map_err(|problem| {
        let mut fault = Fault::usage(problem.message);
        fault.help = problem.help;
        fault
    })?;
    let mut out = format!("{}: {}\n", kind.name, kind.about);
    let target = if kind.target.is_empty() { "none" } else { kind.target };
    let _ = writeln!(out, "\ntarget: {target}");
    section(&mut out, "with:", &settings_rows(&settings(kind)), "nothing");
    let mut names: Vec<(String, String)> = kind
        .observes
        .iter()
        .map(|o| (o.name.to_owned(), format!("{} ({})", o.about, unit_word(o.unit))))
        .collect();
    names.extend(kind.open_names.map(|open| ("…".to_owned(), open.to_owned())));
    section(&mut out, "expect:", &names, "nothing");
    let presumed: Vec<(String, String)> =
        kind.presumes.iter().map(|p| (p.name.to_owned(), p.is.to_owned())).collect();
    section(
        &mut out,
        "expected where the plan says nothing about it:",
        &presumed,
        "nothing: a check of this kind needs an `expect`",
    );
    let _ = write!(out, "\nexample:\n{}", indent(kind.example));
    Ok(out)
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
    properties
        .into_iter()
        .flatten()
        .map(|(name, setting)| {
            let about = setting.get("description").and_then(Value::as_str).unwrap_or("");
            (name.clone(), about.replace('\n', " "))
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
    fn every_kind_can_be_explained() {
        for kind in checks::ALL {
            let text = explain(kind.name).unwrap();
            for part in ["target:", "with:", "expect:", "example:"] {
                assert!(text.contains(part), "{}: no {part}", kind.name);
            }
            for observable in kind.observes {
                assert!(text.contains(observable.about), "{}", observable.name);
            }
        }
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        let fault = explain("htp").unwrap_err();
        assert_eq!(fault.exit, crate::fault::Exit::Usage);
        assert!(fault.help.unwrap().starts_with("did you mean `http`?"));
    }

    #[test]
    fn the_markdown_table_has_a_row_for_every_kind_and_whole_cells() {
        let text = kinds_as_markdown();
        for kind in checks::ALL {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", kind.name))).unwrap();
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
        }
    }
}
