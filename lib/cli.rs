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

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args, Command, Parser, ValueEnum};

use crate::caught::{broke, caught};
use crate::evidence::Body;
use crate::fault::{Exit, Fault};
use crate::job::{self, Call, Job, KeyFiles};
use crate::signature::{SigningKey, Trust};
use crate::units::Span;
use crate::world::shell::SIGN_KEY_PEM;
use crate::world::talk::{self, Color, Mark, Progress, Talk};
use crate::world::{self, ci, signal};

/// The flags that all five tools share.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Shared {
    /// The plan
    #[arg(long, global = true, env = "TRAPKEY_PLAN", default_value = "release.yaml", value_name = "FILE")]
    pub plan: PathBuf,
    /// The environment that is released to (may be left out where the plan has only one)
    #[arg(long, global = true, env = "TRAPKEY_ENVIRONMENT", value_name = "NAME")]
    pub environment: Option<String>,
    /// The evidence folder
    #[arg(long, global = true, env = "TRAPKEY_EVIDENCE", default_value = "evidence", value_name = "FOLDER")]
    pub evidence: PathBuf,
    /// The place of the promote state: a folder, or s3://BUCKET/PREFIX [default: .trapkey beside the plan]
    #[arg(long, global = true, env = "TRAPKEY_STATE", value_name = "PLACE")]
    pub state: Option<PathBuf>,
    /// A variable of the plan; may be given several times [env: TRAPKEY_SET, pairs parted by `;`]
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The private key (Ed25519, PEM) that signs every document; TRAPKEY_SIGN_KEY_PEM holds the key itself
    #[arg(long, global = true, env = "TRAPKEY_SIGN_KEY", hide_env_values = true, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// The public keys that count, NAME.pem each; a document that none of them signed is refused. `none`: every document
    /// counts
    #[arg(long, global = true, env = "TRAPKEY_TRUST", value_name = "FOLDER")]
    pub trust: Option<PathBuf>,
    /// Write the document to stdout
    #[arg(long, global = true, env = "TRAPKEY_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// Say nothing but errors
    #[arg(long, short, global = true, env = "TRAPKEY_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,
    /// When to colour
    #[arg(long, global = true, env = "TRAPKEY_COLOR", default_value = "auto", value_name = "WHEN")]
    pub color: When,
    /// How often a log without a terminal hears what goes on, when nothing else was said; 0s: never
    #[arg(long, global = true, env = "TRAPKEY_HEARTBEAT", default_value = "1m", value_name = "DURATION")]
    pub heartbeat: Span,
    /// How progress is shown, where a tool has a flag for it.
    #[arg(skip)]
    pub progress: Progress,
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
    /// Errors (2): a `--set`, or a pair of `TRAPKEY_SET`, without `=`; a key that is none.
    pub fn call(&self, tool: &'static str) -> Result<Call, Fault> {
        let mut call = self.call_without_keys(tool)?;
        self.read_keys(&mut call)?;
        Ok(call)
    }

    /// Reads the key that signs and the keys that count, before anything is done.
    ///
    /// Errors (2): a key that is none, or a signing key given twice.
    fn read_keys(&self, call: &mut Call) -> Result<(), Fault> {
        let pem = std::env::var(SIGN_KEY_PEM).ok().filter(|pem| !pem.trim().is_empty());
        call.sign = match (&self.sign_key, pem) {
            (Some(_), Some(_)) => {
                return Err(Fault::usage(format!(
                    "the signing key is given twice, by --sign-key or TRAPKEY_SIGN_KEY and by {SIGN_KEY_PEM}"
                ))
                .help("leave one of them out"));
            }
            (Some(path), None) => Some(SigningKey::read(path)?),
            (None, Some(pem)) => Some(SigningKey::from_pem(pem.as_bytes(), SIGN_KEY_PEM)?),
            (None, None) => None,
        };
        let empty = |name: &str| std::env::var_os(name).is_some_and(|value| value.is_empty());
        if self.trust.is_none() && empty("TRAPKEY_TRUST") {
            // What was to be filled in is missing, and unsigned documents would count.
            return Err(Fault::usage("TRAPKEY_TRUST is set and empty, so nothing says whose keys count").help(
                "give it the folder of the public keys; where nobody signs, write TRAPKEY_TRUST=none or unset it",
            ));
        }
        call.trust = call.keys.trust.as_deref().map(Trust::read).transpose()?;
        if call.trust.is_some()
            && call.sign.is_none()
            && let Some(name) = [SIGN_KEY_PEM, "TRAPKEY_SIGN_KEY"].into_iter().find(|name| empty(name))
        {
            let note = format!("{name} is set and empty: what is written is not signed, and counts nowhere");
            call.talk.line(Mark::Warn, &note);
        }
        if self.state.is_none() && empty("TRAPKEY_STATE") {
            let note = "TRAPKEY_STATE is set and empty: the state is looked for in .trapkey beside the plan";
            call.talk.line(Mark::Warn, note);
        }
        if let (Some(key), Some(trust)) = (&call.sign, &call.trust)
            && !trust.knows(key)
        {
            let note = format!("the signing key {} is not among those of --trust", key.id());
            call.talk.line(Mark::Warn, &note);
        }
        Ok(())
    }

    fn call_without_keys(&self, tool: &'static str) -> Result<Call, Fault> {
        // The command line comes last, and wins.
        let ambient = std::env::var("TRAPKEY_SET").unwrap_or_default();
        let ambient = ambient.split(';').filter(|pair| !pair.trim().is_empty()).map(|p| ("TRAPKEY_SET", p));
        let set = ambient
            .chain(self.set.iter().map(|pair| ("--set", pair.as_str())))
            .map(|(from, pair)| match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
                // The text may be a secret value: it is not shown.
                _ => Err(Fault::usage(format!("a variable in {from} is not KEY=VALUE"))
                    .help("write it like VERSION=1.4.2; with spaces, quote the whole pair")),
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        let given = |pair: &String| pair.split_once('=').map(|(key, _)| key.to_owned());
        let given: BTreeSet<String> = self.set.iter().filter_map(given).collect();
        Ok(Call {
            tool,
            plan: self.plan.clone(),
            environment: self.environment.clone(),
            evidence: self.evidence.clone(),
            state: self.state.clone(),
            ambient: set.keys().filter(|name| !given.contains(*name)).cloned().collect(),
            set,
            json: self.json,
            sign: None,
            trust: None,
            keys: KeyFiles {
                sign: self.sign_key.clone(),
                trust: self.trust.clone().filter(|trust| trust.as_os_str() != "none"),
            },
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
        Talk::new(self.quiet, color).with_progress(self.progress)
    }
}

/// Reads the arguments, runs the tool, shows its error, returns its exit code.
pub fn run<A: Parser>(work: impl FnOnce(A) -> Result<Exit, Fault>) -> ExitCode {
    run_knowing(&[], work)
}

/// The same with words that people type for commands of other names, and what they are told.
pub fn run_knowing<A: Parser>(
    words: &[(&[&str], &str)],
    work: impl FnOnce(A) -> Result<Exit, Fault>,
) -> ExitCode {
    signal::listen();
    crate::caught::say_nothing();
    let mut command = without_empty_variables(A::command());
    let parsed = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|found| A::from_arg_matches(&found).map_err(|error| error.format(&mut command)));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            if let Some(fault) = another_word(&error, words) {
                Talk::new(false, Color::Auto).error(&fault.to_string());
                return ExitCode::from(fault.exit.code());
            }
            return told(&error);
        }
    };
    let done = caught(|| work(arguments)).unwrap_or_else(|why| Err(broke("this tool", &why)));
    let exit = done.unwrap_or_else(|fault| {
        Talk::new(false, Color::Auto).error(&fault.to_string());
        fault.exit
    });
    // For the steps behind it, which know a failed one by no more than that. Where the outputs cannot be
    // written, whoever wrote the others has said so.
    let _ = ci::outputs(&[("exit_code", exit.code().to_string())]);
    ExitCode::from(exit.code())
}

