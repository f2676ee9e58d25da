//! What was seen against what was expected: pure, and never a pass without an observation.

use serde_json::{Value, json};

use super::Sight;
use crate::evidence::Verdict;
use crate::expectation::Expectation;
use crate::redact::redact;
use crate::units::Observed;

/// One comparison of a check.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// What is observed.
    pub(super) name: String,
    /// What it must be.
    pub(super) is: Expectation,
    /// The same for people, variables by name.
    pub(super) shown: String,
    /// Whether the kind presumes it and the plan says nothing about it.
    pub(super) presumed: bool,
}

/// What came of all lines together.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) observed: Option<String>,
    pub(super) expected: Option<String>,
    pub(super) value: Option<f64>,
    pub(super) unit: Option<&'static str>,
    pub(super) message: String,
    pub(super) evidence: Value,
}

/// One line with what was seen of it.
struct Compared<'a> {
    line: &'a Line,
    /// What was seen under its name: several only where a name stands for several, as `Set-Cookie` does.
    observed: Vec<&'a Observed>,
    hidden: bool,
    verdict: Verdict,
    /// Why the two could not be compared.
    unlike: Option<String>,
}

/// Compares. One line that fails makes a failure; one without an observation makes `no_data`.
pub(super) fn evaluate(lines: &[Line], sight: &Sight) -> Outcome {
    let compared: Vec<Compared<'_>> = lines.iter().map(|line| compare(line, sight)).collect();
    let has = |verdict| compared.iter().any(|c| c.verdict == verdict);
    let verdict = if has(Verdict::Fail) {
        Verdict::Fail
    } else if has(Verdict::NoData) || compared.is_empty() {
        Verdict::NoData
    } else {
        Verdict::Pass
    };
    let told = told(&compared, verdict);
    let figure =
        told.iter().filter(|c| !c.hidden).find_map(|c| c.observed.first().and_then(|seen| seen.figure()));
    let figure = figure.filter(|(value, _)| value.is_finite());
    Outcome {
        verdict,
        observed: observed(&told),
        expected: expected(&told),
        value: figure.map(|(value, _)| value),
        unit: figure.map(|(_, unit)| unit).filter(|unit| !unit.is_empty()),
        message: message(&told, verdict, sight),
        evidence: evidence(&compared, sight),
    }
}

fn verdict(passed: bool) -> Verdict {
    if passed { Verdict::Pass } else { Verdict::Fail }
}

fn compare<'a>(line: &'a Line, sight: &'a Sight) -> Compared<'a> {
    let named = sight.seen.iter().filter(|(name, _)| *name == line.name);
    let observed: Vec<&Observed> = named.map(|(_, observed)| observed).collect();
    let endless = |seen: &&Observed| matches!(seen, Observed::Number(number, _) if !number.is_finite());
    let mut unlike = None;
    // `~ .*` would match the word NaN.
    let verdict = if observed.is_empty() || observed.iter().any(endless) {
        Verdict::NoData
    } else if let ([Observed::Text(text)], true) = (&observed[..], sight.cut.contains(&line.name)) {
        if line.is.met_by_the_beginning(text) { Verdict::Pass } else { Verdict::NoData }
    } else {
        let mut met = observed.iter().map(|seen| {
            line.is.judge(seen).unwrap_or_else(|why| {
                unlike.get_or_insert(why);
                false
            })
        });
        // Of several values one is what is looked for, and all are not what must not be.
        let mut lines = sight.lines.iter().filter(|(name, _)| *name == line.name).peekable();
        if line.is.excludes() {
            // Of nothing at all it is not known what it is not; `= []` asks whether a list is empty.
            let nothing = sight.several.contains(&line.name) && lines.peek().is_none();
            let none = met.all(|met| met) && lines.all(|(_, text)| line.is.judge(text).unwrap_or(false));
            if none && nothing { Verdict::NoData } else { verdict(none) }
        } else {
            verdict(met.any(|met| met))
        }
    };
    let hidden = sight.hidden.contains(&line.name.as_str());
    let unlike = unlike.filter(|_| verdict == Verdict::Fail && !hidden);
    Compared { line, observed, hidden, verdict, unlike }
}

/// The lines worth telling: what decided, and without that what the plan asked for.
fn told<'a, 'b>(compared: &'b [Compared<'a>], verdict: Verdict) -> Vec<&'b Compared<'a>> {
    if verdict != Verdict::Pass {
        return compared.iter().filter(|c| c.verdict == verdict).collect();
    }
    let asked: Vec<_> = compared.iter().filter(|c| !c.line.presumed).collect();
    if asked.is_empty() { compared.iter().collect() } else { asked }
}

