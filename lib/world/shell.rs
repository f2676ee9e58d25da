//! Commands: argv without a shell, a time limit that holds for grandchildren too, bounded output.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A command to run.
#[derive(Clone, Debug)]
pub struct Order {
    /// Program and arguments; never given to a shell.
    pub argv: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Variables added to the environment; secrets go here, never into `argv`.
    pub env: Vec<(String, String)>,
    /// When it is ended, its process group with it.
    pub timeout: Duration,
    /// How much of each stream is kept; the rest is read and dropped.
    pub keep: usize,
    /// Goes on although we were asked to stop: for what must not end half way.
    pub through_signals: bool,
    /// How long it may take to end after TERM, before it is killed. None where it is killed at once.
    pub grace: Option<Duration>,
}

/// The word that starts this program as the gate of a hook; no user writes it.
const GATE: &str = "hook-gate";

/// Where this program was started as a gate by [`Order::ready`]: waits for the word and becomes the command. Returns
/// only where that is not so, or with the exit status of a command that never began.
pub fn gate_if_asked() -> Option<std::process::ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()?.to_str() != Some(GATE) {
        return None;
    }
    let program = arguments.next()?;
    let mut word = [0; 3];
    if io::stdin().lock().read_exact(&mut word).is_err() || word != *WORD {
        return Some(NEVER_BEGAN.into());
    }
    let error = Command::new(program).args(arguments).stdin(Stdio::null()).exec();
    super::talk::note(&format!("it could not be started: {error}"));
    Some(NEVER_BEGAN.into())
}

/// What a gate is told when its command may begin.
const WORD: &[u8; 3] = b"go\n";
/// How a gate ends whose command never began, as a shell says it.
const NEVER_BEGAN: u8 = 127;

/// Whether the kernel would run a file: the C library would give anything else to a shell, an empty file too.
fn can_be_run(program: &Path) -> bool {
    let mut head = Vec::new();
    let read = crate::bounds::open(program).and_then(|file| file.take(4).read_to_end(&mut head));
    // What may be run and not read is a program.
    let known = read.is_err() || head.starts_with(b"#!") || head == b"\x7fELF";
    // Other kinds of programs have been made known to the kernel.
    let others = || std::fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| entries.count() > 2);
    known || others()
}

/// A command whose process is there and has not begun.
#[derive(Debug)]
pub struct Ready {
    order: Order,
    child: Option<Child>,
}

impl Ready {
    /// The number of its process; it keeps it when it begins.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Lets it begin, and runs it to its end as [`Order::run`] does.
    ///
    /// Errors: it ended before it could begin.
    pub fn run(mut self) -> io::Result<Ran> {
        let Some(mut child) = self.child.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let begun = child.stdin.take().map_or(Ok(()), |mut gate| gate.write_all(WORD));
        if let Err(error) = begun {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        let stdout = gather(child.stdout.take(), self.order.keep);
        self.order.finish(child, |grace| gathered(&stdout, grace))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It has not begun, and never will.
            drop(child.stdin.take());
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status; null when a signal or the time limit ended it.
    pub exit: Option<i32>,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Whether we were asked to stop meanwhile.
    pub interrupted: bool,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// Whether there was more, or may have been.
    pub cut: bool,
    /// The same, and why.
    pub heard: Heard,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
    /// How much that is.
    pub heard_of_stderr: Heard,
    /// How long it took.
    pub took: Duration,
}

/// How much of what a command said was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    /// All of it.
    #[default]
    Whole,
    /// As much as was to be kept.
    Beginning,
    /// What came while the command ran, and a little longer: something that it started holds the stream open.
    Held,
}

/// A stream, as far as it was read.
type Said = (Vec<u8>, Heard);

/// The variable that holds the key that signs the evidence.
pub const SIGN_KEY_PEM: &str = "TRAPKEY_SIGN_KEY_PEM";
/// The variable that holds the passphrase of the snapshot store.
pub const PASSPHRASE: &str = "TRAPKEY_PASSPHRASE";
/// The variable that holds the passphrase that comes after it.
pub const NEW_PASSPHRASE: &str = "TRAPKEY_NEW_PASSPHRASE";
/// The variable that holds the passphrase of the key that signs the evidence.
pub const SIGN_KEY_PASSPHRASE: &str = "TRAPKEY_SIGN_KEY_PASSPHRASE";
/// The variables that no command inherits, and all that begin like them (`…_FILE`, `…_COMMAND`): the keys and passphrases of
/// the tools themselves, the token of `promote listen`, and the values of the plan's variables.
const KEPT_BACK: [&str; 5] = ["TRAPKEY_SIGN_KEY", PASSPHRASE, NEW_PASSPHRASE, "TRAPKEY_TOKEN", "TRAPKEY_SET"];

/// Takes from a command what no command needs of our environment.
pub fn keep_back(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let kept = |begin: &&str| {
            let rest = name.to_str().and_then(|name| name.strip_prefix(*begin));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        if KEPT_BACK.iter().any(kept) {
            command.env_remove(&name);
        }
    }
}

/// How long the output of a command that has ended may still be on its way.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Order {
    /// A command in a folder, with 60 s and 64 KiB.
    pub fn new(argv: Vec<String>, folder: &Path) -> Self {
        Self {
            argv,
            folder: folder.to_path_buf(),
            env: Vec::new(),
            timeout: Duration::from_secs(60),
            keep: 64 * 1024,
            through_signals: false,
            grace: None,
        }
    }

