//! Where a server is and who we are to it, as arguments that anyone may see and a config that nobody may.

use zeroize::Zeroizing;

use super::Error;
use crate::component::secret::Secret;

/// A server and how to log in to it.
#[derive(Default)]
pub struct Server {
    /// Where it listens, seen from where the tools run.
    pub address: Address,
    /// `None` where it wants no login, or the URI has it.
    pub login: Option<Login>,
    /// Seconds to look for it; `None` leaves it to the tools (30 s).
    pub selection_timeout_secs: Option<u32>,
}

/// Where a server listens.
#[derive(Default)]
pub enum Address {
    /// `localhost:27017`: the tools' own default, right inside the server's container.
    #[default]
    Local,
    /// A name or address, and a port.
    Host {
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `mongodb://…`: secret as a whole, since it may hold a password.
    Uri(Secret),
}

/// A user and the database that knows it.
pub struct Login {
    /// Its name: not a secret, it appears among the arguments.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// The database that knows the user, mostly `admin`.
    pub auth_database: String,
}

impl Server {
    /// Returns the arguments that say where the server is and who we are. No secret is among them.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Address::Host { host, port } = &self.address {
            arguments.push(format!("--host={host}"));
            arguments.push(format!("--port={port}"));
        }
        if let Some(login) = &self.login {
            arguments.push(format!("--username={}", login.username));
            arguments.push(format!("--authenticationDatabase={}", login.auth_database));
        }
        if let Some(secs) = self.selection_timeout_secs {
            arguments.push(format!("--serverSelectionTimeout={secs}"));
        }
        arguments
    }

    /// Returns the tools' config file with everything secret: one line of YAML, so that a shell's `read`
    /// takes exactly it. `None` where nothing is secret.
    pub(super) fn config(&self) -> Option<Secret> {
        let mut fields = Vec::new();
        if let Address::Uri(uri) = &self.address {
            fields.push(("uri", without_database(uri)));
        }
        if let Some(login) = &self.login {
            fields.push(("password", Zeroizing::new(login.password.expose().to_owned())));
        }
        if fields.is_empty() {
            return None;
        }
        // Reserved for the longest escape of every character, so that no copy is left behind by growing.
        let len: usize = fields.iter().map(|(_, value)| value.len() * 10 + 32).sum();
        let mut line = Zeroizing::new(String::with_capacity(len));
        let [open, close] = if fields.len() > 1 { ["{", "}"] } else { ["", ""] };
        let mut separator = open;
        for (name, value) in &fields {
            for part in [separator, name, ": "] {
                line.push_str(part);
            }
            push_quoted(&mut line, value);
            separator = ", ";
        }
        line.push_str(close);
        Some(Secret::new(line.as_str()))
    }

    /// Returns what a tool printed, without the password and without the user part of any address.
    pub(super) fn redacted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(login) = &self.login
            && !login.password.is_empty()
        {
            text = text.replace(login.password.expose(), "***");
        }
        without_user_parts(&text)
    }
}

/// The tools refuse a URI whose path names another database than `--db`, and mongorestore takes the path
/// for a filter: so it goes, and stays only as the database that knows the user, which it also means.
fn without_database(uri: &Secret) -> Zeroizing<String> {
    let uri = uri.expose();
    let authority_start = uri.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = uri.split_at_checked(authority_start).unwrap_or(("", uri));
    let (authority, tail) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
        None => (rest, ""),
    };
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let database = path.trim_start_matches('/');
    let names_auth_source = query
        .split('&')
        .any(|option| option.split('=').next().is_some_and(|name| name.eq_ignore_ascii_case("authSource")));
    let mut kept = Zeroizing::new(String::with_capacity(uri.len() + 16));
    for part in [scheme, authority, "/"] {
        kept.push_str(part);
    }
    let mut separator = "?";
    if !query.is_empty() {
        kept.push_str(separator);
        kept.push_str(query);
        separator = "&";
    }
    if !database.is_empty() && !names_auth_source && authority.contains('@') {
        for part in [separator, "authSource=", database] {
            kept.push_str(part);
        }
    }
    kept
}

