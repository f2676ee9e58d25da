//! Retention and `prune` through the binary and on the engine: what stays, what goes, who agrees.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use trapkey::plan::Retention;
use trapkey::repository::restic::{Id, Repository, Sealed, Snapshot, Spec, Thrift};
use trapkey::tools::snapshot::retention::{Fate, decide};

use super::{Place, noise, walk};
use crate::promote::{SHORT, Stage};
use crate::restic::stops::Limited;
use crate::restic::{Lab, check, word};
use crate::support::{Ended, call, run};

/// A place with a plan that has this retention, and a file to back up.
pub(super) fn kept(retention: &str) -> Place {
    let place = Place::new("{name: config, kind: files, target: deploy}");
    place.write("deploy/app.yaml", b"replicas: 3\n");
    retain(&place, retention);
    place
}

/// Gives the plan another retention; none where the text is empty.
pub(super) fn retain(place: &Place, retention: &str) {
    let retention = if retention.is_empty() { String::new() } else { format!("  retention: {retention}\n") };
    let text = format!(
        "version: 1\nservice: shop\nrelease: {{version: \"${{VERSION:-1.4.2}}\"}}\nsnapshot:\n  store: store\n  \
         encryption: {{none_needed_because: a test}}\n{retention}  sources:\n    - {{name: config, kind: files, target: deploy}}\n"
    );
    place.write("release.yaml", text.as_bytes());
}

/// Runs restic on the store of a place.
pub(super) fn restic(place: &Place, arguments: &[&str]) -> Ended {
    let mut command = Command::new("restic");
    command.args(["--no-cache", "-q", "-r"]).arg(place.path("store")).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", place.folder.path());
    run(command.current_dir(place.folder.path()).env("RESTIC_PASSWORD", "none-needed"))
}

/// What is tagged as one of ours.
const OURS: &str = "trapkey,service=shop,environment=production,version=1.0";

