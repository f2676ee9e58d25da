//! PURE: what users get, held against what was asked. Requests through the front door are asked all through a bake,
//! and the router's counters are held against the weight: an answer that no side signed counts against the step,
//! and a split that is not there passes nothing.

use serde::{Deserialize, Serialize};

use crate::evidence::FrontDoor;
use crate::judge::{error_rate_lower, error_rate_upper};
use crate::plan::Promote;
use crate::routers::By;
use crate::units::{parse_operand, show_share};

/// How surely a finding must be none of chance: it is looked for at every look of a bake.
const SURE: f64 = 1e-5;
/// Fewer failures than this may be somebody's restart.
const FEWEST: u64 = 3;
/// The fewest requests at the front door that a bake may pass by.
const LEAST_ASKED: u64 = 5;
/// How much of the requests that are green's may fail without a signature, where no trigger says.
const ALLOWED: f64 = 0.01;
/// How far the split may differ, as a part of the smaller side, where the plan does not say.
const TOLERANCE: f64 = 0.2;

/// What was seen at the front door since the look before, or, added up, since the counting of a step began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Front {
    /// Answers that said that they are blue's.
    pub(super) blue: u64,
    /// Answers that said that they are green's.
    pub(super) green: u64,
    /// Those with a status 5xx among blue's and among green's.
    pub(super) failed: [u64; 2],
    /// What green answered to requests by its own address meanwhile: all, and the failures among them.
    #[serde(default)]
    pub(super) direct: [u64; 2],
    /// Answers that no side signed, and requests without any answer.
    pub(super) nobody: u64,
    /// What the last of these was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unsigned: Option<String>,
    /// Answers of nobody's that say that this machine asks too often (429): they say nothing of a side.
    #[serde(default)]
    pub(super) limited: u64,
    /// Requests that the router counted on blue and on green, ours among them; null where it does not count, or
    /// where users stay on their side for a reason of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) counted: Option<[u64; 2]>,
    /// Requests of ours that had no answer yet at the newest look: the router may have counted them already.
    #[serde(default)]
    pub(super) under_way: u64,
    /// Errors that the router made itself, on nobody's behalf.
    #[serde(default)]
    pub(super) made: u64,
    /// Green's share by the router's own view: the least and the greatest.
    pub(super) share: [f64; 2],
}

impl Front {
    /// Adds what a later look has seen.
    pub(super) fn add(&mut self, more: &Self) {
        let first = self.asked() == 0 && self.counted.is_none();
        self.blue += more.blue;
        self.green += more.green;
        self.failed[0] += more.failed[0];
        self.failed[1] += more.failed[1];
        self.direct[0] += more.direct[0];
        self.direct[1] += more.direct[1];
        self.nobody += more.nobody;
        self.limited += more.limited;
        self.made += more.made;
        self.under_way = more.under_way;
        if more.unsigned.is_some() {
            self.unsigned.clone_from(&more.unsigned);
        }
        if let Some([blue, green]) = more.counted {
            let own = self.counted.get_or_insert([0, 0]);
            own[0] += blue;
            own[1] += green;
        }
        self.share = if first {
            more.share
        } else {
            [self.share[0].min(more.share[0]), self.share[1].max(more.share[1])]
        };
    }

    fn asked(&self) -> u64 {
        self.blue + self.green + self.nobody
    }

    /// For the record.
    pub(super) fn for_record(&self) -> FrontDoor {
        FrontDoor {
            requests: self.asked(),
            blue: self.blue,
            green: self.green,
            nobody: self.nobody,
            unsigned: self.unsigned.clone(),
            users_on_green: self.users_on_green(),
        }
    }

    /// How many users' requests green has had at least, where the router counts: whatever can be ours is left out.
    fn users_on_green(&self) -> Option<u64> {
        let ours = self.green + self.nobody + self.under_way;
        self.counted.map(|[_, green]| green.saturating_sub(ours))
    }
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    /// Nothing is wrong.
    Fine,
    /// It proves nothing good.
    Doubt(String),
    /// Users do not get what was asked.
    Bad(String),
}

/// What was asked of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Green's share.
    pub(super) weight: f64,
    /// How requests are told apart.
    pub(super) by: &'a By,
    /// How far the split may differ, as a part of the smaller side.
    pub(super) tolerance: f64,
    /// How much of green's requests may fail, where a trigger says.
    pub(super) allowed: Option<f64>,
    /// The router's kind.
    pub(super) router: &'a str,
}

