//! Series in files and from commands.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use trapkey::metrics::{SideOf, Source, TroubleKind};

use super::{open, points, window};
use crate::support::folder;

const START: i64 = 1_795_248_000_000;
const END: i64 = START + 60_000;

/// A source over a file of this content.
fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>, with: &str) -> Box<dyn Source> {
    std::fs::write(folder.join(name), content).unwrap();
    open(folder, &format!("{{name: orders, kind: file, target: {name}, with: {{{with}}}}}")).unwrap()
}

/// What blue's values are, or the trouble in words.
fn blue(source: &mut dyn Source) -> Result<Vec<(i64, f64)>, String> {
    points(source, "blue", START, END).map_err(|trouble| trouble.message)
}

fn at(seconds: i64, value: f64) -> (i64, f64) {
    (START + seconds * 1000, value)
}

#[test]
fn sides_are_told_apart_by_path_by_columns_or_by_a_word() {
    let place = folder();
    let folder = place.path();
    std::fs::write(folder.join("blue.csv"), "time,value\n1795248000,1\n1795248015,2\n").unwrap();
    std::fs::write(folder.join("green.csv"), "time,value\n1795248000,7\n").unwrap();
    let mut by_path = open(folder, "{name: x, kind: file, target: \"{{ side }}.csv\"}").unwrap();
    let columns = "t,blue orders,green orders\n1795248000,1,7\n1795248015,2,\n";
    let mut by_columns =
        file(folder, "columns.csv", columns, "time: t, blue: blue orders, green: green orders");
    let rows = "time,side,value\n1795248000,blue,1\n1795248000,green,7\n1795248015,blue,2\n";
    let mut by_word = file(folder, "rows.csv", rows, "side: side");
    let lines = "{\"time\":1795248000,\"s\":\"blue\",\"v\":1}\n{\"time\":1795248000,\"s\":\"green\",\"v\":7}\n\n{\"time\":1795248015,\"s\":\"blue\",\"v\":2}\n";
    let mut by_word_in_lines = file(folder, "rows.jsonl", lines, "side: s, value: v");
    let lists = r#"{"blue": [[1795248000, 1], ["2026-11-21T08:00:15Z", 2]], "green": [{"time": 1795248000000, "value": 7}]}"#;
    let mut by_lists = file(folder, "lists.json", lists, "");
    for source in [&mut by_path, &mut by_columns, &mut by_word, &mut by_word_in_lines, &mut by_lists] {
        assert_eq!(points(source.as_mut(), "blue", START, END).unwrap(), [at(0, 1.0), at(15, 2.0)]);
        assert_eq!(points(source.as_mut(), "green", START, END).unwrap(), [at(0, 7.0)]);
    }
}

#[test]
fn values_that_would_stand_for_both_sides_are_refused() {
    let place = folder();
    let mut source = file(place.path(), "all.csv", "time,value\n1795248000,1\n", "");
    let trouble = points(source.as_mut(), "green", START, END).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Refused);
    assert!(trouble.message.contains("would stand for both sides"), "{}", trouble.message);
    assert_eq!(points(source.as_mut(), "", START, END).unwrap(), [at(0, 1.0)]);
    let mut printed = open(place.path(), "{name: x, kind: command, target: [echo, \"5\"]}").unwrap();
    assert!(points(printed.as_mut(), "green", START, END).is_err());
    assert_eq!(points(printed.as_mut(), "", START, END).unwrap(), [(END - 1, 5.0)]);
}

#[test]
fn a_window_has_its_first_moment_and_not_its_last() {
    let place = folder();
    let text = "time,blue,green\n1795247999.999,1,1\n1795248000,2,2\n1795248059.999,3,3\n1795248060,4,4\n";
    let mut source = file(place.path(), "x.csv", text, "blue: blue, green: green");
    assert_eq!(blue(source.as_mut()).unwrap(), [at(0, 2.0), (END - 1, 3.0)]);
}

