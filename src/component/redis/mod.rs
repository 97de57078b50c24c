//! Redis and Valkey.
mod crc64;
pub mod rdb;
mod rdb_layout;
/// What failed
#[derive(Debug, thiserror::Error)]
pub enum Error {}
impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> super::ErrorKind {
        super::ErrorKind::Failed
    }
}
