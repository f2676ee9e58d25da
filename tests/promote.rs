//! Tests: promote.
