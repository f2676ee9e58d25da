//! The shipped workflows.
