//! Watching a step: what both sides did, what the router counted and what the plan's sources say,
//! judged over the whole window since the step began.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::front::{self, Asked, Finding, Front};
use super::machine::Look;
use super::readers::{self, Frame, Reader};
use super::record::{Markers, Record};
use super::samples::{Line, Log};
use super::shift::{Entry, nobodys};
use crate::evidence::{Interval, Judgement, Servers, SideInterval, Verdict};
use crate::fault::Fault;
use crate::judge::{Batch, Decision, Given, Judge, Requests, SideFigures, Sorter, bin_ms};
use crate::metrics::SideOf;
use crate::metrics::probe::{Connection, Headers, Lag, Manner, Sample, Sampler};
use crate::plan::{Loaded, Promote};
use crate::redact::redact;
use crate::routers::{By, Counters, MEAN_OF_LAST, Side, SideCount};
use crate::world::http::join;

/// What is measured while a step is watched.
pub(super) struct Watch<'a> {
    plan: &'a Promote,
    by: By,
    markers: Markers,
    sampler: Sampler,
    /// Asks where users come in.
    door: Sampler,
    /// What that has seen since the counting began.
    front: Front,
    readers: Vec<Reader>,
    judge: Judge<'a>,
    frame: Frame,
    /// Which step (from 0) and which counting of it.
    of: (usize, u64),
    bake_ms: i64,
    pace: Pace,
    /// By how much the driver's clock is ahead of the one that the samples carry, in ms.
    ahead_ms: i64,
    /// What answered well in green's place: how often, and the last that it said of itself.
    stranger: (u32, String),
    /// The servers that have answered for each side.
    servers: [BTreeSet<String>; 2],
    /// When the look before was, in ms.
    looked_ms: i64,
    /// Blue and green by source, since the last interval that was put on record.
    recent: BTreeMap<String, [SideFigures; 2]>,
    recorded_at: i64,
}

/// The bake that is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bake {
    /// The step, from 0.
    pub(super) step: usize,
    /// Its beginning, in ms.
    pub(super) since_ms: i64,
    /// How long it is watched, in ms.
    pub(super) length_ms: i64,
}

/// How many latencies of one look are kept for each side: the fewest and the most.
const KEPT: (f64, f64) = (64.0, 20_000.0);

/// How many latencies of a whole bake are kept for each side, about.
const KEPT_OF_A_BAKE: f64 = 1_000_000.0;

/// About so many intervals one step puts on record for each source.
const INTERVALS_PER_STEP: i64 = 120;

/// A probe that sends fewer of its requests than this did not measure what was asked.
const ACHIEVED: f64 = 0.9;

/// So many requests per second are made at the front door at most.
pub(super) const MOST_AT_THE_DOOR: f64 = 20.0;

/// Requests without an answer after this long count with their age: their true latency is greater.
const OVERDUE: Duration = Duration::from_secs(1);

