//! `command`: how a program ends and what it says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::json::{self, Json};
use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble};
use crate::plan::commands;
use crate::units::{Observed, Target, Text, Unit};
use crate::world::shell::{self, Heard, Ran};
use crate::yaml::Problem;

/// See `preflight explain command`.
pub(super) static KIND: Kind = Kind {
    name: "command",
    about: "Runs a program in the plan's folder, without a shell unless asked.",
    target: "a list of words: the program and its arguments (one text with `shell: true`)",
    example: "\
- name: migrations are applied
  kind: command
  target: [./manage.py, migrate, --check]
  expect: {exit: 0, stdout: \"~ no changes\"}
  timeout: 30s
",
    observes: &[
        Observable { name: "exit", unit: Unit::Plain, about: "the exit status" },
        Observable { name: "stdout", unit: Unit::Text, about: "the standard output" },
        Observable { name: "stderr", unit: Unit::Text, about: "the standard error" },
        Observable { name: "latency", unit: Unit::Duration, about: "how long it ran" },
    ],
    presumes: &[Presumed::new("exit", "0")],
    open_names: Some("JSON pointers into the standard output, such as `/replicas/ready`"),
    open_unit: json::pointer_unit,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Gives the one text of `target` to `sh -c`.
    #[serde(default)]
    shell: bool,
    /// Variables added to the environment; the place for secrets.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// Where it runs, relative to the plan; the plan's folder when absent.
    #[serde(default)]
    folder: Option<Text>,
}

struct Command {
    argv: Vec<String>,
    folder: PathBuf,
    env: Vec<(String, String)>,
    asked: Vec<String>,
}

/// How much of each stream is looked at.
const KEEP: usize = 1024 * 1024;

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let argv = argv(order, settings.shell)?;
    let folder =
        settings.folder.map_or_else(|| order.loaded.folder.clone(), |text| order.loaded.at(&text.value));
    let env = settings.env.into_iter().map(|(name, text)| (name, text.value)).collect();
    let asked = order.expected.iter().map(|line| line.name.clone()).collect();
    Ok(Box::new(Command { argv, folder, env, asked }))
}

fn argv(order: &Order<'_>, shell: bool) -> Result<Vec<String>, Problem> {
    let target = order.spec.target.as_ref();
    let words = target.map(Target::words).unwrap_or_default();
    let shown = words.iter().map(|word| word.shown.as_str());
    let variables = &order.loaded.variables;
    let fits = match words.first() {
        Some(script) if shell => commands::fit_script(&script.shown, variables),
        _ => commands::fit(shown, variables),
    };
    fits.map_err(|unfit| order.problem("target", unfit.message).help(unfit.help))?;
    if words.first().is_none_or(|word| word.value.trim().is_empty()) {
        return Err(order.problem("target", "the command is empty"));
    }
    match (target, shell) {
        (Some(Target::Words(_)), true) => Err(order
            .problem("target", "with `shell: true` the command is one text, not a list")
            .help("write it as one text, or take `shell` out")),
        (Some(Target::One(text)), false) if text.value.trim().contains(char::is_whitespace) => Err(order
            .problem("target", "the command is one text with spaces")
            .help("write it as a list, [program, argument], or set `with: {shell: true}`")),
        (_, true) => {
            Ok([vec!["sh".into(), "-c".into()], words.into_iter().map(|w| w.value).collect()].concat())
        }
        (_, false) => Ok(words.into_iter().map(|word| word.value).collect()),
    }
}

impl Check for Command {
    fn look(&self, within: Duration) -> Result<Sight, Trouble> {
        let mut order = shell::Order::new(self.argv.clone(), &self.folder);
        order.env.clone_from(&self.env);
        order.timeout = within;
        order.keep = KEEP;
        let program = self.argv.first().map_or("", String::as_str);
        let ran = order
            .run()
            .map_err(|error| Trouble::broken(format!("`{program}` could not be started: {error}")))?;
        if ran.interrupted {
            return Err(Trouble::broken("not looked at to its end: asked to stop"));
        }
        match ran.exit {
            Some(exit) => sight(exit, &ran, &self.asked)
                .map_err(|stream| Trouble::broken(format!("`{program}` ended, and {stream} {HELD}"))),
            None => Err(Trouble::failed(format!("`{program}` {}", ran.how()))),
        }
    }
}

/// Why what was not read to its end is nothing to go by.
const HELD: &str = "was not read to its end: something that it started holds it open";

/// Errors: the stream that could not be read to its end, where the plan asks for it.
fn sight(exit: i32, ran: &Ran, asked: &[String]) -> Result<Sight, &'static str> {
    let mut sight = Sight::default().number("exit", f64::from(exit), Unit::Plain).number(
        "latency",
        ran.took.as_secs_f64(),
        Unit::Duration,
    );
    let words = ran.last_words();
    if !words.is_empty() {
        sight = sight.note(format!("it said: {words}"));
    }
    let parsed = if ran.cut { None } else { Json::read(&ran.stdout).ok() };
    for name in asked {
        let found;
        (sight, found) = match name.as_str() {
            "stderr" if ran.heard_of_stderr == Heard::Held => return Err("its standard error"),
            "stderr" if ran.heard_of_stderr == Heard::Beginning => {
                sight = beginning(sight, name, &ran.stderr);
                continue;
            }
            "stderr" => (sight.saw(name, text(&ran.stderr)), true),
            _ if name != "stdout" && !name.starts_with('/') => continue,
            _ if ran.heard == Heard::Held => return Err("its standard output"),
            "stdout" if ran.cut => {
                sight = beginning(sight, name, &ran.stdout);
                continue;
            }
            "stdout" => (sight.saw(name, text(&ran.stdout)), true),
            pointer => match parsed {
                Some(json) => json.add(sight, pointer),
                None => (sight, false),
            },
        };
        if !found {
            sight = sight.note(match parsed {
                _ if ran.cut => "it said more than 1 MiB",
                None => "what it said is not JSON",
                Some(_) => "what it said has nothing there",
            });
        }
    }
    Ok(sight)
}

fn beginning(sight: Sight, name: &str, said: &[u8]) -> Sight {
    sight
        .saw_beginning(name, String::from_utf8_lossy(said))
        .note(format!("{name} is more than 1 MiB, and only its beginning was read"))
}

/// Without the newline that ends what programs say.
fn text(bytes: &[u8]) -> Observed {
    Observed::Text(String::from_utf8_lossy(bytes).trim_end_matches(['\n', '\r']).to_owned())
}
