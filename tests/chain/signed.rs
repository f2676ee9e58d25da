//! Signed evidence through the real binaries, with keys that the real `openssl` made.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Chain, documents_of, fits_schemas};
use crate::snapshot::walk;
use crate::support::{Ended, call, folder, json, run, tool};

/// Keys in a folder of their own, outside of everything that the tools write to.
struct Keys {
    folder: tempfile::TempDir,
}

impl Keys {
    /// A private key for each name; those before the bar are trusted, and the one after it is not.
    fn new() -> Self {
        let keys = Self { folder: folder() };
        std::fs::create_dir_all(keys.path("trust/approvers")).unwrap();
        for (name, public) in [
            ("ci", "trust/ci.pem"),
            ("deploy", "trust/deploy.pub"),
            ("olga", "trust/approvers/olga.pem"),
            ("stranger", "stranger.pub"),
        ] {
            let private = keys.private(name);
            openssl(&["genpkey", "-algorithm", "ed25519", "-out", &private]);
            openssl(&["pkey", "-in", &private, "-pubout", "-out", &keys.text(public)]);
        }
        std::fs::write(keys.path("trust/README.md"), "who may sign").unwrap();
        keys
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    fn text(&self, inside: &str) -> String {
        self.path(inside).display().to_string()
    }

    fn private(&self, name: &str) -> String {
        self.text(&format!("{name}.key"))
    }

    fn pem(&self, name: &str) -> String {
        std::fs::read_to_string(self.private(name)).unwrap()
    }

    /// The base64 line in the middle of a private key.
    fn secret(&self, name: &str) -> String {
        self.pem(name).lines().nth(1).unwrap().to_owned()
    }

    fn trust(&self) -> String {
        self.text("trust")
    }
}

fn openssl(arguments: &[&str]) -> String {
    let ended = run(Command::new("openssl").args(arguments));
    assert_eq!(ended.code, 0, "openssl {arguments:?}: {}", ended.stderr);
    ended.stdout
}

const PLAN: &str = "version: 1
service: shop
release: {version: \"1.1\"}
preflight:
  checks:
    - {name: configured, kind: file, target: shop.conf, expect: {exists: true}}
snapshot:
  store: store
  encryption: {none_needed_because: a test}
  sources: [{name: config, kind: files, target: deploy}]
";

/// A small release: a file to look at, and a folder to back up.
fn small() -> tempfile::TempDir {
    let place = folder();
    std::fs::write(place.path().join("release.yaml"), PLAN).unwrap();
    std::fs::write(place.path().join("shop.conf"), "workers = 4\n").unwrap();
    std::fs::create_dir(place.path().join("deploy")).unwrap();
    std::fs::write(place.path().join("deploy/shop.conf"), "workers = 4\n").unwrap();
    place
}

fn preflight(place: &Path, keys: &Keys, signed_by: &str) {
    let ended = call("preflight", place, &["--sign-key", &keys.private(signed_by)]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

/// Both consumers refuse what lies in the folder: `snapshot` to go on, `report` to tell of it.
fn refused(place: &Path, keys: &Keys, words: &[&str]) {
    let trust = keys.trust();
    for tool in [&["snapshot", "create"][..], &["report", "check"], &["report"]] {
        let arguments = [&tool[1..], &["--trust", &trust]].concat();
        let ended = call(tool[0], place, &arguments);
        assert_eq!(ended.code, 5, "{tool:?}: {}{}", ended.stdout, ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "`{word}` is missing: {}", ended.stderr);
        }
    }
    assert!(!place.join("evidence/snapshot.json").exists());
    assert!(!place.join("evidence/report.json").exists());
}

fn hides(keys: &Keys, what: &str, text: &str) {
    for name in ["ci", "deploy", "olga", "stranger"] {
        assert!(!text.contains(&keys.secret(name)[..40]), "{what} shows the key of {name}");
    }
}

fn says(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

/// The signature of a document holds also for somebody who has only `openssl`.
fn openssl_agrees(document: &Path, public: &str, keys: &Keys) {
    let text = std::fs::read_to_string(document).unwrap();
    let value = json(document)["signature"]["value"].as_str().unwrap().to_owned();
    let bytes: Vec<u8> =
        (0..128).step_by(2).map(|at| u8::from_str_radix(&value[at..at + 2], 16).unwrap()).collect();
    std::fs::write(keys.path("signature"), bytes).unwrap();
    std::fs::write(keys.path("message"), text.replace(&value, &"0".repeat(128))).unwrap();
    let said = openssl(&[
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        public,
        "-rawin",
        "-in",
        &keys.text("message"),
        "-sigfile",
        &keys.text("signature"),
    ]);
    assert!(said.contains("Verified Successfully"), "{said}");
}

const CURIOUS: &str = r#"    - {name: curious, kind: command, target: [sh, -c, "env >env.txt; echo \"the key is [$TRAPKEY_SIGN_KEY_PEM]\"; exit 1"], severity: warning}
"#;

#[test]
fn a_signed_release_goes_through_and_tells_who_signed() {
    let keys = Keys::new();
    let mut chain = Chain::with("chain_signed", CURIOUS, "");
    chain.environment.push(("TRAPKEY_TRUST", keys.trust()));
    let mut heard = says(&chain.good(&["verify", "baseline", "--sign-key", &keys.private("ci")]));
    // The later jobs have the key as a secret of the CI system, in a variable.
    chain.environment.push(("TRAPKEY_SIGN_KEY_PEM", keys.pem("deploy")));
    for words in [
        &["preflight", "--json"][..],
        &["snapshot", "create", "--json"],
        &["promote", "plan"],
        &["promote", "run", "--json"],
        &["promote", "run"],
        &["promote", "status"],
        &["verify", "--json"],
        &["report", "--json"],
    ] {
        let ended = chain.good(words);
        if words.contains(&"--json") {
            let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(document["signature"]["algorithm"], "ed25519", "{words:?}");
        }
        heard.push_str(&says(&ended));
    }
    let check = chain.good(&["report", "check"]);
    for (document, name) in [("baseline", "ci"), ("preflight", "deploy"), ("verify", "deploy")] {
        let line = check.stdout.lines().find(|l| l.starts_with(&format!("{document}.json -> release.yaml")));
        assert!(line.unwrap().ends_with(&format!("holds, signed by {name}")), "{}", check.stdout);
    }
    let links = chain.good(&["report", "check", "--json"]);
    let links: serde_json::Value = serde_json::from_str(&links.stdout).unwrap();
    assert!(links.as_array().unwrap().iter().all(|link| link["signed_by"]["name"].is_string()), "{links}");
    for page in ["report.html", "runbook.md"] {
        let text = std::fs::read_to_string(chain.path("evidence").join(page)).unwrap();
        for words in ["signed by ci", "signed by deploy"] {
            assert!(text.contains(words), "`{words}` is missing in {page}");
        }
        assert!(!text.contains("not signed"), "{page}");
    }

    let documents = documents_of(&chain.path("evidence"));
    assert_eq!(documents.len(), 6, "{:?}", documents.keys());
    assert_eq!(fits_schemas(&chain.path("evidence")), 6);
    for file in documents.keys() {
        let public = if file == "baseline.json" { "trust/ci.pem" } else { "trust/deploy.pub" };
        openssl_agrees(&chain.path("evidence").join(file), &keys.text(public), &keys);
    }
    let der = keys.text("public.der");
    openssl(&["pkey", "-pubin", "-in", &keys.text("trust/ci.pem"), "-outform", "DER", "-out", &der]);
    let id = trapkey::evidence::sha256_hex(&std::fs::read(der).unwrap());
    assert_eq!(chain.document("baseline")["signature"]["key"], id[..16]);

    // Nobody heard of the key, and no command inherited it.
    hides(&keys, "what was said", &heard);
    let files = walk(chain.folder.path());
    for file in files.iter().filter(|file| file.is_file()) {
        hides(&keys, &file.display().to_string(), &String::from_utf8_lossy(&std::fs::read(file).unwrap()));
    }
    let curious = chain.finding("preflight", "curious").to_string();
    assert!(curious.contains("the key is []"), "{curious}");
    let inherited = std::fs::read_to_string(chain.path("env.txt")).unwrap();
    assert!(inherited.contains("TRAPKEY_TRUST=") && !inherited.contains("SIGN_KEY"), "{inherited}");

    // Without a trust it is told what that is worth, and one changed byte breaks the chain at its start.
    chain.environment.retain(|(name, _)| *name != "TRAPKEY_TRUST");
    let check = chain.good(&["report", "check"]);
    assert!(
        check.stdout.contains(&format!("signed by key {id:.16}, not checked against a trust")),
        "{}",
        check.stdout
    );
    chain.environment.push(("TRAPKEY_TRUST", keys.trust()));
    let verify = chain.path("evidence/verify.json");
    let text = std::fs::read_to_string(&verify).unwrap();
    std::fs::write(&verify, text.replace("\"pass\"", "\"fail\"")).unwrap();
    for words in [&["report", "check"][..], &["report"]] {
        let ended = chain.call(words);
        assert_eq!(ended.code, 5, "{words:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("the evidence `verify.json` was changed after it was signed"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn refuses_what_nobody_signed() {
    let (place, keys) = (small(), Keys::new());
    assert_eq!(call("preflight", place.path(), &[]).code, 0);
    refused(place.path(), &keys, &["the evidence `preflight.json` is not signed", "--sign-key"]);
    let without = call("report", place.path(), &["check"]);
    assert_eq!(without.code, 0, "{}", without.stderr);
    assert!(
        without.stdout.contains(", not signed") && !without.stdout.contains("signed by"),
        "{}",
        without.stdout
    );
    assert!(without.stderr.contains("not signed: preflight.json"), "{}", without.stderr);
}

#[test]
fn refuses_a_key_that_is_not_trusted_and_one_that_only_approves() {
    let (place, keys) = (small(), Keys::new());
    preflight(place.path(), &keys, "stranger");
    refused(place.path(), &keys, &["is signed by a key that is not trusted", "trusted are ci, deploy, olga"]);
    preflight(place.path(), &keys, "olga");
    refused(place.path(), &keys, &["the key of olga is in `approvers`, and counts for approvals only"]);
    preflight(place.path(), &keys, "deploy");
    let arguments = ["create", "--trust", &keys.trust(), "--sign-key", &keys.private("ci")];
    assert_eq!(call("snapshot", place.path(), &arguments).code, 0);
}

#[test]
fn warns_of_a_signing_key_that_the_trust_does_not_have() {
    let (place, keys) = (small(), Keys::new());
    let arguments = ["--trust", &keys.trust(), "--sign-key", &keys.private("stranger")];
    let ended = call("preflight", place.path(), &arguments);
    assert_eq!(ended.code, 0);
    assert!(ended.stderr.contains("is not among those of --trust"), "{}", ended.stderr);
}

#[test]
fn a_trust_may_be_a_single_file() {
    let (place, keys) = (small(), Keys::new());
    preflight(place.path(), &keys, "ci");
    let ended = call("report", place.path(), &["check", "--trust", &keys.text("trust/ci.pem")]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("signed by ci"), "{}", ended.stdout);
    let ended = call("report", place.path(), &["check", "--trust", &keys.text("trust/deploy.pub")]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
}

#[test]
fn refuses_every_byte_that_was_changed() {
    let (place, keys) = (small(), Keys::new());
    preflight(place.path(), &keys, "ci");
    let file = place.path().join("evidence/preflight.json");
    let sound = std::fs::read(&file).unwrap();
    let trust = keys.trust();
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        call("report", place.path(), &["check", "--trust", &trust])
    };
    assert_eq!(check(&sound).code, 0);
    for at in (0..sound.len()).step_by(7) {
        let mut changed = sound.clone();
        changed[at] ^= 1 << (at % 8);
        let ended = check(&changed);
        assert_eq!(ended.code, 5, "byte {at}: {}{}", ended.stdout, ended.stderr);
    }
    for changed in [[&sound[..], b" "].concat(), [b" ", &sound[..]].concat(), sound[..sound.len() - 1].into()]
    {
        let ended = check(&changed);
        assert_eq!(ended.code, 5);
        assert!(ended.stderr.contains("was changed after it was signed"), "{}", ended.stderr);
    }
    // The same release again, written in another way, is not what was signed.
    let value: serde_json::Value = serde_json::from_slice(&sound).unwrap();
    assert_eq!(check(&serde_json::to_vec(&value).unwrap()).code, 5);
    assert_eq!(check(&sound).code, 0);
}

#[test]
fn a_secret_that_looks_like_a_part_of_a_signature_does_not_spoil_it() {
    let (place, keys) = (small(), Keys::new());
    let der = keys.text("public.der");
    openssl(&["pkey", "-pubin", "-in", &keys.text("trust/ci.pem"), "-outform", "DER", "-out", &der]);
    let id = trapkey::evidence::sha256_hex(&std::fs::read(der).unwrap());
    for secret in ["00000000", "signature", "\"value\"", &id[..16]] {
        let sign = ["--sign-key", &keys.private("ci")].map(str::to_owned);
        let ended = run(tool("preflight", place.path()).args(&sign).env("SHOP_TOKEN", secret));
        assert_eq!(ended.code, 0, "{secret}: {}", ended.stderr);
        openssl_agrees(&place.path().join("evidence/preflight.json"), &keys.text("trust/ci.pem"), &keys);
        let arguments = ["check", "--trust", &keys.trust()].map(str::to_owned);
        let ended = run(tool("report", place.path()).args(&arguments).env("SHOP_TOKEN", secret));
        assert_eq!(ended.code, 0, "{secret}: {}", ended.stderr);
    }
}

#[test]
fn a_refusal_is_signed_too_and_passes_for_nothing_else() {
    let (place, keys) = (small(), Keys::new());
    let sign = ["--trust", &keys.trust(), "--sign-key", &keys.private("ci")].map(str::to_owned);
    let sign: Vec<&str> = sign.iter().map(String::as_str).collect();
    let ended = call("snapshot", place.path(), &[&["create"][..], &sign].concat());
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    let refusal = place.path().join("evidence/snapshot.refused.json");
    openssl_agrees(&refusal, &keys.text("trust/ci.pem"), &keys);
    std::fs::rename(refusal, place.path().join("evidence/preflight.json")).unwrap();
    let ended = call("snapshot", place.path(), &[&["create"][..], &sign].concat());
    assert_eq!(ended.code, 5);
    assert!(ended.stderr.contains("is not a document of `trapkey/preflight/v1`"), "{}", ended.stderr);
}

#[test]
fn a_signing_key_that_is_none_stops_everything_before_it_begins() {
    let (place, keys) = (small(), Keys::new());
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &keys.text("rsa")]);
    openssl(&[
        "genpkey",
        "-algorithm",
        "ed25519",
        "-aes256",
        "-pass",
        "pass:abcd",
        "-out",
        &keys.text("locked"),
    ]);
    std::fs::write(keys.path("two"), keys.pem("ci") + &keys.pem("deploy")).unwrap();
    std::fs::write(keys.path("none"), "hello\n").unwrap();
    std::fs::write(keys.path("cut"), &keys.pem("ci")[..60]).unwrap();
    let (ci, pem) = (keys.private("ci"), keys.pem("ci"));
    let files: Vec<(String, &str)> = [
        ("absent", "cannot be read"),
        ("trust", "cannot be read"),
        ("rsa", "is not an Ed25519 private key"),
        ("locked", "it is encrypted"),
        ("two", "more than one key"),
        ("none", "it holds no `-----BEGIN PRIVATE KEY-----`"),
        ("cut", "is not an Ed25519 private key"),
        ("trust/ci.pem", "it is a public key"),
    ]
    .map(|(name, word)| (keys.text(name), word))
    .into();
    for (path, word) in files
        .iter()
        .map(|(p, w)| (p.as_str(), *w))
        .chain([(pem.as_str(), "TRAPKEY_SIGN_KEY_PEM"), (keys.secret("ci").as_str(), "TRAPKEY_SIGN_KEY_PEM")])
    {
        let ended = run(tool("preflight", place.path()).env("TRAPKEY_SIGN_KEY", path));
        assert_eq!(ended.code, 2, "{path}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{path}: {}", ended.stderr);
        hides(&keys, path, &says(&ended));
        let ended = run(tool("preflight", place.path()).env("TRAPKEY_SIGN_KEY", path).arg("--help"));
        hides(&keys, "the help", &says(&ended));
    }
    for (pem, word) in [("hello", "TRAPKEY_SIGN_KEY_PEM"), (&pem[..80], "TRAPKEY_SIGN_KEY_PEM")] {
        let ended = run(tool("preflight", place.path()).env("TRAPKEY_SIGN_KEY_PEM", pem));
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
        hides(&keys, "a wrong key in a variable", &says(&ended));
    }
    let mut twice = tool("preflight", place.path());
    let ended = run(twice.args(["--sign-key", &ci]).env("TRAPKEY_SIGN_KEY_PEM", &pem));
    assert_eq!((ended.code, ended.stderr.contains("given twice")), (2, true), "{}", ended.stderr);
    // A key that is empty counts as not given; a trust that is empty would let everything count.
    let empty = [("TRAPKEY_SIGN_KEY", ""), ("TRAPKEY_SIGN_KEY_PEM", "")];
    let with_trust = |trust: &str| {
        let mut command = tool("preflight", place.path());
        command.envs(empty).env("TRAPKEY_TRUST", trust);
        command
    };
    let ended = run(&mut with_trust(""));
    assert_eq!(
        (ended.code, ended.stderr.contains("TRAPKEY_TRUST is set and empty")),
        (2, true),
        "{}",
        ended.stderr
    );
    let mut unset = with_trust("none");
    assert!(!place.path().join("evidence/preflight.json").exists());
    let record = std::fs::read_to_string(place.path().join("evidence/preflight.refused.json")).unwrap();
    hides(&keys, "preflight.refused.json", &record);
    let ended = run(&mut unset);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[test]
fn a_trust_that_is_none_stops_everything_before_it_begins() {
    let (place, keys) = (small(), Keys::new());
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &keys.text("rsa")]);
    openssl(&["pkey", "-in", &keys.text("rsa"), "-pubout", "-out", &keys.text("rsa.pub")]);
    openssl(&["genpkey", "-algorithm", "x25519", "-out", &keys.text("x")]);
    openssl(&["pkey", "-in", &keys.text("x"), "-pubout", "-out", &keys.text("x.pub")]);
    let copy = |from: &str, to: &str| {
        let to = keys.path(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(keys.path(from), to).unwrap();
    };
    copy("ci.key", "private/ci.pem");
    copy("rsa.pub", "rsa-trust/ci.pem");
    copy("x.pub", "x-trust/ci.pem");
    copy("trust/ci.pem", "one-twice/ci.pem");
    copy("trust/ci.pem", "one-twice/other.pem");
    copy("trust/ci.pem", "name-twice/ci.pem");
    copy("trust/deploy.pub", "name-twice/approvers/ci.pub");
    copy("trust/ci.pem", "odd/c i.pem");
    copy("trust/README.md", "text/ci.pem");
    std::fs::create_dir(keys.path("empty")).unwrap();
    for (trust, word) in [
        ("absent", "cannot be read"),
        ("empty", "the trust has no keys"),
        ("private", "`ci` is no Ed25519 public key"),
        ("private", "it is a private key"),
        ("rsa-trust", "it is a key of another algorithm"),
        ("x-trust", "it is a key of another algorithm"),
        ("one-twice", "`other` and `ci` are trusted twice"),
        ("name-twice", "`ci` and `ci` are trusted twice"),
        ("odd", "is not letters, digits"),
        ("text", "it holds no `-----BEGIN PUBLIC KEY-----`"),
    ] {
        let ended = call("preflight", place.path(), &["--trust", &keys.text(trust)]);
        assert_eq!(ended.code, 2, "{trust}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{trust}: `{word}` is missing: {}", ended.stderr);
        hides(&keys, trust, &says(&ended));
    }
    assert!(!place.path().join("evidence/preflight.json").exists());
}
