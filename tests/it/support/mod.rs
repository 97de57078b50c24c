//! What several tests need: repositories, deterministic content, components of nothing but memory, a daemon,
//! containers, a daemon that misbehaves.

pub mod docker;
pub mod mock_daemon;
pub mod night;
pub mod repository;
pub mod sources;
