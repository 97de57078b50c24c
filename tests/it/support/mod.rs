//! What several tests need: stores in memory, servers.

pub mod memory_store;
pub mod minio;
pub mod s3_fault;
