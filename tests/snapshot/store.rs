//! The store through the binary: what it adds, what it notices, what it refuses, who may read it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};
use trapkey::evidence::{DocumentVerdict, Finding, PreflightBody, Verdict, sha256_hex};
use trapkey::job::{Call, Conclusion, Job};
use trapkey::world::talk::{Color, Talk};

use super::{Place, noise, walk};

fn filled() -> Place {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/app.yaml", b"replicas: 3\n");
    place.write("deploy/large.bin", &noise(5_000_000, 5));
    place.create();
    place
}

fn used(place: &Place) -> u64 {
    walk(&place.path("store")).iter().map(|path| path.metadata().unwrap().len()).sum()
}

#[test]
fn an_unchanged_second_snapshot_adds_nothing_but_its_manifest() {
    let place = filled();
    let before = used(&place);
    let first = place.document();
    assert_eq!(first["snapshot"]["added_bytes"], 5_000_012);
    let second = place.create();
    assert_eq!(second["snapshot"]["added_bytes"], 0);
    assert_ne!(first["snapshot"]["id"], second["snapshot"]["id"]);
    assert_eq!(first["snapshot"]["sources"][0]["sha256"], second["snapshot"]["sources"][0]["sha256"]);
    assert!(used(&place) - before < 4096, "{} bytes", used(&place) - before);
    assert_eq!(place.listed(), 2);
}

#[test]
fn the_store_is_for_its_owner_alone() {
    let place = filled();
    let mut folders = vec![place.path("store")];
    while let Some(folder) = folders.pop() {
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{}", entry.path().display());
            }
        }
    }
}

#[test]
fn one_flipped_bit_in_any_file_is_noticed_and_named() {
    let place = filled();
    // The text in `lock` is only a name to show; nothing is decided by it.
    let files: Vec<PathBuf> =
        walk(&place.path("store")).into_iter().filter(|path| !path.ends_with("lock")).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let good = std::fs::read(&file).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&file, &bad).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            let check = place.call(&["check"]);
            assert_eq!(check.code, 4, "{name} at {at}");
            assert!(check.stderr.contains(name), "{name}: {}", check.stderr);
            let restore = place.call(&["restore", "--to", "back"]);
            assert_eq!(restore.code, 4, "{name} at {at}");
            assert!(restore.stderr.contains(name), "{name}: {}", restore.stderr);
            if file.components().any(|c| c.as_os_str() == "objects") {
                for said in [&check.stderr, &restore.stderr] {
                    assert!(said.contains("config/app.yaml") || said.contains("config/large.bin"), "{said}");
                }
            }
            // A file is there whole or not at all.
            for (inside, length) in [("app.yaml", 12), ("large.bin", 5_000_000)] {
                let restored = place.path("back/config").join(inside);
                assert!(!restored.exists() || restored.metadata().unwrap().len() == length);
            }
            assert!(walk(&place.path("back")).iter().all(|path| path.extension().is_none_or(|e| e != "tmp")));
            let _ = std::fs::remove_dir_all(place.path("back"));
        }
        std::fs::write(&file, good).unwrap();
    }
    place.good(&["check"]);
}

#[test]
fn a_missing_or_cut_object_is_noticed_and_the_next_create_mends_it() {
    let place = filled();
    let object = walk(&place.path("store/objects")).remove(0);
    for broken in [None, Some(&b"cut"[..])] {
        match broken {
            None => std::fs::remove_file(&object).unwrap(),
            Some(bytes) => std::fs::write(&object, bytes).unwrap(),
        }
        let check = place.call(&["check", "--json"]);
        assert_eq!(check.code, 4);
        let report: Value = serde_json::from_str(&check.stdout).unwrap();
        let damaged = report["damaged"].as_array().unwrap();
        assert_eq!(damaged.len(), 1);
        assert!(object.to_str().unwrap().ends_with(damaged[0]["object"].as_str().unwrap()));
        assert!(damaged[0]["needed_by"][0].as_str().unwrap().contains("config/"));
        assert_eq!(place.call(&["restore", "--to", "back"]).code, 4);
        std::fs::remove_dir_all(place.path("back")).unwrap();
        place.create();
        place.good(&["check"]);
    }
}

