//! The rules of the state, the same over a folder and over a bucket of a real S3 server.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::fault::Exit;
use crate::world::clock::manual::{Machine, Time};

#[path = "../../tests/support/s3.rs"]
#[expect(dead_code, reason = "the tests of the binaries use more of it")]
mod server;

/// A place, and how a test looks into it past the rules.
enum Spot {
    Folder(tempfile::TempDir),
    Bucket(server::Bucket),
}

impl Spot {
    fn place(&self) -> Box<dyn Place> {
        match self {
            Self::Folder(root) => Box::new(folder::Folder::new(root.path(), "production")),
            Self::Bucket(bucket) => {
                let variables = server::Bucket::variables(bucket.port());
                let variable =
                    |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
                let inside = format!("{}/a/b", bucket.name);
                let access = Access::read(variable).unwrap();
                Box::new(bucket::Bucket::new(&inside, "production", &access).unwrap())
            }
        }
    }

    fn store(&self) -> Arc<Store> {
        self.store_on(&Time::default().machine())
    }

    /// As a job on that machine sees it.
    fn store_on(&self, machine: &Machine) -> Arc<Store> {
        Arc::new(Store::by(self.place(), machine.shared()))
    }

    /// Everything that lies there, in any depth.
    fn names(&self) -> Vec<String> {
        fn below(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                found.push(entry.path().display().to_string());
                if entry.path().is_dir() {
                    below(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        match self {
            Self::Folder(root) => below(root.path(), &mut found),
            Self::Bucket(bucket) => found = bucket.keys(),
        }
        found.sort();
        found
    }

    fn write(&self, name: &str, text: &str) {
        match self {
            Self::Folder(root) => fs::write(root.path().join("production").join(name), text).unwrap(),
            Self::Bucket(bucket) => bucket.put(&format!("a/b/production/{name}"), text.as_bytes()),
        }
    }

    fn read(&self, name: &str) -> String {
        let bytes = match self {
            Self::Folder(root) => fs::read(root.path().join("production").join(name)).unwrap(),
            Self::Bucket(bucket) => bucket.get(&format!("a/b/production/{name}")).unwrap(),
        };
        String::from_utf8(bytes).unwrap()
    }
}

/// Every rule over every place.
macro_rules! over_all {
    ($($rule:ident)*) => {
        mod in_a_folder {
            $(#[test] fn $rule() { super::$rule(&super::Spot::Folder(tempfile::tempdir().unwrap())); })*
        }
        mod in_a_bucket {
            $(#[test] fn $rule() { super::$rule(&super::Spot::Bucket(super::server::Bucket::new())); })*
        }
    };
}

over_all! {
    a_second_holder_is_refused_and_told_who_the_first_is
    a_write_on_an_old_version_is_refused_and_changes_nothing
    a_holder_that_was_stopped_can_do_nothing_when_it_wakes_up_late
    a_lease_that_is_renewed_is_not_taken_by_a_clock_that_runs_ahead
    a_state_that_was_lost_is_written_anew_by_its_holder_or_taken_and_never_both
    a_holder_renews_by_itself_where_its_heartbeat_is_starved
    however_long_a_holder_stalls_two_never_have_it
    a_state_cut_short_is_named_and_left_alone
    an_abort_counts_for_its_own_epoch_only
    of_racing_writers_one_wins
    an_own_write_whose_answer_was_lost_is_built_upon
    documents_are_kept_and_listed
    changes_of_a_small_document_from_many_sides_are_all_there_in_the_end
    a_damaged_small_document_is_named_and_left_alone
    a_request_is_taken_back_only_where_it_still_is_the_one_that_was_meant
    a_request_that_comes_late_is_not_put_in_the_place_of_a_newer_one
    trying_whether_one_may_write_leaves_nothing_behind
}

/// By clocks that jump: a sixth of it is what the store may take to answer, by the real one.
const LASTS: Duration = Duration::from_secs(60);

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

fn take(store: &Arc<Store>, release: &str) -> Result<Held<String>, crate::fault::Fault> {
    Lease::take::<String>(store, &holder(release), LASTS)
}

fn a_second_holder_is_refused_and_told_who_the_first_is(spot: &Spot) {
    let time = Time::default();
    let store = spot.store_on(&time.machine());
    let first = take(&store, "shop 1.4.2").unwrap();
    let refused = take(&store, "shop 1.4.3").unwrap_err();
    assert_eq!(refused.exit, Exit::Refused);
    let cause = refused.cause.unwrap_or_default();
    assert!(cause.contains("shop 1.4.2 is being promoted by ci (process 7 on h"), "{cause}");
    // It is renewed for as long as it is held.
    time.pass(LASTS * 3);
    assert!(take(&store, "shop 1.4.3").is_err());
    first.lease.renewed().unwrap();
    drop(first);
    let given_back = store.clock.uptime();
    let second = take(&store, "shop 1.4.3").unwrap();
    assert_eq!(store.clock.uptime(), given_back, "one that was given back is free at once");
    assert_eq!(second.lease.fence(), 2);
}

fn a_write_on_an_old_version_is_refused_and_changes_nothing(spot: &Spot) {
    let store = spot.store();
    let mut lease = take(&store, "a").unwrap().lease;
    lease.swap(&"a").unwrap();
    lease.swap(&"b").unwrap();
    assert_eq!(store.load::<String>().unwrap().map(|s| (s.version, s.record)), Some((2, "b".into())));
    spot.write("state.json", "{\"version\": 9, \"record\": \"c\"}");
    assert_eq!(lease.swap(&"d").unwrap_err().exit, Exit::Refused);
    assert_eq!(store.load::<String>().unwrap().map(|s| s.record), Some("c".into()));
}

fn a_holder_that_was_stopped_can_do_nothing_when_it_wakes_up_late(spot: &Spot) {
    let time = Time::default();
    let (late, other) = (time.machine(), time.machine());
    let (its, store) = (spot.store_on(&late), spot.store_on(&other));
    let mut old = take(&its, "old").unwrap().lease;
    old.swap(&"old").unwrap();
    late.stall(true);
    assert_eq!(take(&store, "new").unwrap_err().exit, Exit::Refused, "its lease is not over yet");
    time.pass(LASTS + Duration::from_millis(1));
    let watched_from = other.uptime();
    let mut new = take(&store, "new").unwrap();
    assert!(other.uptime() >= watched_from + LASTS, "it was watched for its whole length");
    assert_eq!((new.lease.fence(), new.saved.map(|s| s.record)), (2, Some("old".into())));
    late.stall(false);
    time.pass(Duration::ZERO);
    assert_eq!(old.swap(&"late").unwrap_err().exit, Exit::Refused);
    let told = old.still_mine().unwrap_err();
    assert!(told.to_string().contains("new is being promoted by ci"), "{told}");
    assert!(old.journal(&serde_json::json!({})).is_err());
    new.lease.swap(&"new").unwrap();
    drop(old);
    assert_eq!(store.load::<String>().unwrap().map(|s| (s.fence, s.record)), Some((2, "new".into())));
    assert!(take(&store, "third").is_err(), "the late one must not give back what is not its own");
}

#[test]
fn a_lease_that_says_that_it_lasts_for_ever_is_over_after_an_hour() {
    // In a folder the lock of the kernel's tells that its holder is gone.
    let spot = Spot::Bucket(server::Bucket::new());
    let time = Time::default();
    let machine = time.machine();
    drop(take(&spot.store_on(&machine), "old").unwrap());
    let mut lease: serde_json::Value = serde_json::from_str(&spot.read("lease.json")).unwrap();
    (lease["lasts_ms"], lease["released"]) = (u64::MAX.into(), false.into());
    lease["process"] = "another machine 1 1".into();
    for until_ms in [0, i64::MAX] {
        lease["until_ms"] = until_ms.into();
        spot.write("lease.json", &lease.to_string());
        let began = machine.uptime();
        let taken = take(&spot.store_on(&machine), "new").unwrap();
        let watched = machine.uptime().saturating_sub(began);
        let hour = Duration::from_secs(3600);
        assert!((hour..=hour + LASTS).contains(&watched), "{until_ms}: {watched:?}");
        drop(taken);
    }
}

/// A machine whose clock is an hour ahead: by it, every lease was over long ago.
fn ahead(time: &Time) -> Machine {
    time.machine_ahead(SignedDuration::from_hours(1))
}

fn a_lease_that_is_renewed_is_not_taken_by_a_clock_that_runs_ahead(spot: &Spot) {
    let time = Time::default();
    let first = take(&spot.store_on(&time.machine()), "first").unwrap();
    let other = ahead(&time);
    for _ in 0..3 {
        let began = other.uptime();
        let refused = take(&spot.store_on(&other), "second").unwrap_err();
        assert_eq!(refused.exit, Exit::Refused);
        assert!(other.uptime() <= began + LASTS / 4 + LASTS / 20, "the first renewal is enough");
    }
    first.lease.renewed().unwrap();
}

fn a_state_that_was_lost_is_written_anew_by_its_holder_or_taken_and_never_both(spot: &Spot) {
    let time = Time::default();
    let lose = |spot: &Spot| {
        let store = spot.store();
        for name in ["lease.json", STATE, "journal.jsonl", "lock.1", "lock.2"] {
            store.place.remove(name).unwrap();
        }
    };
    let mut first = take(&spot.store_on(&time.machine()), "first").unwrap().lease;
    first.swap(&"first").unwrap();
    lose(spot);
    // Nobody else has come: it goes on, and is there for all to see.
    first.still_mine().unwrap();
    first.swap(&"again").unwrap();
    assert!(take(&spot.store_on(&time.machine()), "second").is_err());
    assert_eq!(spot.store().load::<String>().unwrap().unwrap().record, "again");
    lose(spot);
    // Somebody has come, with the same number: that one has it.
    let mut second = take(&spot.store_on(&time.machine()), "second").unwrap().lease;
    assert_eq!(first.fence(), second.fence());
    second.swap(&"second").unwrap();
    // Before any heartbeat has found it out, by the holder's own word alone.
    assert_eq!(first.swap(&"late").unwrap_err().exit, Exit::Refused);
    assert_eq!(spot.store().load::<String>().unwrap().unwrap().record, "second");
    if matches!(spot, Spot::Folder(_)) {
        assert_eq!(first.still_mine().unwrap_err().exit, Exit::Refused);
    }
    time.pass(LASTS / 2);
    assert_eq!(first.still_mine().unwrap_err().exit, Exit::Refused);
    assert!(first.journal(&serde_json::json!({})).is_err());
    drop(first);
    second.still_mine().unwrap();
    second.swap(&"still").unwrap();
    assert_eq!(spot.store().load::<String>().unwrap().unwrap().record, "still");
}

fn a_holder_renews_by_itself_where_its_heartbeat_is_starved(spot: &Spot) {
    let time = Time::default();
    let (busy, other) = (time.machine(), ahead(&time));
    let mut first = take(&spot.store_on(&busy), "first").unwrap().lease;
    first.swap(&"first").unwrap();
    // Of this program only the thread that works gets a processor, and it asks now and then.
    busy.stall(true);
    let first = Arc::new(Mutex::new(first));
    let works = Arc::clone(&first);
    let asks = LASTS / 5;
    let work = Box::new(move || works.lock().unwrap().renewed().ok().map(|()| asks));
    let _working = time.machine().repeat("works", asks, work).unwrap();
    for _ in 0..3 {
        assert!(take(&spot.store_on(&other), "second").is_err());
    }
    assert!(other.uptime() > LASTS, "more than a lease has passed without its heartbeat");
    first.lock().unwrap().swap(&"still").unwrap();
}

fn however_long_a_holder_stalls_two_never_have_it(spot: &Spot) {
    let (mut taken, mut kept) = (0, 0);
    for tenths in [2, 5, 7, 9, 11, 16, 22] {
        let time = Time::default();
        let (late, other) = (time.machine(), ahead(&time));
        let mut old = take(&spot.store_on(&late), "old").unwrap().lease;
        time.pass(LASTS / 10);
        late.stall(true);
        // Its own clock lets it come back after so long, whatever others do meanwhile.
        let wakes = late.clone();
        let wake = Box::new(move || {
            wakes.stall(false);
            None
        });
        let _wakes = time.machine().repeat("wakes", LASTS * tenths / 10, wake).unwrap();
        let new = take(&spot.store_on(&other), "new");
        let (mine, wrote) = (old.still_mine(), old.swap(&"old"));
        if let Ok(new) = new {
            taken += 1;
            assert!(mine.is_err() && wrote.is_err(), "{tenths}: two have it");
            new.lease.still_mine().unwrap();
        } else {
            kept += 1;
            assert!(mine.is_ok() && wrote.is_ok(), "{tenths}: {mine:?} {wrote:?}");
        }
    }
    assert!(taken == 4 && kept == 3, "{taken} were taken and {kept} kept");
}

fn a_state_cut_short_is_named_and_left_alone(spot: &Spot) {
    let store = spot.store();
    take(&store, "a").unwrap().lease.swap(&"abcdef").unwrap();
    spot.write("state.json", "{\"version\": 1, \"rec");
    assert!(store.load::<String>().unwrap_err().what.contains("damaged"));
    assert!(take(&store, "b").unwrap_err().what.contains("damaged"));
    assert_eq!(spot.read("state.json"), "{\"version\": 1, \"rec");
    // A lease that is cut short holds nobody up, for its holder is gone.
    spot.write("state.json", "{\"version\": 1, \"fence\": 4, \"record\": \"x\"}");
    spot.write("lease.json", "{\"fence\"");
    assert_eq!(take(&store, "c").unwrap().lease.fence(), 5);
}

fn an_abort_counts_for_its_own_epoch_only(spot: &Spot) {
    let store = spot.store();
    let asked = Asked { epoch: 3, promotion: Some("a".into()), who: "ann".into(), at: "t".into(), why: None };
    store.ask(Ask::Abort, &asked).unwrap();
    assert_eq!(store.asked(Ask::Abort, 3, None), Some(asked.clone()));
    assert_eq!(store.asked(Ask::Abort, 3, Some("a")), Some(asked));
    assert_eq!(store.asked(Ask::Abort, 3, Some("b")), None, "another one of the same number");
    assert_eq!(store.asked(Ask::Abort, 4, None), None);
    store.forget(Ask::Abort).unwrap();
    assert_eq!(store.asked(Ask::Abort, 3, None), None);
    spot.write("abort.json", "{");
    assert!(spot.store().asked(Ask::Abort, 4, None).is_some());
}

fn of_racing_writers_one_wins(spot: &Spot) {
    spot.store().keep("anything", b"the folder is there").unwrap();
    for round in 0..10 {
        let name = format!("race-{round}.json");
        for condition in [Condition::New, Condition::Is(Tag(String::new()))] {
            let condition = match condition {
                Condition::Is(_) => Condition::Is(spot.place().get(&name).unwrap().unwrap().tag),
                other => other,
            };
            let together = std::sync::Barrier::new(8);
            let write = |number: usize| {
                let (place, bytes) = (spot.place(), format!("{condition:?} {number}"));
                together.wait();
                place.put(&name, bytes.as_bytes(), &condition).unwrap() != Put::Conflict
            };
            let write = &write;
            let won = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|number| scope.spawn(move || write(number))).collect();
                all.into_iter().map(|one| usize::from(one.join().unwrap())).sum::<usize>()
            });
            assert_eq!(won, 1, "{condition:?}");
        }
    }
}

fn an_own_write_whose_answer_was_lost_is_built_upon(spot: &Spot) {
    let store = spot.store();
    let mut lease = take(&store, "a").unwrap().lease;
    lease.swap(&"first").unwrap();
    // What this holder wrote, and was never told that it was done.
    let own = store.load::<String>().unwrap().unwrap().own;
    let unanswered = Saved { version: 2, fence: 1, own, record: "unanswered" };
    spot.write("state.json", &serde_json::to_string(&unanswered).unwrap());
    lease.swap(&"next").unwrap();
    assert_eq!(store.load::<String>().unwrap().map(|s| (s.version, s.record)), Some((3, "next".into())));
    // The same for a renewal: the lease is given back on top of it.
    let written = spot.read("lease.json").replace("\"renewed\":0", "\"renewed\":1");
    assert!(written.contains("\"renewed\":1"), "{written}");
    spot.write("lease.json", &written);
    drop(lease);
    assert!(spot.read("lease.json").contains("\"released\":true"));
}

fn documents_are_kept_and_listed(spot: &Spot) {
    let store = spot.store();
    assert_eq!(store.kept("approval.").unwrap(), []);
    store.keep("approval.sre.2.json", b"two").unwrap();
    store.keep("approval.sre.1.json", b"one").unwrap();
    store.keep("other.json", b"else").unwrap();
    let mut lease = take(&store, "a").unwrap().lease;
    lease.journal(&serde_json::json!({"a": 1})).unwrap();
    let found = store.kept("approval.").unwrap();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["approval.sre.1.json", "approval.sre.2.json"]);
    assert_eq!(found[1].1, b"two");
}

#[test]
fn an_address_of_another_kind_is_refused_by_name() {
    for address in ["gs://bucket/x", "file:///tmp/x", "S3://bucket"] {
        let refused = Store::open(Path::new(address), "production").unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.to_string().contains("s3://BUCKET/PREFIX"), "{refused}");
    }
}

