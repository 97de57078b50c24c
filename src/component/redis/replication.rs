//! Reads an RDB file from a server as a replica would: for a server that is only an address.
//!
//! `SYNC` data comes as `$<length>` and the file, or as `$EOF:<mark>`, the file and the mark of 40 bytes,
//! which is never part of the file.

use super::resp::{Connection, Reply};
use super::{Access, Error};

/// Bytes of the mark behind a file of unknown length.
const MARK_LEN: usize = 40;
/// Lines that say that the master is alive, at most, before the data must come.
const LINES_MAX: u32 = 100_000;
/// Bytes handed out at a time.
const RUN_MAX: usize = 1 << 20;

/// A file on its way.
pub(super) struct Synchronisation {
    connection: Connection,
    ending: Ending,
}

enum Ending {
    /// So many bytes are to come.
    Counted(u64),
    /// The mark, and the bytes that may be it.
    Marked { mark: Vec<u8>, held: Vec<u8>, done: bool },
}

impl Synchronisation {
    /// Asks for a full synchronisation.
    pub(super) async fn begin(address: &str, access: &Access) -> Result<Self, Error> {
        let mut connection = Connection::open(address, access).await?;
        connection.command(&["PING"]).await?;
        connection.command(&["REPLCONF", "listening-port", "0"]).await?;
        // older servers do not know it; then commands follow the file, which is closed by then
        if let Reply::Error(text) = connection.ask(&["REPLCONF", "rdb-only", "1"]).await?
            && text.starts_with("NO")
        {
            return Err(Error::reply(&format!("server {address}"), "REPLCONF", &text));
        }
        connection.send(&["PSYNC", "?", "-1"]).await?;
        let answer = next_line(&mut connection).await?;
        if let Some(refusal) = answer.strip_prefix('-') {
            return Err(Error::reply(&format!("server {address}"), "PSYNC", refusal));
        }
        if !answer.starts_with("+FULLRESYNC") {
            return Err(connection.protocol(&answer));
        }
        let header = next_line(&mut connection).await?;
        let ending = match header.strip_prefix("$EOF:") {
            Some(mark) if mark.len() == MARK_LEN => {
                Ending::Marked { mark: mark.as_bytes().to_vec(), held: Vec::new(), done: false }
            }
            None => match header.strip_prefix('$').and_then(|len| len.parse().ok()) {
                Some(len) => Ending::Counted(len),
                None => return Err(connection.protocol(&header)),
            },
            Some(_) => return Err(connection.protocol(&header)),
        };
        Ok(Self { connection, ending })
    }

    /// Returns the next bytes of the file, never empty; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let limit = match &self.ending {
                Ending::Counted(0) | Ending::Marked { done: true, .. } => return Ok(None),
                Ending::Counted(left) => usize::try_from(*left).unwrap_or(RUN_MAX).min(RUN_MAX),
                Ending::Marked { .. } => RUN_MAX,
            };
            let bytes = self.connection.some(limit).await?;
            if bytes.is_empty() {
                return Err(self.connection.ended());
            }
            match &mut self.ending {
                Ending::Counted(left) => {
                    *left -= u64::try_from(bytes.len()).expect("usize fits u64");
                    return Ok(Some(bytes));
                }
                Ending::Marked { mark, held, done } => {
                    held.extend_from_slice(&bytes);
                    *done = held.ends_with(mark);
                    let released = held.len().saturating_sub(MARK_LEN);
                    let out: Vec<u8> = held.drain(..released).collect();
                    if !out.is_empty() {
                        return Ok(Some(out));
                    }
                }
            }
        }
    }
}

async fn next_line(connection: &mut Connection) -> Result<String, Error> {
    for _ in 0..LINES_MAX {
        let line = connection.line().await?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
    Err(connection.protocol("nothing but empty lines"))
}
