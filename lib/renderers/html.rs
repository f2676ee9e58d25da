//! report.html: one page without scripts, for a release manager.

use minijinja::context;
use minijinja::value::{Serde, Value};

use super::{Kind, Story, Templates};
use crate::fault::Fault;

pub(super) static KIND: Kind = Kind {
    name: "html",
    about: "the page for people: verdict, figures, way back, evidence; no scripts",
    file: "report.html",
    render,
};

fn render(story: &Story, templates: &Templates) -> Result<Vec<u8>, Fault> {
    // `</style` would end the element early.
    let css = templates.text("report.css").replace("</", "<\\/");
    let values = context! { css => Value::from_safe_string(css), ..Value::from(Serde(story)) };
    templates.fill("report.html", values).map(String::into_bytes)
}
