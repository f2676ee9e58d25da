//! Every path that a flag, a variable or a key of the plan names × everything that a path can be: it ends by
//! itself, in bounded memory, with an exit code of the table, and says what stands there.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::checks::servers::Authority;
use crate::support::{Ended, PATIENCE, binary, call, folder, tool, wait_until};

/// What a path can be.
const BEINGS: [&str; 9] =
    ["pipe", "endless", "socket", "folder", "dangling", "loop", "words", "empty", "huge"];
/// Those of them that are never taken for a file.
const NO_FILES: [&str; 5] = ["pipe", "endless", "socket", "dangling", "loop"];

fn make(being: &str, at: &Path) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    match being {
        "pipe" => mkfifoat(CWD, at, Mode::RUSR | Mode::WUSR).unwrap(),
        "endless" => symlink("/dev/zero", at).unwrap(),
        // Its name stays when nobody listens any more.
        "socket" => drop(UnixListener::bind(at).unwrap()),
        "folder" => std::fs::create_dir(at).unwrap(),
        "dangling" => symlink("nowhere", at).unwrap(),
        "loop" => symlink(at.file_name().unwrap(), at).unwrap(),
        "words" => std::fs::write(at, "words").unwrap(),
        "empty" => std::fs::write(at, "").unwrap(),
        "huge" => std::fs::File::create(at).unwrap().set_len(1 << 42).unwrap(),
        other => panic!("{other}"),
    }
}

/// How strict a place is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// A file: what is none is an error, and a pipe is called one.
    File,
    /// A file of any size, which takes as long as it takes.
    AnyFile,
    /// A folder, or something else that is made or written.
    Folder,
    /// Nothing that must be there, or what only looks at it: it ends.
    Anything,
}
use Wants::{AnyFile, Anything, File, Folder};

/// A place that is named, and a call that comes to it.
struct Place {
    /// The flag, the variable, or the plan's key.
    named: &'static str,
    /// Where it is, below the plan's folder.
    at: &'static str,
    wants: Wants,
    /// The tool and its words.
    words: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    /// What the plan has more.
    plan: Plan,
}

#[derive(Clone, Copy, Default)]
struct Plan {
    release: &'static str,
    check: &'static str,
    source: &'static str,
    metric: &'static str,
}

impl Plan {
    const fn new() -> Self {
        Self { release: "", check: "", source: "{name: cfg, kind: files, target: cfg}", metric: "" }
    }

    const fn check(check: &'static str) -> Self {
        Self { check, ..Self::new() }
    }

    const fn source(source: &'static str) -> Self {
        Self { source, ..Self::new() }
    }

    fn text(self) -> String {
        let check = if self.check.is_empty() { String::new() } else { format!("    - {}\n", self.check) };
        let metrics = match self.metric {
            "" => String::new(),
            metric => format!("verify:\n  metrics:\n    - {metric}\n"),
        };
        if !self.metric.is_empty() {
            return format!("version: 1\nservice: shop\nrelease: {{version: \"1.1\"}}\n{metrics}");
        }
        format!(
            "version: 1\nservice: shop\nrelease: {{version: \"1.1\"{}}}\n\
             environments: {{production: {{url: \"http://127.0.0.1:9\"}}}}\n\
             preflight:\n  promote: false\n  checks:\n    - {{name: a, kind: command, target: [\"true\"]}}\n{check}\
             snapshot:\n  store: store\n  sources:\n    - {}\n\
             promote:\n  router: {{kind: command, target: edge, with: {{set: [\"true\", \"{{green}}\"], get: [echo, \"0\"]}}}}\n  \
             sides: {{blue: {{url: \"http://127.0.0.1:1\"}}, green: {{url: \"http://127.0.0.1:2\"}}}}\n  \
             steps: [{{weight: 100%, bake: 0s, approve: [lead]}}]\n  rollback_when: [{{metric: error_rate, is: \"> 10%\"}}]\n",
            self.release, self.source
        )
    }
}

