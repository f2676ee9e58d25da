//! Broken, absurd and hostile input: always an error with a place or a sound result, never a panic.

use std::path::Path;

use serde_json::{Value, json};
use trapkey::evidence::{
    self, BaselineBody, Body, Found, PreflightBody, PromoteBody, SnapshotBody, VerifyBody,
};
use trapkey::fault::Exit;
use trapkey::plan::Loaded;
use trapkey::renderers::{self, Documents, Story, Templates};
use trapkey::yaml;

use super::PLAN;
use super::refusals::FINISHED;
use crate::report::texts::{html_is_well_made, xml_is_well_formed};
use crate::support::{folder, run, tool};

/// Numbers without pattern, always the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % below.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }
}

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    "- ",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "#",
    "&a ",
    "*a",
    "!!int ",
    "|",
    ">",
    "'",
    "\"",
    "\\",
    "${",
    "}",
    "${X}",
    "${X:-",
    "$${",
    "---\n",
    "...\n",
    "%YAML 9\n",
    "? ",
    "<<: ",
    "null",
    "~",
    "1e999",
    "-1",
    "0x",
    "\u{0}",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "é",
    "😀",
    "99999999999999999999d",
    "NaN%",
    "1/0",
    "𝟙",
    "in ",
    "~ (((",
];

/// A text with a few places cut out, doubled, or overwritten.
fn spoil(text: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(letters.len());
        let end = (at + dice.roll(12)).min(letters.len());
        match dice.roll(4) {
            0 => drop(letters.drain(at..end)),
            1 => {
                let part = letters[at..end].to_vec();
                let to = dice.roll(letters.len());
                letters.splice(to..to, part);
            }
            2 => letters.truncate(at.max(1)),
            _ => drop(letters.splice(at..at, dice.one(PIECES).chars())),
        }
    }
    letters.into_iter().collect()
}

#[test]
fn a_spoilt_plan_is_read_or_refused_with_its_place() {
    let folder = folder();
    let path = folder.path().join("release.yaml");
    let annotated = include_str!("../../templates/release.yaml");
    let mut dice = Dice(0x5EED);
    let (mut refused, mut read) = (0, 0);
    for round in 0..300 {
        let text = spoil(if round % 3 == 0 { annotated } else { PLAN }, &mut dice);
        if let Err(problem) = yaml::parse(&text) {
            let place = problem.place.unwrap_or_else(|| panic!("no place: {problem:?}\n{text}"));
            assert!(place.line >= 1 && place.column >= 1, "{problem:?}\n{text}");
        }
        std::fs::write(&path, &text).unwrap();
        match Loaded::read(&path, [("DATABASE_URL".into(), "postgres://u@h/d".into())].into()) {
            Ok(_) => read += 1,
            Err(fault) => {
                assert_eq!(fault.exit, Exit::Usage, "{fault}");
                let place = fault.place.as_deref().unwrap_or_default();
                assert!(place.contains("release.yaml"), "{fault}\n{text}");
                assert!(!fault.what.is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > 100 && read > 10, "{refused} refused, {read} read: too one-sided to prove anything");
}

/// Values that no tool ever writes, but that a file may hold.
fn absurd(dice: &mut Dice) -> Value {
    let deep = (0..90).fold(json!(1), |inner, _| json!([inner]));
    let all = [
        Value::Null,
        json!(-1),
        json!(0),
        json!(1e308),
        json!(-1e308),
        json!(5e-324),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(true),
        json!(""),
        json!("NaN"),
        json!("<script>alert(1)</script><img src=x onerror=alert(1)>'\"&amp;"),
        json!("]]> \u{0}\u{1}\u{b}\u{1b}[31m\u{7f}\u{fffe}\u{202e} | `x` **y** @team\n::error::z\r\n# w"),
        json!("x".repeat(20_000)),
        json!("9999-12-30T22:00:00.999Z"),
        json!("-009999-01-02T01:59:59Z"),
        json!("1970-01-01T00:00:00Z"),
        json!([]),
        json!({}),
        deep,
    ];
    dice.one(&all).clone()
}

/// Every place in a document below its schema's name.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| {
            places(inner, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out);
        }),
        Value::Array(items) => {
            items.iter().take(3).enumerate().for_each(|(n, inner)| places(inner, &format!("{at}/{n}"), out));
        }
        _ => {}
    }
}

/// A document with one to three values replaced, each by something that may stand there or not.
fn twist(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(bytes).unwrap();
    for _ in 0..=dice.roll(3) {
        let mut all = Vec::new();
        places(&document, "", &mut all);
        let place = dice.one(&all[1..]).clone();
        if place != "/schema" {
            *document.pointer_mut(&place).unwrap() = absurd(dice);
        }
    }
    serde_json::to_vec(&document).unwrap()
}

/// The document twisted until it is still one; `None` when it never was.
fn twisted<B: Body>(place: &Path, dice: &mut Dice, refused: &mut usize) -> Option<Found<B>> {
    let bytes = &FINISHED.documents[B::FILE];
    for _ in 0..20 {
        std::fs::write(place.join(B::FILE), twist(bytes, dice)).unwrap();
        match evidence::read::<B>(place, None) {
            Ok(found) => return Some(found),
            Err(fault) => {
                assert_eq!(fault.exit, Exit::Refused, "{fault}");
                assert!(fault.place.as_deref().unwrap_or_default().contains(B::FILE), "{fault}");
                *refused += 1;
            }
        }
    }
    None
}

