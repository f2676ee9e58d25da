//! The control endpoints: `promote listen` under a real Alertmanager, feature flags, shipped workflows.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use super::*;
use crate::support::free_port;

mod alertmanager;
mod night;
mod said;
mod signals;
mod truth;
mod wire;
mod workflows;

const TOKEN: &str = "a-token-of-the-tests-0123456789abcdef";

/// A running `promote listen`.
struct Listening {
    port: u16,
    child: Child,
    log: std::path::PathBuf,
}

impl Listening {
    fn start(stage: &Stage) -> Self {
        Self::start_with(stage, &[])
    }

    fn start_with(stage: &Stage, more: &[&str]) -> Self {
        let port = free_port();
        let log = stage.path().join(format!("listen-{port}.log"));
        let child = tool("promote", stage.path())
            .args(["listen", "--on", &format!("127.0.0.1:{port}")])
            .args(more)
            .env("TRAPKEY_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(stage.path().join("listen.out")).unwrap())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let listening = Self { port, child, log };
        wait_until("promote listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        listening
    }

    /// What it has said so far.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, TOKEN, "")
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.call("POST", path, TOKEN, body)
    }

    fn call(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTrapkey-Actor: alice\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // On a busy machine a request may come too late to be read; then nothing was done.
        wait_for("an answer in time", || {
            Some(self.raw(request.as_bytes())).filter(|(status, _)| *status != 408)
        })
    }

    /// Sends bytes and reads the answer; status 0 where there is none.
    fn raw(&self, bytes: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        // It may hang up on what it does not want to read.
        let _ = stream.write_all(bytes);
        answer(&mut stream)
    }

    /// Ends it as a service manager does.
    fn terminate(&mut self) -> Option<i32> {
        terminate(&self.child);
        self.child.wait().unwrap().code()
    }
}

fn answer(stream: &mut TcpStream) -> (u16, Value) {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_default())
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have been ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A webhook with one alert, as Alertmanager writes it.
fn webhook(status: &str, name: &str, labels: &[(&str, &str)]) -> String {
    let mut all: serde_json::Map<String, Value> =
        labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    all.insert("alertname".into(), name.into());
    let print = format!("{name}{labels:?}");
    json!({"version": "4", "receiver": "trapkey", "status": status, "truncatedAlerts": 0, "alerts": [
        {"status": status, "labels": all, "annotations": {"summary": "so it is"}, "fingerprint": print,
         "startsAt": "2026-01-02T03:04:05Z", "endsAt": "0001-01-01T00:00:00Z"}]})
    .to_string()
}

/// Every file below a folder that holds the token.
fn with_token(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(with_token(&path));
        } else if kind.is_file()
            && std::fs::read(&path).unwrap().windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn an_abort_over_http_takes_a_release_back_that_nobody_works_on() {
    let stage = Stage::new(LONG, "  hooks: {on_rollback: [sh, -c, \"env > hook.env\"]}\n");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let mut listening = Listening::start(&stage);
    let (status, answer) = listening.post("/abort", "{\"reason\": \"orders drop\"}");
    assert_eq!((status, &answer["did"]), (202, &"abort".into()), "{answer}");
    wait_until("the way back", || stage.phase() == "rolled_back");
    stage.assert_all_blue();
    let (status, again) = listening.post("/abort", "");
    assert_eq!((status, &again["did"]), (200, &"nothing".into()), "{again}");
    assert_eq!(listening.terminate(), Some(0));
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "called off by http: alice: orders drop");
    let calls = json(&stage.path().join(".trapkey/production/calls.json"));
    assert_eq!(calls["calls"].as_array().unwrap().len(), 1, "{calls}");
    assert_eq!(calls["calls"][0]["who"], "http: alice");
    // What a hook starts does not get the token.
    let hook = std::fs::read_to_string(stage.path().join("hook.env")).unwrap();
    assert!(hook.contains("TRAPKEY_HOOK=on_rollback") && !hook.contains("TRAPKEY_TOKEN"), "{hook}");
    assert_eq!(with_token(stage.path()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_signal_during_an_abort_lets_it_end() {
    let hook = "echo > began; until [ -e go ]; do sleep 0.05; done; echo paged > paged.txt";
    let stage = Stage::new(LONG, &format!("  hooks: {{on_rollback: [sh, -c, \"{hook}\"]}}\n"));
    assert_eq!(stage.promote(&["start"]).code, 0);
    let mut listening = Listening::start(&stage);
    assert_eq!(listening.post("/abort", "").0, 202);
    wait_until("the hook", || stage.path().join("began").exists());
    terminate(&listening.child);
    std::fs::write(stage.path().join("go"), "").unwrap();
    assert_eq!(listening.child.wait().unwrap().code(), Some(0));
    stage.assert_all_blue();
    assert_eq!(stage.phase(), "rolled_back");
    assert!(stage.path().join("paged.txt").exists());
}

#[test]
fn an_abort_over_http_works_on_a_full_disk() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let port = free_port();
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" listen --on \"$1\""])
        .arg(crate::support::binary("promote"))
        .arg(format!("127.0.0.1:{port}"))
        .current_dir(stage.path())
        .env("TRAPKEY_TOKEN", TOKEN)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let listening = Listening { port, child, log: stage.path().join("none") };
    wait_until("promote listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(listening.post("/abort", "").0, 202);
    wait_until("the way back", || stage.haproxy.server("green").0 == 0);
    stage.assert_all_blue();
    assert_eq!(listening.get("/status").0, 200);
}

#[test]
fn pause_resume_and_status_over_http_do_what_they_do_on_the_command_line() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let listening = Listening::start(&stage);
    assert_eq!(listening.get("/status"), (200, json!({"release": null})));
    assert_eq!(listening.post("/pause", "").0, 409, "nothing was begun");
    assert_eq!(listening.post("/abort", "").0, 409);
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(listening.post("/pause", "{\"reason\": \"a look first\"}").0, 200);
    stage.end_the_bake();
    let child = stage.spawn(&["run"]);
    stage.wait_for_the_hold("paused it before step 2");
    let (status, answer) = listening.get("/status");
    assert_eq!((status, &answer["release"]["version"]), (200, &"1.1".into()));
    assert_eq!(
        (&answer["paused"]["who"], &answer["promotion"]["weight"]),
        (&"http: alice".into(), &0.1.into())
    );
    assert_eq!(stage.haproxy.server("green").0, 10);
    assert_eq!(listening.post("/resume", "").0, 200);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    stage.assert_all_green();
    let (status, late) = listening.post("/abort", "");
    assert_eq!(status, 409, "{late}");
    assert_eq!(listening.post("/pause", "").0, 409);
    stage.assert_all_green();
}

