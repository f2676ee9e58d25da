//! HAProxy as it sees itself, as its operator has set it, and as its users meet it: what counts is what they get.

use super::*;

/// One side or several behind a HAProxy of the test's own, and a plan.
struct Row {
    folder: tempfile::TempDir,
    blue: Side,
    green: Side,
    /// What HAProxy's own checks ask in the place of the sides.
    checked: [Side; 2],
    haproxy: Haproxy,
}

/// A backend's lines; `{b}` and `{g}` are the ports of the sides, `{cb}` and `{cg}` those that are checked in their
/// place, `{dead}` one that nobody listens on.
const PLAIN: &str =
    "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0";
const CHECKED: &str = "  balance roundrobin\n  option httpchk GET /health\n  server blue 127.0.0.1:{b} weight 100 check port {cb} inter 50ms\n  server green 127.0.0.1:{g} weight 0 check port {cg} inter 50ms";
/// Nobody waits for its end.
const HOUR: &str = "[{weight: 50%, bake: 1h}, {weight: 100%}]";

impl Row {
    fn new(backend: &str, sides: &str, steps: &str, more: &str) -> Self {
        Self::behind("in", "admin", backend, sides, steps, more)
    }

    fn behind(front: &str, level: &str, backend: &str, sides: &str, steps: &str, more: &str) -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let checked = [Side::start("check"), Side::start("check")];
        let filled = backend
            .replace("{b}", &blue.port.to_string())
            .replace("{g}", &green.port.to_string())
            .replace("{cb}", &checked[0].port.to_string())
            .replace("{cg}", &checked[1].port.to_string())
            .replace("{dead}", &crate::support::free_port().to_string());
        let haproxy = Haproxy::with_backend(folder.path(), front, level, &filled);
        let row = Self { folder, blue, green, checked, haproxy };
        row.write(sides, steps, more);
        row
    }

    fn write(&self, sides: &str, steps: &str, more: &str) {
        let text = plan(&self.router(sides), &self.blue, &self.green, steps, more);
        std::fs::write(self.path().join("release.yaml"), text).unwrap();
    }

    fn router(&self, sides: &str) -> String {
        let sides = if sides.is_empty() { "blue: blue, green: green" } else { sides };
        format!(
            "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, {sides}}}}}",
            self.haproxy.url()
        )
    }

    fn open(&self) -> Box<dyn trapkey::routers::Router> {
        let loaded = trapkey::plan::Loaded::read(
            &self.path().join("release.yaml"),
            std::collections::BTreeMap::default(),
        )
        .unwrap();
        trapkey::routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn promote(&self, arguments: &[&str]) -> Ended {
        call("promote", self.path(), arguments)
    }

    fn promotion(&self) -> Value {
        json(&self.path().join("evidence/promote.json"))["promotion"].clone()
    }

    fn state(&self) -> Value {
        serde_json::from_slice(
            &std::fs::read(self.path().join(".trapkey/production/state.json")).unwrap_or_default(),
        )
        .unwrap_or_default()
    }

    fn phase(&self) -> String {
        self.state()["record"]["state"]["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let talk = std::fs::File::create(self.path().join("talk")).unwrap();
        let mut command = tool("promote", self.path());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(talk).spawn().unwrap()
    }

    fn talk(&self) -> String {
        std::fs::read_to_string(self.path().join("talk")).unwrap_or_default()
    }

    /// What a hundred users get: how many an answer of a side, and how many an error.
    fn users(&self) -> (u32, u32) {
        let client = trapkey::world::http::Client::new(ANSWER);
        let (mut well, mut wrong) = (0, 0);
        for _ in 0..100 {
            match client.get(&self.haproxy.url()) {
                Ok(answer) if answer.status == 200 => well += 1,
                _ => wrong += 1,
            }
        }
        (well, wrong)
    }

    fn wait_for_check(&self, server: &str, up: bool) {
        wait_until("HAProxy's own check", || {
            let states = self.haproxy.ask("show servers state shop");
            let line = states.lines().find(|line| line.split(' ').nth(3) == Some(server)).unwrap();
            (line.split(' ').nth(5) != Some("0")) == up
        });
    }

    fn decisions(&self) -> String {
        self.promotion()["decisions"].to_string()
    }
}

fn sick(side: &Side) {
    side.answers.health.store(503, Ordering::SeqCst);
}

fn well(side: &Side) {
    side.answers.health.store(200, Ordering::SeqCst);
}

#[test]
fn users_are_not_given_to_a_side_that_haproxy_holds_for_down_and_go_back_as_soon_as_they_can() {
    let row = Row::new(CHECKED, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    sick(&row.checked[0]);
    row.wait_for_check("blue", false);
    assert_eq!(row.users(), (100, 0));
    let abort = row.promote(&["abort"]);
    assert_eq!(abort.code, 1, "{}", abort.stderr);
    assert_eq!(row.phase(), "frozen");
    assert!(row.decisions().contains("stands still"));
    assert_eq!(row.users(), (100, 0), "green serves them all");
    assert!(row.haproxy.server("green").0 > 0);
    well(&row.checked[0]);
    row.wait_for_check("blue", true);
    assert_eq!(row.promote(&["step"]).code, 1);
    assert_eq!((row.phase().as_str(), row.haproxy.server("green").0), ("rolled_back", 0));
    assert_eq!(row.users(), (100, 0));
}

#[test]
fn a_green_that_haproxy_has_not_seen_well_yet_is_waited_for() {
    let row = Row::new(CHECKED, "", SHORT, "");
    sick(&row.checked[1]);
    row.wait_for_check("green", false);
    let job = row.spawn(&["run"]);
    // Its own health is well all the while.
    wait_until("three looks at green's health", || row.green.served() > 0 || row.phase() == "checking_green");
    assert_eq!(row.haproxy.server("green").0, 0);
    well(&row.checked[1]);
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(0), "{}", row.talk());
}

#[test]
fn a_green_that_haproxy_takes_down_in_a_bake_ends_it() {
    let row = Row::new(CHECKED, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    sick(&row.checked[1]);
    row.wait_for_check("green", false);
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 1, "{}", step.stderr);
    let reason = row.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("green: DOWN by HAProxy's own check"), "{reason}");
}

