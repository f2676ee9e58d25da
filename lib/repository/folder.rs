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

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fastcdc::v2020::FastCDC;
use rustix::fs::{Advice, FlockOperation, fadvise, flock, syncfs};
use sha2::{Digest, Sha256};

use super::{
    Checked, Chunk, Committed, Content, Damage, FileWriter, Listed, Listing, MAX_CHUNK, Manifest, Reader,
    Repository, Writer,
};
use crate::evidence::{hex, sha256_hex};
use crate::fault::Fault;
use crate::world::{self, files};

const CONFIG: &str = "{\"format\": \"trapkey/store/v1\", \"chunks\": \"fastcdc-2020 256KiB/1MiB/4MiB\", \
                      \"digest\": \"sha256\", \"encryption\": \"none\"}\n";
const MIN_CHUNK: usize = 256 * 1024;
const AVERAGE_CHUNK: usize = 1024 * 1024;
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
        let staging = tmp.join(format!("{:016x}", world::unique()));
        for folder in [&tmp, &staging, &self.folder("objects"), &self.folder("snapshots")] {
            make_folder(folder).map_err(|e| files::unwritable(folder, &e))?;
        }
        Ok(Box::new(Run {
            at: self.at.clone(),
            staging,
            staged: HashSet::new(),
            added: 0,
            sealed: None,
            _lock: lock,
        }))
    }

    fn open(&self, id: &str) -> Result<Box<dyn Reader>, Fault> {
        let manifest = self.manifest(id)?;
        Ok(Box::new(Opened { id: id.to_owned(), manifest, at: self.at.clone(), staging: None }))
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
        let listing = self.list()?;
        let mut checked =
            Checked { snapshots: listing.snapshots.len(), damaged: listing.damaged, ..Checked::default() };
        let mut wrong: BTreeMap<String, String> = BTreeMap::new();
        let mut there = BTreeMap::new();
        for folder in children(&self.folder("objects"))? {
            for path in children(&folder)? {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                match files::sha256_file(&path) {
                    Ok((digest, size)) => {
                        checked.bytes += size;
                        if digest != name {
                            wrong.insert(name.clone(), format!("its bytes have the SHA-256 {digest}"));
                        }
                        there.insert(name, size);
                    }
                    Err(e) => drop(wrong.insert(name, e.to_string())),
                }
                checked.objects += 1;
                seen(checked.bytes)?;
            }
        }
        let mut needed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Listed { id, manifest } in &listing.snapshots {
            for part in &manifest.sources {
                for (entry, content) in part.contents() {
                    for chunk in &content.chunks {
                        if there.get(&chunk.sha256) != Some(&u64::from(chunk.size)) {
                            wrong.entry(chunk.sha256.clone()).or_insert_with(|| {
                                if there.contains_key(&chunk.sha256) {
                                    "its length is wrong"
                                } else {
                                    "it is missing"
                                }
                                .into()
                            });
                        }
                        if wrong.contains_key(&chunk.sha256) {
                            let file = format!("{} {}/{}", short(id), part.name, entry.path);
                            needed.entry(chunk.sha256.clone()).or_default().insert(file);
                        }
                    }
                }
            }
        }
        checked.damaged.extend(wrong.into_iter().map(|(name, why)| Damage {
            needed_by: needed.remove(&name).unwrap_or_default().into_iter().collect(),
            object: object_name(&name),
            why,
        }));
        Ok(checked)
    }
}

/// A snapshot that is being written.
struct Run {
    at: PathBuf,
    staging: PathBuf,
    staged: HashSet<String>,
    added: u64,
    sealed: Option<String>,
    // The lock ends with the run.
    _lock: File,
}

