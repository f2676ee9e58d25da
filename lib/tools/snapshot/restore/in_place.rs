//! A restore over what is there, after a snapshot of it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::into::{inside_of, planned};
use super::{BEFORE_RESTORE, Stored, Wish, add, chosen, compare, entries, warn, watched};
use crate::evidence::{self, SnapshotState};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::plan::Prove;
use crate::repository::restic::{How, Id, NodeKind, Opened, Progress, Repository, Restored, Spec};
use crate::sources::{Choice, Home, Live, Nature, Wanted};
use crate::tools::snapshot::hooks::{self, Scope};
use crate::tools::snapshot::inside::{self, Inside, Part};
use crate::tools::snapshot::store::Place;
use crate::tools::snapshot::{
    Back, Ready, inside_of as what_is_inside, plural, prove_packs, read, section, spec_of, stop_if_asked,
    to_stdout,
};
use crate::units::{Text, show_duration, show_size};
use crate::world::files;
use crate::world::talk::{Mark, Step, Ticker};

/// One source on its way back.
struct Going<'a> {
    part: &'a Part,
    ready: Ready<'a>,
}

/// Brings the sources back to where the plan has them, after a snapshot of what is there.
///
/// Errors: 2 for a source that cannot go back in place, or that the plan does not have; 5 where a file
/// stands in the place of a folder, or the other way round; 4 when the snapshot before fails (then
/// nothing was touched) or the restore.
pub fn in_place(job: &Job, place: &Place, wish: &Wish) -> Result<Exit, Fault> {
    let started = Instant::now();
    let repository = place.open()?;
    let opened = repository.read(chosen(&repository, &wish.id, Some(job))?)?;
    let inside = inside_of(Inside::of(&opened)?)?;
    let sums = opened.sums(inside::SUMS.as_ref())?.ok_or_else(|| {
        Fault::infrastructure("the snapshot has no manifest to compare with")
            .place(opened.id().to_string())
            .help("restore it into a folder with --to, and look at it")
    })?;
    let going = going(job, &inside, wish)?;
    for one in &going {
        look_ahead(&opened, one, wish)?;
    }
    let ticker = job.talk().ticker();
    let before = take(job, &repository, place, &going, &ticker).map_err(|fault| {
        let help = fault.help.clone().map(|help| format!("; {help}")).unwrap_or_default();
        Fault { what: format!("the snapshot of what is there failed: {}", fault.what), ..fault }.help(
            format!("nothing was touched; restore into a folder (--to) or an empty database (--into){help}"),
        )
    })?;
    if let Some(id) = before {
        job.talk().line(Mark::Good, &format!("what is there now was kept as {id}, proven"));
    }
    let mut done = Vec::new();
    for one in &going {
        let back = bring_back(&opened, one, wish, &sums, (place, job, &ticker));
        done.push(back.map_err(|fault| explained(fault, before))?);
    }
    drop(ticker);
    let id = opened.id().to_string();
    if job.call.json {
        to_stdout(&json!({
            "store": place.shown, "id": id, "before": before.map(|id| id.to_string()), "sources": done,
        }))?;
    }
    for one in &done {
        let said = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        job.talk().line(Mark::Good, &format!("{}: {}", said("name"), said("done")));
    }
    let took = show_duration(started.elapsed().as_secs_f64());
    job.talk().line(Mark::Good, &format!("restored {} in place, in {took}", evidence::short(&id)));
    Ok(Exit::Pass)
}

/// Where the way forward is again, should one want it.
fn explained(fault: Fault, before: Option<Id>) -> Fault {
    let kept = before.map(|id| format!("; what was there before is the snapshot {id}")).unwrap_or_default();
    let help = fault.help.clone().unwrap_or_else(|| "run it again, and it goes on".into());
    fault.help(format!("{help}{kept}"))
}

