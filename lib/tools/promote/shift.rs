//! One change of weight: asked, read back, probed. All three go on record.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::record::Markers;
use crate::evidence::{Probed, Shift};
use crate::fault::Fault;
use crate::metrics::probe::{Connection, Headers, Sample, once_as};
use crate::plan::{ProbeSpec, Promote};
use crate::redact::redact;
use crate::routers::{By, Key, Live, Router, Side, Split, same_share};
use crate::units::show_share;
use crate::world::http::{Client, join};
use crate::world::{self, signal};

/// How requests through the router are made.
#[derive(Clone)]
pub(super) struct Entry {
    /// Where users' requests enter, with the probe's path.
    pub url: String,
    /// What is made of an answer.
    pub headers: Headers,
    /// How many requests prove a shift.
    pub requests: u32,
    /// The variable that is not set, and without which nobody can ask there.
    pub unseen: Option<String>,
    by: By,
    client: Client,
}

/// How long the data plane may lag behind the control plane.
pub(super) const DATA_PLANE_LAG: Duration = Duration::from_secs(5);

impl Entry {
    /// Requests to `entry` as the plan's probe describes them.
    pub(super) fn new(entry: &str, probe: &ProbeSpec) -> Self {
        Self {
            url: join(entry, &probe.path),
            headers: Headers::of(probe),
            requests: probe.requests.unwrap_or(40).max(1),
            unseen: None,
            by: By::Requests,
            client: Client::new(probe.timeout.map_or(Duration::from_secs(5), |t| t.0)),
        }
    }

    /// The same where the router tells requests apart by something of theirs.
    #[must_use]
    pub(super) fn by(mut self, by: &By) -> Self {
        self.by = by.clone();
        self
    }

    /// The same where nobody can ask there, for a variable that is not set.
    #[must_use]
    pub(super) fn unseen(mut self, variable: Option<String>) -> Self {
        self.unseen = variable;
        self
    }

    /// Sends requests and counts who answered until `until`. A side that hangs must not hold up the
    /// decision: what has not answered by then counts as answered by nobody known.
    pub(super) fn probe(&self, markers: &Markers, until: Instant) -> Probed {
        self.meet(markers, until).figures
    }

    /// Sends requests as a user would who goes nowhere but to `side`, and says why not all of them met it.
    pub(super) fn all_meet(&self, markers: &Markers, side: Side, until: Instant) -> Option<String> {
        let green = if side == Side::Green { 1.0 } else { 0.0 };
        match prove(self, markers, green, until, true) {
            Ok(Seen::Met(_)) => None,
            Ok(Seen::Nothing(why)) => Some(why),
            Err(fault) => Some(fault.line()),
        }
    }

    /// The same, told apart by what the requests carried.
    fn meet(&self, markers: &Markers, until: Instant) -> Met {
        let started = Instant::now();
        let asks = Arc::new(asks(&self.by, self.requests as usize));
        let Came { answers, limited, unsigned, back } = self.send(&asks, markers, until);
        let cut = back < answers.len();
        let turned_away = limited.iter().filter(|limited| **limited).count();
        let tally = |what: &dyn Fn(&Ask) -> bool| {
            let mut probed = Probed { requests: 0, green: 0, blue: 0, unknown: 0, took_ms: 0.0 };
            let told = asks.iter().zip(&answers).zip(&limited);
            for ((_, side), _) in told.filter(|((ask, _), limited)| what(ask) && !**limited) {
                probed.requests += 1;
                match side {
                    Some(Side::Green) => probed.green += 1,
                    Some(Side::Blue) => probed.blue += 1,
                    None => probed.unknown += 1,
                }
            }
            probed
        };
        let mut figures = tally(&|ask| ask.counts);
        figures.took_ms = started.elapsed().as_secs_f64() * 1e3;
        Met {
            figures,
            split: tally(&|ask| ask.group == Group::Split),
            rest: tally(&|ask| ask.group == Group::Rest),
            torn: torn(&asks, &answers),
            unsigned,
            turned_away,
            cut,
        }
    }

