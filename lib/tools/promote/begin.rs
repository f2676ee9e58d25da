//! Before anything moves: the evidence, the plan's promote section, the router, both sides.

use std::path::Path;
use std::time::{Duration, Instant};

use super::dry_run::{front_door, twins};
use super::machine::{Course, State};
use super::record::{Markers, Record, course_of, steps_of, strategy_word};
use super::say::KeptFlags;
use super::shift::{Entry, min_up};
use super::way_back;
use crate::checks;
use crate::evidence::{
    BaselineBody, Need, Outcome, PreflightBody, Promotion, RouterRecord, SideRecord, SnapshotBody,
};
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::judge;
use crate::metrics::probe::{Connection, Headers, Sample, once};
use crate::metrics::{self, Gives};
use crate::plan::{JudgeKind, Loaded, MetricSpec, Promote, Redirects, Side as SidePlan, Trigger};
use crate::redact::redact;
use crate::routers::{self, Before, By, Live, Router, Side, same_share};
use crate::tools::verify::BASELINE_MAX_AGE;
use crate::units::{Share, Span, show_share};
use crate::world::http::{Client, join};
use crate::world::talk::Mark;
use crate::{world, yaml};

/// The promote section of the plan.
pub(super) fn section(job: &Job) -> Result<&Promote, Fault> {
    job.loaded.plan.promote.as_ref().ok_or_else(|| {
        // It is there, and cannot be read from here.
        if let Some(why) = &job.loaded.without_promote {
            return (**why).clone();
        }
        Fault::usage("the plan has no `promote` section")
            .place(&job.loaded.reference.path)
            .help("`preflight init` writes a plan with one")
    })
}

/// Everything that can be said of a plan without touching the world.
///
/// Errors (2): an unknown metric, a comparison that does not fit it, no address to enter at.
pub(super) fn validate(job: &Job) -> Result<(), Fault> {
    let plan = section(job)?;
    judged(plan, &job.loaded)?;
    checks::prepare(&plan.preview, &job.loaded)?;
    entry(job)?;
    twins::apart(&plan.sides, &job.loaded)
}

/// Opens the plan's metric sources and looks whether every trigger can be judged. Touches nothing.
///
/// Errors (2): an unknown kind or metric, settings that do not validate, a comparison that does not fit.
pub(in crate::tools) fn judged(plan: &Promote, loaded: &Loaded) -> Result<(), Fault> {
    let mut series = Vec::new();
    for spec in &plan.metrics {
        let (kind, _) = metrics::open(spec, loaded)?;
        if kind.gives == Gives::Points {
            series.push(spec);
        }
    }
    let refuse = |what: String, cause: String| {
        Fault::usage(what)
            .place(&loaded.reference.path)
            .cause(cause)
            .help("see `promote.metrics` and `promote.rollback_when` in docs/judge.md")
    };
    for spec in &plan.metrics {
        let taken = judge::known_metrics().contains(&spec.name.as_str());
        if taken || spec.name == "probe" || spec.name == plan.router.kind {
            let what = format!("a metric cannot be named `{}` here", spec.name);
            let cause = if spec.name == plan.router.kind {
                format!(
                    "what the router itself counts has that name; write `name: users`, say, and `source: {0}` for the router's counts",
                    spec.name
                )
            } else {
                "that is a name of what Trapkey measures itself".into()
            };
            return Err(refuse(what, cause));
        }
        metric_makes_sense(spec, &plan.metrics)
            .map_err(|cause| refuse(format!("the metric `{}` cannot be asked", spec.name), cause))?;
        let is_series = series.iter().any(|s| s.name == spec.name);
        let used = plan.rollback_when.iter().any(|t| {
            let of_requests = judge::known_metrics().contains(&t.metric.as_str())
                && t.source.as_ref().is_none_or(|source| *source == spec.name);
            if is_series { t.metric == spec.name } else { of_requests }
        });
        if !used && !is_series && plan.rollback_when.iter().any(|t| t.metric == spec.name) {
            let what = format!("the metric `{}` has no values of its own", spec.name);
            let cause =
                format!("it tells of requests: write `metric: error_rate, source: {}`, say", spec.name);
            return Err(refuse(what, cause));
        }
        if !used {
            let what = format!("no trigger looks at the metric `{}`", spec.name);
            return Err(refuse(what, "what nobody looks at guards nothing".into()));
        }
    }
    for trigger in &plan.rollback_when {
        let refuse = |cause| refuse(format!("the trigger on `{}` cannot be judged", trigger.metric), cause);
        judge::trigger_fits(trigger, &series).map_err(refuse)?;
        can_pass(trigger, &series, plan).map_err(refuse)?;
        if let Some(source) = &trigger.source {
            let of_requests = |spec: &&MetricSpec| !series.iter().any(|s| s.name == spec.name);
            let mut known = vec!["probe", plan.router.kind.as_str()];
            known.extend(plan.metrics.iter().filter(of_requests).map(|spec| spec.name.as_str()));
            if !known.contains(&source.as_str()) {
                let problem = yaml::unknown("source of requests", source, known.into_iter());
                let help = problem.help.map(|help| format!("; {help}")).unwrap_or_default();
                return Err(refuse(format!("{}{help}", problem.message)));
            }
        }
    }
    judge_makes_sense(plan).map_err(|cause| refuse("`promote.judge` cannot be followed".into(), cause))
}

