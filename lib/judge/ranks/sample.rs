//! Samples in order, and two of them put together.

/// A sample in ascending order, equal values together. Empty ones, and such that hold a value that is
/// not finite, do not exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The distinct values, ascending, and infinity behind them.
    values: Vec<f64>,
    /// How many values of the sample are before the distinct one of the same place; the last two are
    /// the size of the sample.
    before: Vec<u32>,
}

impl Sample {
    /// None for an empty sample, one that holds a value that is not finite, and one of 2^32 values or
    /// more. In any order.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || u32::try_from(values.len()).is_err() || !values.iter().all(|x| x.is_finite())
        {
            return None;
        }
        // Whole numbers are sorted much faster.
        let mut keys: Vec<u64> = values.iter().map(|x| ordered(*x)).collect();
        keys.sort_unstable();
        Some(Self::grouped(keys.len(), keys.into_iter().map(unordered)))
    }

    /// Of ascending values.
    fn grouped(len: usize, ascending: impl Iterator<Item = f64>) -> Self {
        let (mut values, mut before) = (Vec::with_capacity(len + 1), Vec::with_capacity(len + 2));
        let mut count = 0_u32;
        for value in ascending {
            if values.last() != Some(&value) {
                values.push(value);
                before.push(count);
            }
            count += 1;
        }
        values.push(f64::INFINITY);
        before.extend([count, count]);
        Self { values, before }
    }

    /// How many values.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.before[self.distinct()] as usize
    }

    /// How many distinct values.
    pub(super) fn distinct(&self) -> usize {
        self.values.len() - 1
    }

    /// The distinct values, ascending, and infinity behind them.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// How many values are before each distinct one; the last two are the size of the sample.
    pub(super) fn before(&self) -> &[u32] {
        &self.before
    }

    /// How often the distinct value at `place` occurs.
    pub(super) fn times(&self, place: usize) -> u64 {
        u64::from(self.before[place + 1] - self.before[place])
    }

    pub(super) fn least(&self) -> f64 {
        self.values[0]
    }

    pub(super) fn greatest(&self) -> f64 {
        self.values[self.distinct() - 1]
    }

    /// A sample of `size` values that is distributed nearly like this one.
    pub(super) fn sketch(&self, size: usize) -> Self {
        let (len, mut place) = (self.len(), 0);
        Self::grouped(
            size,
            (0..size).map(|turn| {
                let rank = (2 * turn + 1) * len / (2 * size);
                while self.before[place + 1] as usize <= rank {
                    place += 1;
                }
                self.values[place]
            }),
        )
    }
}

/// Whole numbers in the order of the floating-point numbers that they stand for.
pub(super) fn ordered(x: f64) -> u64 {
    // Adding zero makes one zero of two.
    let bits = (x + 0.0).to_bits();
    bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }
}

pub(super) fn unordered(key: u64) -> f64 {
    f64::from_bits(key ^ if key >> 63 == 1 { 1 << 63 } else { u64::MAX })
}

/// What the ranks of two samples come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pooled {
    /// The size of the first sample.
    pub(super) in_a: u64,
    /// The size of the second sample.
    pub(super) in_b: u64,
    /// Twice the U statistic of the second sample: a whole number.
    pub(super) twice_u: u128,
    /// The sum of `t^3 - t` over the groups of `t` equal values.
    ties: u128,
}

impl Pooled {
    pub(super) fn of(a: &Sample, b: &Sample) -> Self {
        let mut pooled = Self { in_a: a.len() as u64, in_b: b.len() as u64, ..Self::default() };
        let mut a_below = 0;
        walk(a, b, |in_a, in_b| {
            if in_b > 0 {
                pooled.twice_u += u128::from(in_b) * u128::from(2 * a_below + in_a);
            }
            a_below += in_a;
            let count = u128::from(in_a + in_b);
            if count > 1 {
                pooled.ties += count * (count * count - 1);
            }
        });
        pooled
    }

    /// Whether any value occurs twice, in one sample or across.
    pub(super) fn tied(&self) -> bool {
        self.ties > 0
    }

    pub(super) fn pairs(&self) -> u128 {
        u128::from(self.in_a) * u128::from(self.in_b)
    }

    pub(super) fn u(&self) -> f64 {
        self.twice_u as f64 / 2.0
    }

    /// The standard deviation of U when nothing differs, corrected for ties.
    pub(super) fn deviation(&self) -> f64 {
        let n = u128::from(self.in_a + self.in_b);
        // In whole numbers, so that nothing is lost where nearly all are tied.
        let untied = (n * (n * n - 1) - self.ties) as f64;
        (self.pairs() as f64 / 12.0 * (untied / (n * (n - 1)) as f64)).sqrt()
    }
}

/// Visits the groups of equal values of both samples in ascending order: how many are in each.
pub(super) fn walk(a: &Sample, b: &Sample, mut visit: impl FnMut(u64, u64)) {
    let (mut at_a, mut at_b) = (0, 0);
    while at_a < a.distinct() || at_b < b.distinct() {
        // Behind the last one there is infinity.
        let (value_a, value_b) = (a.values[at_a], b.values[at_b]);
        let (from_a, from_b) = (value_a <= value_b, value_b <= value_a);
        debug_assert!(from_a || from_b);
        visit(if from_a { a.times(at_a) } else { 0 }, if from_b { b.times(at_b) } else { 0 });
        at_a += usize::from(from_a);
        at_b += usize::from(from_b);
    }
}
