//! What else of Traefik leads to the servers of a side: routers that use its service, or another one with its servers.
//!
//! A service that no router leads to is no way: nobody comes by it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::ways::{Addresses, Ways};
use super::super::{OtherWay, Side};

/// Both sides' services and that of the split, each with its provider.
pub(super) struct Services<'a> {
    pub blue: &'a str,
    pub green: &'a str,
    pub split: &'a str,
}

/// How the answer calls routers and their services, and what a server's address is called.
const PROTOCOLS: [(&str, &str, &str); 3] = [
    ("routers", "services", "url"),
    ("tcpRouters", "tcpServices", "address"),
    ("udpRouters", "udpServices", "address"),
];

/// Reads `/api/rawdata`; routers that `is_ours` are the split's own.
pub(super) fn other_ways(all: &Value, split: &Services<'_>, is_ours: impl Fn(&str) -> bool) -> Vec<OtherWay> {
    let servers = |side: &str| -> Vec<String> {
        let reached = reached(&all["services"], side, "");
        reached.iter().flat_map(|name| addresses(&all["services"][name.as_str()], "url")).collect()
    };
    let mut known = Addresses::of(&servers(split.blue), &servers(split.green), 80);
    let mut ways = Ways::default();
    for (routers, services, address) in PROTOCOLS {
        for (name, router) in all[routers].as_object().into_iter().flatten() {
            if name.ends_with("@internal") || is_ours(name) {
                continue;
            }
            let Some(to) = router["service"].as_str().map(|to| qualified(to, name)) else { continue };
            let stop = if services == "services" { split.split } else { "" };
            for service in reached(&all[services], &to, stop) {
                let of_http = services == "services";
                let named = |own: &str| of_http && service == own;
                let mut add = |side: Side| {
                    let place = if service == to { to.clone() } else { format!("{to}, {service}") };
                    ways.add(side, &format!("the router `{name}`"), &place);
                };
                if named(split.blue) {
                    add(Side::Blue);
                } else if named(split.green) {
                    add(Side::Green);
                } else {
                    let places = addresses(&all[services][service.as_str()], address);
                    let sides: BTreeSet<Side> =
                        places.iter().filter_map(|place| known.side(place, 80)).collect();
                    sides.into_iter().for_each(add);
                }
            }
        }
    }
    ways.all()
}

/// A name with its provider: that of whoever names it, where it has none of its own.
fn qualified(name: &str, by: &str) -> String {
    match by.rsplit_once('@') {
        Some((_, provider)) if !name.contains('@') => format!("{name}@{provider}"),
        _ => name.to_owned(),
    }
}

/// A service and those that it is made of, but for the split and whatever is behind it.
fn reached(services: &Value, from: &str, split: &str) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(name) = open.pop() {
        if name == split || !found.insert(name.clone()) {
            continue;
        }
        let service = &services[name.as_str()];
        let mut child = |of: &Value| open.extend(of.as_str().map(|child| qualified(child, &name)));
        for kind in ["weighted", "highestRandomWeight"] {
            service[kind]["services"].as_array().into_iter().flatten().for_each(|part| child(&part["name"]));
        }
        let mirrors = service["mirroring"]["mirrors"].as_array().into_iter().flatten();
        mirrors.for_each(|mirror| child(&mirror["name"]));
        for (kind, key) in [("mirroring", "service"), ("failover", "service"), ("failover", "fallback")] {
            child(&service[kind][key]);
        }
    }
    found
}

fn addresses(service: &Value, key: &str) -> Vec<String> {
    let servers = service["loadBalancer"]["servers"].as_array().into_iter().flatten();
    servers.filter_map(|server| server[key].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_a_way_where_its_service_is_a_side_or_has_its_servers() {
        let text = include_str!("../../../tests/field/routers/traefik-rawdata.json");
        let all: Value = serde_json::from_str(text).unwrap_or_default();
        let split = Services { blue: "shop-blue@file", green: "shop-green@file", split: "shop@file" };
        let found = other_ways(&all, &split, |name| name == "shop-trapkey-match-500@file");
        let lines: Vec<String> =
            found.iter().map(|way| format!("{} {}", way.side.word(), way.line())).collect();
        assert_eq!(
            lines,
            [
                "blue the router `admin@file` (shop-blue@file)",
                "blue the router `mirrored@file` (mirror@file, shop-blue@file)",
                "green the router `mirrored@file` (mirror@file, shop-green@file)",
                "blue the router `old@file` (old@file, shop-blue@file)",
                "blue the router `other@docker` (other@docker)",
                "blue the router `raw@file` (raw@file)",
            ]
        );
    }
}
