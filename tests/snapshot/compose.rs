//! Tests: compose.
