//! nginx as its operator and its users see it: servers that fail for a moment, files that people wrote, links, several
//! servers a side, and what nginx says when it refuses.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use trapkey::fault::Fault;
use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Side as Half, Split};
use trapkey::world::http::Client;

use super::*;
use crate::support::nginx::REQUESTS;

mod field;
mod refused;
mod written;

/// A server that answers with its name, and for a moment cuts every connection as one that restarts does.
struct Server {
    name: &'static str,
    port: u16,
    cuts: Arc<AtomicBool>,
}

impl Server {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&cuts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !shared.load(Ordering::SeqCst) {
                    std::thread::spawn(move || answer(stream, name));
                }
            }
        });
        Self { name, port, cuts }
    }

    /// It fails for so many users, and is well again.
    fn hiccups(servers: &[&Server], users: impl FnOnce()) {
        let all_cut = |cut| {
            for server in servers {
                server.cuts.store(cut, Ordering::SeqCst);
            }
        };
        all_cut(true);
        users();
        all_cut(false);
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    let text =
        format!("HTTP/1.1 200 x\r\nconnection: close\r\nx-release: {name}\r\ncontent-length: 2\r\n\r\nok");
    let _ = stream.write_all(text.as_bytes());
}

/// nginx in front of servers, and the router of a plan for it.
struct Behind {
    folder: tempfile::TempDir,
    nginx: Nginx,
}

impl Behind {
    /// With these upstreams in its include file, and one worker: then weights are met exactly.
    fn new(upstreams: &str, pass: &str) -> Self {
        let folder = folder();
        let nginx = Nginx::with(folder.path(), upstreams, pass, REQUESTS);
        let mut behind = Self { folder, nginx };
        behind.configure(|text| text.replace("worker_processes 2;", "worker_processes 1;"));
        behind
    }

    /// In front of one server a side, everything on blue.
    fn pair(blue: &Server) -> Self {
        Self::new(&format!("upstream shop {{\n    server 127.0.0.1:{};\n}}\n", blue.port), "shop")
    }

    /// Starts it again with its main configuration changed.
    fn configure(&mut self, change: impl FnOnce(&str) -> String) {
        let text = std::fs::read_to_string(&self.nginx.config).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed);
        std::fs::write(&self.nginx.config, changed).unwrap();
        self.nginx.restart();
    }

    /// The router of a plan with these sides, and `more` among its settings.
    fn router(&self, blue: &str, green: &str, more: &str) -> Box<dyn Router> {
        self.open(&self.nginx.block(blue, green, more))
    }

    fn open(&self, block: &str) -> Box<dyn Router> {
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let path = self.folder.path().join("release.yaml");
        std::fs::write(&path, plan(block, &blue, &green, SHORT, "")).unwrap();
        let loaded = Loaded::read(&path, BTreeMap::new()).unwrap();
        routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
    }

    fn between(&self, blue: &Server, green: &Server) -> Box<dyn Router> {
        self.router(&at(blue), &at(green), "")
    }

    /// Puts a split into force, and waits until the workers of before are gone: what the status location says, an old
    /// one that got no processor may not have heard of yet.
    fn set(&self, router: &mut dyn Router, split: Split) {
        self.reloaded(|| router.set(split).unwrap());
    }

    /// Runs commands as they are printed, and waits for their reload.
    fn by_hand(&self, commands: &[String]) {
        self.reloaded(|| {
            for command in commands {
                let ended = Command::new("sh").args(["-c", command]).output().unwrap();
                assert!(ended.status.success(), "{command}: {}", String::from_utf8_lossy(&ended.stderr));
            }
        });
    }

    fn reloaded(&self, change: impl FnOnce()) {
        let before = self.nginx.workers();
        change();
        wait_until("the new workers alone", || {
            let now = self.nginx.workers();
            !now.is_empty() && !now.iter().any(|worker| before.contains(worker))
        });
    }

    /// How many of so many requests each server answered, and each status that is not 200.
    fn met(&self, requests: usize) -> BTreeMap<String, usize> {
        let client = Client::new(ANSWER);
        let mut met = BTreeMap::new();
        for _ in 0..requests {
            let answer = wait_for("an answer of nginx", || client.get(&self.nginx.url()).ok());
            let by = answer.header("x-release").map_or(answer.status.to_string(), str::to_owned);
            *met.entry(by).or_default() += 1;
        }
        met
    }
}