/// The most attempts after a failed one.
const MOST_RETRIES: u32 = 20;

fn metric_makes_sense(spec: &MetricSpec, all: &[MetricSpec]) -> Result<(), String> {
    if spec.name.trim().is_empty() {
        return Err("its `name` is empty".into());
    }
    if all.iter().filter(|other| other.name == spec.name).count() > 1 {
        return Err("another metric has the same name, and their values would be taken for one series".into());
    }
    let times = [("step", spec.step), ("window", spec.window), ("timeout", spec.timeout)];
    if let Some((name, _)) = times.iter().find(|(_, span)| span.is_some_and(|span| span.0.is_zero())) {
        return Err(format!("its `{name}` is 0"));
    }
    if spec.retries.is_some_and(|retries| retries > MOST_RETRIES) {
        return Err(format!("its `retries` are {MOST_RETRIES} at most"));
    }
    Ok(())
}

/// Whether a trigger could ever let a release pass.
fn can_pass(trigger: &Trigger, series: &[&MetricSpec], plan: &Promote) -> Result<(), String> {
    let counted = ["error_rate", "latency_mean", "latency_max"];
    if trigger.source.as_ref() == Some(&plan.router.kind) && !counted.contains(&trigger.metric.as_str()) {
        return Err(format!("{} only counts: it has no `{}`", plan.router.kind, trigger.metric));
    }
    let Some(over) = trigger.over else { return Ok(()) };
    if let Some(spec) = series.iter().find(|spec| spec.name == trigger.metric) {
        let step = spec.step.map_or(metrics::DEFAULT_STEP, |span| span.0);
        let least = spec.delay.map_or(step, |span| span.0) + 3 * step;
        if over.0 < least {
            return Err(format!(
                "`over: {over}` never has the three values that are needed: with this `step` and `delay` it is {} at least",
                Span(least)
            ));
        }
    } else if trigger.source.as_deref() == Some("probe") {
        let least = plan.min_samples.unwrap_or(50).max(1);
        let probes = over.0.as_secs_f64() * plan.probe.rate.0;
        if probes < least as f64 {
            return Err(format!(
                "`over: {over}` has {probes:.0} probes, and `min_samples` are {least}: it would never pass"
            ));
        }
    }
    Ok(())
}

fn judge_makes_sense(plan: &Promote) -> Result<(), String> {
    let spec = &plan.judge;
    let within = |share: Option<Share>, what: &str, low: f64, high: f64| match share {
        Some(share) if !(share.0 >= low && share.0 <= high) => {
            Err(format!("`{what}` lies between {} and {}", show_share(low), show_share(high)))
        }
        _ => Ok(()),
    };
    within(spec.false_alarms, "false_alarms", 1e-6, 0.2)?;
    within(spec.power, "power", 0.5, 0.999)?;
    match spec.kind {
        JudgeKind::Kayenta => judge::kayenta_fits(plan)?,
        JudgeKind::Trapkey if !spec.groups.is_empty() => {
            return Err("`groups` goes with `kind: kayenta`".into());
        }
        JudgeKind::Trapkey if plan.rollback_when.iter().any(|t| t.kayenta.0.is_some()) => {
            return Err("a trigger has `kayenta`, but the judge is not".into());
        }
        JudgeKind::Trapkey => {}
    }
    if let Some(score) = spec.score
        && !(score.pass > 0.0 && score.marginal >= 0.0 && score.marginal <= score.pass && score.pass <= 100.0)
    {
        return Err("a score has 0 <= marginal <= pass <= 100, and a pass above 0".into());
    }
    if spec.score.is_none()
        && !plan.rollback_when.is_empty()
        && plan.rollback_when.iter().all(|t| !t.critical)
    {
        return Err(
            "no trigger is critical and there is no `score`: nothing would ever end the release".into()
        );
    }
    if spec.consecutive_errors == Some(0) {
        return Err("`consecutive_errors` is 1 at least".into());
    }
    Ok(())
}

