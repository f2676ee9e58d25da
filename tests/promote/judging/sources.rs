//! Sources: a real Prometheus that judges, errs, hangs and goes away; files and commands; secrets.

use std::time::Instant;

use super::*;

const MEDIUM: &str = "[{weight: 50%, bake: 6s}, {weight: 100%}]";

#[test]
fn orders_that_fall_on_green_alone_roll_back_and_equal_ones_promote() {
    let orders = Orders::start();
    let good = judged(MEDIUM, &orders.rules("  judge: {undecided: wait}\n"));
    let ended = good.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    good.assert_all_green();
    let seen = newest(&good.promotion(), "orders_per_minute", "orders_per_minute");
    assert_eq!((&seen["verdict"], &seen["outcome"]), (&"pass".into(), &"pass".into()), "{seen:#}");
    assert!(
        seen["green"].as_f64().unwrap() > 790.0 && seen["blue_samples"].as_u64().unwrap() > 0,
        "{seen:#}"
    );
    assert!(seen["query"].as_str().unwrap().contains("sum(orders_per_minute"), "{seen:#}");
    assert_eq!(seen["test"]["name"], "mann_whitney");
    assert_replays(good.path());

    let bad = judged("[{weight: 50%, bake: 30s}, {weight: 100%}]", &orders.rules(""));
    orders.green.store(70, Ordering::SeqCst);
    orders.prometheus.wait_for("sum(orders_per_minute{side=\"green\"}) < 600");
    let ended = bad.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    bad.assert_all_blue();
    let promotion = bad.promotion();
    let reason = promotion["reason"].as_str().unwrap();
    assert!(reason.contains("worse, and not by chance") && reason.contains("orders_per_minute"), "{reason}");
    let seen = newest(&promotion, "orders_per_minute", "orders_per_minute");
    assert_eq!(seen["outcome"], "fires", "{seen:#}");
    assert!(seen["test"]["effect"].as_f64().unwrap() > 200.0, "{seen:#}");
    assert_replays(bad.path());
}

#[test]
fn several_series_are_an_error_with_their_labels_and_nothing_passes() {
    let orders = Orders::start();
    let rules = orders
        .rules("  judge: {consecutive_errors: 3}\n")
        .replace("sum(orders_per_minute{side=\"{{ side }}\"})", "orders_per_minute{side=\"{{ side }}\"}");
    let stage = judged("[{weight: 50%, bake: 1s}, {weight: 100%}]", &rules);
    stage.edit("undecided_for: 60s", "undecided_for: 1s");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    let seen = newest(&stage.promotion(), "orders_per_minute", "orders_per_minute");
    assert_eq!((&seen["verdict"], &seen["outcome"]), (&"error".into(), &"query_error".into()), "{seen:#}");
    let message = seen["message"].as_str().unwrap();
    assert!(message.contains("2 series") && message.contains("shop=\"south\""), "{message}");
    let judgements = stage.promotion()["judgements"].clone();
    assert!(judgements.as_array().unwrap().iter().all(|j| j["verdict"] != "pass"), "{judgements:#}");
    assert_replays(stage.path());
}

#[test]
fn a_prometheus_that_is_gone_is_borne_and_then_the_release_goes_back() {
    let mut orders = Orders::start();
    let stage = judged(LONG, &orders.rules("  judge: {consecutive_errors: 10}\n"));
    stage.edit("undecided_for: 60s", "undecided_for: 2s");
    let began = Instant::now();
    // A call does not leave before Prometheus has answered.
    assert_eq!(stage.promote(&["start"]).code, 0);
    orders.prometheus.kill();
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(began.elapsed() >= Duration::from_secs(2), "it is borne: {:?}", began.elapsed());
    stage.assert_all_blue();
    let promotion = stage.promotion();
    let reason = promotion["reason"].as_str().unwrap();
    assert!(reason.contains("nothing could be decided for") && reason.contains("Prometheus"), "{reason}");
    assert_replays(stage.path());
}

#[test]
fn a_prometheus_that_is_gone_for_less_than_is_borne_is_forgiven() {
    let mut orders = Orders::start();
    let rules = orders.rules("  judge: {consecutive_errors: 60}\n");
    let stage = judged("[{weight: 50%, bake: 6s}, {weight: 100%}]", &rules);
    stage.edit("undecided_for: 60s", "undecided_for: 10m");
    assert_eq!(stage.promote(&["start"]).code, 0);
    orders.prometheus.kill();
    wait_until("the trouble to be seen", || {
        let blind = stage.promote(&["step"]);
        assert_eq!(blind.code, 0, "{}", blind.stderr);
        newest(&stage.promotion(), "orders_per_minute", "orders_per_minute")["verdict"] == "error"
    });
    orders.prometheus.restart();
    assert_eq!(stage.promote(&["run"]).code, 0);
    stage.assert_all_green();
    let troubled = |line: &Value| line["given"].as_array().unwrap().iter().any(|g| g["trouble"].is_string());
    assert!(samples(stage.path()).iter().any(troubled), "it was away");
    assert_replays(stage.path());
}

