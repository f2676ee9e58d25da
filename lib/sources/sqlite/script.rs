//! What is said to the program sqlite3, and what it answers.

use std::path::{Path, PathBuf};

use crate::evidence::TableRecord;
use crate::fault::Fault;
use crate::redact::redact;
use crate::sources::programs::{Programs, unhex};
use crate::sources::tables::{Now, TableSpec};

/// The last line of every answer: without it something went wrong, whatever the exit status.
const END: &str = "trapkey-end";
/// How long others may hold the database, in milliseconds.
const BUSY: u32 = 30_000;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refused {
    /// A table or column is not there, or is nothing that can be used like this.
    Gone(String),
    /// SQLite says why.
    Failed(String),
    /// The program could not be run.
    Fault(Fault),
}

/// Lines for sqlite3. Every question is answered by one row.
pub(super) struct Asked {
    folder: PathBuf,
    text: String,
    questions: usize,
}

impl Asked {
    /// A script that runs in a folder.
    pub(super) fn at(folder: &Path) -> Self {
        let text = format!(".bail on\n.timeout {BUSY}\n.mode list\n.separator |\n.headers off\n");
        Self { folder: folder.to_path_buf(), text, questions: 0 }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Adds a question for some expressions.
    pub(super) fn question(&mut self, expressions: &[&str], from: &str) {
        self.questions += 1;
        // In hexadecimal, so that nothing in a value can be taken for one of the answer.
        let columns: Vec<String> = expressions.iter().map(|e| format!("hex(coalesce({e}, ''))")).collect();
        self.line(&format!("SELECT 'row', {} {from};", columns.join(", ")));
    }

    /// Adds the question for SQLite's own check of the whole file.
    pub(super) fn integrity(&mut self) {
        self.question(&["integrity_check"], "FROM pragma_integrity_check(1)");
    }

    /// Adds the question for rows, sum and greatest key of a table; with a key only rows that have one count.
    pub(super) fn record(&mut self, spec: &TableSpec) {
        let key = spec.key.as_deref().map(quoted);
        let only = key.as_ref().map_or_else(String::new, |key| format!(" WHERE {key} IS NOT NULL"));
        let [odd, sum] = summed(spec.sum.as_deref(), "1");
        let greatest = key.map_or_else(
            || "''".into(),
            |key| format!("CASE WHEN max({key}) IS NOT NULL THEN quote(max({key})) END"),
        );
        self.question(&["count(*)", &odd, &sum, &greatest], &format!("FROM {}{only}", quoted(&spec.name)));
    }

    /// Adds the question for the same figures now.
    pub(super) fn now(&mut self, recorded: &TableRecord) -> Result<(), Refused> {
        let counts = match (&recorded.key, &recorded.up_to) {
            (Some(key), Some(up_to)) => format!("{} <= {}", quoted(key), literal(up_to)?),
            // It was empty: whatever is there came later.
            (Some(_), None) => "0".into(),
            (None, _) => "1".into(),
        };
        let [odd, sum] = summed(recorded.sum_of.as_deref(), &counts);
        let rows = format!("count(CASE WHEN {counts} THEN 1 END)");
        self.question(&[&rows, &odd, &sum, "count(*)"], &format!("FROM {}", quoted(&recorded.table)));
        Ok(())
    }

    /// Says everything and gives the answers.
    pub(super) fn run(
        mut self,
        programs: &Programs,
        database: Option<&Path>,
    ) -> Result<Vec<Vec<String>>, Refused> {
        self.line(&format!("SELECT '{END}';"));
        let program = programs.find(&["sqlite3"]).display().to_string();
        // The settings of the user who runs this are no part of it.
        let mut argv = vec![program, "-batch".into(), "-init".into(), "/dev/null".into()];
        argv.extend(database.map(uri));
        let mut order = programs.order(argv, Vec::new());
        order.folder = self.folder;
        let ran = order
            .feed(&mut |input| input.write_all(self.text.as_bytes()))
            .map_err(|e| programs.fault("sqlite3 could not be run").cause(e).help(programs.install))
            .map_err(Refused::Fault)?;
        crate::sources::stop_if_asked().map_err(Refused::Fault)?;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let rows: Option<Vec<_>> = said
            .lines()
            .filter_map(|line| line.strip_prefix("row|"))
            .map(|row| row.split('|').map(unhex).collect())
            .collect();
        match rows {
            Some(rows)
                if ran.exit == Some(0)
                    && said.lines().last() == Some(END)
                    && rows.len() == self.questions =>
            {
                Ok(rows)
            }
            _ => {
                let text = String::from_utf8_lossy(&ran.stderr);
                let words =
                    text.lines().find(|line| line.contains("rror")).map_or_else(|| ran.last_words(), redact);
                let gone = ["no such table", "no such column"].iter().any(|w| words.contains(w));
                let words = if words.is_empty() { format!("sqlite3 {}", ran.how()) } else { words };
                Err(if gone { Refused::Gone(words) } else { Refused::Failed(words) })
            }
        }
    }
}

/// What was asked with [`Asked::record`].
pub(super) fn recorded(spec: &TableSpec, row: &[String]) -> Result<TableRecord, Refused> {
    let Now { rows, sum, .. } = counted(row, &spec.name)?;
    Ok(TableRecord {
        table: spec.name.clone(),
        rows,
        sum_of: spec.sum.clone(),
        sum: sum.filter(|_| spec.sum.is_some()),
        key: spec.key.clone(),
        up_to: row.get(3).filter(|key| !key.is_empty()).cloned(),
    })
}

/// What was asked with [`Asked::now`].
pub(super) fn figures(row: &[String]) -> Result<Now, Refused> {
    let now = counted(row, "the table")?;
    let all: u64 = number(row.get(3))?;
    Ok(Now { later: all.saturating_sub(now.rows), ..now })
}

fn counted(row: &[String], table: &str) -> Result<Now, Refused> {
    if number(row.get(1))? > 0 {
        return Err(Refused::Gone(format!("the column to sum up in {table} has values that are no numbers")));
    }
    Ok(Now { rows: number(row.first())?, sum: row.get(2).filter(|sum| !sum.is_empty()).cloned(), later: 0 })
}

fn number(text: Option<&String>) -> Result<u64, Refused> {
    text.and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Refused::Failed("sqlite3 did not answer with a number".into()))
}

