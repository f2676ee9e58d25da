//! What tests share: running a binary with a clean environment, folders, ports, real servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub(crate) use ports::free_port;

pub(crate) mod answering;
pub(crate) mod caddy;
pub(crate) mod cluster;
pub(crate) mod command_router;
pub(crate) mod docker;
pub(crate) mod envoy;
pub(crate) mod faults;
pub(crate) mod haproxy;
pub(crate) mod mariadb;
pub(crate) mod meddler;
pub(crate) mod nginx;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod prometheus;
pub(crate) mod redis;
pub(crate) mod router;
pub(crate) mod s3;
pub(crate) mod side;
pub(crate) mod traefik;
pub(crate) mod visitor;
pub(crate) mod workflow;

/// A folder that goes away with the test.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("trapkey-test-").tempdir().unwrap()
}

/// A folder that goes away with this program, however it ends: what servers that all tests share write.
pub(crate) fn folder_of_the_program() -> tempfile::TempDir {
    let mut root = folder();
    // The shell reads until the pipe closes, which it does with us. A server that ends at the same time
    // may still write.
    let script = "cat >/dev/null; for n in 1 2 3 4 5 6 7 8 9; do rm -rf -- \"$0\"; sleep 0.3; done";
    let mut keeper = Command::new("sh");
    keeper.args(["-c", script]).arg(root.path()).stdin(std::process::Stdio::piped());
    keeper.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // In a group of its own: a Ctrl-C at the terminal is not for it.
    std::os::unix::process::CommandExt::process_group(&mut keeper, 0);
    std::mem::forget(keeper.spawn().unwrap());
    root.disable_cleanup(true);
    root
}

/// The path of one of the five binaries.
pub(crate) fn binary(tool: &str) -> PathBuf {
    PathBuf::from(match tool {
        "preflight" => env!("CARGO_BIN_EXE_preflight"),
        "snapshot" => env!("CARGO_BIN_EXE_snapshot"),
        "promote" => env!("CARGO_BIN_EXE_promote"),
        "verify" => env!("CARGO_BIN_EXE_verify"),
        "report" => env!("CARGO_BIN_EXE_report"),
        other => panic!("no binary {other}"),
    })
}

/// One of the five binaries in a folder, without the variables of the CI around us.
pub(crate) fn tool(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(binary(name));
    command.current_dir(folder).env_clear();
    for keep in ["PATH", "HOME", "LANG", "TMPDIR", "USER"] {
        if let Some(value) = std::env::var_os(keep) {
            command.env(keep, value);
        }
    }
    command
}

/// How a binary ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ended {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs a binary with some arguments in a folder.
pub(crate) fn call(name: &str, folder: &Path, arguments: &[&str]) -> Ended {
    run(tool(name, folder).args(arguments))
}

/// Reads a JSON file of a folder.
pub(crate) fn json(path: &Path) -> serde_json::Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// How long an event is waited for before the test gives up. It says nothing about how fast anything has
/// to be: a machine with ten other things to do must get there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until something is true.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    wait_for(what, || ready().then_some(()));
}

/// Waits until there is something, and gives it.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {} seconds for {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}
