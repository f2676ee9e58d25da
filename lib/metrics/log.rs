//! A log that grows and is rotated, read window by window in bounded memory.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::Trouble;
use super::file::open_regular;
use crate::redact::redact;
use crate::units::{Text, show_duration};
use crate::world::{files, now};

/// A log, and how far it was read.
///
/// Where a window begins is searched by bisection, for lines ascend but for a few seconds (`disorder`);
/// what was read to its end once is gone on with there. Rotated files beside it (`access.log.1`,
/// `access.log-20261121`, `access-2026-11-21T08.log`) are read where the window reaches back to them.
pub(super) struct Log {
    path: PathBuf,
    shown: String,
    /// By how much a line may be older than one before it.
    disorder_ms: i64,
    known: Vec<Known>,
    /// What was known before the newest reading.
    before: Vec<Known>,
    /// When it was seen that the log had been cut short: what it lost is older.
    cut_short_ms: Option<i64>,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Its first moment, in ms since 1970.
    pub(super) from_ms: i64,
    /// The moment after its last.
    pub(super) to_ms: i64,
    /// When the answer must be there.
    pub(super) until: Instant,
}

/// A file that was read up to the end of a window.
#[derive(Clone, Debug)]
struct Known {
    id: (u64, u64),
    /// Its first bytes: another file may have taken its number.
    head: Vec<u8>,
    /// Before this place stands nothing of `to_ms` or later.
    offset: u64,
    /// Up to here it was there, and was read.
    read_to: u64,
    to_ms: i64,
}

/// A file under the name of a rotated one.
struct Beside {
    changed: SystemTime,
    packed: bool,
    number: u64,
    path: PathBuf,
}

/// A file that belongs to the log.
struct Part {
    file: File,
    id: (u64, u64),
    head: Vec<u8>,
    size: u64,
    changed_ms: i64,
    born_ms: Option<i64>,
    /// The moment of its first line that is understood.
    first_ms: Option<i64>,
}

/// Lines of a window that are understood and others.
#[derive(Default)]
struct Count {
    understood: u64,
    foreign: u64,
    odd: u64,
    /// The first of the latter, as people may see it.
    first_odd: String,
    bytes: u64,
}

/// Reads the moment of a line, in ms since 1970.
pub(super) type TimeOf<'t> = dyn Fn(&[u8]) -> Option<i64> + 't;

/// What a line was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Written at that moment, in ms since 1970.
    At(i64),
    /// Somebody else's, or of something else.
    Foreign,
    /// Not understood.
    Odd,
}

/// Takes a line, and says what it was. With it comes, for a line that was not there when the log was
/// read before, up to when that reading went: what is older has come too late for it.
pub(super) type Each<'e> = dyn FnMut(&[u8], Option<i64>) -> Told + 'e;

/// The longest line that is read; a longer one is skipped, and counted as not understood.
const MAX_LINE: u64 = 256 * 1024;
/// Bisection ends when this much is left to read.
const FINE: u64 = 64 * 1024;
/// From so much on, a place is searched although one is known.
const FAR: u64 = 64 * 1024 * 1024;
/// How far is looked for a line that is understood.
const PROBE: u64 = 1024 * 1024;
/// Lines that must agree on where a place of the file lies in time: one with a wrong clock does not count.
const VOICES: usize = 16;
/// Lines in a row behind the window before reading ends.
const BEHIND: u32 = 1000;
/// From so many odd lines on, a share of them that is no more than this is borne.
const ODD_FROM: u64 = 20;
const ODD_SHARE: f64 = 0.2;
/// Odd lines at the beginning, with none that is understood, before reading is given up.
const HOPELESS: u64 = 10_000;
/// No file has this number.
const NOBODYS: (u64, u64) = (0, 0);
/// How many bytes tell a file from another one.
const HEAD: usize = 256;
/// Changes of files that are no further apart may be in any order.
const SAME_TIME: Duration = Duration::from_secs(10);
/// The newest rotated files that are looked at.
const MAX_ROTATED: usize = 64;
/// How rotated files end that are not read.
const PACKED: [&str; 6] = ["gz", "bz2", "xz", "zst", "lz4", "zip"];

