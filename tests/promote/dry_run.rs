//! The way is tried before anything moves: `preflight` and `promote plan --live` name what `promote` would refuse,
//! and change nothing.

use super::*;
use crate::checks::servers::{self, Authority};
use crate::support::meddler::{Deed, Meddler};
use crate::support::s3::Bucket;

/// A stage whose plan has a preflight and whatever else is given at its top level.
fn stage(promote: &str, top: &str) -> Stage {
    let stage = Stage::new(LONG, promote);
    add(&stage, "preflight: {checks: []}\n");
    add(&stage, top);
    stage
}

fn add(stage: &Stage, text: &str) {
    let path = stage.path().join("release.yaml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + text).unwrap();
}

const SNAPSHOT: &str = "snapshot: {store: store, sources: [{name: config, kind: files, target: deploy}]}\n";

/// A stage with a snapshot that was made under a passphrase.
fn with_snapshot(promote: &str) -> Stage {
    with_snapshot_and(promote, "")
}

/// The same with further sections of the plan.
fn with_snapshot_and(promote: &str, more: &str) -> Stage {
    let stage = stage(promote, &format!("{SNAPSHOT}{more}"));
    std::fs::create_dir(stage.path().join("deploy")).unwrap();
    std::fs::write(stage.path().join("deploy/shop.conf"), "workers = 4\n").unwrap();
    for words in [&["preflight"][..], &["snapshot", "create"]] {
        let ended = with_passphrase(&stage, words);
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
    }
    stage
}

fn with_passphrase(stage: &Stage, words: &[&str]) -> Ended {
    run(tool(words[0], stage.path()).args(&words[1..]).env("TRAPKEY_PASSPHRASE", "m4nta-of-the-store"))
}

/// What `plan --live` found, and how it ended.
fn live(stage: &Stage) -> (Ended, Vec<Value>) {
    live_with(stage, &[], &[])
}

fn live_with(stage: &Stage, arguments: &[&str], variables: &[(&str, &str)]) -> (Ended, Vec<Value>) {
    let mut command = tool("promote", stage.path());
    command.args(["plan", "--live", "--json"]).args(arguments).envs(variables.iter().copied());
    let ended = run(&mut command);
    let found: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stderr));
    (ended, found.as_array().unwrap().clone())
}

fn part<'a>(findings: &'a [Value], name: &str) -> &'a Value {
    let name = format!("promote: {name}");
    findings
        .iter()
        .find(|f| f["name"] == name.as_str())
        .unwrap_or_else(|| panic!("no `{name}`: {findings:?}"))
}

/// What a part of the way says, and whether it passed.
fn says(findings: &[Value], name: &str, verdict: &str, words: &str) {
    let part = part(findings, name);
    let message = part["message"].as_str().unwrap();
    assert!(part["verdict"] == verdict && message.contains(words), "`{words}` {verdict} in {part}");
}

/// `plan --live` and `preflight` name a part as the one that does not pass, and nothing has moved.
fn refuses(stage: &Stage, code: i32, name: &str, words: &str) {
    let (ended, findings) = live(stage);
    assert_eq!(ended.code, code, "{findings:?}");
    let verdict = if code == 4 { "error" } else { "fail" };
    says(&findings, name, verdict, words);
    let gate = call("preflight", stage.path(), &[]);
    assert_eq!(gate.code, if code == 4 { 4 } else { 1 }, "{}", gate.stderr);
    let document = json(&stage.path().join("evidence/preflight.json"));
    says(document["findings"].as_array().unwrap(), name, verdict, words);
    assert!(!stage.path().join(".trapkey").exists(), "nothing is left behind");
}

