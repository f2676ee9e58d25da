//! A series of one measured value over time: where it is heading, and what in it is out of the ordinary.
//!
//! Times are seconds (of the Unix epoch, or from any other origin), values are in whatever unit the
//! series has; slopes are in that unit per second. Nothing here assumes even spacing or an order.

mod change;
mod predict;
mod season;
mod slope;

pub use change::{Change, ChangePoint, MIN_FOR_CHANGE, change_point};
pub use predict::{Crossing, Limit, MIN_FOR_PREDICTION, Prediction, predict};
pub use season::{
    Anomaly, MIN_FOR_SPREAD, MIN_PER_PHASE, Phase, Season, SeasonReport, Worse, median_and_mad,
    seasonal_anomalies,
};
pub use slope::{Intercept, MAX_POINTS, MIN_FOR_SLOPE, Trend, theil_sen};

use super::quantiles::median;
use crate::evidence::Verdict;

/// Greater figures are not computed with.
const GREATEST: f64 = 1e150;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When, in seconds.
    pub t: f64,
    /// What was measured, in the unit of the series.
    pub value: f64,
}

impl Point {
    /// A measurement of `value` at `t` seconds.
    pub fn new(t: f64, value: f64) -> Self {
        Self { t, value }
    }
}

/// Why nothing can be said about a series. None of these is a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Undecided {
    /// There are no points.
    NoData,
    /// There are fewer points than the method needs.
    TooFew {
        /// As many as there are.
        points: usize,
        /// As many as are needed.
        needed: usize,
    },
    /// All points were measured at the same moment, so that there is no time to speak of.
    OneMoment,
    /// A time or a value is NaN or infinite.
    NotANumber {
        /// Which point, from 0, as they were given.
        at: usize,
    },
    /// A time or a value is beyond ±1e150, or times are so close that there is no slope between them:
    /// nothing to compute with.
    OutOfRange,
    /// A setting makes no sense.
    Setting(&'static str),
}

impl Undecided {
    /// The verdict to record.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::NoData => Verdict::NoData,
            Self::TooFew { .. } | Self::OneMoment => Verdict::TooFewSamples,
            Self::NotANumber { .. } | Self::OutOfRange | Self::Setting(_) => Verdict::Error,
        }
    }

    /// One sentence for people.
    pub fn message(self) -> String {
        match self {
            Self::NoData => "the series has no points".into(),
            Self::TooFew { points, needed } => {
                format!("the series has {points} points; {needed} are needed")
            }
            Self::OneMoment => "all points of the series were measured at the same moment".into(),
            Self::NotANumber { at } => format!("point {at} of the series is not a finite number"),
            Self::OutOfRange => "the figures of the series are too great to compute with".into(),
            Self::Setting(what) => what.into(),
        }
    }
}

/// The points in order of time, or why they are of no use.
fn usable(points: &[Point], needed: usize) -> Result<Vec<Point>, Undecided> {
    if points.is_empty() {
        return Err(Undecided::NoData);
    }
    checked(points.iter().map(|p| [p.t, p.value]))?;
    if points.len() < needed {
        return Err(Undecided::TooFew { points: points.len(), needed });
    }
    let mut ordered = points.to_vec();
    ordered.sort_by(|a, b| a.t.total_cmp(&b.t));
    Ok(ordered)
}

/// Whether all figures can be computed with: finite, and so that their differences are.
fn checked<const N: usize>(figures: impl Iterator<Item = [f64; N]>) -> Result<(), Undecided> {
    let mut too_great = false;
    for (at, of) in figures.enumerate() {
        if !of.iter().all(|x| x.is_finite()) {
            return Err(Undecided::NotANumber { at });
        }
        too_great |= of.iter().any(|x| x.abs() > GREATEST);
    }
    if too_great { Err(Undecided::OutOfRange) } else { Ok(()) }
}

/// The median of values in any order; 0 for none.
fn middle(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    median(&values).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::float_cmp, reason = "a test stops at what it did not expect")]
mod tests;
