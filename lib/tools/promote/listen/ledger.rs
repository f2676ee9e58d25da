//! What was called for and by whom, and which alerts hold a release.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::alerts::{Alert, Wish};
use crate::fault::Fault;
use crate::job::Job;
use crate::state::Store;
use crate::world;
use crate::world::talk::Mark;

/// The document beside the promote state.
const DOCUMENT: &str = "calls.json";
/// How many calls it keeps.
const KEPT: usize = 100;

/// Everything that is on record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Ledger {
    /// The alerts that asked for a pause and are not over.
    #[serde(default)]
    pausing: Vec<Pausing>,
    /// How many calls there were before those that are kept.
    #[serde(default)]
    earlier: u64,
    /// The newest calls, the last one last.
    calls: VecDeque<Called>,
}

/// An alert that asked for a pause of a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pausing {
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

/// What an alert changes about who holds a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is one more that holds it.
    Holds,
    /// It was heard before.
    Known,
    /// It holds it no longer.
    LetsGo,
}

/// The alerts that hold a promotion.
///
/// Errors (4): the record cannot be read.
pub(super) fn pausing(place: &Store, epoch: u64) -> Result<Vec<Pausing>, Fault> {
    let mut pausing = place.document::<Ledger>(DOCUMENT)?.unwrap_or_default().pausing;
    // What held an earlier release holds this one only when it is told anew.
    pausing.retain(|p| p.epoch == epoch);
    Ok(pausing)
}

/// Takes an alert into account. One that fires anew, with another beginning, is another one.
pub(super) fn heed(pausing: &mut Vec<Pausing>, epoch: u64, alert: &Alert, wish: &Wish) -> Turn {
    let this = Pausing { epoch, fingerprint: alert.fingerprint(), since: alert.since() };
    let known = pausing.contains(&this);
    let held = pausing.iter().any(|p| p.fingerprint == this.fingerprint);
    pausing.retain(|p| p.fingerprint != this.fingerprint);
    if *wish == Wish::Pause {
        pausing.push(this);
        return if known { Turn::Known } else { Turn::Holds };
    }
    if held { Turn::LetsGo } else { Turn::Known }
}

/// Puts an accepted call on record, and says it. `pausing` takes the place of what is on record.
///
/// Errors (4): it cannot be written.
pub(super) fn note(
    job: &Job,
    place: &Store,
    who: &str,
    what: &str,
    pausing: Option<&[Pausing]>,
) -> Result<(), Fault> {
    job.talk().line(Mark::Step, &format!("{who}: {what}"));
    place.revise::<Ledger>(DOCUMENT, |found| {
        let mut ledger = found.unwrap_or_default();
        if let Some(pausing) = pausing {
            ledger.pausing = pausing.to_vec();
        }
        ledger.calls.push_back(Called { at: world::now(), who: who.to_owned(), what: what.to_owned() });
        while ledger.calls.len() > KEPT {
            ledger.calls.pop_front();
            ledger.earlier += 1;
        }
        Ok(Some(ledger))
    })
}
