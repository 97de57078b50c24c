//! A small client of the Redis protocol (RESP2) over TCP. Every length is bounded before it is believed.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Access, Error};

/// A reply's line at most.
const LINE_MAX: usize = 64 << 10;
/// A reply's string at most.
const BULK_MAX: u64 = 4 << 20;
/// A reply's elements at most.
const ARRAY_MAX: u64 = 4096;
/// Nested arrays at most.
const DEPTH_MAX: usize = 8;
/// Bytes taken from the connection at a time.
const READ_CAPACITY: usize = 1 << 20;
const CONNECT_SECS: u64 = 10;
/// Nothing for so long is an error. A server that waits for a running child sends a newline now and then.
const SILENT_SECS: u64 = 300;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A simple or bulk string, or an integer as its digits.
    Text(Vec<u8>),
    /// The null string or array.
    Nothing,
    /// An error.
    Error(String),
    /// An array.
    Array(Vec<Reply>),
}

/// A connection; `S` is what carries it.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
    place: String,
}

impl Reply {
    /// Returns the texts in it, line by line, as `redis-cli` prints them.
    pub fn lines(&self) -> String {
        match self {
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Nothing => String::new(),
            Self::Error(text) => text.clone(),
            Self::Array(items) => items.iter().map(Self::lines).collect::<Vec<_>>().join("\n"),
        }
    }
}

/// Returns a command as the protocol writes it.
fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

impl Connection {
    /// Connects and logs in. `address` is `host:port`.
    pub async fn open(address: &str, access: &Access) -> Result<Self, Error> {
        let place = format!("server {address}");
        let connected = timeout(Duration::from_secs(CONNECT_SECS), TcpStream::connect(address)).await;
        let stream = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| Error::Connect { place: place.clone(), source })?;
        let mut connection = Self::over(stream, place);
        if let Some(password) = &access.password {
            let words: Vec<&str> = match &access.user {
                Some(user) => vec!["AUTH", user, password.expose()],
                None => vec!["AUTH", password.expose()],
            };
            match connection.ask(&words).await? {
                // a password that the server does not ask for is no reason to fail
                Reply::Error(text) if !text.contains("without any password") => {
                    return Err(Error::Credentials { place: connection.place, reply: text });
                }
                _ => {}
            }
        }
        Ok(connection)
    }

    /// Sends a command and returns its reply, errors included.
    pub async fn ask(&mut self, words: &[&str]) -> Result<Reply, Error> {
        self.send(words).await?;
        self.next_reply().await
    }

    /// Sends a command and returns its reply; an error reply is an error.
    pub async fn command(&mut self, words: &[&str]) -> Result<Reply, Error> {
        match self.ask(words).await? {
            Reply::Error(text) => Err(Error::reply(&self.place, words.first().unwrap_or(&""), &text)),
            reply => Ok(reply),
        }
    }

    /// Sends a command without waiting for its reply.
    pub async fn send(&mut self, words: &[&str]) -> Result<(), Error> {
        let bytes = zeroize::Zeroizing::new(encode(words));
        let sent = self.stream.get_mut().write_all(&bytes).await;
        sent.map_err(|source| Error::Transport { place: self.place.clone(), source })
    }
}

impl<S: AsyncRead + Unpin> Connection<S> {
    /// Returns a connection over something else that carries it. `place` says where the other side is, for people.
    pub fn over(stream: S, place: String) -> Self {
        Self { stream: BufReader::with_capacity(READ_CAPACITY, stream), place }
    }

    /// Reads the next reply, errors included.
    pub async fn next_reply(&mut self) -> Result<Reply, Error> {
        self.reply(0).await
    }

    /// Returns the next line without its end. The `\n` that a master sends to say that it is alive is an empty one.
    pub async fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        loop {
            let available = within(&self.place, self.stream.fill_buf()).await?;
            if available.is_empty() {
                return Err(self.ended());
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let (taken, _) = available.split_at(end.map_or(available.len(), |at| at + 1));
            line.extend_from_slice(taken);
            let used = taken.len();
            self.stream.consume(used);
            if line.len() > LINE_MAX {
                return Err(self.protocol("a line over 64 KiB"));
            }
            if end.is_some() {
                let text = String::from_utf8_lossy(&line);
                return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
            }
        }
    }

    /// Returns between 1 and `limit` bytes as they come; empty at the end of the connection.
    pub async fn some(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let available = within(&self.place, self.stream.fill_buf()).await?;
        let (taken, _) = available.split_at(available.len().min(limit));
        let taken = taken.to_vec();
        self.stream.consume(taken.len());
        Ok(taken)
    }

    /// Returns the error for a connection that ended too early.
    pub fn ended(&self) -> Error {
        Error::Transport { place: self.place.clone(), source: io::ErrorKind::UnexpectedEof.into() }
    }

    /// Returns the error for what the protocol does not allow.
    pub fn protocol(&self, detail: &str) -> Error {
        Error::Protocol { place: self.place.clone(), detail: detail.chars().take(200).collect() }
    }

    async fn reply(&mut self, depth: usize) -> Result<Reply, Error> {
        if depth > DEPTH_MAX {
            return Err(self.protocol("arrays nested too deeply"));
        }
        let line = self.line().await?;
        let mut chars = line.chars();
        let kind = chars.next();
        let rest = chars.as_str();
        match kind {
            Some('+' | ':') => Ok(Reply::Text(rest.as_bytes().to_vec())),
            Some('-') => Ok(Reply::Error(rest.to_owned())),
            Some('$') => self.bulk(rest).await,
            Some('*') => {
                let Some(count) = self.count(rest, ARRAY_MAX)? else { return Ok(Reply::Nothing) };
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(Box::pin(self.reply(depth + 1)).await?);
                }
                Ok(Reply::Array(items))
            }
            _ => Err(self.protocol(&line)),
        }
    }

    async fn bulk(&mut self, len: &str) -> Result<Reply, Error> {
        let Some(len) = self.count(len, BULK_MAX)? else { return Ok(Reply::Nothing) };
        let len = usize::try_from(len).expect("at most BULK_MAX");
        let mut bytes = vec![0; len + 2];
        within(&self.place, self.stream.read_exact(&mut bytes)).await?;
        if !bytes.ends_with(b"\r\n") {
            return Err(self.protocol("a string without its end"));
        }
        bytes.truncate(len);
        Ok(Reply::Text(bytes))
    }

    fn count(&self, text: &str, limit: u64) -> Result<Option<u64>, Error> {
        if text == "-1" {
            return Ok(None);
        }
        match text.parse() {
            Ok(count) if count <= limit => Ok(Some(count)),
            _ => Err(self.protocol(&format!("the length {text}"))),
        }
    }
}

async fn within<T>(place: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, Error> {
    match timeout(Duration::from_secs(SILENT_SECS), work).await {
        Err(_) => Err(Error::Silent { place: place.to_owned(), secs: SILENT_SECS }),
        Ok(Err(source)) => Err(Error::Transport { place: place.to_owned(), source }),
        Ok(Ok(value)) => Ok(value),
    }
}
