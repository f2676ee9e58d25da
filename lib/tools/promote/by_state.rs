//! Opens a call by what the promote state knows: whoever looks, holds, calls off or goes back needs no variable of
//! the plan, and not even the plan as it was.
//!
//! What the promotion steers is what counts. Values that it keeps come before those that are set now; the plan's file
//! counts as long as it names the same router and sides, and otherwise the text that the promotion keeps.

use super::machine::Hook;
use super::orders;
use super::record::Record;
use crate::evidence::{self, PromoteBody, Release, name_release};
use crate::fault::{Exit, Fault};
use crate::job::{self, Call, Job};
use crate::plan::{Kept, Known, Loaded, Part, PlanVariables, Sketch, folder_of};
use crate::state::Store;
use crate::world::talk::Mark;

/// What is there for a call: the plan's text, the environment, the newest promotion of it.
struct Scene {
    call: Call,
    sketch: Result<Sketch, Fault>,
    environment: String,
    record: Option<Record>,
}

impl Scene {
    /// Errors: nothing says which environment is meant (2), or the state cannot be read (4).
    fn of(call: Call) -> Result<Self, Fault> {
        let sketch = Sketch::read(&call.plan, &call.set);
        let environment = match (&sketch, &call.environment) {
            (Ok(sketch), named) => {
                let known = sketch.environments();
                job::choose_environment(&known, named.as_deref(), &sketch.reference().path)?
            }
            (Err(_), Some(named)) => named.clone(),
            (Err(fault), None) => return Err(fault.clone()),
        };
        let place = call.state.clone().unwrap_or_else(|| folder_of(&call.plan).join(".trapkey"));
        let saved = Store::open(&place, &environment)?.load::<Record>()?;
        Ok(Self { call, sketch, environment, record: saved.map(|saved| saved.record) })
    }

    fn kept(&self) -> Option<&Kept> {
        self.record.as_ref()?.kept.as_ref()
    }

    fn known(&self) -> Known<'_> {
        match &self.record {
            Some(record) => {
                Known { service: Some(&record.release.service), version: &record.release.version }
            }
            // Nobody promotes under that name: the state has no promotion to speak about.
            None => Known { service: None, version: "unknown" },
        }
    }

    /// What is set now.
    fn now(&self) -> PlanVariables {
        PlanVariables::new(self.call.set.clone())
    }

    /// Whether the plan is there, and all of its variables are set now.
    fn is_whole(&self) -> bool {
        self.sketch.as_ref().is_ok_and(|sketch| sketch.is_whole(&self.now()))
    }

    /// What `${NAME}` means; what is kept comes first, or only where nothing is set.
    fn variables(&self, kept_first: bool) -> PlanVariables {
        let now = self.now();
        match self.kept() {
            Some(kept) => now.keeping(kept, kept_first),
            None => now,
        }
    }

    /// The plan as it stands there, as far as the way back goes by it.
    fn present(&self) -> Result<Job, Fault> {
        let sketch = self.sketch.as_ref().map_err(Clone::clone)?;
        let variables = self.variables(true);
        let loaded = sketch.part(Part::WayBack, &self.environment, Some(self.known()), variables)?;
        Job::of(self.call(), loaded)
    }

    /// The plan as the promotion keeps it. Commands are those of the plan's file, where it can be read.
    fn of_then(&self, present: Option<&Job>) -> Result<Job, String> {
        let (Some(record), Some(kept)) = (&self.record, self.kept()) else {
            return Err("the state keeps no plan".into());
        };
        if !may_go_by_the_state(record) {
            return Err(
                "its router is steered by files or commands, and those are taken from a plan's file alone"
                    .into(),
            );
        }
        let sketch = kept.sketch(&self.call.plan, &record.plan)?;
        let variables = self.variables(true);
        let mut loaded = sketch
            .part(Part::WayBack, &self.environment, Some(self.known()), variables)
            .map_err(|fault| fault.line())?;
        if let Some(folder) = record.folder() {
            loaded.folder = folder.to_path_buf();
        }
        let Some(promote) = &mut loaded.plan.promote else {
            return Err("the state keeps no `promote`".into());
        };
        if promote.router.kind != record.promotion.router.kind {
            return Err("the state is not of one mind about the router".into());
        }
        let hooks = present.and_then(|job| job.loaded.plan.promote.as_ref()).map(|p| p.hooks.clone());
        if hooks.is_none() && record.course.hooks.contains(&Hook::OnRollback) {
            self.call.talk.line(
                Mark::Warn,
                "the on_rollback hook is not run: a command is taken from the plan's file alone, never from the state",
            );
        }
        promote.hooks = hooks.unwrap_or_default();
        Job::of(self.call(), loaded).map_err(|fault| fault.line())
    }

    /// The names alone, for those who move nothing.
    fn names_only(&self, why: Fault) -> Result<Job, Fault> {
        let sketch = match (&self.sketch, &self.record, self.kept()) {
            (Ok(sketch), ..) => sketch.clone(),
            (Err(fault), Some(record), Some(kept)) => {
                kept.sketch(&self.call.plan, &record.plan).map_err(|_| fault.clone())?
            }
            (Err(fault), ..) => return Err(fault.clone()),
        };
        let variables = self.variables(true);
        let loaded = sketch
            .names_only(&self.environment, Some(self.known()), variables, why.clone())
            // What is wrong with the plan is what was wrong in the first place.
            .map_err(|_| why)?;
        Job::of(self.call(), loaded)
    }

    /// The call, about this environment.
    fn call(&self) -> Call {
        Call { environment: Some(self.environment.clone()), ..self.call.clone() }
    }
}

