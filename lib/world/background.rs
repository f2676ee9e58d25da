//! A program that runs beside us until we end it: a scratch server.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long it may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running program; it is ended when this is dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts a program in a folder, with nothing of our environment but `PATH`. What it prints goes
    /// into the file `log`.
    ///
    /// Errors: it cannot be started, or the file not be made.
    pub fn start(argv: &[String], folder: &Path, log: &Path) -> io::Result<Self> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
        };
        // That of an earlier start.
        let _ = std::fs::remove_file(log);
        let out = crate::bounds::fresh(log, 0o600)?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A signal from the terminal is for us; we end it when we are done.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// How it ended, where it has ended by itself, with the last that it printed; secrets left out.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let text = super::files::read_bounded(&self.log, 1024 * 1024).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = super::shell::last_line(&text, false);
        Some(format!("{status}: {}", if line.is_empty() { "it said nothing" } else { &line }))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        // For servers: end at once, what is there is thrown away. It may have ended meanwhile.
        let _ = kill_process(pid, Signal::QUIT);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}
