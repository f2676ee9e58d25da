//! Green against blue in the same windows of time: is it worse by more than the plan allows, and not by
//! chance?
//!
//! Requests near each other in time are alike, so latencies are compared window by window (ranks), and
//! counts are divided by how much more than independent ones they spread. A rank test is blind to rare
//! disasters; a tail guard stands beside it. All looks of a bake together fire by chance no more often
//! than the plan states: see [`super::Spending`].

use super::normal;
use super::quantiles::{median, quantile, quantile_difference};
use super::ranks::{Alternative, Method, Sample, mann_whitney_of, shift_of};
use super::rates::{fisher_more, rate_difference};
use super::samples::Bin;
use super::seen::Side;
use super::spending::{Piecemeal, Spending};
use super::trigger::{above, explosion};
use crate::evidence::TestRecord;
use crate::plan::Worse;

/// The parts of the stated rate of false alarms that the tests of one comparison may spend: the shift
/// of the windows, the quantile of all requests, the tail.
pub(super) const OF_REQUESTS: [f64; 3] = [0.4, 0.4, 0.1];
/// The same where there are windows alone.
pub(super) const OF_SERIES: [f64; 3] = [0.8, 0.0, 0.2];
/// The part for the newest time alone, where there are single requests.
const OF_NEWEST: f64 = 0.1;

/// The newest time is looked at by itself: the last half of it all, and so on.
const NEWEST: [u32; 4] = [2, 4, 8, 16];

/// Up to so many windows of both sides together the rank test is exact, ties included.
const EXACT_WINDOWS: usize = 60;

/// The least growth of samples between two tests, as a share of what was there.
const GROWTH: f64 = 0.1;
/// … or of the bake.
const PROGRESS: f64 = 0.01;
/// The same for errors, which are quickly counted.
const PROGRESS_OF_ERRORS: f64 = 0.0025;

/// How much more than independent requests counts may spread before it is no chance any more.
const MOST_SPREAD: f64 = 50.0;
/// The same for errors: ten times as many at once is an outage, and no burst.
const MOST_SPREAD_OF_ERRORS: f64 = 10.0;

/// Fewest groups of bins by which one sees whether requests resemble each other: for a quantile, and for
/// events that are rare by nature.
const FEWEST_GROUPS: [usize; 2] = [36, 8];
/// How many groups of bins are compared with each other at most.
const GROUPS: usize = 40;

/// The tests of one comparison over all its looks.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    shift: Spending,
    quantile: Spending,
    tail: Spending,
    alone: Spending,
    newest: Piecemeal,
    /// The progress between two tests.
    every: f64,
    alpha: f64,
    parts: [f64; 3],
    last: Option<Tested>,
    tested_at: Option<Mark>,
}

/// How far the samples were at a test.
#[derive(Clone, Copy, Debug)]
struct Mark {
    requests: f64,
    windows: f64,
    progress: f64,
}

impl Mark {
    fn of(requests: [u64; 2], windows: u64, progress: f64) -> Self {
        Self { requests: information(requests[0], requests[1]), windows: windows as f64, progress }
    }

    /// Whether there is enough more since: with too little one would only spend.
    fn is_due(&self, now: &Self, every: f64) -> bool {
        let more = now.requests > self.requests || now.windows > self.windows;
        let much = |before: f64, now: f64| now >= (1.0 + GROWTH) * before && now > before;
        more && (much(self.requests, now.requests)
            || much(self.windows, now.windows)
            || now.progress - self.progress >= every * now.progress.max(1.0)
            || (now.progress >= 1.0 && self.progress < 1.0))
    }
}

/// What came of the tests at one look.
#[derive(Clone, Debug, Default)]
pub(super) struct Tested {
    /// Green is worse, by more than is allowed and not by chance.
    pub(super) worse: bool,
    /// Green is better by as much.
    pub(super) better: bool,
    /// What the verdict rests on.
    pub(super) record: TestRecord,
    /// The same in words.
    pub(super) because: String,
}

