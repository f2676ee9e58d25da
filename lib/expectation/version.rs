//! Versions and their order.

use std::cmp::Ordering;

/// A version: dotted numbers, and what makes it one before a release (`-rc.1`, `beta2`).
#[derive(Clone, Debug)]
pub(super) struct Version {
    numbers: Vec<u128>,
    before: Option<Before>,
}

/// `rc.1` of `1.2.0-rc.1`.
#[derive(Clone, Debug)]
struct Before {
    stage: Stage,
    rest: Vec<Part>,
}

/// How near to the release. The order of the first three is the same for everybody; others compare only with their
/// like.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Known(u8),
    Other(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u128),
    Word(String),
}

const STAGES: &[&[&str]] = &[&["alpha", "a"], &["beta", "b"], &["rc", "c"]];
const OTHERS: &[&str] = &["dev", "devel", "pre", "preview", "snapshot", "canary", "nightly", "next", "m"];

impl Version {
    /// Reads `1.10`, `v2.3.4`, `1.2.0-rc.1+build5`, `18beta1`.
    ///
    /// What else stands behind the numbers (`-1ubuntu2`, `-5-gabcdef`, `.post1`) is older than the release to some
    /// and newer to others, so that such a text is no version here.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let text = match text.split_once('+') {
            Some((_, "")) => return None,
            Some((text, build)) if build.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) => {
                text
            }
            Some(_) => return None,
            None => text,
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (release, rest) = text.split_at(end);
        // `1.2.rc1` is `1.2rc1`.
        let (release, rest) = match release.strip_suffix('.') {
            Some(release) if !rest.is_empty() => (release, rest),
            _ => (release, rest),
        };
        let numbers = release.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let rest = rest.strip_prefix(['-', '_']).unwrap_or(rest);
        let before = if end == text.len() { None } else { Some(Before::parse(rest)?) };
        Some(Self { numbers, before })
    }

    /// The order of two; none where it is not the same for everybody.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        let length = self.numbers.len().max(other.numbers.len());
        let padded = |numbers: &[u128]| {
            let mut all = numbers.to_vec();
            all.resize(length, 0);
            all
        };
        let numbers = padded(&self.numbers).cmp(&padded(&other.numbers));
        if numbers.is_ne() {
            return Some(numbers);
        }
        match (&self.before, &other.before) {
            (None, None) => Some(Ordering::Equal),
            (Some(_), None) => Some(Ordering::Less),
            (None, Some(_)) => Some(Ordering::Greater),
            (Some(a), Some(b)) => a.order(b),
        }
    }
}

impl Before {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        for piece in text.split(['.', '-']) {
            let plain = !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !plain {
                return None;
            }
            // `rc10` is later than `rc9`.
            let digits = piece.bytes().rev().take_while(u8::is_ascii_digit).count();
            let (word, number) = piece.split_at(piece.len() - digits);
            if !word.is_empty() {
                parts.push(Part::Word(word.to_ascii_lowercase()));
            }
            if !number.is_empty() {
                parts.push(Part::Number(number.parse().ok()?));
            }
        }
        let Part::Word(first) = parts.first()? else { return None };
        let stage = match STAGES.iter().position(|words| words.contains(&first.as_str())) {
            Some(place) => Stage::Known(u8::try_from(place).ok()?),
            None if OTHERS.contains(&first.as_str()) => Stage::Other(first.clone()),
            None => return None,
        };
        Some(Self { stage, rest: parts.split_off(1) })
    }

    fn order(&self, other: &Self) -> Option<Ordering> {
        match (&self.stage, &other.stage) {
            (Stage::Known(a), Stage::Known(b)) => Some(a.cmp(b).then_with(|| self.rest.cmp(&other.rest))),
            (a, b) if a == b => Some(self.rest.cmp(&other.rest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ascending, those of a line equal. The prereleases are the example of semver.org, section 11; the rest is in
    /// the order of Python's `packaging`.
    const ORDER: &[&[&str]] = &[
        &["0.9"],
        &["0.10", "v0.10", "0.10.0"],
        &["1.0.0-alpha"],
        &["1.0.0-alpha.1", "1.0.0-alpha1"],
        &["1.0.0-alpha.beta"],
        &["1.0.0-beta"],
        &["1.0.0-beta.2", "1.0b2"],
        &["1.0.0-beta.11"],
        &["1.0.0-rc.1", "1.0.0-rc1", "1.0rc1", "1.0.rc1"],
        &["1.0.0-rc10"],
        &["1.0.0", "1", "v1.0", "1.0.0+build.5", "V1.0.0.0"],
        &["1.1"],
        &["1.2"],
        &["1.9"],
        &["1.10"],
        &["3.9"],
        &["3.10"],
        &["16.4"],
        &["16.10"],
        &["18beta1"],
        &["18beta2"],
        &["18rc1"],
        &["18", "18.0"],
        &["2026.11.30"],
        &["20260101120000123"],
        &["20260101120000124"],
    ];

    #[test]
    fn versions_keep_their_order() {
        for (place, line) in ORDER.iter().enumerate() {
            for (other_place, other_line) in ORDER.iter().enumerate() {
                for (a, b) in line.iter().flat_map(|a| other_line.iter().map(move |b| (a, b))) {
                    let [x, y] = [a, b].map(|text| Version::parse(text).unwrap_or_else(|| panic!("{text}")));
                    assert_eq!(x.order(&y), Some(place.cmp(&other_place)), "{a} and {b}");
                }
            }
        }
    }

    #[test]
    fn what_is_older_to_some_and_newer_to_others_has_no_order() {
        for text in [
            "",
            "v",
            ".",
            "1.",
            ".1",
            "1..2",
            "-1",
            "1.2.3-5-gabcdef",
            "1.2-1ubuntu2",
            "1.2.post1",
            "1.2.3-0.1",
            "latest",
            "1.2 beta",
            "1.2+",
            "1.2.3-",
        ] {
            assert!(Version::parse(text).is_none(), "{text:?}");
        }
        let order = |a: &str, b: &str| Version::parse(a).unwrap().order(&Version::parse(b).unwrap());
        // To PEP 440 `dev` comes before alpha, to SemVer behind it.
        assert_eq!(order("1.0.0-dev.1", "1.0.0-alpha"), None);
        assert_eq!(order("1.0.0-dev.1", "1.0.0-dev.2"), Some(Ordering::Less));
        assert_eq!(order("1.0.0-dev.1", "1.0.0"), Some(Ordering::Less));
    }
}
