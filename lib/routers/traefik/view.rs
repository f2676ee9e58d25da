//! What Traefik itself says of a side: the servers of its service, and of those that it is made of.
//!
//! Measured with 3.7: right after each load every server is UP, whatever it was before, until its first health
//! check has ended, an interval later. A service that no router leads to is not looked after at all, and has no
//! `serverStatus`.

use std::time::Duration;

use serde_json::Value;

use super::super::SideView;
use crate::fault::Fault;
use crate::redact::redact;

/// What is known of a side.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// Servers that would be given users.
    up: u32,
    /// All that are meant to be.
    of: u32,
    down: Vec<String>,
    taken_out: Vec<String>,
    /// Whether a router leads to it, so that Traefik looks after it.
    pub looked_after: bool,
    /// From a load to the end of the first health check, where there is any.
    pub first_check: Option<Duration>,
}

/// How deep services may lie in each other.
const DEEPEST: u32 = 8;

impl Seen {
    /// Looks at a service; `ask` answers with null when Traefik does not know it.
    pub(super) fn of(name: &str, ask: &dyn Fn(&str) -> Result<Option<Value>, Fault>) -> Result<Self, Fault> {
        Self::within(name, ask, DEEPEST)
    }

    fn within(
        name: &str,
        ask: &dyn Fn(&str) -> Result<Option<Value>, Fault>,
        deeper: u32,
    ) -> Result<Self, Fault> {
        let dead = |why: &str| Self { of: 1, down: vec![format!("{name}: {why}")], ..Self::default() };
        let Some(service) = ask(name)? else { return Ok(dead("there is no such service")) };
        // One with a warning runs.
        if service["status"] == "disabled" {
            return Ok(dead(&format!("disabled: {}", errors(&service))));
        }
        let child = |child: &Value| -> Result<Self, Fault> {
            let known = child.as_str().unwrap_or_default();
            let provider = name.rsplit_once('@').map_or("file", |(_, provider)| provider);
            let known = if known.contains('@') { known.to_owned() } else { format!("{known}@{provider}") };
            if deeper == 0 {
                Ok(dead("its services lie too deep"))
            } else {
                Self::within(&known, ask, deeper - 1)
            }
        };
        for kind in ["weighted", "highestRandomWeight"] {
            let Some(parts) = service[kind]["services"].as_array() else { continue };
            let mut all = Self::default();
            for part in parts {
                if part["weight"].as_u64() == Some(0) {
                    all.taken_out.push(format!("{}: weight 0", part["name"].as_str().unwrap_or("?")));
                } else {
                    all.add(child(&part["name"])?);
                }
            }
            return Ok(all.or_empty(name));
        }
        if service["mirroring"].is_object() {
            return child(&service["mirroring"]["service"]);
        }
        if service["failover"].is_object() {
            let (main, other) =
                (child(&service["failover"]["service"])?, child(&service["failover"]["fallback"])?);
            return Ok(if main.up == 0 && other.up > 0 { Self { of: main.of, ..other } } else { main });
        }
        if service["loadBalancer"].is_object() {
            return Ok(Self::servers(name, &service));
        }
        // One of Traefik's own: nothing is known of it.
        Ok(Self { up: 1, of: 1, ..Self::default() })
    }

    /// The servers of a load balancer.
    fn servers(name: &str, service: &Value) -> Self {
        let balancer = &service["loadBalancer"];
        let check = &balancer["healthCheck"];
        let span = |key: &str, default: u64| {
            check[key].as_str().and_then(go_duration).unwrap_or(Duration::from_secs(default))
        };
        let mut all = Self {
            looked_after: service["serverStatus"].is_object(),
            first_check: check.is_object().then(|| span("interval", 30) + span("timeout", 5)),
            ..Self::default()
        };
        for server in balancer["servers"].as_array().into_iter().flatten() {
            let url = server["url"].as_str().unwrap_or_default();
            let shown = redact(url);
            if server["weight"].as_u64() == Some(0) {
                all.taken_out.push(format!("{shown}: weight 0"));
                continue;
            }
            if server["fenced"] == true {
                all.taken_out.push(format!("{shown}: fenced"));
                continue;
            }
            all.of += 1;
            match service["serverStatus"][url].as_str() {
                Some("DOWN") => all.down.push(format!("{shown}: DOWN")),
                _ => all.up += 1,
            }
        }
        all.or_empty(name)
    }

