//! `env`: whether a variable is set as it should be. Its value is compared and never shown.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Unit};
use crate::yaml::Problem;

/// See `preflight explain env`.
pub(super) static KIND: Kind = Kind {
    name: "env",
    about: "Looks at a variable of the environment; its value is compared and never shown.",
    target: "the variable's name, without `$`",
    example: "\
- name: payment key is there
  kind: env
  target: PAYMENT_API_KEY
  expect: {value: \"~ ^pk_live_\"}
",
    observes: &[
        Observable { name: "set", unit: Unit::Flag, about: "whether it is set" },
        Observable { name: "not_empty", unit: Unit::Flag, about: "whether it is set and not empty" },
        Observable { name: "value", unit: Unit::Text, about: "its value, compared and never shown" },
    ],
    presumes: &[Presumed { name: "not_empty", is: "true", unless: &["set", "value"] }],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct Variable {
    name: String,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    let target = order.target()?;
    if target.shown != target.value || target.value.starts_with('$') {
        // The value itself must not get into the message.
        let message = format!("`{}` is the variable's value, not its name", target.shown);
        return Err(order.problem("target", message).help("write the name alone, without `$` and braces"));
    }
    if target.value.contains(['=', '\0']) || target.value.contains(char::is_whitespace) {
        return Err(order.problem("target", format!("`{target}` is not the name of a variable")));
    }
    Ok(Box::new(Variable { name: target.value.clone() }))
}

impl Check for Variable {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        Ok(match std::env::var_os(&self.name) {
            Some(value) => sight(Some(&value.to_string_lossy())),
            None => sight(None).note(format!("`{}` is not set", self.name)),
        })
    }
}

fn sight(value: Option<&str>) -> Sight {
    let sight = Sight::default()
        .saw("set", Observed::Flag(value.is_some()))
        .saw("not_empty", Observed::Flag(value.is_some_and(|value| !value.is_empty())));
    match value {
        Some(value) => sight.saw_secret("value", Observed::Text(value.to_owned())),
        None => sight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_unset_from_empty_from_set() {
        let flags = |value| {
            let sight = sight(value);
            [sight.seen[0].1.clone(), sight.seen[1].1.clone()]
        };
        assert_eq!(flags(None), [Observed::Flag(false), Observed::Flag(false)]);
        assert_eq!(flags(Some("")), [Observed::Flag(true), Observed::Flag(false)]);
        assert_eq!(flags(Some("x")), [Observed::Flag(true), Observed::Flag(true)]);
    }
}
