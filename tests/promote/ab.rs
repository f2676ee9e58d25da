//! A/B routing: users in stable buckets, requests that match, and routers that can do neither.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Split, same_share};
use trapkey::world::http::{Client, Request};

use super::*;
use crate::support::envoy::Envoy;

/// How a request says who it is.
#[derive(Clone, Copy, Debug)]
enum By {
    Cookie,
    Header,
}

impl By {
    /// The header of a request with this value.
    fn sent(self, value: &str) -> (String, String) {
        match self {
            Self::Cookie => ("cookie".into(), format!("first=1; uid={value}; last=2")),
            Self::Header => ("x-user".into(), value.to_owned()),
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Cookie => "cookie: uid",
            Self::Header => "header: x-user",
        }
    }

    /// How HAProxy fetches it.
    fn fetched(self) -> &'static str {
        match self {
            Self::Cookie => "req.cook(uid)",
            Self::Header => "req.hdr(x-user)",
        }
    }

    fn user(self) -> String {
        format!("{{by: user, {}}}", self.key())
    }

    fn matching(self) -> String {
        format!("{{by: match, {}, value: beta}}", self.key())
    }
}

struct Case {
    folder: tempfile::TempDir,
    blue: Side,
    green: Side,
    server: Box<dyn RealRouter>,
    client: Client,
}

const KINDS: [&str; 3] = ["nginx", "envoy", "haproxy"];

impl Case {
    fn user(kind: &str, by: By) -> Self {
        let present = match by {
            By::Cookie => {
                json!({"name": "cookie", "string_match": {"safe_regex": {"regex": "(^|.*; ?)uid=[^;].*"}}})
            }
            By::Header => json!({"name": "x-user", "present_match": true}),
        };
        let policy = match by {
            By::Cookie => json!({"cookie": {"name": "uid"}}),
            By::Header => json!({"header": {"header_name": "x-user"}}),
        };
        let first = json!({"use_hash_policy": true, "hash_policy": [policy]});
        let taken = "  http-request set-var(txn.tk_bucket) var(txn.tk_key),crc32(1),mod(10000)\n  \
                     acl trapkey_key var(txn.tk_key) -m len gt 0\n  \
                     acl trapkey_taken var(txn.tk_bucket),sub(txn.tk_keyed) -m int lt 0\n";
        Self::new(kind, &by.user(), &present, &first, (by.fetched(), taken))
    }

    fn matching(kind: &str, by: By) -> Self {
        let header = match by {
            By::Cookie => {
                json!({"name": "cookie", "string_match": {"safe_regex": {"regex": "(^|.*; ?)uid=beta(;.*|$)"}}})
            }
            By::Header => json!({"name": "x-user", "string_match": {"exact": "beta"}}),
        };
        let taken = "  acl trapkey_key var(txn.tk_key) -m str beta\n  \
                     acl trapkey_taken var(txn.tk_keyed) -m int gt 0\n";
        Self::new(kind, &by.matching(), &header, &json!({}), (by.fetched(), taken))
    }

    fn new(kind: &str, split: &str, header: &Value, first: &Value, haproxy: (&str, &str)) -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let server: Box<dyn RealRouter> = match kind {
            "nginx" => Box::new(Nginx::splitting(folder.path(), blue.port, green.port, split)),
            "haproxy" => {
                let (key, taken) = haproxy;
                Box::new(Haproxy::splitting(folder.path(), blue.port, green.port, split, key, taken))
            }
            "envoy" => {
                let matches = [json!({"prefix": "/", "headers": [header]}), json!({"prefix": "/"})];
                Box::new(Envoy::splitting(folder.path(), blue.port, green.port, split, &matches, first))
            }
            other => panic!("`{other}` has no A/B fixture"),
        };
        let case = Self { folder, blue, green, server, client: Client::new(ANSWER) };
        case.write(&case.server.router(case.blue.port, case.green.port));
        case
    }

    fn write(&self, router: &str) {
        let text = plan(router, &self.blue, &self.green, SHORT, "");
        std::fs::write(self.folder.path().join("release.yaml"), text).unwrap();
    }

    fn open(&self) -> Box<dyn Router> {
        let loaded = Loaded::read(&self.folder.path().join("release.yaml"), BTreeMap::new()).unwrap();
        let mut router = routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap();
        router.check().unwrap();
        router
    }

    /// Whether a request meets green.
    fn green(&self, header: Option<(String, String)>) -> bool {
        let mut request = Request::get(&self.server.url());
        request.headers.extend(header);
        // A reload closes idle connections, and one may be among those that the client kept.
        let answer = self.client.send(&request).or_else(|_| self.client.send(&request)).unwrap();
        answer.header("x-release") == Some("1.1")
    }

    /// Which of so many users meet green.
    fn users_on_green(&self, by: By, users: u32) -> BTreeSet<u32> {
        (0..users).filter(|user| self.green(Some(by.sent(&format!("user-{user}"))))).collect()
    }

    /// How many of twenty requests without any key, and with an empty one, meet green.
    fn keyless_on_green(&self, by: By) -> usize {
        let others = [None, Some(("cookie".into(), "other=1".into())), Some(by.sent(""))];
        (0..21).filter(|n| self.green(others[n % 3].clone())).count()
    }
}

