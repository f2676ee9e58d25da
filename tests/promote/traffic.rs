//! Releases in a row under users' requests, while the router is reloaded, operators take servers out and bring
//! them back, agents change their minds and servers die: no user may notice, and what people hold stays held.
//!
//! `TRAPKEY_TRAFFIC` is the number of requests; one switch of weight goes with each 2,500 of them, and one kill
//! with each 2,000. `TRAPKEY_SEED` plays the same moments again, as far as the machine lets it.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Instant;

use self::servers::Server;
use self::shop::{How, SIDES, Shop};
use self::users::Users;
use super::crashes::Chance;
use super::*;

mod servers;
mod shop;
mod users;

/// How long a release may take before the scene is shown.
const LONGEST: Duration = Duration::from_secs(300);
/// How long an error may come of a server that the harness has ended.
const AFTER_A_DEATH: Duration = Duration::from_secs(3);

/// How much is to be reached.
struct Goal {
    requests: u64,
    switches: u64,
    kills: u64,
}

impl Goal {
    fn new() -> Self {
        let asked = std::env::var("TRAPKEY_TRAFFIC").ok();
        match asked.map(|n| n.parse::<u64>().expect("TRAPKEY_TRAFFIC is a number")) {
            Some(requests) => Self { requests, switches: requests / 2500, kills: requests / 2000 },
            None => Self { requests: rounds(3000), switches: rounds(6), kills: rounds(4) },
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("TRAPKEY_SEED").ok();
    given.map_or(1 + u64::from(std::process::id()) * 15_485_863, |seed| {
        seed.parse().expect("TRAPKEY_SEED is a number")
    })
}

/// How a release is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One `promote run`.
    Run,
    /// `promote start`, and `promote step` again and again.
    Steps,
    /// Called off at a moment by chance.
    Abort,
    /// Promoted, and undone while the old side is kept.
    Undo,
    /// Its jobs are killed at moments by chance.
    Killed,
    /// Three jobs at a time, some of them killed.
    Three,
}

/// What the sides stand behind.
enum Behind {
    Haproxy(Box<Shop>),
    Nginx(Box<Nginx>, [Server; 2], [std::sync::Arc<std::sync::atomic::AtomicU32>; 2]),
}

impl Behind {
    fn releases(&self) -> &[std::sync::Arc<std::sync::atomic::AtomicU32>; 2] {
        match self {
            Self::Haproxy(shop) => &shop.releases,
            Self::Nginx(_, _, releases) => releases,
        }
    }

    fn fronts(&self) -> &[Server; 2] {
        match self {
            Self::Haproxy(shop) => &shop.fronts,
            Self::Nginx(_, servers, _) => servers,
        }
    }

