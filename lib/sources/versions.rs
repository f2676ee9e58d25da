//! `versions`: what runs where at this moment, as one file.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Context, Extra, Keep, Kind, Order, ReadBack, Source, stop_if_asked};
use crate::fault::Fault;
use crate::plan::commands;
use crate::plan::{Promote, Side};
use crate::redact::redact;
use crate::units::{Span, Text};
use crate::world::http::{Answer, Client, Request, join};
use crate::world::redirect::{self, Stopped};
use crate::world::shell;
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "versions",
    about: "What runs where, as versions.json: both sides of `promote` by their release header, and whatever else tells a \
            version by HTTP or by a command.",
    target: "none: what is asked stands in `with`",
    example: "{name: versions, kind: versions, with: {of: [{name: api, url: \"http://10.0.0.5/health\", pointer: /version}, \
              {name: schema, command: [./schema-version]}]}}",
    settings: super::schema::<Settings>,
    prepare,
};

const FILE: &[u8] = b"versions.json";

/// The longest version that is believed, in bytes.
const LONGEST: usize = 256;
/// How much of an answer is read, in bytes.
const MOST: u64 = 1024 * 1024;
/// How many redirects are followed.
const REDIRECTS: u32 = 5;
/// Time for one answer where the plan says nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of `versions`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VersionsSource")]
struct Settings {
    /// What tells its version besides the two sides.
    #[serde(default)]
    of: Vec<Thing>,
    /// Whether the sides of `promote` are asked; yes when absent, where the plan has them.
    #[serde(default)]
    sides: Option<bool>,
    /// Whether a version that nobody tells is fine.
    #[serde(default)]
    allow_missing: bool,
    /// Time for one answer; 10 s when absent.
    #[serde(default)]
    timeout: Option<Span>,
}

/// Something that tells its version: `url` with `pointer` or `header`, or `command`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VersionOf")]
struct Thing {
    /// Its name; unique.
    name: String,
    /// Where it is asked.
    #[serde(default)]
    url: Option<Text>,
    /// Where the version stands in the JSON that it answers, as a JSON pointer (`/build/version`).
    #[serde(default)]
    pointer: Option<String>,
    /// The response header that it stands in.
    #[serde(default)]
    header: Option<String>,
    /// A command (argv, no shell) that prints it on one line.
    #[serde(default)]
    command: Vec<Text>,
}

struct Versions {
    name: String,
    asks: Vec<Ask>,
    allow_missing: bool,
    folder: PathBuf,
    timeout: Duration,
}

/// One thing and how it is asked.
struct Ask {
    name: String,
    how: How,
    may_be_missing: bool,
}

enum How {
    Header(Text, String),
    Pointer(Text, String),
    Command(Vec<Text>),
    /// The plan says it: the side itself does not.
    Plan(String),
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    if order.spec.target.is_some() {
        return Err(order.problem("`versions` takes no `target`").help("what is asked stands in `with.of`"));
    }
    let mut asks = Vec::new();
    match &order.loaded.plan.promote {
        Some(promote) if settings.sides.unwrap_or(true) => {
            asks.push(side("blue", &promote.sides.blue, promote));
            asks.push(side("green", &promote.sides.green, promote));
        }
        None if settings.sides == Some(true) => {
            return Err(order.problem("`with.sides` is asked for, and the plan has no `promote`"));
        }
        _ => {}
    }
    for thing in settings.of {
        if thing.name.trim().is_empty() || asks.iter().any(|ask| ask.name == thing.name) {
            return Err(order.problem(format!("`{}` in `with.of` is no name of its own", thing.name)));
        }
        let name = thing.name.clone();
        commands::fit(thing.command.iter().map(|word| word.shown.as_str()), &order.loaded.variables)
            .map_err(|unfit| {
                order.problem(format!("`{name}` in `with.of`: {}", unfit.message)).help(unfit.help)
            })?;
        let how = how(thing).map_err(|why| order.problem(format!("`{name}` in `with.of` {why}")))?;
        asks.push(Ask { name, how, may_be_missing: false });
    }
    if asks.is_empty() {
        return Err(order
            .problem("nothing tells a version")
            .help("name something in `with.of`; the sides are known only in a plan with `promote`"));
    }
    Ok(Box::new(Versions {
        name: order.spec.name.clone(),
        asks,
        allow_missing: settings.allow_missing,
        folder: order.loaded.folder.clone(),
        timeout: settings.timeout.map_or(TIMEOUT, |span| span.0).min(order.timeout()),
    }))
}

/// A side tells its release in the header that `promote` goes by.
fn side(name: &str, side: &Side, promote: &Promote) -> Ask {
    let how = side.release.clone().map_or_else(
        || {
            let at = |base: &str| join(base, &promote.probe.path);
            let url = Text { value: at(&side.url.value), shown: at(&side.url.shown) };
            How::Header(url, promote.probe.header.to_ascii_lowercase())
        },
        How::Plan,
    );
    // It is brought up after the snapshot.
    let deployed_later = name == "green" && !promote.hooks.deploy.is_empty();
    Ask { name: name.to_owned(), how, may_be_missing: deployed_later }
}