/// A snapshot of another time, as restic takes it; returns its id.
fn earlier(place: &Place, time: &str, host: &str, tags: &str) -> String {
    place.write("deploy/once", time.as_bytes());
    let ended = restic(place, &["backup", "deploy", "--time", time, "--host", host, "--tag", tags, "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let summary = ended.stdout.lines().last().unwrap();
    let summary: Value = serde_json::from_str(summary).unwrap();
    let short = summary["snapshot_id"].as_str().unwrap();
    let list: Value = serde_json::from_str(&place.good(&["list", "--json"]).stdout).unwrap();
    let ids = list["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap());
    ids.into_iter().find(|id| id.starts_with(short)).unwrap().to_owned()
}

/// The ids that are listed.
pub(super) fn ids(place: &Place) -> Vec<String> {
    let list: Value = serde_json::from_str(&place.good(&["list", "--json"]).stdout).unwrap();
    list["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// The reasons by id; empty where it goes.
fn fates(document: &str) -> BTreeMap<String, Vec<String>> {
    let document: Value = serde_json::from_str(document).unwrap();
    let fate = |row: &Value| {
        let why: Vec<String> = serde_json::from_value(row["why"].clone()).unwrap();
        assert_eq!(row["stays"], !why.is_empty());
        (row["id"].as_str().unwrap().to_owned(), why)
    };
    document["snapshots"].as_array().unwrap().iter().map(fate).collect()
}

/// Every file below the store, with its length and time.
fn picture(place: &Place) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let look = |path: PathBuf| {
        let meta = path.metadata().unwrap();
        (path, meta.len(), meta.modified().unwrap())
    };
    walk(&place.path("store")).into_iter().map(look).collect()
}

fn restores(place: &Place, id: &str) {
    let out = format!("out-{}", &id[..8]);
    place.good(&["restore", id, "--to", &out]);
    assert!(walk(&place.path(&out)).iter().any(|path| path.ends_with("app.yaml")));
}

#[test]
fn what_the_retention_does_not_keep_goes_and_everything_else_stays_whole() {
    let place = kept("{keep_last: 2, keep_monthly: 2}");
    place.create();
    let first = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
    let host = "shop.production";
    let january = earlier(&place, "2026-01-10 10:00:00", host, OURS);
    let early = earlier(&place, "2026-01-03 10:00:00", host, OURS);
    let december = earlier(&place, "2025-12-20 10:00:00", host, OURS);
    // Other groups, and what was not made by Trapkey.
    let staging = "trapkey,service=shop,environment=staging,version=1.0";
    let others = [
        earlier(&place, "2025-01-01 10:00:00", "shop.staging", staging),
        earlier(&place, "2025-01-01 10:00:00", "elsewhere", "theirs"),
        earlier(&place, "2025-01-01 10:00:00", host, "by-hand"),
    ];
    place.write("deploy/large.bin", &noise(200_000, 1));
    let large = earlier(&place, "2025-12-21 10:00:00", host, OURS);
    std::fs::remove_file(place.path("deploy/large.bin")).unwrap();
    // The evidence folder of another machine.
    std::fs::remove_dir_all(place.path("evidence")).unwrap();

    let before = picture(&place);
    let shown = place.good(&["prune", "--dry-run"]);
    for (id, word) in [(&first, "stays"), (&january, "stays"), (&early, "would go"), (&large, "would go")] {
        let line = shown.stdout.lines().find(|line| line.starts_with(&id[..8])).unwrap();
        assert!(line.contains(word), "{line}");
    }
    assert!(others.iter().all(|id| !shown.stdout.contains(&id[..8])), "{}", shown.stdout);
    assert!(shown.stderr.contains("would be freed"), "{}", shown.stderr);
    let planned = place.good(&["prune", "--dry-run", "--json"]).stdout;
    assert_eq!(picture(&place), before, "a dry run touches nothing");
    assert!(!place.path("evidence").exists());
    let planned_fates = fates(&planned);
    assert_eq!(planned_fates.len(), 5);
    assert_eq!(planned_fates[&first], ["last snapshot", "monthly snapshot", "the newest one"]);
    assert_eq!(planned_fates[&january], ["last snapshot", "monthly snapshot"]);
    assert!([&early, &large, &december].iter().all(|id| planned_fates[*id].is_empty()));
    let freed = serde_json::from_str::<Value>(&planned).unwrap()["freed_bytes"].as_u64().unwrap();
    assert!(freed > 200_000, "{freed}");

    let done = place.good(&["prune", "--json"]);
    assert_eq!(fates(&done.stdout), planned_fates);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&document["forgotten"], &document["freed_bytes"]), (&3.into(), &freed.into()));
    let mut left = ids(&place);
    left.sort();
    let mut expected = vec![first.clone(), january.clone()];
    expected.extend(others);
    expected.sort();
    assert_eq!(left, expected);
    place.good(&["check", "--read-data"]);
    restores(&place, &first);
    assert_eq!(restic(&place, &["check", "--read-data"]).code, 0);
    assert!(walk(&place.path("store/locks")).is_empty());
    let again = place.good(&["prune"]);
    assert!(again.stderr.contains("nothing to remove"), "{}", again.stderr);
}

#[test]
fn a_dry_run_needs_no_lock_and_a_prune_does() {
    let place = kept("{keep_last: 1}");
    place.create();
    place.create();
    // Where no lock can be written, as in a store that is only read.
    std::fs::remove_dir(place.path("store/locks")).unwrap();
    place.write("store/locks", b"");
    let shown = place.good(&["prune", "--dry-run"]);
    assert!(shown.stdout.contains("would go"), "{}", shown.stdout);
    assert_eq!(place.call(&["prune"]).code, 4);
    std::fs::remove_file(place.path("store/locks")).unwrap();
    assert_eq!(place.listed(), 2);
    place.good(&["prune"]);
    assert_eq!(place.listed(), 1);
}

#[test]
fn a_retention_that_keeps_nothing_is_refused_and_so_is_a_plan_without_one() {
    let place = kept("");
    place.create();
    let refused = |code: i32, said: &str| {
        for arguments in [&["prune"][..], &["prune", "--dry-run"]] {
            let ended = place.call(arguments);
            assert_eq!(ended.code, code, "{}", ended.stderr);
            assert!(ended.stderr.contains(said), "{}", ended.stderr);
        }
    };
    refused(2, "does not say which snapshots are kept");
    for nothing in ["{}", "{keep_last: 0}", "{keep_within: 0s}", "{keep_tags: []}"] {
        retain(&place, nothing);
        refused(2, "names nothing that is to be kept");
    }
    retain(&place, "{keep_tags: [\"a,\"]}");
    refused(2, "empty tag");
    retain(&place, "{keep_lsat: 1}");
    refused(2, "keep_last");
    retain(&place, "{keep_tags: [nobody-has-it]}");
    refused(5, "would keep no snapshot of shop.production");
    retain(&place, "{keep_last: 1}");
    let ended = place.call(&["prune", "--max-unused", "120%"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert_eq!(place.listed(), 1);
}

#[test]
fn the_newest_the_newest_whole_one_and_the_one_of_the_evidence_stay() {
    // Only what nobody has keeps anything, but for what is tagged so.
    let place = kept("{keep_tags: [old]}");
    let old = {
        place.create();
        earlier(&place, "2020-01-01 10:00:00", "shop.production", &format!("{OURS},old"))
    };
    let first = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
    place.create();
    let whole = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
    // A later one that lacks a source, as its plan allows.
    let partial = std::fs::read_to_string(place.path("release.yaml")).unwrap().replace(
        "target: deploy}\n",
        "target: deploy}\n    - {name: gone, kind: command, target: [\"false\"], with: {file: x}, allow_partial: true}\n",
    );
    place.write("partial.yaml", partial.as_bytes());
    let ended = place.call(&["create", "--plan", "partial.yaml", "--evidence", "elsewhere"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let newest = ids(&place).pop().unwrap();
    assert!(newest != whole && newest != first);
    let seen = fates(&place.good(&["prune", "--dry-run", "--json"]).stdout);
    assert_eq!(seen[&old], ["has tag old"]);
    assert_eq!(seen[&newest], ["the newest one"]);
    assert_eq!(seen[&whole], ["the newest whole one", "named by evidence/snapshot.json"]);
    assert!(seen[&first].is_empty());
    // What cannot be believed tells nothing of what the release needs.
    let document = std::fs::read(place.path("evidence/snapshot.json")).unwrap();
    place.write("evidence/snapshot.json", b"{}");
    assert_eq!(place.call(&["prune"]).code, 5);
    assert_eq!(place.listed(), 4);
    place.write("evidence/snapshot.json", &document);
    place.good(&["prune"]);
    assert_eq!(place.listed(), 3);
    restores(&place, &whole);
}

/// The plan of a stage with a snapshot section.
fn snapshots(max_age: &str) -> String {
    format!(
        "snapshot:\n  store: store\n  max_age: {max_age}\n  encryption: {{none_needed_because: a test}}\n  \
         sources: [{{name: config, kind: files, target: deploy}}]\n  retention: {{keep_last: 1}}\n"
    )
}

#[test]
fn the_way_back_of_a_release_stays_whoever_prunes() {
    let stage = Stage::new(SHORT, &snapshots("1h"));
    std::fs::create_dir(stage.path().join("deploy")).unwrap();
    std::fs::write(stage.path().join("deploy/app.yaml"), "x").unwrap();
    let snapshot = |arguments: &[&str]| {
        let ended = call("snapshot", stage.path(), arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        ended.stdout
    };
    // Each machine has an evidence folder of its own.
    let create = |arguments: &[&str]| {
        let document: Value =
            serde_json::from_str(&snapshot(&[&["create", "--json"], arguments].concat())).unwrap();
        document["snapshot"]["id"].as_str().unwrap().to_owned()
    };
    let first = create(&[]);
    let other = ["--evidence", "other"];
    let between = create(&other);
    let prune =
        |more: &[&str]| fates(&snapshot(&[&["prune", "--json", "--evidence", "empty"], more].concat()));
    // While a promotion may still begin with them, all of them stay.
    let young = prune(&[]);
    assert_eq!(young[&first], ["young enough for a promotion to begin with"]);
    assert_eq!(young.len(), 2);
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.write(SHORT, &snapshots("1ms"));
    let newest = create(&other);
    let seen = prune(&["--dry-run"]);
    assert_eq!(seen[&first], ["the way back of shop 1.1 in production (green serves everything)"]);
    assert!(seen[&between].is_empty() && seen[&newest].contains(&"the newest one".to_owned()));
    // Where the record does not name the snapshot, as older ones do not, all of that version stay.
    let state =
        walk(&stage.path().join(".trapkey")).into_iter().find(|path| path.ends_with("state.json")).unwrap();
    let record = std::fs::read(&state).unwrap();
    let mut older: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(older["record"]["snapshot"].take(), first.as_str());
    std::fs::write(&state, older.to_string()).unwrap();
    let careful = prune(&["--dry-run"]);
    assert!(careful[&between][0].starts_with("the way back of shop 1.1"), "{careful:?}");
    std::fs::write(&state, record).unwrap();
    // Only the newest one may have been too young a moment ago, and it stays anyway.
    let grown = |mut fates: BTreeMap<String, Vec<String>>| {
        if let Some(why) = fates.get_mut(&newest) {
            why.retain(|why| why != "young enough for a promotion to begin with");
        }
        fates
    };
    assert_eq!(grown(prune(&[])), grown(seen));

    // The next release goes the other way, and is called off: what served before still serves.
    let router = format!(
        "{{kind: haproxy, target: haproxy.sock, entry: \"{}\", with: {{backend: shop, blue: green, green: blue}}}}",
        crate::support::router::RealRouter::url(&stage.haproxy)
    );
    let steps = "[{weight: 10%, bake: 60s}, {weight: 100%}]";
    let swapped = |max_age: &str| {
        let text = crate::promote::plan(&router, &stage.green, &stage.blue, steps, &snapshots(max_age));
        std::fs::write(stage.path().join("release.yaml"), text.replace("VERSION:-1.1", "VERSION:-1.2"))
            .unwrap();
    };
    swapped("1h");
    let second = create(&[]);
    let ended = stage.promote(&["start"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    create(&other);
    let latest = create(&other);
    let needs = |seen: &BTreeMap<String, Vec<String>>, id: &str, said: &str| {
        assert!(seen[id].iter().any(|why| why.contains(said)), "{said}: {seen:?}");
    };
    let seen = prune(&["--dry-run"]);
    needs(&seen, &second, "the way back of shop 1.2 in production (");
    needs(&seen, &first, "the way back of shop 1.1 in production (it served before)");
    assert_eq!(stage.promote(&["abort"]).code, 1);
    swapped("1ms");
    let seen = prune(&[]);
    needs(&seen, &second, "rolled back");
    needs(&seen, &first, "it served before");
    needs(&seen, &latest, "the newest one");
    assert_eq!(seen.values().filter(|why| why.is_empty()).count(), 2, "{seen:?}");
    assert_eq!(prune(&[]).len(), 3);
    // Where the promote state cannot be read, nobody knows what is needed.
    std::fs::write(state, "{").unwrap();
    assert_eq!(call("snapshot", stage.path(), &["prune"]).code, 4);
}

/// A random number that is the same each time.
fn next(number: &mut u64) -> u64 {
    *number ^= *number << 13;
    *number ^= *number >> 7;
    *number ^= *number << 17;
    *number
}

#[test]
fn restic_decides_the_same_over_generated_snapshots() {
    let lab = Lab::new();
    lab.write("src/a", b"a");
    let repository = lab.init();
    let mut seed = 0x9E37_79B9_7F4A_7C15;
    let newest: Timestamp = "2026-03-02T10:30:00Z".parse().unwrap();
    let mut taken = std::collections::BTreeSet::new();
    // Three groups: over hours, over weeks, over years; many of them close together.
    for (host, spread) in [("hours", 3 * 3600), ("weeks", 40 * 86_400), ("years", 4 * 365 * 86_400)] {
        for _ in 0..16 {
            let back = next(&mut seed) % spread;
            let time = newest
                - Duration::from_secs(if next(&mut seed).is_multiple_of(3) { back / 20 } else { back });
            let tags: Vec<String> = ["red", "green"]
                .into_iter()
                .filter(|_| next(&mut seed).is_multiple_of(4))
                .map(Into::into)
                .collect();
            if taken.insert((host, time)) {
                let spec = Spec { time, tags, hostname: host.into(), ..lab.spec() };
                lab.sealed(&repository, spec).and_then(Sealed::commit).unwrap();
            }
        }
    }
    let all = repository.snapshots().unwrap().whole;
    assert!(all.len() >= 40);
    for (ours, theirs) in [
        ("keep_last: 3", "--keep-last 3"),
        ("keep_hourly: 4", "--keep-hourly 4"),
        ("keep_daily: 5", "--keep-daily 5"),
        ("keep_weekly: 4", "--keep-weekly 4"),
        ("keep_monthly: 7", "--keep-monthly 7"),
        ("keep_yearly: 3", "--keep-yearly 3"),
        ("keep_within: 2h", "--keep-within 2h"),
        ("keep_within: 30d", "--keep-within 30d"),
        ("keep_within_hourly: 36h, keep_within_daily: 9d", "--keep-within-hourly 36h --keep-within-daily 9d"),
        (
            "keep_within_weekly: 60d, keep_within_monthly: 400d, keep_within_yearly: 900d",
            "--keep-within-weekly 60d --keep-within-monthly 400d --keep-within-yearly 900d",
        ),
        ("keep_tags: [red]", "--keep-tag red"),
        ("keep_last: 1, keep_tags: [\"red,green\"]", "--keep-last 1 --keep-tag red,green"),
        (
            "keep_last: 2, keep_daily: 3, keep_weekly: 2, keep_monthly: 6, keep_yearly: 9, keep_within: 1h",
            "--keep-last 2 --keep-daily 3 --keep-weekly 2 --keep-monthly 6 --keep-yearly 9 --keep-within 1h",
        ),
    ] {
        assert_eq!(decided_by_us(&all, ours), decided_by_restic(&lab, theirs), "{ours}");
    }
}

/// What is kept: host and time, and the rules with a count that keep it.
type Decided = BTreeMap<(String, Timestamp), Vec<String>>;

fn counted(reasons: impl Iterator<Item = String>) -> Vec<String> {
    reasons.filter(|why| why.ends_with(" snapshot")).collect()
}

fn decided_by_us(all: &[(Id, Snapshot)], rules: &str) -> Decided {
    let retention: Retention = trapkey::yaml::parse(&format!("{{{rules}}}"))
        .unwrap()
        .read(&trapkey::plan::PlanVariables::default())
        .unwrap();
    let mut decided = Decided::new();
    for host in ["hours", "weeks", "years"] {
        let group: Vec<(Id, &Snapshot)> =
            all.iter().filter(|(_, s)| s.hostname == host).map(|(id, s)| (*id, s)).collect();
        for (id, fate) in decide(&group, &retention, Timestamp::now()) {
            let Fate::Keep(mut reasons) = fate else { continue };
            // restic keeps the oldest only from 0.16 on, and Debian's is older.
            reasons.retain(|why| !why.starts_with("oldest "));
            if !reasons.is_empty() {
                let time = group.iter().find(|(other, _)| *other == id).unwrap().1.time;
                decided.insert((host.to_owned(), time), counted(reasons.into_iter()));
            }
        }
    }
    decided
}

fn decided_by_restic(lab: &Lab, flags: &str) -> Decided {
    let flags: Vec<&str> = flags.split(' ').collect();
    let text = lab.restic(&[&["forget", "--dry-run", "--json", "--group-by", "host"], &flags[..]].concat());
    let groups: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let mut decided = Decided::new();
    for reason in groups.as_array().unwrap().iter().flat_map(|group| group["reasons"].as_array().unwrap()) {
        let snapshot = &reason["snapshot"];
        let time = snapshot["time"].as_str().unwrap().parse().unwrap();
        let matches = reason["matches"].as_array().into_iter().flatten();
        let matches = matches.map(|why| why.as_str().unwrap().to_owned());
        decided.insert((snapshot["hostname"].as_str().unwrap().to_owned(), time), counted(matches));
    }
    decided
}

/// A repository on a store that fails after so many changes.
pub(super) fn limited(lab: &Lab, left: usize, append_only: bool) -> Repository {
    let backend = Limited { inner: lab.backend(), left: AtomicUsize::new(left), append_only };
    Repository::open(Arc::new(backend), &word()).unwrap()
}

const STRICT: Thrift = Thrift { max_unused: 0.0, join_small: false };

/// Two snapshots, of which the second needs a part of what the first has.
fn two() -> (Lab, Repository, Id, Id) {
    let lab = Lab::new();
    lab.write("src/a.bin", &noise(60_000, 1));
    lab.write("src/b.bin", &noise(40_000, 2));
    let repository = lab.init();
    let first = lab.backup(&repository);
    std::fs::remove_file(lab.path("src/a.bin")).unwrap();
    lab.write("src/sub/c.bin", &noise(20_000, 3));
    let second = lab.backup(&repository);
    (lab, repository, first, second)
}

#[test]
fn forgetting_and_pruning_that_is_stopped_anywhere_loses_nothing_and_the_next_one_finishes() {
    let mut stopped = 0;
    for changes in 0.. {
        let (lab, repository, first, second) = two();
        let failing = limited(&lab, changes, false);
        let done = failing.forget_and_prune(&mut || Ok(vec![first]), STRICT, &mut |_, _| {});
        repository.unlock(true).unwrap();
        assert!(check(&repository).damaged.is_empty(), "after {changes} changes");
        lab.restore(&repository, second, "out");
        let left: Vec<Id> = repository.snapshots().unwrap().whole.iter().map(|(id, _)| *id).collect();
        assert!(left.contains(&second));
        let gone: Vec<Id> = left.into_iter().filter(|id| *id == first).collect();
        repository.forget_and_prune(&mut || Ok(gone.clone()), STRICT, &mut |_, _| {}).unwrap();
        assert!(check(&repository).damaged.is_empty());
        assert!(repository.plan_prune(STRICT).unwrap().is_empty());
        if done.is_ok() {
            break;
        }
        stopped += 1;
    }
    assert!(stopped >= 6, "{stopped}");
}

#[test]
fn nothing_is_forgotten_when_what_stays_is_damaged_or_when_nothing_may_be_removed() {
    let (lab, repository, first, second) = two();
    let before = lab.stored("");
    let append_only = limited(&lab, usize::MAX, true);
    let refused = append_only.forget_and_prune(&mut || Ok(vec![first]), STRICT, &mut |_, _| {}).unwrap_err();
    assert!(refused.what.contains("nothing may be removed"), "{refused}");
    assert_eq!(lab.stored(""), before, "not even a lock");
    let planned = append_only.without_locks().plan_without(&[first], STRICT).unwrap();
    assert!(planned.freed_bytes > 60_000);
    assert_eq!(lab.stored(""), before);
    // What the one that stays needs is cut short.
    let data = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    let pack = lab.stored("data").into_iter().max_by_key(data).unwrap();
    let bytes = std::fs::read(&pack).unwrap();
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, &bytes[..bytes.len() - 1]).unwrap();
    let refused = repository.forget_and_prune(&mut || Ok(vec![first]), STRICT, &mut |_, _| {}).unwrap_err();
    assert!(refused.what.contains("not whole"), "{refused}");
    std::fs::write(&pack, &bytes).unwrap();
    assert_eq!(repository.snapshots().unwrap().whole.len(), 2);
    let done = repository.forget_and_prune(&mut || Ok(vec![first]), STRICT, &mut |_, _| {}).unwrap();
    assert_eq!(done, planned);
    lab.restore(&repository, second, "out");
}

#[test]
fn while_somebody_backs_up_nothing_is_pruned() {
    let (lab, repository, first, _) = two();
    let open = repository.begin(lab.spec()).unwrap();
    let mut asked = false;
    let refused = repository
        .forget_and_prune(
            &mut || {
                asked = true;
                Ok(vec![first])
            },
            STRICT,
            &mut |_, _| {},
        )
        .unwrap_err();
    assert!(refused.what.contains("locked") && !asked, "{refused}");
    drop(open);
    repository.forget_and_prune(&mut || Ok(vec![first]), STRICT, &mut |_, _| {}).unwrap();
}
