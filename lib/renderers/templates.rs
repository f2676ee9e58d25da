//! What the renderers fill in: the texts that come with Trapkey, each of which a user may replace.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

use super::escape;
use crate::fault::Fault;

const DEFAULTS: &[(&str, &str)] = &[
    ("report.html", include_str!("../../templates/report.html")),
    ("report.css", include_str!("../../templates/report.css")),
    ("runbook.md", include_str!("../../templates/runbook.md")),
    ("summary.md", include_str!("../../templates/summary.md")),
];

/// Markdown's own escaping, by the name that minijinja knows it under.
const MARKDOWN: AutoEscape = AutoEscape::Custom(std::borrow::Cow::Borrowed("markdown"));

/// One text and where it came from.
#[derive(Clone, Debug)]
struct Template {
    text: String,
    place: String,
}

/// Every text that the renderers fill in.
#[derive(Clone, Debug)]
pub struct Templates(BTreeMap<&'static str, Template>);

impl Default for Templates {
    fn default() -> Self {
        let own = |(name, text): &(&'static str, &str)| {
            (*name, Template { text: (*text).to_owned(), place: (*name).to_owned() })
        };
        Self(DEFAULTS.iter().map(own).collect())
    }
}

impl Templates {
    /// The files that may be replaced.
    pub fn names() -> Vec<&'static str> {
        DEFAULTS.iter().map(|(name, _)| *name).collect()
    }

    /// Replaces one by the user's text, which was read from `place`; says whether the name is known.
    pub fn replace(&mut self, name: &str, text: String, place: &str) -> bool {
        match DEFAULTS.iter().find(|(known, _)| *known == name) {
            None => false,
            Some((known, _)) => {
                self.0.insert(known, Template { text, place: place.to_owned() });
                true
            }
        }
    }

    /// A text as it stands.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |t| &t.text)
    }

    /// Fills in a template. Every value is escaped for the language that the name ends in; a name
    /// that the story does not have is an error, so that a typing mistake never leaves a hole.
    ///
    /// Errors (2): the template does not parse or cannot be filled in, with file and line.
    pub(super) fn fill(&self, name: &str, values: Value) -> Result<String, Fault> {
        let place = self.0.get(name).map_or(name, |t| t.place.as_str());
        let broken = |e: Error| {
            let line = e.line().map(|l| format!(":{l}")).unwrap_or_default();
            Fault::usage(format!("the template `{name}` cannot be rendered"))
                .place(format!("{place}{line}"))
                .cause(e.detail().map_or_else(|| e.kind().to_string(), |d| format!("{}: {d}", e.kind())))
                .help("compare it with the one that comes with Trapkey, or leave --templates away")
        };
        let mut environment = environment();
        environment.add_template(name, self.text(name)).map_err(broken)?;
        environment.get_template(name).and_then(|t| t.render(values)).map_err(broken)
    }
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Without it only the blank lines would differ; the tests see that this syntax is accepted.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|name| match name.rsplit_once('.') {
        Some((_, "md")) => MARKDOWN,
        _ => AutoEscape::Html,
    });
    environment.set_formatter(escaped);
    environment.add_filter("code", |text: &str| Value::from_safe_string(escape::code_span(text)));
    environment.add_filter("prose", prose);
    environment.add_filter("glue", |text: &str| escape::glued(text));
    environment.add_filter("commands", |text: &str| Value::from_safe_string(escape::code_block(text)));
    environment
}

/// What the plan's author wrote: escaped as everything else, but `code` in backticks stays code.
fn prose(state: &State, text: &str) -> Value {
    let markdown = *state.auto_escape() == MARKDOWN;
    let pieces: Vec<&str> = text.split('`').collect();
    let whole = pieces.len() % 2 == 1;
    let parts = pieces.iter().enumerate().map(|(at, piece)| match (at % 2 == 1 && whole, markdown) {
        (true, true) => escape::code_span(piece),
        (true, false) => format!("<code>{}</code>", escape::xml(piece)),
        // One line and no leading space is for the whole text, not for its pieces.
        (false, true) => spaced(piece, &escape::markdown(piece)),
        (false, false) => escape::xml(piece),
    });
    let joint = match (whole, markdown) {
        (true, _) => "",
        (false, true) => "\\`",
        (false, false) => "`",
    };
    Value::from_safe_string(parts.collect::<Vec<_>>().join(joint))
}

/// Gives a piece the spaces at its ends back.
fn spaced(piece: &str, escaped: &str) -> String {
    let (before, after) = (piece.starts_with(char::is_whitespace), piece.ends_with(char::is_whitespace));
    let space = |there: bool| if there { " " } else { "" };
    if escaped.is_empty() {
        space(before).into()
    } else {
        format!("{}{escaped}{}", space(before), space(after))
    }
}

fn escaped(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_none() => String::new(),
        None => value.to_string(),
    };
    let text = match state.auto_escape() {
        _ if value.is_safe() => text,
        AutoEscape::None => text,
        escape if *escape == MARKDOWN => escape::markdown(&text),
        _ => escape::xml(&text),
    };
    out.write_str(&text).map_err(|e| Error::new(ErrorKind::WriteFailure, e.to_string()))
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn fill(name: &str, template: &str, text: &str) -> String {
        let mut templates = Templates::default();
        assert!(templates.replace(name, template.to_owned(), "mine"));
        templates.fill(name, context! { text => text }).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn prose_keeps_code_and_nothing_else() {
        let cases = [
            ("run `a|b` now", "run <code>a|b</code> now", "run `a\\|b` now"),
            ("<b>`<i>`", "&lt;b&gt;<code>&lt;i&gt;</code>", "&lt;b&gt;`<i>`"),
            ("one ` alone *x*", "one ` alone *x*", "one \\` alone \\*x\\*"),
            ("a `` b", "a <code></code> b", "a  b"),
            ("@all ::error::", "@all ::error::", "&#64;all &#58;&#58;error&#58;&#58;"),
        ];
        for (text, html, markdown) in cases {
            assert_eq!(fill("report.html", "{{ text|prose }}", text), html, "{text}");
            assert_eq!(fill("runbook.md", "{{ text|prose }}", text), markdown, "{text}");
        }
    }

    #[test]
    fn every_value_is_escaped_for_the_language_of_its_file() {
        assert_eq!(fill("report.html", "{{ text }}|{{ text|safe }}", "<&>"), "&lt;&amp;&gt;|<&>");
        assert_eq!(fill("summary.md", "{{ text }}", "a|<b>"), "a\\|&lt;b&gt;");
        assert_eq!(fill("summary.md", "{{ text|code }}", "a|`"), "`` a\\|` ``");
    }

    #[test]
    fn the_texts_that_come_with_trapkey_parse() {
        for (name, text) in DEFAULTS.iter().filter(|(name, _)| *name != "report.css") {
            let mut environment = environment();
            assert!(environment.add_template(name, text).is_ok(), "{name}");
        }
        assert!(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().is_ok());
    }
}
