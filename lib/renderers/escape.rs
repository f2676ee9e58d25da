//! Makes any text harmless in the language that it is about to be written in.

/// The text without terminal escapes and without characters that XML 1.0 forbids, as text lines.
///
/// Carriage returns become line breaks; tabs and line breaks stay; other controls, U+FFFE and U+FFFF
/// go. Source: XML 1.0 (Fifth Edition), production 2 `Char`; ECMA-48 for the escapes.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' => skip_terminal_escape(&mut characters),
            '\r' if characters.peek() == Some(&'\n') => {}
            '\r' => out.push('\n'),
            '\t' | '\n' => out.push(c),
            // The bidirectional overrides can make a line read as its opposite.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

fn skip_terminal_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.peek() {
        Some('[') => {
            characters.next();
            while let Some(c) = characters.next_if(|c| ('\u{20}'..='\u{7e}').contains(c)) {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    break;
                }
            }
        }
        Some(']') => {
            // A title or a link: it ends with BEL or with ESC \; without an end only the sign goes.
            characters.next();
            let rest = characters.clone().take(4096).position(|c| c == '\u{7}' || c == '\u{1b}');
            if let Some(end) = rest {
                let closed_by_escape = characters.nth(end) == Some('\u{1b}');
                if closed_by_escape {
                    characters.next_if_eq(&'\\');
                }
            }
        }
        Some('\u{40}'..='\u{5f}') => {
            characters.next();
        }
        _ => {}
    }
}

/// The text on one line.
pub fn one_line(text: &str) -> String {
    plain(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `limit` characters, with a note on what is left out.
pub fn clip(text: &str, limit: usize) -> String {
    crate::units::clipped(text, limit)
}

/// Text inside XML or HTML elements and double-quoted attributes.
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Text inside Markdown, on one line: no markup, no HTML, no mention, no workflow command, no link.
///
/// Backslash escapes stand for ASCII punctuation (CommonMark 0.31, section 2.4); `<`, `>`, `&`, `@`
/// and `:` become character references, for `@name` and bare addresses are found after escapes.
pub fn markdown(text: &str) -> String {
    let text = one_line(text);
    let mut out = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '@' => out.push_str("&#64;"),
            // `::` begins a workflow command, `://` an address.
            ':' if text[at + 1..].starts_with([':', '/']) || text[..at].ends_with(':') => {
                out.push_str("&#58;");
            }
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '#' | '|' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            // At the start of a line these make lists and headings.
            '-' | '+' | '=' if at == 0 => {
                out.push('\\');
                out.push(c);
            }
            '.' | ')' if at > 0 && ends_number(&text, at) => {
                out.push('\\');
                out.push(c);
            }
            '.' if text[..at].to_ascii_lowercase().ends_with("www") => out.push_str("&#46;"),
            c => out.push(c),
        }
    }
    out
}

/// Whether the character at `at` makes a numbered list of the digits in front of it.
fn ends_number(text: &str, at: usize) -> bool {
    let rest = &text[at + 1..];
    text[..at].bytes().all(|b| b.is_ascii_digit()) && (rest.is_empty() || rest.starts_with(' '))
}

/// The text with spaces that do not break between a figure and its unit or its comparison.
pub fn glued(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let unit = before.is_ascii_digit()
            && ["%", "ms", "s ", "s,", "h ", "min", "B", "KiB", "MiB", "GiB"]
                .iter()
                .any(|u| text[at + c.len_utf8()..].starts_with(u));
        let glue = c == ' ' && ("<>≤≥=".contains(before) || unit);
        out.push(if glue { '\u{a0}' } else { c });
        before = c;
    }
    out
}

/// A comparison as people write it.
pub fn comparison(text: &str) -> String {
    text.replace("<=", "≤").replace(">=", "≥").replace("!=", "≠")
}

/// An inline code span, safe inside a table: the fence is longer than any run of backticks in it.
pub fn code_span(text: &str) -> String {
    let text = one_line(text).replace('|', "\\|");
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// A fenced block: the fence is longer than any run of backticks in it.
pub fn code_block(text: &str) -> String {
    let text = plain(text);
    let fence = "`".repeat(longest_run(&text).max(2) + 1);
    format!("{fence}sh\n{}\n{fence}", text.trim_end_matches('\n'))
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// A word of a shell command, quoted where it needs to be.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The address, where a page may link to it: `http` and `https` only, without spaces and controls.
pub fn link(url: &str) -> Option<String> {
    let plain = !url.chars().any(|c| c.is_whitespace() || c.is_control());
    let known = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    (plain && known && url.len() < 2048).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_takes_out_what_xml_forbids_and_terminals_obey() {
        let cases = [
            ("a\u{0}b\u{8}c\u{b}d\u{1f}e\u{7f}f\u{85}g", "abcdefg"),
            ("\u{1b}[31;1mred\u{1b}[0m", "red"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{7}", "link"),
            ("\u{1b}]never closed", "never closed"),
            ("a\r\nb\rc\n\td", "a\nb\nc\n\td"),
            ("\u{fffe}x\u{ffff}y\u{fffd}", "xy\u{fffd}"),
            ("\u{202e}evil\u{2066}", "evil"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
        ];
        for (given, wanted) in cases {
            assert_eq!(plain(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn markdown_makes_no_markup_of_a_text() {
        assert_eq!(markdown("a|b`c<d>@e\n::f::"), "a\\|b\\`c&lt;d&gt;&#64;e &#58;&#58;f&#58;&#58;");
        assert_eq!(markdown("# x"), "\\# x");
        assert_eq!(markdown("- x"), "\\- x");
        assert_eq!(markdown("12. x"), "12\\. x");
        assert_eq!(markdown("![x](https://y)"), "\\!\\[x\\](https&#58;//y)");
        assert_eq!(markdown("at 12:30, 3.1 ms"), "at 12:30, 3.1 ms");
    }

    #[test]
    fn code_outlasts_its_backticks() {
        assert_eq!(code_span("a`b"), "``a`b``");
        assert_eq!(code_span("`a"), "`` `a ``");
        assert_eq!(code_block("x\n```\ny"), "````sh\nx\n```\ny\n````");
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("release.yaml"), "release.yaml");
        assert_eq!(shell_word("my plan.yaml"), "'my plan.yaml'");
        assert_eq!(shell_word("a'b;$(x)"), r"'a'\''b;$(x)'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn only_web_addresses_become_links() {
        assert_eq!(link("https://ci.example/1").as_deref(), Some("https://ci.example/1"));
        for bad in ["javascript:alert(1)", "data:text/html,x", "https://a b", "//x", "HTTPS://x\n"] {
            assert_eq!(link(bad), None, "{bad}");
        }
    }

    #[test]
    fn clip_says_how_much_it_left_out() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüß", 3), "äöü… (1 more character)");
    }
}
