//! What is backed up in the bench: the same bytes on every machine.

use std::fmt::Write as _;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) files: usize,
    pub(crate) bytes: usize,
    /// Of these, in one SQL dump.
    pub(crate) dump: usize,
    pub(crate) rounds: usize,
}

/// From a slice for CI to what a server holds; `file` is one file alone.
pub(crate) const SIZES: [Size; 6] = [
    Size { name: "short", files: 600, bytes: 20_000_000, dump: 8_000_000, rounds: 1 },
    Size { name: "0.2", files: 10_000, bytes: 200_000_000, dump: 80_000_000, rounds: 5 },
    Size { name: "2.5", files: 40_000, bytes: 2_500_000_000, dump: 1 << 30, rounds: 3 },
    Size { name: "8", files: 200_000, bytes: 8_000_000_000, dump: 3_200_000_000, rounds: 1 },
    Size { name: "many", files: 200_000, bytes: 700_000_000, dump: 100_000_000, rounds: 1 },
    Size { name: "file", files: 0, bytes: 4_000_000_000, dump: 4_000_000_000, rounds: 1 },
];

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: usize) -> usize {
        ((u128::from(self.next()) * most as u128) >> 64) as usize
    }

    /// Few small numbers are frequent, as words in a language are.
    fn skewed(&mut self, most: usize) -> usize {
        let at = self.below(most) as u64;
        (at * self.below(most) as u64 / most as u64) as usize
    }

    /// Around an average: many are smaller, few are much larger.
    fn spread(&mut self, average: usize) -> usize {
        let share = (self.below(1_000_000) + 1) as f64 / 1_000_000.0;
        (average as f64 * -share.ln()) as usize
    }
}

fn words() -> Vec<String> {
    const PARTS: [&str; 24] = [
        "re", "con", "ta", "ble", "in", "dex", "ser", "ver", "or", "der", "pay", "ment", "ca", "che", "lo",
        "ad", "sto", "rage", "que", "ry", "us", "er", "na", "me",
    ];
    let mut dice = Dice::new(7);
    (0..3000).map(|_| (0..2 + dice.below(3)).map(|_| PARTS[dice.below(PARTS.len())]).collect()).collect()
}

/// Writes files of each kind.
pub(crate) struct Corpus {
    pub(crate) at: PathBuf,
    size: Size,
    words: Vec<String>,
}

