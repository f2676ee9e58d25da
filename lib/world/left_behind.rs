//! A command that outlived the process that started it: a job that was killed leaves its hook at work.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::clock::Clock;

/// A command at the head of a process group of its own, as it was put on record when it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    process: String,
    /// Its number.
    pub pid: u32,
}

impl LeftBehind {
    /// The command that [`super::process_of`] has named; nothing where it does not run any more, or that
    /// cannot be told from here.
    pub fn find(process: &str) -> Option<Self> {
        let pid = process.split(' ').nth(2)?.parse().ok()?;
        let found = Self { process: process.to_owned(), pid };
        found.runs().then_some(found)
    }

    /// Whether it still runs. One that has ended, and that nobody has waited for, does not.
    pub fn runs(&self) -> bool {
        let stat = super::files::read_text(std::path::Path::new(&format!("/proc/{}/stat", self.pid)))
            .unwrap_or_default();
        // The second field is the program's name in brackets, with whatever is in it.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        super::lives(&self.process) == Some(true) && !state.starts_with(['Z', 'X'])
    }

    /// How long it has run.
    pub fn age(&self, clock: &dyn Clock) -> Duration {
        let ticks: u64 = self.process.rsplit(' ').next().and_then(|t| t.parse().ok()).unwrap_or_default();
        let began = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        clock.uptime().saturating_sub(began)
    }

    /// Whether it has ended, or ends within this time.
    pub fn gone_within(&self, clock: &dyn Clock, time: Duration) -> bool {
        let until = clock.uptime().saturating_add(time);
        while self.runs() {
            if clock.uptime() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Asks it and its group to end, and kills them when the grace is over. Whether it is gone.
    pub fn end(&self, clock: &dyn Clock, grace: Duration) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        // It may have ended meanwhile, which is just as well.
        let _ = kill_process_group(pid, Signal::TERM);
        if !self.gone_within(clock, grace) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        self.gone_within(clock, Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    use super::*;
    use crate::world::clock::System;
    use crate::world::process_of;

    fn start(words: &[&str]) -> (Child, String) {
        let child = Command::new(words[0]).args(&words[1..]).process_group(0).spawn().unwrap();
        let process = process_of(child.id());
        (child, process)
    }

    #[test]
    fn a_command_that_was_left_behind_is_found_and_ends() {
        let (mut child, process) = start(&["sleep", "600"]);
        let found = LeftBehind::find(&process).unwrap();
        assert_eq!(found.pid, child.id());
        assert!(found.age(&System) < Duration::from_secs(500));
        assert!(!found.gone_within(&System, Duration::from_millis(50)));
        assert!(found.runs(), "who only waits ends nothing");
        // Nobody waits for the ten minutes that it would take.
        assert!(found.end(&System, Duration::from_secs(60)));
        // This test has not waited for it yet: it counts as ended all the same.
        assert_eq!(LeftBehind::find(&process), None);
        child.wait().unwrap();
        // Another process of the same number is another one.
        let (mut other, process) = start(&["sleep", "600"]);
        let earlier = process.rsplit_once(' ').unwrap().0.to_owned() + " 1";
        assert_eq!(LeftBehind::find(&earlier), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn one_that_ends_by_itself_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let script = "while [ ! -e go ]; do sleep 0.05; done; touch done";
        let (mut child, process) = start(&["sh", "-c", &format!("cd {}; {script}", folder.path().display())]);
        let found = LeftBehind::find(&process).unwrap();
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert!(found.gone_within(&System, Duration::from_secs(600)));
        assert!(folder.path().join("done").exists(), "it came to its end by itself");
        child.wait().unwrap();
    }
}
