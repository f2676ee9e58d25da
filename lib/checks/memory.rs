//! `memory`: what this machine has left.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::Unit;
use crate::yaml::Problem;

/// See `preflight explain memory`.
pub(super) static KIND: Kind = Kind {
    name: "memory",
    about: "Looks at the memory that this machine has left.",
    target: "",
    example: "\
- name: memory for the migration
  kind: memory
  expect: {available: \">= 2GiB\"}
",
    observes: &[
        Observable {
            name: "available",
            unit: Unit::Bytes,
            about: "what programs can get without swapping (MemAvailable)",
        },
        Observable { name: "available_share", unit: Unit::Share, about: "the same as a share of all memory" },
    ],
    presumes: &[Presumed { name: "available_share", is: ">= 10%", unless: &["available"] }],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct Memory;

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    Ok(Box::new(Memory))
}

impl Check for Memory {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let text = std::fs::read_to_string("/proc/meminfo")
            .map_err(|error| Trouble::broken(format!("/proc/meminfo: {error}")))?;
        Ok(sight(&text))
    }
}

fn sight(meminfo: &str) -> Sight {
    let bytes = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024.0)
    };
    let mut sight = Sight::default();
    if let Some(available) = bytes("MemAvailable") {
        sight = sight.number("available", available, Unit::Bytes);
        if let Some(total) = bytes("MemTotal").filter(|total| *total > 0.0) {
            sight = sight.number("available_share", available / total, Unit::Share);
        }
    }
    sight
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Observed;

    #[test]
    fn reads_what_the_kernel_says() {
        let sight = sight("MemTotal:        8000 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n");
        assert_eq!(sight.seen[0].1, Observed::Number(2_048_000.0, Unit::Bytes));
        assert_eq!(sight.seen[1].1, Observed::Number(0.25, Unit::Share));
    }

    #[test]
    fn sees_nothing_where_the_kernel_says_nothing() {
        assert!(sight("").seen.is_empty());
        assert!(sight("MemTotal: 5 kB\nMemAvailable: many kB").seen.is_empty());
    }
}
