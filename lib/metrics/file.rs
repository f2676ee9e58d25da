//! `file`: series in CSV or JSON that something else writes.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::series::{self, Format, Names, Values};
use super::{Ask, Gives, Kind, Order, Point, Source, Trouble, template};
use crate::plan::commands;
use crate::units::{Text, show_size};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "file",
    about: "series in a CSV or JSON file",
    target: "a path, relative to the plan; `{{ side }}` and the like are filled in",
    example: "{name: orders, kind: file, target: \"orders-{{ side }}.csv\", worse: lower, with: {time: t, value: orders}}",
    gives: Gives::Points,
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of series in a file.
///
/// Moments are RFC 3339 or numbers: from 100 million on seconds since 1970, from 100 thousand million on
/// milliseconds. They ascend, each once. `NaN`, `Inf` and `-Inf` are values, an empty cell or `null` is
/// none. The sides are told apart by the path, by two columns, or by a column with the words `blue` and
/// `green`. A last line without its line feed is still being written, and is not read yet.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The column (in JSON the key) with the moment; `time` when absent.
    #[serde(default)]
    time: Option<String>,
    /// The column with the value; `value` when absent.
    #[serde(default)]
    value: Option<String>,
    /// The column with blue's value; then `green` is needed too, and `value` is not.
    #[serde(default)]
    blue: Option<String>,
    /// The column with green's value.
    #[serde(default)]
    green: Option<String>,
    /// The column with the word `blue` or `green`, beside `value`.
    #[serde(default)]
    side: Option<String>,
    /// How it is written, `csv`, `json` or `jsonl`; as the path ends (`.csv`, `.json`, `.jsonl`, `.ndjson`) when absent.
    #[serde(default)]
    format: Option<Format>,
}

struct File {
    path: Text,
    folder: PathBuf,
    format: Format,
    names: Names,
    names_side: bool,
}

/// The largest file in bytes that is read.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What tells the sides apart in a query.
pub(super) const SIDE_HOLES: [&str; 3] = ["side", "release", "address"];

fn open(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = match &order.with.0 {
        Some(node) if !node.is_null() => order.with.read(order.variables)?,
        _ => Settings::default(),
    };
    let place = order.with.0.as_ref().map(|node| node.place).unwrap_or_default();
    let wrong = |message: String| Problem::at(place, message);
    let Some(target) = order.target else {
        return Err(wrong("the key `target` is missing: the path of the file".into()));
    };
    let path = target.one().map_err(&wrong)?.clone();
    template::check(&path.value).map_err(&wrong)?;
    commands::fit_path(&path.shown, order.variables).map_err(|unfit| unfit.at(Some(place)))?;
    let format = match (settings.format, Path::new(&path.value).extension().and_then(|end| end.to_str())) {
        (Some(format), _) => format,
        (None, Some("csv")) => Format::Csv,
        (None, Some("json")) => Format::Json,
        (None, Some("jsonl" | "ndjson")) => Format::Jsonl,
        _ => {
            return Err(wrong("nothing says how the file is written".into())
                .help("add `with: {format: csv}`, json or jsonl"));
        }
    };
    let value = settings.value.unwrap_or_else(|| "value".into());
    let value = match (settings.blue, settings.green, settings.side) {
        (None, None, None) => Values::One(value),
        (Some(blue), Some(green), None) => Values::Columns { blue, green },
        (None, None, Some(side)) => Values::Labelled { side, value },
        _ => return Err(wrong("`blue` and `green` go together, and without `side`".into())),
    };
    Ok(Box::new(File {
        names_side: SIDE_HOLES.iter().any(|hole| template::names(&path.value, hole)),
        path,
        folder: order.folder.to_path_buf(),
        format,
        names: Names { time: settings.time.unwrap_or_else(|| "time".into()), value },
    }))
}

impl Source for File {
    fn points(&mut self, ask: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
        let shown = self.query(ask);
        let path = template::fill_word(&self.path.value, ask).map_err(Trouble::refused)?;
        let named = |mut trouble: Trouble| {
            trouble.message = format!("{shown}: {}", trouble.message);
            trouble
        };
        let bytes = content(&self.folder.join(path)).map_err(named)?;
        series::read(self.format, &bytes, &self.names, ask.side.word)
            .and_then(|series| series.within(ask, self.names_side))
            .map_err(named)
    }

    fn query(&self, ask: &Ask<'_>) -> String {
        crate::redact::redact(
            &template::fill(&self.path.shown, ask).unwrap_or_else(|_| self.path.shown.clone()),
        )
    }
}

/// Opens a regular file.
///
/// Errors: [`Trouble::unreachable`] when it is not there, [`Trouble::refused`] when it is something else
/// or may not be read.
pub(super) fn open_regular(path: &Path) -> Result<(std::fs::File, std::fs::Metadata), Trouble> {
    let failed = |error: &std::io::Error| match error.kind() {
        ErrorKind::NotFound => Trouble::unreachable("it is not there"),
        _ => Trouble::refused(error.to_string()),
    };
    let file = crate::bounds::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    Ok((file, metadata))
}

fn content(path: &Path) -> Result<Vec<u8>, Trouble> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    // The length of a file that grows is no bound.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| Trouble::refused(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        let most = show_size(MAX_BYTES as f64);
        return Err(Trouble::refused(format!(
            "it has more than {most}; split it by `{{{{ side }}}}` or by time"
        )));
    }
    Ok(bytes)
}
