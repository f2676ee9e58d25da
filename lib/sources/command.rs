//! `command`: what a command prints, as one file.

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::programs::{TAIL, Tail};
use super::{Context, Extra, Keep, Kind, Order, Source, stop_if_asked};
use crate::fault::Fault;
use crate::units::{Target, Text, show_duration};
use crate::world::shell::{self, Ran};
use crate::yaml::{Parted, Problem};

pub(super) static KIND: Kind = Kind {
    name: "command",
    about: "What a command prints on its standard output, as one file; it must end with 0, print something, and \
            where the plan names an end marker print that at the end.",
    target: "the command as a list of words (no shell); it runs in the plan's folder",
    example: "{name: queue, kind: command, target: [./dump-queue], with: {file: queue.json, end_marker: \"-- complete\"}}",
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
    /// A text, or `~` and a regular expression, that must be in the last 64 KiB of what it prints: without
    /// it the output is taken for cut, and nothing is kept.
    #[serde(default)]
    #[schemars(with = "Option<Text>")]
    end_marker: Option<Parted>,
}

fn output() -> String {
    "output".into()
}

struct Command {
    name: String,
    shown: String,
    order: shell::Order,
    settings: Settings,
    end: Option<End>,
}

/// What the end of the output must hold.
enum End {
    Text(Vec<u8>),
    Pattern(Regex),
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
    let end = settings.end_marker.as_ref().map(End::read).transpose();
    let end = end.map_err(|why| order.problem(format!("`with.end_marker` {why}")))?;
    let mut command = shell::Order::new(words.into_iter().map(|w| w.value).collect(), &order.loaded.folder);
    command.timeout = order.timeout();
    Ok(Box::new(Command {
        name: order.spec.name.clone(),
        shown: target.to_string(),
        order: command,
        settings,
        end,
    }))
}

impl End {
    /// What a variable holds is a text, and no pattern.
    fn read(marker: &Parted) -> Result<Self, String> {
        let marked = marker.marked.as_str();
        let (text, pattern) = marked.strip_prefix('~').map_or((marked, false), |rest| (rest.trim(), true));
        let text =
            &marker.filled(text, |value| if pattern { regex::escape(value) } else { value.to_owned() });
        if text.trim().is_empty() {
            return Err("is empty, and every output would have it".into());
        }
        if !pattern {
            return Ok(Self::Text(text.as_bytes().to_vec()));
        }
        let regex = Regex::new(text).map_err(|e| format!("is not a regular expression: {e}"))?;
        if regex.is_match(b"") {
            return Err("fits an empty text, and so every output".into());
        }
        Ok(Self::Pattern(regex))
    }

    fn is_in(&self, last: &[u8]) -> bool {
        match self {
            Self::Text(text) => memchr::memmem::find(last, text).is_some(),
            Self::Pattern(regex) => regex.is_match(last),
        }
    }
}

impl Source for Command {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let mut took = 0.0;
        keep.file(self.settings.file.as_bytes(), &mut |sink| {
            let mut tail = Tail::new(sink);
            let (ran, bytes) = self.order.stream(&mut tail).map_err(|e| {
                Fault::infrastructure(format!("source `{}`: the command could not be run", self.name))
                    .place(&self.shown)
                    .cause(e)
                    .help("is it installed, and in PATH?")
            })?;
            took = ran.took.as_secs_f64();
            self.judge(&ran, bytes, tail.last())
        })?;
        Ok(Extra { tables: Vec::new(), details: json!({ "took": show_duration(took) }) })
    }
}

impl Command {
    fn judge(&self, ran: &Ran, bytes: u64, last: &[u8]) -> Result<(), Fault> {
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
        if self.end.as_ref().is_some_and(|end| !end.is_in(last)) {
            return Err(Fault::infrastructure(format!(
                "source `{}`: the output of the command is cut",
                self.name
            ))
            .place(&self.shown)
            .cause(format!(
                "`with.end_marker` is not in its last {} KiB, though the command ended with 0",
                TAIL / 1024
            ))
            .help("run the command by hand, or correct `end_marker`; nothing was kept"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_every_output_has_is_refused() {
        for (marker, word) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("~ ", "is empty"),
            ("~x*", "fits an empty text"),
            ("~(", "not a regular"),
        ] {
            let why = End::read(&marker.into()).err().unwrap_or_default();
            assert!(why.contains(word), "{marker}: {why}");
        }
    }

    #[test]
    fn a_marker_is_a_text_or_an_expression() {
        let text = End::read(&"-- done (x)".into()).unwrap();
        assert!(text.is_in(b"a\n-- done (x)\n") && !text.is_in(b"-- done"));
        let pattern = End::read(&r"~(?m)^rows: \d+$".into()).unwrap();
        assert!(pattern.is_in(b"x\nrows: 12\n\xff") && !pattern.is_in(b"rows: many"));
    }
}
