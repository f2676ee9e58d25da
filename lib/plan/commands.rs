//! One rule for all commands and paths of a plan, whoever runs them: a value that comes from outside is data there.
//!
//! Nothing of it becomes code for a shell, an option of a program, or another folder, and no secret stands among the
//! arguments of a process, which every user of the machine can read.

use crate::redact;
use crate::yaml::{self, Node, Problem, Variables};

/// Why a command is refused, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: &'static str,
}

impl Unfit {
    fn new(message: String, help: &'static str) -> Self {
        Self { message, help }
    }

    /// The same as an error of the plan, where its place is known.
    #[must_use]
    pub fn at(self, place: Option<yaml::Place>) -> Problem {
        Problem { place, message: self.message, help: Some(self.help.to_owned()) }
    }
}

/// Programs that take a word for a program: `sh -c`, `python -c`, `perl -e`, `pwsh -Command`, `cmd /c`.
const INTERPRETERS: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "zsh",
    "ksh",
    "ash",
    "mksh",
    "fish",
    "busybox",
    "python",
    "perl",
    "ruby",
    "node",
    "nodejs",
    "php",
    "lua",
    "pwsh",
    "powershell",
    "cmd",
    "osascript",
    "Rscript",
];
/// Words after which it comes.
const CODE_FOLLOWS: &[&str] =
    &["-c", "-e", "-E", "-r", "-p", "--eval", "--command", "-command", "/c", "--print"];
/// Programs that give all of their words to a shell.
const SHELLS: &[&str] = &["ssh", "eval", "watch", "dsh", "pdsh"];
/// What a shell, a language or a pattern takes for more than itself.
const CODE: &str = ";|&$`()<>\"'\\*?[]{}#!\n";

/// Whether a value may be filled into code, or into a path: letters, digits and signs that mean nothing there, no option,
/// no other folder.
pub fn is_plain(value: &str) -> bool {
    value.chars().all(|c| c.is_alphanumeric() || "._-+:/@,=%".contains(c))
        && !value.starts_with('-')
        && !leaves(value)
}

/// Whether a value names a word, as a release says what it is: it may stand in a path too, and stays in its folder.
pub fn is_word(value: &str) -> bool {
    is_plain(value) && !value.contains('/') && !value.starts_with('.') && !value.contains("..")
}

/// Whether a path leads out of the folder that it is put behind.
fn leaves(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// Checks a command, its words as they stand in the plan.
///
/// Errors: it puts a secret among the arguments of a process, or a value of a variable would be code or an option there.
pub fn fit<'a>(words: impl IntoIterator<Item = &'a str>, variables: &dyn Variables) -> Result<(), Unfit> {
    let words: Vec<&str> = words.into_iter().collect();
    let (mut interpreter, mut shell) = (false, false);
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |at| words[at]);
        // `-ec` and the like.
        let together = before.len() <= 6 && before.starts_with('-') && before.ends_with('c');
        let follows = together || CODE_FOLLOWS.iter().any(|known| before.eq_ignore_ascii_case(known));
        fit_word(word, shell || (interpreter && follows), before == "--" || at == 0, variables)?;
        // Also `docker exec x sh -c`, `env python3 -c`.
        let program = word
            .rsplit('/')
            .next()
            .unwrap_or(word)
            .trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        interpreter |= INTERPRETERS.contains(&program);
        shell |= SHELLS.contains(&program);
    }
    Ok(())
}

/// Checks a text that a shell reads.
///
/// Errors: as [`fit`].
pub fn fit_script(text: &str, variables: &dyn Variables) -> Result<(), Unfit> {
    fit_word(text, true, true, variables)
}