const fn place(named: &'static str, at: &'static str, wants: Wants, words: &'static [&'static str]) -> Place {
    Place { named, at, wants, words, variables: &[], plan: Plan::new() }
}

const fn with(
    named: &'static str,
    at: &'static str,
    wants: Wants,
    words: &'static [&'static str],
    plan: Plan,
) -> Place {
    Place { plan, ..place(named, at, wants, words) }
}

const fn set(
    named: &'static str,
    at: &'static str,
    wants: Wants,
    words: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
) -> Place {
    Place { variables, ..place(named, at, wants, words) }
}

const CREATE: &[&str] = &["snapshot", "create"];
const PREFLIGHT: &[&str] = &["preflight"];
const REPORT: &[&str] = &["report"];
const PASSPHRASE: &[(&str, &str)] = &[("TRAPKEY_PASSPHRASE", "correct horse battery staple")];

const FLAGS: &[Place] = &[
    place("--plan", "release.yaml", File, PREFLIGHT),
    place("--plan", "release.yaml", File, &["snapshot", "list"]),
    place("--plan", "release.yaml", File, &["promote", "status"]),
    place("--plan", "release.yaml", File, &["verify"]),
    place("--plan", "release.yaml", File, REPORT),
    place("--evidence", "ev", Folder, &["preflight", "--evidence", "ev"]),
    place("--evidence", "evidence/preflight.json", File, CREATE),
    place("--evidence", "evidence/preflight.json", File, REPORT),
    place("--evidence", "evidence/snapshot.json", File, REPORT),
    place("--evidence", "evidence/promote.json", File, REPORT),
    place("--evidence", "evidence/baseline.json", File, REPORT),
    place("--evidence", "evidence/verify.json", File, REPORT),
    place("--evidence", "evidence/preflight.refused.json", Anything, REPORT),
    place("--evidence", "evidence/approval.lead.1.json", Anything, REPORT),
    place("--state", "state", Folder, &["promote", "status", "--state", "state"]),
    place("--state", ".trapkey/production/state.json", File, &["promote", "status"]),
    place("--state", ".trapkey/production/lease.json", Anything, &["promote", "abort"]),
    place("--state", ".trapkey/production/journal.jsonl", Anything, &["promote", "start"]),
    place("--state", ".trapkey/production/change", Anything, &["promote", "start"]),
    place("--state", ".trapkey/production/flags.json", Anything, &["promote", "flag", "list"]),
    place("--sign-key", "key", File, &["preflight", "--sign-key", "key"]),
    place("--trust", "trust", File, &["report", "--trust", "trust"]),
    place("--trust", "keys/a.pem", File, &["report", "--trust", "keys"]),
    place("--trust", "keys/a.pub", File, &["verify", "--trust", "keys"]),
    place("--trust", "keys/approvers/a.pem", File, &["report", "--trust", "keys"]),
    place("--key", "key", Anything, &["promote", "approve", "--role", "lead", "--key", "key"]),
    place("--on", "series.csv", AnyFile, &["promote", "plan", "--on", "series.csv"]),
    place("--from-kayenta", "canary.json", AnyFile, &["promote", "plan", "--from-kayenta", "canary.json"]),
    place("--from-argo", "analysis.yaml", AnyFile, &["promote", "plan", "--from-argo", "analysis.yaml"]),
    place("--from-flagger", "canary.yaml", AnyFile, &["promote", "plan", "--from-flagger", "canary.yaml"]),
    place("--templates", "templates", Folder, &["report", "--templates", "templates"]),
    place("--templates", "templates/runbook.md", File, &["report", "--templates", "templates"]),
    place("--scratch", "scratch", Anything, &["snapshot", "drill", "--scratch", "scratch"]),
    place("--to", "schemas", Folder, &["report", "schemas", "--to", "schemas"]),
    place("--store", "store", Folder, &["snapshot", "list", "--store", "store"]),
    place("--store", "store/config", File, &["snapshot", "list", "--store", "store"]),
    set(
        "TRAPKEY_PASSPHRASE_FILE",
        "pass",
        File,
        &["snapshot", "list"],
        &[("TRAPKEY_PASSPHRASE_FILE", "pass")],
    ),
    set(
        "TRAPKEY_NEW_PASSPHRASE_FILE",
        "pass",
        Anything,
        &["snapshot", "key", "add"],
        &[("TRAPKEY_NEW_PASSPHRASE_FILE", "pass"), ("TRAPKEY_PASSPHRASE", "correct horse battery staple")],
    ),
    set(
        "TRAPKEY_TOKEN_FILE",
        "token",
        File,
        &["promote", "listen", "--on", "127.0.0.1:0"],
        &[("TRAPKEY_TOKEN_FILE", "token")],
    ),
    set("GITHUB_OUTPUT", "out", Anything, PREFLIGHT, &[("GITHUB_OUTPUT", "out")]),
    set("TRAPKEY_OUTPUT", "out", Anything, PREFLIGHT, &[("TRAPKEY_OUTPUT", "out")]),
    set("GITHUB_STEP_SUMMARY", "out", Anything, REPORT, &[("GITHUB_STEP_SUMMARY", "out")]),
];

