//! What several tests need: repositories, deterministic content, daemons.

pub(crate) mod docker;
pub(crate) mod mock_daemon;
pub mod repository;
pub(crate) mod mongodb;
pub(crate) mod redis;
