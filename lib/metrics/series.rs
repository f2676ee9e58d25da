//! Series in CSV, JSON and JSON lines, as files and commands give them.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::moment::{self, Finest};
use super::{Ask, Point, Trouble};
use crate::bounds;
use crate::redact::redact;
use crate::units::{clipped, listed};

/// No text has more values, keys among them: some 400,000 points, in some 200 MiB of memory.
pub(super) const MAX_VALUES: usize = 2_000_000;
/// An entry has a moment, a value and perhaps some labels.
const MAX_VALUES_OF_A_LINE: usize = 10_000;

/// How a series is written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Comma-separated values with a header row.
    Csv,
    /// `[{"time": …, "value": …}, …]`, `[[TIME, VALUE], …]`, or an object with such lists under
    /// `blue` and `green`.
    Json,
    /// One entry of such a list on each line.
    Jsonl,
}

/// Under which names things stand.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The moment.
    pub(super) time: String,
    /// The value.
    pub(super) value: Values,
}

/// Where the values of a side stand.
#[derive(Clone, Debug)]
pub(super) enum Values {
    /// In one place, whatever the side.
    One(String),
    /// Each side in its own column.
    Columns {
        /// Blue's column.
        blue: String,
        /// Green's column.
        green: String,
    },
    /// In one place, beside the word `blue` or `green`.
    Labelled {
        /// Where the word stands.
        side: String,
        /// Where the value stands.
        value: String,
    },
}

/// What was read for one side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// Its values, ascending, each moment once.
    pub(super) points: Vec<Point>,
    /// Whether the text itself tells the sides apart.
    pub(super) by_side: bool,
}

impl Names {
    /// `time` and `value`.
    pub(super) fn usual() -> Self {
        Self { time: "time".into(), value: Values::One("value".into()) }
    }
}

impl Series {
    /// The values in a window.
    ///
    /// Errors: the sides are not told apart, neither by the text nor by the `query`.
    pub(super) fn within(self, ask: &Ask<'_>, query_names_side: bool) -> Result<Vec<Point>, Trouble> {
        if !ask.side.word.is_empty() && !self.by_side && !query_names_side {
            return Err(Trouble::refused(
                "the same values would stand for both sides: write `{{ side }}` in `target`, or give each side its own",
            ));
        }
        let window = ask.from.as_millisecond()..ask.to.as_millisecond();
        Ok(self.points.into_iter().filter(|point| window.contains(&point.at_ms)).collect())
    }
}

/// Reads the series of one side; `word` is `blue`, `green`, or empty where there are no sides.
///
/// A value that is absent is left out; NaN and infinite ones come through. Errors: a babble that names
/// the line or the entry.
pub(super) fn read(format: Format, bytes: &[u8], names: &Names, word: &str) -> Result<Series, Trouble> {
    match format {
        Format::Csv => read_csv(bytes, names, word),
        Format::Json => read_json(bytes, names, word),
        Format::Jsonl => read_lines(bytes, names, word),
    }
}

/// The part of a text whose lines are finished: the last one may still be written.
pub(super) fn finished(bytes: &[u8]) -> &[u8] {
    memchr::memrchr(b'\n', bytes).map_or(&[], |end| &bytes[..=end])
}

/// A number as people and programs write it; none for an empty cell.
///
/// Errors: in words.
pub(super) fn number(text: &str) -> Result<Option<f64>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("`{}` is not a number", start_of(text)))
}

/// Points as they come, which must ascend.
#[derive(Default)]
struct Ascending {
    points: Vec<Point>,
    last: Option<i64>,
}

impl Ascending {
    fn add(&mut self, at_ms: i64, value: Option<f64>) -> Result<(), String> {
        match self.last {
            Some(last) if last == at_ms => return Err("a moment stands there twice".into()),
            Some(last) if last > at_ms => return Err("moments must ascend; this one goes back".into()),
            _ => self.last = Some(at_ms),
        }
        self.points.extend(value.map(|value| Point { at_ms, value }));
        Ok(())
    }
}

fn read_csv(bytes: &[u8], names: &Names, word: &str) -> Result<Series, Trouble> {
    let bytes = finished(bytes);
    let mut found = Ascending::default();
    let by_side = !matches!(names.value, Values::One(_));
    if bytes.is_empty() {
        return Ok(Series { points: Vec::new(), by_side });
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let headers = reader.headers().map_err(|error| Trouble::babble(format!("its header: {error}")))?;
    let column = |name: &str| {
        let mut there = headers.iter().enumerate().filter(|(_, header)| *header == name).map(|(at, _)| at);
        match (there.next(), there.next()) {
            (Some(at), None) => Ok(at),
            (Some(_), Some(_)) => Err(Trouble::babble(format!("two columns are called `{name}`"))),
            (None, _) => {
                let all: Vec<String> = headers.iter().map(plain_or_dots).collect();
                Err(Trouble::babble(format!("no column `{name}`; its header row: {}", listed(&all, 20))))
            }
        }
    };
    let time = column(&names.time)?;
    let (value, side) = match &names.value {
        Values::One(name) => (column(name)?, None),
        Values::Columns { blue, green } => (column(side_column(word, blue, green)?)?, None),
        Values::Labelled { side, value } => (column(value)?, Some((column(side)?, told_apart(word)?))),
    };
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(Series { points: found.points, by_side }),
            Err(error) => return Err(Trouble::babble(csv_error(bytes, &error, line))),
        }
        let line = record.position().map_or(line, |place| line_of(bytes, place));
        let cell = |at: usize| record.get(at).unwrap_or_default();
        if let Some((side, word)) = side {
            match cell(side) {
                "blue" | "green" if cell(side) != word => continue,
                "blue" | "green" => {}
                other => return Err(Trouble::babble(format!("line {line}: {}", no_side(other)))),
            }
        }
        moment::of_text(cell(time), Finest::Milliseconds)
            .and_then(|at| found.add(at, number(cell(value))?))
            .map_err(|why| Trouble::babble(format!("line {line}: {why}")))?;
    }
}

