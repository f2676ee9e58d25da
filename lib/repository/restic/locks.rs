//! Locks as restic's, so that restic keeps away from us and we from it; ours with a lease in them.
//!
//! A backup or a restore holds a shared lock, whatever removes files an exclusive one. A lock is a file
//! that is written anew now and then. Whoever wants one looks, writes, and looks again, so that of two
//! at the same moment at least one sees the other.
//!
//! restic believes in a lock for thirty minutes. Ours say of themselves how soon they are written anew;
//! whoever has watched one for that long by its own clock, and saw nothing newer of the same holder, may
//! go over it. A holder that comes late writes first and then looks whether its old file is still there
//! and nobody else has come: one of the two always sees the other, and no clock of another machine is
//! believed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
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
use crate::world::{self, clock::Repeating};

/// How long a lock of ours lasts that is not written anew.
pub(super) const LEASE: Duration = Duration::from_secs(3 * 60);
/// A lock is written anew so many times in its lease.
const BEATS: u32 = 6;
/// No lease that a lock speaks of is believed to be longer.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// How often a lock without a lease is written anew.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// When a lock without a lease counts no more.
const STALE: Duration = Duration::from_secs(30 * 60);
/// From here on we no longer trust our own lock without a lease: others will soon not either.
const DOUBTFUL: Duration = Duration::from_secs(25 * 60);
/// When so many of our old locks cannot be removed, new ones are written more seldom, without a lease.
const LEFT: usize = 3;
/// So often somebody who came at the same moment is given another chance.
const MEETINGS: u32 = 4;

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
    /// How soon it is written anew; restic passes over this, and its own locks have none.
    #[serde(default, rename = "trapkey", skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

/// What one of our locks says beyond what restic's do.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Lease {
    /// By chance; stays the same while one holder writes its lock anew.
    pub holder: String,
    /// Rises by one each time.
    pub beat: u64,
    /// How long it lasts without being written anew, in ms.
    pub lasts_ms: u64,
    /// Which process that is, for others on the same machine.
    pub process: String,
}

