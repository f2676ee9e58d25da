//! The source `redis` against a real Redis: whole, proven, restorable by hand, silent about passwords.

use std::process::Stdio;

use super::Place;
use super::live::{assert_kept_secret, assert_nothing_kept, create, created, folder, restore_into};
use crate::support::redis::{ENCODED, PASSWORD, Redis};
use crate::support::{free_port, wait_until};

const SOURCE: &str = "{name: queue, kind: redis, target: \"${DATABASE_URL}\"}";

fn fill(server: &Redis) {
    for number in 0..50 {
        server.call(&["SET", &format!("order {number}\n\u{e9}"), "x"]);
    }
    server.call(&["-n", "3", "RPUSH", "queue", "a", "b", "c"]);
}

/// A folder of programs in which redis-cli is a script that goes on with the real one for INFO.
fn programs(place: &Place, script: &str) {
    let _ = std::fs::remove_dir_all(place.path("bin"));
    let script = script.replace("REAL", "/usr/bin/redis-cli");
    place.script(
        "bin/redis-cli",
        &format!("case \"$*\" in *INFO) exec /usr/bin/redis-cli \"$@\";; esac\n{script}"),
    );
    std::os::unix::fs::symlink("/usr/bin/redis-check-rdb", place.path("bin/redis-check-rdb")).unwrap();
    place.plan("{name: queue, kind: redis, target: \"${DATABASE_URL}\", with: {bin: bin}}", "");
}

#[test]
fn a_server_started_with_the_file_has_everything() {
    // With and without the mark that ends a stream.
    for settings in [&["--repl-diskless-sync", "yes"], &["--repl-diskless-sync", "no"]] {
        let server = Redis::with(settings);
        fill(&server);
        let place = Place::new(SOURCE);
        created(&place, &server.url());
        let source = &place.document()["snapshot"]["sources"][0];
        assert_eq!(source["details"]["keys_when_it_began"], serde_json::json!({"db0": 50, "db3": 1}));
        assert_eq!(source["details"]["checksum"], true);
        assert!(source["proof"].as_str().unwrap().contains("redis-check-rdb read 51 keys back"), "{source}");
        folder(&place);
        let dump = place.path("back/queue/dump.rdb");
        let second = Redis::with(&["--dir", dump.parent().unwrap().to_str().unwrap()]);
        assert_eq!(second.call(&["DBSIZE"]).stdout.trim(), "50");
        assert_eq!(second.call(&["-n", "3", "LRANGE", "queue", "0", "-1"]).stdout, "a\nb\nc\n");
        let fault = restore_into(&place, &server.url(), "redis://127.0.0.1/", true).unwrap_err();
        assert!(fault.exit.code() == 2 && fault.to_string().contains("stop the server"), "{fault}");
    }
}

#[test]
fn an_empty_server_is_backed_up_too() {
    let server = Redis::start();
    let place = Place::new(SOURCE);
    created(&place, &server.url());
    let source = &place.document()["snapshot"]["sources"][0];
    assert!(source["proof"].as_str().unwrap().contains("read 0 keys"), "{source}");
}

#[test]
fn a_file_that_is_cut_or_damaged_leaves_no_snapshot() {
    let server = Redis::start();
    fill(&server);
    let place = Place::new(SOURCE);
    for (script, word) in [
        ("REAL \"$@\" | head -c 100; exit 0", "cut or damaged"),
        ("REAL \"$@\" | head -c -50; exit 0", "cut or damaged"),
        ("REAL \"$@\" | tr x y", "cut or damaged"),
        ("REAL \"$@\"; exit 3", "exit 3"),
        ("true", "cut or damaged"),
        ("echo REDIS", "cut or damaged"),
        ("kill -9 $$", "ended by a signal"),
    ] {
        programs(&place, script);
        let ended = create(&place, &server.url());
        assert_eq!(ended.code, 4, "{script}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{script}: {}", ended.stderr);
        assert_nothing_kept(&place);
    }
    programs(&place, "exec REAL \"$@\"");
    std::fs::remove_file(place.path("bin/redis-check-rdb")).unwrap();
    place.script(
        "bin/redis-check-rdb",
        "cat > /dev/null; echo \"Can't handle RDB format version 99\"; exit 1",
    );
    let ended = create(&place, &server.url());
    assert!(ended.code == 4 && ended.stderr.contains("version 99"), "{}", ended.stderr);
    assert_nothing_kept(&place);
}