/// What one look compares. Values are such that higher is worse.
pub(super) struct Pair<'a> {
    /// What blue and green did, window by window.
    pub(super) windows: [Vec<f64>; 2],
    /// All requests, where there are single ones.
    pub(super) requests: Option<Singles<'a>>,
    /// How much worse than blue green may be, in the metric's own unit; and how much worse than green
    /// blue.
    pub(super) tolerances: [f64; 2],
    /// The share of the bake that is over.
    pub(super) progress: f64,
}

/// Single requests of both sides.
pub(super) struct Singles<'a> {
    /// Blue and green.
    pub(super) sides: [&'a Side; 2],
    /// Their latencies, ascending, with those that are still open.
    pub(super) sorted: [&'a [f64]; 2],
    /// The quantile that is compared, where it is one.
    pub(super) q: Option<f64>,
    /// The first window that is not over yet.
    pub(super) end: u32,
}

impl Comparison {
    /// With a total rate of false alarms, in 0..1.
    pub(super) fn new(alpha: f64, parts: [f64; 3], of_errors: bool) -> Self {
        let part = |n: usize| Spending::new(alpha * parts[n]);
        Self {
            shift: part(0),
            quantile: part(1),
            tail: part(2),
            alone: Spending::new(alpha),
            newest: Piecemeal::new(alpha * OF_NEWEST),
            every: if of_errors { PROGRESS_OF_ERRORS } else { PROGRESS },
            alpha,
            parts,
            last: None,
            tested_at: None,
        }
    }

    /// The confidence of the intervals that go with it.
    fn confidence(&self) -> f64 {
        1.0 - 2.0 * self.alpha
    }

    /// How many windows a side needs so that the clearest difference that ranks can show is no chance at
    /// the end of a bake with `looks` looks.
    pub(super) fn least_windows(&self) -> usize {
        least_windows(self.alpha * self.parts[0] / 3.0)
    }

    /// Whether more requests fail on green than on blue: (errors, requests) of both sides.
    pub(super) fn of_rates(
        &mut self,
        sides: [&Side; 2],
        counts: [(u64, u64); 2],
        end: u32,
        tolerances: [f64; 2],
        progress: f64,
    ) -> Tested {
        let information = information(counts[0].1, counts[1].1);
        let level = self.alone.level(information, progress);
        let errors = |bin: &Bin| (bin.errors, bin.requests);
        let rate = |(k, n): (u64, u64)| k as f64 / n.max(1) as f64;
        let (blue, green) = (rate(counts[0]), rate(counts[1]));
        let one_way = |from: usize, to: usize| {
            let [a, b] = [from, to].map(|side| sides[side].events(end, 1, errors));
            let spread = spread(a, b).min(MOST_SPREAD_OF_ERRORS);
            let p = by_chance(thinned(counts[from], spread), thinned(counts[to], spread));
            (p, spread)
        };
        let (p, spread) = one_way(0, 1);
        let (better_p, _) = one_way(1, 0);
        let (low, high) =
            difference_interval(thinned(counts[0], spread), thinned(counts[1], spread), self.confidence());
        let record = TestRecord {
            name: "fisher".into(),
            statistic: Some(counts[1].0 as f64),
            p_value: Some(p),
            level: Some(level),
            effect: Some(green - blue),
            effect_low: low,
            effect_high: high,
            confidence: self.confidence(),
            tolerance: Some(tolerances[0]),
            windows: None,
            spread: Some(spread),
        };
        let tested = Tested {
            worse: p <= level && green - blue > tolerances[0],
            better: better_p <= level && blue - green > tolerances[1],
            because: chance(p, level),
            record,
        };
        self.last = Some(tested.clone());
        tested
    }

    /// Whether green's values are worse than blue's.
    pub(super) fn of_values(&mut self, pair: &Pair<'_>, way: Worse) -> Tested {
        if let Some(newest) = self.of_newest(pair) {
            self.last = Some(newest.clone());
            return newest;
        }
        let information = pair.information();
        // A change either way is two tests, each with half of the rate.
        let half = if way == Worse::Either { 0.5 } else { 1.0 };
        let level =
            |spending: &mut Spending, information: f64| spending.level(information, pair.progress) * half;
        let shift_level = level(&mut self.shift, pair.windows_information());
        let (quantile_level, tail_level) = match &pair.requests {
            Some(_) => (level(&mut self.quantile, information), level(&mut self.tail, information)),
            None => (0.0, level(&mut self.tail, information)),
        };
        let levels = [shift_level, quantile_level, tail_level];
        let worse = pair.one_way(0, 1, levels, self.confidence());
        let better = pair.one_way(1, 0, levels, self.confidence());
        let (mut tested, other) = (worse.clone(), better);
        tested.better = other.worse;
        if way == Worse::Either && !tested.worse && tested.better {
            tested.because = other.because;
        }
        self.last = Some(tested.clone());
        tested
    }

    /// What fires by the newest time alone: a defect that begins late is diluted by all the good time
    /// before it, and makes green's requests resemble each other.
    fn of_newest(&mut self, pair: &Pair<'_>) -> Option<Tested> {
        let singles = pair.requests.as_ref()?;
        // Two tests of each part.
        let level = self.newest.level(pair.progress) / (2 * NEWEST.len()) as f64;
        let confidence = self.confidence();
        let mut found = NEWEST
            .iter()
            .flat_map(|part| singles.newest(singles.end / part, pair.tolerances[0], level))
            .find(|tested| tested.worse)?;
        found.record.confidence = confidence;
        found.record.windows = Some(pair.windows[1].len() as u64);
        found.record.tolerance = Some(pair.tolerances[0]);
        Some(found)
    }

    /// Whether a test would have enough new to tell: requests of both sides (values, for a series), and
    /// windows that are over. It costs nothing, so that a look without news is cheap.
    pub(super) fn is_due(&self, requests: [u64; 2], windows: u64, progress: f64) -> bool {
        let now = Mark::of(requests, windows, progress);
        self.tested_at.is_none_or(|before| before.is_due(&now, self.every)) || self.last.is_none()
    }

    /// The same; what is due is taken for tested.
    pub(super) fn begin(&mut self, requests: [u64; 2], windows: u64, progress: f64) -> bool {
        let due = self.is_due(requests, windows, progress);
        if due {
            self.tested_at = Some(Mark::of(requests, windows, progress));
        }
        due
    }

    /// What came of the newest test.
    pub(super) fn last(&self) -> Option<&Tested> {
        self.last.as_ref()
    }
}

impl Pair<'_> {
    fn windows_information(&self) -> f64 {
        information(self.windows[0].len() as u64, self.windows[1].len() as u64)
    }

    /// What grows with the samples.
    fn information(&self) -> f64 {
        match &self.requests {
            Some(singles) => information(singles.sorted[0].len() as u64, singles.sorted[1].len() as u64),
            None => self.windows_information(),
        }
    }

    /// Whether one side is worse than the other: the shift of its windows, its quantile, its tail.
    fn one_way(&self, from: usize, to: usize, levels: [f64; 3], confidence: f64) -> Tested {
        let shift = self.shift(from, to, levels[0], confidence);
        let quantile = self
            .requests
            .as_ref()
            .and_then(|s| s.quantile([from, to], self.tolerances[from], levels[1], confidence));
        let tail = self.tail(from, to, levels[2]);
        // What fires tells; otherwise the shift of the windows, with the effect and its interval.
        let mut all = vec![shift];
        all.extend(quantile);
        all.extend(tail);
        let telling = all.iter().position(|t| t.worse).unwrap_or(0);
        let first = all[0].record.clone();
        let mut told = all.swap_remove(telling);
        let record = &mut told.record;
        if record.effect.is_none() {
            (record.effect, record.effect_low, record.effect_high) =
                (first.effect, first.effect_low, first.effect_high);
        }
        record.confidence = confidence;
        record.windows = first.windows;
        record.tolerance = Some(self.tolerances[from]);
        told
    }

    fn shift(&self, from: usize, to: usize, level: f64, confidence: f64) -> Tested {
        let (a, b, tolerance_of) = (&self.windows[from], &self.windows[to], from);
        let mut record = TestRecord {
            name: "mann_whitney".into(),
            level: Some(level),
            windows: Some(b.len() as u64),
            ..TestRecord::default()
        };
        let (Some(from), Some(to)) = (Sample::of(a), Sample::of(b)) else {
            return Tested { record, because: "no windows to compare yet".into(), ..Tested::default() };
        };
        let Some(shift) = shift_of(&from, &to, confidence) else {
            return Tested { record, because: "the windows cannot be ranked".into(), ..Tested::default() };
        };
        let method = if a.len() + b.len() <= EXACT_WINDOWS { Method::ExactTies } else { Method::Asymptotic };
        let test = mann_whitney_of(&from, &to, Alternative::Greater, method);
        let spread = memory(a);
        let p = with_spread(test.p_value, spread);
        record.statistic = Some(test.u);
        record.p_value = Some(p);
        record.spread = Some(spread);
        record.effect = Some(shift.estimate);
        record.effect_low = shift.interval.map(|i| i.low);
        record.effect_high = shift.interval.map(|i| i.high);
        let worse = p <= level && shift.estimate > self.tolerances[tolerance_of];
        Tested { worse, better: false, because: chance(p, level), record }
    }

    /// The rare disaster: far more values than on the other side lie beyond twice what one in a hundred
    /// exceeds there.
    fn tail(&self, from: usize, to: usize, level: f64) -> Option<Tested> {
        if let Some(singles) = &self.requests {
            let limit = explosion(singles.sorted[from], self.tolerances[from])?;
            let mut tested = singles.exceed(from, to, limit, level, "tail");
            if tested.worse {
                let (slow, of) = above(singles.sorted[to], limit);
                tested.because = format!("{slow} of {of} are beyond {limit:.3}, {}", tested.because);
            }
            return Some(tested);
        }
        let sorted = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(f64::total_cmp);
            values
        };
        let (a, b) = (sorted(&self.windows[from]), sorted(&self.windows[to]));
        let greatest = a.last()?;
        let middle = median(&a)?;
        let limit = greatest + (greatest - middle).max(self.tolerances[from]);
        let p = fisher_more(above(&a, limit), above(&b, limit));
        let record = TestRecord {
            name: "tail".into(),
            statistic: Some(above(&b, limit).0 as f64),
            p_value: Some(p),
            level: Some(level),
            ..TestRecord::default()
        };
        Some(Tested { worse: p <= level, better: false, because: chance(p, level), record })
    }
}

