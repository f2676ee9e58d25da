//! The judge of one bake: takes in what each look has seen, and says what it means.

use std::collections::BTreeMap;

mod by_kayenta;
mod requests;
mod series;

pub use by_kayenta::kayenta_fits;

use super::comparison::Comparison;
use super::samples::Batch;
use super::seen::{Seen, Side, Source};
use crate::evidence::{MetricRecord, TestRecord, Verdict};
use crate::plan::{JudgeKind, MetricSpec, Promote, Trigger};
use crate::units::{Span, Unit, parse_operand, show_duration};

/// How often a comparison may fire by chance where the plan does not say.
const FALSE_ALARMS: f64 = 0.01;
/// Fewest requests per side where the plan does not say.
const MIN_SAMPLES: u64 = 50;
/// Looks in a row without an answer before nothing is known, where the plan does not say.
const CONSECUTIVE_ERRORS: u32 = 4;
/// How long nothing may be known, where the plan does not say, in ms.
const UNDECIDED_FOR_MS: i64 = 600_000;
/// How many windows a bake is cut into, and the fewest requests that one should hold.
const WINDOWS: f64 = 20.0;
const PER_WINDOW: f64 = 5.0;
/// … and the fewest that it must hold, however short the bake is.
const LEAST_PER_WINDOW: f64 = 3.0;
/// How many bins a window is cut into at most, and how many requests one should hold.
const MOST_BINS: f64 = 10.0;
const PER_BIN: f64 = 10.0;
/// … but never fewer windows than this.
const FEWEST_WINDOWS: f64 = 8.0;

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every critical trigger was looked at and none fires.
    Pass,
    /// One fires.
    Fail,
    /// No data, too few samples, or an error: nothing can be said.
    Undecided,
}

/// What one look says.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What came of it.
    pub decision: Decision,
    /// Trigger by trigger, source by source.
    pub metrics: Vec<MetricRecord>,
    /// The weighted score, where the plan asks for one.
    pub score: Option<f64>,
    /// Since when nothing is known of a critical trigger, in ms; null while something is, or while it
    /// is too early to say.
    pub blind_since_ms: Option<i64>,
    /// One sentence.
    pub summary: String,
}

/// The judge of one bake.
#[derive(Clone, Debug)]
pub struct Judge<'a> {
    plan: &'a Promote,
    router: &'a str,
    since_ms: i64,
    bake_ms: i64,
    cut: Cut,
    seen: Seen,
    comparisons: BTreeMap<(usize, String), Comparison>,
    /// Since when a threshold is crossed at every look.
    crossed: BTreeMap<(usize, String), i64>,
    blind: Option<(i64, u32)>,
}

/// How a bake is cut: into bins of time, and so many of them into a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    bin_ms: i64,
    bins: u32,
}

impl Cut {
    /// Windows are a twentieth of the bake, or longer where probes are few; bins a tenth of that.
    fn of(plan: &Promote, bake_ms: i64) -> Self {
        let bake = bake_ms.max(1) as f64;
        let requests = bake / 1e3 * plan.probe.rate.0;
        let windows = (requests / PER_WINDOW).clamp(FEWEST_WINDOWS, WINDOWS);
        let bins = (requests / windows / PER_BIN).clamp(1.0, MOST_BINS).floor();
        // A window with a single request has no quantile, and would never count.
        let window = (bake / windows).max(LEAST_PER_WINDOW * 1e3 / plan.probe.rate.0.max(1e-3));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "parts of the bake")]
        let (bin_ms, bins) = ((window / bins).ceil() as i64, bins as u32);
        Self { bin_ms: bin_ms.max(1), bins }
    }
}

/// The length in ms of the bins that requests of a bake are sorted into.
pub fn bin_ms(plan: &Promote, bake_ms: i64) -> i64 {
    Cut::of(plan, bake_ms).bin_ms
}