#[test]
fn a_sound_way_is_told_part_by_part_and_nothing_is_touched() {
    let stage = stage("", "");
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for (name, words) in [
        ("router", "haproxy at haproxy.sock can be steered"),
        ("steps", "it can give green 50 %, 100 %"),
        ("traffic", "green has 0 %"),
        ("green by the router", "it knows green"),
        ("blue by the router", ""),
        ("other ways", "nothing else leads to the sides"),
        ("front door", "20 of 20 requests were answered by blue, 1.0"),
        ("two sides", "different addresses"),
        ("blue", "it says that it is 1.0"),
        ("green", "it is 1.1"),
        ("state", "nothing was ever promoted"),
        ("places", "no CI runner"),
    ] {
        says(&findings, name, "pass", words);
    }
    assert_eq!(findings.len(), 12, "{findings:?}");
    let text = stage.promote(&["plan", "--live"]);
    assert_eq!(text.code, 0);
    assert!(text.stdout.starts_with("shop 1.1 in production: 12 of 12 checks passed"), "{}", text.stdout);
    assert!(text.stdout.contains("ok       front door"), "{}", text.stdout);
    let gate = call("preflight", stage.path(), &[]);
    assert_eq!(gate.code, 0, "{}", gate.stderr);
    assert_eq!(json(&stage.path().join("evidence/preflight.json"))["counts"]["total"], 12);
    stage.assert_all_blue_untouched();
    assert!(!stage.path().join(".trapkey").exists(), "not even a folder of the state");
    // What passed begins.
    let started = stage.promote(&["start"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    // And now it is under way, and goes on.
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "state", "pass", "is under way and goes on");
    says(&findings, "traffic", "skipped", "step 1 watches 50 % on green");
    says(&findings, "front door", "skipped", "is under way");
    assert_eq!(stage.phase(), "baking");
    // Another one may not begin, and it is told who is in its way.
    let (ended, findings) = live_with(&stage, &["--set", "VERSION=2.0"], &[]);
    assert_eq!(ended.code, 5, "{findings:?}");
    says(&findings, "state", "fail", "shop 1.1 in production is still under way");
    let (ended, findings) = live_with(&stage, &["--set", "VERSION=2.0"], &[("TRAPKEY_SUPERSEDE", "true")]);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "state", "pass", "will be superseded");
}

#[test]
fn a_router_that_is_away_or_has_no_such_server_is_named() {
    let mut away = stage("", "");
    away.haproxy.stop();
    refuses(&away, 4, "router", "HAProxy");
    let (_, findings) = live(&away);
    says(&findings, "traffic", "skipped", "it needs the router");
    says(&findings, "front door", "error", "the front door refuses connections");
    // A job without access to it says so, and every part is told as not looked at.
    away.edit(
        "preflight: {checks: []}",
        "preflight: {promote: false, checks: [{name: here, kind: file, target: release.yaml}]}",
    );
    let gate = call("preflight", away.path(), &[]);
    assert_eq!(gate.code, 0, "{}", gate.stderr);
    let document = json(&away.path().join("evidence/preflight.json"));
    let findings = document["findings"].as_array().unwrap();
    for name in [
        "router",
        "steps",
        "traffic",
        "green by the router",
        "blue by the router",
        "other ways",
        "front door",
        "two sides",
        "blue",
        "green",
        "state",
        "places",
    ] {
        says(findings, name, "skipped", "`preflight.promote` is false in the plan");
    }
    assert_eq!(findings.len(), 13);
    // Where that is all, nothing was looked at.
    away.edit("[{name: here, kind: file, target: release.yaml}]", "[]");
    assert_eq!(call("preflight", away.path(), &[]).code, 3);

    let wrong = stage("", "");
    wrong.edit("green: green}", "green: gren}");
    refuses(&wrong, 2, "green by the router", "the backend `shop` has no server `gren`");
    let narrow = stage("", "");
    narrow.edit("weight: 50%", "weight: 0.1%");
    refuses(&narrow, 2, "steps", "the router cannot give green 0.1 %");
}

#[test]
fn traffic_that_is_not_all_on_blue_is_told_with_the_weights() {
    let stage = stage("", "");
    stage.haproxy.ask("set server shop/green weight 100");
    refuses(&stage, 5, "traffic", "green already has 50 % of the traffic");
    let (_, findings) = live(&stage);
    assert!(
        part(&findings, "traffic")["message"].as_str().unwrap().contains("\"weight\":100"),
        "{findings:?}"
    );
}

