//! What the router itself says of the sides, and what people have set on it: both count beside what was recorded.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::machine::State;
use super::super::shift::takes;
use super::Driver;
use super::hands::BETWEEN_TRIES;
use crate::routers::{self, Side, same_share};
use crate::state::{Ask, Asked};
use crate::world::talk::Mark;
use crate::world::{self, signal};

/// What people have done to weights since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weighed {
    /// Nothing.
    No,
    /// Servers have another part of their side, or blue gets back what was taken: the split is set anew.
    Anew,
    /// All of blue has less than was set, or has it again: what was seen meanwhile was another split.
    Turned,
    /// All of blue has still less than was set: it is left so.
    Left,
}

impl Driver<'_> {
    /// What people have done to weights. A reload or a restart takes weights away too; then the process of the router
    /// is another one, and that is no wish of anybody.
    pub(super) fn heed_weights(&mut self, live: &routers::Live) -> Weighed {
        let baking = matches!(self.record.state, State::Baking { .. });
        let Some(weight) = self.record.state.settled(&self.record.course).filter(|_| baking) else {
            self.record.spared = None;
            return Weighed::No;
        };
        let by_hand = self.router.by_people().unwrap_or_default();
        let any = !by_hand.within.is_empty() || by_hand.blue.is_some();
        // Looked up behind the weights: one that began anew since has weights of its own.
        if any && !self.is_the_same_process() {
            return Weighed::No;
        }
        if !by_hand.within.is_empty() {
            let words = by_hand.within.join(", ");
            self.told(&format!(
                "somebody has set weights on the router ({words}): among the servers of a side they stay so"
            ));
            self.record.before.weights.extend(by_hand.weights);
            self.record.before.set.extend(by_hand.now);
            self.router.remember(&self.record.before);
            self.record.promotion.router.by_hand = self.router.by_hand(Side::Blue);
            return Weighed::Anew;
        }
        let more =
            live.green > self.router.nearest(weight) && !same_share(live.green, self.router.nearest(weight));
        match (by_hand.blue.filter(|_| more), self.record.spared.clone()) {
            (None, None) => Weighed::No,
            (None, Some(_)) => {
                self.record.spared = None;
                self.record.decided(world::now(), "trapkey", "blue has its weights again");
                self.count_anew();
                Weighed::Turned
            }
            (Some(words), Some(known)) if words == known => {
                if self.asked(Ask::Pause).is_some() {
                    return Weighed::Left;
                }
                self.record.spared = None;
                let what = format!("the promotion was resumed: blue gets its weights back ({words})");
                self.job.talk().line(Mark::Warn, &what);
                self.record.decided(world::now(), "trapkey", what);
                Weighed::Anew
            }
            (Some(words), _) => {
                self.told(&format!(
                    "somebody has given blue less on the router ({words}): it stays so until the promotion is resumed"
                ));
                self.record.spared = Some(words);
                self.count_anew();
                Weighed::Turned
            }
        }
    }

    /// Says what people have done, puts it on record, and holds the promotion.
    fn told(&mut self, what: &str) {
        self.hold(what);
        self.job.talk().line(Mark::Warn, what);
        self.record.decided(world::now(), "trapkey", what.to_owned());
    }

    /// Whether the router is certainly the process that took the weights.
    fn is_the_same_process(&mut self) -> bool {
        let before = self.record.base.as_ref().map(|base| base.instance.clone());
        let now = self.router.counters().ok().flatten().map(|counted| counted.instance);
        matches!((before, now), (Some(before), Some(now)) if before == now)
    }

    /// Whether the router's own view lets a side take users; looked at until it does, for `patience` at most. The
    /// router may need longer than we do to see that a side is well.
    pub(super) fn router_lets(&mut self, side: Side, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        loop {
            let why = match self.router.read() {
                Ok(live) if self.is_taken_out(side, &live) => {
                    format!("somebody has taken {} out of service on the router", side.word())
                }
                Ok(live) => match takes(&live, side, self.min_up()) {
                    Ok(()) => return Ok(()),
                    Err(why) => why,
                },
                // That it cannot be steered is found out by whoever steers it.
                Err(_) => return Ok(()),
            };
            let stop = side == Side::Green && (signal::stop_asked() || self.asked(Ask::Abort).is_some());
            if Instant::now() >= until || stop {
                return Err(why);
            }
            self.ticker.set(&why);
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    /// Whether people have taken a whole side out: it is closed, and not by this promotion. A green side that has
    /// had no users yet may be closed by the release before, or by the configuration.
    pub(super) fn is_taken_out(&self, side: Side, live: &routers::Live) -> bool {
        let closed = live.side(side).is_some_and(|view| view.closed);
        let fresh = side == Side::Green && self.record.promotion.shifts.is_empty();
        closed && !self.record.before.closed.contains_key(&side) && !fresh
    }

    /// The side with a share that the router holds for down, and why.
    pub(super) fn held_down(&self, weight: f64) -> Option<(Side, String)> {
        let live = self.live.as_ref()?;
        let why = |side: Side| takes(live, side, self.min_up()).err().map(|why| (side, why));
        let green = if weight > 0.0 { why(Side::Green) } else { None };
        green.or_else(|| if weight < 1.0 { why(Side::Blue) } else { None })
    }

    /// What people have done on the router since the last look: servers that they have taken out stay out, and the
    /// release is held; those that they have brought back count again. Whether there was any.
    pub(super) fn heed_people(&mut self, live: &routers::Live) -> bool {
        let Some(sides) = &live.sides else { return false };
        let any = sides.iter().any(|side| !side.taken_out.is_empty()) || self.is_taken_out(Side::Blue, live);
        if !any && self.record.before.taken_out.is_empty() {
            self.record.blue_is_out = false;
            return false;
        }
        let out: BTreeSet<String> = sides.iter().flat_map(|side| side.taken_out.iter().cloned()).collect();
        let blue_out = self.is_taken_out(Side::Blue, live);
        let mut before = self.record.before.clone();
        before.taken_out.extend(out.iter().cloned());
        // Whoever was known to be out and is not any more: the router shows those that are ours only once we
        // forget them.
        let mut all = before.clone();
        all.taken_out.clear();
        self.router.remember(&all);
        let back: Vec<String> = match self.router.read().ok().and_then(|live| live.sides) {
            Some(now) => {
                let still =
                    |name: &String| now.iter().any(|side| side.closed || side.taken_out.contains(name));
                self.record.before.taken_out.iter().filter(|name| !still(name)).cloned().collect()
            }
            None => Vec::new(),
        };
        before.taken_out.retain(|name| !back.contains(name));
        // Whoever comes back does so with a weight of people's.
        before.set.retain(|name, _| !back.contains(name));
        self.router.remember(&before);
        let mut what = Vec::new();
        if !out.is_empty() {
            what.push(format!(
                "somebody has taken {} out of service on the router: it stays so",
                words(&out)
            ));
        }
        if blue_out && !self.record.blue_is_out {
            what.push("somebody has taken all of blue out of service on the router: it stays so".into());
        }
        self.record.blue_is_out = blue_out;
        if !what.is_empty() {
            self.hold(&what.join("; "));
        }
        if !back.is_empty() {
            what.push(format!("{} is in service again", words(&back.iter().cloned().collect())));
        }
        for what in &what {
            self.job.talk().line(Mark::Warn, what);
            self.record.decided(world::now(), "trapkey", what.clone());
        }
        let changed = before != self.record.before;
        self.record.before = before;
        if changed {
            self.record.promotion.router.by_hand = self.router.by_hand(Side::Blue);
        }
        changed
    }

    /// Notes which side this promotion has taken out of service itself, where it is one.
    pub(super) fn closes(&mut self, side: Option<Side>) {
        let mut before = self.router.known().unwrap_or_else(|| self.record.before.clone());
        before.closed.retain(|closed, _| side == Some(*closed));
        if let Some(side) = side {
            before.closed.entry(side).or_default();
        }
        self.router.remember(&before);
        self.record.before = before;
    }

    /// Puts on record what the router knows by now of what people have taken out, and of what it has closed itself.
    pub(super) fn know(&mut self) {
        let Some(known) = self.router.known() else { return };
        let found: BTreeSet<String> =
            known.taken_out.difference(&self.record.before.taken_out).cloned().collect();
        if !found.is_empty() {
            let what =
                format!("somebody has taken {} out of service on the router: it stays so", words(&found));
            self.job.talk().line(Mark::Warn, &what);
            self.record.decided(world::now(), "trapkey", what);
        }
        self.record.before = known;
    }

    /// Holds the promotion before its next step, until people let it go on.
    fn hold(&mut self, why: &str) {
        let on_its_way = matches!(
            self.record.state,
            State::Deploying { .. }
                | State::Holding
                | State::CheckingGreen
                | State::Shifting { .. }
                | State::Baking { .. }
        );
        if !on_its_way || self.asked(Ask::Pause).is_some() {
            return;
        }
        let (at, promotion) = (self.clock.now().to_string(), self.record.id.clone());
        let asked = Asked {
            epoch: self.record.promotion.epoch,
            promotion,
            who: "trapkey".into(),
            at,
            why: Some(why.to_owned()),
        };
        if let Err(fault) = self.store().ask(Ask::Pause, &asked) {
            self.job.talk().line(Mark::Warn, &fault.line());
        }
    }
}

fn words(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
