//! Runs checks: in parallel with a bound, in the order of their needs, each attempt within its time.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::evaluate::{Outcome, evaluate, plain};
use super::{Prepared, Sight, Trouble};
use crate::caught::caught;
use crate::evidence::{Finding, Verdict};
use crate::units::show_duration;
use crate::world::talk::AtWork;
use crate::world::{self, signal};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A kind that keeps its own time says more than "no answer"; it gets this much longer to say it.
const GRACE: Duration = Duration::from_secs(3);
/// An answer that comes later than this after its time is none: it took too long, whatever it says.
const LATE: Duration = Duration::from_secs(1);
/// How long a check that is under way may take to clean up after a signal.
const LAST_ACTS: Duration = Duration::from_secs(10);

/// Runs the checks, at most `parallel` at once, and tells `seen` of each as it ends.
///
/// The findings are in the plan's order. Where a need did not pass, a check is `skipped`; after a
/// signal the rest is `error`.
pub fn run(prepared: &[Prepared], parallel: usize, seen: &(dyn Fn(&Finding) + Sync)) -> Vec<Finding> {
    let board = Board {
        states: Mutex::new(prepared.iter().map(|_| State::Waiting).collect()),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 1..parallel.clamp(1, prepared.len().max(1)) {
            // Where no more threads are to be had, fewer do the work; this one always does.
            let _ = thread::Builder::new().spawn_scoped(scope, || work(prepared, &board, seen));
        }
        work(prepared, &board, seen);
    });
    let states = board.states.into_inner().unwrap_or_else(PoisonError::into_inner);
    let done = states.into_iter().zip(prepared).map(|(state, check)| match state {
        State::Done(finding) => *finding,
        State::Waiting | State::Running => {
            unlooked(check, Verdict::Error, "the check broke before it could say anything")
        }
    });
    done.collect()
}

enum State {
    Waiting,
    Running,
    Done(Box<Finding>),
}

struct Board {
    states: Mutex<Vec<State>>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next check whose needs are settled, and names the first need that did not pass.
    fn take<'a>(&self, prepared: &'a [Prepared]) -> Option<(usize, Option<&'a str>)> {
        let mut states = self.lock();
        loop {
            let ready = (0..prepared.len()).find(|&index| {
                matches!(states[index], State::Waiting)
                    && prepared[index].needs.iter().all(|&need| matches!(states[need], State::Done(_)))
            });
            if let Some(index) = ready {
                states[index] = State::Running;
                let missed = prepared[index]
                    .needs
                    .iter()
                    .find(|&&need| !matches!(&states[need], State::Done(f) if f.verdict == Verdict::Pass));
                return Some((index, missed.map(|&need| prepared[need].name.as_str())));
            }
            if !states.iter().any(|state| matches!(state, State::Waiting)) {
                return None;
            }
            states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, index: usize, finding: Finding) {
        self.lock()[index] = State::Done(Box::new(finding));
        self.changed.notify_all();
    }
}

fn work(prepared: &[Prepared], board: &Board, seen: &(dyn Fn(&Finding) + Sync)) {
    while let Some((index, missed)) = board.take(prepared) {
        let check = &prepared[index];
        let finding = match missed {
            _ if signal::stop_asked() => unlooked(check, Verdict::Error, "not looked at: asked to stop"),
            Some(need) => {
                let message = format!("not looked at: it needs `{need}`, which did not pass");
                unlooked(check, Verdict::Skipped, message)
            }
            None => caught(|| look(check)).unwrap_or_else(|why| unlooked(check, Verdict::Error, why)),
        };
        // What cannot be shown is on record all the same.
        let _ = caught(|| seen(&finding));
        board.put(index, finding);
    }
}

/// A finding without an attempt.
fn begin(check: &Prepared) -> Finding {
    let mut finding = Finding::new(&check.name, check.kind.name, Verdict::Error, world::now());
    finding.severity = check.severity;
    finding.controls.clone_from(&check.controls);
    finding.attempts = 0;
    finding
}

fn unlooked(check: &Prepared, verdict: Verdict, message: impl Into<String>) -> Finding {
    let mut finding = begin(check).says(message);
    finding.verdict = verdict;
    finding
}