#[test]
fn nan_and_infinite_values_come_through_and_an_empty_cell_is_no_value() {
    let place = folder();
    let csv = "time,blue,green\n1795248000,NaN,1\n1795248001,Inf,1\n1795248002,-inf,1\n1795248003,,1\n1795248004, 4e-1 ,1\n";
    let lists = r#"{"blue":[[1795248000,"NaN"],[1795248001,"Infinity"],[1795248002,"-Inf"],[1795248003,null],[1795248004,0.4]]}"#;
    let mut from_csv = file(place.path(), "x.csv", csv, "blue: blue, green: green");
    let mut from_json = file(place.path(), "x.json", lists, "");
    for source in [&mut from_csv, &mut from_json] {
        let found = blue(source.as_mut()).unwrap();
        assert!(found[0].1.is_nan() && found[0].0 == START);
        assert_eq!(found[1..], [at(1, f64::INFINITY), at(2, f64::NEG_INFINITY), at(4, 0.4)]);
    }
}

#[test]
fn what_cannot_be_understood_is_named_by_its_line() {
    let place = folder();
    let with = "blue: blue, green: green";
    for (rows, said) in [
        ("1795248015,1,1\n1795248000,2,2\n", "line 3: moments must ascend"),
        ("1795248000,1,1\n1795248000,2,2\n", "line 3: a moment stands there twice"),
        ("1795248000,1,1\n\n2026-11-21T08:00:00,2,2\n", "line 4: `2026-11-21T08:00:00` is no moment"),
        ("5,1,1\n", "line 2: `5` is neither seconds nor ms"),
        ("1795248000,1.5.2,1\n", "line 2: `1.5.2` is not a number"),
        ("1795248000,\"1,5\",1\n", "line 2: `1,5` is not a number"),
        ("1795248000,1\n", "line 2: 2 cells where the header has 3"),
    ] {
        let mut source = file(place.path(), "x.csv", format!("time,blue,green\n{rows}"), with);
        let trouble = points(source.as_mut(), "blue", START, END).unwrap_err();
        assert_eq!(trouble.what, TroubleKind::Babble, "{rows}");
        assert!(
            trouble.message.starts_with("x.csv: ") && trouble.message.contains(said),
            "{}",
            trouble.message
        );
    }
    for (content, with, said) in [
        (&b"time,value\n1,2\n"[..], with, "no column `blue`"),
        (b"time,blue,blue,green\n1,2,3,4\n", with, "two columns are called `blue`"),
        (b"time,blue,green\n1795248000,\xff,2\n", with, "line 2: it is not UTF-8"),
        (b"time,side,value\n1795248000,purple,2\n", "side: side", "line 2: its side is `purple`"),
    ] {
        let said_so = blue(file(place.path(), "x.csv", content, with).as_mut()).unwrap_err();
        assert!(said_so.contains(said), "{said_so}");
    }
    for (content, said) in [
        ("[", "it is not JSON, line 1"),
        ("5", "a list is expected"),
        ("{\"blue\": 5}", "`blue` is no list"),
        ("{\"blue\": [[1795248000, 1], [1795248000, 1]]}", "entry 2: a moment stands there twice"),
        ("{\"blue\": [[1795248000, 1, 2]]}", "entry 1: a pair of moment and value"),
        ("{\"blue\": [{\"time\": 1795248000}]}", "entry 1: it has no `value`"),
        ("{\"blue\": [{\"value\": 1}]}", "entry 1: it has no moment under `time`"),
        ("{\"blue\": [[1795248000, true]]}", "entry 1: its value is not a number"),
    ] {
        let said_so = blue(file(place.path(), "x.json", content, "").as_mut()).unwrap_err();
        assert!(said_so.contains(said), "{content}: {said_so}");
    }
    let lines = "{\"time\":1795248000,\"blue\":1,\"green\":2}\n{\"time\":17952\n";
    assert!(
        blue(file(place.path(), "x.jsonl", lines, with).as_mut())
            .unwrap_err()
            .contains("line 2: it is not JSON")
    );
}

#[test]
fn a_line_that_is_being_written_is_not_read_yet() {
    let place = folder();
    let with = "blue: blue, green: green";
    let mut source = file(place.path(), "x.csv", "time,blue,gr", with);
    assert_eq!(blue(source.as_mut()).unwrap(), []);
    std::fs::write(place.path().join("x.csv"), "time,blue,green\n1795248000,1,1\n1795248015,2").unwrap();
    assert_eq!(blue(source.as_mut()).unwrap(), [at(0, 1.0)]);
    let lines = "{\"time\":1795248000,\"blue\":1,\"green\":2}\n{\"time\":17952";
    assert_eq!(blue(file(place.path(), "x.jsonl", lines, with).as_mut()).unwrap(), [at(0, 1.0)]);
}

