//! A real Redis on a free loopback port.

use std::process::{Child, Command, Stdio};

use super::postgres::spawn_for_good;
use super::{Ended, folder, free_port, run, wait_until};

/// A running server; it ends with the test.
pub(crate) struct Redis {
    pub port: u16,
    server: Child,
    _folder: tempfile::TempDir,
}

/// The password of the test server.
pub(crate) const PASSWORD: &str = "q'uo\"te%d $pace\\:@/#";
/// The same in a URL.
pub(crate) const ENCODED: &str = "q'uo%22te%25d%20$pace%5C:%40%2F%23";

impl Redis {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A server with more settings.
    pub(crate) fn with(settings: &[&str]) -> Self {
        let root = folder();
        let port = free_port();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=TERM", "--", "redis-server", "--bind", "127.0.0.1", "--save", ""])
            .args(["--repl-diskless-sync-delay", "0", "--requirepass", PASSWORD, "--port", &port.to_string()])
            .args(settings)
            .current_dir(root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self { port, server: spawn_for_good(command), _folder: root };
        wait_until("Redis", || server.call(&["PING"]).stdout.trim() == "PONG");
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://:{ENCODED}@127.0.0.1:{}", self.port)
    }

    /// One command.
    pub(crate) fn call(&self, words: &[&str]) -> Ended {
        run(Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(words)
            .env("REDISCLI_AUTH", PASSWORD))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
