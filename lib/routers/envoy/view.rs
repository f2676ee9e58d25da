//! What Envoy itself says of the hosts of its clusters.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::SideView;
use super::routes::{field, list, name_of};
use crate::redact::redact;

/// The clusters, by name.
pub(super) struct Clusters(BTreeMap<String, Cluster>);

/// The hosts of a cluster, and its name in counters.
struct Cluster {
    hosts: Vec<Host>,
    counted_as: Option<String>,
}

/// A host, and why it gets no users.
#[derive(Debug, PartialEq)]
struct Host {
    name: String,
    /// The same, as it can be compared.
    address: String,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    Serves,
    Down(&'static str),
    TakenOut(&'static str),
}

/// What Envoy writes of a host that failed, and what it means. A degraded host still serves.
const FAILED: [(&str, &str); 4] = [
    ("failed_active_health_check", "it fails its health check"),
    ("failed_outlier_check", "ejected as an outlier"),
    ("excluded_via_immediate_hc_fail", "it asked to be left out"),
    ("pending_active_hc", "its first health check has not ended"),
];

impl Clusters {
    /// Reads the answer to `/clusters?format=json`.
    ///
    /// Errors: in words, when it is something else.
    pub(super) fn of(answer: &Value) -> Result<Self, String> {
        let all = field(answer, "cluster_statuses").and_then(Value::as_array);
        let all = all.ok_or("what it answered is no list of clusters")?;
        let cluster = |status: &Value| {
            let hosts = list(status, "host_statuses").iter().map(Host::of).collect();
            let counted_as = field(status, "observability_name").and_then(Value::as_str).map(str::to_owned);
            (name_of(status).to_owned(), Cluster { hosts, counted_as })
        };
        Ok(Self(all.iter().map(cluster).collect()))
    }

    pub(super) fn has(&self, cluster: &str) -> bool {
        self.0.contains_key(cluster)
    }

    /// The addresses of a cluster's hosts.
    pub(super) fn addresses(&self, cluster: &str) -> Vec<String> {
        let hosts = self.0.get(cluster).into_iter().flat_map(|known| &known.hosts);
        hosts.map(|host| host.address.clone()).collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    pub(super) fn has_hosts(&self, cluster: &str) -> bool {
        self.0.get(cluster).is_some_and(|known| !known.hosts.is_empty())
    }

    /// The name of a cluster in counters: `alt_stat_name` where it has one.
    pub(super) fn counted_as<'a>(&'a self, cluster: &'a str) -> &'a str {
        let name = self.0.get(cluster).and_then(|known| known.counted_as.as_deref());
        name.filter(|name| !name.is_empty()).unwrap_or(cluster)
    }

    /// A cluster as a side's view.
    pub(super) fn side(&self, cluster: &str) -> SideView {
        let mut view = SideView::default();
        for host in self.0.get(cluster).into_iter().flat_map(|known| &known.hosts) {
            let word = |why: &str| format!("{}: {why}", host.name);
            match host.state {
                State::Serves => (view.serving, view.of) = (view.serving + 1, view.of + 1),
                State::Down(why) => {
                    view.of += 1;
                    view.down.push(word(why));
                }
                State::TakenOut(why) => view.taken_out.push(word(why)),
            }
        }
        if view.of == 0 {
            let all = std::mem::take(&mut view.taken_out);
            let why = match (self.has(cluster), all.is_empty()) {
                (false, _) => "Envoy has no such cluster".into(),
                (true, true) => "it has no hosts".into(),
                (true, false) => all.join(", "),
            };
            view.down.push(format!("{cluster}: {why}"));
        }
        view
    }
}

impl Host {
    fn of(status: &Value) -> Self {
        let address = field(status, "address").unwrap_or(&Value::Null);
        let (name, address) = match field(address, "socket_address") {
            Some(socket) => {
                let host = field(socket, "address").and_then(Value::as_str).unwrap_or("?");
                let port = field(socket, "port_value").and_then(Value::as_u64).unwrap_or(0);
                let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                (format!("{host}:{port}"), format!("{bracketed}:{port}"))
            }
            None => match field(address, "pipe").and_then(|pipe| pipe["path"].as_str()) {
                Some(path) => (path.to_owned(), format!("unix:{path}")),
                None => ("a host".to_owned(), "a host".to_owned()),
            },
        };
        let health = field(status, "health_status").unwrap_or(&Value::Null);
        let is = |flag: &str| field(health, flag).and_then(Value::as_bool) == Some(true);
        let failed = || FAILED.iter().find(|(flag, _)| is(flag)).map(|(_, why)| State::Down(why));
        let state = match field(health, "eds_health_status").and_then(Value::as_str) {
            Some("DRAINING") => State::TakenOut("DRAINING"),
            _ if is("pending_dynamic_removal") => State::TakenOut("it is being removed"),
            Some("UNHEALTHY") => State::Down("UNHEALTHY by its endpoints"),
            Some("TIMEOUT") => State::Down("TIMEOUT by its endpoints"),
            _ => failed().unwrap_or(State::Serves),
        };
        Self { name: redact(&name), address, state }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn host(port: u16, health: &Value) -> Value {
        json!({"address": {"socket_address": {"address": "10.0.0.1", "port_value": port}}, "health_status": health, "weight": 1})
    }

    fn clusters() -> Clusters {
        let all = json!({"cluster_statuses": [
            {"name": "green", "added_via_api": true, "host_statuses": [
                host(1, &json!({"eds_health_status": "HEALTHY"})),
                host(2, &json!({"failed_active_health_check": true, "eds_health_status": "HEALTHY"})),
                host(3, &json!({"failed_outlier_check": true, "eds_health_status": "HEALTHY"})),
                host(4, &json!({"eds_health_status": "DRAINING", "failed_active_health_check": true})),
                host(5, &json!({"eds_health_status": "HEALTHY", "pending_dynamic_removal": true})),
                host(6, &json!({"eds_health_status": "DEGRADED", "failed_active_degraded_check": true})),
                host(7, &json!({"eds_health_status": "UNHEALTHY"})),
                host(8, &json!({"failed_active_health_check": false, "pending_active_hc": true}))]},
            {"name": "drained", "hostStatuses": [
                {"address": {"pipe": {"path": "/run/a"}}, "healthStatus": {"edsHealthStatus": "DRAINING"}}]},
            {"name": "empty", "observability_name": "other"}]});
        Clusters::of(&all).unwrap_or_else(|e| unreachable!("{e}"))
    }

    #[test]
    fn hosts_that_failed_are_down_and_those_that_people_took_out_are_told_apart() {
        let view = clusters().side("green");
        assert_eq!((view.serving, view.of, view.closed), (2, 6, false));
        assert_eq!(
            view.down,
            [
                "10.0.0.1:2: it fails its health check",
                "10.0.0.1:3: ejected as an outlier",
                "10.0.0.1:7: UNHEALTHY by its endpoints",
                "10.0.0.1:8: its first health check has not ended"
            ]
        );
        assert_eq!(view.taken_out, ["10.0.0.1:4: DRAINING", "10.0.0.1:5: it is being removed"]);
    }

    #[test]
    fn reads_what_envoy_answers() {
        let text = include_str!("../../../tests/field/routers/envoy-clusters.json");
        let answer: Value = serde_json::from_str(text).unwrap_or_default();
        let view = Clusters::of(&answer).map(|clusters| clusters.side("shop-green")).unwrap_or_default();
        assert_eq!((view.serving, view.of), (1, 2));
        assert_eq!(view.down, ["10.0.0.12:8080: it fails its health check"]);
    }

    #[test]
    fn a_cluster_without_anybody_cannot_serve() {
        for (name, why) in [
            ("drained", "drained: /run/a: DRAINING"),
            ("empty", "empty: it has no hosts"),
            ("none", "none: Envoy has no such cluster"),
        ] {
            let view = clusters().side(name);
            assert_eq!((view.serving, view.of), (0, 0), "{name}");
            assert_eq!(view.down, [why]);
            assert!(view.taken_out.is_empty() && view.cannot_serve(1.0).is_some());
        }
        assert_eq!((clusters().counted_as("empty"), clusters().counted_as("green")), ("other", "green"));
        assert!(Clusters::of(&json!({"configs": []})).is_err());
    }
}