/// Whether somebody could open the gates of the plan.
///
/// Errors (2): a step wants an approval, and nothing says whose keys count.
pub(super) fn trusts_somebody(job: &Job) -> Result<(), Fault> {
    let wants = section(job)?.steps.iter().any(|step| !step.approve.is_empty());
    if !wants || job.call.trust.is_some() {
        return Ok(());
    }
    Err(Fault::usage("a step wants an approval, but nothing says whose keys count")
        .place(&job.loaded.reference.path)
        .help("name the folder of public keys with --trust; see docs/signing.md"))
}

/// Where users' requests enter.
pub(super) fn entry(job: &Job) -> Result<Entry, Fault> {
    let plan = section(job)?;
    let url = plan.router.entry.as_ref().or_else(|| job.environment_url()).ok_or_else(|| {
        Fault::usage("the plan does not say where requests enter the router")
            .place(&job.loaded.reference.path)
            .cause(
                "a weight that the router reads back is no proof that traffic moved: requests through it are",
            )
            .help(format!("give `promote.router.entry`, or `environments.{}.url`", job.release.environment))
    })?;
    let by = By::of(&plan.router.split).unwrap_or(By::Requests);
    Ok(Entry::new(&url.value, &plan.probe).by(&by).unseen(job.loaded.unseen.door.clone()))
}

/// The documents that must be there, and must have passed.
///
/// Errors (5): one is missing, stale, of another plan or release, did not pass, or is not the one
/// that the next was made from.
pub(super) fn evidence(job: &Job) -> Result<Vec<Need>, Fault> {
    let plan = &job.loaded.plan;
    let mut needs = Vec::new();
    if let Some(section) = &plan.preflight {
        let age = section.max_age.map_or(Duration::from_secs(3600), |s| s.0);
        let found = job.need::<PreflightBody>(Some(age))?;
        found.passed()?;
        needs.push(found.need);
    }
    if let Some(section) = &plan.snapshot {
        let age = section.max_age.map_or(Duration::from_secs(86_400), |s| s.0);
        let found = job.need::<SnapshotBody>(Some(age))?;
        found.passed()?;
        if let Some(preflight) = needs.first() {
            found.comes_from(preflight)?;
        }
        needs.push(found.need);
    }
    // Without it `verify` could only refuse afterwards, when nobody can record it any more.
    if let Some(spec) = plan.verify.as_ref().and_then(|verify| verify.baseline.as_ref()) {
        let age = spec.max_age.map_or(BASELINE_MAX_AGE, |s| s.0);
        let found = job.need::<BaselineBody>(Some(age)).map_err(|fault| {
            fault.help(
                "run `verify baseline` before `promote`, while the old version serves, and pass its file on",
            )
        })?;
        found.passed()?;
        needs.push(found.need);
    }
    Ok(needs)
}

/// Opens the plan's router. Touches nothing.
pub(super) fn router(job: &Job) -> Result<Box<dyn Router>, Fault> {
    routers::open(&section(job)?.router, &job.loaded)
}