    fn spawn(&self, stdin: Stdio) -> io::Result<Child> {
        self.spawn_as(&self.argv, stdin)
    }

    fn spawn_as(&self, argv: &[String], stdin: Stdio) -> io::Result<Child> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
        };
        let mut command = Command::new(program);
        keep_back(&mut command);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that the time limit reaches its children.
            .process_group(0)
            .spawn()
    }

    /// Runs it to its end and keeps the beginning of both streams.
    ///
    /// Errors: it could not be started.
    pub fn run(&self) -> io::Result<Ran> {
        let mut child = self.spawn(Stdio::null())?;
        let stdout = gather(child.stdout.take(), self.keep);
        self.finish(child, |grace| gathered(&stdout, grace))
    }

    /// Starts the process that is to be the command, which waits for the word to begin: what is noted of it holds
    /// before it does anything. It ends without having begun when this process ends, however that comes. It is this
    /// program once more, which must call [`gate_if_asked`] first of all, and then becomes the command.
    ///
    /// Errors: there is no such program, nothing that could be run, or it could not be started.
    pub fn ready(&self) -> io::Result<Ready> {
        self.must_be_there()?;
        // Also where this program was replaced since it was started.
        let gate = ["/proc/self/exe", GATE].map(String::from);
        let argv: Vec<String> = gate.into_iter().chain(self.argv.iter().cloned()).collect();
        let child = self.spawn_as(&argv, Stdio::piped())?;
        Ok(Ready { order: self.clone(), child: Some(child) })
    }

    /// The error that starting it would give, where there is no such program.
    fn must_be_there(&self) -> io::Result<()> {
        let program = self.argv.first().map_or_else(|| Path::new(""), Path::new);
        let given = self.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.into());
        let path = given.or_else(|| std::env::var_os("PATH")).unwrap_or_else(|| "/bin:/usr/bin".into());
        let places: Vec<PathBuf> = if program.components().count() > 1 || program.is_absolute() {
            vec![self.folder.join(program)]
        } else {
            std::env::split_paths(&path).map(|folder| self.folder.join(folder).join(program)).collect()
        };
        let mut found = places.iter().filter(|place| place.is_file()).peekable();
        if found.peek().is_none() {
            return Err(rustix::io::Errno::NOENT.into());
        }
        let may_run = |place: &&PathBuf| rustix::fs::access(*place, rustix::fs::Access::EXEC_OK).is_ok();
        let Some(program) = found.find(may_run) else { return Err(rustix::io::Errno::ACCESS.into()) };
        if can_be_run(program) { Ok(()) } else { Err(rustix::io::Errno::NOEXEC.into()) }
    }

    /// Runs it to its end and writes its standard output into `sink` as it comes.
    ///
    /// Returns the bytes written beside how it ended (`stdout` is empty). Errors: it could not be
    /// started, or the sink refused; then the command is ended.
    pub fn stream(&self, sink: &mut (dyn Write + Send)) -> io::Result<(Ran, u64)> {
        let mut child = self.spawn(Stdio::null())?;
        let pid = group(&child);
        let pipe = child.stdout.take();
        std::thread::scope(|scope| {
            let copied = scope.spawn(move || -> io::Result<u64> {
                let Some(mut pipe) = pipe else { return Ok(0) };
                let result = io::copy(&mut pipe, sink);
                if result.is_err() {
                    end_group(pid);
                }
                result
            });
            let ran = self.finish(child, |_| (Vec::new(), Heard::Whole))?;
            // A child in the background may hold the output open for ever: it is ended, not waited for.
            let until = Instant::now() + LAST_WORDS;
            while !copied.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !copied.is_finished() {
                end_group(pid);
            }
            let bytes =
                copied.join().map_err(|_| io::Error::other("the reader of the command's output broke"))??;
            Ok((ran, bytes))
        })
    }

    /// Runs it to its end while `give` writes its standard input; keeps the beginning of its output.
    ///
    /// A command may stop reading early, so a broken pipe is no error here: its exit status tells.
    /// Errors: it could not be started, or `give` failed otherwise.
    pub fn feed(&self, give: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<Ran> {
        let mut child = self.spawn(Stdio::piped())?;
        let pipe = child.stdin.take();
        let stdout = gather(child.stdout.take(), self.keep);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || self.finish(child, |grace| gathered(&stdout, grace)));
            let given = pipe.map_or(Ok(()), |mut pipe| give(&mut pipe));
            let ran = waiting.join().map_err(|_| io::Error::other("waiting for the command broke"))??;
            match given {
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
                _ => Ok(ran),
            }
        })
    }

    /// Starts it for questions and answers: lines go in, lines come out.
    ///
    /// Errors: it could not be started.
    pub fn converse(&self) -> io::Result<Conversation> {
        let mut child = self.spawn(Stdio::piped())?;
        let (sender, lines) = std::sync::mpsc::sync_channel(64);
        let stdout = child.stdout.take();
        std::thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let mut reader = io::BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                // Longer lines come in pieces, so that nobody fills the memory.
                match reader.by_ref().take(1024 * 1024).read_until(b'\n', &mut line) {
                    Ok(1..) => {
                        line.pop_if(|last| *last == b'\n');
                        if sender.send(line).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        });
        let stderr = gather(child.stderr.take(), self.keep);
        let input = child.stdin.take();
        Ok(Conversation { child, input, lines, stderr, patience: self.timeout })
    }

    fn finish(&self, mut child: Child, stdout: impl FnOnce(Duration) -> Said) -> io::Result<Ran> {
        let started = Instant::now();
        let stderr = gather(child.stderr.take(), self.keep);
        let pid = group(&child);
        let (mut timed_out, mut interrupted) = (false, false);
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            timed_out = started.elapsed() >= self.timeout;
            interrupted = !self.through_signals && super::signal::stop_asked();
            if timed_out || interrupted {
                break self.end(&mut child, pid)?;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        let took = started.elapsed();
        // A grandchild may hold the pipes open for ever; what it says then is not waited for.
        let shortest = Duration::from_millis(200);
        let left = self.timeout.saturating_sub(took).clamp(shortest, LAST_WORDS);
        let grace = if timed_out || interrupted { shortest } else { left };
        let (stdout, heard) = stdout(grace);
        let (stderr, heard_of_stderr) = gathered(&stderr, grace);
        let exit = if timed_out || interrupted { None } else { status.code() };
        let cut = heard != Heard::Whole;
        Ok(Ran { exit, timed_out, interrupted, stdout, cut, heard, stderr, heard_of_stderr, took })
    }
}

