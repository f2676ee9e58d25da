//! What Traefik counted, from its Prometheus metrics.

use super::super::Counters;

/// What the metrics say: the counts, and when Traefik last loaded its files, in seconds of Unix time.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counted {
    pub counters: Counters,
    pub loaded: Option<f64>,
}

/// Reads the metrics; null when they are not Traefik's. `leads` says which routers lead to the split, by
/// their name and their service.
pub(super) fn read(
    text: &str,
    [blue, green]: [&str; 2],
    leads: impl Fn(&str, &str) -> bool,
) -> Option<Counted> {
    let alone = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.trim().to_owned())
    };
    let instance = alone("process_start_time_seconds")?;
    let mut counters = Counters { instance, ..Counters::default() };
    // What failed at a router: its service's failures, and those that Traefik made itself.
    let mut failed = 0_u64;
    for line in text.lines() {
        if let Some((labels, number)) = counted(line, "traefik_service_requests_total") {
            let side = match label(labels, "service") {
                Some(name) if name == blue => &mut counters.blue,
                Some(name) if name == green => &mut counters.green,
                _ => continue,
            };
            side.requests += number;
            side.errors += if is_failure(labels) { number } else { 0 };
        } else if let Some((labels, number)) = counted(line, "traefik_router_requests_total") {
            let (router, service) = (label(labels, "router"), label(labels, "service"));
            if is_failure(labels) && leads(router.unwrap_or_default(), service.unwrap_or_default()) {
                failed += number;
            }
        }
    }
    counters.nobody = failed.saturating_sub(counters.blue.errors + counters.green.errors);
    let loaded = alone("traefik_config_last_reload_success").and_then(|seconds| seconds.parse().ok());
    Some(Counted { counters, loaded })
}

/// Labels and number of a line of a counter.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count below 2^53")]
fn counted<'a>(line: &'a str, counter: &str) -> Option<(&'a str, u64)> {
    let (labels, number) = line.strip_prefix(counter)?.strip_prefix('{')?.rsplit_once("} ")?;
    let number: f64 = number.trim().parse().ok()?;
    Some((labels, (number >= 0.0).then_some(number as u64)?))
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let value = labels.split(',').find_map(|l| l.strip_prefix(name)?.strip_prefix("=\""))?;
    value.strip_suffix('"')
}

fn is_failure(labels: &str) -> bool {
    label(labels, "code").is_some_and(|code| code.starts_with('5'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counts_per_service_and_status() {
        let line = r#"traefik_service_requests_total{code="502",method="GET",protocol="http",service="shop-green@file"} 1.2e+06"#;
        let labels = r#"code="502",method="GET",protocol="http",service="shop-green@file""#;
        assert_eq!(counted(line, "traefik_service_requests_total"), Some((labels, 1_200_000)));
        assert_eq!(label(labels, "service"), Some("shop-green@file"));
        assert!(is_failure(labels));
        for other in ["traefik_service_requests_bytes_total{code=\"200\",service=\"a\"} 1", "", "# HELP x"] {
            assert_eq!(counted(other, "traefik_service_requests_total"), None, "{other}");
        }
    }

    #[test]
    fn what_no_side_has_is_nobodys() {
        // As Traefik 3.7 counts two answers of a dead server, and two of its own once it holds it for down.
        let text = include_str!("../../../tests/field/routers/traefik-metrics.txt");
        let read = |text: &str| {
            read(text, ["shop-blue@file", "shop-green@file"], |_, service| service == "shop@file")
        };
        let counted = read(text).unwrap_or_default();
        let Counters { blue, green, nobody, instance, .. } = counted.counters;
        assert_eq!((blue.requests, blue.errors, green.requests, green.errors, nobody), (4, 0, 2, 2, 2));
        assert_eq!((instance.as_str(), counted.loaded), ("1.79603007496e+09", Some(1_796_030_080.0)));
        assert_eq!(read("traefik_config_reloads_total 2\n"), None);
    }
}