impl<'a> Asked<'a> {
    /// What a plan asks of a step.
    pub(super) fn of(plan: &'a Promote, by: &'a By, weight: f64) -> Self {
        let limits = plan.rollback_when.iter().filter(|t| t.metric == "error_rate");
        let limits = limits.filter_map(|t| {
            let above = t.is.as_ref()?.text().trim_start().strip_prefix('>')?.trim_start_matches('=').trim();
            parse_operand(above, crate::units::Unit::Share).ok()
        });
        Self {
            weight,
            by,
            tolerance: plan.split_tolerance.map_or(TOLERANCE, |share| share.0),
            allowed: limits.reduce(f64::min),
            router: &plan.router.kind,
        }
    }
}

/// Holds what was seen since a step's counting began (`all`) and since the look before (`newest`) against what was
/// asked.
pub(super) fn judge(all: &Front, newest: &Front, asked: Asked<'_>) -> Finding {
    let what = |count: u64| format!("{count} of {} requests at the front door", all.asked());
    let said = all.unsigned.as_deref().map(|s| format!(" ({s})")).unwrap_or_default();
    let unsigned = asked.allowed.map_or(ALLOWED, |allowed| allowed.min(ALLOWED));
    if too_many(all.nobody, all.nobody + all.green, unsigned) {
        return Finding::Bad(format!("{} were answered by neither side{said}", what(all.nobody)));
    }
    // Errors that green has by its own address as well are the judge's, and those that blue has no news.
    let upper = |failed: u64, of: u64| {
        if failed == 0 { 0.0 } else { error_rate_upper(failed, of, 1.0 - SURE).unwrap_or(1.0) }
    };
    let elsewhere = upper(all.failed[0], all.blue).max(upper(all.direct[1], all.direct[0]));
    if too_many(all.failed[1], all.green, asked.allowed.unwrap_or(ALLOWED).max(elsewhere)) {
        let what = what(all.failed[1]);
        return Finding::Bad(format!("{what} got an error of green's that it has not by its own address"));
    }
    if let Some([_, green]) = all.counted
        && too_many(all.made, all.made + green, unsigned)
    {
        return Finding::Bad(format!(
            "{} itself answered {} requests with an error, for nobody was there to serve them",
            asked.router, all.made
        ));
    }
    if let Some(bad) = split(all, asked) {
        return Finding::Bad(bad);
    }
    if newest.nobody > 0 && newest.nobody * 5 >= newest.asked() {
        return Finding::Doubt(format!(
            "{} of the last {} requests at the front door were answered by neither side{said}",
            newest.nobody,
            newest.asked()
        ));
    }
    if all.limited > all.asked() {
        return Finding::Doubt(format!(
            "the front door lets this machine ask only so often ({} of its answers were 429): exempt it there, or give \
             `router.entry` another address",
            all.limited
        ));
    }
    if all.asked() < LEAST_ASKED {
        return Finding::Doubt(format!("only {} requests have come back from the front door", all.asked()));
    }
    Finding::Fine
}

/// Whether so many of so many are more than what is allowed, and not by chance.
fn too_many(failed: u64, of: u64, allowed: f64) -> bool {
    failed >= FEWEST && error_rate_lower(failed, of, 1.0 - SURE).is_ok_and(|lower| lower > allowed)
}

/// Why the split is not the one that was asked.
fn split(all: &Front, asked: Asked<'_>) -> Option<String> {
    // Our own requests carry nothing that takes them aside.
    let front = if *asked.by == By::Requests {
        within(asked, all.share)
    } else {
        let whole = f64::from(u8::from(asked.weight >= 1.0));
        [whole, whole]
    };
    let off = |name: &str, green: u64, of: u64, range: [f64; 2]| {
        is_off(green, of, range).then(|| {
            format!(
                "the split of {} is not there: of {of} requests {name} green has {green}",
                show_share(asked.weight)
            )
        })
    };
    let door = off("at the front door", all.green, all.green + all.blue, front);
    // At its end a side may still have users who were there before.
    let users = all.counted.filter(|_| *asked.by == By::Requests && asked.weight > 0.0 && asked.weight < 1.0);
    door.or_else(|| {
        let [blue, green] = users?;
        off(&format!("that {} counted", asked.router), green, blue + green, within(asked, all.share))
    })
}

