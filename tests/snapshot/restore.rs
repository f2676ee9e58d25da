//! Every way back through the binary: into a folder, in place, into a live database; resumed after a kill;
//! from hostile repositories and from restic's.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use trapkey::repository::restic::{Passphrase, fuzzing};

use super::files::seen;
use super::{Place, is_root, noise, walk};
use crate::support::postgres::{PASSWORD, Postgres, program};
use crate::support::{Ended, run};

const DEPLOY: &str = "{name: config, kind: files, target: deploy, with: {exclude: ['*.log']}}";

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", ended.stdout, ended.stderr))
}

fn read(place: &Place, path: &str) -> String {
    std::fs::read_to_string(place.path(path)).unwrap_or_else(|e| format!("{path}: {e}"))
}

fn tags(place: &Place) -> Vec<bool> {
    let list: Value = serde_json::from_str(&place.good(&["list", "--json"]).stdout).unwrap();
    let all = list["snapshots"].as_array().unwrap();
    all.iter().map(|s| s["tags"].as_array().unwrap().contains(&"before-restore".into())).collect()
}

/// A folder, its snapshot, and what became of it since.
fn changed() -> Place {
    let place = Place::new(DEPLOY);
    place.write("deploy/app.yaml", b"replicas: 3\n");
    place.write("deploy/sub/same", b"same");
    place.write("deploy/sub/gone", b"gone");
    place.write("deploy/today.log", b"before");
    place.create();
    place.write("deploy/app.yaml", b"replicas: 4 and more\n");
    std::fs::remove_file(place.path("deploy/sub/gone")).unwrap();
    place.write("deploy/new", b"new");
    place.write("deploy/added/deep", b"new too");
    place.write("deploy/added/kept.log", b"a log");
    place.write("deploy/bare/only", b"x");
    place.write("deploy/today.log", b"after");
    place
}

#[test]
fn in_place_brings_back_what_was_and_keeps_what_came() {
    let place = changed();
    let ended = place.good(&["restore", "--in-place", "--json"]);
    let document = json_of(&ended);
    assert_eq!(read(&place, "deploy/app.yaml"), "replicas: 3\n");
    assert_eq!(read(&place, "deploy/sub/gone"), "gone");
    for (path, text) in
        [("new", "new"), ("added/deep", "new too"), ("today.log", "after"), ("sub/same", "same")]
    {
        assert_eq!(read(&place, &format!("deploy/{path}")), text);
    }
    assert_eq!(document["sources"][0]["files"], 3);
    assert_eq!(document["sources"][0]["kept"], 1);
    // The snapshot of what was there brings that back.
    let before = document["before"].as_str().unwrap().to_owned();
    assert!(ended.stderr.contains(&before), "{}", ended.stderr);
    assert_eq!(tags(&place), [false, true]);
    place.good(&["restore", &before, "--to", "back"]);
    assert_eq!(read(&place, "back/config/app.yaml"), "replicas: 4 and more\n");
    assert_eq!(read(&place, "back/config/new"), "new");
    place.good(&["check", "--read-data"]);
}

#[test]
fn the_latest_is_never_one_that_was_taken_before_a_restore() {
    let place = changed();
    place.good(&["restore", "--in-place"]);
    place.write("deploy/app.yaml", b"once more\n");
    place.good(&["restore", "--in-place"]);
    assert_eq!(read(&place, "deploy/app.yaml"), "replicas: 3\n");
    place.good(&["restore", "--to", "back"]);
    assert_eq!(read(&place, "back/config/app.yaml"), "replicas: 3\n");
    assert_eq!(tags(&place), [false, true, true]);
}