fn changes_of_a_small_document_from_many_sides_are_all_there_in_the_end(spot: &Spot) {
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let store = spot.store();
                for number in 0..5 {
                    store
                        .revise::<Vec<u32>>("small.json", |found| {
                            let mut next = found.unwrap_or_default();
                            next.push(writer * 100 + number);
                            Ok(Some(next))
                        })
                        .unwrap();
                }
            });
        }
    });
    let mut found = spot.store().document::<Vec<u32>>("small.json").unwrap().unwrap();
    found.sort_unstable();
    let expected: Vec<u32> = (0..4).flat_map(|w| (0..5).map(move |n| w * 100 + n)).collect();
    assert_eq!(found, expected);
}

fn a_damaged_small_document_is_named_and_left_alone(spot: &Spot) {
    let store = spot.store();
    store.keep("small.json", b"{\"cut").unwrap();
    let fault = store.revise::<Vec<u32>>("small.json", |_| Ok(Some(vec![1]))).unwrap_err();
    assert_eq!(fault.exit, Exit::Infrastructure);
    assert!(fault.place.unwrap().ends_with("production/small.json"));
    assert_eq!(spot.read("small.json"), "{\"cut");
}

fn a_request_is_taken_back_only_where_it_still_is_the_one_that_was_meant(spot: &Spot) {
    let store = spot.store();
    let asked =
        |epoch, who: &str| Asked { epoch, promotion: None, who: who.into(), at: String::new(), why: None };
    let withdraw = |who: &str| {
        let is_mine = |found: &Option<Asked>| found.as_ref().is_some_and(|f| f.who == who);
        store.revise_asked(Ask::Pause, |found| is_mine(&found).then(|| asked(0, who))).unwrap();
    };
    store.ask(Ask::Pause, &asked(3, "alice")).unwrap();
    withdraw("an alert");
    assert_eq!(store.asked(Ask::Pause, 3, None).unwrap().who, "alice");
    withdraw("alice");
    assert_eq!(store.asked(Ask::Pause, 3, None), None);
}

