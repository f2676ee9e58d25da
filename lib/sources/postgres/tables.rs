//! Rows and sums of PostgreSQL's tables, as SQL.

use ::postgres::Client;
use ::postgres::error::SqlState;

use crate::evidence::TableRecord;
use crate::sources::tables::{Now, TableSpec};
use crate::world::postgres::chain;

/// Rows, sum and greatest key of a table; with a key only rows that have one count.
pub(super) fn record(client: &mut Client, spec: &TableSpec) -> Result<TableRecord, ::postgres::Error> {
    let key = spec.key.as_deref().map_or_else(|| "NULL".to_owned(), |key| format!("max({})", quoted(key)));
    let only =
        spec.key.as_deref().map_or_else(String::new, |key| format!(" WHERE {} IS NOT NULL", quoted(key)));
    let sql = format!(
        "SELECT count(*), {}, ({key})::text FROM {}{only}",
        sum_of(spec.sum.as_deref(), ""),
        table_name(&spec.name)
    );
    let row = client.query_one(&sql, &[])?;
    Ok(TableRecord {
        table: spec.name.clone(),
        rows: row.get::<_, i64>(0).unsigned_abs(),
        sum_of: spec.sum.clone(),
        sum: row.get(1),
        key: spec.key.clone(),
        up_to: row.get(2),
    })
}

/// The same figures now.
pub(super) fn now(client: &mut Client, recorded: &TableRecord) -> Result<Now, ::postgres::Error> {
    let filter = match (&recorded.key, &recorded.up_to) {
        (Some(key), Some(up_to)) => {
            format!(" FILTER (WHERE {} <= '{}')", quoted(key), up_to.replace('\'', "''"))
        }
        // It was empty: whatever is there came later.
        (Some(_), None) => " FILTER (WHERE false)".to_owned(),
        (None, _) => String::new(),
    };
    let sql = format!(
        "SELECT count(*){filter}, {}, count(*) FROM {}",
        sum_of(recorded.sum_of.as_deref(), &filter),
        table_name(&recorded.table)
    );
    let row = client.query_one(&sql, &[])?;
    let rows = row.get::<_, i64>(0).unsigned_abs();
    Ok(Now { rows, sum: row.get(1), later: row.get::<_, i64>(2).unsigned_abs() - rows })
}

/// Whether the table or a column is not there any more.
pub(super) fn is_gone(error: &::postgres::Error) -> bool {
    let gone = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN, SqlState::INVALID_SCHEMA_NAME];
    error.code().is_some_and(|code| gone.contains(code))
}

/// Why the database refused, in its own words.
pub(super) fn why(error: &::postgres::Error) -> String {
    error.as_db_error().map_or_else(|| chain(error), |e| e.message().to_owned())
}

/// The table's own name without its schema.
pub(super) fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn sum_of(column: Option<&str>, filter: &str) -> String {
    // As numeric, since the sum of floats depends on their order.
    match column {
        Some(column) => format!("coalesce(sum(({})::numeric){filter}, 0)::text", quoted(column)),
        None => "NULL::text".into(),
    }
}

fn table_name(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(table_name("sales.or\"ders"), "\"sales\".\"or\"\"ders\"");
        assert_eq!(last_part("sales.orders"), "orders");
    }
}