/// A first record: everything was looked at, nothing was moved.
///
/// Errors: the router cannot do this plan (2) or cannot be reached (4); green already has traffic, or the
/// snapshot of the evidence is not in its store (5); blue is not healthy (1).
pub(super) fn record(
    job: &Job,
    needs: Vec<Need>,
    router: &mut dyn Router,
    epoch: u64,
    known: &Before,
) -> Result<Record, Fault> {
    let plan = section(job)?;
    let course = course_of(plan);
    way_back::is_there(job, &needs)?;
    router.check()?;
    let comes_later = green_comes(router, plan)?;
    if let Some(fault) = &comes_later {
        job.talk().line(Mark::Warn, &format!("{}: the deploy hook must bring it", fault.line()));
    }
    let before = router.before(known)?;
    router.remember(&before);
    steps_fit(router, &course)?;
    let live = router.read()?;
    all_on_blue(&live, plan)?;
    router_serves_blue(&live, plan)?;
    blue_is_healthy(plan)?;
    twins::apart_by_address(&plan.sides, &job.loaded)?;
    let markers = Markers { blue: Some(marker(Side::Blue, &plan.sides.blue, plan)?), green: None };
    front_door::by_this_router(router, &entry(job)?, &markers, plan)?;
    let id = Some(format!("{:016x}", world::unique()));
    let mut record = Record {
        id: id.clone(),
        release: job.release.clone(),
        plan: job.loaded.reference.clone(),
        kept: Some(job.loaded.keep()),
        kept_flags: Some(KeptFlags::of(&job.call)),
        snapshot: way_back::of_evidence(job, &needs),
        served_before: None,
        used: job.used.clone(),
        needs,
        state: State::first(&course),
        began_at: world::now(),
        clocks: None,
        counting: 0,
        before,
        put_back: 0,
        blue_is_out: false,
        spared: None,
        quiet: None,
        accepted: None,
        base: None,
        counted: None,
        promotion: Promotion {
            epoch,
            id,
            strategy: strategy_word(plan.strategy).into(),
            router: RouterRecord {
                kind: plan.router.kind.clone(),
                target: plan.router.target.shown.clone(),
                identity: router.identity(Side::Blue),
                by_hand: router.by_hand(Side::Blue),
                split: By::of(&plan.router.split).ok().and_then(|by| by.words()),
            },
            blue: SideRecord { url: plan.sides.blue.url.shown.clone(), version: markers.blue.clone() },
            green: SideRecord { url: plan.sides.green.url.shown.clone(), version: None },
            outcome: Outcome::InProgress,
            reason: None,
            steps: steps_of(&course),
            shifts: Vec::new(),
            judgements: Vec::new(),
            series: Vec::new(),
            decisions: Vec::new(),
            hooks: Vec::new(),
            rollback: None,
            weight: 0.0,
            waits_for: None,
            preview: Vec::new(),
            approvals: Vec::new(),
            samples: None,
            next_at: None,
            after_reload: None,
            other_ways: Vec::new(),
        },
        markers,
        course,
    };
    if let Some(fault) = comes_later {
        record.decided(world::now(), "trapkey", format!("{}: the deploy hook must bring it", fault.line()));
    }
    Ok(record)
}

/// What is missing of a green side that the deploy hook may still bring; none where the router knows it.
///
/// Errors: unreachable (4); the router does not know green, and nothing of the plan would bring it (2).
pub(super) fn green_comes(router: &mut dyn Router, plan: &Promote) -> Result<Option<Fault>, Fault> {
    match router.green_is_known() {
        Ok(()) => Ok(None),
        Err(fault) if fault.exit == Exit::Usage && !plan.hooks.deploy.is_empty() => Ok(Some(fault)),
        Err(fault) => Err(fault),
    }
}

/// Refuses (2) steps that the router cannot represent.
pub(super) fn steps_fit(router: &dyn Router, course: &Course) -> Result<(), Fault> {
    course.steps.iter().try_for_each(|step| routers::representable(router, step.weight).map(drop))
}

/// Whether a release can begin from what is live.
///
/// Errors: green has traffic already (5); something that is on neither side gets users (2).
pub(super) fn all_on_blue(live: &Live, plan: &Promote) -> Result<(), Fault> {
    if !same_share(live.green, 0.0) {
        return Err(Fault::refused(format!("green already has {} of the traffic", show_share(live.green)))
            .place(plan.router.target.shown.clone())
            .cause(&live.raw)
            .help("a release begins with everything on blue: are the sides swapped, or does something else steer this router?"));
    }
    if live.strangers.is_empty() {
        return Ok(());
    }
    Err(Fault::usage("the router sends users to servers that are on neither side")
        .place(plan.router.target.shown.clone())
        .cause(live.strangers.join("; "))
        .help("name them on a side in `promote.router.with`, or take them out of service: the weights are no shares otherwise"))
}

/// Refuses (1) a blue that the router itself holds for down: it is where a rollback goes.
pub(super) fn router_serves_blue(live: &Live, plan: &Promote) -> Result<(), Fault> {
    match live.side(Side::Blue).and_then(|blue| blue.cannot_serve(min_up(plan, Side::Blue))) {
        None => Ok(()),
        Some(why) => Err(Fault::closed("blue, the side that serves now, is not healthy")
            .place(plan.router.target.shown.clone())
            .cause(why)
            .help("a rollback needs blue: mend its servers, or the router's health checks of them, first")),
    }
}