impl<'a> Watch<'a> {
    /// Begins to ask both sides, and knows what earlier calls have seen of the same counting.
    ///
    /// Errors (2): a metric's settings do not validate.
    pub(super) fn begin(
        plan: &'a Promote,
        loaded: &Loaded,
        entry: &Entry,
        record: &Record,
        bake: Bake,
        before: &[Line],
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let urls = [&plan.sides.blue, &plan.sides.green].map(|side| join(&side.url.value, &plan.probe.path));
        let timeout = plan.probe.timeout.map_or(Duration::from_secs(5), |t| t.0);
        let since_ms = before.first().map_or(bake.since_ms, |line| line.since_ms);
        let bake_ms = before.first().map_or(bake.length_ms, |line| line.bake_ms);
        let mut readers = readers::open(plan, loaded, since_ms)?;
        let mut judge = Judge::begin(plan, since_ms, bake_ms);
        judge.remember(before.iter().map(|line| &line.batch), now.as_millisecond());
        for line in before {
            for reader in &mut readers {
                let own = line.batch.given.iter().find(|given| given.source == reader.name());
                if let Some(until_ms) = own.and_then(|given| given.until_ms) {
                    reader.known_until(until_ms);
                }
            }
        }
        let side = |word, url: &str, release: &Option<String>| SideOf {
            word,
            url: url.to_owned(),
            release: release.clone(),
        };
        let frame = Frame {
            sides: [
                side("blue", &plan.sides.blue.url.value, &record.markers.blue),
                side("green", &plan.sides.green.url.value, &record.markers.green),
            ],
            since_ms,
            bin_ms: bin_ms(plan, bake_ms),
            keep_per_s: KEPT_OF_A_BAKE / (bake_ms.max(1) as f64 / 1e3),
        };
        let headers = Headers::of(&plan.probe);
        let door = Manner {
            rate: plan.probe.rate.0.min(MOST_AT_THE_DOOR),
            timeout,
            headers: Headers { server: None, ..headers.clone() },
            connection: Connection::New,
            scattered: true,
        };
        let mut front = Front::default();
        for line in before.iter().filter_map(|line| line.front.as_ref()) {
            front.add(line);
        }
        let recorded = record.promotion.series.last().map_or(since_ms, |i| i.at.as_millisecond());
        Ok(Self {
            plan,
            by: By::of(&plan.router.split).unwrap_or(By::Requests),
            markers: record.markers.clone(),
            door: Sampler::begin(std::slice::from_ref(&entry.url), &door),
            front,
            sampler: Sampler::start(&urls, plan.probe.rate.0, timeout, headers),
            readers,
            judge,
            frame,
            pace: Pace::new(plan.probe.rate.0),
            of: (bake.step, record.counting),
            bake_ms,
            ahead_ms: now.as_millisecond() - crate::world::now().as_millisecond(),
            stranger: (0, String::new()),
            servers: Default::default(),
            looked_ms: before.last().map_or(since_ms, |line| line.batch.at_ms),
            recent: BTreeMap::new(),
            recorded_at: recorded.max(since_ms),
        })
    }

    /// Whether it is this counting of this step that is watched.
    pub(super) fn is_of(&self, step: usize, counting: u64) -> bool {
        self.of == (step, counting)
    }

    /// Whether one of the plan's sources tells of users' requests, those between two calls among them.
    pub(super) fn reads_requests(&self) -> bool {
        self.readers.iter().any(Reader::reads_requests)
    }

    /// Whether a source was asked, and has neither answered nor run out of time since this job began.
    pub(super) fn is_owed_answers(&self) -> bool {
        self.readers.iter().any(Reader::owes_its_first_answer)
    }

    /// The sources whose answers are due for longer than this.
    pub(super) fn is_behind(&self, now_ms: i64, most: Duration) -> Option<String> {
        let names: Vec<&str> =
            self.readers.iter().filter(|r| r.is_behind(now_ms, most)).map(Reader::name).collect();
        (!names.is_empty()).then(|| format!("{} has not answered yet", names.join(", ")))
    }

    /// Why what is judged is not what was deployed: another release has answered the probes in its place.
    pub(super) fn another_release(&self) -> Option<String> {
        let (times, says) = &self.stranger;
        let judged = redact(self.frame.sides[1].release.as_ref()?);
        (*times >= STRANGERS)
            .then(|| format!("green answers as `{says}`, and this release began with `{judged}` on green"))
    }

    /// How many servers of each side have answered, where the plan names the header that tells.
    fn servers_met(&self) -> Option<Servers> {
        self.plan.probe.server_header.as_ref()?;
        let [blue, green] = [0, 1].map(|side| self.servers[side].len() as u64);
        Some(Servers { blue, green })
    }

    /// Requests of the probe so far, on the side with fewer.
    pub(super) fn probed(&self) -> u64 {
        let [blue, green] = self.judge.requests("probe");
        blue.min(green)
    }

    /// Begins to ask the plan's sources, so that they have answered by the next look.
    pub(super) fn ask(&mut self, now_ms: i64) {
        for reader in &mut self.readers {
            reader.ask(&self.frame, now_ms);
        }
    }

