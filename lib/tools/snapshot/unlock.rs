//! Removes locks that nobody holds any more.

use serde_json::json;

use super::look::plain;
use super::store::Place;
use super::{plural, to_stdout};
use crate::fault::{Exit, Fault};
use crate::world;
use crate::world::talk::{Mark, Talk};

/// Removes the stale locks of a store, or all of them, and says who held each.
///
/// Errors (4): the store cannot be read, or a lock may not be removed.
pub fn unlock(place: &Place, all: bool, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let repository = place.open()?;
    let (now, hostname) = (world::now(), world::host_name());
    let locks = match repository.locks() {
        Ok(locks) => locks,
        // One that is damaged keeps everybody out: `--all` is what helps.
        Err(fault) if all => {
            talk.line(Mark::Warn, &fault.line());
            Vec::new()
        }
        Err(fault) => {
            return Err(
                fault.help("`snapshot unlock --all` removes it with all others; see first that nobody works")
            );
        }
    };
    let mut shown = Vec::new();
    for (id, info) in &locks {
        let stale = info.stale(now, &hostname);
        let how = if info.exclusive { "exclusively" } else { "shared" };
        let (mark, fate) = match (stale, all) {
            (true, _) => (Mark::Step, "stale, goes"),
            (false, true) => (Mark::Warn, "goes, though its holder may still work"),
            (false, false) => (Mark::Step, "in use, stays"),
        };
        talk.line(mark, &format!("{}: held {how} by {}: {fate}", id.short(), plain(&info.holder())));
        shown.push(json!({
            "id": id.to_string(),
            "exclusive": info.exclusive,
            "hostname": info.hostname,
            "username": info.username,
            "pid": info.pid,
            "time": info.time,
            "stale": stale,
            "removed": stale || all,
        }));
    }
    let removed = repository.unlock(all)?;
    if json {
        to_stdout(&json!({"store": place.shown, "locks": shown, "removed": removed}))?;
    }
    let kept = locks.len().saturating_sub(removed);
    let text = match (removed, kept) {
        (0, 0) => "there is no lock".to_owned(),
        (_, 0) => format!("{} removed", plural(removed, "lock")),
        _ => format!("{} removed, {kept} in use", plural(removed, "lock")),
    };
    talk.line(Mark::Good, &text);
    Ok(Exit::Pass)
}
