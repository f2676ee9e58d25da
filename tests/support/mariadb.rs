//! A real MariaDB on a free loopback port, shared by all tests of a program.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::postgres::spawn_for_good;
use super::{folder, folder_of_the_program, free_port, run, wait_until};

/// A running server. One of a test's own ends with it, the shared one with the program.
pub(crate) struct Mariadb {
    pub port: u16,
    server: Child,
    root: tempfile::TempDir,
}

static SHARED: Mutex<Option<Arc<Mariadb>>> = Mutex::new(None);

/// The password of the user `shop`, with everything that has a meaning somewhere.
pub(crate) const PASSWORD: &str = "q'uo\"te%d $pace\\:@/#";
/// The same in a URL.
pub(crate) const ENCODED: &str = "q'uo%22te%25d%20$pace%5C:%40%2F%23";

impl Mariadb {
    /// The server that other tests use as well; make a database of your own in it.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shared.get_or_insert_with(|| Arc::new(Self::start_in(folder_of_the_program()))))
    }

    /// A server of one's own, to be ended in the middle.
    pub(crate) fn start() -> Self {
        Self::start_in(folder())
    }

    fn start_in(root: tempfile::TempDir) -> Self {
        let data = root.path().join("data");
        // A server removes the temporary tables of others when it starts.
        let temporary = root.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let temporary = format!("--tmpdir={}", temporary.display());
        let made = run(Command::new("mariadb-install-db")
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
            .args(user())
            .arg(&temporary)
            .arg(format!("--datadir={}", data.display())));
        assert_eq!(made.code, 0, "mariadb-install-db: {}", made.stderr);
        let port = free_port();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=TERM", "--"])
            .arg(program("mariadbd"))
            .arg("--no-defaults")
            .args(user())
            .args(["--bind-address=127.0.0.1", "--skip-networking=0", "--server-id=1"])
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--log-bin=log"])
            .arg("--log-bin-trust-function-creators=1")
            .arg(&temporary)
            .arg(format!("--port={port}"))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", root.path().join("socket").display()))
            .arg(format!("--pid-file={}", root.path().join("pid").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self { port, server: spawn_for_good(command), root };
        wait_until("MariaDB", || run(&mut server.client("", "SELECT 1")).code == 0);
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        server.execute(
            "",
            &format!(
                "CREATE USER shop@'%' IDENTIFIED BY '{password}'; GRANT BINLOG MONITOR ON *.* TO shop@'%'"
            ),
        );
        server
    }

    /// The URL of a database in it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("mysql://shop:{ENCODED}@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database of the user `shop`; gives its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        let pattern = name.replace('_', "\\_");
        self.execute("", &format!("CREATE DATABASE `{name}`; GRANT ALL ON `{pattern}`.* TO shop@'%'"));
        self.url(name)
    }

    /// Runs SQL as the administrator.
    pub(crate) fn execute(&self, database: &str, sql: &str) {
        self.query(database, sql);
    }

    /// Runs SQL as the administrator; gives the lines of the answer.
    pub(crate) fn query(&self, database: &str, sql: &str) -> Vec<String> {
        let ended = run(&mut self.client(database, sql));
        assert_eq!(ended.code, 0, "{sql}: {}", ended.stderr);
        ended.stdout.lines().map(str::to_owned).collect()
    }

    /// The administrator's client program.
    pub(crate) fn client(&self, database: &str, sql: &str) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "--execute", sql])
            .arg(format!("--socket={}", self.root.path().join("socket").display()))
            .args(Some(database).filter(|name| !name.is_empty()));
        command
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn crash(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        // Nothing of it is wanted any more.
        self.crash();
    }
}

fn user() -> Option<&'static str> {
    let root = std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .is_ok_and(|uid| uid == 0);
    root.then_some("--user=root")
}

/// A server program; Debian keeps them outside PATH.
fn program(name: &str) -> PathBuf {
    Some(Path::new("/usr/sbin").join(name)).filter(|path| path.exists()).unwrap_or_else(|| name.into())
}
