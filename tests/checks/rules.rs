//! What holds for all kinds alike: needs, retries, time limits, order, and errors with their place.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use trapkey::checks;
use trapkey::evidence::{DocumentVerdict, Finding, Verdict, verdict_of};
use trapkey::fault::{Exit, Fault};
use trapkey::plan::Loaded;

use super::connections::look;
use super::servers::{http, silent};
use crate::support::{folder, wait_until};

pub(crate) fn run_all(checks_yaml: &str, parallel: usize) -> Result<Vec<Finding>, Fault> {
    let folder = folder();
    let path = folder.path().join("release.yaml");
    let plan =
        format!("version: 1\nservice: shop\nrelease: {{version: 1.0}}\npreflight:\n  checks:\n{checks_yaml}");
    std::fs::write(&path, plan).unwrap();
    let loaded = Loaded::read(&path, BTreeMap::new())?;
    let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded)?;
    let told = Mutex::new(0);
    let findings = checks::run(&prepared, parallel, &|_| *told.lock().unwrap() += 1);
    assert_eq!(*told.lock().unwrap(), findings.len(), "each is told of once");
    Ok(findings)
}

#[test]
fn a_check_whose_need_failed_is_skipped_and_does_not_open_the_gate() {
    let findings = run_all(
        "    - {name: last, kind: command, target: [\"true\"], needs: [middle]}\n    \
         - {name: middle, kind: command, target: [\"true\"], needs: [first]}\n    \
         - {name: first, kind: command, target: [\"false\"], severity: warning}\n",
        4,
    )
    .unwrap();
    let verdicts: Vec<_> = findings.iter().map(|f| (f.name.as_str(), f.verdict)).collect();
    assert_eq!(
        verdicts,
        [("last", Verdict::Skipped), ("middle", Verdict::Skipped), ("first", Verdict::Fail)]
    );
    assert!(findings[0].message.contains("it needs `middle`"), "{}", findings[0].message);
    assert_eq!(findings[0].attempts, 0);
    assert_eq!(verdict_of(&findings), DocumentVerdict::Undecided);
}

