//! What several tests need: repositories, deterministic content, stand-ins of components and servers.

pub mod docker;
pub mod mock_daemon;
pub mod night;
pub mod repository;
pub mod sources;