impl Writer for Run {
    fn file(&mut self) -> Result<Box<dyn FileWriter + '_>, Fault> {
        Ok(Box::new(Growing {
            run: self,
            buffer: Vec::new(),
            whole: Sha256::new(),
            size: 0,
            chunks: Vec::new(),
        }))
    }

    fn seal(&mut self, manifest: &Manifest) -> Result<Box<dyn Reader>, Fault> {
        let broken = |e: serde_json::Error| Fault::infrastructure("the manifest cannot be written").cause(e);
        let mut bytes = serde_json::to_vec(manifest).map_err(broken)?;
        bytes.push(b'\n');
        let id = sha256_hex(&bytes);
        let path = self.staging.join("manifest");
        let written = write_new(&path, &bytes).and_then(|()| Ok(syncfs(File::open(&self.staging)?)?));
        written.map_err(|e| files::unwritable(&path, &e))?;
        // Read back from what lies on the disk now, not from memory.
        let manifest: Manifest =
            fs::read(&path).map_err(|e| files::unwritable(&path, &e)).and_then(|bytes| {
                if sha256_hex(&bytes) == id {
                    serde_json::from_slice(&bytes).map_err(broken)
                } else {
                    Err(Fault::infrastructure("the manifest reads back differently than it was written")
                        .place(path.display().to_string())
                        .help("do not trust this disk"))
                }
            })?;
        manifest.sane()?;
        self.sealed = Some(id.clone());
        Ok(Box::new(Opened { id, manifest, at: self.at.clone(), staging: Some(self.staging.clone()) }))
    }

    fn commit(mut self: Box<Self>) -> Result<Committed, Fault> {
        let Some(id) = self.sealed.take() else {
            return Err(Fault::infrastructure("a snapshot was about to be listed before it was sealed"));
        };
        let objects = self.at.join("objects");
        let snapshots = self.at.join("snapshots");
        let moved = (|| {
            let mut folders = BTreeSet::new();
            for name in &self.staged {
                let folder = objects.join(&name[..2]);
                make_folder(&folder)?;
                fs::rename(self.staging.join(name), folder.join(name))?;
                folders.insert(folder);
            }
            for folder in folders.iter().chain([&objects]) {
                files::sync_folder(folder)?;
            }
            fs::rename(self.staging.join("manifest"), snapshots.join(format!("{id}.json")))?;
            files::sync_folder(&snapshots)?;
            files::sync_folder(&self.at)
        })();
        moved.map_err(|e| files::unwritable(&self.at, &e))?;
        Ok(Committed { id, added_bytes: self.added })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next writer.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

impl Run {
    fn keep(&mut self, bytes: &[u8]) -> io::Result<Chunk> {
        let sha256 = sha256_hex(bytes);
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        if !self.staged.contains(&sha256) {
            let there = fs::symlink_metadata(object_path(&self.at, &sha256));
            // One of another length is damaged and is replaced at the commit.
            if !there.is_ok_and(|m| m.is_file() && m.len() == u64::from(size)) {
                write_new(&self.staging.join(&sha256), bytes)?;
                self.staged.insert(sha256.clone());
                self.added += u64::from(size);
            }
        }
        Ok(Chunk { sha256, size })
    }
}

/// A file that is being cut into chunks where its content says so, so that an insertion changes only
/// the chunks around it.
struct Growing<'a> {
    run: &'a mut Run,
    buffer: Vec<u8>,
    whole: Sha256,
    size: u64,
    chunks: Vec<Chunk>,
}

impl Growing<'_> {
    fn cut(&mut self) -> io::Result<()> {
        let next = FastCDC::new(&self.buffer, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK as usize).next();
        let length = next.map_or(self.buffer.len(), |chunk| chunk.length);
        let chunk = self.run.keep(&self.buffer[..length])?;
        self.chunks.push(chunk);
        self.buffer.drain(..length);
        Ok(())
    }
}

impl Write for Growing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MAX_CHUNK as usize - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.whole.update(&bytes[..taken]);
        self.size += taken as u64;
        if self.buffer.len() == MAX_CHUNK as usize {
            self.cut()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileWriter for Growing<'_> {
    fn finish(mut self: Box<Self>) -> Result<Content, Fault> {
        while !self.buffer.is_empty() {
            self.cut().map_err(|e| files::unwritable(&self.run.at, &e))?;
        }
        Ok(Content { size: self.size, sha256: hex(&self.whole.finalize()), chunks: self.chunks })
    }
}

