//! What `expect` may name: figures of a window of values.

use crate::judge::{median, quantile};
use crate::plan::MetricUnit;
use crate::units::Unit;
use crate::yaml::{self, Problem};

/// One figure of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Figure {
    Mean,
    Median,
    Min,
    Max,
    Last,
    Sum,
    Samples,
    /// In 0..1.
    Quantile(f64),
}

const KNOWN: &[(&str, Figure)] = &[
    ("mean", Figure::Mean),
    ("median", Figure::Median),
    ("min", Figure::Min),
    ("max", Figure::Max),
    ("last", Figure::Last),
    ("sum", Figure::Sum),
    ("samples", Figure::Samples),
];

impl Figure {
    /// The figure of that name: one of the list, or `p50`, `p99.9`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if let Some((_, figure)) = KNOWN.iter().find(|(known, _)| *known == name) {
            return Some(*figure);
        }
        let digits = name.strip_prefix('p')?;
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let percent: f64 = digits.parse().ok()?;
        (percent > 0.0 && percent < 100.0).then(|| Self::Quantile(percent / 100.0))
    }

    /// What is said of a name that is none.
    pub(super) fn unknown(name: &str) -> Problem {
        let quantiles = ["p50", "p90", "p95", "p99"];
        yaml::unknown("figure", name, KNOWN.iter().map(|(known, _)| *known).chain(quantiles))
    }

    /// Its dimension for a metric of this unit.
    pub(super) fn dimension(self, unit: MetricUnit) -> Unit {
        if self == Self::Samples { Unit::Plain } else { unit.dimension() }
    }

    /// The fewest values that it is made of.
    pub(super) fn least(self) -> usize {
        match self {
            Self::Last | Self::Samples => 1,
            _ => 3,
        }
    }

    /// As people call it: `the mean of 30 values`.
    pub(super) fn words(self, name: &str, count: usize) -> String {
        let values = if count == 1 { "value" } else { "values" };
        match self {
            Self::Samples => "the number of samples".into(),
            Self::Last => format!("the newest of {count} {values}"),
            Self::Min => format!("the smallest of {count} {values}"),
            Self::Max => format!("the greatest of {count} {values}"),
            _ => format!("the {name} of {count} {values}"),
        }
    }

    /// Of values in the order of time; none of an empty list.
    pub(super) fn of(self, values: &[f64]) -> Option<f64> {
        let last = *values.last()?;
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let sum: f64 = values.iter().sum();
        match self {
            Self::Mean => Some(sum / values.len() as f64),
            Self::Median => median(&sorted),
            Self::Min => sorted.first().copied(),
            Self::Max => sorted.last().copied(),
            Self::Last => Some(last),
            Self::Sum => Some(sum),
            Self::Samples => Some(values.len() as f64),
            Self::Quantile(q) => quantile(&sorted, q),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_name_and_others_have_a_neighbour() {
        let values = [4.0, 1.0, 3.0, 2.0];
        let of = |name: &str| Figure::parse(name).unwrap().of(&values).unwrap();
        for (name, value) in [
            ("mean", 2.5),
            ("median", 2.5),
            ("min", 1.0),
            ("max", 4.0),
            ("last", 2.0),
            ("sum", 10.0),
            ("samples", 4.0),
            ("p50", 2.5),
        ] {
            assert!((of(name) - value).abs() < 1e-12, "{name}: {}", of(name));
        }
        assert!(of("p99.9") > 3.9);
        for wrong in ["p", "p0", "p100", "p-1", "pinf", "p1e1x", "meen", "P95"] {
            assert_eq!(Figure::parse(wrong), None, "{wrong}");
        }
        assert!(Figure::unknown("meen").help.unwrap().contains("mean"));
        assert_eq!(Figure::Mean.of(&[]), None);
    }
}
