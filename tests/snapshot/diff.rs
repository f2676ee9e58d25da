//! `diff`: what is another in one snapshot than in an earlier one.

use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use super::prune::{kept, restic};
use crate::snapshot::{Place, is_root, noise};

fn id(place: &Place) -> String {
    place.create()["snapshot"]["id"].as_str().unwrap().to_owned()
}

fn differences(place: &Place, a: &str, b: &str) -> (Vec<String>, Value) {
    let text = place.good(&["diff", a, b]).stdout;
    let json: Value = serde_json::from_str(&place.good(&["diff", a, b, "--json"]).stdout).unwrap();
    (text.lines().map(str::to_owned).collect(), json)
}

#[test]
fn every_kind_of_difference_is_named_with_sizes_and_totals() {
    let place = kept("{keep_last: 1}");
    let deploy = place.path("deploy");
    place.write("deploy/gone.bin", &noise(2000, 1));
    place.write("deploy/folder/inside", b"1");
    place.write("deploy/same/deep/file", b"the same");
    place.write("deploy/mode", b"1");
    place.write("deploy/kind", b"1");
    symlink("a", deploy.join("link")).unwrap();
    std::fs::set_permissions(deploy.join("mode"), PermissionsExt::from_mode(0o644)).unwrap();
    let first = id(&place);
    std::fs::remove_file(deploy.join("gone.bin")).unwrap();
    std::fs::remove_dir_all(deploy.join("folder")).unwrap();
    place.write("deploy/app.yaml", b"replicas: 30\n");
    place.write("deploy/new/one", &noise(5000, 2));
    std::fs::set_permissions(deploy.join("mode"), PermissionsExt::from_mode(0o4600)).unwrap();
    std::fs::remove_file(deploy.join("kind")).unwrap();
    symlink("nowhere", deploy.join("kind")).unwrap();
    std::fs::remove_file(deploy.join("link")).unwrap();
    symlink("b", deploy.join("link")).unwrap();
    // A time alone is no difference.
    std::fs::File::open(deploy.join("same/deep/file")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let mut expected = vec![
        "~ config/app.yaml 12 B -> 13 B (content)",
        "- config/folder/",
        "- config/folder/inside 1 B",
        "- config/gone.bin 1.95 KiB",
        "~ config/kind 1 B (file -> symlink)",
        "~ config/link (target a -> b)",
        "~ config/mode 1 B (mode 0644 -> 4600)",
        "+ config/new/",
        "+ config/new/one 4.88 KiB",
    ];
    if is_root() {
        std::os::unix::fs::chown(deploy.join("same"), Some(12), Some(34)).unwrap();
        expected.push("~ config/same/ (owner 0:0 -> 12:34)");
    }
    let second = id(&place);
    let (lines, json) = differences(&place, &first, &second);
    let (all, last) = lines.split_at(lines.len() - 1);
    assert_eq!(all, expected);
    let changed = expected.iter().filter(|line| line.starts_with('~')).count();
    assert_eq!(last, [format!("in all: 2 added (4.88 KiB), 3 removed (1.95 KiB), {changed} changed")]);
    assert_eq!(
        json["total"],
        serde_json::json!({"added": 2, "removed": 3, "changed": changed, "bytes_added": 5000, "bytes_removed": 2001})
    );
    assert_eq!((&json["a"], &json["b"]), (&first.clone().into(), &second.clone().into()));
    assert_eq!(json["sources"][0]["name"], "config");
    let link = json["changes"].as_array().unwrap().iter().find(|c| c["path"] == "config/kind").unwrap();
    assert_eq!((&link["before"]["type"], &link["after"]["type"]), (&"file".into(), &"symlink".into()));
    // The other way round what was added is removed.
    let (_, back) = differences(&place, &second, &first);
    assert_eq!((&back["total"]["added"], &back["total"]["removed"]), (&3.into(), &2.into()));
    let (same, nothing) = differences(&place, &first, &first[..8]);
    assert!(same.len() == 1 && same[0].ends_with("have the same content"), "{same:?}");
    assert_eq!(nothing["changes"], serde_json::json!([]));
}

#[test]
fn the_same_bytes_are_no_difference_though_restic_cuts_them_elsewhere() {
    let place = kept("{keep_last: 1}");
    place.write("deploy/large.bin", &noise(3_000_000, 7));
    place.write("deploy/other.bin", &noise(3_000_000, 8));
    let ours = id(&place);
    place.good(&["restore", &ours, "--to", "copy"]);
    let mut changed = noise(3_000_000, 8);
    changed[2_000_000] ^= 1;
    place.write("copy/config/other.bin", &changed);
    std::fs::remove_file(place.path("copy/SHA256SUMS")).unwrap();
    std::fs::remove_file(place.path("copy/trapkey.json")).unwrap();
    // restic saves a path as it is given, from the folder on.
    let ended = crate::support::run(
        std::process::Command::new("restic")
            .args(["--no-cache", "-q", "-r", "../store", "backup", "config", "--host", "elsewhere"])
            .current_dir(place.path("copy"))
            .env("RESTIC_PASSWORD", "none-needed"),
    );
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let (lines, json) = differences(&place, &ours, "latest");
    assert_eq!(lines[0], "~ config/other.bin 2.86 MiB (content)", "{lines:?}");
    assert_eq!(json["changes"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(restic(&place, &["check", "--read-data"]).code, 0);
}

#[test]
fn a_name_cannot_give_orders_to_the_terminal() {
    let place = kept("{keep_last: 1}");
    let first = id(&place);
    place.write("deploy/red\u{1b}[31m\u{7}\nline", b"x");
    symlink("to\u{1b}]0;title\u{7}", place.path("deploy/link")).unwrap();
    let second = id(&place);
    std::fs::remove_file(place.path("deploy/link")).unwrap();
    symlink("\u{9b}31m", place.path("deploy/link")).unwrap();
    let third = id(&place);
    for (a, b, said) in
        [(&first, &second, "red?[31m??line"), (&second, &third, "target to?]0;title? -> ?31m")]
    {
        let text = place.good(&["diff", a, b]).stdout;
        assert!(text.contains(said), "{text:?}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

#[test]
fn unknown_snapshots_are_a_usage_error_and_damaged_ones_are_named() {
    let place = kept("{keep_last: 1}");
    let first = id(&place);
    assert_eq!(place.call(&["diff", &first, "ffffffff"]).code, 2);
    assert_eq!(place.call(&["diff"]).code, 2);
    place.write("deploy/more", b"more");
    id(&place);
    // The second may be left out.
    assert!(place.good(&["diff", &first]).stdout.contains("+ config/more"));
    for pack in crate::snapshot::walk(&place.path("store/data")) {
        std::fs::remove_file(pack).unwrap();
    }
    let ended = place.call(&["diff", &first]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
}