/// The length in ms of the windows of a bake that are compared with each other.
pub fn window_ms(plan: &Promote, bake_ms: i64) -> i64 {
    let cut = Cut::of(plan, bake_ms);
    cut.bin_ms * i64::from(cut.bins)
}

impl<'a> Judge<'a> {
    /// The judge of a bake that began at `since_ms` and is to last `bake_ms`; it has seen nothing yet.
    pub fn begin(plan: &'a Promote, since_ms: i64, bake_ms: i64) -> Self {
        Self {
            plan,
            router: &plan.router.kind,
            since_ms,
            bake_ms,
            cut: Cut::of(plan, bake_ms),
            seen: Seen::default(),
            comparisons: BTreeMap::new(),
            crossed: BTreeMap::new(),
            blind: None,
        }
    }

    /// Requests that were seen of a source so far: blue's and green's.
    pub fn requests(&self, source: &str) -> [u64; 2] {
        let sides = self.seen.sources.get(source).and_then(|s| s.sides.as_ref());
        sides.map_or([0, 0], |sides| [0, 1].map(|side| sides[side].counts().0))
    }

    /// Takes the looks of earlier calls in, as if this judge had made them. Of those that are long past
    /// only what later ones build upon is done again.
    pub fn remember<'b>(&mut self, batches: impl ExactSizeIterator<Item = &'b Batch>, now_ms: i64) {
        let bears = self.plan.undecided_for.map_or(UNDECIDED_FOR_MS, millis);
        let counted = self.plan.judge.consecutive_errors.unwrap_or(CONSECUTIVE_ERRORS) as usize + 1;
        let all = batches.len();
        for (number, batch) in batches.enumerate() {
            if number + counted >= all || batch.at_ms >= now_ms.saturating_sub(2 * bears) {
                self.look(batch);
            } else {
                self.seen.take(batch);
                for number in 0..self.plan.rollback_when.len() {
                    if self.has_memory(number) {
                        self.trigger(number);
                    }
                }
            }
        }
    }

    /// Whether a look at a trigger leaves something behind for later ones: time for which a threshold is
    /// crossed, or a test that is due.
    fn has_memory(&self, number: usize) -> bool {
        let trigger = &self.plan.rollback_when[number];
        if trigger.hold.is_some() {
            return true;
        }
        if trigger.worse_than_baseline_by.is_none() {
            return false;
        }
        let windows = u64::from(self.end() / self.cut.bins.max(1));
        self.seen.sources.iter().any(|(name, source)| {
            let (counts, windows) = match (&source.sides, &source.points) {
                (Some(sides), _) => ([0, 1].map(|side| sides[side].counts().0), windows),
                (None, Some(points)) => {
                    let counts = [0, 1].map(|side| points[side].len() as u64);
                    (counts, counts[0].min(counts[1]))
                }
                (None, None) => return false,
            };
            let known = self.comparisons.get(&(number, name.clone()));
            known.is_none_or(|comparison| comparison.is_due(counts, windows, self.progress()))
        })
    }

    /// Takes a look in and judges all that was seen so far.
    pub fn look(&mut self, batch: &Batch) -> Looked {
        self.seen.take(batch);
        let mut metrics = Vec::new();
        let mut by_trigger = Vec::new();
        for number in 0..self.plan.rollback_when.len() {
            let records = self.trigger(number);
            by_trigger.push(decision_of(&records));
            metrics.push(records);
        }
        let mut score = self.plan.judge.score.map(|_| self.score(&by_trigger));
        let mut scored_as = None;
        if self.plan.judge.kind == JudgeKind::Kayenta {
            let scored = self.by_kayenta(&mut metrics, &mut by_trigger);
            score = scored.as_ref().map(|(score, _)| *score);
            scored_as = scored.map(|(_, said)| said);
        }
        let mut decision = Decision::Pass;
        for (trigger, (own, records)) in self.plan.rollback_when.iter().zip(by_trigger.iter().zip(&metrics)) {
            if trigger.critical || records.is_empty() {
                decision = worse(decision, *own);
            }
        }
        if let (Some(spec), Some(score), JudgeKind::Trapkey) =
            (self.plan.judge.score, score, self.plan.judge.kind)
        {
            let known = by_trigger.iter().all(|d| *d != Decision::Undecided);
            let by_score = match score {
                score if score >= spec.pass => Decision::Pass,
                score if score < spec.marginal && known => Decision::Fail,
                _ => Decision::Undecided,
            };
            decision = worse(decision, by_score);
        }
        let dark =
            self.plan.rollback_when.iter().zip(&metrics).any(|(t, records)| t.critical && is_dark(records));
        let metrics: Vec<MetricRecord> = metrics.into_iter().flatten().collect();
        if metrics.is_empty() {
            decision = worse(decision, Decision::Undecided);
        }
        let blind_since_ms = self.blind(decision == Decision::Undecided && dark);
        let summary = summary(decision, &metrics, (score, scored_as));
        Looked { decision, metrics, score, blind_since_ms, summary }
    }

    /// The share of the bake that is over.
    fn progress(&self) -> f64 {
        (self.seen.at_ms - self.since_ms) as f64 / self.bake_ms.max(1) as f64
    }

    /// The first bin that is not over yet.
    fn end(&self) -> u32 {
        u32::try_from((self.seen.at_ms - self.since_ms).div_euclid(self.cut.bin_ms)).unwrap_or(0)
    }

    fn score(&self, by_trigger: &[Decision]) -> f64 {
        let weight = |n: usize| self.plan.rollback_when[n].weight.unwrap_or(1.0);
        let all: f64 = (0..by_trigger.len()).map(weight).sum();
        let passed: f64 =
            (0..by_trigger.len()).filter(|n| by_trigger[*n] == Decision::Pass).map(weight).sum();
        if all > 0.0 { 100.0 * passed / all } else { 0.0 }
    }

    /// Since when nothing is known, once that was so at more looks in a row than the plan bears.
    fn blind(&mut self, dark: bool) -> Option<i64> {
        if !dark {
            self.blind = None;
            return None;
        }
        let (since, looks) = self.blind.map_or((self.seen.at_ms, 1), |(since, looks)| (since, looks + 1));
        self.blind = Some((since, looks));
        (looks >= self.plan.judge.consecutive_errors.unwrap_or(CONSECUTIVE_ERRORS)).then_some(since)
    }

    /// One trigger, at every source that has its metric.
    fn trigger(&mut self, number: usize) -> Vec<MetricRecord> {
        let trigger = &self.plan.rollback_when[number];
        let spec = self.plan.metrics.iter().find(|spec| spec.name == trigger.metric);
        let sources = match (spec, &trigger.source) {
            (Some(spec), _) => vec![spec.name.clone()],
            (None, Some(source)) => vec![source.clone()],
            (None, None) => self.sources_of(&trigger.metric),
        };
        if sources.is_empty() {
            let nothing = Judged::new(Verdict::NoData, "no_data", "no source has given anything yet");
            return vec![Self::record(trigger, "", nothing, None)];
        }
        sources.into_iter().map(|source| self.at_source(number, spec, &source)).collect()
    }

    /// The sources of single requests that can tell a metric.
    fn sources_of(&self, metric: &str) -> Vec<String> {
        let counts = matches!(metric, "error_rate" | "latency_mean" | "latency_max");
        let named = |name: &str| {
            self.plan.metrics.iter().any(|spec| spec.name == name) || name == "probe" || name == self.router
        };
        let fits = |name: &&String| named(name) && (*name != self.router || counts);
        let gives_requests = |name: &&String| {
            let source = &self.seen.sources[*name];
            source.sides.is_some() || (source.points.is_none() && !self.is_series(name))
        };
        let mut found: Vec<String> =
            self.seen.sources.keys().filter(fits).filter(gives_requests).cloned().collect();
        found.sort_by_key(|name| name != "probe");
        found
    }

    fn is_series(&self, name: &str) -> bool {
        self.plan.rollback_when.iter().any(|trigger| trigger.metric == name)
    }

    fn at_source(&mut self, number: usize, spec: Option<&MetricSpec>, source: &str) -> MetricRecord {
        let trigger = &self.plan.rollback_when[number];
        let mut found = self.seen.sources.remove(source);
        if let Some(sides) = found.as_mut().and_then(|found| found.sides.as_mut()) {
            sides.iter_mut().for_each(Side::settle);
        }
        let judged = match &found {
            None => Judged::new(Verdict::NoData, "no_data", "it has given nothing yet"),
            Some(seen) => self.judge(number, spec, source, seen),
        };
        let record = Self::record(trigger, source, judged, found.as_ref());
        if let Some(found) = found {
            self.seen.sources.insert(source.to_owned(), found);
        }
        record
    }

    fn judge(&mut self, number: usize, spec: Option<&MetricSpec>, name: &str, source: &Source) -> Judged {
        let trigger = &self.plan.rollback_when[number];
        let key = (number, name.to_owned());
        if let Some(why) = &source.trouble {
            self.crossed.remove(&key);
            return Judged::new(Verdict::Error, "query_error", why);
        }
        let mut judged = match (spec, &source.sides, &source.points) {
            (Some(spec), _, Some(points)) => self.series(&key, trigger, spec, points),
            (None, Some(sides), _) => self.of_requests(&key, trigger, sides),
            _ => Judged::new(Verdict::NoData, "no_data", "it has given nothing yet"),
        };
        if trigger.worse_than_baseline_by.is_none() {
            self.hold(&key, trigger, &mut judged);
        }
        if let (Some(doubt), Verdict::Pass) = (&source.doubt, judged.verdict) {
            judged.verdict = Verdict::TooFewSamples;
            judged.outcome = "too_few_samples";
            judged.message.clone_from(doubt);
        }
        judged
    }

    /// A threshold that is crossed fires once it was crossed at every look for as long as the plan says.
    fn hold(&mut self, key: &(usize, String), trigger: &Trigger, judged: &mut Judged) {
        if judged.verdict != Verdict::Fail {
            self.crossed.remove(key);
            return;
        }
        let Some(hold) = trigger.hold else { return };
        let since = *self.crossed.entry(key.clone()).or_insert(self.seen.at_ms);
        let held = (self.seen.at_ms - since) as f64 / 1e3;
        if held < hold.0.as_secs_f64() {
            // It is neither well nor an alarm yet.
            judged.verdict = Verdict::TooFewSamples;
            judged.outcome = "not_yet";
            judged.message.push_str(&format!(", for {} of {hold}", show_duration(held)));
        } else {
            judged.message.push_str(&format!(", at every look for {}", show_duration(held)));
        }
    }

    fn comparison(&mut self, key: &(usize, String), parts: [f64; 3]) -> &mut Comparison {
        let alpha = self.plan.judge.false_alarms.map_or(FALSE_ALARMS, |share| share.0);
        let of_errors = self.plan.rollback_when[key.0].metric == "error_rate";
        self.comparisons.entry(key.clone()).or_insert_with(|| Comparison::new(alpha, parts, of_errors))
    }

    fn min_samples(&self) -> u64 {
        self.plan.min_samples.unwrap_or(MIN_SAMPLES).max(1)
    }

    fn record(trigger: &Trigger, source: &str, judged: Judged, seen: Option<&Source>) -> MetricRecord {
        let finite = |figure: Option<f64>| figure.filter(|f| f.is_finite());
        MetricRecord {
            metric: trigger.metric.clone(),
            source: source.into(),
            verdict: judged.verdict,
            green: finite(judged.figures[1]),
            blue: finite(judged.figures[0]),
            unit: judged.unit.into(),
            threshold: condition(trigger),
            green_samples: judged.samples[1],
            blue_samples: judged.samples[0],
            message: judged.message,
            outcome: judged.outcome.into(),
            query: seen.and_then(|s| s.query.clone()),
            test: judged.test,
        }
    }
}