    /// Sends the requests; gives for each the side that answered, where one did in time, and what the last answer
    /// was that no side signed.
    fn send(&self, asks: &Arc<Vec<Ask>>, markers: &Markers, until: Instant) -> Came {
        let (tell, told) = mpsc::channel();
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..PROBERS.min(asks.len()) {
            let (tell, next, asks) = (tell.clone(), Arc::clone(&next), Arc::clone(asks));
            let (client, url, headers) = (self.client.clone(), self.url.clone(), self.headers.clone());
            let work = move || {
                while Instant::now() < until {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(ask) = asks.get(number) else { return };
                    let sent = ask.header.as_ref().map(|(name, value)| (name.as_str(), value.as_str()));
                    // A connection of its own for each: an open one may belong to the split of before.
                    let sample = once_as(&client, &url, &headers, Connection::New, sent);
                    if tell.send((number, sample)).is_err() {
                        return;
                    }
                }
            };
            // Without a thread fewer ask; without any, nobody answers, and that proves nothing.
            let _ = std::thread::Builder::new().name("entry probe".into()).spawn(work);
        }
        drop(tell);
        let (answers, limited) = (vec![None; asks.len()], vec![false; asks.len()]);
        let mut came = Came { answers, limited, unsigned: None, back: 0 };
        while let Ok((number, sample)) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let side = markers.signed(&sample);
            if side.is_none() {
                came.unsigned = Some(nobodys(&sample));
            }
            // That this machine asks too often says nothing of a side.
            came.limited[number] = side.is_none() && sample.status == Some(429);
            came.answers[number] = side;
            came.back += 1;
        }
        came
    }
}

/// What came back of requests that were sent.
struct Came {
    /// For each the side that answered, where one did in time.
    answers: Vec<Option<Side>>,
    /// Whether it was answered that this machine asks too often.
    limited: Vec<bool>,
    /// What the last answer was that no side signed.
    unsigned: Option<String>,
    /// How many came back in time, whatever they were.
    back: usize,
}

impl Markers {
    /// The side that signed an answer.
    pub(super) fn signed(&self, sample: &Sample) -> Option<Side> {
        let version = sample.version.as_ref()?;
        [(&self.green, Side::Green), (&self.blue, Side::Blue)]
            .into_iter()
            .find(|(marker, _)| marker.as_ref() == Some(version))
            .map(|(_, side)| side)
    }
}

/// What an answer was that no side signed.
pub(super) fn nobodys(sample: &Sample) -> String {
    match (&sample.version, sample.status, &sample.why) {
        (Some(version), ..) => format!("it says that it is `{}`", redact(version)),
        (None, Some(status), _) if (300..400).contains(&status) => {
            format!("{status}, a redirect without the release header")
        }
        (None, Some(status), _) => format!("{status} without the release header"),
        (None, None, Some(why)) => redact(why),
        (None, None, None) => "no answer".into(),
    }
}

/// One request through the router.
struct Ask {
    /// The header that it carries.
    header: Option<(String, String)>,
    group: Group,
    /// Whether it stands in the evidence.
    counts: bool,
}

/// What a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// The split itself.
    Split,
    /// That requests which the key does not tell apart stay on blue.
    Rest,
    /// That the user of the request with this number stays where they are.
    Again(usize),
}

/// What requests met.
struct Met {
    figures: Probed,
    split: Probed,
    rest: Probed,
    /// A user who met both sides.
    torn: Option<String>,
    /// What the last answer was that no side signed.
    unsigned: Option<String>,
    /// How many were answered with 429: this machine asks too often.
    turned_away: usize,
    /// Time was over before all had come back.
    cut: bool,
}

impl Met {
    /// Why nothing was seen, where every request that was answered met a limit.
    fn only_limits(&self) -> Option<String> {
        let answered = self.split.requests - self.split.unknown + self.rest.requests - self.rest.unknown;
        (self.turned_away > 0 && !self.cut && answered == 0 && self.split.unknown + self.rest.unknown == 0)
            .then(|| {
                format!(
                    "the front door answered 429, that this machine asks too often, to all {} requests",
                    self.turned_away
                )
            })
    }
}

/// How many users are asked again.
const USERS_AGAIN: usize = 4;
/// How many requests come without a user.
const WITHOUT_USER: usize = 4;

