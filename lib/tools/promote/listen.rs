//! The control calls over HTTP, for hosts that no CI system calls: Alertmanager's webhook, and people's.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::approve;
use super::machine::State;
use super::orders;
use super::record::{Record, phase};
use super::{by_state, say, store};
use crate::evidence::{PromoteBody, name_release};
use crate::fault::{Exit, Fault};
use crate::job::{self, Job};
use crate::state::{Ask, Asked};
use crate::world;
use crate::world::serve::{Answer, Desk, Head, Limits, serve};
use crate::world::talk::Mark;

mod alerts;
mod ledger;
mod token;

use alerts::{Alert, Payload, Wish, plain};
use ledger::Turn;
use token::Token;

const LIMITS: Limits =
    Limits { body: 64 * 1024, time: Duration::from_secs(5), at_once: 64, waiting: 256, per_peer: 128 };

/// What can be called, and how.
const CALLS: &[(&str, &str)] = &[
    ("/alertmanager", "POST"),
    ("/abort", "POST"),
    ("/approve", "POST"),
    ("/pause", "POST"),
    ("/resume", "POST"),
    ("/status", "GET"),
    ("/validate", "GET"),
];

/// The header by which a caller says who it is.
const ACTOR: &str = "trapkey-actor";

/// Listens for control calls until a signal asks to stop. An abort that is under way is carried out.
///
/// Errors: there is no token, or it is too short, or the plan does not validate (2); the address
/// cannot be listened on (4).
pub fn listen(job: &Job, on: SocketAddr) -> Result<Exit, Fault> {
    orders::checked_course(job)?;
    let token = Token::read()?;
    let here = || Fault::infrastructure("nobody can be listened to").place(on.to_string());
    let listener = TcpListener::bind(on)
        .map_err(|e| here().cause(e).help("choose another address with --on, or end what listens there"))?;
    let at = listener.local_addr().map_err(|e| here().cause(e))?;
    if !at.ip().is_loopback() {
        job.talk().line(
            Mark::Warn,
            "others than this machine can call, and the token travels in the clear: put a proxy with TLS before it",
        );
    }
    job.talk().line(Mark::Step, &format!("listening on http://{at} for {}", job.release.environment));
    let counter =
        Counter { job: Mutex::new(job.clone()), token, turn: Mutex::new(()), abort: Mutex::new(None) };
    let done = serve(&listener, LIMITS, &counter);
    counter.wait_for_abort();
    done.map(|()| Exit::Pass)
}

/// Who answers the calls.
struct Counter {
    /// The plan as it could be read last.
    job: Mutex<Job>,
    token: Token,
    /// One call at a time changes something.
    turn: Mutex<()>,
    /// The abort that is being carried out.
    abort: Mutex<Option<JoinHandle<()>>>,
}

impl Desk for Counter {
    fn admit(&self, head: &Head) -> Result<(), Answer> {
        if !self.token.is_shown_by(head.header("authorization")) {
            return Err(Answer::refusal(401, "a bearer token is needed, the right one")
                .with("www-authenticate", "Bearer realm=\"trapkey\""));
        }
        match CALLS.iter().find(|(path, _)| *path == head.path) {
            None => {
                let known: Vec<String> =
                    CALLS.iter().map(|(path, method)| format!("{method} {path}")).collect();
                Err(Answer::refusal(404, format!("there is only {}", known.join(", "))))
            }
            Some((_, method)) if *method != head.method => {
                Err(Answer::refusal(405, format!("{} takes {method}", head.path)).with("allow", *method))
            }
            Some(_) => Ok(()),
        }
    }

    fn goes_first(&self, head: &Head) -> bool {
        head.method == "POST"
    }

    fn answer(&self, head: &Head, body: &[u8]) -> Answer {
        // Whoever only looks waits for nobody.
        let _turn = (head.method == "POST").then(|| locked(&self.turn));
        let done = match head.path.as_str() {
            "/status" => self.status(),
            "/validate" => self.validate(),
            "/alertmanager" => self.alertmanager(body),
            "/approve" => self.approve(&who(head), body),
            path => reason_in(body).and_then(|why| {
                let asks = Asks { who: who(head), why };
                match path {
                    "/abort" => self.abort(&asks),
                    "/pause" => self.pause(&asks),
                    _ => self.resume(&asks),
                }
            }),
        };
        done.unwrap_or_else(|fault| {
            locked(&self.job).talk().line(Mark::Warn, &format!("{}: {}", head.path, fault.line()));
            refused(&fault)
        })
    }
}

