//! `verify`: did it hold? Checks what is live against the plan and the baseline; see `verify --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::{BaselineBody, VerifyBody};
use trapkey::tools::verify;

/// Did it hold? Checks what is live, compares it with the baseline, and writes verify.json
///
/// Consumes promote.json (after a promotion green must be live, after a rollback blue), and
/// snapshot.json and baseline.json where the plan has them.
#[derive(Parser)]
#[command(name = "verify", version)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Check what is live (also without any command)
    Run,
    /// Measure the plan's probes before the release, and write baseline.json
    Baseline,
}

fn main() -> ExitCode {
    cli::run(|arguments: Arguments| {
        let shared = &arguments.shared;
        match arguments.command.unwrap_or(Command::Run) {
            Command::Run => cli::gate::<VerifyBody>(shared, "verify", verify::run),
            Command::Baseline => cli::gate::<BaselineBody>(shared, "verify", verify::baseline),
        }
    })
}
