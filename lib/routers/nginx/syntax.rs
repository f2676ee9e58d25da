//! nginx's configuration language: words, quotes, escapes, comments, blocks.
//!
//! It reads what nginx reads, so that a comment, a quoted brace or a directive over several lines deceives
//! nobody. Source of the rules: `ngx_conf_read_token` in nginx's `src/core/ngx_conf_file.c`. Blocks of Lua (OpenResty)
//! are skipped as its own scanner does.

use std::iter::Peekable;
use std::slice::Iter;

/// A directive: its words, and its block where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// Its name and its arguments, without their quotes.
    pub(super) words: Vec<String>,
    /// The line that its first word begins on, from 1.
    pub(super) line: usize,
    /// What is between its braces.
    pub(super) block: Option<Vec<Directive>>,
}

impl Directive {
    /// Its first word.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The first word behind its name.
    pub(super) fn argument(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }

    /// What is in its block.
    pub(super) fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Its words as one would write them, for a message.
    pub(super) fn shown(&self) -> String {
        let end = if self.block.is_some() { " { … }" } else { ";" };
        format!("{}{end}", self.words.join(" "))
    }
}

/// Why a text is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The line, from 1.
    pub(super) line: usize,
    /// What is wrong there.
    pub(super) why: &'static str,
}

/// No real configuration nests deeper; nginx itself has five levels.
const DEEPEST: usize = 64;

/// Reads a configuration, or a part of one.
///
/// Errors: where nginx would stop reading too.
pub(super) fn parse(text: &str) -> Result<Vec<Directive>, Broken> {
    let mut reader = Reader { bytes: text.as_bytes().iter().peekable(), line: 1 };
    let mut open: Vec<Directive> = Vec::new();
    let mut here: Vec<Directive> = Vec::new();
    let mut outside: Vec<Vec<Directive>> = Vec::new();
    loop {
        let (words, line, end) = reader.directive()?;
        let broken = |why| Err(Broken { line, why });
        match end {
            End::Text if !words.is_empty() => return broken("a directive does not end with `;`"),
            End::Text => match open.last() {
                Some(directive) => {
                    return Err(Broken { line: directive.line, why: "a block is not closed by `}`" });
                }
                None => return Ok(here),
            },
            End::Semicolon if words.is_empty() => return broken("there is a `;` without a directive"),
            End::Semicolon => here.push(Directive { words, line, block: None }),
            End::Open if words.is_empty() => return broken("there is a `{` without a directive"),
            End::Open if words[0].ends_with("_by_lua_block") => {
                reader.skip_lua()?;
                here.push(Directive { words, line, block: Some(Vec::new()) });
            }
            End::Open if open.len() >= DEEPEST => return broken("blocks are nested too deeply"),
            End::Open => {
                open.push(Directive { words, line, block: None });
                outside.push(std::mem::take(&mut here));
            }
            End::Close if !words.is_empty() => return broken("there is a `}` within a directive"),
            End::Close => {
                let (Some(mut directive), Some(around)) = (open.pop(), outside.pop()) else {
                    return broken("there is a `}` too many");
                };
                directive.block = Some(std::mem::replace(&mut here, around));
                here.push(directive);
            }
        }
    }
}

/// What ends a run of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Semicolon,
    Open,
    Close,
    Text,
}

