//! A fault of a tool itself: the document is written all the same, the exit code is one of the table, and the log
//! says where it was.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use trapkey::cli::{self, Shared};
use trapkey::evidence::{
    BaselineBody, Body, DrillBody, PreflightBody, PromoteBody, ReportBody, SnapshotBody, VerifyBody,
};
use trapkey::fault::Exit;

use crate::support::answering::{Answering, Reply};
use crate::support::{Ended, binary, folder, json, run};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
}

fn breaks<B: Body + Default>(tool: &'static str) {
    let folder = folder();
    let plan = folder.path().join("release.yaml");
    std::fs::write(&plan, "version: 1\nservice: shop\nrelease: {version: \"1.1\"}\n").unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let words = ["x", "-q", "--plan", &at("release.yaml"), "--evidence", &at("evidence")].map(str::to_owned);
    let Arguments { shared } = Arguments::parse_from(words);
    let fault = cli::gate::<B>(&shared, tool, |_| panic!("row {}", 7)).unwrap_err();
    assert_eq!(fault.exit, Exit::Infrastructure, "{fault}");
    let cause = fault.cause.unwrap();
    assert!(
        cause.starts_with("a fault of Trapkey itself at tests/breaks.rs:") && cause.ends_with(": row 7"),
        "{cause}"
    );
    let document = json(&folder.path().join("evidence").join(B::FILE));
    assert_eq!(document["verdict"], "error", "{document}");
    assert_eq!(document["findings"][0]["verdict"], "error");
    assert!(document["findings"][0]["message"].as_str().unwrap().contains("row 7"), "{document}");
}

#[test]
fn every_tool_that_breaks_leaves_its_document() {
    breaks::<PreflightBody>("preflight");
    breaks::<SnapshotBody>("snapshot");
    breaks::<DrillBody>("snapshot");
    breaks::<PromoteBody>("promote");
    breaks::<BaselineBody>("verify");
    breaks::<VerifyBody>("verify");
    breaks::<ReportBody>("report");
}

/// Runs a tool within so much memory; one that takes more ends by a signal.
fn within(mib: u64, tool: &str, folder: &Path, words: &[&str]) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {}; exec \"$0\" \"$@\"", mib * 1024)]);
    command.arg(binary(tool)).args(words).current_dir(folder).env_clear();
    run(&mut command)
}

/// Just below what is read of a document.
const MOST: usize = 59 * 1024 * 1024;

/// A list of so many values; two bytes of text each.
fn zeros(bytes: usize) -> String {
    format!("[{}0]", "0,".repeat(bytes / 2))
}

