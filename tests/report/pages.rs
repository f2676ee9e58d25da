//! What is rendered: every outcome, the limits, the templates, the outputs of the step.

use std::fmt::Write as _;

use trapkey::evidence::*;

use super::samples::{ENDS, End, Sample};
use super::texts::{html_is_well_made, xml_is_well_formed};
use crate::support;

#[test]
fn every_outcome_is_rendered_with_its_own_opening() {
    for (end, outcome) in ENDS {
        let sample = Sample::of(*end);
        let ended = sample.render();
        assert_eq!(ended.code, 0, "{end:?}: {}", ended.stderr);
        let report = support::json(&sample.file("report.json"));
        assert_eq!(report["outcome"], *outcome);
        assert_eq!(report["verdict"], "pass");
        let outputs = report["outputs"].as_array().unwrap();
        assert_eq!(outputs.len(), 5);
        for output in outputs {
            let bytes = std::fs::read(sample.file(output["path"].as_str().unwrap())).unwrap();
            assert_eq!(output["sha256"], sha256_hex(&bytes));
            assert_eq!(output["bytes"], bytes.len());
        }
        let (opening, absent) = match end {
            End::Promoted => ("shop 1.4.2 serves all of production", "was rolled back"),
            End::RolledBack => (
                "shop 1.4.2 was rolled back; blue 1.4.1 serves all of production again",
                "serves all of production<",
            ),
            End::Stopped => {
                ("shop 1.4.2 was not released to production: preflight kept its gate closed", "<svg")
            }
            End::InProgress => ("shop 1.4.2 has 25 % of production", "After the release"),
            End::Frozen => {
                ("shop 1.4.2 stands still at 25 % of production until somebody decides", "After the release")
            }
        };
        for file in ["report.html", "runbook.md", "summary.md"] {
            assert!(sample.text(file).contains(opening), "{end:?} {file}");
        }
        let page = sample.text("report.html");
        assert!(!page.contains(absent), "{end:?}: {absent}");
        html_is_well_made(&page);
        assert!(page.len() < 150 * 1024, "{end:?}: {} bytes", page.len());
        xml_is_well_formed(&sample.file("junit.xml"));
        let green = matches!(end, End::Promoted | End::InProgress);
        let junit = sample.text("junit.xml");
        assert_eq!(junit.contains(" failures=\"0\"") && junit.contains(" errors=\"0\""), green, "{end:?}");
    }
}

#[test]
fn what_went_wrong_stands_first_and_in_red() {
    for (end, reason, class) in [
        (End::RolledBack, "Error rate on green 7.5\u{a0}%", "top fail"),
        (End::Stopped, "certificate: 6 days, TLS 1.3, expected ≥", "top fail"),
        (End::Frozen, "Both sides fail their probes", "top warn"),
    ] {
        let sample = Sample::of(end);
        assert_eq!(sample.render().code, 0);
        let page = sample.text("report.html");
        let (first, headline) = (page.find(reason).unwrap(), page.find("class=\"outcome\"").unwrap());
        assert!(first < headline, "{end:?}");
        assert!(page.contains(&format!("<header class=\"{class}\"")), "{end:?}");
    }
}

#[test]
fn a_promoted_release_that_fails_verify_does_not_look_well() {
    let sample = Sample::of(End::Promoted);
    let mut verify: Document<VerifyBody> =
        serde_json::from_value(support::json(&sample.file("verify.json"))).unwrap();
    verify.head.findings[0].verdict = Verdict::Fail;
    verify.head.verdict = DocumentVerdict::Fail;
    verify.head.summary = "2 of 3 checks passed, 1 critical did not".into();
    std::fs::write(sample.file("verify.json"), to_bytes(&verify, None).unwrap()).unwrap();
    assert_eq!(sample.render().code, 0);
    let page = sample.text("report.html");
    assert!(page.contains("Verify says fail: 2 of 3 checks passed"));
    assert!(page.contains("✗ Promoted, not verified"));
    assert!(!page.contains("✓ Promoted"));
    assert!(sample.text("junit.xml").contains("failures=\"2\""));
}

