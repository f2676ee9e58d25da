//! The state in a folder: every write whole, a change only of what was read, and a lock of the
//! kernel's that ends with its holder.
//!
//! | file | holds |
//! | --- | --- |
//! | `lease.json`, `state.json`, `abort.json`, `pause.json`, … | the objects |
//! | `journal.jsonl` | the journal, one line each, synced |
//! | `lock.N` | locked by the kernel for as long as the holder of fencing number N lives |
//! | `change` | locked for the moment of a conditional write |

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::{Condition, Guard, Life, Object, Place, Put, Tag};
use crate::bounds;
use crate::evidence::sha256_hex;
use crate::fault::Fault;
use crate::world::files::{self, unwritable, write_atomic};

/// How long a conditional write waits for another one. It takes a few milliseconds, and on a busy disk the
/// time of a sync.
const PATIENCE_MS: u64 = 30_000;

/// The largest object that is read.
const LARGEST: u64 = 64 << 20;

/// One environment's folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// For how long a conditional write waits, in ms: never for a large part of a lease.
    patience_ms: AtomicU64,
}

impl Folder {
    /// The state of `environment` below `root`. Touches nothing.
    pub(super) fn new(root: &Path, environment: &str) -> Self {
        let patience_ms = AtomicU64::new(PATIENCE_MS);
        Self { path: root.join(super::plain_name(environment)), patience_ms }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let path = self.file(name);
        match bounds::whole_if_there(&path, LARGEST) {
            Ok(found) => Ok(found),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(unwritable(&self.path, &e)),
            Err(e) => Err(Fault::infrastructure("the promote state cannot be read")
                .place(path.display().to_string())
                .cause(e)
                .help("give the job's user the right to read it")),
        }
    }

    /// Whoever holds this writes alone. It is held for milliseconds; a process that is stopped just
    /// then must not wedge the others.
    fn alone(&self) -> Result<File, Fault> {
        let path = self.file("change");
        let file = open_to_lock(&path).map_err(|e| unwritable(&path, &e))?;
        let patience = Duration::from_millis(self.patience_ms.load(Ordering::SeqCst));
        let until = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Fault::infrastructure(
                        "the promote state is locked for a change by another process",
                    )
                    .place(path.display().to_string())
                    .cause(format!(
                        "a change takes milliseconds, and this one has lasted for {} s",
                        patience.as_secs()
                    ))
                    .help("is a stopped process (state T) of `promote` about? end it, and run this again"));
                }
                Err(e) => return Err(unwritable(&path, &e.into())),
            }
        }
    }

    /// Does something in the folder, which is made where it is not there; once more where somebody has moved it away in
    /// the middle of that.
    fn inside<T>(&self, act: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
        make_lasting(&self.path).map_err(|e| unwritable(&self.path, &e))?;
        match act() {
            Err(_) if !self.path.exists() => {
                make_lasting(&self.path).map_err(|e| unwritable(&self.path, &e))?;
                act()
            }
            done => done,
        }
    }

    fn lock_file(&self, fence: u64) -> PathBuf {
        self.file(&format!("lock.{fence}"))
    }
}

/// Opens a file to lock it. On a file system that takes no writes any more the lock of before still
/// locks.
fn open_to_lock(path: &Path) -> io::Result<File> {
    bounds::open_to_add(path, 0o666).or_else(|e| bounds::open(path).map_err(|_| e))
}

