//! `files`: a file or a folder with everything in it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::{fs, io};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Extra, Keep, Kind, Live, Nature, Order, Source, Terms, Wanted};
use crate::bounds;
use crate::fault::Fault;
use crate::yaml::Problem;

/// No `.gitignore` that people write is longer.
const LONGEST_RULES: u64 = 1024 * 1024;

pub(super) static KIND: Kind = Kind {
    name: "files",
    about: "A file, or a folder with everything in it: contents, modes, owners, modification times, links, hard \
            links, extended attributes and access lists, holes. Sockets are left out.",
    target: "the file or folder, relative to the plan",
    example: "{name: config, kind: files, target: deploy/, with: {exclude: [\"*.log\", cache/]}}",
    settings: super::schema::<Settings>,
    prepare,
};

/// Settings of `files`.
///
/// A pattern without `/` is compared with the name at any depth, one with `/` with the path below the
/// target; `*` stays within one step, `**` crosses them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Only what matches one of these, a folder with all that is in it; everything when empty.
    #[serde(default)]
    include: Vec<String>,
    /// Never what matches one of these; a folder is left out with all that is in it.
    #[serde(default)]
    exclude: Vec<String>,
    /// Whether what the files `.gitignore` in the folder name is left out too.
    #[serde(default)]
    gitignore: bool,
    /// Whether a target without a single file is fine.
    #[serde(default)]
    allow_empty: bool,
    /// Whether a file that changes while it is read is kept as it was read, and noted; otherwise there
    /// is no snapshot.
    #[serde(default)]
    allow_changes: bool,
}

struct Files {
    name: String,
    target: PathBuf,
    include: Option<GlobSet>,
    exclude: GlobSet,
    gitignore: bool,
    allow_empty: bool,
    allow_changes: bool,
    timeout: std::time::Duration,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let target = target.one().map_err(|m| order.problem(m))?;
    if target.value.is_empty() {
        return Err(order.problem("`target` is empty"));
    }
    let set = |patterns: &[String]| patterns_of(patterns).map_err(|e| order.problem(e));
    Ok(Box::new(Files {
        name: order.spec.name.clone(),
        target: order.loaded.at(&target.value),
        include: if settings.include.is_empty() { None } else { Some(set(&settings.include)?) },
        exclude: set(&settings.exclude)?,
        gitignore: settings.gitignore,
        allow_empty: settings.allow_empty,
        allow_changes: settings.allow_changes,
        timeout: order.timeout(),
    }))
}

fn patterns_of(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.strip_prefix("./").unwrap_or(pattern).trim_end_matches('/');
        let anywhere = if pattern.contains('/') { pattern.to_owned() } else { format!("**/{pattern}") };
        set.add(GlobBuilder::new(anywhere.trim_start_matches('/')).literal_separator(true).build()?);
    }
    set.build()
}

impl Source for Files {
    fn back_up(&self, context: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        // The target itself may be a link (`current -> releases/5`): what it names is meant.
        let target = fs::canonicalize(&self.target).map_err(|e| self.unreadable(&e))?;
        let is_folder = fs::metadata(&target).map_err(|e| self.unreadable(&e))?.is_dir();
        // Whoever comes back looks for the name that the plan has.
        let name = if is_folder { OsStr::new("") } else { self.target.file_name().unwrap_or_default() };
        let store = context.store.and_then(|store| fs::canonicalize(store).ok());
        let store_is_here = store.as_deref() == Some(&target);
        if store_is_here {
            return Err(Fault::usage(format!("source `{}` is the snapshot store itself", self.name))
                .place(self.target.display().to_string())
                .help("correct `target`, or keep the store elsewhere"));
        }
        let ignored = self.gitignore.then(|| Ignored::new(&target));
        let skipped = AtomicBool::new(false);
        let choice = |inside: &Path, folder: bool| {
            if store.as_deref().is_some_and(|store| store == target.join(inside)) {
                skipped.store(true, Ordering::Relaxed);
                return Wanted::No;
            }
            self.choose(inside, folder, ignored.as_ref())
        };
        let terms = Terms { allow_changes: self.allow_changes, until: Instant::now() + self.timeout };
        let kept = keep.tree(name.as_bytes(), &target, &choice, terms)?;
        if kept.entries == 0 && !self.allow_empty {
            return Err(Fault::infrastructure(format!("source `{}` has not a single file", self.name))
                .place(self.target.display().to_string())
                .help("correct `target`, `include` and `exclude`, or say `allow_empty: true`"));
        }
        let mut details = json!({});
        if !is_folder {
            // A restore in place must know a file from a folder that is no longer there.
            details["single_file"] = json!(name.to_string_lossy());
        }
        if skipped.into_inner() {
            details["left_out"] = json!("the snapshot store itself");
        }
        if kept.sockets > 0 {
            details["sockets_left_out"] = json!(kept.sockets);
        }
        let details = if details.as_object().is_some_and(serde_json::Map::is_empty) {
            serde_json::Value::Null
        } else {
            details
        };
        Ok(Extra { tables: Vec::new(), details })
    }