#[test]
fn a_sick_blue_is_told_and_what_needs_it_is_not_looked_at() {
    let stage = stage("", "");
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    refuses(&stage, 1, "blue", "/health answered 503");
    let (_, findings) = live(&stage);
    says(&findings, "front door", "skipped", "what blue says");
}

/// Lets the front door lead elsewhere.
fn enters_at(stage: &Stage, entry: &str) {
    stage.edit(&format!("entry: \"{}\"", stage.haproxy.url()), &format!("entry: \"{entry}\""));
}

#[test]
fn what_stands_at_the_front_door_is_named_as_exactly_that() {
    let answers: [(u16, &[&str], &str, &str); 6] = [
        (
            301,
            &["location: https://shop.example.com/"],
            "",
            "the front door redirects to https://shop.example.com/",
        ),
        (302, &["location: /login?next=%2F"], "", "the front door leads to a login page"),
        (401, &["www-authenticate: Basic realm=x"], "", "the front door asks for a login"),
        (200, &[], "<form><input type=\"password\"></form>", "the front door answers with a login page"),
        (200, &[], "welcome", "the front door does not say which release answered"),
        (200, &["x-release: 0.9", "age: 7"], "", "it says that it is `0.9`"),
    ];
    for (status, headers, body, words) in answers {
        let stage = stage("", "");
        let headers: Vec<String> = headers.iter().map(|h| (*h).to_owned()).collect();
        let server = servers::http(move |_| (status, headers.clone(), body.to_owned()));
        enters_at(&stage, &format!("http://127.0.0.1:{}", server.port));
        refuses(&stage, 4, "front door", words);
    }
}

#[test]
fn a_stranger_that_answers_some_requests_is_named() {
    let stage = stage("", "");
    let asked = std::sync::atomic::AtomicU32::new(0);
    // Every third answer is that of a server that somebody forgot in the pool.
    let server = servers::http(move |_| {
        let release = if asked.fetch_add(1, Ordering::SeqCst) % 3 == 2 { "0.7" } else { "1.0" };
        (200, vec![format!("x-release: {release}"), "connection: close".into()], String::new())
    });
    enters_at(&stage, &format!("http://127.0.0.1:{}", server.port));
    let (_, findings) = live(&stage);
    says(&findings, "front door", "error", "requests through the router do not all reach blue");
    refuses(&stage, 4, "front door", "it says that it is `0.7`");
}

#[test]
fn a_certificate_that_nobody_trusts_is_named_by_promote_too() {
    let stage = stage("", "");
    let authority = Authority::new();
    let server = servers::tls(&authority.issue("localhost", (2020, 2090)), rustls::ALL_VERSIONS);
    enters_at(&stage, &format!("https://localhost:{}", server.port));
    refuses(&stage, 4, "front door", "the certificate of the front door is not trusted");
    // Whoever has no preflight is told the same before anything moves.
    stage.edit("preflight: {checks: []}\n", "");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("the certificate of the front door is not trusted"), "{}", ended.stderr);
    assert!(ended.stderr.contains("SSL_CERT_FILE"), "{}", ended.stderr);
    stage.assert_all_blue_untouched();
    // Once it is trusted, what answers there is what is told.
    std::fs::write(stage.path().join("ca.pem"), authority.pem()).unwrap();
    let trusted = run(tool("promote", stage.path()).args(["plan", "--live"]).env("SSL_CERT_FILE", "ca.pem"));
    assert_eq!(trusted.code, 4);
    assert!(
        trusted.stdout.contains("the front door does not say which release answered"),
        "{}",
        trusted.stdout
    );
    // A listener without TLS is not taken for a wrong certificate.
    let plain = stage.haproxy.url().replace("http://", "https://");
    stage.edit(&format!("https://localhost:{}", server.port), &plain);
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 4);
    says(&findings, "front door", "error", "does not speak TLS");
}