/// The requests that prove a split.
fn asks(by: &By, requests: usize) -> Vec<Ask> {
    let ask = |header, group, counts| Ask { header, group, counts };
    match by {
        By::Requests => (0..requests).map(|_| ask(None, Group::Split, true)).collect(),
        By::User(key) => {
            let user = || Some(sent(key, &format!("trapkey-{:016x}", world::unique())));
            let mut asks: Vec<Ask> = (0..requests).map(|_| ask(user(), Group::Split, true)).collect();
            for number in 0..USERS_AGAIN.min(requests) {
                let header = asks[number].header.clone();
                asks.push(ask(header, Group::Again(number), false));
            }
            asks.extend((0..WITHOUT_USER).map(|_| ask(None, Group::Rest, false)));
            asks
        }
        // Half of them match; of the others every second one has another value.
        By::Match(key, value) => (0..requests.max(4))
            .map(|number| match number % 4 {
                0 | 2 => ask(Some(sent(key, value)), Group::Split, true),
                1 => ask(None, Group::Rest, true),
                _ => ask(Some(sent(key, &format!("not-{value}"))), Group::Rest, true),
            })
            .collect(),
    }
}

/// The header that carries a key's value.
fn sent(key: &Key, value: &str) -> (String, String) {
    match key {
        Key::Header(name) => (name.clone(), value.to_owned()),
        Key::Cookie(name) => ("cookie".into(), format!("{name}={value}")),
    }
}

/// A user who met both sides, in words.
fn torn(asks: &[Ask], answers: &[Option<Side>]) -> Option<String> {
    asks.iter().zip(answers).find_map(|(ask, again)| {
        let Group::Again(number) = ask.group else { return None };
        let (first, again) = (answers[number]?, (*again)?);
        (first != again)
            .then(|| format!("one and the same user met {} and then {}", first.word(), again.word()))
    })
}

/// Why a split is not in force, and whether it is worth another try.
pub(super) struct NotInForce {
    /// What is wrong.
    pub fault: Fault,
    /// The router followed, but requests meet another split: that was waited for already.
    pub waited: bool,
}

/// How many requests through the router are under way at once.
const PROBERS: usize = 8;

/// What a shift is held against besides the weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The least share of a side's servers that the router itself must hold for up.
    pub min_up: f64,
    /// How long servers whose weight is still rising are waited for.
    pub warm_within: Duration,
}

/// The least share of a side's servers that the router itself must hold for up.
pub(super) fn min_up(plan: &Promote, side: Side) -> f64 {
    plan.min_up.map_or(if side == Side::Blue { 0.5 } else { 0.6 }, |share| share.0)
}

/// Puts a split into force and proves it.
///
/// Fails when: the router holds the side that is to get users for down, and then nothing was touched; it refused or
/// cannot be reached; what it reads back differs; requests through it meet another split.
pub(super) fn shift(
    router: &mut dyn Router,
    entry: &Entry,
    markers: &Markers,
    split: Split,
    terms: Terms,
    why: &str,
) -> Result<Shift, NotInForce> {
    let (at, started) = (world::now(), Instant::now());
    let steered = |fault| NotInForce { fault, waited: false };
    // Weights are absolute: setting what is in force already changes nothing. A router that has nothing left to
    // say (both sides closed by hand) must still be steered.
    if let Ok(live) = router.read() {
        can_take(&live, split, terms).map_err(steered)?;
    }
    router.set(split).map_err(steered)?;
    let live = settled(router, split, terms).map_err(steered)?;
    let set_ms = started.elapsed().as_secs_f64() * 1e3;
    // The way back is not cut short by a signal.
    let patient = split.green <= 0.0;
    let shifted = |seen: Seen| {
        let (probed, not_seen) = match seen {
            Seen::Met(probed) => (Some(probed), None),
            Seen::Nothing(why) => (None, Some(why)),
        };
        Shift { why: why.into(), at, asked: split.green, read_back: live.green, set_ms, probed, not_seen }
    };
    // Whoever goes back from a bare shell cannot ask there: what the router reads back counts.
    if let Some(variable) = entry.unseen.as_ref().filter(|_| split.is_way_back()) {
        return Ok(shifted(Seen::Nothing(format!(
            "{variable} is not set: nobody can ask at the front door"
        ))));
    }
    let seen = prove(entry, markers, split.green, Instant::now() + DATA_PLANE_LAG, patient)
        .map_err(|fault| NotInForce { fault, waited: true })?;
    match seen {
        // A limit of the front door says nothing of where users go. It must not keep a way back from its end, and it
        // proves no step forward.
        Seen::Nothing(why) if !split.is_way_back() => {
            Err(NotInForce { fault: not_met(entry, split.green, why), waited: true })
        }
        seen => Ok(shifted(seen)),
    }
}

