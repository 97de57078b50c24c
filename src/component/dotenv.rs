//! `docker/.env`, read as Docker Compose reads it, and never executed.
//!
//! Three programs read that file: Compose, shell scripts that `source` it, and this one. Where the first two
//! would not see the same value, an entry carries a [`Doubt`], and asking for it is an error that names the
//! line: a password that is only half of one must not be tried. Variables that nobody asks for may be odd.

use std::collections::BTreeMap;

use super::secret::Secret;

/// The file cannot be read without guessing, or a value in it cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is longer than 1 MiB or has more than 10,000 variables.
    #[error("the file is too long")]
    TooLong,
    /// It is not UTF-8, or holds a zero byte.
    #[error("line {line} is not text")]
    NotText {
        /// The line, from 1.
        line: usize,
    },
    /// A quote that opens here is never closed, or Compose and shells close it in different places.
    #[error("the quote on line {line} is not closed")]
    OpenQuote {
        /// The line on which it opens, from 1.
        line: usize,
    },
    /// Compose and shells would read different values.
    #[error("{name} on line {line} has a value that programs read differently: {doubt}")]
    Doubtful {
        /// The variable.
        name: String,
        /// The line, from 1.
        line: usize,
        /// Why.
        doubt: Doubt,
    },
}

/// Why a value cannot be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// `$` or a backtick outside single quotes.
    #[error("it would be expanded")]
    Expansion,
    /// Unquoted white space, with or without a comment behind it, or space beside the equals sign.
    #[error("there is white space around or in it, outside quotes")]
    Space,
    /// A backslash that not everybody takes for one.
    #[error("it has a backslash")]
    Backslash,
    /// A quote inside an unquoted value, or text right behind a closing quote.
    #[error("only a part of it is quoted")]
    Quote,
    /// An unquoted character that means something to a shell.
    #[error("it has characters that mean something to a shell, outside quotes")]
    Shell,
    /// `NAME: value`.
    #[error("it follows a colon instead of an equals sign")]
    Colon,
    /// A control character.
    #[error("it has a control character")]
    Control,
}

/// Something to tell the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The last one counts.
    #[error("{name} is set on line {earlier} and again on line {line}, which counts")]
    Duplicate {
        /// The variable.
        name: String,
        /// Where it was set before.
        earlier: usize,
        /// Where it is set again.
        line: usize,
    },
    /// The line sets nothing.
    #[error("line {line} sets no variable")]
    NoAssignment {
        /// The line, from 1.
        line: usize,
    },
    /// The file was written on Windows: shells see a carriage return behind each unquoted value.
    #[error("lines end in CR LF")]
    CarriageReturns,
}

/// A parsed file.
pub struct Dotenv {
    entries: Vec<Entry>,
    warnings: Vec<Warning>,
}

/// One assignment.
pub struct Entry {
    /// The variable.
    pub name: String,
    /// Its value, without quotes and escapes.
    pub value: Secret,
    /// The line that it begins on, from 1.
    pub line: usize,
    /// Why the value is not certain.
    pub doubt: Option<Doubt>,
}

const FILE_MOST: usize = 1 << 20;
const ENTRIES_MOST: usize = 10_000;

