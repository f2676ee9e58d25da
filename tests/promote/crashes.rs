//! Killed at any moment, the next call goes on or goes back, and applies no step twice.

use std::time::Instant;

use super::*;

/// What the journal says about steps: each is put in force once, none twice.
fn assert_no_step_twice(stage: &Stage) {
    let mut shifted = Vec::new();
    for shift in stage.promotion()["shifts"].as_array().unwrap() {
        let why = shift["why"].as_str().unwrap();
        if why.starts_with("step") {
            assert!(!shifted.contains(&why.to_owned()), "{why} was put in force twice");
            shifted.push(why.to_owned());
        }
    }
}

#[test]
fn killed_at_any_moment_the_next_call_finishes() {
    // A spread of moments over the whole run, whose journal has some fifteen lines.
    for number in 0..8 {
        let stage =
            Stage::new("[{weight: 10%, bake: 300ms}, {weight: 50%, bake: 300ms}, {weight: 100%}]", "");
        let mut child = stage.spawn(&["run"]);
        stage.wait_for_lines(2 * number, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the end", || {
            // Killed before anything was on disk, there is nothing to go on with: begin.
            let ended = stage.promote(&[if stage.state().exists() { "step" } else { "start" }]);
            assert_eq!(ended.code, 0, "{}", ended.stderr);
            stage.promotion()["outcome"] == "promoted"
        });
        stage.assert_all_green();
        assert_no_step_twice(&stage);
        assert_eq!(stage.promotion()["epoch"], 1);
    }
}

