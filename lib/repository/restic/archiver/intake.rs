//! Bytes of one file on their way into pieces.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::crew::{Content, Crew, Job, interrupted};
use super::cutter::{Cutter, MAX};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::repository::restic::pack::BlobKind;
use crate::repository::restic::store::Scratch;
use crate::world::signal;

/// Bytes of one file on their way into pieces.
pub(super) struct Intake<'a, 'b> {
    crew: &'a Crew<'b>,
    job: Arc<Job>,
    pub(super) cutter: Cutter,
    whole: Option<Sha256>,
    pub(super) size: u64,
}

impl<'a, 'b> Intake<'a, 'b> {
    pub(super) fn new(crew: &'a Crew<'b>, job: Arc<Job>) -> Self {
        let whole = crew.digests.then(Sha256::new);
        Self { crew, job, cutter: Cutter::new(crew.seed), whole, size: 0 }
    }

    /// Takes in bytes that come from elsewhere.
    pub(super) fn push(&mut self, mut bytes: &[u8], scratch: &mut Scratch) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let room = self.cutter.room();
            let fits = room.len().min(bytes.len());
            room[..fits].copy_from_slice(&bytes[..fits]);
            self.took(fits, scratch)?;
            bytes = &bytes[fits..];
        }
        Ok(())
    }

    /// That many bytes lie in the cutter's room.
    pub(super) fn took(&mut self, bytes: usize, scratch: &mut Scratch) -> Result<(), Fault> {
        self.cutter.filled(bytes);
        self.size += bytes as u64;
        self.crew.progress.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(whole) = &mut self.whole {
            whole.update(self.cutter.newest(bytes));
        }
        while let Some(piece) = self.cutter.next(false) {
            self.crew.offer(&self.job, piece, scratch)?;
        }
        Ok(())
    }

    /// That many zeros come, which nobody has to read. A piece of nothing but zeros is stored once and
    /// then only named.
    pub(super) fn zeros(&mut self, length: u64, scratch: &mut Scratch) -> Result<(), Fault> {
        let mut left = length;
        let mut known = None;
        while left > 0 && !self.crew.has_failed() {
            if signal::stop_asked() {
                return Err(interrupted());
            }
            // The last ones go the usual way: where they end up depends on what comes after them.
            if left > 3 * MAX as u64
                && let Some(rest) = self.cutter.drop_zeros()
            {
                let piece = Cutter::of_zeros(self.crew.seed);
                let many = (left + rest as u64 - MAX as u64) / piece as u64;
                let zeros = vec![0; piece];
                for _ in 0..many {
                    let at = self.job.expect_piece();
                    let id = match known {
                        Some(id) => id,
                        None => *known.insert(self.crew.packer.save(BlobKind::Data, &zeros, scratch)?),
                    };
                    self.job.piece(at, id);
                }
                let named = many * piece as u64 - rest as u64;
                self.name_zeros(&zeros, named)?;
                left -= named;
            }
            let some = left.min(1 << 20);
            self.feed_zeros(some, scratch)?;
            left -= some;
        }
        Ok(())
    }

    fn feed_zeros(&mut self, length: u64, scratch: &mut Scratch) -> Result<(), Fault> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        while left > 0 {
            let room = self.cutter.room();
            let fits = room.len().min(left);
            room[..fits].fill(0);
            self.took(fits, scratch)?;
            left -= fits;
        }
        Ok(())
    }

    /// Zeros that the cutter does not see.
    fn name_zeros(&mut self, zeros: &[u8], length: u64) -> Result<(), Fault> {
        self.size += length;
        let mut left = length;
        while left > 0 {
            if signal::stop_asked() {
                return Err(interrupted());
            }
            let some = left.min(zeros.len() as u64);
            if let Some(whole) = &mut self.whole {
                whole.update(&zeros[..usize::try_from(some).unwrap_or_default()]);
            }
            self.crew.progress.bytes.fetch_add(some, Ordering::Relaxed);
            left -= some;
        }
        Ok(())
    }

    /// All bytes are in.
    pub(super) fn end(mut self, changed: bool, scratch: &mut Scratch) -> Result<(), Fault> {
        while let Some(piece) = self.cutter.next(true) {
            self.crew.offer(&self.job, piece, scratch)?;
        }
        let sha256 = self.whole.map(|whole| Id(whole.finalize().into()));
        self.job.end(Content { pieces: Vec::new(), size: self.size, sha256, changed });
        Ok(())
    }
}
