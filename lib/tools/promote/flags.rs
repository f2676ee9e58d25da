//! Feature flags of an environment: a share of users, groups, a window of time, every change on record.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::orders::{print, print_json};
use super::store;
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::world::talk::Mark;
use crate::world::{self, ci};
use crate::yaml;

mod flag;
#[cfg(test)]
mod tests;

pub use flag::{Answer, Flag, Serves, bucket, evaluate};

/// The document, beside the promote state of the environment.
const DOCUMENT: &str = "flags.json";
/// How many changes it keeps.
const KEPT: usize = 100;

/// All flags of an environment, and how they came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flags {
    /// Rises by one with every change.
    pub version: u64,
    /// The flags by name.
    pub flags: BTreeMap<String, Flag>,
    /// The newest changes, the last one last.
    pub history: VecDeque<Changed>,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// When.
    pub at: Timestamp,
    /// Who made it.
    pub who: String,
    /// The flag.
    pub flag: String,
    /// What it was before, in words; none for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is since, in words.
    pub after: String,
}

/// What is to become different; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// For whom it is on.
    pub serves: Option<Serves>,
    /// The share of users, in 0..=1.
    pub share: Option<f64>,
    /// All groups that have it.
    pub groups: Option<Vec<String>>,
    /// When it begins; none inside for no beginning.
    pub from: Option<Option<Timestamp>>,
    /// When it ends; none inside for no end.
    pub until: Option<Option<Timestamp>>,
}

impl Flags {
    /// Makes a change, and puts it on record.
    ///
    /// Errors (2): nothing is said of a new flag, or its time would end before it begins.
    pub fn change(&mut self, name: &str, change: &Change, who: &str, now: Timestamp) -> Result<(), Fault> {
        let found = self.flags.get(name);
        let before = found.map(Flag::shown);
        if *change == Change::default() {
            return Err(Fault::usage(format!("nothing is said of the flag `{name}`"))
                .help("give --on, --off, --percentage, --group, --from or --until"));
        }
        let mut flag = found.cloned().unwrap_or_default();
        let Change { serves, share, groups, from, until } = change.clone();
        flag.serves = serves.unwrap_or(flag.serves);
        flag.share = share.unwrap_or(flag.share);
        flag.from = from.unwrap_or(flag.from);
        flag.until = until.unwrap_or(flag.until);
        if let Some(groups) = groups {
            flag.groups = groups.into_iter().collect();
        }
        if let (Some(from), Some(until)) = (flag.from, flag.until)
            && from >= until
        {
            return Err(Fault::usage(format!("the flag `{name}` would end before it begins"))
                .cause(format!("from {from} until {until}"))
                .help("give both --from and --until, or --always"));
        }
        let after = flag.shown();
        self.flags.insert(name.to_owned(), flag);
        self.version += 1;
        self.history.push_back(Changed {
            at: now,
            who: who.to_owned(),
            flag: name.to_owned(),
            before,
            after,
        });
        while self.history.len() > KEPT {
            self.history.pop_front();
        }
        Ok(())
    }

    /// A flag by its name.
    ///
    /// Errors (2): there is none; the nearest one is named.
    pub fn get(&self, name: &str) -> Result<&Flag, Fault> {
        self.flags.get(name).ok_or_else(|| {
            let problem = yaml::unknown("flag", name, self.flags.keys().map(String::as_str));
            let fault = Fault::usage(problem.message);
            match problem.help {
                _ if self.flags.is_empty() => fault.help("there is none yet; `promote flag set` makes one"),
                Some(help) => fault.help(help),
                None => fault,
            }
        })
    }
}

/// Sets a flag on top of what stands there.
///
/// Errors: a name that cannot be one, or a change that makes no sense (2); the state cannot be written (4).
pub fn set(job: &Job, name: &str, change: &Change) -> Result<Exit, Fault> {
    named(name, "flag")?;
    for group in change.groups.iter().flatten() {
        named(group, "group")?;
    }
    let mut shown = String::new();
    store(job)?.revise::<Flags>(DOCUMENT, |found| {
        let mut flags = found.unwrap_or_default();
        flags.change(name, change, &ci::actor(), world::now())?;
        shown = flags.get(name)?.shown();
        Ok(Some(flags))
    })?;
    job.talk().line(Mark::Good, &format!("{name} in {}: {shown}", job.release.environment));
    Ok(Exit::Pass)
}

/// Prints all flags; with `--json` the whole document.
pub fn list(job: &Job) -> Result<Exit, Fault> {
    let flags = all(job)?;
    if job.call.json {
        print_json(&flags)?;
        return Ok(Exit::Pass);
    }
    let text: String = flags.flags.iter().map(|(name, flag)| format!("{name}: {}\n", flag.shown())).collect();
    print(&text)?;
    Ok(Exit::Pass)
}

/// Prints `on` or `off`. With `off_is_closed` a flag that is off is exit 1.
///
/// Errors (2): there is no such flag.
pub fn eval(
    job: &Job,
    name: &str,
    user: Option<&str>,
    groups: &[String],
    off_is_closed: bool,
) -> Result<Exit, Fault> {
    let flags = all(job)?;
    let answer = evaluate(name, flags.get(name)?, user, groups, world::now());
    if job.call.json {
        let Answer { on, why } = &answer;
        let value = json!({"flag": name, "user": user, "groups": groups, "on": on, "why": why});
        print_json(&value)?;
    } else {
        print(if answer.on { "on\n" } else { "off\n" })?;
        job.talk().line(Mark::Step, &answer.why);
    }
    Ok(if off_is_closed && !answer.on { Exit::Closed } else { Exit::Pass })
}

fn all(job: &Job) -> Result<Flags, Fault> {
    Ok(store(job)?.document::<Flags>(DOCUMENT)?.unwrap_or_default())
}

/// Refuses (2) a name that programs would have to quote.
fn named(name: &str, what: &str) -> Result<(), Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=100).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Fault::usage(format!("this cannot be the name of a {what}"))
        .cause(format!("`{}`", name.escape_debug()))
        .help("write letters, digits, `.`, `_` and `-`, at most 100 of them"))
}