/// What requests through the router showed.
enum Seen {
    /// The split that was asked for.
    Met(Probed),
    /// Nothing, and why.
    Nothing(String),
}

/// Whether the router itself could give users to the side that is to get more of them.
fn can_take(live: &Live, split: Split, terms: Terms) -> Result<(), Fault> {
    let side = if split.is_way_back() { Side::Blue } else { Side::Green };
    match takes(live, side, terms.min_up) {
        Ok(()) => Ok(()),
        Err(why) => Err(Fault::infrastructure(format!("{} is given no users", side.word()))
            .cause(why)
            .help("look at the router's health checks and at that side; nothing was moved")),
    }
}

/// Whether a side may be given users by the router's own view. Of blue one server is enough: few that serve are better
/// than a release that has to end.
pub(super) fn takes(live: &Live, side: Side, min_up: f64) -> Result<(), String> {
    let least = if side == Side::Blue { 0.0 } else { min_up };
    live.side(side).and_then(|view| view.cannot_serve(least)).map_or(Ok(()), Err)
}

/// Reads back until servers have warmed up.
fn settled(router: &mut dyn Router, split: Split, terms: Terms) -> Result<Live, Fault> {
    let until = Instant::now() + terms.warm_within;
    loop {
        let live = router.read()?;
        confirm(router, split, &live, terms)?;
        // On the way back blue has everything anyway.
        let warming = live.sides.iter().flatten().flat_map(|side| &side.warming).next();
        let Some(name) = warming.filter(|_| !split.is_way_back() && split.green < 1.0) else {
            return Ok(live);
        };
        if Instant::now() >= until || signal::stop_asked() {
            return Err(Fault::infrastructure(format!("`{name}` still gets less than its weight"))
                .cause("the router lets its weight rise slowly (`slowstart`)")
                .help(
                    "give `healthy_within` more time than `slowstart`, or take `slowstart` off the servers",
                ));
        }
        std::thread::sleep(WARMING);
    }
}

/// How often servers that warm up are looked at.
const WARMING: Duration = Duration::from_millis(200);

/// Whether what was read back is what was asked.
fn confirm(router: &dyn Router, split: Split, live: &Live, terms: Terms) -> Result<(), Fault> {
    let nearest = router.nearest(split.green);
    if !same_share(live.green, nearest) {
        return Err(Fault::infrastructure(format!(
            "the router took {} but reads back {}",
            show_share(nearest),
            show_share(live.green)
        ))
        .cause(&live.raw)
        .help("does something else steer this router as well?"));
    }
    if !live.strangers.is_empty() && !split.is_way_back() {
        return Err(Fault::infrastructure("the router gives users to somebody who is on neither side")
            .cause(live.strangers.join(", "))
            .help("take that out, or name it on one of the sides"));
    }
    let with_share = [(Side::Blue, split.green < 1.0), (Side::Green, split.green > 0.0)];
    for (side, _) in with_share.into_iter().filter(|(_, has)| *has) {
        if let Err(why) = takes(live, side, terms.min_up) {
            return Err(Fault::infrastructure(format!("the router itself sends nobody to {}", side.word()))
                .cause(why)
                .help("look at the router's health checks and at that side"));
        }
    }
    match live.effective {
        // Routers without a view of single servers.
        Some(effective) if live.sides.is_none() && !same_share(effective, nearest) => {
            Err(Fault::infrastructure(format!(
                "the router itself sends green {} instead of {}",
                show_share(effective),
                show_share(nearest)
            ))
            .cause(format!("its own health checks hold a side for down: {}", live.raw))
            .help("look at the router's health checks and at that side"))
        }
        _ => Ok(()),
    }
}

/// Probes until the data plane agrees, for a few seconds at most.
fn prove(entry: &Entry, markers: &Markers, green: f64, until: Instant, patient: bool) -> Result<Seen, Fault> {
    let mut whole = None;
    // Whether every round met limits alone.
    let (mut limits, mut last_limit) = (true, None);
    loop {
        let met = entry.meet(markers, until);
        let Err(mut cause) = fits(&met, &entry.by, green) else { return Ok(Seen::Met(met.figures)) };
        let only_limits = met.only_limits();
        limits &= only_limits.is_some() || met.cut;
        // A round that was cut off says less than the one before it.
        if met.cut {
            cause = whole.take().unwrap_or(cause);
        }
        whole = Some(cause.clone());
        let again = if only_limits.is_some() { AFTER_A_LIMIT } else { Duration::from_millis(50) };
        last_limit = only_limits.or(last_limit);
        if Instant::now() >= until || (signal::stop_asked() && !patient) {
            return match last_limit {
                Some(limit) if limits => Ok(Seen::Nothing(limit)),
                _ => Err(not_met(entry, green, cause)),
            };
        }
        std::thread::sleep(again.min(until.saturating_duration_since(Instant::now())));
    }
}