    /// What the probe has seen since the look before.
    fn probe(&mut self, now_ms: i64) -> Given {
        let mut sorters = self.sorters(now_ms);
        // What the plan says of a side is what the router adds for it, and not what the side itself says.
        let judged = match self.plan.sides.green.release {
            None => self.frame.sides[1].release.as_deref().map(redact),
            Some(_) => None,
        };
        for (number, (samples, sorter)) in self.sampler.take().into_iter().zip(&mut sorters).enumerate() {
            for Sample { at, latency_ms, ok, version, server, .. } in samples {
                if let Some(server) = server.filter(|_| self.servers[number].len() < MOST_SERVERS) {
                    self.servers[number].insert(server.chars().take(200).collect());
                }
                // The record holds it without secrets, so both are compared without.
                if let (1, true, Some(judged), Some(says)) =
                    (number, ok, &judged, version.as_deref().map(redact))
                    && *judged != says
                {
                    self.stranger = (self.stranger.0 + 1, says);
                }
                sorter.add(at.as_millisecond().saturating_add(self.ahead_ms), Some(latency_ms), ok);
            }
        }
        let mut sides = sorters.map(Sorter::finish);
        for (side, ages) in sides.iter_mut().zip(self.sampler.overdue(OVERDUE)) {
            side.open = ages.into_iter().map(f64::round).collect();
        }
        let kept_pace = self.pace.kept(now_ms, &self.sampler.lag());
        let doubt = (!kept_pace)
            .then(|| "this machine could not send the probes at the rate that the plan asks for".into());
        Given { source: "probe".into(), requests: Some(sides), doubt, ..Given::default() }
    }

    /// Waits for what is under way at the front door, for a short call that looks once.
    pub(super) fn await_the_door(&self) {
        self.door.finish();
    }

    /// What requests at the front door met since the look before.
    fn at_the_door(&self) -> Front {
        // Looked at before: what comes back in between counts twice as ours, and never as a user's.
        let under_way = self.door.overdue(Duration::ZERO).iter().map(Vec::len).sum::<usize>() as u64;
        let mut seen = Front { under_way, ..Front::default() };
        for sample in self.door.take().into_iter().flatten() {
            let failed = u64::from(sample.status.is_some_and(|status| status >= 500));
            match self.markers.signed(&sample) {
                Some(Side::Blue) => {
                    seen.blue += 1;
                    seen.failed[0] += failed;
                }
                Some(Side::Green) => {
                    seen.green += 1;
                    seen.failed[1] += failed;
                }
                None if sample.status == Some(429) => seen.limited += 1,
                None => {
                    seen.nobody += 1;
                    seen.unsigned = Some(nobodys(&sample));
                }
            }
        }
        seen
    }

    fn sorters(&self, now_ms: i64) -> [Sorter; 2] {
        let seconds = (now_ms - self.looked_ms).max(0) as f64 / 1e3;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds")]
        let keep = (seconds * self.frame.keep_per_s).clamp(KEPT.0, KEPT.1) as usize;
        let sorter = || Sorter::new(self.frame.since_ms, self.frame.bin_ms, keep);
        [sorter(), sorter()]
    }
}

/// More servers than this are not counted.
const MOST_SERVERS: usize = 10_000;

/// So many answers of another release in green's place end the release; fewer may be somebody's page.
const STRANGERS: u32 = 3;

/// Whether the probe sends what the plan asks for: by what it has sent lately, for one that has died was
/// good for most of its life.
#[derive(Debug)]
struct Pace {
    rate: f64,
    /// When it was measured last, in ms, and what each side had been sent then.
    mark: Option<(i64, Vec<u64>)>,
    /// What came of that.
    lately: Option<bool>,
}

/// So many requests make a measurement of the pace.
const PACE_OF: f64 = 50.0;

impl Pace {
    fn new(rate: f64) -> Self {
        Self { rate, mark: None, lately: None }
    }

    fn kept(&mut self, now_ms: i64, lags: &[Lag]) -> bool {
        let sent = || lags.iter().map(|lag| lag.sent).collect::<Vec<u64>>();
        let (since_ms, before) = self.mark.get_or_insert_with(|| (now_ms, sent()));
        let seconds = (now_ms - *since_ms) as f64 / 1e3;
        if seconds >= (PACE_OF / self.rate).max(1.0) {
            let due = seconds * self.rate;
            let fewest = sent().iter().zip(before.iter()).map(|(now, then)| now.saturating_sub(*then)).min();
            self.lately = Some(fewest.unwrap_or(0) as f64 >= ACHIEVED * due);
            self.mark = Some((now_ms, sent()));
        }
        self.lately.unwrap_or_else(|| lags.iter().all(|lag| lag.achieved() >= ACHIEVED))
    }
}

/// One look at a step.
pub(super) struct Looked {
    /// What came of it.
    pub(super) look: Look,
    /// Since when nothing is known, in ms, once that has lasted for several looks.
    pub(super) blind_since_ms: Option<i64>,
    /// The judgement for the record.
    pub(super) judgement: Judgement,
}

