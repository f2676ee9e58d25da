//! What the router and both sides really do now: read-only, and within seconds, for people who are about to act.

use std::sync::mpsc::channel;
use std::time::Duration;

use super::begin;
use super::machine::{Hook, State};
use super::record::Record;
use super::say;
use crate::fault::Fault;
use crate::job::Job;
use crate::plan::{RouterSpec, Side as SidePlan};
use crate::routers::{self, Live, Side};
use crate::units::Span;
use crate::world::http::{Client, join};

/// How long one look may take. People wait for it.
const LOOK: Duration = Duration::from_secs(5);
/// The least share of a side's servers that the router must hold for up, where the plan does not say.
const MIN_UP: f64 = 0.5;

/// Reads the live router: what it gives green, and what it says of the sides. Never sets anything.
///
/// Errors: it cannot be reached from here, in words.
pub(super) fn live(job: &Job) -> Result<Live, String> {
    let said = |fault: Fault| fault.line();
    let spec = &begin::section(job).map_err(said)?.router;
    let timeout = spec.timeout.map_or(LOOK, |span| span.0.min(LOOK));
    let spec = RouterSpec { timeout: Some(Span(timeout)), ..spec.clone() };
    let mut router = routers::open(&spec, &job.loaded).map_err(said)?;
    within(move || router.read().map_err(said)).unwrap_or_else(|| Err("it does not answer within 5 s".into()))
}

/// Does it elsewhere and waits for it, but not for longer than people do. What hangs is left behind; this process ends
/// soon.
fn within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, answer) = channel();
    let begun = std::thread::Builder::new().name("look".into()).spawn(move || {
        // Nobody may wait for it any more.
        let _ = sender.send(work());
    });
    begun.ok()?;
    answer.recv_timeout(LOOK + Duration::from_secs(1)).ok()
}

/// What is known of whether a side can take users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Well {
    /// It answers well, and the router has nothing against it.
    Yes,
    /// It is not, and why.
    No(String),
    /// It could not be looked at, and why.
    Unknown(String),
}

/// Both sides, looked at.
#[derive(Clone, Debug)]
pub(super) struct Sides {
    /// The old one.
    pub blue: Well,
    /// The new one.
    pub green: Well,
}

impl Sides {
    /// Looks at both: their own health by their own address, and what the router says of them.
    pub(super) fn look(job: &Job, live: Option<&Live>) -> Self {
        let plan = match begin::section(job) {
            Ok(plan) => plan,
            Err(fault) => {
                let unknown = Well::Unknown(fault.line());
                return Self { blue: unknown.clone(), green: unknown };
            }
        };
        let min_up = plan.min_up.map_or(MIN_UP, |share| share.0);
        let asked = |side: &SidePlan| (join(&side.url.value, &side.health), side.health.clone());
        let (blue, green) = (asked(&plan.sides.blue), asked(&plan.sides.green));
        let both = within(move || {
            std::thread::scope(|scope| {
                let blue = scope.spawn(move || health(&blue.0, &blue.1));
                let green = health(&green.0, &green.1);
                (blue.join().unwrap_or_else(|_| Well::Unknown("the look at it broke".into())), green)
            })
        });
        let late = || Well::No("it does not answer within 5 s".into());
        let (blue, green) = both.unwrap_or_else(|| (late(), late()));
        let judge = |side: Side, well: Well| match live.and_then(|live| live.side(side)) {
            Some(view) if well == Well::Yes => view.cannot_serve(min_up).map_or(Well::Yes, Well::No),
            _ => well,
        };
        Self { blue: judge(Side::Blue, blue), green: judge(Side::Green, green) }
    }
}

fn health(url: &str, path: &str) -> Well {
    match Client::new(LOOK, 0).get(url) {
        Ok(answer) if (200..300).contains(&answer.status) => Well::Yes,
        Ok(answer) => Well::No(format!("{path} answered {}", answer.status)),
        Err(none) => Well::No(format!("{path} did not answer: {}", none.why)),
    }
}

/// How all traffic gets to a side by hand: only to one that is well, whatever the record says.
pub(super) fn by_hand(job: &Job, record: &Record) -> String {
    let live = live(job).ok();
    lines(record, &Sides::look(job, live.as_ref()), || {
        begin::router(job).map_or_else(|_| Vec::new(), |router| router.by_hand(Side::Green))
    })
}

/// The same of sides that were looked at. `green` gives the lines for the new side.
pub(super) fn lines(record: &Record, sides: &Sides, green: impl FnOnce() -> Vec<String>) -> String {
    let retired = record.promotion.hooks.iter().any(|h| h.hook == Hook::Retire.word());
    let first =
        if retired { "the retire hook ran: bring blue up again first, and look at its health; " } else { "" };
    let blue = record.promotion.router.by_hand.join("\n");
    match (&sides.blue, &sides.green) {
        (Well::Yes, _) => format!("{first}blue is well now; all traffic goes back to it by hand:\n{blue}"),
        (Well::Unknown(why), _) => format!(
            "{first}whether blue is well cannot be seen from here ({why}): look first whether it runs and is healthy, \
             then go back by hand:\n{blue}"
        ),
        (Well::No(why), Well::Yes) => {
            let green = green();
            let by_hand = if green.is_empty() {
                String::new()
            } else {
                format!("; all traffic goes to it by hand:\n{}", green.join("\n"))
            };
            format!("{first}blue is not well ({why}): send no users there. green is well{by_hand}")
        }
        (Well::No(blue), Well::No(green) | Well::Unknown(green)) => format!(
            "{first}neither side is well (blue: {blue}; green: {green}): no line is named that sends users to one. \
             Bring one up, then look again"
        ),
    }
}

/// What people can do about a promotion that stands still.
pub(super) fn ways_out(job: &Job, record: &Record, live: Option<&Live>) -> Vec<String> {
    let State::Frozen { .. } = record.state else { return Vec::new() };
    let sides = Sides::look(job, live);
    let says = |side: Side, well: &Well| match well {
        Well::Yes => format!("{} is well now", side.word()),
        Well::No(why) => format!("{} is not well: {why}", side.word()),
        Well::Unknown(why) => format!("whether {} is well cannot be seen from here: {why}", side.word()),
    };
    let mut ways = vec![
        format!("nothing moves and nobody watches: {}", record.outcome().1.unwrap_or_default()),
        says(Side::Blue, &sides.blue),
        says(Side::Green, &sides.green),
        format!("tries again to go back to blue: {}", say::command(job, "abort")),
        format!("the same, and looks once: {}", say::command(job, "step")),
    ];
    if sides.green != Well::Yes || sides.blue == Well::Yes {
        ways.push(format!("closes it as it stands: {}", say::command_with_reason(job, "accept")));
    } else {
        ways.push(format!(
            "green serves and is well: closes it as it stands: {}",
            say::command_with_reason(job, "accept")
        ));
    }
    let green = || begin::router(job).map_or_else(|_| Vec::new(), |router| router.by_hand(Side::Green));
    ways.push(format!("without Trapkey: {}", lines(record, &sides, green)));
    ways
}
