//! Hostile texts: what a check's name or message may hold must stay text in every output.

use std::path::Path;
use std::process::Command;

use trapkey::evidence::*;

use super::samples::{End, Sample};
use crate::support;

/// Runs a real XML parser over the file; Debian has it in `libxml2-utils`.
pub(crate) fn xml_is_well_formed(path: &Path) {
    let ended = support::run(Command::new("xmllint").args(["--noout", "--huge"]).arg(path));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

fn xpath(path: &Path, query: &str) -> String {
    let ended = support::run(Command::new("xmllint").args(["--huge", "--xpath", query]).arg(path));
    assert_eq!(ended.code, 0, "{query}: {}", ended.stderr);
    ended.stdout.trim_end_matches('\n').to_owned()
}

/// No scripts, nothing loaded from elsewhere, every picture described, every element closed.
pub(crate) fn html_is_well_made(page: &str) {
    let lower = page.to_lowercase();
    for bad in ["<script", "<iframe", "<object", "<embed", "<img", "<base", "<form", "@import"] {
        assert!(!lower.contains(bad), "{bad}");
    }
    assert!(!lower.split("</style>").next().unwrap().contains("url("));
    for piece in lower.split("<link").skip(1) {
        assert!(piece.starts_with(" rel=\"stylesheet\" href=\"report.css\">"), "{}", &piece[..60]);
    }
    for svg in page.split("<svg").skip(1) {
        let head = svg.split_once("</title>").unwrap().0;
        assert!(head.contains("role=\"img\"") && head.contains("<title id=\""), "{head}");
        assert!(head.rsplit_once('>').unwrap().1.len() > 20, "a title says something");
    }
    balanced(page);
}

/// Every element that is opened is closed in order.
fn balanced(page: &str) {
    const VOID: &[&str] = &["meta", "link", "br", "hr", "img", "input"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').expect("a tag ends");
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if tag.starts_with('!') || tag.ends_with('/') {
            continue;
        }
        attributes_are_harmless(tag);
        let name: String =
            tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        assert!(!name.is_empty(), "a bare `<` before {tag:?}");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "closed out of order");
        } else if !VOID.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

/// No handler, no style, nothing that loads, and links only to the web.
fn attributes_are_harmless(tag: &str) {
    let outside: String = tag.split('"').step_by(2).collect::<Vec<_>>().join("\"\"").to_lowercase();
    for bad in [" on", " style=", " src=", " srcdoc=", " action=", "xlink:", "'"] {
        assert!(!outside.contains(bad), "{bad} in <{tag}>");
    }
    if let Some((_, link)) = tag.split_once("href=\"") {
        let fine = ["http://", "https://", "report.css\""].iter().any(|start| link.starts_with(start));
        assert!(fine, "{tag}");
    }
}

fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n",
        "</title><script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='x",
        "{{ 7*7 }}{% raw %}",
        "a ]]> b ]]]]>> c",
        "<![CDATA[x]]>",
        "&amp;&#0;&#x1F;&bogus;",
        "<!-- -- -->",
        "<?xml version=\"1.0\"?>",
        "\u{fffe}\u{ffff}\u{fffd}\u{10ffff}\u{1ffff}",
        "\u{1b}[31;1mred\u{1b}[0m\u{1b}]8;;http://x\u{7}l",
        "\u{202e}live",
        "\u{feff}bom",
        "| a | b |\n| --- | --- |",
        "`code` ``` fence",
        "@everyone @acme/team",
        "::error file=x::boom",
        "%0A::set-output",
        "[x](javascript:alert(1))",
        "![x](https://evil.example/x.png)",
        "https://evil.example www.evil.example",
        "# heading",
        "---",
        "1. list",
        "$(rm -rf /) ${HOME} `id`",
        "a\r\nb\rc\td",
        "\u{85}\u{2028}\u{2029}",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧 e\u{301}",
        "</style></svg></text>",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    texts.push((0_u8..32).map(char::from).chain(['\u{7f}', '\u{80}', '\u{9f}']).collect());
    texts.push("x<&\"'>]]>".repeat(110_000));
    texts
}