#[test]
fn a_late_pass_is_flaky_and_every_attempt_is_on_record() {
    let asked = AtomicU32::new(0);
    let server = http(move |_| {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        (if number < 2 { 500 } else { 200 }, Vec::new(), String::new())
    });
    let findings = run_all(
        &format!(
            "    - {{name: it, kind: http, target: \"http://127.0.0.1:{}/\", retries: 3, retry_delay: 10ms, timeout: 1m}}\n",
            server.port
        ),
        1,
    )
    .unwrap();
    let finding = &findings[0];
    assert_eq!((finding.verdict, finding.attempts, finding.flaky), (Verdict::Pass, 3, true));
    let attempts = finding.evidence["attempts"].as_array().unwrap();
    let verdicts: Vec<_> = attempts.iter().map(|a| a["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["fail", "fail", "pass"]);
    assert!(attempts[0]["message"].as_str().unwrap().contains("status is 500"));
    // 10 ms and then 20 ms of pause.
    assert!(finding.duration_ms >= 30.0, "{}", finding.duration_ms);
}

#[test]
fn a_pipe_is_no_file_and_who_does_not_answer_is_left_when_the_time_is_over() {
    let server = silent();
    // Opening it without a writer would block for ever.
    let findings = {
        let folder = folder();
        let fifo = folder.path().join("eval.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        run_all(
            &format!(
                "    - {{name: fifo, kind: metrics_file, target: \"{}\", expect: {{a: 1}}, timeout: 200ms, retries: 1, retry_delay: 1ms}}\n    \
                 - {{name: http, kind: http, target: \"http://127.0.0.1:{}/\", timeout: 200ms}}\n",
                fifo.display(),
                server.port
            ),
            4,
        )
        .unwrap()
    };
    assert_eq!((findings[0].verdict, findings[0].attempts), (Verdict::Error, 1));
    assert!(findings[0].message.contains("it is a pipe, not a regular file"), "{}", findings[0].message);
    assert_eq!(findings[1].verdict, Verdict::Fail);
}

#[test]
fn checks_run_side_by_side_but_no_more_than_allowed() {
    static NOW: AtomicU32 = AtomicU32::new(0);
    static MOST: AtomicU32 = AtomicU32::new(0);
    let server = http(|_| {
        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // The first ones wait for each other; a fourth one would have the time to come, too.
        wait_until("three at once", || MOST.load(Ordering::SeqCst) >= 3);
        std::thread::sleep(Duration::from_millis(50));
        NOW.fetch_sub(1, Ordering::SeqCst);
        (200, Vec::new(), String::new())
    });
    let plan: String = (0..9)
        .map(|n| {
            format!(
                "    - {{name: c{n}, kind: http, target: \"http://127.0.0.1:{}/\", timeout: 5m}}\n",
                server.port
            )
        })
        .collect();
    let findings = run_all(&plan, 3).unwrap();
    assert!(findings.iter().all(|f| f.verdict == Verdict::Pass));
    let names: Vec<_> = findings.iter().map(|f| f.name.clone()).collect();
    assert_eq!(names, (0..9).map(|n| format!("c{n}")).collect::<Vec<_>>(), "in the plan's order");
    assert_eq!(MOST.load(Ordering::SeqCst), 3);
}

#[test]
fn what_is_wrong_with_a_plan_is_told_with_its_place_before_anything_runs() {
    let cases = [
        ("{name: a, kind: htpt, target: x}", "did you mean `http`?", "htpt"),
        ("{name: a, kind: file, target: x, expect: {sise: 1}}", "did you mean `size`?", "sise"),
        ("{name: a, kind: file, target: x, expect: {size: soon}}", "is not a size", "size: soon"),
        ("{name: a, kind: file, target: x, expect: {size: \"~ (\"}}", "regular expression", "\"~ ("),
        ("{name: a, kind: file}", "needs a `target`", "file}"),
        ("{name: a, kind: file, target: [x, y]}", "must be one text", "[x, y]"),
        (
            "{name: a, kind: http, target: \"http://x\", with: {metod: GET}}",
            "did you mean `method`?",
            "metod",
        ),
        ("{name: a, kind: http, target: \"http://x\", with: {redirects: many}}", "a whole number", "many"),
        ("{name: a, kind: file, target: x, needs: [b]}", "unknown check in `needs`: `b`", "[b]"),
        ("{name: a, kind: file, target: x, needs: [a]}", "needs itself", "[a]"),
        ("{name: a, kind: file, target: x, timeout: 0s}", "leaves no time", "0s"),
        ("{name: a, kind: file, target: \"\"}", "`target` is empty", "\"\""),
    ];
    for (check, words, under_caret) in cases {
        // Six characters stand before the check: the indent and the dash.
        let place = format!("release.yaml:6:{}\n", check.find(under_caret).unwrap() + 7);
        let fault = run_all(&format!("    - {check}\n"), 1).unwrap_err();
        let text = fault.to_string();
        assert_eq!(fault.exit, Exit::Usage, "{text}");
        assert!(text.contains(words), "{check}: {text}");
        assert!(text.contains(&place), "{check}: {text}");
        assert!(text.contains('^'), "{check}: {text}");
    }
    // The first one needs the circle but is not in it.
    let circle = run_all(
        "    - {name: outside, kind: file, target: x, needs: [a]}\n    \
         - {name: a, kind: file, target: x, needs: [b]}\n    - {name: b, kind: file, target: x, needs: [a]}\n",
        1,
    );
    let text = circle.unwrap_err().to_string();
    assert!(text.contains("`a` needs itself") || text.contains("`b` needs itself"), "{text}");
}

#[test]
fn a_secret_may_not_stand_among_the_arguments_of_a_process() {
    let folder = folder();
    let path = folder.path().join("release.yaml");
    let plan = "version: 1\nservice: shop\nrelease: {version: 1.0}\npreflight:\n  checks:\n    \
                - {name: a, kind: command, target: [curl, \"${DEPLOY_TOKEN}\"]}\n";
    std::fs::write(&path, plan).unwrap();
    let set = [("DEPLOY_TOKEN".to_owned(), "tok-in-argv-5521".to_owned())].into();
    let loaded = Loaded::read(&path, set).unwrap();
    let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded);
    let text = prepared.err().unwrap().to_string();
    assert!(text.contains("among the arguments of a process") && text.contains("env:"), "{text}");
    assert!(!text.contains("tok-in-argv"), "{text}");
}

#[test]
fn what_cannot_be_looked_at_is_not_tried_again() {
    let findings = run_all(
        "    - {name: a, kind: command, target: [no-such-program], retries: 5, retry_delay: 10s}\n",
        1,
    )
    .unwrap();
    assert_eq!((findings[0].verdict, findings[0].attempts), (Verdict::Error, 1));
}

#[test]
fn defaults_hold_unless_a_check_says_otherwise_and_variables_are_shown_by_name() {
    let folder = folder();
    let path = folder.path().join("release.yaml");
    let plan = "version: 1\nservice: shop\nrelease: {version: 1.0}\n\
                defaults: {retries: 2, retry_delay: 1ms}\npreflight:\n  checks:\n    \
                - {name: a, kind: file, target: none, severity: info}\n    \
                - {name: b, kind: file, target: none, retries: 0}\n    \
                - {name: c, kind: file, target: release.yaml, expect: {size: \"< ${LIMIT}\"}}\n";
    std::fs::write(&path, plan).unwrap();
    let loaded = Loaded::read(&path, [("LIMIT".to_owned(), "1MiB".to_owned())].into()).unwrap();
    let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded);
    let findings = checks::run(&prepared.unwrap_or_else(|fault| panic!("{fault}")), 0, &|_| {});
    let attempts: Vec<_> = findings.iter().map(|f| (f.verdict, f.attempts)).collect();
    assert_eq!(attempts, [(Verdict::Fail, 3), (Verdict::Fail, 1), (Verdict::Pass, 1)]);
    assert_eq!(findings[0].severity, trapkey::severity::Severity::Info);
    assert_eq!(findings[2].expected.as_deref(), Some("< ${LIMIT}"));
    assert_eq!(findings[2].unit.as_deref(), Some("B"));
}

