//! What several tests need: repositories, deterministic content, components of nothing but memory.

pub mod night;
pub mod repository;
pub mod sources;
