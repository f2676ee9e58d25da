//! The source `postgres` against a real server: consistent, restorable, compared afterwards, silent
//! about passwords.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use trapkey::evidence::{Finding, SourceRecord, Verdict};
use trapkey::plan::Loaded;
use trapkey::sources::intact;

use super::Place;
use crate::support::postgres::{PASSWORD, Postgres, program};
use crate::support::{Ended, run, wait_until};

const SHOP: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, total_cents bigint NOT NULL, note text);
    INSERT INTO orders (total_cents, note) SELECT n * 7, 'order ' || n FROM generate_series(1, 1000) n;
    CREATE TABLE settings (name text PRIMARY KEY, value text);
    INSERT INTO settings VALUES ('currency', 'EUR'), ('odd ''name''', E'line\\nbreak');";

const SOURCE: &str = "{name: database, kind: postgres, target: \"${DATABASE_URL}\", with: {tables: [{name: orders, \
                      sum: total_cents, key: id}, {name: settings}]}}";

fn create(place: &Place, url: &str) -> Ended {
    run(place.command().arg("create").env("DATABASE_URL", url))
}

fn rows(url: &str, sql: &str) -> Vec<String> {
    let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Restores the dump of the latest snapshot into a new database and gives its URL.
fn restored(place: &Place, server: &Postgres, name: &str) -> String {
    place.good(&["restore", "--store", "store", "--to", "back"]);
    let url = server.database(name);
    let ended = run(Command::new(program("pg_restore"))
        .args(["--exit-on-error", "--dbname", &url])
        .arg(place.path("back/database/database.dump")));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    url
}

#[test]
fn a_restored_dump_has_the_same_rows() {
    let server = Postgres::shared();
    let url = server.database("same_rows");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    let ended = create(&place, &url);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let source = &place.document()["snapshot"]["sources"][0];
    assert_eq!(source["tables"][0]["rows"], 1000);
    assert_eq!(source["tables"][0]["sum"], "3503500");
    assert_eq!(source["tables"][0]["up_to"], "1000");
    assert_eq!(source["tables"][1]["rows"], 2);
    assert!(source["proof"].as_str().unwrap().contains("pg_restore read the whole dump back"), "{source}");
    assert!(source["details"]["lsn"].as_str().unwrap().contains('/'));
    assert!(!source["details"]["server_version"].as_str().unwrap().is_empty());
    let copy = restored(&place, &server, "same_rows_copy");
    for sql in
        ["SELECT orders::text FROM orders ORDER BY id", "SELECT settings::text FROM settings ORDER BY name"]
    {
        assert_eq!(rows(&copy, sql), rows(&url, sql));
    }
}

/// A folder of programs in which pg_dump is a script.
fn programs(place: &Place, script: &str) {
    place.script("bin/pg_dump", &script.replace("REAL", program("pg_dump").to_str().unwrap()));
    std::os::unix::fs::symlink(program("pg_restore"), place.path("bin/pg_restore")).unwrap();
    let source = SOURCE.replace("with: {", "with: {bin: bin, ");
    place.plan(&source, "");
}

#[test]
fn figures_and_dump_are_of_one_moment_while_others_write() {
    let server = Postgres::shared();
    let url = server.database("one_moment");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    // Late, so that rows surely come between the figures and the dump.
    programs(&place, "sleep 0.7; exec REAL \"$@\"");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, url) = (Arc::clone(&stop), url.clone());
        move || {
            let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
            while !stop.load(Ordering::SeqCst) {
                client.batch_execute("INSERT INTO orders (total_cents) VALUES (11); UPDATE settings SET value = value || 'x'").unwrap();
            }
        }
    });
    let ended = create(&place, &url);
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let recorded = place.document()["snapshot"]["sources"][0]["tables"][0].clone();
    let copy = restored(&place, &server, "one_moment_copy");
    let figures = "SELECT count(*) || ' ' || sum(total_cents) || ' ' || max(id) FROM orders";
    let expected = format!(
        "{} {} {}",
        recorded["rows"],
        recorded["sum"].as_str().unwrap(),
        recorded["up_to"].as_str().unwrap()
    );
    assert_eq!(rows(&copy, figures), std::slice::from_ref(&expected));
    assert_ne!(rows(&url, figures), [expected], "nothing was written meanwhile: the test proves nothing");
}

