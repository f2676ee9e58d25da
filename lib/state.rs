//! The promote state: one folder for each environment, one writer at a time, every write whole.
//!
//! | file | holds |
//! | --- | --- |
//! | `lock` | who works now; locked by the kernel, so that it ends with its holder |
//! | `state.json` | the record, with a version that rises with every write |
//! | `journal.jsonl` | every action before and after it, one line each, synced |
//! | `abort.json`, `pause.json` | what somebody asked for while another job works |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::world::files::{self, unwritable, write_atomic};

/// The state of one environment in a folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// Who works on an environment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Holder {
    /// What it releases: `shop 1.4.2 in production`.
    pub release: String,
    /// The machine.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// Since when.
    pub since: String,
    /// Who started it.
    pub actor: String,
    /// The page of the CI job, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The right to write, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A record and its version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved<T> {
    /// Rises by one with every write.
    pub version: u64,
    /// The record.
    pub record: T,
}

/// Something that was asked of a running promotion.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Asked {
    /// The promotion that it is about.
    pub epoch: u64,
    /// Who asked.
    pub who: String,
    /// When.
    pub at: String,
    /// Why, where they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What can be asked of a running promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Call it off.
    Abort,
    /// Hold before the next step.
    Pause,
}

impl Folder {
    /// The state of `environment` below `root`. Touches nothing.
    pub fn new(root: &Path, environment: &str) -> Self {
        Self { path: root.join(folder_name(environment)) }
    }

    /// The right to write.
    ///
    /// Errors: another job holds it (5, the holder is named); the folder cannot be written (4).
    pub fn lock(&self, holder: &Holder) -> Result<Lock, Fault> {
        fs::create_dir_all(&self.path).map_err(|e| unwritable(&self.path, &e))?;
        let path = self.path.join("lock");
        let wrong = |e: io::Error| unwritable(&path, &e);
        let mut options = OpenOptions::new();
        options.read(true);
        // On a file system that takes no writes any more the lock of before still locks.
        let open = options.clone().write(true).create(true).truncate(false).open(&path);
        let mut file = open.or_else(|e| options.open(&path).map_err(|_| e)).map_err(wrong)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(e) if e == rustix::io::Errno::WOULDBLOCK => return Err(self.held(&mut file)),
            Err(e) => return Err(wrong(e.into())),
        }
        // The lock is what counts. A full disk must not keep anybody from calling a release off.
        let text = serde_json::to_string(holder).map_err(|e| wrong(e.into()))?;
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all());
        Ok(Lock { _file: file })
    }

    fn held(&self, file: &mut File) -> Fault {
        let mut text = String::new();
        let read = file.read_to_string(&mut text);
        let holder = read.ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
        let cause = match holder {
            Some(h) => {
                let url = h.url.map(|u| format!(", {u}")).unwrap_or_default();
                format!(
                    "{} is being promoted by {} (process {} on {}, since {}{url})",
                    h.release, h.actor, h.pid, h.host, h.since
                )
            }
            None => "another job has just taken it".into(),
        };
        Fault::refused("another job holds this environment")
            .place(self.path.display().to_string())
            .cause(cause)
            .help("wait for it, or call it off with `promote abort`")
    }

    /// The record, or nothing when there was never one.
    ///
    /// Errors (4): it cannot be read or is damaged; nothing was changed.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<Saved<T>>, Fault> {
        let path = self.path.join("state.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(Fault::infrastructure("the promote state cannot be read")
                    .place(path.display().to_string())
                    .cause(e)
                    .help("give the job's user the right to read it"));
            }
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Fault::infrastructure("the promote state is damaged")
                .place(path.display().to_string())
                .cause(e)
                .help("nothing was touched; look at the router and at journal.jsonl beside it, then move the file away")
        })
    }

    /// Writes the record when its version is still the expected one (0 for none yet).
    ///
    /// Errors: somebody else has written meanwhile (5); it cannot be written (4).
    pub fn swap<T: Serialize>(&self, expected: u64, record: &T) -> Result<u64, Fault> {
        let path = self.path.join("state.json");
        let found = self.load::<serde::de::IgnoredAny>()?.map_or(0, |saved| saved.version);
        if found != expected {
            return Err(Fault::refused("the promote state was changed by somebody else")
                .place(path.display().to_string())
                .cause(format!("version {found} stands there, {expected} was expected"))
                .help("look at `promote status`, and run it again"));
        }
        let saved = Saved { version: expected + 1, record };
        let mut value = serde_json::to_value(&saved).map_err(|e| unwritable(&path, &e.into()))?;
        crate::redact::redact_json(&mut value);
        let bytes = serde_json::to_vec(&value).map_err(|e| unwritable(&path, &e.into()))?;
        write_atomic(&path, &bytes).map_err(|e| unwritable(&path, &e))?;
        Ok(expected + 1)
    }

    /// Adds a line to the journal and syncs it.
    pub fn journal(&self, line: &serde_json::Value) -> Result<(), Fault> {
        let path = self.path.join("journal.jsonl");
        let mut line = line.clone();
        crate::redact::redact_json(&mut line);
        let mut text = line.to_string();
        text.push('\n');
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()))
            .map_err(|e| unwritable(&path, &e))
    }

    /// Leaves a request for the job that works, or for the next one.
    pub fn ask(&self, ask: Ask, asked: &Asked) -> Result<(), Fault> {
        let path = self.path.join(ask.file());
        let bytes = serde_json::to_vec(asked).map_err(|e| unwritable(&path, &e.into()))?;
        write_atomic(&path, &bytes).map_err(|e| unwritable(&path, &e))
    }

    /// The request that is open for an epoch. An unreadable one counts as asked: an abort is never
    /// lost to a damaged file.
    pub fn asked(&self, ask: Ask, epoch: u64) -> Option<Asked> {
        let bytes = match fs::read(self.path.join(ask.file())) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => Vec::new(),
        };
        match serde_json::from_slice::<Asked>(&bytes) {
            Ok(asked) => (asked.epoch == epoch).then_some(asked),
            Err(_) => Some(Asked {
                epoch,
                who: "unknown".into(),
                at: String::new(),
                why: Some("the request is not readable".into()),
            }),
        }
    }

    /// Takes a request back.
    pub fn forget(&self, ask: Ask) -> Result<(), Fault> {
        let path = self.path.join(ask.file());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(unwritable(&path, &e)),
            Err(_) => Ok(()),
            Ok(()) => files::sync_folder(&self.path).map_err(|e| unwritable(&path, &e)),
        }
    }
}

