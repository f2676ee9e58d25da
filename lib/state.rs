//! The promote state: one place for each environment, one writer at a time, every change made only
//! on top of what was read.
//!
//! A place keeps small objects and changes one only where it still is what the caller has read: a
//! folder, or a bucket of an S3 store. Everything else stands on that, the same for all places:
//!
//! | object | holds |
//! | --- | --- |
//! | `lease.json` | who works now, under which fencing number, until when |
//! | `state.json` | the record, with a version that rises with every write |
//! | `abort.json`, `pause.json` | what somebody asked for while another job works |
//! | `approval.ROLE.EPOCH.json` | what somebody approved |
//! | `flags.json`, `calls.json` | feature flags; what was called for over HTTP |
//! | journal | every action before and after it |

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::fault::Fault;
use crate::world::clock::{Clock, System};
use crate::world::s3::Access;

mod bucket;
mod folder;
mod lease;

pub use lease::{Held, Holder, Lease, Over, Worker};

/// The state of one environment.
#[derive(Debug)]
pub struct Store {
    place: Box<dyn Place>,
    clock: Arc<dyn Clock>,
    /// What was asked for, as it was seen last: a place that is far away is not asked all the time.
    seen: Mutex<[Option<Seen>; 4]>,
}

/// A request as it was seen, and when by the clock that goes on while this process is stopped.
type Seen = (Duration, Result<Option<Asked>, Fault>);

/// What tells one content of an object from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) String);

/// An object as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: Tag,
}

/// When a write may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Whatever stands there.
    Any,
    /// Only where nothing stands yet.
    New,
    /// Only where that still stands.
    Is(Tag),
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It stands there now, whole and for good.
    Done(Tag),
    /// The condition did not hold; nothing was changed.
    Conflict,
}

/// Whether the holder of a lease is still there.
#[derive(Debug)]
pub(crate) enum Life {
    /// It is gone for certain; with the guard nobody else can find the same.
    Over(Guard),
    /// It is there, at work or stopped.
    Lives,
    /// This place cannot tell.
    Unknown,
}

/// What shows others that a holder lives, and ends with it.
#[derive(Debug)]
pub(crate) struct Guard {
    file: Option<std::fs::File>,
    remove: Option<std::path::PathBuf>,
}

impl Guard {
    pub(crate) fn none() -> Self {
        Self { file: None, remove: None }
    }

    fn of(file: std::fs::File, remove: Option<std::path::PathBuf>) -> Self {
        Self { file: Some(file), remove }
    }

    /// Leaves what it shows as it is: it is not there any more, and another one takes its place.
    fn forget(mut self) {
        self.remove = None;
    }

