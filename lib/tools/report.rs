//! Evidence into the chosen renderers.
//!
//! `report` proves the chain, tells the release's story in every output of [`crate::renderers`], and
//! writes its own document. Its gate is open (exit 0) as soon as that is done, also for a release
//! that was rolled back: how the release ended is said by `outcome` in `report.json` and in the step
//! outputs, and the job of the tool that closed the gate is red already. A broken chain is refused (5).

use std::fmt::Write as _;
use std::path::Path;

use crate::caught::caught;
use crate::evidence::{DocumentVerdict, Finding, Output, ReportBody, Verdict, sha256_hex};
use crate::fault::{Exit, Fault};
use crate::job::{Conclusion, Job};
use crate::renderers::{self, Missing, Story, Templates};
use crate::severity::Severity;
use crate::world::talk::Mark;
use crate::world::{self, ci, files};

mod chain;
pub mod schemas;

/// The largest template that is read, in bytes.
const MAX_TEMPLATE: u64 = 1024 * 1024;

/// Proves the chain and renders every output into the evidence folder.
///
/// `templates` is a folder whose files replace the templates of the same name.
/// Errors: refused (5) when a link of the chain is broken, naming it; usage (2) when a template is.
pub fn render(job: &Job, templates: Option<&Path>) -> Result<Exit, Fault> {
    let (templates, unknown) = read_templates(templates)?;
    for name in &unknown {
        job.talk().line(Mark::Warn, &unknown_template(name));
    }
    // What cannot be proven now must not be told by pages of an earlier report.
    let evidence = chain::read(job).inspect_err(|_| job.put_pages_aside())?;
    let links = evidence.links(job).inspect_err(|_| job.put_pages_aside())?;
    let needs = evidence.needs();
    let absent = evidence.missing(job);
    let missing = evidence.without_samples(job);
    if let Some(why) = &missing {
        job.talk().line(Mark::Warn, why);
    }
    job.begin_run::<ReportBody>()?;
    let story = Story::of(evidence.documents(job))?;
    // Everything is rendered before anything is written: a broken template leaves no half report.
    let (mut rendered, mut broken) = (Vec::new(), Vec::new());
    for kind in renderers::ALL {
        match caught(|| (kind.render)(&story, &templates)) {
            Ok(bytes) => rendered.push((*kind, bytes?)),
            Err(why) => {
                // An older one of that name would be taken for it.
                let _ = std::fs::remove_file(job.evidence().join(kind.file));
                broken.push((kind.file, why));
            }
        }
    }
    job.is_the_last::<ReportBody>()?;
    let mut outputs = Vec::new();
    for (kind, bytes) in &rendered {
        let path = job.evidence().join(kind.file);
        files::write_atomic(&path, bytes).map_err(|e| files::unwritable(&path, &e))?;
        job.talk().line(Mark::Good, &format!("{} ({} bytes)", path.display(), bytes.len()));
        outputs.push(Output { path: kind.file.into(), sha256: sha256_hex(bytes), bytes: bytes.len() as u64 });
        if kind.name == "summary" {
            step_summary(job, bytes);
        }
    }
    say_outcome(job, &story);
    let headline = story.headline().to_owned();
    let page = job.evidence().join("report.html").display().to_string();
    job.conclude(Conclusion {
        needs,
        verdict: if broken.is_empty() { DocumentVerdict::Pass } else { DocumentVerdict::Error },
        summary: headline.clone(),
        findings: findings(&links, &unknown, missing.as_deref(), &absent, &broken),
        body: ReportBody { outcome: story.outcome().into(), headline, outputs },
        outputs: vec![("outcome", story.outcome().into()), ("report", page)],
    })
}

