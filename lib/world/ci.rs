//! The CI system around us: who runs this, where step outputs go, how a line becomes an annotation.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::talk;
use crate::bounds;
use crate::evidence::Ci;
use crate::plain::{self, harmless_line};
use crate::redact::redact;
use crate::units::listed;

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The CI job that we run in, where there is one.
pub fn job() -> Option<Ci> {
    let (provider, url, actor) = if var("GITHUB_ACTIONS").is_some() {
        let url = var("GITHUB_SERVER_URL")
            .zip(var("GITHUB_REPOSITORY"))
            .zip(var("GITHUB_RUN_ID"))
            .map(|((server, repository), run)| format!("{server}/{repository}/actions/runs/{run}"));
        ("github", url, var("GITHUB_ACTOR"))
    } else if var("GITLAB_CI").is_some() {
        ("gitlab", var("CI_JOB_URL"), var("GITLAB_USER_LOGIN"))
    } else if var("JENKINS_URL").is_some() {
        ("jenkins", var("BUILD_URL"), var("BUILD_USER_ID"))
    } else if var("CI").is_some() {
        ("generic", None, None)
    } else {
        return None;
    };
    Some(Ci { provider: provider.into(), url: url.map(|u| redact(&u)), actor })
}

/// The commit that the CI job builds, where it says so.
pub fn commit() -> Option<String> {
    var("GITHUB_SHA").or_else(|| var("CI_COMMIT_SHA")).or_else(|| var("GIT_COMMIT"))
}

/// Who asks: the CI's actor, or the user of the shell.
pub fn actor() -> String {
    let found = job().and_then(|j| j.actor).or_else(|| var("USER")).or_else(|| var("LOGNAME"));
    found.unwrap_or_else(user_of_process)
}

/// The name of the user that this process runs as, or its number where it has no name.
fn user_of_process() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = super::files::read_text(Path::new("/etc/passwd")).unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {uid}"))
}

/// Where step outputs go: `GITHUB_OUTPUT`, or a dotenv file named by `TRAPKEY_OUTPUT`.
fn output_file() -> Option<PathBuf> {
    var("GITHUB_OUTPUT").or_else(|| var("TRAPKEY_OUTPUT")).map(PathBuf::from)
}

/// The step outputs that are sentences for people. All others are words, names and paths that later steps go by, and stay
/// as they are.
const SENTENCES: [&str; 1] = ["summary"];

/// Writes step outputs, `name=value`, one line each: as GitHub and GitLab's dotenv reports read them.
///
/// A value stays on its line, so that none can smuggle in a second output, and has no characters that nobody sees.
pub fn outputs(pairs: &[(&str, String)]) -> std::io::Result<()> {
    let Some(path) = output_file() else { return Ok(()) };
    bounds::open_to_tell(&path)?.write_all(lines(pairs).as_bytes())
}

fn lines(pairs: &[(&str, String)]) -> String {
    let line = |(name, value): &(&str, String)| {
        let value = if SENTENCES.contains(name) { redact(value) } else { value.clone() };
        let seen: String = value.chars().map(|c| if plain::is_unseen(c) { ' ' } else { c }).collect();
        format!("{name}={seen}\n")
    };
    pairs.iter().map(line).collect()
}

/// Appends to the step summary of GitHub, where there is one; the limit of 1 MiB is the caller's.
pub fn summary(markdown: &str) -> std::io::Result<()> {
    let Some(path) = var("GITHUB_STEP_SUMMARY") else { return Ok(()) };
    bounds::open_to_tell(Path::new(&path))?.write_all(redact(markdown).as_bytes())
}

/// How loud an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A red one.
    Error,
    /// A yellow one.
    Warning,
}

/// So many annotations of a level GitHub shows for a step; it says nothing of the others.
const SHOWN: usize = 10;
/// So many of the others are named.
const NAMED: usize = 20;

/// Where an annotation is shown: a file, and a line and a column in it where they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path of the file, as it was typed.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
}

