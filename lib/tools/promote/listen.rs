//! The control calls over HTTP, for hosts that no CI system calls: Alertmanager's webhook, and people's.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::machine::State;
use super::orders;
use super::record::{Record, phase};
use super::store;
use crate::evidence::{PromoteBody, name_release};
use crate::fault::{Exit, Fault};
use crate::job::{self, Job};
use crate::redact;
use crate::state::{Ask, Asked, Store};
use crate::world;
use crate::world::serve::{Answer, Desk, Head, Limits, serve};
use crate::world::talk::Mark;

mod alerts;

use alerts::{Alert, Payload, Wish, plain};

const LIMITS: Limits = Limits { body: 64 * 1024, time: Duration::from_secs(5), at_once: 64 };

/// What can be called, and how.
const CALLS: &[(&str, &str)] = &[
    ("/alertmanager", "POST"),
    ("/abort", "POST"),
    ("/pause", "POST"),
    ("/resume", "POST"),
    ("/status", "GET"),
    ("/validate", "GET"),
];

/// The header by which a caller says who it is.
const ACTOR: &str = "trapkey-actor";

/// The document of what was called for.
const RECORD: &str = "calls.json";
const RECORDED: usize = 100;

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

/// The secret that callers share with us; only its digest is kept.
struct Token([u8; 32]);

/// Fewer could be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Token {
    /// The token of `TRAPKEY_TOKEN`, or of the file that `TRAPKEY_TOKEN_FILE` names.
    ///
    /// Errors (2): neither is set, the file cannot be read, or the token is too short.
    fn read() -> Result<Self, Fault> {
        let help = "make one with `openssl rand -hex 32`";
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let text = match (set("TRAPKEY_TOKEN"), set("TRAPKEY_TOKEN_FILE")) {
            (Some(token), _) => token,
            (None, Some(path)) => std::fs::read_to_string(&path).map_err(|e| {
                Fault::usage("the file of the token cannot be read").place(path).cause(e).help(help)
            })?,
            (None, None) => {
                return Err(Fault::usage("whoever calls must show a token, and there is none")
                    .help(format!("set TRAPKEY_TOKEN, or TRAPKEY_TOKEN_FILE; {help}")));
            }
        };
        let text = text.trim();
        if text.len() < SHORTEST_TOKEN {
            return Err(
                Fault::usage(format!("the token is shorter than {SHORTEST_TOKEN} characters")).help(help)
            );
        }
        redact::learn(text);
        Ok(Self(digest(text)))
    }

    /// Whether an `Authorization` header shows it. Digests are compared, and in constant time, so that
    /// neither its length nor its beginning shows in how long this takes.
    fn is_shown_by(&self, header: Option<&str>) -> bool {
        let shown =
            header.and_then(|text| text.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
        shown.is_some_and(|(_, token)| digest(token.trim()).ct_eq(&self.0).into())
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// What was called for, and which alerts hold the release.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Calls {
    /// The alerts that asked for a pause and are not over.
    #[serde(default)]
    pausing: Vec<Pausing>,
    /// The newest calls, the last one last.
    calls: VecDeque<Called>,
}

/// An alert that asked for a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pausing {
    epoch: u64,
    fingerprint: String,
    since: String,
}

