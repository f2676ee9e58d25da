//! The contract of every kind.
