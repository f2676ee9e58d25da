use super::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some fields are only there to be refused")]
struct Sample {
    version: String,
    #[serde(default)]
    retries: Option<u32>,
    #[serde(default)]
    keep: Option<bool>,
}

fn read(text: &str) -> Result<Sample, Problem> {
    parse(text)?.read(&|name: &str| (name == "V").then(|| "1.10".to_owned()))
}

#[test]
fn keeps_the_text_of_a_version_and_of_a_country() {
    assert_eq!(read("version: 1.10").map(|s| s.version).ok().as_deref(), Some("1.10"));
    assert_eq!(read("version: NO").map(|s| s.version).ok().as_deref(), Some("NO"));
    assert_eq!(read("version: ${V}-a").map(|s| s.version).ok().as_deref(), Some("1.10-a"));
    assert_eq!(read("version: ${W:-x}").map(|s| s.version).ok().as_deref(), Some("x"));
}

#[test]
fn says_where_and_what_was_expected() {
    let cases = [
        ("version: 1\nretries: many", 2, 10, "expected a whole number, found `many`"),
        ("version: 1\nkeep: yes", 2, 7, "expected true or false, found `yes`"),
        ("version: 1\nretires: 2", 2, 1, "unknown key `retires`"),
        ("version: 1\nversion: 2", 2, 1, "the key `version` is given twice, first on line 1"),
        ("version: ${W}", 1, 10, "the variable `W` is not set"),
        ("retries: 2", 1, 1, "the key `version` is missing here"),
        ("version: [1", 1, 12, "not YAML"),
    ];
    for (text, line, column, message) in cases {
        let problem = read(text).map(|_| ()).unwrap_err();
        assert!(problem.message.contains(message), "{text:?}: {problem:?}");
        let place = problem.place.unwrap_or_default();
        assert_eq!(place.line, line, "{text:?}: {problem:?}");
        if message != "not YAML" {
            assert_eq!(place.column, column, "{text:?}: {problem:?}");
        }
    }
    assert!(read("version: 1\nretires: 2").unwrap_err().help.unwrap_or_default().contains("`retries`"));
}

#[test]
fn names_the_variables_of_a_text_and_those_that_are_not_set() {
    assert_eq!(variables_in("${A}-${B:-b}$${C}${D"), [("A", None), ("B", Some("b"))]);
    assert_eq!(variables_in("${A:-}"), [("A", Some(""))]);
    let node = parse("a: [x, {b: \"${V}${W:-w}\"}]\nc: ${X}").unwrap();
    let set = |name: &str| (name == "V").then(|| "v".to_owned());
    assert_eq!(node.unset(&set).as_deref(), Some("X"));
    assert_eq!(node.get("a").and_then(|a| a.unset(&set)), None);
}

#[test]
fn refuses_a_yaml_bomb() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = i - 1;
        text.push_str(&format!("a{i}: &a{i} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n"));
    }
    assert!(parse(&text).unwrap_err().message.contains("more than 50000 values"));
    assert!(parse(&"[".repeat(5000)).is_err());
}

