//! What several tests need: repositories, deterministic content, a daemon, containers, a daemon that misbehaves.

pub mod docker;
pub mod mock_daemon;
pub mod repository;