/// How many values are no numbers, and the exact sum of the others: the sum of floats would depend on
/// their order.
fn summed(column: Option<&str>, counts: &str) -> [String; 2] {
    let Some(column) = column.map(quoted) else { return ["0".into(), "''".into()] };
    [
        format!("coalesce(sum(typeof({column}) NOT IN ('integer', 'real', 'null')), 0)"),
        format!("coalesce(decimal_sum(CASE WHEN {counts} THEN {column} END), '0')"),
    ]
}

/// A recorded key as SQL. It comes from a document: nothing but a value gets through.
fn literal(recorded: &str) -> Result<String, Refused> {
    let digits = recorded.strip_prefix('-').unwrap_or(recorded);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(recorded.to_owned());
    }
    let within = |head: &str| recorded.strip_prefix(head).and_then(|rest| rest.strip_suffix('\''));
    if let Some(hex) = within("X'").filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(format!("X'{hex}'"));
    }
    match within("'").map(|text| text.replace("''", "'")) {
        Some(text) if !text.contains(['\n', '\0']) => Ok(format!("'{}'", text.replace('\'', "''"))),
        _ => Err(Refused::Gone(format!("the recorded key {recorded} is no value"))),
    }
}

/// A name in SQL: SQLite takes an unknown name in double quotes for a text, and one in these never.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A file that must be there: a bare path would make a new one.
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let bytes = path.as_os_str().as_bytes().iter();
    let name: String =
        bytes.map(|b| if plain(*b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect();
    format!("file:{name}?mode=rw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_key_is_a_value_and_never_a_statement() {
        for (key, sql) in
            [("-12", "-12"), ("'it''s'", "'it''s'"), ("'a' OR '1'", "'a'' OR ''1'"), ("X'0a'", "X'0a'")]
        {
            assert_eq!(literal(key).unwrap(), sql);
        }
        for key in ["", "1 OR 1", "X'0g'", "'a\n.shell x'", "1.5"] {
            assert!(literal(key).is_err(), "{key}");
        }
    }

    #[test]
    fn names_and_paths_cannot_break_out() {
        assert_eq!(quoted("or`ders"), "`or``ders`");
        assert_eq!(uri(Path::new("/a b/c?mode=rwc#%.db")), "file:/a%20b/c%3Fmode%3Drwc%23%25.db?mode=rw");
    }
}
