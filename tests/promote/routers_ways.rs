//! Other ways to the old side, which router a promotion steers, weights that people set in the middle, and an HAProxy
//! that is set up otherwise than a promotion needs it.

use std::io::{Read as _, Write as _};

use super::*;

const HOOK: &str = "  hooks: {retire: [sh, -c, \"echo down >> retired.txt\"]}\n";
const HOUR: &str = "[{weight: 40%, bake: 1h}, {weight: 100%}]";

/// A stage whose HAProxy has a backend for administrators on blue's address.
fn with_an_admin_backend(more: &str) -> Stage {
    let mut stage = Stage::new(SHORT, more);
    stage.haproxy.lead_elsewhere(stage.blue.port);
    stage.haproxy.restart();
    stage
}

#[test]
fn whoever_comes_by_another_way_is_told_of_before_the_old_side_is_taken_down() {
    let stage = with_an_admin_backend(HOOK);
    let way = format!("server `a1` of the backend `admin` (127.0.0.1:{})", stage.blue.port);
    let live = stage.promote(&["plan", "--live"]);
    assert_eq!(live.code, 0, "{}", live.stdout);
    let told = format!(
        "warning  other ways         other ways of the router lead to the sides: to blue also lead {way}"
    );
    assert!(live.stdout.contains(&told), "{}", live.stdout);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let (warned, hook) = (
        ended.stderr.find(&format!("blue is taken down although other ways of the router lead to it: {way}")),
        ended.stderr.find("hook retire"),
    );
    assert!(warned.is_some() && warned < hook, "{}", ended.stderr);
    assert_eq!(stage.promotion()["other_ways"][0]["name"], "server `a1` of the backend `admin`");
    assert_eq!(call("report", stage.path(), &[]).code, 0);
    let book = std::fs::read_to_string(stage.path().join("evidence/runbook.md")).unwrap();
    assert!(
        book.contains("## Before the old side is taken down") && book.contains("of the backend"),
        "{book}"
    );

    // Where the plan asks for it, the hook waits.
    let mut stage = with_an_admin_backend(&format!("{HOOK}  retire_needs_durable: true\n"));
    let way = format!("server `a1` of the backend `admin` (127.0.0.1:{})", stage.blue.port);
    let retired = stage.path().join("retired.txt");
    let ended = stage.promote(&["run"]);
    assert_eq!((ended.code, retired.exists()), (0, false), "{}", ended.stderr);
    // What a reload would undo is mended, and the other way is left.
    for (from, to) in [("weight 100", "weight X"), ("weight 0", "weight 100"), ("weight X", "weight 0")] {
        stage.haproxy.edit(from, to);
    }
    stage.haproxy.restart();
    let step = stage.promote(&["step"]);
    assert_eq!((step.code, retired.exists()), (0, false), "{}", step.stderr);
    assert!(
        step.stderr.contains(&format!("blue is not taken down: other ways of the router lead to it: {way}")),
        "{}",
        step.stderr
    );
    stage.haproxy.edit("  server a1", "  # server a1");
    stage.haproxy.restart();
    let step = stage.promote(&["step"]);
    assert_eq!(
        (step.code, stage.phase().as_str(), retired.exists()),
        (0, "promoted", true),
        "{}",
        step.stderr
    );
}

