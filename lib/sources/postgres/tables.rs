//! Rows and sums of tables: recorded with a snapshot, compared afterwards.

use ::postgres::Client;
use ::postgres::error::SqlState;
use serde_json::json;

use super::TableSpec;
use crate::evidence::{Finding, TableRecord, Verdict};
use crate::sources::data_finding;
use crate::world::postgres::chain;

/// What a table has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Now {
    /// Rows that count: all, or those up to the recorded key.
    pub(super) rows: u64,
    /// Their sum.
    pub(super) sum: Option<String>,
    /// Rows that came later.
    pub(super) later: u64,
}

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

/// Compares what is now with what was recorded.
pub(super) fn judge(recorded: &TableRecord, now: &Now) -> Finding {
    let same = now.rows == recorded.rows && now.sum == recorded.sum;
    let sentence = |rows: u64, sum: Option<&String>| match (&recorded.sum_of, sum) {
        (Some(column), Some(sum)) => format!("{rows} rows, sum of {column} {sum}"),
        _ => format!("{rows} rows"),
    };
    let later = if now.later > 0 { format!(", and {} later rows", now.later) } else { String::new() };
    let mut finding = data_finding(recorded, if same { Verdict::Pass } else { Verdict::Fail });
    finding.observed = Some(sentence(now.rows, now.sum.as_ref()) + &later);
    finding.expected = Some(sentence(recorded.rows, recorded.sum.as_ref()));
    finding.value = Some(now.rows as f64);
    finding.samples = Some(now.rows + now.later);
    finding.evidence =
        json!({ "recorded": recorded, "rows": now.rows, "sum": now.sum, "later_rows": now.later });
    let scope = match (&recorded.key, &recorded.up_to) {
        (Some(key), Some(up_to)) => format!("rows up to {key} {up_to}"),
        (Some(_), None) => "the table was empty at the snapshot, and its rows".into(),
        (None, _) => "all rows".into(),
    };
    finding.says(if same {
        format!("{scope} are as they were at the snapshot{later}")
    } else {
        format!("{scope} are not as they were at the snapshot")
    })
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

    fn recorded(key: Option<&str>) -> TableRecord {
        TableRecord {
            table: "orders".into(),
            rows: 3,
            sum_of: Some("cents".into()),
            sum: Some("600".into()),
            key: key.map(Into::into),
            up_to: key.map(|_| "3".into()),
        }
    }

    #[test]
    fn later_rows_are_shown_and_do_not_fail() {
        let now = Now { rows: 3, sum: Some("600".into()), later: 2 };
        let finding = judge(&recorded(Some("id")), &now);
        assert_eq!(finding.verdict, Verdict::Pass);
        assert_eq!(finding.observed.as_deref(), Some("3 rows, sum of cents 600, and 2 later rows"));
        assert_eq!((finding.name.as_str(), finding.kind.as_str()), ("data intact: orders", "data"));
    }

    #[test]
    fn another_count_or_another_sum_fails() {
        for (rows, sum) in [(2, "600"), (3, "599"), (4, "600")] {
            let now = Now { rows, sum: Some(sum.into()), later: 0 };
            assert_eq!(judge(&recorded(None), &now).verdict, Verdict::Fail, "{rows} {sum}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(table_name("sales.or\"ders"), "\"sales\".\"or\"\"ders\"");
        assert_eq!(last_part("sales.orders"), "orders");
    }
}