#[test]
fn green_may_be_absent_only_where_a_hook_brings_it_up() {
    let stage = stage("", "");
    stage.green.answers.health.store(503, Ordering::SeqCst);
    refuses(&stage, 1, "green", "the plan has no deploy hook");
    stage.edit("drain: 1s", "drain: 1s\n  hooks: {deploy: [touch, deployed]}");
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "green", "pass", "not there yet (/health answered 503): the deploy hook brings it up");
    assert_eq!(part(&findings, "green")["severity"], "info");
    assert!(!stage.path().join("deployed").exists(), "no hook runs");
    // Before the hook has run both may be the old version; without one they may not.
    stage.green.answers.health.store(200, Ordering::SeqCst);
    stage.green.says("1.0");
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "green", "pass", "like blue until the deploy hook has run");
    stage.edit("\n  hooks: {deploy: [touch, deployed]}", "");
    refuses(&stage, 1, "green", "green says that it is `1.0`, and so does blue");
}

#[test]
fn sides_that_are_one_and_the_same_are_refused_however_they_are_written() {
    let same = |blue: &str, green: &str| {
        let stage = stage("", "");
        let port = stage.blue.port.to_string();
        stage.edit(&format!("blue: {{url: \"{}\"}}", stage.blue.url()), &blue.replace("PORT", &port));
        stage.edit(&format!("green: {{url: \"{}\"}}", stage.green.url()), &green.replace("PORT", &port));
        stage
    };
    for (blue, green) in [
        ("blue: {url: \"http://127.0.0.1:PORT\"}", "green: {url: \"http://127.0.0.1:PORT/\"}"),
        ("blue: {url: \"http://LOCALHOST:PORT\"}", "green: {url: \"http://127.0.0.1:PORT\"}"),
        (
            "blue: {url: \"http://127.0.0.1:PORT\", release: \"1.0\"}",
            "green: {url: \"http://localhost.:PORT\", release: \"1.1\"}",
        ),
        (
            "blue: {url: \"http://127.0.0.1:PORT\", release: \"1.0\"}",
            "green: {url: \"http://127.0.0.1:1\", release: \"1.0\"}",
        ),
    ] {
        let stage = same(blue, green);
        for words in
            [&["promote", "run"][..], &["promote", "plan"], &["promote", "plan", "--live"], &["preflight"]]
        {
            let ended = call(words[0], stage.path(), &words[1..]);
            assert_eq!(ended.code, 2, "{words:?} {green}: {}", ended.stderr);
            assert!(ended.stderr.contains("blue and green are one and the same side"), "{}", ended.stderr);
        }
        stage.assert_all_blue_untouched();
    }
    // Another way to write the number is a name, as far as URLs go. What the plan says of both proves nothing.
    let two_names = same(
        "blue: {url: \"http://127.0.0.1:PORT\", release: \"1.0\"}",
        "green: {url: \"http://127.1:PORT\", release: \"1.1\"}",
    );
    refuses(&two_names, 2, "two sides", "both lead to 127.0.0.1");
    two_names.edit("preflight: {checks: []}\n", "");
    let ended = two_names.promote(&["run"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    two_names.assert_all_blue_untouched();
    // Where they say it themselves that is what counts: it may be one server for many names.
    let measured = same("blue: {url: \"http://127.0.0.1:PORT\"}", "green: {url: \"http://127.1:PORT\"}");
    measured.edit("drain: 1s", "drain: 1s\n  hooks: {deploy: [\"true\"]}");
    let (ended, findings) = live(&measured);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "two sides", "fail", "both names lead to 127.0.0.1");
    assert_eq!(part(&findings, "two sides")["severity"], "warning");
}

#[test]
fn a_state_that_cannot_be_written_or_read_is_told_before_anybody_needs_it() {
    let stage = stage("", "");
    std::fs::write(stage.path().join("mine"), "a file").unwrap();
    let (ended, findings) = live_with(&stage, &["--state", "mine/state"], &[]);
    assert_eq!(ended.code, 4, "{findings:?}");
    says(&findings, "state", "error", "a file stands where a folder is needed");
    assert_eq!(call("preflight", stage.path(), &[]).code, 0);
    assert_eq!(stage.promote(&["start"]).code, 0);
    let state = std::fs::read(stage.state()).unwrap();
    std::fs::write(stage.state(), &state[..state.len() / 2]).unwrap();
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 4, "{findings:?}");
    says(&findings, "state", "error", "the promote state is damaged");
    says(&findings, "traffic", "skipped", "what is under way");
}

