//! The chain: it holds, or the report is refused and says which link is broken.

use std::io::Write as _;

use serde_json::Value;
use trapkey::evidence::*;

use super::samples::{End, Sample};
use crate::support::{self, call};

const DOCUMENTS: &[&str] =
    &["baseline.json", "preflight.json", "snapshot.json", "promote.json", "verify.json"];

fn refused(sample: &Sample, words: &[&str]) {
    for arguments in [&["check"][..], &[][..]] {
        let ended = call("report", sample.folder.path(), arguments);
        assert_eq!(ended.code, 5, "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "`{word}` is missing: {}", ended.stderr);
        }
    }
    assert!(!sample.file("report.html").exists(), "a refused release must not look reported");
    assert!(!sample.file("report.json").exists());
    let record = support::json(&sample.file("report.refused.json"));
    assert_eq!(record["verdict"], "error");
}

/// Changes a document through its JSON, keeping it a document.
fn change(sample: &Sample, name: &str, with: impl Fn(&mut Value)) {
    let mut value = support::json(&sample.file(name));
    with(&mut value);
    std::fs::write(sample.file(name), serde_json::to_vec_pretty(&value).unwrap()).unwrap();
}

#[test]
fn check_prints_each_link_and_passes() {
    let sample = Sample::of(End::Promoted);
    let ended = call("report", sample.folder.path(), &["check"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for link in [
        "preflight.json -> release.yaml",
        "snapshot.json -> preflight.json",
        "promote.json -> preflight.json",
        "promote.json -> snapshot.json",
        "promote.json -> promote.samples.jsonl.gz",
        "verify.json -> promote.json",
        "verify.json -> snapshot.json",
        "verify.json -> baseline.json",
    ] {
        assert!(ended.stdout.contains(link), "`{link}` is missing: {}", ended.stdout);
    }
    let ended = call("report", sample.folder.path(), &["check", "--json"]);
    let links: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(links.as_array().unwrap().len(), 12);
    assert!(!sample.file("report.json").exists(), "`check` writes nothing");
}

#[test]
fn one_changed_byte_in_any_consumed_document_is_refused_with_its_link() {
    for (changed, link) in [
        ("baseline.json", "verify.json -> baseline.json"),
        ("preflight.json", "snapshot.json -> preflight.json"),
        ("snapshot.json", "promote.json -> snapshot.json"),
        ("promote.json", "verify.json -> promote.json"),
    ] {
        let sample = Sample::of(End::Promoted);
        let mut file = std::fs::OpenOptions::new().append(true).open(sample.file(changed)).unwrap();
        file.write_all(b" ").unwrap();
        refused(&sample, &[link, "is broken", "sha256"]);
    }
}

#[test]
fn a_document_of_another_plan_is_refused() {
    for name in DOCUMENTS {
        let sample = Sample::of(End::Promoted);
        change(&sample, name, |d| d["plan"]["sha256"] = "0".repeat(64).into());
        refused(&sample, &[name, "another plan"]);
    }
}

#[test]
fn a_document_of_another_release_is_refused() {
    for name in DOCUMENTS {
        for (key, value) in [("version", "9.9.9"), ("environment", "staging"), ("service", "till")] {
            let sample = Sample::of(End::Promoted);
            change(&sample, name, |d| d["release"][key] = value.into());
            refused(&sample, &[name, "another release", value]);
        }
    }
}

#[test]
fn a_changed_artifact_is_another_release() {
    let sample = Sample::of(End::Promoted);
    std::fs::write(sample.folder.path().join("shop.tar.gz"), b"something else").unwrap();
    refused(&sample, &["another release"]);
}

#[test]
fn a_missing_parent_is_refused_by_name() {
    for (missing, link) in [
        ("baseline.json", "verify.json -> baseline.json"),
        ("preflight.json", "snapshot.json -> preflight.json"),
        ("snapshot.json", "promote.json -> snapshot.json"),
        ("promote.json", "verify.json -> promote.json"),
    ] {
        let sample = Sample::of(End::Promoted);
        std::fs::remove_file(sample.file(missing)).unwrap();
        refused(&sample, &[link, "not in the folder"]);
    }
}

#[test]
fn a_parent_that_is_not_named_is_refused() {
    for (name, link) in [
        ("snapshot.json", "snapshot.json -> preflight.json"),
        ("promote.json", "promote.json -> preflight.json"),
        ("verify.json", "verify.json -> promote.json"),
    ] {
        let sample = Sample::new();
        sample.baseline();
        sample.preflight(sample.checks());
        if name != "snapshot.json" {
            sample.snapshot();
        }
        if name == "verify.json" {
            sample.promote(End::Promoted);
        }
        match name {
            "snapshot.json" => sample.snapshot(),
            "promote.json" => sample.promote(End::Promoted),
            _ => sample.verify(false),
        }
        change(&sample, name, |d| d["needs"] = Value::Array(vec![]));
        refused(&sample, &[link, "is missing"]);
    }
}

#[test]
fn a_need_outside_the_folder_is_refused() {
    let sample = Sample::of(End::Promoted);
    change(&sample, "verify.json", |d| d["needs"][0]["path"] = "../../etc/passwd".into());
    refused(&sample, &["verify.json -> ../../etc/passwd", "not in the folder"]);
}

#[test]
fn a_failed_parent_is_refused() {
    let sample = Sample::new();
    let mut findings = sample.checks();
    findings[0].verdict = Verdict::Fail;
    sample.preflight(findings);
    sample.snapshot();
    refused(&sample, &["preflight.json", "did not pass"]);
}

#[test]
fn what_is_no_document_is_refused() {
    for (text, word) in [
        ("", "not a document"),
        ("{\"schema\": \"trapkey/preflight/v2\"}", "trapkey/preflight/v2"),
        ("{\"schema\": \"trapkey/preflight/v1\"}", "missing field"),
        ("\u{0}\u{1}", "not a document"),
    ] {
        let sample = Sample::new();
        std::fs::write(sample.file("preflight.json"), text).unwrap();
        refused(&sample, &["preflight.json", word]);
    }
}

#[test]
fn an_empty_or_missing_folder_is_refused() {
    let sample = Sample::new();
    refused(&sample, &["no evidence", "preflight"]);
    let ended = call("report", sample.folder.path(), &["--evidence", "nowhere"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
}

#[test]
fn a_dangling_link_is_not_the_same_as_no_document() {
    let sample = Sample::of(End::Promoted);
    std::fs::remove_file(sample.file("baseline.json")).unwrap();
    std::os::unix::fs::symlink("nowhere", sample.file("baseline.json")).unwrap();
    refused(&sample, &["baseline.json"]);
}

#[test]
fn a_tool_that_could_not_work_is_rendered_as_a_stopped_release() {
    let sample = Sample::new();
    sample.preflight(sample.checks());
    sample.snapshot();
    sample.promote(End::InProgress);
    // What the library writes when a router cannot be reached before anything was begun.
    change(&sample, "promote.json", |d| {
        d["needs"] = Value::Array(vec![]);
        d["verdict"] = "error".into();
        d["summary"] = "the router cannot be reached: connection refused".into();
        d["promotion"] = Value::Null;
        let fault = Finding::new("promote", "fault", Verdict::Error, sample.at(1.0)).says("no router");
        d["findings"] = serde_json::to_value(vec![fault]).unwrap();
    });
    let ended = sample.render();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(support::json(&sample.file("report.json"))["outcome"], "stopped");
    assert!(sample.text("report.html").contains("promote ended with an error"));
}

/// A whole release whose promotion was made from an approval too.
fn approved() -> Sample {
    let sample = Sample::new();
    sample.baseline();
    sample.preflight(sample.checks());
    sample.snapshot();
    let mut approval = support::json(&sample.file("preflight.json"));
    approval["schema"] = ApprovalBody::schema().into();
    approval["tool"]["name"] = "promote".into();
    approval["findings"] = Value::Array(vec![]);
    approval["approval"] = serde_json::json!({"epoch": 1, "role": "product_owner", "who": "olga"});
    let bytes = serde_json::to_vec_pretty(&approval).unwrap();
    std::fs::write(sample.file("approval.product_owner.2.json"), &bytes).unwrap();
    // One that the promotion was not made from has no say.
    std::fs::write(sample.file("approval.somebody.2.json"), b"nonsense").unwrap();
    sample.promote(End::Promoted);
    let need = Need {
        path: "approval.product_owner.2.json".into(),
        schema: ApprovalBody::schema(),
        sha256: sha256_hex(&bytes),
    };
    change(&sample, "promote.json", |d| {
        d["needs"].as_array_mut().unwrap().push(serde_json::to_value(&need).unwrap());
    });
    sample.verify(false);
    sample
}

#[test]
fn an_approval_is_a_document_of_the_chain() {
    let sample = approved();
    let ended = call("report", sample.folder.path(), &["check"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for link in
        ["approval.product_owner.2.json -> release.yaml", "promote.json -> approval.product_owner.2.json"]
    {
        assert!(ended.stdout.contains(link), "`{link}` is missing: {}", ended.stdout);
    }
    assert_eq!(sample.render().code, 0);
    let needs = support::json(&sample.file("report.json"))["needs"].to_string();
    assert!(needs.contains("approval.product_owner.2.json") && !needs.contains("somebody"), "{needs}");
    for page in ["report.html", "runbook.md"] {
        // Markdown has its underscores escaped.
        let text = sample.text(page).replace('\\', "");
        assert!(text.contains("approval.product_owner.2.json") && text.contains("not signed"), "{page}");
    }
}

#[test]
fn an_approval_that_is_gone_changed_or_of_another_release_is_refused() {
    let file = "approval.product_owner.2.json";
    let sample = approved();
    change(&sample, file, |d| d["approval"]["epoch"] = 2.into());
    refused(&sample, &["promote.json -> approval.product_owner.2.json", "is broken"]);
    let sample = approved();
    change(&sample, file, |d| d["release"]["version"] = "9.9.9".into());
    refused(&sample, &[file, "another release"]);
    let sample = approved();
    std::fs::remove_file(sample.file(file)).unwrap();
    refused(&sample, &["promote.json -> approval.product_owner.2.json", "not in the folder"]);
}

#[test]
fn the_pages_say_who_approved_and_how_long_and_by_which_command_it_can_be_undone() {
    let sample = approved();
    let file = "approval.product_owner.2.json";
    let sha256 = sha256_hex(&std::fs::read(sample.file(file)).unwrap());
    change(&sample, "promote.json", |d| {
        d["promotion"]["next_at"] = "2199-01-02T09:30:00Z".into();
        d["promotion"]["approvals"] = serde_json::json!([{"step": 2, "role": "product_owner", "who": "olga",
            "at": "2026-01-02T03:04:05Z", "reason": "figures are fine", "document": file, "sha256": sha256}]);
    });
    std::fs::remove_file(sample.file("verify.json")).unwrap();
    let ended = call("report", sample.folder.path(), &["--state", "s3://releases/shop"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for page in ["report.html", "runbook.md", "summary.md"] {
        let text = sample.text(page).replace('\\', "");
        for words in [
            "figures are fine",
            "product_owner",
            "2 Jan 2026, 03:04 UTC",
            "is kept until 2 Jan 2199, 09:30 UTC",
            "promote undo --plan release.yaml --environment production --state s3://releases/shop",
        ] {
            assert!(text.contains(words), "`{words}` is missing in {page}:\n{text}");
        }
    }
}

#[test]
fn the_pages_say_what_a_release_waits_for() {
    let sample = Sample::of(End::InProgress);
    change(&sample, "promote.json", |d| {
        d["promotion"]["waits_for"] = "step 3 waits for the approval of qa".into();
        d["promotion"]["next_at"] = "2026-01-02T09:30:00Z".into();
    });
    assert_eq!(sample.render().code, 0);
    for page in ["report.html", "runbook.md", "summary.md"] {
        let text = sample.text(page);
        for words in ["Step 3 waits for the approval of qa", "2 Jan 2026, 09:30 UTC"] {
            assert!(text.contains(words), "`{words}` is missing in {page}:\n{text}");
        }
    }
}

#[test]
fn the_pages_say_whom_a_weight_is_a_share_of() {
    let sample = Sample::of(End::Promoted);
    assert_eq!(sample.render().code, 0);
    for page in ["report.html", "runbook.md"] {
        assert!(sample.text(page).contains("users by cookie uid"), "{page}");
    }
}

#[test]
fn the_samples_behind_the_verdicts_are_a_link_that_may_be_absent_but_not_another() {
    let sample = Sample::of(End::Promoted);
    let check = || call("report", sample.folder.path(), &["check"]);
    let ended = check();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("promote.json -> promote.samples.jsonl.gz sha256 "), "{}", ended.stdout);
    // One byte of it.
    let path = sample.file("promote.samples.jsonl.gz");
    let bytes = std::fs::read(&path).unwrap();
    let mut other = bytes.clone();
    other[12] ^= 1;
    std::fs::write(&path, other).unwrap();
    let words = "the link promote.json -> promote.samples.jsonl.gz is broken";
    refused(&sample, &[words]);
    // Gone: everything else is proven, and it is said that nobody can judge again here.
    std::fs::remove_file(&path).unwrap();
    let ended = check();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("`promote replay` cannot reach them again here"), "{}", ended.stderr);
    let ended = sample.render();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report = support::json(&sample.file("report.json"));
    let finding = report["findings"].as_array().unwrap().iter().find(|f| f["name"] == "samples").unwrap();
    assert_eq!((&finding["verdict"], &finding["severity"]), (&"no_data".into(), &"warning".into()));
    // Outside of the folder there is nothing to prove.
    let sample = Sample::of(End::Promoted);
    change(&sample, "promote.json", |d| d["promotion"]["samples"]["file"] = "../release.yaml".into());
    std::fs::remove_file(sample.file("verify.json")).unwrap();
    refused(&sample, &["is not the name of a file in the evidence folder"]);
}

#[test]
fn the_pages_say_how_it_was_judged_and_how_to_do_it_again() {
    let sample = Sample::of(End::RolledBack);
    assert_eq!(sample.render().code, 0);
    let page = sample.text("report.html");
    for words in [
        "How green was compared with blue",
        "Mann-Whitney",
        "+512 ms",
        "+410 ms to +614 ms, 98 % confidence",
        "&lt; 0.000001",
        "promote.samples.jsonl.gz",
        "promote replay --plan release.yaml --environment production",
    ] {
        assert!(page.contains(words) || page.replace('\u{a0}', " ").contains(words), "`{words}` is missing");
    }
    let runbook = sample.text("runbook.md").replace('\\', "");
    for words in
        ["How it was judged", "2160 looks", "promote replay --plan release.yaml --environment production"]
    {
        assert!(
            runbook.replace(['\u{a0}', '\u{202f}'], " ").replace("2 160", "2160").contains(words),
            "`{words}` is missing:\n{runbook}"
        );
    }
}
