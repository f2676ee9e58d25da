//! What tests share: running a binary with a clean environment, folders, ports, real servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
pub(crate) mod postgres;
pub(crate) mod prometheus;
pub(crate) mod redis;
pub(crate) mod router;
pub(crate) mod s3;
pub(crate) mod side;
pub(crate) mod traefik;

/// A folder that goes away with the test.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("trapkey-test-").tempdir().unwrap()
}

/// A loopback port that was free a moment ago.
///
/// It lies below those that the system gives to outgoing connections, and is given out once.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let ours = std::process::id().wrapping_mul(997);
    loop {
        let next = ours.wrapping_add(GIVEN.fetch_add(1, Ordering::SeqCst)) % 22_000;
        let port = 10_000 + u16::try_from(next).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
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

/// Waits until something is true, at most ten seconds.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !ready() {
        assert!(started.elapsed().as_secs() < 10, "waited ten seconds for {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