fn set(router: &mut dyn Router, green: f64) {
    router.set(Split { green, close_idle_side: true }).unwrap();
    let live = router.read().unwrap();
    assert!(same_share(live.green, green), "{green}: {live:?}");
}

fn every_kind(start: fn(&str, By) -> Case, test: impl Fn(&Case, &mut dyn Router, By)) {
    for kind in KINDS {
        for by in [By::Cookie, By::Header] {
            let case = start(kind, by);
            let mut router = case.open();
            test(&case, router.as_mut(), by);
        }
    }
}

#[test]
fn users_stay_in_their_buckets_and_green_only_grows_by_new_ones() {
    every_kind(Case::user, |case, router, by| {
        set(router, 0.05);
        let few = case.users_on_green(by, 1000);
        // Five standard deviations of a binomial: sqrt(1000 · 0.05 · 0.95) is 6.9.
        assert!((16..85).contains(&few.len()), "{by:?}: {} of 1000 at 5 %", few.len());
        let again = case.users_on_green(by, 300);
        assert_eq!(again, few.range(..300).copied().collect(), "{by:?}: the same users again");
        assert_eq!(case.keyless_on_green(by), 0, "{by:?}");
        set(router, 0.25);
        let more = case.users_on_green(by, 1000);
        assert!((182..319).contains(&more.len()), "{by:?}: {} of 1000 at 25 %", more.len());
        assert!(few.is_subset(&more), "{by:?}: nobody goes back while green grows");
        assert_eq!(case.keyless_on_green(by), 0, "{by:?}");
        set(router, 1.0);
        assert_eq!((case.users_on_green(by, 100).len(), case.keyless_on_green(by)), (100, 21), "{by:?}");
        set(router, 0.25);
        assert!(case.users_on_green(by, 300) == more.range(..300).copied().collect(), "{by:?}");
        set(router, 0.0);
        assert_eq!((case.users_on_green(by, 100).len(), case.keyless_on_green(by)), (0, 0), "{by:?}");
    });
}

#[test]
fn requests_that_match_go_to_green_and_all_others_stay() {
    every_kind(Case::matching, |case, router, by| {
        let beta = || (0..20).filter(|_| case.green(Some(by.sent("beta")))).count();
        let near = |case: &Case| {
            let values = ["BETA", "beta2", "a-beta", "b"];
            values.iter().filter(|value| case.green(Some(by.sent(value)))).count()
        };
        for green in [0.05, 0.5] {
            set(router, green);
            assert_eq!((beta(), near(case), case.keyless_on_green(by)), (20, 0, 0), "{by:?} {green}");
        }
        set(router, 1.0);
        assert_eq!((beta(), near(case), case.keyless_on_green(by)), (20, 4, 21), "{by:?}");
        set(router, 0.0);
        assert_eq!((beta(), near(case), case.keyless_on_green(by)), (0, 0, 0), "{by:?}");
    });
}