#[test]
fn a_merged_block_of_checks_is_as_good_as_one_written_out() {
    let folder = folder();
    let path = folder.path().join("release.yaml");
    let plan = "\u{feff}x-usual: &usual {kind: command, timeout: 30s, expect: {exit: 0}}\nversion: 1\nservice: shop\nrelease: {version: 1.0}\n\
                preflight:\n  checks:\n    - {name: a, <<: *usual, target: [\"true\"]}\n    - {name: b, <<: *usual, target: [\"false\"], expect: {exit: 1}}\n    \
                - {name: c, <<: *usual, target: [\"false\"]}\n";
    std::fs::write(&path, plan).unwrap();
    let loaded = Loaded::read(&path, BTreeMap::new()).unwrap();
    let prepared = checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded).unwrap();
    let findings = checks::run(&prepared, 2, &|_| {});
    let verdicts: Vec<_> = findings.iter().map(|f| f.verdict).collect();
    assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, Verdict::Fail]);
    assert_eq!(findings[2].message.split(';').next(), Some("exit is 1, expected 0"));
    // What is wrong with a merged one is shown where it was written.
    std::fs::write(&path, plan.replace("exit: 0}", "exit: many}")).unwrap();
    let loaded = Loaded::read(&path, BTreeMap::new()).unwrap();
    let fault =
        checks::prepare(&loaded.plan.preflight.as_ref().unwrap().checks, &loaded).map(|_| ()).unwrap_err();
    assert!(fault.place.as_deref().unwrap_or_default().contains("release.yaml:1:"), "{fault:?}");
}