impl Order {
    /// Ends it: by TERM and, where it stays beyond its grace, by KILL. What else is left of its group is
    /// killed in any case.
    fn end(&self, child: &mut Child, pid: Option<Pid>) -> io::Result<ExitStatus> {
        if let (Some(grace), Some(pid)) = (self.grace, pid) {
            // It may have ended meanwhile, which is just as well.
            let _ = kill_process_group(pid, Signal::TERM);
            let until = Instant::now() + grace;
            while Instant::now() < until && child.try_wait()?.is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        end_group(pid);
        child.wait()
    }
}

/// A command that is asked and answers, line by line. Dropping it ends the command.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    input: Option<std::process::ChildStdin>,
    lines: Receiver<Vec<u8>>,
    stderr: Gathered,
    patience: Duration,
}

impl Conversation {
    /// Says something and gives the lines of the answer, up to the one that is `end`.
    ///
    /// Errors: it ended instead (with its last words on standard error), it took longer than the
    /// order's time, or we were asked to stop.
    pub fn ask(&mut self, said: &[u8], end: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let until = Instant::now() + self.patience;
        let told = self.input.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |input| {
            input.write_all(said).and_then(|()| input.flush())
        });
        if told.is_err() {
            return Err(self.ended());
        }
        let mut answer = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) if line == end => return Ok(answer),
                Ok(line) => answer.push(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) if super::signal::stop_asked() => {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "asked to stop"));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer within its time"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn ended(&mut self) -> io::Error {
        drop(self.input.take());
        let (stderr, _) = gathered(&self.stderr, LAST_WORDS);
        let stdout = Vec::new();
        let ran = Ran {
            exit: None,
            timed_out: false,
            interrupted: false,
            stdout,
            cut: false,
            heard: Heard::Whole,
            stderr,
            heard_of_stderr: Heard::Whole,
            took: Duration::ZERO,
        };
        let words = ran.last_words();
        io::Error::other(if words.is_empty() { "it ended without an answer".to_owned() } else { words })
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        end_group(group(&self.child));
        // So that no zombie stays.
        let _ = self.child.wait();
    }
}

