//! `preflight`: see `preflight --help`.

fn main() {}
