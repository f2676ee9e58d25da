//! What each consumer refuses: anything that is not exactly the passed evidence of this release.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;

use super::{Chain, documents_of, fits_schemas};
use crate::support::{folder, json, run, tool};

/// A finished chain: the plan's folder as bytes.
pub(super) struct Finished {
    pub(super) plan: Vec<u8>,
    pub(super) documents: BTreeMap<String, Vec<u8>>,
    /// The snapshot store, by path.
    store: BTreeMap<PathBuf, Vec<u8>>,
}

/// A consumer: how it is called, the documents it is given, and those of them that it must look at.
struct Consumer {
    words: &'static [&'static str],
    given: &'static [&'static str],
    /// With whether another given document was made from it, so that any changed byte shows.
    parents: &'static [(&'static str, bool)],
    /// Parents whose age is limited.
    aged: &'static [&'static str],
}

const CONSUMERS: &[Consumer] = &[
    Consumer {
        words: &["snapshot", "create"],
        given: &["preflight.json"],
        parents: &[("preflight.json", false)],
        aged: &["preflight.json"],
    },
    Consumer {
        words: &["promote", "run"],
        given: &["preflight.json", "snapshot.json", "baseline.json"],
        parents: &[("preflight.json", true), ("snapshot.json", false), ("baseline.json", false)],
        aged: &["preflight.json", "snapshot.json", "baseline.json"],
    },
    Consumer {
        words: &["verify"],
        given: &["baseline.json", "preflight.json", "snapshot.json", "promote.json"],
        parents: &[
            ("preflight.json", true),
            ("snapshot.json", true),
            ("promote.json", false),
            ("baseline.json", false),
        ],
        aged: &["baseline.json"],
    },
    Consumer {
        words: &["report"],
        given: &["baseline.json", "preflight.json", "snapshot.json", "promote.json", "verify.json"],
        parents: &[
            ("baseline.json", true),
            ("preflight.json", true),
            ("snapshot.json", true),
            ("promote.json", true),
        ],
        aged: &[],
    },
];

/// Where nothing answers. The documents say to have been made with that address.
pub(super) const GONE: &str = "postgres://shop@127.0.0.1:1/none";

/// The same documents, made with the address where nothing answers, each made from the others.
fn of_a_database_that_is_gone(documents: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for file in ["baseline.json", "preflight.json", "snapshot.json", "promote.json", "verify.json"] {
        let mut value: Value = serde_json::from_slice(&documents[file]).unwrap();
        let digest = trapkey::evidence::sha256_hex(GONE.as_bytes());
        value["variables"]["DATABASE_URL"] =
            serde_json::json!({"from": "environment", "form": "value", "sha256": digest});
        for need in value["needs"].as_array_mut().unwrap() {
            let path = need["path"].as_str().unwrap().to_owned();
            need["sha256"] = trapkey::evidence::sha256_hex(&all[&path]).into();
        }
        all.insert(file.into(), serde_json::to_vec_pretty(&value).unwrap());
    }
    all
}

type Harm = fn(&mut Value);

/// A change that keeps the file a document, and what the refusal says about it.
const CHANGED: &[(&str, Harm, &str)] = &[
    ("another plan", |d| d["plan"]["sha256"] = "0".repeat(64).into(), "another plan"),
    ("no plan", |d| d["plan"] = Value::Null, "names no plan"),
    ("another service", |d| d["release"]["service"] = "till".into(), "another release"),
    ("another version", |d| d["release"]["version"] = "9.9".into(), "another release"),
    ("another environment", |d| d["release"]["environment"] = "staging".into(), "another release"),
    (
        "another artifact",
        |d| d["release"]["artifacts"][0]["sha256"] = "0".repeat(64).into(),
        "another release",
    ),
    ("one artifact fewer", |d| d["release"]["artifacts"] = Value::Array(vec![]), "another release"),
    ("no release", |d| d["release"] = Value::Null, "names no release"),
    (
        "another value of a variable",
        |d| d["variables"]["VERSION"]["sha256"] = "0".repeat(64).into(),
        "another value of the plan's variable `VERSION`",
    ),
    ("from the future", |d| d["run"]["finished_at"] = "9999-01-01T00:00:00Z".into(), "future"),
    ("a field of another type", |d| d["findings"] = "none".into(), "not a document"),
    ("another schema", |d| d["schema"] = "trapkey/preflight/v2".into(), "trapkey/preflight/v2"),
    ("no schema", |d| d["schema"] = Value::Null, "not a document"),
];

/// Made once for all tests of this file: the servers that it needed are gone, its bytes stay.
pub(super) static FINISHED: LazyLock<Finished> = LazyLock::new(Finished::make);

impl Finished {
    fn make() -> Self {
        let chain = Chain::new("chain_refusals");
        chain.prepare();
        chain.good(&["promote", "run"]);
        chain.good(&["verify"]);
        Self {
            plan: std::fs::read(chain.path("release.yaml")).unwrap(),
            documents: of_a_database_that_is_gone(&documents_of(&chain.path("evidence"))),
            store: crate::snapshot::walk(&chain.path("store"))
                .into_iter()
                .map(|path| {
                    let bytes = std::fs::read(&path).unwrap();
                    (path.strip_prefix(chain.folder.path()).unwrap().to_path_buf(), bytes)
                })
                .collect(),
        }
    }

