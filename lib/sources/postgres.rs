//! `postgres`: a whole database as a custom-format dump, and rows and sums of its tables at the very
//! same moment.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::postgres::Client;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{
    Context, Extra, Keep, Kind, Order, ReadBack, Source, data_finding, not_compared, stop_if_asked,
};
use crate::evidence::{Finding, TableRecord, Verdict};
use crate::fault::Fault;
use crate::redact::redact;
use crate::units::Text;
use crate::world::postgres::{self as server, Address, Unreachable};
use crate::world::shell::{self, Ran};
use crate::yaml::Problem;

mod tables;

pub(super) static KIND: Kind = Kind {
    name: "postgres",
    about: "A PostgreSQL database as a custom-format dump of one consistent moment, with rows and sums of named \
            tables at that moment, which `verify` compares after a rollback.",
    target: "the database: a URL or a `host=… dbname=…` string",
    example: "{name: database, kind: postgres, target: \"${DATABASE_URL}\", with: {tables: [{name: orders, sum: total_cents, key: id}]}}",
    settings: super::schema::<Settings>,
    prepare,
};

const DUMP: &[u8] = b"database.dump";

/// How long a server may take to answer the first time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Settings of `postgres`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PostgresSource")]
struct Settings {
    /// Tables whose rows (and sums) are recorded.
    #[serde(default)]
    tables: Vec<TableSpec>,
    /// The folder of `pg_dump` and `pg_restore`; the newest installed ones when absent.
    #[serde(default)]
    bin: Option<Text>,
}

/// One table whose rows are recorded.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TableSpec {
    /// Its name, `orders` or `sales.orders`.
    name: String,
    /// A column of numbers to sum up.
    #[serde(default)]
    sum: Option<String>,
    /// A column that only ever grows: rows that come later are no change of the data.
    #[serde(default)]
    key: Option<String>,
}

struct Database {
    name: String,
    shown: String,
    address: Address,
    tables: Vec<TableSpec>,
    bin: Option<PathBuf>,
    folder: PathBuf,
    timeout: Duration,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let target = target.one().map_err(|m| order.problem(m))?;
    let address = Address::read(&target.value).map_err(|why| {
        let shown = redact(&target.shown);
        order.problem(format!("`{shown}` is not a connection URL: {why}")).help(server::HELP)
    })?;
    for table in &settings.tables {
        let columns = [Some(&table.name), table.sum.as_ref(), table.key.as_ref()];
        if columns.into_iter().flatten().any(|name| name.is_empty() || name.contains('\0')) {
            return Err(order.problem("a table or column in `with.tables` has no name"));
        }
    }
    Ok(Box::new(Database {
        name: order.spec.name.clone(),
        shown: target.shown.clone(),
        address,
        tables: settings.tables,
        bin: settings.bin.map(|folder| order.loaded.at(&folder.value)),
        folder: order.loaded.folder.clone(),
        timeout: order.timeout(),
    }))
}

impl Source for Database {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let failed = |e: ::postgres::Error| self.failed("cannot be read", &e);
        let mut client = self.connect()?;
        // pg_dump takes over this very snapshot, so that the figures and the dump are of one moment.
        client
            .batch_execute(
                "SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            )
            .map_err(failed)?;
        let row = client
            .query_one(
                "SELECT pg_export_snapshot(), current_setting('server_version'), \
                 (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text",
                &[],
            )
            .map_err(failed)?;
        let (snapshot, version, lsn): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let mut records = Vec::new();
        for table in &self.tables {
            stop_if_asked()?;
            records.push(tables::record(&mut client, table).map_err(|e| self.table_failed(&table.name, &e))?);
        }
        let program = self.program("pg_dump");
        let order = self.dump_order(&program, &snapshot);
        keep.file(DUMP, &mut |sink| {
            let (ran, _) = order.stream(sink).map_err(|e| self.not_started(&program, &e))?;
            self.ended_well(&program, &ran)
        })?;
        let details = json!({
            "server_version": version,
            "lsn": lsn,
            "program": program.display().to_string(),
            "restore_into_a_database": format!(
                "pg_restore --clean --if-exists --no-owner --dbname=\"$DATABASE_URL\" {}/database.dump", self.name
            ),
        });
        Ok(Extra { tables: records, details })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let mut list = self.order(vec![self.shown_program("pg_restore"), "--list".into()]);
        list.keep = 64 * 1024 * 1024;
        let listed = self.feed(back, &list)?;
        let text = String::from_utf8_lossy(&listed.stdout);
        for table in &self.tables {
            let name = tables::last_part(&table.name);
            let there = |line: &str| line.contains(" TABLE ") && line.contains(&format!(" {name} "));
            if !listed.cut && !text.lines().any(there) {
                return Err(Fault::infrastructure(format!(
                    "source `{}`: the dump has no table `{name}`",
                    self.name
                ))
                .place(&self.shown)
                .help("is it a table, and not a view?"));
            }
        }
        // The list is only the table of contents; this unpacks every block of data.
        self.feed(back, &self.order(vec![self.shown_program("pg_restore"), "--file=/dev/null".into()]))?;
        let entries = text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty()).count();
        Ok(Some(format!("pg_restore read the whole dump back from the store: {entries} entries")))
    }

    fn compare(&self, recorded: &[TableRecord]) -> Vec<Finding> {
        let mut client = match self.connect() {
            Ok(client) => client,
            Err(fault) => return not_compared(recorded, &fault.line()),
        };
        recorded
            .iter()
            .map(|table| {
                let started = std::time::Instant::now();
                let mut finding = match tables::now(&mut client, table) {
                    Ok(now) => tables::judge(table, &now),
                    Err(e) if tables::is_gone(&e) => data_finding(table, Verdict::Fail)
                        .says(format!("the table or a column of it is gone: {}", tables::why(&e))),
                    Err(e) => data_finding(table, Verdict::Error).says(tables::why(&e)),
                };
                finding.duration_ms = started.elapsed().as_secs_f64() * 1e3;
                finding
            })
            .collect()
    }
}

