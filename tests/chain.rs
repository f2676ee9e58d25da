//! Tests: chain.
