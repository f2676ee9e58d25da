//! The judge of one bake: takes in what each look has seen, and says what it means.

use std::collections::BTreeMap;

use super::comparison::{Comparison, OF_REQUESTS, OF_SERIES, Pair, Singles, Tested};
use super::quantiles::median;
use super::rates::error_rate_lower;
use super::samples::{Batch, Point};
use super::seen::{Seen, Side, Source};
use super::trigger::{Metric, metric_of};
use super::{SideFigures, power};
use crate::evidence::{MetricRecord, TestRecord, Verdict};
use crate::plan::{Aggregate, BurnRate, BurnWindow, MetricSpec, Promote, Trigger, Worse};
use crate::units::{Observed, Share, Span, Unit, parse_operand, show_duration, show_share};

/// How often a comparison may fire by chance where the plan does not say.
const FALSE_ALARMS: f64 = 0.01;
/// Fewest requests per side where the plan does not say.
const MIN_SAMPLES: u64 = 50;
/// Looks in a row without an answer before nothing is known, where the plan does not say.
const CONSECUTIVE_ERRORS: u32 = 4;
/// Errors that count although there are fewer samples than asked for, when they leave no doubt.
const OVERWHELMING_ERRORS: u64 = 5;
/// The confidence with which an early alarm must lie beyond the threshold.
const EARLY_CONFIDENCE: f64 = 0.99;
/// Fewest values of a series that a plain threshold is held against.
const MIN_POINTS: usize = 3;
/// A side with less than this share of the other one's samples has lost some.
const EQUAL_SIZES: f64 = 0.8;
/// A series whose newest value is this many steps overdue is late.
const LATE_STEPS: f64 = 3.0;
/// How many windows a bake is cut into, and the fewest requests that one should hold.
const WINDOWS: i64 = 20;
const PER_WINDOW: f64 = 5.0;
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
    window_ms: i64,
    seen: Seen,
    comparisons: BTreeMap<(usize, String), Comparison>,
    /// Since when a threshold is crossed at every look.
    crossed: BTreeMap<(usize, String), i64>,
    blind: Option<(i64, u32)>,
}

/// The length of a bake's windows in ms: a twentieth of it, or longer where probes are few.
pub fn window_ms(plan: &Promote, bake_ms: i64) -> i64 {
    let bake = bake_ms.max(1) as f64;
    let requests = bake / 1e3 * plan.probe.rate.0;
    let windows = (requests / PER_WINDOW).clamp(FEWEST_WINDOWS, WINDOWS as f64);
    #[expect(clippy::cast_possible_truncation, reason = "a part of the bake")]
    let window = (bake / windows).ceil() as i64;
    window.max(1)
}

impl<'a> Judge<'a> {
    /// The judge of a bake that began at `since_ms` and is to last `bake_ms`; it has seen nothing yet.
    pub fn begin(plan: &'a Promote, since_ms: i64, bake_ms: i64) -> Self {
        Self {
            plan,
            router: &plan.router.kind,
            since_ms,
            bake_ms,
            window_ms: window_ms(plan, bake_ms),
            seen: Seen::default(),
            comparisons: BTreeMap::new(),
            crossed: BTreeMap::new(),
            blind: None,
        }
    }

