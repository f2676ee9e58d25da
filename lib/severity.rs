//! How much a check weighs: one word that the plan and the evidence share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a check weighs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Closes the gate.
    #[default]
    Critical,
    /// Is shown, does not close.
    Warning,
    /// Is recorded.
    Info,
}