fn fit_word(word: &str, is_code: bool, no_option: bool, variables: &dyn Variables) -> Result<(), Unfit> {
    let named = yaml::variables_in(word);
    let secret = || {
        Unfit::new(
            format!("`{}` puts a secret among the arguments of a process", redact::redact(word)),
            "let the program read it from its environment: it inherits ours, and checks, metrics and routers have `with: {env: {NAME: …}}`",
        )
    };
    if word.contains("://") && redact::has_credentials(word) && named.is_empty() {
        return Err(secret());
    }
    let literal = without_variables(word);
    let code = is_code || literal.contains(|c: char| c.is_whitespace() || CODE.contains(c));
    for (name, default) in named {
        let value = variables.get(name).filter(|value| default.is_none() || !value.is_empty());
        let filled = value.as_deref().or(default).unwrap_or_default();
        if !filled.is_empty() && redact::is_secret(name, filled) {
            return Err(secret());
        }
        // A default stands in the plan itself.
        let Some(value) = value else { continue };
        if code && !is_plain(&value) {
            return Err(Unfit::new(
                format!("the value of `{name}` would become code in `{}`", redact::redact(word)),
                "it may have letters, digits and ._-+:/@,=% there: give it as a word of its own, or let the program read it from its environment",
            ));
        }
        if !no_option && value.starts_with('-') && literal.is_empty() {
            return Err(Unfit::new(
                format!("the value of `{name}` would become an option of the program"),
                "options stand in the plan; write `--` before a value that may begin with `-`",
            ));
        }
    }
    Ok(())
}

/// What of a text is not filled in.
fn without_variables(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if at > 0 && rest.as_bytes()[at - 1] == b'$' {
            out.push_str(&rest[..at + 2]);
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
        rest = &rest[end..];
    }
    out + rest
}

/// Checks a path, as it stands in the plan.
///
/// Errors: the value of a variable would lead out of the folder that the plan puts before it.
pub fn fit_path(path: &str, variables: &dyn Variables) -> Result<(), Unfit> {
    let begins_with_one = path.starts_with("${");
    for (name, _) in yaml::variables_in(path) {
        let value = variables.get(name).unwrap_or_default();
        if leaves(&value) && !(begins_with_one && path.starts_with(&format!("${{{name}"))) {
            return Err(Unfit::new(
                format!("the value of `{name}` leads out of its folder in `{}`", redact::redact(path)),
                "`..` may not stand in it there",
            ));
        }
    }
    Ok(())
}

/// Keys whose texts stand in every document, in names of files, and in what tells one release from another.
const NAMES: [&str; 8] =
    ["service", "name", "version", "previous", "commit", "environment", "controls", "role"];

/// Checks all commands of a plan that no kind knows of, its artifacts, and its names.
///
/// Errors: as [`fit`] and [`fit_path`]; a name with a secret in it.
pub(super) fn fit_plan(root: &Node, variables: &dyn Variables) -> Result<(), Problem> {
    let each = |section: Option<&Node>, keys: &[&str]| -> Result<(), Problem> {
        for node in keys.iter().filter_map(|key| section?.get(key)) {
            fit(texts(node), variables).map_err(|unfit| unfit.at(Some(node.place)))?;
        }
        Ok(())
    };
    each(
        root.get("promote").and_then(|promote| promote.get("hooks")),
        &["deploy", "after", "on_rollback", "retire"],
    )?;
    let snapshot = root.get("snapshot");
    each(snapshot, &["before", "after"])?;
    if let Some(yaml::Value::Sequence(sources)) = snapshot.and_then(|s| s.get("sources")).map(|s| &s.value) {
        for source in sources {
            each(Some(source), &["before", "after"])?;
            // Other kinds have names and paths there.
            if source.get("kind").is_some_and(|kind| texts(kind) == ["command"]) {
                each(Some(source), &["target"])?;
            }
        }
    }
    if let Some(artifacts) = root.get("release").and_then(|release| release.get("artifacts")) {
        for path in texts(artifacts) {
            fit_path(path, variables).map_err(|unfit| unfit.at(Some(artifacts.place)))?;
        }
    }
    fit_names(root, "", variables)
}

