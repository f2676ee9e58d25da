use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::repository::restic::backend::{Backend, Local};
use crate::repository::restic::crypto::Key;
use crate::world::clock::manual::{Machine, Time};
use crate::world::clock::{Clock, System};

/// A folder whose locks have a short lease, and that can be told to let nobody remove anything.
#[derive(Debug)]
struct Short {
    inner: Local,
    lease: Duration,
    keeps: AtomicBool,
    /// Nothing is written any more.
    silent: AtomicBool,
}

impl Backend for Short {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn prepare(&self) -> Result<(), Fault> {
        self.inner.prepare()
    }
    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        self.inner.list(kind)
    }
    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        self.inner.length(name)
    }
    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        self.inner.read(name, offset, length, into)
    }
    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        if self.silent.load(Ordering::SeqCst) {
            return Err(Fault::infrastructure("the store answers no more"));
        }
        self.inner.put(name, parts)
    }
    fn sweep(&self) -> Result<(), Fault> {
        self.inner.sweep()
    }
    fn remove(&self, name: Name) -> Result<(), Fault> {
        if self.keeps.load(Ordering::SeqCst) {
            return Err(Fault::infrastructure("denied"));
        }
        self.inner.remove(name)
    }
    fn lock_lease(&self) -> Duration {
        self.lease
    }
}

/// Somebody who uses the repository from a machine of its own.
struct Side {
    store: Arc<Store>,
    backend: Arc<Short>,
}

/// By the real clock, on this machine.
fn side(folder: &std::path::Path, lease: Duration) -> Side {
    side_by(folder, lease, System::shared(), world::process())
}

/// By a clock that jumps, on another machine: whether its process lives cannot be told from elsewhere.
fn afar(folder: &std::path::Path, machine: &Machine) -> Side {
    side_by(folder, LEASE, machine.shared(), ELSEWHERE.into())
}

const ELSEWHERE: &str = "another-boot pid:[1] 7 8";

fn side_by(folder: &std::path::Path, lease: Duration, clock: Arc<dyn Clock>, process: String) -> Side {
    let inner = Local::new(folder);
    let backend =
        Arc::new(Short { inner, lease, keeps: AtomicBool::default(), silent: AtomicBool::default() });
    let key = Key::from_bytes(&[7; 64]);
    let store = Arc::new(Store { backend: backend.clone(), key, version: 2, clock, process });
    Side { store, backend }
}

/// Leaves the lock as a holder does that dies on another machine.
fn die(side: &Side, exclusive: bool) {
    let lease = Lease {
        holder: format!("{:016x}", world::unique()),
        beat: 3,
        lasts_ms: u64::try_from(LEASE.as_millis()).unwrap(),
        process: ELSEWHERE.into(),
    };
    let info = LockInfo {
        hostname: "elsewhere".into(),
        ..LockInfo::own(exclusive, Some(lease), side.store.clock.now())
    };
    side.store.save(Kind::Lock, &serde_json::to_vec(&info).unwrap()).unwrap();
}

fn now_own(exclusive: bool, lease: Option<Lease>) -> LockInfo {
    LockInfo::own(exclusive, lease, world::now())
}

#[test]
fn a_lock_is_written_anew_and_lost_when_somebody_removed_it() {
    let folder = tempfile::tempdir().unwrap();
    let Side { store, .. } = side(folder.path(), LEASE);
    let held = Held::new(&store, true).unwrap();
    let before = list(&store).unwrap();
    held.shared.refresh(&mut lock(&held.shared.state)).unwrap();
    let after = list(&store).unwrap();
    assert_eq!((before.len(), after.len()), (1, 1));
    assert!(after[0].0 != before[0].0 && after[0].1.time > before[0].1.time && after[0].1.exclusive);
    assert!(after[0].1.follows(&before[0].1) && !before[0].1.follows(&after[0].1));
    held.still_holds().unwrap();
    unlock(&store, true).unwrap();
    assert!(held.still_holds().unwrap_err().cause.unwrap().contains("somebody removed it"));
    // It does not come back.
    assert!(held.shared.refresh(&mut lock(&held.shared.state)).is_err());
    drop(held);
    assert!(list(&store).unwrap().is_empty());
}

#[test]
fn an_exclusive_lock_goes_with_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let Side { store, .. } = side(folder.path(), LEASE);
    let shared = [Held::new(&store, false).unwrap(), Held::new(&store, false).unwrap()];
    assert!(Held::new(&store, true).is_err());
    drop(shared);
    let _alone = Held::new(&store, true).unwrap();
    let refused = Held::new(&store, false).unwrap_err();
    assert!(refused.cause.unwrap().contains(&format!("held exclusively by process {}", std::process::id())));
    assert_eq!(list(&store).unwrap().len(), 1);
}

