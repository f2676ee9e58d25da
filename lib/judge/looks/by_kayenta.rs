//! `judge: kayenta`: comparisons are classified and scored as Kayenta does.

use std::collections::BTreeMap;

use super::super::kayenta::{
    Class, Classification, Config, Direction, Judgement, Metric as KayentaMetric, MetricConfig, MetricResult,
    judge_kayenta,
};
use super::super::trigger::{Metric, metric_of};
use super::{Decision, Judge};
use crate::evidence::{MetricRecord, TestRecord, Verdict};
use crate::plan::{Promote, ScoreSpec, Trigger, Worse};

/// Kayenta's test needs as many values on each side.
const FEWEST_VALUES: usize = 2;

/// Whether a plan's settings for Kayenta make sense.
///
/// Errors: in words, the setting.
pub fn kayenta_fits(plan: &Promote) -> Result<(), String> {
    let mut metrics = Vec::new();
    for trigger in plan.rollback_when.iter().filter(|t| t.worse_than_baseline_by.is_some()) {
        let config = config_of(trigger, worse_of(plan, trigger))?;
        metrics.push(KayentaMetric {
            name: trigger.metric.clone(),
            config,
            baseline: Vec::new(),
            canary: Vec::new(),
        });
    }
    if metrics.is_empty() {
        return Err("`kayenta` judges comparisons, and no trigger has `worse_than_baseline_by`".into());
    }
    judge_kayenta(&config(plan)?, &metrics).map(drop)
}

fn config(plan: &Promote) -> Result<Config, String> {
    let ScoreSpec { pass, marginal } = plan
        .judge
        .score
        .ok_or("`kayenta` needs `score`: without it everything would pass; write `judge: {kind: kayenta, score: {pass: 95, marginal: 75}}`")?;
    Ok(Config { pass, marginal, groups: plan.judge.groups.clone() })
}

/// What a trigger says of its metric; its share is the increase that is allowed, where it says no more.
fn config_of(trigger: &Trigger, worse: Worse) -> Result<MetricConfig, String> {
    let wrong = |message: String| format!("`kayenta` of the trigger on `{}`: {message}", trigger.metric);
    let given = trigger.kayenta.0.as_ref();
    let mut config: MetricConfig =
        trigger.kayenta.read(&|_: &str| None::<String>).map_err(|problem| wrong(problem.message))?;
    if given.is_none_or(|node| node.get("direction").is_none()) {
        config.direction = match worse {
            Worse::Higher => Direction::Increase,
            Worse::Lower => Direction::Decrease,
            Worse::Either => Direction::Either,
        };
    }
    if given.is_none_or(|node| node.get("effect_size").is_none()) {
        let share = trigger.worse_than_baseline_by.map_or(0.0, |share| share.0);
        config.effect_size.allowed_increase = Some(1.0 + share);
        config.effect_size.allowed_decrease = Some(1.0 - share);
    }
    Ok(config)
}

fn worse_of(plan: &Promote, trigger: &Trigger) -> Worse {
    plan.metrics.iter().find(|spec| spec.name == trigger.metric).map_or(Worse::Higher, |spec| spec.worse)
}

/// Whether a metric can be classified now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// It can.
    Known,
    /// It has no data, and that is known to count.
    Silent,
    /// It has no data yet, and may do without.
    Optional,
    /// It is too early.
    Early,
    /// Its source failed, or gave too few samples.
    Failed,
}

