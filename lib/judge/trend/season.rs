//! What a daily (or weekly) pattern lets one expect at an hour, and which new points are out of it.

use super::{Point, Undecided, checked, middle, usable};
use crate::evidence::Verdict;

/// A standard normal variable lies within this of its median half of the time.
const NORMAL_MAD: f64 = 0.674_489_750_196_081_7;

/// The fewest values that have a spread.
pub const MIN_FOR_SPREAD: usize = 2;

/// The fewest points of history with which a phase is judged.
pub const MIN_PER_PHASE: usize = 5;

/// A season has no more phases than this.
const MOST_PHASES: usize = 10_000;

/// The median of values in any order, and their median absolute deviation from it, scaled to the
/// standard deviation of a normal distribution (times 1.4826).
pub fn median_and_mad(values: &[f64]) -> Result<(f64, f64), Undecided> {
    if values.is_empty() {
        return Err(Undecided::NoData);
    }
    checked(values.iter().map(|x| [*x]))?;
    if values.len() < MIN_FOR_SPREAD {
        return Err(Undecided::TooFew { points: values.len(), needed: MIN_FOR_SPREAD });
    }
    Ok(centre_and_spread(values))
}

fn centre_and_spread(values: &[f64]) -> (f64, f64) {
    let centre = middle(values.iter().copied());
    (centre, middle(values.iter().map(|x| (x - centre).abs())) / NORMAL_MAD)
}

/// Which deviations are bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worse {
    /// Errors, latencies, queues.
    Higher,
    /// Orders, free space, hits of a cache.
    Lower,
    /// Anything unusual.
    Either,
}

/// A season, and how far from its pattern is too far.
///
/// A robust z divides by the MAD of the phase. A phase whose history hardly varies has (nearly) none, so
/// the divisor is at least the greatest of `floor`, `floor_share` of the phase's median, and a quarter of
/// the MAD of the whole history around its phases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Season {
    /// The length of the pattern, in seconds: 86,400 for a day, 604,800 for a week.
    pub length: f64,
    /// Into so many equal phases it is cut: 24 for the hours of a day. Phases begin at t = 0, so with
    /// times of the Unix epoch they are hours of UTC, whatever the clocks on the wall do in summer.
    pub phases: usize,
    /// An anomaly is more than so many (scaled) MADs from the median of its phase.
    pub limit: f64,
    /// On which side.
    pub worse: Worse,
    /// The least divisor, in units of the series.
    pub floor: f64,
    /// The least divisor as a share of the phase's median.
    pub floor_share: f64,
}

impl Season {
    /// The hours of a day; more than 4 MADs, a MAD being at least 1 % of the median.
    pub fn of_a_day(worse: Worse) -> Self {
        Self { length: 86_400.0, phases: 24, limit: 4.0, worse, floor: 0.0, floor_share: 0.01 }
    }

    /// The phase of a time in seconds, from 0.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of phases"
    )]
    pub fn phase(&self, t: f64) -> usize {
        let part = t.rem_euclid(self.length) / self.length;
        ((part * self.phases as f64) as usize).min(self.phases.saturating_sub(1))
    }

    fn sensible(&self) -> Result<(), Undecided> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let floor = |x: f64| x.is_finite() && x >= 0.0;
        if !positive(self.length) || !(1..=MOST_PHASES).contains(&self.phases) {
            return Err(Undecided::Setting("a season needs a length above 0 and 1 to 10000 phases"));
        }
        if !positive(self.limit) || !floor(self.floor) || !floor(self.floor_share) {
            return Err(Undecided::Setting(
                "the limit of an anomaly must be above 0, and its floors not below 0",
            ));
        }
        Ok(())
    }
}

/// What history says of one phase of the season.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// Points of history.
    pub points: usize,
    /// Their median, in units of the series: what is expected. 0 without points.
    pub expected: f64,
    /// Their scaled MAD, in units of the series. 0 without points.
    pub mad: f64,
    /// What a deviation is divided by, in units of the series: the MAD, or the floor under it.
    pub spread: f64,
}

