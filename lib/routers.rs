//! Every traffic router: set a split, read it back, say what it counted.
//!
//! The contract of a router, run over every kind by the same tests: a set is followed by a read that
//! agrees; setting twice is setting once; an unreachable, hanging or babbling router is a fault
//! within the time limit; a split that the router cannot represent is refused before anything moves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::plan::{Loaded, Raw, RouterSpec, SplitBy, SplitSpec};
use crate::units::{Text, show_share};
use crate::yaml::{self, Problem};

mod caddy;
mod command;
mod envoy;
mod haproxy;
mod nginx;
mod servers;
mod traefik;
mod ways;
mod weights;

pub(crate) use ways::resolve;

/// Every router that a plan may name.
pub static ALL: &[&Kind] =
    &[&haproxy::KIND, &nginx::KIND, &envoy::KIND, &traefik::KIND, &caddy::KIND, &command::KIND];

/// One kind of router.
pub struct Kind {
    /// Its name in the plan.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// What `target` is.
    pub target: &'static str,
    /// A `router:` block that works.
    pub example: &'static str,
    /// The JSON Schema of `with`.
    pub settings: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the settings; touches nothing.
    pub open: fn(&Order<'_>) -> Result<Box<dyn Router>, Problem>,
}

/// What a kind is opened with.
pub struct Order<'a> {
    /// The socket, address or file.
    pub target: &'a Text,
    /// The settings of the kind.
    pub with: &'a Raw,
    /// Where `${…}` finds its values.
    pub variables: &'a dyn yaml::Variables,
    /// The folder of the plan.
    pub folder: &'a Path,
    /// Time for one answer.
    pub timeout: Duration,
    /// How requests are told apart.
    pub split: &'a By,
}

/// How requests are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Each by itself: a weight is a share of requests.
    Requests,
    /// By user, in stable buckets: a weight is a share of the users that the key names. A request
    /// without the key goes to blue until green has everything.
    User(Key),
    /// Requests whose key has this value go to green as soon as its share is above 0; all others stay
    /// on blue until it is 1.
    Match(Key, String),
}

/// What of a request tells it apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A request header, in lowercase.
    Header(String),
    /// A cookie.
    Cookie(String),
}

impl By {
    /// What a plan says, checked: names and values are plain words, so that no router's configuration
    /// can be broken out of.
    ///
    /// Errors: in words, what is missing, too much, or no plain word.
    pub fn of(spec: &SplitSpec) -> Result<Self, String> {
        let plain = |what: &str, text: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            if !text.is_empty() && text.chars().all(fits) {
                return Ok(());
            }
            Err(format!("the {what} `{text}` of `split` must be of letters, digits, `-` and `_`"))
        };
        let key = match (&spec.header, &spec.cookie) {
            (Some(name), None) => {
                plain("header", name)?;
                Some(Key::Header(name.to_ascii_lowercase()))
            }
            (None, Some(name)) => {
                plain("cookie", name)?;
                Some(Key::Cookie(name.clone()))
            }
            (None, None) => None,
            (Some(_), Some(_)) => return Err("`split` takes a header or a cookie, not both".into()),
        };
        match (spec.by, key, &spec.value) {
            (SplitBy::Requests, None, None) => Ok(Self::Requests),
            (SplitBy::Requests, ..) => Err("`split` with a key needs `by: user` or `by: match`".into()),
            (SplitBy::User, Some(key), None) => Ok(Self::User(key)),
            (SplitBy::User, Some(_), Some(_)) => {
                Err("`split` by user takes no `value`: every value is a user".into())
            }
            (SplitBy::Match, Some(key), Some(value)) => {
                plain("value", value)?;
                Ok(Self::Match(key, value.clone()))
            }
            (SplitBy::Match, Some(_), None) => Err("`split` by match needs the `value` to match".into()),
            (_, None, _) => Err("`split` needs the `header` or the `cookie` to go by".into()),
        }
    }

    /// What a weight is a share of, for people; none where it is requests, each by itself.
    pub fn words(&self) -> Option<String> {
        let named = |key: &Key| match key {
            Key::Header(name) => format!("header {name}"),
            Key::Cookie(name) => format!("cookie {name}"),
        };
        match self {
            Self::Requests => None,
            Self::User(key) => Some(format!("users by {}", named(key))),
            Self::Match(key, value) => Some(format!("only requests with {} = {value}", named(key))),
        }
    }

    /// The refusal of a router that can only weigh requests, for its `open`.
    ///
    /// Errors: in words, whenever it is anything else.
    pub fn only_requests(&self, router: &str) -> Result<(), String> {
        match self {
            Self::Requests => Ok(()),
            Self::User(_) => Err(format!("{router} cannot keep users in stable buckets by `split`")),
            Self::Match(..) => Err(format!("{router} cannot tell requests apart by `split`")),
        }
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The old side.
    Blue,
    /// The new side.
    Green,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// `blue` or `green`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

/// How traffic is split: green's share in 0..=1, and whether a side without share is closed at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Green's share.
    pub green: f64,
    /// A side with nothing is taken out for sticky users too (a rollback); otherwise it only gets no
    /// new ones.
    pub close_idle_side: bool,
}

