//! Temporary keys from the service that runs a container: asked for over plain HTTP on the host or link, and again
//! before they expire. Only where the configuration says so.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_s3::config::{Credentials, ProvideCredentials};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// Asking and answering.
const TIME_MAX: Duration = Duration::from_secs(5);
/// A longer answer is none.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Where such services are: the container's own host, ECS, EKS. Keys go to nobody else.
const HOSTS: [&str; 4] = ["127.0.0.1", "localhost", "169.254.170.2", "169.254.170.23"];

/// What shows the service who asks.
pub enum ContainerToken {
    /// Nothing.
    None,
    /// A text.
    Fixed(Zeroizing<String>),
    /// What a file holds when it is needed: it changes.
    File(PathBuf),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Keys are not asked for anywhere.
    #[error("container credentials come from {allowed}, not from this address")]
    Address {
        /// Where they may come from.
        allowed: String,
    },
    /// The service cannot be asked.
    #[error("cannot ask {host} for container credentials")]
    Io {
        /// Where it is.
        host: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("{host} has not answered for {} s", TIME_MAX.as_secs())]
    Late {
        /// Where it is.
        host: String,
    },
    /// It answers something else.
    #[error("{host} answers without credentials: {problem}")]
    Answer {
        /// Where it is.
        host: String,
        /// `status 403`, `it has no key`. Never the answer itself.
        problem: String,
    },
}

/// Asks a container's service for keys.
pub(super) struct ContainerProvider {
    /// `169.254.170.2:80`.
    host: String,
    path: String,
    token: ContainerToken,
}

impl fmt::Debug for ContainerProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerProvider").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The answer of a service.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    /// RFC 3339.
    expiration: Option<String>,
}

impl ContainerProvider {
    /// Takes `http://169.254.170.2/v2/credentials/...`. Nothing is sent.
    pub(super) fn new(uri: &str, token: ContainerToken) -> Result<Self, ContainerError> {
        let allowed = || ContainerError::Address { allowed: HOSTS.join(", ") };
        let rest = uri.strip_prefix("http://").ok_or_else(allowed)?;
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = place.split_once(':').unwrap_or((place, "80"));
        let is_clean = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !HOSTS.contains(&host) || port.parse::<u16>().is_err() || !is_clean {
            return Err(allowed());
        }
        Ok(Self { host: format!("{host}:{port}"), path: format!("/{path}"), token })
    }

    async fn ask(&self) -> Result<Credentials, ContainerError> {
        let late = |_| ContainerError::Late { host: self.host.clone() };
        let answer = tokio::time::timeout(TIME_MAX, self.fetch()).await.map_err(late)?;
        let fail = |source| ContainerError::Io { host: self.host.clone(), source };
        let answer = answer.map_err(fail)?;
        self.read(&answer)
    }

    async fn fetch(&self) -> std::io::Result<Zeroizing<Vec<u8>>> {
        let token = match &self.token {
            ContainerToken::None => Zeroizing::new(String::new()),
            ContainerToken::Fixed(token) => token.clone(),
            ContainerToken::File(path) => Zeroizing::new(tokio::fs::read_to_string(path).await?),
        };
        let token = token.trim();
        if token.contains(['\r', '\n']) {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the token has several lines"));
        }
        let shown = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
        // Version 1.0: the answer comes in one piece and ends with the connection.
        let request = Zeroizing::new(format!("GET {} HTTP/1.0\r\nHost: {}\r\n{shown}\r\n", self.path, self.host));
        let mut socket = TcpStream::connect(&self.host).await?;
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Zeroizing::new(Vec::with_capacity(usize::try_from(ANSWER_BYTES_MAX).unwrap_or(0)));
        socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    }

    fn read(&self, answer: &[u8]) -> Result<Credentials, ContainerError> {
        let wrong = |problem: String| ContainerError::Answer { host: self.host.clone(), problem };
        let head_len = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = head_len.and_then(|len| answer.split_at_checked(len + 4)).unwrap_or((answer, &[]));
        let status = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if status != b"200" {
            let status: String = String::from_utf8_lossy(status).chars().take(3).collect();
            return Err(wrong(format!("status {status}")));
        }
        // The parser's own words could repeat the answer.
        let unusable = || wrong("they are not as they should be".to_owned());
        let keys: Answer = serde_json::from_slice(body).map_err(|_| unusable())?;
        let expiry = keys.expiration.map(|text| text.parse::<jiff::Timestamp>()).transpose();
        let expiry = expiry.map_err(|_| unusable())?.map(SystemTime::from);
        // Its own wiping takes the texts over.
        Ok(Credentials::new(keys.access_key_id, keys.secret_access_key, keys.token, expiry, "container"))
    }
}

impl ProvideCredentials for ContainerProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { self.ask().await.map_err(CredentialsError::provider_error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_for_on_the_host_and_the_link_only() {
        for (uri, host, path) in [
            ("http://169.254.170.2/v2/credentials/a-b", "169.254.170.2:80", "/v2/credentials/a-b"),
            ("http://127.0.0.1:8080/x?y=z", "127.0.0.1:8080", "/x?y=z"),
            ("http://localhost", "localhost:80", "/"),
        ] {
            let provider = ContainerProvider::new(uri, ContainerToken::None).unwrap();
            assert_eq!((provider.host.as_str(), provider.path.as_str()), (host, path));
        }
        for uri in [
            "http://10.0.0.1/x",
            "https://127.0.0.1/x",
            "http://127.0.0.1:x/",
            "http://localhost.evil.example/",
            "http://127.0.0.1@evil.example/",
            "http://127.0.0.1/a b",
            "127.0.0.1",
        ] {
            assert!(ContainerProvider::new(uri, ContainerToken::None).is_err(), "{uri}");
        }
    }

    #[test]
    fn an_answer_is_keys_or_an_error_that_does_not_show_it() {
        let provider = ContainerProvider::new("http://localhost", ContainerToken::None).unwrap();
        let json = r#"{"AccessKeyId":"id","SecretAccessKey":"canary","Token":"t","Expiration":"2026-11-22T20:00:00Z"}"#;
        let keys = provider.read(format!("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{json}").as_bytes()).unwrap();
        assert_eq!((keys.access_key_id(), keys.secret_access_key(), keys.session_token()), ("id", "canary", Some("t")));
        assert!(keys.expiry().is_some());
        for answer in [
            "",
            "HTTP/1.1 403 Forbidden\r\n\r\ncanary",
            "HTTP/1.1 200 OK\r\n\r\n{\"AccessKeyId\":\"canary\"}",
            "HTTP/1.1 200 OK\r\n\r\ncanary",
            "canary canary",
        ] {
            let error = provider.read(answer.as_bytes()).unwrap_err();
            let said = error.to_string().replace("status can", "");
            assert!(!said.contains("canary"), "{said}");
        }
    }
}