impl Judge<'_> {
    /// Classifies every comparison and puts the score in the place of their own decisions. Gives the
    /// score and what it means; nothing where it cannot be reached yet.
    ///
    /// A critical metric that is worse ends it at once, whatever is not known of the others. Beyond that nothing is
    /// scored on a part, but for metrics that may be without data: they hold nothing up once the bake is over.
    pub(super) fn by_kayenta(
        &self,
        metrics: &mut [Vec<MetricRecord>],
        by_trigger: &mut [Decision],
    ) -> Option<(f64, String)> {
        let compared: Vec<usize> = (0..by_trigger.len())
            .filter(|n| self.plan.rollback_when[*n].worse_than_baseline_by.is_some())
            .collect();
        for number in &compared {
            by_trigger[*number] = Decision::Undecided;
        }
        let of =
            |number: &usize| (0..metrics[*number].len()).map(|place| (*number, place)).collect::<Vec<_>>();
        let all: Vec<(usize, usize)> = compared.iter().flat_map(of).collect();
        let scored = self.score_what_is_known(metrics, &all);
        let judged = match scored {
            Ok(judged) => judged?,
            Err(why) => {
                for (number, place) in all {
                    let record = &mut metrics[number][place];
                    (record.verdict, record.outcome, record.message) =
                        (Verdict::Error, "query_error".into(), why.clone());
                }
                return None;
            }
        };
        let decision = match (judged.class, judged.decides) {
            (Class::Pass, Verdict::Pass) => Decision::Pass,
            (Class::Fail, Verdict::Fail) => Decision::Fail,
            _ => Decision::Undecided,
        };
        for number in compared {
            by_trigger[number] = decision;
        }
        Some((judged.score, judged.message))
    }

    /// Scores what can be scored now, and puts on record what each metric is. None when it is too early.
    fn score_what_is_known(
        &self,
        metrics: &mut [Vec<MetricRecord>],
        all: &[(usize, usize)],
    ) -> Result<Option<Judgement>, String> {
        let readiness: Vec<Readiness> =
            all.iter().map(|at| self.readiness(&metrics[at.0][at.1], at.0)).collect::<Result<_, _>>()?;
        let those = |fits: &dyn Fn(&Readiness) -> bool| -> Vec<(usize, usize)> {
            all.iter().zip(&readiness).filter(|(_, ready)| fits(ready)).map(|(at, _)| *at).collect()
        };
        let put = |metrics: &mut [Vec<MetricRecord>], asked: &[(usize, usize)], judged: &Judgement| {
            for ((number, place), result) in asked.iter().zip(&judged.metrics) {
                tell(&mut metrics[*number][*place], result, self.factor(*number));
            }
        };
        let known = those(&|ready| *ready == Readiness::Known);
        // Groups of which nothing is known weigh nothing here.
        let whole = config(self.plan)?;
        let part = Config { groups: BTreeMap::new(), ..whole.clone() };
        let of_known = self.score_by_kayenta(&part, metrics, &known)?;
        let is_worse =
            |metric: &MetricResult| metric.critical && !metric.muted && metric.classification.is_worse();
        if of_known.metrics.iter().any(is_worse) {
            put(metrics, &known, &of_known);
            return Ok(Some(of_known));
        }
        let waits = |ready: &Readiness| match ready {
            Readiness::Known | Readiness::Silent => false,
            Readiness::Optional | Readiness::Early => !self.is_over(),
            Readiness::Failed => true,
        };
        if readiness.iter().any(waits) {
            self.say_early(metrics, &those(&|ready| matches!(ready, Readiness::Early | Readiness::Optional)));
            return Ok(None);
        }
        let judged = self.score_by_kayenta(&whole, metrics, all)?;
        put(metrics, all, &judged);
        Ok(Some(judged))
    }

    /// Whether a metric can be classified.
    fn readiness(&self, record: &MetricRecord, number: usize) -> Result<Readiness, String> {
        let trigger = &self.plan.rollback_when[number];
        let config = config_of(trigger, worse_of(self.plan, trigger))?;
        let values = self.values(trigger, &record.source);
        let enough = values.iter().all(|side| side.len() >= FEWEST_VALUES);
        Ok(match record.verdict {
            Verdict::Pass if enough => Readiness::Known,
            // It is shown, and counts for nothing.
            Verdict::Pass | Verdict::NoData if config.muted => Readiness::Silent,
            Verdict::NoData if config.critical || config.must_have_data => Readiness::Silent,
            Verdict::Pass if config.critical || config.must_have_data => Readiness::Early,
            Verdict::Pass | Verdict::NoData => Readiness::Optional,
            // A source that failed, or too few samples: nothing is scored on a part.
            _ => Readiness::Failed,
        })
    }

    /// Whether the time of the bake is over.
    fn is_over(&self) -> bool {
        self.seen.at_ms - self.since_ms >= self.bake_ms
    }

    /// Says of metrics that too few windows of time with them are over yet: that is too early to score, and
    /// neither an error nor a lack of data.
    fn say_early(&self, metrics: &mut [Vec<MetricRecord>], early: &[(usize, usize)]) {
        for (number, place) in early {
            let record = &mut metrics[*number][*place];
            let values = self.values(&self.plan.rollback_when[*number], &record.source);
            (record.verdict, record.outcome) = (Verdict::TooFewSamples, "too_few_windows".into());
            record.message = format!(
                "{} windows of time with {} on both sides are over, {FEWEST_VALUES} are needed",
                values[0].len().min(values[1].len()),
                record.metric
            );
        }
    }

    /// What a value of a series was multiplied with for the record.
    fn factor(&self, number: usize) -> f64 {
        let metric = &self.plan.rollback_when[number].metric;
        self.plan.metrics.iter().find(|spec| spec.name == *metric).map_or(1.0, |spec| spec.unit.factor())
    }

    fn score_by_kayenta(
        &self,
        config: &Config,
        metrics: &[Vec<MetricRecord>],
        asked: &[(usize, usize)],
    ) -> Result<Judgement, String> {
        let of = |(number, place): &(usize, usize)| {
            let trigger = &self.plan.rollback_when[*number];
            let record = &metrics[*number][*place];
            let [baseline, canary] = self.values(trigger, &record.source);
            let config = config_of(trigger, worse_of(self.plan, trigger))?;
            // One value on each side is no sample: Kayenta would find by chance what it is.
            let few = baseline.len() < FEWEST_VALUES || canary.len() < FEWEST_VALUES;
            let [baseline, canary] = if few { Default::default() } else { [baseline, canary] };
            let name = format!("{} ({})", record.metric, record.source);
            Ok(KayentaMetric { name, config, baseline, canary })
        };
        let metrics = asked.iter().map(of).collect::<Result<Vec<_>, String>>()?;
        judge_kayenta(config, &metrics)
    }

    /// The values of both sides, as Kayenta sees them: one for each window of time, series in the source's own unit,
    /// for the ends of its interval are as exact as a ten-thousandth of that.
    fn values(&self, trigger: &Trigger, source: &str) -> [Vec<f64>; 2] {
        let Some(source) = self.seen.sources.get(source) else { return Default::default() };
        if let Some(points) = &source.points {
            let factor = self.plan.metrics.iter().find(|spec| spec.name == trigger.metric);
            let factor = factor.map_or(1.0, |spec| spec.unit.factor());
            return [0, 1].map(|side| points[side].iter().map(|p| p.1 / factor).collect());
        }
        let (Some(sides), Ok(metric)) = (&source.sides, metric_of(&trigger.metric)) else {
            return Default::default();
        };
        let (end, bins) = (self.end(), self.cut.bins);
        [0, 1].map(|side| match metric {
            Metric::ErrorRate => {
                let events = sides[side].events(end, bins, |bin| (bin.errors, bin.requests));
                events.into_iter().map(|(errors, requests)| errors / requests).collect()
            }
            Metric::Latency(q) => sides[side].by_window(end, bins, 1, Some(q)),
            Metric::Mean => sides[side].by_window(end, bins, 1, None),
            Metric::Max => sides[side].by_window(end, bins, 1, Some(1.0)),
        })
    }
}

/// Puts Kayenta's word on record.
fn tell(record: &mut MetricRecord, result: &MetricResult, factor: f64) {
    (record.verdict, record.outcome) = match result.classification {
        Classification::Pass => (Verdict::Pass, "pass".into()),
        Classification::High | Classification::Low => {
            (Verdict::Fail, result.classification.word().to_lowercase())
        }
        Classification::Nodata | Classification::NodataFailMetric => (Verdict::NoData, "no_data".into()),
        Classification::Error => (Verdict::Error, "query_error".into()),
    };
    let why = result.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let ratio = result.ratio.map(|r| format!(", {r:.3} times the baseline")).unwrap_or_default();
    record.message = format!("{} is {}{ratio}{why}", record.metric, result.classification.word());
    record.test = Some(TestRecord {
        name: "kayenta".into(),
        effect: result.shift.map(|s| s.estimate * factor),
        effect_low: result.shift.map(|s| s.low * factor),
        effect_high: result.shift.map(|s| s.high * factor),
        confidence: 0.98,
        windows: Some(result.canary as u64),
        ..TestRecord::default()
    });
}
