//! Prometheus, and what answers like it: VictoriaMetrics, Thanos, Mimir.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::query::Written;
use super::remote::{Number, Remote, Series, Server, Service, label, moment, short};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble};
use crate::units::{Text, show_duration};
use crate::world::http::Answer;
use crate::yaml::Problem;

/// See `preflight explain prometheus`.
pub(super) static KIND: Kind = Kind {
    name: "prometheus",
    about: "Asks Prometheus, or what answers like it (VictoriaMetrics, Thanos, Mimir), one PromQL query for each side.",
    target: "its address, such as `https://prometheus.example.com`; what stands before `/api/v1/query_range`",
    example: "\
- name: checkout_errors
  kind: prometheus
  target: https://prometheus.example.com
  unit: share
  step: 15s
  with:
    headers: {authorization: \"Bearer ${PROMETHEUS_TOKEN}\"}
    query: >-
      sum(rate(checkout_requests_total{side=\"{{ side }}\", status=~\"5..\"}[1m]))
      / sum(rate(checkout_requests_total{side=\"{{ side }}\"}[1m]))
",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// Prometheus refuses to answer with more.
const MAX_POINTS: i64 = 11_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The query, PromQL, that gives one series. It names `{{ side }}`, `{{ release }}` or
    /// `{{ address }}`, or is written once for each side: `{blue: …, green: …}`.
    query: Written,
    /// Request headers, such as `authorization` or the tenant (`X-Scope-OrgID`).
    #[serde(default)]
    headers: BTreeMap<String, Text>,
    /// Whether an answer counts that is marked as incomplete or comes with warnings; false when absent.
    #[serde(default)]
    allow_partial: bool,
}

struct Prometheus {
    server: Server,
    allow_partial: bool,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.settings()?;
    let server = Server::new("Prometheus", order, order.target()?, &settings.headers)?;
    let query = settings.query.query(order, "query")?;
    Ok(Box::new(Remote { service: Prometheus { server, allow_partial: settings.allow_partial }, query }))
}

/// The moments of a window that are whole multiples of the step; all in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    first: i64,
    last: i64,
    step: i64,
}

impl Grid {
    /// None where no such moment lies in the window.
    fn of(ask: &Ask<'_>) -> Option<Self> {
        let step = i64::try_from(ask.step.as_millis()).unwrap_or(i64::MAX).max(1);
        let (from, to) = (ask.from.as_millisecond(), ask.to.as_millisecond());
        let down = |ms: i64| ms.div_euclid(step).saturating_mul(step);
        let first = down(from.saturating_add(step - 1));
        let last = down(to.saturating_sub(1));
        (first <= last).then_some(Self { first, last, step })
    }

    fn points(self) -> i64 {
        (self.last - self.first) / self.step + 1
    }
}

impl Service for Prometheus {
    fn series(&self, query: &str, ask: &Ask<'_>) -> Result<Vec<Series>, Trouble> {
        let Some(grid) = Grid::of(ask) else { return Ok(Vec::new()) };
        if grid.points() > MAX_POINTS {
            let (step, window) =
                (show_duration(ask.step.as_secs_f64()), show_duration(ask.window().as_secs_f64()));
            return Err(self.server.refused(&format!(
                "a step of {step} makes {} values of {window}, and Prometheus gives {MAX_POINTS} at most; ask for a longer step",
                grid.points()
            )));
        }
        let (start, end, step) = (seconds(grid.first), seconds(grid.last), seconds(grid.step));
        let timeout = format!("{}ms", ask.limit.as_millis().max(1));
        let parameters =
            [("query", query), ("start", &start), ("end", &end), ("step", &step), ("timeout", &timeout)];
        let answer = self.server.ask("/api/v1/query_range", &parameters, ask.limit)?;
        self.read(&answer)
    }
}

fn seconds(ms: i64) -> String {
    format!("{}{}.{:03}", if ms < 0 { "-" } else { "" }, ms.abs() / 1000, ms.abs() % 1000)
}

/// <https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries>
#[derive(Debug, Deserialize)]
struct Reply {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
    /// VictoriaMetrics.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: String,
    result: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct OneSeries {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, Number)>,
    #[serde(default)]
    histograms: Option<serde_json::Value>,
}

impl Prometheus {
    fn read(&self, answer: &Answer) -> Result<Vec<Series>, Trouble> {
        let reply: Reply = self.server.json(answer)?;
        if reply.status != "success" {
            let why = reply.error.unwrap_or_else(|| format!("its status is `{}`", reply.status));
            return Err(self.server.refused(&short(&why)));
        }
        if (reply.is_partial || !reply.warnings.is_empty()) && !self.allow_partial {
            let why = if reply.warnings.is_empty() {
                "it says so".into()
            } else {
                short(&reply.warnings.join("; "))
            };
            let help = "with `allow_partial: true` such an answer counts";
            return Err(self.server.refused(&format!("the answer may be incomplete: {why} ({help})")));
        }
        let Some(data) = reply.data else {
            return Err(self.server.not_understood(answer, "there is no `data`"));
        };
        if data.result_type != "matrix" {
            let why =
                format!("the result is a {}, where a range query gives a matrix", short(&data.result_type));
            return Err(self.server.not_understood(answer, &why));
        }
        let all: Vec<OneSeries> = serde_json::from_value(data.result)
            .map_err(|e| self.server.not_understood(answer, &e.to_string()))?;
        all.into_iter().map(|series| self.series_of(series)).collect()
    }

    fn series_of(&self, series: OneSeries) -> Result<Series, Trouble> {
        let label = label(series.metric.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if series.histograms.is_some() {
            let why = format!("{label} has histograms, where numbers are needed; use histogram_quantile(…)");
            return Err(self.server.refused(&why));
        }
        let point = |(at, value): (f64, Number)| Ok(Point { at_ms: moment(at)?, value: value.0 });
        Ok(Series { label, points: series.values.into_iter().map(point).collect::<Result<_, Trouble>>()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::super::SideOf;
    use super::*;

    #[test]
    fn windows_side_by_side_have_each_moment_of_the_grid_once() {
        let side = SideOf { word: "green", url: "http://g".into(), release: None };
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let grid = |from, to, step| {
            let step = Duration::from_millis(step);
            Grid::of(&Ask { side: &side, from: at(from), to: at(to), step, covers: step, limit: step })
        };
        assert_eq!(grid(0, 60_000, 15_000), Some(Grid { first: 0, last: 45_000, step: 15_000 }));
        assert_eq!(grid(1, 60_001, 15_000), Some(Grid { first: 15_000, last: 60_000, step: 15_000 }));
        assert_eq!(grid(1, 15_000, 15_000), None);
        assert_eq!(grid(-1, 1, 15_000).map(Grid::points), Some(1));
        // Whatever the bounds are, nothing is asked twice and nothing is left out.
        let bounds = [3, 15_000, 15_001, 44_999, 45_000, 90_000, 100_123, 120_000];
        let mut seen = Vec::new();
        for two in bounds.windows(2) {
            let Some(grid) = grid(two[0], two[1], 15_000) else { continue };
            seen.extend((0..grid.points()).map(|n| grid.first + n * grid.step));
        }
        assert_eq!(seen, [15_000, 30_000, 45_000, 60_000, 75_000, 90_000, 105_000]);
        assert_eq!(seconds(-1_500), "-1.500");
        assert_eq!(seconds(1_435_781_430_781), "1435781430.781");
    }
}
