//! PostgreSQL with TLS: what each `sslmode` lets through.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use trapkey::checks;
use trapkey::evidence::{Finding, Verdict};
use trapkey::plan::Loaded;

use super::servers::Authority;
use crate::support::postgres::program;
use crate::support::{folder, free_port, wait_until};

/// A server of its own, with a certificate for `localhost`.
struct Encrypted {
    folder: tempfile::TempDir,
    port: u16,
    server: Child,
}

impl Encrypted {
    fn start() -> Self {
        let folder = folder();
        let authority = Authority::new();
        let (certificate, key) = authority.issue("localhost", (2020, 2120));
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("ca.pem"), authority.pem()).unwrap();
        std::fs::write(at("other-ca.pem"), Authority::new().pem()).unwrap();
        std::fs::write(at("server.crt"), certificate).unwrap();
        std::fs::write(at("server.key"), key).unwrap();
        std::fs::set_permissions(at("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir(at("data")).unwrap();
        if rustix::process::geteuid().is_root() {
            // The server refuses to run as root.
            assert!(
                Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status().unwrap().success()
            );
        }
        let made = unprivileged("initdb")
            .args(["--no-sync", "--auth=trust", "--username=shop", "-D"])
            .arg(at("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let server = unprivileged("postgres")
            .arg("-D")
            .arg(at("data"))
            .args(["-c", "fsync=off", "-c", "listen_addresses=localhost", "-c", "ssl=on"])
            .args([
                "-c",
                &format!("port={port}"),
                "-c",
                &format!("ssl_cert_file={}", at("server.crt").display()),
            ])
            .args(["-c", &format!("ssl_key_file={}", at("server.key").display()), "-c"])
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { folder, port, server };
        let url = format!("postgres://shop@localhost:{port}/postgres");
        wait_until("PostgreSQL with TLS", || postgres::Client::connect(&url, postgres::NoTls).is_ok());
        server
    }

    /// One check that asks whether its own connection is encrypted.
    fn check(&self, options: &str, ca: &str) -> Finding {
        let with = if ca.is_empty() { String::new() } else { format!("ca: {ca}, ") };
        let plan = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n    - name: it\n      \
             kind: postgres\n      target: postgres://shop@localhost:{}/postgres{options}\n      \
             with: {{{with}query: \"SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()\"}}\n      \
             expect: {{value: t}}\n",
            self.port
        );
        let path = self.folder.path().join("release.yaml");
        std::fs::write(&path, plan).unwrap();
        let loaded = Loaded::read(&path, BTreeMap::new()).unwrap();
        let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded);
        checks::run(&prepared.unwrap_or_else(|fault| panic!("{fault}")), 1, &|_| {}).remove(0)
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        // INT is PostgreSQL's fast shutdown.
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

fn unprivileged(name: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program(name));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program(name));
    command
}

#[test]
fn sslmode_is_honoured_and_a_certificate_is_looked_at_where_asked() {
    let server = Encrypted::start();
    let cases = [
        ("?sslmode=disable", "", Verdict::Fail, "value is `f`"),
        ("", "", Verdict::Pass, "value `t`"),
        ("?sslmode=prefer", "", Verdict::Pass, "value `t`"),
        ("?sslmode=require", "", Verdict::Pass, "value `t`"),
        ("?sslmode=require", "ca.pem", Verdict::Pass, "value `t`"),
        ("?sslmode=verify-full", "ca.pem", Verdict::Pass, "value `t`"),
        ("?sslmode=require", "other-ca.pem", Verdict::Fail, "invalid peer certificate"),
        // The system does not know our authority.
        ("?sslmode=verify-full", "", Verdict::Fail, "invalid peer certificate"),
        ("?sslmode=require", "none.pem", Verdict::Error, "cannot be read"),
    ];
    for (options, ca, verdict, words) in cases {
        let finding = server.check(options, ca);
        assert_eq!(finding.verdict, verdict, "{options} {ca}: {}", finding.message);
        assert!(finding.message.contains(words), "{options} {ca}: {}", finding.message);
    }
}