#[test]
fn a_release_that_freezes_when_nothing_is_known_goes_on_after_resume_when_data_is_back() {
    let mut orders = Orders::start();
    let rules = orders.rules("  judge: {consecutive_errors: 3, undecided: freeze}\n");
    let stage = judged(MEDIUM, &rules);
    stage.edit("undecided_for: 60s", "undecided_for: 1s");
    assert_eq!(stage.promote(&["start"]).code, 0);
    orders.prometheus.kill();
    let mut child = stage.spawn(&["run"]);
    stage.wait_for_the_hold("paused it before step 2");
    assert_eq!(stage.haproxy.server("green").0, 50, "it stands still");
    assert_eq!(stage.phase(), "baking");
    orders.prometheus.restart();
    // What it is paused for may be judged well meanwhile; only people let it go on.
    orders.prometheus.wait_for("orders_per_minute");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(stage.haproxy.server("green").0, 50);
    assert_eq!(stage.promote(&["resume"]).code, 0);
    // As long as too little is known it freezes again.
    let ended = wait_for("the release to go on", || {
        stage.promote(&["resume"]);
        child.try_wait().unwrap()
    });
    assert_eq!(ended.code(), Some(0));
    stage.assert_all_green();
    assert_replays(stage.path());
}

#[test]
fn a_frozen_or_waiting_release_is_still_judged() {
    let mut orders = Orders::start();
    let stages = ["freeze", "wait"].map(|word| {
        judged(LONG, &orders.rules(&format!("  judge: {{consecutive_errors: 3, undecided: {word}}}\n")))
    });
    for stage in &stages {
        stage.edit("undecided_for: 60s", "undecided_for: 1s");
        assert_eq!(stage.promote(&["start"]).code, 0);
    }
    orders.prometheus.kill();
    let children = stages.each_ref().map(|stage| stage.spawn(&["run"]));
    stages[0].wait_for_the_hold("paused");
    std::thread::sleep(Duration::from_secs(1));
    assert!(!stages[1].promote(&["status"]).stdout.contains("paused"), "it only waits");
    for (stage, child) in stages.iter().zip(children) {
        assert_eq!(stage.haproxy.server("green").0, 50);
        stage.green.answers.fail_every.store(1, Ordering::SeqCst);
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
        stage.assert_all_blue();
        let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("error_rate"), "{reason}");
        assert_replays(stage.path());
    }
}

/// Rules with a metric of a Prometheus that hangs; no test waits for as long as its time limit is.
fn hanging(server: &Answering) -> String {
    format!(
        "  metrics:\n    - {{name: orders, kind: prometheus, target: \"{}\", timeout: \"${{LIMIT:-10m}}\", retries: 0, step: 500ms, with: {{query: 'orders{{side=\"{{{{ side }}}}\"}}'}}}}\n  \
         rollback_when:\n    - {{metric: orders, is: \"> 1\"}}\n    - {{metric: error_rate, is: \"> 5%\"}}\n",
        server.url()
    )
}

#[test]
fn a_source_that_hangs_delays_no_rollback() {
    let server = Answering::start(|_| Reply::Hangs);
    let stage = judged(LONG, &hanging(&server));
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    wait_until("it to be asked", || !server.asked().is_empty());
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    let bad = Instant::now();
    wait_until("the way back", || stage.haproxy.server("green").0 == 0);
    let took = bad.elapsed();
    figure(&format!(
        "a hanging source, interval 100 ms: first bad answer to read-back {} ms",
        took.as_millis()
    ));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    assert_replays(stage.path());
}

