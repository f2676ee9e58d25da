//! PURE: which snapshots of a group stay, and why. Exactly restic's rules, so that both agree.
//!
//! Every rule of the plan marks what it keeps, and whatever is marked stays. Rules that count go from
//! the newest to the oldest and keep the newest of each hour, day, week, month or year in which there
//! is a snapshot. Where a rule has some of its number left at the end, the oldest snapshot stays too
//! (as restic has it from 0.16 on). Rules `within` count from the newest snapshot, not from now: a
//! service that was not released for a year loses nothing by that. The calendar is that of UTC.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::plan::Retention;
use crate::repository::restic::{Id, Snapshot};
use crate::units::{Span, show_duration};

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays, for these reasons; there is at least one.
    Keep(Vec<String>),
    /// No rule keeps it.
    Forget,
}

/// What a rule counts by.
#[derive(Clone, Copy)]
enum Every {
    One,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Every {
    /// Hourly, daily, …; for single ones `last`.
    fn word(self) -> &'static str {
        match self {
            Self::One => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// What the snapshots of the same hour, day, … have in common and no others have.
    fn of(self, time: Timestamp, number: usize) -> i64 {
        let at = time.to_zoned(TimeZone::UTC);
        let (year, month, day) = (i64::from(at.year()), i64::from(at.month()), i64::from(at.day()));
        match self {
            Self::One => i64::try_from(number).unwrap_or(i64::MAX),
            Self::Hour => ((year * 100 + month) * 100 + day) * 100 + i64::from(at.hour()),
            Self::Day => (year * 100 + month) * 100 + day,
            Self::Week => {
                let week = at.date().iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Self::Month => year * 100 + month,
            Self::Year => year,
        }
    }
}

/// A rule that keeps the newest of each hour, day, ….
struct Rule {
    every: Every,
    /// How many it may still keep; without a number as many as there are.
    left: Option<u32>,
    /// Only those after this moment.
    after: Option<Timestamp>,
    /// Its name in a reason.
    name: String,
    last: Option<i64>,
}

impl Rule {
    /// Why it keeps this one, if it does.
    fn keeps(&mut self, time: Timestamp, number: usize, oldest: bool) -> Option<String> {
        if self.left == Some(0) || self.after.is_some_and(|after| time <= after) {
            return None;
        }
        let now = Some(self.every.of(time, number));
        if now == self.last && !oldest {
            return None;
        }
        let oldest = if now == self.last { "oldest " } else { "" };
        self.last = now;
        self.left = self.left.map(|left| left - 1);
        Some(format!("{oldest}{}", self.name))
    }
}

/// Decides over the snapshots of one group, given in any order; the answer begins with the newest.
/// `now` only tells which times lie in the future and count for nothing.
pub fn decide(snapshots: &[(Id, &Snapshot)], retention: &Retention, now: Timestamp) -> Vec<(Id, Fate)> {
    let mut newest_first = snapshots.to_vec();
    newest_first.sort_by_key(|(id, snapshot)| (std::cmp::Reverse(snapshot.time), *id));
    let latest = newest_first.iter().map(|(_, snapshot)| snapshot.time).find(|time| *time < now);
    let mut rules = rules(retention, latest);
    let count = newest_first.len();
    let fate = |(number, (id, snapshot)): (usize, &(Id, &Snapshot))| {
        let mut reasons: Vec<String> = retention
            .keep_tags
            .iter()
            .filter(|tags| has_tags(snapshot, tags))
            .map(|tags| format!("has tag {tags}"))
            .collect();
        if let Some(span) = given(retention.keep_within)
            && before(latest, span).is_none_or(|after| snapshot.time > after)
        {
            reasons.push(format!("within {}", show(span)));
        }
        let oldest = number + 1 == count;
        reasons.extend(rules.iter_mut().filter_map(|rule| rule.keeps(snapshot.time, number, oldest)));
        (*id, if reasons.is_empty() { Fate::Forget } else { Fate::Keep(reasons) })
    };
    newest_first.iter().enumerate().map(fate).collect()
}

/// Whether a snapshot has all tags of a list `a,b`.
fn has_tags(snapshot: &Snapshot, tags: &str) -> bool {
    tags.split(',').all(|tag| snapshot.tags.iter().any(|has| has == tag.trim()))
}

fn given(span: Option<Span>) -> Option<Duration> {
    span.map(|span| span.0).filter(|span| !span.is_zero())
}

fn show(span: Duration) -> String {
    show_duration(span.as_secs_f64())
}

/// The moment that lies so long before the latest snapshot; none where everything lies after it.
fn before(latest: Option<Timestamp>, span: Duration) -> Option<Timestamp> {
    latest?.checked_sub(span).ok()
}

fn rules(retention: &Retention, latest: Option<Timestamp>) -> Vec<Rule> {
    let counts = [
        (Every::One, retention.keep_last),
        (Every::Hour, retention.keep_hourly),
        (Every::Day, retention.keep_daily),
        (Every::Week, retention.keep_weekly),
        (Every::Month, retention.keep_monthly),
        (Every::Year, retention.keep_yearly),
    ];
    let spans = [
        (Every::Hour, retention.keep_within_hourly),
        (Every::Day, retention.keep_within_daily),
        (Every::Week, retention.keep_within_weekly),
        (Every::Month, retention.keep_within_monthly),
        (Every::Year, retention.keep_within_yearly),
    ];
    let counted = counts.into_iter().filter_map(|(every, count)| {
        let name = format!("{} snapshot", every.word());
        Some(Rule { every, left: Some(count?), after: None, name, last: None })
    });
    let within = spans.into_iter().filter_map(|(every, span)| {
        let span = given(span)?;
        let name = format!("{} within {}", every.word(), show(span));
        Some(Rule { every, left: None, after: before(latest, span), name, last: None })
    });
    counted.chain(within).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot of a moment, with tags.
    fn snapshot(time: &str, tags: &[&str]) -> Snapshot {
        let json = serde_json::json!({"time": time, "tree": Id::of(b"tree").to_string(), "tags": tags});
        serde_json::from_value(json).unwrap()
    }

    fn retention(yaml: &str) -> Retention {
        crate::yaml::parse(yaml).unwrap().read(&crate::plan::PlanVariables::default()).unwrap()
    }

    /// The reasons by time, newest first; none where it is forgotten.
    fn table(times: &[&str], rules: &str) -> Vec<Option<String>> {
        let all: Vec<(Id, Snapshot)> =
            times.iter().map(|time| (Id::of(time.as_bytes()), snapshot(time, &["release"]))).collect();
        let shown: Vec<(Id, &Snapshot)> = all.iter().map(|(id, snapshot)| (*id, snapshot)).collect();
        let fates = decide(&shown, &retention(rules), "2026-06-01T00:00:00Z".parse().unwrap());
        assert_eq!(fates.len(), times.len());
        times
            .iter()
            .map(|time| {
                let fate = &fates.iter().find(|(id, _)| *id == Id::of(time.as_bytes())).unwrap().1;
                match fate {
                    Fate::Keep(reasons) => Some(reasons.join(", ")),
                    Fate::Forget => None,
                }
            })
            .collect()
    }

    const TIMES: [&str; 8] = [
        "2026-03-02T10:30:00Z", // Monday
        "2026-03-02T10:00:00Z",
        "2026-03-01T23:59:59Z", // Sunday, the week before
        "2026-02-28T12:00:00Z",
        "2026-02-01T12:00:00Z",
        "2026-01-01T00:00:00Z", // of the week that began in 2025
        "2025-12-31T23:59:59Z",
        "2024-12-30T12:00:00Z",
    ];

    #[test]
    fn every_rule_keeps_the_newest_of_each_of_its_buckets() {
        let cases: [(&str, &[usize]); 12] = [
            ("{keep_last: 3}", &[0, 1, 2]),
            ("{keep_last: 99}", &[0, 1, 2, 3, 4, 5, 6, 7]),
            ("{keep_hourly: 2}", &[0, 2]),
            ("{keep_daily: 3}", &[0, 2, 3]),
            ("{keep_weekly: 3}", &[0, 2, 4]),
            ("{keep_weekly: 4}", &[0, 2, 4, 5]),
            ("{keep_monthly: 3}", &[0, 3, 5]),
            ("{keep_yearly: 2}", &[0, 6]),
            ("{keep_within: 2d}", &[0, 1, 2, 3]),
            ("{keep_within_hourly: 1d}", &[0, 2]),
            ("{keep_within_monthly: 40d}", &[0, 3]),
            ("{keep_daily: 1, keep_yearly: 2, keep_last: 2}", &[0, 1, 6]),
        ];
        for (rules, expected) in cases {
            let kept: Vec<usize> = table(&TIMES, rules)
                .iter()
                .enumerate()
                .filter(|(_, why)| why.is_some())
                .map(|(n, _)| n)
                .collect();
            assert_eq!(kept, expected, "{rules}");
        }
    }

    #[test]
    fn reasons_name_every_rule_that_keeps_it() {
        let why = table(&TIMES, "{keep_last: 1, keep_daily: 1, keep_within: 1h, keep_tags: [release]}");
        assert_eq!(why[0].as_deref(), Some("has tag release, within 1 h, last snapshot, daily snapshot"));
        assert_eq!(why[1].as_deref(), Some("has tag release, within 1 h"));
        assert_eq!(why[2].as_deref(), Some("has tag release"));
    }

    #[test]
    fn the_oldest_stays_while_a_rule_has_some_of_its_number_left() {
        let times = ["2026-03-02T10:00:00Z", "2026-03-02T09:00:00Z", "2026-03-02T08:00:00Z"];
        let why = table(&times, "{keep_daily: 2}");
        assert_eq!(why[0].as_deref(), Some("daily snapshot"));
        assert_eq!(why[1], None);
        assert_eq!(why[2].as_deref(), Some("oldest daily snapshot"));
        assert_eq!(table(&times, "{keep_daily: 1}")[2], None);
    }

    #[test]
    fn a_list_of_tags_keeps_what_has_any_entry_and_an_entry_may_ask_for_several() {
        let all = [
            (Id::of(b"1"), snapshot(TIMES[0], &["a", "b"])),
            (Id::of(b"2"), snapshot(TIMES[1], &["a"])),
            (Id::of(b"3"), snapshot(TIMES[2], &["c"])),
            (Id::of(b"4"), snapshot(TIMES[3], &[])),
        ];
        let shown: Vec<(Id, &Snapshot)> = all.iter().map(|(id, snapshot)| (*id, snapshot)).collect();
        let fates = decide(&shown, &retention("{keep_tags: [\"a,b\", c]}"), Timestamp::now());
        let kept: Vec<bool> = fates.iter().map(|(_, fate)| *fate != Fate::Forget).collect();
        assert_eq!(kept, [true, false, true, false]);
    }

    #[test]
    fn times_in_the_future_are_not_what_within_counts_from() {
        let times = ["2027-01-01T00:00:00Z", TIMES[0], TIMES[1], TIMES[3]];
        let why = table(&times, "{keep_within: 1h}");
        assert_eq!(why.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);
        // Where all of them lie there, nothing can be said, and everything stays.
        let why = table(&["2027-01-01T00:00:00Z", "2026-12-01T00:00:00Z"], "{keep_within: 1h}");
        assert!(why.iter().all(Option::is_some));
    }

    #[test]
    fn what_is_kept_does_not_depend_on_the_order_and_nothing_is_nothing() {
        let mut turned = TIMES;
        turned.reverse();
        let mut why = table(&turned, "{keep_weekly: 3, keep_last: 2}");
        why.reverse();
        assert_eq!(why, table(&TIMES, "{keep_weekly: 3, keep_last: 2}"));
        assert!(decide(&[], &retention("{keep_last: 1}"), Timestamp::now()).is_empty());
        assert!(retention("{keep_last: 0, keep_within: 0s}").names_nothing());
        assert!(!retention("{keep_last: 0, keep_yearly: 1}").names_nothing());
    }
}
