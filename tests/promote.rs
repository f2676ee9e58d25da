//! `promote` against a real HAProxy and a real nginx, killed in the middle, aborted, lied to.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use crate::support::haproxy::Haproxy;
use crate::support::nginx::Nginx;
use crate::support::router::{self, RealRouter};
use crate::support::side::Side;
use crate::support::{Ended, call, folder, json, run, tool, wait_for, wait_until};

mod ab;
mod bad_input;
mod bucket;
mod clocks;
mod connections;
mod contract;
mod control;
mod crashes;
mod disasters;
mod dry_run;
mod envoy;
mod gates;
mod judging;
mod judging_adversary;
mod load;
mod loopholes;
mod model;
mod nginx;
mod once;
mod own_hand;
mod own_view;
mod routers;
mod routers_http;
mod routers_ways;
mod soak;
mod traffic;
mod way_back;

/// Two sides behind a router, a plan, and a folder for all of it.
pub(crate) struct Stage {
    pub folder: tempfile::TempDir,
    pub blue: Side,
    pub green: Side,
    pub haproxy: Haproxy,
}

/// How often a test that draws its moments by chance does so: `TRAPKEY_SOAK` times as often as usual.
pub(crate) fn rounds(usual: u64) -> u64 {
    let times = std::env::var("TRAPKEY_SOAK").map_or(1, |n| n.parse().expect("TRAPKEY_SOAK is a number"));
    usual * times
}

/// A figure for `scripts/soak`, which shows what these tests print.
#[expect(clippy::print_stdout, reason = "the harness keeps it for those who ask")]
pub(crate) fn figure(text: &str) {
    println!("soak: {text}");
}

/// How long a request of a test waits for its answer. A busy machine must not reach it.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

/// A `router:` block with time limits that a busy machine does not reach, where it has none of its own.
fn patient(router: &str) -> String {
    let mut block = router.to_owned();
    if !block.contains("timeout:") {
        block = block.replacen("{kind:", "{timeout: 60s, kind:", 1);
    }
    if ["kind: nginx", "kind: traefik"].iter().any(|kind| block.contains(kind)) && !block.contains("settle:")
    {
        block = block.replacen("with: {", "with: {settle: 60s, ", 1);
    }
    block
}

/// A plan with short bakes, in which nothing fails because a machine is busy: what decides is far from
/// what starved processes give. `more` goes into its promote section.
pub(crate) fn plan(router: &str, blue: &Side, green: &Side, steps: &str, more: &str) -> String {
    let healthy = if more.contains("healthy_within:") { "" } else { "  healthy_within: 60s\n" };
    format!(
        "version: 1\nservice: shop\nenvironments: {{production: {{}}}}\nrelease: {{version: \"${{VERSION:-1.1}}\"}}\n\
         promote:\n  router: {}\n  sides:\n    blue: {{url: \"{}\"}}\n    green: {{url: \"{}\"}}\n  \
         probe: {{path: /, rate: 100/s, requests: 20, timeout: 60s}}\n  interval: 100ms\n  min_samples: 20\n  drain: 1s\n  undecided_for: 60s\n{healthy}  router_back_within: 180s\n  \
         rollback_when: [{{metric: error_rate, is: \"> 5%\"}}, {{metric: latency_p95, is: \"> 20s\"}}]\n  steps: {steps}\n{more}",
        patient(router),
        blue.url(),
        green.url()
    )
}

pub(crate) const SHORT: &str = "[{weight: 10%, bake: 500ms}, {weight: 50%, bake: 500ms}, {weight: 100%}]";

/// A first step that nobody waits for to end: who leaves it has a reason.
pub(crate) const LONG: &str = "[{weight: 50%, bake: 10m}, {weight: 100%}]";

/// Ends a process as a service manager does.
pub(crate) fn terminate(child: &Child) {
    signal(child, "-TERM");
}

