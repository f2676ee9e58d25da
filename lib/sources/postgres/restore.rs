//! A dump from the store into a live PostgreSQL.

use ::postgres::Client;

use super::whole::{self, Listed};
use super::{DUMP, Database, tables};
use crate::evidence::TableRecord;
use crate::fault::Fault;
use crate::redact::redact;
use crate::sources::tables::difference;
use crate::sources::{ReadBack, not_empty, stop_if_asked};
use crate::world::postgres::Address;
use crate::world::shell::{Order, Ran};

/// The live place of a restore.
pub(super) struct Into<'a> {
    pub(super) source: &'a Database,
    pub(super) address: Address,
    pub(super) shown: String,
    pub(super) force: bool,
}

const FORCE: &str = "what the snapshot has is dropped first, and everything else stays";

/// What a database holds that was not there when it was made.
const HOLDS: &str = "SELECT \
    (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
      WHERE c.relkind IN ('r','p','v','m','S','f') AND n.nspname NOT IN ('pg_catalog','information_schema') \
        AND n.nspname !~ '^pg_(toast|temp)' AND NOT EXISTS (SELECT FROM pg_depend d \
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')), \
    (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
      WHERE n.nspname NOT IN ('pg_catalog','information_schema') AND NOT EXISTS (SELECT FROM pg_depend d \
          WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')), \
    (SELECT count(*) FROM pg_namespace n WHERE n.nspname NOT IN ('public','information_schema') \
        AND n.nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_depend d \
          WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')), \
    (SELECT count(*) FROM pg_largeobject_metadata)";