impl Dotenv {
    /// Returns all assignments of a file of at most 1 MiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > FILE_MOST {
            return Err(Error::TooLong);
        }
        let text = checked_text(bytes)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut warnings = Vec::new();
        if text.contains("\r\n") {
            warnings.push(Warning::CarriageReturns);
        }
        // In memory that is not wiped: as is the file itself, in the system's cache.
        let text = text.replace("\r\n", "\n");
        let mut parser = Parser { rest: &text, line: 1 };
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = BTreeMap::new();
        while !parser.rest.is_empty() {
            let line = parser.line;
            match parser.statement()? {
                Statement::Nothing => {}
                Statement::NoAssignment => warnings.push(Warning::NoAssignment { line }),
                Statement::Assignment { name, value, doubt } => {
                    if entries.len() >= ENTRIES_MOST {
                        return Err(Error::TooLong);
                    }
                    if let Some(earlier) = seen.insert(name.to_owned(), line) {
                        warnings.push(Warning::Duplicate { name: name.to_owned(), earlier, line });
                    }
                    entries.push(Entry { name: name.to_owned(), value: Secret::new(value), line, doubt });
                }
            }
        }
        Ok(Self { entries, warnings })
    }

    /// Returns a variable's value and line; `None` where it is not set or empty. The last assignment counts.
    pub fn get(&self, name: &str) -> Result<Option<(&Secret, usize)>, Error> {
        let Some(entry) = self.entries.iter().rev().find(|entry| entry.name == name) else { return Ok(None) };
        match entry.doubt {
            Some(doubt) => Err(Error::Doubtful { name: name.to_owned(), line: entry.line, doubt }),
            None if entry.value.is_empty() => Ok(None),
            None => Ok(Some((&entry.value, entry.line))),
        }
    }

    /// Returns all assignments in their order, duplicates too.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns what the operator should be told, in the file's order.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the certain assignments in the one form that this module writes: everything quoted.
    /// Parsed again, they are the same, and without doubt.
    pub fn render(&self) -> Secret {
        let mut text = String::new();
        for entry in self.entries.iter().filter(|entry| entry.doubt.is_none()) {
            let value = entry.value.expose();
            text.push_str(&entry.name);
            // A certain value with a quote or a last backslash came from double quotes: it has no dollar sign.
            if value.contains('\'') || value.ends_with('\\') {
                text.push_str("=\"");
                text.push_str(&value.replace('\\', "\\\\").replace('"', "\\\""));
                text.push_str("\"\n");
            } else {
                text.push_str("='");
                text.push_str(value);
                text.push_str("'\n");
            }
        }
        Secret::new(text)
    }
}

fn checked_text(bytes: &[u8]) -> Result<&str, Error> {
    let line_at = |at: usize| 1 + bytes.iter().take(at).filter(|&&byte| byte == b'\n').count();
    let text = std::str::from_utf8(bytes).map_err(|error| Error::NotText { line: line_at(error.valid_up_to()) })?;
    match text.find('\0') {
        Some(at) => Err(Error::NotText { line: line_at(at) }),
        None => Ok(text),
    }
}

enum Statement<'a> {
    /// A comment or an empty line.
    Nothing,
    NoAssignment,
    Assignment {
        name: &'a str,
        value: String,
        doubt: Option<Doubt>,
    },
}

struct Parser<'a> {
    rest: &'a str,
    /// The line on which `rest` begins, from 1.
    line: usize,
}