#[test]
fn setting_the_same_split_of_users_again_changes_nothing_and_the_way_back_by_hand_works() {
    for start in [Case::user as fn(&str, By) -> Case, Case::matching] {
        every_kind(start, |case, router, by| {
            set(router, 0.25);
            let held = case.server.held();
            set(router, 0.25);
            assert_eq!(case.server.held(), held, "{by:?}");
            for command in router.by_hand(routers::Side::Blue) {
                let ended = Command::new("sh").args(["-c", &command]).output().unwrap();
                assert!(ended.status.success(), "{command}: {}", String::from_utf8_lossy(&ended.stderr));
            }
            wait_until("blue to have everything", || {
                case.users_on_green(by, 30).is_empty() && !case.green(Some(by.sent("beta")))
            });
            assert!(same_share(router.read().unwrap().green, 0.0), "{by:?}");
            router.check().unwrap();
            set(router, 1.0);
            assert_eq!(case.users_on_green(by, 30).len(), 30, "{by:?}");
        });
    }
}

#[test]
fn a_small_step_by_user_never_ratchets_busy_users_over() {
    for kind in KINDS {
        let case = Case::user(kind, By::Cookie);
        set(case.open().as_mut(), 0.05);
        let touched = |case: &Case| {
            let mut touched = BTreeSet::new();
            for _ in 0..20 {
                touched.extend(case.users_on_green(By::Cookie, 200));
                // A round of weights in step with the round of users would always meet the same ones.
                case.green(None);
            }
            touched.len()
        };
        let by_user = touched(&case);
        assert!((1..=25).contains(&by_user), "{kind}: {by_user} of 200 users met green at 5 %");
        // By request nearly two thirds of the same users meet green: 1 - 0.95^20 is 64 %.
        let folder = folder();
        let server = router::start(kind, folder.path(), case.blue.port, case.green.port);
        let by_request = Case { folder, server, ..Case::user(kind, By::Cookie) };
        by_request.write(&by_request.server.router(case.blue.port, case.green.port));
        set(by_request.open().as_mut(), 0.05);
        let by_request = touched(&by_request);
        assert!(by_request > 90, "{kind}: {by_request} of 200 users");
        super::figure(&format!(
            "{kind}: users of 200 that met green at 5 % in 20 requests each: by user {by_user}, by request {by_request}"
        ));
    }
}