#[test]
fn a_document_takes_no_memory_before_it_is_believed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("release.yaml"), "version: 1\nservice: shop\nrelease: {version: \"1.1\"}\npreflight:\n  checks:\n    - {name: a, kind: command, target: [\"true\"]}\n").unwrap();
    std::fs::create_dir_all(at("trust")).unwrap();
    let made = run(Command::new("sh")
        .args([
            "-c",
            "openssl genpkey -algorithm ed25519 -out key && openssl pkey -in key -pubout -out trust/k.pem",
        ])
        .current_dir(folder.path()));
    assert_eq!(made.code, 0, "{made:?}");
    let signed = ["--sign-key", "key"];
    assert_eq!(within(4096, "preflight", folder.path(), &signed).code, 0);
    let good = std::fs::read_to_string(at("evidence/preflight.json")).unwrap();
    assert_ne!(within(4096, "report", folder.path(), &["--trust", "trust"]).code, 4);
    let more = |key: &str, value: &str| good.replacen('{', &format!("{{\"{key}\": {value},"), 1);
    let objects = |text: &str| format!("[{}{{}}]", text.repeat(MOST / text.len()));
    for (what, text, words) in [
        ("a list", zeros(MOST), "is not a document"),
        ("a list in the document", more("more", &zeros(MOST)), "1000000 values"),
        (
            "a list as the signature",
            good.replacen("\"signature\": {", &format!("\"signature\": {},\"x\": {{", zeros(MOST)), 1),
            "its signature is none",
        ),
        ("a list as the schema", format!("{{\"schema\": {}}}", zeros(MOST)), "is not a document"),
        ("many objects", more("more", &objects("{\"a\":{}},")), "1000000 values"),
        ("many lists", more("more", &format!("[{}[]]", "[],".repeat(MOST / 3))), "1000000 values"),
        ("many findings", more("findings", &objects("{},")), "1000000 values"),
        ("a long text", more("summary", &format!("\"{}\"", "x".repeat(MOST))), "document"),
        ("deep lists", "[".repeat(MOST), "is not a document"),
        ("deep lists in it", more("more", &"[".repeat(MOST)), "is not a document"),
        ("deep objects in it", more("more", &"{\"a\":".repeat(MOST / 5)), "is not a document"),
    ] {
        std::fs::write(at("evidence/preflight.json"), &text).unwrap();
        // Where somebody is trusted the bytes are hashed before they are read: once is as good as eleven times.
        for trusted in
            [true, false].into_iter().filter(|trusted| !trusted || what == "a list in the document")
        {
            let flags: &[&str] = if trusted { &["--trust", "trust"] } else { &[] };
            let ended = within(512, "report", folder.path(), flags);
            let told = format!("{what}, trusted {trusted}: {} {}", ended.code, ended.stderr);
            assert_eq!(ended.code, 5, "{told}");
            // Where somebody is trusted, the bytes are looked at first.
            assert!(ended.stderr.contains(words) || (trusted && ended.stderr.contains("sign")), "{told}");
        }
    }
}

#[test]
fn an_answer_of_the_monitoring_takes_no_memory_beyond_what_it_may_say() {
    let value = "[60,\"1\"],";
    let series = format!(
        "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{{\"metric\":{{}},\"values\":[{}[70,\"1\"]]}}]}}}}",
        value.repeat(15 * 1024 * 1024 / value.len())
    );
    let many = "{\"metric\":{\"a\":\"b\"},\"values\":[]},";
    let many = format!(
        "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{}{{}}]}}}}",
        many.repeat(15 * 1024 * 1024 / many.len())
    );
    for (what, status, body, words) in [
        ("too long", 200, zeros(62 * 1024 * 1024), "an answer of more than 16 MiB"),
        ("too many", 200, zeros(15 * 1024 * 1024), "more than 500000 values"),
        ("a series", 200, series, "more than 500000 values"),
        ("many series", 200, many, "more than 500000 values"),
        ("an error", 500, zeros(15 * 1024 * 1024), "status 500"),
        ("an error in words", 500, format!("{{\"error\": {}}}", zeros(15 * 1024 * 1024)), "status 500"),
        ("deep", 200, "[".repeat(15 * 1024 * 1024), "not understood"),
    ] {
        let reply = Reply::Says(status, "application/json", body);
        let service = Answering::start(move |_| reply.clone());
        let folder = folder();
        let plan = format!(
            "version: 1\nservice: shop\nrelease: {{version: \"1.1\"}}\nverify:\n  metrics:\n    - {{name: m, kind: prometheus, target: \"{}\", retries: 0, timeout: 5m, with: {{query: up}}, expect: {{mean: \">= 0\"}}}}\n",
            service.url()
        );
        std::fs::write(folder.path().join("release.yaml"), plan).unwrap();
        let ended = within(512, "verify", folder.path(), &[]);
        let document = json(&folder.path().join("evidence/verify.json"));
        let message = document["findings"][0]["message"].as_str().unwrap().to_owned();
        assert_eq!((ended.code, document["verdict"].as_str()), (4, Some("error")), "{what}: {ended:?}");
        assert!(message.contains(words), "{what}: {message}");
    }
}
