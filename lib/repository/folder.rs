//! A store in a local folder: objects named by their SHA-256, manifests likewise.
//!
//! ```text
//! config                 the format; exactly these bytes
//! lock                   held (flock) by the one writer; its text names the holder
//! objects/ab/abcd…       chunks, each named by the SHA-256 of its bytes
//! snapshots/abcd….json   manifests, each named by the SHA-256 of its bytes
//! tmp/                   what a writer has not committed; emptied by the next one
//! ```
//!
//! Everything of a snapshot is written to `tmp/`, synced, read back there, and moved into place; the
//! manifest comes last, so that a kill or a full disk leaves no snapshot. All files are for the owner
//! alone (0600, folders 0700): they hold production data and are NOT encrypted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Checked, Chunk, Damage, Listed, Listing, Manifest, Reader, Repository, Writer};
use crate::evidence::sha256_hex;
use crate::fault::Fault;
use crate::world::{self, files};

mod reader;
mod writer;

use reader::Opened;
use writer::Run;

const CONFIG: &str = "{\"format\": \"trapkey/store/v1\", \"chunks\": \"fastcdc-2020 256KiB/1MiB/4MiB\", \
                      \"digest\": \"sha256\", \"encryption\": \"none\"}\n";
const MAX_MANIFEST: u64 = 1024 * 1024 * 1024;

/// A store in a local folder.
#[derive(Debug)]
pub(super) struct Folder {
    at: PathBuf,
}

impl Folder {
    pub(super) fn open(at: &Path, create: bool) -> Result<Self, Fault> {
        let store = Self { at: at.to_path_buf() };
        let config = at.join("config");
        match fs::read(&config) {
            Ok(bytes) if bytes == CONFIG.as_bytes() => {}
            Ok(bytes) => return Err(foreign(&config, &bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => store.make()?,
            Err(e) => {
                return Err(Fault::infrastructure("the snapshot store cannot be opened")
                    .place(config.display().to_string())
                    .cause(e)
                    .help("name the folder that `snapshot create` wrote to"));
            }
        }
        Ok(store)
    }

    fn make(&self) -> Result<(), Fault> {
        let unwritable = |e: &io::Error| files::unwritable(&self.at, e);
        make_folder(&self.at).map_err(|e| unwritable(&e))?;
        for entry in fs::read_dir(&self.at).map_err(|e| unwritable(&e))? {
            let name = entry.map_err(|e| unwritable(&e))?.file_name();
            // A writer that was killed while it made the store leaves at most this.
            if !name.as_encoded_bytes().starts_with(b".config.") {
                return Err(Fault::refused("the folder of the snapshot store holds something else")
                    .place(self.at.display().to_string())
                    .cause(format!("it has no `config`, but `{}`", name.to_string_lossy()))
                    .help("name an empty or a new folder as `snapshot.store`"));
            }
        }
        let config = self.at.join("config");
        files::write_atomic_with_mode(&config, CONFIG.as_bytes(), Some(0o600))
            .map_err(|e| files::unwritable(&config, &e))
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn manifest(&self, id: &str) -> Result<Manifest, Fault> {
        let path = self.folder("snapshots").join(format!("{id}.json"));
        let place = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(&path).and_then(|f| f.take(MAX_MANIFEST).read_to_end(&mut bytes)).map_err(|e| {
            let what = if e.kind() == io::ErrorKind::NotFound {
                format!("the store has no snapshot {}", short(id))
            } else {
                format!("the snapshot {} cannot be read", short(id))
            };
            Fault::infrastructure(what).place(&place).cause(e).help("`snapshot list` shows what is there")
        })?;
        let damaged = |why: String| {
            Fault::infrastructure(format!("the manifest of the snapshot {} is damaged", short(id)))
                .place(&place)
                .cause(why)
                .help("restore from another snapshot, and look at the disk")
        };
        let digest = sha256_hex(&bytes);
        if digest != id {
            return Err(damaged(format!("its bytes have the SHA-256 {digest}")));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        manifest.sane().map_err(|fault| fault.place(&place))?;
        Ok(manifest)
    }

    fn lock(&self) -> Result<File, Fault> {
        let path = self.folder("lock");
        let unwritable = |e: &io::Error| files::unwritable(&path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| unwritable(&e))?;
        if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(unwritable(&e.into()));
            }
            let mut holder = String::new();
            // Without a readable name it is still refused.
            let _ = Read::take(&mut file, 200).read_to_string(&mut holder);
            return Err(Fault::refused("another snapshot is being written to this store")
                .place(path.display().to_string())
                .cause(format!("held by {}", holder.trim()))
                .help("wait until it is done, then run this again"));
        }
        let name =
            format!("process {} on {} since {}\n", std::process::id(), world::host_name(), world::now());
        file.set_len(0).and_then(|()| file.write_all(name.as_bytes())).map_err(|e| unwritable(&e))?;
        Ok(file)
    }
}

fn foreign(config: &Path, bytes: &[u8]) -> Fault {
    let format = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let format = format.as_ref().and_then(|v| v["format"].as_str());
    let cause = match format {
        Some("trapkey/store/v1") | None => "the file is damaged: it is not what Trapkey wrote".to_owned(),
        Some(other) => format!("its format is `{other}`; known here is `trapkey/store/v1`"),
    };
    Fault::infrastructure("the snapshot store cannot be used")
        .place(config.display().to_string())
        .cause(cause)
        .help(format!("if only this file was damaged, write this line to it: {}", CONFIG.trim()))
}

impl Repository for Folder {
    fn place(&self) -> String {
        self.at.display().to_string()
    }

    fn begin(&self) -> Result<Box<dyn Writer>, Fault> {
        let lock = self.lock()?;
        let tmp = self.folder("tmp");
        // We hold the lock: whatever lies here was left by a writer that was killed.
        match fs::remove_dir_all(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(files::unwritable(&tmp, &e)),
            _ => {}
        }
        for folder in [&tmp, &self.folder("objects"), &self.folder("snapshots")] {
            make_folder(folder).map_err(|e| files::unwritable(folder, &e))?;
        }
        Ok(Box::new(Run::begin(&self.at, &tmp, lock)?))
    }

    fn open(&self, id: &str) -> Result<Box<dyn Reader>, Fault> {
        let manifest = self.manifest(id)?;
        Ok(Box::new(Opened::listed(id, manifest, &self.at)))
    }

    fn list(&self) -> Result<Listing, Fault> {
        let mut listing = Listing::default();
        for path in children(&self.folder("snapshots"))? {
            let Some(id) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".json"))
            else {
                continue;
            };
            match self.manifest(id) {
                Ok(manifest) => listing.snapshots.push(Listed { id: id.to_owned(), manifest }),
                Err(fault) => listing.damaged.push(Damage {
                    object: format!("snapshots/{id}.json"),
                    why: fault.cause.unwrap_or(fault.what),
                    needed_by: vec![short(id)],
                }),
            }
        }
        listing.snapshots.sort_by(|a, b| (a.manifest.created_at, &a.id).cmp(&(b.manifest.created_at, &b.id)));
        Ok(listing)
    }