impl Singles<'_> {
    /// Whether more of one side lie beyond the quantile of both together, and its own quantile is worse
    /// by more than is allowed.
    fn quantile(
        &self,
        [from, to]: [usize; 2],
        tolerance: f64,
        level: f64,
        confidence: f64,
    ) -> Option<Tested> {
        let q = self.q?;
        let both = quantile_of_both(self.sorted[from], self.sorted[to], q)?;
        let effect = quantile_difference(self.sorted[from], self.sorted[to], q, confidence)?;
        let mut tested = self.exceed(from, to, both, level, "quantile");
        tested.worse &= effect.value > tolerance;
        let record = &mut tested.record;
        (record.effect, record.effect_low, record.effect_high) =
            (Some(effect.value), effect.low, effect.high);
        Some(tested)
    }

    /// Tail and quantile of so many bins before the first that is not over yet.
    fn newest(&self, bins: u32, tolerance: f64, level: f64) -> Vec<Tested> {
        let since = self.end.saturating_sub(bins);
        let sorted = [0, 1].map(|side| self.sides[side].latencies(since, self.end));
        let [a, b] = [0, 1].map(|side| sorted[side].as_slice());
        let mut found = Vec::new();
        if let (Some(all), Some(limit)) = (explosion(self.sorted[0], tolerance), explosion(a, tolerance)) {
            let limit = limit.max(all);
            let counts = [above(a, limit), above(b, limit)];
            let mut tested = self.exceed_since(since, [0, 1], counts, limit, level, "tail");
            let (slow, of) = counts[1];
            tested.because = format!("{slow} of the newest {of} are beyond {limit:.3}, {}", tested.because);
            found.push(tested);
        }
        let both = self.q.and_then(|q| Some((quantile(a, q)?, quantile(b, q)?, quantile_of_both(a, b, q)?)));
        if let Some((was, is, both)) = both {
            let counts = [above(a, both), above(b, both)];
            let mut tested = self.exceed_since(since, [0, 1], counts, both, level, "quantile");
            tested.worse &= is - was > tolerance;
            tested.record.effect = Some(is - was);
            tested.because = format!("{is:.3} in the newest {} requests, {}", b.len(), tested.because);
            found.push(tested);
        }
        found
    }

    fn exceed(&self, from: usize, to: usize, limit: f64, level: f64, name: &str) -> Tested {
        let counts = [from, to].map(|side| above(self.sorted[side], limit));
        self.exceed_since(0, [from, to], counts, limit, level, name)
    }

    fn exceed_since(
        &self,
        since: u32,
        ways: [usize; 2],
        counts: [(u64, u64); 2],
        limit: f64,
        level: f64,
        name: &str,
    ) -> Tested {
        let beyond = |bin: &Bin| {
            let slow = bin.latencies.iter().filter(|l| **l > limit).count();
            (slow as u64, bin.latencies.len() as u64)
        };
        let [a, b] = ways.map(|side| self.sides[side].events_since(since, self.end, beyond));
        // Where requests resemble those before them, windows of time tell, and single requests do not.
        let fewest = FEWEST_GROUPS[usize::from(name == "tail")];
        let known = unlike(&a, fewest) && unlike(&b, fewest);
        let spread = spread(a, b);
        let p = if known { by_chance(thinned(counts[0], spread), thinned(counts[1], spread)) } else { 1.0 };
        let record = TestRecord {
            name: name.into(),
            statistic: Some(counts[1].0 as f64),
            p_value: Some(p),
            level: Some(level),
            spread: Some(spread),
            ..TestRecord::default()
        };
        Tested { worse: p <= level, better: false, because: chance(p, level), record }
    }
}

