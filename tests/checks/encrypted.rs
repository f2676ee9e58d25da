//! PostgreSQL with TLS: what each `sslmode` lets through, and that check and source agree on an address.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use trapkey::checks;
use trapkey::evidence::{Finding, Verdict};
use trapkey::plan::Loaded;

use super::servers::Authority;
use crate::support::postgres::{PASSWORD, program};
use crate::support::{Ended, folder, free_port, run, tool, wait_until};

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
        std::fs::write(at("password"), PASSWORD).unwrap();
        std::fs::create_dir(at("data")).unwrap();
        if rustix::process::geteuid().is_root() {
            // The server refuses to run as root.
            assert!(
                Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status().unwrap().success()
            );
        }
        let made = unprivileged("initdb")
            .args(["--no-sync", "--auth=scram-sha-256", "--username=shop"])
            .arg(format!("--pwfile={}", at("password").display()))
            .arg("-D")
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
        let url = format!("postgres://shop:{PASSWORD}@localhost:{port}/postgres");
        wait_until("PostgreSQL with TLS", || postgres::Client::connect(&url, postgres::NoTls).is_ok());
        server
    }

    /// One check that asks whether its own connection is encrypted.
    fn check(&self, options: &str, ca: &str) -> Finding {
        let with = if ca.is_empty() { String::new() } else { format!("ca: {ca}, ") };
        let plan = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n    - name: it\n      \
             kind: postgres\n      target: postgres://shop:{PASSWORD}@localhost:{}/postgres{options}\n      \
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
        ("?sslmode=verify-ca", "ca.pem", Verdict::Pass, "value `t`"),
        ("?sslmode=prefer", "other-ca.pem", Verdict::Fail, "invalid peer certificate"),
        ("?sslmode=verify-ca", "other-ca.pem", Verdict::Fail, "invalid peer certificate"),
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

/// An address, the variables that go with it, and words of the refusal where it is refused.
type Case = (String, Vec<(&'static str, String)>, Option<&'static str>);

fn addresses(server: &Encrypted) -> Vec<Case> {
    let port = server.port;
    let at = |name: &str| server.folder.path().join(name).display().to_string();
    let (ca, other) = (at("ca.pem"), at("other-ca.pem"));
    let named = format!("postgres://shop:{PASSWORD}@localhost:{port}/postgres");
    let numbered = named.replace("localhost", "127.0.0.1");
    let password = || ("PGPASSWORD", PASSWORD.to_owned());
    let all = || {
        vec![
            ("PGHOST", "localhost".to_owned()),
            ("PGPORT", port.to_string()),
            ("PGUSER", "shop".to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
            password(),
        ]
    };
    let with = |more: [(&'static str, String); 2]| [all(), more.to_vec()].concat();
    std::fs::write(at("pgpass"), format!("localhost:{port}:*:shop:{PASSWORD}\n")).unwrap();
    let service =
        format!("[mine]\nhost=localhost\nport={port}\nuser=shop\npassword={PASSWORD}\ndbname=postgres\n");
    std::fs::write(at("services"), service).unwrap();
    std::fs::set_permissions(at("pgpass"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let bare = format!("host=localhost port={port} user=shop dbname=postgres");
    let certificate = Some("invalid peer certificate");
    vec![
        (format!("{named}?sslmode=verify-full&sslrootcert={ca}"), vec![], None),
        (format!("{named}?sslmode=verify-full&sslrootcert={other}"), vec![], certificate),
        (format!("{named}?sslmode=verify-full&sslrootcert={ca}.none"), vec![], Some("cannot be read")),
        (format!("{named}?sslrootcert=system"), vec![], certificate),
        // The certificate is for `localhost`: only `verify-full` minds.
        (format!("{numbered}?sslmode=verify-ca&sslrootcert={ca}"), vec![], None),
        (format!("{numbered}?sslmode=require&sslrootcert={ca}"), vec![], None),
        (format!("{numbered}?sslmode=require&sslrootcert={other}"), vec![], certificate),
        (format!("{numbered}?sslmode=verify-full&sslrootcert={ca}"), vec![], certificate),
        (format!("{bare} password={PASSWORD} sslmode='verify-ca' sslrootcert='{ca}'"), vec![], None),
        (bare.clone(), vec![password()], None),
        (bare.clone(), vec![("PGPASSFILE", at("pgpass"))], None),
        (bare, vec![("PGPASSFILE", at("none"))], Some("password")),
        ("postgres://".into(), all(), None),
        ("sslmode=require".into(), all(), None),
        ("postgres://".into(), with([("PGSSLMODE", "verify-full".into()), ("PGSSLROOTCERT", ca)]), None),
        (
            "postgres://".into(),
            with([("PGSSLMODE", "verify-ca".into()), ("PGSSLROOTCERT", other)]),
            certificate,
        ),
        // What only libpq's own parser knew.
        (format!("{named}?sslmode=allow&gssencmode=disable&target_session_attrs=read-write"), vec![], None),
        (format!("{named}?target_session_attrs=standby"), vec![], Some("the server is not standby")),
        (format!("{named}?gssencmode=require"), vec![], Some("gssencmode")),
        (format!("{named}?sslmode=verify-ca"), vec![], Some("needs `sslrootcert`")),
        (
            format!("postgres://shop:%73{}@127.0.0.1:1,localhost:{port}/postgres", &PASSWORD[1..]),
            vec![],
            None,
        ),
        (
            format!("postgres:///postgres?host={}&port={port}&user=shop&passfile={}", at(""), at("pgpass")),
            vec![],
            None,
        ),
        ("service=mine".into(), vec![("PGSERVICEFILE", at("services"))], None),
        (format!("{named}?sslmode=maybe"), vec![], Some("`sslmode=maybe` is not known")),
        (format!("{named}?sslmode=require&sslrootcert=system"), vec![], Some("needs `sslmode=verify-full`")),
        (format!("postgres://shop:{PASSWORD}@localhost:none/x"), vec![], Some("is not a connection URL")),
    ]
}

#[test]
fn the_check_accepts_what_the_source_accepts_and_refuses_what_it_refuses() {
    let server = Encrypted::start();
    let folder = folder();
    let head = "version: 1\nservice: shop\nrelease: {version: 1.0}\n";
    let database = "{name: db, kind: postgres, target: \"${DATABASE_URL}\"}";
    let check = format!("{head}preflight:\n  checks:\n    - {database}\n");
    let source = format!(
        "{head}snapshot:\n  store: store\n  encryption: {{none_needed_because: a test}}\n  sources:\n    - {database}\n"
    );
    std::fs::write(folder.path().join("check.yaml"), check).unwrap();
    std::fs::write(folder.path().join("source.yaml"), source).unwrap();
    let ask = |binary: &str, words: &[&str], (address, variables, _): &Case| -> Ended {
        let mut command = tool(binary, folder.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // No password file of whoever runs the tests.
        command.env("HOME", folder.path()).env("DATABASE_URL", address);
        run(command.envs(variables.iter().map(|(name, value)| (name, value))).args(words))
    };
    for case in addresses(&server) {
        let checked = ask("preflight", &["--plan", "check.yaml"], &case);
        let stored = ask("snapshot", &["create", "--plan", "source.yaml"], &case);
        for ended in [&checked, &stored] {
            let (address, variables, refused) = &case;
            assert_eq!(ended.code == 0, refused.is_none(), "{address} {variables:?}: {ended:?}");
            assert!(ended.stderr.contains(refused.unwrap_or_default()), "{address}: {}", ended.stderr);
            assert!(!ended.stderr.contains(PASSWORD), "{address}: {}", ended.stderr);
        }
    }
}