    fn add(&mut self, other: Self) {
        self.up += other.up;
        self.of += other.of;
        self.down.extend(other.down);
        self.taken_out.extend(other.taken_out);
        self.looked_after |= other.looked_after;
        self.first_check = self.first_check.max(other.first_check);
    }

    /// Nobody is there to be given users, which is known whether or not Traefik looks after it.
    fn or_empty(mut self, name: &str) -> Self {
        if self.of == 0 {
            let all = std::mem::take(&mut self.taken_out);
            let why = if all.is_empty() { "it has no server".into() } else { all.join(", ") };
            self.down.push(format!("{name}: {why}"));
        }
        self
    }

    /// Whether there is nothing to tell: no health checks, and nobody down or taken out.
    pub(super) fn is_silent(&self) -> bool {
        self.first_check.is_none() && self.down.is_empty() && self.taken_out.is_empty()
    }

    /// Whether it is known that nobody would be served.
    pub(super) fn is_dead(&self) -> bool {
        self.why_dead().is_some()
    }

    /// Why nobody would be served, where that is known.
    pub(super) fn why_dead(&self) -> Option<String> {
        self.why_down().filter(|_| self.up == 0)
    }

    /// Who is down.
    pub(super) fn why_down(&self) -> Option<String> {
        (!self.down.is_empty()).then(|| self.down.join(", "))
    }

    /// Whether that nobody is down says nothing, because the last load is younger than the first check.
    pub(super) fn is_too_young(&self, age: Option<Duration>) -> bool {
        let checked = |first: Duration| age.is_none_or(|age| age >= first);
        self.looked_after && self.down.is_empty() && self.first_check.is_some_and(|first| !checked(first))
    }

    /// As the side's view.
    pub(super) fn view(self) -> SideView {
        let closed = !self.looked_after && self.down.is_empty();
        SideView {
            serving: if closed { 0 } else { self.up },
            of: self.of,
            down: self.down,
            taken_out: self.taken_out,
            closed,
            ..SideView::default()
        }
    }
}