/// Looks until it passes or the attempts are used up.
fn look(check: &Prepared) -> Finding {
    let _at_work = AtWork::on(&check.name);
    let mut finding = begin(check);
    let started = Instant::now();
    let mut attempts: Vec<Value> = Vec::new();
    let mut last = loop {
        let number = finding.attempts + 1;
        let (at, begun) = (world::now(), Instant::now());
        let outcome = attempt(check);
        finding.attempts = number;
        attempts.push(json!({
            "attempt": number,
            "started_at": at.to_string(),
            "duration_ms": milliseconds(begun.elapsed()),
            "verdict": outcome.verdict.word(),
            "message": outcome.message,
        }));
        // What could not be looked at (a missing program) does not mend itself.
        let again = matches!(outcome.verdict, Verdict::Fail | Verdict::NoData) && number <= check.retries;
        if !again || !signal::sleep(pause(check.retry_delay, number)) {
            break outcome;
        }
    };
    if let Value::Object(evidence) = &mut last.evidence {
        evidence.insert("attempts".into(), Value::Array(attempts));
    }
    finding.verdict = last.verdict;
    finding.flaky = last.verdict == Verdict::Pass && finding.attempts > 1;
    finding.message = match finding.attempts {
        1 => last.message,
        n if finding.flaky => format!("{}; passed at attempt {n}", last.message),
        n => format!("{}; after {n} attempts", last.message),
    };
    finding.observed = last.observed;
    finding.expected = last.expected;
    finding.value = last.value;
    finding.unit = last.unit.map(str::to_owned);
    finding.duration_ms = milliseconds(started.elapsed());
    finding.evidence = last.evidence;
    finding
}

/// The pause before the attempt after `number`: doubled each time, up to 30 s.
fn pause(first: Duration, number: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(number.saturating_sub(1))).min(LONGEST_PAUSE)
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn attempt(check: &Prepared) -> Outcome {
    match watched(check) {
        Ok(sight) => evaluate(&check.lines, &sight),
        Err(trouble) => Outcome {
            verdict: trouble.verdict,
            observed: None,
            expected: Some(
                check.lines.iter().map(|l| format!("{} {}", l.name, l.shown)).collect::<Vec<_>>().join(", "),
            ),
            value: None,
            unit: None,
            message: plain(&trouble.why, 600),
            evidence: json!({}),
        },
    }
}