impl Database {
    /// A connection on which a single statement ends with the time limit.
    fn connect(&self) -> Result<Client, Fault> {
        let mut client = self.address.connect(PATIENCE).map_err(|e| self.unreachable(&e))?;
        let limit = self.timeout.as_millis().min(2_000_000_000);
        let set = format!(
            "SET statement_timeout = {limit}; SET standard_conforming_strings = on; SET extra_float_digits = 1"
        );
        client.batch_execute(&set).map_err(|e| self.unreachable(&Unreachable::There(e)))?;
        Ok(client)
    }

    /// The dump command as data: the password is in the environment, never in the arguments.
    fn dump_order(&self, program: &Path, snapshot: &str) -> shell::Order {
        self.order(vec![
            program.display().to_string(),
            "--format=custom".into(),
            "--no-password".into(),
            format!("--snapshot={snapshot}"),
            format!("--dbname={}", self.address.without_password()),
        ])
    }

    fn order(&self, argv: Vec<String>) -> shell::Order {
        let mut order = shell::Order::new(argv, &self.folder);
        order.timeout = self.timeout;
        order.env = self.address.password().map(|p| ("PGPASSWORD".to_owned(), p)).into_iter().collect();
        order
    }

    fn feed(&self, back: &dyn ReadBack, order: &shell::Order) -> Result<Ran, Fault> {
        let program = PathBuf::from(&order.argv[0]);
        let mut fault = None;
        let fed = order.feed(&mut |input| {
            let mut pipe = Pipe { input, broken: None };
            let read = back.read(DUMP, &mut pipe);
            match (pipe.broken, read) {
                (Some(broken), _) => Err(broken),
                (None, Err(e)) => {
                    fault = Some(e);
                    Err(io::Error::other("the store could not be read"))
                }
                (None, Ok(())) => Ok(()),
            }
        });
        stop_if_asked()?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let ran = fed.map_err(|e| self.not_started(&program, &e))?;
        self.ended_well(&program, &ran)?;
        Ok(ran)
    }

    fn ended_well(&self, program: &Path, ran: &Ran) -> Result<(), Fault> {
        stop_if_asked()?;
        if ran.exit == Some(0) {
            return Ok(());
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        Err(Fault::infrastructure(format!("source `{}`: {name} failed: {}", self.name, ran.how()))
            .place(&self.shown)
            .cause(ran.last_words())
            .help("nothing was kept; look at the cause and run it again"))
    }

    fn program(&self, name: &str) -> PathBuf {
        match &self.bin {
            Some(folder) => folder.join(name),
            None => newest(name),
        }
    }

    fn shown_program(&self, name: &str) -> String {
        self.program(name).display().to_string()
    }

    fn not_started(&self, program: &Path, error: &io::Error) -> Fault {
        Fault::infrastructure(format!("source `{}`: {} could not be run", self.name, program.display()))
            .cause(error)
            .help("install the PostgreSQL client programs (postgresql-client), or name their folder in `with.bin`")
    }

    fn unreachable(&self, error: &Unreachable) -> Fault {
        Fault::infrastructure(format!("source `{}`: the database cannot be reached", self.name))
            .place(&self.shown)
            .cause(error)
            .help("does it run, and do address, user and password fit?")
    }

    fn failed(&self, what: &str, error: &::postgres::Error) -> Fault {
        Fault::infrastructure(format!("source `{}`: the database {what}", self.name))
            .place(&self.shown)
            .cause(tables::why(error))
    }

    fn table_failed(&self, table: &str, error: &::postgres::Error) -> Fault {
        let fault = self.failed(&format!("could not count the table `{table}`"), error);
        if tables::is_gone(error) { fault.help("correct `with.tables` in the plan") } else { fault }
    }
}

/// Remembers that the command stopped reading, which is not the store's fault.
struct Pipe<'a> {
    input: &'a mut dyn Write,
    broken: Option<io::Error>,
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.broken = Some(e.kind().into());
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

/// The newest installed program: Debian and the PostgreSQL project keep them outside PATH, and an older
/// pg_dump refuses a newer server.
fn newest(name: &str) -> PathBuf {
    let debian = (PathBuf::from("/usr/lib/postgresql"), "");
    let project = (PathBuf::from("/usr"), "pgsql-");
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (folder, prefix) in [debian, project] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let version = entry.file_name().to_str().and_then(|n| n.strip_prefix(prefix)?.parse().ok());
            let path = entry.path().join("bin").join(name);
            if let Some(version) = version.filter(|_| path.is_file()) {
                found.push((version, path));
            }
        }
    }
    found.into_iter().max().map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_in_the_environment_and_not_in_the_arguments() {
        let database = Database {
            name: "db".into(),
            shown: "${DATABASE_URL}".into(),
            address: Address::read("postgres://shop:s3cr%27et@db.example:5433/orders?sslmode=require")
                .unwrap(),
            tables: Vec::new(),
            bin: None,
            folder: ".".into(),
            timeout: Duration::from_secs(1),
        };
        let order = database.dump_order(Path::new("pg_dump"), "0001-1");
        assert_eq!(
            order.argv,
            [
                "pg_dump",
                "--format=custom",
                "--no-password",
                "--snapshot=0001-1",
                "--dbname=host='db.example' port='5433' user='shop' dbname='orders' sslmode='require'"
            ]
        );
        assert_eq!(order.env, [("PGPASSWORD".to_owned(), "s3cr'et".to_owned())]);
    }
}
