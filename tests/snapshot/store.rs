//! The store through the binary: what it adds, what it notices, what it refuses, who may read it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};
use trapkey::evidence::{DocumentVerdict, Finding, PreflightBody, Verdict, sha256_hex};
use trapkey::job::{Call, Conclusion, Job, KeyFiles};
use trapkey::world::talk::{Color, Talk};

use super::{Place, noise, walk};

fn filled() -> Place {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/app.yaml", b"replicas: 3\n");
    place.write("deploy/large.bin", &noise(1_500_000, 5));
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
    let added = |document: &Value| document["snapshot"]["added_bytes"].as_u64().unwrap();
    assert!((1_500_012..1_510_000).contains(&added(&first)), "{}", added(&first));
    let second = place.create();
    assert!(added(&second) < 8192, "{}", added(&second));
    assert_ne!(first["snapshot"]["id"], second["snapshot"]["id"]);
    assert_eq!(first["snapshot"]["sources"][0]["sha256"], second["snapshot"]["sources"][0]["sha256"]);
    assert!(used(&place) - before < 8192, "{} bytes", used(&place) - before);
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
                // Files of a repository are never changed, so nobody may write to them.
                let mode = entry.metadata().unwrap().mode() & 0o777;
                assert!([0o400, 0o600].contains(&mode), "{} {mode:o}", entry.path().display());
            }
        }
    }
}

#[test]
fn one_flipped_bit_in_any_file_is_noticed_and_named() {
    let place = filled();
    let files: Vec<PathBuf> = walk(&place.path("store"));
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let good = std::fs::read(&file).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&file, &bad).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            let check = place.call(&["check", "--read-data"]);
            assert!([4, 5].contains(&check.code), "{name} at {at}: {}", check.stderr);
            assert!(check.stderr.contains(name), "{name}: {}", check.stderr);
            let restore = place.call(&["restore", "--to", "back"]);
            // The header of a pack is for when the index is lost: a restore does not need it.
            let in_header = file.components().any(|c| c.as_os_str() == "data") && at == good.len() - 1;
            assert!(in_header || [4, 5].contains(&restore.code), "{name} at {at}: {}", restore.stderr);
            assert!(in_header || restore.stderr.contains(name), "{name}: {}", restore.stderr);
            if file.components().any(|c| c.as_os_str() == "data") && !in_header {
                let hit = ["/config", "/trapkey.json", "/SHA256SUMS", " /\n"];
                assert!(hit.iter().any(|hit| check.stderr.contains(hit)), "{}", check.stderr);
            }
            // A file is there whole or not at all.
            for (inside, length) in [("app.yaml", 12), ("large.bin", 1_500_000)] {
                let restored = place.path("back/config").join(inside);
                assert!(!restored.exists() || restored.metadata().unwrap().len() == length);
            }
            assert!(walk(&place.path("back")).iter().all(|path| path.extension().is_none_or(|e| e != "tmp")));
            let _ = std::fs::remove_dir_all(place.path("back"));
        }
        std::fs::write(&file, good).unwrap();
    }
    place.good(&["check", "--read-data"]);
}

#[test]
fn a_missing_or_cut_object_is_noticed_and_the_next_create_mends_it() {
    let place = filled();
    let largest = |path: &PathBuf| path.metadata().unwrap().len();
    for broken in [None, Some(&b"cut"[..])] {
        let first = place.document();
        let object = walk(&place.path("store/data")).into_iter().max_by_key(largest).unwrap();
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
        assert!(damaged[0]["needed_by"].to_string().contains("config/"), "{damaged:?}");
        assert_eq!(place.call(&["restore", "--to", "back"]).code, 4);
        let _ = std::fs::remove_dir_all(place.path("back"));
        place.write("deploy/large.bin", &noise(1_500_000, 5));
        place.create();
        // What was lost is there again, for the first snapshot too.
        let check = place.call(&["check", "--read-data"]);
        assert!(check.stderr.contains("no snapshot needs it"), "{}", check.stderr);
        place.good(&["restore", first["snapshot"]["id"].as_str().unwrap(), "--to", "back"]);
        std::fs::remove_dir_all(place.path("back")).unwrap();
        std::fs::remove_dir_all(place.path("store")).unwrap();
        place.create();
    }
}

