//! `preflight`: may we? Runs the plan's checks and writes preflight.json.

use std::io::Write;
use std::path::Path;

use crate::checks::{self, PARALLEL};
use crate::evidence::{Counts, DocumentVerdict, PreflightBody, Verdict, verdict_of};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::world::signal;
use crate::world::talk::{self, Mark, Talk};
use crate::{routers, sources};

use super::{part, promote, snapshot, tell, verify};

mod catalogue;
mod schema;

pub use catalogue::{
    Entry, Shelf, explain, explain_as_json, kinds_as_json, kinds_as_markdown, kinds_as_text, shelves,
};
pub use schema::plan_schema;

/// The annotated plan that `preflight init` writes.
pub const ANNOTATED_PLAN: &str = include_str!("../../templates/release.yaml");

/// Runs the gate: every check of the plan's `preflight`, then the document.
///
/// Errors: usage (2) when the plan has no `preflight`, or a check, source, router or trigger anywhere
/// in it does not validate;
/// infrastructure (4) when the document cannot be written.
pub fn run(job: &Job) -> Result<Exit, Fault> {
    let plan = &job.loaded.plan;
    let Some(section) = &plan.preflight else {
        return Err(Fault::usage("the plan has no `preflight`")
            .place(&job.loaded.reference.path)
            .help("add `preflight: {checks: [...]}`; `preflight init` writes an example"));
    };
    let prepared = checks::prepare(&section.checks, &job.loaded)?;
    validate_the_rest(job)?;
    job.make_room::<PreflightBody>()?;
    let parallel = plan.defaults.parallel.unwrap_or(PARALLEL);
    let talk = job.talk();
    let mut findings = checks::run(&prepared, parallel, &|finding| tell(talk, finding));
    let tried = || match section.promote {
        Some(false) => promote::not_tried(job, "`preflight.promote` is false in the plan"),
        // Whoever asked to stop waits for no router.
        _ if signal::stop_asked() => promote::not_tried(job, "asked to stop"),
        _ => promote::try_all(job),
    };
    let tried =
        part("way to promote", "promote", || tried().into_iter().map(|tried| tried.finding).collect());
    for finding in tried {
        tell(talk, &finding);
        findings.push(finding);
    }
    let counts = Counts::of(&findings);
    let looked = findings.iter().any(|finding| finding.verdict != Verdict::Skipped);
    let verdict = if looked { verdict_of(&findings) } else { DocumentVerdict::Undecided };
    let summary = if looked { counts.sentence() } else { "no checks, nothing was looked at".into() };
    let exit = job.conclude(Conclusion {
        needs: Vec::new(),
        verdict,
        summary: summary.clone(),
        findings,
        body: PreflightBody { counts },
        outputs: Vec::new(),
    })?;
    let mark = if exit == Exit::Pass { Mark::Good } else { Mark::Bad };
    talk.line(mark, &format!("preflight: {}: {summary}", verdict.word()));
    Ok(exit)
}

/// What the later tools would find wrong in the plan, found before anything was backed up or moved.
/// Touches nothing.
fn validate_the_rest(job: &Job) -> Result<(), Fault> {
    let plan = &job.loaded.plan;
    for spec in plan.snapshot.iter().flat_map(|section| &section.sources) {
        let order = sources::Order { spec, loaded: &job.loaded };
        sources::prepare(&order).map_err(|problem| job.loaded.fault(problem))?;
    }
    snapshot::drill::validate(job)?;
    if let Some(section) = &plan.promote {
        routers::open(&section.router, &job.loaded)?;
        checks::prepare(&section.preview, &job.loaded)?;
        promote::judged(section, &job.loaded)?;
        promote::sides_apart(&section.sides, &job.loaded)?;
    }
    if let Some(section) = &plan.verify {
        checks::prepare(&section.checks, &job.loaded)?;
        verify::metrics::validate(&section.metrics, &job.loaded)?;
    }
    Ok(())
}

/// Writes the annotated plan; never over a file that is there.
///
/// Errors: refused (5) when there is a file; infrastructure (4) when it cannot be written.
pub fn init(path: &Path, talk: &Talk) -> Result<Exit, Fault> {
    let place = path.display().to_string();
    let opened = crate::bounds::fresh(path, 0o666);
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::refused("there is a plan already")
            .place(&place)
            .help("name another file with --plan FILE, or move this one away"),
        _ => crate::world::files::unwritable(path, &error),
    })?;
    file.write_all(ANNOTATED_PLAN.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| crate::world::files::unwritable(path, &error))?;
    talk.line(Mark::Good, &format!("wrote {place}: read it, change it, then run `preflight`"));
    Ok(Exit::Pass)
}

/// Gives a text to stdout.
///
/// Errors (4): stdout is closed.
pub fn print(text: &str) -> Result<Exit, Fault> {
    talk::own(text).map_err(|error| Fault::infrastructure("stdout cannot be written").cause(error))?;
    Ok(Exit::Pass)
}

/// Gives JSON to stdout.
///
/// Errors (4): stdout is closed.
pub fn print_json(value: &serde_json::Value) -> Result<Exit, Fault> {
    talk::json(format!("{value:#}\n").as_bytes())
        .map_err(|error| Fault::infrastructure("stdout cannot be written").cause(error))?;
    Ok(Exit::Pass)
}
