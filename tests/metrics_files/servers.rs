//! Logs that real servers write, against what the sides and the clients saw.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use trapkey::metrics::{SideOf, Source, UserRequest};
use trapkey::world::http::Client;

use super::{now_ms, open, requests, sides};
use crate::support::caddy::Caddy;
use crate::support::envoy::Envoy;
use crate::support::haproxy::Haproxy;
use crate::support::nginx::Nginx;
use crate::support::router::RealRouter;
use crate::support::side::Side;
use crate::support::traefik::Traefik;
use crate::support::{folder, free_port, wait_for, wait_until};

const FORMAT: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $msec $upstream_addr $upstream_status $upstream_response_time $request_time"#;

/// Two sides, green slower, and a folder.
struct Stage {
    folder: tempfile::TempDir,
    blue: Side,
    green: Side,
    /// Where the servers look for green.
    green_port: u16,
}

impl Stage {
    fn new() -> Self {
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        green.answers.delay_ms.store(30, Ordering::SeqCst);
        Self { folder: folder(), green_port: green.port, blue, green }
    }

    /// Nobody listens where green should be.
    fn with_dead_green() -> Self {
        Self { green_port: free_port(), ..Self::new() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn sides(&self) -> [SideOf; 2] {
        sides(&format!("127.0.0.1:{}", self.blue.port), &format!("127.0.0.1:{}", self.green_port))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("access.log")).unwrap_or_default()
    }

    /// Waits until the log has so many lines and says when: what it has is from before that.
    fn logged(&self, lines: usize) -> i64 {
        wait_until("the log", || self.log().lines().count() >= lines);
        std::thread::sleep(Duration::from_millis(5));
        now_ms()
    }

    /// The same for a log of whole seconds: what comes from now on is of a later one.
    fn logged_by_seconds(&self, lines: usize) -> i64 {
        let next = (self.logged(lines) / 1000 + 1) * 1000;
        wait_until("the next second", || now_ms() >= next);
        next
    }

    /// What a source says of a window, once the log has so many lines of requests.
    fn seen(&self, metric: &str, from: i64, count: usize) -> Vec<UserRequest> {
        wait_for(&format!("{count} requests"), || {
            // It is opened anew: the server may not have written its first line yet.
            let mut source = open(self.path(), metric).unwrap();
            let found = requests(source.as_mut(), &self.sides(), from, now_ms() + 1000);
            found.ok().filter(|found| found.len() >= count)
        })
    }
}

/// Changes a file of a server's configuration.
fn change(path: &Path, edit: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap();
    let edited = edit(text.clone());
    assert_ne!(edited, text, "nothing was changed in {}", path.display());
    std::fs::write(path, edited).unwrap();
}

fn change_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    change(path, |text| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        edit(&mut value);
        value.to_string()
    });
}

fn nginx(stage: &Stage) -> Nginx {
    let mut nginx = Nginx::start(stage.path(), stage.blue.port, stage.green_port);
    let log = stage.path().join("access.log");
    change(&nginx.config, |text| {
        let log = format!(
            "log_format trapkey '{FORMAT}'; access_log {} trapkey; proxy_next_upstream error timeout http_500;",
            log.display()
        );
        text.replace("access_log off;", &log)
    });
    change(&nginx.include, |text| {
        let green = format!(" max_fails=0;\n    server 127.0.0.1:{} max_fails=0;\n}}", stage.green_port);
        text.replace(";\n}", &green)
    });
    nginx.restart();
    nginx
}

fn nginx_metric(more: &str) -> String {
    format!("{{name: n, kind: nginx_log, target: access.log, with: {{format: '{FORMAT}'{more}}}}}")
}

fn traefik(stage: &Stage) -> Traefik {
    let mut traefik = Traefik::start(stage.path(), stage.blue.port, stage.green_port);
    let log = stage.path().join("access.log");
    change(&stage.path().join("traefik.yml"), |text| {
        format!("{text}accessLog: {{format: json, filePath: {}}}\n", log.display())
    });
    change(&traefik.file, |text| text + "          - {name: \"shop-green\", weight: 1}\n");
    traefik.restart();
    traefik
}

