//! `snapshot`: backs up what a release could break, proves that it reads back, and brings it back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use trapkey::cli::{self, Shared};
use trapkey::evidence::SnapshotBody;
use trapkey::fault::{Exit, Fault};
use trapkey::tools::snapshot;

/// Backs up every source of the plan, proves that it reads back, and brings it back
#[derive(Parser)]
#[command(name = "snapshot", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Subcommand)]
enum Command {
    /// Back up every source, read everything back, write snapshot.json
    Create,
    /// Read and verify everything in the store
    Check(Store),
    /// Show the snapshots of the store
    List(Store),
    /// Bring a snapshot back into an empty folder
    Restore {
        #[command(flatten)]
        store: Store,
        #[command(flatten)]
        wish: snapshot::Wish,
    },
}

#[derive(Args)]
struct Store {
    /// The snapshot store [default: the plan's]; with it no plan is needed
    #[arg(long, env = "TRAPKEY_STORE", value_name = "FOLDER")]
    store: Option<PathBuf>,
}

fn main() -> ExitCode {
    // A guard of frozen sources: it outlives the snapshot that started it.
    if let Some(done) = snapshot::guard_if_asked() {
        return done;
    }
    cli::run(|Arguments { command, shared }| {
        let (talk, json) = (shared.talk(), shared.json);
        match &command {
            Command::Create => cli::gate::<SnapshotBody>(&shared, "snapshot", snapshot::create),
            Command::Check(store) => store.look(&shared, |at| snapshot::check(at, &talk, json)),
            Command::List(store) => store.look(&shared, |at| snapshot::list(at, json)),
            Command::Restore { store, wish } => {
                store.look(&shared, |at| snapshot::restore(at, wish, &talk, json))
            }
        }
    })
}

impl Store {
    /// Looks into the named store, or into that of the plan.
    fn look(&self, shared: &Shared, work: impl FnOnce(&Path) -> Result<Exit, Fault>) -> Result<Exit, Fault> {
        match &self.store {
            Some(store) => work(store),
            None => cli::aside(shared, "snapshot", |job| work(&snapshot::store_of(job)?)),
        }
    }
}
