//! From an error to an exit code and to what the operator can do next. The only place with advice.

use std::error::Error as StdError;

use super::error::Error;
use super::exit::Exit;
use crate::backend::s3::S3Error;
use crate::component::{self, ErrorKind};
use crate::{backend, crypto, ops, repo};

/// What an error means for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// How the run ends.
    pub(crate) exit: Exit,
    /// What to do next.
    pub(crate) hint: Option<&'static str>,
}

/// What to do about wrong arguments.
pub(crate) const USAGE_HINT: &str = "see `orkvault help`";

const fn judged(exit: Exit, hint: &'static str) -> Judgement {
    Judgement { exit, hint: Some(hint) }
}

const fn plain(exit: Exit) -> Judgement {
    Judgement { exit, hint: None }
}

/// Returns what an error means.
#[must_use]
pub(crate) fn judge(error: &Error) -> Judgement {
    match error {
        Error::Component(source) => of_component(source),
        Error::Ops(error) => match error.as_ref() {
            ops::Error::Component { source, .. } => of_component(source),
            ops::Error::OnlyIncomplete { .. } => judged(
                Exit::Failed,
                "if that will do, name it in the place of `latest`, and for a restore what it has with -c",
            ),
            ops::Error::NoSnapshot { .. } | ops::Error::AmbiguousSnapshot { .. } => {
                judged(Exit::Failed, "`orkvault snapshots` lists what there is")
            }
            ops::Error::SameRepository { .. } => judged(Exit::Usage, "name another one with --from"),
            ops::Error::NoComponent { .. } | ops::Error::NoStream { .. } => {
                judged(Exit::Failed, "`orkvault show` and `orkvault ls` list what the snapshot has")
            }
            ops::Error::Repo(_) | ops::Error::NotWhole { .. } => of_chain(error.as_ref()),
        },
        Error::NothingCaptured { source } => {
            let hint = of_component(source).hint;
            let exit =
                if source.kind() == ErrorKind::Unavailable { Exit::Incomplete } else { of_component(source).exit };
            Judgement { exit, hint: hint.or(Some("name the components that this stack has with -c")) }
        }
        Error::Repo(error) => of_chain(error.as_ref()),
        Error::Backend(error) => of_backend(error).unwrap_or_else(|| plain(Exit::Failed)),
        // Whatever it is that failed: it is not true any more that nothing was changed or begun.
        Error::RestoreFailed { source } => Judgement {
            exit: Exit::Failed,
            hint: judge(source)
                .hint
                .or(Some("what it was to replace may be half done: find the cause and restore again")),
        },
        // The same of other work; the hint still says what it was: keys that expired, a bucket that went away.
        Error::Begun(source) => {
            let judgement = judge(source);
            match judgement.exit {
                Exit::Usage | Exit::NoRepository | Exit::Refused => Judgement { exit: Exit::Failed, ..judgement },
                _ => judgement,
            }
        }
        Error::ContentCut { source, .. } => Judgement {
            exit: Exit::Failed,
            hint: judge(source).hint.or(Some("do not use what was written; `orkvault check --read-data` says more")),
        },
        Error::Key { source, .. } => of_crypto(source).unwrap_or_else(|| plain(Exit::Failed)),
        _ => of_shell(error),
    }
}

/// Errors of the shell itself.
fn of_shell(error: &Error) -> Judgement {
    match error {
        Error::SamePassphrases => {
            judged(Exit::Refused, "choose two: whoever can read the data must not be able to read the secrets")
        }
        Error::TypedDifferently { .. } => judged(Exit::Usage, "try again"),
        Error::NotGiven { ways, .. } => judged(Exit::Usage, ways),
        Error::BadValue { .. } | Error::StdinTwice { .. } => judged(Exit::Usage, USAGE_HINT),
        Error::Config { .. } => judged(Exit::Usage, "docs/CONFIGURATION.md lists every key"),
        Error::File { .. } => plain(Exit::Usage),
        Error::NotPrivate { .. } => {
            judged(Exit::Refused, "make it yours alone (chown, chmod 600); if others could read it, its key is known")
        }
        Error::Exists { .. } => judged(Exit::Refused, "move it away or name another file; nothing is overwritten"),
        Error::NotEmpty { .. } => judged(Exit::Refused, "name a directory that does not exist yet"),
        Error::StdoutIsTerminal => {
            judged(Exit::Refused, "send it to a file or a program: `orkvault dump ... > FILE`, or use --output FILE")
        }
        Error::NobodyToAsk { .. } => judged(Exit::Refused, "--yes does it without asking, --dry-run only shows it"),
        Error::NotConfirmed { .. } => judged(Exit::Refused, "nothing was changed"),
        Error::OtherEnvironment { .. } => {
            judged(Exit::Refused, "if that is meant, name the stack's environment with --into-env")
        }
        Error::UnknownEnvironment { .. } => judged(Exit::Refused, "if it is, say so with --environment, too"),
        Error::SnapshotIncomplete { .. } => {
            judged(Exit::Refused, "name the components that are to be restored with -c, or take another snapshot")
        }
        Error::RestoreRuns { .. } => judged(Exit::LeaseHeld, "wait for its end; the lock ends with its process"),
        Error::Interrupted { .. } => {
            judged(Exit::Interrupted, "complete snapshots are untouched; a restore that was cut off must be run again")
        }
        Error::StdoutCut { .. } => judged(Exit::Failed, "the program that reads it stopped early"),
        Error::OutputCut { .. } => {
            judged(Exit::Failed, "there is no file now: find the cause (free space?) and run it again")
        }
        Error::Bug => judged(Exit::Failed, "please report it with the lines above"),
        _ => plain(Exit::Failed),
    }
}

