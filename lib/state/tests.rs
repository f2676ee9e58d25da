//! The rules of the state, over a folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::fault::Exit;

const LASTS: Duration = Duration::from_millis(400);

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

fn store(root: &Path) -> Arc<Store> {
    Arc::new(Store::open(root, "production").unwrap())
}

fn take(store: &Arc<Store>, release: &str) -> Result<Held<String>, crate::fault::Fault> {
    Lease::take::<String>(store, &holder(release), LASTS)
}

#[test]
fn a_second_holder_is_refused_and_told_who_the_first_is() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let first = take(&store, "shop 1.4.2").unwrap();
    let refused = take(&store, "shop 1.4.3").unwrap_err();
    assert_eq!(refused.exit, Exit::Refused);
    let cause = refused.cause.unwrap_or_default();
    assert!(cause.contains("shop 1.4.2 is being promoted by ci (process 7 on h"), "{cause}");
    // It is renewed for as long as it is held.
    std::thread::sleep(LASTS * 2);
    assert!(take(&store, "shop 1.4.3").is_err());
    first.lease.renewed().unwrap();
    drop(first);
    let started = Instant::now();
    let second = take(&store, "shop 1.4.3").unwrap();
    assert!(started.elapsed() < LASTS / 2, "one that was given back is free at once");
    assert_eq!(second.lease.fence(), 2);
}

#[test]
fn a_write_on_an_old_version_is_refused_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let mut lease = take(&store, "a").unwrap().lease;
    lease.swap(&"a").unwrap();
    lease.swap(&"b").unwrap();
    assert_eq!(store.load::<String>().unwrap().map(|s| (s.version, s.record)), Some((2, "b".into())));
    fs::write(root.path().join("production/state.json"), "{\"version\": 9, \"record\": \"c\"}").unwrap();
    assert_eq!(lease.swap(&"d").unwrap_err().exit, Exit::Refused);
    assert_eq!(store.load::<String>().unwrap().map(|s| s.record), Some("c".into()));
}

/// A holder whose renewals stop, as those of a process that is stopped.
fn stopped(store: &Arc<Store>) -> Lease {
    let mut lease = take(store, "old").unwrap().lease;
    lease.stop_renewing();
    lease
}

#[test]
fn a_holder_that_was_stopped_can_do_nothing_when_it_wakes_up_late() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let mut old = stopped(&store);
    old.swap(&"old").unwrap();
    assert_eq!(take(&store, "new").unwrap_err().exit, Exit::Refused, "its lease is not over yet");
    std::thread::sleep(LASTS + Duration::from_millis(20));
    let mut new = take(&store, "new").unwrap();
    assert_eq!((new.lease.fence(), new.saved.map(|s| s.record)), (2, Some("old".into())));
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
fn a_lease_that_is_renewed_is_not_taken_by_a_clock_that_runs_ahead() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let _first = take(&store, "first").unwrap();
    // By the clock of somebody else it was over long ago.
    let place = folder::Folder::new(root.path(), "production");
    let started = Instant::now();
    let watched = super::lease::watch_as_if_over(&place);
    assert_eq!(watched.unwrap_err().exit, Exit::Refused);
    assert!(started.elapsed() < LASTS, "the first renewal is enough");
}

#[test]
fn a_state_cut_short_is_named_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    take(&store, "a").unwrap().lease.swap(&"abcdef").unwrap();
    let path = root.path().join("production/state.json");
    fs::write(&path, "{\"version\": 1, \"rec").unwrap();
    assert!(store.load::<String>().unwrap_err().what.contains("damaged"));
    assert!(take(&store, "b").unwrap_err().what.contains("damaged"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"version\": 1, \"rec");
    // A lease that is cut short holds nobody up, for its holder is gone.
    fs::write(&path, "{\"version\": 1, \"fence\": 4, \"record\": \"x\"}").unwrap();
    fs::write(root.path().join("production/lease.json"), "{\"fence\"").unwrap();
    assert_eq!(take(&store, "c").unwrap().lease.fence(), 5);
}

#[test]
fn an_abort_counts_for_its_own_epoch_only() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let asked = Asked { epoch: 3, who: "ann".into(), at: "t".into(), why: None };
    store.ask(Ask::Abort, &asked).unwrap();
    assert_eq!(store.asked(Ask::Abort, 3), Some(asked));
    assert_eq!(store.asked(Ask::Abort, 4), None);
    store.forget(Ask::Abort).unwrap();
    assert_eq!(store.asked(Ask::Abort, 3), None);
    fs::write(root.path().join("production/abort.json"), "{").unwrap();
    assert!(store.asked(Ask::Abort, 4).is_some());
}

#[test]
fn changes_of_a_small_document_from_many_sides_are_all_there_in_the_end() {
    let root = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let root = root.path();
            scope.spawn(move || {
                let store = store(root);
                for number in 0..10 {
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
    let mut found = store(root.path()).document::<Vec<u32>>("small.json").unwrap().unwrap();
    found.sort_unstable();
    let expected: Vec<u32> = (0..4).flat_map(|w| (0..10).map(move |n| w * 100 + n)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_damaged_small_document_is_named_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    store.keep("small.json", b"{\"cut").unwrap();
    let fault = store.revise::<Vec<u32>>("small.json", |_| Ok(Some(vec![1]))).unwrap_err();
    assert_eq!(fault.exit, Exit::Infrastructure);
    assert!(fault.place.unwrap().ends_with("production/small.json"));
    assert_eq!(fs::read(root.path().join("production/small.json")).unwrap(), b"{\"cut");
}

#[test]
fn a_request_is_taken_back_only_where_it_still_is_the_one_that_was_meant() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path());
    let asked = |epoch, who: &str| Asked { epoch, who: who.into(), at: String::new(), why: None };
    let withdraw = |who: &str| {
        let is_mine = |found: &Option<Asked>| found.as_ref().is_some_and(|f| f.who == who);
        store.revise_asked(Ask::Pause, |found| is_mine(&found).then(|| asked(0, who))).unwrap();
    };
    store.ask(Ask::Pause, &asked(3, "alice")).unwrap();
    withdraw("an alert");
    assert_eq!(store.asked(Ask::Pause, 3).unwrap().who, "alice");
    withdraw("alice");
    assert_eq!(store.asked(Ask::Pause, 3), None);
}
