//! `earlier/`: what of the evidence folder is of another release, or of another attempt, is put aside there.
//!
//! The folder itself is of one attempt at one release. Its first tool puts what is older aside, all at once, into a
//! folder of its own below `earlier/`; nothing is ever lost. Who still works on what was put aside (an undo, a step of a
//! long promotion) works there: [`home`] says where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::evidence::{ApprovalBody, MAX_DOCUMENT, Need, Release, same_release, sha256_hex};
use crate::world::files;

/// Where earlier documents are, in the evidence folder.
pub(super) const FOLDER: &str = "earlier";

/// Says which release the folder is of while there is no document of it yet.
const CLAIM: &str = ".release";

/// The documents that say which release the folder is of, the small ones first. A drill belongs to none.
const DOCUMENTS: [&str; 5] =
    ["preflight.json", "baseline.json", "snapshot.json", "verify.json", "promote.json"];

/// What else the tools write into the folder.
const OTHERS: [&str; 8] = [
    "drill.json",
    "report.json",
    "report.html",
    "report.css",
    "runbook.md",
    "junit.xml",
    "summary.md",
    "promote.samples.jsonl.gz",
];

/// The pages that a report is, and its document.
const PAGES: [&str; 6] =
    ["report.html", "report.css", "runbook.md", "junit.xml", "summary.md", "report.json"];

/// How the name of a document ends whose successor could not be written.
const SUPERSEDED: &str = ".superseded.json";

/// The name of a document whose successor could not be written.
pub(super) fn superseded(file: &str) -> String {
    format!("{}{SUPERSEDED}", file.trim_end_matches(".json"))
}

/// Whether a file of that name is written by one of the tools.
fn is_ours(name: &str) -> bool {
    let aside = [".refused.json", SUPERSEDED].into_iter().find_map(|end| name.strip_suffix(end));
    let refusal = aside.map(|tool| format!("{tool}.json"));
    DOCUMENTS.contains(&name)
        || OTHERS.contains(&name)
        || ApprovalBody::role_of(name).is_some()
        || refusal.is_some_and(|of| DOCUMENTS.contains(&of.as_str()) || OTHERS.contains(&of.as_str()))
}

/// What of a document says which release it is about.
#[derive(Deserialize)]
struct About {
    release: Option<Release>,
}

/// The release that a document speaks of. It says where to look, and proves nothing.
fn release_of(path: &Path) -> Option<Release> {
    let bytes = files::read_bounded(path, MAX_DOCUMENT).ok()?;
    serde_json::from_slice::<About>(&bytes).ok()?.release
}

/// Whether a document speaks of this release.
pub(super) fn is_about(document: &Path, release: &Release) -> bool {
    release_of(document).is_some_and(|known| same_release(&known, release))
}

fn has_documents(folder: &Path) -> bool {
    DOCUMENTS.iter().any(|name| folder.join(name).is_file())
}

fn is_of(folder: &Path, release: &Release) -> bool {
    let known = DOCUMENTS.iter().filter_map(|name| release_of(&folder.join(name)));
    known.into_iter().any(|known| same_release(&known, release))
}

/// The folders of what was put aside, the newest first.
fn all(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join(FOLDER)).into_iter().flatten().flatten();
    let whole =
        |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    let mut all: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir() && whole(path)).collect();
    all.sort();
    all.reverse();
    all
}

/// The evidence folder, and every folder of what was put aside.
pub(super) fn everywhere(folder: &Path) -> Vec<PathBuf> {
    let mut everywhere = vec![folder.to_path_buf()];
    everywhere.extend(all(folder));
    everywhere
}

/// Where the documents of a release are: in the evidence folder, or where they were put aside.
pub(super) fn home(folder: &Path, release: &Release) -> PathBuf {
    let is_claimed = release_claimed(folder).is_some_and(|claimed| !same_release(&claimed, release));
    if !is_claimed && !has_documents(folder) || is_of(folder, release) {
        return folder.to_path_buf();
    }
    all(folder).into_iter().find(|aside| is_of(aside, release)).unwrap_or_else(|| folder.to_path_buf())
}

