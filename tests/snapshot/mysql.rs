//! The source `mysql` against a real MariaDB: consistent, complete, restorable, silent about passwords.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trapkey::evidence::Verdict;

use super::Place;
use super::live::{
    assert_kept_secret, assert_nothing_kept, compare, create, created, folder, restore_into, verdicts,
};
use crate::support::mariadb::{ENCODED, Mariadb, PASSWORD};
use crate::support::{free_port, run, wait_until};

const SHOP: &str = "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, total_cents BIGINT NOT NULL, note TEXT, raw BLOB);
    INSERT INTO orders (total_cents, note, raw) SELECT seq * 7, CONCAT('order ', seq), UNHEX(SHA2(seq, 256)) FROM seq_1_to_1000;
    CREATE TABLE settings (name VARCHAR(100) PRIMARY KEY, value TEXT) CHARACTER SET utf8mb4;
    INSERT INTO settings VALUES ('currency', 'EUR'), ('odd ''na\\\\me''', 'line\\nbreak\\ttab'), ('caf\u{e9} \u{1f980}', NULL);
    CREATE TABLE `odd ``name\" 'x'` (`a b` INT);
    INSERT INTO `odd ``name\" 'x'` VALUES (1), (NULL);
    CREATE DEFINER=shop@'%' VIEW expensive AS SELECT * FROM orders WHERE total_cents > 6000;
    CREATE DEFINER=shop@'%' TRIGGER upper_case BEFORE INSERT ON settings FOR EACH ROW SET NEW.value = UPPER(NEW.value);
    CREATE DEFINER=shop@'%' PROCEDURE answer() SELECT 42;
    CREATE DEFINER=shop@'%' EVENT later ON SCHEDULE AT '2037-01-01' DO SELECT 1;";

const SOURCE: &str = "{name: database, kind: mysql, target: \"${DATABASE_URL}\", with: {tables: [{name: orders, \
                      sum: total_cents, key: id}, {name: settings}, {name: \"odd `name\\\" 'x'\", sum: a b}]}}";

/// Everything in a database, as text.
fn contents(server: &Mariadb, database: &str) -> Vec<String> {
    let mut all = server.query(
        database,
        "SELECT * FROM settings ORDER BY 1; SELECT id, total_cents, note, HEX(raw) FROM orders ORDER BY id;
         SELECT * FROM `odd ``name\" 'x'` ORDER BY 1; SELECT COUNT(*) FROM expensive; CALL answer()",
    );
    for kind in [
        "table_name FROM information_schema.tables WHERE table",
        "trigger_name FROM information_schema.triggers WHERE trigger",
        "event_name FROM information_schema.events WHERE event",
    ] {
        all.extend(server.query(database, &format!("SELECT {kind}_schema = DATABASE() ORDER BY 1")));
    }
    all
}

/// A folder of programs in which the dump is a script.
fn programs(place: &Place, script: &str) {
    let _ = std::fs::remove_dir_all(place.path("bin"));
    place.script("bin/mariadb-dump", &script.replace("REAL", "/usr/bin/mariadb-dump"));
    std::os::unix::fs::symlink("/usr/bin/mariadb", place.path("bin/mariadb")).unwrap();
    place.plan(&SOURCE.replace("with: {", "with: {bin: bin, "), "");
}