/// Refuses a blue that is not healthy by its own address (1), and one whose every probe would count as an error for
/// being led elsewhere (2).
pub(super) fn blue_is_healthy(plan: &Promote) -> Result<String, Fault> {
    let health = look_at(&plan.sides.blue, plan, Duration::ZERO, false).map_err(|seen| {
        Fault::closed("blue, the side that serves now, is not healthy")
            .place(redact(&plan.sides.blue.url.shown))
            .cause(seen)
            .help("a release needs a way back: mend blue first")
    })?;
    let sample = probe_of(&plan.sides.blue, plan);
    match sample.status {
        Some(status) if (300..400).contains(&status) && plan.probe.redirects == Redirects::Error => {
            Err(Fault::usage("blue answers what the probes ask for with a redirect")
                .place(redact(&join(&plan.sides.blue.url.shown, &plan.probe.path)))
                .cause(format!("it answered {status}, and each such answer counts as an error"))
                .help("name a path that is served there in `promote.probe.path`, or say `redirects: success` in `promote.probe`"))
        }
        _ => Ok(health),
    }
}

/// What a probe gets of a side.
fn probe_of(side: &SidePlan, plan: &Promote) -> Sample {
    let client = Client::new(Duration::from_secs(5));
    once(&client, &join(&side.url.value, &plan.probe.path), &Headers::of(&plan.probe), Connection::New)
}

/// What a side says of itself.
pub(super) enum Says {
    /// Which release it is.
    Release(String),
    /// It answers, and does not say.
    Nothing,
    /// It does not answer, or with an error of its own.
    Silent,
}

/// Asks a side which release it is, where the plan does not say it.
pub(super) fn says(spec: &SidePlan, plan: &Promote) -> Says {
    if let Some(given) = &spec.release {
        return Says::Release(given.clone());
    }
    let sample = probe_of(spec, plan);
    match sample.version {
        Some(version) => Says::Release(version),
        None if sample.status.is_some_and(|status| status < 500) => Says::Nothing,
        None => Says::Silent,
    }
}

/// What the release header says on a side.
///
/// Errors (2): it has none, and without one nobody can say who answered.
pub(super) fn marker(side: Side, spec: &SidePlan, plan: &Promote) -> Result<String, Fault> {
    let header = plan.probe.header.to_ascii_lowercase();
    if let Says::Release(release) = says(spec, plan) {
        // It is put on record, and compared with what comes later.
        if crate::redact::holds_a_secret(&release) {
            return Err(Fault::refused(format!("what {} says of its release is a secret", side.word()))
                .place(redact(&spec.url.shown))
                .cause(format!("its header `{header}` has the value of a variable that is secret"))
                .help("let it send its version there"));
        }
        return Ok(release);
    }
    Err(Fault::usage(format!("{} does not say which release it is", side.word()))
        .place(redact(&spec.url.shown))
        .cause(format!("its answer has no header `{header}`, so nobody could prove where traffic goes"))
        .help("send that header, name another one in `promote.probe.header`, or let the router add one and give `release` for both sides"))
}

/// Looks at a side's health until it is well three times in a row, for `patience` at most.
/// On the way back no signal cuts it short, and no hanging answer may use up more than the patience.
pub(super) fn look_at(
    side: &SidePlan,
    plan: &Promote,
    patience: Duration,
    going_back: bool,
) -> Result<String, String> {
    const WELL: u32 = 3;
    let url = join(&side.url.value, &side.health);
    let timeout = plan.probe.timeout.map_or(Duration::from_secs(5), |t| t.0);
    let client = Client::new(if going_back { timeout.min(patience) } else { timeout });
    let until = Instant::now() + patience;
    let mut well = 0;
    loop {
        let seen = match client.get(&url) {
            Ok(answer) if (200..300).contains(&answer.status) => {
                well += 1;
                if well == WELL {
                    return Ok(format!("{} answered {} {WELL} times", side.health, answer.status));
                }
                continue;
            }
            Ok(answer) => format!("{} answered {}", side.health, answer.status),
            Err(none) => format!("{} did not answer: {}", side.health, none.why),
        };
        well = 0;
        if Instant::now() >= until || (crate::world::signal::stop_asked() && !going_back) {
            return Err(seen);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The folder that hooks run in.
pub(super) fn hook_folder(job: &Job) -> &Path {
    &job.loaded.folder
}
