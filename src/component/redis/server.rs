//! Asks a server things, over TCP or through the client program in its container.

use std::collections::BTreeMap;

use super::resp::Connection;
use super::{Access, Error, Place};
use crate::component::docker::{Docker, ExecCommand};
use crate::component::secret::Secret;

/// Client programs, the first that is there is used.
const CLIENTS: [&str; 2] = ["redis-cli", "valkey-cli"];

/// A server that can be asked.
pub(super) struct Server {
    place: String,
    way: Way,
}

enum Way {
    Tcp(Box<Connection>),
    Exec(Client),
}

struct Client {
    docker: Docker,
    container: String,
    argv: Vec<String>,
    password: Option<Secret>,
}

/// The fields of `INFO`, and of `CONFIG GET`.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    place: String,
    rows: BTreeMap<String, String>,
    /// Names of loaded modules.
    pub(super) modules: Vec<String>,
}

impl Server {
    /// Connects, logs in and makes sure that the server answers.
    pub(super) async fn open(access: &Access) -> Result<Self, Error> {
        let place = access.shown();
        match &access.place {
            Place::Address(address) => {
                let mut connection = Box::new(Connection::open(address, access).await?);
                connection.command(&["PING"]).await?;
                Ok(Self { place, way: Way::Tcp(connection) })
            }
            Place::Container { docker, name, port } => {
                let client = Client::find(docker, name, *port, access).await?;
                Ok(Self { place, way: Way::Exec(client) })
            }
        }
    }

    /// Returns where it is, for people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Runs a command and returns its reply, an array line by line. Nothing in `words` may be secret.
    pub(super) async fn text(&mut self, words: &[&str]) -> Result<String, Error> {
        match &mut self.way {
            Way::Tcp(connection) => Ok(connection.command(words).await?.lines()),
            Way::Exec(client) => client.run(&self.place, words).await,
        }
    }

    /// Returns a section of `INFO`.
    pub(super) async fn info(&mut self, section: &str) -> Result<Fields, Error> {
        let text = self.text(&["INFO", section]).await?;
        let mut fields = Fields { place: self.place.clone(), ..Fields::default() };
        for line in text.lines() {
            let Some((name, value)) = line.trim_end().split_once(':') else { continue };
            if name == "module" {
                let name = value.split(',').find_map(|part| part.strip_prefix("name="));
                fields.modules.extend(name.map(str::to_owned));
            } else {
                fields.rows.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(fields)
    }

    /// Returns the settings whose names match a pattern.
    pub(super) async fn config(&mut self, pattern: &str) -> Result<Fields, Error> {
        let text = self.text(&["CONFIG", "GET", pattern]).await?;
        let mut fields = Fields { place: self.place.clone(), ..Fields::default() };
        let mut lines = text.lines();
        while let Some(name) = lines.next() {
            fields.rows.insert(name.to_owned(), lines.next().unwrap_or_default().to_owned());
        }
        Ok(fields)
    }

    /// Returns the server's clock, seconds since 1970.
    pub(super) async fn time_secs(&mut self) -> Result<u64, Error> {
        let text = self.text(&["TIME"]).await?;
        let secs = text.lines().next().and_then(|line| line.trim().parse().ok());
        secs.ok_or_else(|| Error::FieldMissing { place: self.place.clone(), field: "TIME".to_owned() })
    }
}

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.rows.get(name).map(String::as_str)
    }

    pub(super) fn need(&self, name: &str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| Error::FieldMissing { place: self.place.clone(), field: name.to_owned() })
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "yes"))
    }

    /// Returns the keys of every database, of the section `keyspace`.
    pub(super) fn keyspace(&self) -> BTreeMap<u64, u64> {
        let row = |(name, value): (&String, &String)| {
            let number = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.split(',').find_map(|part| part.strip_prefix("keys="))?.parse().ok()?;
            Some((number, keys))
        };
        self.rows.iter().filter_map(row).collect()
    }
}

impl Client {
    async fn find(docker: &Docker, container: &str, port: u16, access: &Access) -> Result<Self, Error> {
        let place = access.shown();
        for program in CLIENTS {
            let mut argv = vec![program.to_owned(), "-p".to_owned(), port.to_string()];
            if let Some(user) = &access.user {
                argv.extend(["--user".to_owned(), user.clone()]);
            }
            // -e: an error reply becomes exit code 1; clients before 7.0 do not know it
            for flag in [Some("-e"), None] {
                let mut argv = argv.clone();
                argv.extend(flag.map(str::to_owned));
                let password = access.password.as_ref().map(Secret::duplicate);
                let client = Self { docker: docker.clone(), container: container.to_owned(), argv, password };
                match client.run(&place, &["PING"]).await {
                    Ok(_) => return Ok(client),
                    Err(Error::Command { reply, .. }) if reply.contains("Unrecognized option") => {}
                    Err(Error::Docker(crate::component::docker::Error::NotStarted { .. })) => break,
                    Err(error) if is_missing_program(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Err(Error::NoClient { container: container.to_owned() })
    }

    async fn run(&self, place: &str, words: &[&str]) -> Result<String, Error> {
        let argv = self.argv.iter().cloned().chain(words.iter().map(|word| (*word).to_owned()));
        let mut command = ExecCommand::new(argv);
        if let Some(password) = &self.password {
            command.env.push(("REDISCLI_AUTH".to_owned(), password.duplicate()));
        }
        let finished = self.docker.run(&self.container, command).await?;
        let stdout = String::from_utf8_lossy(&finished.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&finished.stderr).into_owned();
        let name = words.first().unwrap_or(&"");
        let said = if stderr.trim().is_empty() { &stdout } else { &stderr };
        if finished.exit_code != 0 {
            let reply = if said.trim().is_empty() { format!("exit code {}", finished.exit_code) } else { said.clone() };
            return Err(Error::reply(place, name, &reply));
        }
        // a client without -e exits with 0 whatever the server said
        if stderr.contains("WRONGPASS") {
            return Err(Error::reply(place, name, &stderr));
        }
        const REFUSALS: [&str; 7] = ["ERR ", "NOAUTH ", "NOPERM ", "WRONGPASS ", "LOADING ", "MISCONF ", "(error) "];
        if REFUSALS.iter().any(|refusal| stdout.starts_with(refusal)) {
            return Err(Error::reply(place, name, &stdout));
        }
        Ok(stdout)
    }
}

/// The shell's way to say that a program is not there: exit code 127 and these words.
fn is_missing_program(error: &Error) -> bool {
    matches!(error, Error::Command { reply, .. } if reply.contains("not found") || reply == "exit code 127")
}