/// Whose folder it is, where that is another release than this one.
pub(super) fn another(folder: &Path, release: &Release) -> Option<Release> {
    if is_of(folder, release) {
        return None;
    }
    let known = DOCUMENTS.iter().filter_map(|name| release_of(&folder.join(name)));
    release_claimed(folder)
        .filter(|_| !has_documents(folder))
        .into_iter()
        .chain(known)
        .find(|known| !same_release(known, release))
}

fn release_claimed(folder: &Path) -> Option<Release> {
    let bytes = files::read_bounded(&folder.join(CLAIM), 64 * 1024).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The file that is locked while documents of the folder change. Nobody removes it: what is locked is the file, not
/// its name, and a lock ends with whoever holds it.
const LOCK: &str = ".lock";

/// How long another call may hold the folder.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does something while no other call changes documents of this folder.
///
/// It is done without where the file system knows no locks. Errors: another call holds the folder and does not end.
pub(super) fn locked<T>(folder: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    // Whoever comes first makes the folder, and holds the lock on it all the same. A folder itself cannot be locked
    // on NFS: who locks must be able to write.
    // Where it is another user's, the kernel's own file systems take it from whoever may read.
    let path = folder.join(LOCK);
    let open = || crate::bounds::open_to_add(&path, 0o666).or_else(|_| crate::bounds::open(&path));
    let lock = fs::create_dir_all(folder).and_then(|()| open());
    if let Ok(lock) = &lock {
        hold(lock, PATIENCE)?;
    }
    let done = work();
    drop(lock);
    Ok(done)
}

fn hold(lock: &fs::File, patience: Duration) -> io::Result<()> {
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    let until = Instant::now() + patience;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                let why = format!("another call holds {LOCK} for {} seconds already", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            _ => return Ok(()),
        }
    }
}

/// Which documents are in the folder.
pub(super) fn has(folder: &Path, name: &str) -> bool {
    fs::symlink_metadata(folder.join(name)).is_ok()
}

/// Makes the folder that of a release from now on: everything but the documents to keep is put aside.
///
/// Returns where it is now; none where there was nothing. Errors: it cannot be put aside; then nothing has changed.
pub(super) fn begin(
    folder: &Path,
    release: &Release,
    keep: &[&str],
    at: Timestamp,
) -> io::Result<Option<PathBuf>> {
    fs::create_dir_all(folder)?;
    locked(folder, || {
        let claim = serde_json::to_vec(release).map_err(io::Error::other)?;
        let own = |name: &&&str| release_of(&folder.join(name)).is_some_and(|r| same_release(&r, release));
        let keep: Vec<&str> = keep.iter().filter(own).copied().collect();
        let aside = put_aside(folder, &keep, at)?;
        if release_claimed(folder).as_ref() != Some(release) {
            files::write_atomic(&folder.join(CLAIM), &claim)?;
        }
        Ok(aside)
    })?
}

/// Says whose folder it is, before there is a document.
pub(super) fn claim(folder: &Path, release: &Release) -> io::Result<()> {
    locked(folder, || {
        if release_claimed(folder).as_ref() == Some(release) {
            return Ok(());
        }
        files::write_atomic(&folder.join(CLAIM), &serde_json::to_vec(release).map_err(io::Error::other)?)
    })?
}

/// Puts aside what is of another release, where a document of it would be written over. To be called under the lock.
pub(super) fn spare_others(folder: &Path, file: &str, release: &Release, at: Timestamp) -> io::Result<()> {
    let is_other = |name: &str| release_of(&folder.join(name)).is_some_and(|r| !same_release(&r, release));
    if !is_other(file) {
        return Ok(());
    }
    let names = ours(folder)?;
    let own = |name: &str| release_of(&folder.join(name)).is_some_and(|r| same_release(&r, release));
    let keep: Vec<&str> = names.iter().map(String::as_str).filter(|name| own(name)).collect();
    put_aside(folder, &keep, at).map(drop)
}