fn caddy(stage: &Stage) -> Caddy {
    let mut caddy = Caddy::start(stage.path(), stage.blue.port);
    let log = stage.path().join("access.log");
    change_json(&stage.path().join("caddy.json"), |config| {
        config["logging"] = json!({"logs": {"access": {
            "writer": {"output": "file", "filename": log}, "encoder": {"format": "json"}, "include": ["http.log.access"]}}});
        let server = &mut config["apps"]["http"]["servers"]["srv0"];
        server["logs"] = json!({});
        // An answer of its own, when the side gave none, needs the name too.
        let named = json!({"X-Upstream": ["{http.reverse_proxy.upstream.hostport}"]});
        server["errors"] = json!({"routes": [{"handle": [
            {"handler": "headers", "response": {"set": named}},
            {"handler": "static_response", "status_code": "{http.error.status_code}"}]}]});
        let handler = &mut server["routes"][0]["handle"][0];
        handler["headers"] = json!({"response": {"set": named}});
        let green = json!({"dial": format!("127.0.0.1:{}", stage.green_port)});
        handler["upstreams"].as_array_mut().unwrap().push(green);
    });
    caddy.restart();
    caddy
}

fn envoy(stage: &Stage) -> Envoy {
    let mut envoy = Envoy::start(stage.path(), stage.blue.port, stage.green_port);
    let log = stage.path().join("access.log");
    change_json(&stage.path().join("envoy.json"), |config| {
        let manager =
            &mut config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["access_log"] = json!([{"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": log,
            "log_format": {"json_format": {"start_time": "%START_TIME%", "duration": "%DURATION%",
                "response_code": "%RESPONSE_CODE%", "upstream_host": "%UPSTREAM_HOST%",
                "upstream_cluster": "%UPSTREAM_CLUSTER%"}}}}]);
    });
    change_json(&envoy.routes, |routes| {
        let clusters = &mut routes["resources"][0]["virtual_hosts"][0]["routes"][1]["route"]["weighted_clusters"]
            ["clusters"];
        clusters[0]["weight"] = json!(50);
        clusters[1]["weight"] = json!(50);
    });
    envoy.restart();
    envoy
}

/// Sends requests, some of which green fails, and compares what the source says with what the sides
/// served and the clients got. Returns when it began.
fn tells_what_happened(stage: &Stage, server: &dyn RealRouter, metric: &dyn Fn(&str) -> String) -> i64 {
    let client = Client::new(Duration::from_secs(170));
    // Caddy begins its log with the first request, and a window before the log's beginning is refused.
    client.get(&server.url()).unwrap();
    let from = stage.logged(1);
    stage.green.answers.fail_every.store(3, Ordering::SeqCst);
    let before = (stage.blue.served(), stage.green.served());
    let statuses: Vec<u16> = (0..60).map(|_| client.get(&server.url()).unwrap().status).collect();
    let failed = statuses.iter().filter(|status| **status == 500).count();
    let served = (stage.blue.served() - before.0, stage.green.served() - before.1);
    assert!(served.0 > 5 && served.1 > 5 && failed > 1, "{served:?}, {failed} failed");
    let found = stage.seen(&metric(""), from, 60);
    let of = |side: usize| found.iter().filter(move |request| request.side == side);
    assert_eq!((of(0).count() as u64, of(1).count() as u64), served, "{}", stage.log());
    assert!(of(0).all(|request| request.ok));
    assert_eq!(of(1).filter(|request| !request.ok).count(), failed);
    for request in &found {
        let latency = request.latency_ms.unwrap();
        let least = if request.side == 1 { 28.0 } else { 0.0 };
        assert!(latency >= least, "{request:?}");
        assert!((from..=now_ms()).contains(&request.at_ms), "{request:?}");
    }
    assert!(found.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms + 1000));
    from
}

/// Asks, and leaves as soon as a side is at it.
fn leave_early(stage: &Stage, server: &dyn RealRouter) {
    let served = || stage.blue.served() + stage.green.served();
    let before = served();
    let address = server.url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /left HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    wait_until("a side to be asked", || served() > before);
}