impl Log {
    /// A log at a path below a folder. Touches nothing.
    pub(super) fn new(path: &Text, folder: &Path, disorder_ms: i64) -> Self {
        Self {
            path: folder.join(&path.value),
            shown: redact(&path.shown),
            disorder_ms: disorder_ms.max(0),
            known: Vec::new(),
            before: Vec::new(),
            cut_short_ms: None,
        }
    }

    /// Its path, as people may see it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The newest moment at its end, and when it was written to, in ms since 1970.
    pub(super) fn newest(&self, time_of: &TimeOf<'_>) -> Option<(i64, i64)> {
        let (file, metadata) = open_regular(&self.path).ok()?;
        let part = Part::new(file, &metadata, time_of).ok()?;
        let (_, newest) =
            times(&part, part.size.saturating_sub(FINE), part.size, usize::MAX, time_of).ok()??;
        Some((newest, part.changed_ms))
    }

    /// What was shown last counts for nothing: it is new the next time.
    pub(super) fn undo(&mut self) {
        self.known = std::mem::take(&mut self.before);
    }

    /// Shows every line of a window to `each`, and some before and after it; `each` says when a line
    /// was written, whose it is, or that it does not understand it.
    ///
    /// Errors: the log is not there, does not reach back to the beginning of the window, was not read in
    /// time, or for the greater part cannot be understood. What was shown before is void then.
    pub(super) fn read(
        &mut self,
        window: Window,
        time_of: &TimeOf<'_>,
        each: &mut Each<'_>,
    ) -> Result<(), Trouble> {
        let shown = self.shown.clone();
        let named = |mut trouble: Trouble| {
            trouble.message = format!("{shown}: {}", trouble.message);
            trouble
        };
        let (parts, hole) = self.parts(window, time_of).map_err(named)?;
        // Where no line is understood, that is the thing to say.
        if let Some(hole) = hole.clone().filter(|_| parts.iter().any(|part| part.first_ms.is_some())) {
            return Err(named(hole));
        }
        let mut count = Count::default();
        let mut known = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let is_newest = number + 1 == parts.len();
            let start = self.start(part, window, time_of).map_err(|error| named(unreadable(&error)))?;
            let read = self.read_before(part, window, is_newest);
            let (offset, read_to) =
                read_part(part, (start, read), window, self.disorder_ms, each, &mut count).map_err(named)?;
            if !part.is_whole() {
                return Err(named(Trouble::unreachable("it was cut short while it was read")));
            }
            known.push(Known { id: part.id, head: part.head.clone(), offset, read_to, to_ms: window.to_ms });
        }
        count.verdict().map_err(named)?;
        if count.understood == 0 && count.foreign > 0 && parts.iter().all(|part| part.first_ms.is_none()) {
            let message = format!("none of its {} lines is a request", count.foreign);
            return Err(named(Trouble::babble(message)));
        }
        self.before = std::mem::replace(&mut self.known, known);
        hole.map_or(Ok(()), |hole| Err(named(hole)))
    }

    /// What was read of a file in the windows before this one: under its number, or else by what it begins
    /// with, for a copy has another number.
    fn known_of(&self, part: &Part, window: Window) -> Option<&Known> {
        let mut fitting = self.known.iter().filter(|known| known.to_ms <= window.from_ms);
        let own = fitting.clone().find(|known| known.is(part));
        own.or_else(|| fitting.find(|known| known.head.len() == HEAD && known.fits(part)))
    }

    /// Up to where a file was read before, and up to which moment. One that has come since was not read at all.
    fn read_before(&self, part: &Part, window: Window, is_newest: bool) -> Option<(u64, i64)> {
        if let Some(known) = self.known_of(part, window) {
            return Some((known.read_to, known.to_ms));
        }
        let has_come = is_newest && !self.known.iter().any(|known| known.is(part));
        let read_to = self.known.iter().map(|known| known.to_ms).max();
        read_to.filter(|to_ms| has_come && *to_ms <= window.from_ms).map(|to_ms| (0, to_ms))
    }

    /// Where to begin in a file.
    fn start(&self, part: &Part, window: Window, time_of: &TimeOf<'_>) -> io::Result<u64> {
        let known = self.known_of(part, window);
        let offset = known.map_or(0, |known| known.offset);
        if known.is_some() && part.size - offset < FAR {
            return Ok(offset);
        }
        // A single line with a clock far ahead would keep that place where it is.
        bisect(part, window.from_ms.saturating_sub(self.disorder_ms), time_of).map(|found| found.max(offset))
    }

    /// The files in which the window stands, oldest first, and what is missing.
    fn parts(
        &mut self,
        window: Window,
        time_of: &TimeOf<'_>,
    ) -> Result<(Vec<Part>, Option<Trouble>), Trouble> {
        for _ in 0..3 {
            let (file, metadata) = open_regular(&self.path)?;
            let current = Part::new(file, &metadata, time_of).map_err(|error| unreadable(&error))?;
            let enough = current.begins_before(window.from_ms.saturating_sub(self.disorder_ms));
            let beside = if enough { Vec::new() } else { self.beside()? };
            let rotated = self.rotated(&beside, &current, window, time_of)?;
            // A rotation meanwhile may have hidden a file.
            let same_file =
                std::fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == current.id);
            if same_file && (enough || same_files(&beside, &self.beside()?)) {
                self.see_cuts(&current);
                return Ok(self.reaching(current, rotated, window));
            }
        }
        Err(Trouble::unreachable("it is rotated faster than it can be read"))
    }

    /// Notices that the file was cut short since it was read (`copytruncate`).
    fn see_cuts(&mut self, current: &Part) {
        for known in self.known.iter_mut().filter(|known| known.id == current.id && !known.is(current)) {
            self.cut_short_ms = Some(now().as_millisecond());
            // What was read of it may go on in a copy.
            known.id = NOBODYS;
        }
    }

    /// What lies beside the log under the name of a rotated file, newest last.
    fn beside(&self) -> Result<Vec<Beside>, Trouble> {
        let folder = files::parent(&self.path);
        let unreadable = |error: io::Error| {
            let place = redact(&folder.display().to_string());
            Trouble::refused(format!("its folder {place} cannot be read: {error}"))
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            // What has gone meanwhile is missed when it is looked at a second time.
            let (Some(name), Ok(metadata)) = (name.to_str(), entry.metadata()) else { continue };
            if metadata.is_file() && self.is_rotated(name) {
                let ending = Path::new(name).extension();
                found.push(Beside {
                    changed: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    packed: ending.is_some_and(|ending| PACKED.iter().any(|packed| ending == *packed)),
                    number: metadata.ino(),
                    path: entry.path(),
                });
            }
        }
        found.sort_by(|a, b| (a.changed, &a.path).cmp(&(b.changed, &b.path)));
        Ok(found)
    }

    /// The rotated files, newest last, and when the newest packed one was last written to.
    fn rotated(
        &self,
        beside: &[Beside],
        current: &Part,
        window: Window,
        time_of: &TimeOf<'_>,
    ) -> Result<(Vec<Part>, Option<i64>), Trouble> {
        let packed = beside.iter().filter(|file| file.packed).map(|file| milliseconds(file.changed)).max();
        let mut parts: Vec<Part> = Vec::new();
        let mut enough_since: Option<SystemTime> = None;
        for file in beside.iter().rev().filter(|file| !file.packed).take(MAX_ROTATED) {
            if enough_since.is_some_and(|since| file.changed < since) {
                break;
            }
            // One that is not readable, or rotated away meanwhile, would be a hole that nobody sees.
            let (opened, metadata) = open_regular(&file.path).map_err(|trouble| file.named(&trouble))?;
            let part = Part::new(opened, &metadata, time_of).map_err(|error| unreadable(&error))?;
            if part.begins_before(window.from_ms.saturating_sub(self.disorder_ms)) {
                // Files that were written to at nearly the same time may be in any order here.
                enough_since = enough_since.or(file.changed.checked_sub(SAME_TIME));
            }
            // A copy is the log itself until that is cut short.
            if part.id != current.id && !part.is_copy_of(current) && parts.iter().all(|p| p.id != part.id) {
                parts.push(part);
            }
        }
        parts.sort_by_key(|part| part.first_ms.unwrap_or(part.changed_ms));
        Ok((parts, packed))
    }

    /// Whether a name is one that a rotation gives: `access.log.1`, `access.log-20261121.gz`, or with the
    /// moment before the ending, `access-2026-11-21T08-00-00.000.log`.
    fn is_rotated(&self, name: &str) -> bool {
        fn own(part: Option<&OsStr>) -> &str {
            part.and_then(OsStr::to_str).unwrap_or_default()
        }
        let (whole, stem) = (own(self.path.file_name()), own(self.path.file_stem()));
        let ending = own(self.path.extension());
        let number = |rest: &str| {
            rest.strip_prefix(['.', '-']).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if let Some(rest) = name.strip_prefix(whole) {
            return number(rest);
        }
        let plain = PACKED.iter().find_map(|end| name.strip_suffix(end)?.strip_suffix('.')).unwrap_or(name);
        let middle = plain.strip_suffix(ending).and_then(|rest| rest.strip_suffix('.'));
        !ending.is_empty() && middle.and_then(|middle| middle.strip_prefix(stem)).is_some_and(number)
    }

    /// The files that the window needs, and whether together they fail to reach back to its beginning.
    ///
    /// They reach when a line stands there that is older than it, when the last rotated file was finished
    /// before it, or when the oldest file has been there since before it.
    fn reaching(
        &self,
        current: Part,
        (rotated, packed): (Vec<Part>, Option<i64>),
        window: Window,
    ) -> (Vec<Part>, Option<Trouble>) {
        let from = window.from_ms;
        let mut needed: Vec<Part> = Vec::new();
        let mut reaches = false;
        for part in std::iter::once(current).chain(rotated.into_iter().rev()) {
            reaches |= part.first_ms.is_some_and(|first| first <= from);
            let enough = part.begins_before(from.saturating_sub(self.disorder_ms));
            // Between it and the ones after it one may have been packed.
            let gap = !needed.is_empty() && packed.is_some_and(|at| at > part.changed_ms && at >= from);
            if gap {
                reaches = false;
                break;
            }
            needed.push(part);
            if enough {
                break;
            }
        }
        needed.reverse();
        let begins = needed.iter().filter_map(|part| part.first_ms).min();
        if !reaches {
            let oldest = needed.first().and_then(|part| part.born_ms);
            let (there_before, since) = match (packed, self.cut_short_ms) {
                (Some(packed), _) => (packed < from, begins),
                (None, Some(cut)) => (cut <= from, Some(begins.unwrap_or(cut))),
                (None, None) => (oldest.is_some_and(|born| born <= from), begins.or(oldest)),
            };
            if !there_before {
                return (needed, Some(Trouble::refused(hole(from, since, packed.is_some()))));
            }
        }
        (needed, None)
    }
}

