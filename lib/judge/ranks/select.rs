//! Order statistics of all pairwise differences of two samples, without forming the pairs.
//!
//! Differences are counted below guesses, which close in on the wanted ones; once few enough are left
//! between the guesses, those are formed and sorted. The first guesses come from thinned samples.

use super::sample::{Sample, ordered, unordered};

/// Samples are thinned to so many values at most for the first guesses.
const SKETCH: usize = 4096;
/// How many guesses are counted at once, at most: two each for a shift and both ends. That is hardly
/// slower than one, because none waits for another.
const AT_ONCE: usize = 6;

/// The differences `b - a` of the wanted ranks, from 1, exactly. None if a difference is not finite.
pub(super) fn differences(a: &Sample, b: &Sample, ranks: &[u64]) -> Option<Vec<f64>> {
    let (least, greatest) = (b.least() - a.greatest(), b.greatest() - a.least());
    if !least.is_finite() || !greatest.is_finite() {
        return None;
    }
    let low = Edge { at: least.next_down(), pairs: 0, distinct: 0 };
    let high = Edge {
        at: greatest,
        pairs: a.len() as u64 * b.len() as u64,
        distinct: a.distinct() as u64 * b.distinct() as u64,
    };
    let enough = ((a.distinct() + b.distinct()) as u64 / 16).max(2048);
    let mut searches: Vec<Search> =
        ranks.iter().map(|rank| Search { rank: *rank, low, high, enough, stalled: false }).collect();
    let mut guesses = first_guesses(a, b, ranks);
    loop {
        let edges = count_all(a, b, &guesses);
        for search in &mut searches {
            search.narrow(&edges);
        }
        guesses.clear();
        for (at, search) in searches.iter().enumerate() {
            // The two in the middle are looked for together.
            if at == 0 || !searches[at - 1].is_beside(search) {
                guesses.extend(search.guesses(high.pairs));
            }
        }
        if guesses.is_empty() {
            break;
        }
    }
    Some(form_all(a, b, &searches))
}

/// Where the wanted differences are in thinned samples, a little to either side; nothing for small
/// ones.
fn first_guesses(a: &Sample, b: &Sample, ranks: &[u64]) -> Vec<f64> {
    let size = (a.distinct().min(b.distinct()) / 16).min(SKETCH);
    if size < 64 {
        return Vec::new();
    }
    let all = (size * size) as u64;
    let thinned = all as f64 / (a.len() as f64 * b.len() as f64);
    let (a, b) = (a.sketch(size), b.sketch(size));
    let mut around: Vec<u64> = Vec::new();
    for rank in ranks {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a smaller rank")]
        let rank = (*rank as f64 * thinned) as u64;
        around.extend([rank.saturating_sub(size as u64).max(1), (rank + size as u64).min(all)]);
    }
    around.sort_unstable();
    around.dedup_by_key(|rank| *rank / 16);
    differences(&a, &b, &around).unwrap_or_default()
}

/// How many differences are at most `at`.
#[derive(Clone, Copy, Debug)]
struct Edge {
    at: f64,
    pairs: u64,
    /// Pairs of distinct values: the work to form them.
    distinct: u64,
}

/// The difference of this rank lies above `low` and at most at `high`.
struct Search {
    rank: u64,
    low: Edge,
    high: Edge,
    /// So many pairs may be left to be formed: they cost about one more count.
    enough: u64,
    /// The last guesses did not bring it much further.
    stalled: bool,
}

impl Search {
    fn narrow(&mut self, edges: &[Edge]) {
        let before = self.left();
        for edge in edges {
            if edge.pairs < self.rank && edge.at > self.low.at {
                self.low = *edge;
            } else if edge.pairs >= self.rank && edge.at < self.high.at {
                self.high = *edge;
            }
        }
        self.stalled = !edges.is_empty() && self.left() > before / 4;
    }

    /// How many distinct pairs are left.
    fn left(&self) -> u64 {
        self.high.distinct - self.low.distinct
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.rank.abs_diff(other.rank) <= 1 && self.same_edges(other)
    }

    fn same_edges(&self, other: &Self) -> bool {
        (self.low.pairs, self.high.pairs) == (other.low.pairs, other.high.pairs)
    }

