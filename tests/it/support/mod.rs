//! What several behaviours need: a daemon, a container, a daemon that misbehaves, repositories, archives.

pub(crate) mod docker;
pub(crate) mod mock_daemon;
pub(crate) mod mongodb;
pub mod repository;