#[test]
fn the_plan_is_validated_as_it_stands_and_a_broken_one_is_not_in_the_way_of_an_abort() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let listening = Listening::start(&stage);
    let (status, answer) = listening.get("/validate");
    assert_eq!((status, &answer["valid"]), (200, &true.into()), "{answer}");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("min_samples", "min_sample")).unwrap();
    let (status, answer) = listening.get("/validate");
    assert_eq!(status, 422, "{answer}");
    assert!(answer.to_string().contains("did you mean `min_samples`?"), "{answer}");
    assert_eq!(listening.post("/abort", "").0, 202);
    wait_until("the way back", || stage.phase() == "rolled_back");
    stage.assert_all_blue();
}

#[test]
fn an_artifact_that_is_not_here_is_not_in_the_way_of_those_who_only_look_or_go_back() {
    let stage = Stage::new(LONG, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("release: {", "release: {artifacts: [shop.tar.gz], ")).unwrap();
    let artifact = stage.path().join("shop.tar.gz");
    std::fs::write(&artifact, "x").unwrap();
    assert_eq!(stage.promote(&["start"]).code, 0);
    std::fs::remove_file(&artifact).unwrap();
    assert_eq!(stage.promote(&["step"]).code, 2, "who goes on must have it");
    for looks in [&["status"][..], &["pause"], &["resume"], &["plan"], &["flag", "list"]] {
        let ended = stage.promote(looks);
        assert_eq!(ended.code, 0, "{looks:?}: {}", ended.stderr);
    }
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
    assert_eq!(stage.document()["release"]["artifacts"][0]["name"], "shop.tar.gz");
}