fn hostile_sample() -> Sample {
    let sample = Sample::new();
    let verdicts = [Verdict::Fail, Verdict::Error, Verdict::Skipped, Verdict::NoData, Verdict::Pass];
    let findings = hostile()
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let mut finding =
                Finding::new(text, text, verdicts[at % verdicts.len()], sample.at(1.0)).says(text);
            finding.observed = Some(text.clone());
            finding.expected = Some(text.clone());
            finding.baseline = Some(text.clone());
            finding.controls = vec![text.clone()];
            finding.duration_ms = 1e300;
            finding
        })
        .collect();
    sample.preflight(findings);
    sample
}

#[test]
fn hostile_texts_stay_texts_in_every_output() {
    let sample = hostile_sample();
    let ended = sample.render();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    html_is_well_made(&sample.text("report.html"));
    assert!(!sample.text("report.html").contains("49{%"), "values are not templates");
    for file in ["summary.md", "runbook.md"] {
        // What follows a backslash is text in Markdown.
        let text = sample.text(file).replace("\\]", "").replace("\\!", "");
        for bad in [
            "<script",
            "<img",
            "::error",
            "@everyone",
            "](javascript",
            "![x]",
            "https://evil",
            "\u{1b}",
            "\u{202e}",
        ] {
            assert!(!text.contains(bad), "{file}: {bad}");
        }
        assert!(!text.lines().any(|l| l.starts_with("::") || l == "---"), "{file}");
        for row in text.lines().filter(|l| l.starts_with("| ") && l.contains("pass |")) {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{file}: {row}");
        }
    }
}

#[test]
fn junit_of_hostile_texts_is_xml_that_says_the_same() {
    let sample = hostile_sample();
    assert_eq!(sample.render().code, 0);
    let path = sample.file("junit.xml");
    xml_is_well_formed(&path);
    let count = hostile().len() + 1;
    assert_eq!(xpath(&path, "count(//testcase)"), count.to_string());
    assert_eq!(xpath(&path, "count(/testsuites/testsuite)"), "1");
    assert_eq!(sample.text("junit.xml").matches("<testcase ").count(), count);
    assert_eq!(
        xpath(
            &path,
            "count(//testcase[not(@name) or @name='' or not(@classname) or not(@file='release.yaml')])"
        ),
        "0"
    );
    for (what, attribute) in [
        ("count(//failure)", "failures"),
        ("count(//error)", "errors"),
        ("count(//skipped)", "skipped"),
        ("count(//testcase)", "tests"),
    ] {
        assert_eq!(
            xpath(&path, what),
            xpath(&path, &format!("string(//testsuite/@{attribute})")),
            "{attribute}"
        );
    }
    // The text of the body is the message, but for line breaks.
    let body = xpath(&path, "string(//testcase[@name='a ]]> b ]]]]>> c']/*)");
    assert!(body.starts_with("a ]]> b ]]]]>> c\nobserved a ]]> b"), "{body}");
    let message = xpath(&path, "string(//testcase[@name='a ]]> b ]]]]>> c']/*/@message)");
    assert_eq!(body.split_whitespace().collect::<Vec<_>>(), message.split_whitespace().collect::<Vec<_>>());
    assert!(sample.text("junit.xml").len() < 2_000_000);
}

/// The profile that Jenkins, GitLab and the GitHub actions read alike.
const PROFILE: &str = r#"<?xml version="1.0"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
<xs:simpleType name="name"><xs:restriction base="xs:string"><xs:minLength value="1"/></xs:restriction></xs:simpleType>
<xs:simpleType name="seconds"><xs:restriction base="xs:decimal"><xs:minInclusive value="0"/><xs:fractionDigits value="3"/></xs:restriction></xs:simpleType>
<xs:complexType name="said"><xs:simpleContent><xs:extension base="name"><xs:attribute name="type" type="name" use="required"/><xs:attribute name="message" type="name" use="required"/></xs:extension></xs:simpleContent></xs:complexType>
<xs:element name="testsuites"><xs:complexType><xs:sequence>
<xs:element name="testsuite"><xs:complexType><xs:sequence>
<xs:element name="testcase" maxOccurs="unbounded"><xs:complexType><xs:sequence>
<xs:choice minOccurs="0"><xs:element name="failure" type="said"/><xs:element name="error" type="said"/><xs:element name="skipped" type="said"/></xs:choice>
<xs:element name="system-out" type="xs:string" minOccurs="0"/>
</xs:sequence><xs:attribute name="name" type="name" use="required"/><xs:attribute name="classname" type="name" use="required"/><xs:attribute name="file" type="name" use="required"/><xs:attribute name="time" type="seconds" use="required"/></xs:complexType></xs:element>
</xs:sequence>
<xs:attribute name="id" type="xs:integer"/><xs:attribute name="name" type="name" use="required"/><xs:attribute name="package" type="xs:string"/><xs:attribute name="hostname" type="name"/><xs:attribute name="timestamp" type="xs:dateTime" use="required"/><xs:attribute name="time" type="seconds" use="required"/>
<xs:attribute name="tests" type="xs:positiveInteger" use="required"/><xs:attribute name="failures" type="xs:nonNegativeInteger" use="required"/><xs:attribute name="errors" type="xs:nonNegativeInteger" use="required"/><xs:attribute name="skipped" type="xs:nonNegativeInteger" use="required"/>
</xs:complexType><xs:unique name="case"><xs:selector xpath="testcase"/><xs:field xpath="@classname"/><xs:field xpath="@name"/></xs:unique></xs:element>
</xs:sequence></xs:complexType></xs:element>
</xs:schema>"#;