/// A state whose bake has lasted for as long as its plan says: no test waits for that.
pub(crate) fn with_the_bake_over(mut state: Value) -> Value {
    let record = &mut state["record"];
    assert_eq!(record["state"]["phase"], "baking");
    let step = usize::try_from(record["state"]["step"].as_u64().unwrap()).unwrap();
    let length = record["course"]["steps"][step]["bake_ms"].as_i64().unwrap();
    record["state"]["since_ms"] = (jiff::Timestamp::now().as_millisecond() - length).into();
    state
}

/// Sends a process a signal.
pub(crate) fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Stops a process; a stop reaches threads that are at work a moment later.
pub(crate) fn stop(child: &Child) {
    signal(child, "-STOP");
    wait_until("the process to stand still", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        threads.flatten().all(|thread| {
            // The state stands behind the name, which is in brackets.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    });
}

/// From now on a bake is over by the state in a folder; nobody may be at work.
pub(crate) fn end_the_bake(folder: &Path) {
    let path = folder.join(".trapkey/production/state.json");
    std::fs::write(&path, with_the_bake_over(json(&path)).to_string()).unwrap();
}

impl Stage {
    pub(crate) fn new(steps: &str, more: &str) -> Self {
        Self::with_backend(steps, more, "")
    }

    pub(crate) fn with_backend(steps: &str, more: &str, backend: &str) -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let haproxy = Haproxy::start(folder.path(), blue.port, green.port, backend);
        let stage = Self { folder, blue, green, haproxy };
        stage.write(steps, more);
        stage
    }

    pub(crate) fn write(&self, steps: &str, more: &str) {
        let router = format!(
            "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, blue: blue, green: green}}}}",
            self.haproxy.url()
        );
        let text = plan(&router, &self.blue, &self.green, steps, more);
        std::fs::write(self.path().join("release.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn promote(&self, arguments: &[&str]) -> Ended {
        call("promote", self.path(), arguments)
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        tool("promote", self.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub(crate) fn document(&self) -> Value {
        json(&self.path().join("evidence/promote.json"))
    }

    pub(crate) fn promotion(&self) -> Value {
        self.document()["promotion"].clone()
    }

    /// What the document says of the end; empty when there is none.
    pub(crate) fn outcome(&self) -> String {
        self.promotion()["outcome"].as_str().unwrap_or_default().to_owned()
    }

    /// Every line of the journal.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join(".trapkey/production/journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the state on disk is in that phase.
    pub(crate) fn wait_for_phase(&self, phase: &str) {
        wait_until(phase, || self.phase() == phase);
    }

    /// The phase of the state on disk; empty when there is none.
    pub(crate) fn phase(&self) -> String {
        let bytes = std::fs::read(self.state()).unwrap_or_default();
        let state: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        state["record"]["state"]["phase"].as_str().unwrap_or_default().to_owned()
    }

    /// The file with the state.
    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.path().join(".trapkey/production/state.json")
    }

    /// Writes another text into the plan.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = self.path().join("release.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// The same where it stands there.
    pub(crate) fn edit_if_there(&self, from: &str, to: &str) {
        let path = self.path().join("release.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// From now on the bake is over by the state on disk; nobody may be at work.
    pub(crate) fn end_the_bake(&self) {
        end_the_bake(self.path());
    }

    /// What is done so far, as the journal has it: nothing before it is there.
    pub(crate) fn lines(&self) -> usize {
        let journal = self.path().join(".trapkey/production/journal.jsonl");
        std::fs::read_to_string(journal).map_or(0, |text| text.lines().count())
    }

    /// Waits until the journal has so many lines, or the job has ended.
    pub(crate) fn wait_for_lines(&self, lines: usize, child: &mut Child) {
        wait_until("the journal", || self.lines() >= lines || child.try_wait().unwrap().is_some());
    }

    /// Waits until a job that is at work has seen that the next step is held.
    pub(crate) fn wait_for_the_hold(&self, why: &str) {
        wait_until(why, || self.promote(&["status"]).stdout.contains(why));
    }

    /// From now on the old side was kept for long enough, by the state on disk; nobody may be at work.
    pub(crate) fn end_the_keeping(&self) {
        let mut state = json(&self.state());
        assert_eq!(state["record"]["state"]["phase"], "keeping_blue");
        state["record"]["state"]["until_ms"] = jiff::Timestamp::now().as_millisecond().into();
        std::fs::write(self.state(), state.to_string()).unwrap();
    }

    /// Calls `step` until it is promoted. On a busy machine a call may not get enough probes through, and
    /// the next one goes on.
    pub(crate) fn step_to_the_end(&self, more: &[&str]) {
        wait_until("the last step", || {
            let stepped = self.promote(&[&["step"][..], more].concat());
            assert_eq!(stepped.code, 0, "{}", stepped.stderr);
            self.outcome() == "promoted"
        });
    }

    /// Everything is on blue, and nobody can reach green, not even with a cookie.
    pub(crate) fn assert_all_blue(&self) {
        let (weight, admin) = self.haproxy.server("blue");
        assert!(weight > 0 && admin == 0, "blue: weight {weight}, admin {admin}");
        let (weight, admin) = self.haproxy.server("green");
        assert!(weight == 0 && admin & 1 == 1, "green: weight {weight}, admin {admin}");
    }

    /// The router is as it was started.
    pub(crate) fn assert_all_blue_untouched(&self) {
        assert_eq!((self.haproxy.server("blue"), self.haproxy.server("green")), ((100, 0), (0, 0)));
    }

    /// Everything is on green.
    pub(crate) fn assert_all_green(&self) {
        let (weight, admin) = self.haproxy.server("green");
        assert!(weight > 0 && admin == 0, "green: weight {weight}, admin {admin}");
        assert_eq!(self.haproxy.server("blue").0, 0);
    }
}

#[test]
fn takes_a_good_release_all_the_way_and_records_every_step() {
    let stage = Stage::new(SHORT, "");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
    let document = stage.document();
    assert_eq!((&document["verdict"], &document["schema"]), (&"pass".into(), &"trapkey/promote/v1".into()));
    let promotion = stage.promotion();
    assert_eq!(promotion["outcome"], "promoted");
    let shifts = promotion["shifts"].as_array().unwrap();
    let asked: Vec<f64> = shifts.iter().map(|s| s["asked"].as_f64().unwrap()).collect();
    assert_eq!(asked, [0.1, 0.5, 1.0]);
    for shift in shifts {
        assert!((shift["read_back"].as_f64().unwrap() - shift["asked"].as_f64().unwrap()).abs() < 0.001);
        assert_eq!(shift["probed"]["requests"], 20);
    }
    assert_eq!(shifts[2]["probed"]["green"], 20);
    assert_eq!(promotion["blue"]["version"], "1.0");
    assert_eq!(promotion["green"]["version"], "1.1");
    let judgements = promotion["judgements"].as_array().unwrap();
    assert!(judgements.iter().any(|j| j["step"] == 1 && j["verdict"] == "pass"));
    assert!(judgements.iter().any(|j| j["step"] == 2 && j["verdict"] == "pass"));
    let sources: Vec<&str> = judgements[judgements.len() - 1]["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["source"].as_str().unwrap())
        .collect();
    assert!(sources.contains(&"probe") && sources.contains(&"haproxy"));
    assert!(promotion["series"].as_array().unwrap().iter().any(|i| i["source"] == "haproxy"));
    // The same release on the same evidence: without evidence there is nothing to compare, so it is a
    // new start, and that is refused because green already has everything.
    assert_eq!(stage.promote(&["run"]).code, 5);
    stage.assert_all_green();
}

#[test]
fn rolls_a_failing_release_back_at_the_first_step() {
    let stage = Stage::new(SHORT, "");
    stage.green.answers.fail_every.store(4, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    let promotion = stage.promotion();
    assert_eq!(promotion["outcome"], "rolled_back");
    assert!(promotion["reason"].as_str().unwrap().contains("error_rate"), "{}", promotion["reason"]);
    assert_eq!(promotion["steps"][0]["verdict"], "fail");
    assert_eq!(promotion["steps"][1]["verdict"], Value::Null);
    assert!(promotion["rollback"]["took_ms"].as_f64().unwrap() > 0.0, "{}", promotion["rollback"]);
    assert_eq!(stage.document()["verdict"], "fail");
    // What is over stays over, and says so with the same code.
    assert_eq!(stage.promote(&["step"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn rolls_a_slow_release_back() {
    let stage = Stage::new(LONG, "");
    // Whatever the machine adds makes it slower still.
    stage.edit("> 20s", "> 400ms");
    stage.green.answers.delay_ms.store(800, Ordering::SeqCst);
    assert_eq!(stage.promote(&["run"]).code, 1);
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("latency_p95"));
}

#[test]
fn never_passes_on_missing_data() {
    let stage = Stage::new(SHORT, "");
    stage.edit("min_samples: 20", "min_samples: 100000");
    stage.edit("undecided_for: 60s", "undecided_for: 1s");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("stayed undecided"));
}

#[test]
fn blue_green_switches_at_once_after_green_is_healthy() {
    let stage = Stage::new("[{weight: 100%, bake: 300ms}]", "  strategy: blue_green\n");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
    assert_eq!(stage.promotion()["shifts"].as_array().unwrap().len(), 1);
}

#[test]
fn gives_an_unhealthy_green_nothing() {
    let stage = Stage::new(SHORT, "");
    stage.edit("healthy_within: 60s", "healthy_within: 500ms");
    stage.green.answers.health.store(503, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    stage.assert_all_blue();
    assert_eq!(stage.green.served(), 0);
    assert!(
        stage.promotion()["reason"].as_str().unwrap().contains("green is not healthy: /health answered 503")
    );
}

#[test]
fn refuses_to_begin_without_a_healthy_way_back() {
    let stage = Stage::new(SHORT, "");
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("blue, the side that serves now, is not healthy"), "{}", ended.stderr);
    assert_eq!(stage.haproxy.server("green"), (0, 0));
}

#[test]
fn does_not_throw_users_onto_a_sick_old_side() {
    let stage = Stage::new(LONG, "");
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    stage.blue.answers.health.store(500, Ordering::SeqCst);
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(stage.promotion()["outcome"], "frozen");
    assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (50, 50));
    // Once blue is well again, the next call goes back.
    stage.blue.answers.health.store(200, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 1);
    assert_eq!(stage.promotion()["outcome"], "rolled_back");
    stage.assert_all_blue();
}

#[test]
fn hooks_run_once_with_the_release_in_their_environment() {
    let script = "echo $TRAPKEY_HOOK $TRAPKEY_VERSION >> hooks.txt";
    let hook = format!("[sh, -c, \"{script}\"]").replace('$', "$$");
    let hook = hook.replace("$$", "$");
    let stage =
        Stage::new(SHORT, &format!("  hooks: {{deploy: {hook}, after: {hook}, on_rollback: {hook}}}\n"));
    assert_eq!(stage.promote(&["run"]).code, 0);
    let text = std::fs::read_to_string(stage.path().join("hooks.txt")).unwrap();
    assert_eq!(text, "deploy 1.1\nafter 1.1\n");
    assert_eq!(stage.promotion()["hooks"][0]["exit"], 0);
}

#[test]
fn a_failed_deploy_moves_nothing() {
    let stage = Stage::new(SHORT, "  hooks: {deploy: [sh, -c, \"echo no disk >&2; exit 3\"]}\n");
    assert_eq!(stage.promote(&["run"]).code, 1);
    let reason = stage.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the deploy hook failed: exit 3: no disk"), "{reason}");
    stage.assert_all_blue();
    assert_eq!(stage.green.served(), 0);
}

#[test]
fn two_jobs_at_once_one_wins_and_the_other_is_told_who() {
    // The first one stays in its hook for as long as the second one needs.
    let hook = "  hooks: {deploy: [sh, -c, \"until [ -e go ]; do sleep 0.05; done\"]}\n";
    let stage = Stage::new(SHORT, hook);
    let first = stage.spawn(&["run"]);
    stage.wait_for_phase("deploying");
    wait_until("its document", || stage.path().join("evidence/promote.json").exists());
    let before = stage.document();
    let second = stage.promote(&["run"]);
    assert_eq!(second.code, 5);
    let holder = format!("process {}", first.id());
    assert!(second.stderr.contains("another job holds this environment"), "{}", second.stderr);
    assert!(
        second.stderr.contains(&holder) && second.stderr.contains("shop 1.1 in production"),
        "{}",
        second.stderr
    );
    assert!(stage.path().join("evidence/promote.refused.json").exists());
    assert_eq!(
        before["run"]["started_at"],
        stage.document()["run"]["started_at"],
        "the winner's document stands"
    );
    std::fs::write(stage.path().join("go"), "").unwrap();
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(0));
    stage.assert_all_green();
}

#[test]
fn another_release_in_the_middle_is_refused_by_name() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let other = stage.promote(&["start", "--set", "VERSION=2.0"]);
    assert_eq!(other.code, 5);
    assert!(other.stderr.contains("shop 1.1 in production is still under way"), "{}", other.stderr);
    assert_eq!(stage.haproxy.server("green").0, 10);
}

#[test]
fn steps_wait_without_a_runner_and_finish() {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let output = stage.path().join("outputs");
    let started = run(tool("promote", stage.path()).arg("start").env("GITHUB_OUTPUT", &output));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(
        text.contains("state=waiting\n") && text.contains("next_at=2") && text.contains("verdict=undecided"),
        "{text}"
    );
    assert_eq!(stage.document()["verdict"], "undecided");
    assert_eq!(stage.haproxy.server("green").0, 10);
    let early = stage.promote(&["step"]);
    assert_eq!((early.code, stage.haproxy.server("green").0), (0, 10), "{}", early.stderr);
    stage.end_the_bake();
    stage.step_to_the_end(&[]);
    stage.assert_all_green();
    assert_eq!(stage.promotion()["outcome"], "promoted");
    // Nothing is left to do, and the document stays as it is: verify's names it by digest.
    let before = std::fs::read(stage.path().join("evidence/promote.json")).unwrap();
    let again = stage.promote(&["step"]);
    assert_eq!(again.code, 0);
    assert!(again.stderr.contains("finished already"), "{}", again.stderr);
    assert_eq!(std::fs::read(stage.path().join("evidence/promote.json")).unwrap(), before);
    // But it is not repeated without a look: somebody may have moved the traffic since.
    stage.haproxy.ask("set server shop/blue weight 100; set server shop/blue state ready");
    let moved = stage.promote(&["step"]);
    assert_eq!(moved.code, 5, "{}", moved.stderr);
    assert!(moved.stderr.contains("was promoted, but green has"), "{}", moved.stderr);
    assert_eq!(std::fs::read(stage.path().join("evidence/promote.json")).unwrap(), before);
}

/// A job at work on a release whose first bake is over, so that nothing but a pause holds the next step.
pub(crate) fn paused() -> (Stage, Child) {
    let stage = Stage::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(stage.promote(&["pause"]).code, 0);
    stage.end_the_bake();
    let child = stage.spawn(&["run"]);
    (stage, child)
}

#[test]
fn a_paused_release_waits_and_is_still_judged() {
    let (stage, child) = paused();
    stage.wait_for_the_hold("paused it before step 2");
    assert_eq!(stage.haproxy.server("green").0, 10);
    assert!(stage.promote(&["status"]).stdout.contains("paused"));
    stage.green.answers.fail_every.store(2, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("error_rate"));
}

#[test]
fn an_abort_ends_a_running_job_on_the_old_side() {
    let stage = Stage::new(LONG, "");
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    let aborted = stage.promote(&["abort", "--reason", "orders drop"]);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    stage.assert_all_blue();
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("orders drop"));
    // It is terminal for its epoch.
    assert_eq!(stage.promote(&["step"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn an_abort_works_without_a_running_job_and_not_after_the_end() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["abort"]).code, 5, "nothing was begun");
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
    let other = Stage::new(SHORT, "");
    assert_eq!(other.promote(&["run"]).code, 0);
    let late = other.promote(&["abort"]);
    assert_eq!(late.code, 5);
    assert!(late.stderr.contains("socat stdio"), "the way back by hand is named: {}", late.stderr);
    other.assert_all_green();
}

#[test]
fn a_restart_that_loses_the_weights_is_noticed_and_repaired() {
    let mut stage = Stage::new(LONG, "");
    let mut child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    stage.haproxy.restart();
    let repaired = || {
        let state: Value =
            serde_json::from_slice(&std::fs::read(stage.state()).unwrap_or_default()).unwrap_or_default();
        let shifts = state["record"]["promotion"]["shifts"].as_array().cloned().unwrap_or_default();
        shifts.iter().any(|shift| shift["why"] == "reconcile")
    };
    // A look that fell into the restart itself finds no router, and then it must go back.
    wait_until("the repair or the way back", || repaired() || child.try_wait().unwrap().is_some());
    if !repaired() {
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_eq!(stage.promotion()["outcome"], "rolled_back");
        return stage.assert_all_blue();
    }
    assert_eq!((stage.haproxy.server("blue").0, stage.haproxy.server("green").0), (50, 50));
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    stage.end_the_bake();
    stage.step_to_the_end(&[]);
    stage.assert_all_green();
}

#[test]
fn a_lost_router_stops_with_a_named_error_and_goes_on_later() {
    let mut stage = Stage::new(LONG, "");
    stage.edit("router_back_within: 180s", "router_back_within: 1s");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.haproxy.stop();
    let lost = stage.promote(&["step"]);
    assert_eq!(lost.code, 4, "{}", lost.stderr);
    assert_eq!(stage.document()["verdict"], "error");
    stage.haproxy.restart();
    let back = stage.promote(&["step"]);
    assert_eq!(back.code, 1, "{}", back.stderr);
    stage.assert_all_blue();
}

#[test]
fn a_signal_leaves_a_valid_document_and_a_state_to_go_on_from() {
    let stage = Stage::new(LONG, "");
    let child = stage.spawn(&["run"]);
    stage.wait_for_phase("baking");
    terminate(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
    assert_eq!(stage.document()["verdict"], "undecided");
    assert_eq!(stage.haproxy.server("green").0, 50);
    stage.end_the_bake();
    assert_eq!(stage.promote(&["run"]).code, 0);
    stage.assert_all_green();
}

#[test]
fn the_plan_is_printed_and_nothing_is_touched() {
    let mut stage = Stage::new(SHORT, "");
    stage.haproxy.stop();
    let ended = stage.promote(&["plan"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("step 2: 50 % on green, watched for 500 ms"), "{}", ended.stdout);
    assert!(ended.stdout.contains("goes back when error_rate > 5%"));
    assert!(!stage.path().join(".trapkey").exists() && !stage.path().join("evidence").exists());
}

#[test]
fn nginx_takes_a_good_release_and_gives_a_bad_one_back() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let nginx = Nginx::start(folder.path(), blue.port, green.port);
    let router = nginx.router(blue.port, green.port);
    let text = plan(&router, &blue, &green, SHORT, "");
    std::fs::write(folder.path().join("release.yaml"), &text).unwrap();
    green.answers.fail_every.store(3, Ordering::SeqCst);
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(nginx.names_only(blue.port), "{}", nginx.held());
    green.answers.fail_every.store(0, Ordering::SeqCst);
    let ended = call("promote", folder.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(nginx.names_only(green.port), "{}", nginx.held());
    let promotion = json(&folder.path().join("evidence/promote.json"))["promotion"].clone();
    assert_eq!(promotion["epoch"], 2);
    let decisions = promotion["decisions"].to_string();
    assert!(
        decisions.contains("does not show open requests") && !decisions.contains("drained in"),
        "{decisions}"
    );
    assert_eq!(promotion["shifts"][2]["probed"]["green"], 20);
}
