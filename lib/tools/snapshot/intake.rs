//! What stands between the sources and the store: neither shelf knows the other.

use std::io::{self, Write};
use std::path::Path;

use crate::fault::Fault;
use crate::repository::{Entry, FileWriter, Name, Part, Reader, What, Writer};
use crate::sources::{Keep, Meta, Pour, ReadBack};
use crate::world::{files, signal};

/// Puts what a source gives into the store and remembers it for the manifest.
pub(super) struct Intake<'a> {
    writer: &'a mut dyn Writer,
    store: &'a str,
    seen: &'a mut (dyn FnMut(u64) + Send),
    bytes: u64,
    pub(super) entries: Vec<Entry>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(
        writer: &'a mut dyn Writer,
        store: &'a str,
        seen: &'a mut (dyn FnMut(u64) + Send),
    ) -> Self {
        Self { writer, store, seen, bytes: 0, entries: Vec::new() }
    }
}

fn entry(path: &[u8], meta: Meta, what: What) -> Entry {
    Entry { path: Name(path.to_vec()), mode: meta.mode, mtime: meta.mtime, what }
}

impl Keep for Intake<'_> {
    fn folder(&mut self, path: &[u8], meta: Meta) -> Result<(), Fault> {
        self.entries.push(entry(path, meta, What::Folder {}));
        Ok(())
    }

    fn link(&mut self, path: &[u8], to: &[u8], meta: Meta) -> Result<(), Fault> {
        self.entries.push(entry(path, meta, What::Link { to: Name(to.to_vec()) }));
        Ok(())
    }

    fn file(&mut self, path: &[u8], meta: Meta, pour: Pour<'_>) -> Result<(), Fault> {
        let mut sink =
            Sink { file: self.writer.file()?, seen: &mut *self.seen, bytes: &mut self.bytes, failed: None };
        let poured = pour(&mut sink);
        // A full disk ends the command that writes; the disk is what to tell.
        if let Some(error) = sink.failed {
            return Err(files::unwritable(Path::new(self.store), &error));
        }
        // Stopping breaks the pipe of a command, which would look like the command's fault.
        if signal::stop_asked() {
            return Err(interrupted());
        }
        poured?;
        let content = sink.file.finish()?;
        self.entries.push(entry(path, meta, What::File(content)));
        Ok(())
    }
}

struct Sink<'a> {
    file: Box<dyn FileWriter + 'a>,
    seen: &'a mut (dyn FnMut(u64) + Send),
    bytes: &'a mut u64,
    failed: Option<io::Error>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if signal::stop_asked() {
            return Err(io::Error::other("asked to stop"));
        }
        match self.file.write(bytes) {
            Ok(taken) => {
                let before = *self.bytes;
                *self.bytes += taken as u64;
                // Once a mebibyte is often enough for eyes.
                if before >> 20 != *self.bytes >> 20 {
                    (self.seen)(*self.bytes);
                }
                Ok(taken)
            }
            Err(e) => {
                let again = io::Error::from(e.kind());
                self.failed = Some(e);
                Err(again)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads files of one source back for its own proof.
pub(super) struct Back<'a> {
    pub(super) part: &'a Part,
    pub(super) reader: &'a dyn Reader,
}

impl ReadBack for Back<'_> {
    fn read(&self, path: &[u8], out: &mut dyn Write) -> Result<(), Fault> {
        let found = self.part.contents().find(|(entry, _)| entry.path.0 == path);
        let (_, content) = found.ok_or_else(|| {
            Fault::infrastructure(format!("the snapshot has no {}/{}", self.part.name, Name(path.to_vec())))
        })?;
        self.reader.read(content, out)
    }
}

/// Counts what is read back; comparing is the reader's work.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) size: u64,
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if signal::stop_asked() {
            return Err(io::Error::other("asked to stop"));
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error when we were asked to stop.
pub(super) fn interrupted() -> Fault {
    Fault::infrastructure("the snapshot was interrupted")
        .cause("a signal asked to stop")
        .help("nothing was kept; run it again")
}
