//! `promote`: moves traffic to a new version, step by step, and back when it must.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::PromoteBody;
use trapkey::tools::promote::{self, Call, Mode};

const TOOL: &str = "promote";

/// Move traffic to a new version, step by step, each step judged, and back when it must be.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take the release all the way, holding the job while it bakes
    Run,
    /// Begin, and leave at the first wait
    Start,
    /// Go on: look at the whole elapsed window, then move on, wait or go back
    Step,
    /// Say where the newest promotion stands
    Status,
    /// Hold before the next step; it is still judged
    Pause,
    /// Let a paused promotion go on
    Resume,
    /// Call it off: all traffic to the old side
    Abort {
        /// Why; goes on record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Print the steps and touch nothing
    Plan,
}

fn main() -> ExitCode {
    cli::run(|Arguments { shared, command }| match command {
        Command::Run => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, Call::Begin, Mode::Hold))
        }
        Command::Start => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, Call::Begin, Mode::Once))
        }
        Command::Step => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, Call::GoOn, Mode::Once))
        }
        Command::Abort { reason } => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::abort(job, reason))
        }
        Command::Status => cli::aside(&shared, TOOL, promote::status),
        Command::Pause => cli::aside(&shared, TOOL, promote::pause),
        Command::Resume => cli::aside(&shared, TOOL, promote::resume),
        Command::Plan => cli::aside(&shared, TOOL, promote::plan),
    })
}
