//! Every kind of snapshot source, and the comparison of live data with what was recorded.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::evidence::{Finding, SnapshotState, SourceRecord, TableRecord, Verdict};
use crate::fault::Fault;
use crate::plan::{Loaded, SourceSpec};
use crate::units::Text;
use crate::world::background::Background;
use crate::world::{self, signal};
use crate::yaml::{self, Problem, unknown};

mod command;
mod docker_compose;
mod files;
mod kubernetes;
mod mysql;
mod postgres;
mod programs;
mod redis;
mod router_state;
mod sqlite;
mod tables;
mod versions;

/// Every kind of source that a plan may name.
pub static ALL: &[&Kind] = &[
    &command::KIND,
    &docker_compose::KIND,
    &files::KIND,
    &kubernetes::KIND,
    &mysql::KIND,
    &postgres::KIND,
    &redis::KIND,
    &router_state::KIND,
    &sqlite::KIND,
    &versions::KIND,
];

/// One kind of source.
pub struct Kind {
    /// Its name in the plan.
    pub name: &'static str,
    /// What it backs up, in one sentence.
    pub about: &'static str,
    /// What `target` means.
    pub target: &'static str,
    /// A source of this kind as it stands in a plan.
    pub example: &'static str,
    /// The JSON Schema of `with`.
    pub settings: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the settings. Touches nothing outside.
    pub prepare: fn(&Order<'_>) -> Result<Box<dyn Source>, Problem>,
}

/// What the plan asks for.
pub struct Order<'a> {
    /// The source in the plan.
    pub spec: &'a SourceSpec,
    /// The plan around it.
    pub loaded: &'a Loaded,
}

/// A source, ready to be backed up.
pub trait Source {
    /// Gives everything to `keep`. Returns what is to be recorded beside the files.
    ///
    /// Errors: anything that could not be read whole; then nothing of the snapshot is kept.
    fn back_up(&self, context: &Context<'_>, keep: &mut dyn Keep) -> Result<Extra, Fault>;

    /// What can be proven beyond "every byte reads back": `back` reads files from the store.
    /// Returns the proof in one sentence.
    fn prove(&self, _back: &dyn ReadBack) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    /// Compares the live data with what was recorded, table by table.
    fn compare(&self, _recorded: &[TableRecord]) -> Vec<Finding> {
        Vec::new()
    }

    /// Brings the data back into a live place: `target` is a database's URL or a path, `back` reads the
    /// source's files from the store. Returns in one sentence what was done.
    ///
    /// What is there already is kept: a database that holds anything is refused (5) unless `force`.
    /// Where rows and sums were recorded, they are compared afterwards.
    ///
    /// Errors: 2 for a kind that cannot do this, or a target that cannot be meant; 4 when the restore
    /// failed or the rows afterwards are not those of the record, and what state that leaves.
    fn restore_into(
        &self,
        _target: &Text,
        _force: bool,
        _back: &dyn ReadBack,
        _recorded: &[TableRecord],
    ) -> Result<String, Fault> {
        Err(Fault::usage("a source of this kind cannot be restored into a live place")
            .help("restore it into a folder with `--to`"))
    }

    /// What its files are, which says what a restore in place and a drill can do with them.
    fn nature(&self) -> Nature<'_> {
        Nature::Record
    }

    /// Brings the database up again in `folder`, which is there, empty and private, with a server of its
    /// own where it takes one, as [`Source::restore_into`] does, and compares the rows and sums that were
    /// recorded.
    ///
    /// Errors: 2 for a kind that starts none; 4 when no server is installed, or it cannot be started or
    /// filled.
    fn rehearse(
        &self,
        _folder: &Path,
        _back: &dyn ReadBack,
        _recorded: &[TableRecord],
    ) -> Result<Rehearsed, Fault> {
        Err(Fault::usage("no server is started for a source of this kind"))
    }
}

