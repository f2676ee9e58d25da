//! Spoils valid files of a repository again and again and hands them to the readers of the engine.
//!
//! `scripts/soak fuzz [SECONDS]` runs it. Every input follows from a seed and a number, so that a run can
//! be had again; inputs that broke a rule are kept in `target/fuzz`. The readers run in a process of
//! their own that may take only so much memory, and an input only so much time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value, json};
use trapkey::repository::restic::fuzzing::{READERS, Reader};

/// No input is longer.
const LONGEST: usize = 2 * 1024 * 1024;
/// What a process may take beyond what it has at the start: the longest input, 24 times.
const MEMORY: u64 = 24 * LONGEST as u64;
/// Of the processor's time, for one input.
const SLOW: Duration = Duration::from_secs(20);
/// Without any progress, the reader hangs.
const HANGS: Duration = Duration::from_secs(120);

const USAGE: &str = "fuzz READER|all SECONDS [SEED]   or   fuzz READER FILE: one kept input again";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(folder) = std::env::var_os("TRAPKEY_FUZZ_CHILD") {
        return child(Path::new(&folder), &words);
    }
    match *words {
        [name, file] if Path::new(file).is_file() => again(name, Path::new(file)),
        [name, seconds] => run(name, seconds, None),
        [name, seconds, seed] => run(name, seconds, Some(seed)),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}\nreaders: {}", READERS.iter().map(|r| r.name).collect::<Vec<_>>().join(" "));
    ExitCode::from(2)
}

fn reader(name: &str) -> Option<&'static Reader> {
    READERS.iter().find(|reader| reader.name == name)
}

fn again(name: &str, file: &Path) -> ExitCode {
    let Some(reader) = reader(name) else { return usage() };
    let before = processor();
    let result = (reader.read)(&std::fs::read(file).unwrap());
    println!("{result:?} after {:?}", processor().saturating_sub(before));
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(name: &str, seconds: &str, seed: Option<&str>) -> ExitCode {
    let fresh = || Instant::now().elapsed().as_nanos() as u64 ^ trapkey::world::unique();
    let (Ok(seconds), Ok(seed)) = (seconds.parse(), seed.map_or_else(|| Ok(fresh()), str::parse)) else {
        return usage();
    };
    let chosen: Vec<&Reader> = READERS.iter().filter(|r| name == "all" || r.name == name).collect();
    if chosen.is_empty() {
        return usage();
    }
    let finds: usize = chosen.iter().map(|reader| parent(reader, Duration::from_secs(seconds), seed)).sum();
    if finds == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the readers in a process of their own, as often as one falls; returns how often that was.
fn parent(reader: &Reader, time: Duration, seed: u64) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let place = folder.join(format!("{}-{seed}", reader.name));
    std::fs::create_dir_all(&place).unwrap();
    let began = Instant::now();
    let (mut from, mut understood, mut finds) = (0, 0, 0);
    while began.elapsed() < time && finds < 20 {
        let left = time.saturating_sub(began.elapsed()).as_millis().to_string();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([reader.name, &seed.to_string(), &from.to_string(), &left])
            .env("TRAPKEY_FUZZ_CHILD", &place)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (mut at, mut moved, mut hung) = (u64::MAX, Instant::now(), false);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(50));
            let now = Progress::read(&place).at;
            if now != at {
                (at, moved) = (now, Instant::now());
            } else if moved.elapsed() > HANGS && !hung {
                hung = true;
                child.kill().unwrap();
            }
        };
        let done = Progress::read(&place);
        understood += done.understood;
        from = done.at;
        if !status.success() {
            finds += 1;
            let kept = folder.join(format!("{}-{seed}-{}", reader.name, done.at));
            std::fs::write(&kept, input(reader, &(reader.samples)(), seed, done.at)).unwrap();
            let how = match (hung, status.signal()) {
                (true, _) => "it hangs".to_owned(),
                (_, Some(signal)) => format!("ended by signal {signal}"),
                _ => "a rule was broken".to_owned(),
            };
            println!("soak: fuzz {}: FOUND: {how}; the input is kept: {}", reader.name, kept.display());
            from += 1;
        }
    }
    std::fs::remove_dir_all(&place).unwrap();
    let taken = began.elapsed().as_secs_f64();
    println!(
        "soak: fuzz {}: {from} inputs in {taken:.0} s, {:.0} a second, {:.1} % understood, {finds} finds, seed {seed}",
        reader.name,
        from as f64 / taken,
        100.0 * understood as f64 / from.max(1) as f64,
    );
    std::io::stdout().flush().unwrap();
    finds
}

