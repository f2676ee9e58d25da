//! Whose document counts where several calls of one tool are under way for one release: that of the one that began last.
//!
//! A call says that it has begun in a file of its own kind and release below `.runs/`, and looks there before it writes.
//! No clock is asked as long as those files are there, for the calls may come from several machines; a folder that was
//! carried elsewhere without them has the times in its documents. A call that was killed leaves its file behind, which
//! keeps out those that began before it and nobody else.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::evidence::{MAX_DOCUMENT, Release, Run, same_release, sha256_hex};
use crate::world::{self, files};

/// Where calls say that they have begun, in the evidence folder.
const FOLDER: &str = ".runs";

/// How many kinds and releases are remembered there.
const MOST: usize = 64;

/// This process: no two have the same.
static SELF: LazyLock<String> = LazyLock::new(|| format!("{:016x}{:016x}", world::unique(), world::unique()));

/// The call that began last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turn {
    id: String,
    /// When it began, by its own clock.
    pub(super) started_at: Timestamp,
    /// On which machine.
    pub(super) host: String,
}

/// The places where this process has said that it began.
static TOOK: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// What of a document says when it was begun.
#[derive(Deserialize)]
struct Begun {
    release: Option<Release>,
    run: Run,
}

fn place(folder: &Path, kind: &str, release: &Release) -> PathBuf {
    let about =
        [&release.service, &release.version, &release.environment].map(|text| sha256_hex(text.as_bytes()));
    folder.join(FOLDER).join(format!("{kind}-{}.json", &sha256_hex(about.concat().as_bytes())[..32]))
}

fn of(place: &Path) -> Option<Turn> {
    let bytes = files::read_bounded(place, 64 * 1024).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Says that this call has begun. To be called under the lock.
///
/// Errors: it cannot be said, and a later call would not know.
pub(super) fn take(folder: &Path, kind: &str, release: &Release, started_at: Timestamp) -> io::Result<()> {
    let turn = Turn { id: SELF.clone(), started_at, host: world::host_name() };
    let place = place(folder, kind, release);
    forget_old(&files::parent(&place));
    files::write_atomic(&place, &serde_json::to_vec(&turn).map_err(io::Error::other)?)?;
    TOOK.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
    Ok(())
}

/// Gives the turn back: this call came to nothing, and keeps nobody out. To be called under the lock.
pub(super) fn give_back(folder: &Path, kind: &str, release: &Release) {
    let place = place(folder, kind, release);
    if of(&place).is_some_and(|turn| turn.id == *SELF) {
        // One that stays keeps out those that began earlier, which is safe.
        let _ = fs::remove_file(place);
    }
}

/// The call that began later than this one and so has the word, where there is one. To be called under the lock.
pub(super) fn lost_to(folder: &Path, kind: &str, release: &Release, started_at: Timestamp) -> Option<Turn> {
    let place = place(folder, kind, release);
    let said = of(&place).filter(|turn| turn.id != *SELF)?;
    let took = TOOK.lock().unwrap_or_else(PoisonError::into_inner).contains(&place);
    (took || said.started_at > started_at).then_some(said)
}

/// Whether this call is the one that began last, by what calls have said.
pub(super) fn is_last(folder: &Path, kind: &str, release: &Release) -> bool {
    of(&place(folder, kind, release)).is_some_and(|turn| turn.id == *SELF)
}

/// The call that wrote a document, where it began later than this one by the time in it.
pub(super) fn written_later(
    document: &Path,
    release: Option<&Release>,
    started_at: Timestamp,
) -> Option<Turn> {
    let bytes = files::read_bounded(document, MAX_DOCUMENT).ok()?;
    let begun: Begun = serde_json::from_slice(&bytes).ok()?;
    let same = match (release, &begun.release) {
        (Some(ours), Some(theirs)) => same_release(ours, theirs),
        _ => true,
    };
    let later = same && begun.run.started_at > started_at;
    later.then(|| Turn { id: String::new(), started_at: begun.run.started_at, host: begun.run.host })
}

/// Removes what was said by the oldest calls. One that is still under way loses nothing: its document has a time.
fn forget_old(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    all.sort();
    for (_, path) in all.iter().take((all.len() + 1).saturating_sub(MOST)) {
        let _ = fs::remove_file(path);
    }
}