    /// Requests that were seen of a source so far: blue's and green's.
    pub fn requests(&self, source: &str) -> [u64; 2] {
        let sides = self.seen.sources.get(source).and_then(|s| s.sides.as_ref());
        sides.map_or([0, 0], |sides| [0, 1].map(|side| sides[side].figures().requests))
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
        let score = self.plan.judge.score.map(|_| self.score(&by_trigger));
        let mut decision = Decision::Pass;
        for (trigger, (own, records)) in self.plan.rollback_when.iter().zip(by_trigger.iter().zip(&metrics)) {
            if trigger.critical || records.is_empty() {
                decision = worse(decision, *own);
            }
        }
        if let (Some(spec), Some(score)) = (self.plan.judge.score, score) {
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
        let summary = summary(decision, &metrics, score);
        Looked { decision, metrics, score, blind_since_ms, summary }
    }

    /// The share of the bake that is over.
    fn progress(&self) -> f64 {
        (self.seen.at_ms - self.since_ms) as f64 / self.bake_ms.max(1) as f64
    }

    /// The first window that is not over yet.
    fn end(&self) -> u32 {
        u32::try_from((self.seen.at_ms - self.since_ms).div_euclid(self.window_ms)).unwrap_or(0)
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
            return vec![self.record(trigger, "", nothing, None)];
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
        let found = self.seen.sources.remove(source);
        let judged = match &found {
            None => Judged::new(Verdict::NoData, "no_data", "it has given nothing yet"),
            Some(seen) => self.judge(number, spec, source, seen),
        };
        let record = self.record(trigger, source, judged, found.as_ref());
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
        self.comparisons.entry(key.clone()).or_insert_with(|| Comparison::new(alpha, parts))
    }

    fn min_samples(&self) -> u64 {
        self.plan.min_samples.unwrap_or(MIN_SAMPLES).max(1)
    }

    fn record(&self, trigger: &Trigger, source: &str, judged: Judged, seen: Option<&Source>) -> MetricRecord {
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

/// Single requests.
impl Judge<'_> {
    fn of_requests(&mut self, key: &(usize, String), trigger: &Trigger, sides: &[Side; 2]) -> Judged {
        let metric = match metric_of(&trigger.metric) {
            Ok(metric) => metric,
            Err(why) => return Judged::new(Verdict::Error, "query_error", why),
        };
        if let Some(burn) = &trigger.burn_rate {
            return self.burn(burn, sides);
        }
        let figures = self.figures(metric, trigger.over, sides);
        let case = Case { metric, source: &key.1, figures: &figures, min_samples: self.min_samples() };
        let mut judged = match (&trigger.is, trigger.worse_than_baseline_by) {
            (Some(_), _) => case.threshold(trigger),
            (None, Some(share)) => self.compare(key, trigger, &case, sides, share),
            (None, None) => Judged::new(Verdict::Error, "query_error", "the trigger has no condition"),
        };
        judged.figures = [0, 1].map(|side| metric.figure(&figures[side]));
        judged.samples = [0, 1].map(|side| metric.samples(&figures[side]));
        judged.unit = metric.word();
        judged
    }

    /// The figures of both sides, requests without an answer counted with their age.
    fn figures(&self, metric: Metric, over: Option<Span>, sides: &[Side; 2]) -> [SideFigures; 2] {
        let elapsed = (self.seen.at_ms - self.since_ms).max(0) as f64;
        let from = over.and_then(|over| {
            let back = self.seen.at_ms - self.since_ms - millis(over);
            // Whole windows: a little more than asked for.
            u32::try_from(back.div_euclid(self.window_ms)).ok().filter(|from| *from > 0)
        });
        [0, 1].map(|side| {
            let mut figures = match from {
                Some(from) => sides[side].figures_from(from),
                None => sides[side].figures(),
            };
            // They are no errors yet, and as good answers they would make the error rate smaller.
            if metric != Metric::ErrorRate {
                with_open(&mut figures, sides[side].open(elapsed));
            }
            figures
        })
    }

    fn compare(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        case: &Case<'_>,
        sides: &[Side; 2],
        share: Share,
    ) -> Judged {
        let metric = case.metric;
        for (side, word) in [(1, "green"), (0, "blue")] {
            if let Err(other) = case.side(word, side) {
                return other.one_sided(case.figures);
            }
        }
        let [blue, green] = [0, 1].map(|side| metric.figure(&case.figures[side]).unwrap_or(f64::NAN));
        let least = at_least(trigger, metric.unit());
        let tolerances = [blue, green].map(|figure| (figure * share.0).max(least));
        let (end, progress) = (self.end(), self.progress());
        let alpha_power = self.plan.judge.power.map(|p| p.0);
        let comparison = self.comparison(key, OF_REQUESTS);
        let tested = match metric {
            Metric::ErrorRate => {
                let counts = [0, 1].map(|side| (case.figures[side].errors, case.figures[side].requests));
                comparison.of_rates([&sides[0], &sides[1]], counts, end, tolerances, progress)
            }
            Metric::Latency(_) | Metric::Mean if !case.figures[1].latencies_ms.is_empty() => {
                let q = if let Metric::Latency(q) = metric { Some(q) } else { None };
                let pair = Pair {
                    windows: [0, 1].map(|side| sides[side].by_window(end, 2, q)),
                    requests: Some(Singles {
                        sides: [&sides[0], &sides[1]],
                        sorted: [0, 1].map(|side| case.figures[side].latencies_ms.as_slice()),
                        q,
                        end,
                    }),
                    tolerances,
                    progress,
                };
                comparison.of_values(&pair, Worse::Higher)
            }
            // Counters and single greatest values give nothing to test; the number of samples must do.
            _ => Tested { worse: green - blue > tolerances[0], ..Tested::default() },
        };
        let show = |figure: f64| metric.observed(figure).to_string();
        let mut message = format!(
            "{} on green is {}, {} on blue; up to {} is allowed{}",
            trigger.metric,
            show(green),
            show(blue),
            show(blue + tolerances[0]),
            case.left_out()
        );
        if !tested.because.is_empty() {
            let says = if tested.worse { "worse, and not by chance" } else { "not worse beyond chance" };
            message.push_str(&format!(": {says} ({})", tested.because));
        }
        let mut judged = if tested.worse {
            Judged::new(Verdict::Fail, "fires", message)
        } else {
            Judged::new(Verdict::Pass, "pass", message)
        };
        let windows = tested.record.windows;
        judged.test = (!tested.record.name.is_empty()).then_some(tested.record);
        if judged.verdict == Verdict::Pass {
            self.sound(
                &mut judged,
                key,
                case,
                windows,
                alpha_power.map(|power| (power, blue, tolerances[0])),
            );
        }
        judged
    }

    /// What does not fire passes only where enough stands behind it.
    fn sound(
        &mut self,
        judged: &mut Judged,
        key: &(usize, String),
        case: &Case<'_>,
        windows: Option<u64>,
        wanted: Option<(f64, f64, f64)>,
    ) {
        let counts = [0, 1].map(|side| case.figures[side].requests as f64);
        if key.1 == "probe" && counts[0].min(counts[1]) < EQUAL_SIZES * counts[0].max(counts[1]) {
            *judged = Judged::new(
                Verdict::TooFewSamples,
                "unequal_sizes",
                format!("{} requests on blue and {} on green were to be as many", counts[0], counts[1]),
            );
            return;
        }
        let alpha = self.plan.judge.false_alarms.map_or(FALSE_ALARMS, |share| share.0);
        let least = self.comparison(key, OF_REQUESTS).least_windows() as u64;
        if let Some(windows) = windows.filter(|windows| *windows < least) {
            judged.verdict = Verdict::TooFewSamples;
            judged.outcome = "too_few_windows";
            judged.message = format!("{windows} windows of time are over, {least} are needed");
            return;
        }
        let Some((power, blue, tolerance)) = wanted else { return };
        if case.metric == Metric::ErrorRate {
            let needed = power::rate_samples(blue, blue + 2.0 * tolerance, alpha, power);
            let there = counts[0].min(counts[1]);
            if there < needed {
                judged.verdict = Verdict::TooFewSamples;
                judged.outcome = "too_few_samples";
                judged.message = format!(
                    "{there} requests a side, {needed:.0} are needed to see {} against {} with a power of {}",
                    show_share(blue + 2.0 * tolerance),
                    show_share(blue),
                    show_share(power)
                );
            }
        } else if let Some(test) = judged.test.as_ref().filter(|t| t.windows.is_some()) {
            let needed = power::windows(test, 2.0 * tolerance, alpha, power).max(least);
            let there = test.windows.unwrap_or(0);
            if there < needed {
                judged.verdict = Verdict::TooFewSamples;
                judged.outcome = "too_few_windows";
                judged.message = format!(
                    "{there} windows of time are over, {needed} are needed to see twice what is allowed with a \
                     power of {}",
                    show_share(power)
                );
            }
        }
    }

    /// Green's errors against what an objective allows.
    fn burn(&self, burn: &BurnRate, sides: &[Side; 2]) -> Judged {
        let budget = 1.0 - burn.objective.0;
        let workbook;
        let windows = if burn.windows.is_empty() {
            workbook = workbook_windows();
            &workbook
        } else {
            &burn.windows
        };
        let rate = |over: Span| {
            let figures = &self.figures(Metric::ErrorRate, Some(over), sides)[1];
            (figures.error_rate(), figures.requests)
        };
        let min = self.min_samples();
        let mut judged = Judged::new(Verdict::NoData, "no_data", "no requests were seen on green");
        let mut fewest = u64::MAX;
        for window in windows {
            let ((long, _), (short, requests)) = (rate(window.long), rate(window.short));
            let (Some(long), Some(short)) = (long, short) else { continue };
            fewest = fewest.min(requests);
            let (long, short) = (long / budget, short / budget);
            let message = format!(
                "errors on green burn {long:.1} times what {} allows in {}, {short:.1} times in {}; fires above {}",
                burn.objective, window.long, window.short, window.above
            );
            if long > window.above && short > window.above && requests >= min {
                judged = Judged { message, ..Judged::new(Verdict::Fail, "fires", "") };
                break;
            }
            if judged.verdict != Verdict::Pass {
                judged = Judged { message, ..Judged::new(Verdict::Pass, "pass", "") };
            }
        }
        if judged.verdict == Verdict::Pass && fewest < min {
            judged = Judged::new(
                Verdict::TooFewSamples,
                "too_few_samples",
                format!("{fewest} requests on green, {min} are needed"),
            );
        }
        let figures = self.figures(Metric::ErrorRate, None, sides);
        judged.figures = [0, 1].map(|side| figures[side].error_rate());
        judged.samples = [0, 1].map(|side| figures[side].requests);
        judged.unit = "%";
        judged
    }
}

fn workbook_windows() -> Vec<BurnWindow> {
    let hours = |h: u64| Span(std::time::Duration::from_secs(h * 3600));
    let minutes = |m: u64| Span(std::time::Duration::from_secs(m * 60));
    vec![
        BurnWindow { long: hours(1), short: minutes(5), above: 14.4 },
        BurnWindow { long: hours(6), short: minutes(30), above: 6.0 },
        BurnWindow { long: hours(72), short: hours(6), above: 1.0 },
    ]
}

/// One metric of single requests over both sides.
struct Case<'a> {
    metric: Metric,
    source: &'a str,
    /// Blue and green.
    figures: &'a [SideFigures; 2],
    min_samples: u64,
}

impl Judged {
    /// Where one side has data and the other has none, that is what is told.
    fn one_sided(mut self, figures: &[SideFigures; 2]) -> Self {
        if self.outcome == "no_data" && figures.iter().any(|f| f.requests > 0) {
            self.outcome = "one_side_empty";
        }
        self
    }
}

impl Case<'_> {
    fn threshold(&self, trigger: &Trigger) -> Judged {
        let Some(is) = &trigger.is else {
            return Judged::new(Verdict::Error, "query_error", "the trigger has no condition");
        };
        let green = match self.side("green", 1) {
            Ok(figure) => figure,
            Err(other) => return self.overwhelming(trigger).unwrap_or(other),
        };
        let fires = is.met_by(&self.metric.observed(green));
        let over = trigger.over.map(|over| format!(" over {over}")).unwrap_or_default();
        let message = format!(
            "{} on green is {}{over}, fires at {is}{}",
            trigger.metric,
            self.metric.observed(green),
            self.left_out()
        );
        if fires {
            Judged::new(Verdict::Fail, "fires", message)
        } else {
            Judged::new(Verdict::Pass, "pass", message)
        }
    }