/// Puts the pages of an earlier report aside, for they are no longer true. Errors: as [`begin`].
pub(super) fn put_pages_aside(folder: &Path, at: Timestamp) -> io::Result<Option<PathBuf>> {
    locked(folder, || {
        let names = ours(folder)?;
        if !PAGES.iter().any(|page| names.iter().any(|name| name == page)) {
            return Ok(None);
        }
        let keep: Vec<&str> = names.iter().map(String::as_str).filter(|n| !PAGES.contains(n)).collect();
        put_aside(folder, &keep, at)
    })?
}

/// Brings the documents back that a promotion was begun with, where another attempt has taken their place. Returns
/// whether anything was brought back. Errors: as [`begin`].
pub(super) fn bring_back(folder: &Path, needs: &[Need], at: Timestamp) -> io::Result<bool> {
    let is_there = |place: &Path, need: &Need| {
        let bytes = files::read_bounded(&place.join(&need.path), MAX_DOCUMENT);
        bytes.is_ok_and(|bytes| sha256_hex(&bytes) == need.sha256)
    };
    // An approval may have come since: it is told apart by its own digest.
    let mut begun = needs.iter().filter(|need| ApprovalBody::role_of(&need.path).is_none()).peekable();
    if begun.peek().is_none() || begun.clone().all(|need| is_there(folder, need)) {
        return Ok(false);
    }
    locked(folder, || {
        let holds = |aside: &PathBuf| begun.clone().all(|need| is_there(aside, need));
        let Some(aside) = all(folder).into_iter().find(holds) else { return Ok(false) };
        let keep: Vec<&str> =
            needs.iter().filter(|need| is_there(folder, need)).map(|need| need.path.as_str()).collect();
        put_aside(folder, &keep, at)?;
        for name in ours(&aside)? {
            if fs::symlink_metadata(folder.join(&name)).is_err() {
                copy(&aside.join(&name), &folder.join(&name))?;
            }
        }
        files::sync_folder(folder)?;
        Ok(true)
    })?
}

