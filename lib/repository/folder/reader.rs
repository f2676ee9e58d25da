//! Reads a snapshot: every chunk is verified before anybody sees it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use super::{object_path, short};
use crate::evidence::{hex, sha256_hex};
use crate::fault::Fault;
use crate::repository::{Chunk, Content, Manifest, Reader};
use crate::units::listed;

/// An opened snapshot.
pub(super) struct Opened {
    id: String,
    manifest: Manifest,
    at: PathBuf,
    staging: Option<PathBuf>,
}

impl Opened {
    /// A snapshot that the store lists.
    pub(super) fn listed(id: &str, manifest: Manifest, at: &Path) -> Self {
        Self { id: id.to_owned(), manifest, at: at.to_path_buf(), staging: None }
    }

    /// A snapshot that is not committed yet; its new objects still lie in `staging`.
    pub(super) fn staged(id: String, manifest: Manifest, at: &Path, staging: &Path) -> Self {
        Self { id, manifest, at: at.to_path_buf(), staging: Some(staging.to_path_buf()) }
    }

    fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, Fault> {
        let staged = self.staging.as_ref().map(|s| s.join(&chunk.sha256)).filter(|p| p.exists());
        let path = staged.unwrap_or_else(|| object_path(&self.at, &chunk.sha256));
        let damaged = |why: String| {
            let users: Vec<String> = self.users(chunk).collect();
            Fault::infrastructure(format!("an object of the snapshot {} is damaged", short(&self.id)))
                .place(path.display().to_string())
                .cause(format!("{why}; needed by {}", listed(&users, 5)))
                .help(
                    "look at the disk; move the object away, and the next `snapshot create` stores it again if \
                     the source still has it",
                )
        };
        let mut bytes = Vec::with_capacity(chunk.size as usize);
        let read = crate::bounds::open(&path).and_then(|file| {
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