fn chance(p: f64, level: f64) -> String {
    let show = |p: f64| if p < 1e-6 { "below 0.000001".into() } else { crate::units::show_number(p) };
    if level <= 0.0 {
        format!("p = {}", show(p))
    } else {
        format!("p = {}, {} at most at this look", show(p), show(level))
    }
}

/// What two sample sizes tell together: that of the smaller counts most.
fn information(a: u64, b: u64) -> f64 {
    let (a, b) = (a as f64, b as f64);
    if a + b > 0.0 { a * b / (a + b) } else { 0.0 }
}

/// The smallest number of windows a side at which complete separation is below a level.
pub(super) fn least_windows(level: f64) -> usize {
    let mut ways = 1.0_f64;
    (1..=60)
        .find(|n| {
            let n = f64::from(*n);
            ways *= (2.0 * n) * (2.0 * n - 1.0) / (n * n);
            1.0 / ways <= level
        })
        .map_or(60, |n| usize::try_from(n).unwrap_or(60))
}

/// Counts as if every `spread` of them were one.
fn thinned((events, all): (u64, u64), spread: f64) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "smaller than what came in")]
    let part = |n: u64| (n as f64 / spread).round() as u64;
    let all = part(all).max(u64::from(all > 0));
    (part(events).min(all), all)
}