const OF_THE_PLAN: &[Place] = &[
    with(
        "ReleaseSpec.artifacts",
        "af",
        AnyFile,
        PREFLIGHT,
        Plan { release: ", artifacts: [af]", ..Plan::new() },
    ),
    with(
        "artifact: target",
        "af",
        AnyFile,
        PREFLIGHT,
        Plan::check(
            "{name: b, kind: artifact, target: af, with: {sha256: \"0000000000000000000000000000000000000000000000000000000000000000\"}}",
        ),
    ),
    with(
        "artifact: checksums",
        "sums",
        File,
        PREFLIGHT,
        Plan::check("{name: b, kind: artifact, target: release.yaml, with: {checksums: sums}}"),
    ),
    with(
        "file: target",
        "f",
        AnyFile,
        PREFLIGHT,
        Plan::check("{name: b, kind: file, target: f, expect: {sha256: \"~ ^0{64}\"}}"),
    ),
    with(
        "metrics_file: target",
        "m.json",
        File,
        PREFLIGHT,
        Plan::check("{name: b, kind: metrics_file, target: m.json, expect: {a: \"> 1\"}}"),
    ),
    with("disk: target", "d", Anything, PREFLIGHT, Plan::check("{name: b, kind: disk, target: d}")),
    with(
        "command: folder",
        "d",
        Folder,
        PREFLIGHT,
        Plan::check("{name: b, kind: command, target: [\"true\"], with: {folder: d}}"),
    ),
    with(
        "tls: ca",
        "ca.pem",
        Anything,
        PREFLIGHT,
        Plan::check("{name: b, kind: tls, target: \"127.0.0.1:9\", with: {ca: ca.pem}}"),
    ),
    with(
        "postgres: ca",
        "ca.pem",
        Anything,
        PREFLIGHT,
        Plan::check(
            "{name: b, kind: postgres, target: \"postgres://u@127.0.0.1:9/d?sslmode=verify-full\", with: {ca: ca.pem}}",
        ),
    ),
    with(
        "tls: cert",
        "cert.pem",
        Anything,
        PREFLIGHT,
        Plan::check("{name: b, kind: tls, target: \"127.0.0.1:9\", with: {cert: cert.pem}}"),
    ),
    with(
        "http: key",
        "key.pem",
        Anything,
        PREFLIGHT,
        Plan::check(
            "{name: b, kind: http, target: \"https://127.0.0.1:9\", with: {cert: own.pem, key: key.pem}}",
        ),
    ),
    with("Snapshot.store", "store", Folder, CREATE, Plan::new()),
    with("files: target", "src", Anything, CREATE, Plan::source("{name: src, kind: files, target: src}")),
    with(
        "files: a file in it",
        "src/f",
        Anything,
        CREATE,
        Plan::source("{name: src, kind: files, target: src}"),
    ),
    with(
        "files: gitignore",
        "src/.gitignore",
        Anything,
        CREATE,
        Plan::source("{name: src, kind: files, target: src, with: {gitignore: true}}"),
    ),
    with("sqlite: target", "db", Anything, CREATE, Plan::source("{name: db, kind: sqlite, target: db}")),
    with(
        "MysqlSource.defaults_file",
        "my.cnf",
        Anything,
        CREATE,
        Plan::source(
            "{name: db, kind: mysql, target: \"mysql://u@127.0.0.1:9/shop\", with: {defaults_file: my.cnf}}",
        ),
    ),
    with(
        "docker_compose: target",
        "compose",
        Anything,
        CREATE,
        Plan::source("{name: c, kind: docker_compose, target: compose}"),
    ),
    with(
        "file: series",
        "s.csv",
        File,
        &["verify"],
        Plan { metric: "{name: m, kind: file, target: s.csv, expect: {mean: \"> 1\"}}", ..Plan::new() },
    ),
];

