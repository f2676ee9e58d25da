//! `router_state`: the weights that are live, so that a release can be undone to what was, not to what
//! somebody remembers.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Extra, Keep, Kind, Order, Source};
use crate::fault::Fault;
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "router_state",
    about: "The weights of both sides as the router of `promote` has them at this moment.",
    target: "none: the router is the one of `promote`",
    example: "{name: weights, kind: router_state}",
    settings: super::schema::<Settings>,
    prepare,
};

/// Settings of `router_state`: there are none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct RouterState {
    name: String,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let Settings {} = order.spec.with.read(&order.loaded.variables)?;
    if order.spec.target.is_some() {
        return Err(order
            .problem("`router_state` takes no `target`")
            .help("it asks the router of `promote`"));
    }
    if order.loaded.plan.promote.is_none() {
        return Err(order
            .problem("the plan has no `promote.router` to ask")
            .help("add one, or remove this source"));
    }
    Ok(Box::new(RouterState { name: order.spec.name.clone() }))
}

impl Source for RouterState {
    fn back_up(&self, context: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let Some(ask) = context.live_weights else {
            return Err(Fault::usage(format!("source `{}`: the plan has no `promote.router`", self.name)));
        };
        let weights = ask()?;
        if weights.is_null() {
            return Err(Fault::infrastructure(format!("source `{}`: the router told no weights", self.name)));
        }
        let mut text = format!("{weights:#}");
        text.push('\n');
        keep.file(b"weights.json", &mut |sink| {
            sink.write_all(text.as_bytes()).map_err(|e| Fault::infrastructure("the store refused").cause(e))
        })?;
        Ok(Extra { tables: Vec::new(), details: json!({ "weights": weights }) })
    }
}
