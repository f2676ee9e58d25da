//! `promote`: moves traffic to a new version, step by step, and back when it must.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::PromoteBody;
use trapkey::tools::promote::{self, Approve, Call, Mode};
use trapkey::units::Span;

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
    Run(Begin),
    /// Begin, and leave at the first wait
    Start(Begin),
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
    /// Sign the approval that a step waits for
    Approve {
        /// The role that approves
        #[arg(long, value_name = "ROLE")]
        role: String,
        /// The private key (Ed25519, PEM) that signs; the one of --sign-key when absent
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The step, from 1; the next one that asks the role when absent
        #[arg(long, value_name = "NUMBER")]
        step: Option<usize>,
        /// Why; goes on record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// How long it counts, such as 4h
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
    },
    /// Go back after a finished promotion, while the old side is kept
    Undo {
        /// Why; goes on record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Print the steps and touch nothing
    Plan,
}

#[derive(Args)]
struct Begin {
    /// Call another release that is under way off, roll it back, and begin this one
    #[arg(long, env = "TRAPKEY_SUPERSEDE", value_parser = BoolishValueParser::new())]
    supersede: bool,
}

impl Begin {
    fn call(&self) -> Call {
        if self.supersede { Call::Supersede } else { Call::Begin }
    }
}

fn main() -> ExitCode {
    cli::run(|Arguments { shared, command }| match command {
        Command::Run(begin) => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, begin.call(), Mode::Hold))
        }
        Command::Start(begin) => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, begin.call(), Mode::Once))
        }
        Command::Step => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, Call::GoOn, Mode::Once))
        }
        Command::Abort { reason } => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::abort(job, reason))
        }
        Command::Approve { role, key, step, reason, expires_in } => cli::aside(&shared, TOOL, |job| {
            let asked =
                Approve { role: &role, step, key: key.as_deref(), reason: reason.clone(), expires_in };
            promote::approve(job, asked)
        }),
        Command::Undo { reason } => cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::undo(job, reason)),
        Command::Status => cli::aside(&shared, TOOL, promote::status),
        Command::Pause => cli::aside(&shared, TOOL, promote::pause),
        Command::Resume => cli::aside(&shared, TOOL, promote::resume),
        Command::Plan => cli::aside(&shared, TOOL, promote::plan),
    })
}
