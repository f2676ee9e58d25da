//! How many arrangements of the ranks have which U, when nothing is tied.

/// The most entries that a table may have: 32 MB.
const TABLE: u64 = 2_000_000;
/// The most additions for a table.
const WORK: u64 = 1_000_000_000;

/// How many ways there are to arrange two samples with U up to each number.
pub(super) struct Arrangements {
    /// Up to half of the pairs; the other half mirrors it.
    up_to: Vec<u128>,
    pairs: usize,
    total: u128,
}

impl Arrangements {
    /// None where there are too many to count: more than fit into 127 bits, which two samples of 64
    /// do not reach, or too many U.
    ///
    /// The generating function is the Gaussian binomial coefficient, a product of `1 - q^(m + i)` over
    /// `1 - q^i`. In between, numbers wrap around; what comes out fits, so it is exact.
    /// Source: Andrews, The Theory of Partitions (1976), chapter 3.
    pub(super) fn of(in_a: u64, in_b: u64) -> Option<Self> {
        let (few, many) = (in_a.min(in_b), in_a.max(in_b));
        let half = few.checked_mul(many)? / 2;
        if half > TABLE || half * few > WORK || !fits(few, many) {
            return None;
        }
        let (few, many) = (usize::try_from(few).ok()?, usize::try_from(many).ok()?);
        let pairs = few * many;
        let mut count = vec![0_u128; pairs / 2 + 1];
        count[0] = 1;
        for i in 1..=few {
            for u in (many + i..count.len()).rev() {
                count[u] = count[u].wrapping_sub(count[u - many - i]);
            }
            for u in i..count.len() {
                count[u] = count[u].wrapping_add(count[u - i]);
            }
        }
        let middle = if pairs.is_multiple_of(2) { count[pairs / 2] } else { 0 };
        for u in 1..count.len() {
            count[u] += count[u - 1];
        }
        let total = 2 * count[pairs / 2] - middle;
        Some(Self { up_to: count, pairs, total })
    }

    /// The share of arrangements with U up to `u`.
    pub(super) fn share_up_to(&self, u: usize) -> f64 {
        self.up_to(u) as f64 / self.total as f64
    }

    /// The share of arrangements with U from `u` on.
    pub(super) fn share_from(&self, u: usize) -> f64 {
        self.pairs.checked_sub(u).map_or(0.0, |mirrored| self.share_up_to(mirrored))
    }

    fn up_to(&self, u: usize) -> u128 {
        match self.up_to.get(u) {
            Some(count) => *count,
            // The mirror of U is the pairs less U.
            None => {
                self.pairs.checked_sub(u + 1).map_or(self.total, |mirrored| self.total - self.up_to[mirrored])
            }
        }
    }
}

/// Whether all arrangements are fewer than 2^126.
fn fits(few: u64, many: u64) -> bool {
    let mut bits = 0.0;
    for i in 1..=few {
        bits += ((many + i) as f64 / i as f64).log2();
        if bits > 126.0 {
            return false;
        }
    }
    true
}
