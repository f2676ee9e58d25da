//! Numbers exactly as they were written, of any length.

use std::cmp::Ordering;
use std::fmt;

/// A decimal number with every digit that was written: `9007199254740993` is not `…992`, and `1e-3` is `0.001`.
///
/// Two are equal when their values are, however they were written.
#[derive(Clone, Debug)]
pub struct Decimal {
    text: String,
    negative: bool,
    /// The digits that count, without zeros at either end; none for 0.
    digits: Vec<u8>,
    /// The value is `0.DIGITS` times ten to this power.
    exponent: i64,
}

impl Decimal {
    /// Reads `5`, `-0.50`, `.5`, `1e-3`, `+2E6`; nothing else, so neither `0x10` nor `1,5` nor `NaN`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, power) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, whole(power)?),
            None => (unsigned, 0),
        };
        let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let written = [before, after].concat().into_bytes();
        if written.is_empty() || !written.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let zeros = written.iter().take_while(|digit| **digit == b'0').count();
        let end = written.iter().rposition(|digit| *digit != b'0').map_or(zeros, |last| last + 1);
        let digits = written[zeros..end].to_vec();
        let exponent = if digits.is_empty() {
            0
        } else {
            let point = i64::try_from(before.len()).ok()?.checked_sub(i64::try_from(zeros).ok()?)?;
            point.checked_add(power)?
        };
        let negative = text.starts_with('-') && !digits.is_empty();
        Some(Self { text: text.to_owned(), negative, digits, exponent })
    }

    /// The shortest number that reads as this float; none for NaN and the infinite ones.
    pub fn of(number: f64) -> Option<Self> {
        Self::parse(&format!("{number:?}"))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The nearest float.
    pub fn nearest(&self) -> f64 {
        self.text.parse().unwrap_or(f64::NAN)
    }

    fn size(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            // Without zeros at the ends, digits after the point order as texts do.
            (false, false) => self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits)),
        }
    }
}

/// The power of ten of a number, with its sign.
fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.size(other),
            (true, true) => other.size(self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Decimal {}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In ascending order, those of a line equal; by Python's `decimal`.
    const ORDER: &[&[&str]] = &[
        &["-1e400"],
        &["-9007199254740993"],
        &["-9007199254740992"],
        &["-1.10", "-1.1"],
        &["-1e-400"],
        &["0", "-0", "0.000", "0e5", "-0e-9", "+.0"],
        &["1e-400"],
        &["0.001", "1e-3", ".1E-2", "1000e-6"],
        &["0.09"],
        &["0.1", "0.10", "00.100"],
        &["0.30000000000000004"],
        &["0.300000000000000040000000000000001"],
        &["0.5", ".5", "+0.50"],
        &["0.9"],
        &["1", "1.", "1.0", "10e-1"],
        &["1.1", "1.10"],
        &["1.9"],
        &["9"],
        &["10", "1e1"],
        &["100"],
        &["9007199254740992"],
        &["9007199254740993", "9007199254740993.000"],
        &["20260101120000123"],
        &["20260101120000124"],
        &["18446744073709551615"],
        &["18446744073709551616"],
        &["1e400"],
        &["2e400", "0.2e401"],
    ];

    #[test]
    fn numbers_of_any_length_keep_their_order() {
        for (place, line) in ORDER.iter().enumerate() {
            for (other_place, other_line) in ORDER.iter().enumerate() {
                for (a, b) in line.iter().flat_map(|a| other_line.iter().map(move |b| (a, b))) {
                    let [a, b] = [a, b].map(|text| Decimal::parse(text).unwrap_or_else(|| panic!("{text}")));
                    assert_eq!(a.cmp(&b), place.cmp(&other_place), "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_decimal_number_is_none() {
        for text in [
            "",
            ".",
            "-",
            "e5",
            "1e",
            "1e+",
            "1e1.5",
            "0x10",
            "1,5",
            "1_000",
            "1 000",
            "NaN",
            "inf",
            "١",
            "--1",
            "1e99999999999999999999",
        ] {
            assert!(Decimal::parse(text).is_none(), "{text:?}");
        }
        assert!(Decimal::of(f64::NAN).is_none() && Decimal::of(f64::INFINITY).is_none());
        assert_eq!(Decimal::of(1e300), Decimal::parse("1e300"));
        assert_eq!(Decimal::of(0.1), Decimal::parse("0.1"));
        assert_eq!(Decimal::of(9_007_199_254_740_992.0), Decimal::parse("9007199254740992"));
    }
}
