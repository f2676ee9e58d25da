//! A real PostgreSQL on a free loopback port, shared by all tests of a program.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::{folder, folder_of_the_program, free_port, wait_until};

/// A running server. One of a test's own ends with it, the shared one with the program.
pub(crate) struct Postgres {
    pub port: u16,
    server: Child,
    _folder: tempfile::TempDir,
}

static SHARED: Mutex<Option<Arc<Postgres>>> = Mutex::new(None);

/// The password of the test server's superuser `shop`.
pub(crate) const PASSWORD: &str = "s3cret-of-the-test";

impl Postgres {
    /// The server that other tests use as well; make a database of your own in it.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(shared.get_or_insert_with(|| Arc::new(Self::start_in(folder_of_the_program()))))
    }

    /// A server that nobody else uses.
    pub(crate) fn of_its_own() -> Self {
        Self::start_in(folder())
    }

    fn start_in(root: tempfile::TempDir) -> Self {
        let data = root.path().join("data");
        let password = root.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        std::fs::create_dir(&data).unwrap();
        if is_root() {
            // The server refuses to run as root.
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(root.path()).status().unwrap();
            assert!(owned.success());
        }
        let made = unprivileged(&program("initdb"))
            .args(["--no-sync", "--auth=scram-sha-256", "--username=shop", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut command = unprivileged(&program("postgres"));
        command
            .arg("-D")
            .arg(&data)
            .args(["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100"])
            .args(["-c", &format!("port={port}"), "-c"])
            .arg(format!("unix_socket_directories={}", root.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self { port, server: spawn_for_good(command), _folder: root };
        wait_until("PostgreSQL", || {
            ::postgres::Client::connect(&server.url("postgres"), ::postgres::NoTls).is_ok()
        });
        server
    }

    /// The URL of a database in it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://shop:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database; gives its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        let mut client = ::postgres::Client::connect(&self.url("postgres"), ::postgres::NoTls).unwrap();
        client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).unwrap();
        self.url(name)
    }

    /// Runs SQL in a database of this server.
    pub(crate) fn execute(url: &str, sql: &str) {
        ::postgres::Client::connect(url, ::postgres::NoTls).unwrap().batch_execute(sql).unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // INT is PostgreSQL's fast shutdown.
        let pid = self.server.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.server.wait();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).is_ok_and(|uid| uid == 0)
}

/// `--pdeathsig` tells the server to end when the THREAD that started it ends, and a test's thread ends
/// with its test: start it from one that lasts as long as the program.
pub(crate) fn spawn_for_good(mut command: Command) -> Child {
    let (sender, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sender.send(command.spawn().unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    });
    started.recv().unwrap()
}

fn unprivileged(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=INT"])
            .arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// A server program; Debian keeps them outside PATH.
pub(crate) fn program(name: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}