impl Ask {
    fn file(self) -> &'static str {
        match self {
            Self::Abort => "abort.json",
            Self::Pause => "pause.json",
        }
    }
}

/// A name for the file system: letters, digits, `-`, `_` stay, everything else becomes `%xx`.
fn folder_name(environment: &str) -> String {
    use std::fmt::Write as _;
    environment.bytes().fold(String::new(), |mut name, byte| {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            name.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(release: &str) -> Holder {
        Holder {
            release: release.into(),
            host: "h".into(),
            pid: 7,
            since: "now".into(),
            actor: "ci".into(),
            url: None,
        }
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_the_first_is() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path(), "prod/eu");
        let first = folder.lock(&holder("shop 1.4.2")).unwrap();
        let refused = folder.lock(&holder("shop 1.4.3")).unwrap_err();
        assert_eq!(refused.exit, crate::fault::Exit::Refused);
        assert!(
            refused.cause.unwrap_or_default().contains("shop 1.4.2 is being promoted by ci (process 7 on h")
        );
        drop(first);
        assert!(folder.lock(&holder("shop 1.4.3")).is_ok());
    }

    #[test]
    fn a_write_on_an_old_version_is_refused_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path(), "production");
        assert_eq!(folder.swap(0, &"a").unwrap(), 1);
        assert_eq!(folder.swap(1, &"b").unwrap(), 2);
        assert!(folder.swap(1, &"c").is_err());
        assert_eq!(folder.load::<String>().unwrap().map(|s| (s.version, s.record)), Some((2, "b".into())));
    }

    #[test]
    fn a_state_cut_short_is_named_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path(), "production");
        folder.swap(0, &"abcdef").unwrap();
        let path = root.path().join("production/state.json");
        fs::write(&path, "{\"version\": 1, \"rec").unwrap();
        assert!(folder.load::<String>().unwrap_err().what.contains("damaged"));
        assert!(folder.swap(1, &"x").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"version\": 1, \"rec");
    }

    #[test]
    fn an_abort_counts_for_its_own_epoch_only() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path(), "production");
        let asked = Asked { epoch: 3, who: "ann".into(), at: "t".into(), why: None };
        folder.ask(Ask::Abort, &asked).unwrap();
        assert_eq!(folder.asked(Ask::Abort, 3), Some(asked));
        assert_eq!(folder.asked(Ask::Abort, 4), None);
        folder.forget(Ask::Abort).unwrap();
        assert_eq!(folder.asked(Ask::Abort, 3), None);
        fs::write(root.path().join("production/abort.json"), "{").unwrap();
        assert!(folder.asked(Ask::Abort, 4).is_some());
    }
}