/// The sources that are meant, each able to go back in place.
fn going<'a>(job: &'a Job, inside: &'a Inside, wish: &Wish) -> Result<Vec<Going<'a>>, Fault> {
    let parts: Vec<&Part> = if wish.sources.is_empty() {
        inside.sources.iter().collect()
    } else {
        wish.sources.iter().map(|name| inside.part(name)).collect::<Result<_, Fault>>()?
    };
    let mut going = Vec::new();
    for part in parts {
        let (spec, source) = planned(job, part)?;
        let why = match source.nature() {
            Nature::Record => Some("what it keeps is something to look at"),
            Nature::Dump { home: Home::Nowhere, .. } => Some("its server reads the file only when it starts"),
            Nature::Files(_) | Nature::Dump { .. } => None,
        };
        if let Some(why) = why {
            return Err(Fault::usage(format!(
                "the source `{}` of kind `{}` cannot go back in place",
                part.name, part.kind
            ))
            .cause(why)
            .help("choose others with --source, and restore this one into a folder with --to"));
        }
        if wish.delete && part.state == SnapshotState::Partial {
            return Err(Fault::usage(format!("`{}` is in the snapshot only in part", part.name))
                .cause("--delete would remove what could not be read then")
                .help("restore it without --delete"));
        }
        going.push(Going { part, ready: Ready { spec, source } });
    }
    Ok(going)
}

/// Where the files of a source go to, and what of the snapshot they are.
struct Way {
    /// The folder that the engine writes into.
    into: PathBuf,
    /// In the snapshot.
    from: PathBuf,
    /// Whether the source is one file.
    single: bool,
}

fn way(opened: &Opened, part: &Part, live: &Live<'_>) -> Result<Way, Fault> {
    let folder = PathBuf::from(&part.name);
    let there = fs::metadata(&live.path).ok();
    let name = live.path.file_name().unwrap_or_default();
    let recorded = part.details["single_file"].as_str();
    let single = match &there {
        Some(meta) => meta.is_file(),
        None => recorded.is_some(),
    };
    let other = |was: &str, is: &str| {
        Fault::refused(format!("the source `{}` was {was} at the snapshot, and is {is} now", part.name))
            .place(live.path.display().to_string())
            .help("move away what is there, or restore into a folder with --to")
    };
    if !single {
        return match recorded {
            Some(_) => Err(other("a file", "a folder")),
            None => Ok(Way { into: live.path.clone(), from: folder, single }),
        };
    }
    let from = folder.join(name);
    // A link to a file may have another name than what it names.
    let from = match (opened.find(&from)?, recorded) {
        (None, Some(recorded)) => folder.join(recorded),
        _ => from,
    };
    if opened.find(&from)?.is_none_or(|node| node.kind != NodeKind::File) {
        return Err(other("a folder, or a file of another name", "a file"));
    }
    if from.file_name() != Some(name) {
        return Err(other("a file of another name", "a file"));
    }
    Ok(Way { into: files::parent(&live.path), from, single })
}

/// What would stop the restore half way is found before anything is touched.
fn look_ahead(opened: &Opened, one: &Going<'_>, wish: &Wish) -> Result<(), Fault> {
    let Nature::Files(live) = one.ready.source.nature() else { return Ok(()) };
    let way = way(opened, one.part, &live)?;
    if way.single && wish.delete {
        return Err(Fault::usage(format!("the source `{}` is one file", one.part.name))
            .help("leave --delete out: there is nothing else that belongs to it"));
    }
    for (path, kind) in entries(opened, Some(&way.from))? {
        let at = way.into.join(&path);
        let Ok(there) = fs::symlink_metadata(&at) else { continue };
        if there.is_dir() != (kind == NodeKind::Dir) {
            let (is, was) = if there.is_dir() { ("a folder", "none") } else { ("no folder", "one") };
            return Err(Fault::refused(format!("there is {is} where the snapshot has {was}"))
                .place(at.display().to_string())
                .help("move it away; nothing was touched"));
        }
    }
    Ok(())
}

