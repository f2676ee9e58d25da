//! What every router does with a whole promotion and with its users. What is asked of a router by itself is in
//! `contract`.

use std::collections::BTreeMap;

use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Side as Half, Split, same_share};

use super::*;

/// A real router of a kind in front of two sides.
pub(super) struct Case {
    pub(super) folder: tempfile::TempDir,
    pub(super) blue: Side,
    pub(super) green: Side,
    pub(super) server: Box<dyn RealRouter>,
}

impl Case {
    pub(super) fn new(kind: &str) -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let server = router::start(kind, folder.path(), blue.port, green.port);
        let case = Self { folder, blue, green, server };
        case.write(&case.block());
        case
    }

    /// The `router:` block of its plan.
    pub(super) fn block(&self) -> String {
        self.server.router(self.blue.port, self.green.port)
    }

    fn write(&self, block: &str) {
        let text = plan(block, &self.blue, &self.green, SHORT, "");
        std::fs::write(self.folder.path().join("release.yaml"), text).unwrap();
    }

    /// Opens another block in its folder.
    pub(super) fn open_as(&self, block: &str) -> Box<dyn Router> {
        self.write(block);
        let opened = self.open();
        self.write(&self.block());
        opened
    }

    pub(super) fn open(&self) -> Box<dyn Router> {
        let loaded = Loaded::read(&self.folder.path().join("release.yaml"), BTreeMap::new()).unwrap();
        routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
    }

    /// How many of so many requests through the router met green.
    pub(super) fn met_green(&self, requests: u32) -> u32 {
        let client = trapkey::world::http::Client::new(ANSWER);
        (0..requests).map(|_| u32::from(self.release_met(&client) == "1.1")).sum()
    }

    fn release_met(&self, client: &trapkey::world::http::Client) -> String {
        // A router that has just been reloaded may close a connection that is new: a browser asks again.
        let answer = wait_for("an answer of the router", || client.get(&self.server.url()).ok());
        answer.header("x-release").unwrap_or_default().to_owned()
    }

    /// All users meet this release. What the router says that it does, a connection that it took before may
    /// see a moment later; one that has met the release once meets nothing else.
    pub(super) fn everybody_meets(&self, release: &str) {
        let client = wait_for("a user who meets the release", || {
            let client = trapkey::world::http::Client::new(ANSWER);
            (self.release_met(&client) == release).then_some(client)
        });
        for nth in 0..100 {
            assert_eq!(self.release_met(&client), release, "request {nth}");
        }
    }
}

pub(super) fn split(green: f64) -> Split {
    Split { green, close_idle_side: false }
}

/// Runs a test over every kind, all at once.
fn every_kind(test: impl Fn(&mut Case, &mut dyn Router) + Sync) {
    std::thread::scope(|scope| {
        for kind in routers::ALL {
            let work = || {
                let mut case = Case::new(kind.name);
                let mut router = case.open();
                router.check().unwrap();
                test(&mut case, router.as_mut());
            };
            // A failed assertion names its thread.
            std::thread::Builder::new().name(kind.name.into()).spawn_scoped(scope, work).unwrap();
        }
    });
}

#[test]
fn a_closed_side_is_reached_by_nobody_and_opens_again() {
    every_kind(|case, router| {
        router.set(split(0.5)).unwrap();
        router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
        case.everybody_meets("1.0");
        assert_eq!(router.retire(Half::Green, Duration::from_millis(300)).unwrap(), 0);
        router.set(split(0.5)).unwrap();
        assert!(case.met_green(20) > 0);
    });
}

#[test]
fn the_way_back_by_hand_works_as_printed() {
    every_kind(|case, router| {
        router.set(split(1.0)).unwrap();
        for command in router.by_hand(Half::Blue) {
            let ended = Command::new("sh").args(["-c", &command]).output().unwrap();
            assert!(ended.status.success(), "{command}: {}", String::from_utf8_lossy(&ended.stderr));
        }
        case.everybody_meets("1.0");
        assert!(same_share(router.read().unwrap().green, 0.0), "what runs is what it says");
    });
}