/// What a look needs to know.
pub(super) struct Scene {
    /// Green's share, asked.
    pub(super) weight: f64,
    /// The moment.
    pub(super) now: Timestamp,
    /// Green's share by the router's own view.
    pub(super) share: f64,
    /// The router does not answer, or has begun anew since the look before.
    pub(super) away: bool,
    /// What the router counts now, where it counts.
    pub(super) counters: Option<Counters>,
    /// Why it did not say what it counted, where it should have.
    pub(super) lost: Option<String>,
}

/// Looks at the whole window since the step began, and puts what was seen on record.
pub(super) fn look(watch: &mut Watch<'_>, record: &mut Record, log: &mut Log, scene: &Scene) -> Looked {
    let now_ms = scene.now.as_millisecond();
    let mut given = vec![watch.probe(now_ms)];
    let direct = given[0].requests.as_ref().map_or([0, 0], |[_, green]| {
        let sum = |what: fn(&crate::judge::Bin) -> u64| green.bins.iter().map(what).sum::<u64>();
        [sum(|bin| bin.requests), sum(|bin| bin.errors)]
    });
    let mut newest = Front { share: [scene.share, scene.share], direct, ..watch.at_the_door() };
    if let Some(counted) = counted(watch, record, scene, now_ms) {
        let follows = scene.counters.as_ref().is_some_and(|counters| !counters.sticky);
        newest.counted = counted.given_to.filter(|_| follows);
        newest.made = counted.made;
        given.push(counted.given);
    }
    if scene.away {
        // What is not answered while the router is away belongs to its restart.
        newest.nobody = 0;
        newest.unsigned = None;
    }
    watch.front.add(&newest);
    given.extend(watch.readers.iter_mut().map(Reader::take));
    let batch = Batch { at_ms: now_ms, given };
    let (step, counting) = watch.of;
    log.add(&Line {
        step: step + 1,
        counting,
        since_ms: watch.frame.since_ms,
        bake_ms: watch.bake_ms,
        bin_ms: watch.frame.bin_ms,
        counted: record.counted.clone(),
        front: Some(newest.clone()),
        batch: batch.clone(),
    });
    let asked = Asked::of(watch.plan, &watch.by, scene.weight);
    let looked = with_front(watch.judge.look(&batch), &watch.front, &newest, asked);
    watch.looked_ms = now_ms;
    put_on_record(watch, record, scene, &batch);
    let verdict = verdict_of(&looked);
    let judgement = Judgement {
        at: scene.now,
        step: step + 1,
        window_from: Timestamp::from_millisecond(watch.frame.since_ms).unwrap_or(scene.now),
        verdict,
        summary: looked.summary,
        metrics: looked.metrics,
        score: looked.score,
        servers: watch.servers_met(),
        front_door: Some(watch.front.for_record()),
    };
    let look = match looked.decision {
        Decision::Pass => Look::Good,
        Decision::Fail => Look::Bad,
        Decision::Undecided => Look::Unknown,
    };
    Looked { look, blind_since_ms: looked.blind_since_ms, judgement }
}

/// What a look says, with what users got.
pub(super) fn with_front(
    mut looked: crate::judge::Looked,
    all: &Front,
    newest: &Front,
    asked: Asked<'_>,
) -> crate::judge::Looked {
    match front::judge(all, newest, asked) {
        Finding::Doubt(why) if looked.decision == Decision::Pass => {
            looked.decision = Decision::Undecided;
            looked.summary = why;
        }
        Finding::Fine | Finding::Doubt(_) => {}
        Finding::Bad(why) => {
            looked.summary =
                if looked.decision == Decision::Fail { format!("{}; {why}", looked.summary) } else { why };
            looked.decision = Decision::Fail;
        }
    }
    if let Some(note) = front::no_user(all, asked).filter(|_| looked.decision == Decision::Pass) {
        looked.summary = format!("{}; {note}", looked.summary);
    }
    looked
}

/// The one word for a whole look.
pub(super) fn verdict_of(looked: &crate::judge::Looked) -> Verdict {
    let metrics = &looked.metrics;
    let all = |verdict: Verdict| metrics.iter().all(|m| m.verdict == verdict || m.verdict == Verdict::Pass);
    match looked.decision {
        Decision::Pass => Verdict::Pass,
        Decision::Fail => Verdict::Fail,
        Decision::Undecided if metrics.iter().any(|m| m.verdict == Verdict::Error) => Verdict::Error,
        Decision::Undecided if all(Verdict::NoData) => Verdict::NoData,
        Decision::Undecided => Verdict::TooFewSamples,
    }
}

