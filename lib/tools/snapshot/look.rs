//! What is seen of snapshots that are there: list, show, check. A store is all that it takes.

use std::time::Instant;

use serde_json::json;

use super::inside::Inside;
use super::store::Place;
use super::{plural, restic_command, restore_command, to_stdout};
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::repository::restic::{Damage, Health, Known, PINNED, Pin, ReadData, Snapshot};
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
    let (known, damaged) = repository.known()?;
    if json {
        let shown: Vec<_> = known.iter().map(json_of).collect();
        let damaged: Vec<_> =
            damaged.iter().map(|(id, why)| json!({"id": id.to_string(), "why": why})).collect();
        to_stdout(&json!({
            "store": place.shown,
            "repository": repository.config().id.to_string(),
            "snapshots": shown,
            "damaged": damaged,
        }))?;
    } else {
        let head = ["ID", "CREATED", "RELEASE", "FILES", "SIZE", "SOURCES", "NOTES"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(known.iter().map(row));
        print(&table(&rows))?;
    }
    let Some((id, why)) = damaged.first() else { return Ok(Exit::Pass) };
    Err(Fault::infrastructure(format!("{} cannot be read", plural(damaged.len(), "snapshot")))
        .place(format!("{}/snapshots/{id}", place.shown))
        .cause(why)
        .help("look at the disk; the others can still be restored"))
}

/// What a tag `key=value` says.
pub(super) fn tagged<'a>(snapshot: &'a Snapshot, key: &str) -> Option<&'a str> {
    snapshot.tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='))
}

fn row(known: &Known) -> [String; 7] {
    let (id, snapshot) = (known.id, &known.snapshot);
    let release: Vec<&str> =
        ["service", "version", "environment"].iter().filter_map(|key| tagged(snapshot, key)).collect();
    let sources: Vec<&str> = snapshot.paths.iter().map(|path| path.trim_start_matches('/')).collect();
    let said = |tag: &&String| *tag != super::TAG && *tag != PINNED && !tag.contains('=');
    let pinned = known.pin.as_ref().map(pin_note);
    let notes: Vec<String> = pinned.into_iter().chain(snapshot.tags.iter().filter(said).cloned()).collect();
    let summary = snapshot.summary.as_ref();
    [
        short(&id.to_string()),
        snapshot.time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        if release.is_empty() { format!("({})", snapshot.hostname) } else { release.join(" ") },
        summary.map(|s| s.total_files_processed.to_string()).unwrap_or_default(),
        summary.map(|s| show_size(s.total_bytes_processed as f64)).unwrap_or_default(),
        sources.join(" "),
        notes.join(" "),
    ]
}

/// `pinned`, and why.
fn pin_note(pin: &Pin) -> String {
    pin.why.as_ref().map_or("pinned".into(), |why| format!("pinned ({why})"))
}

fn json_of(known: &Known) -> serde_json::Value {
    let (id, snapshot) = (known.id, &known.snapshot);
    let sources: Vec<&str> = snapshot.paths.iter().map(|path| path.trim_start_matches('/')).collect();
    json!({
        "id": id.to_string(),
        "created_at": snapshot.time,
        "service": tagged(snapshot, "service"),
        "version": tagged(snapshot, "version"),
        "environment": tagged(snapshot, "environment"),
        "hostname": snapshot.hostname,
        "tags": snapshot.tags,
        "original": snapshot.original,
        "pinned": known.pin.is_some(),
        "pinned_because": known.pin.as_ref().and_then(|pin| pin.why.as_ref()),
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
    let pin =
        repository.known()?.0.into_iter().find(|known| known.id == opened.id()).and_then(|known| known.pin);
    let inside = Inside::of(&opened)?;
    let id = opened.id();
    let open = super::passphrase::given()?.is_none();
    let commands = [restore_command(&id.to_string(), place), restic_command(&id.to_string(), place, open)];
    if json {
        let mut value = json_of(&Known { id, snapshot: opened.snapshot().clone(), pin });
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
    if let Some(pin) = &pin {
        line("stays", &pin_note(pin));
    }
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

pub(super) fn print(text: &str) -> Result<(), Fault> {
    talk::text(text).map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))
}

/// Whoever can write to the store chose these texts: no escape sequence reaches the terminal.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Columns as wide as their widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
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