#[test]
fn one_of_ten_servers_down_stops_nothing_and_most_of_them_do() {
    let greens: String = (1..=10)
        .map(|n| {
            let port = if n <= 5 { "{cg}" } else { "{g}" };
            format!(
                "\n  server g{n} 127.0.0.1:{{g}} weight 0 check port {} inter 50ms",
                if n == 1 { "{dead}" } else { port }
            )
        })
        .collect();
    let backend = format!(
        "  balance roundrobin\n  option httpchk GET /health\n  server blue 127.0.0.1:{{b}} weight 100{greens}"
    );
    let sides = "blue: blue, green: [g1, g2, g3, g4, g5, g6, g7, g8, g9, g10]";
    let row = Row::new(&backend, sides, SHORT, "  healthy_within: 1s\n");
    row.wait_for_check("g1", false);
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!((1..=10).all(|n| row.haproxy.server(&format!("g{n}")).0 > 0));
    let row = Row::new(&backend, sides, SHORT, "  healthy_within: 1s\n");
    sick(&row.checked[1]);
    for n in 1..=5 {
        row.wait_for_check(&format!("g{n}"), false);
    }
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("5 of 10 servers up"), "{}", ended.stderr);
}

#[test]
fn a_backend_that_cannot_be_split_is_refused_before_the_deploy_hook() {
    let servers = "  server blue 127.0.0.1:{b}\n  server green 127.0.0.1:{g} disabled";
    let cases = [
        ("  balance leastconn", "balances by `leastconn`"),
        ("  balance source", "balances by `source`"),
        ("  balance uri", "balances by `uri`"),
        ("  balance hdr(host)", "balances by `hdr`"),
        ("  balance static-rr", "balances by `static-rr`"),
        ("  balance first", "balances by `first`"),
        ("  balance source\n  hash-type consistent", "balances by `source`"),
        (
            "  balance roundrobin\n  stick-table type ip size 10k expire 30m\n  stick on src",
            "keeps users on their server",
        ),
    ];
    for (lines, says) in cases {
        let deploy = "  hooks: {deploy: [sh, -c, \"touch deployed\"]}\n";
        let row = Row::new(&format!("{lines}\n{servers}"), "", SHORT, deploy);
        let held = row.haproxy.ask("show servers state shop");
        let ended = row.promote(&["run"]);
        assert_eq!(ended.code, 2, "{lines}: {}", ended.stderr);
        assert!(ended.stderr.contains(says) && !ended.stderr.contains("leastconn`)"), "{}", ended.stderr);
        assert!(!row.path().join("deployed").exists(), "{lines}");
        let states = |text: &str| {
            text.lines().map(|l| l.split(' ').take(9).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(states(&held), states(&row.haproxy.ask("show servers state shop")), "{lines}");
    }
    // A table that only counts holds nobody.
    let counts = "  balance roundrobin\n  stick-table type ip size 10k expire 30m store http_req_rate(10s)\n  http-request track-sc0 src";
    let row = Row::new(
        &format!(
            "{counts}\n  server blue 127.0.0.1:{{b}} weight 100\n  server green 127.0.0.1:{{g}} weight 0"
        ),
        "",
        SHORT,
        "",
    );
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn a_table_elsewhere_that_holds_our_users_is_refused_once_it_names_a_server_of_ours() {
    let backend = "  balance roundrobin\n  stick on src table held\n  server blue 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0\nbackend held\n  stick-table type ip size 10k expire 30m";
    let row = Row::new(backend, "", SHORT, "");
    assert_eq!(row.users(), (100, 0));
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("by the table `held`"), "{}", ended.stderr);
}

#[test]
fn a_socket_that_may_not_steer_is_refused_before_the_deploy_hook() {
    for level in ["user", "operator"] {
        let deploy = "  hooks: {deploy: [sh, -c, \"touch deployed\"]}\n";
        let row = Row::behind("in", level, PLAIN, "", SHORT, deploy);
        let ended = row.promote(&["run"]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("its level is `{level}`")), "{}", ended.stderr);
        assert!(!row.path().join("deployed").exists());
    }
}

#[test]
fn a_weight_that_haproxy_refuses_changes_nothing_and_opens_no_server() {
    let backend = "  balance uri\n  server blue 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 7 disabled";
    let row = Row::new(backend, "", SHORT, "");
    let mut router = row.open();
    let before = (row.haproxy.server("blue"), row.haproxy.server("green"));
    let refused = router.set(trapkey::routers::Split { green: 0.05, close_idle_side: false }).unwrap_err();
    assert!(refused.to_string().contains("HAProxy refused"), "{refused}");
    assert_eq!((row.haproxy.server("blue"), row.haproxy.server("green")), before);
}

#[test]
fn a_blue_that_is_not_in_service_is_refused_with_the_command_that_brings_it_back() {
    let row = Row::new(PLAIN, "", HOUR, "");
    row.haproxy.ask("set server shop/blue state maint");
    let refused = row.promote(&["start"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("no server of blue is in service"), "{}", refused.stderr);
    let (_, command) = refused.stderr.split_once("with the weight that it has: ").unwrap();
    let ended = run(Command::new("sh").args(["-c", command.lines().next().unwrap()]).current_dir(row.path()));
    assert_eq!((ended.code, row.haproxy.server("blue")), (0, (100, 0)), "{}", ended.stderr);
    assert_eq!(row.promote(&["start"]).code, 0);
}

/// Stands before HAProxy's socket, and answers whatever contains a text by itself.
fn refusing(socket: &Path, at: &Path, text: &'static str) {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    let (socket, listener) = (socket.to_path_buf(), UnixListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for asker in listener.incoming() {
            let Ok(mut asker) = asker else { return };
            let mut line = String::new();
            BufReader::new(&asker).read_line(&mut line).unwrap();
            for command in line.trim_end().split("; ") {
                let mut reply = String::from("it may not be changed\n\n");
                if !command.contains(text) {
                    let mut real = UnixStream::connect(&socket).unwrap();
                    real.write_all(format!("{command}\n").as_bytes()).unwrap();
                    reply.clear();
                    real.read_to_string(&mut reply).unwrap();
                }
                let _ = asker.write_all(reply.as_bytes());
            }
        }
    });
}

