//! What several behaviours need: a daemon, a container, a daemon that misbehaves, repositories.

pub(crate) mod docker;
pub(crate) mod mock_daemon;
pub(crate) mod redis;
pub mod repository;
