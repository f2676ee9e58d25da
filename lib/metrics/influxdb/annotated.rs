//! Annotated CSV, as InfluxDB answers to Flux.
//!
//! Source: <https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/>.

use std::collections::BTreeMap;

use csv::{ReaderBuilder, StringRecord};
use jiff::Timestamp;

use super::super::Point;
use super::super::remote::{Series, label, short};

/// Why there are no series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum No {
    /// It says so, or gives what are no numbers.
    Refused(String),
    /// It cannot be understood.
    Babble(String),
}

fn babble(why: impl Into<String>) -> No {
    No::Babble(why.into())
}

/// The series in the tables of an answer: one for each table.
pub(super) fn series(body: &[u8]) -> Result<Vec<Series>, No> {
    // A number that is cut off is a number too.
    if !body.is_empty() && !body.ends_with(b"\n") {
        return Err(babble("the last line has no end; it may have been cut off"));
    }
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut tables = Tables::default();
    for row in reader.records() {
        tables.take(&row.map_err(|e| babble(e.to_string()))?)?;
    }
    Ok(tables.all.into_values().collect())
}

#[derive(Debug, Default)]
struct Tables {
    columns: Columns,
    /// By result and table.
    all: BTreeMap<(String, String), Series>,
}

/// What the columns of the current table are; the first one holds the annotations.
#[derive(Debug, Default)]
struct Columns {
    datatype: StringRecord,
    group: StringRecord,
    default: StringRecord,
    names: StringRecord,
}

impl Tables {
    fn take(&mut self, row: &StringRecord) -> Result<(), No> {
        let first = row.get(0).unwrap_or_default();
        if first.starts_with('#') && !self.columns.names.is_empty() {
            self.columns = Columns::default();
        }
        match first {
            "#datatype" => self.columns.datatype = row.clone(),
            "#group" => self.columns.group = row.clone(),
            "#default" => self.columns.default = row.clone(),
            _ if first.starts_with('#') => {}
            _ if self.columns.names.is_empty() => self.columns.names = row.clone(),
            _ => self.record(row)?,
        }
        Ok(())
    }

    fn record(&mut self, row: &StringRecord) -> Result<(), No> {
        let columns = &self.columns;
        let (Some(_), Some(value)) = (columns.at("_time"), columns.at("_value")) else {
            return Err(columns.no_series(row));
        };
        if row.len() != columns.names.len() {
            return Err(babble(
                "a row has another number of columns than its table; it may have been cut off",
            ));
        }
        let datatype = columns.datatype.get(value).unwrap_or_default();
        if !matches!(datatype, "double" | "long" | "unsignedLong" | "") {
            return Err(No::Refused(format!("the values are of the type {}, not numbers", short(datatype))));
        }
        let cell = |name| columns.cell(row, name).unwrap_or_default().to_owned();
        let new = || Series { label: columns.label(row), points: Vec::new() };
        let series = self.all.entry((cell("result"), cell("table"))).or_insert_with(new);
        let at: Timestamp = cell("_time").parse().map_err(|_| babble("a `_time` is no moment"))?;
        // An empty cell is no value, and not 0.
        if let Some(value) = columns.cell(row, "_value") {
            let value = value.parse().map_err(|_| babble("a `_value` is no number"))?;
            series.points.push(Point { at_ms: at.as_millisecond(), value });
        }
        Ok(())
    }
}

impl Columns {
    fn at(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The cell of a row; its column's default where it is empty.
    fn cell<'a>(&'a self, row: &'a StringRecord, name: &str) -> Option<&'a str> {
        let at = self.at(name)?;
        let cell = row.get(at).filter(|cell| !cell.is_empty());
        cell.or_else(|| self.default.get(at)).filter(|cell| !cell.is_empty())
    }

    /// The labels of the group that a row belongs to.
    fn label(&self, row: &StringRecord) -> String {
        let grouped = self.names.iter().enumerate().filter(|(at, name)| {
            self.group.get(*at) == Some("true") && !matches!(*name, "_start" | "_stop" | "_time" | "_value")
        });
        label(grouped.map(|(_, name)| (name, self.cell(row, name).unwrap_or_default())))
    }

    /// A table with neither time nor value is an error, or a query of something else.
    fn no_series(&self, row: &StringRecord) -> No {
        if let Some(error) = self.cell(row, "error") {
            return No::Refused(short(error));
        }
        let names: Vec<&str> = self.names.iter().filter(|name| !name.is_empty()).collect();
        let names = short(&names.join(", "));
        babble(format!("a table has the columns {names}, and needs `_time` and `_value`"))
    }
}
