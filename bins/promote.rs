//! `promote`: moves traffic to a new version, step by step, and back when it must.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use trapkey::cli::{self, Shared};
use trapkey::evidence::PromoteBody;
use trapkey::tools::promote::flags::{self, Change, Serves};
use trapkey::tools::promote::{self, Approve, Call, Mode, Origin};
use trapkey::units::{Span, parse_share};

const TOOL: &str = "promote";

/// What people type who know other tools, and what it is called here.
const OTHER_WORDS: &[(&[&str], &str)] = &[
    (
        &["cancel", "revert", "back", "roll-back", "rollout-undo", "recall", "restore", "downgrade"],
        "`promote rollback` takes all traffic back: by `abort` while a release is under way, by `undo` after it",
    ),
    (
        &["stop", "halt", "kill", "quit", "end", "terminate"],
        "`promote abort` (or `rollback`) takes all traffic back; `promote pause` holds it where it is; to end a job, send it TERM",
    ),
    (
        &["hold", "freeze", "suspend", "wait"],
        "`promote pause` holds before the next step; it is still judged",
    ),
    (
        &["unpause", "continue", "unfreeze", "thaw", "go"],
        "`promote resume` lets a paused release go on; `promote step` looks and goes on",
    ),
    (&["next", "advance", "retry", "tick"], "`promote step` looks once, and goes on, waits or goes back"),
    (
        &["deploy", "promote", "release", "begin", "up"],
        "`promote run` takes a release all the way; `promote start` begins it and leaves",
    ),
    (
        &["state", "show", "get", "info", "list", "ps", "describe", "watch", "stat"],
        "`promote status` says where it stands, and what the router does now",
    ),
];

/// Move traffic to a new version, step by step, each step judged, and back when it must be.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take the release all the way, holding the job while it bakes
    Run(Begin),
    /// Begin, and leave at the first wait
    Start(Begin),
    /// Go on: look at the whole elapsed window, then move on, wait or go back
    Step,
    /// Say where the newest promotion stands, and what the router does now; needs no variable of the plan
    Status,
    /// Hold before the next step; it is still judged. Needs no variable of the plan
    Pause,
    /// Let a paused promotion go on; needs no variable of the plan
    Resume,
    /// Call it off: all traffic to the old side; needs no variable of the plan
    Abort(Why),
    /// Go back, whichever way that is now: `abort` while a promotion is under way, `undo` after it
    Rollback(Why),
    /// Close it as it stands: everything to green, where blue is gone; refused while green is not well
    Accept {
        /// Why; goes on record
        #[arg(long, visible_alias = "why", value_name = "TEXT")]
        reason: String,
    },
    /// End the bake that is under way; the next step's approval is still needed
    Skip {
        /// Why; goes on record
        #[arg(long, visible_alias = "why", value_name = "TEXT")]
        reason: String,
    },
    /// Sign the approval that a step waits for
    Approve {
        /// The role that approves
        #[arg(long, value_name = "ROLE")]
        role: String,
        /// The private key (Ed25519, PEM) that signs; the one of --sign-key when absent
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The step, from 1; the next one that asks the role when absent
        #[arg(long, value_name = "NUMBER")]
        step: Option<usize>,
        /// Why; goes on record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// How long it counts, such as 4h
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
    },
    /// Go back after a finished promotion, while the old side is kept; needs no variable of the plan
    Undo(Why),
    /// Print the steps and touch nothing
    Plan {
        /// What the triggers would have done on a recorded series: CSV, or the samples of a promotion
        #[arg(long, value_name = "FILE")]
        on: Option<PathBuf>,
        /// Try the way as well: router, front door, both sides, snapshot store and state are read
        #[arg(long, conflicts_with = "on")]
        live: bool,
        #[command(flatten)]
        from: From,
    },
    /// Reach every verdict again from the recorded samples, and say whether it is the same
    Replay,
    /// Feature flags of this environment
    #[command(subcommand)]
    Flag(Flag),
    /// Take pause, resume, abort and approvals over HTTP, and Alertmanager's webhook
    Listen {
        /// Where to listen; callers show the token of TRAPKEY_TOKEN or TRAPKEY_TOKEN_FILE
        #[arg(long, env = "TRAPKEY_LISTEN", default_value = "127.0.0.1:9097", value_name = "ADDRESS")]
        on: SocketAddr,
    },
}

#[derive(Subcommand)]
enum Flag {
    /// Change a flag, or make it; what is not named stays as it is
    Set(Set),
    /// Show all flags
    List,
    /// Say whether a flag is on: prints `on` or `off`
    Eval {
        /// The flag
        name: String,
        /// The user, by any name that stays the same
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// A group of the user; may be given several times
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
        /// End with 1 when it is off
        #[arg(long)]
        exit_code: bool,
    },
}

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct Set {
    /// The flag
    name: String,
    /// On for everybody
    #[arg(long, conflicts_with_all = ["off", "percentage"])]
    on: bool,
    /// Off for everybody
    #[arg(long, conflicts_with = "percentage")]
    off: bool,
    /// On for that share of users, and for the groups
    #[arg(long, value_parser = parse_share, value_name = "SHARE")]
    percentage: Option<f64>,
    /// A group that has it whatever the share; all that are given take the place of those of before
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// No group has it
    #[arg(long, conflicts_with = "group")]
    no_groups: bool,
    /// Off before that moment, such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Off from that moment on
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Neither a beginning nor an end
    #[arg(long, conflicts_with_all = ["from", "until"])]
    always: bool,
}