    /// The figure of a side, where enough stands behind it.
    fn side(&self, name: &str, number: usize) -> Result<f64, Judged> {
        let side = &self.figures[number];
        if side.requests == 0 {
            return Err(Judged::new(Verdict::NoData, "no_data", format!("no requests were seen on {name}")));
        }
        if side.errors > side.requests {
            let message = format!("{} counts more failures than requests on {name}", self.source);
            return Err(Judged::new(Verdict::Error, "query_error", message));
        }
        let samples = self.metric.samples(side);
        let Some(figure) = self.metric.figure(side) else {
            let message = if side.errors == side.requests {
                format!("all {} requests on {name} failed, so there is no latency", side.requests)
            } else {
                format!("{} has no {} of {name}", self.source, self.metric.name())
            };
            return Err(Judged::new(Verdict::NoData, "no_data", message));
        };
        if !figure.is_finite() || figure < 0.0 || side.latencies_ms.iter().any(|l| !l.is_finite()) {
            let outcome = if figure.is_nan() { "not_a_number" } else { "infinite" };
            let message = format!("{} on {name} is not a number", self.metric.name());
            return Err(Judged::new(Verdict::Error, outcome, message));
        }
        if samples < self.min_samples {
            let message =
                format!("{samples} samples on {name}, {} are needed{}", self.min_samples, self.left_out());
            return Err(Judged::new(Verdict::TooFewSamples, "too_few_samples", message));
        }
        Ok(figure)
    }

