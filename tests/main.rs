//! All tests that run the binaries or real servers; one program, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

mod breaks;
mod chain;
mod checks;
mod ci;
mod demo_files;
mod house;
mod judge;
mod judge_trend;
mod metrics;
mod metrics_files;
mod mistakes;
mod opened;
mod promote;
mod report;
mod restic;
mod snapshot;
mod verify;
mod verify_metrics;
