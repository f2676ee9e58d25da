//! Whether what a release leaves for its later jobs outlives the job that wrote it.

use std::path::{Path, PathBuf};

/// The CI runner that we run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runner {
    /// The folder that it checks out into; where it does not say, that of any git work tree.
    checkout: Option<PathBuf>,
    /// What it does to untracked files there.
    cleans: String,
    /// What it leaves alone, by the names that its flags exclude.
    spares: Vec<String>,
}

impl Runner {
    /// The runner by its variables; none where there is none, or where it cleans nothing.
    pub(super) fn of(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let found = |checkout: Option<PathBuf>, cleans: &str| {
            Some(Self { checkout, cleans: cleans.to_owned(), spares: Vec::new() })
        };
        if variable("GITHUB_ACTIONS").is_some() {
            if variable("RUNNER_ENVIRONMENT").as_deref() == Some("github-hosted") {
                return found(Some("/".into()), "a hosted runner is gone after its job");
            }
            return found(
                path("GITHUB_WORKSPACE").or_else(|| path("RUNNER_WORKSPACE")),
                "actions/checkout runs `git clean -ffdx` in it before each job",
            );
        }
        if variable("GITLAB_CI").is_some() {
            let strategy = variable("GIT_STRATEGY").unwrap_or_default();
            let flags = variable("GIT_CLEAN_FLAGS").unwrap_or_else(|| "-ffdx".into());
            if strategy == "none" || (flags.trim() == "none" && strategy != "clone") {
                return None;
            }
            let spares = if strategy == "clone" { Vec::new() } else { excluded(&flags) };
            let cleans = if strategy == "clone" {
                "GIT_STRATEGY: clone makes the folder anew for each job".to_owned()
            } else {
                format!("the runner runs `git clean {flags}` before each job")
            };
            return Some(Self { checkout: path("CI_PROJECT_DIR"), cleans, spares });
        }
        if variable("BUILDKITE").is_some() {
            let flags = variable("BUILDKITE_GIT_CLEAN_FLAGS").unwrap_or_else(|| "-ffxdq".into());
            let cleans = format!("the agent runs `git clean {flags}` before each job");
            let checkout = path("BUILDKITE_BUILD_CHECKOUT_PATH");
            return Some(Self { checkout, cleans, spares: excluded(&flags) });
        }
        if variable("JENKINS_URL").is_some() {
            return found(
                path("WORKSPACE"),
                "`cleanWs` and \"clean before checkout\" empty the workspace, and another agent has another one",
            );
        }
        variable("CI")?;
        found(None, "CI systems check out anew, or remove what git does not track")
    }

    /// Why a place does not outlive the job; none where it does, as far as can be seen.
    pub(super) fn loses(&self, place: &Path) -> Option<String> {
        let place = real(place);
        let checkout = match &self.checkout {
            Some(checkout) => Some(real(checkout)).filter(|checkout| place.starts_with(checkout)),
            None => place.ancestors().find(|folder| folder.join(".git").exists()).map(Path::to_path_buf),
        }?;
        let inside = place.strip_prefix(&checkout).unwrap_or(&place);
        let spared = inside.iter().any(|part| self.spares.iter().any(|spared| part == spared.as_str()));
        let whole = checkout.parent().is_none();
        let lies = if whole {
            String::new()
        } else {
            format!("it lies in the checkout {}, and ", checkout.display())
        };
        (!spared).then(|| format!("{lies}{}", self.cleans))
    }
}

/// The names that the flags of `git clean` exclude.
fn excluded(flags: &str) -> Vec<String> {
    let words = shlex::split(flags).unwrap_or_default();
    let mut words = words.iter();
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        let name = match word.as_str() {
            "-e" | "--exclude" => words.next().map(String::as_str),
            word => word.strip_prefix("--exclude=").or_else(|| word.strip_prefix("-e")),
        };
        names.extend(
            name.map(|name| name.trim_matches(['/', '*']).to_owned()).filter(|name| !name.is_empty()),
        );
    }
    names
}

