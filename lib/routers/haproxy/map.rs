//! A split by user or match: the numbers in a map, by which the backend's rules pick a server.

use super::super::{By, Side};

/// All of a split by user or match.
pub(super) const PARTS: u32 = 10_000;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
pub(super) fn parts(green: f64) -> u32 {
    (green.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u32
}

/// What a map says to the rules that pick a server, in parts of [`PARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steering {
    /// The side whose server the rules pick by the map; the sides change places from release to
    /// release, and the rules stay.
    pub(super) picks: Side,
    /// How many of the requests with the key that server gets.
    pub(super) keyed: u32,
    /// How many of the others: all or none.
    pub(super) rest: u32,
    /// Green's share as it was asked.
    pub(super) share: u32,
}

impl Steering {
    /// The answer to `show map`, in lines such as `0x55fe7bb2b0b0 green 500`.
    pub(super) fn of(reply: &str, blue: &str, green: &str) -> Option<Self> {
        let number = |key: &str| {
            let mut found = reply.lines().filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words.len() == 3 && words[1] == key).then(|| words[2].parse::<u32>().ok())
            });
            let parts = found.next()??;
            (found.next().is_none() && parts <= PARTS).then_some(parts)
        };
        let (picks, name) = match (number(green), number(blue)) {
            (Some(_), None) => (Side::Green, green),
            (None, Some(_)) => (Side::Blue, blue),
            _ => return None,
        };
        let (keyed, rest) = (number(name)?, number(&format!("{name}-rest"))?);
        Some(Self { picks, keyed, rest, share: number("share")? })
    }

    /// What green's parts ask of a map whose rules pick that side.
    pub(super) fn wanted(by: &By, parts: u32, picks: Side) -> Self {
        let keyed = if matches!(by, By::Match(..)) { u32::from(parts > 0) * PARTS } else { parts };
        let rest = u32::from(parts == PARTS) * PARTS;
        let of = |green: u32| if picks == Side::Green { green } else { PARTS - green };
        Self { picks, keyed: of(keyed), rest: of(rest), share: parts }
    }

    /// Green's parts; nothing when the numbers come from no split.
    pub(super) fn green(&self, by: &By) -> Option<u32> {
        let keyed = if self.picks == Side::Green { self.keyed } else { PARTS - self.keyed };
        let rest = if self.picks == Side::Green { self.rest } else { PARTS - self.rest };
        let parts = match by {
            // All that match are on green whatever the step is, and only the note knows it.
            By::Match(..) if keyed == PARTS && rest == 0 => self.share.clamp(1, PARTS - 1),
            _ => keyed,
        };
        let wanted = Self::wanted(by, parts, self.picks);
        (wanted.keyed == self.keyed && wanted.rest == self.rest).then_some(parts)
    }

    /// The commands that lead here from what is in force.
    pub(super) fn lines(&self, now: &Self, blue: &str, green: &str, map: &str) -> Vec<String> {
        let name = if self.picks == Side::Green { green } else { blue };
        let numbers = [
            (name.to_owned(), self.keyed, now.keyed),
            (format!("{name}-rest"), self.rest, now.rest),
            ("share".to_owned(), self.share, now.share),
        ];
        let changed = numbers.iter().filter(|(_, wanted, is)| wanted != is);
        changed.map(|(key, wanted, _)| format!("set map {map} {key} {wanted}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_map_and_nothing_else() {
        let of = |reply: &str, blue: &str, green: &str| Steering::of(reply, blue, green);
        let reply = "0x1 new 500\n0x2 new-rest 0\n0x3 share 500\n\n";
        let seen = Steering { picks: Side::Green, keyed: 500, rest: 0, share: 500 };
        assert_eq!(of(reply, "old", "new"), Some(seen));
        assert_eq!(of(reply, "new", "old").map(|s| s.picks), Some(Side::Blue));
        for reply in
            ["", "Unknown map identifier.\n", "0x1 new 5\n", "0x1 new x\n0x2 new-rest 0\n0x3 share 0\n"]
        {
            assert_eq!(of(reply, "old", "new"), None, "{reply:?}");
        }
        assert_eq!(of(&format!("{reply}0x4 new 7\n"), "old", "new"), None, "which of them counts?");
    }

    #[test]
    fn what_is_asked_of_a_map_is_what_is_read_from_it_whichever_side_its_rules_pick() {
        let key = crate::routers::Key::Cookie("uid".into());
        for by in [By::User(key.clone()), By::Match(key, "beta".into())] {
            for picks in [Side::Blue, Side::Green] {
                for parts in [0, 1, 500, 9_999, PARTS] {
                    assert_eq!(
                        Steering::wanted(&by, parts, picks).green(&by),
                        Some(parts),
                        "{by:?} {picks:?}"
                    );
                }
                let torn = Steering { picks, keyed: 500, rest: PARTS / 2, share: 0 };
                assert_eq!(torn.green(&by), None);
            }
        }
    }
}