/// Sets what the router had counted to where the looks on record end. The record of a job that was killed
/// may be older than they are, and then its requests would be counted twice; or newer, and never.
pub(super) fn count_on(record: &mut Record, before: &[Line]) {
    let mut known = before.iter().filter_map(|line| line.counted.as_ref());
    let Some(first) = known.next() else {
        if before.is_empty() {
            record.counted = None;
        }
        return;
    };
    record.counted = Some(known.next_back().unwrap_or(first).clone());
    record.base.get_or_insert_with(|| first.clone());
}

/// What the router counted since the look before.
struct Counted {
    given: Given,
    /// Requests that it gave to blue and to green, answered or not.
    given_to: Option<[u64; 2]>,
    /// Errors that it made itself.
    made: u64,
}

/// What the router counted since the look before.
fn counted(watch: &Watch<'_>, record: &mut Record, scene: &Scene, now_ms: i64) -> Option<Counted> {
    let source = watch.plan.router.kind.clone();
    let trouble = |why: String| {
        let given = Given { source: source.clone(), trouble: Some(why), ..Given::default() };
        Some(Counted { given, given_to: None, made: 0 })
    };
    if let Some(why) = &scene.lost {
        return trouble(format!("the router does not say what it counted: {why}"));
    }
    let counters = scene.counters.as_ref()?;
    // Without a base the counters since the router's start would be judged: releases of long ago.
    let Some(base) = record.base.clone() else {
        record.base = Some(counters.clone());
        record.counted = Some(counters.clone());
        return trouble(
            "what the router had counted when the step began is not known; it counts from now on".into(),
        );
    };
    let before = record.counted.clone().unwrap_or_else(|| base.clone());
    // A router that began anew has counted nothing but this step since.
    let before = if same_instance(&before, counters) { before } else { Counters::default() };
    let base = if same_instance(&base, counters) { base } else { Counters::default() };
    let window = (now_ms - watch.frame.since_ms).div_euclid(watch.frame.bin_ms);
    let window = u32::try_from(window).unwrap_or(0);
    let side = |base: SideCount, before: SideCount, now: SideCount| Requests {
        bins: vec![crate::judge::Bin {
            window,
            requests: now.requests.saturating_sub(before.requests),
            errors: now.errors.saturating_sub(before.errors),
            latencies: Vec::new(),
        }],
        mean: mean_since(base, now),
        max: now.max_ms.filter(|max| base.max_ms.is_none_or(|before| *max > before)),
        open: Vec::new(),
    };
    let sides = [side(base.blue, before.blue, counters.blue), side(base.green, before.green, counters.green)];
    record.counted = Some(counters.clone());
    let made = counters.nobody.saturating_sub(before.nobody);
    let given_to = Some([given_out(before.blue, counters.blue), given_out(before.green, counters.green)]);
    Some(Counted { given: Given { source, requests: Some(sides), ..Given::default() }, given_to, made })
}

/// How many requests a side was given: answers that come now may be of requests from before the step.
fn given_out(before: SideCount, now: SideCount) -> u64 {
    now.assigned.unwrap_or(now.requests).saturating_sub(before.assigned.unwrap_or(before.requests))
}

/// A mean counts only where all of the requests behind it belong to the step: the router remembers
/// those of before. (A maximum counts only where it has risen.)
fn mean_since(base: SideCount, now: SideCount) -> Option<f64> {
    let fresh = now.requests.saturating_sub(base.requests);
    now.mean_ms.filter(|_| fresh >= MEAN_OF_LAST || (fresh > 0 && base.requests == 0))
}

/// Counters begin anew with the router, or when somebody clears them, so a base from before is none.
fn same_instance(base: &Counters, now: &Counters) -> bool {
    let went_on =
        |base: SideCount, now: SideCount| now.requests >= base.requests && now.errors >= base.errors;
    now.instance == base.instance && went_on(base.blue, now.blue) && went_on(base.green, now.green)
}