#[test]
fn a_state_in_a_bucket_is_tried_without_any_right_to_remove() {
    let stage = stage("", "");
    let bucket = Bucket::new();
    let meddler = Meddler::start(bucket.port());
    let place = format!("s3://{}/state", bucket.name);
    let variables = Bucket::variables(meddler.port);
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let tried = |rule: fn(&str) -> Deed| {
        meddler.now(rule);
        live_with(&stage, &["--state", &place], &variables)
    };
    let (ended, findings) = tried(|line| if line.starts_with("DELETE") { Deed::Deny } else { Deed::Pass });
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "state", "pass", "can be read and written");
    assert_eq!(bucket.keys(), Vec::<String>::new());
    let (ended, findings) = tried(|line| if line.starts_with("PUT") { Deed::Deny } else { Deed::Pass });
    assert_eq!(ended.code, 4, "{findings:?}");
    says(&findings, "state", "error", "s3:PutObject");
    let (ended, findings) = tried(|line| if line.starts_with("PUT") { Deed::Overwrite } else { Deed::Pass });
    assert_eq!(ended.code, 2, "{findings:?}");
    says(&findings, "state", "fail", "does not keep the conditions of a write");
    assert_eq!(bucket.keys(), Vec::<String>::new());
}

#[test]
fn the_snapshot_store_is_opened_with_the_passphrase_of_this_job() {
    let stage = stage("", SNAPSHOT);
    let (ended, findings) = live(&stage);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "snapshot store", "pass", "no store at store yet");
    assert!(!stage.path().join("store").exists());
    drop(stage);
    let stage = with_snapshot("");
    let (_, findings) = live(&stage);
    says(&findings, "snapshot store", "skipped", "this job has no passphrase");
    let (ended, findings) = live_with(&stage, &[], &[("TRAPKEY_PASSPHRASE", "m4nta-of-the-store")]);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "snapshot store", "pass", "store opens");
    let (ended, findings) = live_with(&stage, &[], &[("TRAPKEY_PASSPHRASE", "another-one")]);
    assert_eq!(ended.code, 5, "{findings:?}");
    says(&findings, "snapshot store", "fail", "");
    assert!(!findings.iter().any(|f| f.to_string().contains("another-one")));
    assert_eq!(std::fs::read_dir(stage.path().join("store/locks")).map_or(0, Iterator::count), 0);
}

/// The files of the store's snapshots.
fn snapshots(stage: &Stage) -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(stage.path().join("store/snapshots")).unwrap();
    folder.flatten().map(|entry| entry.path()).collect()
}

