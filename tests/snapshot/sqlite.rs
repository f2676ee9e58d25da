//! The source `sqlite` with the real program: whole while others write, proven, compared, restored.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use trapkey::evidence::Verdict;

use super::Place;
use super::live::{assert_nothing_kept, compare, create, created, folder, restore_into, verdicts};
use crate::support::{run, wait_until};

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, total_cents INTEGER NOT NULL, note TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
      INSERT INTO orders SELECT i, i * 7, 'order ' || i FROM n;
    CREATE TABLE \"odd `name\" (\"a b\" REAL, raw BLOB);
    INSERT INTO \"odd `name\" VALUES (0.1, x'00ff'), (0.2, NULL), (NULL, 'it''s');";

const SOURCE: &str = "{name: database, kind: sqlite, target: \"data/shop #1?.db\", with: {tables: [{name: orders, \
                      sum: total_cents, key: id}, {name: odd `name, sum: a b}]}}";
const FILE: &str = "data/shop #1?.db";

/// Runs SQL in a file; gives what it prints.
fn sql(file: &Path, text: &str) -> String {
    let ended = run(Command::new("sqlite3")
        .args(["-batch", "-init", "/dev/null"])
        .arg(file)
        .arg(".timeout 300000")
        .arg(text));
    assert_eq!(ended.code, 0, "{text}: {}", ended.stderr);
    ended.stdout
}

fn shop(source: &str, more: &str) -> Place {
    let place = Place::new(source);
    std::fs::create_dir(place.path("data")).unwrap();
    sql(&place.path(FILE), &format!("{more}{SHOP}"));
    place
}

/// Goes on writing until it is dropped: each statement adds seven to the sum, and half of one does not.
struct Writer(Child);

