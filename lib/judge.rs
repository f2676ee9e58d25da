//! Pure statistics: no I/O, no clock.

mod binomial;
mod compare;
mod comparison;
pub mod kayenta;
mod looks;
pub mod normal;
mod periods;
pub mod power;
mod quantiles;
mod ranks;
mod rates;
mod samples;
mod seen;
mod spending;
pub mod trend;
mod trigger;

pub use compare::{ErrorComparison, LatencyComparison, compare_errors, compare_latency};
pub use looks::{Decision, Judge, Looked, bin_ms, condition, kayenta_fits, window_ms};
pub use periods::{Allowed, MIN_FOR_PERIODS, Periods, Stepped, compare_periods, stepped};
pub use quantiles::{
    QuantileEstimate, median, quantile, quantile_difference, quantile_interval, quantile_ratio,
};
pub use ranks::{
    Alternative, MannWhitney, Method, Sample, Shift, hodges_lehmann, mann_whitney, mann_whitney_of,
    mann_whitney_test, shift, shift_of,
};
pub use rates::{
    Interval, NoTraffic, RateDifference, error_rate_interval, error_rate_lower, error_rate_upper, fisher,
    fisher_more, rate_difference,
};
pub use samples::{Batch, Bin, Given, Point, Requests, Sorter};
pub use spending::Spending;
pub use trigger::{Metric, known_metrics, metric_of, trigger_fits};

use crate::evidence::{ProbeSummary, SideInterval};

/// What one side did in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SideFigures {
    /// Requests, the failed ones among them.
    pub requests: u64,
    /// Failed ones.
    pub errors: u64,
    /// Latencies of the requests that did not fail, in ms, ascending; empty where the source counts
    /// no single requests.
    pub latencies_ms: Vec<f64>,
    /// Mean latency in ms, where it is known.
    pub mean: Option<f64>,
    /// Greatest latency in ms, where it is known.
    pub max: Option<f64>,
}

impl SideFigures {
    /// The figures of single requests, each with its latency in ms and whether it went well. Failed
    /// ones count as errors and leave the latencies alone.
    pub fn of(answers: impl IntoIterator<Item = (f64, bool)>) -> Self {
        let mut figures = Self::default();
        for (latency, good) in answers {
            figures.requests += 1;
            if good {
                figures.latencies_ms.push(latency);
            } else {
                figures.errors += 1;
            }
        }
        figures.latencies_ms.sort_by(f64::total_cmp);
        let answered = figures.latencies_ms.len();
        if answered > 0 {
            figures.mean = Some(figures.latencies_ms.iter().sum::<f64>() / answered as f64);
            figures.max = figures.latencies_ms.last().copied();
        }
        figures
    }

    /// Failed requests as a share of all, in 0..=1; None without any.
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.errors as f64 / self.requests as f64)
    }

    /// A quantile of the latencies in ms; None without any.
    pub fn latency(&self, q: f64) -> Option<f64> {
        quantile(&self.latencies_ms, q)
    }

    /// For the documents of `verify`.
    pub fn summary(&self) -> ProbeSummary {
        ProbeSummary {
            requests: self.requests,
            errors: self.errors,
            p50: self.latency(0.5),
            p95: self.latency(0.95),
            p99: self.latency(0.99),
        }
    }

    /// For the series of `promote`.
    pub fn interval(&self) -> SideInterval {
        SideInterval {
            requests: self.requests,
            errors: self.errors,
            p50: self.latency(0.5),
            p95: self.latency(0.95),
            p99: self.latency(0.99),
            mean: self.mean,
            max: self.max,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::float_cmp, reason = "a test stops at what it did not expect")]
mod tests;