#[test]
fn junit_fits_the_profile_for_every_outcome_and_for_hostile_texts() {
    let mut samples: Vec<Sample> = super::samples::ENDS.iter().map(|(end, _)| Sample::of(*end)).collect();
    samples.push(hostile_sample());
    for sample in samples {
        assert_eq!(sample.render().code, 0);
        let schema = sample.folder.path().join("profile.xsd");
        std::fs::write(&schema, PROFILE).unwrap();
        let mut command = Command::new("xmllint");
        command.args(["--noout", "--huge", "--schema"]).arg(&schema).arg(sample.file("junit.xml"));
        let ended = support::run(&mut command);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
}

#[test]
fn hostile_texts_of_a_promotion_stay_texts() {
    for evil in hostile().iter().filter(|t| t.len() < 1000) {
        let sample = Sample::new();
        sample.preflight(sample.checks());
        sample.snapshot();
        sample.promote(End::RolledBack);
        let mut document: Document<PromoteBody> =
            serde_json::from_value(support::json(&sample.file("promote.json"))).unwrap();
        let promotion = document.body.promotion.as_mut().unwrap();
        promotion.reason = Some(evil.clone());
        promotion.blue.version = Some(evil.clone());
        promotion.router.by_hand.push(evil.clone());
        promotion.decisions[0].who.clone_from(evil);
        promotion.decisions[0].what.clone_from(evil);
        promotion.hooks[0].output.clone_from(evil);
        promotion.hooks[0].command.clone_from(evil);
        promotion.judgements[0].metrics[0].threshold.clone_from(evil);
        promotion.series.iter_mut().for_each(|i| i.source.clone_from(evil));
        std::fs::write(sample.file("promote.json"), to_bytes(&document, None).unwrap()).unwrap();
        let ended = support::call("report", sample.folder.path(), &["--quiet"]);
        assert_eq!(ended.code, 0, "{evil:?}: {}", ended.stderr);
        html_is_well_made(&sample.text("report.html"));
        xml_is_well_formed(&sample.file("junit.xml"));
    }
}

#[test]
fn a_router_without_users_does_not_turn_a_promoted_release_red() {
    let sample = Sample::of(End::Promoted);
    let mut document = support::json(&sample.file("promote.json"));
    for judgement in document["promotion"]["judgements"].as_array_mut().unwrap() {
        let mut silent = judgement["metrics"][0].clone();
        silent["source"] = "haproxy".into();
        silent["verdict"] = "no_data".into();
        silent["message"] = "no requests were seen on green".into();
        judgement["metrics"].as_array_mut().unwrap().push(silent);
    }
    std::fs::write(sample.file("promote.json"), document.to_string()).unwrap();
    // It named the promotion as it was before.
    std::fs::remove_file(sample.file("verify.json")).unwrap();
    let ended = sample.render();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let junit = sample.file("junit.xml");
    assert_eq!(xpath(&junit, "count(//testcase[@classname='promote.haproxy']/skipped)"), "1");
    assert_eq!(xpath(&junit, "count(//testcase[@classname='promote.haproxy']/failure)"), "0");
}
