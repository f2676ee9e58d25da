//! The samples behind the judgements: on record before the state is, and kept beside the evidence.
//!
//! One line for each look, in JSON, in parts that are compressed with gzip. Parts one after another are
//! a gzip file again, so that `zcat` reads them. A look is on record with the next part; a job that is
//! killed loses what came in since the last one, and no verdict that counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::front::Front;
use super::record::Record;
use crate::evidence::{SamplesRecord, sha256_hex};
use crate::fault::Fault;
use crate::judge::Batch;
use crate::routers::Counters;
use crate::state::{Lease, Store};

/// The file in the evidence folder.
pub(super) const FILE: &str = "promote.samples.jsonl.gz";

/// How long looks wait for their part while nothing else is put on record.
const AT_THE_LATEST: Duration = Duration::from_secs(60);

/// The greatest size that is read, unpacked.
const MOST: u64 = 4 * 1024 * 1024 * 1024;

/// No look is longer, unpacked.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// One look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    /// The step, from 1.
    pub(super) step: usize,
    /// Which counting: it begins anew with each change of weight.
    pub(super) counting: u64,
    /// When it began, in ms since 1970.
    pub(super) since_ms: i64,
    /// How long the bake was to last, in ms.
    pub(super) bake_ms: i64,
    /// The length of a bin of requests, in ms.
    pub(super) bin_ms: i64,
    /// What the router had counted at this look, where it counts: the next one goes on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) counted: Option<Counters>,
    /// What requests through the front door met, and what the router counted of users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) front: Option<Front>,
    /// What was seen.
    #[serde(flatten)]
    pub(super) batch: Batch,
}

/// Looks that are not on record yet.
#[derive(Debug)]
pub(super) struct Log {
    lines: Vec<u8>,
    part: u32,
    since: Instant,
    /// Why a look could not be put on record at all.
    lost: Option<String>,
}

impl Log {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), part: 0, since: Instant::now(), lost: None }
    }

    /// Takes a look in.
    pub(super) fn add(&mut self, line: &Line) {
        if self.lines.is_empty() {
            self.since = Instant::now();
        }
        match serde_json::to_vec(line) {
            Ok(text) => {
                self.lines.extend(text);
                self.lines.push(b'\n');
            }
            Err(why) => self.lost = Some(why.to_string()),
        }
    }

    /// Whether looks have waited for long.
    pub(super) fn overdue(&self) -> bool {
        !self.lines.is_empty() && self.since.elapsed() >= AT_THE_LATEST
    }

    /// Puts what has come in on record. What could not be written stays, for the next time.
    pub(super) fn flush(&mut self, lease: &Lease, of: &Of) -> Result<(), Fault> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let name = format!("{}{:08}.{:06}.jsonl.gz", of.beginning(), lease.fence(), self.part);
        lease.store().keep(&name, &pack(&self.lines)?)?;
        self.lines.clear();
        self.part += 1;
        Ok(())
    }

    /// The file for the evidence folder, and what goes on record about it; nothing where nobody has
    /// looked.
    pub(super) fn for_evidence(
        &self,
        store: &Store,
        of: &Of,
    ) -> Result<Option<(Vec<u8>, SamplesRecord)>, Fault> {
        let mut incomplete = self.lost.clone();
        let mut bytes = match parts(store, of) {
            Ok(parts) => parts,
            Err(fault) => {
                incomplete = Some(fault.line());
                Vec::new()
            }
        };
        if !self.lines.is_empty() {
            bytes.extend(pack(&self.lines)?);
        }
        if bytes.is_empty() && incomplete.is_none() {
            return Ok(None);
        }
        let mut looks = 0;
        for_each_line(&bytes, |_| {
            looks += 1;
            Ok(())
        })
        .map_err(|why| damaged(store, &why))?;
        let record = SamplesRecord { file: FILE.into(), sha256: sha256_hex(&bytes), looks, incomplete };
        Ok(Some((bytes, record)))
    }
}

/// The looks of one counting that are on record.
///
/// Errors (4): they cannot be read, or are damaged.
pub(super) fn of_counting(store: &Store, of: &Of, counting: u64) -> Result<Vec<Line>, Fault> {
    let mut lines = Vec::new();
    for_each_line(&parts(store, of)?, |line| {
        if line.counting == counting {
            lines.push(line);
        }
        Ok(())
    })
    .map_err(|why| damaged(store, &why))?;
    Ok(lines)
}

/// Hands over each look of a packed file.
///
/// Errors: in words; it is no gzip, too large, or a line is no look.
pub(super) fn for_each_line(
    bytes: &[u8],
    mut take: impl FnMut(Line) -> Result<(), String>,
) -> Result<(), String> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut reader = BufReader::new(MultiGzDecoder::new(bytes).take(MOST));
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        // A few bytes unpack to gigabytes.
        let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        match read.map_err(|e| format!("it cannot be unpacked: {e}"))? as u64 {
            0 => break,
            LONGEST_LINE => return Err(format!("line {number} is longer than 64 MiB")),
            _ => take(serde_json::from_slice(&line).map_err(|e| format!("line {number}: {e}"))?)?,
        }
    }
    Ok(())
}

/// Removes the looks of every other promotion.
pub(super) fn forget_others(store: &Store, of: &Of) -> Result<(), Fault> {
    let own = of.beginning();
    for name in store.names("samples.")? {
        if !name.starts_with(&own) {
            store.remove(&name)?;
        }
    }
    Ok(())
}

/// Which promotion looks are of.
#[derive(Clone, Debug)]
pub(super) struct Of {
    epoch: u64,
    /// Numbers begin anew where the state was lost, and what was left behind judges nothing.
    id: Option<String>,
}

impl Of {
    /// Those of a record's promotion.
    pub(super) fn record(record: &Record) -> Self {
        Self { epoch: record.promotion.epoch, id: record.id.clone() }
    }

    fn beginning(&self) -> String {
        match &self.id {
            Some(id) => format!("samples.{:08}.{id}.", self.epoch),
            None => format!("samples.{:08}.", self.epoch),
        }
    }
}

fn parts(store: &Store, of: &Of) -> Result<Vec<u8>, Fault> {
    Ok(store.kept(&of.beginning())?.into_iter().flat_map(|(_, bytes)| bytes).collect())
}

fn damaged(store: &Store, why: &str) -> Fault {
    Fault::infrastructure("the samples of this promotion are damaged")
        .place(store.shown())
        .cause(why)
        .help("the step is judged by what comes in from now on; the files are `samples.…`")
}

fn pack(lines: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(lines)
        .and_then(|()| encoder.finish())
        .map_err(|e| Fault::infrastructure("the samples cannot be packed").cause(e))
}
