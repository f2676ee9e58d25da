//! `dns`: what the system's resolver says about a name.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Unit};
use crate::yaml::Problem;

/// See `preflight explain dns`.
pub(super) static KIND: Kind = Kind {
    name: "dns",
    about: "Asks the system's resolver for the addresses of a name.",
    target: "a host name",
    example: "\
- name: shop has an address
  kind: dns
  target: shop.example.com
  expect: {addresses: \"~ 203\\\\.0\\\\.113\\\\.\", latency: \"<= 1s\"}
",
    observes: &[
        Observable { name: "addresses", unit: Unit::Text, about: "all addresses, sorted, `, ` between them" },
        Observable { name: "count", unit: Unit::Plain, about: "how many there are" },
        Observable { name: "latency", unit: Unit::Duration, about: "the time until the answer" },
    ],
    presumes: &[Presumed { name: "count", is: ">= 1", unless: &["addresses"] }],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct Dns {
    name: String,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    let target = order.target()?;
    if target.value.contains(|c: char| c.is_whitespace() || c == '/' || c == ':') {
        let message = format!("`{target}` is not a host name");
        return Err(order.problem("target", message).help("write the name alone: shop.example.com"));
    }
    Ok(Box::new(Dns { name: target.value.clone() }))
}

impl Check for Dns {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let started = Instant::now();
        let found = (self.name.as_str(), 0).to_socket_addrs();
        let latency = started.elapsed().as_secs_f64();
        let (addresses, note) = match found {
            Ok(found) => (found.map(|address| address.ip()).collect(), None),
            Err(error) if says_there_is_none(&error) => (Vec::new(), Some(error.to_string())),
            // A resolver that does not answer says nothing about the name.
            Err(error) => return Err(Trouble::failed(format!("the resolver did not answer: {error}"))),
        };
        let sight = sight(addresses).number("latency", latency, Unit::Duration);
        Ok(match note {
            Some(note) => sight.note(note),
            None => sight,
        })
    }
}

fn sight(mut addresses: Vec<IpAddr>) -> Sight {
    addresses.sort_unstable();
    addresses.dedup();
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let sight = Sight::default().number("count", texts.len() as f64, Unit::Plain);
    // None at all would be without every address that the plan does not want.
    if texts.is_empty() { sight } else { sight.saw("addresses", Observed::Text(texts.join(", "))) }
}

/// The standard library keeps getaddrinfo's answer only as text (glibc, glibc, musl).
fn says_there_is_none(error: &io::Error) -> bool {
    let text = error.to_string();
    ["Name or service not known", "No address associated with hostname", "Name does not resolve"]
        .iter()
        .any(|known| text.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_addresses_and_counts_each_once() {
        let all = ["::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap()).to_vec();
        let sight = sight(all);
        assert_eq!(sight.seen[0].1, Observed::Number(3.0, Unit::Plain));
        assert_eq!(sight.seen[1].1, Observed::Text("10.0.0.1, 10.0.0.2, ::1".into()));
        let none = super::sight(Vec::new());
        assert_eq!(none.seen, [("count".to_owned(), Observed::Number(0.0, Unit::Plain))]);
    }

    #[test]
    fn a_resolver_that_is_down_is_not_an_answer() {
        let error = |text: &str| io::Error::other(text.to_owned());
        assert!(says_there_is_none(&error(
            "failed to lookup address information: Name or service not known"
        )));
        assert!(!says_there_is_none(&error("Temporary failure in name resolution")));
    }
}