impl Into<'_> {
    /// The dump of one database into one that is there, in one transaction.
    pub(super) fn one(&self, back: &dyn ReadBack, recorded: &[TableRecord]) -> Result<String, Fault> {
        let mut client = self.connect(&self.address)?;
        let filled = self.refuse_filled(&mut client, "the database")?;
        drop(client);
        self.restore(back, DUMP, &self.address, &["--no-owner"], filled)?;
        self.compare(&self.address, recorded)?;
        Ok(format!(
            "restored into {} in one transaction{}; {}",
            self.shown,
            if filled { ", in place of what was there by the same names" } else { "" },
            compared(recorded)
        ))
    }

    /// Roles first, then each database; those that are missing are made.
    pub(super) fn whole(&self, back: &dyn ReadBack, recorded: &[TableRecord]) -> Result<String, Fault> {
        let list = whole::read_list(self.source, back)?;
        let mut client = self.connect(&self.address)?;
        let mut there = Vec::new();
        for Listed { database, .. } in &list {
            let sql = "SELECT 1 FROM pg_database WHERE datname = $1";
            let rows = client.query(sql, &[database]).map_err(|e| self.failed(&e))?;
            there.push(if rows.is_empty() {
                None
            } else {
                let mut inside = self.connect(&self.address.with_database(database))?;
                Some(self.refuse_filled(&mut inside, &format!("the database `{database}`"))?)
            });
        }
        drop(client);
        self.globals(back)?;
        for (Listed { database, file }, there) in list.iter().zip(there) {
            stop_if_asked()?;
            let own = self.address.with_database(database);
            match there {
                Some(filled) => self.restore(back, file.as_bytes(), &own, &[], filled)?,
                None => self.create(back, database, file)?,
            }
        }
        let own = self.source.address.database().unwrap_or_default();
        if !recorded.is_empty() {
            self.compare(&self.address.with_database(own), recorded)?;
        }
        Ok(format!(
            "restored the roles and {} databases into {}; {}",
            list.len(),
            self.shown,
            compared(recorded)
        ))
    }

    /// Into a database that is there: all of it or nothing.
    fn restore(
        &self,
        back: &dyn ReadBack,
        file: &[u8],
        into: &Address,
        more: &[&str],
        filled: bool,
    ) -> Result<(), Fault> {
        let mut argv: Vec<String> = [
            self.source.program("pg_restore").as_str(),
            "--exit-on-error",
            "--single-transaction",
            "--no-password",
        ]
        .into_iter()
        .chain(more.iter().copied())
        .map(str::to_owned)
        .collect();
        if filled {
            argv.extend(["--clean".to_owned(), "--if-exists".to_owned()]);
        }
        if !self.source.restore_grants {
            argv.push("--no-privileges".into());
        }
        argv.push(format!("--dbname={}", into.without_password()));
        let order = self.source.order(into, argv);
        let ran = self.feed(back, file, &order)?;
        self.ended_well(&ran, "nothing was changed, for it ran in one transaction")
    }

    /// Makes the database as it was, and fills it. This cannot be one transaction.
    fn create(&self, back: &dyn ReadBack, database: &str, file: &str) -> Result<(), Fault> {
        let argv = vec![
            self.source.program("pg_restore"),
            "--create".into(),
            "--exit-on-error".into(),
            "--no-password".into(),
            format!("--dbname={}", self.address.without_password()),
        ];
        let order = self.source.order(&self.address, argv);
        let ran = self.feed(back, file.as_bytes(), &order)?;
        self.ended_well(
            &ran,
            &format!("the database `{database}` may be half there: drop it, and run it again"),
        )
    }

    /// Roles and tablespaces. Those that are there keep their names and get the recorded settings.
    fn globals(&self, back: &dyn ReadBack) -> Result<(), Fault> {
        let argv = vec![
            self.source.program("psql"),
            "--no-psqlrc".into(),
            "--quiet".into(),
            "--no-password".into(),
            // Codes are the same in every language.
            "--set=VERBOSITY=sqlstate".into(),
            format!("--dbname={}", self.address.without_password()),
        ];
        let mut order = self.source.order(&self.address, argv);
        order.keep = 1024 * 1024;
        let ran = self.feed(back, whole::GLOBALS, &order)?;
        self.ended_well(&ran, "some roles may be there already")?;
        let text = String::from_utf8_lossy(&ran.stderr);
        let duplicate = "42710";
        match text.lines().find(|line| line.contains("ERROR:") && !line.contains(duplicate)) {
            None => Ok(()),
            Some(line) => Err(self
                .fault("a role or tablespace could not be made")
                .cause(redact(line))
                .help("the number is PostgreSQL's error code; a tablespace's folder must be there first")),
        }
    }

    fn refuse_filled(&self, client: &mut Client, what: &str) -> Result<bool, Fault> {
        let row = client.query_one(HOLDS, &[]).map_err(|e| self.failed(&e))?;
        let counts: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
        if counts.iter().all(|count| *count == 0) {
            return Ok(false);
        }
        if self.force {
            return Ok(true);
        }
        let holds = format!(
            "{what} has {} tables, views and sequences, {} functions, {} schemas of its own, {} large objects",
            counts[0], counts[1], counts[2], counts[3]
        );
        Err(not_empty(&self.shown, &holds, FORCE))
    }

    fn compare(&self, address: &Address, recorded: &[TableRecord]) -> Result<(), Fault> {
        let mut client = self.connect(address)?;
        for table in recorded {
            let now = tables::now(&mut client, table).map_err(|e| self.failed(&e))?;
            if let Some(difference) = difference(table, &now) {
                return Err(self
                    .fault("what was restored is not what was recorded")
                    .cause(difference)
                    .help("does anybody write to it already? Otherwise do not use it"));
            }
        }
        Ok(())
    }

    fn feed(&self, back: &dyn ReadBack, file: &[u8], order: &Order) -> Result<Ran, Fault> {
        self.source.programs.feed_any(back, file, order)
    }

    fn ended_well(&self, ran: &Ran, state: &str) -> Result<(), Fault> {
        if ran.exit == Some(0) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&ran.stderr);
        let words =
            text.lines().find(|line| line.contains("ERROR:")).map_or_else(|| ran.last_words(), redact);
        let hint = if words.contains("role \"") {
            "; make that role first, or say `restore_grants: false` in the source"
        } else {
            ""
        };
        Err(self
            .fault(format!("the restore failed: {}", ran.how()))
            .cause(words)
            .help(format!("{state}{hint}")))
    }

    fn connect(&self, address: &Address) -> Result<Client, Fault> {
        self.source.connect(address).map_err(|fault| fault.place(&self.shown))
    }

    fn failed(&self, error: &::postgres::Error) -> Fault {
        self.fault("the database does not answer as it should").cause(tables::why(error))
    }

    fn fault(&self, what: impl std::fmt::Display) -> Fault {
        self.source.programs.fault(what).place(&self.shown)
    }
}

fn compared(recorded: &[TableRecord]) -> String {
    match recorded.len() {
        0 => "no rows were recorded to compare with".into(),
        count => format!("rows and sums of {count} tables are those of the snapshot"),
    }
}