#[test]
fn commands_of_nginx_are_mended_in_the_middle_and_another_file_is_another_router() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let nginx = Nginx::start(folder.path(), blue.port, green.port);
    let block = nginx.router(blue.port, green.port);
    let path = folder.path().join("release.yaml");
    let text = plan(&block, &blue, &green, "[{weight: 50%, bake: 1h}, {weight: 100%}]", "");
    // By a variable that may differ the text of the plan stays as it is.
    let text = text.replacen("service: shop\n", "service: shop\nmay_differ: [RELOADS]\n", 1);
    let text = text.replace("reload: [nginx, -s, reload,", "reload: [\"${RELOADS:-nginx}\", -s, reload,");
    std::fs::write(&path, &text).unwrap();
    let promote = |arguments: &[&str]| call("promote", folder.path(), arguments);
    let started = promote(&["start"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    let step = run(tool("promote", folder.path()).arg("step").env("RELOADS", "/usr/sbin/nginx"));
    assert_eq!(step.code, 0, "{}", step.stderr);
    // Another file, or another upstream, is another router.
    for (from, to) in [("/split.conf", "/other.conf"), ("upstream: shop,", "upstream: other,")] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let refused = promote(&["abort"]);
        assert_eq!(refused.code, 5, "{}", refused.stderr);
        assert!(
            refused.stderr.contains("names another router") && refused.stderr.contains("other"),
            "{}",
            refused.stderr
        );
    }
    // The commands by which it is steered are mended in the plan's text, and the way back goes by them.
    let mended = text.replace("\"${RELOADS:-nginx}\", -s, reload,", "nginx, -q, -s, reload,");
    let mended = mended.replace("test: [nginx, -t,", "test: [nginx, -q, -t,");
    assert_ne!(mended, text);
    std::fs::write(&path, mended).unwrap();
    let aborted = promote(&["abort"]);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    assert!(nginx.names_only(blue.port), "{}", nginx.held());
}

#[test]
fn less_on_blue_by_hand_is_left_until_the_release_is_resumed() {
    let stage = Stage::new(HOUR, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (60, 40));
    stage.haproxy.ask("set server shop/blue weight 8");
    let step = stage.promote(&["step"]);
    assert_eq!(step.code, 0, "{}", step.stderr);
    let said = "somebody has given blue less on the router (blue: 8 where 60 was set)";
    assert!(step.stderr.contains(said), "{}", step.stderr);
    assert_eq!((stage.haproxy.server("blue").0, stage.phase().as_str()), (8, "baking"));
    let status = stage.promote(&["status"]);
    assert!(status.stdout.contains("paused"), "{}", status.stdout);
    // However long it is paused, neither is it undone nor does the bake pass by it.
    stage.end_the_bake();
    let step = stage.promote(&["step"]);
    assert!([0, 3].contains(&step.code), "{}", step.stderr);
    assert_eq!((stage.haproxy.server("blue").0, stage.phase().as_str()), (8, "baking"));
    assert!(!step.stderr.contains("somebody has given"), "it is said once: {}", step.stderr);
    // Resumed it has what was set again, and the bake begins anew.
    stage.end_the_bake();
    assert_eq!(stage.promote(&["resume"]).code, 0);
    let step = stage.promote(&["step"]);
    assert_eq!(step.code, 0, "{}", step.stderr);
    assert_eq!((stage.haproxy.server("blue").0, stage.phase().as_str()), (60, "baking"));
    assert!(step.stderr.contains("blue gets its weights back"), "{}", step.stderr);
    // Less on green by hand is a way back, as ever.
    stage.haproxy.ask("set server shop/green weight 8");
    let step = stage.promote(&["step"]);
    assert_eq!((step.code, stage.outcome().as_str()), (1, "rolled_back"), "{}", step.stderr);
}