#[test]
fn where_one_of_several_weights_is_refused_none_stays_in_force() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server blue2 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0\n  server green2 127.0.0.1:{g} weight 0";
    let row = Row::new(backend, "blue: [blue, blue2], green: [green, green2]", LONG, "");
    refusing(&row.path().join("haproxy.sock"), &row.path().join("refusing.sock"), "shop/green2 weight");
    let plan = row.path().join("release.yaml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, text.replace("target: haproxy.sock", "target: refusing.sock")).unwrap();
    let servers = ["blue", "blue2", "green", "green2"].map(|name| row.haproxy.server(name).0);
    assert_eq!(servers, [100, 100, 0, 0]);
    let refused =
        row.open().set(trapkey::routers::Split { green: 0.25, close_idle_side: false }).unwrap_err();
    assert!(refused.to_string().contains("it may not be changed"), "{refused}");
    assert_eq!(["blue", "blue2", "green", "green2"].map(|name| row.haproxy.server(name).0), servers);
}

#[test]
fn counters_are_those_of_the_backend_and_have_every_failure() {
    // A frontend may have the backend's name; green cannot be reached, and its users are moved to blue.
    let backend = "  balance roundrobin\n  option redispatch\n  retries 1\n  server blue 127.0.0.1:{b} weight 1\n  server green 127.0.0.1:{dead} weight 1";
    let row = Row::behind("shop", "admin", backend, "", SHORT, "");
    let mut router = row.open();
    assert_eq!(row.users(), (100, 0));
    let counted = router.counters().unwrap().unwrap();
    // Whoever is moved takes blue's next turn.
    assert!((40..=100).contains(&counted.green.requests), "{counted:?}");
    assert_eq!(counted.green.errors, counted.green.requests);
    assert_eq!((counted.blue.requests, counted.blue.errors, counted.nobody), (100, 0, 0));
    row.haproxy.ask("set server shop/blue state maint; set server shop/green state maint");
    assert_eq!(row.users(), (0, 100));
    assert_eq!(router.counters().unwrap().unwrap().nobody, 100, "nobody was there to answer");
}