/// What the files of a source are.
pub enum Nature<'a> {
    /// The thing itself.
    Files(Live<'a>),
    /// A dump of a database.
    Dump {
        /// Where [`Source::restore_into`] brings it back to.
        home: Home,
        /// What a drill can do with it.
        drill: InDrill,
    },
    /// Something to look at.
    Record,
}

/// Where a dump goes back to.
pub enum Home {
    /// To the target that the plan names.
    Target,
    /// To this file.
    File(PathBuf),
    /// Nowhere while the server runs.
    Nowhere,
}

/// What a drill can do with a dump.
pub enum InDrill {
    /// [`Source::rehearse`] brings it up again; its address then looks like this.
    Runs(&'static str),
    /// Nothing beyond its file; why.
    NotStarted(&'static str),
}

/// Where files lie that a source backs up.
pub struct Live<'a> {
    /// The file or folder itself, links followed; it need not be there.
    pub path: PathBuf,
    /// What of the folder belongs to the source.
    pub choice: Box<Choice<'a>>,
}

/// A source that was brought up again in a place of its own; its server runs until this is dropped.
pub struct Rehearsed {
    /// How the database is reached: a URL, which holds a password, or a path.
    pub url: Text,
    /// What was done, in one sentence.
    pub said: String,
    /// The comparison with what was recorded, a finding per table.
    pub findings: Vec<Finding>,
    /// The server, where there is one.
    pub server: Option<Background>,
}

/// What a source may look at besides its own target.
pub struct Context<'a> {
    /// The folder of the store, which is never part of a snapshot; none where it is elsewhere.
    pub store: Option<&'a Path>,
    /// Reads the weights that are live, where the plan has a router.
    pub live_weights: Option<&'a dyn Fn() -> Result<Value, Fault>>,
}

/// Writes the bytes of one file.
pub type Pour<'a> = &'a mut dyn FnMut(&mut (dyn Write + Send)) -> Result<(), Fault>;

/// Where a source puts what it backs up. Paths are relative to the source.
pub trait Keep {
    /// Keeps a file; its bytes go straight into the store.
    fn file(&mut self, path: &[u8], pour: Pour<'_>) -> Result<(), Fault>;
    /// Keeps a folder of the file system with everything in it as the source's own, or one file under
    /// this path. Returns how many files and links there are.
    ///
    /// Errors: something cannot be read, or changed meanwhile and `allow_changes` is not set.
    fn tree(&mut self, path: &[u8], from: &Path, choice: &Choice<'_>, terms: Terms) -> Result<Kept, Fault>;
}

/// What is done with something in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is kept.
    Yes,
    /// It is left out, with all that is in it.
    No,
    /// A folder is kept where anything in it is.
    IfUsed,
}

/// Says for each path below a folder, and whether it is a folder itself, what is done with it.
pub type Choice<'a> = dyn Fn(&Path, bool) -> Wanted + Sync + 'a;

/// How a folder is read.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether files that change while they are read are only noted.
    pub allow_changes: bool,
    /// When it has to be done.
    pub until: Instant,
}

/// What a folder came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Files and links.
    pub entries: u64,
    /// Sockets, which are left out.
    pub sockets: u64,
}

/// Reads a file of the source back from the store.
pub trait ReadBack {
    /// Writes the file's verified bytes into `out`.
    fn read(&self, path: &[u8], out: &mut dyn Write) -> Result<(), Fault>;
}

/// What is recorded beside the files.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Rows and sums per table.
    pub tables: Vec<TableRecord>,
    /// What the kind adds.
    pub details: Value,
}

/// The time that one source may take where the plan says nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);

impl Order<'_> {
    /// The time that it may take.
    pub fn timeout(&self) -> Duration {
        self.spec.timeout.map_or(DEFAULT_TIMEOUT, |span| span.0)
    }

    /// A problem at this source's place in the plan.
    pub fn problem(&self, message: impl std::fmt::Display) -> Problem {
        let name = &self.spec.name;
        Problem {
            place: place_of(self.loaded, name),
            message: format!("source `{name}`: {message}"),
            help: None,
        }
    }
}