#[test]
fn a_failing_dump_leaves_no_snapshot() {
    let server = Postgres::shared();
    let url = server.database("failing");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    for (script, word) in [
        ("REAL \"$@\" | head -c 200; echo connection lost >&2; exit 1", "connection lost"),
        // Ends with 0, but what it wrote is cut: only the proof notices.
        ("REAL \"$@\" | head -c 3000", "pg_restore failed"),
        ("echo 'not a dump'", "pg_restore failed"),
        ("kill -9 $$", "was ended by a signal"),
    ] {
        let _ = std::fs::remove_dir_all(place.path("bin"));
        programs(&place, script);
        let ended = create(&place, &url);
        assert_eq!(ended.code, 4, "{script}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{script}: {}", ended.stderr);
        assert_eq!(place.document()["verdict"], "error");
        std::fs::remove_file(place.path("release.yaml")).unwrap();
        let list: Value =
            serde_json::from_str(&place.good(&["list", "--json", "--store", "store"]).stdout).unwrap();
        assert_eq!(list["snapshots"], serde_json::json!([]));
    }
}

#[test]
fn a_database_that_does_not_answer_or_refuses_is_an_infrastructure_error() {
    let server = Postgres::shared();
    let place = Place::new(SOURCE);
    let wrong = server.url("postgres").replace(PASSWORD, "wrong-password");
    let nobody = format!("postgres://shop:wrong-password@127.0.0.1:{}/x", crate::support::free_port());
    let empty = server.database("without_tables");
    for (url, words) in
        [(&wrong, "password authentication failed"), (&nobody, "onnection refused"), (&empty, "orders")]
    {
        let ended = create(&place, url);
        assert_eq!(ended.code, 4, "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
        assert!(!ended.stderr.contains("wrong-password"), "{}", ended.stderr);
    }
}

#[test]
fn the_password_is_in_no_document_log_store_or_process_list() {
    let server = Postgres::shared();
    let url = server.database("secrets");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    programs(&place, "cat /proc/$$/cmdline /proc/$PPID/cmdline > cmdlines; exec REAL \"$@\"");
    let ended = create(&place, &url);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let cmdlines = std::fs::read(place.path("cmdlines")).unwrap();
    let cmdlines = String::from_utf8_lossy(&cmdlines);
    assert!(cmdlines.contains("--snapshot=") && cmdlines.contains("create"), "{cmdlines}");
    let document = std::fs::read_to_string(place.path("evidence/snapshot.json")).unwrap();
    assert!(document.contains("${DATABASE_URL}"));
    for text in [&*cmdlines, &document, &ended.stderr, &ended.stdout] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    for file in super::walk(&place.path("store")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(PASSWORD.len()).any(|w| w == PASSWORD.as_bytes()), "{}", file.display());
    }
}

fn compare(place: &Place, url: &str) -> Vec<Finding> {
    let set = [("DATABASE_URL".to_owned(), url.to_owned())].into();
    let loaded = Loaded::read(&place.path("release.yaml"), set).unwrap();
    let records: Vec<SourceRecord> =
        serde_json::from_value(place.document()["snapshot"]["sources"].clone()).unwrap();
    intact(&loaded.plan.snapshot.as_ref().unwrap().sources, &loaded, &records)
}

fn verdicts(findings: &[Finding]) -> Vec<(&str, Verdict)> {
    findings.iter().map(|f| (f.name.as_str(), f.verdict)).collect()
}

#[test]
fn live_data_is_compared_with_what_was_recorded() {
    let server = Postgres::shared();
    let url = server.database("compared");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    assert_eq!(create(&place, &url).code, 0);
    let (orders, settings) = ("data intact: orders", "data intact: settings");
    let both = |a, b| vec![(orders, a), (settings, b)];
    assert_eq!(verdicts(&compare(&place, &url)), both(Verdict::Pass, Verdict::Pass));

    Postgres::execute(&url, "INSERT INTO orders (total_cents) VALUES (5), (6)");
    let findings = compare(&place, &url);
    assert_eq!(verdicts(&findings), both(Verdict::Pass, Verdict::Pass));
    assert!(findings[0].observed.as_ref().unwrap().contains("2 later rows"), "{findings:?}");
    assert_eq!(findings[0].kind, "data");

    Postgres::execute(&url, "INSERT INTO settings VALUES ('new', 'x')");
    assert_eq!(verdicts(&compare(&place, &url)), both(Verdict::Pass, Verdict::Fail));
    Postgres::execute(&url, "DELETE FROM settings WHERE name = 'new'");

    for (harm, mend) in [
        (
            "UPDATE orders SET total_cents = total_cents + 1 WHERE id = 7",
            "UPDATE orders SET total_cents = total_cents - 1 WHERE id = 7",
        ),
        ("DELETE FROM orders WHERE id = 1000", "INSERT INTO orders (id, total_cents) VALUES (1000, 7000)"),
        ("ALTER TABLE orders RENAME TO gone", "ALTER TABLE gone RENAME TO orders"),
        ("ALTER TABLE orders RENAME total_cents TO cents", "ALTER TABLE orders RENAME cents TO total_cents"),
    ] {
        Postgres::execute(&url, harm);
        assert_eq!(verdicts(&compare(&place, &url)), both(Verdict::Fail, Verdict::Pass), "{harm}");
        Postgres::execute(&url, mend);
        assert_eq!(verdicts(&compare(&place, &url)), both(Verdict::Pass, Verdict::Pass), "{mend}");
    }

    let nobody = format!("postgres://shop:hidden-word@127.0.0.1:{}/x", crate::support::free_port());
    let findings = compare(&place, &nobody);
    assert_eq!(verdicts(&findings), both(Verdict::Error, Verdict::Error));
    assert!(!format!("{findings:?}").contains("hidden-word"));
}

