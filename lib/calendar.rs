//! When traffic may move forward: weekly windows, and freezes, in a time zone.

use std::borrow::Cow;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer};

/// When traffic may move forward.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calendar {
    /// The time zone that days and times are meant in, such as `Europe/Berlin`.
    pub time_zone: Zone,
    /// Only within these; at any time when absent.
    #[serde(default)]
    pub allow: Vec<Window>,
    /// Never within these, whatever `allow` says.
    #[serde(default)]
    pub freeze: Vec<Window>,
}

/// A stretch of time that comes once or every week.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Days of the week on which it begins, with times of the day; every day when absent.
    #[serde(default)]
    pub days: Vec<Day>,
    /// Its beginning: `09:00`, `2026-12-20`, or `2026-12-20T18:00`.
    pub from: Moment,
    /// Its end, the first moment that does not belong to it: `17:30` or `24:00`, or as a date the
    /// last day of it. A time before the beginning means the next day.
    pub to: Moment,
    /// Why; shown to whoever waits.
    #[serde(default)]
    pub because: Option<String>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time zone by its name in the IANA database.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(pub TimeZone);

/// A time of the day, a day, or a moment of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Minutes since midnight, 0..=1440.
    Clock(i16),
    /// A whole day.
    Day(Date),
    /// A moment of a day.
    At(DateTime),
}

/// Why traffic may not move forward now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// In words.
    pub why: String,
    /// When it may again; none when that is over a month away.
    pub opens_at: Option<Timestamp>,
}

/// How far ahead the next opening is looked for, in minutes.
const AHEAD: i64 = 32 * 24 * 60;

impl Calendar {
    /// Whether it is closed at a moment, and until when.
    pub fn closed(&self, now: Timestamp) -> Option<Closed> {
        let why = self.why_closed(now)?;
        // To the minute: windows begin and end on one.
        let minute = now.as_second() - now.as_second().rem_euclid(60);
        let opens_at = (1..=AHEAD)
            .filter_map(|n| Timestamp::from_second(minute + n * 60).ok())
            .find(|at| self.why_closed(*at).is_none());
        Some(Closed { why, opens_at })
    }

    fn why_closed(&self, now: Timestamp) -> Option<String> {
        let local = now.to_zoned(self.time_zone.0.clone()).datetime();
        if let Some(freeze) = self.freeze.iter().find(|window| window.holds(local)) {
            let because = freeze.because.as_ref().map(|b| format!(" ({b})")).unwrap_or_default();
            return Some(format!("changes are frozen{because}"));
        }
        if self.allow.is_empty() || self.allow.iter().any(|window| window.holds(local)) {
            return None;
        }
        Some("it is outside of the hours for changes".into())
    }
}

impl Window {
    /// What cannot be meant, in words.
    pub fn wrong(&self) -> Option<String> {
        let both_times = matches!((self.from, self.to), (Moment::Clock(_), Moment::Clock(_)));
        let both_dates = !matches!(self.from, Moment::Clock(_)) && !matches!(self.to, Moment::Clock(_));
        if !both_times && !both_dates {
            return Some("`from` and `to` of a window are both times of the day, or both dates".into());
        }
        if both_dates && !self.days.is_empty() {
            return Some("a window between two dates takes no `days`".into());
        }
        if self.from == self.to && both_times {
            return Some(
                "a window begins and ends at the same time: write 00:00 to 24:00 for a whole day".into(),
            );
        }
        let (begins, ends) = (self.from.begins(), self.to.ends());
        if both_dates && begins >= ends {
            return Some("a window ends before it begins".into());
        }
        None
    }

    fn holds(&self, local: DateTime) -> bool {
        if let (Moment::Clock(from), Moment::Clock(to)) = (self.from, self.to) {
            let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
            let (today, yesterday) = (local.date().weekday(), local.date().weekday().previous());
            return if from < to {
                self.on(today) && (from..to).contains(&minute)
            } else {
                (self.on(today) && minute >= from) || (self.on(yesterday) && minute < to)
            };
        }
        self.from.begins().is_some_and(|b| local >= b) && self.to.ends().is_some_and(|e| local < e)
    }

    fn on(&self, day: Weekday) -> bool {
        self.days.is_empty() || self.days.iter().any(|d| d.weekday() == day)
    }
}

impl Day {
    fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }
}

impl Moment {
    fn begins(self) -> Option<DateTime> {
        match self {
            Self::Clock(_) => None,
            Self::Day(date) => Some(date.to_datetime(Time::midnight())),
            Self::At(at) => Some(at),
        }
    }