impl Lease {
    fn lasts(&self) -> Duration {
        Duration::from_millis(self.lasts_ms).min(LONGEST)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl LockInfo {
    fn own(exclusive: bool, lease: Option<Lease>, time: Timestamp) -> Self {
        Self {
            time,
            exclusive,
            hostname: world::host_name(),
            username: people::own_name(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            lease,
        }
    }

    /// Whether it counts no more, as can be told at this moment on this machine. One with a lease may
    /// be over all the same; that takes watching.
    pub fn stale(&self, now: Timestamp, hostname: &str) -> bool {
        if let Some(lease) = &self.lease {
            return world::lives(&lease.process) == Some(false);
        }
        let age = now.duration_since(self.time);
        if age > jiff::SignedDuration::try_from(STALE).unwrap_or_default() {
            return true;
        }
        let own = self.pid > 0 && self.hostname == hostname;
        let Some(pid) = own.then(|| Pid::from_raw(self.pid)).flatten() else { return false };
        test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    }

    /// How long it has to be watched before it may be gone over; none while it is in its time, has no
    /// lease, or its process lives on this machine. One from far in the future was written by a clock that is wrong, or ours is.
    fn seems_over(&self, now: Timestamp) -> Option<Duration> {
        let lease = self.lease.as_ref()?;
        // Its process is there, and only late: this machine is busy, or somebody has stopped it.
        if world::lives(&lease.process) == Some(true) {
            return None;
        }
        let lasts = lease.lasts();
        let length = jiff::SignedDuration::try_from(lasts).unwrap_or_default();
        let left = length - now.duration_since(self.time);
        (left <= jiff::SignedDuration::ZERO || left > length * 2).then_some(lasts)
    }

    /// Whether the same holder wrote this after the other one.
    fn follows(&self, other: &Self) -> bool {
        match (&self.lease, &other.lease) {
            (Some(new), Some(old)) => new.holder == old.holder && new.beat > old.beat,
            _ => false,
        }
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
    refresher: Option<Repeating>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    exclusive: bool,
    /// What tells this holder from all others.
    holder: String,
    lasts: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    id: Id,
    beat: u64,
    /// When it was written, counted from before that, by the clock that goes on while the machine
    /// sleeps.
    refreshed: Duration,
    /// Whether what was written last has a lease.
    leased: bool,
    /// Files of ours that could not be removed yet.
    left: Vec<Id>,
    /// Whether a write was given up that may have been done all the same.
    unsure: bool,
    lost: Option<&'static str>,
}

impl Held {
    /// Locks the repository. Where locks of others are over and only nobody has said so, they are
    /// watched first, for some minutes.
    ///
    /// Errors: refused (5) when somebody else holds a lock that does not go with it, with the holder's
    /// name.
    pub(super) fn new(store: &Arc<Store>, exclusive: bool) -> Result<Self, Fault> {
        let shared = Shared {
            store: Arc::clone(store),
            exclusive,
            holder: format!("{:016x}{:016x}", world::unique(), world::unique()),
            lasts: store.backend.lock_lease(),
            state: Mutex::new(State {
                id: Id::of(b""),
                beat: 0,
                refreshed: Duration::ZERO,
                leased: true,
                left: Vec::new(),
                unsure: false,
                lost: None,
            }),
        };
        shared.acquire()?;
        let shared = Arc::new(shared);
        let other = Arc::clone(&shared);
        let refresher = store
            .clock
            .repeat("lock", shared.lasts / BEATS, Box::new(move || other.beat()))
            .map_err(|e| Fault::infrastructure("the lock of the repository cannot be kept up").cause(e));
        let mut held = Self { shared, refresher: None };
        held.refresher = Some(refresher?);
        Ok(held)
    }

    /// Whether it still keeps others away; asked before every step that relies on it, and answered
    /// from the store.
    ///
    /// Errors (4): it was removed, gone over, or could not be written anew in time.
    pub(super) fn still_holds(&self) -> Result<(), Fault> {
        let shared = &*self.shared;
        let mut state = lock(&shared.state);
        // A look may take so long that what it saw is old.
        for _ in 0..3 {
            if state.lost.is_none() && shared.age(&state) > shared.trusted(&state) {
                shared.refresh(&mut state).map_err(|fault| match state.lost {
                    Some(_) => fault,
                    None => shared
                        .lost("it could not be written anew in time, and others may have come")
                        .help(format!("nothing was changed that others rely on; {}", fault.line())),
                })?;
            }
            if let Some(why) = state.lost {
                return Err(shared.lost(why));
            }
            if shared.store.backend.length(Name::File(Kind::Lock, state.id))?.is_none() {
                state.lost = Some(REMOVED);
            } else if shared.age(&state) <= shared.trusted(&state) {
                return Ok(());
            }
        }
        Err(shared.lost(state.lost.unwrap_or("the store is too slow to keep it up")))
    }
}

const REMOVED: &str = "somebody removed it";
const OVERTAKEN: &str = "it could not be written anew in time, and somebody else has locked the repository";

impl Drop for Held {
    fn drop(&mut self) {
        // None is under way when this returns.
        self.refresher = None;
        let (state, store) = (lock(&self.shared.state), &self.shared.store);
        let mut ours: Vec<Id> = state.left.iter().copied().chain([state.id]).collect();
        if state.unsure {
            let own = |info: &LockInfo| info.lease.as_ref().is_some_and(|l| l.holder == self.shared.holder);
            let found = list(store).unwrap_or_default().into_iter();
            ours.extend(found.filter(|(_, info)| own(info)).map(|(id, _)| id));
        }
        for id in ours {
            // What cannot be removed becomes stale with this process.
            let _ = store.backend.remove(Name::File(Kind::Lock, id));
        }
    }
}

impl Shared {
    /// Looks, writes, and looks again.
    fn acquire(&self) -> Result<(), Fault> {
        let mut look = Look::new(&self.store, self.exclusive, &self.holder);
        let mut met = 0;
        loop {
            look.go_over_dead()?;
            let mut state = lock(&self.state);
            let asked = self.store.clock.uptime();
            (state.id, state.refreshed) = (self.write(state.beat)?, asked);
            // Whoever came at the same moment sees ours, or we see theirs, for both look after writing.
            let conflicts = look.conflicts();
            if conflicts.as_ref().is_ok_and(Vec::is_empty) {
                return Ok(());
            }
            // The first error is the one to tell; what is left behind becomes stale with this process.
            if self.store.backend.remove(Name::File(Kind::Lock, state.id)).is_err() {
                let left = state.id;
                state.left.push(left);
            }
            state.beat += 1;
            drop(state);
            met += 1;
            if let Some((_, other)) = conflicts?.first()
                && (met > MEETINGS
                    || !self.store.clock.sleep(Duration::from_millis(20 + world::unique() % 400)))
            {
                return Err(refused(&self.store, other));
            }
        }
    }

    fn write(&self, beat: u64) -> Result<Id, Fault> {
        self.write_info(&self.info(Some(self.lease(beat))))
    }

    fn lease(&self, beat: u64) -> Lease {
        let lasts_ms = u64::try_from(self.lasts.as_millis()).unwrap_or(u64::MAX);
        Lease { holder: self.holder.clone(), beat, lasts_ms, process: self.store.process.clone() }
    }

    fn info(&self, lease: Option<Lease>) -> LockInfo {
        LockInfo::own(self.exclusive, lease, self.store.clock.now())
    }

    fn age(&self, state: &State) -> Duration {
        self.store.clock.uptime().saturating_sub(state.refreshed)
    }

    fn write_info(&self, info: &LockInfo) -> Result<Id, Fault> {
        let json = serde_json::to_vec(info)
            .map_err(|e| Fault::infrastructure("a lock cannot be written").cause(e))?;
        self.store.save(Kind::Lock, &json)
    }

    /// For how long nobody else can have gone over what was written last, with room for one step.
    fn trusted(&self, state: &State) -> Duration {
        if state.leased { self.lasts / 2 } else { DOUBTFUL }
    }

    fn lost(&self, why: &str) -> Fault {
        Fault::infrastructure("the lock of the repository was lost")
            .place(self.store.backend.place())
            .cause(why)
            .help("nothing was changed that others rely on; run it again")
    }

    /// Writes the lock anew; gives the time to the next, and nothing when it is lost.
    fn beat(&self) -> Option<Duration> {
        let mut state = lock(&self.state);
        if state.lost.is_none() {
            // A failure is tried again; `still_holds` counts how long it lasts.
            let _ = self.refresh(&mut state);
        }
        let every = if state.leased { self.lasts / BEATS } else { REFRESH };
        state.lost.is_none().then_some(every)
    }

    /// Writes the lock anew, sees whether it still counts, then removes the old one.
    ///
    /// Errors (4): the lock was lost, or cannot be written.
    fn refresh(&self, state: &mut State) -> Result<(), Fault> {
        let asked = self.store.clock.uptime();
        let trusted = self.trusted(state);
        state.beat += 1;
        let lease = (state.left.len() <= LEFT).then(|| self.lease(state.beat));
        let leased = lease.is_some();
        let written = self.write_info(&self.info(lease));
        let new = written.inspect_err(|_| state.unsure = true)?;
        let old = std::mem::replace(&mut state.id, new);
        state.left.push(old);
        // Whoever has gone over the old one has removed it before, or will see the new one.
        if self.store.backend.length(Name::File(Kind::Lock, old))?.is_none() {
            state.lost = Some(REMOVED);
        } else if self.age(state) > trusted {
            let mut look = Look::new(&self.store, self.exclusive, &self.holder);
            look.ours.clone_from(&state.left);
            look.ours.push(new);
            if !look.conflicts()?.is_empty() {
                state.lost = Some(OVERTAKEN);
            }
        }
        if let Some(why) = state.lost {
            let _ = self.store.backend.remove(Name::File(Kind::Lock, new));
            return Err(self.lost(why));
        }
        (state.refreshed, state.leased) = (asked, leased);
        // With rights that do not reach for it they stay, and count no more after a while.
        state.left.retain(|id| self.store.backend.remove(Name::File(Kind::Lock, *id)).is_err());
        Ok(())
    }
}

/// Somebody who looks at the locks of others.
struct Look<'a> {
    store: &'a Store,
    exclusive: bool,
    holder: &'a str,
    /// Locks without a lease that are ours.
    ours: Vec<Id>,
    /// Locks never change, so each is read once.
    known: HashMap<Id, LockInfo>,
    /// Holders that were watched, up to which beat.
    dead: HashMap<String, u64>,
}

impl<'a> Look<'a> {
    fn new(store: &'a Store, exclusive: bool, holder: &'a str) -> Self {
        Self { store, exclusive, holder, ours: Vec::new(), known: HashMap::new(), dead: HashMap::new() }
    }

    /// The locks that ours does not go with; removes those that count no more.
    fn conflicts(&mut self) -> Result<Vec<(Id, LockInfo)>, Fault> {
        let locks = read(self.store, &mut self.known)?;
        let (now, hostname) = (self.store.clock.now(), host(self.store));
        let mut conflicts = Vec::new();
        for (id, info) in &locks {
            let lease = info.lease.as_ref();
            let own = self.ours.contains(id) || lease.is_some_and(|lease| lease.holder == self.holder);
            // Its holder has written a newer one, and that is what counts.
            let old = locks.iter().any(|(_, other)| other.follows(info));
            let dead = lease.is_some_and(|l| self.dead.get(&l.holder).is_some_and(|beat| l.beat <= *beat));
            if own || old {
                continue;
            }
            if dead || info.stale(now, &hostname) {
                // With append-only rights it stays, and counts no more all the same.
                let _ = self.store.backend.remove(Name::File(Kind::Lock, *id));
            } else if self.exclusive || info.exclusive {
                conflicts.push((*id, info.clone()));
            }
        }
        Ok(conflicts)
    }

    /// Watches the locks that seem to be over, each for its whole lease.
    ///
    /// Errors: refused (5) when one is in its time, or is written anew.
    fn go_over_dead(&mut self) -> Result<(), Fault> {
        loop {
            let watched = self.conflicts()?;
            let clock = &self.store.clock;
            let seen = clock.uptime();
            if watched.is_empty() {
                return Ok(());
            }
            let mut longest = Duration::ZERO;
            for (_, info) in &watched {
                let lasts = info.seems_over(clock.now()).ok_or_else(|| refused(self.store, info))?;
                longest = longest.max(lasts);
            }
            let pause = (longest / 20).clamp(Duration::from_millis(20), Duration::from_secs(5));
            while clock.uptime() < seen + longest {
                if !clock.sleep(pause) {
                    return Err(refused(self.store, &watched[0].1));
                }
                let now = self.conflicts()?;
                if let Some((_, alive)) = now.iter().find(|(id, _)| watched.iter().all(|(w, _)| w != id)) {
                    return Err(refused(self.store, alive));
                }
                if now.is_empty() {
                    break;
                }
            }
            if clock.uptime() >= seen + longest {
                let leases = watched.into_iter().filter_map(|(_, info)| info.lease);
                self.dead.extend(leases.map(|lease| (lease.holder, lease.beat)));
            }
        }
    }
}

/// The name of this machine, where the processes of a lock can be looked at; elsewhere machines may
/// have the same name.
fn host(store: &Store) -> String {
    if store.backend.remote() { String::new() } else { world::host_name() }
}

fn refused(store: &Store, info: &LockInfo) -> Fault {
    let help = match &info.lease {
        Some(lease) if world::lives(&lease.process) == Some(true) => {
            "wait until it is done; its process is on this machine, and ending it ends the lock"
        }
        Some(_) => "wait until it is done; one that died counts no more after some minutes",
        None => "wait until it is done; `unlock` removes the locks of processes that are gone",
    };
    Fault::refused("the repository is locked")
        .place(store.backend.place())
        .cause(format!("held {} by {}", if info.exclusive { "exclusively" } else { "shared" }, info.holder()))
        .help(help)
}

/// Every lock that can be read; one that is removed meanwhile is left out.
pub(super) fn list(store: &Store) -> Result<Vec<(Id, LockInfo)>, Fault> {
    read(store, &mut HashMap::new())
}

fn read(store: &Store, known: &mut HashMap<Id, LockInfo>) -> Result<Vec<(Id, LockInfo)>, Fault> {
    let mut locks = Vec::new();
    for (id, _) in store.backend.list(Kind::Lock)? {
        if let Some(info) = known.get(&id) {
            locks.push((id, info.clone()));
            continue;
        }
        let name = Name::File(Kind::Lock, id);
        let read = store.load(Kind::Lock, id).and_then(|json| {
            serde_json::from_slice(&json).map_err(|e| super::backend::damaged(&*store.backend, name, e))
        });
        match read {
            Ok(info) => {
                known.insert(id, info);
                locks.push((id, known[&id].clone()));
            }
            Err(_) if store.backend.length(name)?.is_none() => {}
            Err(fault) => return Err(fault.help("if nobody uses the repository, remove this file")),
        }
    }
    Ok(locks)
}

/// Removes stale locks, or all of them; returns how many. Locks that seem to be over are watched
/// first.
pub(super) fn unlock(store: &Store, all: bool) -> Result<usize, Fault> {
    let mut removed = 0;
    if all {
        for (id, _) in store.backend.list(Kind::Lock)? {
            store.backend.remove(Name::File(Kind::Lock, id))?;
            removed += 1;
        }
        return Ok(removed);
    }
    let (now, hostname) = (store.clock.now(), host(store));
    let mut over = Vec::new();
    let locks = list(store)?;
    for (id, info) in &locks {
        let old = locks.iter().any(|(_, other)| other.follows(info));
        if old || info.stale(now, &hostname) {
            store.backend.remove(Name::File(Kind::Lock, *id))?;
            removed += 1;
        } else if let Some(lasts) = info.seems_over(now) {
            over.push((*id, info, lasts));
        }
    }
    let Some(longest) = over.iter().map(|(.., lasts)| *lasts).max() else { return Ok(removed) };
    if !store.clock.sleep(longest) {
        return Ok(removed);
    }
    let after = list(store)?;
    for (id, info, _) in over {
        let there = after.iter().any(|(other, _)| *other == id);
        if there && !after.iter().any(|(_, other)| other.follows(info)) {
            store.backend.remove(Name::File(Kind::Lock, id))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
