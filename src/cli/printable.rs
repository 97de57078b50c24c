//! Text that can do nothing to a terminal.
//!
//! Names come from databases, buckets, files and a store that nobody trusts: an escape sequence in one of
//! them could hide or rewrite what the operator reads. Every line that is printed goes through here.

use std::fmt::{self, Display, Write as _};

/// Bytes as one line of harmless text: control and bidirectional characters, line ends and what is not
/// UTF-8 are shown as escapes.
pub(crate) struct Printable<'a>(pub &'a [u8]);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            for letter in part.valid().chars() {
                if is_harmless(letter) {
                    f.write_char(letter)?;
                } else {
                    write!(f, "{}", letter.escape_default())?;
                }
            }
            for byte in part.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Returns text as one harmless line.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    Printable(text.as_bytes()).to_string()
}

/// Returns a JSON document in which whatever could do something to a terminal is escaped. Its value is the same.
#[must_use]
pub(crate) fn printable_json(document: &str) -> String {
    let mut shown = String::with_capacity(document.len());
    for letter in document.chars() {
        // Below the space there are line ends between values; in texts JSON has escaped them. All others are in texts.
        if letter < ' ' || is_harmless(letter) {
            shown.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(shown, "\\u{unit:04x}").expect("a string takes all");
            }
        }
    }
    shown
}

fn is_harmless(letter: char) -> bool {
    !(letter.is_control()
        || matches!(letter,
            // Directional marks, embeddings, overrides and isolates; line and paragraph separators.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // What takes no place: two names that look the same would be two.
            | '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
            // Tags and interlinear annotations: invisible too.
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_change_a_terminal_is_shown_as_an_escape() {
        for (text, shown) in [
            ("plain.json", "plain.json"),
            ("Grüße 漢字 😀", "Grüße 漢字 😀"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\rc\td", "a\\nb\\rc\\td"),
            ("a\u{9b}1mb", "a\\u{9b}1mb"),
            ("a\u{202e}gpj.exe", "a\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("a\u{7f}\0b", "a\\u{7f}\\u{0}b"),
            ("a\u{2028}b", "a\\u{2028}b"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(Printable(b"a\xff\xfe\x1bb").to_string(), "a\\xff\\xfe\\u{1b}b");
    }

    #[test]
    fn json_has_the_same_value_and_nothing_that_moves_a_cursor() {
        let every: String = (0..=0x10_ffff_u32).filter_map(char::from_u32).collect();
        let value = serde_json::json!({ "a\u{9b}1m": [every, "Grüße 漢字 😀", "\u{e0041}"] });
        for document in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = printable_json(&document);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
            assert!(shown.chars().all(|letter| letter == '\n' || is_harmless(letter)));
            assert!(shown.contains("a\\u009b1m") && shown.contains("\\udb40\\udc41"));
            assert!(shown.contains("Grüße 漢字 😀"));
        }
    }

    #[test]
    fn no_character_that_moves_a_cursor_is_left() {
        let every: String = (0..=0x10_ffff_u32).filter_map(char::from_u32).collect();
        let shown = printable(&every);
        assert!(!shown.chars().any(char::is_control));
        assert!(!shown.contains(['\u{202a}', '\u{202b}', '\u{202d}', '\u{202e}', '\u{2067}', '\u{2068}']));
    }
}
