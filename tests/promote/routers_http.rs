//! Routers that are steered over HTTP or by a command, when the other end is gone, mute, mad or
//! somebody else's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use regex::Regex;
use trapkey::fault::{Exit, Fault};
use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Side as Half, Split, same_share};

use super::*;
use crate::support::caddy::Caddy;
use crate::support::free_port;
use crate::support::traefik::Traefik;

/// Opens a `router:` block.
fn try_open(folder: &Path, router: &str) -> Result<Box<dyn Router>, Fault> {
    let text = format!(
        "version: 1\nservice: s\nrelease: {{version: 1}}\npromote:\n  strategy: blue_green\n  router: {}\n  \
         sides: {{blue: {{url: \"http://127.0.0.1:1\"}}, green: {{url: \"http://127.0.0.1:2\"}}}}\n",
        patient(router)
    );
    let path = folder.join("release.yaml");
    std::fs::write(&path, text).unwrap();
    let loaded = Loaded::read(&path, BTreeMap::new())?;
    routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded)
}

fn open(folder: &Path, router: &str) -> Box<dyn Router> {
    try_open(folder, router).unwrap_or_else(|fault| panic!("{fault}"))
}

fn split(green: f64) -> Split {
    Split { green, close_idle_side: false }
}

/// Two sides, and how requests through a router meet them.
struct Users {
    folder: tempfile::TempDir,
    blue: Side,
    green: Side,
}

impl Users {
    fn new() -> Self {
        Self { folder: folder(), blue: Side::start("1.0"), green: Side::start("1.1") }
    }

    /// The version that each of so many requests with these headers meets, as one text: `b` and `g`.
    fn meet(url: &str, headers: &[(&str, &str)], requests: u32) -> String {
        let client = trapkey::world::http::Client::new(ANSWER);
        let mut request = trapkey::world::http::Request::get(url);
        request.headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let one = |_| match client.send(&request).unwrap().header("x-release") {
            Some("1.1") => 'g',
            Some("1.0") => 'b',
            other => panic!("{other:?}"),
        };
        (0..requests).map(one).collect()
    }
}

/// Answers every connection with these bytes; with none it takes the connection and says nothing.
fn answers_with(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut mute = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(ANSWER));
            let _ = stream.read(&mut [0; 4096]);
            if bytes.is_empty() {
                mute.push(stream);
            } else {
                let _ = stream.write_all(bytes);
            }
        }
    });
    port
}