/// Opens a call that looks at the newest promotion, holds it, calls it off or takes it back.
///
/// Never fails for a variable: where one is missing that moves traffic, whoever moves it hears of it by name.
/// Errors: nothing says which environment is meant, or of which service (2); the state cannot be read (4).
pub fn open(call: Call) -> Result<Job, Fault> {
    let scene = Scene::of(call)?;
    let present = scene.present();
    let Some(record) = &scene.record else {
        return present.or_else(|why| scene.names_only(why));
    };
    let why_not = match &present {
        Ok(job) => match orders::steers_the_same(job, record) {
            Ok(()) => None,
            // Of another service: the call is refused as it stands.
            Err(_) if orders::same_service(job, record).is_err() => return present,
            Err(fault) => Some(fault),
        },
        Err(fault) => Some(fault.clone()),
    };
    let Some(why_not) = why_not else {
        warn_of_changes(&scene);
        return present;
    };
    match scene.of_then(present.as_ref().ok()) {
        Ok(then) if orders::steers_the_same(&then, record).is_ok() => {
            let line = format!("the plan that this promotion began with counts: {}", why_not.line());
            scene.call.talk.line(Mark::Warn, &line);
            warn_of_changes(&scene);
            Ok(then)
        }
        _ => match present {
            // What it names is not what the promotion steers: whoever moves traffic hears of it.
            Ok(job) if why_not.exit != Exit::Usage => Ok(job),
            _ => scene.names_only(scene.with_secrets_named(why_not)),
        },
    }
}

/// Whether a way back may go by the text that the state keeps: whoever may write the state must not write files or run
/// commands by those who go back.
pub(super) fn may_go_by_the_state(record: &Record) -> bool {
    record.kept.is_some() && ["haproxy", "caddy"].contains(&record.promotion.router.kind.as_str())
}

/// Names what is set to another value now than the promotion began with. The values may be secrets: they are not shown.
fn warn_of_changes(scene: &Scene) {
    let Some(kept) = scene.kept() else { return };
    let changed = kept.changed(&scene.now());
    if changed.is_empty() {
        return;
    }
    let (is, what) = if changed.len() == 1 { ("is", "it") } else { ("are", "they") };
    let names = changed.join(", ");
    scene.call.talk.line(
        Mark::Warn,
        &format!(
            "{names} {is} set to another value than this promotion began with: what {what} had then counts"
        ),
    );
}

/// Opens a call that goes on with what is under way: values that are not set are those that the promotion began with.
///
/// Errors: those of [`Job::open`]; a variable that it keeps no value of is not set (2).
pub fn go_on(call: Call) -> Result<Job, Fault> {
    let mut job = go_on_elsewhere(call)?;
    job.release.artifacts = job::artifacts(&job.loaded)?;
    let place = Store::open(&job.state_place(), &job.release.environment)?;
    match place.load::<Record>()? {
        Some(saved) => Ok(with_the_commit_of(job, &saved.record)),
        None => Ok(job),
    }
}

/// The same for whoever approves a step, ends a bake or accepts a release: the artifacts need not be here.
///
/// Errors: those of [`Job::open_without_artifacts`]; a variable that the state keeps no value of is not set (2).
pub fn go_on_elsewhere(call: Call) -> Result<Job, Fault> {
    match Scene::of(call.clone()) {
        Ok(scene) if scene.record.is_some() && !scene.is_whole() => scene.forward(),
        // Where the state cannot be read, the plan says first what is wrong with it.
        _ => Job::open_without_artifacts(call),
    }
}

