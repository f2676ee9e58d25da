//! The clock that whatever depends on time is given: leases, locks, looks, waits.
//!
//! The product runs by [`System`]. A test runs by one that jumps, stalls or runs ahead, so that an hour
//! is one call and no verdict depends on how fast the machine is.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;

use super::{signal, uptime};
use crate::caught::caught;

#[cfg(test)]
pub(crate) mod manual;

/// What is done again and again: gives how long to wait before the next time, or nothing when it is over.
pub type Work = Box<dyn FnMut() -> Option<Duration> + Send>;

/// Tells the time, and lets it pass.
pub trait Clock: Send + Sync + Debug {
    /// The moment, by the wall clock. It can be set, and that of another machine may differ.
    fn now(&self) -> Timestamp;
    /// Time since the machine was started. It cannot be set, and goes on while this process or the
    /// machine is stopped.
    fn uptime(&self) -> Duration;
    /// Waits. False when a signal asked to stop in between.
    fn sleep(&self, time: Duration) -> bool;
    /// Does `work` beside us, for the first time after `first`.
    ///
    /// Errors: the system gives no thread.
    fn repeat(&self, name: &str, first: Duration, work: Work) -> io::Result<Repeating>;
}

/// Work that is done again and again until this is dropped.
pub struct Repeating(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Repeating {
    /// `end` ends it, and returns when none of it is under way.
    pub(crate) fn new(end: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(end)))
    }
}

impl Debug for Repeating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Repeating")
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl System {
    /// The clock of everything that ships.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for System {
    fn now(&self) -> Timestamp {
        super::now()
    }

    fn uptime(&self) -> Duration {
        uptime()
    }

    fn sleep(&self, time: Duration) -> bool {
        signal::sleep(time)
    }

    fn repeat(&self, name: &str, first: Duration, work: Work) -> io::Result<Repeating> {
        let ended = Arc::new(Ended::default());
        let seen = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || seen.work(first, work))?;
        Ok(Repeating::new(move || ended.end(thread)))
    }
}

/// How long what broke rests before it is done again.
const AFTER_A_FAULT: Duration = Duration::from_millis(100);

/// Whether a thread that repeats something is to end.
#[derive(Debug, Default)]
struct Ended {
    flag: Mutex<bool>,
    told: Condvar,
}

impl Ended {
    fn flag(&self) -> MutexGuard<'_, bool> {
        self.flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, first: Duration, mut work: Work) {
        let mut wait = first;
        loop {
            let waited = self.told.wait_timeout_while(self.flag(), wait, |ended| !*ended);
            let ended = *waited.unwrap_or_else(PoisonError::into_inner).0;
            if ended {
                return;
            }
            match caught(&mut work) {
                Ok(Some(next)) => wait = next,
                Ok(None) => return,
                // What must be done again and again, such as renewing a lease, is tried again.
                Err(_) => wait = wait.max(AFTER_A_FAULT),
            }
        }
    }

    fn end(&self, thread: JoinHandle<()>) {
        *self.flag() = true;
        self.told.notify_all();
        // One that panicked does nothing any more either.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn work_is_repeated_until_it_says_so_or_the_handle_is_dropped() {
        let (tell, told) = mpsc::channel();
        let mut left = 3;
        let short = Duration::from_millis(1);
        let work = Box::new(move || {
            left -= 1;
            tell.send(left).unwrap();
            (left > 0).then_some(short)
        });
        let repeating = System.repeat("test", short, work).unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [2, 1, 0], "it ends by itself");
        drop(repeating);

        let (tell, told) = mpsc::channel();
        let hour = Duration::from_secs(3600);
        let work = Box::new(move || {
            tell.send(()).unwrap();
            Some(hour)
        });
        let repeating = System.repeat("test", Duration::ZERO, work).unwrap();
        told.recv().unwrap();
        // It is in its wait of an hour, and ends at once.
        drop(repeating);
        assert!(told.recv().is_err());
    }

    #[test]
    fn the_time_goes_on() {
        let (wall, up) = (System.now(), System.uptime());
        assert!(System.sleep(Duration::from_millis(5)));
        assert!(System.uptime() >= up + Duration::from_millis(5));
        assert!(System.now() >= wall);
    }
}
