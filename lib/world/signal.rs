//! INT and TERM: the tool is asked to stop, writes its document, and leaves a state to go on from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Begins to listen. The first signal asks, a second one ends the process at once.
pub fn listen() {
    let flag = ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        // Without the handler the signal ends the process, as it would without this program.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag));
        let _ = signal_hook::flag::register(signal, Arc::clone(flag));
    }
}

/// Notes signals and goes on whatever comes, for a process whose end would leave something half done.
pub fn outlast() {
    let flag = ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // Without the handler the signal ends the process, as it would without this program.
        let _ = signal_hook::flag::register(signal, Arc::clone(flag));
    }
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