/// Why a window is not answered in part.
fn hole(from_ms: i64, since: Option<i64>, packed: bool) -> String {
    let since = since
        .map_or_else(|| "it is empty".to_owned(), |ms| format!("it reaches back to {} only", moment(ms)));
    let why = if packed {
        "; what is older has been packed, and is not read: let the rotation leave its newest file as it is (`delaycompress`)"
    } else {
        "; what was before is not there, neither in it nor in a rotated file beside it"
    };
    format!("the window begins at {}, and {since}{why}", moment(from_ms))
}

/// A moment, for people.
pub(super) fn moment(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |moment| moment.to_string())
}

fn milliseconds(moment: SystemTime) -> i64 {
    Timestamp::try_from(moment).map_or(0, Timestamp::as_millisecond)
}

fn same_files(before: &[Beside], after: &[Beside]) -> bool {
    let names = |files: &[Beside]| {
        let mut names: Vec<_> = files.iter().map(|file| (file.path.clone(), file.number)).collect();
        names.sort();
        names
    };
    names(before) == names(after)
}

impl Beside {
    fn named(&self, trouble: &Trouble) -> Trouble {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let message = format!("the rotated file {}: {}", redact(&name), trouble.message);
        Trouble { message, what: trouble.what }
    }
}

fn unreadable(error: &io::Error) -> Trouble {
    Trouble::unreachable(format!("it cannot be read: {error}"))
}