    /// Where to count next; nothing once few enough pairs are left.
    fn guesses(&self, all: u64) -> Vec<f64> {
        let (low, high) = (self.low.at, self.high.at);
        // Where many differences are the same, no guess parts them: one per distinct value is enough.
        let enough = if self.stalled { 16 * self.enough } else { self.enough };
        if self.left() <= enough || low.next_up() >= high {
            return Vec::new();
        }
        let within = |guess: f64| guess.clamp(low.next_up(), high.next_down());
        let between = self.high.pairs - self.low.pairs;
        let at = (self.rank - self.low.pairs) as f64 / between as f64;
        let straight = |at: f64| within(low + (high - low) * at);
        let halved = within(unordered(ordered(low).midpoint(ordered(high))));
        if !(high - low).is_finite() {
            return vec![halved];
        }
        if self.stalled {
            // Halving the numbers' bits ends after 64 turns, whatever the samples are.
            return vec![halved, straight(at)];
        }
        // The curve bends the less the closer the edges are, and then it is rough.
        let reach = (2.0 * between as f64 / all as f64).max(4.0 / (self.left() as f64).sqrt()).min(0.125);
        [at - reach, at + reach].into_iter().filter(|at| *at > 0.0 && *at < 1.0).map(straight).collect()
    }
}

fn count_all(a: &Sample, b: &Sample, limits: &[f64]) -> Vec<Edge> {
    let untied = a.distinct() == a.len() && b.distinct() == b.len();
    let mut edges = Vec::with_capacity(limits.len());
    for limits in limits.chunks(AT_ONCE) {
        edges.extend(match (limits.len(), untied) {
            (..=2, true) => count::<2, true>(a, b, limits),
            (..=2, false) => count::<2, false>(a, b, limits),
            (_, true) => count::<AT_ONCE, true>(a, b, limits),
            (_, false) => count::<AT_ONCE, false>(a, b, limits),
        });
    }
    edges
}

/// How many differences are at most each limit: one walk through both samples.
///
/// Without branches that depend on the values, which a processor could not foresee. Infinity behind
/// the last value keeps each place within its sample: there are exactly as many steps as values.
fn count<const N: usize, const UNTIED: bool>(a: &Sample, b: &Sample, asked: &[f64]) -> Vec<Edge> {
    // Too few are filled up.
    let limits: [f64; N] = std::array::from_fn(|k| asked[k.min(asked.len() - 1)]);
    let (values_a, values_b, before_a, before_b) = (a.values(), b.values(), a.before(), b.before());
    let (mut at_a, mut at_b) = ([0_usize; N], [0_usize; N]);
    let (mut pairs, mut distinct) = ([0_u64; N], [0_u64; N]);
    for _ in 0..a.distinct() + b.distinct() {
        for k in 0..N {
            let (i, j) = (at_a[k], at_b[k]);
            let up = values_b[j] - values_a[i] <= limits[k];
            // All bits set where the place in a is done.
            let done = u64::from(up).wrapping_sub(1);
            distinct[k] += j as u64 & done;
            if !UNTIED {
                let times = u64::from(before_a[i + 1] - before_a[i]);
                pairs[k] += (times * u64::from(before_b[j])) & done;
            }
            at_a[k] = i + usize::from(!up);
            at_b[k] = j + usize::from(up);
        }
    }
    let pairs = if UNTIED { &distinct } else { &pairs };
    (0..asked.len()).map(|k| Edge { at: limits[k], pairs: pairs[k], distinct: distinct[k] }).collect()
}

/// The differences that the searches end at.
fn form_all(a: &Sample, b: &Sample, searches: &[Search]) -> Vec<f64> {
    let mut found = Vec::with_capacity(searches.len());
    let mut formed: Vec<(u64, u64)> = Vec::new();
    for (at, search) in searches.iter().enumerate() {
        if at == 0 || !searches[at - 1].same_edges(search) {
            formed = form(a, b, search);
        }
        let mut pairs = search.low.pairs;
        let here = formed.iter().find(|(_, times)| {
            pairs += times;
            pairs >= search.rank
        });
        found.push(here.map_or(search.high.at, |(key, _)| unordered(*key)));
    }
    found
}

/// The differences between the edges in order, and how often there is each.
fn form(a: &Sample, b: &Sample, search: &Search) -> Vec<(u64, u64)> {
    if search.low.at.next_up() >= search.high.at {
        return Vec::new();
    }
    let (values_b, mut from) = (b.values(), 0);
    let mut formed = Vec::new();
    for (i, value_a) in a.values()[..a.distinct()].iter().enumerate() {
        while values_b[from] - value_a <= search.low.at {
            from += 1;
        }
        let mut j = from;
        while values_b[j] - value_a <= search.high.at {
            formed.push((ordered(values_b[j] - value_a), a.times(i) * b.times(j)));
            j += 1;
        }
    }
    formed.sort_unstable();
    formed
}