#[test]
fn an_answer_that_no_side_signed_ends_the_step() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    // From here on HAProxy cannot reach green, whose own address is well.
    row.haproxy.ask(&format!("set server shop/green addr 127.0.0.1 port {}", crate::support::free_port()));
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 1, "{}", step.stderr);
    let promotion = row.promotion();
    let door = promotion["judgements"].as_array().unwrap().last().unwrap()["front_door"].clone();
    assert!(door["nobody"].as_u64().unwrap() >= 3, "{door}");
    assert!(door["unsigned"].as_str().unwrap().contains("503"), "{door}");
    assert_eq!(row.haproxy.server("green").0, 0);
    let replay = row.promote(&["replay"]);
    assert_eq!(replay.code, 0, "{}{}", replay.stdout, replay.stderr);
}

#[test]
fn a_green_that_haproxy_cannot_reach_is_no_proof_of_a_split() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{dead} weight 0";
    let row = Row::new(backend, "", HOUR, "");
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("503 without the release header"), "{}", ended.stderr);
    assert!(!row.decisions().contains("good"), "{}", row.decisions());
}

#[test]
fn users_that_do_not_follow_the_weight_end_the_step_and_none_at_all_is_said() {
    // A server that is not steered takes what comes by a path of its own: users never meet green.
    let backend = "  balance roundrobin\n  use-server blue if { path_beg /users }\n  server blue 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0";
    let row = Row::new(backend, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..400 {
        client.get(&format!("{}/users", row.haproxy.url())).unwrap();
    }
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 1, "{}", step.stderr);
    let reason = row.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("the split of 50 % is not there") && reason.contains("that haproxy counted"),
        "{reason}"
    );
    let row = Row::new(PLAIN, "", SHORT, "");
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("no user's request was on green in step 1, 2"), "{}", ended.stderr);
}

#[test]
fn a_server_that_people_took_out_before_a_release_stays_out() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server blue2 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0\n  server green2 127.0.0.1:{g} weight 0";
    let sides = "blue: [blue, blue2], green: [green, green2]";
    for (out, back) in [("maint", 1), ("drain", 8)] {
        let row = Row::new(backend, sides, SHORT, "");
        row.haproxy.ask(&format!("set server shop/blue2 state {out}; set server shop/green2 state {out}"));
        let ended = row.promote(&["run"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert_eq!((row.haproxy.server("blue2").1, row.haproxy.server("green2").1), (back, back), "{out}");
        assert!(row.haproxy.server("green").0 > 0);
        // The next release closes and opens what is ours, and no more.
        row.haproxy.ask("set server shop/green2 state ready");
        row.blue.says("1.2");
        let text = plan(
            &row.router("blue: [green, green2], green: [blue, blue2]"),
            &row.green,
            &row.blue,
            SHORT,
            "",
        );
        std::fs::write(row.path().join("release.yaml"), text.replace("VERSION:-1.1", "VERSION:-1.2"))
            .unwrap();
        let ended = row.promote(&["run"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert_eq!((row.haproxy.server("blue2").1, row.haproxy.server("blue").1), (back, 0), "{out}");
    }
}

#[test]
fn a_server_that_people_take_out_in_the_middle_stays_out_and_the_release_waits_for_them() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server blue2 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0";
    let row = Row::new(backend, "blue: [blue, blue2], green: green", LONG, "");
    let job = row.spawn(&["run"]);
    wait_until("the bake", || row.phase() == "baking");
    row.haproxy.ask("set server shop/blue2 state maint");
    wait_until("it to be seen", || row.talk().contains("somebody has taken blue2 out of service"));
    wait_until("the pause", || row.path().join(".trapkey/production/pause.json").exists());
    // The other one has its part: 50 % is 50 % of those that serve.
    wait_until("the split", || row.haproxy.server("blue").0 == row.haproxy.server("green").0);
    assert_eq!(row.haproxy.server("blue2").1, 1);
    assert_eq!(row.promote(&["resume"]).code, 0);
    assert_eq!(row.promote(&["skip", "--reason", "seen enough"]).code, 0);
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(0), "{}", row.talk());
    assert_eq!((row.haproxy.server("blue2").1, row.haproxy.server("blue").0), (1, 0));
    assert!(row.decisions().contains("blue2"), "{}", row.decisions());
}

#[test]
fn a_side_that_people_took_out_whole_is_not_opened_again() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    row.haproxy.ask("set server shop/blue state maint");
    assert_eq!(row.promote(&["step"]).code, 0);
    let status = row.promote(&["status"]);
    assert!(status.stdout.contains("paused"), "{}", status.stdout);
    assert_eq!(row.promote(&["abort"]).code, 1);
    assert_eq!((row.phase().as_str(), row.haproxy.server("blue").1), ("frozen", 1));
    assert_eq!(row.users(), (100, 0));
    row.haproxy.ask("set server shop/blue state ready");
    assert_eq!(row.promote(&["step"]).code, 1);
    assert_eq!((row.phase().as_str(), row.haproxy.server("green").0), ("rolled_back", 0));
}

