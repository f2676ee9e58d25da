//! What can be told of an SQL dump while it passes by.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use regex::bytes::Regex;
use serde_json::{Value, json};

use crate::sources::programs::Tail;

/// The last thing that mysqldump and mariadb-dump write.
const END: &[u8] = b"\n-- Dump completed";
const TABLE: &[u8] = b"-- Table structure for table `";
/// How much of the beginning is looked through for the position in the binary log.
const HEAD: usize = 64 * 1024;
/// Names have up to 64 characters of up to 4 bytes, doubled where they are quotes.
const LONGEST_LINE: usize = 1024;

/// Passes a dump on and watches it.
pub(super) struct Watch<'a> {
    tail: Tail<&'a mut (dyn Write + Send)>,
    head: Vec<u8>,
    before: Vec<u8>,
    first_table: Option<Box<dyn FnOnce() + Send>>,
    late: Arc<AtomicBool>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(sink: &'a mut (dyn Write + Send)) -> Self {
        Self {
            tail: Tail::new(sink),
            head: Vec::new(),
            before: Vec::new(),
            first_table: None,
            late: Arc::default(),
        }
    }

    /// What is to be done when the first table comes: by then the dump's transaction is open. When it was
    /// `late` nothing more is taken.
    pub(super) fn on_first_table(&mut self, act: Box<dyn FnOnce() + Send>, late: Arc<AtomicBool>) {
        self.first_table = Some(act);
        self.late = late;
    }

    /// Drops what was to be done.
    pub(super) fn forget(&mut self) {
        self.first_table = None;
    }

    /// Whether the end is the end of a dump.
    pub(super) fn complete(&self) -> Result<(), String> {
        complete(self.tail.last())
    }

    /// The position in the binary log, where the dump has it.
    pub(super) fn position(&self) -> Value {
        static PLACE: LazyLock<Option<Regex>> = LazyLock::new(|| {
            Regex::new(r"(?:MASTER|SOURCE)_LOG_FILE='([^']+)', *(?:MASTER|SOURCE)_LOG_POS=(\d+)").ok()
        });
        static GTID: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"gtid_slave_pos\s*=\s*'([^']*)'").ok());
        let find = |pattern: &Option<Regex>, group: usize| {
            let pattern = pattern.as_ref()?;
            let found = pattern.captures(&self.head).or_else(|| pattern.captures(self.tail.last()))?;
            Some(String::from_utf8_lossy(found.get(group)?.as_bytes()).into_owned())
        };
        match (find(&PLACE, 1), find(&PLACE, 2).and_then(|n| n.parse::<u64>().ok())) {
            (Some(file), Some(position)) => {
                json!({ "file": file, "position": position, "gtid": find(&GTID, 1) })
            }
            _ => Value::Null,
        }
    }
}

impl Write for Watch<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.late.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let taken = self.tail.write(bytes)?;
        let bytes = &bytes[..taken];
        self.head.extend_from_slice(&bytes[..taken.min(HEAD - self.head.len())]);
        if self.first_table.is_some() {
            self.before.extend_from_slice(bytes);
            if memchr::memmem::find(&self.before, TABLE).is_some()
                && let Some(act) = self.first_table.take()
            {
                act();
            }
            self.before.drain(..self.before.len().saturating_sub(TABLE.len()));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tail.flush()
    }
}

/// Looks through a dump that is read back.
#[derive(Default)]
pub(super) struct Seen {
    /// The tables in it, as they are quoted.
    pub(super) tables: Vec<String>,
    line: Vec<u8>,
    last: Vec<u8>,
}

impl Seen {
    /// Whether a table is in it.
    pub(super) fn has(&self, table: &str) -> bool {
        let name = table.replace('`', "``");
        self.tables.iter().any(|known| known.eq_ignore_ascii_case(&name))
    }

    /// Whether the end is the end of a dump.
    pub(super) fn complete(&self) -> Result<(), String> {
        complete(&self.last)
    }

    fn end_line(&mut self) {
        if let Some(name) = self.line.strip_prefix(TABLE).and_then(|rest| rest.strip_suffix(b"`")) {
            self.tables.push(String::from_utf8_lossy(name).into_owned());
        }
        self.line.clear();
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            self.add(&rest[..at]);
            self.end_line();
            rest = &rest[at + 1..];
        }
        self.add(rest);
        let keep = 4096;
        self.last.extend_from_slice(&bytes[bytes.len().saturating_sub(keep)..]);
        self.last.drain(..self.last.len().saturating_sub(keep));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seen {
    fn add(&mut self, piece: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len()).min(piece.len());
        self.line.extend_from_slice(&piece[..room]);
    }
}

fn complete(last: &[u8]) -> Result<(), String> {
    let Some(at) = memchr::memmem::rfind(last, END) else {
        return Err("it does not end with `-- Dump completed`".into());
    };
    // Nothing but the rest of that line may follow; a text in a row is followed by more.
    let rest = &last[at + 1..];
    let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    if rest[line..].iter().all(u8::is_ascii_whitespace) {
        Ok(())
    } else {
        Err("something follows `-- Dump completed`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const DUMPED: &[u8] = b"-- head\n-- CHANGE MASTER TO MASTER_LOG_FILE='bl.000001', MASTER_LOG_POS=1312;\n\
        -- Table structure for table `or``ders`\nINSERT 1;\n-- Table structure for table `b`\n\
        -- SET GLOBAL gtid_slave_pos='0-1-6';\n\n-- Dump completed\n";

    #[test]
    fn a_dump_is_watched_in_pieces_of_any_size() {
        for size in [1, 7, 29, 4096] {
            let (mut out, acted) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
            let mut watch = Watch::new(&mut out);
            let act = Arc::clone(&acted);
            watch.on_first_table(
                Box::new(move || {
                    act.fetch_add(1, Ordering::SeqCst);
                }),
                Arc::default(),
            );
            let mut seen = Seen::default();
            for piece in DUMPED.chunks(size) {
                watch.write_all(piece).unwrap();
                seen.write_all(piece).unwrap();
            }
            assert_eq!(watch.complete(), Ok(()));
            assert_eq!(watch.position(), json!({"file": "bl.000001", "position": 1312, "gtid": "0-1-6"}));
            assert_eq!(acted.load(Ordering::SeqCst), 1);
            assert_eq!(out, DUMPED);
            assert!(
                seen.complete().is_ok() && seen.has("or`ders") && seen.has("B") && !seen.has("c"),
                "{size}"
            );
        }
    }

    #[test]
    fn a_cut_dump_is_not_complete() {
        for cut in 1..18 {
            assert!(complete(&DUMPED[..DUMPED.len() - cut - 1]).is_err(), "{cut}");
        }
        assert!(complete(b"INSERT '\n-- Dump completed\n more').").is_err());
        assert!(complete(b"\n-- Dump completed on 2026-01-02  3:04:05\n").is_ok());
        assert!(complete(b"").is_err());
    }
}
