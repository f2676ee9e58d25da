//! The whole chain through the five binaries, with a real HAProxy and a real PostgreSQL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;

use crate::support::haproxy::Haproxy;
use crate::support::postgres::Postgres;
use crate::support::router::RealRouter;
use crate::support::side::Side;
use crate::support::{Ended, folder, json, run, tool, wait_for};

mod attacks;
mod earlier;
mod hostile;
mod keys;
mod leaks;
mod refusals;
mod secrets;
mod signed;
mod variables;

/// What a release needs: two sides, a router, a database, and a folder with the plan.
pub(crate) struct Chain {
    pub folder: tempfile::TempDir,
    pub green: Side,
    pub haproxy: Haproxy,
    pub database: String,
    pub environment: Vec<(&'static str, String)>,
    _blue: Side,
    _server: Arc<Postgres>,
}

const SHOP: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, total_cents bigint NOT NULL);
    INSERT INTO orders (total_cents) SELECT n * 7 FROM generate_series(1, 500) n;";

const PLAN: &str = r#"version: 1
service: shop
environments: {production: {url: "ENTRY"}, staging: {url: "ENTRY"}}
release: {version: "${VERSION:-1.1}", previous: "1.0", artifacts: [shop.tar]}
preflight:
  max_age: 10m
  checks:
    - {name: blue is healthy, kind: http, target: "BLUE/health"}
    - {name: database answers, kind: postgres, target: "${DATABASE_URL}"}
MORE_CHECKS
snapshot:
  store: store
  max_age: 20m
  sources:
    - {name: config, kind: files, target: deploy}
    - {name: weights, kind: router_state}
    - {name: database, kind: postgres, target: "${DATABASE_URL}", with: {tables: [{name: orders, sum: total_cents, key: id}]}}
promote:
  router: {kind: haproxy, target: haproxy.sock, entry: "ENTRY", with: {backend: shop, blue: blue, green: green}}
  sides: {blue: {url: "BLUE"}, green: {url: "GREEN"}}
  probe: {path: /, rate: 100/s, requests: 20, timeout: 1m}
  interval: 100ms
  min_samples: 20
  drain: 500ms
  healthy_within: 5m
  undecided_for: 5m
  rollback_when: [{metric: error_rate, is: "> 5%"}]
  steps: [{weight: 20%, bake: 500ms}, {weight: 100%}]
MORE_PROMOTE
verify:
  checks:
    - {name: home answers, kind: http, target: "ENTRY/"}
  baseline:
    max_age: 30m
    probes:
      - {name: home, url: "ENTRY/", rate: 100/s, duration: 700ms, timeout: 1m, min_samples: 20, tolerance_at_least: 30s}
"#;

impl Chain {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, "", "")
    }

    /// One whose plan has further preflight checks and further lines of `promote`.
    pub(crate) fn with(name: &str, checks: &str, promote: &str) -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let haproxy = Haproxy::start(folder.path(), blue.port, green.port, "");
        let server = Postgres::shared();
        let database = server.database(name);
        Postgres::execute(&database, SHOP);
        let plan = PLAN
            .replace("MORE_CHECKS\n", checks)
            .replace("MORE_PROMOTE\n", promote)
            .replace("ENTRY", &haproxy.url())
            .replace("BLUE", &blue.url())
            .replace("GREEN", &green.url());
        std::fs::write(folder.path().join("release.yaml"), plan).unwrap();
        std::fs::write(folder.path().join("shop.tar"), b"what is released").unwrap();
        std::fs::create_dir(folder.path().join("deploy")).unwrap();
        std::fs::write(folder.path().join("deploy/shop.conf"), b"workers = 4\n").unwrap();
        let environment =
            vec![("DATABASE_URL", database.clone()), ("TRAPKEY_PASSPHRASE", "m4nta-of-the-store".to_owned())];
        Self { folder, green, haproxy, database, environment, _blue: blue, _server: server }
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = tool(words[0], self.folder.path());
        command.args(&words[1..]).args(["--environment", "production"]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Calls a tool; `verify` until this machine had the time to measure.
    pub(crate) fn call(&self, words: &[&str]) -> Ended {
        let document = match words {
            ["verify", "baseline", ..] => "baseline",
            ["verify", ..] => "verify",
            _ => return run(&mut self.command(words)),
        };
        let document = self.path("evidence").join(format!("{document}.json"));
        wait_for("a machine with time to measure", || {
            let ended = run(&mut self.command(words));
            (ended.code != 3 || !crate::verify::machine_was_busy(&document)).then_some(ended)
        })
    }

    pub(crate) fn good(&self, words: &[&str]) -> Ended {
        let ended = self.call(words);
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
        ended
    }

    /// Everything before `promote`.
    pub(crate) fn prepare(&self) {
        for words in [&["verify", "baseline"][..], &["preflight"], &["snapshot", "create"]] {
            self.good(words);
        }
    }

    pub(crate) fn document(&self, name: &str) -> Value {
        json(&self.path("evidence").join(format!("{name}.json")))
    }

    /// The finding of that name in a document.
    fn finding(&self, document: &str, name: &str) -> Value {
        let document = self.document(document);
        let findings = document["findings"].as_array().unwrap();
        findings
            .iter()
            .find(|f| f["name"] == name)
            .unwrap_or_else(|| panic!("no {name}: {findings:?}"))
            .clone()
    }

    /// Every document that is there fits its published schema; gives how many there are.
    fn assert_documents_fit_their_schemas(&self) -> usize {
        fits_schemas(&self.path("evidence"))
    }
}

