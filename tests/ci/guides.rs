//! The examples of the guides, run: what they call, in which order, and how they end.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

const TOOLS: [&str; 5] = ["preflight", "snapshot", "promote", "verify", "report"];

/// A folder with tools that write down how they were called, and end as they are told.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: folder() };
        for name in TOOLS.into_iter().chain(["git"]) {
            let text = "#!/bin/sh\nname=${0##*/}\necho \"$name $*\" >>\"$CALLS\"\n\
                        if [ \"$name $1\" = 'promote status' ]; then printf '%s' \"$FAKE_STATUS\" >>\"$TRAPKEY_OUTPUT\"; fi\n\
                        eval \"exit \\${EXIT_$name:-0}\"\n";
            write_program(&bench.folder.path().join("bin").join(name), text);
        }
        bench
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs a script; returns its exit code and what it called.
    fn run(&self, shell: &[&str], script: &str, variables: &[(&str, &str)]) -> (i32, Vec<String>) {
        write(&self.at("calls"), "");
        let script = script.replace("/var/lib/trapkey", &self.at("lib").display().to_string());
        write(&self.at("script"), &script);
        let path = format!("{}:{}", self.at("bin").display(), std::env::var("PATH").unwrap());
        let ended = run(Command::new(shell[0])
            .args(&shell[1..])
            .arg(self.at("script"))
            .current_dir(self.folder.path())
            .env("PATH", path)
            .env("CALLS", self.at("calls"))
            .env("TRAPKEY_EVIDENCE", self.at("evidence-outside"))
            .env("TRAPKEY_OUTPUT", self.at("outputs.env"))
            .envs(variables.iter().copied()));
        let calls = std::fs::read_to_string(self.at("calls")).unwrap();
        let calls: Vec<String> = calls.lines().map(|line| line.trim().to_owned()).collect();
        for call in calls.iter().filter(|call| !call.starts_with("git ")) {
            // The real tool has such a command, with such flags.
            let words: Vec<&str> = call.split(' ').collect();
            let known = tool(words[0], self.folder.path()).args(&words[1..]).arg("--help").output().unwrap();
            assert!(known.status.success(), "{call}: {}", String::from_utf8_lossy(&known.stderr));
        }
        (ended.code, calls)
    }
}

