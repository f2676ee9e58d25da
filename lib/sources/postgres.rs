//! `postgres`: a whole database as a custom-format dump, and rows and sums of its tables at the very
//! same moment; on wish every database of the server, with its roles.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::postgres::Client;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::programs::Programs;
use super::tables::{TableSpec, judge, named};
use super::{
    Context, Extra, Home, InDrill, Keep, Kind, Nature, Order, ReadBack, Rehearsed, Source, data_finding,
    not_compared, stop_if_asked,
};
use crate::evidence::{Finding, TableRecord, Verdict};
use crate::fault::Fault;
use crate::redact::redact;
use crate::units::Text;
use crate::world::postgres::{self as server, Address, Unreachable};
use crate::world::shell;
use crate::yaml::Problem;

mod restore;
mod scratch;
mod tables;
mod whole;

pub(super) static KIND: Kind = Kind {
    name: "postgres",
    about: "A PostgreSQL database as a custom-format dump of one consistent moment, with rows and sums of named \
            tables at that moment, which `verify` compares after a rollback; on wish the whole server with its roles.",
    target: "the database: a URL or a `host=… dbname=…` string",
    example: "{name: database, kind: postgres, target: \"${DATABASE_URL}\", with: {tables: [{name: orders, sum: total_cents, key: id}]}}",
    settings: super::schema::<Settings>,
    prepare,
};

const DUMP: &[u8] = b"database.dump";

/// How long a server may take to answer the first time.
const PATIENCE: Duration = Duration::from_secs(10);

const INSTALL: &str =
    "install the PostgreSQL client programs (postgresql-client), or name their folder in `with.bin`";

/// Settings of `postgres`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PostgresSource")]
struct Settings {
    /// Tables whose rows (and sums) are recorded.
    #[serde(default)]
    tables: Vec<TableSpec>,
    /// The folder of `pg_dump` and `pg_restore`; the newest installed ones when absent.
    #[serde(default)]
    bin: Option<Text>,
    /// Backs up every database of the server, its roles and its tablespaces. Each database is of one
    /// moment, but they are of different ones. `tables` are those of the database in `target`.
    #[serde(default)]
    whole_server: bool,
    /// Whether a whole server's roles are kept with the hashes of their passwords, which takes a
    /// superuser; without them every password has to be set again after a restore.
    #[serde(default = "yes")]
    role_passwords: bool,
    /// Whether a restore into a live database brings the grants back too, which takes all of their roles.
    #[serde(default = "yes")]
    restore_grants: bool,
}

fn yes() -> bool {
    true
}

struct Database {
    programs: Programs,
    address: Address,
    tables: Vec<TableSpec>,
    whole_server: bool,
    role_passwords: bool,
    restore_grants: bool,
}

/// What is known about a dump of one database.
struct Dumped {
    version: String,
    lsn: Option<String>,
    tables: Vec<TableRecord>,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let target = target.one().map_err(|m| order.problem(m))?;
    let address = Address::read(&target.value).map_err(|why| {
        let shown = redact(&target.shown);
        order.problem(format!("`{shown}` is not a connection URL: {why}")).help(server::HELP)
    })?;
    named(order, &settings.tables)?;
    Ok(Box::new(Database {
        programs: Programs::of(order, settings.bin.as_ref().map(|bin| bin.value.as_str()), INSTALL),
        address,
        tables: settings.tables,
        whole_server: settings.whole_server,
        role_passwords: settings.role_passwords,
        restore_grants: settings.restore_grants,
    }))
}

