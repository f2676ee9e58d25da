//! Who may write: a lease with an expiry and a fencing number, renewed while its holder works.
//!
//! Whoever takes the lease gets the next fencing number and rewrites the record under it, so that
//! every write of an earlier holder fails from then on. A holder that was stopped and wakes up late
//! finds that out before it touches a router: its time is over by a clock that runs on while it is
//! stopped, and the lease bears another number.
//!
//! No clock of another machine is believed: a lease that seems to be over is watched for its whole
//! length first, and only one that nobody renews is taken. Where the place can tell that the holder
//! is gone (a folder: its lock of the kernel's is free) nobody waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, Guard, Life, Place, Put, STATE, Saved, Store, Tag};
use crate::fault::{Exit, Fault};
use crate::world;

const LEASE: &str = "lease.json";

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

/// `lease.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written {
    /// Rises by one with every holder.
    fence: u64,
    /// Who holds it.
    holder: Holder,
    /// Which process that is, for others on the same machine.
    process: String,
    /// By chance: no two holders write the same, wherever they run.
    #[serde(default)]
    own: u64,
    /// How long it lasts without being renewed, in ms.
    lasts_ms: u64,
    /// Until when it lasts, by the holder's wall clock, in ms.
    until_ms: i64,
    /// Rises by one with every renewal.
    renewed: u64,
    /// Whether the holder has left.
    released: bool,
}

/// The right to write, renewed in the background until it is dropped.
#[derive(Debug)]
pub struct Lease {
    inner: Arc<Inner>,
    beat: Option<std::thread::JoinHandle<()>>,
    version: u64,
    state: Option<Tag>,
    lines: u64,
    guard: Guard,
}

/// A lease that was taken, and the record as it stood then.
#[derive(Debug)]
pub struct Held<T> {
    /// The lease.
    pub lease: Lease,
    /// The record, where there is one.
    pub saved: Option<Saved<T>>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    lasts: Duration,
    kept: Mutex<Kept>,
    wake: Condvar,
    leave: AtomicBool,
}

#[derive(Debug)]
struct Kept {
    written: Written,
    /// Nothing while it could never be written (a full disk): then the lock of the kernel's counts.
    tag: Option<Tag>,
    /// When it was renewed last, by the clock that runs on while this process or machine is stopped.
    at: Duration,
    /// When it was last seen to be still ours.
    seen: Duration,
    /// Whether another holder has it.
    lost: bool,
}

impl Lease {
    /// Takes the lease, and the record under it.
    ///
    /// Errors: another job holds it (5, the holder is named); the place cannot be reached or
    /// written, or the record is damaged (4).
    pub fn take<T: DeserializeOwned>(
        store: &Arc<Store>,
        holder: &Holder,
        lasts: Duration,
    ) -> Result<Held<T>, Fault> {
        let place = store.place.as_ref();
        place.hurry(lasts);
        let found = read(place)?;
        if found.is_none() {
            place.prove()?;
        }
        let gone = match &found {
            Some((Some(lease), tag)) if !lease.released => match place.life(lease.fence)? {
                Life::Over(guard) => Some(guard),
                Life::Unknown if world::lives(&lease.process) == Some(false) => None,
                _ => {
                    watch(place, lease, tag)?;
                    None
                }
            },
            _ => None,
        };
        let saved = store.read::<T>()?;
        let before = found.as_ref().and_then(|(lease, _)| lease.as_ref()).map_or(0, |l| l.fence);
        let fence = before.max(saved.as_ref().map_or(0, |(s, _)| s.fence)) + 1;
        let guard = match (place.guard(fence), gone) {
            (Ok(Some(guard)), _) => guard,
            (Ok(None), _) => return Err(held(place, fence)),
            // Nothing can be written there any more. The lock of the last holder, who is gone, still
            // locks, and nothing must keep anybody from calling a release off.
            (Err(_), Some(gone)) if gone.locks() => gone,
            (Err(fault), _) => return Err(fault),
        };
        let written = Written {
            fence,
            holder: holder.clone(),
            process: world::process(),
            own: world::unique(),
            lasts_ms: millis(lasts),
            until_ms: until(lasts),
            renewed: 0,
            released: false,
        };
        let condition = found.map_or(Condition::New, |(_, tag)| Condition::Is(tag));
        // Others count from when it is written, so its holder counts from before that.
        let asked = world::uptime();
        let tag = match put(place, &written, &condition) {
            Ok(Put::Done(tag)) => Some(tag),
            Ok(Put::Conflict) => return Err(held(place, fence)),
            Err(_) if guard.locks() => None,
            Err(fault) => return Err(fault),
        };
        let kept = Kept { written, tag, at: asked, seen: asked, lost: false };
        let inner = Arc::new(Inner {
            store: Arc::clone(store),
            lasts,
            kept: Mutex::new(kept),
            wake: Condvar::new(),
            leave: AtomicBool::new(false),
        });
        let beat = {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name("lease".into()).spawn(move || inner.beat()).ok()
        };
        let mut lease = Self { inner, beat, version: 0, state: None, lines: 0, guard };
        let saved = lease.claim(saved)?;
        Ok(Held { lease, saved })
    }