impl Split {
    /// Whether users go back to where they were. A way back that cannot be confirmed stays on disk all the
    /// same: the split of before would put users onto the bad side with the next reload by anybody.
    pub fn is_way_back(&self) -> bool {
        self.green <= 0.0
    }
}

/// What the router runs now, read back from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Live {
    /// Green's share by the weights in force.
    pub green: f64,
    /// Green's share when servers that the router itself holds for down are left out; null when
    /// nothing is left, or the router has no view of its own.
    pub effective: Option<f64>,
    /// What the router itself says of blue and of green; null where it looks after nobody.
    pub sides: Option<[SideView; 2]>,
    /// What gets users and is on neither side, each in words.
    pub strangers: Vec<String>,
    /// The numbers behind it, for the record.
    pub raw: serde_json::Value,
}

impl Live {
    /// A share, of a router that has no view of its own.
    pub fn of(green: f64, raw: serde_json::Value) -> Self {
        Self { green, effective: None, sides: None, strangers: Vec::new(), raw }
    }

    /// What the router itself says of a side.
    pub fn side(&self, side: Side) -> Option<&SideView> {
        let [blue, green] = self.sides.as_ref()?;
        Some(if side == Side::Blue { blue } else { green })
    }
}

/// What a router itself says of one side: its own health checks, and what people have taken out of service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SideView {
    /// How many servers would be given users.
    pub serving: u32,
    /// How many are meant to: all of the side but those that people had taken out before the promotion.
    pub of: u32,
    /// Those that the router holds for down, each with its reason: `green2: DOWN (L4CON)`.
    pub down: Vec<String>,
    /// Those that serve, and whose weight is still rising, by name.
    pub warming: Vec<String>,
    /// Those that people have taken out of service while others of the side are in it, by name.
    pub taken_out: Vec<String>,
    /// Nothing of the side is in service, so the router does not look after it: Trapkey has closed it, or
    /// somebody else.
    pub closed: bool,
}

impl SideView {
    /// Why the side cannot take users, by the router's own view; none where it can, or where the router does not
    /// look because the side is closed. `min_up` is the least share of its servers, in 0..=1.
    pub fn cannot_serve(&self, min_up: f64) -> Option<String> {
        let enough = self.serving > 0 && f64::from(self.serving) >= min_up * f64::from(self.of) - 1e-9;
        if self.closed || enough {
            return None;
        }
        let why = if self.down.is_empty() { "it says no more".into() } else { self.down.join(", ") };
        Some(format!("the router itself has {} of {} servers up: {why}", self.serving, self.of))
    }
}

/// What was found on a router when a promotion began: left to people, or given back at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// The weights of servers that share a side unequally, by name.
    pub weights: BTreeMap<String, u32>,
    /// Servers that people have taken out of service, by name: they stay so.
    pub taken_out: BTreeSet<String>,
    /// Sides that a promotion has taken out of service itself, each with those of its servers that were in it, by name;
    /// none where the router has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<Side, BTreeSet<String>>,
    /// The weights that a promotion has set last, by name: what differs was set by somebody else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, u32>,
}

impl Before {
    /// Whether a promotion has taken a server out itself.
    pub fn has_closed(&self, server: &str) -> bool {
        self.closed.values().any(|servers| servers.contains(server))
    }
}

/// What a router would do once it is reloaded or restarted with the configuration that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct AfterReload {
    /// Green's share then.
    pub green: f64,
    /// The lines that have to change so that it stays as it is now.
    pub change: Vec<String>,
}

