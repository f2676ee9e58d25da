//! Trapkey: release interlocks for CI.
//!
//! Five thin binaries (`preflight`, `snapshot`, `promote`, `verify`, `report`) over this one library.
//! Each writes a JSON evidence document, and the next will not turn without it.
//!
//! # Floors
//! A module uses only modules of a lower floor; `tests/house.rs` reads the `use crate::` lines and
//! fails on an upward arrow. Shelves never use each other.
//!
//! | floor | modules |
//! | --- | --- |
//! | 1 words | [`bounds`], [`caught`], [`redact`], [`plain`], [`severity`], [`fault`], [`yaml`], [`units`], [`expectation`], [`calendar`], [`signature`] |
//! | 2 shapes | [`evidence`], [`plan`] |
//! | 3 doors | [`world`] (HTTP, PostgreSQL, commands, files, the clock: the only doors to the outside) |
//! | 4 shelves | [`checks`], [`sources`], [`repository`], [`routers`], [`metrics`], [`judge`], [`renderers`], [`state`] |
//! | 5 one call | [`job`] (plan, environment, evidence folder, talk) |
//! | 6 tools | [`tools`] |
//! | 7 command line | [`cli`] |
//!
//! # Invariants
//! - [`judge`], [`tools::promote::machine`] and [`renderers`] do no I/O and read no clock.
//! - The plan knows no kind by name: it carries the uniform fields and hands `with` to the kind.
//! - A tool writes its own document and never rewrites another's.
//! - What is going to happen exists as data before it happens.
//! - An unknown kind, schema or version is refused with the list of the known ones.
//!
//! # Adding a kind
//! One new file in its shelf with a `pub static KIND`, and two neighbouring lines in the shelf's own
//! file: `mod name;` and `&name::KIND`. Schema, `explain`, the README's tables and the shelf's
//! contract tests walk the list.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod bounds;
pub mod calendar;
pub mod caught;
pub mod checks;
pub mod cli;
pub mod evidence;
pub mod expectation;
pub mod fault;
pub mod job;
pub mod judge;
pub mod metrics;
pub mod plain;
pub mod plan;
pub mod redact;
pub mod renderers;
pub mod repository;
pub mod routers;
pub mod severity;
pub mod signature;
pub mod sources;
pub mod state;
pub mod tools;
pub mod units;
pub mod world;
pub mod yaml;