#[test]
fn a_file_beyond_64_mib_is_refused() {
    let place = folder();
    let path = place.path().join("x.csv");
    let mut source = file(place.path(), "x.csv", "", "blue: blue, green: green");
    std::fs::File::create(&path).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    let trouble = points(source.as_mut(), "blue", START, END).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Refused);
    assert!(trouble.message.contains("more than 64 MiB"), "{}", trouble.message);
}

#[test]
fn settings_that_do_not_fit_are_refused_with_their_line() {
    let place = folder();
    for (metric, said) in [
        ("{name: x, kind: file}", "the key `target` is missing"),
        ("{name: x, kind: file, target: x.csv, with: {blue: b}}", "`blue` and `green` go together"),
        ("{name: x, kind: file, target: x.csv, with: {blue: b, green: g, side: s}}", "without `side`"),
        ("{name: x, kind: file, target: x.txt}", "nothing says how the file is written"),
        ("{name: x, kind: file, target: \"{{ sied }}.csv\"}", "`{{ sied }}` is not known"),
        ("{name: x, kind: file, target: [a, b]}", "must be one text"),
        ("{name: x, kind: file, target: x.csv, with: {valeu: b}}", "unknown key `valeu`"),
        ("{name: x, kind: command}", "`target` is the command"),
        ("{name: x, kind: command, target: [\"\"]}", "`target` is the command"),
        ("{name: x, kind: command, target: [a, \"{{ b }}\"]}", "`{{ b }}` is not known"),
        ("{name: x, kind: nginx_log, target: a.log, with: {format: combined}}", "does not say which side"),
        (
            "{name: x, kind: nginx_log, with: {format: \"$msec $status $upstream_addr\"}}",
            "`target` is missing",
        ),
        (
            "{name: x, kind: nginx_log, target: a.log, with: {format: \"$msec $status $upstream_addr\", errors: 5x}}",
            "`5x` is no status",
        ),
        ("{name: x, kind: json_log, target: a.log, with: {time: t}}", "add `status`, or a `preset`"),
        ("{name: x, kind: json_log, target: a.log, with: {preset: apache}}", "unknown value `apache`"),
    ] {
        let fault = open(place.path(), metric).err().unwrap();
        let text = fault.to_string() + &format!("{fault:?}");
        assert!(text.contains(said), "{metric}: {text}");
    }
}

