use super::*;

fn parsed(text: &str) -> Expectation {
    Expectation::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn met(text: &str, observed: impl std::borrow::Borrow<Observed>) -> bool {
    parsed(text).met_by(observed.borrow())
}

/// What is seen.
const TEXTS: &[&str] = &[
    "0.5",
    "0.10",
    "0.1",
    "0.9",
    "0.85",
    "5",
    "5.0",
    "05",
    "1.10",
    "1.1",
    "1.9",
    "3.9",
    "3.10",
    "16.4",
    "1e-3",
    "0.001",
    "-1",
    "+5",
    "9007199254740993",
    "9007199254740992",
    "20260101120000123",
    "20260101120000124",
    "1.2.3",
    "1.10.0",
    "v1.10",
    "1.2.0-rc.1",
    "1.2.0-rc.2",
    "18beta1",
    "18",
    "",
    "ok",
    "FAILED",
    "NaN",
    "inf",
    "0x10",
    "1,5",
    "1_000",
    " 5 ",
    "1.2.3-5-gabcdef",
    "true",
];

const TABLE: &[(&str, &str, &str, &str)] = &[
    (
        "0.10",
        "number",
        ">==>>>>>>>>>>><<<>>>>>------>-------->--",
        "<=<<>>>>>>>>>>-<-->>>>>>>>>>>-------->--",
    ),
    (
        "0.85",
        "number",
        "<<<>=>>>>>>>>><<<>>>>>------>-------->--",
        "<<<<=>>>>>>>>>-<-->>>>>>>>>>>-------->--",
    ),
    ("5", "number", "<<<<<===<<<<<><<<=>>>>------>--------=--", "<<<<<===<<<<<>-<-->>>><<<<<>>--------=--"),
    ("1.1", "either", "<<<<<>>>==>>>><<<>>>>>------>-------->--", "<<<<<>>>>=>>>>-<-->>>>>>>>>>>-------->--"),
    (
        "1.10",
        "either",
        "<<<<<>>>==>>>><<<>>>>>------>-------->--",
        "<<<<<>>>=<<>>>-<-->>>><==<<>>-------->--",
    ),
    (
        "3.10",
        "either",
        "<<<<<>>><<<>=><<<>>>>>------>-------->--",
        "<<<<<>>><<<<=>-<-->>>><<<<<>>-------->--",
    ),
    (
        "1e-3",
        "number",
        ">>>>>>>>>>>>>>==<>>>>>------>-------->--",
        "----------------------------------------",
    ),
    ("0", "number", ">>>>>>>>>>>>>>>><>>>>>------>-------->--", ">>>>>>>>>>>>>>->-->>>>>>>>>>>-------->--"),
    ("-1", "number", ">>>>>>>>>>>>>>>>=>>>>>------>-------->--", "----------------------------------------"),
    (
        "9007199254740993",
        "number",
        "<<<<<<<<<<<<<<<<<<=<>>------<--------<--",
        "<<<<<<<<<<<<<<-<--=<>><<<<<<<--------<--",
    ),
    (
        "20260101120000124",
        "number",
        "<<<<<<<<<<<<<<<<<<<<<=------<--------<--",
        "<<<<<<<<<<<<<<-<--<<<=<<<<<<<--------<--",
    ),
    (
        "1.2.3",
        "version",
        "----------------------------------------",
        "<<<<<>>>><>>>>-<-->>>>=>><<>>-------->--",
    ),
    (
        "v1.9",
        "version",
        "----------------------------------------",
        "<<<<<>>>><=>>>-<-->>>><>><<>>-------->--",
    ),
    (
        "1.2.0-rc.2",
        "version",
        "----------------------------------------",
        "<<<<<>>>><>>>>-<-->>>>>>><=>>-------->--",
    ),
    ("18", "number", "<<<<<<<<<<<<<<<<<<>>>>------=--------<--", "<<<<<<<<<<<<<<-<-->>>><<<<<<=--------<--"),
    ("ok", "none", "----------------------------------------", "----------------------------------------"),
    (
        "FAILED",
        "none",
        "----------------------------------------",
        "----------------------------------------",
    ),
    ("true", "none", "----------------------------------------", "----------------------------------------"),
];
const OPERATORS_OF: [(&str, &str); 6] =
    [("<", "<"), ("<=", "<="), (">", ">"), (">=", ">="), ("=", "="), ("!=", "<>")];

/// Every text, every comparison, every way to say what a text is, against the table: what an order says is met where
/// the sign in the table is one of those that the operator stands for.
#[test]
fn a_text_is_compared_as_what_the_plan_says_and_never_as_a_guess_that_passes() {
    for (operand, class, numbers, versions) in TABLE {
        for (at, text) in TEXTS.iter().enumerate() {
            let sign = |row: &str| row[at..=at].to_owned();
            let (number, version) = (sign(numbers), sign(versions));
            let same = text == operand;
            for (operator, signs) in OPERATORS_OF {
                let orders = operator.contains(['<', '>']);
                let seen = || Observed::Text((*text).to_owned());
                let check = |word: &str, expected: Option<bool>| {
                    let line = format!("{word}{operator} {operand}");
                    let outcome = Expectation::parse(&line)
                        .ok()
                        .and_then(|made| made.fits(Unit::Text).ok().map(|()| made.met_by(&seen())));
                    assert_eq!(outcome, expected, "`{line}` of {text:?}");
                };
                let by =
                    |sign: &str, row: &str| (row != "-".repeat(TEXTS.len())).then(|| signs.contains(sign));
                check("number ", by(&number, numbers));
                check("version ", by(&version, versions));
                check("text ", (!orders).then_some(if operator == "=" { same } else { !same }));
                check(
                    "",
                    match (operator, *class) {
                        ("=", _) => Some(same),
                        ("!=", _) => Some(!same && number != "="),
                        (_, "number") => by(&number, numbers),
                        (_, "version") => by(&version, versions),
                        _ => None,
                    },
                );
                // What JSON says is a number is one, whatever the operand might be besides.
                if let (Some(seen), "number" | "either") = (json_number(text), *class) {
                    let made = parsed(&format!("{operator} {operand}"));
                    assert_eq!(made.fits(Unit::Json), Ok(()));
                    assert_eq!(
                        made.met_by(&Observed::Exact(seen)),
                        signs.contains(&number),
                        "{made} of {text}"
                    );
                }
                // What the kind knows to be a version is one.
                if Version::parse(operand).is_some() {
                    let made = parsed(&format!("{operator} {operand}"));
                    assert_eq!(made.fits(Unit::Version), Ok(()));
                    let seen = Observed::Version((*text).to_owned());
                    assert_eq!(made.met_by(&seen), signs.contains(&version), "{made} of {text}");
                }
            }
            assert_eq!(met(&format!("in x, {operand}"), Observed::Text((*text).to_owned())), same);
        }
    }
}

fn json_number(text: &str) -> Option<Decimal> {
    serde_json::from_str::<serde_json::Number>(text).ok().and_then(|_| Decimal::parse(text))
}

#[test]
fn compares_with_units_and_never_passes_on_nan() {
    assert!(met("<= 100ms", Observed::Number(0.1, Unit::Duration)));
    assert!(!met("<= 100ms", Observed::Number(0.1001, Unit::Duration)));
    assert!(met("200", Observed::Number(200.0, Unit::Plain)));
    assert!(met("in 200, 204", Observed::Number(204.0, Unit::Plain)));
    assert!(met("number = 2e2", Observed::Number(200.0, Unit::Plain)));
    assert!(!met("9007199254740993", Observed::Number(9_007_199_254_740_992.0, Unit::Plain)));
    assert!(met("<= 1e-3", Observed::Number(0.001, Unit::Plain)));
    assert!(!met("<= 1e-3", Observed::Number(0.0011, Unit::Share)));
    assert!(met("~ ^o.k$", Observed::Text("o k".into())));
    assert!(met("true", Observed::Flag(true)) && !met("!= true", Observed::Flag(true)));
    let least = |text: &str, seen: &str| parsed(text).or_at_least().met_by(&Observed::Version(seen.into()));
    assert!(least("1.2", "1.3") && !least("1.2", "1.1") && least("1.9", "1.10"));
    assert!(!least("== 1.2", "1.3") && !least("in 1.2, 1.4", "1.3"));
    for text in ["<= 1", ">= 1", "!= 1", "1", "in 1, 2"] {
        assert!(!met(text, Observed::Number(f64::NAN, Unit::Plain)), "{text}");
        assert!(!met(text, Observed::Number(f64::NAN, Unit::Share)), "{text}");
    }
}

#[test]
fn what_says_nothing_or_two_things_is_refused() {
    let text = Expectation::parse("text != ~ fail").unwrap();
    assert!(text.met_by(&Observed::Text("fail".into())) && !text.met_by(&Observed::Text("~ fail".into())));
    for text in [
        "~ (",
        "=> 5",
        "=< 5",
        "<> 5",
        "=~ ^ok",
        "!~ ^ok",
        "~= ok",
        "! FAILED",
        "!FAILED",
        "!== 5",
        "!= ~ fail",
        "!= > 3",
        "!=>= 3",
        "!= in failed, broken",
        "=== 5",
        "≥ 5",
        "≠ 5",
        ">",
        "<=",
        "~",
        "in 1,, 2",
        "number ~ 5",
        "version ~ 1",
        "number >= five",
        "number = 1__0",
        "version >= latest",
        "text > apple",
        "number in 1, two",
        "version ! 5",
    ] {
        assert!(Expectation::parse(text).is_err(), "{text:?}");
    }
    let unfit = [
        (Unit::Duration, "<= 100"),
        (Unit::Duration, "number <= 100ms"),
        (Unit::Plain, "version >= 1.2"),
        (Unit::Plain, "~"),
        (Unit::Plain, "five"),
        (Unit::Plain, "1__0"),
        (Unit::Flag, "> false"),
        (Unit::Flag, "yes"),
        (Unit::Flag, "text = true"),
        (Unit::Text, "> apple"),
        (Unit::Text, "<= 100ms"),
        (Unit::Text, ">= 1.10"),
        (Unit::Text, "> 5, < 7"),
        (Unit::Json, "> apple"),
        (Unit::Json, "<= 100ms"),
        (Unit::Version, "latest"),
        (Unit::Version, "TLSv1.2"),
        (Unit::Version, "number >= 1.2"),
    ];
    for (unit, text) in unfit {
        assert!(Expectation::parse(text).is_err() || parsed(text).fits(unit).is_err(), "{unit:?} {text:?}");
    }
    for (text, seen) in [
        ("= <html>", "<html>"),
        ("= = 5", "= 5"),
        ("version 1.2", "version 1.2"),
        ("text", "text"),
        ("number  =  5", "5.0"),
        ("numbers", "numbers"),
        ("in", "in"),
        ("inside", "inside"),
        ("", ""),
        ("=", ""),
    ] {
        assert!(met(text, Observed::Text(seen.into())), "{text:?}");
    }
    assert!(!met("!=", Observed::Text(String::new())) && met("!=", Observed::Text("x".into())));
}

#[test]
fn a_list_is_any_of_its_values_as_they_stand() {
    let any =
        |items: &[&str]| Expectation::any_of(&items.iter().map(ToString::to_string).collect::<Vec<_>>());
    let with_comma = any(&["a, b", "c"]).unwrap();
    assert!(
        with_comma.met_by(&Observed::Text("a, b".into())) && !with_comma.met_by(&Observed::Text("a".into()))
    );
    assert!(any(&["200", "204"]).unwrap().met_by(&Observed::Number(204.0, Unit::Plain)));
    for wrong in [&[][..], &[""], &[">= 1", "< 5"], &["a", "~ b"], &["=> 5"], &["in 1, 2"]] {
        assert!(any(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_name_that_may_be_of_a_version_makes_a_decimal_unclear() {
    for (name, text, unclear) in [
        ("/app/version", ">= 1.10", true),
        ("header:x-release", "> 0.9", true),
        ("/apiVersion", "< 2.0", true),
        ("/app/version", "version >= 1.10", false),
        ("/app/version", "number >= 1.10", false),
        ("/app/version", "1.10", false),
        ("/app/version", ">= 2", false),
        ("/app/version", ">= 1.10.0", false),
        ("/accuracy", ">= 0.85", false),
    ] {
        assert_eq!(parsed(text).unclear(name).is_some(), unclear, "{name}: {text}");
    }
}

#[test]
fn it_says_why_two_things_do_not_compare() {
    let why = |text: &str, seen: Observed| parsed(text).judge(&seen).unwrap_err();
    let text = |text: &str| Observed::Text(text.into());
    assert_eq!(why(">= 3", text("v3")), "`v3` is no number");
    assert_eq!(
        why(">= 1.10", text("1.9")),
        "`1.10` may be a number or a version; write `number >= 1.10` or `version >= 1.10`"
    );
    assert_eq!(
        why("!= 0", text("0.0")),
        "another text, but the same number; write `number != 0` or `text != 0`"
    );
    assert_eq!(why("5", text("5.00")), "another text, but the same number; write `number = 5` or `text = 5`");
    assert_eq!(why("version > 1.2.3", text("1.2.3-5-gabcdef")), "`1.2.3-5-gabcdef` is no version");
    assert_eq!(why("ok", Observed::Exact(Decimal::parse("5").unwrap())), "`ok` is no number");
    assert_eq!(why("yes", Observed::Flag(true)), "`yes` is not true or false");
}

/// What a variable holds is a value, whatever it looks like: in each comparison, each value that looks like another one.
#[test]
fn the_value_of_a_variable_is_neither_a_comparison_nor_a_pattern_nor_a_list() {
    let read = |text: &str, value: &str| {
        let node = crate::yaml::Node::text(text, crate::yaml::Place { line: 1, column: 1 });
        node.read::<Expectation>(&|_: &str| Some(value.to_owned()))
    };
    let met =
        |text: &str, value: &str, seen: &str| read(text, value).unwrap().met_by(&Observed::Text(seen.into()));
    for value in
        [".*", "a|b", "a.c", "[", "(?i)x", "^", "$", "\\d", ">0", "!= x", "in a, b", "~ .", "version >= 1"]
    {
        assert!(met("~ ^${X}$", value, value), "{value}");
        assert!(!met("~ ^${X}$", value, "another"), "{value}");
        assert!(met("= ${X}", value, value), "{value}");
        assert!(!met("!= ${X}", value, value), "{value}");
        assert!(met("!= ${X}", value, "another"), "{value}");
        assert!(met("in ${X}, z", value, value) && met("in ${X}, z", value, "z"), "{value}");
        assert!(!met("in ${X}, z", value, "a") && !met("in ${X}, z", value, "b"), "{value}");
    }
    for comparison in [">0", ">= 5", "!= x", "~ .*", "in a, b", "version >= 1.2", "<html>"] {
        let why = format!("{:?}", read("${X}", comparison).unwrap_err());
        assert!(why.contains("write the comparison in the plan"), "{comparison}: {why}");
    }
    for plain in ["5", "1.4.2", "version 2", "text", "a, b", ""] {
        assert!(met("${X}", plain, plain), "{plain}");
    }
    assert!(met("> ${X}", "5", "6") && !met("> ${X}", "5", "5"));
    assert!(read("> ${X}", "> 5").unwrap().judge(&Observed::Text("6".into())).is_err());
    assert!(
        read("~ ${X:-[}", "").unwrap().met_by(&Observed::Text("[".into())),
        "a default is a value as well"
    );
    assert!(
        read("~ ^a${X}", "\u{fdd0}0\u{fdd1}").unwrap().met_by(&Observed::Text("a\u{fdd0}0\u{fdd1}".into()))
    );
    assert!(read("~ \u{fdd0}${X}", "a").is_err());
}