/// What the child leaves for its parent before each input, so that it is known when it falls.
#[derive(Clone, Copy, Default)]
struct Progress {
    at: u64,
    understood: u64,
}

impl Progress {
    fn read(place: &Path) -> Self {
        let bytes = std::fs::read(place.join("at")).unwrap_or_default();
        let Some((at, rest)) = bytes.split_first_chunk::<8>() else { return Self::default() };
        let understood = rest.first_chunk::<8>().copied().unwrap_or_default();
        Self { at: u64::from_le_bytes(*at), understood: u64::from_le_bytes(understood) }
    }
}

fn child(place: &Path, words: &[&str]) -> ExitCode {
    let [name, seed, from, millis] = *words else { return usage() };
    let Some(reader) = reader(name) else { return usage() };
    let (seed, from): (u64, u64) = (seed.parse().unwrap(), from.parse().unwrap());
    let time = Duration::from_millis(millis.parse().unwrap());
    let samples = (reader.samples)();
    let well: Vec<_> = samples.iter().map(|sample| (reader.read)(sample)).collect();
    if !well.contains(&Ok(true)) || well.iter().any(Result::is_err) {
        // It would be fuzzed in vain.
        eprintln!("{name}: the samples are not understood: {well:?}");
        return ExitCode::FAILURE;
    }
    let file = std::fs::File::create(place.join("at")).unwrap();
    for greedy in greedy().filter(|_| from == 0) {
        let before = processor();
        if read(reader, &greedy).is_err() || processor().saturating_sub(before) > SLOW {
            eprintln!("{name}: {} bytes took {:?}", greedy.len(), processor().saturating_sub(before));
            return ExitCode::FAILURE;
        }
    }
    let began = Instant::now();
    let (mut at, mut understood) = (from, 0_u64);
    let note = |at: u64, understood: u64| {
        file.write_all_at(&[at.to_le_bytes(), understood.to_le_bytes()].concat(), 0).unwrap();
    };
    while began.elapsed() < time {
        note(at, understood);
        let bytes = input(reader, &samples, seed, at);
        let before = processor();
        let result = read(reader, &bytes);
        let took = processor().saturating_sub(before);
        match result {
            Err(broken) => {
                eprintln!("{name} {at}: {broken}");
                return ExitCode::FAILURE;
            }
            Ok(_) if took > SLOW => {
                eprintln!("{name} {at}: {} bytes took {took:?}", bytes.len());
                return ExitCode::FAILURE;
            }
            Ok(well) => understood += u64::from(well),
        }
        at += 1;
    }
    note(at, understood);
    ExitCode::SUCCESS
}

