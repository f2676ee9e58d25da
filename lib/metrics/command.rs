//! `command`: figures that a program of your own prints.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::file::SIDE_HOLES;
use super::series::{self, Format, Names, Series};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble, moment, template};
use crate::bounds;
use crate::plan::commands;
use crate::redact::redact;
use crate::units::{Text, show_size};
use crate::world::shell;
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "command",
    about: "figures that a program of your own prints",
    target: "its words; `{{ side }}`, `{{ from }}` and the like are filled in",
    example: "{name: orders, kind: command, target: [./orders.sh, \"{{ side }}\", \"{{ from }}\", \"{{ to }}\"], worse: lower}",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of figures by a command.
///
/// Its words are never given to a shell; it runs in the plan's folder, with what stands in `env` added to
/// its environment. It prints one number, which is the value at the end of the window; or lines of moment
/// and value; or JSON as the kind `file` reads it. Nothing printed is no data.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Variables added to its environment; the place for secrets.
    #[serde(default)]
    env: BTreeMap<String, Text>,
}

struct Command {
    words: Vec<Text>,
    env: Vec<(String, String)>,
    folder: PathBuf,
    names_side: bool,
}

/// How much it may print, in bytes.
const MAX_OUTPUT: usize = 8 * 1024 * 1024;

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = match &order.with.0 {
        Some(node) if !node.is_null() => order.with.read(order.variables)?,
        _ => Settings::default(),
    };
    let place = order.with.0.as_ref().map(|node| node.place).unwrap_or_default();
    let words = order.target.map(crate::units::Target::words).unwrap_or_default();
    if words.first().is_none_or(|word| word.value.trim().is_empty()) {
        return Err(Problem::at(place, "`target` is the command: a list of words"));
    }
    for word in &words {
        template::check(&word.value).map_err(|why| Problem::at(place, why))?;
    }
    // What is filled in later is plain by itself.
    let shown: Vec<String> = words.iter().map(|word| template::without_holes(&word.shown)).collect();
    commands::fit(shown.iter().map(String::as_str), order.variables)
        .map_err(|unfit| unfit.at(Some(place)))?;
    let names = |word: &Text| SIDE_HOLES.iter().any(|hole| template::names(&word.value, hole));
    Ok(Box::new(Command {
        names_side: words.iter().any(names),
        words,
        env: settings.env.into_iter().map(|(name, text)| (name, text.value)).collect(),
        folder: order.folder.to_path_buf(),
    }))
}

impl Source for Command {
    fn points(&mut self, ask: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
        let shown = self.query(ask);
        self.ask(ask).map_err(|mut trouble| {
            trouble.message = format!("{shown}: {}", trouble.message);
            trouble
        })
    }

    fn query(&self, ask: &Ask<'_>) -> String {
        let fill = |word: &Text| template::fill(&word.shown, ask).unwrap_or_else(|_| word.shown.clone());
        redact(&self.words.iter().map(fill).collect::<Vec<_>>().join(" "))
    }
}

impl Command {
    fn ask(&self, ask: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
        let argv: Result<Vec<String>, String> =
            self.words.iter().map(|word| template::fill_word(&word.value, ask)).collect();
        let mut order = shell::Order::new(argv.map_err(Trouble::refused)?, &self.folder);
        order.env.clone_from(&self.env);
        order.timeout = ask.limit;
        order.keep = MAX_OUTPUT;
        let ran =
            order.run().map_err(|error| Trouble::refused(format!("it could not be started: {error}")))?;
        if ran.timed_out || ran.interrupted {
            return Err(Trouble::unreachable(ran.how()));
        }
        if ran.exit != Some(0) {
            let words = ran.last_words();
            let colon = if words.is_empty() { "" } else { ": " };
            return Err(Trouble::refused(format!("{}{colon}{words}", ran.how())));
        }
        if ran.stdout.len() >= MAX_OUTPUT {
            let most = show_size(MAX_OUTPUT as f64);
            return Err(Trouble::refused(format!("it printed more than {most}")));
        }
        if ran.cut {
            return Err(Trouble::unreachable("it ended, but something it started holds its output open"));
        }
        let text =
            std::str::from_utf8(&ran.stdout).map_err(|_| Trouble::babble("what it printed is not UTF-8"))?;
        printed(text, ask)?.within(ask, self.names_side)
    }
}

/// The values in what a command printed.
fn printed(text: &str, ask: &Ask<'_>) -> Result<Series, Trouble> {
    let text = text.trim();
    let plain = |points| Series { points, by_side: false };
    if text.is_empty() {
        return Ok(plain(Vec::new()));
    }
    if text.starts_with(['[', '{']) {
        return json(text, ask.side.word);
    }
    if let Ok(value) = text.parse() {
        // The window's end does not belong to it.
        return Ok(plain(vec![Point { at_ms: ask.to.as_millisecond() - 1, value }]));
    }
    let mut points: Vec<Point> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: String| Trouble::babble(format!("line {} of what it printed: {why}", number + 1));
        let (time, value) = line
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| wrong(format!("`{}` is not a moment and a value", cut(line))))?;
        let at_ms = moment::of_text(time, moment::Finest::Milliseconds).map_err(&wrong)?;
        let value = series::number(value).map_err(&wrong)?;
        if points.last().is_some_and(|last| last.at_ms >= at_ms) {
            return Err(wrong("moments must ascend, each once".into()));
        }
        points.extend(value.map(|value| Point { at_ms, value }));
    }
    Ok(plain(points))
}

fn json(text: &str, word: &str) -> Result<Series, Trouble> {
    // One that has too many is refused below.
    let format = match bounds::json(text.as_bytes(), series::MAX_VALUES) {
        Ok(Value::Object(object)) if !object.contains_key("blue") && !object.contains_key("green") => {
            Format::Jsonl
        }
        // Several lines that are JSON each are none together.
        Err(_) if text.contains('\n') => Format::Jsonl,
        _ => Format::Json,
    };
    series::read(format, format!("{text}\n").as_bytes(), &Names::usual(), word)
}

fn cut(line: &str) -> String {
    crate::units::clipped(&redact(line).chars().filter(|c| !c.is_control()).collect::<String>(), 60)
}
