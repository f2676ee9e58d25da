//! Every command that is printed runs as it stands: in a shell without variables, from another folder where it names
//! whole paths, in the plan's folder where a document names it.

use super::night::night;
use super::*;

/// The commands of a text, between backticks, behind a colon, or on lines of their own.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("promote ") {
        let before = text[..at].chars().last();
        let rest = &text[at..];
        let end = match before {
            Some('`') => rest.find('`'),
            _ => rest.find([';', '\n']),
        };
        let command = rest[..end.unwrap_or(rest.len())].trim().to_owned();
        if command.contains(" --plan ") {
            found.push(command);
        }
    }
    found
}

/// A release whose folder and files need quotes, with a state and evidence elsewhere, signed.
fn quoted(steps: &str, more: &str) -> (Stage, Vec<String>) {
    let stage = Stage::new(steps, more);
    let odd = stage.path().join("odd $(place)'s");
    std::fs::create_dir(&odd).unwrap();
    std::fs::rename(stage.path().join("release.yaml"), odd.join("the plan.yaml")).unwrap();
    let text = std::fs::read_to_string(odd.join("the plan.yaml")).unwrap();
    let text = text.replace("target: haproxy.sock", "target: ../haproxy.sock");
    std::fs::write(odd.join("the plan.yaml"), text.replace("\"${VERSION:-1.1}\"", "\"${VERSION}\"")).unwrap();
    let flags = [
        "--plan",
        "odd $(place)'s/the plan.yaml",
        "--state",
        "kept here",
        "--evidence",
        "odd $(place)'s/out",
    ];
    (stage, flags.map(String::from).into())
}

#[test]
fn what_a_waiting_release_prints_runs_as_it_stands() {
    let (stage, flags) = quoted("[{weight: 10%, bake: 10m}, {weight: 100%}]", "");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let elsewhere = folder();
    let by_day =
        |command: &str| run(tool("promote", stage.path()).arg(command).args(&flags).env("VERSION", "1.1"));
    let started = by_day("start");
    assert_eq!(started.code, 0, "{}", started.stderr);
    // The document names it as the call did: it runs where that ran.
    let summary =
        json(&stage.path().join("odd $(place)'s/out/promote.json"))["summary"].as_str().unwrap().to_owned();
    let step = commands(&summary);
    assert_eq!(step.len(), 1, "{summary}");
    let stepped = night(stage.path(), &step[0]);
    assert_eq!(stepped.code, 0, "{}: {}", step[0], stepped.stderr);

    let paused = by_day("pause");
    let resume = commands(&paused.stderr);
    assert_eq!((paused.code, resume.len()), (0, 1), "{}", paused.stderr);
    let status = by_day("status");
    let named = commands(&status.stdout);
    let verbs: Vec<&str> = named.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(verbs, ["step", "abort", "resume"], "{}", status.stdout);
    for command in [&named[0], &resume[0], &named[2]] {
        let ended = night(elsewhere.path(), command);
        assert_eq!(ended.code, 0, "{command}: {}", ended.stderr);
    }
    assert!(!by_day("status").stdout.contains("paused"));
    let aborted = night(elsewhere.path(), &named[1]);
    assert_eq!(aborted.code, 1, "{}: {}", named[1], aborted.stderr);
    stage.assert_all_blue();
    let document = json(&stage.path().join("odd $(place)'s/out/promote.json"));
    assert_eq!(document["promotion"]["outcome"], "rolled_back", "the evidence lies where it lay");
    assert!(!elsewhere.path().join("evidence").exists() && !stage.path().join("place").exists());
}

