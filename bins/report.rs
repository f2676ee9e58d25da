//! `report`: the whole release on one page, from evidence that was proven first.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::ReportBody;
use trapkey::tools::report;

/// Proves the chain of evidence and renders it: report.html, runbook.md, junit.xml, summary.md.
///
/// Exit codes: 0 rendered (how the release ended is `outcome` in report.json), 2 usage or a broken
/// template, 4 a file cannot be written, 5 the chain is broken.
#[derive(Parser)]
#[command(name = "report", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A folder whose files replace the templates of the same name
    #[arg(long, env = "TRAPKEY_TEMPLATES", value_name = "FOLDER")]
    templates: Option<PathBuf>,
    // The last one: its heading is for its own options alone.
    #[command(flatten)]
    shared: Shared,
}

#[derive(Subcommand)]
enum Command {
    /// Prove the chain only, and print each link
    Check,
    /// Write the JSON Schemas of all documents
    Schemas {
        /// The folder that they go to
        #[arg(long, default_value = "docs/schemas", value_name = "FOLDER")]
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    cli::run(|arguments: Arguments| match arguments.command {
        None => cli::gate::<ReportBody>(&arguments.shared, "report", |job| {
            report::render(job, arguments.templates.as_deref())
        }),
        Some(Command::Check) => cli::aside(&arguments.shared, "report", report::check),
        Some(Command::Schemas { to }) => report::write_schemas(&to),
    })
}
