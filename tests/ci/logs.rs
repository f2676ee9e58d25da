//! What a log and a terminal show while a tool works, and how help is laid out.

use super::*;
use crate::promote::{LONG, SHORT, Stage, terminate};

#[test]
fn a_log_that_would_be_silent_hears_what_the_tool_is_at() {
    let place = folder();
    write(&place.path().join("release.yaml"), WAITS);
    let log = |name: &str| place.path().join(name);
    let said = |name: &str| std::fs::read_to_string(log(name)).unwrap();
    let mut beating = begin(tool("preflight", place.path()).env("TRAPKEY_HEARTBEAT", "20ms"), &log("beats"));
    let others = [
        ("quiet", vec!["--quiet"]),
        ("never", vec!["--heartbeat", "0s"]),
        ("rarely", vec!["--heartbeat", "1h"]),
    ];
    let others = others.map(|(name, flags)| {
        let evidence = format!("evidence-{name}");
        let mut order = tool("preflight", place.path());
        order.args(flags).args(["--evidence", &evidence]).env("TRAPKEY_HEARTBEAT", "20ms");
        (name, begin(&mut order, &log(name)))
    });
    let beats = || {
        let text = said("beats");
        text.lines()
            .filter(|line| line.starts_with("· still at work after ") && line.ends_with(": patience"))
            .count()
    };
    wait_until("three beats", || beats() >= 3);
    write(&place.path().join("go"), "");
    assert!(beating.wait().unwrap().success(), "{}", said("beats"));
    let text = said("beats");
    assert!(text.lines().last().unwrap().starts_with("✓ preflight"), "a beat after the end: {text}");
    for (name, mut other) in others {
        assert!(other.wait().unwrap().success(), "{}", said(name));
        assert!(!said(name).contains("still at work"), "{name}: {}", said(name));
    }
}

#[test]
fn a_bake_tells_a_log_and_whoever_asks_how_much_of_it_is_left() {
    let stage = Stage::new(LONG, "");
    let log = stage.path().join("log");
    let mut order = tool("promote", stage.path());
    let mut job = begin(order.arg("run").env("TRAPKEY_HEARTBEAT", "20ms"), &log);
    let left = regex::Regex::new(
        r"still at work after .*: step 1 watches 50 % on green for 10 min, 9 min( \d+ s)? left · ",
    )
    .unwrap();
    wait_until("a beat with the time left", || {
        assert!(job.try_wait().unwrap().is_none(), "{}", std::fs::read_to_string(&log).unwrap());
        left.is_match(&std::fs::read_to_string(&log).unwrap())
    });
    let status = stage.promote(&["status"]).stdout;
    let left = regex::Regex::new(r"(?m)^  this step's bake: (10|9) min( \d+ s)? left$").unwrap();
    assert!(left.is_match(&status), "{status}");
    terminate(&job);
    job.wait().unwrap();
}

/// The Braille patterns, which the changing line turns through.
fn is_frame(c: char) -> bool {
    ('\u{2800}'..='\u{28ff}').contains(&c)
}

#[test]
fn on_a_terminal_no_frame_of_the_changing_line_stays() {
    let stage = Stage::new(SHORT, "");
    let path = stage.path().join("typescript");
    let line = format!("stty cols 80 rows 24; exec {} run --color always", binary("promote").display());
    let mut order = Command::new("script");
    order.args(["--quiet", "--return", "--flush", "--command", &line]).arg(&path);
    order.current_dir(stage.path()).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let ended = run(order.stdin(Stdio::null()));
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(ended.code, 0, "{written}");
    // Without what `script` itself says before and after.
    let (_, seen) = written.split_once('\n').unwrap();
    assert!(seen.contains(is_frame), "nothing turned");
    let mut terminal = vt100::Parser::new(200.try_into().unwrap(), 80.try_into().unwrap(), 0);
    terminal.process(seen.as_bytes());
    let screen = terminal.screen().contents();
    assert!(screen.contains("step 1 watches 10 % on green for 500 ms"), "{screen}");
    let stale: Vec<&str> = screen.lines().filter(|line| line.contains(is_frame)).collect();
    assert!(stale.is_empty(), "{stale:#?} of {screen}");
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(name)
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn help_tells_a_commands_own_options_from_those_of_every_command() {
    let place = folder();
    let common = [
        "--plan",
        "--environment",
        "--evidence",
        "--state",
        "--set",
        "--sign-key",
        "--trust",
        "--json",
        "--quiet",
        "--color",
        "--heartbeat",
    ];
    let mut ways: Vec<Vec<String>> =
        ["preflight", "snapshot", "promote", "verify", "report"].map(|tool| vec![tool.to_owned()]).to_vec();
    let mut seen = 0;
    while let Some(way) = ways.pop() {
        let mut arguments: Vec<&str> = way[1..].iter().map(String::as_str).collect();
        for form in ["--help", "-h"] {
            arguments.push(form);
            let ended = call(&way[0], place.path(), &arguments);
            assert_eq!(ended.code, 0, "{way:?}");
            let (own, shared) = ended
                .stdout
                .split_once("\nOptions of every command:\n")
                .unwrap_or_else(|| panic!("{way:?}: {}", ended.stdout));
            // What stands behind two blanks tells of an option.
            let option = |text: &str, name: &str| {
                let flags = |line: &str| line.trim_start().split("  ").next().unwrap_or_default().to_owned();
                let named = |line: &str| flags(line).split([' ', ',', '=']).any(|word| word == name);
                text.lines().any(|line| line.trim_start().starts_with('-') && named(line))
            };
            for name in common {
                assert!(option(shared, name) && !option(own, name), "{way:?} {name}: {}", ended.stdout);
            }
            // `- auto:` is a value and no option.
            let is_option = |line: &&str| line.trim_start().starts_with("--") || line.contains("-q, ");
            let others = shared.lines().filter(is_option).count();
            assert_eq!(
                others,
                common.len(),
                "{way:?}: an option of its own stands among the others:\n{shared}"
            );
            arguments.pop();
            if form == "--help" {
                ways.extend(commands(&ended.stdout).into_iter().map(|name| [&way[..], &[name]].concat()));
            }
        }
        seen += 1;
    }
    assert!(seen > 40, "only {seen} commands");
}