/// A new point far from what its phase lets one expect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anomaly {
    /// Which of the new points, from 0.
    pub at: usize,
    /// The point.
    pub point: Point,
    /// What was expected, in units of the series.
    pub expected: f64,
    /// How many spreads above (below: negative) it lies; None where the history does not vary at all and
    /// there is no floor, so that any deviation is infinitely many.
    pub z: Option<f64>,
}

/// New points against the season.
#[derive(Clone, Debug, PartialEq)]
pub struct SeasonReport {
    /// The phases of the season, in order.
    pub phases: Vec<Phase>,
    /// The new points that are out of the ordinary, in the order given.
    pub anomalies: Vec<Anomaly>,
    /// The new points (from 0) of phases with fewer than `MIN_PER_PHASE` points of history: not judged.
    pub unjudged: Vec<usize>,
    /// New points that were judged.
    pub judged: usize,
}

impl SeasonReport {
    /// Any anomaly fails; a point that could not be judged keeps the rest from passing.
    pub fn verdict(&self) -> Verdict {
        match (self.anomalies.is_empty(), self.unjudged.is_empty()) {
            (false, _) => Verdict::Fail,
            (true, false) => Verdict::TooFewSamples,
            (true, true) => Verdict::Pass,
        }
    }
}

/// Which of the newest points are out of the pattern of the history.
///
/// The history must not hold the newest points, and should span five seasons or more: a phase with fewer
/// than `MIN_PER_PHASE` points is not judged. A history that grows or falls over the weeks widens every
/// phase and hides what is smaller than that.
pub fn seasonal_anomalies(
    history: &[Point],
    newest: &[Point],
    season: &Season,
) -> Result<SeasonReport, Undecided> {
    season.sensible()?;
    let history = usable(history, MIN_PER_PHASE)?;
    if newest.is_empty() {
        return Err(Undecided::NoData);
    }
    checked(newest.iter().map(|p| [p.t, p.value]))?;
    let phases = phases_of(&history, season);
    let mut report = SeasonReport { phases, anomalies: Vec::new(), unjudged: Vec::new(), judged: 0 };
    for (at, point) in newest.iter().enumerate() {
        let phase = report.phases[season.phase(point.t)];
        if phase.points < MIN_PER_PHASE {
            report.unjudged.push(at);
            continue;
        }
        report.judged += 1;
        let above = point.value - phase.expected;
        if is_anomaly(above, phase.spread, season) {
            let z = (phase.spread > 0.0).then(|| above / phase.spread);
            report.anomalies.push(Anomaly { at, point: *point, expected: phase.expected, z });
        }
    }
    Ok(report)
}

fn is_anomaly(above: f64, spread: f64, season: &Season) -> bool {
    let bad = match season.worse {
        Worse::Higher => above,
        Worse::Lower => -above,
        Worse::Either => above.abs(),
    };
    bad > season.limit * spread
}

fn phases_of(history: &[Point], season: &Season) -> Vec<Phase> {
    let mut values = vec![Vec::new(); season.phases];
    for point in history {
        values[season.phase(point.t)].push(point.value);
    }
    let centres: Vec<(f64, f64)> = values.iter().map(|of| centre_and_spread(of)).collect();
    let around = middle(history.iter().map(|p| (p.value - centres[season.phase(p.t)].0).abs())) / NORMAL_MAD;
    let floor = |expected: f64| season.floor.max(season.floor_share * expected.abs()).max(around / 4.0);
    let phase = |(of, (expected, mad)): (&Vec<f64>, &(f64, f64))| Phase {
        points: of.len(),
        expected: *expected,
        mad: *mad,
        spread: mad.max(floor(*expected)),
    };
    values.iter().zip(&centres).map(phase).collect()
}
