//! What is done to bytes before they are encrypted: zstd, and the byte that says so.

use std::cell::RefCell;
use std::io::Read;

use zstd::bulk::{Compressor, Decompressor};

/// Compression level of everything that is written.
const LEVEL: i32 = 3;
/// Longer plain bytes are tried in three places of this length before all of them are compressed.
const SAMPLE: usize = 8 * 1024;
/// The first byte of compressed JSON in a repository of version 2.
const COMPRESSED: u8 = 2;

thread_local! {
    static TASTER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Puts compressed bytes into `into`, in place of what was there.
pub(super) fn compress(plain: &[u8], into: &mut Vec<u8>) -> std::io::Result<()> {
    into.clear();
    into.reserve(zstd::zstd_safe::compress_bound(plain.len()));
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(LEVEL)?),
        };
        compressor.compress_to_buffer(plain, into).map(drop)
    })
}

/// Whether compression is worth its time: what was compressed before (pictures, archives) does not
/// become smaller at the beginning, in the middle or at the end.
pub(super) fn is_worth_it(plain: &[u8], scratch: &mut Vec<u8>) -> std::io::Result<bool> {
    if plain.len() < 16 * SAMPLE {
        return Ok(true);
    }
    TASTER.with_borrow_mut(|slot| {
        let taster = match slot {
            Some(taster) => taster,
            None => slot.insert(Compressor::new(1)?),
        };
        for start in [0, (plain.len() - SAMPLE) / 2, plain.len() - SAMPLE] {
            scratch.clear();
            scratch.reserve(zstd::zstd_safe::compress_bound(SAMPLE));
            let packed = taster.compress_to_buffer(&plain[start..start + SAMPLE], scratch)?;
            if packed < SAMPLE - SAMPLE / 64 {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Puts exactly `length` decompressed bytes into `into`, in place of what was there; the caller has
/// checked that `length` is sane.
#[must_use]
pub(super) fn decompress(packed: &[u8], length: usize, into: &mut Vec<u8>) -> Option<()> {
    into.clear();
    // Most frames say how long they are: a lie is found before there is room for it.
    if zstd::zstd_safe::get_frame_content_size(packed)
        .is_ok_and(|said| said.is_some_and(|said| said != length as u64))
    {
        return None;
    }
    into.reserve(length);
    let done = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(packed, into)
    });
    (done.is_ok_and(|done| done == length) && into.len() == length).then_some(())
}

/// The plaintext of a JSON file of version 2.
pub(super) fn pack_json(json: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    compress(json, &mut packed)?;
    packed.insert(0, COMPRESSED);
    Ok(packed)
}

/// The JSON in the plaintext of a file of either version, `most` bytes at most.
///
/// Errors: why it is none.
pub(super) fn unpack_json(plain: Vec<u8>, most: u64) -> Result<Vec<u8>, String> {
    match plain.first() {
        Some(b'{' | b'[') if plain.len() as u64 <= most => Ok(plain),
        Some(b'{' | b'[') => Err(format!("it has more than {most} bytes")),
        Some(&COMPRESSED) => {
            let mut json = Vec::new();
            let read = zstd::Decoder::with_buffer(&plain[1..])
                .and_then(|decoder| decoder.take(most.saturating_add(1)).read_to_end(&mut json))
                .map_err(|e| format!("it does not decompress: {e}"))?;
            if read as u64 > most {
                return Err(format!("it decompresses to more than {most} bytes"));
            }
            Ok(json)
        }
        Some(byte) => Err(format!("its encoding is {byte}; known here are plain JSON and {COMPRESSED}")),
        None => Err("it is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_nothing_else_does() {
        let mut packed = Vec::new();
        compress(&[7; 10_000], &mut packed).unwrap();
        let mut plain = Vec::new();
        decompress(&packed, 10_000, &mut plain).unwrap();
        assert_eq!(plain, [7; 10_000]);
        for length in [0, 1, 9_999, 10_001] {
            assert!(decompress(&packed, length, &mut plain).is_none(), "{length}");
        }
        assert!(decompress(&packed[..packed.len() - 1], 10_000, &mut plain).is_none());
        assert!(decompress(b"nonsense", 10, &mut plain).is_none());
    }

    #[test]
    fn only_what_becomes_smaller_nowhere_is_left_as_it_is() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let mut bytes: Vec<u8> = std::iter::repeat_with(&mut noise).take(300_000).collect();
        let mut scratch = Vec::new();
        assert!(!is_worth_it(&bytes, &mut scratch).unwrap());
        assert!(is_worth_it(&bytes[..1000], &mut scratch).unwrap());
        let length = bytes.len();
        for start in [0, length / 2 - SAMPLE / 2, length - SAMPLE] {
            let kept = bytes[start..start + SAMPLE].to_vec();
            bytes[start..start + SAMPLE].fill(7);
            assert!(is_worth_it(&bytes, &mut scratch).unwrap(), "from {start} on");
            bytes[start..start + SAMPLE].copy_from_slice(&kept);
        }
    }

    #[test]
    fn json_is_read_in_every_encoding() {
        assert_eq!(unpack_json(b"{}".to_vec(), 9).unwrap(), b"{}");
        assert_eq!(unpack_json(pack_json(b"[1]").unwrap(), 3).unwrap(), b"[1]");
        assert!(unpack_json(vec![], 9).unwrap_err().contains("empty"));
        assert!(unpack_json(vec![9, 1], 9).unwrap_err().contains("encoding is 9"));
        assert!(unpack_json(vec![2, 1, 2, 3], 9).unwrap_err().contains("decompress"));
        assert!(unpack_json(pack_json(b"[1]").unwrap(), 2).unwrap_err().contains("more than 2"));
        assert!(unpack_json(b"[1]".to_vec(), 2).unwrap_err().contains("more than 2"));
    }
}