/// How long a front door is left alone that says that it was asked too often.
const AFTER_A_LIMIT: Duration = Duration::from_secs(1);

fn not_met(entry: &Entry, green: f64, cause: String) -> Fault {
    Fault::infrastructure(format!("requests do not meet the split of {} on green", show_share(green)))
        .place(&entry.url)
        .cause(cause)
        .help("is this the address that the router serves, and do both sides send their release header?")
}

/// Whether what requests met can come from a split that goes by something of theirs.
fn fits(met: &Met, by: &By, green: f64) -> Result<(), String> {
    let all_or_none = |all: bool| f64::from(u8::from(all));
    let of = |what: &str, why: String| format!("{what}: {why}");
    let agrees = |probed: &Probed, green: f64| {
        let unsigned = met.unsigned.as_ref().filter(|_| probed.unknown > 0);
        agrees(probed, green).map_err(|why| unsigned.map_or(why.clone(), |said| format!("{why}: {said}")))
    };
    match by {
        By::Requests => return agrees(&met.split, green),
        By::User(_) => agrees(&met.split, green).map_err(|why| of("requests of users", why))?,
        By::Match(..) => {
            agrees(&met.split, all_or_none(green > 0.0)).map_err(|why| of("requests that match", why))?;
        }
    }
    agrees(&met.rest, all_or_none(green >= 1.0)).map_err(|why| of("requests without the key", why))?;
    met.torn.clone().map_or(Ok(()), Err)
}

/// What is too improbable to be believed of a side that has a share.
const IMPROBABLE: f64 = 1e-4;

/// Whether what requests met can come from a split.
fn agrees(probed: &Probed, green: f64) -> Result<(), String> {
    let known = probed.green + probed.blue;
    let met = format!(
        "of {} requests green answered {}, blue {}, nobody known {}",
        probed.requests, probed.green, probed.blue, probed.unknown
    );
    // Users get those answers too.
    if probed.unknown > 0 || known == 0 {
        return Err(met);
    }
    // That none of so many meets a side is no accident.
    let nobody = |count: u64, share: f64| count == 0 && (1.0 - share).powf(known as f64) < IMPROBABLE;
    if nobody(probed.green, green) || nobody(probed.blue, 1.0 - green) {
        return Err(met);
    }
    let wrong = if green <= 0.0 {
        probed.green > 0
    } else if green >= 1.0 {
        probed.blue > 0
    } else {
        binomial_extreme(known, probed.green, green) < 1e-6
    };
    if wrong { Err(met) } else { Ok(()) }
}

/// The probability of an outcome at least as far off as `k` of `n`, on the side where `k` lies.
fn binomial_extreme(n: u64, k: u64, p: f64) -> f64 {
    let expected = n as f64 * p;
    let range: Box<dyn Iterator<Item = u64>> =
        if (k as f64) < expected { Box::new(0..=k) } else { Box::new(k..=n) };
    range.map(|i| (log_choose(n, i) + i as f64 * p.ln() + (n - i) as f64 * (1.0 - p).ln()).exp()).sum()
}