/// How much more than independent requests the events of windows spread, at least 1. The side that is
/// the standard tells by all its windows; the other one only by what changes from one window to the
/// next, so that a defect that comes and stays is not taken for noise.
fn spread(standard: Vec<(f64, f64)>, other: Vec<(f64, f64)>) -> f64 {
    let (standard, other) = (grouped(standard), grouped(other));
    let of_standard = dispersion(&standard) * memory(&residuals(&standard));
    of_standard.max(jumps(&other)).clamp(1.0, MOST_SPREAD)
}

/// Whether neighbouring bins are no more alike than by chance, and there are enough to see it.
fn unlike(bins: &[(f64, f64)], fewest: usize) -> bool {
    let series = residuals(&grouped(bins.to_vec()));
    if series.is_empty() {
        // Nothing happened, or everything: there is nothing that could resemble anything.
        return bins.len() >= fewest;
    }
    let n = series.len() as f64;
    series.len() >= fewest
        && likeness(&series, 1) * n.sqrt() <= 0.8
        && (likeness(&series, 1) + likeness(&series, 2)) * n.sqrt() <= 1.2
}

/// The correlation of a series with itself some places further on.
fn likeness(series: &[f64], lag: usize) -> f64 {
    let n = series.len() as f64;
    let mean = series.iter().sum::<f64>() / n;
    let square: f64 = series.iter().map(|x| (x - mean).powi(2)).sum();
    if square <= 0.0 || !square.is_finite() {
        return 0.0;
    }
    let pairs = series.iter().zip(series.iter().skip(lag));
    pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / square
}

