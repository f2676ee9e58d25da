//! What is done with snapshots that are there: list, check, restore. A store is all that it takes.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{plural, to_stdout};
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::repository::{self, Damage, Repository};
use crate::units::{show_duration, show_size};
use crate::world::talk::{self, Mark, Talk};
use crate::world::{self, signal};

/// What is to be brought back, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Wish {
    /// Its id (or the beginning of it), or `latest`
    #[arg(default_value = "latest")]
    pub id: String,
    /// The folder, which must be empty or new; each source gets a folder in it
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
    /// Only this source
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
}

fn open(store: &Path) -> Result<Box<dyn Repository>, Fault> {
    repository::open(&store.display().to_string(), store, false)
}

/// Shows every snapshot of a store, oldest first, as a table or as JSON on stdout.
///
/// Errors (4): the store cannot be read, or has damaged manifests; the others are shown all the same.
pub fn list(store: &Path, json: bool) -> Result<Exit, Fault> {
    let repository = open(store)?;
    let listing = repository.list()?;
    if json {
        let snapshots: Vec<_> = listing
            .snapshots
            .iter()
            .map(|s| {
                let sources: Vec<_> = s.manifest.sources.iter().map(|p| {
                    let (files, bytes) = p.totals();
                    json!({"name": p.name, "kind": p.kind, "target": p.target, "files": files, "bytes": bytes})
                }).collect();
                json!({"id": s.id, "created_at": s.manifest.created_at, "label": s.manifest.label, "sources": sources})
            })
            .collect();
        to_stdout(
            &json!({"store": repository.place(), "snapshots": snapshots, "damaged": damage_json(&listing.damaged)}),
        )?;
    } else {
        let mut rows = vec![[
            "ID".to_owned(),
            "CREATED".into(),
            "RELEASE".into(),
            "FILES".into(),
            "SIZE".into(),
            "SOURCES".into(),
        ]];
        for snapshot in &listing.snapshots {
            let (files, bytes) = snapshot.manifest.sources.iter().fold((0, 0.0), |(files, bytes), part| {
                let (f, b) = part.totals();
                (files + f, bytes + b as f64)
            });
            let label = &snapshot.manifest.label;
            let sources: Vec<&str> = snapshot.manifest.sources.iter().map(|p| p.name.as_str()).collect();
            rows.push([
                short(&snapshot.id),
                snapshot.manifest.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
                format!("{} {} {}", label.service, label.version, label.environment),
                files.to_string(),
                show_size(bytes),
                sources.join(" "),
            ]);
        }
        let text = table(&rows);
        talk::data(crate::redact::redact(&text).as_bytes())
            .map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))?;
    }
    complain(repository.as_ref(), &listing.damaged).map_or(Ok(Exit::Pass), Err)
}

/// Reads and verifies everything in a store.
///
/// Errors (4): something is damaged or missing; the first is named, with the files that need it.
pub fn check(store: &Path, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let repository = open(store)?;
    let started = std::time::Instant::now();
    let ticker = talk.ticker();
    let checked = repository.check(&mut |bytes| {
        ticker.set(&format!("{} verified", show_size(bytes as f64)));
        if signal::stop_asked() { Err(Fault::infrastructure("the check was interrupted")) } else { Ok(()) }
    })?;
    drop(ticker);
    if json {
        to_stdout(&json!({
            "store": repository.place(),
            "snapshots": checked.snapshots,
            "objects": checked.objects,
            "bytes": checked.bytes,
            "damaged": damage_json(&checked.damaged),
        }))?;
    }
    for damage in &checked.damaged {
        talk.line(Mark::Bad, &format!("{}: {}", damage.object, damage.why));
        for user in &damage.needed_by {
            talk.line(Mark::Bad, &format!("    needed by {user}"));
        }
    }
    if let Some(fault) = complain(repository.as_ref(), &checked.damaged) {
        return Err(fault);
    }
    talk.line(
        Mark::Good,
        &format!(
            "{} whole: {} of {} verified in {}",
            plural(checked.snapshots, "snapshot"),
            plural(checked.objects, "object"),
            show_size(checked.bytes as f64),
            show_duration(started.elapsed().as_secs_f64())
        ),
    );
    Ok(Exit::Pass)
}

/// Brings a snapshot (or one source of it) back into an empty folder, each source in a folder of its own.
///
/// Errors: 2 for an unknown snapshot or source, or a folder that is not empty; 4 for damaged data or a
/// folder that cannot be written.
pub fn restore(store: &Path, wish: &Wish, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let Wish { id, to, source } = wish;
    let repository = open(store)?;
    let reader = repository::find(repository.as_ref(), id)?;
    let started = std::time::Instant::now();
    let ticker = talk.ticker();
    let done = repository::restore(reader.as_ref(), to, source.as_deref(), &mut |file, bytes| {
        ticker.set(&format!("{}, {file}", show_size(bytes as f64)));
    })?;
    drop(ticker);
    let manifest = reader.manifest();
    if json {
        to_stdout(&json!({
            "store": repository.place(),
            "id": reader.id(),
            "to": to.display().to_string(),
            "files": done.files,
            "bytes": done.bytes,
        }))?;
    }
    let age = world::now().duration_since(manifest.created_at).as_secs_f64().max(0.0);
    talk.line(
        Mark::Good,
        &format!(
            "restored {} ({} old) to {}: {} of {}, every byte verified, in {}",
            short(reader.id()),
            show_duration(age),
            to.display(),
            plural(done.files, "file"),
            show_size(done.bytes as f64),
            show_duration(started.elapsed().as_secs_f64())
        ),
    );
    Ok(Exit::Pass)
}

fn complain(repository: &dyn Repository, damaged: &[Damage]) -> Option<Fault> {
    let first = damaged.first()?;
    let users = match first.needed_by.len() {
        0 => "no snapshot needs it".to_owned(),
        n if n <= 5 => format!("needed by {}", first.needed_by.join(", ")),
        n => format!("needed by {}, and {} more", first.needed_by[..5].join(", "), n - 5),
    };
    Some(
        Fault::infrastructure(format!("{} of the snapshot store damaged", plural(damaged.len(), "file")))
            .place(format!("{}/{}", repository.place(), first.object))
            .cause(format!("{}; {users}", first.why))
            .help("look at the disk; what does not need these files can still be restored"),
    )
}

fn damage_json(damaged: &[Damage]) -> serde_json::Value {
    let items = damaged.iter().map(|d| json!({"object": d.object, "why": d.why, "needed_by": d.needed_by}));
    items.collect()
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Whoever can write to the store chose these texts: no escape sequence reaches the terminal.
        let text = cells.join("  ").replace(char::is_control, "?");
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}