/// Refuses a secret where a name stands that every document shows.
pub(super) fn fit_names(node: &Node, key: &str, variables: &dyn Variables) -> Result<(), Problem> {
    match &node.value {
        yaml::Value::Scalar { text, .. } if NAMES.contains(&key) => {
            let secret = yaml::variables_in(text).into_iter().find(|(name, _)| {
                redact::names_a_secret(name)
                    && variables.get(name).is_some_and(|value| redact::is_secret(name, &value))
            });
            secret.map_or(Ok(()), |(name, _)| {
                Err(Problem::at(
                    node.place,
                    format!("`{name}` is secret, and `{key}` is a name that every document shows"),
                )
                .help("take another variable, or give that one another name"))
            })
        }
        yaml::Value::Scalar { .. } => Ok(()),
        yaml::Value::Sequence(items) => items.iter().try_for_each(|item| fit_names(item, key, variables)),
        yaml::Value::Mapping(_) => node
            .entries()
            // Settings of kinds, and what they observe, have keys of their own.
            .filter(|(key, ..)| !matches!(*key, "with" | "expect"))
            .try_for_each(|(key, _, value)| fit_names(value, key, variables)),
    }
}

/// The texts of a word or of a list of words, as they stand in the plan.
pub fn texts(node: &Node) -> Vec<&str> {
    let mut texts = Vec::new();
    node.each_text(&mut |text| texts.push(text));
    texts
}

/// The names that the plan's list `secret` holds.
pub(super) fn marked(root: &Node) -> Vec<String> {
    root.get("secret").map(|node| texts(node).into_iter().map(str::to_owned).collect()).unwrap_or_default()
}

/// Remembers what the plan calls secret, before anything of it is filled in.
pub(super) fn learn_marked(root: &Node, variables: &dyn Variables) {
    let names = marked(root);
    redact::mark(names.iter().cloned());
    for name in names {
        if let Some(value) = variables.get(&name) {
            redact::learn_variable(&name, &value);
        }
    }
    learn_literals(root, "", false);
    let promote = root.get("promote");
    for section in ["router", "sides"].into_iter().filter_map(|key| promote?.get(key)) {
        learn_open(section, "");
    }
}

/// What the plan says openly of the router and the sides, which commands are made of.
fn learn_open(node: &Node, key: &str) {
    match &node.value {
        yaml::Value::Scalar { text, .. } if yaml::variables_in(text).is_empty() => {
            redact::learn_open(key, text);
        }
        yaml::Value::Scalar { .. } => {}
        yaml::Value::Sequence(items) => items.iter().for_each(|item| learn_open(item, key)),
        yaml::Value::Mapping(_) => node.entries().for_each(|(key, _, value)| learn_open(value, key)),
    }
}