#[test]
fn a_restored_dump_has_everything() {
    let server = Mariadb::shared();
    let url = server.database("whole_1");
    server.execute("whole_1", SHOP);
    let place = Place::new(SOURCE);
    created(&place, &url);
    let source = &place.document()["snapshot"]["sources"][0];
    assert_eq!(source["tables"][0]["rows"], 1000);
    assert_eq!(source["tables"][0]["sum"], "3503500");
    assert_eq!(source["tables"][0]["up_to"], "1000");
    assert_eq!(source["tables"][2]["sum"], "1");
    assert!(source["proof"].as_str().unwrap().contains("the dump is complete"), "{source}");
    let details = &source["details"];
    assert!(details["server_version"].as_str().unwrap().contains("MariaDB"), "{details}");
    assert!(details["binlog"]["position"].as_u64().unwrap() > 0, "{details}");
    assert!(details["binlog"]["gtid"].as_str().unwrap().contains('-'), "{details}");
    assert_eq!(
        details["objects"],
        serde_json::json!({"tables": 3, "views": 1, "triggers": 1, "routines": 1, "events": 1})
    );

    let copy = server.database("whole_copy");
    let said = restore_into(&place, &url, &copy, false).unwrap();
    assert!(said.contains("rows and sums of 3 tables are those of the snapshot"), "{said}");
    assert_eq!(contents(&server, "whole_copy"), contents(&server, "whole_1"));

    // By hand, as the document says.
    server.execute("", "CREATE DATABASE by_hand");
    folder(&place);
    let dump = std::fs::File::open(place.path("back/database/database.sql")).unwrap();
    let ended = run(server.client("by_hand", "").args(["--binary-mode"]).stdin(dump));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn two_snapshots_of_the_same_data_are_the_same_bytes() {
    let server = Mariadb::shared();
    let url = server.database("same_bytes");
    server.execute("same_bytes", SHOP);
    let place = Place::new(&SOURCE.replace("with: {", "with: {binlog_position: false, "));
    created(&place, &url);
    let first = place.document()["snapshot"]["sources"][0]["sha256"].clone();
    let bytes = || -> Vec<u8> {
        folder(&place);
        let bytes = std::fs::read(place.path("back/database/database.sql")).unwrap();
        std::fs::remove_dir_all(place.path("back")).unwrap();
        bytes
    };
    let before = bytes();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    created(&place, &url);
    assert!(before == bytes(), "the dump differs from time to time");
    assert_ne!(first, serde_json::Value::Null);
}

#[test]
fn figures_and_dump_are_of_one_moment_while_others_write() {
    let server = Mariadb::shared();
    let url = server.database("one_moment");
    server.execute("one_moment", SHOP);
    let place = Place::new(SOURCE);
    // Rows surely come while it dumps: from its first table on, when they may be written again, it waits
    // for them.
    programs(
        &place,
        "[ \"$1\" != --version ] || exec REAL --version
         exec bash -o pipefail -c 'REAL \"$@\" | { sed -u \"/^-- Table structure/q\"; touch dumping; \
         until [ -e go-on ]; do sleep 0.05; done; cat; }' dump \"$@\"",
    );
    let at = place.folder.path().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, server) = (Arc::clone(&stop), Arc::clone(&server));
        move || {
            let mut written = 0;
            while !stop.load(Ordering::SeqCst) {
                server.execute("one_moment", "INSERT INTO orders (total_cents) VALUES (11); UPDATE settings SET value = CONCAT(value, 'x')");
                written += u32::from(at.join("dumping").exists());
                if written == 3 {
                    std::fs::write(at.join("go-on"), "").unwrap();
                }
            }
            written
        }
    });
    let ended = create(&place, &url);
    stop.store(true, Ordering::SeqCst);
    assert!(writer.join().unwrap() >= 3);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let copy = server.database("one_moment_copy");
    restore_into(&place, &url, &copy, false).unwrap();
    let figures = "SELECT COUNT(*), SUM(total_cents), MAX(id) FROM orders";
    let recorded = place.document()["snapshot"]["sources"][0]["tables"][0].clone();
    let expected = format!(
        "{}\t{}\t{}",
        recorded["rows"],
        recorded["sum"].as_str().unwrap(),
        recorded["up_to"].as_str().unwrap()
    );
    assert_eq!(server.query("one_moment_copy", figures), std::slice::from_ref(&expected));
    assert_ne!(
        server.query("one_moment", figures),
        [expected],
        "nothing was written meanwhile: the test proves nothing"
    );
}