impl Known {
    fn is(&self, part: &Part) -> bool {
        self.id == part.id && self.fits(part)
    }

    fn fits(&self, part: &Part) -> bool {
        self.read_to <= part.size && part.head.starts_with(&self.head)
    }
}

impl Part {
    fn new(file: File, metadata: &Metadata, time_of: &TimeOf<'_>) -> io::Result<Self> {
        let mut part = Self {
            head: head(&file, HEAD)?,
            file,
            id: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            changed_ms: metadata.modified().map_or(0, milliseconds),
            born_ms: metadata.created().ok().map(milliseconds),
            first_ms: None,
        };
        part.first_ms = times(&part, 0, part.size, 1, time_of)?.map(|(_, first)| first);
        Ok(part)
    }

    fn begins_before(&self, ms: i64) -> bool {
        self.first_ms.is_some_and(|first| first < ms)
    }

    /// Whether it has the same lines as the beginning of the other one.
    fn is_copy_of(&self, other: &Self) -> bool {
        let length = usize::try_from(self.size).unwrap_or(usize::MAX).min(4096);
        let same = || Some(head(&self.file, length).ok()? == head(&other.file, length).ok()?);
        self.size > 0 && self.size <= other.size && same() == Some(true)
    }

    /// Whether it still has all that it had when it was opened.
    fn is_whole(&self) -> bool {
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        size >= self.size && head(&self.file, self.head.len()).is_ok_and(|head| head == self.head)
    }
}