fn command(folder: &Path, script: &str, with: &str) -> Box<dyn Source> {
    let path = folder.join("figures.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let target = "[./figures.sh, \"{{ side }}\", \"{{ from }}\", \"{{ to }}\", \"a  b;$(c)\"]";
    open(folder, &format!("{{name: orders, kind: command, target: {target}, with: {{{with}}}}}")).unwrap()
}

#[test]
fn a_command_prints_a_number_lines_or_json() {
    let place = folder();
    for (script, expected) in [
        ("echo 4.5", vec![(END - 1, 4.5)]),
        (
            "echo '1795248000 1'; echo '2026-11-21T08:00:15Z\t2'; echo '1795248060 3'",
            vec![at(0, 1.0), at(15, 2.0)],
        ),
        ("echo '[[1795248000, 1], [1795248015, 2]]'", vec![at(0, 1.0), at(15, 2.0)]),
        ("echo '[{\"time\": 1795248000, \"value\": 1}]'", vec![at(0, 1.0)]),
        ("echo '{\"blue\": [[1795248000, 1]], \"green\": []}'", vec![at(0, 1.0)]),
        ("echo '{\"time\": 1795248000, \"value\": 1}'", vec![at(0, 1.0)]),
        ("echo '[1795248000, 1]'; echo '[1795248015, 2]'", vec![at(0, 1.0), at(15, 2.0)]),
        ("true", vec![]),
    ] {
        let mut source = command(place.path(), script, "");
        assert_eq!(blue(source.as_mut()), Ok(expected), "{script}");
    }
    assert!(blue(command(place.path(), "echo NaN", "").as_mut()).unwrap()[0].1.is_nan());
    for (script, said) in [
        ("echo ok", "`ok` is not a moment and a value"),
        ("echo '1795248000 x'", "line 1 of what it printed: `x` is not a number"),
        ("echo '1795248015 1'; echo '1795248000 1'", "line 2 of what it printed: moments must ascend"),
        ("printf '\\377'", "not UTF-8"),
        ("echo '{}'", "it has no `value`"),
    ] {
        let said_so = blue(command(place.path(), script, "").as_mut()).unwrap_err();
        assert!(said_so.contains(said), "{script}: {said_so}");
    }
}

#[test]
fn a_command_gets_its_words_as_they_are_and_its_environment() {
    let place = folder();
    let script = "printf '%s|' \"$@\" \"$PWD\" \"$WHAT\" \"$TRAPKEY_SIGN_KEY_PEM\" > words; echo 1";
    let mut source = command(place.path(), script, "env: {WHAT: orders}");
    assert_eq!(blue(source.as_mut()).unwrap().len(), 1);
    let words = std::fs::read_to_string(place.path().join("words")).unwrap();
    let here = place.path().canonicalize().unwrap();
    assert_eq!(words, format!("blue|1795248000|1795248060|a  b;$(c)|{}|orders||", here.display()));
    let side = SideOf { word: "blue", url: "http://10.0.0.1:80".into(), release: None };
    let query = source.query(&window(&side, START, END));
    assert_eq!(query, "./figures.sh blue 1795248000 1795248060 a  b;$(c)");
}

#[test]
fn a_command_that_fails_says_so_in_its_last_words() {
    let place = folder();
    let mut source = command(place.path(), "echo 5; echo no orders table >&2; exit 3", "");
    let trouble = points(source.as_mut(), "blue", START, END).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Refused);
    assert!(trouble.message.ends_with("exit 3: no orders table"), "{}", trouble.message);
    let mut missing = open(place.path(), "{name: x, kind: command, target: [./not-there]}").unwrap();
    let trouble = points(missing.as_mut(), "blue", START, END).unwrap_err();
    assert!(trouble.what == TroubleKind::Refused && trouble.message.contains("could not be started"));
}

#[test]
fn a_command_is_ended_at_its_time_limit_and_may_not_print_without_end() {
    let place = folder();
    let mut source = command(place.path(), "sleep 600 & sleep 600", "");
    let side = SideOf { word: "blue", url: "http://10.0.0.1:80".into(), release: None };
    let mut ask = window(&side, START, END);
    ask.limit = Duration::from_millis(300);
    let trouble = source.points(&ask).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Unreachable, "{}", trouble.message);
    let mut source = command(place.path(), "head -c 9000000 /dev/zero | tr '\\0' '1'", "");
    let trouble = points(source.as_mut(), "blue", START, END).unwrap_err();
    assert!(
        trouble.what == TroubleKind::Refused && trouble.message.contains("more than 8 MiB"),
        "{}",
        trouble.message
    );
}

#[test]
fn a_secret_is_neither_among_the_words_of_a_command_nor_in_its_errors() {
    let place = folder();
    trapkey::redact::learn("orders-pass-4711");
    let metric = |with: &str, word: &str| {
        format!(
            "{{name: x, kind: command, target: [./figures.sh, \"{{{{ side }}}}\", {word}], with: {{{with}}}}}"
        )
    };
    let quoted = "\"${TRAPKEY_TEST_UNSET:-orders-pass-4711}\"";
    let fault = open(place.path(), &metric("", quoted)).err().unwrap();
    assert!(format!("{fault:?}").contains("puts a secret among the arguments"), "{fault:?}");
    command(place.path(), "echo \"refused: $PASSWORD\" >&2; exit 1", "");
    let mut source = open(place.path(), &metric(&format!("env: {{PASSWORD: {quoted}}}"), "x")).unwrap();
    let trouble = points(source.as_mut(), "blue", START, END).unwrap_err();
    assert!(trouble.message.ends_with("refused: ***"), "{}", trouble.message);
}
