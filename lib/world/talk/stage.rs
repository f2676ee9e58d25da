//! What is shown of work under way: a line that changes on a terminal, a word now and then in a log.
//!
//! Everything here is the process's own, as its stderr is: a line that is to stay takes the changing one away
//! first, and a log that has heard nothing for a while hears what the tool is at.

use std::io::Write;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::units::{listed, show_duration};

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::default);

/// So many pieces of work are named in one line.
const NAMED: usize = 3;

#[derive(Default)]
struct Stage {
    bars: MultiProgress,
    /// When the last line was written.
    said: Mutex<Option<Instant>>,
    /// What is under way, by number, in the order in which it began.
    at_work: Mutex<(u64, Vec<(u64, String)>)>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line on a terminal that changes while something goes on.
pub(super) fn bar() -> ProgressBar {
    let bar = STAGE.bars.add(ProgressBar::new_spinner());
    // A line that is wider than the terminal could not be taken away again: it is cut.
    if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Writes something that stays, with the changing line out of the way.
pub(in crate::world) fn stays<T>(write: impl FnOnce() -> T) -> T {
    *lock(&STAGE.said) = Some(Instant::now());
    STAGE.bars.suspend(write)
}

/// A line that stays; a closed stderr is nobody's fault.
pub(super) fn say(line: &str) {
    stays(|| {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    });
}

/// Something that is under way until this is dropped.
#[derive(Debug)]
pub struct AtWork(u64);

impl AtWork {
    /// It begins now.
    pub fn on(what: impl Into<String>) -> Self {
        let mut at_work = lock(&STAGE.at_work);
        at_work.0 += 1;
        let number = at_work.0;
        at_work.1.push((number, what.into()));
        Self(number)
    }

    /// It has come to something else.
    pub fn now(&self, what: &str) {
        let mut at_work = lock(&STAGE.at_work);
        if let Some((_, text)) = at_work.1.iter_mut().find(|(number, _)| *number == self.0) {
            what.clone_into(text);
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        lock(&STAGE.at_work).1.retain(|(number, _)| *number != self.0);
    }
}

/// Says what a tool is at, whenever nothing was said for a while, until it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    over: Arc<(Mutex<bool>, Condvar)>,
    beats: Option<std::thread::JoinHandle<()>>,
}

impl Heartbeat {
    pub(super) fn every(every: Duration, say: impl Fn(&str) + Send + 'static) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (stop, began) = (Arc::clone(&over), Instant::now());
        let beat = move || {
            let mut guard = lock(&stop.0);
            while !*guard {
                let silent = lock(&STAGE.said).unwrap_or(began).max(began).elapsed();
                if silent >= every {
                    say(&beat_line(began.elapsed(), &lock(&STAGE.at_work).1));
                }
                let wait = every.saturating_sub(if silent >= every { Duration::ZERO } else { silent });
                guard = stop.1.wait_timeout(guard, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        // Without the thread the log is silent, as it would be without this.
        Self { over, beats: std::thread::Builder::new().name("heartbeat".into()).spawn(beat).ok() }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        *lock(&self.over.0) = true;
        self.over.1.notify_all();
        if let Some(beats) = self.beats.take() {
            // It ends by itself; a panic in it has cost the log a line.
            let _ = beats.join();
        }
    }
}

fn beat_line(since: Duration, at_work: &[(u64, String)]) -> String {
    let names: Vec<&str> = at_work.iter().map(|(_, what)| what.as_str()).filter(|w| !w.is_empty()).collect();
    let what = if names.is_empty() { String::new() } else { format!(": {}", listed(&names, NAMED)) };
    let since = since.as_secs_f64();
    let since = if since < 1.0 { since } else { since.round() };
    format!("still at work after {}{what}", show_duration(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_names_what_is_under_way_and_counts_the_rest() {
        let at_work = |names: &[&str]| -> Vec<(u64, String)> {
            names.iter().enumerate().map(|(n, name)| (n as u64, (*name).to_owned())).collect()
        };
        let line = |names: &[&str]| beat_line(Duration::from_millis(120_400), &at_work(names));
        assert_eq!(line(&[]), "still at work after 2 min");
        assert_eq!(line(&["", "a"]), "still at work after 2 min: a");
        assert_eq!(line(&["a", "b", "c", "d", "e"]), "still at work after 2 min: a, b, c and 2 more");
    }
}
