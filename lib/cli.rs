//! Shared flags and the exit codes, for all five binaries.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | pass: the gate is open (warnings included), or there was nothing left to do |
//! | 1 | the gate is closed: a critical check failed, or the release was rolled back |
//! | 2 | usage: wrong flag, or a plan that does not validate |
//! | 3 | undecided: no data, too few samples, or an approval is missing |
//! | 4 | infrastructure: a store, router or API could not be reached or answered wrongly |
//! | 5 | refused: evidence missing, stale, tampered with, or another release holds the environment |

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, ValueEnum};

use crate::evidence::Body;
use crate::fault::{Exit, Fault};
use crate::job::{self, Call, Job};
use crate::world::talk::{Color, Talk};
use crate::world::{self, signal};

/// The flags that all five tools share.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// The plan
    #[arg(long, global = true, env = "TRAPKEY_PLAN", value_parser = path(), default_value = "release.yaml", value_name = "FILE")]
    pub plan: PathBuf,
    /// The environment that is released to (may be left out where the plan has only one)
    #[arg(long, global = true, env = "TRAPKEY_ENVIRONMENT", value_name = "NAME")]
    pub environment: Option<String>,
    /// The evidence folder
    #[arg(long, global = true, env = "TRAPKEY_EVIDENCE", value_parser = path(), default_value = "evidence", value_name = "FOLDER")]
    pub evidence: PathBuf,
    /// The folder of the promote state [default: .trapkey beside the plan]
    #[arg(long, global = true, env = "TRAPKEY_STATE", value_parser = path(), value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// A variable of the plan; may be given several times
    #[arg(
        long,
        global = true,
        env = "TRAPKEY_SET",
        hide_env_values = true,
        value_name = "KEY=VALUE",
        value_delimiter = ';'
    )]
    pub set: Vec<String>,
    /// Write the document to stdout
    #[arg(long, global = true, env = "TRAPKEY_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Say nothing but errors
    #[arg(long, short, global = true, env = "TRAPKEY_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
    /// When to colour
    #[arg(long, global = true, env = "TRAPKEY_COLOR", default_value = "auto", value_name = "WHEN")]
    pub color: When,
}

/// When to colour.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Shared {
    /// The call that these flags ask for.
    ///
    /// Errors (2): a `--set` without `=`.
    pub fn call(&self, tool: &'static str) -> Result<Call, Fault> {
        let set = self
            .set
            .iter()
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
                _ => Err(Fault::usage("a `--set` is not KEY=VALUE").help("write --set VERSION=1.4.2")),
            })
            .collect::<Result<_, Fault>>()?;
        Ok(Call {
            tool,
            plan: given(&self.plan, "release.yaml"),
            // CI systems hand on an unset input as an empty text.
            environment: self.environment.clone().filter(|name| !name.is_empty()),
            evidence: given(&self.evidence, "evidence"),
            state: self.state.clone().filter(|path| !path.as_os_str().is_empty()),
            set,
            json: self.json,
            talk: self.talk(),
            started_at: world::now(),
        })
    }

    /// The voice that these flags ask for.
    pub fn talk(&self) -> Talk {
        let color = match self.color {
            When::Auto => Color::Auto,
            When::Always => Color::Always,
            When::Never => Color::Never,
        };
        Talk::new(self.quiet, color)
    }
}

/// A path that may be empty, which the environment of a CI job makes of an unset one.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn given(path: &Path, otherwise: &str) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(otherwise) } else { path.to_path_buf() }
}

/// Reads the arguments, runs the tool, shows its error, returns its exit code.
pub fn run<A: Parser>(work: impl FnOnce(A) -> Result<Exit, Fault>) -> ExitCode {
    signal::listen();
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are data on stdout, everything else is a wrong flag.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { Exit::Pass.code() });
        }
    };
    match work(arguments) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(fault) => {
            Talk::new(false, Color::Auto).error(&fault.to_string());
            ExitCode::from(fault.exit.code())
        }
    }
}

/// Runs a gate: opens the job, does the work, hands over the document, and puts every error on
/// record before it is shown.
pub fn gate<B: Body + Default>(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    let call = shared.call(tool)?;
    let job = match Job::open(call.clone()) {
        Ok(job) => job,
        Err(fault) => {
            job::record_fault::<B>(&call, None, &fault);
            return Err(fault);
        }
    };
    let done = work(&job).inspect_err(|fault| job::record_fault::<B>(&call, Some(&job), fault))?;
    job.hand_over::<B>()?;
    Ok(done)
}

/// Runs a command that writes no evidence: opens the job and does the work.
pub fn aside(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    work(&Job::open(shared.call(tool)?)?)
}
