//! INT, TERM and HUP: the tool is asked to stop, writes its document, and leaves a state to go on from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// Whether nothing may end this process now: users are on their way back.
static STEADY: AtomicBool = AtomicBool::new(false);

/// The exit status of a process that a second signal has ended.
const ENDED: i32 = 130;

/// Begins to listen. The first signal asks, the same INT or TERM once more ends the process at once, unless it is
/// [`steady`].
///
/// A CI system that cancels a job sends INT, some seconds later TERM, and kills in the end: that is one wish, and the
/// time between them is for the document.
/// A terminal that closes sends HUP, the shell in it often a second one, and the session's end a TERM beside it: nobody
/// has lost patience then, so HUP only asks. Where it was to be ignored before (`nohup`), it still is.
pub fn listen() {
    let flag = ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    let mut heeded = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        heeded.push(SIGHUP);
    }
    for signal in &heeded {
        // Without the handler the signal ends the process, as it would without this program.
        let _ = signal_hook::flag::register(*signal, Arc::clone(flag));
    }
    let Ok(mut signals) = Signals::new(&heeded) else { return };
    let waiting = move || {
        let mut asked = Vec::new();
        for signal in signals.forever().filter(|signal| *signal != SIGHUP) {
            if asked.contains(&signal) && !STEADY.load(Ordering::SeqCst) {
                signal_hook::low_level::exit(ENDED);
            }
            asked.push(signal);
        }
    };
    // Without the thread a second signal is like the first one.
    let _ = std::thread::Builder::new().name("signals".into()).spawn(waiting);
}

/// From now on no signal ends this process, or again a second one does.
pub fn steady(steady: bool) {
    STEADY.store(steady, Ordering::SeqCst);
}

/// Notes signals and goes on whatever comes, for a process whose end would leave something half done.
pub fn outlast() {
    steady(true);
    let flag = ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // Without the handler the signal ends the process, as it would without this program.
        let _ = signal_hook::flag::register(signal, Arc::clone(flag));
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = super::files::read_text(std::path::Path::new("/proc/self/status")).unwrap_or_default();
    ignores(&status, signal)
}

fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    u32::try_from(signal - 1).is_ok_and(|bit| mask >> bit & 1 == 1)
}

/// Whether a signal asked to stop.
pub fn stop_asked() -> bool {
    ASKED.get().is_some_and(|flag| flag.load(Ordering::SeqCst))
}

/// Sleeps, but wakes within 20 ms of a signal. Returns whether the time passed whole.
pub fn sleep(time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        if stop_asked() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_has_ignored_is_known() {
        let status = |mask: &str| format!("Name:\tpromote\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
        assert!(ignores(&status("0000000000000001"), SIGHUP));
        assert!(ignores(&status("0000000000001001"), SIGHUP));
        assert!(!ignores(&status("0000000000001000"), SIGHUP) && !ignores("", SIGHUP));
    }
}