impl Source for Database {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        if self.whole_server {
            return whole::back_up(self, keep);
        }
        let dumped = self.dump(&self.address, DUMP, &self.tables, keep)?;
        let details = json!({
            "server_version": dumped.version,
            "lsn": dumped.lsn,
            "program": self.program("pg_dump"),
            "restore_into_a_database": format!(
                "pg_restore --clean --if-exists --no-owner --dbname=\"$DATABASE_URL\" {}/database.dump",
                self.programs.source
            ),
        });
        Ok(Extra { tables: dumped.tables, details })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        if self.whole_server {
            return whole::prove(self, back).map(Some);
        }
        let entries = self.prove_dump(back, DUMP, &self.tables)?;
        Ok(Some(format!("pg_restore read the whole dump back from the store: {entries} entries")))
    }

    fn compare(&self, recorded: &[TableRecord]) -> Vec<Finding> {
        let mut client = match self.connect(&self.address) {
            Ok(client) => client,
            Err(fault) => return not_compared(recorded, &fault.line()),
        };
        recorded
            .iter()
            .map(|table| {
                let started = Instant::now();
                let now = tables::now(&mut client, table);
                if now.is_err() && client.batch_execute("ROLLBACK").is_ok() {
                    // The others are asked in a transaction that is whole; where that fails, they say so.
                    let _ = self.begin(&mut client);
                }
                let mut finding = match now {
                    Ok(now) => judge(table, &now),
                    Err(e) if tables::is_gone(&e) => data_finding(table, Verdict::Fail)
                        .says(format!("the table or a column of it is gone: {}", tables::why(&e))),
                    Err(e) => data_finding(table, Verdict::Error).says(tables::why(&e)),
                };
                finding.duration_ms = started.elapsed().as_secs_f64() * 1e3;
                finding
            })
            .collect()
    }

    fn restore_into(
        &self,
        target: &Text,
        force: bool,
        back: &dyn ReadBack,
        recorded: &[TableRecord],
    ) -> Result<String, Fault> {
        let address = Address::read(&target.value).map_err(|why| {
            Fault::usage("the target is not a connection URL")
                .place(redact(&target.shown))
                .cause(why)
                .help(server::HELP)
        })?;
        let into = restore::Into { source: self, address, shown: redact(&target.shown), force };
        if self.whole_server { into.whole(back, recorded) } else { into.one(back, recorded) }
    }

    fn nature(&self) -> Nature<'_> {
        Nature::Dump { home: Home::Target, drill: InDrill::Runs("postgres://drill@127.0.0.1:1/drill") }
    }

    fn rehearse(
        &self,
        folder: &Path,
        back: &dyn ReadBack,
        recorded: &[TableRecord],
    ) -> Result<Rehearsed, Fault> {
        scratch::rehearse(self, folder, back, recorded)
    }
}

impl Database {
    /// Dumps one database into `file`, figures and dump of the same moment.
    fn dump(
        &self,
        address: &Address,
        file: &[u8],
        specs: &[TableSpec],
        keep: &mut dyn Keep,
    ) -> Result<Dumped, Fault> {
        let failed = |e: ::postgres::Error| self.failed("the database cannot be read", &e);
        let mut client = self.connect(address)?;
        // pg_dump takes over this very snapshot, so that the figures and the dump are of one moment.
        let row = client
            .query_one(
                "SELECT pg_export_snapshot(), current_setting('server_version'), \
                 (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text",
                &[],
            )
            .map_err(failed)?;
        let snapshot: String = row.get(0);
        let mut records = Vec::new();
        for table in specs {
            stop_if_asked()?;
            records.push(tables::record(&mut client, table).map_err(|e| self.table_failed(&table.name, &e))?);
        }
        let order = self.dump_order(address, &snapshot);
        keep.file(file, &mut |sink| self.programs.stream(&order, sink).map(drop))?;
        Ok(Dumped { version: row.get(1), lsn: row.get(2), tables: records })
    }