/// An opened snapshot.
struct Opened {
    id: String,
    manifest: Manifest,
    at: PathBuf,
    staging: Option<PathBuf>,
}

impl Opened {
    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, Fault> {
        let staged = self.staging.as_ref().map(|s| s.join(&chunk.sha256)).filter(|p| p.exists());
        let path = staged.unwrap_or_else(|| object_path(&self.at, &chunk.sha256));
        let damaged = |why: String| {
            let users: Vec<String> = self.users(chunk).take(5).collect();
            Fault::infrastructure(format!("an object of the snapshot {} is damaged", short(&self.id)))
                .place(path.display().to_string())
                .cause(format!("{why}; needed by {}", users.join(", ")))
                .help(
                    "look at the disk; move the object away, and the next `snapshot create` stores it again if \
                     the source still has it",
                )
        };
        let mut bytes = Vec::with_capacity(chunk.size as usize);
        let read = File::open(&path).and_then(|file| {
            if self.staging.is_some() {
                // The proof wants the disk's bytes, not those that the kernel still remembers.
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
            }
            file.take(u64::from(chunk.size) + 1).read_to_end(&mut bytes)
        });
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged("it is missing".into())),
            Err(e) => return Err(damaged(e.to_string())),
            Ok(_) => {}
        }
        let digest = sha256_hex(&bytes);
        if digest != chunk.sha256 {
            return Err(damaged(format!("its bytes have the SHA-256 {digest}")));
        }
        if bytes.len() != chunk.size as usize {
            return Err(damaged(format!("it has {} bytes, the manifest says {}", bytes.len(), chunk.size)));
        }
        Ok(bytes)
    }

    fn users<'a>(&'a self, chunk: &'a Chunk) -> impl Iterator<Item = String> + 'a {
        self.manifest.sources.iter().flat_map(move |part| {
            part.contents()
                .filter(move |(_, content)| content.chunks.contains(chunk))
                .map(move |(entry, _)| format!("{}/{}", part.name, entry.path))
        })
    }
}

impl Reader for Opened {
    fn id(&self) -> &str {
        &self.id
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn read(&self, content: &Content, out: &mut dyn Write) -> Result<(), Fault> {
        let mut whole = Sha256::new();
        for chunk in &content.chunks {
            let bytes = self.chunk(chunk)?;
            whole.update(&bytes);
            out.write_all(&bytes).map_err(|e| {
                Fault::infrastructure("what was read from the snapshot cannot be written").cause(e)
            })?;
        }
        let digest = hex(&whole.finalize());
        if digest == content.sha256 {
            return Ok(());
        }
        Err(Fault::infrastructure(format!(
            "a file of the snapshot {} is not what was stored",
            short(&self.id)
        ))
        .place(self.at.display().to_string())
        .cause(format!("its bytes have the SHA-256 {digest}, the manifest says {}", content.sha256))
        .help("do not use this snapshot"))
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

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path(), true).unwrap();
        let mut run = store.begin().unwrap();
        let mut number = 1_u64;
        let mut data: Vec<u8> = (0..8_000_000)
            .map(|_| {
                number =
                    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                number.to_be_bytes()[0]
            })
            .collect();
        let mut put = |data: &[u8]| {
            let mut file = run.file().unwrap();
            // Odd pieces: the cuts depend on the content, not on how it arrives.
            data.chunks(77_777).for_each(|piece| file.write_all(piece).unwrap());
            file.finish().unwrap()
        };
        let before = put(&data);
        data.splice(3_000_000..3_000_000, *b"inserted");
        let after = put(&data);
        assert!(before.chunks.len() >= 5, "{}", before.chunks.len());
        let new = after.chunks.iter().filter(|c| !before.chunks.contains(c)).count();
        assert!((1..=3).contains(&new), "{new}");
        assert_eq!(after.size, 8_000_008);
        assert_eq!(after.sha256, sha256_hex(&data));
    }
}