struct Reader<'a> {
    bytes: Peekable<Iter<'a, u8>>,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.next()?;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn peek(&mut self) -> Option<u8> {
        self.bytes.peek().map(|byte| **byte)
    }

    /// The words up to the next `;`, `{` or `}`, the line of the first of them, and what ended them.
    fn directive(&mut self) -> Result<(Vec<String>, usize, End), Broken> {
        let (mut words, mut first) = (Vec::new(), None);
        loop {
            while self.peek().is_some_and(is_space) {
                self.next();
            }
            let line = *first.get_or_insert(self.line);
            let end = match self.peek() {
                None => End::Text,
                Some(b';') => End::Semicolon,
                Some(b'{') => End::Open,
                Some(b'}') => End::Close,
                // A `#` within a word is a letter like any other.
                Some(b'#') => {
                    while self.next().is_some_and(|byte| byte != b'\n') {}
                    if words.is_empty() {
                        first = None;
                    }
                    continue;
                }
                Some(quote @ (b'"' | b'\'')) => {
                    words.push(self.quoted(quote)?);
                    continue;
                }
                Some(_) => {
                    words.push(self.bare());
                    continue;
                }
            };
            self.next();
            return Ok((words, line, end));
        }
    }

    /// A word up to a space, a `;` or a `{`. A quote or a `}` within it is a letter; `${` opens no block.
    fn bare(&mut self) -> String {
        let (mut word, mut variable) = (Vec::new(), false);
        while let Some(byte) = self.peek() {
            if is_space(byte) || byte == b';' || (byte == b'{' && !variable) {
                break;
            }
            variable = byte == b'$';
            self.letter(byte, &mut word);
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    /// A word between quotes; what follows must end it, or be a `)` as in `if ($x = "y")`.
    fn quoted(&mut self, quote: u8) -> Result<String, Broken> {
        let begun = self.line;
        self.next();
        let mut word = Vec::new();
        loop {
            match self.peek() {
                None => return Err(Broken { line: begun, why: "a quote is not closed" }),
                Some(byte) if byte == quote => break,
                Some(byte) => self.letter(byte, &mut word),
            }
        }
        self.next();
        if self.peek() == Some(b')') {
            // nginx begins another word with it.
            return Ok(String::from_utf8_lossy(&word).into_owned());
        }
        if !self.peek().is_none_or(|byte| is_space(byte) || byte == b';' || byte == b'{') {
            return Err(Broken {
                line: self.line,
                why: "a quoted word is not followed by a space, `;` or `{`",
            });
        }
        Ok(String::from_utf8_lossy(&word).into_owned())
    }

    /// Takes a letter, two where it is a backslash.
    fn letter(&mut self, byte: u8, word: &mut Vec<u8>) {
        self.next();
        if byte != b'\\' {
            return word.push(byte);
        }
        match self.next() {
            Some(other @ (b'"' | b'\'' | b'\\')) => word.push(other),
            Some(b't') => word.push(b'\t'),
            Some(b'r') => word.push(b'\r'),
            Some(b'n') => word.push(b'\n'),
            Some(other) => word.extend([b'\\', other]),
            None => word.push(b'\\'),
        }
    }

    /// Goes behind the `}` that ends a block of Lua: its braces nest, and its strings and comments may hold others.
    fn skip_lua(&mut self) -> Result<(), Broken> {
        let begun = self.line;
        let unclosed = Broken { line: begun, why: "a block of Lua is not closed by `}`" };
        let mut depth = 1;
        while depth > 0 {
            match self.next().ok_or(unclosed.clone())? {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                quote @ (b'"' | b'\'') => {
                    while let Some(byte) = self.next() {
                        match byte {
                            b'\\' => drop(self.next()),
                            _ if byte == quote => break,
                            _ => {}
                        }
                    }
                }
                b'[' => drop(self.skip_long_bracket()),
                b'-' if self.peek() == Some(b'-') => {
                    self.next();
                    let long = self.peek() == Some(b'[') && {
                        self.next();
                        self.skip_long_bracket()
                    };
                    while !long && self.next().is_some_and(|byte| byte != b'\n') {}
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Behind a `[`: goes to the end of `[[ … ]]` or `[==[ … ]==]` where it begins one.
    fn skip_long_bracket(&mut self) -> bool {
        let mut level = 0;
        while self.peek() == Some(b'=') {
            self.next();
            level += 1;
        }
        if self.peek() != Some(b'[') {
            return false;
        }
        let mut seen: Option<usize> = None;
        while let Some(byte) = self.next() {
            seen = match (byte, seen) {
                (b']', Some(equals)) if equals == level => return true,
                (b']', _) => Some(0),
                (b'=', Some(equals)) => Some(equals + 1),
                _ => None,
            };
        }
        true
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        parse(text).unwrap().into_iter().map(|directive| directive.words).collect()
    }

    #[test]
    fn words_are_what_nginx_takes_for_words() {
        for (text, expected) in [
            ("a b;", vec!["a", "b"]),
            ("a\n\tb\r\n ;", vec!["a", "b"]),
            ("a 'b c;d{e' \"f#g\";", vec!["a", "b c;d{e", "f#g"]),
            ("a b#c;", vec!["a", "b#c"]),
            ("a # no; {\n b;", vec!["a", "b"]),
            (r#"a "b\"c" d\;e \n\x;"#, vec!["a", "b\"c", "d\\;e", "\n\\x"]),
            ("a b\"c d';", vec!["a", "b\"c", "d'"]),
            ("a ${b}c;", vec!["a", "${b}c"]),
            ("a b}c;", vec!["a", "b}c"]),
            ("a \"\";", vec!["a", ""]),
            ("if ($a = \"b\") { }", vec!["if", "($a", "=", "b", ")"]),
            ("location ~ \"^/a{2}$\" { }", vec!["location", "~", "^/a{2}$"]),
            // A brace that is not quoted opens a block, whatever it was meant to be.
            ("location ~ ^/a{2}; }", vec!["location", "~", "^/a"]),
        ] {
            assert_eq!(parse(text).unwrap()[0].words, expected, "{text:?}");
        }
    }

    #[test]
    fn blocks_nest_and_know_their_lines() {
        let found = parse("http {\n  # } not this\n  upstream shop\n  {\n server a; }\n}\nend;").unwrap();
        assert_eq!((found.len(), found[1].name(), found[1].line), (2, "end", 7));
        let upstream = &found[0].children()[0];
        assert_eq!((upstream.name(), upstream.argument(), upstream.line), ("upstream", "shop", 3));
        assert_eq!((upstream.children()[0].line, upstream.children()[0].shown()), (5, "server a;".into()));
        assert_eq!(upstream.shown(), "upstream shop { … }");
    }

    #[test]
    fn what_nginx_would_not_read_is_refused_at_its_line() {
        for (text, line) in [
            ("a", 1),
            ("\na {\n", 2),
            ("a;\n}", 2),
            (";", 1),
            ("{ }", 1),
            ("a b }", 1),
            ("a \"b\"c;", 1),
            ("\n a 'b;", 2),
            ("a { b }", 1),
        ] {
            assert_eq!(parse(text).map_err(|broken| broken.line), Err(line), "{text:?}");
        }
        let deep = "a {".repeat(100_000);
        assert_eq!(parse(&deep).unwrap_err().why, "blocks are nested too deeply");
    }

    #[test]
    fn lua_is_skipped_whole() {
        let text = "a_by_lua_block {\n local t = {[\"}\"] = '}\\'}'} -- }\n --[[ } ]] s = [==[ }]]} ]==] x = t[1]\n}\nb c;";
        assert_eq!(words(text), [vec!["a_by_lua_block"], vec!["b", "c"]]);
        assert!(parse("a_by_lua_block { { }").is_err());
    }
    /// Numbers that look like chance and are the same at every run.
    fn dice() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |sides| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % sides as u64).unwrap()
        }
    }

    #[test]
    fn any_word_that_is_quoted_is_read_as_it_was() {
        let mut dice = dice();
        let letters =
            ["a", "B", ";", "{", "}", "#", "$", "\"", "'", "\\", " ", "\n", "\t", "\r", "\u{e9}", "t", "n"];
        for _ in 0..20_000 {
            let words: Vec<String> =
                (0..=dice(3)).map(|_| (0..dice(6)).map(|_| letters[dice(letters.len())]).collect()).collect();
            let quoted = |word: &String| {
                let quote = ["\"", "'"][usize::from(word.len().is_multiple_of(2))];
                format!(
                    "{quote}{}{quote}",
                    word.replace('\\', "\\\\").replace('"', "\\\"").replace('\'', "\\'")
                )
            };
            let text: Vec<String> = words.iter().map(quoted).collect();
            let text = format!("# ;\n{}; {} {{ }}", text.join(" # {\n"), text.join("\t"));
            let found = parse(&text).unwrap();
            assert!(
                found.len() == 2 && found.iter().all(|directive| directive.words == words),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn no_text_makes_it_panic_or_tells_a_line_that_is_not_there() {
        let mut dice = dice();
        let pieces = [
            "a",
            ";",
            "{",
            "}",
            "#",
            "$",
            "\"",
            "'",
            "\\",
            " ",
            "\n",
            "[",
            "]",
            "=",
            "--",
            "x_by_lua_block {",
            "server",
        ];
        for _ in 0..50_000 {
            let text: String = (0..dice(30)).map(|_| pieces[dice(pieces.len())]).collect();
            let lines = text.matches('\n').count() + 1;
            match parse(&text) {
                Ok(found) => {
                    assert!(found.iter().all(|directive| (1..=lines).contains(&directive.line)), "{text:?}");
                }
                Err(broken) => assert!((1..=lines).contains(&broken.line), "{text:?}"),
            }
        }
    }
}