fn a_request_that_comes_late_is_not_put_in_the_place_of_a_newer_one(spot: &Spot) {
    let store = spot.store();
    let asked = |epoch| Asked { epoch, promotion: None, who: "ann".into(), at: String::new(), why: None };
    assert!(store.ask_while(Ask::Abort, &asked(1), || true).unwrap());
    assert_eq!(store.asked(Ask::Abort, 1, None), Some(asked(1)));
    // It was about to write when another promotion began and was called off.
    let mut looks = 0;
    let done = store.ask_while(Ask::Abort, &asked(1), || {
        looks += 1;
        if looks == 1 {
            spot.store().ask(Ask::Abort, &asked(2)).unwrap();
        }
        looks == 1
    });
    assert!(!done.unwrap());
    assert_eq!((looks, store.asked(Ask::Abort, 2, None)), (2, Some(asked(2))));
    // A damaged one is in nobody's way.
    spot.write("abort.json", "{");
    assert!(store.ask_while(Ask::Abort, &asked(3), || true).unwrap());
    assert_eq!(store.asked(Ask::Abort, 3, None), Some(asked(3)));
}

fn trying_whether_one_may_write_leaves_nothing_behind(spot: &Spot) {
    spot.store().may_write().unwrap();
    assert_eq!(spot.names(), Vec::<String>::new(), "not even a folder");
    drop(take(&spot.store(), "shop 1.4.2").unwrap());
    let before = spot.names();
    assert!(!before.is_empty());
    spot.store().may_write().unwrap();
    assert_eq!(spot.names(), before);
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_anybody_needs_it() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "mine").unwrap();
    let fault = Store::open(&root.path().join("file/state"), "production").unwrap().may_write().unwrap_err();
    assert_eq!(
        (fault.exit, fault.what.as_str()),
        (Exit::Infrastructure, "the promote state cannot be written")
    );
    assert!(fault.place.unwrap().ends_with("file/state/production"));
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "mine");
}

