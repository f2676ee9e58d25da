//! One series at two times: is it worse now than it was, and has its level stepped to where it is worse?
//!
//! Values that lie near each other in time are alike, so that there is less in them than their number
//! says: p-values and intervals allow for the correlation of neighbours.

use super::comparison::{memory, with_spread};
use super::normal;
use super::quantiles::median;
use super::ranks::{Alternative, Method, Sample, mann_whitney_of, shift_of};
use super::trend::{Change, ChangePoint, Intercept, Point, Undecided, change_point, theil_sen};
use crate::evidence::TestRecord;
use crate::plan::Worse;

/// The fewest values of each time that are compared.
pub const MIN_FOR_PERIODS: usize = 8;

/// How unlikely a difference must be before it counts.
const ALPHA: f64 = 0.01;

/// Up to so many values of both times together the rank test is exact, ties included.
const EXACT_VALUES: usize = 60;

/// A level has this many points at least.
const LEAST_LEVEL: usize = 3;

/// How much worse a series may become: the greater of both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowed {
    /// As a share of the median before.
    pub share: f64,
    /// In the unit of the series.
    pub at_least: f64,
}

impl Allowed {
    fn of(self, before: f64) -> f64 {
        (before.abs() * self.share).max(self.at_least)
    }
}

/// Now against before.
#[derive(Clone, Debug, PartialEq)]
pub struct Periods {
    /// Worse by more than is allowed, and not by chance.
    pub worse: bool,
    /// The median before.
    pub before: f64,
    /// The median now.
    pub now: f64,
    /// What is allowed, in the unit of the series.
    pub tolerance: f64,
    /// The test; its effect is above 0 where it is worse (with `Worse::Either`: where it is higher).
    pub record: TestRecord,
}

/// Whether values now are worse than values before, both in the order of time: significant at 1 % by the
/// rank test, and by more than is allowed by the typical shift.
///
/// `shared` neighbouring values share data (1 where none do). The correlation of neighbours is that of
/// before, so that a defect that comes and stays is not taken for noise. None when a time has no values, or one that is not finite.
pub fn compare_periods(
    before: &[f64],
    now: &[f64],
    shared: f64,
    way: Worse,
    allowed: Allowed,
) -> Option<Periods> {
    let spread = memory(before).max(shared);
    let medians = [before, now].map(middle);
    let tolerance = allowed.of(medians[0]);
    let level = if way == Worse::Either { ALPHA / 2.0 } else { ALPHA };
    let one_way = |sign: f64| -> Option<TestRecord> {
        let sample = |values: &[f64]| Sample::of(&values.iter().map(|x| sign * x).collect::<Vec<_>>());
        let (a, b) = (sample(before)?, sample(now)?);
        let exact = before.len() + now.len() <= EXACT_VALUES;
        let method = if exact { Method::ExactTies } else { Method::Asymptotic };
        let test = mann_whitney_of(&a, &b, Alternative::Greater, method);
        let shift = shift_of(&a, &b, wider(1.0 - 2.0 * level, spread))?;
        Some(TestRecord {
            name: "mann_whitney".into(),
            statistic: Some(test.u),
            p_value: Some(with_spread(test.p_value, spread)),
            level: Some(level),
            effect: Some(shift.estimate),
            effect_low: shift.interval.map(|i| i.low),
            effect_high: shift.interval.map(|i| i.high),
            confidence: 1.0 - 2.0 * level,
            tolerance: Some(tolerance),
            windows: Some(now.len() as u64),
            spread: Some(spread),
        })
    };
    let fires = |record: &TestRecord| {
        record.p_value.is_some_and(|p| p <= level) && record.effect.is_some_and(|by| by > tolerance)
    };
    let record = match way {
        Worse::Higher => one_way(1.0)?,
        Worse::Lower => one_way(-1.0)?,
        Worse::Either => {
            let (higher, lower) = (one_way(1.0)?, one_way(-1.0)?);
            if lower.p_value < higher.p_value { lower } else { higher }
        }
    };
    let worse = fires(&record);
    let record = if way == Worse::Either && medians[1] < medians[0] { turned(record) } else { record };
    Some(Periods { worse, before: medians[0], now: medians[1], tolerance, record })
}

/// The same effect seen the other way round, where a record is of the fall of a series.
fn turned(record: TestRecord) -> TestRecord {
    if record.effect.is_none_or(|effect| effect <= 0.0) {
        return record;
    }
    TestRecord {
        effect: record.effect.map(|x| -x),
        effect_low: record.effect_high.map(|x| -x),
        effect_high: record.effect_low.map(|x| -x),
        ..record
    }
}