fn head(file: &File, length: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; length];
    let mut there = 0;
    while there < length {
        match file.read_at(&mut head[there..], there as u64)? {
            0 => break,
            read => there += read,
        }
    }
    head.truncate(there);
    Ok(head)
}

/// A place before which every line is older than `target_ms`.
fn bisect(part: &Part, target_ms: i64, time_of: &TimeOf<'_>) -> io::Result<u64> {
    let (mut low, mut high) = (0, part.size);
    while high - low > FINE {
        let middle = low + (high - low) / 2;
        match times(part, middle, high, VOICES, time_of)? {
            Some((line, newest)) if newest < target_ms => low = line,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Of the first lines behind a place that are understood: where they begin, and the newest moment.
fn times(
    part: &Part,
    place: u64,
    end: u64,
    voices: usize,
    time_of: &TimeOf<'_>,
) -> io::Result<Option<(u64, i64)>> {
    let mut lines = Lines::new(&part.file, place, if place == 0 { 4 * 1024 } else { 16 * 1024 })?;
    if place > 0 {
        // The middle of a line; one that begins just here is lost with it, which does no harm.
        lines.next()?;
    }
    let mut found: Option<(u64, i64)> = None;
    let mut heard = 0;
    let end = end.min(place.saturating_add(PROBE));
    while heard < voices && lines.offset < end {
        let start = lines.offset;
        let Some(line) = lines.next()? else { break };
        if let Some(moment) = line.and_then(time_of) {
            found = Some(found.map_or((start, moment), |(first, newest)| (first, newest.max(moment))));
            heard += 1;
        }
    }
    Ok(found)
}

/// Shows the lines of a window, from a place on; of what was read before, the end and its moment are known.
/// Returns the place before which nothing of the window's end or later stands, and the one where it stopped.
fn read_part(
    part: &Part,
    (start, read): (u64, Option<(u64, i64)>),
    window: Window,
    disorder_ms: i64,
    each: &mut Each<'_>,
    count: &mut Count,
) -> Result<(u64, u64), Trouble> {
    let mut lines = Lines::new(&part.file, start, 256 * 1024).map_err(|error| unreadable(&error))?;
    let mut behind = 0;
    let mut resume = None;
    let begun = Instant::now();
    loop {
        let offset = lines.offset;
        let Some(line) = lines.next().map_err(|error| unreadable(&error))? else {
            count.bytes += lines.offset - start;
            return Ok((resume.unwrap_or(lines.offset), lines.offset));
        };
        let missed_before = read.filter(|(end, _)| offset >= *end).map(|(_, to_ms)| to_ms);
        match line.map_or(Told::Odd, |line| each(line, missed_before)) {
            Told::Foreign => count.foreign += 1,
            Told::At(moment) => {
                count.understood += 1;
                if moment >= window.to_ms {
                    resume.get_or_insert(offset);
                }
                behind = if moment >= window.to_ms.saturating_add(disorder_ms) { behind + 1 } else { 0 };
                if behind >= BEHIND {
                    count.bytes += lines.offset - start;
                    return Ok((resume.unwrap_or(offset), lines.offset));
                }
            }
            Told::Odd => count.odd(line.unwrap_or(b"a line of more than 256 KiB"))?,
        }
        if (count.understood + count.odd + count.foreign).is_multiple_of(1024)
            && Instant::now() >= window.until
        {
            let megabytes = (lines.offset - start) / 1_000_000;
            let took = show_duration(begun.elapsed().as_secs_f64());
            return Err(Trouble::unreachable(format!(
                "it was not read in time: {megabytes} MB in {took}; give it more with `timeout`"
            )));
        }
    }
}

impl Count {
    fn odd(&mut self, line: &[u8]) -> Result<(), Trouble> {
        if self.odd == 0 {
            self.first_odd = show_line(line);
        }
        // An empty line says nothing, and nothing wrong.
        self.odd += u64::from(!line.is_empty());
        if self.odd >= HOPELESS && self.understood == 0 { self.verdict() } else { Ok(()) }
    }

    fn verdict(&self) -> Result<(), Trouble> {
        let all = self.odd + self.understood;
        let many = self.odd >= ODD_FROM && self.odd as f64 > ODD_SHARE * all as f64;
        if self.odd <= self.understood && !many {
            return Ok(());
        }
        Err(Trouble::babble(format!(
            "{} of {} lines are not understood, the first: {}",
            self.odd, all, self.first_odd
        )))
    }
}

/// The beginning of a line as people may see it: without query strings, for those hold what users keep
/// to themselves.
pub(super) fn show_line(line: &[u8]) -> String {
    let text = redact(&String::from_utf8_lossy(line));
    let mut out = String::new();
    let mut hidden = false;
    for c in text.chars() {
        hidden &= !(c.is_whitespace() || c == '"');
        match c {
            _ if hidden => {}
            '?' => {
                out.push_str("?…");
                hidden = true;
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        if out.chars().count() > 160 {
            return format!("`{out}…`");
        }
    }
    format!("`{out}`")
}

/// The finished lines of a file from a place on.
struct Lines<'f> {
    file: BufReader<&'f File>,
    /// Where the next line begins.
    offset: u64,
    line: Vec<u8>,
}

impl<'f> Lines<'f> {
    fn new(file: &'f File, offset: u64, buffer: usize) -> io::Result<Self> {
        let mut source = file;
        source.seek(SeekFrom::Start(offset))?;
        Ok(Self { file: BufReader::with_capacity(buffer, file), offset, line: Vec::new() })
    }

    /// The next line without its end, or that it is too long; none at the end of what is finished.
    #[expect(clippy::option_option, reason = "a line, a line that is skipped, no line")]
    fn next(&mut self) -> io::Result<Option<Option<&[u8]>>> {
        self.line.clear();
        let mut length = (&mut self.file).take(MAX_LINE).read_until(b'\n', &mut self.line)? as u64;
        let short = self.line.last() == Some(&b'\n');
        if !short && length < MAX_LINE {
            return Ok(None);
        }
        let mut ended = short;
        while !ended {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let found = memchr::memchr(b'\n', bytes);
            ended = found.is_some();
            let used = found.map_or(bytes.len(), |at| at + 1);
            self.file.consume(used);
            length += used as u64;
        }
        self.offset += length;
        if !short {
            return Ok(Some(None));
        }
        self.line.pop();
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(Some(Some(&self.line)))
    }
}