#[test]
fn less_on_one_of_several_servers_by_hand_stays_so_to_the_end() {
    for throttled in ["blue2", "green2"] {
        let more = |port: u16, name: &str, weight: u32| {
            format!("  server {name} 127.0.0.1:{port} weight {weight}\n")
        };
        let mut stage = Stage::new(HOUR, "");
        let (blue, green) = (stage.blue.port, stage.green.port);
        let servers = more(blue, "blue2", 100) + &more(green, "green2", 0) + "  server blue ";
        stage.haproxy.edit("  server blue ", &servers);
        stage.haproxy.restart();
        stage.edit("blue: blue, green: green}", "blue: [blue, blue2], green: [green, green2]}");
        assert_eq!(stage.promote(&["start"]).code, 0);
        let set = stage.haproxy.server(throttled).0;
        stage.haproxy.ask(&format!("set server shop/{throttled} weight {}", set / 8));
        let step = stage.promote(&["step"]);
        assert_eq!(step.code, 0, "{throttled}: {}", step.stderr);
        assert!(
            step.stderr.contains(&format!("somebody has set weights on the router ({throttled}: ")),
            "{}",
            step.stderr
        );
        assert!(stage.promote(&["status"]).stdout.contains("paused"));
        // The side has its share, and that server an eighth of what the other one of its side has.
        let other = throttled.trim_end_matches('2');
        let weight = |name: &str| f64::from(stage.haproxy.server(name).0);
        let part = weight(throttled) / weight(other);
        assert!((0.08..0.17).contains(&part), "{part}");
        let (b, g) = (weight("blue") + weight("blue2"), weight("green") + weight("green2"));
        assert!((g / (b + g) - 0.4).abs() < 0.01, "{b} {g}");
        // Once seen it is how it is.
        let step = stage.promote(&["step"]);
        assert!(step.code == 0 && !step.stderr.contains("somebody"), "{}", step.stderr);
        assert_eq!(stage.promote(&["abort"]).code, 1);
        assert!(stage.haproxy.server("blue2").0 > 0);
        let part = weight("blue2") / weight("blue");
        assert_eq!((throttled == "blue2"), part < 0.5, "it is there at the end: {part}");
    }
}

#[test]
fn a_green_that_only_the_deploy_hook_brings_is_told_before_and_must_be_there_behind_it() {
    let add = |port: u16| {
        format!(
            "  hooks: {{deploy: [sh, -c, \"echo 'add server shop/later 127.0.0.1:{port}' | socat stdio ./haproxy.sock\"]}}\n"
        )
    };
    let stage = Stage::new(SHORT, "");
    stage.write(SHORT, &add(stage.green.port));
    stage.edit("green: green}", "green: later}");
    let live = stage.promote(&["plan", "--live"]);
    assert_eq!(live.code, 0, "{}", live.stdout);
    assert!(
        live.stdout.contains("not there yet (the backend `shop` has no server `later`"),
        "{}",
        live.stdout
    );
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("has no server `later`"), "{}", ended.stderr);
    assert!(stage.haproxy.server("later").0 > 0);
    // A hook that does not bring it.
    let stage = Stage::new(SHORT, "  hooks: {deploy: [\"true\"]}\n  healthy_within: 500ms\n");
    stage.edit("green: green}", "green: later}");
    let ended = stage.promote(&["run"]);
    assert_eq!((ended.code, stage.outcome().as_str()), (1, "rolled_back"), "{}", ended.stderr);
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("later: the backend has no such server"), "{reason}");
    assert_eq!(stage.haproxy.server("blue"), (100, 0));
    // And without a hook nothing would.
    let stage = Stage::new(SHORT, "");
    stage.edit("green: green}", "green: later}");
    assert_eq!(stage.promote(&["run"]).code, 2);
}

/// An HAProxy with these lines, until it is dropped.
struct Other(Child);