#[test]
fn unequal_weights_keep_their_proportion_and_are_there_again() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 200\n  server blue2 127.0.0.1:{b} weight 20\n  server green 127.0.0.1:{g} weight 0\n  server green2 127.0.0.1:{g} weight 0";
    let sides = "blue: [blue, blue2], green: [green, green2]";
    let row = Row::new(backend, sides, HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    let weights = |row: &Row| ["blue", "blue2", "green", "green2"].map(|name| row.haproxy.server(name).0);
    let [blue, blue2, green, green2] = weights(&row);
    assert_eq!(
        (blue, blue + blue2),
        (10 * blue2, green + green2),
        "half is half, and ten to one is ten to one"
    );
    assert_eq!(row.promote(&["abort"]).code, 1);
    assert_eq!(weights(&row), [200, 20, 0, 0]);
    // Forward, and then with the sides the other way round.
    row.write(sides, SHORT, "");
    assert_eq!(row.promote(&["run"]).code, 0);
    assert_eq!(weights(&row)[..2], [0, 0]);
    row.blue.says("1.2");
    let text =
        plan(&row.router("blue: [green, green2], green: [blue, blue2]"), &row.green, &row.blue, SHORT, "");
    std::fs::write(row.path().join("release.yaml"), text.replace("VERSION:-1.1", "VERSION:-1.2")).unwrap();
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(weights(&row), [200, 20, 0, 0], "as they were, two releases ago");
}

#[test]
fn a_backup_server_and_the_word_disabled_stand_in_nobodys_way() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 100 disabled\n  server sorry 127.0.0.1:{cb} backup";
    let row = Row::new(backend, "", SHORT, "");
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((row.haproxy.server("green").1, row.haproxy.server("sorry")), (4, (1, 0)));
}

#[test]
fn a_server_of_neither_side_that_comes_in_the_middle_ends_the_release() {
    let backend = format!("{PLAIN}\n  server extra 127.0.0.1:{{cb}} weight 4 disabled");
    let row = Row::new(&backend, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    row.haproxy.ask("set server shop/extra state ready");
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 1, "{}", step.stderr);
    assert!(row.promotion()["reason"].as_str().unwrap().contains("gives users to extra"));
    assert_eq!(
        (row.haproxy.server("green").0, row.haproxy.server("extra").1),
        (0, 4),
        "it is left to people"
    );
}

#[test]
fn an_agent_that_sets_weights_is_refused_and_one_that_takes_a_server_out_is_heeded() {
    let agent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = agent.local_addr().unwrap().port();
    let says = std::sync::Arc::new(std::sync::Mutex::new("75%"));
    let said = std::sync::Arc::clone(&says);
    std::thread::spawn(move || {
        use std::io::Write;
        for mut stream in agent.incoming().flatten() {
            let _ = stream.write_all(format!("{}\n", said.lock().unwrap()).as_bytes());
        }
    });
    let backend = format!(
        "  balance roundrobin\n  server blue 127.0.0.1:{{b}} weight 100\n  server blue2 127.0.0.1:{{b}} weight 100 agent-check agent-port {port} agent-inter 50ms\n  server green 127.0.0.1:{{g}} weight 0"
    );
    let row = Row::new(&backend, "blue: [blue, blue2], green: green", SHORT, "");
    wait_until("the agent's weight", || row.haproxy.server("blue2").0 == 75);
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("an agent sets the weight of `blue2`"), "{}", ended.stderr);
    *says.lock().unwrap() = "drain";
    wait_until("the agent's drain", || row.haproxy.server("blue2").1 == 8);
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(row.haproxy.server("blue2").1, 8);
}

#[test]
fn time_in_which_a_restart_had_taken_the_weight_away_is_no_bake() {
    let mut row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    let since = |row: &Row| row.state()["record"]["state"]["since_ms"].as_i64().unwrap();
    let first = since(&row);
    row.haproxy.halt();
    row.haproxy.begin_again();
    assert_eq!(row.haproxy.server("green").0, 0);
    // It has lasted for as long as the plan says, most of it without its weight.
    end_the_bake(row.path());
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 0, "{}", step.stderr);
    assert_eq!((row.phase().as_str(), row.haproxy.server("green").0), ("baking", 50));
    assert_eq!(row.state()["record"]["state"]["step"], 0);
    assert!(since(&row) > first, "it begins anew");
    assert_eq!(row.promote(&["abort"]).code, 1);
}