#[test]
fn what_a_finished_release_prints_runs_as_it_stands() {
    let (stage, flags) = quoted("[{weight: 50%, bake: 500ms}, {weight: 100%}]", "  keep_old: 1h\n");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let elsewhere = folder();
    let by_day = |name: &str, words: &[&str]| {
        run(tool(name, stage.path()).args(words).args(&flags).env("VERSION", "1.1"))
    };
    let ended = by_day("promote", &["run"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let reported = by_day("report", &[]);
    assert_eq!(reported.code, 0, "{}", reported.stderr);
    let out = stage.path().join("odd $(place)'s/out");
    let runbook = std::fs::read_to_string(out.join("runbook.md")).unwrap();
    let named = commands(&runbook);
    let replay = named.iter().find(|line| line.starts_with("promote replay ")).unwrap();
    let again = night(stage.path(), replay);
    assert_eq!(again.code, 0, "{replay}: {}{}", again.stdout, again.stderr);
    assert!(again.stdout.contains("every verdict is reached again"), "{}", again.stdout);
    // Also where the state is lost: the document says which release it was.
    std::fs::rename(stage.path().join("kept here"), stage.path().join("kept elsewhere")).unwrap();
    let again = night(stage.path(), replay);
    assert_eq!(again.code, 0, "{replay}: {}{}", again.stdout, again.stderr);
    std::fs::rename(stage.path().join("kept elsewhere"), stage.path().join("kept here")).unwrap();

    let refused = by_day("promote", &["abort"]);
    let undo = commands(&refused.stderr);
    assert_eq!((refused.code, undo.len()), (5, 1), "{}", refused.stderr);
    let books = named.iter().find(|line| line.starts_with("promote undo ")).unwrap();
    let undone = night(elsewhere.path(), &undo[0]);
    assert_eq!(undone.code, 1, "{}: {}", undo[0], undone.stderr);
    stage.assert_all_blue();
    // That of the runbook comes late now, and is understood.
    let late = night(stage.path(), books);
    assert_eq!(late.code, 5, "{books}: {}", late.stderr);
    assert!(late.stderr.contains("blue serves everything already"), "{}", late.stderr);
}

#[test]
fn the_abort_of_a_runbook_runs_as_it_stands() {
    let (stage, flags) = quoted(LONG, "");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let by_day = |name: &str, words: &[&str]| {
        run(tool(name, stage.path()).args(words).args(&flags).env("VERSION", "1.1"))
    };
    assert_eq!(by_day("promote", &["start"]).code, 0);
    assert_eq!(by_day("report", &[]).code, 0);
    let runbook = std::fs::read_to_string(stage.path().join("odd $(place)'s/out/runbook.md")).unwrap();
    assert!(runbook.contains("Look at its health first"), "{runbook}");
    let named = commands(&runbook);
    let abort = named.iter().find(|line| line.starts_with("promote abort ")).unwrap();
    let aborted = night(stage.path(), abort);
    assert_eq!(aborted.code, 1, "{abort}: {}", aborted.stderr);
    stage.assert_all_blue();
}

#[test]
fn what_an_approval_prints_runs_as_it_stands() {
    let steps = "[{weight: 10%, bake: 10m}, {weight: 100%, approve: [product_owner]}]";
    let (stage, elsewhere) = (Stage::new(steps, "  approvers: {product_owner: [olga]}\n"), folder());
    stage.edit("\"${VERSION:-1.1}\"", "\"${VERSION}\"");
    gates::key(&stage, "ci", "");
    gates::key(&stage, "olga", "approvers");
    let signed = "--trust trust --sign-key ci.key";
    let started = night(stage.path(), &format!("VERSION=1.1 promote start {signed}"));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let approve = format!("promote approve --role product_owner --key olga.key {signed}");
    let approved = night(stage.path(), &approve);
    assert_eq!(approved.code, 0, "{}", approved.stderr);
    let step = commands(&approved.stderr);
    assert_eq!(step.len(), 1, "{}", approved.stderr);
    stage.end_the_bake();
    // On a busy machine a call may not get enough probes through, and the next one goes on.
    wait_until("the last step", || {
        let stepped = night(elsewhere.path(), &step[0]);
        assert_eq!(stepped.code, 0, "{}: {}", step[0], stepped.stderr);
        stage.outcome() == "promoted"
    });
    stage.assert_all_green();
    assert_eq!(stage.promotion()["approvals"][0]["who"], "olga");
}

#[test]
fn what_means_nothing_now_is_refused_and_says_what_is() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let resumed = stage.promote(&["resume"]);
    assert!(
        resumed.code == 0 && resumed.stderr.contains("was not paused, and may go on"),
        "{}",
        resumed.stderr
    );
    // Called off by somebody whose call did not get far.
    let state = json(&stage.state());
    let (id, epoch) = (&state["record"]["id"], &state["record"]["promotion"]["epoch"]);
    let abort = json!({"epoch": epoch, "promotion": id, "who": "anna", "at": ""});
    std::fs::write(stage.path().join(".trapkey/production/abort.json"), abort.to_string()).unwrap();
    let refuses = |command: &str, words: &[&str]| {
        let ended = stage.promote(&[command]);
        assert_eq!(ended.code, 5, "{command}: {}", ended.stderr);
        for words in words {
            assert!(ended.stderr.contains(words), "{command}: `{words}` is missing: {}", ended.stderr);
        }
    };
    for command in ["pause", "resume"] {
        refuses(
            command,
            &["goes back, and nothing holds that up", "it was called off by anna", "promote step --plan "],
        );
    }
    stage.blue.answers.health.store(503, Ordering::SeqCst);
    assert_eq!(stage.promote(&["step"]).code, 1);
    assert_eq!(stage.phase(), "frozen");
    for command in ["pause", "resume"] {
        refuses(command, &["stands still: there is no step to hold or to let go", "promote status --plan "]);
    }
    let skipped = stage.promote(&["skip", "--why", "x"]);
    assert!(
        skipped.code == 5 && skipped.stderr.contains("what can be done: promote status --plan "),
        "{}",
        skipped.stderr
    );
    stage.blue.answers.health.store(200, Ordering::SeqCst);
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
    for command in ["pause", "resume"] {
        refuses(command, &["is finished: rolled back"]);
    }
}