/// Where all lines are of one name, it stands before what was seen and need not stand before what was expected:
/// `exit 1`, expected `0`.
fn of_one_name(told: &[&Compared<'_>]) -> bool {
    let first = told.first().map(|c| &c.line.name);
    told.iter().all(|c| Some(&c.line.name) == first)
}

fn observed(told: &[&Compared<'_>]) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for c in told {
        let Some(shown) = c.shown() else { continue };
        let part = format!("{} {shown}", c.line.name);
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn expected(told: &[&Compared<'_>]) -> Option<String> {
    // Without anything seen, the name stands nowhere else.
    let bare = of_one_name(told) && told.iter().any(|c| c.shown().is_some());
    let part = |c: &&Compared<'_>| if bare { c.wanted() } else { format!("{} {}", c.line.name, c.wanted()) };
    let parts: Vec<String> = told.iter().map(part).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn message(told: &[&Compared<'_>], verdict: Verdict, sight: &Sight) -> String {
    let mut parts: Vec<String> = Vec::new();
    for c in told {
        let shown = c.shown().unwrap_or_else(|| "nothing".into());
        let part = match verdict {
            Verdict::Pass => format!("{} {shown}", c.line.name),
            Verdict::Fail => {
                let unlike =
                    c.unlike.as_ref().map(|why| format!(": {}", visible(why, 300))).unwrap_or_default();
                format!("{} is {shown}, expected {}{unlike}", c.line.name, c.wanted())
            }
            _ => format!("no data on {}, expected {}", c.line.name, c.wanted()),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    let note = sight.note.as_deref().filter(|_| verdict != Verdict::Pass);
    let note = note.map(|note| format!(" ({})", plain(note, 300))).unwrap_or_default();
    format!("{}{note}", parts.join("; "))
}

fn evidence(compared: &[Compared<'_>], sight: &Sight) -> Value {
    let lines: Vec<Value> = compared
        .iter()
        .map(|c| {
            json!({
                "name": c.line.name,
                "expected": c.wanted(),
                "observed": c.shown(),
                "verdict": c.verdict.word(),
                "presumed": c.line.presumed,
            })
        })
        .collect();
    let mut seen = serde_json::Map::new();
    for (name, observed) in &sight.seen {
        if !sight.hidden.contains(&name.as_str()) {
            let shown = plain(&observed.to_string(), 300);
            match seen.get_mut(name) {
                Some(Value::String(before)) => *before = format!("{before}\n{shown}"),
                _ => drop(seen.insert(name.clone(), Value::String(shown))),
            }
        }
    }
    let mut all = sight.details.clone();
    all.insert("expectations".into(), Value::Array(lines));
    all.insert("seen".into(), Value::Object(seen));
    Value::Object(all)
}

impl Compared<'_> {
    fn shown(&self) -> Option<String> {
        match (self.observed.is_empty(), self.hidden) {
            (true, _) => None,
            (false, true) if self.verdict == Verdict::Pass => Some("matches".into()),
            (false, true) => Some("something else".into()),
            _ => Some(self.observed.iter().map(|seen| show(seen)).collect::<Vec<_>>().join(" and ")),
        }
    }

    fn wanted(&self) -> String {
        // An equality that is met would tell the value.
        if self.hidden { "as in the plan".into() } else { visible(&self.line.shown, 300) }
    }
}

fn show(observed: &Observed) -> String {
    match observed {
        Observed::Text(text) => format!("`{}`", visible(text, 160)),
        Observed::Version(_) | Observed::Exact(_) => visible(&observed.to_string(), 160),
        other => other.to_string(),
    }
}

/// A text on one line in which everything is seen: what does not show on a screen, such as the end of a line, is
/// written as Rust and JSON write it. Secrets are left out first.
fn visible(text: &str, most: usize) -> String {
    let text = redact(text);
    let mut out = String::new();
    for (number, c) in text.chars().enumerate() {
        if number == most {
            out.push('…');
            break;
        }
        if c.is_control() || (c.is_whitespace() && c != ' ') || is_invisible(c) {
            out.extend(c.escape_debug());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters without width, and those that turn the direction of others.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A text on one line without control characters, secrets left out before it is cut: half a secret
/// would no longer be recognised as one.
pub(super) fn plain(text: &str, most: usize) -> String {
    let text = redact(text);
    let mut out: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    if text.trim().chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Unit;

    fn line(name: &str, is: &str) -> Line {
        Line { name: name.into(), is: Expectation::parse(is).unwrap(), shown: is.to_owned(), presumed: false }
    }

    #[test]
    fn never_passes_on_nothing() {
        let cases = [
            (Sight::default(), "~ .*"),
            (Sight::default().number("x", f64::NAN, Unit::Plain), "~ .*"),
            (Sight::default().number("x", f64::INFINITY, Unit::Plain), ">= 1"),
            (Sight::default().number("y", 1.0, Unit::Plain), ">= 1"),
        ];
        for (sight, is) in cases {
            let outcome = evaluate(&[line("x", is)], &sight);
            assert_eq!(outcome.verdict, Verdict::NoData, "{sight:?}");
            assert!(outcome.message.starts_with("no data on x"), "{}", outcome.message);
        }
        assert_eq!(evaluate(&[], &Sight::default()).verdict, Verdict::NoData);
    }

    #[test]
    fn what_is_not_in_the_beginning_of_a_text_may_be_in_its_rest() {
        let sight =
            Sight::default().saw_beginning("out", "ready: yes, and").note("only its beginning was read");
        for (is, verdict) in [
            ("~ ready: yes", Verdict::Pass),
            ("~ ^ready", Verdict::Pass),
            // Each of these may be otherwise with what follows.
            ("~ and$", Verdict::NoData),
            ("~ ^ready: yes, and$", Verdict::NoData),
            (r"~ and\b", Verdict::NoData),
            (r"~ and\z", Verdict::NoData),
            ("~ FAILED", Verdict::NoData),
            ("ready: yes, and", Verdict::NoData),
            ("== ready: yes, and", Verdict::NoData),
            ("!= FAILED", Verdict::NoData),
            ("in a, ready: yes, and", Verdict::NoData),
        ] {
            let outcome = evaluate(&[line("out", is)], &sight);
            assert_eq!(outcome.verdict, verdict, "{is}");
            let told = verdict == Verdict::Pass || outcome.message.ends_with("(only its beginning was read)");
            assert!(told, "{}", outcome.message);
        }
        let empty = Sight::default().saw_beginning("out", "");
        for is in ["", "~ ^$", "~ ^", "!= FAILED", "~ .*"] {
            assert_eq!(evaluate(&[line("out", is)], &empty).verdict, Verdict::NoData, "{is}");
        }
    }

    #[test]
    fn tells_what_decided_and_its_figure() {
        let sight =
            Sight::default().number("status", 200.0, Unit::Plain).number("latency", 0.203, Unit::Duration);
        let lines = [line("status", ">= 200"), line("status", "< 300"), line("latency", "<= 100ms")];
        let outcome = evaluate(&lines, &sight);
        assert_eq!(outcome.verdict, Verdict::Fail);
        assert_eq!(outcome.observed.as_deref(), Some("latency 203 ms"));
        assert_eq!(outcome.expected.as_deref(), Some("<= 100ms"));
        assert_eq!((outcome.value, outcome.unit), (Some(203.0), Some("ms")));
        assert_eq!(outcome.message, "latency is 203 ms, expected <= 100ms");
        let passed = evaluate(&lines[..2], &sight);
        assert_eq!(passed.verdict, Verdict::Pass);
        assert_eq!(passed.observed.as_deref(), Some("status 200"));
        assert_eq!(passed.expected.as_deref(), Some(">= 200, < 300"));
    }

    #[test]
    fn what_a_number_is_and_what_does_not_show_is_told() {
        let told = |name: &str, is: &str, seen: Observed| {
            let outcome = evaluate(&[line(name, is)], &Sight::default().saw(name, seen));
            (outcome.observed.unwrap(), outcome.expected.unwrap(), outcome.message)
        };
        let number = Observed::Number(1.0, Unit::Plain);
        assert_eq!(told("exit", "0", number), ("exit 1".into(), "0".into(), "exit is 1, expected 0".into()));
        let hidden = "o\u{200b}k\r\n\t\u{a0}\u{1b}[1m";
        let shown = "`o\\u{200b}k\\r\\n\\t\\u{a0}\\u{1b}[1m`";
        let message = told("body", "ok", Observed::Text(hidden.into())).2;
        assert_eq!(message, format!("body is {shown}, expected ok"));
        let why = told("stdout", ">= 3", Observed::Text("three".into())).2;
        assert_eq!(why, "stdout is `three`, expected >= 3: `three` is no number");
    }

    #[test]
    fn of_several_values_one_is_it_and_none_is_what_must_not_be() {
        let verdict = |is: &str| {
            let cookie = |text: &str| Observed::Text(text.into());
            let sight = Sight::default().saw("c", cookie("a=1")).saw("c", cookie("s=2; Secure"));
            evaluate(&[line("c", is)], &sight).verdict
        };
        assert_eq!(verdict("~ ^s=.*Secure"), Verdict::Pass);
        assert_eq!(verdict("a=1"), Verdict::Pass);
        assert_eq!(verdict("~ ^a=.*Secure"), Verdict::Fail);
        assert_eq!(verdict("!= a=1"), Verdict::Fail);
        assert_eq!(verdict("!= a=2"), Verdict::Pass);
    }

    #[test]
    fn what_must_not_be_is_no_line_of_a_text_either() {
        let verdict = |is: &str| {
            let sight = Sight::default().saw("h", Observed::Text("1.4.2, 1.4.1".into()));
            let sight = sight.line_of("h", "1.4.2").line_of("h", "1.4.1").line_of("other", "9");
            evaluate(&[line("h", is)], &sight).verdict
        };
        assert_eq!(verdict("!= 1.4.1"), Verdict::Fail);
        assert_eq!(verdict("!= 1.4.3"), Verdict::Pass);
        assert_eq!(verdict("!= 9"), Verdict::Pass);
        // Who looks for a value means all of it.
        assert_eq!(verdict("= 1.4.2"), Verdict::Fail);
        assert_eq!(verdict("1.4.2, 1.4.1"), Verdict::Pass);
    }

    /// Every comparison of every list and object of JSON: what must not be is none of the values in it.
    #[test]
    fn what_must_not_be_is_none_of_the_values_of_a_list() {
        use crate::checks::json::Json;
        let verdict = |json: &str, is: &str| {
            let text = format!("{{\"x\": {json}}}");
            let (sight, _) = Json::read(text.as_bytes()).unwrap().add(Sight::default(), "/x");
            evaluate(&[line("/x", is)], &sight).verdict
        };
        for (json, is, expected) in [
            (r#"["ok", "failed"]"#, "!= failed", Verdict::Fail),
            (r#"["ok", "ready"]"#, "!= failed", Verdict::Pass),
            (r#"[{"state": "ok"}, {"state": "failed"}]"#, "!= failed", Verdict::Fail),
            (r#"{"a": ["ok"], "b": {"c": "failed"}}"#, "!= failed", Verdict::Fail),
            (r#"["failed", null]"#, "!= failed", Verdict::Fail),
            ("[1, 2, 3]", "!= 2", Verdict::Fail),
            ("[1, 2.0, 3]", "!= 2", Verdict::Fail),
            ("[1, 3]", "!= 2", Verdict::Pass),
            (r#"[1, "x", true]"#, "!= 2", Verdict::Pass),
            (r#"[1, "x", true]"#, "!= true", Verdict::Fail),
            (r#"["1.2.0", "1.10.0"]"#, "version != 1.10", Verdict::Fail),
            // Of nothing it is not known what it is not.
            ("[]", "!= failed", Verdict::NoData),
            ("{}", "!= failed", Verdict::NoData),
            ("[null]", "!= failed", Verdict::NoData),
            ("null", "!= failed", Verdict::NoData),
            ("[]", "[]", Verdict::Pass),
            ("[]", "!= []", Verdict::Fail),
            (r#"["a"]"#, "!= []", Verdict::Pass),
            // What is looked for is the whole.
            (r#"["ok"]"#, "ok", Verdict::Fail),
            (r#"["ok"]"#, r#"["ok"]"#, Verdict::Pass),
            (r#"["ok", "ready"]"#, r#"~ "ready""#, Verdict::Pass),
            ("[5]", "> 1", Verdict::Fail),
        ] {
            assert_eq!(verdict(json, is), expected, "{json} {is}");
        }
    }

    #[test]
    fn a_hidden_value_shows_neither_itself_nor_what_it_equals() {
        let sight = Sight::default().saw_secret("value", Observed::Text("hunter2hunter2".into()));
        for is in ["hunter2hunter2", "~ ^hunter2", "!= hunter2hunter2"] {
            let outcome = format!("{:?}", evaluate(&[line("value", is)], &sight));
            assert!(!outcome.contains("hunter2"), "{outcome}");
        }
    }

    #[test]
    fn a_text_is_redacted_before_it_is_cut() {
        crate::redact::learn("a-secret-that-is-cut-in-half");
        let text = format!("{}a-secret-that-is-cut-in-half\x1b[31m", "x".repeat(150));
        assert!(!plain(&text, 160).contains("a-secret"));
        assert!(!plain(&text, 400).contains('\x1b'));
    }
}
