//! Pins: what stays, by which id it is found, and what restic makes of it.

use serde_json::Value;

use super::prune::{ids, kept, limited, restic, retain};
use crate::restic::{Lab, check};
use crate::snapshot::Place;

/// Creates a snapshot with some content and returns its id.
fn create(place: &Place, content: &str) -> String {
    place.write("deploy/app.yaml", content.as_bytes());
    place.create()["snapshot"]["id"].as_str().unwrap().to_owned()
}

fn listed(place: &Place) -> Vec<Value> {
    let list: Value = serde_json::from_str(&place.good(&["list", "--json"]).stdout).unwrap();
    list["snapshots"].as_array().unwrap().clone()
}

fn restored(place: &Place, id: &str, to: &str) -> String {
    place.good(&["restore", id, "--to", to]);
    std::fs::read_to_string(place.path(to).join("config/app.yaml")).unwrap()
}

#[test]
fn a_pinned_snapshot_survives_our_prune_under_its_own_id() {
    let place = kept("{keep_last: 1}");
    let old = create(&place, "old");
    create(&place, "between");
    let said = place.good(&["pin", &old[..8], "--why", "audit 2026"]).stderr;
    assert!(said.contains(&old[..8]), "{said}");
    create(&place, "new");
    // Shown once, with the note.
    let rows = listed(&place);
    assert_eq!(rows.len(), 3);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["pinned"], &rows[0]["pinned_because"]),
        (&old.clone().into(), &true.into(), &"audit 2026".into())
    );
    assert!(!rows[0]["tags"].to_string().contains("pinned"), "its own file is as it was");
    let table = place.good(&["list"]).stdout;
    assert_eq!(table.matches("pinned (audit 2026)").count(), 1, "{table}");
    assert!(place.good(&["show", &old]).stdout.contains("pinned (audit 2026)"));
    let again = place.good(&["pin", &old]);
    assert!(again.stderr.contains("pinned already: audit 2026"), "{}", again.stderr);
    std::fs::remove_dir_all(place.path("evidence")).unwrap();
    let pruned: Value = serde_json::from_str(&place.good(&["prune", "--json"]).stdout).unwrap();
    assert_eq!(pruned["forgotten"], 1);
    assert_eq!(pruned["snapshots"][2]["why"], serde_json::json!(["pinned: audit 2026"]));
    assert_eq!(restored(&place, &old, "out"), "old");
    place.good(&["check", "--read-data"]);
    // Without the pin the retention decides.
    place.good(&["unpin", &old]);
    assert_eq!(listed(&place)[0]["pinned"], false);
    assert!(place.good(&["unpin", &old]).stderr.contains("was not pinned"));
    place.good(&["prune"]);
    let gone = place.call(&["restore", &old, "--to", "none"]);
    assert_eq!(gone.code, 2, "{}", gone.stderr);
    assert_eq!(listed(&place).len(), 1);
}

#[test]
fn restic_keeps_what_is_pinned_and_the_old_id_still_leads_there() {
    let place = kept("{keep_last: 1}");
    let old = create(&place, "old");
    place.good(&["pin", &old]);
    create(&place, "new");
    let shown = restic(&place, &["snapshots", "--json"]);
    let snapshots: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(snapshots.as_array().unwrap().len(), 3, "{}", shown.stdout);
    let pin =
        snapshots.as_array().unwrap().iter().find(|s| s["tags"].to_string().contains("pinned")).unwrap();
    assert_eq!(pin["original"], old.as_str());
    let pin = pin["id"].as_str().unwrap().to_owned();
    // The pin's id means the snapshot that it pins.
    assert_eq!(ids(&place).iter().filter(|id| **id == old).count(), 1);
    let by_pin: Value = serde_json::from_str(&place.good(&["show", &pin, "--json"]).stdout).unwrap();
    assert_eq!(by_pin["id"], old.as_str());
    let ended = restic(
        &place,
        &["forget", "--keep-last", "1", "--keep-tag", "pinned", "--group-by", "host", "--prune"],
    );
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(restic(&place, &["check", "--read-data"]).code, 0);
    assert_eq!(restored(&place, &old, "out"), "old");
    let left = listed(&place);
    assert_eq!(left.len(), 2);
    assert!(left.iter().any(|row| row["pinned"] == true && row["original"] == old.as_str()));
    // Ours lets it stay too, though its first file is gone.
    place.good(&["prune"]);
    assert_eq!(restored(&place, &old[..10], "again"), "old");
    // Nothing but the pin is left of it: without the tag it is still there, until the next prune.
    let unpinned: Value = serde_json::from_str(&place.good(&["unpin", &old, "--json"]).stdout).unwrap();
    assert_ne!(unpinned["id"], pin.as_str());
    assert_eq!(restored(&place, &old, "third"), "old");
    assert!(listed(&place).iter().all(|row| row["pinned"] == false));
    std::fs::remove_dir_all(place.path("evidence")).unwrap();
    place.good(&["prune"]);
    assert_eq!(place.call(&["show", &old]).code, 2);
}

