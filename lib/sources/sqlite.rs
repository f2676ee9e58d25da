//! `sqlite`: one database file as it is at one moment, while others write to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::programs::Programs;
use super::tables::{Now, TableSpec, difference, judge, named};
use super::{
    Context, Extra, Home, InDrill, Keep, Kind, Nature, Order, ReadBack, Rehearsed, Source, data_finding,
    not_compared,
};
use crate::evidence::{Finding, TableRecord, Verdict};
use crate::fault::Fault;
use crate::units::Text;
use crate::world::files::unwritable;
use crate::world::scratch::Scratch;
use crate::yaml::Problem;

mod restore;
mod script;

use script::{Asked, Refused};

pub(super) static KIND: Kind = Kind {
    name: "sqlite",
    about: "A SQLite database as it is at one moment, while others go on writing (in WAL mode too), with rows and sums \
            of named tables; the copy passes SQLite's own integrity check when read back.",
    target: "the database's file, relative to the plan",
    example: "{name: database, kind: sqlite, target: data/shop.db, with: {tables: [{name: orders, sum: total_cents, key: id}]}}",
    settings: super::schema::<Settings>,
    prepare,
};

const INSTALL: &str = "install the program sqlite3, or name its folder in `with.bin`";
const COPY: &str = "copy.db";

/// Settings of `sqlite`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SqliteSource")]
struct Settings {
    /// Tables whose rows (and sums) are recorded.
    #[serde(default)]
    tables: Vec<TableSpec>,
    /// The folder of the program `sqlite3`; PATH when absent.
    #[serde(default)]
    bin: Option<Text>,
}

struct Database {
    programs: Programs,
    path: PathBuf,
    tables: Vec<TableSpec>,
    /// The figures of the backup, for the proof.
    recorded: Mutex<Vec<TableRecord>>,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let settings: Settings = order.spec.with.read(&order.loaded.variables)?;
    let target = order.spec.target.as_ref().ok_or_else(|| order.problem("the key `target` is missing"))?;
    let target = target.one().map_err(|m| order.problem(m))?;
    if target.value.is_empty() || target.value.starts_with(':') {
        return Err(order.problem("`target` must be the path of a database's file"));
    }
    named(order, &settings.tables)?;
    Ok(Box::new(Database {
        programs: Programs::of(order, settings.bin.as_ref().map(|bin| bin.value.as_str()), INSTALL),
        path: order.loaded.at(&target.value),
        tables: settings.tables,
        recorded: Mutex::default(),
    }))
}

impl Source for Database {
    fn back_up(&self, _: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault> {
        let path = self.there()?;
        let scratch = self.scratch(Scratch::new())?;
        let (copy, _) = self.scratch(scratch.file(COPY))?;
        // One read transaction around everything: the copy and the figures are of one moment, and a writer
        // cannot make the copy begin again.
        let mut asked = Asked::at(scratch.folder());
        asked.line("BEGIN;");
        asked.question(&["sqlite_version()", "(SELECT count(*) FROM sqlite_master)"], "");
        for spec in &self.tables {
            asked.record(spec);
        }
        asked.line(&format!(".backup main {COPY}"));
        asked.line("COMMIT;");
        let answers = asked.run(&self.programs, Some(&path)).map_err(|refused| self.unreadable(&refused))?;
        let records: Vec<TableRecord> = self
            .tables
            .iter()
            .zip(&answers[1..])
            .map(|(spec, row)| script::recorded(spec, row))
            .collect::<Result<_, _>>()
            .map_err(|refused| self.unreadable(&refused))?;
        keep.file(&self.file_name(), &mut |sink| {
            let read = crate::bounds::open(&copy).and_then(|mut file| io::copy(&mut file, sink));
            let bytes =
                read.map_err(|e| self.programs.fault("the copy of the database cannot be read").cause(e))?;
            if bytes < 512 && answers[0].get(1).is_some_and(|objects| objects != "0") {
                return Err(self.programs.fault("the copy of the database is empty"));
            }
            Ok(())
        })?;
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&records);
        let details = json!({ "sqlite_version": answers[0].first(), "objects": answers[0].get(1) });
        Ok(Extra { tables: records, details })
    }

    fn prove(&self, back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        let scratch = self.scratch(Scratch::new())?;
        let copy = self.read_back(back, &scratch)?;
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.whole(&copy, &recorded)?;
        let figures = if recorded.is_empty() { "" } else { ", and rows and sums are the recorded ones" };
        Ok(Some(format!("the database read back from the store passes SQLite's integrity check{figures}")))
    }