/// Somebody, and why.
struct Asks {
    who: String,
    why: Option<String>,
}

impl Asks {
    fn about(&self, record: &Record) -> Asked {
        let (epoch, promotion) = (record.promotion.epoch, record.id.clone());
        Asked { epoch, promotion, who: self.who.clone(), at: world::now().to_string(), why: self.why.clone() }
    }
}

impl Counter {
    /// The plan as it stands now. One that cannot be read any more must not be in the way of an abort:
    /// then the last one counts.
    fn job(&self) -> Job {
        let mut last = locked(&self.job);
        let call = job::Call { started_at: world::now(), ..last.call.clone() };
        match Job::open_without_artifacts(call) {
            Ok(job) if job.release.environment == last.release.environment => *last = job,
            Ok(_) => {}
            Err(fault) => {
                let line = format!("the plan of before counts, for now it cannot be read: {}", fault.line());
                last.talk().line(Mark::Warn, &line);
            }
        }
        last.clone()
    }

    /// The same for an abort, which goes by what the promotion began with: the variables of this host may be those of
    /// another release.
    fn job_of_then(&self) -> Job {
        let last = self.job();
        let call = job::Call { started_at: world::now(), ..last.call.clone() };
        by_state::open(call).unwrap_or(last)
    }

    fn status(&self) -> Result<Answer, Fault> {
        let job = self.job();
        let Some(record) = newest(&job)? else { return Ok(Answer::new(200, json!({"release": null}))) };
        let paused = store(&job)?.asked(Ask::Pause, record.promotion.epoch, record.id.as_deref());
        Ok(Answer::new(
            200,
            json!({
                "release": record.release,
                "stands": phase(&record.state, &record.course),
                "paused": paused,
                "promotion": record.promotion,
            }),
        ))
    }

    fn validate(&self) -> Result<Answer, Fault> {
        let call = job::Call { started_at: world::now(), ..locked(&self.job).call.clone() };
        let job = Job::open_without_artifacts(call)?;
        let course = orders::checked_course(&job)?;
        Ok(Answer::new(200, json!({"plan": job.loaded.reference, "valid": true, "course": course})))
    }

    fn pause(&self, asks: &Asks) -> Result<Answer, Fault> {
        let job = self.job();
        let record = under_way(&job)?;
        let place = store(&job)?;
        let asked = asks.about(&record);
        place.revise_asked(Ask::Pause, |found| unless_asked(found.as_ref(), &asked))?;
        let what = with_reason("pause", &record, asks.why.as_deref());
        ledger::note(&job, &place, &asks.who, &what, None)?;
        Ok(did("pause", &record, "it holds before its next step, and is still judged"))
    }

    fn resume(&self, asks: &Asks) -> Result<Answer, Fault> {
        let job = self.job();
        let record = under_way(&job)?;
        let place = store(&job)?;
        place.forget(Ask::Pause)?;
        let what = with_reason("resume", &record, asks.why.as_deref());
        ledger::note(&job, &place, &asks.who, &what, None)?;
        Ok(did("resume", &record, "it may go on"))
    }

    /// Takes an approval as `promote approve` wrote it: what counts is whose key has signed it, not who
    /// brings it.
    fn approve(&self, who: &str, body: &[u8]) -> Result<Answer, Fault> {
        let job = self.job();
        let what = approve::receive(&job, body)?;
        let place = store(&job)?;
        ledger::note(&job, &place, who, &what, None)?;
        Ok(Answer::new(200, json!({"did": "approve", "says": what})))
    }

    fn abort(&self, asks: &Asks) -> Result<Answer, Fault> {
        let job = self.job_of_then();
        let record = newest(&job)?.ok_or_else(|| nothing(&job))?;
        if matches!(record.state, State::RolledBack { .. }) {
            return Ok(Answer::new(200, json!({"did": "nothing", "why": "it is rolled back already"})));
        }
        orders::may_be_called_off(&job, &record)?;
        self.call_off(&job, record, asks)
    }

