//! PURE: what a feature flag is, and for whom it is on.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::units::show_share;

/// A feature flag of one environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flag {
    /// For whom it is on.
    pub serves: Serves,
    /// The share of users, in 0..=1, where it is on for some.
    #[serde(default)]
    pub share: f64,
    /// The groups that have it whatever the share, where it is on for some.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Before that it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// From then on it is off again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// For whom a flag is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serves {
    /// For nobody.
    Nobody,
    /// For a share of users, and for groups.
    Some,
    /// For everybody.
    Everybody,
}

/// Whether a flag is on, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether it is on.
    pub on: bool,
    /// Why, in words.
    pub why: String,
}

/// Into how many buckets users fall: shares count to a hundredth of a percent.
const BUCKETS: u32 = 10_000;

/// The bucket of a user, in 0..10,000: the same for a flag and a user at all times, and different
/// flags share users out independently of each other.
///
/// It is the first eight bytes of SHA-256 of `NAME`, a zero byte and `USER`, as a big-endian number,
/// modulo 10,000, so that any other program can reach the same.
#[must_use]
pub fn bucket(name: &str, user: &str) -> u32 {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(user).finalize();
    let first = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    u32::try_from(first % u64::from(BUCKETS)).unwrap_or(0)
}

/// Whether a flag is on for a user of some groups, at a moment. A user's groups come before the share.
#[must_use]
pub fn evaluate(name: &str, flag: &Flag, user: Option<&str>, groups: &[String], now: Timestamp) -> Answer {
    let answer = |on, why: String| Answer { on, why };
    if let Some(from) = flag.from.filter(|from| now < *from) {
        return answer(false, format!("it begins at {from}"));
    }
    if let Some(until) = flag.until.filter(|until| now >= *until) {
        return answer(false, format!("it ended at {until}"));
    }
    match flag.serves {
        Serves::Nobody => return answer(false, "it is off for everybody".into()),
        Serves::Everybody => return answer(true, "it is on for everybody".into()),
        Serves::Some => {}
    }
    if let Some(group) = groups.iter().find(|group| flag.groups.contains(*group)) {
        return answer(true, format!("the group {group} has it"));
    }
    let share = show_share(flag.share);
    let reached = in_buckets(flag.share);
    match user {
        _ if reached == BUCKETS => answer(true, "every user has it".into()),
        None => answer(false, format!("{share} of users have it, and no user was named")),
        Some(user) if bucket(name, user) < reached => {
            answer(true, format!("this user is among the {share} that have it"))
        }
        Some(_) => answer(false, format!("this user is not among the {share} that have it")),
    }
}

/// How many buckets a share reaches; one that is not nothing reaches at least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped to 0..=10,000")]
fn in_buckets(share: f64) -> u32 {
    let buckets = (share * f64::from(BUCKETS)).round().clamp(0.0, f64::from(BUCKETS)) as u32;
    if share > 0.0 { buckets.max(1) } else { buckets }
}

impl Flag {
    /// A flag that is on for nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self { serves: Serves::Some, share: 0.0, groups: BTreeSet::new(), from: None, until: None }
    }

    /// For whom it is on, and when, in words.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut text = match self.serves {
            Serves::Nobody => "off".to_owned(),
            Serves::Everybody => "on".to_owned(),
            Serves::Some => format!("{} of users", show_share(self.share)),
        };
        if self.serves == Serves::Some && !self.groups.is_empty() {
            let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
            text.push_str(&format!(" and {}", groups.join(", ")));
        }
        if let Some(from) = self.from {
            text.push_str(&format!(", from {from}"));
        }
        if let Some(until) = self.until {
            text.push_str(&format!(", until {until}"));
        }
        text
    }
}

impl Default for Flag {
    fn default() -> Self {
        Self::new()
    }
}
