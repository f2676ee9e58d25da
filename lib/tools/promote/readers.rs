//! The plan's metric sources while a step is watched: each is asked by a thread of its own, so that one
//! that hangs holds up no verdict on the others.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::caught::caught;
use crate::fault::Fault;
use crate::judge::{Given, Point, Sorter};
use crate::metrics::{
    self, Ask, DEFAULT_STEP, DEFAULT_TIMEOUT, Gives, SideOf, Source, Trouble, TroubleKind, UserRequest,
};
use crate::plan::{Loaded, MetricSpec, Promote};
use crate::redact::redact;

/// Further attempts after a failed one, where the plan does not say.
const RETRIES: u32 = 2;
/// The pause before the first of them, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long after its moment a logged request is taken for final.
const LOG_DELAY: Duration = Duration::from_secs(1);

/// One source and how far it was read.
pub(super) struct Reader {
    spec: MetricSpec,
    gives: Gives,
    /// With its thread while it is asked.
    source: Option<Box<dyn Source>>,
    /// Up to here everything is known, in ms.
    until_ms: i64,
    /// By how much more than its `delay` it has been late so far.
    late: Duration,
    /// Why what it has given so far proves nothing good.
    doubt: Option<String>,
    asked: Option<Asked>,
    /// Whether an answer, or the end of the time for one, has come since it was opened.
    answered: bool,
}

struct Asked {
    answer: Receiver<(Box<dyn Source>, Given, bool)>,
    until_ms: i64,
    give_up: Instant,
}

/// What all sources are asked with.
#[derive(Clone)]
pub(super) struct Frame {
    /// Blue and green.
    pub(super) sides: [SideOf; 2],
    /// When the counting began, in ms.
    pub(super) since_ms: i64,
    /// The length of a bin, in ms.
    pub(super) bin_ms: i64,
    /// How many latencies are kept of a second, for each side.
    pub(super) keep_per_s: f64,
}

/// Opens the sources of a plan. Touches nothing.
///
/// Errors (2): an unknown kind, settings that do not validate.
pub(super) fn open(plan: &Promote, loaded: &Loaded, since_ms: i64) -> Result<Vec<Reader>, Fault> {
    plan.metrics
        .iter()
        .map(|spec| {
            let (kind, source) = metrics::open(spec, loaded)?;
            Ok(Reader {
                spec: spec.clone(),
                gives: kind.gives,
                source: Some(source),
                until_ms: since_ms,
                late: Duration::ZERO,
                doubt: None,
                asked: None,
                answered: false,
            })
        })
        .collect()
}

impl Reader {
    /// Its name in the plan.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it was asked, and has neither answered nor run out of time since it was opened.
    pub(super) fn owes_its_first_answer(&self) -> bool {
        self.asked.is_some() && !self.answered
    }

    /// Whether its answer is due and what it has said so far ends longer ago than `most` beyond the time that
    /// its values need to be final. What has not been heard yet is no good news.
    pub(super) fn is_behind(&self, now_ms: i64, most: Duration) -> bool {
        let step = match self.gives {
            Gives::Requests => Duration::ZERO,
            Gives::Points => self.spec.step.map_or(DEFAULT_STEP, |s| s.0),
        };
        let most = i64::try_from((step + most).as_millis()).unwrap_or(i64::MAX);
        let to_ms = self.end(now_ms, Duration::from_millis(1));
        self.asked.is_some() && (!self.answered || to_ms.saturating_sub(self.until_ms) > most)
    }

    /// Whether it gives single requests of users.
    pub(super) fn reads_requests(&self) -> bool {
        self.gives == Gives::Requests
    }

    /// What was read before this call is known.
    pub(super) fn known_until(&mut self, until_ms: i64) {
        self.until_ms = self.until_ms.max(until_ms);
    }

    /// Begins to ask for what is new, unless an answer is still due.
    pub(super) fn ask(&mut self, frame: &Frame, now_ms: i64) {
        let step = self.spec.step.map_or(DEFAULT_STEP, |s| s.0).max(Duration::from_millis(1));
        let to_ms = self.end(now_ms, step);
        if self.asked.is_some() || to_ms <= self.until_ms {
            return;
        }
        let Some(mut source) = self.source.take() else { return };
        let limit = self.spec.timeout.map_or(DEFAULT_TIMEOUT, |t| t.0);
        let tries = self.spec.retries.unwrap_or(RETRIES) + 1;
        let (send, answer) = channel();
        let (spec, gives, frame, from_ms) = (self.spec.clone(), self.gives, frame.clone(), self.until_ms);
        let work = move || {
            let order = Order { spec: &spec, gives, frame: &frame, from_ms, to_ms, step, limit };
            let read = caught(|| order.read(source.as_mut(), tries));
            let (given, fine) = read.unwrap_or_else(|why| (order.broke(why), false));
            // Nobody waits any more when the bake is over.
            let _ = send.send((source, given, fine));
        };
        let pauses = FIRST_PAUSE * 2_u32.saturating_pow(tries.min(16));
        let give_up = Instant::now() + limit * tries + pauses;
        if std::thread::Builder::new().name("metric".into()).spawn(work).is_ok() {
            self.asked = Some(Asked { answer, until_ms: to_ms, give_up });
        }
    }

