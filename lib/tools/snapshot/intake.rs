//! What stands between the sources and the repository: neither shelf knows the other.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::Fault;
use crate::repository::restic::{Archive, NodeKind, Sealed, Take};
use crate::sources::{Choice, Keep, Kept, Pour, ReadBack, Terms, Wanted};
use crate::world::signal;

/// Puts what one source gives into its folder in the archive.
pub(super) struct Intake<'a> {
    pub(super) archive: &'a mut Archive,
    /// The source's name, and its folder in the snapshot.
    pub(super) name: &'a str,
    /// Whether what cannot be read is only noted.
    pub(super) allow_partial: bool,
}

impl Intake<'_> {
    fn at(&self, path: &[u8]) -> PathBuf {
        let at = PathBuf::from(self.name);
        if path.is_empty() { at } else { at.join(OsStr::from_bytes(path)) }
    }
}

impl Keep for Intake<'_> {
    fn file(&mut self, path: &[u8], pour: Pour<'_>) -> Result<(), Fault> {
        let at = self.at(path);
        self.archive.stream(&at, &mut |sink| {
            let poured = pour(&mut Stoppable(sink));
            // Stopping breaks the pipe of a command, which would look like the command's fault.
            if signal::stop_asked() { Err(interrupted()) } else { poured }
        })?;
        Ok(())
    }

    fn tree(&mut self, path: &[u8], from: &Path, choice: &Choice<'_>, terms: Terms) -> Result<Kept, Fault> {
        let (entries, sockets) = (AtomicU64::new(0), AtomicU64::new(0));
        let filter = |inside: &Path, kind: NodeKind| {
            let take = match choice(inside, kind == NodeKind::Dir) {
                Wanted::Yes => Take::Yes,
                Wanted::No => Take::No,
                Wanted::IfUsed => Take::IfUsed,
            };
            // Only of folders it is asked more than once.
            match kind {
                _ if take == Take::No => {}
                NodeKind::Dir => {}
                NodeKind::Socket => drop(sockets.fetch_add(1, Ordering::Relaxed)),
                _ => drop(entries.fetch_add(1, Ordering::Relaxed)),
            }
            take
        };
        self.archive.terms(terms.allow_changes, self.allow_partial, Some(terms.until));
        let at = self.at(path);
        self.archive
            .folder(&at, from, &filter)
            .map_err(|fault| Fault { what: format!("source `{}`: {}", self.name, fault.what), ..fault })?;
        Ok(Kept { entries: entries.into_inner(), sockets: sockets.into_inner() })
    }
}

/// Refuses more bytes once somebody asked to stop.
struct Stoppable<'a>(&'a mut (dyn Write + Send));

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if signal::stop_asked() {
            return Err(io::Error::other("asked to stop"));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads files of one source back from the repository for its own proof.
pub(super) struct Back<'a> {
    pub(super) name: &'a str,
    pub(super) sealed: &'a Sealed,
}

impl ReadBack for Back<'_> {
    fn read(&self, path: &[u8], out: &mut dyn Write) -> Result<(), Fault> {
        let at = Path::new(self.name).join(OsStr::from_bytes(path));
        self.sealed.dump(&at, out).map(drop)
    }
}

/// The error when we were asked to stop.
pub(super) fn interrupted() -> Fault {
    Fault::infrastructure("the snapshot was interrupted")
        .cause("a signal asked to stop")
        .help("nothing was kept; run it again")
}