    /// Rewrites the record under this fencing number: from then on no earlier holder can write.
    fn claim<T>(&mut self, saved: Option<(Saved<T>, Tag)>) -> Result<Option<Saved<T>>, Fault> {
        let Some((mut saved, tag)) = saved else { return Ok(None) };
        (self.version, self.state) = (saved.version, Some(tag));
        let place = self.inner.store.place.as_ref();
        let object = place.get(STATE)?;
        let value = object.and_then(|o| serde_json::from_slice::<Value>(&o.bytes).ok());
        let record = value.and_then(|mut v| v.get_mut("record").map(Value::take)).unwrap_or_default();
        match self.swap(&record) {
            Ok(()) => {}
            // Nothing can be written, and the lock of the kernel's says that no other holder lives.
            Err(fault) if fault.exit == Exit::Infrastructure && self.guard.locks() => {}
            Err(fault) => return Err(fault),
        }
        (saved.version, saved.fence) = (self.version, self.fence());
        Ok(Some(saved))
    }

    /// The state that it is about.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The fencing number.
    pub fn fence(&self) -> u64 {
        self.inner.kept().written.fence
    }

    /// The version of the record on record.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Writes the record on top of what this holder has read or written.
    ///
    /// Errors: somebody else has written meanwhile (5); it cannot be written (4).
    pub fn swap<T: Serialize>(&mut self, record: &T) -> Result<(), Fault> {
        self.inner.not_overtaken()?;
        if self.write(record)? || (self.find_own_write()? && self.write(record)?) {
            return Ok(());
        }
        Err(Fault::refused("the promote state was changed by somebody else")
            .place(self.inner.store.shown())
            .cause(format!("it is not version {} any more, which this job has read", self.version))
            .help("look at `promote status`, and run it again"))
    }

    /// Writes the record; false where something else stands there than this holder knows.
    fn write<T: Serialize>(&mut self, record: &T) -> Result<bool, Fault> {
        let store = &self.inner.store;
        let saved = Saved { version: self.version + 1, fence: self.fence(), record };
        let mut value = serde_json::to_value(&saved).map_err(|e| store.unwritten(STATE, e))?;
        crate::redact::redact_json(&mut value);
        let bytes = serde_json::to_vec(&value).map_err(|e| store.unwritten(STATE, e))?;
        let condition = self.state.clone().map_or(Condition::New, Condition::Is);
        let Put::Done(tag) = store.place.put(STATE, &bytes, &condition)? else { return Ok(false) };
        self.state = Some(tag);
        self.version += 1;
        Ok(true)
    }

    /// Whether what stands there is a write of this holder that was given up without an answer, and
    /// was done all the same. Then the next one goes on top of it.
    fn find_own_write(&mut self) -> Result<bool, Fault> {
        let Some((saved, tag)) = self.inner.store.read::<Value>()? else { return Ok(false) };
        if saved.fence != self.fence() || self.state.as_ref() == Some(&tag) {
            return Ok(false);
        }
        (self.version, self.state) = (saved.version, Some(tag));
        Ok(true)
    }

    /// Adds a line to the journal, with the fencing number in it.
    pub fn journal(&mut self, line: &Value) -> Result<(), Fault> {
        self.inner.not_overtaken()?;
        let mut line = line.clone();
        let fence = self.fence();
        if let Value::Object(entries) = &mut line {
            entries.insert("fence".into(), fence.into());
        }
        crate::redact::redact_json(&mut line);
        self.lines += 1;
        let key = format!("{fence:08}-{:08}", self.lines);
        self.inner.store.place.journal(&line.to_string(), &key)
    }

    /// Whether this job may still touch the router, looked up just now.
    ///
    /// Errors (5): it was stopped for longer than its lease lasts, or another job has the lease.
    pub fn still_mine(&self) -> Result<(), Fault> {
        self.inner.still_mine()
    }

