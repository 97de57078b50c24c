//! What several tests need: repositories, deterministic content.

pub mod repository;