    /// Reads a dump back from the store with pg_restore; returns how many entries it has.
    fn prove_dump(&self, back: &dyn ReadBack, file: &[u8], specs: &[TableSpec]) -> Result<usize, Fault> {
        let mut list = self.order(&self.address, vec![self.program("pg_restore"), "--list".into()]);
        list.keep = 64 * 1024 * 1024;
        let listed = self.programs.feed(back, file, &list)?;
        let text = String::from_utf8_lossy(&listed.stdout);
        for table in specs {
            let name = tables::last_part(&table.name);
            let there = |line: &str| line.contains(" TABLE ") && line.contains(&format!(" {name} "));
            if !listed.cut && !text.lines().any(there) {
                return Err(self
                    .programs
                    .fault(format!("the dump has no table `{name}`"))
                    .help("is it a table, and not a view?"));
            }
        }
        // The list is only the table of contents; this unpacks every block of data.
        let unpack = vec![self.program("pg_restore"), "--file=/dev/null".into()];
        self.programs.feed(back, file, &self.order(&self.address, unpack))?;
        Ok(text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty()).count())
    }

    /// A connection in a transaction of its own moment that only reads, in which a single statement ends with
    /// the time limit.
    fn connect(&self, address: &Address) -> Result<Client, Fault> {
        let mut client = address.connect(PATIENCE).map_err(|e| self.unreachable(&e))?;
        self.begin(&mut client)?;
        Ok(client)
    }

    /// Begins such a transaction. Its settings end with it: behind a pooler the connection is the
    /// application's afterwards.
    fn begin(&self, client: &mut Client) -> Result<(), Fault> {
        let limit = self.programs.timeout.as_millis().min(2_000_000_000);
        let set = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {limit}; \
             SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL standard_conforming_strings = on; \
             SET LOCAL extra_float_digits = 1"
        );
        client.batch_execute(&set).map_err(|e| self.unreachable(&Unreachable::There(e)))
    }

    /// The dump command as data: the password is in the environment, never in the arguments.
    ///
    /// Without pg_dump's own compression: the store compresses, and what did not change stays the same
    /// bytes, which are stored once.
    fn dump_order(&self, address: &Address, snapshot: &str) -> shell::Order {
        let argv = vec![
            self.program("pg_dump"),
            "--format=custom".into(),
            "--compress=0".into(),
            "--no-password".into(),
            format!("--snapshot={snapshot}"),
            format!("--dbname={}", address.without_password()),
        ];
        self.order(address, argv)
    }

    fn order(&self, address: &Address, argv: Vec<String>) -> shell::Order {
        let env = address.password().map(|p| ("PGPASSWORD".to_owned(), p)).into_iter().collect();
        self.programs.order(argv, env)
    }

    fn program(&self, name: &str) -> String {
        let path = match &self.programs.bin {
            Some(folder) => folder.join(name),
            None => newest(name),
        };
        path.display().to_string()
    }

    fn unreachable(&self, error: &Unreachable) -> Fault {
        self.programs
            .fault("the database cannot be reached")
            .cause(error)
            .help("does it run, and do address, user and password fit?")
    }

    fn failed(&self, what: &str, error: &::postgres::Error) -> Fault {
        self.programs.fault(what).cause(tables::why(error))
    }

    fn table_failed(&self, table: &str, error: &::postgres::Error) -> Fault {
        let fault = self.failed(&format!("the database could not count the table `{table}`"), error);
        if tables::is_gone(error) { fault.help("correct `with.tables` in the plan") } else { fault }
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
        let address = "postgres://shop:s3cr%27et@db.example:5433/orders?sslmode=require";
        let database = Database {
            programs: Programs {
                source: "db".into(),
                shown: "${DATABASE_URL}".into(),
                bin: Some("/opt/pg".into()),
                folder: ".".into(),
                timeout: Duration::from_secs(1),
                install: INSTALL,
            },
            address: Address::read(address).unwrap(),
            tables: Vec::new(),
            whole_server: false,
            role_passwords: true,
            restore_grants: true,
        };
        let order = database.dump_order(&database.address.with_database("it's"), "0001-1");
        assert_eq!(
            order.argv,
            [
                "/opt/pg/pg_dump",
                "--format=custom",
                "--compress=0",
                "--no-password",
                "--snapshot=0001-1",
                "--dbname=host='db.example' port='5433' user='shop' dbname='it\\'s' sslmode='require'"
            ]
        );
        assert_eq!(order.env, [("PGPASSWORD".to_owned(), "s3cr'et".to_owned())]);
    }
}
