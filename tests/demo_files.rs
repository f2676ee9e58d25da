//! Tests: demo_files.
