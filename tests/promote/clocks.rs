//! Clocks that jump, and a long release that no runner is held for.

use std::time::Instant;

use super::*;

const HOUR: i64 = 3_600_000;

/// Runs `promote` on a machine whose wall clock is ahead by so many minutes.
pub(super) fn ahead(stage: &Stage, minutes: i64, arguments: &[&str]) -> Ended {
    let mut command = Command::new("faketime");
    command.args(["-f", &format!("{minutes:+}m")]).arg(crate::support::binary("promote")).args(arguments);
    run(command.current_dir(stage.path()).env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

/// The same on another machine each time: its start has another name.
fn elsewhere(stage: &Stage, number: usize, minutes: i64, arguments: &str) -> Ended {
    let boot = stage.path().join(format!("boot-{number}"));
    std::fs::write(&boot, format!("00000000-0000-4000-8000-{number:012}\n")).unwrap();
    let script = format!(
        "mount --bind '{}' /proc/sys/kernel/random/boot_id || exit 77\n\
         exec faketime -f '{minutes:+}m' \"$0\" {arguments}",
        boot.display()
    );
    let root = is_root();
    let mut command = Command::new("unshare");
    command.args(if root { &["-m"][..] } else { &["-rm"][..] });
    command.args(["sh", "-c", &script]).arg(crate::support::binary("promote"));
    run(command.current_dir(stage.path()).env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

fn is_root() -> bool {
    let ended = run(Command::new("id").arg("-u"));
    ended.stdout.trim() == "0"
}

fn state(stage: &Stage) -> Value {
    json(&stage.path().join(".trapkey/production/state.json"))["record"].clone()
}

#[test]
fn a_clock_set_forward_between_two_steps_makes_no_bake_shorter() {
    let stage = Stage::new("[{weight: 50%, bake: 1h}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let stepped = ahead(&stage, 120, &["step"]);
    assert_eq!(stepped.code, 0, "{}", stepped.stderr);
    assert!(stepped.stderr.contains("this machine's clock was set forward"), "{}", stepped.stderr);
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("baking", 50));
    // Set right again: the bake still has its whole hour, by that clock as well.
    let back = stage.promote(&["step"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    assert!(back.stderr.contains("this machine's clock was set back"), "{}", back.stderr);
    assert_eq!(stage.phase(), "baking");
    let since = state(&stage)["state"]["since_ms"].as_i64().unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    assert!((0..600_000).contains(&(now - since)), "{}", now - since);
    assert_eq!(stage.promote(&["abort"]).code, 1);
    stage.assert_all_blue();
}

/// Containers of one machine have its boot id, and some runtimes give each an uptime of its own.
#[test]
fn a_container_that_says_it_runs_for_longer_makes_no_bake_shorter() {
    let stage = Stage::new("[{weight: 50%, bake: 1h}, {weight: 100%}]", "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    let uptime = stage.path().join("uptime");
    std::fs::write(&uptime, "99999999.00 1.00\n").unwrap();
    let script = format!("mount --bind '{}' /proc/uptime || exit 77\nexec \"$0\" step", uptime.display());
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["-m"][..] } else { &["-rm"][..] });
    command.args(["sh", "-c", &script]).arg(crate::support::binary("promote"));
    let stepped = run(command.current_dir(stage.path()));
    assert_eq!(stepped.code, 0, "{}", stepped.stderr);
    assert_eq!((stage.phase().as_str(), stage.haproxy.server("green").0), ("baking", 50));
}

#[test]
fn a_clock_set_back_between_two_steps_wedges_nothing() {
    let stage = Stage::new(LONG, "");
    assert_eq!(stage.promote(&["start"]).code, 0);
    stage.end_the_bake();
    // On a busy machine a call may not get enough probes through, and the next one goes on.
    wait_until("the last step", || {
        let stepped = ahead(&stage, -600, &["step"]);
        assert_eq!(stepped.code, 0, "{}", stepped.stderr);
        stage.outcome() == "promoted"
    });
    stage.assert_all_green();
}

#[test]
fn the_reference_plan_runs_for_twenty_hours_on_another_machine_each_time() {
    let steps = "[{weight: 5%, bake: 2h}, {weight: 25%, bake: 6h}, {weight: 50%, bake: 12h}, {weight: 100%}]";
    let stage = Stage::new(steps, "");
    stage.edit("undecided_for: 60s", "undecided_for: 10m");
    let began = Instant::now();
    // Minutes since the start, green's share then, and the end of the bake in hours.
    let looks = [
        (0, 5, 2),
        (60, 5, 2),
        (119, 5, 2),
        (121, 25, 8),
        (470, 25, 8),
        (482, 50, 20),
        (1190, 50, 20),
        (1204, 100, 0),
    ];
    let (mut since, mut calls) = (0, 0);
    for (number, (minutes, green, until)) in looks.into_iter().enumerate() {
        // On a busy machine a call may not get enough probes through, and the next one goes on.
        let tested = wait_for("the step", || {
            let ended = elsewhere(&stage, calls, minutes, if calls == 0 { "start" } else { "step" });
            calls += 1;
            if !is_root() && ended.code == 77 {
                return Some(false);
            }
            assert_eq!(ended.code, 0, "at {minutes} minutes: {}", ended.stderr);
            let there = if green == 100 { "promoted" } else { "baking" };
            (stage.haproxy.server("green").0 == green && stage.phase() == there).then_some(true)
        });
        if !tested {
            let said = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"NOT TESTED: an unprivileged user may not mount here\n",
            );
            assert!(said.is_ok());
            return;
        }
        let record = state(&stage);
        if green == 100 {
            assert_eq!(record["state"]["phase"], "promoted");
            break;
        }
        assert_eq!(
            (record["state"]["phase"].as_str(), stage.haproxy.server("green").0),
            (Some("baking"), green)
        );
        assert_eq!(stage.document()["verdict"], "undecided");
        if number == 0 {
            since = record["state"]["since_ms"].as_i64().unwrap();
        }
        let next_at: jiff::Timestamp = record["promotion"]["next_at"].as_str().unwrap().parse().unwrap();
        let off = next_at.as_millisecond() - (since + until * HOUR);
        // A step is taken by the first look after its time, a few minutes late here.
        assert!((-60_000..8 * 60_000).contains(&off), "at {minutes} minutes: {next_at}, off by {off} ms");
    }
    stage.assert_all_green();
    assert_eq!(stage.promotion()["outcome"], "promoted");
    let held = began.elapsed();
    figure(&format!("20 hours of watching held no runner: {calls} calls took {held:.1?} in all"));
}
