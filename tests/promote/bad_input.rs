//! Plans and routers that cannot be: one clear error, and nothing is touched.

use super::*;

fn refused(stage: &Stage, code: i32, words: &str) {
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, code, "{}", ended.stderr);
    assert!(ended.stderr.contains(words), "expected `{words}` in:\n{}", ended.stderr);
    assert_eq!(stage.green.served(), 0);
    assert_eq!(stage.haproxy.server("blue").0, 100);
    assert_eq!(stage.haproxy.server("green"), (0, 0));
    let document = json(&stage.path().join("evidence").join(if code == 4 {
        "promote.json"
    } else {
        "promote.refused.json"
    }));
    assert_eq!(document["verdict"], "error");
}

#[test]
fn an_unknown_router_names_the_nearest() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("kind: haproxy", "kind: haprox");
    std::fs::write(&path, text).unwrap();
    refused(&stage, 2, "did you mean `haproxy`?");
}

#[test]
fn an_unknown_key_of_a_router_shows_its_line() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("backend: shop", "backand: shop");
    std::fs::write(&path, text).unwrap();
    refused(&stage, 2, "unknown key `backand`");
}

#[test]
fn an_unknown_metric_is_refused_before_anything_moves() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("latency_p95", "latency_p96");
    std::fs::write(&path, text).unwrap();
    refused(&stage, 2, "latency_p95");
}

#[test]
fn steps_that_go_down_and_a_bake_without_triggers_are_refused() {
    let stage = Stage::new("[{weight: 50%, bake: 1s}, {weight: 25%, bake: 1s}, {weight: 100%}]", "");
    refused(&stage, 2, "the step of 25 % does not go up from 50 %");
    stage.write("[{weight: 50%, bake: 1s}]", "");
    refused(&stage, 2, "the last step is 50 %, not 100%");
    stage.write(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text: String =
        text.lines().filter(|l| !l.contains("rollback_when")).map(|l| format!("{l}\n")).collect();
    std::fs::write(&path, text).unwrap();
    refused(&stage, 2, "names nothing to judge it by");
}

#[test]
fn a_share_beyond_the_router_is_refused_before_anything_moves() {
    let stage = Stage::new("[{weight: 0.1%, bake: 1s}, {weight: 100%}]", "");
    refused(&stage, 2, "the router cannot give green 0.1 %");
}

#[test]
fn a_static_balance_is_refused_before_anything_moves() {
    let stage = Stage::with_backend(SHORT, "", "  balance static-rr");
    refused(&stage, 2, "balances by `static-rr`");
}

#[test]
fn a_server_that_is_not_there_is_named_with_those_that_are() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("green: green", "green: gren");
    std::fs::write(&path, text).unwrap();
    refused(&stage, 2, "its servers are: blue, green");
}

#[test]
fn a_socket_that_does_not_exist_is_an_infrastructure_error() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("haproxy.sock", "nowhere.sock");
    std::fs::write(&path, text).unwrap();
    refused(&stage, 4, "nowhere.sock");
}

#[test]
fn traffic_that_is_already_on_green_is_refused() {
    let stage = Stage::new(SHORT, "");
    stage.haproxy.ask("set server shop/green weight 100");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("green already has 50 % of the traffic"), "{}", ended.stderr);
    assert_eq!(stage.haproxy.server("green").0, 100);
}

#[test]
fn two_sides_that_say_the_same_cannot_be_told_apart() {
    let folder = folder();
    let (blue, green) = (Side::start("1.0"), Side::start("1.0"));
    let haproxy = Haproxy::start(folder.path(), blue.port, green.port, "");
    let stage = Stage { folder, blue, green, haproxy };
    stage.write(SHORT, "");
    let ended = stage.promote(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("nobody could tell them apart"), "{}", ended.stderr);
    stage.assert_all_blue();
}

#[test]
fn a_read_only_state_folder_is_named_and_nothing_moves() {
    let stage = Stage::new(SHORT, "");
    std::fs::write(stage.path().join("file"), "").unwrap();
    let ended = stage.promote(&["run", "--state", "file/inside"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("a file cannot be written"), "{}", ended.stderr);
    assert_eq!(stage.haproxy.server("green"), (0, 0));
}

/// The place in the plan and the words that an error must have.
fn refused_at(stage: &Stage, more: &str, place: &str, words: &str) {
    stage.write("[{weight: 50%, bake: 1s, approve: [owner]}, {weight: 100%}]", more);
    let text = std::fs::read_to_string(stage.path().join("release.yaml")).unwrap();
    let line = text.lines().position(|l| l.contains(place)).expect("the text is in the plan") + 1;
    refused(stage, 2, words);
    let said = stage.promote(&["plan"]).stderr;
    assert!(said.contains(&format!("release.yaml:{line}:")), "expected line {line} in:\n{said}");
}

#[test]
fn a_calendar_that_cannot_be_meant_shows_its_own_line() {
    let stage = Stage::new(SHORT, "");
    let zone = "  calendar: {time_zone: Europe/Berlen}\n";
    refused_at(&stage, zone, "Berlen", "`Europe/Berlen` is no time zone; Europe/Berlin is one");
    let ends = "  calendar:\n    time_zone: UTC\n    freeze:\n      - {from: 2026-12-20, to: 2026-12-22}\n      - {from: 2026-12-30, to: 2026-12-25}\n";
    refused_at(&stage, ends, "2026-12-30", "a window ends before it begins");
}

#[test]
fn approvers_of_a_role_that_no_step_asks_for_are_refused() {
    let stage = Stage::new(SHORT, "");
    let misspelt = "  approvers: {ownr: [ann]}\n";
    refused_at(&stage, misspelt, "ownr", "no step asks for the approval of `ownr`");
    refused_at(&stage, "  approvers: {owner: []}\n", "approvers", "nobody may approve as `owner`");
}

#[test]
fn a_split_without_a_key_shows_its_line() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("release.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("green: green}", "green: green}, split: {by: user}");
    std::fs::write(&path, &text).unwrap();
    let line = text.lines().position(|l| l.contains("split:")).expect("the router is on one line") + 1;
    refused(&stage, 2, "needs the `header` or the `cookie`");
    assert!(stage.promote(&["plan"]).stderr.contains(&format!("release.yaml:{line}:")));
}
