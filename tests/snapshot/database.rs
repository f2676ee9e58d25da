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
    // Rows surely come between the figures and the dump: it waits for them.
    programs(&place, "touch dumping; until [ -e go-on ]; do sleep 0.05; done; exec REAL \"$@\"");
    let at = place.folder.path().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, url) = (Arc::clone(&stop), url.clone());
        move || {
            let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
            let mut written = 0;
            while !stop.load(Ordering::SeqCst) {
                client.batch_execute("INSERT INTO orders (total_cents) VALUES (11); UPDATE settings SET value = value || 'x'").unwrap();
                written += u32::from(at.join("dumping").exists());
                if written == 3 {
                    std::fs::write(at.join("go-on"), "").unwrap();
                }
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

#[test]
fn a_changed_row_changes_only_its_own_part_of_the_dump() {
    let server = Postgres::shared();
    let url = server.database("without_compression");
    Postgres::execute(
        &url,
        "CREATE TABLE t (id int PRIMARY KEY, fill text); INSERT INTO t SELECT n, repeat('wort ', 100) || n FROM generate_series(1, 2000) n",
    );
    let place = Place::new("{name: database, kind: postgres, target: \"${DATABASE_URL}\"}");
    let dump = || {
        assert_eq!(create(&place, &url).code, 0);
        let _ = std::fs::remove_dir_all(place.path("back"));
        place.good(&["restore", "--store", "store", "--to", "back"]);
        std::fs::read(place.path("back/database/database.dump")).unwrap()
    };
    let before = dump();
    Postgres::execute(&url, "UPDATE t SET fill = 'short' WHERE id = 1000");
    let after = dump();
    assert!(before.len() > 900_000, "it is compressed");
    // The updated row moves to the end; everything else stays as it was, in pieces that are stored once.
    let rows = |bytes: &[u8]| bytes.windows(5).filter(|w| w == b"wort ").count();
    assert_eq!(rows(&before), rows(&after) + 100);
    let middle = &before[before.len() / 4..before.len() / 4 + 100_000];
    assert!(after.windows(middle.len()).any(|w| w == middle));
}

#[test]
fn a_restore_into_a_live_database_is_all_or_nothing_and_overwrites_nothing_unasked() {
    use super::live::restore_into;
    let server = Postgres::shared();
    let url = server.database("live_origin");
    Postgres::execute(&url, SHOP);
    let place = Place::new(SOURCE);
    assert_eq!(create(&place, &url).code, 0);
    let copy = server.database("live_copy");
    let said = restore_into(&place, &url, &copy, false).unwrap();
    assert!(said.contains("in one transaction") && said.contains("rows and sums of 2 tables"), "{said}");
    let all = "SELECT orders::text FROM orders ORDER BY id";
    assert_eq!(rows(&copy, all), rows(&url, all));

    Postgres::execute(&copy, "UPDATE orders SET total_cents = 0; CREATE TABLE more (id int)");
    let fault = restore_into(&place, &url, &copy, false).unwrap_err();
    assert!(fault.exit.code() == 5 && fault.to_string().contains("not empty"), "{fault}");
    assert_eq!(rows(&copy, "SELECT sum(total_cents)::text FROM orders"), ["0"]);
    let said = restore_into(&place, &url, &copy, true).unwrap();
    assert!(said.contains("in place of"), "{said}");
    assert_eq!(rows(&copy, "SELECT sum(total_cents)::text FROM orders"), ["3503500"]);
    assert_eq!(rows(&copy, "SELECT count(*)::text FROM more"), ["0"]);

    // A function alone is something, too.
    let one = server.database("live_function");
    Postgres::execute(&one, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    assert_eq!(restore_into(&place, &url, &one, false).unwrap_err().exit.code(), 5);

    let wrong = copy.replace(PASSWORD, "wrong-password");
    for (target, code, word) in
        [(wrong.as_str(), 4, "password authentication failed"), ("mysql://x/y?sslmode=no", 2, "")]
    {
        let fault = restore_into(&place, &url, target, true).unwrap_err();
        assert_eq!(fault.exit.code(), code, "{fault}");
        assert!(fault.to_string().contains(word) && !fault.to_string().contains("wrong-password"), "{fault}");
    }
    // Cut in the middle: the transaction takes everything back.
    let cut = server.database("live_cut");
    let dump = place.path("back/database/database.dump");
    let bytes = std::fs::read(&dump).unwrap();
    std::fs::write(&dump, &bytes[..bytes.len() - 2000]).unwrap();
    let fault = restore_into(&place, &url, &cut, false).unwrap_err();
    assert!(fault.exit.code() == 4 && fault.to_string().contains("nothing was changed"), "{fault}");
    assert_eq!(rows(&cut, "SELECT count(*)::text FROM pg_class WHERE relname = 'orders'"), ["0"]);
}

#[test]
fn grants_to_roles_that_are_missing_are_named_and_can_be_left_out() {
    use super::live::restore_into;
    let server = Postgres::shared();
    let url = server.database("granted");
    Postgres::execute(&url, SHOP);
    Postgres::execute(&url, "CREATE ROLE reporting; GRANT SELECT ON orders TO reporting");
    let place = Place::new(SOURCE);
    assert_eq!(create(&place, &url).code, 0);
    Postgres::execute(&url, "REVOKE ALL ON orders FROM reporting; DROP ROLE reporting");
    let copy = server.database("granted_copy");
    let fault = restore_into(&place, &url, &copy, false).unwrap_err();
    assert!(
        fault.to_string().contains("\"reporting\"") && fault.to_string().contains("restore_grants"),
        "{fault}"
    );
    place.plan(&SOURCE.replace("with: {", "with: {restore_grants: false, "), "");
    restore_into(&place, &url, &copy, false).unwrap();
}

#[test]
fn a_whole_server_comes_back_with_its_roles_and_every_database() {
    use super::live::restore_into;
    let (server, other) = (Postgres::of_its_own(), Postgres::of_its_own());
    let url = server.database("shop");
    Postgres::execute(&url, SHOP);
    let odd = server.database("o'dd /n\u{e4}me");
    drop(odd);
    Postgres::execute(
        &server.url("o%27dd%20%2Fn%C3%A4me"),
        "CREATE TABLE t (id int); INSERT INTO t VALUES (7)",
    );
    Postgres::execute(
        &url,
        "CREATE ROLE clerk LOGIN PASSWORD 'of-the-clerk'; ALTER TABLE settings OWNER TO clerk",
    );
    let place = Place::new(&SOURCE.replace("with: {", "with: {whole_server: true, "));
    let ended = create(&place, &url);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let source = &place.document()["snapshot"]["sources"][0];
    assert_eq!(source["tables"][0]["rows"], 1000);
    assert!(source["proof"].as_str().unwrap().contains("3 databases"), "{source}");
    let into = other.url("postgres");
    let said = restore_into(&place, &url, &into, false).unwrap();
    assert!(
        said.contains("the roles and 3 databases") && said.contains("rows and sums of 2 tables"),
        "{said}"
    );
    assert_eq!(rows(&other.url("o%27dd%20%2Fn%C3%A4me"), "SELECT id::text FROM t"), ["7"]);
    let clerk = other.url("shop").replace(&format!("shop:{PASSWORD}"), "clerk:of-the-clerk");
    assert_eq!(rows(&clerk, "SELECT value FROM settings WHERE name = 'currency'"), ["EUR"]);
    // It is there now.
    assert_eq!(restore_into(&place, &url, &into, false).unwrap_err().exit.code(), 5);
    Postgres::execute(&other.url("shop"), "DELETE FROM orders");
    restore_into(&place, &url, &into, true).unwrap();
    assert_eq!(rows(&other.url("shop"), "SELECT count(*)::text FROM orders"), ["1000"]);

    // The hashes of passwords are in it, and can be left out.
    let globals = |place: &Place| std::fs::read_to_string(place.path("back/database/globals.sql")).unwrap();
    assert!(globals(&place).contains("SCRAM-SHA-256"));
    let without =
        Place::new(&SOURCE.replace("with: {", "with: {whole_server: true, role_passwords: false, "));
    assert_eq!(create(&without, &url).code, 0);
    without.good(&["restore", "--store", "store", "--to", "back"]);
    assert!(globals(&without).contains("clerk") && !globals(&without).contains("SCRAM-SHA-256"));

    // Tables are never looked for in no database, and none is passed over.
    let ended = create(&place, &server.url("template1"));
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("names none of the server's databases"), "{}", ended.stderr);
    Postgres::execute(&server.url("postgres"), "CREATE DATABASE shut ALLOW_CONNECTIONS false");
    let ended = create(&place, &url);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("`shut` lets nobody connect"), "{}", ended.stderr);
}