impl Place {
    /// A file, as a whole.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { file: path.into(), line: None, column: None }
    }

    /// The file at `path`, and the line and column that a fault names behind it (`PATH:LINE:COLUMN`).
    pub fn of_fault(path: &Path, place: Option<&str>) -> Self {
        let shown = path.display().to_string();
        // What stands there is shown in the lines below it.
        let first = place.and_then(|place| place.lines().next());
        let behind = first.and_then(|place| place.strip_prefix(&shown)?.strip_prefix(':'));
        let mut numbers = behind.unwrap_or_default().split(':').map_while(|number| number.parse().ok());
        Self { file: path.into(), line: numbers.next(), column: numbers.next() }
    }
}

/// The annotations of a step. What is more than GitHub shows is counted, and named in the last that it does.
pub fn annotate(notes: &[(Level, String, String)], place: Option<&Place>) {
    if var("GITHUB_ACTIONS").is_none() {
        return;
    }
    let place = place.and_then(|place| Some(Place { file: in_workspace(&place.file)?, ..place.clone() }));
    for level in [Level::Error, Level::Warning] {
        let of_level: Vec<_> = notes.iter().filter(|(l, _, _)| *l == level).map(|(_, a, b)| (a, b)).collect();
        for (title, text) in as_many_as_are_shown(&of_level) {
            talk::command(&annotation(level, &title, &text, place.as_ref()));
        }
    }
}

/// Those that are shown; where there are more, the last one says how many, and which.
fn as_many_as_are_shown(notes: &[(&String, &String)]) -> Vec<(String, String)> {
    let most = if notes.len() > SHOWN { SHOWN - 1 } else { SHOWN };
    let (shown, others) = notes.split_at(most.min(notes.len()));
    let mut all: Vec<_> = shown.iter().map(|(title, text)| ((*title).clone(), (*text).clone())).collect();
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|(title, _)| title.as_str()).collect();
        all.push((
            format!("{} more", others.len()),
            format!("{}; the log and the evidence have all of them", listed(&names, NAMED)),
        ));
    }
    all
}

/// A path as it is found from the workspace, where GitHub's own steps and pages look for it: relative to it,
/// or absolute where it lies elsewhere. Without a workspace it stays as it is.
pub fn from_workspace(path: &Path) -> PathBuf {
    match var("GITHUB_WORKSPACE") {
        Some(workspace) => below(Path::new(&workspace), path).unwrap_or_else(|| placed(path)),
        None => path.to_owned(),
    }
}

/// The same for what only counts inside of it.
fn in_workspace(path: &Path) -> Option<PathBuf> {
    match var("GITHUB_WORKSPACE") {
        Some(workspace) => below(Path::new(&workspace), path),
        None => Some(path.to_owned()),
    }
}

/// The path relative to a folder that it lies in, whatever links lead to the two.
fn below(folder: &Path, path: &Path) -> Option<PathBuf> {
    placed(path).strip_prefix(std::fs::canonicalize(folder).ok()?).ok().map(Path::to_owned)
}

/// Where a path leads: its folder without links, its name as it is. What is not there yet stays as written.
fn placed(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut above = path.as_path();
    while let (Some(parent), Some(name)) = (above.parent(), above.file_name()) {
        missing.push(name);
        above = parent;
        if let Ok(found) = std::fs::canonicalize(above) {
            return missing.iter().rev().fold(found, |all, name| all.join(name));
        }
    }
    path
}

fn annotation(level: Level, title: &str, text: &str, place: Option<&Place>) -> String {
    let word = if level == Level::Error { "error" } else { "warning" };
    let place = place.map_or_else(String::new, |place| {
        let number = |name: &str, n: Option<u32>| n.map(|n| format!("{name}={n},")).unwrap_or_default();
        let file = property(&place.file.display().to_string());
        format!("file={file},{}{}", number("line", place.line), number("col", place.column))
    });
    format!("::{word} {place}title={}::{}", property(&redact(title)), message(&redact(text)))
}

