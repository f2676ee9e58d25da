//! Queries with places for the side and the window: `{{ side }}`, `{{ window }}`, …

use std::time::Duration;

use super::Ask;
use crate::plan::commands::is_word;
use crate::units::Text;

/// What may stand in a query.
pub const HOLES: &[(&str, &str)] = &[
    ("side", "`blue` or `green`"),
    ("release", "what the release header says on that side"),
    ("address", "host and port of that side"),
    ("from", "the beginning of the window, in seconds since 1970"),
    ("to", "its end, in seconds since 1970"),
    ("from_time", "the beginning of the window, such as `2026-11-21T08:00:00Z`"),
    ("to_time", "its end, written the same way"),
    ("window", "the time that one value covers, such as `60s`"),
    ("step", "the time between two values, such as `15s`"),
    ("step_seconds", "the same as a bare number, such as `15`"),
];

/// Whether a text names only what can be filled in, so that a plan is refused before anything moves.
///
/// Errors: in words, the unknown name or the missing end, and what there is.
pub fn check(text: &str) -> Result<(), String> {
    fill_in(text, |name| HOLES.iter().any(|(known, _)| *known == name).then(String::new)).map(drop)
}

/// Whether a text names one of the holes.
pub fn names(text: &str, hole: &str) -> bool {
    let mut found = false;
    // A text that is wrong names nothing; `check` has refused it.
    let _ = fill_in(text, |name| {
        found |= name == hole;
        Some(String::new())
    });
    found
}

/// The query for one side and one window.
///
/// Errors: as [`check`].
pub fn fill(text: &str, ask: &Ask<'_>) -> Result<String, String> {
    fill_in(text, |name| {
        Some(match name {
            "side" => ask.side.word.to_owned(),
            "release" => ask.side.release.clone().unwrap_or_default(),
            "address" => ask.side.address(),
            "from" => show_seconds(ask.from.as_millisecond()),
            "to" => show_seconds(ask.to.as_millisecond()),
            "window" => show_step(ask.covers),
            "from_time" => ask.from.to_string(),
            "to_time" => ask.to.to_string(),
            "step" => show_step(ask.step),
            "step_seconds" => show_seconds(i64::try_from(ask.step.as_millis()).unwrap_or(i64::MAX)),
            _ => return None,
        })
    })
}

/// A path in which nothing but the side is left open.
///
/// Errors: in words, anything else that it names.
pub fn fill_side(path: &Text, word: &str) -> Result<Text, String> {
    let fill = |text: &str| fill_in(text, |name| (name == "side").then(|| word.to_owned()));
    Ok(Text { value: fill(&path.value)?, shown: fill(&path.shown)? })
}

/// A word of a command, or a path, for one side and one window.
///
/// What a side answers is a word there and nothing else: it never becomes code for a shell, an option, or the way into
/// another folder.
///
/// Errors: as [`check`]; it names what is not known of this side, or what is no plain word.
pub fn fill_word(text: &str, ask: &Ask<'_>) -> Result<String, String> {
    let side = if ask.side.word.is_empty() { "this side" } else { ask.side.word };
    if names(text, "release") {
        match ask.side.release.as_deref() {
            None | Some("") => {
                return Err(format!("it names `{{{{ release }}}}`, and that of {side} is not known"));
            }
            Some(release) if !is_word(release) => {
                return Err(format!(
                    "the release of {side} is no plain word, and so it stands in no command and no path: letters, digits \
                     and ._-+:@,=% are, without a dot or a dash at its beginning"
                ));
            }
            Some(_) => {}
        }
    }
    let address = ask.side.address();
    if names(text, "address") && !address.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_[]".contains(c)) {
        return Err(format!("the address of {side} has signs that no host has"));
    }
    fill(text, ask)
}

/// The text without what is filled in later.
pub(super) fn without_holes(text: &str) -> String {
    fill_in(text, |_| Some("x".to_owned())).unwrap_or_else(|_| text.to_owned())
}

/// No language of queries knows `0.5s`.
fn show_step(step: Duration) -> String {
    let ms = step.as_millis();
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn show_seconds(ms: i64) -> String {
    if ms % 1000 == 0 { (ms / 1000).to_string() } else { format!("{}.{:03}", ms / 1000, ms.rem_euclid(1000)) }
}

fn fill_in(text: &str, mut value: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let Some(end) = inside.find("}}") else {
            return Err(format!("`{{{{{inside}` has no `}}}}`"));
        };
        let name = inside[..end].trim();
        let Some(value) = value(name) else {
            let known: Vec<&str> = HOLES.iter().map(|(name, _)| *name).collect();
            return Err(format!("`{{{{ {name} }}}}` is not known; known: {}", known.join(", ")));
        };
        out.push_str(&value);
        rest = &inside[end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::super::SideOf;
    use super::*;

    #[test]
    fn a_query_names_side_step_and_window() {
        let side =
            SideOf { word: "green", url: "http://10.0.0.12:8080/shop".into(), release: Some("1.4.2".into()) };
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let ask = Ask {
            side: &side,
            from: at(1_000_000),
            to: at(1_300_500),
            step: Duration::from_secs(15),
            covers: Duration::from_secs(300),
            limit: Duration::from_secs(1),
        };
        let text = r#"rate(x{side="{{ side }}",v="{{release}}",i="{{ address }}"}[{{ window }}]) {{ from }} {{ to }} {{ step }}"#;
        let expected = r#"rate(x{side="green",v="1.4.2",i="10.0.0.12:8080"}[300s]) 1000 1300.500 15s"#;
        assert_eq!(fill(text, &ask).unwrap(), expected);
        let text = "{{ from_time }} {{ to_time }} {{ step_seconds }}";
        assert_eq!(fill(text, &ask).unwrap(), "1970-01-01T00:16:40Z 1970-01-01T00:21:40.5Z 15");
        let ask = Ask { step: Duration::from_millis(500), ..ask };
        assert_eq!(fill("{{ step }} {{ step_seconds }}", &ask).unwrap(), "500ms 0.500");
        let text = "{side=\"{{ side }}\"}";
        assert!(names(text, "side") && !names("rate(x)", "side"));
        assert!(check("x{{ sied }}").unwrap_err().contains("`{{ sied }}` is not known"));
        assert!(check("x{{ side").is_err());
        assert!(check("x{side=\"a\"}").is_ok());
    }

    #[test]
    fn what_a_side_answers_is_a_word_in_a_command_and_in_a_path() {
        let filled = |release: Option<&str>| {
            let side =
                SideOf { word: "green", url: "http://h:1/".into(), release: release.map(str::to_owned) };
            let at = |ms| Timestamp::from_millisecond(ms).unwrap();
            let (step, limit) = (Duration::from_secs(15), Duration::from_secs(1));
            fill_word(
                "x-{{ release }}.csv",
                &Ask { side: &side, from: at(0), to: at(1), step, covers: step, limit },
            )
        };
        assert_eq!(filled(Some("1.4.2+7")).unwrap(), "x-1.4.2+7.csv");
        for hostile in [
            "$(touch pwned)",
            "`x`",
            "a;b",
            "a b",
            "a\nb",
            "../outside",
            "a/b",
            "/etc/passwd",
            "..",
            ".",
            "-rf",
            "a'b",
            "a\"b",
            "*",
            "~",
            "a|b",
            "\u{202e}x",
            "\0",
            "{{ side }}",
            "${HOME}",
            "a\\b",
            "",
            "a..b/c",
        ] {
            assert!(filled(Some(hostile)).is_err(), "{hostile:?}");
        }
        assert!(filled(None).is_err());
    }
}