/// The confidence with which independent values have as wide an interval as these have with theirs.
fn wider(confidence: f64, spread: f64) -> f64 {
    let reach = -normal::quantile((1.0 - confidence) / 2.0);
    1.0 - 2.0 * normal::upper_tail(reach * spread.sqrt())
}

/// The most likely step of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepped {
    /// It is worse since, by more than is allowed and not by chance, and it is no slow trend.
    pub worse: bool,
    /// Where, and from which level to which.
    pub change: ChangePoint,
    /// What is allowed, in the unit of the series.
    pub tolerance: f64,
    /// The test; its effect is the change of the level, above 0 where it is worse (with `Worse::Either`:
    /// where it is higher).
    pub record: TestRecord,
}

/// Whether the level of a series has stepped to where it is worse. None where all values are the same.
///
/// The p-value of Pettitt's test allows for the correlation of neighbours around the two levels; `shared`
/// of them share data (1 where none do). In O(n² log n) time: meant for some dozen windows.
///
/// Errors: as [`change_point`].
pub fn stepped(
    points: &[Point],
    shared: f64,
    way: Worse,
    p_below: f64,
    allowed: Allowed,
) -> Result<Option<Stepped>, Undecided> {
    let Change::Likely(likely) = change_point(points)? else { return Ok(None) };
    let mut ordered = points.to_vec();
    ordered.sort_by(|a, b| a.t.total_cmp(&b.t));
    let change = sharpened(likely, &ordered)?;
    let spread = memory(&around(&ordered, change.at)).max(shared);
    let n = points.len() as f64;
    let p_value = (2.0 * (-6.0 * change.k * change.k / (n * n * n + n * n) / spread).exp()).min(1.0);
    let by = change.after - change.before;
    let effect = if way == Worse::Lower { -by } else { by };
    let tolerance = allowed.of(change.before);
    let far = if way == Worse::Either { effect.abs() } else { effect };
    let record = TestRecord {
        name: "pettitt".into(),
        statistic: Some(change.k),
        p_value: Some(p_value),
        level: Some(p_below),
        effect: Some(effect),
        confidence: 1.0 - p_below,
        tolerance: Some(tolerance),
        windows: Some(points.len() as u64),
        spread: Some(spread),
        ..TestRecord::default()
    };
    let worse = p_value < p_below && !change.line_fits_better && far > tolerance;
    Ok(Some(Stepped { worse, change, tolerance, record }))
}

/// The same change where two levels fit best: ranks may lead some points away from it.
fn sharpened(likely: ChangePoint, ordered: &[Point]) -> Result<ChangePoint, Undecided> {
    let off = |at: usize| around(ordered, at).iter().map(|x| x.abs()).sum::<f64>();
    let splits = LEAST_LEVEL..=ordered.len() - LEAST_LEVEL;
    let best = splits.map(|at| (at, off(at))).min_by(|a, b| a.1.total_cmp(&b.1));
    let (at, off_step) =
        best.filter(|(_, best)| *best < off(likely.at)).unwrap_or((likely.at, off(likely.at)));
    let line = theil_sen(ordered, 0.95, Intercept::Joint)?;
    let off_line: f64 = ordered.iter().map(|p| (p.value - line.at(p.t)).abs()).sum();
    let [before, after] = levels(ordered, at);
    let line_fits_better = off_line <= off_step;
    Ok(ChangePoint { at, t: ordered[at].t, before, after, line_fits_better, ..likely })
}

/// The medians before a point and from it on.
fn levels(ordered: &[Point], at: usize) -> [f64; 2] {
    let (first, second) = ordered.split_at(at);
    [first, second].map(|of| middle(&of.iter().map(|p| p.value).collect::<Vec<_>>()))
}

/// How far each point is from its level.
fn around(ordered: &[Point], at: usize) -> Vec<f64> {
    let [before, after] = levels(ordered, at);
    let level = |n: usize| if n < at { before } else { after };
    ordered.iter().enumerate().map(|(n, p)| p.value - level(n)).collect()
}

fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
mod tests {
    use super::*;

    const FIVE_PERCENT: Allowed = Allowed { share: 0.05, at_least: 0.0 };

    /// Values around 0, of unit deviation, each keeping `kept` of the one before.
    fn noise(seed: u64, n: usize, kept: f64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut last = 0.0;
        let mut values = Vec::new();
        for _ in 0..n + 50 {
            let fresh: f64 = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
            last = kept * last + (1.0_f64 - kept * kept).sqrt() * fresh;
            values.push(last);
        }
        values.split_off(50)
    }

    fn raised(level: f64, noise: &[f64]) -> Vec<f64> {
        noise.iter().map(|x| level + x).collect()
    }