/// What came of one trigger at one source.
#[derive(Clone, Debug)]
struct Judged {
    verdict: Verdict,
    outcome: &'static str,
    message: String,
    /// Blue's and green's.
    figures: [Option<f64>; 2],
    samples: [u64; 2],
    unit: &'static str,
    test: Option<TestRecord>,
}

impl Judged {
    fn new(verdict: Verdict, outcome: &'static str, message: impl Into<String>) -> Self {
        Self {
            verdict,
            outcome,
            message: message.into(),
            figures: [None, None],
            samples: [0, 0],
            unit: "",
            test: None,
        }
    }
}

/// The guard below which a difference is no alarm, in the recorded unit.
fn at_least(trigger: &Trigger, unit: Unit) -> f64 {
    let given = trigger.at_least.as_ref().and_then(|text| parse_operand(text, unit).ok());
    match (unit, given) {
        (Unit::Duration, Some(seconds)) => seconds * 1e3,
        (_, Some(number)) => number,
        (Unit::Duration, None) => 1.0,
        (Unit::Share, None) => 0.001,
        (_, None) => 0.0,
    }
}

fn millis(span: Span) -> i64 {
    i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX)
}

/// The condition as the plan has it.
pub fn condition(trigger: &Trigger) -> String {
    let mut text = match (&trigger.is, trigger.worse_than_baseline_by, &trigger.burn_rate) {
        (Some(is), ..) => is.text().to_owned(),
        (_, Some(share), _) => match &trigger.at_least {
            Some(least) => format!("worse than blue by {share} and {least}"),
            None => format!("worse than blue by {share}"),
        },
        (.., Some(burn)) => format!("burns more than {} allows", burn.objective),
        _ => String::new(),
    };
    if let Some(over) = trigger.over {
        text.push_str(&format!(" over {over}"));
    }
    if let Some(hold) = trigger.hold {
        text.push_str(&format!(" for {hold}"));
    }
    text
}

