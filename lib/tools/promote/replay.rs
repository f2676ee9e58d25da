//! `promote replay`: reaches every verdict again from the recorded samples.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bake::{verdict_of, with_front};
use super::front::{Asked, Front};
use super::record::course_of;
use super::samples;
use super::{begin, orders};
use crate::evidence::{
    Head, Judgement, MetricRecord, PromoteBody, Promotion, Verdict, name_release, sha256_hex,
};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::judge::{Judge, Looked};
use crate::plan::Promote;
use crate::routers::By;
use crate::world::files::read_bounded;

/// The largest file of samples in bytes that is read.
const MOST: u64 = 1 << 30;

/// What came of one recorded judgement.
#[derive(Clone, Debug, Serialize)]
struct Again {
    at: String,
    step: usize,
    recorded: Verdict,
    /// Null where the samples of that look are not there.
    now: Option<Verdict>,
    /// Where the two differ, in words.
    differs: Vec<String>,
}

/// Judges the recorded samples once more and compares every judgement with the record.
///
/// Ends with 0 when all are the same, 1 when one differs, 3 when samples are missing or a step that was
/// watched has no judgement.
/// Errors: refused (5) when the document does not fit this plan and release, or the samples are not
/// those that it names.
pub fn replay(job: &Job) -> Result<Exit, Fault> {
    let plan = begin::section(job)?;
    begin::judged(plan, &job.loaded)?;
    let found = job.read::<PromoteBody>()?;
    is_of_this_plan(job, &found.document.head)?;
    let Some(promotion) = &found.document.body.promotion else {
        return Err(Fault::refused("`promote.json` tells of no promotion")
            .place(job.evidence().display().to_string())
            .help("it ends before traffic moved: there is nothing to replay; another folder is named with --evidence"));
    };
    let bytes = recorded(job, promotion)?;
    let looks = look_again(plan, &bytes)
        .map_err(|why| Fault::refused("the samples cannot be read").place(samples::FILE).cause(why))?;
    let again: Vec<Again> = promotion.judgements.iter().map(|j| compare(j, &looks)).collect();
    let missing = promotion.samples.as_ref().and_then(|s| s.incomplete.clone());
    let unjudged = unjudged(promotion);
    let exit = match exit_of(&again) {
        // What says that it was watched, and shows no judgement, is no proof of anything.
        Exit::Pass if again.is_empty() || !unjudged.is_empty() => Exit::Undecided,
        exit => exit,
    };
    if job.call.json {
        let answer = serde_json::json!({
            "release": name_release(&job.release),
            "looks": looks.len(),
            "judgements": again,
            "incomplete": missing,
            "steps_without_judgement": unjudged,
            "same": exit == Exit::Pass,
        });
        orders::print_json(&answer)?;
        return Ok(exit);
    }
    let mut text = format!("{}: {} looks\n", name_release(&job.release), looks.len());
    for judgement in &again {
        text.push_str(&line(judgement));
    }
    if let Some(why) = missing {
        text.push_str(&format!("  not all samples were kept: {why}\n"));
    }
    for step in &unjudged {
        text.push_str(&format!(
            "  step {step} is said to have passed, and the document holds no judgement of it\n"
        ));
    }
    text.push_str(match exit {
        _ if again.is_empty() => "the document holds no judgement, so nothing is proven\n",
        Exit::Undecided if !unjudged.is_empty() => {
            "a step was passed without a judgement, so it is not proven\n"
        }
        Exit::Pass => "every verdict is reached again\n",
        Exit::Closed => "not every verdict is reached again\n",
        _ => "some verdicts cannot be reached again: their samples are missing\n",
    });
    orders::print(&text)?;
    Ok(exit)
}

/// The steps, from 1, that are said to have passed a bake that nothing in the document judged.
fn unjudged(promotion: &Promotion) -> Vec<usize> {
    let judged = |number| promotion.judgements.iter().any(|j| j.step == number && j.verdict == Verdict::Pass);
    let steps = promotion.steps.iter().enumerate().map(|(from_zero, step)| (from_zero + 1, step));
    let passed = steps.filter(|(_, step)| step.bake_s > 0.0 && step.verdict == Some(Verdict::Pass));
    passed.map(|(number, _)| number).filter(|number| !judged(*number)).collect()
}

