//! `preflight`: may we? Runs the plan's checks; see `preflight --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::PreflightBody;
use trapkey::fault::{Exit, Fault};
use trapkey::tools::preflight;

/// May we release? Runs the plan's preflight checks and writes preflight.json
#[derive(Parser)]
#[command(name = "preflight", version)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the checks (also without any command)
    Run,
    /// List the kinds of checks
    Kinds {
        /// As Markdown tables
        #[arg(long)]
        markdown: bool,
    },
    /// Tell all about one kind
    Explain {
        /// The kind, such as `http`
        kind: String,
    },
    /// Print the JSON Schema of the plan
    Schema,
    /// Write an annotated plan to start from
    Init,
}

fn main() -> ExitCode {
    cli::run(|arguments: Arguments| -> Result<Exit, Fault> {
        let shared = &arguments.shared;
        match arguments.command.unwrap_or(Command::Run) {
            Command::Run => cli::gate::<PreflightBody>(shared, "preflight", preflight::run),
            Command::Kinds { markdown: true } => preflight::print(&preflight::kinds_as_markdown()),
            Command::Kinds { .. } if shared.json => preflight::print_json(&preflight::kinds_as_json()),
            Command::Kinds { .. } => preflight::print(&preflight::kinds_as_text()),
            Command::Explain { kind } if shared.json => {
                preflight::print_json(&preflight::explain_as_json(&kind)?)
            }
            Command::Explain { kind } => preflight::print(&preflight::explain(&kind)?),
            Command::Schema => preflight::print_json(&preflight::plan_schema()),
            Command::Init => preflight::init(&shared.plan, &shared.talk()),
        }
    })
}