#[test]
fn a_weight_that_something_else_sets_again_and_again_ends_the_release() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    let last = wait_for("the end", || {
        // More than was asked: nobody's way back.
        row.haproxy.ask("set server shop/green weight 90");
        let step = row.promote(&["step"]);
        (step.code != 0).then_some(step)
    });
    assert_eq!(last.code, 1, "{}", last.stderr);
    assert!(row.promotion()["reason"].as_str().unwrap().contains("put back 3 times"), "{}", last.stderr);
}

#[test]
fn a_release_whose_old_side_is_gone_is_accepted_as_it_stands_where_the_new_one_is_well() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    sick(&row.blue);
    assert_eq!(row.promote(&["abort"]).code, 1);
    assert_eq!(row.phase(), "frozen");
    sick(&row.green);
    let refused = row.promote(&["accept", "--reason", "blue is gone"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("green is not well"), "{}", refused.stderr);
    assert_eq!((row.phase().as_str(), row.haproxy.server("green").0), ("frozen", 50));
    well(&row.green);
    assert_eq!(row.promote(&["accept"]).code, 2, "without a reason");
    let accepted = row.promote(&["accept", "--reason", "blue is gone"]);
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    assert_eq!((row.phase().as_str(), row.haproxy.server("blue").0), ("promoted", 0));
    assert!(row.decisions().contains("accepts it as it stands: blue is gone"), "{}", row.decisions());
    let document = json(&row.path().join("evidence/promote.json"));
    assert!(document["summary"].as_str().unwrap().contains("accepted as it stands by"), "{document}");
    assert_eq!(row.promote(&["accept", "--reason", "again"]).code, 5);
}

#[test]
fn the_next_release_may_begin_where_a_frozen_one_serves_everything() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    sick(&row.blue);
    assert_eq!(row.promote(&["abort"]).code, 1);
    // People give everything to green, and bring up a third release in blue's place.
    row.haproxy.ask("set server shop/green weight 100; set server shop/blue state maint");
    row.blue.says("1.2");
    well(&row.blue);
    let text = plan(&row.router("blue: green, green: blue"), &row.green, &row.blue, SHORT, "");
    std::fs::write(row.path().join("release.yaml"), text.replace("VERSION:-1.1", "VERSION:-1.2")).unwrap();
    assert_eq!(row.promote(&["run"]).code, 5);
    let ended = row.promote(&["run", "--supersede"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(row.haproxy.server("green").0, 0);
    assert!(row.haproxy.server("blue").0 > 0);
}

#[test]
fn a_bake_is_ended_early_by_people_and_only_behind_the_approvals() {
    let row = Row::new(PLAIN, "", "[{weight: 10%, bake: 1h}, {weight: 50%, bake: 1h}, {weight: 100%}]", "");
    let early = row.promote(&["skip", "--reason", "nothing runs"]);
    assert_eq!(early.code, 5, "{}", early.stderr);
    assert_eq!(row.promote(&["start"]).code, 0);
    assert_eq!(row.promote(&["skip"]).code, 2, "without a reason");
    sick(&row.green);
    assert_eq!(row.promote(&["skip", "--reason", "we know"]).code, 5, "green is not well");
    well(&row.green);
    let skipped = row.promote(&["skip", "--reason", "we know"]);
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert_eq!((row.phase().as_str(), row.haproxy.server("green").0), ("baking", 50));
    assert_eq!(row.state()["record"]["state"]["step"], 1);
    assert!(row.decisions().contains("ends the bake of step 1 early: we know"), "{}", row.decisions());
    let steps = row.promotion()["steps"].clone();
    assert_eq!(steps[0]["verdict"], "skipped", "{steps}");
}

#[test]
fn the_old_side_is_not_taken_down_while_a_reload_would_bring_its_users_back() {
    let hook = "  hooks: {retire: [sh, -c, \"echo down >> retired.txt\"]}\n";
    let mut row = Row::new(PLAIN, "", SHORT, &format!("{hook}  retire_needs_durable: true\n"));
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let retired = row.path().join("retired.txt");
    assert!(!retired.exists());
    for line in ["server blue … weight 0", "server green … weight 100"] {
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
    }
    assert_eq!(call("report", row.path(), &[]).code, 0);
    let book = std::fs::read_to_string(row.path().join("evidence/runbook.md")).unwrap();
    assert!(
        book.contains("Before haproxy is reloaded") && book.contains("server green … weight 100"),
        "{book}"
    );
    // Done as it says, and reloaded: everything stays, and blue may go.
    row.haproxy.edit("weight 100", "weight X");
    row.haproxy.edit("weight 0", "weight 100");
    row.haproxy.edit("weight X", "weight 0");
    row.haproxy.halt();
    row.haproxy.begin_again();
    assert_eq!(row.promote(&["step"]).code, 0);
    assert_eq!((row.phase().as_str(), retired.exists()), ("promoted", true));
    // Where the plan does not ask for that, it is a warning.
    let row = Row::new(PLAIN, "", SHORT, hook);
    let ended = row.promote(&["run"]);
    assert!(
        ended.code == 0 && ended.stderr.contains("blue is taken down although a reload"),
        "{}",
        ended.stderr
    );
    assert!(row.path().join("retired.txt").exists());
}

#[test]
fn the_old_side_is_taken_down_once_nobody_has_asked_it_for_long_enough() {
    let hook =
        "  hooks: {retire: [sh, -c, \"echo down >> retired.txt\"]}\n  retire_when: {requests: 0, for: 1h}\n";
    let row = Row::new(PLAIN, "", SHORT, hook);
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("blue is not taken down before it has had at most 0 requests"),
        "{}",
        ended.stderr
    );
    let path = row.path().join(".trapkey/production/state.json");
    let mut state = row.state();
    let since = state["record"]["quiet"]["since_ms"].as_i64().unwrap();
    state["record"]["quiet"]["since_ms"] = (since - 3_600_000).into();
    std::fs::write(path, state.to_string()).unwrap();
    assert_eq!(row.promote(&["step"]).code, 0);
    assert_eq!((row.phase().as_str(), row.path().join("retired.txt").exists()), ("promoted", true));
}

