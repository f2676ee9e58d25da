//! One change of weight: asked, read back, probed. All three go on record.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::record::Markers;
use crate::evidence::{Probed, Shift};
use crate::fault::Fault;
use crate::metrics::probe::{Connection, once};
use crate::plan::ProbeSpec;
use crate::routers::{Live, Router, Split, same_share};
use crate::units::show_share;
use crate::world::http::{Client, join};
use crate::world::{self, signal};

/// How requests through the router are made.
pub(super) struct Entry {
    /// Where users' requests enter, with the probe's path.
    pub url: String,
    /// The header that names who answered, in lowercase.
    pub header: String,
    /// How many requests prove a shift.
    pub requests: u32,
    client: Client,
}

/// How long the data plane may lag behind the control plane.
pub(super) const DATA_PLANE_LAG: Duration = Duration::from_secs(5);

impl Entry {
    /// Requests to `entry` as the plan's probe describes them.
    pub(super) fn new(entry: &str, probe: &ProbeSpec) -> Self {
        Self {
            url: join(entry, &probe.path),
            header: probe.header.to_ascii_lowercase(),
            requests: probe.requests.unwrap_or(40).max(1),
            client: Client::new(probe.timeout.map_or(Duration::from_secs(5), |t| t.0), 0),
        }
    }

    /// Sends requests and counts who answered until `until`. A side that hangs must not hold up the
    /// decision: what has not answered by then counts as answered by nobody known.
    pub(super) fn probe(&self, markers: &Markers, until: Instant) -> Probed {
        let started = Instant::now();
        let mut probed =
            Probed { requests: u64::from(self.requests), green: 0, blue: 0, unknown: 0, took_ms: 0.0 };
        let (tell, told) = mpsc::channel();
        let left = Arc::new(AtomicU32::new(self.requests));
        for _ in 0..PROBERS.min(self.requests) {
            let (tell, left) = (tell.clone(), Arc::clone(&left));
            let (client, url, header) = (self.client.clone(), self.url.clone(), self.header.clone());
            let work = move || {
                let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                while Instant::now() < until && take().is_ok() {
                    // A connection of its own for each: an open one may belong to the split of before.
                    let sample = once(&client, &url, &header, Connection::New);
                    if tell.send(sample.version).is_err() {
                        return;
                    }
                }
            };
            // Without a thread fewer ask; without any, nobody answers, and that proves nothing.
            let _ = std::thread::Builder::new().name("entry probe".into()).spawn(work);
        }
        drop(tell);
        while let Ok(version) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            match version {
                Some(version) if markers.green.as_ref() == Some(&version) => probed.green += 1,
                Some(version) if markers.blue.as_ref() == Some(&version) => probed.blue += 1,
                _ => {}
            }
        }
        probed.unknown = probed.requests - probed.green - probed.blue;
        probed.took_ms = started.elapsed().as_secs_f64() * 1e3;
        probed
    }
}

/// Why a split is not in force, and whether it is worth another try.
pub(super) struct NotInForce {
    /// What is wrong.
    pub fault: Fault,
    /// The router followed, but requests meet another split: that was waited for already.
    pub waited: bool,
}

/// How many requests through the router are under way at once.
const PROBERS: u32 = 8;

/// Puts a split into force and proves it.
///
/// Fails when: the router refused or cannot be reached; what it reads back differs; its own health
/// checks hold a side for down; requests through it meet another split.
pub(super) fn shift(
    router: &mut dyn Router,
    entry: &Entry,
    markers: &Markers,
    split: Split,
    why: &str,
) -> Result<Shift, NotInForce> {
    let (at, started) = (world::now(), Instant::now());
    let steered = |fault| NotInForce { fault, waited: false };
    // Weights are absolute: setting what is in force already changes nothing. It is not read first,
    // for a router that has nothing left to say (both sides closed by hand) must still be steered.
    router.set(split).map_err(steered)?;
    let live = router.read().map_err(steered)?;
    confirm(router, split, &live).map_err(steered)?;
    let set_ms = started.elapsed().as_secs_f64() * 1e3;
    // The way back is not cut short by a signal.
    let patient = split.green <= 0.0;
    let probed =
        prove(entry, markers, split.green, patient).map_err(|fault| NotInForce { fault, waited: true })?;
    Ok(Shift { why: why.into(), at, asked: split.green, read_back: live.green, set_ms, probed: Some(probed) })
}

