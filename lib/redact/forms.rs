//! The ways in which a secret is written down by programs that print it: escaped for JSON, for a URL, for XML, for a
//! shell, in base64, with colours or line breaks in it.
//!
//! A text is not compared with every form that a secret may take, for there are too many: it is read as somebody would
//! who undoes one way of writing, and what is found there is hidden where it came from.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// A text with one way of writing undone, and where each byte of it came from.
pub(super) struct View {
    pub(super) text: String,
    from: Vec<(usize, usize)>,
}

impl View {
    fn with_room(room: usize) -> Self {
        Self { text: String::with_capacity(room), from: Vec::with_capacity(room) }
    }

    fn push(&mut self, c: char, from: Range<usize>) {
        self.text.push(c);
        self.from.extend(std::iter::repeat_n((from.start, from.end), c.len_utf8()));
    }

    /// Where a part of it stands in the text that it was made from.
    pub(super) fn back(&self, part: &Range<usize>) -> Range<usize> {
        let first = self.from.get(part.start).map_or(0, |from| from.0);
        let last = part.end.checked_sub(1).and_then(|at| self.from.get(at)).map_or(first, |from| from.1);
        first..last.max(first)
    }
}

/// One way of writing: what it begins with, and how a piece that begins so is read.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// A text without this has nothing to undo.
    mark: fn(&str) -> bool,
    /// The characters that the beginning stands for, and its length in bytes; none where it stands for itself.
    read: fn(&str) -> Option<(Read, usize)>,
}

enum Read {
    One(char),
    /// The same character several times.
    Many(char, usize),
    /// Several bytes, which may be one character together with those that follow.
    Byte(u8),
    Nothing,
}

/// The ways that are found inside of one another.
pub(super) const NESTED: [Way; 4] = [
    Way { mark: |text| text.contains('\\'), read: backslash },
    Way { mark: |text| text.contains(['%', '+']), read: percent },
    Way { mark: |text| text.contains('&'), read: entity },
    Way { mark: has_unseen, read: unseen },
];
/// The others.
pub(super) const PLAIN: [Way; 6] = [
    Way { mark: |text| text.contains('='), read: quoted_printable },
    Way { mark: |text| text.contains(['\n', '\r']), read: line_break },
    Way { mark: |text| text.contains('\''), read: quote },
    Way {
        mark: |text| text.contains("$$"),
        read: |rest| rest.starts_with("$$").then_some((Read::One('$'), 2)),
    },
    Way { mark: |text| text.contains('^'), read: |rest| after(rest, '^') },
    Way { mark: |text| text.contains('`') || text.contains("\"\""), read: backtick },
];

impl Way {
    /// The text read so; none where that is the text itself.
    pub(super) fn undo(self, text: &str) -> Option<View> {
        if !(self.mark)(text) {
            return None;
        }
        let mut view = View::with_room(text.len());
        let mut bytes: Vec<(u8, usize, usize)> = Vec::new();
        let (mut at, mut changed) = (0, false);
        while let Some(c) = text[at..].chars().next() {
            match (self.read)(&text[at..]) {
                Some((Read::Byte(byte), length)) => {
                    bytes.push((byte, at, at + length));
                    (at, changed) = (at + length, true);
                }
                read => {
                    flush(&mut view, &mut bytes);
                    let (read, times, length) = match read {
                        Some((Read::One(read), length)) => (read, 1, length),
                        Some((Read::Many(read, times), length)) => (read, times, length),
                        Some((_, length)) => (c, 0, length),
                        None => (c, 1, c.len_utf8()),
                    };
                    changed |= (read, times, length) != (c, 1, c.len_utf8());
                    for _ in 0..times {
                        view.push(read, at..at + length);
                    }
                    at += length;
                }
            }
        }
        flush(&mut view, &mut bytes);
        changed.then_some(view)
    }
}

/// Bytes that were written one by one become the characters that they are together.
fn flush(view: &mut View, bytes: &mut Vec<(u8, usize, usize)>) {
    if bytes.is_empty() {
        return;
    }
    let plain: Vec<u8> = bytes.iter().map(|(byte, ..)| *byte).collect();
    let mut at = 0;
    for chunk in plain.utf8_chunks() {
        let broken = (!chunk.invalid().is_empty()).then_some('\u{fffd}');
        for c in chunk.valid().chars() {
            view.push(c, bytes[at].1..bytes[at + c.len_utf8() - 1].2);
            at += c.len_utf8();
        }
        if let Some(c) = broken {
            let end = at + chunk.invalid().len();
            view.push(c, bytes[at].1..bytes[end - 1].2);
            at = end;
        }
    }
    bytes.clear();
}