    /// A folder with what a consumer is given; nothing of the world that it speaks of is there any more,
    /// so a tool that did not refuse could not end with 5 either. The snapshot is there for `promote`, which
    /// refuses to begin without it.
    fn lay_out(&self, consumer: &Consumer) -> tempfile::TempDir {
        let place = self.around();
        for name in consumer.given {
            std::fs::write(place.path().join("evidence").join(name), &self.documents[*name]).unwrap();
        }
        if consumer.words[0] != "promote" {
            std::fs::remove_dir_all(place.path().join("store")).unwrap();
        }
        place
    }

    /// The plan, what it names, and the store, around an empty evidence folder.
    pub(super) fn around(&self) -> tempfile::TempDir {
        let place = folder();
        let evidence = place.path().join("evidence");
        std::fs::create_dir(&evidence).unwrap();
        std::fs::create_dir(place.path().join("deploy")).unwrap();
        std::fs::write(place.path().join("release.yaml"), &self.plan).unwrap();
        std::fs::write(place.path().join("shop.tar"), b"what is released").unwrap();
        for (path, bytes) in &self.store {
            let path = place.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        place
    }

    /// Lays out, harms, calls, and holds the refusal against everything that it owes.
    fn refuses(&self, consumer: &Consumer, harm: impl Fn(&Path), more: &[&str], words: &[&str]) {
        let place = self.lay_out(consumer);
        let evidence = place.path().join("evidence");
        harm(place.path());
        let before = documents_of(&evidence);
        let output = place.path().join("output");
        let name = consumer.words[0];
        let context = format!("{name} {words:?}");
        let mut command = tool(name, place.path());
        command.args(&consumer.words[1..]).args(more);
        if !more.contains(&"--environment") {
            command.args(["--environment", "production"]);
        }
        command.env("DATABASE_URL", GONE);
        let ended = run(command.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", &output));
        assert_eq!(ended.code, 5, "{context}: {}", ended.stderr);
        let annotation = ended.stderr.lines().find(|line| line.starts_with("::error ")).unwrap_or_default();
        let outputs = std::fs::read_to_string(&output).unwrap();
        let refusal = format!("{name}.refused.json");
        let record = json(&evidence.join(&refusal));
        for word in words {
            for text in [&*ended.stderr, annotation, record["findings"][0]["message"].as_str().unwrap()] {
                assert!(text.contains(word), "{context}: `{word}` is missing: {text}");
            }
        }
        assert!(outputs.contains("verdict=error\n") && outputs.contains(&refusal), "{context}: {outputs}");
        assert_eq!(record["verdict"], "error", "{context}");
        let mut after = documents_of(&evidence);
        after.remove(&refusal);
        assert_eq!(before, after, "{context}: the evidence was touched");
        // Its shape is the same whatever was refused: once for each consumer and parent is enough.
        if words.len() == 1 {
            let alone = folder();
            std::fs::copy(evidence.join(&refusal), alone.path().join(&refusal)).unwrap();
            assert_eq!(fits_schemas(alone.path()), 1);
        }
    }
}

fn change(place: &Path, name: &str, harm: impl Fn(&mut Value)) {
    let path = place.join("evidence").join(name);
    let mut document = json(&path);
    harm(&mut document);
    std::fs::write(path, serde_json::to_vec_pretty(&document).unwrap()).unwrap();
}

fn append(path: &Path, bytes: &[u8]) {
    let mut all = std::fs::read(path).unwrap();
    all.extend_from_slice(bytes);
    std::fs::write(path, all).unwrap();
}

fn each_parent_must_be_what_it_was(finished: &Finished, consumer: &Consumer) {
    for (parent, child_is_given) in consumer.parents {
        let file = |place: &Path| place.join("evidence").join(parent);
        finished.refuses(consumer, |place| std::fs::remove_file(file(place)).unwrap(), &[], &[parent]);
        for garbage in ["", "{", "[]", "no document", "\u{0}", "{\"schema\": \"trapkey/preflight/v1\"}"] {
            finished.refuses(
                consumer,
                |place| std::fs::write(file(place), garbage).unwrap(),
                &[],
                &[parent, "not a document"],
            );
        }
        for (_, harm, word) in CHANGED {
            finished.refuses(consumer, |place| change(place, parent, harm), &[], &[parent, word]);
        }
        let other = if *parent == "preflight.json" { "snapshot.json" } else { "preflight.json" };
        let others = &finished.documents[other];
        finished.refuses(
            consumer,
            |place| std::fs::write(file(place), others).unwrap(),
            &[],
            &[parent, "its schema is"],
        );
        if *child_is_given {
            // One byte more; or made again a moment later.
            finished.refuses(consumer, |place| append(&file(place), b" "), &[], &[parent, "is broken"]);
            let again = |d: &mut Value| d["run"]["host"] = "another-host".into();
            finished.refuses(consumer, |place| change(place, parent, again), &[], &[parent, "is broken"]);
        }
        if !child_is_given && *parent != "promote.json" {
            for verdict in ["fail", "undecided", "error"] {
                let harm = |d: &mut Value| d["verdict"] = verdict.into();
                finished.refuses(
                    consumer,
                    |place| change(place, parent, harm),
                    &[],
                    &[parent, "did not pass", verdict],
                );
            }
        }
    }
    for aged in consumer.aged {
        let harm = |d: &mut Value| d["run"]["finished_at"] = "2020-01-01T00:00:00Z".into();
        finished.refuses(consumer, |place| change(place, aged, harm), &[], &[aged, "is stale"]);
    }
}

fn the_release_must_be_the_same(finished: &Finished, consumer: &Consumer) {
    let nothing = |_: &Path| ();
    let plan = |place: &Path| append(&place.join("release.yaml"), b"#");
    finished.refuses(consumer, plan, &[], &["another plan"]);
    finished.refuses(consumer, nothing, &["--set", "VERSION=9.9"], &["another release", "9.9"]);
    finished.refuses(consumer, nothing, &["--environment", "staging"], &["another release", "staging"]);
    let artifact = |place: &Path| append(&place.join("shop.tar"), b"!");
    finished.refuses(consumer, artifact, &[], &["another release"]);
}

fn a_promotion_must_be_over(finished: &Finished, consumer: &Consumer) {
    for (outcome, word) in [("in_progress", "still under way"), ("frozen", "frozen")] {
        let harm = |d: &mut Value| d["promotion"]["outcome"] = outcome.into();
        finished.refuses(consumer, |place| change(place, "promote.json", harm), &[], &["promote.json", word]);
    }
    let harm = |d: &mut Value| d["promotion"] = Value::Null;
    finished.refuses(consumer, |place| change(place, "promote.json", harm), &[], &["no finished promotion"]);
    let harm = |d: &mut Value| d["verdict"] = "undecided".into();
    finished.refuses(consumer, |place| change(place, "promote.json", harm), &[], &["no finished promotion"]);
}

/// A baseline that was recorded again after the promotion would compare the new version with itself.
fn a_baseline_must_be_of_the_old_version(finished: &Finished, consumer: &Consumer) {
    let promote: Value = serde_json::from_slice(&finished.documents["promote.json"]).unwrap();
    let after = promote["run"]["finished_at"].clone();
    let harm = |d: &mut Value| d["run"]["finished_at"] = after.clone();
    let words = &["baseline.json", "had traffic already"];
    finished.refuses(consumer, |place| change(place, "baseline.json", harm), &[], words);
}

/// A parent that is named by digest but did not pass opens nothing: the whole chain is made to agree.
fn a_failed_parent_that_its_child_names_is_refused(finished: &Finished, consumer: &Consumer) {
    for verdict in ["fail", "undecided", "error"] {
        let harm = |place: &Path| {
            change(place, "preflight.json", |d| d["verdict"] = verdict.into());
            let bytes = std::fs::read(place.join("evidence/preflight.json")).unwrap();
            let digest = trapkey::evidence::sha256_hex(&bytes);
            change(place, "snapshot.json", |d| d["needs"][0]["sha256"] = digest.clone().into());
        };
        finished.refuses(consumer, harm, &[], &["preflight.json", "did not pass"]);
    }
}

#[test]
fn every_consumer_refuses_what_is_not_the_evidence_of_this_release() {
    let finished = &*FINISHED;
    for consumer in CONSUMERS {
        each_parent_must_be_what_it_was(finished, consumer);
        the_release_must_be_the_same(finished, consumer);
    }
    let [_, promote, verify, report] = CONSUMERS else { panic!("four consumers") };
    a_promotion_must_be_over(finished, verify);
    a_baseline_must_be_of_the_old_version(finished, verify);
    a_failed_parent_that_its_child_names_is_refused(finished, promote);
    let harm = |place: &Path| change(place, "snapshot.json", |d| d["needs"] = Value::Array(vec![]));
    finished.refuses(promote, harm, &[], &["snapshot.json -> preflight.json", "is missing"]);
    for (name, changed) in [("verify.json", "another plan"), ("verify.json", "another release")] {
        let (_, harm, word) = CHANGED
            .iter()
            .find(|(what, _, _)| {
                changed == *what || *what == "another version" && changed == "another release"
            })
            .unwrap();
        finished.refuses(report, |place| change(place, name, harm), &[], &[name, word]);
    }
}

#[test]
fn an_untouched_chain_is_not_refused() {
    let finished = &*FINISHED;
    // What the harms are held against: without one, no consumer ends with 5.
    for (consumer, code) in CONSUMERS.iter().zip([4, 4, 1, 0]) {
        let place = finished.lay_out(consumer);
        let mut command = tool(consumer.words[0], place.path());
        command.args(&consumer.words[1..]).args(["--environment", "production"]);
        command.env("TRAPKEY_PASSPHRASE", "m4nta-of-the-store");
        let ended = run(command.env("DATABASE_URL", GONE));
        assert_eq!(ended.code, code, "{:?}: {}", consumer.words, ended.stderr);
    }
}
