//! The passphrases that open a store: shown, added, removed, and one put in the place of another.

use std::time::Duration;

use serde_json::json;

use super::look::{print, table};
use super::store::Place;
use super::{passphrase, to_stdout};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::repository::restic::{Id, KEY_WORK, KeyInfo, Passphrase, Repository};
use crate::world::talk::{Mark, Talk};

/// What is done with the keys of a store.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Show every key: who made it, where and when
    List,
    /// Let another passphrase open the store too: that of TRAPKEY_NEW_PASSPHRASE[_FILE|_COMMAND]
    Add,
    /// Take a passphrase its right, by the id of its key
    Remove {
        /// Its id (or the beginning of it)
        id: String,
    },
    /// Put the passphrase of TRAPKEY_NEW_PASSPHRASE[_FILE|_COMMAND] in the place of the one in use
    Rotate,
}

/// Carries one of them out. With a plan (`job`) the well-known passphrase may be a new one where the plan
/// says that none is needed.
///
/// Errors: 2 for an unknown key, or without a new passphrase; 5 for a wrong passphrase, the last key, or
/// the one in use, and while somebody else uses the store; 4 when the store cannot be written.
pub fn key(
    place: &Place,
    job: Option<&Job>,
    command: &KeyCommand,
    talk: &Talk,
    json: bool,
) -> Result<Exit, Fault> {
    let mut repository = place.open()?;
    match command {
        KeyCommand::List => list(&repository, json),
        KeyCommand::Add => add(&repository, job, talk, json),
        KeyCommand::Remove { id } => remove(&repository, id, talk, json),
        KeyCommand::Rotate => rotate(&mut repository, job, talk, json),
    }
}

fn list(repository: &Repository, json: bool) -> Result<Exit, Fault> {
    let keys = repository.keys()?;
    if json {
        let key = |key: &KeyInfo| {
            json!({
                "id": key.id.to_string(),
                "created": key.created,
                "username": key.username,
                "hostname": key.hostname,
                "in_use": key.current,
            })
        };
        to_stdout(&json!({"place": repository.place(), "keys": keys.iter().map(key).collect::<Vec<_>>()}))?;
        return Ok(Exit::Pass);
    }
    let head = ["ID", "CREATED", "BY", "ON", ""].map(str::to_owned);
    let row = |key: KeyInfo| {
        let in_use = if key.current { "opened the store now" } else { "" };
        [key.id.short(), key.created, key.username, key.hostname, in_use.to_owned()]
    };
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(keys.into_iter().map(row)).collect();
    print(&table(&rows))?;
    Ok(Exit::Pass)
}

/// The new passphrase, and how much work it is to take to try it.
fn wanted(job: Option<&Job>) -> Result<(Passphrase, Duration), Fault> {
    let plan = job.and_then(|job| job.loaded.plan.snapshot.as_ref());
    let none_needed = plan.is_some_and(|section| section.encryption.is_some());
    let new = passphrase::new()?;
    match (new.is(passphrase::NONE_NEEDED), none_needed) {
        (false, _) => Ok((new, KEY_WORK)),
        // Everybody knows it: no work protects it.
        (true, true) => Ok((new, Duration::ZERO)),
        (true, false) => Err(Fault::refused(format!("everybody knows the passphrase `{}`", passphrase::NONE_NEEDED))
            .cause("whoever can read the store could read everything in it")
            .help(
                "give another one; where that is meant, say in the plan `encryption: {none_needed_because: \"…\"}` \
                 and call this with the plan",
            )),
    }
}

fn add(repository: &Repository, job: Option<&Job>, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let (new, work) = wanted(job)?;
    let (id, changed) = match repository.key_of(&new)? {
        Some(id) => (id, false),
        None => (repository.add_key(&new, work)?, true),
    };
    say(json, id, changed)?;
    let text = if changed { "opens the store now too" } else { "opens the store already" };
    talk.line(Mark::Good, &format!("the new passphrase {text}: key {}", id.short()));
    Ok(Exit::Pass)
}

fn remove(repository: &Repository, id: &str, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let keys = repository.keys()?;
    let id = meant(&keys, id)?;
    if keys.len() == 1 {
        return Err(Fault::refused("the last key cannot be removed")
            .place(repository.place())
            .cause("without one nobody could ever read the store again")
            .help("`snapshot key rotate` puts another one in its place"));
    }
    repository.remove_key(id)?;
    say(json, id, true)?;
    talk.line(Mark::Good, &format!("key {} opens the store no more", id.short()));
    talk.line(Mark::Step, KEPT_COPY);
    Ok(Exit::Pass)
}

/// What neither removing nor rotating a key can do.
const KEPT_COPY: &str = "whoever kept a copy of the old key file and knows its passphrase can still read \
    the store; where that matters, make a new store";

fn rotate(repository: &mut Repository, job: Option<&Job>, talk: &Talk, json: bool) -> Result<Exit, Fault> {
    let (new, work) = wanted(job)?;
    let id = repository.rotate_key(&new, work)?;
    say(json, id, true)?;
    talk.line(
        Mark::Good,
        &format!(
            "key {} was tried and is in the place of the old one: from now on give the new passphrase",
            id.short()
        ),
    );
    talk.line(Mark::Step, KEPT_COPY);
    Ok(Exit::Pass)
}

fn meant(keys: &[KeyInfo], beginning: &str) -> Result<Id, Fault> {
    let fits = |key: &&KeyInfo| {
        beginning.len() >= 6 && key.id.to_string().starts_with(&beginning.to_ascii_lowercase())
    };
    let found: Vec<&KeyInfo> = keys.iter().filter(fits).collect();
    match found[..] {
        [key] => Ok(key.id),
        [] => Err(Fault::usage(format!("no key `{beginning}`"))
            .help("give six or more digits of an id that `snapshot key list` shows")),
        _ => Err(Fault::usage(format!("several keys begin with `{beginning}`")).help("give more of the id")),
    }
}

fn say(json: bool, id: Id, changed: bool) -> Result<(), Fault> {
    if json { to_stdout(&json!({"key": id.to_string(), "changed": changed})) } else { Ok(()) }
}