/// Prepares one source.
///
/// Errors: an unknown kind (with the list of the known ones), or settings that are wrong.
pub fn prepare(order: &Order<'_>) -> Result<Box<dyn Source>, Problem> {
    let name = &order.spec.kind;
    let prepared = match ALL.iter().find(|kind| kind.name == *name) {
        Some(kind) => (kind.prepare)(order),
        None => Err(unknown("kind of source", name, ALL.iter().map(|k| k.name))),
    };
    prepared.map_err(|problem| Problem {
        place: problem.place.or_else(|| place_of(order.loaded, &order.spec.name)),
        ..problem
    })
}

fn place_of(loaded: &Loaded, name: &str) -> Option<yaml::Place> {
    let root = yaml::parse(&loaded.source).ok()?;
    let yaml::Value::Sequence(sources) = &root.get("snapshot")?.get("sources")?.value else { return None };
    let named = |node: &&yaml::Node| {
        node.get("name").is_some_and(|n| matches!(&n.value, yaml::Value::Scalar { text, .. } if text == name))
    };
    sources.iter().find(named).map(|node| node.place)
}

/// Compares the live data of every source with what the snapshot recorded about it.
///
/// One finding per recorded table, `data intact: TABLE`: with a key, rows up to the recorded key must
/// be the same in number and sum, and later ones may have come; without a key everything must be equal.
/// A database that does not answer is an error, a table that is gone a failure.
pub fn intact(specs: &[SourceSpec], loaded: &Loaded, recorded: &[SourceRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for record in recorded {
        if record.tables.is_empty() {
            findings.extend(nothing_recorded(specs, loaded, record));
            continue;
        }
        let Some(spec) = specs.iter().find(|spec| spec.name == record.name) else {
            findings.extend(not_compared(&record.tables, "the plan has no such source any more"));
            continue;
        };
        match prepare(&Order { spec, loaded }) {
            Ok(source) => findings.extend(source.compare(&record.tables)),
            Err(problem) => findings.extend(not_compared(&record.tables, &problem.message)),
        }
    }
    findings
}

/// What is to be said of a database whose dump failed, as the plan allows it: its rows are not known.
fn nothing_recorded(specs: &[SourceSpec], loaded: &Loaded, record: &SourceRecord) -> Option<Finding> {
    if record.state == SnapshotState::Whole {
        return None;
    }
    let spec = specs.iter().find(|spec| spec.name == record.name)?;
    let source = prepare(&Order { spec, loaded }).ok()?;
    let Nature::Dump { .. } = source.nature() else { return None };
    let name = format!("data intact: {}", record.name);
    let finding = Finding::new(name, "data", Verdict::NoData, world::now());
    Some(
        finding.says(
            "the snapshot has no rows of it to compare with: its dump failed, and the plan allows that",
        ),
    )
}

/// One finding per table that says why it could not be compared.
fn not_compared(tables: &[TableRecord], why: &str) -> Vec<Finding> {
    tables.iter().map(|table| data_finding(table, Verdict::Error).says(why)).collect()
}

fn data_finding(table: &TableRecord, verdict: Verdict) -> Finding {
    Finding::new(format!("data intact: {}", table.table), "data", verdict, world::now())
}

/// The error when we were asked to stop.
fn stop_if_asked() -> Result<(), Fault> {
    if signal::stop_asked() {
        return Err(Fault::infrastructure("the snapshot was interrupted")
            .cause("a signal asked to stop")
            .help("nothing was kept; run it again"));
    }
    Ok(())
}

/// The error when a live place holds something already.
fn not_empty(shown: &str, holds: &str, what_force_does: &str) -> Fault {
    Fault::refused("the target is not empty")
        .place(shown)
        .cause(holds)
        .help(format!("name an empty one, or say --force: {what_force_does}"))
}

/// The JSON Schema of a kind's settings.
fn schema<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}
