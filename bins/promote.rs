//! `promote`: see `promote --help`.

fn main() {}