/// Says what came of arguments that are none: help and version are data on stdout, everything else is a wrong flag.
/// They show what was typed, and values of the environment.
fn told(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if error.use_stderr() {
        Talk::new(false, Color::Auto).error(text.trim_end().strip_prefix("error: ").unwrap_or(&text));
        return ExitCode::from(Exit::Usage.code());
    }
    if talk::stdout_is_a_terminal() {
        let _ = error.print();
    } else {
        // A closed stdout is nobody's fault.
        let _ = talk::text(&text);
    }
    ExitCode::from(Exit::Pass.code())
}

/// What is told of a command that has another name here.
fn another_word(error: &clap::Error, words: &[(&[&str], &str)]) -> Option<Fault> {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let (_, told) = words.iter().find(|(names, _)| names.contains(&typed.to_lowercase().as_str()))?;
    Some(Fault::usage(format!("there is no command `{typed}`")).help(*told))
}

/// A variable that is empty counts as not set: CI systems pass an input that was left out like that.
fn without_empty_variables(command: Command) -> Command {
    let heed = |arg: Arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(Resettable::Reset) } else { arg }
    };
    command.mut_args(heed).mut_subcommands(|sub| sub.mut_args(heed))
}

/// Runs a gate: opens the job, does the work, hands over the document, and puts every error on
/// record before it is shown.
pub fn gate<B: Body + Default>(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    gate_on::<B>(Job::open, shared, tool, work)
}