/// Runs it with little memory, and gives up on one that does not end.
fn ends(folder: &Path, place: &Place, words: &[&str]) -> Ended {
    let (out, err) = (folder.join(".stdout"), folder.join(".stderr"));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 1500000; exec \"$0\" \"$@\""]).arg(binary(words[0])).args(&words[1..]);
    command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.stdin(Stdio::null());
    command.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&err).unwrap());
    let variables = if place.variables.is_empty() { PASSPHRASE } else { place.variables };
    command.envs(variables.iter().copied());
    let mut child = command.spawn().unwrap();
    let began = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{words:?} with {} does not end", place.at);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    Ended { code: status.code().unwrap_or(-1), stdout: text(&out), stderr: text(&err) }
}

/// A certificate for the places beside it.
fn own_certificate() -> &'static str {
    static OWN: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| Authority::new().pem());
    &OWN
}

fn holds(place: &Place) {
    for being in BEINGS {
        if being == "huge" && matches!(place.wants, AnyFile | Anything) {
            continue;
        }
        let folder = folder();
        let at = folder.path().join(place.at);
        std::fs::create_dir_all(folder.path().join("cfg")).unwrap();
        std::fs::write(folder.path().join("cfg/a"), "a").unwrap();
        std::fs::write(folder.path().join("own.pem"), own_certificate()).unwrap();
        if place.at != "release.yaml" {
            std::fs::write(folder.path().join("release.yaml"), place.plan.text()).unwrap();
        }
        if place.words == CREATE && !place.at.starts_with("evidence") {
            let passed = call("preflight", folder.path(), &[]);
            assert_eq!(passed.code, 0, "{passed:?}");
        }
        make(being, &at);
        let ended = ends(folder.path(), place, place.words);
        let told = format!("{} as {being}: {ended:?}", place.named);
        assert!((0..=5).contains(&ended.code), "{told}");
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("fault of Trapkey"), "{told}");
        let no_file = NO_FILES.contains(&being) || (being == "folder" && place.named != "--trust");
        match place.wants {
            File | AnyFile if no_file => assert_ne!(ended.code, 0, "{told}"),
            Folder if being != "folder" && being != "dangling" => assert_ne!(ended.code, 0, "{told}"),
            _ => {}
        }
        if matches!(place.wants, File | AnyFile) && being == "pipe" {
            assert!(ended.stderr.contains("it is a pipe, not a regular file"), "{told}");
        }
    }
}

#[test]
fn whatever_a_flag_or_a_variable_names_it_ends_and_is_named() {
    FLAGS.iter().for_each(holds);
}

#[test]
fn whatever_a_key_of_the_plan_names_it_ends_and_is_named() {
    OF_THE_PLAN.iter().for_each(holds);
}