#[test]
fn a_failing_dump_leaves_no_snapshot() {
    let server = Mariadb::shared();
    let url = server.database("failing");
    server.execute("failing", SHOP);
    let place = Place::new(SOURCE);
    for (script, word) in [
        ("REAL \"$@\" | head -c 3000; echo connection lost >&2; exit 2", "connection lost"),
        // These end with 0.
        ("REAL \"$@\" | head -c 3000", "Dump completed"),
        ("REAL \"$@\" | sed '/^-- Dump completed/d'", "Dump completed"),
        ("REAL \"$@\" | sed 's/^-- Table structure for table `orders`/-- gone/'", "no table `orders`"),
        ("echo 'not a dump'", "Dump completed"),
        ("true", "Dump completed"),
        ("kill -9 $$", "was ended by a signal"),
    ] {
        programs(&place, &format!("[ \"$1\" != --version ] || exec REAL --version; {script}"));
        let ended = create(&place, &url);
        assert_eq!(ended.code, 4, "{script}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{script}: {}", ended.stderr);
        assert_nothing_kept(&place);
    }
}

#[test]
fn a_server_that_dies_in_the_middle_leaves_no_snapshot() {
    let mut server = Mariadb::start();
    let url = server.database("dying");
    server.execute("dying", SHOP);
    server.execute("dying", "CREATE TABLE big (id INT PRIMARY KEY, fill TEXT); INSERT INTO big SELECT seq, REPEAT('x', 2000) FROM seq_1_to_15000");
    let place = Place::new(SOURCE);
    programs(
        &place,
        "[ \"$1\" != --version ] || exec REAL --version
         exec bash -o pipefail -c 'REAL \"$@\" | { head -c 100000; touch begun; until [ -e crashed ]; do sleep 0.05; done; cat; }' dump \"$@\"",
    );
    let child = place
        .command()
        .arg("create")
        .env("DATABASE_URL", &url)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the dump", || place.path("begun").exists());
    server.crash();
    place.write("crashed", b"");
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{said}");
    assert!(said.contains("mariadb-dump failed") && said.contains("Lost connection"), "{said}");
    assert_nothing_kept(&place);
}

#[test]
fn a_database_that_does_not_answer_or_refuses_is_an_infrastructure_error() {
    let server = Mariadb::shared();
    let place = Place::new(SOURCE);
    let good = server.database("refusing");
    let wrong = good.replace(ENCODED, "wrong-password");
    let nobody = format!("mysql://shop:wrong-password@127.0.0.1:{}/x", free_port());
    let not_there = server.url("no_such_database");
    let encrypted = format!("{good}?ssl-mode=verify_identity");
    for (url, words) in [
        (&wrong, "Access denied"),
        (&nobody, "Can't connect"),
        (&not_there, "Access denied"),
        (&good, "doesn't exist"),
        (&encrypted, "SSL"),
    ] {
        let ended = create(&place, url);
        assert_eq!(ended.code, 4, "{url}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{url}: {}", ended.stderr);
        assert_kept_secret(&place, &["wrong-password", PASSWORD, ENCODED], &[&ended.stderr, &ended.stdout]);
    }
    for (url, words) in [
        ("mysql://shop@db", "names no database"),
        ("mysql://shop:hid/den@db/x", "%2F"),
        ("mysql://db/x?tls=1", "`tls`"),
    ] {
        let ended = create(&place, url);
        assert_eq!(ended.code, 2, "{url}: {}", ended.stderr);
        assert!(ended.stderr.contains(words) && !ended.stderr.contains("hid/den"), "{}", ended.stderr);
    }
}

#[test]
fn what_a_dump_would_leave_out_or_tear_is_refused() {
    let server = Mariadb::shared();
    let url = server.database("rights");
    server.execute("rights", SHOP);
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    server.execute("", &format!("CREATE USER reader@'%' IDENTIFIED BY '{password}'; GRANT SELECT, LOCK TABLES, SHOW VIEW, EVENT, EXECUTE ON rights.* TO reader@'%'"));
    let reader = url.replace("shop:", "reader:");
    let place = Place::new(SOURCE);
    let ended = create(&place, &reader);
    assert_eq!(ended.code, 4);
    assert!(
        ended.stderr.contains("may not see triggers") && ended.stderr.contains("GRANT TRIGGER ON `rights`.*"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("IDENTIFIED"), "{}", ended.stderr);
    server.execute("", "GRANT TRIGGER ON rights.* TO reader@'%'; GRANT SELECT ON mysql.proc TO reader@'%'");
    created(&place, &reader);

    server.execute("rights", "CREATE TABLE notes (id INT) ENGINE=MyISAM");
    let ended = create(&place, &url);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("no transactions") && ended.stderr.contains("notes"), "{}", ended.stderr);
    place.plan(&SOURCE.replace("with: {", "with: {allow_non_transactional: true, "), "");
    created(&place, &url);
    assert_eq!(
        place.document()["snapshot"]["sources"][0]["details"]["non_transactional"],
        serde_json::json!(["notes"])
    );
}

