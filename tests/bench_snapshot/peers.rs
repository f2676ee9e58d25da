//! The tools that are compared, each as it is used by default, with compression and encryption alike.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{DO, WORD, seconds};

const RESTIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.needs/restic/usr/bin/restic");

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    First,
    Unchanged,
    Changed,
    Check,
    Restore,
}

impl Step {
    pub(crate) const ALL: [Self; 5] =
        [Self::First, Self::Unchanged, Self::Changed, Self::Check, Self::Restore];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unchanged => "unchanged",
            Self::Changed => "1 % changed",
            Self::Check => "check, all data",
            Self::Restore => "restore",
        }
    }

    /// How many times as fast as restic it ought to be.
    pub(crate) fn goal(self) -> &'static str {
        match self {
            Self::First => "1.7",
            Self::Unchanged => "1.8",
            Self::Changed => "1.3",
            Self::Check => "1.2",
            Self::Restore => "2.5",
        }
    }

    /// How many times the time of tar it may take.
    pub(crate) fn limit(self) -> Option<&'static str> {
        match self {
            Self::First => Some("at most 1.4"),
            Self::Restore => Some("at most 1"),
            _ => None,
        }
    }
}

/// What a step took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    /// User and system, with all children.
    pub(crate) cpu: f64,
    /// The largest process.
    pub(crate) peak_mb: f64,
}

impl Cost {
    /// Each figure's own median.
    pub(crate) fn median(costs: &[Self]) -> Option<Self> {
        let middle = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = costs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        Some(Self { wall: middle(|c| c.wall)?, cpu: middle(|c| c.cpu)?, peak_mb: middle(|c| c.peak_mb)? })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / {:.2}, {:.0}", self.wall, self.cpu, self.peak_mb)
    }
}

/// One tool.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: &'static str,
    command: fn(Step, &Path) -> Option<Command>,
}

/// Ours first, restic second, the limit last.
pub(crate) const PEERS: [Peer; 4] = [
    Peer { name: "Trapkey", program: "/proc/self/exe", command: |step, home| Some(trapkey(step, home)) },
    Peer { name: "restic 0.18", program: RESTIC, command: |step, home| Some(restic(step, home)) },
    Peer { name: "borg 1.2", program: "/usr/bin/borg", command: |step, home| Some(borg(step, home)) },
    Peer { name: "tar and zstd -3", program: "/usr/bin/zstd", command: tar },
];

impl Peer {
    /// The program, when it is not there.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let timer = "/usr/bin/time";
        [self.program, timer].into_iter().find(|program| !Path::new(program).exists())
    }

    /// Makes an empty repository, once.
    pub(crate) fn prepare(&self, home: &Path) {
        match self.name {
            // The same key file for both, so that trying the passphrase costs both the same.
            "restic 0.18" => must(restic_at(home).arg("init")),
            "borg 1.2" => must(borg_at(home).args(["init", "--encryption", "repokey", "repo-borg"])),
            _ => return,
        }
        fs::rename(self.repository(home), home.join(format!("empty-{}", self.short()))).unwrap();
    }

    /// Puts an empty repository in the place of the last round's.
    pub(crate) fn begin(&self, home: &Path) {
        let _ = fs::remove_dir_all(self.repository(home));
        let empty = match self.name {
            "Trapkey" | "restic 0.18" => "empty-restic",
            "borg 1.2" => "empty-borg",
            _ => return,
        };
        must(Command::new("cp").arg("-a").arg(home.join(empty)).arg(self.repository(home)));
        // Each round is the first for the cache too.
        let _ = fs::remove_dir_all(home.join(format!("{}-cache", self.short())));
    }

    fn short(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }

    fn repository(&self, home: &Path) -> PathBuf {
        home.join(format!("repo-{}", self.short()))
    }

    /// Runs one step; none when this tool has none such.
    pub(crate) fn run(&self, step: Step, home: &Path) -> Option<Cost> {
        let command = (self.command)(step, home)?;
        if step == Step::Restore {
            fs::create_dir(home.join("back")).unwrap();
        }
        let told = home.join("time");
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%U %S %M", "-o"]).arg(&told).arg(command.get_program()).args(command.get_args());
        timed.current_dir(command.get_current_dir().unwrap_or(home));
        for (key, value) in command.get_envs() {
            timed.env(key, value.unwrap());
        }
        let began = Instant::now();
        must(&mut timed);
        let wall = seconds(began.elapsed());
        let told = fs::read_to_string(told).unwrap();
        let figures: Vec<f64> = told.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
        Some(Cost { wall, cpu: figures[0] + figures[1], peak_mb: figures[2] / 1000.0 })
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn trapkey(step: Step, home: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("REPOSITORY", home.join("repo-Trapkey")).env("SOURCE", home.join("corpus"));
    command.env("TARGET", home.join("back")).env(
        DO,
        match step {
            Step::First | Step::Unchanged | Step::Changed => "backup",
            Step::Check => "check",
            Step::Restore => "restore",
        },
    );
    command
}

fn restic_at(home: &Path) -> Command {
    let mut command = Command::new(RESTIC);
    command.current_dir(home).env("RESTIC_PASSWORD", WORD).env("RESTIC_CACHE_DIR", home.join("restic-cache"));
    command.args(["--repo", "repo-restic", "--quiet"]);
    command
}

fn restic(step: Step, home: &Path) -> Command {
    let mut command = restic_at(home);
    match step {
        Step::First | Step::Unchanged | Step::Changed => command.args(["backup", "corpus"]),
        Step::Check => command.args(["check", "--read-data"]),
        Step::Restore => command.args(["restore", "latest", "--target", "back"]),
    };
    command
}

fn borg_at(home: &Path) -> Command {
    let mut command = Command::new("borg");
    command.current_dir(home).env("BORG_PASSPHRASE", WORD).env("BORG_BASE_DIR", home.join("borg-cache"));
    command.env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
    command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
    command
}

fn borg(step: Step, home: &Path) -> Command {
    let mut command = borg_at(home);
    match step {
        Step::First | Step::Unchanged | Step::Changed => {
            command.args(["create", "--compression", "zstd,3"]);
            command.args([&format!("repo-borg::{step:?}"), "corpus"])
        }
        Step::Check => command.args(["check", "--verify-data", "repo-borg"]),
        Step::Restore => command.current_dir(home.join("back")).args(["extract", "../repo-borg::Changed"]),
    };
    command
}

/// What the file system and the compression alone take.
fn tar(step: Step, home: &Path) -> Option<Command> {
    let mut command = Command::new("tar");
    command.current_dir(home).args(["-I", "zstd -3 -T0"]);
    match step {
        Step::First => command.args(["-cf", "corpus.tar.zst", "corpus"]),
        Step::Restore => command.args(["-xf", "corpus.tar.zst", "-C", "back"]),
        _ => return None,
    };
    Some(command)
}