    fn nature(&self) -> Nature<'_> {
        let path = fs::canonicalize(&self.target)
            .or_else(|_| std::path::absolute(&self.target))
            .unwrap_or_else(|_| self.target.clone());
        let ignored = self.gitignore.then(|| Ignored::new(&path));
        let choice =
            Box::new(move |inside: &Path, folder: bool| self.choose(inside, folder, ignored.as_ref()));
        Nature::Files(Live { path, choice })
    }
}

impl Files {
    fn choose(&self, inside: &Path, folder: bool, ignored: Option<&Ignored>) -> Wanted {
        if inside.as_os_str().is_empty() {
            return Wanted::Yes;
        }
        if self.exclude.is_match(inside) || ignored.is_some_and(|ignored| ignored.has(inside, folder)) {
            return Wanted::No;
        }
        match &self.include {
            // A folder that is wanted is wanted with all that is in it.
            Some(set) if !inside.ancestors().any(|path| set.is_match(path)) => {
                // Folders that only lead to what is kept come with it.
                if folder { Wanted::IfUsed } else { Wanted::No }
            }
            _ => Wanted::Yes,
        }
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => "give the job's user the right to read it",
            io::ErrorKind::NotFound => "correct `target`",
            _ => "look at the cause",
        };
        Fault::infrastructure(format!("source `{}` cannot be read", self.name))
            .place(self.target.display().to_string())
            .cause(error)
            .help(help)
    }
}

/// The files `.gitignore` in a folder and those below it, each read when the walk comes to it.
struct Ignored {
    root: PathBuf,
    known: Mutex<HashMap<PathBuf, Option<Arc<Gitignore>>>>,
}

impl Ignored {
    fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), known: Mutex::default() }
    }

    /// Whether git would pass this over; the nearest file that says something has the last word.
    fn has(&self, inside: &Path, folder: bool) -> bool {
        let path = self.root.join(inside);
        for above in inside.ancestors().skip(1) {
            let Some(rules) = self.rules(above) else { continue };
            let said = rules.matched(&path, folder);
            if !said.is_none() {
                return said.is_ignore();
            }
        }
        false
    }

    fn rules(&self, folder: &Path) -> Option<Arc<Gitignore>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = known.get(folder) {
            return rules.clone();
        }
        let at = self.root.join(folder);
        let file = at.join(".gitignore");
        // Without one that can be read more is kept, not less.
        let rules = bounds::whole(&file, LONGEST_RULES).ok().and_then(|bytes| {
            let mut builder = GitignoreBuilder::new(&at);
            let text = String::from_utf8_lossy(&bytes);
            for line in text.trim_start_matches('\u{feff}').lines() {
                // A line that is no pattern is passed over, as git does it.
                let _ = builder.add_line(Some(file.clone()), line);
            }
            builder.build().ok().map(Arc::new)
        });
        known.insert(folder.to_path_buf(), rules.clone());
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_people_expect() {
        let set =
            patterns_of(&["*.log".into(), "cache/".into(), "/etc/*.conf".into(), "a/**".into()]).unwrap();
        for yes in ["x.log", "deep/er/x.log", "cache", "deep/cache", "etc/x.conf", "a/b/c"] {
            assert!(set.is_match(yes), "{yes}");
        }
        for no in ["x.log.gz", "cached", "etc/deep/x.conf", "b/etc/x.conf", "a"] {
            assert!(!set.is_match(no), "{no}");
        }
        assert!(patterns_of(&["[".into()]).is_err());
    }

    #[test]
    fn the_nearest_gitignore_has_the_last_word() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("sub/deep")).unwrap();
        fs::write(folder.path().join(".gitignore"), "*.log\n/target/\n!keep.log\n").unwrap();
        fs::write(folder.path().join("sub/.gitignore"), "!wanted.log\nsecret\n").unwrap();
        let ignored = Ignored::new(folder.path());
        let has = |path: &str, folder: bool| ignored.has(Path::new(path), folder);
        assert!(has("a.log", false) && has("sub/deep/a.log", false) && has("target", true));
        assert!(has("sub/secret", false) && has("sub/deep/secret", true));
        for kept in ["keep.log", "sub/wanted.log", "sub/deep/wanted.log", "secret", "sub/target", "target"] {
            assert!(!has(kept, false), "{kept}");
        }
    }
}