#[test]
fn a_lock_is_stale_when_its_process_is_gone_and_without_a_lease_when_it_is_old() {
    let own = now_own(true, None);
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
    // With a lease neither an old time nor a number of another container's says anything.
    let lease =
        |process: &str| Some(Lease { holder: "x".into(), beat: 0, lasts_ms: 1, process: process.into() });
    let leased = LockInfo { lease: lease("another-boot pid:[1] 7 8"), ..gone };
    assert!(!leased.stale(later(600), &here));
    let own_space = world::process();
    let dead = own_space.rsplit_once(' ').unwrap().0.to_owned() + " 0";
    assert!(LockInfo { lease: lease(&dead), ..own.clone() }.stale(own.time, &here));
    assert!(!LockInfo { lease: lease(&own_space), ..own }.stale(later(600), &here));
}

#[test]
fn a_clock_alone_never_says_that_a_lease_is_over_but_whether_it_is_watched() {
    let lease = Lease { holder: "x".into(), beat: 0, lasts_ms: 180_000, process: String::new() };
    let own = now_own(true, Some(lease));
    let at = |seconds: i64| own.seems_over(own.time + jiff::SignedDuration::from_secs(seconds));
    assert_eq!((at(0), at(179), at(-179)), (None, None, None));
    assert_eq!((at(180), at(100_000), at(-181)), (Some(LEASE), Some(LEASE), Some(LEASE)));
    // One whose process lives on this machine is late, and not over.
    let here = Lease { process: world::process(), ..own.lease.clone().unwrap() };
    let living = LockInfo { lease: Some(here), ..own.clone() };
    assert_eq!(living.seems_over(own.time + jiff::SignedDuration::from_hours(1)), None);
    let greedy = Lease { holder: "x".into(), beat: 0, lasts_ms: u64::MAX, process: String::new() };
    assert_eq!(greedy.lasts(), LONGEST);
}

#[test]
fn the_lock_of_a_holder_that_died_elsewhere_is_gone_over_after_its_lease_and_no_sooner() {
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
    let machine = time.machine();
    let side = afar(folder.path(), &machine);
    for exclusive in [true, false] {
        die(&side, exclusive);
        time.pass(LEASE.mul_f64(0.99));
        assert!(Held::new(&side.store, true).is_err(), "it is in its time");
        time.pass(LEASE.mul_f64(0.02));
        let watched_from = machine.uptime();
        let held = Held::new(&side.store, true).unwrap();
        assert!(machine.uptime() >= watched_from + LEASE);
        assert_eq!(list(&side.store).unwrap().len(), 1, "the dead one is gone");
        drop(held);
    }
    die(&side, true);
    assert_eq!(unlock(&side.store, false).unwrap(), 0);
    time.pass(LEASE);
    assert_eq!(unlock(&side.store, false).unwrap(), 1);
}

/// A machine by whose wall clock every lease was over long ago.
fn ahead(time: &Time) -> Machine {
    time.machine_ahead(jiff::SignedDuration::from_hours(1))
}

#[test]
fn a_living_holder_is_never_gone_over_however_long_it_takes() {
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
    let (at_work, watching) = (time.machine(), ahead(&time));
    let (one, other) = (afar(folder.path(), &at_work), afar(folder.path(), &watching));
    let held = Held::new(&one.store, false).unwrap();
    while watching.uptime() < LEASE * 10 {
        assert!(Held::new(&other.store, true).is_err());
        assert_eq!(unlock(&other.store, false).unwrap(), 0);
        held.still_holds().unwrap();
    }
}

#[test]
fn a_holder_writes_its_lock_anew_by_itself_where_its_heartbeat_is_starved() {
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
    let (busy, watching) = (time.machine(), ahead(&time));
    let (one, other) = (afar(folder.path(), &busy), afar(folder.path(), &watching));
    let held = Arc::new(Held::new(&one.store, false).unwrap());
    // Of its program only the thread that works gets a processor, and it asks before each step.
    busy.stall(true);
    let works = Arc::clone(&held);
    let step = Box::new(move || works.still_holds().ok().map(|()| LEASE / 7));
    let _working = time.machine().repeat("works", LEASE / 7, step).unwrap();
    for _ in 0..4 {
        assert!(Held::new(&other.store, true).is_err());
    }
    assert!(watching.uptime() > LEASE, "more than a lease has passed without its heartbeat");
    held.still_holds().unwrap();
}

#[test]
fn on_its_own_machine_a_living_holder_is_never_gone_over_whatever_its_lock_says() {
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
    let (busy, watching) = (time.machine(), ahead(&time));
    let on = |machine: &Machine| side_by(folder.path(), LEASE, machine.shared(), world::process());
    let (one, other) = (on(&busy), on(&watching));
    let held = Held::new(&one.store, true).unwrap();
    // Neither its heartbeat nor its work gets anywhere, for an hour.
    busy.stall(true);
    time.pass(Duration::from_secs(3600));
    let refused = Held::new(&other.store, false).unwrap_err();
    assert!(refused.help.as_ref().unwrap().contains("its process is on this machine"), "{refused}");
    assert_eq!(unlock(&other.store, false).unwrap(), 0);
    held.still_holds().unwrap();
}

