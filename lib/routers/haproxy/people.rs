//! The weights that people have set while a promotion holds the split: seen by what differs from what was set.

use super::super::{ByHand, Side};
use super::servers::Server;
use super::{Haproxy, weights};
use crate::fault::Fault;

/// A server's weight as it was set and as it is.
struct Weighed<'a> {
    server: &'a Server,
    set: u32,
}

impl Weighed<'_> {
    fn is_changed(&self) -> bool {
        self.server.weight != self.set
    }

    fn part(&self) -> f64 {
        f64::from(self.server.weight) / f64::from(self.set.max(1))
    }

    fn words(&self) -> String {
        format!("{}: {} where {} was set", self.server.name, self.server.weight, self.set)
    }
}

impl Haproxy {
    /// What people have done to weights since they were set. A side that was given nothing says nothing.
    pub(super) fn weighed_by_people(&self) -> Result<ByHand, Fault> {
        let servers = self.states()?;
        let set = &self.before.set;
        let mut by_hand = ByHand::default();
        let mut whole = Vec::new();
        for side in [Side::Blue, Side::Green] {
            let own = self.of_side(side, &servers).into_iter().filter(|s| s.admitted() && s.weight > 0);
            let own = own.filter_map(|server| Some(Weighed { server, set: *set.get(&server.name)? }));
            let own: Vec<Weighed<'_>> = own.filter(|weighed| weighed.set > 0).collect();
            if !own.iter().any(Weighed::is_changed) {
                continue;
            }
            if is_whole(&own) {
                whole.push((side, own));
                continue;
            }
            for weighed in own.iter().filter(|weighed| weighed.is_changed()) {
                let was = self.own_weight(&weighed.server.name);
                by_hand.within.push(weighed.words());
                by_hand.now.insert(weighed.server.name.clone(), weighed.server.weight);
                by_hand.weights.insert(weighed.server.name.clone(), weights::in_part(was, weighed.part()));
            }
        }
        // Less on blue alone is a wish to spare blue; anything else is another split.
        if let [(Side::Blue, own)] = whole.as_slice()
            && own.iter().all(|weighed| weighed.part() < 1.0)
        {
            by_hand.blue = Some(own.iter().map(Weighed::words).collect::<Vec<_>>().join(", "));
        }
        Ok(by_hand)
    }
}

/// Whether all servers of a side have the same part of what was set, as far as whole numbers let them.
fn is_whole(own: &[Weighed<'_>]) -> bool {
    let (is, set) = own.iter().fold((0, 0), |(is, set), w| (is + w.server.weight, set + w.set));
    let part = f64::from(is) / f64::from(set.max(1));
    own.iter().all(|w| (f64::from(w.set) * part - f64::from(w.server.weight)).abs() <= 1.0)
}
