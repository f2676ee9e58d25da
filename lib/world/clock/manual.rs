//! Time for tests: it stands still until somebody waits or lets it pass, and then jumps.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Clock, Repeating, Work};

/// The one time that all machines of a test share.
#[derive(Clone, Default)]
pub(crate) struct Time(Arc<Mutex<Moment>>);

#[derive(Default)]
struct Moment {
    passed: Duration,
    timers: Vec<Timer>,
    machines: u64,
    given: u64,
}

struct Timer {
    id: u64,
    machine: u64,
    due: Duration,
    /// Taken out while it is at work.
    work: Option<Work>,
    stalled: bool,
}

/// A machine with a wall clock of its own, and threads that may get no processor.
#[derive(Clone)]
pub(crate) struct Machine {
    time: Time,
    number: u64,
    /// By how much its wall clock runs ahead.
    ahead: SignedDuration,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "machine {} after {:?}", self.number, self.uptime())
    }
}

impl Time {
    fn moment(&self) -> MutexGuard<'_, Moment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine whose clock is right.
    pub(crate) fn machine(&self) -> Machine {
        self.machine_ahead(SignedDuration::ZERO)
    }

    /// A machine whose wall clock is wrong by so much.
    pub(crate) fn machine_ahead(&self, ahead: SignedDuration) -> Machine {
        let mut moment = self.moment();
        moment.machines += 1;
        Machine { time: self.clone(), number: moment.machines, ahead }
    }

    /// Lets time pass: whatever is due on any machine is done at its moment, in order.
    pub(crate) fn pass(&self, time: Duration) {
        let until = self.moment().passed + time;
        loop {
            let mut moment = self.moment();
            let due = moment
                .timers
                .iter_mut()
                .filter(|timer| timer.work.is_some() && !timer.stalled && timer.due <= until)
                .min_by_key(|timer| (timer.due, timer.id));
            let Some(timer) = due else { break };
            let (id, at, work) = (timer.id, timer.due, timer.work.take());
            // One that was stalled is late, and time does not go back for it.
            moment.passed = moment.passed.max(at);
            drop(moment);
            let Some(mut work) = work else { continue };
            let next = work();
            let mut moment = self.moment();
            let passed = moment.passed;
            match (next, moment.timers.iter_mut().find(|timer| timer.id == id)) {
                (Some(wait), Some(timer)) => (timer.due, timer.work) = (passed + wait, Some(work)),
                _ => moment.timers.retain(|timer| timer.id != id),
            }
        }
        let mut moment = self.moment();
        moment.passed = moment.passed.max(until);
    }
}

impl Machine {
    /// Its threads get no processor any more, or get one again; what was due meanwhile is done late.
    pub(crate) fn stall(&self, stalled: bool) {
        for timer in self.time.moment().timers.iter_mut().filter(|timer| timer.machine == self.number) {
            timer.stalled = stalled;
        }
    }

    /// For [`super::Clock`] where one is asked for.
    pub(crate) fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }
}

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.uptime()).unwrap();
        Timestamp::from_second(1_800_000_000).unwrap() + passed + self.ahead
    }

    fn uptime(&self) -> Duration {
        self.time.moment().passed
    }

    fn sleep(&self, time: Duration) -> bool {
        self.time.pass(time);
        true
    }

    fn repeat(&self, _: &str, first: Duration, work: Work) -> io::Result<Repeating> {
        let mut moment = self.time.moment();
        moment.given += 1;
        let (id, due) = (moment.given, moment.passed + first);
        moment.timers.push(Timer { id, machine: self.number, due, work: Some(work), stalled: false });
        let time = self.time.clone();
        Ok(Repeating::new(move || time.moment().timers.retain(|timer| timer.id != id)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_due_is_done_at_its_moment_and_late_where_the_machine_stalls() {
        let time = Time::default();
        let (one, other) = (time.machine(), time.machine_ahead(SignedDuration::from_hours(1)));
        let (tell, told) = mpsc::channel();
        let tick = |name: &'static str, machine: &Machine, every: u32| {
            let (tell, at) = (tell.clone(), machine.clone());
            let work = Box::new(move || {
                tell.send((name, at.uptime().as_secs())).unwrap();
                Some(SECOND * every)
            });
            machine.repeat(name, SECOND * every, work).unwrap()
        };
        let (first, _second) = (tick("a", &one, 2), tick("b", &other, 3));
        time.pass(SECOND * 6);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [("a", 2), ("b", 3), ("a", 4), ("a", 6), ("b", 6)]);
        one.stall(true);
        assert!(other.sleep(SECOND * 5));
        one.stall(false);
        time.pass(Duration::ZERO);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [("b", 9), ("a", 11)]);
        drop(first);
        time.pass(SECOND * 3);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [("b", 12)]);
        assert_eq!(other.now().duration_since(one.now()), SignedDuration::from_hours(1));
    }
}