/// Neighbouring bins together, so that there are not too many.
fn grouped(bins: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let size = bins.len().div_ceil(GROUPS).max(1);
    if size == 1 {
        return bins;
    }
    let sum = |group: &[(f64, f64)]| group.iter().fold((0.0, 0.0), |(k, n), (x, y)| (k + x, n + y));
    bins.chunks(size).map(sum).collect()
}

/// Fisher's probability that the second has so many events by chance, with half of that of exactly so
/// many (mid-p): the plain one is far too careful where events are few.
///
/// Source: Lancaster, Journal of the American Statistical Association 56 (1961).
fn by_chance(a: (u64, u64), b: (u64, u64)) -> f64 {
    let so_many = fisher_more(a, b);
    let more = if a.0 > 0 && b.0 < b.1 { fisher_more((a.0 - 1, a.1), (b.0 + 1, b.1)) } else { 0.0 };
    so_many.midpoint(more)
}

/// Pearson's dispersion: 1 for independent events.
fn dispersion(windows: &[(f64, f64)]) -> f64 {
    let residuals = residuals(windows);
    if residuals.len() < 3 {
        return 1.0;
    }
    (residuals.iter().map(|r| r * r).sum::<f64>() / (residuals.len() - 1) as f64).max(1.0)
}

/// The same from differences of neighbours (von Neumann).
fn jumps(windows: &[(f64, f64)]) -> f64 {
    let residuals = residuals(windows);
    if residuals.len() < 3 {
        return 1.0;
    }
    let sum: f64 = residuals.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum();
    (sum / (2.0 * (residuals.len() - 1) as f64)).max(1.0)
}

/// What each window has more than expected, in standard deviations of independent events.
fn residuals(windows: &[(f64, f64)]) -> Vec<f64> {
    let (events, all) = windows.iter().fold((0.0, 0.0), |(k, n), (x, y)| (k + x, n + y));
    if all <= 0.0 || events <= 0.0 || events >= all {
        return Vec::new();
    }
    let p = events / all;
    windows.iter().map(|(k, n)| (k - n * p) / (n * p * (1.0 - p)).sqrt()).collect()
}

/// By how much a series that remembers has less information than its length says: the inflation of the
/// variance of its mean, from the correlation of neighbours, at least 1.
pub(super) fn memory(series: &[f64]) -> f64 {
    let n = series.len();
    if n < 4 || series.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits()) {
        return 1.0;
    }
    let raw = likeness(series, 1);
    // The estimate is too low in short series; Kendall's correction.
    let r = (raw + (1.0 + 4.0 * raw) / n as f64).clamp(0.0, 0.9);
    ((1.0 + r) / (1.0 - r)).clamp(1.0, MOST_SPREAD)
}

/// A p-value where the variance is greater than the test believes.
pub(super) fn with_spread(p: f64, spread: f64) -> f64 {
    if spread <= 1.0 || p <= 0.0 || p >= 0.5 {
        return p;
    }
    normal::upper_tail(-normal::quantile(p) / spread.sqrt())
}

/// The quantile of two ascending samples together.
fn quantile_of_both(a: &[f64], b: &[f64], q: f64) -> Option<f64> {
    let all = a.len() + b.len();
    let last = all.checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let rank = (last as f64 * q.clamp(0.0, 1.0)).floor() as usize;
    // The smallest value with `rank + 1` values up to it: bisection over one, then the other.
    let up_to = |x: f64| a.partition_point(|v| *v <= x) + b.partition_point(|v| *v <= x);
    let first_of = |values: &[f64]| {
        let at = values.partition_point(|v| up_to(*v) <= rank);
        values.get(at).copied()
    };
    [first_of(a), first_of(b)].into_iter().flatten().min_by(f64::total_cmp)
}