impl Corpus {
    /// Makes it.
    pub(crate) fn make(at: &Path, size: Size) -> Self {
        let corpus = Self { at: at.to_path_buf(), size, words: words() };
        let mut buffer = Vec::new();
        for number in 0..size.files {
            let path = corpus.path(number);
            if number % 20 == 0 {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
            corpus.content(number, &mut buffer);
            fs::write(path, &buffer).unwrap();
        }
        fs::create_dir_all(at).unwrap();
        let mut dump = fs::File::create(corpus.dump()).unwrap();
        let mut left = size.dump;
        for part in 0.. {
            let length = left.min(16 << 20);
            corpus.rows(1_000_000 + part, length, &mut buffer);
            dump.write_all(&buffer).unwrap();
            left -= length;
            if left == 0 {
                break;
            }
        }
        corpus
    }

    pub(crate) fn dump(&self) -> PathBuf {
        self.at.join("shop.sql")
    }

    fn path(&self, number: usize) -> PathBuf {
        let (folder, kind) = (number / 20, Kind::of(number));
        self.at.join(format!(
            "part{}/module{}/{}{number}.{}",
            folder / 25,
            folder % 25,
            kind.word(),
            kind.word()
        ))
    }

    fn content(&self, number: usize, buffer: &mut Vec<u8>) {
        // A copy has the number, and so the content, of one that came before.
        let number = if Kind::of(number) == Kind::Copy { number / 100 * 100 } else { number };
        let mut dice = Dice::new(number as u64 + 1);
        let rest = self.size.bytes - self.size.dump;
        let packed = rest * 35 / 100 / (self.size.files * 3 / 100).max(1);
        let text = rest * 65 / 100 / (self.size.files * 85 / 100).max(1);
        buffer.clear();
        match Kind::of(number) {
            Kind::Packed => {
                let length = dice.spread(packed);
                while buffer.len() < length {
                    buffer.extend_from_slice(&dice.next().to_le_bytes());
                }
                buffer.truncate(length);
            }
            Kind::Small => self.source(200 + dice.below(600), &mut dice, buffer),
            Kind::Json => self.json(dice.spread(text), &mut dice, buffer),
            Kind::Source | Kind::Copy => self.source(dice.spread(text), &mut dice, buffer),
        }
    }

    fn word(&self, dice: &mut Dice) -> &str {
        &self.words[dice.skewed(self.words.len())]
    }

    fn source(&self, length: usize, dice: &mut Dice, buffer: &mut Vec<u8>) {
        let mut depth = 0;
        while buffer.len() < length {
            buffer.extend(std::iter::repeat_n(b' ', depth * 4));
            let (a, b, c) = (self.word(dice), self.word(dice), self.word(dice));
            let number = dice.below(10_000);
            let _ = match dice.below(6) {
                0 => {
                    depth = (depth + 1) % 5;
                    writeln!(buffer, "fn {a}_{b}({c}: &mut {a}, limit: usize) -> Result<(), Error> {{")
                }
                1 => {
                    depth = depth.saturating_sub(1);
                    writeln!(buffer, "}}")
                }
                2 => writeln!(buffer, "let {a} = self.{b}.{c}({number});"),
                3 => writeln!(buffer, "// The {a} {b} is what the {c} asks for when the {a} is done."),
                4 => writeln!(buffer, "if {a}.{b} > {number} {{ return Err(Error::new(\"{a} {c}\")); }}"),
                _ => writeln!(buffer, "{a}.{b}(&{c}, {c}.len());"),
            };
        }
    }

    fn json(&self, length: usize, dice: &mut Dice, buffer: &mut Vec<u8>) {
        buffer.push(b'[');
        while buffer.len() < length {
            let (a, b, c) = (self.word(dice), self.word(dice), self.word(dice));
            let _ = writeln!(
                buffer,
                "{{\"id\":{},\"{a}\":\"{b} {c}\",\"price\":{}.{:02},\"tags\":[\"{a}\",\"{c}\"],\"seen\":{}}},",
                dice.next() >> 40,
                dice.below(1000),
                dice.below(100),
                dice.below(2) == 1,
            );
        }
        buffer.extend_from_slice(b"null]\n");
    }

    fn rows(&self, seed: usize, length: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        let mut dice = Dice::new(seed as u64);
        let mut row = String::new();
        while buffer.len() < length {
            row.clear();
            let (a, b, c) = (self.word(&mut dice), self.word(&mut dice), self.word(&mut dice));
            let _ = writeln!(
                row,
                "INSERT INTO orders VALUES ({}, '{:016x}', '{a} {b}', '{a}.{b}@example.org', \
                 '2026-{:02}-{:02} {:02}:{:02}:{:02}', {}.{:02}, '{c}', 'The {b} {a} of {c}', {});",
                seed * 1000 + buffer.len() / 200,
                dice.next(),
                1 + dice.below(12),
                1 + dice.below(28),
                dice.below(24),
                dice.below(60),
                dice.below(60),
                dice.below(2000),
                dice.below(100),
                dice.below(2) == 1,
            );
            buffer.extend_from_slice(row.as_bytes());
        }
        buffer.truncate(length);
    }

    /// Changes every hundredth file, and a hundredth of the dump in one place.
    pub(crate) fn change(&self, round: usize) {
        let mut buffer = Vec::new();
        for number in (round * 7 % 100..self.size.files).step_by(100) {
            let mut file = fs::OpenOptions::new().append(true).open(self.path(number)).unwrap();
            writeln!(file, "// changed in round {round}").unwrap();
        }
        let length = self.size.dump / 100;
        self.rows(9_000_000 + round, length, &mut buffer);
        let mut dump = fs::OpenOptions::new().write(true).open(self.dump()).unwrap();
        let at = self.size.dump / 8 * (1 + round % 6);
        dump.seek(SeekFrom::Start(at as u64)).unwrap();
        dump.write_all(&buffer).unwrap();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Source,
    Json,
    Small,
    Copy,
    Packed,
}

impl Kind {
    fn of(number: usize) -> Self {
        match number * 37 % 100 {
            0..55 => Self::Source,
            55..80 => Self::Json,
            80..92 => Self::Small,
            92..97 => Self::Copy,
            _ => Self::Packed,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Source => "rs",
            Self::Json => "json",
            Self::Small => "toml",
            Self::Copy => "copy",
            Self::Packed => "bin",
        }
    }
}
