//! `mysql`: one database of MySQL or MariaDB as an SQL dump of one consistent moment, and rows and sums
//! of its tables at that moment.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::programs::Programs;
use super::tables::{TableSpec, judge, named};
use super::{
    Context, Extra, Home, InDrill, Keep, Kind, Nature, Order, ReadBack, Source, data_finding, not_compared,
    stop_if_asked,
};
use crate::evidence::{Finding, TableRecord, Verdict};
use crate::fault::Fault;
use crate::redact::redact;
use crate::units::Text;
use crate::world::shell;
use crate::yaml::Problem;

mod dump;
mod grants;
mod restore;
mod server;
mod tables;

use server::{Flavour, Server, Session};

pub(super) static KIND: Kind = Kind {
    name: "mysql",
    about: "A MySQL or MariaDB database as an SQL dump of one consistent moment, with routines, triggers and events, \
            and rows and sums of named tables at that moment, which `verify` compares after a rollback.",
    target: "the database: `mysql://user:password@host:3306/name`, with `?ssl-mode=…&ssl-ca=…` or `?socket=…`",
    example: "{name: database, kind: mysql, target: \"${MYSQL_URL:-mysql://shop@db/shop}\", with: {tables: [{name: orders, sum: total_cents, key: id}]}}",
    settings: super::schema::<Settings>,
    prepare,
};

const DUMP: &[u8] = b"database.sql";

/// How long writers of the named tables may wait for the dump to begin.
const HOLD: Duration = Duration::from_secs(30);

const INSTALL: &str =
    "install the client programs (mariadb-client or mysql-client), or name their folder in `with.bin`";

/// Settings of `mysql`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MysqlSource")]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the plan")]
struct Settings {
    /// Tables whose rows (and sums) are recorded. They are locked against writers for the moment in which
    /// the dump begins.
    #[serde(default)]
    tables: Vec<TableSpec>,
    /// The folder of the client programs; PATH when absent.
    #[serde(default)]
    bin: Option<Text>,
    /// An option file of the client programs (`[client]`, with user, password, TLS), relative to the plan.
    /// Without it none is read.
    #[serde(default)]
    defaults_file: Option<Text>,
    /// Whether stored procedures and functions are kept.
    #[serde(default = "yes")]
    routines: bool,
    /// Whether triggers are kept.
    #[serde(default = "yes")]
    triggers: bool,
    /// Whether events are kept.
    #[serde(default = "yes")]
    events: bool,
    /// Allows tables whose engine has no transactions (MyISAM, Aria, MEMORY): they may be of another moment
    /// than the rest.
    #[serde(default)]
    allow_non_transactional: bool,
    /// Whether the position in the binary log is recorded. When absent it is where that costs nothing: with
    /// MariaDB. With MySQL it takes a short lock of the whole server.
    #[serde(default)]
    binlog_position: Option<bool>,
}

fn yes() -> bool {
    true
}

struct Database {
    server: Server,
    settings: Settings,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let target = target.one().map_err(|m| order.problem(m))?;
    let programs = Programs::of(order, settings.bin.as_ref().map(|bin| bin.value.as_str()), INSTALL);
    let defaults = settings.defaults_file.as_ref().map(|file| order.loaded.at(&file.value));
    let defaults = defaults.map(|path| std::path::absolute(&path).unwrap_or(path));
    let server = Server::read(&target.value, defaults, programs).map_err(|why| {
        let shown = redact(&target.shown);
        order.problem(format!("`{shown}` is not a database's URL: {why}")).help(server::HELP)
    })?;
    named(order, &settings.tables)?;
    Ok(Box::new(Database { server, settings }))
}

