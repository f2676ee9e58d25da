//! `report`: see `report --help`.

fn main() {}