fn how(thing: Thing) -> Result<How, String> {
    match (thing.url, thing.pointer, thing.header, thing.command) {
        (None, None, None, command) if command.first().is_some_and(|word| !word.value.is_empty()) => {
            Ok(How::Command(command))
        }
        (Some(url), pointer, header, command) if command.is_empty() => match (pointer, header) {
            (Some(pointer), None) if pointer.starts_with('/') => Ok(How::Pointer(url, pointer)),
            (Some(_), None) => Err("has a `pointer` that does not begin with `/`".into()),
            (None, Some(header)) if !header.is_empty() => Ok(How::Header(url, header.to_ascii_lowercase())),
            _ => Err("needs `pointer` or `header` beside its `url`".into()),
        },
        _ => Err("needs either `url` or `command`".into()),
    }
}

impl Source for Versions {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let client = Client::new(self.timeout);
        let mut versions = Map::new();
        for ask in &self.asks {
            stop_if_asked()?;
            let told = self.ask(&client, &ask.how);
            stop_if_asked()?;
            let version = match told {
                Ok(version) => json!({ "version": redact(&version), "from": redact(&ask.how.to_string()) }),
                Err(why) if ask.may_be_missing || self.allow_missing => {
                    json!({ "version": null, "from": redact(&ask.how.to_string()), "why": redact(&why) })
                }
                Err(why) => return Err(self.missing(ask, &why)),
            };
            versions.insert(ask.name.clone(), version);
        }
        let versions = Value::Object(versions);
        let text = format!("{versions:#}\n");
        keep.file(FILE, &mut |sink| {
            sink.write_all(text.as_bytes()).map_err(|e| Fault::infrastructure("the store refused").cause(e))
        })?;
        Ok(Extra { tables: Vec::new(), details: json!({ "versions": versions }) })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let mut bytes = Vec::new();
        back.read(FILE, &mut bytes)?;
        let read: Option<Map<String, Value>> = serde_json::from_slice(&bytes).ok();
        let known = read.filter(|read| self.asks.iter().all(|ask| read.contains_key(&ask.name)));
        let Some(known) = known.filter(|known| known.len() == self.asks.len()) else {
            return Err(Fault::infrastructure(format!(
                "source `{}`: versions.json reads back otherwise",
                self.name
            )));
        };
        let told = known.values().filter(|version| !version["version"].is_null()).count();
        Ok(Some(format!("{told} of {} versions told", known.len())))
    }
}

impl Versions {
    fn ask(&self, client: &Client, how: &How) -> Result<String, String> {
        let version = match how {
            How::Plan(release) => release.clone(),
            How::Header(url, header) => {
                let answer = answer(client, url)?;
                if answer.status >= 500 {
                    return Err(format!("it answered {}", answer.status));
                }
                let found = answer.header(header).map(str::to_owned);
                found.ok_or_else(|| format!("its answer ({}) has no header `{header}`", answer.status))?
            }
            How::Pointer(url, pointer) => {
                let answer = answer(client, url)?;
                if !answer.good() {
                    return Err(format!("it answered {}", answer.status));
                }
                let body: Value =
                    serde_json::from_slice(&answer.body).map_err(|_| "its answer is not JSON".to_owned())?;
                match body.pointer(pointer) {
                    Some(Value::String(text)) => text.clone(),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                    Some(_) => return Err(format!("what stands at `{pointer}` is no text or number")),
                    None => return Err(format!("its answer has nothing at `{pointer}`")),
                }
            }
            How::Command(words) => self.run(words)?,
        };
        let version = version.trim();
        if version.is_empty() {
            return Err("it told an empty one".into());
        }
        if version.len() > LONGEST || version.contains(char::is_control) {
            return Err("what it told is no version: longer than 256 bytes, or more than one line".into());
        }
        Ok(version.to_owned())
    }

    fn run(&self, words: &[Text]) -> Result<String, String> {
        let argv = words.iter().map(|word| word.value.clone()).collect();
        let mut order = shell::Order::new(argv, &self.folder);
        order.timeout = self.timeout;
        let ran = order.run().map_err(|e| format!("the command could not be run: {e}"))?;
        if ran.exit != Some(0) {
            return Err(format!("the command failed: {}: {}", ran.how(), ran.last_words()));
        }
        String::from_utf8(ran.stdout).map_err(|_| "the command printed no text".into())
    }

    fn missing(&self, ask: &Ask, why: &str) -> Fault {
        Fault::infrastructure(format!("source `{}`: nobody tells the version of `{}`", self.name, ask.name))
            .place(ask.how.to_string())
            .cause(why)
            .help("it must answer, or say `allow_missing: true`; nothing was kept")
    }
}

fn answer(client: &Client, url: &Text) -> Result<Answer, String> {
    let request = Request { keep: MOST, ..Request::get(&url.value) };
    match redirect::follow(client, &request, REDIRECTS, client.timeout()) {
        Ok(followed) => Ok(followed.answer),
        Err(Stopped::Silent(no)) => Err(format!("it did not answer: {}", no.why)),
        Err(Stopped::Astray(why)) => Err(why),
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(url, header) => write!(f, "{url}, header {header}"),
            Self::Pointer(url, pointer) => write!(f, "{url}, {pointer}"),
            Self::Command(words) => {
                let words: Vec<&str> = words.iter().map(|word| word.shown.as_str()).collect();
                f.write_str(&words.join(" "))
            }
            Self::Plan(_) => f.write_str("the plan"),
        }
    }
}