/// One attempt on a thread of its own: one that hangs is left behind when its time is over.
fn watched(check: &Prepared) -> Result<Sight, Trouble> {
    let (sender, receiver) = channel();
    let (looker, within) = (Arc::clone(&check.check), check.timeout);
    let thread = thread::Builder::new().name(check.kind.name.into());
    let spawned = thread.spawn(move || {
        // When nobody waits any more, the answer came too late.
        let begun = Instant::now();
        let seen = caught(|| looker.look(within)).unwrap_or_else(|why| Err(Trouble::broken(why)));
        let _ = sender.send(in_time(seen, begun.elapsed(), within));
    });
    if let Err(error) = spawned {
        return Err(Trouble::broken(format!("no thread to look with: {error}")));
    }
    let until = Instant::now() + check.timeout + GRACE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(Duration::from_millis(50))) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => return Err(Trouble::broken("the check broke")),
            Err(RecvTimeoutError::Timeout) if signal::stop_asked() => {
                // A command ends its children when it sees the signal; leaving at once would leave them. No
                // other kind sees it, and there is nothing to wait for.
                if check.kind.name == "command" {
                    let _ = receiver.recv_timeout(LAST_ACTS);
                }
                return Err(Trouble::broken("not looked at to its end: asked to stop"));
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                let time = show_duration(check.timeout.as_secs_f64());
                return Err(Trouble::failed(format!("no answer within {time}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What was seen, where it was seen within the time of the check; a `timeout` is for all that a check does, of however
/// many parts that is.
fn in_time(seen: Result<Sight, Trouble>, took: Duration, within: Duration) -> Result<Sight, Trouble> {
    if seen.is_err() || took <= within + LATE {
        return seen;
    }
    let [took, within] = [took, within].map(|time| show_duration(time.as_secs_f64()));
    Err(Trouble::failed(format!("it took {took}, longer than its timeout of {within}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    use Verdict::{Error, Pass, Skipped};

    /// A check that does this.
    struct Does(fn() -> Sight);

    impl crate::checks::Check for Does {
        fn look(&self, _: Duration) -> Result<Sight, Trouble> {
            Ok((self.0)())
        }
    }

    fn check(name: &str, needs: Vec<usize>, does: fn() -> Sight) -> Prepared {
        let is = crate::expectation::Expectation::parse("1").unwrap();
        let line =
            super::super::evaluate::Line { name: "exit".into(), is, shown: "1".into(), presumed: false };
        Prepared {
            name: name.into(),
            kind: crate::checks::kind("command").unwrap(),
            severity: crate::severity::Severity::Critical,
            timeout: Duration::from_secs(600),
            retries: 1,
            retry_delay: Duration::ZERO,
            needs,
            controls: Vec::new(),
            lines: vec![line],
            check: Arc::new(Does(does)),
        }
    }

    #[test]
    fn one_that_hangs_is_left_behind_when_its_time_is_over() {
        fn hang() -> Sight {
            loop {
                thread::park();
            }
        }
        let mut hangs = check("hangs", Vec::new(), hang);
        (hangs.timeout, hangs.retries) = (Duration::from_millis(1), 0);
        let findings = run(&[hangs], 1, &|_| {});
        assert_eq!((findings[0].verdict, findings[0].attempts), (Verdict::Fail, 1));
        assert!(findings[0].message.contains("no answer within 1 ms"), "{}", findings[0].message);
    }

    #[test]
    fn one_that_breaks_is_an_error_of_its_own_and_all_others_are_seen() {
        let good = || Sight::default().number("exit", 1.0, crate::units::Unit::Plain);
        let checks = [
            check("first", Vec::new(), good),
            check("breaks", Vec::new(), || panic!("at once")),
            check("index", Vec::new(), || {
                let none: Vec<Sight> = Vec::new();
                none.into_iter().next().expect("a row")
            }),
            check("needs it", vec![1], good),
            check("last", Vec::new(), good),
        ];
        for parallel in [1, 2, 16] {
            let told = Mutex::new(0);
            let findings = run(&checks, parallel, &|finding| {
                *told.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                // What shows it may break as well.
                assert!(finding.name != "last", "it cannot be shown");
            });
            let seen: Vec<_> = findings.iter().map(|f| (f.name.as_str(), f.verdict, f.attempts)).collect();
            let expected = [
                ("first", Pass, 1),
                ("breaks", Error, 1),
                ("index", Error, 1),
                ("needs it", Skipped, 0),
                ("last", Pass, 1),
            ];
            assert_eq!(seen, expected, "{parallel}");
            assert_eq!(*told.lock().unwrap_or_else(PoisonError::into_inner), checks.len());
            let said = &findings[1].message;
            assert!(said.contains("a fault of Trapkey itself at lib/checks/run.rs:"), "{said}");
            assert!(said.ends_with(": at once"), "{said}");
        }
    }

    #[test]
    fn what_is_seen_too_late_is_not_seen() {
        let within = Duration::from_secs(5);
        assert!(in_time(Ok(Sight::default()), within + LATE, within).is_ok());
        assert!(in_time(Ok(Sight::default()), within + LATE + Duration::from_millis(1), within).is_err());
        let late = in_time(Ok(Sight::default()), Duration::from_secs(7), within).unwrap_err();
        assert_eq!(late.why, "it took 7 s, longer than its timeout of 5 s");
        let own = in_time(Err(Trouble::failed("its own words")), within * 3, within).unwrap_err();
        assert_eq!(own.why, "its own words");
    }

    #[test]
    fn pauses_double_and_have_a_limit() {
        let first = Duration::from_millis(500);
        assert_eq!(pause(first, 1), Duration::from_millis(500));
        assert_eq!(pause(first, 3), Duration::from_secs(2));
        assert_eq!(pause(first, 40), LONGEST_PAUSE);
    }
}
