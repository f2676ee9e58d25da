//! summary.md: what a CI job's page shows, always small enough to be shown.

use minijinja::context;
use minijinja::value::{Serde, Value};

use super::{Kind, Story, Templates};
use crate::fault::Fault;

pub(super) static KIND: Kind = Kind {
    name: "summary",
    about: "the step summary of a CI job; all checks, the failed ones, or the counts, as fits",
    file: "summary.md",
    render,
};

/// The most bytes that a summary may have. GitHub throws a step summary of more than 1 MiB away as a
/// whole; the rest of that is left to other tools that write in the same step.
pub const LIMIT: usize = 1_000_000;

fn render(story: &Story, templates: &Templates) -> Result<Vec<u8>, Fault> {
    for level in ["all", "failed", "counts"] {
        let values = context! { level => level, ..Value::from(Serde(story)) };
        let text = templates.fill("summary.md", values)?;
        if text.len() <= LIMIT {
            return Ok(text.into_bytes());
        }
    }
    Err(Fault::usage("the template `summary.md` makes a summary of more than 1 000 000 bytes")
        .help("let it print less where `level` is `failed` or `counts`"))
}