#[test]
fn a_server_that_dies_in_the_middle_leaves_no_snapshot() {
    let server = Redis::start();
    for number in 0..40 {
        server.call(&["SETRANGE", &format!("big {number}"), "900000", "x"]);
        server.call(&["CONFIG", "SET", "rdbcompression", "no"]);
    }
    let place = Place::new(SOURCE);
    programs(
        &place,
        "exec bash -o pipefail -c '/usr/bin/redis-cli \"$@\" | { head -c 100000; touch begun; until [ -e crashed ]; do sleep 0.05; done; cat; }' cli \"$@\"",
    );
    let child = place
        .command()
        .arg("create")
        .env("DATABASE_URL", server.url())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the stream", || place.path("begun").exists());
    drop(server);
    place.write("crashed", b"");
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{said}");
    assert_nothing_kept(&place);
}

#[test]
fn a_server_that_does_not_answer_or_refuses_is_an_infrastructure_error() {
    let server = Redis::start();
    let place = Place::new(SOURCE);
    let wrong = server.url().replace(ENCODED, "wrong-password");
    let nobody = format!("redis://:wrong-password@127.0.0.1:{}", free_port());
    let tls = server.url().replace("redis://", "rediss://");
    for (url, words) in [(&wrong, "WRONGPASS"), (&nobody, "onnection refused"), (&tls, "")] {
        let ended = create(&place, url);
        assert_eq!(ended.code, 4, "{url}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{url}: {}", ended.stderr);
        assert_kept_secret(&place, &["wrong-password", PASSWORD, ENCODED], &[&ended.stderr, &ended.stdout]);
    }
}

#[test]
fn a_user_with_only_the_documented_rights_is_enough() {
    let server = Redis::start();
    fill(&server);
    let made = server.call(&[
        "ACL",
        "SETUSER",
        "backup",
        "on",
        "nopass",
        "resetkeys",
        "+info",
        "+ping",
        "+sync",
        "+psync",
        "+replconf",
    ]);
    assert_eq!(made.stdout.trim(), "OK", "{made:?}");
    let place = Place::new(SOURCE);
    created(&place, &server.url().replace(":q", "backup:q"));
}

#[test]
fn the_password_is_in_no_document_log_store_or_process_list() {
    let server = Redis::start();
    fill(&server);
    let place = Place::new(SOURCE);
    programs(&place, "cat /proc/$$/cmdline /proc/$PPID/cmdline > cmdlines; exec REAL \"$@\"");
    let ended = create(&place, &server.url());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let cmdlines = String::from_utf8_lossy(&std::fs::read(place.path("cmdlines")).unwrap()).into_owned();
    assert!(cmdlines.contains("--rdb") && cmdlines.contains("create"), "{cmdlines}");
    let document = std::fs::read_to_string(place.path("evidence/snapshot.json")).unwrap();
    assert_kept_secret(&place, &[PASSWORD, ENCODED], &[&cmdlines, &document, &ended.stderr, &ended.stdout]);
}

/// A certificate authority and a certificate for `localhost`, as files.
fn certificates(place: &Place) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    place.write("tls/server.crt", own.cert.pem().as_bytes());
    place.write("tls/server.key", own.signing_key.serialize_pem().as_bytes());
}

#[test]
fn tls_is_spoken_and_the_certificate_is_looked_at() {
    let place = Place::new(SOURCE);
    certificates(&place);
    let port = free_port();
    let file = |name: &str| place.path(name).display().to_string();
    let server = Redis::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("tls/server.crt"),
        "--tls-key-file",
        &file("tls/server.key"),
        "--tls-auth-clients",
        "no",
    ]);
    fill(&server);
    let url = format!("rediss://:{ENCODED}@localhost:{port}");
    let ended = create(&place, &url);
    assert_eq!(ended.code, 4, "a certificate of nobody was believed");
    assert!(ended.stderr.contains("ertificate"), "{}", ended.stderr);
    created(&place, &format!("{url}?ca={}", file("tls/server.crt")));
}
