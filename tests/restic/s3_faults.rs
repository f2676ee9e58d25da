//! A bucket that is slow, busy, forgetful or behind a bad line: what is done is done, or is one clear
//! error.

use std::time::Instant;

use trapkey::fault::Exit;
use trapkey::repository::restic::{Backend, Kind, Name, S3};

use super::s3::{Afar, whole};
use super::*;
use crate::support::faults::Fate;

/// Each so-many-th request that begins so meets this.
type Line = (u32, &'static str, Fate);

#[test]
fn a_busy_store_costs_time_and_nothing_else() {
    a_bad_line_costs_time_and_nothing_else(&[
        (3, "", Fate::Error(503, "ServiceUnavailable")),
        (3, "", Fate::Error(500, "InternalError")),
    ]);
}

#[test]
fn a_store_that_asks_to_slow_down_costs_time_and_nothing_else() {
    a_bad_line_costs_time_and_nothing_else(&[
        (4, "", Fate::SlowDown(0)),
        (4, "", Fate::Error(429, "TooManyRequests")),
    ]);
}

#[test]
fn a_line_that_breaks_costs_time_and_nothing_else() {
    a_bad_line_costs_time_and_nothing_else(&[(3, "GET", Fate::Cut), (3, "", Fate::Reset)]);
}

#[test]
fn a_line_that_loses_answers_costs_time_and_nothing_else() {
    a_bad_line_costs_time_and_nothing_else(&[(3, "PUT", Fate::Lost), (2, "DELETE", Fate::Lost)]);
}

#[test]
fn a_line_that_changes_what_is_sent_costs_time_and_nothing_else() {
    a_bad_line_costs_time_and_nothing_else(&[
        (3, "PUT", Fate::DamagedUp),
        (7, "", Fate::Garbage),
        (1, "PUT", Fate::Unconditional),
    ]);
}

fn a_bad_line_costs_time_and_nothing_else(fates: &[Line]) {
    let afar = Afar::new();
    afar.some();
    let repository = afar.init();
    let mut parent = None;
    for (number, (every, begins, fate)) in fates.iter().enumerate() {
        afar.faults.every(*every, begins, *fate);
        afar.lab.write("src/new.bin", &noise(300_000, u64::try_from(number).unwrap() + 50));
        let repository = afar.open();
        let sealed = afar.lab.sealed(&repository, Spec { parent, ..afar.lab.spec() }).unwrap();
        sealed.prove(&mut |_| {}).unwrap();
        let id = sealed.commit().unwrap();
        whole(&repository);
        afar.restores(&repository, id, &format!("out-{number}"));
        repository.forget(&parent.take().into_iter().collect::<Vec<_>>()).unwrap();
        repository.prune(Thrift { max_unused: 0.0, join_small: true }, &mut |_, _| {}).unwrap();
        parent = Some(id);
        afar.faults.now(|_| Fate::Pass);
        assert_eq!(afar.stored("snapshots/").len(), 1, "{fate:?}");
        assert!(afar.stored("locks/").is_empty(), "{fate:?}: {:?}", afar.stored("locks/"));
    }
    afar.restic(&["check", "--read-data"]);
    whole(&repository);
}

#[test]
fn bytes_that_are_changed_on_their_way_are_fetched_again() {
    let afar = Afar::new();
    afar.some();
    let id = afar.lab.backup(&afar.init());
    // The data alone, and no lists, which have no checksum.
    let mut count = 0;
    afar.faults.now(move |line| {
        count += u32::from(line.starts_with("GET") && !line.contains("list-type"));
        if line.starts_with("GET")
            && !line.contains("list-type")
            && !line.contains("/config")
            && count % 3 == 0
        {
            Fate::Other
        } else {
            Fate::Pass
        }
    });
    let repository = afar.open();
    whole(&repository);
    afar.restores(&repository, id, "out");
    // Where every answer is another one, nothing of it is believed.
    afar.faults.now(|line| if line.contains("/data/") { Fate::Other } else { Fate::Pass });
    let fault =
        repository.read(id).unwrap().restore(&afar.lab.path("bad"), &How::default(), &Progress::default());
    assert!(fault.unwrap_err().what.contains("damaged"));
    assert!(!check(&repository).damaged.is_empty());
    afar.faults.now(|_| Fate::Pass);
    whole(&repository);
}

#[test]
fn a_store_that_hangs_is_asked_again_and_in_the_end_given_up() {
    let afar = Afar::new();
    let store = afar.plain();
    store.put(Name::Config, &[b"12345"]).unwrap();
    let mut hangs = 1;
    afar.faults.now(move |_| {
        hangs -= 1;
        if hangs >= 0 { Fate::Hang } else { Fate::Pass }
    });
    // The first try has little time, and those after it have more.
    let store = store.enduring(Duration::from_secs(8));
    assert_eq!(store.whole(Name::Config, 10).unwrap(), b"12345");
    // It hangs for ten minutes: that this ends is the proof.
    afar.faults.now(|_| Fate::Hang);
    let store = store.enduring(Duration::from_secs(1));
    let fault = store.whole(Name::Config, 10).unwrap_err();
    assert!(fault.what.contains("cannot be reached"), "{fault}");
    // From then on it is tried once, until it answers.
    afar.faults.take_seen();
    assert!(store.remove(Name::Config).is_err());
    assert_eq!(afar.faults.take_seen().len(), 1);
    afar.faults.now(|_| Fate::Pass);
    // It answers again, whenever it does.
    let store = store.enduring(Duration::from_secs(60));
    crate::support::wait_until("the store to be there again", || store.remove(Name::Config).is_ok());
    assert_eq!(store.length(Name::Config).unwrap(), None);
}

#[test]
fn a_store_that_asks_for_time_is_given_it() {
    let afar = Afar::new();
    let store = afar.plain();
    let mut busy = 1;
    afar.faults.now(move |_| {
        busy -= 1;
        if busy >= 0 { Fate::SlowDown(2) } else { Fate::Pass }
    });
    let began = Instant::now();
    store.put(Name::Config, &[b"x"]).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_store_without_conditional_writes_is_written_to_without() {
    let afar = Afar::new();
    afar.some();
    afar.faults.now(|line| {
        let conditional = line.contains("if-none-match");
        if conditional { Fate::Error(501, "NotImplemented") } else { Fate::Pass }
    });
    let repository = afar.init();
    let id = afar.lab.backup(&repository);
    whole(&repository);
    afar.restores(&repository, id, "out");
    afar.restic(&["check", "--read-data"]);
}

/// What opening says, and what reading a list does.
fn faults(afar: &Afar, store: S3) -> [Fault; 2] {
    let store: Arc<dyn Backend> = Arc::new(store.enduring(Duration::from_millis(600)));
    let listed = store.list(Kind::Key).unwrap_err();
    let opened = Repository::open(store, &word()).unwrap_err();
    for fault in [&listed, &opened] {
        let text = fault.to_string();
        assert!(!text.contains("X-Amz") && !text.contains(crate::support::s3::SECRET), "{text}");
        assert!(text.contains(&afar.bucket.name) || text.contains("no-such-bucket"), "{text}");
        assert!(fault.help.is_some(), "{text}");
    }
    [opened, listed]
}

#[test]
fn what_is_wrong_with_a_store_is_said_in_one_clear_error() {
    type Case = (Fate, &'static str, &'static str);
    let afar = Afar::new();
    let cases: &[Case] = &[
        (Fate::Error(403, "AccessDenied"), "refuses", "AccessDenied"),
        (Fate::Error(403, "InvalidAccessKeyId"), "does not know this key", "InvalidAccessKeyId"),
        (Fate::Error(403, "RequestTimeTooSkewed"), "clock is wrong", "RequestTimeTooSkewed"),
        (Fate::Error(400, "AuthorizationHeaderMalformed"), "another region", "status 400"),
        (Fate::Error(301, "PermanentRedirect"), "another region", "status 301"),
        (Fate::Error(400, "ExpiredToken"), "session token", "ExpiredToken"),
        (Fate::Clock(3600), "clock is wrong by 1 h", "behind"),
        (Fate::Clock(-3600), "clock is wrong by 1 h", "ahead"),
        (Fate::Garbage, "not an S3 store", "guest network"),
        (Fate::Error(503, "SlowDown"), "does not do its work", "SlowDown"),
        (Fate::Reset, "cannot be reached", ""),
    ];
    for (fate, what, cause) in cases {
        let fate = *fate;
        afar.faults.now(move |_| fate);
        for fault in faults(&afar, afar.plain()) {
            assert_eq!(fault.exit, Exit::Infrastructure, "{fate:?}");
            assert!(fault.what.contains(what), "{fate:?}: {fault}");
            assert!(fault.cause.clone().unwrap_or_default().contains(cause), "{fate:?}: {fault}");
        }
    }
    afar.faults.now(|_| Fate::Pass);
    let access = Afar::access(afar.faults.port);
    for fault in faults(&afar, S3::new("no-such-bucket/shop", &access).unwrap()) {
        assert!(fault.what.contains("the bucket `no-such-bucket` does not exist"), "{fault}");
    }
    // Nobody listens there.
    let nobody = Afar::access(crate::support::free_port());
    for fault in faults(&afar, S3::new(&format!("{}/x", afar.bucket.name), &nobody).unwrap()) {
        assert!(fault.what.contains("cannot be reached"), "{fault}");
    }
    for place in ["a-bucket//x", "a-bucket/../x", "a-bucket/a\nb", "A_B", ""] {
        assert_eq!(S3::new(place, &access).unwrap_err().exit, Exit::Usage, "{place:?}");
    }
    let empty = Repository::open(Arc::new(afar.plain()), &word()).unwrap_err();
    assert_eq!(empty.what, "there is no repository");
}

#[test]
fn an_address_says_which_store_it_is() {
    let lab = Lab::new();
    let at = trapkey::repository::restic::backend_at;
    assert_eq!(at("repo", &lab.path("repo")).unwrap().place(), lab.path("repo").display().to_string());
    let unknown = at("gs://bucket/x", &lab.path("")).unwrap_err();
    assert_eq!(unknown.exit, Exit::Usage);
    assert!(unknown.what.contains("`gs://`") && unknown.help.unwrap().contains("s3://BUCKET/PREFIX"));
}