/// A client that does not wait says nothing about the side, unless the plan wants it so.
fn leaves_out_clients_that_left(stage: &Stage, server: &dyn RealRouter, metric: &dyn Fn(&str) -> String) {
    for side in [&stage.blue, &stage.green] {
        // Longer than anybody waits.
        side.answers.delay_ms.store(600_000, Ordering::SeqCst);
        side.answers.fail_every.store(0, Ordering::SeqCst);
    }
    let gone = stage.logged(61);
    leave_early(stage, server);
    let counted = stage.seen(&metric(", client_closed: error"), gone, 1);
    assert_eq!(counted.iter().map(|request| request.ok).collect::<Vec<_>>(), [false], "{}", stage.log());
    assert_eq!(stage.seen(&metric(", client_closed: ok"), gone, 1).len(), 1);
    assert_eq!(stage.seen(&metric(""), gone, 0).len(), 0);
}

fn json_metric(preset: &'static str) -> impl Fn(&str) -> String {
    move |more| format!("{{name: j, kind: json_log, target: access.log, with: {{preset: {preset}{more}}}}}")
}

#[test]
fn nginx_tells_every_request() {
    let stage = Stage::new();
    let mut nginx = nginx(&stage);
    // No second attempts here.
    change(&nginx.config, |text| text.replace("error timeout http_500;", "off;"));
    nginx.restart();
    tells_what_happened(&stage, &nginx, &nginx_metric);
    leaves_out_clients_that_left(&stage, &nginx, &nginx_metric);
}

#[test]
fn traefiks_preset_tells_every_request() {
    let stage = Stage::new();
    let traefik = traefik(&stage);
    tells_what_happened(&stage, &traefik, &json_metric("traefik"));
    leaves_out_clients_that_left(&stage, &traefik, &json_metric("traefik"));
}

#[test]
fn caddys_preset_tells_every_request() {
    let stage = Stage::new();
    let caddy = caddy(&stage);
    let from = tells_what_happened(&stage, &caddy, &json_metric("caddy"));
    // The same log by what the sides call themselves.
    let mut sides = stage.sides();
    sides[0].release = Some("1.0".into());
    sides[1].release = Some("1.1".into());
    let by_release = json_metric("caddy")(", side: /resp_headers/X-Release/0");
    let mut source = open(stage.path(), &by_release).unwrap();
    let found = requests(source.as_mut(), &sides, from, now_ms() + 1000).unwrap();
    assert!(found.len() == 60 && found.iter().any(|request| request.side == 1));
    // Of a client that did not wait it does not tell the side.
    stage.blue.answers.delay_ms.store(600_000, Ordering::SeqCst);
    stage.green.answers.delay_ms.store(600_000, Ordering::SeqCst);
    leave_early(&stage, &caddy);
    wait_until("the line", || stage.log().contains("/left"));
    assert_eq!(stage.seen(&json_metric("caddy")(", client_closed: error"), from, 60).len(), 60);
}

#[test]
fn envoys_preset_tells_every_request() {
    let stage = Stage::new();
    let envoy = envoy(&stage);
    let from = tells_what_happened(&stage, &envoy, &json_metric("envoy"));
    let by_cluster = ", side: upstream_cluster, blue: shop-blue, green: shop-green";
    let found = stage.seen(&json_metric("envoy")(by_cluster), from, 60);
    assert!(found.len() == 60 && found.iter().any(|request| request.side == 1));
    leaves_out_clients_that_left(&stage, &envoy, &json_metric("envoy"));
}

/// HAProxy that writes its log as it does in a container, into a file; `more` are lines of the frontend and `backend`
/// some of the backend.
fn haproxy(stage: &Stage, more: &str, backend: &str) -> Haproxy {
    let (blue, green) = (stage.blue.port, stage.green_port);
    let mut haproxy = Haproxy::start(stage.path(), blue, green, backend);
    let log = format!("log {}/log.sock local0\n  {more}\n  bind ", stage.path().display());
    haproxy.edit("  bind ", &format!("  {log}"));
    haproxy.edit("weight 0", "weight 100");
    haproxy.restart();
    haproxy
}

