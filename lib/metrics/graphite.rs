//! Graphite, by its render API.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use super::query::Written;
use super::remote::{Number, Remote, Series, Server, Service, moment};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble};
use crate::units::Text;
use crate::yaml::Problem;

/// See `preflight explain graphite`.
pub(super) static KIND: Kind = Kind {
    name: "graphite",
    about: "Asks Graphite's render API for one series of each side; empty values stay empty.",
    target: "its address, such as `https://graphite.example.com`; what stands before `/render`",
    example: "\
- name: orders
  kind: graphite
  target: https://graphite.example.com
  worse: lower
  step: 60s
  with:
    headers: {authorization: \"Basic ${GRAPHITE_AUTH}\"}
    query: summarize(sumSeries(shop.{{ side }}.*.orders), \"{{ step }}\", \"sum\", true)
",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The render target that gives one series. It names `{{ side }}`, `{{ release }}` or
    /// `{{ address }}`, or is written once for each side: `{blue: …, green: …}`.
    query: Written,
    /// Request headers.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
}

struct Graphite {
    server: Server,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.settings()?;
    let server = Server::new("Graphite", order, order.target()?, &settings.headers)?;
    let query = settings.query.query(order, "query")?;
    Ok(Box::new(Remote { service: Graphite { server }, query }))
}

/// <https://graphite.readthedocs.io/en/latest/render_api.html#json>
#[derive(Debug, Deserialize)]
struct Target {
    target: String,
    datapoints: Vec<(Option<Number>, f64)>,
}

impl Service for Graphite {
    fn series(&self, query: &str, ask: &Ask<'_>) -> Result<Vec<Series>, Trouble> {
        // Graphite leaves out what lies exactly at `from`.
        let from = (ask.from.as_millisecond().div_euclid(1000) - 1).to_string();
        let until = (ask.to.as_millisecond().div_euclid(1000) + 1).to_string();
        // Its cache would give the values of a minute ago.
        let parameters =
            [("target", query), ("from", &from), ("until", &until), ("format", "json"), ("noCache", "true")];
        let answer = self.server.ask("/render", &parameters, ask.limit)?;
        let all: Vec<Target> = self.server.parse(&answer, &readable(&answer.body))?;
        all.into_iter()
            .map(|target| {
                let known = target.datapoints.into_iter().filter_map(|(value, at)| Some((value?.0, at)));
                let points = known.map(|(value, at)| Ok(Point { at_ms: moment(at)?, value }));
                Ok(Series { label: target.target, points: points.collect::<Result<_, Trouble>>()? })
            })
            .collect()
    }
}

/// Graphite writes numbers that JSON does not have. They become texts.
fn readable(body: &[u8]) -> Vec<u8> {
    static ODD: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\[\s*(NaN|-?Infinity|-?1e9999)\s*,").ok());
    match &*ODD {
        Some(odd) => odd.replace_all(body, &b"[\"$1\","[..]).into_owned(),
        None => body.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_has_no_numbers_for_is_read_and_null_is_no_value() {
        let body = br#"[{"target": "a [NaN", "datapoints": [[NaN, 1], [-Infinity, 2], [1e9999, 3], [null, 4], [0.5, 5]]}]"#;
        let all: Vec<Target> = serde_json::from_slice(&readable(body)).unwrap();
        let values: Vec<Option<f64>> = all[0].datapoints.iter().map(|(v, _)| v.map(|v| v.0)).collect();
        assert!(values[0].unwrap().is_nan());
        assert_eq!(values[1..], [Some(-f64::INFINITY), Some(f64::INFINITY), None, Some(0.5)]);
        assert_eq!(all[0].target, "a [NaN");
    }
}
