//! What the sources share that work through a database's own programs: running them, feeding them from
//! the store, and looking at the end of what they printed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Order, ReadBack, stop_if_asked};
use crate::fault::Fault;
use crate::world::shell::{self, Ran};

/// How much of the end of an output is kept for its end marker.
pub(super) const TAIL: usize = 64 * 1024;

/// The programs of one source.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// The source's name.
    pub(super) source: String,
    /// Its target, as people see it.
    pub(super) shown: String,
    /// Where they lie; looked up in PATH when absent.
    pub(super) bin: Option<PathBuf>,
    /// Where they run.
    pub(super) folder: PathBuf,
    /// When they are ended.
    pub(super) timeout: Duration,
    /// What to do when one is missing.
    pub(super) install: &'static str,
}

impl Programs {
    /// The programs of the source that the plan asks for.
    pub(super) fn of(order: &Order<'_>, bin: Option<&str>, install: &'static str) -> Self {
        Self {
            source: order.spec.name.clone(),
            shown: order.spec.target.as_ref().map(ToString::to_string).unwrap_or_default(),
            // Absolute, for they run in another folder than this process.
            bin: bin
                .map(|folder| order.loaded.at(folder))
                .map(|path| std::path::absolute(&path).unwrap_or(path)),
            folder: order.loaded.folder.clone(),
            timeout: order.timeout(),
            install,
        }
    }

    /// The first of these programs that is there; the first name when none is, for the error.
    pub(super) fn find(&self, names: &[&str]) -> PathBuf {
        let first = names.first().copied().unwrap_or_default();
        // Never one from PATH where the plan names a folder.
        let missing = || self.bin.as_ref().map_or_else(|| PathBuf::from(first), |folder| folder.join(first));
        self.installed(names).unwrap_or_else(missing)
    }

    /// The first of these programs that is there.
    pub(super) fn installed(&self, names: &[&str]) -> Option<PathBuf> {
        let folders: Vec<PathBuf> = match &self.bin {
            Some(folder) => vec![folder.clone()],
            None => std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default(),
        };
        names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file())
    }

    /// A command with this environment; secrets go there and never into `argv`.
    pub(super) fn order(&self, argv: Vec<String>, env: Vec<(String, String)>) -> shell::Order {
        let mut order = shell::Order::new(argv, &self.folder);
        order.timeout = self.timeout;
        order.env = env;
        order
    }

    /// Runs it; it must end with 0.
    pub(super) fn run(&self, order: &shell::Order) -> Result<Ran, Fault> {
        let ran = order.run().map_err(|e| self.not_started(order, &e))?;
        self.ended_well(order, &ran)?;
        Ok(ran)
    }

    /// Runs it and writes what it prints into `sink`; it must end with 0. Returns the bytes.
    pub(super) fn stream(&self, order: &shell::Order, sink: &mut (dyn Write + Send)) -> Result<u64, Fault> {
        let (ran, bytes) = order.stream(sink).map_err(|e| self.not_started(order, &e))?;
        self.ended_well(order, &ran)?;
        Ok(bytes)
    }

    /// Runs it with a file of the store as its input; it must end with 0.
    pub(super) fn feed(&self, back: &dyn ReadBack, path: &[u8], order: &shell::Order) -> Result<Ran, Fault> {
        let ran = self.feed_any(back, path, order)?;
        self.ended_well(order, &ran)?;
        Ok(ran)
    }

    /// The same, however it ends.
    pub(super) fn feed_any(
        &self,
        back: &dyn ReadBack,
        path: &[u8],
        order: &shell::Order,
    ) -> Result<Ran, Fault> {
        let mut fault = None;
        let fed = order.feed(&mut |input| {
            let mut pipe = Pipe { input, broken: None };
            let read = back.read(path, &mut pipe);
            match (pipe.broken, read) {
                (Some(broken), _) => Err(broken),
                (None, Err(e)) => {
                    fault = Some(e);
                    Err(io::Error::other("the store could not be read"))
                }
                (None, Ok(())) => Ok(()),
            }
        });
        stop_if_asked()?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        fed.map_err(|e| self.not_started(order, &e))
    }

    /// Refuses every end but 0.
    pub(super) fn ended_well(&self, order: &shell::Order, ran: &Ran) -> Result<(), Fault> {
        stop_if_asked()?;
        if ran.exit == Some(0) {
            return Ok(());
        }
        Err(self
            .fault(format!("{} failed: {}", program_name(order), ran.how()))
            .cause(ran.last_words())
            .help("nothing was kept; look at the cause and run it again"))
    }

    /// An error of this source.
    pub(super) fn fault(&self, what: impl std::fmt::Display) -> Fault {
        Fault::infrastructure(format!("source `{}`: {what}", self.source)).place(&self.shown)
    }

    fn not_started(&self, order: &shell::Order, error: &io::Error) -> Fault {
        let program = order.argv.first().map(String::as_str).unwrap_or_default();
        self.fault(format!("{program} could not be run")).cause(error).help(self.install)
    }
}

/// A text that a database printed in hexadecimal, so that nothing in it could be taken for an answer's own
/// tabs and lines; none when it is none.
pub(super) fn unhex(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

/// The bare name of a command's program.
pub(super) fn program_name(order: &shell::Order) -> String {
    let program = order.argv.first().map(Path::new).and_then(Path::file_name);
    program.unwrap_or_default().to_string_lossy().into_owned()
}

/// Remembers that the command stopped reading, which is not the store's fault.
struct Pipe<'a> {
    input: &'a mut dyn Write,
    broken: Option<io::Error>,
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.broken = Some(e.kind().into());
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

/// Passes everything on and keeps the last [`TAIL`] bytes.
pub(super) struct Tail<W> {
    inner: W,
    kept: Vec<u8>,
}

impl<W: Write> Tail<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, kept: Vec::new() }
    }

    /// The last bytes that were written.
    pub(super) fn last(&self) -> &[u8] {
        &self.kept[self.kept.len().saturating_sub(TAIL)..]
    }
}

impl<W: Write> Write for Tail<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.kept.extend_from_slice(&bytes[..taken]);
        // Cut now and then, not at every write.
        if self.kept.len() > 4 * TAIL {
            self.kept.drain(..self.kept.len() - TAIL);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_were_meant() {
        assert_eq!(unhex("").as_deref(), Some(""));
        assert_eq!(unhex("6109C3a90A").as_deref(), Some("a\t\u{e9}\n"));
        for wrong in ["6", "6G", "+1", "FF"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_tail_is_the_end_and_everything_is_passed_on() {
        let mut all = Vec::new();
        let mut tail = Tail::new(&mut all);
        let written: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in written.chunks(7_001) {
            tail.write_all(piece).unwrap();
        }
        assert_eq!(tail.last(), &written[written.len() - TAIL..]);
        assert_eq!(all, written);
        let mut short = Tail::new(Vec::new());
        short.write_all(b"abc").unwrap();
        assert_eq!(short.last(), b"abc");
    }
}
