//! Settings by their one order: flag, process environment, variables' file, default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Error, Found, Origin};
use crate::component::dotenv::Dotenv;
use crate::component::secret::Secret;

/// Where settings are looked up.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    env: &'a BTreeMap<String, String>,
    configured: Option<&'a Configured>,
    file: Option<(&'a PathBuf, &'a Dotenv)>,
}

/// What a configuration file says instead of variables: by variable, the key's name and its value.
pub type Configured = BTreeMap<&'static str, (&'static str, String)>;

impl<'a> Settings<'a> {
    /// Returns settings over a process environment and a parsed file.
    pub fn new(
        env: &'a BTreeMap<String, String>,
        path: Option<&'a Found<PathBuf>>,
        dotenv: Option<&'a Dotenv>,
    ) -> Self {
        Self { env, configured: None, file: path.map(|found| &found.value).zip(dotenv) }
    }

    /// Also looks into a configuration file: behind the environment, before the variables' file.
    #[must_use]
    pub fn configured(self, configured: &'a Configured) -> Self {
        Self { configured: Some(configured), ..self }
    }

    /// Returns the first of these variables that the process environment has, and not empty.
    pub fn of_environment(&self, names: &[&str]) -> Option<Found<Secret>> {
        names.iter().find_map(|name| {
            let value = self.env.get(*name).filter(|value| !value.is_empty())?;
            Some(Found { value: Secret::new(value.as_str()), origin: Origin::Environment((*name).to_owned()) })
        })
    }

    /// Returns the first of these variables that is set and not empty, each looked up in the environment and
    /// then in the file. Fails where the file's value is doubtful, also if a later variable is not.
    pub fn first(&self, names: &[&str]) -> Result<Option<Found<Secret>>, Error> {
        for name in names {
            if let Some(value) = self.env.get(*name).filter(|value| !value.is_empty()) {
                let origin = Origin::Environment((*name).to_owned());
                return Ok(Some(Found { value: Secret::new(value.as_str()), origin }));
            }
            if let Some((key, value)) = self.configured.and_then(|configured| configured.get(name)) {
                return Ok(Some(Found { value: Secret::new(value.as_str()), origin: Origin::Flag(key) }));
            }
            let Some((path, dotenv)) = self.file else { continue };
            let found = dotenv.get(name).map_err(|source| Error::Dotenv { path: path.clone(), source })?;
            if let Some((value, line)) = found {
                return Ok(Some(Found { value: value.duplicate(), origin: Origin::File((*name).to_owned(), line) }));
            }
        }
        Ok(None)
    }

    /// Returns a setting that is no secret: the flag, or the first variable, or the default.
    pub fn text(
        &self,
        flag: Option<(&'static str, &str)>,
        names: &[&str],
        default: &str,
    ) -> Result<Found<String>, Error> {
        if let Some((flag, value)) = flag {
            return Ok(Found { value: value.to_owned(), origin: Origin::Flag(flag) });
        }
        Ok(match self.first(names)? {
            Some(found) => Found { value: found.value.expose().to_owned(), origin: found.origin },
            None => Found { value: default.to_owned(), origin: Origin::Default },
        })
    }

    /// Returns `APP_NAME`, by default `orkestra`: a part of container names.
    pub fn app_name(&self, flag: Option<&str>) -> Result<Found<String>, Error> {
        let flag = flag.map(|value| ("--app-name", value));
        checked("APP_NAME", self.text(flag, &["APP_NAME"], "orkestra")?)
    }

    /// Returns `ENV`, by default `development`: a part of container names.
    pub fn environment(&self, flag: Option<&str>) -> Result<Found<String>, Error> {
        let flag = flag.map(|value| ("--environment", value));
        checked("ENV", self.text(flag, &["ENV"], "development")?)
    }
}

/// Refuses what cannot be a part of a container's name. (Some shells keep a file's path in `ENV`.)
fn checked(name: &str, found: Found<String>) -> Result<Found<String>, Error> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if found.value.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && found.value.bytes().all(letters)
    {
        return Ok(found);
    }
    Err(Error::BadValue { name: name.to_owned(), value: found.value, origin: found.origin })
}
