//! What several tests need: repositories, stores in memory, servers, daemons.

pub(crate) mod docker;
pub(crate) mod memory_store;
pub(crate) mod minio;
pub(crate) mod mock_daemon;
pub(crate) mod mongodb;
pub(crate) mod redis;
pub(crate) mod repository;
pub(crate) mod s3_fault;