#[test]
fn counters_that_a_router_has_count_what_was_served() {
    every_kind(|case, router| {
        let Some(before) = router.counters().unwrap() else { return };
        router.set(split(1.0)).unwrap();
        case.green.answers.fail_every.store(2, Ordering::SeqCst);
        case.met_green(10);
        let after = router.counters().unwrap().unwrap();
        assert_eq!(after.green.requests - before.green.requests, 10);
        assert_eq!(after.green.errors - before.green.errors, 5);
        assert_eq!(after.instance, before.instance);
    });
}

#[test]
fn a_router_that_is_gone_hangs_or_babbles_is_a_named_fault() {
    use std::os::unix::net::UnixListener;
    let folder = folder();
    let open = |target: &str, limit: &str| {
        let text = format!(
            "version: 1\nservice: s\nrelease: {{version: 1}}\npromote:\n  strategy: blue_green\n  router: {{kind: haproxy, target: {target}, timeout: {limit}, with: {{backend: shop, blue: blue, green: green}}}}\n  sides: {{blue: {{url: \"http://127.0.0.1:1\"}}, green: {{url: \"http://127.0.0.1:2\"}}}}\n"
        );
        let path = folder.path().join("release.yaml");
        std::fs::write(&path, text).unwrap();
        let loaded = Loaded::read(&path, BTreeMap::new()).unwrap();
        routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
    };
    let gone = open("nowhere.sock", "60s").read().unwrap_err();
    assert!(
        gone.to_string().contains("nowhere.sock") && gone.to_string().contains("is HAProxy running"),
        "{gone}"
    );
    // Takes connections and says nothing.
    let silent = UnixListener::bind(folder.path().join("silent.sock")).unwrap();
    let hung = open("silent.sock", "200ms").read().unwrap_err();
    assert!(hung.to_string().contains("no answer within 200 ms"), "{hung}");
    drop(silent);
    let babble = UnixListener::bind(folder.path().join("babble.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in babble.incoming().flatten() {
            use std::io::{Read, Write};
            let mut stream = stream;
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"\xff\xfe HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let garbage = open("babble.sock", "60s").read().unwrap_err();
    assert_eq!(garbage.exit, trapkey::fault::Exit::Infrastructure, "{garbage}");
}

#[test]
fn nginx_that_rejects_a_configuration_leaves_the_old_one_on_disk() {
    let case = Case::new("nginx");
    let before = case.server.held();
    // The test command passes and the reload does nothing, as when the master rejects the file.
    let path = case.folder.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("settle: 60s", "settle: 300ms");
    let text = text.replace("reload: [nginx, -s, reload,", "reload: [\"true\",");
    std::fs::write(&path, text).unwrap();
    let fault = case.open().set(split(0.5)).unwrap_err();
    assert!(fault.to_string().contains("still runs the old configuration"), "{fault}");
    assert_eq!(case.server.held(), before);
    case.everybody_meets("1.0");
}

#[test]
fn sticky_users_leave_the_bad_side_at_once() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let haproxy =
        Haproxy::start(folder.path(), blue.port, green.port, "  cookie SIDE insert indirect nocache");
    let router = format!(
        "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, blue: blue, green: green}}}}",
        haproxy.url()
    );
    std::fs::write(folder.path().join("release.yaml"), plan(&router, &blue, &green, SHORT, "")).unwrap();
    let loaded = Loaded::read(&folder.path().join("release.yaml"), BTreeMap::new()).unwrap();
    let mut router = routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap();
    router.set(split(0.5)).unwrap();
    let client = trapkey::world::http::Client::new(ANSWER);
    let mut request = trapkey::world::http::Request::get(&haproxy.url());
    request.headers.push(("cookie".into(), "SIDE=g".into()));
    let version = || client.send(&request).unwrap().header("x-release").unwrap().to_owned();
    assert_eq!(version(), "1.1", "the cookie holds the user on green");
    router.set(split(0.0)).unwrap();
    assert_eq!(
        version(),
        "1.1",
        "a weight of 0 alone keeps sticky users: that is why a rollback closes the side"
    );
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    assert_eq!(version(), "1.0");
}

#[test]
fn several_servers_a_side_share_what_the_side_has() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let more = format!(
        "  server blue2 127.0.0.1:{0} weight 100\n  server blue3 127.0.0.1:{0} weight 100\n  server green2 127.0.0.1:{1} weight 0",
        blue.port, green.port
    );
    let haproxy = Haproxy::start(folder.path(), blue.port, green.port, &more);
    let router = format!(
        "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, blue: [blue, blue2, blue3], green: [green, green2]}}}}",
        haproxy.url()
    );
    std::fs::write(folder.path().join("release.yaml"), plan(&router, &blue, &green, SHORT, "")).unwrap();
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let promotion = json(&folder.path().join("evidence/promote.json"))["promotion"].clone();
    for shift in promotion["shifts"].as_array().unwrap() {
        let (asked, read) = (shift["asked"].as_f64().unwrap(), shift["read_back"].as_f64().unwrap());
        assert!((asked - read).abs() < 0.01, "{shift}");
    }
    for name in ["green", "green2"] {
        assert!(haproxy.server(name).0 > 0 && haproxy.server(name).1 == 0, "{name}");
    }
    for name in ["blue", "blue2", "blue3"] {
        assert_eq!(haproxy.server(name).0, 0, "{name}");
    }
}