#[test]
fn a_damaged_object_in_the_store_keeps_create_from_passing() {
    let place = filled();
    let object = walk(&place.path("store/objects")).remove(0);
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains(object.file_name().unwrap().to_str().unwrap()), "{}", ended.stderr);
    assert_eq!(place.document()["verdict"], "error");
    assert_eq!(place.listed(), 1);
    std::fs::remove_file(object).unwrap();
    place.create();
    place.good(&["check"]);
}

/// Plants a manifest with a right name, as somebody with access to the store could.
fn plant(place: &Place, change: impl FnOnce(&mut Value)) -> String {
    let path = walk(&place.path("store/snapshots")).remove(0);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let id = sha256_hex(&bytes);
    place.write(&format!("store/snapshots/{id}.json"), &bytes);
    id
}

/// Changes a manifest, given an entry of it and the path of a folder outside.
type Change = fn(&mut Value, Value, String);

#[test]
fn hostile_manifests_write_nothing_outside_the_target() {
    let file = |manifest: &Value| {
        let entries = manifest["sources"][0]["entries"].as_array().unwrap();
        entries.iter().find(|e| e["path"] == "app.yaml").unwrap().clone()
    };
    let changes: &[(&str, Change)] = &[
        ("parent", |m, mut f, _| {
            f["path"] = "../../escaped".into();
            m["sources"][0]["entries"] = json!([f]);
        }),
        ("absolute", |m, mut f, outside| {
            f["path"] = format!("{outside}/escaped").into();
            m["sources"][0]["entries"] = json!([f]);
        }),
        ("through a link", |m, mut f, outside| {
            f["path"] = "door/escaped".into();
            m["sources"][0]["entries"] =
                json!([{"path": "door", "mode": 511, "mtime": [0, 0], "link": {"to": outside}}, f]);
        }),
        ("over a link", |m, mut f, outside| {
            f["path"] = "door".into();
            let to = format!("{outside}/escaped");
            m["sources"][0]["entries"] =
                json!([{"path": "door", "mode": 511, "mtime": [0, 0], "link": {"to": to}}, f]);
        }),
        ("source name", |m, _, _| m["sources"][0]["name"] = "../escaped".into()),
        ("source twice", |m, _, _| {
            let again = m["sources"][0].clone();
            m["sources"].as_array_mut().unwrap().push(again);
        }),
        ("digest as path", |m, mut f, _| {
            f["file"]["chunks"][0]["sha256"] =
                "../../../../../../../../../../../../../../../../../../etc/passwd".into();
            m["sources"][0]["entries"] = json!([f]);
        }),
        ("other format", |m, _, _| m["format"] = "trapkey/snapshot-manifest/v2".into()),
    ];
    for (name, change) in changes {
        let place = filled();
        std::fs::create_dir(place.path("outside")).unwrap();
        let outside = place.path("outside").display().to_string();
        let id = plant(&place, |m| {
            let f = file(m);
            change(m, f, outside);
        });
        let ended = place.call(&["restore", &id, "--to", "back"]);
        assert_eq!(ended.code, 4, "{name}: {}", ended.stderr);
        assert_eq!(walk(&place.path("outside")), Vec::<PathBuf>::new(), "{name}");
        assert!(!place.path("escaped").exists() && !place.path("back").exists(), "{name}");
        assert_eq!(place.call(&["check"]).code, 4, "{name}");
    }
}

#[test]
fn a_link_that_points_outside_comes_back_as_a_link_and_is_never_followed() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("outside/precious", b"untouched");
    std::fs::create_dir(place.path("deploy")).unwrap();
    symlink(place.path("outside"), place.path("deploy/door")).unwrap();
    let before = place.path("outside").metadata().unwrap();
    place.create();
    place.good(&["restore", "--to", "back"]);
    assert_eq!(std::fs::read_link(place.path("back/config/door")).unwrap(), place.path("outside"));
    let after = place.path("outside").metadata().unwrap();
    assert_eq!((before.mtime_nsec(), before.mode()), (after.mtime_nsec(), after.mode()));
    assert_eq!(walk(&place.path("outside")), [place.path("outside/precious")]);
}