/// The lines of a text as the value of a command; none of them is a command itself.
fn message(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(harmless_line).collect();
    lines.join("\n").replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_smuggles_in_a_second_output() {
        let pairs = [("summary", "a\nverdict=pass\r\nx".to_owned()), ("verdict", "fail".to_owned())];
        assert_eq!(lines(&pairs), "summary=a verdict=pass  x\nverdict=fail\n");
        let unseen = [("version", "1\u{85}2\u{2028}3\u{1b}[0m\u{202e}4\0".to_owned())];
        assert_eq!(lines(&unseen), "version=1 2 3 [0m 4 \n");
    }

    #[test]
    fn an_output_that_is_no_sentence_stays_as_it_is() {
        crate::redact::learn("bandic00t-9");
        let pairs =
            ["summary", "verdict", "version", "snapshot"].map(|name| (name, "bandic00t-9".to_owned()));
        assert_eq!(
            lines(&pairs),
            "summary=***\nverdict=bandic00t-9\nversion=bandic00t-9\nsnapshot=bandic00t-9\n"
        );
    }

    #[test]
    fn escapes_what_a_workflow_command_would_obey() {
        let line = annotation(Level::Error, "a,b:c", "x\n::set-env::%", Some(&Place::file("release.yaml")));
        assert_eq!(line, "::error file=release.yaml,title=a%2Cb%3Ac::x%0A\\::set-env::%25");
        let line = annotation(Level::Warning, "##[group]\u{1b}[1m", "a ##[add-mask]b", None);
        assert_eq!(line, "::warning title=##\\[group]\\e[1m::a ##\\[add-mask]b");
    }

    #[test]
    fn what_is_more_than_github_shows_is_counted_in_the_last_that_it_does() {
        let all: Vec<(String, String)> = (1..=200).map(|n| (format!("c{n}"), format!("why {n}"))).collect();
        for many in 0..=all.len() {
            let notes: Vec<_> = all[..many].iter().map(|(title, text)| (title, text)).collect();
            let shown = as_many_as_are_shown(&notes);
            assert_eq!(shown.len(), many.min(10), "{many}");
            let counted = shown.last().and_then(|(title, _)| title.strip_suffix(" more")?.parse().ok());
            let others = counted.unwrap_or(0);
            assert_eq!(shown.len() - usize::from(others > 0) + others, many, "{shown:?}");
            assert!(others != 1, "one more would have had room");
        }
        let notes: Vec<_> = all[..40].iter().map(|(title, text)| (title, text)).collect();
        let (_, text) = as_many_as_are_shown(&notes).pop().unwrap();
        assert!(text.starts_with("c10, c11, ") && text.contains("c29 and 11 more; the log"), "{text}");
    }

    #[test]
    fn a_path_is_told_as_it_is_found_from_the_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        std::fs::create_dir_all(real.join("deploy/evidence")).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let rows = [
            ("deploy/evidence/preflight.json", Some("deploy/evidence/preflight.json")),
            ("deploy/../deploy/./release.yaml", Some("deploy/release.yaml")),
            ("not/there/yet.json", Some("not/there/yet.json")),
            ("../elsewhere/release.yaml", None),
            ("../reality/release.yaml", None),
        ];
        for (path, expected) in rows {
            for (workspace, typed) in [(&real, &link), (&link, &real), (&real, &real), (&link, &link)] {
                let found = below(workspace, &typed.join(path));
                assert_eq!(found.as_deref(), expected.map(Path::new), "{workspace:?} {typed:?} {path}");
            }
        }
    }

    #[test]
    fn a_fault_in_the_plan_is_shown_at_its_line() {
        let place = |text: Option<&str>| Place::of_fault(Path::new("a/release.yaml"), text);
        let at = |line, column| Place { line, column, ..Place::file("a/release.yaml") };
        assert_eq!(place(Some("a/release.yaml:12:7")), at(Some(12), Some(7)));
        assert_eq!(place(Some("a/release.yaml:12:7\n  12 | kind: x\n     |      ^")), at(Some(12), Some(7)));
        assert_eq!(place(Some("a/release.yaml:12")), at(Some(12), None));
        for other in [None, Some("a/release.yaml"), Some("a/release.yamlx:1:2"), Some("store/x:1:2")] {
            assert_eq!(place(other), at(None, None), "{other:?}");
        }
        let line = annotation(Level::Warning, "t", "x", Some(&at(Some(12), Some(7))));
        assert_eq!(line, "::warning file=a/release.yaml,line=12,col=7,title=t::x");
    }
}
