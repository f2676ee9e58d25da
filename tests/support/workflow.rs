//! Workflows as the runner reads them: their scripts, and how a step is started and cancelled.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The files that are shipped.
pub(crate) fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<PathBuf> = ["templates/workflows", ".github/workflows"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap().flatten())
        .map(|entry| entry.path())
        .collect();
    all.sort();
    all
}

/// Every step of a workflow or an action that has a script: its name and the script, as the runner gets it.
pub(crate) fn scripts(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    let mut name = String::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(named) = line.trim().strip_prefix("- name: ") {
            named.clone_into(&mut name);
        }
        if line.trim() != "run: |" {
            continue;
        }
        let inside = lines[at + 1..].iter().take_while(|l| l.trim().is_empty() || depth(l) > depth(line));
        let indent = depth(line) + 2;
        let script = inside.map(|l| format!("{}\n", l.get(indent..).unwrap_or_default())).collect();
        found.push((name.clone(), script));
    }
    found
}

/// A script as the runner starts it with `shell: bash`, in a process group of its own.
pub(crate) fn as_a_step(script: &Path) -> Command {
    // A runner's steps heed INT, also where these tests are run in the background of a shell, which ignores it there.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,QUIT,TERM,HUP", "bash"]);
    command.args(["--noprofile", "--norc", "-e", "-o", "pipefail"]).arg(script);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

/// Cancels a step: the runner signals the process that it started, and no other.
pub(crate) fn cancel(step: &Child) {
    assert!(Command::new("kill").args(["-INT", &step.id().to_string()]).status().unwrap().success());
}

/// The processes of a step's group that are left; what ended and was not waited for does not count.
pub(crate) fn left_of(step: u32) -> Vec<String> {
    let of = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        (fields[0] != "Z" && fields[2] == step.to_string()).then(|| head.to_owned())
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}