/// The same for whoever approves a step: where the state is not here, by the document of the promotion.
///
/// Errors: those of [`go_on_elsewhere`].
pub fn approve_anywhere(call: Call) -> Result<Job, Fault> {
    match Scene::of(call.clone()) {
        Ok(scene) if scene.record.is_none() => judge(call),
        _ => go_on_elsewhere(call),
    }
}

/// The commit is told by a CI system; whoever goes on elsewhere goes on with the same.
fn with_the_commit_of(job: Job, record: &Record) -> Job {
    let same = Release { commit: record.release.commit.clone(), ..job.release.clone() };
    if job.release.commit.is_none() && same == record.release { Job { release: same, ..job } } else { job }
}

/// Opens a call that begins a promotion, or goes on with the one that is under way where the plan's variables are
/// not set to begin any: such a job never begins.
///
/// Errors: those of [`Job::open`].
pub fn begin_or_go_on(call: Call) -> Result<Job, Fault> {
    let under_way = |r: &Record| !r.state.finished() && !r.state.serves();
    // Where that cannot be told the plan says what is wrong.
    let record = Scene::of(call.clone()).ok().and_then(|scene| scene.record).filter(under_way);
    let Some(record) = record else { return Job::open(call) };
    let whole = Sketch::read(&call.plan, &call.set)?.is_whole(&PlanVariables::new(call.set.clone()));
    if whole || record.kept.is_none() {
        return Job::open(call).map(|job| with_the_commit_of(job, &record));
    }
    let job = go_on(call)?;
    let name = name_release(&record.release);
    let line = format!("not every variable of the plan is set: goes on with {name}, which is under way");
    job.talk().line(Mark::Step, &line);
    Ok(job)
}

impl Scene {
    fn forward(&self) -> Result<Job, Fault> {
        let sketch = self.sketch.as_ref().map_err(Clone::clone)?;
        let variables = self.variables(false);
        let loaded = sketch
            .part(Part::Promote, &self.environment, Some(self.known()), variables)
            .map_err(|fault| self.with_secrets_named(fault))?;
        Job::of(self.call(), loaded)
    }

    /// Says why the state has no value of a variable that is missing.
    fn with_secrets_named(&self, fault: Fault) -> Fault {
        let secret: Vec<&str> = self.kept().map_or_else(Vec::new, |kept| {
            let missing = |name: &&String| {
                fault
                    .cause
                    .as_deref()
                    .is_some_and(|cause| cause.contains(&format!("the variable `{name}` is not set")))
            };
            kept.secret.iter().filter(missing).map(String::as_str).collect()
        });
        match secret.first() {
            Some(name) => fault.help(format!(
                "set {name} and run it again: it is secret, so the state keeps its name alone"
            )),
            None => fault,
        }
    }
}

/// Opens a call that reaches verdicts again: it needs what judges, and no address.
///
/// Errors (2): what judges does not validate, or a variable that it needs is not set and nowhere kept.
pub fn judge(call: Call) -> Result<Job, Fault> {
    let sketch = Sketch::read(&call.plan, &call.set)?;
    if sketch.is_whole(&PlanVariables::new(call.set.clone())) {
        return Job::open_without_artifacts(call);
    }
    let found = evidence::read::<PromoteBody>(&call.evidence, call.trust.as_ref()).ok();
    let release = found.as_ref().and_then(|found| found.document.head.release.as_ref());
    let scene = Scene::of(call.clone()).ok();
    // The values of another promotion, or of another plan, would judge something else.
    let kept = scene.as_ref().and_then(|scene| scene.record.as_ref()).filter(|record| {
        record.plan.sha256 == sketch.reference().sha256
            && Some(&record.release.version) == release.map(|r| &r.version)
    });
    let now = PlanVariables::new(call.set.clone());
    let variables = match kept.and_then(|record| record.kept.as_ref()) {
        Some(kept) => now.keeping(kept, false),
        None => now,
    };
    let environment = job::choose_environment(
        &sketch.environments(),
        call.environment.as_deref(),
        &sketch.reference().path,
    )?;
    let known = release.map(|r| Known { service: Some(&r.service), version: &r.version });
    let loaded: Loaded = sketch.part(Part::Judging, &environment, known, variables)?;
    Job::of(Call { environment: Some(environment), ..call }, loaded)
}
