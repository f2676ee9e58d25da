//! No secret in anything that the five tools leave behind, say, or show in the process list.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Chain;
use crate::snapshot::walk;
use crate::support::Ended;
use crate::support::postgres::Postgres;

/// The password of the database's user: everything that URLs, shells, JSON, HTML and SQL treat specially.
const PASSWORD: &str = "kr0k@dil/n1l:pf3rd'\"%&<b> zebr4";

/// The same as it must stand in a URL.
const ENCODED: &str = "kr0k%40dil%2Fn1l%3Apf3rd%27%22%25%26%3Cb%3E%20zebr4";

/// Pieces of every secret: also a half hidden one is found.
const PIECES: &[&str] = &["kr0k", "n1l:", "n1l%3A", "pf3rd", "zebr4", "gr33n-wh4le", "d0lphin", "m4nta"];

const CHECKS: &str = r#"    - {name: with a token, kind: http, target: "BLUE/secret", with: {headers: {authorization: "Bearer ${SHOP_TOKEN}", x-key: "${DEPLOY_KEY}"}}}
    - {name: an echo, kind: command, target: [sh, -c, "echo $SHOP_TOKEN $DATABASE_URL $PGPASS_PLAIN; echo \"$SHOP_TOKEN\" >&2; exit 1"], severity: warning}
    - {name: a wrong address, kind: http, target: "http://user:d0lphin@127.0.0.1:1/", severity: warning}
    - {name: a wrong header, kind: http, target: "BLUE/", with: {headers: {authorization: "Bearer ${SHOP_TOKEN}"}}, expect: {"header:x-release": "${SHOP_TOKEN}"}, severity: warning}
"#;

const PROMOTE: &str = r#"  hooks: {deploy: [sh, -c, "echo deploying with $SHOP_TOKEN to $DATABASE_URL; echo $SHOP_TOKEN >&2"]}
"#;

fn hides(what: &str, text: &str) {
    for piece in PIECES {
        if let Some(at) = text.find(piece) {
            let around: String =
                text[..at].chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{what} shows `{piece}` after …{around}");
        }
    }
}

fn files_hide(folder: &Path, besides: &[&str]) -> usize {
    let files = walk(folder);
    for file in files.iter().filter(|file| file.is_file()) {
        let name = file.strip_prefix(folder).unwrap().display().to_string();
        if !besides.contains(&name.as_str()) {
            hides(&name, &String::from_utf8_lossy(&std::fs::read(file).unwrap()));
        }
    }
    files.len()
}

/// Looks at every process's command line until it is told to stop; gives the first one with a secret.
fn watch(stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, Option<String>)> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut looks = 0;
        while !stop.load(Ordering::SeqCst) {
            for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                let bytes = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes);
                if PIECES.iter().any(|piece| text.contains(piece)) {
                    return (looks, Some(text.into_owned()));
                }
            }
            looks += 1;
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        (looks, None)
    })
}

fn secret_chain(name: &str, checks: &str, promote: &str) -> Chain {
    let mut chain = Chain::with(name, checks, promote);
    Postgres::execute(
        &chain.database,
        &format!("CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")),
    );
    let (_, rest) = chain.database.split_once('@').unwrap();
    chain.database = format!("postgres://{name}:{ENCODED}@{rest}");
    chain.environment = vec![
        ("DATABASE_URL", chain.database.clone()),
        ("PGPASS_PLAIN", PASSWORD.to_owned()),
        ("SHOP_TOKEN", "t0ken-gr33n-wh4le".to_owned()),
        ("TRAPKEY_SET", "DEPLOY_KEY=k3y-m4nta".to_owned()),
        ("TRAPKEY_PASSPHRASE", "m4nta-of-the-store".to_owned()),
        ("GITHUB_ACTIONS", "true".to_owned()),
        ("GITHUB_OUTPUT", chain.path("github-output").display().to_string()),
        ("GITHUB_STEP_SUMMARY", chain.path("github-summary").display().to_string()),
    ];
    // A variable that the plan does not name would be refused.
    chain.environment.retain(|(name, _)| *name != "TRAPKEY_SET" || checks.contains("DEPLOY_KEY"));
    chain
}

fn said(words: &[&str], ended: &Ended) {
    hides(&format!("stdout of {words:?}"), &ended.stdout);
    hides(&format!("stderr of {words:?}"), &ended.stderr);
}

#[test]
fn all_five_tools_keep_every_secret() {
    let chain = secret_chain("chain_secrets", CHECKS, PROMOTE);
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = watch(&stop);
    for words in [
        &["verify", "baseline", "--json"][..],
        &["preflight", "--json"],
        &["snapshot", "create", "--json"],
        &["promote", "plan"],
        &["promote", "run", "--json"],
        &["promote", "status", "--json"],
        &["verify", "--json"],
        &["report", "--json"],
        &["snapshot", "check"],
    ] {
        said(words, &chain.good(words));
    }
    stop.store(true, Ordering::SeqCst);
    let (looks, seen) = watcher.join().unwrap();
    assert!(looks > 20, "the process list was looked at only {looks} times");
    assert_eq!(seen, None, "a command line shows a secret");
    assert!(files_hide(&chain.path("evidence"), &[]) >= 10);
    assert!(files_hide(&chain.path(".trapkey"), &[]) >= 2);
    files_hide(&chain.path("store"), &[]);
    files_hide(chain.folder.path(), &["release.yaml"]);
    for file in ["github-output", "github-summary"] {
        assert!(chain.path(file).exists(), "{file}");
    }
    // The words around them did arrive: nothing was hidden by not being written at all.
    let preflight = std::fs::read_to_string(chain.path("evidence/preflight.json")).unwrap();
    assert!(preflight.contains("an echo") && preflight.contains("***"), "{preflight}");
    let promote = std::fs::read_to_string(chain.path("evidence/promote.json")).unwrap();
    assert!(promote.contains("deploying with ***"), "{promote}");
}

#[test]
fn an_address_that_is_wrong_keeps_its_password_too() {
    let mut chain = secret_chain("chain_wrong", "", "");
    chain.prepare();
    let host = chain.database.rsplit_once('@').unwrap().1.to_owned();
    let dead = format!("127.0.0.1:{}/x", crate::support::free_port());
    for url in [
        format!("postgres://shop:kr0k%40dil/n1l:pf3rd@{host}"),
        format!("postgres://shop:kr0k@dil/n1l:pf3rd@{host}"),
        format!("postgres://shop:kr0k'\"n1l:pf3rd@{host}"),
        format!("postgres://shop:{ENCODED}@{dead}"),
        format!("postgres://shop:kr0k%zz@{host}"),
        "host=127.0.0.1 port=1 user=shop password='kr0k n1l: pf3rd' dbname=x".to_owned(),
        "host=127.0.0.1 port=1 user=shop password=kr0kn1l:pf3rd' dbname=x".to_owned(),
        r"host=127.0.0.1 port=1 user=shop password='kr0k \' n1l: pf3rd' dbname=x".to_owned(),
        format!("postgres://{host}?user=shop&password=kr0k%20pf3rd&port=x"),
    ] {
        chain.environment[0].1.clone_from(&url);
        for words in [&["preflight"][..], &["snapshot", "create"], &["verify"], &["report"]] {
            let ended = chain.call(words);
            assert!(ended.code != 0 || words == ["report"], "{url} {words:?}: {}", ended.stderr);
            said(words, &ended);
        }
        files_hide(chain.folder.path(), &[]);
    }
}