    /// Errors so many among few requests that waiting would only make more of them.
    fn overwhelming(&self, trigger: &Trigger) -> Option<Judged> {
        let threshold = trigger.is.as_ref()?;
        let (errors, requests) = (self.figures[1].errors, self.figures[1].requests);
        if self.metric != Metric::ErrorRate || errors < OVERWHELMING_ERRORS || errors > requests {
            return None;
        }
        let lower = error_rate_lower(errors, requests, EARLY_CONFIDENCE).ok()?;
        threshold.met_by(&self.metric.observed(lower)).then(|| {
            let message = format!(
                "error_rate on green: {errors} of {requests} requests failed, with 99 % confidence at least {}, \
                 fires at {threshold}",
                show_share(lower)
            );
            Judged::new(Verdict::Fail, "fires", message)
        })
    }

    fn left_out(&self) -> String {
        match (self.metric, self.figures[1].errors) {
            (Metric::ErrorRate, _) | (_, 0) => String::new(),
            (_, 1) => " (1 failed request left out)".into(),
            (_, n) => format!(" ({n} failed requests left out)"),
        }
    }
}

/// Requests without an answer count with their age: their true latency is greater.
fn with_open(figures: &mut SideFigures, ages: impl Iterator<Item = f64>) {
    let ages: Vec<f64> = ages.collect();
    if ages.is_empty() {
        return;
    }
    let before = figures.latencies_ms.len() as f64;
    let sum = figures.mean.map_or(0.0, |mean| mean * before);
    figures.requests += ages.len() as u64;
    figures.mean = Some((sum + ages.iter().sum::<f64>()) / (before + ages.len() as f64));
    figures.latencies_ms.extend(&ages);
    figures.latencies_ms.sort_by(f64::total_cmp);
    let last = figures.latencies_ms.last().copied();
    figures.max = figures.max.into_iter().chain(last).max_by(f64::total_cmp);
}

