//! What is seen of snapshots that are there: list, show, check. A store is all that it takes.

use std::time::Instant;

use serde_json::json;

use super::inside::Inside;
use super::store::Place;
use super::{plural, restic_command, restore_command, to_stdout};
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::repository::restic::{Damage, Health, Id, ReadData, Snapshot};
use crate::units::{parse_share, show_duration, show_size};
use crate::world::talk::{self, Mark, Step, Talk};

/// How thoroughly a store is checked.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Depth {
    /// Read and verify every byte
    #[arg(long)]
    pub read_data: bool,
    /// Read and verify this share of the data, another one each time: 10%
    #[arg(long, value_name = "SHARE", conflicts_with = "read_data")]
    pub read_data_subset: Option<String>,
}

impl Depth {
    fn read_data(&self) -> Result<ReadData, Fault> {
        let Some(text) = &self.read_data_subset else {
            return Ok(if self.read_data { ReadData::All } else { ReadData::Nothing });
        };
        let wrong = || {
            Fault::usage(format!("`{text}` is no share of the data"))
                .help("write it like 10%, more than 0 and at most 100%")
        };
        let share = parse_share(text).map_err(|_| wrong())?;
        if share > 0.0 && share <= 1.0 { Ok(ReadData::Share(share)) } else { Err(wrong()) }
    }
}

/// Shows every snapshot of a store, oldest first, as a table or as JSON on stdout.
///
/// Errors (4): the store cannot be read, or has damaged snapshots; the others are shown all the same.
pub fn list(place: &Place, json: bool) -> Result<Exit, Fault> {
    let repository = place.open()?;
    let snapshots = repository.snapshots()?;
    if json {
        let shown: Vec<_> = snapshots.whole.iter().map(|(id, snapshot)| json_of(*id, snapshot)).collect();
        let damaged: Vec<_> =
            snapshots.damaged.iter().map(|(id, why)| json!({"id": id.to_string(), "why": why})).collect();
        to_stdout(&json!({
            "store": place.shown,
            "repository": repository.config().id.to_string(),
            "snapshots": shown,
            "damaged": damaged,
        }))?;
    } else {
        let head = ["ID", "CREATED", "RELEASE", "FILES", "SIZE", "SOURCES", "NOTES"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(snapshots.whole.iter().map(|(id, snapshot)| row(*id, snapshot)));
        print(&table(&rows))?;
    }
    let Some((id, why)) = snapshots.damaged.first() else { return Ok(Exit::Pass) };
    Err(Fault::infrastructure(format!("{} cannot be read", plural(snapshots.damaged.len(), "snapshot")))
        .place(format!("{}/snapshots/{id}", place.shown))
        .cause(why)
        .help("look at the disk; the others can still be restored"))
}

/// What a tag `key=value` says.
fn tagged<'a>(snapshot: &'a Snapshot, key: &str) -> Option<&'a str> {
    snapshot.tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
}

fn row(id: Id, snapshot: &Snapshot) -> [String; 7] {
    let release: Vec<&str> =
        ["service", "version", "environment"].iter().filter_map(|key| tagged(snapshot, key)).collect();
    let sources: Vec<&str> = snapshot.paths.iter().map(|path| path.trim_start_matches('/')).collect();
    let others = snapshot.tags.iter().filter(|tag| *tag != super::TAG && !tag.contains('='));
    let summary = snapshot.summary.as_ref();
    [
        short(&id.to_string()),
        snapshot.time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        if release.is_empty() { format!("({})", snapshot.hostname) } else { release.join(" ") },
        summary.map(|s| s.total_files_processed.to_string()).unwrap_or_default(),
        summary.map(|s| show_size(s.total_bytes_processed as f64)).unwrap_or_default(),
        sources.join(" "),
        others.cloned().collect::<Vec<_>>().join(" "),
    ]
}

fn json_of(id: Id, snapshot: &Snapshot) -> serde_json::Value {
    let sources: Vec<&str> = snapshot.paths.iter().map(|path| path.trim_start_matches('/')).collect();
    json!({
        "id": id.to_string(),
        "created_at": snapshot.time,
        "service": tagged(snapshot, "service"),
        "version": tagged(snapshot, "version"),
        "environment": tagged(snapshot, "environment"),
        "hostname": snapshot.hostname,
        "tags": snapshot.tags,
        "sources": sources,
        "files": snapshot.summary.as_ref().map(|s| s.total_files_processed),
        "bytes": snapshot.summary.as_ref().map(|s| s.total_bytes_processed),
        "program": snapshot.program_version,
    })
}

