//! The plan's variables belong to the chain: what one tool looked at is what the next one works on.

use std::path::Path;

use crate::support::{Ended, folder, json, run, tool};

const PLAN: &str = "version: 1
service: shop
release: {version: \"${VERSION:-1.1}\"}
preflight:
  checks:
    - {name: configured, kind: file, target: \"${CONFIG}/shop.conf\", expect: {exists: true}}
    - {name: run, kind: command, target: [echo, \"${RUN_ID:-none}\"]}
snapshot:
  store: store
  encryption: {none_needed_because: a test}
  sources: [{name: config, kind: files, target: \"${CONFIG}\"}]
report: {contacts: [{role: on call, reach: \"${API_TOKEN:-none} ${DATABASE_URL:-none}\"}]}
MORE
";

fn place(more: &str) -> tempfile::TempDir {
    let place = folder();
    std::fs::write(place.path().join("release.yaml"), PLAN.replace("MORE", more)).unwrap();
    for name in ["a", "b"] {
        std::fs::create_dir_all(place.path().join(name)).unwrap();
        std::fs::write(place.path().join(name).join("shop.conf"), name).unwrap();
    }
    place
}

fn call(place: &Path, words: &[&str], environment: &[(&str, &str)]) -> Ended {
    run(tool(words[0], place).args(&words[1..]).envs(environment.iter().copied()))
}

#[test]
fn a_later_tool_with_another_value_is_refused_by_name_and_origin() {
    let place = place("");
    let a = [("CONFIG", "a")];
    assert_eq!(call(place.path(), &["preflight"], &a).code, 0);
    for (words, environment, origin) in [
        (&["snapshot", "create"][..], &[("CONFIG", "b")][..], "here from the environment (sha256"),
        (&["snapshot", "create", "--set", "CONFIG=b"], &[("CONFIG", "a")], "here from --set (sha256"),
        (&["snapshot", "create"], &[("TRAPKEY_SET", "CONFIG=b")], "here from TRAPKEY_SET (sha256"),
    ] {
        let ended = call(place.path(), words, environment);
        assert_eq!(ended.code, 5, "{words:?}: {}", ended.stderr);
        for said in [
            "`preflight.json` was made with another value of the plan's variable `CONFIG`",
            "CONFIG: in `preflight.json` from the environment (sha256",
            origin,
            "may_differ: [CONFIG]",
        ] {
            assert!(ended.stderr.contains(said), "`{said}` is missing: {}", ended.stderr);
        }
        assert!(!place.path().join("evidence/snapshot.json").exists());
    }
    // The same value is the same, wherever it comes from; and a default that is set is no other value.
    let same = call(place.path(), &["snapshot", "create", "--set", "CONFIG=a", "--set", "VERSION=1.1"], &[]);
    assert_eq!(same.code, 0, "{}", same.stderr);
    assert_eq!(call(place.path(), &["report", "check"], &a).code, 0);
    // Two documents that do not belong together are refused by who only shows them, whatever it has itself.
    let path = place.path().join("evidence/snapshot.json");
    let mut snapshot = json(&path);
    snapshot["variables"]["CONFIG"]["sha256"] = "0".repeat(64).into();
    std::fs::write(&path, snapshot.to_string()).unwrap();
    let mixed = call(place.path(), &["report"], &a);
    assert_eq!(mixed.code, 5, "{}", mixed.stderr);
    assert!(mixed.stderr.contains("CONFIG: in `preflight.json` from"), "{}", mixed.stderr);
}

#[test]
fn what_may_differ_is_named_in_the_plan() {
    let id = |id: &'static str| [("CONFIG", "a"), ("RUN_ID", id)];
    let strict = place("");
    assert_eq!(call(strict.path(), &["preflight"], &id("1")).code, 0);
    let refused = call(strict.path(), &["snapshot", "create"], &id("2"));
    assert_eq!(refused.code, 5);
    assert!(
        refused.stderr.contains("`RUN_ID`") && !refused.stderr.contains("`CONFIG`"),
        "{}",
        refused.stderr
    );
    let loose = place("may_differ: [RUN_ID]");
    assert_eq!(call(loose.path(), &["preflight"], &id("1")).code, 0);
    let ended = call(loose.path(), &["snapshot", "create"], &id("2"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(json(&loose.path().join("evidence/snapshot.json"))["variables"]["RUN_ID"].is_null());
    for (more, word) in
        [("may_differ: [RUNID]", "names no variable `RUNID`"), ("may_differ: [VERSION]", "must not differ")]
    {
        let wrong = call(place(more).path(), &["preflight"], &id("1"));
        assert_eq!(wrong.code, 2, "{}", wrong.stderr);
        assert!(wrong.stderr.contains(word), "{}", wrong.stderr);
    }
}

#[test]
fn a_secret_leaves_its_name_and_an_address_no_more_than_where_it_is() {
    let place = place("");
    let with = |token: &'static str, address: &'static str| {
        [("CONFIG", "a"), ("API_TOKEN", token), ("DATABASE_URL", address)]
    };
    let first = with("hunter22-of-the-first", "postgres://shop:pa55w0rd-x@db/shop");
    assert_eq!(call(place.path(), &["preflight"], &first).code, 0);
    let text = std::fs::read_to_string(place.path().join("evidence/preflight.json")).unwrap();
    for secret in ["hunter22-of-the-first", "postgres://shop:pa55w0rd-x@db/shop", "pa55w0rd-x"] {
        assert!(
            !text.contains(secret) && !text.contains(&trapkey::evidence::sha256_hex(secret.as_bytes())),
            "{text}"
        );
    }
    let document = json(&place.path().join("evidence/preflight.json"));
    let token = &document["variables"]["API_TOKEN"];
    assert_eq!((&token["form"], &token["sha256"]), (&"secret".into(), &serde_json::Value::Null));
    // Another token, and another user of the same database, are for another job to have.
    let other = with("another-token-here", "postgres://backup:other-pass@db/shop");
    assert_eq!(call(place.path(), &["snapshot", "create"], &other).code, 0);
    let elsewhere = with("another-token-here", "postgres://backup:other-pass@evil/shop");
    let refused = call(place.path(), &["snapshot", "create"], &elsewhere);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("`DATABASE_URL`") && !refused.stderr.contains("other-pass"),
        "{}",
        refused.stderr
    );
}