#[test]
fn a_twisted_document_is_refused_or_rendered_safely() {
    let place = folder();
    let path = place.path();
    let mut dice = Dice(0xD1CE);
    let mut refused = 0;
    let mut results = Vec::new();
    for round in 0..12 {
        let first = evidence::read::<PreflightBody>(&untouched(path), None).unwrap();
        let head = first.document.head;
        let documents = Documents {
            evidence: None,
            state: None,
            release: head.release.unwrap(),
            plan: head.plan.unwrap(),
            url: Some("https://shop.example.com".into()),
            missing: Vec::new(),
            to_come: Vec::new(),
            contingency: Vec::new(),
            contacts: Vec::new(),
            at: head.run.finished_at,
            preflight: twisted::<PreflightBody>(path, &mut dice, &mut refused),
            snapshot: twisted::<SnapshotBody>(path, &mut dice, &mut refused),
            drill: None,
            baseline: twisted::<BaselineBody>(path, &mut dice, &mut refused),
            approvals: Vec::new(),
            promote: twisted::<PromoteBody>(path, &mut dice, &mut refused),
            verify: twisted::<VerifyBody>(path, &mut dice, &mut refused),
        };
        let story = Story::of(documents).unwrap();
        for kind in renderers::ALL {
            let bytes = (kind.render)(&story, &Templates::default()).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert!(!text.contains("<script"), "{} round {round}", kind.file);
            match kind.file {
                "report.html" => html_is_well_made(&text),
                "junit.xml" => {
                    let file = path.join(format!("junit-{round}.xml"));
                    std::fs::write(&file, text).unwrap();
                    results.push(file);
                }
                _ => {}
            }
        }
    }
    for file in &results {
        xml_is_well_formed(file);
    }
    assert!(refused > 25, "{refused}");
}

/// A folder with the documents as they were written.
fn untouched(beside: &Path) -> std::path::PathBuf {
    let folder = beside.join("untouched");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in &FINISHED.documents {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn spoilt_bytes_of_a_document_are_refused() {
    let place = folder();
    let mut dice = Dice(0xB17E);
    let good = String::from_utf8(FINISHED.documents["preflight.json"].clone()).unwrap();
    let mut refused = 0;
    for _ in 0..200 {
        std::fs::write(place.path().join("preflight.json"), spoil(&good, &mut dice)).unwrap();
        if let Err(fault) = evidence::read::<PreflightBody>(place.path(), None) {
            assert_eq!(fault.exit, Exit::Refused, "{fault}");
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
}

fn refused_as(text: &[u8], word: &str) {
    let place = folder();
    std::fs::write(place.path().join("preflight.json"), text).unwrap();
    let fault = evidence::read::<PreflightBody>(place.path(), None).unwrap_err();
    assert_eq!(fault.exit, Exit::Refused);
    assert!(fault.to_string().contains(word), "{fault}");
}

#[test]
fn documents_beyond_every_limit_are_refused() {
    let deep = format!("{{\"schema\": \"trapkey/preflight/v1\", \"findings\": {}", "[".repeat(200_000));
    refused_as(deep.as_bytes(), "not a document");
    let whole = format!("{deep}{}}}", "]".repeat(200_000));
    refused_as(whole.as_bytes(), "not a document");
    for number in ["1e999", "NaN", "-Infinity", "0x10", "1_000"] {
        let text = String::from_utf8(FINISHED.documents["preflight.json"].clone()).unwrap();
        let (before, after) = text.split_once("\"duration_ms\": ").unwrap();
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        refused_as(format!("{before}\"duration_ms\": {number}{rest}").as_bytes(), "not a document");
    }
    let place = folder();
    let file = std::fs::File::create(place.path().join("preflight.json")).unwrap();
    file.set_len(evidence::MAX_DOCUMENT + 1).unwrap();
    let fault = evidence::read::<PreflightBody>(place.path(), None).unwrap_err();
    assert!(fault.to_string().contains("larger than 64 MiB"), "{fault}");
    // Whoever read that would not end.
    file.set_len(1 << 42).unwrap();
    let fault = evidence::read::<PreflightBody>(place.path(), None).unwrap_err();
    assert!(fault.to_string().contains("larger than 64 MiB"), "{fault}");
}

#[test]
fn a_report_of_absurd_times_is_still_made() {
    for (started, finished) in [
        ("-009999-01-02T01:59:59Z", "-009999-01-02T01:59:59Z"),
        ("2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
    ] {
        let place = folder();
        let evidence = place.path().join("evidence");
        std::fs::create_dir(&evidence).unwrap();
        std::fs::write(place.path().join("release.yaml"), &FINISHED.plan).unwrap();
        std::fs::write(place.path().join("shop.tar"), b"what is released").unwrap();
        let mut document: Value = serde_json::from_slice(&FINISHED.documents["preflight.json"]).unwrap();
        document["run"]["started_at"] = started.into();
        document["run"]["finished_at"] = finished.into();
        document["findings"][0]["started_at"] = "9999-12-30T22:00:00Z".into();
        document["findings"][0]["duration_ms"] = json!(1e308);
        std::fs::write(evidence.join("preflight.json"), document.to_string()).unwrap();
        let mut command = tool("report", place.path());
        command.args(["--environment", "production"]).env("DATABASE_URL", "postgres://u@h/d");
        let ended = run(&mut command);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        xml_is_well_formed(&evidence.join("junit.xml"));
        html_is_well_made(&std::fs::read_to_string(evidence.join("report.html")).unwrap());
    }
}
