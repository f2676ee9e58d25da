//! The store that a call is about: where it is, and how it is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::passphrase::{self, NONE_NEEDED};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::repository::restic::backend::{self, Backend};
use crate::repository::restic::{KEY_WORK, Repository};
use crate::world::shell::PASSPHRASE;
use crate::world::{self, signal};

/// How often a store is tried to be made, while others make it.
const TRIES: u32 = 6;

/// How long a store that does not answer is waited for by who only looks.
const LOOK: Duration = Duration::from_secs(10);

/// What is found at the place of a store when nobody wants to change it.
#[derive(Debug)]
pub(in crate::tools) enum Seen {
    /// No store, and nothing else in its place.
    Nothing,
    /// A store that this job has no passphrase for.
    Closed(Arc<dyn Backend>),
    /// A store that was opened.
    Open(Box<Repository>),
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As the plan or the flag has it, for people and documents.
    pub shown: String,
    /// The URL, or the absolute path.
    pub exact: String,
}

impl Place {
    /// A store by its URL, or by its path in a folder.
    pub fn new(text: &str, folder: &Path) -> Self {
        let exact = if text.contains("://") {
            text.to_owned()
        } else {
            let path = folder.join(text);
            std::path::absolute(&path).unwrap_or(path).display().to_string()
        };
        Self { shown: text.to_owned(), exact }
    }

    /// The store of the plan.
    ///
    /// Errors (2): the plan has no `snapshot` section.
    pub fn of(job: &Job) -> Result<Self, Fault> {
        let store = &super::section(job)?.store;
        // The plan's folder is there, the store may not be yet.
        let folder = job.loaded.folder.canonicalize().unwrap_or_else(|_| job.loaded.folder.clone());
        Ok(Self { shown: store.shown.clone(), ..Self::new(&store.value, &folder) })
    }

    /// Its folder, where it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        (!self.exact.contains("://")).then(|| PathBuf::from(&self.exact))
    }

    /// The same as restic's `-r` takes it.
    pub fn for_restic(&self) -> String {
        let Some(rest) = self.exact.strip_prefix("s3://") else { return self.exact.clone() };
        let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()))
            .unwrap_or_else(|| "https://s3.amazonaws.com".into());
        format!("s3:{}/{rest}", endpoint.trim_end_matches('/'))
    }

    fn backend(&self) -> Result<Arc<dyn Backend>, Fault> {
        backend::backend_at(&self.exact, Path::new(&self.exact))
    }

    /// Opens what is there.
    ///
    /// Errors: 2 without a passphrase where one is needed; 4 when there is no store, or it cannot be
    /// read; 5 for a wrong passphrase.
    pub fn open(&self) -> Result<Repository, Fault> {
        let backend = self.backend()?;
        if let Some(passphrase) = passphrase::given()? {
            return Repository::open(backend, &passphrase);
        }
        Repository::open(backend, &passphrase::none_needed()?).map_err(|fault| {
            if fault.exit != Exit::Refused {
                return fault;
            }
            Fault::usage("the store is encrypted, and there is no passphrase")
                .place(&self.shown)
                .help("set TRAPKEY_PASSPHRASE, TRAPKEY_PASSPHRASE_FILE or TRAPKEY_PASSPHRASE_COMMAND")
        })
    }

    /// Looks what is there, and opens it where this job has the passphrase. Writes nothing.
    ///
    /// Errors: 4 when it cannot be read; 5 for a wrong passphrase, or when something else lies there.
    pub(in crate::tools) fn look(&self, none_needed: bool) -> Result<Seen, Fault> {
        let passphrase = if none_needed { Some(passphrase::none_needed()?) } else { passphrase::given()? };
        let backend = backend::backend_to_look_at(&self.exact, Path::new(&self.exact), LOOK)?;
        if backend.length(backend::Name::Config)?.is_none() {
            return self.must_be_free().map(|()| Seen::Nothing);
        }
        let Some(passphrase) = passphrase else { return Ok(Seen::Closed(backend)) };
        Repository::open(backend, &passphrase).map(|repository| Seen::Open(Box::new(repository)))
    }

    /// Refuses (2) a passphrase beside a plan that says that none is needed: `snapshot create` would, too.
    pub(in crate::tools) fn is_not_contradicted(&self, none_needed: bool) -> Result<(), Fault> {
        if none_needed && passphrase::given()?.is_some() { self.wanted(true).map(drop) } else { Ok(()) }
    }

    /// Opens the store of a plan, and makes it when there is none. Returns whether it was made.
    ///
    /// Errors: as [`Place::open`]; 2 where the plan says neither that no passphrase is needed nor the
    /// environment gives one, or both; 5 when something else lies there.
    pub fn open_or_make(&self, none_needed: bool) -> Result<(Repository, bool), Fault> {
        let (passphrase, work) = self.wanted(none_needed)?;
        let backend = self.backend()?;
        let mut tries = 1;
        loop {
            if backend.length(backend::Name::Config)?.is_some() {
                return Repository::open(backend, &passphrase).map(|repository| (repository, false));
            }
            self.must_be_free()?;
            match Repository::init(Arc::clone(&backend), &passphrase, work) {
                // Others may make it at this moment: theirs is as good as ours.
                Err(fault) if fault.exit == Exit::Refused && tries < TRIES => {
                    tries += 1;
                    if !signal::sleep(Duration::from_millis(100 + world::unique() % 700)) {
                        return Err(fault);
                    }
                }
                made => return Ok((made?, true)),
            }
        }
    }

    fn wanted(&self, none_needed: bool) -> Result<(passphrase::Passphrase, Duration), Fault> {
        match (passphrase::given()?, none_needed) {
            (Some(given), false) => Ok((given, KEY_WORK)),
            // Everybody knows it: no work protects it.
            (None, true) => Ok((passphrase::none_needed()?, Duration::ZERO)),
            (None, false) => Err(Fault::usage("the snapshot store has no passphrase")
                .place(&self.shown)
                .cause("a snapshot holds what the release could lose: configuration, databases, secrets")
                .help(
                    "set TRAPKEY_PASSPHRASE, TRAPKEY_PASSPHRASE_FILE or TRAPKEY_PASSPHRASE_COMMAND, or say in \
                     the plan `encryption: {none_needed_because: \"…\"}`",
                )),
            (Some(_), true) => Err(Fault::usage(format!(
                "a passphrase is given ({PASSPHRASE}…), and the plan says `none_needed_because`"
            ))
            .place(&self.shown)
            .help(format!(
                "leave one of them out; a store without one opens with the passphrase `{NONE_NEEDED}`"
            ))),
        }
    }

    fn must_be_free(&self) -> Result<(), Fault> {
        let Some(folder) = self.folder() else { return Ok(()) };
        let Ok(mut entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        let known = ["keys", "locks", "snapshots", "index", "data"];
        let other = entries.find_map(|entry| {
            let name = entry.ok()?.file_name();
            let ours = known.iter().any(|known| *known == name) || backend::is_unfinished(&name);
            (!ours).then_some(name)
        });
        match other {
            None => Ok(()),
            Some(name) => Err(Fault::refused("the place of the snapshot store holds something else")
                .place(folder.display().to_string())
                .cause(format!("there is `{}`, and no file `config`", name.display()))
                .help("name an empty folder, or one that is not there yet")),
        }
    }
}
