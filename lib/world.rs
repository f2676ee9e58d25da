//! The only doors to the outside: HTTP, PostgreSQL, commands, files, signals, the CI system, the terminal.

pub mod ci;
pub mod files;
pub mod http;
pub mod postgres;
pub mod shell;
pub mod signal;
pub mod talk;

use jiff::Timestamp;

/// The moment, by the wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A number that differs from call to call and from process to process; not for secrets.
pub fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_i128(Timestamp::now().as_nanosecond());
    hasher.finish()
}