    /// What it has answered, at this look: nothing new while an answer is due.
    pub(super) fn take(&mut self) -> Given {
        let (source, doubt) = (self.spec.name.clone(), self.doubt.clone());
        let nothing = Given { source, doubt, ..self.empty() };
        let Some(asked) = &self.asked else {
            if self.source.is_none() {
                return Given { trouble: Some("it could not be asked".into()), ..nothing };
            }
            return nothing;
        };
        let late = asked.give_up <= Instant::now();
        match asked.answer.try_recv() {
            Ok((source, given, fine)) => {
                self.answered = true;
                if fine {
                    self.until_ms = asked.until_ms;
                }
                self.late = source.late();
                if fine {
                    self.doubt.clone_from(&given.doubt);
                }
                self.source = Some(source);
                self.asked = None;
                given
            }
            Err(TryRecvError::Disconnected) => {
                self.asked = None;
                Given { trouble: Some("reading it broke off".into()), ..nothing }
            }
            Err(TryRecvError::Empty) if late => {
                self.answered = true;
                Given { trouble: Some("it does not answer, and does not give up either".into()), ..nothing }
            }
            Err(TryRecvError::Empty) => nothing,
        }
    }

    /// No news, in the shape of its kind.
    fn empty(&self) -> Given {
        match self.gives {
            Gives::Points => Given { points: Some(<[Vec<Point>; 2]>::default()), ..Given::default() },
            Gives::Requests => Given { requests: Some(<[_; 2]>::default()), ..Given::default() },
        }
    }

    /// Up to where values are final, in ms: series in whole steps.
    fn end(&self, now_ms: i64, step: Duration) -> i64 {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match self.gives {
            Gives::Requests => now_ms - ms(self.spec.delay.map_or(LOG_DELAY, |d| d.0) + self.late),
            Gives::Points => {
                let usual = self.spec.step.map_or(DEFAULT_STEP, |s| s.0);
                let settled = now_ms - ms(self.spec.delay.map_or(usual, |d| d.0));
                settled - (settled - self.until_ms).rem_euclid(ms(step).max(1))
            }
        }
    }
}

struct Order<'a> {
    spec: &'a MetricSpec,
    gives: Gives,
    frame: &'a Frame,
    from_ms: i64,
    to_ms: i64,
    step: Duration,
    limit: Duration,
}

impl Order<'_> {
    /// Nothing, for asking it broke off; the next look asks again.
    fn broke(&self, why: String) -> Given {
        Given { source: self.spec.name.clone(), trouble: Some(why), ..Given::default() }
    }

    /// Asks, again where no answer came. Says whether everything came in.
    fn read(&self, source: &mut dyn Source, tries: u32) -> (Given, bool) {
        let query = redact(&source.query(&self.ask(1)));
        let mut given = Given { source: self.spec.name.clone(), query: Some(query), ..Given::default() };
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=tries {
            match self.once(source, &mut given) {
                Ok(()) => {
                    given.until_ms = Some(self.to_ms);
                    return (given, true);
                }
                Err(trouble) if attempt == tries || trouble.what != TroubleKind::Unreachable => {
                    given.trouble = Some(redact(&trouble.message));
                    return (given, false);
                }
                Err(_) => std::thread::sleep(pause),
            }
            pause *= 2;
        }
        (given, false)
    }

    fn once(&self, source: &mut dyn Source, given: &mut Given) -> Result<(), Trouble> {
        match self.gives {
            Gives::Points => {
                let mut sides = <[Vec<Point>; 2]>::default();
                for (number, side) in sides.iter_mut().enumerate() {
                    let points = source.points(&self.ask(number))?;
                    let factor = self.spec.unit.factor();
                    *side = points.into_iter().map(|p| Point(p.at_ms, p.value * factor)).collect();
                }
                given.points = Some(sides);
            }
            Gives::Requests => {
                let seconds = (self.to_ms - self.from_ms) as f64 / 1e3;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds")]
                let keep = (seconds * self.frame.keep_per_s).clamp(64.0, 20_000.0) as usize;
                let sorter = || Sorter::new(self.frame.since_ms, self.frame.bin_ms, keep);
                let mut sorters = [sorter(), sorter()];
                source.requests(&self.frame.sides, &self.ask(1), &mut |request: UserRequest| {
                    if let Some(sorter) = sorters.get_mut(request.side) {
                        sorter.add(request.at_ms, request.latency_ms, request.ok);
                    }
                })?;
                given.requests = Some(sorters.map(Sorter::finish));
                given.doubt = source.doubt().map(|why| redact(&why));
            }
        }
        Ok(())
    }

    fn ask(&self, side: usize) -> Ask<'_> {
        let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
        Ask {
            side: &self.frame.sides[side],
            from: at(self.from_ms),
            to: at(self.to_ms),
            step: self.step,
            covers: self.spec.window.map_or(self.step, |w| w.0),
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Breaks;

    impl Source for Breaks {
        fn points(&mut self, _: &Ask<'_>) -> Result<Vec<metrics::Point>, Trouble> {
            panic!("in the middle")
        }
        fn query(&self, _: &Ask<'_>) -> String {
            "q".into()
        }
    }

    #[test]
    fn a_source_that_breaks_off_is_trouble_and_is_asked_again() {
        let spec: MetricSpec =
            serde_json::from_value(serde_json::json!({"name": "m", "kind": "file", "retries": 0})).unwrap();
        let mut reader = Reader {
            spec,
            gives: Gives::Points,
            source: Some(Box::new(Breaks)),
            until_ms: 0,
            late: Duration::ZERO,
            doubt: None,
            asked: None,
            answered: false,
        };
        let side = |word| SideOf { word, url: "http://a".into(), release: None };
        let frame =
            Frame { sides: [side("blue"), side("green")], since_ms: 0, bin_ms: 1000, keep_per_s: 1.0 };
        for round in 1..=2 {
            reader.ask(&frame, 120_000 * round);
            let given = loop {
                let given = reader.take();
                if reader.asked.is_none() {
                    break given;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            assert!(
                given.trouble.as_deref().is_some_and(|why| why.ends_with(": in the middle")),
                "{given:?}"
            );
            assert_eq!(reader.until_ms, 0, "nothing of it is known");
        }
    }
}
