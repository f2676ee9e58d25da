//! What others' programs say of our workflows and of the examples in the guides.

use super::*;

/// A checker that `scripts/install-needs` has put there.
fn checker(name: &str) -> Command {
    let path = root().join(".needs/bin").join(name);
    assert!(path.exists(), "{} is missing: run scripts/install-needs test", path.display());
    Command::new(path)
}

fn assert_well(what: &str, ended: &Ended) {
    assert_eq!(ended.code, 0, "{what}: {}{}", ended.stdout, ended.stderr);
}

/// The blocks of a guide in a language, as files of a folder of their own.
fn blocks(guide: &str, language: &str, folder: &Path) -> Vec<(PathBuf, String)> {
    let text = read(guide);
    let found: Vec<(PathBuf, String)> = text
        .split(&format!("```{language}\n"))
        .skip(1)
        .enumerate()
        .map(|(n, rest)| (folder.join(format!("{n}.yml")), rest.split("```").next().unwrap().to_owned()))
        .collect();
    assert!(!found.is_empty(), "{guide} has no {language}");
    found
}

#[test]
fn the_checkers_of_others_find_nothing_in_what_is_shipped() {
    let files = shipped();
    assert_well("actionlint", &run(checker("actionlint").args(&files)));
    let schema = |name: &str| {
        let mut command = checker("check-jsonschema");
        command.args(["--builtin-schema", name]);
        command
    };
    assert_well("the schema of workflows", &run(schema("vendor.github-workflows").args(&files)));
    assert_well(
        "the schema of actions",
        &run(schema("vendor.github-actions").arg(root().join("action.yml"))),
    );
    let mut zizmor = checker("zizmor");
    zizmor
        .args(["--offline", "--persona", "auditor", "--no-progress"])
        .args(&files)
        .arg(root().join("action.yml"));
    assert_well("zizmor", &run(&mut zizmor));
}

#[test]
fn the_examples_of_the_guides_are_what_the_ci_systems_take() {
    let folder = folder();
    let mut seen = (0, 0);
    for guide in ["docs/ci.md", "docs/control.md"] {
        for (path, text) in blocks(guide, "yaml", folder.path()) {
            if text.contains("\n  script:") || text.contains("script: [") {
                write(&path, &text);
                let mut order = checker("check-jsonschema");
                order.args(["--builtin-schema", "vendor.gitlab-ci"]).arg(&path);
                assert_well(guide, &run(&mut order));
                seen.0 += 1;
            } else if text.contains("runs-on:") {
                // What people fill in, and the line that a workflow begins with.
                let text = format!("on: workflow_dispatch\n{text}").replace("OWNER/trapkey@SHA", "./trapkey");
                let path = folder.path().join(".github/workflows/example.yml");
                write(&path, &text);
                write(&folder.path().join("trapkey/action.yml"), &read("action.yml"));
                let linted = run(checker("actionlint")
                    .args(["-ignore", "label \"production\" is unknown"])
                    .arg(&path)
                    .current_dir(folder.path()));
                assert_well(guide, &linted);
                seen.1 += 1;
            }
        }
    }
    assert_eq!(seen, (2, 1), "examples of GitLab and of GitHub");
}
