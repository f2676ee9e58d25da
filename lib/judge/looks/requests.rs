//! Triggers on single requests: thresholds, comparisons, burn rates.

use std::sync::Arc;

use super::super::comparison::{OF_REQUESTS, Pair, Singles, Tested};
use super::super::rates::error_rate_lower;
use super::super::seen::Side;
use super::super::trigger::{Metric, metric_of};
use super::super::{SideFigures, power};
use super::{FALSE_ALARMS, Judge, Judged, at_least, millis};
use crate::evidence::Verdict;
use crate::plan::{BurnRate, BurnWindow, JudgeKind, Trigger, Worse};
use crate::units::{Share, Span, show_share};

/// Errors that count although there are fewer samples than asked for, when they leave no doubt.
const OVERWHELMING_ERRORS: u64 = 5;
/// The confidence with which an early alarm must lie beyond the threshold.
const EARLY_CONFIDENCE: f64 = 0.99;
/// A side with less than this share of the other one's samples has lost some.
pub(super) const EQUAL_SIZES: f64 = 0.8;

impl Judge<'_> {
    pub(super) fn of_requests(
        &mut self,
        key: &(usize, String),
        trigger: &Trigger,
        sides: &[Side; 2],
    ) -> Judged {
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
    pub(super) fn figures(
        &self,
        metric: Metric,
        over: Option<Span>,
        sides: &[Side; 2],
    ) -> [Arc<SideFigures>; 2] {
        let elapsed = (self.seen.at_ms - self.since_ms).max(0) as f64;
        let from = over.and_then(|over| {
            let back = self.seen.at_ms - self.since_ms - millis(over);
            // Whole bins: a little more than asked for.
            u32::try_from(back.div_euclid(self.cut.bin_ms)).ok().filter(|from| *from > 0)
        });
        [0, 1].map(|side| {
            let mut figures = match from {
                Some(from) => Arc::new(sides[side].figures_from(from)),
                None => sides[side].figures(),
            };
            // They are no errors yet, and as good answers they would make the error rate smaller.
            if metric != Metric::ErrorRate {
                let ages: Vec<f64> = sides[side].open(elapsed).collect();
                if !ages.is_empty() {
                    with_open(Arc::make_mut(&mut figures), &ages);
                }
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
        if self.plan.judge.kind == JudgeKind::Kayenta {
            return Judged::new(Verdict::Pass, "pass", "");
        }
        let [blue, green] = [0, 1].map(|side| metric.figure(&case.figures[side]).unwrap_or(f64::NAN));
        let least = at_least(trigger, metric.unit());
        let tolerances = [blue, green].map(|figure| (figure * share.0).max(least));
        let (end, bins, progress) = (self.end(), self.cut.bins, self.progress());
        let alpha_power = self.plan.judge.power.map(|p| p.0);
        let requests = [0, 1].map(|side| sides[side].counts().0);
        let windows = u64::from(end / bins);
        let comparison = self.comparison(key, OF_REQUESTS);
        let due = comparison.begin(requests, windows, progress);
        let tested = match metric {
            Metric::ErrorRate | Metric::Latency(_) | Metric::Mean if !due && comparison.last().is_some() => {
                comparison.last().cloned().unwrap_or_default()
            }
            Metric::ErrorRate => {
                let counts = [0, 1].map(|side| (case.figures[side].errors, case.figures[side].requests));
                comparison.of_rates([&sides[0], &sides[1]], counts, end, tolerances, progress)
            }
            Metric::Latency(_) | Metric::Mean if !case.figures[1].latencies_ms.is_empty() => {
                let q = if let Metric::Latency(q) = metric { Some(q) } else { None };
                let pair = Pair {
                    windows: [0, 1].map(|side| sides[side].by_window(end, bins, 2, q)),
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
        // Of requests that fail there is no latency: what is left of a side that goes down looks as good as
        // it was.
        let answered = [0, 1].map(|side| {
            let figures = &case.figures[side];
            figures.requests.saturating_sub(figures.errors) as f64
        });
        if key.1 == "probe" && case.metric != Metric::ErrorRate && answered[1] < EQUAL_SIZES * answered[0] {
            *judged = Judged::new(
                Verdict::TooFewSamples,
                "unequal_sizes",
                format!("{} requests were answered on blue, and {} on green", answered[0], answered[1]),
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
    figures: &'a [Arc<SideFigures>; 2],
    min_samples: u64,
}

impl Judged {
    /// Where one side has data and the other has none, that is what is told.
    fn one_sided(mut self, figures: &[Arc<SideFigures>; 2]) -> Self {
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
            Err(other) => return self.overwhelming(trigger).unwrap_or(*other),
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
    fn side(&self, name: &str, number: usize) -> Result<f64, Box<Judged>> {
        let side = &self.figures[number];
        if side.requests == 0 {
            return Err(Box::new(Judged::new(
                Verdict::NoData,
                "no_data",
                format!("no requests were seen on {name}"),
            )));
        }
        if side.errors > side.requests {
            let message = format!("{} counts more failures than requests on {name}", self.source);
            return Err(Box::new(Judged::new(Verdict::Error, "query_error", message)));
        }
        let samples = self.metric.samples(side);
        let Some(figure) = self.metric.figure(side) else {
            let message = if side.errors == side.requests {
                format!("all {} requests on {name} failed, so there is no latency", side.requests)
            } else {
                format!("{} has no {} of {name}", self.source, self.metric.name())
            };
            return Err(Box::new(Judged::new(Verdict::NoData, "no_data", message)));
        };
        if !figure.is_finite() || figure < 0.0 || side.latencies_ms.iter().any(|l| !l.is_finite()) {
            let outcome = if figure.is_nan() { "not_a_number" } else { "infinite" };
            let message = format!("{} on {name} is not a number", self.metric.name());
            return Err(Box::new(Judged::new(Verdict::Error, outcome, message)));
        }
        if samples < self.min_samples {
            let message =
                format!("{samples} samples on {name}, {} are needed{}", self.min_samples, self.left_out());
            return Err(Box::new(Judged::new(Verdict::TooFewSamples, "too_few_samples", message)));
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
fn with_open(figures: &mut SideFigures, ages: &[f64]) {
    let before = figures.latencies_ms.len() as f64;
    let sum = figures.mean.map_or(0.0, |mean| mean * before);
    figures.requests += ages.len() as u64;
    figures.mean = Some((sum + ages.iter().sum::<f64>()) / (before + ages.len() as f64));
    figures.latencies_ms.extend(ages);
    figures.latencies_ms.sort_by(f64::total_cmp);
    let last = figures.latencies_ms.last().copied();
    figures.max = figures.max.into_iter().chain(last).max_by(f64::total_cmp);
}