#[test]
fn a_server_that_people_drain_by_a_weight_of_zero_stays_drained() {
    let backend = "  balance roundrobin\n  server blue 127.0.0.1:{b} weight 100\n  server blue2 127.0.0.1:{b} weight 100\n  server green 127.0.0.1:{g} weight 0";
    let sides = "blue: [blue, blue2], green: green";
    // Before a release.
    let row = Row::new(backend, sides, HOUR, "");
    row.haproxy.ask("set server shop/blue2 weight 0");
    assert_eq!(row.promote(&["start"]).code, 0);
    assert_eq!((row.haproxy.server("blue").0, row.haproxy.server("blue2").0), (50, 0));
    assert_eq!(row.promote(&["abort"]).code, 1);
    assert_eq!((row.haproxy.server("blue").0, row.haproxy.server("blue2").0), (100, 0));
    // In the middle of one.
    let row = Row::new(backend, sides, HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    row.haproxy.ask("set server shop/blue2 weight 0");
    let step = row.promote(&["step"]);
    assert!(step.stderr.contains("somebody has taken blue2 out of service"), "{}", step.stderr);
    assert_eq!((row.haproxy.server("blue").0, row.haproxy.server("blue2").0), (50, 0));
    assert_eq!(row.promote(&["abort"]).code, 1);
    assert_eq!(row.haproxy.server("blue2").0, 0);
}

#[test]
fn requests_are_counted_for_the_split_as_they_are_given_out_and_not_as_they_are_answered() {
    use std::io::Write;
    let row = Row::new(PLAIN, "", SHORT, "");
    row.blue.answers.delay_ms.store(600_000, Ordering::SeqCst);
    let mut router = row.open();
    let port = row.haproxy.port;
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let mut user = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            user.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
            user
        })
        .collect();
    // Answers of before a step would be taken for requests in it.
    let counted = wait_for("users under way", || {
        router.counters().unwrap().filter(|counted| counted.blue.assigned == Some(5))
    });
    assert_eq!((counted.blue.current, counted.green.assigned), (5, Some(0)));
    drop(waiting);
}