/// Appends a YAML double-quoted scalar.
fn push_quoted(line: &mut String, value: &str) {
    line.push('"');
    for char in value.chars() {
        match char {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            char if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Escapes of fixed width, without an allocation that would have to be wiped.
                line.push_str("\\U");
                for shift in (0..8).rev() {
                    let digit = (u32::from(char) >> (shift * 4)) & 0xf;
                    line.push(char::from_digit(digit, 16).expect("four bits are one digit"));
                }
            }
            char => line.push(char),
        }
    }
    line.push('"');
}

/// Replaces what stands between `://` and `@` in every address in `text`.
fn without_user_parts(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        kept.push_str(before);
        kept.push_str("://");
        // A password may hold anything that is not white space; the last @ before the host ends it.
        let address_len = after.find(char::is_whitespace).unwrap_or(after.len());
        let (address, beyond) = after.split_at_checked(address_len).unwrap_or((after, ""));
        match address.rsplit_once('@') {
            Some((_, host)) => {
                kept.push_str("***@");
                kept.push_str(host);
            }
            None => kept.push_str(address),
        }
        rest = beyond;
    }
    kept.push_str(rest);
    kept
}

/// Returns `name` where a database may have it: it becomes part of a pattern that mongorestore interprets.
pub(super) fn database_name(name: &str) -> Result<&str, Error> {
    let is_wrong = |char: char| char.is_control() || " /\\.\"$*<>:|?".contains(char);
    if name.is_empty() || name.len() > 63 || name.contains(is_wrong) {
        return Err(Error::DatabaseName { name: name.to_owned() });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> String {
        without_database(&Secret::new(text)).to_string()
    }

    #[test]
    fn the_config_is_one_line_of_yaml_whatever_the_password() {
        let login = Login {
            username: "admin".to_owned(),
            password: Secret::new("a\"b\\c\nd $e 'f' #é\u{2028}"),
            auth_database: "admin".to_owned(),
        };
        let server = Server { login: Some(login), ..Server::default() };
        let config = server.config().unwrap();
        assert_eq!(config.expose(), r#"password: "a\"b\\c\U0000000ad $e 'f' #é\U00002028""#);
        assert_eq!(server.arguments(), ["--username=admin", "--authenticationDatabase=admin"]);
        assert!(Server::default().config().is_none());
        let server = Server { address: Address::Uri(Secret::new("mongodb://h")), ..server };
        assert!(server.config().unwrap().expose().starts_with(r#"{uri: "mongodb://h/", password: "a"#));
    }

    #[test]
    fn the_database_of_a_uri_stays_only_as_the_one_that_knows_the_user() {
        assert_eq!(uri("mongodb://h:1"), "mongodb://h:1/");
        assert_eq!(uri("mongodb://h:1/shop"), "mongodb://h:1/");
        assert_eq!(uri("mongodb://u:p@h,i/shop?w=1"), "mongodb://u:p@h,i/?w=1&authSource=shop");
        assert_eq!(uri("mongodb://u:p@h/shop"), "mongodb://u:p@h/?authSource=shop");
        assert_eq!(uri("mongodb://u:p@h/shop?authsource=admin"), "mongodb://u:p@h/?authsource=admin");
        assert_eq!(uri("mongodb+srv://h?tls=true"), "mongodb+srv://h/?tls=true");
    }

    #[test]
    fn what_the_tools_print_loses_passwords() {
        let login =
            Login { username: "u".to_owned(), password: Secret::new("pass"), auth_database: "admin".to_owned() };
        let server = Server { login: Some(login), ..Server::default() };
        let said = "failed to connect to mongodb://u:se@kret@127.0.0.1:1/?a=b: error mongodb://h/, the pass";
        let kept = "failed to connect to mongodb://***@127.0.0.1:1/?a=b: error mongodb://h/, the ***";
        assert_eq!(server.redacted(said), kept);
    }

    #[test]
    fn names_that_no_database_has_are_refused() {
        assert!(database_name("orkestra-2_x").is_ok());
        for name in ["", "a.b", "a*", "a b", "a$", "a/b", "a\\b", "a\nb"] {
            assert!(database_name(name).is_err(), "{name:?}");
        }
    }
}
