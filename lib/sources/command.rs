//! `command`: what a command prints, as one file.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Extra, Keep, Kind, Order, Source, stop_if_asked};
use crate::fault::Fault;
use crate::units::{Target, show_duration};
use crate::world::shell::{self, Ran};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "command",
    about: "What a command prints on its standard output, as one file; it must end with 0.",
    target: "the command as a list of words (no shell); it runs in the plan's folder",
    example: "{name: queue, kind: command, target: [redis-cli, --rdb, \"-\"], with: {file: dump.rdb}}",
    settings: super::schema::<Settings>,
    prepare,
};

/// Settings of `command`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The name of the file in the snapshot; `output` when absent.
    #[serde(default = "output")]
    file: String,
    /// Whether it may print nothing.
    #[serde(default)]
    allow_empty: bool,
}

fn output() -> String {
    "output".into()
}

struct Command {
    name: String,
    shown: String,
    order: shell::Order,
    settings: Settings,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    if let Target::One(text) = target
        && text.value.trim().contains(' ')
    {
        return Err(order
            .problem("`target` is one text with spaces, and there is no shell to split it")
            .help("write the command as a list: [pg_dumpall, --globals-only]"));
    }
    let words = target.words();
    if words.first().is_none_or(|w| w.value.is_empty()) {
        return Err(order.problem("`target` names no command"));
    }
    let file = &settings.file;
    if file.is_empty() || file == "." || file == ".." || file.contains(['/', '\0']) {
        return Err(order.problem("`with.file` must be a plain file name"));
    }
    let mut command = shell::Order::new(words.into_iter().map(|w| w.value).collect(), &order.loaded.folder);
    command.timeout = order.timeout();
    Ok(Box::new(Command {
        name: order.spec.name.clone(),
        shown: target.to_string(),
        order: command,
        settings,
    }))
}

impl Source for Command {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let mut took = 0.0;
        keep.file(self.settings.file.as_bytes(), &mut |sink| {
            let (ran, bytes) = self.order.stream(sink).map_err(|e| {
                Fault::infrastructure(format!("source `{}`: the command could not be run", self.name))
                    .place(&self.shown)
                    .cause(e)
                    .help("is it installed, and in PATH?")
            })?;
            took = ran.took.as_secs_f64();
            self.judge(&ran, bytes)
        })?;
        Ok(Extra { tables: Vec::new(), details: json!({ "took": show_duration(took) }) })
    }
}

impl Command {
    fn judge(&self, ran: &Ran, bytes: u64) -> Result<(), Fault> {
        stop_if_asked()?;
        if ran.exit != Some(0) {
            return Err(Fault::infrastructure(format!(
                "source `{}`: the command failed: {}",
                self.name,
                ran.how()
            ))
            .place(&self.shown)
            .cause(ran.last_words())
            .help("run the command by hand; nothing was kept"));
        }
        if bytes == 0 && !self.settings.allow_empty {
            return Err(Fault::infrastructure(format!(
                "source `{}`: the command printed nothing",
                self.name
            ))
            .place(&self.shown)
            .help("correct the command, or say `allow_empty: true`; nothing was kept"));
        }
        Ok(())
    }
}