/// Whether the last line of a file is not whole.
fn ends_in_the_middle(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Makes a folder that stays: each one that is new is on disk in the one above it.
fn make_lasting(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_lasting(above)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    files::sync_folder(above.unwrap_or(Path::new(".")))
}

fn tag(bytes: &[u8]) -> Tag {
    Tag(sha256_hex(bytes))
}

impl Place for Folder {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, name: &str) -> Result<Option<Object>, Fault> {
        Ok(self.read(name)?.map(|bytes| Object { tag: tag(&bytes), bytes }))
    }

    fn put(&self, name: &str, bytes: &[u8], condition: &Condition) -> Result<Put, Fault> {
        let path = self.file(name);
        self.inside(|| {
            let _alone = match condition {
                Condition::Any => None,
                _ => Some(self.alone()?),
            };
            let found = match condition {
                Condition::Any => true,
                Condition::New => self.read(name)?.is_none(),
                Condition::Is(expected) => self.read(name)?.is_some_and(|bytes| tag(&bytes) == *expected),
            };
            if !found {
                return Ok(Put::Conflict);
            }
            write_atomic(&path, bytes).map_err(|e| unwritable(&path, &e))?;
            Ok(Put::Done(tag(bytes)))
        })
    }

    fn remove(&self, name: &str) -> Result<(), Fault> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(unwritable(&path, &e)),
            Err(_) => Ok(()),
            Ok(()) => files::sync_folder(&self.path).map_err(|e| unwritable(&path, &e)),
        }
    }

    fn list(&self, beginning: &str) -> Result<Vec<String>, Fault> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => {
                return Err(Fault::infrastructure("the promote state cannot be read")
                    .place(self.shown())
                    .cause(e)
                    .help("give the job's user the right to read it"));
            }
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(beginning))
            .collect();
        names.sort();
        Ok(names)
    }

    fn journal(&self, line: &str, _: &str) -> Result<(), Fault> {
        let path = self.file("journal.jsonl");
        self.inside(|| {
            bounds::open_to_add(&path, 0o666)
                .and_then(|mut file| {
                    // A writer that was killed, or a full disk, leaves half a line: the next begins its own.
                    let begin = if ends_in_the_middle(&mut file)? { "\n" } else { "" };
                    file.write_all(format!("{begin}{line}\n").as_bytes()).and_then(|()| file.sync_data())
                })
                .map_err(|e| unwritable(&path, &e))
        })
    }

    fn life(&self, fence: u64) -> Result<Life, Fault> {
        let path = self.lock_file(fence);
        let file = match bounds::open(&path) {
            Ok(file) => file,
            // It is removed when its holder leaves.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Life::Over(Guard::none())),
            Err(e) => return Err(unwritable(&path, &e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Life::Over(Guard::of(file, None))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Life::Lives),
            Err(e) => Err(unwritable(&path, &e.into())),
        }
    }

    fn guard(&self, fence: u64) -> Result<Option<Guard>, Fault> {
        let path = self.lock_file(fence);
        let file = self.inside(|| open_to_lock(&path).map_err(|e| unwritable(&path, &e)))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Guard::of(file, Some(path)))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(unwritable(&path, &e.into())),
        }
    }

    fn guard_what_is_there(&self, name: &str) -> Result<Option<Guard>, Fault> {
        let full = [rustix::io::Errno::ROFS, rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT];
        let probe = self.file(&format!(".trapkey-probe.{:016x}", crate::world::unique()));
        match bounds::fresh(&probe, 0o666) {
            Err(e) if full.iter().any(|full| e.raw_os_error() == Some(full.raw_os_error())) => {}
            Err(_) => return Ok(None),
            Ok(_) => {
                // One that stays is empty, and looked at by nobody.
                let _ = fs::remove_file(&probe);
                return Ok(None);
            }
        }
        let Ok(file) = bounds::open(&self.file(name)) else { return Ok(None) };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Guard::of(file, None))),
            Err(_) => Err(Fault::refused("another job goes back already, on a disk that takes no writes")
                .place(self.shown())
                .help("wait for it, and look at the router")),
        }
    }

    /// A file of its own is written, locked and removed: in the folder, or where that would be made.
    fn may_write(&self) -> Result<(), Fault> {
        let missing = |folder: &&Path| matches!(folder.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound);
        let there = self.path.ancestors().find(|folder| !missing(folder)).unwrap_or(&self.path);
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        let path = there.join(format!(".trapkey-probe.{:016x}", crate::world::unique()));
        let tried = bounds::fresh(&path, 0o666).and_then(|mut file| {
            // As much as a record may need: a full disk takes an empty file.
            let written = file.write_all(&[b' '; 4096]).and_then(|()| file.sync_all());
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
            let removed = fs::remove_file(&path);
            written.and(locked).and(removed)
        });
        tried.map_err(|e| {
            let fault = unwritable(&self.path, &e);
            Fault { what: "the promote state cannot be written".into(), ..fault }
        })
    }

    fn hurry(&self, lasts: Duration) {
        let sixth = u64::try_from((lasts / 6).as_millis()).unwrap_or(PATIENCE_MS);
        self.patience_ms.store(sixth.clamp(1_000, PATIENCE_MS), Ordering::SeqCst);
    }

    fn between_looks(&self) -> Duration {
        Duration::ZERO
    }
}
