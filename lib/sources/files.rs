//! `files`: a file or a folder with everything in it.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Extra, Keep, Kind, Meta, Order, Source, stop_if_asked};
use crate::fault::Fault;
use crate::units::show_duration;
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "files",
    about: "A file, or a folder with everything in it: contents, modes, modification times, symbolic links as links. \
            Owners, access lists and extended attributes are not kept.",
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
    /// Only what matches one of these; everything when empty.
    #[serde(default)]
    include: Vec<String>,
    /// Never what matches one of these; a folder is left out with all that is in it.
    #[serde(default)]
    exclude: Vec<String>,
    /// Whether a target without a single file is fine.
    #[serde(default)]
    allow_empty: bool,
}

struct Files {
    name: String,
    target: PathBuf,
    include: Option<GlobSet>,
    exclude: GlobSet,
    allow_empty: bool,
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
        allow_empty: settings.allow_empty,
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
        let store = fs::metadata(context.store).ok().map(|m| (m.dev(), m.ino()));
        let mut walk =
            Walk { files: self, store, skipped: false, kept: 0, until: Instant::now() + self.timeout };
        // The target itself may be a link (`current -> releases/5`): what it names is meant.
        let meta = fs::metadata(&self.target).map_err(|e| self.unreadable(&self.target, &e))?;
        if meta.is_dir() {
            keep.folder(b"", meta_of(&meta))?;
            walk.folder(&self.target, Path::new(""), keep)?;
        } else {
            let name = self.target.file_name().unwrap_or(OsStr::new("file"));
            let resolved = fs::canonicalize(&self.target).map_err(|e| self.unreadable(&self.target, &e))?;
            walk.file(&resolved, Path::new(name), &meta, keep)?;
        }
        if walk.kept == 0 && !self.allow_empty {
            return Err(Fault::infrastructure(format!("source `{}` has not a single file", self.name))
                .place(self.target.display().to_string())
                .help("correct `target`, `include` and `exclude`, or say `allow_empty: true`"));
        }
        let details =
            if walk.skipped { json!({"left_out": "the snapshot store itself"}) } else { json!(null) };
        Ok(Extra { tables: Vec::new(), details })
    }
}

impl Files {
    fn unreadable(&self, path: &Path, error: &io::Error) -> Fault {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "give the job's user the right to read it, or leave it out with `exclude`"
            }
            io::ErrorKind::NotFound => "correct `target`, or make sure that nothing removes files meanwhile",
            _ => "look at the cause, or leave it out with `exclude`",
        };
        Fault::infrastructure(format!("source `{}`: a file cannot be read", self.name))
            .place(path.display().to_string())
            .cause(error)
            .help(help)
    }

    fn changed(&self, path: &Path) -> Fault {
        Fault::infrastructure(format!("source `{}`: a file changed while it was read", self.name))
            .place(path.display().to_string())
            .help("stop what writes to it, or back it up with `kind: command` and a tool that gives a whole copy")
    }
}

struct Walk<'a> {
    files: &'a Files,
    store: Option<(u64, u64)>,
    skipped: bool,
    kept: u64,
    until: Instant,
}

impl Walk<'_> {
    fn folder(&mut self, at: &Path, inside: &Path, keep: &mut dyn Keep) -> Result<(), Fault> {
        let unreadable = |e: io::Error| self.files.unreadable(at, &e);
        let mut names = fs::read_dir(at)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>())
            .map_err(unreadable)?;
        names.sort();
        for name in names {
            stop_if_asked()?;
            self.in_time()?;
            let (path, inside) = (at.join(&name), inside.join(&name));
            if self.files.exclude.is_match(&inside) {
                continue;
            }
            let meta = fs::symlink_metadata(&path).map_err(|e| self.files.unreadable(&path, &e))?;
            let wanted = self.files.include.as_ref().is_none_or(|set| set.is_match(&inside));
            if meta.is_dir() {
                if Some((meta.dev(), meta.ino())) == self.store {
                    self.skipped = true;
                    continue;
                }
                // With `include`, folders that only lead to kept files come back by themselves.
                if wanted {
                    keep.folder(bytes(&inside), meta_of(&meta))?;
                }
                self.folder(&path, &inside, keep)?;
            } else if !wanted {
            } else if meta.is_symlink() {
                let to = fs::read_link(&path).map_err(|e| self.files.unreadable(&path, &e))?;
                keep.link(bytes(&inside), bytes(&to), meta_of(&meta))?;
                self.kept += 1;
            } else {
                self.file(&path, &inside, &meta, keep)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        inside: &Path,
        before: &Metadata,
        keep: &mut dyn Keep,
    ) -> Result<(), Fault> {
        let files = self.files;
        if !before.is_file() {
            return Err(Fault::infrastructure(format!(
                "source `{}`: neither file, folder nor link",
                files.name
            ))
            .place(path.display().to_string())
            .cause("sockets, pipes and devices cannot be backed up")
            .help("leave it out with `exclude`"));
        }
        let walk = &*self;
        keep.file(bytes(inside), meta_of(before), &mut |sink| {
            // Never through a link, and never waiting for a pipe, that took the file's place meanwhile.
            let mut file = OpenOptions::new()
                .read(true)
                .custom_flags(nofollow_nonblock())
                .open(path)
                .map_err(|e| files.unreadable(path, &e))?;
            if !same(before, &metadata(&file, files, path)?) {
                return Err(files.changed(path));
            }
            let mut buffer = vec![0_u8; 256 * 1024];
            let mut left = before.len();
            loop {
                stop_if_asked()?;
                walk.in_time()?;
                let read = file.read(&mut buffer).map_err(|e| files.unreadable(path, &e))?;
                if read == 0 {
                    break;
                }
                left = left.checked_sub(read as u64).ok_or_else(|| files.changed(path))?;
                sink.write_all(&buffer[..read])
                    .map_err(|e| Fault::infrastructure("the store refused").cause(e))?;
            }
            if left != 0 || !same(before, &metadata(&file, files, path)?) {
                return Err(files.changed(path));
            }
            Ok(())
        })?;
        self.kept += 1;
        Ok(())
    }

    fn in_time(&self) -> Result<(), Fault> {
        if Instant::now() < self.until {
            return Ok(());
        }
        Err(Fault::infrastructure(format!(
            "source `{}` did not end within {}",
            self.files.name,
            show_duration(self.files.timeout.as_secs_f64())
        ))
        .help("give it more time with `timeout`"))
    }
}

fn metadata(file: &File, files: &Files, path: &Path) -> Result<Metadata, Fault> {
    file.metadata().map_err(|e| files.unreadable(path, &e))
}

fn nofollow_nonblock() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    flags.bits().cast_signed()
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    let key =
        |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    key(a) == key(b)
}

fn meta_of(meta: &Metadata) -> Meta {
    Meta { mode: meta.mode() & 0o7777, mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)) }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
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
}