/// The line that a row stands on; its place is before the empty lines that lead to it.
fn line_of(bytes: &[u8], place: &csv::Position) -> u64 {
    let start = usize::try_from(place.byte()).unwrap_or(usize::MAX).min(bytes.len());
    let empty = bytes[start..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
    place.line() + empty.filter(|byte| **byte == b'\n').count() as u64
}

/// A column's name, if it looks like one: the file may be something else altogether.
fn plain_or_dots(header: &str) -> String {
    let plain = header.chars().all(|c| c.is_alphanumeric() || " _-.".contains(c));
    if plain { start_of(header) } else { "…".into() }
}

/// In words, without the cells: those may hold anything.
fn csv_error(bytes: &[u8], error: &csv::Error, line: u64) -> String {
    let line = error.position().map_or(line, |place| line_of(bytes, place));
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("line {line}: {len} cells where the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => format!("line {line}: it is not UTF-8"),
        _ => format!("line {line}: it is not CSV"),
    }
}

fn read_json(bytes: &[u8], names: &Names, word: &str) -> Result<Series, Trouble> {
    let whole: Value = bounds::json(bytes, MAX_VALUES).map_err(|error| not_json(&error))?;
    let mut by_side = !matches!(names.value, Values::One(_));
    let list = match &whole {
        Value::Array(list) => list,
        Value::Object(object) if object.contains_key("blue") || object.contains_key("green") => {
            by_side = true;
            match object.get(told_apart(word)?) {
                Some(Value::Array(list)) => list,
                None => return Ok(Series { points: Vec::new(), by_side }),
                Some(_) => return Err(Trouble::babble(format!("`{word}` is no list"))),
            }
        }
        _ => return Err(Trouble::babble("a list is expected, or an object with lists `blue` and `green`")),
    };
    let mut found = Ascending::default();
    for (number, entry) in list.iter().enumerate() {
        add_entry(entry, names, word, &mut found)
            .map_err(|why| Trouble::babble(format!("entry {}: {why}", number + 1)))?;
    }
    Ok(Series { points: found.points, by_side })
}

fn read_lines(bytes: &[u8], names: &Names, word: &str) -> Result<Series, Trouble> {
    let mut found = Ascending::default();
    for (number, line) in finished(bytes).split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        bounds::json(line, MAX_VALUES_OF_A_LINE)
            .map_err(|_| "it is not JSON".to_owned())
            .and_then(|entry: Value| add_entry(&entry, names, word, &mut found))
            .map_err(|why| Trouble::babble(format!("line {}: {why}", number + 1)))?;
    }
    Ok(Series { points: found.points, by_side: !matches!(names.value, Values::One(_)) })
}

/// One `{"time": …, "value": …}` or `[TIME, VALUE]`.
fn add_entry(entry: &Value, names: &Names, word: &str, found: &mut Ascending) -> Result<(), String> {
    let (time, value) = match (entry, &names.value) {
        (Value::Array(pair), Values::One(_)) if pair.len() == 2 => (&pair[0], &pair[1]),
        (Value::Object(object), values) => {
            let get = |name: &str| object.get(name).unwrap_or(&Value::Null);
            let value = match values {
                Values::One(name) => name,
                Values::Columns { blue, green } => {
                    side_column(word, blue, green).map_err(|trouble| trouble.message)?
                }
                Values::Labelled { side, value } => match get(side).as_str() {
                    Some(label @ ("blue" | "green")) if label != word => return Ok(()),
                    Some("blue" | "green") => value,
                    other => return Err(no_side(other.unwrap_or_default())),
                },
            };
            if !object.contains_key(value) {
                return Err(format!("it has no `{value}`"));
            }
            (get(&names.time), get(value))
        }
        (Value::Array(_), Values::One(_)) => return Err("a pair of moment and value is expected".into()),
        _ => return Err("an object with moment and value is expected".into()),
    };
    let at_ms = match time {
        Value::Number(number) => {
            moment::of_number(number.as_f64().unwrap_or(f64::NAN), Finest::Milliseconds)?
        }
        Value::String(text) => moment::of_text(text, Finest::Milliseconds)?,
        _ => return Err(format!("it has no moment under `{}`", names.time)),
    };
    let value = match value {
        Value::Null => None,
        Value::Number(number) => number.as_f64(),
        // JSON has no other way to write NaN.
        Value::String(text) => number(text)?,
        _ => return Err("its value is not a number".into()),
    };
    found.add(at_ms, value)
}

fn side_column<'n>(word: &str, blue: &'n str, green: &'n str) -> Result<&'n str, Trouble> {
    told_apart(word).map(|word| if word == "blue" { blue } else { green })
}

fn told_apart(word: &str) -> Result<&str, Trouble> {
    if word.is_empty() {
        return Err(Trouble::refused("it has a series for each side, and none of them is asked for here"));
    }
    Ok(word)
}

fn no_side(text: &str) -> String {
    format!("its side is `{}`; `blue` or `green` is expected", start_of(text))
}

fn not_json(error: &serde_json::Error) -> Trouble {
    if error.is_data() {
        return Trouble::babble(format!("{error}; split it by `{{{{ side }}}}` or by time"));
    }
    Trouble::babble(format!("it is not JSON, line {} column {}", error.line(), error.column()))
}

fn start_of(text: &str) -> String {
    clipped(&redact(text).chars().filter(|c| !c.is_control()).collect::<String>(), 40)
}