    #[test]
    fn a_fall_is_worse_only_where_lower_is_worse() {
        let before = raised(100.0, &noise(1, 30, 0.0));
        let now = raised(80.0, &noise(2, 30, 0.0));
        let worse = |way| compare_periods(&before, &now, 1.0, way, FIVE_PERCENT).unwrap();
        assert!(worse(Worse::Lower).worse && worse(Worse::Either).worse && !worse(Worse::Higher).worse);
        let lower = worse(Worse::Lower).record;
        assert!((lower.effect.unwrap() - 20.0).abs() < 1.5, "{lower:?}");
        assert!(lower.effect_low.unwrap() < 20.5 && lower.effect_high.unwrap() > 19.5, "{lower:?}");
        let either = worse(Worse::Either).record;
        assert!(either.effect.unwrap() < -18.0 && either.effect_low.unwrap() < -20.0, "{either:?}");
        assert!(compare_periods(&before, &[f64::NAN], 1.0, Worse::Lower, FIVE_PERCENT).is_none());
        assert!(compare_periods(&[], &now, 1.0, Worse::Lower, FIVE_PERCENT).is_none());
    }

    #[test]
    fn what_is_certain_but_tiny_is_no_alarm() {
        let before = raised(100.0, &noise(3, 200, 0.0).iter().map(|x| x / 100.0).collect::<Vec<_>>());
        let now: Vec<f64> = before.iter().map(|x| x + 1.0).collect();
        let compared = compare_periods(&before, &now, 1.0, Worse::Higher, FIVE_PERCENT).unwrap();
        assert!(compared.record.p_value.unwrap() < 1e-6 && !compared.worse);
        // Values that share all their data are hardly more than one.
        let shared = compare_periods(&before, &now, 200.0, Worse::Higher, FIVE_PERCENT).unwrap();
        assert!(shared.record.p_value.unwrap() > 0.05);
        let strict = Allowed { share: 0.0, at_least: 0.5 };
        assert!(compare_periods(&before, &now, 1.0, Worse::Higher, strict).unwrap().worse);
    }

    #[test]
    fn a_series_that_remembers_raises_few_false_alarms() {
        let allowed = Allowed { share: 0.0, at_least: 0.0 };
        let (mut alarms, mut naive) = (0, 0);
        for run in 0..400 {
            let before = raised(100.0, &noise(7_000 + run, 60, 0.7));
            let now = raised(100.0, &noise(9_000 + run, 60, 0.7));
            let compared = compare_periods(&before, &now, 1.0, Worse::Higher, allowed).unwrap();
            alarms += usize::from(compared.worse);
            let plain = super::super::mann_whitney(&before, &now).unwrap();
            naive += usize::from(plain.p_value < ALPHA);
        }
        // The plain test fires in about one of seven runs.
        assert!(naive > 30, "{naive}");
        assert!(alarms <= 14, "{alarms} of 400");
    }

    #[test]
    fn a_step_is_found_and_a_wandering_series_is_none() {
        let points = |values: &[f64]| -> Vec<Point> {
            values.iter().enumerate().map(|(at, v)| Point::new(60.0 * at as f64, *v)).collect()
        };
        let mut values = raised(100.0, &noise(11, 40, 0.0));
        values[30..].iter_mut().for_each(|x| *x += 20.0);
        let step = |way| stepped(&points(&values), 1.0, way, 0.01, FIVE_PERCENT).unwrap().unwrap();
        assert!(step(Worse::Higher).worse && step(Worse::Either).worse && !step(Worse::Lower).worse);
        assert!(step(Worse::Higher).change.at.abs_diff(30) <= 2);
        assert!((step(Worse::Higher).record.effect.unwrap() - 20.0).abs() < 2.0);
        // However great a step is, it is found.
        for run in 0..50 {
            let mut great = noise(3_000 + run, 40, 0.0);
            great[27..].iter_mut().for_each(|x| *x += 1e3);
            let found = stepped(&points(&great), 1.0, Worse::Higher, 0.01, FIVE_PERCENT).unwrap().unwrap();
            assert!(found.worse, "{run}: {found:?}");
        }
        let mut alarms = 0;
        for run in 0..200 {
            let wander = points(&raised(100.0, &noise(500 + run, 40, 0.5)));
            let any = Allowed { share: 0.0, at_least: 0.0 };
            alarms += usize::from(stepped(&wander, 1.0, Worse::Higher, 0.01, any).unwrap().unwrap().worse);
        }
        assert!(alarms <= 6, "{alarms} of 200");
        assert_eq!(stepped(&points(&[3.0; 20]), 1.0, Worse::Higher, 0.01, FIVE_PERCENT), Ok(None));
        let line: Vec<f64> = (0..40).map(|n| 100.0 + f64::from(n)).collect();
        assert!(!stepped(&points(&line), 1.0, Worse::Higher, 0.01, FIVE_PERCENT).unwrap().unwrap().worse);
    }
}