/// Something of the router's configuration, besides the split, that leads to servers of a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherWay {
    /// The side whose servers it leads to.
    pub side: Side,
    /// What it is: "server `a1` of the backend `admin`".
    pub name: String,
    /// Where it is: an address, a file with its line, a path in the configuration. Without secrets.
    pub place: String,
}

impl OtherWay {
    /// The same for people.
    pub fn line(&self) -> String {
        format!("{} ({})", self.name, self.place)
    }
}

/// What people have done to the weights of a split, while the process of the router that took it went on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByHand {
    /// Servers that have another part of their side than was set, each in words: `blue2: 8 where 60 was set`.
    pub within: Vec<String>,
    /// The weights that these have among those of their side then, by name.
    pub weights: BTreeMap<String, u32>,
    /// The weights that they have now, by name.
    pub now: BTreeMap<String, u32>,
    /// All of blue has less than was set, in words.
    pub blue: Option<String>,
}

/// How many of the last requests stand behind [`SideCount::mean_ms`].
pub const MEAN_OF_LAST: u64 = 1024;

/// What the router counted for one side since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideCount {
    /// Requests, those that never reached it among them.
    pub requests: u64,
    /// Requests that were given to it so far, where the router tells: those that are not answered yet among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<u64>,
    /// Every failure: answers 5xx, broken answers, connections that failed, requests that were tried again or
    /// moved to another server.
    pub errors: u64,
    /// Mean time of the last requests (HAProxy: 1024) in ms; null when nothing was served.
    pub mean_ms: Option<f64>,
    /// Greatest time since the start in ms.
    pub max_ms: Option<f64>,
    /// Requests under way.
    pub current: u64,
}

/// What the router counted for both sides since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Blue.
    pub blue: SideCount,
    /// Green.
    pub green: SideCount,
    /// Errors that the router made itself and that belong to no side: nobody was there to answer.
    #[serde(default)]
    pub nobody: u64,
    /// Whether users stay where they are for a reason of their own (a cookie of the router's): then their
    /// requests do not follow the weight.
    #[serde(default)]
    pub sticky: bool,
    /// What tells one start of the router from the next; counters begin anew with it.
    pub instance: String,
}

/// A traffic router.
pub trait Router: Send {
    /// Whether the router can do what is asked; touches nothing.
    ///
    /// Errors: unreachable (4); a server, a backend or a status address is missing, or the router
    /// cannot be steered (2).
    fn check(&mut self) -> Result<(), Fault>;

    /// Which router this is, where it is and which servers are its sides, `old` being the side that served first: one
    /// line each. Two plans that say the same here steer the same, whatever else they say. No secrets, no commands.
    fn identity(&self, old: Side) -> Vec<String>;

    /// Whether the router knows green already. What [`Self::check`] needs is there without it: a deploy hook may be
    /// what brings green.
    ///
    /// Errors: unreachable (4); it knows no such server or service (2).
    fn green_is_known(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// What else of the router's configuration leads to the servers of a side: whoever takes a side down cuts the users
    /// of those ways too. None where the router cannot show it.
    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        Ok(None)
    }

    /// What people have done to the weights of single servers since a split was set, where the process of the router is
    /// still the same.
    fn by_people(&mut self) -> Result<ByHand, Fault> {
        Ok(ByHand::default())
    }

    /// What is there now that a promotion leaves to people or gives back. `known` is what the promotion before has
    /// found: a server that it had closed says nothing of its own weight.
    fn before(&mut self, _known: &Before) -> Result<Before, Fault> {
        Ok(Before::default())
    }

    /// Takes over what was found when the promotion began, or what has been seen since. Touches nothing.
    fn remember(&mut self, _before: &Before) {}

    /// The same with what it has done and found itself since, for the record; null where nothing is left to people.
    fn known(&self) -> Option<Before> {
        None
    }

    /// What a reload or a restart of the router would make of the split; null where the split lies in its
    /// configuration, or where that cannot be known.
    fn after_reload(&mut self) -> Result<Option<AfterReload>, Fault> {
        Ok(None)
    }

    /// The share nearest to `green` that the router can represent.
    fn nearest(&self, green: f64) -> f64;

    /// Puts a split into force. Setting the split that is in force changes nothing.
    fn set(&mut self, split: Split) -> Result<(), Fault>;

