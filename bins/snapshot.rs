//! `snapshot`: see `snapshot --help`.

fn main() {}
