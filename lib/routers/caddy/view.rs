//! What Caddy itself says of an upstream.
//!
//! Its own checks say it only by a metric that is renewed every ten seconds, and the failures of users by the list of
//! upstreams, at once. Measured with 2.6: the failures are forgotten with each change, and an upstream that is not in
//! the list keeps the last value of its metric.

use std::time::Duration;

use serde_json::Value;

use super::super::SideView;

/// So long after a change that all are healthy is no view: the metric is as it was made with the change.
pub(super) const RENEWED: Duration = Duration::from_secs(11);

/// What of a handler makes Caddy skip an upstream.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Checks {
    /// It asks its upstreams by itself.
    pub active: bool,
    /// How many failures of users are enough.
    pub passive: Option<u64>,
}

/// What Caddy has heard of its upstreams.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// The failures that it remembers, by address.
    pub fails: Vec<(String, u64)>,
    /// Whether its own checks hold it for healthy, by address.
    pub healthy: Vec<(String, bool)>,
}

/// Reads `/reverse_proxy/upstreams`.
pub(super) fn fails(body: &[u8]) -> Vec<(String, u64)> {
    let all: Value = serde_json::from_slice(body).unwrap_or_default();
    let one =
        |upstream: &Value| Some((upstream["address"].as_str()?.to_owned(), upstream["fails"].as_u64()?));
    all.as_array().into_iter().flatten().filter_map(one).collect()
}

/// Reads what the metrics say of upstreams.
pub(super) fn healthy(metrics: &str) -> Vec<(String, bool)> {
    let one = |line: &str| {
        let rest = line.strip_prefix("caddy_reverse_proxy_upstreams_healthy{")?;
        let (labels, number) = rest.rsplit_once("} ")?;
        let (_, dial) = labels.split_once("upstream=\"")?;
        Some((dial.split_once('"')?.0.to_owned(), number.trim() != "0"))
    };
    metrics.lines().filter_map(one).collect()
}

impl Checks {
    /// The checks of a handler.
    pub(super) fn of(handler: &Value) -> Self {
        let checks = &handler["health_checks"];
        let active = &checks["active"];
        let passive = &checks["passive"];
        // They run only where one of these is set; a duration is a number of nanoseconds or a text.
        let is_set = |value: &Value| {
            value.as_f64().is_some_and(|n| n > 0.0)
                || value.as_str().is_some_and(|text| !text.is_empty() && text != "0" && text != "0s")
        };
        let most = passive["max_fails"].as_u64().filter(|most| *most > 0).unwrap_or(1);
        Self {
            active: ["uri", "path", "port"].iter().any(|key| is_set(&active[*key])),
            passive: is_set(&passive["fail_duration"]).then_some(most),
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.active || self.passive.is_some()
    }

    /// A side's view; null where Caddy says nothing of an upstream that it has users for.
    pub(super) fn side(&self, heard: &Heard, dial: &str, listed: bool) -> Option<SideView> {
        if !listed {
            return Some(SideView { of: 1, closed: true, ..SideView::default() });
        }
        let mut down = Vec::new();
        if let Some(most) = self.passive {
            let (_, fails) = heard.fails.iter().find(|(address, _)| address == dial)?;
            if *fails >= most {
                down.push(format!("{dial}: {fails} requests of users failed"));
            }
        }
        if self.active {
            let (_, healthy) = heard.healthy.iter().find(|(address, _)| address == dial)?;
            if !healthy && down.is_empty() {
                down.push(format!("{dial}: unhealthy by Caddy's own checks"));
            }
        }
        Some(SideView { serving: u32::from(down.is_empty()), of: 1, down, ..SideView::default() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks_run_only_where_they_are_set() {
        let of = |checks: Value| Checks::of(&json!({ "health_checks": checks }));
        assert!(!of(json!({})).is_any() && !Checks::of(&json!({})).is_any());
        assert!(!of(json!({"active": {"interval": "1s"}, "passive": {"max_fails": 3}})).is_any());
        assert!(!of(json!({"passive": {"fail_duration": 0}})).is_any());
        assert!(of(json!({"active": {"port": 8081}})).active);
        assert!(of(json!({"active": {"uri": "/health"}})).active);
        assert_eq!(of(json!({"passive": {"fail_duration": 30_000_000_000_u64}})).passive, Some(1));
        assert_eq!(of(json!({"passive": {"fail_duration": "30s", "max_fails": 3}})).passive, Some(3));
    }

    #[test]
    fn an_upstream_that_caddy_skips_does_not_serve() {
        let heard = Heard {
            fails: fails(br#"[{"address":"a:1","num_requests":0,"fails":2},{"address":"b:1","num_requests":3,"fails":1}]"#),
            healthy: healthy(
                "# TYPE caddy_reverse_proxy_upstreams_healthy gauge\ncaddy_reverse_proxy_upstreams_healthy{upstream=\"a:1\"} 1\ncaddy_reverse_proxy_upstreams_healthy{upstream=\"b:1\"} 0\n",
            ),
        };
        let checks = |active, passive| Checks { active, passive };
        let serving = |checks: &Checks, dial| checks.side(&heard, dial, true).map(|view| view.serving);
        let both = checks(true, Some(2));
        assert_eq!(
            both.side(&heard, "a:1", true).map(|v| v.down),
            Some(vec!["a:1: 2 requests of users failed".into()])
        );
        assert_eq!(
            both.side(&heard, "b:1", true).map(|v| v.down),
            Some(vec!["b:1: unhealthy by Caddy's own checks".into()])
        );
        assert_eq!(serving(&checks(false, Some(3)), "a:1"), Some(1));
        assert_eq!(serving(&checks(true, None), "a:1"), Some(1));
        assert_eq!(serving(&checks(true, None), "c:1"), None, "it says nothing of it");
        assert!(both.side(&heard, "c:1", false).is_some_and(|view| view.closed));
    }
}