    fn check(&self, seen: &mut dyn FnMut(u64) -> Result<(), Fault>) -> Result<Checked, Fault> {
        let Listing { snapshots, damaged } = self.list()?;
        let mut objects = self.objects(seen)?;
        let mut needed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, part) in snapshots.iter().flat_map(|s| s.manifest.sources.iter().map(|p| (&s.id, p))) {
            for (entry, content) in part.contents() {
                for chunk in content.chunks.iter().filter(|chunk| !objects.whole(chunk)) {
                    let file = format!("{} {}/{}", short(id), part.name, entry.path);
                    needed.entry(chunk.sha256.clone()).or_default().insert(file);
                }
            }
        }
        let mut checked =
            Checked { snapshots: snapshots.len(), objects: objects.count, bytes: objects.bytes, damaged };
        checked.damaged.extend(objects.wrong.into_iter().map(|(name, why)| Damage {
            needed_by: needed.remove(&name).unwrap_or_default().into_iter().collect(),
            object: object_name(&name),
            why,
        }));
        Ok(checked)
    }
}

/// Every object of a store, read and verified.
#[derive(Default)]
struct Objects {
    count: usize,
    bytes: u64,
    /// Sizes by name.
    there: BTreeMap<String, u64>,
    /// What is wrong, by name.
    wrong: BTreeMap<String, String>,
}

impl Objects {
    /// Whether the chunk is there as it should be; if not, that is noted.
    fn whole(&mut self, chunk: &Chunk) -> bool {
        let why = match self.there.get(&chunk.sha256) {
            Some(size) if *size == u64::from(chunk.size) => return !self.wrong.contains_key(&chunk.sha256),
            Some(_) => "its length is wrong",
            None => "it is missing",
        };
        self.wrong.entry(chunk.sha256.clone()).or_insert_with(|| why.into());
        false
    }
}

impl Folder {
    fn objects(&self, seen: &mut dyn FnMut(u64) -> Result<(), Fault>) -> Result<Objects, Fault> {
        let mut found = Objects::default();
        for folder in children(&self.folder("objects"))? {
            for path in children(&folder)? {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                if path != object_path(&self.at, &name) {
                    // In a folder where nobody looks for it.
                    continue;
                }
                match files::sha256_file(&path) {
                    Ok((digest, size)) => {
                        found.bytes += size;
                        if digest != name {
                            found.wrong.insert(name.clone(), format!("its bytes have the SHA-256 {digest}"));
                        }
                        found.there.insert(name, size);
                    }
                    Err(e) => drop(found.wrong.insert(name, e.to_string())),
                }
                found.count += 1;
                seen(found.bytes)?;
            }
        }
        Ok(found)
    }
}

fn short(id: &str) -> String {
    crate::evidence::short(id)
}

fn object_name(sha256: &str) -> String {
    format!("objects/{}/{sha256}", sha256.get(..2).unwrap_or("??"))
}

fn object_path(at: &Path, sha256: &str) -> PathBuf {
    at.join(object_name(sha256))
}

/// The entries of a folder in order; none when it is not there.
fn children(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let unreadable = |e: io::Error| {
        Fault::infrastructure("the store cannot be read").place(folder.display().to_string()).cause(e)
    };
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut paths =
        entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