    /// Leaves the request for whoever works, and carries it out where nobody does.
    fn call_off(&self, job: &Job, record: Record, asks: &Asks) -> Result<Answer, Fault> {
        let place = store(job)?;
        let asked = match place.asked(Ask::Abort, record.promotion.epoch, record.id.as_deref()) {
            Some(before) => before,
            None => asks.about(&record),
        };
        // On a full disk the traffic goes back all the same; then the carrying out tells of it.
        if let Err(fault) = orders::leave(&place, Ask::Abort, &asked, &record) {
            job.talk().line(Mark::Warn, &fault.line());
        }
        let answer = did("abort", &record, "all traffic goes back to the old side");
        let what = with_reason("abort", &record, asks.why.as_deref());
        let mut under_way = locked(&self.abort);
        if under_way.as_ref().is_none_or(JoinHandle::is_finished) {
            if let Err(fault) = ledger::note(job, &place, &asks.who, &what, None) {
                job.talk().line(Mark::Warn, &fault.line());
            }
            let abort_here = say::command(job, "abort");
            let job = job.clone();
            let spawned = std::thread::Builder::new()
                .name("abort".into())
                .spawn(move || carry_out(&job, &record, &asked));
            *under_way = Some(spawned.map_err(|e| {
                Fault::infrastructure("the abort cannot be carried out from here")
                    .cause(e)
                    .help(format!("it is left for the job that works; where there is none: {abort_here}"))
            })?);
        }
        Ok(Answer { status: 202, ..answer })
    }

    fn wait_for_abort(&self) {
        if let Some(abort) = locked(&self.abort).take() {
            // Its own words have been said; how it ended is on record.
            let _ = abort.join();
        }
    }

