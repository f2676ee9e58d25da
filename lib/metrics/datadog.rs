//! Datadog, by its query of timeseries points.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::query::Written;
use super::remote::{Number, Remote, Series, Server, Service, moment, short};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble};
use crate::units::Text;
use crate::yaml::Problem;

/// See `preflight explain datadog`.
pub(super) static KIND: Kind = Kind {
    name: "datadog",
    about: "Asks Datadog for one series of each side. The keys are DD_API_KEY and DD_APP_KEY.",
    target: "the address of the API of your site, such as `https://api.datadoghq.eu`",
    example: "\
- name: checkout_p95
  kind: datadog
  target: https://api.datadoghq.eu
  unit: s
  step: 60s
  with:
    query: p95:checkout.duration{side:{{ side }}}.rollup({{ step_seconds }})
",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The query that gives one series. It names `{{ side }}`, `{{ release }}` or `{{ address }}`, or is
    /// written once for each side: `{blue: …, green: …}`. Without a `.rollup(…)` Datadog chooses the time
    /// between two values.
    query: Written,
    /// The API key, such as `${NAME}`; `${DD_API_KEY}` when absent.
    #[serde(default)]
    api_key: Option<Text>,
    /// The application key, with the right `timeseries_query`; `${DD_APP_KEY}` when absent.
    #[serde(default)]
    app_key: Option<Text>,
}

struct Datadog {
    server: Server,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.settings()?;
    let mut server = Server::new("Datadog", order, order.target()?, &BTreeMap::new())?;
    let keys = [
        ("api_key", "DD_API_KEY", "dd-api-key", settings.api_key),
        ("app_key", "DD_APP_KEY", "dd-application-key", settings.app_key),
    ];
    for (setting, variable, header, given) in keys {
        let value = given.map(|text| text.value).or_else(|| order.variables.get(variable));
        let Some(value) = value.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()) else {
            return Err(order
                .problem(setting, format!("the variable `{variable}` is not set, and Datadog needs it"))
                .help(format!("set it in the environment, or name another one: {setting}: ${{NAME}}")));
        };
        server.header(order, setting, header, &value)?;
    }
    let query = settings.query.query(order, "query")?;
    Ok(Box::new(Remote { service: Datadog { server }, query }))
}

/// <https://docs.datadoghq.com/api/latest/metrics/query-timeseries-points/>
#[derive(Debug, Deserialize)]
struct Reply {
    status: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    series: Option<Vec<OneSeries>>,
}

#[derive(Debug, Deserialize)]
struct OneSeries {
    #[serde(default)]
    expression: Option<String>,
    #[serde(default)]
    scope: Option<String>,
    pointlist: Vec<(f64, Option<Number>)>,
}

impl Service for Datadog {
    fn series(&self, query: &str, ask: &Ask<'_>) -> Result<Vec<Series>, Trouble> {
        let from = ask.from.as_millisecond().div_euclid(1000).to_string();
        let to = (ask.to.as_millisecond() + 999).div_euclid(1000).to_string();
        let answer =
            self.server.get("/api/v1/query", &[("from", &from), ("to", &to), ("query", query)], ask.limit)?;
        let reply: Reply = self.server.json(&answer)?;
        if reply.status != "ok" {
            let why = reply.error.unwrap_or_else(|| format!("its status is `{}`", reply.status));
            return Err(self.server.refused(&short(&why)));
        }
        let Some(all) = reply.series else {
            return Err(self.server.not_understood(&answer, "there is no `series`"));
        };
        all.into_iter()
            .map(|series| {
                let label = series.scope.filter(|scope| !scope.is_empty()).or(series.expression);
                let known = series.pointlist.into_iter().filter_map(|(at, value)| Some((at, value?.0)));
                let points = known.map(|(ms, value)| Ok(Point { at_ms: moment(ms / 1e3)?, value }));
                Ok(Series {
                    label: label.unwrap_or_default(),
                    points: points.collect::<Result<_, Trouble>>()?,
                })
            })
            .collect()
    }
}