impl Source for Database {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let mut session = self.server.session()?;
        let mut details = self.look(&mut session)?;
        drop(session);
        let (program, flavour) = self.server.program(&["mariadb-dump", "mysqldump"])?;
        let binlog = self.wants_binlog(flavour, details["server_version"].as_str().unwrap_or_default());
        let order = self.dump_order(&program, flavour, binlog);
        let moment = self.moment()?;
        let mut position = Value::Null;
        let (lock, mut figures) = moment.map_or((None, None), |m| (Some(m.lock), Some(m.figures)));
        let lock = Mutex::new(lock);
        keep.file(DUMP, &mut |sink| {
            let mut watch = dump::Watch::new(sink);
            self.stream_locked(&order, &mut watch, &lock)?;
            watch.complete().map_err(|why| {
                self.server
                    .programs
                    .fault("the dump is cut")
                    .cause(why)
                    .help("nothing was kept; look at the server's log, and run it again")
            })?;
            position = watch.position();
            Ok(())
        })?;
        if self.settings.binlog_position == Some(true) && position.is_null() {
            return Err(self
                .server
                .programs
                .fault("the position in the binary log is not in the dump")
                .help("does the server keep a binary log?"));
        }
        let mut records = Vec::new();
        for spec in &self.settings.tables {
            stop_if_asked()?;
            let Some(session) = figures.as_mut() else { break };
            records
                .push(tables::record(session, spec).map_err(|trouble| self.uncounted(&spec.name, &trouble))?);
        }
        details["binlog"] = position;
        details["program"] = json!(program);
        details["restore_into_a_database"] =
            json!(format!("mariadb --binary-mode DATABASE < {}/database.sql", self.server.programs.source));
        Ok(Extra { tables: records, details })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let mut seen = dump::Seen::default();
        back.read(DUMP, &mut seen)?;
        seen.complete().map_err(|why| self.server.programs.fault("the dump reads back cut").cause(why))?;
        for spec in &self.settings.tables {
            if !seen.has(&spec.name) {
                return Err(self
                    .server
                    .programs
                    .fault(format!("the dump has no table `{}`", spec.name))
                    .help("is it a table, and not a view?"));
            }
        }
        Ok(Some(format!("the dump is complete when read back from the store: {} tables", seen.tables.len())))
    }

    fn compare(&self, recorded: &[TableRecord]) -> Vec<Finding> {
        if let Err(fault) = self.server.session() {
            return not_compared(recorded, &fault.line());
        }
        recorded.iter().map(|table| self.compare_one(table)).collect()
    }

    fn nature(&self) -> Nature<'_> {
        Nature::Dump {
            home: Home::Target,
            drill: InDrill::NotStarted("a drill starts no MySQL or MariaDB server"),
        }
    }

    fn restore_into(
        &self,
        target: &Text,
        force: bool,
        back: &dyn ReadBack,
        recorded: &[TableRecord],
    ) -> Result<String, Fault> {
        restore::run(&self.server, target, force, back, recorded)
    }
}

/// The two connections that see what the dump sees.
struct Moment {
    /// Holds the named tables still until the dump has begun.
    lock: Session,
    /// In a transaction of the moment; counts when the dump is done.
    figures: Session,
}

impl Database {
    /// What the database is and holds. Refuses what would be missing or torn in the dump.
    fn look(&self, session: &mut Session) -> Result<Value, Fault> {
        let asked = |e| self.server.unanswered(&e);
        let count =
            |what: &str| format!("(SELECT COUNT(*) FROM information_schema.{what}_schema = DATABASE())");
        let row = session
            .row(&[
                "VERSION()",
                &count("tables WHERE table_type NOT IN ('VIEW', 'SEQUENCE') AND table"),
                &count("views WHERE table"),
                &count("triggers WHERE trigger"),
                &count("routines WHERE routine"),
                &count("events WHERE event"),
            ])
            .map_err(asked)?;
        let number = |at: usize| row.get(at).and_then(Option::as_ref).and_then(|n| n.parse::<u64>().ok());
        self.seen_whole(session)?;
        let torn = session.column(
            "t.table_name",
            "FROM information_schema.tables t LEFT JOIN information_schema.engines e ON e.engine = t.engine \
             WHERE t.table_schema = DATABASE() AND t.table_type NOT IN ('VIEW', 'SEQUENCE') \
             AND COALESCE(e.transactions, 'NO') <> 'YES' ORDER BY 1",
        );
        let torn = torn.map_err(asked)?;
        if !torn.is_empty() && !self.settings.allow_non_transactional {
            return Err(self
                .server
                .programs
                .fault("some tables have no transactions, so the dump would not be of one moment")
                .cause(torn.join(", "))
                .help("convert them (ALTER TABLE … ENGINE=InnoDB), or say `allow_non_transactional: true`"));
        }
        Ok(json!({
            "server_version": row.first().and_then(Option::as_ref),
            "objects": {
                "tables": number(1), "views": number(2), "triggers": number(3),
                "routines": number(4), "events": number(5),
            },
            "non_transactional": torn,
        }))
    }

