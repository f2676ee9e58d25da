//! What the router and both sides really do now: read-only, and within seconds, for people who are about to act.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::begin;
use super::machine::{Hook, State};
use super::orders;
use super::record::Record;
use super::say;
use super::shift::min_up;
use crate::fault::Fault;
use crate::job::Job;
use crate::plan::{Loaded, RouterSpec, Side as SidePlan};
use crate::redact;
use crate::routers::{self, Live, Side};
use crate::units::Span;
use crate::world::http::{Client, join};

/// How long one look may take. People wait for it.
const LOOK: Duration = Duration::from_secs(5);

/// Reads the live router: what it gives green, and what it says of the sides. Never sets anything.
///
/// Errors: it cannot be reached from here, or the plan names another one, in words.
pub(super) fn live(job: &Job, record: &Record) -> Result<Live, String> {
    let said = |fault: Fault| fault.line();
    orders::steers_the_same(job, record).map_err(said)?;
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
    pub(super) fn look(job: &Job, record: &Record, live: Option<&Live>) -> Self {
        let plan = match orders::steers_the_same(job, record).and_then(|()| begin::section(job)) {
            Ok(plan) => plan,
            Err(fault) => {
                let unknown = Well::Unknown(fault.line());
                return Self { blue: unknown.clone(), green: unknown };
            }
        };
        let [of_blue, of_green] = [Side::Blue, Side::Green].map(|side| min_up(plan, side));
        let asked = |side: &SidePlan, unseen: &Option<String>| Asked {
            url: join(&side.url.value, &side.health),
            path: side.health.clone(),
            unseen: unseen.as_ref().map(|variable| format!("the variable `{variable}` is not set")),
        };
        let unseen = &job.loaded.unseen;
        let (blue, green) = (asked(&plan.sides.blue, &unseen.blue), asked(&plan.sides.green, &unseen.green));
        let both = within(move || {
            std::thread::scope(|scope| {
                let blue = scope.spawn(move || health(&blue));
                let green = health(&green);
                (blue.join().unwrap_or_else(|_| Well::Unknown("the look at it broke".into())), green)
            })
        });
        let late = || Well::No("it does not answer within 5 s".into());
        let (blue, green) = both.unwrap_or_else(|| (late(), late()));
        let judge = |side: Side, min_up: f64, well: Well| match live.and_then(|live| live.side(side)) {
            Some(view) => match (view.cannot_serve(min_up), well) {
                (Some(why), Well::Yes | Well::Unknown(_)) => Well::No(why),
                // It is not to be asked from here, and the router looks after it.
                (None, Well::Unknown(_)) if view.serving > 0 && !view.closed => Well::Yes,
                (_, well) => well,
            },
            None => well,
        };
        Self { blue: judge(Side::Blue, of_blue, blue), green: judge(Side::Green, of_green, green) }
    }
}

/// What is asked of a side.
struct Asked {
    url: String,
    path: String,
    /// Why it cannot be asked.
    unseen: Option<String>,
}

fn health(asked: &Asked) -> Well {
    let Asked { url, path, unseen } = asked;
    if let Some(why) = unseen {
        return Well::Unknown(why.clone());
    }
    match Client::new(LOOK).get(url) {
        Ok(answer) if (200..300).contains(&answer.status) => Well::Yes,
        Ok(answer) => Well::No(format!("{path} answered {}", answer.status)),
        Err(none) => Well::No(format!("{path} did not answer: {}", none.why)),
    }
}

/// How all traffic gets to a side by hand: only to one that is well, whatever the record says.
pub(super) fn by_hand(job: &Job, record: &Record) -> String {
    let live = live(job, record).ok();
    by_hand_to(job, record, &Sides::look(job, record, live.as_ref()))
}

/// Adds the way by hand to a fault that keeps a command from going it.
pub(super) fn with_by_hand(job: &Job, record: &Record, fault: Fault) -> Fault {
    let help = fault.help.clone().map(|help| format!("{help}\n")).unwrap_or_default();
    let by_hand = by_hand(job, record);
    fault.help(format!("{help}{by_hand}"))
}

