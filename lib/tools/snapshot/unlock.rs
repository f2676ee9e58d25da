//! Removes locks that nobody holds any more.

use serde_json::json;

use super::look::plain;
use super::store::Place;
use super::{plural, to_stdout};
use crate::fault::{Exit, Fault};
use crate::repository::restic::{Id, LockInfo};
use crate::world::talk::{Mark, Talk};

/// Removes the stale locks of a store, or all of them, and says who held each. One of another machine is
/// watched for as long as it says that it lasts.
///
/// Errors (4): the store cannot be read, or a lock may not be removed.
pub fn unlock(place: &Place, all: bool, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let repository = place.open()?;
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
    if all {
        // Before they go: whoever still works is told of it then.
        for (_, info) in &locks {
            talk.line(Mark::Warn, &format!("is going to remove the lock {}", held(info)));
        }
    }
    let ticker = talk.ticker();
    ticker.set("watching whether locks are still written anew");
    let removed = repository.unlock(all)?;
    drop(ticker);
    let after: Vec<Id> = repository.locks()?.into_iter().map(|(id, _)| id).collect();
    let mut shown = Vec::new();
    for (id, info) in &locks {
        let gone = !after.contains(id);
        let (mark, fate) = if gone { (Mark::Good, "removed") } else { (Mark::Step, "in use, stays") };
        talk.line(mark, &format!("{} {}: {fate}", id.short(), held(info)));
        shown.push(json!({
            "id": id.to_string(),
            "exclusive": info.exclusive,
            "hostname": info.hostname,
            "username": info.username,
            "pid": info.pid,
            "time": info.time,
            "removed": gone,
        }));
    }
    if json {
        to_stdout(&json!({"store": place.shown, "locks": shown, "removed": removed}))?;
    }
    let text = match (removed, after.len()) {
        (0, 0) => "there is no lock".to_owned(),
        (_, 0) => format!("{} removed", plural(removed, "lock")),
        (_, kept) => format!("{} removed, {kept} in use", plural(removed, "lock")),
    };
    talk.line(Mark::Good, &text);
    Ok(Exit::Pass)
}

/// How it is held, and by whom.
fn held(info: &LockInfo) -> String {
    let how = if info.exclusive { "exclusively" } else { "shared" };
    format!("held {how} by {}", plain(&info.holder()))
}