/// The flags that name a file, a folder or a place, as the tools themselves list them.
fn flags() -> BTreeSet<String> {
    let folder = folder();
    let mut found = BTreeSet::new();
    let mut look = |tool: &str, words: &[&str]| -> Vec<String> {
        let help = call(tool, folder.path(), &[words, &["--help"]].concat()).stdout;
        for line in help.lines() {
            if let Some((flag, value)) = line.trim_start().split_once(" <")
                && ["FILE>", "FOLDER>", "PLACE>"].iter().any(|kind| value.starts_with(kind))
            {
                found.insert(flag.rsplit(' ').next().unwrap().to_owned());
            }
        }
        let commands = help.split_once("Commands:").map_or("", |(_, rest)| rest);
        let commands = commands.lines().skip(1).take_while(|line| !line.trim().is_empty());
        let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    for tool in ["preflight", "snapshot", "promote", "verify", "report"] {
        for command in look(tool, &[]) {
            if command != "help" {
                for inner in look(tool, &[&command]) {
                    if inner != "help" {
                        look(tool, &[&command, &inner]);
                    }
                }
            }
        }
    }
    found
}

#[test]
fn every_flag_that_names_a_file_is_in_the_table() {
    let known: BTreeSet<String> = FLAGS.iter().map(|place| place.named.to_owned()).collect();
    let found = flags();
    assert!(found.contains("--plan") && found.contains("--key") && found.contains("--to"), "{found:?}");
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "flags without a row in the table: {missing:?}");
}

/// Keys of the plan that speak of files and name none that is opened here.
const NO_PATH_OF_OURS: &[&str] = &[
    // Told to other programs, which open them.
    "bin",
    "env_file",
    "files",
    "project",
    "kubeconfig",
    // Words, patterns and addresses.
    "path",
    "health",
    "file",
    "format",
    "allow_changes",
    "allow_empty",
    "exclude",
    "include",
    "map",
    "upstream",
    "variables",
    "blue",
    "green",
    "router",
    "service",
    "settle",
    "get",
    "checks",
    "approvers",
    // The routers' own files: `tests/house.rs` sees that they are opened in the one way.
    "target",
];

#[test]
fn every_key_of_the_plan_that_names_a_file_is_in_the_table() {
    let known: BTreeSet<&str> = OF_THE_PLAN
        .iter()
        .filter_map(|place| place.named.rsplit(['.', ' ']).next())
        .chain(NO_PATH_OF_OURS.iter().copied())
        .collect();
    let schema = trapkey::tools::preflight::plan_schema();
    let mut missing = BTreeSet::new();
    let mut left = vec![&schema];
    while let Some(value) = left.pop() {
        if let Some(keys) = value.get("properties").and_then(|keys| keys.as_object()) {
            for (key, about) in keys {
                let words = about.get("description").and_then(|words| words.as_str()).unwrap_or_default();
                let words = words.to_lowercase();
                let words: Vec<&str> = words.split(|c: char| !c.is_alphanumeric()).collect();
                let speaks = ["file", "files", "folder", "path"].iter().any(|word| words.contains(word));
                if speaks && !known.contains(key.as_str()) {
                    missing.insert(key.clone());
                }
            }
        }
        match value {
            serde_json::Value::Object(inner) => left.extend(inner.values()),
            serde_json::Value::Array(inner) => left.extend(inner.iter()),
            _ => {}
        }
    }
    assert!(missing.is_empty(), "keys that speak of files without a row in the table: {missing:?}");
}

#[test]
fn whoever_reads_a_file_without_end_is_ended_by_a_signal() {
    let folder = folder();
    let plan = Plan { release: ", artifacts: [af]", ..Plan::new() };
    std::fs::write(folder.path().join("release.yaml"), plan.text()).unwrap();
    make("huge", &folder.path().join("af"));
    let mut child = tool("preflight", folder.path()).stderr(Stdio::piped()).spawn().unwrap();
    let open = format!("/proc/{}/fd", child.id());
    wait_until("the artifact is being read", || {
        let links = std::fs::read_dir(&open).into_iter().flatten().flatten();
        links.into_iter().any(|link| std::fs::read_link(link.path()).is_ok_and(|path| path.ends_with("af")))
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(folder.path().join("evidence/preflight.refused.json").exists());
}
