//! The shelf of checks: what a plan may look at before and after a release.
//!
//! A kind is one file with a `pub static KIND` and two lines here. [`prepare`] refuses everything that
//! is wrong with a plan's checks before anything runs; [`run`] looks, in parallel and within time.

use std::path::PathBuf;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::evidence::Verdict;
use crate::plan::{CheckSpec, Connection, Expected, Loaded};
use crate::units::{Observed, Text, Unit};
use crate::world::trust::Trust;
use crate::yaml::Problem;

/// The settings of a kind that connects by TLS: its own, and those of the connection, which are the same everywhere.
macro_rules! settings_with_a_connection {
    ($(#[$meta:meta])* struct Settings { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            $($own)*
            /// A PEM file with the certificates that count in place of the system's, relative to the plan: those of a
            /// certificate authority, or the server's own.
            #[serde(default)]
            ca: Option<$crate::units::Text>,
            /// A PEM file with the certificate that this side shows, relative to the plan.
            #[serde(default)]
            cert: Option<$crate::units::Text>,
            /// A PEM file with the key of `cert`, relative to the plan; in the same file when absent.
            #[serde(default)]
            key: Option<$crate::units::Text>,
            /// Whether anybody may answer, whatever the certificate, save for what `expect` asks of it; false when
            /// absent.
            #[serde(default)]
            insecure: Option<bool>,
            /// The name to ask for and to compare with in the certificate, where it is not the host of `target`.
            #[serde(default)]
            server_name: Option<$crate::units::Text>,
        }

        impl Settings {
            /// What they say of the connection.
            fn connection(&self) -> $crate::plan::Connection {
                $crate::plan::Connection {
                    ca: self.ca.clone(),
                    cert: self.cert.clone(),
                    key: self.key.clone(),
                    insecure: self.insecure,
                    server_name: self.server_name.clone(),
                }
            }
        }
    };
}

mod address;
mod certificates;
mod evaluate;
mod json;
mod prepare;
mod run;

mod artifact;
mod command;
mod disk;
mod dns;
mod env;
mod file;
mod http;
mod memory;
mod metrics_file;
mod postgres;
mod tcp;
mod tls;

pub use prepare::{Prepared, prepare};
pub use run::run;

/// Every check that a plan may name.
pub static ALL: &[&Kind] = &[
    &artifact::KIND,
    &command::KIND,
    &disk::KIND,
    &dns::KIND,
    &env::KIND,
    &file::KIND,
    &http::KIND,
    &memory::KIND,
    &metrics_file::KIND,
    &postgres::KIND,
    &tcp::KIND,
    &tls::KIND,
];

/// How many checks run at once when the plan does not say.
pub const PARALLEL: usize = 16;

/// One kind of check, as plan, `explain` and the tables see it.
#[derive(Debug)]
pub struct Kind {
    /// The word in the plan.
    pub name: &'static str,
    /// One sentence on what it looks at.
    pub about: &'static str,
    /// What `target` is; empty when there is none.
    pub target: &'static str,
    /// One check in YAML.
    pub example: &'static str,
    /// What it observes, the names that `expect` may use.
    pub observes: &'static [Observable],
    /// What it expects where the plan does not say, so that no check passes without looking.
    pub presumes: &'static [Presumed],
    /// Further names that `expect` may use, in words.
    pub open_names: Option<&'static str>,
    /// The dimension of such a further name; `None` when it is not one.
    pub open_unit: fn(&str) -> Option<Unit>,
    /// The JSON Schema of `with`.
    pub settings: fn(&mut SchemaGenerator) -> Schema,
    /// Reads `target` and `with`; touches nothing outside.
    pub prepare: fn(&Order<'_>) -> Result<Box<dyn Check>, Problem>,
}

/// Something that a kind observes.
#[derive(Debug)]
pub struct Observable {
    /// The name in `expect`.
    pub name: &'static str,
    /// Its dimension.
    pub unit: Unit,
    /// What it is.
    pub about: &'static str,
}

/// What a kind expects where the plan does not say.
#[derive(Debug)]
pub struct Presumed {
    /// What is observed.
    pub name: &'static str,
    /// The comparison, as a plan would write it.
    pub is: &'static str,
    /// Left out when the plan expects something of one of these, or has set it to true in `with`; of `name`
    /// itself in any case.
    pub unless: &'static [&'static str],
}

impl Presumed {
    const fn new(name: &'static str, is: &'static str) -> Self {
        Self { name, is, unless: &[] }
    }
}

