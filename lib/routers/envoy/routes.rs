//! What a route configuration says of the split, and the same one with another split.

use serde_json::{Map, Value, json};

use super::super::{By, Key, same_share, weights};
use super::Settings;
use crate::units::show_share;

/// Weights add up to this, always: a user's bucket then stays where it is while green grows.
pub(super) const TOTAL: u32 = 10_000;
/// What of the traffic a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    /// The requests that the split is about.
    Split,
    /// All others, where the split is by user or by match: on blue until green has everything.
    Rest,
}

/// Green's part of a route, of [`TOTAL`].
fn wanted(by: &By, carries: Carries, green: f64) -> u32 {
    match (carries, by) {
        (Carries::Split, By::Match(..)) => u32::from(green > 0.0) * TOTAL,
        (Carries::Split, _) => parts(green),
        (Carries::Rest, _) => u32::from(parts(green) == TOTAL) * TOTAL,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
pub(super) fn parts(green: f64) -> u32 {
    (green.clamp(0.0, 1.0) * f64::from(TOTAL)).round() as u32
}

/// A field of a protobuf message in JSON, written `like_this` or `likeThis`.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| value.get(camel(name)))
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |all, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        format!("{all}{}{tail}", head.to_ascii_uppercase())
    })
}

pub(super) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    field(value, name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn field_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let other = camel(name);
    let key = if value.get(name).is_some() { name } else { other.as_str() };
    value.get_mut(key)
}

/// The routes of a route configuration, those of its virtual hosts.
fn routes(configuration: &Value) -> impl Iterator<Item = &Value> {
    list(configuration, "virtual_hosts").iter().flat_map(|host| list(host, "routes"))
}

/// The clusters of a route that splits.
fn clusters(route: &Value) -> &[Value] {
    field(route, "route")
        .and_then(|action| field(action, "weighted_clusters"))
        .map_or(&[], |weighted| list(weighted, "clusters"))
}

fn weight(cluster: &Value) -> u64 {
    field(cluster, "weight").and_then(Value::as_u64).unwrap_or(0)
}

pub(super) fn name_of(value: &Value) -> &str {
    field(value, "name").and_then(Value::as_str).unwrap_or_default()
}

/// What a route configuration says of the split.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Says {
    pub stamp: Option<String>,
    pub green: f64,
    /// What gets users and is on neither side, in words.
    pub strangers: Vec<String>,
    pub raw: Value,
}

/// The weights of a route that splits.
#[derive(Debug, Default, PartialEq)]
struct Shares {
    blue: u64,
    green: u64,
    strangers: Vec<(String, u64)>,
    /// How often each side stands in it.
    named: [u32; 2],
}

impl Settings {
    /// The weights of a route; null where it has neither side.
    fn shares(&self, route: &Value) -> Option<Shares> {
        let mut shares = Shares::default();
        for cluster in clusters(route) {
            match name_of(cluster) {
                name if name == self.blue => {
                    shares.blue += weight(cluster);
                    shares.named[0] += 1;
                }
                name if name == self.green => {
                    shares.green += weight(cluster);
                    shares.named[1] += 1;
                }
                name => shares.strangers.push((name.to_owned(), weight(cluster))),
            }
        }
        (shares.named != [0, 0]).then_some(shares)
    }

    /// Whether a route is one of those that are split.
    pub(super) fn splits(&self, route: &Value) -> bool {
        self.shares(route).is_some()
    }

    /// Why a route configuration cannot be split as the plan asks, whatever weights it has.
    pub(super) fn unfit(&self, configuration: &Value, by: &By) -> Option<String> {
        routes(configuration).find_map(|route| self.unfit_route(route, by))
    }

    fn unfit_route(&self, route: &Value, by: &By) -> Option<String> {
        let shares = self.shares(route)?;
        if shares.named != [1, 1] || !shares.strangers.is_empty() {
            return Some(format!(
                "a route splits between others than `{}` and `{}`: {}",
                self.blue,
                self.green,
                clusters(route).iter().map(name_of).collect::<Vec<_>>().join(", ")
            ));
        }
        let weighted = field(route, "route").and_then(|action| field(action, "weighted_clusters"))?;
        let has = |name: &str| field(weighted, name).is_some_and(|found| *found != "" && *found != false);
        if has("runtime_key_prefix") {
            return Some("a route has `runtime_key_prefix`: the runtime may overrule its weights".into());
        }
        if has("header_name") {
            return Some("a route has `header_name`: whoever sends that header picks the cluster".into());
        }
        if has("use_hash_policy") && *by == By::Requests {
            return Some(
                "a route has `use_hash_policy`, so its weights are shares of users; say so in the plan (`split: {by: user, …}`), or take it out".into(),
            );
        }
        if field(route, "match").is_some_and(|matching| field(matching, "runtime_fraction").is_some()) {
            return Some(
                "a route has `runtime_fraction`: only a part of the requests meets its weights".into(),
            );
        }
        None
    }