/// Series of values.
impl Judge<'_> {
    fn series(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        spec: &MetricSpec,
        points: &[Vec<Point>; 2],
    ) -> Judged {
        let from = trigger.over.map(|over| self.seen.at_ms - millis(over));
        let [blue, green] = [0, 1].map(|side| {
            let all = &points[side];
            &all[from.map_or(0, |from| all.partition_point(|p| p.0 < from))..]
        });
        let mut judged = self.judge_series(key, trigger, spec, [blue, green]);
        judged.figures = [blue, green].map(|side| sum_up(side, spec.aggregate));
        judged.samples = [blue.len() as u64, green.len() as u64];
        judged.unit = spec.unit.word();
        judged
    }

    fn judge_series(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        spec: &MetricSpec,
        [blue, green]: [&[Point]; 2],
    ) -> Judged {
        let compared = trigger.worse_than_baseline_by;
        let sides: &[(&str, &[Point])] =
            if compared.is_some() { &[("green", green), ("blue", blue)] } else { &[("green", green)] };
        for (name, side) in sides {
            if let Some(other) = self.unfit(spec, name, side, !blue.is_empty() || !green.is_empty()) {
                return other;
            }
        }
        let show = |figure: f64| show_figure(spec, figure);
        let Some(at_green) = sum_up(green, spec.aggregate) else {
            return Judged::new(Verdict::NoData, "no_data", "green has no values");
        };
        let mut judged = if let Some(is) = &trigger.is {
            let fires = is.met_by(&observed(spec, at_green));
            let message = format!(
                "the {} of {} values on green is {}, fires at {is}",
                aggregate_word(spec.aggregate),
                green.len(),
                show(at_green)
            );
            let (verdict, outcome) = if fires { (Verdict::Fail, "fires") } else { (Verdict::Pass, "pass") };
            Judged::new(verdict, outcome, message)
        } else if let Some(share) = compared {
            self.compare_series(key, trigger, spec, [blue, green], share)
        } else {
            Judged::new(Verdict::Error, "query_error", "the trigger has no condition")
        };
        if judged.verdict == Verdict::Pass {
            let still = |side: &[Point]| {
                side.len() >= MIN_POINTS && side[0].1 != 0.0 && side.iter().all(|p| p.1 == side[0].1)
            };
            if let Some((name, side)) = sides.iter().find(|(_, side)| !spec.may_be_constant && still(side)) {
                judged.verdict = Verdict::NoData;
                judged.outcome = "constant";
                judged.message = format!(
                    "all {} values on {name} are {}: a source that stands still tells nothing (`may_be_constant: \
                     true` if it may)",
                    side.len(),
                    show(side[0].1)
                );
            }
        }
        judged
    }

    /// Why a side's values cannot be judged.
    fn unfit(&self, spec: &MetricSpec, name: &str, side: &[Point], any: bool) -> Option<Judged> {
        let Some(newest) = side.last() else {
            let outcome = if any { "one_side_empty" } else { "no_data" };
            return Some(Judged::new(Verdict::NoData, outcome, format!("no values were seen on {name}")));
        };
        let wrong = |what: &str, outcome, of: fn(&f64) -> bool| {
            let count = side.iter().filter(|p| of(&p.1)).count();
            (count > 0).then(|| {
                let message = format!("{count} of {} values on {name} are {what}", side.len());
                Judged::new(Verdict::Error, outcome, message)
            })
        };
        let by_number = wrong("not a number", "not_a_number", |v| v.is_nan())
            .or_else(|| wrong("infinite", "infinite", |v| v.is_infinite()));
        if by_number.is_some() {
            return by_number;
        }
        let step = spec.step.map_or(15e3, |s| s.0.as_secs_f64() * 1e3);
        let delay = spec.delay.map_or(step, |d| d.0.as_secs_f64() * 1e3);
        let age = (self.seen.at_ms - newest.0) as f64;
        if age > delay + LATE_STEPS * step {
            let message = format!("the newest value on {name} is {} old", show_duration(age / 1e3));
            return Some(Judged::new(Verdict::NoData, "late_data", message));
        }
        (side.len() < MIN_POINTS).then(|| {
            let message = format!("{} values on {name}, {MIN_POINTS} are needed", side.len());
            Judged::new(Verdict::TooFewSamples, "too_few_samples", message)
        })
    }

    fn compare_series(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        spec: &MetricSpec,
        sides: [&[Point]; 2],
        share: Share,
    ) -> Judged {
        let sign = if spec.worse == Worse::Lower { -1.0 } else { 1.0 };
        let windows = sides.map(|side| side.iter().map(|p| sign * p.1).collect::<Vec<f64>>());
        let middles = [0, 1].map(|side| {
            let mut sorted = windows[side].clone();
            sorted.sort_by(f64::total_cmp);
            median(&sorted).unwrap_or_default()
        });
        let least = at_least(trigger, spec.unit.dimension());
        let tolerances = middles.map(|middle| (middle.abs() * share.0).max(least));
        let progress = self.progress();
        let pair = Pair { windows, requests: None, tolerances, progress };
        let comparison = self.comparison(key, OF_SERIES);
        let needed = comparison.least_windows();
        let tested = comparison.of_values(&pair, spec.worse);
        let show = |figure: f64| show_figure(spec, sign * figure);
        let fires = tested.worse || (spec.worse == Worse::Either && tested.better);
        let says = if fires { "worse, and not by chance" } else { "not worse beyond chance" };
        let message = format!(
            "the median on green is {}, {} on blue; {} more or less is allowed: {says} ({})",
            show(middles[1]),
            show(middles[0]),
            show_figure(spec, tolerances[0]),
            tested.because
        );
        let (verdict, outcome) = if fires { (Verdict::Fail, "fires") } else { (Verdict::Pass, "pass") };
        let mut judged = Judged::new(verdict, outcome, message);
        judged.test = Some(tested.record);
        if !fires {
            let counts = sides.map(<[Point]>::len);
            let (few, many) = (counts[0].min(counts[1]), counts[0].max(counts[1]));
            if (few as f64) < EQUAL_SIZES * many as f64 {
                judged.verdict = Verdict::TooFewSamples;
                judged.outcome = "unequal_sizes";
                judged.message =
                    format!("{} values on blue and {} on green were to be as many", counts[0], counts[1]);
            } else if few < needed {
                judged.verdict = Verdict::TooFewSamples;
                judged.outcome = "too_few_windows";
                judged.message = format!("{few} values a side, {needed} are needed");
            }
        }
        judged
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

fn observed(spec: &MetricSpec, figure: f64) -> Observed {
    match spec.unit.dimension() {
        Unit::Duration => Observed::Number(figure / 1e3, Unit::Duration),
        unit => Observed::Number(figure, unit),
    }
}

fn show_figure(spec: &MetricSpec, figure: f64) -> String {
    observed(spec, figure).to_string()
}

fn sum_up(points: &[Point], aggregate: Aggregate) -> Option<f64> {
    let values = || points.iter().map(|p| p.1);
    let n = points.len();
    if n == 0 {
        return None;
    }
    match aggregate {
        Aggregate::Mean => Some(values().sum::<f64>() / n as f64),
        Aggregate::Sum => Some(values().sum()),
        Aggregate::Last => values().next_back(),
        Aggregate::Max => values().max_by(f64::total_cmp),
        Aggregate::Min => values().min_by(f64::total_cmp),
        Aggregate::Median => {
            let mut sorted: Vec<f64> = values().collect();
            sorted.sort_by(f64::total_cmp);
            median(&sorted)
        }
    }
}

fn aggregate_word(aggregate: Aggregate) -> &'static str {
    match aggregate {
        Aggregate::Mean => "mean",
        Aggregate::Sum => "sum",
        Aggregate::Last => "newest",
        Aggregate::Max => "greatest",
        Aggregate::Min => "smallest",
        Aggregate::Median => "median",
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

fn summary(decision: Decision, metrics: &[MetricRecord], score: Option<f64>) -> String {
    let telling = metrics.iter().filter(|m| match decision {
        Decision::Fail => m.verdict == Verdict::Fail,
        Decision::Undecided => m.verdict != Verdict::Pass,
        Decision::Pass => m.verdict == Verdict::Pass,
    });
    let mut said: Vec<String> = telling.map(|m| format!("{} ({})", m.message, m.source)).collect();
    if let Some(score) = score {
        said.push(format!("score {score:.0} of 100"));
    }
    if said.is_empty() { "nothing was judged".into() } else { said.join("; ") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "a test stops at what it did not expect")]
mod tests;
