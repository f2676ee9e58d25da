//! Rows and sums of tables, whichever database they are in: what the plan asks for, and the comparison.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Order, data_finding};
use crate::evidence::{Finding, TableRecord, Verdict};
use crate::yaml::Problem;

/// One table whose rows are recorded.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TableSpec {
    /// Its name, `orders`; with PostgreSQL `sales.orders` too.
    pub(super) name: String,
    /// A column of numbers to sum up.
    #[serde(default)]
    pub(super) sum: Option<String>,
    /// A column that only ever grows: rows that come later are no change of the data.
    #[serde(default)]
    pub(super) key: Option<String>,
}

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

/// Refuses tables and columns without a name.
pub(super) fn named(order: &Order<'_>, tables: &[TableSpec]) -> Result<(), Problem> {
    for table in tables {
        let columns = [Some(&table.name), table.sum.as_ref(), table.key.as_ref()];
        if columns.into_iter().flatten().any(|name| name.is_empty() || name.contains('\0')) {
            return Err(order.problem("a table or column in `with.tables` has no name"));
        }
    }
    Ok(())
}

/// Compares what is now with what was recorded.
pub(super) fn judge(recorded: &TableRecord, now: &Now) -> Finding {
    let same = is_same(recorded, now);
    let later = if now.later > 0 { format!(", and {} later rows", now.later) } else { String::new() };
    let mut finding = data_finding(recorded, if same { Verdict::Pass } else { Verdict::Fail });
    finding.observed = Some(sentence(recorded, now.rows, now.sum.as_ref()) + &later);
    finding.expected = Some(sentence(recorded, recorded.rows, recorded.sum.as_ref()));
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

/// What is not as it was recorded, as half a sentence: `orders has 3 rows, not 4 rows`.
pub(super) fn difference(recorded: &TableRecord, now: &Now) -> Option<String> {
    let (is, was) = (
        sentence(recorded, now.rows, now.sum.as_ref()),
        sentence(recorded, recorded.rows, recorded.sum.as_ref()),
    );
    (!is_same(recorded, now)).then(|| format!("{} has {is}, not {was}", recorded.table))
}

fn is_same(recorded: &TableRecord, now: &Now) -> bool {
    now.rows == recorded.rows && now.sum == recorded.sum
}

fn sentence(recorded: &TableRecord, rows: u64, sum: Option<&String>) -> String {
    match (&recorded.sum_of, sum) {
        (Some(column), Some(sum)) => format!("{rows} rows, sum of {column} {sum}"),
        _ => format!("{rows} rows"),
    }
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
        assert_eq!(difference(&recorded(Some("id")), &now), None);
    }

    #[test]
    fn another_count_or_another_sum_fails() {
        for (rows, sum) in [(2, "600"), (3, "599"), (4, "600")] {
            let now = Now { rows, sum: Some(sum.into()), later: 0 };
            assert_eq!(judge(&recorded(None), &now).verdict, Verdict::Fail, "{rows} {sum}");
            let said = format!("orders has {rows} rows, sum of cents {sum}, not 3 rows, sum of cents 600");
            assert_eq!(difference(&recorded(None), &now), Some(said));
        }
    }
}
