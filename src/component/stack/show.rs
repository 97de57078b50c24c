//! The resolved stack as lines, for the operator to look at before anything is done. Never a secret.

use std::fmt::Display;

use super::{Found, Mongodb, Place, Redis, Rustfs, Stack};
use crate::component::secret::Secret;

impl Stack {
    /// Returns what was resolved and how, one fact a line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Lines::default();
        let (app_name, environment) = (&self.app_name, &self.environment);
        let name = format!("{}-{}", app_name.value, environment.value);
        let how = format!("APP_NAME: {}; ENV: {}", app_name.origin, environment.origin);
        lines.add("stack", name, how);
        match &self.location.root {
            Some(root) => lines.add("directory", root.value.display(), &root.origin),
            None => lines.plain("directory", "none found"),
        }
        match &self.location.env_file {
            Some(file) => lines.add("env file", file.value.display(), &file.origin),
            None => lines.plain("env file", "none found"),
        }
        match &self.docker {
            Some((docker, daemon)) => {
                let endpoint = docker.endpoint();
                let what = format!("{} {} at {}", daemon.name, daemon.version, endpoint.address);
                lines.add("docker", what, format!("{}; id {}", endpoint.origin, daemon.id));
            }
            None => lines.plain("docker", "not needed"),
        }
        self.mongodb.iter().for_each(|mongodb| lines.mongodb(mongodb));
        self.redis.iter().for_each(|redis| lines.redis(redis));
        self.rustfs.iter().for_each(|rustfs| lines.rustfs(rustfs));
        lines.0
    }
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, what: &str, value: impl Display, how: impl Display) {
        self.0.push(format!("{what:<10} {value} ({how})"));
    }

    fn plain(&mut self, what: &str, value: impl Display) {
        self.0.push(format!("{what:<10} {value}"));
    }

    fn place(&mut self, what: &str, place: &Place) {
        match place {
            Place::Container(found) => {
                let container = &found.value;
                self.add(what, format!("{}, {}", container.name, container.state), &found.origin);
            }
            Place::Address(found) => self.add(what, without_password(found.value.expose()), &found.origin),
        }
    }

    fn mongodb(&mut self, mongodb: &Mongodb) {
        self.place("mongodb", &mongodb.place);
        self.add("", format!("database {}", mongodb.database.value), &mongodb.database.origin);
        if mongodb.place.container().is_some() {
            self.add("", format!("user {}", mongodb.user.value), &mongodb.user.origin);
        }
        self.secret("password", mongodb.password.as_ref());
    }

    fn redis(&mut self, redis: &Redis) {
        self.place("redis", &redis.place);
        self.secret("password", redis.password.as_ref());
    }

    fn rustfs(&mut self, rustfs: &Rustfs) {
        if let Some(found) = &rustfs.container {
            self.add("rustfs", format!("{}, {}", found.value.name, found.value.state), &found.origin);
        }
        let what = if rustfs.container.is_some() { "" } else { "rustfs" };
        let endpoint = without_password(&rustfs.endpoint.value);
        self.add(what, format!("endpoint {endpoint}, region {}", rustfs.region.value), &rustfs.endpoint.origin);
        self.secret("access key", Some(&rustfs.access_key));
        self.secret("secret key", Some(&rustfs.secret_key));
    }

    fn secret(&mut self, what: &str, found: Option<&Found<Secret>>) {
        if let Some(found) = found {
            self.add("", format!("{what} set"), &found.origin);
        }
    }
}

/// Returns a URI without user, password and options: everything that could be secret in it.
pub(super) fn without_password(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").map_or(("", uri), |(scheme, rest)| (scheme, rest));
    // A password may hold what should have been escaped: the last sign before the hosts counts.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    let rest = rest.split_once('?').map_or(rest, |(hosts, _)| hosts);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}
