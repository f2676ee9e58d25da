//! Tests: snapshot.
