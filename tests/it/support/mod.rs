//! What several tests need: repositories, deterministic content, daemons.

pub(crate) mod docker;
pub(crate) mod mock_daemon;
pub mod repository;
pub(crate) mod mongodb;
pub(crate) mod redis;
//! What several tests need: stores in memory, servers.

pub(crate) mod memory_store;
pub(crate) mod minio;
pub(crate) mod s3_fault;