/// What one trigger says over all its sources: one that fires is enough, and one that passes must be
/// there. A source that has seen too little does not stand in the way of one that has seen enough.
fn decision_of(records: &[MetricRecord]) -> Decision {
    let any = |verdict: Verdict| records.iter().any(|r| r.verdict == verdict);
    if any(Verdict::Fail) {
        Decision::Fail
    } else if any(Verdict::Pass) && !any(Verdict::Error) {
        Decision::Pass
    } else {
        Decision::Undecided
    }
}

/// Whether nothing is known of a trigger, which is not the same as too little.
fn is_dark(records: &[MetricRecord]) -> bool {
    let none = |m: &MetricRecord| m.verdict == Verdict::NoData;
    records.iter().any(|m| m.verdict == Verdict::Error) || records.iter().all(none)
}

fn worse(a: Decision, b: Decision) -> Decision {
    match (a, b) {
        (Decision::Fail, _) | (_, Decision::Fail) => Decision::Fail,
        (Decision::Undecided, _) | (_, Decision::Undecided) => Decision::Undecided,
        (Decision::Pass, Decision::Pass) => Decision::Pass,
    }
}

fn summary(decision: Decision, metrics: &[MetricRecord], scored: (Option<f64>, Option<String>)) -> String {
    let telling = metrics.iter().filter(|m| match decision {
        Decision::Fail => m.verdict == Verdict::Fail,
        Decision::Undecided => m.verdict != Verdict::Pass,
        Decision::Pass => m.verdict == Verdict::Pass,
    });
    let mut said: Vec<String> = telling.map(|m| format!("{} ({})", m.message, m.source)).collect();
    match scored {
        (_, Some(kayentas)) => said.push(kayentas),
        (Some(score), None) => said.push(format!("score {score:.0} of 100")),
        (None, None) => {}
    }
    if said.is_empty() { "nothing was judged".into() } else { said.join("; ") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "a test stops at what it did not expect")]
mod tests;
