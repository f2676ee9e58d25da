//! The checks shelf and `preflight`: a contract for every kind, and the binary from outside.

mod connections;
mod contract;
mod encrypted;
mod gate;
mod papers;
mod redirects;
mod rules;
pub(crate) mod servers;
mod time;
mod wire;