/// A server of a side, as a plan has it.
fn at(server: &Server) -> String {
    format!("\"127.0.0.1:{}\"", server.port)
}

fn only(server: &Server, requests: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(server.name.to_owned(), requests)])
}

fn counts(of: &[(&Server, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|(server, met)| (server.name.to_owned(), *met)).collect()
}

fn forward(green: f64) -> Split {
    Split { green, close_idle_side: false }
}

const BACK: Split = Split { green: 0.0, close_idle_side: true };

/// A server that serves everybody fails for a moment: those users see it, and nobody later.
fn survives(behind: &Behind, server: &Server, when: &str) {
    assert_eq!(behind.met(20), only(server, 20), "{when}");
    Server::hiccups(&[server], || {
        assert_eq!(behind.met(20), BTreeMap::from([("502".into(), 20)]), "{when}: it has failed");
    });
    assert_eq!(behind.met(100), only(server, 100), "{when}: it is well again");
}

#[test]
fn a_moment_of_failure_of_the_side_that_serves_costs_no_later_request() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let behind = Behind::pair(&blue);
    let mut router = behind.between(&blue, &green);
    router.check().unwrap();
    survives(&behind, &blue, "with the first file, as the documentation has it");
    behind.set(router.as_mut(), forward(0.5));
    behind.set(router.as_mut(), forward(1.0));
    survives(&behind, &green, "with everybody on green");
    behind.set(router.as_mut(), forward(0.5));
    behind.set(router.as_mut(), BACK);
    survives(&behind, &blue, "after a rollback");
    behind.by_hand(&router.by_hand(Half::Green));
    assert_eq!(behind.met(40), only(&green, 40));
    survives(&behind, &green, "after the commands for use by hand");
}

#[test]
fn a_file_of_an_earlier_version_is_read_taken_over_and_repaired() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let (b, g) = (blue.port, green.port);
    let old = |first: u16, second: u16| {
        format!(
            "# Written by Trapkey; the next shift overwrites it. Green has 0 %.\nupstream shop {{\n    server 127.0.0.1:{first} weight=1;\n    server 127.0.0.1:{second} down;\n}}\n"
        )
    };
    let behind = Behind::new(&old(b, g), "shop");
    // This is how nginx is: beside a server that is down it takes the other one out, and nobody is left.
    Server::hiccups(&[&blue], || drop(behind.met(20)));
    assert_eq!(behind.met(20), BTreeMap::from([("502".into(), 20)]));
    let mut router = behind.between(&blue, &green);
    router.check().unwrap();
    let live = router.read().unwrap();
    assert!((live.green, live.strangers.len()) == (0.0, 0), "{live:?}");
    let over = behind.between(&green, &blue).read().unwrap();
    assert!((over.green - 1.0).abs() < 1e-12, "the sides have changed places: {over:?}");
    // The same share, and yet another file.
    behind.set(router.as_mut(), forward(0.0));
    assert!(behind.nginx.names_only(b), "{}", behind.nginx.held());
    survives(&behind, &blue, "after the file was repaired");
    // The way by hand works on an old file too, in both directions.
    for (side, server) in [(Half::Green, &green), (Half::Blue, &blue)] {
        let stamp = "map \"\" $trapkey_split { default \"trapkey old 0\"; }\n";
        std::fs::write(&behind.nginx.include, old(b, g) + stamp).unwrap();
        behind.by_hand(&router.by_hand(side));
        assert_eq!(behind.met(40), only(server, 40));
        assert!(behind.nginx.names_only(server.port), "{}", behind.nginx.held());
    }
}