/// How much before the last line is looked at for the beginning of a secret that ends in it.
const BEFORE_LAST: usize = 32 * 1024;

/// The last line that says something, secrets left out. One may be broken over lines, so that they are hidden in all of
/// the end of a text before its last line is taken.
pub(super) fn last_line(text: &str, cut: bool) -> String {
    let text = text.trim_end();
    let mut from = text.len().saturating_sub(BEFORE_LAST);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let end = &text[from..];
    let hidden = if cut { crate::redact::redact_cut(end) } else { crate::redact::redact(end) };
    hidden.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim().to_owned()
}

impl Ran {
    /// The end of what it said, on one line, secrets left out: for messages.
    pub fn last_words(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr);
        let stdout = String::from_utf8_lossy(&self.stdout);
        let by_stdout = stderr.trim().is_empty();
        let text = if by_stdout { stdout } else { stderr };
        crate::units::clipped(&last_line(&text, self.cut && by_stdout), 300)
    }

    /// All that it said and that was kept, secrets left out.
    pub fn all_words(&self) -> String {
        let mut said = String::new();
        for (bytes, cut) in [(&self.stdout, self.cut), (&self.stderr, self.heard_of_stderr != Heard::Whole)] {
            let text = String::from_utf8_lossy(bytes);
            said.push_str(&if cut { crate::redact::redact_cut(&text) } else { crate::redact::redact(&text) });
        }
        said
    }

    /// How it ended, in words: `exit 3`, `ended after 10 s`, `ended by a signal`.
    pub fn how(&self) -> String {
        match self.exit {
            _ if self.timed_out => "did not end within its time and was ended".into(),
            _ if self.interrupted => "was ended because we were asked to stop".into(),
            Some(code) => format!("exit {code}"),
            None => "was ended by a signal".into(),
        }
    }
}

fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn end_group(pid: Option<Pid>) {
    if let Some(pid) = pid {
        // It may have ended meanwhile, which is just as well.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// A stream that is being read.
#[derive(Debug)]
struct Gathered {
    so_far: Arc<Mutex<Said>>,
    /// Hangs up at the end of the stream.
    end: Receiver<()>,
}

fn gather(pipe: Option<impl Read + Send + 'static>, keep: usize) -> Gathered {
    let (at_end, end) = channel::<()>();
    let so_far = Arc::new(Mutex::new((Vec::new(), Heard::Held)));
    let kept = Arc::clone(&so_far);
    std::thread::spawn(move || {
        let _at_end = at_end;
        let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut pipe) = pipe else {
            lock().1 = Heard::Whole;
            return;
        };
        let (mut heard, mut buffer) = (Heard::Whole, [0_u8; 16 * 1024]);
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    let mut kept = lock();
                    let room = keep.saturating_sub(kept.0.len()).min(read);
                    if room < read {
                        heard = Heard::Beginning;
                    }
                    kept.0.extend_from_slice(&buffer[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What follows is not known.
                Err(_) => return,
            }
        }
        lock().1 = heard;
    });
    Gathered { so_far, end }
}

/// What was read, at the end of the stream or of the grace.
fn gathered(from: &Gathered, grace: Duration) -> Said {
    // Nothing is ever sent: it hangs up.
    let _ = from.end.recv_timeout(grace);
    let mut said = from.so_far.lock().unwrap_or_else(PoisonError::into_inner);
    (std::mem::take(&mut said.0), said.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_at_the_cut_is_not_shown_by_half() {
        crate::redact::learn("straddling-secret");
        let said = format!("{}straddling-secret", "x".repeat(290));
        let order = Order::new(vec!["printf".into(), said], Path::new("."));
        let words = order.run().unwrap().last_words();
        assert!(words.ends_with("xx***"), "{words}");
    }

    /// Whether a process has ended, or has only to be collected.
    fn gone(pid: &str) -> bool {
        let status = || std::fs::read_to_string(format!("/proc/{pid}/status"));
        (0..6000).any(|_| {
            let ended = status().map_or(true, |text| text.contains("State:\tZ"));
            if !ended {
                std::thread::sleep(Duration::from_millis(10));
            }
            ended
        })
    }

    fn order(script: &str) -> Order {
        Order::new(vec!["sh".into(), "-c".into(), script.into()], Path::new("."))
    }

    #[test]
    fn a_program_that_is_not_there_or_may_not_run_is_never_ready() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "no program").unwrap();
        // A script that was cut to nothing: a shell would run it, and well.
        for name in ["empty", "words"] {
            std::fs::write(folder.path().join(name), if name == "empty" { "" } else { "true" }).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(folder.path().join(name), mode).unwrap();
            let order = Order::new(vec![format!("./{name}")], folder.path());
            assert_eq!(order.ready().unwrap_err().raw_os_error(), Some(8), "{name}");
        }
        for (program, kind) in [
            ("./missing", io::ErrorKind::NotFound),
            ("surely-not-a-program", io::ErrorKind::NotFound),
            ("./text", io::ErrorKind::PermissionDenied),
            ("", io::ErrorKind::NotFound),
        ] {
            let order = Order::new(vec![program.into()], folder.path());
            assert_eq!(order.ready().unwrap_err().kind(), kind, "{program}");
        }
        assert!(Order::new(Vec::new(), folder.path()).ready().is_err());
        assert!(Order::new(vec!["true".into()], folder.path()).ready().is_ok());
    }

    #[test]
    fn ends_grandchildren_at_the_time_limit() {
        // Longer than any test: that it ends is the proof.
        let mut order = order("sleep 600 & echo $!; sleep 600");
        // A busy machine may need more time before there is a grandchild.
        let mut said = [1, 10, 100].into_iter().map(|seconds| {
            order.timeout = Duration::from_secs(seconds);
            let ran = order.run().unwrap();
            assert!(ran.timed_out && ran.exit.is_none());
            String::from_utf8(ran.stdout).unwrap()
        });
        let pid = said.find(|pid| !pid.is_empty()).unwrap();
        assert!(gone(pid.trim()), "{pid} still runs");
    }

    #[test]
    fn a_secret_that_is_broken_over_lines_leaves_no_end_of_it_in_the_last_one() {
        let secret =
            "Zq7-of-a-token-that-is-long-enough-to-be-broken-over-several-lines-by-base64-and-fold-19xK";
        crate::redact::learn(secret);
        for how in ["fold -w 35", "base64", "(printf user:; cat) | base64 -w 40"] {
            let words =
                order(&format!("printf %s {secret} | {{ {how}; }} >&2; exit 1")).run().unwrap().last_words();
            let shown = |part: &str| words.contains(part);
            assert!(
                !["19xK", "fold-19", "MTl4S", "9xS", "OXhL"].iter().any(|part| shown(part)),
                "{how}: {words}"
            );
            assert!(words.ends_with("***"), "{how}: {words}");
        }
        // Much before the last line takes nothing from it.
        let long = order("yes | head -c 50000 >&2; echo oops >&2").run().unwrap();
        assert_eq!(long.last_words(), "oops");
    }

    #[test]
    fn whatever_is_ended_may_clean_up_within_its_grace_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let script = |trap: &str| format!("trap '{trap}' TERM; touch begun; while :; do sleep 0.1; done");
        let ended = |trap: &str, grace: u64| {
            let mut order = Order { folder: folder.path().into(), ..order(&script(trap)) };
            // It has begun, whatever the machine does, before its time is over.
            (order.timeout, order.grace) = (Duration::from_secs(2), Some(Duration::from_secs(grace)));
            order.run().unwrap()
        };
        let clean = ended("touch cleaned; exit 3", 600);
        assert!(clean.timed_out && clean.exit.is_none());
        assert!(folder.path().join("cleaned").exists());
        assert!(ended("", 1).timed_out, "who does not listen is killed");
    }

    #[test]
    fn keeps_the_beginning_and_says_that_it_was_cut() {
        let mut order = order("yes | head -c 100000; echo oops >&2; exit 3");
        order.keep = 10;
        let ran = order.run().unwrap();
        assert_eq!((ran.exit, ran.stdout.len(), ran.cut), (Some(3), 10, true));
        assert_eq!(ran.last_words(), "oops");
    }

    #[test]
    fn what_is_held_open_is_no_whole_and_not_empty() {
        let heard = |script: &str| {
            let ran = order(script).run().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&ran.stdout), ran.heard, text(&ran.stderr), ran.heard_of_stderr)
        };
        let whole = |out: &str, err: &str| (out.into(), Heard::Whole, err.into(), Heard::Whole);
        assert_eq!(heard("printf a; printf b >&2"), whole("a", "b"));
        let child = |streams: &str| format!("printf a; printf b >&2; sleep 600 {streams} & echo $! >&3");
        for (streams, out, err) in [
            (">/dev/null", Heard::Whole, Heard::Held),
            ("2>/dev/null", Heard::Held, Heard::Whole),
            ("", Heard::Held, Heard::Held),
            (">/dev/null 2>&1", Heard::Whole, Heard::Whole),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let script =
                format!("exec 3>{}/pid; {}", folder.path().display(), child(&format!("{streams} 3>&-")));
            assert_eq!(heard(&script), ("a".into(), out, "b".into(), err), "{streams}");
            let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
            let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
    }

    #[test]
    fn a_conversation_answers_and_ends_with_its_last_words() {
        let order = order(
            "while read line; do echo \"<$line>\"; [ \"$line\" != die ] || { echo oh no >&2; exit 1; }; done",
        );
        let mut talk = order.converse().unwrap();
        assert_eq!(talk.ask(b"a\nb\nend\n", b"<end>").unwrap(), [b"<a>", b"<b>"]);
        assert_eq!(talk.ask(b"die\nend\n", b"<end>").unwrap_err().to_string(), "oh no");
        assert!(talk.ask(b"again\n", b"<again>").is_err());
        let pid = talk.child.id();
        drop(talk);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn streams_and_ends_the_command_when_the_sink_is_full() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut all = Vec::new();
        let (ran, bytes) = order("printf abc").stream(&mut all).unwrap();
        assert_eq!((ran.exit, bytes, all.as_slice()), (Some(0), 3, b"abc".as_slice()));
        // A child in the background is not waited for, or this would not end.
        let (ran, _) = order("sleep 600 & printf abc").stream(&mut Vec::new()).unwrap();
        assert_eq!(ran.exit, Some(0));
        let error = order("yes").stream(&mut Full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn feeds_its_input_and_forgives_one_that_stops_reading() {
        let ran = order("cat").feed(&mut |input| input.write_all(b"abc")).unwrap();
        assert_eq!((ran.exit, ran.stdout.as_slice()), (Some(0), b"abc".as_slice()));
        let endless = &mut |input: &mut dyn Write| -> io::Result<()> {
            loop {
                input.write_all(&[b'y'; 4096])?;
            }
        };
        assert_eq!(order("head -c 3").feed(endless).unwrap().stdout, b"yyy");
        let broken = &mut |_: &mut dyn Write| Err(io::ErrorKind::StorageFull.into());
        assert_eq!(order("cat").feed(broken).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
