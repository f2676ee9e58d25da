//! Every output that a report may have: pure, evidence in, text out.

use crate::fault::Fault;

mod chart;
mod css;
mod documents;
pub mod escape;
mod figures;
mod html;
mod judged;
mod junit;
mod opening;
mod runbook;
mod story;
mod summary;
mod templates;
mod words;

pub use documents::{Documents, Missing};
pub use story::Story;
pub use summary::LIMIT as SUMMARY_LIMIT;
pub use templates::Templates;

/// One output of a report.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    /// Its file in the evidence folder.
    pub file: &'static str,
    /// Makes it: the same story and templates always give the same bytes.
    ///
    /// Errors (2): a template that cannot be rendered, with its name and line.
    pub render: fn(&Story, &Templates) -> Result<Vec<u8>, Fault>,
}

/// Every output that `report` writes.
pub static ALL: &[&Kind] = &[&html::KIND, &css::KIND, &runbook::KIND, &junit::KIND, &summary::KIND];