fn after(rest: &str, mark: char) -> Option<(Read, usize)> {
    let next = rest.strip_prefix(mark)?.chars().next()?;
    Some((Read::One(next), mark.len_utf8() + next.len_utf8()))
}

/// JSON, C, Python, Rust, and a shell's `\x`.
fn backslash(rest: &str) -> Option<(Read, usize)> {
    let inside = rest.strip_prefix('\\')?;
    let c = inside.chars().next()?;
    let hex = |from: usize, digits: usize| {
        let text = inside.get(from..from + digits).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(text, 16).ok()
    };
    let one = |c| Some((Read::One(c), 2));
    match c {
        'n' => one('\n'),
        'r' => one('\r'),
        't' => one('\t'),
        'b' => one('\u{8}'),
        'f' => one('\u{c}'),
        'u' if inside.starts_with("u{") => {
            let end = inside.find('}').filter(|end| *end <= 8)?;
            let c = u32::from_str_radix(&inside[2..end], 16).ok().and_then(char::from_u32)?;
            Some((Read::One(c), end + 2))
        }
        'u' => match hex(1, 4) {
            Some(high @ 0xd800..=0xdbff) if inside[5..].starts_with("\\u") => {
                let low = hex(7, 4).filter(|low| (0xdc00..=0xdfff).contains(low))?;
                let c = char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?;
                Some((Read::One(c), 12))
            }
            Some(number) => Some((Read::One(char::from_u32(number)?), 6)),
            None => one('u'),
        },
        // A shell's `$'\\160'` and what git quotes; Python's `\\0` is one as well.
        '0'..='3' if inside.len() >= 3 && inside.bytes().take(3).all(|b| (b'0'..=b'7').contains(&b)) => {
            Some((Read::Byte(u8::from_str_radix(&inside[..3], 8).ok()?), 4))
        }
        'x' => match hex(1, 2) {
            Some(byte) => Some((Read::Byte(u8::try_from(byte).ok()?), 4)),
            None => one('x'),
        },
        c => Some((Read::One(c), 1 + c.len_utf8())),
    }
}

/// A URL's `%40`, and `+` for a blank.
fn percent(rest: &str) -> Option<(Read, usize)> {
    if rest.starts_with('+') {
        return Some((Read::One(' '), 1));
    }
    let hex = rest.strip_prefix('%')?.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some((Read::Byte(u8::from_str_radix(hex, 16).ok()?), 3))
}

/// Mail's `=3D`, and its `=` at the end of a line that goes on.
fn quoted_printable(rest: &str) -> Option<(Read, usize)> {
    let inside = rest.strip_prefix('=')?;
    let blanks = inside.len() - inside.trim_start_matches([' ', '\t']).len();
    for end in ["\r\n", "\n"] {
        if inside[blanks..].starts_with(end) {
            return Some((Read::Nothing, 1 + blanks + end.len()));
        }
    }
    let hex = inside.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some((Read::Byte(u8::from_str_radix(hex, 16).ok()?), 3))
}

/// XML's and HTML's `&lt;`, `&#60;`, `&#x3c;`.
fn entity(rest: &str) -> Option<(Read, usize)> {
    let inside = rest.strip_prefix('&')?;
    let end = inside.bytes().take(9).position(|b| b == b';')?;
    let name = &inside[..end];
    let c = match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        _ => {
            let number = name.strip_prefix('#')?;
            let hex = number.strip_prefix(['x', 'X']).map(|hex| u32::from_str_radix(hex, 16));
            char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)?
        }
    };
    Some((Read::One(c), end + 2))
}

/// Whether a reader does not see it: controls, marks of direction, characters without a width.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn has_unseen(text: &str) -> bool {
    text.chars().any(|c| c != '\t' && is_unseen(c))
}

/// Colours and other escape sequences of terminals, line breaks with the blanks after them, and all that is not seen.
fn unseen(rest: &str) -> Option<(Read, usize)> {
    let c = rest.chars().next().filter(|c| *c != '\t' && is_unseen(*c))?;
    let length = match c {
        '\u{1b}' => escape_sequence(rest),
        '\n' | '\r' => rest.len() - rest.trim_start_matches(['\n', '\r', ' ', '\t']).len(),
        c => c.len_utf8(),
    };
    Some((Read::Nothing, length))
}

/// Line breaks alone: the blanks after them may belong to what is broken.
fn line_break(rest: &str) -> Option<(Read, usize)> {
    if rest.starts_with(['\n', '\r']) { Some((Read::Nothing, 1)) } else { None }
}

