//! From the classifications of the metrics to the score, its class, and what a release may make of it.

use std::collections::BTreeMap;

use super::{Class, Classification, Config, GroupScore, Judgement, MetricResult};
use crate::evidence::Verdict;

/// With so many percent of the metrics without data, the score is 0.
const TOO_MUCH_MISSING: f64 = 50.0;

pub(super) fn judgement(config: &Config, metrics: Vec<MetricResult>) -> Judgement {
    let counted: Vec<&MetricResult> = metrics.iter().filter(|m| !m.muted).collect();
    let groups = group_scores(config, &counted);
    let failures: Vec<&MetricResult> =
        counted.iter().copied().filter(|m| m.critical && m.classification != Classification::Pass).collect();
    let missing = counted.iter().filter(|m| m.classification == Classification::Nodata).count();
    // With no metrics at all this is NaN, and not too much, as in the source.
    let too_much_missing = missing as f64 / counted.len() as f64 * 100.0 >= TOO_MUCH_MISSING;
    let (score, reason) = if let Some(first) = failures.first() {
        let of = first.reason.clone().unwrap_or_else(|| first.name.clone());
        (0.0, Some(format!("a critical metric failed: {of}")))
    } else if too_much_missing {
        (0.0, Some(format!("{missing} of {} metrics have no data", counted.len())))
    } else {
        (summary(&groups), None)
    };
    let class = if score >= config.pass {
        Class::Pass
    } else if score >= config.marginal {
        Class::Marginal
    } else {
        Class::Fail
    };
    let (decides, message) =
        decision(&Seen { counted: &counted, groups: &groups, failures: &failures, class })
            .unwrap_or_else(|| by_class(config, class, score, reason.as_deref(), too_much_missing));
    Judgement { metrics, groups, score, class, reason, decides, message }
}

/// The score of each group in order of its name.
fn group_scores(config: &Config, counted: &[&MetricResult]) -> Vec<GroupScore> {
    let mut by_group: BTreeMap<&str, Vec<Classification>> = BTreeMap::new();
    for metric in counted {
        for group in &metric.groups {
            by_group.entry(group).or_default().push(metric.classification);
        }
    }
    let unweighted = by_group.keys().filter(|name| !config.groups.contains_key(**name)).count();
    let shared = (100.0 - config.groups.values().sum::<f64>()) / unweighted.max(1) as f64;
    let score = |(name, of): (&str, Vec<Classification>)| {
        let count = |one: Classification| of.iter().filter(|c| **c == one).count();
        let pass = count(Classification::Pass);
        let total = pass
            + count(Classification::High)
            + count(Classification::Low)
            + count(Classification::NodataFailMetric);
        GroupScore {
            name: name.to_owned(),
            score: if total == 0 { 0.0 } else { pass as f64 / total as f64 * 100.0 },
            weight: config.groups.get(name).copied().unwrap_or(shared),
            no_data: total == 0,
            metrics: of.len(),
        }
    };
    by_group.into_iter().map(score).collect()
}

/// The sum of the weighted scores; a group without data counts as 100, as in the source.
fn summary(groups: &[GroupScore]) -> f64 {
    let of = |group: &GroupScore| if group.no_data { 100.0 } else { group.score };
    hundredths(groups.iter().map(|group| of(group) * (group.weight / 100.0)).sum())
}

/// Rounded to two decimal places by its decimal digits, half up: 12.345 is 12.35.
fn hundredths(x: f64) -> f64 {
    let text = format!("{:?}", x.abs());
    let Some((whole, part)) = text.split_once('.') else { return x };
    let digits: String = format!("{part}000").chars().take(3).collect();
    match (whole.parse::<f64>(), digits.parse::<f64>()) {
        (Ok(whole), Ok(thousandths)) => {
            let rounded = whole * 100.0 + ((thousandths + 5.0) / 10.0).floor();
            (rounded / 100.0).copysign(x)
        }
        // With an exponent: far too small or too great for a score.
        _ => x,
    }
}

struct Seen<'a> {
    counted: &'a [&'a MetricResult],
    groups: &'a [GroupScore],
    failures: &'a [&'a MetricResult],
    class: Class,
}

/// What decides before, or against, the class.
fn decision(seen: &Seen) -> Option<(Verdict, String)> {
    if seen.counted.is_empty() {
        return Some((Verdict::NoData, "no metric was judged".into()));
    }
    if let Some(worse) = seen.failures.iter().find(|m| m.classification.is_worse()) {
        return Some((Verdict::Fail, format!("the critical metric {} failed", worse.name)));
    }
    if let Some(broken) = seen.counted.iter().find(|m| m.classification == Classification::Error) {
        let why = broken.reason.as_deref().unwrap_or("it could not be judged");
        return Some((Verdict::Error, format!("{}: {why}", broken.name)));
    }
    if let Some(missing) = seen.failures.first() {
        return Some((Verdict::NoData, format!("the critical metric {} has no data", missing.name)));
    }
    if seen.class == Class::Fail {
        return None;
    }
    if let Some(empty) = seen.counted.iter().find(|m| m.passed_without_data()) {
        let message = format!("{} has no data; Kayenta passes it, a release does not", empty.name);
        return Some((Verdict::NoData, message));
    }
    let empty = seen.groups.iter().find(|group| group.no_data)?;
    let message = format!("the group {} has no data; Kayenta scores it 100, a release does not", empty.name);
    Some((Verdict::NoData, message))
}

fn by_class(
    config: &Config,
    class: Class,
    score: f64,
    reason: Option<&str>,
    too_much_missing: bool,
) -> (Verdict, String) {
    let because = reason.map(|r| format!(": {r}")).unwrap_or_default();
    match class {
        Class::Pass => (Verdict::Pass, format!("score {score}, {} passes", config.pass)),
        _ if too_much_missing => (Verdict::NoData, format!("score {score}{because}")),
        Class::Marginal => {
            (Verdict::Fail, format!("score {score} is marginal: {} passes{because}", config.pass))
        }
        Class::Fail => (Verdict::Fail, format!("score {score}, {} passes{because}", config.pass)),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "rounded figures")]
mod tests {
    use super::hundredths;

    #[test]
    fn scores_are_rounded_by_their_decimal_digits() {
        for (x, rounded) in [
            (100.0 / 3.0, 33.33),
            (200.0 / 3.0, 66.67),
            (12.345, 12.35),
            (1.005, 1.01),
            (99.995, 100.0),
            (0.004_9, 0.0),
            (75.0, 75.0),
            (-1.005, -1.01),
            (0.0, 0.0),
            (1e-9, 1e-9),
        ] {
            assert_eq!(hundredths(x), rounded, "{x}");
        }
    }
}