/// Ways in which people write what they expect, each with what it must come to: a wrong pass is the worst.
#[test]
fn what_people_write_never_passes_by_a_guess() {
    let out = |text: &str| format!("kind: command, target: [printf, '%s', '{text}']");
    let cases = [
        // The text that was said, the comparison as in the plan, and whether it passes; none: the plan is refused.
        (out("FAILED"), "stdout: != FAILED", None),
        (out("FAILED"), "stdout: \"!= FAILED\"", Some(false)),
        (out("0.5"), "stdout: \"<= 0.10\"", Some(false)),
        (out("0.9"), "stdout: \">= 0.85\"", Some(true)),
        (out("3.9"), "stdout: \">= 3.10\"", None),
        (out("3.9"), "stdout: \"version >= 3.10\"", Some(false)),
        (out("3.10"), "stdout: \"version >= 3.9\"", Some(true)),
        (out("3.9"), "stdout: \"number >= 3.10\"", Some(true)),
        (out("v3.14.2"), "stdout: \">= v3.9\"", Some(true)),
        (out("1.10"), "stdout: 1.1", Some(false)),
        (out("1.10"), "stdout: \"!= 1.1\"", Some(false)),
        (out("0.0"), "stdout: \"!= 0\"", Some(false)),
        (out("20260101120000123"), "stdout: 20260101120000124", Some(false)),
        (out("20260101120000123"), "stdout: \">= 20260101120000124\"", Some(false)),
        (out("{\"n\": 9007199254740993}"), "/n: 9007199254740992", Some(false)),
        (out("{\"n\": 9007199254740993}"), "/n: 9007199254740993", Some(true)),
        (out("{\"n\": 0.0001}"), "/n: \"< 1e-3\"", Some(true)),
        (out("{\"n\": 1.5}"), "/n: \">= 1.25\"", Some(true)),
        (out("{\"n\": \"1.5\"}"), "/n: \">= 1.25\"", Some(false)),
        (out("{\"n\": \"1.5\"}"), "/n: \"number >= 1.25\"", Some(true)),
        (out("{\"n\": \"0.5\"}"), "/n: \"<= 0.10\"", Some(false)),
        (out("{\"version\": \"1.9\"}"), "/version: \">= 1.10\"", None),
        (out("{\"version\": 1.10}"), "/version: \"version > 1.9\"", Some(true)),
        (out("{\"ok\": true}"), "/ok: true", Some(true)),
        (out("{\"ok\": \"true\"}"), "/ok: true", Some(true)),
        (out("{\"ok\": false}"), "/ok: \"!= yes\"", Some(false)),
        (out("a"), "stdout: [\"a, b\", c]", Some(false)),
        (out("7"), "stdout: [\">= 5\", \"<= 6\"]", None),
        (out("7"), "stdout: \">= 5, <= 6\"", None),
        (out("x"), "stdout: \"=~ ^ok\"", None),
        (out("x"), "stdout: \"!~ x\"", None),
        (out("x"), "stdout: \"> apple\"", None),
        (out("200 ms"), "stdout: \"<= 100ms\"", None),
        (out(""), "stdout: >5", None),
        (out("many"), "stdout: \"> 0\"", Some(false)),
        (out("NaN"), "stdout: \"!= 0\"", Some(true)),
        (out("NaN"), "stdout: \"<= 0.1\"", Some(false)),
    ];
    for (check, expect, passes) in cases {
        // In a block, as most people write it: in a flow some of these are something else.
        let entries = check.replace(", target", "\n      target");
        let text = format!("    - name: it\n      {entries}\n      expect:\n        {expect}\n");
        match (run_all(&text, 1), passes) {
            (Ok(findings), Some(passes)) => {
                let verdict = if passes { Verdict::Pass } else { Verdict::Fail };
                assert_eq!(findings[0].verdict, verdict, "{text}: {}", findings[0].message);
            }
            (Err(fault), None) => assert!(fault.place.is_some(), "{text}: {fault:?}"),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_folder_has_no_size_and_what_comes_from_the_future_no_age() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let now = std::time::SystemTime::now();
    for (name, ahead_s) in [("soon", 20), ("tomorrow", 86_400)] {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(now + Duration::from_secs(ahead_s)).unwrap();
    }
    let check = |target: &str, expect: &str| format!("kind: file, target: {target}, expect: {{{expect}}}");
    let findings = look(
        folder.path(),
        "",
        &[
            check("empty", "size: \"> 1KiB\""),
            check("empty", "exists: true"),
            check("tomorrow", "age: \"<= 7d\""),
            check("soon", "age: \"<= 7d\""),
            check("soon", "size: \"= 0\""),
        ],
    );
    let verdicts: Vec<Verdict> = findings.iter().map(|finding| finding.verdict).collect();
    assert_eq!(
        verdicts,
        [Verdict::NoData, Verdict::Pass, Verdict::NoData, Verdict::Pass, Verdict::Pass],
        "{findings:?}"
    );
}