/// The longest inputs of what takes the most room for its bytes.
fn greedy() -> impl Iterator<Item = Vec<u8>> {
    let rows = [
        (r#"{"nodes":["#, r#"{"name":"@","type":"dir"},"#, "null]}"),
        (r#"{"nodes":[{"name":"@","type":"file","later":["#, "0,", "0]}]}"),
        (r#"{"nodes":[{"name":"@","type":"file","later":["#, "[],", "0]}]}"),
        (r#"{"nodes":[{"name":"@","type":"file","later":"#, "[", ""),
        (r#"{"nodes":[{"name":"@","type":"file","extended_attributes":["#, r#"{"name":""},"#, "]}]}"),
        (r#"{"nodes":[{"type":"file","name":""#, "\\\\x00", r#""}]}"#),
        (r#"{"packs":["#, r#"{"id":"@","blobs":null},"#, "]}"),
        (r#"{"supersedes":["#, "0,", "]}"),
        (r#"{"time":"2026-01-01T00:00:00Z","tags":["#, r#""","#, r#"""]}"#),
        ("{", r#""@":0,"#, r#""":0}"#),
        ("[", "[", ""),
        ("", "\0", ""),
        ("", " ", "{}"),
    ];
    rows.into_iter().map(|(head, row, tail)| {
        let mut text = String::from(head);
        let mut number = 0_u32;
        while text.len() + row.len() + tail.len() + 8 < LONGEST {
            text += &row.replace('@', &number.to_string());
            number += 1;
        }
        (text + tail).into_bytes()
    })
}

/// What this process has had of the processors.
fn processor() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime)).unwrap()
}

/// Reads while this process may take so much more memory and not a byte beyond; then it falls. Making an
/// input may take more than reading it.
fn read(reader: &Reader, bytes: &[u8]) -> Result<bool, String> {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    // Threads have stacks of 2 MiB and arenas of 64 MiB each, of which next to nothing is used.
    let more = match reader.name {
        "repository" => 12 * 66 * 1024 * 1024,
        // For as much as the longest blob there may be room, whatever the bytes are.
        "blob" => 64 * 1024 * 1024,
        _ => 0,
    };
    let most = pages * rustix::param::page_size() as u64 + MEMORY + more;
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(Resource::As, Rlimit { current: Some(most), maximum }).unwrap();
    let result = (reader.read)(bytes);
    setrlimit(Resource::As, Rlimit { current: maximum, maximum }).unwrap();
    result
}

/// The input of this number.
fn input(reader: &Reader, samples: &[Vec<u8>], seed: u64, at: u64) -> Vec<u8> {
    let mut dice = Dice(seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    dice.next();
    let sample = &samples[dice.below(samples.len())];
    // The first byte of these says what the rest is.
    let head = usize::from(reader.name == "repository");
    let mut bytes = sample[head..].to_vec();
    let structured = match bytes.first() {
        Some(b'{' | b'[') => dice.below(4) != 0,
        _ => false,
    };
    if structured && let Ok(mut value) = serde_json::from_slice::<Value>(&bytes) {
        for _ in 0..=dice.below(4) {
            spoil_value(&mut value, &mut dice);
        }
        bytes = serde_json::to_vec(&value).unwrap();
    }
    if !structured || dice.below(4) == 0 {
        for _ in 0..=dice.below(6) {
            spoil_bytes(&mut bytes, samples, &mut dice);
        }
    }
    bytes.truncate(LONGEST);
    [&sample[..head], &bytes].concat()
}

/// Numbers in a row (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    /// Mostly few, seldom very many.
    fn many(&mut self) -> usize {
        match self.below(2000) {
            0 => self.below(60_000),
            1..100 => self.below(1000),
            _ => self.below(8),
        }
    }
}

const NUMBERS: [u64; 14] = [
    0,
    1,
    31,
    32,
    33,
    100,
    127,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    64 * 1024 * 1024,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

fn spoil_bytes(bytes: &mut Vec<u8>, samples: &[Vec<u8>], dice: &mut Dice) {
    if bytes.is_empty() {
        bytes.push(dice.next() as u8);
        return;
    }
    let at = dice.below(bytes.len());
    let end = (at + 1 + dice.below(64)).min(bytes.len());
    match dice.below(10) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = dice.next() as u8,
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let part = bytes[at..end].repeat(dice.many().min(20_000));
            drop(bytes.splice(at..at, part));
        }
        5 => {
            let other = &samples[dice.below(samples.len())];
            let from = dice.below(other.len().max(1)).min(other.len());
            bytes.splice(at..end, other[from..].iter().copied());
        }
        6 => {
            let number = NUMBERS[dice.below(NUMBERS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][dice.below(4)];
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number[..width].iter().copied());
        }
        7 => {
            let digits = NUMBERS[dice.below(NUMBERS.len())].to_string();
            bytes.splice(at..at, digits.into_bytes());
        }
        8 => {
            let words = TEXTS[dice.below(TEXTS.len())];
            bytes.splice(at..end, words.bytes());
        }
        _ => {
            let other = dice.below(bytes.len());
            bytes.swap(at, other);
        }
    }
}

const TEXTS: [&str; 28] = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "../../escape",
    "\0",
    "\\x00",
    "\\x2f",
    "\\u002e\\u002e",
    "\\U00110000",
    "\\777",
    "\\xff",
    "\\",
    "\"",
    "\u{1b}[2J",
    "\u{202e}",
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "-009999-01-02T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "2016-12-31T23:59:60Z",
    "AAAA",
    "dir",
    "file",
    "symlink",
    "scrypt",
    "tree",
];

const KEYS: [&str; 12] = [
    "name",
    "type",
    "content",
    "subtree",
    "linktarget_raw",
    "extended_attributes",
    "size",
    "supersedes",
    "uncompressed_length",
    "summary",
    "N",
    "later",
];

/// Something that belongs nowhere.
fn odd_value(dice: &mut Dice) -> Value {
    match dice.below(11) {
        0 => Value::Null,
        1 => json!(dice.below(2) == 0),
        2 | 3 => json!(NUMBERS[dice.below(NUMBERS.len())]),
        4 => json!(-i64::from(dice.next() as u32)),
        5 => json!(1e300),
        6 => json!(TEXTS[dice.below(TEXTS.len())].repeat(1 + dice.many())),
        7 => json!([]),
        8 => json!({}),
        9 => (0..dice.below(140)).fold(Value::Null, |inner, _| json!([inner])),
        _ => Value::Array((0..dice.many()).map(|_| json!(0)).collect()),
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0_usize,
    }
}

fn nth<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|inner| nth(inner, at)),
        Value::Object(map) => map.values_mut().find_map(|inner| nth(inner, at)),
        _ => None,
    }
}

fn spoil_value(value: &mut Value, dice: &mut Dice) {
    let mut at = dice.below(count(value));
    let Some(there) = nth(value, &mut at) else { return };
    match there {
        Value::Array(list) if !list.is_empty() && dice.below(3) != 0 => {
            let (one, other) = (dice.below(list.len()), dice.below(list.len()));
            match dice.below(4) {
                0 => drop(list.remove(one)),
                1 => list.swap(one, other),
                2 => list.push(odd_value(dice)),
                _ => {
                    let copy = list[one].clone();
                    list.extend((0..dice.many()).map(|number| numbered(&copy, number)));
                }
            }
        }
        Value::Object(map) if !map.is_empty() && dice.below(4) != 0 => spoil_object(map, dice),
        Value::String(text) if dice.below(3) != 0 => {
            let piece = TEXTS[dice.below(TEXTS.len())];
            let mut letters: Vec<char> = text.chars().collect();
            let at = dice.below(letters.len() + 1);
            if dice.below(3) == 0 && at < letters.len() {
                letters[at] = char::from_u32(dice.below(0x3000) as u32).unwrap_or('\u{fffd}');
            } else {
                drop(letters.splice(at..at, piece.chars()));
            }
            *text = letters.into_iter().collect();
        }
        Value::Number(_) if dice.below(3) != 0 => *there = json!(NUMBERS[dice.below(NUMBERS.len())]),
        _ => *there = odd_value(dice),
    }
}

/// The same under another name, so that very many of them are taken for different entries.
fn numbered(value: &Value, number: usize) -> Value {
    let mut value = value.clone();
    if let Some(Value::String(name)) = value.get_mut("name")
        && number % 16 != 15
    {
        *name = format!("{name}{number}");
    }
    value
}

fn spoil_object(map: &mut Map<String, Value>, dice: &mut Dice) {
    let key = map.keys().nth(dice.below(map.len())).unwrap().clone();
    match dice.below(4) {
        0 => drop(map.shift_remove(&key)),
        1 => {
            let value = map.shift_remove(&key).unwrap();
            map.insert(KEYS[dice.below(KEYS.len())].to_owned(), value);
        }
        2 => drop(map.insert(KEYS[dice.below(KEYS.len())].to_owned(), odd_value(dice))),
        _ => drop(map.insert(key, odd_value(dice))),
    }
}