/// Takes and proves the snapshot of what is there; none where nothing is.
fn take(
    job: &Job,
    repository: &Repository,
    place: &Place,
    going: &[Going<'_>],
    ticker: &Ticker,
) -> Result<Option<Id>, Fault> {
    let section = section(job)?;
    let there: Vec<&Ready<'_>> =
        going.iter().map(|one| &one.ready).filter(|ready| !is_empty(&ready.source.nature(), place)).collect();
    if there.is_empty() {
        return Ok(None);
    }
    let hooks = hooks::open(job, section)?;
    let mut spec = Spec {
        paths: there.iter().map(|ready| format!("/{}", ready.spec.name)).collect(),
        ..spec_of(job, section, repository)?
    };
    spec.tags.push(BEFORE_RESTORE.into());
    let mut archive = repository.begin(spec)?;
    let parts = hooks.around(Scope::Snapshot(section), || {
        let mut parts = Vec::new();
        for ready in &there {
            let taken =
                hooks.around(Scope::Source(ready.spec), || read(job, ready, place, &mut archive, ticker))?;
            if taken.part.state == SnapshotState::Partial {
                return Err(Fault::infrastructure(format!(
                    "`{}` could be read only in part",
                    taken.part.name
                ))
                .cause(taken.part.notes.join("; ")));
            }
            parts.push(taken.part);
        }
        Ok(parts)
    })?;
    for finding in hooks.close() {
        job.talk().line(Mark::Warn, &format!("{}: {}", finding.name, finding.message));
    }
    stop_if_asked()?;
    let json = serde_json::to_vec_pretty(&what_is_inside(job, parts))
        .map_err(|e| Fault::infrastructure("what is in the snapshot cannot be written").cause(e))?;
    archive.bytes(inside::FILE.as_ref(), &json)?;
    let sealed = archive.seal()?;
    prove_packs(&sealed, Prove::New, ticker)?;
    for ready in there {
        ready.source.prove(&Back { name: &ready.spec.name, sealed: &sealed })?;
    }
    stop_if_asked()?;
    sealed.commit().map(Some)
}

/// Whether there is nothing that a restore could replace.
fn is_empty(nature: &Nature<'_>, place: &Place) -> bool {
    let live = match nature {
        Nature::Files(live) => live,
        Nature::Dump { home: Home::File(path), .. } => return !path.exists(),
        Nature::Dump { .. } | Nature::Record => return false,
    };
    match fs::metadata(&live.path) {
        Err(e) => e.kind() == io::ErrorKind::NotFound,
        Ok(meta) if meta.is_dir() => {
            let mut found = false;
            let seen =
                each(&live.path, Path::new(""), &*live.choice, place, &mut |_, folder| found |= !folder);
            // What cannot be read is something: the snapshot says what.
            seen.is_ok() && !found
        }
        Ok(_) => false,
    }
}

/// Shows everything in a folder that belongs to the source, what is in a folder before the folder.
fn each(
    root: &Path,
    inside: &Path,
    choice: &Choice<'_>,
    place: &Place,
    see: &mut dyn FnMut(&Path, bool),
) -> io::Result<()> {
    let store = place.folder().and_then(|store| fs::canonicalize(store).ok());
    for entry in fs::read_dir(root.join(inside))? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        let kind = entry.file_type()?;
        // No snapshot ever has a socket: the one that is there is in use.
        if kind.is_socket() {
            continue;
        }
        let folder = kind.is_dir();
        // The store may lie in what it keeps.
        if store.as_ref().is_some_and(|store| root.join(&path) == *store) {
            continue;
        }
        let wanted = choice(&path, folder);
        if wanted == Wanted::No {
            continue;
        }
        if folder {
            each(root, &path, choice, place, see)?;
        }
        if wanted == Wanted::Yes {
            see(&path, folder);
        }
    }
    Ok(())
}

