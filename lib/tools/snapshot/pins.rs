//! Pins a snapshot, so that nothing removes it; and unpins it.

use serde_json::json;

use super::look::plain;
use super::store::Place;
use super::to_stdout;
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::redact::redact;
use crate::repository::restic::{Known, Repository};
use crate::world::talk::{Mark, Talk};

/// A reason is a sentence, not a document.
const LONGEST_REASON: usize = 500;

/// Pins a snapshot: neither `prune` nor `restic forget --keep-tag pinned` removes it.
///
/// Errors: 2 for an unknown snapshot, or a reason that is none; 5 while somebody prunes; 4 when the
/// store cannot be written.
pub fn pin(place: &Place, id: &str, why: Option<&str>, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    if let Some(why) = why
        && (why.trim().is_empty() || why.len() > LONGEST_REASON || why.contains(char::is_control))
    {
        return Err(Fault::usage("the reason of a pin is one line of text")
            .place("--why")
            .help(format!("write up to {LONGEST_REASON} bytes without line breaks")));
    }
    let repository = place.open()?;
    let known = known(&repository, id)?;
    let before = known.pin.clone();
    let pin = match &before {
        Some(pin) => pin.id,
        // It stays as long as the snapshot: what looks like a secret does not get into it.
        None => repository.pin(known.id, why.map(redact).as_deref())?,
    };
    if json {
        to_stdout(&json!({
            "id": known.id.to_string(),
            "pin": pin.to_string(),
            "why": before.as_ref().map_or(why, |pin| pin.why.as_deref()),
            "changed": before.is_none(),
        }))?;
    }
    let name = short(&known.id.to_string());
    match before {
        None => talk.line(Mark::Good, &format!("{name} is pinned: it stays until `snapshot unpin {name}`")),
        Some(pin) => {
            let why = pin.why.map(|why| format!(": {}", plain(&why))).unwrap_or_default();
            let again = if why.is_empty() { "" } else { "; to change the reason, unpin it first" };
            talk.line(Mark::Good, &format!("{name} is pinned already{why}{again}"));
        }
    }
    Ok(Exit::Pass)
}

/// Takes the pin of a snapshot away; the retention decides over it from the next `prune` on.
///
/// Errors: 2 for an unknown snapshot; 5 while somebody else uses the store; 4 when the store cannot be
/// written, or lets nothing be removed.
pub fn unpin(place: &Place, id: &str, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let repository = place.open()?;
    let known = known(&repository, id)?;
    let stays = repository.unpin(&known)?;
    if json {
        to_stdout(&json!({"id": stays.to_string(), "changed": known.pin.is_some()}))?;
    }
    let name = short(&stays.to_string());
    let text = match &known.pin {
        None => format!("{name} was not pinned"),
        Some(pin) if pin.id == known.id => {
            format!("{} is not pinned any more; its id is {name} now", short(&known.id.to_string()))
        }
        Some(_) => format!("{name} is not pinned any more"),
    };
    talk.line(Mark::Good, &text);
    Ok(Exit::Pass)
}

fn known(repository: &Repository, id: &str) -> Result<Known, Fault> {
    let id = repository.find(id)?;
    repository.known()?.0.into_iter().find(|known| known.id == id).ok_or_else(|| {
        Fault::usage(format!("no snapshot {}", id.short())).help("somebody forgot it at this moment")
    })
}