impl Set {
    fn change(&self) -> Change {
        let serves = match (self.on, self.off, self.percentage) {
            (true, ..) => Some(Serves::Everybody),
            (_, true, _) => Some(Serves::Nobody),
            (.., Some(_)) => Some(Serves::Some),
            _ => None,
        };
        let groups = (self.no_groups || !self.group.is_empty()).then(|| self.group.clone());
        let moment = |given: Option<Timestamp>| given.map(Some).or(self.always.then_some(None));
        Change { serves, share: self.percentage, groups, from: moment(self.from), until: moment(self.until) }
    }
}

/// What another tool judges by, for a plan of one's own.
#[derive(Args)]
#[group(multiple = false, conflicts_with_all = ["on", "live"])]
struct From {
    /// Print the plan that Kayenta's canary config (JSON) becomes, and what of it does not translate
    #[arg(long = "from-kayenta", value_name = "FILE")]
    kayenta: Option<PathBuf>,
    /// Print the plan that Argo's AnalysisTemplate (YAML) becomes
    #[arg(long = "from-argo", value_name = "FILE")]
    argo: Option<PathBuf>,
    /// Print the plan that Flagger's Canary and MetricTemplate (YAML) become
    #[arg(long = "from-flagger", value_name = "FILE")]
    flagger: Option<PathBuf>,
}

#[derive(Args)]
struct Why {
    /// Why; goes on record
    #[arg(long, visible_alias = "why", value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Args)]
struct Begin {
    /// Call another release that is under way off, roll it back, and begin this one
    #[arg(long, env = "TRAPKEY_SUPERSEDE", value_parser = BoolishValueParser::new())]
    supersede: bool,
}

impl Begin {
    fn call(&self) -> Call {
        if self.supersede { Call::Supersede } else { Call::Begin }
    }
}

fn main() -> ExitCode {
    // The gate of a hook, which becomes the hook.
    if let Some(done) = promote::gate_if_asked() {
        return done;
    }
    cli::run_knowing(OTHER_WORDS, |Arguments { shared, command }| match command {
        Command::Run(begin) => cli::gate_on::<PromoteBody>(promote::begin_or_go_on, &shared, TOOL, |job| {
            promote::run(job, begin.call(), Mode::Hold)
        }),
        Command::Start(begin) => {
            cli::gate::<PromoteBody>(&shared, TOOL, |job| promote::run(job, begin.call(), Mode::Once))
        }
        Command::Step => cli::gate_on::<PromoteBody>(promote::go_on, &shared, TOOL, |job| {
            promote::run(job, Call::GoOn, Mode::Once)
        }),
        Command::Abort(Why { reason }) => {
            cli::gate_on::<PromoteBody>(promote::open, &shared, TOOL, |job| promote::abort(job, reason))
        }
        Command::Rollback(Why { reason }) => {
            cli::gate_on::<PromoteBody>(promote::open, &shared, TOOL, |job| promote::rollback(job, reason))
        }
        Command::Approve { role, key, step, reason, expires_in } => {
            cli::order_on(promote::approve_anywhere, &shared, TOOL, |job| {
                let asked =
                    Approve { role: &role, step, key: key.as_deref(), reason: reason.clone(), expires_in };
                promote::approve(job, asked)
            })
        }
        Command::Accept { reason } => {
            cli::gate_on::<PromoteBody>(promote::go_on_elsewhere, &shared, TOOL, |job| {
                promote::accept(job, reason)
            })
        }
        Command::Skip { reason } => {
            cli::gate_on::<PromoteBody>(promote::go_on_elsewhere, &shared, TOOL, |job| {
                promote::skip(job, reason)
            })
        }
        Command::Undo(Why { reason }) => {
            cli::gate_on::<PromoteBody>(promote::open, &shared, TOOL, |job| promote::undo(job, reason))
        }
        Command::Status => cli::order_on(promote::open, &shared, TOOL, promote::status),
        Command::Pause => cli::order_on(promote::open, &shared, TOOL, promote::pause),
        Command::Resume => cli::order_on(promote::open, &shared, TOOL, promote::resume),
        Command::Plan { from: From { kayenta: Some(file), .. }, .. } => {
            promote::import(Origin::Kayenta, &file)
        }
        Command::Plan { from: From { argo: Some(file), .. }, .. } => promote::import(Origin::Argo, &file),
        Command::Plan { from: From { flagger: Some(file), .. }, .. } => {
            promote::import(Origin::Flagger, &file)
        }
        Command::Plan { live: true, .. } => cli::aside(&shared, TOOL, promote::plan_live),
        Command::Plan { on: None, .. } => cli::order(&shared, TOOL, promote::plan),
        Command::Plan { on: Some(file), .. } => cli::order(&shared, TOOL, |job| promote::foresee(job, &file)),
        Command::Replay => cli::order_on(promote::judge, &shared, TOOL, promote::replay),
        Command::Flag(flag) => cli::order_on(promote::open, &shared, TOOL, |job| match flag {
            Flag::Set(set) => flags::set(job, &set.name, &set.change()),
            Flag::List => flags::list(job),
            Flag::Eval { name, user, group, exit_code } => {
                flags::eval(job, &name, user.as_deref(), &group, exit_code)
            }
        }),
        Command::Listen { on } => cli::serve(&shared, TOOL, |job| promote::listen(job, on)),
    })
}
