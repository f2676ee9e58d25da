//! What may happen to a document on its way, and to whom it must never be a pass: every document, every attack, every
//! later tool. The attacks are those that the update framework (TUF) names for its metadata: arbitrary documents,
//! rollback, freeze, mix and match, wrong software, removal, and keys that do not count.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use trapkey::evidence::*;
use trapkey::signature::SigningKey;

use super::refusals::{FINISHED, GONE};
use crate::support::{Ended, folder, json, run, tool};

/// The documents in the order in which they are made.
const DOCUMENTS: [&str; 5] =
    ["baseline.json", "preflight.json", "snapshot.json", "promote.json", "verify.json"];

/// The later tools, and what each is given and must look at.
const TOOLS: &[(&[&str], &[&str])] = &[
    (&["snapshot", "create"], &["preflight.json"]),
    (&["promote", "run"], &["baseline.json", "preflight.json", "snapshot.json"]),
    (&["verify"], &["baseline.json", "preflight.json", "snapshot.json", "promote.json"]),
    (&["report", "check"], &DOCUMENTS),
    (&["report"], &DOCUMENTS),
];

struct Keys {
    folder: tempfile::TempDir,
    ci: SigningKey,
    stranger: SigningKey,
    olga: SigningKey,
}

impl Keys {
    fn new() -> Self {
        let folder = folder();
        std::fs::create_dir_all(folder.path().join("trust/approvers")).unwrap();
        let make = |name: &str, public: &str| {
            let private = folder.path().join(name);
            let public = folder.path().join(public);
            let made =
                run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&private));
            assert_eq!(made.code, 0, "{}", made.stderr);
            let shown = run(Command::new("openssl")
                .args(["pkey", "-pubout", "-in"])
                .arg(&private)
                .arg("-out")
                .arg(public));
            assert_eq!(shown.code, 0, "{}", shown.stderr);
            SigningKey::read(&private).unwrap()
        };
        let (ci, stranger, olga) = (
            make("ci", "trust/ci.pem"),
            make("stranger", "stranger.pem"),
            make("olga", "trust/approvers/olga.pem"),
        );
        Self { folder, ci, stranger, olga }
    }
}

/// Signs a document as its tool does.
fn sign(file: &str, value: &Value, key: &SigningKey) -> Vec<u8> {
    fn of<B: Body>(value: &Value, key: &SigningKey) -> Vec<u8> {
        let document = Document {
            head: serde_json::from_value::<Head>(value.clone()).unwrap(),
            body: serde_json::from_value::<B>(value.clone()).unwrap(),
        };
        to_bytes(&document, Some(key)).unwrap()
    }
    match file {
        "baseline.json" => of::<BaselineBody>(value, key),
        "preflight.json" => of::<PreflightBody>(value, key),
        "snapshot.json" => of::<SnapshotBody>(value, key),
        "promote.json" => of::<PromoteBody>(value, key),
        _ => of::<VerifyBody>(value, key),
    }
}

/// The finished chain of the refusals, signed from its beginning to its end.
fn signed(key: &SigningKey) -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for file in DOCUMENTS {
        let mut value: Value = serde_json::from_slice(&FINISHED.documents[file]).unwrap();
        for need in value["needs"].as_array_mut().unwrap() {
            let path = need["path"].as_str().unwrap().to_owned();
            need["sha256"] = sha256_hex(&all[&path]).into();
        }
        all.insert(file.into(), sign(file, &value, key));
    }
    all
}

type Harm = fn(&mut Value);

const OLDER: &str = "2020-01-01T00:00:00Z";

