//! Moments as logs and series write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Numbers of seconds since 1970 that are taken for such: March 1973 to the year 5138. In every finer
/// unit the same moments are a thousand times as much, so that no number has two meanings.
const SECONDS: std::ops::Range<f64> = 1e8..1e11;

/// How fine a number may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finest {
    /// Seconds or milliseconds.
    Milliseconds,
    /// Microseconds and nanoseconds too.
    Nanoseconds,
}

/// The moment in ms since 1970 of a text: RFC 3339, `21/Nov/2026:08:00:00 +0000`, or a number as [`of_number`]
/// takes it.
///
/// Errors: in words.
pub(super) fn of_text(text: &str, finest: Finest) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return of_number(number, finest);
    }
    if let Some(moment) = local_time(text.as_bytes()) {
        return Ok(moment);
    }
    let moment: Result<Timestamp, _> = text.parse();
    moment.map(Timestamp::as_millisecond).map_err(|_| {
        let start = crate::units::clipped(&crate::redact::redact(text), 40);
        format!("`{start}` is no moment; write RFC 3339 with its offset, or seconds or ms since 1970")
    })
}

/// The moment of a number, which of the units is told by its size.
///
/// Errors: in words, for numbers that stand for no moment between 1973 and 5138 in any unit.
pub(super) fn of_number(number: f64, finest: Finest) -> Result<i64, String> {
    let units: &[f64] = match finest {
        Finest::Milliseconds => &[1.0, 1e3],
        Finest::Nanoseconds => &[1.0, 1e3, 1e6, 1e9],
    };
    let seconds = units.iter().map(|unit| number / unit).find(|seconds| SECONDS.contains(seconds));
    seconds.map(|seconds| whole(seconds * 1e3)).ok_or_else(|| {
        let names = if finest == Finest::Milliseconds { "seconds nor ms" } else { "s, ms, us nor ns" };
        format!("`{number}` is neither {names} since 1970 in the years 1973 to 5138")
    })
}

/// The length of `21/Nov/2026:08:00:00 +0000`.
pub(super) const LOCAL_TIME: usize = 26;
/// The length of it without the offset.
const CIVIL: usize = 20;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The moment of `21/Nov/2026:08:00:00 +0000`, with or without thousandths behind the seconds, in ms since 1970.
pub(super) fn local_time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let (moment, offset) = text.rsplit_once(' ')?;
    let (sign, digits) = match offset.as_bytes() {
        [b'+', ..] => (1, &offset[1..]),
        [b'-', ..] => (-1, &offset[1..]),
        _ => return None,
    };
    let digits = Some(digits).filter(|d| d.len() == 4 && d.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (hours, minutes): (i64, i64) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    let utc = jiff::tz::Offset::UTC.to_timestamp(civil_time(moment)?).ok()?;
    Some(utc.as_millisecond() - sign * (hours * 3600 + minutes * 60) * 1000)
}

/// The moment of `21/Nov/2026:08:00:00.250` on the clocks of a zone, in ms since 1970. In the hour that clocks show
/// twice it is the earlier one.
pub(super) fn zoned_time(text: &[u8], zone: &TimeZone) -> Option<i64> {
    let civil = civil_time(std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?)?;
    Some(zone.to_timestamp(civil).ok()?.as_millisecond())
}

/// `21/Nov/2026:08:00:00`, with or without thousandths.
fn civil_time(text: &str) -> Option<DateTime> {
    let part = |from: usize, to: usize| -> Option<i16> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let small = |from: usize, to: usize| part(from, to).and_then(|number| i8::try_from(number).ok());
    let separators = [(2, b'/'), (6, b'/'), (11, b':'), (14, b':'), (17, b':')];
    if separators.iter().any(|(at, byte)| text.as_bytes().get(*at) != Some(byte)) {
        return None;
    }
    let thousandths = match text.get(CIVIL..)? {
        "" => 0,
        more => part(CIVIL + 1, CIVIL + 4).filter(|_| more.len() == 4 && more.starts_with('.'))?,
    };
    let month = i8::try_from(MONTHS.iter().position(|month| Some(*month) == text.get(3..6))? + 1).ok()?;
    let date = Date::new(part(7, 11)?, month, small(0, 2)?).ok()?;
    let time = Time::new(small(12, 14)?, small(15, 17)?, small(18, 20)?, 0).ok()?;
    date.to_datetime(time).checked_add(SignedDuration::from_millis(thousandths.into())).ok()
}

/// Nearest whole number.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and NaN becomes 0")]
pub(super) fn whole(number: f64) -> i64 {
    number.round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_meaning_or_none() {
        let fine = |number| of_number(number, Finest::Nanoseconds);
        let coarse = |number| of_number(number, Finest::Milliseconds);
        let ms = 1_795_248_000_123;
        assert_eq!(coarse(1_795_248_000.123), Ok(ms));
        assert_eq!(coarse(1_795_248_000_123.0), Ok(ms));
        assert_eq!(fine(1_795_248_000_123_456.0), Ok(ms));
        assert_eq!(fine(1.795_248_000_123_456e18), Ok(ms));
        for number in [0.0, 5.0, -1_795_248_000.0, 99_999_999.0, 1e15, f64::NAN, f64::INFINITY] {
            assert!(coarse(number).is_err(), "{number}");
        }
        assert!(fine(1e20).is_err());
    }

    #[test]
    fn a_text_is_rfc_3339_or_a_number() {
        let read = |text| of_text(text, Finest::Milliseconds);
        assert_eq!(read("2026-11-21T08:00:00.5Z"), Ok(1_795_248_000_500));
        assert_eq!(read("2026-11-21T09:00:00+01:00"), Ok(1_795_248_000_000));
        assert_eq!(read(" 1795248000 "), Ok(1_795_248_000_000));
        assert_eq!(read("21/Nov/2026:09:00:00 +0100"), Ok(1_795_248_000_000));
        for text in ["", "2026-11-21T08:00:00", "21/Nov/2026:08:00:00", "yesterday", "NaN"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
    #[test]
    fn local_time_has_an_offset() {
        assert_eq!(local_time(b"21/Nov/2026:08:00:00 +0000"), Some(1_795_248_000_000));
        assert_eq!(local_time(b"21/Nov/2026:08:00:00.250 +0000"), Some(1_795_248_000_250));
        assert_eq!(local_time(b"21/Nov/2026:00:30:00 -0730"), Some(1_795_248_000_000));
        for text in [
            "21/Nov/2026:08:00:60 +0000",
            "21/Nov/2026:08:00:00",
            "21/Nov/2026:08:00:00 +0x00",
            "31/Feb/2026:08:00:00 +0000",
        ] {
            assert_eq!(local_time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn without_an_offset_the_clocks_of_a_zone_count() {
        let in_zone = |text: &str, zone| zoned_time(text.as_bytes(), &TimeZone::get(zone).unwrap());
        assert_eq!(in_zone("21/Nov/2026:09:00:00.250", "Europe/Berlin"), Some(1_795_248_000_250));
        assert_eq!(in_zone("21/Nov/2026:08:00:00", "UTC"), Some(1_795_248_000_000));
        // Clocks went back at 3:00: half past two came twice.
        assert_eq!(in_zone("25/Oct/2026:02:30:00", "Europe/Berlin"), Some(1_792_888_200_000));
        for text in [
            "21/Nov/2026:08:00:00.25",
            "21/Nov/2026:08:00:00,250",
            "2026-11-21",
            "",
            "21/N\u{f6}v/2026:08:00:0",
        ] {
            assert_eq!(in_zone(text, "UTC"), None, "{text}");
        }
    }
}
