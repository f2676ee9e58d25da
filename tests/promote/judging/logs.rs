//! What users met between two short calls, which no probe saw.

use super::*;

const ERRORS: &str = "  rollback_when: [{metric: error_rate, is: \"> 5%\"}]\n";

/// A stage behind nginx, which writes every request into a log.
struct Logged {
    folder: tempfile::TempDir,
    green: Side,
    nginx: Nginx,
    blue: Side,
}

impl Logged {
    fn new(metrics: &str) -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let mut nginx = Nginx::start(folder.path(), blue.port, green.port);
        let format = "log_format trapkey '$msec \"$request\" $status \"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"'; ";
        let log = folder.path().join("access.log");
        let text = std::fs::read_to_string(&nginx.config).unwrap();
        let logged =
            text.replace("access_log off;", &format!("{format}access_log {} trapkey;", log.display()));
        assert_ne!(text, logged);
        std::fs::write(&nginx.config, logged).unwrap();
        nginx.restart();
        let router = nginx.router(blue.port, green.port);
        std::fs::write(folder.path().join("release.yaml"), plan(&router, &blue, &green, LONG, "")).unwrap();
        with_rules(folder.path(), &format!("{metrics}{ERRORS}"));
        Self { folder, green, nginx, blue }
    }

    fn promote(&self, argument: &str) -> Ended {
        call("promote", self.folder.path(), &[argument])
    }

    /// Green fails for users, and is well again before anybody looks.
    fn fails_for_users(&self) {
        self.green.answers.fail_every.store(1, Ordering::SeqCst);
        users(&self.nginx.url(), 100);
        self.green.answers.fail_every.store(0, Ordering::SeqCst);
        // A line of the log is final after a second.
        std::thread::sleep(Duration::from_millis(1200));
    }

    fn promotion(&self) -> Value {
        json(&self.folder.path().join("evidence/promote.json"))["promotion"].clone()
    }
}

const LOG: &str = "  metrics:\n    - name: log\n      kind: nginx_log\n      target: access.log\n      \
                   with: {format: '$msec \"$request\" $status \"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"'}\n";

#[test]
fn errors_of_users_in_nginx_s_log_that_no_probe_saw_roll_back() {
    let stage = Logged::new(LOG);
    assert_eq!(stage.promote("start").code, 0);
    let well = stage.promote("step");
    assert_eq!(well.code, 0, "{}", well.stderr);
    stage.fails_for_users();
    let ended = stage.promote("step");
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(stage.nginx.names_only(stage.blue.port), "{}", stage.nginx.held());
    let promotion = stage.promotion();
    let reason = promotion["reason"].as_str().unwrap();
    assert!(reason.contains("error_rate") && reason.contains("(log)"), "{reason}");
    let probe = newest(&promotion, "error_rate", "probe");
    assert_eq!(probe["green"], 0.0, "no probe saw it");
    // The time between two calls is watched, so nobody is told that it is not.
    assert!(!promotion["decisions"].to_string().contains("nobody watches"), "{}", promotion["decisions"]);
    assert!(!ended.stderr.contains("nobody watches"), "{}", ended.stderr);
    assert_replays(stage.folder.path());
}

#[test]
fn without_the_log_the_same_errors_are_not_seen_and_the_document_says_so() {
    let stage = Logged::new("");
    assert_eq!(stage.promote("start").code, 0);
    stage.fails_for_users();
    let ended = stage.promote("step");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(stage.promotion()["decisions"].to_string().contains("nobody watches"));
}

#[test]
fn a_log_that_is_gone_is_no_silence() {
    let stage = Logged::new(LOG);
    assert_eq!(stage.promote("start").code, 0);
    std::fs::remove_file(stage.folder.path().join("access.log")).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let ended = stage.promote("step");
    assert_ne!(stage.promotion()["outcome"], "promoted", "{}", ended.stderr);
    let seen = newest(&stage.promotion(), "error_rate", "log");
    assert_eq!(seen["verdict"], "error", "{seen:#}");
    assert!(seen["message"].as_str().unwrap().contains("access.log"), "{seen:#}");
}

#[test]
fn errors_of_users_that_haproxy_counted_and_no_probe_saw_roll_back() {
    let stage = judged(LONG, ERRORS);
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(stage.promote(&["step"]).code, 0);
    stage.green.answers.fail_every.store(1, Ordering::SeqCst);
    users(&stage.haproxy.url(), 100);
    stage.green.answers.fail_every.store(0, Ordering::SeqCst);
    let ended = stage.promote(&["step"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    let promotion = stage.promotion();
    assert!(promotion["reason"].as_str().unwrap().contains("(haproxy)"), "{}", promotion["reason"]);
    assert_eq!(newest(&promotion, "error_rate", "probe")["green"], 0.0);
    assert_replays(stage.path());
}