    /// What a route configuration splits, route by route: what each carries, and green's part of it.
    #[expect(clippy::cast_precision_loss, reason = "weights")]
    fn parts(&self, configuration: &Value, by: &By) -> Result<Vec<(Carries, f64)>, String> {
        let mut found = Vec::new();
        for route in routes(configuration) {
            let Some(shares) = self.shares(route) else { continue };
            let sum = shares.blue + shares.green;
            if sum == 0 {
                return Err("a route has no weights".into());
            }
            found.push((carries(route, by), shares.green as f64 / sum as f64));
        }
        let has = |what: Carries| found.iter().any(|(carries, _)| *carries == what);
        if !has(Carries::Split) {
            return Err(format!(
                "no route of `{}` splits as the plan asks between `{}` and `{}`",
                self.routes, self.blue, self.green
            ));
        }
        if *by != By::Requests && !has(Carries::Rest) {
            return Err("no route splits the requests that the key does not tell apart".into());
        }
        Ok(found)
    }

    /// What gets users of a split route and is on neither side, in words.
    #[expect(clippy::cast_precision_loss, reason = "weights")]
    fn strangers(&self, configuration: &Value) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for shares in routes(configuration).filter_map(|route| self.shares(route)) {
            let all = shares.blue + shares.green + shares.strangers.iter().map(|(_, w)| w).sum::<u64>();
            for (name, weight) in shares.strangers.iter().filter(|(_, weight)| *weight > 0) {
                let share = show_share(*weight as f64 / all as f64);
                let word = format!("the cluster `{name}` gets {share} of a route");
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        words
    }

    /// What a route configuration says of the split: all its routes must say the same.
    pub(super) fn says(&self, configuration: &Value, by: &By) -> Result<Says, String> {
        let found = self.parts(configuration, by)?;
        let own = field(configuration, "metadata")
            .and_then(|metadata| field(metadata, "filter_metadata"))
            .and_then(|metadata| metadata.get("trapkey"));
        let stamp = own.and_then(|o| o.get("stamp")).and_then(Value::as_str).map(str::to_owned);
        let noted = own.and_then(|o| o.get("green")).and_then(Value::as_f64);
        let of = |what: Carries| found.iter().filter(move |(c, _)| *c == what).map(|(_, green)| *green);
        let split = of(Carries::Split).next().unwrap_or(0.0);
        let rest = of(Carries::Rest).next();
        let raw = json!({
            "stamp": stamp,
            "split": of(Carries::Split).collect::<Vec<_>>(),
            "rest": of(Carries::Rest).collect::<Vec<_>>(),
        });
        let green = match (by, rest) {
            // Matching requests are all on green whatever the step is, and only the note knows it.
            (By::Match(..), Some(rest)) if same_share(split, 1.0) && same_share(rest, 0.0) => {
                noted.filter(|noted| *noted > 0.0 && *noted < 1.0).unwrap_or(0.5)
            }
            _ => split,
        };
        let fits = found
            .iter()
            .all(|(carries, is)| same_share(*is, f64::from(wanted(by, *carries, green)) / f64::from(TOTAL)));
        let strangers = self.strangers(configuration);
        if fits {
            Ok(Says { stamp, green, strangers, raw })
        } else {
            Err(format!("its routes do not agree: {raw}"))
        }
    }

    /// The same configuration with another split.
    pub(super) fn edit(&self, configuration: &mut Value, by: &By, green: f64, stamp: &str) {
        let hosts = field_mut(configuration, "virtual_hosts").and_then(Value::as_array_mut);
        for host in hosts.into_iter().flatten() {
            let routes = field_mut(host, "routes").and_then(Value::as_array_mut);
            for route in routes.into_iter().flatten() {
                if let Some(shares) = self.shares(route) {
                    self.edit_route(route, &shares, wanted(by, carries(route, by), green));
                }
            }
        }
        let key = if configuration.get("metadata").is_some() { "metadata" } else { "" };
        if key.is_empty() {
            configuration["metadata"] = json!({});
        }
        let metadata = &mut configuration["metadata"];
        let name =
            if metadata.get("filterMetadata").is_some() { "filterMetadata" } else { "filter_metadata" };
        metadata[name]["trapkey"] = json!({ "stamp": stamp, "green": green });
    }

    /// Gives a route other weights; what is on neither side keeps its share.
    fn edit_route(&self, route: &mut Value, shares: &Shares, green: u32) {
        let others: Vec<u64> = shares.strangers.iter().map(|(_, weight)| *weight).collect();
        let plain = (u64::from(TOTAL - green), u64::from(green), others.clone());
        // Envoy takes no sum beyond 32 bits.
        let fits = |(blue, green, others): &(u64, u64, Vec<u64>)| {
            u32::try_from(blue + green + others.iter().sum::<u64>()).is_ok()
        };
        let (blue, green, others) = if others.iter().all(|weight| *weight == 0) {
            plain
        } else {
            let sides = shares.blue + shares.green;
            weights::beside((TOTAL - green, green), sides, &others).filter(fits).unwrap_or(plain)
        };
        let sum = blue + green + others.iter().sum::<u64>();
        let Some(weighted) =
            field_mut(route, "route").and_then(|action| field_mut(action, "weighted_clusters"))
        else {
            return;
        };
        // Later versions take the sum of the weights, earlier ones reject what is not it.
        if let Some(total) = field_mut(weighted, "total_weight") {
            *total = sum.into();
        }
        let Some(clusters) = field_mut(weighted, "clusters").and_then(Value::as_array_mut) else { return };
        for (side, part) in [(&self.blue, blue), (&self.green, green)] {
            if part > 0 && !clusters.iter().any(|cluster| name_of(cluster) == side) {
                clusters.push(json!({ "name": side }));
            }
        }
        let (mut ours, mut others) = ([Some(blue), Some(green)], others.into_iter());
        for cluster in clusters {
            let part = match name_of(cluster) {
                name if name == self.blue => ours[0].take(),
                name if name == self.green => ours[1].take(),
                _ => others.next(),
            };
            weigh(cluster, part.unwrap_or(0));
        }
    }

    /// A pair of routes that does what the plan asks, for those who have none yet.
    pub(super) fn example(&self, by: &By) -> String {
        let mut weighted = json!({"clusters": [
            {"name": self.blue, "weight": TOTAL}, {"name": self.green, "weight": 0}]});
        let rest = json!({"match": {"prefix": "/"}, "route": {"weighted_clusters": weighted.clone()}});
        let keyed = |header: Value, action: Value| json!([{"match": {"prefix": "/", "headers": [header]}, "route": action}, rest]);
        let cookie =
            |pattern: String| json!({"name": "cookie", "string_match": {"safe_regex": {"regex": pattern}}});
        let routes = match by {
            By::Requests => json!([rest]),
            By::User(key) => {
                weighted["use_hash_policy"] = true.into();
                let (header, policy) = match key {
                    Key::Header(name) => (
                        json!({"name": name, "present_match": true}),
                        json!({"header": {"header_name": name}}),
                    ),
                    Key::Cookie(name) => {
                        (cookie(format!("(^|.*; ?){name}=[^;].*")), json!({"cookie": {"name": name}}))
                    }
                };
                keyed(header, json!({"weighted_clusters": weighted, "hash_policy": [policy]}))
            }
            By::Match(key, value) => {
                let header = match key {
                    Key::Header(name) => json!({"name": name, "string_match": {"exact": value}}),
                    Key::Cookie(name) => cookie(format!("(^|.*; ?){name}={value}(;.*|$)")),
                };
                keyed(header, json!({"weighted_clusters": weighted}))
            }
        };
        serde_json::to_string(&json!({"routes": routes})).unwrap_or_default()
    }
}

/// Name and weight first and side by side, so that the way back by hand finds them.
fn weigh(cluster: &mut Value, part: u64) {
    let mut first = Map::new();
    first.insert("name".into(), name_of(cluster).into());
    first.insert("weight".into(), part.into());
    if let Value::Object(all) = cluster {
        let others = std::mem::take(all);
        first.extend(others.into_iter().filter(|(key, _)| key != "name" && key != "weight"));
        *all = first;
    }
}

/// Whether a route carries what the split is about, or the rest.
fn carries(route: &Value, by: &By) -> Carries {
    let matchers = field(route, "match").map_or(&[][..], |m| list(m, "headers"));
    let on = |name: &str| {
        let name = name.to_owned();
        matchers.iter().filter(move |m| name_of(m).eq_ignore_ascii_case(&name))
    };
    let inverted = |m: &Value| field(m, "invert_match").and_then(Value::as_bool) == Some(true);
    let says = |m: &Value, words: &str| !inverted(m) && m.to_string().contains(words);
    let keyed = match by {
        By::Requests => true,
        By::User(key) => {
            let action = field(route, "route");
            let hashed = action
                .and_then(|a| field(a, "weighted_clusters"))
                .and_then(|w| field(w, "use_hash_policy"))
                .and_then(Value::as_bool)
                == Some(true);
            let policies = action.map_or(&[][..], |a| list(a, "hash_policy"));
            let present =
                |m: &Value| !inverted(m) && field(m, "present_match").and_then(Value::as_bool) == Some(true);
            // A second policy, or a cookie that Envoy makes up itself, would be another key.
            let policy = |kind: &str, name: &str, known: &str| {
                let [only] = policies else { return false };
                let Some(of) = field(only, kind) else { return false };
                let named = field(of, name).and_then(Value::as_str);
                named.is_some_and(|n| n.eq_ignore_ascii_case(known)) && field(of, "ttl").is_none()
            };
            hashed
                && match key {
                    Key::Header(name) => policy("header", "header_name", name) && on(name).any(present),
                    Key::Cookie(name) => {
                        policy("cookie", "name", name) && on("cookie").any(|m| says(m, &format!("{name}=")))
                    }
                }
        }
        By::Match(Key::Header(name), value) => on(name).any(|m| {
            let exact =
                field(m, "string_match").and_then(|s| field(s, "exact")).or_else(|| field(m, "exact_match"));
            !inverted(m) && exact.and_then(Value::as_str) == Some(value)
        }),
        By::Match(Key::Cookie(name), value) => on("cookie").any(|m| says(m, &format!("{name}={value}"))),
    };
    if keyed { Carries::Split } else { Carries::Rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        serde_json::from_str(r#"{"admin": "x", "routes": "r", "blue": "b", "green": "g"}"#)
            .unwrap_or_else(|e| unreachable!("{e}"))
    }

    fn one_route(weighted: &Value) -> Value {
        json!({"name": "r", "virtual_hosts": [{"routes": [
            {"match": {"prefix": "/own"}, "route": {"cluster": "own"}},
            {"match": {"prefix": "/"}, "route": {"weightedClusters": weighted}}]}]})
    }

    fn weights_of(configuration: &Value) -> String {
        let clusters =
            configuration["virtual_hosts"][0]["routes"][1]["route"]["weightedClusters"]["clusters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
        let words = clusters.iter().map(|c| format!("{} {}", name_of(c), weight(c)));
        words.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_stranger_is_named_and_keeps_its_share() {
        let mut all = one_route(&json!({"clusters": [
            {"name": "b", "weight": 90}, {"name": "canary", "weight": 5}, {"name": "g", "weight": 5}]}));
        let says = settings().says(&all, &By::Requests).unwrap_or_else(|e| unreachable!("{e}"));
        assert_eq!(says.strangers, ["the cluster `canary` gets 5 % of a route"]);
        assert!(same_share(says.green, 5.0 / 95.0));
        assert!(settings().unfit(&all, &By::Requests).is_some_and(|why| why.contains("between others")));
        settings().edit(&mut all, &By::Requests, 0.0, "1");
        assert_eq!(weights_of(&all), "b 19, canary 1, g 0");
        settings().edit(&mut all, &By::Requests, 0.5, "2");
        assert_eq!(weights_of(&all), "b 19, canary 2, g 19");
    }

    #[test]
    fn a_side_that_somebody_took_out_is_put_in_where_it_gets_users() {
        let mut all = one_route(&json!({"clusters": [{"name": "b", "weight": 1}]}));
        let says = settings().says(&all, &By::Requests).map(|says| says.green);
        assert_eq!(says, Ok(0.0));
        settings().edit(&mut all, &By::Requests, 0.0, "1");
        assert_eq!(weights_of(&all), "b 10000");
        settings().edit(&mut all, &By::Requests, 0.25, "1");
        assert_eq!(weights_of(&all), "b 7500, g 2500");
    }

    #[test]
    fn what_makes_weights_untrue_is_refused_and_a_total_follows_them() {
        let pair = json!([{"name": "b", "weight": 1}, {"name": "g", "weight": 0}]);
        for (key, value, why) in [
            ("runtime_key_prefix", json!("own"), "the runtime may overrule"),
            ("header_name", json!("x-pick"), "whoever sends that header"),
            ("use_hash_policy", json!(true), "shares of users"),
        ] {
            let all = one_route(&json!({"clusters": pair, key: value}));
            let said = settings().unfit(&all, &By::Requests).unwrap_or_default();
            assert!(said.contains(why), "{key}: {said}");
        }
        let mut fraction = one_route(&json!({ "clusters": pair }));
        let route = &mut fraction["virtual_hosts"][0]["routes"][1];
        route["match"]["runtime_fraction"] = json!({"default_value": {"numerator": 1}});
        let said = settings().unfit(&fraction, &By::Requests).unwrap_or_default();
        assert!(said.contains("only a part"), "{said}");
        // These are as good as not there.
        let mut fine = one_route(&json!({"clusters": pair, "use_hash_policy": false, "total_weight": 100}));
        assert_eq!(settings().unfit(&fine, &By::Requests), None);
        settings().edit(&mut fine, &By::Requests, 0.05, "1");
        assert_eq!(weights_of(&fine), "b 9500, g 500");
        let weighted = &fine["virtual_hosts"][0]["routes"][1]["route"]["weightedClusters"];
        assert_eq!(weighted["total_weight"], 10_000);
    }
}