/// Files of a store are read-only.
fn make_writable(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_promotion_whose_snapshot_is_gone_from_the_store_does_not_begin() {
    let stage = with_snapshot("  hooks: {deploy: [touch, deployed]}\n");
    let [file] = &snapshots(&stage)[..] else { panic!("one snapshot") };
    let aside = stage.path().join("aside");
    let refused = |ended: &Ended, words: &str| {
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains("that this release relies on"), "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "`{words}` in {}", ended.stderr);
        assert!(!stage.path().join("deployed").exists() && stage.phase().is_empty());
        stage.assert_all_blue_untouched();
    };
    std::fs::rename(file, &aside).unwrap();
    refused(&with_passphrase(&stage, &["promote", "start"]), "the store has no snapshot of that id");
    refused(&stage.promote(&["start"]), "which this job has no passphrase for");
    // What is there under its name and is not it is found out by whoever has the passphrase.
    std::fs::write(file, "not a snapshot").unwrap();
    refused(&with_passphrase(&stage, &["promote", "start"]), "is damaged");
    std::fs::rename(&aside, file).unwrap();
    // Its own file is there, and what it names is not.
    let packs = || {
        let folders = std::fs::read_dir(stage.path().join("store/data")).unwrap().flatten();
        folders.flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten()).map(|file| file.path())
    };
    let index =
        std::fs::read_dir(stage.path().join("store/index")).unwrap().flatten().map(|file| file.path());
    let index: Vec<_> = index.collect();
    for lost in packs().collect::<Vec<_>>() {
        std::fs::rename(&lost, &aside).unwrap();
        refused(&with_passphrase(&stage, &["promote", "start"]), "it cannot be restored");
        // Only its own list of what is in it is cut.
        let whole = std::fs::read(&aside).unwrap();
        std::fs::write(&lost, &whole[..whole.len() - 1]).unwrap();
        refused(&with_passphrase(&stage, &["promote", "start"]), "bytes where");
        std::fs::write(&lost, "half").unwrap();
        refused(&with_passphrase(&stage, &["promote", "start"]), "it has 4 bytes where");
        std::fs::rename(&aside, &lost).unwrap();
    }
    for (folder, words) in
        [("index", "the store has no index any more"), ("data", "the store has no pack any more")]
    {
        let folder = stage.path().join("store").join(folder);
        std::fs::rename(&folder, &aside).unwrap();
        std::fs::create_dir(&folder).unwrap();
        refused(&with_passphrase(&stage, &["promote", "start"]), "it cannot be restored");
        refused(&stage.promote(&["start"]), words);
        std::fs::remove_dir(&folder).unwrap();
        std::fs::rename(&aside, &folder).unwrap();
    }
    for file in &index {
        let whole = std::fs::read(file).unwrap();
        make_writable(file);
        std::fs::write(file, b"rotten").unwrap();
        refused(&with_passphrase(&stage, &["promote", "start"]), "it cannot be restored");
        std::fs::write(file, whole).unwrap();
    }
    let wrong = run(tool("promote", stage.path()).arg("start").env("TRAPKEY_PASSPHRASE", "another-one"));
    refused(&wrong, "cannot be looked for");
    let store = stage.path().join("store");
    std::fs::rename(&store, &aside).unwrap();
    refused(&with_passphrase(&stage, &["promote", "start"]), "there is no snapshot store");
    // A store of the same passphrase that is another one.
    std::fs::create_dir(stage.path().join("other")).unwrap();
    std::fs::copy(stage.path().join("evidence/preflight.json"), stage.path().join("other/preflight.json"))
        .unwrap();
    let made = with_passphrase(&stage, &["snapshot", "create", "--evidence", "other"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    refused(&with_passphrase(&stage, &["promote", "start"]), "and the snapshot was made in");
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&aside, &store).unwrap();
    // By its name alone it is there.
    let started = stage.promote(&["start"]);
    assert_eq!(started.code, 0, "{}", started.stderr);
    assert!(stage.path().join("deployed").exists());
    assert_eq!(stage.phase(), "baking");
}

#[test]
fn a_snapshot_in_a_bucket_is_looked_for_and_a_store_that_is_away_is_another_thing() {
    let bucket = Bucket::new();
    let meddler = Meddler::start(bucket.port());
    let stage =
        stage("", &SNAPSHOT.replace("store: store", &format!("store: \"s3://{}/shop\"", bucket.name)));
    std::fs::create_dir(stage.path().join("deploy")).unwrap();
    std::fs::write(stage.path().join("deploy/shop.conf"), "workers = 4\n").unwrap();
    let with = |words: &[&str], variables: &[(&str, String)]| {
        let mut command = tool(words[0], stage.path());
        run(command.args(&words[1..]).envs(variables.iter().map(|(name, value)| (*name, value))))
    };
    let reach = Bucket::variables(meddler.port);
    let passphrase = [("TRAPKEY_PASSPHRASE", "m4nta-of-the-store".to_owned())];
    let all = [&reach[..], &passphrase].concat();
    for words in [&["preflight"][..], &["snapshot", "create"]] {
        let ended = with(words, &all);
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
    }
    let start = |variables: &[(&str, String)], code: i32, words: &str| {
        let ended = with(&["promote", "start"], variables);
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "`{words}` in {}", ended.stderr);
        if code != 0 {
            assert!(stage.phase().is_empty());
            stage.assert_all_blue_untouched();
        }
    };
    start(&[], 5, "AWS_ACCESS_KEY_ID");
    meddler.now(|_| Deed::Busy);
    start(&all, 4, "cannot be looked for");
    let id =
        json(&stage.path().join("evidence/snapshot.json"))["snapshot"]["id"].as_str().unwrap().to_owned();
    meddler.now(|_| Deed::Pass);
    let (status, _) = bucket.send("DELETE", &format!("/shop/snapshots/{id}"), b"");
    assert!((200..300).contains(&status), "{status}");
    start(&reach, 5, "which this job has no passphrase for");
    start(&all, 5, "the store has no snapshot of that id");
    let again = with(&["snapshot", "create"], &all);
    assert_eq!(again.code, 0, "{}", again.stderr);
    start(&reach, 0, "");
}