fn log_choose(n: u64, k: u64) -> f64 {
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(green: u64, blue: u64, unknown: u64) -> Probed {
        Probed { requests: green + blue + unknown, green, blue, unknown, took_ms: 0.0 }
    }

    #[test]
    fn a_side_that_hangs_does_not_hold_up_the_decision() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // Longer than any test: that it ends is the proof.
        let timeout = Some(crate::units::Span(Duration::from_secs(600)));
        let spec = ProbeSpec { timeout, ..ProbeSpec::default() };
        let entry = Entry::new(&format!("http://{}", silent.local_addr().unwrap()), &spec);
        let probed = entry.probe(&Markers::default(), Instant::now() + Duration::from_millis(200));
        assert_eq!((probed.requests, probed.unknown), (40, 40));
    }

    #[test]
    fn a_split_by_users_or_by_match_is_believed_only_when_every_group_fits() {
        let key = Key::Cookie("uid".into());
        let (user, matching) = (By::User(key.clone()), By::Match(key, "beta".into()));
        let all = |split: Probed, rest: Probed, torn: Option<&str>| Met {
            figures: met(0, 0, 0),
            split,
            rest,
            torn: torn.map(str::to_owned),
            unsigned: None,
            turned_away: 0,
            cut: false,
        };
        assert!(fits(&all(met(3, 37, 0), met(0, 4, 0), None), &user, 0.05).is_ok());
        let without_key = fits(&all(met(3, 37, 0), met(1, 3, 0), None), &user, 0.05).unwrap_err();
        assert!(without_key.starts_with("requests without the key: of 4 requests"), "{without_key}");
        assert!(fits(&all(met(3, 37, 0), met(0, 4, 0), Some("both")), &user, 0.05).is_err());
        assert!(fits(&all(met(0, 40, 0), met(0, 4, 0), None), &user, 0.5).is_err());
        assert!(fits(&all(met(40, 0, 0), met(0, 4, 0), None), &user, 1.0).is_err());
        assert!(fits(&all(met(40, 0, 0), met(4, 0, 0), None), &user, 1.0).is_ok());
        assert!(fits(&all(met(20, 0, 0), met(0, 20, 0), None), &matching, 0.05).is_ok());
        assert!(fits(&all(met(19, 1, 0), met(0, 20, 0), None), &matching, 0.05).is_err());
        assert!(fits(&all(met(20, 0, 0), met(1, 19, 0), None), &matching, 0.05).is_err());
        assert!(fits(&all(met(20, 0, 0), met(20, 0, 0), None), &matching, 0.0).is_err());
        assert!(fits(&all(met(20, 0, 0), met(20, 0, 0), None), &matching, 1.0).is_ok());
    }

    #[test]
    fn requests_carry_what_the_split_goes_by() {
        let key = Key::Header("x-user".into());
        let asked = asks(&By::User(key.clone()), 40);
        let users: std::collections::BTreeSet<_> =
            asked.iter().filter(|a| a.group == Group::Split).map(|a| a.header.clone()).collect();
        assert_eq!(users.len(), 40, "each of another user");
        assert_eq!(asked.iter().filter(|a| matches!(a.group, Group::Again(_))).count(), USERS_AGAIN);
        assert!(asked.iter().any(|a| a.group == Group::Rest && a.header.is_none()));
        assert_eq!(asked.iter().filter(|a| a.counts).count(), 40);
        let mut sides = vec![Some(Side::Blue); asked.len()];
        assert_eq!(torn(&asked, &sides), None);
        sides[40] = Some(Side::Green);
        assert!(torn(&asked, &sides).is_some());
        let matching = asks(&By::Match(key, "beta".into()), 1);
        assert_eq!(matching.iter().filter(|a| a.group == Group::Split).count(), 2);
        assert_eq!(matching.iter().filter(|a| a.group == Group::Rest).count(), 2);
    }

    #[test]
    fn believes_only_a_split_that_the_answers_allow() {
        assert!(agrees(&met(0, 40, 0), 0.0).is_ok());
        assert!(agrees(&met(1, 39, 0), 0.0).is_err(), "nobody may still reach a side that has nothing");
        assert!(agrees(&met(40, 0, 0), 1.0).is_ok());
        assert!(agrees(&met(39, 1, 0), 1.0).is_err());
        assert!(agrees(&met(0, 40, 0), 0.05).is_ok(), "one in eight runs meets nobody on 5 %");
        assert!(agrees(&met(0, 40, 0), 0.5).is_err(), "declared done before traffic had moved");
        assert!(agrees(&met(40, 0, 0), 0.5).is_err());
        assert!(agrees(&met(19, 21, 0), 0.5).is_ok());
        assert!(agrees(&met(0, 0, 40), 0.0).is_err(), "silence proves nothing");
        assert!(agrees(&met(0, 30, 10), 0.25).is_err(), "a quarter of them met nobody");
        assert!(agrees(&met(9, 30, 1), 0.25).is_err(), "that one was a user's as well");
        assert!(agrees(&met(0, 40, 0), 0.25).is_err(), "none of 40 is improbable");
        assert!((binomial_extreme(10, 0, 0.5) - 1.0 / 1024.0).abs() < 1e-12);
    }
}