/// A path with its links followed as far as it is there.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut missing = Vec::new();
    for folder in path.ancestors() {
        if let Ok(real) = folder.canonicalize() {
            return missing.iter().rev().fold(real, |path, part| path.join(part));
        }
        missing.extend(folder.file_name());
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(variables: &[(&str, &str)]) -> Option<Runner> {
        Runner::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn what_a_runner_cleans_is_told_and_what_it_spares_is_not() {
        let root = tempfile::tempdir().unwrap();
        let checkout = root.path().join("work");
        std::fs::create_dir_all(checkout.join("deploy")).unwrap();
        let at = checkout.to_str().unwrap();
        let state = checkout.join("deploy/.trapkey");
        let github = runner(&[("GITHUB_ACTIONS", "true"), ("GITHUB_WORKSPACE", at)]).unwrap();
        assert!(github.loses(&state).unwrap().contains("git clean -ffdx"));
        assert_eq!(github.loses(&root.path().join("elsewhere/state")), None);
        assert_eq!(
            github.loses(&root.path().join("workshop")),
            None,
            "another folder with the same beginning"
        );
        let hosted =
            [("GITHUB_ACTIONS", "true"), ("RUNNER_ENVIRONMENT", "github-hosted"), ("GITHUB_WORKSPACE", at)];
        let lost = runner(&hosted).unwrap().loses(&root.path().join("elsewhere/state"));
        assert_eq!(lost.as_deref(), Some("a hosted runner is gone after its job"));

        let gitlab = |more: &[(&str, &str)]| {
            runner(&[&[("GITLAB_CI", "true"), ("CI_PROJECT_DIR", at)], more].concat())
        };
        assert!(gitlab(&[]).unwrap().loses(&state).is_some());
        assert_eq!(gitlab(&[("GIT_CLEAN_FLAGS", "none")]), None);
        assert_eq!(gitlab(&[("GIT_STRATEGY", "none")]), None);
        for flags in ["-ffdx -e .trapkey", "-ffdx -e.trapkey/", "-ffdx --exclude=/.trapkey/"] {
            assert_eq!(gitlab(&[("GIT_CLEAN_FLAGS", flags)]).unwrap().loses(&state), None, "{flags}");
        }
        let cloned = gitlab(&[("GIT_STRATEGY", "clone"), ("GIT_CLEAN_FLAGS", "-ffdx -e .trapkey")]).unwrap();
        assert!(cloned.loses(&state).unwrap().contains("clone"));

        let buildkite = runner(&[("BUILDKITE", "true"), ("BUILDKITE_BUILD_CHECKOUT_PATH", at)]).unwrap();
        assert!(buildkite.loses(&state).unwrap().contains("-ffxdq"));
        let jenkins = runner(&[("JENKINS_URL", "http://j"), ("WORKSPACE", at)]).unwrap();
        assert!(jenkins.loses(&state).unwrap().contains("cleanWs"));
        assert_eq!(runner(&[("HOME", "/root"), ("WORKSPACE", at)]), None, "no CI");
    }

    #[test]
    fn a_runner_that_does_not_say_where_it_checks_out_is_found_out_by_git() {
        let root = tempfile::tempdir().unwrap();
        let other = runner(&[("CI", "true")]).unwrap();
        let state = root.path().join("a/b/.trapkey");
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        assert_eq!(other.loses(&state), None);
        // A work tree of its own has a file, not a folder.
        std::fs::write(root.path().join("a/.git"), "gitdir: x").unwrap();
        assert!(other.loses(&state).is_some());
        assert_eq!(other.loses(&root.path().join("state")), None);
        // A link out of the checkout leads out of it.
        std::os::unix::fs::symlink(root.path(), root.path().join("a/out")).unwrap();
        assert_eq!(other.loses(&root.path().join("a/out/state")), None);
    }
}