#[test]
fn however_long_a_holder_stalls_two_never_have_it_alone() {
    let (mut taken, mut kept) = (0, 0);
    for tenths in [1, 3, 5, 7, 9, 10, 11, 13, 18, 25] {
        let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
        let (late, watching) = (time.machine(), ahead(&time));
        let (one, other) = (afar(folder.path(), &late), afar(folder.path(), &watching));
        let held = Held::new(&one.store, true).unwrap();
        time.pass(LEASE / 20);
        late.stall(true);
        let wakes = late.clone();
        let wake = Box::new(move || {
            wakes.stall(false);
            None
        });
        let _wakes = time.machine().repeat("wakes", LEASE * tenths / 10, wake).unwrap();
        let new = Held::new(&other.store, true);
        let mine = held.still_holds();
        if let Ok(new) = &new {
            taken += 1;
            assert!(mine.is_err(), "{tenths}: two have it");
            new.still_holds().unwrap();
        } else {
            kept += 1;
            mine.unwrap();
        }
    }
    assert_eq!((taken, kept), (4, 6));
}

#[test]
fn a_holder_that_comes_too_late_finds_out_before_it_does_anything() {
    for keeps in [false, true] {
        let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
        let (late, other) = (afar(folder.path(), &time.machine()), afar(folder.path(), &ahead(&time)));
        let held = Held::new(&late.store, true).unwrap();
        late.backend.silent.store(true, Ordering::SeqCst);
        other.backend.keeps.store(keeps, Ordering::SeqCst);
        time.pass(LEASE / 2 + Duration::from_millis(1));
        let slow = held.still_holds().unwrap_err();
        assert!(slow.cause.unwrap().contains("could not be written anew in time"));
        let new = Held::new(&other.store, true).unwrap();
        late.backend.silent.store(false, Ordering::SeqCst);
        let fault = held.still_holds().unwrap_err();
        assert_eq!(fault.what, "the lock of the repository was lost", "{keeps}: {fault}");
        new.still_holds().unwrap();
        drop(held);
        new.still_holds().unwrap();
        assert_eq!(
            list(&other.store).unwrap().len(),
            1,
            "{keeps}: the late one leaves nothing, and not the other's"
        );
    }
}

#[test]
fn a_holder_that_is_late_and_was_not_gone_over_goes_on() {
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
    let side = afar(folder.path(), &time.machine());
    let held = Held::new(&side.store, true).unwrap();
    side.backend.silent.store(true, Ordering::SeqCst);
    time.pass(LEASE * 2);
    assert!(held.still_holds().is_err());
    side.backend.silent.store(false, Ordering::SeqCst);
    held.still_holds().unwrap();
}

#[test]
fn locks_that_cannot_be_removed_fail_nothing_and_become_few() {
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::default());
    let machine = time.machine();
    let side = afar(folder.path(), &machine);
    side.backend.keeps.store(true, Ordering::SeqCst);
    let held = Held::new(&side.store, false).unwrap();
    for _ in 0..8 {
        time.pass(Duration::from_millis(1));
        held.shared.refresh(&mut lock(&held.shared.state)).unwrap();
        held.still_holds().unwrap();
    }
    let state = lock(&held.shared.state);
    assert!(!state.leased && held.shared.trusted(&state) == DOUBTFUL);
    drop(state);
    let newest = list(&side.store).unwrap().into_iter().max_by_key(|(_, info)| info.time).unwrap();
    assert!(newest.1.lease.is_none(), "restic's rule holds for it");
    assert!(Held::new(&side.store, true).is_err());
    let another = Held::new(&side.store, false).unwrap();
    another.still_holds().unwrap();
    side.backend.keeps.store(false, Ordering::SeqCst);
    drop((held, another));
    Held::new(&side.store, true).unwrap();
}

#[test]
fn of_many_that_want_it_alone_never_two_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, times) = (AtomicU32::new(0), AtomicU32::new(0));
    let together = Barrier::new(12);
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (inside, times, folder, together) = (&inside, &times, folder.path(), &together);
            scope.spawn(move || {
                let side = side(folder, LEASE);
                together.wait();
                for _ in 0..4 {
                    // Every fourth wants it with others.
                    let alone = number % 4 != 0;
                    let Ok(held) = Held::new(&side.store, alone) else { continue };
                    let weight = if alone { 1000 } else { 1 };
                    let before = inside.fetch_add(weight, Ordering::SeqCst);
                    assert!(before == 0 || (!alone && before < 1000), "{before} and {weight}");
                    times.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(3));
                    held.still_holds().unwrap();
                    inside.fetch_sub(weight, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(times.into_inner() > 0);
}