#[test]
fn damage_in_what_was_stored_before_is_found_where_everything_is_to_be_proven() {
    let place = filled();
    let largest = |path: &PathBuf| path.metadata().unwrap().len();
    let pack = walk(&place.path("store/data")).into_iter().max_by_key(largest).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    place.create();
    let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
    place.write("release.yaml", plan.replace("  store:", "  prove: everything\n  store:").as_bytes());
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains(pack.file_name().unwrap().to_str().unwrap()), "{}", ended.stderr);
    assert_eq!((place.document()["verdict"].as_str(), place.listed()), (Some("error"), 2));
    std::fs::rename(pack, place.path("moved-away")).unwrap();
    let document = place.create();
    assert!(
        document["snapshot"]["sources"][0]["proof"].as_str().unwrap().contains("that this snapshot needs")
    );
    assert_eq!(place.listed(), 3);
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
fn a_restore_gives_set_user_id_bits_only_together_with_owners() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/tool", b"x");
    std::fs::set_permissions(place.path("deploy/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    place.create();
    place.good(&["restore", "--to", "back", "--no-owners"]);
    assert_eq!(place.path("back/config/tool").metadata().unwrap().mode() & 0o7777, 0o755);
    place.good(&["restore", "--to", "whole"]);
    let expected = if super::is_root() { 0o4755 } else { 0o755 };
    assert_eq!(place.path("whole/config/tool").metadata().unwrap().mode() & 0o7777, expected);
}

#[test]
fn a_restore_overwrites_nothing() {
    let place = filled();
    place.write("back/precious", b"untouched");
    let ended = place.call(&["restore", "--to", "back"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("not empty"), "{}", ended.stderr);
    assert_eq!(walk(&place.path("back")), [place.path("back/precious")]);
    for inside in ["store/back", "store/data/back/deeper"] {
        let ended = place.call(&["restore", "--to", inside]);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("lies in the snapshot store"), "{}", ended.stderr);
        assert!(!place.path(inside).exists());
    }
}

#[test]
fn a_snapshot_is_found_by_the_beginning_of_its_id_and_a_wrong_one_is_a_usage_error() {
    let place = filled();
    let id = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
    place.good(&["restore", &id[..8], "--to", "back"]);
    for (wrong, code) in [("ffffffff", 2), ("abc", 2), (&"0".repeat(64), 2)] {
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
}

fn preflight(place: &Place, verdict: DocumentVerdict) {
    let job = Job::open(Call {
        tool: "preflight",
        // The same text of the path as the binary sees.
        plan: place.path("release.yaml"),
        environment: None,
        evidence: place.path("evidence"),
        state: None,
        ambient: std::collections::BTreeSet::new(),
        set: std::collections::BTreeMap::new(),
        json: false,
        sign: None,
        trust: None,
        keys: KeyFiles::default(),
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

#[test]
fn a_store_whose_making_was_killed_is_made_by_the_next_call() {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/a", b"a");
    // Killed while it wrote its last file: everything but that one is there.
    place.create();
    let config = place.path("store/config");
    std::fs::rename(&config, place.path("store/config-tmp-e404d0206224de2f")).unwrap();
    for folder in ["snapshots", "index", "data"] {
        std::fs::remove_dir_all(place.path("store").join(folder)).unwrap();
    }
    place.create();
    assert_eq!(place.listed(), 1);
    // Anything else is somebody's, and stays.
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/a", b"a");
    place.write("store/config-tmp", b"somebody's");
    let ended = place.call(&["create"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("holds something else"), "{}", ended.stderr);
}