#[test]
fn an_approval_that_was_signed_elsewhere_counts_and_another_does_not() {
    let steps = "[{weight: 10%, bake: 10m}, {weight: 100%, approve: [product_owner]}]";
    let stage = Stage::new(steps, "  approvers: {product_owner: [olga]}\n");
    for (name, folder) in [("ci", ""), ("olga", "approvers"), ("otto", "approvers")] {
        gates::key(&stage, name, folder);
    }
    let signed = ["--trust", "trust", "--sign-key", "ci.key"];
    let promote = |arguments: &[&str]| stage.promote(&[arguments, &signed].concat());
    assert_eq!(promote(&["start"]).code, 0);
    // Somewhere else: the plan is there and a copy of the state, and nothing of it comes back.
    let copied = Command::new("cp").args(["-r", ".trapkey", "elsewhere"]).current_dir(stage.path()).status();
    assert!(copied.unwrap().success());
    let sign = |who: &str| {
        let (folder, key) = (format!("from-{who}"), format!("{who}.key"));
        let ended = stage.promote(&[
            "--state",
            "elsewhere",
            "--evidence",
            &folder,
            "--set",
            "VERSION=unknown",
            "approve",
            "--role",
            "product_owner",
            "--key",
            &key,
        ]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let path = stage.path().join(folder).join("approval.product_owner.2.json");
        std::fs::read_to_string(path).unwrap()
    };
    let (olgas, ottos) = (sign("olga"), sign("otto"));
    let untrusting = Listening::start(&stage);
    assert_eq!(untrusting.post("/approve", &olgas).0, 409, "nothing says whose keys count");
    let listening = Listening::start_with(&stage, &["--trust", "trust"]);
    for wrong in ["", "{}", &ottos, &olgas.replace("product_owner approves", "product_owner approveS")] {
        let (status, answer) = listening.post("/approve", wrong);
        assert_eq!(status, 409, "{answer}");
    }
    stage.end_the_bake();
    assert_eq!(promote(&["step"]).code, 3);
    assert_eq!(stage.haproxy.server("green").0, 10);
    let (status, answer) = listening.post("/approve", &olgas);
    assert_eq!((status, &answer["did"]), (200, &"approve".into()), "{answer}");
    stage.step_to_the_end(&signed);
    stage.assert_all_green();
    assert_eq!(stage.promotion()["approvals"][0]["who"], "olga");
    assert_eq!(listening.post("/approve", &olgas).0, 409, "it is over");
}

#[test]
fn nobody_is_listened_to_without_a_token_that_is_long_enough() {
    let stage = Stage::new(LONG, "");
    let listen = |name: &str, value: &str| {
        run(tool("promote", stage.path()).args(["listen", "--on", "127.0.0.1:0"]).env(name, value))
    };
    for (name, value) in
        [("X", ""), ("TRAPKEY_TOKEN", ""), ("TRAPKEY_TOKEN", "short"), ("TRAPKEY_TOKEN_FILE", "none.txt")]
    {
        let ended = listen(name, value);
        assert_eq!(ended.code, 2, "{name}={value}: {}", ended.stderr);
        assert!(ended.stderr.contains("openssl rand -hex 32") && !ended.stderr.contains("short\n"));
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let on = taken.local_addr().unwrap().to_string();
    let ended = run(tool("promote", stage.path()).args(["listen", "--on", &on]).env("TRAPKEY_TOKEN", TOKEN));
    assert_eq!(ended.code, 4, "{}", ended.stderr);
}

#[test]
fn a_flag_is_set_listed_and_evaluated_per_environment() {
    let stage = Stage::new(LONG, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("{production: {}}", "{production: {}, staging: {}}")).unwrap();
    let flag = |environment: &str, arguments: &[&str]| {
        let ended =
            run(tool("promote", stage.path()).args(["--environment", environment, "flag"]).args(arguments));
        (ended.code, ended.stdout, ended.stderr)
    };
    let answer = |environment: &str, arguments: &[&str]| {
        let (code, out, err) = flag(environment, &[&["eval", "checkout"][..], arguments].concat());
        assert_eq!(code, 0, "{err}");
        out
    };
    assert_eq!(flag("production", &["set", "checkout", "--percentage", "10%", "--group", "beta"]).0, 0);
    assert_eq!(flag("production", &["list"]).1, "checkout: 10 % of users and beta\n");
    assert_eq!(answer("production", &["--user", "7", "--group", "beta"]), "on\n");
    let on = (0..200).filter(|n| answer_of(&stage, &n.to_string()) == "on\n").count();
    assert!((5..40).contains(&on), "{on} of 200 users have it at 10 %");
    // Another environment has flags of its own.
    let (code, _, err) = flag("staging", &["eval", "checkout"]);
    assert_eq!(code, 2, "{err}");
    assert_eq!(flag("staging", &["set", "checkout", "--on", "--until", "2020-01-01T00:00:00Z"]).0, 0);
    assert_eq!(answer("staging", &[]), "off\n");
    assert_eq!(flag("staging", &["eval", "checkout", "--exit-code"]).0, 1);
    assert_eq!(flag("staging", &["set", "checkout", "--always"]).0, 0);
    assert_eq!(answer("staging", &["--exit-code"]), "on\n");
    let (_, out, _) = flag("staging", &["eval", "checkout", "--user", "7", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["on"], &told["user"]), (&true.into(), &"7".into()));
    // Typing errors are named, and change nothing.
    let (code, _, err) = flag("production", &["eval", "chekout"]);
    assert!(code == 2 && err.contains("did you mean `checkout`?"), "{err}");
    for wrong in [
        &["set", "checkout"][..],
        &["set", "two words", "--on"],
        &["set", "checkout", "--on", "--off"],
        &["set", "checkout", "--percentage", "110%"],
        &["set", "checkout", "--from", "tomorrow"],
        &["set", "checkout", "--group", "a/b"],
    ] {
        let (code, _, err) = flag("production", wrong);
        assert_eq!(code, 2, "{wrong:?}: {err}");
    }
    let (_, out, _) = flag("production", &["list", "--json"]);
    let all: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&all["version"], all["history"].as_array().unwrap().len()), (&1.into(), 1), "{all}");
    assert!(all["history"][0]["who"].is_string());
}

fn answer_of(stage: &Stage, user: &str) -> String {
    stage
        .promote(&["--environment", "production", "--quiet", "flag", "eval", "checkout", "--user", user])
        .stdout
}

#[test]
fn what_the_guide_shows_of_alertmanager_and_of_the_calls_is_so() {
    let guide =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/control.md")).unwrap();
    let example = guide.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(example.contains("/alertmanager") && example.contains("credentials_file"));
    let folder = folder();
    let path = folder.path().join("alertmanager.yml");
    std::fs::write(&path, example).unwrap();
    let checked = run(Command::new("amtool").arg("check-config").arg(&path));
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    let stage = Stage::new(LONG, "");
    let (_, known) = Listening::start(&stage).get("/");
    let known = known["error"].as_str().unwrap().trim_start_matches("there is only ").to_owned();
    assert_eq!(known.split(", ").count(), 7);
    for call in known.split(", ") {
        assert!(guide.contains(&format!("`{call}`")), "{call}");
    }
}