/// The tree as one line, to be compared with what another reader made of the same text: texts that had quotes, or a
/// tag that says so, in quotes.
fn line(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, plain: true } => text.clone(),
        Value::Scalar { text, plain: false } => format!("{text:?}"),
        Value::Sequence(items) => format!("[{}]", items.iter().map(line).collect::<Vec<_>>().join(", ")),
        Value::Mapping(entries) => {
            let entry = |(key, value): &(Node, Node)| format!("{}: {}", line(key), line(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The example of <https://yaml.org/type/merge.html>, and what PyYAML 6 makes of the rest, but for a merge inside of
/// what is merged, where it lets the innermost win.
#[test]
fn merge_keys_fill_in_what_is_not_there() {
    let four = "- &CENTER {x: 1, y: 2}\n- &LEFT {x: 0, y: 2}\n- &BIG {r: 10}\n- &SMALL {r: 1}\n";
    let table = [
        ("- {<<: *CENTER, r: 10, label: a}", "{x: 1, y: 2, r: 10, label: a}"),
        ("- {<<: [*CENTER, *BIG], label: a}", "{x: 1, y: 2, r: 10, label: a}"),
        ("- {<<: [*BIG, *LEFT, *SMALL], x: 1, label: a}", "{r: 10, y: 2, x: 1, label: a}"),
        // Own keys win wherever they stand, also with nothing as their value.
        ("- {x: 5, <<: *CENTER}", "{x: 5, y: 2}"),
        ("- {<<: *CENTER, x: 5}", "{y: 2, x: 5}"),
        ("- {<<: *CENTER, x: }", "{y: 2, x: ~}"),
        // Of a list, the earlier one.
        ("- {<<: [*LEFT, *CENTER]}", "{x: 0, y: 2}"),
        ("- {<<: []}", "{}"),
        ("- {<<: {a: 1, <<: {a: 2, b: 3}}, b: 4}", "{a: 1, b: 4}"),
        ("- &A {<<: *BIG, s: 1}\n- {<<: *A, r: 2}", "{s: 1, r: 2}"),
        // What is merged is whole: nothing is merged inside of it.
        ("- &D {with: {a: 1}, n: 2}\n- {<<: *D, with: {b: 1}}", "{n: 2, with: {b: 1}}"),
        // In quotes it is a key as any other.
        ("- {\"<<\": *BIG}", "{\"<<\": {r: 10}}"),
    ];
    for (text, expected) in table {
        let root = parse(&format!("{four}{text}")).unwrap_or_else(|p| panic!("{text}: {p:?}"));
        let Value::Sequence(items) = &root.value else { panic!("{text}") };
        assert_eq!(items.last().map(line).as_deref(), Some(expected), "{text}");
    }
    for (text, words) in [
        ("- {<<: *CENTER, <<: *BIG}", "given twice"),
        ("- {<<: 5}", "merges blocks of keys, this is `5`"),
        ("- {<<: }", "merges blocks of keys, this is nothing"),
        ("- {<<: [*CENTER, [*BIG]]}", "merges blocks of keys, this is a list"),
        ("- &S {<<: *S}", "an alias inside the value it names"),
        ("- {<<: *NONE}", "not YAML"),
        ("- {<<: *CENTER, r: 1, r: 2}", "the key `r` is given twice"),
    ] {
        let problem = parse(&format!("{four}{text}")).unwrap_err();
        assert!(problem.message.contains(words), "{text}: {problem:?}");
    }
    // A place is that of the line that was written.
    let root = parse("a: &a\n  n: x\nb:\n  <<: *a\n").unwrap();
    assert_eq!(root.get("b").and_then(|b| b.get("n")).map(|n| n.place), Some(Place { line: 2, column: 6 }));
}

#[test]
fn merges_of_merges_do_not_grow_without_end() {
    let mut text = "a0: &a0 {k: [x, x, x, x, x, x, x, x, x, x]}\n".to_owned();
    for i in 1..14 {
        let keys: String = (0..5).map(|k| format!(", k{k}: *a{}", i - 1)).collect();
        text.push_str(&format!("a{i}: &a{i} {{<<: *a{}{keys}}}\n", i - 1));
    }
    assert!(parse(&text).unwrap_err().message.contains("more than 50000 values"));
}

#[test]
fn a_comparison_without_quotes_is_never_read_as_something_else() {
    // What YAML makes of each, by its own grammar: a tag, a block of text, an alias, an anchor, a reserved sign.
    for value in [
        "!= FAILED",
        "!=FAILED",
        "! FAILED",
        "!FAILED",
        "!~ x",
        "!",
        "!=",
        "!foo bar",
        "!!binary aGk=",
        "!!set {a}",
        "!!timestamp 2001-01-01",
        "!!python/object:x {}",
        "!<!x> a",
        "!e!x a",
        "> 5",
        ">5",
        ">9",
        ">= 5",
        ">=5",
        ">",
        ">-",
        ">1-",
        "> x",
        "|",
        "| 5",
        "|5",
        "*ok",
        "&ok",
        "@ok",
        "`ok`",
        "%ok",
    ] {
        for text in [
            format!("expect:\n  stdout: {value}\n"),
            format!("expect:\n  stdout: {value}\n  exit: 0\n"),
            format!("expect: {{stdout: {value}}}"),
            format!("expect: {{exit: 0, stdout: {value}}}\nx: 1"),
            format!("- {value}\n- 1"),
        ] {
            // An anchor on nothing is nothing, which no comparison is.
            let read = parse(&text).ok().filter(|_| !value.starts_with('&'));
            assert!(read.is_none(), "{text:?}: {read:?}");
        }
    }
    for (value, help) in [
        ("!= FAILED", "quotes: \"!= FAILED\""),
        ("!FAILED", "quotes: \"!FAILED\""),
        ("> 5", "quotes: \"> 5\""),
        (">5", "quotes: \">5\""),
        (">= 5", "quotes: \">= 5\""),
        ("*ok", "quotes: \"*ok\""),
        ("!= \"x\"", "quotes: \"!= \\\"x\\\"\""),
    ] {
        for text in [
            format!("expect:\n  stdout: {value}\n  exit: 0\n"),
            format!("a: {{expect: {{stdout: {value}}}}}"),
        ] {
            // In a flow `>` begins no block, so that the whole is a text.
            let Err(problem) = parse(&text) else { panic!("{text:?}") };
            assert!(problem.help.as_deref().unwrap_or_default().contains(help), "{text:?}: {problem:?}");
        }
    }
    // Signs that are a part of the value.
    for value in ["<= 5", "= 5", "== 5", "~ ^ok", "in 1, 2", "number > 5", "a > 5", "\"!= 5\"", "'> 5'"] {
        assert!(parse(&format!("a: {value}")).is_ok(), "{value}");
    }
}

/// Shapes as the YAML test suite has them; the blocks of text are what PyYAML 6 reads.
#[test]
fn blocks_of_text_and_core_tags_are_read_as_yaml_says() {
    for (name, text, expected) in [
        (
            "4QFQ",
            "- >\n folded\n text\n- |\n  literal\n   text\n",
            "[\"folded text\\n\", \"literal\\n text\\n\"]",
        ),
        ("5GBF", "a: |\n  x\n\n  y\nb: >-\n  x\n  y\n", "{a: \"x\\n\\ny\\n\", b: \"x y\"}"),
        (
            "A6F9",
            "strip: |-\n  text\nclip: |\n  text\nkeep: |+\n  text\n\n",
            "{strip: \"text\", clip: \"text\\n\", keep: \"text\\n\\n\"}",
        ),
        (
            "P2AD",
            "- | # c\n  literal\n- >+ # c\n  keep\n\n- |1-\n  text\n",
            "[\"literal\\n\", \"keep\\n\\n\", \" text\"]",
        ),
        (
            "74H7",
            "!!str a: b\nc: !!int 42\ne: !!str f\ng: h\n!!str 23: !!bool false\n",
            "{\"a\": b, c: 42, e: \"f\", g: h, \"23\": false}",
        ),
        (
            "57H4",
            "sequence: !!seq\n- entry\n- !!seq\n - nested\nmapping: !!map\n foo: bar\n",
            "{sequence: [entry, [nested]], mapping: {foo: bar}}",
        ),
        ("C4HZ", "%TAG ! tag:yaml.org,2002:\n---\na: !str 5\n", "{a: \"5\"}"),
        ("7FWL", "a: !<tag:yaml.org,2002:str> 5\n", "{a: \"5\"}"),
        (
            "tags of numbers",
            "[!!int \"5\", !!float \"1e3\", !!bool \"true\", !!null \"\", !!int \"${N}\"]",
            "[5, 1e3, true, , ${N}]",
        ),
    ] {
        match parse(text) {
            Ok(root) => assert_eq!(line(&root), expected, "{name}"),
            Err(problem) => panic!("{name}: {problem:?}"),
        }
    }
    for wrong in [
        "!!int five",
        "!!int 1.5",
        "!!float x",
        "!!bool yes",
        "!!null x",
        "!!seq x",
        "!!map x",
        "!!str [a]",
        "!!map [a]",
        "!!seq {a: 1}",
    ] {
        assert!(parse(&format!("a: {wrong}")).is_err(), "{wrong}");
    }
    let read = |text: &str| -> Result<Sample, Problem> { parse(text)?.read(&|_: &str| None) };
    assert!(
        read("version: !!str 1.10\nretries: !!int \"3\"")
            .is_ok_and(|s| s.version == "1.10" && s.retries == Some(3))
    );
    assert!(read("version: 1\nretries: !!str 3").is_err());
}

#[test]
fn a_variable_in_a_key_is_refused_wherever_it_stands() {
    for text in [
        "${A}: 1",
        "a: {\"${A}\": 1}",
        "a: [{\"x${A:-b}y\": 1}]",
        "a:\n  header:${A}: 1",
        "? ${A}\n: 1",
        "x-mine: {'${A}': 1}",
    ] {
        let problem = parse(text).unwrap_err();
        assert!(problem.message.contains("holds a variable"), "{text}: {problem:?}");
    }
    assert!(parse("a: {$A: 1, \"{b}\": 2, c$: \"${A}\"}").is_ok());
}

#[test]
fn a_mark_in_front_and_the_ways_of_other_programs_do_no_harm() {
    assert_eq!(parse("\u{feff}a: 1").map(|root| line(&root)).ok().as_deref(), Some("{a: 1}"));
    assert_eq!(parse("\u{feff}---\r\na: 1\r\n").map(|root| line(&root)).ok().as_deref(), Some("{a: 1}"));
    let fault = parse("\u{feff}a: 1\na: 2").unwrap_err().into_fault("release.yaml", "\u{feff}a: 1\na: 2");
    assert!(fault.place.unwrap().contains("release.yaml:2:1"));
    // A Compose file.
    let compose = "services: {web: {ports: !reset [], env: !override {\"${A}\": 1}, cmd: >5\n}}";
    let compose = compose.replace(", cmd: >5\n", "");
    assert!(parse(&compose).is_err());
    assert_eq!(
        parse_foreign(&compose).map(|root| line(&root)).ok().as_deref(),
        Some("{services: {web: {ports: [], env: {\"${A}\": 1}}}}")
    );
}
