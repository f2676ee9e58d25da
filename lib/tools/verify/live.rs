//! Whether the side that should be live answers users, and no other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::evidence::{Finding, Outcome, Promotion, Verdict};
use crate::job::Job;
use crate::metrics::probe::{Connection, Headers, once};
use crate::severity::Severity;
use crate::world::http::{Client, join};
use crate::world::now;

/// Requests that prove it where the plan does not say.
const REQUESTS: u32 = 40;

/// Failed requests after which the rest is not sent.
const ENOUGH_FAILURES: u32 = 5;

/// The side that is live after a promotion.
pub(super) fn side(promotion: &Promotion) -> &'static str {
    if promotion.outcome == Outcome::Promoted { "green" } else { "blue" }
}

/// Asks where users' requests enter, each time over a new connection.
pub(super) fn serves(job: &Job, promotion: &Promotion) -> Finding {
    let (started_at, started) = (now(), Instant::now());
    let live = side(promotion);
    let name = "live side serves";
    let spec = job.loaded.plan.promote.as_ref();
    let entry = spec.and_then(|p| p.router.entry.as_ref()).or_else(|| job.environment_url());
    let Some((entry, probe)) = entry.zip(spec.map(|p| &p.probe)) else {
        let mut finding = Finding::new(name, "live", Verdict::Skipped, started_at).says(
            "the plan gives no address where users' requests enter (the environment's `url` or the router's \
             `entry`)",
        );
        finding.severity = Severity::Warning;
        return finding;
    };
    let timeout = probe.timeout.map_or(Duration::from_secs(5), |s| s.0);
    let client = Client::new(timeout);
    let url = join(&entry.value, &probe.path);
    let (mut seen, headers) = (Seen::default(), Headers::of(probe));
    for _ in 0..probe.requests.unwrap_or(REQUESTS).max(1) {
        let sample = once(&client, &url, &headers, Connection::New);
        seen.requests += 1;
        if sample.ok {
            *seen.versions.entry(sample.version).or_default() += 1;
        } else {
            seen.failed += 1;
            seen.status = seen.status.or(sample.status);
        }
        if seen.failed >= ENOUGH_FAILURES || crate::world::signal::stop_asked() {
            break;
        }
    }
    let record = if live == "green" { &promotion.green } else { &promotion.blue };
    let (verdict, message) = seen.judge(live, record.version.as_deref(), &probe.header);
    let mut finding = Finding::new(name, "live", verdict, started_at).says(message);
    finding.expected = record.version.as_ref().map(|v| format!("{live} {v}"));
    finding.observed = Some(seen.shown());
    finding.samples = Some(u64::from(seen.requests));
    finding.duration_ms = started.elapsed().as_secs_f64() * 1e3;
    finding
}

#[derive(Default)]
struct Seen {
    requests: u32,
    failed: u32,
    status: Option<u16>,
    versions: BTreeMap<Option<String>, u32>,
}

impl Seen {
    fn judge(&self, live: &str, version: Option<&str>, header: &str) -> (Verdict, String) {
        let all = self.requests;
        if self.failed > 0 {
            let how = self.status.map_or("no answer in time".into(), |s| format!("status {s}"));
            return (Verdict::Fail, format!("{} of {all} requests failed ({how})", self.failed));
        }
        let Some(version) = version else {
            let message = format!(
                "all {all} requests were answered; which side answered is not known, for {live} names no version \
                 in `{header}`"
            );
            return (Verdict::Pass, message);
        };
        let right = self.versions.get(&Some(version.to_owned())).copied().unwrap_or(0);
        if right == all {
            (Verdict::Pass, format!("all {all} requests were answered by {live}, version {version}"))
        } else {
            let message = format!(
                "{} of {all} requests were not answered by {live}, version {version}: {}",
                all - right,
                self.shown()
            );
            (Verdict::Fail, message)
        }
    }

    /// `38 from 1.1, 2 from 1.0`.
    fn shown(&self) -> String {
        let mut parts: Vec<String> = self
            .versions
            .iter()
            .map(|(version, count)| match version {
                Some(version) => format!("{count} from {}", crate::units::clipped(version, 60)),
                None => format!("{count} without a version"),
            })
            .collect();
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(versions: &[(Option<&str>, u32)], failed: u32) -> Seen {
        let versions: BTreeMap<_, _> = versions.iter().map(|(v, n)| (v.map(Into::into), *n)).collect();
        let requests = versions.values().sum::<u32>() + failed;
        Seen { requests, failed, status: None, versions }
    }

    #[test]
    fn every_single_request_must_reach_the_live_side() {
        let judge = |seen: Seen| seen.judge("green", Some("1.1"), "x-release").0;
        assert_eq!(judge(seen(&[(Some("1.1"), 40)], 0)), Verdict::Pass);
        for (versions, failed) in [
            (&[(Some("1.1"), 39), (Some("1.0"), 1)][..], 0),
            (&[(Some("1.1"), 39), (None, 1)], 0),
            (&[(Some("1.1"), 39)], 1),
            (&[(Some("1.0"), 40)], 0),
        ] {
            assert_eq!(judge(seen(versions, failed)), Verdict::Fail, "{versions:?} {failed}");
        }
        assert_eq!(seen(&[(None, 39)], 1).judge("green", None, "x-release").0, Verdict::Fail);
    }
}
