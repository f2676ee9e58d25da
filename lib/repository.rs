//! Where snapshots are kept: restic's repository format, by our own engine.

pub mod restic;
