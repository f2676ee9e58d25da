//! Cuts bytes into pieces whose borders follow the content, so that an insertion changes few of them.

use fastcdc::v2020::{FastCDC, Normalization};

/// Files up to this many bytes are one piece.
pub(super) const MIN: usize = 512 * 1024;
const AVERAGE: usize = 1024 * 1024;
pub(super) const MAX: usize = 8 * 1024 * 1024;
/// A border is looked for when there are this many bytes.
const ENOUGH: usize = 2 * AVERAGE;
const ROOM: usize = 256 * 1024;

/// Takes bytes in and gives pieces out.
pub(super) struct Cutter {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    enough: usize,
    seed: u64,
}

impl Cutter {
    /// `seed` moves the borders: another one, other borders.
    pub(super) fn new(seed: u64) -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, enough: ENOUGH, seed }
    }

    /// Room for more bytes; say with [`Cutter::filled`] how many came.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() - self.end < ROOM {
            if self.start >= self.buffer.len() / 2 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.buffer.len() - self.end < ROOM {
                let larger = (self.buffer.len() * 2).max(2 * ENOUGH);
                self.buffer.resize(larger, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// That many bytes were put into the room.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The bytes that were put in last.
    pub(super) fn newest(&self, bytes: usize) -> &[u8] {
        &self.buffer[self.end - bytes..self.end]
    }

    /// Forgets the bytes that are in no piece yet, if they are all zeros, and returns how many they were.
    pub(super) fn drop_zeros(&mut self) -> Option<usize> {
        let rest = &self.buffer[self.start..self.end];
        let zeros = rest.iter().all(|byte| *byte == 0).then_some(rest.len());
        if zeros.is_some() {
            (self.start, self.end, self.enough) = (0, 0, ENOUGH);
        }
        zeros
    }

    /// How long the pieces of a very long run of zeros are: all the same.
    pub(super) fn of_zeros(seed: u64) -> usize {
        let zeros = vec![0; MAX];
        let cutter = FastCDC::with_level_and_seed(&zeros, MIN, AVERAGE, MAX, Normalization::Level1, seed);
        cutter.cut(0, MAX).1
    }

    /// The next piece; none when more bytes are needed to find its border. With `last` there will be no
    /// more, and the rest comes out.
    pub(super) fn next(&mut self, last: bool) -> Option<&[u8]> {
        let have = self.end - self.start;
        if have == 0 || !last && have < self.enough {
            return None;
        }
        let bytes = &self.buffer[self.start..self.end];
        let cutter = FastCDC::with_level_and_seed(bytes, MIN, AVERAGE, MAX, Normalization::Level1, self.seed);
        let (_, length) = cutter.cut(0, have);
        if length == have && !last && have < MAX {
            self.enough = (have * 2).min(MAX);
            return None;
        }
        self.enough = ENOUGH;
        let start = self.start;
        self.start += length;
        Some(&self.buffer[start..start + length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(&mut next).take(length).collect()
    }

    fn cut(bytes: &[u8], step: usize, seed: u64) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::new(seed);
        let mut pieces = Vec::new();
        for part in bytes.chunks(step) {
            let mut part = part;
            while !part.is_empty() {
                let room = cutter.room();
                let fits = room.len().min(part.len());
                room[..fits].copy_from_slice(&part[..fits]);
                cutter.filled(fits);
                part = &part[fits..];
                while let Some(piece) = cutter.next(false) {
                    pieces.push(piece.to_vec());
                }
            }
        }
        while let Some(piece) = cutter.next(true) {
            pieces.push(piece.to_vec());
        }
        pieces
    }

    #[test]
    fn pieces_are_the_same_however_the_bytes_come_and_survive_an_insertion() {
        let bytes = noise(12 << 20);
        let pieces = cut(&bytes, 1 << 20, 7);
        assert_eq!(pieces.concat(), bytes);
        assert_eq!(cut(&bytes, 70_001, 7), pieces);
        assert!(pieces.len() > 4 && pieces.iter().all(|piece| piece.len() <= MAX));
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.len() >= MIN));
        assert_ne!(cut(&bytes, 1 << 20, 8), pieces);
        let inserted = cut(&[b"new", &bytes[..]].concat(), 1 << 20, 7);
        let kept = pieces.iter().filter(|piece| inserted.contains(piece)).count();
        assert!(kept >= pieces.len() - 2, "{kept} of {}", pieces.len());
    }

    #[test]
    fn bytes_without_a_border_are_cut_at_the_most() {
        let sizes: Vec<usize> = cut(&vec![0; 20 << 20], 1 << 20, 7).iter().map(Vec::len).collect();
        assert_eq!(sizes, [MAX, MAX, 4 << 20]);
        assert_eq!(Cutter::of_zeros(7), MAX);
        assert!(cut(&[], 1, 7).is_empty());
    }
}