#[test]
fn the_runbook_has_the_exact_commands_the_scenarios_and_the_contacts() {
    let sample = Sample::of(End::InProgress);
    assert_eq!(sample.render().code, 0);
    for file in ["runbook.md", "summary.md"] {
        let text = sample.text(file);
        assert!(
            text.contains("```sh\npromote abort --plan release.yaml --environment production\n```"),
            "{text}"
        );
        assert!(
            text.contains("\necho 'set server shop/green weight 0' | socat stdio /run/haproxy/admin.sock\n")
        );
    }
    let text = sample.text("runbook.md");
    let snapshot = support::json(&sample.file("snapshot.json"));
    assert!(text.contains(snapshot["snapshot"]["restore_command"].as_str().unwrap()));
    assert!(text.contains(
        "### Orders fail although the error rate is fine\n\n1. Stop the release with `promote abort`\n2. "
    ));
    assert!(text.contains("| Database | dba&#64;shop.example.com |"));
}

#[test]
fn sections_without_data_are_left_out() {
    let sample = Sample::new();
    sample.baseline();
    assert_eq!(sample.render().code, 0);
    let page = sample.text("report.html");
    for absent in
        ["<svg", "How to go back", "Before and now", "Who decided", "Hooks", "What was asked", "NaN", "None"]
    {
        assert!(!page.contains(absent), "{absent}");
    }
    assert!(!sample.text("runbook.md").contains("How to go back"));
    // Jenkins drops an empty suite and fails a build without any.
    assert!(sample.text("junit.xml").contains("tests=\"1\""));
}

#[test]
fn two_thousand_failing_checks_stay_within_every_limit() {
    let sample = Sample::new();
    let findings: Vec<_> = (0..2000)
        .map(|i| {
            let mut finding = sample.finding("the same name", "http", &"x".repeat(700), "200");
            if i % 2 == 0 {
                finding.verdict = Verdict::Fail;
            }
            finding
        })
        .collect();
    sample.preflight(findings);
    assert_eq!(sample.render().code, 0);
    let summary = sample.text("summary.md");
    assert!(summary.len() <= 1_000_000, "{}", summary.len());
    assert!(summary.contains("The list was shortened") && summary.contains("the same name"), "failed only");
    assert!(!summary.contains("✓ pass |"));
    html_is_well_made(&sample.text("report.html"));
    let junit = sample.text("junit.xml");
    assert!(
        junit.len() < 30_000_000 && junit.contains("tests=\"2001\"") && junit.contains("failures=\"1001\"")
    );
    assert!(junit.contains("name=\"the same name (2000)\""), "class and name are unique");
    xml_is_well_formed(&sample.file("junit.xml"));
}

#[test]
fn a_summary_falls_back_to_counts_and_never_exceeds_a_mebibyte() {
    let sample = Sample::new();
    let findings: Vec<_> = (0..4000)
        .map(|i| {
            let mut finding = sample.finding(&format!("check {i}"), "http", &"ä|".repeat(400), "200");
            finding.verdict = Verdict::Fail;
            finding
        })
        .collect();
    sample.preflight(findings);
    assert_eq!(sample.render().code, 0);
    let summary = sample.text("summary.md");
    assert!(summary.len() < 10_000, "{}", summary.len());
    assert!(summary.contains("0 of 4000 passed"));
}

#[test]
fn the_step_gets_its_outputs_and_its_summary() {
    let sample = Sample::of(End::RolledBack);
    let (outputs, summary) = (sample.folder.path().join("out"), sample.folder.path().join("step.md"));
    let ended = support::run(
        support::tool("report", sample.folder.path())
            .env("GITHUB_OUTPUT", &outputs)
            .env("GITHUB_STEP_SUMMARY", &summary)
            .env("GITHUB_ACTIONS", "true"),
    );
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let outputs = std::fs::read_to_string(outputs).unwrap();
    for line in [
        "verdict=pass",
        "evidence=evidence/report.json",
        "outcome=rolled_back",
        "report=evidence/report.html",
    ] {
        assert!(outputs.lines().any(|l| l == line), "{line}: {outputs}");
    }
    assert!(outputs.contains("summary=shop 1.4.2 was rolled back"));
    assert_eq!(std::fs::read_to_string(summary).unwrap(), sample.text("summary.md"));
}

