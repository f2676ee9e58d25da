//! The promote state on a real S3 server: jobs on several runners share it, and exactly one works.

use std::time::Instant;

use super::*;
use crate::support::meddler::{Deed, Meddler};
use crate::support::s3::{Bucket, SECRET};

/// A stage whose state is shared by runners that have nothing else in common.
pub(super) struct Fleet {
    pub(super) stage: Stage,
    bucket: Bucket,
    /// Where runners reach the store.
    port: u16,
}

impl Fleet {
    pub(super) fn new(steps: &str, more: &str) -> Self {
        let stage = Stage::new(steps, more);
        // The plan is the same on every runner, and so must be what it names.
        let path = stage.path().join("release.yaml");
        let socket = format!("target: {}", stage.haproxy.socket.display());
        let text = std::fs::read_to_string(&path).unwrap().replace("target: haproxy.sock", &socket);
        std::fs::write(&path, text).unwrap();
        let bucket = Bucket::new();
        let port = bucket.port();
        Self { stage, bucket, port }
    }

    fn behind(mut self, meddler: &Meddler) -> Self {
        self.port = meddler.port;
        self
    }

    /// A runner: a folder of its own, with the plan and the evidence so far.
    pub(super) fn runner(&self) -> tempfile::TempDir {
        let runner = folder();
        std::fs::copy(self.stage.path().join("release.yaml"), runner.path().join("release.yaml")).unwrap();
        runner
    }

    fn tool(&self, runner: &Path, arguments: &[&str]) -> Command {
        let mut command = tool("promote", runner);
        command.env("TRAPKEY_STATE", format!("s3://{}/team a/state", self.bucket.name));
        command.envs(Bucket::variables(self.port)).args(arguments);
        command
    }

    pub(super) fn promote(&self, runner: &Path, arguments: &[&str]) -> Ended {
        let ended = run(&mut self.tool(runner, arguments));
        assert!(
            !ended.stderr.contains(SECRET) && !ended.stderr.contains("X-Amz-Signature"),
            "{}",
            ended.stderr
        );
        ended
    }

    fn spawn(&self, runner: &Path, arguments: &[&str]) -> Child {
        let mut command = self.tool(runner, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn object(&self, name: &str) -> Option<Vec<u8>> {
        self.bucket.get(&format!("team%20a/state/production/{name}"))
    }

    fn phase(&self) -> String {
        let state: Value =
            serde_json::from_slice(&self.object("state.json").unwrap_or_default()).unwrap_or_default();
        state["record"]["state"]["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn wait_for_phase(&self, phase: &str) {
        wait_until(phase, || self.phase() == phase);
    }

    /// From now on the bake is over by the state on S3; nobody may be at work.
    pub(super) fn end_the_bake(&self) {
        let state = serde_json::from_slice(&self.object("state.json").unwrap()).unwrap();
        self.put("state.json", &with_the_bake_over(state));
    }

    fn put(&self, name: &str, value: &Value) {
        self.bucket.put(&format!("team%20a/state/production/{name}"), value.to_string().as_bytes());
    }

    /// Calls `step` until it is promoted.
    fn step_to_the_end(&self, runner: &Path) {
        wait_until("the last step", || {
            let stepped = self.promote(runner, &["step"]);
            assert_eq!(stepped.code, 0, "{}", stepped.stderr);
            outcome(runner) == "promoted"
        });
    }

    /// Every line of the journal, in order.
    fn journal(&self) -> Vec<Value> {
        let mut keys: Vec<String> = self.bucket.keys();
        keys.retain(|key| key.contains("/journal/"));
        keys.sort();
        let line = |key: &String| self.bucket.get(&key.replace(' ', "%20")).unwrap();
        keys.iter().map(|key| serde_json::from_slice(&line(key)).unwrap()).collect()
    }

    /// Each step was put in force once, none twice.
    fn assert_no_step_twice(&self) {
        let journal = self.journal();
        let shifts: Vec<String> = journal
            .iter()
            .filter(|l| l["does"]["shift"].is_number())
            .map(|l| l["does"].to_string())
            .collect();
        let mut once = shifts.clone();
        once.dedup();
        assert_eq!(shifts, once);
        assert!(!shifts.is_empty());
    }
}

fn outcome(runner: &Path) -> Value {
    json(&runner.join("evidence/promote.json"))["promotion"]["outcome"].clone()
}

#[test]
fn of_writers_that_race_on_a_condition_the_server_lets_one_through() {
    let bucket = Bucket::new();
    let race = |key: &str, condition: (&str, &str)| {
        let both = std::sync::Barrier::new(16);
        let won = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for number in 0..16 {
                let (both, won, bucket) = (&both, &won, &bucket);
                scope.spawn(move || {
                    both.wait();
                    let (status, _) = bucket.put_if(key, format!("{number}").as_bytes(), &[condition]);
                    assert!([200, 412].contains(&status), "{status}");
                    won.fetch_add(u32::from(status == 200), Ordering::SeqCst);
                });
            }
        });
        won.into_inner()
    };
    let races = rounds(10);
    for number in 0..races {
        let key = format!("key-{number}");
        assert_eq!(race(&key, ("If-None-Match", "*")), 1);
        let (_, head) = bucket.put_if(&key, b"first", &[]);
        let tag = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("etag: ").map(str::to_owned))
            .unwrap();
        assert_eq!(race(&key, ("If-Match", &tag)), 1);
    }
    figure(&format!("{} races of 16 writers on S3, one winner each", 2 * races));
}