/// The same for what may be asked at any time: the plan's artifacts are named where all of them are here.
pub fn rehearse<B: Body + Default>(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    gate_on::<B>(Job::open_with_artifacts_there, shared, tool, work)
}

/// The same for a job that is opened in a way of the tool's own.
pub fn gate_on<B: Body + Default>(
    open: fn(Call) -> Result<Job, Fault>,
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    let mut call = shared.call_without_keys(tool)?;
    if let Err(fault) = shared.read_keys(&mut call) {
        job::record_fault::<B>(&call, None, &fault);
        return Err(fault);
    }
    let _beats = call.talk.heartbeat(shared.heartbeat.0);
    let opened = caught(|| open(call.clone()));
    let job = match opened.unwrap_or_else(|why| Err(broke(&format!("`{tool}`"), &why))) {
        Ok(job) => job,
        Err(fault) => {
            job::record_fault::<B>(&call, None, &fault);
            return Err(fault);
        }
    };
    job.tell_where();
    let done = caught(|| work(&job)).unwrap_or_else(|why| Err(broke(&format!("`{tool}`"), &why)));
    let done = done.inspect_err(|fault| job::record_fault::<B>(&call, Some(&job), fault))?;
    job.hand_over::<B>()?;
    Ok(done)
}

/// Runs a command that writes no evidence: opens the job and does the work.
pub fn aside(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    let call = shared.call(tool)?;
    let _beats = call.talk.heartbeat(shared.heartbeat.0);
    work(&Job::open(call)?)
}

/// The same without looking at the plan's artifacts.
pub fn order(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    order_on(Job::open_without_artifacts, shared, tool, work)
}

/// The same for a job that is opened in a way of the tool's own.
pub fn order_on(
    open: fn(Call) -> Result<Job, Fault>,
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    let call = shared.call(tool)?;
    let _beats = call.talk.heartbeat(shared.heartbeat.0);
    work(&open(call)?)
}

/// The same for what serves until it is ended: its log is silent while nobody calls.
pub fn serve(
    shared: &Shared,
    tool: &'static str,
    work: impl FnOnce(&Job) -> Result<Exit, Fault>,
) -> Result<Exit, Fault> {
    work(&Job::open_without_artifacts(shared.call(tool)?)?)
}