    /// Whether it holds a lock of the kernel's.
    fn locks(&self) -> bool {
        self.file.is_some()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(path) = self.remove.take() {
            // One that stays is locked by nobody, and means the same.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Where objects lie. A write is whole or not at all, and lasting when it has returned.
///
/// Errors of all: it cannot be reached, read or written (4), with the name of the object.
pub(crate) trait Place: Send + Sync + std::fmt::Debug {
    /// Where it is, for people; without secrets.
    fn shown(&self) -> String;
    /// Reads an object; nothing when there is none.
    fn get(&self, name: &str) -> Result<Option<Object>, Fault>;
    /// Writes an object where the condition holds. Of several writers on the same condition exactly
    /// one is told `Done`. A reply that was lost must be cleared up before this returns.
    fn put(&self, name: &str, bytes: &[u8], condition: &Condition) -> Result<Put, Fault>;
    /// Removes an object; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<(), Fault>;
    /// The names that begin like this, sorted.
    fn list(&self, beginning: &str) -> Result<Vec<String>, Fault>;
    /// Adds a line to the journal; `key` is unique and sorts by time.
    fn journal(&self, line: &str, key: &str) -> Result<(), Fault>;
    /// Whether the holder of a fencing number is still there.
    fn life(&self, _fence: u64) -> Result<Life, Fault> {
        Ok(Life::Unknown)
    }
    /// Shows others that the holder of a fencing number lives; nothing when another one does already.
    fn guard(&self, _fence: u64) -> Result<Option<Guard>, Fault> {
        Ok(Some(Guard::none()))
    }
    /// Locks an object that is there, where nothing new can be written: a place that takes no writes. Nothing where it
    /// does, or where that cannot be told.
    ///
    /// Errors: another one has locked it (5).
    fn guard_what_is_there(&self, _name: &str) -> Result<Option<Guard>, Fault> {
        Ok(None)
    }
    /// Shows that the place keeps its conditions, before the first lease on it is trusted.
    ///
    /// Errors (2): it does not, and would give two writers the same right.
    fn prove(&self) -> Result<(), Fault> {
        Ok(())
    }
    /// Tries whether objects may be written here; nothing is left behind, not even a new folder.
    ///
    /// Errors: they may not (4); the place does not keep its conditions (2).
    fn may_write(&self) -> Result<(), Fault>;
    /// From now on a lease of that length hangs on it: nothing may take a large part of it.
    fn hurry(&self, _lasts: Duration) {}
    /// How often what others ask for is looked at.
    fn between_looks(&self) -> Duration;
}

/// A record, its version, and the fencing number of its writer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved<T> {
    /// Rises by one with every write.
    pub version: u64,
    /// The fencing number of the job that wrote it.
    #[serde(default)]
    pub fence: u64,
    /// Which holder of that number it was: where a state was lost, numbers begin anew.
    #[serde(default)]
    pub own: u64,
    /// The record.
    pub record: T,
}

/// Something that was asked of a running promotion.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Asked {
    /// The number of the promotion that it is about.
    pub epoch: u64,
    /// Its id: where the state was lost, numbers begin anew. One without is meant by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<String>,
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
    /// End the bake that is under way.
    Skip,
    /// Close it as it stands, with everything on the new side.
    Accept,
}

impl Ask {
    /// All that can be asked.
    pub const ALL: [Self; 4] = [Self::Abort, Self::Pause, Self::Skip, Self::Accept];

    fn object(self) -> &'static str {
        match self {
            Self::Abort => "abort.json",
            Self::Pause => "pause.json",
            Self::Skip => "skip.json",
            Self::Accept => "accept.json",
        }
    }
}

impl Store {
    /// The state of `environment` below `root`: a folder, or `s3://BUCKET[/PREFIX]`. Touches nothing.
    ///
    /// Errors (2): the address is not understood, or a variable that it needs is missing.
    pub fn open(root: &Path, environment: &str) -> Result<Self, Fault> {
        let address = root.to_string_lossy();
        if let Some(inside) = address.strip_prefix(bucket::SCHEME) {
            let access = Access::from_environment()?;
            return bucket::Bucket::new(inside, environment, &access).map(|place| Self::at(Box::new(place)));
        }
        if address.contains("://") {
            return Err(Fault::usage("the place of the promote state is not understood")
                .place(address)
                .help("it is a folder, or s3://BUCKET/PREFIX"));
        }
        Ok(Self::at(Box::new(folder::Folder::new(root, environment))))
    }

    fn at(place: Box<dyn Place>) -> Self {
        Self::by(place, System::shared())
    }

    fn by(place: Box<dyn Place>, clock: Arc<dyn Clock>) -> Self {
        Self { place, clock, seen: Mutex::default() }
    }

    /// How long to wait before the lease is tried again.
    pub fn patience(&self) -> Duration {
        self.place.between_looks().max(Duration::from_millis(50))
    }

    /// Where it lies, for people.
    pub fn shown(&self) -> String {
        self.place.shown()
    }

    /// Tries whether a job may write here, and leaves nothing behind.
    ///
    /// Errors: it may not (4); the store does not keep the conditions of a write (2).
    pub fn may_write(&self) -> Result<(), Fault> {
        self.place.may_write()
    }

