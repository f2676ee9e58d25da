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
    environment.add_filter("glue", |text: &str| escape::glued(text));
    environment.add_filter("commands", |text: &str| Value::from_safe_string(escape::code_block(text)));
    environment
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
