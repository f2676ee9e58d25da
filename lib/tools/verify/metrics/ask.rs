//! Asks every source in a thread of its own, so that one that hangs holds up none of the others.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::caught::caught;
use crate::metrics::{Ask, Point, SideOf, Source, Trouble, TroubleKind};
use crate::redact::redact;
use crate::world::signal;

/// The pause before the first further attempt, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked whether somebody wants an end.
const GLANCE: Duration = Duration::from_millis(100);
/// How much longer than its limits a source is waited for, which end it: on a busy machine its own word
/// of what went wrong comes late.
const LEEWAY: Duration = Duration::from_secs(10);

/// A window of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The newest one.
    Newest,
    /// What of the newest one lies after the release.
    Since,
    /// The one before.
    Before,
    /// The one of the line.
    Trend,
    /// The one of the usual.
    History,
    /// The one in which a step is looked for.
    Level,
}

/// A window of time, `[from, to)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) step: Duration,
}

/// What is asked of one source.
pub(super) struct Orders {
    pub(super) source: Box<dyn Source>,
    pub(super) parts: Vec<(Part, Span)>,
    /// The time that one value covers.
    pub(super) covers: Duration,
    /// Time for one answer.
    pub(super) limit: Duration,
    /// Attempts, the first one among them.
    pub(super) attempts: u32,
}

/// A window with what came of it.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) part: Part,
    pub(super) span: Span,
    /// As people may see it.
    pub(super) query: String,
    pub(super) points: Result<Vec<Point>, Trouble>,
}

/// What a source answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) reads: Vec<Read>,
    /// The most attempts that one of its windows took.
    pub(super) attempts: u32,
    pub(super) took: Option<Duration>,
    /// Why there is no answer at all.
    pub(super) silent: Option<Silent>,
    /// Where and how it broke off, where that is known.
    pub(super) broke: Option<String>,
}

/// Why there is no answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// It neither answers nor gives up.
    Hangs,
    /// Asking it broke off.
    BrokeOff,
    /// Somebody wants an end.
    Interrupted,
}

/// Asks all of them at once; answers are in the order of the orders.
pub(super) fn all(orders: Vec<Orders>) -> Vec<Answer> {
    let asked: Vec<(Option<Receiver<Answer>>, Instant)> = orders.into_iter().map(begin).collect();
    asked
        .into_iter()
        .map(|(answer, give_up)| match answer {
            Some(answer) => wait(&answer, give_up),
            None => Answer { silent: Some(Silent::BrokeOff), ..Answer::default() },
        })
        .collect()
}

fn begin(orders: Orders) -> (Option<Receiver<Answer>>, Instant) {
    let pause = (FIRST_PAUSE * 2_u32.saturating_pow(orders.attempts.min(16))).min(LONGEST_PAUSE);
    let one = orders.limit.saturating_add(pause).saturating_mul(orders.attempts);
    let parts = u32::try_from(orders.parts.len()).unwrap_or(u32::MAX);
    // A day is longer than anybody waits; later moments may not exist.
    let all = one.saturating_mul(parts).min(Duration::from_secs(86_400));
    let (send, answer) = channel();
    let work = move || {
        // Nobody waits any more after a signal.
        let answer = caught(|| orders.run());
        let broke = |why| Answer { silent: Some(Silent::BrokeOff), broke: Some(why), ..Answer::default() };
        let _ = send.send(answer.unwrap_or_else(broke));
    };
    let begun = std::thread::Builder::new().name("metric".into()).spawn(work).is_ok();
    (begun.then_some(answer), Instant::now() + all + LEEWAY)
}

fn wait(answer: &Receiver<Answer>, give_up: Instant) -> Answer {
    let silent = |why| Answer { silent: Some(why), ..Answer::default() };
    loop {
        if signal::stop_asked() {
            return silent(Silent::Interrupted);
        }
        match answer.recv_timeout(GLANCE) {
            // A signal ends commands too, and that is no fault of theirs.
            Ok(answer) if signal::stop_asked() && answer.reads.iter().any(|r| r.points.is_err()) => {
                return silent(Silent::Interrupted);
            }
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => return silent(Silent::BrokeOff),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= give_up => return silent(Silent::Hangs),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Orders {
    fn run(mut self) -> Answer {
        let started = Instant::now();
        let mut answer = Answer::default();
        // What is live has no sides.
        let side = SideOf { word: "", url: String::new(), release: None };
        for (part, span) in std::mem::take(&mut self.parts) {
            let ask = Ask {
                side: &side,
                from: span.from,
                to: span.to,
                step: span.step,
                covers: self.covers,
                limit: self.limit,
            };
            let (points, attempts) = self.read(&ask);
            answer.attempts = answer.attempts.max(attempts);
            let query = redact(&self.source.query(&ask));
            answer.reads.push(Read { part, span, query, points });
        }
        answer.took = Some(started.elapsed());
        answer
    }

    /// Asks, again where no answer came; says how often.
    fn read(&mut self, ask: &Ask<'_>) -> (Result<Vec<Point>, Trouble>, u32) {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..self.attempts {
            match self.source.points(ask) {
                Err(trouble) if trouble.what == TroubleKind::Unreachable => {
                    signal::sleep(pause);
                }
                other => return (other, attempt),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        (self.source.points(ask), self.attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Breaks(bool);

    impl Source for Breaks {
        fn points(&mut self, _: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
            assert!(!self.0, "in the middle");
            Ok(vec![Point { at_ms: 1, value: 2.0 }])
        }
        fn query(&self, _: &Ask<'_>) -> String {
            "q".into()
        }
    }

    #[test]
    fn a_source_that_breaks_off_is_told_and_holds_up_none_of_the_others() {
        let second = Duration::from_secs(1);
        let span = Span { from: Timestamp::UNIX_EPOCH, to: Timestamp::UNIX_EPOCH + second, step: second };
        let orders = |breaks| Orders {
            source: Box::new(Breaks(breaks)),
            parts: vec![(Part::Newest, span)],
            covers: second,
            limit: Duration::from_secs(600),
            attempts: 1,
        };
        let answers = all(vec![orders(true), orders(false), orders(true)]);
        let silent: Vec<_> = answers.iter().map(|answer| answer.silent).collect();
        assert_eq!(silent, [Some(Silent::BrokeOff), None, Some(Silent::BrokeOff)]);
        assert!(answers[0].broke.as_deref().unwrap().ends_with(": in the middle"), "{:?}", answers[0]);
        assert!(answers[1].reads[0].points.is_ok());
    }
}
