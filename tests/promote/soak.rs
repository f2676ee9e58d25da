//! Three releases in a row on sides that change places, with two jobs at a time that are killed, and stopped for
//! longer than their lease, among hooks, aborts, undos and lost states, while users ask.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::crashes::Chance;
use super::*;

const HOOK: &str = r#"#!/bin/sh
at=$(cat attempt)
mkdir "at-work.$at" || echo "$at $TRAPKEY_HOOK beside another" >> wrong.txt
echo "$at $TRAPKEY_HOOK" >> hooks.txt
sleep 0.1
rmdir "at-work.$at"
"#;

/// Users, who may meet these releases and no other.
struct Users {
    may_meet: Arc<Mutex<BTreeSet<String>>>,
    wrong: Arc<Mutex<Vec<String>>>,
    over: Arc<std::sync::atomic::AtomicBool>,
    asks: Option<std::thread::JoinHandle<u64>>,
}

impl Users {
    fn of(url: String) -> Self {
        let (may_meet, wrong) =
            (Arc::<Mutex<BTreeSet<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (may, wrongs, ended) = (Arc::clone(&may_meet), Arc::clone(&wrong), Arc::clone(&over));
        let asks = std::thread::spawn(move || {
            let client = trapkey::world::http::Client::new(ANSWER);
            let mut asked = 0;
            while !ended.load(Ordering::SeqCst) {
                let before = may.lock().unwrap().clone();
                let met = match client.get(&url) {
                    Ok(answer) if answer.status == 200 => answer.header("x-release").map(str::to_owned),
                    Ok(answer) => Some(format!("status {}", answer.status)),
                    Err(fault) => Some(format!("{fault:?}")),
                };
                // What was right when it asked or when it was answered is right.
                let right = |met: &String| before.contains(met) || may.lock().unwrap().contains(met);
                if let Some(met) = met.filter(|met| !right(met)) {
                    wrongs.lock().unwrap().push(met);
                }
                asked += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            asked
        });
        Self { may_meet, wrong, over, asks: Some(asks) }
    }

    fn may_meet(&self, releases: &[&str]) {
        *self.may_meet.lock().unwrap() = releases.iter().map(|release| (*release).to_owned()).collect();
    }

    fn end(mut self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        self.asks.take().unwrap().join().unwrap()
    }
}

#[derive(Default)]
struct Counts {
    kills: u32,
    stops: u32,
    lost: u32,
    orders: u32,
    new: u32,
    old: u32,
    asked: u64,
}

/// One place with its sides; `first` is the one that serves now.
struct Row {
    stage: Stage,
    /// Green is the side that HAProxy calls blue.
    swapped: bool,
    serves: String,
    attempt: String,
    jobs: Vec<Child>,
}

impl Row {
    fn new() -> Self {
        let stage = Stage::new(SHORT, "");
        let hook = stage.path().join("hook.sh");
        std::fs::write(&hook, HOOK).unwrap();
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { stage, swapped: false, serves: "1.0".into(), attempt: String::new(), jobs: Vec::new() }
    }

    /// The plan of a release, on whichever side is idle.
    fn plan(&self, version: &str) {
        let stage = &self.stage;
        let (blue, green) =
            if self.swapped { (&stage.green, &stage.blue) } else { (&stage.blue, &stage.green) };
        green.says(version);
        let names = if self.swapped { "blue: green, green: blue" } else { "blue: blue, green: green" };
        let router = format!(
            "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, {names}}}}}",
            stage.haproxy.url()
        );
        let hooks = ["deploy", "after", "on_rollback", "retire"]
            .map(|hook| format!("{hook}: [./hook.sh]"))
            .join(", ");
        let more = format!("  lease: 1s\n  keep_old: 2s\n  hooks: {{{hooks}}}\n");
        let steps = "[{weight: 10%, bake: 300ms}, {weight: 50%, bake: 300ms}, {weight: 100%}]";
        let text = plan(&router, blue, green, steps, &more);
        std::fs::write(
            stage.path().join("release.yaml"),
            text.replace("VERSION:-1.1", &format!("VERSION:-{version}")),
        )
        .unwrap();
    }

    fn attempt(&mut self, name: String) {
        std::fs::write(self.stage.path().join("attempt"), &name).unwrap();
        self.attempt = name;
    }

    fn begun(&self, version: &str) -> bool {
        let bytes = std::fs::read(self.stage.state()).unwrap_or_default();
        let state: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        state["record"]["release"]["version"] == version
    }

    fn over(&self, version: &str) -> bool {
        self.begun(version) && ["promoted", "rolled_back"].contains(&self.stage.phase().as_str())
    }

    fn call(&mut self, version: &str) {
        let job = self.stage.spawn(&[if self.begun(version) { "step" } else { "run" }]);
        self.jobs.push(job);
    }

    /// Ends what is at work, stopped or not.
    fn clear(&mut self) {
        for mut job in self.jobs.drain(..) {
            let _ = job.kill();
            job.wait().unwrap();
        }
    }

    /// An operator, after the state was lost: everybody to blue, by hand.
    fn back_by_hand(&self) {
        let (blue, green) = if self.swapped { ("green", "blue") } else { ("blue", "green") };
        for command in [
            format!("set server shop/{blue} state ready"),
            format!("set server shop/{blue} weight 100"),
            format!("set server shop/{green} weight 0"),
        ] {
            self.stage.haproxy.ask(&command);
        }
    }

    /// Something that happens to a release under way.
    fn trouble(&mut self, version: &str, chance: &mut Chance, counts: &mut Counts) {
        if self.jobs.len() < 2 {
            self.call(version);
        }
        std::thread::sleep(Duration::from_millis(chance.below(300)));
        let number = usize::try_from(chance.below(self.jobs.len() as u64)).unwrap();
        match chance.below(20) {
            0..=9 => {
                let mut job = self.jobs.swap_remove(number);
                counts.kills += u32::from(job.try_wait().unwrap().is_none());
                let _ = job.kill();
                job.wait().unwrap();
            }
            10..=15 => {
                if self.jobs[number].try_wait().unwrap().is_some() {
                    drop(self.jobs.swap_remove(number).wait());
                    return;
                }
                let pid = self.jobs[number].id().to_string();
                let send = |name: &str| drop(Command::new("kill").args([name, &pid]).output());
                send("-STOP");
                counts.stops += 1;
                // Meanwhile another one is called.
                if self.jobs.len() < 2 {
                    self.call(version);
                }
                std::thread::sleep(Duration::from_millis(1200 + chance.below(1500)));
                send("-CONT");
            }
            16..=18 => {
                counts.orders += 1;
                let order = if chance.below(2) == 0 { "abort" } else { "undo" };
                let mut order = self.stage.spawn(&[order]);
                std::thread::sleep(Duration::from_millis(chance.below(300)));
                counts.kills += u32::from(order.try_wait().unwrap().is_none());
                let _ = order.kill();
                order.wait().unwrap();
            }
            _ => {
                let state = self.stage.path().join(".trapkey/production");
                if !self.begun(version)
                    || std::fs::rename(&state, self.stage.path().join(format!("lost.{}", self.attempt)))
                        .is_err()
                {
                    return;
                }
                counts.lost += 1;
                std::thread::sleep(Duration::from_millis(chance.below(400)));
                self.clear();
                // A job may have begun anew with what it found: that state is as good as none.
                let again = self.stage.path().join(format!("lost-again.{}", self.attempt));
                let _ = std::fs::rename(&state, again);
                let hook = self.stage.path().join(format!("at-work.{}", self.attempt));
                wait_until("the hook of the lost release", || !hook.exists());
                self.back_by_hand();
                self.attempt(format!("{}+", self.attempt));
            }
        }
    }

    /// Takes a release to its end, whatever has become of it.
    fn finish(&mut self, version: &str, seen: &str) {
        for job in &self.jobs {
            drop(Command::new("kill").args(["-CONT", &job.id().to_string()]).output());
        }
        let mut jobs = std::mem::take(&mut self.jobs);
        wait_until("the jobs", || jobs.iter_mut().all(|job| job.try_wait().unwrap().is_some()));
        wait_until(seen, || {
            let stepped = self.stage.promote(&[if self.begun(version) { "step" } else { "run" }]);
            assert!((0..=5).contains(&stepped.code), "{seen}: {} {}", stepped.code, stepped.stderr);
            self.over(version)
        });
    }
}

fn assert_hooks(row: &Row, seen: &str) {
    let read = |name: &str| std::fs::read_to_string(row.stage.path().join(name)).unwrap_or_default();
    let hooks = read("hooks.txt");
    let mut once = BTreeSet::new();
    for line in hooks.lines() {
        assert!(once.insert(line), "{seen}: a hook ran twice: {line}\n{hooks}");
    }
    assert_eq!(read("wrong.txt"), "", "{seen}");
}

#[test]
fn three_releases_in_a_row_survive_kills_stops_orders_and_losses() {
    let seed = 1 + u64::from(std::process::id()) * 15_485_863;
    figure(&format!("seed {seed}"));
    let mut chance = Chance(seed);
    let mut counts = Counts::default();
    for round in 0..rounds(1) {
        let mut row = Row::new();
        let users = Users::of(row.stage.haproxy.url());
        users.may_meet(&["1.0"]);
        for (number, version) in ["1.1", "1.2", "1.3"].into_iter().enumerate() {
            let seen = format!("seed {seed}, round {round}, release {version}");
            users.may_meet(&[&row.serves]);
            row.plan(version);
            row.attempt(format!("{round}.{number}"));
            users.may_meet(&[&row.serves, version]);
            for _ in 0..4 + chance.below(8) {
                if row.over(version) {
                    break;
                }
                row.trouble(version, &mut chance, &mut counts);
            }
            row.finish(version, &seen);
            if row.stage.phase() == "promoted" {
                counts.new += 1;
                (row.serves, row.swapped) = (version.to_owned(), !row.swapped);
            } else {
                counts.old += 1;
            }
            assert_hooks(&row, &seen);
            // The record is true: everybody meets what it says, and nobody is left who would change that.
            let client = trapkey::world::http::Client::new(ANSWER);
            for _ in 0..30 {
                let answer = client.get(&row.stage.haproxy.url()).unwrap();
                assert_eq!(
                    answer.header("x-release"),
                    Some(row.serves.as_str()),
                    "{seen}: {}",
                    row.stage.phase()
                );
            }
            let state = json(&row.stage.state());
            assert_eq!(state["record"]["release"]["version"], version, "{seen}");
            row.stage.journal();
        }
        assert_eq!(*users.wrong.lock().unwrap(), Vec::<String>::new(), "seed {seed}, round {round}");
        counts.asked += users.end();
    }
    let Counts { kills, stops, lost, orders, new, old, asked } = counts;
    figure(&format!(
        "three releases in a row, sides changed: {kills} kills, {stops} stops past the lease, {orders} aborts and \
         undos, {lost} lost states; {new} ended all new, {old} all old; {asked} requests, none wrong"
    ));
}