/// What is done to a document that CI signed in its time: it is sound, and not the one that belongs here.
const SOUND_BUT_WRONG: &[(&str, Harm)] = &[
    ("older", |d| {
        // Another run of the same release: made of other parents, at another time.
        d["run"]["started_at"] = OLDER.into();
        d["run"]["finished_at"] = OLDER.into();
        for need in d["needs"].as_array_mut().unwrap() {
            need["sha256"] = "0".repeat(64).into();
        }
    }),
    ("newer and failing", |d| {
        d["verdict"] = "fail".into();
        d["run"]["finished_at"] = jiff::Timestamp::now().to_string().into();
        if d["schema"] == "trapkey/promote/v1" {
            d["promotion"]["outcome"] = "frozen".into();
        }
    }),
    ("of another release", |d| d["release"]["version"] = "9.9".into()),
    ("of another service", |d| d["release"]["service"] = "till".into()),
    ("of another promotion", |d| {
        d["run"]["host"] = "another".into();
        d["run"]["finished_at"] = OLDER.into();
        for need in d["needs"].as_array_mut().unwrap() {
            need["sha256"] = "1".repeat(64).into();
        }
        if d["schema"] == "trapkey/promote/v1" {
            d["promotion"]["epoch"] = 99.into();
        }
    }),
    ("of other variables", |d| {
        d["variables"]["VERSION"] =
            serde_json::json!({"from": "set", "form": "value", "sha256": "2".repeat(64)});
    }),
    ("of variables that nobody recorded", |d| d["variables"] = serde_json::json!({})),
    ("of another plan", |d| d["plan"]["sha256"] = "3".repeat(64).into()),
    ("of another environment", |d| d["release"]["environment"] = "staging".into()),
];

fn call(words: &[&str], place: &Path, keys: &Keys) -> Ended {
    let mut command = tool(words[0], place);
    command
        .args(&words[1..])
        .args(["--environment", "production", "--trust"])
        .arg(keys.folder.path().join("trust"));
    command.env("DATABASE_URL", GONE).env("TRAPKEY_PASSPHRASE", "m4nta-of-the-store");
    run(&mut command)
}

/// Whether a call let the document pass, or a page speaks well of it.
fn passes(words: &[&str], place: &Path, ended: &Ended) -> Option<String> {
    match (words, ended.code) {
        (["report"], 0) => {
            let page = std::fs::read_to_string(place.join("evidence/junit.xml")).unwrap();
            let report = json(&place.join("evidence/report.json"));
            let good = !page.contains("<failure");
            good.then(|| format!("junit.xml has no failure; {}", report["headline"]))
        }
        (["report"], 5) => {
            let page = place.join("evidence/report.html");
            page.exists().then(|| "a page stands although the report was refused".into())
        }
        (_, 5) => None,
        // The chain of a release that failed holds; it is said that it failed.
        (["report", "check"], 0) if ended.stderr.contains("did not pass, its verdict is `fail`") => None,
        (_, code) => Some(format!("exit {code}")),
    }
}

#[test]
fn no_document_that_does_not_belong_here_is_ever_a_pass() {
    let keys = Keys::new();
    let sound = signed(&keys.ci);
    let lay_out = |given: &[&str]| {
        let place = FINISHED.around();
        for name in given {
            std::fs::write(place.path().join("evidence").join(name), &sound[*name]).unwrap();
        }
        place
    };
    // What the attacks are held against: untouched, nobody refuses.
    for ((words, given), code) in TOOLS.iter().zip([4, 4, 1, 0, 0]) {
        let place = lay_out(given);
        let ended = call(words, place.path(), &keys);
        assert_eq!(ended.code, code, "{words:?}: {}", ended.stderr);
    }
    for (words, given) in TOOLS {
        for file in *given {
            let attack = |what: &str, bytes: Option<&[u8]>| {
                let place = lay_out(given);
                // Pages of a better day.
                std::fs::write(place.path().join("evidence/report.html"), "all is well").unwrap();
                let path = place.path().join("evidence").join(file);
                match bytes {
                    Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                    None => std::fs::remove_file(&path).unwrap(),
                }
                let ended = call(words, place.path(), &keys);
                let passed = passes(words, place.path(), &ended);
                assert_eq!(passed, None, "{words:?} with `{file}` {what}: {}", ended.stderr);
                if ended.code == 5 {
                    assert!(ended.stderr.contains(file), "{words:?} with `{file}` {what}: {}", ended.stderr);
                }
            };
            attack("removed", None);
            let value: Value = serde_json::from_slice(&sound[*file]).unwrap();
            for (what, harm) in SOUND_BUT_WRONG {
                let mut other = value.clone();
                harm(&mut other);
                attack(what, Some(&sign(file, &other, &keys.ci)));
            }
            for (what, key) in
                [("signed by a stranger", &keys.stranger), ("signed by an approver", &keys.olga)]
            {
                attack(what, Some(&sign(file, &value, key)));
            }
            attack("unsigned", Some(&FINISHED.documents[*file]));
            attack("of one byte more", Some(&[&sound[*file][..], b" "].concat()));
        }
    }
}