    /// Whether the lease is renewed as it should be: a job that cannot renew it has half its length
    /// left to bring traffic back.
    ///
    /// Errors: another job has it (5); it could not be renewed for half its length (4).
    pub fn renewed(&self) -> Result<(), Fault> {
        self.inner.in_time()?;
        let kept = self.inner.kept();
        let since = world::uptime().saturating_sub(kept.at);
        if since < self.inner.lasts / 2 {
            return Ok(());
        }
        Err(Fault::infrastructure("the lease on the promote state could not be renewed")
            .place(self.inner.store.shown())
            .cause(format!("for {}", crate::units::show_duration(since.as_secs_f64())))
            .help("can the place be reached and written?"))
    }
}

impl Lease {
    pub(super) fn stop_renewing(&mut self) {
        {
            // Under the lock, or the beat could go to sleep between looking and being told.
            let _kept = self.inner.kept();
            self.inner.leave.store(true, Ordering::SeqCst);
        }
        self.inner.wake.notify_all();
        if let Some(beat) = self.beat.take() {
            let _ = beat.join();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_renewing();
        let mut kept = self.inner.kept();
        let (Some(tag), false) = (kept.tag.clone(), kept.lost) else { return };
        kept.written.released = true;
        // One that stays ends by itself.
        let _ = self.inner.rewrite(&kept.written, tag);
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews four times in each length, until it is dropped or lost.
    fn beat(&self) {
        loop {
            let kept = self.kept();
            let (kept, _) = self
                .wake
                .wait_timeout_while(kept, self.lasts / 4, |_| !self.leave.load(Ordering::SeqCst))
                .unwrap_or_else(PoisonError::into_inner);
            if self.leave.load(Ordering::SeqCst) || kept.lost {
                return;
            }
            let (mut next, tag) = (kept.written.clone(), kept.tag.clone());
            drop(kept);
            next.renewed += 1;
            next.until_ms = until(self.lasts);
            let Some(tag) = tag else { continue };
            let asked = world::uptime();
            let done = self.rewrite(&next, tag);
            let mut kept = self.kept();
            match done {
                Ok(Put::Done(tag)) => {
                    (kept.written, kept.tag, kept.at, kept.seen) = (next, Some(tag), asked, asked);
                }
                Ok(Put::Conflict) => kept.lost = true,
                // It is tried again, and the holder sees by the time that it did not work.
                Err(_) => {}
            }
        }
    }

    /// Writes the lease on top of what this holder wrote last; also where that was a write that was
    /// given up without an answer, and was done all the same.
    fn rewrite(&self, next: &Written, tag: Tag) -> Result<Put, Fault> {
        let place = self.store.place.as_ref();
        match put(place, next, &Condition::Is(tag))? {
            Put::Conflict => match read(place)? {
                Some((Some(found), tag)) if (found.fence, found.own) == (next.fence, next.own) => {
                    put(place, next, &Condition::Is(tag))
                }
                _ => Ok(Put::Conflict),
            },
            done @ Put::Done(_) => Ok(done),
        }
    }

    /// The same, looked up where it was not renewed for a while: a holder that wakes up late writes
    /// nothing, even before its renewal has failed.
    fn not_overtaken(&self) -> Result<(), Fault> {
        self.in_time()?;
        let (fence, at, unwritten) = {
            let kept = self.kept();
            (kept.written.fence, kept.at, kept.tag.is_none())
        };
        if unwritten || world::uptime().saturating_sub(at) < self.lasts / 2 {
            return Ok(());
        }
        match read(self.store.place.as_ref()) {
            Ok(Some((Some(lease), _))) if lease.fence != fence => {
                self.kept().lost = true;
                Err(self.lost())
            }
            _ => Ok(()),
        }
    }

    fn lost(&self) -> Fault {
        let fault = Fault::refused("this job has lost its lease on the environment");
        let fault = fault.place(self.store.shown());
        match read(self.store.place.as_ref()) {
            Ok(Some((Some(lease), _))) if lease.fence != self.kept().written.fence => {
                fault.cause(format!("{} has taken over", name(&lease.holder)))
            }
            _ => {
                fault.cause("it was stopped for longer than the lease lasts, and others may have taken over")
            }
        }
        .help("nothing more was touched; look at `promote status`")
    }

    fn still_mine(&self) -> Result<(), Fault> {
        self.in_time()?;
        let (fence, seen, unwritten) = {
            let kept = self.kept();
            (kept.written.fence, kept.seen, kept.tag.is_none())
        };
        if unwritten {
            return Ok(());
        }
        // What was seen a moment ago need not be fetched from afar again.
        let now = world::uptime();
        if now.saturating_sub(seen) < self.store.place.between_looks() {
            return Ok(());
        }
        match read(self.store.place.as_ref()) {
            Ok(Some((Some(lease), _))) if lease.fence == fence => self.kept().seen = now,
            // It cannot be looked up, but by the clock it may be ours.
            Err(fault) if fault.exit == Exit::Infrastructure => {}
            _ => {
                self.kept().lost = true;
                return Err(self.lost());
            }
        }
        // The look may have taken long, or this process was stopped in it.
        self.in_time()
    }

    /// Errors (5): another holder has it, or it was not renewed for as long as it lasts.
    fn in_time(&self) -> Result<(), Fault> {
        let mut kept = self.kept();
        let over = kept.tag.is_some() && world::uptime().saturating_sub(kept.at) >= self.lasts;
        kept.lost |= over;
        if !kept.lost {
            return Ok(());
        }
        drop(kept);
        Err(self.lost())
    }
}

/// A lease as it is written; none inside where it is damaged.
fn read(place: &dyn Place) -> Result<Option<(Option<Written>, Tag)>, Fault> {
    let found = place.get(LEASE)?;
    Ok(found.map(|object| (serde_json::from_slice(&object.bytes).ok(), object.tag)))
}

fn put(place: &dyn Place, written: &Written, condition: &Condition) -> Result<Put, Fault> {
    let bytes = serde_json::to_vec(written)
        .map_err(|e| Fault::infrastructure("the lease cannot be written").place(place.shown()).cause(e))?;
    place.put(LEASE, &bytes, condition)
}

/// Waits whether a lease that seems to be over is renewed, for its whole length: then its holder knows
/// by its own clock as well that its time is over.
///
/// Errors (5): it is not over, or was renewed.
fn watch(place: &dyn Place, lease: &Written, tag: &Tag) -> Result<(), Fault> {
    let left = lease.until_ms.saturating_sub(world::now().as_millisecond());
    let lasts = Duration::from_millis(lease.lasts_ms);
    // A lease that ends far in the future was written by a clock that is wrong, or ours is.
    if left > 0 && left <= i64::try_from(lease.lasts_ms).unwrap_or(i64::MAX).saturating_mul(2) {
        return Err(held(place, lease.fence));
    }
    let Some(until) = Instant::now().checked_add(lasts) else { return Err(held(place, lease.fence)) };
    while Instant::now() < until {
        if !world::signal::sleep((lasts / 20).clamp(Duration::from_millis(5), Duration::from_millis(500))) {
            return Err(held(place, lease.fence));
        }
        if place.get(LEASE)?.is_none_or(|object| object.tag != *tag) {
            return Err(held(place, lease.fence));
        }
    }
    Ok(())
}

/// How long whoever has just taken it may take to write who it is.
const INTRODUCTION: Duration = Duration::from_millis(500);

/// The refusal (5) that names who has the environment: the holder of that fencing number, or a later one.
fn held(place: &dyn Place, fence: u64) -> Fault {
    let until = Instant::now() + INTRODUCTION;
    let found = loop {
        match read(place) {
            Ok(Some((Some(lease), _))) if lease.fence >= fence => break Some(lease),
            Ok(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            _ => break None,
        }
    };
    let cause = match found {
        Some(lease) if !lease.released => {
            let until = jiff::Timestamp::from_millisecond(lease.until_ms)
                .map(|at| at.strftime("%H:%M:%S UTC").to_string())
                .unwrap_or_default();
            format!("{}; its lease is renewed, or ends at {until}", name(&lease.holder))
        }
        _ => "another job has just taken it".into(),
    };
    Fault::refused("another job holds this environment")
        .place(place.shown())
        .cause(cause)
        .help("wait for it, or call it off with `promote abort`")
}

fn name(holder: &Holder) -> String {
    let url = holder.url.as_ref().map(|u| format!(", {u}")).unwrap_or_default();
    format!(
        "{} is being promoted by {} (process {} on {}, since {}{url})",
        holder.release, holder.actor, holder.pid, holder.host, holder.since
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn until(lasts: Duration) -> i64 {
    world::now().as_millisecond().saturating_add(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX))
}

/// Watches the lease that stands there as somebody whose clock runs an hour ahead.
#[cfg(test)]
pub(super) fn watch_as_if_over(place: &dyn Place) -> Result<(), Fault> {
    let Some((Some(mut lease), tag)) = read(place)? else { return Ok(()) };
    lease.until_ms -= 3_600_000;
    watch(place, &lease, &tag)
}