#[test]
fn half_a_line_of_the_journal_spoils_no_other() {
    let root = tempfile::tempdir().unwrap();
    let spot = Spot::Folder(root);
    let mut lease = take(&spot.store(), "a").unwrap().lease;
    lease.journal(&serde_json::json!({"first": 1})).unwrap();
    let torn = spot.read("journal.jsonl") + "{\"at\": \"20";
    spot.write("journal.jsonl", &torn);
    lease.journal(&serde_json::json!({"second": 2})).unwrap();
    let text = spot.read("journal.jsonl");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[1]), (3, "{\"at\": \"20"), "{text}");
    assert!(lines[2].contains("\"second\":2") && text.ends_with('\n'), "{text}");
}

/// A place afar that reads nothing for now.
#[derive(Debug)]
struct Away;

impl Place for Away {
    fn shown(&self) -> String {
        "s3://away".into()
    }
    fn get(&self, _: &str) -> Result<Option<Object>, Fault> {
        Err(Fault::infrastructure("503"))
    }
    fn put(&self, _: &str, _: &[u8], _: &Condition) -> Result<Put, Fault> {
        Ok(Put::Conflict)
    }
    fn remove(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn list(&self, _: &str) -> Result<Vec<String>, Fault> {
        Ok(Vec::new())
    }
    fn journal(&self, _: &str, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn may_write(&self) -> Result<(), Fault> {
        Err(Fault::infrastructure("503"))
    }
    fn between_looks(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[test]
fn a_pause_that_cannot_be_looked_for_keeps_a_gate_shut_and_an_abort_is_looked_for_again() {
    let store = Store::at(Box::new(Away));
    assert_eq!(store.paused(3, None).unwrap_err().what, "503");
    assert_eq!(
        store.asked(Ask::Pause, 3, None),
        None,
        "who only looks is not told of a pause that nobody saw"
    );
    assert_eq!(store.asked(Ask::Abort, 3, None), None);
}

/// A folder on a disk that can be full.
#[derive(Debug)]
struct Disk {
    folder: folder::Folder,
    full: Arc<std::sync::atomic::AtomicBool>,
}

impl Disk {
    fn room(&self) -> Result<(), Fault> {
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Fault::infrastructure("no space left on device"));
        }
        Ok(())
    }
}

impl Place for Disk {
    fn shown(&self) -> String {
        self.folder.shown()
    }
    fn get(&self, name: &str) -> Result<Option<Object>, Fault> {
        self.folder.get(name)
    }
    fn put(&self, name: &str, bytes: &[u8], condition: &Condition) -> Result<Put, Fault> {
        self.room().and_then(|()| self.folder.put(name, bytes, condition))
    }
    fn remove(&self, name: &str) -> Result<(), Fault> {
        self.folder.remove(name)
    }
    fn list(&self, beginning: &str) -> Result<Vec<String>, Fault> {
        self.folder.list(beginning)
    }
    fn journal(&self, line: &str, key: &str) -> Result<(), Fault> {
        self.room().and_then(|()| self.folder.journal(line, key))
    }
    fn life(&self, fence: u64) -> Result<Life, Fault> {
        self.folder.life(fence)
    }
    fn guard(&self, fence: u64) -> Result<Option<Guard>, Fault> {
        self.room().and_then(|()| self.folder.guard(fence))
    }
    fn may_write(&self) -> Result<(), Fault> {
        self.room().and_then(|()| self.folder.may_write())
    }
    fn between_looks(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn what_could_not_be_written_is_not_held_and_is_lost_to_whoever_writes_it() {
    for writes_first in [false, true] {
        let (root, time) = (tempfile::tempdir().unwrap(), Time::default());
        let full = Arc::new(std::sync::atomic::AtomicBool::default());
        let is_full = |now| full.store(now, std::sync::atomic::Ordering::SeqCst);
        let store = |machine: &Machine| {
            let folder = folder::Folder::new(root.path(), "production");
            Arc::new(Store::by(Box::new(Disk { folder, full: Arc::clone(&full) }), machine.shared()))
        };
        let (late, other) = (time.machine(), ahead(&time));
        let first = take(&store(&late), "first").unwrap();
        is_full(true);
        // It dies: nobody says that it has left, and its lock lies there and locks nothing.
        drop(first);
        std::fs::write(root.path().join("production/lock.1"), "").unwrap();
        let mut unfenced = take(&store(&late), "second").unwrap().lease;
        unfenced.still_mine().unwrap();
        let told = unfenced.renewed().unwrap_err();
        assert_eq!(told.exit, Exit::Infrastructure);
        assert!(told.cause.unwrap().contains("what is not written is not held"));
        is_full(false);
        if writes_first {
            // There is room again before anybody else comes.
            unfenced.renewed().unwrap();
            unfenced.swap(&"second").unwrap();
            assert!(take(&store(&other), "third").is_err());
            continue;
        }
        late.stall(true);
        let third = take(&store(&other), "third").unwrap();
        late.stall(false);
        assert_eq!(unfenced.still_mine().unwrap_err().exit, Exit::Refused);
        assert!(unfenced.renewed().is_err() && unfenced.swap(&"second").is_err());
        drop(unfenced);
        third.lease.still_mine().unwrap();
    }
}