    /// The first moment that does not belong to it.
    fn ends(self) -> Option<DateTime> {
        match self {
            Self::Day(date) => {
                date.to_datetime(Time::midnight()).checked_add(SignedDuration::from_hours(24)).ok()
            }
            other => other.begins(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "24:00" {
            return Some(Self::Clock(1440));
        }
        if text.len() == 5 && text.as_bytes()[2] == b':' {
            let time: Time = format!("{text}:00").parse().ok()?;
            return Some(Self::Clock(i16::from(time.hour()) * 60 + i16::from(time.minute())));
        }
        if let (10, Ok(date)) = (text.len(), text.parse::<Date>()) {
            return Some(Self::Day(date));
        }
        // An offset or a zone would be dropped silently, and a freeze would end hours off.
        let plain = |c: char| c.is_ascii_digit() || ":.,".contains(c);
        let (date, time) = (text.get(..10)?, text.get(11..)?);
        let both = date.parse::<Date>().is_ok() && !time.is_empty() && time.chars().all(plain);
        both.then(|| text.parse::<DateTime>().ok())?.map(Self::At)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "`{text}` is no time such as 09:00, no date such as 2026-12-20, and no 2026-12-20T18:00"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        TimeZone::get(&text).map(Self).map_err(|_| {
            de::Error::custom(format!("`{text}` is no time zone; Europe/Berlin is one, and UTC"))
        })
    }
}

macro_rules! text_schema {
    ($type:ty, $name:literal) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string" })
            }
        }
    };
}
text_schema!(Moment, "Moment");
text_schema!(Zone, "Zone");

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Day], from: &str, to: &str) -> Window {
        Window {
            days: days.to_vec(),
            from: Moment::parse(from).unwrap(),
            to: Moment::parse(to).unwrap(),
            because: None,
        }
    }

    fn berlin(allow: Vec<Window>, freeze: Vec<Window>) -> Calendar {
        Calendar { time_zone: Zone(TimeZone::get("Europe/Berlin").unwrap()), allow, freeze }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn hours_for_changes_are_meant_in_their_time_zone_summer_and_winter() {
        let work = berlin(vec![window(&[Day::Mon, Day::Tue, Day::Wed, Day::Thu], "09:00", "16:00")], vec![]);
        for (moment, open) in [
            ("2026-01-14T07:59:59Z", false),
            ("2026-01-14T08:00:00Z", true),
            ("2026-01-14T14:59:59Z", true),
            ("2026-01-14T15:00:00Z", false),
            // In summer the same hours are one hour earlier by UTC.
            ("2026-07-15T07:00:00Z", true),
            ("2026-07-15T14:00:00Z", false),
            // A Friday, and a Sunday.
            ("2026-01-16T10:00:00Z", false),
            ("2026-01-18T10:00:00Z", false),
        ] {
            assert_eq!(work.closed(at(moment)).is_none(), open, "{moment}");
        }
        let closed = work.closed(at("2026-01-16T10:00:30Z")).unwrap();
        assert_eq!(closed.opens_at, Some(at("2026-01-19T08:00:00Z")), "on Monday at nine");
    }

    #[test]
    fn a_freeze_wins_over_the_hours_and_holds_its_last_day() {
        let mut holidays = window(&[], "2026-12-20", "2027-01-02");
        holidays.because = Some("end of the year".into());
        let calendar = berlin(vec![window(&[], "00:00", "24:00")], vec![holidays]);
        assert!(calendar.closed(at("2026-12-19T22:59:59Z")).is_none());
        let closed = calendar.closed(at("2026-12-19T23:00:00Z")).unwrap();
        assert_eq!(closed.why, "changes are frozen (end of the year)");
        assert_eq!(closed.opens_at, Some(at("2027-01-02T23:00:00Z")));
        assert!(calendar.closed(at("2027-01-02T22:59:59Z")).is_some());
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = berlin(vec![window(&[Day::Sat], "22:00", "04:00")], vec![]);
        for (moment, open) in [
            ("2026-01-17T20:59:00Z", false),
            ("2026-01-17T21:00:00Z", true),
            ("2026-01-18T02:59:00Z", true),
            ("2026-01-18T03:00:00Z", false),
            ("2026-01-18T21:30:00Z", false),
        ] {
            assert_eq!(night.closed(at(moment)).is_none(), open, "{moment}");
        }
    }

    #[test]
    fn a_freeze_without_an_end_in_sight_says_so() {
        let calendar = berlin(vec![], vec![window(&[], "2026-01-01T12:00", "2030-01-01")]);
        assert_eq!(calendar.closed(at("2026-06-01T00:00:00Z")).unwrap().opens_at, None);
        assert!(calendar.closed(at("2026-01-01T10:59:59Z")).is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        assert!(window(&[], "09:00", "2026-01-01").wrong().is_some());
        assert!(window(&[Day::Mon], "2026-01-01", "2026-01-02").wrong().is_some());
        assert!(window(&[], "09:00", "09:00").wrong().is_some());
        assert!(window(&[], "2026-01-02", "2026-01-01").wrong().is_some());
        assert!(window(&[], "2026-01-01", "2026-01-01").wrong().is_none(), "one day");
        for text in ["9:00", "25:00", "12:60", "2026-13-01", "tomorrow", "", "09:00:00"] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
        // The zone is the calendar's; another one must not be dropped silently.
        for zone in ["-08:00", "+02:00", "-08", "[Asia/Tokyo]", "-08:00[America/Los_Angeles]", "Z"] {
            for text in [format!("2026-12-20T18:00{zone}"), format!("2026-12-20{zone}")] {
                assert_eq!(Moment::parse(&text), None, "{text}");
            }
        }
        assert!(Moment::parse("2026-12-20T18:00:30.5").is_some());
    }
}