/// Finds the first error of the lower rooms that says what to do.
fn of_chain(error: &(dyn StdError + 'static)) -> Judgement {
    let mut link: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(found) = link {
        if let Some(judgement) = of_link(found) {
            return judgement;
        }
        link = found.source();
    }
    plain(Exit::Failed)
}

fn of_link(link: &(dyn StdError + 'static)) -> Option<Judgement> {
    if let Some(ops::Error::Repo(error)) = link.downcast_ref::<ops::Error>() {
        return of_repo(error);
    }
    // A source that is boxed is seen as the box.
    let boxed = || link.downcast_ref::<Box<repo::Error>>().map(Box::as_ref);
    if let Some(error) = link.downcast_ref::<repo::Error>().or_else(boxed) {
        return of_repo(error);
    }
    link.downcast_ref::<crypto::Error>().and_then(of_crypto)
}

fn of_repo(error: &repo::Error) -> Option<Judgement> {
    match error {
        repo::Error::Backend(error) => of_backend(error),
        repo::Error::WrongKey { .. } => Some(judged(
            Exit::WrongKey,
            "the passphrase or key is another one, or its slot is damaged: `orkvault check` with another key tells",
        )),
        repo::Error::NoSlot { .. } => {
            Some(judged(Exit::WrongKey, "the key slot was removed or is damaged: use another key or a copy of keys/"))
        }
        repo::Error::OtherRepository { .. } => {
            Some(judged(Exit::WrongKey, "give the writer key that `init` wrote for this repository"))
        }
        repo::Error::SecretsApart { .. } => Some(judged(
            Exit::Usage,
            "name it with --secrets-repository, ORKVAULT_SECRETS_REPOSITORY or secrets_repository in orkvault.toml; \
             `orkvault show latest` says where it was",
        )),
        repo::Error::SecretsNotApart { .. } => Some(judged(Exit::Usage, "leave --secrets-repository out")),
        repo::Error::NotItsSecrets { .. } => {
            Some(judged(Exit::Refused, "name the store that `init` made for the secrets of this repository"))
        }
        repo::Error::OnlySecrets { .. } => Some(judged(
            Exit::Usage,
            "name the repository itself with -r and this one with --secrets-repository; alone it gives the secrets \
             back with their passphrase",
        )),
        repo::Error::SecretsStore { source } => of_repo(source),
        repo::Error::Crypto(error) | repo::Error::Object { source: error, .. } => of_crypto(error),
        repo::Error::Damaged { .. }
        | repo::Error::WrongContent { .. }
        | repo::Error::ChunkMissing { .. }
        | repo::Error::ChunkDamaged { .. }
        | repo::Error::SegmentDamaged { .. }
        | repo::Error::StreamDamaged => {
            Some(judged(Exit::Failed, "`orkvault check --read-data` lists what is damaged and what that affects"))
        }
        repo::Error::Spoiled { .. } => Some(judged(
            Exit::Failed,
            "run it again: what is damaged is then stored anew; `orkvault check --read-data` lists it",
        )),
        repo::Error::Cache { .. } => {
            Some(judged(Exit::Failed, "the cache can be removed at any time; --cache-dir names another place"))
        }
        _ => None,
    }
}

fn of_crypto(error: &crypto::Error) -> Option<Judgement> {
    match error {
        crypto::Error::NotCapable { .. } => Some(judged(
            Exit::WrongKey,
            "content needs the data passphrase, secrets need the secrets passphrase and one of the other keys",
        )),
        crypto::Error::BadWriterKey => Some(judged(Exit::WrongKey, "give the file that `init` wrote")),
        crypto::Error::PublicKeysChanged | crypto::Error::OtherRepository { .. } => Some(judged(
            Exit::Refused,
            "somebody exchanged parts of the repository: nothing must be written to it until it is known who",
        )),
        crypto::Error::BadPassphrase { .. } => Some(judged(Exit::Usage, "choose one of at least 8 bytes")),
        crypto::Error::KdfMemory { .. } => {
            Some(judged(Exit::Failed, "free memory or restore on a larger host: the passphrase needs that much"))
        }
        crypto::Error::CannotOpen { .. } | crypto::Error::Checksum { .. } => {
            Some(judged(Exit::Failed, "`orkvault check --read-data` lists what is damaged and what that affects"))
        }
        _ => None,
    }
}

fn of_backend(error: &backend::Error) -> Option<Judgement> {
    match error {
        backend::Error::NoRepository { .. } => {
            Some(judged(Exit::NoRepository, "check the path, or make a repository with `orkvault init`"))
        }
        backend::Error::NotEmpty { .. } => Some(judged(Exit::Refused, "name a place that does not exist or is empty")),
        error => of_bucket(error).or_else(|| of_store_kind(error.kind())),
    }
}

fn of_store_kind(kind: backend::ErrorKind) -> Option<Judgement> {
    match kind {
        backend::ErrorKind::Denied => Some(judged(Exit::Failed, "check owner and mode of the repository")),
        backend::ErrorKind::Full => Some(judged(Exit::Failed, "free space; nothing that was complete is lost")),
        backend::ErrorKind::Transient => Some(judged(Exit::Failed, "try again")),
        _ => None,
    }
}

/// What a bucket's server said.
fn of_bucket(error: &backend::Error) -> Option<Judgement> {
    let source = match error {
        backend::Error::Failed { source, .. } => source,
        backend::Error::Cut(cut) => &cut.source,
        backend::Error::GaveUp(gave_up) => return of_bucket(&gave_up.source),
        _ => return None,
    };
    match source.downcast_ref::<S3Error>()? {
        S3Error::Endpoint { .. } => Some(judged(Exit::Usage, "an endpoint is http://HOST:PORT or https://HOST")),
        S3Error::Credentials { .. } => Some(judged(
            Exit::Usage,
            "docs/CONFIGURATION.md says where the store's credentials are looked for, and in which order",
        )),
        S3Error::Expired { .. } => Some(judged(Exit::Usage, "get new temporary credentials and run it again")),
        S3Error::AccessDenied { .. } => {
            Some(judged(Exit::Failed, "docs/THREATS.md lists what the credentials must be allowed to do"))
        }
        S3Error::ClockSkew { .. } => Some(judged(Exit::Failed, "set this host's clock: signatures hold its time")),
        S3Error::NoSuchBucket { .. } => {
            Some(judged(Exit::NoRepository, "check its name and the endpoint; orkvault makes no buckets"))
        }
        S3Error::Full { .. } => Some(judged(Exit::Failed, "free space or raise the quota; what was complete stays")),
        S3Error::WeakerLock { .. } => Some(judged(
            Exit::Failed,
            "with lock_mode = \"governance\" that is enough; else somebody who may take such locks away has to do so once",
        )),
        S3Error::ReadOnly => Some(judged(Exit::Refused, "leave --as-of out to change anything")),
        S3Error::Unreachable { .. } | S3Error::Garbled { .. } => {
            Some(judged(Exit::Failed, "check the endpoint, and whether the server runs"))
        }
        _ => None,
    }
}

fn of_component(error: &component::Error) -> Judgement {
    use component::stack;
    let in_store = |source: &(dyn StdError + Send + Sync + 'static)| of_link(source);
    let of_source = match error {
        component::Error::Store { source, .. } | component::Error::Stored { source, .. } => in_store(source.as_ref()),
        component::Error::Stack(stack::Error::NotAStack { .. }) => {
            Some(judged(Exit::Usage, "--stack-dir names the directory that holds docker/.env"))
        }
        component::Error::Stack(stack::Error::NoContainer { .. }) => {
            Some(judged(Exit::Failed, "check APP_NAME and ENV, start the stack, or name the container with its flag"))
        }
        component::Error::Stack(stack::Error::Ambiguous { .. }) => {
            Some(judged(Exit::Usage, "name the one that is meant with its --...-container flag"))
        }
        component::Error::Stack(stack::Error::Missing { .. }) => {
            Some(judged(Exit::Usage, "set it in docker/.env or in the environment"))
        }
        component::Error::Redis(component::redis::Error::Credentials { .. }) => {
            Some(judged(Exit::Usage, "REDIS_PASSWORD in docker/.env is not what the running server has"))
        }
        component::Error::S3(component::s3::Error::Credentials { .. }) => Some(judged(
            Exit::Usage,
            "the keys in docker/.env are not what the running server has; `orkvault doctor` compares them",
        )),
        component::Error::Mongodb(component::mongodb::Error::LoginRefused { .. }) => {
            Some(judged(Exit::Usage, "MONGO_ROOT_USERNAME or MONGO_ROOT_PASSWORD is not what the running server has"))
        }
        component::Error::Mongodb(
            component::mongodb::Error::HalfRestored { .. } | component::mongodb::Error::RestoreUnproven { .. },
        ) => Some(judged(Exit::Failed, "the database is not whole: find the cause above and restore again")),
        _ => None,
    };
    of_source.unwrap_or_else(|| match error.kind() {
        ErrorKind::Misconfigured => plain(Exit::Usage),
        ErrorKind::Refused => plain(Exit::Refused),
        ErrorKind::Unavailable | ErrorKind::Failed => plain(Exit::Failed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(error: impl Into<Error>) -> Exit {
        judge(&error.into()).exit
    }

    #[test]
    fn keys_that_cannot_are_told_wherever_they_lie_in_the_chain() {
        let not_capable = || repo::Error::Crypto(crypto::Error::NotCapable { what: "read content" });
        assert_eq!(exit_of(not_capable()), Exit::WrongKey);
        assert_eq!(exit_of(ops::Error::Repo(not_capable())), Exit::WrongKey);
        let stored = || component::Error::Stored { what: "a".to_owned(), source: Box::new(not_capable()) };
        assert_eq!(exit_of(stored()), Exit::WrongKey);
        assert_eq!(
            exit_of(ops::Error::Component { component: "mongodb".to_owned(), source: Box::new(stored()) }),
            Exit::WrongKey
        );
        let snapshot = crate::format::id::SnapshotId::from_bytes([7; 32]);
        let whole = ops::Error::NotWhole { snapshot, what: "mongodb".to_owned(), source: Box::new(not_capable()) };
        assert_eq!(exit_of(whole), Exit::WrongKey);
    }

    #[test]
    fn a_restore_that_has_begun_is_never_told_to_have_changed_nothing() {
        let refused = || {
            component::Error::Stack(component::stack::Error::WrongDaemon {
                endpoint: String::new(),
                expected: String::new(),
                id: String::new(),
                name: String::new(),
            })
        };
        let misconfigured = || component::Error::Stack(component::stack::Error::NotAStack { dir: "a".into() });
        for (source, before) in [(refused(), Exit::Refused), (misconfigured(), Exit::Usage)] {
            let failed = Error::from(ops::Error::Component { component: "redis".to_owned(), source: Box::new(source) });
            assert_eq!(judge(&failed).exit, before);
            assert_eq!(judge(&Error::RestoreFailed { source: Box::new(failed) }).exit, Exit::Failed);
        }
    }

    #[test]
    fn work_that_has_begun_is_never_told_to_have_not() {
        let gone = || Error::from(backend::Error::NoRepository { location: "a".to_owned() });
        let refused = || Error::NotConfirmed { what: "the snapshot" };
        let usage = || Error::NotGiven { what: "a key", ways: "give it" };
        for (error, before) in [(gone(), Exit::NoRepository), (refused(), Exit::Refused), (usage(), Exit::Usage)] {
            let hint = judge(&error).hint;
            assert_eq!(judge(&error).exit, before);
            let error = Error::begun(error);
            assert_eq!(judge(&error), Judgement { exit: Exit::Failed, hint });
            let cut = Error::ContentCut { written: 1, source: Box::new(usage()) };
            assert_eq!(judge(&cut).exit, Exit::Failed);
        }
        let wrong = repo::Error::Crypto(crypto::Error::NotCapable { what: "read content" });
        assert_eq!(judge(&Error::begun(wrong)).exit, Exit::WrongKey);
    }

    #[test]
    fn the_kinds_of_component_errors_have_codes() {
        let stack = |error| Error::from(component::Error::Stack(error));
        let service = component::stack::Service::Redis;
        let missing = component::stack::Error::NoContainer { service, expected: vec!["a".to_owned()] };
        assert_eq!(judge(&stack(missing)).exit, Exit::Failed);
        let missing = component::stack::Error::NoContainer { service, expected: vec!["a".to_owned()] };
        assert_eq!(judge(&Error::NothingCaptured { source: Box::new(missing.into()) }).exit, Exit::Incomplete);
        let ambiguous = component::stack::Error::Ambiguous { service, candidates: Vec::new() };
        assert_eq!(judge(&stack(ambiguous)).exit, Exit::Usage);
    }
}