    fn compare(&self, recorded: &[TableRecord]) -> Vec<Finding> {
        let path = match self.there() {
            Ok(path) => path,
            Err(fault) => return not_compared(recorded, &fault.line()),
        };
        let one = |table: &TableRecord| {
            let started = Instant::now();
            let mut finding = match self.now(&path, table) {
                Ok(now) => judge(table, &now),
                Err(Refused::Gone(why)) => data_finding(table, Verdict::Fail).says(why),
                Err(Refused::Failed(why)) => data_finding(table, Verdict::Error).says(why),
                Err(Refused::Fault(fault)) => data_finding(table, Verdict::Error).says(fault.line()),
            };
            finding.duration_ms = started.elapsed().as_secs_f64() * 1e3;
            finding
        };
        recorded.iter().map(one).collect()
    }

    fn nature(&self) -> Nature<'_> {
        Nature::Dump { home: Home::File(self.path.clone()), drill: InDrill::Runs("/drill/database.db") }
    }

    fn rehearse(
        &self,
        folder: &Path,
        back: &dyn ReadBack,
        recorded: &[TableRecord],
    ) -> Result<Rehearsed, Fault> {
        let path = folder.join(self.path.file_name().unwrap_or(COPY.as_ref()));
        let target = Text::from(path.display().to_string());
        let said = restore::run(self, &target, false, back, &[])?;
        // What differs is no error of the restore here: it is what the drill is to find.
        let again =
            Self { path, programs: self.programs.clone(), tables: Vec::new(), recorded: Mutex::default() };
        let findings = again.compare(recorded);
        let said = said.rsplit_once(';').map_or(said.as_str(), |(said, _)| said).to_owned();
        Ok(Rehearsed { url: target, said, findings, server: None })
    }

    fn restore_into(
        &self,
        target: &Text,
        force: bool,
        back: &dyn ReadBack,
        recorded: &[TableRecord],
    ) -> Result<String, Fault> {
        restore::run(self, target, force, back, recorded)
    }
}

impl Database {
    /// The whole path of the file, which must be there: SQLite would make an empty one.
    fn there(&self) -> Result<PathBuf, Fault> {
        let found = fs::canonicalize(&self.path).and_then(|path| {
            if fs::metadata(&path)?.is_file() { Ok(path) } else { Err(io::Error::other("it is not a file")) }
        });
        found.map_err(|e| {
            self.programs.fault("there is no database").cause(e).help("correct `target` in the plan")
        })
    }

    /// The file's own name, so that a restore brings it back under it.
    fn file_name(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        self.path.file_name().map_or_else(|| b"database.db".to_vec(), |name| name.as_bytes().to_vec())
    }

    /// The stored file in a private folder.
    fn read_back(&self, back: &dyn ReadBack, scratch: &Scratch) -> Result<PathBuf, Fault> {
        let (path, mut file) = self.scratch(scratch.file(COPY))?;
        back.read(&self.file_name(), &mut file)?;
        self.scratch(file.sync_all())?;
        Ok(path)
    }

    /// Passes a database that is whole and has what was recorded.
    fn whole(&self, path: &Path, recorded: &[TableRecord]) -> Result<(), Fault> {
        let mut asked = Asked::at(path.parent().unwrap_or(Path::new("/")));
        asked.integrity();
        for table in recorded {
            asked.now(table).map_err(|refused| self.unreadable(&refused))?;
        }
        let answers = asked.run(&self.programs, Some(path)).map_err(|refused| self.unreadable(&refused))?;
        match answers.first().and_then(|row| row.first()) {
            Some(word) if word == "ok" => {}
            problem => {
                return Err(self
                    .programs
                    .fault("the database does not pass SQLite's integrity check")
                    .cause(problem.map_or("it says nothing", String::as_str))
                    .help("check the live one: sqlite3 FILE 'PRAGMA integrity_check'"));
            }
        }
        for (table, row) in recorded.iter().zip(&answers[1..]) {
            let now = script::figures(row).map_err(|refused| self.unreadable(&refused))?;
            if let Some(difference) = difference(table, &now) {
                return Err(self.programs.fault("the copy is not what was recorded").cause(difference));
            }
        }
        Ok(())
    }

    fn now(&self, path: &Path, table: &TableRecord) -> Result<Now, Refused> {
        let mut asked = Asked::at(&self.programs.folder);
        asked.now(table)?;
        let answers = asked.run(&self.programs, Some(path))?;
        script::figures(&answers[0])
    }

    fn scratch<T>(&self, made: io::Result<T>) -> Result<T, Fault> {
        made.map_err(|e| {
            let fault = unwritable(&std::env::temp_dir(), &e);
            let help = "the copy needs room for one database in the folder TMPDIR";
            Fault { what: format!("source `{}`: no private copy can be made", self.programs.source), ..fault }
                .help(help)
        })
    }

    fn unreadable(&self, refused: &Refused) -> Fault {
        match refused {
            Refused::Fault(fault) => fault.clone(),
            Refused::Gone(why) => self
                .programs
                .fault("a table of `with.tables` cannot be counted")
                .cause(why)
                .help("correct `with.tables` in the plan"),
            Refused::Failed(why) => self
                .programs
                .fault("the database cannot be read")
                .cause(why)
                .help("may the job's user read and lock it, and is it a SQLite database?"),
        }
    }
}