#[test]
fn delete_removes_what_belongs_to_the_source_and_nothing_else() {
    let place = changed();
    place.good(&["restore", "--to", "back"]);
    place.write("deploy/sub/extra", b"extra");
    let document = json_of(&place.good(&["restore", "--in-place", "--delete", "--json"]));
    for gone in ["new", "added/deep", "bare"] {
        assert!(!place.path("deploy").join(gone).exists(), "{gone}");
    }
    assert_eq!(read(&place, "deploy/added/kept.log"), "a log");
    assert_eq!(read(&place, "deploy/today.log"), "after");
    assert_eq!(document["sources"][0]["deleted"], 5);
    let time = |path: &str| {
        let meta = std::fs::metadata(place.path(path)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(time("deploy/sub"), time("back/config/sub"), "a removal changed the folder's time");

    // The store lies in the folder that it keeps.
    let place = Place::new("{name: all, kind: files, target: .}");
    place.write("a", b"1");
    place.create();
    place.write("b", b"2");
    place.good(&["restore", "--in-place", "--delete"]);
    assert!(place.path("a").exists() && !place.path("b").exists());
    place.good(&["check", "--read-data"]);
}

#[test]
fn a_link_in_the_folder_is_replaced_or_removed_and_never_followed() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/app.yaml", b"mine");
    place.create();
    place.write("elsewhere/precious", b"precious");
    std::fs::remove_file(place.path("deploy/app.yaml")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere/precious"), place.path("deploy/app.yaml")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("deploy/way-out")).unwrap();
    place.good(&["restore", "--in-place", "--delete"]);
    assert_eq!(read(&place, "elsewhere/precious"), "precious");
    assert_eq!(read(&place, "deploy/app.yaml"), "mine");
    assert!(!place.path("deploy/app.yaml").symlink_metadata().unwrap().is_symlink());
    assert!(place.path("deploy/way-out").symlink_metadata().is_err());
}

#[test]
fn a_single_file_and_a_target_that_is_gone_come_back() {
    let place = Place::new(
        "{name: app, kind: files, target: deploy/app.yaml}\n{name: data, kind: files, target: data}",
    );
    place.write("deploy/app.yaml", b"right");
    place.write("deploy/other", b"other");
    place.write("data/a", b"a");
    std::fs::set_permissions(place.path("data"), PermissionsExt::from_mode(0o751)).unwrap();
    place.create();
    place.write("deploy/app.yaml", b"wrong");
    std::fs::remove_dir_all(place.path("data")).unwrap();
    let document = json_of(&place.good(&["restore", "--in-place", "--source", "app", "--json"]));
    assert_eq!(
        (read(&place, "deploy/app.yaml"), read(&place, "deploy/other")),
        ("right".into(), "other".into())
    );
    assert!(!place.path("data").exists());
    let before = document["before"].as_str().unwrap();
    let shown: Value = serde_json::from_str(&place.good(&["show", before, "--json"]).stdout).unwrap();
    assert_eq!(shown["sources"], serde_json::json!(["app"]));
    // Nothing is there, so nothing is kept of it.
    let document = json_of(&place.good(&["restore", "--in-place", "--source", "data", "--json"]));
    assert_eq!(document["before"], Value::Null);
    assert_eq!(read(&place, "data/a"), "a");
    assert_eq!(std::fs::metadata(place.path("data")).unwrap().mode() & 0o777, 0o751);
    std::fs::remove_file(place.path("deploy/app.yaml")).unwrap();
    place.good(&["restore", "--in-place", "--source", "app", "--source", "data"]);
    assert_eq!(read(&place, "deploy/app.yaml"), "right");
}

#[test]
fn when_the_snapshot_before_fails_nothing_is_touched() {
    let place = changed();
    let before = seen(&place.path("deploy"));
    let plan = read(&place, "release.yaml");
    place.write("release.yaml", plan.replace("  sources:", "  before: ['false']\n  sources:").as_bytes());
    let ended = place.call(&["restore", "--in-place", "--delete"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing was touched"), "{}", ended.stderr);
    assert_eq!(seen(&place.path("deploy")), before);
    place.write("release.yaml", plan.as_bytes());
    // A folder where a file was, found before anything happens.
    std::fs::remove_file(place.path("deploy/app.yaml")).unwrap();
    place.write("deploy/app.yaml/inside", b"x");
    let before = seen(&place.path("deploy"));
    let ended = place.call(&["restore", "--in-place"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("deploy/app.yaml"), "{}", ended.stderr);
    assert_eq!(seen(&place.path("deploy")), before);
    assert_eq!(tags(&place), [false]);
}

#[test]
fn what_cannot_go_back_in_place_is_refused_before_anything_happens() {
    let place = Place::new(
        "{name: says, kind: command, target: [echo, hello]}\n{name: config, kind: files, target: deploy}",
    );
    place.write("deploy/a", b"a");
    place.create();
    place.write("deploy/a", b"changed");
    for (arguments, code, words) in [
        (&["restore", "--in-place"][..], 2, "something to look at"),
        (&["restore", "--in-place", "--source", "confg"], 2, "it has says, config"),
        (&["restore"], 2, "--in-place"),
        (&["restore", "--to", "x", "--in-place"], 2, "cannot be used with"),
        (&["restore", "--to", "x", "--delete"], 2, "cannot be used with"),
        (&["restore", "--to", "x", "--force"], 2, "cannot be used with"),
        (&["restore", "--in-place", "--file", "config/a"], 2, "cannot be used with"),
        (&["restore", "--into", "postgres://u@h/d"], 2, "exactly one with --source"),
        (&["restore", "--into-env", "NOT_SET", "--source", "config"], 2, "is not set"),
        (&["restore", "--into", "somewhere", "--source", "config"], 2, "--to"),
    ] {
        let ended = place.call(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(read(&place, "deploy/a"), "changed");
    assert_eq!(place.listed(), 1);
    place.plan("{name: other, kind: files, target: deploy}", "");
    let ended = place.call(&["restore", "--in-place", "--source", "config"]);
    assert!(ended.code == 2 && ended.stderr.contains("the plan has no source `config`"), "{}", ended.stderr);
    place.plan("{name: config, kind: command, target: [echo, x]}", "");
    let ended = place.call(&["restore", "--in-place", "--source", "config"]);
    assert!(ended.code == 2 && ended.stderr.contains("of kind `command` in the plan"), "{}", ended.stderr);
}

const SHOP: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, cents bigint NOT NULL);
    INSERT INTO orders (cents) SELECT n * 7 FROM generate_series(1, 50) n";
const DATABASE: &str =
    "{name: database, kind: postgres, target: \"${SHOP_URL}\", with: {tables: [{name: orders, sum: cents}]}}";

fn with(place: &Place, url: &str, arguments: &[&str]) -> Ended {
    run(place.command().args(arguments).env("SHOP_URL", url))
}

fn sum(url: &str) -> i64 {
    let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
    client.query_one("SELECT sum(cents)::bigint FROM orders", &[]).unwrap().get(0)
}

#[test]
fn a_database_goes_into_an_empty_one_and_over_a_filled_one_only_when_told() {
    let server = Postgres::shared();
    let url = server.database("goes_into");
    Postgres::execute(&url, SHOP);
    let place = Place::new(DATABASE);
    assert_eq!(with(&place, &url, &["create"]).code, 0);
    let other = server.database("goes_into_other");
    let into = |more: &[&str]| {
        let mut command = place.command();
        command.args(["restore", "--into-env", "TARGET_URL", "--source", "database", "--json"]).args(more);
        run(command.env("SHOP_URL", &url).env("TARGET_URL", &other))
    };
    let ended = into(&[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(json_of(&ended)["sources"][0]["target"], "${TARGET_URL}");
    assert_eq!(sum(&other), 8925);
    Postgres::execute(&other, "DELETE FROM orders; CREATE TABLE precious (a int)");
    let ended = into(&[]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("not empty") && ended.stderr.contains("--force"), "{}", ended.stderr);
    let ended = into(&["--force"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(sum(&other), 8925);
    Postgres::execute(&other, "SELECT FROM precious");
    // A password in the arguments is refused, and not repeated.
    let ended = with(&place, &url, &["restore", "--into", &other, "--source", "database"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("--into-env") && !ended.stderr.contains(PASSWORD), "{}", ended.stderr);
    // Without one in the URL it may stand in the environment, as everywhere with PostgreSQL.
    let third = server.database("goes_into_third");
    let bare = third.replace(&format!(":{PASSWORD}"), "");
    let mut command = place.command();
    command.args(["restore", "--into", &bare, "--source", "database"]).env("SHOP_URL", &url);
    let ended = run(command.env("PGPASSWORD", PASSWORD));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(sum(&third), 8925);
}

#[test]
fn a_database_goes_back_in_place_after_a_snapshot_of_it() {
    let server = Postgres::shared();
    let url = server.database("goes_back");
    Postgres::execute(&url, SHOP);
    let place = Place::new(&format!("{DATABASE}\n{DEPLOY}"));
    place.write("deploy/app.yaml", b"right");
    assert_eq!(with(&place, &url, &["create"]).code, 0);
    place.write("deploy/app.yaml", b"wrong");
    Postgres::execute(&url, "UPDATE orders SET cents = 1; CREATE TABLE came_later (a int)");
    let ended = with(&place, &url, &["restore", "--in-place", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((sum(&url), read(&place, "deploy/app.yaml")), (8925, "right".into()));
    Postgres::execute(&url, "SELECT FROM came_later");
    let before = json_of(&ended)["before"].as_str().unwrap().to_owned();
    let ended = with(&place, &url, &["restore", &before, "--in-place", "--source", "database"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((sum(&url), read(&place, "deploy/app.yaml")), (50, "right".into()));
    // A database that does not answer: no snapshot of it, and nothing is touched, not even the files.
    place.write("deploy/app.yaml", b"wrong");
    let nowhere = format!("postgres://shop@127.0.0.1:{}/x", crate::support::free_port());
    let ended = with(&place, &nowhere, &["restore", "--in-place"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing was touched"), "{}", ended.stderr);
    assert_eq!(read(&place, "deploy/app.yaml"), "wrong");
}

#[test]
fn what_was_taken_before_a_restore_never_takes_the_place_of_a_way_back() {
    let place = changed();
    place.good(&["restore", "--in-place"]);
    place.write("deploy/app.yaml", b"once more\n");
    place.good(&["restore", "--in-place"]);
    let plan = read(&place, "release.yaml").replace("  sources:", "  retention: {keep_last: 1}\n  sources:");
    place.write("release.yaml", plan.as_bytes());
    place.good(&["prune"]);
    // The way back, and the newest of what was there before a restore.
    assert_eq!(tags(&place), [false, true]);
    place.good(&["restore", "--to", "back"]);
    assert_eq!(read(&place, "back/config/app.yaml"), "replicas: 3\n");
}

/// Many small files.
fn many() -> Place {
    let place =
        Place::new("{name: data, kind: files, target: data}\n{name: more, kind: files, target: more}");
    for number in 0..300 {
        place.write(&format!("data/{}/{number}", number % 7), &noise(700, number));
    }
    place.write("more/large", &noise(900_000, 1));
    place.create();
    place
}

#[test]
fn a_restore_that_was_killed_goes_on_wherever_it_was() {
    let place = many();
    let all = [0, 1, 120, 250, 299, 2, 60, 200, 290, 301];
    let most = usize::try_from(crate::snapshot::rounds(5, 10)).unwrap().min(all.len());
    let mut all = all[..most].iter().copied().peekable();
    while let Some(&wanted) = all.peek() {
        let mut child = place
            .command()
            .args(["restore", "--to", "back"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = |path: &str| place.path(path).exists();
        while child.try_wait().unwrap().is_none() {
            if begun(".back.trapkey-restore") && walk(&place.path("back")).len() >= wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        // A busy machine may look too late; towards the end that is no wonder.
        if begun(".back.trapkey-restore") || wanted > 250 {
            all.next();
        }
        if begun(".back.trapkey-restore") {
            let ended = place.good(&["restore", "--to", "back"]);
            assert!(
                ended.stderr.contains("an interrupted restore goes on") || wanted == 0,
                "{}",
                ended.stderr
            );
        }
        for folder in ["data", "more"] {
            assert_eq!(seen(&place.path("back").join(folder)), seen(&place.path(folder)), "{wanted}");
        }
        assert!(!begun(".back.trapkey-restore"));
        std::fs::remove_dir_all(place.path("back")).unwrap();
    }
    // It held a lock each time, and that of a dead process holds nobody up.
    place.good(&["check", "--read-data"]);
}

/// A restore that was killed in the middle.
fn killed(place: &Place) {
    for _ in 0..1000 {
        let _ = std::fs::remove_dir_all(place.path("back"));
        let mut child =
            place.command().args(["restore", "--to", "back"]).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            if walk(&place.path("back")).len() >= 30 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        if place.path(".back.trapkey-restore").exists() {
            return;
        }
    }
    panic!("it was never killed in the middle");
}

#[test]
fn what_an_interrupted_restore_left_is_repaired_where_it_was_changed() {
    let place = many();
    killed(&place);
    let whole = |path: &std::path::PathBuf| !path.to_string_lossy().contains(".trapkey-");
    let file = walk(&place.path("back")).into_iter().find(whole).unwrap();
    let changed = std::fs::metadata(&file).unwrap().modified().unwrap();
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
    std::fs::File::open(&file).unwrap().set_modified(changed).unwrap();
    place.good(&["restore", "--to", "back"]);
    for folder in ["data", "more"] {
        assert_eq!(seen(&place.path("back").join(folder)), seen(&place.path(folder)));
    }
}

#[test]
fn what_an_interrupted_restore_left_is_not_mistaken_for_what_somebody_put_there() {
    let place = many();
    killed(&place);
    place.write("back/mine", b"mine");
    let ended = place.call(&["restore", "--to", "back"]);
    assert!(ended.code == 2 && ended.stderr.contains("`mine`"), "{}", ended.stderr);
    assert_eq!(read(&place, "back/mine"), "mine");
    // Another folder of the same name is somebody's own, and other parts are another restore.
    std::fs::remove_file(place.path("back/mine")).unwrap();
    let ended = place.call(&["restore", "--to", "back", "--source", "data"]);
    assert!(ended.code == 2 && ended.stderr.contains("not empty"), "{}", ended.stderr);
    std::fs::rename(place.path("back"), place.path("moved")).unwrap();
    place.write("back/data/0/0", b"mine");
    let ended = place.call(&["restore", "--to", "back"]);
    assert!(ended.code == 2 && ended.stderr.contains("not empty"), "{}", ended.stderr);
    assert_eq!(read(&place, "back/data/0/0"), "mine");
}

#[test]
fn several_sources_one_file_and_one_folder_can_be_chosen() {
    let place = Place::new(
        "{name: a, kind: files, target: a}\n{name: b, kind: files, target: b}\n{name: c, kind: files, target: c}",
    );
    for name in ["a", "b", "c"] {
        place.write(&format!("{name}/deep/file"), name.as_bytes());
    }
    place.create();
    place.good(&["restore", "--to", "two", "--source", "a", "--source", "c", "--source", "a"]);
    assert_eq!(walk(&place.path("two")), [place.path("two/a/deep/file"), place.path("two/c/deep/file")]);
    place.good(&["restore", "--to", "one", "--file", "b/deep/file"]);
    assert_eq!(walk(&place.path("one")), [place.path("one/file")]);
    place.good(&["restore", "--to", "folder", "--file", "b/deep"]);
    assert_eq!(walk(&place.path("folder")), [place.path("folder/deep/file")]);
    for (arguments, words) in [
        (["--source", "d"], "it has a, b, c"),
        (["--file", "a/none"], "no such file"),
        (["--file", "../a"], "no such file"),
    ] {
        let ended = place.call(&[&["restore", "--to", "none"][..], &arguments].concat());
        assert!(ended.code == 2 && ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn progress_as_json_says_how_far_it_is_and_what_is_left() {
    let place = many();
    for (arguments, total) in
        [(&[][..], None), (&["--source", "data"], Some(210_000)), (&["--file", "more/large"], Some(900_000))]
    {
        let to = format!("back{}", arguments.len() + arguments.last().map_or(0, |last| last.len()));
        let ended = place.good(&[&["restore", "--progress", "json", "--to", &to][..], arguments].concat());
        let lines: Vec<Value> = ended
            .stderr
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        let steps: Vec<&Value> = lines.iter().filter(|line| line["progress"] == "restoring").collect();
        assert!(!steps.is_empty(), "{}", ended.stderr);
        for step in &steps {
            let (bytes, of) = (step["bytes"].as_u64().unwrap(), step["of_bytes"].as_u64().unwrap());
            assert!(bytes <= of, "{step}");
            assert!(total.is_none_or(|total| of == total), "{step}");
            assert!(step["files"].is_u64() && step["bytes_per_second"].is_number(), "{step}");
            assert!(bytes == 0 || step["seconds_left"].is_number(), "{step}");
        }
        assert!(lines.iter().any(|line| line["progress"] == "comparing with the manifest"));
    }
}

#[test]
fn a_snapshot_of_restic_comes_back_and_is_not_put_in_place() {
    let place = Place::new(DEPLOY);
    place.write("deploy/app.yaml", b"by restic");
    let restic = |arguments: &[&str]| {
        let mut command = Command::new("restic");
        command.args(["-r", "store", "--no-cache", "-q"]).args(arguments).current_dir(place.folder.path());
        let ended = run(command.env("RESTIC_PASSWORD", "none-needed"));
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
    };
    restic(&["init"]);
    restic(&["backup", "deploy"]);
    place.good(&["restore", "--to", "back"]);
    let found = walk(&place.path("back"));
    assert!(found.len() == 1 && found[0].ends_with("deploy/app.yaml"), "{found:?}");
    assert_eq!(std::fs::read(&found[0]).unwrap(), b"by restic");
    let list: Value = serde_json::from_str(&place.good(&["list", "--json"]).stdout).unwrap();
    let id = list["snapshots"][0]["id"].as_str().unwrap();
    let ended = place.call(&["restore", id, "--in-place"]);
    assert!(ended.code == 2 && ended.stderr.contains("another program"), "{}", ended.stderr);
    assert_eq!(place.call(&["restore", "--in-place"]).code, 3, "none of this service");
}

#[test]
fn a_hostile_repository_writes_nothing_outside_its_target() {
    let file = |name: &str| {
        format!(
            "{{\"nodes\":[{{\"name\":\"{name}\",\"type\":\"file\",\"mode\":420,\"size\":4,\"content\":[\"CONTENT\"]}}]}}\n"
        )
    };
    let word = Passphrase::new("none-needed").unwrap();
    for name in ["..", "../escape", "/etc/trapkey-escape", "a/b", "."] {
        let place = Place::new(DEPLOY);
        fuzzing::plant(&place.path("store"), &word, &file(name)).unwrap();
        let ended = place.call(&["restore", "--store", "store", "--to", "deep/out"]);
        assert_eq!(ended.code, 4, "{name}: {}", ended.stderr);
        assert_eq!(walk(&place.path("deep/out")), Vec::<std::path::PathBuf>::new());
        assert!(!place.path("deep/escape").exists() && !Path::new("/etc/trapkey-escape").exists());
    }
    // A link out of the target, and a folder of the same name behind it.
    let place = Place::new(DEPLOY);
    std::fs::create_dir(place.path("outside")).unwrap();
    let outside = place.path("outside").display().to_string();
    let tree = format!(
        "{{\"nodes\":[{{\"name\":\"x\",\"type\":\"symlink\",\"mode\":134218239,\"linktarget\":\"{outside}\"}},\
         {{\"name\":\"x\",\"type\":\"dir\",\"mode\":2147484141,\"subtree\":\"BELOW\"}}]}}\n"
    );
    fuzzing::plant(&place.path("store"), &word, &tree).unwrap();
    assert_eq!(place.call(&["restore", "--store", "store", "--to", "out"]).code, 4);
    assert_eq!(walk(&place.path("outside")), Vec::<std::path::PathBuf>::new());
    // The link lies there already: whoever made it does not lead us out either.
    let place = Place::new(DEPLOY);
    let tree = "{\"nodes\":[{\"name\":\"x\",\"type\":\"dir\",\"mode\":2147484141,\"subtree\":\"BELOW\"},\
                {\"name\":\"disk\",\"type\":\"dev\",\"mode\":67109248,\"device\":2049}]}\n";
    fuzzing::plant(&place.path("store"), &word, tree).unwrap();
    let ended = place.good(&["restore", "--store", "store", "--to", "out", "--no-owners"]);
    assert!(ended.stderr.contains("1 device left out"), "{}", ended.stderr);
    assert_eq!(walk(&place.path("out")), [place.path("out/x/victim")]);
    if is_root() {
        let ended = place.call(&["restore", "--store", "store", "--to", "as-root"]);
        let made =
            place.path("as-root/disk").symlink_metadata().is_ok_and(|m| m.file_type().is_block_device());
        assert!(made || ended.code == 4, "{}", ended.stderr);
    }
}

#[test]
fn a_dump_is_restored_by_the_programs_of_its_database_alone() {
    let server = Postgres::shared();
    let url = server.database("by_hand");
    Postgres::execute(&url, SHOP);
    let place = Place::new(DATABASE);
    assert_eq!(with(&place, &url, &["create"]).code, 0);
    // As docs/restore.md has it: restic and pg_restore, nothing of ours.
    let copy = server.database("by_hand_copy");
    let script = format!(
        "restic -r store --no-cache -q dump latest /database/database.dump \
         | {} --exit-on-error --no-owner --dbname=\"$COPY_URL\"",
        program("pg_restore").display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(place.folder.path());
    let ended = run(command.env("RESTIC_PASSWORD", "none-needed").env("COPY_URL", &copy));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(sum(&copy), 8925);
}

#[test]
fn a_restore_in_place_that_was_killed_goes_on_and_what_was_there_is_kept() {
    let place = many();
    let right = seen(&place.path("data"));
    let mut all = [1, 40, 150, 280].into_iter().peekable();
    while let Some(&wanted) = all.peek() {
        for number in 0..300 {
            place.write(&format!("data/{}/{number}", number % 7), b"wrong");
        }
        let known = place.listed();
        let mut child = place
            .command()
            .args(["restore", "--in-place", "--source", "data"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let restored = || {
            walk(&place.path("data")).iter().filter(|f| f.metadata().is_ok_and(|m| m.len() == 700)).count()
        };
        while child.try_wait().unwrap().is_none() {
            if restored() >= wanted {
                child.kill().unwrap();
            }
        }
        // A busy machine may look too late; towards the end that is no wonder.
        if !child.wait().unwrap().success() || wanted > 150 {
            all.next();
        }
        // It was kept before the first file was touched.
        assert_eq!(place.listed(), known + 1);
        let list: Value = serde_json::from_str(&place.good(&["list", "--json"]).stdout).unwrap();
        let before = list["snapshots"][known]["id"].as_str().unwrap();
        let kept = place.path("kept");
        let _ = std::fs::remove_dir_all(&kept);
        place.good(&["restore", before, "--to", kept.to_str().unwrap()]);
        for file in walk(&kept.join("data")) {
            assert_eq!(std::fs::read(file).unwrap(), b"wrong");
        }
        place.good(&["restore", "--in-place", "--source", "data"]);
        let now: Vec<_> =
            seen(&place.path("data")).into_iter().map(|(path, _, _, _, bytes)| (path, bytes)).collect();
        let was: Vec<_> = right.iter().map(|(path, _, _, _, bytes)| (path.clone(), bytes.clone())).collect();
        assert_eq!(now, was, "{wanted}");
    }
}

#[test]
fn a_socket_that_is_in_use_outlives_a_restore_that_deletes() {
    let place = changed();
    let socket = std::os::unix::net::UnixListener::bind(place.path("deploy/added/live.sock")).unwrap();
    place.good(&["restore", "--in-place", "--delete"]);
    assert!(!place.path("deploy/added/deep").exists());
    std::os::unix::net::UnixStream::connect(place.path("deploy/added/live.sock")).unwrap();
    drop(socket);
}

/// Makes a store by hand whose only snapshot has these files, and a manifest of this text.
fn with_manifest(place: &Place, files: &[(&str, &[u8])], manifest: &str) {
    use trapkey::repository::restic::{Local, Repository, Spec};
    let backend = std::sync::Arc::new(Local::new(place.path("byhand")));
    let passphrase = Passphrase::new("none-needed").unwrap();
    let repository = Repository::init(backend, &passphrase, std::time::Duration::ZERO).unwrap();
    let mut archive = repository.begin(Spec::new(vec!["/config".into()])).unwrap();
    for (path, bytes) in files {
        archive.bytes(Path::new(path), bytes).unwrap();
    }
    archive.bytes(Path::new("SHA256SUMS"), manifest.as_bytes()).unwrap();
    archive.seal().unwrap().commit().unwrap();
}

#[test]
fn files_that_are_not_what_the_manifest_says_fail_the_restore() {
    // One piece, and several.
    let (small, large) = (b"settings".to_vec(), noise(1_300_000, 9));
    let files: [(&str, &[u8]); 2] = [("config/small", &small), ("config/large", &large)];
    let line = |path: &str, bytes: &[u8]| format!("{}  {path}\n", trapkey::evidence::sha256_hex(bytes));
    let good = [line("config/large", &large), line("config/small", &small)];
    for (manifest, named) in [
        (good.concat(), None),
        (format!("{}{}", good[0], line("config/small", b"other")), Some("config/small")),
        (format!("{}{}", line("config/large", b"other"), good[1]), Some("config/large")),
        (good[0].clone(), Some("config/small")),
        (good[1].clone(), Some("config/large")),
    ] {
        let place = Place::new("{name: config, kind: files, target: deploy}");
        with_manifest(&place, &files, &manifest);
        let ended = place.call(&["restore", "--store", "byhand", "--to", "back"]);
        assert_eq!(ended.code, if named.is_some() { 4 } else { 0 }, "{manifest}: {}", ended.stderr);
        if let Some(named) = named {
            assert!(ended.stderr.contains("not what the snapshot's manifest says"), "{}", ended.stderr);
            assert!(ended.stderr.contains(named), "{}", ended.stderr);
        }
    }
}