/// The shares that are as good as what was asked.
fn within(asked: Asked<'_>, [low, high]: [f64; 2]) -> [f64; 2] {
    let [low, high] = [low.min(asked.weight), high.max(asked.weight)];
    let give = |share: f64| asked.tolerance * share.min(1.0 - share).max(0.0);
    [(low - give(low)).max(0.0), (high + give(high)).min(1.0)]
}

/// Whether `green` of `of` cannot come from any share within a range.
fn is_off(green: u64, of: u64, [low, high]: [f64; 2]) -> bool {
    let (k, n) = (green as f64, of as f64);
    if of == 0 || (k >= low * n && k <= high * n) {
        return false;
    }
    // Where nothing or all was asked, one that goes elsewhere is enough to see, and three are no slip.
    if k > high * n && high <= 0.0 {
        return green >= FEWEST;
    }
    if k < low * n && low >= 1.0 {
        return of - green >= FEWEST;
    }
    if k > high * n { tail(of, of - green, 1.0 - high) < SURE } else { tail(of, green, low) < SURE }
}

/// The probability of at most `k` of `n`, each with `p`.
fn tail(n: u64, k: u64, p: f64) -> f64 {
    // The normal approximation is far off out here; Chernoff's bound is above the truth, and so on the safe side.
    let (n, share) = (n as f64, k as f64 / n as f64);
    if share >= p {
        return 1.0;
    }
    let part = |x: f64, y: f64| if x > 0.0 { x * (x / y).ln() } else { 0.0 };
    (-n * (part(share, p) + part(1.0 - share, 1.0 - p))).exp()
}