#[test]
fn while_both_sides_serve_a_moment_of_failure_leaves_the_split_as_it_was() {
    let (blue, green) = (Server::start("blue"), Server::start("green"));
    let behind = Behind::pair(&blue);
    let mut router = behind.between(&blue, &green);
    for (share, of_blue, of_green) in [(0.1, 90, 10), (0.5, 50, 50)] {
        behind.set(router.as_mut(), forward(share));
        assert_eq!(behind.met(100), counts(&[(&blue, of_blue), (&green, of_green)]));
        // nginx asks the other side when one fails, and no user sees it.
        Server::hiccups(&[&blue], || assert_eq!(behind.met(20), only(&green, 20)));
        // Whom it asked last counts for whom it asks next: within one of the share.
        let near = |met: &BTreeMap<String, usize>| {
            let green = met.get("green").copied().unwrap_or_default();
            met.values().sum::<usize>() == 100 && green.abs_diff(of_green) <= of_green / 2 && met.len() == 2
        };
        let met = behind.met(100);
        assert!(near(&met), "{share}: {met:?}");
        Server::hiccups(&[&green], || assert_eq!(behind.met(20), only(&blue, 20)));
        let met = behind.met(100);
        assert!(near(&met), "{share}: {met:?}");
        // Both at once, as when what both need is gone for a moment.
        Server::hiccups(&[&blue, &green], || assert_eq!(behind.met(5), BTreeMap::from([("502".into(), 5)])));
        let met = behind.met(100);
        assert!(near(&met), "{share}: {met:?}");
    }
}

#[test]
fn several_servers_with_unequal_weights_share_what_their_side_has_at_every_step() {
    let [b1, b2, g1, g2] = ["b1", "b2", "g1", "g2"].map(Server::start);
    let text = format!(
        "upstream shop {{\n server 127.0.0.1:{} weight=2;\n server 127.0.0.1:{};\n keepalive 4;\n}}\n",
        b1.port, b2.port
    );
    let behind = Behind::new(&text, "shop");
    let blue = format!("[\"127.0.0.1:{} weight=2\", {}]", b1.port, at(&b2));
    let green = format!(
        "[{}, \"127.0.0.1:{} weight=3 max_fails=2 fail_timeout=5s max_conns=500\"]",
        at(&g1),
        g2.port
    );
    let mut router = behind.router(&blue, &green, ", lines: [\"keepalive 4;\"]");
    router.check().unwrap();
    // Of 3 and 4 parts of a side and tenths of a share, one round of nginx's has 120 requests at most.
    for (share, met) in [
        (0.0, [80, 40, 0, 0]),
        (0.1, [72, 36, 3, 9]),
        (0.5, [40, 20, 15, 45]),
        (0.75, [20, 10, 22, 68]),
        (1.0, [0, 0, 30, 90]),
        (0.0, [80, 40, 0, 0]),
    ] {
        behind.set(router.as_mut(), forward(share));
        assert!(same_share(router.read().unwrap().green, share));
        let expected: usize = met.iter().sum();
        let found = behind.met(expected);
        for (server, expected) in [&b1, &b2, &g1, &g2].into_iter().zip(met) {
            let of_it = found.get(server.name).copied().unwrap_or_default();
            assert!(of_it.abs_diff(expected) <= 1, "{share}: {} of {expected}, {found:?}", server.name);
        }
    }
    let held = behind.nginx.held();
    let inside = format!(
        "upstream shop {{\n    server 127.0.0.1:{} weight=2;\n    server 127.0.0.1:{};\n    keepalive 4;\n}}\n",
        b1.port, b2.port
    );
    assert!(held.contains(&inside), "{held}");
    for (side, servers) in [(Half::Green, [(&g1, 10), (&g2, 30)]), (Half::Blue, [(&b2, 10), (&b1, 20)])] {
        behind.by_hand(&router.by_hand(side));
        let requests = servers.iter().map(|(_, met)| met).sum();
        assert_eq!(behind.met(requests), counts(&servers));
        let share = if side == Half::Green { 1.0 } else { 0.0 };
        assert!(same_share(router.read().unwrap().green, share));
    }
}