/// The blocks of a guide in a language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let text = read(guide);
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_example_puts_state_and_evidence_outside_of_the_checkout() {
    let guide = read("docs/ci.md");
    let opening = guide.lines().nth(2).unwrap();
    assert!(
        opening.starts_with("**The checkout empties the workspace: put store, state and evidence outside.**"),
        "{opening}"
    );
    let mut seen = 0;
    for guide in ["docs/ci.md", "docs/control.md", "docs/drill.md"] {
        for block in ["yaml", "groovy", "sh"].into_iter().flat_map(|language| blocks(guide, language)) {
            let runs =
                |tool: &str| block.contains(&format!("{tool}\n")) || block.contains(&format!("tool: {tool}"));
            let whole =
                ["script:", "pipeline {", "runs-on:", "set -eu"].iter().any(|word| block.contains(word));
            if !whole
                || !["promote run", "promote step", "report"].iter().any(|what| block.contains(what))
                    && !runs("promote")
            {
                continue;
            }
            seen += 1;
            for name in ["TRAPKEY_STATE", "TRAPKEY_EVIDENCE"] {
                let place =
                    block.split(name).nth(1).unwrap_or_else(|| panic!("{guide} without {name}: {block}"));
                let place = place.trim_start_matches([':', '=', ' ', '\'', '"']);
                assert!(place.starts_with("/var/lib/trapkey/"), "{guide}: {name} {place:.40}");
            }
        }
    }
    assert_eq!(seen, 6, "examples that run a release");
    for file in shipped() {
        let text = read(&file);
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'))
        {
            if line.contains("TRAPKEY_EVIDENCE:") || line.trim() == "path: evidence" {
                let outside = line.contains("${{ runner.temp }}/evidence");
                assert!(outside, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_shell_example_calls_the_tools_in_order_and_ends_as_they_do() {
    let bench = Bench::new();
    let script = blocks("docs/ci.md", "sh").remove(0);
    let gates = ["verify baseline", "preflight", "snapshot create"];
    let moved = [&gates[..], &["promote run"]].concat();
    let held = [&moved[..], &["verify"]].concat();
    for (exits, code, called) in [
        (vec![], 0, held.clone()),
        (vec![("EXIT_preflight", "1")], 1, gates[..2].to_vec()),
        (vec![("EXIT_snapshot", "4")], 4, gates.to_vec()),
        (vec![("EXIT_promote", "1")], 1, held),
        (vec![("EXIT_promote", "3")], 3, moved.clone()),
        (vec![("EXIT_promote", "5")], 5, moved),
    ] {
        let called = [&called[..], &["report"]].concat();
        assert_eq!(
            bench.run(&["sh"], &script, &exits),
            (code, called.iter().map(|c| (*c).to_owned()).collect()),
            "{exits:?}"
        );
    }
}

/// The scripts of the jobs of a GitLab example.
fn gitlab(guide: &str) -> BTreeMap<String, String> {
    let text = blocks(guide, "yaml")
        .into_iter()
        .find(|block| block.contains("stage: check") || block.contains("promote-step:"));
    let all: Value = trapkey::yaml::parse(&text.unwrap()).unwrap().read(&|_: &str| None).unwrap();
    let lines = |value: &Value| -> String {
        value.as_array().unwrap().iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect()
    };
    let jobs = all.as_object().unwrap().iter().filter(|(_, job)| job["script"].is_array());
    let mut found: BTreeMap<_, _> = jobs.map(|(name, job)| (name.clone(), lines(&job["script"]))).collect();
    found.insert("after".into(), lines(&all["default"]["after_script"]));
    found
}

#[test]
fn the_gitlab_example_calls_the_tools_and_looks_only_at_what_was_promoted() {
    let (bench, jobs) = (Bench::new(), gitlab("docs/ci.md"));
    let shell = ["bash", "-e", "-o", "pipefail"];
    let calls = |job: &str| bench.run(&shell, &jobs[job], &[]);
    assert_eq!(
        calls("preflight"),
        (0, vec!["verify baseline".into(), "preflight".into(), "snapshot create".into()])
    );
    assert_eq!(calls("promote"), (0, vec!["promote run".into()]));
    assert_eq!(calls("verify"), (0, vec![]));
    write(&bench.at("evidence-outside/promote.json"), "{}");
    assert_eq!(calls("verify"), (0, vec!["verify".into()]));
    assert_eq!(bench.run(&shell, &jobs["verify"], &[("EXIT_verify", "1")]).0, 1);
    assert_eq!(calls("report"), (0, vec!["report".into()]));
    assert_eq!(calls("after"), (0, vec![]));
    assert!(bench.at("evidence/promote.json").exists(), "what GitLab keeps must lie in the checkout");
}

/// The scripts of a Jenkins example, in their order.
fn jenkins(guide: &str) -> Vec<String> {
    let text = blocks(guide, "groovy").remove(0);
    let scripts = regex::Regex::new(r"(?s)sh '''(.*?)'''|sh '([^']*)'").unwrap();
    scripts.captures_iter(&text).map(|c| c.get(1).or(c.get(2)).unwrap().as_str().to_owned()).collect()
}

#[test]
fn the_jenkins_example_archives_what_lies_outside_and_ends_red_where_it_did_not_hold() {
    let (bench, scripts) = (Bench::new(), jenkins("docs/ci.md"));
    let [gates, traffic, look, report, copy, held] = &scripts[..] else { panic!("{scripts:#?}") };
    let go = |script: &str, exits: &[(&str, &str)]| bench.run(&["sh", "-xe"], script, exits);
    assert_eq!(
        go(gates, &[("EXIT_preflight", "1")]),
        (1, vec!["verify baseline".into(), "preflight".into()])
    );
    assert_eq!(go(traffic, &[("EXIT_promote", "3")]), (3, vec!["promote run".into()]));
    std::fs::create_dir(bench.at("evidence-outside")).unwrap();
    assert_eq!(go(look, &[]), (0, vec![]));
    write(&bench.at("evidence-outside/promote.json"), "{}");
    assert_eq!((go(look, &[]), go(held, &[]).0), ((0, vec!["verify".into()]), 0));
    assert_eq!((go(look, &[("EXIT_verify", "1")]).0, go(held, &[]).0), (0, 1));
    assert_eq!(go(report, &[]), (0, vec!["report".into()]));
    write(&bench.at("evidence/of-an-earlier-build"), "");
    assert_eq!(go(copy, &[]).0, 0);
    assert!(bench.at("evidence/promote.json").exists() && !bench.at("evidence/of-an-earlier-build").exists());
}

#[test]
fn the_control_examples_take_a_step_only_on_a_commit_of_their_branch() {
    let commit = "ab12".repeat(10);
    let due = format!("due=true\ncommit={commit}\n");
    let git =
        [format!("git merge-base --is-ancestor {commit} HEAD"), format!("git checkout -q --detach {commit}")];
    let (status, step) = ("promote status".to_owned(), "promote step".to_owned());
    let jenkins = jenkins("docs/control.md").remove(0);
    let gitlab = gitlab("docs/control.md");
    let bash = ["bash", "-e", "-o", "pipefail"];
    for (shell, script) in [(&bash[..], &gitlab["promote-step"]), (&["sh", "-xe"], &jenkins)] {
        let bench = Bench::new();
        let go = |said: &str, exits: &[(&str, &str)]| {
            bench.run(shell, script, &[&[("FAKE_STATUS", said), ("COMMAND", "step")], exits].concat())
        };
        assert_eq!(go("due=false\ncommit=\n", &[]), (0, vec![status.clone()]));
        assert_eq!(go("due=true\ncommit=\n", &[]), (0, vec![status.clone(), step.clone()]));
        let all = vec![status.clone(), git[0].clone(), git[1].clone(), step.clone()];
        assert_eq!(go(&due, &[("EXIT_promote", "0")]), (0, all));
        assert_eq!(go(&due, &[("EXIT_git", "1")]), (5, vec![status.clone(), git[0].clone()]));
    }
    for (command, code, called) in [
        ("status", 0, vec!["promote status"]),
        ("pause", 0, vec!["promote pause"]),
        ("resume", 0, vec!["promote resume"]),
        ("abort", 0, vec!["promote abort --reason=orders"]),
        ("undo", 2, vec![]),
    ] {
        let bench = Bench::new();
        let given = [("COMMAND", command), ("REASON", "orders"), ("FAKE_STATUS", "")];
        let called: Vec<String> = called.into_iter().map(str::to_owned).collect();
        assert_eq!(bench.run(&bash, &gitlab["promote-control"], &given), (code, called.clone()), "{command}");
        if code == 0 {
            let called = [&["promote status".to_owned()][..], &called].concat();
            assert_eq!(bench.run(&["sh", "-xe"], &jenkins, &given), (0, called), "{command}");
        }
    }
}
