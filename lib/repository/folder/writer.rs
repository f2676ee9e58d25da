//! Writes a snapshot: into `tmp/`, synced, and moved into place in one step at the end.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fastcdc::v2020::FastCDC;
use rustix::fs::syncfs;
use sha2::{Digest, Sha256};

use super::reader::Opened;
use super::{make_folder, object_path};
use crate::evidence::{hex, sha256_hex};
use crate::fault::Fault;
use crate::repository::{Chunk, Committed, Content, FileWriter, MAX_CHUNK, Manifest, Reader, Writer};
use crate::world::{self, files};

const MIN_CHUNK: usize = 256 * 1024;
const AVERAGE_CHUNK: usize = 1024 * 1024;

/// A snapshot that is being written.
pub(super) struct Run {
    at: PathBuf,
    staging: PathBuf,
    staged: HashSet<String>,
    added: u64,
    sealed: Option<String>,
    // The lock ends with the run.
    _lock: File,
}

impl Run {
    /// Begins in a new folder below `tmp`; the lock is held until the run is dropped.
    pub(super) fn begin(at: &Path, tmp: &Path, lock: File) -> Result<Self, Fault> {
        let staging = tmp.join(format!("{:016x}", world::unique()));
        make_folder(&staging).map_err(|e| files::unwritable(&staging, &e))?;
        Ok(Self {
            at: at.to_path_buf(),
            staging,
            staged: HashSet::new(),
            added: 0,
            sealed: None,
            _lock: lock,
        })
    }
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
        let written = write_new(&path, &bytes).and_then(|()| Ok(syncfs(crate::bounds::open_folder(&self.staging)?)?));
        written.map_err(|e| files::unwritable(&path, &e))?;
        // Read back from what lies on the disk now, not from memory.
        let manifest: Manifest =
            files::read_bounded(&path, bytes.len() as u64).map_err(|e| files::unwritable(&path, &e)).and_then(|bytes| {
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
        Ok(Box::new(Opened::staged(id, manifest, &self.at, &self.staging)))
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

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    crate::bounds::fresh(path, 0o600)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Repository;

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = super::super::Folder::open(folder.path(), true).unwrap();
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