    /// The record, or nothing when there was never one.
    ///
    /// Errors (4): it cannot be read or is damaged; nothing was changed.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<Saved<T>>, Fault> {
        Ok(self.read()?.map(|(saved, _)| saved))
    }

    fn read<T: DeserializeOwned>(&self) -> Result<Option<(Saved<T>, Tag)>, Fault> {
        let Some(object) = self.place.get(STATE)? else { return Ok(None) };
        bounds::json(&object.bytes, MOST_VALUES).map(|saved| Some((saved, object.tag))).map_err(|e| {
            Fault::infrastructure("the promote state is damaged")
                .place(format!("{}/{STATE}", self.shown()))
                .cause(e)
                .help("nothing was touched; look at the router and at the journal beside it, then move the file away")
        })
    }

    /// Leaves a request for the job that works, or for the next one.
    pub fn ask(&self, ask: Ask, asked: &Asked) -> Result<(), Fault> {
        let mut value = serde_json::to_value(asked).map_err(|e| self.unwritten(ask.object(), e))?;
        crate::redact::redact_json(&mut value);
        let bytes = serde_json::to_vec(&value).map_err(|e| self.unwritten(ask.object(), e))?;
        let done = self.place.put(ask.object(), &bytes, &Condition::Any).map(drop);
        self.look_anew(ask);
        done
    }

    /// Asks for something as long as `still` says that it is about what stands there: who comes late puts nothing in
    /// the place of what was asked of another promotion since. Whether it was asked.
    pub fn ask_while(&self, ask: Ask, asked: &Asked, mut still: impl FnMut() -> bool) -> Result<bool, Fault> {
        let mut holds = true;
        let left = self.revise_asked(ask, |_| {
            holds = still();
            holds.then(|| asked.clone())
        });
        match left {
            Ok(()) => Ok(holds),
            // What stands there is damaged.
            Err(_) => self.ask(ask, asked).map(|()| true),
        }
    }

    /// The request that is open for a promotion, by its number and its id. An unreadable one counts as asked: an abort is never
    /// lost to a damaged file. One that could not be fetched from afar is looked for again.
    pub fn asked(&self, ask: Ask, epoch: u64, id: Option<&str>) -> Option<Asked> {
        self.look(ask, epoch, id).ok().flatten()
    }

    /// Whether a promotion is paused, as a gate asks: one that cannot see is not open.
    ///
    /// Errors (4): it could not be looked for.
    pub fn paused(&self, epoch: u64, id: Option<&str>) -> Result<Option<Asked>, Fault> {
        self.look(Ask::Pause, epoch, id)
    }

    fn look(&self, ask: Ask, epoch: u64, id: Option<&str>) -> Result<Option<Asked>, Fault> {
        let between = self.place.between_looks();
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let slot = &mut seen[ask as usize];
        let now = self.clock.uptime();
        let fresh = slot.as_ref().filter(|(at, _)| !between.is_zero() && now.saturating_sub(*at) < between);
        let found = if let Some((_, found)) = fresh {
            found.clone()
        } else {
            let found = self.look_for(ask, epoch);
            *slot = Some((self.clock.uptime(), found.clone()));
            found
        };
        let other = |asked: &Asked| asked.promotion.as_deref().zip(id).is_some_and(|(meant, id)| meant != id);
        found.map(|found| found.filter(|asked| asked.epoch == epoch && !other(asked)))
    }

    fn look_for(&self, ask: Ask, epoch: u64) -> Result<Option<Asked>, Fault> {
        let unreadable = Asked {
            epoch,
            promotion: None,
            who: "unknown".into(),
            at: String::new(),
            why: Some("the request is not readable".into()),
        };
        match self.place.get(ask.object()) {
            Ok(Some(object)) => Ok(Some(bounds::json(&object.bytes, MOST_VALUES).unwrap_or(unreadable))),
            // In a folder it is there and must not be read: it may be an abort.
            Err(_) if self.place.between_looks().is_zero() => Ok(Some(unreadable)),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Takes a request back.
    pub fn forget(&self, ask: Ask) -> Result<(), Fault> {
        let done = self.place.remove(ask.object());
        self.look_anew(ask);
        done
    }

    fn look_anew(&self, ask: Ask) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen[ask as usize] = None;
    }

    /// Keeps a document beside the state, for jobs on other machines.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        self.place.put(name, bytes, &Condition::Any).map(drop)
    }

    /// The documents whose names begin like this.
    pub fn kept(&self, beginning: &str) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let mut found = Vec::new();
        for name in self.place.list(beginning)? {
            if let Some(object) = self.place.get(&name)? {
                found.push((name, object.bytes));
            }
        }
        Ok(found)
    }

    /// The names of the documents that begin like this.
    pub fn names(&self, beginning: &str) -> Result<Vec<String>, Fault> {
        self.place.list(beginning)
    }

    /// Removes a document that was kept.
    pub fn remove(&self, name: &str) -> Result<(), Fault> {
        self.place.remove(name)
    }

    /// A small document beside the state; nothing when there is none.
    ///
    /// Errors (4): it cannot be read, or is damaged.
    pub fn document<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        Ok(self.read_document(name)?.map(|(document, _)| document))
    }

    /// Changes a small document on top of what stands there. `change` is asked anew where somebody
    /// else was faster; where it gives nothing, nothing is written.
    ///
    /// Errors: those of `change`; the document cannot be read or written, or is damaged (4).
    pub fn revise<T: DeserializeOwned + Serialize>(
        &self,
        name: &str,
        mut change: impl FnMut(Option<T>) -> Result<Option<T>, Fault>,
    ) -> Result<(), Fault> {
        for _ in 0..REVISIONS {
            let (found, condition) = match self.read_document(name)? {
                Some((found, tag)) => (Some(found), Condition::Is(tag)),
                None => (None, Condition::New),
            };
            let Some(next) = change(found)? else { return Ok(()) };
            let mut value = serde_json::to_value(&next).map_err(|e| self.unwritten(name, e))?;
            crate::redact::redact_json(&mut value);
            let bytes = serde_json::to_vec(&value).map_err(|e| self.unwritten(name, e))?;
            if matches!(self.place.put(name, &bytes, &condition)?, Put::Done(_)) {
                return Ok(());
            }
            // Those who collided must not go on in step.
            self.clock.sleep(Duration::from_millis(crate::world::unique() % 20));
        }
        Err(self.unwritten(name, "others keep changing it").help("run it again"))
    }

    /// Changes what was asked, on top of what stands there; nothing leaves it as it is. A request is
    /// taken back by one about epoch 0, which no promotion has.
    pub fn revise_asked(
        &self,
        ask: Ask,
        mut change: impl FnMut(Option<Asked>) -> Option<Asked>,
    ) -> Result<(), Fault> {
        let done = self.revise(ask.object(), |found| Ok(change(found)));
        self.look_anew(ask);
        done
    }

    fn read_document<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(T, Tag)>, Fault> {
        let Some(object) = self.place.get(name)? else { return Ok(None) };
        bounds::json(&object.bytes, MOST_VALUES).map(|document| Some((document, object.tag))).map_err(|e| {
            Fault::infrastructure("a document beside the promote state is damaged")
                .place(format!("{}/{name}", self.shown()))
                .cause(e)
                .help("nothing was touched; move it away, and say anew what is to stand in it")
        })
    }

    fn unwritten(&self, name: &str, cause: impl std::fmt::Display) -> Fault {
        Fault::infrastructure("the promote state cannot be written")
            .place(format!("{}/{name}", self.shown()))
            .cause(cause)
    }
}

const STATE: &str = "state.json";
/// The most values of an object; a long release has a hundredth of them.
const MOST_VALUES: usize = 2_000_000;

/// How often a change is tried where others change the same.
const REVISIONS: usize = 100;

/// A name for a file or an object: letters, digits, `-`, `_` stay, everything else becomes `%xx`.
pub(crate) fn plain_name(environment: &str) -> String {
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
mod tests;