/// Checks every document of a folder against its published schema; gives how many there were.
pub(crate) fn fits_schemas(evidence: &Path) -> usize {
    let documents = documents_of(evidence);
    for (file, bytes) in &documents {
        let name = file.split('.').next().unwrap();
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schemas/{name}.v1.json"));
        let validator = jsonschema::draft202012::new(&json(&schema)).unwrap();
        let document: Value = serde_json::from_slice(bytes).unwrap();
        let errors: Vec<_> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{file}: {errors:?}");
    }
    documents.len()
}

/// The JSON files of a folder, by name.
pub(crate) fn documents_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

/// What a document names as its parents: file and digest.
fn needs(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let needs = document["needs"].as_array().unwrap();
    needs.iter().map(|need| (text(&need["path"]), text(&need["sha256"]))).collect()
}

#[test]
fn a_good_release_goes_through_all_five_tools() {
    let chain = Chain::new("chain_good");
    // A refusal at first is over, and its record gone, once the evidence is there.
    assert_eq!(chain.call(&["promote", "run"]).code, 5);
    assert!(chain.path("evidence/promote.refused.json").exists());
    chain.prepare();
    chain.good(&["promote", "run"]);
    chain.good(&["verify"]);
    chain.good(&["report", "check"]);
    chain.good(&["report"]);
    assert_eq!((chain.haproxy.server("blue").0, chain.haproxy.server("green").0 > 0), (0, true));
    assert_eq!(chain.assert_documents_fit_their_schemas(), 6);
    let all = documents_of(&chain.path("evidence"));
    for (child, parents) in [
        ("snapshot", &["preflight.json"][..]),
        ("promote", &["preflight.json", "snapshot.json", "baseline.json"]),
        ("verify", &["promote.json", "snapshot.json", "baseline.json"]),
        ("report", &["preflight.json", "snapshot.json", "baseline.json", "promote.json", "verify.json"]),
    ] {
        let document = chain.document(child);
        assert_eq!(document["verdict"], "pass", "{child}");
        let expected: Vec<_> = parents
            .iter()
            .map(|name| ((*name).to_owned(), trapkey::evidence::sha256_hex(&all[*name])))
            .collect();
        assert_eq!(needs(&document), expected, "{child}");
    }
    assert_eq!(chain.document("report")["outcome"], "promoted");
    assert_eq!(chain.document("verify")["live"], "green");
    assert_eq!(chain.finding("verify", "data intact: orders")["verdict"], "pass");
    assert_eq!(chain.finding("verify", "live side serves")["expected"], "green 1.1");
}

#[test]
fn a_bad_release_is_rolled_back_and_every_row_is_still_there() {
    let chain = Chain::new("chain_bad");
    chain.green.answers.fail_every.store(3, Ordering::SeqCst);
    chain.prepare();
    let recorded = chain.document("snapshot")["snapshot"]["sources"][2]["tables"][0].clone();
    assert_eq!(
        (&recorded["rows"], &recorded["sum"], &recorded["up_to"]),
        (&500.into(), &"876750".into(), &"500".into())
    );
    let ended = chain.call(&["promote", "run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(chain.document("promote")["promotion"]["outcome"], "rolled_back");
    // Orders that came in since are no loss.
    Postgres::execute(&chain.database, "INSERT INTO orders (total_cents) VALUES (1), (2)");
    chain.good(&["verify"]);
    let verify = chain.document("verify");
    assert_eq!((&verify["live"], &verify["after_rollback"]), (&"blue".into(), &true.into()));
    assert_eq!(chain.finding("verify", "live side serves")["expected"], "blue 1.0");
    assert_eq!(chain.finding("verify", "data intact: orders")["verdict"], "pass");
    chain.good(&["report"]);
    assert_eq!(chain.document("report")["outcome"], "rolled_back");
    assert_eq!(chain.assert_documents_fit_their_schemas(), 6);

    for harm in
        ["UPDATE orders SET total_cents = total_cents + 1 WHERE id = 500", "DELETE FROM orders WHERE id = 1"]
    {
        Postgres::execute(&chain.database, harm);
        let ended = chain.call(&["verify"]);
        assert_eq!(ended.code, 1, "{harm}: {}", ended.stderr);
        assert_eq!(chain.finding("verify", "data intact: orders")["verdict"], "fail", "{harm}");
        assert_eq!(chain.document("verify")["verdict"], "fail");
    }
    // The failed verification is told by the report, and does not keep it from being made.
    chain.good(&["report"]);
    assert_eq!(chain.assert_documents_fit_their_schemas(), 6);
    let page = std::fs::read_to_string(chain.path("evidence/report.html")).unwrap();
    assert!(page.contains("data intact: orders"));
}
