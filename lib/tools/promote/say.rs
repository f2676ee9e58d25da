//! The commands that people are told to run: whole, quoted for a shell, and the same from any folder.

use std::path::{Path, PathBuf};

use super::record::Record;
use crate::job::{Call, Job};
use crate::plan::folder_of;
use crate::redact;
use crate::renderers::escape::shell_word;
use crate::world;

/// `promote VERB …` as it can be run from any folder of this machine, in a shell without any variable.
pub(in crate::tools) fn command(job: &Job, verb: &str) -> String {
    let call = &job.call;
    let state = call.state.as_deref().map(in_any_folder);
    let key = |path: &Option<PathBuf>| path.as_deref().map(in_any_folder);
    let text = line(
        verb,
        &Flags {
            plan: in_any_folder(&call.plan),
            environment: job.release.environment.clone(),
            state,
            evidence: writes(verb).then(|| in_any_folder(&call.evidence)),
            trust: writes(verb).then(|| key(&call.keys.trust)).flatten(),
            sign_key: writes(verb).then(|| key(&call.keys.sign)).flatten(),
        },
    );
    as_shown(&text)
}

/// Names and paths of a call are open where they are ordinary words: a command can be run whatever somebody's password is.
fn as_shown(text: &str) -> String {
    redact::learn_ordinary(text);
    redact::say_command(text)
}

/// The same with a reason to be filled in.
pub(in crate::tools) fn command_with_reason(job: &Job, verb: &str) -> String {
    format!("{} --reason '…'", command(job, verb))
}

/// `promote VERB …` as it is run in the folder that the promotion was begun in: for documents, which travel.
pub(super) fn command_of(record: &Record, verb: &str) -> String {
    let more: Vec<&String> = match &record.kept_flags {
        Some(flags) if writes(verb) => flags.state.iter().chain(&flags.writes).collect(),
        Some(flags) => flags.state.iter().collect(),
        None => Vec::new(),
    };
    let mut text = format!(
        "promote {verb} --plan {} --environment {}",
        shell_word(&record.plan.path),
        shell_word(&record.release.environment)
    );
    for word in more {
        text.push(' ');
        text.push_str(&shell_word(word));
    }
    as_shown(&text)
}

/// Where and by which flags the call was made that began a promotion, where they are not the usual ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct KeptFlags {
    /// The place of the state.
    #[serde(default)]
    pub state: Vec<String>,
    /// The evidence and the keys, for those that write a document.
    #[serde(default)]
    pub writes: Vec<String>,
    /// The plan's folder, whole: what is relative in the plan starts from there.
    #[serde(default)]
    pub folder: PathBuf,
    /// The machine that it is on.
    #[serde(default)]
    pub host: String,
}

impl KeptFlags {
    /// Those of a call.
    pub(super) fn of(call: &Call) -> Self {
        let flag = |name: &str, path: &Path| [name.to_owned(), path.display().to_string()];
        let mut writes = Vec::new();
        if call.evidence != Path::new("evidence") {
            writes.extend(flag("--evidence", &call.evidence));
        }
        for (name, path) in [("--trust", &call.keys.trust), ("--sign-key", &call.keys.sign)] {
            writes.extend(path.iter().flat_map(|path| flag(name, path)));
        }
        let state = call.state.iter().flat_map(|place| flag("--state", place)).collect();
        let folder = whole(&folder_of(&call.plan));
        Self { state, writes, folder, host: world::host_name() }
    }
}

/// Whether a command writes a document.
fn writes(verb: &str) -> bool {
    !matches!(verb, "status" | "pause" | "resume")
}

struct Flags {
    plan: String,
    environment: String,
    state: Option<String>,
    evidence: Option<String>,
    trust: Option<String>,
    sign_key: Option<String>,
}

fn line(verb: &str, flags: &Flags) -> String {
    let mut text = format!("promote {verb}");
    let all = [
        ("--plan", Some(&flags.plan)),
        ("--environment", Some(&flags.environment)),
        ("--state", flags.state.as_ref()),
        ("--evidence", flags.evidence.as_ref()),
        ("--trust", flags.trust.as_ref()),
        ("--sign-key", flags.sign_key.as_ref()),
    ];
    for (name, value) in all {
        if let Some(value) = value {
            text.push_str(&format!(" {name} {}", shell_word(value)));
        }
    }
    text
}

/// A path that means the same from any folder.
pub(super) fn whole(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    // `/srv/shop/.` is the same folder.
    whole.components().collect()
}

/// The same for a command; an address stays as it is.
fn in_any_folder(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown.contains("://") {
        return shown;
    }
    whole(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_what_it_needs_and_no_more() {
        let flags = |evidence: bool| Flags {
            plan: "/srv/my shop/release.yaml".into(),
            environment: "production".into(),
            state: Some("s3://releases/shop".into()),
            evidence: evidence.then(|| "/srv/e'1".to_owned()),
            trust: None,
            sign_key: None,
        };
        let status = "promote status --plan '/srv/my shop/release.yaml' --environment production --state s3://releases/shop";
        assert_eq!(line("status", &flags(writes("status"))), status);
        assert!(line("abort", &flags(writes("abort"))).ends_with(r"--evidence '/srv/e'\''1'"));
    }

    #[test]
    fn addresses_stay_and_paths_become_whole() {
        assert_eq!(in_any_folder(Path::new("s3://a/b")), "s3://a/b");
        assert_eq!(in_any_folder(Path::new("/a/b")), "/a/b");
        assert!(in_any_folder(Path::new("b")).starts_with('/'));
    }
}