#[test]
fn jobs_on_several_runners_take_a_release_to_its_end() {
    let fleet = Fleet::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let (first, second, third) = (fleet.runner(), fleet.runner(), fleet.runner());
    let began = Instant::now();
    let started = fleet.promote(first.path(), &["start"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    figure(&format!("promote start with its state on S3: {} ms", began.elapsed().as_millis()));
    assert!(!first.path().join(".trapkey").exists());
    assert!(!fleet.bucket.keys().iter().any(|key| key.contains("probe")), "{:?}", fleet.bucket.keys());
    assert_eq!(fleet.promote(third.path(), &["pause"]).code, 0);
    let told = fleet.promote(third.path(), &["status"]);
    assert!(told.stdout.contains("paused") && told.stdout.contains("step 1 watches 10 %"), "{}", told.stdout);
    fleet.end_the_bake();
    assert_eq!(fleet.promote(second.path(), &["step"]).code, 0);
    assert_eq!(fleet.stage.haproxy.server("green").0, 10, "it is paused");
    assert_eq!(fleet.promote(third.path(), &["resume"]).code, 0);
    fleet.step_to_the_end(second.path());
    fleet.stage.assert_all_green();
    assert!(fleet.promote(third.path(), &["status"]).stdout.contains("green serves everything"));
    fleet.assert_no_step_twice();
}

#[test]
fn an_abort_from_another_runner_reaches_the_job_that_works() {
    let fleet = Fleet::new(LONG, "");
    let (first, second) = (fleet.runner(), fleet.runner());
    let child = fleet.spawn(first.path(), &["run"]);
    fleet.wait_for_phase("baking");
    let aborted = fleet.promote(second.path(), &["abort", "--reason", "orders drop"]);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    fleet.stage.assert_all_blue();
    let told = fleet.promote(second.path(), &["status"]);
    assert!(told.stdout.contains("orders drop"), "{}", told.stdout);
}

#[test]
fn of_two_runners_at_the_same_moment_exactly_one_wins() {
    let pairs = rounds(3);
    for _ in 0..pairs {
        // Whoever wins waits for the other one in its hook.
        let hook = "  hooks: {deploy: [sh, -c, \"until [ -e {go-file} ]; do sleep 0.05; done\"]}\n";
        let fleet = Fleet::new("[{weight: 50%, bake: 500ms}, {weight: 100%}]", hook);
        let go = fleet.stage.path().join("go");
        fleet.stage.edit("{go-file}", &go.display().to_string());
        let runners = [fleet.runner(), fleet.runner()];
        let mut both = runners.each_ref().map(|runner| fleet.spawn(runner.path(), &["run"]));
        wait_until("one of them to be refused", || {
            both.iter_mut().any(|child| child.try_wait().unwrap().is_some())
        });
        std::fs::write(go, "").unwrap();
        let ended = both.map(|child| child.wait_with_output().unwrap());
        let mut codes = ended.each_ref().map(|e| e.status.code().unwrap());
        codes.sort_unstable();
        let told = ended.each_ref().map(|e| String::from_utf8_lossy(&e.stderr).into_owned()).concat();
        assert_eq!(codes, [0, 5], "{told}");
        assert!(told.contains("another job holds this environment"), "{told}");
        assert!(told.contains("shop 1.1 in production is being promoted by"), "{told}");
        fleet.stage.assert_all_green();
        fleet.assert_no_step_twice();
    }
    figure(&format!("{pairs} pairs of runners on S3, one winner each"));
}

#[test]
fn the_lease_of_a_killed_job_on_this_machine_is_taken_at_once() {
    // Nobody waits for its lease.
    let fleet = Fleet::new(LONG, "  lease: 10m\n");
    let (first, second) = (fleet.runner(), fleet.runner());
    let mut child = fleet.spawn(first.path(), &["run"]);
    fleet.wait_for_phase("baking");
    child.kill().unwrap();
    child.wait().unwrap();
    fleet.end_the_bake();
    let ended = fleet.promote(second.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    fleet.stage.assert_all_green();
    fleet.assert_no_step_twice();
}

#[test]
fn the_lease_of_a_job_lost_on_another_machine_is_taken_when_it_is_over_not_before() {
    let fleet = Fleet::new(LONG, "  lease: 10m\n");
    let (first, second) = (fleet.runner(), fleet.runner());
    let mut child = fleet.spawn(first.path(), &["run"]);
    fleet.wait_for_phase("baking");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut lease: Value = serde_json::from_slice(&fleet.object("lease.json").unwrap()).unwrap();
    lease["process"] = "another-machine pid:[1] 7 7".into();
    fleet.put("lease.json", &lease);
    let early = fleet.promote(second.path(), &["step"]);
    assert_eq!(early.code, 5, "{}", early.stderr);
    assert!(early.stderr.contains("its lease is renewed, or ends at"), "{}", early.stderr);
    // Now it is over, by the clock of whoever has written it; it was a short one.
    lease["lasts_ms"] = 1000.into();
    lease["until_ms"] = (jiff::Timestamp::now().as_millisecond() - 1).into();
    fleet.put("lease.json", &lease);
    let began = Instant::now();
    let ended = fleet.promote(second.path(), &["step"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let length = Duration::from_millis(lease["lasts_ms"].as_u64().unwrap());
    assert!(began.elapsed() >= length, "it is watched for its whole length");
    let taken: Value = serde_json::from_slice(&fleet.object("lease.json").unwrap()).unwrap();
    assert_eq!((&taken["fence"], &taken["released"]), (&2.into(), &true.into()));
    assert_eq!((fleet.phase().as_str(), fleet.stage.haproxy.server("green").0), ("baking", 50));
}

/// A job is stopped in a bake; another one calls the release off once the lease is over; the first one
/// wakes up late, and may touch nothing.
fn wakes_up_late(
    fleet: &Fleet,
    place: impl Fn(&mut Command),
    state: impl Fn() -> Vec<u8>,
    in_a_write: impl Fn() -> bool,
) {
    let second = fleet.runner();
    let job = |runner: &Path, arguments: &[&str]| {
        let mut command = fleet.tool(runner, arguments);
        place(&mut command);
        command
    };
    let mut lease = 2;
    let (late, _runner) = wait_for("a job that was stopped in its bake", || {
        let first = fleet.runner();
        let mut late = job(first.path(), &["run"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the bake", || {
            late.try_wait().unwrap().is_some()
                || String::from_utf8_lossy(&state()).contains("\"phase\":\"baking\"")
        });
        // Stopped in the milliseconds of a write it would hold everybody up, as the guide says: not what
        // this is about.
        while late.try_wait().unwrap().is_none() {
            stop(&late);
            if !in_a_write() {
                return Some((late, first));
            }
            signal(&late, "-CONT");
            std::thread::sleep(Duration::from_millis(7));
        }
        // The machine is so slow that the job did not come to renew its lease: it gets a longer one.
        let _ = run(&mut job(second.path(), &["abort"]));
        fleet.stage.edit(&format!("lease: {lease}s"), &format!("lease: {}s", 2 * lease));
        lease *= 2;
        None
    });
    let aborted = run(&mut job(second.path(), &["abort"]));
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    fleet.stage.assert_all_blue();
    let (router, record) = (fleet.stage.haproxy.held(), state());
    signal(&late, "-CONT");
    let told = late.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("this job has lost its lease on the environment"), "{stderr}");
    assert_eq!(fleet.stage.haproxy.held(), router);
    assert_eq!(state(), record);
}

#[test]
fn a_suspended_job_that_wakes_up_late_touches_nothing_on_s3() {
    let fleet = Fleet::new(LONG, "  lease: 2s\n");
    wakes_up_late(&fleet, |_| (), || fleet.object("state.json").unwrap_or_default(), || false);
}

#[test]
fn a_suspended_job_that_wakes_up_late_touches_nothing_in_a_folder() {
    let fleet = Fleet::new(LONG, "  lease: 2s\n");
    let root = folder();
    let file = root.path().join("production/state.json");
    wakes_up_late(
        &fleet,
        |command| {
            command.env("TRAPKEY_STATE", root.path());
        },
        || std::fs::read(&file).unwrap_or_default(),
        || std::fs::File::open(file.with_file_name("change")).is_ok_and(|file| file.try_lock().is_err()),
    );
}

#[test]
fn a_store_that_is_busy_for_a_while_is_nobodys_trouble() {
    let fleet = Fleet::new(SHORT, "");
    let meddler = Meddler::start(fleet.port);
    let fleet = fleet.behind(&meddler);
    let runner = fleet.runner();
    // Every third request is told to slow down, and once five of them in a row.
    let mut number = 0;
    meddler.now(move |_| {
        number += 1;
        let all = (30..35).contains(&number);
        if all || number % 3 == 0 { Deed::Busy } else { Deed::Pass }
    });
    let ended = fleet.promote(runner.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("SlowDown"), "{}", ended.stderr);
    fleet.stage.assert_all_green();
    fleet.assert_no_step_twice();
    figure(&format!(
        "{} requests to S3 in a run of three steps, a third of them answered 503",
        meddler.requests()
    ));
}

#[test]
fn a_reply_that_is_lost_is_cleared_up_and_nothing_is_done_twice() {
    let fleet = Fleet::new(SHORT, "");
    let meddler = Meddler::start(fleet.port);
    let fleet = fleet.behind(&meddler);
    let runner = fleet.runner();
    // Of the writes, every other answer is lost after the write was done.
    let mut writes = 0;
    meddler.now(move |first| {
        writes += u32::from(first.starts_with("PUT "));
        if first.starts_with("PUT ") && writes % 2 == 1 { Deed::Swallow } else { Deed::Pass }
    });
    let ended = fleet.promote(runner.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    fleet.stage.assert_all_green();
    fleet.assert_no_step_twice();
    let journal = fleet.journal();
    assert_eq!(journal.iter().filter(|l| l["did"]["event"] == "shifted").count(), 3);
}

#[test]
fn a_store_that_is_lost_in_a_bake_sends_traffic_back() {
    let lost = |deed: Deed| {
        let fleet = Fleet::new(LONG, "  lease: 12s\n");
        let meddler = Meddler::start(fleet.port);
        let fleet = fleet.behind(&meddler);
        let runner = fleet.runner();
        let child = fleet.spawn(runner.path(), &["run"]);
        fleet.wait_for_phase("baking");
        meddler.now(move |_| deed);
        let lost = Instant::now();
        wait_until("the way back", || fleet.stage.haproxy.server("green").0 == 0);
        let took = lost.elapsed();
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(4), "{told}");
        assert!(told.contains("s3://") && !told.contains(SECRET), "{told}");
        fleet.stage.assert_all_blue();
        figure(&format!(
            "S3 lost in a bake ({deed:?}), lease of 12 s: traffic back after {} ms",
            took.as_millis()
        ));
        // It is there again: the next call finds the release gone back.
        meddler.now(|_| Deed::Pass);
        let next = fleet.promote(fleet.runner().path(), &["step"]);
        assert_eq!(next.code, 1, "{}", next.stderr);
        fleet.stage.assert_all_blue();
    };
    std::thread::scope(|scope| {
        for deed in [Deed::Busy, Deed::Garbage] {
            scope.spawn(move || lost(deed));
        }
    });
}

#[test]
fn a_change_by_somebody_else_is_refused_and_can_be_gone_on_from() {
    let fleet = Fleet::new("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let meddler = Meddler::start(fleet.port);
    let fleet = fleet.behind(&meddler);
    let runner = fleet.runner();
    assert_eq!(fleet.promote(runner.path(), &["start"]).code, 0);
    fleet.end_the_bake();
    meddler.now(|first| {
        if first.starts_with("PUT ") && first.contains("/state.json?") { Deed::Missed } else { Deed::Pass }
    });
    let ended = fleet.promote(runner.path(), &["step"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("the promote state was changed by somebody else"), "{}", ended.stderr);
    assert_eq!(fleet.stage.haproxy.server("green").0, 10);
    meddler.now(|first| {
        if first.starts_with("PUT ") && first.contains("/lease.json?") { Deed::Missed } else { Deed::Pass }
    });
    let ended = fleet.promote(runner.path(), &["step"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("another job holds this environment"), "{}", ended.stderr);
    meddler.now(|_| Deed::Pass);
    let ended = fleet.promote(runner.path(), &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    fleet.stage.assert_all_green();
    fleet.assert_no_step_twice();
}

#[test]
fn a_store_that_overwrites_in_spite_of_conditions_is_refused() {
    let fleet = Fleet::new(SHORT, "");
    let meddler = Meddler::start(fleet.port);
    let fleet = fleet.behind(&meddler);
    meddler.now(|_| Deed::Overwrite);
    let ended = fleet.promote(fleet.runner().path(), &["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("does not keep the conditions of a write"), "{}", ended.stderr);
    assert_eq!(fleet.bucket.keys(), Vec::<String>::new(), "nothing is left behind");
    fleet.stage.assert_all_blue_untouched();
}

#[test]
fn every_way_in_which_a_store_says_no_is_told_in_words() {
    let fleet = Fleet::new(SHORT, "");
    let meddler = Meddler::start(fleet.port);
    let fleet = fleet.behind(&meddler);
    let runner = fleet.runner();
    let told = |change: &dyn Fn(&mut Command), code: i32, words: &[&str]| {
        let mut command = fleet.tool(runner.path(), &["run"]);
        change(&mut command);
        let ended = run(&mut command);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "`{word}` is missing: {}", ended.stderr);
        }
        for secret in [SECRET, "not-the-right-secret", "X-Amz-"] {
            let everything = walk(runner.path()) + &ended.stderr + &ended.stdout;
            assert!(!everything.contains(secret), "{secret}: {everything}");
        }
    };
    let set = |name: &'static str, value: &'static str| {
        move |c: &mut Command| {
            c.env(name, value);
        }
    };
    told(
        &|c| {
            c.env_remove("AWS_ACCESS_KEY_ID");
        },
        2,
        &["AWS_ACCESS_KEY_ID is not set"],
    );
    told(&set("AWS_SECRET_ACCESS_KEY", " "), 2, &["AWS_SECRET_ACCESS_KEY is not set"]);
    told(
        &|c| {
            c.env_remove("AWS_ENDPOINT_URL_S3").env_remove("AWS_REGION");
        },
        2,
        &["AWS_REGION is not set"],
    );
    told(
        &set("AWS_SECRET_ACCESS_KEY", "not-the-right-secret"),
        4,
        &["does not know this key", "SignatureDoesNotMatch"],
    );
    told(
        &set("AWS_ACCESS_KEY_ID", "AKIANOBODYKNOWSTHIS0"),
        4,
        &["does not know this key", "InvalidAccessKeyId"],
    );
    told(&set("TRAPKEY_STATE", "s3://no-such-bucket/x"), 4, &["the bucket `no-such-bucket` does not exist"]);
    told(&set("TRAPKEY_STATE", "s3://B/x"), 2, &["`B` is not the name of a bucket"]);
    told(&set("TRAPKEY_STATE", "s3://bucket/a//b"), 2, &["without empty parts"]);
    told(&set("TRAPKEY_STATE", "gs://bucket/a"), 2, &["a folder, or s3://BUCKET/PREFIX"]);
    told(&set("AWS_ENDPOINT_URL_S3", "minio:9000"), 2, &["the address of the S3 store is not understood"]);
    told(&set("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"), 4, &["cannot be reached", "http://127.0.0.1:9"]);
    told(&set("TRAPKEY_S3_STYLE", "best"), 2, &["neither `path` nor `virtual`"]);
    meddler.now(|_| Deed::Deny);
    told(
        &|_| (),
        4,
        &["s3:GetObject", &format!("arn:aws:s3:::{}/team a/state/production/lease.json", fleet.bucket.name)],
    );
    meddler.now(|first| if first.starts_with("PUT ") { Deed::Deny } else { Deed::Pass });
    told(&|_| (), 4, &["give it the right s3:PutObject on arn:aws:s3:::"]);
    meddler.now(|first| if first.starts_with("DELETE ") { Deed::Deny } else { Deed::Pass });
    told(&|_| (), 4, &["give it the right s3:DeleteObject on arn:aws:s3:::"]);
    meddler.now(|_| Deed::Garbage);
    told(&|_| (), 4, &["what answers is not an S3 store", "Welcome to the guest network"]);
    meddler.now(|_| Deed::Busy);
    told(&|_| (), 4, &["the S3 store does not do its work", "SlowDown: so it was asked for (status 503)"]);
    fleet.stage.assert_all_blue_untouched();
}

/// Every text of a folder.
fn walk(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&walk(&path));
        } else {
            text.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap()));
        }
    }
    text
}

#[test]
fn a_step_on_s3_costs_few_requests() {
    let fleet = Fleet::new(LONG, "");
    let meddler = Meddler::start(fleet.port);
    let fleet = fleet.behind(&meddler);
    let (here, afar) = (fleet.runner(), fleet.runner());
    let local = |arguments: &[&str]| call("promote", here.path(), arguments);
    assert_eq!(local(&["start"]).code, 0);
    let steps = 5;
    let mean = |step: &dyn Fn() -> Ended| {
        let began = Instant::now();
        for _ in 0..steps {
            let ended = step();
            assert_eq!(ended.code, 0, "{}", ended.stderr);
        }
        began.elapsed().as_millis() / u128::from(steps)
    };
    let in_a_folder = mean(&|| local(&["step"]));
    fleet.stage.haproxy.ask("set server shop/green weight 0; set server shop/blue weight 100");
    assert_eq!(fleet.promote(afar.path(), &["start"]).code, 0);
    let before = meddler.requests();
    let on_s3 = mean(&|| fleet.promote(afar.path(), &["step"]));
    let requests = (meddler.requests() - before) / steps;
    figure(&format!(
        "a step in a bake: {in_a_folder} ms in a folder, {on_s3} ms on S3 with {requests} requests"
    ));
    assert!(requests < 25, "{requests}");
}

#[test]
fn a_clock_that_is_wrong_is_told_by_the_store() {
    let fleet = Fleet::new(SHORT, "");
    let runner = fleet.runner();
    let tool = fleet.tool(runner.path(), &["run"]);
    let mut command = Command::new("faketime");
    command
        .current_dir(runner.path())
        .env_clear()
        .args(["-f", "+20m"])
        .arg(tool.get_program())
        .args(tool.get_args());
    command.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended = run(&mut command);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("this machine's clock is wrong by 20 min"), "{}", ended.stderr);
    assert!(ended.stderr.contains("it is ahead of the clock of the S3 store"), "{}", ended.stderr);
    fleet.stage.assert_all_blue_untouched();
}
