//! Three in the morning: a shell without any variable, in another folder, and somebody who must look, hold or go back.

use super::*;
use crate::support::binary;

/// A shell of somebody who has just logged in: it knows where the programs are, and nothing else.
pub(super) fn night(folder: &Path, line: &str) -> Ended {
    let bin = binary("promote").parent().unwrap().to_path_buf();
    let path = std::env::join_paths(
        std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    run(Command::new("sh").args(["-c", line]).current_dir(folder).env_clear().env("PATH", path.unwrap()))
}

/// What names a promotion from any folder.
pub(super) fn named(stage: &Stage) -> String {
    format!("--plan {}/release.yaml --environment production", stage.path().display())
}

/// `promote COMMAND` in a shell of the night.
fn promote(stage: &Stage, elsewhere: &Path, command: &str) -> Ended {
    night(elsewhere, &format!("promote {command} {}", named(stage)))
}

/// A plan that is nothing without its variables.
fn with_variables(steps: &str, more: &str) -> Stage {
    let stage = Stage::new(steps, more);
    for (from, to) in [
        ("\"${VERSION:-1.1}\"", "\"${VERSION}\""),
        ("target: haproxy.sock", "target: \"${HAPROXY_SOCK}\""),
        ("blue: blue, green: green", "blue: \"${BLUE}\", green: \"${GREEN}\""),
    ] {
        stage.edit(from, to);
    }
    for (name, side) in [("BLUE_URL", &stage.blue), ("GREEN_URL", &stage.green)] {
        stage.edit(&format!("\"{}\"", side.url()), &format!("\"${{{name}}}\""));
    }
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = "verify:\n  checks: [{name: database, kind: postgres, target: \"${DATABASE_URL}\"}]\n";
    std::fs::write(&path, text + "\n" + more).unwrap();
    stage
}

/// What the job of the release has set, and nobody at night.
fn variables(stage: &Stage) -> Vec<(&'static str, String)> {
    [
        ("VERSION", "1.1".to_owned()),
        ("HAPROXY_SOCK", "haproxy.sock".to_owned()),
        ("BLUE", "blue".to_owned()),
        ("GREEN", "green".to_owned()),
        ("BLUE_URL", stage.blue.url()),
        ("GREEN_URL", stage.green.url()),
        ("DATABASE_URL", "postgres://shop:pw-of-the-day@db/shop".to_owned()),
        ("WORD", "called".to_owned()),
    ]
    .into()
}

fn by_day(stage: &Stage, command: &str) -> Command {
    let mut day = tool("promote", stage.path());
    day.arg(command).envs(variables(stage)).stdin(Stdio::null());
    day
}

const PAGES: &str = "  hooks: {on_rollback: [sh, -c, \"echo $0 >> paged.txt\", \"${WORD}\"]}\n";

fn paged(stage: &Stage) -> String {
    std::fs::read_to_string(stage.path().join("paged.txt")).unwrap_or_default()
}

#[test]
fn whoever_looks_holds_or_calls_off_needs_no_variable() {
    let (stage, elsewhere) = (with_variables(LONG, PAGES), folder());
    let nothing = promote(&stage, elsewhere.path(), "status");
    assert_eq!(nothing.code, 0);
    assert!(
        nothing.stdout.starts_with("nothing was ever promoted to production, by the state in /"),
        "{}",
        nothing.stdout
    );
    for early in ["pause", "abort", "undo", "rollback"] {
        let refused = promote(&stage, elsewhere.path(), early);
        assert_eq!(refused.code, 5, "{early}: {}", refused.stderr);
    }
    let started = run(&mut by_day(&stage, "start"));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let status = promote(&stage, elsewhere.path(), "status");
    assert_eq!(status.code, 0, "{}", status.stderr);
    assert!(status.stdout.contains("green 50 % (the router, now)"), "{}", status.stdout);
    for held in ["pause", "status", "resume"] {
        let done = promote(&stage, elsewhere.path(), held);
        assert_eq!(done.code, 0, "{held}: {}", done.stderr);
        assert!(!done.stderr.contains("is not set"), "{held}: {}", done.stderr);
    }
    let aborted = promote(&stage, elsewhere.path(), "abort --why 'orders drop'");
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    stage.assert_all_blue();
    assert_eq!(paged(&stage), "called\n", "the hook has the word of the day");
    // The document lies where the call was made.
    let document = json(&elsewhere.path().join("evidence/promote.json"));
    assert_eq!(document["release"]["version"], "1.1");
    assert!(document["promotion"]["reason"].as_str().unwrap().contains("orders drop"));
    // What the state keeps is no secret.
    let state = std::fs::read_to_string(stage.state()).unwrap();
    assert!(state.contains("haproxy.sock") && !state.contains("pw-of-the-day"), "{state}");
}

#[test]
fn rollback_is_an_abort_on_the_way_and_an_undo_after_it() {
    let more = format!("  keep_old: 1h\n{PAGES}");
    let (stage, elsewhere) =
        (with_variables("[{weight: 50%, bake: 500ms}, {weight: 100%}]", &more), folder());
    let ended = run(&mut by_day(&stage, "run"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    stage.assert_all_green();
    let undone = promote(&stage, elsewhere.path(), "rollback --reason 'support is called'");
    assert_eq!(undone.code, 1, "{}", undone.stderr);
    stage.assert_all_blue();
    let promotion = |folder: &Path| json(&folder.join("evidence/promote.json"))["promotion"].clone();
    let reason = promotion(elsewhere.path())["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("undone by") && reason.contains("support is called"), "{reason}");
    // Twice is once.
    assert_eq!(promote(&stage, elsewhere.path(), "rollback").code, 1);
    stage.assert_all_blue();
    stage.edit("bake: 500ms", "bake: 10m");
    let started = run(&mut by_day(&stage, "start"));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let aborted = promote(&stage, elsewhere.path(), "rollback");
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    stage.assert_all_blue();
    let reason = promotion(elsewhere.path())["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("called off by"), "{reason}");
}

#[test]
fn a_bake_is_ended_and_a_release_accepted_where_neither_variables_nor_artifacts_are() {
    for (blue, command) in [(200, "skip"), (503, "accept")] {
        let (stage, elsewhere) = (with_variables(LONG, PAGES), folder());
        stage.edit("version: \"${VERSION}\"", "version: \"${VERSION}\", artifacts: [shop.tar]");
        let artifact = stage.path().join("shop.tar");
        std::fs::write(&artifact, "shop").unwrap();
        let started = run(&mut by_day(&stage, "start"));
        assert_eq!(started.code, 0, "{}", started.stderr);
        std::fs::remove_file(&artifact).unwrap();
        stage.blue.answers.health.store(blue, Ordering::SeqCst);
        if command == "accept" {
            assert_eq!(promote(&stage, elsewhere.path(), "abort").code, 1);
            assert_eq!(stage.phase(), "frozen");
        }
        let done = promote(&stage, elsewhere.path(), &format!("{command} --why 'we know'"));
        assert_eq!(done.code, 0, "{command}: {}", done.stderr);
        stage.assert_all_green();
    }
}

#[test]
fn words_of_other_tools_name_the_command_that_is_meant() {
    let elsewhere = folder();
    for (word, told) in [
        ("cancel", "`promote rollback`"),
        ("revert", "`promote rollback`"),
        ("stop", "`promote abort`"),
        ("unpause", "`promote resume`"),
        ("hold", "`promote pause`"),
        ("get", "`promote status`"),
    ] {
        let ended = night(elsewhere.path(), &format!("promote {word}"));
        assert_eq!(ended.code, 2, "{word}");
        assert!(ended.stderr.contains(told), "{word}: {}", ended.stderr);
    }
    let typo = night(elsewhere.path(), "promote abrot");
    assert!(typo.code == 2 && typo.stderr.contains("'abort'"), "{}", typo.stderr);
    let help = night(elsewhere.path(), "promote --help");
    let words = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("`abort` while a promotion is under way, `undo` after it"), "{words}");
}

#[test]
fn a_step_and_a_run_go_on_in_a_fresh_shell_and_begin_nothing() {
    let (stage, elsewhere) = (with_variables("[{weight: 10%, bake: 10m}, {weight: 100%}]", ""), folder());
    for begins in ["start", "run", "step"] {
        let refused = promote(&stage, elsewhere.path(), begins);
        assert_eq!(refused.code, 2, "{begins}: {}", refused.stderr);
        assert!(refused.stderr.contains("is not set"), "{}", refused.stderr);
    }
    let started = run(by_day(&stage, "start").env("CI", "true").env("GITHUB_SHA", "abc"));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let early = promote(&stage, elsewhere.path(), "step");
    assert_eq!(early.code, 0, "{}", early.stderr);
    // What is set counts: another version is another release.
    let other = night(elsewhere.path(), &format!("VERSION=2.0 promote step {}", named(&stage)));
    assert_eq!(other.code, 5, "{}", other.stderr);
    stage.end_the_bake();
    let ended = promote(&stage, elsewhere.path(), "run");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("goes on with shop 1.1 in production"), "{}", ended.stderr);
    stage.assert_all_green();
    // It is over, and a call that knows no version begins none.
    assert_eq!(promote(&stage, elsewhere.path(), "run").code, 2);
    stage.assert_all_green();
}

#[test]
fn what_is_set_now_turns_no_way_back_round() {
    let (stage, elsewhere) = (with_variables(LONG, ""), folder());
    assert_eq!(run(&mut by_day(&stage, "start")).code, 0);
    // As the next release has them: the sides have changed places.
    let turned = format!("BLUE=green GREEN=blue VERSION=2.0 promote abort {}", named(&stage));
    let aborted = night(elsewhere.path(), &turned);
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    stage.assert_all_blue();
    assert!(
        aborted.stderr.contains("BLUE, GREEN are set to another value than this promotion began with"),
        "{}",
        aborted.stderr
    );
    assert!(!aborted.stderr.contains("VERSION"), "it says nothing of the way back: {}", aborted.stderr);
}

/// What happens to a plan, and its name.
type Harm = (&'static str, fn(&Stage));

#[test]
fn a_plan_that_was_changed_or_is_gone_is_not_in_the_way() {
    let elsewhere = folder();
    let harms: [Harm; 4] = [
        ("another router", |stage| stage.edit("haproxy.sock", "other.sock")),
        ("a variable that nobody has set", |stage| {
            stage.edit("drain: 1s", "drain: 1s\n  lease: \"${NEW}\"\n  router_back_withinn: 1s");
        }),
        ("no YAML", |stage| std::fs::write(stage.path().join("release.yaml"), "promote: [").unwrap()),
        ("no plan", |stage| std::fs::remove_file(stage.path().join("release.yaml")).unwrap()),
    ];
    for (what, harm) in harms {
        let stage = Stage::new(LONG, "");
        let started = stage.promote(&["start"]);
        assert_eq!(started.code, 0, "{what}: {}", started.stderr);
        harm(&stage);
        for command in ["status", "pause", "resume"] {
            let done = promote(&stage, elsewhere.path(), command);
            assert_eq!(done.code, 0, "{what}, {command}: {}", done.stderr);
            if command == "status" {
                assert!(done.stdout.contains("green 50 % (the router, now)"), "{what}: {}", done.stdout);
            }
        }
        let aborted = promote(&stage, elsewhere.path(), "abort");
        assert_eq!(aborted.code, 1, "{what}: {}", aborted.stderr);
        assert!(
            aborted.stderr.contains("the plan that this promotion began with counts"),
            "{what}: {}",
            aborted.stderr
        );
        stage.assert_all_blue();
    }
}

#[test]
fn a_copy_of_the_plan_in_another_folder_steers_the_router_of_the_promotion() {
    let (stage, copy) = (Stage::new(LONG, ""), folder());
    assert_eq!(stage.promote(&["start"]).code, 0);
    // Beside the copy is a router of the same name, and it is none of this promotion's business.
    let other = Haproxy::start(copy.path(), stage.blue.port, stage.green.port, "");
    std::fs::copy(stage.path().join("release.yaml"), copy.path().join("release.yaml")).unwrap();
    let held = other.held();
    let aborted = night(copy.path(), &format!("promote abort --state {}/.trapkey", stage.path().display()));
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    stage.assert_all_blue();
    assert_eq!(other.held(), held);
}

/// A router of one's own that wants a token, which nobody has at night.
fn with_a_token() -> (tempfile::TempDir, Side, Side, Box<dyn RealRouter>) {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let real = router::start("command", folder.path(), blue.port, green.port);
    let script = folder.path().join("route.sh");
    let text = std::fs::read_to_string(&script).unwrap();
    let wants = "#!/bin/sh\n[ \"$ROUTER_TOKEN\" = tok-of-the-router ] || { echo 'no token' >&2; exit 9; }\n";
    std::fs::write(&script, text.replacen("#!/bin/sh\n", wants, 1)).unwrap();
    let block = real
        .router(blue.port, green.port)
        .replace("step: 1%", "step: 1%, env: {ROUTER_TOKEN: \"${ROUTER_TOKEN}\"}");
    std::fs::write(folder.path().join("release.yaml"), plan(&block, &blue, &green, LONG, "")).unwrap();
    (folder, blue, green, real)
}

#[test]
fn a_secret_is_kept_by_name_and_asked_for_only_by_what_needs_it() {
    let (place, blue, _green, real) = with_a_token();
    let before = real.held();
    let token = ("ROUTER_TOKEN", "tok-of-the-router");
    let started = run(tool("promote", place.path()).arg("start").envs([token]));
    assert_eq!(started.code, 0, "{}", started.stderr);
    let state = std::fs::read_to_string(place.path().join(".trapkey/production/state.json")).unwrap();
    assert!(state.contains("ROUTER_TOKEN") && !state.contains(token.1), "{state}");
    let elsewhere = folder();
    let named = format!("--plan {}/release.yaml", place.path().display());
    let call = |command: &str| night(elsewhere.path(), &format!("{command} {named}"));
    for looks in ["promote pause", "promote resume", "promote status"] {
        let done = call(looks);
        assert_eq!(done.code, 0, "{looks}: {}", done.stderr);
        if looks == "promote status" {
            assert!(done.stdout.contains("the router cannot be reached from here"), "{}", done.stdout);
            assert!(done.stdout.contains("the variable `ROUTER_TOKEN` is not set"), "{}", done.stdout);
        }
    }
    let missing = call("promote abort");
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert!(missing.stderr.contains("set ROUTER_TOKEN and run it again"), "{}", missing.stderr);
    assert_ne!(real.held(), before, "nothing was steered without the token");
    let aborted = call("ROUTER_TOKEN=tok-of-the-router promote abort");
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
    let client = trapkey::world::http::Client::new(ANSWER);
    for _ in 0..10 {
        assert_eq!(client.get(&real.url()).unwrap().header("x-release"), Some("1.0"));
    }
    drop(blue);
}

#[test]
fn an_abort_that_cannot_steer_from_here_is_left_for_the_job_that_can() {
    let (place, _blue, _green, _real) = with_a_token();
    let job = tool("promote", place.path())
        .arg("run")
        .env("ROUTER_TOKEN", "tok-of-the-router")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = place.path().join(".trapkey/production/state.json");
    wait_until("the bake", || {
        let bytes = std::fs::read(&state).unwrap_or_default();
        let state: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        state["record"]["state"]["phase"] == "baking"
    });
    let elsewhere = folder();
    let left = night(
        elsewhere.path(),
        &format!("promote abort --why night --plan {}/release.yaml", place.path().display()),
    );
    assert_eq!(left.code, 3, "{}", left.stderr);
    assert!(left.stderr.contains("the abort is left for the job that works"), "{}", left.stderr);
    assert_eq!(job.wait_with_output().unwrap().status.code(), Some(1));
    let reason = json(&place.path().join("evidence/promote.json"))["promotion"]["reason"].clone();
    assert!(reason.as_str().unwrap().contains("night"), "{reason}");
}

#[test]
fn no_command_comes_from_the_state() {
    let elsewhere = folder();
    // Another router in the plan's file: its hook is run. No file: none is, and that is told.
    for gone in [false, true] {
        let stage = Stage::new(LONG, "  hooks: {on_rollback: [sh, -c, \"echo paged >> paged.txt\"]}\n");
        assert_eq!(stage.promote(&["start"]).code, 0);
        assert!(!std::fs::read_to_string(stage.state()).unwrap().contains("paged.txt"));
        if gone {
            std::fs::remove_file(stage.path().join("release.yaml")).unwrap();
        } else {
            stage.edit("haproxy.sock", "other.sock");
        }
        let aborted = promote(&stage, elsewhere.path(), "abort");
        assert_eq!(aborted.code, 1, "{}", aborted.stderr);
        stage.assert_all_blue();
        assert_eq!(aborted.stderr.contains("the on_rollback hook is not run"), gone, "{}", aborted.stderr);
        assert_eq!(paged(&stage), if gone { "" } else { "paged\n" });
    }
    // A router that is steered by commands needs the plan's file.
    let place = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let real = router::start("command", place.path(), blue.port, green.port);
    let text = plan(&real.router(blue.port, green.port), &blue, &green, LONG, "");
    let file = place.path().join("release.yaml");
    std::fs::write(&file, &text).unwrap();
    assert_eq!(call("promote", place.path(), &["start"]).code, 0);
    let held = real.held();
    let line =
        |command: &str| format!("promote {command} --plan {} --environment production", file.display());
    for harm in [Some(text.replace("target: edge", "target: another")), None] {
        match harm {
            Some(other) => std::fs::write(&file, other).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let status = night(elsewhere.path(), &line("status"));
        assert_eq!(status.code, 0, "{}", status.stderr);
        assert!(status.stdout.contains("the router cannot be reached from here"), "{}", status.stdout);
        let refused = night(elsewhere.path(), &line("abort"));
        assert!([2, 5].contains(&refused.code), "{}", refused.stderr);
        assert_eq!(real.held(), held);
    }
    std::fs::write(&file, &text).unwrap();
    let aborted = night(elsewhere.path(), &line("abort"));
    assert_eq!(aborted.code, 1, "{}", aborted.stderr);
}

#[test]
fn an_abort_over_http_goes_by_what_the_promotion_began_with() {
    let stage = Stage::new(LONG, "");
    stage.edit("blue: blue, green: green", "blue: \"${LIVE:-blue}\", green: \"${IDLE:-green}\"");
    assert_eq!(stage.promote(&["start"]).code, 0);
    // The service that listens has the names of the next release.
    let listening = Listening::start_with(&stage, &["--set", "LIVE=green", "--set", "IDLE=blue"]);
    let (status, answer) = listening.post("/abort", "");
    assert_eq!(status, 202, "{answer}");
    wait_until("the way back", || stage.phase() == "rolled_back");
    stage.assert_all_blue();
    assert!(listening.said().contains("IDLE, LIVE are set to another value"), "{}", listening.said());
}

/// A place in the plan, what stands there, and the name of its variable; `{}` is the value of before.
const SECRETS: [(&str, &str, &str); 8] = [
    ("path: /,", "path: \"${PROBE_TOKEN}\",", "/"),
    ("path: /,", "path: \"/?t=${PROBE_TOKEN}\",", "night-owl"),
    ("path: /,", "path: /, header: \"${HEADER_TOKEN}\",", "x-release"),
    ("entry: \"", "entry: \"${ENTRY_TOKEN}\", was: \"", "{entry}"),
    ("environments: {production: {}}", "environments: {production: {url: \"${SITE_TOKEN}\"}}", "{entry}"),
    ("blue: {url: \"", "blue: {health: \"/health?k=${BLUE_KEY}\", url: \"", "night-owl"),
    ("green: {url: \"", "green: {health: \"/health?k=${GREEN_KEY}\", url: \"", "night-owl"),
    ("rate: 100/s", "rate: \"${RATE_TOKEN}\"", "100/s"),
];

/// A plan with a secret in one of its texts, which the job of the day has set.
fn with_a_secret(place: &(&str, &str, &str), steps: &str, more: &str) -> (Stage, (String, String)) {
    let stage = Stage::new(steps, more);
    let (from, to, value) = *place;
    stage.edit(from, to);
    let entry = stage.haproxy.url();
    if to.contains("SITE_TOKEN") {
        stage.edit(&format!("entry: \"{entry}\", "), "");
    }
    stage.edit_if_there(&format!(", was: \"{entry}\""), "");
    let name = to.split("${").nth(1).unwrap().split('}').next().unwrap().to_owned();
    (stage, (name, value.replace("{entry}", &entry)))
}

#[test]
fn a_secret_that_a_way_back_can_do_without_is_not_in_its_way() {
    for place in &SECRETS {
        let (stage, (name, value)) = with_a_secret(place, LONG, "");
        let elsewhere = folder();
        let started = run(tool("promote", stage.path()).arg("start").env(&name, &value));
        assert_eq!(started.code, 0, "{name}: {}", started.stderr);
        let status = promote(&stage, elsewhere.path(), "status");
        assert_eq!(status.code, 0, "{name}: {}", status.stderr);
        assert!(status.stdout.contains("green 50 % (the router, now)"), "{name}: {}", status.stdout);
        for held in ["pause", "resume"] {
            assert_eq!(promote(&stage, elsewhere.path(), held).code, 0, "{name}, {held}");
        }
        let aborted = promote(&stage, elsewhere.path(), "abort --why 'orders drop'");
        assert_eq!(aborted.code, 1, "{name}: {}", aborted.stderr);
        stage.assert_all_blue();
        assert_eq!(stage.phase(), "rolled_back", "{name}");
        assert!(!aborted.stderr.contains("night-owl"), "{name}: {}", aborted.stderr);
    }
}

#[test]
fn an_undo_says_what_it_goes_without_and_whether_blue_is_well_is_never_guessed() {
    let steps = "[{weight: 50%, bake: 500ms}, {weight: 100%}]";
    let (stage, (name, value)) = with_a_secret(&SECRETS[1], steps, "  keep_old: 1h\n");
    let elsewhere = folder();
    let ended = run(tool("promote", stage.path()).arg("run").env(&name, &value));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let undone = promote(&stage, elsewhere.path(), "undo");
    assert_eq!(undone.code, 1, "{}", undone.stderr);
    assert!(
        undone.stderr.contains("PROBE_TOKEN is not set: the front door is not asked"),
        "{}",
        undone.stderr
    );
    stage.assert_all_blue();
    let last = stage.path().join(".trapkey/production/state.json");
    let shift = json(&last)["record"]["promotion"]["shifts"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&shift["read_back"], &shift["probed"]), (&0.0.into(), &Value::Null), "{shift}");

    // A router that says nothing of its sides, and users who meet green alone: nobody knows.
    let place = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
    let real = router::start("command", place.path(), blue.port, green.port);
    let text = plan(&real.router(blue.port, green.port), &blue, &green, steps, "  keep_old: 1h\n");
    let text = text.replace("blue: {url: \"", "blue: {health: \"/health?k=${BLUE_KEY}\", url: \"");
    std::fs::write(place.path().join("release.yaml"), text).unwrap();
    let ended = run(tool("promote", place.path()).arg("run").env("BLUE_KEY", "night-owl"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let held = real.held();
    let line =
        format!("promote undo --plan {}/release.yaml --environment production", place.path().display());
    let refused = night(elsewhere.path(), &line);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("set BLUE_KEY and run it again"), "{}", refused.stderr);
    assert_eq!(real.held(), held);
    let undone = night(elsewhere.path(), &format!("BLUE_KEY=night-owl {line}"));
    assert_eq!(undone.code, 1, "{}", undone.stderr);
}

#[test]
fn a_disk_that_takes_no_writes_keeps_nobody_from_going_home() {
    let (stage, elsewhere) = (Stage::new(LONG, ""), folder());
    std::fs::create_dir(stage.path().join("kept")).unwrap();
    let named = format!("{} --state {}/kept", named(&stage), stage.path().display());
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs {kept} || exit 77\n         promote start {named} || exit 78\n         mount -o remount,ro {kept} || exit 77\n         promote status {named} || exit 79\n         promote step {named}; echo step $? >&2\n         promote abort {named}; echo abort $? >&2\n         promote step {named}; echo step again $? >&2",
        kept = stage.path().join("kept").display(),
    );
    let root = rustix::process::geteuid().is_root();
    let ended =
        night(elsewhere.path(), &format!("unshare {} sh -c '{script}'", if root { "-m" } else { "-rm" }));
    if !root && (ended.code == 77 || ended.stderr.contains("unshare")) {
        let said = writeln!(std::io::stderr(), "NOT TESTED: an unprivileged user may not mount here");
        return assert!(said.is_ok());
    }
    let said = &ended.stderr;
    assert_eq!(ended.code, 0, "{said}");
    assert!(said.contains("step 4") && said.contains("abort 4"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    // Whoever goes on moves nothing, and is told how traffic gets home by hand.
    let (before, after) = said.split_once("step 4").unwrap();
    assert!(before.contains("blue is well now; all traffic goes to it by hand:\n"), "{before}");
    assert!(before.contains("socat stdio "), "{before}");
    // Whoever goes back does.
    assert!(after.contains("that is so, but not all of it is on record"), "{after}");
    stage.assert_all_blue();
}

#[test]
fn a_password_that_is_a_word_of_the_router_keeps_nobody_from_going_back() {
    // Of the socket, of the backend, of a side, of the kind; where it is set when it began, where it is set later, or both.
    for (password, by_day, by_night) in
        [("haproxy", true, false), ("shop", true, true), ("blue", false, true), ("haproxy", false, true)]
    {
        let stage = Stage::new("[{weight: 40%, bake: 1h}, {weight: 100%}]", "");
        let mut order = tool("promote", stage.path());
        if by_day {
            order.env("GRAFANA_PASSWORD", password);
        }
        let started = run(order.arg("start"));
        assert_eq!(started.code, 0, "{password}: {}", started.stderr);
        assert_eq!(stage.haproxy.server("green").0, 40);
        // What people are told to run can be run, whatever somebody's password is.
        let document = json(&stage.path().join("evidence/promote.json"));
        let by_hand = &document["promotion"]["router"]["by_hand"];
        assert!(by_hand.to_string().contains("set server shop/green"), "{by_hand}");
        assert!(!by_hand.to_string().contains("***"), "{password}: {by_hand}");
        let mut status = tool("promote", stage.path());
        let status = run(status.arg("status").env("GRAFANA_PASSWORD", password));
        let told = format!("{}{}", status.stdout, status.stderr);
        let commands: Vec<&str> = told
            .lines()
            .filter_map(|line| line.split_once(": promote "))
            .map(|(_, command)| command)
            .collect();
        assert!(!commands.is_empty() && commands.iter().all(|c| !c.contains("***")), "{password}: {told}");
        let other = folder();
        let set = if by_night { format!("GRAFANA_PASSWORD={password} ") } else { String::new() };
        let ended = night(other.path(), &format!("{set}promote abort --reason night {}", named(&stage)));
        assert_eq!(ended.code, 1, "{password} {by_day} {by_night}: {}", ended.stderr);
        assert_eq!(stage.haproxy.server("green").0, 0, "{password} {by_day} {by_night}");
    }
}