#[test]
fn a_table_that_was_empty_may_have_rows_later() {
    let server = Postgres::shared();
    let url = server.database("was_empty");
    Postgres::execute(
        &url,
        "CREATE TABLE orders (id serial PRIMARY KEY, total_cents real); CREATE TABLE settings (a int)",
    );
    let place = Place::new(SOURCE);
    let ended = create(&place, &url);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(place.document()["snapshot"]["sources"][0]["tables"][0]["rows"], 0);
    Postgres::execute(&url, "INSERT INTO orders (total_cents) VALUES (0.1), (0.2)");
    let findings = compare(&place, &url);
    assert!(findings.iter().all(|f| f.verdict == Verdict::Pass), "{findings:?}");
}

/// Turns TLS on in the shared server, with a certificate for `localhost`; gives the certificate's file.
fn with_tls(place: &Place, server: &Postgres) -> String {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    place.write("tls/server.crt", own.cert.pem().as_bytes());
    place.write("tls/server.key", own.signing_key.serialize_pem().as_bytes());
    let mode = |path: &str, mode| {
        let bits = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(place.path(path), bits).unwrap();
    };
    mode("tls/server.key", 0o600);
    mode("", 0o755);
    if super::is_root() {
        let owned = Command::new("chown").args(["-R", "postgres"]).arg(place.path("tls")).status().unwrap();
        assert!(owned.success());
    }
    let admin = server.url("postgres");
    for (name, file) in [("ssl_cert_file", "tls/server.crt"), ("ssl_key_file", "tls/server.key")] {
        Postgres::execute(&admin, &format!("ALTER SYSTEM SET {name} = '{}'", place.path(file).display()));
    }
    Postgres::execute(&admin, "ALTER SYSTEM SET ssl = on");
    Postgres::execute(&admin, "SELECT pg_reload_conf()");
    wait_until("TLS", || rows(&admin, "SELECT current_setting('ssl')") == ["on"]);
    place.path("tls/server.crt").display().to_string()
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    let server = Postgres::shared();
    let url = server.database("encrypted");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    let certificate = with_tls(&place, &server);
    let root = format!("&sslrootcert={certificate}");
    let named = url.replace("127.0.0.1", "localhost");
    for (url, options, code) in [
        (&url, "sslmode=prefer".to_owned(), 0),
        (&url, "sslmode=require".to_owned(), 0),
        (&url, format!("sslmode=verify-ca{root}"), 0),
        (&named, format!("sslmode=verify-full{root}"), 0),
        // The certificate is not for that name, and not of a known authority.
        (&url, format!("sslmode=verify-full{root}"), 4),
        (&named, "sslmode=verify-full&sslrootcert=system".to_owned(), 4),
    ] {
        let ended = create(&place, &format!("{url}?{options}"));
        assert_eq!(ended.code, code, "{options}: {}", ended.stderr);
        assert!(code == 0 || ended.stderr.contains("ertificate"), "{options}: {}", ended.stderr);
    }
    Postgres::execute(&url, "ALTER SYSTEM SET ssl = off");
    Postgres::execute(&url, "SELECT pg_reload_conf()");
    wait_until("no TLS", || rows(&url, "SELECT current_setting('ssl')") == ["off"]);
    let ended = create(&place, &format!("{url}?sslmode=require"));
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("TLS"), "{}", ended.stderr);
}