#[test]
fn sides_apart_keep_the_split_and_the_failures_to_themselves() {
    let [b1, b2, green] = ["b1", "b2", "green"].map(Server::start);
    let named = format!(
        "upstream shop_blue {{ server 127.0.0.1:{}; server 127.0.0.1:{}; least_conn; }}\nupstream shop_green {{ server 127.0.0.1:{}; least_conn; }}\n\
         map \"\" $trapkey_upstream {{ default shop_blue; }}\n",
        b1.port, b2.port, green.port
    );
    let behind = Behind::new(&named, "$trapkey_upstream");
    let blue = format!("[{}, {}]", at(&b1), at(&b2));
    let mut router = behind.router(&blue, &at(&green), ", apart: true, lines: [\"least_conn;\"]");
    router.check().unwrap();
    assert!(same_share(router.read().unwrap().green, 0.0));
    behind.set(router.as_mut(), forward(0.25));
    assert!(same_share(router.read().unwrap().green, 0.25));
    // Five standard deviations of a binomial: sqrt(400 · 0.25 · 0.75) is 8.7.
    let share = |met: &BTreeMap<String, usize>| {
        let of_green = met.get("green").or(met.get("502")).copied().unwrap_or_default();
        assert!((56..=144).contains(&of_green), "{met:?}");
    };
    share(&behind.met(400));
    // A dead green is seen as what it is, and its users do not move.
    Server::hiccups(&[&green], || {
        let met = behind.met(400);
        share(&met);
        assert!(!met.contains_key("green") && met.contains_key("502"), "{met:?}");
    });
    share(&behind.met(400));
    // A server of blue that fails is left to the other one of blue.
    Server::hiccups(&[&b1], || {
        let met = behind.met(400);
        share(&met);
        assert!(!met.contains_key("502"), "{met:?}");
    });
    behind.set(router.as_mut(), forward(1.0));
    assert_eq!(behind.met(50), only(&green, 50));
    behind.by_hand(&router.by_hand(Half::Blue));
    assert!(!behind.met(50).contains_key("green"));
    assert!(same_share(router.read().unwrap().green, 0.0));
    behind.by_hand(&router.by_hand(Half::Green));
    assert_eq!(behind.met(50), only(&green, 50));
    behind.set(router.as_mut(), BACK);
    assert!(!behind.met(50).contains_key("green"));
}

#[test]
fn a_promotion_with_several_servers_goes_back_and_then_all_the_way() {
    let folder = folder();
    let [blue, blue2, green, green2] = ["1.0", "1.0", "1.1", "1.1"].map(Side::start);
    let own = |side: &Side, more: &str| format!("\"127.0.0.1:{}{more}\"", side.port);
    let inside = |one: &Side, two: &Side| {
        format!(
            "upstream shop {{\n    server 127.0.0.1:{} weight=3;\n    server 127.0.0.1:{};\n}}\n",
            one.port, two.port
        )
    };
    let nginx = Nginx::with(folder.path(), &inside(&blue, &blue2), "shop", REQUESTS);
    let sides = [(&blue, &blue2), (&green, &green2)];
    let [b, g] = sides.map(|(one, two)| format!("[{}, {}]", own(one, " weight=3"), own(two, "")));
    std::fs::write(
        folder.path().join("release.yaml"),
        plan(&nginx.block(&b, &g, ""), &blue, &green, SHORT, ""),
    )
    .unwrap();
    green.answers.fail_every.store(2, Ordering::SeqCst);
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(nginx.held().contains(&inside(&blue, &blue2)), "{}", nginx.held());
    green.answers.fail_every.store(0, Ordering::SeqCst);
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(nginx.held().contains(&inside(&green, &green2)), "{}", nginx.held());
    assert!(blue2.served() > 0 && green2.served() > 0, "every server of a side had users");
}

#[test]
fn a_promotion_goes_all_the_way_with_the_sides_apart() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let nginx = Nginx::splitting(folder.path(), blue.port, green.port, REQUESTS);
    let block = nginx.block(
        &format!("\"127.0.0.1:{}\"", blue.port),
        &format!("\"127.0.0.1:{}\"", green.port),
        ", apart: true",
    );
    std::fs::write(folder.path().join("release.yaml"), plan(&block, &blue, &green, SHORT, "")).unwrap();
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let promotion = json(&folder.path().join("evidence/promote.json"))["promotion"].clone();
    assert_eq!(promotion["shifts"][2]["probed"]["green"], 20);
}

fn same_share(a: f64, b: f64) -> bool {
    routers::same_share(a, b)
}

/// The error of a set, in full.
fn refused(router: &mut dyn Router, split: Split) -> String {
    let fault: Fault = router.set(split).unwrap_err();
    assert_eq!(fault.exit, trapkey::fault::Exit::Infrastructure, "{fault}");
    fault.to_string()
}

/// A further file of the configuration, inside `http`.
fn other_file(behind: &mut Behind, text: &str) -> PathBuf {
    let other = behind.folder.path().join("other.conf");
    std::fs::write(&other, text).unwrap();
    let include = format!("access_log off; include {};", other.display());
    behind.configure(|config| config.replace("access_log off;", &include));
    other
}