fn promoted(case: &Case) -> Value {
    let ended = call("promote", case.folder.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let promotion = json(&case.folder.path().join("evidence/promote.json"))["promotion"].clone();
    assert_eq!(promotion["outcome"], "promoted");
    promotion
}

#[test]
fn a_release_goes_all_the_way_by_user_on_nginx() {
    let case = Case::user("nginx", By::Cookie);
    let promotion = promoted(&case);
    let shifts = promotion["shifts"].as_array().unwrap();
    assert_eq!(shifts.iter().map(|s| s["read_back"].as_f64().unwrap()).collect::<Vec<_>>(), [0.1, 0.5, 1.0]);
    assert_eq!(shifts[2]["probed"]["green"], 20);
    assert_eq!((case.users_on_green(By::Cookie, 20).len(), case.keyless_on_green(By::Cookie)), (20, 21));
}

#[test]
fn a_release_goes_all_the_way_by_match_on_envoy() {
    let case = Case::matching("envoy", By::Header);
    let promotion = promoted(&case);
    let shifts = promotion["shifts"].as_array().unwrap();
    assert_eq!(shifts.iter().map(|s| s["read_back"].as_f64().unwrap()).collect::<Vec<_>>(), [0.1, 0.5, 1.0]);
    for shift in &shifts[..2] {
        // Half of the probe's requests match, and every one of them meets green.
        assert_eq!(
            (&shift["probed"]["green"], &shift["probed"]["blue"]),
            (&10.into(), &10.into()),
            "{shift}"
        );
    }
    assert_eq!(case.keyless_on_green(By::Header), 21);
}

#[test]
fn a_failing_release_by_user_is_rolled_back_for_every_user() {
    for kind in KINDS {
        let case = Case::user(kind, By::Header);
        case.green.answers.fail_every.store(3, Ordering::SeqCst);
        let ended = call("promote", case.folder.path(), &["run"]);
        assert_eq!(ended.code, 1, "{kind}: {}", ended.stderr);
        case.green.answers.fail_every.store(0, Ordering::SeqCst);
        assert_eq!(case.users_on_green(By::Header, 200).len(), 0, "{kind}");
    }
}

#[test]
fn the_next_release_goes_the_other_way_with_the_sides_changed_over() {
    for kind in KINDS {
        for (case, by) in [(Case::user(kind, By::Cookie), true), (Case::matching(kind, By::Cookie), false)] {
            promoted(&case);
            // What was green serves now, and what was blue gets the new version.
            let block = case.server.router(case.green.port, case.blue.port);
            let block = block
                .replace("blue: shop-blue, green: shop-green", "blue: shop-green, green: shop-blue")
                .replace("blue: blue, green: green", "blue: green, green: blue");
            let text =
                plan(&block, &case.green, &case.blue, SHORT, "").replace("VERSION:-1.1", "VERSION:-1.2");
            std::fs::write(case.folder.path().join("release.yaml"), text).unwrap();
            let mut router = case.open();
            assert!(same_share(router.read().unwrap().green, 0.0), "{kind}: {:?}", router.read());
            set(router.as_mut(), 0.05);
            // Only the new side counts, and that is the one which answers 1.0.
            let moved = 300 - case.users_on_green(By::Cookie, 300).len();
            assert!(if by { (1..40).contains(&moved) } else { moved == 0 }, "{kind}: {moved} of 300");
            assert!(by || !case.green(Some(By::Cookie.sent("beta"))), "{kind}: who matches has moved");
            assert_eq!(case.keyless_on_green(By::Cookie), 21, "{kind}: who has no key stays");
            set(router.as_mut(), 0.0);
            let ended = call("promote", case.folder.path(), &["run"]);
            assert_eq!(ended.code, 0, "{kind}: {}", ended.stderr);
            assert_eq!(
                (case.users_on_green(By::Cookie, 50).len(), case.keyless_on_green(By::Cookie)),
                (0, 0),
                "{kind}"
            );
        }
    }
}

#[test]
fn a_router_that_cannot_split_so_is_refused_before_anything_moves() {
    for split in [By::Cookie.user(), By::Header.matching()] {
        let stage = Stage::new(SHORT, "");
        let path = stage.path().join("release.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("kind: haproxy,", &format!("kind: haproxy, split: {split},")))
            .unwrap();
        let ended = stage.promote(&["run"]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("`with.map` is missing"), "{}", ended.stderr);
        assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green")), (100, (0, 0)));
        assert!(!stage.path().join(".trapkey/production/state.json").exists());
    }
}

#[test]
fn a_sticky_cookie_of_haproxy_is_no_match_for_a_split_by_user_and_refused() {
    let case = Case::new(
        "haproxy",
        &By::Header.user(),
        &json!({}),
        &json!({}),
        (
            By::Header.fetched(),
            "  cookie SIDE insert indirect nocache\n  acl trapkey_key always_false\n  acl trapkey_taken always_false\n",
        ),
    );
    let ended = call("promote", case.folder.path(), &["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("its cookie `SIDE` would overrule the `split`"), "{}", ended.stderr);
    assert_eq!(case.green.served(), 0);
}

#[test]
fn a_configuration_that_does_not_fit_the_split_is_refused_with_what_to_write() {
    for (kind, words) in
        [("nginx", "proxy_pass http://$trapkey_upstream;"), ("envoy", "\"use_hash_policy\":true")]
    {
        // Everything is there for requests, each by itself, and the plan asks for users.
        let case = Case::user(kind, By::Header);
        let folder = folder();
        let server = router::start(kind, folder.path(), case.blue.port, case.green.port);
        let case = Case { folder, server, ..case };
        let block = case.server.router(case.blue.port, case.green.port);
        case.write(&block.replace("{by: requests}", &By::Header.user()));
        let held = case.server.held();
        let ended = call("promote", case.folder.path(), &["run"]);
        assert_eq!(ended.code, 2, "{kind}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{kind}: {}", ended.stderr);
        assert_eq!(case.server.held(), held, "{kind}");
        assert_eq!(case.green.served(), 0, "{kind}");
        assert!(!case.folder.path().join(".trapkey/production/state.json").exists());
    }
}
