//! Locks as restic's, so that restic keeps away from us and we from it.
//!
//! A backup or a restore holds a shared lock, whatever removes files an exclusive one. A lock is a file
//! that is written anew every five minutes; after thirty minutes, or when its process on this machine
//! is gone, it is stale and counts no more.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, getgid, getuid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::backend::{Kind, Name};
use super::id::Id;
use super::packer::lock;
use super::people;
use super::store::Store;
use crate::fault::Fault;
use crate::world;

const REFRESH: Duration = Duration::from_secs(5 * 60);
const STALE: Duration = Duration::from_secs(30 * 60);
/// From here on we no longer trust our own lock: others will soon not either.
const DOUBTFUL: Duration = Duration::from_secs(25 * 60);

/// What a lock file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LockInfo {
    /// When it was written.
    pub time: Timestamp,
    /// Whether nobody else may hold one.
    pub exclusive: bool,
    /// The machine.
    #[serde(default)]
    pub hostname: String,
    /// The user.
    #[serde(default)]
    pub username: String,
    /// The process.
    #[serde(default)]
    pub pid: i32,
    /// The user's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The group's number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl LockInfo {
    fn own(exclusive: bool) -> Self {
        Self {
            time: world::now(),
            exclusive,
            hostname: world::host_name(),
            username: people::own_name(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
        }
    }

    /// Whether it counts no more at this moment on this machine.
    pub fn stale(&self, now: Timestamp, hostname: &str) -> bool {
        let age = now.duration_since(self.time);
        if age > jiff::SignedDuration::try_from(STALE).unwrap_or_default() {
            return true;
        }
        let own = self.pid > 0 && self.hostname == hostname;
        let Some(pid) = own.then(|| Pid::from_raw(self.pid)).flatten() else { return false };
        test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    }

    /// Who holds it, for people.
    pub fn holder(&self) -> String {
        format!("process {} of {} on {} since {}", self.pid, self.username, self.hostname, self.time)
    }
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    shared: Arc<Shared>,
    refresher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    exclusive: bool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    id: Id,
    /// By the clock that goes on while the machine sleeps.
    refreshed: Duration,
    done: bool,
}

impl Held {
    /// Locks the repository.
    ///
    /// Errors: refused (5) when somebody else holds a lock that does not go with it, with the holder's
    /// name.
    pub(super) fn new(store: &Arc<Store>, exclusive: bool) -> Result<Self, Fault> {
        conflict(store, exclusive, None)?;
        let id = write(store, exclusive)?;
        // Whoever came at the same moment sees ours, or we see theirs, for we both look after writing.
        if let Err(fault) = conflict(store, exclusive, Some(id)) {
            // The first error is the one to tell; what is left behind becomes stale with this process.
            let _ = store.backend.remove(Name::File(Kind::Lock, id));
            return Err(fault);
        }
        let state = Mutex::new(State { id, refreshed: world::uptime(), done: false });
        let shared = Arc::new(Shared { store: Arc::clone(store), exclusive, state, wake: Condvar::new() });
        let other = Arc::clone(&shared);
        let refresher = std::thread::Builder::new()
            .name("lock".into())
            .spawn(move || other.refresh_until_done())
            .map_err(|e| Fault::infrastructure("the lock of the repository cannot be kept up").cause(e));
        match refresher {
            Ok(refresher) => Ok(Self { shared, refresher: Some(refresher) }),
            Err(fault) => {
                let _ = store.backend.remove(Name::File(Kind::Lock, id));
                Err(fault)
            }
        }
    }

    /// Whether it still keeps others away; asked before every step that relies on it.
    ///
    /// Errors (4): it was removed, or could not be refreshed in time.
    pub(super) fn still_holds(&self) -> Result<(), Fault> {
        let lost = |why: &str| {
            Fault::infrastructure("the lock of the repository was lost")
                .place(self.shared.store.backend.place())
                .cause(why)
                .help("nothing was changed that others rely on; run it again")
        };
        let state = lock(&self.shared.state);
        if world::uptime().saturating_sub(state.refreshed) > DOUBTFUL {
            return Err(lost("it could not be refreshed for 25 minutes"));
        }
        match self.shared.store.backend.length(Name::File(Kind::Lock, state.id))? {
            Some(_) => Ok(()),
            None => Err(lost("somebody removed it")),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.shared.state).done = true;
        self.shared.wake.notify_all();
        if let Some(refresher) = self.refresher.take() {
            // It does not panic; if it did, the lock is removed all the same.
            let _ = refresher.join();
        }
        let id = lock(&self.shared.state).id;
        // What cannot be removed becomes stale with this process.
        let _ = self.shared.store.backend.remove(Name::File(Kind::Lock, id));
    }
}

impl Shared {
    fn refresh_until_done(&self) {
        let mut state = lock(&self.state);
        while !state.done {
            let waited = self.wake.wait_timeout_while(state, REFRESH, |state| !state.done);
            state = waited.map_or_else(|e| e.into_inner().0, |(state, _)| state);
            if state.done {
                return;
            }
            // A failure is tried again in five minutes; `still_holds` counts how long it lasts.
            let _ = self.refresh(&mut state);
        }
    }