    /// A dump silently leaves out what its user may not see: refuses that.
    fn seen_whole(&self, session: &mut Session) -> Result<(), Fault> {
        let lines = session.raw("SHOW GRANTS").map_err(|e| self.server.unanswered(&e))?;
        let own = &self.server.address.path;
        let wanted = [
            (self.settings.triggers, grants::triggers(&lines, own), "triggers", "TRIGGER"),
            (self.settings.routines, grants::routines(&lines, own), "routines", "EXECUTE"),
        ];
        if let Some((_, _, what, right)) = wanted.iter().find(|(wanted, seen, ..)| *wanted && !seen) {
            return Err(self
                .server
                .programs
                .fault(format!("the user may not see {what}, which would be missing in the dump unnoticed"))
                .help(format!("GRANT {right} ON `{own}`.* TO the user, or say `{what}: false`")));
        }
        Ok(())
    }

    fn wants_binlog(&self, flavour: Flavour, version: &str) -> bool {
        self.settings.binlog_position.unwrap_or_else(|| {
            let costs_nothing = flavour == Flavour::Mariadb && version.contains("MariaDB");
            // An error ends a session: this question has its own.
            costs_nothing
                && self.server.session().is_ok_and(|mut session| {
                    session.raw("SHOW MASTER STATUS").is_ok_and(|lines| !lines.is_empty())
                        && session.raw("SHOW STATUS LIKE 'binlog_snapshot_file'").is_ok_and(|lines| {
                            lines.iter().any(|l| l.split('\t').nth(1).is_some_and(|v| !v.is_empty()))
                        })
                })
        })
    }

    /// Locks the named tables and opens a transaction that sees them as they are now.
    fn moment(&self) -> Result<Option<Moment>, Fault> {
        if self.settings.tables.is_empty() {
            return Ok(None);
        }
        let asked = |e| self.server.unanswered(&e);
        let mut lock = self.server.session()?;
        let mut figures = self.server.session()?;
        figures.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").map_err(asked)?;
        // A table may be named twice, with another sum each.
        let tables: BTreeSet<String> =
            self.settings.tables.iter().map(|t| format!("{} READ", server::quoted(&t.name))).collect();
        let tables: Vec<String> = tables.into_iter().collect();
        lock.run(&format!("SET SESSION lock_wait_timeout = 10; LOCK TABLES {}", tables.join(", "))).map_err(
            |e| {
                self.server
                    .programs
                    .fault("the tables of `with.tables` cannot be held still for the moment of the dump")
                    .cause(e)
                    .help(
                        "are they there, has the user the right LOCK TABLES, and is no long transaction writing to them?",
                    )
            },
        )?;
        figures.run("START TRANSACTION WITH CONSISTENT SNAPSHOT").map_err(asked)?;
        Ok(Some(Moment { lock, figures }))
    }

