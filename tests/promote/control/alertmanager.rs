//! Alerts that act: a real Alertmanager calls `promote listen`, and a release goes back.

use std::time::Instant;

use super::*;

/// A running Alertmanager that calls one webhook.
struct Alertmanager {
    port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Alertmanager {
    fn start(webhook: u16, token: &str) -> Self {
        let folder = folder();
        let port = free_port();
        let config = folder.path().join("alertmanager.yml");
        let text = format!(
            "route: {{receiver: trapkey, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1s}}\n\
             receivers:\n  - name: trapkey\n    webhook_configs:\n      - url: http://127.0.0.1:{webhook}/alertmanager\n        \
             send_resolved: true\n        http_config: {{authorization: {{type: Bearer, credentials: {token}}}}}\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let alertmanager = Self { port, child, _folder: folder };
        wait_until("Alertmanager", || alertmanager.ask("GET", "/-/ready", "").0 == 200);
        alertmanager
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return (0, Value::Null) };
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).unwrap();
        answer(&mut stream)
    }

    /// An alert fires, or is over.
    fn tell(&self, name: &str, labels: &[(&str, &str)], firing: bool) {
        let mut all: serde_json::Map<String, Value> =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        all.insert("alertname".into(), name.into());
        let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(if firing { 600 } else { -1 });
        let mut alert =
            json!({"labels": all, "annotations": {"summary": format!("{name} is bad")}, "endsAt": ends});
        if !firing {
            alert["startsAt"] = (ends - jiff::SignedDuration::from_secs(600)).to_string().into();
        }
        assert_eq!(self.ask("POST", "/api/v2/alerts", &json!([alert]).to_string()).0, 200);
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_alert_takes_a_release_back_that_another_process_is_working_on() {
    let stage = Stage::new(LONG, "");
    let listening = Listening::start(&stage);
    let alertmanager = Alertmanager::start(listening.port, TOKEN);
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    // Neither of these is about this release.
    alertmanager.tell("DiskFull", &[("severity", "page")], true);
    alertmanager.tell("OrdersDrop", &[("trapkey", "abort"), ("environment", "staging")], true);
    wait_until("both to arrive", || listening.said().matches("ignored").count() >= 2);
    assert!(listening.said().contains("its environment is staging, not production"), "{}", listening.said());
    assert_eq!(stage.phase(), "baking");
    let fired = Instant::now();
    let labels = [("trapkey", "abort"), ("environment", "production"), ("service", "shop")];
    alertmanager.tell("CheckoutErrors", &labels, true);
    wait_until("green to be left", || stage.haproxy.server("green").0 == 0);
    figure(&format!("an alert took traffic off green after {:?}", fired.elapsed()));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    wait_until("the end", || stage.phase() == "rolled_back");
    let promotion = stage.promotion();
    let reason = "called off by alertmanager: CheckoutErrors: CheckoutErrors is bad";
    assert_eq!((&promotion["outcome"], &promotion["reason"]), (&"rolled_back".into(), &reason.into()));
    // Alertmanager repeats itself; what is over stays as it is.
    let repetitions =
        || listening.said().matches("CheckoutErrors: ignored, shop 1.1 in production is finished").count();
    wait_until("a repetition", || repetitions() >= 1);
    let before = stage.journal().len();
    wait_until("more of them", || repetitions() >= 3);
    assert_eq!(stage.journal().len(), before);
    let calls = json(&stage.path().join(".trapkey/production/calls.json"));
    assert_eq!(calls["calls"].as_array().unwrap().len(), 1, "{calls}");
    assert_eq!(with_token(stage.path()), Vec::<std::path::PathBuf>::new());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(TOKEN), "{}", entry.path().display());
    }
}

#[test]
fn an_alert_pauses_and_lets_go_on_when_it_is_over() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let listening = Listening::start(&stage);
    let alertmanager = Alertmanager::start(listening.port, TOKEN);
    assert_eq!(stage.promote(&["start"]).code, 0);
    alertmanager.tell("QueueLong", &[("trapkey", "pause")], true);
    wait_until("the pause", || listening.get("/status").1["paused"]["who"] == "alertmanager: QueueLong");
    stage.end_the_bake();
    let child = stage.spawn(&["run"]);
    stage.wait_for_the_hold("paused it before step 2");
    assert_eq!((stage.phase(), stage.haproxy.server("green").0), ("baking".into(), 10));
    alertmanager.tell("QueueLong", &[("trapkey", "pause")], false);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    stage.assert_all_green();
}

#[test]
fn an_alertmanager_with_another_token_moves_nothing() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let listening = Listening::start(&stage);
    let alertmanager = Alertmanager::start(listening.port, "another-token-0123456789");
    alertmanager.tell("CheckoutErrors", &[("trapkey", "abort")], true);
    let refused = || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", alertmanager.port)) else { return false };
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let of_webhook = |line: &&str| {
            line.starts_with("alertmanager_notification_requests_failed_total{")
                && line.contains("integration=\"webhook\"")
        };
        text.lines().find(of_webhook).is_some_and(|line| !line.ends_with(" 0"))
    };
    wait_until("the call to be refused", refused);
    assert_eq!((stage.phase(), stage.haproxy.server("green").0), ("baking".into(), 50));
    assert!(!stage.path().join(".trapkey/production/abort.json").exists());
    assert!(!listening.said().contains("another-token"));
}

#[test]
fn what_an_alert_has_paused_goes_on_with_its_end_and_nothing_else() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let listening = Listening::start(&stage);
    let tell = |status: &str, name: &str| {
        let (code, answer) = listening.post("/alertmanager", &webhook(status, name, &[("trapkey", "pause")]));
        assert_eq!(code, 200, "{answer}");
        answer["alerts"][0]["did"].as_str().unwrap().to_owned()
    };
    let paused = || listening.get("/status").1["paused"]["who"].as_str().map(str::to_owned);
    // Two alerts: the pause lasts until both are over.
    assert_eq!(tell("firing", "A"), "pause");
    assert_eq!(tell("firing", "B"), "pause");
    assert_eq!(tell("resolved", "A"), "over");
    assert_eq!(paused().as_deref(), Some("alertmanager: A"));
    assert_eq!(tell("resolved", "B"), "over");
    assert_eq!(paused(), None);
    // What a person has paused stays.
    assert_eq!(tell("firing", "A"), "pause");
    assert_eq!(stage.promote(&["pause"]).code, 0);
    assert_eq!(tell("resolved", "A"), "over");
    assert!(paused().is_some_and(|who| !who.contains("alertmanager")), "{:?}", paused());
    // What a person has let go on is not held again by the same alert.
    assert_eq!(tell("firing", "A"), "pause");
    assert_eq!(listening.post("/resume", "").0, 200);
    assert_eq!(tell("firing", "A"), "nothing");
    assert_eq!(paused(), None);
    // Another release begins with a clean slate.
    assert_eq!(stage.promote(&["abort"]).code, 1);
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(tell("firing", "A"), "pause");
    assert_eq!(paused().as_deref(), Some("alertmanager: A"));
}