/// One check of a plan on its way to its kind.
#[derive(Debug)]
pub struct Order<'a> {
    /// The uniform fields.
    pub spec: &'a CheckSpec,
    /// The plan, for variables, paths and places.
    pub loaded: &'a Loaded,
    /// What the plan expects.
    pub expected: &'a [Expected],
}

/// A check that is ready to look; it owns all it needs, for an attempt that hangs is left behind.
pub trait Check: Send + Sync {
    /// Looks once, if possible within the time given.
    fn look(&self, within: Duration) -> Result<Sight, Trouble>;
}

/// What a check saw.
#[derive(Debug, Default)]
pub struct Sight {
    seen: Vec<(String, Observed)>,
    /// The lines that a text was put together from.
    lines: Vec<(String, Observed)>,
    /// Which names stand for several values, of which there may be none.
    several: Vec<String>,
    hidden: Vec<&'static str>,
    cut: Vec<String>,
    note: Option<String>,
    details: Map<String, Value>,
}

/// Why nothing was seen.
#[derive(Debug)]
pub struct Trouble {
    verdict: Verdict,
    why: String,
}

impl Sight {
    /// Adds an observation.
    #[must_use]
    pub fn saw(mut self, name: impl Into<String>, observed: Observed) -> Self {
        self.seen.push((name.into(), observed));
        self
    }

    /// Adds one of the lines that a text was put together from: what must not be is none of them either.
    #[must_use]
    pub fn line_of(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.lines.push((name.into(), Observed::Text(text.into())));
        self
    }

    /// Says that what was seen under a name holds several values, which [`Sight::line_of`] adds; there may be none.
    #[must_use]
    pub fn several(mut self, name: impl Into<String>) -> Self {
        self.several.push(name.into());
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, name: impl Into<String>, number: f64, unit: Unit) -> Self {
        self.saw(name, Observed::Number(number, unit))
    }

    /// Adds the beginning of a text whose rest is not known: what it has it has, and what it has not nobody
    /// knows.
    #[must_use]
    pub fn saw_beginning(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        let name = name.into();
        self.cut.push(name.clone());
        self.saw(name, Observed::Text(text.into()))
    }

    /// Adds an observation that may be compared but never shown.
    #[must_use]
    pub fn saw_secret(mut self, name: &'static str, observed: Observed) -> Self {
        self.hidden.push(name);
        self.saw(name, observed)
    }

    /// Adds why something is missing or not as it should be, for the message.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Adds something for the record.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }
}

impl Trouble {
    /// The target does not answer or answers wrongly: `fail`.
    pub fn failed(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, why: why.into() }
    }

    /// The check could not be made: `error`.
    pub fn broken(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Error, why: why.into() }
    }

    /// There is nothing to look at: `no_data`.
    pub fn nothing(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::NoData, why: why.into() }
    }
}

impl Order<'_> {
    /// The settings of the kind.
    ///
    /// Errors: an unknown key, a wrong type, a missing variable, each with its place.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.spec.with.read(&self.loaded.variables)
    }

    /// The target as one text that is not empty.
    pub fn target(&self) -> Result<&Text, Problem> {
        let target = self.spec.target.as_ref().ok_or_else(|| self.problem("kind", "`target` is missing"))?;
        let text = target.one().map_err(|message| self.problem("target", message))?;
        if text.value.trim().is_empty() {
            return Err(self.problem("target", "`target` is empty"));
        }
        Ok(text)
    }

    /// The target as a path, relative to the plan's folder.
    pub fn path(&self) -> Result<PathBuf, Problem> {
        self.target().map(|text| self.loaded.at(&text.value))
    }

    /// What its settings say of trust.
    pub fn trust(&self, said: &Connection) -> Result<Trust, Problem> {
        said.check().map_err(|(_, why)| self.problem("with", why))?;
        Ok(Trust::of(said, self.loaded))
    }

    /// Whether the plan expects something of this name; what nobody asks for need not be measured.
    pub fn asks(&self, name: &str) -> bool {
        self.expected.iter().any(|line| line.name == name)
    }

    /// A problem with the value under a key of this check.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let message = message.into();
        Problem { place: prepare::place_of(self.loaded, self.spec, key), message, help: None }
    }
}

/// The kind of that name.
///
/// Errors: unknown; names the nearest and lists all.
pub fn kind(name: &str) -> Result<&'static Kind, Problem> {
    ALL.iter()
        .find(|kind| kind.name == name)
        .copied()
        .ok_or_else(|| crate::yaml::unknown("kind of check", name, ALL.iter().map(|kind| kind.name)))
}

fn no_open_names(_: &str) -> Option<Unit> {
    None
}