/// The same as the record has it, where neither the router nor the sides can be looked at under the plan at hand.
pub(super) fn by_hand_of_then(record: &Record) -> String {
    let unknown = || Well::Unknown("the plan names other ones".into());
    let retired = record.promotion.hooks.iter().any(|h| h.hook == Hook::Retire.word());
    lines(retired, &Sides { blue: unknown(), green: unknown() }, |_| record.promotion.router.by_hand.clone())
}

fn by_hand_to(job: &Job, record: &Record, sides: &Sides) -> String {
    let lines_to = |side: Side| {
        let folder = record.folder().map_or_else(|| say::whole(&job.loaded.folder), Path::to_path_buf);
        let loaded = Loaded { folder, ..job.loaded.clone() };
        let router = orders::steers_the_same(job, record)
            .and_then(|()| begin::section(job))
            .and_then(|plan| routers::open(&plan.router, &loaded));
        match router {
            Ok(router) => router.by_hand(side),
            // What the record has leads to blue.
            Err(_) if side == Side::Blue => record.promotion.router.by_hand.clone(),
            Err(_) => Vec::new(),
        }
    };
    let retired = record.promotion.hooks.iter().any(|h| h.hook == Hook::Retire.word());
    lines(retired, sides, lines_to)
}

/// The way by hand to sides that were looked at. `lines_to` gives the lines for one of them.
fn lines(retired: bool, sides: &Sides, lines_to: impl Fn(Side) -> Vec<String>) -> String {
    let first =
        if retired { "the retire hook ran: bring blue up again first, and look at its health; " } else { "" };
    let by_hand = |side: Side| {
        let lines = lines_to(side);
        lines.iter().map(|line| redact::say_command(line)).collect::<Vec<_>>().join("\n")
    };
    match (&sides.blue, &sides.green) {
        (Well::Yes, _) => {
            format!("{first}blue is well now; all traffic goes to it by hand:\n{}", by_hand(Side::Blue))
        }
        (Well::Unknown(why), _) => format!(
            "{first}whether blue is well cannot be seen from here ({why}): look first whether it runs and is healthy, \
             then go back by hand:\n{}",
            by_hand(Side::Blue)
        ),
        (Well::No(why), Well::Yes) => {
            let green = by_hand(Side::Green);
            let lines = if green.is_empty() {
                String::new()
            } else {
                format!("; all traffic goes to it by hand:\n{green}")
            };
            format!("{first}blue is not well ({why}): send no users there. green is well{lines}")
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
    let sides = Sides::look(job, record, live);
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
    // Where green has no users there is nothing that stands.
    let serves = live.is_some_and(|live| live.effective.unwrap_or(live.green) > 0.0);
    if sides.green == Well::Yes && serves {
        ways.push(format!(
            "green is well: closes it with everything on green: {}",
            say::command_with_reason(job, "accept")
        ));
    }
    ways.push(format!("without Trapkey: {}", by_hand_to(job, record, &sides)));
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_leads_to_a_side_that_is_not_well() {
        let no = || Well::No("/health answered 503".into());
        let unknown = || Well::Unknown("no address".into());
        let to = |side: Side| vec![format!("to {}", side.word())];
        let cases = [
            (Well::Yes, Well::Yes, Some("to blue")),
            (Well::Yes, no(), Some("to blue")),
            (no(), Well::Yes, Some("to green")),
            (no(), no(), None),
            (no(), unknown(), None),
            (unknown(), Well::Yes, Some("to blue")),
        ];
        for (blue, green, leads) in cases {
            for retired in [false, true] {
                let sides = Sides { blue: blue.clone(), green: green.clone() };
                let text = lines(retired, &sides, to);
                let led: Vec<&str> = text.lines().filter(|line| line.starts_with("to ")).collect();
                assert_eq!(led, leads.into_iter().collect::<Vec<_>>(), "{sides:?}: {text}");
                assert_eq!(text.contains("503"), blue == no(), "{text}");
                assert_eq!(text.contains("the retire hook ran"), retired);
            }
        }
    }
}
