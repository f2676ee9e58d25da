//! `judge: kayenta`: comparisons are classified and scored as Kayenta does.

use super::super::kayenta::{
    Class, Classification, Config, Direction, Judgement, Metric as KayentaMetric, MetricConfig, MetricResult,
    judge_kayenta,
};
use super::super::trigger::{Metric, metric_of};
use super::{Decision, Judge};
use crate::evidence::{MetricRecord, TestRecord, Verdict};
use crate::plan::{Promote, ScoreSpec, Trigger, Worse};

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
        .ok_or("`kayenta` needs `score`, for example `score: {pass: 95, marginal: 75}`: without it everything would pass")?;
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

impl Judge<'_> {
    /// Classifies every comparison and puts the score in the place of their own decisions. Gives the
    /// score; nothing where it cannot be reached yet.
    pub(super) fn by_kayenta(
        &self,
        metrics: &mut [Vec<MetricRecord>],
        by_trigger: &mut [Decision],
    ) -> Option<f64> {
        let compared: Vec<usize> = (0..by_trigger.len())
            .filter(|n| self.plan.rollback_when[*n].worse_than_baseline_by.is_some())
            .collect();
        for number in &compared {
            by_trigger[*number] = Decision::Undecided;
        }
        let mut asked = Vec::new();
        for number in &compared {
            for (place, record) in metrics[*number].iter().enumerate() {
                match record.verdict {
                    Verdict::Pass | Verdict::NoData => asked.push((*number, place)),
                    // A source that failed, or too few samples: nothing is scored on a part.
                    _ => return None,
                }
            }
        }
        let judged = self.score_by_kayenta(metrics, &asked);
        let judged = match judged {
            Ok(judged) => judged,
            Err(why) => {
                for (number, place) in asked {
                    let record = &mut metrics[number][place];
                    (record.verdict, record.outcome, record.message) =
                        (Verdict::Error, "query_error".into(), why.clone());
                }
                return None;
            }
        };
        for ((number, place), result) in asked.iter().zip(&judged.metrics) {
            tell(&mut metrics[*number][*place], result);
        }
        let decision = match (judged.class, judged.decides) {
            (Class::Pass, Verdict::Pass) => Decision::Pass,
            (Class::Fail, Verdict::Fail) => Decision::Fail,
            _ => Decision::Undecided,
        };
        for number in compared {
            by_trigger[number] = decision;
        }
        Some(judged.score)
    }

    fn score_by_kayenta(
        &self,
        metrics: &[Vec<MetricRecord>],
        asked: &[(usize, usize)],
    ) -> Result<Judgement, String> {
        let of = |(number, place): &(usize, usize)| {
            let trigger = &self.plan.rollback_when[*number];
            let record = &metrics[*number][*place];
            let [baseline, canary] = self.values(trigger, &record.source);
            let config = config_of(trigger, worse_of(self.plan, trigger))?;
            Ok(KayentaMetric {
                name: format!("{} ({})", record.metric, record.source),
                config,
                baseline,
                canary,
            })
        };
        let metrics = asked.iter().map(of).collect::<Result<Vec<_>, String>>()?;
        judge_kayenta(&config(self.plan)?, &metrics)
    }

    /// The values of both sides, as Kayenta sees them: one for each window of time.
    fn values(&self, trigger: &Trigger, source: &str) -> [Vec<f64>; 2] {
        let Some(source) = self.seen.sources.get(source) else { return Default::default() };
        if let Some(points) = &source.points {
            return [0, 1].map(|side| points[side].iter().map(|p| p.1).collect());
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
fn tell(record: &mut MetricRecord, result: &MetricResult) {
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
        effect: result.shift.map(|s| s.estimate),
        effect_low: result.shift.map(|s| s.low),
        effect_high: result.shift.map(|s| s.high),
        confidence: 0.98,
        windows: Some(result.canary as u64),
        ..TestRecord::default()
    });
}