/// What is said of a step on which no user has been.
pub(super) fn no_user(all: &Front, asked: Asked<'_>) -> Option<String> {
    (asked.weight > 0.0 && all.users_on_green() == Some(0))
        .then(|| format!("no user's request was on green: {} counted only ours", asked.router))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(blue: u64, green: u64, nobody: u64) -> Front {
        Front { blue, green, nobody, share: [0.25, 0.25], ..Front::default() }
    }

    fn at(weight: f64) -> Asked<'static> {
        Asked { weight, by: &By::Requests, tolerance: 0.2, allowed: None, router: "haproxy" }
    }

    fn found(all: &Front, weight: f64) -> Finding {
        judge(all, &Front::default(), at(weight))
    }

    #[test]
    fn an_answer_that_no_side_signed_counts_against_the_step() {
        assert_eq!(found(&front(75, 25, 0), 0.25), Finding::Fine);
        assert!(matches!(found(&front(75, 0, 25), 0.25), Finding::Bad(why) if why.contains("neither side")));
        assert!(matches!(found(&front(75, 20, 5), 0.25), Finding::Bad(_)));
        // A connection or two that broke in a reload.
        assert_eq!(found(&front(750, 250, 2), 0.25), Finding::Fine);
        // Green's share is small, and all of it fails.
        let small = Front { share: [0.02, 0.02], ..front(980, 0, 20) };
        assert!(matches!(found(&small, 0.02), Finding::Bad(_)));
        let newest = front(4, 0, 1);
        assert!(matches!(judge(&front(75, 25, 1), &newest, at(0.25)), Finding::Doubt(_)));
    }

    #[test]
    fn a_limit_of_the_front_door_is_named_and_is_nobodys_failure() {
        let limited = Front { limited: 200, ..front(75, 25, 0) };
        assert!(matches!(found(&limited, 0.25), Finding::Doubt(why) if why.contains("429")));
        assert_eq!(found(&Front { limited: 20, ..front(75, 25, 0) }, 0.25), Finding::Fine);
    }

    #[test]
    fn few_requests_prove_nothing() {
        assert!(matches!(found(&front(3, 1, 0), 0.25), Finding::Doubt(_)));
        assert!(matches!(found(&Front::default(), 0.25), Finding::Doubt(_)));
    }

    #[test]
    fn a_split_that_is_not_there_is_found_in_both_directions() {
        assert!(
            matches!(found(&front(100, 0, 0), 0.25), Finding::Bad(why) if why.contains("front door green has 0"))
        );
        let half = Front { share: [0.05, 0.05], ..front(50, 50, 0) };
        assert!(matches!(found(&half, 0.05), Finding::Bad(_)));
        for green in [170, 200, 250, 300, 330] {
            assert_eq!(found(&front(1000 - green, green, 0), 0.25), Finding::Fine, "{green}");
        }
        let users = Front { counted: Some([488, 0]), ..front(75, 25, 0) };
        assert!(
            matches!(found(&users, 0.25), Finding::Bad(why) if why.contains("that haproxy counted green has 0"))
        );
        // One of blue's two servers was down for a while: green had more of those that serve.
        let range = Front { share: [0.25, 0.4], ..front(640, 360, 0) };
        assert_eq!(found(&range, 0.25), Finding::Fine);
        assert!(matches!(found(&front(600, 400, 0), 0.25), Finding::Bad(_)));
    }

    #[test]
    fn all_is_all_and_none_is_none() {
        let all = |blue| Front { share: [1.0, 1.0], ..front(blue, 1000, 0) };
        assert_eq!(found(&all(2), 1.0), Finding::Fine);
        assert!(matches!(found(&all(3), 1.0), Finding::Bad(_)));
        let key = By::User(crate::routers::Key::Cookie("uid".into()));
        let asked = Asked { by: &key, ..at(0.25) };
        assert_eq!(judge(&front(100, 0, 0), &Front::default(), asked), Finding::Fine, "ours have no cookie");
        assert!(matches!(judge(&front(97, 3, 0), &Front::default(), asked), Finding::Bad(_)));
    }

    #[test]
    fn errors_of_the_router_itself_and_of_green_count() {
        let made = Front { counted: Some([300, 100]), made: 20, ..front(75, 25, 0) };
        assert!(matches!(found(&made, 0.25), Finding::Bad(why) if why.contains("itself answered 20")));
        let failed = Front { failed: [0, 20], ..front(75, 25, 0) };
        assert!(matches!(found(&failed, 0.25), Finding::Bad(why) if why.contains("error of green's")));
        // Blue is no better, or the plan bears it.
        assert_eq!(found(&Front { failed: [60, 20], ..failed.clone() }, 0.25), Finding::Fine);
        // It fails by its own address as well: that is for the plan's triggers.
        assert_eq!(found(&Front { direct: [100, 80], ..failed.clone() }, 0.25), Finding::Fine);
        assert!(matches!(found(&Front { direct: [100, 0], ..failed.clone() }, 0.25), Finding::Bad(_)));
        let bears = Asked { allowed: Some(0.9), ..at(0.25) };
        assert_eq!(judge(&failed, &Front::default(), bears), Finding::Fine);
    }

    #[test]
    fn a_bake_that_no_user_saw_says_so() {
        let ours = Front { counted: Some([75, 25]), ..front(75, 25, 0) };
        assert!(no_user(&ours, at(0.25)).is_some());
        assert_eq!(no_user(&Front { counted: Some([300, 100]), ..ours }, at(0.25)), None);
        assert_eq!(no_user(&front(75, 25, 0), at(0.25)), None, "the router does not count");
    }

    #[test]
    fn looks_add_up() {
        let mut all = Front::default();
        all.add(&Front { counted: Some([3, 1]), ..front(3, 1, 0) });
        all.add(&Front {
            counted: Some([30, 10]),
            share: [0.2, 0.3],
            unsigned: Some("503".into()),
            ..front(30, 10, 1)
        });
        assert_eq!((all.blue, all.green, all.nobody, all.counted), (33, 11, 1, Some([33, 11])));
        assert!((all.share[0] - 0.2).abs() < 1e-9 && (all.share[1] - 0.3).abs() < 1e-9);
    }

    #[test]
    fn the_bound_is_never_below_the_truth() {
        let exact = |n: u64, k: u64, p: f64| -> f64 {
            let choose = |i: u64| (1..=i).map(|j| ((n - i + j) as f64 / j as f64).ln()).sum::<f64>();
            (0..=k).map(|i| (choose(i) + i as f64 * p.ln() + (n - i) as f64 * (1.0 - p).ln()).exp()).sum()
        };
        for (n, k, p) in [(100, 5, 0.25), (1000, 200, 0.25), (40, 0, 0.25), (500, 40, 0.1)] {
            let (bound, truth) = (tail(n, k, p), exact(n, k, p));
            assert!(bound >= truth && bound < truth * 1e3, "{n} {k} {p}: {bound} {truth}");
        }
    }
}