#[test]
fn a_source_that_hangs_delays_no_rollback_of_a_single_step_either() {
    let server = Answering::start(|_| Reply::Hangs);
    let stage = judged(LONG, &hanging(&server));
    stage.edit("version: 1\n", "version: 1\nmay_differ: [LIMIT]\n");
    // As long as all is well a call waits for its sources.
    assert_eq!(stage.promote(&["start", "--set", "LIMIT=500ms"]).code, 0);
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    let ended = stage.promote(&["step"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    assert_replays(stage.path());
}

/// Writes values of both sides into files, until it is dropped.
struct Writer {
    green: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let (green, stop) = (Arc::new(AtomicU32::new(100)), Arc::new(AtomicBool::new(false)));
        let (level, ended) = (Arc::clone(&green), Arc::clone(&stop));
        let open = |side: &str| {
            let mut file = std::fs::File::create(folder.join(format!("orders-{side}.csv"))).unwrap();
            file.write_all(b"t,orders\n").unwrap();
            file
        };
        let (mut blue, mut other) = (open("blue"), open("green"));
        std::thread::spawn(move || {
            let mut number = 0_u32;
            while !ended.load(Ordering::SeqCst) {
                number += 1;
                let noise = |of: u32| f64::from(number.wrapping_mul(of) % 19) / 10.0;
                let at = jiff::Timestamp::now().as_millisecond();
                writeln!(blue, "{at},{}", 100.0 + noise(7)).unwrap();
                writeln!(other, "{at},{}", f64::from(level.load(Ordering::SeqCst)) + noise(11)).unwrap();
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        Self { green, stop }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_file_that_something_else_writes_judges() {
    let rules = "  metrics:\n    - {name: orders, kind: file, target: \"orders-{{ side }}.csv\", worse: lower, step: 200ms, delay: 400ms, with: {time: t, value: orders}}\n  \
                 rollback_when:\n    - {metric: orders, worse_than_baseline_by: 10%}\n    - {metric: orders, is: \"< 20\", over: 2s}\n";
    let stage = judged("[{weight: 50%, bake: 4s}, {weight: 100%}]", rules);
    let _writer = Writer::start(stage.path());
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_replays(stage.path());
    let stage = judged(LONG, rules);
    let writer = Writer::start(stage.path());
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let written = || std::fs::read_to_string(stage.path().join("orders-green.csv")).unwrap().lines().count();
    wait_until("a good beginning", || written() > 15);
    writer.green.store(5, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("(orders)"), "{reason}");
    assert_replays(stage.path());
}

#[test]
fn a_command_that_prints_a_number_judges() {
    let rules = "  metrics:\n    - {name: orders, kind: command, target: [sh, orders.sh, \"{{ side }}\"], worse: lower, step: 200ms, delay: 0s}\n  \
                 rollback_when:\n    - {metric: orders, worse_than_baseline_by: 10%}\n";
    let ready = |level: &str| {
        let stage = judged("[{weight: 50%, bake: 5s}, {weight: 100%}]", rules);
        std::fs::write(stage.path().join("orders.sh"), "echo \"$(cat level-$1).$(date +%N)\"\n").unwrap();
        std::fs::write(stage.path().join("level-blue"), "100").unwrap();
        std::fs::write(stage.path().join("level-green"), level).unwrap();
        stage
    };
    let good = ready("100");
    let ended = good.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_replays(good.path());
    let bad = ready("60");
    let ended = bad.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(bad.promotion()["reason"].as_str().unwrap().contains("worse, and not by chance"));
    bad.assert_all_blue();
    assert_replays(bad.path());
    // One that fails says why, and nothing passes.
    let broken = ready("100");
    broken.edit("undecided_for: 60s", "undecided_for: 1s");
    std::fs::write(broken.path().join("orders.sh"), "echo the shop is shut >&2; exit 3\n").unwrap();
    assert_eq!(broken.promote(&["run"]).code, 1);
    let seen = newest(&broken.promotion(), "orders", "orders");
    assert_eq!(seen["verdict"], "error");
    assert!(seen["message"].as_str().unwrap().contains("the shop is shut"), "{seen:#}");
    broken.assert_all_blue();
    assert_replays(broken.path());
}

#[test]
fn a_token_of_a_source_is_nowhere() {
    const TOKEN: &str = "tk-9f8e7d6c5b4a-live";
    // It says the token back, as a proxy's page of errors might.
    let server = Answering::start(|asked| {
        let said = asked.header("authorization").to_owned();
        Reply::Says(401, "text/plain", format!("no such user: {said} ({})", asked.query))
    });
    let rules = format!(
        "  metrics:\n    - {{name: orders, kind: prometheus, target: \"{}/?t=${{TOKEN}}\", step: 200ms, with: {{headers: {{authorization: \"Bearer ${{TOKEN}}\"}}, query: 'orders{{side=\"{{{{ side }}}}\", t=\"${{TOKEN}}\"}}'}}}}\n  \
         rollback_when:\n    - {{metric: orders, is: \"> 1\"}}\n    - {{metric: error_rate, is: \"> 5%\"}}\n",
        server.url()
    );
    let rules = rules.replace("/?t=${TOKEN}", "");
    let stage = judged("[{weight: 50%, bake: 1s}, {weight: 100%}]", &rules);
    stage.edit("undecided_for: 60s", "undecided_for: 1s");
    let job = |arguments: &[&str]| run(tool("promote", stage.path()).env("TOKEN", TOKEN).args(arguments));
    let mut said = String::new();
    for arguments in [&["plan"][..], &["start"], &["step"], &["run"], &["status"], &["replay"]] {
        let ended = job(arguments);
        said.push_str(&format!("{} {}\n{}", ended.code, ended.stdout, ended.stderr));
    }
    assert!(server.asked().iter().any(|asked| asked.header("authorization") == format!("Bearer {TOKEN}")));
    assert!(said.contains("401"), "the error is told: {said}");
    assert!(!said.contains(TOKEN), "{said}");
    assert!(samples(stage.path()).iter().any(|line| line.to_string().contains("401")));
    let mut files = 0;
    let mut folders = vec![stage.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(mut bytes) = std::fs::read(&path) else { continue };
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let packed = std::mem::take(&mut bytes);
                flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
            }
            files += 1;
            assert!(!String::from_utf8_lossy(&bytes).contains(TOKEN), "{}", path.display());
        }
    }
    assert!(files > 4, "{files}");
}