/// A call that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Called {
    at: Timestamp,
    who: String,
    what: String,
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

    fn answer(&self, head: &Head, body: &[u8]) -> Answer {
        // Whoever only looks waits for nobody.
        let _turn = (head.method == "POST").then(|| locked(&self.turn));
        let done = match head.path.as_str() {
            "/status" => self.status(),
            "/validate" => self.validate(),
            "/alertmanager" => self.alertmanager(body),
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
    fn about(&self, epoch: u64) -> Asked {
        Asked { epoch, who: self.who.clone(), at: world::now().to_string(), why: self.why.clone() }
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

    fn status(&self) -> Result<Answer, Fault> {
        let job = self.job();
        let Some(record) = newest(&job)? else { return Ok(Answer::new(200, json!({"release": null}))) };
        let paused = store(&job)?.asked(Ask::Pause, record.promotion.epoch);
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
        let asked = asks.about(record.promotion.epoch);
        place.revise_asked(Ask::Pause, |found| unless_asked(found.as_ref(), &asked))?;
        self.note(&job, &place, &asks.who, &with_reason("pause", &record, asks.why.as_deref()), |_| {})?;
        Ok(did("pause", &record, "it holds before its next step, and is still judged"))
    }

    fn resume(&self, asks: &Asks) -> Result<Answer, Fault> {
        let job = self.job();
        let record = under_way(&job)?;
        let place = store(&job)?;
        place.forget(Ask::Pause)?;
        self.note(&job, &place, &asks.who, &with_reason("resume", &record, asks.why.as_deref()), |_| {})?;
        Ok(did("resume", &record, "it may go on"))
    }

    fn abort(&self, asks: &Asks) -> Result<Answer, Fault> {
        let job = self.job();
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
        let asked = match place.asked(Ask::Abort, record.promotion.epoch) {
            Some(before) => before,
            None => asks.about(record.promotion.epoch),
        };
        // On a full disk the traffic goes back all the same; then the carrying out tells of it.
        if let Err(fault) = place.ask(Ask::Abort, &asked) {
            job.talk().line(Mark::Warn, &fault.line());
        }
        let answer = did("abort", &record, "all traffic goes back to the old side");
        let what = with_reason("abort", &record, asks.why.as_deref());
        let mut under_way = locked(&self.abort);
        if under_way.as_ref().is_none_or(JoinHandle::is_finished) {
            if let Err(fault) = self.note(job, &place, &asks.who, &what, |_| {}) {
                job.talk().line(Mark::Warn, &fault.line());
            }
            let job = job.clone();
            let spawned = std::thread::Builder::new()
                .name("abort".into())
                .spawn(move || carry_out(&job, &record, &asked));
            *under_way = Some(spawned.map_err(|e| {
                Fault::infrastructure("the abort cannot be carried out from here")
                    .cause(e)
                    .help("it is left for the job that works; `promote abort` does it where there is none")
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
        let job = self.job();
        if payload.left_out > 0 {
            let line = format!("{} alerts were left out of a webhook: raise `max_alerts`", payload.left_out);
            job.talk().line(Mark::Warn, &line);
        }
        let (mut said, mut wishes) = (Vec::new(), Vec::new());
        let found = newest(&job)?;
        for alert in &payload.alerts {
            match (wish(alert, &job, found.as_ref()), &found) {
                (Wish::Nothing(why), _) => said.push(ignored(&job, alert, &why)),
                (wish, Some(record)) => wishes.push((alert, wish, record)),
                (_, None) => said.push(ignored(&job, alert, "nothing was ever promoted")),
            }
        }
        let mut status = 200;
        for (alert, _, record) in wishes.iter().filter(|(_, wish, _)| *wish == Wish::Abort) {
            match orders::may_be_called_off(&job, record) {
                Ok(()) => {
                    self.call_off(&job, (*record).clone(), &asks(alert))?;
                    status = 202;
                    said.push(json!({"alert": alert.name(), "did": "abort"}));
                }
                Err(fault) => said.push(ignored(&job, alert, &fault.line())),
            }
        }
        let rest: Vec<_> = wishes.into_iter().filter(|(_, wish, _)| *wish != Wish::Abort).collect();
        if let Some((_, _, record)) = rest.first() {
            self.hold_or_let_go(&job, record, &rest, &mut said)?;
        }
        Ok(Answer::new(status, json!({"alerts": said})))
    }

    /// Pauses for every alert that is new, and goes on when the last one that paused is over. A pause
    /// of somebody else stays, and what a person has let go on is not held again by the same alert.
    fn hold_or_let_go(
        &self,
        job: &Job,
        record: &Record,
        wishes: &[(&Alert, Wish, &Record)],
        said: &mut Vec<Value>,
    ) -> Result<(), Fault> {
        let (place, epoch) = (store(job)?, record.promotion.epoch);
        let mut pausing = place.document::<Calls>(RECORD)?.unwrap_or_default().pausing;
        pausing.retain(|p| p.epoch == epoch);
        let held_before = !pausing.is_empty();
        for (alert, wish, _) in wishes {
            let this = Pausing { epoch, fingerprint: fingerprint(alert), since: plain(&alert.starts_at, 64) };
            let known = pausing.contains(&this);
            pausing.retain(|p| p.fingerprint != this.fingerprint);
            let (who, did) = (asks(alert).who, if *wish == Wish::Pause { "pause" } else { "over" });
            if *wish == Wish::Pause {
                pausing.push(this);
                if !known {
                    let asked = asks(alert).about(epoch);
                    place.revise_asked(Ask::Pause, |found| unless_asked(found.as_ref(), &asked))?;
                }
            }
            said.push(
                json!({"alert": alert.name(), "did": if known && did == "pause" { "nothing" } else { did }}),
            );
            if !(known && did == "pause") {
                let what = with_reason(did, record, alert.says().as_deref());
                let now = pausing.clone();
                self.note(job, &place, &who, &what, |calls| calls.pausing.clone_from(&now))?;
            }
        }
        if held_before && pausing.is_empty() {
            let ours = |asked: &&Asked| asked.epoch == epoch && asked.who.starts_with(ALERTMANAGER);
            place.revise_asked(Ask::Pause, |found| {
                found.as_ref().filter(ours).map(|asked| Asked { epoch: 0, ..asked.clone() })
            })?;
        }
        Ok(())
    }

    /// Puts an accepted call on record, and says it.
    fn note(
        &self,
        job: &Job,
        place: &Store,
        who: &str,
        what: &str,
        also: impl Fn(&mut Calls),
    ) -> Result<(), Fault> {
        job.talk().line(Mark::Step, &format!("{who}: {what}"));
        place.revise::<Calls>(RECORD, |found| {
            let mut calls = found.unwrap_or_default();
            also(&mut calls);
            calls.calls.push_back(Called { at: world::now(), who: who.to_owned(), what: what.to_owned() });
            while calls.calls.len() > RECORDED {
                calls.calls.pop_front();
            }
            Ok(Some(calls))
        })
    }
}

/// How those are named who ask by an alert.
const ALERTMANAGER: &str = "alertmanager: ";

fn asks(alert: &Alert) -> Asks {
    Asks { who: format!("{ALERTMANAGER}{}", alert.name()), why: alert.says() }
}

/// What tells an alert from others: its fingerprint, or its labels where it has none.
fn fingerprint(alert: &Alert) -> String {
    if alert.fingerprint.is_empty() {
        crate::evidence::sha256_hex(format!("{:?}", alert.labels).as_bytes())
    } else {
        plain(&alert.fingerprint, 64)
    }
}

/// What an alert asks for of the release that is under way.
fn wish(alert: &Alert, job: &Job, record: Option<&Record>) -> Wish {
    let over = |r: &Record| r.state.finished() || r.state.serves();
    match alert.wish(record.map_or(&job.release, |r| &r.release)) {
        Wish::Nothing(why) => Wish::Nothing(why),
        wish => match record.filter(|r| over(r)) {
            Some(r) => Wish::Nothing(format!(
                "{} is finished: {}",
                name_release(&r.release),
                phase(&r.state, &r.course)
            )),
            None => wish,
        },
    }
}

fn ignored(job: &Job, alert: &Alert, why: &str) -> Value {
    job.talk().line(Mark::Step, &format!("{ALERTMANAGER}{}: ignored, {why}", alert.name()));
    json!({"alert": alert.name(), "did": "nothing", "why": why})
}

/// A request, unless the same was asked of this promotion before.
fn unless_asked(found: Option<&Asked>, asked: &Asked) -> Option<Asked> {
    found.is_none_or(|f| f.epoch != asked.epoch).then(|| asked.clone())
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
    if record.state.finished() || record.state.serves() {
        return Err(orders::finished(&record));
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