#[test]
fn json_hands_over_the_document_and_quiet_says_nothing() {
    let sample = Sample::of(End::Promoted);
    let ended = support::call("report", sample.folder.path(), &["--json", "--quiet"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document, support::json(&sample.file("report.json")));
    assert_eq!(document["needs"].as_array().unwrap().len(), 5);
}

#[test]
fn the_same_evidence_gives_the_same_files() {
    let sample = Sample::of(End::Promoted);
    assert_eq!(sample.render().code, 0);
    let (css, junit) = (sample.text("report.css"), sample.text("junit.xml"));
    assert_eq!(sample.render().code, 0);
    assert_eq!((css, junit), (sample.text("report.css"), sample.text("junit.xml")));
}

fn with_template(sample: &Sample, name: &str, text: &str) -> support::Ended {
    let folder = sample.folder.path().join("mine");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    support::call("report", sample.folder.path(), &["--templates", "mine", "--color", "never"])
}

#[test]
fn a_template_of_the_users_own_replaces_ours_and_is_escaped_too() {
    let sample = Sample::new();
    let mut finding = sample.finding("<script>alert(1)</script>", "http", "|", "x");
    finding.verdict = Verdict::Fail;
    sample.preflight(vec![finding]);
    let ended =
        with_template(&sample, "report.html", "<p>{{ release.service }}: {{ gates[0].rows[0].name }}</p>");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(sample.text("report.html"), "<p>shop: &lt;script&gt;alert(1)&lt;/script&gt;</p>");
    assert!(sample.text("runbook.md").starts_with("# Runbook"));
}

#[test]
fn a_broken_template_is_a_usage_error_with_file_and_line_and_writes_no_page() {
    for (name, text, line) in [
        ("report.html", "<p>\n{{ release.service }\n</p>", "mine/report.html:2"),
        ("runbook.md", "a\nb\n{{ opening.hedline }}", "mine/runbook.md:3"),
        ("summary.md", "{% for x in %}", "mine/summary.md:1"),
    ] {
        let sample = Sample::of(End::Promoted);
        let ended = with_template(&sample, name, text);
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(line), "{line}: {}", ended.stderr);
        assert!(!sample.file("report.html").exists());
        assert!(sample.file("report.refused.json").exists());
    }
}

#[test]
fn an_unknown_template_is_a_warning_and_a_missing_folder_an_error() {
    let sample = Sample::of(End::Promoted);
    let ended = with_template(&sample, "reprot.html", "x");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report = sample.text("report.json");
    assert!(report.contains("the template `reprot.html` is not known") && report.contains("\"warning\""));
    assert!(ended.stderr.contains("reprot.html"), "{}", ended.stderr);
    let ended = support::call("report", sample.folder.path(), &["--templates", "nowhere"]);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
}

#[test]
fn wrong_flags_and_a_missing_plan_are_usage_errors() {
    let sample = Sample::of(End::Promoted);
    for arguments in
        [&["--frobnicate"][..], &["--plan", "nowhere.yaml"], &["check", "--plan", "nowhere.yaml"]]
    {
        assert_eq!(support::call("report", sample.folder.path(), arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_infrastructure() {
    let sample = Sample::of(End::Promoted);
    std::fs::create_dir(sample.file("report.html")).unwrap();
    let ended = sample_call(&sample);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("report.html"), "{}", ended.stderr);
}

fn sample_call(sample: &Sample) -> support::Ended {
    support::call("report", sample.folder.path(), &[])
}

#[test]
fn secrets_are_hidden_in_every_output() {
    let sample = Sample::new();
    let plan = std::fs::read_to_string(sample.folder.path().join("release.yaml")).unwrap();
    let plan = plan.replace("dba@shop.example.com", "\"${PAGER_TOKEN}\"");
    let mut finding = sample.finding("a", "http", "sent hunter2&<hunter2", "x");
    finding.verdict = Verdict::Fail;
    finding.message = "postgres://shop:pa55word@db/x refused password=geheim1".into();
    sample.preflight(vec![finding]);
    // As a document of a tool that did not redact would be.
    let mut document = support::json(&sample.file("preflight.json"));
    document["findings"][0]["message"] = "postgres://shop:pa55word@db/x refused password=geheim1".into();
    document["plan"]["sha256"] = sha256_hex(plan.as_bytes()).into();
    std::fs::write(sample.folder.path().join("release.yaml"), plan).unwrap();
    std::fs::write(sample.file("preflight.json"), serde_json::to_vec(&document).unwrap()).unwrap();
    let ended = support::run(support::tool("report", sample.folder.path()).env("PAGER_TOKEN", "hunter2"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mut all = ended.stderr.clone();
    for file in ["report.html", "runbook.md", "junit.xml", "summary.md", "report.json"] {
        let _ = write!(all, "{}", sample.text(file));
    }
    for secret in ["pa55word", "geheim1", "hunter2"] {
        assert!(!all.contains(secret), "{secret} leaked");
    }
    assert!(all.contains("***"));
}