/// What Traefik says is wrong with a service or a router.
pub(super) fn errors(of: &Value) -> String {
    let all: Vec<&str> = of["error"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    redact(&all.join(", "))
}

/// A duration as Go writes it: `1m30s`, `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit = &after[..after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len())];
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &after[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(services: &Value) -> Seen {
        Seen::of("green@file", &|name: &str| Ok(services.get(name).cloned())).unwrap_or_default()
    }

    #[test]
    fn servers_count_by_their_status_and_those_that_people_took_out_do_not() {
        let mut service = json!({"status": "enabled", "loadBalancer": {
            "healthCheck": {"path": "/health", "interval": "1m30s", "timeout": "500ms"},
            "servers": [{"url": "http://a"}, {"url": "http://b", "weight": 3}, {"url": "http://c", "weight": 0}, {"url": "http://d", "fenced": true}]},
            "serverStatus": {"http://a": "UP", "http://b": "DOWN", "http://c": "DOWN"}});
        let found = seen(&json!({"green@file": service}));
        assert_eq!(found.first_check, Some(Duration::from_millis(90_500)));
        assert!(!found.is_too_young(Some(Duration::ZERO)), "a DOWN is a view at once");
        let view = found.view();
        assert_eq!((view.serving, view.of, view.closed), (1, 2, false));
        assert_eq!(view.down, ["http://b: DOWN"]);
        assert_eq!(view.taken_out, ["http://c: weight 0", "http://d: fenced"]);
        service["serverStatus"] = json!({"http://a": "UP", "http://b": "UP"});
        let young = seen(&json!({"green@file": service}));
        assert!(young.is_too_young(Some(Duration::from_secs(90))));
        assert!(!young.is_too_young(Some(Duration::from_secs(91))) && !young.is_too_young(None));
        // No router leads to it.
        service["serverStatus"] = Value::Null;
        let closed = seen(&json!({"green@file": service}));
        assert!(!closed.is_dead());
        assert!(closed.view().closed);
    }

    #[test]
    fn reads_what_traefik_answers() {
        let text = include_str!("../../../tests/field/routers/traefik-service-down.json");
        let service: Value = serde_json::from_str(text).unwrap_or_default();
        let found = seen(&json!({ "green@file": service }));
        assert_eq!((found.first_check, found.looked_after), (Some(Duration::from_secs(7)), true));
        assert_eq!(
            found.why_dead().as_deref(),
            Some("http://10.0.0.12:8080: DOWN, http://10.0.0.13:8080: DOWN")
        );
    }

    #[test]
    fn a_side_without_anybody_is_dead_whether_or_not_a_router_leads_to_it() {
        let server = |weight: u32| json!([{"url": "http://a", "weight": weight}]);
        for (service, why) in [
            (json!({"status": "enabled", "loadBalancer": {"servers": []}}), "green@file: it has no server"),
            (json!({"status": "enabled", "loadBalancer": {}}), "green@file: it has no server"),
            (
                json!({"status": "enabled", "loadBalancer": {"servers": server(0)}}),
                "green@file: http://a: weight 0",
            ),
            (
                json!({"status": "disabled", "error": ["the service \"x\" does not exist"]}),
                "green@file: disabled: the service \"x\" does not exist",
            ),
        ] {
            let found = seen(&json!({ "green@file": service }));
            assert!(found.is_dead(), "{service}");
            let view = found.view();
            assert!(!view.closed && view.serving == 0);
            assert_eq!(view.down, [why]);
            assert!(view.cannot_serve(0.5).is_some());
        }
        assert!(seen(&json!({})).is_dead(), "there is none");
    }

    #[test]
    fn services_that_are_made_of_others_are_looked_into() {
        let leaf = |status: &str| json!({"status": "enabled", "loadBalancer": {"servers": [{"url": "http://x"}]}, "serverStatus": {"http://x": status}});
        let all = |green: Value| {
            seen(&json!({"green@file": green, "a@file": leaf("DOWN"), "b@docker": leaf("UP")})).view()
        };
        let parts = json!({"services": [{"name": "a", "weight": 1}, {"name": "b@docker"}, {"name": "c", "weight": 0}]});
        for kind in ["weighted", "highestRandomWeight"] {
            let view = all(json!({"status": "enabled", kind: parts}));
            assert_eq!((view.serving, view.of, view.closed), (1, 2, false), "{kind}");
            assert_eq!(
                (view.down, view.taken_out),
                (vec!["http://x: DOWN".into()], vec!["c: weight 0".into()])
            );
        }
        let view = all(json!({"status": "enabled", "mirroring": {"service": "a", "mirrors": []}}));
        assert_eq!((view.serving, view.of), (0, 1));
        let view = all(json!({"status": "enabled", "failover": {"service": "a", "fallback": "b@docker"}}));
        assert_eq!((view.serving, view.of), (1, 1));
        // One that leads to itself.
        let round = all(json!({"status": "enabled", "mirroring": {"service": "green"}}));
        assert_eq!(round.serving, 0);
        assert!(round.down[0].contains("too deep"), "{:?}", round.down);
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, ms) in
            [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("1h0m0.5s", 3_600_500), ("0s", 0)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["5", "x", "5 s", "-5s", "5y"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
