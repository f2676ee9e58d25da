//! The five tools: each turns a plan and earlier evidence into its own document.

pub mod preflight;
pub mod promote;
pub mod report;
pub mod snapshot;
pub mod verify;
