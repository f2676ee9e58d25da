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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, Guard, Life, Place, Put, STATE, Saved, Store, Tag};
use crate::fault::{Exit, Fault};
use crate::world::{
    self,
    clock::{Clock, Repeating},
};

const LEASE: &str = "lease.json";

/// A lease is renewed so many times in its length.
const BEATS: u32 = 4;

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

/// Who works on an environment now, as far as can be told without taking anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worker {
    /// The last one has left, or there never was one.
    Nobody,
    /// This one. Where its lease is over it is stopped, or cannot write.
    Works(Holder, Option<Over>),
    /// This one was there, and is gone without having left: killed, or its machine with it.
    Gone(Holder, Option<Over>),
}

/// Since when a lease is over, by this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over(pub jiff::Timestamp);

impl Store {
    /// Looks who works. Takes no lock and changes nothing.
    ///
    /// Errors (4): the lease cannot be read.
    pub fn worker(&self) -> Result<Worker, Fault> {
        let lease = match read(self.place.as_ref())? {
            Some((Some(lease), _)) if !lease.released => lease,
            _ => return Ok(Worker::Nobody),
        };
        let over = (lease.until_ms < self.clock.now().as_millisecond())
            .then(|| jiff::Timestamp::from_millisecond(lease.until_ms).ok().map(Over))
            .flatten();
        Ok(match (world::lives(&lease.process), over) {
            (Some(true), _) | (None, None) => Worker::Works(lease.holder, over),
            (Some(false), _) | (None, Some(_)) => Worker::Gone(lease.holder, over),
        })
    }
}

/// The right to write, renewed in the background until it is dropped.
#[derive(Debug)]
pub struct Lease {
    inner: Arc<Inner>,
    beat: Option<Repeating>,
    version: u64,
    state: Option<Tag>,
    lines: u64,
    /// Locks, where a lock of the kernel's keeps others on this machine away: its own or, where that could
    /// not be made, that of the last holder, who is gone.
    guard: Option<Guard>,
    locks: bool,
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
    /// Held while it is renewed: the heartbeat and the holder itself never do that at once. Inside is what
    /// shows others that the holder of this fencing number lives; none while that could not be made.
    renewing: Mutex<Option<Guard>>,
}

#[derive(Debug)]
struct Kept {
    written: Written,
    /// What it is written on top of: what stands there by this holder's last knowledge.
    stands: Stands,
    /// When it was renewed last, by the clock that runs on while this process or machine is stopped.
    at: Duration,
    /// When it was last seen to be still ours.
    seen: Duration,
    /// Whether another holder has it.
    lost: bool,
}

/// What stands in the place of the lease.
#[derive(Clone, Debug)]
enum Stands {
    /// This holder's own writing.
    Own(Tag),
    /// What was found there, or nothing: this holder's own could not be written yet (a full disk). It
    /// keeps a lock of the kernel's and has the lease only while nobody else has written one, which is
    /// looked up each time; whatever moves traffic forward does not count it as held.
    Before(Option<Tag>),
}

impl Stands {
    fn condition(&self) -> Condition {
        match self {
            Self::Own(tag) | Self::Before(Some(tag)) => Condition::Is(tag.clone()),
            Self::Before(None) => Condition::New,
        }
    }

    fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

/// No lease lasts longer, whatever a plan or a damaged file says: after that time somebody must be able to act.
const LONGEST: Duration = Duration::from_secs(3600);

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
        Self::take_by(store, holder, lasts, false)
    }

    /// The same for whoever takes users back: also where the place takes no writes any more (a disk that is full, or
    /// read-only). Then nobody else can write either, and whoever could again is seen at each look.
    ///
    /// Errors: those of [`Lease::take`].
    pub fn take_to_go_back<T: DeserializeOwned>(
        store: &Arc<Store>,
        holder: &Holder,
        lasts: Duration,
    ) -> Result<Held<T>, Fault> {
        Self::take_by(store, holder, lasts, true)
    }

    fn take_by<T: DeserializeOwned>(
        store: &Arc<Store>,
        holder: &Holder,
        lasts: Duration,
        goes_back: bool,
    ) -> Result<Held<T>, Fault> {
        let lasts = lasts.min(LONGEST);
        let place = store.place.as_ref();
        let clock = store.clock.as_ref();
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
                    watch(store, lease, tag)?;
                    None
                }
            },
            _ => None,
        };
        let saved = store.read::<T>()?;
        let before = found.as_ref().and_then(|(lease, _)| lease.as_ref()).map_or(0, |l| l.fence);
        let fence =
            before.max(saved.as_ref().map_or(0, |(s, _)| s.fence)).checked_add(1).ok_or_else(|| {
                Fault::infrastructure("the lease on the promote state is damaged")
                    .place(place.shown())
                    .cause("its fencing number is the greatest that there can be")
                    .help("nothing was touched; move `lease.json` away")
            })?;
        let (own, gone) = match (place.guard(fence), gone) {
            (Ok(Some(own)), _) => (Some(own), None),
            (Ok(None), _) => return Err(held(store, fence)),
            // Nothing can be written there any more. The lock of the last holder, who is gone, still
            // locks, and nothing must keep anybody from calling a release off.
            (Err(_), Some(gone)) if gone.locks() => (None, Some(gone)),
            (Err(fault), _) if goes_back => match place.guard_what_is_there(LEASE)? {
                Some(lock) => (None, Some(lock)),
                None => return Err(fault),
            },
            (Err(fault), _) => return Err(fault),
        };
        let written = Written {
            fence,
            holder: holder.clone(),
            process: world::process(),
            own: world::unique(),
            lasts_ms: millis(lasts),
            until_ms: until(clock, lasts),
            renewed: 0,
            released: false,
        };
        let before = Stands::Before(found.map(|(_, tag)| tag));
        let locks = own.iter().chain(&gone).any(Guard::locks);
        // Others count from when it is written, so its holder counts from before that.
        let asked = clock.uptime();
        let stands = match put(place, &written, &before.condition()) {
            Ok(Put::Done(tag)) => Stands::Own(tag),
            Ok(Put::Conflict) => return Err(held(store, fence)),
            Err(_) if locks => before,
            Err(fault) => return Err(fault),
        };
        let kept = Kept { written, stands, at: asked, seen: asked, lost: false };
        let inner = Arc::new(Inner {
            store: Arc::clone(store),
            lasts,
            kept: Mutex::new(kept),
            renewing: Mutex::new(own),
        });
        let beat = {
            let inner = Arc::clone(&inner);
            // Without a thread the holder renews it by itself, each time that it is asked for.
            clock.repeat("lease", lasts / BEATS, Box::new(move || inner.beat())).ok()
        };
        let mut lease = Self { inner, beat, version: 0, state: None, lines: 0, guard: gone, locks };
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
            Err(fault) if fault.exit == Exit::Infrastructure && self.locks => {}
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
        let saved = Saved { version: self.version + 1, fence: self.fence(), own: self.inner.own(), record };
        let mut value = serde_json::to_value(&saved).map_err(|e| store.unwritten(STATE, e))?;
        crate::redact::redact_json(&mut value);
        let bytes = serde_json::to_vec(&value).map_err(|e| store.unwritten(STATE, e))?;
        let condition = self.state.clone().map_or(Condition::New, Condition::Is);
        let Put::Done(tag) = store.place.put(STATE, &bytes, &condition)? else { return Ok(false) };
        self.state = Some(tag);
        self.version += 1;
        Ok(true)
    }

    /// Whether this holder has written a record.
    pub fn wrote<T>(&self, saved: &Saved<T>) -> bool {
        (saved.fence, saved.own) == (self.fence(), self.inner.own())
    }

    /// Whether what stands there is a write of this holder that was given up without an answer, and
    /// was done all the same, or nothing any more. Then the next one goes on top of it.
    fn find_own_write(&mut self) -> Result<bool, Fault> {
        let Some((saved, tag)) = self.inner.store.read::<Value>()? else {
            // It was removed, by nobody who has the lease: that is renewed, and there again where it was removed too.
            self.inner.renew(Duration::ZERO)?;
            self.inner.in_time()?;
            self.state = None;
            return Ok(true);
        };
        if !self.wrote(&saved) || self.state.as_ref() == Some(&tag) {
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
    /// left to bring traffic back. Where only the heartbeat is late, for the machine is busy, the holder
    /// renews it here and now.
    ///
    /// Errors: another job has it (5); it could not be renewed for half its length (4).
    pub fn renewed(&self) -> Result<(), Fault> {
        let inner = &self.inner;
        inner.in_time()?;
        if !inner.kept().stands.is_own() {
            inner.write_at_last()?;
            if !inner.kept().stands.is_own() {
                return Err(Fault::infrastructure("the lease on the promote state cannot be written")
                    .place(inner.store.shown())
                    .cause("what is not written is not held: nothing moves forward")
                    .help("is the disk full, or read-only? make room, and run it again"));
            }
        }
        if inner.age() < inner.lasts / 2 {
            return Ok(());
        }
        let failed = inner.renew(inner.lasts / 2).err();
        inner.in_time()?;
        let since = inner.age();
        if since < inner.lasts / 2 {
            return Ok(());
        }
        let since = crate::units::show_duration(since.as_secs_f64());
        let cause = match failed {
            Some(fault) => format!("for {since}: {}", fault.line()),
            None => format!("for {since}"),
        };
        Err(Fault::infrastructure("the lease on the promote state could not be renewed")
            .place(inner.store.shown())
            .cause(cause)
            .help("can the place be reached and written?"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // None is under way when this returns.
        self.beat = None;
        // The lock of the last holder, where this one has had it, is not needed any more.
        self.guard = None;
        let mut kept = self.inner.kept();
        if kept.lost || !kept.stands.is_own() {
            return;
        }
        kept.written.released = true;
        // One that stays ends by itself.
        let _ = self.inner.rewrite(&kept.written, &kept.stands.condition());
    }
}

impl Inner {
    /// What tells this holder from another one with the same fencing number.
    fn own(&self) -> u64 {
        self.kept().written.own
    }

    /// Whether a lease is this holder's.
    fn is_this(&self, found: &Written) -> bool {
        let kept = self.kept();
        (found.fence, found.own) == (kept.written.fence, kept.written.own)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago it was renewed.
    fn age(&self) -> Duration {
        self.store.clock.uptime().saturating_sub(self.kept().at)
    }

    /// Renews it, as its heartbeat does; nothing when it is lost.
    fn beat(&self) -> Option<Duration> {
        // A failure is tried again, and the holder sees by the time that it did not work.
        let _ = self.renew(Duration::ZERO);
        (!self.kept().lost).then_some(self.lasts / BEATS)
    }

    /// Renews it where it is as old as that, or notes that it is another job's. One that was not renewed
    /// for its whole length is lost, whoever finds that out first.
    ///
    /// Errors: it is lost (5), or cannot be written (4).
    fn renew(&self, from_age: Duration) -> Result<(), Fault> {
        let mut shown = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        self.in_time()?;
        if shown.is_none() {
            // Before anything is written that others would look for the holder of.
            let fence = self.kept().written.fence;
            *shown = self.store.place.guard(fence)?;
            if shown.is_none() {
                self.kept().lost = true;
                return Err(self.lost());
            }
        }
        let (mut next, stands) = {
            let kept = self.kept();
            (kept.written.clone(), kept.stands.clone())
        };
        if stands.is_own() && self.age() < from_age {
            return Ok(());
        }
        next.renewed += 1;
        next.until_ms = until(self.store.clock.as_ref(), self.lasts);
        let asked = self.store.clock.uptime();
        let mut done = self.rewrite(&next, &stands.condition())?;
        if done == Put::Conflict && stands.is_own() && read(self.store.place.as_ref())?.is_none() {
            // Somebody has removed it, and nobody has taken it: it is written anew, with what shows that this
            // holder lives. Whoever was faster has it.
            if let Some(guard) = shown.take() {
                guard.forget();
            }
            *shown = self.store.place.guard(next.fence)?;
            done = match &*shown {
                Some(_) => put(self.store.place.as_ref(), &next, &Condition::New)?,
                None => Put::Conflict,
            };
        }
        let mut kept = self.kept();
        match done {
            Put::Done(tag) => {
                (kept.written, kept.stands, kept.at, kept.seen) = (next, Stands::Own(tag), asked, asked);
            }
            Put::Conflict => kept.lost = true,
        }
        Ok(())
    }

    /// Writes the lease on top of what this holder wrote last; also where that was a write that was
    /// given up without an answer, and was done all the same.
    fn rewrite(&self, next: &Written, condition: &Condition) -> Result<Put, Fault> {
        let place = self.store.place.as_ref();
        match put(place, next, condition)? {
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
        let (at, unwritten) = {
            let kept = self.kept();
            (kept.at, !kept.stands.is_own())
        };
        if unwritten {
            return self.write_at_last();
        }
        if self.store.clock.uptime().saturating_sub(at) < self.lasts / 2 {
            return Ok(());
        }
        match read(self.store.place.as_ref()) {
            Ok(Some((Some(lease), _))) if !self.is_this(&lease) => {
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
            Ok(Some((Some(lease), _))) if !self.is_this(&lease) => {
                fault.cause(format!("{} has taken over", name(&lease.holder)))
            }
            _ => fault.cause(
                "it was stopped for longer than the lease lasts, or its state was moved away, and others may \
                     have taken over",
            ),
        }
        .help("this job touches nothing more; look at `promote status`")
    }

    fn still_mine(&self) -> Result<(), Fault> {
        self.in_time()?;
        let (seen, unwritten) = {
            let kept = self.kept();
            (kept.seen, !kept.stands.is_own())
        };
        if unwritten {
            return self.write_at_last();
        }
        // What was seen a moment ago need not be fetched from afar again.
        let now = self.store.clock.uptime();
        if now.saturating_sub(seen) < self.store.place.between_looks() {
            return Ok(());
        }
        match read(self.store.place.as_ref()) {
            Ok(Some((Some(lease), _))) if self.is_this(&lease) => self.kept().seen = now,
            // It was removed: traffic must still be brought back by somebody.
            Ok(None) => self.renew(Duration::ZERO)?,
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

    /// Writes a lease that could not be written before. Where that still fails, this holder has it for as
    /// long as nobody else has written one: whoever takes it must write.
    ///
    /// Errors (5): another holder has it.
    fn write_at_last(&self) -> Result<(), Fault> {
        if self.renew(Duration::ZERO).is_ok() && self.kept().stands.is_own() {
            return Ok(());
        }
        self.in_time()?;
        let before = match &self.kept().stands {
            Stands::Own(_) => return Ok(()),
            Stands::Before(tag) => tag.clone(),
        };
        match read(self.store.place.as_ref()) {
            Ok(found) if found.as_ref().map(|(_, tag)| tag) == before.as_ref() => Ok(()),
            // It was written, and only the answer said otherwise.
            Ok(Some((Some(found), tag))) if self.is_this(&found) => {
                self.kept().stands = Stands::Own(tag);
                Ok(())
            }
            // Nothing can be read any more either, and the lock of the kernel's keeps others on this
            // machine away.
            Err(fault) if fault.exit == Exit::Infrastructure => Ok(()),
            _ => {
                self.kept().lost = true;
                Err(self.lost())
            }
        }
    }

    /// Errors (5): another holder has it, or it was not renewed for as long as it lasts.
    fn in_time(&self) -> Result<(), Fault> {
        let mut kept = self.kept();
        let over = kept.stands.is_own() && self.store.clock.uptime().saturating_sub(kept.at) >= self.lasts;
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
fn watch(store: &Store, lease: &Written, tag: &Tag) -> Result<(), Fault> {
    let clock = store.clock.as_ref();
    let left = lease.until_ms.saturating_sub(clock.now().as_millisecond());
    let lasts = Duration::from_millis(lease.lasts_ms).min(LONGEST);
    // A lease that ends far in the future was written by a clock that is wrong, or ours is.
    if left > 0 && left <= i64::try_from(millis(lasts)).unwrap_or(i64::MAX).saturating_mul(2) {
        return Err(held(store, lease.fence));
    }
    let Some(until) = clock.uptime().checked_add(lasts) else { return Err(held(store, lease.fence)) };
    while clock.uptime() < until {
        if !clock.sleep((lasts / 60).clamp(Duration::from_millis(5), Duration::from_secs(60))) {
            return Err(held(store, lease.fence));
        }
        if store.place.get(LEASE)?.is_none_or(|object| object.tag != *tag) {
            return Err(held(store, lease.fence));
        }
    }
    Ok(())
}

/// How long whoever has just taken it may take to write who it is.
const INTRODUCTION: Duration = Duration::from_secs(2);

/// The refusal (5) that names who has the environment: the holder of that fencing number, or a later one.
fn held(store: &Store, fence: u64) -> Fault {
    let clock = store.clock.as_ref();
    let until = clock.uptime() + INTRODUCTION;
    let found = loop {
        match read(store.place.as_ref()) {
            Ok(Some((Some(lease), _))) if lease.fence >= fence => break Some(lease),
            Ok(_) if clock.uptime() < until && clock.sleep(Duration::from_millis(5)) => {}
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
        .place(store.place.shown())
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

fn until(clock: &dyn Clock, lasts: Duration) -> i64 {
    clock.now().as_millisecond().saturating_add(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX))
}
