//! Lines of text that a server writes by a format: which part of a line is which value.

/// A part of a format.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// It stands there as it is.
    Text(Vec<u8>),
    /// A value, kept under a number where it is needed.
    Value {
        /// How its end is found.
        shape: Shape,
        /// Its number.
        slot: Option<usize>,
    },
}

/// How the end of a value is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// It ends before the text that follows it.
    Plain,
    /// The same, with `, ` and ` : ` in it.
    List,
    /// The same, with quotes in it that a backslash stands before.
    Escaped,
    /// So many bytes.
    Fixed(usize),
    /// `{…}`, or nothing at all.
    Braces,
}

impl Piece {
    /// Text.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }

    fn is_needed(&self) -> bool {
        matches!(self, Self::Value { slot: Some(_), .. })
    }
}

/// What comes after the last value that is needed is of no use, but for its first text.
pub(super) fn trim(pieces: &mut Vec<Piece>) {
    let last = pieces.iter().rposition(Piece::is_needed);
    pieces.truncate(last.map_or(0, |last| last + 2));
}

/// Takes a line apart from its beginning on; false when it is not of this format.
pub(super) fn split<'l, const N: usize>(pieces: &[Piece], line: &'l [u8], found: &mut [&'l [u8]; N]) -> bool {
    let mut rest = line;
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        let (shape, slot) = match piece {
            Piece::Text(text) => match rest.strip_prefix(text.as_slice()) {
                Some(after) => {
                    rest = after;
                    continue;
                }
                None => return false,
            },
            Piece::Value { shape, slot } => (*shape, *slot),
        };
        let follows = match pieces.peek() {
            Some(Piece::Text(text)) => text.as_slice(),
            _ => &[],
        };
        if shape == Shape::Braces && !rest.starts_with(b"{") {
            // With the value the space behind it is left out.
            pieces.next_if(|_| follows == b" ");
            continue;
        }
        let Some(length) = shape.length(rest, follows) else { return false };
        if let Some(slot) = slot {
            found[slot] = &rest[..length];
        }
        rest = &rest[length..];
    }
    true
}

/// The same from its end on: every value reaches back to the last text of those before it. What a client
/// wrote further to the left can forge nothing here.
pub(super) fn split_end<'l, const N: usize>(
    pieces: &[Piece],
    line: &'l [u8],
    found: &mut [&'l [u8]; N],
) -> bool {
    let mut rest = line;
    for (number, piece) in pieces.iter().enumerate().rev() {
        let slot = match piece {
            Piece::Text(text) => match rest.strip_suffix(text.as_slice()) {
                Some(before) => {
                    rest = before;
                    continue;
                }
                None => return false,
            },
            Piece::Value { slot, .. } => *slot,
        };
        let before = match number.checked_sub(1).map(|before| &pieces[before]) {
            Some(Piece::Text(text)) => text.as_slice(),
            _ => &[],
        };
        let start = if before.is_empty() {
            0
        } else {
            let Some(at) = memchr::memmem::rfind(rest, before) else { return false };
            at + before.len()
        };
        if let Some(slot) = slot {
            found[slot] = &rest[start..];
        }
        rest = &rest[..start];
    }
    true
}

impl Shape {
    /// How long the value at the beginning of a text is, by what follows it in the format.
    fn length(self, rest: &[u8], follows: &[u8]) -> Option<usize> {
        match self {
            Self::Fixed(length) => return (rest.len() >= length).then_some(length),
            Self::Braces => return memchr::memchr(b'}', rest).map(|at| at + 1),
            _ => {}
        }
        let Some(first) = follows.first() else { return Some(rest.len()) };
        let mut from = 0;
        loop {
            let at = from + memchr::memchr(*first, &rest[from..])?;
            let inside = match self {
                Self::List => *first == b' ' && between(rest, at),
                Self::Escaped => *first == b'"' && is_escaped(rest, at),
                _ => false,
            };
            if !inside && rest[at..].starts_with(follows) {
                return Some(at);
            }
            from = at + 1;
        }
    }
}

/// Whether a space belongs to the `, ` or ` : ` of a list.
fn between(rest: &[u8], at: usize) -> bool {
    let comma = at > 0 && rest[at - 1] == b',';
    let before = rest[at..].starts_with(b" : ");
    let after = at > 1 && rest[at - 2..at] == *b" :";
    comma || before || after
}

/// Whether an odd number of backslashes stands before a place.
fn is_escaped(rest: &[u8], at: usize) -> bool {
    rest[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(shape: Shape, slot: usize) -> Piece {
        Piece::Value { shape, slot: Some(slot) }
    }

    fn found<'l>(of: &[&'l [u8]]) -> Vec<&'l str> {
        of.iter().map(|value| std::str::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn values_end_where_their_shape_says() {
        let pieces = [
            Piece::text("\""),
            value(Shape::Escaped, 0),
            Piece::text("\" "),
            value(Shape::Braces, 1),
            Piece::text(" "),
            value(Shape::List, 2),
            Piece::text(" "),
            value(Shape::Fixed(2), 3),
        ];
        for (line, expected) in [
            (r#""a \" 9 \\" {x|y z} a, b : c 42 more"#, Some([r#"a \" 9 \\"#, "{x|y z}", "a, b : c", "42"])),
            (r#""a" a 42"#, Some(["a", "", "a", "42"])),
            (r#""a\" {} a 42"#, None),
            (r#""a" {x a 42"#, None),
            (r#""a" {} a 4"#, None),
            ("", None),
        ] {
            let mut values = [&[][..]; 4];
            let fits = split(&pieces, line.as_bytes(), &mut values);
            assert_eq!(fits.then(|| found(&values)), expected.map(|e| e.to_vec()), "{line}");
        }
    }

    #[test]
    fn what_stands_further_left_forges_nothing_when_read_from_the_end() {
        let pieces = [
            Piece::text(" \""),
            value(Shape::Plain, 0),
            Piece::text("\" "),
            value(Shape::Plain, 1),
            Piece::text("ms"),
        ];
        for (line, expected) in [
            (r#"agent" "10.0.0.9:80" 9ms" "10.0.0.1:80" 12ms"#, Some(["10.0.0.1:80", "12"])),
            (r#"x "10.0.0.1:80" 12"#, None),
            (r"12ms", None),
        ] {
            let mut values = [&[][..]; 2];
            let fits = split_end(&pieces, line.as_bytes(), &mut values);
            assert_eq!(fits.then(|| found(&values)), expected.map(|e| e.to_vec()), "{line}");
        }
    }
}