#[test]
fn an_id_from_before_restic_changed_the_tags_is_still_found() {
    let place = kept("{keep_last: 1}");
    let old = create(&place, "old");
    let new = create(&place, "new");
    assert_eq!(restic(&place, &["tag", "--add", "seen", &old]).code, 0);
    assert!(!ids(&place).contains(&old));
    assert_eq!(restored(&place, &old, "out"), "old");
    place.good(&["pin", &old]);
    assert_eq!(listed(&place).iter().filter(|row| row["pinned"] == true).count(), 1);
    // What the evidence names stays, though it has another id by now.
    retain(&place, "{keep_tags: [nobody, trapkey]}");
    assert_eq!(restic(&place, &["tag", "--add", "seen", &new]).code, 0);
    let seen = place.good(&["prune", "--dry-run"]).stdout;
    assert_eq!(seen.matches("named by evidence/snapshot.json").count(), 1, "{seen}");
}

#[test]
fn a_reason_is_one_line_and_nothing_unknown_is_pinned() {
    let place = kept("{keep_last: 1}");
    let id = create(&place, "x");
    for (arguments, code) in [
        (&["pin", &id, "--why", ""][..], 2),
        (&["pin", &id, "--why", "two\nlines"], 2),
        (&["pin", &id, "--why", "red \u{1b}[31m"], 2),
        (&["pin", "ffffffff"], 2),
        (&["unpin", "ffffffff"], 2),
    ] {
        let ended = place.call(arguments);
        assert_eq!(ended.code, code, "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(crate::snapshot::walk(&place.path("store/snapshots")).len(), 1);
}

#[test]
fn to_pin_takes_no_right_to_remove_and_to_unpin_does() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let id = lab.backup(&repository);
    let append_only = limited(&lab, usize::MAX, true);
    let pin = append_only.pin(id, Some("held")).unwrap();
    let known = repository.known().unwrap().0;
    assert_eq!((known.len(), known[0].id), (1, id));
    assert_eq!(
        known[0].pin.as_ref().map(|found| (found.id, found.why.as_deref())),
        Some((pin, Some("held")))
    );
    let refused = append_only.unpin(&known[0]).unwrap_err();
    assert!(refused.what.contains("nothing may be removed"), "{refused}");
    assert!(check(&repository).damaged.is_empty());
    assert!(repository.locks().unwrap().is_empty());
    lab.restic(&["check", "--read-data"]);
    repository.unpin(&known[0]).unwrap();
    assert_eq!(repository.snapshots().unwrap().whole.len(), 1);
}

#[test]
fn a_snapshot_that_is_forgotten_at_the_same_moment_is_not_pinned() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let id = lab.backup(&repository);
    assert!(repository.pin(trapkey::repository::restic::Id::of(b"unknown"), None).is_err());
    repository.forget(&[id]).unwrap();
    assert!(repository.pin(id, None).is_err());
    assert!(repository.snapshots().unwrap().whole.is_empty());
}
