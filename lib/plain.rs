//! Text of others, as it may stand in a line that terminals and CI systems read.
//!
//! A GitHub runner obeys `::command::` at the beginning of a line, whatever blanks stand before it, and `##[command]`
//! wherever it stands (actions/runner, `ActionCommand.cs`); Azure Pipelines `##vso[…]` and TeamCity `##teamcity[…]` in the
//! same way. A terminal obeys escape sequences and carriage returns, as do the folds of GitLab's log; marks of direction
//! let a line read as its opposite.

use std::fmt::Write as _;

/// A text of one or more lines. A line break in it begins no line of its own: what follows is moved in.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            out.push('\n');
            if !line.starts_with("  ") && !line.trim().is_empty() {
                out.push_str("    ");
            }
        }
        out.push_str(&harmless_line(line.strip_suffix('\r').unwrap_or(line)));
    }
    out
}

/// The same on one line: line breaks are shown.
pub fn harmless_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '\t' => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            c if is_unseen(c) => {
                // Writing into a string cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    let out = unbidden(&out);
    let text = out.trim_start();
    if text.starts_with("::") { format!("{}\\{text}", &out[..out.len() - text.len()]) } else { out }
}

/// `##[…]`, `##vso[…]` and the like are no command any more.
fn unbidden(text: &str) -> String {
    each_command(text, "\\")
}

/// The same JSON in bytes that no CI system and no terminal obeys.
pub fn harmless_json(bytes: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // JSON itself has no control but these, and what is not ASCII stands in a text.
        if !c.is_ascii() && is_unseen(c) || c == '\u{7f}' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    if !out.contains("##") {
        return out.into_bytes();
    }
    // Two signs follow each other in texts alone.
    let mut safe = String::with_capacity(out.len());
    let mut rest = out.as_str();
    while let Some(at) = rest.find("##") {
        safe.push_str(&rest[..=at]);
        safe.push_str("\\u0023");
        rest = &rest[at + 2..];
    }
    safe.push_str(rest);
    safe.into_bytes()
}

/// Puts something before the bracket of each command of that form.
fn each_command(text: &str, between: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("##") {
        let after = &rest[at + 2..];
        let name = after.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let (head, tail) = rest.split_at(at + 2 + name);
        if tail.starts_with('[') {
            out.push_str(head);
            out.push_str(between);
            rest = tail;
        } else {
            // The second sign may be the first one of a command.
            out.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    out
}

/// Whether nobody sees it: controls, marks of direction, characters without a width.
pub fn is_unseen(c: char) -> bool {
    crate::redact::is_unseen(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a GitHub runner would look for a command in the line: the conditions of `TryParseV2` and `TryParse`, and
    /// those of the others for the same.
    fn is_a_command(line: &str) -> bool {
        let bracket = line.match_indices("##").any(|(at, _)| {
            line[at + 2..].trim_start_matches(|c: char| c.is_ascii_alphanumeric()).starts_with('[')
        });
        line.trim_start().starts_with("::") || bracket
    }

    const HOSTILE: &[&str] = &[
        "::add-mask::pass",
        "   ::add-mask::pass",
        "\u{a0}\u{3000}::stop-commands::x",
        "\t::error::x",
        "##[add-path]/tmp",
        "1 ##[stop-commands]q",
        "x\n::add-mask::pass",
        "x\r::add-mask::pass",
        "x\r\n  ::add-mask::x",
        "###[group]",
        "####[x]##[y]",
        "##vso[task.setvariable variable=x]y",
        "##teamcity[buildStatus]",
        "\u{1b}[2K\u{1b}]0;title\u{7}",
        "section_start:1:x\r\u{1b}[0K",
        "#\u{200b}#[group]x",
        "#\u{ad}#[group]x",
        ":\u{200d}:warning::x",
        "\u{feff}::warning::x",
        "\u{2028}::warning::x",
        "\u{85}::warning::x",
        "\u{0}::warning::x",
        "\u{202e}kcatta\u{202c}",
        "\u{9b}2K",
        "\u{b}::error::x",
        "\u{c}::error::x",
        "##[",
        "##",
        "::",
        "#",
        "a##b[c]",
        "##a1[b]",
    ];

    #[test]
    fn nothing_that_others_wrote_is_a_command() {
        let every_start = ["", " ", "x", "✓ ", "#", "##", ":", "::", "\n", "\r", "\u{feff}"];
        for text in
            HOSTILE.iter().flat_map(|text| every_start.iter().map(move |start| format!("{start}{text}")))
        {
            for shown in [harmless(&text), harmless_line(&text)] {
                for line in shown.split('\n') {
                    assert!(!is_a_command(line), "{text:?} is shown as {line:?}");
                }
                let unseen: Vec<char> =
                    shown.chars().filter(|c| is_unseen(*c) && !"\t\n".contains(*c)).collect();
                assert!(unseen.is_empty(), "{text:?}: {unseen:?}");
            }
            assert!(!harmless_line(&text).contains('\n'), "{text:?}");
            // A line of somebody else's is never taken for one of ours.
            assert!(
                harmless(&text)
                    .split('\n')
                    .skip(1)
                    .all(|line| line.starts_with("  ") || line.trim().is_empty())
            );
            let json = serde_json::to_vec(&serde_json::json!({ "a": text, text.as_str(): ["x"] })).unwrap();
            let safe = harmless_json(&json);
            let said = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
            assert_eq!(said(&safe), said(&json), "{text:?}");
            let safe = String::from_utf8(safe).unwrap();
            assert!(!is_a_command(&safe) && !safe.contains(is_unseen), "{text:?}: {safe}");
        }
    }

    #[test]
    fn what_is_harmless_stays() {
        for text in [
            "",
            "a",
            "a: b",
            "std::fs",
            "# heading",
            "## heading",
            "a ## [b]",
            "5 %\n  at: x:1:2",
            "é ✓ 日本",
            "a[b]##",
            "\t- x",
        ] {
            assert_eq!(harmless(text), text);
        }
        assert_eq!(harmless("a\nb"), "a\n    b");
        assert_eq!(harmless("a ##[b]c\n ::d::"), "a ##\\[b]c\n     \\::d::");
        assert_eq!(harmless("a\r\n\u{1b}[1mb"), "a\n    \\e[1mb");
    }
}
