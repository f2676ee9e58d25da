//! The tools inside CI systems: the action, the shipped workflows, the examples of the guides, what a log says.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::workflow::{as_a_step, cancel, left_of, scripts, shipped};
use crate::support::{Ended, binary, call, folder, json, run, tool, wait_until};

mod checkers;
mod deploy;
mod guides;
mod logs;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn write_program(path: &Path, text: &str) {
    write(path, text);
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// A plan whose only check says that it began, and then waits for the file `go`.
const WAITS: &str = "version: 1\nservice: shop\nrelease: {version: \"1\"}\npreflight:\n  checks:\n    \
    - {name: patience, kind: command, timeout: 10m, target: [sh, -c, 'touch begun; while [ ! -e go ]; do sleep 0.05; done']}\n";

/// A workspace with a plan in `deploy/`, as the runner gives it to a step.
struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    fn new(plan: &str) -> Self {
        let workspace = Self { folder: folder() };
        write(&workspace.at("deploy/release.yaml"), plan);
        write(&workspace.at("output"), "");
        workspace
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A step with the action in it, its `working-directory` being `deploy`.
    fn action(&self, inputs: &[(&str, &str)]) -> Command {
        let (_, script) = scripts(&read("action.yml")).pop().unwrap();
        write(&self.at("action.sh"), &script);
        let mut step = as_a_step(&self.at("action.sh"));
        step.current_dir(self.at("deploy"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_ACTION_PATH", root())
            .env("GITHUB_WORKSPACE", self.folder.path())
            .env("GITHUB_OUTPUT", self.at("output"))
            .env("ACTION_BIN_DIR", binary("preflight").parent().unwrap())
            .envs(inputs.iter().copied());
        step
    }

    fn output(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.at("output")).unwrap();
        text.lines().rev().find_map(|line| line.strip_prefix(&format!("{name}=")).map(str::to_owned))
    }
}

fn begin(step: &mut Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    step.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

#[test]
fn a_cancel_of_the_action_reaches_the_tool_which_writes_its_document() {
    let workspace = Workspace::new(WAITS);
    let mut step = begin(&mut workspace.action(&[("ACTION_TOOL", "preflight")]), &workspace.at("log"));
    wait_until("the check", || workspace.at("deploy/begun").exists());
    cancel(&step);
    let ended = step.wait().unwrap();
    assert!(ended.code().is_some_and(|code| code != 0), "{ended:?}");
    assert_eq!(left_of(step.id()), [""; 0]);
    let document = json(&workspace.at("deploy/evidence/preflight.json"));
    assert_eq!(document["verdict"], "error", "{document}");
    assert_eq!(workspace.output("verdict").as_deref(), Some("error"));
    assert_eq!(workspace.output("exit_code"), ended.code().map(|code| code.to_string()));
}

/// A tool that works until it is asked to stop, and says both.
const UNTIL_ASKED: &str = "#!/bin/sh\ntrap 'echo \"heard $0\" >>\"$CALLS\"; exit 3' INT TERM\n\
    echo \"begun $0\" >>\"$CALLS\"\nwhile :; do sleep 0.02; done\n";

#[test]
fn a_cancel_reaches_the_tool_in_every_step_of_every_shipped_workflow() {
    let folder = folder();
    let at = |path: &str| folder.path().join(path);
    for name in ["preflight", "snapshot", "promote", "verify", "report"] {
        write_program(&at("bin").join(name), UNTIL_ASKED);
    }
    let commands = ["start", "status", "validate", "pause", "resume", "approve", "abort", "flag"];
    let mut seen = 0;
    for file in shipped() {
        let file_name = file.file_name().unwrap().to_string_lossy().into_owned();
        for (name, script) in scripts(&read(&file)) {
            if !script.contains("\"$BIN_DIR/") {
                continue;
            }
            // A script that knows commands is run with each of them.
            let all: Vec<&str> =
                commands.into_iter().filter(|c| script.contains(&format!("trapkey-{c})"))).collect();
            let all = if all.is_empty() { vec![""] } else { all };
            let mut begun = 0;
            for command in all {
                let what = format!("{file_name}, {name}, {command}");
                for file in ["calls", "output", "summary"] {
                    write(&at(file), "");
                }
                write(&at("step.sh"), &script);
                let mut step = begin(
                    as_a_step(&at("step.sh"))
                        .current_dir(folder.path())
                        .env("CALLS", at("calls"))
                        .env("BIN_DIR", at("bin"))
                        .env("GITHUB_WORKSPACE", folder.path())
                        .env("GITHUB_OUTPUT", at("output"))
                        .env("GITHUB_STEP_SUMMARY", at("summary"))
                        .env("COMMAND", format!("trapkey-{command}"))
                        .env("VERSION", "1.4.2")
                        .envs([("ENVIRONMENTS", "production"), ("TRAPKEY_ENVIRONMENT", "production")]),
                    &at("log"),
                );
                let calls = || std::fs::read_to_string(at("calls")).unwrap();
                wait_until(&what, || calls().contains("begun") || step.try_wait().unwrap().is_some());
                if !calls().contains("begun") {
                    // It only looks whether the call is understood.
                    assert!(step.wait().unwrap().success(), "{what}");
                    continue;
                }
                begun += 1;
                cancel(&step);
                let ended = step.wait().unwrap();
                assert!(calls().contains("heard"), "{what}: the tool heard nothing");
                assert_eq!((ended.code(), left_of(step.id()).len()), (Some(3), 0), "{what}");
            }
            seen += begun;
        }
    }
    assert!(seen >= 18, "only {seen} steps run a tool");
}

#[test]
fn paths_are_told_as_they_are_found_from_the_workspace() {
    let check = |n: usize| format!("    - {{name: \"c{n}\", kind: command, target: [\"false\"]}}\n");
    let plan = |checks: usize| -> String {
        let head = "version: 1\nservice: shop\nrelease: {version: \"1\"}\npreflight:\n  checks:\n";
        std::iter::once(head.to_owned()).chain((1..=checks).map(check)).collect()
    };
    let file_of = |line: &str| line.split("file=").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let workspace = Workspace::new(&plan(12));
    let ended = run(workspace.action(&[("ACTION_TOOL", "preflight")]).env("TRAPKEY_QUIET", "true"));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("::error ")).collect();
    // As many as GitHub shows, and the last one counts the others.
    assert_eq!(errors.len(), 10, "{errors:#?}");
    assert!(
        errors[9].contains("title=3 more::c10 (fail)") && errors[9].contains("c12 (fail)"),
        "{}",
        errors[9]
    );
    assert!(errors.iter().all(|line| file_of(line) == "deploy/release.yaml"), "{errors:#?}");
    assert_eq!(workspace.output("evidence").as_deref(), Some("deploy/evidence/preflight.json"));
    assert_eq!(workspace.output("exit_code").as_deref(), Some("1"));

    // An evidence folder elsewhere is told whole, and one of the job's own variables is not overruled.
    let outside = folder();
    let elsewhere = outside.path().canonicalize().unwrap().join("evidence");
    let ended = run(workspace.action(&[("ACTION_TOOL", "preflight")]).env("TRAPKEY_EVIDENCE", &elsewhere));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let told = elsewhere.join("preflight.json");
    assert_eq!(workspace.output("evidence"), Some(told.display().to_string()));
    assert!(told.exists());

    // A plan that does not validate is shown at its line.
    write(&workspace.at("deploy/release.yaml"), &plan(1).replace("kind: command", "kind: comand"));
    let ended = run(&mut workspace.action(&[("ACTION_TOOL", "preflight")]));
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let error = ended.stderr.lines().find(|line| line.starts_with("::error ")).unwrap();
    assert!(error.contains("file=deploy/release.yaml,line=6,col="), "{error}");
    assert_eq!(workspace.output("evidence").as_deref(), Some("deploy/evidence/preflight.refused.json"));
}

#[test]
fn the_action_ends_with_a_word_and_an_exit_code_of_the_table_where_no_tool_runs() {
    let workspace = Workspace::new(WAITS);
    // A machine without cargo: the programs that the script needs, and no others.
    let path = workspace.at("path");
    std::fs::create_dir(&path).unwrap();
    for name in ["bash", "env", "dirname", "realpath"] {
        let found = run(Command::new("sh").args(["-c", &format!("command -v {name}")])).stdout;
        std::os::unix::fs::symlink(found.trim(), path.join(name)).unwrap();
    }
    let bin = workspace.at("bin").display().to_string();
    write_program(&workspace.at("bin/snapshot"), "#!/no/such/interpreter\n");
    write_program(&workspace.at("bin/report"), "\u{7f}ELF\u{2}\u{1}\u{1}\0\0\0\0\0\0\0\0\0");
    std::fs::create_dir(workspace.at("bin/verify")).unwrap();
    let broken = workspace.at("broken-cargo");
    write_program(&broken.join("cargo"), "#!/bin/sh\necho no linker >&2\nexit 101\n");
    let with_broken = format!("{}:{}", broken.display(), path.display());
    let plain = path.display().to_string();
    for (tool, bin, path, code, said) in [
        ("preflight", "", &plain, 4, "there is no cargo on this runner"),
        ("preflight", "", &with_broken, 4, "preflight could not be built (cargo: exit 101)"),
        ("preflight", bin.as_str(), &plain, 2, "there is no program 'preflight'"),
        ("verify", bin.as_str(), &plain, 2, "there is no program 'verify'"),
        (
            "snapshot",
            bin.as_str(),
            &plain,
            4,
            "'snapshot' in the folder of the input 'bin-dir' cannot be started",
        ),
        (
            "report",
            bin.as_str(),
            &plain,
            4,
            "'report' in the folder of the input 'bin-dir' cannot be started",
        ),
        ("../bin/report", bin.as_str(), &plain, 2, "the input 'tool' must be"),
    ] {
        write(&workspace.at("output"), "");
        let inputs = [("ACTION_TOOL", tool), ("ACTION_BIN_DIR", bin), ("PATH", path.as_str())];
        let ended = run(&mut workspace.action(&inputs));
        let error =
            ended.stdout.lines().find(|line| line.starts_with("::error title=Trapkey::")).unwrap_or("");
        assert!(error.contains(said), "{tool}: {ended:?}");
        assert_eq!((ended.code, workspace.output("exit_code")), (code, Some(code.to_string())), "{tool}");
        assert_eq!(workspace.output("verdict").as_deref(), Some("error"), "{tool}");
    }
}

#[test]
fn the_inputs_of_a_release_must_lie_outside_of_the_checkout() {
    let script = scripts(&read(".github/workflows/deploy.yml"))
        .into_iter()
        .find_map(|(name, script)| (name == "Look at the inputs").then_some(script))
        .unwrap();
    let folder = folder();
    write(&folder.path().join("step.sh"), &script);
    let look = |state: &str, trust: &str| {
        run(as_a_step(&folder.path().join("step.sh"))
            .env("GITHUB_WORKSPACE", "/home/runner/work/shop")
            .env("TRAPKEY_STATE", state)
            .env("TRAPKEY_TRUST", trust))
    };
    for (state, trust) in [
        ("/var/lib/state", ""),
        ("/var/lib/state", "none"),
        ("s3://bucket/prefix", "/etc/trust"),
        ("/home/runner/work/shop2", "/etc/t"),
    ] {
        assert_eq!(look(state, trust).code, 0, "{state} {trust}");
    }
    for (state, trust, named) in [
        (".trapkey", "", "state"),
        ("", "", "state"),
        ("/home/runner/work/shop/state", "", "state"),
        ("/var/lib/state", "trust", "trust"),
        ("/var/lib/state", "/home/runner/work/shop/trust", "trust"),
    ] {
        let ended = look(state, trust);
        assert_eq!(ended.code, 2, "{state} {trust}");
        assert!(ended.stdout.contains(&format!("the input '{named}' must be an absolute path")), "{ended:?}");
    }
}