/// Proves the chain and prints each link to stdout, as a list or, with `--json`, as JSON.
///
/// Errors: refused (5) when a link is broken, naming it; the links before it are printed.
pub fn check(job: &Job) -> Result<Exit, Fault> {
    let evidence = chain::read(job)?;
    let (links, broken) = evidence.prove(job);
    let printed = if job.call.json {
        let mut text = serde_json::to_string_pretty(&links)
            .map_err(|e| Fault::infrastructure("the links cannot be written").cause(e))?;
        text.push('\n');
        world::talk::json(text.as_bytes())
    } else {
        world::talk::text(&links.iter().fold(String::new(), |mut text, link| {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "{link}");
            text
        }))
    };
    printed.map_err(|e| Fault::infrastructure("stdout cannot be written").cause(e))?;
    if let Some(fault) = broken {
        return Err(fault);
    }
    if let Some(why) = evidence.without_samples(job) {
        job.talk().line(Mark::Warn, &why);
    }
    if let Some(missing) = evidence.missing(job).into_iter().next() {
        return Err(Fault::refused(format!("the evidence `{}` is missing", missing.file))
            .place(job.evidence().display().to_string())
            .cause(missing.why)
            .help("run `verify`, and pass the whole evidence folder on between jobs"));
    }
    for (file, verdict, summary) in evidence.not_passed() {
        job.talk().line(Mark::Warn, &format!("`{file}` did not pass, its verdict is `{verdict}`: {summary}"));
    }
    for line in evidence.signers() {
        job.talk().line(Mark::Step, &line);
    }
    job.talk().line(Mark::Good, &format!("the chain holds: {} links", links.len()));
    Ok(Exit::Pass)
}

/// Writes the JSON Schema of every document into a folder.
///
/// Errors (4): a file cannot be written.
pub fn write_schemas(to: &Path) -> Result<Exit, Fault> {
    for schema in schemas::all()? {
        let path = to.join(&schema.file);
        files::write_atomic(&path, schema.text.as_bytes()).map_err(|e| files::unwritable(&path, &e))?;
    }
    Ok(Exit::Pass)
}

fn say_outcome(job: &Job, story: &Story) {
    let mark = match story.outcome() {
        "promoted" if story.reason().is_none() => Mark::Good,
        "in_progress" => Mark::Step,
        "frozen" => Mark::Warn,
        _ => Mark::Bad,
    };
    job.talk().line(mark, story.headline());
    if let Some(reason) = story.reason() {
        job.talk().line(mark, reason);
    }
}

/// A summary that cannot be shown must not cost the release its report.
fn step_summary(job: &Job, bytes: &[u8]) {
    if let Err(e) = ci::summary(&String::from_utf8_lossy(bytes)) {
        job.talk().line(Mark::Warn, &format!("the step summary cannot be written: {e}"));
    }
}

fn findings(
    links: &[chain::Link],
    unknown: &[String],
    missing: Option<&str>,
    absent: &[Missing],
    broken: &[(&str, String)],
) -> Vec<Finding> {
    let now = world::now();
    let proven = links.iter().map(|link| {
        let mut finding = Finding::new(link.name(), "chain", Verdict::Pass, now).says(link.to_string());
        finding.observed = Some(link.sha256.clone());
        finding
    });
    let warnings = unknown.iter().map(|name| {
        let mut finding = Finding::new(format!("template {name}"), "template", Verdict::Fail, now)
            .says(unknown_template(name));
        finding.severity = Severity::Warning;
        finding
    });
    let samples = missing.map(|why| {
        let mut finding = Finding::new("samples", "chain", Verdict::NoData, now).says(why);
        finding.severity = Severity::Warning;
        finding
    });
    let broken =
        broken.iter().map(|(file, why)| Finding::new(*file, "renderer", Verdict::Error, now).says(why));
    let absent = absent.iter().map(|missing| {
        let mut finding = Finding::new(&missing.file, "chain", Verdict::NoData, now).says(&missing.why);
        finding.severity = Severity::Warning;
        finding
    });
    proven.chain(warnings).chain(samples).chain(absent).chain(broken).collect()
}

fn unknown_template(name: &str) -> String {
    let known = Templates::names().join(", ");
    format!("the template `{name}` is not known and was not used; known are {known}")
}

/// The user's templates over the ones that come with Trapkey, and the files that are none of them.
fn read_templates(folder: Option<&Path>) -> Result<(Templates, Vec<String>), Fault> {
    let mut templates = Templates::default();
    let mut unknown = Vec::new();
    let Some(folder) = folder else { return Ok((templates, unknown)) };
    let unreadable = |path: &Path, e: &dyn std::fmt::Display| {
        Fault::usage("the templates cannot be read")
            .place(path.display().to_string())
            .cause(e)
            .help(format!("--templates wants a folder with files named {}", Templates::names().join(", ")))
    };
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect::<std::io::Result<_>>())
        .map_err(|e| unreadable(folder, &e))?;
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let name = name.to_string_lossy().into_owned();
        if !Templates::names().contains(&name.as_str()) {
            unknown.push(name);
            continue;
        }
        let text = crate::bounds::text(&path, MAX_TEMPLATE).map_err(|e| unreadable(&path, &e))?;
        templates.replace(&name, text, &path.display().to_string());
    }
    Ok((templates, unknown))
}