/// The interval of the difference of two rates.
fn difference_interval(a: (u64, u64), b: (u64, u64), confidence: f64) -> (Option<f64>, Option<f64>) {
    let interval = rate_difference(a, b, confidence).ok().map(|d| d.interval);
    (interval.map(|i| i.low), interval.map(|i| i.high))
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test stops at what it did not expect")]
mod tests {
    use super::super::samples::{Batch, Given, Requests};
    use super::super::seen::Seen;
    use super::*;

    #[test]
    fn the_effect_on_a_quantile_has_its_interval() {
        let latency = |n: u32, slower: f64| slower * f64::from(10 + n * 7 % 13);
        let side = |slower: f64| Requests {
            bins: (0..50)
                .map(|window| Bin {
                    window,
                    requests: 20,
                    errors: 0,
                    latencies: (0..20).map(|n| latency(window * 20 + n, slower)).collect(),
                })
                .collect(),
            ..Requests::default()
        };
        let given = Given { source: "a".into(), requests: Some([side(1.0), side(1.5)]), ..Given::default() };
        let mut seen = Seen::default();
        seen.take(&Batch { at_ms: 1, given: vec![given] });
        let sides = seen.sources.get_mut("a").and_then(|s| s.sides.as_mut()).expect("it was given");
        sides.iter_mut().for_each(Side::settle);
        let figures = [sides[0].figures(), sides[1].figures()];
        let sorted = [0, 1].map(|side| figures[side].latencies_ms.as_slice());
        let singles = Singles { sides: [&sides[0], &sides[1]], sorted, q: Some(0.95), end: 50 };
        let record = singles.quantile([0, 1], 1.0, 0.001, 0.98).expect("there are latencies").record;
        let (low, effect, high) = (record.effect_low, record.effect, record.effect_high);
        assert!(effect.is_some_and(|e| e > 5.0) && low <= effect && effect <= high, "{record:?}");
        assert!(low.is_some() && high.is_some(), "{record:?}");
    }

    #[test]
    fn independent_counts_do_not_spread_and_bursts_do() {
        let even: Vec<(f64, f64)> = (0..40).map(|n| (f64::from(n % 3), 100.0)).collect();
        assert!(spread(even.clone(), even.clone()) < 1.5);
        let bursts: Vec<(f64, f64)> =
            (0..40).map(|n| (if n % 10 == 0 { 20.0 } else { 0.0 }, 100.0)).collect();
        assert!(spread(bursts.clone(), even.clone()) > 4.0);
        assert!(spread(even.clone(), bursts) > 4.0);
        // A defect that comes and stays is no noise.
        let onset: Vec<(f64, f64)> = (0..40).map(|n| (if n < 20 { 0.0 } else { 5.0 }, 100.0)).collect();
        assert!(spread(even, onset) < 1.7);
    }

    #[test]
    fn the_quantile_of_both_is_that_of_the_union() {
        let a = [1.0, 2.0, 2.0, 9.0];
        let b = [0.5, 2.0, 3.0, 4.0, 10.0];
        let mut all: Vec<f64> = a.iter().chain(&b).copied().collect();
        all.sort_by(f64::total_cmp);
        for n in 0..=8_u32 {
            let q = f64::from(n) / 8.0;
            assert_eq!(quantile_of_both(&a, &b, q), Some(all[n as usize]), "{q}");
        }
        assert_eq!(quantile_of_both(&[], &[], 0.5), None);
        assert_eq!(quantile_of_both(&[], &[7.0], 0.5), Some(7.0));
    }

    #[test]
    fn few_windows_can_show_nothing() {
        assert_eq!(least_windows(0.05), 3);
        assert_eq!(least_windows(0.0013), 6);
        assert_eq!(least_windows(0.001), 7);
    }

    #[test]
    fn a_series_that_remembers_tells_less() {
        let alternating: Vec<f64> = (0..40).map(|n| f64::from(n % 2)).collect();
        let slow: Vec<f64> = (0..40).map(|n| f64::from(n / 10)).collect();
        assert!((memory(&alternating) - 1.0).abs() < 1e-9);
        assert!(memory(&slow) > 5.0);
        assert!(with_spread(0.001, 4.0) > 0.05);
    }
}
