//! An RDB file while it passes by: header, end and checksum, without what redis-cli adds to it.

use std::io::{self, Write};

use crc::{CRC_64_REDIS, Crc, Digest, Table};

/// The checksum at the end of an RDB file, which the server leaves at 0 with `rdbchecksum no`.
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// The length of the checksum.
const SUM: usize = 8;
/// A server that writes to its replicas without a file ends the stream with 40 hexadecimal digits, and
/// redis-cli up to version 7 prints them when it writes to a pipe.
const MARK: usize = 40;
/// The last thing before the checksum.
const END: u8 = 0xFF;

/// Passes an RDB file on, all but the last bytes, until [`Rdb::finish`] knows what they are.
pub(super) struct Rdb<'a, W: ?Sized> {
    out: &'a mut W,
    digest: Digest<'static, u64, Table<16>>,
    head: Vec<u8>,
    held: Vec<u8>,
    last: u8,
}

impl<'a, W: Write + ?Sized> Rdb<'a, W> {
    pub(super) fn new(out: &'a mut W) -> Self {
        Self { out, digest: CRC.digest(), head: Vec::new(), held: Vec::new(), last: 0 }
    }

    /// Ends the file. Returns whether it has a checksum, which then is right.
    ///
    /// Errors: half a sentence on what is wrong with it.
    pub(super) fn finish(mut self) -> Result<bool, String> {
        if !(self.head.starts_with(b"REDIS") || self.head.starts_with(b"VALKEY")) {
            return Err("it does not begin as an RDB file does".into());
        }
        let mut held = std::mem::take(&mut self.held);
        let summed = if let Some(summed) = self.sum_at(&held, held.len().checked_sub(SUM)) {
            summed
        } else {
            let short = held.len().checked_sub(MARK);
            let marked = short.filter(|at| held[*at..].iter().all(u8::is_ascii_hexdigit));
            let summed = self.sum_at(&held, marked.and_then(|at| at.checked_sub(SUM)));
            held.truncate(marked.unwrap_or_default());
            summed.ok_or("its end and checksum are not there")?
        };
        self.out.write_all(&held).and_then(|()| self.out.flush()).map_err(|e| e.to_string())?;
        Ok(summed)
    }

    /// Whether the checksum of what is before it stands at this place of the held bytes (true), or eight
    /// zeros do after the end (false).
    fn sum_at(&self, held: &[u8], at: Option<usize>) -> Option<bool> {
        let (before, rest) = held.split_at(at?);
        let found = u64::from_le_bytes(rest.get(..SUM)?.try_into().ok()?);
        if before.last().copied().unwrap_or(self.last) != END {
            return None;
        }
        let mut digest = self.digest.clone();
        digest.update(before);
        match found {
            0 => Some(false),
            sum => (sum == digest.finalize()).then_some(true),
        }
    }
}

impl<W: Write + ?Sized> Write for Rdb<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = bytes.len().min(6_usize.saturating_sub(self.head.len()));
        self.head.extend_from_slice(&bytes[..room]);
        self.held.extend_from_slice(bytes);
        let done = self.held.len().saturating_sub(SUM + MARK);
        if done > 0 {
            self.out.write_all(&self.held[..done])?;
            self.digest.update(&self.held[..done]);
            self.last = self.held[done - 1];
            self.held.drain(..done);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(body: &[u8]) -> Vec<u8> {
        let mut bytes = b"REDIS0010".to_vec();
        bytes.extend_from_slice(body);
        bytes.push(END);
        bytes.extend_from_slice(&CRC.checksum(&bytes).to_le_bytes());
        bytes
    }

    fn passed(bytes: &[u8], size: usize) -> (Result<bool, String>, Vec<u8>) {
        let mut out = Vec::new();
        let mut rdb = Rdb::new(&mut out);
        for piece in bytes.chunks(size) {
            rdb.write_all(piece).unwrap();
        }
        (rdb.finish(), out)
    }

    #[test]
    fn the_checksum_is_that_of_redis() {
        // From the source of Redis: crc64.c.
        assert_eq!(CRC.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_whole_file_passes_and_the_mark_of_the_stream_does_not() {
        let mark = b"4e93902a2820cb26d950542c03f8c693589dae90";
        for body in [&b""[..], b"some data", &[0xFF; 100]] {
            let file = file(body);
            for size in [1, 7, 48, 1000] {
                assert_eq!(passed(&file, size), (Ok(true), file.clone()));
                assert_eq!(passed(&[&file[..], mark].concat(), size), (Ok(true), file.clone()));
            }
        }
    }

    #[test]
    fn a_file_without_checksums_still_has_to_end() {
        let mut bytes = file(b"some data");
        let end = bytes.len() - SUM;
        bytes[end..].fill(0);
        assert_eq!(passed(&bytes, 9).0, Ok(false));
        assert!(passed(&bytes[..bytes.len() - 1], 9).0.is_err());
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let whole = file(b"some data of some length, longer than the mark of a stream is");
        for cut in 0..whole.len() {
            assert!(passed(&whole[..cut], 11).0.is_err(), "{cut}");
        }
        for at in 0..whole.len() - SUM {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(passed(&changed, 11).0.is_err(), "{at}");
        }
    }
}
