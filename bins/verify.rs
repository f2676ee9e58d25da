//! `verify`: see `verify --help`.

fn main() {}
