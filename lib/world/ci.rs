//! The CI system around us: who runs this, where step outputs go, how a line becomes an annotation.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::bounds;
use crate::evidence::Ci;
use crate::redact::redact;

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

/// Writes step outputs, `name=value`, one line each.
///
/// Line breaks become spaces, so that no value can smuggle in a second output.
pub fn outputs(pairs: &[(&str, String)]) -> std::io::Result<()> {
    let Some(path) = output_file() else { return Ok(()) };
    bounds::open_to_tell(&path)?.write_all(lines(pairs).as_bytes())
}

fn lines(pairs: &[(&str, String)]) -> String {
    let line =
        |(name, value): &(&str, String)| format!("{name}={}\n", redact(value).replace(['\n', '\r'], " "));
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

/// The annotations of a step: GitHub shows ten errors and ten warnings.
pub fn annotate(notes: &[(Level, String, String)], file: Option<&str>) {
    if var("GITHUB_ACTIONS").is_none() {
        return;
    }
    let mut err = std::io::stderr().lock();
    for level in [Level::Error, Level::Warning] {
        for (_, title, text) in notes.iter().filter(|(l, _, _)| *l == level).take(10) {
            // A closed log is nobody's fault.
            let _ = writeln!(err, "{}", annotation(level, title, text, file));
        }
    }
}

fn annotation(level: Level, title: &str, text: &str, file: Option<&str>) -> String {
    let word = if level == Level::Error { "error" } else { "warning" };
    let file = file.map(|f| format!("file={},", property(f))).unwrap_or_default();
    format!("::{word} {file}title={}::{}", property(&redact(title)), message(&redact(text)))
}

fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
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
    }

    #[test]
    fn escapes_what_a_workflow_command_would_obey() {
        let line = annotation(Level::Error, "a,b:c", "x\n::set-env::%", Some("release.yaml"));
        assert_eq!(line, "::error file=release.yaml,title=a%2Cb%3Ac::x%0A::set-env::%25");
    }
}