/// Whether what was read back is what was asked.
fn confirm(router: &dyn Router, split: Split, live: &Live) -> Result<(), Fault> {
    let nearest = router.nearest(split.green);
    if !same_share(live.green, nearest) {
        return Err(Fault::infrastructure(format!(
            "the router took {} but reads back {}",
            show_share(nearest),
            show_share(live.green)
        ))
        .cause(&live.raw)
        .help("does something else steer this router as well?"));
    }
    match live.effective {
        Some(effective) if !same_share(effective, nearest) => Err(Fault::infrastructure(format!(
            "the router itself sends green {} instead of {}",
            show_share(effective),
            show_share(nearest)
        ))
        .cause(format!("its own health checks hold a side for down: {}", live.raw))
        .help("look at the router's health checks and at that side")),
        _ => Ok(()),
    }
}

/// Probes until the data plane agrees, for a few seconds at most.
fn prove(entry: &Entry, markers: &Markers, green: f64, patient: bool) -> Result<Probed, Fault> {
    let until = Instant::now() + DATA_PLANE_LAG;
    loop {
        let probed = entry.probe(markers, until);
        let Err(cause) = agrees(&probed, green) else { return Ok(probed) };
        if Instant::now() >= until || (signal::stop_asked() && !patient) {
            return Err(Fault::infrastructure(format!(
                "requests do not meet the split of {} on green",
                show_share(green)
            ))
            .place(&entry.url)
            .cause(cause)
            .help(
                "is this the address that the router serves, and do both sides send their release header?",
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether what requests met can come from a split.
fn agrees(probed: &Probed, green: f64) -> Result<(), String> {
    let known = probed.green + probed.blue;
    let met = format!(
        "of {} requests green answered {}, blue {}, nobody known {}",
        probed.requests, probed.green, probed.blue, probed.unknown
    );
    if known * 2 < probed.requests {
        return Err(met);
    }
    let wrong = if green <= 0.0 {
        probed.green > 0
    } else if green >= 1.0 {
        probed.blue > 0
    } else {
        binomial_extreme(known, probed.green, green) < 1e-6
    };
    if wrong { Err(met) } else { Ok(()) }
}

/// The probability of an outcome at least as far off as `k` of `n`, on the side where `k` lies.
fn binomial_extreme(n: u64, k: u64, p: f64) -> f64 {
    let expected = n as f64 * p;
    let range: Box<dyn Iterator<Item = u64>> =
        if (k as f64) < expected { Box::new(0..=k) } else { Box::new(k..=n) };
    range.map(|i| (log_choose(n, i) + i as f64 * p.ln() + (n - i) as f64 * (1.0 - p).ln()).exp()).sum()
}

fn log_choose(n: u64, k: u64) -> f64 {
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(green: u64, blue: u64, unknown: u64) -> Probed {
        Probed { requests: green + blue + unknown, green, blue, unknown, took_ms: 0.0 }
    }

    #[test]
    fn a_side_that_hangs_does_not_hold_up_the_decision() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let entry = Entry::new(&format!("http://{}", silent.local_addr().unwrap()), &ProbeSpec::default());
        let started = Instant::now();
        let probed = entry.probe(&Markers::default(), started + Duration::from_millis(200));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!((probed.requests, probed.unknown), (40, 40));
    }

    #[test]
    fn believes_only_a_split_that_the_answers_allow() {
        assert!(agrees(&met(0, 40, 0), 0.0).is_ok());
        assert!(agrees(&met(1, 39, 0), 0.0).is_err(), "nobody may still reach a side that has nothing");
        assert!(agrees(&met(40, 0, 0), 1.0).is_ok());
        assert!(agrees(&met(39, 1, 0), 1.0).is_err());
        assert!(agrees(&met(0, 40, 0), 0.05).is_ok(), "one in eight runs meets nobody on 5 %");
        assert!(agrees(&met(0, 40, 0), 0.5).is_err(), "declared done before traffic had moved");
        assert!(agrees(&met(40, 0, 0), 0.5).is_err());
        assert!(agrees(&met(19, 21, 0), 0.5).is_ok());
        assert!(agrees(&met(0, 0, 40), 0.0).is_err(), "silence proves nothing");
        assert!((binomial_extreme(10, 0, 0.5) - 1.0 / 1024.0).abs() < 1e-12);
    }
}
