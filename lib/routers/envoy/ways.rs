//! What else of Envoy leads to the hosts of a side: other clusters with the same hosts, and other users of its cluster.

use serde_json::Value;

use super::super::ways::{Addresses, Ways};
use super::super::{OtherWay, Side};
use super::Settings;
use super::routes::{field, list, name_of};
use super::view::Clusters;

/// Where in the configuration a look is.
#[derive(Clone, Copy)]
struct At<'a> {
    /// The names that lead there.
    trail: &'a str,
    /// It is inside of the route configuration that is split.
    ours: bool,
}

impl Settings {
    fn sides(&self) -> [(Side, &str); 2] {
        [(Side::Blue, self.blue.as_str()), (Side::Green, self.green.as_str())]
    }

    /// Reads the answers to `/clusters` and `/config_dump`, both whole.
    pub(super) fn other_ways(&self, clusters: &Clusters, dump: &Value) -> Vec<OtherWay> {
        let mut ways = Ways::default();
        let [(_, blue), (_, green)] = self.sides();
        let mut known = Addresses::of(&clusters.addresses(blue), &clusters.addresses(green), 80);
        for name in clusters.names().filter(|name| *name != blue && *name != green) {
            for address in clusters.addresses(name) {
                if let Some(side) = known.side(&address, 80) {
                    ways.add(side, &format!("the cluster `{name}`"), &address);
                }
            }
        }
        for config in list(dump, "configs") {
            // Inline routes are shown once more as static ones; the listener is where people find them.
            for listener in list(config, "static_listeners") {
                self.walk(listener, At { trail: "", ours: false }, &mut ways);
            }
            for listener in list(config, "dynamic_listeners") {
                if let Some(active) = field(listener, "active_state") {
                    self.walk(active, At { trail: "", ours: false }, &mut ways);
                }
            }
            for routes in list(config, "dynamic_route_configs") {
                let ours = field(routes, "route_config").is_some_and(|own| name_of(own) == self.routes);
                self.walk(routes, At { trail: "", ours }, &mut ways);
            }
        }
        ways.all()
    }

    fn walk(&self, value: &Value, at: At<'_>, ways: &mut Ways) {
        match value {
            Value::Array(all) => all.iter().for_each(|inner| self.walk(inner, at, ways)),
            Value::Object(fields) => {
                if at.ours && self.splits(value) {
                    return;
                }
                let name = name_of(value);
                let trail = match (name, at.trail) {
                    ("", trail) => trail.to_owned(),
                    (name, "") => name.to_owned(),
                    (name, trail) => format!("{trail}, {name}"),
                };
                let at = At { trail: &trail, ..at };
                for (key, inner) in fields {
                    match key.as_str() {
                        "cluster" | "cluster_name" | "clusterName" if inner.is_string() => {
                            self.names(inner, at, ways);
                        }
                        "weighted_clusters" | "weightedClusters" => {
                            let parts = list(inner, "clusters").iter().filter_map(|part| field(part, "name"));
                            parts.for_each(|name| self.names(name, at, ways));
                        }
                        _ => self.walk(inner, at, ways),
                    }
                }
            }
            _ => {}
        }
    }

    /// Notes a side's cluster that is named here.
    fn names(&self, name: &Value, at: At<'_>, ways: &mut Ways) {
        for (side, own) in self.sides() {
            if name.as_str() == Some(own) {
                ways.add(side, &format!("another user of the cluster `{own}`"), at.trail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_cluster_with_the_same_hosts_and_another_user_of_a_sides_cluster_are_ways() {
        let settings = Settings {
            admin: String::new(),
            routes: "shop".into(),
            blue: "shop-blue".into(),
            green: "shop-green".into(),
        };
        let host = |address: &str, port: u16| json!({"address": {"socket_address": {"address": address, "port_value": port}}});
        let clusters = Clusters::of(&json!({"cluster_statuses": [
            {"name": "shop-blue", "host_statuses": [host("10.0.0.11", 8080), host("2001:db8::1", 80)]},
            {"name": "shop-green", "host_statuses": [host("10.0.0.12", 8080)]},
            {"name": "admin", "host_statuses": [host("10.0.0.11", 8080)]},
            {"name": "six", "host_statuses": [host("2001:db8:0::1", 80)]},
            {"name": "apart", "host_statuses": [host("10.0.0.11", 8081)]}]}))
        .unwrap_or_else(|e| unreachable!("{e}"));
        let split = json!({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "shop-blue", "weight": 1}, {"name": "shop-green", "weight": 0}]}}});
        let direct = json!({"match": {"prefix": "/old"}, "route": {"cluster": "shop-blue"}});
        let mirror = json!({"match": {"prefix": "/m"}, "route": {"cluster": "apart", "request_mirror_policies": [{"cluster": "shop-green"}]}});
        let dump = json!({"configs": [
            {"static_listeners": [{"listener": {"name": "tcp", "filter_chains": [{"filters": [
                {"name": "proxy", "typed_config": {"cluster": "shop-blue"}}]}]}}]},
            {"dynamic_route_configs": [
                {"route_config": {"name": "shop", "virtual_hosts": [{"name": "all", "routes": [split, direct, mirror]}]}},
                {"route_config": {"name": "other", "virtual_hosts": [{"name": "all", "routes": [split]}]}}],
             "static_route_configs": [{"route_config": {"name": "inline", "virtual_hosts": [{"name": "all", "routes": [direct]}]}}]}]});
        let lines: Vec<String> = settings
            .other_ways(&clusters, &dump)
            .iter()
            .map(|way| format!("{} {}", way.side.word(), way.line()))
            .collect();
        assert_eq!(
            lines,
            [
                "blue the cluster `admin` (10.0.0.11:8080)",
                "blue the cluster `six` ([2001:db8:0::1]:80)",
                "blue another user of the cluster `shop-blue` (tcp, proxy)",
                "blue another user of the cluster `shop-blue` (shop, all)",
                "green another user of the cluster `shop-green` (shop, all)",
                "blue another user of the cluster `shop-blue` (other, all)",
                "green another user of the cluster `shop-green` (other, all)",
            ]
        );
    }
}
