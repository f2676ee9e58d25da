//! `snapshot`: backs up what a release could break, proves that it reads back, and brings it back.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use trapkey::cli::{self, Shared};
use trapkey::evidence::{DrillBody, SnapshotBody};
use trapkey::fault::{Exit, Fault};
use trapkey::job::Job;
use trapkey::tools::snapshot::{self, Place};
use trapkey::world::talk::Progress;

/// Backs up every source of the plan, proves that it reads back, and brings it back
#[derive(Parser)]
#[command(name = "snapshot", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How to show how far it is: on a terminal, as lines of JSON on stderr, or never
    #[arg(long, global = true, env = "TRAPKEY_PROGRESS", default_value = "auto", value_name = "HOW")]
    progress: When,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Subcommand)]
enum Command {
    /// Back up every source, read everything back, write snapshot.json
    Create,
    /// Check the store: its structure, and its data as far as asked
    Check {
        #[command(flatten)]
        store: Store,
        #[command(flatten)]
        depth: snapshot::Depth,
    },
    /// Show the snapshots of the store
    List(Store),
    /// Show one snapshot: its sources, and the commands that bring it back
    Show {
        #[command(flatten)]
        store: Store,
        /// Its id (or the beginning of it), or `latest`
        #[arg(default_value = "latest")]
        id: String,
    },
    /// Show what is another in one snapshot than in an earlier one
    Diff {
        #[command(flatten)]
        store: Store,
        /// The earlier one: its id (or the beginning of it), or `latest`
        a: String,
        /// The later one
        #[arg(default_value = "latest")]
        b: String,
    },
    /// Pin a snapshot: nothing removes it
    Pin {
        #[command(flatten)]
        store: Store,
        /// Its id (or the beginning of it), or `latest`
        id: String,
        /// Why, in one line, for whoever asks later
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
    },
    /// Take the pin of a snapshot away
    Unpin {
        #[command(flatten)]
        store: Store,
        /// Its id (or the beginning of it), or `latest`
        id: String,
    },
    /// Forget what the plan's retention does not keep, and remove what nobody needs any more
    Prune(snapshot::Cut),
    /// Remove the locks of processes that are gone
    Unlock {
        #[command(flatten)]
        store: Store,
        /// Remove every lock, also of those who still work
        #[arg(long)]
        all: bool,
    },
    /// Show, add, remove or rotate the keys of the store
    Key {
        /// The snapshot store [default: the plan's]; with it no plan is needed
        #[arg(long, global = true, env = "TRAPKEY_STORE", value_name = "PLACE")]
        store: Option<String>,
        #[command(subcommand)]
        command: snapshot::KeyCommand,
    },
    /// Bring a snapshot back: into a folder, in place, or a database into a live one
    Restore {
        #[command(flatten)]
        store: Store,
        #[command(flatten)]
        wish: snapshot::Wish,
    },
    /// Rehearse the way back in a scratch place, measure it, write drill.json
    Drill(snapshot::Rehearsal),
}

/// How to show how far it is.
#[derive(Clone, Copy, ValueEnum)]
enum When {
    /// On a terminal
    Auto,
    /// As lines of JSON on stderr
    Json,
    /// Never
    Never,
}

#[derive(Args)]
struct Store {
    /// The snapshot store [default: the plan's]; with it no plan is needed
    #[arg(long, env = "TRAPKEY_STORE", value_name = "PLACE")]
    store: Option<String>,
}

fn main() -> ExitCode {
    // A guard of frozen sources: it outlives the snapshot that started it.
    if let Some(done) = snapshot::guard_if_asked() {
        return done;
    }
    cli::run(|Arguments { command, progress, mut shared }| {
        shared.progress = progress.into();
        let (talk, json) = (shared.talk(), shared.json);
        match &command {
            Command::Create => cli::gate::<SnapshotBody>(&shared, "snapshot", snapshot::create),
            Command::Check { store, depth } => {
                store.look(&shared, |at| snapshot::check(at, depth, &talk, json))
            }
            Command::List(store) => store.look(&shared, |at| snapshot::list(at, json)),
            Command::Show { store, id } => store.look(&shared, |at| snapshot::show(at, id, json)),
            Command::Diff { store, a, b } => store.look(&shared, |at| snapshot::diff(at, a, b, json)),
            Command::Pin { store, id, why } => {
                store.look(&shared, |at| snapshot::pin(at, id, why.as_deref(), &talk, json))
            }
            Command::Unpin { store, id } => store.look(&shared, |at| snapshot::unpin(at, id, &talk, json)),
            Command::Prune(cut) => cli::order(&shared, "snapshot", |job| snapshot::prune(job, cut)),
            Command::Unlock { store, all } => {
                store.look(&shared, |at| snapshot::unlock(at, *all, &talk, json))
            }
            Command::Key { store, command } => Store { store: store.clone() }
                .look_with(&shared, |at, job| snapshot::key(at, job, command, &talk, json)),
            Command::Drill(rehearsal) => {
                cli::rehearse::<DrillBody>(&shared, "snapshot", |job| snapshot::drill(job, rehearsal))
            }
            Command::Restore { store, wish } if wish.goal.in_place => {
                cli::order(&shared, "snapshot", |job| snapshot::in_place(job, &store.of(job)?, wish))
            }
            Command::Restore { store, wish } if wish.goal.needs_plan() => {
                cli::order(&shared, "snapshot", |job| snapshot::into(job, &store.of(job)?, wish))
            }
            Command::Restore { store, wish } => {
                store.look(&shared, |at| snapshot::restore(at, wish, &talk, json))
            }
        }
    })
}

impl Store {
    /// The named store, or that of the plan, for what needs the plan in any case.
    fn of(&self, job: &Job) -> Result<Place, Fault> {
        self.store.as_ref().map_or_else(|| Place::of(job), |store| Ok(Place::new(store, Path::new("."))))
    }

    /// Looks into the named store, or into that of the plan.
    fn look(&self, shared: &Shared, work: impl FnOnce(&Place) -> Result<Exit, Fault>) -> Result<Exit, Fault> {
        self.look_with(shared, |at, _| work(at))
    }

    /// The same, with the plan where the store is the plan's.
    fn look_with(
        &self,
        shared: &Shared,
        work: impl FnOnce(&Place, Option<&Job>) -> Result<Exit, Fault>,
    ) -> Result<Exit, Fault> {
        match &self.store {
            Some(store) => {
                // Without a plan nobody has looked for secrets in the environment yet.
                trapkey::redact::learn_environment();
                let _beats = shared.talk().heartbeat(shared.heartbeat.0);
                work(&Place::new(store, Path::new(".")), None)
            }
            None => cli::order(shared, "snapshot", |job| work(&Place::of(job)?, Some(job))),
        }
    }
}

impl From<When> for Progress {
    fn from(when: When) -> Self {
        match when {
            When::Auto => Self::Auto,
            When::Json => Self::Json,
            When::Never => Self::None,
        }
    }
}