    /// Does what the alerts ask for. An abort comes before everything else.
    fn alertmanager(&self, body: &[u8]) -> Result<Answer, Fault> {
        let payload = match Payload::read(body) {
            Ok(payload) => payload,
            Err(why) => return Ok(Answer::refusal(400, why)),
        };
        let job = self.job_of_then();
        if payload.left_out > 0 {
            let line = format!("{} alerts were left out of a webhook: raise `max_alerts`", payload.left_out);
            job.talk().line(Mark::Warn, &line);
        }
        let found = newest(&job)?;
        let (mut said, mut aborts, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for alert in &payload.alerts {
            match wish(alert, &job, found.as_ref()) {
                Wish::Nothing(why) => said.push(ignored(&job, alert, &why)),
                Wish::Abort => aborts.push(alert),
                wish => rest.push((alert, wish)),
            }
        }
        let mut status = 200;
        if let Some(record) = &found {
            for alert in aborts {
                match orders::may_be_called_off(&job, record) {
                    Ok(()) => {
                        status = self.call_off(&job, record.clone(), &asks(alert))?.status;
                        said.push(json!({"alert": alert.name(), "did": "abort"}));
                    }
                    // Alertmanager counts what it was refused, so that people hear of it.
                    Err(fault) => {
                        status = 409;
                        said.push(ignored(&job, alert, &fault.line()));
                    }
                }
            }
            if !rest.is_empty() {
                hold_or_let_go(&job, record, &rest, &mut said)?;
            }
        }
        Ok(Answer::new(status, json!({"alerts": said})))
    }
}

/// Pauses for every alert that is new, and goes on when the last one that paused is over. A pause of
/// somebody else stays, and what a person has let go on is not held again by the same alert.
fn hold_or_let_go(
    job: &Job,
    record: &Record,
    wishes: &[(&Alert, Wish)],
    said: &mut Vec<Value>,
) -> Result<(), Fault> {
    let (place, epoch) = (store(job)?, record.promotion.epoch);
    let mut pausing = ledger::pausing(&place, epoch)?;
    let mut let_go = false;
    for (alert, wish) in wishes {
        let did = match ledger::heed(&mut pausing, epoch, alert, wish) {
            Turn::Known => "nothing",
            Turn::Holds => "pause",
            Turn::LetsGo => "over",
        };
        said.push(json!({"alert": alert.name(), "did": did}));
        let asks = asks(alert);
        if did == "pause" {
            let asked = asks.about(record);
            place.revise_asked(Ask::Pause, |found| unless_asked(found.as_ref(), &asked))?;
        }
        if did != "nothing" {
            let what = with_reason(did, record, asks.why.as_deref());
            ledger::note(job, &place, &asks.who, &what, Some(&pausing))?;
        }
        let_go |= *wish == Wish::Over;
    }
    if let_go && pausing.is_empty() {
        let ours = |asked: &&Asked| asked.epoch == epoch && asked.who.starts_with(ALERTMANAGER);
        place.revise_asked(Ask::Pause, |found| {
            found.as_ref().filter(ours).map(|asked| Asked { epoch: 0, ..asked.clone() })
        })?;
    }
    Ok(())
}

/// How those are named who ask by an alert.
const ALERTMANAGER: &str = "alertmanager: ";

fn asks(alert: &Alert) -> Asks {
    Asks { who: format!("{ALERTMANAGER}{}", alert.name()), why: alert.says() }
}

/// What an alert asks for of the release that is under way, where there is one.
fn wish(alert: &Alert, job: &Job, record: Option<&Record>) -> Wish {
    let over = |r: &Record| r.state.finished() || r.state.serves();
    match (alert.wish(record.map_or(&job.release, |r| &r.release)), record) {
        (Wish::Nothing(why), _) => Wish::Nothing(why),
        (_, None) => Wish::Nothing("nothing was ever promoted".into()),
        (_, Some(r)) if over(r) => {
            Wish::Nothing(format!("{} is finished: {}", name_release(&r.release), phase(&r.state, &r.course)))
        }
        (wish, Some(_)) => wish,
    }
}

fn ignored(job: &Job, alert: &Alert, why: &str) -> Value {
    job.talk().line(Mark::Step, &format!("{ALERTMANAGER}{}: ignored, {why}", alert.name()));
    json!({"alert": alert.name(), "did": "nothing", "why": why})
}

/// A request, unless the same was asked of this promotion before.
fn unless_asked(found: Option<&Asked>, asked: &Asked) -> Option<Asked> {
    found.is_none_or(|f| (f.epoch, &f.promotion) != (asked.epoch, &asked.promotion)).then(|| asked.clone())
}

/// Does what `promote abort` does, and puts an error on record as it does.
fn carry_out(job: &Job, record: &Record, asked: &Asked) {
    if let Err(fault) = orders::call_off(job, record, asked) {
        job::record_fault::<PromoteBody>(&job.call, Some(job), &fault);
        job.talk().error(&fault.to_string());
    }
}

fn newest(job: &Job) -> Result<Option<Record>, Fault> {
    Ok(orders::newest(job)?.map(|saved| saved.record))
}

fn under_way(job: &Job) -> Result<Record, Fault> {
    let record = newest(job)?.ok_or_else(|| nothing(job))?;
    orders::same_service(job, &record)?;
    if record.state.finished() || record.state.serves() {
        return Err(orders::finished(job, &record));
    }
    Ok(record)
}

fn nothing(job: &Job) -> Fault {
    Fault::refused(format!("nothing was ever promoted to {}", job.release.environment))
}

fn with_reason(what: &str, record: &Record, why: Option<&str>) -> String {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    format!("{what} of {}{why}", name_release(&record.release))
}

fn did(what: &str, record: &Record, says: &str) -> Answer {
    Answer::new(200, json!({"did": what, "release": name_release(&record.release), "says": says}))
}

/// Who calls: the name in the header, or where the call comes from.
fn who(head: &Head) -> String {
    let named = head.header(ACTOR).map(|name| plain(name, 64)).filter(|name| !name.is_empty());
    let from = || head.peer.map_or_else(|| "unknown".into(), |peer| peer.to_string());
    format!("http: {}", named.unwrap_or_else(from))
}

/// The reason in a body: `{"reason": "…"}`, or nothing.
///
/// Errors (2): the body is something else.
fn reason_in(body: &[u8]) -> Result<Option<String>, Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Said {
        reason: Option<String>,
    }
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let said: Said = serde_json::from_slice(body).map_err(|e| {
        Fault::usage("the body is not understood")
            .cause(e)
            .help("leave it empty, or send {\"reason\": \"…\"}")
    })?;
    Ok(said.reason.map(|why| plain(&why, 300)).filter(|why| !why.is_empty()))
}

fn refused(fault: &Fault) -> Answer {
    let status = match fault.exit {
        Exit::Usage => 422,
        Exit::Infrastructure => 503,
        _ => 409,
    };
    Answer::new(
        status,
        json!({"error": fault.what, "at": fault.place, "cause": fault.cause, "help": fault.help}),
    )
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
