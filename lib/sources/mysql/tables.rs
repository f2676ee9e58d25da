//! Rows and sums of MySQL's tables, as SQL.

use super::server::{Row, Session, quoted, text};
use crate::evidence::TableRecord;
use crate::sources::tables::{Now, TableSpec};

/// Why a table could not be counted.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The table or a column of it is not there, or is nothing that can be used like this.
    Gone(String),
    /// The server did not answer.
    Unanswered(String),
}

/// What values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Number,
    Float,
    Text,
    Bytes,
}

/// A column of a table.
struct Column {
    name: String,
    of: Type,
}

/// Rows, sum and greatest key of a table; with a key only rows that have one count.
pub(super) fn record(session: &mut Session, spec: &TableSpec) -> Result<TableRecord, Trouble> {
    let [sum, key] = columns(session, &spec.name, [spec.sum.as_deref(), spec.key.as_deref()])?;
    let sum = sum.as_ref().map(summed).transpose()?;
    let greatest = key.as_ref().map(greatest).transpose()?;
    let only =
        key.as_ref().map_or_else(String::new, |key| format!(" WHERE {} IS NOT NULL", quoted(&key.name)));
    let total = sum.map_or_else(|| "NULL".to_owned(), |sum| format!("COALESCE(SUM({sum}), 0)"));
    let from = format!("FROM {}{only}", quoted(&spec.name));
    let row = session.row_from(&["COUNT(*)", &total, greatest.as_deref().unwrap_or("NULL")], &from);
    let mut row = row.map_err(|e| Trouble::Unanswered(e.to_string()))?;
    Ok(TableRecord {
        table: spec.name.clone(),
        rows: number(&row, 0)?,
        sum_of: spec.sum.clone(),
        sum: row[1].take(),
        key: spec.key.clone(),
        up_to: row[2].take(),
    })
}

/// The same figures now.
pub(super) fn now(session: &mut Session, recorded: &TableRecord) -> Result<Now, Trouble> {
    let [sum, key] =
        columns(session, &recorded.table, [recorded.sum_of.as_deref(), recorded.key.as_deref()])?;
    let counts = match (&key, &recorded.up_to) {
        (Some(key), Some(up_to)) => format!("{} <= {}", quoted(&key.name), literal(key.of, up_to)?),
        // It was empty: whatever is there came later.
        (Some(_), None) => "FALSE".into(),
        (None, _) => "TRUE".into(),
    };
    let sum = sum.as_ref().map(summed).transpose()?;
    let total = sum.map_or_else(
        || "NULL".to_owned(),
        |sum| format!("COALESCE(SUM(CASE WHEN {counts} THEN {sum} END), 0)"),
    );
    let rows = format!("COUNT(CASE WHEN {counts} THEN 1 END)");
    let row = session.row_from(&[&rows, &total, "COUNT(*)"], &format!("FROM {}", quoted(&recorded.table)));
    let mut row = row.map_err(|e| Trouble::Unanswered(e.to_string()))?;
    let rows = number(&row, 0)?;
    Ok(Now { rows, sum: row[1].take(), later: number(&row, 2)?.saturating_sub(rows) })
}

/// What the wanted columns are.
fn columns(
    session: &mut Session,
    table: &str,
    wanted: [Option<&str>; 2],
) -> Result<[Option<Column>; 2], Trouble> {
    let from = format!(
        "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = {}",
        text(table)
    );
    let known =
        session.rows(&["column_name", "data_type"], &from).map_err(|e| Trouble::Unanswered(e.to_string()))?;
    if known.is_empty() {
        return Err(Trouble::Gone(format!("there is no table `{table}`, or the user may not see it")));
    }
    let find = |name: &str| {
        let row = known.iter().find(|row| row[0].as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name)));
        let row = row.ok_or_else(|| Trouble::Gone(format!("the table `{table}` has no column `{name}`")))?;
        Ok(Column { name: name.to_owned(), of: type_of(row[1].as_deref().unwrap_or_default()) })
    };
    let [sum, key] = wanted.map(|name| name.map(find).transpose());
    Ok([sum?, key?])
}

fn type_of(name: &str) -> Type {
    match name.to_ascii_lowercase().as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => Type::Number,
        "float" | "double" => Type::Float,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Type::Bytes,
        _ => Type::Text,
    }
}

fn summed(column: &Column) -> Result<String, Trouble> {
    let name = quoted(&column.name);
    match column.of {
        Type::Number => Ok(name),
        // The sum of floats depends on their order, that of decimals does not.
        Type::Float => Ok(format!("CAST({name} AS DECIMAL(65, 12))")),
        Type::Text | Type::Bytes => Err(Trouble::Gone(format!("the column {name} is no number to sum up"))),
    }
}

fn greatest(column: &Column) -> Result<String, Trouble> {
    let name = quoted(&column.name);
    match column.of {
        Type::Number | Type::Text => Ok(format!("MAX({name})")),
        Type::Bytes => Ok(format!("CONCAT('0x', HEX(MAX({name})))")),
        Type::Float => Err(Trouble::Gone(format!("the column {name} is a float, which is no key"))),
    }
}

/// A recorded key as SQL. It comes from a document: nothing but a value gets through.
fn literal(of: Type, recorded: &str) -> Result<String, Trouble> {
    let digits = recorded.strip_prefix('-').unwrap_or(recorded);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let hex = recorded.strip_prefix("0x").filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    match of {
        Type::Number if plain => Ok(recorded.to_owned()),
        Type::Text => Ok(text(recorded)),
        Type::Bytes if hex == Some("") => Ok("''".into()),
        Type::Bytes if hex.is_some_and(|h| h.len() % 2 == 0) => Ok(recorded.to_owned()),
        _ => Err(Trouble::Gone(format!("the recorded key {recorded} does not fit the column any more"))),
    }
}

fn number(row: &Row, at: usize) -> Result<u64, Trouble> {
    let digits = row.get(at).and_then(Option::as_ref);
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Trouble::Unanswered("it did not answer with a number".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_key_is_a_value_and_never_a_statement() {
        assert_eq!(literal(Type::Number, "-12").unwrap(), "-12");
        assert_eq!(literal(Type::Text, "2026-01-02").unwrap(), text("2026-01-02"));
        assert_eq!(literal(Type::Bytes, "0x0AFF").unwrap(), "0x0AFF");
        for (of, key) in [
            (Type::Number, "1 OR 1=1"),
            (Type::Number, ""),
            (Type::Bytes, "0x1"),
            (Type::Bytes, "1"),
            (Type::Float, "1"),
        ] {
            assert!(literal(of, key).is_err(), "{key}");
        }
    }
}
