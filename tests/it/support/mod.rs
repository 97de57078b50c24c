//! What several tests need: repositories, deterministic content, stores in memory, servers.

pub(crate) mod memory_store;
pub(crate) mod minio;
pub mod repository;
pub(crate) mod s3_fault;
