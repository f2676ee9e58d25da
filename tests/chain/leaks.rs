//! Every way in which a secret comes in, in every form in which it is printed, against everything that goes out; and secrets
//! that are words of our own documents.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Chain;
use crate::snapshot::walk;
use crate::support::{folder, run, tool, wait_until};

/// The variables of this test: the name, the value, and the secret in it.
const WAYS: &[(&str, &str, &str)] = &[
    ("DB_PASS", "\"walrus\\7\" & 'p@ir'", "\"walrus\\7\" & 'p@ir'"),
    ("GH_PAT", "0cel0t-of-the-pat", "0cel0t-of-the-pat"),
    ("SHORT_PIN", "q7!z", "q7!z"),
    ("SESSION_COOKIE", "sid=t4pir/+=; Path", "sid=t4pir/+=; Path"),
    ("SMTP_LOGIN", "g4zelle-by-mark", "g4zelle-by-mark"),
    ("REPO", "https://t0k3n-0kapi-5531@git.example/x.git", "t0k3n-0kapi-5531"),
    ("FEED", "https://feed.example/?page=1&access_token=l1nx%2Fl1nx", "l1nx/l1nx"),
    ("OLD_STYLE", "host=db user=x sslpassword='m0ose m0ose'", "m0ose m0ose"),
    (
        "GCP_CREDENTIALS",
        "{\"private_key\": \"-----BEGIN X-----\\nTGl6YXJkTGl6YXJk77\\n-----END X-----\\n\"}",
        "TGl6YXJkTGl6YXJk77",
    ),
    ("CI_DEPLOY_TOKEN", FROM_A_FILE, FROM_A_FILE),
    ("TRAPKEY_PASSPHRASE", "m4nta ray of the store", "m4nta ray of the store"),
];

/// A secret that the variable has the path of, as GitLab hands files over.
const FROM_A_FILE: &str = "b0ngo from a file";

type Form = (&'static str, fn(&str) -> String);

const FORMS: &[Form] = &[
    ("plain", str::to_owned),
    ("JSON", |s| serde_json::to_string(s).unwrap()),
    ("JSON twice", |s| serde_json::to_string(&serde_json::to_string(s).unwrap()).unwrap()),
    ("URL", |s| {
        s.bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") })
            .collect()
    }),
    ("XML", |s| s.replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&#39;").replace('<', "&lt;")),
    ("base64", |s| STANDARD.encode(s)),
    ("basic", |s| STANDARD.encode(format!("shop:{s}"))),
    ("basic at the next place", |s| STANDARD.encode(format!("ab:{s}:cd"))),
    ("a shell's", |s| s.replace('\'', r"'\''")),
    ("%q", |s| {
        s.chars().map(|c| if c.is_alphanumeric() { c.to_string() } else { format!("\\{c}") }).collect()
    }),
    ("coloured", |s| s.chars().map(|c| format!("\u{1b}[31m{c}")).collect()),
];

/// Lines that a CI system or a terminal would obey.
const ORDERS: &str = "::add-mask::x\n   ::stop-commands::x\nfine ##[add-path]/tmp/x\n##vso[task.complete]x\n\u{1b}]0;title\u{7}\r::error::x\n\
                      \u{feff}::warning::x\n\u{202e}x\u{2028}::debug::x\n";

const CHECKS: &str = r#"    - {name: an echo, kind: command, target: [cat, forms.txt], expect: {stdout: x, exit: 1}, severity: warning}
    - {name: its end, kind: command, target: [sh, -c, "cat forms.txt >&2; exit 1"], severity: warning}
    - {name: asks, kind: http, target: "http://127.0.0.1:1/?token=${GH_PAT}", with: {headers: {cookie: "${SESSION_COOKIE}"}}, severity: warning}
    - {name: children, kind: command, target: [sh, -c, "env > check.env"]}
"#;

const PROMOTE: &str = r#"  hooks: {deploy: [sh, -c, "cat forms.txt; env > hook.env; head -c 1500 /dev/zero | tr '\\0' x; cat forms.txt; printf %s \"$GH_PAT\"; head -c 1990 /dev/zero | tr '\\0' y >&2"]}
"#;

const SNAPSHOT: &str = "  before: [sh, -c, \"cat forms.txt; env > freeze.env\"]\n  after: [sh, -c, \"cat forms.txt >&2\"]\n  sources:\n";

/// Whether a CI system takes a line for an order.
fn is_an_order(line: &str) -> bool {
    let bracket = line.match_indices("##").any(|(at, _)| {
        line[at + 2..].trim_start_matches(|c: char| c.is_ascii_alphanumeric()).starts_with('[')
    });
    line.trim_start().starts_with("::") || bracket
}

/// What must not be seen anywhere: every secret in every form, and pieces of it.
fn hidden() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, _, secret) in WAYS {
        for (form, write) in FORMS {
            all.push((format!("{name} as {form}"), write(secret)));
        }
        // A cut must leave no half of it.
        let letters: Vec<char> = secret.chars().collect();
        if letters.len() >= 12 {
            all.push((format!("{name} without its beginning"), letters[2..].iter().collect()));
            all.push((format!("{name} without its end"), letters[..letters.len() - 2].iter().collect()));
        }
    }
    all
}