impl Writer {
    fn start(file: &Path) -> Self {
        let script = "while :; do echo 'INSERT INTO orders (total_cents) VALUES (3), (4);'; sleep 0.01; done | \
                      exec sqlite3 -batch -init /dev/null -cmd '.timeout 300000' -cmd 'PRAGMA synchronous=OFF' \"$1\"";
        let child = Command::new("timeout")
            .args(["--signal=KILL", "600", "bash", "-c", script, "writer"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.0.wait();
    }
}

/// The private copies that are still there.
fn leftovers(place: &Place) -> usize {
    std::fs::read_dir(place.path("tmp")).unwrap().count()
}

#[test]
fn a_restored_file_has_everything_and_the_copy_is_gone() {
    let place = shop(SOURCE, "");
    std::fs::create_dir(place.path("tmp")).unwrap();
    std::fs::set_permissions(place.path(FILE), std::fs::Permissions::from_mode(0o640)).unwrap();
    let ended = run(place.command().arg("create").env("TMPDIR", place.path("tmp")));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(leftovers(&place), 0);
    let source = &place.document()["snapshot"]["sources"][0];
    assert_eq!(source["tables"][0]["rows"], 1000);
    assert_eq!(source["tables"][0]["sum"], "3503500");
    assert_eq!(source["tables"][0]["up_to"], "1000");
    assert_eq!(source["tables"][1]["sum"], "0.3");
    assert!(
        source["proof"].as_str().unwrap().contains("passes SQLite's integrity check, and rows and sums"),
        "{source}"
    );
    folder(&place);
    let copy = place.path("back/database/shop #1?.db");
    assert_eq!(sql(&copy, ".dump"), sql(&place.path(FILE), ".dump"));
    assert_eq!(std::fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_copy_is_of_one_moment_while_others_write() {
    is_of_one_moment("DELETE");
}

#[test]
fn a_copy_beside_a_log_is_of_one_moment_while_others_write() {
    is_of_one_moment("WAL");
}

fn is_of_one_moment(mode: &str) {
    let place = shop(SOURCE, &format!("PRAGMA journal_mode={mode};"));
    // Large enough that it is not copied in one go.
    sql(
        &place.path(FILE),
        "CREATE TABLE big (fill BLOB); INSERT INTO big SELECT randomblob(3000) FROM orders",
    );
    let file = place.path(FILE);
    let busy = Writer::start(&file);
    wait_until("the writer", || sql(&file, "SELECT count(*) FROM orders").trim() != "1000");
    for _ in 0..crate::snapshot::rounds(1, 2) {
        created(&place, "");
        let recorded = place.document()["snapshot"]["sources"][0]["tables"][0].clone();
        let _ = std::fs::remove_dir_all(place.path("back"));
        folder(&place);
        let copy = place.path("back/database/shop #1?.db");
        let figures = sql(&copy, "SELECT count(*), sum(total_cents), max(id) FROM orders");
        let expected = format!(
            "{}|{}|{}\n",
            recorded["rows"],
            recorded["sum"].as_str().unwrap(),
            recorded["up_to"].as_str().unwrap()
        );
        assert_eq!(figures, expected, "{mode}");
        assert_eq!(sql(&copy, "PRAGMA integrity_check; SELECT sum(total_cents) % 7 FROM orders"), "ok\n0\n");
    }
    // It never stopped to write.
    let then = place.document()["snapshot"]["sources"][0]["tables"][0]["rows"].to_string();
    wait_until("more rows", || sql(&file, "SELECT count(*) FROM orders").trim() != then);
    drop(busy);
    if mode == "WAL" {
        assert!(file.with_file_name("shop #1?.db-wal").exists(), "the writer's own log was taken away");
    }
}

#[test]
fn what_is_no_whole_database_leaves_no_snapshot_and_no_copy() {
    let whole = shop(SOURCE, "");
    let bytes = std::fs::read(whole.path(FILE)).unwrap();
    let mut torn = bytes.clone();
    let middle = torn.len() / 2 / 4096 * 4096;
    torn[middle..middle + 4096].fill(0x5a);
    let cut = bytes[..bytes.len() / 2].to_vec();
    let other = b"this is a text, and not a database at all".repeat(100);
    for (bytes, words) in [
        (Some(torn), "integrity check"),
        (Some(cut), "malformed"),
        (Some(other), "not a database"),
        (Some(Vec::new()), "no such table"),
        (None, "No such file"),
    ] {
        let place = Place::new(SOURCE);
        std::fs::create_dir_all(place.path("tmp")).unwrap();
        if let Some(bytes) = &bytes {
            place.write(FILE, bytes);
        }
        let ended = run(place.command().arg("create").env("TMPDIR", place.path("tmp")));
        assert_eq!(ended.code, 4, "{words}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(words) || ended.stderr.contains("malformed"),
            "{words}: {}",
            ended.stderr
        );
        assert_nothing_kept(&place);
        assert_eq!(leftovers(&place), 0, "{words}");
        assert_eq!(place.path(FILE).exists(), bytes.is_some(), "a database was made where none was");
    }
}

#[test]
fn a_program_that_fails_or_lies_leaves_no_snapshot() {
    for (script, word) in [
        ("exit 1", "sqlite3"),
        ("true", "sqlite3"),
        ("kill -9 $$", "signal"),
        // The copy is cut, and everything else looks well.
        (
            "sqlite3 \"$@\"; status=$?; for f in copy.db; do [ ! -s $f ] || truncate -s 8192 $f; done; exit $status",
            "alformed",
        ),
    ] {
        let place = shop(&SOURCE.replace("with: {", "with: {bin: bin, "), "");
        place.script("bin/sqlite3", script);
        let ended = create(&place, "");
        assert_eq!(ended.code, 4, "{script}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(word) || ended.stderr.contains("integrity"),
            "{script}: {}",
            ended.stderr
        );
        assert_nothing_kept(&place);
    }
    let place = shop(&SOURCE.replace("with: {", "with: {bin: nowhere, "), "");
    let ended = create(&place, "");
    assert!(ended.code == 4 && ended.stderr.contains("install the program sqlite3"), "{}", ended.stderr);
}

#[test]
fn a_sum_over_texts_and_an_unknown_column_are_refused() {
    for (source, words) in [
        (SOURCE.replace("total_cents", "note"), "no numbers"),
        (SOURCE.replace("total_cents", "no_such_column"), "no such column"),
        (SOURCE.replace("key: id", "key: nothing"), "no such column"),
    ] {
        let place = shop(&source, "");
        let ended = create(&place, "");
        assert_eq!(ended.code, 4, "{words}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(words) && ended.stderr.contains("with.tables"),
            "{words}: {}",
            ended.stderr
        );
    }
}

#[test]
fn live_data_is_compared_with_what_was_recorded() {
    let place = shop(SOURCE, "PRAGMA journal_mode=WAL;");
    created(&place, "");
    let (pass, fail) = (Verdict::Pass, Verdict::Fail);
    let now = || verdicts(&compare(&place, ""));
    assert_eq!(now(), [pass, pass]);
    sql(&place.path(FILE), "INSERT INTO orders (total_cents) VALUES (5), (6)");
    let findings = compare(&place, "");
    assert_eq!(verdicts(&findings), [pass, pass]);
    assert!(findings[0].observed.as_ref().unwrap().contains("2 later rows"), "{findings:?}");
    for (harm, mend) in [
        (
            "UPDATE orders SET total_cents = total_cents + 1 WHERE id = 7",
            "UPDATE orders SET total_cents = total_cents - 1 WHERE id = 7",
        ),
        ("DELETE FROM orders WHERE id = 1000", "INSERT INTO orders (id, total_cents) VALUES (1000, 7000)"),
        ("ALTER TABLE orders RENAME TO gone", "ALTER TABLE gone RENAME TO orders"),
        ("ALTER TABLE orders RENAME total_cents TO cents", "ALTER TABLE orders RENAME cents TO total_cents"),
    ] {
        sql(&place.path(FILE), harm);
        assert_eq!(now(), [fail, pass], "{harm}");
        sql(&place.path(FILE), mend);
        assert_eq!(now(), [pass, pass], "{mend}");
    }
    std::fs::remove_file(place.path(FILE)).unwrap();
    assert_eq!(now(), [Verdict::Error, Verdict::Error]);
}

#[test]
fn a_restore_into_a_live_file_overwrites_nothing_unasked_and_reaches_who_has_it_open() {
    let place = shop(SOURCE, "PRAGMA journal_mode=WAL;");
    created(&place, "");
    let into = |name: &str, force| restore_into(&place, "", place.path(name).to_str().unwrap(), force);
    let said = into("new.db", false).unwrap();
    assert!(said.contains("as a new file") && said.contains("rows and sums of 2 tables"), "{said}");
    assert_eq!(std::fs::metadata(place.path("new.db")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(sql(&place.path("new.db"), ".dump"), sql(&place.path(FILE), ".dump"));

    let file = place.path(FILE);
    sql(&file, "DELETE FROM orders; CREATE TABLE more (id)");
    let fault = into(FILE, false).unwrap_err();
    assert!(fault.exit.code() == 5 && fault.to_string().contains("not empty"), "{fault}");
    assert_eq!(sql(&file, "SELECT count(*) FROM orders"), "0\n");
    // Somebody has it open, with a log of his own.
    let mut other = Command::new("sqlite3")
        // Whoever looks at the same moment is waited for.
        .args(["-batch", "-cmd", ".timeout 60000"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut say = other.stdin.take().unwrap();
    std::io::Write::write_all(&mut say, b"INSERT INTO more VALUES (1);\nSELECT count(*) FROM orders;\n")
        .unwrap();
    wait_until("the row", || sql(&file, "SELECT count(*) FROM more") == "1\n");
    let said = into(FILE, true).unwrap();
    assert!(said.contains("in place of what was in it"), "{said}");
    std::io::Write::write_all(
        &mut say,
        b"SELECT count(*) FROM orders; SELECT count(*) FROM sqlite_master;\n",
    )
    .unwrap();
    drop(say);
    let heard = String::from_utf8(other.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(heard, "0\n1000\n2\n");

    // A writer that does not let go keeps it as it is.
    sql(&file, "DELETE FROM orders");
    place.write("text.db", b"this is no database but a text of some length, which must not be lost");
    let fault = into("text.db", true).unwrap_err();
    assert!(fault.to_string().contains("not a database"), "{fault}");
    assert!(std::fs::read(place.path("text.db")).unwrap().starts_with(b"this is no database"));
    for target in ["", ":memory:", "postgres://x/y"] {
        assert_eq!(restore_into(&place, "", target, true).unwrap_err().exit.code(), 2, "{target}");
    }
    let copy = place.path("back/database/shop #1?.db");
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::write(&copy, &bytes[..bytes.len() / 2]).unwrap();
    let fault = into("never.db", false).unwrap_err();
    assert!(fault.exit.code() == 4 && !place.path("never.db").exists(), "{fault}");
    let hidden = std::fs::read_dir(place.folder.path()).unwrap().flatten();
    assert_eq!(hidden.filter(|e| e.file_name().to_string_lossy().starts_with(".trapkey-")).count(), 0);
}
