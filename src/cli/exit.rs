//! The exit codes: few, documented in `docs/EXIT_CODES.md`, tested one by one.

use std::process::ExitCode;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done,
    /// It failed.
    Failed,
    /// The command line, the environment or `orkvault.toml` is wrong, or something needed was not given.
    Usage,
    /// A component failed: the snapshot is incomplete, or none was made because a component is not there.
    Incomplete,
    /// `check` found defects.
    Findings,
    /// There is no repository.
    NoRepository,
    /// Somebody else holds the lease or lock that is needed.
    LeaseHeld,
    /// The key or passphrase does not open what is needed.
    WrongKey,
    /// A guard refused: it would be destructive, unsafe or not what was meant.
    Refused,
    /// SIGINT or SIGTERM.
    Interrupted,
}

impl Exit {
    /// Every code, in the order of the numbers.
    pub(crate) const ALL: [Self; 10] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Incomplete,
        Self::Findings,
        Self::NoRepository,
        Self::LeaseHeld,
        Self::WrongKey,
        Self::Refused,
        Self::Interrupted,
    ];

    /// Returns the number.
    #[must_use]
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::Findings => 4,
            Self::NoRepository => 10,
            Self::LeaseHeld => 11,
            Self::WrongKey => 12,
            Self::Refused => 13,
            Self::Interrupted => 130,
        }
    }

    /// Returns what it means, as `--help` says it.
    #[must_use]
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "wrong usage or configuration, or something needed was not given",
            Self::Incomplete => "incomplete: a component failed or is not there; no complete snapshot was made",
            Self::Findings => "check has findings",
            Self::NoRepository => "there is no repository",
            Self::LeaseHeld => "the lease is held: another restore runs on this host",
            Self::WrongKey => "wrong key: it does not open what is needed",
            Self::Refused => "refused by a guard; nothing was changed",
            Self::Interrupted => "interrupted by SIGINT or SIGTERM",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Returns the table of exit codes for `--help`.
#[must_use]
pub(crate) fn table() -> String {
    let rows = Exit::ALL.iter().map(|exit| format!("  {:>3}  {}", exit.code(), exit.meaning()));
    format!("Exit codes:\n{}", rows.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_code_with_its_meaning() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/EXIT_CODES.md")).unwrap();
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(document.contains(&row), "docs/EXIT_CODES.md lacks: {row}");
        }
    }
}