#[test]
fn a_user_who_comes_in_steps_of_time_does_not_turn_what_the_door_meets() {
    let row = Row::new(PLAIN, "", "[{weight: 50%, bake: 3s}, {weight: 100%}]", "");
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (url, ended) = (row.haproxy.url(), std::sync::Arc::clone(&over));
    let user = std::thread::spawn(move || {
        let client = trapkey::world::http::Client::new(ANSWER);
        let began = std::time::Instant::now();
        // As often as the door is asked, at even distances.
        for turn in 0.. {
            std::thread::sleep(
                (began + turn * Duration::from_millis(50))
                    .saturating_duration_since(std::time::Instant::now()),
            );
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let _ = client.get(&url);
        }
    });
    let ended = row.promote(&["run"]);
    over.store(true, Ordering::SeqCst);
    user.join().unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn a_green_that_fails_is_neither_accepted_nor_given_more_and_a_way_that_goes_on_is_not_accepted() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    let refused = row.promote(&["accept", "--reason", "hurry"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("blue is well"), "{}", refused.stderr);
    row.green.answers.fail_every.store(1, Ordering::SeqCst);
    for wish in ["accept", "skip"] {
        let refused = row.promote(&[wish, "--reason", "hurry"]);
        assert_eq!(refused.code, 5, "{wish}: {}", refused.stderr);
        assert!(refused.stderr.contains("20 of 20 requests to it failed"), "{}", refused.stderr);
    }
    assert_eq!(row.haproxy.server("green").0, 50);
}

#[test]
fn nothing_is_promoted_that_users_do_not_meet_at_the_last_look() {
    let row = Row::new(PLAIN, "", "[{weight: 100%, bake: 1h}]", "");
    assert_eq!(row.promote(&["start"]).code, 0);
    // The bake is over by the record, and from now on HAProxy cannot reach green.
    let mut state = row.state();
    state["record"]["state"] = serde_json::json!({"phase": "retiring_blue"});
    std::fs::write(row.path().join(".trapkey/production/state.json"), state.to_string()).unwrap();
    row.haproxy.ask(&format!("set server shop/green addr 127.0.0.1 port {}", crate::support::free_port()));
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 1, "{}", step.stderr);
    assert_eq!((row.phase().as_str(), row.users()), ("rolled_back", (100, 0)));
}

#[test]
fn a_restart_in_a_bake_is_waited_for_and_what_the_door_refused_meanwhile_is_the_restart_s() {
    let mut row = Row::new(PLAIN, "", LONG, "");
    let job = row.spawn(&["run"]);
    wait_until("the bake", || row.phase() == "baking");
    row.haproxy.halt();
    wait_until("it to be seen", || row.talk().contains("it may be restarting"));
    // Longer than the door needs to refuse some dozen requests.
    std::thread::sleep(Duration::from_secs(2));
    row.haproxy.begin_again();
    wait_until("the weight", || row.haproxy.server("green").0 == 50);
    wait_until("the end", || {
        let skipped = row.promote(&["skip", "--reason", "it is back"]);
        skipped.code == 5 || row.phase() == "promoted"
    });
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(0), "{}", row.talk());
}

#[test]
fn a_bake_begins_anew_once_a_side_that_people_had_taken_out_is_back() {
    let row = Row::new(PLAIN, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    row.haproxy.ask("set server shop/blue state maint");
    assert_eq!(row.promote(&["step"]).code, 0);
    // All of the bake has passed, with everybody on green.
    end_the_bake(row.path());
    row.haproxy.ask("set server shop/blue state ready");
    assert_eq!(row.promote(&["resume"]).code, 0);
    let step = row.promote(&["step"]);
    assert_eq!(step.code, 0, "{}", step.stderr);
    assert_eq!((row.phase().as_str(), row.haproxy.server("green").0), ("baking", 50));
    assert_eq!(row.promote(&["abort"]).code, 1);
}

#[test]
fn a_limit_of_the_front_door_is_no_failure_of_a_side() {
    let limited = PLAIN.replace(
        "  balance roundrobin\n",
        "  balance roundrobin\n  http-request deny deny_status 429 if { rand(4) eq 0 }\n",
    );
    let row = Row::new(&limited, "", SHORT, "");
    let ended = row.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

/// All requests are turned away with 429 while a condition holds.
fn limited_while(condition: &str) -> String {
    PLAIN.replace(
        "  balance roundrobin\n",
        &format!("  balance roundrobin\n  http-request deny deny_status 429 if {{ {condition} }}\n"),
    )
}

#[test]
fn a_front_door_that_turns_every_request_of_ours_away_keeps_nobody_from_going_back() {
    let lever = limited_while("srv_is_up(lever/on)") + "\nbackend lever\n  server on 127.0.0.1:9 disabled";
    let row = Row::new(&lever, "", HOUR, "");
    assert_eq!(row.promote(&["start"]).code, 0);
    row.haproxy.ask("set server lever/on state ready");
    let ended = row.promote(&["abort"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("answered 429"), "{}", ended.stderr);
    assert_eq!(row.haproxy.server("green").0, 0);
    let document = json(&row.path().join("evidence/promote.json"));
    let shift = document["promotion"]["shifts"].as_array().unwrap().last().unwrap().clone();
    assert!(shift["probed"].is_null(), "{shift}");
    assert!(shift["not_seen"].as_str().unwrap().contains("to all 20 requests"), "{shift}");
}

#[test]
fn a_step_that_no_request_could_prove_for_a_limit_of_the_front_door_is_not_taken_for_done() {
    let row = Row::new(&limited_while("srv_weight(shop/green) gt 0"), "", HOUR, "");
    let ended = row.promote(&["start"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("answered 429"), "{}", ended.stderr);
    assert_eq!(row.haproxy.server("green").0, 0);
}
