//! Commands that outlived the process that started them: a job that was killed leaves its hook at work.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::clock::Clock;

/// A command at the head of its process group, with the variable that tells whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// The process at the head of the group.
    pub pid: u32,
    /// When it began, in ticks since the machine was started: a number is given to others again.
    started: String,
}

/// The commands of this machine that still run and were started with this variable. What they started
/// themselves and moved into a session of its own, such as a server, is none of them.
///
/// Processes of other users, other containers and other machines are not seen.
pub fn with_variable(name: &str, value: &str) -> Vec<LeftBehind> {
    let wanted = format!("{name}={value}");
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let folder = Path::new("/proc").join(pid.to_string());
            let variables = std::fs::read(folder.join("environ")).ok()?;
            variables.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()).then_some(())?;
            let started = head_of_a_group(pid)?;
            Some(LeftBehind { pid, started })
        })
        .collect()
}

/// When a process began, where it is at the head of a group in the session of whoever started it, and
/// has not ended.
fn head_of_a_group(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, with whatever is in it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, group, session) = (*fields.first()?, *fields.get(2)?, *fields.get(3)?);
    let own = pid.to_string();
    let alive = !matches!(state, "Z" | "X");
    (alive && group == own && session != own).then(|| fields.get(19).map(|ticks| (*ticks).to_owned()))?
}

impl LeftBehind {
    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        head_of_a_group(self.pid).as_ref() == Some(&self.started)
    }

    /// How long it has run.
    pub fn age(&self, clock: &dyn Clock) -> Duration {
        let ticks: u64 = self.started.parse().unwrap_or_default();
        let began = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        clock.uptime().saturating_sub(began)
    }

    /// Waits until it has ended, at most so long; then asks it to end, and kills it when the grace is
    /// over. Whether it is gone: `go_on` is asked again and again, and where it says no nothing is ended.
    pub fn see_out(
        &self,
        clock: &dyn Clock,
        wait: Duration,
        grace: Duration,
        go_on: &dyn Fn() -> bool,
    ) -> bool {
        let gone_within = |time: Duration, go_on: &dyn Fn() -> bool| {
            let until = clock.uptime() + time;
            while self.runs() && clock.uptime() < until && go_on() {
                std::thread::sleep(Duration::from_millis(50));
            }
            !self.runs()
        };
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        if gone_within(wait, go_on) || !go_on() {
            return !self.runs();
        }
        // It may have ended meanwhile, which is just as well.
        let _ = kill_process_group(pid, Signal::TERM);
        if !gone_within(grace, &|| true) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        gone_within(Duration::from_secs(10), &|| true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    use super::*;
    use crate::world::clock::System;

    fn start(words: &[&str], value: &str) -> Child {
        Command::new(words[0]).args(&words[1..]).env("TRAPKEY_TEST", value).process_group(0).spawn().unwrap()
    }

    #[test]
    fn a_command_that_was_left_behind_is_found_by_its_variable_and_ends() {
        let own = format!("{:x}", crate::world::unique());
        let mut child = start(&["sleep", "600"], &own);
        let found = with_variable("TRAPKEY_TEST", &own);
        assert_eq!(found.iter().map(|one| one.pid).collect::<Vec<_>>(), [child.id()]);
        assert!(with_variable("TRAPKEY_TEST", "another").is_empty());
        assert!(found[0].age(&System) < Duration::from_secs(500));
        // Nobody waits for the ten minutes that it would take.
        assert!(!found[0].see_out(&System, Duration::from_secs(60), Duration::ZERO, &|| false));
        assert!(found[0].runs(), "who has no time to wait ends nothing");
        assert!(found[0].see_out(&System, Duration::ZERO, Duration::from_secs(60), &|| true));
        assert!(!found[0].runs());
        child.wait().unwrap();
    }

    #[test]
    fn one_that_ends_by_itself_is_waited_for_and_a_server_that_it_started_is_let_be() {
        let (own, folder) = (format!("{:x}", crate::world::unique()), tempfile::tempdir().unwrap());
        let mark = folder.path().join("done");
        let script = "setsid sleep 600 & echo $! >server; while [ ! -e go ]; do sleep 0.05; done; touch done";
        let script = format!("cd {}; {script}", folder.path().display());
        let mut child = start(&["sh", "-c", &script], &own);
        let found = with_variable("TRAPKEY_TEST", &own);
        std::fs::write(folder.path().join("go"), "").unwrap();
        // The zombie counts as ended: this test has not waited for it yet.
        assert!(found[0].see_out(&System, Duration::from_secs(600), Duration::ZERO, &|| true));
        assert!(mark.exists(), "it came to its end by itself");
        assert!(with_variable("TRAPKEY_TEST", &own).is_empty(), "the server is not taken for a hook");
        child.wait().unwrap();
        let server = std::fs::read_to_string(folder.path().join("server")).unwrap();
        assert!(Command::new("kill").arg(server.trim()).status().unwrap().success(), "and it still runs");
    }
}
