//! The only doors to the outside: HTTP (asked and answered), PostgreSQL, S3, commands, files, signals,
//! the CI system, the terminal.

pub mod address;
pub mod background;
pub mod ci;
pub mod clock;
pub mod files;
pub mod http;
pub mod left_behind;
pub mod mounts;
pub mod net;
pub mod postgres;
pub mod s3;
pub mod scratch;
pub mod serve;
pub mod shell;
pub mod signal;
pub mod talk;
pub mod trust;

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The moment, by the wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A number that differs from call to call and from process to process; not for secrets.
pub fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_i128(Timestamp::now().as_nanosecond());
    hasher.finish()
}

/// Time since the machine was started, going on while this process or the machine is stopped. Where
/// the system does not tell, time since this process first asked.
///
/// It is the kernel's own: what stands in `/proc/uptime` may be that of a container.
pub fn uptime() -> Duration {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        if let Ok(time) = Duration::try_from(time) {
            return time;
        }
    }
    FIRST.get_or_init(Instant::now).elapsed()
}

/// What tells the clock of [`uptime`] from all others: this start of this machine, and where a
/// container has an offset of its own that too. Empty where the system does not tell.
pub fn clock() -> String {
    let space = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    match boot() {
        boot if boot.is_empty() => boot,
        boot => format!("{boot} {}", space.display()).trim().to_owned(),
    }
}

/// What tells this start of this machine from all others; empty where the system does not tell.
pub fn boot() -> String {
    files::read_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}

/// What tells this process from all others, for [`lives`].
pub fn process() -> String {
    process_of(std::process::id())
}

/// The same of another process of this machine.
pub fn process_of(pid: u32) -> String {
    format!("{} {} {pid} {}", boot(), pid_space(), started(pid).unwrap_or_default())
}

/// Whether a process that [`process`] named still lives; none where that cannot be told from here:
/// it runs on another machine, or in another container.
pub fn lives(process: &str) -> Option<bool> {
    let words: Vec<&str> = process.split(' ').collect();
    let [boot_id, space, pid, start] = words[..] else { return None };
    if boot_id.is_empty() || space.is_empty() || boot_id != boot() || space != pid_space() {
        return None;
    }
    let pid: u32 = pid.parse().ok()?;
    match started(pid) {
        Some(now) => Some(now == start),
        // Where `/proc` hides the processes of other users, they still take signals, or refuse them.
        None => is_gone(pid).then_some(false),
    }
}

fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

fn pid_space() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default()
}

/// When a process was started, in ticks since the machine was.
fn started(pid: u32) -> Option<String> {
    let text = files::read_text(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    // The second field is the program's name in brackets, with whatever is in it.
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
