//! `snapshot`: backs up what a release could break, proves that it reads back, and brings it back.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::SnapshotBody;
use trapkey::fault::{Exit, Fault};
use trapkey::tools::snapshot;

/// Backs up every source of the plan, proves that it reads back, and brings it back
#[derive(Parser)]
#[command(name = "snapshot", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    shared: Shared,
    /// The snapshot store [default: the plan's]; with it check, list and restore need no plan
    #[arg(long, global = true, env = "TRAPKEY_STORE", value_name = "FOLDER")]
    store: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Back up every source, read everything back, write snapshot.json
    Create,
    /// Read and verify everything in the store
    Check,
    /// Show the snapshots of the store
    List,
    /// Bring a snapshot back into an empty folder
    Restore {
        /// Its id (or the beginning of it), or `latest`
        #[arg(default_value = "latest")]
        id: String,
        /// The folder, which must be empty or new; each source gets a folder in it
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// Only this source
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
    },
}

fn main() -> ExitCode {
    cli::run(|Arguments { command, shared, store }| match &command {
        Command::Create if store.is_some() => Err(Fault::usage("`create` writes to the store of the plan")
            .help("leave out --store (and TRAPKEY_STORE), or change `snapshot.store` in the plan")),
        Command::Create => cli::gate::<SnapshotBody>(&shared, "snapshot", snapshot::create),
        look => with_store(&shared, store, |store| match look {
            Command::List => snapshot::list(store, shared.json),
            Command::Restore { id, to, source } => {
                snapshot::restore(store, id, to, source.as_deref(), &shared.talk(), shared.json)
            }
            Command::Check | Command::Create => snapshot::check(store, &shared.talk(), shared.json),
        }),
    })
}

fn with_store(
    shared: &Shared,
    store: Option<PathBuf>,
    work: impl FnOnce(&std::path::Path) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    match store {
        Some(store) => work(&store),
        None => cli::aside(shared, "snapshot", |job| work(&snapshot::store_of(job)?)),
    }
}