#[test]
fn the_password_is_in_no_document_log_store_or_process_list() {
    let server = Mariadb::shared();
    let url = server.database("secrets");
    server.execute("secrets", SHOP);
    let place = Place::new(SOURCE);
    programs(&place, "cat /proc/$$/cmdline /proc/$PPID/cmdline >> cmdlines; exec REAL \"$@\"");
    std::fs::remove_file(place.path("bin/mariadb")).unwrap();
    place.script("bin/mariadb", "cat /proc/$$/cmdline >> cmdlines; exec /usr/bin/mariadb \"$@\"");
    let ended = create(&place, &url);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let copy = server.database("secrets_copy");
    let said = restore_into(&place, &url, &copy, false).unwrap();
    let cmdlines = String::from_utf8_lossy(&std::fs::read(place.path("cmdlines")).unwrap()).into_owned();
    for word in ["--single-transaction", "--binary-mode", "--raw", "create"] {
        assert!(cmdlines.contains(word), "{word}: {cmdlines}");
    }
    let document = std::fs::read_to_string(place.path("evidence/snapshot.json")).unwrap();
    assert!(document.contains("${DATABASE_URL}"));
    assert_kept_secret(
        &place,
        &[PASSWORD, ENCODED],
        &[&cmdlines, &document, &ended.stderr, &ended.stdout, &said],
    );
}

#[test]
fn live_data_is_compared_with_what_was_recorded() {
    let server = Mariadb::shared();
    let url = server.database("compared");
    server.execute("compared", SHOP);
    let place = Place::new(SOURCE);
    created(&place, &url);
    let (pass, fail) = (Verdict::Pass, Verdict::Fail);
    let now = || verdicts(&compare(&place, &url));
    assert_eq!(now(), [pass, pass, pass]);
    server.execute("compared", "INSERT INTO orders (total_cents) VALUES (5), (6)");
    let findings = compare(&place, &url);
    assert_eq!(verdicts(&findings), [pass, pass, pass]);
    assert!(findings[0].observed.as_ref().unwrap().contains("2 later rows"), "{findings:?}");
    for (harm, mend) in [
        (
            "UPDATE orders SET total_cents = total_cents + 1 WHERE id = 7",
            "UPDATE orders SET total_cents = total_cents - 1 WHERE id = 7",
        ),
        ("DELETE FROM orders WHERE id = 1000", "INSERT INTO orders (id, total_cents) VALUES (1000, 7000)"),
        ("ALTER TABLE orders RENAME TO gone", "ALTER TABLE gone RENAME TO orders"),
        (
            "ALTER TABLE orders CHANGE total_cents cents BIGINT",
            "ALTER TABLE orders CHANGE cents total_cents BIGINT",
        ),
    ] {
        server.execute("compared", harm);
        assert_eq!(now(), [fail, pass, pass], "{harm}");
        server.execute("compared", mend);
        assert_eq!(now(), [pass, pass, pass], "{mend}");
    }
    let nobody = format!("mysql://shop:hidden-word@127.0.0.1:{}/x", free_port());
    let findings = compare(&place, &nobody);
    assert_eq!(verdicts(&findings), [Verdict::Error; 3]);
    assert!(!format!("{findings:?}").contains("hidden-word"));
}

