//! How the release was judged: the tests behind the verdicts, and how anybody reaches them again.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Documents;
use super::escape::{one_line, shell_word};
use super::story::places;
use super::words::{Mark, count, figure, metric};
use crate::evidence::{Judgement, MetricRecord, Promotion, TestRecord, short};
use crate::severity::Severity;
use crate::units::{show_number, show_share};

/// The facts behind the verdicts.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Judged {
    rows: Vec<TestRow>,
    scores: Vec<ScoreRow>,
    looks: Option<String>,
    samples: Option<SamplesRow>,
}

/// One comparison in the last judgement of a step.
#[derive(Clone, Debug, Serialize)]
struct TestRow {
    step: usize,
    metric: String,
    source: String,
    mark: Mark,
    test: &'static str,
    effect: Option<String>,
    interval: Option<String>,
    allowed: Option<String>,
    p: Option<String>,
    level: Option<String>,
    windows: Option<String>,
}

/// The score of a step's last judgement.
#[derive(Clone, Debug, Serialize)]
struct ScoreRow {
    step: usize,
    score: String,
}

/// The file that everything was judged from.
#[derive(Clone, Debug, Serialize)]
struct SamplesRow {
    file: String,
    sha256: String,
    short: String,
    incomplete: Option<String>,
    replay: String,
}

/// Nothing where no comparison was tested, nothing was scored, and no samples are named.
pub(super) fn judged(documents: &Documents, promotion: &Promotion) -> Option<Judged> {
    // Where a step failed, that is its last judgement.
    let last: BTreeMap<usize, &Judgement> = promotion.judgements.iter().map(|j| (j.step, j)).collect();
    let rows: Vec<TestRow> = last
        .values()
        .flat_map(|j| j.metrics.iter().filter_map(|m| m.test.as_ref().map(|test| row(j.step, m, test))))
        .collect();
    let scores: Vec<ScoreRow> = last
        .values()
        .filter_map(|j| j.score.map(|score| ScoreRow { step: j.step, score: show_number(score.round()) }))
        .collect();
    let named = promotion.samples.as_ref();
    if rows.is_empty() && scores.is_empty() && named.is_none() {
        return None;
    }
    Some(Judged {
        rows,
        scores,
        looks: named.filter(|s| !s.sha256.is_empty()).map(|s| count(s.looks)),
        samples: named.map(|s| SamplesRow {
            file: one_line(&s.file),
            sha256: s.sha256.clone(),
            short: short(&s.sha256),
            incomplete: s.incomplete.as_deref().map(one_line),
            replay: format!(
                "promote replay --plan {} --environment {}{}",
                shell_word(&one_line(&documents.plan.path)),
                shell_word(&one_line(&documents.release.environment)),
                places(documents)
            ),
        }),
    })
}

fn row(step: usize, m: &MetricRecord, test: &TestRecord) -> TestRow {
    let signed = |value: f64| {
        let sign = if value < 0.0 { "\u{2212}" } else { "+" };
        format!("{sign}{}", figure(value.abs(), &m.unit))
    };
    let interval = test.effect_low.zip(test.effect_high).map(|(low, high)| {
        format!("{} to {}, {} confidence", signed(low), signed(high), show_share(test.confidence))
    });
    TestRow {
        step,
        metric: metric(&m.metric),
        source: one_line(&m.source),
        mark: Mark::of(m.verdict, Severity::Critical),
        test: test_word(&test.name),
        effect: test.effect.map(signed),
        interval,
        allowed: test.tolerance.map(|tolerance| figure(tolerance, &m.unit)),
        p: test.p_value.map(probability),
        level: test.level.filter(|level| *level > 0.0).map(probability),
        windows: test.windows.map(count),
    }
}

fn probability(p: f64) -> String {
    if p > 0.0 && p < 1e-6 { "< 0.000001".into() } else { show_number(p) }
}

fn test_word(name: &str) -> &'static str {
    match name {
        "fisher" => "Fisher, exact",
        "mann_whitney" => "Mann-Whitney",
        "quantile" => "share beyond the quantile",
        "tail" => "tail",
        "kayenta" => "Kayenta",
        _ => "another",
    }
}
