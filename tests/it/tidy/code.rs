//! Rust text as tokens: enough to see which paths a file names, no more.

/// One word or sign of a file, without comments and with literals emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

/// Cuts a file into words, `::` and single signs. Comments and lifetimes are left out, strings and
/// characters become `""`.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut reader = Reader { rest: text, line: 1, tokens: Vec::new() };
    while let Some(first) = reader.rest.chars().next() {
        reader.step(first);
    }
    reader.tokens
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

impl Reader<'_> {
    fn skip(&mut self, len: usize) {
        let (skipped, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    fn push(&mut self, text: &str) {
        self.tokens.push(Token { text: text.to_owned(), line: self.line });
    }

    fn step(&mut self, first: char) {
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment_len(self.rest));
        } else if first == '"' {
            self.literal(quoted_len(self.rest, '"'));
        } else if first == '\'' {
            self.quote();
        } else if is_word(first) {
            self.word();
        } else if self.rest.starts_with("::") {
            self.push("::");
            self.skip(2);
        } else {
            if !first.is_whitespace() {
                self.push(first.encode_utf8(&mut [0; 4]));
            }
            self.skip(first.len_utf8());
        }
    }

    fn literal(&mut self, len: usize) {
        self.push("\"\"");
        self.skip(len);
    }

    /// A character or a lifetime.
    fn quote(&mut self) {
        let mut after = self.rest.chars().skip(1);
        let (first, second) = (after.next(), after.next());
        if first == Some('\\') || second == Some('\'') {
            self.literal(quoted_len(self.rest, '\''));
        } else {
            let name = self.rest.chars().skip(1).take_while(|letter| is_word(*letter));
            self.skip(1 + name.map(char::len_utf8).sum::<usize>());
        }
    }

    /// A word, a number, or a string with a prefix.
    fn word(&mut self) {
        let len = self.rest.find(|letter| !is_word(letter)).unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(len);
        let hashes = after.len() - after.trim_start_matches('#').len();
        let opens = after.trim_start_matches('#').starts_with('"');
        match word {
            "r" | "br" | "cr" if opens => {
                let close = format!("\"{}", "#".repeat(hashes));
                let start = len + hashes + 1;
                let body = self.rest.get(start..).unwrap_or_default();
                let end = body.find(&close).map_or(self.rest.len(), |at| start + at + close.len());
                self.literal(end);
            }
            "b" | "c" if after.starts_with('"') => self.literal(len + quoted_len(after, '"')),
            "b" if after.starts_with('\'') => self.literal(len + quoted_len(after, '\'')),
            "r" if hashes == 1 => self.skip(2),
            _ => {
                self.push(word);
                self.skip(len);
            }
        }
    }
}

/// Returns the bytes from the opening quote to the closing one, both included.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn block_comment_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Splits off the `#[cfg(test)] mod x { ... }` blocks: what is left, and what was in them.
pub(crate) fn split_tests(tokens: &[Token]) -> (Vec<Token>, Vec<Token>) {
    let opening = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let (mut kept, mut tests) = (Vec::new(), Vec::new());
    let mut rest = tokens;
    while let Some(token) = rest.first() {
        let is_opening =
            rest.len() > opening.len() + 1 && rest.iter().zip(opening).all(|(token, sign)| token.text == sign);
        let is_block = is_opening && rest.get(opening.len() + 1).is_some_and(|token| token.text == "{");
        if is_block {
            let (block, after) = rest.split_at(block_len(rest));
            tests.extend_from_slice(block);
            rest = after;
        } else {
            kept.push(token.clone());
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    (kept, tests)
}

/// Returns the number of tokens up to and including the brace that closes the first one opened.
fn block_len(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A path as code names it, `crate::format::id::PackId`, groups of a `use` expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) parts: Vec<String>,
    pub(crate) line: usize,
}

impl NamedPath {
    /// Returns whether it begins with the parts of `start`, which is written with `::`.
    pub(crate) fn starts_with(&self, start: &str) -> bool {
        let mut parts = self.parts.iter();
        start.split("::").all(|part| parts.next().is_some_and(|own| own == part))
    }
}

/// Returns every path of two or more parts, and the single names that `use` brings in.
pub(crate) fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut rest = tokens;
    let mut before = "";
    while let Some(token) = rest.first() {
        let is_use = before == "use";
        let next = rest.get(1).map(|token| token.text.as_str());
        if token.text.starts_with(is_word) && (is_use || next == Some("::")) || is_use && token.text == "{" {
            let mut cursor = rest;
            expand(&mut cursor, &[], &mut found);
            before = "";
            rest = cursor;
        } else {
            before = token.text.as_str();
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    found
}

/// Reads one path or group and leaves `rest` after it.
fn expand(rest: &mut &[Token], prefix: &[String], found: &mut Vec<NamedPath>) {
    let mut parts = prefix.to_vec();
    let line = rest.first().map_or(0, |token| token.line);
    while let Some(token) = rest.first() {
        if token.text == "{" {
            *rest = rest.get(1..).unwrap_or_default();
            while let Some(inner) = rest.first() {
                match inner.text.as_str() {
                    "}" => {
                        *rest = rest.get(1..).unwrap_or_default();
                        return;
                    }
                    text if text == "{" || text == "*" || text.starts_with(is_word) => expand(rest, &parts, found),
                    // The comma, and the leading `::` of an absolute path.
                    _ => *rest = rest.get(1..).unwrap_or_default(),
                }
            }
            return;
        }
        if token.text != "*" && !token.text.starts_with(is_word) {
            break;
        }
        parts.push(token.text.clone());
        *rest = rest.get(1..).unwrap_or_default();
        if rest.first().is_none_or(|token| token.text != "::") {
            break;
        }
        *rest = rest.get(1..).unwrap_or_default();
    }
    found.push(NamedPath { parts, line });
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r##"
        // crate::repo
        /* crate::repo /* nested */ crate::repo */
        let a = "crate::repo \" crate::repo"; let b = r#"crate::"repo"#; let c = b"x"; let d = '\''; let e = '"';
        fn f<'a>(x: &'a str) -> crate::format::Error {}
    "##;
    let named: Vec<_> = paths(&tokens(text)).into_iter().map(|path| (path.parts.join("::"), path.line)).collect();
    assert_eq!(named, [("crate::format::Error".to_owned(), 5)]);
}

#[test]
fn groups_are_expanded() {
    let text = "use crate::{format::{id::PackId, limits}, repo}; use clap as c; use {toml::Value, std::fs::*}; $crate::x::<T>::y();";
    let named: Vec<_> = paths(&tokens(text)).into_iter().map(|path| path.parts.join("::")).collect();
    assert_eq!(
        named,
        [
            "crate::format::id::PackId",
            "crate::format::limits",
            "crate::repo",
            "clap",
            "toml::Value",
            "std::fs::*",
            "crate::x"
        ]
    );
}

#[test]
fn test_modules_are_told_apart() {
    let text = "use crate::a::A; #[cfg(test)] mod tests { fn f() { crate::b::B; } } fn g() { crate::c::C; } #[cfg(test)] mod d;";
    let (kept, tests) = split_tests(&tokens(text));
    let named = |tokens: &[Token]| paths(tokens).into_iter().map(|path| path.parts.join("::")).collect::<Vec<_>>();
    assert_eq!(named(&kept), ["crate::a::A", "crate::c::C"]);
    assert_eq!(named(&tests), ["crate::b::B"]);
}