#[test]
fn a_control_plane_that_is_gone_hangs_or_babbles_is_a_named_fault() {
    let others: [(&str, u16); 6] = [
        ("gone", free_port()),
        ("mute", answers_with(b"")),
        ("no HTTP", answers_with(b"\xff\xfe what?\r\n\r\n")),
        ("no JSON", answers_with(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")),
        (
            "wrong JSON",
            answers_with(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 17\r\n\r\n{\"weighted\": [5]}",
            ),
        ),
        ("sick", answers_with(b"HTTP/1.1 500 x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")),
    ];
    let entry = Regex::new("entry: \"[^\"]*\", ").unwrap();
    let address = Regex::new(r"127\.0\.0\.1:([0-9]+)").unwrap();
    let mut over_http = Vec::new();
    for kind in routers::ALL {
        let users = Users::new();
        let (blue, green) = (users.blue.port, users.green.port);
        let server = router::start(kind.name, users.folder.path(), blue, green);
        let block = entry.replace(&server.router(blue, green), "").into_owned();
        let is_side = |port: &str| [blue, green].iter().any(|side| side.to_string() == port);
        if !address.captures_iter(&block).any(|found| !is_side(&found[1])) {
            continue;
        }
        over_http.push(kind.name);
        for (how, port) in others {
            let bad = address.replace_all(&block, |found: &regex::Captures<'_>| {
                if is_side(&found[1]) { found[0].to_owned() } else { format!("127.0.0.1:{port}") }
            });
            // Only who says nothing is left by the clock.
            let limit = if how == "mute" { "timeout: 300ms, with:" } else { "timeout: 60s, with:" };
            let mut router = open(users.folder.path(), &bad.replacen("with:", limit, 1));
            let held = server.held();
            for (what, fault) in [("read", router.read().err()), ("check", router.check().err())] {
                let fault = fault.unwrap_or_else(|| panic!("{}: {how}: {what} went well", kind.name));
                assert_eq!(fault.exit, Exit::Infrastructure, "{}: {how}: {what}: {fault}", kind.name);
                assert!(
                    fault.to_string().contains(&port.to_string()),
                    "{}: {how}: no address: {fault}",
                    kind.name
                );
            }
            assert_eq!(server.held(), held, "{}: {how}", kind.name);
        }
    }
    // Whoever else is steered over HTTP is found by the address in its block.
    for kind in ["nginx", "traefik", "caddy"] {
        assert!(over_http.contains(&kind), "{over_http:?}");
    }
    for kind in routers::ALL.iter().filter(|kind| !over_http.contains(&kind.name)) {
        assert!(["haproxy", "command"].contains(&kind.name), "{} was not looked at", kind.name);
    }
}

#[test]
fn traefik_that_does_not_answer_gets_no_new_file() {
    let users = Users::new();
    let traefik = Traefik::start(users.folder.path(), users.blue.port, users.green.port);
    let block = traefik.router(0, 0).replace(&format!(":{}\"", traefik.api), &format!(":{}\"", free_port()));
    let held = traefik.held();
    let fault = open(users.folder.path(), &block).set(split(0.5)).unwrap_err();
    assert!(fault.to_string().contains("Traefik does not answer"), "{fault}");
    assert_eq!(traefik.held(), held);
}

#[test]
fn traefik_takes_a_file_that_lay_there_unread_as_no_proof() {
    let users = Users::new();
    let traefik = Traefik::start(users.folder.path(), users.blue.port, users.green.port);
    let block = traefik.router(0, 0).replacen("service: shop,", "service: shop, settle: 8s,", 1);
    let mut router = open(users.folder.path(), &traefik.router(0, 0));
    router.set(split(0.5)).unwrap();
    let half = traefik.held();
    router.set(split(0.0)).unwrap();
    // As left by a job that was killed behind its rename: what runs is still 0.
    std::fs::write(traefik.file.with_extension("tmp"), half).unwrap();
    std::fs::rename(traefik.file.with_extension("tmp"), &traefik.file).unwrap();
    open(users.folder.path(), &block).set(split(0.0)).unwrap();
    assert_eq!(Users::meet(&traefik.url(), &[], 40), "b".repeat(40));
    assert!(same_share(router.read().unwrap().green, 0.0));
}

#[test]
fn traefik_that_rejects_the_directory_leaves_the_old_split_on_disk() {
    let users = Users::new();
    let traefik = Traefik::start(users.folder.path(), users.blue.port, users.green.port);
    let block = traefik.router(0, 0).replacen("service: shop,", "service: shop, settle: 500ms,", 1);
    let mut router = open(users.folder.path(), &block);
    let held = traefik.held();
    // Any broken file in the directory holds up all of them.
    std::fs::write(traefik.file.with_file_name("other.yml"), "http: [").unwrap();
    let fault = router.set(split(0.5)).unwrap_err();
    assert!(fault.to_string().contains("has not taken the new split"), "{fault}");
    assert_eq!(traefik.held(), held);
    assert_eq!(Users::meet(&traefik.url(), &[], 10), "b".repeat(10));
}

#[test]
fn traefik_sends_who_matches_to_green_and_nobody_else() {
    for (key, with, without) in [
        ("header: X-Beta", ("x-beta", "1"), ("x-beta", "11")),
        ("cookie: beta", ("cookie", "a=b; beta=1"), ("cookie", "beta=11; a=beta=1")),
    ] {
        let users = Users::new();
        let traefik = Traefik::start(users.folder.path(), users.blue.port, users.green.port);
        let split_by = format!("split: {{by: match, {key}, value: \"1\"}}, entry:");
        let block = traefik.router(0, 0).replacen("entry:", &split_by, 1);
        let mut router = open(users.folder.path(), &block);
        router.check().unwrap();
        for (green, matching, others) in [
            (0.0, 'b', 'b'),
            (0.05, 'g', 'b'),
            (0.5, 'g', 'b'),
            (1.0, 'g', 'g'),
            (0.25, 'g', 'b'),
            (0.0, 'b', 'b'),
        ] {
            router.set(split(green)).unwrap();
            assert!(same_share(router.read().unwrap().green, green), "{key} {green}");
            let ten = |side: char| side.to_string().repeat(10);
            assert_eq!(Users::meet(&traefik.url(), &[with], 10), ten(matching), "{key} {green}");
            assert_eq!(Users::meet(&traefik.url(), &[without], 10), ten(others), "{key} {green}");
            assert_eq!(Users::meet(&traefik.url(), &[], 10), ten(others), "{key} {green}");
            let held = traefik.held();
            router.set(split(green)).unwrap();
            assert_eq!(traefik.held(), held);
        }
        router.set(split(0.5)).unwrap();
        for command in router.by_hand(Half::Blue) {
            assert!(
                Command::new("sh").args(["-c", &command]).output().unwrap().status.success(),
                "{command}"
            );
        }
        assert!(same_share(router.read().unwrap().green, 0.0));
        assert_eq!(Users::meet(&traefik.url(), &[with], 10), "b".repeat(10));
    }
}

#[test]
fn a_sticky_user_of_traefik_leaves_the_bad_side_with_the_next_request() {
    let users = Users::new();
    let traefik = Traefik::start(users.folder.path(), users.blue.port, users.green.port);
    let block = traefik.router(0, 0).replacen("service: shop,", "service: shop, sticky: side,", 1);
    let mut router = open(users.folder.path(), &block);
    router.set(split(1.0)).unwrap();
    let client = trapkey::world::http::Client::new(ANSWER);
    let cookie = client.get(&traefik.url()).unwrap().header("set-cookie").unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();
    router.set(split(0.05)).unwrap();
    assert_eq!(Users::meet(&traefik.url(), &[("cookie", cookie)], 20), "g".repeat(20));
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    assert_eq!(Users::meet(&traefik.url(), &[("cookie", cookie)], 20), "b".repeat(20));
}

/// A way to Caddy's admin API on which somebody else is faster: before a change comes through, the
/// configuration is changed.
fn overtaking(admin: u16, other: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = move |request: &str| -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
        stream.write_all(request.replace(&format!(":{port}"), &format!(":{admin}")).as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    // Caddy opens its admin API anew with every change: a connection of that moment is reset.
    let send = move |request: &str| -> Vec<u8> {
        wait_for("an answer of Caddy", || ask(request).ok().filter(|answer| !answer.is_empty()))
    };
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut request, mut length) = (String::new(), 0);
            while !request.ends_with("\r\n\r\n") {
                let start = request.len();
                assert!(reader.read_line(&mut request).unwrap() > 0, "{request}");
                if let Some(number) = request[start..].strip_prefix("content-length: ") {
                    length = number.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            request.push_str(&String::from_utf8(body).unwrap());
            if request.starts_with("PATCH") {
                send(&other);
            }
            let _ = stream.write_all(&send(&request));
        }
    });
    port
}

#[test]
fn a_split_that_somebody_else_sets_in_caddy_meanwhile_is_not_overwritten() {
    let users = Users::new();
    let (blue, green) = (users.blue.port, users.green.port);
    let caddy = Caddy::start(users.folder.path(), blue);
    let body = format!("[{{\"dial\":\"127.0.0.1:{green}\"}}]");
    let other = format!(
        "PATCH /id/shop/upstreams HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        caddy.admin,
        body.len()
    );
    let way = overtaking(caddy.admin, other);
    let block = caddy.router(blue, green).replace(&format!(":{}\"", caddy.admin), &format!(":{way}\""));
    let fault = open(users.folder.path(), &block).set(split(0.5)).unwrap_err();
    assert!(fault.to_string().contains("somebody else changed Caddy's configuration"), "{fault}");
    assert_eq!(fault.exit, Exit::Infrastructure);
    let mut router = open(users.folder.path(), &caddy.router(blue, green));
    assert!(same_share(router.read().unwrap().green, 1.0), "what the other one set stands");
    router.set(split(0.0)).unwrap();
    assert_eq!(Users::meet(&caddy.url(), &[], 10), "b".repeat(10));
}

#[test]
fn caddy_is_steered_by_the_path_of_a_handler_too_and_keeps_what_else_is_set() {
    let users = Users::new();
    let (blue, green) = (users.blue.port, users.green.port);
    let caddy = Caddy::start(users.folder.path(), blue);
    let path = "apps/http/servers/srv0/routes/0/handle/0";
    let limit = format!(
        "curl -fsS -X PATCH -H 'content-type: application/json' -d '[{{\"dial\": \"127.0.0.1:{blue}\", \"max_requests\": 7}}]' http://127.0.0.1:{}/config/{path}/upstreams",
        caddy.admin
    );
    assert!(Command::new("sh").args(["-c", &limit]).status().unwrap().success());
    let mut router =
        open(users.folder.path(), &caddy.router(blue, green).replace("id: shop", &format!("path: {path}")));
    router.check().unwrap();
    for share in [0.25, 1.0, 0.5] {
        router.set(split(share)).unwrap();
        assert!(same_share(router.read().unwrap().green, share));
    }
    let met = Users::meet(&caddy.url(), &[], 20);
    assert_eq!(met.matches('g').count(), 10, "{met}");
    let handler: Value = serde_json::from_str(&caddy.ask("/id/shop")).unwrap();
    let upstreams = handler["upstreams"].as_array().unwrap();
    assert!(upstreams.len() == 2 && upstreams.iter().all(|u| u["max_requests"] == 7), "{handler}");
    assert_eq!(handler["load_balancing"]["selection_policy"]["policy"], "round_robin");
}

#[test]
fn what_a_router_lacks_is_said_with_what_to_write() {
    let users = Users::new();
    let (blue, green) = (users.blue.port, users.green.port);
    let path = users.folder.path();
    let lacks = |block: &str, what: &str, help: &str| {
        let fault = open(path, block).check().unwrap_err();
        assert_eq!(fault.exit, Exit::Usage, "{fault}");
        let text = fault.to_string();
        assert!(text.contains(what) && text.contains(help), "{text}");
    };
    let traefik = Traefik::start(path, blue, green);
    let block = traefik.router(blue, green);
    lacks(&block.replace("/split.yml", "/none.yml"), "does not exist yet", "name: \"shop-blue\", weight: 1");
    lacks(&block.replace("/split.yml", "/shop.yml"), "may overwrite", "a file of its own");
    lacks(
        &block.replace("service: shop,", "service: other,"),
        "knows no service `other@file`",
        "watch: true",
    );
    // What is missing of green alone a deploy hook may bring.
    let mut without = open(path, &block.replace("green: shop-green", "green: nowhere"));
    without.check().unwrap();
    let fault = without.green_is_known().unwrap_err();
    assert_eq!(fault.exit, Exit::Usage, "{fault}");
    let text = fault.to_string();
    assert!(text.contains("no working service `nowhere@file`") && text.contains("loadBalancer"), "{text}");
    let held = traefik.held();
    let by_match = "split: {by: match, header: x-beta, value: \"1\"}, entry:";
    let matching = block.replacen("entry:", by_match, 1).replace("router: shop,", "router: none,");
    lacks(&matching, "no router `none@file`", "with.router");
    // Swapped whole: Traefik would read a file that is half written.
    let shop = traefik.file.with_file_name("shop.yml");
    let text = std::fs::read_to_string(&shop).unwrap().replace("service: shop}", "service: shop-blue}");
    std::fs::write(shop.with_extension("tmp"), text).unwrap();
    std::fs::rename(shop.with_extension("tmp"), &shop).unwrap();
    wait_until("Traefik to load it", || open(path, &block).check().is_err());
    lacks(&block, "no router of Traefik uses", "Host(");
    assert_eq!(traefik.held(), held);

    let caddy = Caddy::start(path, blue);
    let block = caddy.router(blue, green);
    let held = caddy.held();
    lacks(&block.replace("id: shop", "id: other"), "no reverse proxy there", "\"@id\": \"shop\"");
    for wrong in [
        "apps/http/servers/srv0/routes/7/handle/0",
        "apps/none/x",
        "apps/http/none",
        "apps/http/servers/srv0",
    ] {
        lacks(
            &block.replace("id: shop", &format!("path: {wrong}")),
            "no reverse proxy there",
            "curl http://127.0.0.1:",
        );
    }
    lacks(
        &block.replace(&format!("blue: \"127.0.0.1:{blue}"), "blue: \"127.0.0.1:1"),
        "on neither side",
        "take it out",
    );
    assert_eq!(caddy.held(), held);
    let least = format!(
        "curl -fsS -X PATCH -H 'content-type: application/json' -d '{{\"policy\": \"least_conn\"}}' http://127.0.0.1:{}/id/shop/load_balancing/selection_policy",
        caddy.admin
    );
    assert!(Command::new("sh").args(["-c", &least]).status().unwrap().success());
    lacks(&block, "balances by `least_conn`", "round_robin");
}

#[test]
fn what_could_break_out_of_a_configuration_or_cannot_be_done_is_refused_before_anything_moves() {
    let folder = folder();
    let traefik = |more: &str| format!("{{kind: traefik, target: split.yml, {more}}}");
    let caddy = |more: &str| format!("{{kind: caddy, target: \"http://127.0.0.1:2019\", {more}}}");
    let command = |more: &str| format!("{{kind: command, target: edge, {more}}}");
    let by_match = "split: {by: match, header: x, value: \"1\"}";
    let by_user = "split: {by: user, cookie: uid}";
    let works = "with: {api: \"http://127.0.0.1:1\", service: shop, blue: b, green: g, router: r}";
    let cases = [
        (traefik("with: {api: \"http://x\", service: \"a: b\", blue: b, green: g}"), "no name of a Traefik"),
        (traefik("with: {api: \"http://x\", service: s, blue: \"b}\", green: g}"), "no name of a Traefik"),
        (traefik("with: {api: \"http://x\", service: s, blue: b, green: \"b@file\"}"), "the same service"),
        (traefik("with: {api: \"file:///x\", service: s, blue: b, green: g}"), "no http address"),
        (traefik(works).replace("split.yml", "split.json"), ".yml or .yaml"),
        (traefik(&format!("{by_user}, {works}")), "stable buckets"),
        (traefik(&format!("{by_match}, {}", works.replace(", router: r", ""))), "needs `with.router`"),
        (caddy("with: {id: \"a/../b\", blue: \"a:1\", green: \"b:1\"}"), "no id or path"),
        (caddy("with: {id: a, path: b, blue: \"a:1\", green: \"b:1\"}"), "not both"),
        (caddy("with: {id: a, blue: \"a:1\\r\\n\", green: \"b:1\"}"), "no host:port"),
        (caddy("with: {id: a, blue: \"a:1\", green: \"a:1\"}"), "the same address"),
        (
            caddy(&format!("{by_match}, with: {{id: a, blue: \"a:1\", green: \"b:1\"}}")),
            "cannot tell requests apart",
        ),
        (caddy(&format!("{by_user}, with: {{id: a, blue: \"a:1\", green: \"b:1\"}}")), "stable buckets"),
        (command("with: {set: [x], get: [y]}"), "where the share goes"),
        (command("with: {set: [x, \"{green}\"], get: []}"), "lists of words"),
        (command("with: {set: [x, \"{green}\"], get: [y], step: 0%}"), "`step` must lie"),
        (
            command(&format!("{by_match}, with: {{set: [x, \"{{green}}\"], get: [y]}}")),
            "cannot tell requests apart",
        ),
        (command(&format!("{by_user}, with: {{set: [x, \"{{green}}\"], get: [y]}}")), "stable buckets"),
    ];
    for (block, why) in cases {
        let fault = try_open(folder.path(), &block).err().unwrap_or_else(|| panic!("{block} was taken"));
        assert_eq!(fault.exit, Exit::Usage, "{fault}");
        assert!(fault.to_string().contains(why), "{block}: {fault}");
    }
    let mut fine = caddy("with: {id: a, blue: \"a:1\", green: \"b:1\"}");
    fine = fine.replace("http://127.0.0.1:2019", "http://127.0.0.1:x");
    open(folder.path(), &fine).read().unwrap_err();
    // One in a thousand is more than a list of 200 can say.
    let caddy = open(folder.path(), &caddy("with: {id: a, blue: \"a:1\", green: \"b:1\"}"));
    assert!(routers::representable(caddy.as_ref(), 0.001).is_err());
    assert!(routers::representable(caddy.as_ref(), 0.005).is_ok());
}

#[test]
fn a_command_that_fails_hangs_or_babbles_is_a_named_fault_with_its_last_words() {
    let folder = folder();
    let block = |set: &str, get: &str| {
        format!(
            "{{kind: command, target: edge, timeout: {}, with: {{set: [sh, -c, '{set}', sh, \"{{green_share}}\"], get: [sh, -c, '{get}']}}}}",
            if get.starts_with("sleep") { "300ms" } else { "60s" }
        )
    };
    for (get, why) in [
        ("echo no route >&2; exit 3", "exit 3: no route"),
        ("sleep 600", "did not end within its time"),
        ("echo hello", "it printed `hello`; one share is expected"),
        ("echo 5", "it printed `5`"),
        ("true", "it printed ``"),
        ("echo {}", "it printed `{}`"),
    ] {
        let mut router = open(folder.path(), &block("true", get));
        for fault in [router.read().unwrap_err(), router.check().unwrap_err()] {
            assert_eq!(fault.exit, Exit::Infrastructure);
            assert!(
                fault.to_string().contains(why) && fault.to_string().contains("`edge`"),
                "{get}: {fault}"
            );
        }
    }
    let mut router = open(folder.path(), &block("echo not allowed >&2; exit 9", "echo 0"));
    let fault = router.set(split(0.5)).unwrap_err().to_string();
    assert!(fault.contains("gives green 50 %") && fault.contains("exit 9: not allowed"), "{fault}");
    let fault = open(
        folder.path(),
        "{kind: command, target: edge, with: {set: [./none, \"{green}\"], get: [./none]}}",
    )
    .read()
    .unwrap_err();
    assert!(fault.to_string().contains("No such file"), "{fault}");
    // Both ways of saying it go round: what was set is what is told.
    let mut router = open(folder.path(), &block("echo $1 > share", "cat share"));
    router.set(split(0.025)).unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("share")).unwrap(), "0.025\n");
    assert!(same_share(router.read().unwrap().green, 0.025));
}