    /// Writes the lock anew, then removes the old one.
    fn refresh(&self, state: &mut State) -> Result<(), Fault> {
        let old = std::mem::replace(&mut state.id, write(&self.store, self.exclusive)?);
        state.refreshed = world::uptime();
        self.store.backend.remove(Name::File(Kind::Lock, old))
    }
}

fn write(store: &Store, exclusive: bool) -> Result<Id, Fault> {
    let json = serde_json::to_vec(&LockInfo::own(exclusive))
        .map_err(|e| Fault::infrastructure("a lock cannot be written").cause(e))?;
    store.save(Kind::Lock, &json)
}

/// Every lock that can be read; one that is removed meanwhile is left out.
pub(super) fn list(store: &Store) -> Result<Vec<(Id, LockInfo)>, Fault> {
    let mut locks = Vec::new();
    for (id, _) in store.backend.list(Kind::Lock)? {
        let name = Name::File(Kind::Lock, id);
        let read = store.load(Kind::Lock, id).and_then(|json| {
            serde_json::from_slice(&json).map_err(|e| super::backend::damaged(&*store.backend, name, e))
        });
        match read {
            Ok(info) => locks.push((id, info)),
            Err(_) if store.backend.length(name)?.is_none() => {}
            Err(fault) => return Err(fault.help("if nobody uses the repository, remove this file")),
        }
    }
    Ok(locks)
}

fn conflict(store: &Store, exclusive: bool, own: Option<Id>) -> Result<(), Fault> {
    let (now, hostname) = (world::now(), world::host_name());
    for (id, info) in list(store)? {
        if Some(id) == own {
            continue;
        }
        if info.stale(now, &hostname) {
            // With append-only rights it stays, and counts no more all the same.
            let _ = store.backend.remove(Name::File(Kind::Lock, id));
        } else if exclusive || info.exclusive {
            return Err(Fault::refused("the repository is locked")
                .place(store.backend.place())
                .cause(format!(
                    "held {} by {}",
                    if info.exclusive { "exclusively" } else { "shared" },
                    info.holder()
                ))
                .help("wait until it is done; `unlock` removes the locks of processes that are gone"));
        }
    }
    Ok(())
}

/// Removes stale locks, or all of them; returns how many.
pub(super) fn unlock(store: &Store, all: bool) -> Result<usize, Fault> {
    let (now, hostname) = (world::now(), world::host_name());
    let mut removed = 0;
    if all {
        for (id, _) in store.backend.list(Kind::Lock)? {
            store.backend.remove(Name::File(Kind::Lock, id))?;
            removed += 1;
        }
        return Ok(removed);
    }
    for (id, info) in list(store)? {
        if info.stale(now, &hostname) {
            store.backend.remove(Name::File(Kind::Lock, id))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &std::path::Path) -> Arc<Store> {
        let backend = Arc::new(super::super::Local::new(folder));
        Arc::new(Store { backend, key: super::super::crypto::Key::random().unwrap(), version: 2 })
    }

    #[test]
    fn a_lock_is_refreshed_and_doubted_when_it_could_not_be() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let held = Held::new(&store, true).unwrap();
        let before = list(&store).unwrap();
        held.shared.refresh(&mut lock(&held.shared.state)).unwrap();
        let after = list(&store).unwrap();
        assert_eq!((before.len(), after.len()), (1, 1));
        assert!(after[0].0 != before[0].0 && after[0].1.time > before[0].1.time && after[0].1.exclusive);
        held.still_holds().unwrap();
        if let Some(long_ago) = world::uptime().checked_sub(DOUBTFUL + Duration::from_secs(1)) {
            lock(&held.shared.state).refreshed = long_ago;
            assert!(held.still_holds().unwrap_err().cause.unwrap().contains("25 minutes"));
        }
        drop(held);
        assert!(list(&store).unwrap().is_empty());
    }

    #[test]
    fn an_exclusive_lock_goes_with_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let shared = [Held::new(&store, false).unwrap(), Held::new(&store, false).unwrap()];
        assert!(Held::new(&store, true).is_err());
        drop(shared);
        let _alone = Held::new(&store, true).unwrap();
        let refused = Held::new(&store, false).unwrap_err();
        assert!(
            refused.cause.unwrap().contains(&format!("held exclusively by process {}", std::process::id()))
        );
        assert_eq!(list(&store).unwrap().len(), 1);
    }

    #[test]
    fn a_lock_is_stale_when_it_is_old_or_its_process_is_gone() {
        let own = LockInfo::own(true);
        let here = world::host_name();
        assert!(!own.stale(own.time, &here));
        let later = |minutes: i64| own.time + jiff::SignedDuration::from_mins(minutes);
        assert!(!own.stale(later(29), &here));
        assert!(own.stale(later(31), &here));
        // The highest number that a process can have is 2^22.
        let gone = LockInfo { pid: 5_000_000, ..own.clone() };
        assert!(gone.stale(own.time, &here));
        assert!(!gone.stale(own.time, "elsewhere"));
        assert!(!LockInfo { pid: 0, ..own.clone() }.stale(own.time, &here));
        assert!(!LockInfo { pid: -1, ..own.clone() }.stale(own.time, &here));
    }
}