#[test]
fn killed_in_the_middle_of_a_rollback_the_next_call_goes_back() {
    for number in 0..4_u64 {
        let stage = Stage::new(LONG, "");
        stage.green.answers.fail_every.store(2, Ordering::SeqCst);
        let mut child = stage.spawn(&["run"]);
        wait_until("the way back", || {
            !["", "checking_green", "shifting", "baking"].contains(&stage.phase().as_str())
        });
        std::thread::sleep(Duration::from_millis(number * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(stage.promote(&["step"]).code, 1);
        stage.assert_all_blue();
        assert_eq!(stage.promotion()["outcome"], "rolled_back");
    }
}

/// Moments by chance, the same ones for the same seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn killed_again_and_again_at_moments_by_chance_it_ends_all_new_or_all_old() {
    let seed = 1 + u64::from(std::process::id()) * 7919;
    figure(&format!("seed {seed}"));
    let mut chance = Chance(seed);
    let (mut kills, mut new, mut old) = (0_u32, 0_u32, 0_u32);
    for round in 0..rounds(3) {
        let stage =
            Stage::new("[{weight: 10%, bake: 200ms}, {weight: 50%, bake: 200ms}, {weight: 100%}]", "");
        let bad = round % 3 == 2;
        stage.green.answers.fail_every.store(if bad { 2 } else { 0 }, Ordering::SeqCst);
        let seen = format!("seed {seed}, round {round}");
        for _ in 0..3 {
            let mut child = stage.spawn(&[if stage.state().exists() { "step" } else { "run" }]);
            std::thread::sleep(Duration::from_millis(chance.below(900)));
            kills += u32::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        wait_until(&seen, || {
            let ended = stage.promote(&[if stage.state().exists() { "step" } else { "start" }]);
            assert!([0, 1].contains(&ended.code), "{seen}: {}", ended.stderr);
            // Frozen is no end: the next call looks again.
            ["promoted", "rolled_back"].contains(&stage.outcome().as_str())
        });
        if stage.promotion()["outcome"] == "promoted" {
            assert!(!bad, "{seen}: a bad release was promoted");
            stage.assert_all_green();
            new += 1;
        } else {
            assert!(bad, "{seen}: {}", stage.promotion()["reason"]);
            stage.assert_all_blue();
            old += 1;
        }
        assert_no_step_twice(&stage);
        assert_eq!(stage.promotion()["epoch"], 1, "{seen}");
    }
    figure(&format!("{kills} kills, {new} releases ended all new, {old} all old"));
}

/// In the record no step is in force twice. In the journal one is so by two jobs only where the first
/// was killed before its record was on disk, and never twice by one job.
fn assert_nothing_twice(stage: &Stage, seen: &str) {
    let mut shifted = std::collections::BTreeSet::new();
    for line in stage.journal() {
        let key = |step: &Value| (line["epoch"].to_string(), step.to_string(), line["fence"].to_string());
        match line["did"]["event"].as_str() {
            Some("shifted") => assert!(shifted.insert(key(&line["state"])), "{seen}: {line}"),
            Some("look_again") => shifted.clear(),
            _ => {}
        }
    }
    let hooks = std::fs::read_to_string(stage.path().join("hooks.txt")).unwrap_or_default();
    let mut begun: Vec<&str> = hooks.lines().collect();
    begun.sort_unstable();
    let all = begun.len();
    begun.dedup();
    assert_eq!(begun.len(), all, "{seen}: a hook ran twice: {hooks}");
    for name in ["state.json", "lease.json"] {
        json(&stage.path().join(".trapkey/production").join(name));
    }
}

#[test]
fn killed_among_hooks_gates_aborts_undos_and_restarts_it_ends_all_new_or_all_old() {
    let seed = 1 + u64::from(std::process::id()) * 104_729;
    figure(&format!("seed {seed}"));
    let mut chance = Chance(seed);
    let (mut kills, mut new, mut old) = (0_u32, 0_u32, 0_u32);
    let hook = "[sh, -c, \"sleep 0.05; echo $TRAPKEY_HOOK >> hooks.txt; sleep 0.05\"]";
    let more = format!(
        "  keep_old: 1s\n  hooks: {{deploy: {hook}, after: {hook}, on_rollback: {hook}, retire: {hook}}}\n"
    );
    for round in 0..rounds(3) {
        let mut stage =
            Stage::new("[{weight: 10%, bake: 200ms}, {weight: 50%, bake: 200ms}, {weight: 100%}]", &more);
        let seen = format!("seed {seed}, round {round}");
        let begun = |stage: &Stage| stage.state().exists();
        for _ in 0..4 {
            let mut child = stage.spawn(&[if begun(&stage) { "step" } else { "run" }]);
            std::thread::sleep(Duration::from_millis(chance.below(700)));
            match chance.below(8) {
                0 => drop(stage.promote(&["pause"])),
                1 => stage.haproxy.restart(),
                2 => {
                    // It is killed as well, at any moment of its way.
                    let mut abort = stage.spawn(&[if chance.below(2) == 0 { "abort" } else { "undo" }]);
                    std::thread::sleep(Duration::from_millis(chance.below(200)));
                    kills += u32::from(abort.try_wait().unwrap().is_none());
                    abort.kill().unwrap();
                    abort.wait().unwrap();
                }
                _ => {}
            }
            kills += u32::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            let stepped = stage.promote(&[if begun(&stage) { "step" } else { "start" }]);
            assert!([0, 1, 5].contains(&stepped.code), "{seen}: {}", stepped.stderr);
        }
        let ended = ["promoted", "rolled_back"];
        wait_until(&seen, || {
            if begun(&stage) {
                stage.promote(&["resume"]);
            }
            let stepped = stage.promote(&[if begun(&stage) { "step" } else { "start" }]);
            let over = ended.contains(&stage.phase().as_str());
            assert!(over || [0, 1].contains(&stepped.code), "{seen}: {}", stepped.stderr);
            over
        });
        if stage.phase() == "promoted" {
            // A router that restarted after the end has forgotten it; then it has nothing on green.
            let (blue, green) = (stage.haproxy.server("blue"), stage.haproxy.server("green"));
            assert!(green.0 == 0 || blue.0 == 0, "{seen}: {blue:?} {green:?}");
            new += 1;
        } else {
            assert_eq!(stage.haproxy.server("green").0, 0, "{seen}");
            old += 1;
        }
        assert_nothing_twice(&stage, &seen);
    }
    figure(&format!(
        "with hooks, gates, aborts and restarts: {kills} kills, {new} ended all new, {old} all old"
    ));
}

#[test]
fn a_job_that_was_stopped_past_its_lease_wakes_up_and_touches_nothing() {
    // On a machine that is so slow that the job does not come to renew its lease it gets a longer one.
    let mut lease = Duration::from_secs(1);
    let (stage, first) = wait_for("a job that was stopped in its bake", || {
        lease *= 2;
        let stage = Stage::new(LONG, &format!("  lease: {}s\n", lease.as_secs()));
        let mut first = stage.spawn(&["run"]);
        // In the middle of the bake, its page written.
        let page = stage.path().join("evidence/promote.json");
        wait_until("its page", || {
            first.try_wait().unwrap().is_some() || page.exists() && stage.promotion()["weight"] == 0.5
        });
        // Between two renewals: stopped in the middle of one it would keep everybody from writing, until
        // it is ended, and the message says so.
        let change = std::fs::File::open(stage.path().join(".trapkey/production/change")).unwrap();
        change.lock().unwrap();
        let works = first.try_wait().unwrap().is_none();
        if works {
            stop(&first);
        }
        change.unlock().unwrap();
        works.then_some((stage, first))
    });
    let stopped = Instant::now();
    wait_until("its lease to be over", || {
        let stepped = stage.promote(&["step"]);
        assert!([0, 5].contains(&stepped.code), "{}", stepped.stderr);
        stepped.code == 0
    });
    assert!(stopped.elapsed() >= lease, "it was not over yet: {:?}", stopped.elapsed());
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
    let before = (stage.haproxy.held(), stage.document());
    signal(&first, "-CONT");
    let ended = first.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(5));
    stage.assert_all_blue();
    assert_eq!(stage.document(), before.1, "the winner's document stands");
    let fences: Vec<u64> = stage.journal().iter().filter_map(|line| line["fence"].as_u64()).collect();
    assert!(fences.is_sorted() && fences.last() > fences.first(), "{fences:?}");
}

#[test]
fn of_two_jobs_at_the_same_moment_exactly_one_wins() {
    let pairs = rounds(2);
    // Whoever wins waits for the other one in its hook.
    let hook = "  hooks: {deploy: [sh, -c, \"until [ -e go ]; do sleep 0.05; done\"]}\n";
    for _ in 0..pairs {
        let stage = Stage::new("[{weight: 50%, bake: 500ms}, {weight: 100%}]", hook);
        let mut both = [stage.spawn(&["run"]), stage.spawn(&["run"])];
        wait_until("one of them to be refused", || {
            both.iter_mut().any(|child| child.try_wait().unwrap().is_some())
        });
        std::fs::write(stage.path().join("go"), "").unwrap();
        let mut ended = both.map(|child| {
            let pid = child.id();
            (child.wait_with_output().unwrap().status.code().unwrap(), pid)
        });
        ended.sort_unstable();
        assert_eq!(ended.map(|(code, _)| code), [0, 5]);
        let refused = json(&stage.path().join("evidence/promote.refused.json")).to_string();
        assert!(refused.contains("another job"), "{refused}");
        let winner = format!("process {} on", ended[0].1);
        assert!(refused.contains(&winner), "the holder is named: {winner}: {refused}");
        stage.assert_all_green();
        assert_no_step_twice(&stage);
    }
    figure(&format!("{pairs} pairs of jobs, one winner each"));
}

#[test]
fn a_hook_that_was_killed_in_the_middle_does_not_run_again() {
    let stage = Stage::new(SHORT, "  hooks: {deploy: [sh, -c, \"echo $$ >> hooks.txt; exec sleep 600\"]}\n");
    let mut child = stage.spawn(&["run"]);
    let begun = || std::fs::read_to_string(stage.path().join("hooks.txt")).unwrap_or_default();
    wait_until("the hook", || begun().ends_with('\n'));
    child.kill().unwrap();
    child.wait().unwrap();
    // What the killed job left behind is not the next job's to end.
    assert!(Command::new("kill").args(["-KILL", begun().trim()]).status().unwrap().success());
    let ended = stage.promote(&["step"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(stage.promotion()["reason"].as_str().unwrap().contains("how the hook ended is not known"));
    assert_eq!(begun().lines().count(), 1);
    stage.assert_all_blue();
}

#[test]
fn every_action_is_in_the_journal_before_and_after_it() {
    let stage = Stage::new(SHORT, "");
    assert_eq!(stage.promote(&["run"]).code, 0);
    let journal = stage.journal();
    let does: Vec<f64> = journal.iter().filter_map(|l| l["does"]["shift"].as_f64()).collect();
    assert_eq!(does, [0.1, 0.5, 1.0]);
    let did = journal.iter().filter(|l| l["did"]["event"] == "shifted").count();
    assert_eq!(did, 3);
    for (number, line) in journal.iter().enumerate() {
        if line["does"]["shift"].is_number() {
            assert_eq!(journal[number + 1]["did"]["event"], "shifted");
        }
    }
}