    fn router(&self, blue: usize) -> String {
        match self {
            Self::Haproxy(shop) => shop.router(blue),
            Self::Nginx(nginx, servers, _) => {
                patient(&nginx.router(servers[blue].port, servers[1 - blue].port))
            }
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Haproxy(shop) => shop.port,
            Self::Nginx(nginx, ..) => nginx.port,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    releases: u64,
    switches: u64,
    new: u64,
    old: u64,
    went_back: u64,
    refused: u64,
    frozen: u64,
    reloads: u64,
    late_reloads: u64,
    maint: u64,
    drain: u64,
    by_agent: u64,
    too_late: u64,
    brought_back: u64,
    resumed: u64,
    agents_down: u64,
    deaths: u64,
    kills: u64,
    three: u64,
    codes: BTreeMap<i32, u64>,
}

/// One place with its sides, its users and what happens to it.
struct Row {
    folder: tempfile::TempDir,
    behind: Behind,
    users: Users,
    chance: Chance,
    seed: u64,
    /// The side that serves.
    serves: usize,
    /// Its release.
    number: u32,
    /// The release that was begun last.
    newest: u32,
    jobs: Vec<Child>,
    orders: Vec<Child>,
    counts: Counts,
    log: Vec<String>,
    /// When the router was reloaded last.
    reloaded: Option<jiff::Timestamp>,
}

impl Row {
    fn new(kind: &str, rate: u64) -> Self {
        let seed = seed();
        figure(&format!("traffic behind {kind}: seed {seed}"));
        let folder = folder();
        let behind = if kind == "haproxy" {
            Behind::Haproxy(Box::new(Shop::start(folder.path())))
        } else {
            let releases = [0, u32::MAX].map(|n| std::sync::Arc::new(std::sync::atomic::AtomicU32::new(n)));
            let sides = [Server::start("a", &releases[0]), Server::start("b", &releases[1])];
            let nginx = Nginx::start(folder.path(), sides[0].port, sides[1].port);
            Behind::Nginx(Box::new(nginx), sides, releases)
        };
        let users = Users::start(behind.port(), rate, 0);
        Self {
            folder,
            behind,
            users,
            chance: Chance(seed),
            seed,
            serves: 0,
            number: 0,
            newest: 0,
            jobs: Vec::new(),
            orders: Vec::new(),
            counts: Counts::default(),
            log: Vec::new(),
            reloaded: None,
        }
    }

    fn note(&mut self, what: &str) {
        let line = format!("{} ms, release 1.{}: {what}", self.users.now() / 1000, self.newest);
        if std::env::var_os("TRAPKEY_TRAFFIC_LOG").is_some() {
            figure(&line);
        }
        self.log.push(line);
    }

    /// What there is to see where something is wrong.
    fn scene(&self) -> String {
        let from = self.log.len().saturating_sub(60);
        let tail = |name: &str, lines: usize| {
            let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        };
        let states = match &self.behind {
            Behind::Haproxy(shop) => format!("{:#?}", shop.states()),
            Behind::Nginx(nginx, ..) => nginx.held(),
        };
        format!(
            "seed {}\n{}\n--- jobs\n{}\n--- journal\n{}\n--- router\n{states}\n--- users\n{}",
            self.seed,
            self.log[from..].join("\n"),
            tail("jobs.log", 60),
            tail(".trapkey/production/journal.jsonl", 25),
            self.users.seen.scenes.lock().unwrap().join("\n"),
        )
    }

    fn write(&self, keep: bool) {
        let (blue, green) = (self.serves, 1 - self.serves);
        let fronts = self.behind.fronts();
        let kept = if keep { "  keep_old: 1h\n" } else { "" };
        let text = format!(
            "version: 1\nservice: shop\nenvironments: {{production: {{}}}}\nrelease: {{version: \"1.{}\"}}\n\
             promote:\n  router: {}\n  sides:\n    blue: {{url: \"http://127.0.0.1:{}\"}}\n    green: {{url: \"http://127.0.0.1:{}\"}}\n  \
             probe: {{path: /, rate: 100/s, requests: 20, timeout: 60s}}\n  interval: 100ms\n  min_samples: 20\n  drain: 1s\n  \
             undecided_for: 60s\n  healthy_within: 60s\n  router_back_within: 180s\n{kept}  \
             rollback_when: [{{metric: error_rate, is: \"> 5%\"}}, {{metric: latency_p95, is: \"> 20s\"}}]\n  \
             steps: [{{weight: 25%, bake: 300ms}}, {{weight: 60%, bake: 300ms}}, {{weight: 100%}}]\n",
            self.newest,
            self.behind.router(blue),
            fronts[blue].port,
            fronts[green].port,
        );
        std::fs::write(self.folder.path().join("release.yaml"), text).unwrap();
    }

    /// The phase of the newest release; none where it has not begun.
    fn phase(&self) -> Option<String> {
        let bytes = std::fs::read(self.folder.path().join(".trapkey/production/state.json")).ok()?;
        let state: Value = serde_json::from_slice(&bytes).ok()?;
        let record = &state["record"];
        let own = record["release"]["version"] == format!("1.{}", self.newest);
        own.then(|| record["state"]["phase"].as_str().unwrap_or_default().to_owned())
    }

    fn spawn(&self, word: &str) -> Child {
        let path = self.folder.path().join("jobs.log");
        let log = File::options().create(true).append(true).open(path).unwrap();
        let child = tool("promote", self.folder.path())
            .arg(word)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        child.unwrap()
    }

    fn begin(&mut self, way: Way) {
        let word = match (self.phase(), way) {
            (None, Way::Steps) => "start",
            (None, _) => "run",
            // It ends nothing that is over, and begins nothing.
            (Some(_), _) => "step",
        };
        let job = self.spawn(word);
        self.jobs.push(job);
    }

    /// Takes note of the jobs that have ended.
    fn reap(&mut self) {
        let mut ended = Vec::new();
        for list in [&mut self.jobs, &mut self.orders] {
            list.retain_mut(|job| {
                let status = job.try_wait().unwrap();
                ended.extend(status.map(|status| status.code().unwrap_or(-1)));
                status.is_none()
            });
        }
        for code in ended {
            assert!((-1..=5).contains(&code) && code != 2, "a job ended with {code}\n{}", self.scene());
            *self.counts.codes.entry(code).or_default() += 1;
            self.counts.refused += u64::from(self.phase().is_none());
        }
    }

    /// A release that something has paused goes on, or is called off.
    fn decide(&mut self) {
        let paused = self.folder.path().join(".trapkey/production/pause.json").exists();
        if !paused || !self.orders.is_empty() || self.chance.below(4) > 0 {
            return;
        }
        let order = if self.chance.below(8) == 0 { "abort" } else { "resume" };
        self.note(&format!("it is paused: {order}"));
        self.counts.resumed += u64::from(order == "resume");
        let order = self.spawn(order);
        self.orders.push(order);
    }

    fn kill(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let number = usize::try_from(self.chance.below(self.jobs.len() as u64)).unwrap();
        let mut job = self.jobs.swap_remove(number);
        self.counts.kills += u64::from(job.try_wait().unwrap().is_none());
        let _ = job.kill();
        job.wait().unwrap();
    }

    /// One release, to its end.
    fn release(&mut self, way: Way, troubles: bool) {
        self.newest += 1;
        self.counts.releases += 1;
        self.reloaded = None;
        self.note(&format!("begins, by {way:?}, from side {}", self.serves));
        self.behind.releases()[1 - self.serves].store(self.newest, Ordering::SeqCst);
        self.users.may_meet(self.number, self.newest);
        self.write(way == Way::Undo);
        let began = Instant::now();
        let call_off = Duration::from_millis(self.chance.below(3500));
        let (mut kills, mut called_off) = (1 + self.chance.below(4), false);
        loop {
            self.reap();
            let phase = self.phase();
            let over = matches!(phase.as_deref(), Some("promoted" | "rolled_back"));
            if over && self.jobs.is_empty() && self.orders.is_empty() {
                break;
            }
            assert!(began.elapsed() < LONGEST, "it does not end\n{}", self.scene());
            self.counts.frozen += u64::from(phase.as_deref() == Some("frozen"));
            let most = if way == Way::Three { 3 } else { 1 };
            let kept = phase.as_deref() == Some("keeping_blue");
            if kept && self.jobs.is_empty() && self.orders.is_empty() {
                let undo = self.spawn("undo");
                self.orders.push(undo);
            } else if !over && !kept && self.jobs.len() < most {
                self.begin(way);
                self.counts.three += u64::from(self.jobs.len() == 3);
            }
            if way == Way::Abort && !called_off && began.elapsed() >= call_off && phase.is_some() {
                called_off = true;
                self.note("is called off");
                let abort = self.spawn("abort");
                self.orders.push(abort);
            }
            if matches!(way, Way::Killed | Way::Three) && kills > 0 && self.chance.below(6) == 0 {
                kills -= 1;
                std::thread::sleep(Duration::from_millis(self.chance.below(60)));
                self.kill();
            }
            self.decide();
            std::thread::sleep(Duration::from_millis(10 + self.chance.below(80)));
            if troubles {
                self.trouble();
            }
        }
        self.end();
    }

    /// One release in which nothing happens.
    fn one_release(&mut self) {
        self.newest += 1;
        self.behind.releases()[1 - self.serves].store(self.newest, Ordering::SeqCst);
        self.users.may_meet(self.number, self.newest);
        self.write(false);
        let ended = call("promote", self.folder.path(), &["run"]);
        assert_eq!(ended.code, 0, "{}\n{}", ended.stderr, self.scene());
        self.end();
    }

    /// Something happens that a release has not asked for.
    fn trouble(&mut self) {
        let dice = self.chance.below(400);
        if let Behind::Nginx(nginx, ..) = &self.behind {
            if dice < 8 {
                let mut reload = Command::new("nginx");
                reload.args(["-s", "reload", "-c"]).arg(&nginx.config).stderr(Stdio::null());
                assert!(reload.status().unwrap().success());
                self.counts.reloads += 1;
                self.note("nginx is reloaded");
            }
            return;
        }
        match dice {
            0..=4 => self.reload(),
            5..=15 => self.take_out(),
            16..=35 => self.bring_back(),
            36..=41 => self.let_die(),
            42..=69 => self.revive(),
            70..=79 => self.agent_down(),
            80..=119 => self.agents_up(),
            _ => {}
        }
    }

    fn shop(&mut self) -> &mut Shop {
        match &mut self.behind {
            Behind::Haproxy(shop) => shop,
            Behind::Nginx(..) => panic!("there is no HAProxy"),
        }
    }

    fn reload(&mut self) {
        self.note("HAProxy is reloaded");
        self.shop().reload();
        self.reloaded = Some(jiff::Timestamp::now());
        self.counts.reloads += 1;
        self.note("the old HAProxy has ended");
    }

    /// A server that is in service on a side where another one would still be.
    fn one_of_many(&mut self) -> Option<String> {
        let shop = self.shop();
        let states = shop.states();
        let in_service = |name: &str| states.iter().any(|s| s.name == name && s.admitted);
        let whole =
            |name: &str| in_service(name) && shop.server(name).lives() && shop.agents.says(name) == "up";
        let mut names = Vec::new();
        for side in SIDES {
            for (name, _) in side {
                let others = side.iter().filter(|(other, _)| *other != name && whole(other)).count();
                if others > 0 && whole(name) {
                    names.push(name.to_owned());
                }
            }
        }
        let number = self.chance.below(names.len().max(1) as u64);
        names.get(usize::try_from(number).unwrap()).cloned()
    }

    fn take_out(&mut self) {
        if self.shop().held.len() >= 2 {
            return;
        }
        let Some(name) = self.one_of_many() else { return };
        let how = match self.chance.below(3) {
            0 => How::Maint,
            1 => How::Drain,
            _ => How::Agent,
        };
        if !self.shop().hold(&name, how) {
            self.counts.too_late += 1;
            self.note(&format!("{name} was to be taken out, and its side was closed in that moment"));
            return;
        }
        let now = self.users.now();
        self.shop().server(&name).hold(now);
        match how {
            How::Maint => self.counts.maint += 1,
            How::Drain => self.counts.drain += 1,
            How::Agent => self.counts.by_agent += 1,
        }
        self.note(&format!("{name} is taken out: {how:?}"));
    }

    fn bring_back(&mut self) {
        let names: Vec<String> = self.shop().held.keys().cloned().collect();
        let Some(name) = names.first().filter(|_| !names.is_empty()) else { return };
        self.shop().server(name).let_go();
        self.shop().bring_back(name);
        self.counts.brought_back += 1;
        self.note(&format!("{name} is brought back"));
    }

    fn let_die(&mut self) {
        if self.shop().servers.iter().any(|server| !server.lives()) {
            return;
        }
        let Some(name) = self.one_of_many() else { return };
        self.users.trouble(AFTER_A_DEATH);
        let server = self.shop().servers.iter_mut().find(|server| server.name == name).unwrap();
        server.die();
        self.users.trouble(AFTER_A_DEATH);
        self.counts.deaths += 1;
        self.note(&format!("{name} has died"));
    }

    fn revive(&mut self) {
        let dead = self.shop().servers.iter_mut().find(|server| !server.lives());
        let Some(server) = dead else { return };
        server.revive();
        let name = server.name.clone();
        self.note(&format!("{name} lives again"));
    }

    fn agent_down(&mut self) {
        let Some(name) = self.one_of_many() else { return };
        self.shop().agents.say(&name, "down");
        self.counts.agents_down += 1;
        self.note(&format!("the agent of {name} says down"));
    }

    fn agents_up(&mut self) {
        for (name, _) in SIDES.iter().flatten() {
            if self.shop().agents.says(name) == "down" {
                self.shop().agents.say(name, "up");
                self.note(&format!("the agent of {name} says up"));
            }
        }
    }

    /// The end of a release: all new or all old, as recorded, and what people hold is held.
    fn end(&mut self) {
        let phase = self.phase().unwrap();
        let document = json(&self.folder.path().join("evidence/promote.json"));
        let promotion = &document["promotion"];
        assert_eq!(promotion["outcome"], phase.as_str(), "{}", self.scene());
        let shifts = promotion["shifts"].as_array().unwrap();
        self.counts.switches += shifts.len() as u64;
        let reason = promotion["reason"].as_str().unwrap_or_default().to_owned();
        let is_new = phase == "promoted";
        self.note(&format!("{phase}: {reason}"));
        if is_new {
            self.counts.new += 1;
            self.serves = 1 - self.serves;
            self.number = self.newest;
        } else {
            self.counts.old += 1;
            let by_people = reason.contains("called off") || reason.contains("undone");
            self.counts.went_back += u64::from(!by_people);
        }
        let change = promotion["after_reload"]["change"].as_array().cloned().unwrap_or_default();
        if let Some(wrong) = self.wrong() {
            // Behind the last look of the job nobody puts weights back that a reload loses.
            let late = is_new && self.reloaded.is_some_and(|at| at > self.last_look());
            assert!(late, "{wrong}\n{}", self.scene());
            self.counts.late_reloads += 1;
            self.note(&format!("reloaded behind the last look: {wrong}"));
            self.by_hand();
        }
        self.users.may_meet(self.number, self.number);
        let asked = self.users.good() + 30;
        wait_until("users", || self.users.good() >= asked);
        assert_eq!(self.users.seen.lost.load(Ordering::SeqCst), 0, "{}", self.scene());
        if is_new && matches!(self.behind, Behind::Haproxy(_)) {
            self.as_noted(&change);
        }
        if let Behind::Haproxy(shop) = &self.behind {
            let while_held: u64 = shop.servers.iter().map(Server::while_held).sum();
            assert_eq!(while_held, 0, "a server that was taken out had users\n{}", self.scene());
        }
    }

    /// When the newest release looked at the router last: before it closed the old side.
    fn last_look(&self) -> jiff::Timestamp {
        let journal = self.folder.path().join(".trapkey/production/journal.jsonl");
        let text = std::fs::read_to_string(journal).unwrap();
        let lines = text.lines().rev().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut retired = lines.into_iter().filter(|line| line["did"]["event"] == "retired");
        retired.next().unwrap()["at"].as_str().unwrap().parse().unwrap()
    }

    /// What of the router is not as recorded.
    fn wrong(&self) -> Option<String> {
        let shop = match &self.behind {
            Behind::Nginx(nginx, servers, _) => {
                let named = |side: usize| nginx.held().contains(&format!("127.0.0.1:{}", servers[side].port));
                return (!named(self.serves) || named(1 - self.serves)).then(|| nginx.held());
            }
            Behind::Haproxy(shop) => shop,
        };
        for state in shop.states() {
            let held = shop.held.contains_key(&state.name);
            let own = SIDES[self.serves].iter().find(|(name, _)| *name == state.name);
            let fits = match own {
                _ if held => !state.admitted,
                Some((_, weight)) => state.admitted && state.weight == *weight,
                None => !state.admitted || state.weight == 0,
            };
            if !fits {
                return Some(format!("side {} serves, held are {:?}: {state:?}", self.serves, shop.held));
            }
        }
        None
    }

    /// The operator gives the side that serves its weights.
    fn by_hand(&mut self) {
        let serves = self.serves;
        let shop = self.shop();
        for side in [serves, 1 - serves] {
            for (name, weight) in SIDES[side] {
                let weight = if side == serves { weight } else { 0 };
                shop.ask(&format!("set server shop/{name} weight {weight}"));
            }
        }
    }

    /// The operator writes down the configuration that runs, with what the end of the release tells to change: so
    /// every server has the weight that it has now.
    fn as_noted(&mut self, change: &[Value]) {
        let serves = self.serves;
        let shop = self.shop();
        let mut told = shop.loaded.clone();
        for line in change {
            let words: Vec<&str> = line.as_str().unwrap().split_whitespace().collect();
            let at = words.iter().position(|word| *word == "weight").unwrap();
            told.insert(words[1].to_owned(), words[at + 1].parse().unwrap());
        }
        let mut right = true;
        for (side, servers) in SIDES.iter().enumerate() {
            for (name, weight) in servers {
                let due = if side == serves { *weight } else { 0 };
                // Whom the configuration calls `disabled` has no weight in it, and whom the operator holds has none
                // now: they are to have theirs when they are back.
                if !shop.held.contains_key(*name) && !shop.disabled.contains(*name) {
                    right &= told[*name] == due;
                }
                told.insert((*name).to_owned(), due);
            }
        }
        shop.configured = told;
        // What was told before a reload is about another configuration.
        let late = self.reloaded.is_some_and(|at| at > self.last_look());
        assert!(right || late, "the note is not complete: {change:?}\n{}", self.scene());
    }

    fn finish(self, kind: &str) {
        let Self { users, counts, .. } = self;
        let seen = users.finish();
        let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::SeqCst);
        figure(&format!(
            "{kind}: {} requests in {:.0} s, {} lost; {} errors of servers that the harness ended, {} asked again \
             for a kept connection was closed, slowest {:.0} ms; {counts:?}",
            count(&seen.good),
            seen.began.elapsed().as_secs_f64(),
            count(&seen.lost),
            count(&seen.by_the_harness),
            count(&seen.again),
            count(&seen.slowest_us) as f64 / 1e3,
        ));
        assert_eq!(count(&seen.lost), 0, "{kind}: {:?}", seen.scenes.lock().unwrap());
    }
}

/// So many requests over so many switches, whatever happens.
fn users_lose_nothing(kind: &str, rate: u64) {
    let goal = Goal::new();
    let mut row = Row::new(kind, rate);
    while row.users.good() < goal.requests || row.counts.switches < goal.switches {
        let way = match row.chance.below(10) {
            0..=3 => Way::Run,
            4..=6 => Way::Steps,
            7 | 8 => Way::Abort,
            _ => Way::Undo,
        };
        row.release(way, true);
    }
    row.finish(kind);
}

#[test]
fn users_lose_nothing_behind_haproxy_whatever_happens() {
    users_lose_nothing("haproxy", 2000);
}

#[test]
fn whom_people_bring_back_on_the_idle_side_fits_in_and_whom_they_take_out_there_stays_out() {
    let mut row = Row::new("haproxy", 50);
    assert!(row.shop().hold("a1", How::Drain));
    row.one_release();
    // The others of its side are closed, and it gets nobody.
    row.shop().bring_back("a1");
    assert_eq!(row.wrong(), None);
    row.one_release();
    // A reload opens what was closed: whoever is out then was taken out by people.
    row.reload();
    assert!(row.shop().hold("b3", How::Maint));
    let now = row.users.now();
    row.shop().server("b3").hold(now);
    row.one_release();
    assert!(row.shop().held.contains_key("b3"));
    row.finish("one after the other, haproxy");
}

#[test]
fn users_lose_nothing_behind_nginx_whatever_happens() {
    users_lose_nothing("nginx", 1000);
}

#[test]
fn killed_and_three_at_a_time_it_is_all_new_or_all_old_as_recorded() {
    let goal = Goal::new();
    let mut row = Row::new("haproxy", 300);
    while row.counts.kills < goal.kills || row.counts.three == 0 {
        let way = if row.chance.below(2) == 0 { Way::Killed } else { Way::Three };
        row.release(way, false);
    }
    row.finish("killed, behind haproxy");
}
