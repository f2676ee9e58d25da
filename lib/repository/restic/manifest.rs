//! The SHA-256 of every file, kept inside a snapshot as `sha256sum` writes it: whoever restores with
//! plain restic can check with `sha256sum --check`.

use std::collections::HashMap;
use std::fmt::Write;

use super::id::Id;

/// The whole of it.
pub(super) fn text(lines: &[(Vec<u8>, Id)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (path, sha256) in lines {
        line(path, *sha256, &mut text);
    }
    text
}

/// One line.
pub(super) fn line(path: &[u8], sha256: Id, out: &mut Vec<u8>) {
    let odd = path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    let mut start = String::new();
    // Writing to a string cannot fail.
    let _ = write!(start, "{}{sha256}  ", if odd { "\\" } else { "" });
    out.extend_from_slice(start.as_bytes());
    for byte in path {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.push(*byte),
        }
    }
    out.push(b'\n');
}

/// Reads it; lines that are none are passed over.
pub(super) fn parse(bytes: &[u8]) -> HashMap<Vec<u8>, Id> {
    bytes.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, Id)> {
    let (odd, line) = line.strip_prefix(b"\\").map_or((false, line), |rest| (true, rest));
    let (digits, rest) = line.split_at_checked(64)?;
    let id = Id::parse(std::str::from_utf8(digits).ok()?)?;
    let path = rest.strip_prefix(b"  ")?;
    if !odd {
        return Some((path.to_vec(), id));
    }
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some((plain, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_come_back() {
        let mut text = Vec::new();
        let paths: [&[u8]; 3] = [b"a/plain name", b"a/back\\slash\nand\rbreaks", b"a/\xff"];
        for path in paths {
            line(path, Id::of(path), &mut text);
        }
        let read = parse(&text);
        assert_eq!(read.len(), 3);
        for path in paths {
            assert_eq!(read[path], Id::of(path));
        }
        assert!(parse(b"nonsense\n\\\n\n").is_empty());
    }
}