/// Takes what HAProxy sends to syslog, and writes it down as rsyslog does, or as it came.
struct Syslog(std::sync::Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Syslog {
    fn start(folder: &Path, bare: bool) -> Self {
        let socket = std::os::unix::net::UnixDatagram::bind(folder.join("log.sock")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(folder.join("access.log")).unwrap();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut line = vec![0; 64 * 1024];
            while !stopped.load(Ordering::SeqCst) {
                let Ok(length) = socket.recv(&mut line) else { continue };
                let text = String::from_utf8_lossy(&line[..length]).trim_end().to_owned();
                // `<134>Nov 21 08:00:00 haproxy[9]: …`; the file has the host's name and no number.
                let text = match text.split_once('>').filter(|_| !bare) {
                    Some((_, rest)) => format!("{} lb {}", &rest[..15], &rest[16..]),
                    None => text,
                };
                file.write_all(format!("{text}\n").as_bytes()).unwrap();
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        let _ = self.1.take().unwrap().join();
    }
}

fn haproxy_metric(format: &str) -> impl Fn(&str) -> String {
    let format = format.replace('\'', "''");
    move |more| {
        format!(
            "{{name: h, kind: haproxy_log, target: access.log, with: {{format: '{format}', backend: shop{more}}}}}"
        )
    }
}

const HAPROXY_JSON: &str = r#"{"at":"%tr","agent":"%[capture.req.hdr(0),json(utf8s)]","b":"%b","s":"%s","st":%ST,"ta":%Ta,"tc":%Tc,"tr":%Tr,"end":"%tsc","rc":"%rc","r":%{+Q}r}"#;

#[test]
fn haproxys_httplog_and_a_log_format_in_json_tell_every_request() {
    let capture = "capture request header User-Agent len 90";
    for (bare, format, line) in [
        (false, "httplog", format!("option httplog\n  {capture}")),
        (true, HAPROXY_JSON, format!("log-format '{HAPROXY_JSON}'\n  {capture}")),
        (false, "clf", "option httplog clf".to_owned()),
    ] {
        let stage = Stage::new();
        let _syslog = Syslog::start(stage.path(), bare);
        let haproxy = haproxy(&stage, &line, "");
        let metric = haproxy_metric(format);
        if format == "clf" {
            let client = Client::new(Duration::from_secs(170));
            client.get(&haproxy.url()).unwrap();
            let from = stage.logged_by_seconds(1);
            stage.green.answers.fail_every.store(2, Ordering::SeqCst);
            let failed = (0..20).filter(|_| client.get(&haproxy.url()).unwrap().status == 500).count();
            let found = stage.seen(&metric(""), from, 20);
            assert_eq!(
                (found.len(), found.iter().filter(|r| !r.ok).count()),
                (20, failed),
                "{}",
                stage.log()
            );
            continue;
        }
        tells_what_happened(&stage, &haproxy, &metric);
    }
}

#[test]
fn haproxys_tcplog_tells_every_connection() {
    let stage = Stage::with_dead_green();
    let _syslog = Syslog::start(stage.path(), false);
    let mut haproxy = haproxy(&stage, "option tcplog", "  retries 0\n");
    haproxy.edit("mode http", "mode tcp");
    haproxy.edit("cookie b", "");
    haproxy.edit("cookie g", "");
    haproxy.edit("option redispatch", "");
    haproxy.restart();
    // The connections by which it was seen to be up.
    let from = stage.logged(1);
    let before = stage.log().lines().count();
    let answered = (0..20).filter(|_| {
        let mut stream = TcpStream::connect(haproxy.url().replace("http://", "")).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        answer.starts_with("HTTP/1.1 200")
    });
    let answered = answered.count();
    wait_until("all connections", || stage.log().lines().count() >= before + 20);
    let found = stage.seen(&haproxy_metric("tcplog")(""), from, 20);
    let of = |side: usize, ok: bool| found.iter().filter(|r| r.side == side && r.ok == ok).count();
    assert!((5..=15).contains(&answered), "{answered}");
    assert_eq!(
        [of(0, true), of(0, false), of(1, true), of(1, false)],
        [answered, 0, 0, 20 - answered],
        "{}",
        stage.log()
    );
}

#[test]
fn a_failure_that_haproxy_hides_by_another_server_is_one_of_the_side_that_failed() {
    let stage = Stage::with_dead_green();
    let _syslog = Syslog::start(stage.path(), false);
    let haproxy = haproxy(&stage, "option httplog", "");
    let client = Client::new(Duration::from_secs(170));
    client.get(&haproxy.url()).unwrap();
    let from = stage.logged(1);
    let before = stage.blue.served();
    let known = stage.log();
    for _ in 0..20 {
        assert_eq!(client.get(&haproxy.url()).unwrap().status, 200, "the user sees nothing of it");
    }
    assert_eq!(stage.blue.served() - before, 20);
    let found = stage.seen(&haproxy_metric("httplog")(""), from, 25);
    let of = |side: usize, ok: bool| found.iter().filter(|r| r.side == side && r.ok == ok).count();
    let tried_again: usize = stage.log()[known.len()..].matches("/+1 ").count();
    assert!(tried_again >= 5, "{}", stage.log());
    assert_eq!(
        [of(0, true), of(0, false), of(1, true), of(1, false)],
        [20, 0, 0, tried_again],
        "{}",
        stage.log()
    );
    let last = stage.seen(&haproxy_metric("httplog")(", attempts: last"), from, 20);
    assert!(last.len() == 20 && last.iter().all(|r| r.side == 0 && r.ok));
}

fn text_metric(format: &'static str) -> impl Fn(&str) -> String {
    move |more| format!("{{name: t, kind: text_log, target: access.log, with: {{format: {format}{more}}}}}")
}

#[test]
fn traefiks_text_tells_every_request() {
    let stage = Stage::new();
    let mut traefik = traefik(&stage);
    change(&stage.path().join("traefik.yml"), |text| text.replace("format: json, ", ""));
    std::fs::remove_file(stage.path().join("access.log")).unwrap();
    traefik.restart();
    let client = Client::new(Duration::from_secs(170));
    client.get(&traefik.url()).unwrap();
    let from = stage.logged_by_seconds(1);
    let before = stage.blue.served() + stage.green.served();
    let forged = r#"x" 8 "shop@file" "http://127.0.0.1:9" 9ms"#;
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    let mut failed = 0;
    for _ in 0..30 {
        let mut request = trapkey::world::http::Request::get(&traefik.url());
        request.headers.push(("user-agent".into(), forged.into()));
        failed += usize::from(client.send(&request).unwrap().status == 500);
    }
    let found = stage.seen(&text_metric("traefik")(""), from, 30);
    let green: Vec<_> = found.iter().filter(|r| r.side == 1).collect();
    assert!(failed > 3 && found.iter().filter(|r| !r.ok).count() == failed, "{}", stage.log());
    assert_eq!(found.len() as u64, stage.blue.served() + stage.green.served() - before, "{}", stage.log());
    assert!(green.iter().all(|r| r.latency_ms.unwrap() >= 28.0));
}

#[test]
fn envoys_text_tells_every_request() {
    let stage = Stage::new();
    let mut envoy = envoy(&stage);
    change_json(&stage.path().join("envoy.json"), |config| {
        let manager =
            &mut config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["access_log"][0]["typed_config"].as_object_mut().unwrap().remove("log_format");
    });
    std::fs::remove_file(stage.path().join("access.log")).unwrap();
    envoy.restart();
    tells_what_happened(&stage, &envoy, &text_metric("envoy"));
    leaves_out_clients_that_left(&stage, &envoy, &text_metric("envoy"));
}

/// `buffer=` and `flush=`: lines come when they come, each with its own moment.
#[test]
fn lines_that_nginx_keeps_for_a_while_are_counted() {
    let stage = Stage::new();
    let mut nginx = nginx(&stage);
    change(&nginx.config, |text| {
        text.replace("access.log trapkey;", "access.log trapkey buffer=64k flush=2s;")
    });
    nginx.restart();
    stage.green.answers.delay_ms.store(0, Ordering::SeqCst);
    let client = Client::new(Duration::from_secs(170));
    client.get(&nginx.url()).unwrap();
    let mut from = stage.logged(1);
    let mut source = open(stage.path(), &nginx_metric("")).unwrap();
    let sides = stage.sides();
    let mut found = Vec::new();
    for _ in 0..30 {
        for _ in 0..5 {
            assert_eq!(client.get(&nginx.url()).unwrap().status, 200);
        }
        std::thread::sleep(Duration::from_millis(100));
        let to = now_ms();
        found.extend(requests(source.as_mut(), &sides, from, to).unwrap());
        from = to;
    }
    wait_until("the rest of the log", || {
        let to = now_ms();
        found.extend(requests(source.as_mut(), &sides, from, to).unwrap());
        from = to;
        found.len() >= 150
    });
    assert_eq!(found.len(), 150);
    assert!(source.late() >= Duration::from_millis(500), "{:?}", source.late());
}

/// Half of all requests go to a side that is not there.
fn names_a_dead_side(start: impl Fn(&Stage) -> Box<dyn RealRouter>, metric: &str) {
    let stage = Stage::with_dead_green();
    let server = start(&stage);
    let client = Client::new(Duration::from_secs(170));
    client.get(&server.url()).unwrap();
    let from = stage.logged(1);
    let statuses: Vec<u16> = (0..30).map(|_| client.get(&server.url()).unwrap().status).collect();
    let failed = statuses.iter().filter(|status| **status >= 500).count();
    assert!(failed > 3 && failed < 30, "{statuses:?}");
    let found = stage.seen(metric, from, 30);
    let of = |side: usize, ok: bool| found.iter().filter(|r| r.side == side && r.ok == ok).count();
    assert_eq!([of(0, true), of(0, false), of(1, true), of(1, false)], [30 - failed, 0, 0, failed]);
}

#[test]
fn requests_that_a_dead_side_never_saw_are_its_errors() {
    let nginx_once = |stage: &Stage| -> Box<dyn RealRouter> {
        let mut nginx = nginx(stage);
        change(&nginx.config, |text| text.replace("error timeout http_500;", "off;"));
        nginx.restart();
        Box::new(nginx)
    };
    names_a_dead_side(nginx_once, &nginx_metric(""));
    names_a_dead_side(|stage| Box::new(traefik(stage)), &json_metric("traefik")(""));
    names_a_dead_side(|stage| Box::new(caddy(stage)), &json_metric("caddy")(""));
    names_a_dead_side(|stage| Box::new(envoy(stage)), &json_metric("envoy")(""));
    let sent = std::sync::Mutex::new(Vec::new());
    let haproxy_once = |stage: &Stage| -> Box<dyn RealRouter> {
        sent.lock().unwrap().push(Syslog::start(stage.path(), false));
        Box::new(haproxy(stage, "option httplog", "  retries 0\n  no option redispatch\n"))
    };
    names_a_dead_side(haproxy_once, &haproxy_metric("httplog")(""));
}

#[test]
fn a_failure_that_nginx_hides_by_another_attempt_is_one_of_the_side_that_failed() {
    let stage = Stage::new();
    let nginx = nginx(&stage);
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    let from = now_ms();
    let before = (stage.blue.served(), stage.green.served());
    let client = Client::new(Duration::from_secs(170));
    for _ in 0..40 {
        assert_eq!(client.get(&nginx.url()).unwrap().status, 200, "the user sees nothing of it");
    }
    let served = (stage.blue.served() - before.0, stage.green.served() - before.1);
    assert!(served.0 == 40 && served.1 >= 10, "{served:?}");
    let count = |found: &[UserRequest], side: usize, ok: bool| {
        found.iter().filter(|request| request.side == side && request.ok == ok).count() as u64
    };
    let all = stage.seen(&nginx_metric(""), from, usize::try_from(served.0 + served.1).unwrap());
    let counts = [count(&all, 0, true), count(&all, 0, false), count(&all, 1, true), count(&all, 1, false)];
    assert_eq!(counts, [40, 0, 0, served.1]);
    assert!(
        all.iter().filter(|request| request.side == 1).all(|request| request.latency_ms.unwrap() >= 28.0)
    );
    let last = stage.seen(&nginx_metric(", attempts: last"), from, 40);
    assert_eq!((count(&last, 0, true), last.len()), (40, 40));
    let by_status = stage.seen(&nginx_metric(", errors: [502, 504]"), from, 40);
    assert_eq!(count(&by_status, 1, true), served.1, "500 is no error for this plan");
}

#[test]
fn nginx_is_followed_over_rotations_under_load() {
    let stage = Stage::new();
    let nginx = nginx(&stage);
    stage.green.answers.delay_ms.store(0, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    let client = Client::new(Duration::from_secs(170));
    // Something older than the first window, so that the log reaches back.
    assert_eq!(client.get(&nginx.url()).unwrap().status, 200);
    let begin = stage.logged(1);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let asking = Mutex::new(());
    let (at, log) = (stage.path().to_path_buf(), stage.path().join("access.log"));
    let reopen = || {
        let config = nginx.config.to_str().unwrap();
        let ended =
            std::process::Command::new("nginx").args(["-s", "reopen", "-c", config]).status().unwrap();
        assert!(ended.success());
    };
    let (mut followed, mut from) = (Vec::new(), begin);
    let sides = stage.sides();
    let mut source = open(stage.path(), &nginx_metric("")).unwrap();
    let mut look = |source: &mut dyn Source, followed: &mut Vec<UserRequest>, to: i64| {
        wait_until("the log between rename and reopening", || {
            let found = requests(source, &sides, from, to);
            followed.extend(found.iter().flatten());
            found.is_ok()
        });
        from = to;
    };
    // Between two requests, when the log has the line of each: a moment that lies behind all of them.
    let written = || {
        let _held = asking.lock().unwrap();
        let lines = || -> usize {
            let files = std::fs::read_dir(&at).unwrap().flatten().map(|file| file.path());
            let logs = files.filter(|file| file.to_string_lossy().contains("access.log"));
            logs.map(|log| std::fs::read_to_string(log).unwrap_or_default().lines().count()).sum()
        };
        wait_until("the log", || lines() as u64 > sent.load(Ordering::SeqCst));
        std::thread::sleep(Duration::from_millis(5));
        now_ms()
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let client = Client::new(Duration::from_secs(170));
            while !stop.load(Ordering::SeqCst) {
                let _held = asking.lock().unwrap();
                assert_eq!(client.get(&nginx.url()).unwrap().status, 200);
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        for round in 0..12 {
            let enough = 15 * (round + 1);
            wait_until("some requests", || sent.load(Ordering::SeqCst) >= enough);
            if round % 4 == 1 {
                let older = at.join("access.log.1");
                if older.exists() {
                    std::fs::rename(&older, at.join(format!("access.log.{}", 20 - round))).unwrap();
                }
                std::fs::rename(&log, older).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                reopen();
            }
            // As with `delay`: what is from before that has been written.
            let to = written();
            look(source.as_mut(), &mut followed, to);
        }
        stop.store(true, Ordering::SeqCst);
        load.join().unwrap();
    });
    let to = written();
    look(source.as_mut(), &mut followed, to);
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent > 100, "{sent}");
    assert_eq!(followed.len() as u64, sent);
    let afresh = stage.seen(&nginx_metric(""), begin, 1);
    assert_eq!(afresh.len() as u64, sent, "a fresh process sees the same over all files");
    // Copied and cut short, as logrotate does it where the server cannot open its log again.
    std::fs::copy(&log, at.join("access.log.0")).unwrap();
    OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    for _ in 0..25 {
        assert_eq!(client.get(&nginx.url()).unwrap().status, 200);
    }
    let to = stage.logged(25);
    assert_eq!(stage.log().lines().count(), 25, "it goes on at the beginning");
    let before = followed.len();
    look(source.as_mut(), &mut followed, to);
    assert_eq!(followed.len() - before, 25);
    assert_eq!(stage.seen(&nginx_metric(""), begin, 1).len() as u64, sent + 25);
}