impl Other {
    fn start(folder: &Path, name: &str, arguments: &[&str], text: &str) -> Self {
        let config = folder.join(name);
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("haproxy");
        command.args(arguments).arg("-f").arg(config).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // A master ends its workers; a kill would leave them behind.
        let _ = Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The lines of an HAProxy in front of blue.
fn lines(bind: &str, blue: u16, front: &str) -> String {
    format!(
        "defaults\n  mode http\n  timeout connect 60s\n  timeout client 10s\n  timeout server 10s\n{front}\
         frontend in\n  bind {bind}\n  default_backend shop\nbackend shop\n  server blue 127.0.0.1:{blue} weight 100\n  \
         server green 127.0.0.1:1 weight 0\n"
    )
}

/// A stage whose plan says something else in the place of a word is refused before anything moves.
fn refused(stage: &Stage, code: i32, words: &[&str]) {
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, code, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
    assert_eq!((stage.haproxy.server("blue"), stage.haproxy.server("green").0), ((100, 0), 0));
}

/// What a socket of HAProxy answers; nothing where it is not there yet.
fn says(socket: &Path, command: &str) -> String {
    let asked = || -> std::io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    };
    asked().unwrap_or_default()
}

#[test]
fn the_socket_of_the_master_process_is_named_as_that() {
    let stage = Stage::new(SHORT, "");
    let port = crate::support::free_port();
    let socket = stage.path().join("master.sock");
    let master = socket.display().to_string();
    let text = lines(&format!("127.0.0.1:{port}"), stage.blue.port, "");
    let _other = Other::start(stage.path(), "master.cfg", &["-W", "-S", &master], &text);
    // It is there before it has a worker, and answers nothing until then.
    wait_until("the master", || says(&socket, "show proc").contains("worker"));
    stage.edit("target: haproxy.sock", "target: master.sock");
    // The master answers most orders with nothing: the whole time limit passes.
    stage.edit("{timeout: 60s, kind: haproxy", "{timeout: 10s, kind: haproxy");
    refused(&stage, 2, &["HAProxy's master process", "stats socket … level admin"]);
}

#[test]
fn a_front_door_that_wants_the_proxy_protocol_is_named_as_that() {
    let stage = Stage::new(SHORT, "");
    let port = crate::support::free_port();
    let text = lines(&format!("127.0.0.1:{port} accept-proxy"), stage.blue.port, "");
    let _other = Other::start(stage.path(), "proxy.cfg", &["-db"], &text);
    wait_until("the listener", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    stage
        .edit(&format!("entry: \"{}\"", stage.haproxy.url()), &format!("entry: \"http://127.0.0.1:{port}\""));
    refused(&stage, 4, &["only behind a line of the PROXY protocol", "without `accept-proxy`"]);
}

#[test]
fn a_cache_of_haproxy_in_front_of_both_sides_is_named_and_may_be_allowed() {
    let mut stage = Stage::new(SHORT, "");
    let cache = "cache pages\n  total-max-size 4\nfrontend in\n  http-request cache-use pages\n  http-response cache-store pages\n";
    stage.haproxy.edit("frontend in\n", cache);
    stage.haproxy.restart();
    let client = trapkey::world::http::Client::new(ANSWER);
    client.get(&stage.haproxy.url()).unwrap();
    refused(
        &stage,
        2,
        &["a cache of HAProxy answers in front of both sides, in the frontend `in`", "cache: allowed"],
    );
    stage.edit("green: green}", "green: green, cache: allowed}");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn a_second_router_at_the_front_door_is_found_out_before_anything_moves() {
    // Another process with the same configuration answers, and only one of them is steered.
    let stage = Stage::new(SHORT, "");
    let port = crate::support::free_port();
    let _other = Other::start(
        stage.path(),
        "pair.cfg",
        &["-db"],
        &lines(&format!("127.0.0.1:{port}"), stage.blue.port, ""),
    );
    let both = crate::support::free_port();
    let spread = format!(
        "defaults\n  mode tcp\n  timeout connect 60s\n  timeout client 10s\n  timeout server 10s\n\
         listen both\n  bind 127.0.0.1:{both}\n  server one 127.0.0.1:{}\n  server two 127.0.0.1:{port}\n",
        stage.haproxy.port
    );
    let _spread = Other::start(stage.path(), "spread.cfg", &["-db"], &spread);
    for port in [port, both] {
        wait_until("the listener", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
    stage
        .edit(&format!("entry: \"{}\"", stage.haproxy.url()), &format!("entry: \"http://127.0.0.1:{both}\""));
    refused(
        &stage,
        2,
        &[
            "served by another router than the one that is steered, or by one more",
            "blue answered 20 requests there",
            "has counted",
            "active/active",
        ],
    );
    let live = stage.promote(&["plan", "--live"]);
    assert_eq!(live.code, 2, "{}", live.stdout);
    assert!(live.stdout.contains("served by another router"), "{}", live.stdout);
}
