//! Names in trees: restic writes them as Go's `strconv.Quote` does, without the outer quotes, and the
//! whole as Go's `encoding/json` does. Names are bytes, and whatever they are, they come back.

use std::fmt::Write;

/// Quotes a name.
pub(super) fn quote(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            quote_letter(letter, &mut out);
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn quote_letter(letter: char, out: &mut String) {
    match letter {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        ' '..='~' => out.push(letter),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        // Writing to a string cannot fail.
        '\0'..='\x1f' | '\x7f' => drop(write!(out, "\\x{:02x}", u32::from(letter))),
        _ if printable(letter) => out.push(letter),
        '\u{80}'..='\u{ffff}' => drop(write!(out, "\\u{:04x}", u32::from(letter))),
        _ => drop(write!(out, "\\U{:08x}", u32::from(letter))),
    }
}

/// Letters, marks, numbers, punctuation and symbols, as Go's `unicode.IsPrint` has it.
fn printable(letter: char) -> bool {
    // The first letter keeps the standard library from quoting marks that combine.
    let text: String = ['a', letter].iter().collect();
    !text.escape_debug().skip(1).eq(letter.escape_unicode())
}

/// Takes the quotes off; none when it is not what [`quote`] or restic wrote.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    if !text.contains(['\\', '"', '\n']) {
        return Some(text.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' | '\n' => return None,
            '\\' => {}
            _ => {
                push(&mut out, letter);
                continue;
            }
        }
        match letters.next()? {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            plain @ ('\\' | '"') => push(&mut out, plain),
            'x' => out.push(u8::try_from(number(&mut letters, 2, 16)?).ok()?),
            'u' => push(&mut out, char::from_u32(number(&mut letters, 4, 16)?)?),
            'U' => push(&mut out, char::from_u32(number(&mut letters, 8, 16)?)?),
            first @ '0'..='7' => {
                let high = first.to_digit(8)? * 64;
                out.push(u8::try_from(high + number(&mut letters, 2, 8)?).ok()?);
            }
            _ => return None,
        }
    }
    Some(out)
}

fn push(out: &mut Vec<u8>, letter: char) {
    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

fn number(letters: &mut std::str::Chars<'_>, digits: u32, base: u32) -> Option<u32> {
    (0..digits).try_fold(0_u32, |sum, _| sum.checked_mul(base)?.checked_add(letters.next()?.to_digit(base)?))
}

/// Appends a JSON string as Go writes it: `<`, `>`, `&` and two line separators are escaped too.
pub(super) fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_go_does_it_and_come_back() {
        for (name, quoted) in [
            (&b"plain name.txt"[..], "plain name.txt"),
            (b"bad\xff\x01\"name", "bad\\xff\\x01\\\"name"),
            (b"a\\b\n\t\x07\x08\x0b\x0c\r\x7f", "a\\\\b\\n\\t\\a\\b\\v\\f\\r\\x7f"),
            ("größe 猫 😀".as_bytes(), "größe 猫 😀"),
            ("e\u{301}".as_bytes(), "e\u{301}"),
            ("\u{a0}\u{ad}\u{200b}\u{85}".as_bytes(), "\\u00a0\\u00ad\\u200b\\u0085"),
            ("\u{e0001}".as_bytes(), "\\U000e0001"),
            ("\u{fffd}".as_bytes(), "\u{fffd}"),
        ] {
            assert_eq!(quote(name), quoted);
            assert_eq!(unquote(quoted).unwrap(), name);
        }
        assert_eq!(unquote("\\101\\u00e9").unwrap(), "Aé".as_bytes());
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unquote(&quote(&all)).unwrap(), all);
    }

    #[test]
    fn nonsense_is_not_taken_for_a_name() {
        for wrong in ["a\"", "a\\", "\\q", "\\x4", "\\xzz", "\\ud800", "\\U00110000", "\\777", "a\nb", "\\'"]
        {
            assert_eq!(unquote(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn strings_are_those_of_go() {
        let mut out = String::new();
        json_string("a\"\\<&>\u{2028}\u{1}é\n", &mut out);
        assert_eq!(out, "\"a\\\"\\\\\\u003c\\u0026\\u003e\\u2028\\u0001é\\n\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\"\\<&>\u{2028}\u{1}é\n");
    }
}
