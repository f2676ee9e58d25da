//! One database out of a snapshot into a live one that is named.

use std::time::Instant;

use serde_json::json;

use super::{Stored, Wish, chosen};
use crate::evidence::short;
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::plan::SourceSpec;
use crate::redact::{self, redact};
use crate::sources::{self, Source};
use crate::tools::snapshot::inside::{Inside, Part};
use crate::tools::snapshot::store::Place;
use crate::tools::snapshot::{section, to_stdout};
use crate::units::{Text, show_duration};
use crate::world::talk::Mark;

/// Brings one source into a database that `--into` or `--into-env` names.
///
/// Errors: 2 for a source that the plan or the snapshot does not have, or that is no database, and for a
/// URL with a password in the arguments; 5 for a database that holds something; 4 when the restore fails.
pub fn into(job: &Job, place: &Place, wish: &Wish) -> Result<Exit, Fault> {
    let started = Instant::now();
    let target = named(wish)?;
    let [name] = &wish.sources[..] else {
        return Err(Fault::usage("which source is to go into the database is not said")
            .help("name exactly one with --source"));
    };
    let repository = place.open()?;
    let opened = repository.read(chosen(&repository, &wish.id, Some(job))?)?;
    let inside = inside_of(Inside::of(&opened)?)?;
    let part = inside.part(name)?;
    let (_, source) = planned(job, part)?;
    let ticker = job.talk().ticker();
    ticker.set(&format!("{name}: restoring"));
    let said = source.restore_into(&target, wish.force, &Stored { name, opened: &opened }, &part.tables)?;
    drop(ticker);
    let id = opened.id().to_string();
    if job.call.json {
        to_stdout(&json!({
            "store": place.shown, "id": id,
            "sources": [{"name": name, "kind": part.kind, "target": redact(&target.shown), "done": said}],
        }))?;
    }
    let took = show_duration(started.elapsed().as_secs_f64());
    job.talk().line(Mark::Good, &format!("{name} of {}: {said}, in {took}", short(&id)));
    Ok(Exit::Pass)
}

/// The database that the flags name; a password in an argument can be seen by every user of the machine.
fn named(wish: &Wish) -> Result<Text, Fault> {
    if let Some(variable) = &wish.goal.into_env {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
            Fault::usage(format!("the variable `{variable}` of --into-env is not set"))
                .help("give the name of an environment variable that holds the URL, not the URL")
        })?;
        redact::learn_variable(variable, &value);
        return Ok(Text { value, shown: format!("${{{variable}}}") });
    }
    let text = wish.goal.into.clone().unwrap_or_default();
    let shown = redact(&text);
    if shown != text {
        return Err(Fault::usage(
            "the URL of --into holds a password, which every user of the machine can read",
        )
        .place(shown)
        .cause("arguments are in the list of processes and in the shell's history")
        .help("put the URL into an environment variable and name it: --into-env DATABASE_URL"));
    }
    if text.is_empty() {
        return Err(Fault::usage("--into is empty").help("name the database's URL, or a path"));
    }
    Ok(Text::from(text))
}

/// Only a snapshot of ours says what its parts are.
pub(in crate::tools::snapshot) fn inside_of(inside: Option<Inside>) -> Result<Inside, Fault> {
    inside.ok_or_else(|| {
        Fault::usage("the snapshot was made by another program, and does not say what is in it")
            .help("restore it into a folder with --to, and bring it into place by hand")
    })
}

/// The plan's source of the same name, ready.
///
/// Errors (2): the plan has none, or one of another kind.
pub(in crate::tools::snapshot) fn planned<'a>(
    job: &'a Job,
    part: &Part,
) -> Result<(&'a SourceSpec, Box<dyn Source>), Fault> {
    let name = &part.name;
    let specs = &section(job)?.sources;
    let spec = specs.iter().find(|spec| spec.name == *name).ok_or_else(|| {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        Fault::usage(format!("the plan has no source `{name}`, which the snapshot has"))
            .place(&job.loaded.reference.path)
            .help(format!(
                "it has {}; choose with --source, or restore into a folder with --to",
                names.join(", ")
            ))
    })?;
    if spec.kind != part.kind {
        return Err(Fault::usage(format!(
            "the source `{name}` is of kind `{}` in the plan, and of `{}` in the snapshot",
            spec.kind, part.kind
        ))
        .place(&job.loaded.reference.path)
        .help("restore it into a folder with --to, and bring it into place by hand"));
    }
    let order = sources::Order { spec, loaded: &job.loaded };
    let source = sources::prepare(&order).map_err(|problem| job.loaded.fault(problem))?;
    Ok((spec, source))
}
