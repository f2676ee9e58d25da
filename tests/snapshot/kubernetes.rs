//! Tests: kubernetes.
