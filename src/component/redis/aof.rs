//! The manifest of an append-only directory (Redis 7.0 and later).

use super::Error;

/// Bytes of a manifest at most.
pub const MANIFEST_LEN_MAX: u64 = 1 << 20;

/// What a file of the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Base,
    History,
    Increment,
}

/// A line: `file <name> seq <number> type <b|h|i>`. Names are kept as they are written, quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    name: String,
    sequence: u64,
    kind: Kind,
}

/// Returns the manifest that makes a server load the file `base` and then the empty file `increment`:
/// what the present manifest lists becomes history, which the server deletes once it has loaded the new.
pub fn replacement(present: &str, names: &Names) -> Result<String, Error> {
    let files = parse(present)?;
    // a rewrite since the names were chosen may have taken the number in them: only this one counts
    let sequence = next_sequence(&files);
    let line = |name: &str, sequence: u64, kind: char| format!("file {name} seq {sequence} type {kind}\n");
    // base, then history, then increments: the order in which the server writes them
    let mut text = line(&names.base, sequence, 'b');
    for file in &files {
        text.push_str(&line(&file.name, file.sequence, 'h'));
    }
    text.push_str(&line(&names.increment, sequence, 'i'));
    Ok(text)
}

/// The files that a restore adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The RDB file.
    pub base: String,
    /// The empty increment behind it.
    pub increment: String,
}

/// Returns names that no file of the present manifest has, nor any that the server may make before it is
/// stopped: its own never hold the word. `prefix` is the setting `appendfilename`.
pub fn names(present: &str, prefix: &str) -> Result<Names, Error> {
    let sequence = next_sequence(&parse(present)?);
    Ok(Names {
        base: format!("{prefix}.{sequence}.orkvault.base.rdb"),
        increment: format!("{prefix}.{sequence}.orkvault.incr.aof"),
    })
}

fn next_sequence(files: &[File]) -> u64 {
    files.iter().map(|file| file.sequence).max().unwrap_or(0) + 1
}

/// Returns whether the text is a manifest that lists at least one file.
pub fn is_manifest(text: &str) -> bool {
    parse(text).is_ok_and(|files| !files.is_empty())
}

fn parse(text: &str) -> Result<Vec<File>, Error> {
    let mut files = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        files.push(parse_line(line).ok_or(Error::AofManifest { line: number + 1 })?);
    }
    Ok(files)
}

/// A name with blanks is quoted, so it is taken from both ends.
fn parse_line(line: &str) -> Option<File> {
    let rest = line.strip_prefix("file ")?;
    let (rest, kind) = rest.rsplit_once(" type ")?;
    let (name, sequence) = rest.rsplit_once(" seq ")?;
    let kind = match kind {
        "b" => Kind::Base,
        "h" => Kind::History,
        "i" => Kind::Increment,
        _ => return None,
    };
    let sequence: u64 = sequence.parse().ok().filter(|number| *number < u64::MAX / 2)?;
    (!name.is_empty()).then(|| File { name: name.to_owned(), sequence, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: &str = "file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.1.incr.aof seq 1 type h\n\
                           file appendonly.aof.2.incr.aof seq 2 type i\nfile appendonly.aof.3.incr.aof seq 3 type i\n";

    #[test]
    fn present_files_become_history_and_the_new_ones_have_a_number_of_their_own() {
        let names = names(PRESENT, "appendonly.aof").unwrap();
        let text = replacement(PRESENT, &names).unwrap();
        assert_eq!(
            text,
            "file appendonly.aof.4.orkvault.base.rdb seq 4 type b\nfile appendonly.aof.2.base.rdb seq 2 type h\n\
             file appendonly.aof.1.incr.aof seq 1 type h\nfile appendonly.aof.2.incr.aof seq 2 type h\n\
             file appendonly.aof.3.incr.aof seq 3 type h\nfile appendonly.aof.4.orkvault.incr.aof seq 4 type i\n"
        );
    }

    #[test]
    fn a_quoted_name_with_blanks_is_kept() {
        let text = "file \"a b.1.base.rdb\" seq 1 type b\n";
        let names = names(text, "a").unwrap();
        assert!(replacement(text, &names).unwrap().contains("file \"a b.1.base.rdb\" seq 1 type h\n"));
    }

    #[test]
    fn a_manifest_that_is_not_understood_is_refused() {
        for bad in ["nonsense", "file x seq y type b", "file x seq 1 type q", "file  seq 1 type b"] {
            assert!(matches!(names(bad, "a"), Err(Error::AofManifest { line: 1 })), "{bad}");
        }
    }
}