#[test]
fn a_snapshot_that_went_while_a_release_waited_is_missed_before_the_first_step_and_never_after_it() {
    let freeze = "  calendar: {time_zone: UTC, freeze: [{from: \"${FROM:-2020-01-01}\", to: 2099-01-01, because: audit}]}\n";
    let stage = with_snapshot_and(freeze, "may_differ: [FROM]\n");
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(stage.phase(), "holding");
    let [file] = &snapshots(&stage)[..] else { panic!("one snapshot") };
    let aside = stage.path().join("aside");
    std::fs::rename(file, &aside).unwrap();
    let open = ["step", "--set", "FROM=2098-01-01"];
    let ended = stage.promote(&open);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("that this release relies on is not there"), "{}", ended.stderr);
    assert_eq!(stage.phase(), "holding");
    stage.assert_all_blue_untouched();
    // With it back the release goes on, and once traffic has moved nothing hangs on it: a way back is never held up.
    std::fs::rename(&aside, file).unwrap();
    assert_eq!(stage.promote(&open).code, 0);
    assert_eq!(stage.phase(), "baking");
    std::fs::rename(file, &aside).unwrap();
    let ended = stage.promote(&open);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
}

#[test]
fn an_abort_is_carried_out_although_the_snapshot_is_gone() {
    let freeze =
        "  calendar: {time_zone: UTC, freeze: [{from: 2020-01-01, to: 2099-01-01, because: audit}]}\n";
    let stage = with_snapshot(freeze);
    assert_eq!(stage.promote(&["start"]).code, 0);
    assert_eq!(stage.phase(), "holding");
    std::fs::remove_dir_all(stage.path().join("store")).unwrap();
    assert_eq!(stage.promote(&["step"]).code, 5);
    // As one leaves it that could not carry it out itself.
    let record = &json(&stage.state())["record"];
    let asked = serde_json::json!({"epoch": 1, "promotion": record["id"], "who": "ann", "at": "now"});
    std::fs::write(stage.path().join(".trapkey/production/abort.json"), asked.to_string()).unwrap();
    let ended = stage.promote(&["step"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(stage.outcome(), "rolled_back");
}

#[test]
fn what_a_ci_runner_cleans_is_a_warning_and_a_place_outside_is_none() {
    let stage = stage("", SNAPSHOT);
    let at = stage.path().to_str().unwrap();
    let github = [("GITHUB_ACTIONS", "true"), ("GITHUB_WORKSPACE", at)];
    let (ended, findings) = live_with(&stage, &[], &github);
    assert_eq!(ended.code, 0, "{findings:?}");
    for (name, severity, words) in [
        ("state is kept", "warning", "TRAPKEY_STATE"),
        ("store is kept", "warning", "snapshot.store"),
        ("evidence is kept", "info", "artifact"),
    ] {
        says(&findings, name, "fail", "git clean -ffdx");
        says(&findings, name, "fail", words);
        assert_eq!(part(&findings, name)["severity"], severity);
    }
    let gate = run(tool("preflight", stage.path()).envs(github));
    assert_eq!(gate.code, 0, "{}", gate.stderr);
    assert!(
        gate.stderr.contains("::warning file=release.yaml,title=promote%3A state is kept"),
        "{}",
        gate.stderr
    );
    assert!(!gate.stderr.contains("title=promote%3A evidence"), "{}", gate.stderr);
    let elsewhere = folder();
    let outside = elsewhere.path().to_str().unwrap();
    stage.edit("store: store", &format!("store: {outside}/store"));
    let arguments = ["--state", outside, "--evidence", outside];
    let (ended, findings) = live_with(&stage, &arguments, &github);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "places", "pass", "none of them lies where this runner cleans");
}

#[test]
fn a_baseline_that_verify_would_refuse_is_a_warning() {
    let baseline = |max_age: &str| {
        format!(
            "verify: {{baseline: {{max_age: {max_age}, probes: [{{name: home, url: \"${{ENTRY}}\", rate: 100/s, duration: 500ms, min_samples: 10, timeout: 1m}}]}}}}\n"
        )
    };
    let stage = stage("", &baseline("1h"));
    let entry = [("ENTRY", stage.blue.url())];
    let entry: Vec<(&str, &str)> = entry.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (ended, findings) = live_with(&stage, &[], &entry);
    assert_eq!(ended.code, 0, "{findings:?}");
    says(&findings, "baseline", "fail", "the evidence `baseline.json` is missing");
    assert_eq!(part(&findings, "baseline")["severity"], "warning");
    let record = || {
        wait_until("a machine with time to measure", || {
            run(tool("verify", stage.path()).arg("baseline").envs(entry.iter().copied())).code == 0
        });
    };
    record();
    let (_, findings) = live_with(&stage, &[], &entry);
    says(&findings, "baseline", "pass", "1 probes, recorded at");
    // The steps take ten minutes.
    stage.edit("max_age: 1h", "max_age: 5m");
    record();
    let (_, findings) = live_with(&stage, &[], &entry);
    says(&findings, "baseline", "fail", "the baseline will be too old when `verify` compares with it");
}

#[test]
fn every_kind_of_router_is_tried_and_left_as_it_is() {
    std::thread::scope(|scope| {
        for kind in trapkey::routers::ALL {
            let work = || {
                let folder = folder();
                let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
                let server = router::start(kind.name, folder.path(), blue.port, green.port);
                let text = plan(&server.router(blue.port, green.port), &blue, &green, SHORT, "");
                std::fs::write(folder.path().join("release.yaml"), text).unwrap();
                let held = server.held();
                let ended = wait_for("a router that has just begun", || {
                    let ended = call("promote", folder.path(), &["plan", "--live", "--json"]);
                    (ended.code == 0).then_some(ended)
                });
                let findings: Value = serde_json::from_str(&ended.stdout).unwrap();
                for name in ["router", "steps", "traffic", "front door", "blue", "green"] {
                    says(findings.as_array().unwrap(), name, "pass", "");
                }
                assert_eq!(server.held(), held);
                drop(server);
                let away = call("promote", folder.path(), &["plan", "--live"]);
                assert_eq!(away.code, 4, "{}{}", away.stdout, away.stderr);
            };
            std::thread::Builder::new().name(kind.name.into()).spawn_scoped(scope, work).unwrap();
        }
    });
}

#[test]
fn a_backend_that_haproxy_does_not_have_closes_the_gate() {
    let stage = stage("", "");
    stage.edit("backend: shop", "backend: shopp");
    let (ended, findings) = live(&stage);
    assert!([2, 4].contains(&ended.code), "{findings:?}");
    let router = part(&findings, "router");
    assert!(router["verdict"] != "pass" && router["message"].as_str().unwrap().contains("shopp"), "{router}");
}