fn hides(what: &str, text: &str, hidden: &[(String, String)]) {
    for (name, form) in hidden {
        if let Some(at) = text.find(form.as_str()) {
            let from = text[..at].char_indices().rev().nth(80).map_or(0, |(at, _)| at);
            panic!("{what} shows {name} after …{:?}", &text[from..at]);
        }
    }
}

fn obeys_nobody(what: &str, text: &str) {
    for line in text.lines() {
        let annotation = line.starts_with("::error ") || line.starts_with("::warning ");
        assert!(annotation || !is_an_order(line), "{what} gives an order: {line:?}");
        assert!(!annotation || !line.contains("##["), "{what}: {line:?}");
        let unseen = |c: char| c.is_control() && c != '\t' || "\u{feff}\u{202e}\u{2028}\u{200b}".contains(c);
        assert!(!line.contains(unseen), "{what} has what nobody sees: {line:?}");
    }
}

#[test]
fn no_secret_in_any_form_goes_out_anywhere_and_nobody_speaks_to_the_runner() {
    let mut chain = Chain::with("chain_leaks", CHECKS, PROMOTE);
    let plan = chain.path("release.yaml");
    let text = std::fs::read_to_string(&plan).unwrap();
    let text = text.replace("service: shop\n", "service: shop\nsecret: [SMTP_LOGIN]\n").replacen(
        "  sources:\n",
        SNAPSHOT,
        1,
    );
    std::fs::write(&plan, text).unwrap();
    let forms: String = WAYS
        .iter()
        .flat_map(|(_, _, secret)| FORMS.iter().map(|(form, write)| format!("{form}: {}\n", write(secret))))
        .collect();
    std::fs::write(chain.path("forms.txt"), format!("{ORDERS}{forms}{ORDERS}")).unwrap();
    let keys = folder();
    let key = keys.path().join("ci.key");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success());
    let pem = std::fs::read_to_string(&key).unwrap();
    let file = keys.path().join("token");
    std::fs::write(&file, format!("{FROM_A_FILE}\n")).unwrap();
    let value =
        |value: &str| if value == FROM_A_FILE { file.display().to_string() } else { value.to_owned() };
    chain.environment.retain(|(name, _)| *name != "TRAPKEY_PASSPHRASE");
    chain.environment.extend(WAYS.iter().map(|(name, given, _)| (*name, value(given))));
    chain.environment.extend([
        ("TRAPKEY_SIGN_KEY_PEM", pem.clone()),
        ("GITHUB_ACTIONS", "true".to_owned()),
        ("GITHUB_OUTPUT", chain.path("github-output").display().to_string()),
        ("GITHUB_STEP_SUMMARY", chain.path("github-summary").display().to_string()),
    ]);
    let mut hidden = hidden();
    hidden.push(("the signing key".into(), pem.lines().nth(1).unwrap().to_owned()));
    for words in [
        &["verify", "baseline", "--json"][..],
        &["preflight", "--json"],
        &["snapshot", "create", "--json"],
        &["promote", "run", "--json"],
        &["promote", "status"],
        &["promote", "status", "--json"],
        &["verify"],
        &["report", "--json"],
        &["report", "check"],
        &["snapshot", "list", "--json"],
    ] {
        let ended = chain.good(words);
        for (stream, said) in [("stdout", &ended.stdout), ("stderr", &ended.stderr)] {
            hides(&format!("{stream} of {words:?}"), said, &hidden);
            obeys_nobody(&format!("{stream} of {words:?}"), said);
        }
    }
    // Errors, with what was typed: a reason, a flag.
    for words in [
        &["promote", "abort", "--reason", "x\n::add-mask::pass\n##[group]x"][..],
        &["promote", "undo", "--reason", ORDERS],
        &["preflight", "--nonsense\n::add-mask::pass", ORDERS],
        &["preflight", "--plan", "none\n::stop-commands::x"],
    ] {
        let ended = run(&mut chain.command(words));
        obeys_nobody(&format!("{words:?}"), &ended.stderr);
        obeys_nobody(&format!("{words:?}"), &ended.stdout);
    }
    let mut looked = 0;
    for file in walk(chain.folder.path()).into_iter().filter(|file| file.is_file()) {
        let name = file.strip_prefix(chain.folder.path()).unwrap().display().to_string();
        let ours = !["forms.txt", "check.env", "hook.env", "freeze.env"].contains(&name.as_str());
        if ours {
            looked += 1;
            hides(&name, &String::from_utf8_lossy(&std::fs::read(&file).unwrap()), &hidden);
        }
        if name.starts_with("evidence") && Path::new(&name).extension().is_some_and(|e| e == "json")
            || name == "github-output"
        {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.lines().any(is_an_order), "{name}");
        }
    }
    assert!(looked > 15, "{looked}");
    // What was said did arrive, and the outputs are there.
    for (file, word) in [
        ("evidence/preflight.json", "***"),
        ("evidence/promote.json", "***"),
        ("github-output", "verdict=pass"),
    ] {
        assert!(std::fs::read_to_string(chain.path(file)).unwrap().contains(word), "{file}");
    }
    // Children have what is theirs, and nothing of the tools' own.
    for file in ["check.env", "hook.env", "freeze.env"] {
        let env = std::fs::read_to_string(chain.path(file)).unwrap();
        assert!(env.contains("GH_PAT=0cel0t"), "{file}");
        for own in ["TRAPKEY_PASSPHRASE", "TRAPKEY_SIGN_KEY", "TRAPKEY_SET", "TRAPKEY_TOKEN", "m4nta"] {
            assert!(!env.contains(own), "{file} has {own}");
        }
    }
}