/// Shows one snapshot: its sources, and the commands that bring it back.
///
/// Errors: 2 for an unknown snapshot; 4 when it is damaged.
pub fn show(place: &Place, id: &str, json: bool) -> Result<Exit, Fault> {
    let repository = place.open()?;
    let opened = repository.read(repository.find(id)?)?;
    let inside = Inside::of(&opened)?;
    let id = opened.id();
    let open = super::passphrase::given()?.is_none();
    let commands = [restore_command(&id.to_string(), place), restic_command(&id.to_string(), place, open)];
    if json {
        let mut value = json_of(id, opened.snapshot());
        value["inside"] = json!(inside);
        value["restore_command"] = json!(commands[0]);
        value["restic_command"] = json!(commands[1]);
        to_stdout(&value)?;
        return Ok(Exit::Pass);
    }
    let mut text = format!("snapshot {id}\n");
    let mut line = |key: &str, value: &str| text.push_str(&format!("{key:<12}{}\n", plain(value)));
    line("created", &opened.snapshot().time.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    line("by", &format!("{} on {}", opened.snapshot().program_version, opened.snapshot().hostname));
    line("tags", &opened.snapshot().tags.join(" "));
    for part in inside.iter().flat_map(|inside| &inside.sources) {
        let state =
            if part.notes.is_empty() { String::new() } else { format!(" ({})", part.notes.join("; ")) };
        line(
            "source",
            &format!(
                "{}: {} {}, {}, {}{state}",
                part.name,
                part.kind,
                part.target,
                plural(part.files, "file"),
                show_size(part.bytes as f64)
            ),
        );
        for table in &part.tables {
            line("", &format!("{}: {}", table.table, plural(table.rows, "row")));
        }
    }
    line("restore", &commands[0]);
    line("or", &commands[1]);
    print(&text)?;
    Ok(Exit::Pass)
}

/// Checks a store: its structure, and as much of the data as is asked for.
///
/// Errors (4): something is damaged or missing; the first is named, with the files that need it.
pub fn check(place: &Place, depth: &Depth, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let read_data = depth.read_data()?;
    let repository = place.open()?;
    let started = Instant::now();
    let ticker = talk.ticker();
    let step = Step::new("verifying");
    let health = repository.check(read_data, &|bytes, of| {
        ticker.step(&Step { of_bytes: Some(of), ..step.clone() }, 0, bytes);
    })?;
    drop(ticker);
    if json {
        to_stdout(&json!({
            "store": place.shown,
            "repository": repository.config().id.to_string(),
            "snapshots": health.snapshots,
            "packs": health.packs,
            "packs_read": health.packs_read,
            "bytes_read": health.bytes_read,
            "packs_unnamed": health.packs_unnamed,
            "damaged": damage_json(&health.damaged),
        }))?;
    }
    for damage in &health.damaged {
        talk.line(Mark::Bad, &format!("{}: {}", damage.object, damage.why));
        for user in &damage.needed_by {
            talk.line(Mark::Bad, &format!("    needed by {user}"));
        }
    }
    if let Some(fault) = complaint(place, &health.damaged) {
        return Err(fault);
    }
    talk.line(
        Mark::Good,
        &format!("{} in {}", said(&health), show_duration(started.elapsed().as_secs_f64())),
    );
    Ok(Exit::Pass)
}

fn said(health: &Health) -> String {
    let data = match health.packs_read {
        0 if health.packs > 0 => "their data was not read (--read-data does)".to_owned(),
        packs => format!(
            "{} of {} with {} read and verified",
            plural(packs, "pack"),
            health.packs,
            show_size(health.bytes_read as f64)
        ),
    };
    format!("{} whole: {} there, {data};", plural(health.snapshots, "snapshot"), plural(health.packs, "pack"))
}

fn complaint(place: &Place, damaged: &[Damage]) -> Option<Fault> {
    let first = damaged.first()?;
    let users = match first.needed_by.len() {
        0 => "no snapshot needs it".to_owned(),
        n if n <= 5 => format!("needed by {}", first.needed_by.join(", ")),
        n => format!("needed by {}, and {} more", first.needed_by[..5].join(", "), n - 5),
    };
    Some(
        Fault::infrastructure(format!("{} of the snapshot store damaged", plural(damaged.len(), "file")))
            .place(format!("{}/{}", place.shown, first.object))
            .cause(format!("{}; {users}", first.why))
            .help("look at the disk; what does not need these files can still be restored"),
    )
}

fn damage_json(damaged: &[Damage]) -> serde_json::Value {
    let items = damaged.iter().map(|d| json!({"object": d.object, "why": d.why, "needed_by": d.needed_by}));
    items.collect()
}

fn print(text: &str) -> Result<(), Fault> {
    talk::data(crate::redact::redact(text).as_bytes())
        .map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
}

/// Whoever can write to the store chose these texts: no escape sequence reaches the terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let text = plain(&cells.join("  "));
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}
