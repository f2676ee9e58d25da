//! The clock of one call: it cannot be set.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::world;

/// The wall clock of the start, and the time that has passed since: a clock that is set in the middle
/// of a bake makes it neither shorter nor longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: Timestamp,
    from: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { began: world::now(), from: Instant::now() }
    }

    /// The time that has passed since the start.
    pub(super) fn passed(&self) -> Duration {
        self.from.elapsed()
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.passed()).unwrap_or(SignedDuration::MAX);
        self.began.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn ms(&self) -> i64 {
        self.now().as_millisecond()
    }
}