#[test]
fn keys_of_every_type_tell_later_rows_from_changed_ones() {
    let server = Mariadb::shared();
    let url = server.database("keys");
    let big = "9007199254740993";
    server.execute("keys", &format!(
        "CREATE TABLE t (n BIGINT UNSIGNED, d DECIMAL(20,3), w DATETIME(6), s VARCHAR(20), b BINARY(3), f DOUBLE);
         INSERT INTO t VALUES ({big}, 1.125, '2026-01-02 03:04:05.678901', 'o''k\\\\', X'00FF0A', 0.1), (1, -7, '2020-01-01', '', X'000000', 0.2)"));
    let tables: Vec<String> =
        ["n", "d", "w", "s", "b"].map(|key| format!("{{name: t, sum: f, key: {key}}}")).into();
    let place = Place::new(&format!(
        "{{name: database, kind: mysql, target: \"${{DATABASE_URL}}\", with: {{tables: [{}]}}}}",
        tables.join(", ")
    ));
    created(&place, &url);
    let recorded = &place.document()["snapshot"]["sources"][0]["tables"];
    assert_eq!((recorded[0]["up_to"].as_str(), recorded[4]["up_to"].as_str()), (Some(big), Some("0x00FF0A")));
    // One more in every key.
    server.execute(
        "keys",
        "INSERT INTO t VALUES (9007199254740994, 1.126, '2026-01-02 03:04:05.678902', 'p', X'00FF0B', 5)",
    );
    let findings = compare(&place, &url);
    assert_eq!(verdicts(&findings), [Verdict::Pass; 5], "{findings:?}");
    assert!(findings.iter().all(|f| f.observed.as_ref().unwrap().contains("1 later rows")), "{findings:?}");
    server.execute("keys", "UPDATE t SET f = f + 0.001 WHERE n = 1");
    assert_eq!(verdicts(&compare(&place, &url)), [Verdict::Fail; 5]);
}

#[test]
fn a_restore_into_a_live_database_overwrites_nothing_unasked_and_says_what_failed() {
    let server = Mariadb::shared();
    let url = server.database("origin");
    server.execute("origin", SHOP);
    let place = Place::new(SOURCE);
    created(&place, &url);
    server.execute("origin", "UPDATE orders SET total_cents = 0; CREATE TABLE more (id INT)");
    let fault = restore_into(&place, &url, &url, false).unwrap_err();
    assert_eq!(fault.exit.code(), 5, "{fault}");
    assert!(fault.to_string().contains("not empty") && fault.to_string().contains("--force"), "{fault}");
    assert_eq!(server.query("origin", "SELECT SUM(total_cents) FROM orders"), ["0"]);
    let said = restore_into(&place, &url, &url, true).unwrap();
    assert!(said.contains("in place of"), "{said}");
    assert_eq!(server.query("origin", "SELECT SUM(total_cents) FROM orders"), ["3503500"]);
    assert_eq!(server.query("origin", "SELECT COUNT(*) FROM more"), ["0"]);

    let wrong = url.replace(ENCODED, "wrong-password");
    for (target, code, word) in [(wrong.as_str(), 4, "Access denied"), ("postgres://x/y", 2, "mysql://")] {
        let fault = restore_into(&place, &url, target, true).unwrap_err();
        assert_eq!(fault.exit.code(), code, "{fault}");
        assert!(fault.to_string().contains(word) && !fault.to_string().contains("wrong-password"), "{fault}");
    }
    // A dump that does not fit the server.
    let copy = server.database("broken_copy");
    let dump = place.path("back/database/database.sql");
    let text = std::fs::read(&dump).unwrap();
    std::fs::write(&dump, [&text[..], b"INSERT INTO nowhere VALUES (1);\n"].concat()).unwrap();
    let fault = restore_into(&place, &url, &copy, false).unwrap_err();
    assert!(fault.to_string().contains("nowhere") && fault.to_string().contains("half restored"), "{fault}");
    // It runs through, and is something else.
    std::fs::write(&dump, [&text[..], b"DELETE FROM orders WHERE id = 7;\n"].concat()).unwrap();
    let fault = restore_into(&place, &url, &copy, true).unwrap_err();
    assert!(fault.to_string().contains("orders has 999 rows"), "{fault}");
    assert_eq!(fault.exit.code(), 4);
}