/// Refuses (5) a document of another plan or release. The files that are released need not be at hand:
/// whoever reads a verdict again has the evidence, and perhaps nothing else.
fn is_of_this_plan(job: &Job, head: &Head) -> Result<(), Fault> {
    let refuse = |cause: String| {
        Fault::refused("`promote.json` was made by another plan or for another release")
            .place("promote.json")
            .cause(cause)
            .help("`promote plan --on promote.samples.jsonl.gz` says what the plan at hand would have done")
    };
    let plan = head.plan.as_ref().map_or("", |plan| plan.sha256.as_str());
    if plan != job.loaded.reference.sha256 {
        return Err(refuse("the plan in force is not the one that it names".into()));
    }
    let told = head.release.as_ref().map_or_else(|| "no release".into(), name_release);
    let (this, place) = (name_release(&job.release), &job.release.environment);
    if told != this || head.release.as_ref().is_none_or(|release| release.environment != *place) {
        return Err(refuse(format!("it speaks of {told}, this is {this}")));
    }
    Ok(())
}

/// The file of samples, as the document names it.
fn recorded(job: &Job, promotion: &Promotion) -> Result<Vec<u8>, Fault> {
    let Some(record) = &promotion.samples else {
        return Err(Fault::refused("`promote.json` names no samples")
            .cause("nothing was judged, or the promotion is under way and its job has not ended")
            .help("run it again when the job has ended"));
    };
    let path = job.evidence().join(samples::FILE);
    let place = path.display().to_string();
    let bytes = read_bounded(&path, MOST).map_err(|e| {
        Fault::refused("the samples cannot be read")
            .place(&place)
            .cause(e)
            .help("pass the file on together with promote.json")
    })?;
    let digest = sha256_hex(&bytes);
    if digest != record.sha256 {
        return Err(Fault::refused("the samples are not those that `promote.json` names")
            .place(&place)
            .cause(format!("its SHA-256 is {digest}, the document has {}", record.sha256))
            .help("take both files from the same run"));
    }
    Ok(bytes)
}

/// Every look by step and moment, judged anew.
fn look_again(plan: &Promote, bytes: &[u8]) -> Result<BTreeMap<(usize, i64), Looked>, String> {
    let mut looks = BTreeMap::new();
    let by = By::of(&plan.router.split).unwrap_or(By::Requests);
    let weights = course_of(plan);
    let mut judge: Option<((usize, u64), Judge<'_>, Front)> = None;
    samples::for_each_line(bytes, |line| {
        let of = (line.step, line.counting);
        let (mut own, mut front) = match judge.take().filter(|(known, ..)| *known == of) {
            Some((_, judge, front)) => (judge, front),
            None => (Judge::begin(plan, line.since_ms, line.bake_ms), Front::default()),
        };
        let mut looked = own.look(&line.batch);
        if let Some(newest) = &line.front {
            front.add(newest);
            let weight =
                line.step.checked_sub(1).and_then(|step| weights.steps.get(step)).map_or(0.0, |s| s.weight);
            looked = with_front(looked, &front, newest, Asked::of(plan, &by, weight));
        }
        looks.insert((line.step, line.batch.at_ms), looked);
        judge = Some((of, own, front));
        Ok(())
    })?;
    Ok(looks)
}

fn compare(recorded: &Judgement, looks: &BTreeMap<(usize, i64), Looked>) -> Again {
    let looked = looks.get(&(recorded.step, recorded.at.as_millisecond()));
    let again = looked.map(verdict_of);
    let mut differs = Vec::new();
    if let (Some(looked), Some(again)) = (looked, again) {
        if again != recorded.verdict {
            differs.push(format!("{} instead of {}", again.word(), recorded.verdict.word()));
        }
        differs.extend(differences(&recorded.metrics, &looked.metrics));
    }
    Again {
        at: recorded.at.to_string(),
        step: recorded.step,
        recorded: recorded.verdict,
        now: again,
        differs,
    }
}

fn differences(recorded: &[MetricRecord], again: &[MetricRecord]) -> Vec<String> {
    if recorded.len() != again.len() {
        return vec![format!("{} metrics instead of {}", again.len(), recorded.len())];
    }
    recorded
        .iter()
        .zip(again)
        .filter_map(|(then, now)| {
            let same = then.metric == now.metric
                && then.source == now.source
                && then.verdict == now.verdict
                && then.green == now.green
                && then.blue == now.blue
                && then.test == now.test;
            (!same).then(|| {
                format!("{} ({}): {} instead of {}", then.metric, then.source, now.message, then.message)
            })
        })
        .collect()
}

fn exit_of(again: &[Again]) -> Exit {
    if again.iter().any(|a| !a.differs.is_empty()) {
        Exit::Closed
    } else if again.iter().any(|a| a.now.is_none()) {
        Exit::Undecided
    } else {
        Exit::Pass
    }
}

fn line(judgement: &Again) -> String {
    let says = match judgement.now {
        None => "its samples are missing".to_owned(),
        Some(_) if judgement.differs.is_empty() => "and so again".to_owned(),
        Some(_) => format!("but now: {}", judgement.differs.join("; ")),
    };
    format!("  step {}, {}: {}, {says}\n", judgement.step, judgement.at, judgement.recorded.word())
}
