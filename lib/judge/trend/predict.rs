//! When a series will cross a limit if it goes on as it does.

use super::{Intercept, Point, Trend, Undecided, median_and_mad, theil_sen, usable};
use crate::evidence::Verdict;

/// The fewest points from which a crossing is predicted.
pub const MIN_FOR_PREDICTION: usize = 8;

/// 95 % of the points of a normal distribution lie within so many standard deviations.
const BAND: f64 = 1.959_963_984_540_054;

/// What the series has to stay within, in its own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// It must stay below: a disk at 90 %.
    Below(f64),
    /// It must stay above: days of a certificate, free memory.
    Above(f64),
}

/// When the limit is crossed; times are in seconds after the newest point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crossing {
    /// The line, or the newest value itself, is at the limit or beyond it.
    Already,
    /// The line reaches it.
    In {
        /// When the line does.
        seconds: f64,
        /// The earliest: the steepest slope of the interval, from the upper edge of the scatter.
        earliest: f64,
        /// The latest: the flattest slope, from the lower edge; None when it never does.
        latest: Option<f64>,
    },
    /// The line is flat or leads away from it.
    NotOnThisTrend {
        /// The earliest if the steepest slope of the interval were the true one; None when even that one
        /// does not lead there.
        earliest: Option<f64>,
    },
}

impl Crossing {
    /// It fails when the limit is crossed already or the line reaches it within `horizon` seconds.
    pub fn verdict(&self, horizon: f64) -> Verdict {
        match self {
            Self::Already => Verdict::Fail,
            Self::In { seconds, .. } if *seconds <= horizon => Verdict::Fail,
            Self::In { .. } | Self::NotOnThisTrend { .. } => Verdict::Pass,
        }
    }
}

/// A prediction and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// When the limit is crossed.
    pub crossing: Crossing,
    /// The line.
    pub trend: Trend,
    /// The height of the line at the newest point, in units of the series.
    pub level: f64,
    /// The newest value.
    pub newest: f64,
    /// How far the points scatter to each side of the line (95 %, from the scaled MAD), in units of the
    /// series.
    pub scatter: f64,
}

/// When the series crosses the limit, by its Theil-Sen line with an interval at 95 %.
///
/// The line is a straight one: a series that speeds up gets there earlier, and a series with a daily
/// pattern needs to span whole days. Needs `MIN_FOR_PREDICTION` points. A limit that is not a number is
/// `Undecided::Setting`.
pub fn predict(points: &[Point], limit: Limit) -> Result<Prediction, Undecided> {
    let (Limit::Below(at) | Limit::Above(at)) = limit;
    if !at.is_finite() {
        return Err(Undecided::Setting("a limit must be a finite number"));
    }
    let ordered = usable(points, MIN_FOR_PREDICTION)?;
    let trend = theil_sen(&ordered, 0.95, Intercept::Joint)?;
    let last = ordered[ordered.len() - 1];
    let off: Vec<f64> = ordered.iter().map(|p| p.value - trend.at(p.t)).collect();
    let (_, mad) = median_and_mad(&off)?;
    let (level, scatter) = (trend.at(last.t), BAND * mad);
    // The way to go, and the slopes towards the limit.
    let towards = if matches!(limit, Limit::Below(_)) { 1.0 } else { -1.0 };
    let way = (at - level) * towards;
    let slope = trend.slope * towards;
    // Without an interval nothing is known: the earliest is now, the latest never.
    let (low, high) = trend.interval.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let (flattest, steepest) = if towards > 0.0 { (low, high) } else { (-high, -low) };
    let reach = |way: f64, slope: f64| {
        (slope > 0.0).then(|| way.max(0.0) / slope).filter(|seconds| seconds.is_finite())
    };
    let earliest = reach(way - scatter, steepest);
    let crossing = if way <= 0.0 || (at - last.value) * towards <= 0.0 {
        Crossing::Already
    } else if let Some(seconds) = reach(way, slope) {
        Crossing::In {
            seconds,
            earliest: earliest.unwrap_or(seconds).min(seconds),
            latest: reach(way + scatter, flattest),
        }
    } else {
        Crossing::NotOnThisTrend { earliest }
    };
    Ok(Prediction { crossing, trend, level, newest: last.value, scatter })
}