    /// Runs the dump; the lock goes when its first table comes, for then its transaction is open.
    fn stream_locked(
        &self,
        order: &shell::Order,
        watch: &mut dump::Watch<'_>,
        lock: &Mutex<Option<Session>>,
    ) -> Result<(), Fault> {
        let late = Arc::new(AtomicBool::new(false));
        let release = || drop(lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (begun, seen) = channel::<()>();
        watch.on_first_table(Box::new(move || _ = begun.send(())), Arc::clone(&late));
        let (late, release) = (&late, &release);
        let streamed = std::thread::scope(|scope| {
            let guard = scope.spawn(move || {
                let heard = seen.recv_timeout(HOLD);
                let held = !self.settings.tables.is_empty();
                late.store(held && heard == Err(RecvTimeoutError::Timeout), Ordering::SeqCst);
                release();
            });
            let streamed = self.server.programs.stream(order, watch).map(drop);
            watch.forget();
            // It has nothing to wait for any more, and cannot break.
            let _ = guard.join();
            streamed
        });
        if late.load(Ordering::SeqCst) {
            return Err(self
                .server
                .programs
                .fault("the dump did not begin while the tables were held still")
                .cause(format!("writers were not kept waiting for more than {} s", HOLD.as_secs()))
                .help("run it at a quieter time, or without `with.tables`"));
        }
        streamed
    }

    /// The dump command as data: the password is in the environment, never in the arguments.
    ///
    /// Without dates, and with statements as long as a server takes by default: a change in a table moves
    /// the ends of all its later statements, and each of them is a place where nothing is stored once only.
    fn dump_order(&self, program: &str, flavour: Flavour, binlog: bool) -> shell::Order {
        let on =
            |wanted: bool, name: &str| if wanted { format!("--{name}") } else { format!("--skip-{name}") };
        let mut argv = vec![program.to_owned()];
        argv.extend(self.server.arguments(flavour));
        argv.extend(
            [
                "--single-transaction",
                "--quick",
                "--skip-dump-date",
                "--hex-blob",
                "--no-tablespaces",
                "--default-character-set=utf8mb4",
                "--max-allowed-packet=1G",
                "--net-buffer-length=8M",
            ]
            .map(str::to_owned),
        );
        argv.push(on(self.settings.routines, "routines"));
        argv.push(on(self.settings.triggers, "triggers"));
        argv.push(on(self.settings.events, "events"));
        let special: &[&str] = match (flavour, binlog) {
            (Flavour::Mariadb, true) => &["--master-data=2", "--gtid"],
            (Flavour::Mariadb, false) => &[],
            // A restore into a server with a history of its own would be refused with these.
            (Flavour::Mysql, true) => {
                &["--set-gtid-purged=OFF", "--loose-column-statistics=0", "--master-data=2"]
            }
            (Flavour::Mysql, false) => &["--set-gtid-purged=OFF", "--loose-column-statistics=0"],
        };
        argv.extend(special.iter().map(|word| (*word).to_owned()));
        argv.extend(["--".to_owned(), self.server.address.path.clone()]);
        self.server.programs.order(argv, self.server.environment())
    }

    fn compare_one(&self, table: &TableRecord) -> Finding {
        let started = Instant::now();
        let now = match self.server.session() {
            Ok(mut session) => tables::now(&mut session, table),
            Err(fault) => Err(tables::Trouble::Unanswered(fault.line())),
        };
        let mut finding = match now {
            Ok(now) => judge(table, &now),
            Err(tables::Trouble::Gone(why)) => data_finding(table, Verdict::Fail).says(why),
            Err(tables::Trouble::Unanswered(why)) => data_finding(table, Verdict::Error).says(why),
        };
        finding.duration_ms = started.elapsed().as_secs_f64() * 1e3;
        finding
    }

    fn uncounted(&self, table: &str, trouble: &tables::Trouble) -> Fault {
        let fault = self.server.programs.fault(format!("the database could not count the table `{table}`"));
        match trouble {
            tables::Trouble::Gone(why) => fault.cause(why).help("correct `with.tables` in the plan"),
            tables::Trouble::Unanswered(why) => fault.cause(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(flavour_bin: &str) -> Database {
        let programs = Programs {
            source: "db".into(),
            shown: "${MYSQL_URL}".into(),
            bin: Some(flavour_bin.into()),
            folder: ".".into(),
            timeout: Duration::from_secs(1),
            install: INSTALL,
        };
        let url =
            "mysql://shop:s3cr%27et%25%20x@db.example:3307/orders?ssl-mode=verify_identity&ssl-ca=/ca.pem";
        let settings = serde_json::from_str("{}").unwrap();
        Database { server: Server::read(url, None, programs).unwrap(), settings }
    }

    #[test]
    fn the_password_is_in_the_environment_and_not_in_the_arguments() {
        let database = database("/opt/bin");
        let order = database.dump_order("mysqldump", Flavour::Mariadb, true);
        assert_eq!(order.argv[1], "--no-defaults", "it only counts as the first one");
        assert_eq!(order.env, [("MYSQL_PWD".to_owned(), "s3cr'et% x".to_owned())]);
        assert!(!order.argv.concat().contains("s3cr"), "{:?}", order.argv);
        for word in [
            "--single-transaction",
            "--host=db.example",
            "--port=3307",
            "--user=shop",
            "--master-data=2",
            "--ssl-verify-server-cert",
        ] {
            assert!(order.argv.iter().any(|w| w == word), "{word}: {:?}", order.argv);
        }
        assert_eq!(order.argv[order.argv.len() - 2..], ["--", "orders"]);
        let order = database.dump_order("mysqldump", Flavour::Mysql, false);
        for word in ["--ssl-mode=VERIFY_IDENTITY", "--ssl-ca=/ca.pem", "--set-gtid-purged=OFF"] {
            assert!(order.argv.iter().any(|w| w == word), "{word}: {:?}", order.argv);
        }
        assert!(!order.argv.iter().any(|w| w.contains("master-data")));
    }
}
