//! What several tests need: repositories, deterministic content, stand-ins of components and servers.

pub mod cli;
pub mod docker;
pub mod memory_store;
pub mod minio;
pub mod mock_daemon;
pub mod mongodb;
pub mod night;
pub mod redis;
pub mod repository;
pub mod s3_fault;
mod s3_fault_puts;
pub mod s3_server;
pub mod sources;
