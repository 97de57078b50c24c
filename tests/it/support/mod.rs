//! What several tests need: stores in memory, servers.

pub(crate) mod memory_store;
pub(crate) mod minio;
pub(crate) mod s3_fault;