impl<'a> Parser<'a> {
    /// Takes one statement: a line, or more where a quoted value spans them.
    fn statement(&mut self) -> Result<Statement<'a>, Error> {
        let line = self.rest.split('\n').next().unwrap_or_default();
        let trimmed = line.trim_start_matches(BLANK);
        if trimmed.is_empty() || trimmed.starts_with('#') {
            self.skip_line();
            return Ok(Statement::Nothing);
        }
        let exported = trimmed.strip_prefix("export").filter(|rest| rest.starts_with(BLANK));
        let statement = exported.map_or(trimmed, |rest| rest.trim_start_matches(BLANK));
        let Some(end) = statement.find(['=', ':']) else {
            self.skip_line();
            return Ok(Statement::NoAssignment);
        };
        let (before, value) = statement.split_at(end);
        let name = before.trim_end_matches(BLANK);
        if name.is_empty() || !name.chars().all(is_name_char) {
            self.skip_line();
            return Ok(Statement::NoAssignment);
        }
        let mut doubt = None;
        if value.starts_with(':') {
            doubt = Some(Doubt::Colon);
        } else if name.len() != before.len() {
            doubt = Some(Doubt::Space);
        }
        // The value may go on behind this line: continue in what is left of the file.
        let skipped = line.len() - value.len() + 1;
        self.rest = self.rest.get(skipped..).unwrap_or_default();
        let (value, value_doubt) = self.value()?;
        Ok(Statement::Assignment { name, value, doubt: doubt.or(value_doubt) })
    }

    fn value(&mut self) -> Result<(String, Option<Doubt>), Error> {
        let start = self.rest.trim_start_matches(BLANK);
        let spaced = (start.len() != self.rest.len()).then_some(Doubt::Space);
        let (value, doubt) = match start.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                self.rest = start.get(1..).unwrap_or_default();
                self.quoted(quote)?
            }
            _ => self.unquoted(),
        };
        // `NAME=   ` is empty for everybody.
        let doubt = spaced.filter(|_| !value.is_empty() || doubt.is_some()).or(doubt);
        let control = value.chars().any(is_control).then_some(Doubt::Control);
        Ok((value, doubt.or(control)))
    }

    fn unquoted(&mut self) -> (String, Option<Doubt>) {
        let line = self.rest.split('\n').next().unwrap_or_default();
        self.skip_line();
        let commented = line.find(" #").or_else(|| line.find("\t#"));
        let value = commented.and_then(|at| line.get(..at)).unwrap_or(line).trim_matches(BLANK);
        let doubt = if value.contains(['$', '`']) {
            Some(Doubt::Expansion)
        } else if value.contains('\\') {
            Some(Doubt::Backslash)
        } else if value.contains(['"', '\'']) {
            Some(Doubt::Quote)
        } else if commented.is_some() || value.contains(char::is_whitespace) {
            Some(Doubt::Space)
        } else if value.contains(['&', ';', '|', '<', '>', '(', ')'])
            || value.starts_with(['#', '~'])
            || value.contains(":~")
        {
            Some(Doubt::Shell)
        } else {
            None
        };
        (value.to_owned(), doubt)
    }

    /// Takes a value up to its closing quote, and what is left of the line behind it.
    fn quoted(&mut self, quote: char) -> Result<(String, Option<Doubt>), Error> {
        let opened = self.line;
        let open = || Error::OpenQuote { line: opened };
        let mut value = String::new();
        let mut doubt = None;
        let mut chars = self.rest.char_indices();
        let closed = loop {
            let (at, char) = chars.next().ok_or_else(open)?;
            match char {
                _ if char == quote => break at,
                '\n' => self.line += 1,
                '$' | '`' if quote == '"' => doubt = doubt.or(Some(Doubt::Expansion)),
                '\\' if quote == '"' => match chars.next().ok_or_else(open)?.1 {
                    escaped @ ('"' | '\\') => {
                        value.push(escaped);
                        continue;
                    }
                    other => {
                        self.line += usize::from(other == '\n');
                        doubt = doubt.or(Some(Doubt::Backslash));
                        value.push(char);
                        value.push(other);
                        continue;
                    }
                },
                // A shell closes the quote behind this backslash, Compose does not: all that follows differs.
                '\\' if chars.as_str().starts_with(quote) => return Err(open()),
                _ => {}
            }
            value.push(char);
        };
        self.rest = self.rest.get(closed + 1..).unwrap_or_default();
        let behind = self.rest.split('\n').next().unwrap_or_default();
        let trimmed = behind.trim_start_matches(BLANK);
        let comment = trimmed.starts_with('#') && trimmed.len() != behind.len();
        if !trimmed.is_empty() && !comment {
            doubt = doubt.or(Some(Doubt::Quote));
        }
        self.skip_line();
        Ok((value, doubt))
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        self.line += 1;
    }
}

/// What separates words on a line.
const BLANK: [char; 2] = [' ', '\t'];

fn is_name_char(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-')
}

fn is_control(char: char) -> bool {
    char.is_control() && !matches!(char, '\n' | '\t')
}

#[cfg(test)]
mod tests;