#[test]
fn a_server_that_the_router_holds_for_down_stops_the_step() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    // A second green server that nothing listens on: HAProxy's own check takes it out.
    let more = format!(
        "  option httpchk GET /health\n  server green2 127.0.0.1:{} weight 0 check inter 50ms fall 1",
        crate::support::free_port()
    );
    let haproxy = Haproxy::start(folder.path(), blue.port, green.port, &more);
    let router = format!(
        "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, blue: blue, green: [green, green2]}}}}",
        haproxy.url()
    );
    std::fs::write(
        folder.path().join("release.yaml"),
        plan(&router, &blue, &green, SHORT, "  healthy_within: 1s\n"),
    )
    .unwrap();
    wait_until("HAProxy to see it", || {
        haproxy
            .ask("show servers state shop")
            .lines()
            .any(|l| l.contains(" green2 ") && l.split(' ').nth(5) == Some("0"))
    });
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let promotion = json(&folder.path().join("evidence/promote.json"))["promotion"].clone();
    let reason = promotion["reason"].as_str().unwrap();
    assert!(reason.contains("the router itself has 1 of 2 servers up: green2"), "{reason}");
    assert_eq!(haproxy.server("green").0, 0);
}

#[test]
fn nginx_reads_the_split_right_when_the_sides_have_changed_places() {
    let case = Case::new("nginx");
    let mut before = case.open();
    before.set(split(1.0)).unwrap();
    // The next release: what was green serves now, and what was blue gets the new version.
    let text = plan(&case.server.router(case.green.port, case.blue.port), &case.green, &case.blue, SHORT, "");
    std::fs::write(case.folder.path().join("release.yaml"), text).unwrap();
    let mut next = case.open();
    assert!(same_share(next.read().unwrap().green, 0.0));
    next.set(split(0.0)).unwrap();
    // The server that served goes on.
    case.everybody_meets("1.1");
    next.set(split(1.0)).unwrap();
    case.everybody_meets("1.0");
}

#[test]
fn who_comes_after_a_job_that_was_killed_behind_its_set_finds_it_in_force() {
    every_kind(|case, router| {
        router.set(split(0.5)).unwrap();
        let held = case.server.held();
        let mut next = case.open();
        assert!(same_share(next.read().unwrap().green, 0.5));
        next.set(split(0.5)).unwrap();
        assert_eq!(case.server.held(), held, "it was in force already");
        assert!(same_share(next.read().unwrap().green, 0.5));
    });
}