/// Brings one source back; what was done, for people and programs.
fn bring_back(
    opened: &Opened,
    one: &Going<'_>,
    wish: &Wish,
    sums: &HashMap<Vec<u8>, Id>,
    (place, job, ticker): (&Place, &Job, &Ticker),
) -> Result<Value, Fault> {
    let part = one.part;
    let record = |done: String| json!({"name": part.name, "kind": part.kind, "done": done});
    let nature = one.ready.source.nature();
    match nature {
        Nature::Files(live) => {
            let (done, deleted) = files_back(opened, one, &live, wish, (sums, place, ticker))?;
            warn(&done, job.talk());
            let gone = if deleted > 0 { format!(", {deleted} removed") } else { String::new() };
            let mut record = record(format!(
                "{} of {} in {}, {} of them as they were already, every byte verified{gone}",
                plural(done.files, "file"),
                show_size(done.bytes as f64),
                live.path.display(),
                done.kept
            ));
            record["files"] = json!(done.files);
            record["bytes"] = json!(done.bytes);
            record["kept"] = json!(done.kept);
            record["deleted"] = json!(deleted);
            record["warnings"] = json!(done.warnings);
            Ok(record)
        }
        Nature::Dump { .. } | Nature::Record => {
            ticker.set(&format!("{}: restoring", part.name));
            let order = crate::sources::Order { spec: one.ready.spec, loaded: &job.loaded };
            let target = one
                .ready
                .spec
                .target
                .as_ref()
                .ok_or_else(|| job.loaded.fault(order.problem("the key `target` is missing")))?;
            let target = target.one().map_err(|m| job.loaded.fault(order.problem(m)))?;
            let file = match nature {
                Nature::Dump { home: Home::File(path), .. } => {
                    Some(Text { value: path.display().to_string(), shown: target.shown.clone() })
                }
                _ => None,
            };
            let target = file.as_ref().unwrap_or(target);
            let back = Stored { name: &part.name, opened };
            one.ready.source.restore_into(target, true, &back, &part.tables).map(record)
        }
    }
}

fn files_back(
    opened: &Opened,
    one: &Going<'_>,
    live: &Live<'_>,
    wish: &Wish,
    (sums, place, ticker): (&HashMap<Vec<u8>, Id>, &Place, &Ticker),
) -> Result<(Restored, u64), Fault> {
    let way = way(opened, one.part, live)?;
    let was_there = way.into.exists();
    // A folder that was not there gets the look that it had.
    let look = !was_there && !way.single;
    let how = How { look, ..wish.how(Some(way.from.clone()), true) };
    let step = Step { of_bytes: Some(one.part.bytes), ..Step::new(&format!("{}: restoring", one.part.name)) };
    let mut all = Restored::default();
    add(&mut all, watched(opened, &way.into, &how, (ticker, step, &Progress::default()))?);
    compare(opened, &way.into, Some(&way.from), sums)?;
    let deleted = if wish.delete { delete(opened, &way, live, place)? } else { 0 };
    Ok((all, deleted))
}

/// Removes what belongs to the source and is not in the snapshot. Returns how many things that were.
fn delete(opened: &Opened, way: &Way, live: &Live<'_>, place: &Place) -> Result<u64, Fault> {
    let known = entries(opened, Some(&way.from))?;
    let mut extra = Vec::new();
    each(&way.into, Path::new(""), &*live.choice, place, &mut |path, folder| {
        if !known.contains_key(path) {
            extra.push((path.to_path_buf(), folder));
        }
    })
    .map_err(|e| files::unwritable(&way.into, &e))?;
    let mut deleted = 0;
    for (path, folder) in extra {
        stop_if_asked()?;
        let at = way.into.join(&path);
        let above = Above::of(&at);
        let gone = if folder { fs::remove_dir(&at) } else { fs::remove_file(&at) };
        match gone {
            Ok(()) => deleted += 1,
            // Something in it does not belong to the source: it stays, and so does the folder.
            Err(e) if folder && e.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
            Err(e) => return Err(files::unwritable(&at, &e)),
        }
        above.set_back();
    }
    Ok(deleted)
}

/// A folder whose time a removal would change.
struct Above {
    path: PathBuf,
    changed: Option<std::time::SystemTime>,
}

impl Above {
    fn of(path: &Path) -> Self {
        let path = files::parent(path);
        let changed = fs::symlink_metadata(&path).and_then(|meta| meta.modified()).ok();
        Self { path, changed }
    }

    fn set_back(self) {
        let times = self.changed.map(|at| fs::FileTimes::new().set_modified(at));
        if let (Some(times), Ok(folder)) = (times, crate::bounds::open_folder(&self.path)) {
            // A time that cannot be set is no reason to stop.
            let _ = folder.set_times(times);
        }
    }
}
