//! `init`: a new repository, its two passphrases and the key of the nightly host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::cli::args::InitArgs;
use crate::cli::chunk_sizes;
use crate::cli::error::Error;
use crate::cli::keys::{self, Input};
use crate::cli::location::{self, Want};
use crate::cli::output::Report;
use crate::cli::resolve::Settings;
use crate::cli::store::StoreConfig;
use crate::crypto::{Passphrase, SystemEntropy, slot};
use crate::format::config::StreamKind;
use crate::repo::{InitOptions, InitSecrets, init_apart};

/// Makes the repository. Everything that could be wrong is looked at before anything is made.
pub(crate) async fn run(settings: &Settings, args: &InitArgs) -> Result<Report, Error> {
    let store = settings.repository();
    let place = store.location()?;
    let wanted_sizes = wanted_sizes(settings, args)?;
    let key_path = key_path(settings)?;
    let secrets = passphrases(settings)?;
    let apart = settings.secrets_repository();
    let apart_place = apart.as_ref().map(StoreConfig::location).transpose()?;
    if apart_place.as_ref() == Some(&place) {
        return Err(Error::BadValue {
            option: "--secrets-repository".to_owned(),
            value: place.to_string(),
            reason: "it is the repository itself".to_owned(),
        });
    }
    let backend = location::backend(settings, &store, Want::New).await?;
    let secrets_backend = match &apart {
        Some(apart) => Some(location::backend(settings, apart, Want::New).await?),
        None => None,
    };
    // The first night need not ask for the key slots again.
    let backend = location::keep_copies(&store, backend, settings.cache_dir().as_deref());
    let now_secs = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let mut options = InitOptions::new(now_secs);
    if args.kdf_low_memory {
        options.data_kdf = slot::low_memory_kdf();
        options.secrets_kdf = slot::low_memory_kdf();
    }
    for (kind, sizes) in wanted_sizes {
        chunk_sizes::set(&mut options.chunk_sizes, kind, sizes);
    }
    let keep =
        |key: &crate::crypto::writer_key::WriterKey| keys::write_new_private(&key_path, key.to_line().as_bytes());
    let made = init_apart(backend, secrets_backend, &options, secrets, Arc::new(SystemEntropy), keep)
        .await
        .map_err(Error::begun)?;
    let made = made.map_err(|source| Error::File { action: "cannot write", path: key_path.clone(), source })?;
    let (location, key_path) = (place.to_string(), key_path.display().to_string());
    let json = json!({
        "repository_id": made.repository.to_string(),
        "repository": location,
        "secrets_repository": apart_place.as_ref().map(ToString::to_string),
        "writer_key": key_path,
    });
    let mut lines = vec![
        format!("made repository {} in {location}", made.repository.short()),
        format!("the nightly host's key is in {key_path}: it adds snapshots and can read none"),
        "the two passphrases are nowhere but with you: without them nothing can be restored".to_owned(),
    ];
    if let Some(apart) = apart_place {
        lines.insert(1, format!("its secrets are in {apart}: every command that needs them must be told"));
    }
    Ok(Report::done(json, lines))
}

/// Returns the sizes of the configuration and then those of the command line, which so go before them.
fn wanted_sizes(settings: &Settings, args: &InitArgs) -> Result<Vec<(StreamKind, [u32; 3])>, Error> {
    let parse = |value: String| {
        chunk_sizes::parse(&value).map_err(|reason| Error::BadValue {
            option: "--chunk-sizes".to_owned(),
            value,
            reason,
        })
    };
    settings.config.chunk_sizes.values().chain(args.chunk_sizes.iter().cloned()).map(parse).collect()
}

fn key_path(settings: &Settings) -> Result<PathBuf, Error> {
    let path = match settings.writer_key()? {
        Input::File(path) => path.clone(),
        Input::Stdin => {
            return Err(Error::BadValue {
                option: "--writer-key".to_owned(),
                value: "-".to_owned(),
                reason: "init writes this file".to_owned(),
            });
        }
    };
    if path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path });
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parent.metadata().map_err(|source| Error::File { action: "cannot write into", path: parent.to_owned(), source })?;
    Ok(path)
}

fn passphrases(settings: &Settings) -> Result<InitSecrets, Error> {
    let new = |input: &Option<Input>, what, ways| -> Result<Passphrase, Error> {
        let passphrase = match input {
            Some(input) => keys::passphrase(input)?,
            None if keys::can_ask() => keys::ask_new_passphrase(what)?,
            None => return Err(Error::NotGiven { what, ways }),
        };
        passphrase.check_strength().map_err(|source| Error::Key { what: what.to_owned(), source })?;
        Ok(passphrase)
    };
    let ways = "give it with --passphrase-file or ORKVAULT_PASSPHRASE_FILE";
    let data = new(&settings.passphrase, "the data passphrase", ways)?;
    let ways = "give it with --secrets-passphrase-file or ORKVAULT_SECRETS_PASSPHRASE_FILE";
    let secrets = new(&settings.secrets_passphrase, "the secrets passphrase", ways)?;
    if data.is_same(&secrets) { Err(Error::SamePassphrases) } else { Ok(InitSecrets { data, secrets }) }
}