#[test]
fn every_kind_takes_a_good_release_all_the_way() {
    every_kind(|case, _| {
        let ended = call("promote", case.folder.path(), &["run"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let document = json(&case.folder.path().join("evidence/promote.json"));
        assert_eq!(document["promotion"]["outcome"], "promoted");
        case.everybody_meets("1.1");
    });
}

#[test]
fn every_kind_takes_a_bad_release_all_the_way_back() {
    every_kind(|case, _| {
        case.green.answers.fail_every.store(2, Ordering::SeqCst);
        let ended = call("promote", case.folder.path(), &["run"]);
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        let document = json(&case.folder.path().join("evidence/promote.json"));
        assert_eq!(document["promotion"]["outcome"], "rolled_back");
        case.everybody_meets("1.0");
    });
}

#[test]
fn a_connection_that_is_kept_alive_leaves_the_bad_side_with_its_next_request() {
    use std::io::{BufRead, BufReader, Write};
    /// The release that answers on an open connection; none when it was closed.
    fn ask(stream: &mut BufReader<std::net::TcpStream>) -> Option<String> {
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").ok()?;
        let (mut release, mut line) = (None, String::new());
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let found = line.to_ascii_lowercase().strip_prefix("x-release: ").map(|v| v.trim().to_owned());
            release = found.or(release);
        }
        std::io::Read::read_exact(stream, &mut [0; 2]).ok()?;
        release
    }
    every_kind(|case, router| {
        router.set(split(1.0)).unwrap();
        let url = case.server.url();
        let connect = || {
            let stream = std::net::TcpStream::connect(url.trim_start_matches("http://")).unwrap();
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            BufReader::new(stream)
        };
        // A router that has just been reloaded may close a connection that is new.
        let fresh = |release: &str| {
            let mut tries = (0..3).map(|_| connect());
            let kept = tries.find_map(|mut stream| ask(&mut stream).map(|release| (stream, release)));
            let (stream, answered) = kept.expect("a connection that is answered");
            assert_eq!(answered, release);
            stream
        };
        let mut kept: Vec<_> = (0..8).map(|_| fresh("1.1")).collect();
        router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
        // What the control plane says, the last connection may meet a moment later. Closed is as good as
        // moved: the user comes again.
        let asked_on = |stream: &mut BufReader<std::net::TcpStream>| {
            wait_for("the connection to leave green", || match ask(stream) {
                Some(release) if release == "1.1" => None,
                answered => Some(answered),
            })
        };
        let after: Vec<Option<String>> = kept.iter_mut().map(asked_on).collect();
        assert!(after.iter().flatten().all(|release| release == "1.0"), "{after:?}");
        drop(fresh("1.0"));
        let kept = after.iter().flatten().count();
        figure(&format!(
            "{}: {kept} of 8 kept-alive connections lived on",
            std::thread::current().name().unwrap()
        ));
    });
}

#[test]
fn a_side_that_has_users_again_is_not_closed() {
    every_kind(|case, router| {
        router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
        let left = router.drain(Half::Green, Duration::from_millis(100)).unwrap();
        // Another job has gone on meanwhile.
        case.open().set(split(1.0)).unwrap();
        let closed = router.close(Half::Green, left, Duration::from_millis(100));
        // A router that closes nothing has nothing to refuse.
        assert!(closed.is_err() || std::thread::current().name() != Some("haproxy"));
        case.everybody_meets("1.1");
    });
}

#[test]
fn a_long_request_may_end_within_the_drain_while_others_are_on_the_other_side() {
    every_kind(|case, router| {
        router.set(split(1.0)).unwrap();
        case.green.answers.delay_ms.store(1200, Ordering::SeqCst);
        let (before, url) = (case.green.served(), case.server.url());
        let long = std::thread::spawn(move || {
            let client = trapkey::world::http::Client::new(ANSWER);
            // A router that has just been reloaded may close a new connection: a browser asks again.
            let answer = client.get(&url).or_else(|_| client.get(&url));
            answer.map(|answer| answer.header("x-release").map(str::to_owned))
        });
        wait_until("the long request", || case.green.served() > before);
        router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
        case.everybody_meets("1.0");
        // Who sees the request waits for its end, and no longer; the others wait for all of the drain, and
        // cut nothing.
        let sees = router.sees_open_requests() || std::thread::current().name() == Some("command");
        let drain = Duration::from_secs(if sees { 600 } else { 2 });
        assert_eq!(router.retire(Half::Green, drain).unwrap(), 0, "nothing was cut");
        assert_eq!(long.join().unwrap().unwrap().as_deref(), Some("1.1"));
    });
}

#[test]
fn a_restart_in_the_middle_of_a_promotion_ends_on_one_side_and_never_between() {
    every_kind(|case, router| {
        let kind = std::thread::current().name().unwrap().to_owned();
        let folder = case.folder.path();
        let promote = |argument: &str| call("promote", folder, &[argument]);
        // Its first step stands in force until the router has restarted.
        let path = folder.join("release.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("bake: 500ms", "bake: 10m", 1)).unwrap();
        let started = promote("start");
        assert_eq!(started.code, 0, "{}", started.stderr);
        assert_eq!(promote("pause").code, 0);
        end_the_bake(folder);
        let mut running = tool("promote", folder)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the pause to hold it", || promote("status").stdout.contains("paused it before step 2"));
        assert!(router.read().unwrap().green > 0.05);
        case.server.restart();
        // It may have gone back already.
        let resumed = promote("resume");
        assert!([0, 5].contains(&resumed.code), "{kind}: {}", resumed.stderr);
        // Where the weight was lost and put back the bake begins anew: nobody waits for that here.
        let ended = wait_for("the end of the job", || {
            std::thread::sleep(Duration::from_millis(200));
            let skipped = call("promote", folder, &["skip", "--reason", "it was put back"]);
            assert!([0, 1, 5].contains(&skipped.code), "{kind}: {}", skipped.stderr);
            running.try_wait().unwrap()
        });
        let code = ended.code();
        let document = json(&case.folder.path().join("evidence/promote.json"));
        let told = format!("{kind}: {code:?}, {}", document["promotion"]["reason"]);
        match code {
            Some(0) => case.everybody_meets("1.1"),
            Some(1) => case.everybody_meets("1.0"),
            _ => panic!("{told}"),
        }
        figure(&told);
    });
}

#[test]
fn a_way_back_that_cannot_be_confirmed_stays_on_disk_and_a_way_forward_does_not() {
    every_kind(|case, router| {
        // The others keep their split in memory.
        if !["nginx", "envoy", "traefik"].contains(&std::thread::current().name().unwrap()) {
            return;
        }
        router.set(split(0.5)).unwrap();
        case.server.halt();
        let path = case.folder.path().join("release.yaml");
        let text = std::fs::read_to_string(&path).unwrap().replace("settle: 60s", "settle: 1s");
        std::fs::write(&path, text.replace("timeout: 60s, kind", "timeout: 1s, kind")).unwrap();
        let mut router = case.open();
        router.set(split(0.9)).unwrap_err();
        case.server.begin_again();
        assert_eq!(percent(case, router.as_mut()), 50);
        case.server.halt();
        router.set(Split { green: 0.0, close_idle_side: true }).unwrap_err();
        // Somebody starts it again, or reloads it for another reason.
        case.server.begin_again();
        assert_eq!(percent(case, router.as_mut()), 0);
        case.everybody_meets("1.0");
    });
}

/// Green's share as the router reads it back, in percent.
fn percent(case: &Case, router: &mut dyn Router) -> u32 {
    let live = crate::support::wait_for("the router", || router.read().ok());
    let shown = format!("{:?} at {}", live, case.server.url());
    (0..=100).find(|p| same_share(f64::from(*p) / 100.0, live.green)).expect(&shown)
}