#[test]
fn a_restore_never_gives_out_set_user_id_bits() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/tool", b"x");
    std::fs::set_permissions(place.path("deploy/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    place.create();
    place.good(&["restore", "--to", "back"]);
    assert_eq!(place.path("back/config/tool").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_restore_overwrites_nothing() {
    let place = filled();
    place.write("back/precious", b"untouched");
    let ended = place.call(&["restore", "--to", "back"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("not empty"), "{}", ended.stderr);
    assert_eq!(walk(&place.path("back")), [place.path("back/precious")]);
}

#[test]
fn a_snapshot_is_found_by_the_beginning_of_its_id_and_a_wrong_one_is_a_usage_error() {
    let place = filled();
    let id = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
    place.good(&["restore", &id[..8], "--to", "back"]);
    for (wrong, code) in [("ffffffff", 2), ("abc", 2), (&"0".repeat(64), 4)] {
        assert_eq!(place.call(&["restore", wrong, "--to", "other"]).code, code, "{wrong}");
    }
    let damaged = walk(&place.path("store/snapshots")).remove(0);
    std::fs::write(damaged, "{}").unwrap();
    let ended = place.call(&["list"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains(&id), "{}", ended.stderr);
}

#[test]
fn a_folder_that_is_no_store_is_left_alone() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/a", b"1");
    place.write("store/holiday.jpg", b"not a snapshot");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert_eq!(walk(&place.path("store")), [place.path("store/holiday.jpg")]);
    assert_eq!(place.call(&["list"]).code, 4);
    place.write("other/config", b"{\"format\": \"trapkey/store/v9\"}");
    let ended = place.call(&["list", "--store", "other"]);
    assert_eq!(ended.code, 4);
    assert!(ended.stderr.contains("known here is `trapkey/store/v1`"), "{}", ended.stderr);
}

fn preflight(place: &Place, verdict: DocumentVerdict) {
    let job = Job::open(Call {
        tool: "preflight",
        // The same text of the path as the binary sees.
        plan: place.path("release.yaml"),
        environment: None,
        evidence: place.path("evidence"),
        state: None,
        set: std::collections::BTreeMap::new(),
        json: false,
        sign: None,
        trust: None,
        talk: Talk::new(true, Color::Never),
        started_at: trapkey::world::now(),
    })
    .unwrap();
    job.write(&Conclusion {
        needs: Vec::new(),
        verdict,
        summary: "1 of 1 checks".into(),
        findings: vec![Finding::new("a", "env", Verdict::Pass, trapkey::world::now())],
        body: PreflightBody::default(),
        outputs: Vec::new(),
    })
    .unwrap();
}

#[test]
fn without_a_passed_and_fresh_preflight_it_is_refused() {
    let place = filled();
    let age = |max: &str| {
        let section = format!("preflight: {{max_age: {max}, checks: []}}\n");
        place.plan("{name: config, kind: files, target: deploy}", &section);
    };
    age("1h");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("`preflight.json` is missing"), "{}", ended.stderr);
    preflight(&place, DocumentVerdict::Fail);
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 5);
    assert!(ended.stderr.contains("did not pass"), "{}", ended.stderr);
    preflight(&place, DocumentVerdict::Pass);
    let document = place.create();
    let bytes = std::fs::read(place.path("evidence/preflight.json")).unwrap();
    assert_eq!(document["needs"][0]["sha256"], sha256_hex(&bytes));
    age("1ms");
    preflight(&place, DocumentVerdict::Pass);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 5);
    assert!(ended.stderr.contains("is stale"), "{}", ended.stderr);
    assert_eq!(place.listed(), 2);
}

#[test]
fn the_document_fits_its_published_schema() {
    let schema = schemars::schema_for!(trapkey::evidence::Document<trapkey::evidence::SnapshotBody>);
    let validator = jsonschema::validator_for(schema.as_value()).unwrap();
    let place = filled();
    let good = place.document();
    let stdout: Value = serde_json::from_str(&place.good(&["create", "--json"]).stdout).unwrap();
    assert_eq!(stdout, place.document());
    place.plan("{name: gone, kind: files, target: gone}", "");
    assert_eq!(place.call(&["create"]).code, 4);
    for document in [good, stdout, place.document()] {
        let wrong: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
        assert_eq!(wrong, Vec::<String>::new());
    }
    assert!(!validator.is_valid(&json!({"schema": "trapkey/snapshot/v1"})));
}
