//! The file that Trapkey writes for Traefik: the split, and what somebody else has put beside it.

use serde_json::{Map, Value, json};

use super::super::{Key, weights};
use super::{Settings, qualified};
use crate::yaml;

/// The first line of a file that Trapkey may overwrite.
pub(super) const OURS: &str = "# Written by Trapkey; the next shift overwrites it.";
const SHARE: &str = "# trapkey-split ";

/// The share that a file of ours was written for.
pub(super) fn share_in(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(SHARE))?.trim().parse().ok()
}

/// What stands in the weighted service and is not Trapkey's to change.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Kept {
    /// What gets users and is on neither side: names and weights.
    strangers: Vec<(String, u64)>,
    /// The weights of both sides together.
    sides: u64,
    /// Its other settings: `sticky` with all options of the cookie, `healthCheck`.
    others: Map<String, Value>,
}

impl Kept {
    /// Reads it from the file. What is no YAML runs nowhere, so nothing is kept of it.
    pub(super) fn of(text: &str, settings: &Settings) -> Self {
        let weighted = yaml::parse_foreign(text).ok().and_then(|root| {
            let service = root.get("http")?.get("services")?.get(&settings.service)?;
            service.get("weighted")?.read::<Map<String, Value>>(&|_: &str| None).ok()
        });
        let Some(mut others) = weighted else { return Self::default() };
        let parts = others.shift_remove("services").unwrap_or_default();
        let mut kept = Self { others, ..Self::default() };
        let sides = [&settings.blue, &settings.green].map(|name| qualified(name));
        for part in parts.as_array().into_iter().flatten() {
            let Some(name) = part["name"].as_str() else { continue };
            let weight = part.get("weight").map_or(Some(1), Value::as_u64).unwrap_or(0);
            if sides.contains(&qualified(name)) {
                kept.sides += weight;
            } else if weight > 0 {
                kept.strangers.push((name.to_owned(), weight));
            }
        }
        kept
    }
}

impl Settings {
    /// The file for weights, with further routers of Trapkey's own.
    pub(super) fn render(
        &self,
        green: f64,
        (blue_part, green_part): (u32, u32),
        kept: &Kept,
        routers: &Map<String, Value>,
    ) -> String {
        let mut lines = vec![OURS.to_owned(), format!("{SHARE}{green}"), "http:".into()];
        if !routers.is_empty() {
            lines.push(format!("  routers: {}", Value::Object(routers.clone())));
        }
        lines.push("  services:".into());
        lines.push(format!("    {}:", self.service));
        lines.push("      weighted:".into());
        let cookie = |of: &Value| of["cookie"]["name"].as_str().map(str::to_owned);
        let kept_cookie = kept.others.get("sticky").and_then(cookie);
        for (key, value) in &kept.others {
            if key != "sticky" || self.sticky.is_none() || self.sticky == kept_cookie {
                lines.push(format!("        {key}: {value}"));
            }
        }
        if let Some(name) = self.sticky.as_ref().filter(|name| kept_cookie.as_ref() != Some(*name)) {
            lines.push(format!("        sticky: {}", json!({"cookie": {"name": name}})));
        }
        lines.push("        services:".into());
        let others: Vec<u64> = kept.strangers.iter().map(|(_, weight)| *weight).collect();
        let plain = || (u64::from(blue_part), u64::from(green_part), others.clone());
        let (blue_part, green_part, others) = if others.is_empty() {
            plain()
        } else {
            weights::beside((blue_part, green_part), kept.sides, &others).unwrap_or_else(plain)
        };
        let strangers = kept.strangers.iter().map(|(name, _)| name).zip(others);
        for (name, weight) in
            [(&self.blue, blue_part), (&self.green, green_part)].into_iter().chain(strangers)
        {
            // Left out rather than 0: nobody sticks to what is not there, and Traefik drops the whole service
            // when one that it names is gone, as a side may be that was retired.
            if weight > 0 {
                lines.push(format!("          - {{name: \"{name}\", weight: {weight}}}"));
            }
        }
        lines.join("\n") + "\n"
    }
}

/// The rule that a request with this key and value meets.
pub(super) fn rule(key: &Key, value: &str) -> String {
    match key {
        Key::Header(name) => format!("Header(`{name}`, `{value}`)"),
        Key::Cookie(name) => format!(r"HeaderRegexp(`Cookie`, `(^|;\s*){name}={value}\s*(;|$)`)"),
    }
}

/// A router that no request meets: Traefik looks after a service only where a router leads to it.
pub(super) fn no_request(service: &str, entry_points: &Value) -> Value {
    let mut router = json!({"rule": "Path(`/`) && !Path(`/`)", "priority": 1, "service": service});
    if entry_points.is_array() {
        router["entryPoints"] = entry_points.clone();
    }
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        serde_json::from_str(&format!(
            r#"{{"api": "http://x", "service": "shop", "blue": "b", "green": "g@docker"{more}}}"#
        ))
        .unwrap_or_else(|e| unreachable!("{e}"))
    }

    #[test]
    fn a_side_without_share_is_left_out_of_the_file() {
        let settings = settings(r#", "sticky": "side""#);
        let text = settings.render(0.05, (19, 1), &Kept::default(), &Map::new());
        assert!(
            text.contains("{name: \"b\", weight: 19}") && text.contains("{name: \"g@docker\", weight: 1}")
        );
        assert!(text.contains(r#"sticky: {"cookie":{"name":"side"}}"#), "{text}");
        assert_eq!(share_in(&text), Some(0.05));
        let text = settings.render(0.0, (1, 0), &Kept::default(), &Map::new());
        assert!(!text.contains("g@docker"), "{text}");
    }

    #[test]
    fn what_somebody_else_wrote_into_the_service_stays() {
        let by_hand = "# Written by Trapkey; the next shift overwrites it.\n# trapkey-split 0.05\nhttp:\n  services:\n    shop:\n      weighted:\n        \
             sticky: {cookie: {name: side, secure: true, httpOnly: true}}\n        healthCheck: {}\n        services:\n        - name: b@file\n          weight: 19\n        \
             - {name: g@docker}\n        - {name: canary, weight: 5}\n        - {name: off, weight: 0}\n";
        let settings = settings(r#", "sticky": "side""#);
        let kept = Kept::of(by_hand, &settings);
        assert_eq!((kept.strangers.clone(), kept.sides), (vec![("canary".to_owned(), 5)], 20));
        let text = settings.render(0.0, (1, 0), &kept, &Map::new());
        assert!(
            text.contains(r#"sticky: {"cookie":{"name":"side","secure":true,"httpOnly":true}}"#),
            "{text}"
        );
        assert!(text.contains("healthCheck: {}"), "{text}");
        // One in five before, and one in five after.
        assert!(
            text.contains("{name: \"b\", weight: 4}") && text.contains("{name: \"canary\", weight: 1}"),
            "{text}"
        );
        let again = Kept::of(&text, &settings);
        assert_eq!(settings.render(0.0, (1, 0), &again, &Map::new()), text, "twice is once");
        assert_eq!(Kept::of("http: [", &settings), Kept::default());
    }
}
