//! The store of snapshots: one small interface, and the local folder behind it.
//!
//! The interface is what an engine has to offer: a writer whose work is invisible until `commit`, a
//! reader that verifies every byte, a list of whole snapshots, and a check of everything. An engine
//! with encryption and remote places slots in behind [`open`].

use std::io::Write;
use std::path::Path;

use crate::fault::Fault;

mod folder;
mod manifest;
pub mod restic;
mod restore;

pub use manifest::{Chunk, Content, Entry, FORMAT, Label, Manifest, Name, Part, What};
pub use restore::{Restored, restore};

/// The largest chunk in bytes; a manifest that names a larger one is refused.
pub const MAX_CHUNK: u32 = 4 * 1024 * 1024;

/// A place that keeps snapshots.
pub trait Repository: std::fmt::Debug {
    /// Where it is, for people and for `--store`.
    fn place(&self) -> String;

    /// Begins a snapshot and holds the store until the writer is dropped.
    ///
    /// Errors: refused (5) when another writer holds it, with the holder's name; 4 when it cannot be
    /// written.
    fn begin(&self) -> Result<Box<dyn Writer>, Fault>;

    /// Opens a snapshot by its whole id; the manifest is verified.
    ///
    /// Errors (4): it is missing or damaged.
    fn open(&self, id: &str) -> Result<Box<dyn Reader>, Fault>;

    /// Every whole snapshot, oldest first, and what is damaged.
    fn list(&self) -> Result<Listing, Fault>;

    /// Reads and verifies everything; `seen` hears how many bytes were read so far.
    fn check(&self, seen: &mut dyn FnMut(u64) -> Result<(), Fault>) -> Result<Checked, Fault>;
}

/// A snapshot that is being written. Dropping it without `commit` leaves nothing behind.
pub trait Writer {
    /// Begins a file; its bytes are written to what is returned.
    fn file(&mut self) -> Result<Box<dyn FileWriter + '_>, Fault>;

    /// Makes everything durable under this manifest and opens it for the proof. The snapshot is not
    /// listed yet.
    fn seal(&mut self, manifest: &Manifest) -> Result<Box<dyn Reader>, Fault>;

    /// Lists the sealed snapshot, in one step.
    fn commit(self: Box<Self>) -> Result<Committed, Fault>;
}

/// One file that is being written.
pub trait FileWriter: Write + Send {
    /// Ends the file and says what it became.
    fn finish(self: Box<Self>) -> Result<Content, Fault>;
}

/// An opened snapshot.
pub trait Reader: Send + Sync {
    /// Its id: the SHA-256 of its manifest.
    fn id(&self) -> &str;

    /// What is in it.
    fn manifest(&self) -> &Manifest;

    /// Writes the bytes of a file into `out`, each chunk verified before it is handed over and the
    /// whole file at the end.
    ///
    /// Errors (4): an object is missing or damaged (named), or `out` refused.
    fn read(&self, content: &Content, out: &mut dyn Write) -> Result<(), Fault>;
}

/// What a commit did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The snapshot's id.
    pub id: String,
    /// Bytes that the store did not have before.
    pub added_bytes: u64,
}

/// What a store has.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Whole snapshots, oldest first.
    pub snapshots: Vec<Listed>,
    /// Manifests that cannot be trusted.
    pub damaged: Vec<Damage>,
}

/// One whole snapshot.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// What is in it.
    pub manifest: Manifest,
}

/// Something in the store that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file of the store.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// Which snapshots and files need it: `ID source/path`.
    pub needed_by: Vec<String>,
}

/// What a check saw.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Whole snapshots.
    pub snapshots: usize,
    /// Objects read.
    pub objects: usize,
    /// Bytes read.
    pub bytes: u64,
    /// What is damaged or missing.
    pub damaged: Vec<Damage>,
}

/// Opens the store at a place; makes it when `create` is set and nothing is there.
///
/// Errors: 4 when it is missing, unreadable or of an unknown format; 2 for a place of an unknown
/// kind; 5 when the folder holds something else.
pub fn open(place: &str, at: &Path, create: bool) -> Result<Box<dyn Repository>, Fault> {
    if let Some((scheme, _)) = place.split_once("://") {
        return Err(Fault::usage(format!("stores of the kind `{scheme}://` are not known"))
            .place(place)
            .help("name a local folder"));
    }
    Ok(Box::new(folder::Folder::open(at, create)?))
}

/// The snapshot that `id` means: `latest`, a whole id, or the unique beginning of one (six characters
/// or more).
///
/// Errors: 2 when it names none or several; 4 for `latest` in a store with a damaged manifest, since
/// that may be the latest.
pub fn find(repository: &dyn Repository, id: &str) -> Result<Box<dyn Reader>, Fault> {
    let listing = repository.list()?;
    let known = || {
        let mut ids: Vec<_> = listing.snapshots.iter().rev().take(5).map(|s| s.id[..12].to_owned()).collect();
        if ids.is_empty() {
            ids.push("no snapshot at all".into());
        }
        format!("the store has (newest first): {}", ids.join(", "))
    };
    if id == "latest" {
        if let Some(damage) = listing.damaged.first() {
            return Err(Fault::infrastructure("which snapshot is the latest cannot be told")
                .place(format!("{}/{}", repository.place(), damage.object))
                .cause(&damage.why)
                .help(format!("name one by its id; {}", known())));
        }
        let Some(newest) = listing.snapshots.last() else {
            return Err(Fault::infrastructure("the store has no snapshot").place(repository.place()));
        };
        return repository.open(&newest.id);
    }
    let id = id.to_ascii_lowercase();
    if id.len() == 64 {
        return repository.open(&id);
    }
    let mut fitting = listing.snapshots.iter().filter(|s| id.len() >= 6 && s.id.starts_with(&id));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => repository.open(&one.id),
        (None, _) => Err(Fault::usage(format!("no snapshot `{id}`")).place(repository.place()).help(known())),
        (Some(_), Some(_)) => {
            Err(Fault::usage(format!("several snapshots begin with `{id}`")).help("give more of the id"))
        }
    }
}
