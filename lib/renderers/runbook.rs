//! runbook.md: what was done, how to go back, what to do when.

use minijinja::value::{Serde, Value};

use super::{Kind, Story, Templates};
use crate::fault::Fault;

pub(super) static KIND: Kind = Kind {
    name: "runbook",
    about: "what was done, the exact commands to go back, the plan's contingency scenarios",
    file: "runbook.md",
    render,
};

fn render(story: &Story, templates: &Templates) -> Result<Vec<u8>, Fault> {
    templates.fill("runbook.md", Value::from(Serde(story))).map(String::into_bytes)
}
