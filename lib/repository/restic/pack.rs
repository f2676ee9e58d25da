//! Packs: many encrypted blobs in one file, and behind them the list of what is inside.
//!
//! `blob … || encrypted header || length of the encrypted header (4 bytes, little endian)`. A header is
//! a row of entries: type (1 byte), length of the encrypted blob (4), for compressed ones the plain
//! length (4), and the blob's id (32).

use super::crypto::OVERHEAD;
use super::id::Id;

/// [`OVERHEAD`], as lengths are counted here.
const SEALING: u32 = 32;
const _: () = assert!(SEALING as usize == OVERHEAD);
/// A pack is written when it has at least this many bytes.
pub(super) const TARGET: usize = 16 * 1024 * 1024;
/// The longest blob that is believed, in bytes: eight times the longest that restic or we cut.
pub(super) const MAX_BLOB: u32 = 64 * 1024 * 1024;
/// The longest tree that is believed, in bytes.
pub(super) const MAX_TREE: u32 = 512 * 1024 * 1024;
/// No pack is longer than this.
pub(super) const MAX_PACK: u64 = 1 << 30;
/// The longest header that is believed, in bytes.
const MAX_HEADER: u64 = 64 * 1024 * 1024;

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A folder.
    Tree,
}

impl BlobKind {
    /// restic's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tree => "tree",
        }
    }

    pub(super) fn most(self) -> u32 {
        match self {
            Self::Data => MAX_BLOB,
            Self::Tree => MAX_TREE,
        }
    }
}

/// One blob in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is.
    pub kind: BlobKind,
    /// The SHA-256 of its plain bytes.
    pub id: Id,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Its length in the pack, encrypted.
    pub length: u32,
    /// Its plain length when it is compressed, else 0.
    pub uncompressed: u32,
}

impl Blob {
    /// Its plain length in bytes.
    pub fn plain_length(&self) -> u32 {
        // A length below the overhead was refused when the blob was read.
        if self.uncompressed == 0 { self.length.saturating_sub(SEALING) } else { self.uncompressed }
    }

    /// Whether its lengths make sense.
    pub(super) fn sane(&self) -> Result<(), String> {
        let most = self.kind.most();
        if (self.length as usize) < OVERHEAD || self.length > most {
            return Err(format!("the blob {} has the length {}", self.id.short(), self.length));
        }
        if self.uncompressed > most {
            return Err(format!("the blob {} has the plain length {}", self.id.short(), self.uncompressed));
        }
        if self.offset.checked_add(self.length).is_none() {
            return Err(format!("the blob {} begins at {}", self.id.short(), self.offset));
        }
        Ok(())
    }

    fn entry_length(&self) -> usize {
        if self.uncompressed == 0 { 37 } else { 41 }
    }
}

/// The plain bytes of a pack's header.
pub(super) fn header(blobs: &[Blob]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blobs.len() * 41);
    for blob in blobs {
        let kind = u8::from(blob.kind == BlobKind::Tree);
        bytes.push(if blob.uncompressed == 0 { kind } else { kind | 2 });
        bytes.extend_from_slice(&blob.length.to_le_bytes());
        if blob.uncompressed != 0 {
            bytes.extend_from_slice(&blob.uncompressed.to_le_bytes());
        }
        bytes.extend_from_slice(&blob.id.0);
    }
    bytes
}

/// Reads the plain bytes of a header.
///
/// Errors: why it is none.
pub(super) fn parse_header(mut bytes: &[u8]) -> Result<Vec<Blob>, String> {
    let mut blobs = Vec::with_capacity(bytes.len() / 37);
    let mut offset: u32 = 0;
    while let Some((kind, rest)) = bytes.split_first() {
        bytes = rest;
        let mut number = || -> Result<u32, String> {
            let (number, rest) = bytes.split_first_chunk::<4>().ok_or("its header is cut off")?;
            bytes = rest;
            Ok(u32::from_le_bytes(*number))
        };
        if *kind > 3 {
            return Err(format!("its header has a blob of the unknown type {kind}"));
        }
        let length = number()?;
        let uncompressed = if *kind & 2 == 0 { 0 } else { number()? };
        if *kind & 2 != 0 && uncompressed == 0 {
            return Err("its header has a compressed blob of no length".into());
        }
        let (id, rest) = bytes.split_first_chunk::<32>().ok_or("its header is cut off")?;
        bytes = rest;
        let kind = if *kind & 1 == 0 { BlobKind::Data } else { BlobKind::Tree };
        let blob = Blob { kind, id: Id(*id), offset, length, uncompressed };
        blob.sane()?;
        offset += length;
        blobs.push(blob);
    }
    Ok(blobs)
}

/// The length of a whole pack with these blobs, in bytes.
pub(super) fn whole_length(blobs: &[Blob]) -> u64 {
    let entries: usize = blobs.iter().map(Blob::entry_length).sum();
    let content: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
    content + (entries + OVERHEAD + 4) as u64
}

/// Where the encrypted header lies in a pack of `length` bytes that ends with these four:
/// offset and length.
///
/// Errors: why there is none.
pub(super) fn header_place(length: u64, last: [u8; 4]) -> Result<(u64, usize), String> {
    let header = u64::from(u32::from_le_bytes(last));
    if header < OVERHEAD as u64 || header > MAX_HEADER || header + 4 > length {
        return Err(format!("its header of {header} bytes does not fit into {length}"));
    }
    let bytes = usize::try_from(header).map_err(|e| e.to_string())?;
    Ok((length - 4 - header, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Blob> {
        vec![
            Blob { kind: BlobKind::Data, id: Id::of(b"a"), offset: 0, length: 40, uncompressed: 0 },
            Blob { kind: BlobKind::Tree, id: Id::of(b"b"), offset: 40, length: 50, uncompressed: 900 },
        ]
    }

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let bytes = header(&some());
        assert_eq!(bytes.len(), 37 + 41);
        assert_eq!((bytes[0], bytes[37]), (0, 3));
        assert_eq!(parse_header(&bytes).unwrap(), some());
        assert_eq!(whole_length(&some()), 90 + 78 + 32 + 4);
        assert_eq!(some()[0].plain_length(), 8);
    }

    #[test]
    fn no_header_makes_the_reader_believe_nonsense() {
        let bytes = header(&some());
        for cut in (1..bytes.len()).filter(|cut| *cut != 37) {
            assert!(parse_header(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut wrong = bytes.clone();
        wrong[0] = 4;
        assert!(parse_header(&wrong).unwrap_err().contains("unknown type 4"));
        let mut nothing = bytes.clone();
        nothing[42..46].fill(0);
        assert!(parse_header(&nothing).unwrap_err().contains("no length"));
        let mut long = bytes;
        long[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(parse_header(&long).is_err());
        for (length, last) in [(100, 97_u32), (100, 31), (100, u32::MAX), (3, 32)] {
            assert!(header_place(length, last.to_le_bytes()).is_err(), "{length} {last}");
        }
        assert_eq!(header_place(100, 96_u32.to_le_bytes()), Ok((0, 96)));
    }
}