    /// Reads what is in force from the running router, never from a file.
    fn read(&mut self) -> Result<Live, Fault>;

    /// Lets the open requests of a side that has no share end, within `limit`. Returns how many are left.
    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault>;

    /// Takes a side that was drained out of service, and cuts the requests that are `left`.
    ///
    /// Errors: it has users again.
    fn close(&mut self, _side: Side, _left: u64, _limit: Duration) -> Result<(), Fault> {
        Ok(())
    }

    /// Both. Returns how many requests were cut.
    fn retire(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        let left = self.drain(side, limit)?;
        self.close(side, left, limit)?;
        Ok(left)
    }

    /// Whether [`Self::drain`] sees the open requests of a side; otherwise it can only give them time.
    fn sees_open_requests(&self) -> bool {
        true
    }

    /// What the router counted, where it counts per side.
    fn counters(&mut self) -> Result<Option<Counters>, Fault>;

    /// The exact commands that give all traffic to a side without Trapkey.
    fn by_hand(&self, side: Side) -> Vec<String>;
}

/// Opens the router of a plan. Touches nothing.
///
/// Errors (2): an unknown kind (the nearest known one is named), or settings that do not validate.
pub fn open(spec: &RouterSpec, loaded: &Loaded) -> Result<Box<dyn Router>, Fault> {
    let Some(kind) = ALL.iter().find(|k| k.name == spec.kind) else {
        return Err(loaded.fault(yaml::unknown("router kind", &spec.kind, ALL.iter().map(|k| k.name))));
    };
    let order = Order {
        target: &spec.target,
        with: &spec.with,
        variables: &loaded.variables,
        folder: &loaded.folder,
        timeout: spec.timeout.map_or(Duration::from_secs(5), |t| t.0),
        split: &By::of(&spec.split).map_err(|why| {
            let place = spec.with.0.as_ref().map(|node| node.place);
            let example = Some("for example split: {by: user, cookie: uid}".into());
            loaded.fault(Problem { place, message: why, help: example })
        })?,
    };
    (kind.open)(&order).map_err(|problem| loaded.fault(problem))
}

/// Whether two shares are the same within what is lost on the way to a router and back. A small share is
/// never the same as none, nor one that leaves few the same as all.
pub fn same_share(a: f64, b: f64) -> bool {
    let small = a.max(b).min(1.0 - a.min(b)).max(0.0);
    (a - b).abs() <= (small / 4.0).clamp(1e-9, 0.000_5)
}

/// Puts a file of the router's back as it was, where it still is as this job has written it: one that comes late
/// must not undo what another has written since.
fn take_back(file: &Path, ours: &str, swap: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    match crate::world::files::read_text(file) {
        Ok(there) if there != ours => Ok(()),
        _ => swap(),
    }
}

/// Refuses (2) a share that the router cannot represent to within a tenth of it.
pub fn representable(router: &dyn Router, green: f64) -> Result<f64, Fault> {
    let nearest = router.nearest(green);
    if (nearest - green).abs() <= 0.1 * green {
        return Ok(nearest);
    }
    Err(Fault::usage(format!("the router cannot give green {}", show_share(green)))
        .cause(format!("the nearest that its weights allow is {}", show_share(nearest)))
        .help("choose another weight for this step"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_back_only_where_it_still_is_ones_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("split.conf");
        let swaps = |there: &str| {
            std::fs::write(&file, there).unwrap();
            let mut swapped = false;
            take_back(&file, "ours", || {
                swapped = true;
                Ok(())
            })
            .unwrap();
            swapped
        };
        assert!(swaps("ours"));
        assert!(!swaps("a later release's"));
    }

    #[test]
    fn a_small_share_is_not_none_and_a_large_one_not_all() {
        for share in [0.0, 0.0001, 0.0004, 0.05, 0.5, 0.9996, 1.0] {
            assert!(same_share(share, share) && same_share(share, share + 1e-12), "{share}");
        }
        for (a, b) in [(0.0, 0.0004), (0.0001, 0.0002), (0.9996, 1.0), (0.05, 0.0506), (0.0, 1.0)] {
            assert!(!same_share(a, b) && !same_share(b, a), "{a} {b}");
        }
        assert!(same_share(0.5, 0.5004));
    }
}