/// Passwords that people have on their machines, each a word that a document, a state or an output goes by.
const OUR_WORDS: &[(&str, &str)] = &[
    ("A_PASSWORD", "pass"),
    ("B_PASSWORD", "shop"),
    ("C_PASSWORD", "production"),
    ("D_PASSWORD", "critical"),
    ("E_PASSWORD", "preflight"),
    ("F_PASSWORD", "green"),
    ("G_PASSWORD", "blue"),
    ("H_PASSWORD", "promoted"),
    ("I_PASSWORD", "error_rate"),
    ("J_PASSWORD", "canary"),
    ("K_PASSWORD", "1.1"),
    ("L_PASSWORD", "2026"),
    ("M_PASSWORD", "baking"),
    ("N_PASSWORD", "database"),
    ("O_PASSWORD", "home"),
    ("P_PASSWORD", "trapkey/preflight/v1"),
    ("Q_PASSWORD", "haproxy"),
    ("R_PASSWORD", "release.yaml"),
    ("S_PASSWORD", "1"),
    ("T_PASSWORD", "sha256"),
];

#[test]
fn a_secret_that_is_one_of_our_words_spoils_no_document_no_state_and_no_output() {
    let mut chain = Chain::new("chain_words");
    chain.environment.extend(OUR_WORDS.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let output = chain.path("github-output").display().to_string();
    chain.environment.push(("GITHUB_OUTPUT", output));
    chain.prepare();
    // Each call takes up what the one before has left in the state.
    chain.good(&["promote", "start"]);
    wait_until("the last step", || {
        chain.good(&["promote", "step"]);
        chain.document("promote")["promotion"]["outcome"] == "promoted"
    });
    for words in [&["verify"][..], &["report"], &["report", "check"], &["promote", "status"]] {
        chain.good(words);
    }
    assert!(super::fits_schemas(&chain.path("evidence")) >= 6);
    for name in ["baseline", "preflight", "snapshot", "promote", "verify", "report"] {
        let document = chain.document(name);
        assert_eq!(document["verdict"], "pass", "{name}");
        assert_eq!(document["schema"], format!("trapkey/{name}/v1"));
        assert_eq!(
            (document["release"]["service"].as_str(), document["release"]["version"].as_str()),
            (Some("shop"), Some("1.1"))
        );
        for finding in document["findings"].as_array().unwrap() {
            for key in ["name", "kind", "severity", "verdict", "started_at"] {
                assert!(!finding[key].as_str().unwrap().contains("***"), "{name}: {finding}");
            }
        }
    }
    let outputs = std::fs::read_to_string(chain.path("github-output")).unwrap();
    for line in outputs.lines().filter(|line| !line.starts_with("summary=")) {
        assert!(!line.contains("***"), "{line}");
    }
    assert!(outputs.contains("verdict=pass") && outputs.contains("outcome=promoted"), "{outputs}");
}

#[test]
fn a_secret_among_arguments_and_a_value_that_would_be_code_are_refused_before_anything_runs() {
    let place = folder();
    let base = "version: 1\nservice: shop\nrelease: {version: '1'}\npreflight: {checks: [{name: a, kind: file, target: release.yaml}]}\n";
    let promote = |hook: &str| {
        format!(
            "{base}promote: {{router: {{kind: haproxy, target: x, with: {{backend: b, blue: b, green: g}}}}, sides: {{blue: {{url: 'http://b'}}, \
                 green: {{url: 'http://g'}}}}, strategy: blue_green, hooks: {{{hook}}}, steps: [{{weight: 100%}}]}}\n"
        )
    };
    let snapshot = |source: &str| format!("{base}snapshot: {{store: s, {source}}}\n");
    let own = "sources: [{name: f, kind: files, target: x";
    let secret = "[./x, \"${API_TOKEN}\"]";
    let code = "[sh, -c, \"deploy ${BRANCH}\"]";
    let mut plans = Vec::new();
    for (words, why) in [(secret, "a secret among the arguments"), (code, "would become code")] {
        for hook in ["deploy", "after", "on_rollback", "retire"] {
            plans.push((promote(&format!("{hook}: {words}")), why));
        }
        plans.push((snapshot(&format!("before: {words}, after: [true], {own}}}]")), why));
        plans.push((snapshot(&format!("before: [true], after: {words}, {own}}}]")), why));
        plans.push((snapshot(&format!("{own}, before: {words}, after: [true]}}]")), why));
        plans.push((snapshot(&format!("sources: [{{name: c, kind: command, target: {words}}}]")), why));
        plans.push((
            base.replace("kind: file, target: release.yaml", &format!("kind: command, target: {words}")),
            why,
        ));
    }
    plans.push((
        base.replace("{version: '1'}", "{version: \"1-${API_TOKEN}\"}"),
        "is a name that every document shows",
    ));
    plans.push((
        base.replace("{version: '1'}", "{version: '1', artifacts: [\"dist/${BRANCH}.tgz\"]}"),
        "leads out of its folder",
    ));
    for (plan, why) in plans {
        std::fs::write(place.path().join("release.yaml"), &plan).unwrap();
        let mut preflight = tool("preflight", place.path());
        preflight.env("API_TOKEN", "tok-n4rwhal-551").env("BRANCH", "x/../../$(touch${IFS}pwned)");
        let ended = run(&mut preflight);
        assert_eq!(ended.code, 2, "{plan}\n{}", ended.stderr);
        assert!(ended.stderr.contains(why), "{plan}\n{}", ended.stderr);
        assert!(!ended.stderr.contains("n4rwhal") && !has(place.path(), "pwned"), "{}", ended.stderr);
    }
}

fn has(folder: &Path, name: &str) -> bool {
    walk(folder).iter().any(|path| path.ends_with(name))
}
