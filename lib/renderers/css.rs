//! report.css: the same style sheet as a file, for servers that allow no inline styles (Jenkins).

use super::{Kind, Story, Templates};
use crate::fault::Fault;

pub(super) static KIND: Kind = Kind {
    name: "css",
    about: "the style sheet of report.html, for servers that allow no inline styles",
    file: "report.css",
    render,
};

#[expect(clippy::unnecessary_wraps, reason = "the seam of all renderers")]
fn render(_: &Story, templates: &Templates) -> Result<Vec<u8>, Fault> {
    Ok(templates.text("report.css").as_bytes().to_vec())
}