/// The length of the escape sequence that a text begins with (ECMA-48).
fn escape_sequence(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let end = |from: usize, is_end: fn(u8) -> bool| {
        let found = bytes[from..].iter().take(4096).position(|b| is_end(*b));
        found.map_or(1, |at| from + at + 1)
    };
    let length = match bytes.get(1) {
        Some(b'[') => end(2, |b| (0x40..=0x7e).contains(&b)),
        Some(b']' | b'P' | b'_' | b'^') => end(2, |b| b == 7 || b == 0x1b || b == b'\\'),
        Some(0x40..=0x5f) => 2,
        _ => 1,
    };
    if rest.is_char_boundary(length) { length } else { 1 }
}

/// A quote inside of quotes: `'\''` and `'"'"'` of shells, `''` of SQL and PowerShell.
fn quote(rest: &str) -> Option<(Read, usize)> {
    for form in [r"'\''", "''"] {
        if rest.starts_with(form) {
            return Some((Read::One('\''), form.len()));
        }
    }
    let inside = rest.strip_prefix("'\"")?;
    let quotes = inside.bytes().take_while(|b| *b == b'\'').count();
    let whole = quotes > 0 && inside[quotes..].starts_with("\"'");
    whole.then_some((Read::Many('\'', quotes), quotes + 4))
}

/// PowerShell's and cmd's: `` `" `` and `""`.
fn backtick(rest: &str) -> Option<(Read, usize)> {
    if rest.starts_with("\"\"") { Some((Read::One('"'), 2)) } else { after(rest, '`') }
}

/// Base64 as programs write it and cut it off.
static LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The pieces of a text that may be base64, each with what it says at each of the four places where it may begin.
pub(super) fn base64(text: &str) -> impl Iterator<Item = (Range<usize>, Vec<u8>)> {
    let mut at = 0;
    let pieces = std::iter::from_fn(move || {
        let bytes = text.as_bytes();
        while at < bytes.len() {
            let start = at;
            while at < bytes.len() && is_base64(bytes[at]) {
                at += 1;
            }
            let length = at - start;
            while length > 0 && at < bytes.len() && bytes[at] == b'=' {
                at += 1;
            }
            let run = start..at;
            at += 1;
            if length >= SHORTEST {
                return Some(run);
            }
        }
        None
    });
    pieces.flat_map(move |run| {
        let plain: Vec<u8> = text.as_bytes()[run.clone()]
            .iter()
            .filter(|byte| **byte != b'=')
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                byte => *byte,
            })
            .collect();
        (0..4).filter_map(move |skip| {
            let mut piece = plain.get(skip..)?;
            if piece.len() % 4 == 1 {
                piece = &piece[..piece.len() - 1];
            }
            let said = LENIENT.decode(piece).ok()?;
            Some((run.clone(), said))
        })
    })
}

/// What bytes may say: as UTF-8, and where there are zeros among them as UTF-16, as PowerShell encodes its commands.
pub(super) fn readings(bytes: &[u8]) -> Vec<String> {
    let mut readings = vec![String::from_utf8_lossy(bytes).into_owned()];
    if bytes.contains(&0) {
        for skip in 0..2 {
            let (pairs, _) = bytes.get(skip..).unwrap_or_default().as_chunks::<2>();
            for order in [u16::from_le_bytes, u16::from_be_bytes] {
                let units: Vec<u16> = pairs.iter().map(|pair| order(*pair)).collect();
                readings.push(String::from_utf16_lossy(&units));
            }
        }
    }
    readings
}

/// The shortest piece that is read as base64.
const SHORTEST: usize = 6;

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte)
}

/// Other spellings of a secret that its readers print: what stands in its quotes, what a shell makes of its backslashes,
/// what a URL's `%40` stands for, and the parts that PowerShell shows of it when it stumbles over an ampersand.
pub(super) fn spellings(secret: &str) -> Vec<Cow<'_, str>> {
    let mut found: Vec<Cow<'_, str>> = Vec::new();
    for quote in ['"', '\''] {
        let inside = secret.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        found.extend(inside.filter(|inside| !inside.is_empty()).map(Cow::Borrowed));
    }
    for way in [NESTED[0], NESTED[1], NESTED[3]] {
        found.extend(way.undo(secret).map(|view| Cow::Owned(view.text)));
    }
    if secret.contains('\\') {
        found.push(Cow::Owned(secret.replace('\\', "")));
    }
    if secret.contains('+') {
        found.push(Cow::Owned(super::decoded(secret)));
    }
    let parts = match secret.find("&+") {
        // The letter after it is shown in another colour.
        Some(at) => [secret.get(..at + 2), secret.get(at + 3..)],
        None => match secret.rfind('&') {
            Some(at) => [secret.get(..=at), secret.get(at + 1..)],
            None => [None, None],
        },
    };
    found.extend(parts.into_iter().flatten().filter(|part| part.chars().count() >= 6).map(Cow::Borrowed));
    found
}