/// Puts an interval of each source on record when enough time has passed since the last one.
fn put_on_record(watch: &mut Watch<'_>, record: &mut Record, scene: &Scene, batch: &Batch) {
    for given in &batch.given {
        let Some(sides) = &given.requests else { continue };
        let recent = watch.recent.entry(given.source.clone()).or_default();
        for (own, side) in recent.iter_mut().zip(sides) {
            gather(own, side);
        }
    }
    let now = scene.now.as_millisecond();
    // A step that is held for a week has hardly more of them than one that was not.
    let lasted = (now - watch.frame.since_ms).max(watch.bake_ms);
    let spacing = (lasted / INTERVALS_PER_STEP).max(200);
    if now - watch.recorded_at < spacing {
        return;
    }
    watch.recorded_at = now;
    for (source, mut sides) in std::mem::take(&mut watch.recent) {
        for side in &mut sides {
            side.latencies_ms.sort_by(f64::total_cmp);
        }
        let [blue, green] = sides;
        let all = blue.requests + green.requests;
        if all == 0 && source == "probe" {
            continue;
        }
        // Own requests go to both sides alike; users' tell how traffic is split.
        let split = all > 0 && source != "probe";
        record.promotion.series.push(Interval {
            at: scene.now,
            weight: scene.weight,
            observed: split.then(|| green.requests as f64 / all as f64),
            source,
            blue: interval(&blue),
            green: interval(&green),
        });
    }
}

fn gather(own: &mut SideFigures, side: &Requests) {
    for bin in &side.bins {
        own.requests += bin.requests;
        own.errors += bin.errors;
        own.latencies_ms.extend(&bin.latencies);
    }
    own.mean = side.mean.or(own.mean);
    let greatest = side.bins.iter().flat_map(|bin| &bin.latencies).copied();
    own.max = greatest.chain(own.max).chain(side.max).max_by(f64::total_cmp);
}

fn interval(figures: &SideFigures) -> SideInterval {
    let own = figures.latencies_ms.len() as f64;
    let mean = if own > 0.0 { Some(figures.latencies_ms.iter().sum::<f64>() / own) } else { figures.mean };
    SideInterval { mean, ..figures.interval() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_died_is_noticed_by_what_it_sent_lately() {
        let lags = |sent: u64| [Lag { due: sent, sent, ..Lag::default() }; 2];
        let mut pace = Pace::new(20.0);
        let mut sent = 0;
        for second in 0..1000 {
            assert!(pace.kept(second * 1000, &lags(sent)), "{second}");
            sent += 20;
        }
        // Its clock has stopped: nothing is due any more either, and of all that was nearly all was sent.
        let noticed = (1000..1010).find(|second| !pace.kept(second * 1000, &lags(sent)));
        assert!(noticed.is_some());
        // A machine that had no time for a moment is believed again.
        let again = (1010..1020).find(|second| {
            sent += 20;
            pace.kept(second * 1000, &lags(sent))
        });
        assert!(again.is_some());
    }

    #[test]
    fn counters_that_somebody_cleared_hide_no_error() {
        let count = |requests, errors| Counters {
            green: SideCount { requests, errors, ..SideCount::default() },
            instance: "1".into(),
            ..Counters::default()
        };
        // Cleared, and past the old number of requests since: the errors tell.
        assert!(!same_instance(&count(1000, 50), &count(1200, 40)));
        assert!(same_instance(&count(1000, 50), &count(1200, 50)));
    }

    #[test]
    fn the_split_goes_by_what_was_given_out_in_the_step() {
        let count = |requests, assigned| SideCount { requests, assigned, ..SideCount::default() };
        // A hundred were under way when the step began, and are answered in it.
        assert_eq!(given_out(count(900, Some(1000)), count(1010, Some(1015))), 15);
        assert_eq!(given_out(count(900, None), count(1010, None)), 110, "the router tells no more");
    }

    #[test]
    fn a_mean_over_requests_from_before_the_step_is_none() {
        let count = |requests, mean| SideCount { requests, mean_ms: Some(mean), ..SideCount::default() };
        assert_eq!(mean_since(count(5000, 9.0), count(5100, 9.0)), None);
        assert_eq!(mean_since(count(5000, 9.0), count(5000 + MEAN_OF_LAST, 7.0)), Some(7.0));
        assert_eq!(mean_since(count(0, 0.0), count(100, 7.0)), Some(7.0));
    }

    #[test]
    fn counters_of_an_earlier_start_are_no_base() {
        let count = |requests, instance: &str| Counters {
            green: SideCount { requests, ..SideCount::default() },
            instance: instance.into(),
            ..Counters::default()
        };
        assert!(same_instance(&count(10, "1"), &count(20, "1")));
        assert!(!same_instance(&count(10, "1"), &count(20, "2")));
        assert!(!same_instance(&count(10, "1"), &count(5, "1")));
    }
}