/// The names of our files in a folder.
fn ours(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_ours(&name) && !entry.file_type()?.is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Puts our files aside, all but some. A copy of all of them is whole before the first one goes away, so that whoever
/// is killed here loses nothing, and parts nothing that belongs together.
fn put_aside(folder: &Path, keep: &[&str], at: Timestamp) -> io::Result<Option<PathBuf>> {
    let names = ours(folder)?;
    let going: Vec<&String> = names.iter().filter(|name| !keep.contains(&name.as_str())).collect();
    if going.is_empty() {
        return Ok(None);
    }
    let earlier = folder.join(FOLDER);
    fs::create_dir_all(&earlier)?;
    let name = free_name(&earlier, folder, at);
    let part = earlier.join(format!(".{name}.{:016x}.part", crate::world::unique()));
    fs::create_dir(&part)?;
    let made = names.iter().try_for_each(|name| copy(&folder.join(name), &part.join(name)));
    let whole = earlier.join(&name);
    if let Err(error) = made.and_then(|()| files::sync_folder(&part)).and_then(|()| fs::rename(&part, &whole))
    {
        // The first error is the one to tell.
        let _ = fs::remove_dir_all(&part);
        return Err(error);
    }
    files::sync_folder(&earlier)?;
    for name in going {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    files::sync_folder(folder)?;
    prune(&earlier, at);
    Ok(Some(whole))
}

/// How many of the newest attempts that were put aside are kept, however old.
const KEPT: usize = 50;

/// How long every one of them is kept.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Removes attempts that are neither among the newest nor young, and what a call that was killed in the middle of putting
/// one aside has left. Nothing else in the folder is touched.
fn prune(earlier: &Path, at: Timestamp) {
    let entries = fs::read_dir(earlier).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let aside_at = |name: &str| {
        let parsed = jiff::fmt::strtime::parse("%Y%m%dT%H%M%S", name.get(..15)?).ok()?.to_datetime().ok()?;
        let at = parsed.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        let ends = name.get(15..).is_some_and(|rest| rest.as_bytes().get(3) == Some(&b'Z'));
        ends.then_some(at)
    };
    let old = |then: Timestamp| at.duration_since(then) > KEPT_FOR;
    let (mut whole, mut gone) = (Vec::new(), Vec::new());
    for name in names {
        let part = name.strip_prefix('.').and_then(|name| name.strip_suffix(".part"));
        match (part.and_then(aside_at), aside_at(&name)) {
            (Some(then), _) if at.duration_since(then) > SignedDuration::from_hours(24) => gone.push(name),
            (None, Some(then)) => whole.push((name, then)),
            _ => {}
        }
    }
    whole.sort();
    whole.reverse();
    gone.extend(whole.into_iter().skip(KEPT).filter(|(_, then)| old(*then)).map(|(name, _)| name));
    for name in gone {
        // What stays is tried again the next time.
        let _ = fs::remove_dir_all(earlier.join(name));
    }
}

/// When it was put aside, and what it is about, as people look for it; the newest is the last by name.
fn free_name(earlier: &Path, folder: &Path, at: Timestamp) -> String {
    let release = DOCUMENTS.iter().find_map(|name| release_of(&folder.join(name)));
    let about = release.map_or_else(String::new, |r| format!("-{}-{}", r.service, r.version));
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    let about: String = about.chars().map(plain).take(80).collect();
    let at = at.strftime("%Y%m%dT%H%M%S%3fZ");
    (1..=u32::MAX)
        .map(|number| if number == 1 { format!("{at}{about}") } else { format!("{at}-{number}{about}") })
        .find(|name| fs::symlink_metadata(earlier.join(name)).is_err())
        .unwrap_or_default()
}

/// The same file under a second name, or a copy of it where the file system has no second names.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    if fs::symlink_metadata(from)?.file_type().is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    let bytes = files::read_bounded(from, u64::MAX - 1)?;
    files::write_atomic(to, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_attempts_are_kept_and_all_of_the_last_thirty_days_and_whatever_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = folder.path();
        let at: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let name = |days: i64, number: usize| {
            let then = at - SignedDuration::from_hours(24 * days);
            format!("{}-{number}-shop-1.{number}", then.strftime("%Y%m%dT%H%M%S%3fZ"))
        };
        let make =
            |names: &[String]| names.iter().for_each(|name| fs::create_dir(earlier.join(name)).unwrap());
        let there = || {
            let entries = fs::read_dir(earlier).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let old: Vec<String> = (0..60).map(|number| name(40, 100 + number)).collect();
        let others: Vec<String> =
            ["of-ours", "20200101", ".keep", "99999999T999999999Z-x", "20200101T000000000"]
                .map(String::from)
                .into();
        let parts = [format!(".{}.0.part", name(2, 1)), format!(".{}.0.part", name(0, 1))];
        for names in [&old, &others, &parts.to_vec()] {
            make(names);
        }
        prune(earlier, at);
        let mut expected = [&old[60 - KEPT..], &others, &parts[1..]].concat();
        expected.sort();
        assert_eq!(there(), expected);
        // Of the last thirty days all are kept, and then none of the others is among the newest.
        let young: Vec<String> = (0..70).map(|number| name(29, 200 + number)).collect();
        make(&young);
        prune(earlier, at);
        let mut expected = [&young[..], &others, &parts[1..]].concat();
        expected.sort();
        assert_eq!(there(), expected);
    }

    #[test]
    fn a_lock_ends_with_whoever_holds_it_and_nobody_waits_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        // On NFS a file that is not open for writing cannot be locked.
        let held = crate::bounds::open_to_add(&path, 0o600).unwrap();
        rustix::io::write(&held, b"").unwrap();
        hold(&held, Duration::ZERO).unwrap();
        let another = crate::bounds::open_to_add(&path, 0o600).unwrap();
        assert_eq!(hold(&another, Duration::from_millis(20)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(held);
        hold(&another, Duration::ZERO).unwrap();
        drop(another);
        assert_eq!(locked(folder.path(), || 7).unwrap(), 7);
        assert!(path.exists(), "its name stays: whoever waits has the same file");
    }
}
