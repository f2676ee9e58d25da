//! The CI system around us: who runs this, where step outputs go, how a line becomes an annotation.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::talk;
use crate::evidence::Ci;
use crate::plain::{self, harmless_line};
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
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
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
    OpenOptions::new().create(true).append(true).open(path)?.write_all(lines(pairs).as_bytes())
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
    OpenOptions::new().create(true).append(true).open(path)?.write_all(redact(markdown).as_bytes())
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
    for level in [Level::Error, Level::Warning] {
        for (_, title, text) in notes.iter().filter(|(l, _, _)| *l == level).take(10) {
            talk::command(&annotation(level, title, text, file));
        }
    }
}

fn annotation(level: Level, title: &str, text: &str, file: Option<&str>) -> String {
    let word = if level == Level::Error { "error" } else { "warning" };
    let file = file.map(|f| format!("file={},", property(f))).unwrap_or_default();
    format!("::{word} {file}title={}::{}", property(&redact(title)), message(&redact(text)))
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
        let line = annotation(Level::Error, "a,b:c", "x\n::set-env::%", Some("release.yaml"));
        assert_eq!(line, "::error file=release.yaml,title=a%2Cb%3Ac::x%0A\\::set-env::%25");
        let line = annotation(Level::Warning, "##[group]\u{1b}[1m", "a ##[add-mask]b", None);
        assert_eq!(line, "::warning title=##\\[group]\\e[1m::a ##\\[add-mask]b");
    }
}