/// Secrets that stand in the plan itself, in the settings of kinds.
fn learn_literals(node: &Node, key: &str, inside: bool) {
    match &node.value {
        yaml::Value::Scalar { text, .. } if inside && yaml::variables_in(text).is_empty() => {
            redact::learn_literal(key, text);
        }
        yaml::Value::Scalar { .. } => {}
        yaml::Value::Sequence(items) => items.iter().for_each(|item| learn_literals(item, key, inside)),
        yaml::Value::Mapping(_) => {
            node.entries().for_each(|(key, _, value)| learn_literals(value, key, inside || key == "with"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as Git, GitHub and GitLab allow them for branches, titles and tags.
    const HOSTILE: &[&str] = &[
        "$(touch pwned)",
        "`touch pwned`",
        "a;touch${IFS}pwned",
        "a|b",
        "a&b",
        "a\ntouch pwned",
        "x'; touch pwned; '",
        "\"; touch pwned; \"",
        "a b",
        "$HOME",
        "{a,b}",
        "a>b",
        "a<b",
        "*",
        "?",
        "[a]",
        "~root",
        "a\\b",
        "!1",
        "#x",
        "../outside",
        "a/../../b",
        "--upload-pack=x",
        "-rf",
        "a\u{0}b",
        "a\rb",
        "'",
        "(",
        "%0A;x",
    ];
    const HARMLESS: &[&str] = &[
        "main",
        "feature/new-cart",
        "v1.4.2",
        "1.4.2+build.7",
        "a_b",
        "user@host",
        "10.0.0.1:80",
        "1e3%",
        "straße",
        "",
    ];

    #[test]
    fn no_value_becomes_code_an_option_or_another_folder() {
        for value in HOSTILE {
            let variables = |_: &str| Some((*value).to_owned());
            for command in [
                vec!["sh", "-c", "deploy ${REF}"],
                vec!["sh", "-c", "${REF}"],
                vec!["/bin/bash", "-ec", "${REF}"],
                vec!["sh", "-c", "echo '${REF}'"],
                vec!["sh", "-c", "echo \"${REF:-main}\""],
                vec!["python3", "-c", "print(\"${REF}\")"],
                vec!["pwsh", "-Command", "${REF}"],
                vec!["ssh", "host", "deploy", "${REF}"],
                vec!["curl", "-d", "{\"ref\": \"${REF}\"}", "http://h/"],
            ] {
                assert!(fit(command.iter().copied(), &variables).is_err(), "{command:?} with {value:?}");
            }
            assert!(fit_script("deploy ${REF}", &variables).is_err(), "{value:?}");
            assert!(!is_word(value), "{value:?}");
            // As a word of its own it is data, unless it begins like an option.
            let alone = fit(["./deploy.sh", "${REF}"], &variables);
            assert_eq!(alone.is_err(), value.starts_with('-'), "{value:?}");
            assert!(fit(["git", "push", "--", "${REF}"], &variables).is_ok(), "{value:?}");
        }
        for value in HARMLESS {
            let variables = |_: &str| Some((*value).to_owned());
            assert!(fit(["sh", "-c", "deploy ${REF} now"], &variables).is_ok(), "{value:?}");
            assert!(fit(["./deploy.sh", "--ref=${REF}"], &variables).is_ok(), "{value:?}");
            assert!(fit_path("dist/${REF}.tgz", &variables).is_ok(), "{value:?}");
        }
        let out = |_: &str| Some("../..".to_owned());
        assert!(fit_path("dist/${REF}/x", &out).is_err() && fit_path("${ROOT}/x", &out).is_ok());
        assert!(
            fit(["sh", "-c", "echo $${HOME} ${X:-a b}"], &|_: &str| None).is_ok(),
            "what the plan says is the plan's"
        );
    }

    #[test]
    fn no_secret_stands_where_every_document_shows_a_name() {
        let variables = |_: &str| Some("tok-n4rwhal-55".to_owned());
        for (text, refused) in [
            ("service: ${API_TOKEN}", true),
            ("release: {version: '1', previous: '${API_TOKEN}'}", true),
            ("preflight: {checks: [{name: a, controls: [CC6.1, '${API_TOKEN}']}]}", true),
            ("report: {contacts: [{role: '${API_TOKEN}', reach: x}]}", true),
            ("report: {contacts: [{role: lead, reach: '${API_TOKEN}'}]}", false),
            ("preflight: {checks: [{name: a, with: {name: '${API_TOKEN}'}}]}", false),
            ("service: ${SERVICE}", false),
        ] {
            let root = yaml::parse(text).unwrap();
            assert_eq!(fit_names(&root, "", &variables).is_err(), refused, "{text}");
        }
    }

    #[test]
    fn no_secret_stands_among_the_arguments() {
        for (word, value) in [
            ("${API_TOKEN}", "tok-n4rwhal-55"),
            ("--password=${DB_PASS}", "n4rwhal"),
            ("${DATABASE_URL}", "postgres://u:n4rwhal-55@h/d"),
            ("${REPO}", "https://tok-n4rwhal-55@h/r"),
            ("http://h/?token=${GH_PAT}", "n4rwhal"),
            ("postgres://u:n4rwhal@h/d", ""),
        ] {
            let refused = fit(["run", word], &|_: &str| Some(value.to_owned())).unwrap_err();
            assert!(refused.message.contains("a secret among the arguments"), "{word}: {}", refused.message);
            assert!(!refused.message.contains("n4rwhal"), "{}", refused.message);
        }
        for (word, value) in [
            ("${VERSION}", "1.2"),
            ("${USE_TOKEN}", "false"),
            ("${TOKEN_FILE}", "/run/token"),
            ("http://h:80/@x", ""),
        ] {
            assert_eq!(fit(["run", word], &|_: &str| Some(value.to_owned())), Ok(()), "{word}");
        }
    }
}
