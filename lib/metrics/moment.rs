//! Moments as logs and series write them.

use jiff::Timestamp;

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

/// The moment in ms since 1970 of a text: RFC 3339, or a number as [`of_number`] takes it.
///
/// Errors: in words.
pub(super) fn of_text(text: &str, finest: Finest) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return of_number(number, finest);
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
        for text in ["", "2026-11-21T08:00:00", "21/Nov/2026:08:00:00 +0000", "yesterday", "NaN"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
